"""The log of a run as it is written: one line after the other, by one process at a time."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from quests_md._json import dumps
from quests_md.errors import FileFormatError, LogExistsError

from .history import LogHistory
from .lines import MAX_LINE_BYTES
from .locked_file import Appender, is_held

__all__ = ["LogWriter", "require_new_log"]


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

    The first lines (the header, or what is said when a run is taken up again) are forced to the disk, and all lines are
    when the log is closed. Forcing every line might halt the simulation for seconds. The system itself writes a line to
    the disk within half a minute or so: a power cut may cost the lines of the last half minute. Failures, second
    writers and forks: see `Appender`. With `resume` the writer goes on with a log that is there, if there is one: a
    torn last line is cut away, nothing else is changed.

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
        """What the resumed log held; None for a new one."""
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

    def write(self, *lines: Mapping[str, Any]) -> None:
        """Append lines, all of them whole, or raise and leave the file as it was.

        OSError: they cannot be written; if the file was deleted, cut short or written by another process, every later
        call raises too, and the file is not touched again. ValueError: a line is longer than a reader accepts.
        """
        pieces = [dumps(line).encode() + b"\n" for line in lines]
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
        if _is_torn_header(self.path):
            self._file.cut(0)
            return
        self.history = LogHistory(self.path)
        self._file.cut(self.history.end)


def _is_torn_header(path: Path) -> bool:
    """Whether the file holds the beginning of a log's first line and nothing more."""
    if path.stat().st_size > MAX_LINE_BYTES:
        return False
    raw = path.read_bytes()
    start = b'{"type": "header"'
    return b"\n" not in raw and raw[: len(start)] == start[: len(raw)]


def _held_by(path: Path) -> str:
    """The message that another monitor writes the log, and which monitor."""
    who = "another monitor"
    with suppress(OSError, FileFormatError):  # no header yet
        owner = LogHistory(path).owner
        pid, host, started = (_said(owner.get(name)) for name in ("pid", "host", "started"))
        who += f" (process {pid} on {host}, since {started})"
    return (
        f"log: {path} is being written by {who}; wait until it ends, end it, or choose another name; on "
        "several processes of MPI give a log to the first alone (log=None to the others)"
    )


def _held_content(path: Path) -> str:
    """The message that the file holds something, and what."""
    try:
        history = LogHistory(path)
        last = history.last
    except (FileFormatError, OSError):
        return f"log: {path} already holds something that is not a quests_md log; choose another name"
    else:
        reference = history.header.get("reference")
        fingerprint = reference.get("fingerprint") if isinstance(reference, dict) else None
        frame, step = (-1, None) if last is None else (last.content.get("frame"), last.content.get("step"))
        n_checks = frame + 1 if type(frame) is int else "unknown"
        at = "" if last is None else f", last at step {_said(step)}"
        started = _said(history.header.get("started"))
        what = f"a run of {n_checks} checks{at} against reference {_said(fingerprint)}, started {started}"
    advice = "move it away, choose another name, or resume it (resume=True, score --resume)"
    return f"log: {path} already holds {what}; {advice}"


def _said(value: Any) -> str:
    """A value of a log, in a form that fits into a message."""
    if not isinstance(value, str | int):
        return "unknown"
    text = str(value)[:100]
    return text if text.isprintable() else repr(text)
