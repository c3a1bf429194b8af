"""Which search structure is built: the one place that knows what there is to choose from."""

from collections.abc import Callable
from copy import copy

import numpy as np
from numpy.typing import NDArray

from quests_md._kernels.tiles import HAS_TILES

from .cpu_blas import BlasIndex
from .cpu_tiles import TileIndex
from .index import Index
from .joined import JoinedIndex

__all__ = ["best_backend", "build_index"]


def best_backend() -> Callable[[NDArray[np.float64], float], Index]:
    """What makes the fastest `Index` that runs here from rows and a bandwidth, by the features of the processor."""
    return TileIndex if HAS_TILES else BlasIndex


def build_index(rows: NDArray[np.float64], bandwidth: float, first: Index | None = None) -> Index:
    """A search structure over the rows of one element.

    Parameters
    ----------
    rows
        (n, width), n >= 1, finite, 1/Å. Kept, not copied.
    bandwidth
        h in 1/Å.
    first
        A structure of this bandwidth over rows equal to the first ones here; used again as long as it has most of them.
    """
    build = best_backend()
    if isinstance(first, JoinedIndex):
        first = first.first
    if first is None or not len(first.rows) < len(rows) <= 2 * len(first.rows):
        return build(rows, bandwidth)
    n = len(first.rows)
    kept = copy(first)
    kept.rows = rows[:n]  # the array from before may go
    return JoinedIndex(rows, kept, build(rows[n:], bandwidth))
