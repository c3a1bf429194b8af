"""The search structure on CPUs: proofs from the leaves of a tree, sums and nearest rows from products with blocks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quests_md._kernels.dense import (
    FLOAT32_UNIT,
    FLOAT64_UNIT,
    BlockQueries,
    ExactRows,
    NearestRows,
    RunningSums,
    Scratch,
    absorb_products,
    box_bounds,
    centre_and_round,
    leave_out,
    take_nearest,
)
from quests_md._kernels.leaves import FARTHEST, Leaves, decide
from quests_md._kernels.sums import NO_GROUP
from quests_md._kernels.tiles import PANEL, TILE
from quests_md._threads import for_ranges, one_blas_thread

from .index import Sums
from .tree import build_blocks, build_tree, principal_axes

__all__ = ["Batch", "CpuIndex", "NearQueries"]

#: Queries that pass the blocks, or the leaves, together: what one thread takes at a time.
BATCH = 256

#: Queries that are sorted together.
SORTED_TOGETHER = 2048

#: Leaves to look at before a proof is given up: at least, and as a part of all. They cost a third of the full sum.
MOST_LEAVES, MOST_LEAVES_PART = 48, 1 / 16

#: Levels above are as good as this one for a proof, nats.
HIGHEST_LEVEL = 500.0

#: Blocks may be left out of a sum if all of them together are less than e^-16 of it.
LEFT_OUT = 16.0

#: Bandwidths from the centre of a block up to which float32 is tried for nearest rows.
FARTHEST_NEAREST = 400.0

#: Bound of what exponentials, their sums and the blocks left out add to the error of a value, nats.
SUM_ERROR = 2e-5

#: Rounding of the float64 sum that a value is compared with, as a part of dH.
SUM_ROUNDING = 1e-12

#: What rotations are wrong by, as a part of the numbers that are rotated.
ROTATION_ERROR = 1e-12


#: Products (k, n) of queries and the rows of a block, norms (n,) of the rows, and what the kernels know of the queries.
Products: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], BlockQueries]


class NearQueries(NamedTuple):
    """Queries of a batch near a block, in bandwidths from its centre; overwritten for the next block."""

    here: NDArray[np.int64]  #: (k,) places in the batch.
    rounded: NDArray[np.float32]  #: (k, width) coordinates along the principal axes.
    lengths: NDArray[np.float64]  #: (k,) distances from the centre.


class CpuIndex(ABC):
    """An `Index` in the memory of the process; what multiplies is left to subclasses.

    Columns are principal components in ascending order: the large terms of a product come last, and rounding is two to
    four times less than with the columns as they are.

    Parameters
    ----------
    rows
        (n, width) float64 rows of one element, 1/Å; kept as they are, and rotated in float32, in panels.
    bandwidth
        h in 1/Å.
    """

    def __init__(self, rows: NDArray[np.float64], bandwidth: float) -> None:
        self.rows = rows
        self.bandwidth = bandwidth
        # with several threads a product has other bits
        with one_blas_thread(), np.errstate(all="ignore"):
            self.axes = principal_axes(rows, bandwidth)
            self.tree = build_tree(rows, self.axes)
            self.blocks = build_blocks(rows, self.axes, self.tree)

    @abstractmethod
    def multiply(
        self, queries: NDArray[np.float32], panels: NDArray[np.float32], products: NDArray[np.float32]
    ) -> None:
        """Write the products of queries (k, width) and panels of rows (p, width, PANEL) to (k, p PANEL)."""

    def add_block(
        self, batch: "Batch", b: int, near: NearQueries, sums: RunningSums, refused: NDArray[np.bool_]
    ) -> None:
        """Add block b in float32 to the sums of near queries; refuse those for which float32 is not good enough."""
        absorb_products(*batch.products(b, near), sums, refused, batch.scratch)

    def decide(self, queries: NDArray[np.float64], levels: NDArray[np.float64], threads: int) -> NDArray[np.int8]:
        """See `Index.decide`."""
        verdict = np.empty(len(queries), dtype=np.int8)
        tree, blocks = self.tree, self.blocks
        leaves = Leaves(tree.boxes, tree.leaf_start, tree.block_leaves, blocks.rotated_centres, blocks.panels)
        most_leaves = max(MOST_LEAVES, int(MOST_LEAVES_PART * len(tree.leaf_start)))

        def work(these: NDArray[np.int64]) -> None:
            rotated = self.axes.rotate(queries[these])
            found = np.empty(len(these), dtype=np.int8)
            decide(rotated, _norms(rotated), np.minimum(levels[these], HIGHEST_LEVEL), leaves, most_leaves, found)
            verdict[these] = found

        self._in_batches(work, queries, threads)
        verdict[(verdict < 0) & (levels > HIGHEST_LEVEL)] = 0
        return verdict

    def minus_log_sums(
        self,
        queries: NDArray[np.float64],
        threads: int,
        query_groups: NDArray[np.int64] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> Sums:
        """See `Index.minus_log_sums`: products in float32 unless their errors matter, then in float64."""
        answer = Sums(*(np.empty(len(queries)) for _ in range(3)))
        ordered_groups = None
        if groups is not None:
            ordered_groups = np.full(len(self.blocks.norms), NO_GROUP, np.int64)
            ordered_groups[: len(groups)] = groups[self.tree.order]
        left_out = LEFT_OUT + math.log(len(self.rows))

        def work(these: NDArray[np.int64]) -> None:
            own = None if query_groups is None else query_groups[these]
            batch = Batch(self, queries[these], own, ordered_groups)
            zeros = (np.zeros(len(these)) for _ in range(3))
            sums = RunningSums(np.full(len(these), -np.inf), *zeros)
            refused = np.empty(len(these), dtype=np.bool_)
            for b in batch.nearest_first():
                surely = sums.top + np.log(sums.total) - np.log1p(sums.worst / sums.total)
                here = np.flatnonzero(~(batch.bounds[:, b] > left_out - surely))
                near, far = batch.divide(b, here, FARTHEST)
                if len(near.here):
                    self.add_block(batch, b, near, sums, refused)
                    far = np.concatenate([far, near.here[refused[: len(near.here)]]])
                if len(far):
                    absorb_products(*batch.exact_products(b, far), sums, refused, batch.scratch)
            is_any = sums.total > 0
            values = np.where(is_any, -sums.top - np.log(sums.total), np.inf)
            rounding = SUM_ERROR + SUM_ROUNDING * np.abs(values)
            answer.values[these] = values
            answer.bounds[these] = np.where(is_any, np.log1p(sums.worst / sums.total) + rounding, sums.worst)
            answer.usual[these] = np.where(is_any, np.log1p(sums.usual / sums.total) + rounding, sums.usual)

        self._in_batches(work, queries, threads)
        return answer

    def nearest(self, queries: NDArray[np.float64], threads: int) -> NDArray[np.int64]:
        """See `Index.nearest`."""
        rows = np.empty(len(queries), np.int64)

        def work(these: NDArray[np.int64]) -> None:
            batch = Batch(self, queries[these])
            exact = ExactRows(batch.queries, self.rows, self.bandwidth)
            nearest = NearestRows(np.full(len(these), np.inf), np.full(len(these), -1))
            for b in batch.nearest_first():
                so_far = 0.5 * nearest.distance2 / self.bandwidth**2
                # boxes touch where rows are equal
                here = np.flatnonzero(~(batch.bounds[:, b] > so_far * (1 + SUM_ROUNDING)))
                order = self.tree.order[self.blocks.inside(b)]
                near, far = batch.divide(b, here, FARTHEST_NEAREST)
                if len(near.here):
                    take_nearest(*batch.products(b, near), order, exact, nearest, batch.scratch.halves)
                if len(far):
                    take_nearest(*batch.exact_products(b, far), order, exact, nearest, batch.scratch.halves)
            rows[these] = nearest.row

        self._in_batches(work, queries, threads)
        return rows

    def _in_batches(
        self, work: Callable[[NDArray[np.int64]], None], queries: NDArray[np.float64], threads: int
    ) -> None:
        """Call `work` with the places of queries that meet the same rows, batch by batch, on up to `threads` threads.

        Numpy does not warn: numbers too large for a product end as NaN and are dealt with.
        """
        order = self._sorted(queries)

        def quietly(start: int, stop: int) -> None:
            with np.errstate(all="ignore"):
                work(order[start:stop])

        with one_blas_thread():
            for_ranges(quietly, len(queries), BATCH, threads)

    def _sorted(self, queries: NDArray[np.float64]) -> NDArray[np.int64]:
        """Order of the queries in which those that meet the same rows come together."""
        if len(queries) <= BATCH or len(self.tree.middles) == 1:
            return np.arange(len(queries))
        middles = self.tree.middles.T
        half_norm2 = 0.5 * np.einsum("ij,ij->j", middles, middles)
        main_axes = self.axes.directions[:, -len(middles) :] / self.bandwidth
        nearest = np.empty(len(queries), np.int64)
        with one_blas_thread(), np.errstate(all="ignore"):
            for start in range(0, len(queries), SORTED_TOGETHER):
                piece = slice(start, start + SORTED_TOGETHER)
                main = (queries[piece] @ main_axes - self.axes.mean @ main_axes).astype(np.float32)
                nearest[piece] = (half_norm2 - main @ middles).argmin(axis=1)
        return np.argsort(nearest, kind="stable")


class Batch:
    """Queries that pass the blocks of an index together: exponents -|y - x|^2 / 2 with the rows of one block at a time.

    Parameters
    ----------
    index
        Whose blocks.
    queries
        (m, width), 1/Å.
    own
        (m,) group of each query, whose rows are left out; None: all are in.
    groups
        (panels PANEL,) group of each row in its place in the panels; None: all are in.
    """

    def __init__(
        self,
        index: CpuIndex,
        queries: NDArray[np.float64],
        own: NDArray[np.int64] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        m, width = queries.shape
        blocks = index.blocks
        self.index = index
        self.queries = queries
        self.own, self.groups = own, groups
        rotated = index.axes.rotate(queries)
        self._rotated = rotated
        self._sizes = _norms(rotated)
        #: (m, blocks) at least half the squared distances from the boxes of the blocks
        self.bounds = np.empty((m, len(blocks.radii)))
        box_bounds(rotated, self._sizes, blocks.low, blocks.high, self.bounds)
        longest = -(-int(np.diff(blocks.start).max()) // PANEL) * PANEL
        self.scratch = Scratch(
            products=np.empty(max(m, TILE) * longest, np.float32),
            halves=np.empty(longest, np.float32),
            powers=np.empty(longest, np.int32),
            fractions=np.empty(longest, np.float32),
        )
        self._rounded, self._lengths = np.zeros((m, width), np.float32), np.empty(m)

    def nearest_first(self) -> NDArray[np.int64]:
        """The blocks, those nearest to most queries first."""
        return np.argsort(np.minimum(self.bounds, 1e6).sum(axis=0), kind="stable")

    def divide(self, b: int, here: NDArray[np.int64], farthest: float) -> tuple[NearQueries, NDArray[np.int64]]:
        """Divide queries `here` (k,) into those nearer than `farthest` to the centre of block b, and the others.

        All are far if the block is too large for float32.
        """
        rounded, lengths = self._rounded[: len(here)], self._lengths[: len(here)]
        centre_and_round(self._rotated, here, self.index.blocks.rotated_centres[b], rounded, lengths)
        is_near = lengths < farthest
        if is_near.all():
            return NearQueries(here, rounded, lengths), here[:0]
        # those that stay move to the front
        n = int(is_near.sum())
        self._rounded[:n], self._lengths[:n] = rounded[is_near], lengths[is_near]
        return NearQueries(here[is_near], self._rounded[:n], self._lengths[:n]), here[~is_near]

    def asked(self, b: int, near: NearQueries) -> BlockQueries:
        """What the kernels have to know of queries near block b."""
        blur, terms = ROTATION_ERROR * self._sizes[near.here], self.queries.shape[1] + 3.0
        radius = self.index.blocks.radii[b]
        return BlockQueries(near.here, -0.5 * near.lengths**2, near.lengths, blur, radius, FLOAT32_UNIT, terms)

    def products(self, b: int, near: NearQueries) -> Products:
        """Products of near queries with the rows of block b in float32."""
        panels, places = self.index.blocks.places(b)
        k = len(near.here)
        products = self.scratch.products[: k * (places.stop - places.start)].reshape(k, -1)
        self.index.multiply(near.rounded, self.index.blocks.panels[panels], products)
        if self.own is not None and self.groups is not None:
            leave_out(products, self.own[near.here], self.groups[places])
        return products, self.index.blocks.norms[places], self.asked(b, near)

    def exact_products(self, b: int, here: NDArray[np.int64]) -> Products:
        """Products of queries `here` (k,) with the rows of block b in float64: half as fast."""
        index, inside, centre = self.index, self.index.blocks.inside(b), self.index.blocks.centres[b]
        rows = (index.rows[index.tree.order[inside]] - centre) / index.bandwidth
        centred = (self.queries[here] - centre) / index.bandwidth
        norm2 = np.einsum("ij,ij->i", centred, centred)
        rows2 = np.einsum("ij,ij->i", rows, rows)
        products = centred @ rows.T
        products -= 0.5 * rows2
        if self.own is not None and self.groups is not None:
            products[self.own[here][:, None] == self.groups[inside]] = -np.inf
        largest = products.max(axis=1)
        base = np.where(largest == -np.inf, 0.0, largest)
        products -= base[:, None]
        radius, terms = math.sqrt(rows2.max()), rows.shape[1] + 3.0
        asked = BlockQueries(here, base - 0.5 * norm2, np.sqrt(norm2), np.zeros(len(here)), radius, FLOAT64_UNIT, terms)
        return products.astype(np.float32), np.zeros(len(rows), np.float32), asked


def _norms(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return norms
