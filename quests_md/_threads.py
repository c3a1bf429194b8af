"""Our own threads over pieces of work: no global thread setting is read or changed."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import threadpoolctl

from ._arguments import check_positive_integer

__all__ = ["available_threads", "for_ranges", "has_openblas_alone", "one_blas_thread"]

#: Makes this thread the one that sets limits: from threadpoolctl 3.8 on, limits that other threads set do nothing.
CLEAR: Callable[..., None] | None = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)


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


def for_ranges(
    work: Callable[[int, int], None], n_items: int, piece: int, threads: int, *, least: int | None = None
) -> None:
    """Call `work(start, stop)` for consecutive pieces of range(n_items), on up to `threads` threads.

    A piece has at most `piece` items. Without `least` pieces do not depend on the number of threads. With it all
    threads get pieces of about the same size, down to `least` items; what is computed for an item must then not depend
    on its piece. The calling thread works too, and the others do not outlive the call, so nothing is left behind for a
    fork to trip over. Of errors that of the first piece is raised, when all threads have ended.
    """
    if least is not None and threads > 1 and n_items > least:
        rounds = -(-n_items // (piece * threads))
        piece = max(least, -(-n_items // (rounds * threads)))
    starts = range(0, n_items, piece)
    if threads == 1 or len(starts) <= 1:
        for start in starts:
            work(start, min(start + piece, n_items))
        return
    waiting, failures = iter(starts), dict[int, BaseException]()

    def take() -> None:
        while not failures and (start := next(waiting, None)) is not None:
            try:
                work(start, min(start + piece, n_items))
            except BaseException as exc:
                failures[start] = exc

    others = [threading.Thread(target=take, daemon=True) for _ in range(min(threads, len(starts)) - 1)]
    try:
        with suppress(RuntimeError):  # the system has no more threads to give: those that there are do it
            for thread in others:
                thread.start()
        take()
    finally:
        for thread in others:
            _wait_for(thread)
    if failures:
        raise failures[min(failures)]


def _wait_for(thread: threading.Thread) -> None:
    """Wait until a thread has ended, if it was started; an interrupt is raised then."""
    interrupt = None
    while thread.ident is not None and thread.is_alive():
        try:
            thread.join()
        except BaseException as exc:
            interrupt = exc
    if interrupt is not None:
        raise interrupt


class _OneBlasThread:
    """Holds the BLAS libraries of the process to one thread, from the first call that wants it to the last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_calls = 0
        self._libraries: list[Any] | None = None
        self._before: list[int] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._libraries is None:  # looking for libraries takes a while
                self._libraries = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
            self._n_calls += 1
            if self._n_calls == 1:
                self._before = [library.num_threads for library in self._libraries]
                self._set([1] * len(self._libraries))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_calls -= 1
            if self._n_calls == 0:
                now = [library.num_threads for library in self._libraries or ()]
                # another thread has changed what is not one any more
                self._set([before if n == 1 else n for before, n in zip(self._before, now, strict=True)])

    def _set(self, threads: list[int]) -> None:
        changed = [
            (library, n) for library, n in zip(self._libraries or (), threads, strict=True) if library.num_threads != n
        ]
        if changed and CLEAR is not None:
            CLEAR(force=True)
        for library, n in changed:
            library.set_num_threads(n)


#: Inside, a product of matrices uses the thread that asks for it; afterwards the settings from before come back.
#: `for_ranges` shares the work among threads already: a library that starts more slows all of them down.
one_blas_thread = _OneBlasThread()


@cache
def has_openblas_alone() -> bool:
    """Whether every BLAS library of the process is OpenBLAS; looking for libraries takes a while, once."""
    found = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    return bool(found) and all(library.internal_api == "openblas" for library in found)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
