"""A second opinion: the judge of another reference is asked about frames with alarms by the first."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .judged import Judged

__all__ = ["Opinion", "called_off", "opinion_of"]


class Opinion(NamedTuple):
    """What the second judge says of a frame."""

    excess: float | None = None
    """Its trigger excess; inf: the frame has exploded; None: it was not asked, or could not answer."""
    unanswered: str = ""
    """Why it could not answer."""


def opinion_of(judge: Callable[[], Judged]) -> Opinion:
    """Ask the second judge about a frame: `judge` has it judge that frame. If anything fails, there is no answer."""
    try:
        judged = judge()
    except Exception as exc:  # a calculator may raise anything, and the frame is worth an alarm as it is
        return Opinion(unanswered=f"{type(exc).__name__}: {exc}")
    check = judged.check
    if check.state == "invalid":
        return Opinion(unanswered=judged.reason)
    if check.explosion:
        return Opinion(math.inf)
    if check.trigger_excess == -math.inf:
        return Opinion(unanswered=f"none of its statistics has a level for a frame of {check.n_atoms} atoms")
    return Opinion(check.trigger_excess)


def called_off(excesses: Mapping[str, float], opinion: Opinion) -> dict[str, float]:
    """The excesses after the second opinion: if it is no alarm, none counts as larger than it."""
    if opinion.excess is None or opinion.excess > 0:
        return dict(excesses)
    return {name: min(value, opinion.excess) for name, value in excesses.items()}
