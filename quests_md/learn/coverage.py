"""What of a pool is covered: dH with respect to a reference and the frames of the pool that were taken."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quests_md._progress import track
from quests_md.engine import GrowingIndex
from quests_md.reference import Reference

from .pool import Pool

__all__ = ["Coverage"]

#: Nats, and part of the level where that is larger, that dH may be wrong by: fast sums, and rows in single precision.
MARGIN = 2e-4

#: Bandwidths. A frame whose atoms are all this near to known environments is a copy of known ones.
COPY_DISTANCE = 1e-2

#: Environments that are asked for together.
TOGETHER = 2**14


class Coverage:
    """A reference, the frames of a pool that were taken, and what of the pool these cover.

    `levels` (n,) in nats are those up to which the environments of the pool count as covered.
    """

    def __init__(self, pool: Pool, reference: Reference, levels: NDArray[np.float64], threads: int) -> None:
        self.pool, self.reference, self.levels, self.threads = pool, reference, levels, threads
        #: (n,) environments of one kind are compared with each other.
        self.kinds = pool.numbers if reference.match == "element" else np.zeros_like(pool.numbers)
        self._grown = {int(z): GrowingIndex(reference.bandwidth, threads) for z in np.unique(self.kinds)}
        self._is_taken = np.zeros(len(pool.places), bool)
        #: dH with respect to the reference as far as it was asked for, else NaN.
        self._base = np.full(len(pool.rows), np.nan)

    @property
    def n_taken_rows(self) -> int:
        """Environments of all frames that were taken."""
        return sum(index.n_rows for index in self._grown.values())

    def take(self, frame: int) -> None:
        """Count a frame as known."""
        self._is_taken[frame] = True
        here = self.pool.rows_of(frame)
        for z in np.unique(self.kinds[here]):
            self._grown[int(z)].add(self.pool.rows[here][self.kinds[here] == z].astype(np.float64))

    def dh(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """DH of environments with respect to the reference and what was taken, nats."""
        unknown = rows[np.isnan(self._base[rows])]
        for start in range(0, len(unknown), TOGETHER):
            piece = unknown[start : start + TOGETHER]
            self._base[piece] = self.reference.delta_entropy(
                self.rows(piece), numbers=self.pool.numbers[piece], threads=self.threads
            )
        taken = np.full(len(rows), np.inf)
        for index, piece in self._pieces(rows):
            taken[piece] = index.delta_entropy(self.rows(rows[piece]))
        dh: NDArray[np.float64] = -np.logaddexp(-self._base[rows], -taken)
        return dh

    def open_to_reference(self) -> NDArray[np.int64]:
        """Environments above the level with respect to the reference."""
        is_open = np.empty(len(self.pool.rows), bool)
        pieces = range(0, len(is_open), TOGETHER)
        for start in track(pieces, "judging environments", len(pieces)):
            piece = np.arange(start, min(start + TOGETHER, len(is_open)))
            is_open[piece] = ~self.reference.is_covered(
                self.rows(piece), self.upper(piece), numbers=self.pool.numbers[piece], threads=self.threads
            )
        return np.flatnonzero(is_open)

    def still_open(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some environments that are above the level, and not in a frame that was taken."""
        rows = rows[~self._is_taken[self.pool.frame_of[rows]]]
        upper, is_open = self.upper(rows), np.ones(len(rows), bool)
        for index, piece in self._pieces(rows):
            is_open[piece] = index.highest(self.rows(rows[piece]), upper[piece]) > -np.inf
        left = rows[is_open]
        return left[self.dh(left) > self.upper(left)]

    def is_copy(self, frame: int) -> bool:
        """Whether all atoms of a frame are where known ones are, by their rows."""
        here = self.pool.rows_of(frame)
        rows, kinds = self.pool.rows[here].astype(np.float64), self.kinds[here]
        nearest = self.reference.nearest(rows, numbers=self.pool.numbers[here], threads=self.threads).distance
        for z in np.unique(kinds):
            own = kinds == z
            nearest[own] = np.minimum(nearest[own], self._grown[int(z)].nearest_distance(rows[own]))
        return bool((nearest < COPY_DISTANCE).all())

    def upper(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Levels of environments, and what dH may be wrong by beside."""
        levels = self.levels[rows]
        return levels + MARGIN * np.maximum(1.0, np.abs(levels) / 100)

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Rows (k, width) of environments of the pool, 1/Å."""
        return self.pool.rows[rows].astype(np.float64)

    def _pieces(self, rows: NDArray[np.int64]) -> Iterator[tuple[GrowingIndex, NDArray[np.int64]]]:
        """What was taken that environments are compared with, and places in `rows` of these."""
        for z, index in self._grown.items():
            own = np.flatnonzero(self.kinds[rows] == z)
            for start in range(0, len(own), TOGETHER):
                yield index, own[start : start + TOGETHER]
