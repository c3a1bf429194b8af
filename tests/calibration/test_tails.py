import numpy as np
import pytest
from scipy.stats import genpareto, kstest, norm

from quests_md.calibration.tails import FEWEST_SCORES, pareto_level, pareto_quantile

DRAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "gumbel": lambda rng, n: rng.gumbel(size=n),
    "maxima of 100": lambda rng, n: rng.normal(size=(n, 100)).max(axis=1),
    "student": lambda rng, n: rng.standard_t(4, size=n),
}


@pytest.mark.parametrize(("n", "asked"), [(FEWEST_SCORES, 0.01), (100, 0.003), (300, 0.001)])
@pytest.mark.parametrize("name", DRAWS)
def test_on_average_the_rate_is_at_most_about_twice_the_asked_one(name, n, asked):
    rng = np.random.default_rng(7)
    population = np.sort(DRAWS[name](rng, 200_000))
    rates = []
    for _ in range(60):
        level, low, high = pareto_level(np.sort(DRAWS[name](rng, n)), asked)
        assert low <= level <= high
        rates.append(1 - np.searchsorted(population, level) / len(population))
    assert np.mean(rates) < 2.2 * asked


@pytest.mark.parametrize(("shape", "scale"), [(0.0, 1.5), (0.2, 0.7), (0.4, 2.0)])
def test_the_fit_finds_the_distribution_it_was_drawn_from(shape, scale):
    law = genpareto(shape, scale=scale)
    scores = np.sort(law.rvs(size=20_000, random_state=3))
    for probability in (1e-2, 1e-3):
        assert pareto_quantile(scores, probability) == pytest.approx(law.isf(probability), rel=0.05)


def test_a_light_tail_is_taken_as_exponential():
    scores = np.linspace(0, 1, 3001)  # 250 of them are the last twelfth, whose excesses have a mean of 1/24
    assert pareto_quantile(scores, 0.01) == pytest.approx(11 / 12 + np.log(100 / 12) / 24, rel=0.01)


def test_the_level_grows_as_the_probability_falls_and_never_below_the_largest_score():
    scores = np.sort(np.random.default_rng(5).normal(size=60))
    levels = [pareto_level(scores, p)[0] for p in (0.016, 0.01, 0.005, 0.002)]
    assert levels == sorted(levels)
    assert levels[0] >= scores[-1]
    assert pareto_level(scores + 100, 0.005)[0] == pytest.approx(levels[2] + 100)


def test_equal_scores_have_no_tail():
    assert pareto_level(np.full(40, 2.5), 0.001) == (2.5, 2.5, 2.5)
    assert pareto_quantile(np.full(40, 2.5), 0.001) == 2.5


def naive_tail(scores):
    """Threshold, shape, scale and size of the largest tail, of a third down to a twelfth, that the fit is true to."""
    n = len(scores)
    sizes = [max(n // 3, 10)] + [n // part for part in (6, 12) if n // part >= 10]
    for m in sizes:
        threshold = scores[n - m - 1]
        excesses = scores[n - m :] - threshold
        mean = sum(excesses) / m
        # probability-weighted moment E[Y (1 - F(Y))], with the plotting positions (i - 0.35) / m
        weighted = sum((1 - (i + 0.65) / m) * y for i, y in enumerate(excesses)) / m
        shape = min(max(2 - mean / (mean - 2 * weighted), 0.0), 0.5)
        scale = mean * (1 - shape)
        if kstest(excesses, genpareto(shape, scale=scale).cdf).statistic * m**0.5 <= 1:
            break
    return threshold, shape, scale, m


def humps(rng, n, share=0.2):
    """Scores of two kinds of frames, the rarer ones far out."""
    return rng.normal(size=n) + 12 * (rng.random(n) < share)


@pytest.mark.parametrize("n", [FEWEST_SCORES, 31, 100, 400])
@pytest.mark.parametrize("draw", ["gumbel", "humps"])
def test_the_quantile_is_that_of_the_fitted_tail(draw, n):
    rng = np.random.default_rng(n)
    scores = np.sort(rng.gumbel(size=n) if draw == "gumbel" else humps(rng, n))
    threshold, shape, scale, m = naive_tail(scores)
    for probability in (0.03, 0.01, 1e-4):
        expected = threshold + genpareto.isf(probability * n / m, shape, scale=scale)
        assert pareto_quantile(scores, probability) == pytest.approx(expected, rel=1e-9)
        if probability < 1 / n:
            assert pareto_level(scores, probability)[0] >= pareto_quantile(scores, probability)
    assert pareto_quantile(scores, 0.9) == pytest.approx(threshold)  # below the tail it says nothing


def test_a_second_hump_is_fitted_by_itself():
    """A fit to the upper third would see the gap between both as a tail and never fire."""
    rng = np.random.default_rng(1)
    found = [naive_tail(np.sort(humps(rng, 400)))[3] for _ in range(20)]
    assert max(found) == 66  # a sixth, in which there is one hump only
    true = 12 + norm.isf(0.001 / 0.2)
    levels = np.array([pareto_level(np.sort(humps(rng, 400)), 0.001)[0] for _ in range(20)])
    assert (levels >= true).mean() >= 0.8
    assert np.median(levels) <= true + 3
