"""How the rows of one element are laid out: principal axes, a k-d tree of boxes and leaves, blocks in float32."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from quests_md._kernels.jit import Floats, Floats32, Integers
from quests_md._kernels.leaves import Leaves
from quests_md._kernels.tiles import PANEL

from .products import product

__all__ = ["BLOCK_ROWS", "LEAF_ROWS", "SPLIT", "Axes", "Block", "Layout", "lay_out", "principal_axes"]

#: Most rows of a leaf, and of a block: what a product of matrices and the caches like.
LEAF_ROWS, BLOCK_ROWS = 64, 2048

#: All leaves and blocks but the last hold multiples of so many rows. PANEL divides it, so that no panel is shared.
SPLIT = 32

#: Principal components that the tree and its boxes are made of: those along which rows vary most.
COMPONENTS = 8

#: Boxes that a box holds, and most boxes by whose middles queries are sorted.
BOX_FAN, MOST_MIDDLES = 16, 256

#: Principal axes are taken from about so many rows, without outliers: rows more than ten times as far from the median
#: as nine rows out of ten are.
AXES_ROWS, AXES_OUTLIER = 8192, 10.0

#: Rows that are rotated together.
ROTATED_ROWS = 2048

#: Bandwidths. Of a block with a larger radius float32 is not tried: squares of distances would leave its range.
MOST_RADIUS = 1e15


class Axes(NamedTuple):
    """Coordinates of rows along their principal axes, in bandwidths."""

    mean: Floats  #: (width,) origin, 1/Å.
    directions: Floats  #: (width, width) one axis per column, from least to most variance along it.
    bandwidth: float  #: 1/Å.

    def rotate(self, rows: Floats) -> Floats:
        """Coordinates of rows (n, width) in 1/Å."""
        return product((rows - self.mean) / self.bandwidth, self.directions)


class Block(NamedTuple):
    """A run of leaves, its rows in float32, in bandwidths around a centre of their own."""

    rows: Integers  #: (n,) numbers of the rows.
    places: slice  #: Places of its rows in the panels of all blocks; some of its last panel may be left over.
    panels: Floats32  #: (p, width, PANEL) coordinates along the principal axes; 0 in places left over.
    norms: Floats32  #: (p PANEL,) -|x|^2 / 2 of each row; -inf in places left over.
    centre: Floats  #: (width,) 1/Å, along the axes of the rows themselves.
    rotated: Floats  #: (width,) the centre along the principal axes; NaN: too large for float32.
    radius: float  #: Largest distance from the centre.


class Layout(NamedTuple):
    """A k-d tree over the last coordinates of rows: its 2^k leaves are runs of rows, its blocks are runs of leaves."""

    order: Integers  #: (n,) the rows, leaf by leaf.
    middles: Floats32  #: (boxes, p) middles of the boxes of one level of the tree.
    leaves: Leaves  #: Boxes and panels, for proofs.
    blocks: list[Block]
    low: Floats  #: (blocks, width) least coordinates of the rows of each block.
    high: Floats  #: (blocks, width) largest coordinates.


def principal_axes(rows: Floats, bandwidth: float) -> Axes:
    """Mean and principal axes of rows (n, width)."""
    some = rows[:: max(1, len(rows) // AXES_ROWS)].astype(np.float64, copy=False)
    centre = np.median(some, axis=0)
    distance2 = np.einsum("ij,ij->i", some - centre, some - centre)
    some = some[distance2 <= AXES_OUTLIER**2 * np.quantile(distance2, 0.9)]
    mean = some.mean(axis=0) if len(some) else centre
    centred = some - mean
    covariance = centred.T @ centred
    if not np.isfinite(covariance).all():  # rows too large for their squares
        return Axes(centre, np.eye(rows.shape[1]), bandwidth)
    return Axes(mean, np.linalg.eigh(covariance)[1], bandwidth)


def lay_out(rows: Floats, axes: Axes) -> Layout:
    """Leaves and blocks of rows (n, width)."""
    n, width = rows.shape
    main = np.empty((n, min(COMPONENTS, width)), np.float32)
    for start in range(0, n, ROTATED_ROWS):
        piece = slice(start, start + ROTATED_ROWS)
        main[piece] = axes.rotate(rows[piece])[:, -main.shape[1] :]
    order, leaf_start, block_leaves = _split(main)
    boxes, middles = _boxes(main[order], leaf_start)
    block_start = leaf_start[::block_leaves].tolist()
    n_blocks, n_panels = len(block_start) - 1, -(-n // PANEL)
    panels, norms = np.empty((n_panels, width, PANEL), np.float32), np.full(n_panels * PANEL, -np.inf, np.float32)
    rotated_centres, low, high = (np.empty((n_blocks, width)) for _ in range(3))
    blocks = []
    for b, (start, stop) in enumerate(pairwise(block_start)):
        numbers = order[start:stop]
        block = rows[numbers].astype(np.float64, copy=False)
        # the median: a few rows far away leave it where the others are
        centre = np.median(block, axis=0)
        rotated = product((block - centre) / axes.bandwidth, axes.directions)
        its_centre = axes.rotate(centre[None])[0]
        low[b], high[b] = rotated.min(axis=0) + its_centre, rotated.max(axis=0) + its_centre
        its_panels = slice(start // PANEL, -(-stop // PANEL))
        places = slice(start, its_panels.stop * PANEL)
        padded = np.zeros((places.stop - start, width), np.float32)
        padded[: len(block)] = rotated
        panels[its_panels] = padded.reshape(-1, PANEL, width).transpose(0, 2, 1)
        rounded = padded[: len(block)].astype(np.float64)
        norm2 = np.einsum("ij,ij->i", rounded, rounded)
        norms[start:stop] = -0.5 * norm2
        radius = math.sqrt(float(norm2.max()))
        rotated_centres[b] = its_centre if radius < MOST_RADIUS else math.nan
        blocks.append(Block(numbers, places, panels[its_panels], norms[places], centre, rotated_centres[b], radius))
    return Layout(order, middles, Leaves(boxes, leaf_start, block_leaves, rotated_centres, panels), blocks, low, high)


def _split(main: Floats32) -> tuple[Integers, Integers, int]:
    """Order of rows, leaf by leaf, where each leaf begins in it, and leaves of a block, from main components (n, p).

    Nodes are halved along their widest component, evenly but for a remainder of SPLIT.
    """
    n = len(main)
    order = np.arange(n)
    nodes = [(0, n)]
    block_level = max(0, math.ceil(math.log2(n / BLOCK_ROWS)))
    leaf_level = max(block_level, math.ceil(math.log2(n / LEAF_ROWS)))
    for _ in range(leaf_level):
        halves = []
        for start, stop in nodes:
            middle = start + (stop - start + SPLIT - 1) // SPLIT // 2 * SPLIT
            here = main[order[start:stop]]
            widest = int((here.max(axis=0) - here.min(axis=0)).argmax())
            order[start:stop] = order[start:stop][np.argpartition(here[:, widest], middle - start)]
            halves += [(start, middle), (middle, stop)]
        nodes = halves
    leaf_start = np.array([start for start, _ in nodes] + [n], dtype=np.int64)
    return order, leaf_start, 2 ** (leaf_level - block_level)


def _boxes(main: Floats32, leaf_start: Integers) -> tuple[Floats32, Floats32]:
    """Boxes and middles of a tree over the ordered components `main` (n, p).

    Not every level of the tree has boxes: each box holds BOX_FAN of the next, which a processor measures at once.
    """
    levels = [np.stack([np.minimum.reduceat(main, leaf_start[:-1]), np.maximum.reduceat(main, leaf_start[:-1])])]
    while levels[0].shape[1] > BOX_FAN:
        groups = levels[0].reshape(2, -1, BOX_FAN, main.shape[1])
        levels.insert(0, np.stack([groups[0].min(axis=1), groups[1].max(axis=1)]))
    sorting = [level for level in levels if level.shape[1] <= MOST_MIDDLES][-1]
    missing = BOX_FAN - levels[0].shape[1]
    levels[0] = np.pad(levels[0], ((0, 0), (0, missing), (0, 0)), constant_values=np.inf)
    boxes = np.concatenate([level.reshape(2, -1, BOX_FAN, main.shape[1]) for level in levels], axis=1)
    return np.ascontiguousarray(boxes.transpose(1, 0, 3, 2)), 0.5 * sorting.sum(axis=0)
