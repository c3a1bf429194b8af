"""The calculator that carries dH: equal bits, equal numbers of calls, never a stale array, whatever moves the atoms."""

import copy
import functools
import pickle
from importlib.util import find_spec

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import MixedCalculator, SumCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import read, write
from ase.io.trajectory import Trajectory
from ase.md.verlet import VelocityVerlet
from systems import (
    DYNAMICS,
    FS,
    CountingEMT,
    H,
    TouchyEMT,
    alloy,
    cold_reference,
    copper,
    course,
    level_at,
    outside,
    run,
)

from quests_md import (
    Descriptor,
    FrameError,
    MismatchError,
    Monitor,
    MonitoredCalculator,
    Reference,
    StopRun,
    TimeAveraged,
    Trigger,
    read_log,
    save_frame,
    stop,
)
from quests_md.lammps import lammps_calculator

OWN = {"delta_entropy", "dh_grade"}


def wrapped(calc=None, reference=None, level=2.0, **options):
    reference = reference or cold_reference()
    return MonitoredCalculator(calc or CountingEMT(), reference, level_at(reference, level), **options)


def potential():
    return LennardJones(sigma=2.3, epsilon=0.4, rc=5)


def dh(atoms, reference=None):
    return (reference or cold_reference()).delta_entropy(atoms)


@functools.cache
def rattled_reference():
    return Reference.from_frames([copper(seed=i, rattle=0.06) for i in range(40)], bandwidth=H, groups="frame")


@functools.cache
def bare_course(name):
    """A run without the wrapper, and its calls."""
    seen = course(name, calc := CountingEMT())
    return seen, calc.calls


def seen_in_run(name, calc):
    """Everything one can see of a run but for what the calculator adds."""
    seen, energy, calls = course(name, calc)
    for look in seen:
        look["results"] = {key: value for key, value in look["results"].items() if key not in OWN}
    return seen, energy, calls


def grade_by_hand(dh, level):
    return np.where(dh > level, 1 + dh - level, np.exp(np.minimum(dh - level, 0)))


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("name", DYNAMICS)
def test_a_run_is_the_same_and_makes_the_same_calls(name, interval):
    bare, calls = bare_course(name)
    other = seen_in_run(name, inner := wrapped(interval=interval))
    assert other == bare
    assert inner.wrapped.calls == calls


def test_a_calculator_that_looks_at_info_is_asked_no_more_often():
    assert seen_in_run("verlet", wrapped(TouchyEMT())) == course("verlet", bare := TouchyEMT())
    assert bare.calls == 13


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("name", ["verlet", "bfgs", "cell"])
def test_each_due_geometry_carries_its_own_values_and_no_other_one_has_any(name, interval):
    atoms = copper(seed=5, rattle=0.05, temperature_K=400, calc=wrapped(interval=interval))
    seen = []

    def look():
        results = atoms.calc.results
        seen.append(set(results) & OWN)
        if seen[-1]:
            np.testing.assert_array_equal(results["delta_entropy"], dh(atoms))
            np.testing.assert_allclose(results["dh_grade"], grade_by_hand(results["delta_entropy"], 2.0), rtol=1e-14)

    dyn = DYNAMICS[name](atoms)
    dyn.attach(look, 1)
    run(dyn, 6)
    assert seen == [OWN if i % interval == 0 else set() for i in range(7)]


def test_only_what_is_asked_for_is_calculated():
    atoms = copper(rattle=0.05, calc=wrapped())
    calc = atoms.calc
    assert calc.get_property("delta_entropy", atoms, allow_calculation=False) is None
    assert calc.calculation_required(atoms, ["delta_entropy"])
    first = calc.get_property("delta_entropy", atoms)
    assert set(calc.results) == OWN
    assert (calc.wrapped.calls, first.dtype, first.shape) == (0, np.float64, (len(atoms),))
    assert not calc.calculation_required(atoms, ["delta_entropy", "dh_grade"])
    assert calc.calculation_required(atoms, ["delta_entropy", "forces"])
    atoms.get_forces()
    atoms.get_potential_energy()
    atoms.get_potential_energy(force_consistent=True)
    atoms.get_stress()
    assert calc.wrapped.calls == 1
    assert set(calc.results) == set(calc.wrapped.results) | OWN
    np.testing.assert_array_equal(calc.get_property("delta_entropy"), first)
    first[:] = 0  # what is given out is not what is kept
    calc.results["delta_entropy"][:] = 0
    np.testing.assert_array_equal(calc.get_property("delta_entropy", atoms), dh(atoms))
    atoms.positions[0, 0] += 0.1
    assert calc.get_property("dh_grade", atoms, allow_calculation=False) is None
    np.testing.assert_array_equal(calc.get_property("delta_entropy", atoms), dh(atoms))
    assert set(calc.results) == OWN  # energies are of the geometry before
    assert calc.wrapped.calls == 1


def test_values_are_found_once_for_a_geometry():
    made = []

    class Watching(Descriptor):
        def __call__(self, atoms, **options):
            made.append(len(atoms))
            return super().__call__(atoms, **options)

    reference = Reference.from_frames([copper(seed=i, rattle=0.01) for i in range(4)], descriptor=Watching())
    calc = wrapped(reference=reference)
    atoms = copper(rattle=0.05, calc=calc)
    del made[:]
    for _ in range(2):
        atoms.get_potential_energy(), atoms.get_forces(), calc.get_property("dh_grade", atoms), calc.results
    assert len(made) == 1
    atoms.pbc = False
    atoms.get_forces()
    atoms.set_array("own", np.zeros(len(atoms)))
    atoms.info["x"] = 1
    atoms.get_forces()
    assert len(made) == 2


def test_with_an_interval_values_that_are_asked_for_are_there_in_between():
    atoms = copper(rattle=0.05, calc=wrapped(interval=10))
    atoms.get_forces()
    atoms.positions[0, 0] += 0.1
    atoms.get_forces()
    assert not set(atoms.calc.results) & OWN
    np.testing.assert_array_equal(atoms.calc.get_property("delta_entropy", atoms), dh(atoms))
    assert atoms.calc.results.keys() >= OWN
    assert atoms.calc.wrapped.calls == 2


def test_a_grade_is_one_exactly_at_the_level_and_compares_as_dh_does():
    atoms, reference = copper(rattle=0.05), cold_reference()
    values = reference.delta_entropy(atoms, float64=True)
    for level in (values[3], np.nextafter(values[3], np.inf), np.nextafter(values[3], -np.inf), -1e5, 1e5):
        calc = wrapped(EMT(), level=float(level))
        grade = calc.get_property("dh_grade", atoms)
        assert (grade > 0).all()
        assert np.isfinite(grade).all()
        np.testing.assert_array_equal(np.sign(grade - 1), np.sign(values - level))
    assert (np.argsort(grade, kind="stable") == np.argsort(values, kind="stable")).sum() >= 0


def test_unknown_elements_atoms_without_environments_and_frames_that_cannot_be_described():
    reference = Reference.from_frames([alloy(seed=i) for i in range(4)], bandwidth=H, groups="frame")
    strange = alloy(gold=False)
    grade = wrapped(reference=reference).get_property("dh_grade", strange)
    assert (grade[strange.numbers == 47] == np.inf).all()
    assert np.isfinite(grade[strange.numbers != 47]).all()

    centers = Descriptor(centers=("Cu",))
    reference = Reference.from_frames([alloy(seed=i) for i in range(4)], descriptor=centers, groups="frame")
    calc, atoms = wrapped(reference=reference), alloy(seed=9)
    values, grade = calc.get_property("delta_entropy", atoms), calc.get_property("dh_grade", atoms)
    is_gold = atoms.numbers == 79
    assert np.isnan(values[is_gold]).all()
    assert (grade[is_gold] == 0).all()
    assert grade.max() == grade[~is_gold].max() > 0  # a maximum is a number

    broken = copper()
    broken.positions[2] = np.nan
    calc = wrapped()
    assert np.isnan(calc.get_property("delta_entropy", broken)).all()
    assert (calc.get_property("dh_grade", broken) == np.inf).all()
    with pytest.raises(FrameError):
        cold_reference().annotate(broken)


def test_what_the_calculator_within_has_is_reached():
    inner = EMT(asap_cutoff=True)
    calc = wrapped(inner)
    assert (calc.name, calc.parameters, calc.todict()) == (inner.name, inner.parameters, inner.todict())
    assert calc.implemented_properties == [*inner.implemented_properties, "delta_entropy", "dh_grade"]
    assert "delta_entropy" not in EMT.implemented_properties
    assert calc.set(asap_cutoff=False) == {"asap_cutoff": False}
    assert inner.parameters["asap_cutoff"] is False
    calc.parameters = inner.parameters
    calc.label = "here/there"
    assert (inner.directory, inner.prefix) == ("here", "there")
    calc.directory = "."
    atoms = copper(rattle=0.05, calc=calc)
    atoms.get_forces()
    assert calc.atoms is inner.atoms
    assert calc.check_state(atoms) == []
    assert not OWN & set(calc.export_properties())  # ASE would refuse them
    assert atoms.get_properties(["energy", "forces"])["energy"] == inner.results["energy"]
    calc.reset()
    assert calc.results == inner.results == {}
    calc.calculate(atoms, ["energy", "delta_entropy"])
    assert calc.results.keys() == inner.results.keys() | OWN
    calc.results = {"energy": 1.0, "delta_entropy": None}
    assert inner.results == {"energy": 1.0}
    inner.extra_results = {}  # wfl looks for it in this way
    assert "extra_results" in dir(calc)
    with pytest.raises(AttributeError, match="no_such_thing"):
        calc.no_such_thing  # noqa: B018
    with pytest.raises(PropertyNotImplementedError):
        calc.get_property("dipole", atoms)
    assert repr(calc).startswith("MonitoredCalculator(")


def test_charges_and_magnetic_moments_reach_it_and_are_no_new_geometry():
    atoms = copper(rattle=0.05, calc=wrapped(interval=2))
    atoms.get_forces()
    atoms.set_initial_charges(np.ones(len(atoms)))
    atoms.get_forces()
    assert atoms.calc.wrapped.calls == 2  # as without the wrapper
    assert atoms.calc.results.keys() >= OWN


def test_copies_score_alike_and_share_the_reference():
    atoms = copper(rattle=0.05, calc=wrapped(potential()))  # that of EMT cannot be pickled once it has calculated
    expected = atoms.get_forces()
    for other in (copy.deepcopy(atoms), pickle.loads(pickle.dumps(atoms))):
        other.positions[0, 0] += 0.1
        assert not np.array_equal(other.get_forces(), expected)
        np.testing.assert_array_equal(other.calc.results["delta_entropy"], dh(other))
        assert other.calc.wrapped is not atoms.calc.wrapped
    other = copy.copy(atoms.calc)
    assert other.wrapped is atoms.calc.wrapped
    np.testing.assert_array_equal(other.get_property("delta_entropy", atoms), dh(atoms))


@pytest.mark.parametrize("kind", [lambda a, b: SumCalculator([a, b]), lambda a, b: MixedCalculator(a, b, 0.3, 0.7)])
def test_sums_of_calculators(kind):
    def parts():
        return CountingEMT(), potential()

    bare = copper(rattle=0.05, calc=kind(*parts()))
    whole = copper(rattle=0.05, calc=wrapped(kind(*parts())))
    part = copper(rattle=0.05, calc=kind(wrapped(parts()[0]), parts()[1]))
    for atoms in (whole, part):
        for _ in range(2):
            np.testing.assert_array_equal(atoms.get_forces(), bare.get_forces())
            np.testing.assert_array_equal(atoms.get_stress(), bare.get_stress())
            assert atoms.get_potential_energy() == bare.get_potential_energy()
            atoms.positions += 0.01 * np.sin(atoms.positions)
            bare.positions[:] = atoms.positions
        bare.positions[:] = copper(rattle=0.05).positions
    np.testing.assert_array_equal(whole.calc.get_property("delta_entropy", whole), dh(whole))
    assert not OWN & set(part.calc.implemented_properties)


class Bare:
    """EMT in the manner of asap3: no `results`, no `get_property`, no `atoms`."""

    implemented_properties = ("energy", "forces")

    def __init__(self):
        self.calls, self._of, self._emt = 0, None, EMT()

    def calculation_required(self, atoms, quantities):
        return self._of != atoms.positions.tobytes()

    def get_potential_energy(self, atoms=None, force_consistent=False):
        return self._calculated(atoms).get_potential_energy(atoms)

    def get_forces(self, atoms):
        return self._calculated(atoms).get_forces(atoms)

    def _calculated(self, atoms):
        self.calls += self._of != atoms.positions.tobytes()
        self._of = atoms.positions.tobytes()
        return self._emt


def test_a_calculator_without_results_and_get_property(tmp_path):
    bare, atoms = copper(rattle=0.05, calc=Bare()), copper(rattle=0.05, calc=wrapped(Bare()))
    for moved in (bare, atoms):
        VelocityVerlet(moved, 5 * FS).run(3)
    assert atoms.positions.tobytes() == bare.positions.tobytes()
    assert atoms.calc.wrapped.calls == bare.calc.calls
    assert set(atoms.calc.results) == {"forces"} | OWN
    energy = atoms.calc.get_property("energy", atoms)
    assert atoms.calc.get_property("energy", atoms, allow_calculation=False) == energy == bare.get_potential_energy()
    assert atoms.calc.wrapped.calls == bare.calc.calls
    np.testing.assert_array_equal(atoms.calc.results["forces"], bare.get_forces())
    with pytest.raises(PropertyNotImplementedError):
        atoms.calc.get_property("stress", atoms)
    assert atoms.calc.name == "bare"
    write(tmp_path / "a.extxyz", atoms.calc.annotate(atoms))
    assert read(tmp_path / "a.extxyz").get_potential_energy() == pytest.approx(energy, abs=1e-7)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lammps") is None, reason="LAMMPS is not installed")
def test_lammps():
    def moved(wrap):
        commands = ["pair_style lj/cut 5.0", "pair_coeff * * 0.4 2.3"]
        with lammps_calculator(commands, ["Cu"]) as calc:
            atoms = copper(rattle=0.05, temperature_K=300, calc=wrap(calc))
            VelocityVerlet(atoms, 2 * FS).run(5)
            found = atoms.positions.tobytes(), atoms.get_potential_energy(), atoms.get_stress().tobytes()
            return found, atoms.calc.results, atoms

    bare, results, _ = moved(lambda calc: calc)
    found, with_dh, atoms = moved(wrapped)
    assert found == bare
    assert with_dh.keys() == results.keys() | OWN
    np.testing.assert_array_equal(with_dh["delta_entropy"], dh(atoms))


def test_a_calculator_that_is_also_used_without_the_wrapper():
    inner = CountingEMT()
    atoms, other = copper(rattle=0.05, calc=wrapped(inner)), copper(rattle=0.02, seed=3)
    atoms.get_forces()
    other.calc = inner
    energy = other.get_potential_energy()
    assert not OWN & set(atoms.calc.results)  # they would be of other atoms than the energy
    assert atoms.calc.results["energy"] == energy
    atoms.get_forces()
    np.testing.assert_array_equal(atoms.calc.results["delta_entropy"], dh(atoms))


def test_ways_into_files(tmp_path):
    atoms = copper(rattle=0.05, calc=wrapped(EMT()))
    energy, values = atoms.get_potential_energy(), dh(atoms)
    grade = atoms.calc.results["dh_grade"]

    write(tmp_path / "plain.extxyz", atoms)  # ASE writes no results but its own
    assert not OWN & set(read(tmp_path / "plain.extxyz").arrays)
    write(tmp_path / "a.extxyz", atoms.calc.annotate(atoms))
    frame = read(tmp_path / "a.extxyz")
    np.testing.assert_allclose(frame.arrays["delta_entropy"], values, atol=1e-7)
    np.testing.assert_allclose(frame.arrays["dh_grade"], grade, atol=1e-7)
    np.testing.assert_allclose(frame.get_forces(), atoms.get_forces(), atol=1e-7)

    with Trajectory(tmp_path / "a.traj", "w") as out:  # drops arrays that it does not know, keeps info
        out.write(atoms)
        frame = atoms.calc.annotate(atoms)
        frame.info |= {name: frame.arrays[name] for name in OWN}
        out.write(frame)
    plain, frame = read(tmp_path / "a.traj", ":")
    assert plain.get_potential_energy() == frame.get_potential_energy() == energy
    assert not OWN & (set(plain.arrays) | set(plain.info) | set(frame.arrays))
    np.testing.assert_array_equal(frame.info["delta_entropy"], values)
    np.testing.assert_array_equal(frame.info["dh_grade"], grade)

    with connect(tmp_path / "a.db") as db:
        kept = {name: atoms.calc.results[name] for name in OWN}
        db.write(atoms, key_value_pairs={"dh_grade_max": float(grade.max())}, data=kept)
    (row,) = db.select("dh_grade_max>0")
    assert (row.energy, row.calculator) == (energy, "emt")
    np.testing.assert_array_equal(row.data["delta_entropy"], values)

    point = SinglePointCalculator(atoms.copy(), energy=energy)
    point.results.update(atoms.calc.results)  # as other tools freeze what a calculator has
    np.testing.assert_array_equal(point.results["dh_grade"], grade)
    assert "delta_entropy" not in atoms.arrays
    assert not OWN & set(atoms.info)


def test_failures_of_scoring_never_harm_the_run(caplog):
    class Failing:
        fingerprint = "fails"
        is_failing = False

        def __call__(self, atoms):
            if self.is_failing:
                raise ZeroDivisionError("a bug")
            return Descriptor()(atoms)

    frames = [copper(seed=i, rattle=0.01) for i in range(4)]
    reference = Reference.from_frames(frames, descriptor=Failing(), bandwidth=H, groups="frame")
    Failing.is_failing = True
    atoms = copper(rattle=0.05, temperature_K=300, calc=wrapped(reference=reference))
    VelocityVerlet(atoms, 5 * FS).run(3)
    assert atoms.calc.wrapped.calls == 4
    assert not OWN & set(atoms.calc.results)
    assert [record.getMessage().count("a bug") for record in caplog.records] == [1]
    with pytest.raises(PropertyNotImplementedError, match="scoring failed"):
        atoms.calc.get_property("delta_entropy", atoms)
    atoms.calc = wrapped(reference=reference, on_error="raise")
    with pytest.raises(ZeroDivisionError):
        atoms.get_forces()


def test_misuse_is_refused(tmp_path):
    reference, levels = cold_reference(), level_at(cold_reference(), 2.0)
    for calc in (EMT, None, "EMT"):
        with pytest.raises(TypeError, match="calc: expected an ASE calculator"):
            MonitoredCalculator(calc, reference, levels)
    with pytest.raises(ValueError, match="wrap it once"):
        wrapped(wrapped())
    with pytest.raises(TypeError, match="interval"):
        wrapped(interval=0.5)
    with pytest.raises(ValueError, match="interval"):
        wrapped(interval=0)
    with pytest.raises(ValueError, match="on_error"):
        wrapped(on_error="ignore")
    with pytest.raises(TypeError, match="reference"):
        MonitoredCalculator(EMT(), 3)
    with pytest.raises(MismatchError):
        MonitoredCalculator(EMT(), rattled_reference(), levels)
    with Monitor(reference, levels, log=None) as monitor, pytest.raises(ValueError, match="beside a monitor"):
        MonitoredCalculator(EMT(), monitor, levels)
    with pytest.raises(TypeError, match="atoms"):
        reference.annotate("train.xyz")
    with pytest.raises(TypeError, match="calibration"):
        reference.annotate(copper(), 5)
    with pytest.raises(MismatchError):
        rattled_reference().annotate(copper(), levels)


def test_files_are_taken_by_name_and_levels_are_made_where_there_are_none(tmp_path):
    reference = rattled_reference()
    reference.save(tmp_path / "r.safetensors")
    level_at(reference, 2.0).save(tmp_path / "c.json")
    atoms = copper(seed=100, rattle=0.06)
    by_name = MonitoredCalculator(EMT(), tmp_path / "r.safetensors", tmp_path / "c.json")
    made = MonitoredCalculator(EMT(), tmp_path / "r.safetensors")
    np.testing.assert_array_equal(
        by_name.get_property("dh_grade", atoms),
        reference.annotate(atoms, level_at(reference, 2.0)).arrays["dh_grade"],
    )
    assert made.get_property("dh_grade", atoms).max() <= 1 < made.get_property("dh_grade", outside()).max()


def test_a_copy_of_a_frame_is_annotated_and_the_frame_stays_as_it_is():
    reference, atoms = rattled_reference(), copper(seed=100, rattle=0.06)
    atoms.set_array("delta_entropy", np.zeros(len(atoms), int))
    atoms.set_array("dh_grade", np.zeros((len(atoms), 2)))
    atoms.info["kept"] = [1]
    atoms.calc = CountingEMT()
    plain = reference.annotate(atoms)
    assert plain.calc is None
    assert "dh_grade" not in plain.arrays
    forces = atoms.get_forces()
    before = {name: array.copy() for name, array in atoms.arrays.items()}
    frame = reference.annotate(atoms, level_at(reference, 2.0), threads=1)
    np.testing.assert_array_equal(frame.arrays["delta_entropy"], reference.delta_entropy(atoms))
    np.testing.assert_allclose(frame.arrays["dh_grade"], grade_by_hand(frame.arrays["delta_entropy"], 2.0), rtol=1e-14)
    np.testing.assert_array_equal(frame.get_forces(), forces)
    assert atoms.calc.calls == 1
    assert before.keys() == atoms.arrays.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(atoms.arrays[name], array)
    empty = reference.annotate(Atoms(), level_at(reference, 2.0))
    assert len(empty.arrays["dh_grade"]) == 0


def test_levels_are_taken_by_the_name_of_their_file(tmp_path):
    reference, atoms = rattled_reference(), copper(seed=100, rattle=0.06)
    levels = level_at(reference, 2.0)
    levels.save(tmp_path / "levels.json")
    expected = reference.annotate(atoms, levels).arrays["dh_grade"]
    for name in (tmp_path / "levels.json", str(tmp_path / "levels.json")):
        np.testing.assert_array_equal(reference.annotate(atoms, name).arrays["dh_grade"], expected)
    with pytest.raises(FileNotFoundError, match="expected a calibration file"):
        reference.annotate(atoms, tmp_path / "none.json")


def watched(log, **options):
    reference = cold_reference()
    settings = {"trigger": Trigger(patience=2), "on_error": "raise", "verbose": False} | options
    return Monitor(reference, level_at(reference, -50.0), log=log, **settings)


def test_geometries_are_checks_of_a_monitor_with_log_events_and_actions(tmp_path):
    actions = [save_frame(tmp_path / "flagged.extxyz")]
    with watched(tmp_path / "run.jsonl", actions=actions) as monitor:
        atoms = copper(seed=5, rattle=0.05, temperature_K=400, calc=MonitoredCalculator(EMT(), monitor, interval=2))
        VelocityVerlet(atoms, 5 * FS).run(9)
        assert not OWN & set(atoms.calc.results)
        atoms.calc.get_property("dh_grade", atoms)
        assert atoms.calc.results.keys() >= OWN
    log = read_log(tmp_path / "run.jsonl")
    assert log.step.tolist() == [0, 2, 4, 6, 8]
    assert np.isfinite(log.energy_per_atom).all()
    assert [event.kind for event in log.events] == ["novel"]
    frames = read(tmp_path / "flagged.extxyz", ":")
    np.testing.assert_allclose(frames[0].arrays["delta_entropy"], dh(frames[0]), atol=1e-6)
    assert monitor.stop_reason is None
    atoms.positions[0, 0] += 0.1  # closed: it is scored, and checked no more
    atoms.get_forces()
    assert atoms.calc.results.keys() >= OWN
    assert monitor.n_checks == 5


def test_a_monitor_and_the_bare_run_give_the_same_atoms(tmp_path):
    bare = course("verlet", calc := CountingEMT())
    with watched(tmp_path / "run.jsonl") as monitor:
        assert seen_in_run("verlet", inner := MonitoredCalculator(CountingEMT(), monitor)) == bare
    assert inner.wrapped.calls == calc.calls


def test_a_monitor_gives_dh_of_all_atoms_also_where_it_proves_less():
    with watched(None, values="proven") as monitor:
        atoms = copper(seed=100, rattle=0.06)
        atoms.calc = MonitoredCalculator(EMT(), monitor)
        atoms.get_forces()
        values = atoms.calc.results["delta_entropy"]
    np.testing.assert_allclose(values, dh(atoms), rtol=1e-6, atol=1e-4)


def test_an_attached_monitor_checks_its_steps_alone_and_the_results_are_those_of_its_checks(tmp_path):
    with watched(tmp_path / "run.jsonl") as monitor:
        atoms = copper(seed=5, rattle=0.05, temperature_K=400, calc=MonitoredCalculator(CountingEMT(), monitor))
        dyn, seen = VelocityVerlet(atoms, 5 * FS), []
        monitor.attach(dyn, interval=3)
        dyn.attach(lambda: seen.append(bool(OWN & set(atoms.calc.results))), 1)
        dyn.run(6)
        np.testing.assert_array_equal(atoms.calc.results["delta_entropy"], dh(atoms))
    assert seen == [True, False, False, True, False, False, True]
    assert read_log(tmp_path / "run.jsonl").step.tolist() == [0, 3, 6]
    assert atoms.calc.wrapped.calls == 7


def test_a_stop_ends_the_run_after_the_step_and_says_why(tmp_path):
    with watched(tmp_path / "run.jsonl", actions=[stop]) as monitor:
        atoms = copper(seed=5, rattle=0.05, temperature_K=400, calc=MonitoredCalculator(EMT(), monitor))
        dyn, seen = VelocityVerlet(atoms, 5 * FS), []
        dyn.attach(lambda: seen.append(dyn.nsteps), 1)
        with pytest.raises(StopRun, match="the action stop stopped the run at step 1: event 1"):
            dyn.run(10)
        assert seen == [0, 1]  # the step at which it stopped is finished
        reason = monitor.stop_reason
        assert "novel" in reason
        assert "since step 0" in reason
        dyn.run(3)  # a run may go on after a stop
        assert monitor.n_checks > 2
    (stopped,) = read_log(tmp_path / "run.jsonl").stops
    assert (stopped["stopped"], stopped["event"], stopped["step"]) == (reason, 1, 1)


def test_a_stop_of_an_attached_monitor_is_clean(tmp_path):
    with watched(None, actions=[stop]) as monitor:
        atoms = copper(seed=5, rattle=0.05, temperature_K=400, calc=MonitoredCalculator(EMT(), monitor))
        dyn = VelocityVerlet(atoms, 5 * FS)
        monitor.attach(dyn, interval=2)
        dyn.run(10)
        assert dyn.nsteps == 2
        dyn.run(3)
        assert dyn.nsteps == 5


def test_failures_of_a_monitor_never_harm_the_run(tmp_path, caplog):
    def failing(event, frame):
        raise ZeroDivisionError("a bug")

    with watched(tmp_path / "run.jsonl", actions=[failing], on_error="log") as monitor:
        atoms = copper(seed=5, rattle=0.05, temperature_K=400, calc=MonitoredCalculator(CountingEMT(), monitor))
        VelocityVerlet(atoms, 5 * FS).run(4)
        assert (monitor.n_checks, atoms.calc.wrapped.calls) == (5, 5)
        assert atoms.calc.results.keys() >= OWN
    assert "a bug" in caplog.text


def test_settings_that_need_a_time_need_a_dynamics():
    with watched(None, trigger=Trigger(patience_ps=1.0)) as monitor:
        atoms = copper(rattle=0.05, calc=MonitoredCalculator(EMT(), monitor))
        with pytest.raises(ValueError, match=r"monitor\.attach\(dyn\)"):
            atoms.get_forces()


def test_copies_are_no_part_of_the_run_of_a_monitor():
    with watched(None) as monitor:
        atoms = copper(rattle=0.05, calc=MonitoredCalculator(potential(), monitor))
        atoms.get_forces()
        for other in (copy.deepcopy(atoms), pickle.loads(pickle.dumps(atoms))):
            other.positions[0, 0] += 0.1
            other.get_forces()
            np.testing.assert_array_equal(other.calc.results["delta_entropy"], dh(other))
        assert monitor.n_checks == 1


def test_a_run_is_taken_up_where_its_log_stands(tmp_path):
    def go(steps, **options):
        atoms = copper(seed=5, rattle=0.05, temperature_K=400)
        with watched(tmp_path / "run.jsonl", **options) as monitor:
            atoms.calc = MonitoredCalculator(EMT(), monitor)
            VelocityVerlet(atoms, 5 * FS).run(steps)

    go(4)
    go(6, resume=True)
    log = read_log(tmp_path / "run.jsonl")
    assert log.step.tolist() == list(range(7))


def test_references_of_averages_are_refused():
    averaging, frames = TimeAveraged(samples=2), [copper(seed=i, rattle=0.01) for i in range(8)]
    for i, frame in enumerate(frames):
        frame.info["time_ps"] = 0.02 * i
    reference = Reference.from_frames(averaging.frames(frames), descriptor=averaging, bandwidth=H, groups="frame")
    with pytest.raises(ValueError, match="time averages"):
        MonitoredCalculator(EMT(), reference, level_at(reference, 2.0))


def test_bulk_of_one_atom_and_cells_that_change():
    atoms = bulk("Cu")
    atoms.calc = wrapped(reference=cold_reference())
    for scale in (1.0, 1.02):
        atoms.set_cell(bulk("Cu").cell * scale, scale_atoms=True)
        atoms.get_stress()
        np.testing.assert_array_equal(atoms.calc.results["delta_entropy"], dh(atoms))
