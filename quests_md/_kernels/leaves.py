"""Proofs about dH and a level: every term of the sum is positive, so the nearest rows may suffice."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .dense import FLOAT32_UNIT
from .jit import Floats, Floats32, Integers, kernel
from .sums import sum_of_exponentials
from .tiles import PANEL, half_squares

__all__ = ["FARTHEST", "Leaves", "decide"]

#: Terms more than log n + 7 nats below exp(-level) are, all n together, less than e^-7 of exp(-level).
BEYOND = 7.0

#: Bandwidths from the centre of a block up to which float32 is of use for sums.
FARTHEST = 1e4

#: Leaves after which it is asked again whether the leaves still allowed can suffice.
WINDOW = 8


class Leaves(NamedTuple):
    """The rows of a k-d tree, leaf by leaf: leaves are runs of rows, blocks are runs of leaves."""

    boxes: Floats32
    """(g, 2, p, f): low and high ends of the last p components of groups of f boxes, level by level, the leaves last.
    The first group is the top, filled up with boxes at infinity; each box but the leaves has a group of its own, in the
    order of the boxes."""
    leaf_start: Integers  #: (l + 1,) first rows, multiples of PANEL but the last.
    block_leaves: int  #: Leaves of a block.
    centres: Floats  #: (b, d) what the rows of each block are relative to.
    panels: Floats32  #: (p, d, PANEL) the rows.


@kernel
def decide(
    queries: Floats, lengths: Floats, levels: Floats, leaves: Leaves, most_leaves: int, verdict: NDArray[np.int8]
) -> None:
    """Whether dH <= level is proven (1) or refuted (-1) by part of the sum, for each query; 0: neither.

    All lengths are in bandwidths. Leaves are visited in the order of the distances of their boxes from the query in the
    last components, nearest first.

    queries (m, d), lengths (m,): their norms; levels (m,) nats.
    most_leaves: leaves to look at before giving up, or fewer where they cannot suffice. verdict (m,): the answer.
    """
    boxes, leaf_start, block_leaves, centres, panels = leaves
    d = queries.shape[1]
    n_groups, _, p, fan = boxes.shape
    log_n = math.log(leaf_start[-1])
    first_leaf = n_groups - 1
    filling = n_groups * (fan - 1) + 1 - (leaf_start.shape[0] - 1)
    query = np.empty(d, np.float32)
    point = np.empty(p, np.float32)
    # boxes that wait for their turn
    bounds, names = np.empty(n_groups * fan, np.float32), np.empty(n_groups * fan, np.int64)
    exponents, fractions, powers = np.empty(PANEL, np.float32), np.empty(PANEL, np.float32), np.empty(PANEL, np.int32)
    for i in range(queries.shape[0]):
        verdict[i] = 0
        level = levels[i]
        if level < -log_n - 1e-6:
            verdict[i] = -1
        if not (level >= -log_n - 1e-6 and lengths[i] < 1e15):
            continue
        reach = math.sqrt(2.0 * (level + log_n + BEYOND))
        size = np.float32(0.0)
        for c in range(p):
            point[c] = queries[i, d - p + c]
            size = max(size, abs(point[c]))
        # boxes farther than this, rounding included, hold nothing within reach
        limit = np.float32((reach * (1.0 + 1e-5) + 4e-7 * size + 1e-12 * lengths[i]) ** 2)
        waiting = _add_boxes(point, boxes[0], 0, bounds, names, 0)
        at = -1
        total = most = margin = before = 0.0
        is_complete = True
        seen = 0
        while waiting > 0:
            nearest = 0
            for k in range(1, waiting):
                nearest = k if bounds[k] < bounds[nearest] else nearest
            if bounds[nearest] > limit:
                break
            name = names[nearest]
            waiting -= 1
            bounds[nearest], names[nearest] = bounds[waiting], names[waiting]
            leaf = name - first_leaf
            if leaf < 0:
                first = (name + 1) * fan - filling
                waiting = _add_boxes(point, boxes[name + 1], first, bounds, names, waiting)
                continue
            if seen % WINDOW == 0 and seen > 0:
                # farther leaves add less: at the rate of the last ones the budget may not suffice
                if total + (total - before) * (most_leaves - seen) / WINDOW < 1.0:
                    is_complete = False
                    break
                before = total
            seen += 1
            if leaf // block_leaves != at:
                at = leaf // block_leaves
                norm2 = 0.0
                for c in range(d):
                    difference = queries[i, c] - centres[at, c]
                    norm2 += difference * difference
                    query[c] = difference
                length = math.sqrt(norm2)
                # rows within reach are no longer than length + reach; they and the query are rounded, then the
                # differences, their squares and the sum; rotations are wrong by some 1e-14 of what they rotate
                margin = reach * FLOAT32_UNIT * 1.01 * (2.0 * length + reach + (d + 4) * reach)
                margin += reach * 1e-12 * lengths[i]
                # exponentials in float32, and rows beyond reach
                margin += 2e-5 + 2.0 * FLOAT32_UNIT * abs(level)
            if not length < FARTHEST:
                is_complete = False
                continue
            # panel by panel: the first one often suffices, and then the others need not come from memory
            for start in range(leaf_start[leaf], leaf_start[leaf + 1], PANEL):
                n = min(leaf_start[leaf + 1] - start, PANEL)
                half_squares(query, panels, start // PANEL, 1, exponents)
                added = sum_of_exponentials(exponents[:n], margin - level, powers, fractions)
                total += added
                most += added * math.exp(2.0 * margin)
                if total >= 1.0:
                    verdict[i] = 1
                    break
            if verdict[i] == 1:
                break
        if verdict[i] == 0 and is_complete and most + 2.0 * math.exp(-BEYOND) < 1.0:
            verdict[i] = -1


@kernel
def _add_boxes(point, group, first, bounds, names, waiting):
    """Add the boxes of a group, named from `first` on, to those waiting by distance; return how many wait now."""
    fan = group.shape[2]
    for k in range(fan):
        names[waiting + k] = first + k
        bounds[waiting + k] = np.float32(0.0)
    for c in range(point.shape[0]):
        x = point[c]
        for k in range(fan):
            below = group[0, c, k] - x
            above = x - group[1, c, k]
            outside = below if below > above else above
            outside = outside if outside > np.float32(0.0) else np.float32(0.0)
            bounds[waiting + k] += outside * outside
    return waiting + fan
