"""Work that no interrupt tears: it is done on a thread of its own, since signal handlers run in the main thread alone.

An interrupt in the middle of compiled code may come out as another exception (a SystemError of numba, a TypeError of
numpy) that nobody takes for an interrupt, or leave half of the work done.
"""

import os
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

__all__ = ["interrupt_behind", "uninterrupted"]

T = TypeVar("T")

#: Seconds without work after which the thread ends.
PATIENCE_S = 1.0


class _Job:
    """A piece of work, and what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.taken = threading.Lock()
        """Held by whoever comes first: the thread that does the work, or the one that calls it off."""
        self.done = threading.Lock()
        self.done.acquire()
        self.has_ended = False
        """Whether the work is done; an interrupt may come right after `done` was acquired."""
        self._work: Callable[[], Any] | None = work
        self._result: Any = None
        self._failure: BaseException | None = None

    def do(self) -> None:
        """Do the work, unless it was called off."""
        if not self.taken.acquire(blocking=False):
            return
        work, self._work = self._work, None
        assert work is not None
        try:
            self._result = work()
        except BaseException as exc:
            self._failure = exc
        del work  # nothing of a run is kept alive by the thread
        self.has_ended = True
        self.done.release()

    def result(self) -> Any:
        """What the work returned; raises what it raised."""
        failure, result = self._failure, self._result
        self._failure = self._result = None
        if failure is not None:
            raise failure
        return result


class _Worker:
    """A thread that does one job after the other, until there has been none for a while."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._start()

    def give(self, job: _Job) -> None:
        """Have a job done after those given before; in the calling thread where no other can be started."""
        self._jobs.put(job)
        if self._is_ending and not self._start():  # two threads may take jobs for a moment
            job.do()

    def _start(self) -> bool:
        """Start a thread; False if the system has none to give."""
        self._is_ending = False
        try:
            threading.Thread(target=self._run, name="quests_md checks", daemon=True).start()
        except RuntimeError:
            self._is_ending = True
        return not self._is_ending

    def _run(self) -> None:
        with suppress(Empty):
            while True:
                self._jobs.get(timeout=PATIENCE_S).do()
        self._is_ending = True  # from here on a job that is given starts a thread
        with suppress(Empty):
            while True:
                self._jobs.get_nowait().do()


_worker: _Worker | None = None


def uninterrupted(work: Callable[[], T], then: Callable[[T], None] | None = None) -> T:
    """Do the work and return its result; what a signal handler raises meanwhile is raised when the work is done.

    An interrupt before the work has begun calls the work off. `then` is called with the result, in the calling thread,
    where it can be interrupted, and before an interrupt is raised that came during the work. Other threads than the
    main one never run signal handlers, so there the work is done in place.
    """
    if threading.current_thread() is not threading.main_thread():
        result = work()
        if then is not None:
            then(result)
        return result
    job, interrupt = _Job(work), None
    try:
        _started_worker().give(job)
        job.done.acquire()
    except BaseException as exc:
        interrupt = exc
        with suppress(AttributeError):  # a class of exceptions without room for attributes
            exc.of_signal_handler = True  # type: ignore[attr-defined]
        if job.taken.acquire(blocking=False):
            raise
        while not job.has_ended:
            _wait_for(job)
    try:
        result = job.result()
        if then is not None:
            then(result)
    finally:
        if interrupt is not None:
            raise interrupt
    return result


def interrupt_behind(failure: BaseException | None) -> BaseException | None:
    """The interrupt of which a failure was made, or the failure, if it is one; None if there is none.

    Interrupts are exceptions that end programs, and whatever a signal handler has raised.
    """
    while isinstance(failure, Exception) and not _is_of_signal_handler(failure):
        failure = failure.__cause__ or failure.__context__
    return failure


def _is_of_signal_handler(failure: BaseException) -> bool:
    """Whether a signal handler has raised an exception: while `uninterrupted` waited, or anywhere by its traceback."""
    if getattr(failure, "of_signal_handler", False):
        return True
    handlers = [handler for number in signal.valid_signals() if callable(handler := signal.getsignal(number))]
    called = [handler if hasattr(handler, "__code__") else type(handler).__call__ for handler in handlers]
    codes = {getattr(function, "__code__", None) for function in called} - {None}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(failure.__traceback__))


def _wait_for(job: _Job) -> None:
    """Wait for the end of a job that has begun, or until another interrupt comes."""
    with suppress(BaseException):
        job.done.acquire()


def _started_worker() -> _Worker:
    global _worker
    if _worker is None:
        _worker = _Worker()
    return _worker


def _forget_worker() -> None:
    """A forked child has none of the threads of its parent."""
    global _worker
    _worker = None


os.register_at_fork(after_in_child=_forget_worker)
