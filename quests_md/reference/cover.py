"""Rows that cover all others of a reference: a few of many that say nearly the same."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from quests_md._progress import track
from quests_md.engine import GrowingIndex, minus_log_sums

__all__ = ["covering_rows"]

#: Rows that are looked at together, and kept rows that get a search structure of their own.
TOGETHER = 2048

#: Nats, and part of the bound where that is larger, that sums may be wrong by.
MARGIN = 1e-9


def covering_rows(
    rows: NDArray[np.floating[Any]], block: slice, bandwidth: float, bound: float, threads: int
) -> NDArray[np.int64]:
    """Numbers, ascending, of rows of a block such that dH of all others with respect to them is at most `bound`.

    Rows come one after the other, and one is kept unless those that are kept before it cover it: the greedy cover, in
    the order of the rows. Of a row that is not kept a proof says that the float64 sum over kept rows is large enough,
    which more rows only enlarge.
    """
    kept, chosen, recent = GrowingIndex(bandwidth, threads), list[NDArray[np.int64]](), np.empty((0, rows.shape[1]))
    for start, here in track(_pieces(rows, block), "covering rows", -(-(block.stop - block.start) // TOGETHER)):
        highest = kept.highest(here, np.full(len(here), bound))
        left = np.flatnonzero(highest > -np.inf)
        new = _greedy(here[left], highest[left], recent, bandwidth, bound)
        if len(new):
            chosen.append(start + left[new])
            recent = np.concatenate([recent, here[left[new]]])
        if len(recent) >= TOGETHER:
            kept.add(recent)
            recent = recent[:0]
    return np.concatenate(chosen)


def _pieces(rows: NDArray[np.floating[Any]], block: slice) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for start in range(block.start, block.stop, TOGETHER):
        yield start, rows[start : min(start + TOGETHER, block.stop)].astype(np.float64)


def _greedy(
    here: NDArray[np.float64], highest: NDArray[np.float64], recent: NDArray[np.float64], bandwidth: float, bound: float
) -> NDArray[np.int64]:
    """Places of rows to keep; dH of rows (m, width) is at most `highest` (m,) without `recent` rows and each other."""
    kept: list[int] = []
    sums = -highest  # logs of the sums of terms
    if len(recent) and len(here):
        sums = np.logaddexp(sums, -minus_log_sums(here, recent, bandwidth, threads=1))
    exponents = cdist(here, here, "sqeuclidean") / (-2 * bandwidth**2)
    enough = -bound + MARGIN * max(1.0, abs(bound))
    for i in range(len(here)):
        if not sums[i] >= enough:
            kept.append(i)
            sums[i + 1 :] = np.logaddexp(sums[i + 1 :], exponents[i, i + 1 :])
    return np.array(kept, dtype=np.int64)
