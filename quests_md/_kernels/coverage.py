"""Rows that cover a set of rows: each as far as can be from those chosen before."""

import numpy as np

from .jit import kernel

__all__ = ["farthest_rows"]


@kernel
def farthest_rows(rows, first, chosen):
    """Write into `chosen` (m,) the row `first` of `rows` (n, d) float32 and then always the farthest from all before.

    Return how many there are: fewer than m where the rest are copies.
    """
    n, d = rows.shape
    nearest2 = np.full(n, np.inf, np.float32)
    at = first
    for t in range(chosen.shape[0]):
        chosen[t] = at
        latest = rows[at]
        farthest = np.float32(0.0)
        for i in range(n):
            row = rows[i]
            total = np.float32(0.0)
            for c in range(d):
                difference = row[c] - latest[c]
                total += difference * difference
            if total < nearest2[i]:
                nearest2[i] = total
            if nearest2[i] > farthest:
                farthest = nearest2[i]
                at = i
        if not farthest > 0.0:
            return t + 1
    return chosen.shape[0]
