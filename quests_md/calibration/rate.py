"""The rate of false alarms: what it counts, and how many looks share it."""

import math
from dataclasses import dataclass
from typing import Literal

from quests_md._arguments import check_choice, check_share

__all__ = ["BlockTimes", "Per", "check_checks", "check_per", "check_rate", "n_looks"]

#: What the rate counts: checks, nanoseconds or runs with a false alarm.
Per = Literal["check", "ns", "run"]
PERS: tuple[Per, ...] = ("check", "ns", "run")

PS_PER_NS = 1000.0


@dataclass(frozen=True, slots=True)
class BlockTimes:
    """How simulated time is divided among the frames of a calibration; None where their times are not known."""

    block_ps: float | None = None
    """Time that a group covers, ps."""
    spacing_ps: float | None = None
    """Time between its frames, ps."""


def n_looks(per: Per, checks: int, check_ps: float | None, times: BlockTimes) -> int:
    """Looks that share the rate of so many checks, `check_ps` ps apart: checks, or blocks of correlated ones if fewer.

    A block of calibration frames was scored by its most extreme frame, so checks at its spacing within its time are
    one look; denser checks are as many interleaved series of them.
    """
    if per == "check":
        return 1
    total_ps = PS_PER_NS if per == "ns" else None if check_ps is None else checks * check_ps
    if not total_ps or not times.block_ps or not times.spacing_ps:
        return int(checks)
    interleaved = math.ceil(times.spacing_ps * checks / total_ps - 1e-9)
    return int(min(checks, math.ceil(total_ps / times.block_ps) * max(1, interleaved)))


def check_rate(rate: float) -> float:
    """The rate as a float; ValueError unless it is between 0 and 1."""
    return check_share("false_alarms", rate, "rate between 0 and 1")


def check_per(per: str) -> Per:
    """What the rate counts; ValueError if there is no such thing."""
    return check_choice("per", per, PERS)


def check_checks(checks: int | None) -> None:
    """ValueError unless it is a positive number or None."""
    if checks is not None and (isinstance(checks, bool) or not checks >= 1):
        raise ValueError(f"checks: expected a positive integer, got {checks!r}")
