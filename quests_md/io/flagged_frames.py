"""Flagged frames out: a copy of a frame that carries what a check found, appended to a file of extended XYZ."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from quests_md._files import check_output_file
from quests_md.records import Check, Event

from .xyz_text import extxyz_text, is_writable

__all__ = ["append_frame", "fault_of_flagged_file", "is_finite", "labelled_copy"]

#: Keys in the comment of every flagged frame.
_KEYS = re.compile(rb"(?:^|\s)event=.*\sreference=|(?:^|\s)reference=.*\sevent=")

#: Bytes of a comment that are looked at.
_MOST_BYTES = 1_000_000


def labelled_copy(
    atoms: Atoms,
    check: Check,
    event: Event,
    delta_entropy: NDArray[np.float64] | None,
    fingerprint: str,
    forces: NDArray[np.float64] | None = None,
) -> Atoms:
    """A copy of a frame with the numbers of its check, dH per atom, and the energy and forces that it has already.

    `event` is the one that is open, `delta_entropy` (n_atoms,) in nats, `fingerprint` that of the reference, `forces`
    (n_atoms, 3) are in eV/Å. Without `delta_entropy` (the frame could not be judged) the copy has neither dH nor
    `above` nor local scores.
    """
    frame: Atoms = atoms.copy()
    frame.info = {key: value for key, value in frame.info.items() if is_writable(key, value)}
    frame.info |= {"step": check.step, "event": event.id, "kind": event.kind, "reference": fingerprint}
    if check.alarms:
        frame.info["alarms"] = " ".join(check.alarms)
    numbers = {"time_ps": check.time_ps, "dh_mean": check.dh_mean, "excess": check.excess, "n_above": check.n_above}
    frame.info |= {key: value for key, value in numbers.items() if value is not None}
    if check.place is not None:
        place = {"from_file": check.place.source, "from_frame": check.place.frame}
        frame.info |= {key: value for key, value in place.items() if is_writable(key, value)}
    if delta_entropy is not None:
        frame.info["dh_max"] = float(delta_entropy.max())
        frame.set_array("delta_entropy", np.asarray(delta_entropy))
        frame.set_array("above", np.asarray(check.above))
        if check.local_score is not None:
            frame.set_array("local_score", np.asarray(check.local_score))
    found: dict[str, Any] = {}
    if check.energy_per_atom is not None:
        found["energy"] = check.energy_per_atom * len(atoms)
    if forces is not None and np.shape(forces) == (len(atoms), 3):
        found["forces"] = np.array(forces)
    if found:
        frame.calc = SinglePointCalculator(frame, **found)
    return frame


def is_finite(frame: Atoms) -> bool:
    """Whether all numbers of a labelled copy are finite; dH may be inf, for elements the reference has never seen."""
    arrays = [frame.positions, frame.cell.array, frame.get_momenta()]
    arrays += [np.asarray(value) for value in (getattr(frame.calc, "results", None) or {}).values()]
    return all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


def append_frame(path: Path, frame: Atoms) -> None:
    """Append a labelled copy to a file of extended XYZ, all of it or nothing; OSError if it cannot be written."""
    text = extxyz_text(frame)
    check_output_file("", path)  # a pipe would wait for someone to read it, and the simulation with it
    with path.open("ab", buffering=0) as out:  # one write, so that a kill leaves whole frames
        end, data = out.seek(0, os.SEEK_END), text.encode()
        try:
            while data:
                data = data[out.write(data) :]
        except BaseException:  # a full disk, or an interrupt, may have left half of the frame
            with suppress(OSError):
                out.truncate(end)
            raise


def fault_of_flagged_file(path: Path) -> str | None:
    """Why flagged frames cannot be appended to a file: it holds something else; None if it is new, empty or of them."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        first, comment = file.readline(_MOST_BYTES), file.readline(_MOST_BYTES)
    is_frame = first.strip().isdigit()
    if not first or (is_frame and _KEYS.search(comment)):
        return None
    return f"expected a new file or one of flagged frames, got {'other frames' if is_frame else 'something else'}"
