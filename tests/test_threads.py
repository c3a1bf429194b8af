import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from quests_md._threads import available_threads, for_ranges, one_blas_thread


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
