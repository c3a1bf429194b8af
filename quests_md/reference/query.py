"""The rows of a reference, and what is asked of them: dH, whether dH is below a level, the nearest row."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quests_md._arguments import check_rows
from quests_md._kernels.sums import nearest_rows
from quests_md._threads import available_threads, for_ranges
from quests_md.engine import Index, build_index, minus_log_sums
from quests_md.environments import DescriptorLike, check_center_rows, is_center

from .arrays import ReferenceArrays, blocks_of

__all__ = ["FEW_ROWS", "KnownRows", "Nearest", "is_inaccurate"]

#: Rows of an element up to which a float64 sum is as fast as anything.
FEW_ROWS = 256

#: Pairs of environments and rows up to which the nearest row is found before a search structure is built.
FEW_PAIRS = 1e7


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """Reference environments nearest to the atoms of a frame."""

    distance: NDArray[np.float64]
    """(n,) distance of the rows in bandwidths; inf for an unknown element or an atom that is no center."""
    frame: NDArray[np.int64]
    """(n,) frame of the reference, counted over all its frames; -1 where the distance is inf."""
    atom: NDArray[np.int64]
    """(n,) index of the atom in that frame; -1 where the distance is inf."""


class KnownRows:
    """The rows of a reference, and the search structures over them, which are built when first asked for.

    Methods take descriptor rows (n, width) in 1/Å that have been checked, and their atomic numbers (n,).

    Parameters
    ----------
    arrays
        The arrays of the reference.
    match
        "element": an atom is compared with rows of its element; "any": with all rows.
    bandwidth
        h in 1/Å.
    descriptor
        What made the rows; None: not known, all atoms are centers.
    """

    def __init__(
        self, arrays: ReferenceArrays, *, match: str, bandwidth: float, descriptor: DescriptorLike | None
    ) -> None:
        self.arrays = arrays
        self.match = match
        self.bandwidth = bandwidth
        self.descriptor = descriptor
        #: Rows that an atom is compared with, by its atomic number; by 0 under match="any".
        self.blocks = blocks_of(arrays.numbers, match)
        #: Search structures built so far, by the first row of their block.
        self.structures: dict[int, Index] = {}
        self._inherited: dict[int, Index] = {}

    def inherit(self, first: "KnownRows") -> None:
        """Take over the search structures of a reference whose rows come first in each element of this one."""
        for z, block in first.blocks.items():
            index = first.structures.get(block.start)
            if index is not None and z in self.blocks:
                self._inherited[self.blocks[z].start] = index

    def is_center(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether atoms of each atomic number have an environment: all, unless the descriptor restricts its centers."""
        return is_center(self.descriptor, numbers)

    def is_known(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether each atomic number can be compared with the rows; False for those that are no centers."""
        z = np.asarray(numbers)
        if self.match == "any":
            return self.is_center(z) & bool(self.blocks)
        return np.isin(z, list(self.blocks))

    def matches(self, numbers: NDArray[Any]) -> Iterator[tuple[NDArray[np.int64], slice]]:
        """Indices of the environments of each element, if any, and the slice of rows they are compared with."""
        for z, block in self.blocks.items():
            where = np.flatnonzero(self.is_center(numbers) if self.match == "any" else numbers == z)
            if len(where):
                yield where, block

    def log_shares(self, sketch: "KnownRows", numbers: NDArray[Any]) -> NDArray[np.float64]:
        """Log of how many of these rows each row of a sketch stands for, for environments of each atomic number."""
        out = np.zeros(len(numbers))
        for z in np.unique(numbers):
            mine, its = (known.blocks.get(0 if self.match == "any" else int(z)) for known in (self, sketch))
            if mine and its:
                out[numbers == z] = math.log((mine.stop - mine.start) / (its.stop - its.start))
        return out

    def index(self, block: slice) -> Index:
        """The search structure over a block of rows, built when first asked for."""
        if block.start not in self.structures:
            first = self._inherited.pop(block.start, None)
            self.structures[block.start] = build_index(self.arrays.rows[block], self.bandwidth, first)
        return self.structures[block.start]

    def checked(self, rows: ArrayLike, numbers: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Rows and atomic numbers as arrays, or a ValueError that says why they cannot be compared with these rows."""
        z = None if numbers is None else np.asarray(numbers)
        if z is None or z.shape != np.shape(rows)[:1]:  # a wrong shape of numbers is refused below
            array = check_rows("rows", rows)
        else:
            array = check_center_rows("rows", rows, self.is_center(z))
        width = self.arrays.rows.shape[1]
        if self.blocks and array.shape[1] != width:
            raise ValueError(
                f"rows: expected {width} columns as in the reference, got {array.shape[1]}; "
                "make them with reference.descriptor"
            )
        if z is None:
            if len(self.blocks) > 1:
                raise ValueError(
                    f"numbers: expected the atomic number of each row, since the reference has {len(self.blocks)} "
                    "elements and compares like with like; give numbers=atoms.numbers"
                )
            return array, np.full(len(array), int(self.arrays.numbers.min()) if self.blocks else 0)
        if z.shape != (len(array),):
            raise ValueError(f"numbers: expected shape ({len(array)},), one per row, got {z.shape}")
        return array, z

    def evaluate(
        self,
        rows: NDArray[np.float64],
        numbers: NDArray[Any],
        *,
        levels: Sequence[NDArray[np.float64]] = (),
        float64: bool = False,
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """DH of each row as `Reference.delta_entropy`; comparisons with `levels` (n,) are as with float64=True."""
        n_threads = available_threads(threads)
        out = np.where(self.is_center(numbers), np.inf, np.nan)
        for where, block in self.matches(numbers):
            known = self.arrays.rows[block]
            if float64 or len(known) <= FEW_ROWS:
                out[where] = minus_log_sums(rows[where], known, self.bandwidth, threads=threads)
                continue
            values, bounds, usual = self.index(block).minus_log_sums(rows[where], n_threads)
            # values are as good as promised where rounding is as usual, comparisons hold in the worst case
            unsure = is_inaccurate(values, usual)
            for level in levels:
                with np.errstate(invalid="ignore"):  # inf - inf
                    unsure |= ~(np.abs(values - level[where]) > bounds)
            values[unsure] = minus_log_sums(rows[where[unsure]], known, self.bandwidth, threads=threads)
            out[where] = values
        return out

    def evaluate_above(
        self,
        rows: NDArray[np.float64],
        numbers: NDArray[Any],
        lowest: NDArray[np.float64],
        *,
        levels: Sequence[NDArray[np.float64]] = (),
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """`evaluate` where dH may be above `lowest` (n,) nats, NaN where a proof says that dH is not."""
        out = np.full(len(rows), np.nan)
        is_open = self._verdicts(rows, numbers, lowest, threads) <= 0
        these = [level[is_open] for level in (lowest, *levels)]
        out[is_open] = self.evaluate(rows[is_open], numbers[is_open], levels=these, threads=threads)
        return out

    def is_covered(
        self, rows: NDArray[np.float64], numbers: NDArray[Any], level: float | ArrayLike, threads: int | None
    ) -> NDArray[np.bool_]:
        """Whether dH <= level for each row, as `Reference.is_covered`."""
        levels = np.asarray(level, dtype=np.float64)
        if levels.ndim > 1 or (levels.ndim == 1 and len(levels) != len(rows)):
            raise ValueError(f"level: expected a number or an array ({len(rows)},), got shape {levels.shape}")
        if np.isnan(levels).any():
            raise ValueError("level: expected numbers of nats, got NaN")
        levels = np.broadcast_to(levels, len(rows))
        is_no_center = ~self.is_center(numbers)
        verdicts = self._verdicts(rows, numbers, levels, threads)
        covered = (verdicts > 0) | is_no_center
        open_ = np.flatnonzero((verdicts == 0) & ~is_no_center)
        values = self.evaluate(rows[open_], numbers[open_], levels=[levels[open_]], threads=threads)
        covered[open_] = (values <= levels[open_]) & (values < np.inf)
        return covered

    def nearest(self, rows: NDArray[np.float64], numbers: NDArray[Any], threads: int | None) -> Nearest:
        """The nearest reference environment of each row."""
        distance = np.full(len(rows), np.inf)
        found = np.full(len(rows), -1)
        n_threads = available_threads(threads)
        for where, block in self.matches(numbers):
            known = self.arrays.rows[block]
            best = np.full(len(where), -1)
            is_many = len(where) * len(known) > FEW_PAIRS or block.start in self.structures
            if is_many and len(known) > FEW_ROWS:
                best = self.index(block).nearest(rows[where], n_threads)
            d2 = _nearest_rows(rows[where], known, best, n_threads)
            distance[where] = np.sqrt(d2) / self.bandwidth
            found[where] = best + block.start
        known_rows = found >= 0
        frame, atom = np.full(len(rows), -1), np.full(len(rows), -1)
        frame[known_rows] = self.arrays.atom_frame[found[known_rows]]
        atom[known_rows] = self.arrays.atom_index[found[known_rows]]
        return Nearest(distance=distance, frame=frame, atom=atom)

    def _verdicts(
        self,
        rows: NDArray[np.float64],
        numbers: NDArray[Any],
        levels: NDArray[np.float64],
        threads: int | None,
    ) -> NDArray[np.int8]:
        """Whether dH <= level is proven (1) or refuted (-1); 0: neither, or rows so few that no proof is tried."""
        verdicts = np.zeros(len(rows), np.int8)
        for where, block in self.matches(numbers):
            if block.stop - block.start > FEW_ROWS:
                verdicts[where] = self.index(block).decide(rows[where], levels[where], available_threads(threads))
        return verdicts


def is_inaccurate(values: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where fast values of dH with these errors may not be as good as `Reference.delta_entropy` promises."""
    return ~(errors < 1e-4 + 1e-6 * np.abs(values))


def _nearest_rows(
    queries: NDArray[np.float64], rows: NDArray[np.float64], best: NDArray[np.int64], threads: int
) -> NDArray[np.float64]:
    """Squared distances of queries from their nearest rows `best`, which are looked for, and filled in, where -1."""
    with np.errstate(over="ignore"):  # then inf, as the kernel says
        d2: NDArray[np.float64] = ((queries - rows[best]) ** 2).sum(axis=1)
    missing = np.flatnonzero(best < 0)
    these, their_best, their_d2 = queries[missing], best[missing], d2[missing]

    def work(start: int, stop: int) -> None:
        nearest_rows(these[start:stop], rows, their_best[start:stop], their_d2[start:stop])

    for_ranges(work, len(missing), 64, threads)
    best[missing], d2[missing] = their_best, their_d2
    return d2
