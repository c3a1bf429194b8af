"""quests-md: each command a thin door to one function."""

import functools
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from . import __version__
from .actions import save_frame
from .calibration import Calibration, calibrate
from .demo import free_folder, run_demo
from .descriptor import Descriptor
from .entropy import BANDWIDTH
from .errors import QuestsMDError
from .frames import count_frames
from .monitor import Monitor
from .plot import timeline
from .progress import track
from .records import Event, read_log
from .reference import Reference
from .trajectory import score_trajectory
from .trigger import Trigger

__all__ = ["main"]

EXIT_PIPE, EXIT_BAD_INPUT, EXIT_EVENT, EXIT_EXPLODED, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

app = typer.Typer(
    name="quests-md",
    help="Watch atomistic MD: flag frames whose environments leave a reference training set.",
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
FailOption = Annotated[bool, typer.Option("--fail-on-event", help="Exit with 3 after an event, 4 after an explosion.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads; default: the cores there are.")]
RateOption = Annotated[float, typer.Option(help="Asked rate of false alarms.")]


def main() -> None:
    """Run the command line."""
    warnings.showwarning = _show_warning  # this process is ours: one line, no source code
    app()


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
            except (QuestsMDError, ValueError, TypeError, OSError) as exc:
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
    """Melt copper under the monitor: real MD, about a minute; writes log, flagged frames and a picture."""
    run_demo(free_folder(folder), typer.echo)


@_command(reference_app, "build")
def _build(
    frames: Annotated[list[str], typer.Argument(help="Files ASE can read, globs, slices: train.xyz 'run*.traj@::10'.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Reference file to write.")] = Path(
        "reference.safetensors"
    ),
    k: Annotated[int, typer.Option(help="Neighbours per environment.")] = Descriptor().k,
    cutoff: Annotated[float, typer.Option(help="Cutoff radius in Å.")] = Descriptor().cutoff,
    bandwidth: Annotated[float, typer.Option(help="Bandwidth h in 1/Å.")] = BANDWIDTH,
    match: Annotated[str, typer.Option(help="'element': compare like with like; 'any': geometry alone.")] = "element",
    groups: Annotated[
        str | None, typer.Option(help="Independent groups: 'frame', 'file' or a key of info; default: blocks.")
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Build a reference from frames, hold out environments to set levels, and write both to one file."""
    if not output.parent.is_dir():
        raise FileNotFoundError(f"--output: the folder of {output} does not exist; create it")
    reference = Reference.from_frames(
        frames,
        descriptor=Descriptor(k=k, cutoff=cutoff),
        bandwidth=bandwidth,
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
    file: Annotated[Path, typer.Argument(help="Reference file.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare the content with its checksums.")] = False,
) -> None:
    """Say what a reference file holds and what levels it supports."""
    if verify:
        Reference.verify(file)
    _print_info(Reference.load(file))
    if verify:
        typer.echo("content     equals the checksums written at save")


@_command(reference_app, "merge")
def _merge(
    files: Annotated[list[Path], typer.Argument(help="Reference files with equal settings.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Reference file to write.")],
) -> None:
    """Merge reference files into a new one."""
    merged = Reference.merge([Reference.load(file) for file in files])
    merged.held_out_scores()
    merged.save(output)
    _print_info(merged)
    print(f"wrote {output}", file=sys.stderr)


@_command(app, "calibrate")
def _calibrate(
    reference: Annotated[Path, typer.Argument(help="Reference file, or frames to build one from.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Calibration file to write.")] = None,
    false_alarms: RateOption = 1e-2,
    per: Annotated[str, typer.Option(help="What the rate counts: check, ns or run.")] = "check",
    groups: Annotated[str | None, typer.Option(help="'frame' or 'file'; default: the groups of the reference.")] = None,
    frames: Annotated[
        list[str] | None, typer.Option(help="In-distribution frames that are not in the reference.")
    ] = None,
    atoms: Annotated[int | None, typer.Option(help="Size of the system to state the level for.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses groups where there are very many.")] = 0,
    threads: ThreadsOption = None,
) -> None:
    """Set the level of dH for a rate of false alarms, and say what it promises."""
    known = _open_reference(reference, threads)
    calibration = calibrate(
        known,
        false_alarms=false_alarms,
        per=per,  # type: ignore[arg-type]  # checked there
        groups=groups,
        frames=frames,
        rng=seed,
        threads=threads,
    )
    typer.echo(calibration.describe(atoms or calibration.frame_atoms))
    if output is not None:
        calibration.save(output)
        print(f"wrote {output}", file=sys.stderr)


@_command(app, "score")
def _score(
    trajectory: Annotated[list[str], typer.Argument(help="Files ASE can read, globs, slices.")],
    reference: ReferenceOption,
    calibration: CalibrationOption = None,
    false_alarms: Annotated[float | None, typer.Option(help="Rate of false alarms, without --calibration.")] = None,
    log: Annotated[Path | None, typer.Option(help="Log to write (JSON lines); must not exist.")] = None,
    save: Annotated[Path | None, typer.Option(help="Append flagged frames to this extended XYZ file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the timeline to this file; needs --log.")] = None,
    patience: Annotated[int, typer.Option(help="Checks out in a row that open an event.")] = 3,
    values: Annotated[str, typer.Option(help="'full', 'proven' or 'auto'.")] = "auto",
    workers: Annotated[int, typer.Option(help="Frames judged at the same time.")] = 1,
    threads: ThreadsOption = None,
    fail_on_event: FailOption = False,
) -> None:
    """Score the frames of a trajectory: one tab-separated line per frame on stdout, events on stderr."""
    if plot is not None and log is None:
        raise ValueError("--plot: needs the log; give --log run.jsonl too")
    if calibration is not None and false_alarms is not None:
        raise ValueError("--false-alarms: the calibration file states its own rate; give one of the two")
    known = _open_reference(reference, threads)
    levels = (
        Calibration.load(calibration)
        if calibration
        else calibrate(known, false_alarms=1e-2 if false_alarms is None else false_alarms, threads=threads)
    )
    actions = [] if save is None else [save_frame(save)]
    with Monitor(
        known,
        levels,
        trigger=Trigger(patience=patience),
        log=log,
        actions=actions,
        values=values,  # type: ignore[arg-type]  # checked there
        on_error="raise",
        threads=threads,
    ) as monitor:
        checks = score_trajectory(trajectory, known, monitor=monitor, workers=workers, threads=threads)
        print(levels.describe(levels.frame_atoms), file=sys.stderr)
        typer.echo("\t".join(SCORE_COLUMNS))
        counts = {"in": 0, "out": 0, "invalid": 0}
        total = count_frames(trajectory)
        for check in checks if sys.stdout.isatty() else track(checks, "scoring frames", total):
            counts[check.state] += 1
            typer.echo("\t".join(_cell(getattr(check, name)) for name in SCORE_COLUMNS))
        events = monitor.events
    print(
        f"{sum(counts.values())} frames: {counts['in']} in, {counts['out']} out, {counts['invalid']} invalid; "
        f"{len(events)} event(s)",
        file=sys.stderr,
    )
    if events:
        _print_events(events, Console(stderr=True))
    if plot is not None and log is not None:
        timeline(read_log(log)).savefig(plot, dpi=130)
        print(f"wrote {plot}", file=sys.stderr)
    _exit_on(events, fail_on_event)


@_command(app, "events")
def _events(
    log: Annotated[Path, typer.Argument(help="Log of a run, also of one that is going or was killed.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the timeline to this file.")] = None,
    fail_on_event: FailOption = False,
) -> None:
    """List the events of a log."""
    content = read_log(log)
    if as_json:
        typer.echo(json.dumps([_event_json(event) for event in content.events], indent=1))
    else:
        last = f", last at step {content.step[-1]}" if len(content) else ""
        out = int((content.state == "out").sum())
        typer.echo(f"{log}: {len(content)} checks{last}, {out} out; {len(content.events)} event(s)")
        if content.events:
            _print_events(content.events, Console())
        for note in content.notes:
            if note.get("level") in ("warning", "error"):
                print(f"{note['level']} at step {note.get('step')}: {note.get('message')}", file=sys.stderr)
    if plot is not None:
        timeline(content).savefig(plot, dpi=130)
        print(f"wrote {plot}", file=sys.stderr)
    _exit_on(content.events, fail_on_event)


#: What `score` prints of each check.
SCORE_COLUMNS = ("step", "time_ps", "n_atoms", "dh_mean", "dh_max", "n_above", "frame_entropy", "excess", "state")


def _open_reference(path: Path, threads: int | None) -> Reference:
    if path.suffix == ".safetensors":
        return Reference.load(path)
    print(f"building a reference from {path}; `quests-md reference build` keeps it", file=sys.stderr)
    return Reference.from_frames(str(path), threads=threads)


def _print_info(reference: Reference) -> None:
    origin, settings = reference.provenance, reference.settings
    lines: dict[str, Any] = {
        "fingerprint": reference.fingerprint,
        "content": f"{reference.n_environments} environments in {reference.n_frames} frames",
        "elements": ", ".join(
            f"{symbol} {int((reference.numbers == z).sum())}"
            for symbol, z in zip(reference.elements, sorted(set(reference.numbers.tolist())), strict=True)
        ),
        "settings": ", ".join(f"{key} = {value}" for key, value in settings.items()),
        "sources": ", ".join(reference.sources[:5]) + (" ..." if len(reference.sources) > 5 else ""),
        "groups": origin.get("groups"),
        "left out": ", ".join(f"{n} frames: {why}" for why, n in origin.get("left_out", {}).items()) or "nothing",
        "nearest": ", ".join(
            f"{_symbol(a)}-{_symbol(b)} {low:.2f} Å (median {middle:.2f})"
            for (a, b), (low, middle) in list(reference.pair_distances().items())[:10]
        ),
        "created": f"{origin.get('created')} by quests_md {origin.get('versions', {}).get('quests_md')}",
    }
    if origin.get("parents"):
        lines["parents"] = ", ".join(origin["parents"])
    calibration = calibrate(reference)
    lines["level"] = calibration.describe(calibration.frame_atoms).replace("\n", f"\n{'':<12}")
    for name, value in lines.items():
        typer.echo(f"{name:<11} {value}")


def _symbol(number: int) -> str:
    from ase.data import chemical_symbols

    return str(chemical_symbols[number])


def _print_events(events: list[Event], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for column in (
        "event",
        "kind",
        "from",
        "to",
        "time (ps)",
        "T (K)",
        "peak excess",
        "atoms",
        "worst",
        "nearest known",
    ):
        table.add_column(column, overflow="fold")
    for event in events:
        near = event.nearest
        table.add_row(
            str(event.id),
            event.kind,
            str(event.onset_step),
            f"{event.last_step}{' (open)' if event.is_open else ''}",
            _cell(event.onset_time_ps),
            _cell(event.onset_temperature_K),
            _cell(event.peak_excess),
            str(event.n_atoms),
            f"{event.worst_element} {event.worst_atom}" if event.worst_atom is not None else "",
            f"{near.distance:.1f} h: {Path(near.source).name} frame {near.frame} atom {near.atom}" if near else "",
        )
    console.print(table)


def _event_json(event: Event) -> dict[str, Any]:
    line = event.to_line()
    del line["type"]
    plain: dict[str, Any] = json.loads(json.dumps(_finite(line)))
    return plain


def _finite(value: Any) -> Any:
    """JSON has no inf or NaN: they become text, as in the log."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _exit_on(events: list[Event], fail_on_event: bool) -> None:
    if fail_on_event and events:
        raise typer.Exit(EXIT_EXPLODED if any(event.kind == "exploded" for event in events) else EXIT_EVENT)


def _one_line(exc: BaseException) -> str:
    if isinstance(exc, OSError) and exc.strerror and exc.filename:
        return f"{exc.filename}: {exc.strerror}"
    return " ".join(str(exc).split()) or type(exc).__name__


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
