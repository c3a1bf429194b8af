import itertools
import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from quests_md.environments import Window

CELLS = {
    "cubic": np.diag([6.0, 6.0, 6.0]),
    "triclinic": np.array([[6.0, 0.0, 0.0], [2.5, 5.5, 0.0], [-1.5, 2.0, 6.5]]),
    "left-handed": np.array([[6.0, 0.0, 0.0], [2.5, 5.5, 0.0], [1.5, 2.0, -6.5]]),
    # no unit vector can stand for an axis that is not periodic
    "permuted": np.array([[0.0, 6.0, 0.0], [0.0, 0.0, 5.5], [6.5, 0.3, 0.0]]),
}
PBC = list(itertools.product((True, False), repeat=3))


def walk(cell, pbc, n_frames=6, *, seed=0, n_atoms=12, step=0.4):
    """Frames of atoms that wander, each wrapped into its cell along periodic directions, and positions unwrapped."""
    rng = np.random.default_rng(seed)
    start = rng.random((n_atoms, 3)) @ cell
    paths = start + np.cumsum(rng.normal(0, step, (n_frames, n_atoms, 3)), axis=0)
    frames = []
    for positions in paths:
        atoms = Atoms(f"Cu{n_atoms}", positions, cell=cell, pbc=pbc)
        atoms.wrap(eps=0)
        frames.append(atoms)
    return frames, paths


def averaged(frames):
    window = Window(len(frames))
    for atoms in frames:
        window.push(atoms)
    assert window.is_full
    return window.mean(frames[-1])


def same_but_for_lattice_vectors(a, b, cell, pbc):
    """Largest distance of the two sets of positions, up to whole lattice vectors along periodic directions."""
    turns = (a - b) @ np.linalg.inv(cell)
    turns = np.where(pbc, np.round(turns), 0)
    return np.abs(a - b - turns @ cell).max()


@pytest.mark.parametrize("pbc", PBC, ids=str)
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_the_mean_is_that_of_the_unwrapped_positions_in_any_cell(cell, pbc):
    frames, paths = walk(cell, pbc)
    if any(pbc):
        crossings = sum(np.abs(np.diff([f.positions for f in frames], axis=0)).max(axis=(1, 2)) > 2.5)
        assert crossings  # otherwise nothing is tested
    mean = averaged(frames)
    assert same_but_for_lattice_vectors(mean.positions, paths.mean(axis=0), cell, pbc) < 1e-12
    assert np.allclose(mean.cell.array, cell, atol=1e-14)
    assert (mean.pbc == frames[0].pbc).all()


def test_positions_that_are_not_wrapped_give_the_same():
    cell = CELLS["triclinic"]
    frames, paths = walk(cell, True, n_frames=12, step=0.8)
    unwrapped = [Atoms("Cu12", x, cell=cell, pbc=True) for x in paths]
    assert same_but_for_lattice_vectors(averaged(frames).positions, averaged(unwrapped).positions, cell, True) < 1e-12


def test_a_breathing_cell_does_not_blur_atoms_at_rest():
    rng = np.random.default_rng(0)
    fractions = rng.random((20, 3))
    base = CELLS["triclinic"]
    cells = [base @ (np.eye(3) + rng.normal(0, 0.005, (3, 3))) for _ in range(8)]
    frames = []
    for cell in cells:
        atoms = Atoms("Cu20", fractions @ cell + 7 * cell[0], cell=cell, pbc=True)
        atoms.wrap(eps=0)
        frames.append(atoms)
    mean = averaged(frames)
    assert np.allclose(mean.cell.array, np.mean(cells, axis=0), atol=1e-13)
    assert same_but_for_lattice_vectors(mean.positions, fractions @ mean.cell.array, mean.cell.array, True) < 1e-12


def test_a_slab_keeps_its_vacuum_and_its_distances_from_the_surface():
    slab = fcc111("Cu", (2, 2, 4), vacuum=6.0)
    assert not slab.pbc[2]
    frames = []
    for scale in (1.0, 1.002, 0.998):
        frame = slab.copy()
        frame.set_cell(slab.cell.array * [[scale], [scale], [1]], scale_atoms=False)
        frame.positions[:, :2] *= scale
        frames.append(frame)
    mean = averaged(frames)
    assert np.allclose(mean.cell.array, slab.cell.array, atol=1e-12)
    assert np.allclose(mean.positions, slab.positions, atol=1e-12)


def test_a_molecule_needs_no_cell():
    frames = [molecule("CH3CH2OH") for _ in range(3)]
    rng = np.random.default_rng(0)
    for frame in frames:
        frame.positions += rng.normal(0, 0.1, frame.positions.shape)
    mean = averaged(frames)
    assert np.allclose(mean.positions, np.mean([f.positions for f in frames], axis=0), atol=1e-14)
    assert not mean.cell.array.any()


def test_the_window_slides():
    frames, paths = walk(CELLS["cubic"], True, n_frames=9)
    window = Window(4)
    for i, atoms in enumerate(frames):
        assert window.is_full == (i >= 4)
        window.push(atoms)
        expected = paths[max(0, i - 3) : i + 1].mean(axis=0)
        mean = window.mean(atoms).positions
        assert same_but_for_lattice_vectors(mean, expected, CELLS["cubic"], True) < 1e-12
    window.clear()
    assert len(window) == 0


def other_system(atoms, what):
    if what == "number":
        del atoms[0]
    elif what == "elements":
        atoms.numbers[:2] = 79
    elif what == "order":
        atoms.set_array("id", np.arange(len(atoms))[::-1].copy())
    elif what == "pbc":
        atoms.pbc = (True, True, False)
    else:  # a tilted cell flips: the same lattice in other vectors
        cell = atoms.cell.array
        atoms.set_cell([cell[0], cell[1] + cell[0], cell[2]])


@pytest.mark.parametrize("what", ["number", "elements", "order", "pbc", "cell"])
def test_another_system_begins_anew(what):
    frames, _ = walk(CELLS["cubic"], True, n_frames=6)
    window = Window(3)
    for atoms in frames[:3]:
        window.push(atoms)
    changed = [atoms.copy() for atoms in frames[3:]]
    for atoms in changed:
        other_system(atoms, what)
    window.push(changed[0])
    assert len(window) == 1
    if what != "cell":
        with pytest.raises(ValueError, match="expected the frame taken last"):
            window.mean(frames[2])
    window.push(changed[1])
    window.push(changed[2])
    assert window.is_full
    assert np.allclose(window.mean(changed[2]).positions, averaged(changed).positions)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["positions", "cell"])
def test_numbers_that_are_not_finite_are_in_no_average(bad, where):
    frames, _ = walk(CELLS["cubic"], True, n_frames=7)
    broken = frames[2]
    (broken.positions if where == "positions" else broken.cell.array)[0, 0] = bad
    window = Window(3)
    for i, atoms in enumerate(frames):
        window.push(atoms)
        if i == 2:
            assert len(window) == 0
            with pytest.raises(ValueError, match="empty"):
                window.mean(atoms)
        else:
            assert np.isfinite(window.mean(atoms).positions).all()
        assert window.is_full == (i >= 5)


def test_frames_are_not_changed_and_the_mean_is_a_copy_of_the_last():
    frames, _ = walk(CELLS["cubic"], True)
    for i, atoms in enumerate(frames):
        atoms.set_momenta(np.full((12, 3), float(i)))
        atoms.info["time_ps"] = 0.1 * i
        atoms.set_constraint(FixAtoms([0]))
        atoms.calc = EMT()
    before = [(a.positions.copy(), a.get_momenta()) for a in frames]
    mean = averaged(frames)
    for atoms, (positions, momenta) in zip(frames, before, strict=True):
        assert (atoms.positions == positions).all()
        assert (atoms.get_momenta() == momenta).all()
        assert atoms.constraints
    assert mean.calc is None
    assert not mean.constraints
    assert mean.info["time_ps"] == 0.5
    assert (mean.get_momenta() == 5.0).all()


@pytest.mark.parametrize("samples", [0, 2.0, True])
def test_samples_that_are_no_count(samples):
    with pytest.raises(ValueError, match="samples: expected an integer of at least 1"):
        Window(samples)
