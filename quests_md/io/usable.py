"""Whether a frame can be meant as one: elements, cell, units, momenta and masses."""

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from quests_md.errors import FileFormatError

from .stated_units import make_angstrom, stated_length

__all__ = ["fault_of_frame", "require_usable"]


def fault_of_frame(atoms: Atoms) -> str | None:
    """Why atoms in memory are not to be taken as they are: no Å, no cell; and what to do. None: they are."""
    try:
        length = stated_length(atoms.info)
    except ValueError as error:
        return f"info: {error}; correct it, or remove it if positions and cell are in Å"
    if length is not None and length != 1.0:
        return (
            f"expected Å, got info that states another unit of length ({length:g} Å); multiply positions and cell by "
            f"{length:.12g} and remove the statement, or remove it if they are in Å"
        )
    return _fault_of_cell(atoms)


def _fault_of_cell(atoms: Atoms) -> str | None:
    """What is wrong with the cell of atoms that say they are periodic, and what to do; None: nothing.

    Numbers that are not finite are left to the judge: the cell may have exploded.
    """
    vectors = atoms.cell.array[atoms.pbc]
    if len(atoms) == 0 or not np.isfinite(vectors).all() or np.linalg.matrix_rank(vectors) == len(vectors):
        return None
    said = f"periodic (pbc = {' '.join('FT'[int(p)] for p in atoms.pbc)}), but "
    bare = [axis for axis in range(3) if atoms.pbc[axis] and not atoms.cell.array[axis].any()]
    if bare:
        return said + (
            f"without a cell vector along {', '.join('abc'[axis] for axis in bare)}; give the cell (extended XYZ: "
            'Lattice="ax ay az bx by bz cx cy cz"; ASE: atoms.set_cell), or pbc="F F F" if there is none'
        )
    return said + f'its cell has no volume: {atoms.cell.array.tolist()}; give the cell, or pbc="F F F" if there is none'


def require_usable(name: str, index: int, atoms: Atoms, *, is_first: bool) -> None:
    """Raise FileFormatError for what no simulation makes: ASE takes what a file says.

    These are elements that are none or unknown, periodic directions without a cell vector, and momenta and masses that
    are no numbers; in the first frame a cell without a volume too, which later may be that of an explosion. Positions
    or cells that are not finite are left to the judge: they may have exploded.
    """
    place = f"{name}: frame {index}"
    try:
        make_angstrom(atoms)
    except ValueError as error:
        raise FileFormatError(f"{place}: its info: {error}") from None
    strange = np.flatnonzero((atoms.numbers < 0) | (atoms.numbers >= len(chemical_symbols)))
    if len(strange):
        got = f"atomic number {atoms.numbers[strange[0]]} for atom {strange[0]}"
        raise FileFormatError(f"{place}: expected chemical elements, got {got}; correct this frame")
    unknown = np.flatnonzero(atoms.numbers == 0)
    if len(unknown):
        raise FileFormatError(
            f"{place}: expected chemical elements, got X, an unknown one, for {len(unknown)} of {len(atoms)} atoms "
            f"(atom {unknown[0]} first); replace X by chemical symbols, or convert the file to extended XYZ "
            "with elements"
        )
    fault = _fault_of_cell(atoms)
    if fault is not None and (is_first or not atoms.cell.array[atoms.pbc].any(axis=1).all()):
        raise FileFormatError(f"{place}: {fault}")
    for key, shape in (("momenta", (len(atoms), 3)), ("masses", (len(atoms),))):
        array = atoms.arrays.get(key)
        if array is not None and (array.dtype.kind not in "fiu" or array.shape != shape):
            got = f"shape {array.shape} of type {array.dtype}"
            raise FileFormatError(f"{place}: {key}: expected numbers of shape {shape}, got {got}")
