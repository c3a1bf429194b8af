"""VASP's XDATCAR step by step: torn ones, those of growing runs, and those whose cell changes.

ASE's reader loses all steps where the last one is torn, and reads the whole file first.
"""

import math
import re
from collections.abc import Container, Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.io.formats import open_with_compression
from numpy.typing import NDArray

from quests_md.errors import FileFormatError

from .elements import LabelError, symbols_of_labels
from .torn_ends import WINDOW, is_cut_short, no_line_end
from .warned import warn
from .written_numbers import to_float, to_int
from .xyz import PORTION, IncompleteError, Lines, shown

__all__ = ["read_xdatcar"]

_STEP = re.compile(rb"\s*Direct configuration\s*=\s*(\d+)")


class _Head(NamedTuple):
    cell: NDArray[np.float64]
    symbols: list[str]
    counts: list[int]

    @property
    def n_atoms(self) -> int:
        """Atoms of each step that follows."""
        return sum(self.counts)


def read_xdatcar(name: str, wanted: Container[int]) -> Iterator[tuple[int, Atoms | FileFormatError | None]]:
    """Yield (index, atoms) for every step in order; atoms is None where the index is not wanted.

    The number of a step is ``info["step"]``. A cell holds until the next one. The system is periodic.
    """
    head = None
    above: list[bytes] = []
    with open_with_compression(name, "rb") as fd:
        lines = Lines(name, fd)
        for index in count():
            line = lines.read(1)
            if line and not _STEP.match(line[0]):
                line += lines.read(6)
                if not b"".join(line).strip():
                    break
                place = f"{name}: frame {index}, line {lines.number - len(line) + 1}"
                if len(line) < 7 or not line[6].endswith(b"\n"):
                    raise _torn(lines, index)
                head = _head(place, line)
                line = lines.read(1)
                if line and not _STEP.match(line[0]):
                    raise FileFormatError(
                        f"{place}: expected 'Direct configuration=' after the head of an XDATCAR of VASP 5 or later, "
                        f"got {shown(line[0])}"
                    )
                if not line:
                    raise _torn(lines, index)
            if not line:
                break
            if head is None:
                raise FileFormatError(f"{name}: expected an XDATCAR, got {shown(line[0])} without cell and elements")
            step, rows = _STEP.match(line[0]), lines.read(min(head.n_atoms, PORTION))
            while rows and len(rows) < head.n_atoms and (portion := lines.read(min(head.n_atoms - len(rows), PORTION))):
                rows += portion
            is_cut = is_cut_short(rows[-1], [*above, *rows[-WINDOW:-1]]) if rows else False
            if len(rows) < head.n_atoms or is_cut or step is None:
                raise _torn(lines, index)
            above = rows[-WINDOW:]
            if index not in wanted:
                yield index, None
                continue
            if is_cut is None:
                warn(f"{name}: frame {index}: {no_line_end(rows[-1])}")
            try:
                scaled = np.array([[to_float(word) for word in row.split()[:3]] for row in rows]).reshape(-1, 3)
            except ValueError as error:
                at = lines.number - len(rows) + 1
                yield index, FileFormatError(f"{name}: frame {index}, lines {at} to {lines.number}: {error}")
                continue
            symbols = [symbol for symbol, n in zip(head.symbols, head.counts, strict=True) for _ in range(n)]
            atoms = Atoms(symbols, cell=head.cell, scaled_positions=scaled, pbc=True)
            atoms.info["step"] = int(step[1])
            yield index, atoms
        lines.raise_failure(index)


def _torn(lines: Lines, index: int) -> FileFormatError:
    lines.raise_failure(index)
    return IncompleteError(
        f"{lines.name}: frame {index}: the file ends in the middle of the step, at line {lines.number}"
    )


def _head(place: str, lines: list[bytes]) -> _Head:
    try:
        scale = to_float(lines[1])
        cell = np.array([[to_float(word) for word in line.split()[:3]] for line in lines[2:5]]).reshape(3, 3)
        counts = [to_int(word) for word in lines[6].split()]
        labels = lines[5].decode().split()
        if scale == 0 or len(labels) != len(counts) or min(counts, default=0) < 1 or all(map(str.isdigit, labels)):
            raise ValueError
    except ValueError:
        what = "expected a comment, a scale, three cell vectors, elements and their numbers, as VASP 5 and later write"
        raise FileFormatError(f"{place}: {what}, got {shown(b' '.join(lines[:7]))}") from None
    if not 1e-6 < abs(np.linalg.det(cell)) < math.inf:
        raise FileFormatError(
            f"{place}: expected three cell vectors that are not flat, got {shown(b' '.join(lines[2:5]))}"
        )
    try:
        symbols = symbols_of_labels(labels)
    except LabelError as error:
        raise FileFormatError(f"{place}: {error}") from error
    # a negative scale is the volume
    factor = scale if scale > 0 else (-scale / abs(np.linalg.det(cell))) ** (1 / 3)
    return _Head(cell * factor, [symbols[label] for label in labels], counts)
