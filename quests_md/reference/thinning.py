"""A reference with fewer rows that cover the others, and what is lost by it."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quests_md._arguments import is_number
from quests_md._threads import available_threads

from .contents_checks import checked
from .cover import covering_rows
from .held_out import whole_groups
from .query import KnownRows

__all__ = ["ThinningLoss", "rows_to_keep", "thinning_loss"]

#: Environments that are held out to see how dH changes, and the seed that chooses their groups.
MOST_HELD_OUT, SEED = 2000, 0

#: Rows that are looked at together.
TOGETHER = 2**16


class ThinningLoss(NamedTuple):
    """What a thinned reference has lost."""

    kept: float
    """Share of the rows that it has."""
    completeness: float
    """Share of the rows of the whole with dH <= 0 with respect to it."""
    shift: tuple[float, float, float]
    """Median, 99 % quantile and largest rise of dH, nats, of environments whose groups are left out of both references.
    NaN where nothing could be held out."""


def rows_to_keep(known: KnownRows, bound: float, threads: int | None) -> NDArray[np.int64]:
    """Rows, ascending, that cover all others of their element to `bound` nats; ValueError unless it is a number."""
    if not is_number(bound) or not math.isfinite(bound):
        raise ValueError(f"bound: expected a number of nats, 0.5 say, got {bound!r}")
    blocks, n_threads = known.blocks.values(), available_threads(threads)
    found = [
        covering_rows(checked("rows", known.rows), block, known.bandwidth, float(bound), n_threads) for block in blocks
    ]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def thinning_loss(whole: KnownRows, thin: KnownRows, *, threads: int | None = None) -> ThinningLoss:
    """What a reference that was thinned has lost beside the whole one."""
    n, covered = whole.n_environments, 0
    for start in range(0, n, TOGETHER):
        rows = np.arange(start, min(start + TOGETHER, n))
        here = thin.is_covered(whole.rows_at(rows), 0.0, numbers=whole.numbers[rows], threads=threads)
        covered += int(here.sum())
    groups = whole.arrays.groups_of_rows()
    rows = whole_groups(groups, MOST_HELD_OUT, np.random.default_rng(SEED))[:MOST_HELD_OUT]
    queries, numbers, own = whole.rows_at(rows), whole.numbers[rows], groups[rows]
    before, after = (part.delta_entropy_without(queries, numbers, own, threads=threads) for part in (whole, thin))
    rise = after[np.isfinite(before)] - before[np.isfinite(before)]
    shift = (math.nan,) * 3
    if len(rise):
        shift = float(np.median(rise)), float(np.quantile(rise, 0.99)), float(rise.max())
    return ThinningLoss(thin.n_environments / max(n, 1), covered / max(n, 1), shift)
