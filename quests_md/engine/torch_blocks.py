"""Rows on a device of torch, in blocks, and products of queries with them, with bounds of their errors."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quests_md._kernels.jit import Floats, Integers
from quests_md._kernels.sums import NO_GROUP

from .cpu import ROTATION_ERROR
from .tree import Axes, Layout

try:
    import torch
except ImportError:  # said by `devices`, before anything here is used
    torch = None

__all__ = ["PROBE", "UNIT32", "UNIT64", "Asked", "DeviceBlocks", "known", "needed", "reach_of", "worst_error", "zeros"]

#: Rounding units of float32 and float64.
UNIT32, UNIT64 = 2.0**-24, 2.0**-53

#: Queries of a tile.
TILE_QUERIES = 64

#: Numbers that are made at once, in all tiles together: what keeps a device busy, and what a CPU has caches for.
TOGETHER, TOGETHER_CPU = 2**26, 2**18

#: Differences between coordinates of queries and boxes that are taken at once.
MOST_DIFFERENCES = 2**24

#: Places of a block are multiples of so many: what products of matrices like.
PLACES = 64

#: The number in the extra column and row: its product with itself is another one where either was rounded.
PROBE = 1.0 + 2.0**-12 + 2.0**-23

#: What rounding does to a product at most, as a multiple of unit |y||x|: see `dense`.
TYPICAL = 8.0


class Asked(NamedTuple):
    """A piece of queries on the device; arrays have one place more, of nobody, which fills up tiles."""

    points: Any  #: (m + 1, width) float64, along the principal axes, in bandwidths.
    blur: Any  #: (m + 1,) what rotation made of rounding.
    bounds: Any  #: (m, b) float32, at most half the squared distance of a row of the block.
    own: Any  #: (m + 1,) group of each; None: no groups.
    groups: Any  #: (b, places) group of each row; None: no groups.


class DeviceBlocks:
    """The rows on a device, in blocks of equally many places, in bandwidths along the principal axes."""

    def __init__(self, layout: Layout, axes: Axes, device: str) -> None:
        self.device = device
        self.axes = axes
        longest = max(len(block.rows) for block in layout.blocks)
        places = -(-(longest + 1) // PLACES) * PLACES
        n_blocks, width = layout.low.shape
        self.numbers = np.full((n_blocks, places), -1)
        """(b, places) numbers of the rows; -1: left over."""
        panels = torch.zeros((n_blocks, width + 1, places), dtype=torch.float32, device=device)
        norms = np.full((n_blocks, places), -np.inf)
        radii = np.empty(n_blocks)
        for b, block in enumerate(layout.blocks):
            n = len(block.rows)
            here = block.panels.transpose(1, 0, 2).reshape(width, -1)[:, :n]
            panels[b, :width, :n] = self.sent(here)
            norms[b, :n] = -0.5 * np.einsum("ij,ij->j", here, here, dtype=np.float64)
            self.numbers[b, :n], radii[b] = block.rows, block.radius
        panels[:, width, -1] = PROBE
        centres = np.stack([block.rotated for block in layout.blocks])
        with np.errstate(over="ignore"):
            low = np.nextafter(layout.low.astype(np.float32), np.float32(-np.inf))
            high = np.nextafter(layout.high.astype(np.float32), np.float32(np.inf))
        self.centres = self.sent(centres)
        """(b, width) float64; NaN: too large for float32."""
        self.radii = self.sent(radii)
        """(b,) float64, largest distance of a row from its centre."""
        self.panels = panels
        """(b, width + 1, places) float32, relative to the centres; the last row and place are the probe."""
        self.norms = self.sent(norms)
        """(b, places) float64, -|x|^2 / 2; -inf in places left over."""
        self.boxes = self.sent(low.T), self.sent(high.T)
        """(width, b) float32 each, least and largest coordinates of the rows."""

    @property
    def terms(self) -> float:
        """Numbers that are added in a product, and roundings of what is added to it."""
        return float(self.centres.shape[1] + 4)

    def sent(self, array: NDArray[Any]) -> Any:
        """An array as a tensor on the device."""
        return torch.from_numpy(np.array(array)).to(self.device)  # a copy: torch warns of arrays that are read-only

    def ask(self, queries: Floats, own: Integers | None = None, groups: Any = None) -> Asked:
        """Send a piece of queries to the device."""
        axes = self.axes
        with np.errstate(all="ignore"):
            centred = self.sent((queries - axes.mean) / axes.bandwidth)
        points = torch.zeros((len(queries) + 1, queries.shape[1]), dtype=torch.float64, device=self.device)
        points[:-1] = centred @ self.sent(axes.directions)
        lengths = points.square().sum(1).sqrt()
        narrow = points[:-1].to(torch.float32)
        distance2 = torch.zeros((len(queries), len(self.radii)), dtype=torch.float32, device=self.device)
        columns = max(1, MOST_DIFFERENCES // max(distance2.numel(), 1))
        for parts in zip(narrow.T.split(columns), *(box.split(columns) for box in self.boxes), strict=True):
            here, low, high = parts[0][:, :, None], parts[1][:, None, :], parts[2][:, None, :]
            distance2 += torch.maximum(low - here, here - high).clamp_(min=0.0).square_().sum(dim=0)
        # rounding of coordinates, 3 units at most, and of the sum
        part = 1.0 - (queries.shape[1] + 8) * UNIT32
        slack = (8 * UNIT32 * lengths[:-1, None]).to(torch.float32)
        bounds = distance2.sqrt_().mul_(part).sub_(slack).clamp_(min=0.0).square_().mul_(0.5 * part)
        own_there = None
        if own is not None:
            own = np.append(np.where(own == NO_GROUP, np.iinfo(np.int64).min, own), np.iinfo(np.int64).min)
            own_there = self.sent(own)
        return Asked(points, ROTATION_ERROR * lengths, bounds, own_there, groups)

    def tiles(self, blocks: Any, queries: Any, nobody: int) -> Iterator[tuple[Any, Any]]:
        """Pairs of a block (k,) and a query (k,) in tiles: members (t, q) and block (t,) of each tile, some at once.

        Places left over are filled with `nobody`.
        """
        if not len(blocks):
            return
        blocks, order = blocks.sort(stable=True)
        block, counts = blocks.unique_consecutive(return_counts=True)
        n = min(TILE_QUERIES, int(counts.max()))
        n_tiles = (counts + n - 1) // n
        rank = torch.arange(len(blocks), device=self.device)
        rank -= (counts.cumsum(0) - counts).repeat_interleave(counts)
        tile = (n_tiles.cumsum(0) - n_tiles).repeat_interleave(counts) + rank // n
        members = torch.full((int(n_tiles.sum()), n), nobody, dtype=torch.int64, device=self.device)
        members[tile, rank % n] = queries[order]
        of_tiles = block.repeat_interleave(n_tiles)
        width, places = self.panels.shape[1:]
        most = TOGETHER_CPU if members.device.type == "cpu" else TOGETHER
        at_once = max(1, most // ((n + width) * places))
        for start in range(0, len(members), at_once):
            yield members[start : start + at_once], of_tiles[start : start + at_once]

    def exponents(self, asked: Asked, members: Any, block: Any, *, is_single: bool) -> tuple[Any, Any, Any, Any]:
        """Exponents (t, q, places) but for a base (t, q), distances (t, q) from the centres, and the probe (t, q)."""
        kind = torch.float32 if is_single else torch.float64
        points = asked.points[members] - self.centres[block][:, None, :]
        queries = torch.full((*members.shape, points.shape[2] + 1), PROBE, dtype=kind, device=self.device)
        queries[:, :, :-1] = points
        norms = queries[:, :, :-1].double().square().sum(dim=2)
        products = torch.bmm(queries, self.panels[block].to(kind))
        probe = products[:, :, -1].clone()
        products.add_(self.norms[block][:, None, :].to(kind))
        if asked.groups is not None:
            products.masked_fill_(asked.own[members][:, :, None] == asked.groups[block][:, None, :], -math.inf)
        return products, -0.5 * norms, norms.sqrt(), probe

    def errors(
        self, asked: Asked, members: Any, block: Any, lengths: Any, reach: Any, carried: Any, unit: float
    ) -> tuple[Any, Any]:
        """Bounds (t, q) of the errors of exponents, and what they usually are at most, see `dense`."""
        radius, near = self.radii[block][:, None], carried[members]
        worst = worst_error(lengths, radius, reach[members], asked.blur[members], self.terms, unit)
        far = torch.minimum(radius, lengths + near)
        usual = unit * (TYPICAL * (lengths * far + 0.5 * far * far) + lengths * near) + UNIT32 * far * near
        return worst, torch.minimum(worst, usual)


def zeros(n: int, device: str) -> Any:
    """Float64 zeros (n,)."""
    return torch.zeros(n, dtype=torch.float64, device=device)


def known(errors: Any) -> Any:
    """Errors, inf where they are not known."""
    return errors.nan_to_num(math.inf, math.inf)


def reach_of(half_squares: Any) -> Any:
    """Distances; 0 where the half square is below 0."""
    return (2.0 * half_squares.clamp(min=0.0)).sqrt()


def needed(asked: Asked, cut: Any) -> tuple[Any, Any]:
    """Pairs of a block (k,) and a query (k,) that may have rows within the cut (m,); cut of -inf: none is asked."""
    is_needed = ~(cut < asked.bounds.T) & (cut > -math.inf)
    blocks, queries = is_needed.nonzero(as_tuple=True)
    return blocks, queries


def worst_error(lengths: Any, radius: Any, reach: Any, blur: Any, terms: float, unit: float) -> Any:
    """Bound of the error of the exponents of queries and of rows at most `reach` from them, or much farther away.

    As `worst_error` in `dense`: rows that are no more than `reach` away have |x| <= |y| + reach; where |x| > 2 |y|, an
    error of some unit |x|^2 leaves a large exponent large. A product of n numbers is wrong by n unit |y||x|, the sum of
    it and of the norm by unit (|y||x| + |x|^2 / 2), the norm by half a unit of it; coordinates of rows by a unit of
    float32, those of queries by a unit of the product, and blur.
    """
    far = torch.minimum(radius, lengths + torch.maximum(reach, lengths))
    shift = unit * lengths + UNIT32 * far + blur
    norms = UNIT64 * terms * (lengths * lengths + far * far)
    return 1.01 * (unit * (terms * lengths * far + far * far) + shift * (reach + shift) + norms)
