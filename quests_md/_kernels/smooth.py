"""Rows that are smooth in the positions of atoms, what they hand back to the atoms, and smooth kernel sums over them.

A row holds, for each element a, RADIAL sums over neighbours of radial Gaussians; then, for each pair of elements
a <= b, the product M_a . M_b of the moments of neighbours: sums over their displacements x of
exp(-x^2 / 2 s^2) (x / s)^3, s = SCALE. Each neighbour counts times (1 - (r / cutoff)^2)^3.
"""

import math

import numpy as np

from .jit import Floats, Integers, kernel
from .neighbors import candidates

__all__ = ["COMPONENTS", "capped_entropy", "farthest_rows", "pull_atoms", "row_width", "smooth_rows"]

#: Radial Gaussians for each element; the first centre, their distance from each other and their width, Å.
RADIAL, FIRST, STEP, WIDTH = 8, 0.8, 0.5, 0.4

#: Å. Moments weigh neighbours most at sqrt(3) times this.
SCALE = 1.8

#: Independent components of a moment, a symmetric tensor of order 3.
COMPONENTS = 10


def row_width(n_elements: int) -> int:
    """Numbers in a row."""
    return n_elements * RADIAL + n_elements * (n_elements + 1) // 2


@kernel
def smooth_rows(
    x: Floats,
    y: Floats,
    z: Floats,
    bins: Integers,
    shape: Integers,
    slots: Integers,
    species: Integers,
    cutoff: float,
    rows: Floats,
    moments: Floats,
) -> None:
    """Add the rows (n_atoms, width) and moments (n_atoms, n_elements, COMPONENTS), which come as zeros.

    species (n_points,): the element of each point. Sums run in the order of points.
    """
    starts, stops = np.empty(9, np.int64), np.empty(9, np.int64)
    u = np.empty(COMPONENTS)
    for atom in range(slots.shape[0]):
        here = slots[atom]
        candidates(bins, shape, bins[here], starts, stops)
        for run in range(9):
            for j in range(starts[run], stops[run]):
                dx, dy, dz = x[j] - x[here], y[j] - y[here], z[j] - z[here]
                r2 = dx * dx + dy * dy + dz * dz
                if j == here or r2 >= cutoff * cutoff:
                    continue
                a = species[j]
                part = 1.0 - r2 / (cutoff * cutoff)
                cut = part * part * part
                r = math.sqrt(r2)
                value, ratio = _first_gaussian(r)
                for n in range(RADIAL):
                    rows[atom, a * RADIAL + n] += cut * value
                    value *= ratio
                    ratio *= NARROWING
                w = cut * math.exp(-0.5 * r2 / (SCALE * SCALE))
                _monomials(dx / SCALE, dy / SCALE, dz / SCALE, u)
                for k in range(COMPONENTS):
                    moments[atom, a, k] += w * u[k]
        _contract(moments[atom], rows[atom])


@kernel
def pull_atoms(
    x: Floats,
    y: Floats,
    z: Floats,
    bins: Integers,
    shape: Integers,
    slots: Integers,
    source: Integers,
    species: Integers,
    cutoff: float,
    slopes: Floats,
    moments: Floats,
    gradient: Floats,
    strain: Floats,
) -> None:
    """Add what the slopes dE/drow (n_atoms, width) make of the positions and of the strain.

    gradient (n_atoms, 3) is dE/dposition, 1/Å; strain (3, 3) is dE/dstrain. source (n_points,): the atom of each point.
    """
    n_elements = moments.shape[1]
    starts, stops = np.empty(9, np.int64), np.empty(9, np.int64)
    u, du = np.empty(COMPONENTS), np.empty(3)
    of_moments = np.empty((n_elements, COMPONENTS))
    step = np.empty(3)
    for atom in range(slots.shape[0]):
        here = slots[atom]
        _slopes_of_moments(moments[atom], slopes[atom], of_moments)
        candidates(bins, shape, bins[here], starts, stops)
        for run in range(9):
            for j in range(starts[run], stops[run]):
                step[0], step[1], step[2] = x[j] - x[here], y[j] - y[here], z[j] - z[here]
                r2 = step[0] * step[0] + step[1] * step[1] + step[2] * step[2]
                if j == here or r2 >= cutoff * cutoff:
                    continue
                a = species[j]
                part = 1.0 - r2 / (cutoff * cutoff)
                cut, dcut = part * part * part, -6.0 * part * part / (cutoff * cutoff)
                r = math.sqrt(r2)
                # what is along the displacement, by its length; moments have more, by the components of du
                along = 0.0
                value, ratio = _first_gaussian(r)
                for n in range(RADIAL):
                    slope = slopes[atom, a * RADIAL + n]
                    along += slope * dcut * value
                    if r > 0.0:
                        along -= slope * cut * value * (r - FIRST - n * STEP) / (WIDTH * WIDTH * r)
                    value *= ratio
                    ratio *= NARROWING
                decay = math.exp(-0.5 * r2 / (SCALE * SCALE))
                px, py, pz = step[0] / SCALE, step[1] / SCALE, step[2] / SCALE
                _monomials(px, py, pz, u)
                total = 0.0
                for k in range(COMPONENTS):
                    total += of_moments[a, k] * u[k]
                along += total * decay * (dcut - cut / (SCALE * SCALE))
                _slopes_of_monomials(of_moments[a], px, py, pz, cut * decay / SCALE, du)
                other = source[j]
                for i in range(3):
                    g = along * step[i] + du[i]
                    gradient[other, i] += g
                    gradient[atom, i] -= g
                    for k in range(3):
                        strain[i, k] += g * step[k]


@kernel
def capped_entropy(queries: Floats, known: Floats, bandwidth: float, most: float, out: Floats, slopes: Floats) -> None:
    """Write s = -log(sum_j K(y, X_j) + exp(-most)) of each query (n, d) to `out` (n,), ds/dy to slopes (n, d).

    K is the Gaussian of the bandwidth; known (m, d). s is dH far below `most`, and never above.
    """
    m, width = known.shape
    exponents = np.empty(m)
    for i in range(queries.shape[0]):
        largest = -most
        for j in range(m):
            d2 = 0.0
            for c in range(width):
                difference = queries[i, c] - known[j, c]
                d2 += difference * difference
            exponents[j] = -0.5 * d2 / (bandwidth * bandwidth)
            largest = max(largest, exponents[j])
        total = math.exp(-most - largest)
        slopes[i, :] = 0.0
        for j in range(m):
            if exponents[j] - largest < -VANISHED:
                continue
            weight = math.exp(exponents[j] - largest)
            total += weight
            for c in range(width):
                slopes[i, c] += weight * (queries[i, c] - known[j, c])
        out[i] = -largest - math.log(total)
        for c in range(width):
            slopes[i, c] /= total * bandwidth * bandwidth


@kernel
def farthest_rows(rows: Floats, first: int, chosen: Integers) -> None:
    """Write to chosen (m,) places of rows (n, d), n >= m, one by one the row farthest from those before; of equals the
    first.
    """
    nearest = np.full(rows.shape[0], np.inf)
    chosen[0] = first
    for k in range(1, chosen.shape[0] + 1):
        last, best = chosen[k - 1], 0
        for i in range(rows.shape[0]):
            d2 = 0.0
            for c in range(rows.shape[1]):
                difference = rows[i, c] - rows[last, c]
                d2 += difference * difference
            nearest[i] = min(nearest[i], d2)
            if nearest[i] > nearest[best]:
                best = i
        if k < chosen.shape[0]:
            chosen[k] = best


#: By what the ratio of neighbouring Gaussians falls from one to the next.
NARROWING = math.exp(-(STEP**2) / WIDTH**2)

#: Terms smaller than e^-60 of the largest: a million of them are below the rounding of the sum.
VANISHED = 60.0


@kernel
def _first_gaussian(r):
    """The first radial Gaussian at r, and its ratio to the second."""
    from_first = r - FIRST
    value = math.exp(-0.5 * from_first * from_first / (WIDTH * WIDTH))
    return value, math.exp((from_first * STEP - 0.5 * STEP * STEP) / (WIDTH * WIDTH))


#: How often each component stands in its tensor.
TIMES = (1.0,) * 3 + (3.0,) * 6 + (6.0,)


@kernel
def _monomials(px, py, pz, u):
    """The components of the moment of one neighbour."""
    u[0], u[1], u[2] = px * px * px, py * py * py, pz * pz * pz
    u[3], u[4] = px * px * py, px * px * pz
    u[5], u[6] = py * py * px, py * py * pz
    u[7], u[8] = pz * pz * px, pz * pz * py
    u[9] = px * py * pz


@kernel
def _slopes_of_monomials(d, px, py, pz, factor, du):
    """Write factor times the gradient of d . u with respect to px, py and pz."""
    du[0] = 3.0 * d[0] * px * px + 2.0 * px * (d[3] * py + d[4] * pz)
    du[0] += d[5] * py * py + d[7] * pz * pz + d[9] * py * pz
    du[1] = 3.0 * d[1] * py * py + 2.0 * py * (d[5] * px + d[6] * pz)
    du[1] += d[3] * px * px + d[8] * pz * pz + d[9] * px * pz
    du[2] = 3.0 * d[2] * pz * pz + 2.0 * pz * (d[7] * px + d[8] * py)
    du[2] += d[4] * px * px + d[6] * py * py + d[9] * px * py
    for i in range(3):
        du[i] *= factor


@kernel
def _contract(moments, row):
    """Write the products of the moments (n_elements, COMPONENTS) of an atom into its row."""
    n_elements = moments.shape[0]
    place = n_elements * RADIAL
    for a in range(n_elements):
        for b in range(a, n_elements):
            total = 0.0
            for k in range(COMPONENTS):
                total += TIMES[k] * moments[a, k] * moments[b, k]
            row[place] = total
            place += 1


@kernel
def _slopes_of_moments(moments, slopes, out):
    """Write dE/dmoment of an atom (n_elements, COMPONENTS), from its dE/drow (width,)."""
    n_elements = moments.shape[0]
    out[:] = 0.0
    place = n_elements * RADIAL
    for a in range(n_elements):
        for b in range(a, n_elements):
            for k in range(COMPONENTS):
                out[a, k] += slopes[place] * TIMES[k] * moments[b, k]
                out[b, k] += slopes[place] * TIMES[k] * moments[a, k]
            place += 1
