"""The thread on which work is done that no interrupt tears."""

import threading
import time

import pytest

from quests_md._interrupts import uninterrupted


def name_of_thread():
    return threading.current_thread().name


def wait_for_the_end():
    """Until the thread of checks has ended, which it does after a second without work."""
    end = time.monotonic() + 60
    while any(thread.name == "quests_md checks" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_thread_ends_where_there_is_no_more_work_and_another_takes_its_place():
    for _ in range(2):
        assert [uninterrupted(name_of_thread) for _ in range(3)] == ["quests_md checks"] * 3
        wait_for_the_end()


def test_work_is_done_in_place_where_no_thread_can_be_started():
    wait_for_the_end()
    before = threading.stack_size(2**50)  # more than any process can have
    try:
        with pytest.raises(RuntimeError, match="thread"):
            threading.Thread(target=print).start()
        assert [uninterrupted(name_of_thread) for _ in range(2)] == ["MainThread"] * 2
    finally:
        threading.stack_size(before)
    assert uninterrupted(name_of_thread) == "quests_md checks"


def test_what_the_work_raises_is_raised_and_the_thread_goes_on():
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            uninterrupted(lambda: 1 / 0)
    assert uninterrupted(name_of_thread, then=lambda name: None) == "quests_md checks"
