"""ASE trajectories (.traj) frame by frame: torn ones included, and damaged ones that would fill the memory."""

import json
import math
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.io.trajectory import TrajectoryReader
from ase.io.ulm import read_header
from numpy.typing import NDArray

from quests_md.errors import FileFormatError

from .start import Start
from .xyz import IncompleteError, shown_error

__all__ = ["read_ase_trajectory", "scan_ase_trajectory"]


def read_ase_trajectory(
    name: str, wanted: Container[int], *, start: Start | None = None
) -> Iterator[tuple[int, Atoms | None]]:
    """Yield (index, atoms) for every frame in order; atoms is None where the index is not wanted.

    `start`: the first frame to read.
    """
    with Path(name).open("rb") as fd:
        try:
            offsets = read_header(fd)[-1]
            if len(offsets):
                _check_arrays(fd, offsets, 0)
            trajectory = TrajectoryReader(fd)
        except Exception as error:
            raise FileFormatError(f"{name}: expected a whole ASE trajectory, got {shown_error(error)}") from error
        for index in range(0 if start is None else start.index, len(trajectory)):
            if index not in wanted:
                yield index, None
                continue
            try:
                _check_arrays(fd, offsets, index)
                atoms = trajectory[index]
            except Exception as error:
                kind = IncompleteError if _is_torn_from(index, fd, offsets, trajectory) else FileFormatError
                raise kind(f"{name}: frame {index}: the data are torn ({shown_error(error)})") from error
            yield index, atoms


def scan_ase_trajectory(name: str) -> Iterator[tuple[Start, int]]:
    """Yield the frames that the file names; how many atoms they have (here 0) is not looked at.

    Raises FileFormatError if it is no ASE trajectory.
    """
    with Path(name).open("rb") as fd:
        try:
            n_frames = len(read_header(fd)[-1])
        except Exception as error:
            raise FileFormatError(f"{name}: expected a whole ASE trajectory, got {shown_error(error)}") from error
    for index in range(n_frames):
        yield Start(index), 0


# Bytes that the arrays announced in the text of a frame may take, whatever the length of the text; and more for every
# byte of the text.
_SMALL_ARRAYS, _BYTES_PER_CHARACTER = 2**20, 64


def _check_arrays(fd: IO[bytes], offsets: NDArray[np.int64], index: int) -> None:
    """Raise ValueError if the text of a frame announces arrays larger than the text: ASE would repeat what there is."""
    fd.seek(offsets[index])
    text = fd.read(int.from_bytes(fd.read(8), "little")).decode()
    left = max(_SMALL_ARRAYS, _BYTES_PER_CHARACTER * len(text))

    def count(content: dict[str, Any]) -> dict[str, Any]:
        nonlocal left
        if "__ndarray__" in content:
            shape, dtype, _ = content["__ndarray__"]
            left -= math.prod(shape) * np.dtype(dtype).itemsize
            if left < 0:
                raise ValueError(f"expected arrays as large as their text, got one of shape {shape}")
        return content

    # constraints are a text in the text
    item = json.loads(text, object_hook=count)
    json.loads(item.get("constraints", "[]"), object_hook=count)


def _is_torn_from(first: int, fd: IO[bytes], offsets: NDArray[np.int64], trajectory: Any) -> bool:
    """Whether no frame from this one on can be read: then the end is missing, else the frame itself is damaged."""
    for index in range(first, len(trajectory)):
        try:
            _check_arrays(fd, offsets, index)
            trajectory[index]
        except Exception:  # ASE raises whatever
            continue
        return False
    return True
