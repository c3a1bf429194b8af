"""Rows of a reference judged as if the group each belongs to were not in the reference."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quests_md._progress import track
from quests_md._threads import available_threads
from quests_md.engine import minus_log_sums

from .query import FEW_ROWS, KnownRows, is_inaccurate

__all__ = ["MAX_HELD_OUT", "HeldOutScores", "delta_entropy_without", "held_out_scores", "near_largest", "whole_groups"]

#: Most rows that are held out to set a level.
MAX_HELD_OUT = 30_000

#: Nats below the largest dH of a frame within which held-out values are taken in float64: the error of fast ones.
NEAR_LARGEST = 5e-3

#: Environments held out between two moves of the progress bar.
HELD_OUT_PIECE = 1024


class HeldOutScores(NamedTuple):
    """DH of rows of a reference, each as if its group were not in the reference."""

    rows: NDArray[np.int64]
    """(m,) indices of the rows, ascending."""
    dh: NDArray[np.float64]
    """(m,) their dH, nats; +inf where no other group has the element."""


def held_out_scores(
    known: KnownRows,
    row_groups: NDArray[np.int64],
    rng: int | np.random.Generator,
    *,
    most_rows: int = MAX_HELD_OUT,
    threads: int | None = None,
) -> HeldOutScores:
    """DH of rows of whole groups, drawn in random order, without the rows of the own group (row_groups: (N_ref,))."""
    try:
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"rng: expected a seed (0, 1, 2, ...) or a numpy Generator, got {rng!r}") from exc
    arrays = known.arrays
    rows = whole_groups(row_groups, most_rows, generator)

    def without_own(chosen: NDArray[np.int64], float64: bool) -> NDArray[np.float64]:
        these, numbers, own = arrays.rows[chosen], arrays.numbers[chosen], row_groups[chosen]
        return delta_entropy_without(known, these, numbers, own, row_groups, float64=float64, threads=threads)

    dh = without_own(rows, float64=False)
    top = near_largest(dh, arrays.frame_elements[rows])
    dh[top] = without_own(rows[top], float64=True)
    rows.flags.writeable = dh.flags.writeable = False
    return HeldOutScores(rows, dh)


def delta_entropy_without(
    known: KnownRows,
    rows: NDArray[np.float64],
    numbers: NDArray[Any],
    own_groups: NDArray[np.int64],
    row_groups: NDArray[np.int64],
    *,
    float64: bool = False,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """`Reference.delta_entropy_without`, with the group of each row of the reference (N_ref,) given."""
    out = np.full(len(rows), np.inf)
    for where, block in known.matches(numbers):
        its_rows, its_groups = known.arrays.rows[block], row_groups[block]
        pieces = np.split(where, range(HELD_OUT_PIECE, len(where), HELD_OUT_PIECE))
        is_exact = float64 or len(its_rows) <= FEW_ROWS
        for piece in track(pieces, "holding out environments", len(pieces)):
            unsure = piece
            if not is_exact:
                values, _, usual = known.index(block).minus_log_sums(
                    rows[piece], available_threads(threads), own_groups[piece], its_groups
                )
                out[piece] = values
                unsure = piece[is_inaccurate(values, usual)]
            out[unsure] = minus_log_sums(
                rows[unsure],
                its_rows,
                known.bandwidth,
                query_groups=own_groups[unsure],
                groups=its_groups,
                threads=threads,
            )
    return out


def near_largest(values: NDArray[np.float64], parts: NDArray[Any]) -> NDArray[np.int64]:
    """Indices of the fast values that may be the largest finite one of their part: a frame and an element.

    Levels are made of the largest values, so these are wanted as exactly as checks take them.
    """
    finite = np.flatnonzero(np.isfinite(values))
    _, part = np.unique(parts[finite], return_inverse=True)
    largest = np.full(int(part.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(largest, part, values[finite])
    near = NEAR_LARGEST * (1 + np.abs(values[finite]) / 100)
    return finite[values[finite] >= largest[part] - near]


def whole_groups(
    groups: NDArray[np.int64],
    most: int,
    rng: np.random.Generator,
    sizes: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Indices of the entries of whole groups, taken in random order until the next would exceed `most` in size.

    Entries have a group and a size (n,), default 1. One group at least is taken.
    """
    names, where = np.unique(groups, return_inverse=True)
    group_sizes = np.bincount(where, sizes)
    if group_sizes.sum() <= most:
        return np.arange(len(groups))
    order = rng.permutation(len(names))
    taken = int((np.cumsum(group_sizes[order]) <= most).sum())
    return np.flatnonzero(np.isin(where, order[: max(taken, 1)]))
