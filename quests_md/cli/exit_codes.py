"""How a command ends."""

import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated

from typer import Exit, Option

from quests_md._words import told
from quests_md.records import KINDS, Event
from quests_md.show import fold

from .arguments import tell

__all__ = ["ExitCode", "FailOption", "exit_after"]

FailOption = Annotated[
    bool, Option("--fail-on-event", help="Exit with 3 after an event (novel or transition), 4 after an explosion.")
]


class ExitCode(IntEnum):
    """How a command ended, unless all was fine (0)."""

    FAILED = 1  # an error of LAMMPS, or nobody reads what is printed
    BAD_INPUT = 2
    EVENT = 3
    EXPLODED = 4
    WAITING = 5
    INTERRUPTED = 130


def exit_after(events: Sequence[Event], fail_on_event: bool) -> None:
    """End with the exit code that --fail-on-event promises, if the option was given and there are events."""
    if events and fail_on_event:
        gravest = max(events, key=lambda event: (KINDS.index(event.kind), -event.id))
        code = ExitCode.EXPLODED if gravest.kind == "exploded" else ExitCode.EVENT
        tell(fold(f"exit code {code.value}: {told(gravest)}", sys.stderr))
        raise Exit(code)
