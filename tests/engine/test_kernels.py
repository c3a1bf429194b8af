"""Kernels against naive code on inputs small enough to run them as plain Python too (NUMBA_DISABLE_JIT=1)."""

import naive
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111

from quests_md import Descriptor, delta_entropy
from quests_md._kernels.sums import NO_GROUP, QUERIES_TOGETHER, ROWS_TOGETHER, log_kernel_sums, nearest_rows
from quests_md.environments.neighbours import linked_pairs, nearest_by_element


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("Cu", "fcc", a=3.58),
        fcc111("Cu", (1, 1, 3), a=3.58, vacuum=6),
        Atoms("H3", positions=[(0, 0, 0), (0.8, 0, 0), (0, 1.1, 0.3)]),
        Atoms("He", positions=[(0, 0, 0)]),
        Atoms("Ne2", positions=[(0, 0, 0), (1.0, 1.2, 0.4)], cell=[(3, 0, 0), (1, 2.5, 0), (0, 0, -4)], pbc=True),
    ],
)
def test_rows(atoms):
    np.testing.assert_allclose(Descriptor(k=8)(atoms)[:, :8], naive.rows(atoms, k=8)[:, :8], atol=1e-12)
    np.testing.assert_allclose(Descriptor()(atoms)[:, :32], naive.rows(atoms)[:, :32], atol=1e-12)


@pytest.mark.parametrize("n_rows", [1, ROWS_TOGETHER - 1, ROWS_TOGETHER, ROWS_TOGETHER + 1])
@pytest.mark.parametrize("n_queries", [1, QUERIES_TOGETHER, QUERIES_TOGETHER + 1])
def test_sums(n_rows, n_queries):
    rng = np.random.default_rng(n_rows + n_queries)
    reference, queries = rng.normal(size=(n_rows, 3)), rng.normal(size=(n_queries, 3))
    for h in (0.01, 0.3, 5.0):
        expected = naive.delta_entropy(queries, reference, h)
        np.testing.assert_allclose(
            delta_entropy(queries, reference=reference, bandwidth=h), expected, rtol=1e-12, atol=1e-12
        )


def test_a_sum_does_not_depend_on_its_companions():
    rng = np.random.default_rng(1)
    reference, queries = rng.normal(size=(700, 63)), rng.normal(size=(11, 63))
    together = delta_entropy(queries, reference=reference, bandwidth=1.0)
    alone = [delta_entropy(queries[i : i + 1], reference=reference, bandwidth=1.0)[0] for i in range(11)]
    assert together.tolist() == alone


def test_groups_are_left_out():
    rng = np.random.default_rng(2)
    reference = rng.normal(size=(30, 2))
    groups = np.repeat(np.arange(3), 10)
    out = np.empty(30)
    log_kernel_sums(reference, reference, 0.5, groups, groups, out)
    np.testing.assert_allclose(out, naive.held_out_delta_entropy(reference, groups, 0.5), rtol=1e-12, atol=1e-12)
    log_kernel_sums(reference, reference, 0.5, np.full(30, NO_GROUP), groups, out)
    np.testing.assert_allclose(out, naive.delta_entropy(reference, reference, 0.5), rtol=1e-12, atol=1e-12)
    log_kernel_sums(reference[:3], reference[:10], 0.5, np.zeros(3, int), groups[:10], out[:3])
    assert np.isposinf(out[:3]).all()


def test_nearest_is_the_first_of_equals():
    reference = np.array([[3.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    best, d2 = np.empty(2, np.int64), np.empty(2)
    nearest_rows(np.array([[0.0, 0.0], [4.0, 0.0]]), reference, best, d2)
    assert best.tolist() == [1, 0]
    assert d2.tolist() == [1.0, 1.0]


def test_nearest_by_element_and_links():
    atoms = Atoms("HOH", positions=[(0.5, 0, 0), (1.5, 0, 0), (3.3, 0, 0)], cell=[4, 9, 9], pbc=[True, False, False])
    distances = nearest_by_element(atoms, np.array([1, 8]), 1.9)
    np.testing.assert_allclose(distances, [[1.2, 1.0], [1.0, np.inf], [1.2, 1.8]], atol=1e-12)
    pairs = linked_pairs(atoms, np.full((1, 1), 1.1), np.zeros(3, np.int64))
    assert pairs.tolist() == [[0, 1]]
