"""quests-md: each command a thin door to one function."""

import functools
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quests_md._arguments import check_bandwidth
from quests_md._progress import track
from quests_md._version import __version__
from quests_md.calibration import DEFAULT_STATISTICS, STATISTICS, Calibration, calibrate, power
from quests_md.engine import BANDWIDTH
from quests_md.environments import Descriptor
from quests_md.errors import QuestsMDError
from quests_md.hosts import score_trajectory
from quests_md.io import count_frames, expand_sources
from quests_md.log import LogWriter, read_log
from quests_md.monitor import Monitor
from quests_md.records import Check, Event
from quests_md.reference import Reference
from quests_md.show import (
    PICTURE_SUFFIXES,
    check_rows,
    cluster_growth,
    event_rows,
    fold,
    latest,
    log_summary,
    many,
    null_distributions,
    power_rows,
    reference_lines,
    run_summary,
    terminal_width,
    timeline,
)
from quests_md.watch import KINDS, Trigger, event_json, save_frame, sentinel

from .demo import free_folder, run_demo

if TYPE_CHECKING:  # importing matplotlib takes half a second
    from matplotlib.figure import Figure

__all__ = ["main"]

#: Characters of an error line; a parser may quote the whole file.
LONGEST_MESSAGE = 1000

EXIT_PIPE, EXIT_BAD_INPUT, EXIT_EVENT, EXIT_EXPLODED, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

#: Shown below the commands; \b keeps the line breaks.
EXAMPLE = """\b
From a training set to the events of a run:
  quests-md reference build train.xyz -o train.safetensors
  quests-md score run.traj -r train.safetensors --log run.jsonl --plot run.png
  quests-md events run.jsonl

\b
Exit codes: 0 fine, 2 misuse or bad input, 130 interrupted; --fail-on-event:
3 after an event (novel, transition), 4 after an explosion. In job scripts:
  quests-md events run.jsonl --fail-on-event || echo "exit code $?"
  [ -e quests-md.event ] && cat quests-md.event
(that file is of the action sentinel(), or of score --sentinel.)"""

app = typer.Typer(
    name="quests-md",
    help="Watch atomistic MD: flag frames whose environments leave a reference training set.",
    epilog=EXAMPLE,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
reference_app = typer.Typer(help="Build, inspect and merge reference files.", no_args_is_help=True)
app.add_typer(reference_app, name="reference")

ReferenceOption = Annotated[
    Path, typer.Option("--reference", "-r", help="Reference file (.safetensors), or frames to build one from.")
]
CalibrationOption = Annotated[
    Path | None, typer.Option("--calibration", "-c", help="Calibration file; default: calibrate the reference.")
]
FailOption = Annotated[
    bool,
    typer.Option("--fail-on-event", help="Exit with 3 after an event (novel or transition), 4 after an explosion."),
]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads; default: the cores there are.")]
StatisticsOption = Annotated[
    str | None,
    typer.Option(
        help=f"Numbers that raise alarms: 'all', or some of {','.join(STATISTICS)}; "
        f"default: {','.join(DEFAULT_STATISTICS)}."
    ),
]
FramesArgument = Annotated[
    list[str],
    typer.Argument(metavar="FRAMES", help="Files ASE can read, globs, slices: train.xyz 'run*.traj@::10'."),
]


def main() -> None:
    """Run the command line."""
    warnings.showwarning = _show_warning  # this process is ours: one line, no source code
    signal.signal(signal.SIGTERM, _interrupt)  # what a batch system sends before it kills: end as on ctrl-C
    for name in ("stdout", "stderr"):  # closed by the caller
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # lives as long as the process
    app()


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"quests_md {__version__}")
        raise typer.Exit


def _command(group: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose errors become one line on stderr and an exit code."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except BrokenPipeError:  # `... | head`: the reader has had enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(EXIT_PIPE) from None
            except (QuestsMDError, ValueError, TypeError, OSError, MemoryError) as exc:
                print(f"error: {_one_line(exc)}", file=sys.stderr)
                raise typer.Exit(EXIT_BAD_INPUT) from None
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                raise typer.Exit(EXIT_INTERRUPTED) from None

        return group.command(name)(run)

    return register


@_command(app, "demo")
def _demo(
    folder: Annotated[Path, typer.Option(help="Where the files go; a number is added if it exists.")] = Path(
        "quests-md-demo"
    ),
) -> None:
    """Melt copper under the monitor. Real MD, about a minute; writes a log, flagged frames and a picture."""
    run_demo(free_folder(folder), typer.echo)


@_command(reference_app, "build")
def _build(
    frames: FramesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Reference file to write.")] = Path(
        "reference.safetensors"
    ),
    k: Annotated[int, typer.Option(help="Neighbours per environment.")] = Descriptor().k,
    cutoff: Annotated[float, typer.Option(help="Cutoff radius in Å.")] = Descriptor().cutoff,
    elements: Annotated[str | None, typer.Option(help="Resolve neighbours by these elements: Nb,Mo.")] = None,
    centers: Annotated[str | None, typer.Option(help="Only environments of these elements: O.")] = None,
    neighbors: Annotated[str | None, typer.Option(help="Only neighbours of these elements: O.")] = None,
    bandwidth: Annotated[str, typer.Option(help="Bandwidth h in 1/Å, or 'auto'.")] = str(BANDWIDTH),
    match: Annotated[str, typer.Option(help="'element': compare like with like; 'any': geometry alone.")] = "element",
    groups: Annotated[
        str | None, typer.Option(help="Independent groups: 'frame', 'file' or a key of info; default: blocks.")
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Build a reference from frames. Environments are held out to set levels; both go to one file."""
    _check_output("--output", output, (".safetensors",))
    _check_frames(frames, "expected frames; references are merged by `quests-md reference merge`")
    reference = Reference.from_frames(
        frames,
        descriptor=Descriptor(
            k=k,
            cutoff=cutoff,
            elements=_symbols(elements),
            centers=_symbols(centers),
            neighbors=_symbols(neighbors),
        ),
        bandwidth="auto" if bandwidth == "auto" else check_bandwidth(bandwidth),
        match=match,  # type: ignore[arg-type]  # checked there
        groups=groups,
        threads=threads,
    )
    reference.held_out_scores(threads=threads)
    reference.save(output)
    _print_info(reference)
    print(f"wrote {output}", file=sys.stderr)


@_command(reference_app, "info")
def _info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Reference file.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare the content with its checksums.")] = False,
) -> None:
    """Say what a reference file holds and what level it supports."""
    if verify:
        Reference.verify(file)
    reference = Reference.load(file)
    _print_info(reference)
    auto = reference.auto_bandwidth()
    found = f"{auto} 1/Å" if auto else "none between 0.003 and 0.3 1/Å: copies among the groups, or too few of them"
    typer.echo(fold(f"likeliest h {found} (--bandwidth auto)", sys.stdout, 12))
    if verify:
        typer.echo("content     equals the checksums written at save")


@_command(reference_app, "merge")
def _merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="Reference files with equal settings.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Reference file to write.")],
) -> None:
    """Merge reference files into a new one."""
    _check_output("--output", output, (".safetensors",))
    merged = Reference.merge([Reference.load(file) for file in files])
    merged.held_out_scores()
    merged.save(output)
    _print_info(merged)
    print(f"wrote {output}", file=sys.stderr)


@_command(app, "calibrate")
def _calibrate(
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="Reference file (.safetensors), or frames to build one from.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Calibration file to write (JSON).")] = None,
    false_alarms: Annotated[float, typer.Option(help="Asked rate of false alarms, above 0 and below 1.")] = 1e-2,
    per: Annotated[str, typer.Option(help="What the rate counts: check, ns or run.")] = "check",
    statistics: StatisticsOption = None,
    checks: Annotated[int | None, typer.Option(help="Checks in a run (or ns), with --per run (or ns).")] = None,
    groups: Annotated[str | None, typer.Option(help="'frame' or 'file'; default: the groups of the reference.")] = None,
    frames: Annotated[
        list[str] | None,
        typer.Option(metavar="FRAMES", help="In-distribution frames that are not in the reference; may be repeated."),
    ] = None,
    atoms: Annotated[int | None, typer.Option(help="Size of the system to state the level for.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the null distributions and levels to this file.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses groups where there are very many.")] = 0,
    threads: ThreadsOption = None,
) -> None:
    """Set the levels for a rate of false alarms. Says what they promise, what not, and what they would catch."""
    _check_output("--output", output)
    _check_output("--plot", plot, PICTURE_SUFFIXES)
    _check_integer("--checks", checks, 1)
    _check_integer("--atoms", atoms, 1)
    _check_integer("--seed", seed, 0)
    _check_integer("--threads", threads, 1)
    known = _open_reference(reference, threads)
    calibration = calibrate(
        known,
        false_alarms=false_alarms,
        per=per,  # type: ignore[arg-type]  # checked there
        statistics=_statistics(statistics) or DEFAULT_STATISTICS,
        checks=checks,
        groups=groups,
        frames=frames,
        rng=seed,
        threads=threads,
    )
    typer.echo(fold(calibration.describe(atoms), sys.stdout))
    typer.echo()
    for row in power_rows(calibration, power(known, calibration, n_atoms=atoms, rng=seed, threads=threads), atoms):
        typer.echo(row)
    if output is not None:
        calibration.save(output)
        print(f"wrote {output}", file=sys.stderr)
    if plot is not None:
        _save_picture(null_distributions(calibration, atoms), plot)


@_command(app, "score")
def _score(
    trajectory: FramesArgument,
    reference: ReferenceOption,
    calibration: CalibrationOption = None,
    false_alarms: Annotated[
        float | None, typer.Option(help="Asked rate of false alarms per check, without --calibration; default: 0.01.")
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
    patience: Annotated[int, typer.Option(help="Checks out in a row that open an event.")] = 3,
    values: Annotated[
        str, typer.Option(help="'full': dH of every atom; 'proven': who is above, faster; 'auto': by size.")
    ] = "auto",
    at: Annotated[
        Path | None, typer.Option(help="Check only the steps of this log: what the monitor saw live.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Frames judged at the same time.")] = 1,
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
    _check_output("--log", log)
    _check_output("--save", save)
    _check_output("--sentinel", sentinel_file)
    if sentinel_file is not None and sentinel_file.exists():
        raise FileExistsError(f"--sentinel: {sentinel_file} is there from an earlier run; remove it")
    _check_output("--plot", plot, PICTURE_SUFFIXES)
    _check_integer("--threads", threads, 1)
    _check_frames(trajectory, "expected frames; a reference is given by --reference")
    if log is not None and log.exists() and log.stat().st_size:
        LogWriter(log)  # raises, and says which run the log holds
    steps = None if at is None else read_log(at).step.tolist()
    phase_files = _named_files("--phase", phase or [])
    known = _open_reference(reference, threads)
    phases = {name: _open_reference(file, threads) for name, file in phase_files.items()}
    levels = (
        Calibration.load(calibration)
        if calibration
        else calibrate(known, false_alarms=1e-2 if false_alarms is None else false_alarms, threads=threads)
    )
    actions = [] if save is None else [save_frame(save)]
    with Monitor(
        known,
        levels,
        statistics=_statistics(statistics),
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
        print(fold(monitor.calibration.describe(), sys.stderr), file=sys.stderr)
        checks = score_trajectory(
            trajectory, known, monitor=monitor, workers=workers, steps=steps, types=_symbols(types)
        )
        counts = _print_checks(checks, trajectory)
        events = monitor.events
    print(f"{many(sum(counts.values()), 'frame')}: {run_summary(counts, events)}", file=sys.stderr)
    for event in latest(events):
        print(fold(event.describe(), sys.stderr, indent=11), file=sys.stderr)
    if n_more := len(events) - len(latest(events)):
        print(f"and {many(n_more, 'event')} before: `quests-md events` lists all of a log", file=sys.stderr)
    if plot is not None and log is not None:
        _save_picture(timeline(read_log(log)), plot)
    _exit_on(events, fail_on_event)


@_command(app, "events")
def _events(
    log: Annotated[
        Path, typer.Argument(metavar="LOG", help="Log of a run, also of one that still goes on or was killed.")
    ],
    kind: Annotated[
        str | None, typer.Option(help=f"Only events of these kinds: {','.join(KINDS)}; exit codes follow them.")
    ] = None,
    details: Annotated[
        bool,
        typer.Option("--details", help="Describe every event; else, in a terminal, the open and the latest ones."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON list with one event per line, all that is known of it.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the timeline to this file.")] = None,
    growth: Annotated[
        Path | None, typer.Option(help="Draw to this file how many atoms the events have, over time.")
    ] = None,
    fail_on_event: FailOption = False,
) -> None:
    """List the events of a log.

    A line each, tab-separated if not in a terminal. Messages go to stderr.
    """
    _check_output("--plot", plot, PICTURE_SUFFIXES)
    _check_output("--growth", growth, PICTURE_SUFFIXES)
    kinds = _kinds(kind)
    content = read_log(log)
    events = [event for event in content.events if event.kind in kinds]
    if as_json:
        typer.echo("[" + ",\n ".join(map(event_json, events)) + "]")
    else:
        print(fold(log_summary(content), sys.stderr), file=sys.stderr, flush=True)
        width = terminal_width(sys.stdout)
        if events or width is None:
            typer.echo("\n".join(event_rows(events, width)))
        for event in events if details else latest(events) if width is not None else ():
            typer.echo("\n" + fold(event.describe(), sys.stdout, indent=11))
        for note in content.notes:
            if note.get("level") in ("warning", "error"):
                at = "" if note.get("step") is None else f" at step {note['step']}"
                print(f"{note['level']}{at}: {str(note.get('message')).partition(chr(10))[0]}", file=sys.stderr)
    if plot is not None:
        _save_picture(timeline(content), plot)
    if growth is not None:
        try:
            _save_picture(cluster_growth(content), growth)
        except ValueError as exc:  # a quiet run is no misuse
            print(f"warning: --growth: {exc}", file=sys.stderr)
    _exit_on(events, fail_on_event)


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


def _check_output(option: str, path: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Refuse at once what could not be written at the end of the work."""
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{option}: expected a name that ends in {', '.join(suffixes)}, got {path}")
    if path.is_dir():
        raise IsADirectoryError(f"{option}: {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option}: the folder of {path} does not exist; create it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{option}: {path} cannot be written (no permission); choose another name")


def _check_integer(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ValueError(f"{option}: expected an integer of at least {least}, got {value}")


def _check_frames(files: list[str], otherwise: str) -> None:
    """Refuse at once files that do not exist, and reference files."""
    with warnings.catch_warnings(action="ignore"):  # they come again when the frames are read
        found = expand_sources(files)
    references = [file for file in found if file.endswith(".safetensors")]
    if references:
        raise ValueError(f"{', '.join(references)}: {otherwise}")


def _open_reference(path: Path, threads: int | None) -> Reference:
    if path.suffix == ".safetensors":
        return Reference.load(path)
    print(f"building a reference from {path}; `quests-md reference build` keeps it", file=sys.stderr)
    return Reference.from_frames(str(path), threads=threads)


def _print_info(reference: Reference) -> None:
    for line in reference_lines(reference, calibrate(reference)):
        typer.echo(fold(line, sys.stdout, indent=12))


def _statistics(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(STATISTICS) if text == "all" else tuple(name.strip() for name in text.split(","))


def _symbols(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(symbol.strip() for symbol in text.split(","))


def _kinds(text: str | None) -> tuple[str, ...]:
    kinds = KINDS if text is None else tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in kinds if name not in KINDS]:
        raise ValueError(f"--kind: expected some of {','.join(KINDS)}, got {unknown[0]!r}")
    return kinds


def _named_files(option: str, texts: Sequence[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise ValueError(f"{option}: expected NAME=FILE such as fcc=fcc.safetensors, got {text!r}")
        if name in files:
            raise ValueError(f"{option}: {name!r} is given twice; give each phase another name")
        files[name] = Path(file)
    return files


def _save_picture(figure: "Figure", path: Path) -> None:
    figure.savefig(path, dpi=130)
    print(f"wrote {path}", file=sys.stderr)


def _exit_on(events: list[Event], fail_on_event: bool) -> None:
    if fail_on_event and events:
        raise typer.Exit(EXIT_EXPLODED if any(event.kind == "exploded" for event in events) else EXIT_EVENT)


def _one_line(exc: BaseException) -> str:
    if isinstance(exc, OSError) and exc.strerror and exc.filename:
        return f"{exc.filename}: {exc.strerror}"
    text = " ".join(str(exc).split()) or type(exc).__name__
    if isinstance(exc, MemoryError):
        return f"out of memory ({text}); give fewer frames, or a smaller k"
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ..."


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
