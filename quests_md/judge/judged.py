"""What a judge hands on: a check with what went into it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quests_md.records import Check

__all__ = ["Judged", "Verdict", "verdict"]


@dataclass(frozen=True, slots=True)
class Judged:
    """A check with what went into it."""

    check: Check
    rows: NDArray[np.float64] | None
    """(n_atoms, width) descriptor rows; None for an invalid frame."""
    reason: str = ""
    """Why the frame is invalid."""
    tail: NDArray[np.bool_] | None = None
    """(n_atoms,) atoms above the atom level; None where no statistic in use counts them."""
    offenders: tuple[int, ...] = ()
    """Atoms that make the frame an explosion, the worst first."""
    product: NDArray[np.bool_] | None = None
    """(n_atoms,) atoms that look like the new phase with the largest cluster; None without labelled phases."""
    product_phase: str | None = None
    """Name of that new phase."""
    unanswered: str = ""
    """Why the second reference could not answer; the alarms of the first then stand."""

    def with_excesses(self, changed: Mapping[str, float | None]) -> "Judged":
        """The same check with other excesses of some statistics; None: the statistic is not in use."""
        merged = {name: value for name, value in {**self.check.excesses, **changed}.items() if value is not None}
        return replace(self, check=replace(self.check, **verdict(merged)._asdict()))


class Verdict(NamedTuple):
    """The fields of a check that follow from the excesses of its statistics."""

    alarms: tuple[str, ...]
    excesses: Mapping[str, float]
    trigger_excess: float
    state: Literal["in", "out"]


def verdict(excesses: Mapping[str, float]) -> Verdict:
    """Out exactly if the excess of a statistic is above 0."""
    alarms = tuple(name for name, value in excesses.items() if value > 0)
    worst = max(excesses.values(), default=-math.inf)
    return Verdict(alarms, dict(excesses), worst, "out" if alarms else "in")
