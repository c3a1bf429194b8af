"""Arrays that stay in their file until they are asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quests_md.errors import FileFormatError

__all__ = ["LateArray", "at_hand", "stored_array"]


class LateArray:
    """An array of rows that is read when it is first asked for, checked, and then kept.

    Parameters
    ----------
    shape
        Its shape, known before it is read.
    read
        Reads the rows from one index to another.
    check
        Raises if the whole array, once read, is not what it should be.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        read: Callable[[int, int], NDArray[Any]],
        check: Callable[[NDArray[Any]], None] | None = None,
    ) -> None:
        self.shape = shape
        self._read, self._check = read, check
        self._array: NDArray[Any] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def array(self) -> NDArray[Any]:
        """The whole array, read-only."""
        if self._array is None:
            array = self._read(0, len(self))
            if self._check is not None:
                self._check(array)
            array.flags.writeable = False
            self._array = array
        return self._array

    def part(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start:stop`, read and not kept."""
        return self._read(start, min(stop, len(self)))

    def with_rows(self, chosen: NDArray[np.int64] | slice) -> "LateArray":
        """The chosen rows alone, which are not read before they are asked for either."""
        rows = np.arange(len(self))[chosen]
        return LateArray((len(rows), *self.shape[1:]), lambda start, stop: self.array()[rows[start:stop]])


def stored_array(
    path: Path, name: str, start: int, shape: tuple[int, ...], dtype: str, is_same: Callable[[NDArray[Any]], bool]
) -> LateArray:
    """An array of rows in a file, from the byte `start` on.

    Whoever asks for it gets a FileNotFoundError if the file has gone, or a FileFormatError if `is_same` denies that it
    is the array that was there before.
    """
    place, width = path.absolute(), int(np.prod(shape[1:]))
    what_to_do = "it stays in the file until it is asked for; load the reference again, from a file that stays"

    def read(first: int, last: int) -> NDArray[Any]:
        offset = start + first * width * np.dtype(dtype).itemsize
        try:
            values = np.fromfile(place, dtype, count=(last - first) * width, offset=offset)
            return values.reshape(last - first, *shape[1:])
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: {name}: the file is not there any more; {what_to_do}") from None
        except ValueError:  # too few values
            raise changed() from None

    def check(array: NDArray[Any]) -> None:
        if not is_same(array):
            raise changed()

    def changed() -> FileFormatError:
        return FileFormatError(f"{path}: {name}: content differs from the checksum that the file had; {what_to_do}")

    return LateArray(shape, read, check)


def at_hand(array: NDArray[Any] | LateArray) -> NDArray[Any]:
    """The array itself, read if it has not been."""
    return array.array() if isinstance(array, LateArray) else array
