"""Arrays into a safetensors file, a part at a time, with the bytes that the library gives to all at once."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .late_array import PORTION, LateArray

__all__ = ["TYPES", "bytes_of", "portions", "write_tensors"]

#: Names of the types in the file, in the order in which the library writes arrays: the widest first.
TYPES = {"int64": "I64", "float64": "F64", "float32": "F32", "uint8": "U8", "bool": "BOOL"}

#: The header is as long as a multiple of so many bytes.
ALIGNED = 8


def write_tensors(file: BinaryIO, arrays: Mapping[str, NDArray[Any] | LateArray], metadata: Mapping[str, str]) -> None:
    """Write arrays of the types in TYPES with texts beside them.

    Format: https://huggingface.co/docs/safetensors, header of JSON and then the arrays, without gaps.
    """
    types = list(TYPES)
    order = sorted(arrays, key=lambda name: (types.index(str(arrays[name].dtype)), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        array = arrays[name]
        start, end = end, end + int(np.prod(array.shape)) * array.dtype.itemsize
        shape = [int(n) for n in array.shape]
        header[name] = {"dtype": TYPES[str(array.dtype)], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNED)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        for portion in portions(arrays[name]):
            file.write(bytes_of(portion))


def portions(array: NDArray[Any] | LateArray) -> Iterator[NDArray[Any]]:
    """The rows of an array, some thousand at a time, in order; those of an array in a file are checked before."""
    if isinstance(array, LateArray):
        array.rows(np.empty(0, np.int64))
    for start in range(0, len(array), PORTION):
        stop = start + PORTION
        yield array.part(start, stop) if isinstance(array, LateArray) else array[start:stop]


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The content of an array."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
