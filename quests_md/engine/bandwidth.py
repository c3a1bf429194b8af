"""The bandwidth that the data themselves support: leave-one-group-out likelihood."""

from collections.abc import Iterable

import numpy as np

from quests_md._kernels.jit import Floats, Integers
from quests_md._kernels.sums import held_out_log_sums
from quests_md._threads import available_threads, for_ranges

__all__ = ["BANDWIDTHS", "best_bandwidth"]

#: 1/Å, the range searched.
BANDWIDTHS = np.geomspace(0.003, 0.3, 41)

#: 1/Å. Rows of different groups nearer than this are copies: their kernel terms would make the likelihood diverge.
CLOSEST = 1e-6

#: Most rows that are held out, and most pairs of rows that are looked at.
MOST_HELD_OUT, MOST_PAIRS = 2000, 100_000_000

#: Held-out rows that a thread takes at a time.
QUERIES_AT_A_TIME = 16


def best_bandwidth(
    rows: Floats, groups: Integers, blocks: Iterable[slice], *, rng: int = 0, threads: int | None = None
) -> float | None:
    """Bandwidth h that maximises the likelihood of rows under the kernel density of the other groups.

    Per row: log of (1/N) sum_j K_h(y, x_j) / h^d over the N rows of the same block and other groups, d the width of a
    row. The maximum over a grid in log h is refined by a parabola.

    rows (n, d) in 1/Å, groups (n,); blocks are slices of rows that are compared with each other: the elements. `rng`
    chooses the at most 2000 rows that are held out. None if the best h lies at an edge of 0.003 ... 0.3 1/Å or nothing
    can be held out.

    References
    ----------
    Silverman, Density Estimation (1986), sec. 3.4.4 (likelihood cross-validation), with groups in the place of points.
    """
    n_rows, width = rows.shape
    generator = np.random.default_rng(rng)
    total, n_held_out = np.zeros(len(BANDWIDTHS)), 0
    for block in blocks:
        size = block.stop - block.start
        wanted = min(size, max(1, min(MOST_HELD_OUT * size // max(n_rows, 1), MOST_PAIRS // size)))
        chosen = block.start + np.sort(generator.choice(size, wanted, replace=False))
        log_sums, counts = _held_out(
            rows[chosen].astype(np.float64), groups[chosen], rows[block], groups[block], threads
        )
        usable = counts > 0
        total += (log_sums[usable] - np.log(counts[usable])[:, None]).sum(axis=0)
        n_held_out += int(usable.sum())
    if n_held_out == 0:
        return None
    likelihood = total / n_held_out - width * np.log(BANDWIDTHS)
    best = int(likelihood.argmax())
    if best in (0, len(BANDWIDTHS) - 1):
        return None
    left, middle, right = likelihood[best - 1 : best + 2]
    shift = 0.5 * (left - right) / (left - 2 * middle + right)
    step = float(np.log(BANDWIDTHS[1] / BANDWIDTHS[0]))
    return float(f"{BANDWIDTHS[best] * np.exp(shift * step):.3g}")


def _held_out(
    queries: Floats, query_groups: Integers, rows: Floats, groups: Integers, threads: int | None
) -> tuple[Floats, Integers]:
    """Logs of the kernel sums (m, n_h) of queries over rows of other groups, and the number of these rows (m,)."""
    log_sums, counts = np.empty((len(queries), len(BANDWIDTHS))), np.empty(len(queries), np.int64)

    def work(start: int, stop: int) -> None:
        here = slice(start, stop)
        held_out_log_sums(
            queries[here], rows, query_groups[here], groups, CLOSEST, BANDWIDTHS, log_sums[here], counts[here]
        )

    for_ranges(work, len(queries), QUERIES_AT_A_TIME, available_threads(threads))
    return log_sums, counts
