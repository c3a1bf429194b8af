"""Frames for tests of rows: random ones in any cell, and copies of a frame that must look the same."""

import naive
import numpy as np
from ase import Atoms
from ase.spacegroup import crystal
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation

PBC = [(x, y, z) for x in (False, True) for y in (False, True) for z in (False, True)]


def cubic(symbols, basis, spacegroup, a):
    return crystal(symbols, basis, spacegroup=spacegroup, cellpar=[a] * 3 + [90] * 3)


COMPOUNDS = {
    "fluorite": lambda: cubic(("Ca", "F"), [(0, 0, 0), (0.25, 0.25, 0.25)], 225, 5.46),
    "perovskite": lambda: cubic(("Ba", "Ti", "O"), [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], 221, 4.0),
}


def random_cell(rng, length, skew=0.3):
    """A right-handed cell that is not too flat; `length` in Å."""
    while True:
        cell = length * (np.eye(3) + skew * rng.normal(size=(3, 3)))
        if np.linalg.det(cell) > 0.3 * length**3:
            return cell


def random_frame(rng, n, volume, *, pbc=True, skew=0.3):
    """N copper atoms at random, `volume` Å^3 each, none nearer to another than 0.35 of the mean spacing."""
    spacing = volume ** (1 / 3)

    def is_crowded(atoms):
        return any(len(d) and d[0] <= 0.35 * spacing for d, _, _ in naive.neighbours(atoms, spacing))

    for _ in range(1000):
        cell = random_cell(rng, (n * volume) ** (1 / 3), skew)
        atoms = Atoms(numbers=[29] * n, scaled_positions=rng.random((n, 3)), cell=cell, pbc=pbc)
        if not is_crowded(atoms):
            return atoms
        # chance would take too long: a shaken grid
        side = int(np.ceil(n ** (1 / 3)))
        grid = np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3)[:n]
        atoms.set_scaled_positions((grid + rng.uniform(-0.2, 0.2, grid.shape)) / side)
        if not is_crowded(atoms):
            return atoms
    raise RuntimeError("no such frame")


def close(actual, desired, tolerance=1e-9):
    """Equal to 1e-9 1/Å; entries above 1 1/Å to 1e-9 of them."""
    assert actual.shape == desired.shape
    assert_allclose(actual, desired, rtol=tolerance, atol=tolerance)


def small_cell(seed):
    """1-4 atoms in a small random cell: every shell holds images at +v and -v."""
    rng = np.random.default_rng(seed)
    return random_frame(rng, 1 + seed % 4, 12.0, skew=0.2)


def noisy(atoms, rng):
    """A copy with the noise of rounding, which breaks exact ties."""
    copy = atoms.copy()
    copy.positions += rng.normal(scale=1e-13, size=atoms.positions.shape)
    return copy


def rotated(atoms, rng):
    """A copy turned in space, cell and all."""
    turn = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
    return Atoms(atoms.numbers, positions=atoms.positions @ turn.T, cell=atoms.cell.array @ turn.T, pbc=atoms.pbc)


def mirrored(atoms):
    """The same crystal with two cell vectors swapped: left-handed if it was right-handed."""
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell.array[[1, 0, 2]], pbc=atoms.pbc[[1, 0, 2]])


def same_however_described(descriptor, atoms, expected, rng):
    """Rows stay with their atoms in a shuffled, turned, moved and mirrored frame; gives that frame and its rows."""
    order = rng.permutation(len(atoms))
    wanted = np.tile(expected, (len(atoms) // len(expected), 1))[order]  # copies of a cell follow each other
    moved = rotated(noisy(atoms, rng), rng)[order]
    moved.positions += rng.normal(scale=30, size=3)
    close(descriptor(moved), wanted)
    close(descriptor(mirrored(moved)), wanted)
    return moved, wanted
