"""Warnings of readers, at the place that asked for the frames."""

import sys
import warnings

__all__ = ["warn"]

_ROOM = __name__.rpartition(".")[0]


def warn(message: str) -> None:
    """Warn at the first caller outside this room: generators run at any depth."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_ROOM):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
