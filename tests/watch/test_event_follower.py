"""The state of a run: whatever interrupts it, and wherever it is taken up, later checks and events are the same."""

import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logs import CHECK
from systems import H, copper, outside

from quests_md import Monitor, Reference, Trigger, calibrate
from quests_md._json import dumps
from quests_md.judge.judge import Judged
from quests_md.log import SCHEMA, LogHistory, LogWriter
from quests_md.watch.baseline import Baseline
from quests_md.watch.event_follower import EventFollower
from quests_md.watch.explosion import Explosion
from quests_md.watch.resume import Place, bring_back

STEP_PS = 0.05


@functools.cache
def reference():
    return Reference.from_frames([copper(1, rattle=0.02)], bandwidth=H, groups="frame")


@functools.cache
def frame(seed):
    return copper(2, seed=seed, rattle=0.1)


def follower(baseline, trigger, **options):
    judge = Baseline(("dh_mean", "frame_entropy"), 20 * STEP_PS, 0.05, trigger.release) if baseline else None
    return EventFollower(reference(), trigger, judge, Explosion(2000.0), 0.05, **options)


def judged(i, what, numbers):
    """A check as a judge would have made it: of kind `what`, with random numbers."""
    rng = np.random.default_rng(numbers)
    atoms, n = frame(i % 3), 32
    excess = {"i": -rng.uniform(0, 2), "o": rng.uniform(0.01, 3), "u": math.inf, "p": -1.0}.get(what, -1.0)
    size = 32 if rng.random() < 0.2 else int(rng.integers(0, 25))
    above = np.zeros(n, bool)
    above[rng.permutation(n)[: size if what == "o" else 0]] = True
    nucleus = np.zeros(n, bool)
    nucleus[: int(rng.integers(0, n)) if what == "p" else 0] = True
    excesses = {"dh_max": excess, "dh_mean": -rng.uniform(0, 1), "phase:b": rng.uniform(-1, 1) if what == "p" else -1.0}
    alarms = tuple(name for name, value in excesses.items() if value > 0)
    check = replace(
        CHECK,
        step=10 * i,
        frame=i,
        time_ps=round(STEP_PS * i, 9),
        n_atoms=n,
        dh_max=excess + 2.0,
        dh_mean=float(rng.normal(-4, 0.1)),
        frame_entropy=float(rng.normal(5, 0.1)),
        n_above=int(above.sum()),
        excess=excess,
        alarms=alarms,
        excesses=excesses,
        trigger_excess=max(excesses.values()),
        phases={"a": n - int(nucleus.sum()), "b": int(nucleus.sum())},
        phase_clusters={"b": int(nucleus.sum())},
        temperature_K={"h": 3000.0, "x": math.inf, "n": math.nan}.get(what, float(rng.uniform(250, 350))),
        volume_per_atom=12.0 if rng.random() < 0.98 else 70.0,
        state="out" if alarms else "in",
        digest=f"{i:016x}",
        delta_entropy=rng.normal(size=n),
        above=above,
        local_score=np.zeros(n),
    )
    if what == "x":
        nothing = dict.fromkeys(("dh_max", "dh_mean", "frame_entropy", "worst_atom", "worst_element"))
        nan = {"excess": math.nan, "trigger_excess": math.nan, "alarms": (), "excesses": {}, "state": "invalid"}
        return Judged(replace(check, **nothing, **nan), None, "numbers", offenders=(1, 5)), atoms
    offenders = ()
    if what == "c":
        offenders, check = (3, 4), replace(check, explosion="atoms 3 and 4 are near", state="out")
    tail = above | (rng.random(n) < 0.1)
    rows = np.repeat(reference().rows[:1], n, axis=0)
    return Judged(check, rows, tail=tail, offenders=offenders, product=nucleus, product_phase="b"), atoms


#: i in, o out, u an unknown element, p a phase that grows or not, x invalid, c atoms on top of each other, h hot,
#: n without a temperature; stretches, since single checks open nothing.
STRETCHES = st.lists(st.tuples(st.sampled_from("iiooppuxchn"), st.integers(1, 6)), min_size=1, max_size=14)


def checks_of(stretches, seed):
    kinds = "".join(what * n for what, n in stretches)
    return [judged(i, what, [seed, i]) for i, what in enumerate(kinds)]


def texts(taken):
    """What a follower returned, without what no log can hold."""
    lines = [dumps(line) for line in taken.lines]
    events = [(dumps(event.to_line()), is_new) for event, is_new in taken.events]
    return lines, events, taken.notes, taken.stop


def ends(a, b):
    """What is seen of two followers at the end."""
    for x, y in zip([*a.closed, *a.open_events], [*b.closed, *b.open_events], strict=True):
        np.testing.assert_equal(x.to_line(), y.to_line())
    assert (a.n_checks, a.n_events, a.n_outliers) == (b.n_checks, b.n_events, b.n_outliers)
    assert dumps(a.state()) == dumps(b.state())


triggers = st.builds(
    Trigger,
    patience=st.integers(1, 3),
    release=st.sampled_from([0.0, 0.5]),
    cooldown=st.integers(0, 3),
    max_events=st.sampled_from([None, None, 2]),
    stop_excess=st.sampled_from([None, 2.5]),
    visits=st.sampled_from([None, 2, 3]),
    window=st.sampled_from([5, 9, 20]),
)
common = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.slow
@common
@given(stretches=STRETCHES, seed=st.integers(0, 99), cut=st.floats(0, 1), baseline=st.booleans(), trigger=triggers)
def test_a_state_that_has_been_in_a_file_brings_the_same_later_lines(stretches, seed, cut, baseline, trigger):
    checks = checks_of(stretches, seed)
    cut = round(cut * len(checks))
    whole, first, second = (follower(baseline, trigger) for _ in range(3))
    expected = [texts(whole.follow(*check)) for check in checks]
    for check in checks[:cut]:
        first.follow(*check)
    second.restore(json.loads(dumps(first.state())))
    second.closed.extend(first.closed)  # these are in the log
    assert [texts(second.follow(*check)) for check in checks[cut:]] == expected[cut:]
    ends(second, whole)


@pytest.mark.slow
@common
@given(
    stretches=STRETCHES,
    seed=st.integers(0, 99),
    cut=st.floats(0, 1),
    baseline=st.booleans(),
    trigger=triggers,
    every=st.sampled_from([1, 3, 7, 1000]),
)
def test_the_lines_of_a_log_bring_back_the_same_state(tmp_path_factory, stretches, seed, cut, baseline, trigger, every):
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    checks = checks_of(stretches, seed)
    last = max(round(cut * len(checks)) - 1, 0)
    whole, second = (follower(baseline, trigger, snapshot_every=every) for _ in range(2))
    expected, writer = [], LogWriter(path)
    writer.write({"type": "header", "schema": SCHEMA})
    for check in checks:
        taken = whole.follow(*check)
        expected.append(texts(taken))
        writer.write(*taken.lines)
    writer.close()
    history = LogHistory(path)
    line = next(history.find("frame", last))
    check, place = bring_back(second, history, Place(0, None, line, last + 1, is_checked=False))
    assert (check.frame, place.frame) == (last, last + 1)
    assert json.loads(dumps(check.to_line())) == line.content
    assert [texts(second.follow(*check)) for check in checks[last + 1 :]] == expected[last + 1 :]
    ends(second, whole)


def test_streams_of_the_tests_above_hold_events_of_all_kinds():
    found = set()
    for seed in range(6):
        run = follower(True, Trigger(patience=2))
        for check in checks_of([("i", 26), ("o", 6), ("i", 2), ("p", 6), ("i", 4), ("c", 2), ("i", 3), ("x", 2)], seed):
            run.follow(*check)
        found |= {event.kind for event in [*run.closed, *run.open_events]}
        assert run.baseline.is_complete
    assert found == {"novel", "transition", "exploded"}


def test_a_temperature_without_bounds_survives_the_log():
    run, again = follower(False, Trigger(patience=1)), follower(False, Trigger(patience=1))
    first, atoms = judged(0, "o", 1)
    first = replace(first, check=replace(first.check, temperature_K=math.inf, time_ps=math.nan))
    run.follow(first, atoms)
    again.restore(json.loads(dumps(run.state())))
    (event,) = again.open_events
    assert event.onset_temperature_K == math.inf
    assert math.isnan(event.onset_time_ps)


@pytest.mark.slow
def test_a_state_is_bounded_however_long_the_run():
    run = follower(False, Trigger(patience=1), snapshot_every=200)
    sizes = []
    for i in range(650):
        what = "o" if i % 400 < 380 else "i"
        lines = run.follow(*judged(i, what, i)).lines
        if any("snapshot" in line for line in lines):
            sizes.append(len(dumps(run.state())))
    assert len(sizes) == 3
    assert max(sizes) < 60_000


def test_a_baseline_still_collected_is_not_copied_again_and_again():
    run = EventFollower(reference(), Trigger(), Baseline(("dh_mean",), 1e6, 0.05, 0.5), Explosion(None))
    check, atoms = judged(1, "i", 1)
    for i in range(2001):
        lines = run.follow(replace(check, check=replace(check.check, step=i, frame=i)), atoms).lines
        assert not any("snapshot" in line for line in lines)


@pytest.mark.parametrize(("alarms", "is_hedged"), [((), False), (("dh_mean",), True), (("dh_max",), True)])
def test_a_phase_that_is_named_in_a_frame_out_of_the_reference_is_hedged(alarms, is_hedged):
    one = follower(baseline=False, trigger=Trigger())
    for i in range(6):
        seen, atoms = judged(i, "p", [7, i])
        excesses = {"dh_max": -1.0, "dh_mean": -1.0, "phase:b": 1.0} | dict.fromkeys(alarms, 0.5)
        check = replace(seen.check, excesses=excesses, alarms=(*alarms, "phase:b"), trigger_excess=1.0, state="out")
        one.follow(replace(seen, check=check), atoms)
    [event] = [event for event in one.open_events if event.kind == "transition"]
    assert event.phase == "b"
    assert event.reason.startswith("a connected cluster of b is larger than any that the parent phase has by itself")
    assert ("nearest name for something else" in event.reason) == is_hedged


def test_an_alarm_by_averaged_rows_needs_no_atom_above_the_level_of_plain_rows():
    """Statistics of both scales: the cluster that went out is of local scores, the atoms that count of plain rows."""

    def crystal(lattice, rattle, rng):
        atoms = bulk("Cu", "fcc", a=lattice, cubic=True) * (3, 3, 3)
        atoms.positions += rng.normal(0, rattle, atoms.positions.shape)
        return atoms

    rng = np.random.default_rng(0)
    known = Reference.from_frames([crystal(3.61, 0.15, rng) for _ in range(40)], groups="frame")
    levels = calibrate(known, false_alarms=0.1, statistics=("dh_max", "tail_cluster", "local_cluster"))
    monitor = Monitor(known, levels, log=None, on_error="raise")
    dense = crystal(0.98 * 3.61, 0.12, rng)
    judged = monitor.judge.judge(dense, step=0, frame=0)
    assert judged.check.alarms == ("local_cluster",)
    assert not judged.tail.any()
    assert monitor.check(dense).state == "out"


@pytest.mark.parametrize("statistics", [("dh_max",), None])
def test_events_of_levels_without_a_promise_say_so(statistics):
    few = Reference.from_frames([copper(seed=i, rattle=0.05) for i in range(3)], bandwidth=H, groups="frame")
    calibration = calibrate(few, statistics=statistics) if statistics else calibrate(few)
    with Monitor(few, calibration, log=None, trigger=Trigger(patience=2)) as monitor:
        for i in range(3):
            monitor.check(outside(50 + i), step=i)
        (event,) = monitor.events
    assert event.reason.endswith(
        "no rate of false alarms was promised: these levels are of kind none, from too few groups of frames like this"
    )
