"""How far a number of a frame is beyond its level."""

import math
from collections.abc import Iterable

from ase.data import atomic_numbers

from .levels import Level
from .statistics import FrameNumbers, Statistic

__all__ = ["as_released", "count_excess", "excess_of"]


def excess_of(
    statistic: Statistic, frame: FrameNumbers, value: float | None, levels: Iterable[Level], release: float
) -> float:
    """How far a statistic of a frame is beyond its levels, in nats (counts: log of the ratio); above 0 it is out.

    Statistics other than the largest dH may lie less than `release` nats below their level in distribution, so that an
    event by them would never end: below the level they count as released from half of the way to their median on.

    Parameters
    ----------
    statistic, frame, value
        The statistic, the numbers of the frame, and the statistic's value there; None: it has none.
    levels
        The levels of all statistics for this frame.
    release
        Excess at which the trigger counts a statistic as back.

    Returns
    -------
    excess
        The largest over the levels of the statistic; -inf without a value or a level.
    """
    if statistic.beyond is not None:
        return statistic.beyond(frame)
    worst = -math.inf
    for level in levels:
        if level.statistic != statistic.name:
            continue
        here = value if level.element is None else statistic.of(frame.of_element(atomic_numbers[level.element]))
        if here is None:
            continue
        if statistic.unit == "atoms":
            excess = count_excess(here, level, release, len(frame.dh) if statistic.is_share else 1)
        else:
            sign = 1.0 if level.side == "above" else -1.0
            beyond, gap = sign * (here - level.value), sign * (level.value - level.middle)
            excess = as_released(beyond, gap, release)  # entropies may all be log N: no way to the median
        worst = max(worst, excess)
    return worst


def count_excess(value: float, level: Level, release: float, n_atoms: int = 1) -> float:
    """Log of the ratio of a count to its level, for a level that is a share of so many atoms.

    Counts may have no way from the level to the median.
    """
    # a share of the atoms back to their number, which k / n * n may miss by a hair
    limit, middle = (max(round(x * n_atoms, 9), 0.0) for x in (level.value, level.middle))
    beyond, gap = math.log((value + 1) / (limit + 1)), math.log((limit + 1) / (middle + 1))
    return as_released(beyond, gap, release)


def as_released(excess: float, gap: float, release: float) -> float:
    """The excess of a number that scatters little, so that `release` closes its event half of the way to its middle.

    Parameters
    ----------
    excess
        How far the number is beyond its level.
    gap
        From the level to the middle of the number in distribution; 0 or less: there is no way, so it counts as back.
    release
        Excess at which the trigger counts a number as back.
    """
    if not excess <= 0:
        return excess
    if gap <= 0:
        return min(excess, -release)
    return excess * (release / (gap / 2)) if gap / 2 < release else excess
