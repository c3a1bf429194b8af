"""Check, Event and the log: frozen records, written as JSON lines and read back."""

import fcntl
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import FileFormatError, LogExistsError

__all__ = ["SCHEMA", "Check", "Event", "Log", "LogWriter", "NearestEnvironment", "read_log", "require_new_log"]

#: Version of the log lines. A reader refuses a newer one.
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Check:
    """What one check of one frame found. None stands for a number that does not exist here."""

    step: int
    """The host's step, plus an offset where a later dynamics on the same monitor began again at 0."""
    frame: int
    """The monitor's own count of checks, from 0."""
    time_ps: float | None
    """Simulated time, ps."""
    n_atoms: int
    """Atoms in the frame."""
    dh_max: float | None
    """Largest dH over atoms, nats; inf with an unknown element; None in "proven" mode when no atom is above."""
    dh_mean: float | None
    """Mean dH over atoms of known elements (in "proven" mode: of the fixed sample), nats."""
    dh_q99: float | None
    """99 % quantile of dH over the same atoms, nats."""
    n_above: int
    """Atoms above their level."""
    largest_cluster: int | None
    """Atoms in the largest connected cluster of atoms above their level."""
    frame_entropy: float | None
    """Self-entropy H of the frame's rows (in "proven" mode: of the fixed sample), nats."""
    excess: float
    """Largest dH - level over atoms, nats. NaN in an invalid frame."""
    worst_atom: int | None
    """Index of the atom of that excess."""
    worst_element: str | None
    """Its element."""
    n_unknown: int
    """Atoms of an element that the reference has never seen; each scores +inf."""
    temperature_K: float | None
    """Kinetic temperature, K, where the frame has momenta."""
    volume_per_atom: float | None
    """Å^3 per atom, for cells periodic in three directions."""
    energy_per_atom: float | None
    """eV per atom, only if already computed."""
    interval: int | None
    """Steps between checks."""
    state: Literal["in", "out", "invalid"]
    """"out": a statistic in use is beyond its level. "invalid": non-finite numbers or no usable cell; not judged."""
    digest: str
    """Checksum of positions, cell and numbers."""
    elapsed_us: float
    """Wall time of the check, microseconds. The only field that may differ between equal runs."""
    n_tail: int | None = None
    """Atoms above the atom level, which a hundredth of the environments in distribution exceeds; None in "proven" mode
    unless a statistic in use needs it."""
    tail_cluster: int | None = None
    """Atoms in the largest connected cluster of those."""
    alarms: tuple[str, ...] = ()
    """Statistics in use that are beyond their level: names of the fields above."""
    trigger_excess: float = math.nan
    """What the trigger gets: how far the worst statistic in use is beyond its level, nats (counts: log of the ratio).

    The largest dH counts as it is; below its level any other statistic counts as released half of the way to its
    median, where that is nearer than the trigger's release."""
    delta_entropy: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    """(n_atoms,) dH per atom, nats; in "proven" mode NaN where only "not above" was proven. Not in the log."""
    above: NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)
    """(n_atoms,) whether the atom is above its level. Not in the log."""

    def to_line(self) -> dict[str, Any]:
        """The record as a log line."""
        return {"type": "check"} | {name: getattr(self, name) for name in CHECK_FIELDS}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> "Check":
        """The record of a log line, without the per-atom arrays."""
        line = _complete(line)
        return cls(**{name: _number(name, line[name]) for name in CHECK_FIELDS} | {"alarms": tuple(line["alarms"])})


#: The fields of a check that go to the log.
CHECK_FIELDS = tuple(f.name for f in fields(Check) if f.name not in ("delta_entropy", "above"))

_TEXT_FIELDS = {"alarms", "state", "digest", "worst_element", "kind", "source"}


@dataclass(frozen=True, slots=True)
class NearestEnvironment:
    """The reference environment nearest to an atom."""

    distance: float
    """Distance of the rows in bandwidths h."""
    source: str
    """File of the reference frame, or "memory"."""
    frame: int
    """Index of the frame in that file."""
    atom: int
    """Index of the atom in that frame."""


@dataclass(frozen=True, slots=True)
class Event:
    """A stretch of the run outside the reference: onset, course and place."""

    id: int
    """Count of events in the log, from 1."""
    kind: Literal["novel", "transition", "exploded"]
    """"novel": outside the reference, nothing more is known. "exploded": the numbers stopped being finite."""
    onset_step: int
    """Step of the first check out of the run of checks that opened the event."""
    confirmed_step: int
    """Step at which patience was spent and the event opened."""
    last_step: int
    """Step of the last check out so far."""
    onset_time_ps: float | None
    """Time of the onset, ps."""
    onset_temperature_K: float | None
    """Kinetic temperature at the onset, K."""
    peak_excess: float
    """Largest `Check.trigger_excess`, nats."""
    peak_step: int
    """Step at which it was reached."""
    n_atoms: int
    """Atoms above their level at the peak."""
    atoms: tuple[int, ...]
    """Their identities: `atoms.arrays["id"]` where present, else indices; the worst 1000 of them."""
    size_history: tuple[tuple[int, int], ...]
    """(step, atoms above) along the event, thinned to at most 128 pairs."""
    centroid: tuple[float, float, float] | None
    """Mean position of the atoms above at the peak, Å, unwrapped around the worst atom."""
    worst_atom: int | None
    """Identity of the atom of largest excess at the peak."""
    worst_element: str | None
    """Its element."""
    nearest: NearestEnvironment | None
    """Reference environment nearest to the worst atom at the peak."""
    n_checks: int
    """Checks since the onset."""
    is_open: bool
    """Whether the event was still open when this was written."""
    alarms: tuple[str, ...] = ()
    """Statistics that were beyond their level so far: names of the fields of `Check`."""

    def to_line(self) -> dict[str, Any]:
        """The record as a log line."""
        line: dict[str, Any] = {"type": "event"}
        for f in fields(self):
            line[f.name] = getattr(self, f.name)
        if self.nearest is not None:
            line["nearest"] = {f.name: getattr(self.nearest, f.name) for f in fields(NearestEnvironment)}
        return line

    def describe(self) -> str:
        """What happened, in a few lines."""
        steps = f"step {self.onset_step}"
        if self.last_step != self.onset_step:
            steps = f"steps {self.onset_step} to {self.last_step}"
        lines = [f"event {self.id}: {self.kind}, {steps}{', still open' if self.is_open else ''}"]
        began = [f"step {self.onset_step}"]
        if self.onset_time_ps is not None:
            began.append(f"{self.onset_time_ps:.2f} ps")
        if self.onset_temperature_K is not None:
            began.append(f"{self.onset_temperature_K:.0f} K")
        lines.append(f"  began    {', '.join(began)}; confirmed at step {self.confirmed_step}")
        if math.isnan(self.peak_excess):
            lines.append("  frames   have non-finite numbers or no usable cell")
            return "\n".join(lines)
        lines.append(f"  alarms   {', '.join(self.alarms)}")
        atoms = f"{self.n_atoms} atom{'s' * (self.n_atoms != 1)} above the level"
        lines.append(f"  peak     step {self.peak_step}: {self.peak_excess:.1f} nats beyond the level; {atoms}")
        worst = f"atom {self.worst_atom} ({self.worst_element})"
        if self.nearest is not None:
            near = self.nearest
            worst += f", {near.distance:.1f} bandwidths from the nearest known environment:"
            place = "the reference's" if near.source == "memory" else near.source
            lines += [f"  worst    {worst}", f"           {place} frame {near.frame} atom {near.atom}"]
        elif self.peak_excess == math.inf:
            lines.append(f"  worst    {worst}, an element that the reference has never seen")
        return "\n".join(lines)

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> "Event":
        """The record of a log line."""
        line = {"alarms": ["dh_max"]} | dict(line)  # the first release did not write it
        values = {f.name: _number(f.name, line[f.name]) for f in fields(cls)}
        values["alarms"] = tuple(line["alarms"])
        values["atoms"] = tuple(line["atoms"])
        values["size_history"] = tuple((int(step), int(size)) for step, size in line["size_history"])
        if line["centroid"] is not None:
            values["centroid"] = tuple(_number("centroid", x) for x in line["centroid"])
        if line["nearest"] is not None:
            values["nearest"] = NearestEnvironment(
                **{f.name: _number(f.name, line["nearest"][f.name]) for f in fields(NearestEnvironment)}
            )
        return cls(**values)


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """A log read back: one array entry per check, NaN (-1 for `worst_atom` and `n_tail`) where there was no number.

    `alarms` holds the names with a space between them.
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
                line = _complete(line)
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
        arrays = {name: _column(name, values) for name, values in columns.items()}
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


def _number(name: str, value: Any) -> Any:
    """The value of a field as it was before `_plain`."""
    if isinstance(value, str) and name not in _TEXT_FIELDS and value in ("inf", "-inf", "nan"):
        return float(value)
    return value


def _complete(line: Mapping[str, Any]) -> dict[str, Any]:
    """A check line with the fields that the first release did not write: the largest dH was all that raised alarms."""
    alarms = ["dh_max"] if line["state"] == "out" else []
    return {"n_tail": None, "tail_cluster": None, "alarms": alarms, "trigger_excess": line["excess"]} | dict(line)


def _column(name: str, values: list[Any]) -> NDArray[Any]:
    if name == "alarms":
        return np.array([" ".join(value) for value in values], dtype=np.str_)
    if name in _TEXT_FIELDS:
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
