"""The nearest row of each query, by a pass over all rows where nobody knows it."""

import numpy as np

from quests_md._kernels.jit import Floats, Integers
from quests_md._kernels.sums import nearest_rows
from quests_md._threads import for_ranges

__all__ = ["complete_nearest"]

#: Queries that one thread takes at a time.
PIECE = 64


def complete_nearest(queries: Floats, rows: Floats, best: Integers, threads: int) -> Floats:
    """Squared distances (m,) from the nearest rows `best` (m,), which are looked for, and filled in, where -1.

    They are summed in one way, to the bit, whoever has found the rows; inf where numbers are too large.
    """
    missing = np.flatnonzero(best < 0)
    these, their_best, their_d2 = queries[missing], best[missing], np.empty(len(missing))

    def work(start: int, stop: int) -> None:
        nearest_rows(these[start:stop], rows, their_best[start:stop], their_d2[start:stop])

    for_ranges(work, len(missing), PIECE, threads)
    best[missing] = their_best
    with np.errstate(over="ignore"):  # then inf, as the kernel says
        d2: Floats = ((queries - rows[best]) ** 2).sum(axis=1)
    return d2
