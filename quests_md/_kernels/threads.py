"""Our own thread pool over pieces of work: no global thread setting is read or changed."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral

__all__ = ["available_threads", "for_ranges"]


def available_threads(threads: int | None = None) -> int:
    """Number of threads to use: the argument, else QUESTS_MD_THREADS, else the cores this process may run on.

    Raises
    ------
    ValueError
        If the argument or the environment variable is not a positive integer.
    """
    source, value = "threads", threads
    if value is None:
        text = os.environ.get("QUESTS_MD_THREADS", "").strip()
        if not text:
            return _cores()
        source = "environment variable QUESTS_MD_THREADS"
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"{source}: expected a positive integer, got {text!r}") from None
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{source}: expected a positive integer, got {value!r}")
    return int(value)


def for_ranges(work: Callable[[int, int], None], n_items: int, piece: int, threads: int) -> None:
    """Call `work(start, stop)` for consecutive pieces of range(n_items), on up to `threads` threads.

    The pieces do not depend on the number of threads, and no thread outlives the call, so nothing is left behind for
    a fork to trip over. Starting the pool costs about 0.1 ms: a single piece runs in the calling thread.
    """
    starts = range(0, n_items, piece)
    if threads == 1 or len(starts) <= 1:
        for start in starts:
            work(start, min(start + piece, n_items))
        return
    with ThreadPoolExecutor(min(threads, len(starts))) as pool:
        for _ in pool.map(lambda start: work(start, min(start + piece, n_items)), starts):
            pass


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
