"""The log of a run, and what happens when the monitor itself fails."""

import logging
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from quests_md._interrupts import interrupt_behind
from quests_md._words import printable
from quests_md.log import LogWriter

__all__ = ["NoteLevel", "OnError", "RunLog", "keep_trace"]

OnError = Literal["log", "raise"]

NoteLevel = Literal["info", "warning", "error"]

T = TypeVar("T")

#: Warnings and errors that are kept until the log can be written again.
MOST_OWED = 100

_logger = logging.getLogger("quests_md")


class RunLog:
    """Writes lines to the log, or to nothing, and keeps failures from the simulation.

    With on_error="log" a failure is said once through the logger ``quests_md`` (on stderr unless told otherwise) and
    noted in the log; with "raise" it is raised. Where the first lines of a log or of a resumed run could not be
    written, they are owed: they come before any others. So are notes of warnings and errors, a hundred at most. Other
    lost lines are counted, and noted when writing works.
    """

    def __init__(self, path: str | os.PathLike[str] | None, on_error: OnError, *, resume: bool = False) -> None:
        self.on_error = on_error
        self.step: int | None = None
        """Step of the last check, for notes."""
        self.is_behind = False
        """Whether the log lacks something that the checks so far have brought."""
        self.settled = 1
        """Id of the first event that may differ from what the log has of it."""
        self._has_begun = False
        self._log = LogWriter(path, resume=resume) if path is not None else None
        self._was_open = self._log is not None
        self.history = None if self._log is None else self._log.history
        """What the log held before; None for a new one."""
        self._owed: list[dict[str, Any]] = []  # what must come before anything else
        self._owed_notes: list[dict[str, Any]] = []  # warnings and errors that could not be written
        self._lost_lines = 0
        self._said: set[str] = set()

    @property
    def path(self) -> Path | None:
        """The file; None: there is none, or it is closed."""
        return None if self._log is None else self._log.path

    @property
    def is_open(self) -> bool:
        """Whether there is a log to write to."""
        return self._log is not None

    def begin(self, *lines: dict[str, Any]) -> None:
        """Write what must come first: the header, or in a log that has one what is said when it is taken up again."""
        self._has_begun = True
        self.announce(*lines)

    def announce(self, *lines: dict[str, Any]) -> None:
        """Write what must come before all that follows, also if it cannot be written now."""
        self._owed += lines
        self.write()

    def note(self, level: NoteLevel, message: str) -> None:
        """Write a note; not before the log has begun, which may be that of another run."""
        if self._has_begun:
            self.write({"type": "note", "level": level, "step": self.step, "message": message})

    def write(self, *lines: dict[str, Any]) -> bool:
        """Write lines to the log, after what is owed to it. Returns whether it has all of them now, if there is one."""
        if self._log is None:
            if self._was_open:
                self._say_once("the monitor was closed by an action: the rest of this check is not logged")
            return True
        owed = [*self._owed, *self._owed_notes]
        if self._lost_lines and lines:
            lost = f"{self._lost_lines} lines before this one could not be written"
            owed.append({"type": "note", "level": "error", "step": self.step, "message": lost})
        try:
            self._log.write(*owed, *lines)
        except OSError as exc:
            notes = [line for line in lines if line["type"] == "note" and line["level"] != "info"]
            kept = notes[: MOST_OWED - len(self._owed_notes)]
            self._owed_notes += kept
            self._lost_lines += len(lines) - len(kept)
            if self.on_error == "raise":
                raise
            self._say_lost(self._log, exc)
            return False
        self._owed, self._owed_notes = [], []
        if lines:
            self._lost_lines = 0
        return True

    def guarded(self, work: Callable[[], T]) -> T | None:
        """Do the work and return its result; if it fails, `fail` and return None."""
        try:
            return work()
        except Exception as exc:
            self.fail(exc)
            return None

    def fail(self, failure: Exception) -> None:
        """Say once that the monitor has failed, mark the log, and let the simulation go on; or raise, if asked to."""
        if (interrupt := interrupt_behind(failure)) is not None:  # compiled code makes other exceptions of interrupts
            raise interrupt
        if self.on_error == "raise":
            raise failure
        message = f"{type(failure).__name__}: {failure}"
        if self._say_once(message):
            trace = getattr(failure, _TRACE, "") or _trace_of(failure)
            self.note("error", f"the monitor failed: {message}\n{trace}")

    def fail_action(self, failure: Exception, what: str) -> None:
        """Say once, and note each time, that an action has failed: what it was to leave is missing; or raise."""
        self.fail(failure)
        self.note("error", f"{what}: {type(failure).__name__}: {failure}; what it was to leave is missing")

    def alert(self, message: str, then: str) -> None:
        """Say and note once that a part of the monitor has failed, and what follows from that."""
        if self._say_once(message, then):
            self.note("error", f"{message}; {then}")

    def warn(self, message: str) -> None:
        """Say through the logger, and note, what is to be known now."""
        _logger.warning("quests_md: %s", printable(message))
        self.note("warning", message)

    def close(self) -> None:
        """Force the log to the disk and close it; say, or raise, that it was lost since the last line."""
        if self._log is None:
            return
        log, self._log = self._log, None
        try:
            log.close()
        except OSError as exc:
            if self.on_error == "raise":
                raise
            self._say_lost(log, exc)

    def _say_lost(self, log: LogWriter, failure: OSError) -> None:
        """Say once why lines cannot be written."""
        why = failure.strerror or failure
        self._say_once(
            f"the log {log.path} cannot be written ({why})", "the run is watched on, lines of the log are lost"
        )

    def _say_once(self, message: str, then: str = "the simulation goes on unwatched where this happens") -> bool:
        if message in self._said or len(self._said) >= 100:
            return False
        self._said.add(message)
        _logger.error("quests_md: %s; %s, said once", printable(message), then)
        return True


def keep_trace(failure: Exception, of: Exception | None = None) -> None:
    """Keep what the log says of where a failure came from (`of`: another one), before it is sent elsewhere."""
    setattr(failure, _TRACE, _trace_of(of or failure))


_TRACE = "quests_md_trace"


def _trace_of(failure: Exception) -> str:
    return "".join(traceback.format_exception(failure, limit=-3))
