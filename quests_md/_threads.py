"""Our own thread pool over pieces of work: no global thread setting is read or changed."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import threadpoolctl

from ._arguments import check_positive_integer

__all__ = ["available_threads", "for_ranges", "one_blas_thread"]


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
    return check_positive_integer(source, value)


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


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Inside, a product of matrices uses the thread that asks for it; the settings from before come back at the end.

    Our own threads share the work already, and a library that starts more of them slows all down.
    """
    with _lock:
        if _blas.controller is None:
            _blas.controller = threadpoolctl.ThreadpoolController().select(user_api="blas")
        _blas.users += 1
        if _blas.users == 1:
            _take_blas()
            _blas.limit = _blas.controller.limit(limits=1)
    try:
        yield
    finally:
        with _lock:
            _blas.users -= 1
            if _blas.users == 0:
                _take_blas()
                _blas.limit.restore_original_limits()


class _Blas:
    """The BLAS libraries in this process, and how many of our calls want them single-threaded right now."""

    controller: Any = None
    users = 0
    limit: Any = None


_blas = _Blas()
_lock = threading.Lock()


def _take_blas() -> None:
    """From threadpoolctl 3.8 on only the first thread that set a limit may set others: those of the rest do nothing."""
    clear = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
