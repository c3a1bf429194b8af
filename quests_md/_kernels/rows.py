"""Descriptor rows from a grid of points, one pass per atom, for one or several kinds of neighbours."""

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

#: Steps between the colours of species: a number that is in no simple ratio to others.
SPECIES_COLOUR = 0.7548776662466927


@kernel
def fill_rows(x, y, z, bins, shape, species, n_species, centers, homes, places, start, stop, k, cutoff, out):
    """Write rows `start:stop` of `out` (n_centers, width), around the positions `centers` (n_centers, 3).

    `species` (n_points,) says for each point which of `n_species` kinds of neighbour it is, `homes` the bin of each
    center, `places` its place among the points or -1. The columns: 2k-1 for each kind, then k for each pair of kinds.
    """
    starts = np.empty(9, np.int64)
    stops = np.empty(9, np.int64)
    capacity = 256
    all_d2, d2 = np.empty(capacity), np.empty(capacity)
    all_index, index = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    first = np.zeros(n_species + 1, np.int64)
    counts = np.empty(n_species, np.int64)
    near_d2 = np.empty((n_species, k + 1))
    near = np.empty((n_species, k + 1), np.int64)
    px, py, pz = np.empty((n_species, k)), np.empty((n_species, k)), np.empty((n_species, k))
    root_weight = np.empty((n_species, k))
    # columns padded to a multiple of eight doubles
    table = np.empty((k, (k + 7) // 8 * 8))
    comparators, ends = _networks(k)
    cutoff2 = cutoff * cutoff
    home = np.int64(-1)

    for atom in range(start, stop):
        here = places[atom]
        if homes[atom] != home:
            home = homes[atom]
            total = candidates(bins, shape, home, starts, stops)
            if total > capacity:
                capacity = 2 * total
                all_d2, d2 = np.empty(capacity), np.empty(capacity)
                all_index, index = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
        x0, y0, z0 = centers[atom, 0], centers[atom, 1], centers[atom, 2]

        n = 0
        for run in range(9):
            for j in range(starts[run], stops[run]):
                dx, dy, dz = x[j] - x0, y[j] - y0, z[j] - z0
                r2 = dx * dx + dy * dy + dz * dz
                all_d2[n] = r2
                all_index[n] = j
                if r2 < cutoff2 and j != here:
                    n += 1
        first[n_species] = n
        if n_species == 1:
            d2, all_d2 = all_d2, d2
            index, all_index = all_index, index
        else:
            _sort_by_species(all_d2, all_index, n, species, first, d2, index)

        for s in range(n_species):
            counts[s] = _nearest(d2, index, first[s], first[s + 1], near_d2[s], near[s], k)
        for s in range(n_species):
            if first[s + 1] - first[s] > k:
                edge = math.sqrt(near_d2[s, k - 1]) + TIE
                within = 0
                for i in range(first[s], first[s + 1]):
                    if d2[i] <= edge * edge:
                        within += 1
                # k neighbours at one point, atoms piled on each other: no choice makes a difference
                if within > k and near_d2[s, k - 1] > MIN_DISTANCE * MIN_DISTANCE:
                    _break_ties(x, y, z, d2, index, first, s, near_d2, near, counts, k)

        out[atom, :] = 0.0
        for s in range(n_species):
            column = s * (2 * k - 1)
            for j in range(counts[s]):
                q = near[s, j]
                px[s, j], py[s, j], pz[s, j] = x[q], y[q], z[q]
                scaled = near_d2[s, j] / cutoff2
                root_weight[s, j] = 1.0 - scaled
                weight = (1.0 - scaled) * (1.0 - scaled)
                out[atom, column + j] = weight / max(math.sqrt(near_d2[s, j]), MIN_DISTANCE)
        column = n_species * (2 * k - 1)
        for s in range(n_species):
            m = counts[s]
            if m > 1:
                # one species: always the whole width, so that the bits of its sums stay what they have always been
                columns = k if n_species == 1 else m
                size, width = _fill_table(px, py, pz, root_weight, s, m, s, m, columns, table)
                _sort_columns(table, width, comparators, ends[size // 8 - 1], ends[size // 8])
                _add_means(table, min(m, k - 1), width, k, out[atom], s * (2 * k - 1) + k)
            for t in range(s + 1, n_species):
                if m > 0 and counts[t] > 0:
                    for a, b in ((s, t), (t, s)):
                        m_a, m_b = counts[a], counts[b]
                        size, width = _fill_table(px, py, pz, root_weight, a, m_a, b, m_b, m_a, table)
                        _sort_columns(table, width, comparators, ends[size // 8 - 1], ends[size // 8])
                        _add_means(table, m_b, width, 2 * k, out[atom], column)
                column += k


@kernel
def _sort_by_species(all_d2, all_index, n, species, first, d2, index):
    """Copy the first n candidates ordered by species; those of s come to `first[s]:first[s + 1]`."""
    first[:-1] = 0
    for i in range(n):
        first[species[all_index[i]]] += 1
    total = 0
    for s in range(first.shape[0] - 1):
        total += first[s]
        first[s] = total
    for i in range(n - 1, -1, -1):
        s = species[all_index[i]]
        first[s] -= 1
        d2[first[s]] = all_d2[i]
        index[first[s]] = all_index[i]


@kernel
def _nearest(d2, index, start, stop, near_d2, near, k):
    """The k nearest of the candidates `start:stop`, ascending, by insertion; return how many there are."""
    m = 0
    for i in range(start, stop):
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
    return m


@kernel
def _fill_table(px, py, pz, root_weight, a, n_columns, b, n_rows, columns, table):
    """Write sqrt(w w')/r between neighbours of kind a (columns) and b (rows); return the rows and columns filled.

    Rows are padded with zeros to what one of the sorting networks takes, columns to `columns` and a multiple of eight.
    """
    size = (n_rows + 7) // 8 * 8
    width = (columns + 7) // 8 * 8
    xs, ys, zs, ws = px[a], py[a], pz[a], root_weight[a]
    for j in range(min(size, table.shape[0])):
        filled = 0
        if j < n_rows:
            filled = n_columns
            xj, yj, zj, wj = px[b, j], py[b, j], pz[b, j], root_weight[b, j]
            for i in range(n_columns):
                dx, dy, dz = xs[i] - xj, ys[i] - yj, zs[i] - zj
                r2 = max(dx * dx + dy * dy + dz * dz, MIN_DISTANCE * MIN_DISTANCE)
                table[j, i] = wj * ws[i] / math.sqrt(r2)
            if a == b:
                table[j, j] = 0.0
        for i in range(filled, width):
            table[j, i] = 0.0
    return size, width


@kernel
def _add_means(table, n_ranks, width, divisor, row, column):
    """Add the sum over columns of each rank, divided, to the row from `column` on."""
    for rank in range(n_ranks):
        total_weight = 0.0
        for i in range(width):
            total_weight += table[rank, i]
        row[column + rank] += total_weight / divisor


@kernel
def _networks(k):
    """Comparators for 8, 16, ... and k items, one network after the other, and where each begins and ends."""
    n_networks = (k + 7) // 8
    ends = np.zeros(n_networks + 1, np.int64)
    for g in range(n_networks):
        ends[g + 1] = ends[g] + _comparators(min(8 * (g + 1), k)).shape[0]
    pairs = np.empty((ends[n_networks], 2), np.int64)
    for g in range(n_networks):
        network = _comparators(min(8 * (g + 1), k))
        for i in range(network.shape[0]):
            pairs[ends[g] + i, 0], pairs[ends[g] + i, 1] = network[i, 0], network[i, 1]
    return pairs, ends


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
def _sort_columns(table, width, comparators, start, stop):
    """Sort the first `width` columns, descending, by the comparators `start:stop`.

    Each comparator works on whole rows at once; a symmetric matrix has its rows sorted as well.
    """
    for s in range(start, stop):
        high = table[comparators[s, 0]]
        low = table[comparators[s, 1]]
        for c in range(width):
            a, b = high[c], low[c]
            high[c] = a if a > b else b
            low[c] = b if a > b else a


@kernel
def _break_ties(x, y, z, d2, index, first, own, near_d2, near, counts, k):
    """Choose among candidates of the species `own` tied at its k-th distance by geometry alone.

    The last places are filled one by one with the candidate whose sorted distances to those already taken are
    lexicographically smallest. Among candidates equal by that, which need not be symmetric, the smallest colour wins:
    a number made from the distances to all other points and their colours, refined three times. The points are all
    candidates up to the tie; of other species, which colours tell apart, those chosen before and all candidates of
    those still to be chosen. Needs no direction and no atom order; what is still equal is symmetric in all structures
    that we know.
    """
    last = math.sqrt(near_d2[own, k - 1])
    n_species = counts.shape[0]
    # points: first those nearer than the tie, then the tied ones, then other species
    most = first[n_species] + k * n_species
    place = np.empty(most, np.int64)
    point_d2 = np.empty(most)
    base = np.empty(most)
    taken = 0
    for i in range(first[own], first[own + 1]):
        if math.sqrt(d2[i]) < last - TIE:
            place[taken], point_d2[taken] = index[i], d2[i]
            taken += 1
    first_tied = taken
    m = taken
    for i in range(first[own], first[own + 1]):
        if last - TIE <= math.sqrt(d2[i]) <= last + TIE:
            place[m], point_d2[m] = index[i], d2[i]
            m += 1
    n_own = m
    for a in range(n_own):
        base[a] = 1.0 + math.sqrt(point_d2[a])
    for s in range(n_species):
        before = m
        if s < own:
            for j in range(counts[s]):
                place[m], point_d2[m] = near[s, j], near_d2[s, j]
                m += 1
        elif s > own:
            edge = math.sqrt(near_d2[s, k - 1]) + TIE if counts[s] == k else np.inf
            for i in range(first[s], first[s + 1]):
                if math.sqrt(d2[i]) <= edge:
                    place[m], point_d2[m] = index[i], d2[i]
                    m += 1
        kind = 1.0 + SPECIES_COLOUR * (1 + s)
        for a in range(before, m):
            base[a] = kind * (1.0 + math.sqrt(point_d2[a]))
    distance = np.empty((n_own, n_own))
    nearness = np.empty((m, m))
    for a in range(m):
        i = place[a]
        for b in range(m):
            j = place[b]
            r = math.sqrt((x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2 + (z[i] - z[j]) ** 2)
            nearness[a, b] = math.exp(-r)
            if a < n_own and b < n_own:
                distance[a, b] = r
    # sorted distances of every tied candidate to those taken, kept up to date by insertion
    profile = np.empty((n_own, k))
    is_taken = np.zeros(m, np.bool_)
    is_taken[:taken] = True
    for t in range(first_tied, n_own):
        for s in range(taken):
            _insert(profile[t], s, distance[t, s])
    colour = np.empty(m)
    refined = np.empty(m)
    while taken < k:
        for a in range(m):
            colour[a] = (2.0 if is_taken[a] else 1.0) * base[a]
        for _ in range(3):
            for a in range(m):
                total = 0.0
                for b in range(m):
                    total += nearness[a, b] * colour[b]
                refined[a] = total * math.sqrt(colour[a])
            scale = 0.0
            for a in range(m):
                scale = max(scale, refined[a])
            for a in range(m):
                colour[a] = refined[a] / scale
        best = -1
        for t in range(first_tied, n_own):
            if not is_taken[t] and (best < 0 or _precedes(profile, colour, t, best, taken)):
                best = t
        is_taken[best] = True
        for t in range(first_tied, n_own):
            if not is_taken[t]:
                _insert(profile[t], taken, distance[t, best])
        taken += 1
    # all taken points in order of distance
    size = 0
    for a in range(n_own):
        if is_taken[a]:
            r2, q = point_d2[a], place[a]
            j = size
            while j > 0 and near_d2[own, j - 1] > r2:
                near_d2[own, j] = near_d2[own, j - 1]
                near[own, j] = near[own, j - 1]
                j -= 1
            near_d2[own, j] = r2
            near[own, j] = q
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
