"""Labelled frames that neither the reference nor the fit knows: levels from labels for a loop that goes on."""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols

from quests_md._arguments import check_positive
from quests_md.calibration import ErrorCalibration, calibrate_errors
from quests_md.environments import frame_digest, results_at_hand
from quests_md.errors import FrameError
from quests_md.io import iter_frames, write_frames
from quests_md.reference import Reference, built_like, frames_also_in

from .labelling import force_errors
from .models import forces_by
from .round_files import RoundFiles, read_frames, read_json, write_json

__all__ = [
    "KeptApart",
    "Visits",
    "divided",
    "doubts",
    "errors_in",
    "expected_in_runs",
    "ratio_of_errors",
    "unknown_to",
]

#: One in so many labels is kept apart.
ONE_IN = 5

#: The key of `info` under which a frame says its group, and the array with the forces of the model.
GROUP, MODEL = "group", "model_forces"

#: Frames of a run, evenly spaced, whose errors are expected: this many to twice as many.
VISITED = 20


def divided(frames: Sequence[Atoms], n_before: int, group: str) -> tuple[list[Atoms], list[Atoms]]:
    """Labelled frames to learn from, and every fifth of all labels, which is kept apart as one of a group.

    `n_before`: labels before these. The count goes on from round to round, so that small rounds keep frames apart too.
    """
    learnt = [frame for i, frame in enumerate(frames, n_before) if i % ONE_IN != ONE_IN - 1]
    apart = [_of_group(frame, group) for i, frame in enumerate(frames, n_before) if i % ONE_IN == ONE_IN - 1]
    return learnt, apart


class KeptApart:
    """Frames with labels that were given to a loop, and levels from them and from those that were kept apart since.

    Parameters
    ----------
    given
        Labelled frames or files, with forces in eV/Å. Where `info` of all of them has ``group``, frames of one group
        are not independent; else they are grouped as in `Reference.from_frames`.
    tolerance
        Largest force error that is still good, eV/Å.
    """

    def __init__(self, given: Any, tolerance: float) -> None:
        self.tolerance = check_positive("tolerance", tolerance, "force error, in eV/Å")
        self.given = [_labelled(frame.atoms, f"{frame.source}, frame {frame.index}") for frame in iter_frames(given)]
        if not self.given:
            raise ValueError("apart: expected labelled frames, got none")

    @staticmethod
    def settings_of(given: "KeptApart | None") -> dict[str, Any]:
        """What must not change while a loop goes on: the tolerance, and a checksum of the frames and their labels."""
        if given is None:
            return {"tolerance": None, "apart": None}
        digest = hashlib.blake2b(digest_size=8)
        for frame in given.given:
            digest.update(frame_digest(frame).encode())
            digest.update(np.ascontiguousarray(frame.get_forces()).data)
        return {"tolerance": given.tolerance, "apart": f"{len(given.given)} frames, {digest.hexdigest()}"}

    def first_frames(self, reference: Reference, threads: int | None) -> list[Atoms]:
        """The frames that were given, each with its group."""
        if all(GROUP in frame.info for frame in self.given):
            return [_of_group(frame, f"given {frame.info[GROUP]}") for frame in self.given]
        groups = built_like(reference, self.given, threads=threads).arrays.frame_group.tolist()
        return [_of_group(frame, f"given {group}") for frame, group in zip(self.given, groups, strict=True)]

    def first_levels(
        self, reference: Reference, model: Any, folder: Path, starts: Sequence[Atoms], threads: int | None
    ) -> ErrorCalibration:
        """The levels of a loop that begins; what they do not tell of runs of such atoms is a warning."""
        frames, path = self.first_frames(reference, threads), folder / "apart.extxyz"
        path.unlink(missing_ok=True)  # of a loop that was killed before it began, with other settings perhaps
        levels = self.levels(reference, asked(model, frames, path), threads)
        if doubt := doubts(levels, starts):
            warnings.warn(f"Loop: {doubt}", stacklevel=5)
        return levels

    def levels(self, reference: Reference, frames: Sequence[Atoms], threads: int | None) -> ErrorCalibration:
        """Levels from frames with the forces of the model, see `asked`."""
        with warnings.catch_warnings():  # of unknown levels, of which `doubts` tells
            warnings.filterwarnings("ignore", message="the level is unknown", category=UserWarning)
            try:
                return calibrate_errors(reference, frames, self.tolerance, groups=GROUP, threads=threads)
            except ValueError as exc:
                raise type(exc)(f"apart: {exc}") from None

    def new_levels(
        self, reference: Reference, model: Any, frames: Sequence[Atoms], path: Path, threads: int | None
    ) -> tuple[ErrorCalibration, list[Atoms]]:
        """Levels from the errors of a refitted model, and the frames with its forces: those that the reference lacks.

        The model is asked once about each frame: the answers are kept at `path`.
        """
        now = asked(model, unknown_to(reference, frames, threads), path)
        return self.levels(reference, now, threads), now


def asked(model: Any, frames: Sequence[Atoms], path: Path) -> list[Atoms]:
    """Labelled frames with the forces of a model as well, which is asked once: they are kept in a file."""
    known = read_frames(path)
    if known is None or list(map(frame_digest, known)) != list(map(frame_digest, frames)):  # as if one failed before
        known = []
        for frame in frames:
            copy = _of_group(frame, frame.info[GROUP])
            copy.set_array(MODEL, forces_by(model, frame))
            known.append(copy)
        write_frames(path, known)
        known = read_frames(path) or []
    return known


def unknown_to(reference: Reference, frames: Sequence[Atoms], threads: int | None) -> list[Atoms]:
    """Those of some frames that the reference does not have: a run may come to a frame once more, and learn from it."""
    if not frames:
        return []
    also = frames_also_in(built_like(reference, frames, threads=threads), reference)
    return [frame for frame, is_known in zip(frames, also, strict=True) if not is_known]


def errors_in(frames: Sequence[Atoms]) -> float | None:
    """Root mean square of the force errors in frames that a model was asked about, eV/Å; None: there are no frames."""
    return force_errors(frames, [frame.arrays[MODEL] for frame in frames])


def ratio_of_errors(before: Sequence[Atoms], now: Sequence[Atoms]) -> float | None:
    """Error of one model over that of another in the frames that both were asked about; None: there are none."""
    newer = {frame_digest(frame): frame for frame in now}
    both = [(old, newer[name]) for old in before if (name := frame_digest(old)) in newer]
    old, new = errors_in([a for a, _ in both]), errors_in([b for _, b in both])
    return None if new is None or not old else new / old


def doubts(levels: ErrorCalibration, starts: Sequence[Atoms]) -> str:
    """Which levels for runs of these atoms labels do not tell, and what to do; empty: none.

    That no labelled environment errs by more than the tolerance, and no more than may, is no doubt.
    """
    found = []
    for z in sorted({int(z) for atoms in starts for z in np.unique(atoms.numbers)}):
        symbol, level = chemical_symbols[z], levels.error_levels.elements.get(z)
        if level is None:
            found.append(f"{symbol} has no labels in the frames kept apart, and is always out; give some that have it")
        elif level.value is None and level.kind == "none":
            found.append(
                f"the level of {symbol} is unknown ({level.reason}), and all is out that lies beyond the labels; give "
                "more independent frames in apart"
            )
        elif level.value is None and level.limit == -np.inf:
            found.append(
                f"{symbol} is always out, since {level.reason} of {levels.tolerance:g} eV/Å; take a larger tolerance "
                "or a better model"
            )
    return "; ".join(found)


class VisitedErrors(NamedTuple):
    """Force errors expected of the atoms in frames that runs have visited."""

    n: int
    """Atoms."""
    n_unknown: int
    """Those of them beyond what labels tell."""
    total: float
    """Sum of the errors of the others, eV/Å."""
    largest: float
    """The largest of these."""

    def mean(self, share: float) -> float | None:
        """Mean error, unknown ones taken as the largest of the others; None: more than a share is unknown."""
        if self.n == 0 or self.n_unknown > share * self.n or self.n_unknown == self.n:
            return None
        return (self.total + self.n_unknown * self.largest) / self.n


def expected_in_runs(files: RoundFiles, n_runs: int, share: float) -> float | None:
    """Force error expected of the atoms in the frames that the runs of a round have visited, see `VisitedErrors`."""
    found = [read_json(files.path(f"expected-{k}.json")) for k in range(n_runs)]
    runs = [VisitedErrors(**of_run) for of_run in found if of_run is not None]
    n, n_unknown, total = (sum(getattr(run, name) for run in runs) for name in ("n", "n_unknown", "total"))
    return VisitedErrors(n, n_unknown, total, max((run.largest for run in runs), default=0.0)).mean(share)


class Visits:
    """Frames that a run visits, evenly spaced however long it is: a function to attach to its dynamics."""

    def __init__(self, atoms: Atoms) -> None:
        self._atoms, self._kept, self._every, self._count = atoms, list[Atoms](), 1, 0

    def __call__(self) -> None:
        """Take the frame as it is now."""
        if self._count % self._every == 0:
            self._kept.append(self._atoms.copy())
        self._count += 1
        if len(self._kept) > 2 * VISITED:
            self._kept, self._every = self._kept[::2], 2 * self._every

    def write_errors(
        self, files: RoundFiles, k: int, levels: ErrorCalibration, reference: Reference, threads: int | None
    ) -> None:
        """Keep what is expected of the atoms of these frames, which run k of a round has visited."""
        n = n_unknown = 0
        total = largest = 0.0
        for frame in self._kept:
            n += len(frame)
            try:
                error = levels.expected_error(reference, frame, threads=threads).error
            except FrameError:  # it has exploded
                n_unknown += len(frame)
                continue
            known = error[np.isfinite(error)]
            n_unknown += len(error) - len(known)
            total, largest = total + float(known.sum()), max(largest, float(known.max(initial=0.0)))
        found = VisitedErrors(n, n_unknown, total, largest)
        write_json(files.path(f"expected-{k}.json"), found._asdict())


def _labelled(frame: Atoms, place: str) -> Atoms:
    """A copy of a frame with its forces alone, as labels."""
    forces = results_at_hand(frame).get("forces", frame.arrays.get("forces"))
    if forces is None:
        raise ValueError(f"apart: {place}: expected forces, its labels, got none; write them with the frame")
    if np.shape(forces) != (len(frame), 3) or not np.isfinite(forces).all():
        raise ValueError(f"apart: {place}: expected finite forces ({len(frame)}, 3), got others; leave the frame out")
    copy: Atoms = frame.copy()
    for name in ("forces", MODEL):
        copy.arrays.pop(name, None)
    copy.calc = SinglePointCalculator(copy, forces=np.array(forces, dtype=np.float64))
    return copy


def _of_group(frame: Atoms, group: str) -> Atoms:
    """A copy of a labelled frame that says its group and nothing else."""
    copy = _labelled(frame, "a labelled frame")
    copy.info = {GROUP: group}
    return copy
