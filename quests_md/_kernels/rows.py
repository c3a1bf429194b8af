"""QUESTS descriptor rows from a grid of points, one pass per atom."""

import math

import numpy as np

from .jit import kernel
from .neighbors import candidates

__all__ = ["MIN_DISTANCE", "TIE", "fill_rows"]

#: Å. Atoms nearer than this count as this far apart, so that rows of coincident atoms are huge and finite.
MIN_DISTANCE = 1e-6

#: Å. Distances that differ by no more are a tie: far above rounding at any sensible coordinate, far below physics.
TIE = 1e-8

#: Relative difference of colours that counts: above what distances equal to TIE can make.
SAME_COLOUR = 1e-7


@kernel
def fill_rows(x, y, z, bins, shape, slots, start, stop, k, cutoff, out):
    """Write rows `start:stop` of `out` (n_atoms, 2k-1); `slots` holds the places of the atoms among the points."""
    starts = np.empty(9, np.int64)
    stops = np.empty(9, np.int64)
    capacity = 256
    d2 = np.empty(capacity)
    index = np.empty(capacity, np.int64)
    near_d2 = np.empty(k + 1)
    near = np.empty(k + 1, np.int64)
    px, py, pz = np.empty(k), np.empty(k), np.empty(k)
    root_weight = np.empty(k)
    # columns padded to a multiple of eight doubles; the padding stays zero
    width = (k + 7) // 8 * 8
    table = np.zeros((k, width))
    comparators = _comparators(k)
    cutoff2 = cutoff * cutoff
    home = np.int64(-1)

    for atom in range(start, stop):
        here = slots[atom]
        if bins[here] != home:
            home = bins[here]
            total = candidates(bins, shape, home, starts, stops)
            if total > capacity:
                capacity = 2 * total
                d2 = np.empty(capacity)
                index = np.empty(capacity, np.int64)
        x0, y0, z0 = x[here], y[here], z[here]

        n = 0
        for run in range(9):
            for j in range(starts[run], stops[run]):
                dx, dy, dz = x[j] - x0, y[j] - y0, z[j] - z0
                r2 = dx * dx + dy * dy + dz * dz
                d2[n] = r2
                index[n] = j
                if r2 < cutoff2 and j != here:
                    n += 1

        # the k nearest, ascending, by insertion
        m = 0
        for i in range(n):
            r2 = d2[i]
            if m < k or r2 < near_d2[m - 1]:
                j = m if m < k else k - 1
                while j > 0 and near_d2[j - 1] > r2:
                    near_d2[j] = near_d2[j - 1]
                    near[j] = near[j - 1]
                    j -= 1
                near_d2[j] = r2
                near[j] = index[i]
                if m < k:
                    m += 1
        if n > k:
            edge = math.sqrt(near_d2[k - 1]) + TIE
            within = 0
            for i in range(n):
                if d2[i] <= edge * edge:
                    within += 1
            if within > k:
                _break_ties(x, y, z, d2, index, n, near_d2, near, k)

        out[atom, :] = 0.0
        for j in range(m):
            q = near[j]
            px[j], py[j], pz[j] = x[q], y[q], z[q]
            scaled = near_d2[j] / cutoff2
            root_weight[j] = 1.0 - scaled
            out[atom, j] = (1.0 - scaled) * (1.0 - scaled) / max(math.sqrt(near_d2[j]), MIN_DISTANCE)
        if m < 2:
            continue
        table[:, :] = 0.0
        for j in range(m):
            xj, yj, zj, wj = px[j], py[j], pz[j], root_weight[j]
            for i in range(m):
                dx, dy, dz = px[i] - xj, py[i] - yj, pz[i] - zj
                r2 = max(dx * dx + dy * dy + dz * dz, MIN_DISTANCE * MIN_DISTANCE)
                table[j, i] = wj * root_weight[i] / math.sqrt(r2)
            table[j, j] = 0.0
        _sort_columns(table, comparators)
        for rank in range(min(m, k - 1)):
            total_weight = 0.0
            for i in range(width):
                total_weight += table[rank, i]
            out[atom, k + rank] = total_weight / k


@kernel
def _comparators(n):
    """Pairs of places (high, low) of Batcher's merge exchange for n items (Knuth 5.2.2, Algorithm M)."""
    pairs = np.empty((n * n, 2), np.int64)
    n_pairs = 0
    top = 1
    while top * 2 < n:
        top *= 2
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            for i in range(n - d):
                if (i & p) == r:
                    pairs[n_pairs, 0] = i
                    pairs[n_pairs, 1] = i + d
                    n_pairs += 1
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return pairs[:n_pairs]


@kernel
def _sort_columns(table, comparators):
    """Sort every column, descending.

    The matrix is symmetric, so sorting columns sorts rows, and each comparator works on whole rows at once.
    """
    width = table.shape[1]
    for s in range(comparators.shape[0]):
        high = table[comparators[s, 0]]
        low = table[comparators[s, 1]]
        for c in range(width):
            a, b = high[c], low[c]
            high[c] = a if a > b else b
            low[c] = b if a > b else a


@kernel
def _break_ties(x, y, z, d2, index, n, near_d2, near, k):
    """Choose among candidates tied at the k-th distance by geometry alone.

    The last places are filled one by one with the candidate whose sorted distances to those already taken are
    lexicographically smallest. Among candidates equal by that, which need not be symmetric, the smallest colour wins:
    a number made from the distances to all other points and their colours, refined twice. Needs no direction and no
    atom order; what is still equal is symmetric in all structures that we know.
    """
    last = math.sqrt(near_d2[k - 1])
    taken = 0
    m = 0
    for i in range(n):
        if math.sqrt(d2[i]) <= last + TIE:
            m += 1
    # points: first those nearer than the tie, then the tied ones
    point = np.empty(m, np.int64)
    for i in range(n):
        if math.sqrt(d2[i]) < last - TIE:
            point[taken] = i
            taken += 1
    first_tied = taken
    m = taken
    for i in range(n):
        r = math.sqrt(d2[i])
        if last - TIE <= r <= last + TIE:
            point[m] = i
            m += 1
    distance = np.empty((m, m))
    nearness = np.empty((m, m))
    for a in range(m):
        i = index[point[a]]
        for b in range(m):
            j = index[point[b]]
            distance[a, b] = math.sqrt((x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2 + (z[i] - z[j]) ** 2)
            nearness[a, b] = math.exp(-distance[a, b])
    # sorted distances of every tied candidate to those taken, kept up to date by insertion
    profile = np.empty((m, k))
    is_taken = np.zeros(m, np.bool_)
    is_taken[:taken] = True
    for t in range(first_tied, m):
        for s in range(taken):
            _insert(profile[t], s, distance[t, s])
    colour = np.empty(m)
    refined = np.empty(m)
    while taken < k:
        for a in range(m):
            colour[a] = (2.0 if is_taken[a] else 1.0) * (1.0 + math.sqrt(d2[point[a]]))
        for _ in range(3):
            for a in range(m):
                total = 0.0
                for b in range(m):
                    total += nearness[a, b] * colour[b]
                refined[a] = total * math.sqrt(colour[a])
            scale = refined.max()
            for a in range(m):
                colour[a] = refined[a] / scale
        best = -1
        for t in range(first_tied, m):
            if not is_taken[t] and (best < 0 or _precedes(profile, colour, t, best, taken)):
                best = t
        is_taken[best] = True
        for t in range(first_tied, m):
            if not is_taken[t]:
                _insert(profile[t], taken, distance[t, best])
        taken += 1
    # all taken points in order of distance
    size = 0
    for a in range(m):
        if is_taken[a]:
            r2, q = d2[point[a]], index[point[a]]
            j = size
            while j > 0 and near_d2[j - 1] > r2:
                near_d2[j] = near_d2[j - 1]
                near[j] = near[j - 1]
                j -= 1
            near_d2[j] = r2
            near[j] = q
            size += 1


@kernel
def _precedes(profile, colour, a, b, n):
    """Whether candidate a comes before b: by its sorted distances to those taken, then by colour."""
    for s in range(n):
        difference = profile[a, s] - profile[b, s]
        if difference < -TIE:
            return True
        if difference > TIE:
            return False
    return colour[a] < colour[b] - SAME_COLOUR


@kernel
def _insert(sorted_values, n, value):
    j = n
    while j > 0 and sorted_values[j - 1] > value:
        sorted_values[j] = sorted_values[j - 1]
        j -= 1
    sorted_values[j] = value
