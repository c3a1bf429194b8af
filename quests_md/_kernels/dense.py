"""Sums of Gaussian kernels, and nearest rows, from products of matrices of blocks, with bounds of their errors."""

import math

import numpy as np

from .jit import kernel
from .sums import sum_of_exponentials

__all__ = ["absorb_products", "box_bounds", "leave_out", "take_nearest"]

#: Terms e^-40 of the largest do not matter: 1e9 of them are less than 1e-8 of the sum.
MATTERS = 40.0

#: Terms that carry all but 1e-3 of a sum are within e^-16 of the largest, for 1e4 of them.
CARRIES = 16.0

#: Rounding errors behave like random numbers: some three to five times what is the most seen in tests of rounding,
#: in units of unit |y||x|. The bound of the worst case grows with the number of columns instead.
TYPICAL = 6.0

#: Part of the tolerance that rounding of products may use up.
SHARE = 0.75

#: A block whose errors weigh less than this part of what is allowed may have them.
LITTLE = 0.01

#: What may be left out of a sum, as a part of it.
NOTHING = 1e-9

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
def absorb_products(
    products, norms, base, here, lengths, blur, radius, unit, terms, top, total, worst, usual, refused,
    scratch, powers, fractions,
):  # fmt: skip
    """Add exp(base_k + products_kj + norms_j) of a block to running sums total_i exp(top_i), i = here_k.

    products (k, n) and norms (n,) float32, base (k,) float64: together the exponents -|y - x_j|^2 / 2, all lengths in
    bandwidths.
    here (k,): the queries. lengths (k,): their |y|, distance from the centre of the block; blur (k,): error of y.
    radius: largest |x| of the block. unit: rounding unit of the products; terms: numbers that are added in one of them.
    top, total (m,) float64: largest exponent so far and the sum relative to it; start with -inf and 0.
    worst, usual (m,) float64: bound of the error of the sum, and what it will hardly exceed, also relative to top.
    refused (k,) bool: queries whose products are not good enough for `delta_entropy`; they are not added.
    scratch, fractions (n,) float32 and powers (n,) int32: memory to work in; products are changed.
    """
    is_single = unit > 1e-10
    for k in range(products.shape[0]):
        i = here[k]
        refused[k] = False
        if not abs(base[k]) < np.inf:  # beyond the numbers there are
            worst[i] = usual[i] = np.inf
            continue
        largest = _add_and_find_largest(products[k], norms, scratch)
        if largest == -np.inf:  # all left out
            continue
        exponent = base[k] + largest
        peak = max(top[i], exponent)
        length = lengths[k]
        norm_error = 2.0**-53 * terms * length * length
        error = 0.0
        for _ in range(2):  # rows that matter, if all exponents are wrong by as much
            reach = math.sqrt(2.0 * max(MATTERS - peak + 2.0 * error, 0.0))
            error = _worst_error(length, radius, reach, unit, terms, blur[k])
        if exponent < top[i] - MATTERS:
            added = products.shape[1] * _exp(exponent - top[i] + error)
            refused[k] = is_single and added > NOTHING * total[i]
            if not refused[k]:
                worst[i] += added
                usual[i] += added
            continue
        reach = math.sqrt(2.0 * max(CARRIES - peak, 0.0))
        far = min(radius, length + reach)
        likely = unit * (TYPICAL * (length * far + 0.5 * far * far) + (length + far) * reach) + norm_error
        likely = min(error, likely)
        added = math.exp(exponent - peak) * sum_of_exponentials(products[k], largest, powers, fractions)
        decay = math.exp(top[i] - peak)
        allowed = SHARE * (1e-4 + 1e-6 * abs(peak))
        doubt = added * (_exp(likely) - 1.0)
        refused[k] = is_single and likely > allowed and not doubt < LITTLE * allowed * (total[i] * decay + added)
        if refused[k]:
            continue
        top[i] = peak
        total[i] = total[i] * decay + added
        worst[i] = worst[i] * decay + added * (_exp(error) - 1.0)
        usual[i] = usual[i] * decay + doubt


@kernel
def take_nearest(
    products, norms, base, here, lengths, blur, radius, unit, terms, queries, rows, order, bandwidth,
    distance2, nearest, scratch,
):  # fmt: skip
    """The nearest row so far of each query, by float64 differences where products leave a doubt; the first of equals.

    products to terms as in `absorb_products`. queries (m, d) and rows (n, d) float64 in 1/Å; order: rows of the block.
    distance2 (m,) and nearest (m,): squared distance and row; inf and -1 at first, -inf and -1 beyond numbers.
    """
    for k in range(products.shape[0]):
        i = here[k]
        if not abs(base[k]) < np.inf:  # beyond the numbers there are: never found
            distance2[i], nearest[i] = -np.inf, -1
            continue
        largest = _add_and_find_largest(products[k], norms, scratch)
        closest = min(max(-(base[k] + largest), 0.0), 0.5 * distance2[i] / (bandwidth * bandwidth))
        error = 0.0
        for _ in range(3):  # the error is that of rows as near as the nearest one, error included
            reach = math.sqrt(2.0 * (closest + 2.0 * error))
            error = _worst_error(lengths[k], radius, reach, unit, terms, blur[k])
        lowest = -(closest + 2.2 * error) - base[k]
        limit = np.float32(lowest - 1e-6 * abs(lowest))
        for j in range(products.shape[1]):
            if products[k, j] < limit:
                continue
            row = order[j]
            d2 = 0.0
            for c in range(queries.shape[1]):
                difference = queries[i, c] - rows[row, c]
                d2 += difference * difference
            if d2 < distance2[i] or (d2 == distance2[i] and row < nearest[i]):
                distance2[i] = d2
                nearest[i] = row


@kernel
def leave_out(products, query_groups, groups):
    """Set products[i, j] to -inf where row j (n,) belongs to the group of query i (m,)."""
    for i in range(products.shape[0]):
        group = query_groups[i]
        for j in range(products.shape[1]):
            products[i, j] = np.float32(-np.inf) if groups[j] == group else products[i, j]


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
def _add_and_find_largest(row, norms, scratch):
    """Add the norms to a row and give its largest entry; `scratch` is of the same length."""
    n = row.shape[0]
    for j in range(n):
        row[j] += norms[j]
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
