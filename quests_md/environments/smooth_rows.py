"""Rows that are smooth in the positions of atoms, for forces: plain rows jump where neighbours change places."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._kernels.smooth import COMPONENTS, pull_atoms, row_width, smooth_rows
from quests_md.errors import UnsuitableFrameError

from .facts import element_symbol
from .neighbours import FrameGrid, frame_grid

__all__ = ["SmoothFrame", "smooth_frame"]

#: Å. Neighbours beyond it contribute nothing; value and two derivatives go to zero there.
SMOOTH_CUTOFF = 5.0


@dataclass(frozen=True, slots=True)
class SmoothFrame:
    """The smooth rows of a frame, and what forces are made of.

    A row of an atom holds, for each element a of its neighbours within 5 Å, sums over 8 radial Gaussians (centres 0.8
    to 4.3 Å, width 0.4 Å), and for each pair of elements a <= b

        sum over j of element a and k of element b of w(r_j) w(r_k) ((x_j . x_k) / s^2)^3

    with the displacements x, w(r) = exp(-r^2 / 2 s^2) and s = 1.8 Å. Each neighbour counts times (1 - (r / 5 Å)^2)^3.
    So rows do not depend on the order of neighbours, nor on orientation, nor on mirror images.
    """

    rows: NDArray[np.float64]
    """(n_atoms, width)."""
    _grid: FrameGrid | None  # None: there are no atoms
    _species: NDArray[np.int64]
    _moments: NDArray[np.float64]

    def pulled(self, slopes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The gradient dE/dposition (n_atoms, 3) and dE/dstrain (3, 3), from the slopes dE/drow (n_atoms, width)."""
        gradient, strain = np.zeros((len(self.rows), 3)), np.zeros((3, 3))
        if self._grid is not None:
            at = (*self._grid.arrays, self._grid.slots, self._grid.source, self._species)
            pull_atoms(*at, SMOOTH_CUTOFF, slopes, self._moments, gradient, strain)
        return gradient, strain


def smooth_frame(atoms: Atoms, elements: Sequence[int]) -> SmoothFrame:
    """The smooth rows of a frame, resolved by the atomic numbers `elements` (ascending).

    Raises
    ------
    UnsuitableFrameError
        If an atom is of another element.
    FrameError
        If the frame cannot be described, as `Descriptor` does.
    """
    known = np.asarray(elements, dtype=np.int64)
    unknown = np.setdiff1d(atoms.numbers, known)
    if len(unknown):
        names, expected = (", ".join(map(element_symbol, some)) for some in (unknown.tolist(), known.tolist()))
        raise UnsuitableFrameError(f"atoms: expected elements of the reference ({expected}), got {names}")
    rows = np.zeros((len(atoms), row_width(len(known))))
    moments = np.zeros((len(atoms), len(known), COMPONENTS))
    if not len(atoms):
        return SmoothFrame(rows, None, np.empty(0, np.int64), moments)
    grid = frame_grid(atoms, SMOOTH_CUTOFF)
    species = np.searchsorted(known, atoms.numbers)[grid.source].astype(np.int64)
    smooth_rows(*grid.arrays, grid.slots, species, SMOOTH_CUTOFF, rows, moments)
    return SmoothFrame(rows, grid, species, moments)
