"""Kinds of frames with few groups: found by their rows; they neither set the levels of others nor hide."""

import numpy as np
import pytest
from ase import Atoms
from systems import copper, reordered

from quests_md import Monitor, Reference, calibrate
from quests_md.calibration.rare_kinds import MOST_RARE, excluded_groups, groups_of_own_kind

PLAIN = ("dh_max", "tail_cluster", "dh_mean")


def naive_number(rows, groups, bandwidth):
    """Groups of the kind of each group, from the definition alone."""
    names = np.unique(groups)
    kernel = np.exp(-np.minimum(((rows[:, None] - rows[None]) ** 2).sum(axis=2) / (2 * bandwidth**2), 600.0))
    close = {g: np.array([np.log(kernel[groups == g][:, groups == o].sum(1)).sum() for o in names]) for g in names}
    order = {g: [g, *(o for o in names[np.argsort(-close[g], kind="stable")] if o != g)] for g in names}
    out = np.zeros(len(names), int)
    for n in range(MOST_RARE, 0, -1):
        rest = {g: ~np.isin(groups, order[g][:n]) for g in names}
        dh = np.array([-np.log(kernel[i, rest[g]].sum()) for i, g in enumerate(groups)])
        usual = np.array([kernel[i, rest[g]] @ dh[rest[g]] / kernel[i, rest[g]].sum() for i, g in enumerate(groups)])
        excess = np.array([np.median((dh - usual)[groups == g]) for g in names])
        out[excess > np.median(excess) + 2 * np.log(100)] = n
    return out


@pytest.mark.parametrize("sizes", [(12,), (14, 1), (14, 3, 1), (14, 5), (14, 6), (9, 9)])
def test_the_groups_of_a_kind_are_counted(sizes):
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(len(sizes)), sizes)
    groups = np.repeat(rng.permutation(len(kinds)) * 3, 8)
    rows = rng.normal(size=(len(groups), 4)) + 30.0 * np.repeat(kinds, 8)[:, None]
    names, found = groups_of_own_kind(rows, groups, [slice(0, len(rows))], 1.0)
    assert names.tolist() == np.unique(groups).tolist()
    np.testing.assert_array_equal(found, naive_number(rows, groups, 1.0))
    n_of = dict(zip(groups[::8].tolist(), np.array(sizes)[kinds].tolist(), strict=True))
    assert found.tolist() == [n_of[g] if n_of[g] <= MOST_RARE else 0 for g in names.tolist()]


def test_of_many_strange_groups_the_set_is_made():
    def excluded(n_alone, n_rare, n):
        alone, rare = np.arange(n) < n_alone, np.arange(n) >= n - n_rare
        return int(excluded_groups(alone, rare).sum())

    assert excluded(1, 0, 9) == 0
    assert excluded(1, 0, 10) == 1
    assert excluded(2, 0, 30) == 0
    assert excluded(2, 8, 100) == 10
    assert excluded(2, 9, 100) == 2
    assert excluded(0, 5, 20) == 5
    assert excluded(0, 5, 19) == 0


def hot(seed):
    return reordered([copper(2, seed=seed, rattle=0.3)], seed)[0]


def cold(seed):
    return reordered([copper(2, seed=seed, rattle=0.08)], seed)[0]


@pytest.fixture(scope="module")
def grown():
    """A reference of 60 cold frames, and with n hot ones; frames of either kind that are in none."""
    base = Reference.from_frames([cold(i) for i in range(60)], groups="frame")
    references = {n: base.extend([hot(100 + i) for i in range(n)], groups="frame") for n in (1, 2, 3, 5, 6, 40)}
    return {0: base, **references}


def n_out(reference, frames, **options):
    with Monitor(reference, calibrate(reference, **options), log=None) as monitor:
        return sum(monitor.check(atoms).state == "out" for atoms in frames)


def test_a_few_labelled_frames_of_a_new_kind_do_not_switch_the_alarm_off(grown):
    """One frame more took the levels of all to its own height."""
    new, quiet = [hot(500 + i) for i in range(40)], [cold(600 + i) for i in range(40)]
    out = {n: n_out(reference, new) for n, reference in grown.items()}
    assert out[0] == out[1] == 40
    assert out[1] >= out[2] >= out[3] >= out[5] >= out[40]
    assert out[2] > 20
    assert out[40] <= 2
    assert all(n_out(reference, quiet) <= 1 for reference in grown.values())
    plain = {n: n_out(reference, new, statistics=PLAIN) for n, reference in grown.items()}
    assert [plain[n] for n in (0, 1, 2, 3, 5)] == [40] * 5
    assert plain[40] <= 2
    assert all(n_out(reference, quiet, statistics=PLAIN) <= 1 for reference in grown.values())


def test_a_kind_with_few_groups_sets_no_level(grown):
    numbers = cold(0).numbers
    for statistics in (None, PLAIN):
        levels = {n: calibrate(grown[n], statistics=statistics).alarm_levels(numbers) for n in (0, 1, 3, 5)}
        for n in (1, 3, 5):
            for level, before in zip(levels[n], levels[0], strict=True):
                assert level.n_groups == before.n_groups
                assert level.value <= before.value + 0.05 * abs(before.value)
    calibration = calibrate(grown[3])
    assert (calibration.n_groups, calibration.landmarks.n_alone) == (63, 3)
    assert "3 of 63 groups are unlike all others, or of a kind that at most 5 groups have" in calibration.describe()


def test_frames_of_the_reference_are_known_however_few_of_their_kind(grown):
    for n in (1, 2, 5):
        assert n_out(grown[n], [hot(100 + i) for i in range(n)]) == 0


def test_what_is_hot_is_known_and_cold_frames_are_new():
    base = Reference.from_frames([hot(i) for i in range(60)], groups="frame")
    one = base.extend([cold(100)], groups="frame")
    new = [hot(500 + i) for i in range(40)]
    assert n_out(base, new) <= 1
    assert n_out(one, new) <= 1


def test_dimers_among_bulk_leave_the_levels_of_bulk_as_they_are():
    frames = [copper(3, seed=i, rattle=0.08) for i in range(30)]
    dimers = [Atoms("Cu2", [[0, 0, 0], [0, 0, 1.8 + 0.12 * i]], cell=[15] * 3, pbc=True) for i in range(12)]
    alone, mixed = (Reference.from_frames(known, groups="frame") for known in (frames, frames + dimers))
    levels = [calibrate(known, statistics=("dh_mean",)).alarm_levels([29] * 108)[0] for known in (alone, mixed)]
    assert levels[1].n_groups == levels[0].n_groups == 30
    assert levels[1].value == pytest.approx(levels[0].value, abs=0.05)
    new = [copper(3, seed=500 + i, rattle=0.16) for i in range(10)]
    assert n_out(mixed, new, statistics=("dh_mean",)) == 10
