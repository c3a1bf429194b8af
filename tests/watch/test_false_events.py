import itertools
import math

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import norm

from quests_md import Trigger
from quests_md.watch.false_events import RAREST, checks_per_false_event, visits_for


def chain(p, again, n, seed):
    """Out or not, a Markov chain: checks out with probability p, after one out with probability `again`."""
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(1 - again, size=n), rng.geometric(p * (1 - again) / (1 - p), size=n)
    return np.repeat(np.tile([True, False], n), np.stack(lengths, axis=1).ravel())[:n]


def events(trigger, excesses):
    for excess in excesses:
        trigger.update(excess)
    return trigger.n_events


@pytest.mark.parametrize(("p", "again"), [(0.05, 0.05), (0.1, 0.4), (0.02, 0.6)])
@pytest.mark.parametrize(("visits", "window"), [(2, 10), (3, 20), (4, 20)])
def test_chance_opens_no_more_events_than_said(p, again, visits, window):
    n = 100_000
    excesses = np.where(chain(p, again, n, seed=visits), 1.0, -9.0)
    found = events(Trigger(patience=n, visits=visits, window=window), excesses)
    said = n / checks_per_false_event(p, visits=visits, window=window, again=again)
    assert found <= said + 4 * math.sqrt(said)
    # an event goes on as long as visits come again: with rare ones what is said is what is found
    if said < 0.02 * n / window:
        assert found >= 0.5 * said - 4 * math.sqrt(said)


@pytest.mark.parametrize(("p", "again", "patience"), [(0.1, 0.1, 2), (0.1, 0.5, 3), (0.05, 0.7, 5)])
def test_chance_opens_as_many_events_in_a_row_as_said(p, again, patience):
    n = 100_000
    found = events(Trigger(patience=patience), np.where(chain(p, again, n, seed=1), 1.0, -9.0))
    said = n / checks_per_false_event(p, patience=patience, again=again)
    assert abs(found - said) <= 4 * math.sqrt(said)


def test_the_sum_over_stretches_equals_all_sequences():
    p, again, visits, window = 0.2, 0.5, 3, 9
    leave = p * (1 - again) / (1 - p)
    total = 0.0
    for rest in itertools.product((True, False), repeat=window - 1):
        series = (True, *rest)  # a visit begins at the first check
        chance = 1.0
        for before, after in itertools.pairwise(series):
            to_out = again if before else leave
            chance *= to_out if after else 1 - to_out
        begun = sum(b and not a for a, b in itertools.pairwise((False, *series)))
        total += chance if begun >= visits else 0.0
    said = checks_per_false_event(p, visits=visits, window=window, again=again)
    assert 1 / said == pytest.approx(p * (1 - again) * total, rel=1e-12)


def test_defaults_follow_the_rate():
    chosen = {rate: visits_for(rate) for rate in (1e-4, 0.01, 0.03, 0.1)}
    assert chosen == {1e-4: 3, 0.01: 4, 0.03: 6, 0.1: 8}
    for rate, visits in chosen.items():
        assert checks_per_false_event(rate, visits=visits) >= 1 / RAREST
        assert visits == 3 or checks_per_false_event(rate, visits=visits - 1) < 1 / RAREST
    assert visits_for(0.3, window=6) is None
    # checks that are out nearly always make few visits, but the promise of a rate is one of at most that rate
    assert visits_for(0.9) == visits_for(0.6) == visits_for(0.5)
    assert checks_per_false_event(0.01) == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0, 1, 2, 5, 10, 20])
def test_slow_series_open_no_more_events_by_visits_than_independent_ones(tau):
    n, rate = 300_000, 0.01
    a = math.exp(-1 / tau) if tau else 0.0
    z = lfilter([math.sqrt(1 - a * a)], [1, -a], np.random.default_rng(tau).normal(size=n))
    level = norm.isf(rate)
    # as a Judge does: half a nat below the level, or half of the way to the median where that is nearer
    excesses = (z - level) * 0.5 / min(0.5, level / 2)
    trigger = Trigger(patience=n, visits=visits_for(rate))
    assert events(trigger, excesses) <= 3 + 4 * math.sqrt(3)  # one in 100 000 checks


def test_short_departures_that_come_again_open_an_event_soon():
    """18 % of the checks out, most visits shorter than three checks."""
    rng, waits = np.random.default_rng(0), {"row": [], "visits": []}
    for seed in range(40):
        excesses = np.where(chain(0.18, 0.33, 2000, seed), 0.7, -rng.uniform(0.5, 2, 2000))
        for name, trigger in {"row": Trigger(patience=3), "visits": Trigger(patience=2000, visits=4)}.items():
            found = (i for i, excess in enumerate(excesses) if trigger.update(excess) == "open")
            waits[name].append(next(found, 2000))
    assert np.median(waits["visits"]) <= 40
    assert np.max(waits["visits"]) <= 250
    assert np.median(waits["row"]) > np.median(waits["visits"])
