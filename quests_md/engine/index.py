"""What is asked of a search structure, whatever computes the answers."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from quests_md._kernels.jit import Floats, Integers

__all__ = ["Index", "Sums"]


class Sums(NamedTuple):
    """Values of dH and how far they may be from the float64 sum."""

    values: Floats  #: (m,) nats; inf where no row is left.
    bounds: Floats
    """(m,) nats, proven: no value is farther from the true one. inf where numbers are too large for any bound."""
    usual: Floats  #: (m,) nats, measured: what rounding usually does at most.


class Index(Protocol):
    """A search structure over the rows of one element: answers about many queries at once.

    An implementation keeps the rows as it likes them (sorted by a tree, in blocks, in float32, on a device) and gets
    all queries of a call together. Every answer is either exact or comes with a bound of its error: implementations may
    differ in their bits, never in a decision. Where numbers are too large for an implementation its answer promises
    nothing; it never raises or warns.

    Rows and queries are finite, of the same width, and in 1/Å; dH and levels are in nats. `threads` is the most CPU
    threads that a call may use, and never changes a bit of its answer; the thread settings of the process are as before
    when it returns. Any number of threads may ask at the same time.
    """

    rows: Floats
    """(n, width), in the order given, of which nothing is copied. An equal array may take its place."""

    def decide(self, queries: Floats, levels: Floats, threads: int) -> NDArray[np.int8]:
        """Whether dH <= level is proven (1) or refuted (-1) for each query (m, width) and level (m,); 0: neither.

        What is proven or refuted is so for the float64 sum. Neither is the answer where the sum is too close to the
        level, or where a proof would cost more than the sum.
        """
        ...

    def minus_log_sums(
        self, queries: Floats, threads: int, query_groups: Integers | None = None, groups: Integers | None = None
    ) -> Sums:
        """DH of each query (m, width), from sums that need not be those of float64.

        Rows whose group (n,) is that of the query (m,) are left out; a query of group -1 meets them all.
        """
        ...

    def nearest(self, queries: Floats, threads: int) -> Integers:
        """The nearest row of each query (m, width) in float64, the first of equals; -1 where numbers are too large."""
        ...
