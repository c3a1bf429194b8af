"""Rows that grow in number, and what is asked of them meanwhile."""

import numpy as np

from quests_md._kernels.jit import Floats

from .backend import build_index
from .index import Index

__all__ = ["GrowingIndex"]


class GrowingIndex:
    """Rows (n, width) in search structures of which each has at least twice the rows of the next.

    Queries (m, width) and rows are finite and in 1/Å, dH and levels in nats. Without rows dH is infinite.
    """

    def __init__(self, bandwidth: float, threads: int) -> None:
        self._bandwidth, self._threads = bandwidth, threads
        self._indices: list[Index] = []

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return sum(len(index.rows) for index in self._indices)

    def add(self, rows: Floats) -> None:
        """Take more rows."""
        if not len(rows):
            return
        while self._indices and len(self._indices[-1].rows) < 2 * len(rows):
            rows = np.concatenate([self._indices.pop().rows, rows])
        self._indices.append(build_index(rows, self._bandwidth))

    def highest(self, queries: Floats, levels: Floats) -> Floats:
        """(m,) at least the dH of each query; -inf where it is proven to be at most its level (m,)."""
        highest = np.full(len(queries), np.inf)
        for index in self._indices:
            left = np.flatnonzero(highest > -np.inf)
            highest[left[index.decide(queries[left], levels[left], self._threads) > 0]] = -np.inf
        left = np.flatnonzero(highest > -np.inf)
        for index in self._indices if len(left) else []:
            values, errors, _ = index.minus_log_sums(queries[left], self._threads)
            with np.errstate(invalid="ignore"):  # where numbers are too large nothing is proven
                upper = np.nan_to_num(values + errors, nan=np.inf)
            highest[left] = -np.logaddexp(-highest[left], -upper)
        return highest

    def delta_entropy(self, queries: Floats) -> Floats:
        """(m,) dH of each query, as good as fast sums are: some 1e-4 nats."""
        total = np.full(len(queries), np.inf)
        for index in self._indices if len(queries) else []:
            values = np.nan_to_num(index.minus_log_sums(queries, self._threads).values, nan=np.inf)
            total = -np.logaddexp(-total, -values)
        return total

    def nearest_distance(self, queries: Floats) -> Floats:
        """(m,) distance of each query from the nearest row in bandwidths; inf without rows."""
        nearest2 = np.full(len(queries), np.inf)
        for index in self._indices if len(queries) else []:
            found = index.nearest(queries, self._threads)
            with np.errstate(over="ignore"):  # then inf
                d2 = ((queries - index.rows[found]) ** 2).sum(axis=1)
            nearest2 = np.where(found >= 0, np.minimum(nearest2, d2), nearest2)
        distance: Floats = np.sqrt(nearest2) / self._bandwidth
        return distance
