"""Those who judge parts of files: processes of this machine, or the workers of a Dask cluster."""

import os
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
from loky import ProcessPoolExecutor

from quests_md._interrupts import uninterrupted
from quests_md.judge import Judge

from .parts_judged import JudgedPart, Task, judge_part

__all__ = ["DaskWorkers", "Here", "Processes", "WorkerLostError", "Workers", "why_not_sendable"]


class WorkerLostError(Exception):
    """A worker has died, or lost what it needs: what it was given must be done again."""


class Workers(Protocol):
    """What parts of files are given to."""

    size: int
    """How many parts are judged at the same time."""

    def submit(self, task: Task) -> Any:
        """Have a part judged; returns what `result` takes."""

    def result(self, handle: Any) -> JudgedPart:
        """Wait for a part; raises WorkerLostError if it must be given again."""

    def has_result(self, handle: Any) -> bool:
        """Whether a part is done, so that nothing of it can be lost any more."""

    def renew(self) -> None:
        """Begin again after workers were lost."""

    def close(self) -> None:
        """End the work that is going on."""


class Here:
    """The thread itself, for what is too little to start a process for."""

    size = 1

    def __init__(self, judge: Judge, *, takes_calculations: bool) -> None:
        self._judge, self._is_torn_apart = judge, takes_calculations

    def submit(self, task: Task) -> Task:
        """As in `Workers`."""
        return task

    def result(self, handle: Task) -> JudgedPart:
        """As in `Workers`."""
        work = partial(judge_part, self._judge, handle)
        return work() if self._is_torn_apart else uninterrupted(work)

    def has_result(self, handle: Task) -> bool:
        """As in `Workers`."""
        return False

    def renew(self) -> None:
        """As in `Workers`."""

    def close(self) -> None:
        """As in `Workers`."""


class Processes:
    """Processes of this machine, which get the judge by a temporary file: it is pickled once, whatever their number.

    They are started by loky: the script of the user is not run again in them, so that it needs no guard
    ``if __name__ == "__main__"``, and what the script defines is sent along.
    """

    def __init__(self, judge: Judge, size: int) -> None:
        self.size = size
        handle, name = tempfile.mkstemp(prefix="quests_md-", suffix=".judge")
        self._file = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                cloudpickle.dump(judge, file, protocol=5)
        except BaseException:
            self._file.unlink(missing_ok=True)
            raise
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, task: Task) -> Future[JudgedPart]:
        """As in `Workers`."""
        with _interrupts_kept_from_children():
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    self.size,
                    timeout=None,
                    initializer=_begin,
                    initargs=(os.getpid(), self._file),
                    # a worker that maps a large reference page by page is no leak
                    env={"LOKY_MAX_MEMORY_LEAK_SIZE": str(2**62)},
                )
            try:
                return self._pool.submit(_judge_part, str(self._file), task)  # type: ignore[no-any-return]
            except BrokenExecutor as exc:
                failed: Future[JudgedPart] = Future()
                failed.set_exception(exc)
                return failed

    def result(self, handle: Future[JudgedPart]) -> JudgedPart:
        """As in `Workers`."""
        try:
            return handle.result()
        except (BrokenExecutor, CancelledError) as exc:
            raise WorkerLostError(_exit_codes(exc)) from None

    def has_result(self, handle: Future[JudgedPart]) -> bool:
        """As in `Workers`."""
        return handle.done() and not handle.cancelled() and handle.exception() is None

    def renew(self) -> None:
        """As in `Workers`."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with warnings.catch_warnings(action="ignore"):  # loky asks for psutil, and kills without it too
                pool.shutdown(wait=True, kill_workers=True)

    def close(self) -> None:
        """As in `Workers`."""
        try:
            self.renew()
        finally:
            self._file.unlink(missing_ok=True)


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

    def __init__(self, client: Any, judge: Judge) -> None:
        self._client, self._judge = client, judge
        client.wait_for_workers(1)
        self.size = 1
        self._sent: Any = None
        self.renew()

    def submit(self, task: Task) -> Any:
        """As in `Workers`."""
        return self._client.submit(judge_part, self._sent, task, pure=False)

    def result(self, handle: Any) -> JudgedPart:
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

    def _waited_for(self, handle: Any) -> JudgedPart:
        """The result of a part; what was scattered cannot be made again, and a part that needs it may wait for ever."""
        while True:
            try:
                found: JudgedPart = handle.result(timeout=ASK_S)
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


#: The judge of this process, and the file that it came from.
_judges: dict[str, Judge] = {}


def _judge_part(file: str, task: Task) -> JudgedPart:
    if file not in _judges:
        with Path(file).open("rb") as content:
            _judges[file] = cloudpickle.load(content)
    return judge_part(_judges[file], task)


#: Seconds between looks at whether the process that started this one still lives.
LOOK_S = 1.0


def _begin(parent: int, file: Path) -> None:
    """Let a new process leave interrupts to the one that started it, and end with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        file.unlink(missing_ok=True)
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
