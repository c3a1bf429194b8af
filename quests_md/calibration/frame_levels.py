"""The levels of all numbers of a frame, which share a rate of false alarms."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .levels import GUESS, Level, Mode, NullScores, level_of, sharing_of
from .statistics import SAMPLE_ATOMS, STATISTICS

__all__ = ["is_never_out", "is_of_smaller_cells", "sharing_levels"]


def sharing_levels(
    of: Mapping[str, Sequence[NullScores]],
    names: Sequence[str],
    rate: float,
    n_of: Mapping[str, int],
    n_atoms: int,
    count: int,
    mode: Mode,
) -> list[Level]:
    """The levels of all numbers `of` frames of `n_atoms`, of which those with these names share the rate."""
    together = [null for name in names for null in of[name]]
    sharing = sharing_of(together, rate)
    found: list[Level] = []
    for name, nulls in of.items():
        statistic, is_used = STATISTICS[name], name in names
        share: float = len(nulls)
        if is_used:  # never out together: statistics share evenly, and in each its elements and sides
            is_bound = sharing.multiplicity >= len(together)
            share = len(names) * len(nulls) if is_bound else sharing.multiplicity
        for null in nulls:
            n = n_atoms if null.element is None else n_of[null.element]
            if mode == "proven" and statistic.over == "sample":
                n = min(n, SAMPLE_ATOMS)
            level = level_of(null, statistic.size, n, rate / share, count)
            if null.is_pooled:
                value = max(level.value, GUESS)
                level = replace(level, value=value, kind="none", rate=1.0, n_groups=0, is_pooled=True)
            if statistic.unit == "atoms" and level.kind == "extrapolated" and level.interval == (level.value,) * 2:
                # the same count in all groups: they say nothing of the next one, which is an atom more
                level = replace(level, value=level.value + 1)
            if is_of_smaller_cells(level) and level.kind == "conformal":
                level = replace(level, kind="extrapolated")
            if is_used:
                level = replace(level, weight=1.0 if is_bound else sharing.multiplicity / len(together))
                if not sharing.is_exact and level.kind == "conformal":
                    level = replace(level, kind="extrapolated")
            found.append(level)
    return found


def is_of_smaller_cells(level: Level) -> bool:
    """Whether it is a level for the extremes of neighbourhoods, from frames smaller than those that it is for.

    A frame counts as several of the smaller ones, as if neighbourhoods were alike in both. They are not: a small cell
    lacks the fluctuations of density that are longer than the cell (docs/promise.md).
    """
    statistic = STATISTICS[level.statistic]
    return level.pieces > 1 and statistic.scale == "averaged" and statistic.size == "extreme"


def is_never_out(level: Level, n_atoms: int) -> bool:
    """Whether it is a level for a count of atoms that no frame of so many atoms exceeds."""
    statistic = STATISTICS[level.statistic]
    return statistic.unit == "atoms" and round(statistic.in_frame(level.value, n_atoms), 9) >= n_atoms
