"""A calibration as a user gives it: itself, or the name of its file."""

import os
from typing import TypeAlias

from .calibration import Calibration

__all__ = ["GivenCalibration", "opened_calibration"]

GivenCalibration: TypeAlias = Calibration | str | os.PathLike[str]


def opened_calibration(given: GivenCalibration, argument: str = "calibration") -> Calibration:
    """The calibration, loaded if the name of its file is given.

    Raises TypeError, which names the argument, for anything else, and what `Calibration.load` raises.
    """
    if isinstance(given, Calibration):
        return given
    if isinstance(given, str | os.PathLike):
        return Calibration.load(given)
    raise TypeError(
        f"{argument}: expected a Calibration or the name of its file, got {type(given).__name__}; "
        "make one with calibrate or Calibration.load"
    )
