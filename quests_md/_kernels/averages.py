"""Rows averaged over the nearest neighbours: a search in the grid of points, a mean of rows."""

import math

import numpy as np

from .jit import kernel
from .neighbors import candidates
from .rows import TIE

__all__ = ["average_rows"]

#: The search reaches so much farther than the n-th neighbour of the atom before; it is repeated where that is too near.
MARGIN = 1.15


@kernel
def average_rows(x, y, z, bins, shape, row_of, centers, homes, start, stop, n, cutoff, rows, order, out):
    """Write the mean of each row `start:stop` and of the rows of its n nearest points into row `order[i]` of `out`.

    `rows` (n_centers, width) belong to the positions `centers` (n_centers, 3) in the bins `homes`. `row_of` (n_points,)
    says which of the rows each point has; points where that is negative have none and are not looked at. Points tied at
    the n-th distance share the places that are left. Points at the cutoff, to TIE, are beyond it: on which side
    rounding puts them must not count.
    """
    starts = np.empty(9, np.int64)
    stops = np.empty(9, np.int64)
    capacity = 256
    px, py, pz, d2 = np.empty(capacity), np.empty(capacity), np.empty(capacity), np.empty(capacity)
    row, found = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    near_d2 = np.empty(n)
    used, weight = np.empty(n + capacity, np.int64), np.empty(n + capacity)
    width = rows.shape[1]
    mean = np.empty(width)
    limit = max(cutoff - TIE, 0.0)
    reach = limit
    home = np.int64(-1)
    total = 0

    for atom in range(start, stop):
        if homes[atom] != home:
            home = homes[atom]
            total = candidates(bins, shape, home, starts, stops)
            if total > capacity:
                capacity = 2 * total
                px, py, pz, d2 = np.empty(capacity), np.empty(capacity), np.empty(capacity), np.empty(capacity)
                row, found = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
                used, weight = np.empty(n + capacity, np.int64), np.empty(n + capacity)
            # copied side by side, so that several distances are computed at a time
            total = 0
            for run in range(9):
                for j in range(starts[run], stops[run]):
                    px[total], py[total], pz[total] = x[j], y[j], z[j]
                    row[total] = row_of[j]
                    total += row[total] >= 0
        x0, y0, z0 = centers[atom, 0], centers[atom, 1], centers[atom, 2]

        for i in range(total):
            dx, dy, dz = px[i] - x0, py[i] - y0, pz[i] - z0
            d2[i] = dx * dx + dy * dy + dz * dz
        while True:
            n_found = 0
            reach2 = reach * reach
            for i in range(total):
                found[n_found] = i
                n_found += d2[i] < reach2
            m = 0
            for f in range(n_found):
                r2 = d2[found[f]]
                if r2 == 0.0 and row[found[f]] == atom:
                    d2[found[f]] = math.inf  # the atom itself
                    continue
                if m < n or r2 < near_d2[m - 1]:
                    j = m if m < n else n - 1
                    while j > 0 and near_d2[j - 1] > r2:
                        near_d2[j] = near_d2[j - 1]
                        used[j] = used[j - 1]
                        j -= 1
                    near_d2[j] = r2
                    used[j] = row[found[f]]
                    if m < n:
                        m += 1
            last = math.sqrt(near_d2[n - 1]) if m == n else math.inf
            if reach == limit or last + TIE < reach:
                break
            reach = limit
        if m == n:
            reach = min(MARGIN * last + TIE, limit)

        # the nearest first, so that the sum does not depend on the order of atoms
        n_nearer = 0
        while n_nearer < m and math.sqrt(near_d2[n_nearer]) < last - TIE:
            weight[n_nearer] = 1.0
            n_nearer += 1
        n_used = n_nearer
        if n_nearer < m:
            for f in range(n_found):
                if last - TIE <= math.sqrt(d2[found[f]]) <= last + TIE:
                    used[n_used] = row[found[f]]
                    n_used += 1
            for f in range(n_nearer, n_used):
                weight[f] = (m - n_nearer) / (n_used - n_nearer)
        for c in range(width):
            mean[c] = rows[atom, c]
        _add_rows(rows, used, weight, n_used, mean)
        for c in range(width):
            out[order[atom], c] = mean[c] / (1 + m)


@kernel
def _add_rows(rows, used, weight, n_used, total):
    """Add the rows `used[:n_used]` by their weights, four at a time: most of the time goes into reading the total."""
    width = rows.shape[1]
    whole = n_used // 4 * 4
    for f in range(0, whole, 4):
        a, b, c, d = rows[used[f]], rows[used[f + 1]], rows[used[f + 2]], rows[used[f + 3]]
        wa, wb, wc, wd = weight[f], weight[f + 1], weight[f + 2], weight[f + 3]
        for i in range(width):
            total[i] += (wa * a[i] + wb * b[i]) + (wc * c[i] + wd * d[i])
    for f in range(whole, n_used):
        for i in range(width):
            total[i] += weight[f] * rows[used[f], i]
