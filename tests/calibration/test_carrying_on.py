"""Levels are carried by any number of steps, with the groups that were given, and whatever was added beside."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from systems import copper, reordered

from quests_md import Calibration, Descriptor, FileFormatError, MismatchError, Monitor, Reference, calibrate
from quests_md.calibration import kind_of

PLAIN = ("dh_max", "tail_cluster", "dh_mean")
NUMBERS = [29] * 32
DATA = Path(__file__).parents[1] / "data" / "version-0.1.0"


def cold(seed):
    return reordered([copper(2, seed=seed, rattle=0.08)], seed)[0]


def hot(seed):
    return reordered([copper(2, seed=seed, rattle=0.3)], seed)[0]


def gold(seed):
    atoms = hot(seed)
    atoms.numbers[:] = 79
    return atoms


def built(frames, groups="frame"):
    return Reference.from_frames(list(frames), groups=groups)


@pytest.fixture(scope="module")
def base():
    return built(cold(i) for i in range(50))


@pytest.fixture(scope="module")
def grown(base):
    return base.extend([hot(100 + i) for i in range(20)], groups="frame")


@pytest.fixture(scope="module")
def further(grown):
    return grown.extend([hot(200 + i) for i in range(5)], groups="frame")


def values(calibration, numbers=NUMBERS):
    return {(level.statistic, level.element, level.side): level.value for level in calibration.alarm_levels(numbers)}


def assert_equal(one, other):
    """The same in everything that levels are made of, and in words."""
    assert (one.fingerprint, one.n_groups, one.how) == (other.fingerprint, other.n_groups, other.how)
    assert one.alarm_levels(NUMBERS) == other.alarm_levels(NUMBERS)
    for null, its in zip(one.nulls, other.nulls, strict=True):
        assert (null.statistic, null.element, null.side) == (its.statistic, its.element, its.side)
        np.testing.assert_array_equal(null.scores, its.scores)


def reloaded(calibration, folder):
    calibration.save(folder / "levels.json")
    return Calibration.load(folder / "levels.json")


@pytest.mark.parametrize("statistics", [None, PLAIN])
def test_two_steps_are_as_one(base, grown, further, statistics, tmp_path):
    """By way of the reference between, the frames added first set the levels: dh_max from 2.1 to 13.9."""
    own = calibrate(base, statistics=statistics)
    once = own.carried_to(further)
    assert_equal(own.carried_to(grown).carried_to(further), once)
    assert_equal(reloaded(reloaded(own, tmp_path).carried_to(grown), tmp_path).carried_to(further), once)
    assert once.how.count("carried from") == 1
    if statistics is not None:
        assert all(value <= values(own)[key] + 1e-9 for key, value in values(once).items())


def test_levels_of_separate_frames_stay_those_of_separate_frames(base, grown, further, tmp_path):
    own = calibrate(base, frames=[cold(300 + i) for i in range(40)], groups="frame", statistics=("dh_max", "dh_mean"))
    once = own.carried_to(further)
    scores = {(null.statistic, null.side): null.scores.tolist() for null in own.nulls}
    assert {null.side for null in once.nulls} >= {"above"}
    assert all(scores[null.statistic, null.side] == null.scores.tolist() for null in once.nulls)
    assert set(values(once)) == {key for key in values(own) if key[2] == "above"}
    assert_equal(own.carried_to(grown).carried_to(further), once)
    assert_equal(reloaded(own.carried_to(grown), tmp_path).carried_to(further), once)


@pytest.mark.parametrize("statistics", [None, PLAIN])
def test_groups_that_were_given_are_carried(base, grown, statistics, tmp_path):
    """Five groups of ten frames became fifty of one, and promised more than they did before."""
    own = calibrate(base, groups=[i // 10 for i in range(50)], statistics=statistics)
    for calibration in (own, reloaded(own, tmp_path)):
        new = calibration.carried_to(grown)
        assert new.n_groups == own.n_groups == 5
        for level, before in zip(new.alarm_levels(NUMBERS), own.alarm_levels(NUMBERS), strict=True):
            assert (level.kind, level.n_groups, level.rate) == (before.kind, before.n_groups, before.rate)
        with Monitor(grown, calibration, log=None) as monitor:
            assert monitor.calibration.n_groups == own.n_groups


def test_one_file_stays_one_group(base, grown):
    with pytest.warns(UserWarning, match="could be held out"):
        own = calibrate(base, groups="file", statistics=PLAIN)
    new = own.carried_to(grown)
    assert new.n_groups == 1
    assert kind_of(new.alarm_levels(NUMBERS)) == "none"
    assert "promise: none" in new.describe()


@pytest.mark.parametrize("carried_before", [False, True])
def test_files_that_do_not_say_how_frames_were_grouped_promise_nothing(base, grown, further, carried_before, tmp_path):
    own = calibrate(base, groups=[i // 10 for i in range(50)], statistics=PLAIN)
    own.save(tmp_path / "new.json")
    content = json.loads((tmp_path / "new.json").read_text())
    del content["origin"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    old = Calibration.load(tmp_path / "old.json")
    assert old.describe() == own.describe()
    new = old.carried_to(grown)
    if carried_before:
        new = reloaded(new, tmp_path).carried_to(further)
    for level, before in zip(new.alarm_levels(NUMBERS), own.alarm_levels(NUMBERS), strict=True):
        assert (level.kind, level.rate, level.value) == ("none", 1.0, before.value)
    assert "promise: none" in new.describe()
    assert "does not say how frames were grouped" in new.describe()
    local = replace(old, statistics=("local_mean",))
    with pytest.raises(MismatchError, match="of an older file"):
        local.carried_to(grown)


def test_another_bandwidth_ends_the_chain(base, grown):
    wide = grown.with_bandwidth(0.03)
    assert base.fingerprint not in wide.ancestors
    assert grown.fingerprint not in wide.ancestors
    for calibration in (
        calibrate(base),
        calibrate(base, frames=[cold(300 + i) for i in range(9)], groups="frame", statistics=PLAIN),
    ):
        with pytest.raises(MismatchError, match="was not made by extend or merge"):
            calibration.carried_to(wide)
        with pytest.raises(MismatchError):
            Monitor(wide, calibration, log=None)
    assert grown.with_bandwidth(grown.bandwidth).ancestors == grown.ancestors
    assert wide.extend([cold(1)]).ancestors == (wide.fingerprint, built([cold(1)]).with_bandwidth(0.03).fingerprint)


def test_fewer_rows_end_the_chain(grown):
    assert grown.sketch(100, 0).ancestors == ()


def test_another_descriptor_is_never_one_of_the_chain(base):
    other = Reference.from_frames([cold(1)], descriptor=Descriptor(k=16))
    with pytest.raises(MismatchError):
        Reference.merge([base, other])


def scores_of(calibration, statistic):
    """The scores of a statistic, in the order of groups."""
    (null,) = (n for n in calibration.nulls if n.statistic == statistic and n.side == "above" and n.values == "both")
    return null.scores[np.argsort(null.groups)]


@pytest.mark.parametrize("statistics", [None, PLAIN])
@pytest.mark.parametrize("n_runs", [1, 5])
def test_copies_among_added_frames_do_not_let_these_set_levels(base, statistics, n_runs):
    """A hot run that began with a frame of the reference was taken for frames of the reference.

    By way of one run with copies of several groups these groups were one.
    """
    runs = [[cold(10 * i), *(hot(500 + 10 * i + j) for j in range(4))] for i in range(5)]
    frames, groups = [atoms for run in runs for atoms in run], np.repeat(np.arange(5), 5) * (n_runs > 1)
    own = calibrate(base, statistics=statistics)
    grown = base.extend(frames, groups=groups)
    assert grown.arrays.frame_group[0] == grown.arrays.frame_group[51]
    new = own.carried_to(grown)
    assert new.n_groups == own.n_groups
    for name in ("dh_max", "dh_mean", "dh_q99"):
        assert (scores_of(new, name) <= scores_of(own, name) + 1e-4).all()
        assert (scores_of(new, name) > scores_of(own, name) - 2).all()  # no frame is known by its copy
    with Monitor(grown, new, log=None) as monitor:
        assert sum(monitor.check(hot(900 + i)).state == "out" for i in range(5)) == 5
        assert sum(monitor.check(cold(900 + i)).state == "out" for i in range(5)) == 0


def test_all_groups_of_the_parent_are_held_out_from_a_large_reference(base):
    """Rows to hold out were drawn from all groups, so that 50 groups became 14."""
    large = base.extend([copper(4, seed=i, rattle=0.12) for i in range(120)], groups="frame")
    assert large.n_environments > 30_000
    new = calibrate(base, statistics=PLAIN).carried_to(large)
    assert {null.statistic: len(null.scores) for null in new.nulls if null.side == "above"}["dh_max"] == 50
    assert new.n_groups == 50


@pytest.mark.parametrize("statistics", [None, PLAIN])
def test_nothing_is_promised_for_elements_that_were_added(base, statistics):
    own = calibrate(base, statistics=statistics)
    new = own.carried_to(base.extend([gold(i) for i in range(60)], groups="frame"))
    assert kind_of(new.alarm_levels(NUMBERS)) == kind_of(own.alarm_levels(NUMBERS)) == "extrapolated"
    for numbers in ([79] * 32, [29] * 16 + [79] * 16):
        levels = new.alarm_levels(numbers)
        assert all((level.kind, level.rate) == ("none", 1.0) for level in levels)
        assert "promise: none" in new.describe(numbers)
        assert "no frame that sets levels has Au" in new.describe(numbers)
    gold_level = [level.value for level in new.frame_levels([79] * 32) if level.statistic == "dh_max"]
    assert len(gold_level) == 1
    assert gold_level[0] < 20  # the frames of gold scored up to 60


def test_nothing_is_promised_for_elements_that_separate_frames_lack(base):
    """What is true of added frames is true of any in the reference that set no level."""
    both = base.extend([gold(i) for i in range(60)], groups="frame")
    levels = calibrate(both, frames=[cold(300 + i) for i in range(40)], groups="frame", statistics=PLAIN)
    assert kind_of(levels.alarm_levels(NUMBERS)) == "extrapolated"
    assert {level.kind for level in levels.alarm_levels([79] * 32)} == {"none"}
    assert "no frame that sets levels has Au" in levels.describe([79] * 32)


def test_where_elements_are_not_told_apart_none_is_lacking(base):
    blind = Reference.from_frames([cold(i) for i in range(50)], match="any", groups="frame")
    levels = calibrate(blind, statistics=PLAIN).carried_to(blind.extend([gold(1)], groups="frame"))
    assert kind_of(levels.alarm_levels([79] * 32)) == "extrapolated"


def test_rows_that_a_merged_reference_lost_are_asked_for(base):
    """Local scores had no level where the larger reference has no averaged rows."""
    old = Reference.load(DATA / "copper.safetensors")
    like_old = {"descriptor": old.descriptor, "bandwidth": old.bandwidth}
    other = Reference.from_frames([cold(i) for i in range(50)], **like_old, groups="frame")
    with pytest.warns(UserWarning, match="no averaged rows"):
        merged = Reference.merge([other, old])
    with pytest.raises(MismatchError, match="averaged rows"):
        calibrate(other).carried_to(merged)
    assert calibrate(other, statistics=PLAIN).carried_to(merged).fingerprint == merged.fingerprint


def test_groups_of_few_kinds_set_no_carried_level(base):
    """By plain rows alone it was not asked which groups are unlike all others."""
    reference = built([*(cold(i) for i in range(50)), hot(1), hot(2)])
    own = calibrate(reference, statistics=PLAIN)
    new = own.carried_to(reference.extend([cold(900)], groups="frame"))
    assert new.n_groups == own.n_groups
    assert len(scores_of(new, "dh_max")) == len(scores_of(own, "dh_max")) == 50


def test_the_second_reference_takes_levels_of_its_parent(base, grown):
    levels = calibrate(base, statistics=PLAIN)
    with Monitor(grown, levels, confirm=(grown, levels), log=None) as monitor:
        assert monitor.judge.confirm.calibration.fingerprint == grown.fingerprint
        assert monitor.check(cold(700)).state == "in"


@pytest.mark.parametrize(
    "broken",
    [
        {"frame_groups": [0, -1]},
        {"frame_groups": [0.5]},
        {"frame_groups": "abc"},
        {"is_separate": 1},
        {"is_separate": True, "frame_groups": [0]},
        {"how": 3},
        {"fingerprint": None},
    ],
)
def test_files_with_a_broken_origin_are_refused(base, broken, tmp_path):
    calibrate(base).save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    content["origin"] |= broken
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(FileFormatError):
        Calibration.load(tmp_path / "c.json")


def test_a_file_with_groups_of_other_frames_cannot_be_carried(base, grown, tmp_path):
    calibrate(base).save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    content["origin"]["frame_groups"] = [0, 1, 2]
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(MismatchError, match="its groups are of 3 frames"):
        Calibration.load(tmp_path / "c.json").carried_to(grown)
