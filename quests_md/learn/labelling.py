"""Frames to labelled frames, each once: by a calculator, a function of one's own, or files."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from quests_md._files import replacing
from quests_md._json import dumps, loads
from quests_md._progress import track
from quests_md._words import many
from quests_md.environments import frame_digest, results_at_hand
from quests_md.errors import FrameError
from quests_md.io import iter_frames, write_frames

__all__ = ["Label", "Labelled", "Labeller"]

#: What labels frames: a calculator; a function of a frame that returns it with its energy and forces; or files.
Label: TypeAlias = Callable[[Atoms], Any] | Any | Literal["files"]

#: Å by which positions of a labelled file may differ from those that were asked for: digits of a file.
SAME_PLACE = 1e-3


class Labelled(NamedTuple):
    """What has become of frames that were to be labelled."""

    frames: list[Atoms]
    """Those with labels: energy in eV and forces in eV/Å, as results of a calculator."""
    failed: dict[str, str]
    """Names of those that could not be labelled, and why."""
    waiting: list[str]
    """Names of those whose files are not there yet."""


class Labeller:
    """Labels frames and keeps the labels in a folder, so that no frame is ever labelled twice.

    A frame has the name of its content. Its labels are written to ``labels/NAME.extxyz``, why it failed to
    ``failed/NAME.json`` (remove that file to try again; in a loop before its round is done). With "files" it is written
    to ``to-label/NAME.extxyz``, and its labels are read from ``labels/NAME.extxyz``, which anything may have written:
    all that ASE can read under that name, with energy and forces, atoms in the same order.

    Parameters
    ----------
    label
        An ASE calculator; or a function that takes a copy of a frame and returns Atoms with energy and forces, or the
        two of them; or "files".
    folder
        Where the labels are kept; it is made.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> labelled = Labeller(EMT(), "labels-of-copper").label([bulk("Cu")])  # doctest: +SKIP
    """

    def __init__(self, label: Label, folder: str | os.PathLike[str]) -> None:
        if isinstance(label, type):
            name = label.__name__
            raise TypeError(f"label: expected a calculator or a function, got the class {name}; give {name}()")
        if not (label == "files" or callable(label) or hasattr(label, "get_potential_energy")):
            raise TypeError(
                f"label: expected an ASE calculator, a function of Atoms, or 'files', got {type(label).__name__}"
            )
        self._label, self.folder = label, Path(folder)

    def label(self, frames: Sequence[Atoms]) -> Labelled:
        """Label frames, but for those that have labels, or failed, before. One that fails does not stop the others."""
        for name in ("labels", "failed", *(["to-label"] if self._label == "files" else [])):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        done, failed, waiting = list[Atoms](), dict[str, str](), list[str]()
        for frame in track(frames, "labelling", len(frames)):
            name = frame_digest(frame)
            why = self._why_failed(name)
            if why is None and not self._labels_of(name).is_file():
                why = self._make(name, frame)
            if why is not None:
                failed[name] = why
            elif self._labels_of(name).is_file():
                done.append(self._read(name, frame))
            else:
                waiting.append(name)
        return Labelled(done, failed, waiting)

    def __len__(self) -> int:
        """How many frames have labels."""
        return len(list((self.folder / "labels").glob("*.extxyz")))

    def _labels_of(self, name: str) -> Path:
        return self.folder / "labels" / f"{name}.extxyz"

    def _why_failed(self, name: str) -> str | None:
        path = self.folder / "failed" / f"{name}.json"
        return str(loads(path.read_bytes())["why"]) if path.is_file() else None

    def _make(self, name: str, frame: Atoms) -> str | None:
        """Label one frame; why that failed, if it did."""
        if self._label == "files":
            path = self.folder / "to-label" / f"{name}.extxyz"
            if not path.is_file():
                write_frames(path, [_bare(frame)])
            return None
        try:
            labelled = _labelled(frame, *self._asked(frame))
        except Exception as exc:  # a calculation of someone else's program: any failure is that of this frame
            why = f"{type(exc).__name__}: {exc}"
            with replacing(self.folder / "failed" / f"{name}.json") as temporary:
                temporary.write_text(dumps({"why": why}) + "\n", encoding="utf-8")
            write_frames(self.folder / "failed" / f"{name}.extxyz", [_bare(frame)])
            return why
        write_frames(self._labels_of(name), [labelled])
        return None

    def _asked(self, asked: Atoms) -> tuple[Any, Any]:
        label: Any = self._label
        frame = _bare(asked)
        if hasattr(label, "get_potential_energy"):
            frame.calc = label
            return frame.get_potential_energy(), frame.get_forces()
        answer = label(frame)
        if isinstance(answer, Atoms):
            if fault := _fault_of(answer, asked):
                raise ValueError(f"label: {fault}")
            return answer.get_potential_energy(), answer.get_forces()
        energy, forces = answer
        return energy, forces

    def _read(self, name: str, asked: Atoms) -> Atoms:
        """The labels in a file; FrameError if they are not of the frame that was asked for."""
        path = self._labels_of(name)
        found = [frame.atoms for frame in iter_frames(path)]
        if len(found) != 1:
            raise FrameError(f"{path}: expected one frame with its labels, got {many(len(found), 'frame')}")
        frame = found[0]
        if fault := _fault_of(frame, asked):
            raise FrameError(f"{path}: {fault}")
        results = results_at_hand(frame)
        if missing := [key for key in ("energy", "forces") if key not in results]:
            raise FrameError(f"{path}: expected energy and forces, got no {' and no '.join(missing)}")
        try:
            return _labelled(asked, results["energy"], results["forces"])
        except ValueError as exc:
            raise FrameError(f"{path}: {exc}") from None


def _fault_of(found: Atoms, asked: Atoms) -> str:
    """Why atoms are not those that were asked for, in the same order; empty if they are.

    They may be wrapped, and moved by periods of the cell. Along directions that are not periodic any cell will do.
    """
    if not np.array_equal(found.numbers, asked.numbers):
        return "expected the atoms of the frame that was to be labelled, in the same order"
    periodic = asked.pbc
    if not found.pbc[periodic].all():
        return f"expected boundaries as in the frame that was to be labelled, {asked.pbc}, got {found.pbc}"
    vectors = asked.cell.array[periodic]
    if not np.allclose(found.cell.array[periodic], vectors, rtol=0, atol=SAME_PLACE):
        return "expected the cell of the frame that was to be labelled, got another"
    steps = found.positions - asked.positions
    if len(vectors):
        steps = steps - np.round(steps @ np.linalg.pinv(vectors)) @ vectors
    moved = float(np.linalg.norm(steps, axis=1).max(initial=0.0))
    if not moved <= SAME_PLACE:
        return f"expected the places of the frame that was to be labelled, got {moved:.3g} Å off"
    return ""


def _bare(frame: Atoms) -> Atoms:
    """A copy of a frame without a calculator."""
    copy: Atoms = frame.copy()
    copy.calc = None
    return copy


def _labelled(frame: Atoms, energy: Any, forces: Any) -> Atoms:
    """A copy of a frame with labels; ValueError if they are none."""
    array: NDArray[np.float64] = np.array(forces, dtype=np.float64)
    if array.shape != (len(frame), 3):
        raise ValueError(f"forces: expected shape ({len(frame)}, 3), got {array.shape}")
    if not (np.isfinite(array).all() and np.isfinite(float(energy))):
        raise ValueError("energy and forces: expected finite numbers")
    copy = _bare(frame)
    with suppress(KeyError):
        del copy.arrays["forces"]
    copy.calc = SinglePointCalculator(copy, energy=float(energy), forces=array)
    return copy


def force_errors(frames: Sequence[Atoms], model: Sequence[NDArray[np.float64] | None]) -> float | None:
    """Root mean square of the length of force errors, eV/Å, over labelled frames, of cells over their core; or None."""
    squares = [
        ((f.get_forces() - m) ** 2).sum(axis=1)[f.arrays.get("core", np.ones(len(f), bool))]
        for f, m in _with_forces(frames, model)
    ]
    return float(np.sqrt(np.concatenate(squares).mean())) if squares else None


def _with_forces(
    frames: Sequence[Atoms], model: Sequence[NDArray[np.float64] | None]
) -> Iterator[tuple[Atoms, NDArray[np.float64]]]:
    for frame, forces in zip(frames, model, strict=True):
        if forces is not None:
            yield frame, forces
