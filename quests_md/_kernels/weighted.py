"""Kernel sums over rows that carry values, in log space: float32 where that is good enough, float64 elsewhere.

Rows lie in leaves, leaves in groups. In float32 the rows of a group are relative to its centre, and a half square is
made of a product: |y - x|^2 / 2 = |y|^2 / 2 + |x|^2 / 2 - y . x. Where rows vary little but along some main components,
these alone are multiplied: the product of the rests is bounded, and left out where the bound is low.

First each query by itself finds a near row, then some queries together pass the leaves that matter to any of them, in
the order of the leaves. What is added to the sums of a query, and in which order, depends on the query and the rows
alone.
"""
# mypy: allow-untyped-calls, disable-error-code="import-untyped, call-arg"

import functools
import math
from typing import NamedTuple

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from .jit import Floats, Floats32, Integers, kernel
from .sums import NEGLIGIBLE_NATS, NO_GROUP, sum_of_exponentials
from .tiles import HAS_TILES, PANEL, TILE, VECTORS, half_squares, products_of
from .vectors import FLOATS, I64, I64S, LANES, arrays, at, broadcast, every, exponential, load, muladd, store

__all__ = [
    "COMPONENTS",
    "COMPONENT_ROUNDING",
    "FEATURES",
    "LARGEST",
    "LEFT_OUT",
    "MOST_ROUNDING",
    "PRODUCT_ERROR",
    "REST_PRODUCT",
    "REST_ROUNDING",
    "ROUNDING",
    "MainComponents",
    "Scale",
    "WeightedRows",
    "to_points",
    "weighted_sums",
]

#: Coordinates, in bandwidths, are clipped to so much, so that squares of distances are numbers.
LARGEST = 1e140

#: Terms are left out, leaf by leaf, if all of them together are surely less than e^-8 of the largest.
LEFT_OUT = 8.0

#: Largest error of an exponent by rounding in float32, and what may be added to it, as a part of the exponent, up to
#: a limit. A product is wrong by 16 units |y||x| at most in practice (docs/design.md).
ROUNDING, ROUNDING_PART, MOST_ROUNDING = 6e-4, 1e-4, 1.4e-3
PRODUCT_ERROR = 16.0 * 2.0**-24

#: Nats. Largest product of the rests of a query and a row, besides their main components, that may be left out. Signs
#: of such products differ from row to row, so that sums are usually wrong by far less (docs/design.md).
REST_PRODUCT = 0.02

#: Bandwidths from the centre of a group up to which float32 is of use in the search of a near row, and largest radius
#: of a group whose squares are numbers in float32.
FARTHEST, MOST_RADIUS = 400.0, 1e15

#: No term is more than e^58 times that of the near row; all are multiplied by e^-60, so that none is above 1. Terms of
#: e^-27 times that of the near row are still numbers of float32.
HIGHEST, SHIFT = 58.0, 60.0

#: Without tiles terms below e^-87, after that, are 0: exponentials in float32 go no lower.
SMALLEST_NATS = 87.0

#: Main components, and all features of a row that boxes are made of: besides them the length of the rest.
COMPONENTS = 8
FEATURES = COMPONENTS + 1

#: What features are wrong by, as a part of the length of a point: the length of the rest is the root of a difference.
REST_ROUNDING, COMPONENT_ROUNDING = 1e-7, 1e-13

#: What bounds of half squares are wrong by, as a part of them.
BOUND_ROUNDING = 1e-12

#: Group of a query that leaves no row out: one that no row has.
NOBODY = np.iinfo(np.int64).min

#: Leaves after which float32 sums are added to those in float64.
FLUSHED = 128


class Scale(NamedTuple):
    """What gives points, the coordinates of rows in bandwidths, and their main components."""

    origin: Floats  #: (d,) in the unit of rows.
    per_bandwidth: float  #: 1 / h.
    main: Floats  #: (d, COMPONENTS) directions; 0 where rows have fewer.


class MainComponents(NamedTuple):
    """Main components of rows, which are multiplied in their place where the rest is short; none: c is 0."""

    directions: Floats  #: (d, c) directions, the largest first.
    centres: Floats  #: (g, c) components of the centres.
    panels: Floats32  #: (p, c, PANEL) those of the rows of panels, relative to the centres.
    rests: Floats  #: (g,) largest length of the rest of a row, relative to its centre; inf without components.


class WeightedRows(NamedTuple):
    """Rows, leaf by leaf, in bandwidths, and the values they carry."""

    scale: Scale
    boxes: Floats  #: (2, FEATURES, l) least and largest features of the rows of each leaf, rounding included.
    leaf_start: Integers  #: (l + 1,) first rows, multiples of PANEL but the last.
    leaf_group: Integers  #: (l,) the group of each leaf.
    group_leaf: Integers  #: (g + 1,) first leaves of groups.
    centres: Floats  #: (g, d) what float32 rows are relative to.
    radii: Floats  #: (g,) largest distance of a row from its centre.
    points: Floats  #: (p, d, PANEL) panels of rows.
    panels: Floats32  #: (p, d, PANEL) relative to the centres; 0 in places left over.
    norms: Floats32  #: (p PANEL,) -|x|^2 / 2 of these; -inf in places left over.
    main: MainComponents  #: what is multiplied where that is enough.
    values: Floats32  #: (v, p PANEL) values; 0 in places left over.


@intrinsic
def _terms_tile(typingctx, queries, numbers, panels, norms, offsets, values, own, groups, sums, i, p):
    """sums[q, 0] (LANES,) += terms of query q = numbers[i + 0..TILE-1] and panel p, sums[q, v] += terms times values.

    A term is exp(min(queries[q] . x + norms - offsets[q], 0)).
    """
    has_groups = isinstance(groups, types.Array)

    def generate(context, builder, signature, args):
        queries, numbers, panels, norms, offsets, values, own, groups, sums, i, p = arrays(
            context, builder, signature, args
        )
        _, n_sums, _ = cgutils.unpack_tuple(builder, sums.shape)
        n_values, length = cgutils.unpack_tuple(builder, values.shape)
        tile = [builder.load(at(builder, numbers.data, builder.add(i, ir_int(q)))) for q in range(TILE)]
        start = builder.mul(p, ir_int(PANEL))
        places = [builder.add(start, ir_int(v * LANES)) for v in range(VECTORS)]
        for number, row in zip(tile, products_of(builder, queries, panels, tile, p), strict=True):
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

    kinds = (queries, numbers, panels, norms, offsets, values, own, groups, sums, types.intp, types.intp)
    return types.void(*kinds), generate


def ir_int(x):
    """An integer constant."""
    return I64(x)


@kernel
def to_points(rows, scale: Scale, points, features):
    """Points (n, d) of rows (n, d), and their features (n, FEATURES): the length of the rest, then components."""
    n, d = rows.shape
    main = scale.main
    for i in range(n):
        length2 = 0.0
        for c in range(d):
            x = (rows[i, c] - scale.origin[c]) * scale.per_bandwidth
            x = min(max(x, -LARGEST), LARGEST)
            points[i, c] = x
            length2 += x * x
        # one by one: in an array they would not stay in registers
        a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = 0.0
        for c in range(d):
            x = points[i, c]
            a0 += x * main[c, 0]
            a1 += x * main[c, 1]
            a2 += x * main[c, 2]
            a3 += x * main[c, 3]
            a4 += x * main[c, 4]
            a5 += x * main[c, 5]
            a6 += x * main[c, 6]
            a7 += x * main[c, 7]
        rest2 = length2 - (a0 * a0 + a1 * a1 + a2 * a2 + a3 * a3 + a4 * a4 + a5 * a5 + a6 * a6 + a7 * a7)
        features[i, 0] = math.sqrt(max(rest2, 0.0))
        features[i, 1], features[i, 2], features[i, 3], features[i, 4] = a0, a1, a2, a3
        features[i, 5], features[i, 6], features[i, 7], features[i, 8] = a4, a5, a6, a7


_strict = functools.partial(kernel, fastmath=False)


@_strict
def weighted_sums(queries, query_groups, rows: WeightedRows, groups, minus_log, means):
    """-log sum_j K_j of each query, written to (m,), and the means of values (m, v), weighted by K.

    queries (m, d) in the unit of h. A row whose `groups` entry (p PANEL,) equals the query's in `query_groups` (m,) is
    left out; both None: none is. Without any row the results are inf and NaN.
    """
    m, d = queries.shape
    n_leaves = rows.leaf_group.shape[0]
    n_sums = rows.values.shape[0] + 1
    # one place more, for queries that fill up a tile
    own = np.full(m + 1, NOBODY)
    if query_groups is not None:
        for q in range(m):
            own[q] = query_groups[q] if query_groups[q] != NO_GROUP else NOBODY
    points, bounds, nearest, cuts = np.empty((m, d)), np.empty((m, n_leaves)), np.empty(m), np.empty(m)
    _find_near_rows(queries, own, rows, groups, points, bounds, nearest)
    # leaves of negligible terms lie beyond
    beyond = LEFT_OUT + math.log(rows.leaf_start[n_leaves])
    for q in range(m):
        cuts[q] = nearest[q] * (1.0 + BOUND_ROUNDING) + beyond if nearest[q] < np.inf else -1.0
    totals = np.zeros((m, n_sums))
    lanes = np.zeros((m + 1, n_sums, LANES), np.float32)
    packed, offsets = np.zeros((m + 1, d), np.float32), np.zeros(m + 1, np.float32)
    n_short = rows.main.directions.shape[1]
    short, components = np.zeros((m + 1, n_short), np.float32), np.zeros((m, n_short))
    if n_short:
        _project(points, rows.main.directions, components)
    is_exact, is_short = np.empty(m, np.bool_), np.empty(m, np.bool_)
    here, tile, short_tile = np.empty(m, np.int64), np.empty(m + TILE, np.int64), np.empty(m + TILE, np.int64)
    squares = np.empty(PANEL)
    memory = np.empty(PANEL, np.float32), np.empty(PANEL, np.float32), np.empty(PANEL, np.int32)
    for g in range(rows.centres.shape[0]):
        first_leaf, end_leaf = rows.group_leaf[g], rows.group_leaf[g + 1]
        n_here = 0
        for q in range(m):
            for leaf in range(first_leaf, end_leaf):
                if bounds[q, leaf] <= cuts[q]:
                    here[n_here] = q
                    n_here += 1
                    break
        _pack(points, here, n_here, rows.centres, g, rows.radii[g], nearest, cuts, packed, offsets, is_exact)
        _shorten(points, components, here, n_here, rows, g, short, is_short)
        for leaf in range(first_leaf, end_leaf):
            k = k_short = 0
            for i in range(n_here):
                q = here[i]
                if bounds[q, leaf] <= cuts[q]:
                    if is_exact[q]:
                        _add_exactly(points, q, own[q], rows, groups, leaf, nearest[q], squares, totals)
                    elif HAS_TILES and is_short[q]:
                        short_tile[k_short] = q
                        k_short += 1
                    elif HAS_TILES:
                        tile[k] = q
                        k += 1
                    else:
                        _add_without_tiles(packed, q, own[q], rows, groups, leaf, nearest[q], memory, totals)
            for i in range(TILE):
                tile[k + i] = short_tile[k_short + i] = m
            first, end = rows.leaf_start[leaf] // PANEL, -(-rows.leaf_start[leaf + 1] // PANEL)
            for i in range(0, k, TILE):
                for p in range(first, end):
                    _terms_tile(packed, tile, rows.panels, rows.norms, offsets, rows.values, own, groups, lanes, i, p)
            for i in range(0, k_short, TILE):
                for p in range(first, end):
                    _terms_tile(
                        short, short_tile, rows.main.panels, rows.norms, offsets, rows.values, own, groups, lanes, i, p
                    )
            if leaf % FLUSHED == FLUSHED - 1 or leaf == n_leaves - 1:
                _flush(lanes, totals)
    for q in range(m):
        total = totals[q, 0]
        minus_log[q] = nearest[q] - SHIFT - math.log(total) if total > 0.0 else np.inf
        for v in range(n_sums - 1):
            means[q, v] = totals[q, v + 1] / total if total > 0.0 else np.nan


@kernel
def _find_near_rows(queries, own, rows, groups, points, bounds, nearest):
    """Bounds of half squares to the rows of leaves (m, l), and the half square of a near row that is not left out (m,).

    No row is nearer than that by more than HIGHEST; inf: there is no row. Points (m, d) of the queries are written.
    """
    m, d = queries.shape
    n_leaves = rows.leaf_group.shape[0]
    features = np.empty((m, FEATURES))
    to_points(queries, rows.scale, points, features)
    _bound(features, rows.boxes, bounds)
    is_waiting = np.empty(n_leaves, np.bool_)
    query, halves = np.empty(d, np.float32), np.empty(PANEL, np.float32)
    squares, least = np.empty(PANEL), np.empty(PANEL)
    for q in range(m):
        for leaf in range(n_leaves):
            is_waiting[leaf] = True
        best = np.inf
        while best > HIGHEST:
            leaf, low = -1, np.inf
            for k in range(n_leaves):
                if is_waiting[k] and bounds[q, k] < low:
                    leaf, low = k, bounds[q, k]
            if leaf < 0 or (best < np.inf and low >= best - HIGHEST):
                break
            is_waiting[leaf] = False
            g = rows.leaf_group[leaf]
            length2 = 0.0
            for c in range(d):
                difference = points[q, c] - rows.centres[g, c]
                length2 += difference * difference
                query[c] = difference
            is_near = rows.radii[g] < MOST_RADIUS and length2 < FARTHEST * FARTHEST
            for j in range(PANEL):
                least[j] = np.inf
            for start in range(rows.leaf_start[leaf], rows.leaf_start[leaf + 1], PANEL):
                if is_near:
                    half_squares(query, rows.panels, start // PANEL, 1, halves)
                    for j in range(PANEL):
                        squares[j] = -halves[j]
                else:
                    _squares(points, q, rows.points, start // PANEL, squares)
                    for j in range(PANEL):
                        squares[j] *= 0.5
                if groups is not None:
                    for j in range(PANEL):
                        squares[j] = squares[j] if groups[start + j] != own[q] else np.inf
                for j in range(rows.leaf_start[leaf + 1] - start, PANEL):
                    squares[j] = np.inf
                for j in range(PANEL):
                    least[j] = squares[j] if squares[j] < least[j] else least[j]
            for j in range(PANEL):
                best = least[j] if least[j] < best else best
        nearest[q] = best


@kernel
def _bound(features, boxes, bounds):
    """Half squares of the distances of queries to the boxes of leaves, written to (m, l)."""
    m, n_leaves = bounds.shape
    for q in range(m):
        length = 0.0
        for f in range(FEATURES):
            length = max(length, abs(features[q, f]))
        for k in range(n_leaves):
            bounds[q, k] = 0.0
        for f in range(FEATURES):
            x = features[q, f]
            slack = length * (REST_ROUNDING if f == 0 else COMPONENT_ROUNDING)
            for k in range(n_leaves):
                outside = max(max(boxes[0, f, k] - x, x - boxes[1, f, k]) - slack, 0.0)
                bounds[q, k] += 0.5 * outside * outside


@kernel
def _pack(points, here, n_here, centres, g, radius, nearest, cuts, packed, offsets, is_exact):
    """The first points of `here`, relative to the centre of group g, in float32: (m, d), and offsets of terms (m,).

    is_exact (m,): whether float32 is not good enough.
    """
    d = points.shape[1]
    for i in range(n_here):
        q = here[i]
        length2 = 0.0
        for c in range(d):
            difference = points[q, c] - centres[g, c]
            length2 += difference * difference
            packed[q, c] = difference
        length = math.sqrt(length2)
        # rows that matter are no longer than that
        longest = min(radius, length + math.sqrt(2.0 * cuts[q]))
        allowed = min(ROUNDING + ROUNDING_PART * nearest[q], MOST_ROUNDING)
        # without tiles the whole square is rounded, not the product alone
        rounded = length * longest if HAS_TILES else max(length * longest, nearest[q])
        is_exact[q] = not (radius < MOST_RADIUS and PRODUCT_ERROR * rounded <= allowed)
        offsets[q] = 0.5 * length2 - nearest[q] + SHIFT


@kernel
def _project(points, directions, components):
    """Products of points (m, d) and directions (d, c), written to (m, c)."""
    m, d = points.shape
    c = directions.shape[1]
    for q in range(m):
        for i in range(c):
            components[q, i] = 0.0
        for k in range(d):
            x = points[q, k]
            for i in range(c):
                components[q, i] += x * directions[k, i]


@kernel
def _shorten(points, components, here, n_here, rows, g, short, is_short):
    """Whether main components alone may be multiplied in group g, for the first points of `here`, and these.

    is_short (m,), and short (m, c): relative to the centre of the group, in float32.
    """
    d = points.shape[1]
    c = components.shape[1]
    for i in range(n_here):
        q = here[i]
        is_short[q] = False
        if not (c and rows.main.rests[g] < np.inf):
            continue
        length2 = main2 = 0.0
        for k in range(d):
            difference = points[q, k] - rows.centres[g, k]
            length2 += difference * difference
        for k in range(c):
            difference = components[q, k] - rows.main.centres[g, k]
            main2 += difference * difference
            short[q, k] = difference
        rest = math.sqrt(max(length2 - main2, 0.0) + REST_ROUNDING * REST_ROUNDING * length2)
        is_short[q] = rest * rows.main.rests[g] <= REST_PRODUCT


@kernel
def _squares(points, q, panels, p, out):
    """|y - x_j|^2 of point q and the points of a panel (d, PANEL), written to (PANEL,), all of one type of numbers."""
    for j in range(PANEL):
        out[j] = 0
    d = points.shape[1]
    for c in range(0, d - 3, 4):  # four at a time, or most time goes into memory
        y0, y1, y2, y3 = points[q, c], points[q, c + 1], points[q, c + 2], points[q, c + 3]
        for j in range(PANEL):
            d0, d1 = y0 - panels[p, c, j], y1 - panels[p, c + 1, j]
            d2, d3 = y2 - panels[p, c + 2, j], y3 - panels[p, c + 3, j]
            out[j] += d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3
    for c in range(d - d % 4, d):
        y = points[q, c]
        for j in range(PANEL):
            out[j] += (y - panels[p, c, j]) * (y - panels[p, c, j])


@kernel
def _add_exactly(points, q, ours, rows, groups, leaf, nearest, squares, totals):
    """Add the terms of a leaf to the sums of point q in float64."""
    for start in range(rows.leaf_start[leaf], rows.leaf_start[leaf + 1], PANEL):
        n = min(PANEL, rows.leaf_start[leaf + 1] - start)
        _squares(points, q, rows.points, start // PANEL, squares)
        for j in range(n):
            exponent = nearest - 0.5 * squares[j]
            if exponent > -NEGLIGIBLE_NATS and (groups is None or groups[start + j] != ours):
                term = math.exp(exponent - SHIFT)
                totals[q, 0] += term
                for v in range(rows.values.shape[0]):
                    totals[q, v + 1] += term * np.float64(rows.values[v, start + j])


@kernel
def _add_without_tiles(packed, q, ours, rows, groups, leaf, nearest, memory, totals):
    """Add the terms of a leaf to the sums of a query in float32, but for the sums themselves."""
    exponents, fractions, powers = memory
    for start in range(rows.leaf_start[leaf], rows.leaf_start[leaf + 1], PANEL):
        n = min(PANEL, rows.leaf_start[leaf + 1] - start)
        _squares(packed, q, rows.panels, start // PANEL, exponents)
        for j in range(PANEL):
            exponents[j] *= np.float32(-0.5)
        sum_of_exponentials(exponents, SHIFT - nearest, powers, fractions)
        scales = powers.view(np.float32)
        for j in range(n):
            exponent = exponents[j] + nearest
            if exponent > SHIFT - SMALLEST_NATS and (groups is None or groups[start + j] != ours):
                term = np.float64(fractions[j]) * np.float64(scales[j])
                totals[q, 0] += term
                for v in range(rows.values.shape[0]):
                    totals[q, v + 1] += term * np.float64(rows.values[v, start + j])


@kernel
def _flush(lanes, totals):
    """Add float32 sums (m, s, LANES) to those in float64 (m, s), and clear them."""
    for q in range(totals.shape[0]):
        for s in range(totals.shape[1]):
            total = 0.0
            for lane in range(LANES):
                total += np.float64(lanes[q, s, lane])
                lanes[q, s, lane] = np.float32(0.0)
            totals[q, s] += total
