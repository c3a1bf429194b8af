"""Files of frames judged by workers, a part of a file or several small files each, and brought back in order."""

import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from quests_md._words import many
from quests_md.errors import FileFormatError
from quests_md.io import PartedFiles

from .judging import JudgedFrame
from .parts_judged import JudgedPart, Task
from .workers import WorkerLostError, Workers

__all__ = ["judged_by_workers"]

#: Seconds of work that are given at a time, long beside the cost of sending them: a share of those that the run has
#: taken so far, since at its end some workers wait for the part of another one, and no less and no more than this.
SHARE, LEAST_S, MOST_S = 0.02, 0.05, 0.3

#: Frames of the first parts, and the most of any part.
FIRST_FRAMES, MOST_FRAMES = 4, 1000

#: The most small files that are given at a time.
MOST_FILES = 100

#: Tasks that each worker has before it, or has done and nobody has taken yet.
AHEAD = 3

#: How often a part may cost the worker its life.
MOST_DEATHS = 3


def judged_by_workers(
    files: PartedFiles,
    workers: Callable[[int], Workers],
    size: int,
    n_known: int,
    bad_file: Callable[[Exception], None],
) -> Generator[tuple[int, JudgedFrame], None, None]:
    """Yield the frames of files in order, judged, each with the number of frames before it.

    Parameters
    ----------
    files
        The files.
    workers
        Makes those who judge, given how many parts there are to be judged at the same time.
    size
        The most of them that make sense here.
    n_known
        How many of the first frames are in a log already: these need not be judged.
    bad_file
        As in `iter_frames`.

    Raises
    ------
    FileNotFoundError
        If a worker does not see a file.
    ValueError
        As `iter_frames`.
    ChildProcessError
        If workers die of one part again and again.
    """
    plan = _Plan(files, n_known)
    batches = plan.batches()
    first = list(islice(batches, size))
    pool = workers(len(first))
    results = _in_order(chain(first, batches), pool)
    try:
        for task, found in results:
            if files.is_void(task.part):
                plan.pass_over()
                continue
            told = deque(found.told)
            for i, (number, frame) in enumerate(found.frames):
                while told and told[0][0] <= i:
                    files.warn(task.part, *told.popleft()[1:])
                yield plan.n_read + number, frame
            for _, message, once in told:
                files.warn(task.part, message, once)
            plan.take(found)
            if found.failure is None:
                files.took(task.part, found.n_read, has_ended=found.has_ended)
                continue
            _require_seen(task, found.failure)
            if not isinstance(found.failure, FileFormatError | OSError):
                raise found.failure
            files.leave(task.part)
            bad_file(found.failure)
    finally:
        results.close()
        pool.close()


class _Plan:
    """What parts there are to be judged, how long they should be, and how many frames come before them."""

    def __init__(self, files: PartedFiles, n_known: int) -> None:
        self.n_read = 0
        """Frames of the parts that were taken."""
        self._files, self._n_known = files, n_known
        self._n_given = self._n_taken = 0
        self._n_frames, self._n_files = FIRST_FRAMES, 1  # frames of a part, and small files of a batch
        self._start = time.perf_counter()

    def batches(self) -> Iterator[tuple[Task, ...]]:
        """Yield the tasks in order, those of small files several at a time."""
        batch: tuple[Task, ...] = ()
        for task in self.tasks():
            is_whole = task.part.is_first and task.part.is_last
            if batch and not (is_whole and len(batch) < self._n_files):
                yield batch
                batch = ()
            batch = (*batch, task)
            if not is_whole or len(batch) >= self._n_files:
                yield batch
                batch = ()
        if batch:
            yield batch

    def tasks(self) -> Iterator[Task]:
        """Yield the tasks in order; while they are asked for `take` is called."""
        count: int | None = 0
        for part in self._files.parts(lambda n_atoms: self._n_frames):
            if self._n_given == self._n_taken:  # all before it is known
                count = self.n_read
            known = self._n_known - self.n_read if count is None else self._n_known - count
            self._n_given += 1
            yield Task(part, count, max(0, known))
            count = None if count is None or part.n_frames is None else count + part.n_frames

    def take(self, found: JudgedPart) -> None:
        """Take what was found in the next part."""
        self._n_taken += 1
        self.n_read += found.n_read
        if found.n_read:
            seconds = min(max(LEAST_S, SHARE * (time.perf_counter() - self._start)), MOST_S)
            parts = seconds / max(found.seconds, 1e-9)
            self._n_frames = max(1, min(int(found.n_read * parts), 2 * found.n_read, MOST_FRAMES))
            self._n_files = max(1, min(int(parts), 2 * self._n_files, MOST_FILES))

    def pass_over(self) -> None:
        """Take note of a part beyond the end of its file."""
        self._n_taken += 1


@dataclass(slots=True)
class _Given:
    """Tasks that were given to a worker."""

    tasks: tuple[Task, ...]
    handle: Any
    """What the workers know it by; None: it is to be given again."""


def _in_order(batches: Iterator[tuple[Task, ...]], pool: Workers) -> Generator[tuple[Task, JudgedPart], None, None]:
    """Yield what workers find, in the order of the tasks, a few batches of which are given out at the same time.

    Where workers die, what they had is given again; if they die again, one part at a time, so that the one that kills
    them is found.
    """
    given: deque[_Given] = deque()
    n_deaths, n_alone = 0, 0  # of the batch that is next; batches to be given one at a time
    try:
        while True:
            while not n_alone and len(given) < AHEAD * pool.size and (batch := next(batches, None)) is not None:
                given.append(_Given(batch, pool.submit(batch)))
            if not given:
                return
            head = given[0]
            if head.handle is None:
                head.handle = pool.submit(head.tasks)
            try:
                found = pool.result(head.handle)
            except WorkerLostError as exc:
                n_deaths += 1
                if n_alone and n_deaths >= MOST_DEATHS:
                    raise ChildProcessError(_killer(head.tasks[0], n_deaths, exc)) from None
                _say_lost(head.tasks[0], exc)
                for other in given:
                    if other.handle is not None and not pool.has_result(other.handle):
                        other.handle = None
                pool.renew()
                if n_deaths > 1:
                    given = deque(single for batch in given for single in _singles(batch))
                n_alone = len(given) if n_deaths > 1 else 0
                for other in () if n_alone else given:
                    other.handle = pool.submit(other.tasks) if other.handle is None else other.handle
                continue
            n_deaths, n_alone = 0, max(0, n_alone - 1)
            given.popleft()
            head.handle = None
            yield from zip(head.tasks, found, strict=True)
    finally:
        given.clear()


def _singles(given: _Given) -> list[_Given]:
    """Tasks that are to be given again, each by itself."""
    return [given] if given.handle is not None else [_Given((task,), None) for task in given.tasks]


def _require_seen(task: Task, failure: Exception) -> None:
    """Raise FileNotFoundError if a worker does not see a file that is there."""
    part = task.part
    if isinstance(failure, FileNotFoundError) and Path(part.path).exists():
        raise FileNotFoundError(
            f"{part.source.name}: a worker does not see this file ({part.path}); workers on other machines must see "
            "the files under the same names"
        ) from failure


def _say_lost(task: Task, why: WorkerLostError) -> None:
    message = f"a worker has died ({why}); what it had is judged again, from {task.part.described()} on"
    warnings.warn(message, stacklevel=2)


def _killer(task: Task, n_deaths: int, why: WorkerLostError) -> str:
    return (
        f"{task.part.described()}: {many(n_deaths, 'worker')} died of it, one after the other ({why}); did they run "
        "out of memory? Give fewer workers, or judge that file alone"
    )
