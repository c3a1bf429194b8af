"""Post-processing: the monitor's chain over the frames of a trajectory, as a stream."""

import os
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from ase import Atoms

from quests_md._threads import available_threads
from quests_md.calibration import Calibration
from quests_md.io import Frame, frame_time_ps, iter_frames
from quests_md.judge import Judged, Values
from quests_md.monitor import Action, Monitor
from quests_md.records import Check
from quests_md.reference import Reference
from quests_md.watch import Trigger

__all__ = ["score_trajectory"]


def score_trajectory(
    path_or_frames: Any,
    reference: Reference,
    calibration: Calibration | None = None,
    *,
    log: str | os.PathLike[str] | None = None,
    workers: int = 1,
    trigger: Trigger | None = None,
    actions: Sequence[Action] = (),
    values: Values = "auto",
    on_error: Literal["log", "raise"] = "raise",
    threads: int | None = None,
    steps: Collection[int] | None = None,
    types: Sequence[str] | None = None,
    monitor: Monitor | None = None,
) -> Iterator[Check]:
    """Check the frames of a trajectory one after the other; the same frames give the same events as live.

    Frames are read as a stream: a trajectory may be longer than memory, compressed, or still growing; if its last
    frame is torn, the complete ones are checked and a warning says so.

    Parameters
    ----------
    path_or_frames
        Anything `Reference.from_frames` reads. The step of a frame is ``info["step"]`` where present, else its count;
        its time ``info["time_ps"]`` or ``info["ps"]``.
    reference, calibration, trigger, actions, values
        As in `Monitor`.
    log
        Name of a JSON-lines log to write; default none.
    workers
        Frames judged at the same time. Never changes the result.
    on_error
        As in `Monitor`; default "raise".
    threads
        Threads per frame; default the cores that the process may use, shared among the workers.
    steps
        Check only frames of these steps, those of a log say (``read_log("run.jsonl").step``): what was seen live.
    types
        A chemical symbol for each LAMMPS type, for dumps that do not name elements, as in `iter_frames`.
    monitor
        A monitor of your own instead of all of the above, whose `events` you can then read.

    Yields
    ------
    check
        One per frame, in order.

    Raises
    ------
    FileFormatError, FileNotFoundError
        If a file is damaged (after the frames before the damage) or missing.
    ValueError, TypeError
        If an argument is not usable.
    """
    if isinstance(workers, bool) or not isinstance(workers, int | np.integer) or workers < 1:
        raise ValueError(f"workers: expected a positive integer, got {workers!r}")
    if workers > 1:
        threads = max(1, available_threads(threads) // int(workers))
        if monitor is not None:
            monitor.judge.set_threads(threads)
    frames = iter_frames(path_or_frames, incomplete="warn", types=types)
    if steps is not None:
        frames = _at(frames, frozenset(int(step) for step in steps))
    own = monitor is None
    if monitor is None:
        monitor = Monitor(
            reference,
            calibration,
            trigger=trigger,
            log=log,
            actions=actions,
            values=values,
            on_error=on_error,
            threads=threads,
        )
    return _checks(frames, monitor, int(workers), close=own)


def _checks(frames: Iterator[Frame], monitor: Monitor, workers: int, *, close: bool) -> Iterator[Check]:
    try:
        for count, (judged, atoms) in enumerate(_judged(frames, monitor, workers)):
            if isinstance(judged, Exception):
                yield monitor.take_failure(
                    judged, atoms, step=_step(atoms, count), frame=count, time_ps=frame_time_ps(atoms)
                )
            else:
                yield monitor.take(judged, atoms)
            if monitor.stopped:
                return
    finally:
        if close:
            monitor.close()


def _at(frames: Iterator[Frame], steps: frozenset[int]) -> Iterator[Frame]:
    """Frames of these steps; where frames do not tell their step it is their count, and they are told it here."""
    for count, frame in enumerate(frames):
        step = _step(frame.atoms, count)
        if step in steps:
            if "step" not in frame.atoms.info:
                atoms = frame.atoms.copy()
                atoms.calc = frame.atoms.calc
                atoms.info["step"] = step
                frame = replace(frame, atoms=atoms)
            yield frame


def _judged(frames: Iterator[Frame], monitor: Monitor, workers: int) -> Iterator[tuple[Judged | Exception, Atoms]]:
    """Frames with their judgement or why there is none, in order; at most two frames per worker are held."""

    def judge(count: int, frame: Frame) -> Judged | Exception:
        atoms = frame.atoms
        try:
            return monitor.judge.judge(atoms, step=_step(atoms, count), frame=count, time_ps=frame_time_ps(atoms))
        except Exception as exc:  # the monitor knows whether to raise it
            return exc

    if workers == 1:
        for count, frame in enumerate(frames):
            yield judge(count, frame), frame.atoms
        return
    waiting: deque[tuple[Future[Judged | Exception], Atoms]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        numbered = enumerate(frames)
        damage: Exception | None = None
        while True:
            try:
                count, frame = next(numbered)
            except StopIteration:
                break
            except Exception as exc:  # a damaged frame does not cost the ones before it
                damage = exc
                break
            waiting.append((pool.submit(judge, count, frame), frame.atoms))
            if len(waiting) >= 2 * workers:
                future, atoms = waiting.popleft()
                yield future.result(), atoms
        while waiting:
            future, atoms = waiting.popleft()
            yield future.result(), atoms
        if damage is not None:
            raise damage


def _step(atoms: Atoms, count: int) -> int:
    step = atoms.info.get("step")
    return int(step) if isinstance(step, int | np.integer) and not isinstance(step, bool) else count
