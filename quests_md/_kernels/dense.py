"""Sums of Gaussian kernels, and nearest rows, from products of matrices of blocks, with bounds of their errors."""

import math

import numpy as np

from .jit import kernel
from .sums import sum_of_exponentials
from .tiles import TILE, multiply, tile_sums

__all__ = ["absorb_panels", "absorb_products", "box_bounds", "centre_and_round", "leave_out", "take_nearest"]

#: Terms e^-40 of a sum do not matter: 1e9 of them are less than 1e-8 of it.
MATTERS = 40.0

#: Terms of at least e^-16 of a sum carry nearly all of it.
CARRIES = 16.0

#: Most that rounding does to a product, in units of unit |y||x|: errors behave like random numbers, and 5 to 6 is the
#: most that was found, with columns of equal magnitude. The bound of the worst case grows with the columns instead.
TYPICAL = 8.0

#: Part of the tolerance that rounding of products may use up.
SHARE = 0.75

#: A block whose errors weigh less than this part of what is allowed may have them.
LITTLE = 0.01

#: Sums from here on need not know their largest term: float32 has numbers 1e-25 of it.
TINY = 1e-13

#: Terms that a tile takes for 0 are smaller.
VANISHED = 2.0**-126

#: What can be shifted to 0 in float32 without loss.
SHIFTED = -1e4

#: Lanes down to which the maximum of a row is halved: a plain reduction does not vectorise where NaN may occur.
LANES = 32


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
def centre_and_round(points, here, centre, rounded, lengths):
    """The points `here` (k,) of (m, d) relative to a centre (d,): float32 (k, D), D >= d, and lengths (k,) float64."""
    for k in range(here.shape[0]):
        norm2 = 0.0
        for c in range(centre.shape[0]):
            x = np.float32(points[here[k], c] - centre[c])
            rounded[k, c] = x
            norm2 += np.float64(x) * np.float64(x)
        lengths[k] = math.sqrt(norm2)


@kernel
def absorb_products(
    products, norms, base, here, lengths, blur, radius, unit, terms, top, total, worst, usual, refused,
    scratch, powers, fractions,
):  # fmt: skip
    """Add exp(base_k + products_kj + norms_j) of a block to running sums total_i exp(top_i), i = here_k.

    products (k, n) and norms (n,) float32, base (k,) float64: together the exponents -|y - x_j|^2 / 2, all lengths in
    bandwidths.
    here (k,): the queries. lengths (k,): their |y|, distance from the centre of the block; blur (k,): error of y.
    radius: largest |x| of the block. unit: rounding unit of the products; terms: numbers that are added in one of them.
    top, total (m,) float64: the sum is total exp(top); start with -inf and 0.
    worst, usual (m,) float64: bound of the error of the sum, and what it will hardly exceed, also relative to exp(top).
    refused (k,) bool: queries whose products are not good enough for `delta_entropy`; they are not added.
    scratch, fractions (n,) float32 and powers (n,) int32: memory to work in; products are changed.
    """
    for k in range(products.shape[0]):
        i = here[k]
        refused[k] = False
        if not abs(base[k]) < np.inf:  # beyond the numbers there are
            worst[i] = usual[i] = np.inf
            continue
        row = products[k]
        for j in range(row.shape[0]):
            row[j] += norms[j]
        # no exponent is above 0: where the sum is not too small the largest need not be known
        is_plain = base[k] > SHIFTED and (total[i] == 0.0 or top[i] == 0.0)
        exponent = added = 0.0
        if is_plain:
            offset = np.float32(1.0 - base[k])
            added = math.exp(base[k] + offset) * sum_of_exponentials(row, offset, powers, fractions)
        if not is_plain or (added < TINY and top[i] != 0.0):
            largest = _largest(row, scratch)
            if largest == -np.inf:  # all left out
                continue
            exponent = base[k] + largest
            added = sum_of_exponentials(row, largest, powers, fractions)
        refused[k] = _absorb(i, exponent, added, lengths[k], blur[k], radius, unit, terms, top, total, worst, usual)


@kernel
def absorb_panels(
    queries, panels, norms, own, groups, base, here, lengths, blur, radius, unit, terms, top, total, worst, usual,
    refused, memory, scratch, powers, fractions,
):  # fmt: skip
    """As `absorb_products`, from the queries (k, d) and the panels of a block (p, d, PANEL), all in float32.

    norms (p PANEL,). own (k,) and groups (p PANEL,) int64: rows of a query's own group are left out; None: all are in.
    memory (TILE p PANEL,) float32 and scratch, powers, fractions (p PANEL,), or more of each: to work in.
    """
    n = norms.shape[0]
    products, sums = memory[: TILE * n].reshape(TILE, n), np.empty(TILE)
    offsets = np.empty(base.shape[0], np.float32)
    for k in range(base.shape[0]):
        offsets[k] = 1.0 - base[k]
    for first in range(0, queries.shape[0], TILE):
        stop = min(first + TILE, queries.shape[0])
        has_sums = has_products = False
        for k in range(first, stop):
            i = here[k]
            refused[k] = False
            if not abs(base[k]) < np.inf:
                worst[i] = usual[i] = np.inf
                continue
            is_plain = base[k] > SHIFTED and (total[i] == 0.0 or top[i] == 0.0)
            exponent = added = 0.0
            if is_plain:
                if not has_sums:
                    tile_sums(queries, first, panels, norms, offsets, own, groups, sums)
                    has_sums = True
                added = math.exp(base[k] + offsets[k]) * (sums[k - first] + n * VANISHED)
            if not is_plain or (added < TINY and top[i] != 0.0):
                if not has_products:
                    multiply(queries[first:stop], panels, products)
                    if groups is not None:
                        leave_out(products, own[first:stop], groups)
                    has_products = True
                row = products[k - first]
                for j in range(n):
                    row[j] += norms[j]
                largest = _largest(row, scratch)
                if largest == -np.inf:
                    continue
                exponent = base[k] + largest
                added = sum_of_exponentials(row, largest, powers, fractions)
            refused[k] = _absorb(i, exponent, added, lengths[k], blur[k], radius, unit, terms, top, total, worst, usual)


@kernel
def take_nearest(
    products, norms, base, here, lengths, blur, radius, unit, terms, queries, rows, order, bandwidth,
    distance2, nearest, scratch,
):  # fmt: skip
    """The nearest row so far of each query, by float64 differences where products leave a doubt; the first of equals.

    products to terms as in `absorb_products`. queries (m, d) and rows (n, d) float64 in 1/Å; order: rows of the block,
    perhaps fewer than products and norms have places for.
    distance2 (m,) and nearest (m,): squared distance and row; inf and -1 at first, -inf and -1 beyond numbers.
    """
    for k in range(products.shape[0]):
        i = here[k]
        if not abs(base[k]) < np.inf:  # beyond the numbers there are: never found
            distance2[i], nearest[i] = -np.inf, -1
            continue
        row = products[k]
        for j in range(row.shape[0]):
            row[j] += norms[j]
        largest = _largest(row, scratch)
        closest = min(max(-(base[k] + largest), 0.0), 0.5 * distance2[i] / (bandwidth * bandwidth))
        error = 0.0
        for _ in range(3):  # the error is that of rows as near as the nearest one, error included
            reach = math.sqrt(2.0 * (closest + 2.0 * error))
            error = _worst_error(lengths[k], radius, reach, unit, terms, blur[k])
        lowest = -(closest + 2.2 * error) - base[k]
        limit = np.float32(lowest - 1e-6 * abs(lowest))
        for j in range(order.shape[0]):
            if row[j] < limit:
                continue
            d2 = 0.0
            for c in range(queries.shape[1]):
                difference = queries[i, c] - rows[order[j], c]
                d2 += difference * difference
            if d2 < distance2[i] or (d2 == distance2[i] and order[j] < nearest[i]):
                distance2[i] = d2
                nearest[i] = order[j]


@kernel
def leave_out(products, query_groups, groups):
    """Set products[i, j] to -inf where row j (n,) belongs to the group of query i (m,), of perhaps more lines."""
    for i in range(query_groups.shape[0]):
        group = query_groups[i]
        for j in range(products.shape[1]):
            products[i, j] = np.float32(-np.inf) if groups[j] == group else products[i, j]


@kernel
def _absorb(i, exponent, added, length, blur, radius, unit, terms, top, total, worst, usual):
    """Add added exp(exponent) to the sum of query i, unless its products are not good enough: whether they are not."""
    peak = max(top[i], exponent)
    added *= math.exp(exponent - peak)
    decay = math.exp(top[i] - peak)
    together = total[i] * decay + added
    log_sum = peak + math.log(together)
    error = 0.0
    for _ in range(2):  # that of rows that matter, if all exponents are wrong by as much
        reach = math.sqrt(2.0 * max(MATTERS - log_sum + 2.0 * error, 0.0))
        error = _worst_error(length, radius, reach, unit, terms, blur)
    reach = math.sqrt(2.0 * max(CARRIES - log_sum, 0.0))
    far = min(radius, length + reach)
    likely = unit * (TYPICAL * (length * far + 0.5 * far * far) + (length + far) * reach)
    likely = min(error, likely + 2.0**-53 * terms * length * length)
    doubt = added * (_exp(likely) - 1.0)
    allowed = SHARE * (1e-4 + 1e-6 * abs(log_sum))
    is_single = unit > 1e-10
    if is_single and likely > allowed and not doubt < LITTLE * allowed * together:
        return True
    top[i] = peak
    total[i] = together
    worst[i] = worst[i] * decay + added * (_exp(error) - 1.0)
    usual[i] = usual[i] * decay + doubt
    return False


@kernel
def _worst_error(length, radius, reach, unit, terms, blur):
    """Bound of the error of exponents -d^2/2 whose rows are at most `reach` from the query, or much farther away.

    Rows that are no more than `reach` away have |x| <= |y| + reach. Where |x| > 2 |y|, d > |x| / 2, so that an error of
    some unit |x|^2 leaves a large exponent large. A product of n numbers is wrong by n unit |y||x|, half the square of
    the norm by unit |x|^2, coordinates by unit and blur; norms are sums in float64.
    """
    far = min(radius, length + max(reach, length))
    shift = unit * (length + far) + blur
    norms = 2.0**-53 * terms * (length * length + far * far)
    return 1.01 * (unit * (terms * length * far + far * far) + shift * (reach + shift) + norms)


@kernel
def _exp(x):
    """exp(x) of a bound: inf where it is too large to be of any use."""
    return math.exp(x) if x < 100.0 else np.inf


@kernel
def _largest(row, scratch):
    """The largest entry of a row; `scratch` is of the same length."""
    n = row.shape[0]
    if n < 2 * LANES:
        largest = -np.inf
        for j in range(n):
            largest = row[j] if row[j] > largest else largest
        return np.float64(largest)
    half = n // 2
    for j in range(half):
        scratch[j] = row[j] if row[j] > row[j + half] else row[j + half]
    odd = row[n - 1]  # of no consequence where n is even: it has been seen
    while half > LANES:
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
