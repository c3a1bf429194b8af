"""Plain and averaged rows of many systems at once, on a device of torch, and how far they may be from the CPU's."""

import math
from typing import Any, NamedTuple

from quests_md._kernels.rows import MIN_DISTANCE, TIE

from .torch_points import UNIT, Neighbours, Points, neighbours_of, points_of

try:
    import torch
except ImportError:  # said by `devices`, before anything here is used
    torch = None

__all__ = ["RowsOnDevice", "rows_on_device"]

#: Atoms whose neighbours and tables are made at once: what keeps a device busy, and what a CPU has caches for.
TOGETHER, TOGETHER_CPU = 16_384, 256

#: Places for neighbours that are tied at the last one over which rows are averaged.
TIED = 12

#: Å: frames with nearer atoms are for the CPU, since cubes of 1 Å may hold crowds. Limits must be kept by so much more.
ROOM, LIMIT_SLACK = 0.51, 1e-9


class RowsOnDevice(NamedTuple):
    """Rows of the n atoms of s systems."""

    plain: Any  #: (n, width) 1/Å.
    averaged: Any  #: (n, width) 1/Å.
    is_open: Any  #: (n,) whether a tie, which the CPU breaks, decides the plain row, or on which side of a limit it is.
    is_open_averaged: Any  #: (n,) the same of the averaged row.
    noise: Any  #: (s,) 1/Å: other rows are no farther than that from those of the CPU.
    is_bad: Any  #: (s,) systems that the CPU is to look at: they have no rows here.
    is_roomy: Any  #: (s,) systems in which surely no two atoms are too near.
    system: Any  #: (n,) of each atom.


def rows_on_device(
    positions: Any,
    system: Any,
    vectors: Any,
    inverses: Any,
    *,
    k: int,
    cutoff: float,
    n_average: int,
    species: Any,
    limits: Any,
) -> RowsOnDevice:
    """Rows of all atoms, (n, 2k - 1), and averages of them over `n_average` neighbours; see `points_of`.

    `limits` (e, e): Å, below which atoms of the kinds `species` (n,) are too near to each other.
    """
    points = points_of(positions, system, vectors, inverses, cutoff)
    n, device, width = len(positions), positions.device, 2 * k - 1
    plain = torch.zeros((n, width), dtype=torch.float64, device=device)
    averaged = torch.zeros_like(plain)
    is_open = torch.zeros(n, dtype=torch.bool, device=device)
    is_open_averaged, is_close = torch.zeros_like(is_open), torch.zeros_like(is_open)
    limits = limits.clamp(min=ROOM) * (1.0 + LIMIT_SLACK)
    nearest = torch.full((n,), cutoff, dtype=torch.float64, device=device)
    atoms = (~points.is_bad[system]).nonzero()[:, 0]
    pieces = atoms.split(TOGETHER_CPU if device.type == "cpu" else TOGETHER) if len(atoms) else ()
    slack = 2.0 * points.noise[system] + 4.0 * UNIT * cutoff
    averages = []
    for piece in pieces:
        near = neighbours_of(points, piece, max(k, n_average + TIED) + 1, cutoff)
        distance = near.distance2.sqrt()
        plain[piece] = _rows(points, near, k, cutoff)
        is_open[piece] = (distance[:, k] - distance[:, k - 1] <= TIE + slack[piece]) & (distance[:, k] < math.inf)
        nearest[piece] = distance[:, 0].clamp(max=cutoff)
        allowed = limits[species[piece][:, None], species[points.source[near.point]]]
        is_close[piece] = (distance < allowed).any(dim=1) | (distance[:, -1] <= limits.max())
        averages.append(_average(points, near, distance, n_average, cutoff, slack[piece]))
    for piece, (source, weight, number, is_unsure) in zip(pieces, averages, strict=True):
        sums = plain[piece] + torch.einsum("mq,mqw->mw", weight, plain[source])
        averaged[piece] = sums / (1.0 + number)[:, None]
        is_open_averaged[piece] = is_unsure | is_open[piece] | (is_open[source] & (weight > 0.0)).any(dim=1)
    shortest = torch.full_like(points.noise, cutoff).scatter_reduce(0, system, nearest, "amin").clamp(min=MIN_DISTANCE)
    # what a distance adds to w(r)/r and to sqrt(w w')/r' at most, and rounding of sums of these
    steepness = shortest**-2 + 4.0 / (cutoff * shortest) + 4.0 / cutoff**2
    noise = math.sqrt(width) * (2.0 * points.noise * steepness + (k + 32) * UNIT / shortest)
    n_close = torch.zeros_like(noise).index_add(0, system, is_close.double())
    is_roomy = (n_close == 0.0) & bool(limits.max() < cutoff)
    return RowsOnDevice(plain, averaged, is_open, is_open_averaged, noise, points.is_bad, is_roomy, system)


def _rows(points: Points, near: Neighbours, k: int, cutoff: float) -> Any:
    """Rows (m, 2k - 1), see `Descriptor`."""
    distance2, point = near.distance2[:, :k], near.point[:, :k]
    is_there = distance2 < math.inf
    root_weight = torch.where(is_there, 1.0 - distance2 / cutoff**2, 0.0)
    first = torch.where(is_there, root_weight.square() / distance2.sqrt().clamp(min=MIN_DISTANCE), 0.0)
    xyz = points.xyz[point]
    apart = torch.cdist(xyz, xyz, compute_mode="donot_use_mm_for_euclid_dist").clamp_(min=MIN_DISTANCE)
    table = (root_weight[:, :, None] * root_weight[:, None, :]).div_(apart)
    table.diagonal(dim1=1, dim2=2).zero_()
    second = table.sort(dim=1, descending=True).values.sum(dim=2) / k
    return torch.cat([first, second[:, : k - 1]], dim=1)


def _average(
    points: Points, near: Neighbours, distance: Any, n: int, cutoff: float, slack: Any
) -> tuple[Any, Any, Any, Any]:
    """Atoms over which rows are averaged and their weights (m, q), how many they count for, and what is unsure (m,).

    See `average_rows`: atoms tied at the n-th distance share the places that are left, those at the cutoff are beyond.
    """
    limit = cutoff - TIE
    is_inside, slack = distance < limit, slack[:, None]
    number = is_inside.sum(dim=1).clamp(max=n)
    last = torch.where(number == n, distance[:, n - 1], math.inf)[:, None]
    is_nearer = is_inside & (distance < last - TIE)
    is_tied = is_inside & ~is_nearer & (distance <= last + TIE)
    left = (number - is_nearer.sum(dim=1)).double()[:, None]
    weight = torch.where(is_tied, left / is_tied.sum(dim=1, keepdim=True), is_nearer.double())
    at_edge = ((distance - last).abs() - TIE).abs() <= slack
    at_limit = ((distance - limit).abs() <= slack) & (last + 2.0 * TIE >= limit)
    is_unsure = (at_edge | at_limit).any(dim=1) | is_tied[:, -1]
    used = max(int((weight > 0.0).sum(dim=1).max()), 1)
    return points.source[near.point[:, :used]], weight[:, :used], number, is_unsure
