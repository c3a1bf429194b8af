"""The registry of statistics: the numbers of a frame that may raise an alarm, and how each is computed."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from quests_md._threads import available_threads
from quests_md.engine import build_index, entropy
from quests_md.environments import PairDistances, bare, hashed, largest_cluster
from quests_md.errors import MismatchError
from quests_md.reference import Reference

from .levels import Level, Side, Size, as_released, count_excess

__all__ = [
    "BASELINE_STATISTICS",
    "SAMPLE_ATOMS",
    "SEED",
    "SKETCH_ROWS",
    "STATISTICS",
    "FrameNumbers",
    "Scale",
    "Statistic",
    "check_statistics",
    "frame_entropy",
    "require_rows",
    "sample",
]

#: In "proven" mode: atoms of a frame whose dH makes the averages, and rows of the reference that these atoms are
#: compared with.
SAMPLE_ATOMS = 512
SKETCH_ROWS = 16_384

#: Seed of the sample and of the sketch.
SEED = 0

#: Atoms of a frame up to which a float64 sum over pairs takes less time than a search structure.
LARGE = 2000


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
    """(n,) dH in nats that averages are taken of: what is finite, or in "proven" mode of the sample; elsewhere NaN."""
    entropy: float
    """Self-entropy in nats of all rows of the frame, or in "proven" mode of those of the sample; NaN: not asked for."""
    pair_distances: PairDistances = field(repr=False)
    """(smallest, median) nearest-neighbour distance in Å of the reference per pair of atomic numbers (a <= b)."""
    excess: NDArray[np.float64]
    """(n,) dH minus the level of the environment in nats, or a bound of that where dH is NaN. NaN: no levels yet."""
    tail: NDArray[np.bool_] | None = None
    """(n,) environments above the atom level; None: not looked for."""
    local: NDArray[np.float64] | None = None
    """(n,) local scores, see `LocalScorer`; NaN: nothing to compare with; None: not looked at."""
    local_tail: NDArray[np.bool_] | None = None
    """(n,) environments above the level of local scores that 1 % exceed; None: not looked for."""

    def of_element(self, number: int) -> "FrameNumbers":
        """The numbers of the environments of one atomic number; the entropy stays that of the frame."""
        here = np.asarray(self.atoms.numbers) == number
        return replace(
            self,
            atoms=bare(self.atoms, here),
            dh=self.dh[here],
            ranked=self.ranked[here],
            averaged=self.averaged[here],
            excess=self.excess[here],
            tail=None if self.tail is None else self.tail[here],
            local=None if self.local is None else self.local[here],
            local_tail=None if self.local_tail is None else self.local_tail[here],
        )

    def average(self, of: Callable[[NDArray[np.float64]], np.floating[Any]]) -> float | None:
        """A number of the dH that averages are taken of; None: there are none."""
        values = self.averaged[~np.isnan(self.averaged)]
        return float(of(values)) if len(values) else None


#: Rows that a statistic is made of.
Scale = Literal["plain", "averaged"]

Value = TypeVar("Value", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number of a frame that may raise an alarm: one entry of `STATISTICS`.

    Checks, the null distributions of a calibration and the power of its levels compute the number by this entry.
    """

    name: str
    """Its name, in `Check.further` or of a field of `Check`."""
    text: str
    """What it is, in a few words."""
    unit: Literal["nats", "deviations", "atoms"]
    """Its unit. Beyond a level of atoms the log of the ratio counts, beyond any other the difference."""
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
    scale: Scale = "plain"
    """Rows that it is made of: those of single environments, or those averaged over the neighbourhood."""
    has_baseline: bool = False
    """Whether the first stretch of a run can judge it: an average over a frame is nearly normal."""

    def in_frame(self, value: Value, n_atoms: float) -> Value:
        """Scores or levels of this statistic in its unit, for a frame of so many atoms."""
        return value * n_atoms if self.is_share else value

    def in_words(self, value: float, n_atoms: float) -> str:
        """A level in its unit for a frame of so many atoms: a count, which is beyond 8.2 as it is beyond 8, as 8."""
        here = self.in_frame(value, n_atoms)
        return f"{np.floor(round(here, 9)):.0f}" if self.unit == "atoms" else f"{here:.2f}"

    def excess(self, frame: FrameNumbers, value: float | None, levels: Iterable[Level], release: float) -> float:
        """How far this statistic of a frame is beyond its levels, the largest over them; above 0 the frame is out.

        In nats, for counts the log of the ratio; -inf without a value or a level. Statistics other than the largest dH
        may lie less than `release` nats below their level in distribution, so that an event by them would never end:
        below the level they count as released from half of the way to their median on.
        """
        if self.beyond is not None:
            return self.beyond(frame)
        worst = -math.inf
        for level in levels:
            if level.statistic != self.name:
                continue
            here = value if level.element is None else self.of(frame.of_element(atomic_numbers[level.element]))
            if here is None:
                continue
            if self.unit == "atoms":
                excess = count_excess(here, level, release, len(frame.dh) if self.is_share else 1)
            else:
                sign = 1.0 if level.side == "above" else -1.0
                beyond, gap = sign * (here - level.value), sign * (level.value - level.middle)
                excess = as_released(beyond, gap, release)  # entropies may all be log N: no way to the median
            worst = max(worst, excess)
        return worst


def _largest(frame: FrameNumbers) -> float | None:
    return float(frame.dh[frame.ranked].max()) if frame.ranked.any() else None


def _largest_excess(frame: FrameNumbers) -> float:
    return float(frame.excess.max())


def _mean(frame: FrameNumbers) -> float | None:
    return frame.average(np.mean)


def _quantile(frame: FrameNumbers) -> float | None:
    return frame.average(lambda dh: np.quantile(dh, 0.99))


def _n_tail(frame: FrameNumbers) -> int | None:
    return None if frame.tail is None else int(frame.tail.sum())


def _tail_cluster(frame: FrameNumbers) -> int | None:
    return None if frame.tail is None else largest_cluster(frame.atoms, frame.tail, frame.pair_distances)


def _entropy(frame: FrameNumbers) -> float | None:
    return None if math.isnan(frame.entropy) else frame.entropy


def _local(frame: FrameNumbers, of: Callable[[NDArray[np.float64]], np.floating[Any]]) -> float | None:
    known = np.empty(0) if frame.local is None else frame.local[~np.isnan(frame.local)]
    return float(of(known)) if len(known) else None


def _local_max(frame: FrameNumbers) -> float | None:
    return _local(frame, np.max)


def _local_mean(frame: FrameNumbers) -> float | None:
    return _local(frame, np.mean)


def _local_n_tail(frame: FrameNumbers) -> int | None:
    return None if frame.local_tail is None else int(frame.local_tail.sum())


def _local_cluster(frame: FrameNumbers) -> int | None:
    return None if frame.local_tail is None else largest_cluster(frame.atoms, frame.local_tail, frame.pair_distances)


_BOTH: tuple[Side, ...] = ("above", "below")

#: All statistics by name.
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
        Statistic(
            "local_mean", "mean local score", "deviations", "mean", _local_mean, scale="averaged", has_baseline=True
        ),
        Statistic("local_max", "largest local score", "deviations", "extreme", _local_max, scale="averaged"),
        Statistic(
            *("local_tail", "atoms above the local level", "atoms", "mean", _local_n_tail, "tail"),
            scale="averaged",
            is_share=True,
            has_baseline=True,
        ),
        Statistic(
            *("local_cluster", "largest cluster of them", "atoms", "extreme", _local_cluster, "tail"), scale="averaged"
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


def require_rows(reference: Reference, names: Iterable[str]) -> None:
    """MismatchError if one of the statistics is of averaged rows, and the reference has none."""
    lacking = [name for name in names if STATISTICS[name].scale == "averaged"]
    if lacking and not reference.has_averaged_rows:
        raise MismatchError(
            f"statistics: {lacking[0]} needs averaged rows, which the reference lacks: it is of an older file or of a "
            "descriptor of one's own; build it again from its frames, or choose statistics of plain rows"
        )


def sample(identities: NDArray[np.uint64], seed: int) -> NDArray[np.int64]:
    """Places of the 512 atoms whose hashed identities are smallest, ascending; of smaller frames all places."""
    if len(identities) <= SAMPLE_ATOMS:
        return np.arange(len(identities))
    chosen = np.argsort(hashed(identities, seed), kind="stable")[:SAMPLE_ATOMS]
    return np.sort(chosen)


def frame_entropy(rows: NDArray[np.float64], bandwidth: float, threads: int | None) -> float:
    """Self-entropy of the rows of a frame in nats; of more than 2000 rows from fast values, to 1e-5."""
    if len(rows) <= LARGE:
        return entropy(rows, bandwidth=bandwidth, threads=threads)
    values, _, usual = build_index(rows, bandwidth).minus_log_sums(rows, available_threads(threads))
    if not (usual < 1e-3).all():  # numbers that float32 cannot follow
        return entropy(rows, bandwidth=bandwidth, threads=threads)
    return math.log(len(rows)) + float(values.mean())
