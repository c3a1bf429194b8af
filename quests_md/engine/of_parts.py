"""Kernel sums over rows, part by part: what each frame of a pool would add to the sums of some environments."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quests_md._kernels.jit import Floats, Floats32, Integers
from quests_md._kernels.parts import add_terms
from quests_md._threads import for_ranges, one_blas_thread

__all__ = ["part_sums"]

#: Rows and targets that are multiplied together: their products stay in the second-level cache.
ROWS_TOGETHER, TARGETS_TOGETHER = 128, 512

#: Rows of the parts that one thread takes at a time, on average.
ROWS_OF_PIECE = 1024


def part_sums(
    targets: Floats, raised: Floats, rows: NDArray[np.floating[Any]], ends: Integers, bandwidth: float, threads: int
) -> Floats32:
    """exp(raised_t) sum_j exp(-|x_t - y_j|^2 / 2 h^2) over the rows of each part, (parts, m).

    Float32 sums of float64 exponents, good to 1e-5 of themselves; terms below 1e-38 are left out, larger ones than 1e38
    are not told apart. Not a bit depends on the number of threads.

    Parameters
    ----------
    targets
        (m, width) finite rows, in 1/Å.
    raised
        (m,) nats that are added to all exponents of a target.
    rows
        (n, width) finite rows, in 1/Å, part by part.
    ends
        (parts + 1,) where parts begin in the rows, and the end.
    bandwidth
        h in 1/Å.
    threads
        Threads to use at most.
    """
    n_parts, m = len(ends) - 1, len(targets)
    out = np.zeros((n_parts, m), np.float32)
    if not m or not n_parts or ends[-1] == ends[0]:
        return out
    middle = targets.mean(axis=0)
    columns = np.ascontiguousarray(((targets - middle) / bandwidth).T)
    offsets = raised - 0.5 * (columns * columns).sum(axis=0)

    def work(start: int, stop: int) -> None:
        part = np.repeat(np.arange(start, stop), np.diff(ends[start : stop + 1]))
        fractions, powers = np.empty(TARGETS_TOGETHER, np.float32), np.empty(TARGETS_TOGETHER, np.int32)
        for first in range(ends[start], ends[stop], ROWS_TOGETHER):
            last = min(first + ROWS_TOGETHER, ends[stop])
            points = (rows[first:last].astype(np.float64) - middle) / bandwidth
            squares = 0.5 * (points * points).sum(axis=1)
            for t in range(0, m, TARGETS_TOGETHER):
                piece = slice(t, min(t + TARGETS_TOGETHER, m))
                n = piece.stop - piece.start
                products = points @ columns[:, piece]
                here = part[first - ends[start] : last - ends[start]]
                add_terms(products, squares, offsets[piece], here, out[:, piece], fractions[:n], powers[:n])

    piece = max(1, round(ROWS_OF_PIECE * n_parts / (ends[-1] - ends[0])))
    with one_blas_thread, np.errstate(over="ignore"):
        for_ranges(work, n_parts, piece, threads)
    return out
