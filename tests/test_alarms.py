"""What raises an alarm: each statistic by itself, all of them at a joint rate, and what the trigger is given."""

import json
import math

import numpy as np
import pytest
from ase import Atoms
from scipy.stats import binom
from systems import (
    H,
    alloy_reference,
    calibration_of,
    cold_reference,
    copper,
    level_at,
    md_frames,
    md_reference,
    null_of,
    outside,
)

from quests_md import Event, Monitor, Reference, Trigger, calibrate
from quests_md._json import dumps
from quests_md.calibration import STATISTICS, rate_of
from quests_md.judge.judge import Judge
from quests_md.watch.event_follower import EventFollower
from quests_md.watch.explosion import Explosion

ALL = tuple(STATISTICS)
PLAIN = tuple(name for name in ALL if STATISTICS[name].scale == "plain")
RATTLE = 0.08  # Å


def check_of(judge, atoms):
    return judge.judge(atoms, step=0, frame=0).check


def thermal(seed, size=2):
    return copper(size, seed=seed, rattle=RATTLE)


def between(level, middle, statistic):
    """A null distribution of frames of 32 atoms whose level at a rate of 0.01 and whose median are these."""
    return null_of([middle] * 101 + [level] * 99, 32, statistic)


@pytest.mark.parametrize("statistics", [("dh_max",), ("dh_max", "n_tail"), ("tail_cluster",)])
def test_tail_atoms_are_not_counted_in_proven_mode_unless_an_alarm_needs_them(statistics):
    reference, atoms = cold_reference(), outside()
    calibration = level_at(reference, 1e3, statistics=statistics, atom_levels={29: -1.0})
    full, proven = (check_of(Judge(reference, calibration, values=values), atoms) for values in ("full", "proven"))
    assert full.n_tail == (full.delta_entropy > -1).sum() > 0
    assert full.tail_cluster > 0
    expected = (None, None) if statistics == ("dh_max",) else (full.n_tail, full.tail_cluster)
    assert (proven.n_tail, proven.tail_cluster) == expected


# the joint rate


@pytest.fixture(scope="module")
def small():
    """Frames of 32 atoms, their levels from separate frames and from held-out ones, all statistics in use."""
    reference = Reference.from_frames([thermal(i) for i in range(150)], bandwidth=H, groups="frame")
    options = {"groups": "frame", "false_alarms": 0.1, "statistics": ALL}
    apart = [thermal(1000 + i) for i in range(240)]
    return reference, calibrate(reference, frames=apart, **options), calibrate(reference, **options)


@pytest.fixture(scope="module")
def new_frames():
    return [thermal(5000 + i) for i in range(250)]


@pytest.mark.slow
@pytest.mark.parametrize("values", ["full", "proven"])
@pytest.mark.parametrize("source", ["apart", "held out"])
def test_all_statistics_together_keep_the_rate(small, new_frames, source, values):
    reference, apart, held_out = small
    calibration = apart if source == "apart" else held_out
    assert calibration.kind == "conformal"
    assert rate_of(calibration.alarm_levels(new_frames[0].numbers)) == pytest.approx(0.1)
    judge = Judge(reference, calibration, values=values)
    checks = [check_of(judge, atoms) for atoms in new_frames]
    n_out = sum(check.state == "out" for check in checks)
    # Clopper-Pearson at 99 %: more would show that more than twice the asked rate is true
    assert n_out <= binom.ppf(0.99, len(checks), 2 * 0.1)
    assert n_out >= 2  # levels out of reach would keep any rate
    for check in checks:
        assert (check.state == "out") == bool(check.alarms) == (check.trigger_excess > 0)
        assert set(check.alarms) <= set(ALL)


# where each must fire


@pytest.fixture(scope="module")
def large():
    """The same for frames of 108 atoms."""
    reference = Reference.from_frames([thermal(i, 3) for i in range(16)], bandwidth=H, groups="frame")
    apart = [thermal(1000 + i, 3) for i in range(64)]
    calibration = calibrate(reference, frames=apart, groups="frame", false_alarms=0.3, statistics=ALL)
    return Judge(reference, calibration)


def test_in_distribution_nothing_fires(small, large):
    assert check_of(Judge(*small[:2]), thermal(7)).alarms == ()
    assert check_of(large, thermal(301, 3)).alarms == ()


@pytest.mark.parametrize("factor", [0.97, 1.02])
def test_strain_moves_the_mean(small, factor):
    atoms = thermal(9)
    atoms.set_cell(atoms.cell * factor, scale_atoms=True)
    check = check_of(Judge(*small[:2]), atoms)
    assert "dh_mean" in check.alarms
    assert check.state == "out"
    if factor == 1.02:  # no atom is far out: what the largest cannot see
        assert "dh_max" not in check.alarms
        assert check.n_above == 0
        assert check.excess < 0 < check.trigger_excess


def test_a_displaced_atom_is_the_largest(small):
    atoms = thermal(9)
    atoms.positions[5] += [0.35, 0, 0]
    check = check_of(Judge(*small[:2]), atoms)
    assert "dh_max" in check.alarms
    assert "dh_mean" not in check.alarms
    assert check.worst_atom == 5


def test_a_frame_too_well_ordered_for_a_mean_has_a_low_mean():
    """A reference of cold and hot frames, calibrated with hot ones: cold frames lie below, where nothing else looks."""
    frames = [copper(seed=i, rattle=(0.03, RATTLE)[i % 2]) for i in range(60)]
    reference = Reference.from_frames(frames, bandwidth=H, groups="frame")
    apart = [thermal(100 + i) for i in range(80)]
    options = {"groups": "frame", "false_alarms": 0.1, "statistics": ("dh_max", "dh_mean")}
    judge = Judge(reference, calibrate(reference, frames=apart, **options))
    assert check_of(judge, copper(seed=500, rattle=0.03)).alarms == ("dh_mean",)
    assert check_of(judge, thermal(502)).alarms == ()


def test_order_lowers_the_entropy_of_the_frame_and_no_number_of_plain_rows():
    """Against a liquid a crystal is no news for dH; method.md."""
    disorder = [copper(seed=i, rattle=0.3) for i in range(80)]
    reference = Reference.from_frames(disorder, bandwidth=H, groups="frame")
    calibration = calibrate(reference, false_alarms=0.1, statistics=ALL)
    judge = Judge(reference, calibration)
    check = check_of(judge, copper(seed=999, rattle=0.15))
    assert check.alarms[0] == "frame_entropy"
    assert all(name.startswith("local_") for name in check.alarms[1:])  # which see that it is ordered
    low = next(
        v for v in calibration.alarm_levels(copper().numbers) if (v.statistic, v.side) == ("frame_entropy", "below")
    )
    assert check.excesses["frame_entropy"] == pytest.approx(low.value - check.frame_entropy)
    assert check_of(judge, copper(seed=999, rattle=0.3)).alarms == ()


def test_a_group_of_displaced_atoms_is_a_cluster(large):
    """None of them is beyond the level of dH, but there are many of them in one place."""
    atoms = thermal(52, 3)
    near = np.argsort(atoms.get_distances(0, range(108), mic=True))[:20]
    atoms.positions[near] += np.random.default_rng(2).normal(0, 0.09, (20, 3))
    check = check_of(large, atoms)
    assert "tail_cluster" in check.alarms
    assert "dh_max" not in check.alarms
    assert check.tail_cluster <= check.n_tail < 20
    # an event by it names these atoms, with their dH where a proof was all that the check needed
    proven = Judge(large.reference, large.calibration, values="proven").judge(atoms, step=0, frame=0)
    follower = EventFollower(large.reference, Trigger(patience=1), None, Explosion())
    event, is_new = follower.follow(proven, atoms).events[0]
    assert is_new
    assert event.n_atoms == max(check.tail_cluster, check.n_above)
    assert len(event.environments) == 3
    assert all(math.isfinite(e.delta_entropy) for e in event.environments)
    scattered = thermal(52, 3)
    far = np.random.default_rng(3).choice(108, 30, replace=False)
    scattered.positions[far] += np.random.default_rng(2).normal(0, 0.15, (30, 3))
    assert "n_tail" in check_of(large, scattered).alarms


# what goes to the trigger


@pytest.mark.parametrize("statistic", PLAIN[1:])
@pytest.mark.parametrize("distance", [0.3, 1e-6, 0.0, -0.1, -0.3, -2.0])
@pytest.mark.parametrize("gap", [0.2, 10.0, 0.0])
def test_the_excess_is_the_distance_from_the_level(statistic, distance, gap):
    """Below the level a number counts as released half of the way to its median, where release is farther than that."""
    reference, atoms = cold_reference(), copper(seed=3, rattle=0.02)
    counted = statistic in ("n_tail", "tail_cluster")
    plain = Judge(reference, level_at(reference, 1e3, atom_levels={29: -5.0}))
    value = getattr(check_of(plain, atoms), statistic)
    if counted:
        assert value > 3
        share = 32 if statistic == "n_tail" else 1
        level = ((value + 1) / math.exp(distance) - 1) / share
        middle = ((level * share + 1) / math.exp(gap) - 1) / share
        if middle < 0:
            middle, gap = 0.0, math.log(level * share + 1)
    else:
        level, middle = value - distance, value - distance - gap
    null = between(level, middle, statistic)
    calibration = level_at(reference, 1e3, null, statistics=(statistic,), atom_levels={29: -5.0})
    check = check_of(Judge(reference, calibration), atoms)
    expected = distance
    if distance <= 0 and gap == 0:
        expected = min(distance, -0.5)
    elif distance <= 0 and gap / 2 < 0.5:
        expected = distance * 0.5 / (gap / 2)
    assert check.trigger_excess == pytest.approx(expected, abs=1e-9)
    if abs(distance) > 1e-9:
        assert check.alarms == ((statistic,) if distance > 0 else ())
        assert check.state == ("out" if distance > 0 else "in")
    assert check.excess == pytest.approx(check.delta_entropy.max() - 1e3)  # of the largest dH, in any case


@pytest.mark.parametrize("statistic", ["dh_mean", "frame_entropy"])
def test_either_side_counts(statistic):
    reference, atoms = cold_reference(), copper(seed=3, rattle=0.02)
    value = getattr(check_of(Judge(reference, level_at(reference, 1e3)), atoms), statistic)
    for low, high, expected in ((-9, -1, 1), (1, 9, 1), (-3, 2, -2), (-1, 4, -1)):
        sides = [
            between(value + high, value + 0.5 * (low + high), statistic),
            null_of([value + low] * 99 + [value + 0.5 * (low + high)] * 101, 32, statistic, side="below"),
        ]
        check = check_of(Judge(reference, level_at(reference, 1e3, *sides, statistics=(statistic,))), atoms)
        assert check.trigger_excess == pytest.approx(expected, abs=1e-9)
        assert check.state == ("out" if expected > 0 else "in")


def test_the_worst_statistic_goes_to_the_trigger_and_all_that_are_out_to_the_alarms():
    reference, atoms = cold_reference(), outside()
    plain = check_of(Judge(reference, level_at(reference, 1e3)), atoms)
    mean = between(plain.dh_mean - 30, plain.dh_mean - 99, "dh_mean")
    q99 = between(plain.dh_q99 + 1, plain.dh_q99 - 99, "dh_q99")
    calibration = level_at(reference, plain.dh_max - 20, mean, q99, statistics=("dh_mean", "dh_q99", "dh_max"))
    check = check_of(Judge(reference, calibration), atoms)
    assert check.alarms == ("dh_mean", "dh_max")
    assert check.trigger_excess == pytest.approx(30)
    assert check.excess == pytest.approx(20)


def test_only_statistics_in_use_raise_alarms():
    reference, atoms = cold_reference(), outside()
    calibration = level_at(reference, -1e3, between(-1e3, -2e3, "dh_mean"), between(1e3, 0, "frame_entropy"))
    for statistics, alarms in (
        (("dh_max",), ("dh_max",)),
        (("dh_mean",), ("dh_mean",)),
        (("dh_mean", "dh_max"), ("dh_mean", "dh_max")),
        (("frame_entropy",), ()),
    ):
        check = check_of(Judge(reference, calibration.with_statistics(statistics)), atoms)
        assert check.alarms == alarms
        assert check.state == ("out" if alarms else "in")
        assert check.n_above == 32  # said in any case
        assert check.excess > 1e3


def test_a_statistic_without_a_null_distribution_is_not_judged():
    reference = cold_reference()
    check = check_of(Judge(reference, level_at(reference, -1e3, statistics=("frame_entropy",))), outside())
    assert (check.state, check.alarms, check.trigger_excess) == ("in", (), -math.inf)


@pytest.mark.parametrize("values", ["full", "proven"])
@pytest.mark.parametrize("statistics", [("dh_mean",), ("frame_entropy", "dh_max")])
def test_an_unknown_element_is_out_whatever_the_statistics(values, statistics):
    reference = alloy_reference()
    calibration = level_at(reference, 1e3, between(1e3, 0, "dh_mean"), statistics=statistics)
    atoms = Atoms("AgCu3", positions=[[0, 0, 0], [0, 1.9, 1.9], [1.9, 0, 1.9], [1.9, 1.9, 0]], cell=[3.8] * 3, pbc=True)
    check = check_of(Judge(reference, calibration, values=values), atoms)
    assert (check.state, check.alarms, check.trigger_excess) == ("out", ("dh_max",), math.inf)
    assert check.n_tail == check.tail_cluster == (1 if values == "full" else None)


@pytest.mark.parametrize("n_tail", [13, 15, 61, 62])
def test_as_many_tail_atoms_as_the_level_says_are_not_out(n_tail):
    """61 / 108 * 108 is less than 61 in floating point."""
    reference, atoms = cold_reference(), thermal(4, 3)
    dh = np.sort(check_of(Judge(reference, level_at(reference, 0.0)), atoms).delta_entropy)
    atom_level = (dh[-n_tail] + dh[-n_tail - 1]) / 2
    for allowed, state in ((n_tail, "in"), (n_tail - 1, "out")):
        null = null_of([allowed / 108] * 200, 108, "n_tail")
        calibration = level_at(reference, 1e9, null, statistics=("n_tail",), atom_levels={29: atom_level})
        check = check_of(Judge(reference, calibration), atoms)
        assert check.n_tail == n_tail
        assert check.state == state


@pytest.mark.parametrize("statistic", ["frame_entropy", "n_tail", "tail_cluster"])
def test_an_event_ends_though_a_number_never_leaves_its_level(statistic):
    """The entropy of frames whose environments are all far apart is log N, the usual number of tail atoms is none."""
    reference = Reference.from_frames([outside(i) for i in range(4)], bandwidth=1e-4, groups="frame")
    value = math.log(32) if statistic == "frame_entropy" else 0.0
    null = null_of([value] * 200, 32, statistic)
    calibration = level_at(reference, 1e3, null, statistics=("dh_max", statistic), atom_levels={29: 1e300})
    known = outside(2)
    with Monitor(reference, calibration, trigger=Trigger(patience=1), log=None, on_error="raise") as monitor:
        assert [monitor.check(atoms).state for atoms in (known, outside(9), known)] == ["in", "out", "in"]
        assert monitor.last_check.trigger_excess == -0.5
        (event,) = monitor.events
    assert not event.is_open
    assert event.alarms == ("dh_max",)


def test_a_level_below_zero_counts_as_none_allowed():
    """Scores of small scatter, scaled to a frame of few atoms at a rate near one."""
    reference = cold_reference()
    null = null_of(np.linspace(0, 0.04, 50), 1000, "n_tail")
    calibration = calibration_of(
        null_of([1e3] * 200),
        null,
        reference=reference,
        statistics=("n_tail",),
        false_alarms=0.95,
        atom_levels={29: 1e3},
    )
    atoms = copper(1, rattle=0.01)
    level = calibration.alarm_levels(atoms.numbers)[0]
    assert level.value * 4 < -1
    assert check_of(Judge(reference, calibration), atoms).state == "in"


def test_an_event_names_every_statistic_that_was_out():
    reference = cold_reference()
    displaced, strained = copper(seed=1, rattle=0.02), copper(seed=2, rattle=0.012)
    displaced.positions[3] += 0.3
    strained.set_cell(strained.cell * 1.03, scale_atoms=True)
    plain = Judge(reference, level_at(reference, 1e3))
    a, b = check_of(plain, displaced), check_of(plain, strained)
    assert a.dh_max > b.dh_max + 1
    assert a.dh_mean < b.dh_mean - 0.3
    mean = between((a.dh_mean + b.dh_mean) / 2, -99, "dh_mean")
    calibration = level_at(reference, b.dh_max + 0.5, mean, statistics=("dh_max", "dh_mean"))
    with Monitor(reference, calibration, trigger=Trigger(patience=2), log=None, on_error="raise") as monitor:
        checks = [monitor.check(atoms) for atoms in (displaced, strained)]
        (event,) = monitor.events
    assert [check.alarms for check in checks] == [("dh_max",), ("dh_mean",)]
    assert event.alarms == ("dh_max", "dh_mean")
    assert event.peak_excess == checks[0].trigger_excess == checks[0].excess
    assert event.peak_step == 0
    assert "alarms   dh_max, dh_mean" in event.describe()


def test_an_alarm_of_local_scores_says_which_where_and_of_which_atom():
    reference = md_reference()
    atoms = md_frames()[1].copy()
    atoms.set_array("id", 100 + np.arange(len(atoms)))
    atoms.positions[5] += (0.9, 0.4, 0.0)
    with Monitor(reference, calibrate(reference), trigger=Trigger(patience=1), log=None, on_error="raise") as monitor:
        check = monitor.check(atoms)
        (event,) = monitor.events
    values = {name: check.statistic(name) for name in check.alarms}
    assert {"local_cluster", "local_max"} <= set(values)
    assert event.reason.startswith("neighbourhoods (each atom averaged with its 12 nearest) unlike those known: ")
    assert f"{values['local_cluster']:.0f} connected atoms above the local level around (" in event.reason
    worst = int(np.argmax(check.local_score))
    assert (
        f"atom {100 + worst} (Cu) is {check.local_score.max():.1f} deviations beyond what is usual there"
        in event.reason
    )
    assert event.worst_atom == 100 + worst
    assert event.environments[0].atom == 100 + worst
    scores = [environment.local_score for environment in event.environments]
    assert scores == [check.local_score[environment.atom - 100] for environment in event.environments]
    assert f"local score {scores[0]:.1f}, dH" in event.describe()
    assert Event.from_line(json.loads(dumps(event.to_line()))).environments == event.environments


def test_atoms_of_events_by_plain_rows_and_of_older_logs_have_no_local_score():
    reference = cold_reference()
    with Monitor(reference, level_at(reference, -3.0), trigger=Trigger(patience=1), log=None) as monitor:
        monitor.check(outside())
        (event,) = monitor.events
    line = event.to_line()
    assert [environment["local_score"] for environment in line["environments"]] == [None] * 3
    for environment in line["environments"]:
        del environment["local_score"]
    assert Event.from_line(line) == event
