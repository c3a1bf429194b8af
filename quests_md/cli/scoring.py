"""The command that scores trajectories."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from quests_md._arguments import check_integer
from quests_md._files import file_size
from quests_md._progress import track
from quests_md._words import many
from quests_md.calibration import STATISTICS, Calibration, calibrate
from quests_md.errors import FileFormatError
from quests_md.hosts import score_trajectory
from quests_md.io import FramesSeen, count_frames, fault_of_annotated_file
from quests_md.log import read_log, require_new_log
from quests_md.monitor import Monitor
from quests_md.records import Check
from quests_md.show import (
    PICTURE_SUFFIXES,
    check_rows,
    fold,
    latest,
    log_summary,
    run_summary,
    terminal_width,
    timeline,
)
from quests_md.watch import save_frame, sentinel

from .arguments import (
    FramesArgument,
    ThreadsOption,
    TopologyOption,
    TypesOption,
    check_apart,
    check_frames,
    check_output,
    count_there,
    default_of,
    open_reference,
    put,
    save_picture,
    split_elements,
    tell,
)
from .exit_codes import FailOption, exit_after
from .run_options import (
    VALUES,
    BaselineOption,
    CalibrationOption,
    FalseAlarmsOption,
    PatienceOption,
    PhaseOption,
    ReferenceOption,
    SaveOption,
    SentinelOption,
    TemperatureOption,
    ValuesOption,
    VisitsOption,
    check_event_files,
    check_settings,
    files_by_name,
    trigger_of,
)
from .statistics import StatisticsOption, statistic_names

__all__ = ["score_frames"]

#: How names of files of annotated frames may end, so that other programs know what they are.
FRAME_SUFFIXES = (".extxyz", ".xyz")

#: Why a frame has no largest dH, and what the numbers beside alarms are.
NO_LARGEST = {
    True: "of such frames it is found who is above the level, and no dH of those that are not",
    False: "local scores raise the alarms, and dH of frames of this size is not computed beside them",
}
OUT_BY = "how far beyond its level, in nats or deviations as the level; of counts of atoms, the log of the ratio"


def score_frames(
    trajectory: FramesArgument,
    reference: ReferenceOption,
    calibration: CalibrationOption = None,
    false_alarms: FalseAlarmsOption = None,
    statistics: StatisticsOption = None,
    baseline_ps: BaselineOption = None,
    max_temperature: TemperatureOption = None,
    phase: PhaseOption = None,
    types: TypesOption = None,
    topology: TopologyOption = None,
    log: Annotated[Path | None, Option(help="Log to write (JSON lines); must not hold a run yet.")] = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on with the run in the log: frames that it has are not checked again.")
    ] = False,
    save: SaveOption = None,
    annotate: Annotated[
        Path | None,
        Option(help="Write every frame with dH and grade of its atoms to this new extended XYZ file (.extxyz)."),
    ] = None,
    sentinel_file: SentinelOption = None,
    plot: Annotated[Path | None, Option(help="Draw the timeline to this file; needs --log.")] = None,
    patience: PatienceOption = None,
    visits: VisitsOption = None,
    values: ValuesOption = VALUES,
    at: Annotated[Path | None, Option(help="Check only the frames of this log: what the monitor saw live.")] = None,
    workers: Annotated[
        int, Option(help="Processes that read the files and judge their frames; the result is the same.")
    ] = default_of(score_trajectory, "workers"),
    dask: Annotated[
        str | None,
        Option(metavar="ADDRESS", help="Dask scheduler whose workers do that: tcp://host:8786, or its scheduler file."),
    ] = None,
    threads: ThreadsOption = None,
    fail_on_event: FailOption = False,
) -> None:
    """Score the frames of a trajectory.

    Prints a line per frame (dH in nats, local scores in deviations), tab-separated if not in a terminal.

    Events and messages go to stderr.
    """
    if plot is not None and log is None:
        raise ValueError("--plot: needs the log; give --log run.jsonl too")
    if resume and log is None:
        raise ValueError("--resume: needs the log of the run; give --log run.jsonl too")
    phase_files = files_by_name("--phase", phase or [])
    check_apart(
        {"--log": log, "--save": save, "--annotate": annotate, "--sentinel": sentinel_file, "--plot": plot},
        [*trajectory, reference, calibration, topology, at, *phase_files.values()],
    )
    check_output("--log", log)
    check_output("--annotate", annotate, FRAME_SUFFIXES)
    if annotate is not None and (fault := fault_of_annotated_file(annotate, goes_on=resume)):
        raise FileFormatError(f"--annotate: {annotate}: {fault}; choose another name")
    check_event_files(save, sentinel_file, goes_on=resume)
    check_output("--plot", plot, PICTURE_SUFFIXES)
    check_integer("--workers", workers, 1)
    if dask is not None and workers != 1:
        raise ValueError("--workers: those of --dask are meant by --dask alone; give one of the two")
    rate = check_settings(calibration, false_alarms, baseline_ps, max_temperature, values, threads)
    names, elements = statistic_names(statistics), split_elements(types, "--types")
    trigger = trigger_of(patience, visits)
    check_frames(trajectory, "expected frames; a reference is given by --reference")
    if log is not None and not resume:
        require_new_log(log)
    saved_before = 0 if save is None else file_size(str(save))
    steps = None if at is None else read_log(at)
    given_levels = None if calibration is None else Calibration.load(calibration)
    is_shared = dask is not None or workers > 1  # mapped files are shared by processes, and sent by their names
    known = open_reference(reference, threads, mmap=is_shared, types=elements, topology=topology)
    phases = {name: open_reference(file, threads, mmap=is_shared) for name, file in phase_files.items()}
    levels = given_levels or calibrate(known, false_alarms=rate, threads=threads)
    actions = [] if save is None else [save_frame(save)]
    broken: Exception | None = None
    with (
        _dask_client(dask) as client,
        Monitor(
            known,
            levels,
            statistics=names,
            baseline_ps=baseline_ps,
            max_temperature_K=max_temperature,
            phases=phases or None,
            trigger=trigger,
            log=log,
            actions=actions if sentinel_file is None else [*actions, sentinel(sentinel_file)],
            values=values,  # type: ignore[arg-type]  # checked there
            on_error="raise",
            threads=threads,
            resume=resume,
            verbose=False,  # events are told below
        ) as monitor,
    ):
        tell(fold(monitor.calibration.describe(), sys.stderr))
        seen = FramesSeen()
        checks = score_trajectory(
            trajectory,
            known,
            monitor=monitor,
            workers=workers,
            client=client,
            steps=steps,
            types=elements,
            annotate=annotate,
            seen=seen,
            topology=topology,
        )
        counts = {"in": 0, "out": 0, "invalid": 0}
        try:
            _print_checks(checks, trajectory, monitor.calibration.statistics, counts)
        except (FileFormatError, FileNotFoundError, PermissionError) as exc:  # what could be read is told first
            broken = exc
        events = monitor.events
    tell(fold(f"read: {seen.describe(count_there(trajectory))}", sys.stderr, indent=6))
    tell(f"{many(sum(counts.values()), 'frame')}{' checked now' if resume else ''}: {run_summary(counts, events)}")
    if resume and log is not None:
        tell(f"{log}: {log_summary(read_log(log))}")
    if annotate is not None:
        grade = "" if monitor.calibration.lacks_dh else ", dh_grade"
        tell(f"--annotate: {annotate} has delta_entropy{grade} and above of all atoms, beside {known.fingerprint}")
    if save is not None and file_size(str(save)) == saved_before:
        why = "frames of explosions are not saved" if events and not resume else f"no {'new ' * resume}event"
        tell(f"--save: {why}, {save} was {'left as it is' if save.exists() else 'not written'}")
    for event in latest(events):
        tell(fold(event.describe(), sys.stderr, indent=11))
    if n_more := len(events) - len(latest(events)):
        tell(f"and {many(n_more, 'event')} before: `quests-md events` lists all of a log")
    if plot is not None and log is not None:
        save_picture(timeline(read_log(log)), plot)
    if broken is not None:
        raise broken
    exit_after(events, fail_on_event)


@contextmanager
def _dask_client(address: str | None) -> Iterator[Any]:
    """A client of the Dask scheduler at an address or named in a file; None for None."""
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("--dask: needs Dask, which is not installed: pip install 'quests_md[dask]'") from None
    is_file = Path(address).is_file()
    try:
        client: Any = Client(scheduler_file=address) if is_file else Client(address)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as exc:
        raise ValueError(
            f"--dask: no Dask scheduler answers at {address} ({exc}); expected tcp://host:8786 as `dask scheduler` "
            "prints, or the file of its --scheduler-file"
        ) from exc
    with client:
        tell(f"Dask at {client.scheduler.address}: {many(len(client.nthreads()), 'worker')}")
        yield client


def _print_checks(
    checks: Iterator[Check], trajectory: list[str], statistics: Sequence[str], counts: dict[str, int]
) -> None:
    """Print the checks as they come: in columns on a terminal, else tab-separated; count their states."""
    has_blank = False
    width = terminal_width(sys.stdout)
    if width is None and sys.stderr.isatty():  # in a terminal the lines themselves show how far it is
        checks = track(checks, "scoring frames", count_frames(trajectory))
    for row, check in check_rows(checks, width, statistics):
        if check is not None:
            counts[check.state] += 1
            has_blank |= check.dh_max is None and check.state != "invalid"
        put(row)
    if has_blank:
        is_plain = any(STATISTICS[name].scale == "plain" for name in statistics)
        tell(f"no dh_max: {NO_LARGEST[is_plain]}; --values full gives it")
    if counts["out"] and width is not None:
        tell(f"out by: {OUT_BY}")
