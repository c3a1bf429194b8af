"""Chemistry columns of rows: which elements sit around an atom, in a width that does not grow with their number."""

import numpy as np

from .jit import kernel
from .neighbors import candidates

__all__ = ["fill_chemistry"]


@kernel
def fill_chemistry(
    x, y, z, bins, shape, kinds, vectors, centers, homes, places, own_kinds, start, stop, cutoff, n_kept, first, out
):
    """Write the columns from `first` on of rows `start:stop` of `out`, around the positions `centers` (n_centers, 3).

    `kinds` (n_points,) and `own_kinds` (n_centers,) are rows of `vectors` (n_kinds, n_channels), the vectors of the
    elements; `homes` is the bin of each center, `places` its place among the points or -1. Each channel has
    2 * `n_kept` columns: the largest positive values (v_j - v_i) (1 - (r/r_c)^2) / r_c over all neighbours within the
    cutoff, descending, then the most negative ones, ascending; zeros where there are fewer. As columns hold values,
    not atoms, it makes no difference which of two atoms at the same distance comes first.
    """
    starts = np.empty(9, np.int64)
    stops = np.empty(9, np.int64)
    n_channels = vectors.shape[1]
    n_lists = 2 * n_channels
    # one list per column: magnitudes of the positive values of each channel, then those of the negative values
    lists = np.empty((n_kept, n_lists))
    falling = np.empty(n_lists)
    cutoff2 = cutoff * cutoff
    home = np.int64(-1)
    for atom in range(start, stop):
        here, own = places[atom], own_kinds[atom]
        if homes[atom] != home:
            home = homes[atom]
            candidates(bins, shape, home, starts, stops)
        x0, y0, z0 = centers[atom, 0], centers[atom, 1], centers[atom, 2]
        n = 0
        for run in range(9):
            for j in range(starts[run], stops[run]):
                kind = kinds[j]
                dx, dy, dz = x[j] - x0, y[j] - y0, z[j] - z0
                r2 = dx * dx + dy * dy + dz * dz
                if r2 < cutoff2 and kind != own and j != here:
                    weight = (1.0 - r2 / cutoff2) / cutoff
                    for channel in range(n_channels):
                        value = weight * (vectors[kind, channel] - vectors[own, channel])
                        falling[channel] = max(value, 0.0)
                        falling[n_channels + channel] = max(-value, 0.0)
                    _insert(lists, n, falling)
                    n += 1
        column = first
        for channel in range(n_channels):
            for rank in range(n_kept):
                out[atom, column + rank] = lists[rank, channel] if rank < n else 0.0
                out[atom, column + n_kept + rank] = -lists[rank, n_channels + channel] if rank < n else 0.0
            column += 2 * n_kept


@kernel
def _insert(lists, n, falling):
    """Insert one value into each column of `lists`, n values long and descending; what falls off the end is lost.

    Each step works on all columns at once: the larger value stays, the smaller one falls on.
    """
    most = lists.shape[0]
    for rank in range(min(n, most)):
        row = lists[rank]
        for c in range(falling.shape[0]):
            a, b = row[c], falling[c]
            row[c] = a if a > b else b
            falling[c] = b if a > b else a
    if n < most:
        for c in range(falling.shape[0]):
            lists[n, c] = falling[c]
