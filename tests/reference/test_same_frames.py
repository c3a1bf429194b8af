"""Which frames are one and the same, against every shift and every order tried one by one."""

import itertools
import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.geometry import find_mic
from ase.io import write
from references import Given, carrying
from systems import copper

from quests_md import Reference, calibrate
from quests_md.reference import copies_of, frames_also_in
from quests_md.reference.contents import ReferenceArrays
from quests_md.reference.same_frames import Placed, first_same


def rattled(atoms, by, seed, pbc=None):
    atoms.rattle(by, seed=seed)
    if pbc is not None:
        atoms.pbc = pbc
    return atoms


def vacancy(at):
    atoms = bulk("Cu", cubic=True) * 2
    del atoms[at]
    return atoms


FRAMES = {
    "crystal": lambda: rattled(bulk("Cu", cubic=True) * 2, 0.1, 1),
    "compound": lambda: rattled(bulk("NaCl", "rocksalt", 5.64, cubic=True), 0.08, 2),
    "skewed cell": lambda: rattled(bulk("Si") * 2, 0.05, 3),
    "slab": lambda: rattled(fcc111("Cu", (2, 2, 2), vacuum=8), 0.05, 4, (True, True, False)),
    "wire": lambda: rattled(bulk("Cu", cubic=True), 0.05, 5, (False, False, True)),
    "molecule": lambda: rattled(molecule("C6H6"), 0.05, 6),
    "perfect": lambda: bulk("Cu", cubic=True) * 2,
    "vacancy": lambda: vacancy(3),
}


def changed(atoms, positions, cell=None):
    other = atoms.copy()
    other.positions = positions
    if cell is not None:
        other.set_cell(cell)
    return other


def texts(array, form):
    return np.array([[float(form % x) for x in line] for line in array])


def copies(atoms, seed=0):
    """The same frame, written and moved in other ways."""
    rng = np.random.default_rng(seed)
    yield "eight decimals", changed(atoms, texts(atoms.positions, "%.8f"), texts(atoms.cell.array, "%.8f"))
    yield "four decimals", changed(atoms, texts(atoms.positions, "%.4f"))
    yield "six digits", changed(atoms, texts(atoms.positions, "%.6g"), texts(atoms.cell.array, "%.6g"))
    yield "single precision", changed(atoms, atoms.positions.astype(np.float32), atoms.cell.array.astype(np.float32))
    yield "another order", atoms[rng.permutation(len(atoms))]
    wrapped = atoms.copy()
    wrapped.wrap()
    yield "wrapped", wrapped
    steps = rng.integers(-3, 4, (len(atoms), 3)) * atoms.pbc
    yield "unwrapped", changed(atoms, atoms.positions + steps @ atoms.cell.array)
    yield "moved", changed(atoms, atoms.positions + rng.normal(size=3) * 4)
    every = atoms[rng.permutation(len(atoms))]
    every.positions = np.round(every.positions + rng.normal(size=3) * 4, 5)
    every.wrap()
    yield "all of it", every


def others(atoms, seed=0):
    rng = np.random.default_rng(seed)
    one = atoms.positions.copy()
    one[len(one) // 2] += (0.004, 0.0, 0.0)
    yield "one atom moved", changed(atoms, one)
    yield "all atoms moved", changed(atoms, atoms.positions + rng.normal(size=one.shape) * 2e-3)
    if atoms.pbc.any():
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array * 1.001, scale_atoms=True)
        yield "strained", strained
    element = atoms.copy()
    element.numbers[0] = 47
    yield "another element", element
    yield "fewer atoms", atoms[1:]
    yield "another direction open", changed_pbc(atoms)


def changed_pbc(atoms):
    other = atoms.copy()
    if not other.cell.array[0].any():
        other.cell[0, 0] = 20.0
    other.pbc = [not atoms.pbc[0], *atoms.pbc[1:]]
    return other


def placed(frames, match="element"):
    n = [len(atoms) for atoms in frames]
    of_pairs = {"pair_elements": (0, 2), "pair_smallest": 0, "pair_histogram": (0, 1)}
    arrays = {
        "rows": np.zeros((sum(n), 1)),
        "numbers": np.concatenate([atoms.numbers for atoms in frames]).astype(np.uint8),
        "atom_frame": np.repeat(np.arange(len(n)), n),
        "atom_index": np.concatenate([np.arange(k) for k in n]),
        "positions": np.concatenate([atoms.positions for atoms in frames]).astype(np.float32),
        "cells": np.array([atoms.cell.array for atoms in frames], dtype=np.float32),
        "pbc": np.array([atoms.pbc for atoms in frames]),
        "frame_natoms": np.array(n),
    }
    of_frames = ("frame_source", "frame_index", "frame_group", "frame_volume", "frame_time", "frame_temperature")
    arrays |= {name: np.zeros(len(n), np.int64) for name in of_frames}
    return Placed.of(ReferenceArrays(**arrays, **{name: np.zeros(shape) for name, shape in of_pairs.items()}), match)


def are_same(one, other, tolerance=3e-4):
    """Every shift that puts the first atom on one of its element, and every atom on the nearest of its element."""
    if len(one) != len(other) or (one.pbc != other.pbc).any():
        return False
    if np.abs((one.cell.array - other.cell.array)[one.pbc]).max(initial=0.0) > tolerance:
        return False
    for to in np.flatnonzero(other.numbers == one.numbers[0]):
        left, all_on = set(range(len(other))), True
        for position, z in zip(one.positions + other.positions[to] - one.positions[0], one.numbers, strict=True):
            vectors, _ = find_mic(other.positions - position, other.cell, other.pbc)
            on = [k for k in left if other.numbers[k] == z and np.abs(vectors[k]).max() <= 2 * tolerance]
            if not on:
                all_on = False
                break
            left.remove(on[0])
        if all_on:
            return True
    return False


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_is_recognised_whatever_its_text_order_and_place(name):
    atoms = FRAMES[name]()
    named = dict(copies(atoms))
    first = first_same(placed([atoms, *named.values()]))
    assert [what for what, j in zip(named, first[1:], strict=True) if j != 0] == []


@pytest.mark.parametrize("name", FRAMES)
def test_other_frames_are_others(name):
    atoms = FRAMES[name]()
    named = dict(others(atoms))
    assert [
        what for what, i in zip(named, first_same(placed([atoms, *named.values()]))[1:], strict=True) if i == 0
    ] == []


def test_a_mixed_set_is_told_apart_as_one_by_one():
    frames = [FRAMES[name]() for name in FRAMES]
    frames += [FRAMES[name]() for name in ("compound", "molecule")]
    frames += [
        copy
        for name in ("compound", "skewed cell", "wire", "molecule")
        for _, copy in list(copies(FRAMES[name](), 3))[4:]
    ]
    frames += [vacancy(17), *(other for _, other in others(FRAMES["wire"]()))]
    frames = [frames[i] for i in np.random.default_rng(0).permutation(len(frames))]
    naive = list(range(len(frames)))
    for j, i in itertools.combinations(range(len(frames)), 2):
        if naive[j] == j and naive[i] == i and are_same(frames[j], frames[i]):
            naive[i] = j
    assert first_same(placed(frames)).tolist() == naive


def test_elements_do_not_count_where_rows_do_not_see_them():
    copper_, gold = FRAMES["crystal"](), FRAMES["crystal"]()
    gold.numbers[:] = 79
    assert first_same(placed([copper_, gold])).tolist() == [0, 1]
    assert first_same(placed([copper_, gold], "any")).tolist() == [0, 0]


def test_thousands_of_frames_are_compared_in_seconds():
    rng, made = np.random.default_rng(0), bulk("Cu", cubic=True) * 2
    frames = [changed(made, made.positions + rng.normal(size=(32, 3)) * 0.1) for _ in range(3000)]
    again = [atoms[rng.permutation(32)] for atoms in frames[:300]]
    of = placed([*frames, *again, *[made] * 1000])
    start = time.perf_counter()
    first = first_same(of)
    assert time.perf_counter() - start < 20  # half a second where nothing else runs
    assert (first[:3000] == np.arange(3000)).all()
    assert (first[3000:3300] == np.arange(300)).all()
    assert (first[3300:] == 3300).all()


# in a reference


@pytest.fixture(scope="module")
def some():
    rng = np.random.default_rng(2)
    return [changed(atoms, atoms.positions + rng.normal(size=(32, 3)) * 1e-7) for atoms in map(warm, range(12))]


def warm(seed):
    return copper(seed=seed, rattle=0.1)


KINDS = [name for name, _ in copies(Atoms("Cu"))]


@pytest.mark.parametrize("kind", KINDS)
def test_copies_share_their_group_after_an_extension(some, kind):
    reference = Reference.from_frames(some, groups="frame")
    grown = reference.extend([dict(copies(atoms, 5))[kind] for atoms in some[::2]], groups="frame")
    assert len(np.unique(grown.arrays.frame_group)) == 12
    assert grown.arrays.frame_group[12:].tolist() == list(range(0, 12, 2))
    assert "6 frame(s) that repeat an earlier one share its group" in grown.provenance["groups"]


def test_a_trajectory_and_its_text_have_the_same_groups(some, tmp_path):
    write(tmp_path / "run.traj", some)
    write(tmp_path / "run.xyz", some)
    reference = Reference.from_frames(tmp_path / "run.traj", groups="frame")
    grown = reference.extend(tmp_path / "run.xyz", groups="frame")
    assert len(np.unique(grown.arrays.frame_group)) == 12
    both = Reference.merge([reference, Reference.from_frames(tmp_path / "run.xyz", groups="frame")])
    assert len(np.unique(both.arrays.frame_group)) == 12


@pytest.mark.parametrize("kind", KINDS)
def test_copies_among_frames_that_were_added_are_found(some, kind):
    added = [dict(copies(atoms, 5))[kind] for atoms in (some[3], some[1])]
    grown = Reference.from_frames(some[:6], groups="frame").extend([warm(40), *added], groups="file")
    assert copies_of(grown, range(6)).tolist() == [0, 1, 2, 3, 4, 5, -1, 3, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_separate_frames_of_the_reference_are_left_out(some, kind):
    reference = Reference.from_frames(some, groups="frame")
    own = [dict(copies(atoms, 5))[kind] for atoms in some[:5]]
    with pytest.warns(UserWarning, match="frames: left out 5 of 13, which are in the reference"):
        found = calibrate(reference, frames=[*own, *map(warm, range(50, 58))], statistics=("dh_mean",), groups="frame")
    assert found.n_groups == 8


def test_a_strained_crystal_is_not_another_that_has_its_rows():
    frames = []
    for axis in (0, 1):
        atoms = bulk("Cu", cubic=True) * 2
        cell = atoms.cell.array.copy()
        cell[axis] *= 1.02
        atoms.set_cell(cell, scale_atoms=True)
        frames.append(atoms)
    one, other = (Reference.from_frames([atoms]) for atoms in frames)
    assert np.allclose(one.rows, other.rows)
    assert not frames_also_in(one, other).any()
    assert frames_also_in(one, one).all()


def test_rows_of_a_descriptor_of_ones_own_may_come_from_anything():
    """Four atoms at the same places, with rows of their own in each frame."""
    rows = np.random.default_rng(0).normal(size=(6, 4, 2))
    frames = [carrying(one) for one in (*rows, rows[2])]
    reference = Reference.from_frames(frames, descriptor=Given(), bandwidth=0.5, groups="frame")
    assert reference.arrays.frame_group.tolist() == [0, 1, 2, 3, 4, 5, 2]
    assert copies_of(reference, range(6)).tolist() == [0, 1, 2, 3, 4, 5, 2]
    other = Reference.from_frames([carrying(rows[1]), carrying(rows[1] + 1)], descriptor=Given(), bandwidth=0.5)
    assert frames_also_in(other, reference).tolist() == [True, False]
