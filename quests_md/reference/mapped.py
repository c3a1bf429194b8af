"""Arrays mapped from a file are pickled as their place in it: another process that sees the file maps them too."""

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quests_md.errors import FileFormatError

__all__ = ["MappedArray", "as_sent", "mapped_again"]


@dataclass(frozen=True, slots=True)
class MappedArray:
    """Where in which file an array is."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str
    state: tuple[int, int]
    """Length of the file, and time of its last change, ns."""


def as_sent(array: NDArray[Any]) -> NDArray[Any] | MappedArray:
    """What is pickled of an array: its place, if it is mapped from a file that is there and as it was; else itself."""
    name, base = getattr(array, "filename", None), array.base
    while isinstance(base, np.ndarray):
        base = base.base
    if name is None or not isinstance(base, mmap.mmap) or not array.flags.c_contiguous or not math.prod(array.shape):
        return np.asarray(array)
    path = Path(name).absolute()
    try:
        state = _state(path)
    except OSError:
        return np.asarray(array)
    mapped_from: int = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    offset = mapped_from + array.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data
    return MappedArray(path, offset, array.shape, array.dtype.str, state)


def mapped_again(array: NDArray[Any] | MappedArray) -> NDArray[Any]:
    """The array that was sent.

    Raises
    ------
    FileNotFoundError
        If its file is not seen here.
    FileFormatError
        If its file has changed.
    """
    if not isinstance(array, MappedArray):
        return array
    what = "the reference was loaded with mmap=True, and is sent to other processes by the name of its file"
    try:
        state = _state(array.path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{array.path}: no such file here; {what}: give them the file, or do not map it"
        ) from None
    if state != array.state:
        raise FileFormatError(f"{array.path}: the file has changed since it was mapped; {what}: load it again")
    return np.memmap(array.path, dtype=array.dtype, mode="r", offset=array.offset, shape=array.shape)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
