"""Post-processing: the frames of a trajectory as a run, read as a stream."""

import os
import warnings
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Protocol

from ase import Atoms

from quests_md._arguments import check_positive_integer, is_integer
from quests_md._interrupts import uninterrupted
from quests_md._threads import available_threads
from quests_md.calibration import GivenCalibration
from quests_md.environments import frame_digest
from quests_md.errors import FileFormatError, FrameError, MismatchError, UnsuitableFrameError
from quests_md.io import Frame, FramesSeen, frame_time_ps, iter_frames
from quests_md.judge import Judge, Judged, Values
from quests_md.log import Log
from quests_md.records import Check, FramePlace
from quests_md.reference import GivenReference, Reference, differences, fault_of_start, opened_reference
from quests_md.watch import GivenAction, RunSettings, Trigger, Watch

from .frames_of_log import frames_of_log, with_step

__all__ = ["score_trajectory"]


class Watched(Protocol):
    """A `Monitor`, as far as it is asked here."""

    watch: Watch


def score_trajectory(
    path_or_frames: Any,
    reference: GivenReference | None = None,
    calibration: GivenCalibration | None = None,
    *,
    log: str | os.PathLike[str] | None = None,
    workers: int = 1,
    trigger: Trigger | None = None,
    actions: Sequence[GivenAction] = (),
    values: Values = "auto",
    on_error: Literal["log", "raise"] = "raise",
    threads: int | None = None,
    steps: Collection[int] | Log | None = None,
    types: Sequence[str] | None = None,
    monitor: Watched | None = None,
    seen: FramesSeen | None = None,
    topology: str | os.PathLike[str] | None = None,
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
        Check only frames of these steps, where a frame that tells none has its count; or the log of a live run
        (``read_log("run.jsonl")``), and the frames that it has checked are: found by their steps, or, where they tell
        none, by their checksums.
    types
        A chemical symbol for each LAMMPS type, for dumps that do not name elements.
    topology
        A file with the elements of the atoms, for trajectories without (xtc, trr, dcd, NetCDF); needs MDAnalysis.
    monitor
        A `Monitor` of your own, whose `events` you can then read, in the place of `reference`, `calibration`, `log`,
        `trigger`, `actions`, `values` and `on_error`, which are the monitor's. With ``resume=True`` it goes on with its
        log: frames that the log has already are read but not checked again, except for the last of them.
    seen
        Takes what the frames are (`quests_md.io.FramesSeen`), to be asked afterwards.

    Warnings before the first check tell how the boundaries of the run differ from those of the reference; later ones
    tell of boundaries that change and steps that go back. Frames of files that hold no atoms are left out.

    Yields
    ------
    check
        One per frame, in order.

    Raises
    ------
    FileFormatError, FileNotFoundError
        If a file is damaged (after the frames before the damage) or missing.
    ValueError, TypeError
        If an argument is not usable, or is given beside a monitor that has its own.
    MismatchError
        If the reference given beside a monitor is not the monitor's.
    """
    workers = check_positive_integer("workers", workers)
    if workers > 1:
        threads = max(1, available_threads(threads) // workers)
    frames = iter_frames(path_or_frames, incomplete="warn", types=types, topology=topology)
    if steps is not None:
        frames = frames_of_log(frames, steps) if isinstance(steps, Log) else _at(frames, frozenset(map(int, steps)))
    if monitor is None:
        if reference is None:
            raise TypeError(
                "reference: expected a Reference, got None; make one with Reference.from_frames or Reference.load, or "
                "give a monitor"
            )
        settings: dict[str, Any] = {"trigger": trigger, "actions": actions, "values": values, "threads": threads}
        resolve = partial(RunSettings.resolve, reference, calibration, **settings, stacklevel=4)
        watch = Watch(resolve, log=log, on_error=on_error)
    else:
        own = {"calibration": calibration, "log": log, "trigger": trigger, "actions": actions or None}
        own |= {"values": None if values == "auto" else values, "on_error": None if on_error == "raise" else on_error}
        _require_nothing_beside(monitor.watch, reference, own)
        watch = monitor.watch
        if watch.budget is not None:
            message = "budget: every frame is checked, whatever it costs; give steps=, or fewer frames"
            warnings.warn(message, stacklevel=2)
    frames = _looked_at(
        frames, watch.settings.judge.reference, FramesSeen() if seen is None else seen, is_new=watch.is_new
    )
    if steps is None:
        frames = _at_least_one(frames, path_or_frames)
    judge = watch.settings.judge if threads is None else watch.settings.judge.with_threads(threads)
    frames, first = _not_in_log(frames, watch)
    return _checks(frames, first, watch, judge, workers, close=monitor is None)


def _require_nothing_beside(watch: Watch, given: GivenReference | None, settings: dict[str, Any]) -> None:
    """Refuse settings beside a monitor that has its own."""
    own = [name for name, value in settings.items() if value is not None]
    if own:
        raise ValueError(
            f"{own[0]}: expected no other settings beside a monitor, which has its own, got {settings[own[0]]!r}; "
            f"give {own[0]} to the Monitor, or leave monitor out"
        )
    known = watch.settings.judge.reference
    if given is None or given is known:
        return
    reference = opened_reference(given)
    if reference.fingerprint != known.fingerprint:
        raise MismatchError(
            f"reference: expected that of the monitor, {known.fingerprint}, got {reference.fingerprint}; leave it out"
        )


def _not_in_log(frames: Iterator[Frame], watch: Watch) -> tuple[Iterator[Frame], int]:
    """The frames, and the count of the first: of a run that goes on with its log, from the last one in the log on."""
    history = watch.log.history
    last = None if history is None or watch.run is not None else history.last
    if history is None or last is None:
        return frames, 0
    first = int(last.content["frame"]) + (watch.settings.averaging is not None)  # else the last one is checked again
    return _from_the_last(frames, first, last.content, str(history.path)), first


def _from_the_last(frames: Iterator[Frame], first: int, last: dict[str, Any], log: str) -> Iterator[Frame]:
    known, count = int(last["frame"]), -1
    for count, frame in enumerate(frames):
        if count == known and (_step(frame.atoms, count), frame_digest(frame.atoms)) != (last["step"], last["digest"]):
            raise MismatchError(
                f"resume: the last check of {log}, number {known + 1}, is of another frame (step {last['step']}) than "
                f"frame {frame.index} of {frame.source}; give the frames of that run, or another log"
            )
        if count >= first:
            yield frame
    if count < known:
        raise MismatchError(
            f"resume: {log} has {known + 1} checks, but there are {count + 1} frames; give the frames of that run"
        )


def _checks(
    frames: Iterator[Frame], first: int, watch: Watch, judge: Judge, workers: int, *, close: bool
) -> Iterator[Check]:
    takes_calculations = watch.settings.calculates
    try:
        for count, (judged, atoms) in enumerate(_judged(frames, first, judge, workers, takes_calculations), first):
            if isinstance(judged, Exception):
                step, time_ps = _step(atoms, count), frame_time_ps(atoms)
                yield watch.accept_failure(judged, atoms, step=step, frame=count, time_ps=time_ps)
            else:
                yield watch.accept(judged, atoms)
            if watch.run is not None and watch.run.stopped:
                return
    finally:
        if close:
            watch.close()


def _looked_at(frames: Iterator[Frame], reference: Reference, seen: FramesSeen, *, is_new: bool) -> Iterator[Frame]:
    """The frames, with warnings of what is strange about them as a run; `is_new`: none was checked before.

    Raises FileFormatError, or UnsuitableFrameError for Atoms in memory, for a first frame that none can begin with.
    """
    for frame in frames:
        if frame.source != "memory" and len(frame.atoms) == 0:
            if not seen.empty:
                _warn(f"{frame.source}, frame {frame.index} holds no atoms; such frames are left out")
            seen.empty += 1
            continue
        if is_new and not seen.n_frames and (fault := fault_of_start(reference, frame.atoms)) is not None:
            kind = UnsuitableFrameError if frame.source == "memory" else FileFormatError
            raise kind(f"{frame.source}: frame {frame.index}: {fault}")
        doubts = [] if seen.n_frames else differences(reference, frame.atoms)
        for doubt in doubts + seen.add(frame, _step(frame.atoms, seen.n_frames)):
            _warn(doubt)
        yield frame


def _at_least_one(frames: Iterator[Frame], given: Any) -> Iterator[Frame]:
    """The frames; FileFormatError at the end if files hold none that can be read. What is wrong with each was said."""
    n = 0
    for frame in frames:
        n += 1
        yield frame
    names = [given] if isinstance(given, str | os.PathLike) else given if isinstance(given, list | tuple) else []
    files = [os.fsdecode(name) for name in names if isinstance(name, str | os.PathLike)]
    if files and not n:
        raise FileFormatError(f"{', '.join(files)}: no frame can be read")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _at(frames: Iterator[Frame], steps: frozenset[int]) -> Iterator[Frame]:
    """Frames of these steps. A frame that does not tell its step is given its count as its step."""
    for count, frame in enumerate(frames):
        step = _step(frame.atoms, count)
        if step in steps:
            yield frame if "step" in frame.atoms.info else with_step(frame, step)


def _judged(
    frames: Iterator[Frame], first: int, judge: Judge, workers: int, takes_calculations: bool
) -> Iterator[tuple[Judged | Exception, Atoms]]:
    """Frames with their judgement or why there is none, in order; at most two frames per worker are held.

    Where a judgement takes calculations of the user's own, and there is one worker, the work is done in this thread.
    """

    def judged(count: int, frame: Frame) -> Judged | Exception:
        atoms = frame.atoms
        try:
            found = judge.judge(atoms, step=_step(atoms, count), frame=count, time_ps=frame_time_ps(atoms))
            return (
                found
                if frame.source == "memory"
                else replace(found, check=replace(found.check, place=FramePlace(frame.source, frame.index)))
            )
        except Exception as exc:  # the monitor knows whether to raise it
            return exc if frame.source == "memory" else _told(exc, f"{frame.source}, frame {frame.index}")

    if workers == 1:
        for count, frame in enumerate(frames, first):
            work = partial(judged, count, frame)
            yield (work() if takes_calculations else uninterrupted(work)), frame.atoms
        return
    waiting: deque[tuple[Future[Judged | Exception], Atoms]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        damage: Exception | None = None
        try:
            for count, frame in enumerate(frames, first):
                waiting.append((pool.submit(judged, count, frame), frame.atoms))
                if len(waiting) >= 2 * workers:
                    future, atoms = waiting.popleft()
                    yield future.result(), atoms
        except Exception as exc:  # a damaged frame does not cost the ones before it
            damage = exc
        for future, atoms in waiting:
            yield future.result(), atoms
        if damage is not None:
            raise damage


def _told(error: Exception, place: str) -> Exception:
    """The error with the place of the frame that it is of."""
    if isinstance(error, FrameError):
        return type(error)(f"{place}: {error}")
    error.add_note(f"at {place}")
    return error


def _step(atoms: Atoms, count: int) -> int:
    step: Any = atoms.info.get("step")
    return int(step) if is_integer(step) else count
