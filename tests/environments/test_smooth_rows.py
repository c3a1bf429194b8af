"""Smooth rows: against plain sums over images, at the cutoff, and their gradients against finite differences."""

import itertools
from functools import partial

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from quests_md import FrameError, UnsuitableFrameError
from quests_md.environments import smooth_frame

CUTOFF, S = 5.0, 1.8


def naive_rows(atoms, elements):
    """The formulas of `SmoothFrame`, by explicit images and double sums over neighbours."""
    counts = [range(-4, 5) if periodic else (0,) for periodic in atoms.pbc]
    shifts = [np.array(shift) @ atoms.cell.array for shift in itertools.product(*counts)]
    rows = []
    for i in range(len(atoms)):
        steps = [
            (atoms.numbers[j], atoms.positions[j] + shift - atoms.positions[i])
            for j in range(len(atoms))
            for shift in shifts
            if j != i or shift.any()
        ]
        steps = [(z, step, np.linalg.norm(step)) for z, step in steps if np.linalg.norm(step) < CUTOFF]
        cut = [(1 - (r / CUTOFF) ** 2) ** 3 for _, _, r in steps]
        row = []
        for a in elements:
            near = np.array([(r, c) for (z, _, r), c in zip(steps, cut, strict=True) if z == a]).reshape(-1, 2)
            row += [
                (near[:, 1] * np.exp(-((near[:, 0] - centre) ** 2) / 0.32)).sum() for centre in 0.8 + 0.5 * np.arange(8)
            ]
        weights = [c * np.exp(-(r**2) / 2 / S**2) for (_, _, r), c in zip(steps, cut, strict=True)]
        for a, b in itertools.combinations_with_replacement(elements, 2):
            sides = []
            for side in (a, b):
                of_side = [(*step, w) for (z, step, _), w in zip(steps, weights, strict=True) if z == side]
                sides.append(np.array(of_side).reshape(-1, 4))
            cubes = (sides[0][:, :3] @ sides[1][:, :3].T / S**2) ** 3
            row.append(sides[0][:, 3] @ cubes @ sides[1][:, 3])
        rows.append(row)
    return np.array(rows)


def rattled(atoms, amplitude=0.1, seed=0):
    atoms.rattle(amplitude, seed=seed)
    return atoms


def crowded(pbc, seed=3):
    """A few atoms of three elements in a small skewed cell."""
    rng = np.random.default_rng(seed)
    cell = [[2.9, 0, 0], [1.7, 2.6, 0.2], [-0.9, 0.8, 3.1]]
    return Atoms("CuAuCuH", rng.uniform(-3, 3, (4, 3)), cell=cell, pbc=pbc)


FRAMES = {
    "molecule": rattled(molecule("C2H6")),
    "crystal": rattled(bulk("Si", cubic=True)),
    "triclinic": crowded(True),
    "slab": crowded([True, True, False]),
    "wire": crowded([False, False, True]),
    "left-handed": Atoms("CuAu", [(0, 0, 0), (1.3, 1.0, 0.9)], cell=[[0, 3, 0], [3.1, 0, 0], [0.4, 0, 2.9]], pbc=True),
    "one atom": Atoms("Cu", cell=[2.5, 2.6, 9], pbc=[True, True, False]),
    "on top of each other": Atoms("CuCuAu", [(0, 0, 0), (0.02, 0.01, 0), (1.5, 1, 0.4)]),
    "at the cutoff": Atoms("CuAuCuAu", [(0, 0, 0), (5 - 3e-4, 0, 0), (0, 3, 3.9999), (1.2, 1.7, 0.9)]),
    "alone": Atoms("CuCu", [(0, 0, 0), (9, 0, 0)]),
}


def elements_of(atoms):
    return sorted(set(atoms.numbers.tolist()))


def difference(function, h):
    """Derivative at 0 by five points, good to the fourth power of h."""
    return (function(-2 * h) - 8 * function(-h) + 8 * function(h) - function(2 * h)) / (12 * h)


@pytest.mark.parametrize("name", FRAMES)
def test_rows_are_the_plain_sums(name):
    atoms = FRAMES[name]
    rows = smooth_frame(atoms, elements_of(atoms)).rows
    np.testing.assert_allclose(rows, naive_rows(atoms, elements_of(atoms)), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", FRAMES)
def test_gradients_are_those_of_the_rows(name):
    atoms = FRAMES[name]
    elements = elements_of(atoms)
    found = smooth_frame(atoms, elements)
    slopes = np.random.default_rng(0).normal(size=found.rows.shape)
    gradient, strain = found.pulled(slopes)

    def energy(changed):
        return float((smooth_frame(changed, elements).rows * slopes).sum())

    def moved(i, c, by):
        copy = atoms.copy()
        copy.positions[i, c] += by
        return energy(copy)

    def strained(i, k, by):
        copy, factor = atoms.copy(), np.eye(3)
        factor[k, i] += by
        copy.cell, copy.positions = atoms.cell.array @ factor, atoms.positions @ factor
        return energy(copy)

    expected = [[difference(partial(moved, i, c), 1e-4) for c in range(3)] for i in range(len(atoms))]
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * scale)
    expected = [[difference(partial(strained, i, k), 1e-5) for k in range(3)] for i in range(3)]
    np.testing.assert_allclose(strain, expected, rtol=0, atol=1e-6 * max(np.abs(expected).max(), 1e-3))
    np.testing.assert_allclose(gradient.sum(axis=0), 0, atol=1e-9 * scale)


def test_rows_and_slopes_go_to_zero_at_the_cutoff():
    alone = Atoms("Cu2", [(0, 0, 0), (5.0, 0, 0)])
    assert not smooth_frame(alone, [29]).rows.any()
    for inside in (1e-2, 1e-3):
        alone.positions[1, 0] = 5 - inside
        found = smooth_frame(alone, [29])
        assert 0 < np.abs(found.rows).max() < 0.1 * inside**3
        assert np.abs(found.pulled(np.ones_like(found.rows))[0]).max() < inside**2


def test_nothing_depends_on_order_orientation_or_choice_of_cell():
    atoms = FRAMES["triclinic"]
    elements = elements_of(atoms)
    rows = smooth_frame(atoms, elements).rows
    order = np.random.default_rng(1).permutation(len(atoms))
    np.testing.assert_allclose(smooth_frame(atoms[order], elements).rows, rows[order], rtol=1e-10, atol=1e-13)
    turned = atoms.copy()
    turned.rotate(77, (1, 2, 3), rotate_cell=True)
    np.testing.assert_allclose(smooth_frame(turned, elements).rows, rows, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(
        smooth_frame(atoms * (1, 2, 1), elements).rows[: len(atoms)], rows, rtol=1e-10, atol=1e-13
    )
    shifted = atoms.copy()
    shifted.positions += atoms.cell.array[0] * np.array([[0], [3], [-2], [1]])
    np.testing.assert_allclose(smooth_frame(shifted, elements).rows, rows, rtol=1e-10, atol=1e-13)


def test_rows_are_smooth_where_neighbours_change_places():
    """The second differences stay small along a path on which the order of neighbours changes many times."""
    start, stop = FRAMES["crystal"], rattled(bulk("Si", cubic=True), 0.4, seed=5)
    rows = []
    for t in np.linspace(0, 1, 201):
        atoms = start.copy()
        atoms.positions = (1 - t) * start.positions + t * stop.positions
        rows.append(smooth_frame(atoms, [14]).rows)
    first = np.diff(rows, axis=0)
    assert np.abs(np.diff(first, axis=0)).max() < 0.05 * np.abs(first).max()


def test_frames_that_cannot_be_described():
    with pytest.raises(UnsuitableFrameError, match=r"expected elements of the reference \(H, C\), got Cu"):
        smooth_frame(Atoms("CuH", [(0, 0, 0), (0, 0, 2)]), [1, 6])
    with pytest.raises(FrameError, match="finite"):
        smooth_frame(Atoms("H2", [(0, 0, 0), (0, 0, np.nan)]), [1])
    empty = smooth_frame(Atoms(), [1])
    assert empty.rows.shape == (0, 9)
    assert empty.pulled(np.empty((0, 9)))[0].shape == (0, 3)
