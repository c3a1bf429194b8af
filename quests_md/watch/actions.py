"""What may be done about an event: functions of (event, frame)."""

import io
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, overload

import numpy as np
from ase import Atoms
from ase.io import write
from ase.io.extxyz import per_atom_properties, per_config_properties

from quests_md._arguments import check_folder
from quests_md._files import replacing
from quests_md._json import dumps, loads
from quests_md.errors import StopRun
from quests_md.records import KINDS, Event

__all__ = ["Action", "save_frame", "sentinel", "stop"]

#: Called as action(event, frame) with a copy of the flagged frame.
Action = Callable[[Event, Atoms], Any]


@overload
def save_frame(path: str | os.PathLike[str] = "flagged.extxyz") -> Callable[[Event, Atoms], None]: ...


@overload
def save_frame(path: Event, atoms: Atoms) -> None: ...


def save_frame(
    path: str | os.PathLike[str] | Event = "flagged.extxyz", atoms: Atoms | None = None
) -> Callable[[Event, Atoms], None] | None:
    """Make an action that appends flagged frames to an extended XYZ file.

    Every frame carries ``delta_entropy`` and ``above`` per atom, energy and forces if the run had them, and step, time
    and event in its info line. Of an event the 1st, 2nd, 4th, 8th, ... check since it opened is written, so that a
    long one gives few frames. Frames that have exploded are never written. Given as an action without a call,
    ``actions=[save_frame]``, it writes the first frame of every event to ``flagged.extxyz``.

    Parameters
    ----------
    path
        The file; its folder must exist.
    atoms
        Only where `save_frame` itself is called as an action.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """
    if isinstance(path, Event):
        if atoms is not None:
            save_frame()(path, atoms)
        return None
    file = check_folder("path", path)

    def save(event: Event, atoms: Atoms) -> None:
        if event.kind == "exploded" or not _is_finite(atoms):
            return
        text = io.StringIO()
        write(text, _for_extxyz(atoms), format="extxyz")
        with file.open("ab", buffering=0) as out:  # one write, so that a kill leaves whole frames
            end, data = out.seek(0, os.SEEK_END), text.getvalue().encode()
            try:
                while data:
                    data = data[out.write(data) :]
            except OSError:
                with suppress(OSError):
                    out.truncate(end)  # a full disk may have taken half of the frame
                raise

    save.repeats = True  # type: ignore[attr-defined]  # the monitor asks for it
    save.path = file  # type: ignore[attr-defined]  # a run taken up again cuts it back to where the log stands
    return save


def sentinel(
    path: str | os.PathLike[str] = "quests-md.event", kinds: Sequence[str] = KINDS
) -> Callable[[Event, Atoms], None]:
    """Make an action that leaves a file once there is an event, for job scripts: ``[ -e quests-md.event ]``.

    The file holds one line of JSON, the event as in the log, and is whole or absent. Of several events it is the latest
    of the gravest kind (novel, transition, exploded), as it was at the 1st, 2nd, 4th, 8th, ... check since it opened.
    It is never removed: a new run should begin without it.

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
    ValueError, TypeError
        If a kind does not exist.
    """
    if isinstance(kinds, str):
        raise TypeError(f"kinds: expected a tuple of kinds of events such as ('exploded',), got {kinds!r}")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, got {got}")
    chosen = frozenset(kinds)
    file = check_folder("path", path)
    gravest = -1

    def write_file(event: Event, atoms: Atoms) -> None:
        nonlocal gravest
        gravity = KINDS.index(event.kind)
        if gravest < 0 and file.exists():  # of the same run, before it was taken up again
            with suppress(OSError, ValueError, KeyError, TypeError):
                gravest = KINDS.index(loads(file.read_bytes())["kind"])
        if event.kind not in chosen or gravity < gravest:
            return
        with replacing(file) as temporary:
            temporary.write_text(dumps(event) + "\n", encoding="utf-8")
        gravest = gravity

    write_file.repeats = True  # type: ignore[attr-defined]  # the monitor asks for it
    return write_file


def stop(event: Event, atoms: Atoms) -> None:
    """End the run cleanly when an event opens: the current step is finished, `dyn.run` returns."""
    raise StopRun


def _is_finite(atoms: Atoms) -> bool:
    """Whether all numbers are: dH may be inf, that of an element that the reference has never seen."""
    arrays = [atoms.positions, atoms.cell.array, atoms.get_momenta()]
    arrays += [np.asarray(value) for value in (getattr(atoms.calc, "results", None) or {}).values()]
    return all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


def _for_extxyz(atoms: Atoms) -> Atoms:
    """A copy without what extended XYZ cannot hold, and without labels of another frame.

    Numbers in info and arrays under the names of a calculator's results belong to whatever frame the run began with.
    """
    frame: Atoms = atoms.copy()
    frame.calc = atoms.calc
    for name, array in atoms.arrays.items():
        if name in per_atom_properties or array.ndim > 2 or array.dtype.kind not in "biufU":
            del frame.arrays[name]
        elif array.dtype.kind == "u":
            frame.arrays[name] = array.astype(np.int64)
    for name in set(atoms.info) & set(per_config_properties):
        del frame.info[name]
    return frame
