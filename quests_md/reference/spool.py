"""Arrays that grow piece by piece in files without a name, so that memory holds none of them."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeAlias, overload
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from quests_md._files import naming

__all__ = ["Pieces", "Spool", "columns_of", "joined", "kept", "like"]

#: Entries that are taken together where an array is put into another order.
TOGETHER = 2**16


class Spool(Sequence[NDArray[Any]]):
    """Pieces of one array, written one after the other to a file that vanishes with the spool or the process.

    Parameters
    ----------
    target
        The file that is being built, which errors name. The spool is in its folder, which must have room for the array.
    dtype, entry
        Type, and shape of one entry; None: any length, the same in all pieces.
    """

    def __init__(self, target: Path, dtype: Any, entry: tuple[int | None, ...]) -> None:
        self._target, self._dtype, self.entry = target, np.dtype(dtype), entry
        folder = target.parent
        try:
            self._file = TemporaryFile(dir=folder)  # noqa: SIM115  # it stays open as long as the array is in use
        except OSError as exc:
            text = f"cannot be written to ({exc.strerror}); create the folder or choose another"
            raise type(exc)(exc.errno, text, str(folder)) from None
        finalize(self, self._file.close)  # a mapped array outlives it
        self._ends = [0]
        self._array: NDArray[Any] | None = None

    def append(self, piece: NDArray[Any]) -> None:
        """Write one more piece."""
        array = np.ascontiguousarray(piece, self._dtype)
        self.entry = array.shape[1:]
        try:
            self._file.write(array.data)
        except OSError as exc:
            raise naming(exc, self._target) from None
        self._ends.append(self._ends[-1] + len(array))
        self._array = None

    def array(self) -> NDArray[Any]:
        """All pieces in one array, mapped from the file."""
        if self._array is None:
            shape = (self._ends[-1], *(n or 0 for n in self.entry))
            if not np.prod(shape):  # nothing can be mapped
                return np.empty(shape, self._dtype)
            try:
                self._file.flush()
            except OSError as exc:
                raise naming(exc, self._target) from None
            self._array = np.asarray(np.memmap(self._file, self._dtype, "r", shape=shape))
        return self._array

    def like(self, pieces: Iterable[NDArray[Any]]) -> "Spool":
        """A spool of other pieces in the same folder."""
        other = Spool(self._target, self._dtype, self.entry)
        for piece in pieces:
            other.append(piece)
        return other

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, i: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, i: slice) -> list[NDArray[Any]]: ...
    def __getitem__(self, i: int | slice) -> NDArray[Any] | list[NDArray[Any]]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self.array()[self._ends[i] : self._ends[i + 1]]

    def taken(self, order: NDArray[np.int64]) -> NDArray[Any]:
        """The entries of all pieces in another order, mapped from a file of their own."""
        array, starts = self.array(), range(0, len(order), TOGETHER)
        return self.like(array[order[start : start + TOGETHER]] for start in starts).array()


#: Pieces of one array: in a file, or in memory.
Pieces: TypeAlias = Spool | list[Any]


def kept(pieces: Pieces, keep: Sequence[int]) -> Pieces:
    """Some of the pieces."""
    chosen: Iterator[Any] = (pieces[i] for i in keep)
    return pieces.like(chosen) if isinstance(pieces, Spool) else list(chosen)


def like(pieces: Pieces, others: Iterable[NDArray[Any]]) -> Pieces:
    """Other pieces, kept in the same way."""
    return pieces.like(others) if isinstance(pieces, Spool) else list(others)


def joined(pieces: Pieces) -> NDArray[Any]:
    """All pieces, one at least, in one array."""
    return pieces.array() if isinstance(pieces, Spool) else np.concatenate(pieces)


def columns_of(pieces: Pieces, default: int) -> int:
    """Columns of the pieces, or the default if there are none."""
    if not len(pieces):
        return default
    entry = pieces.entry if isinstance(pieces, Spool) else pieces[0].shape[1:]
    return entry[0] or 0
