"""Post-processing: the frames of a trajectory as a run, read as a stream."""

import os
import warnings
from collections.abc import Collection, Generator, Iterator, Sequence
from functools import partial
from typing import Any, Literal, Protocol

from quests_md._arguments import check_positive_integer
from quests_md._threads import available_threads
from quests_md.calibration import GivenCalibration
from quests_md.environments import frame_digest
from quests_md.errors import FileFormatError, MismatchError, UnsuitableFrameError
from quests_md.io import Frame, FramesSeen, PartedFiles, frame_time_ps, is_of_files, iter_frames
from quests_md.judge import Judge, Values
from quests_md.log import Log
from quests_md.records import Check
from quests_md.reference import GivenReference, Reference, differences, fault_of_start, opened_reference
from quests_md.watch import GivenAction, RunSettings, Trigger, Watch, action_files

from .annotating import AnnotatedFile
from .bad_files import BadFiles
from .frames_of_log import chosen_by, frames_of_log, with_step
from .in_parts import judged_by_workers
from .judging import judged_in_order, step_of
from .parts_judged import PartJudge
from .workers import DaskWorkers, Here, Processes, Workers, why_not_sendable

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
    annotate: str | os.PathLike[str] | None = None,
    seen: FramesSeen | None = None,
    topology: str | os.PathLike[str] | None = None,
    client: Any = None,
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
        Processes that read files and judge their frames, each a part of a file; frames in memory are judged by so many
        threads. Never changes the result.
    on_error
        As in `Monitor`; default "raise".
    threads
        Threads per frame; default the cores that the process may use, shared among the workers; 1 for those of Dask.
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
    annotate
        A new file of extended XYZ to which every checked frame is written, with ``delta_entropy``, ``dh_grade`` (see
        `Reference.annotate`), ``above`` and, where local scores are in use, ``local_score`` of all atoms; info has
        `step`, `time_ps`, `state` and more of the check. Frames of state "invalid" have NaN for dH, inf for the grade,
        and all atoms above. With a monitor that goes on with its log, the file goes on too.
    client
        A `distributed.Client`: the workers of its Dask cluster read and judge the files, which they must see under the
        same names. Never changes the result.
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
    FileFormatError, OSError
        If a file is missing, or damaged or not readable: after the frames before the damage, and, where others come
        after that file, after theirs too; a warning names it at its place. If `annotate` holds something already, or
        cannot be written.
    ValueError, TypeError
        If an argument is not usable, or is given beside a monitor that has its own.
    MismatchError
        If the reference given beside a monitor is not the monitor's.
    ChildProcessError
        If workers die of one part of a file again and again.
    """
    workers = check_positive_integer("workers", workers)
    if client is not None:
        _check_client(client, path_or_frames, workers)
        threads = 1 if threads is None else available_threads(threads)
    elif workers > 1:
        threads = max(1, available_threads(threads) // workers)
    reading: dict[str, Any] = {"types": types, "topology": topology}
    files = PartedFiles(path_or_frames, **reading) if _is_shared(path_or_frames, workers, client) else None
    bad_files = BadFiles()
    reading |= {"incomplete": "warn", "bad_file": bad_files.add}
    given = None if files is not None else iter_frames(path_or_frames, **reading)
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
    if annotate is not None:
        watch.tell_atoms()
    judge = watch.settings.judge if threads is None else watch.settings.judge.with_threads(threads)
    why = None if files is None else why_not_sendable(judge)
    if why is not None and client is not None:
        raise TypeError(f"client: its workers cannot be sent {why}; leave client out")
    if why is not None:
        warnings.warn(f"workers: threads judge the frames, since processes cannot be sent {why}", stacklevel=2)
        files, given = None, iter_frames(path_or_frames, **reading)
    first = _first_to_check(watch)
    annotated = None if annotate is None else _annotated_file(annotate, first, watch)
    source: Generator[tuple[int, Frame], None, None]
    if files is not None:
        part_judge = PartJudge(judge, None if steps is None else chosen_by(steps))
        make = partial(_workers, part_judge, client, takes_calculations=watch.settings.calculates)
        source = judged_by_workers(files, make, workers, first, bad_files.add)
    else:
        assert given is not None
        source = _counted(given)
    source = bad_files.told(source)
    frames: Iterator[Frame] = (frame for _, frame in source)
    if steps is not None:
        frames = frames_of_log(frames, steps) if isinstance(steps, Log) else _at(source, frozenset(map(int, steps)))
    frames = _looked_at(
        frames, watch.settings.judge.reference, FramesSeen() if seen is None else seen, is_new=watch.is_new
    )
    if steps is None:
        frames = _at_least_one(frames, path_or_frames)
    frames = _not_in_log(frames, watch)
    n_threads = 1 if files is not None else workers
    return _checks(frames, first, watch, judge, n_threads, source, annotated, close=monitor is None)


def _annotated_file(path: str | os.PathLike[str], first: int, watch: Watch) -> AnnotatedFile:
    """The file of annotated frames; ValueError if the run writes something else to it."""
    others = [*action_files(watch.settings.actions), *([] if watch.log.path is None else [str(watch.log.path)])]
    if any(os.path.realpath(other) == os.path.realpath(path) for other in others):
        raise ValueError(f"annotate: expected a file of its own, got {os.fspath(path)}, to which the run writes too")
    return AnnotatedFile(path, None if watch.is_new else first)


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


def _check_client(client: Any, path_or_frames: Any, workers: int) -> None:
    if not (hasattr(client, "scatter") and hasattr(client, "submit")):
        raise TypeError(f"client: expected a distributed.Client, got {type(client).__name__}")
    if getattr(client, "asynchronous", False):
        raise TypeError("client: expected a synchronous distributed.Client, got one with asynchronous=True")
    if workers != 1:
        raise ValueError(f"workers: expected none beside a client, whose cluster has its own, got {workers}")
    if not is_of_files(path_or_frames):
        raise TypeError("client: expected names of files, which its workers read; write the frames to a file first")


def _is_shared(path_or_frames: Any, workers: int, client: Any) -> bool:
    """Whether processes of their own read the frames."""
    return client is not None or (workers > 1 and is_of_files(path_or_frames))


def _workers(judge: PartJudge, client: Any, n_parts: int, *, takes_calculations: bool) -> Workers:
    """Those who judge `n_parts` parts at the same time."""
    if client is not None:
        return DaskWorkers(client, judge)
    return Processes(judge, n_parts) if n_parts > 1 else Here(judge, takes_calculations=takes_calculations)


def _counted(frames: Iterator[Frame]) -> Generator[tuple[int, Frame], None, None]:
    yield from enumerate(frames)


def _first_to_check(watch: Watch) -> int:
    """The count of the first frame to be checked: of a run that goes on with its log the last one in the log."""
    history = watch.log.history
    last = None if history is None or watch.run is not None else history.last
    if last is None:
        return 0
    return int(last.content["frame"]) + (watch.settings.averaging is not None)  # else the last one is checked again


def _not_in_log(frames: Iterator[Frame], watch: Watch) -> Iterator[Frame]:
    """The frames, of a run that goes on with its log from the first one to be checked."""
    history = watch.log.history
    last = None if history is None or watch.run is not None else history.last
    if history is None or last is None:
        return frames
    return _from_the_last(frames, _first_to_check(watch), last.content, str(history.path))


def _from_the_last(frames: Iterator[Frame], first: int, last: dict[str, Any], log: str) -> Iterator[Frame]:
    known, count = int(last["frame"]), -1
    for count, frame in enumerate(frames):
        if count == known and (step_of(frame.atoms, count), frame_digest(frame.atoms)) != (
            last["step"],
            last["digest"],
        ):
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
    frames: Iterator[Frame],
    first: int,
    watch: Watch,
    judge: Judge,
    threads: int,
    source: Generator[tuple[int, Frame], None, None],
    annotated: AnnotatedFile | None,
    *,
    close: bool,
) -> Iterator[Check]:
    takes_calculations = watch.settings.calculates
    try:
        judgements = judged_in_order(frames, first, judge, threads, takes_calculations)
        for count, (judged, atoms) in enumerate(judgements, first):
            if isinstance(judged, Exception):
                step, time_ps = step_of(atoms, count), frame_time_ps(atoms)
                check = watch.accept_failure(judged, atoms, step=step, frame=count, time_ps=time_ps)
            else:
                check = watch.accept(judged, atoms)
            if annotated is not None:
                annotated.write(watch.settings.judge, atoms, check)
            yield check
            if watch.run is not None and watch.run.stopped:
                return
    finally:
        try:
            source.close()
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
        for doubt in doubts + seen.add(frame, step_of(frame.atoms, seen.n_frames)):
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


def _at(frames: Iterator[tuple[int, Frame]], steps: frozenset[int]) -> Iterator[Frame]:
    """Frames of these steps. A frame that does not tell its step is given its count as its step."""
    for count, frame in frames:
        step = step_of(frame.atoms, count)
        if step in steps:
            yield frame if "step" in frame.atoms.info else with_step(frame, step)
