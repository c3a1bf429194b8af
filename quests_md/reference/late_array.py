"""Arrays that stay in their file until they are asked for."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quests_md.errors import FileFormatError

__all__ = ["PORTION", "LateArray", "at_hand", "stored_array"]

#: Rows read together where not all are kept: what fits into a cache.
PORTION = 4096

#: Whether the portions of a whole array are what they were.
Same = Callable[[Iterable[NDArray[Any]]], bool]


class LateArray:
    """An array of rows that is read and checked when it is asked for, and kept if all of it is asked for.

    Parameters
    ----------
    shape, dtype
        Its shape and type, known before it is read.
    read
        Reads the rows from one index to another.
    is_same
        Whether the whole array, given in portions, is what it should be; None: that is not checked.
    changed
        Makes the error to raise if it is not.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        read: Callable[[int, int], NDArray[Any]],
        is_same: Same | None = None,
        changed: Callable[[], Exception] = ValueError,
    ) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._read, self._is_same, self._changed = read, is_same, changed
        self._array: NDArray[Any] | None = None
        self._sums: list[int] | None = None  # a short checksum of each portion, made when the whole was checked

    def __len__(self) -> int:
        return self.shape[0]

    def array(self) -> NDArray[Any]:
        """The whole array, read-only."""
        if self._array is None:
            array = self._read(0, len(self))
            if self._is_same is not None and not self._is_same([array]):
                raise self._changed()
            array.flags.writeable = False
            self._array = array
        return self._array

    def part(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start:stop`, read and neither checked nor kept."""
        return self._read(start, min(stop, len(self)))

    def rows(self, chosen: NDArray[np.int64]) -> NDArray[Any]:
        """The chosen rows, (m, ...), in the order given; nothing is kept.

        The first time all rows are read, to be checked, later only the portions in which chosen ones are.
        """
        if self._array is not None:
            return self._array[chosen]
        if self._is_same is not None and self._sums is None:
            sums: list[int] = []
            if not self._is_same(self._summed(sums)):
                raise self._changed()
            self._sums = sums
        order = np.argsort(chosen, kind="stable")
        ascending, out = chosen[order], np.empty((len(chosen), *self.shape[1:]), self.dtype)
        for i in np.unique(ascending // PORTION).tolist():
            start, stop = i * PORTION, (i + 1) * PORTION
            part = self.part(start, stop)
            if self._sums is not None and zlib.crc32(part.data) != self._sums[i]:
                raise self._changed()
            first, last = np.searchsorted(ascending, (start, stop))
            out[order[first:last]] = part[ascending[first:last] - start]
        return out

    def with_rows(self, chosen: NDArray[np.int64] | slice) -> "LateArray":
        """The chosen rows alone, which are not read before they are asked for either."""
        rows = np.arange(len(self))[chosen]
        return LateArray((len(rows), *self.shape[1:]), self.dtype, lambda start, stop: self.rows(rows[start:stop]))

    def _summed(self, sums: list[int]) -> Iterator[NDArray[Any]]:
        """All portions in order; a checksum of each is added to `sums`."""
        for start in range(0, len(self), PORTION):
            part = self.part(start, start + PORTION)
            sums.append(zlib.crc32(part.data))
            yield part


def stored_array(path: Path, name: str, start: int, shape: tuple[int, ...], dtype: str, is_same: Same) -> LateArray:
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

    def changed() -> FileFormatError:
        return FileFormatError(f"{path}: {name}: content differs from the checksum that the file had; {what_to_do}")

    return LateArray(shape, dtype, read, is_same, changed)


def at_hand(array: NDArray[Any] | LateArray) -> NDArray[Any]:
    """The array itself, read if it has not been."""
    return array.array() if isinstance(array, LateArray) else array
