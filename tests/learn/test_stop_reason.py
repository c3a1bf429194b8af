"""Why a run was stopped: in the monitor, in its log, and on the command line."""

import json

import pytest
from ase.calculators.emt import EMT
from systems import cold_reference, copper, level_at, outside, verlet
from typer.testing import CliRunner

from quests_md import FileFormatError, Monitor, StopRun, Trigger, read_log, stop
from quests_md.cli.app import app


def monitor_of(log, *, level=2.0, **options):
    settings = {"trigger": Trigger(patience=1), "on_error": "raise", "verbose": False} | options
    return Monitor(cold_reference(), level_at(cold_reference(), level), log=log, **settings)


def test_nothing_has_stopped_a_run_that_goes_on(tmp_path):
    with monitor_of(tmp_path / "run.jsonl") as monitor:
        assert monitor.stop_reason is None
        monitor.check(copper())
        assert monitor.stop_reason is None
    assert read_log(tmp_path / "run.jsonl").stops == []


def test_an_action_of_ones_own_is_named_with_its_event(tmp_path):
    def end_of_walltime(event, frame):
        raise StopRun

    with monitor_of(tmp_path / "run.jsonl", actions=[end_of_walltime]) as monitor:
        monitor.check(copper(), step=100, time_ps=0.1)
        monitor.check(outside(), step=200, time_ps=0.2)
        assert monitor.stopped
        reason = monitor.stop_reason
    assert reason.startswith("the action end_of_walltime stopped the run at step 200 (0.2 ps): event 1 (novel, ")
    assert monitor.events[0].reason in reason
    (line,) = read_log(tmp_path / "run.jsonl").stops
    assert (line["stopped"], line["event"], line["step"]) == (reason, 1, 200)


@pytest.mark.parametrize("has_exploded", [False, True])
def test_the_trigger_says_how_far_beyond_it_was(has_exploded, tmp_path):
    atoms = outside()
    if has_exploded:
        atoms.positions[0] = atoms.positions[1]
    with monitor_of(tmp_path / "run.jsonl", trigger=Trigger(patience=1, stop_excess=0.5)) as monitor:
        monitor.check(copper(), step=0)
        check = monitor.check(atoms, step=3)
        reason = monitor.stop_reason
    assert "the trigger stopped the run at step 3" in reason
    said = "the simulation has exploded" if has_exploded else f"{check.trigger_excess:.3g} beyond its level"
    assert said in reason
    assert f"event 1 ({'exploded' if has_exploded else 'novel'}, " in reason


def test_the_command_line_says_it_and_why_it_ends_with_its_code(tmp_path):
    log = tmp_path / "run.jsonl"
    with monitor_of(log, level=-50.0, actions=[stop]) as monitor:
        dyn = verlet(copper(seed=5, rattle=0.05, calc=EMT()))
        monitor.attach(dyn, interval=1)
        dyn.run(5)
    found = CliRunner().invoke(app, ["events", str(log), "--fail-on-event"])
    assert found.exit_code == 3
    told = " ".join(found.stderr.split())
    assert f"stopped: {monitor.stop_reason}" in told
    assert "exit code 3: event 1 (novel, " in told


def test_a_run_that_is_taken_up_is_not_stopped_and_its_log_keeps_why_it_was(tmp_path):
    log = tmp_path / "run.jsonl"
    frames = [copper(), outside(), outside(1)]
    with monitor_of(log, actions=[stop]) as monitor:
        for step, atoms in enumerate(frames[:2]):
            monitor.check(atoms, step=step)
    with monitor_of(log, actions=[stop], resume=True) as monitor:
        monitor.check(frames[1], step=1)
        monitor.check(frames[2], step=2)
        assert monitor.last_check.step == 2
    assert read_log(log).stops[0]["step"] == 1


@pytest.mark.parametrize("content", [3, ["a"], {"a": 1}])
def test_a_line_that_does_not_hold_a_reason_is_damaged(content, tmp_path):
    log = tmp_path / "run.jsonl"
    with monitor_of(log) as monitor:
        monitor.check(copper())
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"type": "state", "step": 0, "stopped": content}) + "\n")
    with pytest.raises(FileFormatError, match="stopped"):
        read_log(log)
