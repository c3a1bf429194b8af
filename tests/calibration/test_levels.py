"""Levels against ranks found by counting, and the rates that they keep for scores of known distributions."""

import math
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from systems import calibration_of, null_of

from quests_md.calibration import NullScores, level_of
from quests_md.calibration.levels import pooled
from quests_md.calibration.tails import FARTHEST, FEWEST_SCORES, pareto_level, pareto_quantile

SIZES = ("extreme", "mean", "quantile", "same")


def naive_choice(scores, sizes, rule, n_atoms, rate, count):
    """Scores that speak for frames of n_atoms, how many of their frames such a frame is, whether they were scaled."""
    pairs = sorted(zip(scores, sizes, strict=True))
    if rule == "extreme":
        best = None
        for n in sorted(set(sizes)):
            pieces = max(1, math.ceil(Fraction(n_atoms, max(n, 1))))
            worth = Fraction(sum(size >= n for size in sizes) + 1, pieces)
            if best is None or worth > best[0]:
                best = worth, n, pieces
        return [score for score, size in pairs if size >= best[1]], best[2], False
    if rule == "same":
        return [score for score, size in pairs if abs(size - n_atoms) <= 0.01 * n_atoms], 1, False
    if rule == "quantile":
        pairs = [pair for pair in pairs if pair[1] >= min(n_atoms, 100)]
    alike = [pair for pair in pairs if 8 * pair[1] >= n_atoms]
    if sum(size <= n_atoms for _, size in alike) >= 10:
        pairs = alike
    fitting = [score for score, size in pairs if size <= n_atoms]
    if rate * (len(fitting) + 1) >= count or len(fitting) == len(pairs):
        return fitting, 1, False
    ordered = [score for score, _ in pairs]
    n = len(ordered)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return sorted(middle + (x - middle) * math.sqrt(max(1.0, size / n_atoms)) for x, size in pairs), 1, True


def random_case(rng, n, n_sizes=3):
    scores = rng.choice([rng.normal, rng.exponential, rng.standard_cauchy])(size=n)
    if rng.random() < 0.3:
        scores = np.round(scores)  # ties
    sizes = rng.choice(rng.choice([4, 32, 90, 99, 100, 108, 109, 256, 1000], n_sizes), n)
    return scores, sizes, int(rng.choice([1, 4, 50, 99, 100, 108, 255, 2000]))


@pytest.mark.parametrize("rule", SIZES)
def test_levels_are_the_ranks_of_scores_of_fitting_frames(rule):
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(400):
        n = int(rng.integers(1, 60))
        scores, sizes, n_atoms = random_case(rng, n)
        rate = Fraction(int(rng.integers(1, 60)), 60) if rng.random() < 0.5 else Fraction(1, n + 1)
        count = int(rng.choice([1, 2, 7]))
        level = level_of(null_of(scores, sizes), rule, n_atoms, float(rate), count)
        chosen, pieces, is_scaled = naive_choice(scores.tolist(), sizes.tolist(), rule, n_atoms, rate, count)
        m = len(chosen)
        assert (level.pieces, level.n_groups) == (pieces, m)
        assert level.middle == (pytest.approx(np.median(chosen), abs=1e-9) if m else level.value)
        share = rate / (count * pieces)
        rank = math.ceil((1 - share) * (m + 1))
        if m < 2:
            assert level.kind == "none"
            if rule == "same":
                assert (level.value, level.rate) == (math.inf, 0.0)
            else:
                assert (level.value, level.rate) == (max(chosen[0] if m else max(scores), 0.0), 1.0)
        elif rank <= m:
            assert level.kind == ("extrapolated" if is_scaled else "conformal")
            assert level.rate == float(rate)
            ranked = chosen[max(rank, 1) - 1]
            if m < FEWEST_SCORES or m - rank >= 10:
                assert level.value == pytest.approx(ranked, abs=1e-9)
            else:  # an uncertain rank
                fitted = pareto_quantile(np.array(chosen), float(share))
                assert level.value == pytest.approx(max(ranked, fitted), rel=1e-9, abs=1e-9)
        else:  # fewer groups than a rank needs: a fitted tail, worth something if it is not too far away
            is_near = m >= FEWEST_SCORES and share * (m + 1) * FARTHEST >= 1
            assert level.kind == ("extrapolated" if is_near else "none")
            alone = 1.0 if is_scaled else min(1, count * pieces / (m + 1))
            assert level.rate == pytest.approx(float(rate) if is_near else alone)
            if m >= FEWEST_SCORES:
                found = pareto_level(np.array(chosen), float(share))
                assert (level.value, *level.interval) == pytest.approx(found, rel=1e-9, abs=1e-9)
                assert level.value >= chosen[-1]
            else:
                assert (level.value, level.interval) == (pytest.approx(chosen[-1], abs=1e-9), None)
        seen.add((level.kind, is_scaled, m < 2))
    assert len(seen) >= {"extreme": 4, "mean": 5, "quantile": 5, "same": 3}[rule]


@pytest.mark.parametrize("rule", SIZES)
def test_below_is_the_mirror_image_of_above(rule):
    rng = np.random.default_rng(2)
    for _ in range(100):
        scores, sizes, n_atoms = random_case(rng, int(rng.integers(0, 80)))
        options = rule, n_atoms, float(rng.choice([0.3, 0.05, 0.005])), int(rng.choice([1, 3]))
        above = level_of(null_of(-scores, sizes), *options)
        below = level_of(null_of(scores, sizes, side="below"), *options)
        assert (above.side, below.side) == ("above", "below")
        assert below.value == (-above.value if above.n_groups >= 2 else -np.inf)
        assert below.middle == -above.middle
        if above.interval is not None:
            assert below.interval == (-above.interval[1], -above.interval[0])
            assert below.interval[0] <= below.value <= below.interval[1]
        mirrored = {"side", "value", "middle", "interval"}
        for name in {f.name for f in fields(above)} - mirrored:
            assert getattr(below, name) == getattr(above, name), name


def test_a_mean_over_more_atoms_scatters_less_and_over_fewer_more():
    rng = np.random.default_rng(4)
    large = null_of(rng.normal(-3, 0.1, 400), 1000)
    same, larger, smaller = (level_of(large, "mean", n, 0.05, 1) for n in (1000, 10_000, 250))
    assert same.value == larger.value  # as it is: on the safe side
    assert (same.kind, larger.kind, smaller.kind) == ("conformal", "conformal", "extrapolated")
    middle = np.median(large.scores)
    # a quarter of the atoms, twice the scatter
    assert smaller.value - middle == pytest.approx(2 * (same.value - middle), rel=1e-9)
    rates = stats.norm.sf(smaller.value, -3, 0.2)
    assert 0.02 < rates < 0.09


@pytest.mark.parametrize(("side", "values"), [("above", (0.0, 2.5, 0.0)), ("below", (-np.inf, -np.inf, -np.inf))])
def test_with_less_than_two_scores_the_level_is_the_rule_of_thumb_or_above_it(side, values):
    for rule in ("extreme", "mean", "quantile"):
        none, one, low = (level_of(null_of(x, side=side), rule, 10, 0.1, 1) for x in ([], [2.5], [-2.5]))
        assert (none.value, one.value, low.value) == values
        assert (none.n_groups, one.n_groups, low.n_groups) == (0, 1, 1)
        assert {level.kind for level in (none, one, low)} == {"none"}
        assert {level.rate for level in (none, one, low)} == {1.0}


def test_levels_fall_as_the_rate_grows():
    scores = np.random.default_rng(6).gumbel(size=120)
    values = [level_of(null_of(scores), "mean", 10**6, rate, 1).value for rate in np.geomspace(1e-3, 0.9, 60)]
    assert np.all(np.diff(values) <= 1e-12)


DISTRIBUTIONS = {
    "normal": stats.norm(),
    "exponential": stats.expon(),
    "gumbel": stats.gumbel_r(),
    "student": stats.t(3),
}


@pytest.mark.parametrize(("n", "asked"), [(9, 0.1), (19, 0.1), (30, 1 / 31), (100, 0.01), (100, 0.05), (300, 0.05)])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("side", ["above", "below"])
def test_the_rate_is_kept_on_average_and_seldom_doubled(name, n, asked, side):
    law, repeats = DISTRIBUTIONS[name], 400
    draws = law.rvs(size=(repeats, n), random_state=7)
    sign = 1 if side == "above" else -1
    levels = [level_of(null_of(sign * x, 100, side=side), "same", 100, asked, 1) for x in draws]
    assert {level.kind for level in levels} == {"conformal"}
    realised = law.sf([sign * level.value for level in levels])
    error = realised.std() / math.sqrt(repeats)
    assert realised.mean() <= asked + 3 * error
    assert realised.mean() >= asked / 4  # a level that never fires would keep any promise
    if n >= FEWEST_SCORES:
        # where the rank is among the last, the fit takes off some of the scatter of the largest scores
        rank = math.ceil((1 - asked) * (n + 1) - 1e-9)
        ranked = law.sf(np.sort(draws, axis=1)[:, rank - 1])
        assert (realised > 2 * asked).mean() <= min((ranked > 2 * asked).mean(), 0.12)


def test_frames_of_several_times_the_size_keep_the_rate():
    """A frame of 250 atoms has the largest of 250 scores, calibration frames of 100 atoms that of 100."""
    rng = np.random.default_rng(9)
    realised = []
    for _ in range(300):
        level = level_of(null_of(rng.normal(size=(99, 100)).max(axis=1), 100), "extreme", 250, 0.1, 1)
        assert (level.pieces, level.kind) == (3, "conformal")
        realised.append(1 - stats.norm.cdf(level.value) ** 250)
    assert np.mean(realised) <= 0.1 + 3 * np.std(realised) / math.sqrt(300)
    assert np.mean(realised) > 0.05


def test_dimers_set_no_level_of_the_mean_in_bulk():
    """Twelve dimers with a mean of 66 nats took the level for 108 atoms there."""
    rng = np.random.default_rng(0)
    bulk, dimers = np.sort(rng.normal(-6, 0.5, 60)), np.sort(rng.normal(66, 5, 12))
    alone = NullScores("dh_mean", None, "above", "full", bulk, np.full(60, 108))
    mixed = NullScores("dh_mean", None, "above", "full", np.r_[bulk, dimers], np.r_[np.full(60, 108), np.full(12, 2)])
    for rate in (0.1, 0.01):
        expected, found = (level_of(null, "mean", 108, rate, 1) for null in (alone, mixed))
        assert (found.value, found.kind, found.n_groups) == (expected.value, expected.kind, 60)
    assert level_of(mixed, "mean", 2, 0.1, 1).value > 60  # for dimers they do
    assert level_of(mixed, "mean", 15, 0.1, 1).n_groups == 12  # and for frames not eight times as large
    few = NullScores("dh_mean", None, "above", "full", mixed.scores[51:], mixed.sizes[51:])
    assert level_of(few, "mean", 108, 0.1, 1).n_groups == 21  # nine groups of bulk are too few


def test_an_element_without_groups_has_the_level_of_all_elements():
    one = NullScores("dh_max", "Cu", "above", "both", np.array([1.0, 3.0]), np.array([32, 32]))
    two = NullScores("dh_max", "Au", "above", "both", np.array([2.0, 7.0]), np.array([4, 4]))
    none = NullScores("dh_max", "O", "above", "both", np.empty(0), np.empty(0, np.int64))
    found = pooled(none, [one, two, none])
    assert found.element == "O"
    assert found.is_pooled
    assert found.scores.tolist() == [1.0, 2.0, 3.0, 7.0]
    assert found.sizes.tolist() == [32, 4, 32, 4]
    assert pooled(none, [none]) is none


@pytest.mark.parametrize("n_quiet", [29, 30, 60])
def test_groups_with_other_elements_set_no_levels_if_others_suffice(n_quiet):
    """A slab and the same slab with an adsorbed O: frames of the slab alone are judged by the slab alone."""
    rng = np.random.default_rng(0)
    quiet, wild = np.sort(rng.normal(0, 1, n_quiet)), np.sort(rng.normal(20, 5, 20))
    both = np.concatenate([quiet, wild])
    groups, sizes = np.arange(n_quiet + 20), np.full(n_quiet + 20, 12)
    nulls = [
        NullScores("local_max", None, "above", "both", both, sizes, groups),
        NullScores("dh_max", "Cu", "above", "both", both, sizes, groups),
        NullScores("dh_max", "O", "above", "both", wild, sizes[:20], groups[n_quiet:]),
    ]
    calibration = calibration_of(*nulls, statistics=("local_max", "dh_max"))
    alone = calibration_of(
        NullScores("local_max", None, "above", "both", quiet, sizes[:n_quiet], groups[:n_quiet]),
        NullScores("dh_max", "Cu", "above", "both", quiet, sizes[:n_quiet], groups[:n_quiet]),
        statistics=("local_max", "dh_max"),
    )
    slab = calibration.frame_levels([29] * 12)
    if n_quiet < FEWEST_SCORES:
        assert {level.n_groups for level in slab} == {n_quiet + 20}
    else:
        assert slab == alone.frame_levels([29] * 12)
    with_oxygen = calibration.frame_levels([29] * 12 + [8])
    assert with_oxygen[0].n_groups == n_quiet + 20
    assert with_oxygen[0].value > 20


@pytest.mark.parametrize(("rate", "level"), [(0.1, 0.0), (0.01, 1.0)])
def test_a_count_that_is_the_same_in_all_groups_may_grow_by_one(rate, level):
    """Of 67 groups no rank speaks for 1 %, and equal scores have no tail."""
    calibration = calibration_of(null_of([0.0] * 67, 32, "local_cluster"), statistics=("local_cluster",))
    calibration = replace(calibration, false_alarms=rate)
    (found,) = calibration.alarm_levels([29] * 32)
    assert found.value == level
