"""Gromacs files (.gro) frame by frame: several frames in a file, any number of decimals, time and step of the title.

ASE's reader takes one frame of three decimals, and the first two letters of a name for an element if it can.
"""

import math
import re
from collections import deque
from collections.abc import Container, Iterator, Sequence
from itertools import count

import numpy as np
from ase import Atoms, units
from ase.io.formats import open_with_compression

from quests_md.errors import FileFormatError

from .atom_names import elements_of_names, warn_of_names
from .torn_ends import WINDOW, is_cut_short, no_line_end
from .warned import warn
from .written_numbers import to_float, to_int
from .xyz import IncompleteError, Lines, shown

__all__ = ["read_gro"]


def read_gro(name: str, wanted: Container[int]) -> Iterator[tuple[int, Atoms | FileFormatError | None]]:
    """Yield (index, atoms) for every frame in order; atoms is None where the index is not wanted.

    Lengths are converted from nm to Å, velocities become momenta. Elements come from the names of atoms
    (`element_of_name`), with a warning where these are no chemical symbols. A box of zeros is none.
    """
    told = False
    boxes: deque[bytes] = deque(maxlen=WINDOW)
    with open_with_compression(name, "rb") as fd:
        lines = Lines(name, fd)
        for index in count():
            title = lines.read(1)
            at, second = lines.number, []
            if title and title[0].isspace():  # a title may be blank, and blank lines may stand before one
                filled = lines.read_filled()
                if filled and filled[0].strip().isdigit():
                    at, second = lines.number - 1, filled
                else:
                    at, title = lines.number, filled
            if not title:
                break
            second = second or lines.read(1)
            try:
                n_atoms = to_int(second[0]) if second else 0
                if n_atoms < 0:
                    raise ValueError
            except ValueError:
                what = f"expected the number of atoms, got {shown(second[0])}; no Gromacs file?"
                raise FileFormatError(f"{name}: frame {index}, line {at + 1}: {what}") from None
            rows: list[bytes] = []
            while second and len(rows) <= n_atoms and (portion := lines.read(n_atoms + 1 - len(rows))):
                rows += portion
            if len(rows) <= n_atoms:
                lines.raise_failure(index)
                what = f"expected {n_atoms} atoms and a box, but the file ends in the middle of the frame"
                raise IncompleteError(f"{name}: frame {index} (line {at}): {what}")
            is_cut = _is_cut_box(rows[-1], boxes)
            boxes.append(rows[-1])
            if is_cut:
                what = f"the file ends within its box, {shown(rows[-1])}"
                raise IncompleteError(f"{name}: frame {index} (line {at}): {what}")
            if index not in wanted:
                yield index, None
                continue
            if is_cut is None:
                warn(f"{name}: frame {index}: {no_line_end(rows[-1])}")
            try:
                atoms, words = _atoms([row.decode(errors="replace").rstrip("\r\n") for row in rows])
            except ValueError as error:
                yield index, FileFormatError(f"{name}: frame {index} (line {at}): {error}")
                continue
            if not told:
                told = True
                warn_of_names(name, words)
            for key, value in _of_title(title[0].decode(errors="replace")).items():
                atoms.info[key] = value
            yield index, atoms
        lines.raise_failure(index)


def _is_cut_box(last: bytes, boxes: Sequence[bytes]) -> bool | None:
    """Whether the line of a box is cut, by those of frames before or by its own numbers; None: nobody can know."""
    is_cut = is_cut_short(last, [*boxes])
    if is_cut is not None:
        return is_cut
    *words, cut = last.split()
    if len(words) not in (2, 8):
        return True
    decimals = {len(word.partition(b".")[2]) for word in words}
    usual, found = decimals.pop(), len(cut.partition(b".")[2])
    if decimals or usual < _FIXED:
        return None
    return found < usual


# Decimals of a number that was written with a fixed number of them.
_FIXED = 3


def _of_title(title: str) -> dict[str, float | int]:
    found: dict[str, float | int] = {}
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    if (match := re.search(rf"\bt=\s*({number})(?![\w.])", title)) and math.isfinite(float(match[1])):
        found["time_ps"] = float(match[1])
    if match := re.search(r"\bstep=\s*(\d+)", title):
        found["step"] = int(match[1])
    return found


def _atoms(rows: list[str]) -> tuple[Atoms, str]:
    box = [to_float(word) for word in rows[-1].split()]
    if len(box) not in (3, 9):
        raise ValueError(f"expected a box of 3 or 9 numbers after the atoms, got {rows[-1]!r:.60}")
    rows = rows[:-1]
    numbers = []
    width = 8
    if rows:
        dots = [i for i, letter in enumerate(rows[0]) if letter == "." and i >= 20]
        if len(dots) < 3:
            raise ValueError(f"expected three coordinates from column 21 on, got {rows[0]!r:.80}")
        width = dots[1] - dots[0]
    for row in rows:
        fields = [row[at : at + width] for at in range(20, 20 + 6 * width, width)]
        try:
            numbers.append([to_float(field) for field in fields if field.strip()])
        except ValueError:
            raise ValueError(f"expected coordinates of {width} letters from column 21 on, got {row!r:.80}") from None
        if len(numbers[-1]) not in (3, 6) or len(numbers[-1]) != len(numbers[0]):
            raise ValueError(f"expected three coordinates, or these and three velocities, in each row, got {row!r:.80}")
    data = np.array(numbers).reshape(len(rows), len(numbers[0]) if numbers else 3)
    names = [(row[10:15], row[5:10]) for row in rows]
    elements, words = elements_of_names(names)
    real = np.array([bool(element) for element in elements], dtype=bool)
    elements, data = [element for element in elements if element], data[real]
    names = [pair for pair, is_real in zip(names, real, strict=True) if is_real]
    cell = np.diag(box[:3])
    if len(box) == 9:
        cell.flat[[1, 2, 3, 5, 6, 7]] = box[3:]
    # a box of zeros is Gromacs' way to say that there is none
    atoms = Atoms(elements, data[:, :3] * 10, cell=cell * 10, pbc=bool(np.any(box)))
    if data.shape[1] == 6:
        atoms.set_velocities(data[:, 3:] * 10 / (1000 * units.fs))
    if names:
        atoms.set_array("atomtypes", np.array([atom.strip() for atom, _ in names]))
        atoms.set_array("residuenames", np.array([residue.strip() for _, residue in names]))
    return atoms, words
