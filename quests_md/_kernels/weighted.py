"""Kernel sums over rows that carry values, in log space: float32 where that is good enough, float64 elsewhere.

Rows lie in leaves, leaves in groups. In float32 the rows of a group are relative to its centre, and a half square is
made of a product: |y - x|^2 / 2 = |y|^2 / 2 + |x|^2 / 2 - y . x. First each query by itself finds a near row, then some
queries together pass the leaves that matter to any of them, in the order of the leaves. What is added to the sums of a
query, and in which order, depends on the query and the rows alone.
"""
# mypy: allow-untyped-calls, disable-error-code="import-untyped, call-arg"

import functools
import math
from typing import NamedTuple

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from .jit import Floats, Floats32, Integers, kernel
from .sums import NO_GROUP
from .tiles import HAS_TILES, PANEL, TILE, VECTORS, half_squares, products_of
from .vectors import FLOATS, I64, I64S, LANES, arrays, at, broadcast, every, exponential, load, muladd, store

__all__ = ["COLUMNS_TOGETHER", "Rotation", "WeightedRows", "rotate", "weighted_sums"]

#: Coordinates, in bandwidths, are clipped to so much, so that squares of distances are numbers.
LARGEST = 1e140

#: Terms are left out, leaf by leaf, if all of them together are surely less than e^-9 of the largest.
LEFT_OUT = 9.0

#: Largest error of an exponent by leaving out columns of a product.
CUT_COLUMNS = 4e-4

#: Largest error of an exponent by rounding in float32, and what may be added to it, as a part of the exponent, up to
#: a limit. A product is wrong by 8 units |y||x| at most in practice (docs/design.md).
ROUNDING, ROUNDING_PART, MOST_ROUNDING = 4e-4, 1e-4, 1.4e-3
PRODUCT_ERROR = 8.0 * 2.0**-24

#: Bandwidths from the centre of a group up to which float32 is of use in the search of a near row, and largest radius
#: of a group whose squares are numbers in float32.
FARTHEST, MOST_RADIUS = 400.0, 1e15

#: No term is more than e^30 times that of the near row; all are multiplied by e^-32, so that none is above 1.
HIGHEST, SHIFT = 30.0, 32.0

#: Bounds of half squares are wrong by less than this part of them.
BOUND_ROUNDING = 1e-12

#: Group of a query that leaves no row out: one that no row has.
NOBODY = np.iinfo(np.int64).min

#: Columns that are left out together.
COLUMNS_TOGETHER = 8

#: Leaves after which float32 sums are added to those in float64.
FLUSHED = 32


class Rotation(NamedTuple):
    """What gives coordinates in bandwidths."""

    mean: Floats  #: (d,) origin.
    directions: Floats  #: (d, d) one per column, from least to most variance along it.
    per_bandwidth: float  #: 1 / h.


class WeightedRows(NamedTuple):
    """Rows, leaf by leaf, in coordinates by the rotation, and the values they carry."""

    rotation: Rotation
    boxes: Floats
    """(2, f, l) least and largest of the length of the first coordinates, and of the other f - 1 by themselves, of the
    rows of each leaf."""
    leaf_start: Integers  #: (l + 1,) first rows, multiples of PANEL but the last.
    group_leaf: Integers  #: (g + 1,) first leaves of groups.
    centres: Floats  #: (g, d) what float32 rows are relative to.
    radii: Floats  #: (g,) largest distance of a row from its centre.
    rests: Floats
    """(g, r) largest length of the first 0, 8, 16 ... coordinates, as many as are less than d, from the centre."""
    rows: Floats  #: (p, d, PANEL) panels of coordinates.
    panels: Floats32  #: (p, d, PANEL) relative to the centres; 0 in places left over.
    norms: Floats32  #: (p PANEL,) -|x|^2 / 2 of these; -inf in places left over.
    values: Floats32  #: (v, p PANEL) values; 0 in places left over.


@intrinsic
def _terms_tile(typingctx, queries, numbers, panels, norms, offsets, values, own, groups, sums, i, p, first):
    """sums[q, 0] (LANES,) += terms of query q = numbers[i + 0..TILE-1] and panel p, sums[q, v] += terms times values.

    A term is exp(min(queries[q] . x + norms - offsets[q], 0)), the product from column `first` on.
    """
    has_groups = isinstance(groups, types.Array)

    def generate(context, builder, signature, args):
        queries, numbers, panels, norms, offsets, values, own, groups, sums, i, p, first = arrays(
            context, builder, signature, args
        )
        _, n_sums, _ = cgutils.unpack_tuple(builder, sums.shape)
        n_values, length = cgutils.unpack_tuple(builder, values.shape)
        tile = [builder.load(at(builder, numbers.data, builder.add(i, ir_int(q)))) for q in range(TILE)]
        start = builder.mul(p, ir_int(PANEL))
        places = [builder.add(start, ir_int(v * LANES)) for v in range(VECTORS)]
        for number, row in zip(tile, products_of(builder, queries, panels, tile, p, first), strict=True):
            offset = broadcast(builder, FLOATS, at(builder, offsets.data, number))
            out = at(builder, sums.data, builder.mul(number, n_sums), LANES)
            total = load(builder, FLOATS, out)
            terms = []
            for product, place in zip(row, places, strict=True):
                x = builder.fadd(product, load(builder, FLOATS, at(builder, norms.data, place)))
                factor, power = exponential(builder, builder.fsub(x, offset))
                term = builder.fmul(factor, power)
                if has_groups:
                    theirs = load(builder, I64S, at(builder, groups.data, place))
                    ours = broadcast(builder, I64S, at(builder, own.data, number))
                    term = builder.select(builder.icmp_signed("==", theirs, ours), every(0.0), term)
                total = builder.fadd(total, term)
                terms.append(term)
            store(builder, total, out)
            with cgutils.for_range(builder, n_values, intp=I64) as loop:
                out_v = at(builder, out, builder.add(loop.index, ir_int(1)), LANES)
                total = load(builder, FLOATS, out_v)
                for term, place in zip(terms, places, strict=True):
                    value = load(builder, FLOATS, at(builder, at(builder, values.data, loop.index, length), place))
                    total = muladd(builder, term, value, total)
                store(builder, total, out_v)
        return context.get_dummy_value()

    kinds = (queries, numbers, panels, norms, offsets, values, own, groups, sums, types.intp, types.intp, types.intp)
    return types.void(*kinds), generate


def ir_int(x):
    """An integer constant."""
    return I64(x)


_strict = functools.partial(kernel, fastmath=False)


@kernel
def rotate(rows, rotation: Rotation, out):
    """Coordinates of rows (n, d), written to (n, d); the bits of each depend on nothing else."""
    mean, directions, per_bandwidth = rotation
    d = rows.shape[1]
    for i in range(rows.shape[0]):
        for c in range(d):
            out[i, c] = 0.0
        for j in range(d):
            x = (rows[i, j] - mean[j]) * per_bandwidth
            x = min(max(x, -LARGEST), LARGEST)
            for c in range(d):
                out[i, c] += x * directions[j, c]


@_strict
def weighted_sums(queries, query_groups, rows: WeightedRows, groups, minus_log, means):
    """-log sum_j K_j of each query, written to (m,), and the means of values (m, v), weighted by K.

    queries (m, d) in the unit of h. A row whose `groups` entry (p PANEL,) equals the query's in `query_groups` (m,) is
    left out; both None: none is. Without any row the results are inf and NaN.
    """
    m, d = queries.shape
    n_leaves = rows.leaf_start.shape[0] - 1
    n_sums = rows.values.shape[0] + 1
    points = np.empty((m, d))
    rotate(queries, rows.rotation, points)
    # one place more, for queries that fill up a tile
    own = np.full(m + 1, NOBODY)
    if query_groups is not None:
        for q in range(m):
            own[q] = query_groups[q] if query_groups[q] != NO_GROUP else NOBODY
    bounds = np.empty((m, n_leaves))
    nearest, cuts = np.empty(m), np.empty(m)
    _find_near_rows(points, own, rows, groups, bounds, nearest)
    # rows of negligible terms lie beyond
    beyond = LEFT_OUT + math.log(rows.leaf_start[n_leaves])
    for q in range(m):
        cuts[q] = nearest[q] * (1.0 + BOUND_ROUNDING) + beyond if nearest[q] < np.inf else -1.0
    totals = np.zeros((m, n_sums))
    lanes = np.zeros((m + 1, n_sums, LANES), np.float32)
    packed, offsets = np.zeros((m + 1, d), np.float32), np.zeros(m + 1, np.float32)
    firsts = np.empty(m + 1, np.int64)
    here = np.empty(m + TILE, np.int64)
    squares = np.empty(PANEL)
    for g in range(rows.centres.shape[0]):
        first_leaf, end_leaf = rows.group_leaf[g], rows.group_leaf[g + 1]
        for q in range(m):
            firsts[q] = -2
            for leaf in range(first_leaf, end_leaf):
                if bounds[q, leaf] <= cuts[q]:
                    firsts[q] = _pack(points[q], rows, g, nearest[q], cuts[q], packed[q], offsets[q : q + 1])
                    break
        for leaf in range(first_leaf, end_leaf):
            k = 0
            for q in range(m):
                if firsts[q] > -2 and bounds[q, leaf] <= cuts[q]:
                    if firsts[q] >= 0:
                        here[k] = q
                        k += 1
                    else:
                        _add_exactly(points[q], own[q], rows, groups, leaf, nearest[q], squares, totals[q])
            for i in range(k, k + TILE):
                here[i] = m
            firsts[m] = d
            for i in range(0, k, TILE):
                first = d
                for j in range(i, i + TILE):
                    first = min(first, firsts[here[j]])
                for p in range(rows.leaf_start[leaf] // PANEL, -(-rows.leaf_start[leaf + 1] // PANEL)):
                    _terms_tile(
                        packed, here, rows.panels, rows.norms, offsets, rows.values, own, groups, lanes, i, p, first
                    )
            if leaf % FLUSHED == FLUSHED - 1 or leaf == n_leaves - 1:
                for q in range(m):
                    for v in range(n_sums):
                        for lane in range(LANES):
                            totals[q, v] += np.float64(lanes[q, v, lane])
                            lanes[q, v, lane] = np.float32(0.0)
    for q in range(m):
        total = totals[q, 0]
        minus_log[q] = nearest[q] - SHIFT - math.log(total) if total > 0.0 else np.inf
        for v in range(n_sums - 1):
            means[q, v] = totals[q, v + 1] / total if total > 0.0 else np.nan


@_strict
def _find_near_rows(points, own, rows, groups, bounds, nearest):
    """Bounds of half squares to the rows of leaves (m, l), and the half square of a near row that is not left out (m,).

    No row is nearer than that by more than HIGHEST; inf: there is no row.
    """
    m, d = points.shape
    n_leaves = bounds.shape[1]
    order = np.empty(n_leaves, np.bool_)
    query, halves = np.empty(d, np.float32), np.empty(PANEL, np.float32)
    squares = np.empty(PANEL)
    for q in range(m):
        _bound(points[q], rows, bounds[q])
        for leaf in range(n_leaves):
            order[leaf] = True
        best = np.inf
        while True:
            leaf = -1
            for k in range(n_leaves):
                if order[k] and (leaf < 0 or bounds[q, k] < bounds[q, leaf]):
                    leaf = k
            if leaf < 0 or not bounds[q, leaf] < best - (HIGHEST if best < np.inf else 0.0):
                break
            order[leaf] = False
            g = np.searchsorted(rows.group_leaf, leaf, side="right") - 1
            length2 = _distance2(points[q], rows.centres[g])
            is_near = HAS_TILES and length2 < FARTHEST * FARTHEST and rows.radii[g] < MOST_RADIUS
            if is_near:
                for c in range(d):
                    query[c] = points[q, c] - rows.centres[g, c]
            for start in range(rows.leaf_start[leaf], rows.leaf_start[leaf + 1], PANEL):
                n = min(PANEL, rows.leaf_start[leaf + 1] - start)
                if is_near:
                    half_squares(query, rows.panels, start // PANEL, 1, halves)
                    for j in range(n):
                        squares[j] = -halves[j]
                else:
                    _half_squares_exactly(points[q], rows.rows[start // PANEL], squares)
                for j in range(n):
                    if squares[j] < best and (groups is None or groups[start + j] != own[q]):
                        best = squares[j]
        nearest[q] = best


@kernel
def _bound(point, rows, bounds):
    """Half squares of the distance of a point to the boxes of leaves, written to (l,)."""
    _, n_features, n_leaves = rows.boxes.shape
    d = point.shape[0]
    rest2 = 0.0
    for c in range(d - n_features + 1):
        rest2 += point[c] * point[c]
    rest = math.sqrt(rest2)
    for k in range(n_leaves):
        bounds[k] = 0.0
    for f in range(n_features):
        x = rest if f == 0 else point[d - n_features + f]
        for k in range(n_leaves):
            outside = max(max(rows.boxes[0, f, k] - x, x - rows.boxes[1, f, k]), 0.0)
            bounds[k] += 0.5 * outside * outside


@_strict
def _pack(point, rows, g, nearest, cut, query, offset):
    """A point relative to the centre of group g, in float32, and what its terms are divided by (1,), in nats.

    Returns the first column that products need: columns before are left out, and 0 in `query`; -1: float32 is not good
    enough.
    """
    d = point.shape[0]
    length2 = _distance2(point, rows.centres[g])
    length = math.sqrt(length2)
    # rows that matter are no longer than that
    radius = min(rows.radii[g], length + math.sqrt(2.0 * cut))
    allowed = min(ROUNDING + ROUNDING_PART * nearest, MOST_ROUNDING)
    if not (HAS_TILES and rows.radii[g] < MOST_RADIUS and PRODUCT_ERROR * length * radius <= allowed):
        return -1
    for c in range(d):
        query[c] = point[c] - rows.centres[g, c]
    offset[0] = 0.5 * length2 - nearest + SHIFT
    first = 0
    rest2 = 0.0
    for k in range(1, rows.rests.shape[1]):
        piece = slice((k - 1) * COLUMNS_TOGETHER, k * COLUMNS_TOGETHER)
        rest2 += _distance2(point[piece], rows.centres[g, piece])
        if not math.sqrt(rest2) * rows.rests[g, k] <= CUT_COLUMNS:
            break
        first = k * COLUMNS_TOGETHER
    for c in range(first):
        query[c] = np.float32(0.0)
    return first


@kernel
def _distance2(a, b):
    """|a - b|^2."""
    total = 0.0
    for c in range(a.shape[0]):
        total += (a[c] - b[c]) * (a[c] - b[c])
    return total


@kernel
def _half_squares_exactly(point, panel, out):
    """|y - x_j|^2 / 2 of a point and a panel of rows (d, PANEL), written to (PANEL,)."""
    for j in range(PANEL):
        out[j] = 0.0
    for c in range(point.shape[0]):
        for j in range(PANEL):
            difference = point[c] - panel[c, j]
            out[j] += 0.5 * difference * difference


@_strict
def _add_exactly(point, ours, rows, groups, leaf, nearest, squares, totals):
    """Add the terms of a leaf to the sums of a point in float64."""
    for start in range(rows.leaf_start[leaf], rows.leaf_start[leaf + 1], PANEL):
        n = min(PANEL, rows.leaf_start[leaf + 1] - start)
        _half_squares_exactly(point, rows.rows[start // PANEL], squares)
        for j in range(n):
            if groups is None or groups[start + j] != ours:
                term = math.exp(min(nearest - SHIFT - squares[j], 0.0))
                totals[0] += term
                for v in range(totals.shape[0] - 1):
                    totals[v + 1] += term * rows.values[v, start + j]
