"""Units of length that the info of a frame states: what is no Å is made Å, and the statement goes.

References: the keys are those of extended XYZ files in use; 1 bohr is ase.units.Bohr (CODATA 2014).
"""

import re
from typing import Any

from ase import Atoms, units

__all__ = ["known_length", "make_angstrom", "stated_length"]

# Å
_LENGTHS = {
    **dict.fromkeys(("angstrom", "angstroms", "angström", "angstroem", "ang", "ang.", "aa", "a", "å"), 1.0),
    **dict.fromkeys(("lj", "sigma", "reduced"), 1.0),  # taken as they are
    **dict.fromkeys(("bohr", "bohrs", "bohr_radius", "bohr radius", "a0", "a_0"), units.Bohr),
    # some of them are styles of units in LAMMPS, whose "metal" and "real" are in Å
    **dict.fromkeys(
        ("electron", "au", "a.u.", "a.u", "atomic", "atomic_unit", "atomic_units", "atomic units"), units.Bohr
    ),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres", "nano"), 10.0),
    **dict.fromkeys(("pm", "picometer", "picometers", "picometre", "picometres"), 0.01),
    **dict.fromkeys(("um", "micron", "micrometer", "micrometre", "micro"), 1e4),
    **dict.fromkeys(("cm", "centimeter", "centimetre", "cgs"), 1e8),
    **dict.fromkeys(("m", "meter", "metre", "si"), 1e10),
}

#: Keys of info, and of the object that info["units"] may be, whose text is a unit of length.
_KEYS = re.compile("(length|distance|positions?|pos)s?_?units?|units?_?(of_)?(length|distance|positions?|pos)s?")
_PARTS = ("positions", "position", "pos", "length", "lengths", "distance", "distances", "coordinates")


def known_length(name: str) -> float:
    """The unit of length of this name, in Å; ValueError for none that is known."""
    key = name.strip().lower()
    if key not in _LENGTHS:
        raise ValueError(f"expected a unit of length such as angstrom, bohr or nm, got {name!r:.60}")
    return _LENGTHS[key]


def stated_length(info: dict[str, Any]) -> float | None:
    """The unit of length that the info of a frame states, in Å; None where it states none.

    It is stated by info["units"], a text or an object with "positions" or "length", or by keys such as "length_unit".
    Texts under "units" that are no lengths say nothing, such as "metal". Raises ValueError for a length that is not
    known.
    """
    for key, value in info.items():
        if isinstance(value, dict) and _is_of_units(key):
            of_lengths = [unit for part, unit in value.items() if _is_part(part) and isinstance(unit, str)]
            if of_lengths:
                return known_length(of_lengths[0])
        elif _is_statement(key, value):
            return known_length(value)
    return None


def make_angstrom(atoms: Atoms) -> None:
    """Change positions and cell of a frame that says it is in another unit to Å, in place; ValueError as above."""
    length = stated_length(atoms.info)
    if length is None or length == 1.0:
        return
    atoms.set_cell(atoms.cell.array * length)
    atoms.positions *= length
    for key, value in list(atoms.info.items()):
        if isinstance(value, dict) and _is_of_units(key):
            atoms.info[key] = {part: unit for part, unit in value.items() if not _is_part(part)}
        elif _is_statement(key, value):
            del atoms.info[key]


def _is_of_units(key: Any) -> bool:
    return str(key).lower() in ("units", "unit")


def _is_part(part: Any) -> bool:
    return str(part).lower() in _PARTS


def _is_statement(key: Any, value: Any) -> bool:
    """Whether an entry of info is a text that states the unit of length."""
    if not isinstance(value, str):
        return False
    if _is_of_units(key):  # a word that may be meant of other things, such as "m" or "si", says nothing
        return 0.01 <= _LENGTHS.get(value.strip().lower(), 0.0) <= 10.0
    return bool(_KEYS.fullmatch(str(key).lower()))
