"""Of which elements the atoms of a LAMMPS dump are: by types, labels or masses, never by a guess."""

import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from numpy.typing import NDArray

from quests_md.errors import FileFormatError

from .elements import SYMBOLS, LabelError, escaped, symbol_of, symbols_of_labels
from .lammps_snapshot import LAMMPS_UNITS, Snapshot

__all__ = ["integers", "labels_of", "numbers_of"]

# u, by which a mass may differ from that of its element: rounded masses differ by less, neighbours in the periodic
#: table by more, or both are refused.
_MASS_TOLERANCE = 0.1


def integers(snapshot: Snapshot, data: dict[str, NDArray[Any]], column: str) -> NDArray[np.int64]:
    """A column of whole numbers; FileFormatError for the first that is none."""
    values = data[column]
    # beyond 2^53 neighbouring integers look the same
    good = (values == np.floor(values)) & (np.abs(values) < 2**53)
    if not good.all():
        bad = int(np.argmin(good))
        raise snapshot.error(snapshot.rows_at + bad, f"expected an integer as {column}, got {values[bad]}")
    integers: NDArray[np.int64] = values.astype(np.int64)
    return integers


def numbers_of(snapshot: Snapshot, data: dict[str, NDArray[Any]], types: Sequence[str] | None) -> NDArray[np.int64]:
    """Atomic numbers, from what says most about them."""
    has_types = "type" in data and data["type"].dtype.kind == "f"
    kinds = integers(snapshot, data, "type") if has_types else None
    elements = labels_of(data)
    unset = elements is not None and bool((elements == "C").all())
    # where there are no numbers of types, one symbol holds for all atoms of which nothing else says the element
    single = types[0] if types is not None and len(types) == 1 and kinds is None else None
    if types is not None and kinds is not None:
        symbols = _of_types(snapshot, kinds, types)
        if elements is not None and not unset:
            clash = (elements != symbols) & np.isin(elements, list(SYMBOLS))
            if clash.any():
                bad = int(np.argmax(clash))
                what = f"`types` says {symbols[bad]} for type {kinds[bad]}, the column element says {elements[bad]}"
                raise snapshot.error(snapshot.rows_at + bad, f"{what}; correct `types`")
        return _from_symbols(symbols)
    if elements is not None and not unset:
        if np.isin(elements, list(SYMBOLS)).all():
            return _from_symbols(elements)
        try:
            of_labels = symbols_of_labels(elements.tolist())
        except LabelError as error:
            if single is not None:
                return _from_symbols(np.full(len(elements), single))
            bad = int(np.argmax(elements == error.label))
            what = f"{error.label!r} in the column element is no chemical symbol"
            if symbol_of(error.label) is not None:
                what = f"{error.label!r} in the column element is not clear"
            raise _unknown(snapshot, bad, what, kinds, error.label) from error
        return np.array([atomic_numbers[of_labels[label]] for label in elements.tolist()], np.int64)
    if "mass" in data and LAMMPS_UNITS[snapshot.style].masses_in_u:
        return _from_masses(snapshot, data["mass"], kinds)
    if single is not None:
        return _from_symbols(np.full(snapshot.n_atoms or 0, single))
    several = kinds is not None and bool((kinds != kinds[:1]).any())
    if elements is not None and not several:
        return _from_symbols(elements)
    if snapshot.n_atoms == 0:
        return np.zeros(0, np.int64)
    if unset:
        what = "atoms of several types have the element C, which LAMMPS writes where it was told none"
    elif kinds is None:
        what = "no column says of which element the atoms are (dump element or type)"
    else:
        what = "LAMMPS types do not say of which element the atoms are"
    raise _unknown(snapshot, -1, what, kinds)


def labels_of(data: dict[str, NDArray[Any]]) -> NDArray[Any] | None:
    """The column that names elements; labels of types where there is no other and these are chemical symbols."""
    if "element" in data:
        return data["element"]
    for column in ("typelabel", "type"):
        labels = data.get(column)
        if labels is not None and labels.dtype.kind == "U":
            return labels
    return None


def _of_types(snapshot: Snapshot, kinds: NDArray[np.int64], types: Sequence[str]) -> NDArray[np.str_]:
    outside = (kinds < 1) | (kinds > len(types))
    if outside.any():
        bad = int(np.argmax(outside))
        what = f"`types` names {len(types)} ({', '.join(types)}), but this atom is of type {kinds[bad]}"
        raise snapshot.error(snapshot.rows_at + bad, f"{what}; give a symbol for each type")
    return np.asarray(types)[kinds - 1]


def _from_symbols(symbols: NDArray[np.str_]) -> NDArray[np.int64]:
    return np.array([atomic_numbers[symbol] for symbol in symbols.tolist()], np.int64)


def _from_masses(snapshot: Snapshot, masses: NDArray[np.float64], kinds: NDArray[np.int64] | None) -> NDArray[np.int64]:
    different, where, inverse = np.unique(masses, return_index=True, return_inverse=True)
    near = np.abs(atomic_masses[1:] - different[:, None]) <= _MASS_TOLERANCE
    # 1 is also the mass in reduced units of which the file does not tell
    clear = (near.sum(axis=1) == 1) & (different != 1)
    if not clear.all():
        bad = int(where[np.argmin(clear)])
        raise _unknown(snapshot, bad, f"no element, or more than one, has the mass {masses[bad]:g} u", kinds)
    numbers: NDArray[np.int64] = (np.argmax(near, axis=1) + 1)[inverse.ravel()]
    return numbers


def _unknown(
    snapshot: Snapshot, row: int, what: str, kinds: NDArray[np.int64] | None, label: str = ""
) -> FileFormatError:
    """Elements are not known; `row` is that of the atom, -1 the line of the columns; `label`: its label, if it has."""
    if kinds is None:
        advice = "if all atoms are of one element, give it: --types Cu (types=('Cu',)); else "
        if label:
            script = shlex.quote(f"s/(^|[[:space:]]){escaped(label)}([[:space:]]|$)/\\1Cu\\2/")
            advice += f"replace each label by a chemical symbol in the whole file (sed -E {script}, say), or "
        advice += "dump the column element, with dump_modify ID element Cu Zr"
    else:
        advice = "give a chemical symbol for each LAMMPS type: --types Cu,Zr (types=('Cu', 'Zr'))"
    return snapshot.error(snapshot.rows_at + row, f"{what}; {advice}")
