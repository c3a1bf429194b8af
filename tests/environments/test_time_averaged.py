import itertools
import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read, write
from ase.md.langevin import Langevin
from systems import FS, CountingEMT, copper

from quests_md import Descriptor, MismatchError, Monitor, Reference, TimeAveraged, UnsuitableFrameError
from quests_md.environments import Window
from quests_md.judge.phases import Phases


def thermal(times, *, seed=0):
    """Frames of copper at these times in ps, or so many 0.02 ps apart, that shake independently."""
    times = 0.02 * np.arange(times) if isinstance(times, int) else times
    frames = [copper(seed=seed + i, rattle=0.1) for i in range(len(times))]
    for atoms, time_ps in zip(frames, times, strict=True):
        atoms.info["time_ps"] = float(time_ps)
    return frames


def test_a_trajectory_is_averaged_in_blocks_between_its_gaps():
    times = [0.0, 0.02, 0.04, 0.06, 0.08, 1.0, 1.02, 2.0, 2.0201, 2.04]
    frames = thermal(times)
    found = list(TimeAveraged(samples=3).frames(frames))
    assert [atoms.info["time_ps"] for atoms in found] == [0.04, 2.04]
    for atoms, block in zip(found, (frames[0:3], frames[7:10]), strict=True):
        expected = np.mean([frame.positions for frame in block], axis=0)
        np.testing.assert_allclose(atoms.positions, expected, rtol=0, atol=1e-12)


def test_no_average_is_over_two_files(tmp_path):
    frames = thermal([0.0, 0.02, 0.04, 0.06])
    write(tmp_path / "a.xyz", frames[:2])
    write(tmp_path / "b.xyz", frames[2:])
    paths = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    assert [a.info["time_ps"] for a in TimeAveraged(samples=2).frames(paths)] == [0.02, 0.06]
    with pytest.raises(ValueError, match="got none"):
        list(TimeAveraged(samples=3).frames(paths))


def test_trajectories_that_cannot_be_averaged_say_why():
    frames = thermal([0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"3 frames in a row, 0\.02 ps apart, got none \(the nearest two are 1 ps"):
        list(TimeAveraged(samples=3).frames(frames))
    del frames[1].info["time_ps"]
    with pytest.raises(ValueError, match=r"memory, frame 1: expected a time in info\['time_ps'\], got none"):
        list(TimeAveraged(samples=2).frames(frames))
    frames = thermal([0.0, 0.02])
    once = list(TimeAveraged(samples=2).frames(frames))
    with pytest.raises(ValueError, match=r"got an average over 2 x 0\.02 ps"):
        list(TimeAveraged(samples=2).frames(once))


def test_averaging_takes_noise_away():
    descriptor = TimeAveraged(samples=10)
    perfect = Descriptor()(copper())[0]
    (mean,) = descriptor.frames(thermal(10))
    raw = np.linalg.norm(Descriptor()(thermal(1)[0]) - perfect, axis=1).mean()
    assert np.linalg.norm(descriptor(mean) - perfect, axis=1).mean() < raw / 2


def test_rows_are_those_of_the_averaged_frame_and_no_others(tmp_path):
    descriptor = TimeAveraged(Descriptor(k=12), samples=2)
    (mean,) = descriptor.frames(thermal(2))
    assert np.array_equal(descriptor(mean), Descriptor(k=12)(mean))
    with pytest.raises(
        UnsuitableFrameError, match=r"one that is not averaged; average a trajectory with TimeAveraged\.frames"
    ):
        descriptor(thermal(1)[0])
    with pytest.raises(UnsuitableFrameError, match=r"expected a frame averaged over 3 x 0\.02 ps, got 2 x 0\.02 ps"):
        TimeAveraged(samples=3)(mean)
    write(tmp_path / "mean.xyz", mean)
    assert np.allclose(descriptor(read(tmp_path / "mean.xyz")), descriptor(mean), atol=1e-6)


def test_a_reference_of_averages_remembers_and_refuses_to_mix(tmp_path):
    descriptor = TimeAveraged(samples=2)
    frames = thermal(12)
    reference = Reference.from_frames(descriptor.frames(frames), descriptor=descriptor, bandwidth=0.015)
    assert reference.n_frames == 6
    with pytest.raises(UnsuitableFrameError, match="not averaged"):
        reference.delta_entropy(frames[0])
    with pytest.raises(UnsuitableFrameError, match="not averaged"):
        Reference.from_frames(frames, descriptor=descriptor, bandwidth=0.015)
    reference.save(tmp_path / "ref.safetensors")
    with pytest.raises(ValueError, match=r"averaged over 2 x 0\.02 ps'.*give it to Reference\.load"):
        _ = Reference.load(tmp_path / "ref.safetensors").descriptor
    for other in (TimeAveraged(samples=3), TimeAveraged(samples=2, spacing_ps=0.03), TimeAveraged(Descriptor(k=8))):
        with pytest.raises(MismatchError, match=r"averaged over 2 x 0\.02 ps', got"):
            Reference.load(tmp_path / "ref.safetensors", descriptor=other)
    loaded = Reference.load(tmp_path / "ref.safetensors", descriptor=TimeAveraged(samples=2))
    (mean,) = descriptor.frames(thermal(2, seed=50))
    assert np.array_equal(loaded.delta_entropy(mean), reference.delta_entropy(mean))
    raw = Reference.from_frames(frames)
    with pytest.raises(MismatchError, match="build both with the same settings"):
        Reference.merge([reference, raw])
    with pytest.raises(MismatchError, match="build both with the same settings"):
        Phases({"a": raw, "b": reference})


def test_centers_stay_centers():
    descriptor = TimeAveraged(Descriptor(k=4, centers=("Cl",)), samples=2)
    salt = bulk("NaCl", "rocksalt", a=5.64)
    assert descriptor.is_center(salt.numbers).tolist() == [False, True]
    assert descriptor.is_neighbor(salt.numbers).all()
    assert descriptor.width == 7


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: TimeAveraged(samples=1), ValueError, "samples: expected an integer of at least 2, got 1"),
        (lambda: TimeAveraged(samples=2.0), ValueError, "samples"),
        (lambda: TimeAveraged(spacing_ps=0), ValueError, "spacing_ps: expected a positive time in ps, got 0"),
        (lambda: TimeAveraged(spacing_ps=math.nan), ValueError, "spacing_ps"),
        (lambda: TimeAveraged(10), TypeError, "descriptor: expected a Descriptor, got 10"),
    ],
)
def test_arguments_that_are_not_usable(make, error, text):
    with pytest.raises(error, match=text):
        make()


def averaged_run(dyn, descriptor, steps):
    """Frames of a run at the spacing of a descriptor, with their times."""
    frames = []

    def keep():
        frame = dyn.atoms.copy()
        frame.info["time_ps"] = dyn.get_time() / (1000 * FS)
        frames.append(frame)

    dyn.attach(keep, round(descriptor.spacing_ps / (dyn.dt / (1000 * FS))))
    dyn.run(steps)
    return frames


def langevin(seed, calc):
    atoms = copper(temperature_K=600, seed=seed, calc=calc)
    return Langevin(atoms, 2 * FS, temperature_K=300, friction=0.02 / FS, fixcm=False, rng=np.random.default_rng(seed))


@pytest.mark.slow
def test_an_attached_monitor_averages_the_run_itself_and_does_not_disturb_it():
    descriptor = TimeAveraged(samples=5, spacing_ps=0.004)
    reference = Reference.from_frames(
        descriptor.frames(averaged_run(langevin(1, EMT()), descriptor, 400)),
        descriptor=descriptor,
        bandwidth=0.05,
        groups="frame",
    )
    alone, watched = langevin(2, CountingEMT()), langevin(2, CountingEMT())
    frames = averaged_run(alone, descriptor, 60)
    with Monitor(reference, log=None, on_error="raise") as monitor:
        checks = []
        monitor.attach(watched, 20)
        watched.attach(lambda: checks.append(monitor.last_check), 20)
        watched.run(60)
    assert [check.step for check in checks[1:]] == [20, 40, 60]
    assert checks[0] is None  # at step 0 there is nothing to average
    for check in checks[1:]:
        place = check.step // 2
        mean = frames[place].copy()
        mean.positions = np.mean([frame.positions for frame in frames[place - 4 : place + 1]], axis=0)
        expected = reference.delta_entropy(descriptor.marked(mean))
        np.testing.assert_allclose(check.delta_entropy, expected, rtol=1e-6, atol=1e-3)
    np.testing.assert_array_equal(alone.atoms.positions, watched.atoms.positions)
    assert alone.atoms.calc.calls == watched.atoms.calc.calls


@pytest.mark.parametrize(
    ("interval", "spacing_ps", "text"),
    [
        (8, 0.004, "interval: expected a multiple of 2 steps, 10 at least"),
        (21, 0.004, "interval: expected a multiple of 2 steps"),
        (20, 0.005, "dyn: expected a time step of which 0.005 ps is a multiple"),
    ],
)
def test_a_run_that_cannot_be_averaged_so_is_refused(interval, spacing_ps, text):
    descriptor = TimeAveraged(samples=5, spacing_ps=spacing_ps)
    frames = [descriptor.marked(copper(rattle=0.05, seed=seed)) for seed in range(8)]
    reference = Reference.from_frames(frames, descriptor=descriptor, bandwidth=0.05, groups="frame")
    with Monitor(reference, log=None) as monitor, pytest.raises(ValueError, match=text):
        monitor.attach(langevin(3, EMT()), interval)


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
    unwrapped = averaged(
        [Atoms(atoms.numbers, path, cell=cell, pbc=pbc) for atoms, path in zip(frames, paths, strict=True)]
    )
    mean = averaged(frames)
    for positions in (mean.positions, unwrapped.positions):
        assert same_but_for_lattice_vectors(positions, paths.mean(axis=0), cell, pbc) < 1e-12
    assert np.allclose(mean.cell.array, cell, atol=1e-14)
    assert (mean.pbc == frames[0].pbc).all()


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
