"""The log of a run: JSON lines, written one by one and read back."""

import fcntl
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FileFormatError, LogExistsError
from .records import CHECK_FIELDS, TEXT_FIELDS, Event, complete_line

__all__ = ["SCHEMA", "Log", "LogWriter", "read_log", "require_new_log"]

#: Version of the log lines. A reader refuses a newer one.
SCHEMA = 1


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """A log read back: one array entry per check, NaN (-1 in columns of integers) where there was no number.

    `alarms` holds the names with a space between them; `phases` and `phase_clusters` hold an array per phase.
    """

    header: dict[str, Any]
    """The header line: package version, reference, settings, levels and what they promise."""
    events: list[Event]
    """The latest state of every event, in order of id."""
    notes: list[dict[str, Any]]
    """Notes, warnings and errors that the monitor wrote."""
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
    phases: dict[str, NDArray[np.int64]]
    phase_clusters: dict[str, NDArray[np.int64]]
    explosion: NDArray[np.str_]
    state: NDArray[np.str_]
    digest: NDArray[np.str_]
    elapsed_us: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.step)


_INTEGER_COLUMNS = {"step", "frame", "n_atoms", "n_above", "n_tail", "worst_atom", "n_unknown"}


def read_log(path: str | os.PathLike[str]) -> Log:
    """Read a log, also of a run that is still going or was killed: a torn last line is ignored.

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
    header: dict[str, Any] | None = None
    columns: dict[str, list[Any]] = {name: [] for name in CHECK_FIELDS}
    events: dict[int, Event] = {}
    notes = []
    for number, line in _lines(Path(path)):
        try:
            kind = line["type"]
            if header is None:
                header = _checked_header(path, line)
            elif kind == "check":
                line = complete_line(line)
                for name, column in columns.items():
                    column.append(line[name])
            elif kind == "event":
                events[line["id"]] = Event.from_line(line)
            elif kind == "note":
                notes.append(line)
        except FileFormatError:
            raise
        except (KeyError, TypeError, ValueError) as exc:
            raise FileFormatError(f"{path}: line {number} is not a log line of schema {SCHEMA}: {exc!r}") from exc
    if header is None:
        raise FileFormatError(f"{path}: expected a quests_md log, got a file without a complete line")
    try:
        arrays: dict[str, Any] = {name: _column(name, values) for name, values in columns.items()}
    except (TypeError, ValueError, OverflowError) as exc:
        raise FileFormatError(f"{path}: a check line holds a value of the wrong type: {exc}") from exc
    return Log(header=header, events=[events[i] for i in sorted(events)], notes=notes, **arrays)


def require_new_log(path: str | os.PathLike[str]) -> None:
    """Raise LogExistsError if the file holds something already."""
    file = Path(path)
    if file.is_file() and file.stat().st_size:
        raise LogExistsError(f"log: {path} already holds {_describe_log(file)}; move it away or choose another")


class LogWriter:
    """Appends lines to a new log. Every line is handed to the system at once, so that a killed process loses none.

    Lines are not forced to the disk one by one: a power cut may cost the last seconds, a killed process nothing.

    Raises
    ------
    LogExistsError
        If the file holds something already, or another monitor has it open.
    OSError
        If it cannot be created.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as exc:
            raise type(exc)(
                exc.errno,
                f"log: cannot be written ({exc.strerror}); create its folder or choose another name",
                str(path),
            ) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._abandon()
            raise LogExistsError(f"log: {path} is being written by another monitor; choose another name") from None
        except OSError:  # a file system without locks
            pass
        self._end = os.fstat(self._fd).st_size
        if self._end:
            self._abandon()
            require_new_log(path)

    def write(self, *lines: Mapping[str, Any]) -> None:
        """Append lines, all of them whole, or raise OSError and leave the file as it was."""
        text = "".join(json.dumps(_plain(line), allow_nan=False, ensure_ascii=False) + "\n" for line in lines)
        # a file name that is not UTF-8 holds lone surrogates: JSON has an escape for them, and it is this one
        data = text.encode(errors="backslashreplace")
        with self._lock:
            try:
                written = os.write(self._fd, data)
                while written < len(data):
                    written += os.write(self._fd, data[written:])
            except OSError:
                with suppress(OSError):  # what cannot be cut back must not hide why
                    os.ftruncate(self._fd, self._end)  # a full disk may have taken half of the line
                raise
            self._end += len(data)

    def close(self) -> None:
        """Force the log to the disk and close it."""
        with self._lock:
            if self._fd >= 0:
                try:
                    os.fsync(self._fd)
                finally:
                    os.close(self._fd)
                    self._fd = -1

    def __del__(self) -> None:
        self._abandon()  # a monitor that was dropped without close()

    def _abandon(self) -> None:
        fd, self._fd = getattr(self, "_fd", -1), -1
        if fd >= 0:
            os.close(fd)


def _plain(value: Any) -> Any:
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
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    return value


def _column(name: str, values: list[Any]) -> NDArray[Any] | dict[str, NDArray[Any]]:
    if name in ("phases", "phase_clusters"):
        phases = dict.fromkeys(phase for value in values if value is not None for phase in value)
        return {
            phase: np.array([-1 if value is None else value.get(phase, -1) for value in values], dtype=np.int64)
            for phase in phases
        }
    if name == "alarms":
        return np.array([" ".join(value) for value in values], dtype=np.str_)
    if name in TEXT_FIELDS:
        return np.array(["" if value is None else value for value in values], dtype=np.str_)
    if name in _INTEGER_COLUMNS:
        return np.array([-1 if value is None else value for value in values], dtype=np.int64)
    return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of every complete line; whatever follows the last newline is torn and left out."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                return
            try:
                line = json.loads(raw)
            except ValueError as exc:
                raise FileFormatError(f"{path}: line {number} is not JSON: {exc}; is this a quests_md log?") from exc
            if not isinstance(line, dict) or "type" not in line:
                raise FileFormatError(f"{path}: line {number} has no type; is this a quests_md log?")
            yield number, line


def _checked_header(path: str | os.PathLike[str], line: dict[str, Any]) -> dict[str, Any]:
    if line["type"] != "header":
        raise FileFormatError(f"{path}: expected a header in line 1, got a line of type {line['type']!r}")
    schema = line.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise FileFormatError(f"{path}: log schema {schema!r}, this version reads up to {SCHEMA}; update quests_md")
    return line


def _describe_log(path: Path) -> str:
    try:
        log = read_log(path)
    except (FileFormatError, OSError):
        return "something that is not a quests_md log"
    reference = log.header.get("reference")
    fingerprint = reference.get("fingerprint") if isinstance(reference, dict) else "unknown"
    last = f", last at step {log.step[-1]}" if len(log) else ""
    return f"a run of {len(log)} checks{last} against reference {fingerprint}, started {log.header.get('started')}"
