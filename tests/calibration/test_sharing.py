"""How several numbers share a rate: with ranks among held-out groups, valid whatever their distribution."""

import numpy as np
import pytest

from quests_md.calibration.levels import NullScores, level_of, sharing_of


def nulls_of(scores, groups=True):
    """Null distributions of several numbers: (count, n) scores of n groups."""
    found = []
    for i, row in enumerate(scores):
        order = np.argsort(row, kind="stable")
        names = order.astype(np.int64) * 3 + 5 if groups else None
        found.append(NullScores(f"s{i}", None, "above", "both", row[order], np.full(len(row), 10), names))
    return found


def correlated(rng, count, n, correlation):
    common = rng.normal(size=n)
    return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * rng.normal(size=(count, n))


def test_one_number_and_numbers_of_unknown_groups_share_as_if_never_out_together():
    rng = np.random.default_rng(0)
    assert sharing_of(nulls_of(rng.normal(size=(1, 50))), 0.1) == (1.0, True)
    assert sharing_of(nulls_of(rng.normal(size=(3, 50)), groups=False), 0.1) == (3.0, True)
    assert sharing_of(nulls_of(rng.normal(size=(3, 29))), 0.1) == (3.0, True)


@pytest.mark.parametrize("n", [60, 500])
def test_numbers_that_are_always_out_together_cost_as_one(n):
    row = np.random.default_rng(1).normal(size=n)
    sharing = sharing_of(nulls_of(np.stack([row, 2 * row + 1, row**3])), 0.1)
    # one group is always added to those that are out
    assert sharing.multiplicity == pytest.approx(0.1 * (n + 1) / int(0.1 * (n + 1) - 1))


def test_numbers_that_are_never_out_together_cost_as_many():
    scores = np.zeros((3, 600))
    for i in range(3):
        scores[i, i::3] = 10 + np.arange(200)
    sharing = sharing_of(nulls_of(scores), 0.3)
    assert sharing.is_exact
    assert 2.9 < sharing.multiplicity <= 3


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_the_joint_rate_is_kept_and_used(correlation):
    """The share of new groups that are out by any of three numbers, over many calibrations."""
    rng, rate, n, outs = np.random.default_rng(2), 0.1, 300, []
    for _ in range(300):
        scores = correlated(rng, 3, n + 200, correlation)
        nulls = nulls_of(scores[:, :n])
        sharing = sharing_of(nulls, rate)
        assert sharing.is_exact
        levels = [level_of(null, "mean", 10, rate / sharing.multiplicity, 1).value for null in nulls]
        outs.append((scores[:, n:] > np.array(levels)[:, None]).any(axis=0).mean())
    assert np.mean(outs) <= rate
    assert np.mean(outs) >= 0.8 * rate


def test_groups_that_lack_a_number_do_not_count():
    rng = np.random.default_rng(3)
    scores = correlated(rng, 2, 400, 0.5)
    whole, part = nulls_of(scores), nulls_of(scores[:, :300])
    assert sharing_of([whole[0], part[1]], 0.1) == sharing_of(part, 0.1)


def test_a_low_side_is_out_at_its_smallest_scores():
    row = np.sort(np.random.default_rng(4).normal(size=400))
    above, below = nulls_of(np.stack([row, -row]))
    low = NullScores("s1", None, "below", "both", np.sort(-row), below.sizes, np.argsort(-row) * 3 + 5)
    assert sharing_of([above, low], 0.1).multiplicity == pytest.approx(1.0, abs=0.06)
