import numpy as np
import pytest
from scipy.stats import genpareto

from quests_md.tails import FEWEST, _fit, _quantile, pareto_level

DRAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "gumbel": lambda rng, n: rng.gumbel(size=n),
    "maxima of 100": lambda rng, n: rng.normal(size=(n, 100)).max(axis=1),
    "student": lambda rng, n: rng.standard_t(4, size=n),
}


@pytest.mark.parametrize(("n", "asked"), [(FEWEST, 0.01), (100, 0.003), (300, 0.001)])
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
    excesses = np.sort(genpareto.rvs(shape, scale=scale, size=20_000, random_state=3))
    found_shape, found_scale = _fit(excesses)
    assert found_shape == pytest.approx(shape, abs=0.05)
    assert found_scale == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize("shape", [0.0, 1e-9, 0.1, 0.5])
def test_quantiles_are_those_of_scipy(shape):
    exceeded = np.array([0.5, 0.1, 1e-3, 1e-6])
    np.testing.assert_allclose(_quantile(shape, 2.0, exceeded), genpareto.isf(exceeded, shape, scale=2.0), rtol=1e-6)


def test_a_light_tail_is_taken_as_exponential():
    shape, scale = _fit(np.linspace(0.01, 1, 100))
    assert shape == 0
    assert scale == pytest.approx(0.505)


def test_the_level_grows_as_the_probability_falls_and_never_below_the_largest_score():
    scores = np.sort(np.random.default_rng(5).normal(size=60))
    levels = [pareto_level(scores, p)[0] for p in (0.016, 0.01, 0.005, 0.002)]
    assert levels == sorted(levels)
    assert levels[0] >= scores[-1]
    assert pareto_level(scores + 100, 0.005)[0] == pytest.approx(levels[2] + 100)


def test_equal_scores_have_no_tail():
    assert pareto_level(np.full(40, 2.5), 0.001) == (2.5, 2.5, 2.5)
