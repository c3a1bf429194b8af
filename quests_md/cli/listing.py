"""The command that lists the events of a log."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from quests_md._json import dumps
from quests_md._words import many, one_line
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

from .arguments import check_apart, check_output, put, save_picture, split_names, tell
from .exit_codes import FailOption, exit_after

__all__ = ["list_events"]

#: Warnings of a log that are shown, and letters of each.
MOST_NOTES, LONGEST_NOTE = 20, 1000


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
        save_picture(timeline(content), plot)
    if growth is not None:
        try:
            save_picture(cluster_growth(content), growth)
        except ValueError as exc:  # a quiet run is no misuse
            tell(f"warning: --growth: {exc}")
    exit_after(events, fail_on_event)


def _print_events(log: Log, events: Sequence[Event], details: bool) -> None:
    """Print a table of the events, descriptions of some or all of them, and the warnings of the run."""
    tell(fold(log_summary(log), sys.stderr))
    for stop in log.stops[-1:]:
        tell(fold(f"stopped: {one_line(stop['stopped'], LONGEST_NOTE)}", sys.stderr))
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
