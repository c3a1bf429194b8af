import naive
import numpy as np
import pytest
from references import rattled_cells

from quests_md import Descriptor, Reference
from quests_md.engine.bandwidth import BANDWIDTHS, CLOSEST, best_bandwidth


def likelihood(rows, groups, h):
    """Mean log of (1/N) sum of other groups' kernels / h^d, by naive code; copies left out."""
    total = []
    for row, group in zip(rows, groups, strict=True):
        others = rows[groups != group]
        others = others[np.linalg.norm(others - row, axis=1) >= CLOSEST]
        if len(others):
            total.append(-naive.delta_entropy(row[None], others, h)[0] - np.log(len(others)))
    return np.mean(total) - rows.shape[1] * np.log(h)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "width", "spread"), [(300, 1, 0.1), (200, 2, 0.05), (150, 8, 0.05)])
def test_it_is_the_maximum_of_the_naive_likelihood(n, width, spread):
    rng = np.random.default_rng(n)
    rows = rng.normal(scale=spread, size=(n, width))
    groups = np.arange(n) // 3
    found = best_bandwidth(rows, groups, [slice(0, n)])
    fine = np.geomspace(0.004, 0.25, 400)
    values = [likelihood(rows, groups, h) for h in fine]
    assert found == pytest.approx(fine[np.argmax(values)], rel=0.03)
    assert likelihood(rows, groups, found) >= max(values) - 1e-3


@pytest.mark.slow
def test_elements_are_compared_with_themselves():
    rng = np.random.default_rng(1)
    rows = rng.normal(scale=0.05, size=(240, 2))
    groups = np.tile(np.arange(60), 4)
    blocks = [slice(0, 100), slice(100, 240)]
    fine = np.geomspace(0.004, 0.25, 400)
    values = [sum(likelihood(rows[b], groups[b], h) * (b.stop - b.start) for b in blocks) for h in fine]
    assert best_bandwidth(rows, groups, blocks) == pytest.approx(fine[np.argmax(values)], rel=0.03)


def test_copies_in_other_groups_do_not_make_it_collapse():
    rng = np.random.default_rng(2)
    rows = rng.normal(scale=0.1, size=(200, 2))
    groups = np.arange(200)
    alone = best_bandwidth(rows, groups, [slice(0, 200)])
    doubled = best_bandwidth(np.concatenate([rows, rows]), np.arange(400), [slice(0, 400)])
    assert alone is not None
    assert doubled == pytest.approx(alone, rel=0.3)


@pytest.mark.parametrize("scale", [1e-5, 1e3])
def test_none_at_an_edge(scale):
    rows = np.random.default_rng(3).normal(scale=scale, size=(100, 2))
    assert best_bandwidth(rows, np.arange(100), [slice(0, 100)]) is None


def test_none_where_nothing_can_be_held_out():
    rows = np.random.default_rng(4).normal(size=(20, 2))
    assert best_bandwidth(rows, np.zeros(20, int), [slice(0, 20)]) is None
    assert best_bandwidth(np.empty((0, 2)), np.empty(0, int), []) is None


def test_auto_builds_a_reference_with_that_bandwidth():
    frames, few = rattled_cells(24, 5, 0.1), Descriptor(k=2)
    plain = Reference.from_frames(frames, descriptor=few)
    automatic = Reference.from_frames(frames, descriptor=few, bandwidth="auto")
    assert BANDWIDTHS[0] < automatic.bandwidth < BANDWIDTHS[-1]
    assert automatic.bandwidth == plain.auto_bandwidth() == plain.with_bandwidth("auto").bandwidth
    assert automatic.fingerprint != plain.fingerprint
    given = Reference.from_frames(frames, descriptor=few, bandwidth=automatic.bandwidth)
    assert automatic.fingerprint == given.fingerprint
    assert plain.bandwidth == 0.015


def test_auto_says_why_there_is_none():
    with pytest.raises(ValueError, match="bandwidth: 'auto' found no best value"):
        Reference.from_frames(rattled_cells(1, 6), bandwidth="auto")
    with pytest.raises(ValueError, match="bandwidth: expected a positive number"):
        Reference.from_frames(rattled_cells(2, 6), bandwidth="wide")
