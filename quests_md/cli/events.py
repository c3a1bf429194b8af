"""`quests-md events`: list the events of a log."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from quests_md._json import dumps
from quests_md.log import Log, read_log
from quests_md.records import KINDS, Event
from quests_md.show import (
    PICTURE_SUFFIXES,
    cluster_growth,
    event_rows,
    fold,
    latest,
    log_summary,
    terminal_width,
    timeline,
)

from .options import FailOption, check_output, event_kinds
from .output import exit_after, save_picture, tell

__all__ = ["list_events"]


def list_events(
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
    check_output("--plot", plot, PICTURE_SUFFIXES)
    check_output("--growth", growth, PICTURE_SUFFIXES)
    kinds = event_kinds(kind)
    content = read_log(log)
    events = [event for event in content.events if event.kind in kinds]
    if as_json:
        typer.echo("[" + ",\n ".join(map(dumps, events)) + "]")
    else:
        _print_events(content, events, details)
    if plot is not None:
        save_picture(timeline(content), plot)
    if growth is not None:
        try:
            save_picture(cluster_growth(content), growth)
        except ValueError as exc:  # a quiet run is no misuse
            tell(f"warning: --growth: {exc}")
    if fail_on_event:
        exit_after(events)


def _print_events(log: Log, events: Sequence[Event], details: bool) -> None:
    """Print a table of the events, descriptions of some or all of them, and the warnings of the run."""
    tell(fold(log_summary(log), sys.stderr))
    width = terminal_width(sys.stdout)
    if events or width is None:
        typer.echo("\n".join(event_rows(events, width)))
    for event in events if details else latest(events) if width is not None else ():
        typer.echo("\n" + fold(event.describe(), sys.stdout, indent=11))
    for note in log.notes:
        if note.get("level") in ("warning", "error"):
            at = "" if note.get("step") is None else f" at step {note['step']}"
            tell(f"{note['level']}{at}: {str(note.get('message')).partition(chr(10))[0]}")
