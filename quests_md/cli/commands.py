"""The commands but for the demo: each checks its options, calls one function of the library, and prints or writes."""

import sys
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Exit, Option

from quests_md._arguments import check_bandwidth, check_choice, check_integer, check_positive, check_share
from quests_md._file_kinds import fault_of_sentinel, mistaken_for
from quests_md._files import file_size
from quests_md._json import dumps
from quests_md._progress import track
from quests_md._words import many, one_line
from quests_md.calibration import (
    DEFAULT_STATISTICS,
    STATISTICS,
    Calibration,
    calibrate,
    power,
    sight,
)
from quests_md.environments import Descriptor
from quests_md.errors import FileFormatError
from quests_md.hosts import score_trajectory
from quests_md.io import FramesSeen, count_frames, fault_of_flagged_file
from quests_md.log import Log, read_log, require_new_log
from quests_md.monitor import Monitor
from quests_md.records import KINDS, Check, Event
from quests_md.reference import Reference
from quests_md.show import (
    PICTURE_SUFFIXES,
    check_rows,
    cluster_growth,
    event_rows,
    fold,
    latest,
    log_summary,
    null_distributions,
    power_rows,
    run_summary,
    terminal_width,
    timeline,
)
from quests_md.watch import Trigger, save_frame, sentinel

from .arguments import (
    REFERENCE_SUFFIX,
    ForceOption,
    FramesArgument,
    GroupsOption,
    ThreadsOption,
    TopologyOption,
    check_apart,
    check_frames,
    check_output,
    count_there,
    default_of,
    open_reference,
    put,
    split_elements,
    split_names,
    tell,
)
from .growing import print_reference, save_with_scores

if TYPE_CHECKING:  # importing matplotlib takes half a second
    from matplotlib.figure import Figure

__all__ = ["ExitCode", "build", "info", "list_events", "score_frames", "set_levels"]

FailOption = Annotated[
    bool, Option("--fail-on-event", help="Exit with 3 after an event (novel or transition), 4 after an explosion.")
]
StatisticsOption = Annotated[
    str | None,
    Option(
        help=f"Numbers that raise alarms: 'all', or some of {', '.join(STATISTICS)}, with commas "
        f"between; default: {','.join(DEFAULT_STATISTICS)}."
    ),
]


class ExitCode(IntEnum):
    """How a command ended, unless all was fine (0)."""

    BROKEN_PIPE = 1
    BAD_INPUT = 2
    EVENT = 3
    EXPLODED = 4
    INTERRUPTED = 130


#: Why a frame has no largest dH, and what the numbers beside alarms are.
NO_LARGEST = {
    True: "of such frames it is found who is above the level, and no dH of those that are not",
    False: "local scores raise the alarms, and dH of frames of this size is not computed beside them",
}
OUT_BY = "how far beyond its level, in nats or deviations as the level; of counts of atoms, the log of the ratio"

#: Warnings of a log that are shown, and letters of each.
MOST_NOTES, LONGEST_NOTE = 20, 1000

#: Bandwidth in 1/Å unless one is given, in words.
DEFAULT_BANDWIDTHS = f"{Descriptor().bandwidth}, of averaged rows {Descriptor(average=12).bandwidth}"

#: Rate of false alarms that is asked for unless another one is given.
FALSE_ALARMS: float = default_of(calibrate, "false_alarms")


def build(
    frames: FramesArgument,
    output: Annotated[Path, Option("--output", "-o", help="Reference file to write.")] = Path("reference.safetensors"),
    k: Annotated[int, Option(help="Neighbours per environment.")] = Descriptor().k,
    cutoff: Annotated[float, Option(help="Cutoff radius in Å.")] = Descriptor().cutoff,
    elements: Annotated[str | None, Option(help="Resolve neighbours by these elements: Nb,Mo.")] = None,
    centers: Annotated[str | None, Option(help="Only environments of these elements: O.")] = None,
    neighbors: Annotated[str | None, Option(help="Only neighbours of these elements: O.")] = None,
    average: Annotated[int | None, Option(help="Average rows over so many nearest neighbours: 12.")] = None,
    chemistry: Annotated[bool, Option("--chemistry", help="See which element sits where, any number of them.")] = False,
    bandwidth: Annotated[
        str | None, Option(help=f"Bandwidth h in 1/Å, or 'auto'; default: {DEFAULT_BANDWIDTHS}.")
    ] = None,
    match: Annotated[str, Option(help="'element': compare like with like; 'any': geometry alone.")] = default_of(
        Reference.from_frames, "match"
    ),
    groups: GroupsOption = None,
    types: Annotated[
        str | None, Option(help="Elements of atom types, for LAMMPS files that do not name them: Cu,Zr.")
    ] = None,
    skip_bad: Annotated[
        bool, Option("--skip-bad", help="Leave out frames that cannot be used, and list them.")
    ] = False,
    topology: TopologyOption = None,
    force: ForceOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Build a reference from frames. Environments are held out to set levels; both go to one file."""
    check_frames(frames, "expected frames; did you mean -o {}? (references are merged by `quests-md reference merge`)")
    check_apart({"--output": output}, [*frames, topology])
    check_output("--output", output, (REFERENCE_SUFFIX,), force=force)
    names = {
        "elements": split_elements(elements, "--elements"),
        "centers": split_elements(centers, "--centers"),
        "neighbors": split_elements(neighbors, "--neighbors"),
    }
    of_types = split_elements(types, "--types")
    reference = Reference.from_frames(
        frames,
        descriptor=Descriptor(k=k, cutoff=cutoff, average=average, chemistry=chemistry, **names),
        bandwidth=_bandwidth(bandwidth),
        match=match,  # type: ignore[arg-type]  # checked there
        groups=groups,
        types=of_types,
        skip_bad=skip_bad,
        topology=topology,
        threads=threads,
    )
    save_with_scores(reference, output, threads)


def info(
    file: Annotated[Path, Argument(metavar="FILE", help="Reference file.")],
    verify: Annotated[bool, Option("--verify", help="Compare the content with its checksums.")] = False,
) -> None:
    """Say what a reference file holds and what level it supports."""
    if verify:
        Reference.verify(file)
    reference = Reference.load(file)
    print_reference(reference)
    auto = reference.auto_bandwidth()
    found = f"{auto} 1/Å" if auto else "none between 0.003 and 0.3 1/Å, as is usual for crystals"
    put(fold(f"likeliest h {found} (--bandwidth auto)", sys.stdout, indent=12))
    if verify:
        put("content     equals the checksums written at save")


def set_levels(
    reference: Annotated[
        Path, Argument(metavar="REFERENCE", help="Reference file (.safetensors), or frames to build one from.")
    ],
    output: Annotated[Path | None, Option("--output", "-o", help="Calibration file to write (JSON).")] = None,
    false_alarms: Annotated[float, Option(help="Asked rate of false alarms, above 0 and below 1.")] = FALSE_ALARMS,
    per: Annotated[str, Option(help="What the rate counts: check, ns or run.")] = default_of(calibrate, "per"),
    statistics: StatisticsOption = None,
    checks: Annotated[int | None, Option(help="Checks in a run (or ns), with --per run (or ns).")] = None,
    groups: Annotated[str | None, Option(help="'frame' or 'file'; default: the groups of the reference.")] = None,
    frames: Annotated[
        list[str] | None,
        Option(metavar="FRAMES", help="In-distribution frames that are not in the reference; may be repeated."),
    ] = None,
    atoms: Annotated[int | None, Option(help="Size of the system to state the level for.")] = None,
    plot: Annotated[Path | None, Option(help="Draw the null distributions and levels to this file.")] = None,
    force: ForceOption = False,
    seed: Annotated[int, Option(help="Chooses groups where there are very many.")] = 0,
    threads: ThreadsOption = None,
) -> None:
    """Set the levels for a rate of false alarms. Says what they promise, what not, and what they would catch."""
    check_apart({"--output": output, "--plot": plot}, [reference, *(frames or ())])
    check_output("--output", output, force=force)
    check_output("--plot", plot, PICTURE_SUFFIXES)
    check_integer("--seed", seed, 0)
    for option, value in {"--checks": checks, "--atoms": atoms, "--threads": threads}.items():
        if value is not None:
            check_integer(option, value, 1)
    check_share("--false-alarms", false_alarms, "rate between 0 and 1")
    names = _statistic_names(statistics)
    known = open_reference(reference, threads)
    calibration = calibrate(
        known,
        false_alarms=false_alarms,
        per=per,  # type: ignore[arg-type]  # checked there
        statistics=names,
        checks=checks,
        groups=groups,
        frames=frames,
        rng=seed,
        threads=threads,
    )
    found = power(known, calibration, n_atoms=atoms, rng=seed, threads=threads)
    put(fold(f"{sight(found, known)}\n{calibration.describe(atoms)}", sys.stdout))
    put("\n" + "\n".join(power_rows(calibration, found, atoms, terminal_width(sys.stdout))))
    if output is not None:
        calibration.save(output)
        tell(f"wrote {output}")
    if plot is not None:
        _save_picture(null_distributions(calibration, atoms), plot)


def score_frames(
    trajectory: FramesArgument,
    reference: Annotated[
        Path, Option("--reference", "-r", help="Reference file (.safetensors), or frames to build one from.")
    ],
    calibration: Annotated[
        Path | None, Option("--calibration", "-c", help="Calibration file; default: calibrate the reference.")
    ] = None,
    false_alarms: Annotated[
        float | None,
        Option(help=f"Asked rate of false alarms per check, without --calibration; default: {FALSE_ALARMS:g}."),
    ] = None,
    statistics: StatisticsOption = None,
    baseline_ps: Annotated[
        float | None,
        Option(help="Judge averages over a frame (local_mean, local_tail) by the first so many ps of the run itself."),
    ] = None,
    max_temperature: Annotated[
        float | None,
        Option(metavar="K", help="A hotter frame counts as exploded; else one that jumped to five times the median."),
    ] = None,
    phase: Annotated[
        list[str] | None,
        Option(metavar="NAME=FILE", help="Labelled phases, first that of the start: liquid=l.safetensors; repeat it."),
    ] = None,
    types: Annotated[
        str | None, Option(help="Elements of the types of a LAMMPS dump that does not name them: Cu,Zr.")
    ] = None,
    topology: TopologyOption = None,
    log: Annotated[Path | None, Option(help="Log to write (JSON lines); must not hold a run yet.")] = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on with the run in the log: frames that it has are not checked again.")
    ] = False,
    save: Annotated[Path | None, Option(help="Append flagged frames to this extended XYZ file.")] = None,
    sentinel_file: Annotated[
        Path | None,
        Option("--sentinel", metavar="FILE", help="Write the gravest event to this file, once there is one."),
    ] = None,
    plot: Annotated[Path | None, Option(help="Draw the timeline to this file; needs --log.")] = None,
    patience: Annotated[
        int | None, Option(help="Checks out in a row that open an event; given alone, visits open none. Default: 3.")
    ] = None,
    visits: Annotated[
        int | None,
        Option(help="Short departures in 20 checks that open an event; default: by the rate, 4 for 0.01."),
    ] = None,
    values: Annotated[
        str, Option(help="'full': dH of every atom; 'proven': who is above, faster; 'auto': by size.")
    ] = default_of(Monitor, "values"),
    at: Annotated[Path | None, Option(help="Check only the frames of this log: what the monitor saw live.")] = None,
    workers: Annotated[int, Option(help="Frames judged at the same time.")] = default_of(score_trajectory, "workers"),
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
    if calibration is not None and false_alarms is not None:
        raise ValueError("--false-alarms: the calibration file states its own rate; give one of the two")
    phase_files = _files_by_name("--phase", phase or [])
    check_apart(
        {"--log": log, "--save": save, "--sentinel": sentinel_file, "--plot": plot},
        [*trajectory, reference, calibration, topology, at, *phase_files.values()],
    )
    check_output("--log", log)
    check_output("--save", save)
    if save is not None and (fault := mistaken_for(save, None, "flagged frames") or fault_of_flagged_file(save)):
        raise FileFormatError(f"--save: {save}: {fault}; choose another name")
    check_output("--sentinel", sentinel_file)
    if sentinel_file is not None and (fault := fault_of_sentinel(sentinel_file)):
        raise FileFormatError(f"--sentinel: {sentinel_file}: {fault}; choose another name")
    if sentinel_file is not None and sentinel_file.exists() and not resume:
        raise FileExistsError(f"--sentinel: {sentinel_file} is there from an earlier run; remove it")
    check_output("--plot", plot, PICTURE_SUFFIXES)
    if threads is not None:
        check_integer("--threads", threads, 1)
    check_integer("--workers", workers, 1)
    check_choice("--values", values, ("full", "proven", "auto"))
    for option, value, what in (
        ("--baseline-ps", baseline_ps, "time in ps"),
        ("--max-temperature", max_temperature, "temperature in K"),
    ):
        if value is not None:
            check_positive(option, value, what)
    rate = FALSE_ALARMS if false_alarms is None else check_share("--false-alarms", false_alarms, "rate between 0 and 1")
    names, elements = _statistic_names(statistics), split_elements(types, "--types")
    trigger = None
    if patience is not None or visits is not None:
        trigger = Trigger(3 if patience is None else patience, visits=visits)
    check_frames(trajectory, "expected frames; a reference is given by --reference")
    if log is not None and not resume:
        require_new_log(log)
    saved_before = 0 if save is None else file_size(str(save))
    steps = None if at is None else read_log(at)
    given_levels = None if calibration is None else Calibration.load(calibration)
    known = open_reference(reference, threads, types=elements, topology=topology)
    phases = {name: open_reference(file, threads) for name, file in phase_files.items()}
    levels = given_levels or calibrate(known, false_alarms=rate, threads=threads)
    actions = [] if save is None else [save_frame(save)]
    with Monitor(
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
    ) as monitor:
        tell(fold(monitor.calibration.describe(), sys.stderr))
        seen = FramesSeen()
        checks = score_trajectory(
            trajectory,
            known,
            monitor=monitor,
            workers=workers,
            steps=steps,
            types=elements,
            seen=seen,
            topology=topology,
        )
        counts = _print_checks(checks, trajectory, monitor.calibration.statistics)
        events = monitor.events
    tell(fold(f"read: {seen.describe(count_there(trajectory))}", sys.stderr, indent=6))
    tell(f"{many(sum(counts.values()), 'frame')}{' checked now' if resume else ''}: {run_summary(counts, events)}")
    if resume and log is not None:
        tell(f"{log}: {log_summary(read_log(log))}")
    if save is not None and file_size(str(save)) == saved_before:
        why = "frames of explosions are not saved" if events and not resume else "no event"
        tell(f"--save: {why}, {save} was {'left as it is' if save.exists() else 'not written'}")
    for event in latest(events):
        tell(fold(event.describe(), sys.stderr, indent=11))
    if n_more := len(events) - len(latest(events)):
        tell(f"and {many(n_more, 'event')} before: `quests-md events` lists all of a log")
    if plot is not None and log is not None:
        _save_picture(timeline(read_log(log)), plot)
    _exit_after(events, fail_on_event)


def list_events(
    log: Annotated[Path, Argument(metavar="LOG", help="Log of a run, also of one that still goes on or was killed.")],
    kind: Annotated[
        str | None, Option(help=f"Only events of these kinds: {','.join(KINDS)}; exit codes follow them.")
    ] = None,
    details: Annotated[
        bool, Option("--details", help="Describe every event; else, in a terminal, the open and the latest ones.")
    ] = False,
    as_json: Annotated[
        bool, Option("--json", help="A JSON list with one event per line, all that is known of it.")
    ] = False,
    plot: Annotated[Path | None, Option(help="Draw the timeline to this file.")] = None,
    growth: Annotated[Path | None, Option(help="Draw to this file how many atoms the events have, over time.")] = None,
    fail_on_event: FailOption = False,
) -> None:
    """List the events of a log.

    A line each, tab-separated if not in a terminal. Messages go to stderr.
    """
    check_output("--plot", plot, PICTURE_SUFFIXES)
    check_output("--growth", growth, PICTURE_SUFFIXES)
    check_apart({"--plot": plot, "--growth": growth}, [log])
    kinds = split_names(kind, "--kind") or KINDS
    if unknown := [name for name in kinds if name not in KINDS]:
        raise ValueError(f"--kind: expected some of {','.join(KINDS)}, got {unknown[0]!r}")
    content = read_log(log)
    events = [event for event in content.events if event.kind in kinds]
    if as_json:
        put("[" + ",\n ".join(map(dumps, events)) + "]", sys.maxsize)
    else:
        _print_events(content, events, details)
    if plot is not None:
        _save_picture(timeline(content), plot)
    if growth is not None:
        try:
            _save_picture(cluster_growth(content), growth)
        except ValueError as exc:  # a quiet run is no misuse
            tell(f"warning: --growth: {exc}")
    _exit_after(events, fail_on_event)


def _bandwidth(text: str | None) -> float | Literal["auto"] | None:
    """The option --bandwidth as `Reference.from_frames` takes it."""
    return "auto" if text == "auto" else None if text is None else check_bandwidth(text)


def _statistic_names(text: str | None) -> tuple[str, ...] | None:
    """The names of statistics in a text, where "all" stands for every statistic; None for None."""
    names = tuple(STATISTICS) if text == "all" else split_names(text, "--statistics")
    if unknown := [name for name in names or () if name not in STATISTICS]:
        raise ValueError(f"--statistics: expected 'all' or some of {', '.join(STATISTICS)}; got {unknown[0]!r}")
    return names


def _files_by_name(option: str, texts: Sequence[str]) -> dict[str, Path]:
    """The files of an option that is given as NAME=FILE, once or more often."""
    files: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise ValueError(f"{option}: expected NAME=FILE such as fcc=fcc.safetensors, got {text!r}")
        if name in files:
            raise ValueError(f"{option}: {name!r} is given twice; give each phase another name")
        files[name] = Path(file)
    return files


def _print_checks(checks: Iterator[Check], trajectory: list[str], statistics: Sequence[str]) -> dict[str, int]:
    """Print the checks as they come: in columns on a terminal, else tab-separated; count their states."""
    counts, has_blank = {"in": 0, "out": 0, "invalid": 0}, False
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
    return counts


def _print_events(log: Log, events: Sequence[Event], details: bool) -> None:
    """Print a table of the events, descriptions of some or all of them, and the warnings of the run."""
    tell(fold(log_summary(log), sys.stderr))
    width = terminal_width(sys.stdout)
    if events or width is None:
        put("\n".join(event_rows(events, width)))
    for event in events if details else latest(events) if width is not None else ():
        put("\n" + fold(event.describe(), sys.stdout, indent=11))
    grave = [note for note in log.notes if note.get("level") in ("warning", "error")]
    for note in grave[:MOST_NOTES]:
        at = "" if note.get("step") is None else f" at step {note['step']}"
        text = str(note.get("message")).partition("\n")[0]
        tell(fold(f"{note['level']}{at}: {one_line(text, LONGEST_NOTE)}", sys.stderr))
    if (n_more := len(grave) - MOST_NOTES) > 0:
        tell(f"and {many(n_more, 'warning')} more: read_log(...).notes has all")


def _save_picture(figure: "Figure", path: Path) -> None:
    """Write a picture and say so; it is drawn again from what is kept, so that an older one may be replaced."""
    again = " again" if path.exists() else ""
    figure.savefig(path, dpi=130)
    tell(f"wrote {path}{again}")


def _exit_after(events: Sequence[Event], fail_on_event: bool) -> None:
    """End with the exit code that --fail-on-event promises, if the option was given and there are events."""
    if events and fail_on_event:
        raise Exit(ExitCode.EXPLODED if any(event.kind == "exploded" for event in events) else ExitCode.EVENT)
