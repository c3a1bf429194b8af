"""Those who judge parts of files: processes of this machine, or the workers of a Dask cluster."""

import gc
import os
import pickle
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, Protocol

import cloudpickle
from loky import ProcessPoolExecutor

from quests_md._interrupts import uninterrupted
from quests_md.judge import Judge

from .parts_judged import JudgedPart, PartJudge, Task

__all__ = ["DaskWorkers", "Here", "Processes", "WorkerLostError", "Workers", "why_not_sendable"]


class WorkerLostError(Exception):
    """A worker has died, or lost what it needs: what it was given must be done again."""


class Workers(Protocol):
    """What parts of files are given to."""

    size: int
    """How many workers there are."""

    def submit(self, tasks: Sequence[Task]) -> Any:
        """Have parts judged by one worker; returns what `result` takes."""

    def result(self, handle: Any) -> list[JudgedPart]:
        """Wait for these parts; raises WorkerLostError if they must be given again."""

    def has_result(self, handle: Any) -> bool:
        """Whether they are done, so that nothing of them can be lost any more."""

    def renew(self) -> None:
        """Begin again after workers were lost."""

    def close(self) -> None:
        """End the work that is going on."""


class Here:
    """The thread itself, for what is too little to start a process for."""

    size = 1

    def __init__(self, judge: PartJudge, *, takes_calculations: bool) -> None:
        self._judge, self._is_torn_apart = judge, takes_calculations

    def submit(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """As in `Workers`."""
        return tasks

    def result(self, handle: Sequence[Task]) -> list[JudgedPart]:
        """As in `Workers`."""
        work = partial(self._judge, handle)
        return work() if self._is_torn_apart else uninterrupted(work)

    def has_result(self, handle: Sequence[Task]) -> bool:
        """As in `Workers`."""
        return False

    def renew(self) -> None:
        """As in `Workers`."""

    def close(self) -> None:
        """As in `Workers`."""


class Processes:
    """Processes of this machine. The judge is pickled once, to a file, whatever their number.

    They are started by loky: the script of the user is not run again in them, so that it needs no guard
    ``if __name__ == "__main__"``, and what the script defines is sent along. What they find comes back in files too: a
    worker that is killed while it sends a long message would leave half of it in the pipe that all of them share, and
    loky would wait for the other half.
    """

    def __init__(self, judge: PartJudge, size: int) -> None:
        self.size = size
        self._judge = _file_for_others()
        try:
            cloudpickle.dump(judge, self._judge, protocol=5)
            self._judge.flush()
        except BaseException:
            self._judge.close()
            raise
        self._pool: ProcessPoolExecutor | None = None
        self._answers: dict[Future[None], IO[bytes]] = {}

    def submit(self, tasks: Sequence[Task]) -> Future[None]:
        """As in `Workers`."""
        answer = _file_for_others()
        with _interrupts_kept_from_children():
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    self.size,
                    timeout=None,
                    initializer=_begin,
                    initargs=(os.getpid(),),
                    # a worker that maps a large reference page by page is no leak
                    env={"LOKY_MAX_MEMORY_LEAK_SIZE": str(2**62)},
                )
            try:
                future: Future[None] = self._pool.submit(_answer, _name(self._judge), tasks, _name(answer))
            except BrokenExecutor as exc:
                future = Future()
                future.set_exception(exc)
        self._answers[future] = answer
        return future

    def result(self, handle: Future[None]) -> list[JudgedPart]:
        """As in `Workers`."""
        try:
            handle.result()
        except (BrokenExecutor, CancelledError) as exc:
            raise WorkerLostError(_exit_codes(exc)) from None
        with self._answers.pop(handle) as answer:
            found: list[JudgedPart] = pickle.load(answer)
        return found

    def has_result(self, handle: Future[None]) -> bool:
        """As in `Workers`."""
        return handle.done() and not handle.cancelled() and handle.exception() is None

    def renew(self) -> None:
        """As in `Workers`."""
        self._stop()
        for handle in [handle for handle in self._answers if not self.has_result(handle)]:
            self._answers.pop(handle).close()

    def close(self) -> None:
        """As in `Workers`."""
        try:
            self._stop()
        finally:
            for file in (self._judge, *self._answers.values()):
                file.close()

    def _stop(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            with warnings.catch_warnings(action="ignore"):  # loky asks for psutil, and kills without it too
                pool.shutdown(wait=True, kill_workers=True)


def _file_for_others() -> IO[bytes]:
    """A file that other processes open by its `_name`.

    Where the system shows the open files of a process, the file is in no folder and goes with the process that made
    it, however that ends.
    """
    if _HAS_OPEN_FILES:
        return tempfile.TemporaryFile()
    return tempfile.NamedTemporaryFile(prefix="quests_md-")


def _name(file: IO[bytes]) -> str:
    return f"/proc/{os.getpid()}/fd/{file.fileno()}" if _HAS_OPEN_FILES else file.name


_HAS_OPEN_FILES = Path("/proc/self/fd").is_dir()


#: Seconds of waiting after which a Dask cluster is asked whether its workers have what they need.
ASK_S = 5.0


class DaskWorkers:
    """The workers of a Dask cluster, to each of which the judge is sent once.

    Parameters
    ----------
    client
        A `distributed.Client`.

    Raises
    ------
    TypeError
        If it is none, or an asynchronous one.
    """

    def __init__(self, client: Any, judge: PartJudge) -> None:
        self._client, self._judge = client, judge
        client.wait_for_workers(1)
        self.size = 1
        self._sent: Any = None
        self.renew()

    def submit(self, tasks: Sequence[Task]) -> Any:
        """As in `Workers`."""
        return self._client.submit(_judged, self._sent, tasks, pure=False)

    def result(self, handle: Any) -> list[JudgedPart]:
        """As in `Workers`."""
        from distributed import KilledWorker

        try:
            found = self._waited_for(handle)
        except KilledWorker as exc:
            raise WorkerLostError(str(exc)) from None
        except CancelledError as exc:  # all that had the judge are gone, or the scheduler
            if self._client.status != "running":
                raise ConnectionError(f"client: the connection to the Dask scheduler is lost ({exc})") from None
            raise WorkerLostError(str(exc)) from None
        return found

    def _waited_for(self, handle: Any) -> list[JudgedPart]:
        """The result; what was scattered cannot be made again, and a task that needs it may wait for ever."""
        while True:
            try:
                found: list[JudgedPart] = handle.result(timeout=ASK_S)
                return found
            except TimeoutError:
                if handle.status == "pending" and not any(self._client.who_has([self._sent]).values()):
                    raise WorkerLostError("no worker has the reference any more") from None

    def has_result(self, handle: Any) -> bool:
        """As in `Workers`."""
        return bool(handle.status == "finished")

    def renew(self) -> None:
        """As in `Workers`."""
        self._client.wait_for_workers(1)
        self.size = max(1, sum(self._client.nthreads().values()))
        self._sent = self._client.scatter(self._judge, broadcast=True, hash=False)

    def close(self) -> None:
        """As in `Workers`."""
        sent, self._sent = self._sent, None
        with suppress(Exception):  # a cluster that is gone has nothing to end
            sent.release()


def why_not_sendable(judge: Judge) -> str | None:
    """Why a judge cannot be sent to other processes: what it holds is bound to this one; None: it can be."""
    known = [judge.reference, *(() if judge.confirm is None else [judge.confirm.reference])]
    for reference in known:
        if reference.device is not None:
            return f"a reference on {reference.device}"
        try:
            cloudpickle.dumps(reference.descriptor)
        except Exception as exc:  # pickle raises whatever
            return f"{type(reference.descriptor).__name__}: {type(exc).__name__}: {exc}"
    return None


def _judged(judge: PartJudge, tasks: Sequence[Task]) -> list[JudgedPart]:
    return judge(tasks)


def _answer(judge: str, tasks: Sequence[Task], answer: str) -> None:
    """Judge parts by the judge in one file, and write what is found to another one."""
    found = _judge_in(judge)(tasks)
    with Path(answer).open("wb") as file:
        pickle.dump(found, file, protocol=5)


@cache
def _judge_in(file: str) -> PartJudge:
    with Path(file).open("rb") as content:
        judge: PartJudge = cloudpickle.load(content)
    gc.freeze()  # loky collects garbage every second where psutil is not installed, and what is loaded by now is none
    return judge


#: Seconds between looks at whether the process that started this one still lives.
LOOK_S = 1.0


def _begin(parent: int) -> None:
    """Let a new process leave interrupts to the one that started it, and end with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, name="quests_md parent", daemon=True).start()


@contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Start processes that no Ctrl-C reaches, not even while they begin; here it is heard right afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _exit_codes(error: BaseException) -> str:
    """What loky says of how workers ended, in a line."""
    text = str(error)
    codes = text.partition("The exit codes of the workers are ")[2] or text
    return codes.partition("\n")[0].strip().strip("{}")
