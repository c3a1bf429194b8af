import math

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from quests_md import Descriptor
from quests_md.reference.groups import SHORTEST, blocks_of_frames, correlation_length, join_copies
from quests_md.reference.runs import breaks_in_time, told_labels


def ar1(n_frames, phi, n_atoms=20, width=5, seed=0):
    """Rows whose correlation is phi^L: 1 + 2 sum_L phi^L = (1 + phi) / (1 - phi)."""
    rng = np.random.default_rng(seed)
    x = np.empty((n_frames, n_atoms, width))
    x[0] = rng.normal(size=(n_atoms, width))
    for i in range(1, n_frames):
        x[i] = phi * x[i - 1] + math.sqrt(1 - phi * phi) * rng.normal(size=(n_atoms, width))
    return x


@pytest.mark.parametrize("phi", [0.3, 0.5, 0.7, 0.9, 0.95])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_the_length_is_two_correlation_times(phi, scale):
    expected = (1 + phi) / (1 - phi)
    assert correlation_length([scale * ar1(1000, phi)]) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize(("n_frames", "phi"), [(20, 0.5), (80, 0.8), (160, 0.9)])
def test_short_stretches_are_not_taken_for_less_correlated(n_frames, phi):
    # taking the mean of a stretch away makes frames look less alike: 30 % too short here if nothing is done about it
    lengths = [correlation_length([ar1(n_frames, phi, seed=seed)]) for seed in range(10)]
    assert np.mean(lengths) == pytest.approx((1 + phi) / (1 - phi), rel=0.15)


@pytest.mark.parametrize("phi", [0.0, -0.6])
def test_frames_that_forget_at_once_have_length_one(phi):
    for seed in range(5):
        assert correlation_length([ar1(300, phi, seed=seed)]) == pytest.approx(1.0, abs=0.1)


def test_several_stretches_are_taken_together():
    stretches = [ar1(n, 0.8, seed=n) for n in (60, 200, 150, 80)]
    assert correlation_length(stretches) == pytest.approx(9.0, rel=0.15)
    # stretches of different atoms: nothing but the width is common
    assert correlation_length([ar1(300, 0.8, n_atoms=n, seed=n) for n in (7, 30)]) == pytest.approx(9.0, rel=0.25)


@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_what_an_atom_always_is_does_not_count(phi):
    x = ar1(500, phi)
    offsets = 100 * np.random.default_rng(1).normal(size=(1, 20, 5))
    assert correlation_length([x + offsets]) == pytest.approx(correlation_length([x]), rel=1e-6)


@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_what_all_atoms_do_together_does_not_count(phi):
    x = ar1(500, phi)
    drift = 10 * np.sin(np.arange(500) / 80)[:, None, None] * np.ones((1, 1, 5)) + np.linspace(0, 5, 500)[:, None, None]
    assert correlation_length([x + drift]) == pytest.approx(correlation_length([x]), rel=1e-6)


def test_frozen_frames_are_copies_of_each_other():
    x = np.repeat(np.random.default_rng(0).normal(size=(1, 10, 5)), 30, axis=0)
    assert correlation_length([x]) >= 30
    groups, lengths = blocks_of_frames([0] * 30, [0] * 30, list(x))
    assert groups.tolist() == [0] * 30
    assert lengths[0].length >= 30


def test_nothing_can_be_told_where_all_atoms_do_the_same():
    describe = Descriptor()
    for cubic in (False, True):
        rows = [describe(bulk("Cu", a=a, cubic=cubic)) for a in np.linspace(3.4, 3.9, 12)]
        assert math.isnan(correlation_length([np.stack(rows)]))
        groups, lengths = blocks_of_frames([0] * 12, [0] * 12, rows)
        assert groups.tolist() == list(range(12))
        assert lengths == []


def test_blocks_are_as_long_as_measured():
    x = ar1(1000, 0.8)
    groups, lengths = blocks_of_frames([0] * 1000, [0] * 1000, list(x))
    assert lengths == [(0, 1000, math.ceil(correlation_length([x]) - 0.1))]
    sizes = np.bincount(groups)
    assert sizes.min() >= lengths[0].length
    assert sizes.max() <= 2 * lengths[0].length
    assert (np.diff(groups) >= 0).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), max_size=8), st.sampled_from([0.0, 0.6, 0.9]))
def test_blocks_stay_in_their_segment_and_are_long_enough(stretches, phi):
    segments, files, rows = [], [], []
    for i, (file, n) in enumerate(sorted(stretches, key=lambda stretch: stretch[0])):
        segments += [i] * n
        files += [file] * n
        rows += list(ar1(n, phi, n_atoms=3 + i, seed=i))
    groups, measured = blocks_of_frames(segments, files, rows)
    assert groups.dtype == np.int64
    assert len(groups) == len(segments)
    steps = np.diff(groups, prepend=-1)
    assert set(steps.tolist()) <= {0, 1}  # contiguous and counted from 0
    for i in np.unique(segments):
        here = np.flatnonzero(np.array(segments) == i)
        assert not set(groups[here]) & set(np.delete(groups, here))
    is_known = np.isin(files, [file for file in set(files) if max(n for f, n in stretches if f == file) >= SHORTEST])
    known, at = np.flatnonzero(is_known), 0
    for blocks in measured:  # in the order of the frames
        here = known[at : at + blocks.n_frames]
        at += blocks.n_frames
        assert set(np.array(files)[here].tolist()) == {blocks.file}
        sizes = np.bincount(groups[here] - groups[here[0]])
        if len(here) < blocks.length:
            assert sizes.tolist() == [len(here)]
        else:
            assert blocks.length <= sizes.min()
            assert sizes.max() < 2 * blocks.length + (blocks.length == 1)
    assert at == len(known)
    assert len(np.unique(groups[~is_known])) == (~is_known).sum()


def test_each_file_has_its_own_length():
    slow, fast = ar1(400, 0.9), ar1(400, 0.0, seed=1)
    groups, lengths = blocks_of_frames([0] * 400 + [1] * 400, [0] * 400 + [1] * 400, [*slow, *fast])
    assert lengths[0].length == pytest.approx(19, rel=0.25)
    assert lengths[1].length == 1
    assert len(set(groups[:400])) < 40
    assert len(set(groups[400:])) >= 200


def test_each_run_of_a_file_has_its_own_length():
    """Independent frames and two trajectories, one after the other in one file, had one length for all."""
    frames = [*ar1(300, 0.0), *ar1(150, 0.9, seed=1), *ar1(150, 0.9, seed=2)]
    groups, measured = blocks_of_frames([0] * 600, [0] * 600, frames)
    assert [blocks.n_frames for blocks in measured] == [300, 150, 150]
    assert measured[0].length == 1
    assert groups[:300].tolist() == list(range(300))
    assert all(blocks.length == pytest.approx(19, rel=0.35) for blocks in measured[1:])
    assert 2 * 4 <= len(set(groups[300:])) <= 2 * 12
    assert groups[449] != groups[450]


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("n_atoms", [3, 20])
def test_one_run_stays_one_run(phi, n_atoms):
    for seed in range(5):
        _, measured = blocks_of_frames([0] * 300, [0] * 300, list(ar1(300, phi, n_atoms=n_atoms, seed=seed)))
        assert [blocks.n_frames for blocks in measured] == [300]


def test_each_kind_of_a_file_has_its_own_length():
    slow, fast = ar1(200, 0.9), ar1(200, 0.0, seed=1)
    kinds = ["slow"] * 100 + ["fast"] * 100 + ["slow"] * 100 + ["fast"] * 100 + ["rare"] * 5
    rows = [*slow[:100], *fast[:100], *slow[100:], *fast[100:], *slow[:5]]
    groups, measured = blocks_of_frames(kinds, [0] * 405, rows)
    assert [blocks.length for blocks in measured[:4]] == [measured[0].length, 1, measured[0].length, 1]
    assert measured[0].length == pytest.approx(19, rel=0.35)
    assert 1 < measured[4].length < measured[0].length  # of the file as a whole
    assert len(set(groups[400:])) == 1


def test_frames_close_in_time_are_correlated_where_nothing_else_is_known():
    """Two frames 10 fs apart were two groups."""
    rows = list(ar1(12, 0.0))
    pairs = [5.0 * (i // 2) + 0.01 * (i % 2) for i in range(12)]
    groups, measured = blocks_of_frames([0] * 12, [0] * 12, rows, pairs)
    assert groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert measured == []
    assert blocks_of_frames([0] * 3, [0] * 3, rows[:3], [0.0, 0.01, 0.02])[0].tolist() == [0, 0, 0]
    assert blocks_of_frames([0] * 3, [0] * 3, rows[:3], [0.0, 0.5, 1.0])[0].tolist() == [0, 1, 2]
    assert blocks_of_frames([0] * 3, [0] * 3, rows[:3], [0.0, 0.0, 0.0])[0].tolist() == [0, 1, 2]
    assert blocks_of_frames([0] * 3, [0] * 3, rows[:3], [np.nan] * 3)[0].tolist() == [0, 1, 2]
    # twelve frames within 0.1 ps that seem independent
    short = blocks_of_frames([0] * 12, [0] * 12, rows, [0.01 * i for i in range(12)])
    assert len(set(short[0])) == 1
    assert short[1][0].length == 1


def test_another_run_begins_where_time_goes_back_or_the_cell_jumps():
    rows, times = list(ar1(20, 0.95)), [0.5 * (i % 10) for i in range(20)]
    groups, _ = blocks_of_frames([0] * 20, [0] * 20, rows, times)
    assert groups[9] != groups[10]
    cells = [np.eye(3) * (10.0 if i < 10 else 11.0) for i in range(20)]
    groups, _ = blocks_of_frames([0] * 20, [0] * 20, rows, None, cells)
    assert groups[9] != groups[10]


def test_a_slow_run_beside_a_fast_one_is_no_series_of_leaps():
    """By the usual step of all files together every frame of the slow run was a group."""
    fast, slow = list(ar1(400, 0.0)), list(ar1(200, 0.9, seed=1))
    of_fast, of_slow = 0.05 * np.arange(400), 1.0 * np.arange(200)
    alone = len(set(blocks_of_frames([0] * 200, [0] * 200, slow, of_slow)[0]))
    assert 5 <= alone <= 16
    for second in (0, 1):  # one file after the other, in one file or two
        kinds, times = [0] * 400 + [second] * 200, np.concatenate([of_fast, of_slow])
        groups, _ = blocks_of_frames(kinds, kinds, [*fast, *slow], times)
        assert len(set(groups[400:])) == alone
        assert not set(groups[:400]) & set(groups[400:])
    # in one file, time goes on
    for first, then, t1, t2 in ((fast, slow, of_fast, of_slow), (slow, fast, of_slow, of_fast)):
        times = np.concatenate([t1, t1[-1] + t2[1] + t2])
        groups, _ = blocks_of_frames([0] * 600, [0] * 600, [*first, *then], times)
        of_the_slow = groups[400:] if then is slow else groups[:200]
        assert abs(len(set(of_the_slow)) - alone) <= 1


@pytest.mark.parametrize(
    ("steps", "starts"),
    [
        ([1] * 10 + [50] + [1] * 10, [0, 11]),  # a leap
        ([1] * 10 + [50, 50] + [1] * 10, [0, 11, 12]),
        ([1] * 10 + [9] + [1] * 10, [0]),
        ([0.01, 5] * 6, [0, *range(2, 13, 2)]),  # pairs, of any number
        ([0.01, 5] * 6 + [0.01], [0, *range(2, 13, 2)]),
        ([1] * 15 + [30] * 20, [0, 16]),  # another step: the frame between goes with the short one
        ([30] * 15 + [1] * 20, [0, 15]),
        ([1] * 15 + [30] * 15 + [900] * 15, [0, 16, 31]),
        ([1] * 5 + [-3] + [1] * 5, [0, 6]),
        ([1] * 3 + [0] * 5 + [1] * 3, [0]),
        ([1] * 5 + [np.nan] * 2 + [1] * 5, [0]),
        ([1.1**i for i in range(60)], [0]),
        ([0] * 5, [0]),
        ([], [0]),
    ],
)
def test_breaks_in_time(steps, starts):
    times = np.cumsum([0.0, *steps])
    assert [0, *np.flatnonzero(breaks_in_time(times))] == starts


def test_frames_that_were_chosen_at_random_from_a_run_stay_one_run():
    rng = np.random.default_rng(0)
    n_breaks = sum(breaks_in_time(np.sort(rng.uniform(0, 1000, 300))).sum() for _ in range(50))
    assert n_breaks < 0.004 * 50 * 300  # three leaps in a thousand, and hardly another step


def test_labels_that_are_missing_or_single_tell_nothing():
    a, b = "a", "b"
    assert told_labels([0] * 6, [None, a, None, a, None, a]) == [a] * 6
    assert told_labels([0] * 4, ["1", "2", "3", "4"]) == [None] * 4
    assert told_labels([0] * 4, [None] * 4) == [None] * 4
    assert told_labels([0] * 7, [a, a, None, b, b, None, None]) == [a, a, a, b, b, b, b]
    assert told_labels([0] * 5, [a, a, b, a, a]) == [a] * 5
    assert told_labels([0] * 4, [a, b, a, b]) == [None] * 4
    assert told_labels([0, 0, 1, 1, 1], [a, a, None, b, b]) == [a, a, b, b, b]
    assert told_labels([0, 0, 1], [a, a, a]) == [a, a, None]
    assert told_labels([], []) == []


def test_frames_close_in_time_are_one_group_whatever_they_are():
    """Atoms in another order, or one more or less, in every frame: all frames were independent."""
    rows, kinds = list(ar1(20, 0.0)), list(range(20))
    groups, measured = blocks_of_frames(kinds, [0] * 20, rows, 0.02 * np.arange(20))
    assert np.bincount(groups).tolist() == [5] * 4
    assert measured == []
    assert len(set(blocks_of_frames(kinds, kinds, rows, 0.02 * np.arange(20))[0])) == 20  # of other files
    assert len(set(blocks_of_frames(kinds, [0] * 20, rows, 0.2 * np.arange(20))[0])) == 20
    assert len(set(blocks_of_frames(kinds, [0] * 20, rows)[0])) == 20


def test_large_frames_are_followed_in_part_without_another_answer():
    x = ar1(120, 0.7, n_atoms=1000, width=2)
    _, lengths = blocks_of_frames([0] * 120, [0] * 120, list(x))
    assert lengths[0].length == pytest.approx(correlation_length([x]), rel=0.15)


def test_copies_share_a_group():
    rng = np.random.default_rng(8)
    a, b, c = (rng.normal(size=(5, 3)) for _ in range(3))
    rows = np.concatenate([a, b, a + 1e-9, c, b, c + 1e-3])
    groups, n_copies = join_copies(np.arange(6), np.repeat(np.arange(6), 5), rows)
    assert groups.tolist() == [0, 1, 0, 2, 1, 3]
    assert n_copies == 2


def test_groups_that_share_a_copy_become_one():
    a, b, c = (np.full((2, 1), float(i)) for i in range(3))
    rows = np.concatenate([a, b, b, c, c])
    groups, _ = join_copies(np.array([7, 7, 3, 3, 9]), np.repeat(np.arange(5), 2), rows)
    assert groups.tolist() == [0, 0, 0, 0, 0]


def test_frames_that_are_the_same_in_another_way_share_a_group():
    rows = np.arange(8.0)[:, None]
    groups, n_copies = join_copies(np.arange(4), np.repeat(np.arange(4), 2), rows, same=np.array([0, 1, 0, 3]))
    assert groups.tolist() == [0, 1, 0, 2]
    assert n_copies == 1


def test_the_same_geometry_of_another_element_is_no_copy():
    rows = np.ones((4, 2))
    frames, numbers = np.array([0, 0, 1, 1]), np.array([41, 41, 42, 42], dtype=np.uint8)
    assert join_copies(np.arange(2), frames, rows, numbers)[1] == 0
    assert join_copies(np.arange(2), frames, rows)[1] == 1
