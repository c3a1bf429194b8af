"""A frame as a text of extended XYZ that reads back equal: here, in ASE and in OVITO.

ASE's writer rounds to eight decimals, and takes names and texts that no reader understands.
"""

import json
import os
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.constraints import FixAtoms
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict, per_atom_properties, per_config_properties
from numpy.typing import NDArray

from quests_md._files import replacing

__all__ = ["extxyz_text", "is_writable", "write_frames"]

# Names of columns that mean something of their own to ASE or OVITO, in small letters without "_". OVITO takes them for
# properties of its own, whatever their shape: "Position" becomes the places of the atoms, "color" of nine columns ends
# the program. https://www.ovito.org/manual/reference/file_formats/input/xyz.html
_NAMES = (
    "species pos position positions symbol symbols numbers x y z movemask element elements type types atomtype id "
    "identifier particleidentifier particletype mass charge charges radius color vectorcolor transparency selection "
    "hidden velo velocity velocitymagnitude force forces disp displacement displacementmagnitude localenergy "
    "potentialenergy kineticenergy totalenergy stress stresstensor strain straintensor stretchtensor rotation "
    "deformationgradient elasticstrain elasticstraintensor elasticdeformationgradient cluster coordination nneighb "
    "structuretype centrosymmetry orientation asphericalshape superquadricroundness periodicimage dipole dipoles "
    "dipoleorientation dipolemagnitude angularvelocity angularmomentum omega torque spin molecule moleculeidentifier "
    "moleculetype nucleobase nucleobasetype dnastrand nucleotideaxis nucleotidenormal cartoonflags residueindex "
    "mapshift"
)
_TAKEN = frozenset(_NAMES.split()) | frozenset(name.replace("_", "") for name in all_properties)
_TAKEN_KEYS = frozenset(("lattice", "properties", "pbc", "units", "virial", "stress", "uid"))


def is_writable(key: Any, value: Any) -> bool:
    """Whether an entry of `atoms.info` can be written so that it reads back equal."""
    return _written(key, value) is not None


def write_frames(path: str | os.PathLike[str], frames: Iterable[Atoms]) -> None:
    """Write frames to a file of extended XYZ, as `extxyz_text` says: all of them or, if anything fails, nothing."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        out.writelines(map(extxyz_text, frames))


def extxyz_text(frame: Atoms) -> str:
    """The text of a frame, with energy and forces of its calculator, and what else reads back equal.

    Numbers have all their digits. Arrays whose names readers would not understand get a name that they do
    ("mtt::aux::energy" becomes "mtt_aux_energy"), and those whose names ASE or OVITO take for something else begin
    with "array_" ("array_energy", "array_Position"). Arrays of texts with blanks or without letters are left out, as
    are numbers in info and arrays under the names of a calculator's results: they belong to whatever frame the run
    began with.
    """
    n = len(frame)
    columns: dict[str, NDArray[Any]] = {"species": np.array(frame.get_chemical_symbols()), "pos": frame.positions}
    fixed = [c.index for c in frame.constraints if isinstance(c, FixAtoms)]
    if fixed:
        mask = np.ones(n, dtype=bool)
        mask[np.concatenate(fixed)] = False
        columns["move_mask"] = mask
    results = getattr(frame.calc, "results", None) or {}
    for name, array in frame.arrays.items():
        is_result = name in per_atom_properties and (name != "forces" or array.shape == (n, 3))
        if name not in ("numbers", "positions") and not is_result:
            _add(columns, name, array)
    if "forces" in results and np.shape(results["forces"]) == (n, 3):
        columns["forces"] = np.asarray(results["forces"], float)
    entries = [f'Lattice="{" ".join(map(repr, frame.cell.array.ravel().tolist()))}"'] if frame.cell.any() else []
    described = (f"{name}:{_KINDS[array.dtype.kind]}:{_width(array)}" for name, array in columns.items())
    entries.append("Properties=" + ":".join(described))
    info = {key: value for key, value in frame.info.items() if key not in per_config_properties}
    entries += [text for key, value in info.items() if (text := _written(key, value)) is not None]
    entries += [f"{key}={float(results[key])!r}" for key in ("energy", "free_energy") if key in results]
    entries.append(f'pbc="{" ".join("FT"[int(p)] for p in frame.pbc)}"')
    words = [_words(part) for array in columns.values() for part in np.asarray(array).reshape(n, -1).T]
    rows = "".join(" ".join(row) + "\n" for row in zip(*words, strict=True))
    return f"{n}\n{' '.join(entries)}\n{rows}"


_KINDS = {"f": "R", "i": "I", "u": "I", "b": "L", "U": "S"}


def _width(array: NDArray[Any]) -> int:
    return 1 if array.ndim == 1 else int(array.shape[1])


def _words(values: NDArray[Any]) -> list[str]:
    if values.dtype.kind == "b":
        return ["FT"[int(value)] for value in values]
    if values.dtype.kind == "f":
        return [repr(value) for value in values.tolist()]
    return [str(value) for value in values.tolist()]


def _add(columns: dict[str, NDArray[Any]], name: Any, array: NDArray[Any]) -> None:
    """Add an array if it can be read back, under a name that can."""
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] == 0) or array.dtype.kind not in _KINDS:
        return
    if array.dtype.kind == "U" and any(not word or re.search(r"\s", word) for word in array.ravel().tolist()):
        return
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        return
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", str(name)).strip("_-") or "array"
    # ids of a dump are what OVITO takes them for
    is_id = name == "id" and array.ndim == 1 and array.dtype.kind in "iu"
    if name[0].isdigit() or (re.sub("[_-]", "", name.lower()) in _TAKEN and not is_id):
        name = f"array_{name}"
    # ASE numbers the columns of an array: "a" of two columns is "a0" and "a1"
    taken = {field for other, values in columns.items() for field in _fields(other, values)}
    while taken & set(_fields(name, array)):
        name += "_"
    columns[name] = array


def _fields(name: str, array: NDArray[Any]) -> list[str]:
    return [name] if array.ndim == 1 or array.shape[1] == 1 else [f"{name}{i}" for i in range(array.shape[1])]


def _written(key: Any, value: Any) -> str | None:
    """An entry of the comment that reads back equal, as it is or as JSON; None where there is none."""
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_][^\s=\"'\\{}\[\],]*", key) or not key.isprintable():
        return None
    if key.lower() in _TAKEN_KEYS:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, bool | int | float | str):
        return None
    as_json = f"_JSON {json.dumps(value)}"
    escaped = as_json.replace("\\", "\\\\").replace('"', '\\"')
    for text in (str(key_val_dict_to_str({key: value})).strip(), f'{key}="{escaped}"'):
        if not text.isprintable():
            continue
        try:
            found = key_val_str_to_dict(text)
        except Exception:  # of whatever a text may hold
            continue
        back = found.get(key)
        back = back.item() if isinstance(back, np.generic) else back
        if len(found) == 1 and type(back) is type(value) and (back == value or (back != back and value != value)):
            return text
    return None
