"""Levels of a reference are carried to the references that were made from it, and stay valid."""

import numpy as np
import pytest
from systems import copper, reordered

from quests_md import Calibration, MismatchError, Monitor, Reference, calibrate
from quests_md.reference import frames_of_ancestors

PLAIN = ("dh_max", "tail_cluster", "dh_mean")


def cold(seed):
    return reordered([copper(2, seed=seed, rattle=0.08)], seed)[0]


def hot(seed):
    return reordered([copper(2, seed=seed, rattle=0.3)], seed)[0]


@pytest.fixture(scope="module")
def base():
    return Reference.from_frames([cold(i) for i in range(60)], groups="frame")


@pytest.fixture(scope="module")
def grown(base):
    return base.extend([hot(100 + i) for i in range(12)], groups="frame")


def n_out(reference, calibration, frames):
    with Monitor(reference, calibration, log=None) as monitor:
        return sum(monitor.check(atoms).state == "out" for atoms in frames)


def test_frames_of_ancestors_are_recorded(base, grown, tmp_path):
    other = Reference.from_frames([hot(i) for i in range(3)], groups="frame")
    whole = Reference.merge([other, grown]).extend([cold(900)])
    assert frames_of_ancestors(whole)[other.fingerprint] == range(3)
    assert frames_of_ancestors(whole)[grown.fingerprint] == range(3, 75)
    assert frames_of_ancestors(whole)[base.fingerprint] == range(3, 63)
    assert set(frames_of_ancestors(whole)) == set(whole.ancestors)
    whole.save(tmp_path / "r.safetensors")
    assert frames_of_ancestors(Reference.load(tmp_path / "r.safetensors")) == frames_of_ancestors(whole)
    assert frames_of_ancestors(base) == {}


@pytest.mark.parametrize("statistics", [None, PLAIN])
def test_the_old_groups_alone_set_the_levels(base, grown, statistics):
    old = calibrate(base, statistics=statistics)
    new = old.carried_to(grown)
    assert new.fingerprint == grown.fingerprint
    assert (new.n_groups, new.statistics, new.false_alarms) == (60, old.statistics, old.false_alarms)
    new.require(grown)
    assert "carried from reference" in new.describe()
    for level, before in zip(new.alarm_levels([29] * 32), old.alarm_levels([29] * 32), strict=True):
        assert level.n_groups == before.n_groups
        assert level.value <= before.value + (0.1 * before.value if statistics is None else 1e-9)
    quiet = [cold(600 + i) for i in range(60)]
    assert n_out(grown, new, quiet) <= 2
    again = calibrate(grown, statistics=statistics)
    assert any(
        a.value > b.value for a, b in zip(again.alarm_levels([29] * 32), new.alarm_levels([29] * 32), strict=True)
    )


def test_every_score_of_dh_falls_or_stays(base, grown):
    old, new = calibrate(base), calibrate(base).carried_to(grown)
    scores = {n.statistic: n for n in old.nulls if n.side == "above" and n.values == "both"}
    for null in new.nulls:
        if null.statistic in ("dh_max", "dh_mean", "dh_q99") and null.side == "above":
            before = scores[null.statistic]
            order, was = np.argsort(null.groups), np.argsort(before.groups)
            assert (null.scores[order] <= before.scores[was] + 1e-4).all()


def test_a_monitor_takes_the_levels_of_a_parent(base, grown, tmp_path):
    calibrate(base).save(tmp_path / "old.json")
    old = Calibration.load(tmp_path / "old.json")
    further = grown.extend([cold(901)], groups="frame")  # two steps away
    for reference in (base, grown, further):
        with Monitor(reference, old, log=None) as monitor:
            assert monitor.calibration.fingerprint == reference.fingerprint
            assert monitor.check(cold(700)).state == "in"
    with pytest.raises(MismatchError, match="calibrate again with this reference"):
        Monitor(Reference.from_frames([cold(1), cold(2)]), old, log=None)
    with pytest.raises(MismatchError, match="was not made by extend or merge"):
        old.carried_to(Reference.from_frames([cold(1), cold(2)]))
    assert old.carried_to(base) is old


def test_scores_of_separate_frames_are_kept(base, grown):
    apart = [cold(300 + i) for i in range(40)]
    old = calibrate(base, frames=apart, groups="frame", statistics=("dh_max", "dh_mean"))
    new = old.carried_to(grown)
    above = [level for level in old.alarm_levels([29] * 32) if level.side == "above"]
    kept = new.alarm_levels([29] * 32)
    assert {level.side for level in kept} == {"above"}
    assert [level.statistic for level in kept] == [level.statistic for level in above]
    assert n_out(grown, new, [cold(600 + i) for i in range(40)]) <= 2
    local = calibrate(base, frames=apart, groups="frame")
    with pytest.raises(MismatchError, match=r"of separate frames, local scores \(local_mean\) cannot be carried"):
        local.carried_to(grown)


@pytest.mark.parametrize("n_added", [pytest.param(4, marks=pytest.mark.long), 40])
@pytest.mark.parametrize("statistics", [None, PLAIN])
@pytest.mark.parametrize(("old", "added"), [(cold, hot), (hot, cold)])
def test_new_frames_of_the_old_kind_stay_in_after_others_were_added(old, added, statistics, n_added):
    """Whether cold or hot frames came first, and whether levels are carried or made anew."""
    base = Reference.from_frames([old(i) for i in range(60)], groups="frame")
    both = base.extend([added(100 + i) for i in range(n_added)], groups="frame")
    anew, carried = calibrate(both, statistics=statistics), calibrate(base, statistics=statistics).carried_to(both)
    quiet = [old(1000 + i) for i in range(60)]
    for calibration in (anew, carried):
        assert n_out(both, calibration, quiet) <= 3  # of 60 at 0.01: more in one of 300 sets
    if n_added == 40:
        assert n_out(both, anew, [added(2000 + i) for i in range(20)]) <= 2
