"""Rows of the atoms of a frame, or of some of them, which is put on a grid once."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._kernels.averages import average_rows
from quests_md._kernels.chemistry import fill_chemistry
from quests_md._kernels.rows import fill_rows
from quests_md._threads import for_ranges
from quests_md.engine import announce_compilation

from .neighbours import frame_grid

__all__ = ["HowRows", "RowsOnGrid"]

#: Most atoms of a piece of work, and fewest: with less, threads take longer to start and to wait for than they save.
PIECE, LEAST_PIECE = 256, 128

#: The same for averaging, which takes a third of the time.
PIECE_OF_AVERAGES, LEAST_OF_AVERAGES = 4 * PIECE, 3 * LEAST_PIECE


class HowRows(NamedTuple):
    """What a descriptor says of the rows of a frame."""

    k: int
    cutoff: float
    width: int
    n_species: int
    kinds: NDArray[np.int64]
    """(n_atoms,) species by which neighbours are told apart."""
    seen: NDArray[np.bool_]
    """(n_atoms,) atoms that are seen as neighbours."""
    centers: NDArray[np.bool_]
    """(n_atoms,) atoms that have a row."""
    vectors: NDArray[np.float64] | None
    """Vectors of the elements of the frame, for chemistry; None: without."""
    n_kept: int
    """Values of each sign kept in each channel of chemistry."""


class RowsOnGrid:
    """Rows of `chosen` atoms, ascending, which are centers; by default of all centers.

    They are the same, to the bit, whichever atoms are chosen. Raises FrameError as `frame_grid`.
    """

    def __init__(self, atoms: Atoms, how: HowRows, chosen: NDArray[np.int64] | None = None) -> None:
        announce_compilation()
        grid = self._grid = frame_grid(atoms, how.cutoff)
        self._how, self._n_atoms = how, len(atoms)
        chosen = np.flatnonzero(how.centers) if chosen is None else chosen
        # atoms of neighbouring bins one after the other: their neighbours are still in the cache of the processor
        self.order = chosen[np.argsort(grid.slots[chosen])]
        """The chosen atoms in the order in which their rows are made."""
        slots = grid.slots[self.order]
        self._centers = np.column_stack((grid.x[slots], grid.y[slots], grid.z[slots]))
        self._homes = grid.bins[slots]
        x, y, z, bins, source = grid.x, grid.y, grid.z, grid.bins, grid.source
        if not how.seen.all():
            kept = how.seen[source]
            x, y, z, bins, source = x[kept], y[kept], z[kept], bins[kept], source[kept]
            slots = np.where(kept[slots], np.cumsum(kept)[slots] - 1, -1)
        self._points, self._source, self._slots = (x, y, z, bins, grid.shape), source, slots

    @property
    def width(self) -> int:
        """Numbers per row."""
        return self._how.width

    def fill(
        self, out: NDArray[np.float64] | None, places: NDArray[np.int64], n_threads: int, *, keep: bool
    ) -> NDArray[np.float64] | None:
        """Make the rows; that of ``order[i]`` is written into ``out[places[i]]``.

        `keep`: return them as well, in the order of `order`; else nothing.
        """
        how, own = self._how, self._how.kinds[self.order]
        species = how.kinds[self._source]
        # where they are not kept, pieces are put in their places at once, while they are in the cache
        kept = np.empty((len(self.order), how.width)) if keep else None

        def work(start: int, stop: int) -> None:
            part = slice(start, stop)
            piece = np.empty((stop - start, how.width)) if kept is None else kept[part]
            at = self._centers[part], self._homes[part], self._slots[part]
            fill_rows(
                *(*self._points, species, how.n_species),
                *(*at, 0, stop - start, how.k, how.cutoff, piece),
            )
            if how.vectors is not None:
                fill_chemistry(
                    *(*self._points, species, how.vectors, *at, own[part], 0, stop - start),
                    *(how.cutoff, how.n_kept, 2 * how.k - 1, piece),
                )
            if out is not None:
                out[places[part]] = piece

        for_ranges(work, len(self.order), PIECE, n_threads, least=LEAST_PIECE)
        return kept

    def average(
        self,
        n_average: int,
        rows: NDArray[np.float64],
        out: NDArray[np.float64],
        places: NDArray[np.int64],
        n_threads: int,
        others: NDArray[np.int64] | None = None,
    ) -> None:
        """Write the mean of the row of ``order[i]`` and of those of its nearest neighbours into ``out[places[i]]``.

        `rows`: what `fill` has kept, and, where not all centers are chosen, after them those of `others`, see `around`.
        """
        row_of = np.full(self._n_atoms, -1)
        row_of[self.order] = np.arange(len(self.order))
        if others is not None:
            row_of[others] = len(self.order) + np.arange(len(others))
        row_of = row_of[self._source]

        def average(start: int, stop: int) -> None:
            average_rows(
                *(*self._points, row_of, self._centers, self._homes, start, stop),
                *(n_average, self._how.cutoff, rows, places, out),
            )

        for_ranges(average, len(self.order), PIECE_OF_AVERAGES, n_threads, least=LEAST_OF_AVERAGES)

    def around(self) -> NDArray[np.int64]:
        """Centers that are not chosen and may be neighbours of chosen ones, ascending: those in the bins around."""
        _, rows, columns = self._grid.shape
        step = np.arange(-1, 2)
        steps = (step[:, None, None] * rows + step[:, None]) * columns + step
        near = np.unique(np.unique(self._homes)[:, None] + steps.ravel())
        is_near = np.zeros(self._n_atoms, bool)
        is_near[self._source[np.isin(self._points[3], near)]] = True
        is_near &= self._how.centers
        is_near[self.order] = False
        return np.flatnonzero(is_near)
