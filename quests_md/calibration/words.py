"""A calibration in words: what its levels are, how they were set, and what they promise."""

import math
from collections.abc import Mapping, Sequence

from ase.data import chemical_symbols

from quests_md._words import many

from .levels import ANY_ELEMENT, Level, kind_of, rate_of
from .rate import Per
from .statistics import STATISTICS

__all__ = ["description", "many_groups"]


def description(
    levels: Sequence[Level],
    *,
    n_atoms: int,
    false_alarms: float,
    per: Per,
    looks: int,
    n_groups: int,
    atom_levels: Mapping[int, float] | None,
    how: str,
) -> str:
    """The text of `Calibration.describe`.

    Parameters
    ----------
    levels
        The levels in use of a frame.
    n_atoms
        Its atoms.
    false_alarms, per, looks
        The asked rate, what it counts, and the looks that share it.
    n_groups
        Groups that were held out.
    atom_levels
        The atom level per atomic number, nats; None where no level in use needs it.
    how
        How the scores were made.
    """
    unit = {"check": "check", "ns": "nanosecond", "run": "run"}[per]
    of = f"{unit} of {n_atoms} atoms" + (f" ({looks} looks)" if looks > 1 else "")
    lines = [_promise(levels, f"{false_alarms:.2g} false alarms per {of}")]
    lines += [f"  {_level_text(level, n_atoms, n_groups)}" for level in levels]
    if n_groups < 2:
        lines.append(f"{many_groups(n_groups)} could be held out: add frames, or give frames= to calibrate")
    if atom_levels is not None:
        lines.append(f"atom level, which 1 % of the environments exceed: dH = {_of_elements(atom_levels)} nats")
    lines.append(f"from {how}")
    lines.append("valid for new groups of frames like these, not for another temperature, phase or composition")
    return "\n".join(lines)


def many_groups(n: int) -> str:
    """So many groups."""
    return many(n, "group") if n else "no groups"


def _promise(levels: Sequence[Level], asked: str) -> str:
    """The joint promise in a line."""
    kind, rate = kind_of(levels), rate_of(levels)
    if kind == "conformal":
        return f"promise: at most {asked}"
    if kind == "extrapolated":
        return f"promise: about {asked}, if tails of scores go on as fitted"
    if rate >= 1:
        return f"promise: none; {asked} were asked"
    return f"promise: {asked} were asked, {rate:.2g} can be promised"


def _of_elements(values: Mapping[int, float]) -> str:
    texts = (f"{x:.2f}" + (f" ({chemical_symbols[z]})" if z != ANY_ELEMENT else "") for z, x in values.items())
    return ", ".join(texts)


def _level_text(level: Level, n_atoms: int, n_groups: int) -> str:
    """One level in a line."""
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
