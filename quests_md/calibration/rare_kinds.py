"""Kinds of frames with few groups: a group is of a rare kind if the rest, without a few groups, does not know it."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALONE", "FEW", "MOST_RARE", "excluded_groups", "groups_of_own_kind", "most_excluded"]

#: Most groups of a kind that is rare. With six, each group is held out against five others.
MOST_RARE = 5

#: Nats of mean excess beyond the median group's from which a group is unlike all others: the others together are a
#: hundred times less dense there than is usual.
ALONE = math.log(100)

#: The same for a kind of several groups, of which the most extreme of all choices of nearest groups is looked at.
FEW = 2 * ALONE

#: Largest share of groups that may be unlike all others, and largest share that may be of rare kinds: of more, such
#: groups are what the set is made of, and count. From FEWEST_GROUPS on one group, and one kind where it is at most a
#: quarter of all groups, may be so in any case.
FEW_ALONE = 0.05
FEW_RARE = 0.1
FEWEST_GROUPS = 10
LARGEST_SHARE = 0.25

#: Largest exponent of a kernel that is told apart from others.
FARTHEST = 600.0


def groups_of_own_kind(
    rows: NDArray[np.float64], groups: NDArray[np.int64], elements: Sequence[slice], bandwidth: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many groups each group's kind has, itself included; more than `MOST_RARE` of these are not counted.

    A group lies in a kind of n groups if the rest of the reference, without the group and the n - 1 groups that are
    nearest to it, is ten thousand times less dense where half of its rows lie than is usual, and is not without fewer
    of them. Usual is what the remaining rows themselves have without their own nearest groups; the median over the
    rows of the group is compared with that of the median group. The median, so that a few odd rows make no kind.

    `rows`: (m, width), those of one element in each slice; `groups`: (m,) group of each. Returns the names of the
    groups, (n_groups,), and the number for each: 1 to `MOST_RARE`, or 0 for kinds of more.
    """
    names, where = np.unique(groups, return_inverse=True)
    n_groups = len(names)
    if n_groups < FEWEST_GROUPS:
        return names, np.zeros(n_groups, np.int64)
    depth = min(MOST_RARE, n_groups - 2)
    squares = np.einsum("ij,ij->i", rows, rows)

    def kernels(of: int) -> Iterator[tuple[NDArray[np.int64], slice, NDArray[np.float64]]]:
        """Rows of one group with one element, the slice of that element, and their kernels with all rows in it."""
        for block in elements:
            these = np.flatnonzero(where[block] == of) + block.start
            if len(these):
                d2 = squares[these, None] + squares[None, block] - 2 * rows[these] @ rows[block].T
                yield these, block, np.exp(-np.clip(d2 / (2 * bandwidth**2), 0.0, FARTHEST))

    nearest = np.empty((n_groups, depth), np.int64)  # the group itself comes first
    without = np.empty((depth, len(rows)))  # dH of each row without its own and the next 0, 1, ... groups
    for of in range(n_groups):
        closeness, sums = np.zeros(n_groups), []
        for these, block, kernel in kernels(of):
            by_group = np.stack([np.bincount(where[block], row, minlength=n_groups) for row in kernel])
            closeness += np.log(np.maximum(by_group, math.exp(-FARTHEST))).sum(axis=0)
            sums.append((these, by_group))
        closeness[of] = np.inf
        nearest[of] = np.argsort(-closeness, kind="stable")[:depth]
        for these, by_group in sums:
            for i, near in enumerate(nearest[of]):
                by_group[:, near] = 0.0
                without[i, these] = -np.log(np.maximum(by_group.sum(axis=1), math.exp(-FARTHEST)))
    excess = np.empty((depth, n_groups))
    for of in range(n_groups):
        parts = []
        for these, block, kernel in kernels(of):
            beyond = np.empty((depth, len(these)))
            for i, near in enumerate(nearest[of]):
                kernel[:, where[block] == near] = 0.0
                total = kernel.sum(axis=1)
                usual = np.divide(kernel @ without[i, block], total, out=np.zeros(len(these)), where=total > 0)
                beyond[i] = without[i, these] - usual
            parts.append(beyond)
        excess[:, of] = np.median(np.concatenate(parts, axis=1), axis=1)
    alone = excess > np.median(excess, axis=1, keepdims=True) + FEW
    return names, np.where(alone.any(axis=0), alone.argmax(axis=0) + 1, 0)


def excluded_groups(alone: NDArray[np.bool_], rare: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n_groups,) which groups give no scores: those alone, and those of rare kinds, unless the set is made of such."""
    n = len(alone)
    if alone.sum() > max(FEW_ALONE * n, float(n >= FEWEST_GROUPS)):
        return np.zeros(n, bool)
    both = alone | rare
    return both if both.sum() <= most_excluded(n) else alone.copy()


def most_excluded(n: int) -> float:
    """How many of n groups may give no scores."""
    return max(FEW_RARE * n, min(MOST_RARE, LARGEST_SHARE * n))
