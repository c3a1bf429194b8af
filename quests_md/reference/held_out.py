"""Rows of a reference judged as if the group each belongs to were not in the reference."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .query import KnownRows

__all__ = ["MAX_HELD_OUT", "HeldOutScores", "held_out_scores", "near_largest", "whole_groups"]

#: Most rows that are held out to set a level.
MAX_HELD_OUT = 30_000

#: Nats below the largest dH of a frame within which held-out values are taken in float64: the error of fast ones.
NEAR_LARGEST = 5e-3


class HeldOutScores(NamedTuple):
    """DH of rows of a reference, each as if its group were not in the reference."""

    rows: NDArray[np.int64]
    """(m,) indices of the rows, ascending."""
    dh: NDArray[np.float64]
    """(m,) their dH, nats; +inf where no other group has the element."""


def held_out_scores(
    known: KnownRows,
    frame_groups: NDArray[np.int64] | None,
    rng: int | np.random.Generator,
    most_rows: int,
    frames: NDArray[np.bool_] | None,
    threads: int | None,
) -> HeldOutScores:
    """DH of rows of whole groups, drawn in random order; arguments are those of `Reference.held_out_scores`."""
    try:
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"rng: expected a seed (0, 1, 2, ...) or a numpy Generator, got {rng!r}") from exc
    groups = known.arrays.groups_of_rows(frame_groups)
    among = np.arange(len(groups)) if frames is None else np.flatnonzero(frames[known.arrays.atom_frame])
    rows = among[whole_groups(groups[among], most_rows, generator)]

    def without_own(rows: NDArray[np.int64], float64: bool) -> NDArray[np.float64]:
        these, numbers = known.rows_at(rows), known.numbers[rows]
        return known.delta_entropy_without(these, numbers, groups[rows], frame_groups, float64=float64, threads=threads)

    dh = without_own(rows, float64=False)
    top = near_largest(dh, known.arrays.frame_elements[rows])
    dh[top] = without_own(rows[top], float64=True)
    rows.flags.writeable = dh.flags.writeable = False
    return HeldOutScores(rows, dh)


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
    groups: NDArray[np.int64], most: int, rng: np.random.Generator, sizes: NDArray[np.int64] | None = None
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
