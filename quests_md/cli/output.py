"""What commands leave behind: messages on stderr, pictures, exit codes."""

import sys
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from quests_md.records import Event

if TYPE_CHECKING:  # importing matplotlib takes half a second
    from matplotlib.figure import Figure

__all__ = ["ExitCode", "exit_after", "save_picture", "tell"]


class ExitCode(IntEnum):
    """How a command ended, unless all was fine (0)."""

    BROKEN_PIPE = 1
    BAD_INPUT = 2
    EVENT = 3
    EXPLODED = 4
    INTERRUPTED = 130


def tell(text: str) -> None:
    """Print a message on stderr; stdout is for data."""
    print(text, file=sys.stderr, flush=True)


def save_picture(figure: "Figure", path: Path) -> None:
    """Write a picture and say so."""
    figure.savefig(path, dpi=130)
    tell(f"wrote {path}")


def exit_after(events: Sequence[Event]) -> None:
    """End with the exit code that --fail-on-event promises, if there are events."""
    if events:
        raise typer.Exit(ExitCode.EXPLODED if any(event.kind == "exploded" for event in events) else ExitCode.EVENT)
