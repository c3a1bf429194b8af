import threading

import numpy as np
import pytest
from systems import inside, level_at, md_reference
from threadpoolctl import ThreadpoolController, threadpool_limits

from quests_md import Monitor, Reference
from quests_md._threads import available_threads, for_ranges, has_openblas_alone, one_blas_thread


def test_pieces_cover_every_item_once():
    for n, piece, threads in ((0, 4, 2), (1, 4, 2), (4, 4, 2), (9, 4, 1), (9, 4, 8)):
        seen = np.zeros(n, int)

        def work(start, stop, seen=seen):
            seen[start:stop] += 1

        for_ranges(work, n, piece, threads)
        assert (seen == 1).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
def test_small_pieces_share_the_work_evenly(threads):
    for n in (1, 63, 64, 65, 108, 256, 257, 864, 4000, 100_000):
        pieces = []
        for_ranges(lambda start, stop, pieces=pieces: pieces.append((start, stop)), n, 256, threads, least=64)
        pieces.sort()
        assert np.concatenate([np.arange(*piece) for piece in pieces]).tolist() == list(range(n))
        sizes = [stop - start for start, stop in pieces]
        assert max(sizes) <= 256
        if threads > 1 and n >= 64 * threads:  # nobody waits for more than a piece, and there are pieces for all
            assert len(pieces) >= threads
            assert max(sizes) * -(-len(pieces) // threads) <= 1.02 * n / threads + 1
        if threads > 1 and n > 64:
            assert min(sizes[:-1], default=64) >= 64


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
        with one_blas_thread:
            numbers()
            with one_blas_thread:
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


def test_a_limit_that_is_given_up_in_between_stays_given_up():
    def numbers():
        return [lib.num_threads for lib in ThreadpoolController().select(user_api="blas").lib_controllers]

    with threadpool_limits(3, user_api="blas"):
        limits = threadpool_limits(2, user_api="blas")  # of another thread, perhaps
        one_blas_thread.__enter__()
        limits.restore_original_limits()
        one_blas_thread.__exit__()
        assert set(numbers()) == {3}


@pytest.mark.skipif(not has_openblas_alone(), reason="numpy is not built with OpenBLAS")
def test_a_check_leaves_the_threads_of_blas_alone_all_along():
    """Another thread may set a limit during a check: it would restore what the check has set for a moment."""
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    seen, is_over, has_begun = set(), threading.Event(), threading.Event()

    def look():
        while not is_over.is_set():
            seen.add(tuple(library.num_threads for library in libraries))
            has_begun.set()

    reference = md_reference()
    with threadpool_limits(2, user_api="blas"):
        looking = threading.Thread(target=look)
        looking.start()
        has_begun.wait()
        rebuilt = Reference.from_frames([inside(i) for i in range(30)], bandwidth=reference.bandwidth)
        for known in (reference, rebuilt):
            with Monitor(known, level_at(known, -6.0), log=None, values="full") as monitor:
                for i in range(10):
                    monitor.check(inside(i))
        is_over.set()
        looking.join()
    assert seen == {(2,) * len(libraries)}
