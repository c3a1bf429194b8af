"""Neighbours in many systems at once, on a device of torch: periodic images as points, sorted into bins, as on the CPU.

All atoms of all systems lie one after the other. Systems that the CPU might refuse, or that have crowds of atoms, are
marked: these are for the CPU to look at, and cost nothing here.
"""

import math
from typing import Any, NamedTuple

from .neighbours import MAX_COORDINATE

try:
    import torch
except ImportError:  # said by `devices`, before anything here is used
    torch = None

__all__ = ["Neighbours", "Points", "neighbours_of", "points_of"]

#: Most images of an atom, and most points in the bins around an atom, of systems that are looked at here.
MOST_IMAGES, MOST_CANDIDATES = 4096, 1000

#: Most bins along an axis: the numbers of bins of ten thousand systems stay inside int64.
MOST_BINS = 2**16

#: Rounding unit of float64, and how many of them coordinates of a point may be wrong by, as parts of the largest number
#: that they are made of.
UNIT, ROUNDINGS = 2.0**-53, 32.0


class Points(NamedTuple):
    """Atoms and images of all systems, sorted by bin; n atoms, p points, s systems."""

    xyz: Any  #: (p, 3) Å.
    source: Any  #: (p,) the atom of which each is an image.
    slots: Any  #: (n,) place of each atom itself.
    starts: Any  #: (n, 9) runs of points around each atom: where they begin,
    stops: Any  #: (n, 9) and end.
    system: Any  #: (n,) of each atom.
    is_bad: Any  #: (s,) systems that the CPU is to look at.
    noise: Any  #: (s,) Å, distances are no farther than that from those of the CPU.


class Neighbours(NamedTuple):
    """The nearest points of m atoms, in order of distance."""

    distance2: Any  #: (m, q) Å^2, inf where there are fewer.
    point: Any  #: (m, q) places among the points, 0 where there are fewer.
    count: Any  #: (m,) all neighbours within the cutoff.


def points_of(positions: Any, system: Any, vectors: Any, inverses: Any, cutoff: float) -> Points:
    """Wrap the atoms of all systems, list their images, and sort them into bins.

    `positions` (n, 3) in Å, `system` (n,) ascending; `vectors` (s, 3, 3) and `inverses` (s, 3, 3): see `lattice`.
    """
    device, n, n_systems = positions.device, len(positions), len(vectors)
    is_usable = (positions.abs() <= MAX_COORDINATE).all(dim=1)
    places = torch.where(is_usable[:, None], positions, 0.0)
    is_bad = _any(~is_usable, system, n_systems) | vectors.isnan().any(dim=2).any(dim=1)
    vectors, inverses = vectors.nan_to_num(0.0), inverses.nan_to_num(0.0)
    scale = _largest(places.abs().amax(dim=1), system, n_systems) + vectors.abs().sum(dim=(1, 2))
    fractions = _product(places, inverses[system])
    places = places - _product(fractions.floor(), vectors[system])
    fractions = _product(places, inverses[system])
    low, high = _extent(fractions, system, n_systems)
    reach = cutoff * inverses.norm(dim=1) + 1e-9
    first = torch.ceil((low - reach)[system] - fractions)
    spans = torch.floor((high + reach)[system] - fractions) - first + 1.0
    is_many = spans.prod(dim=1) > MOST_IMAGES
    is_bad |= _any(is_many, system, n_systems)
    first, spans = first.masked_fill(is_many[:, None], 0.0), spans.masked_fill(is_many[:, None], 1.0).long()
    counts = spans.prod(dim=1)
    source, rank = _expanded(counts)
    turns = []
    for axis in range(3):
        span = spans[source, axis]
        turns.append(first[source, axis] + rank % span)
        rank = rank // span
    shifts = torch.stack(turns, dim=1)
    xyz = places[source] + _product(shifts, vectors[system[source]])
    own = (shifts == 0.0).all(dim=1).nonzero()[:, 0]
    of_points = system[source]
    low, high = _extent(xyz, of_points, n_systems)
    scale += _largest(xyz.abs().amax(dim=1), of_points, n_systems)
    edge = (high - low).div(MOST_BINS).clamp(min=cutoff) * (1.0 + 1e-9)
    shape = ((high - low) / edge).long() + 3
    bins = torch.minimum(((xyz - low[of_points]) / edge[of_points]).long() + 1, shape[of_points] - 2)
    sizes = shape.prod(dim=1)
    offsets = sizes.cumsum(0) - sizes
    planes, lines = shape[:, 1] * shape[:, 2], shape[:, 2]
    flat = offsets[of_points] + bins[:, 0] * planes[of_points] + bins[:, 1] * lines[of_points] + bins[:, 2]
    sorted_bins, order = flat.sort(stable=True)
    slots = torch.empty_like(order)
    slots[order] = torch.arange(len(order), device=device)
    slots = slots[own]
    steps = torch.arange(-1, 2, device=device)
    around = steps[:, None] * planes[system][:, None, None] + steps * lines[system][:, None, None]
    runs = (flat[own][:, None] + around.reshape(n, 9) - 1).contiguous()
    starts, stops = torch.searchsorted(sorted_bins, runs), torch.searchsorted(sorted_bins, runs + 3)
    is_bad |= _any((stops - starts).sum(dim=1) > MOST_CANDIDATES, system, n_systems)
    return Points(xyz[order], source[order], slots, starts, stops, system, is_bad, ROUNDINGS * UNIT * scale)


def neighbours_of(points: Points, atoms: Any, most: int, cutoff: float) -> Neighbours:
    """Up to `most` nearest neighbours of the atoms (m,) of systems that are not marked."""
    starts, stops = points.starts[atoms].flatten(), points.stops[atoms].flatten()
    run, rank = _expanded(stops - starts)
    point, atom = starts[run] + rank, run // 9
    slots = points.slots[atoms]
    distance2 = (points.xyz[point] - points.xyz[slots][atom]).square().sum(dim=1)
    is_near = ((distance2 < cutoff * cutoff) & (point != slots[atom])).nonzero()[:, 0]
    point, atom, distance2 = point[is_near], atom[is_near], distance2[is_near]
    count = torch.bincount(atom, minlength=len(atoms))
    place = torch.arange(len(atom), device=atom.device) - (count.cumsum(0) - count)[atom]
    longest = max(int(count.max()) if len(count) else 0, most)
    table = torch.full((len(atoms), longest), math.inf, dtype=torch.float64, device=atom.device)
    table[atom, place] = distance2
    numbers = torch.zeros(table.shape, dtype=torch.int64, device=atom.device)
    numbers[atom, place] = point
    nearest, which = table.topk(most, dim=1, largest=False, sorted=True)
    return Neighbours(nearest, numbers.gather(1, which), count)


def _product(coordinates: Any, matrices: Any) -> Any:
    """Coordinates (n, 3) times a matrix (n, 3, 3) of each."""
    return (coordinates[:, :, None] * matrices).sum(dim=1)


def _expanded(counts: Any) -> tuple[Any, Any]:
    """The number of each item as often as its count says, and the how many-th each of them is."""
    item = torch.repeat_interleave(counts)
    return item, torch.arange(len(item), device=counts.device) - (counts.cumsum(0) - counts)[item]


def _extent(values: Any, system: Any, n_systems: int) -> tuple[Any, Any]:
    """Least and largest (s, 3) of values (n, 3); 0 of a system without any."""
    where = system[:, None].expand_as(values)
    nothing = torch.zeros((n_systems, values.shape[1]), dtype=values.dtype, device=values.device)
    return tuple(nothing.scatter_reduce(0, where, values, how, include_self=False) for how in ("amin", "amax"))


def _largest(values: Any, system: Any, n_systems: int) -> Any:
    """Largest (s,) of values (n,) of 0 and more."""
    return torch.zeros(n_systems, dtype=values.dtype, device=values.device).scatter_reduce(0, system, values, "amax")


def _any(marked: Any, system: Any, n_systems: int) -> Any:
    """(s,) whether an atom (n,) of the system is marked."""
    return _largest(marked.to(torch.int64), system, n_systems) > 0
