"""Files of frames judged by workers, a part of a file each, and brought back in order."""

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

from .frames_of_log import Chosen
from .judging import JudgedFrame
from .parts_judged import JudgedPart, Task
from .workers import WorkerLostError, Workers

__all__ = ["judged_by_workers"]

#: Seconds that a part should take: long beside what it costs to send it, short where a run is to end.
PART_S = 0.3

#: Frames of the first parts, and the most of any part.
FIRST_FRAMES, MOST_FRAMES = 4, 1000

#: Parts that each worker has before it, or has done and nobody has taken yet.
AHEAD = 3

#: How often a part may cost the worker its life.
MOST_DEATHS = 3


def judged_by_workers(
    files: PartedFiles,
    workers: Callable[[int], Workers],
    size: int,
    chosen: Chosen | None,
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
    chosen
        Frames that are checked; others need not come. None: all.
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
    plan = _Plan(files, chosen, n_known)
    tasks = plan.tasks()
    first = list(islice(tasks, size))
    pool = workers(len(first))
    results = _in_order(chain(first, tasks), pool)
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

    def __init__(self, files: PartedFiles, chosen: Chosen | None, n_known: int) -> None:
        self.n_read = 0
        """Frames of the parts that were taken."""
        self._files, self._chosen, self._n_known = files, chosen, n_known
        self._n_given = self._n_taken = 0
        self._n_frames = FIRST_FRAMES

    def tasks(self) -> Iterator[Task]:
        """Yield the tasks in order; while they are asked for `take` is called."""
        count: int | None = 0
        for part in self._files.parts(lambda n_atoms: self._n_frames):
            if self._n_given == self._n_taken:  # all before it is known
                count = self.n_read
            known = self._n_known - self.n_read if count is None else self._n_known - count
            self._n_given += 1
            yield Task(part, self._chosen, count, max(0, known))
            count = None if count is None or part.n_frames is None else count + part.n_frames

    def take(self, found: JudgedPart) -> None:
        """Take what was found in the next part."""
        self._n_taken += 1
        self.n_read += found.n_read
        if found.n_read:
            by_time = int(found.n_read * PART_S / max(found.seconds, 1e-9))
            self._n_frames = max(1, min(by_time, 2 * found.n_read, MOST_FRAMES))

    def pass_over(self) -> None:
        """Take note of a part beyond the end of its file."""
        self._n_taken += 1


@dataclass(slots=True)
class _Given:
    """A task that was given to workers."""

    task: Task
    handle: Any
    """What the workers know it by; None: it is to be given again."""


def _in_order(tasks: Iterator[Task], pool: Workers) -> Generator[tuple[Task, JudgedPart], None, None]:
    """Yield what workers find, in the order of the tasks, a few of which are given out at the same time.

    Where workers die, what they had is given again; if they die again, one part at a time, so that the one that kills
    them is found.
    """
    given: deque[_Given] = deque()
    n_deaths, n_alone = 0, 0  # of the part that is next; parts to be given one at a time
    try:
        while True:
            while not n_alone and len(given) < AHEAD * pool.size and (task := next(tasks, None)) is not None:
                given.append(_Given(task, pool.submit(task)))
            if not given:
                return
            head = given[0]
            if head.handle is None:
                head.handle = pool.submit(head.task)
            try:
                found = pool.result(head.handle)
            except WorkerLostError as exc:
                n_deaths += 1
                if n_alone and n_deaths >= MOST_DEATHS:
                    raise ChildProcessError(_killer(head.task, n_deaths, exc)) from None
                _say_lost(head.task, exc)
                for other in given:
                    if other.handle is not None and not pool.has_result(other.handle):
                        other.handle = None
                pool.renew()
                n_alone = len(given) if n_deaths > 1 else 0
                for other in () if n_alone else given:
                    other.handle = pool.submit(other.task) if other.handle is None else other.handle
                continue
            n_deaths, n_alone = 0, max(0, n_alone - 1)
            given.popleft()
            head.handle = None
            yield head.task, found
    finally:
        given.clear()


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
