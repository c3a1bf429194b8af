"""Text for a terminal: tables of checks, events, levels and references, and lines folded to its width."""

import math
import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TextIO

import numpy as np
from ase.data import chemical_symbols

from quests_md._words import LONGEST_LINE, many, one_line, printable
from quests_md.calibration import STATISTICS, Calibration, Power, bandwidth_advice, kind_of, rate_of
from quests_md.records import Check, Event
from quests_md.reference import Reference, frames_words

__all__ = [
    "EVENT_COLUMNS",
    "check_rows",
    "event_rows",
    "fold",
    "latest",
    "power_rows",
    "reference_lines",
    "terminal_width",
]

#: Fields of a check that `score` prints, and the width of their columns in a terminal; statistics in use that are not
#: among them come before "n_above".
CHECK_COLUMNS = {
    "step": 7,
    "time_ps": 8,
    "n_atoms": 7,
    "dh_mean": 7,
    "dh_max": 8,
    "n_above": 7,
    "frame_entropy": 13,
    "excess": 8,
    "state": 7,
    "alarms": 20,
}

#: Columns of `score` that a narrow terminal does without, unless they are judged; the first to go first.
NOT_NEEDED = ("frame_entropy", "dh_mean", "dh_max", "excess", "n_atoms", "n_above", "time_ps", "alarms")

#: Name of the column of alarms in a terminal, where it also says how far beyond its level each statistic is.
OUT_BY = "out by"

#: Fields of an event that `events` prints, and their names in a terminal.
EVENT_COLUMNS = {
    "id": "id",
    "kind": "kind",
    "phase": "phase",
    "onset_step": "began",
    "onset_time_ps": "at ps",
    "confirmed_step": "confirmed",
    "last_step": "last out",
    "peak_excess": "peak",
    "n_atoms": "atoms",
    "cluster": "cluster",
    "state": "state",
    "alarms": "alarms",
}

#: Columns of checks and of events that only programs get: descriptions tell people the places of events.
CHECK_PLACES, EVENT_PLACES = ("place",), ("onset_place", "peak_place", "last_place")

#: Columns that a narrow terminal does without, the first to go first.
DISPENSABLE = ("confirmed_step", "cluster", "onset_time_ps", "last_step")

#: Columns of words, which begin at the left.
WORDS = ("kind", "phase", "state", "alarms")

#: Letters of a phase in a terminal, and the least room for alarms.
PHASE_WIDTH, ALARMS_WIDTH = 12, 11

#: Letters in a line of a terminal that does not say how many it has.
USUAL_WIDTH = 80

#: Letters of a text in a table that is not in a terminal.
LONGEST_CELL = 1000

#: How many of the latest events are described in full besides the open ones.
LATEST = 2


def fold(text: str, stream: TextIO, indent: int = 2) -> str:
    """Wrap lines at the width of the terminal; what goes elsewhere keeps its lines whole."""
    width = terminal_width(stream)
    text = printable(text)
    if width is None:
        return text
    folded = []
    for line in text.split("\n"):
        depth = len(line) - len(line.lstrip())
        hanging = depth + 2 if depth >= indent else indent  # deeper than an item of a list begins
        folded += textwrap.wrap(
            line,
            max(width, hanging + 20),
            subsequent_indent=" " * hanging,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(folded)


def terminal_width(stream: TextIO) -> int | None:
    """Letters in a line of the terminal; None where the stream goes elsewhere."""
    if not stream.isatty():
        return None
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    with suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH
    return USUAL_WIDTH


def check_rows(
    checks: Iterable[Check], width: int | None, statistics: Sequence[str] = ()
) -> Iterator[tuple[str, Check | None]]:
    """The names of the columns, then a row of text for each check as it comes, with the check.

    Rows are columns for a terminal of that width, or tab-separated where the width is None. `statistics` in use have
    a column each. A terminal shows beside the alarms how far beyond its level each is, in the unit of the level (of
    counts, the log of the ratio).
    """
    columns: dict[str, int] = {}

    def cell(value: Any) -> str:
        if isinstance(value, tuple):
            return " ".join(value)
        if not isinstance(value, float):
            return "" if value is None else one_line(str(value), LONGEST_CELL)
        if width is None:
            return f"{value:.4f}".rstrip("0").rstrip(".")
        return f"{value:.3f}" if abs(value) < 1e5 else f"{value:.1e}"

    def row(cells: Iterable[str]) -> str:
        if width is None:
            return "\t".join(cells)
        aligned = (
            f" {text}" if name == "alarms" else f"{text:>{room}}"
            for text, (name, room) in zip(cells, columns.items(), strict=True)
        )
        return " ".join(aligned).rstrip()

    def shown(check: Check, name: str) -> str:
        return _out_by(check, columns[name]) if name == "alarms" and width is not None else cell(_value(check, name))

    for i, check in enumerate(checks):
        if i == 0:  # not before the first frame could be read
            columns = _check_columns(width, statistics, has_dh=check.dh_mean is not None or check.state == "invalid")
            yield row(OUT_BY if name == "alarms" and width is not None else name for name in columns), None
        yield row(shown(check, name) for name in columns), check


def event_rows(events: Sequence[Event], width: int | None) -> list[str]:
    """The names of the columns, then a row of text for each event; tab-separated where the width is None.

    In a terminal columns without content are left out, then DISPENSABLE ones, and as many alarms are named as fit.
    """
    names = (*EVENT_COLUMNS, *(EVENT_PLACES if width is None else ()))
    cells = {name: [_event_cell(event, name, exact=width is None) for event in events] for name in names}
    if width is None:
        return ["\t".join(row) for row in zip(*([name, *column] for name, column in cells.items()), strict=True)]
    fitting = _fitting(cells, [event.alarms for event in events], width)
    columns = [[EVENT_COLUMNS[name], *column] for name, column in fitting.items()]
    return [row.rstrip() for row in _aligned(columns, [name in WORDS for name in fitting])]


def latest(events: Sequence[Event]) -> list[Event]:
    """The events to describe first: those that are open, and the latest ones."""
    return [event for event in events if event.is_open or event in events[-LATEST:]]


def power_rows(
    calibration: Calibration, found: Sequence[Power], atoms: int | None, width: int | None = None
) -> list[str]:
    """What share of disturbed frames the levels would catch: a column per level in use, a row per disturbance.

    Columns that do not fit the width of a terminal follow below, after their first column again.
    """
    numbers = calibration.typical.numbers(atoms or None)
    levels = calibration.alarm_levels(numbers)
    columns = [["alarm by", "level", "kind", "rate", *(entry.disturbance for entry in found)]]
    for level in levels:
        statistic = STATISTICS[level.statistic]
        name = level.statistic + (f" {level.element}" if level.element else "")
        if not math.isfinite(level.value) or level.weight == 0:
            columns.append([name, "not judged", "", "", *("" for _ in found)])
            continue
        limit = (
            f"{'>' if level.side == 'above' else '<'} {statistic.in_words(level.value, len(numbers))} {statistic.unit}"
        )
        shares = [f"{entry.shares[level.statistic]:.0%}" for entry in found]
        columns.append([name, limit, level.kind, f"{level.rate:.2g}", *shares])
    shares = [f"{entry.share:.0%}" for entry in found]
    columns.append(["any", "", kind_of(levels), f"{rate_of(levels):.2g}", *shares])
    rows = _below_each_other(columns, width)
    if not found:
        return [*rows, "what they would catch is not known: there are no two groups of whole frames to disturb"]
    return [f"out of {found[0].n_frames} frames of the reference, one of each group, and the same disturbed:", *rows]


def reference_lines(reference: Reference, calibration: Calibration | None) -> list[str]:
    """What a reference holds and what level it supports, each line after a name of up to 11 letters.

    Without a calibration it says how to make one.
    """
    origin, settings = reference.provenance, reference.settings
    elements = zip(*np.unique(reference.numbers, return_counts=True), strict=True)
    left_out = origin.get("left_out", {})
    lines: dict[str, Any] = {
        "fingerprint": reference.fingerprint,
        "content": f"{many(reference.n_environments, 'environment')} in {many(reference.n_frames, 'frame')}",
        "frames": frames_words(reference),
        "elements": ", ".join(f"{chemical_symbols[z]} {count}" for z, count in elements),
        "settings": ", ".join(f"{key} = {value}" for key, value in settings.items()),
        "averaged": f"rows averaged over neighbours: {reference.averaged_words}",
        "sources": ", ".join(map(one_line, reference.sources[:5])) + (" ..." if len(reference.sources) > 5 else ""),
        "groups": origin.get("groups"),
        "left out": ", ".join(f"{many(n, 'frame')}: {why}" for why, n in left_out.items()) or "nothing",
        "nearest": ", ".join(
            f"{chemical_symbols[a]}-{chemical_symbols[b]} {low:.2f} Å (median {middle:.2f})"
            for (a, b), (low, middle) in list(reference.pair_distances().items())[:10]
        ),
        "created": f"{origin.get('created')} by quests_md {origin.get('versions', {}).get('quests_md')}",
    }
    if origin.get("parents"):
        lines["parents"] = ", ".join(origin["parents"])
    found = [(name, one_line(str(value), LONGEST_LINE)) for name, value in lines.items()]
    if calibration is None:
        found.append(("levels", "not set here, since the rows are many: quests-md calibrate sets them"))
        return [f"{name:<11} {printable(line)}" for name, line in found]
    found += [("" if i else "levels", line) for i, line in enumerate(calibration.describe().split("\n"))]
    advice = bandwidth_advice(reference, calibration)
    if advice is not None:
        found += zip(("bandwidth", ""), advice.split("\n"), strict=True)
    return [f"{name:<11} {printable(line)}" for name, line in found]


def _check_columns(width: int | None, statistics: Sequence[str], *, has_dh: bool) -> dict[str, int]:
    """The columns of checks and their widths, where these statistics are in use and checks have dH or not."""
    columns: dict[str, int] = {}
    for name, room in CHECK_COLUMNS.items():
        if name == "n_above":
            columns |= {s: max(len(s), 8) for s in statistics if s not in CHECK_COLUMNS}
        columns[name] = room
    if statistics and not any(STATISTICS[name].scale == "plain" for name in statistics):
        unknown = ("frame_entropy",) if has_dh else ("frame_entropy", "dh_mean", "dh_max")
        columns = {name: room for name, room in columns.items() if name not in unknown}
    if width is None:
        return columns | dict.fromkeys(CHECK_PLACES, 0)
    for name in NOT_NEEDED:
        if sum(columns.values()) + len(columns) <= width:
            break
        if name not in statistics:
            columns.pop(name, None)
    if "alarms" in columns:
        columns["alarms"] += width - sum(columns.values()) - len(columns)  # a blank more stands before the words
    return columns


def _out_by(check: Check, room: int) -> str:
    """The alarms of a check with how far beyond its level each is, as many as there is room for."""
    names = ["exploded"] if check.explosion or check.state == "invalid" else []
    names += [
        f"{name} +{check.excesses[name]:.3g}" if math.isfinite(check.excesses.get(name, math.nan)) else name
        for name in check.alarms
    ]
    for n in range(len(names), 0, -1):
        text = ", ".join(names[:n]) + (", ..." if n < len(names) else "")
        if len(text) <= room:
            return text
    return names[0][:room] if names else ""


def _value(check: Check, name: str) -> Any:
    """A number of a check by its name; counts are whole numbers."""
    if name not in STATISTICS:
        return getattr(check, name)
    value = check.statistic(name)
    return int(value) if value is not None and STATISTICS[name].unit == "atoms" and math.isfinite(value) else value


def _event_cell(event: Event, name: str, *, exact: bool) -> str:
    if name == "state":
        return "open" if event.is_open else "closed"
    value = getattr(event, name)
    if value is None:
        return ""
    if name == "alarms":
        return one_line(" ".join(value), LONGEST_CELL)
    if isinstance(value, float):
        if exact:
            return f"{value:.4f}".rstrip("0").rstrip(".")
        digits = 2 if name == "onset_time_ps" else 1
        return f"{value:.1e}" if 1e6 <= abs(value) < math.inf else f"{value:.{digits}f}"
    return one_line(str(value), PHASE_WIDTH if name == "phase" and not exact else LONGEST_CELL)


def _fitting(cells: dict[str, list[str]], alarms: Sequence[Sequence[str]], width: int) -> dict[str, list[str]]:
    """The columns with content for which a terminal has room, and in the last one as many alarms as fit."""
    cells = {name: column for name, column in cells.items() if any(column) and name != "alarms"}

    def room() -> int:
        taken = (max(map(len, (EVENT_COLUMNS[name], *column))) + 2 for name, column in cells.items())
        return width - sum(taken)

    wanted = min(max((len(" ".join(names)) for names in alarms), default=0), ALARMS_WIDTH)
    for name in DISPENSABLE:
        if room() < wanted:
            cells.pop(name, None)
    named = [_named(names, room()) for names in alarms]
    return cells | {"alarms": named} if any(named) else cells


def _aligned(columns: Sequence[Sequence[str]], is_left: Sequence[bool]) -> list[str]:
    """The rows of a table whose columns have equal widths; words begin at the left, numbers end at the right."""
    forms = [f"{'<' if left else '>'}{max(map(len, column))}" for column, left in zip(columns, is_left, strict=True)]
    rows = zip(*columns, strict=True)
    return ["  ".join(f"{cell:{form}}" for cell, form in zip(row, forms, strict=True)) for row in rows]


def _below_each_other(columns: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """The rows of a table in as many parts as fit the width; each begins with the first column."""
    name, *rest = columns
    rows: list[str] = []
    while rest:
        n = len(rest)
        while n > 1 and width is not None and len(_aligned([name, *rest[:n]], [True] * (n + 1))[0]) > width:
            n -= 1
        rows += [*([""] if rows else []), *_aligned([name, *rest[:n]], [True, *(False for _ in rest[:n])])]
        rest = rest[n:]
    return [row.rstrip() for row in rows]


def _named(names: Sequence[str], room: int) -> str:
    """As many of the names as there is room for, and how many more there are."""
    for n in range(len(names), 0, -1):
        text = " ".join(names[:n]) + (f" +{len(names) - n}" if n < len(names) else "")
        if len(text) <= room:
            return text
    return f"+{len(names)}" if names else ""
