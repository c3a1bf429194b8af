"""How the monitor meets ASE: what it relies on, and attaching in every way."""

import gc
import math
import re
import weakref

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from systems import (
    DYNAMICS,
    FS,
    CountingEMT,
    cold_reference,
    copper,
    inside,
    level_at,
    md_reference,
    outside,
    recording,
    run,
    verlet,
)

from quests_md import MismatchError, Monitor, Trigger, calibrate, read_log, stop
from quests_md.hosts.ase import AseHost


def quiet(**options):
    """A monitor without a log that raises what goes wrong."""
    return Monitor(md_reference(), level_at(md_reference(), 0.0), **({"log": None, "on_error": "raise"} | options))


def recorder(**options):
    return recording(quiet(**options))


def steps(monitor):
    return [check.step for check in monitor.checks]


def moving(calc=None):
    return copper(temperature_K=300, calc=calc or CountingEMT())


@pytest.mark.parametrize("name", DYNAMICS)
def test_ase_has_energy_and_forces_cached_when_observers_run(name):
    atoms, calls = moving(), []
    dyn = DYNAMICS[name](atoms)

    def look():
        before = atoms.calc.calls
        assert not atoms.calc.calculation_required(atoms, ["energy", "forces"])
        atoms.get_potential_energy()
        atoms.get_forces()
        calls.append(atoms.calc.calls - before)

    dyn.attach(look, 1)
    run(dyn, 5)
    assert calls
    assert set(calls) == {0}


# attaching


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1, 3, np.int64(5)])
def test_checks_at_step_0_and_at_multiples_and_no_step_twice_over_two_runs(interval):
    monitor, dyn = recorder(), verlet(moving())
    monitor.attach(dyn, interval)
    dyn.run(7)
    dyn.run(8)
    expected = list(range(0, 16, int(interval)))
    assert steps(monitor) == expected
    assert [c.frame for c in monitor.checks] == list(range(len(expected)))
    assert [c.time_ps for c in monitor.checks] == pytest.approx([0.005 * s for s in expected])
    assert {c.interval for c in monitor.checks} == {interval}


@pytest.mark.parametrize("given", [lambda dyn: dyn, weakref.proxy], ids=["itself", "a weak proxy"])
def test_the_way_of_ase_gives_the_same_checks(given, capsys):
    own, ases, names = recorder(), recorder(), ("step", "time_ps", "interval", "digest", "dh_mean")
    dyn = verlet(moving())
    own.attach(dyn)
    dyn.run(20)
    capsys.readouterr()
    dyn = verlet(moving())
    dyn.attach(ases, 10, given(dyn))
    dyn.run(20)
    seen = [[[getattr(check, name) for name in names] for check in monitor.checks] for monitor in (own, ases)]
    assert seen[0] == seen[1]
    assert steps(own) == [0, 10, 20]
    assert capsys.readouterr().err.count("pre-flight") == 1


def test_the_way_of_ase_without_the_dynamics_says_how_to():
    dyn = verlet(moving())
    dyn.attach(quiet(), 5)
    with pytest.raises(TypeError, match=r"dyn.attach\(monitor, interval, dyn\)"):
        dyn.run(1)


def test_the_monitor_sees_a_step_before_the_writers_do(tmp_path):
    monitor, seen = recorder(), []
    atoms = moving()
    dyn = VelocityVerlet(atoms, 5 * FS, trajectory=str(tmp_path / "run.traj"), logfile=str(tmp_path / "run.log"))
    dyn.attach(lambda: seen.append((dyn.nsteps, monitor.last_check.step)), 5)
    write = dyn.observers[0]
    monitor.attach(dyn, 5)
    assert dyn.observers[1] is write
    dyn.run(10)
    assert seen == [(0, 0), (5, 5), (10, 10)]
    assert len(read(tmp_path / "run.traj", ":")) == 11


@pytest.mark.parametrize("how", ["kept", "dropped", "the way of ase"])
def test_a_new_dynamics_on_the_same_atoms_continues_step_and_time_and_doubles_no_check(how):
    monitor, atoms, kept = recorder(), moving(), []
    for _ in range(3):
        dyn = verlet(atoms)
        if how == "kept":
            kept.append(dyn)
        if how == "the way of ase":
            dyn.attach(monitor, 5, dyn)
        else:
            monitor.attach(dyn, 5)
        dyn.run(10)
        del dyn
    assert steps(monitor) == [0, 5, 10, 15, 20, 25, 30]
    assert [c.time_ps for c in monitor.checks] == pytest.approx([0.005 * s for s in steps(monitor)])
    assert [c.frame for c in monitor.checks] == list(range(7))
    assert len({c.digest for c in monitor.checks}) == 7


def test_time_agrees_with_the_step_after_a_run_that_ended_between_checks():
    monitor, atoms = recorder(), moving()
    first = verlet(atoms)
    monitor.attach(first, 10)
    first.run(14)
    second = verlet(atoms)
    monitor.attach(second, 10)
    second.run(10)
    assert steps(monitor) == [0, 10, 14, 24]
    assert [c.time_ps for c in monitor.checks] == pytest.approx([0, 0.050, 0.070, 0.120])


def test_time_stands_still_in_a_relaxation_between_two_dynamics():
    monitor, atoms = recorder(), moving()
    first = verlet(atoms)
    monitor.attach(first, 5)
    first.run(10)
    relax = FIRE(atoms, logfile=None)
    monitor.attach(relax, 5)
    relax.run(fmax=1e-9, steps=5)
    last = verlet(atoms)
    monitor.attach(last, 5)
    last.run(5)
    assert steps(monitor) == [0, 5, 10, 15, 20]
    times = [c.time_ps for c in monitor.checks]
    assert times[3] is None
    assert times[:3] + times[4:] == pytest.approx([0, 0.025, 0.050, 0.075])


def test_dynamics_that_take_turns_continue_each_other():
    monitor, atoms = recorder(), moving()
    one, two = verlet(atoms), verlet(atoms)
    monitor.attach(one, 5)
    two.attach(monitor, 5, two)
    one.run(10)
    two.run(7)
    one.run(5)
    two.run(8)
    # each counts its own steps: the second one's 0 was step 10, its 5 step 15, and its 10 step 25
    assert steps(monitor) == [0, 5, 10, 15, 22, 25, 30]
    assert [c.time_ps for c in monitor.checks] == pytest.approx([0.005 * s for s in steps(monitor)])
    assert len({c.digest for c in monitor.checks}) == len(monitor.checks)


def test_the_count_of_a_dynamics_whose_user_has_set_it_is_kept():
    monitor, atoms = recorder(), moving()
    for start in (5000, 8000):
        dyn = verlet(atoms)
        dyn.nsteps = start
        monitor.attach(dyn, 5)
        dyn.run(5)
    assert steps(monitor) == [5005, 8005]
    assert [c.time_ps for c in monitor.checks] == pytest.approx([25.025, 40.025])


def test_attaching_twice_checks_once():
    monitor, dyn = recorder(), verlet(moving())
    monitor.attach(dyn, 2)
    monitor.attach(dyn, 3)
    dyn.run(6)
    assert steps(monitor) == [0, 2, 3, 4, 6]


def test_another_system_on_the_same_monitor_is_checked_at_its_step_0():
    monitor = recorder()
    for seed in (0, 1):
        dyn = verlet(copper(seed=seed, rattle=0.05, temperature_K=300, calc=EMT()))
        monitor.attach(dyn, 5)
        dyn.run(5)
    assert steps(monitor) == [0, 5, 5, 10]
    assert [c.frame for c in monitor.checks] == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("attach", ["own", "ase"])
def test_a_dynamics_that_is_dropped_is_not_kept_alive(attach):
    """A loop that makes a new dynamics for each stretch must not fill the memory."""
    monitor, atoms, dead = quiet(), moving(), []

    def hosts():
        return {id(thing) for thing in gc.get_objects() if type(thing) is AseHost}

    before = hosts()  # of other tests
    for _ in range(4):
        dyn = verlet(atoms)
        dead.append(weakref.ref(dyn))
        if attach == "own":
            monitor.attach(dyn, 1)
        else:
            dyn.attach(monitor, 1, dyn)
        dyn.run(1)
    del dyn
    gc.collect()
    assert [ref() for ref in dead] == [None] * 4
    monitor.attach(verlet(atoms), 1)
    assert len(hosts() - before) <= 2


@pytest.mark.parametrize("wrap", [lambda a: a, FrechetCellFilter], ids=["positions", "cell"])
@pytest.mark.parametrize("optimizer", [BFGS, FIRE])
def test_optimizers_have_steps_and_no_time(optimizer, wrap):
    monitor = recorder()
    atoms = copper(rattle=0.05, calc=EMT())
    dyn = optimizer(wrap(atoms), logfile=None)
    monitor.attach(dyn, 2)
    dyn.run(fmax=1e-9, steps=5)
    assert steps(monitor) == [0, 2, 4]
    assert {c.time_ps for c in monitor.checks} == {None}
    assert {c.temperature_K for c in monitor.checks} == {None}
    assert None not in {c.energy_per_atom for c in monitor.checks}


def test_stop_ends_an_optimizer_too():
    monitor = Monitor(cold_reference(), trigger=Trigger(patience=1), log=None, actions=[stop])
    dyn = FIRE(copper(rattle=0.1, calc=EMT()), logfile=None)
    monitor.attach(dyn, 2)
    dyn.run(fmax=1e-9, steps=50)
    assert dyn.nsteps == 0
    assert monitor.stopped


def test_a_loop_of_ones_own():
    with quiet() as monitor:
        first = monitor.check(inside(0), step=100, time_ps=1.5)
        second = monitor.check(inside(1))
        third = monitor.check(inside(2), step=np.int64(7))
    assert (first.step, first.time_ps, first.frame, first.interval) == (100, 1.5, 0, None)
    assert (second.step, second.time_ps, second.frame) == (1, None, 1)
    assert (third.step, third.frame) == (7, 2)


def test_what_moves_no_atoms_is_refused_with_a_way_out():
    images = [copper(1, rattle=0.01, seed=i, calc=EMT()) for i in range(3)]
    with pytest.raises(TypeError, match=r"dyn: .*NEB.*a log of its own for each image.*monitor\.check\(image, step"):
        quiet().attach(FIRE(NEB(images, method="improvedtangent"), logfile=None), 1)
    with pytest.raises(TypeError, match="dyn: expected an ASE dynamics or optimizer, got Atoms"):
        quiet().attach(images[0], 1)
    with pytest.raises(TypeError, match=r"dyn: .*NoneType"):
        quiet().attach(None, 1)


@pytest.mark.parametrize("interval", [0, -10, True, 1.0, "10", None, math.nan])
def test_what_is_no_interval_is_refused(interval):
    dyn, kind = verlet(moving()), ValueError if type(interval) is int else TypeError
    with pytest.raises(kind, match=re.escape(f"interval: expected a positive integer, got {interval!r}")):
        quiet().attach(dyn, interval)
    assert dyn.observers == []


# wrong arguments


def test_a_calibration_of_another_reference_is_refused_and_leaves_no_log(tmp_path):
    other = calibrate(cold_reference())
    with pytest.raises(MismatchError) as error:
        Monitor(md_reference(), other, log=tmp_path / "run.jsonl")
    assert md_reference().fingerprint in str(error.value)
    assert cold_reference().fingerprint in str(error.value)
    assert not (tmp_path / "run.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"reference": 3.0},
            TypeError,
            "reference: expected a Reference or the name of its file, got float; .*from_frames",
        ),
        ({"reference": None}, TypeError, "reference: .*NoneType"),
        ({"calibration": "level.json"}, FileNotFoundError, "level.json: expected a calibration file, there is none"),
        ({"calibration": 3.0}, TypeError, "calibration: expected a Calibration or .*, got float; .*Calibration.load"),
        ({"trigger": 3}, TypeError, "trigger: expected a Trigger, got int"),
        ({"actions": ["stop"]}, TypeError, "actions: expected callables .* got 'stop'"),
        ({"actions": None}, TypeError, "actions: "),
        ({"actions": 5}, TypeError, "actions: "),
        ({"on_error": "ignore"}, ValueError, "on_error: expected 'log' or 'raise', got 'ignore'"),
        ({"values": "fast"}, ValueError, "values: expected 'auto', 'full' or 'proven', got 'fast'"),
        ({"threads": 0}, ValueError, "threads: expected a positive integer, got 0"),
        ({"threads": 1.5}, ValueError, "threads: expected a positive integer, got 1.5"),
        ({"log": 5}, TypeError, "log: .*int"),
    ],
)
def test_wrong_arguments_are_refused_by_name(options, kind, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"reference": md_reference(), "calibration": level_at(md_reference(), 0.0)} | options
    with pytest.raises(kind, match=message):
        Monitor(given.pop("reference"), given.pop("calibration"), **given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("atoms", [None, "POSCAR", np.zeros((3, 3)), [bulk("Cu")]])
def test_check_takes_atoms_only(atoms):
    with quiet() as monitor, pytest.raises(TypeError, match=r"atoms: expected ase\.Atoms, got "):
        monitor.check(atoms)


def test_the_trigger_given_is_not_changed():
    trigger = Trigger(patience=1)
    with Monitor(md_reference(), level_at(md_reference(), -9.0), trigger=trigger, log=None) as monitor:
        monitor.check(outside())
    assert monitor.events
    assert (trigger.state, trigger.n_events) == ("in", 0)


def test_patience_in_time_is_refused_where_there_is_no_time():
    monitor = quiet(trigger=Trigger(patience_ps=1.0))
    dyn = FIRE(copper(rattle=0.05, calc=EMT()), logfile=None)
    with pytest.raises(ValueError, match="patience_ps"):
        monitor.attach(dyn, 1)


def test_levels_per_nanosecond_are_no_matter_for_optimizers():
    """FIRE has a time step, but no time."""
    calibration = level_at(md_reference(), -6.0, per="ns")
    with Monitor(md_reference(), calibration, log=None) as monitor:
        monitor.attach(FIRE(copper(rattle=0.05, calc=EMT()), logfile=None), 10)
    assert monitor.judge.checks is monitor.judge.check_ps is None


def test_levels_per_nanosecond_count_the_checks_of_the_attached_run(tmp_path):
    reference = md_reference()
    calibration = level_at(reference, -6.0, per="ns")
    dyn = verlet(moving())
    with Monitor(reference, calibration, log=tmp_path / "run.jsonl") as monitor:
        monitor.attach(dyn, 10)
        dyn.run(10)
    # 5 fs and every 10 steps: 20 000 checks in a nanosecond
    assert read_log(tmp_path / "run.jsonl").header["calibration"]["checks"] == 20_000
    assert monitor.judge.checks == 20_000


def test_atoms_that_cannot_move_have_no_temperature():
    atoms = copper(1, temperature_K=300)
    atoms.set_constraint(FixAtoms(range(len(atoms))))
    with quiet() as monitor:
        assert monitor.check(atoms).temperature_K is None
        assert monitor.check(Atoms("Cu", positions=[(0, 0, 0)])).temperature_K is None
