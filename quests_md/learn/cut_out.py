"""A small cell that was cut out of a frame, and how it was come by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._words import many, nats

from .cells import Cell

__all__ = ["Attempt", "CutOut", "atoms_of", "whole_frame"]

#: Å of vacuum along directions that are not periodic.
VACUUM = 12.0

#: Arrays of a frame that atoms keep. Others, forces above all, belong to the large frame.
KEPT = ("tags", "masses", "initial_magmoms", "initial_charges")

#: How kinds of cells are named in words.
KINDS = {
    "frame": "the frame itself, which is small enough",
    "crystal": "periods of the crystal around",
    "packed": "periods by which images of the core are packed",
    "cluster": "vacuum around",
}

#: How boundaries were relaxed, in words.
RELAXED = {
    "blended": "atoms moved towards those that have their places on the other side",
    "spread": "atoms moved apart until none is too near another",
    "calculator": "relaxed by the calculator",
}

#: Centers that are named in words.
MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Attempt:
    """A cell that was tried."""

    kind: str
    """"frame", "crystal", "packed" or "cluster"."""
    n_atoms: int
    buffer_A: float
    """Thickness of the buffer around the core, Å; inf: it is the whole frame."""
    kept_A: float
    """How much of the buffer is as in the frame, Å: nothing within it was moved, left out, or put there."""
    relaxed: str
    """How its boundary was: "" as cut, "blended", "spread" or "calculator", see `cut`."""
    core_dh: float | None
    """Largest dH of the core, nats; None: there is no reference."""
    core_change: float | None
    """By how much dH of an atom of the core differs from that in the frame, at most, nats."""
    n_boundary_above: int | None
    """Other atoms above the level, and stranger than in the frame."""


@dataclass(frozen=True, slots=True, eq=False)
class CutOut:
    """A small cell around some atoms of a frame, made by `cut`."""

    atoms: Atoms = field(repr=False)
    """The cell, with arrays `core` (forces to trust) and `original_index`, and where it comes from in `info`."""
    center: tuple[int, ...]
    """Atoms of the frame that it is cut around."""
    attempts: tuple[Attempt, ...] = field(repr=False)
    """All that was tried."""
    chosen: Attempt
    """The one that `atoms` are of."""
    core_dh_before: float | None
    """Largest dH of the core in the frame, nats; None: there is no reference."""
    levels: dict[str, float]
    """dH in nats above which atoms of each element are strange."""
    refused: str = ""
    """Why the cell should not be labelled; empty: nothing is against it."""
    notes: tuple[str, ...] = ()
    """What else there is to know."""

    @property
    def core_dh_after(self) -> float | None:
        """Largest dH of the core in the cell, nats; None: there is no reference."""
        return self.chosen.core_dh

    @property
    def n_boundary_above(self) -> int | None:
        """Atoms outside the core above the level, and stranger than they were in the frame; None: no reference."""
        return self.chosen.n_boundary_above

    def __len__(self) -> int:
        """Atoms of the cell."""
        return len(self.atoms)

    def __str__(self) -> str:
        """What was cut out, in a few lines."""
        return "\n".join(self.lines())

    def _kept(self) -> str:
        """How much of the buffer is as in the frame, in words."""
        buffer_A, kept_A = self.chosen.buffer_A, self.chosen.kept_A
        if kept_A >= buffer_A - 1e-6:
            return " as in the frame"
        return f", the inner {math.floor(10 * kept_A) / 10:.1f} Å as in the frame"

    def lines(self) -> list[str]:
        """The same, line by line."""
        named = ", ".join(map(str, self.center[:MOST_NAMED])) + (", ..." if len(self.center) > MOST_NAMED else "")
        sides = " x ".join(f"{length:.1f}" for length in self.atoms.cell.lengths())
        periodic = "".join("abc"[i] for i in np.flatnonzero(self.atoms.pbc)) or "none"
        core, buffer_A = int(self.atoms.arrays["core"].sum()), self.chosen.buffer_A
        lines = [
            f"{many(len(self.atoms), 'atom')} around {'atom' if len(self.center) == 1 else 'atoms'} {named}: "
            f"{self.atoms.get_chemical_formula()}",
            f"cell: {sides} Å, periodic: {periodic}; {KINDS[self.chosen.kind]}",
            f"core: {many(core, 'atom')}"
            + (f", and around it {buffer_A:.1f} Å{self._kept()}" if math.isfinite(buffer_A) else ""),
        ]
        if self.chosen.relaxed:
            lines.append(f"boundary: {RELAXED[self.chosen.relaxed]}; the core is as in the frame")
        if self.core_dh_before is not None and self.core_dh_after is not None:
            level = ", ".join(f"{element} {nats(value)}" for element, value in self.levels.items())
            kept = "core dH kept" if not (self.chosen.core_change or 0.0) > 1.0 else "core dH"
            lines.append(f"{kept} {self.core_dh_before:.1f} -> {self.core_dh_after:.1f} nats, largest of the core")
            lines.append(f"boundary atoms above the level: {self.n_boundary_above} (level: {level} nats)")
        lines.append(f"tried: {many(len(self.attempts), 'cell')}; charge and spin are not set")
        lines += self.notes
        if self.refused:
            lines.append(f"refused: {self.refused}")
        return lines


def atoms_of(frame: Atoms, cell: Cell) -> Atoms:
    """The cell as Atoms, its core in the middle; positions are those of the frame, moved together."""
    box, pbc, shift = _box(cell)
    atoms = Atoms(numbers=frame.numbers[cell.atoms], positions=cell.positions + shift, cell=box, pbc=pbc)
    _keep_arrays(frame, atoms, cell.atoms, cell.distances == 0.0)
    return atoms


def whole_frame(frame: Atoms, core: NDArray[np.int64]) -> Atoms:
    """The frame itself as a cell."""
    atoms = Atoms(numbers=frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
    is_core = np.zeros(len(frame), bool)
    is_core[core] = True
    _keep_arrays(frame, atoms, np.arange(len(frame)), is_core)
    return atoms


def _keep_arrays(frame: Atoms, atoms: Atoms, indices: NDArray[np.int64], is_core: NDArray[np.bool_]) -> None:
    for name in KEPT:
        if frame.has(name):
            atoms.set_array(name, frame.arrays[name][indices])
    atoms.set_array("core", is_core)
    atoms.set_array("original_index", indices)


def _box(cell: Cell) -> tuple[NDArray[np.float64], Sequence[bool], NDArray[np.float64]]:
    """Cell vectors (3, 3), which are periodic, and the shift that brings the core into the middle."""
    n = len(cell.vectors)
    core = cell.positions[cell.distances == 0.0]
    middle = (core.min(axis=0) + core.max(axis=0)) / 2
    pbc = [i < n for i in range(3)]
    if n == 3:
        return cell.vectors, pbc, cell.vectors.sum(axis=0) / 2 - middle
    if n == 0:
        low, high = cell.positions.min(axis=0), cell.positions.max(axis=0)
        box = np.diag(high - low + VACUUM)
        return box, pbc, np.diag(box) / 2 - (low + high) / 2
    # directions across the periodic ones
    across = np.linalg.svd(cell.vectors)[2][n:]
    heights = cell.positions @ across.T
    low, high = heights.min(axis=0), heights.max(axis=0)
    box = np.concatenate([cell.vectors, (high - low + VACUUM)[:, None] * across])
    if np.linalg.det(box) < 0:
        box[2], across[-1], low[-1], high[-1] = -box[2], -across[-1], -high[-1], -low[-1]
    inside = middle - middle @ across.T @ across
    along = ((low + high) / 2) @ across
    return box, pbc, box.sum(axis=0) / 2 - inside - along
