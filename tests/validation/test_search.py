"""Search structures over rows of published data against naive sums."""

from pathlib import Path

import naive
import numpy as np
import pytest
from ase.io import read

from quests_md import Descriptor, Reference

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize(
    ("known", "new"),
    [
        ("mlearn/Mo_train.xyz", "mlearn/Mo_test.xyz"),
        ("gap20/Graphite_Layer_Sep.xyz", "gap20/Graphite.xyz"),
        ("gap20/Graphite.xyz", "gap20/Graphite_Layer_Sep.xyz"),
    ],
)
def test_values_decisions_and_nearest_rows(known, new):
    reference = Reference.from_frames(read(DATA / known, "::2"))
    queries = np.concatenate([Descriptor()(atoms) for atoms in read(DATA / new, "::4")])[::5]
    numbers = np.full(len(queries), reference.numbers[0])
    expected = naive.delta_entropy(queries, reference.rows, reference.bandwidth)
    values = reference.delta_entropy(queries, numbers=numbers)
    assert np.abs(values - expected).max() < 1e-5 + 1e-6 * np.abs(expected).max()
    exact = reference.delta_entropy(queries, numbers=numbers, float64=True)
    assert (np.abs(exact - expected) <= 1e-9 * np.maximum(1, np.abs(expected))).all()
    rng = np.random.default_rng(15)
    for levels in (
        exact,
        np.nextafter(exact, -np.inf),
        np.nextafter(exact, np.inf),
        exact + rng.uniform(-1e-6, 1e-6, len(exact)),
        exact + rng.normal(0, 5, len(exact)),
        np.full(len(exact), np.median(exact)),
    ):
        np.testing.assert_array_equal(reference.is_covered(queries, levels, numbers=numbers), exact <= levels)
    nearest = reference.nearest(queries, numbers=numbers).distance * reference.bandwidth
    smallest = [np.sqrt(((reference.rows - query) ** 2).sum(axis=1).min()) for query in queries]
    np.testing.assert_allclose(nearest, smallest, rtol=1e-12, atol=1e-12)
