"""What the labels of atoms in files mean: chemical symbols, isotopes, symbols with a number; never a guess."""

import re
import shlex
from collections.abc import Iterable, Sequence

from ase.data import chemical_symbols

__all__ = [
    "SYMBOLS",
    "LabelError",
    "contradiction",
    "doubt_of_labels",
    "escaped",
    "isotope_mass",
    "symbol_of",
    "symbols_of_labels",
]

#: Symbols of the elements, without ASE's X.
SYMBOLS = frozenset(chemical_symbols[1:])

#: Isotopes that have a symbol of their own, all of hydrogen, and their masses in u.
ISOTOPE_MASSES = {"D": 2.01410178, "T": 3.01604928}


class LabelError(ValueError):
    """A label is no chemical symbol; says which, and what to do."""

    def __init__(self, label: str, message: str) -> None:
        super().__init__(message)
        self.label = label


def symbol_of(label: str) -> str | None:
    """The chemical symbol that a label is, in any case, or begins with: D is H, Cu1, Cu_a and Cu2+ are Cu.

    None where the label may be of several elements or of none: numbers, CB, OW.
    """
    if label.upper() in ISOTOPE_MASSES:
        return "H"
    if label.capitalize() in SYMBOLS:
        return label.capitalize()
    match = re.fullmatch(r"([A-Z][a-z]?)[^A-Za-z].*", label)
    if match is None:
        return None
    return "H" if match[1] in ISOTOPE_MASSES else match[1] if match[1] in SYMBOLS else None


def isotope_mass(label: str) -> float | None:
    """The mass in u of the isotope that a label names, also with a number (D1); None for an element."""
    match = re.fullmatch(r"([DdTt])(?:[^A-Za-z].*)?", label)
    return None if match is None else ISOTOPE_MASSES[match[1].upper()]


def symbols_of_labels(labels: Iterable[str], types: Sequence[str] | None = None) -> dict[str, str]:
    """The chemical symbol of each label of a frame; LabelError for the first that is not clear.

    Numbers are atom types where `types` gives a symbol for each; else they are refused. Two capital letters (CA) are a
    symbol unless other labels show that the labels are names of atoms (C1).
    """
    found: dict[str, str] = {}
    labels = sorted(set(labels))
    for label in labels:
        if label.isdigit() and types is not None:
            if not 1 <= int(label) <= len(types):
                named = f"`types` names {len(types)} ({', '.join(types)}), but an atom is of type {label}"
                raise LabelError(label, f"{named}; give a symbol for each type")
            found[label] = types[int(label) - 1]
            continue
        symbol = symbol_of(label)
        if symbol is None:
            raise LabelError(label, _advice(label))
        found[label] = symbol
    are_names = any(len(label) > len(found[label]) and not label.isdigit() for label in labels)
    for label in labels:
        if (
            are_names
            and len(label) == 2
            and label.isalpha()
            and label.isupper()
            and label not in SYMBOLS
            and label[0] in SYMBOLS
        ):
            both = (
                f"{label!r} may be {label[0]} or {label.capitalize()}, since labels of other atoms are names of atoms"
            )
            raise LabelError(label, f"{both}; replace it by the chemical symbol in the whole file")
    return found


def doubt_of_labels(labels: Iterable[str]) -> str | None:
    """Say that labels in capital letters are read as symbols and may be names of atoms; None: they are not.

    CA may be a carbon, and HO a hydrogen, where C, or H, or several of C, H, N and O stand beside it.
    """
    labels = set(labels)
    organic = len(labels & {"C", "H", "N", "O"}) > 1
    doubted = [
        label
        for label in sorted(labels)
        if len(label) == 2 and label.isupper() and label.capitalize() in SYMBOLS and label[0] in SYMBOLS
        if label[0] in labels or (organic and label[0] in "CHNOPS") or any(other[1:].islower() for other in labels)
    ]
    if not doubted:
        return None
    read = ", ".join(f"{label} as {label.capitalize()}" for label in doubted)
    return (
        f"labels in capital letters are read as chemical symbols ({read}); if they are names of atoms, replace them by "
        "symbols in the whole file"
    )


def contradiction(labels: Sequence[str], numbers: Sequence[int]) -> tuple[int, str] | None:
    """The first atom whose label is the symbol of another element than its atomic number says, and this in words."""
    for i, (label, number) in enumerate(zip(labels, numbers, strict=True)):
        symbol = label.capitalize()
        by_number = chemical_symbols[number] if 0 < number < len(chemical_symbols) else "none"
        if symbol not in SYMBOLS or symbol == by_number or (label.isupper() and label[0] == by_number):
            continue
        return i, f"the column of symbols says {label}, that of atomic numbers {number} ({by_number})"
    return None


def _advice(label: str) -> str:
    if label.isdigit():
        return (
            f"{label!r} is a number, no chemical symbol; if numbers are atom types, give a symbol for each: --types "
            "Cu,Zr (types=('Cu', 'Zr')); if they are atomic numbers of an extended XYZ file, name their column so: "
            "Properties=Z:I:1:pos:R:3"
        )
    if label.upper() == "X":
        return f"{label!r} is an atom of an unknown element; replace it by a chemical symbol in the whole file"
    script = shlex.quote(f"s/^[[:space:]]*{escaped(label)}[[:space:]]/Cu /")
    return (
        f"{label!r} is no chemical symbol; replace it by one in the whole file (where labels stand first: sed -E "
        f"{script}, say)"
    )


def escaped(text: str) -> str:
    """A text as it is written in a pattern of `sed -E` between slashes."""
    return re.sub(r"([.\[\]*^$+?(){}|/\\])", r"\\\1", text)
