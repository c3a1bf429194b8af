"""The QUESTS descriptor: one row of numbers per atomic environment."""

import hashlib
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ._kernels.rows import fill_rows
from ._kernels.threads import available_threads, for_ranges
from .geometry import frame_grid
from .validation import check_rows

__all__ = ["Descriptor", "DescriptorLike", "describe"]

#: Atoms per piece of work: some 5 ms.
PIECE = 256


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Rows that describe the geometry around each atom by its k nearest neighbours.

    A row is ``[X1, X2]`` with 2k - 1 numbers in 1/Å. With w(r) = (1 - (r/r_c)^2)^2 inside the cutoff r_c and 0 beyond,
    X1 holds w(r_ij)/r_ij of the k nearest neighbours in order of distance, X2 the rank-by-rank mean of the sorted rows
    of the matrix sqrt(w_ij w_il)/r_jl between them. Blind to chemistry; invariant to rotation, translation, atom order
    and supercell, on perfect lattices too: ties at the k-th neighbour are broken by distances alone.

    Parameters
    ----------
    k
        Number of neighbours.
    cutoff
        Radius r_c in Å. Neighbours beyond it contribute nothing.

    Raises
    ------
    ValueError, TypeError
        If `k` is not a positive integer or `cutoff` not a positive finite number.

    References
    ----------
    D. Schwalbe-Koda et al., Nat. Commun. 16, 4014 (2025), doi:10.1038/s41467-025-59232-0, Methods.

    Examples
    --------
    >>> from ase.build import bulk
    >>> Descriptor()(bulk("Cu", "fcc", a=3.58)).shape
    (1, 63)
    """

    k: int = 32
    cutoff: float = 5.0

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int | np.integer):
            raise TypeError(f"k: expected a positive integer, got {self.k!r}")
        if self.k < 1:
            raise ValueError(f"k: expected a positive integer, got {self.k!r}")
        if isinstance(self.cutoff, bool) or not isinstance(self.cutoff, int | float | np.integer | np.floating):
            raise TypeError(f"cutoff: expected a positive number in Å, got {self.cutoff!r}")
        if not (math.isfinite(self.cutoff) and self.cutoff > 0):
            raise ValueError(f"cutoff: expected a positive finite number in Å, got {self.cutoff!r}")
        object.__setattr__(self, "k", int(self.k))
        object.__setattr__(self, "cutoff", float(self.cutoff))

    @property
    def width(self) -> int:
        """Numbers per row, 2k - 1."""
        return 2 * self.k - 1

    @property
    def fingerprint(self) -> str:
        """Short text that is equal exactly for descriptors that give equal rows."""
        digest = hashlib.blake2b(f"quests k={self.k} cutoff={self.cutoff!r}".encode(), digest_size=6)
        return f"quests-{digest.hexdigest()}"

    def __call__(self, atoms: Atoms, *, threads: int | None = None) -> NDArray[np.float64]:
        """Rows of all atoms of a frame, which is not changed.

        Parameters
        ----------
        atoms
            The frame: any mix of periodic directions, any cell that is not flat along them.
        threads
            Threads to use; default the cores that the process may use, or QUESTS_MD_THREADS. Never changes the result.

        Returns
        -------
        rows
            (n_atoms, width) float64, in 1/Å.

        Raises
        ------
        FrameError
            If a position or cell vector is not finite, or the cell is zero or flat along its periodic directions.
        """
        n_threads = available_threads(threads)
        n_atoms = len(atoms)
        rows = np.empty((n_atoms, self.width))
        if n_atoms == 0:
            return rows
        grid = frame_grid(atoms, self.cutoff)
        # neighbouring bins one after the other: what an atom needs is already in the cache
        order = np.argsort(grid.slots)
        slots = grid.slots[order]
        sorted_rows = np.empty_like(rows)

        def work(start: int, stop: int) -> None:
            fill_rows(*grid.arrays, slots, start, stop, self.k, self.cutoff, sorted_rows)

        for_ranges(work, n_atoms, PIECE, n_threads)
        rows[order] = sorted_rows
        return rows


class DescriptorLike(Protocol):
    """Any callable from a frame to rows (n_atoms, width) with a text that is equal exactly for equal settings."""

    @property
    def fingerprint(self) -> str:
        """Text equal exactly for descriptors that give equal rows."""

    def __call__(self, atoms: Atoms, /) -> NDArray[np.float64]:
        """Rows (n_atoms, width)."""


def describe(descriptor: DescriptorLike, atoms: Atoms, threads: int | None) -> NDArray[np.float64]:
    """Rows of a frame by any descriptor, checked to be one finite row per atom."""
    if isinstance(descriptor, Descriptor):
        return descriptor(atoms, threads=threads)
    rows = check_rows("descriptor", descriptor(atoms))
    if len(rows) != len(atoms):
        raise ValueError(f"descriptor: expected one row for each of {len(atoms)} atoms, got {len(rows)}")
    return rows
