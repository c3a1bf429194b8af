"""Every checked frame of a trajectory, written to a file with what is known of its atoms."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from quests_md._arguments import check_folder
from quests_md._file_kinds import mistaken_for
from quests_md._files import check_output_file
from quests_md.environments import results_at_hand
from quests_md.errors import FileFormatError
from quests_md.io import append_frame, cut_annotated_file, fault_of_annotated_file
from quests_md.judge import Judge
from quests_md.records import AtomValues, Check
from quests_md.reference import kept_results, with_atom_values

__all__ = ["AnnotatedFile"]

#: What a frame is given; what a frame had under these names before belongs to another check.
_INFO = (
    *("check", "step", "time_ps", "state", "alarms", "explosion", "n_above", "n_unknown", "reference"),
    *("from_file", "from_frame"),
)


class AnnotatedFile:
    """A file of extended XYZ to which every checked frame is appended.

    Parameters
    ----------
    path
        The file: new or empty. Where a run goes on, one of its annotated frames.
    known
        Where a run goes on, how many of its first checks are not made again: their frames are kept, and those after
        them are cut off. None: the run is new.

    Raises
    ------
    FileFormatError, OSError
        If the file holds something else, lacks frames of the run, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], known: int | None = None) -> None:
        check_output_file("annotate", path)
        self.path: Path = check_folder("annotate", path)
        fault = mistaken_for(path, None, "a file of annotated frames")
        if fault := fault or fault_of_annotated_file(self.path, goes_on=known is not None):
            raise FileFormatError(f"annotate: {os.fspath(path)}: {fault}; choose another name")
        self._known = known

    def write(self, judge: Judge, atoms: Atoms, check: Check) -> None:
        """Append a frame that was checked by a judge that tells atoms."""
        if self._known is not None:  # nothing is changed before the run is known to go on
            cut_annotated_file(self.path, self._known)
            self._known = None
        append_frame(self.path, _annotated(judge, atoms, check))


def _annotated(judge: Judge, atoms: Atoms, check: Check) -> Atoms:
    """A copy of a frame with what its check found, and the energy and forces that it has already."""
    calibration, n_atoms = judge.calibration, len(atoms)
    frame: Atoms = atoms.copy()
    frame.calc = kept_results(atoms, results_at_hand(atoms))
    told: dict[str, Any] = {"check": check.frame, "step": check.step, "time_ps": check.time_ps, "state": check.state}
    told |= {"alarms": " ".join(check.alarms) or None, "explosion": check.explosion or None}
    if check.state != "invalid":
        told |= {"n_above": check.n_above, "n_unknown": check.n_unknown}
    told["reference"] = judge.reference.fingerprint
    if check.place is not None:
        told |= {"from_file": check.place.source, "from_frame": check.place.frame}
    frame.info = {key: value for key, value in frame.info.items() if key not in _INFO}
    frame.info |= {key: value for key, value in told.items() if value is not None}
    for name in ("above", "local_score"):
        frame.arrays.pop(name, None)
    lost = AtomValues.lost(n_atoms, has_levels=not calibration.lacks_dh)
    with_atom_values(frame, check.atom_values or lost)
    # of a frame that could not be judged nothing is known, and no comparison takes it for covered
    frame.arrays["above"] = np.ones(n_atoms, dtype=bool) if check.above is None else check.above
    if calibration.is_local:
        scores = check.local_score
        frame.arrays["local_score"] = np.full(n_atoms, np.nan) if scores is None else scores
    return frame
