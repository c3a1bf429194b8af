"""PDB files model by model, by ASE's reader: a cell that stands once holds for all models, none is added or lost."""

import io
from collections.abc import Container, Iterator

import numpy as np
from ase import Atoms
from ase.io.formats import open_with_compression
from ase.io.proteindatabank import read_proteindatabank

from quests_md.errors import FileFormatError

from .alternate_locations import one_location
from .atom_names import elements_of_names, warn_of_names
from .elements import symbol_of
from .warned import warn
from .xyz import IncompleteError, Lines, shown_error

__all__ = ["read_pdb"]


def read_pdb(name: str, wanted: Container[int]) -> Iterator[tuple[int, Atoms | FileFormatError | None]]:
    """Yield (index, atoms) for every model in order; atoms is None where the index is not wanted.

    A CRYST1 line holds until the next one; the unit cube that says "no crystal" is none. Models without atoms are
    none. Of alternate locations one is taken (`one_location`), with a warning. Elements come from columns 77 and 78,
    else from the names of atoms, with a warning.
    """
    told = has_told_places = False
    for index, (cell, rows) in enumerate(_models(name)):
        if index not in wanted:
            yield index, None
            continue
        rows, left_out = one_location(rows)
        if left_out and not has_told_places:
            has_told_places = True
            warn(f"{name}: frame {index}: {left_out}", once="places")
        try:
            atoms, words = _atoms(cell, rows)
        except Exception as error:
            yield (
                index,
                FileFormatError(f"{name}: frame {index}: expected atoms of a PDB file, got {shown_error(error)}"),
            )
            continue
        if words and not told:
            told = True
            warn_of_names(name, words)
        yield index, atoms


def _models(name: str) -> Iterator[tuple[str, list[str]]]:
    """The CRYST1 line that holds, and the lines of atoms, of each model that has any."""
    cell, rows, is_open, n_models, last = "", [], False, 0, b""
    with open_with_compression(name, "rb") as fd:
        lines = Lines(name, fd)
        while portion := lines.read(1024):
            last = portion[-1]
            for line in portion:
                text = line.decode(errors="replace").rstrip("\r\n")
                record = text[:6].rstrip()
                if record in ("ATOM", "HETATM"):
                    rows.append(text)
                elif record == "CRYST1":
                    if rows and not is_open:  # the frame before has no END
                        yield cell, rows
                        rows, n_models = [], n_models + 1
                    cell = text
                elif record in ("MODEL", "ENDMDL", "END"):
                    if rows:
                        yield cell, rows
                        rows, n_models = [], n_models + 1
                    is_open = record == "MODEL"
        lines.raise_failure(n_models)
    is_cut = bool(rows) and _is_cut_atom(last, rows)
    if rows and (is_open or is_cut):
        raise IncompleteError(
            f"{name}: frame {n_models}: the file ends in the middle of a model, at line {lines.number}"
        )
    if rows:
        yield cell, rows


# Columns of an atom that end with its position.
_SHORTEST = 54


def _is_cut_atom(last: bytes, rows: list[str]) -> bool:
    """Whether the last line of the file has no end and is an atom with fewer columns than those above."""
    if last.endswith(b"\n"):
        return False
    if not last.startswith((b"ATOM  ", b"HETATM")):
        return bool(last.strip()) and (b"ATOM  ".startswith(last) or b"HETATM".startswith(last))
    return len(rows[-1].rstrip()) < max(_SHORTEST, *(len(row.rstrip()) for row in rows[-9:]))


def _atoms(cell: str, rows: list[str]) -> tuple[Atoms, str]:
    words = ""
    for row in rows:
        if "_" in row[30:54]:
            raise ValueError(f"expected coordinates in columns 31 to 54, got {row[30:54]!r}")
    given = [row[76:78].strip() for row in rows]
    elements = [symbol_of(text) if text else None for text in given]
    if None in elements:
        missing = [i for i, element in enumerate(elements) if element is None]
        found, words = elements_of_names((rows[i][12:16], rows[i][17:21]) for i in missing)
        for i, element in zip(missing, found, strict=True):
            elements[i] = element
    text = "\n".join(f"{row[:76]:<76}{element:>2}" for row, element in zip(rows, elements, strict=True) if element)
    if cell and np.any(np.array([float(cell[i : i + 9]) for i in (6, 15, 24)]) > 1.001):
        text = f"{cell}\n{text}"
    atoms: Atoms = read_proteindatabank(io.StringIO(text + "\nEND\n"), 0)
    return atoms, words
