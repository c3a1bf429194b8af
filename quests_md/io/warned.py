"""Warnings of readers: at the place that asked for the frames, or handed to whoever reads for another process."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["taking_warnings", "warn"]

_ROOM = __name__.rpartition(".")[0]

#: Takes a warning and its kind in the place of the user.
Taker = Callable[[str, str], None]
_taker: ContextVar[Taker | None] = ContextVar("quests_md_taker_of_warnings", default=None)


def warn(message: str, once: str = "") -> None:
    """Warn at the first caller outside this room: generators run at any depth.

    `once`: its kind, where a file gives one warning of a kind; "first" for those of the first frame.
    """
    take = _taker.get()
    if take is not None:
        take(message, once)
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_ROOM):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


@contextmanager
def taking_warnings(take: Taker) -> Iterator[None]:
    """Hand the warnings of readers to `take`, in this thread alone."""
    token = _taker.set(take)
    try:
        yield
    finally:
        _taker.reset(token)
