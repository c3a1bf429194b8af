"""Held-out kernel sums for many bandwidths from one pass over the distances."""

import math

import numpy as np

from .jit import kernel
from .sums import NEGLIGIBLE_NATS

__all__ = ["held_out_log_sums"]


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
