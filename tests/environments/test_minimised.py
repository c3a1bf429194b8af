import functools
import math
import pickle
import threading

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import FIRE
from systems import CountingEMT, copper, verlet

from quests_md import Descriptor, FrameError, Minimised, MismatchError, Monitor, Reference, score_trajectory


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
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
    reference = Reference.from_frames(frames, descriptor=descriptor, bandwidth=0.015)
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
    reference = Reference.from_frames(frames, descriptor=Minimised(CountingEMT, "EMT", steps=3), bandwidth=0.015)
    copied = pickle.loads(pickle.dumps(reference))
    assert np.array_equal(copied.delta_entropy(frames[0]), reference.delta_entropy(frames[0]))


class OneAtATime(EMT):
    """Notices two calculations at the same time, and fails when told to."""

    busy, fails = threading.Lock(), False

    def calculate(self, *args, **kwargs):
        if self.fails:
            raise RuntimeError("lost atoms")
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


def test_a_failing_calculator_is_no_explosion_but_a_failure_of_the_monitor(caplog, monkeypatch):
    with Monitor(minimised_reference(), log=None, statistics=("dh_max",)) as monitor:
        with monkeypatch.context() as patch:
            patch.setattr(OneAtATime, "fails", True)
            assert monitor.check(copper(rattle=0.1, seed=20)).state == "invalid"
        assert monitor.events == []
        assert "lost atoms" in caplog.text
        assert monitor.check(copper(rattle=0.1, seed=20)).state == "in"


def test_workers_share_one_calculator():
    reference = minimised_reference()
    frames = [copper(rattle=0.1, seed=30 + i) for i in range(4)]
    one, several = ([check.dh_max for check in score_trajectory(frames, reference, workers=n)] for n in (1, 3))
    assert one == several
