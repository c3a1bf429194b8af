"""Words and a progress bar on stderr; the bar for whatever takes longer than a second, where somebody watches."""

import random
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

__all__ = ["say", "track"]

T = TypeVar("T")


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield the items; after a second show how many have passed, if stderr is a terminal."""
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
    # stdout is for data: it shall not go through the bar's console
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
    """Print on stderr; where that fails (closed, on a full disk) nothing else does."""
    with suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)
