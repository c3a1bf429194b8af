"""A potential that is linear in its coefficients and fitted in a second: the student of `benchmarks/loops.py`.

Two- and three-body terms of an atomic cluster expansion (Drautz 2019, doi:10.1103/PhysRevB.99.014104) in a short form.
With moments A[p, l] of the neighbours of an atom, p an element of neighbours and a radial function, l = 0, 1, 2 the
rank of a tensor of directions, the energy of an atom of element a is

    sum over p of lin[a, p] A[p, 0] + sum over p, q, l of quad[a, l, p, q] A[p, l] . A[q, l]

where A[p, l] . A[q, l] is the sum over pairs of neighbours of the radial functions times cos(angle)^l. Radial functions
are Chebyshev polynomials times (1 - (r / cutoff)^2)^2; in addition a fixed core repels atoms that are too near, as ZBL
does elsewhere. Cells are orthorhombic, periodic lengths at least twice the cutoff.
"""

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from numba import njit

__all__ = ["Form", "LinearPotential", "equations", "fitted"]

N_PAIR, N_MANY, NEAREST = 12, 5, 1.5
N_DIRECTIONS, RANKS = 10, np.array([0, 1, 1, 1, 2, 2, 2, 2, 2, 2])
CORE_EV = 50.0


class Form:
    """What the potential is before it is fitted: elements, cutoff and the distance within which the core repels, Å."""

    def __init__(self, numbers, cutoff, core):
        self.numbers = list(numbers)
        self.cutoff, self.core = cutoff, core
        n = len(self.numbers)
        self.n_linear, self.n_moments = n * N_PAIR, n * N_MANY
        self.p, self.q = np.triu_indices(self.n_moments)
        self.n_terms = n * (self.n_linear + 3 * len(self.p))

    def arrays(self, atoms):
        """What the kernels take of the atoms."""
        lengths = atoms.cell.lengths()
        assert np.allclose(atoms.cell, np.diag(lengths)), "expected an orthorhombic cell"
        assert (lengths[atoms.pbc] >= 2 * self.cutoff).all(), "expected lengths of twice the cutoff"
        types = np.array([self.numbers.index(z) for z in atoms.numbers])
        return atoms.positions, types, np.where(atoms.pbc, lengths, 0.0), self.cutoff, len(self.numbers)

    def terms(self, atoms):
        """Forces of each term, (3 n_atoms, n_terms), in eV/Å for coefficients of 1 eV; and those of the core."""
        forces = np.zeros((len(atoms), 3, self.n_terms))
        term_forces(*self.arrays(atoms), self.p, self.q, forces)
        return forces.reshape(-1, self.n_terms)

    def core_forces(self, atoms):
        """Forces of the core, (3 n_atoms,)."""
        return LinearPotential(self, np.zeros(self.n_terms)).of(atoms)[1].ravel()


def equations(form, atoms, forces):
    """What a frame with true forces (n_atoms, 3) gives to the least squares: a.T a, a.T b and the number of rows."""
    a = form.terms(atoms)
    return a.T @ a, a.T @ (forces.ravel() - form.core_forces(atoms)), len(a)


def fitted(form, frames, ridge=1e-6):
    """The potential of least squares of the forces, with a penalty on the forces that each term makes.

    `frames` are the `equations` of frames.
    """
    square, right, n = (sum(parts) for parts in zip(*frames, strict=True))
    scale = np.sqrt(np.diag(square) / n) + 1e-12
    square = square / np.outer(scale, scale) + ridge * n * np.eye(form.n_terms)
    return LinearPotential(form, np.linalg.solve(square, right / scale) / scale)


class LinearPotential(Calculator):
    """The potential with its coefficients."""

    implemented_properties = ("energy", "forces")

    def __init__(self, form, coefficients):
        super().__init__()
        self.form = form
        n, many = len(form.numbers), len(form.p)
        per_element = coefficients.reshape(n, form.n_linear + 3 * many)
        self.linear = np.ascontiguousarray(per_element[:, : form.n_linear])
        self.many = np.zeros((n, 3, form.n_moments, form.n_moments))
        for rank in range(3):
            half = per_element[:, form.n_linear + rank * many : form.n_linear + (rank + 1) * many] / 2
            self.many[:, rank, form.p, form.q] += half
            self.many[:, rank, form.q, form.p] += half

    def of(self, atoms):
        """Energy (eV) and forces (eV/Å)."""
        forces = np.zeros((len(atoms), 3))
        return energy_and_forces(*self.form.arrays(atoms), self.linear, self.many, self.form.core, forces), forces

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Energy and forces for ASE."""
        super().calculate(atoms, properties, system_changes)
        energy, forces = self.of(self.atoms)
        self.results = {"energy": energy, "forces": forces}


@njit(cache=True, fastmath=True, error_model="numpy")
def neighbours(i, x, lengths, cutoff, which, distance, unit):
    """Fill in the neighbours of atom i; how many there are."""
    n = 0
    for j in range(len(x)):
        if j == i:
            continue
        square = 0.0
        for k in range(3):
            d = x[j, k] - x[i, k]
            if lengths[k] > 0:
                d -= lengths[k] * np.rint(d / lengths[k])
            unit[n, k] = d
            square += d * d
        if square < cutoff * cutoff:
            which[n], distance[n] = j, np.sqrt(square)
            for k in range(3):
                unit[n, k] /= distance[n]
            n += 1
    return n


@njit(cache=True, fastmath=True, error_model="numpy")
def radial(r, cutoff, values, slopes):
    """Radial functions and their slopes at a distance."""
    width = 2 / (cutoff - NEAREST)
    t = max(min((r - NEAREST) * width - 1, 1.0), -1.5)
    taper = 1 - (r / cutoff) ** 2
    taper_slope = -4 * taper * r / cutoff**2
    before, now, slope_before, slope = 1.0, t, 0.0, 1.0
    values[0], slopes[0] = taper * taper, taper_slope
    for n in range(1, N_PAIR):
        values[n] = now * taper * taper
        slopes[n] = slope * width * taper * taper + now * taper_slope
        before, now, slope_before, slope = (
            now,
            2 * t * now - before,
            slope,
            2 * now + 2 * t * slope - slope_before,
        )


@njit(cache=True, fastmath=True, error_model="numpy")
def directions(u, r, values, slopes):
    """Monomials of the direction, weighted so that products of tensors are cos(angle)^l; their gradients."""
    root = np.sqrt(2.0)
    values[0] = 1.0
    slopes[0] = 0.0
    for a in range(3):
        values[1 + a] = u[a]
        values[4 + a] = u[a] * u[a]
        values[7 + a] = root * u[a] * u[(a + 1) % 3]
    for b in range(3):
        for a in range(3):
            slopes[1 + a, b] = ((1.0 if a == b else 0.0) - u[a] * u[b]) / r
        for a in range(3):
            slopes[4 + a, b] = 2 * u[a] * slopes[1 + a, b]
            c = (a + 1) % 3
            slopes[7 + a, b] = root * (u[c] * slopes[1 + a, b] + u[a] * slopes[1 + c, b])


@njit(cache=True, fastmath=True, error_model="numpy")
def energy_and_forces(x, types, lengths, cutoff, n_elements, linear, many, core, forces):
    """The energy; forces are added up in place."""
    n_atoms, n_moments = len(x), n_elements * N_MANY
    which, distance, unit = np.empty(n_atoms, np.int64), np.empty(n_atoms), np.empty((n_atoms, 3))
    values, slopes = np.empty((n_atoms, N_PAIR)), np.empty((n_atoms, N_PAIR))
    m, dm = np.empty((n_atoms, N_DIRECTIONS)), np.empty((n_atoms, N_DIRECTIONS, 3))
    energy = 0.0
    for i in range(n_atoms):
        n = neighbours(i, x, lengths, cutoff, which, distance, unit)
        moments = np.zeros((n_moments, N_DIRECTIONS))
        for k in range(n):
            radial(distance[k], cutoff, values[k], slopes[k])
            directions(unit[k], distance[k], m[k], dm[k])
            first = types[which[k]] * N_MANY
            for p in range(N_MANY):
                for c in range(N_DIRECTIONS):
                    moments[first + p, c] += values[k, p] * m[k, c]
        gradient = np.zeros((n_moments, N_DIRECTIONS))
        for p in range(n_moments):
            for q in range(n_moments):
                for c in range(N_DIRECTIONS):
                    gradient[p, c] += 2 * many[types[i], RANKS[c], p, q] * moments[q, c]
        energy += 0.5 * (gradient * moments).sum()
        for k in range(n):
            j, r = which[k], distance[k]
            along = 0.0
            first = types[j] * N_PAIR
            for p in range(N_PAIR):
                energy += linear[types[i], first + p] * values[k, p]
                along += linear[types[i], first + p] * slopes[k, p]
            if r < core:
                energy += 0.5 * CORE_EV * (core / r - 1) ** 3
                along -= 1.5 * CORE_EV * (core / r - 1) ** 2 * core / r**2
            first = types[j] * N_MANY
            x_pull, y_pull, z_pull = 0.0, 0.0, 0.0
            for c in range(N_DIRECTIONS):
                g, h = 0.0, 0.0
                for p in range(N_MANY):
                    g += gradient[first + p, c] * slopes[k, p]
                    h += gradient[first + p, c] * values[k, p]
                along += g * m[k, c]
                x_pull += h * dm[k, c, 0]
                y_pull += h * dm[k, c, 1]
                z_pull += h * dm[k, c, 2]
            for b, across in enumerate((x_pull, y_pull, z_pull)):
                pull = along * unit[k, b] + across
                forces[i, b] += pull
                forces[j, b] -= pull
    return energy


@njit(cache=True, fastmath=True, error_model="numpy")
def term_forces(x, types, lengths, cutoff, n_elements, first_of, second_of, forces):
    """Forces of each term, added up in place."""
    n_atoms, n_moments, n_many = len(x), n_elements * N_MANY, len(first_of)
    per_element = n_elements * N_PAIR + 3 * n_many
    which, distance, unit = np.empty(n_atoms, np.int64), np.empty(n_atoms), np.empty((n_atoms, 3))
    values, slopes = np.empty((n_atoms, N_PAIR)), np.empty((n_atoms, N_PAIR))
    m, dm = np.empty((n_atoms, N_DIRECTIONS)), np.empty((n_atoms, N_DIRECTIONS, 3))
    for i in range(n_atoms):
        n = neighbours(i, x, lengths, cutoff, which, distance, unit)
        moments = np.zeros((n_moments, N_DIRECTIONS))
        for k in range(n):
            radial(distance[k], cutoff, values[k], slopes[k])
            directions(unit[k], distance[k], m[k], dm[k])
            first = types[which[k]] * N_MANY
            for p in range(N_MANY):
                for c in range(N_DIRECTIONS):
                    moments[first + p, c] += values[k, p] * m[k, c]
        at = types[i] * per_element
        for k in range(n):
            j = which[k]
            for p in range(N_PAIR):
                term = at + types[j] * N_PAIR + p
                for b in range(3):
                    forces[i, b, term] += slopes[k, p] * unit[k, b]
                    forces[j, b, term] -= slopes[k, p] * unit[k, b]
            own = np.zeros((3, N_MANY, n_moments, 3))  # gradient of a moment of this neighbour times all moments
            for p in range(N_MANY):
                for c in range(N_DIRECTIONS):
                    for b in range(3):
                        g = slopes[k, p] * unit[k, b] * m[k, c] + values[k, p] * dm[k, c, b]
                        for q in range(n_moments):
                            own[RANKS[c], p, q, b] += g * moments[q, c]
            low = types[j] * N_MANY
            for rank in range(3):
                for s in range(n_many):
                    p, q = first_of[s], second_of[s]
                    term = at + n_elements * N_PAIR + rank * n_many + s
                    for b in range(3):
                        pull = 0.0
                        if low <= p < low + N_MANY:
                            pull += own[rank, p - low, q, b]
                        if low <= q < low + N_MANY:
                            pull += own[rank, q - low, p, b]
                        forces[i, b, term] += pull
                        forces[j, b, term] -= pull
