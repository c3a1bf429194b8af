"""Colder copies of the frames of a reference: what is one structure in motion, and what its copies are."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.geometry import get_distances

from quests_md import Descriptor, Reference
from quests_md.reference import colder_copies

#: Å, standard deviation of each coordinate; and its root mean square over atoms.
NOISE = 0.08
MOTION = NOISE * 3**0.5


def crystal():
    return bulk("Cu", cubic=True) * 2


def in_motion(atoms, n=40, noise=NOISE, seed=0):
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        frame = atoms.copy()
        frame.positions += rng.normal(0, noise, frame.positions.shape)
        frames.append(frame)
    return frames


def copies_of(frames, **options):
    return colder_copies(Reference.from_frames(frames, groups="frame", **options))


def distances(copy, atoms):
    """Å, of each atom of a copy from the nearest site of a crystal with the cell of the copy, without drift."""
    sites = atoms.copy()
    sites.set_cell(copy.cell, scale_atoms=True)
    vectors, all_of_them = get_distances(copy.positions, sites.positions, cell=copy.cell, pbc=copy.pbc)
    nearest = all_of_them.argmin(axis=1)
    assert len(set(nearest)) == len(copy)
    moved = vectors[np.arange(len(copy)), nearest]
    return np.linalg.norm(moved - moved.mean(axis=0), axis=1)


def test_copies_lie_between_the_structure_at_rest_and_its_motion():
    copies = copies_of(in_motion(crystal()))
    motion = np.array([np.sqrt((distances(copy, crystal()) ** 2).mean()) for copy in copies])
    at_rest = motion[::4]
    np.testing.assert_allclose(at_rest, 0, atol=1e-6)  # what is left of 40 frames is averaged over translations
    assert (motion < 1.15 * MOTION).all()
    assert (motion[1::2] > 0.9 * MOTION).any()
    assert motion[2::4].max() < 0.6 * MOTION  # moved at random
    assert (np.diff(motion[1::2]) > -0.2 * MOTION).all()  # ever less cold


def test_cells_at_rest_are_a_little_strained_and_others_less_the_more_they_move():
    copies = copies_of(in_motion(crystal()))
    strains = np.array([copy.cell.lengths()[0] for copy in copies]) / crystal().cell.lengths()[0] - 1
    assert strains[::4].min() == pytest.approx(-0.01, rel=1e-4)
    assert strains[::4].max() == pytest.approx(0.005, rel=1e-4)
    warm = strains[1::2]
    assert warm[: len(warm) // 4].min() < -0.004
    assert np.abs(warm).max() <= 0.005 + 1e-9
    assert np.abs(warm[-len(warm) // 10 :]).max() < 0.0015


def test_drift_jumps_over_the_border_and_moving_cells_do_not_matter():
    rng, frames = np.random.default_rng(3), in_motion(crystal())
    for frame in frames:
        frame.set_cell(frame.cell.array * (1 + rng.normal(0, 0.003)), scale_atoms=True)
        frame.positions += rng.uniform(-5, 5, 3)
        frame.wrap()
    copies = copies_of(frames)
    assert copies
    for copy in copies[::4]:
        np.testing.assert_array_less(distances(copy, crystal()), 3.5 * MOTION / 40**0.5)


def test_each_structure_of_a_file_has_copies():
    strained = crystal()
    strained.set_cell(strained.cell * 1.06, scale_atoms=True)
    vacancy = crystal()
    del vacancy[5]
    alternating = zip(*(in_motion(a) for a in (crystal(), strained, vacancy)), strict=True)
    frames = [frame for three in alternating for frame in three]
    copies = copies_of(frames)
    assert {len(copy) for copy in copies} == {31, 32}
    volumes = np.array([copy.get_volume() / len(copy) for copy in copies])
    wanted = np.array([a.get_volume() / len(a) for a in (crystal(), strained, vacancy)])
    off = np.abs(volumes[:, None] / wanted - 1)
    assert (off.min(axis=1) < 0.031).all()
    assert set(off.argmin(axis=1)) == {0, 1, 2}


@pytest.mark.parametrize("n", [9, 40])
def test_a_liquid_and_a_few_frames_have_none(n):
    rng = np.random.default_rng(0)
    frames = in_motion(crystal(), n, noise=NOISE if n < 10 else 0.5)
    if n >= 10:
        for frame in frames:
            frame.positions[:] = rng.uniform(0, frame.cell.lengths(), (len(frame), 3))
    assert copies_of(frames) == []


def test_a_molecule_is_turned():
    rng, frames = np.random.default_rng(1), in_motion(molecule("C2H6"), noise=0.03)
    for frame in frames:
        frame.rotate(rng.uniform(0, 360), rng.normal(size=3))
        frame.positions += rng.normal(0, 3, 3)
    copies = copies_of(frames)
    wanted = molecule("C2H6").get_all_distances()
    assert copies
    for copy in copies[::4]:
        np.testing.assert_allclose(copy.get_all_distances(), wanted, atol=0.04)


def test_a_molecule_is_not_turned_inside_out():
    chiral = Atoms("CHFClBr", [(0, 0, 0), (0.6, 0.6, 0.6), (-0.8, -0.8, 0.8), (-1, 1, -1), (1.1, -1.1, -1.1)])
    mirrored = chiral.copy()
    mirrored.positions[:, 0] *= -1
    frames = in_motion(chiral, 20, 0.03) + in_motion(mirrored, 20, 0.03)
    volumes = [np.linalg.det(copy.positions[1:4] - copy.positions[0]) for copy in copies_of(frames)]
    assert min(map(abs, volumes)) > 0.5
    assert min(volumes) < 0 < max(volumes)


def test_atoms_that_are_not_seen_are_no_structure():
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    assert copies_of(in_motion(salt))
    assert copies_of(in_motion(salt), descriptor=Descriptor(centers=("Na",))) == []
    assert copies_of(in_motion(salt), descriptor=Descriptor(neighbors=("Na",), centers=("Na",))) == []


def test_copies_are_the_same_each_time():
    reference = Reference.from_frames(in_motion(crystal()), groups="frame")
    first, second = colder_copies(reference), colder_copies(reference)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)


def test_what_diffuses_has_none_however_dense_its_frames():
    rng, atoms, frames = np.random.default_rng(0), crystal(), []
    for _ in range(300):
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        frames.append(atoms.copy())
    assert copies_of(frames) == []
