"""Text and a progress bar on stderr; the bar only in a terminal, and only for what takes longer than a second."""

import random
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from ._words import printable

__all__ = ["say", "track"]

T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield the items; after a second show how many have been yielded, if stderr is a terminal."""
    if not getattr(sys.stderr, "isatty", bool)():  # closed, or replaced by something simple
        yield from items
        return
    # importing rich.progress draws from Python's global random numbers, which belong to the user
    state = random.getstate()
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    random.setstate(state)
    start = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # stdout is for data: data must not go through the console of the bar
    progress = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
    task = progress.add_task(what, total=total)
    shown = False
    try:
        for item in items:
            yield item
            progress.advance(task)
            if not shown and time.monotonic() - start > 1.0:
                progress.start()
                shown = True
    finally:
        if shown:
            progress.stop()


def say(text: str) -> None:
    """Print on stderr; a failure to print (stderr closed, a full disk) is passed over."""
    with suppress(OSError, ValueError, AttributeError):
        print(printable(text), file=sys.stderr, flush=True)
