"""A calibration in words: what its levels are, how they were set, and what they promise."""

import math
from collections.abc import Mapping, Sequence

from ase.data import chemical_symbols

from quests_md._words import many

from .levels import ANY_ELEMENT, Level, kind_of, rate_of
from .statistics import STATISTICS

__all__ = ["level_line", "many_groups", "of_elements", "promise_line"]


def many_groups(n: int) -> str:
    """So many groups."""
    return many(n, "group") if n else "no groups"


def promise_line(levels: Sequence[Level], asked: str) -> str:
    """What the levels promise together, in a line; `asked`: the rate that was asked."""
    kind, rate = kind_of(levels), rate_of(levels)
    if kind == "conformal":
        return f"promise: at most {asked}"
    if kind == "extrapolated":
        return f"promise: about {asked}, if tails of scores go on as fitted"
    if rate >= 1:
        return f"promise: none; {asked} were asked"
    return f"promise: {asked} were asked, {rate:.2g} can be promised"


def of_elements(values: Mapping[int, float]) -> str:
    """Numbers with the element that each is for."""
    texts = (f"{x:.2f}" + (f" ({chemical_symbols[z]})" if z != ANY_ELEMENT else "") for z, x in values.items())
    return ", ".join(texts)


def level_line(level: Level, n_atoms: int, n_groups: int) -> str:
    """One level for frames of `n_atoms` in a line, of a calibration with `n_groups`."""
    name = level.statistic + (f" of {level.element}" if level.element else "")
    statistic = STATISTICS[level.statistic]
    value = statistic.in_frame(level.value, n_atoms)
    text = f"{name} {'<=' if level.side == 'above' else '>='} {value:.2f} {statistic.unit}: "
    groups = many_groups(level.n_groups)
    groups += "" if level.n_groups >= n_groups else f" of {n_groups} with fitting frames"
    if level.kind == "conformal":
        text += f"conformal, {groups}"
    elif level.kind == "extrapolated":
        interval = level.interval and sorted(statistic.in_frame(value, n_atoms) for value in level.interval)
        text += f"extrapolated from {groups}" + (f" to {interval[0]:.2f} ... {interval[1]:.2f}" if interval else "")
    elif math.isinf(level.value):
        return f"{name}: not judged, no held-out frames of this size"
    elif level.n_groups < 2:
        text += "kind none, a guess"
    elif level.interval:
        text += f"kind none, extrapolated too far from {groups}"
    else:
        text += f"kind none, the most extreme of {groups}"
    if level.pieces > 1:
        text += f", counted as {level.pieces} frames"
    if level.rate >= 1:
        return text
    return f"{text}; {'about' if level.kind == 'extrapolated' else 'at most'} {level.rate:.2g}"
