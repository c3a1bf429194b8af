"""Rows of shares of a frame, as several processes make them, are those of the whole frame to the bit."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from quests_md import Descriptor

DESCRIPTORS = [
    Descriptor(),
    Descriptor(k=8, cutoff=3.5, average=5),
    Descriptor(elements=("Cu", "Zr"), k=12),
    Descriptor(chemistry=True, k=16),
    Descriptor(centers=("Cu",), k=10),
    Descriptor(centers=("Cu",), neighbors=("Zr",), k=10),
]


def frames():
    rng = np.random.default_rng(0)
    crystal = bulk("Cu", cubic=True) * (4, 3, 3)
    crystal.numbers[rng.random(len(crystal)) < 0.4] = 40
    crystal.positions += rng.normal(scale=0.1, size=crystal.positions.shape)
    tilted = crystal.copy()
    tilted.set_cell(np.add(tilted.cell.array, [[0, 0, 0], [2, 0, 0], [-3, 1, 0]]), scale_atoms=True)
    tilted.pbc = [True, True, False]
    small = crystal[[0, 1, 5, 40]]
    small.cell = [3.0, 4.0, 5.0]
    gas = Atoms("Cu20Zr20", positions=rng.random((40, 3)) * 200, pbc=False)
    perfect = bulk("Cu", cubic=True) * 3
    return {"crystal": crystal, "tilted": tilted, "small": small, "gas": gas, "perfect": perfect}


def in_shares(descriptor, atoms, n_shares, *, seed=0):
    """Rows at both scales, made in shares of atoms that are chosen at random."""
    rng = np.random.default_rng(seed)
    centers = np.flatnonzero(descriptor.is_center(atoms.numbers))
    owner = rng.integers(n_shares, size=len(centers))
    owned = [centers[owner == k] for k in range(n_shares)]
    shares = [descriptor.share(atoms, own, threads=1) for own in owned]
    filled = np.full((len(atoms), descriptor.width), np.nan)
    for own, share in zip(owned, shares, strict=True):
        filled[own] = share.filled
    plain, averaged = np.full_like(filled, np.nan), np.full_like(filled, np.nan)
    for own, share in zip(owned, shares, strict=True):
        assert not np.isin(share.others, own).any()
        plain[own], averaged[own] = share.both(filled[share.others])
    return plain, averaged


@pytest.mark.parametrize("descriptor", DESCRIPTORS, ids=str)
@pytest.mark.parametrize("name", list(frames()))
def test_rows_of_shares_are_those_of_the_frame(descriptor, name):
    atoms = frames()[name]
    if name == "perfect" and descriptor.elements:
        atoms.numbers[::3] = 40
    expected = descriptor.both_scales(atoms, threads=1)
    for n_shares in (1, 2, 5):
        plain, averaged = in_shares(descriptor, atoms, n_shares)
        np.testing.assert_array_equal(plain, expected.plain)
        np.testing.assert_array_equal(averaged, expected.averaged)


def test_a_share_asks_for_no_more_than_the_bins_around():
    atoms = bulk("Cu", cubic=True) * 12
    near = np.flatnonzero(np.linalg.norm(atoms.positions - atoms.positions[0], axis=1) < 4)
    share = Descriptor().share(atoms, near, threads=1)
    assert 0 < len(share.others) < len(atoms) / 4
