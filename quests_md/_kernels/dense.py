"""Sums of Gaussian kernels, and nearest rows, from products of queries and rows, with bounds of their errors.

All lengths are in bandwidths. A batch is some queries (m,) that pass the blocks of rows together; those of them (k,)
that cannot do without a block are multiplied with its rows.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .jit import Floats, Floats32, Integers, kernel
from .sums import sum_of_exponentials
from .tiles import TILE, multiply, tile_sums

__all__ = ["BlockQueries", "NearestRows", "RunningSums", "absorb_panels", "absorb_products", "box_bounds"]
__all__ += ["FLOAT32_UNIT", "FLOAT64_UNIT", "approach", "leave_out", "take_nearest"]

#: Rounding units of float32 and float64.
FLOAT32_UNIT, FLOAT64_UNIT = 2.0**-24, 2.0**-53

#: Terms smaller than e^-40 of a sum do not matter: 1e9 of them are less than 1e-8 of the sum.
MATTERS = 40.0

#: Terms larger than e^-16 of a sum carry nearly all of the sum.
CARRIES = 16.0

#: What rounding does to a product at most, as a multiple of unit |y||x|. Errors behave like random numbers: the largest
#: multiples found were 5 to 6, with columns of equal magnitude. The proven bound is the number of columns instead.
TYPICAL = 8.0

#: Part of the promised tolerance of dH that rounding of products may use up.
SHARE = 0.75

#: A block whose errors add less than this part of the tolerance to the sum is good enough, whatever its own errors.
LITTLE = 0.01

#: A sum above this needs no largest term to be taken out: float32 has numbers 1e-25 times as large.
TINY = 1e-13

#: A tile takes smaller terms for 0.
VANISHED = 2.0**-126

#: Exponents from here on can be shifted to 0 in float32 without loss.
SHIFTED = -1e4

#: Numbers down to which a row is halved on the way to its maximum: a plain reduction does not vectorise where NaN may
#: occur.
HALVED_TO = 32


class BlockQueries(NamedTuple):
    """The queries of a batch that a block is multiplied with, and what decides how good the products are."""

    here: Integers  #: (k,) places of the queries in the batch.
    base: Floats  #: (k,) exponents -|y - x|^2 / 2 are base + y . x + norm, with the norm -|x|^2 / 2 of row x.
    lengths: Floats  #: (k,) |y|, distances from the centre of the block.
    blur: Floats  #: (m,) errors of y, of all queries of the batch.
    radius: float  #: Largest |x| of the block.
    unit: float  #: Rounding unit of the products.
    terms: float  #: Numbers that are added in a product.


class RunningSums(NamedTuple):
    """Sums total exp(top) over the blocks so far, one for each query of a batch."""

    top: Floats  #: (m,) starts with -inf.
    total: Floats  #: (m,) starts with 0.
    worst: Floats  #: (m,) bound of the error of the sum, in units of exp(top); starts with 0.
    usual: Floats  #: (m,) what the error will hardly exceed, in units of exp(top); starts with 0.
    refused: NDArray[np.bool_]
    """(m,) whether products with the last block were not good enough for `delta_entropy`: they were not added."""


class NearestRows(NamedTuple):
    """The nearest rows of the blocks so far, one for each query of a batch, measured in float64."""

    queries: Floats  #: (m, d) 1/Å.
    rows: Floats  #: (n, d) of all blocks, 1/Å.
    bandwidth: float  #: 1/Å.
    distance2: Floats  #: (m,) 1/Å^2; starts with inf; -inf beyond the numbers there are.
    row: Integers  #: (m,) number of the row; starts with -1; -1 beyond the numbers there are.


@kernel
def box_bounds(points, lengths, low, high, bounds):
    """Half the squared distance of each point (m, d) from each box (b, d), rounded down, written to (m, b)."""
    for i in range(points.shape[0]):
        for b in range(low.shape[0]):
            distance2 = 0.0
            for c in range(points.shape[1]):
                below = low[b, c] - points[i, c]
                above = points[i, c] - high[b, c]
                outside = below if below > above else above
                outside = outside if outside > 0.0 else 0.0
                distance2 += outside * outside
            # rotations are wrong by some 1e-14 of the numbers that are rotated
            distance = math.sqrt(distance2) * (1.0 - 1e-9) - 1e-12 * lengths[i]
            bounds[i, b] = 0.5 * distance * distance if distance > 0.0 else 0.0


@kernel
def approach(points, here, centre, farthest, is_far, rounded, base, lengths):
    """Write the points `here` (k,) of (m, d) that are nearer than `farthest` to a centre (d,), relative to the centre.

    Near points take the first places of rounded (k, d) float32, base (k,) and lengths (k,), see `BlockQueries`; is_far
    (k,) says which are not near. Returns how many are near: none if the centre is NaN.
    """
    n = 0
    for k in range(here.shape[0]):
        norm2 = 0.0
        for c in range(centre.shape[0]):
            x = np.float32(points[here[k], c] - centre[c])
            rounded[n, c] = x
            norm2 += np.float64(x) * np.float64(x)
        length = math.sqrt(norm2)
        is_far[k] = not length < farthest
        if length < farthest:
            lengths[n] = length
            base[n] = -0.5 * length * length
            n += 1
    return n


@kernel
def absorb_products(products: Floats32, norms: Floats32, asked: BlockQueries, sums: RunningSums) -> int:
    """Add exp(base_k + products_kj + norms_j) of the rows j of a block to the running sums of its queries k.

    products (k, n), which are changed, and norms (n,). Returns how many queries are refused.
    """
    n = norms.shape[0]
    halves, powers, fractions = np.empty(n, np.float32), np.empty(n, np.int32), np.empty(n, np.float32)
    n_refused = 0
    for k in range(products.shape[0]):
        i = asked.here[k]
        base = asked.base[k]
        sums.refused[i] = False
        if not abs(base) < np.inf:  # beyond the numbers there are
            sums.worst[i] = sums.usual[i] = np.inf
            continue
        row = products[k]
        for j in range(row.shape[0]):
            row[j] += norms[j]
        # no exponent is above 0: where the sum is not too small the largest need not be known
        is_plain = base > SHIFTED and (sums.total[i] == 0.0 or sums.top[i] == 0.0)
        exponent = added = 0.0
        if is_plain:
            offset = np.float32(1.0 - base)
            added = math.exp(base + offset) * sum_of_exponentials(row, offset, powers, fractions)
        if not is_plain or (added < TINY and sums.top[i] != 0.0):
            largest = _largest(row, halves)
            if largest == -np.inf:  # all left out
                continue
            exponent = base + largest
            added = sum_of_exponentials(row, largest, powers, fractions)
        n_refused += _absorb(k, exponent, added, asked, sums)
    return n_refused


@kernel
def absorb_panels(
    queries: Floats32,
    panels: Floats32,
    norms: Floats32,
    own: Integers | None,
    groups: Integers | None,
    asked: BlockQueries,
    sums: RunningSums,
) -> int:
    """As `absorb_products`, from the queries (k, d) and the panels of a block (p, d, PANEL).

    norms (p PANEL,). own (k,) and groups (p PANEL,): rows of a query's own group are left out; None: all are in.
    """
    n = norms.shape[0]
    products, tile = np.empty((TILE, n), np.float32), np.empty(TILE)
    halves, powers, fractions = np.empty(n, np.float32), np.empty(n, np.int32), np.empty(n, np.float32)
    offsets = np.empty(queries.shape[0], np.float32)
    for k in range(queries.shape[0]):
        offsets[k] = 1.0 - asked.base[k]
    n_refused = 0
    for first in range(0, queries.shape[0], TILE):
        stop = min(first + TILE, queries.shape[0])
        has_sums = has_products = False
        for k in range(first, stop):
            i = asked.here[k]
            base = asked.base[k]
            sums.refused[i] = False
            if not abs(base) < np.inf:
                sums.worst[i] = sums.usual[i] = np.inf
                continue
            is_plain = base > SHIFTED and (sums.total[i] == 0.0 or sums.top[i] == 0.0)
            exponent = added = 0.0
            if is_plain:
                if not has_sums:
                    tile_sums(queries, first, panels, norms, offsets, own, groups, tile)
                    has_sums = True
                added = math.exp(base + offsets[k]) * (tile[k - first] + n * VANISHED)
            if not is_plain or (added < TINY and sums.top[i] != 0.0):
                if not has_products:
                    multiply(queries[first:stop], panels, products)
                    if own is not None and groups is not None:
                        leave_out(products, own[first:stop], groups)
                    has_products = True
                row = products[k - first]
                for j in range(n):
                    row[j] += norms[j]
                largest = _largest(row, halves)
                if largest == -np.inf:
                    continue
                exponent = base + largest
                added = sum_of_exponentials(row, largest, powers, fractions)
            n_refused += _absorb(k, exponent, added, asked, sums)
    return n_refused


@kernel
def take_nearest(
    products: Floats32, norms: Floats32, asked: BlockQueries, order: Integers, nearest: NearestRows
) -> None:
    """The nearest row so far of each query, by float64 differences where products leave a doubt; the first of equals.

    order: numbers of the rows of the block; products (k, n) and norms (n,) may have places for more. Products are
    changed.
    """
    halves = np.empty(norms.shape[0], np.float32)
    queries, rows = nearest.queries, nearest.rows  # a field is read anew in the innermost loop, which costs a tenth
    for k in range(products.shape[0]):
        i = asked.here[k]
        base = asked.base[k]
        if not abs(base) < np.inf:  # beyond the numbers there are: never found
            nearest.distance2[i], nearest.row[i] = -np.inf, -1
            continue
        row = products[k]
        for j in range(row.shape[0]):
            row[j] += norms[j]
        closest = 0.5 * nearest.distance2[i] / (nearest.bandwidth * nearest.bandwidth)
        closest = min(max(-(base + _largest(row, halves)), 0.0), closest)
        error = 0.0
        for _ in range(3):  # the error of rows as near as the nearest one, which may be nearer by the error
            reach = math.sqrt(2.0 * (closest + 2.0 * error))
            error = _worst_error(asked.lengths[k], asked.radius, reach, asked.unit, asked.terms, asked.blur[i])
        lowest = -(closest + 2.2 * error) - base
        limit = np.float32(lowest - 1e-6 * abs(lowest))
        for j in range(order.shape[0]):
            if row[j] < limit:
                continue
            number = order[j]
            d2 = 0.0
            for c in range(queries.shape[1]):
                difference = queries[i, c] - rows[number, c]
                d2 += difference * difference
            if d2 < nearest.distance2[i] or (d2 == nearest.distance2[i] and number < nearest.row[i]):
                nearest.distance2[i] = d2
                nearest.row[i] = number


@kernel
def leave_out(products, query_groups, groups):
    """Set products[i, j] to -inf where row j (n,) belongs to the group of query i (m,), of perhaps more lines."""
    for i in range(query_groups.shape[0]):
        group = query_groups[i]
        for j in range(products.shape[1]):
            products[i, j] = np.float32(-np.inf) if groups[j] == group else products[i, j]


@kernel
def _absorb(k, exponent, added, asked, sums):
    """Add added exp(exponent) to the sum of query k, or refuse; whether it is refused."""
    i = asked.here[k]
    length, unit = asked.lengths[k], asked.unit
    peak = max(sums.top[i], exponent)
    added *= math.exp(exponent - peak)
    decay = math.exp(sums.top[i] - peak)
    together = sums.total[i] * decay + added
    log_sum = peak + math.log(together)
    error = 0.0
    for _ in range(2):  # the error of the rows that matter, and which rows matter depends on the error
        reach = math.sqrt(2.0 * max(MATTERS - log_sum + 2.0 * error, 0.0))
        error = _worst_error(length, asked.radius, reach, unit, asked.terms, asked.blur[i])
    reach = math.sqrt(2.0 * max(CARRIES - log_sum, 0.0))
    far = min(asked.radius, length + reach)
    likely = unit * (TYPICAL * (length * far + 0.5 * far * far) + (length + far) * reach)
    likely = min(error, likely + FLOAT64_UNIT * asked.terms * length * length)
    doubt = added * (_exp(likely) - 1.0)
    allowed = SHARE * (1e-4 + 1e-6 * abs(log_sum))
    is_single = unit > 1e-10
    if is_single and likely > allowed and not doubt < LITTLE * allowed * together:
        sums.refused[i] = True
        return True
    sums.top[i] = peak
    sums.total[i] = together
    sums.worst[i] = sums.worst[i] * decay + added * (_exp(error) - 1.0)
    sums.usual[i] = sums.usual[i] * decay + doubt
    return False


@kernel
def _worst_error(length, radius, reach, unit, terms, blur):
    """Bound of the error of the exponents of a query and of rows at most `reach` from it, or much farther away.

    Rows that are no more than `reach` away have |x| <= |y| + reach. Where |x| > 2 |y|, the distance is above |x| / 2,
    so that an error of some unit |x|^2 leaves a large exponent large. A product of n numbers is wrong by n unit |y||x|,
    half the square of the norm by unit |x|^2, coordinates by unit and blur; norms are sums in float64.
    """
    far = min(radius, length + max(reach, length))
    shift = unit * (length + far) + blur
    norms = FLOAT64_UNIT * terms * (length * length + far * far)
    return 1.01 * (unit * (terms * length * far + far * far) + shift * (reach + shift) + norms)


@kernel
def _exp(x):
    """exp(x) of a bound: inf where it is too large to be of any use."""
    return math.exp(x) if x < 100.0 else np.inf


@kernel
def _largest(row, scratch):
    """The largest entry of a row; `scratch` is of the same length."""
    n = row.shape[0]
    if n < 2 * HALVED_TO:
        largest = -np.inf
        for j in range(n):
            largest = row[j] if row[j] > largest else largest
        return np.float64(largest)
    half = n // 2
    for j in range(half):
        scratch[j] = row[j] if row[j] > row[j + half] else row[j + half]
    odd = row[n - 1]  # of no consequence where n is even: it has been seen
    while half > HALVED_TO:
        quarter = half // 2
        last = scratch[half - 1]
        for j in range(quarter):
            scratch[j] = scratch[j] if scratch[j] > scratch[j + quarter] else scratch[j + quarter]
        scratch[0] = last if last > scratch[0] else scratch[0]
        half = quarter
    largest = np.float64(odd)
    for j in range(half):
        largest = scratch[j] if scratch[j] > largest else largest
    return largest
