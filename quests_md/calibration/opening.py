"""A calibration as a user gives it: itself, or the name of its file."""

import os
from typing import TypeAlias

from quests_md._arguments import opened
from quests_md.reference import levels_are_opened_by

from .calibration import Calibration

__all__ = ["GivenCalibration", "opened_calibration"]

GivenCalibration: TypeAlias = Calibration | str | os.PathLike[str]


def opened_calibration(given: GivenCalibration, argument: str = "calibration") -> Calibration:
    """The calibration, loaded if the name of its file is given.

    Raises TypeError, which names the argument, for anything else, and what `Calibration.load` raises.
    """
    return opened(argument, given, Calibration, Calibration.load, "; make one with calibrate or Calibration.load")


levels_are_opened_by(opened_calibration)
