"""The log of a run: JSON lines, written one by one and read back."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quests_md.errors import FileFormatError, LogExistsError
from quests_md.records import CHECK_FIELDS, TEXT_FIELDS, Event, complete_line

from .history import MAX_LINE_BYTES, SCHEMA, LogHistory, is_torn_header
from .locked_file import Appender, is_held
from .typed import require_types

__all__ = ["SCHEMA", "Log", "LogWriter", "plain_line", "read_log", "require_new_log"]

#: Most phases or statistics a log may name, and most characters of a text in a column: what a damaged or hostile log
#: costs must stay bounded.
MAX_NAMES, MAX_TEXT = 100, 200

#: Check lines that are held before they become arrays: Python's numbers take five times the memory.
HELD_LINES = 100

#: Length of the file that they may span.
HELD_BYTES = 4_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """A log read back: one array entry per check, NaN (-1 in columns of integers) where there was no number.

    Checks and events are those of the final history: what a rewind superseded is left out. `frame` grows, perhaps with
    gaps. `alarms` holds the names with a space between them; texts are cut at 200 characters; `excesses` holds an array
    per statistic, `phases` and `phase_clusters` one per phase.
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
    state: NDArray[np.str_]
    digest: NDArray[np.str_]
    elapsed_us: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.step)


_INTEGERS = {"step", "frame", "n_atoms", "n_above", "n_tail", "worst_atom", "n_unknown", "phases", "phase_clusters"}
_MAPPINGS = {"excesses": math.nan, "phases": -1, "phase_clusters": -1}  # and what stands where there is no number
_NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


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
    columns = _Columns()
    events: dict[int, Event] = {}
    notes, references = [], []
    try:
        for start, line, counts in history.every_line():
            kind = line["type"]
            if kind == "note":
                notes.append(line)
            elif not counts:
                continue
            elif kind == "check":
                columns.add(start, line)
            elif kind == "event":
                event = _event(start, line)
                events[event.id] = event
            elif kind == "reference":
                references.append(line)
        arrays = columns.arrays()
    except _BadLine as bad:
        raise history.error(bad.start, f"is not a log line of schema {SCHEMA}: {bad}") from bad.__cause__
    return Log(
        header=history.header,
        events=[events[i] for i in sorted(events)],
        notes=notes,
        rewinds=history.rewinds,
        references=references,
        **arrays,
    )


def require_new_log(path: str | os.PathLike[str]) -> None:
    """Raise LogExistsError if the file holds something already, or is being written."""
    file = Path(path)
    if not file.is_file():
        return
    if is_held(file):
        raise LogExistsError(_held_by(file))
    if file.stat().st_size:
        raise LogExistsError(_held_content(file))


class LogWriter:
    """Appends lines to a log. Every line is handed to the system at once, so that a killed process loses none.

    The first lines (the header, or what is said when a run is taken up again) and the closing are forced to the disk.
    The lines between are not, since that may halt the simulation for seconds: the system writes them within half a
    minute or so, and that much a power cut may cost. Failures, second writers and forks: see `Appender`.

    Parameters
    ----------
    path
        The log.
    resume
        Go on with a log that is there, if there is one: a torn last line is cut away, nothing else is changed.

    Attributes
    ----------
    path
        The log.
    history
        What the resumed log held; None for a new one.

    Raises
    ------
    LogExistsError
        If another monitor has it open, or, without `resume`, if the file holds something already.
    FileFormatError
        With `resume`, if the file is not a log or of a newer schema.
    OSError
        If it cannot be created or opened.
    """

    def __init__(self, path: str | os.PathLike[str], resume: bool = False) -> None:
        self.path = Path(path)
        self.history: LogHistory | None = None
        self._has_begun = False
        try:
            self._file = Appender(self.path)
        except BlockingIOError:
            raise LogExistsError(_held_by(self.path)) from None
        try:
            if self._file.end:
                self._take_up(resume)
        except BaseException:
            self._file.abandon()
            raise

    @property
    def is_mine(self) -> bool:
        """Whether this process opened it; a forked child did not, and cannot write."""
        return self._file.is_mine

    def write(self, *lines: Mapping[str, Any]) -> None:
        """Append lines, all of them whole, or raise and leave the file as it was.

        Raises
        ------
        OSError
            If they cannot be written. If the file was deleted, cut short or written by another process, this and every
            later call raises, and the file is not touched again.
        ValueError
            If a line is longer than a reader accepts.
        """
        texts = [json.dumps(plain_line(line), allow_nan=False, ensure_ascii=False) + "\n" for line in lines]
        # a file name that is not UTF-8 holds lone surrogates: JSON has an escape for them, and it is this one
        pieces = [text.encode(errors="backslashreplace") for text in texts]
        longest = max(map(len, pieces), default=0)
        if longest > MAX_LINE_BYTES:
            raise ValueError(f"log: expected lines of at most {MAX_LINE_BYTES} bytes, got one of {longest}")
        self._file.append(b"".join(pieces), sync=not self._has_begun)
        self._has_begun = self._has_begun or bool(lines)

    def close(self) -> None:
        """Force the log to the disk and close it; in a forked child, do nothing."""
        self._file.close()

    def _take_up(self, resume: bool) -> None:
        if not resume:
            raise LogExistsError(_held_content(self.path))
        if is_torn_header(self.path):
            self._file.cut(0)
            return
        self.history = LogHistory(self.path)
        self._file.cut(self.history.end)


class _BadLine(Exception):  # becomes a FileFormatError that names the line
    def __init__(self, start: int, fault: Exception) -> None:
        super().__init__(f"{type(fault).__name__}: {str(fault)[:200]}")
        self.start = start


#: What records of damaged lines raise.
_FAULTS = (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError)


def _event(start: int, line: Mapping[str, Any]) -> Event:
    try:
        event = Event.from_line(line)
        require_types(event)
    except _FAULTS as exc:
        raise _BadLine(start, exc) from exc
    return event


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


class _Columns:
    """The checks so far as arrays: of a field one, by the name "", or one for each name in its mappings."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._rows: list[tuple[Any, ...]] = []
        self._n_checks = 0
        self._columns: dict[str, dict[str, _Column]] = {field: {} for field in CHECK_FIELDS}

    def add(self, start: int, line: dict[str, Any]) -> None:
        """Take a check line that begins at offset `start`."""
        try:
            try:
                row = _fields(line)
            except KeyError:
                row = _fields(complete_line(line))
        except _FAULTS as exc:
            raise _BadLine(start, exc) from exc
        self._starts.append(start)
        self._rows.append(row)
        if len(self._rows) == HELD_LINES or start - self._starts[0] > HELD_BYTES:
            self._convert()

    def arrays(self) -> dict[str, Any]:
        """The columns."""
        self._convert()
        arrays = {f: {name: column.values for name, column in known.items()} for f, known in self._columns.items()}
        return {f: known if f in _MAPPINGS else known.get("", _pieces(f, ())[""]) for f, known in arrays.items()}

    def _convert(self) -> None:
        try:
            for field, values in zip(CHECK_FIELDS, zip(*self._rows, strict=True), strict=False):
                self._extend(field, _pieces(field, values))
        except _FAULTS as fault:
            for start, row in zip(self._starts, self._rows, strict=True):
                try:
                    for field, value in zip(CHECK_FIELDS, row, strict=True):
                        _pieces(field, (value,))
                except _FAULTS as exc:
                    raise _BadLine(start, exc) from exc
            raise _BadLine(self._starts[-1], fault) from fault
        self._n_checks += len(self._rows)
        self._starts, self._rows = [], []

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
            known[name].extend(np.full(len(self._rows), _MAPPINGS[field]))


_fields = itemgetter(*CHECK_FIELDS)


def _pieces(field: str, values: Sequence[Any]) -> dict[str, NDArray[Any]]:
    """Values of a field as arrays by name.

    Raises
    ------
    TypeError, ValueError, KeyError, OverflowError, AttributeError
        If a value is not what the field holds.
    """
    if field not in _MAPPINGS:
        return {"": _array(field, values)}
    mappings = [{} if value is None and field != "excesses" else value for value in values]
    names = dict.fromkeys(name for mapping in mappings for name in mapping.keys())  # noqa: SIM118  # not of a list
    _require_few(field, len(names))
    return {name: _array(field, [mapping.get(name) for mapping in mappings]) for name in names}


def _array(field: str, values: Sequence[Any]) -> NDArray[Any]:
    kinds = set(map(type, values))
    if field == "alarms":
        return _texts(field, [" ".join(value) for value in values])
    if field in TEXT_FIELDS and field not in _MAPPINGS:
        return _texts(field, ["" if value is None else value for value in values] if type(None) in kinds else values)
    if field in _INTEGERS:
        if not kinds <= {int, type(None)}:
            raise TypeError(f"{field}: expected integers")
        return np.array([-1 if value is None else value for value in values], dtype=np.int64)
    if str in kinds:
        values = [_NON_FINITE[value] if type(value) is str else value for value in values]
        kinds -= {str}
    if not kinds <= {float, int, type(None)}:
        raise TypeError(f"{field}: expected numbers")
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _require_few(field: str, n_names: int) -> None:
    if n_names > MAX_NAMES:
        raise ValueError(f"{field}: expected at most {MAX_NAMES} names in a log, got more")


def _texts(field: str, values: Sequence[Any]) -> NDArray[np.str_]:
    if not set(map(type, values)) <= {str}:
        raise TypeError(f"{field}: expected a text")
    if max(map(len, values), default=0) > MAX_TEXT:
        values = [value[:MAX_TEXT] for value in values]
    return np.array(values, dtype=np.str_)


def plain_line(value: Any) -> Any:
    """The value in types that JSON has; it has no inf or NaN, so they are written as strings."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        number = float(value)
        if math.isfinite(number):
            return number
        return "nan" if math.isnan(number) else "inf" if number > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(key): plain_line(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain_line(item) for item in value]
    return value


def _held_by(path: Path) -> str:
    """That another monitor writes the log, and which."""
    who = "another monitor"
    with suppress(OSError, FileFormatError):  # no header yet
        owner = LogHistory(path).owner
        pid, host, started = (_said(owner.get(name)) for name in ("pid", "host", "started"))
        who += f" (process {pid} on {host}, since {started})"
    return f"log: {path} is being written by {who}; wait until it ends, end it, or choose another name"


def _held_content(path: Path) -> str:
    """That the file holds something, and what."""
    try:
        history = LogHistory(path)
        last = history.last
    except (FileFormatError, OSError):
        what = "something that is not a quests_md log"
    else:
        reference = history.header.get("reference")
        fingerprint = reference.get("fingerprint") if isinstance(reference, dict) else None
        frame, step = (-1, None) if last is None else (last.content.get("frame"), last.content.get("step"))
        n_checks = frame + 1 if type(frame) is int else "unknown"
        at = "" if last is None else f", last at step {_said(step)}"
        started = _said(history.header.get("started"))
        what = f"a run of {n_checks} checks{at} against reference {_said(fingerprint)}, started {started}"
    return f"log: {path} already holds {what}; move it away, choose another name, or resume it"


def _said(value: Any) -> str:
    """A value of a log, in a form that fits into a message."""
    if not isinstance(value, str | int):
        return "unknown"
    text = str(value)[:100]
    return text if text.isprintable() else repr(text)
