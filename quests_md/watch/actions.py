"""What is done about an event: saved frames, a sentinel, the end of the run, callables of one's own."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms

from quests_md._arguments import check_folder
from quests_md._file_kinds import fault_of_sentinel, mistaken_for
from quests_md._files import check_output_file, replacing, require_regular
from quests_md._json import dumps, loads
from quests_md.environments import results_at_hand
from quests_md.errors import FileFormatError, StopRun
from quests_md.io import append_frame, fault_of_flagged_file, is_finite, labelled_copy
from quests_md.judge import Judge, Judged
from quests_md.records import KINDS, Event, EventKind

__all__ = [
    "Action",
    "GivenAction",
    "action_files",
    "checked_actions",
    "flagged_frame",
    "save_frame",
    "sentinel",
    "stop",
]


class Action(Protocol):
    """Something to be done about an event: a function, or any object that can be called.

    It may have attributes: with ``repeats = True`` it is called again at the 2nd, 4th, 8th, ... check while the event
    is open; `path` names a file to which it appends, which is cut back when a run is taken up again at an earlier step;
    a method ``taken_up(events, step)`` is called when a run is taken up again, with the events that are kept and the
    step at which the run goes on.
    """

    def __call__(self, event: Event, frame: Atoms, /) -> Any:
        """Act on an event, once it opens; `frame`: a copy of the flagged frame. It may raise `StopRun`."""


#: What may be given as an action: also `save_frame` itself, without a call.
GivenAction = Action | Callable[[], "SaveFrame"]

#: Where `save_frame` writes if nothing else is said.
FLAGGED = "flagged.extxyz"


def checked_actions(actions: Sequence[GivenAction] | Action) -> tuple[Action, ...]:
    """The actions, one or several; TypeError if they cannot be called."""
    try:
        chosen: tuple[Any, ...] = (actions,) if callable(actions) else tuple(actions)
    except TypeError:
        raise TypeError(f"actions: expected callables action(event, atoms), got {actions!r}") from None
    for action in chosen:
        if not callable(action):
            raise TypeError(f"actions: expected callables action(event, atoms), got {action!r}")
    return tuple(replace(save_frame(), repeats=False) if action is save_frame else action for action in chosen)


def action_files(actions: Sequence[Action]) -> list[str]:
    """Names of the files to which actions append: those with an attribute `path`."""
    return [str(action.path) for action in actions if hasattr(action, "path")]


def flagged_frame(judge: Judge, judged: Judged, atoms: Atoms, event: Event) -> Atoms:
    """The copy of a frame that actions get: with dH of all atoms, also of atoms that "proven" mode has left open."""
    dh = judged.check.delta_entropy
    if judged.rows is not None and (dh is None or np.isnan(dh).any()):
        dh = judge.reference.delta_entropy(np.asarray(judged.rows), numbers=atoms.numbers, threads=judge.threads)
    forces = results_at_hand(atoms).get("forces")
    return labelled_copy(atoms, judged.check, event, dh, judge.reference.fingerprint, forces)


@dataclass(frozen=True, slots=True)
class SaveFrame:
    """Appends flagged frames to a file, see `save_frame`."""

    path: Path
    """The file: a run taken up again cuts it back to where the log stands."""
    repeats: bool = True
    """Whether it is called again at the 2nd, 4th, 8th, ... check of an event."""

    def __call__(self, event: Event, frame: Atoms, /) -> None:
        """Append the frame, unless it has exploded."""
        if event.kind != "exploded" and is_finite(frame):
            append_frame(self.path, frame)


def save_frame(path: str | os.PathLike[str] = FLAGGED) -> SaveFrame:
    """Make an action that appends flagged frames to an extended XYZ file.

    Every frame carries ``delta_entropy`` and ``above`` per atom, energy and forces if the run had them, and step, time
    and event in its info line. Of an event the 1st, 2nd, 4th, 8th, ... check since it opened is written, so that a
    long one gives few frames. Frames that have exploded are never written. Given as an action without a call,
    ``actions=[save_frame]``, it writes the first frame of every event to ``flagged.extxyz``.

    What is written reads back equal. Left out are what an extended XYZ file cannot hold in a way that all readers
    understand: entries of ``atoms.info`` that are lists, arrays, dicts or None (a virial, say), or whose keys mean
    something to readers (units, Lattice); energies, stresses and forces in info and arrays, which belong to the frame
    that the run began with; arrays of objects, of more than two dimensions, or of texts that are empty or have blanks;
    constraints other than `FixAtoms`. Arrays whose names mean something else to ASE or OVITO get the prefix
    ``array_``. An action of one's own, ``action(event, atoms)``, gets all arrays and constraints.

    Parameters
    ----------
    path
        The file, new or one of flagged frames, to which more are appended; its folder must exist.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    OSError, FileFormatError
        If there is a pipe or a device of that name, or a file that is not of flagged frames.
    """
    check_output_file("path", path)
    file = check_folder("path", path)
    if fault := mistaken_for(path, None, "a file of flagged frames") or fault_of_flagged_file(file):
        raise FileFormatError(f"path: {os.fspath(path)}: {fault}; choose another name")
    return SaveFrame(file)


class Sentinel:
    """Leaves a file once there is an event, see `sentinel`."""

    repeats = True

    def __init__(self, file: Path, kinds: frozenset[EventKind]) -> None:
        self.file = file
        self.kinds = kinds
        self._gravest = -1  # gravity of the event in the file

    def __call__(self, event: Event, frame: Atoms, /) -> None:
        """Write the event, unless the file holds a graver one."""
        gravity = KINDS.index(event.kind)
        if self._gravest < 0 and self.file.exists():  # of the same run, before it was taken up again
            with suppress(OSError, ValueError, KeyError, TypeError):
                require_regular(self.file, "")
                self._gravest = KINDS.index(loads(self.file.read_bytes())["kind"])
        if event.kind not in self.kinds or gravity < self._gravest:
            return
        self._write(event)

    def taken_up(self, events: Sequence[Event], step: int) -> None:
        """Let a file that is there hold the latest of the gravest events that are kept; none: no file."""
        self._gravest = -1
        kept = [event for event in events if event.kind in self.kinds]
        with suppress(OSError, ValueError, KeyError, TypeError):  # there is no file, or it holds something else
            confirmed_step = loads(self.file.read_bytes())["confirmed_step"]
            if kept:
                self._write(max(kept, key=lambda event: (KINDS.index(event.kind), event.id)))
            elif confirmed_step >= step:  # as the run goes on, that event has not happened
                self.file.unlink()

    def _write(self, event: Event) -> None:
        with replacing(self.file) as temporary:
            temporary.write_text(dumps(event) + "\n", encoding="utf-8")
        self._gravest = KINDS.index(event.kind)


def sentinel(path: str | os.PathLike[str] = "quests-md.event", kinds: Sequence[str] = KINDS) -> Sentinel:
    """Make an action that leaves a file once there is an event, for job scripts: ``[ -e quests-md.event ]``.

    The file holds one line of JSON, the event as in the log, and is whole or absent. Of several events it is the latest
    of the gravest kind (novel, transition, exploded), as it was at the 1st, 2nd, 4th, 8th, ... check since it opened.
    It is removed only when a run is taken up again at a step before the event; a new run should begin without it.

    Parameters
    ----------
    path
        The file; its folder must exist.
    kinds
        Kinds of events that count.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    OSError, FileFormatError
        If there is a pipe or a device of that name, or a file that is not the record of an event.
    ValueError, TypeError
        If a kind does not exist.
    """
    if isinstance(kinds, str):
        raise TypeError(f"kinds: expected a tuple of kinds of events such as ('exploded',), got {kinds!r}")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, got {got}")
    check_output_file("path", path)
    file = check_folder("path", path)
    if fault := fault_of_sentinel(file):
        raise FileFormatError(f"path: {os.fspath(path)}: {fault}; choose another name")
    return Sentinel(file, frozenset(kind for kind in KINDS if kind in kinds))


def stop(event: Event, frame: Atoms) -> None:
    """End the run cleanly when an event opens: the current step is finished, `dyn.run` returns."""
    raise StopRun
