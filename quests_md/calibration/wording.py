"""What the levels of a calibration are and promise, in words."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ase.data import chemical_symbols
from numpy.typing import NDArray

from quests_md._words import LONGEST_LINE, many, one_line
from quests_md.reference import MOST_ATOMS

from .frame_levels import is_never_out, is_of_smaller_cells
from .landmarks import Landmarks
from .levels import ANY_ELEMENT, GUESS, Level, kind_of, rate_of
from .rare_kinds import MOST_RARE
from .statistics import STATISTICS

if TYPE_CHECKING:
    import numpy as np

    from .calibration import Calibration

__all__ = ["lines_of", "many_groups"]

#: What the rate counts, by the name of it.
_UNITS = {"check": "check", "ns": "nanosecond", "run": "run"}


def lines_of(
    calibration: "Calibration",
    levels: Sequence[Level],
    numbers: "NDArray[np.int64]",
    looks: int,
    counts_checks: bool,
) -> list[str]:
    """The levels for frames with these atomic numbers, (n_atoms,), and so many looks that share the rate.

    `counts_checks`: they are levels of single checks, whatever the rate counts.
    """
    unit = "check" if counts_checks else _UNITS[calibration.per]
    n_atoms, n_groups = len(numbers), calibration.n_groups
    of = f"{unit} of {n_atoms} atoms" + (f" ({looks} looks)" if looks > 1 else "")
    lines = [_promise_line(levels, f"{calibration.false_alarms:.2g} false alarms per {of}")]
    if unit != _UNITS[calibration.per]:
        lines.append(_unknown_line(_UNITS[calibration.per]))
    unpromised = calibration.why_unpromised(numbers)
    lines += [f"  {_level_line(level, n_atoms, n_groups, unpromised)}" for level in levels]
    landmarks = calibration.landmarks
    if (landmarks is None or landmarks.averaged) and any(is_of_smaller_cells(level) for level in levels):
        lines.append(
            f"frames of {n_atoms} atoms are larger than those of the reference: neighbourhoods vary more in a "
            "larger cell, and more checks may be out than asked (docs/promise.md: 5 % for 1 %); frames of this "
            "size keep the rate: calibrate(frames=...)"
        )
    judged = {level.statistic for level in levels}
    if unjudged := [name for name in calibration.statistics if name not in judged]:
        lines.append(f"not judged, since there are no held-out frames for a level: {', '.join(unjudged)}")
    if n_groups < 2:
        lines.append(f"{many_groups(n_groups)} could be held out: add frames, or give frames= to calibrate")
    if calibration.counts_tail:
        of_elements = (
            f"{x:.2f}" + ("" if z == ANY_ELEMENT else f" ({chemical_symbols[z]})")
            for z, x in calibration.atom_levels.items()
        )
        known = f"atom level, which 1 % of the environments exceed: dH = {', '.join(of_elements)} nats"
        lines.append(known if calibration.atom_levels else f"atom level: dH = {GUESS:.2f} nats, a guess")
    if calibration.is_local and landmarks is not None:
        lines.append(_local_line(landmarks, n_groups))
        if landmarks.n_alone:
            lines.append(_alone_line(landmarks.n_alone, n_groups))
    lines.append(f"from {one_line(calibration.how, LONGEST_LINE)}")
    lines.append("valid for new groups of frames like these, not for another temperature, phase or composition")
    return lines


def _unknown_line(unit: str) -> str:
    """That the rate counts runs or nanoseconds, and nobody knows how many checks one has."""
    later = "; a monitor of a run in time finds it and sets its levels by it" if unit == "nanosecond" else ""
    return (
        f"the rate was asked per {unit}, but the number of checks in a {unit} is not known: these are the levels of "
        f"one check, and a {unit} of many has more false alarms; give it (checks=, --checks){later}"
    )


def many_groups(n: int) -> str:
    """So many groups."""
    return many(n, "group") if n else "no groups"


def _local_line(landmarks: Landmarks, n_groups: int) -> str:
    """What the numbers of local scores are, in a line or two."""
    text = (
        f"deviations: how much farther {'a neighbourhood' if landmarks.averaged else 'an environment'} is from the "
        "reference than is usual for its kind, over the usual scatter; atoms are counted above "
        f"{landmarks.tail_level:.2f}, {'which 1 % of those held out exceed' if n_groups >= 2 else 'a guess'}"
    )
    if landmarks.averaged:
        return text
    return (
        f"{text}\nlocal scores are of single environments, not averaged over neighbours: the reference is of free "
        f"molecules of at most {MOST_ATOMS} atoms, in which an average would be over most of the molecule"
    )


def _alone_line(n_alone: int, n_groups: int) -> str:
    """What it means that some groups are of kinds that few groups have, in a line."""
    return (
        f"{n_alone} of {many_groups(n_groups)} are unlike all others, or of a kind that at most {MOST_RARE} groups "
        f"have, and set no level: of new groups from where these come about one in {n_groups / n_alone:.0f} is of such "
        "a kind, and may be novel "
        "(doi:10.1093/biomet/40.3-4.237)"
    )


def _promise_line(levels: Sequence[Level], asked: str) -> str:
    """What the levels promise together, in a line; `asked`: the rate that was asked."""
    kind, rate = kind_of(levels), rate_of(levels)
    if kind == "conformal":
        return f"promise: at most {asked}"
    if kind == "extrapolated":
        return f"promise: about {asked}, if tails of scores go on as fitted"
    if rate >= 1:
        return f"promise: none; {asked} were asked"
    return f"promise: {asked} were asked, {rate:.2g} can be promised"


def _level_line(level: Level, n_atoms: int, n_groups: int, unpromised: str | None) -> str:
    """One level for frames of `n_atoms` in a line, of so many groups; `unpromised`: why it is of kind none."""
    name = level.statistic + (f" of {level.element}" if level.element else "")
    statistic = STATISTICS[level.statistic]
    value = statistic.in_words(level.value, n_atoms)
    unit = "atom" if (statistic.unit, value) == ("atoms", "1") else statistic.unit
    text = f"{name} {'<=' if level.side == 'above' else '>='} {value} {unit}: "
    if is_never_out(level, n_atoms):
        text = f"{name}: never out, its level is {value} of {many(n_atoms, 'atom')}"
        return text if level.weight else f"{text}; the others have its rate"
    groups = many_groups(level.n_groups)
    groups += "" if level.n_groups >= n_groups else f" of {n_groups} with fitting frames"
    if level.kind == "conformal":
        text += f"conformal, {groups}"
    elif level.kind == "extrapolated":
        low, high = (statistic.in_words(end, n_atoms) for end in sorted(level.interval or (level.value,) * 2))
        text += f"extrapolated from {groups}" + (f" to {low} ... {high}" if low != high else "")
    elif math.isinf(level.value):
        return f"{name}: not judged, no held-out frames of this size"
    elif unpromised is not None and level.n_groups >= 2:
        text += f"kind none, {unpromised}"
    elif level.is_pooled:
        text += f"kind none, that of all elements together, since no two groups have {level.element}"
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
