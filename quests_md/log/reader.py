"""A log read back: the checks as arrays, made piece by piece, the events as records."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from quests_md._json import from_mapping, number
from quests_md.records import CHECK_FIELDS, Check, Event, FramePlace, complete_line

from .history import LogHistory
from .lines import SCHEMA, Line

__all__ = ["Log", "read_log"]

#: Most phases or statistics a log may name, and most characters of a text in a column: what a damaged or hostile log
#: costs must stay bounded.
MAX_NAMES, MAX_TEXT = 100, 200

#: Check lines that are held before they become arrays (Python's numbers take five times the memory), and bytes of the
#: file that the held lines may span.
HELD_LINES, HELD_BYTES = 100, 4_000_000

# Columns of integers; of the other columns those of numbers hold NaN where there is none.
_INTEGERS = {"step", "frame", "n_atoms", "n_above", "n_tail", "worst_atom", "n_unknown", "phases", "phase_clusters"}
_INTEGERS |= {"source", "source_frame"}
# Mappings, and what stands where there is no number.
_MAPPINGS = {"excesses": math.nan, "phases": -1, "phase_clusters": -1, "further": math.nan}
# What each field of a check may hold, and what a field of integers, numbers or texts holds.
_HINTS = get_type_hints(Check)
_STATES = get_args(_HINTS["state"])
_MAY_LACK = {name for name, hint in _HINTS.items() if NoneType in get_args(hint)} | {"source", "source_frame"}
_BASES = {name: next((kind for kind in (int, float, str) if kind in (hint, *get_args(hint))), None) for name, hint in
          _HINTS.items()}  # fmt: skip

# The fields of a line in the order of a row; every line has all but the last three.
_FIELDS = (*CHECK_FIELDS, "further", "source", "source_frame")
_every_field = itemgetter(*CHECK_FIELDS)

# What the conversion of damaged lines raises.
_FAULTS = (TypeError, ValueError, OverflowError, AttributeError)


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """A log read back: one array entry per check, NaN (-1 in columns of integers) where there was no number.

    Checks and events are those of the final history: checks that were made again after the run was taken up at an
    earlier step are left out. `frame` grows, perhaps with gaps. `alarms` holds the names of the statistics with a space
    between them; texts are cut at 200 characters; `excesses` and `further` hold an array per statistic, `phases` and
    `phase_clusters` one per phase. Where frames came from files, a check is of frame `source_frame` of the file
    ``sources[source]``.
    """

    header: dict[str, Any]
    """The header line: package version, reference, settings, levels and what they promise."""
    events: list[Event]
    """The latest state of every event, in order of id."""
    notes: list[dict[str, Any]]
    """Notes, warnings and errors that the monitor wrote, also in parts that were superseded."""
    rewinds: list[dict[str, Any]]
    """All rewinds: checks from `frame` on that stood before such a line were superseded."""
    references: list[dict[str, Any]]
    """Changes of the reference."""
    stops: list[dict[str, Any]]
    """Where an action or the trigger has ended the run: `step`, id of the `event`, and `stopped`, why in a sentence."""
    sources: list[str]
    """Files whose frames were checked; none in logs of live runs."""
    step: NDArray[np.int64]
    frame: NDArray[np.int64]
    time_ps: NDArray[np.float64]
    n_atoms: NDArray[np.int64]
    dh_max: NDArray[np.float64]
    dh_mean: NDArray[np.float64]
    dh_q99: NDArray[np.float64]
    n_above: NDArray[np.int64]
    largest_cluster: NDArray[np.float64]
    n_tail: NDArray[np.int64]
    tail_cluster: NDArray[np.float64]
    frame_entropy: NDArray[np.float64]
    excess: NDArray[np.float64]
    worst_atom: NDArray[np.int64]
    worst_element: NDArray[np.str_]
    n_unknown: NDArray[np.int64]
    temperature_K: NDArray[np.float64]
    volume_per_atom: NDArray[np.float64]
    energy_per_atom: NDArray[np.float64]
    interval: NDArray[np.float64]
    alarms: NDArray[np.str_]
    trigger_excess: NDArray[np.float64]
    excesses: dict[str, NDArray[np.float64]]
    phases: dict[str, NDArray[np.int64]]
    phase_clusters: dict[str, NDArray[np.int64]]
    explosion: NDArray[np.str_]
    confirm_excess: NDArray[np.float64]
    n_colder: NDArray[np.float64]
    further: dict[str, NDArray[np.float64]]
    state: NDArray[np.str_]
    digest: NDArray[np.str_]
    elapsed_us: NDArray[np.float64]
    source: NDArray[np.int64]
    source_frame: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.step)

    def statistic(self, name: str) -> NDArray[Any]:
        """(n_checks,) values of a statistic; NaN where the log has none."""
        if name in CHECK_FIELDS:
            return np.asarray(getattr(self, name))
        return self.further.get(name, np.full(len(self), np.nan))


def read_log(path: str | os.PathLike[str]) -> Log:
    """Read a log, also of a run that is still going or was killed: a torn last line is ignored.

    A million checks take 10 to 15 s and, while they are read, twice the memory of the result.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file is empty, not a log, of a newer schema, or damaged before its last line.

    Examples
    --------
    >>> log = read_log("quests-md.jsonl")                      # doctest: +SKIP
    >>> log.step[log.state == "out"], log.events[0].onset_step  # doctest: +SKIP
    """
    history = LogHistory(path)
    columns = _CheckColumns()
    events: dict[int, Event] = {}
    notes, references, stops = [], [], []
    try:
        for line, counts in history.every_line():
            kind = line.content["type"]
            if kind == "note":
                notes.append(line.content)
            elif not counts:
                continue
            elif kind == "check":
                columns.add(line)
            elif kind == "event":
                event = _event(line)
                events[event.id] = event
            elif kind == "reference":
                references.append(line.content)
            elif kind == "state" and isinstance(line.content.get("stopped"), str):
                stops.append(line.content)
        arrays = columns.arrays()
    except _BadLineError as bad:
        raise history.error(bad.start, f"is not a log line of schema {SCHEMA}: {bad}") from bad.__cause__
    return Log(
        header=history.header,
        events=[events[i] for i in sorted(events)],
        notes=notes,
        rewinds=[line.content for line in history.rewinds],
        references=references,
        stops=stops,
        sources=list(columns.sources),
        **arrays,
    )


def _event(line: Line) -> Event:
    try:
        return Event.from_line(line.content)
    except (KeyError, TypeError) as exc:
        raise _BadLineError(line, exc) from exc


class _BadLineError(Exception):
    """What is wrong with a line; `read_log` makes a FileFormatError of it that names the line."""

    def __init__(self, line: Line, fault: Exception) -> None:
        super().__init__(f"{type(fault).__name__}: {str(fault)[:200]}")
        self.start = line.start


class _Column:
    """An array that grows."""

    def __init__(self) -> None:
        self._array: NDArray[Any] = np.empty(0, dtype=np.int8)
        self._length = 0

    def extend(self, piece: NDArray[Any]) -> None:
        """Append values; the type of the array follows theirs, and the longest text."""
        length = self._length + len(piece)
        dtype = np.promote_types(self._array.dtype, piece.dtype) if self._length else piece.dtype
        if length > len(self._array) or dtype != self._array.dtype:
            # the memory that is not filled yet is not taken yet
            grown = np.empty(max(2 * length, HELD_LINES), dtype=dtype)
            grown[: self._length] = self.values
            self._array = grown
        self._array[self._length : length] = piece
        self._length = length

    @property
    def values(self) -> NDArray[Any]:
        """The array."""
        return self._array[: self._length]


class _CheckColumns:
    """The checks so far as arrays: one for each name in a field of mappings, in other fields one under the name "".

    Its methods raise `_BadLineError` if a line, perhaps an earlier one, holds what no check holds.
    """

    def __init__(self) -> None:
        self.sources: dict[str, int] = {}
        """Files of the checks, with their count."""
        self._held: list[tuple[Line, tuple[Any, ...]]] = []  # with the fields of the line
        self._n_checks = 0
        self._columns: dict[str, dict[str, _Column]] = {field: {} for field in _FIELDS}

    def add(self, line: Line) -> None:
        """Take a check line."""
        try:
            try:
                row = _fields(line.content)
            except KeyError:
                row = _fields(complete_line(line.content))
            row = (*row, *self._place(line.content.get("place")))
        except (KeyError, TypeError) as exc:
            raise _BadLineError(line, exc) from exc
        self._held.append((line, row))
        if len(self._held) == HELD_LINES or line.start - self._held[0][0].start > HELD_BYTES:
            self._convert()

    def arrays(self) -> dict[str, Any]:
        """The columns by field."""
        self._convert()
        arrays = {f: {name: column.values for name, column in known.items()} for f, known in self._columns.items()}
        return {f: known if f in _MAPPINGS else known.get("", _pieces(f, ())[""]) for f, known in arrays.items()}

    def _convert(self) -> None:
        """Put the lines that are held into the columns."""
        rows = [row for _, row in self._held]
        try:
            for field, values in zip(_FIELDS, zip(*rows, strict=True), strict=False):
                self._extend(field, _pieces(field, values))
        except _FAULTS as fault:
            for line, row in self._held:
                try:
                    for field, value in zip(_FIELDS, row, strict=True):
                        _pieces(field, (value,))
                except _FAULTS as exc:
                    raise _BadLineError(line, exc) from exc
            raise _BadLineError(self._held[-1][0], fault) from fault
        self._n_checks += len(rows)
        self._held = []

    def _place(self, content: Any) -> tuple[int | None, int | None]:
        if content is None:
            return None, None
        place = from_mapping(FramePlace, content)
        return self.sources.setdefault(place.source, len(self.sources)), place.frame

    def _extend(self, field: str, pieces: dict[str, NDArray[Any]]) -> None:
        known = self._columns[field]
        for name, piece in pieces.items():
            if name not in known:
                _require_few(field, len(known) + 1)
                known[name] = _Column()
                if field in _MAPPINGS:
                    known[name].extend(np.full(self._n_checks, _MAPPINGS[field], dtype=piece.dtype))
            known[name].extend(piece)
        for name in known.keys() - pieces.keys():
            known[name].extend(np.full(len(self._held), _MAPPINGS[field]))


def _fields(content: dict[str, Any]) -> tuple[Any, ...]:
    return (*_every_field(content), content.get("further"))


def _pieces(field: str, values: Sequence[Any]) -> dict[str, NDArray[Any]]:
    """Values of a field as arrays by name, see `_CheckColumns`; one of `_FAULTS` if the field cannot hold a value."""
    if field not in _MAPPINGS:
        return {"": _array(field, values)}
    kinds: set[type] = {dict} if field == "excesses" else {dict, NoneType}
    _require_types(field, values, kinds, "numbers by name")
    mappings = [value or {} for value in values]
    names = dict.fromkeys(name for mapping in mappings for name in mapping)
    _require_few(field, len(names))
    return {name: _array(field, [mapping.get(name, _MAPPINGS[field]) for mapping in mappings]) for name in names}


def _array(field: str, values: Sequence[Any]) -> NDArray[Any]:
    """Values of a field, or of one name in a field of mappings, as an array."""
    may_lack = {NoneType} if field in _MAY_LACK and field not in _MAPPINGS else set()
    if field == "alarms":
        if not set(map(type, values)) <= {list, tuple}:
            raise TypeError("alarms: expected a list of texts")
        return _texts(field, [" ".join(value) for value in values])
    if field == "state" and not set(values) <= set(_STATES):
        raise ValueError(f"state: expected one of {', '.join(_STATES)}")
    if _BASES.get(field) is str or field == "state":
        _require_types(field, values, {str} | may_lack, "a text")
        return _texts(field, ["" if value is None else value for value in values])
    if _BASES.get(field) is int or field in _INTEGERS:
        _require_types(field, values, {int} | may_lack, "integers")
        integers = np.array([-1 if value is None else value for value in values], dtype=np.int64)
        if field in _INTEGERS:
            return integers
        return np.where([value is None for value in values], np.nan, integers)
    if str in set(map(type, values)):
        values = list(map(number, values))
    _require_types(field, values, {int, float} | may_lack, "numbers")
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _require_types(field: str, values: Sequence[Any], kinds: set[type], expected: str) -> None:
    if not set(map(type, values)) <= kinds:
        raise TypeError(f"{field}: expected {expected}")


def _require_few(field: str, n_names: int) -> None:
    if n_names > MAX_NAMES:
        raise ValueError(f"{field}: expected at most {MAX_NAMES} names in a log, got more")


def _texts(field: str, values: Sequence[Any]) -> NDArray[np.str_]:
    if max(map(len, values), default=0) > MAX_TEXT:
        values = [value[:MAX_TEXT] for value in values]
    return np.array(values, dtype=np.str_)
