"""The comment line of an XYZ frame: cell, columns, units, step and time, as programs write them.

ASE reads the keys of extended XYZ in their usual case; here come keys in any case (GPUMD), the cells and units of i-PI,
steps and times of CP2K. Units that a frame states are left to `stated_units`.
"""

import json
import re
import shlex
from contextlib import suppress
from typing import Any

import numpy as np
from ase.cell import Cell
from ase.io.extxyz import key_val_str_to_dict

from .elements import escaped
from .stated_units import known_length, stated_length
from .written_numbers import to_float

__all__ = ["LENGTH_A", "MOST_COLUMNS", "CommentError", "hint_of_more", "parse_comment"]

#: Columns that a header may announce: ASE and numpy make a field for each before they look at an atom.
MOST_COLUMNS = 100_000

#: Key of info under which `parse_comment` leaves the unit of positions of i-PI in Å, where it is another.
LENGTH_A = "\x1flength_A"


class CommentError(ValueError):
    """A comment line is understood and cannot be used; the text says why and what to do."""


def parse_comment(line: str) -> dict[str, Any]:
    """The info of a frame, with "Lattice", "Properties" and "pbc" as ASE expects them, and `LENGTH_A`.

    Raises CommentError where columns of elements or positions are missing, or the frame holds no positions.
    """
    match = _IPI.match(line.lstrip())
    if match is not None:
        return _of_ipi(line.lstrip(), match)
    info = _split(line)
    for key in ("Lattice", "Properties", "pbc"):
        if key not in info:
            other = next((k for k in info if k.lower() == key.lower()), None)
            if other is not None:
                info[key] = info.pop(other)
    if "Lattice" in info:
        info["Lattice"] = _lattice(info["Lattice"])
    if "Properties" in info:
        info["Properties"] = _columns(str(info["Properties"]))
    if isinstance(info.get("pbc"), str):
        info["pbc"] = _pbc(info["pbc"])
    if (match := _CP2K.match(line)) is not None:
        info |= {"step": int(match[1]), "time_ps": float(match[2]) / 1000}
    return info


def hint_of_more(line: str, *, has_cell: bool) -> str | None:
    """A word in the comment of a frame that tells of units other than Å, or of a cell that it lacks; None: none."""
    match = _UNIT.search(line) or (None if has_cell else _CELL.search(line))
    if match is None or _IPI.match(line.lstrip()) or stated_length(_split(line)) is not None:
        return None
    return match[0]


_UNIT = re.compile(r"(?<![a-z])(?:bohr|atomic[ _]units?|nanomet(?:er|re)s?)(?![a-z/^*])", re.IGNORECASE)
_CELL = re.compile(r"(?<![a-z])(?:unit[ _]?cell|cell|lattice|box|celldm|cryst1|(?<=[%#])pbc)(?![a-z])", re.IGNORECASE)

# "# CELL(abcABC): 10.8 10.8 10.8 90 90 90 Step: 0 Bead: 0 positions{angstrom} cell{atomic_unit}"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?"
_IPI = re.compile(rf"#\s*CELL[\(\[\{{](abcABC|H|GENH)[\)\]\}}]\s*:?\s*((?:{_NUMBER}\s+){{5,}}{_NUMBER})(?:\s|$)")
_CP2K = re.compile(rf"\s*i\s*=\s*(\d+)\s*,\s*time\s*=\s*({_NUMBER})\s*,")


def _of_ipi(line: str, match: re.Match[str]) -> dict[str, Any]:
    numbers = np.array([float(word.replace("D", "E").replace("d", "e")) for word in match[2].split()])
    needed = 6 if match[1] == "abcABC" else 9
    if len(numbers) < needed:
        raise CommentError(f"expected {needed} numbers after CELL({match[1]}), got {len(numbers)}")
    numbers = numbers[:needed]
    said = dict(re.findall(r"(\w+)\{(\w*)\}", line[match.end(2) :]))
    said |= dict.fromkeys(re.findall(r"Traj:\s*(\w+)(?![\w{])", line), "atomic_unit")
    kinds = [key for key in said if not key.startswith("cell")]
    wrong = [key for key in kinds if not key.startswith(("positions", "x_centroid"))]
    if wrong and len(wrong) == len(kinds):
        raise CommentError(f"expected positions, got a file of {wrong[0]} by i-PI; give the file of positions")
    # i-PI takes what names no unit in atomic units
    of_cell = _known_length(said.get("cell") or said.get("cell_units") or "atomic_unit")
    of_positions = _known_length((said[kinds[0]] if kinds else "") or "atomic_unit")
    cell = Cell.fromcellpar(numbers).array if needed == 6 else numbers.reshape(3, 3).T
    info: dict[str, Any] = {"Lattice": cell.T * of_cell, "pbc": [True, True, True]}
    for key, name in (("Step", "step"), ("Bead", "bead")):
        if (number := re.search(rf"\b{key}:\s*(\d+)", line)) is not None:
            info[name] = int(number[1])
    if of_positions != 1.0:
        info[LENGTH_A] = of_positions
    return info


def _known_length(name: str) -> float:
    name = {"ase": "angstrom", "automatic": "atomic_unit"}.get(name.lower(), name)
    try:
        return known_length(name)
    except ValueError as error:
        raise CommentError(f"{error}; write positions{{angstrom}} cell{{angstrom}} if they are in Å") from None


_LATTICE = (
    'write the three vectors, Lattice="ax ay az bx by bz cx cy cz", with decimal points, or leave it out where there '
    "is no cell"
)


def _lattice(value: Any) -> Any:
    """The matrix whose columns are the cell vectors."""
    if isinstance(value, str):  # exponents of Fortran
        try:
            value = np.array([to_float(re.sub("[dD]", "e", word)) for word in re.findall(r"[^\s,]+", value)])
        except ValueError:
            raise CommentError(f"Lattice: expected 9 numbers, got {value!r:.60}; {_LATTICE}") from None
    value = np.asarray(value)
    if value.shape == (3, 3):
        return value.astype(float)
    if value.shape != (9,) or value.dtype.kind not in "if":
        advice = _LATTICE
        if value.shape in ((3,), (6,)) and value.dtype.kind in "if":
            vectors = " ".join(f"{x:.10g}" for x in Cell.new(value).array.ravel().tolist())
            kind = "lengths" if value.size == 3 else "lengths and angles"
            advice = f'if these are the {kind} of the cell, write Lattice="{vectors}"'
        raise CommentError(f"Lattice: expected 9 numbers, got {value.size}; {advice}")
    return value.reshape((3, 3), order="F").astype(float)


def _pbc(text: str) -> list[bool]:
    """Periodic directions that ASE leaves as text: letters without blanks between them, "p" and "f"."""
    letters = re.sub(r"[\s,]", "", text).lower().replace("true", "t").replace("false", "f")
    if not re.fullmatch("[tfp10n]{3}", letters):
        raise CommentError(
            f'pbc: expected three of T and F, got {text!r:.60}; write pbc="T T T" for a frame that is periodic along '
            'a, b and c, pbc="F F F" for one that is not'
        )
    return [letter in "tp1" for letter in letters]


#: Columns that name elements.
_ELEMENTS = frozenset(("species", "Z", "symbols", "numbers"))


def _squashed(name: str) -> str:
    return re.sub("[_ -]", "", name.lower()).removesuffix("s")


def _columns(text: str) -> str:
    """The text of Properties, with names in their usual case."""
    parts = text.split(":")
    if sum(max(int(n), 0) for n in parts[2::3]) > MOST_COLUMNS:
        raise ValueError(f"Properties: expected at most {MOST_COLUMNS} columns")
    for i in range(0, len(parts), 3):
        name = {"z": "Z", "species": "species", "pos": "pos"}.get(parts[i].lower())
        if name is not None and name not in parts[::3]:
            parts[i] = name
    names = parts[::3]
    if not _ELEMENTS & set(names):
        for i in range(0, len(parts) - 2, 3):  # whole numbers: atomic numbers, or types for --types
            name = {"type": "species", "atomtype": "species", "atomicnumber": "Z"}.get(_squashed(parts[i]))
            if name is not None and parts[i + 1 : i + 3] == ["I", "1"]:
                parts[i : i + 2] = [name, "S" if name == "species" else "I"]
                break
        names = parts[::3]
    if not _ELEMENTS & set(names):
        texts = [name for name, kind in zip(names, parts[1::3], strict=False) if kind == "S"]
        got = f"{', '.join(texts)} of texts" if texts else ", ".join(names)
        what = f"Properties: no column names the elements: expected species:S:1 or Z:I:1, got {got}"
        if texts:
            script = shlex.quote(f's/([=:" ]){escaped(texts[0])}:S:/\\1species:S:/')
            what += f"; if {texts[0]} holds chemical symbols, rename it (sed -E {script})"
        raise CommentError(what)
    if not {"pos", "positions"} & set(names):
        raise CommentError(f"Properties: no column holds positions: expected pos:R:3, got {', '.join(names)}")
    return ":".join(parts)


# The underscore that Python allows within a number, and what stands for it while ASE looks for numbers.
_UNDERSCORE, _NO_DIGIT = re.compile(r"(?<=[\d.])_(?=[\d.])"), "\ue000"


# What ASE writes before a value in JSON, and what stands for it while ASE splits the comment: white space as well.
_JSON, _HELD_BACK = "_JSON ", "_JSON\x1f"


def _split(line: str) -> dict[str, Any]:
    """What ASE makes of a comment, without arrays of text, which take the longest text for each of their entries."""
    text = _UNDERSCORE.sub(_NO_DIGIT, line.replace(_JSON, _HELD_BACK))
    try:
        split = key_val_str_to_dict(text)
    except ValueError:  # ASE wants nine numbers after "Lattice", without exponents of Fortran
        split = key_val_str_to_dict(re.sub(r"(?<![A-Za-z_])Lattice(?=\s*=)", "lattice", text))
    return {key.replace(_HELD_BACK, _JSON).replace(_NO_DIGIT, "_"): _value(value) for key, value in split.items()}


def _value(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return np.char.replace(value, _NO_DIGIT, "_")
    if not isinstance(value, str):
        return value
    text = value.replace(_HELD_BACK, _JSON).replace(_NO_DIGIT, "_")
    if text.startswith("{"):  # an object that was not written by ASE
        with suppress(ValueError):
            return json.loads(text)
    if not text.startswith(_JSON):
        return text
    content = json.loads(text.removeprefix(_JSON))
    if not _is_numeric(content):
        return content
    array = np.array(content)
    return array if array.dtype.kind in "ifb" else content


def _is_numeric(content: Any) -> bool:
    """Whether lists in lists hold nothing but numbers."""
    if isinstance(content, list):
        return all(map(_is_numeric, content))
    return isinstance(content, int | float)
