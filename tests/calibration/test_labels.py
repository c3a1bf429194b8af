"""Levels and expected errors from labels, beside naive ones, and their promises in repeated draws."""

import math

import numpy as np
import pytest

from quests_md.calibration.labels import Labels, error_level, known_until


def drawn(rng, n_groups, *, slope=0.4, most=12):
    """dH, errors and groups of environments of which those of a group are alike: copies, or hot all together."""
    sizes = rng.integers(1, most, n_groups)
    groups = np.repeat(np.arange(n_groups), sizes)
    shared = rng.normal(0, 2, n_groups)[groups]
    dh = shared + rng.normal(0, 0.5, len(groups))
    worse = rng.normal(0, 0.5, n_groups)[groups]
    errors = 0.05 * np.exp(slope * dh + worse) * rng.gamma(3, 1 / 3, len(groups))
    return dh, errors, groups


def labels_of(dh, errors, groups, numbers=29):
    """Labels whose groups are frames."""
    names, frames = np.unique(groups, return_inverse=True)
    means = np.array([dh[groups == g].mean() for g in names])
    numbers = np.broadcast_to(np.asarray(numbers, np.int64), dh.shape)
    return Labels(numbers, dh, errors, frames, names, means, means + 0.1)


def naive_loss(level, dh, errs, groups):
    """Mean over groups of the share of their units that err and are not above the level."""
    names = sorted(set(groups.tolist()))
    return sum(float(np.mean(errs[groups == g] & (dh[groups == g] <= level))) for g in names) / len(names)


def naive_level(dh, errs, groups, share):
    n = len(set(groups.tolist()))
    allowed = [x for x in dh if (n * naive_loss(x, dh, errs, groups) + 1) / (n + 1) <= share + 1e-9]
    return max(allowed, default=None)


@pytest.mark.parametrize("seed", range(6))
def test_the_level_is_the_naive_one(seed):
    rng = np.random.default_rng(seed)
    dh, errors, groups = drawn(rng, 40)
    if seed % 2:
        dh = np.round(dh)  # ties
    share = float(rng.choice([0.05, 0.1, 0.2]))
    errs = errors > 0.05
    level = error_level(dh, errs, groups, share, "environment")
    wanted = naive_level(dh, errs, groups, share)
    assert level.value == level.limit == wanted
    assert (level.kind, level.reason, level.n_groups) == ("conformal", "", 40)
    assert naive_loss(level.value, dh, errs, groups) <= share
    maxima = sorted((dh[groups == g].max() for g in range(40)), reverse=True)
    assert level.end == maxima[2] == known_until(dh, groups)
    order = rng.permutation(len(dh))
    assert error_level(dh[order], errs[order], groups[order] * 7 + 3, share, "environment").value == level.value


@pytest.mark.parametrize(("n_groups", "share"), [(20, 0.05), (40, 0.1), (80, 0.05)])
def test_few_errors_are_missed_in_new_groups(n_groups, share):
    """The promise: on average over sets of labels and new groups, whatever goes on within groups."""
    rng = np.random.default_rng(1)
    missed, above, errs_above = [], [], []
    for _ in range(300):
        dh, errors, groups = drawn(rng, n_groups)
        level = error_level(dh, errors > 0.05, groups, share, "environment").limit
        dh, errors, groups = drawn(rng, 20)
        missed.append(naive_loss(level, dh, errors > 0.05, groups))
        above.append((dh > level).mean())
        errs_above.append((errors > 0.05)[dh > level].mean() if (dh > level).any() else np.nan)
    assert np.mean(missed) <= share + 3 * np.std(missed) / math.sqrt(len(missed))
    assert np.mean(missed) > share / 4 if n_groups * share > 2 else True  # and it is not kept by calling all strange
    assert np.mean(above) < 0.9
    assert np.nanmean(errs_above) > 0.5


def test_single_environments_as_groups_would_break_the_promise():
    """Why groups count: ten copies of everything are no ten times the evidence."""
    rng = np.random.default_rng(2)
    missed = {True: [], False: []}
    for _ in range(300):
        dh, errors, groups = (np.repeat(x, 10) for x in drawn(rng, 20, most=2))
        of_new = drawn(rng, 50, most=2)
        for by_group in missed:
            level = error_level(dh, errors > 0.05, groups if by_group else np.arange(len(dh)), 0.06, "environment")
            missed[by_group].append(naive_loss(level.limit, of_new[0], of_new[1] > 0.05, of_new[2]))
    assert np.mean(missed[True]) <= 0.06
    assert np.mean(missed[False]) > 0.065


def test_out_of_sample_is_what_levels_give_in_other_groups():
    rng = np.random.default_rng(3)
    dh, errors, groups = drawn(rng, 200)
    level = error_level(dh, errors > 0.05, groups, 0.1, "environment")
    missed, above, right = level.out_of_sample
    assert missed == pytest.approx(0.1, abs=0.04)
    new, new_errors, of_new = drawn(rng, 3000)
    assert missed == pytest.approx(naive_loss(level.value, new, new_errors > 0.05, of_new), abs=0.04)
    assert above == pytest.approx((new > level.value).mean(), abs=0.08)
    assert right == pytest.approx((new_errors > 0.05)[new > level.value].mean(), abs=0.1)
    few = error_level(dh[groups < 22], errors[groups < 22] > 0.05, groups[groups < 22], 0.05, "environment")
    assert few.out_of_sample is None  # four fifths of 22 groups set no level


@pytest.mark.parametrize(
    ("errs", "n_groups", "share", "reason", "kind", "limit"),
    [
        ("none", 30, 0.05, "none of 60 labelled environments errs", "conformal", "end"),
        ("all", 30, 0.05, "every labelled environment errs", "conformal", "lowest"),
        ("few", 30, 0.1, "at most 10 % err", "conformal", "end"),
        ("half", 12, 0.05, "12 groups of labelled frames, 19 are needed for a share of 5 %", "none", "end"),
        ("half", 2, 0.4, "2 groups of labelled frames, 3 are needed", "none", "lowest"),
    ],
)
def test_what_labels_do_not_tell_is_unknown_and_never_a_number(errs, n_groups, share, reason, kind, limit):
    groups = np.repeat(np.arange(n_groups), 2)
    dh = np.arange(len(groups), dtype=float)
    bad = {"none": dh < 0, "all": dh >= 0, "few": dh == 7, "half": dh > len(dh) / 2}[errs]
    level = error_level(dh, bad, groups, share, "environment")
    assert level.value is None
    assert reason in level.reason
    assert level.kind == kind
    assert level.limit == (level.end if limit == "end" else -math.inf)
    assert level.end == (dh[-5] if n_groups > 2 else -math.inf)  # what three groups reach


def test_expected_errors_are_those_of_naive_regression_where_it_is_one_step():
    """With one environment a group and errors that fall with dH, the curve is the mean of every other group."""
    n = 60
    dh, errors, groups = np.arange(n, dtype=float), np.linspace(2, 1, n), np.arange(n)
    found = labels_of(dh, errors, groups).expected(np.full(3, 29), np.array([-5.0, 10.0, 57.0]), 0.8)
    np.testing.assert_allclose(found.error, errors[::2].mean())
    kept = np.sort(errors[1::2])  # 30 groups and one at infinity: the 28th of 31 from either end
    np.testing.assert_allclose(found.high, kept[27])
    np.testing.assert_allclose(found.low, kept[2])


def test_expected_errors_never_fall_and_are_unknown_beyond_the_labels():
    rng = np.random.default_rng(4)
    dh, errors, groups = drawn(rng, 100)
    labels = labels_of(dh, errors, groups)
    asked = np.linspace(dh.min() - 3, dh.max() + 3, 200)
    found = labels.expected(np.full(200, 29), asked, 0.9)
    known = asked <= known_until(dh, groups)
    for values in found:
        assert np.isfinite(values[known]).all()
        assert np.isnan(values[~known]).all()
        assert (np.diff(values[known]) >= 0).all()
    assert (found.low < found.error)[known].all()
    assert (found.error < found.high)[known].all()
    assert np.isnan(labels.expected(np.full(200, 79), asked, 0.9).error).all()
    assert np.isnan(labels.expected(np.full(2, 29), np.array([np.inf, np.nan]), 0.9).error).all()
    few = groups < 12
    found = labels_of(dh[few], errors[few], groups[few]).expected(np.full(1, 29), np.array([-1.0]), 0.8)
    assert found.high[0] == np.inf  # six groups make no interval of 80 %
    assert found.low[0] == 0


@pytest.mark.parametrize(("n_groups", "coverage"), [(40, 0.8), (60, 0.9), (25, 0.8)])
def test_errors_of_new_groups_lie_in_their_intervals(n_groups, coverage):
    rng = np.random.default_rng(5)
    inside, bias = [], []
    for _ in range(200):
        labels = labels_of(*drawn(rng, n_groups))
        dh, errors, groups = drawn(rng, 20)
        found = labels.expected(np.full(len(dh), 29), dh, coverage)
        known = ~np.isnan(found.error)
        ok = ~known | ((errors >= found.low) & (errors <= found.high))
        inside.append(np.mean([ok[groups == g].mean() for g in range(20)]))
        bias.append((found.error[known] - errors[known]).mean() / errors[known].mean())
    assert np.mean(inside) >= coverage - 3 * np.std(inside) / math.sqrt(len(inside))
    assert abs(np.mean(bias)) < 0.2


def test_errors_of_zero_are_no_trouble():
    groups = np.arange(40)
    found = labels_of(np.arange(40.0), np.zeros(40), groups).expected(np.full(1, 29), np.array([3.0]), 0.8)
    assert found.error[0] == pytest.approx(0)
    assert found.low[0] == found.high[0] == 0


def test_elements_have_levels_of_their_own():
    rng = np.random.default_rng(6)
    dh, errors, groups = drawn(rng, 60)
    numbers = np.where(rng.random(len(dh)) < 0.5, 29, 79)
    errors[numbers == 79] *= 4
    levels = labels_of(dh, errors, groups, numbers).levels(0.05, 0.1)
    for z in (29, 79):
        here = numbers == z
        alone = error_level(dh[here], errors[here] > 0.05, groups[here], 0.1, "environment")
        assert levels.elements[z].value == alone.value
    assert levels.elements[79].value < levels.elements[29].value


def test_frames_are_judged_by_their_mean_and_rms():
    rng = np.random.default_rng(7)
    labels = labels_of(*drawn(rng, 60))
    rms = np.array([np.sqrt((labels.errors[labels.frames == i] ** 2).mean()) for i in range(60)])
    np.testing.assert_allclose(labels.frame_errors(), rms)
    frames = labels.levels(0.05, 0.1).frames
    assert frames["full"].value == naive_level(labels.means, rms > 0.05, labels.groups, 0.1)
    assert frames["proven"].value == pytest.approx(frames["full"].value + 0.1)
