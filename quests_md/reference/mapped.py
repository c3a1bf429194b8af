"""Arrays mapped from a file are pickled as their place in it: another process that sees the file maps them too."""

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from quests_md.errors import FileFormatError

__all__ = ["MappedArray", "as_sent", "map_array", "mapped_again"]

#: What the files of mappings were like when they were mapped: another file may have taken the name since.
_MAPPED: WeakKeyDictionary[mmap.mmap, "tuple[Path, tuple[int, int]]"] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class MappedArray:
    """Where in which file an array is."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str
    state: tuple[int, int]
    """Length of the file when it was mapped, and time of its last change, ns."""


def map_array(path: Path, dtype: Any, offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array in a file, mapped; what the file is like is remembered."""
    known = path.absolute(), _state(path)
    array = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
    base = _mapping(array)
    if base is not None:
        _MAPPED[base] = known
    return array


def as_sent(array: NDArray[Any]) -> NDArray[Any] | MappedArray:
    """What is pickled of an array: its place, if it is mapped from a file that is there and as it was; else itself."""
    base = _mapping(array)
    known = None if base is None else _MAPPED.get(base)
    if base is None or known is None or not array.flags.c_contiguous or not math.prod(array.shape):
        return np.asarray(array)
    path, state = known
    try:
        if _state(path) != state:
            return np.asarray(array)
    except OSError:
        return np.asarray(array)
    mapped_from: int = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY  # type: ignore[attr-defined]
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
    return map_array(array.path, array.dtype, array.offset, array.shape)


def _mapping(array: NDArray[Any]) -> mmap.mmap | None:
    """What a mapped array is a part of; None: it is in memory."""
    base: Any = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) and isinstance(array, np.memmap) else None


def _state(path: Path) -> tuple[int, int]:
    """Length, and time of the last change, ns: alike on all machines that see the file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns
