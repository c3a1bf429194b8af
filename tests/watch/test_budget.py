"""The share of the run that checks take, in simulated time and in a real run."""

import re
import time
import warnings
from itertools import product

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from hypothesis import given
from hypothesis import strategies as st
from systems import copper, level_at

from quests_md import Monitor, Reference, read_log, score_trajectory
from quests_md.watch.budget import Budget, Cost, Toll, toll_text


def simulate(budget, n_calls, check_s, call_s):
    """Share of the time in checks after the first one, and the calls at which a check was made."""
    at, since, spent, total = [], 0.0, 0.0, 0.0
    for call in range(n_calls):
        since += call_s(call)
        total += call_s(call)
        if budget.is_due():
            at.append(call)
            cost = check_s(call)
            budget.take(cost, since)
            since = 0.0
            if len(at) > 1:
                spent += cost
                total += cost
    return spent / total, np.array(at)


@pytest.mark.slow
@given(share=st.floats(0.001, 0.5), check=st.floats(1e-4, 1.0), call=st.floats(1e-4, 1.0))
def test_the_share_is_kept_and_not_left_unused(share, check, call):
    budget = Budget(share)
    got, at = simulate(budget, 20_000, lambda _: check, lambda _: call)
    every = max(1, np.ceil(check * (1 - share) / (share * call)))
    assert budget.every == every or budget.every <= every * 1.05
    assert set(np.diff(at[3:])) <= {budget.every}
    if len(at) > 100:
        assert got <= 1.1 * share


@pytest.mark.parametrize("first_s", [1e-4, 10.0])
def test_cheap_checks_are_made_at_every_call_and_the_first_check_does_not_count(first_s):
    _, at = simulate(Budget(0.02), 100, lambda call: first_s if call == 0 else 1e-4, lambda _: 1.0)
    assert list(at) == list(range(100))


def test_checks_that_become_dear_are_made_less_often_and_more_often_again_when_they_are_cheap():
    budget = Budget(0.1)
    _, at = simulate(budget, 6000, lambda call: 1.0 if 1000 <= call < 3000 else 0.01, lambda _: 0.1)
    gaps = np.diff(at)
    assert gaps[at[1:] < 1000].max() == 1
    late = gaps[(at[1:] > 2500) & (at[1:] < 3000)]
    assert late.min() >= 80
    assert gaps[-1] == 1


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, True, "2 %", float("nan"), None])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(ValueError, match="budget: expected a share"):
        Budget(share)


@pytest.mark.slow
def test_a_real_run_keeps_its_budget_notes_changes_and_can_be_replayed(tmp_path):
    reference = Reference.from_frames([copper(seed=i) for i in range(4)])
    calibration = level_at(reference, 5.0)
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    dyn = VelocityVerlet(atoms, 2 * units.fs)
    frames = []
    dyn.attach(lambda: frames.append(atoms.copy()), interval=1)
    log = tmp_path / "run.jsonl"
    with Monitor(reference, calibration, log=log, budget=0.01) as monitor:
        monitor.attach(dyn, interval=1)
        dyn.run(300)
    seen = read_log(log)
    assert seen.header["budget"] == 0.01
    assert any("budget 0.01: a check every" in note["message"] for note in seen.notes)
    assert 2 <= len(seen) < 100  # a check of 32 atoms takes longer than a hundredth of ten EMT steps
    assert list(seen.interval[1:]) == list(np.diff(seen.step))
    again = list(score_trajectory(frames, reference, calibration, steps=seen.step))
    assert [check.step for check in again] == list(seen.step)
    assert [check.digest for check in again] == list(seen.digest)
    assert [check.dh_max for check in again] == list(seen.dh_max)


def dear(seconds):
    """An action that makes checks dear while an event is open."""

    def wait(event, frame):
        time.sleep(seconds)

    wait.repeats = True
    return wait


def test_the_share_counts_the_time_without_checks(tmp_path):
    reference = Reference.from_frames([copper(seed=i) for i in range(4)])
    with Monitor(reference, level_at(reference, 5.0), log=tmp_path / "run.jsonl", budget=0.02) as monitor:
        start = time.perf_counter()
        for step in range(200):
            monitor.check(copper(seed=step, rattle=0.05), step=step)
            time.sleep(0.001)
        wall = time.perf_counter() - start
    assert monitor.overhead.checks < 50
    assert 0.2 < monitor.overhead.share / (monitor.overhead.seconds / wall) < 5


@pytest.mark.parametrize("given", [True, False], ids=["step", "no step"])
def test_in_a_loop_of_ones_own_a_call_at_which_no_check_is_due_returns_the_last_check(given, tmp_path):
    """Calls follow each other at once, so that a check takes far more than a tenth of any number of calls here."""
    reference = Reference.from_frames([copper(seed=i) for i in range(4)])
    log, checks = tmp_path / "run.jsonl", []
    with Monitor(reference, level_at(reference, 5.0), log=log, budget=0.1) as monitor:
        frames = [copper(seed=i, rattle=0.05) for i in range(40)]
        for i, frame in enumerate(frames):
            checks.append(monitor.check(frame, step=10 * i if given else None))
        assert monitor.n_checks < 10
    assert [check.frame for check in checks[:2]] == [0, 1]  # the first does not count
    at = [i for i, check in enumerate(checks) if i == 0 or check is not checks[i - 1]]
    assert len(at) == monitor.n_checks
    assert [checks[i].step for i in at] == [10 * i if given else i for i in at]
    seen = read_log(log)
    assert list(seen.step) == [checks[i].step for i in at]
    assert any("budget 0.1: a check every" in note["message"] and "calls" in note["message"] for note in seen.notes)


def test_checks_that_take_no_share_to_speak_of_are_all_made():
    reference = Reference.from_frames([copper(seed=i) for i in range(4)])
    with Monitor(reference, level_at(reference, 5.0), log=None, budget=0.99) as monitor:
        for i in range(5):
            time.sleep(0.2)
            monitor.check(copper(seed=i, rattle=0.05))
        assert monitor.n_checks == 5


def test_attached_in_the_way_of_ase_the_budget_holds_too():
    reference = Reference.from_frames([copper(seed=i) for i in range(4)])
    atoms = copper(seed=0, rattle=0.05, temperature_K=300, calc=EMT())
    with Monitor(reference, level_at(reference, -50.0), log=None, budget=0.01, actions=[dear(0.2)]) as monitor:
        dyn = VelocityVerlet(atoms, 2 * units.fs)
        dyn.attach(monitor, 1, dyn)
        dyn.run(60)
        assert monitor.n_checks < 30


def test_a_trajectory_is_checked_whole_and_says_so():
    reference = Reference.from_frames([copper(seed=i) for i in range(4)])
    frames = [copper(seed=i, rattle=0.05) for i in range(30)]
    with Monitor(reference, level_at(reference, 5.0), log=None, budget=0.01) as monitor:
        with pytest.warns(UserWarning, match="budget: every frame is checked"):
            checks = score_trajectory(frames, monitor=monitor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(list(checks)) == 30


@pytest.mark.parametrize(
    ("check", "between", "interval", "says"),
    [
        (1e-3, 4.1e-3, 1, ""),
        (1e-3, 3.9e-3, 1, "checks take 20% of the run, 1 ms each at every step;\ninterval=5 would take 4.9%"),
        (9e-3, 1e-3, 1, "checks take 90% of the run, 9 ms each at every step;\ninterval=200 would take 4.3%"),
        (6e-2, 4e-2, 10, "checks take 60% of the run, 60 ms each every 10 steps;\ninterval=500 would take 2.9%"),
    ],
)
def test_what_is_said_of_dear_checks(check, between, interval, says):
    text = toll_text(check, between, interval)
    assert says in text.replace("quests_md: ", "")
    assert bool(text) == bool(says)
    assert all(len(line) <= 80 for line in text.splitlines())


def test_an_interval_that_is_advised_takes_a_twentieth_at_most():
    for check, between, interval in product((1e-4, 1e-2, 1.0), (1e-5, 1e-3, 1e-1), (1, 3, 10, 100)):
        text = toll_text(check, between, interval)
        if text:
            longer, share = re.search(r"interval=(\d+) would take ([\d.]+)%", text).groups()
            assert float(share) == pytest.approx(100 * check / (check + between * int(longer) / interval), abs=0.06)
            assert float(share) <= 5.05
            assert int(longer) > interval


@pytest.mark.parametrize(("slow", "pause"), [(None, None), (17, None), (None, 7)])
@pytest.mark.parametrize("check_s", [1e-3, 9e-3])
def test_one_slow_check_and_a_pause_do_not_count(slow, pause, check_s):
    toll, cost, now, said = Toll(), Cost(), 0.0, []
    for i in range(40):
        now += 0.01 + (60.0 if i == pause else 0.0)
        cost.last_start = now
        now += 3.0 if i == slow else check_s
        cost.last_end = now
        said.append(toll.said(cost, 1))
    assert [i for i, text in enumerate(said) if text] == ([19] if check_s > 5e-3 else [])


class Free(Calculator):
    """Atoms that feel nothing: a step of such a run takes less than any check of it."""

    implemented_properties = ("energy", "forces")

    def calculate(self, *args, **kwargs):
        Calculator.calculate(self, *args, **kwargs)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3))}


@pytest.mark.parametrize("budget", [None, 0.5])
def test_a_run_whose_checks_are_dear_is_told_so_once(budget, capsys):
    reference = Reference.from_frames([copper(seed=i) for i in range(4)])
    atoms = copper(seed=0, rattle=0.05, temperature_K=300, calc=Free())
    dyn = VelocityVerlet(atoms, 0.001 * units.fs)
    with Monitor(reference, level_at(reference, 5.0), log=None, budget=budget, verbose=True) as monitor:
        monitor.attach(dyn, interval=1)
        dyn.run(60)
    said = [line for line in capsys.readouterr().err.splitlines() if "of the run" in line]
    assert len(said) == (budget is None)
