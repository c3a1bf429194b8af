"""Levels: which value a number of new frames exceeds at a stated rate, from one score per held-out group."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .tails import FARTHEST, FEWEST_SCORES, pareto_level, pareto_quantile

__all__ = [
    "ANY_ELEMENT",
    "FEWEST_OF_ELEMENT",
    "GUESS",
    "PERS",
    "BlockTimes",
    "Kind",
    "Level",
    "Mode",
    "NullScores",
    "Per",
    "Sharing",
    "Side",
    "Size",
    "as_released",
    "count_excess",
    "kind_of",
    "level_of",
    "pooled",
    "rate_of",
    "rate_of_checks",
    "sharing_of",
    "without_groups",
]

Kind = Literal["conformal", "extrapolated", "none"]
Side = Literal["above", "below"]

#: What the rate counts: checks, nanoseconds or runs with a false alarm.
Per = Literal["check", "ns", "run"]
PERS: tuple[Per, ...] = ("check", "ns", "run")

#: How a frame is evaluated: dH of every environment, or only of those where it decides something.
Mode = Literal["full", "proven"]

#: How a number depends on the size of a frame, see `level_of`.
Size = Literal["extreme", "mean", "quantile", "same"]

#: From the best kind of a level to the worst.
KINDS: tuple[Kind, ...] = ("conformal", "extrapolated", "none")

#: Key of what is for atoms of all elements together, where elements have their atomic number.
ANY_ELEMENT = 0

#: Level in nats where nothing could be held out: the rule of thumb of the published method, dH > 0.
GUESS = 0.0

#: Fewest groups whose scores make a level of an element. Where fewer have it, groups of kinds with few groups count as
#: well, and then the scores of all elements together.
FEWEST_OF_ELEMENT = 2

#: Scores above a rank up to which the rank is so uncertain that a fitted tail may raise the level.
FEW_ABOVE = 10

#: Fewest atoms whose 99 % quantile is not nearly their largest.
QUANTILE_ATOMS = 100

#: A frame of fewer atoms than one in so many, less than half as wide, is of another kind, a dimer say: it counts for
#: means over larger frames only where frames of their size are too few.
SMALL = 8

#: Relative difference in size up to which self-entropies of frames are compared.
SAME_SIZE = 0.01


@dataclass(frozen=True, slots=True)
class Level:
    """A level for one number of frames of one size, and what it promises."""

    statistic: str
    """Name of the number."""
    element: str | None
    """Element whose atoms it is for; None: all."""
    side: Side
    """Whether a frame is out above or below it."""
    value: float
    """The level, in the unit of the number."""
    kind: Kind
    """"conformal": the asked rate is kept, whatever the distribution, if groups are exchangeable. "extrapolated": it is
    kept if the tail of the scores goes on like a generalised Pareto distribution. "none": it is not kept."""
    rate: float
    """Bound of the chance that one check (per="check") or one whole ns or run is out by mistake; 1: no bound."""
    pieces: int
    """Calibration frames that one check counts as."""
    n_groups: int
    """Groups that the level rests on: those with frames of a fitting size."""
    middle: float
    """Median of the scores, where frames in distribution lie."""
    interval: tuple[float, float] | None = None
    """80 % interval of an extrapolated level."""
    weight: float = 1.0
    """Part of `rate` that counts where levels are judged together: they often raise an alarm in the same frames. 0: no
    frame of this size can be beyond the level."""
    is_pooled: bool = False
    """Whether it is the level of all elements together, since no two groups have the element."""


@dataclass(frozen=True, slots=True)
class BlockTimes:
    """How simulated time is divided among the frames of a calibration; None where their times are not known."""

    block_ps: float | None = None
    """Time that a group covers, ps."""
    spacing_ps: float | None = None
    """Time between its frames, ps."""


@dataclass(frozen=True, slots=True, eq=False)
class NullScores:
    """The null distribution of a number: its most extreme value in each group of frames in distribution."""

    statistic: str
    """Name of the number."""
    element: str | None
    """Element whose atoms it is for; None: all."""
    side: Side
    """Whether the scores are the largest or the smallest of their groups."""
    values: Mode | Literal["both"]
    """Mode of evaluation that the scores are for."""
    scores: NDArray[np.float64] = field(repr=False)
    """(n_groups,) one per group, ascending."""
    sizes: NDArray[np.int64] = field(repr=False)
    """(n_groups,) atoms in the largest frame of each group, in the order of `scores`."""
    groups: NDArray[np.int64] | None = field(default=None, repr=False)
    """(n_groups,) name of each group, in the order of `scores`; None: not known, as in older files."""
    is_pooled: bool = False
    """Whether the scores are of all elements together, since too few groups have the element."""


def level_of(null: NullScores, size: Size, n_atoms: int, rate: float, count: int) -> Level:
    """The level for frames of `n_atoms`, at the rate a = `rate` / `count` for each of the checks that share it.

    With n scores, one per exchangeable group, the ceil((1-a)(n+1))-th smallest is exceeded by a new group's score with
    a chance of at most a, without any assumption on the distribution. Which groups speak for a frame of N atoms
    depends on how the number depends on the size of a frame:

    - "extreme": a frame counts as ceil(N/n) frames of n atoms (union bound), and groups with frames of at least n
      atoms count; n is chosen, by sizes alone, where they can promise most.
    - "mean": a mean over more atoms scatters less, so groups with frames of at most N atoms count, as they are, but for
      frames of less than N/8 atoms (dimers in a set of bulk) if ten groups or more have larger ones. Where they do not
      suffice, larger frames are taken too, their scatter scaled by sqrt(n/N); that is called extrapolated.
    - "quantile": the same, without frames of fewer than 100 atoms, whose 99 % quantile is nearly their largest.
    - "same": groups with frames of as many atoms; without any the level is infinite: the number is not judged.

    A rank with few scores above it is uncertain by a factor of two or more; a generalised Pareto fit may then raise
    the level, never lower it. Where a is below 1/(n+1) there is no such rank, and from 30 groups on the tail is
    extrapolated: the level is the upper end of the fit's 80 % interval, and down to a thirtieth of 1/(n+1) its kind is
    "extrapolated". Below a thirtieth the level is the same, but promises nothing (kind "none"). With fewer than 30
    groups the level is the most extreme score, and its rate says what the groups alone promise. With fewer than two
    groups the level is a guess, and low numbers are not judged.

    References
    ----------
    Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World (2005), doi:10.1007/b106715.
    """
    if null.side == "below":
        mirrored = replace(null, side="above", scores=-null.scores[::-1], sizes=null.sizes[::-1], groups=None)
        level = level_of(mirrored, size, n_atoms, rate, count)
        return replace(
            level,
            side="below",
            value=-level.value if level.n_groups >= 2 else -math.inf,
            middle=-level.middle,
            interval=None if level.interval is None else (-level.interval[1], -level.interval[0]),
        )
    scores, pieces, is_scaled = _scores_for(null, size, n_atoms, rate, count)
    n, count = len(scores), count * pieces

    def level_at(value: float, kind: Kind, bound: float, interval: tuple[float, float] | None = None) -> Level:
        middle = float(np.median(scores)) if n else value
        return Level(null.statistic, null.element, "above", value, kind, bound, pieces, n, middle, interval)

    if n < 2 and size == "same":
        return level_at(math.inf, "none", 0.0)
    if n < 2:  # a guess: half of all frames are beyond a single one of them
        everything = scores if n else null.scores
        return level_at(max(float(everything[-1]), GUESS) if len(everything) else GUESS, "none", 1.0)
    probability = rate / count
    # a hair less than (1-a)(n+1), so that a = 1/(n+1) is not lost to rounding
    rank = max(math.ceil((1 - probability) * (n + 1) - 1e-9), 1)
    if rank <= n:
        value = float(scores[rank - 1])
        if n >= FEWEST_SCORES and n - rank < FEW_ABOVE:
            value = max(value, pareto_quantile(scores, probability))
        return level_at(value, "extrapolated" if is_scaled else "conformal", rate)
    value, interval = float(scores[-1]), None
    if n >= FEWEST_SCORES:
        value, *ends = pareto_level(scores, probability)
        interval = ends[0], ends[1]
        if probability * (n + 1) * FARTHEST >= 1:
            return level_at(value, "extrapolated", rate, interval)
    return level_at(value, "none", 1.0 if is_scaled else min(1.0, count / (n + 1)), interval)


def pooled(null: NullScores, nulls: Sequence[NullScores]) -> NullScores:
    """The null distribution of an element that too few groups have: what is known of all elements together.

    Each group of each element gives a score, so that the level is that of the element whose atoms vary most.
    """
    same = [other for other in nulls if other.side == null.side and other.values == null.values and len(other.scores)]
    if not same:
        return null
    scores, sizes = (np.concatenate([getattr(other, name) for other in same]) for name in ("scores", "sizes"))
    order = np.argsort(scores, kind="stable")
    return replace(null, scores=scores[order], sizes=sizes[order], groups=None, is_pooled=len(scores) > 1)


def without_groups(null: NullScores, left_out: NDArray[np.int64]) -> NullScores:
    """The null distribution without some groups, if enough for the tail of a distribution are left; else all of it."""
    if null.groups is None or not len(left_out):
        return null
    kept = ~np.isin(null.groups, left_out)
    if kept.all() or kept.sum() < FEWEST_SCORES:
        return null
    return replace(null, scores=null.scores[kept], sizes=null.sizes[kept], groups=null.groups[kept])


def kind_of(levels: Sequence[Level]) -> Kind:
    """The worst kind among levels that can raise an alarm."""
    able = (level for level in levels if math.isfinite(level.value) and level.weight > 0)
    return max((level.kind for level in able), key=KINDS.index, default="none")


def rate_of(levels: Sequence[Level]) -> float:
    """Bound of the rate of false alarms of all levels together; 1: no bound."""
    return _joint_rate(levels, 1)


def rate_of_checks(levels: Sequence[Level], looks: int = 1) -> float | None:
    """Bound of the chance that one of so many looks that share the rate is out by mistake; None: nothing is promised.

    Of a rate per ns or run the levels of few groups may have no bound, but each look has that of the groups.
    """
    rate = _joint_rate(levels, looks)
    return rate if 0 < rate < 1 else None


def _joint_rate(levels: Sequence[Level], looks: int) -> float:
    def rate(level: Level) -> float:
        if level.rate < 1 or looks == 1 or level.n_groups < 2:
            return level.rate / looks if level.rate < 1 else 1.0
        return min(level.pieces / (level.n_groups + 1), 1.0)

    able = [(rate(level), level.weight) for level in levels if level.weight > 0]
    if not able or max(able)[0] >= 1:  # a guess may be out in every check, however small its part of the rate
        return 1.0
    return min(1.0, sum(one * weight for one, weight in able))


class Sharing(NamedTuple):
    """How several numbers share a rate of false alarms."""

    multiplicity: float
    """The joint rate is that of one number times this: between 1 (always out together) and their count (never)."""
    is_exact: bool
    """Whether the joint rate is then kept whatever the distribution, if groups are exchangeable."""


def sharing_of(nulls: Sequence[NullScores], rate: float) -> Sharing:
    """How numbers with these null distributions share the joint `rate`: by how often they are out in the same groups.

    Let each number be out where it is among the k largest of its n scores. If U groups are out by any number, a new
    group is out with a chance of at most (U + 1)/(n + 1): of n + 1 exchangeable groups at most U + 1 are out. So the
    largest k with U + 1 <= rate (n + 1) keeps the joint rate, and each number has the rate k/(n + 1), or its even share
    if that is larger (union bound). Where groups are too few for either, the ratio U/k is taken from the ten largest
    scores of each number, as an estimate. With fewer than thirty groups in common, or where groups are not known,
    numbers count as if they were never out together.
    """
    count = len(nulls)
    if count < 2:
        return Sharing(1.0, True)
    of_groups = [
        (null.groups, null.scores if null.side == "above" else -null.scores)
        for null in nulls
        if null.groups is not None
    ]
    if len(of_groups) < count:
        return Sharing(float(count), True)
    shared = of_groups[0][0]
    for groups, _ in of_groups[1:]:
        shared = np.intersect1d(shared, groups)
    n = len(shared)
    if n < FEWEST_SCORES:
        return Sharing(float(count), True)
    ranks = np.empty((count, n), np.int64)  # 0: the largest
    for rank, (groups, scores) in zip(ranks, of_groups, strict=True):
        place = np.argsort(groups)[np.searchsorted(np.sort(groups), shared)]
        rank[np.argsort(-scores[place], kind="stable")] = np.arange(n)
    n_out = np.searchsorted(np.sort(ranks.min(axis=0)), np.arange(1, n + 1))  # by the k = 1, 2, ... largest
    allowed = rate * (n + 1)
    k = int((n_out + 1 <= allowed).sum())
    multiplicity = min(allowed / k, count) if k else float(count)
    if allowed >= multiplicity:  # of a single number at least the largest score may be beyond
        return Sharing(max(multiplicity, 1.0), True)
    return Sharing(float(np.clip(n_out[FEW_ABOVE - 1] / FEW_ABOVE, 1.0, count)), False)


def _scores_for(
    null: NullScores, size: Size, n_atoms: int, rate: float, count: int
) -> tuple[NDArray[np.float64], int, bool]:
    """Scores that speak for a frame of this size, ascending; frames of theirs that it counts as; whether scaled."""
    scores, sizes = null.scores, null.sizes
    if len(scores) == 0:
        return scores, 1, False
    if size == "extreme":
        distinct = np.unique(sizes)
        pieces = np.maximum(1, -(-n_atoms // np.maximum(distinct, 1)))
        n_as_large = len(sizes) - np.searchsorted(np.sort(sizes), distinct)
        best = int(np.argmax((n_as_large + 1) / pieces))
        return scores[sizes >= distinct[best]], int(pieces[best]), False
    if size == "same":
        return scores[np.abs(sizes - n_atoms) <= SAME_SIZE * n_atoms], 1, False
    usable = sizes >= min(n_atoms, QUANTILE_ATOMS) if size == "quantile" else np.ones(len(sizes), dtype=bool)
    alike = usable & (SMALL * sizes >= n_atoms)
    if (alike & (sizes <= n_atoms)).sum() >= FEW_ABOVE:
        usable = alike
    fitting = usable & (sizes <= n_atoms)
    if rate * (int(fitting.sum()) + 1) >= count or not (usable & ~fitting).any():
        return scores[fitting], 1, False
    chosen = scores[usable]
    middle = float(np.median(chosen))
    spread = np.sqrt(np.maximum(1.0, sizes[usable] / max(n_atoms, 1)))
    return np.sort(middle + (chosen - middle) * spread), 1, True


def as_released(excess: float, gap: float, release: float) -> float:
    """The excess of a number that scatters little, so that `release` closes its event half of the way to its middle.

    `gap` is the way from the level to the middle of the number in distribution; at 0 or less the number counts as back.
    """
    if not excess <= 0:
        return excess
    if gap <= 0:
        return min(excess, -release)
    return excess * (release / (gap / 2)) if gap / 2 < release else excess


def count_excess(value: float, level: Level, release: float, n_atoms: int = 1) -> float:
    """Log of the ratio of a count to its level, for a level that is a share of so many atoms.

    Counts may have no way from the level to the median.
    """
    # a share of the atoms back to their number, which k / n * n may miss by a hair
    limit, middle = (max(round(x * n_atoms, 9), 0.0) for x in (level.value, level.middle))
    beyond, gap = math.log((value + 1) / (limit + 1)), math.log((limit + 1) / (middle + 1))
    return as_released(beyond, gap, release)
