import functools
import itertools
import math
import pickle
import threading

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.optimize import FIRE
from systems import FS, CountingEMT, copper, verlet

from quests_md import Descriptor, FrameError, MismatchError, Monitor, Reference, score_trajectory
from quests_md.environments.minimised import Minimised
from quests_md.environments.time_averaged import TimeAveraged, Window
from quests_md.judge.phases import Phases

H = 0.015  # 1/Å

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


def naive_mean(frames):
    """Mean of positions, each brought to the image nearest to the atom in the frame before, looked for one by one."""
    cell, pbc = frames[0].cell.array, frames[0].pbc
    shifts = [n @ cell for n in itertools.product(*[range(-3, 4) if p else [0] for p in pbc])]
    followed = [frames[0].positions.copy()]
    for atoms in frames[1:]:
        positions = [
            min((x + shift for shift in shifts), key=lambda image, last=last: np.linalg.norm(image - last))
            for x, last in zip(atoms.positions, followed[-1], strict=True)
        ]
        followed.append(np.array(positions))
    return np.mean(followed, axis=0)


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


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)], ids=str)
def test_the_mean_is_that_of_naive_unwrapping(pbc):
    frames, _ = walk(CELLS["cubic"], pbc, seed=3)
    assert np.allclose(averaged(frames).positions, naive_mean(frames), atol=1e-12)


def test_positions_that_are_not_wrapped_give_the_same():
    cell = CELLS["triclinic"]
    frames, paths = walk(cell, True, n_frames=12, step=0.8)
    unwrapped = [Atoms("Cu12", x, cell=cell, pbc=True) for x in paths]
    assert same_but_for_lattice_vectors(averaged(frames).positions, averaged(unwrapped).positions, cell, True) < 1e-12


def test_a_plain_mean_of_wrapped_positions_would_not_do():
    frames, paths = walk(CELLS["cubic"], True)
    plain = np.mean([f.positions for f in frames], axis=0)
    assert same_but_for_lattice_vectors(plain, paths.mean(axis=0), CELLS["cubic"], True) > 0.5


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


def timed_walk(times, **changes):
    frames, paths = walk(CELLS["cubic"], True, n_frames=len(times), **changes)
    for atoms, time_ps in zip(frames, times, strict=True):
        atoms.info["time_ps"] = time_ps
    return frames, paths


def test_a_trajectory_is_averaged_in_blocks_between_its_gaps():
    times = [0.0, 0.02, 0.04, 0.06, 0.08, 1.0, 1.02, 2.0, 2.0201, 2.04]
    frames, paths = timed_walk(times)
    found = list(TimeAveraged(samples=3).frames(frames))
    assert [atoms.info["time_ps"] for atoms in found] == [0.04, 2.04]
    for atoms, block in zip(found, (slice(0, 3), slice(7, 10)), strict=True):
        expected = paths[block].mean(axis=0)
        assert same_but_for_lattice_vectors(atoms.positions, expected, CELLS["cubic"], True) < 1e-12


def test_no_average_is_over_two_files(tmp_path):
    frames, _ = timed_walk([0.0, 0.02, 0.04, 0.06])
    write(tmp_path / "a.xyz", frames[:2])
    write(tmp_path / "b.xyz", frames[2:])
    paths = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    assert [a.info["time_ps"] for a in TimeAveraged(samples=2).frames(paths)] == [0.02, 0.06]
    with pytest.raises(ValueError, match="got none"):
        list(TimeAveraged(samples=3).frames(paths))


def test_trajectories_that_cannot_be_averaged_say_why():
    frames, _ = timed_walk([0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"3 frames in a row, 0\.02 ps apart, got none \(the nearest two are 1 ps"):
        list(TimeAveraged(samples=3).frames(frames))
    del frames[1].info["time_ps"]
    with pytest.raises(ValueError, match=r"memory, frame 1: expected a time in info\['time_ps'\], got none"):
        list(TimeAveraged(samples=2).frames(frames))
    frames, _ = timed_walk([0.0, 0.02])
    once = list(TimeAveraged(samples=2).frames(frames))
    with pytest.raises(ValueError, match=r"got an average over 2 x 0\.02 ps"):
        list(TimeAveraged(samples=2).frames(once))


def thermal(n_frames, *, seed=0, size=2):
    """Frames of copper, 0.02 ps apart, that shake independently."""
    frames = [copper(size, seed=seed + i, rattle=0.1) for i in range(n_frames)]
    for i, atoms in enumerate(frames):
        atoms.info["time_ps"] = 0.02 * i
    return frames


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
    with pytest.raises(FrameError, match=r"one that is not averaged; average a trajectory with TimeAveraged\.frames"):
        descriptor(thermal(1)[0])
    with pytest.raises(FrameError, match=r"expected a frame averaged over 3 x 0\.02 ps, got 2 x 0\.02 ps"):
        TimeAveraged(samples=3)(mean)
    write(tmp_path / "mean.xyz", mean)
    assert np.allclose(descriptor(read(tmp_path / "mean.xyz")), descriptor(mean), atol=1e-6)


def test_a_reference_of_averages_remembers_and_refuses_to_mix(tmp_path):
    descriptor = TimeAveraged(samples=2)
    frames = thermal(12)
    reference = Reference.from_frames(descriptor.frames(frames), descriptor=descriptor, bandwidth=H)
    assert reference.n_frames == 6
    with pytest.raises(FrameError, match="not averaged"):
        reference.delta_entropy(frames[0])
    with pytest.raises(FrameError, match="not averaged"):
        Reference.from_frames(frames, descriptor=descriptor, bandwidth=H)
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
    assert Minimised(EMT, "EMT", descriptor=descriptor.descriptor).is_center(salt.numbers).tolist() == [False, True]
    assert descriptor.width == 7


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: TimeAveraged(samples=1), ValueError, "samples: expected an integer of at least 2, got 1"),
        (lambda: TimeAveraged(samples=2.0), ValueError, "samples"),
        (lambda: TimeAveraged(spacing_ps=0), ValueError, "spacing_ps: expected a positive time in ps, got 0"),
        (lambda: TimeAveraged(spacing_ps=math.nan), ValueError, "spacing_ps"),
        (lambda: TimeAveraged(10), TypeError, "descriptor: expected a Descriptor, got 10"),
        (lambda: Window(0), ValueError, "samples: expected an integer of at least 1, got 0"),
        (lambda: Minimised(EMT(), "EMT"), TypeError, "make_calculator: expected a function that returns a calculator"),
        (lambda: Minimised(EMT, ""), ValueError, "name: expected the name of the calculator"),
        (lambda: Minimised(EMT, "EMT", steps=0), ValueError, "steps: expected an integer of at least 1, got 0"),
        (lambda: Minimised(EMT, "EMT", steps=True), ValueError, "steps"),
        (lambda: Minimised(EMT, "EMT", fmax="low"), ValueError, "fmax: expected a positive force in eV/Å"),
    ],
)
def test_arguments_that_are_not_usable(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_the_minimiser_is_fire_as_long_as_no_step_is_limited():
    atoms = copper(rattle=0.03, seed=1, calc=EMT())
    reference = atoms.copy()
    reference.calc = EMT()
    FIRE(reference, logfile=None, maxstep=100).run(fmax=1e-9, steps=25)
    found = Minimised(EMT, "EMT", steps=25, fmax=1e-9).minimised(atoms)
    assert np.abs(found.positions - reference.positions).max() < 1e-10
    assert np.abs(found.positions - atoms.positions).max() > 0.05


def test_no_step_is_longer_than_the_limit():
    atoms = copper(rattle=0.3, seed=2)
    found = Minimised(EMT, "EMT", steps=1).minimised(atoms)
    moved = np.linalg.norm(found.positions - atoms.positions, axis=1)
    assert moved.max() == pytest.approx(0.1, abs=1e-12)
    assert moved.min() < 0.099  # each atom by itself


def test_it_ends_at_the_asked_force():
    calculator = CountingEMT()
    atoms = copper(rattle=0.05, seed=3)
    found = Minimised(lambda: calculator, "EMT", steps=500, fmax=0.02).minimised(atoms)
    found.calc = EMT()
    assert np.linalg.norm(found.get_forces(), axis=1).max() < 0.02
    assert calculator.calls < 100
    calculator = CountingEMT()
    Minimised(lambda: calculator, "EMT", steps=7, fmax=1e-9).minimised(atoms)
    assert calculator.calls == 7


def test_a_large_frame_comes_as_far_as_a_small_one():
    small = copper(rattle=0.25, seed=4)
    large = small * (2, 2, 2)
    minimised = Minimised(EMT, "EMT", steps=8).minimised
    assert np.allclose(minimised(large).positions, (minimised(small) * (2, 2, 2)).positions, atol=1e-9)


def test_thermal_noise_of_a_crystal_goes():
    perfect = Descriptor()(copper())[0]
    rows = Minimised(EMT, "EMT")(copper(rattle=0.1, seed=5))
    raw = Descriptor()(copper(rattle=0.1, seed=5))
    assert np.linalg.norm(rows - perfect, axis=1).max() < np.linalg.norm(raw - perfect, axis=1).mean() / 10


def test_the_frame_and_its_calculator_are_not_touched():
    live = CountingEMT()
    atoms = copper(rattle=0.1, temperature_K=300, calc=live)
    atoms.set_constraint(FixAtoms([0]))
    atoms.info["step"] = 3
    atoms.get_forces()
    calls, results = live.calls, {key: np.copy(value) for key, value in live.results.items()}
    before = atoms.copy()
    descriptor = Minimised(EMT, "EMT", steps=5)
    descriptor(atoms)
    assert atoms == before
    assert (atoms.get_momenta() == before.get_momenta()).all()
    assert atoms.info == {"step": 3}
    assert atoms.constraints
    assert atoms.calc is live
    assert live.calls == calls
    assert all(np.array_equal(live.results[key], value) for key, value in results.items())
    assert not live.calculation_required(atoms, ["forces"])
    copied = descriptor.minimised(atoms)
    assert copied.calc is None
    assert not copied.constraints
    assert (copied.positions[0] != atoms.positions[0]).any()


def test_the_same_frame_gives_the_same_rows_whatever_came_before():
    frames = [copper(rattle=0.1, seed=6), copper(1, rattle=0.1, seed=7), bulk("Au", cubic=True)]
    near = frames[0].copy()
    near.positions += 0.01  # nearer than the skin of a neighbour list
    near.positions[0] += 0.02
    fresh = [Minimised(EMT, "EMT", steps=4)(atoms) for atoms in frames]
    used = Minimised(EMT, "EMT", steps=4)
    used(near)
    for atoms, rows in zip(frames * 2, fresh * 2, strict=True):
        assert np.array_equal(used(atoms), rows)


class Reset(EMT):
    """Says what it was asked."""

    said = ()

    def reset(self):
        self.said += ("reset",)
        super().reset()

    def calculate(self, *args, **kwargs):
        self.said += ("calculate",)
        super().calculate(*args, **kwargs)


def test_results_of_the_last_frame_are_reset():
    calculator = Reset()
    descriptor = Minimised(lambda: calculator, "EMT", steps=1)
    descriptor(copper(rattle=0.1))
    descriptor(copper(rattle=0.1))  # the very same
    assert calculator.said == ("reset", "calculate") * 2


class Failing(Calculator):
    implemented_properties = ("energy", "forces")

    def __init__(self, failure):
        super().__init__()
        self.failure = failure

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.failure is not None:
            raise self.failure
        self.results = {"energy": 0.0, "forces": np.full((len(atoms), 3), np.nan)}


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (RuntimeError("lost atoms"), "the minimisation with broken failed: RuntimeError: lost atoms"),
        (None, "expected finite forces"),
    ],
)
def test_a_calculator_that_fails_is_said_so_and_thrown_away(failure, text):
    made = []

    def make():
        made.append(Failing(failure) if not made else EMT())
        return made[-1]

    descriptor = Minimised(make, "broken", steps=2)
    atoms = copper(rattle=0.1)
    with pytest.raises(RuntimeError, match=text):
        descriptor(atoms)
    assert np.array_equal(descriptor(atoms), Minimised(EMT, "EMT", steps=2)(atoms))
    assert len(made) == 2


def test_a_calculator_that_cannot_be_made_is_no_fault_of_the_frame():
    def make():
        raise ImportError("no such potential")

    with pytest.raises(ImportError, match="no such potential"):
        Minimised(make, "absent")(copper())


def test_the_calculator_is_not_asked_about_numbers_that_are_not_finite():
    calculator = CountingEMT()
    atoms = copper()
    atoms.positions[3, 1] = math.nan
    with pytest.raises(FrameError, match="expected finite numbers"):
        Minimised(lambda: calculator, "EMT")(atoms)
    assert calculator.calls == 0


def test_a_reference_of_minimised_frames_remembers_and_refuses_to_mix(tmp_path):
    frames = [copper(rattle=0.1, seed=i) for i in range(4)]
    descriptor = Minimised(EMT, "EMT", steps=5)
    reference = Reference.from_frames(frames, descriptor=descriptor, bandwidth=H)
    reference.save(tmp_path / "ref.safetensors")
    for other in (
        Minimised(EMT, "another", steps=5),
        Minimised(EMT, "EMT", steps=6),
        Minimised(EMT, "EMT", steps=5, fmax=0.1),
        Minimised(EMT, "EMT", steps=5, descriptor=Descriptor(k=8)),
        Descriptor(),
    ):
        with pytest.raises(MismatchError, match=r"of frames minimised with EMT, 5 steps, 0\.05 eV/Å', got"):
            Reference.load(tmp_path / "ref.safetensors", descriptor=other)
    loaded = Reference.load(tmp_path / "ref.safetensors", descriptor=Minimised(EMT, "EMT", steps=5))
    new = copper(rattle=0.1, seed=9)
    expected = reference.delta_entropy(new, float64=True)
    assert np.array_equal(loaded.delta_entropy(new, float64=True), expected)
    with pytest.raises(MismatchError, match="build both with the same settings"):
        Reference.merge([reference, Reference.from_frames(frames)])


def test_references_can_be_pickled_and_the_copy_makes_its_own_calculator():
    frames = [copper(rattle=0.1, seed=i) for i in range(3)]
    reference = Reference.from_frames(frames, descriptor=Minimised(CountingEMT, "EMT", steps=3), bandwidth=H)
    copied = pickle.loads(pickle.dumps(reference))
    assert np.array_equal(copied.delta_entropy(frames[0]), reference.delta_entropy(frames[0]))


class OneAtATime(EMT):
    """Notices two calculations at the same time."""

    busy = threading.Lock()

    def calculate(self, *args, **kwargs):
        assert self.busy.acquire(blocking=False)
        try:
            super().calculate(*args, **kwargs)
        finally:
            self.busy.release()


@functools.cache
def minimised_reference():
    frames = [copper(rattle=0.1, seed=i) for i in range(8)]
    descriptor = Minimised(OneAtATime, "EMT", steps=2)
    return Reference.from_frames(frames, descriptor=descriptor, bandwidth=0.05, groups="frame")


def test_a_monitor_in_a_loop_does_not_disturb_the_run(recwarn):
    reference = minimised_reference()

    def run(monitor):
        calculator = CountingEMT()
        atoms = copper(temperature_K=600, seed=8, calc=calculator)
        dyn = verlet(atoms)
        checks = []
        for _ in range(4):
            dyn.run(2)
            if monitor is not None:
                checks.append(monitor.check(atoms, step=dyn.nsteps, time_ps=0.005 * dyn.nsteps))
        return atoms, calculator.calls, checks

    with Monitor(reference, log=None, on_error="raise") as monitor:
        watched, calls, checks = run(monitor)
    alone, calls_alone, _ = run(None)
    assert np.array_equal(watched.positions, alone.positions)
    assert np.array_equal(watched.get_momenta(), alone.get_momenta())
    assert calls == calls_alone
    assert all(check.state in ("in", "out") for check in checks)
    again = reference.delta_entropy(watched, float64=True)
    assert checks[-1].dh_mean == pytest.approx(again.mean(), abs=1e-3)
    raw = Reference.from_frames([copper(rattle=0.1, seed=i) for i in range(8)], bandwidth=0.05)
    assert abs(again.mean() - raw.delta_entropy(watched).mean()) > 0.1  # it was not the frame itself


def test_a_failing_calculator_is_no_explosion_but_a_failure_of_the_monitor(caplog):
    reference = minimised_reference()
    with Monitor(reference, log=None) as monitor:
        reference.descriptor._calculator = Failing(RuntimeError("lost atoms"))
        check = monitor.check(copper(rattle=0.1, seed=20))
        assert check.state == "invalid"
        assert monitor.events == []
        assert "lost atoms" in caplog.text
        assert monitor.check(copper(rattle=0.1, seed=20)).state == "in"


def test_workers_share_one_calculator():
    reference = minimised_reference()
    frames = [copper(rattle=0.1, seed=30 + i) for i in range(4)]
    one, several = ([check.dh_max for check in score_trajectory(frames, reference, workers=n)] for n in (1, 3))
    assert one == several


# live


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
