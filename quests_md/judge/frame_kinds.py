"""What a judge knows of a frame by its elements alone: found for the first frame, and kept for all that are like it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quests_md.calibration import Calibration, Level, kind_of
from quests_md.reference import Reference

__all__ = ["FrameKind", "KindsSeen"]


@dataclass(frozen=True, slots=True, eq=False)
class FrameKind:
    """What follows for a frame from the atomic numbers of its atoms."""

    centers: NDArray[np.int64]
    """(n,) the atoms that are centers of environments."""
    is_all: bool
    """Whether all atoms are."""
    numbers: NDArray[np.int64]
    """(n,) their atomic numbers."""
    known: NDArray[np.bool_]
    """(n,) whether the reference has the element."""
    n_unknown: int
    """How many of them are of an element that the reference has never seen."""
    levels: tuple[Level, ...]
    """The levels for such a frame."""
    dh_levels: NDArray[np.float64]
    """(n,) level of dH of each, nats."""
    atom_levels: NDArray[np.float64]
    """(n,) dH in nats above which `n_tail` counts."""
    unpromised: str
    """Why the levels promise no rate of false alarms for such a frame; empty: they promise one."""
    nearest_allowed: float
    """Å: no pair of atoms is too near if none is nearer than this."""


@dataclass(slots=True)
class KindsSeen:
    """The kind of the last frame, which the next one most likely is of as well."""

    _last: tuple[tuple[object, ...], NDArray[np.int64], FrameKind] | None = field(default=None, repr=False)

    def of(
        self,
        numbers: NDArray[np.int64],
        key: tuple[object, ...],
        reference: Reference,
        calibration: Calibration,
        levels: Callable[[NDArray[np.int64]], tuple[Level, ...]],
        nearest_allowed: Callable[[NDArray[np.int64]], float],
    ) -> FrameKind:
        """The kind of a frame of these atomic numbers (n_atoms,).

        `key`: all else that the levels depend on. `levels` and `nearest_allowed` are asked about the numbers of the
        centers and of all atoms, once for each kind.
        """
        last = self._last  # another thread may put another one in its place
        if last is not None and last[0] == key and np.array_equal(last[1], numbers):
            return last[2]
        is_center = reference.is_center(numbers)
        centers = np.flatnonzero(is_center)
        own = np.array(numbers[centers], dtype=np.int64)
        found = levels(own) if len(own) else ()
        known = reference.is_known(own)
        kind = FrameKind(
            centers=centers,
            is_all=len(centers) == len(numbers),
            numbers=own,
            known=known,
            n_unknown=int((~known).sum()),
            levels=found,
            dh_levels=calibration.dh_levels(found, own),
            atom_levels=calibration.atom_level(own),
            unpromised=_unpromised(calibration, found, own),
            nearest_allowed=nearest_allowed(numbers),
        )
        self._last = key, np.array(numbers), kind
        return kind


def _unpromised(calibration: Calibration, levels: tuple[Level, ...], numbers: NDArray[np.int64]) -> str:
    """Why levels promise no rate of false alarms for a frame of these centers; empty: they promise one."""
    if kind_of([level for level in levels if level.statistic in calibration.statistics]) != "none":
        return ""
    why = calibration.why_unpromised(numbers)
    return f"these levels are of kind none, {why or 'from too few groups of frames like this'}"
