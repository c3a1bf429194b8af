"""Sums of Gaussian kernels over reference rows, in log space and float64."""

import math

import numpy as np

from .jit import kernel

__all__ = ["NEGLIGIBLE_NATS", "NO_GROUP", "held_out_log_sums", "log_kernel_sums", "nearest_rows", "sum_of_exponentials"]

#: Group of a query that leaves no reference row out.
NO_GROUP = -1

#: Reference rows that all queries pass together: 63 columns of them stay in the second-level cache.
ROWS_TOGETHER = 256

#: Queries that share one reading of a reference row.
QUERIES_TOGETHER = 4

#: A term e^-60 below the largest so far cannot change a float64 sum of fewer than 1e9 terms.
NEGLIGIBLE_NATS = 60.0

LOG2_E = np.float32(1.4426950408889634)

#: Terms below 2^-126 count as 2^-126: float32 has no smaller normal number.
SMALLEST_POWER = np.float32(-126.0)

#: Bias of the exponent of a float32, and the bit where the exponent begins.
EXPONENT_BIAS, EXPONENT_SHIFT = np.int32(127), np.int32(23)

#: Terms that are added in float32 before float64 goes on: their sum is wrong by 128 2^-24 at worst.
FLOAT32_TERMS = 128


@kernel
def log_kernel_sums(queries, reference, bandwidth, query_groups, groups, minus_log_sum):
    """-log sum_j exp(-|y - x_j|^2 / 2 h^2) for each query (m, d) over reference rows (n, d), written to (m,).

    The sum of one query takes the differences y - x in the order of the reference, in fixed blocks, whatever other
    queries are with it: its bits depend on nothing else. A reference row whose `groups` entry (n,) equals the query's
    is left out; with `groups` of length 0 none is. Without any term the result is inf.
    """
    n_queries = queries.shape[0]
    n_rows = reference.shape[0]
    grouped = groups.shape[0] > 0
    scale = 0.5 / (bandwidth * bandwidth)
    smallest = np.full(n_queries, np.inf)  # smallest exponent t = |y-x|^2/2h^2 so far
    total = np.zeros(n_queries)  # sum of exp(smallest - t)
    squares = np.empty((QUERIES_TOGETHER, ROWS_TOGETHER))
    for start in range(0, n_rows, ROWS_TOGETHER):
        size = min(ROWS_TOGETHER, n_rows - start)
        block = reference[start : start + size]
        for first in range(0, n_queries, QUERIES_TOGETHER):
            _squared_distances(queries, first, block, squares)
            for i in range(first, min(first + QUERIES_TOGETHER, n_queries)):
                exponents = squares[i - first]
                for j in range(size):
                    exponents[j] *= scale
                if grouped and query_groups[i] != NO_GROUP:
                    for j in range(size):
                        if groups[start + j] == query_groups[i]:
                            exponents[j] = np.inf
                low = np.inf
                for j in range(size):
                    low = exponents[j] if exponents[j] < low else low
                if low < smallest[i]:
                    total[i] *= math.exp(low - smallest[i])
                    smallest[i] = low
                limit = smallest[i] + NEGLIGIBLE_NATS
                if low > limit or low == np.inf:
                    continue
                added = 0.0
                for j in range(size):
                    if exponents[j] <= limit:
                        added += math.exp(smallest[i] - exponents[j])
                total[i] += added
    for i in range(n_queries):
        minus_log_sum[i] = smallest[i] - math.log(total[i]) if total[i] > 0.0 else np.inf


@kernel
def _squared_distances(queries, first, block, squares):
    """Squared distances of four queries from `first` on to the rows of a block; the last query takes places left over.

    Always four, so that every query meets the same machine code and gets the same bits.
    """
    last = queries.shape[0] - 1
    width = queries.shape[1]
    a = queries[first]
    b = queries[min(first + 1, last)]
    c = queries[min(first + 2, last)]
    d = queries[min(first + 3, last)]
    for j in range(block.shape[0]):
        row = block[j]
        s0 = s1 = s2 = s3 = 0.0
        for i in range(width):
            x = row[i]
            d0, d1, d2, d3 = a[i] - x, b[i] - x, c[i] - x, d[i] - x
            s0 += d0 * d0
            s1 += d1 * d1
            s2 += d2 * d2
            s3 += d3 * d3
        squares[0, j], squares[1, j], squares[2, j], squares[3, j] = s0, s1, s2, s3


@kernel
def held_out_log_sums(queries, reference, query_groups, groups, closest, bandwidths, log_sums, counts):
    """Log sum_j exp(-|y - x_j|^2 / 2 h^2) over rows of other groups, for each query (m, d) and bandwidth: (m, n_h).

    Rows nearer than `closest` are copies and left out. `counts` (m,) gets the number of rows that are summed.
    """
    n_rows, width = reference.shape
    n_bandwidths = bandwidths.shape[0]
    squares = np.empty(n_rows)
    for i in range(queries.shape[0]):
        low = np.inf
        count = 0
        for j in range(n_rows):
            d2 = 0.0
            for c in range(width):
                difference = queries[i, c] - reference[j, c]
                d2 += difference * difference
            if groups[j] == query_groups[i] or d2 < closest * closest:
                d2 = np.inf
            else:
                count += 1
            squares[j] = d2
            low = min(low, d2)
        counts[i] = count
        for b in range(n_bandwidths):
            scale = 0.5 / (bandwidths[b] * bandwidths[b])
            limit = low + NEGLIGIBLE_NATS / scale
            total = 0.0
            for j in range(n_rows):
                if squares[j] <= limit:
                    total += math.exp((low - squares[j]) * scale)
            log_sums[i, b] = math.log(total) - low * scale if count > 0 else -np.inf


@kernel
def nearest_rows(queries, reference, best, distance2):
    """Index of the nearest reference row of each query (the first of equals), and its squared distance."""
    n_queries, width = queries.shape
    n_rows = reference.shape[0]
    best[:] = -1
    distance2[:] = np.inf
    for start in range(0, n_rows, ROWS_TOGETHER):
        stop = min(start + ROWS_TOGETHER, n_rows)
        for i in range(n_queries):
            for j in range(start, stop):
                d2 = 0.0
                for c in range(width):
                    difference = queries[i, c] - reference[j, c]
                    d2 += difference * difference
                if d2 < distance2[i] or best[i] < 0:
                    distance2[i] = d2
                    best[i] = j


@kernel
def sum_of_exponentials(exponents, offset, powers, fractions):
    """Sum of exp(min(exponents_j - offset, 0)) over float32 exponents (n,), good to 1e-5 of it.

    powers (n,) int32 and fractions (n,) float32: memory to work in.
    """
    n = exponents.shape[0]
    shift = np.float32(offset)
    scales = powers.view(np.float32)
    for j in range(n):
        z = (exponents[j] - shift) * LOG2_E
        z = z if z > SMALLEST_POWER else SMALLEST_POWER
        z = z if z < np.float32(0.0) else np.float32(0.0)
        whole = np.int32(z - np.float32(0.5))  # nearest integer, as z <= 0
        f = z - np.float32(whole)
        # 2^f for |f| <= 1/2, Taylor series: relative error 2e-7
        p = np.float32(0.00015403530)
        p = p * f + np.float32(0.0013333558)
        p = p * f + np.float32(0.0096181291)
        p = p * f + np.float32(0.0555041087)
        p = p * f + np.float32(0.2402265070)
        p = p * f + np.float32(0.6931471806)
        fractions[j] = p * f + np.float32(1.0)
        powers[j] = (whole + EXPONENT_BIAS) << EXPONENT_SHIFT
    total = 0.0
    for start in range(0, n, FLOAT32_TERMS):  # slices: with ends taken care of in the loop it would not vectorise
        stop = min(start + FLOAT32_TERMS, n)
        factors, others = fractions[start:stop], scales[start:stop]
        part = np.float32(0.0)
        for j in range(factors.shape[0]):
            part += factors[j] * others[j]
        total += float(part)
    return total
