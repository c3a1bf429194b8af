"""Where a run that comes back stands in its log, and whether it is the same run."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from .errors import MismatchError
from .follower import RECENT_EVENTS, Follower
from .loglines import Line, LogHistory
from .records import Check, Event
from .reference import Reference

__all__ = [
    "Place",
    "action_files",
    "bring_back",
    "cut_files",
    "file_size",
    "find_place",
    "require_known_reference",
    "require_same_monitor",
]

#: What must be the same for the checks of one log, and where the header has it.
SAME = {
    "levels": ("calibration", "fingerprint"),
    "statistics": ("calibration", "statistics"),
    "baseline_ps": ("baseline_ps",),
    "phases": ("phases", "references"),
    "max_temperature_K": ("max_temperature_K",),
    "trigger": ("trigger",),
    "values": ("values", "asked"),
}


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


def find_place(
    history: LogHistory, digest: str, n_atoms: int, *, own_step: int | None, start_step: int | None
) -> Place:
    """Find the frame that a run begins with.

    Parameters
    ----------
    history
        The log.
    digest, n_atoms
        Of the frame.
    own_step
        What the host says its step is; None if it cannot know: a new dynamics begins at 0 wherever its atoms are from.
    start_step
        What the user says.

    Raises
    ------
    MismatchError
        If the log does not hold the frame, or holds it more than once, and no step is known; or if it has another
        frame at that step.
    """
    step = own_step if start_step is None else start_step
    if step is None:
        return _place_by_digest(history, digest)
    for check in history.of_type("check"):
        content = check.content
        if content["step"] > step:
            continue
        if content["step"] < step:
            return Place(step, None, check, content["frame"] + 1, is_checked=False)
        note = ""
        if content["digest"] != digest:
            difference = f"another frame ({content['n_atoms']} atoms, digest {content['digest']})"
            if start_step is None or content["n_atoms"] != n_atoms:
                raise MismatchError(
                    f"resume: {history.path} has {difference} at step {step} than this run ({n_atoms} atoms, digest "
                    f"{digest}); is it the log of another run? Choose another, or give start_step= if it is this run"
                )
            note = f"resumed at step {step} with {difference} in the log: a checkpoint with fewer digits?"
        return Place(step, content["time_ps"], _before(history, check), content["frame"], is_checked=True, note=note)
    return Place(step, None, None, 0, is_checked=False)


def require_same_monitor(header: Mapping[str, Any], now: Mapping[str, Any], name: str, *, same_reference: bool) -> None:
    """Raise MismatchError, naming both values, if the checks of a monitor cannot follow those of a log."""
    for what, path in SAME.items():
        if what == "levels" and not same_reference:
            continue  # those of another reference are others
        before, after = (_at(part, path) for part in (header, now))
        if before != after:
            raise MismatchError(
                f"resume: {name} was written with {what} = {before}, this monitor has {after}; give the same settings "
                "or choose another log"
            )


def require_known_reference(history: LogHistory, reference: Reference) -> list[str]:
    """The fingerprints on the way from the reference of the log to this one: empty if it is the same.

    Raises
    ------
    MismatchError
        If it is another, and was not made from that of the log by `extend` or `merge`.
    """
    latest = next(history.of_type("reference"), None)
    known = _at(history.header if latest is None else latest.content, ("reference", "fingerprint"))
    if known == reference.fingerprint:
        return []
    if known not in reference.ancestors:
        raise MismatchError(
            f"resume: {history.path} was written with reference {known}, this monitor has {reference.fingerprint}, "
            "which was not made from it by extend or merge; give the same reference or choose another log"
        )
    return [str(known), reference.fingerprint]


def bring_back(follower: Follower, history: LogHistory, last: Line) -> Check:
    """Bring a follower to where it was after a check of the log; returns that check."""
    snapshot, lines = history.since_snapshot(last)
    if snapshot is not None:
        follower.restore(snapshot.content["snapshot"])
        events = (Event.from_line(line.content) for line in history.of_type("event", before=snapshot.start))
        closed = islice((event for event in events if not event.is_open), RECENT_EVENTS)
        follower.closed.extend(reversed(list(closed)))
    check: Check | None = None
    found: dict[str, Any] = {}
    for line in lines:
        content = line.content
        if content["type"] == "check":
            if check is not None:
                follower.replay(check, found)
            check, found = Check.from_line(content), {}
        elif content["type"] == "state":
            found |= content
    if check is None:  # the snapshot was taken after it
        return Check.from_line(last.content)
    follower.replay(check, found)
    return check


def action_files(actions: Sequence[Any]) -> list[str]:
    """Names of the files to which actions append: those with an attribute `path`."""
    return [str(action.path) for action in actions if hasattr(action, "path")]


def file_size(name: str) -> int:
    """Bytes of a file, 0 if there is none."""
    try:
        return Path(name).stat().st_size
    except FileNotFoundError:
        return 0


def cut_files(history: LogHistory, place: Place, actions: Sequence[Any]) -> list[str]:
    """Cut the files of actions back to what they were before the first check that is superseded.

    Returns
    -------
    warnings
        What could not be done.
    """
    end = history.end_after(place.last)
    written = (line.content["files"] for line in history.of_type("state", before=end) if "files" in line.content)
    sizes = next(written, history.header.get("files")) or {}
    warnings = []
    for name in action_files(actions):
        size = sizes.get(name)
        if size is None:
            warnings.append(f"{name}: the log does not say how much of it belongs to the kept part; left as it is")
        elif file_size(name) > size:
            os.truncate(name, size)
        elif file_size(name) < size:
            warnings.append(f"{name}: has {file_size(name)} bytes, the log says {size}: flagged frames are missing")
    return warnings


def _place_by_digest(history: LogHistory, digest: str) -> Place:
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
    content = found[0].content
    before = _before(history, found[0])
    return Place(content["step"], content["time_ps"], before, content["frame"], is_checked=True)


def _before(history: LogHistory, check: Line) -> Line | None:
    """The check before a check."""
    return next(history.of_type("check", before=check.start), None)


def _at(line: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = line
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
