"""Kernels against naive code on inputs small enough to run them as plain Python too (NUMBA_DISABLE_JIT=1)."""

import threading

import naive
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from threadpoolctl import ThreadpoolController

from quests_md import Descriptor, delta_entropy
from quests_md._kernels.sums import BLOCK, NO_GROUP, TILE, log_kernel_sums, nearest_rows
from quests_md._threads import available_threads, for_ranges, one_blas_thread
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


@pytest.mark.parametrize("n_rows", [1, BLOCK - 1, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("n_queries", [1, TILE, TILE + 1])
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


def test_pieces_cover_every_item_once():
    for n, piece, threads in ((0, 4, 2), (1, 4, 2), (4, 4, 2), (9, 4, 1), (9, 4, 8)):
        seen = np.zeros(n, int)

        def work(start, stop, seen=seen):
            seen[start:stop] += 1

        for_ranges(work, n, piece, threads)
        assert (seen == 1).all()


def test_an_error_in_a_piece_is_raised():
    def work(start, stop):
        raise ValueError(start)

    with pytest.raises(ValueError, match="0"):
        for_ranges(work, 9, 2, 3)


def test_threads_come_from_the_argument_then_the_environment(monkeypatch):
    monkeypatch.setenv("QUESTS_MD_THREADS", "3")
    assert available_threads() == 3
    assert available_threads(2) == 2
    monkeypatch.setenv("QUESTS_MD_THREADS", "many")
    with pytest.raises(ValueError, match=r"QUESTS_MD_THREADS.*'many'"):
        available_threads()
    monkeypatch.delenv("QUESTS_MD_THREADS")
    assert available_threads() >= 1
    for bad in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="threads"):
            available_threads(bad)


def test_any_thread_can_ask_for_one_blas_thread_and_gives_back_the_rest():
    """Products of matrices differ by rounding between one BLAS thread and more: results would depend on the caller."""
    found = []

    def numbers():
        found.append({lib.num_threads for lib in ThreadpoolController().select(user_api="blas").lib_controllers})

    def ask():
        numbers()
        with one_blas_thread():
            numbers()
            with one_blas_thread():
                numbers()
            numbers()
        numbers()

    ask()
    other = threading.Thread(target=ask)
    other.start()
    other.join()
    ask()
    before = found[0]
    assert found == [before, {1}, {1}, {1}, before] * 3
