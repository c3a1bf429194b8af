"""A monitor leaves the dynamics when it is closed or detached, and never disturbs those who stay."""

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from systems import cold_reference, copper, level_at, outside

from quests_md import Monitor, Trigger, stop


def moving(seed=0, rattle=0.3):
    return VelocityVerlet(copper(seed=seed, rattle=rattle, temperature_K=300, calc=EMT()), timestep=0.1)


def monitor_of(**options):
    reference = cold_reference()
    return Monitor(reference, level_at(reference, -50.0), on_error="raise", log=None, **options)


def test_after_with_nothing_is_judged_saved_or_stopped():
    dyn, acted = moving(), []
    with monitor_of(
        actions=[lambda event, frame: acted.append(event.id), stop], trigger=Trigger(patience=50)
    ) as monitor:
        monitor.attach(dyn, interval=1)
        before = monitor.n_checks
    dyn.run(80)
    assert monitor.n_checks == before
    assert acted == []
    assert dyn.nsteps == 80
    assert dyn.observers == []


def test_a_monitor_attached_in_the_way_of_ase_is_quiet_once_closed():
    dyn, seen = moving(), []
    with monitor_of() as monitor:
        dyn.attach(monitor, 1, dyn)
        dyn.attach(lambda: seen.append(dyn.nsteps), 1)
        dyn.run(3)
        checks = monitor.n_checks
    dyn.run(3)
    assert monitor.n_checks == checks
    assert seen == [0, 1, 2, 3, 4, 5, 6]
    assert len(dyn.observers) == 1


def test_closing_within_an_action_skips_no_other_observer():
    dyn, seen = moving(), []

    def close(event, frame):
        monitor.close()

    monitor = monitor_of(actions=[close], trigger=Trigger(patience=2))
    monitor.attach(dyn, interval=1)
    dyn.attach(lambda: seen.append(dyn.nsteps), 1)
    dyn.run(6)
    assert monitor.n_checks == 2
    assert seen == [0, 1, 2, 3, 4, 5, 6]


def test_detached_it_keeps_its_log_and_can_be_attached_again(tmp_path):
    reference = cold_reference()
    dyn = moving()
    with Monitor(reference, level_at(reference, -50.0), log=tmp_path / "run.jsonl", on_error="raise") as monitor:
        monitor.attach(dyn, interval=1)
        dyn.run(2)
        monitor.detach()
        dyn.run(4)
        assert monitor.last_check.step == 2
        monitor.attach(dyn, interval=1)
        dyn.run(1)
        assert monitor.last_check.step == 7
    assert dyn.observers == []


@pytest.mark.parametrize("use", [lambda m: m.check(outside()), lambda m: m.attach(moving())])
def test_a_closed_monitor_says_so(use):
    monitor = monitor_of()
    monitor.close()
    with pytest.raises(ValueError, match="monitor: expected an open one"):
        use(monitor)


def test_the_run_is_the_same_after_it_left():
    with_monitor, without = moving(3), moving(3)
    with monitor_of() as monitor:
        monitor.attach(with_monitor, interval=1)
        with_monitor.run(3)
    with_monitor.run(5)
    without.run(3)
    without.run(5)
    np.testing.assert_array_equal(with_monitor.atoms.positions, without.atoms.positions)
