"""Where a run that comes back stands in its log."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice
from typing import Any, Protocol

from quests_md._files import file_size
from quests_md._json import number
from quests_md._words import many
from quests_md.errors import FileFormatError, MismatchError
from quests_md.log import Line, LogHistory
from quests_md.records import Check, Event

from .actions import action_files
from .event_follower import EventFollower
from .settings import CHANGING
from .state_types import checked_findings, checked_snapshot
from .trigger import Trigger

__all__ = [
    "FirstFrame",
    "Host",
    "Place",
    "bring_back",
    "continue_host",
    "find_place",
    "header_at",
    "let_files_follow",
    "missing",
]

#: What state lines hold that are not about what a check found: whether actions are due, or done, resumptions, and
#: whether the monitor was detached, or the run was stopped.
_ABOUT_THE_RUN = {"actions", "files", "resumed", "detached", "stopped"}

#: What the content of damaged lines raises where it is used.
_FAULTS: tuple[type[Exception], ...] = (
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    ArithmeticError,
    AssertionError,
)


class FirstFrame(Enum):
    """What becomes of a check that the log has of the very frame that a run begins with."""

    IS_CHECKED_AGAIN = "the host shows the frame again"
    MAY_BE_CHECKED_AGAIN = "the host does not, and its energy is not known: only where actions of the check are missing"
    IS_KEPT = "the check took earlier frames too"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands in its log."""

    step: int
    """Step of the frame that the run begins with."""
    time_ps: float | None
    """Its time in ps, if the log has it."""
    last: Line | None
    """The last check before that frame; None: there is none."""
    frame: int
    """Count of checks at the first one that is not before that frame: from here on the log is superseded."""
    is_checked: bool
    """Whether the frame itself was checked; it is checked again."""
    note: str = ""
    """What the user should know."""
    lost: Sequence[dict[str, Any]] = ()
    """Event lines of the last check that the log lacks: a kill in the middle of a write may tear them off."""
    watched_from: int | None = None
    """Step from which on the run was watched again after the last check; None: it was not detached since."""

    def describe(self) -> str:
        """Where the run goes on, and what is kept of it."""
        kept = f"{many(self.frame, 'check')} before it {'is' if self.frame == 1 else 'are'} kept"
        return f"resumed at step {self.step}: {kept}"


class Host(Protocol):
    """What must be known of the dynamics that a run is attached to."""

    @property
    def own_step(self) -> int:
        """Its own count of steps, 0 for a new dynamics."""

    @property
    def repeats_digits(self) -> bool:
        """Whether a frame that is shown again, of a checkpoint for one, has the same positions to the last digit."""

    def step_length_ps(self) -> float | None:
        """Time step in ps; None for optimizers."""

    def continue_at(self, step: int, time_ps: float | None, *, checked: int) -> None:
        """Count from here on as if the present step were `step` of a run that was checked at the step `checked`."""


def find_place(
    history: LogHistory,
    digest: str,
    n_atoms: int,
    *,
    own_step: int | None,
    start_step: int | None,
    first: FirstFrame = FirstFrame.IS_CHECKED_AGAIN,
    repeats_digits: bool = True,
) -> Place:
    """Find the frame that a run begins with, by the step that host or user give, else by its digest.

    `own_step` is None for a host that cannot know its step: a new dynamics begins at 0 wherever its atoms are from.
    `first` says what becomes of a check of this frame. Without `repeats_digits` the frame of the host's own step is
    that of the log, if it has as many atoms.

    Raises
    ------
    MismatchError
        If the log does not hold the frame, or holds it more than once, and no step is known; or if it has another
        frame at that step.
    """
    step = own_step if start_step is None else start_step
    if step is None:
        return _place_by_digest(history, digest, first)
    for check in history.of_type("check"):
        content = check.content
        if content["step"] > step:
            continue
        if content["step"] < step:
            return Place(step, None, check, content["frame"] + 1, is_checked=False)
        note = ""
        if content["digest"] != digest:
            difference = f"another frame ({content['n_atoms']} atoms, digest {content['digest']})"
            if (start_step is None and repeats_digits) or content["n_atoms"] != n_atoms:
                raise MismatchError(
                    f"resume: {history.path} has {difference} at step {step} than this run ({n_atoms} atoms, digest "
                    f"{digest}); is it the log of another run? Choose another, or give start_step= if it is this run"
                )
            if repeats_digits:
                note = f"resumed at step {step} with {difference} in the log: a checkpoint with fewer digits?"
        return _place_at(history, check, first, note)
    return Place(step, None, None, 0, is_checked=False)


def header_at(history: LogHistory, place: Place) -> dict[str, Any]:
    """The header as it holds at a place: with the reference of the last check that is kept."""
    with _naming(history, 0, KeyError):
        Trigger(**history.header["trigger"])
    end = history.end_after(place.last)
    latest = next(history.of_type("reference", before=end), None)
    changed = {} if latest is None else {name: latest.content.get(name) for name in CHANGING}
    return history.header | changed


def bring_back(follower: EventFollower, history: LogHistory, place: Place) -> tuple[Check | None, Place]:
    """Bring a follower to where it was at a place of the log; returns the last check before that place, and the place.

    A power cut can leave the last check without the lines that were written with it. That check is then given up, and
    the place is another.

    Raises
    ------
    FileFormatError
        If lines that belong to another check are missing.
    """
    if place.last is None:
        return None, place
    beginning = follower.state()
    try:
        last, events = _replayed(follower, history, place.last)
        torn_off = _lost(history, place.last, events)
        return last, replace(place, lost=torn_off, watched_from=_watched_from(history, place.last, place.step))
    except KeyError as exc:
        lost, latest = place.last.content, history.last
        if latest is None or latest.start != place.last.start:
            raise FileFormatError(
                f"resume: {history.path} lacks lines that belong to checks up to step {lost.get('step')} ({exc}); "
                "begin with an earlier frame, or with another log"
            ) from exc
        follower.restore(beginning)
        follower.closed.clear()
        note = f"the check at step {lost['step']} is given up: the log lacks lines that were written with it"
        before = _before(history, place.last)
        is_checked = lost["step"] == place.step
        given_up = replace(place, last=before, frame=lost["frame"], is_checked=is_checked, note=note)
        return bring_back(follower, history, given_up)


def _replayed(follower: EventFollower, history: LogHistory, last: Line) -> tuple[Check, Sequence[dict[str, Any]]]:
    """Replay the checks up to the last one; returns it, and the event lines that were written with it, if known."""
    snapshot, lines = history.since_snapshot(last)
    if snapshot is not None:
        with _naming(history, snapshot.start, KeyError):
            follower.restore(checked_snapshot(snapshot.content))
        events = (Event.from_line(line.content) for line in history.of_type("event", before=snapshot.start))
        closed = islice((event for event in events if not event.is_open), follower.closed.maxlen)
        follower.closed.extend(reversed(list(closed)))
    latest: Check | None = None
    waiting: Check | None = None  # for what its state lines say
    found: dict[str, Any] = {}
    damaged = last  # the line to name where the check cannot be replayed

    def replay(check: Check | None) -> Sequence[dict[str, Any]]:
        if check is None:
            return ()
        # without a state line where one is needed, the lines of the check are lost
        with _naming(history, damaged.start, *([KeyError] if found else [])):
            return follower.replay(check, found)

    for line in lines:
        content = line.content
        if content["type"] in ("check", "reference"):
            replay(waiting)
            waiting, found, damaged = None, {}, line
        if content["type"] == "check":
            latest = waiting = Check.from_line(content)
        elif content["type"] == "reference":
            follower.take_reference(follower.reference)
        elif content["type"] == "state" and not _ABOUT_THE_RUN & content.keys():
            with _naming(history, line.start, KeyError):
                found |= checked_findings(content)
            damaged = line
    if latest is None:  # the snapshot was taken after it
        return Check.from_line(last.content), ()
    return latest, replay(waiting)


@contextmanager
def _naming(history: LogHistory, start: int, *also: type[Exception]) -> Iterator[None]:
    """Make a FileFormatError, which names the line that begins at an offset, of what its content raises."""
    try:
        yield
    except (*_FAULTS, *also) as exc:
        fault = f"lacks {exc}" if isinstance(exc, KeyError) else f"does not hold what it should: {exc}"
        raise history.error(start, f"{fault}; the run cannot go on from it"[:300]) from exc


def _lost(history: LogHistory, last: Line, events: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Those of the event lines that belong to a check which the log does not have after it."""
    known = [line.content for line in history.lines(last.end, history.end_after(last)) if events]
    names = ("type", "id", "n_checks", "is_open")
    return [event for event in events if not any(all(event[n] == line.get(n) for n in names) for line in known)]


def missing(history: LogHistory, place: Place, *, has_actions: bool) -> list[str]:
    """What the log, or the files of actions, will lack where the run goes on from a place, in words."""
    if place.last is None:
        return []
    texts, last = [], place.last.content
    if _is_unfinished(history, place.last) or (has_actions and any(event["is_open"] for event in place.lost)):
        texts.append(
            f"the run ended before the actions of the check at step {last['step']} were done: frames of its events may "
            "be missing from the files of flagged frames"
        )
    before = _before(history, place.last)
    spacing = last.get("interval") or (None if before is None else last["step"] - before.content["step"])
    since = last["step"] if place.watched_from is None else place.watched_from
    if spacing is not None and place.step - since > max(spacing, 1):
        texts.append(
            f"the log has no checks between step {last['step']}, its last one, and step {place.step}, where the run is "
            "taken up: events and flagged frames of the steps between are missing"
        )
    return texts


def let_files_follow(history: LogHistory, place: Place, actions: Sequence[Any], events: Sequence[Event]) -> list[str]:
    """Bring the files of actions back to where the log stands; returns what went wrong.

    Files to which actions append are cut back to what they were before the first superseded check; actions with a
    method `taken_up` are told of the events that are kept, and of the step at which the run goes on.
    """
    for action in actions:
        if hasattr(action, "taken_up"):
            action.taken_up(events, place.step)
    names = action_files(actions)
    if not names:
        return []
    end = history.end_after(place.last)
    written = (line.content["files"] for line in history.of_type("state", holding="files", before=end))
    sizes = next(written, history.header.get("files")) or {}
    warnings = []
    for name in names:
        size = sizes.get(name)
        if size is None:
            warnings.append(f"{name}: the log does not say how much of it belongs to the kept part; left as it is")
        elif file_size(name) > size:
            try:
                os.truncate(name, size)
            except OSError as exc:
                warnings.append(f"{name}: cannot be cut back to the {size} bytes of the kept part ({exc.strerror})")
        elif file_size(name) < size:
            warnings.append(f"{name}: has {file_size(name)} bytes, the log says {size}: flagged frames are missing")
    return warnings


def continue_host(host: Host, place: Place, last: Check | None) -> None:
    """Let a dynamics count on from a place of the log, whose last check before that place is `last`."""
    length_ps = host.step_length_ps() or 0.0
    time_ps = place.time_ps
    if time_ps is None and last is not None and last.time_ps is not None:
        time_ps = last.time_ps + (place.step - last.step) * length_ps
    from_start = place.step * length_ps
    if time_ps is not None and abs(from_start - time_ps) < 2e-9:  # the log has it rounded
        time_ps = from_start
    host.continue_at(place.step, time_ps, checked=place.step if place.is_checked or last is None else last.step)


def _place_by_digest(history: LogHistory, digest: str, first: FirstFrame) -> Place:
    found = list(islice(history.find("digest", digest), 3))
    if not found:
        if history.last is None:
            return Place(0, None, None, 0, is_checked=False)
        raise MismatchError(
            f"resume: {history.path} does not hold the frame that this run begins with; give start_step=, the step of "
            "that frame, or choose another log if it is of another run"
        )
    if len(found) > 1:
        steps = ", ".join(str(check.content["step"]) for check in reversed(found))
        raise MismatchError(
            f"resume: {history.path} holds the frame that this run begins with more than once (steps {steps}); give "
            "start_step=, the step of that frame"
        )
    return _place_at(history, found[0], first)


def _place_at(history: LogHistory, check: Line, first: FirstFrame, note: str = "") -> Place:
    """The place of a run that begins with the frame of a check."""
    step, time_ps, frame = (number(check.content[name]) for name in ("step", "time_ps", "frame"))
    if first is FirstFrame.MAY_BE_CHECKED_AGAIN:
        is_unfinished = _is_unfinished(history, check)
        if is_unfinished or _is_torn(history, check):
            first = FirstFrame.IS_CHECKED_AGAIN
            why = "its actions were not done" if is_unfinished else "lines that were written with it may be lost"
            note = note or f"the check at step {step} is made again, without energies: {why}"
    if first is not FirstFrame.IS_CHECKED_AGAIN:
        return Place(step, time_ps, check, frame + 1, is_checked=False, note=note)
    return Place(step, time_ps, _before(history, check), frame, is_checked=True, note=note)


def _is_unfinished(history: LogHistory, check: Line) -> bool:
    """Whether the log says that actions were due after a check, and does not say that they were done."""
    marks = _marks(history, check)
    return "actions" in marks and "files" not in marks


def _is_torn(history: LogHistory, check: Line) -> bool:
    """Whether lines that were written with a check may be lost, among them that actions were due."""
    is_last = history.is_torn and history.end_after(check) == history.end
    return is_last and "files" not in _marks(history, check)


def _marks(history: LogHistory, check: Line) -> set[str]:
    """What state lines after a check, and before the next one, hold."""
    lines = history.lines(check.end, history.end_after(check))
    return {name for line in lines if line.content["type"] == "state" for name in line.content}


def _watched_from(history: LogHistory, last: Line, step: int) -> int | None:
    """Step at which a run that was detached after a check was attached again, at the latest a step that it came to."""
    found: int | None = None
    for line in history.lines(last.end, history.end_after(last)):
        content = line.content
        if content["type"] != "state" or not content.keys() & {"detached", "resumed"}:
            continue
        if (at := content.get("step")) is None or at >= step:
            continue
        if content.get("detached"):
            found = step
        elif found is not None:
            found = min(found, at)
    return found


def _before(history: LogHistory, check: Line) -> Line | None:
    """The check before a check."""
    return next(history.of_type("check", before=check.start), None)
