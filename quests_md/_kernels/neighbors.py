"""Neighbours of every atom: periodic images as explicit points, sorted into bins that exist only where atoms are."""

import numpy as np

from .jit import Floats, Integers, kernel

__all__ = ["bin_points", "candidates", "extent", "label_components", "link_pairs", "list_images", "nearest_of_species"]

#: Most bins along an axis: three axes stay far inside int64 and the edge only grows, which is always right.
MAX_BINS = 1_000_000


@kernel
def list_images(positions, vectors, first, last, points, source):
    """Write the atoms, then their images `first[i] .. last[i]` (counts of each periodic vector), as points."""
    n_atoms = positions.shape[0]
    n_periodic = vectors.shape[0]
    for i in range(n_atoms):
        for c in range(3):
            points[i, c] = positions[i, c]
        source[i] = i
    m = n_atoms
    shift = np.zeros(3, np.int64)
    for i in range(n_atoms):
        shift[:] = 0
        for axis in range(n_periodic):
            shift[axis] = first[i, axis]
        while True:
            if shift[0] != 0 or shift[1] != 0 or shift[2] != 0:
                for c in range(3):
                    x = positions[i, c]
                    for axis in range(n_periodic):
                        x += shift[axis] * vectors[axis, c]
                    points[m, c] = x
                source[m] = i
                m += 1
            axis = 0
            while axis < n_periodic:
                shift[axis] += 1
                if shift[axis] <= last[i, axis]:
                    break
                shift[axis] = first[i, axis]
                axis += 1
            if axis == n_periodic:
                break
    return m


def bin_points(
    points: Floats, source: Integers, n_atoms: int, cutoff: float
) -> tuple[Floats, Floats, Floats, Integers, Integers, Integers, Integers]:
    """Sort points into bins of at least the cutoff; only occupied bins take memory.

    Returns the sorted x, y and z, the sorted bin of each point, the bins per axis (3,), the atom behind each sorted
    point, and the place of each atom (the first `n_atoms` points) among the sorted points.
    """
    low, high = extent(points)
    # a hair more than the cutoff, so that rounding in the division never puts a neighbour two bins away
    edge = np.maximum(cutoff * (1 + 1e-9), (high - low) / MAX_BINS * (1 + 1e-9))
    shape = ((high - low) / edge).astype(np.int64) + 3  # an empty layer all around
    n = len(points)
    index, order = np.empty(n, np.int64), np.empty(n, np.int64)
    find_bins(points, low, edge, shape, index)
    if shape[0] * shape[1] * shape[2] <= 8 * n + 4096:
        count_into_order(index, np.zeros(shape[0] * shape[1] * shape[2] + 1, np.int64), order)
    else:
        order = np.argsort(index, kind="stable")
    x, y, z, bins = np.empty(n), np.empty(n), np.empty(n), np.empty(n, np.int64)
    behind, slot = np.empty(n, np.int64), np.empty(n_atoms, np.int64)
    put_in_order(points, source, index, order, x, y, z, bins, behind, slot)
    return x, y, z, bins, shape, behind, slot


@kernel
def extent(points):
    """Smallest and largest coordinates of points (n, d), n > 0: numpy takes ten times as long over short axes."""
    low, high = points[0].copy(), points[0].copy()
    for i in range(1, points.shape[0]):
        for c in range(points.shape[1]):
            x = points[i, c]
            low[c] = x if x < low[c] else low[c]
            high[c] = x if x > high[c] else high[c]
    return low, high


@kernel
def find_bins(points, low, edge, shape, index):
    """Number of the bin of each point (n, 3)."""
    for i in range(points.shape[0]):
        flat = 0
        for c in range(3):
            place = np.int64((points[i, c] - low[c]) / edge[c]) + 1
            flat = flat * shape[c] + min(place, shape[c] - 2)
        index[i] = flat


@kernel
def count_into_order(index, starts, order):
    """Stable order of the points by bin; `starts` (n_bins + 1,) zeros to work in."""
    for i in range(index.shape[0]):
        starts[index[i] + 1] += 1
    for b in range(1, starts.shape[0]):
        starts[b] += starts[b - 1]
    for i in range(index.shape[0]):
        order[starts[index[i]]] = i
        starts[index[i]] += 1


@kernel
def put_in_order(points, source, index, order, x, y, z, bins, behind, slot):
    """Coordinates, bins and atoms of the points in their order, and the place of each atom in it."""
    for m in range(order.shape[0]):
        i = order[m]
        x[m], y[m], z[m] = points[i, 0], points[i, 1], points[i, 2]
        bins[m] = index[i]
        behind[m] = source[i]
        if i < slot.shape[0]:
            slot[i] = m


@kernel
def candidates(bins, shape, home, starts, stops):
    """Find the nine runs of sorted points in the 27 bins around bin `home`; return the number of points in them."""
    n_points = bins.shape[0]
    total = 0
    run = 0
    for dx in range(-1, 2):
        for dy in range(-1, 2):
            low = home + (dx * shape[1] + dy) * shape[2] - 1
            a, b = 0, n_points
            while a < b:
                mid = (a + b) >> 1
                if bins[mid] < low:
                    a = mid + 1
                else:
                    b = mid
            starts[run] = a
            while a < n_points and bins[a] <= low + 2:
                a += 1
            stops[run] = a
            total += a - starts[run]
            run += 1
    return total


@kernel
def nearest_of_species(x, y, z, bins, shape, slots, species, cutoff, out):
    """Distance from each atom to the nearest other point of each species within the cutoff; `out` comes full of inf."""
    starts = np.empty(9, np.int64)
    stops = np.empty(9, np.int64)
    for atom in range(slots.shape[0]):
        here = slots[atom]
        candidates(bins, shape, bins[here], starts, stops)
        for run in range(9):
            for j in range(starts[run], stops[run]):
                if j != here:
                    dx, dy, dz = x[j] - x[here], y[j] - y[here], z[j] - z[here]
                    r = np.sqrt(dx * dx + dy * dy + dz * dz)
                    if r < cutoff and r < out[atom, species[j]]:
                        out[atom, species[j]] = r


@kernel
def link_pairs(x, y, z, bins, shape, slots, source, species, links, pairs):
    """Write the pairs of atoms i < j nearer than links[species i, species j]; return how many there are."""
    starts = np.empty(9, np.int64)
    stops = np.empty(9, np.int64)
    n = 0
    for atom in range(slots.shape[0]):
        here = slots[atom]
        candidates(bins, shape, bins[here], starts, stops)
        for run in range(9):
            for j in range(starts[run], stops[run]):
                other = source[j]
                if other > atom:
                    dx, dy, dz = x[j] - x[here], y[j] - y[here], z[j] - z[here]
                    link = links[species[atom], species[other]]
                    if dx * dx + dy * dy + dz * dz < link * link:
                        if n < pairs.shape[0]:
                            pairs[n, 0] = atom
                            pairs[n, 1] = other
                        n += 1
    return n


@kernel
def label_components(pairs, labels):
    """Write to each entry of labels (n,) the smallest number that pairs (m, 2) connect it with.

    Each entry points to one of its component that is no larger, in the end to the smallest; paths are halved on the way
    (R. E. Tarjan and J. van Leeuwen, J. ACM 31, 245 (1984), doi:10.1145/62.2160).
    """
    for i in range(labels.shape[0]):
        labels[i] = i
    for k in range(pairs.shape[0]):
        a, b = pairs[k, 0], pairs[k, 1]
        while labels[a] != a:
            labels[a] = labels[labels[a]]
            a = labels[a]
        while labels[b] != b:
            labels[b] = labels[labels[b]]
            b = labels[b]
        labels[max(a, b)] = min(a, b)
    for i in range(labels.shape[0]):
        labels[i] = labels[labels[i]]
