"""Whether a frame of a file can be meant as one: elements, cell, momenta and masses."""

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from quests_md.errors import FileFormatError

__all__ = ["require_usable"]


def require_usable(name: str, index: int, atoms: Atoms) -> None:
    """Raise FileFormatError for what no simulation makes: ASE takes what a file says.

    These are elements that are none or unknown, periodic directions without a cell vector, and momenta and masses that
    are no numbers. Positions or cells that are not finite are left to the judge: they may have exploded.
    """
    place = f"{name}: frame {index}"
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
    bare = [axis for axis in range(3) if atoms.pbc[axis] and not atoms.cell.array[axis].any()]
    if bare:
        raise FileFormatError(
            f"{place}: periodic (pbc = {' '.join('FT'[int(p)] for p in atoms.pbc)}), but without a cell vector along "
            f'{", ".join("abc"[axis] for axis in bare)}; give the cell (extended XYZ: Lattice="ax ay az bx by bz cx cy '
            'cz"), or pbc="F F F" if there is none'
        )
    for key, shape in (("momenta", (len(atoms), 3)), ("masses", (len(atoms),))):
        array = atoms.arrays.get(key)
        if array is not None and (array.dtype.kind not in "fiu" or array.shape != shape):
            got = f"shape {array.shape} of type {array.dtype}"
            raise FileFormatError(f"{place}: {key}: expected numbers of shape {shape}, got {got}")
