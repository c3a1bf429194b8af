"""Search structure over the rows of one element: proofs about dH and a level, fast values of dH, nearest rows."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quests_md._kernels.dense import (
    absorb_panels,
    absorb_products,
    box_bounds,
    centre_and_round,
    leave_out,
    take_nearest,
)
from quests_md._kernels.leaves import decide
from quests_md._kernels.sums import NO_GROUP
from quests_md._kernels.tiles import HAS_TILES, PANEL, TILE, multiply
from quests_md._threads import for_ranges, one_blas_thread

__all__ = ["Index", "JoinedIndex"]

#: Rows of a leaf, at most, and of a block: what a product of matrices and the caches like.
LEAF, BLOCK = 64, 2048

#: Leaves and blocks, save the last ones, hold multiples of so many rows, and panels a part of it: none is shared.
STEP = 32

#: Principal components that the tree and its boxes are made of.
COMPONENTS = 8

#: Boxes that a box holds, and most boxes by which queries are sorted.
FAN, MOST_BOXES = 16, 256

#: Rows that principal components are taken from, and how much farther out than most a row of no say in them is.
SAMPLE, OUTLIER = 8192, 10.0

#: Rows that are rotated together.
PIECE = 2048

#: Queries that pass a block together.
QUERIES = 256

#: Queries per piece of work for a thread when proving.
PROOFS = 256

#: Leaves to look at before a proof is given up: at least, and as a part of all. They cost a third of the full sum.
MOST_LEAVES, MOST_PART = 48, 1 / 16

#: Levels above are as good as this one for a proof, nats.
HIGHEST = 500.0

#: Blocks may be left out of a sum if all of them together are less than e^-16 of it.
LEFT_OUT = 16.0

#: Bandwidths from the centre of a block up to which float32 is tried, and for nearest rows.
FAR, FAR_NEAREST = 1e4, 400.0

#: Bound of what exponentials, their sums and the blocks left out add to the error of a fast value, nats.
SUM_ERROR = 2e-5

#: Rounding of a float64 sum to which a fast value is compared, as a part of dH.
SUM_ROUNDING = 1e-12

#: Rounding units of float32 and float64.
SINGLE, DOUBLE = 2.0**-24, 2.0**-53


class Index:
    """Rows sorted by a k-d tree in their principal components, in blocks around a centre of their own, in float32.

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
        # with several threads a product has other bits
        with one_blas_thread(), np.errstate(all="ignore"):
            self._build(rows, bandwidth)

    def _build(self, rows: NDArray[np.float64], bandwidth: float) -> None:
        n, width = rows.shape
        self.rows = rows
        self.bandwidth = bandwidth
        self.width = width
        self.mean, self.axes = _principal_axes(rows)
        main = np.empty((n, min(COMPONENTS, width)), np.float32)
        for start in range(0, n, PIECE):
            main[start : start + PIECE] = self._rotated(rows[start : start + PIECE])[:, -main.shape[1] :]
        self.order, self.leaf_start, self.block_leaves = _tree(main)
        self.boxes, self.middles = _boxes(main[self.order], self.leaf_start)
        self.block_start = self.leaf_start[:: self.block_leaves]
        n_blocks = len(self.block_start) - 1
        n_panels = -(-n // PANEL)
        self.panels = np.empty((n_panels, width, PANEL), np.float32)
        # places of the last panel that are left over belong to rows at infinity
        self.norms = np.full(n_panels * PANEL, -np.inf, np.float32)
        self.centres, self.rotated_centres = np.empty((n_blocks, width)), np.empty((n_blocks, width))
        self.block_low, self.block_high = np.empty((n_blocks, width)), np.empty((n_blocks, width))
        self.radii = np.empty(n_blocks)
        for b in range(n_blocks):
            inside = slice(self.block_start[b], self.block_start[b + 1])
            block = rows[self.order[inside]]
            # the median: a few rows far away leave it where the others are
            self.centres[b] = np.median(block, axis=0)
            rotated = ((block - self.centres[b]) / bandwidth) @ self.axes
            centre = self._rotated(self.centres[b : b + 1])[0]
            self.block_low[b], self.block_high[b] = rotated.min(axis=0) + centre, rotated.max(axis=0) + centre
            panels, places = self.places(b)
            padded = np.zeros((places.stop - places.start, width), np.float32)
            padded[: len(block)] = rotated
            self.panels[panels] = padded.reshape(-1, PANEL, width).transpose(0, 2, 1)
            rounded = padded[: len(block)].astype(np.float64)
            norm2 = np.einsum("ij,ij->i", rounded, rounded)
            self.norms[inside] = -0.5 * norm2
            self.radii[b] = math.sqrt(float(norm2.max()))
            self.rotated_centres[b] = centre if self.radii[b] < 1e15 else math.nan  # too far for float32

    def places(self, b: int) -> tuple[slice, slice]:
        """The panels of a block, and the places of their rows, some of the last one left over."""
        panels = slice(self.block_start[b] // PANEL, -(-self.block_start[b + 1] // PANEL))
        return panels, slice(panels.start * PANEL, panels.stop * PANEL)

    def decide(self, queries: NDArray[np.float64], levels: NDArray[np.float64], threads: int) -> NDArray[np.int8]:
        """Whether dH <= level is proven (1) or refuted (-1) for each query (m, width); 0: neither."""
        order = self._sorted(queries)
        out = np.empty(len(queries), dtype=np.int8)
        most_leaves = max(MOST_LEAVES, int(MOST_PART * len(self.leaf_start)))

        def work(start: int, stop: int) -> None:
            these = order[start:stop]
            rotated = self._rotated(queries[these])
            verdict = np.empty(len(these), dtype=np.int8)
            decide(
                rotated,
                _norms(rotated),
                np.minimum(levels[these], HIGHEST),
                self.boxes,
                self.leaf_start,
                self.block_leaves,
                self.rotated_centres,
                self.panels,
                most_leaves,
                verdict,
            )
            out[these] = verdict

        with one_blas_thread():
            for_ranges(_quietly(work), len(queries), PROOFS, threads)
        out[(out < 0) & (levels > HIGHEST)] = 0
        return out

    def minus_log_sums(
        self,
        queries: NDArray[np.float64],
        threads: int,
        query_groups: NDArray[np.int64] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """DH of each query without rows of the query's group, a bound of its error, and its usual error at most.

        Products are those of float32, unless their errors matter: then of float64.
        """
        order = self._sorted(queries)
        out, bound, usual = np.empty(len(queries)), np.empty(len(queries)), np.empty(len(queries))
        ordered_groups = None
        if groups is not None:
            ordered_groups = np.full(len(self.norms), NO_GROUP, np.int64)
            ordered_groups[: len(groups)] = groups[self.order]
        left_out = LEFT_OUT + math.log(len(self.rows))

        def work(start: int, stop: int) -> None:
            these = order[start:stop]
            piece = _Piece(self, queries[these], None if query_groups is None else query_groups[these], ordered_groups)
            # sums relative to exp(top), and the errors of each, relative to that as well
            top, total = np.full(len(these), -np.inf), np.zeros(len(these))
            errors = np.zeros(len(these)), np.zeros(len(these))
            refused = np.empty(len(these), dtype=np.bool_)
            scratch, fractions = np.empty(piece.longest, np.float32), np.empty(piece.longest, np.float32)
            memory = scratch, np.empty(piece.longest, np.int32), fractions
            for b in piece.nearest_first():
                surely = top + np.log(total) - np.log1p(errors[0] / total)
                here = np.flatnonzero(~(piece.bounds[:, b] > left_out - surely))
                near, far = piece.divide(b, here, FAR)
                if len(near):
                    if HAS_TILES:
                        absorb_panels(*piece.panels(b, near), top, total, *errors, refused, piece.memory, *memory)
                    else:
                        absorb_products(*piece.single(b, near), top, total, *errors, refused, *memory)
                    far = np.concatenate([far, near[refused[: len(near)]]])
                if len(far):
                    absorb_products(*piece.double(b, far), top, total, *errors, refused, *memory)
            value = np.where(total > 0, -top - np.log(total), np.inf)
            out[these] = value
            for given, error in zip((bound, usual), errors, strict=True):
                rounding = SUM_ERROR + SUM_ROUNDING * np.abs(value)
                given[these] = np.where(total > 0, np.log1p(error / total) + rounding, error)

        with one_blas_thread():
            for_ranges(_quietly(work), len(queries), QUERIES, threads)
        return out, bound, usual

    def nearest(self, queries: NDArray[np.float64], threads: int) -> NDArray[np.int64]:
        """The nearest row of each query (m, width), the first of equals; -1 where numbers are too large."""
        order = self._sorted(queries)
        out = np.empty(len(queries), np.int64)

        def work(start: int, stop: int) -> None:
            these = order[start:stop]
            piece = _Piece(self, queries[these])
            distance2, nearest = np.full(len(these), np.inf), np.full(len(these), -1)
            scratch = np.empty(piece.longest, np.float32)
            for b in piece.nearest_first():
                # boxes touch where rows are equal
                so_far = 0.5 * distance2 / self.bandwidth**2
                here = np.flatnonzero(~(piece.bounds[:, b] > so_far * (1 + SUM_ROUNDING)))
                inside = slice(self.block_start[b], self.block_start[b + 1])
                rows = queries[these], self.rows, self.order[inside], self.bandwidth
                found = distance2, nearest, scratch
                near, far = piece.divide(b, here, FAR_NEAREST)
                if len(near):
                    take_nearest(*piece.single(b, near), *rows, *found)
                if len(far):
                    take_nearest(*piece.double(b, far), *rows, *found)
            out[these] = nearest

        with one_blas_thread():
            for_ranges(_quietly(work), len(queries), QUERIES, threads)
        return out

    def _rotated(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return ((rows - self.mean) / self.bandwidth) @ self.axes

    def _sorted(self, queries: NDArray[np.float64]) -> NDArray[np.int64]:
        """Order of the queries in which those that meet the same rows come together."""
        if len(queries) <= QUERIES or len(self.middles) == 1:
            return np.arange(len(queries))
        middles = self.middles.T
        half_norm2 = 0.5 * np.einsum("ij,ij->j", middles, middles)
        axes = self.axes[:, -len(middles) :] / self.bandwidth
        nearest = np.empty(len(queries), np.int64)
        with one_blas_thread(), np.errstate(all="ignore"):
            for start in range(0, len(queries), PIECE):
                main = (queries[start : start + PIECE] @ axes - self.mean @ axes).astype(np.float32)
                nearest[start : start + PIECE] = (half_norm2 - main @ middles).argmin(axis=1)
        return np.argsort(nearest, kind="stable")


class JoinedIndex:
    """The structures of the first rows, made for a smaller reference, and of those that came after them.

    Parameters
    ----------
    first, rest
        Structures of the same bandwidth over consecutive rows.
    """

    def __init__(self, first: Index, rest: Index) -> None:
        self.first, self.rest = first, rest
        self._n_first = len(first.rows)

    def decide(self, queries: NDArray[np.float64], levels: NDArray[np.float64], threads: int) -> NDArray[np.int8]:
        """As `Index.decide`: what a part of the rows proves is proven; two parts refuted prove nothing of their sum."""
        verdict = np.maximum(self.first.decide(queries, levels, threads), 0)
        rest = np.flatnonzero(verdict == 0)
        verdict[rest] = np.maximum(self.rest.decide(queries[rest], levels[rest], threads), 0)
        return verdict

    def minus_log_sums(
        self,
        queries: NDArray[np.float64],
        threads: int,
        query_groups: NDArray[np.int64] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """As `Index.minus_log_sums`: a sum is wrong by no larger a part than the worse of its two parts."""
        n = self._n_first
        a, *a_errors = self.first.minus_log_sums(queries, threads, query_groups, None if groups is None else groups[:n])
        b, *b_errors = self.rest.minus_log_sums(queries, threads, query_groups, None if groups is None else groups[n:])
        bound, usual = (np.maximum(x, y) for x, y in zip(a_errors, b_errors, strict=True))
        return -np.logaddexp(-a, -b), bound, usual

    def nearest(self, queries: NDArray[np.float64], threads: int) -> NDArray[np.int64]:
        """As `Index.nearest`."""
        a, b = self.first.nearest(queries, threads), self.rest.nearest(queries, threads)
        with np.errstate(over="ignore"):  # then both are -1
            d2_a = ((queries - self.first.rows[a]) ** 2).sum(axis=1)
            d2_b = ((queries - self.rest.rows[b]) ** 2).sum(axis=1)
        nearest = np.where(d2_b < d2_a, b + self._n_first, a)
        return np.where((a < 0) | (b < 0), -1, nearest)


class _Piece:
    """Some queries on their way through the blocks of an index: exponents -|y - x|^2 / 2, lengths in bandwidths."""

    def __init__(
        self,
        index: Index,
        queries: NDArray[np.float64],
        query_groups: NDArray[np.int64] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        m = len(queries)
        self.index = index
        self.queries = queries
        self.query_groups, self.groups = query_groups, groups
        self.rotated = index._rotated(queries)
        self.sizes = _norms(self.rotated)
        #: (m, blocks) half the squared distances from the boxes of the blocks, at least
        self.bounds = np.empty((m, len(index.radii)))
        box_bounds(self.rotated, self.sizes, index.block_low, index.block_high, self.bounds)
        self.longest = -(-int(np.diff(index.block_start).max()) // PANEL) * PANEL
        #: for as many products as there can be
        self.memory = np.empty(max(m, TILE) * self.longest, np.float32)
        self._rounded, self._lengths = np.zeros((m, index.width), np.float32), np.empty(m)

    def nearest_first(self) -> NDArray[np.int64]:
        """The blocks, those nearest to most queries first."""
        return np.argsort(np.minimum(self.bounds, 1e6).sum(axis=0), kind="stable")

    def divide(self, b: int, here: NDArray[np.int64], far: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The queries nearer than `far` to the centre of a block, and the others; all are far if it is of no use."""
        rounded, lengths = self._rounded[: len(here)], self._lengths[: len(here)]
        centre_and_round(self.rotated, here, self.index.rotated_centres[b], rounded, lengths)
        is_near = lengths < far
        if is_near.all():
            return here, here[:0]
        # those that stay move to the front
        n = int(is_near.sum())
        self._rounded[:n], self._lengths[:n] = rounded[is_near], lengths[is_near]
        return here[is_near], here[~is_near]

    def panels(self, b: int, here: NDArray[np.int64]) -> tuple[Any, ...]:
        """The near ones of `divide` and the panels of a block, as `absorb_panels` wants them."""
        panels, places = self.index.places(b)
        own = groups = None
        if self.query_groups is not None and self.groups is not None:
            own, groups = self.query_groups[here], self.groups[places]
        rounded = self._rounded[: len(here)]
        return rounded, self.index.panels[panels], self.index.norms[places], own, groups, *self._near(b, here)

    def single(self, b: int, here: NDArray[np.int64]) -> tuple[Any, ...]:
        """Exponents of the near ones of `divide` and the rows of a block in float32, as the kernels want them."""
        panels, places = self.index.places(b)
        products = self.memory[: len(here) * (places.stop - places.start)].reshape(len(here), -1)
        if HAS_TILES:
            multiply(self._rounded[: len(here)], self.index.panels[panels], products)
        else:
            out = products.reshape(len(here), -1, PANEL).transpose(1, 0, 2)
            np.matmul(self._rounded[: len(here)], self.index.panels[panels], out=out)
        if self.query_groups is not None and self.groups is not None:
            leave_out(products, self.query_groups[here], self.groups[places])
        return products, self.index.norms[places], *self._near(b, here)

    def _near(self, b: int, here: NDArray[np.int64]) -> tuple[Any, ...]:
        lengths = self._lengths[: len(here)]
        # rotations are wrong by some 1e-14 of what they rotate
        blur = 1e-12 * self.sizes[here]
        return -0.5 * lengths**2, here, lengths, blur, self.index.radii[b], SINGLE, self.index.width + 3.0

    def double(self, b: int, here: NDArray[np.int64]) -> tuple[Any, ...]:
        """The same from products in float64: half as fast."""
        index = self.index
        inside = slice(index.block_start[b], index.block_start[b + 1])
        rows = (index.rows[index.order[inside]] - index.centres[b]) / index.bandwidth
        centred = (self.queries[here] - index.centres[b]) / index.bandwidth
        norm2 = np.einsum("ij,ij->i", centred, centred)
        rows2 = np.einsum("ij,ij->i", rows, rows)
        products = centred @ rows.T
        products -= 0.5 * rows2
        if self.query_groups is not None and self.groups is not None:
            products[self.query_groups[here][:, None] == self.groups[inside]] = -np.inf
        largest = products.max(axis=1)
        base = np.where(largest == -np.inf, 0.0, largest)
        products -= base[:, None]
        common = np.sqrt(norm2), np.zeros(len(here)), math.sqrt(rows2.max()), DOUBLE, index.width + 3.0
        return products.astype(np.float32), np.zeros(len(rows), np.float32), base - 0.5 * norm2, here, *common


def _norms(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return norms


def _quietly(work: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """The same work without warnings of numpy: numbers too large for a product end as NaN and are dealt with."""

    def quiet(start: int, stop: int) -> None:
        with np.errstate(all="ignore"):
            work(start, stop)

    return quiet


def _principal_axes(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of the rows, and the axes (width, width) along which they vary, from least to most."""
    some = rows[:: max(1, len(rows) // SAMPLE)]
    centre = np.median(some, axis=0)
    distance2 = np.einsum("ij,ij->i", some - centre, some - centre)
    some = some[distance2 <= OUTLIER**2 * np.quantile(distance2, 0.9)]
    mean = some.mean(axis=0) if len(some) else centre
    centred = some - mean
    covariance = centred.T @ centred
    if not np.isfinite(covariance).all():  # rows too large for their squares
        return centre, np.eye(rows.shape[1])
    return mean, np.linalg.eigh(covariance)[1]


def _tree(main: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Order of the rows, first rows of the 2^k leaves, leaves of a block: halved along the widest component.

    Halves are even but for a STEP.
    """
    n = len(main)
    order = np.arange(n)
    ends = [(0, n)]
    block_level = max(0, math.ceil(math.log2(n / BLOCK)))
    leaf_level = max(block_level, math.ceil(math.log2(n / LEAF)))
    for _ in range(leaf_level):
        halves = []
        for start, stop in ends:
            middle = start + (stop - start + STEP - 1) // STEP // 2 * STEP
            here = main[order[start:stop]]
            widest = int((here.max(axis=0) - here.min(axis=0)).argmax())
            order[start:stop] = order[start:stop][np.argpartition(here[:, widest], middle - start)]
            halves += [(start, middle), (middle, stop)]
        ends = halves
    leaf_start = np.array([start for start, _ in ends] + [n], dtype=np.int64)
    return order, leaf_start, 2 ** (leaf_level - block_level)


def _boxes(main: NDArray[np.float32], leaf_start: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes of the nodes of the tree as `decide` wants them, and the middles (boxes, p) of some of them.

    Not every level of the tree: each box holds FAN of the next, which a processor measures at once.
    """
    ends = np.stack([np.minimum.reduceat(main, leaf_start[:-1]), np.maximum.reduceat(main, leaf_start[:-1])])
    levels = [ends]
    while levels[0].shape[1] > FAN:
        groups = levels[0].reshape(2, -1, FAN, main.shape[1])
        levels.insert(0, np.stack([groups[0].min(axis=1), groups[1].max(axis=1)]))
    some = [level for level in levels if level.shape[1] <= MOST_BOXES][-1]
    missing = FAN - levels[0].shape[1]
    levels[0] = np.pad(levels[0], ((0, 0), (0, missing), (0, 0)), constant_values=np.inf)
    boxes = np.concatenate([level.reshape(2, -1, FAN, main.shape[1]) for level in levels], axis=1)
    return np.ascontiguousarray(boxes.transpose(1, 0, 3, 2)), 0.5 * some.sum(axis=0)
