"""Rows made on a device of torch, here its CPU, beside those of the kernels: any cell, any boundary, whole batches."""

import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from quests_md import Descriptor
from quests_md.environments import TensorBatch, close_pairs, rows_of_batch

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")


def batch_of(frames):
    numbers = np.concatenate([atoms.numbers for atoms in frames]).astype(np.int64)
    return TensorBatch(
        torch.from_numpy(np.concatenate([atoms.positions for atoms in frames])),
        torch.from_numpy(numbers),
        numbers,
        [len(atoms) for atoms in frames],
        np.array([atoms.cell.array for atoms in frames]),
        np.array([atoms.pbc for atoms in frames]),
        {},
    )


def parts(frames, descriptor):
    """For each frame the rows of the device, with whether they are open, and the bound; None: left to the CPU."""
    found, batch = rows_of_batch(descriptor, batch_of(frames), {}), batch_of(frames)
    for i, is_bad in enumerate(found.is_bad.tolist()):
        here = batch.here(i)
        arrays = [x[here].numpy() for x in (found.plain, found.averaged, found.is_open, found.is_open_averaged)]
        yield None if is_bad else (*arrays, float(found.noise[i]))


def require_equal(frames, descriptor=None):
    """The share of atoms whose averaged rows the device leaves open; all others must be those of the CPU."""
    descriptor = descriptor or Descriptor()
    n_open = 0
    for atoms, part in zip(frames, parts(frames, descriptor), strict=True):
        assert part is not None
        plain, averaged, is_open, is_open_averaged, noise = part
        both = descriptor.both_scales(atoms)
        for mine, its, open_ in ((both.plain, plain, is_open), (both.averaged, averaged, is_open_averaged)):
            assert (np.linalg.norm(mine - its, axis=1)[~open_] <= noise).all()
        n_open += int(is_open_averaged.sum())
    return n_open / sum(map(len, frames))


def rattled(atoms, rng, pbc=None, *, strain=0.0, shift=0.0):
    frame = atoms.copy()
    frame.rattle(0.1, rng=rng)
    frame.set_cell(frame.cell.array + rng.normal(0, strain, (3, 3)), scale_atoms=True)
    frame.positions += rng.normal(0, shift, 3)
    frame.pbc = frame.pbc if pbc is None else pbc
    return frame


def cells():
    """From one atom to some hundreds: fcc, hcp, diamond, an alloy, each skewed as well."""
    return [
        bulk("Cu"),
        bulk("Cu", cubic=True),
        bulk("Ti"),
        bulk("Si") * (3, 3, 2),
        bulk("NaCl", "rocksalt", a=5.6, cubic=True) * 2,
    ]


@pytest.mark.parametrize("pbc", [True, False, (True, True, False), (False, True, False)])
@pytest.mark.parametrize("settings", [(32, 5.0), (6, 3.2), (40, 6.5)])
def test_rows_of_any_cell_and_boundary_are_those_of_the_cpu(pbc, settings):
    rng = np.random.default_rng(len(str(pbc)))
    frames = [
        rattled(atoms, rng, pbc, strain=strain, shift=shift)
        for atoms in cells()
        for strain, shift in ((0.0, 0.0), (0.3, 30.0), (1.0, 1e4))
    ]
    frames += [rattled(molecule(name), rng) for name in ("C6H6", "CH3CH2OH", "H2")]
    assert require_equal(frames, Descriptor(*settings)) < 0.1  # few atoms have images in pairs at equal distances


def test_one_atom_atoms_far_apart_and_a_very_flat_cell():
    flat = bulk("Cu", cubic=True) * 2
    flat.set_cell(np.array([[1, 0, 0], [2.3, 1, 0], [0.4, -5.2, 1]]) @ flat.cell.array, scale_atoms=True)
    flat.rattle(0.05, seed=1)
    frames = [Atoms("Cu"), Atoms("Cu2", positions=[[0, 0, 0], [1e7, 0, 300.0]]), flat]
    frames.append(Atoms("Cu3", positions=[[0, 0, 0], [2.5, 0, 0], [0, 4.9999999999, 0]]))
    require_equal(frames)


def test_ties_are_left_open_or_broken_as_on_the_cpu():
    """Perfect lattices: where the k-th neighbour is tied the CPU is asked, and ties of averages are shared."""
    frames = [
        bulk("Cu") * (3, 3, 3),
        bulk("Si") * (2, 2, 2),
        bulk("W", cubic=True) * 3,
        fcc111("Cu", (3, 3, 4), vacuum=8.0),
    ]
    assert require_equal(frames) > 0.2
    assert require_equal(frames, Descriptor(12, 4.5)) < 1.0
    assert require_equal([bulk("Cu") * (3, 3, 3)], Descriptor(42, 4.6)) == 0.0  # 42 atoms in three whole shells
    near_tie = bulk("Cu", cubic=True) * 3
    near_tie.rattle(3e-9, seed=2)
    require_equal([near_tie])


def test_one_bad_system_leaves_the_others_as_they_are():
    rng = np.random.default_rng(4)
    good = [rattled(atoms, rng) for atoms in cells()]
    lost, collapsed, zero, dense = (good[1].copy() for _ in range(4))
    lost.positions[2, 1] = math.nan
    collapsed.set_cell(collapsed.cell.array * 1e-3, scale_atoms=True)
    zero.set_cell(np.zeros((3, 3)))
    dense = Atoms(f"Cu{2000}", positions=rng.normal(0, 0.5, (2000, 3)))
    far = good[3].copy()
    far.positions[0] = 1e30
    mixed = [lost, good[0], collapsed, good[1], zero, good[2], dense, good[3], far, good[4]]
    found = list(parts(mixed, Descriptor()))
    assert [part is None for part in found] == [i % 2 == 0 for i in range(9)] + [False]
    for part, alone in zip(found[1::2], parts(good, Descriptor()), strict=True):
        for one, other in zip(part, alone, strict=True):
            assert np.array_equal(one, other)


def test_atoms_on_top_of_each_other_have_finite_rows_and_no_useful_bound():
    atoms = bulk("Cu", cubic=True) * 2
    atoms.positions[1] = atoms.positions[0]
    ((plain, *_, noise),) = parts([atoms], Descriptor())
    assert np.isfinite(plain).all()
    assert noise > 1e-3
    both = Descriptor().both_scales(atoms)
    assert both.plain[:, 0].max() == pytest.approx(plain[:, 0].max())


def test_float32_positions_and_settings_of_torch_do_not_count():
    frames = [rattled(atoms, np.random.default_rng(5)) for atoms in cells()]
    before = rows_of_batch(Descriptor(), batch_of(frames), {})
    torch.use_deterministic_algorithms(True)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
            after = rows_of_batch(Descriptor(), batch_of(frames), {})
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_frames_with_atoms_that_are_too_near_are_told_by_elements():
    distances = {(1, 6): (1.05, 1.09), (1, 1): (1.7, 1.8), (6, 6): (1.35, 1.4)}
    quiet, bent, far = molecule("C6H6"), molecule("C6H6"), molecule("C6H6")
    bent.positions[1] = bent.positions[0] + [0.0, 0.0, 1.0]  # fine for C and H, too near for C and C
    far.set_cell([6.0, 6.0, 1.0])
    far.pbc = (False, False, True)
    crowded = Atoms("C2", positions=[[0, 0, 0], [0, 0, 0.4]])
    frames = [quiet, bent, far, crowded]
    assert rows_of_batch(Descriptor(), batch_of(frames), distances).is_roomy.tolist() == [True, False, False, False]
    assert [not close_pairs(atoms, distances).n_pairs for atoms in frames] == [True, False, False, False]
    assert rows_of_batch(Descriptor(), batch_of(frames), {}).is_roomy.tolist() == [True, True, True, False]
