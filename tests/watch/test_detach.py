"""A monitor leaves the dynamics when it is closed or detached, and never disturbs those who stay."""

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from systems import cold_reference, copper, level_at, outside

from quests_md import Monitor, Trigger, read_log, stop


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


def test_a_monitor_detached_within_an_action_stays_detached_in_the_way_of_ase_too():
    dyn, seen = moving(), []

    def leave(event, frame):
        monitor.detach()

    with monitor_of(actions=[leave], trigger=Trigger(patience=2)) as monitor:
        dyn.attach(monitor, 1, dyn)
        dyn.attach(lambda: seen.append(dyn.nsteps), 1)
        dyn.run(6)
        assert monitor.n_checks == 2
        assert seen == [0, 1, 2, 3, 4, 5, 6]
        dyn.attach(monitor, 1, dyn)
        dyn.run(2)
        assert monitor.last_check.step == 8


def part_of_a_run(folder, begin, died, *, counts_on):
    """A job from a checkpoint at step 0 or later that is away from step 7 to step 15, and checks every third step."""
    reference = cold_reference()
    dyn = moving()
    dyn.run(begin)  # there is no other checkpoint
    start_step = None if counts_on else max(begin, 15) if begin > 7 else begin
    if not counts_on:
        dyn = VelocityVerlet(dyn.atoms, timestep=0.1)
    ahead = 0 if counts_on else begin

    def go(step):
        if ahead + dyn.nsteps <= min(step, died):
            dyn.run(min(step, died) - ahead - dyn.nsteps)

    options = {"log": folder / "run.jsonl", "on_error": "raise", "resume": True, "start_step": start_step}
    with Monitor(reference, level_at(reference, -50.0), **options) as monitor:
        if begin <= 7:
            monitor.attach(dyn, interval=3)
            go(7)
            monitor.detach()
        go(15)
        if died > 15:
            monitor.attach(dyn, interval=3)
            go(24)


@pytest.mark.parametrize("counts_on", [False, True])
@pytest.mark.parametrize(("died", "begin"), [(7, 5), (10, 4), (12, 10), (12, 11), (20, 11), (20, 17)])
def test_a_run_that_was_detached_for_a_while_is_taken_up_with_the_checks_that_it_would_have(
    tmp_path, died, begin, counts_on, caplog
):
    part_of_a_run(tmp_path, 0, died, counts_on=True)
    part_of_a_run(tmp_path, begin, 24, counts_on=counts_on)
    log = read_log(tmp_path / "run.jsonl")
    assert log.step.tolist() == [0, 3, 6, 18, 21, 24]
    assert "missing" not in caplog.text
    assert any("at step 7 the monitor was detached" in note["message"] for note in log.notes)


def test_checks_lost_after_it_was_attached_again_are_said(tmp_path, caplog):
    part_of_a_run(tmp_path, 0, 24, counts_on=True)
    path = tmp_path / "run.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    end = next(i for i, line in enumerate(lines) if '"type": "check", "step": 18' in line)
    path.write_text("".join(lines[:end]))
    part_of_a_run(tmp_path, 22, 24, counts_on=True)
    assert "no checks between step 6, its last one, and step 22" in caplog.text


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
