"""Which search structure is built: the one place that knows what there is to choose from."""

from collections.abc import Callable
from copy import copy
from functools import partial

import numpy as np
from numpy.typing import NDArray

from quests_md._kernels.jit import Floats, Integers
from quests_md._kernels.tiles import HAS_TILES

from .cpu import BlasIndex, TileIndex
from .index import Index, Sums

__all__ = ["JoinedIndex", "best_backend", "build_index"]


def best_backend() -> Callable[[Floats, float], Index]:
    """What makes the fastest `Index` that runs here from rows and a bandwidth, by the features of the processor."""
    return TileIndex if HAS_TILES else BlasIndex


def build_index(rows: Floats, bandwidth: float, first: Index | None = None, device: str | None = None) -> Index:
    """A search structure over the rows (n, width) of one element, n >= 1, finite, in 1/Å; kept, not copied.

    `first` is a structure of this bandwidth over rows equal to the first ones here, on the same device; it is used
    again as long as it has most of them. `device`: None for the CPU, or what `require_device` returns.
    """
    build = best_backend()
    if device is not None:
        from .torch_index import TorchIndex  # torch takes a second to import

        build = partial(TorchIndex, device=device)
    if isinstance(first, JoinedIndex):
        first = first.first
    if first is None or not len(first.rows) < len(rows) <= 2 * len(first.rows):
        return build(rows, bandwidth)
    n = len(first.rows)
    kept = copy(first)
    kept.rows = rows[:n]  # the array from before may go
    return JoinedIndex(rows, kept, build(rows[n:], bandwidth))


class JoinedIndex:
    """An `Index` over rows (n, width), made of structures over the first rows and over those that came after them."""

    def __init__(self, rows: Floats, first: Index, rest: Index) -> None:
        self.rows = rows
        self.first, self.rest = first, rest

    def decide(self, queries: Floats, levels: Floats, threads: int) -> NDArray[np.int8]:
        """See `Index.decide`: what some rows prove is proven; two parts refuted prove nothing of their sum."""
        verdict = np.maximum(self.first.decide(queries, levels, threads), 0)
        rest = np.flatnonzero(verdict == 0)
        verdict[rest] = np.maximum(self.rest.decide(queries[rest], levels[rest], threads), 0)
        return verdict

    def minus_log_sums(
        self, queries: Floats, threads: int, query_groups: Integers | None = None, groups: Integers | None = None
    ) -> Sums:
        """See `Index.minus_log_sums`: a sum is wrong by no larger a part than the worse of its two parts."""
        n = len(self.first.rows)
        first_groups, rest_groups = (None, None) if groups is None else (groups[:n], groups[n:])
        a = self.first.minus_log_sums(queries, threads, query_groups, first_groups)
        b = self.rest.minus_log_sums(queries, threads, query_groups, rest_groups)
        values = -np.logaddexp(-a.values, -b.values)
        return Sums(values, np.maximum(a.bounds, b.bounds), np.maximum(a.usual, b.usual))

    def nearest(self, queries: Floats, threads: int) -> Integers:
        """See `Index.nearest`."""
        a, b = self.first.nearest(queries, threads), self.rest.nearest(queries, threads)
        with np.errstate(over="ignore"):  # then both are -1
            d2_a = ((queries - self.first.rows[a]) ** 2).sum(axis=1)
            d2_b = ((queries - self.rest.rows[b]) ** 2).sum(axis=1)
        nearest = np.where(d2_b < d2_a, b + len(self.first.rows), a)
        return np.where((a < 0) | (b < 0), -1, nearest)
