"""The search structure on CPUs: proofs from the leaves of a tree, sums and nearest rows from products with blocks."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quests_md._kernels import dense
from quests_md._kernels.dense import BlockQueries, NearestRows, RunningSums
from quests_md._kernels.jit import Floats, Floats32, Integers
from quests_md._kernels.leaves import FARTHEST, decide
from quests_md._kernels.sums import NO_GROUP
from quests_md._kernels.tiles import PANEL, multiply
from quests_md._threads import for_ranges

from .index import Sums
from .products import multiply_panels, product, steady_blas
from .tree import Block, lay_out, principal_axes

__all__ = ["BlasIndex", "CpuIndex", "TileIndex"]

#: Queries that pass the blocks, or the leaves, together: what one thread takes at a time.
BATCH = 256

#: The same at least, where answers do not depend on which queries are together.
FEWEST_DECIDED = 128

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
Products: TypeAlias = tuple[Floats32, Floats32, BlockQueries]


class CpuIndex(ABC):
    """An `Index` in the memory of the process; what multiplies is left to subclasses.

    Rows (n, width) of one element, in 1/Å, are kept as they are, and rotated in float32, in panels. Rotated columns are
    principal components in ascending order: the large terms of a product come last, and rounding is two to four times
    less than with the columns as they are.
    """

    def __init__(self, rows: Floats, bandwidth: float) -> None:
        self.rows = rows
        self.bandwidth = bandwidth
        # with several threads a product has other bits
        with steady_blas(rows.shape[1]), np.errstate(all="ignore"):
            self.axes = principal_axes(rows, bandwidth)
            self.layout = lay_out(rows, self.axes)
        self.longest = max(len(block.norms) for block in self.layout.blocks)

    @abstractmethod
    def multiply(self, queries: Floats32, panels: Floats32, products: Floats32) -> None:
        """Write the products of queries (k, width) and panels of rows (p, width, PANEL) to (k, p PANEL)."""

    def add_block(self, batch: "Batch", block: Block, queries: Floats32, asked: BlockQueries, sums: RunningSums) -> int:
        """Add a block in float32 to the sums of near queries; return for how many float32 is not good enough."""
        return dense.absorb_products(*batch.products(block, queries, asked), sums)

    def decide(self, queries: Floats, levels: Floats, threads: int) -> NDArray[np.int8]:
        """See `Index.decide`."""
        verdict = np.empty(len(queries), dtype=np.int8)
        leaves = self.layout.leaves
        most_leaves = max(MOST_LEAVES, int(MOST_LEAVES_PART * len(leaves.leaf_start)))

        def work(these: Integers) -> None:
            rotated = self.axes.rotate(queries[these])
            found = np.empty(len(these), dtype=np.int8)
            decide(rotated, _norms(rotated), np.minimum(levels[these], HIGHEST_LEVEL), leaves, most_leaves, found)
            verdict[these] = found

        self._in_batches(work, queries, threads, least=FEWEST_DECIDED)
        verdict[(verdict < 0) & (levels > HIGHEST_LEVEL)] = 0
        return verdict

    def minus_log_sums(
        self, queries: Floats, threads: int, query_groups: Integers | None = None, groups: Integers | None = None
    ) -> Sums:
        """See `Index.minus_log_sums`: products in float32 unless their errors matter, then in float64."""
        answer = Sums(*(np.empty(len(queries)) for _ in range(3)))
        ordered_groups = None
        if groups is not None:
            ordered_groups = np.full(len(self.layout.leaves.panels) * PANEL, NO_GROUP, np.int64)
            ordered_groups[: len(groups)] = groups[self.layout.order]
        left_out = LEFT_OUT + math.log(len(self.rows))

        def work(these: Integers) -> None:
            m = len(these)
            own = None if query_groups is None else query_groups[these]
            batch = Batch(self, queries[these], own, ordered_groups)
            top, total, worst, usual = np.full(m, -np.inf), np.zeros(m), np.zeros(m), np.zeros(m)
            sums = RunningSums(top, total, worst, usual, np.empty(m, np.bool_))
            limit = np.full(m, np.inf)
            for block, near, asked, far in batch.pass_blocks(limit, FARTHEST):
                if len(near) and self.add_block(batch, block, near, asked, sums):
                    far = np.concatenate([far, asked.here[sums.refused[asked.here]]])
                if len(far):
                    dense.absorb_products(*batch.exact_products(block, far), sums)
                surely = top + np.log(total) - np.log1p(worst / total)
                limit[:] = left_out - surely
            is_any = total > 0
            values = np.where(is_any, -top - np.log(total), np.inf)
            rounding = SUM_ERROR + SUM_ROUNDING * np.abs(values)
            answer.values[these] = values
            answer.bounds[these] = np.where(is_any, np.log1p(worst / total) + rounding, worst)
            answer.usual[these] = np.where(is_any, np.log1p(usual / total) + rounding, usual)

        self._in_batches(work, queries, threads)
        return answer

    def nearest(self, queries: Floats, threads: int) -> Integers:
        """See `Index.nearest`."""
        rows = np.empty(len(queries), np.int64)

        def work(these: Integers) -> None:
            m = len(these)
            batch = Batch(self, queries[these])
            nearest = NearestRows(batch.queries, self.rows, self.bandwidth, np.full(m, np.inf), np.full(m, -1))
            limit = np.full(m, np.inf)
            for block, near, asked, far in batch.pass_blocks(limit, FARTHEST_NEAREST):
                if len(near):
                    dense.take_nearest(*batch.products(block, near, asked), block.rows, nearest)
                if len(far):
                    dense.take_nearest(*batch.exact_products(block, far), block.rows, nearest)
                # boxes touch where rows are equal
                limit[:] = 0.5 * nearest.distance2 / self.bandwidth**2 * (1 + SUM_ROUNDING)
            rows[these] = nearest.row

        self._in_batches(work, queries, threads, least=FEWEST_DECIDED)
        return rows

    def _in_batches(
        self, work: Callable[[Integers], None], queries: Floats, threads: int, *, least: int | None = None
    ) -> None:
        """Call `work` with the places of queries that meet the same rows, batch by batch, on up to `threads` threads.

        `least`: queries of the smallest batch, where answers do not depend on the batch; None: batches do not depend on
        threads. Numpy does not warn: numbers too large for a product end as NaN and are dealt with.
        """
        order = self._sorted(queries)

        def quietly(start: int, stop: int) -> None:
            with np.errstate(all="ignore"):
                work(order[start:stop])

        with steady_blas(queries.shape[1]):
            for_ranges(quietly, len(queries), BATCH, threads, least=least)

    def _sorted(self, queries: Floats) -> Integers:
        """Order of the queries in which those that meet the same rows come together."""
        middles = self.layout.middles.T
        if len(queries) <= BATCH or middles.shape[1] == 1:
            return np.arange(len(queries))
        half_norm2 = 0.5 * np.einsum("ij,ij->j", middles, middles)
        main_axes = self.axes.directions[:, -len(middles) :] / self.bandwidth
        nearest = np.empty(len(queries), np.int64)
        with steady_blas(queries.shape[1]), np.errstate(all="ignore"):
            for start in range(0, len(queries), SORTED_TOGETHER):
                piece = slice(start, start + SORTED_TOGETHER)
                main = (product(queries[piece], main_axes) - self.axes.mean @ main_axes).astype(np.float32)
                nearest[piece] = (half_norm2 - product(main, middles)).argmin(axis=1)
        return np.argsort(nearest, kind="stable")


class TileIndex(CpuIndex):
    """An `Index` whose products are made in vector registers, and summed there; needs AVX2 or AVX-512."""

    def multiply(self, queries: Floats32, panels: Floats32, products: Floats32) -> None:
        """See `CpuIndex.multiply`."""
        multiply(queries, panels, products)

    def add_block(self, batch: "Batch", block: Block, queries: Floats32, asked: BlockQueries, sums: RunningSums) -> int:
        """See `CpuIndex.add_block`."""
        own = groups = None
        if batch.own is not None and batch.groups is not None:
            own, groups = batch.own[asked.here], batch.groups[block.places]
        return dense.absorb_panels(queries, block.panels, block.norms, own, groups, asked, sums)


class BlasIndex(CpuIndex):
    """An `Index` whose products are made by the BLAS library of numpy, on any other processor."""

    def multiply(self, queries: Floats32, panels: Floats32, products: Floats32) -> None:
        """See `CpuIndex.multiply`."""
        out = products.reshape(len(queries), -1, PANEL).transpose(1, 0, 2)
        multiply_panels(queries, panels, out)


class Batch:
    """Queries (m, width) that pass the blocks of an index together.

    own (m,) is the group of each query, whose rows are left out of sums; groups (panels PANEL,) is the group of each
    row, at its place in the panels. None: all rows are in.
    """

    def __init__(
        self, index: CpuIndex, queries: Floats, own: Integers | None = None, groups: Integers | None = None
    ) -> None:
        self.index = index
        self.queries = queries
        self.own, self.groups = own, groups
        self._rotated = index.axes.rotate(queries)
        sizes = _norms(self._rotated)
        self._blur = ROTATION_ERROR * sizes
        #: (m, blocks) at least half the squared distances from the boxes of the blocks
        self._bounds = np.empty((len(queries), len(index.layout.blocks)))
        dense.box_bounds(self._rotated, sizes, index.layout.low, index.layout.high, self._bounds)
        self._products = np.empty(len(queries) * index.longest, np.float32)

    def pass_blocks(self, limit: Floats, farthest: float) -> Iterator[tuple[Block, Floats32, BlockQueries, Integers]]:
        """The blocks, those nearest to most queries first, that some queries cannot do without.

        A query can do without where half its squared distance from the box of the block is above `limit` (m,), which
        the caller lowers between blocks. Yields the block, the queries (k, width) nearer than `farthest` to its centre,
        relative to it, what kernels know of them, and the places of the others: of all if the block is too large for
        float32. Arrays are overwritten for the next block.
        """
        m, width = self.queries.shape
        is_far, rounded = np.empty(m, np.bool_), np.empty((m, width), np.float32)
        base, lengths = np.empty(m), np.empty(m)
        for b in np.argsort(np.minimum(self._bounds, 1e6).sum(axis=0), kind="stable").tolist():
            here = np.nonzero(~(self._bounds[:, b] > limit))[0]
            k = len(here)
            if k == 0:
                continue
            block = self.index.layout.blocks[b]
            n = dense.approach(self._rotated, here, block.rotated, farthest, is_far, rounded, base, lengths)
            near, far = (here, here[:0]) if n == k else (here[~is_far[:k]], here[is_far[:k]])
            blur, unit, terms = self._blur, dense.FLOAT32_UNIT, width + 3.0
            yield block, rounded[:n], BlockQueries(near, base[:n], lengths[:n], blur, block.radius, unit, terms), far

    def products(self, block: Block, queries: Floats32, asked: BlockQueries) -> Products:
        """Products of near queries (k, width) with the rows of a block in float32."""
        k = len(queries)
        products = self._products[: k * len(block.norms)].reshape(k, -1)
        self.index.multiply(queries, block.panels, products)
        if self.own is not None and self.groups is not None:
            dense.leave_out(products, self.own[asked.here], self.groups[block.places])
        return products, block.norms, asked

    def exact_products(self, block: Block, here: Integers) -> Products:
        """Products of queries `here` (k,) with the rows of a block in float64: half as fast."""
        rows = (self.index.rows[block.rows] - block.centre) / self.index.bandwidth
        centred = (self.queries[here] - block.centre) / self.index.bandwidth
        norm2 = np.einsum("ij,ij->i", centred, centred)
        rows2 = np.einsum("ij,ij->i", rows, rows)
        products = product(centred, rows.T)
        products -= 0.5 * rows2
        if self.own is not None and self.groups is not None:
            products[self.own[here][:, None] == self.groups[block.places][: len(rows)]] = -np.inf
        largest = products.max(axis=1)
        base = np.where(largest == -np.inf, 0.0, largest)
        products -= base[:, None]
        radius, terms, no_blur = math.sqrt(rows2.max()), rows.shape[1] + 3.0, np.zeros(len(self.queries))
        asked = BlockQueries(here, base - 0.5 * norm2, np.sqrt(norm2), no_blur, radius, dense.FLOAT64_UNIT, terms)
        return products.astype(np.float32), np.zeros(len(rows), np.float32), asked


def _norms(vectors: Floats) -> Floats:
    norms: Floats = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return norms
