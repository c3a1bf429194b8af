"""The registry of statistics: the numbers of a frame that may raise an alarm, and how each is computed.

A statistic is one entry of `STATISTICS` and one field of `Check`. A check, the null distributions of a calibration and
the power of its levels compute it by that entry, from the same record of a frame's numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md.environments import PairDistances, bare, largest_cluster

from .levels import Side, Size

__all__ = ["BASELINE_STATISTICS", "STATISTICS", "FrameNumbers", "Statistic", "check_statistics"]


@dataclass(frozen=True, slots=True, eq=False)
class FrameNumbers:
    """What the statistics of one frame are computed from: the numbers of its n environments, in the order of atoms."""

    atoms: Atoms
    """The n atoms that are centers of environments."""
    dh: NDArray[np.float64]
    """(n,) dH in nats; inf: nothing to compare with; NaN ("proven" mode): only known to be below the level."""
    ranked: NDArray[np.bool_]
    """(n,) environments among which the largest dH is looked for; in "proven" mode those above their level."""
    averaged: NDArray[np.float64]
    """(m,) finite dH in nats that averages are taken of: all of the frame, or in "proven" mode those of the sample."""
    averaged_at: NDArray[np.int64]
    """(m,) places of these environments in the frame."""
    entropy: float
    """Self-entropy in nats of all rows of the frame, or in "proven" mode of those of the sample."""
    pair_distances: PairDistances = field(repr=False)
    """(smallest, median) nearest-neighbour distance in Å of the reference per pair of atomic numbers (a <= b)."""
    excess: NDArray[np.float64]
    """(n,) dH minus the level of the environment in nats, or a bound of that where dH is NaN. NaN: no levels yet."""
    tail: NDArray[np.bool_] | None = None
    """(n,) environments above the atom level; None: not looked for."""

    def of_element(self, number: int) -> "FrameNumbers":
        """The numbers of the environments of one atomic number; the entropy stays that of the frame."""
        here = np.asarray(self.atoms.numbers) == number
        kept = here[self.averaged_at]
        return replace(
            self,
            atoms=bare(self.atoms, here),
            dh=self.dh[here],
            ranked=self.ranked[here],
            averaged=self.averaged[kept],
            averaged_at=(np.cumsum(here) - 1)[self.averaged_at[kept]],
            excess=self.excess[here],
            tail=None if self.tail is None else self.tail[here],
        )


Value = TypeVar("Value", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number of a frame that may raise an alarm."""

    name: str
    """Its name, that of the field of `Check`."""
    text: str
    """What it is, in a few words."""
    unit: Literal["nats", "atoms"]
    """Its unit. Beyond a level of atoms the log of the ratio counts, beyond one of nats the difference."""
    size: Size
    """Which groups of frames speak for a frame of N atoms, see `level_of`."""
    of: Callable[[FrameNumbers], float | None] = field(repr=False)
    """How it is computed; None: the frame has no such number."""
    over: Literal["all", "sample", "tail"] = "all"
    """Environments that it is made of. "sample": all, but in "proven" mode those of the fixed sample, so that each mode
    has null scores of its own. "tail": those above the atom level; groups that set the atom level give no score."""
    sides: tuple[Side, ...] = ("above",)
    """On which sides of a level a frame may be out."""
    by_element: bool = False
    """Whether each element has a level of its own, where the reference compares like with like."""
    beyond: Callable[[FrameNumbers], float] | None = field(default=None, repr=False)
    """How far the frame is beyond the levels of its environments; default: how far the number is beyond its own."""
    is_share: bool = False
    """Whether its scores and levels are shares of the atoms of a frame."""
    needs_reference: bool = True
    """Whether it is a comparison with the reference. Then frames of a group that is left out say nothing of how low the
    statistic may be."""
    has_baseline: bool = False
    """Whether the first stretch of a run can judge it: an average over a frame is nearly normal."""

    def in_frame(self, value: Value, n_atoms: float) -> Value:
        """Scores or levels of this statistic in its unit, for a frame of so many atoms."""
        return value * n_atoms if self.is_share else value


def _largest(frame: FrameNumbers) -> float | None:
    return float(frame.dh[frame.ranked].max()) if frame.ranked.any() else None


def _largest_excess(frame: FrameNumbers) -> float:
    return float(frame.excess.max())


def _mean(frame: FrameNumbers) -> float | None:
    return float(frame.averaged.mean()) if len(frame.averaged) else None


def _quantile(frame: FrameNumbers) -> float | None:
    return float(np.quantile(frame.averaged, 0.99)) if len(frame.averaged) else None


def _n_tail(frame: FrameNumbers) -> int | None:
    return None if frame.tail is None else int(frame.tail.sum())


def _tail_cluster(frame: FrameNumbers) -> int | None:
    return None if frame.tail is None else largest_cluster(frame.atoms, frame.tail, frame.pair_distances)


def _entropy(frame: FrameNumbers) -> float:
    return frame.entropy


_BOTH: tuple[Side, ...] = ("above", "below")

#: All of them, by the name of their field in `Check`.
STATISTICS = {
    s.name: s
    for s in (
        Statistic("dh_max", "largest dH", "nats", "extreme", _largest, by_element=True, beyond=_largest_excess),
        Statistic("dh_q99", "99 % quantile of dH", "nats", "quantile", _quantile, "sample", has_baseline=True),
        Statistic("dh_mean", "mean dH", "nats", "mean", _mean, "sample", _BOTH, has_baseline=True),
        Statistic("n_tail", "atoms above the atom level", "atoms", "mean", _n_tail, "tail", is_share=True),
        Statistic("tail_cluster", "largest cluster of them", "atoms", "extreme", _tail_cluster, "tail"),
        Statistic(
            *("frame_entropy", "self-entropy of the frame", "nats", "same", _entropy, "sample", _BOTH),
            needs_reference=False,
            has_baseline=True,
        ),
    )
}

#: Statistics that the run's own beginning can judge.
BASELINE_STATISTICS = tuple(sorted(name for name, statistic in STATISTICS.items() if statistic.has_baseline))


def check_statistics(names: object) -> tuple[str, ...]:
    """The names as a tuple, each of them once.

    Raises
    ------
    ValueError, TypeError
        If there is none, or one that does not exist.
    """
    if isinstance(names, str) or not isinstance(names, list | tuple | set | frozenset):
        raise TypeError(f"statistics: expected a tuple of names such as ('dh_max', 'dh_mean'), got {names!r}")
    chosen = tuple(dict.fromkeys(names))
    unknown = [name for name in chosen if name not in STATISTICS]
    if unknown or not chosen:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"statistics: expected names among {', '.join(STATISTICS)}, got {got}")
    return chosen
