"""The last positions of a run and their mean."""

import math
from collections import deque
from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._arguments import check_integer

__all__ = ["Window"]

#: Change of a cell vector from one frame to the next, as a share of the shortest vector, beyond which the cell is
#: another one: a barostat moves a vector by less than a hundredth in a vibration, a flip of a tilted cell by a whole
#: vector.
ANOTHER_CELL = 0.1


class _Pushed(NamedTuple):
    """Positions of one frame: fractions @ periodic cell vectors + rest."""

    fractions: NDArray[np.float64]
    """(n_atoms, n_periodic), of the cell vectors along periodic directions; unwrapped."""
    rest: NDArray[np.float64]
    """(n_atoms, 3) in Å, across the periodic directions."""
    cell: NDArray[np.float64]
    """(3, 3) in Å."""


class Window:
    """The last positions of a run, unwrapped, and their mean.

    Along periodic directions positions are kept as fractions of the cell of their frame, so that a changing cell does
    not blur the mean. A frame that cannot follow the last one empties the window first: a frame with another number or
    order of atoms, other elements or periodic directions, or a cell that has jumped. A frame with positions or a cell
    that are not finite empties the window and is not taken.

    Parameters
    ----------
    samples
        Frames to average.

    Raises
    ------
    ValueError
        If `samples` is not a positive integer.
    """

    def __init__(self, samples: int) -> None:
        self._frames: deque[_Pushed] = deque(maxlen=check_integer("samples", samples, 1))
        self._system: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def is_full(self) -> bool:
        """Whether the window holds as many frames as are to be averaged."""
        return len(self._frames) == self._frames.maxlen

    def clear(self) -> None:
        """Forget all frames."""
        self._frames.clear()

    def push(self, atoms: Atoms) -> None:
        """Take the next frame, which is not changed; the oldest of a full window goes.

        Atoms may be wrapped or not, but must move by less than half a cell from one frame to the next.
        """
        positions, cell = np.array(atoms.positions, dtype=np.float64), np.array(atoms.cell.array, dtype=np.float64)
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            self.clear()
            return
        system = _system(atoms)
        vectors = cell[np.asarray(atoms.pbc, dtype=bool)]
        if system != self._system or (self._frames and self._has_jumped(cell, vectors)):
            self.clear()
        self._system = system
        # the pseudo-inverse of the periodic vectors alone: vectors of the other directions may be zero
        fractions = positions @ np.linalg.pinv(vectors)
        rest = positions - fractions @ vectors
        if self._frames:
            fractions -= np.round(fractions - self._frames[-1].fractions)
        self._frames.append(_Pushed(fractions, rest, cell))

    def mean(self, atoms: Atoms) -> Atoms:
        """A copy of the frame taken last, with the mean of positions and cells, without constraints and calculator.

        Atoms that have left the cell stay outside. Times, momenta and all else are those of the last frame.

        Raises
        ------
        ValueError
            If the window is empty, or `atoms` is not like the frame taken last.
        """
        if not self._frames:
            raise ValueError("expected a window with frames, got an empty one; push some first")
        if _system(atoms) != self._system:
            raise ValueError("atoms: expected the frame taken last, got other atoms; push it first")
        fractions, rest, cell = (np.mean(arrays, axis=0) for arrays in zip(*self._frames, strict=True))
        vectors = cell[np.asarray(atoms.pbc, dtype=bool)]
        averaged: Atoms = atoms.copy()
        averaged.set_constraint()
        averaged.set_cell(cell)
        averaged.positions = fractions @ vectors + rest
        return averaged

    def _has_jumped(self, cell: NDArray[np.float64], vectors: NDArray[np.float64]) -> bool:
        shortest = float(np.linalg.norm(vectors, axis=1).min(initial=math.inf))
        return float(np.abs(cell - self._frames[-1].cell).max()) > ANOTHER_CELL * shortest


def _system(atoms: Atoms) -> tuple[bytes, ...]:
    """What frames must share to be averaged: elements, identities in their order, periodic directions."""
    ids = np.asarray(atoms.arrays.get("id", ()))
    return np.asarray(atoms.numbers).tobytes(), ids.tobytes(), np.asarray(atoms.pbc, dtype=bool).tobytes()
