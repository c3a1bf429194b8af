"""Elements of atoms that a file names (CA, OW, HG11) and does not give: PDB files without elements, Gromacs files."""

import re
from collections.abc import Iterable

from .elements import SYMBOLS
from .warned import warn

__all__ = ["element_of_name", "elements_of_names", "warn_of_names"]

# Residues whose atoms are of H, C, N, O, P and S alone, and whose names begin with the element.
_RESIDUES = (
    "ALA ARG ASN ASP CYS CYX GLN GLU GLY HIS HID HIE HIP HSD HSE HSP ILE LEU LYS LYN MET PHE PRO SER THR TRP TYR VAL "
    "ACE NME NMA NH2 ASH GLH DA DC DG DT DU ADE CYT GUA URA THY"
)
_WATER = frozenset(("SOL", "HOH", "WAT", "H2O", "TIP", "TIP3", "TIP4", "TIP5", "TP3", "T4P", "SPC", "SPCE"))
# Ions of CHARMM and AMBER that are not called as their element is, and residues of ions of several elements.
_IONS = {
    "SOD": "Na",
    "POT": "K",
    "CLA": "Cl",
    "CAL": "Ca",
    "CES": "Cs",
    "RUB": "Rb",
    "LIT": "Li",
    "BAR": "Ba",
    "IOD": "I",
}
_OF_IONS = ("ION", "IONS")
_BIOMOLECULES = _WATER | frozenset(_RESIDUES.split())


def element_of_name(name: str, residue: str) -> str | None:
    """The element of an atom of this name in this residue; None where it may be of several or of none.

    Cu and Cl1 are what they say; in residues of proteins, nucleic acids and water the first letter counts (CA is C);
    an atom that is called as its residue is an ion (CA in CA is Ca, SOD in SOD is Na), and None where it is none that
    is known; elsewhere CA may be C or Ca, and is None. Virtual sites of water (MW, LP1, EPW) are no atoms, and have the
    empty text.
    """
    match = re.match(r"\d*([A-Za-z]+)", name.strip())
    if match is None:
        return None
    base, residue = match[1], residue.strip()
    first, two = base[0].upper(), base[:2].capitalize()
    if re.fullmatch("[A-Z][a-z]", base) and base in SYMBOLS:
        return base
    if residue.upper() in _WATER and re.fullmatch("M|MW|LP|EP|EPW|OM", base.upper()):
        return ""
    if residue.upper() in _BIOMOLECULES:
        return first if first in "HCNOPS" else None
    ion = re.sub("[^A-Z]", "", residue.upper())
    if (ion == base.upper() and len(ion) > 1) or residue.upper() in _OF_IONS:
        return base.capitalize() if base.capitalize() in SYMBOLS else _IONS.get(base.upper())
    if base.upper() in _IONS:
        return _IONS[base.upper()] if not residue else None
    found = {symbol for symbol in (first, two if len(base) > 1 else first) if symbol in SYMBOLS}
    return found.pop() if len(found) == 1 else None


def elements_of_names(names: Iterable[tuple[str, str]]) -> tuple[list[str], str]:
    """The elements of atoms with these names and residues, and how names were understood, in words.

    Raises ValueError for the first name that is not clear.
    """
    known: dict[tuple[str, str], str] = {}
    elements = []
    for pair in names:
        if pair not in known:
            element = element_of_name(*pair)
            if element is None:
                name, residue = pair[0].strip(), pair[1].strip()
                raise ValueError(
                    f"the name {name!r} of an atom in residue {residue!r} does not say of which element it is, and no "
                    "column does; write a PDB file with elements (columns 77 and 78) or an extended XYZ file"
                )
            known[pair] = element
        elements.append(known[pair])
    of_elements: dict[str, list[str]] = {}
    for (name, _), element in known.items():
        listed = of_elements.setdefault(element, [])
        if name.strip() not in listed:
            listed.append(name.strip())
    words = "; ".join(
        f"{element or 'no atoms, left out'}: {', '.join(listed[:6])}{' ...' if len(listed) > 6 else ''}"
        for element, listed in sorted(of_elements.items())
    )
    return elements, words


def warn_of_names(name: str, words: str) -> None:
    """Warn that elements come from the names of atoms, unless every name is a chemical symbol."""
    pairs = [part.split(": ") for part in words.split("; ") if part]
    if any(named != element for element, named in pairs):
        warn(f"{name}: elements are taken from the names of atoms ({words}); check them", once="names")
