"""What may be done about an event: functions of (event, frame)."""

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import overload

import numpy as np
from ase import Atoms
from ase.io import write
from ase.io.extxyz import per_atom_properties, per_config_properties

from .errors import StopRun
from .records import Event

__all__ = ["save_frame", "stop"]


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
    long one gives few frames. Frames with non-finite numbers are never written. Given as an action without a call,
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
    file = Path(path)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"path: the folder of {path} does not exist; create it")

    def save(event: Event, atoms: Atoms) -> None:
        if event.kind == "exploded":
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
    return save


def stop(event: Event, atoms: Atoms) -> None:
    """End the run cleanly when an event opens: the current step is finished, `dyn.run` returns."""
    raise StopRun


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
