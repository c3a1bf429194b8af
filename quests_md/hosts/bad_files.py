"""Files of a trajectory that cannot be read: named where they come, and raised at the end, so that others are read."""

import os
import warnings
from collections.abc import Generator
from typing import TypeVar

from quests_md.errors import FileFormatError

__all__ = ["BadFiles"]

T = TypeVar("T")


class BadFiles:
    """Keeps the errors of files until the other files have been read."""

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    def add(self, error: Exception) -> None:
        """Keep the error of a file."""
        self._errors.append(error)

    def told(self, items: Generator[T, None, None]) -> Generator[T, None, None]:
        """Yield the items; warn of bad files before those that come after them, raise at the end if there are any."""
        n_told = 0
        try:
            for item in items:
                for error in self._errors[n_told:]:
                    warnings.warn(f"{_words(error)}; the files after it are read", stacklevel=2)
                n_told = len(self._errors)
                yield item
        finally:
            items.close()
        if len(self._errors) > 1:
            texts = "; ".join(map(_words, self._errors))
            raise FileFormatError(f"{len(self._errors)} files could not be read to their end: {texts}")
        if self._errors:
            raise self._errors[0]


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)
