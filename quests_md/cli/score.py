"""`quests-md score`: score the frames of a trajectory."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from quests_md._arguments import check_integer
from quests_md._progress import track
from quests_md._words import many
from quests_md.calibration import Calibration, calibrate
from quests_md.hosts import score_trajectory
from quests_md.io import count_frames
from quests_md.log import read_log, require_new_log
from quests_md.monitor import Monitor
from quests_md.records import Check, Event
from quests_md.reference import Reference
from quests_md.show import PICTURE_SUFFIXES, check_rows, fold, latest, run_summary, terminal_width, timeline
from quests_md.watch import Trigger, save_frame, sentinel

from .options import (
    FALSE_ALARMS,
    FailOption,
    FramesArgument,
    StatisticsOption,
    ThreadsOption,
    check_frames,
    check_output,
    default_of,
    files_by_name,
    open_reference,
    split_names,
    statistic_names,
)
from .output import exit_after, save_picture, tell

__all__ = ["score_frames"]


def score_frames(
    trajectory: FramesArgument,
    reference: Annotated[
        Path, typer.Option("--reference", "-r", help="Reference file (.safetensors), or frames to build one from.")
    ],
    calibration: Annotated[
        Path | None, typer.Option("--calibration", "-c", help="Calibration file; default: calibrate the reference.")
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(help=f"Asked rate of false alarms per check, without --calibration; default: {FALSE_ALARMS:g}."),
    ] = None,
    statistics: StatisticsOption = None,
    baseline_ps: Annotated[
        float | None, typer.Option(help="Judge mean dH and frame entropy by the first so many ps of the run itself.")
    ] = None,
    max_temperature: Annotated[
        float | None, typer.Option(metavar="K", help="A hotter frame counts as exploded; five times the median always.")
    ] = None,
    phase: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="Labelled phases, first that of the start: liquid=l.safetensors; repeat it."
        ),
    ] = None,
    types: Annotated[
        str | None, typer.Option(help="Elements of the types of a LAMMPS dump that does not name them: Cu,Zr.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Log to write (JSON lines); must not hold a run yet.")] = None,
    save: Annotated[Path | None, typer.Option(help="Append flagged frames to this extended XYZ file.")] = None,
    sentinel_file: Annotated[
        Path | None,
        typer.Option("--sentinel", metavar="FILE", help="Write the gravest event to this file, once there is one."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the timeline to this file; needs --log.")] = None,
    patience: Annotated[int, typer.Option(help="Checks out in a row that open an event.")] = default_of(
        Trigger, "patience"
    ),
    values: Annotated[
        str, typer.Option(help="'full': dH of every atom; 'proven': who is above, faster; 'auto': by size.")
    ] = default_of(Monitor, "values"),
    at: Annotated[
        Path | None, typer.Option(help="Check only the steps of this log: what the monitor saw live.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Frames judged at the same time.")] = default_of(
        score_trajectory, "workers"
    ),
    threads: ThreadsOption = None,
    fail_on_event: FailOption = False,
) -> None:
    """Score the frames of a trajectory. Prints a line per frame (dH in nats), tab-separated if not in a terminal.

    Events and messages go to stderr.
    """
    if plot is not None and log is None:
        raise ValueError("--plot: needs the log; give --log run.jsonl too")
    if calibration is not None and false_alarms is not None:
        raise ValueError("--false-alarms: the calibration file states its own rate; give one of the two")
    _check_outputs(log, save, sentinel_file, plot)
    if threads is not None:
        check_integer("--threads", threads, 1)
    check_frames(trajectory, "expected frames; a reference is given by --reference")
    if log is not None:
        require_new_log(log)
    steps = None if at is None else read_log(at).step.tolist()
    phase_files = files_by_name("--phase", phase or [])
    known = open_reference(reference, threads)
    phases = {name: open_reference(file, threads) for name, file in phase_files.items()}
    actions = [] if save is None else [save_frame(save)]
    with Monitor(
        known,
        _levels(known, calibration, false_alarms, threads),
        statistics=statistic_names(statistics),
        baseline_ps=baseline_ps,
        max_temperature_K=max_temperature,
        phases=phases or None,
        trigger=Trigger(patience=patience),
        log=log,
        actions=actions if sentinel_file is None else [*actions, sentinel(sentinel_file)],
        values=values,  # type: ignore[arg-type]  # checked there
        on_error="raise",
        threads=threads,
    ) as monitor:
        tell(fold(monitor.calibration.describe(), sys.stderr))
        checks = score_trajectory(
            trajectory, known, monitor=monitor, workers=workers, steps=steps, types=split_names(types)
        )
        counts = _print_checks(checks, trajectory)
        events = monitor.events
    tell(f"{many(sum(counts.values()), 'frame')}: {run_summary(counts, events)}")
    _describe_latest(events)
    if plot is not None and log is not None:
        save_picture(timeline(read_log(log)), plot)
    if fail_on_event:
        exit_after(events)


def _check_outputs(log: Path | None, save: Path | None, sentinel_file: Path | None, plot: Path | None) -> None:
    check_output("--log", log)
    check_output("--save", save)
    check_output("--sentinel", sentinel_file)
    if sentinel_file is not None and sentinel_file.exists():
        raise FileExistsError(f"--sentinel: {sentinel_file} is there from an earlier run; remove it")
    check_output("--plot", plot, PICTURE_SUFFIXES)


def _levels(known: Reference, file: Path | None, false_alarms: float | None, threads: int | None) -> Calibration:
    if file is not None:
        return Calibration.load(file)
    return calibrate(known, false_alarms=FALSE_ALARMS if false_alarms is None else false_alarms, threads=threads)


def _print_checks(checks: Iterator[Check], trajectory: list[str]) -> dict[str, int]:
    """Print the checks as they come: in columns on a terminal, else tab-separated; count their states."""
    counts = {"in": 0, "out": 0, "invalid": 0}
    width = terminal_width(sys.stdout)
    if width is None and sys.stderr.isatty():  # in a terminal the lines themselves show how far it is
        checks = track(checks, "scoring frames", count_frames(trajectory))
    for row, check in check_rows(checks, width):
        if check is not None:
            counts[check.state] += 1
        typer.echo(row)
    return counts


def _describe_latest(events: Sequence[Event]) -> None:
    shown = latest(events)
    for event in shown:
        tell(fold(event.describe(), sys.stderr, indent=11))
    if n_more := len(events) - len(shown):
        tell(f"and {many(n_more, 'event')} before: `quests-md events` lists all of a log")
