"""LAMMPS text dumps frame by frame: torn, growing, endless and compressed files included.

ASE's own reader takes LAMMPS types for atomic numbers, keeps the origin of the box in absolute coordinates and drops it
in scaled ones, and reads neither units nor times.
"""

import codecs
import gzip
import math
import re
import zlib
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import count
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar, cast

import numpy as np
from ase import Atoms, units
from ase.io.formats import get_compression, open_with_compression
from numpy.typing import NDArray

from quests_md.errors import FileFormatError

from .digits import doubt_of_digits
from .elements import SYMBOLS, isotope_mass
from .lammps_elements import integers, labels_of, numbers_of
from .lammps_snapshot import LAMMPS_UNITS, Snapshot
from .start import Start
from .warned import warn
from .written_numbers import to_float, to_int
from .xyz import PORTION, IncompleteError, Lines, fortran_free, reraise_system_error, shown
from .xyz_comment import MOST_COLUMNS

__all__ = ["check_types", "is_lammps_dump", "read_lammps_dump", "scan_lammps_dump"]

Array: TypeAlias = NDArray[np.float64]
T = TypeVar("T")


def read_lammps_dump(
    name: str, wanted: Container[int], *, types: Sequence[str] | None = None, start: Start | None = None
) -> Iterator[tuple[int, Atoms | FileFormatError | None]]:
    """Yield (index, atoms) for every frame in order; atoms is None where the index is not wanted.

    In the place of a frame that is whole and cannot be read comes the error that says why.

    Positions are in Å from the origin of the box, wrapped or not as the file has them. Atoms are sorted by id, which is
    kept in ``arrays["id"]``; without a column ``id`` they stay as written. ``info["step"]`` is the time step.
    The six digits of default dumps move rows by 1e-3 bandwidths, in rare ones by 0.1; ``dump_modify ID format float
    %.10g`` writes more.

    Where the file names its units (``dump_modify ID units yes time yes``), lengths are converted, velocities become
    momenta (with the masses of a column ``mass``, if there is one), and a time becomes ``info["time_ps"]``. Otherwise,
    and in reduced units (lj), lengths are taken as Å, and there are neither times nor momenta.

    Elements come from `types`, else from the column ``element`` or ``typelabel`` (or ``type``, if it holds labels),
    else from ``mass`` where one element alone is that heavy within 0.1 u. LAMMPS writes the element C where it was told
    none, so a column of nothing but C yields to `types` and masses, and counts for nothing in a frame of several types.

    A box without flags of its boundaries, as old versions wrote it, is taken as periodic, with a warning. Ids with
    gaps, as of a dump of a group, get a warning too, and a frame with fewer atoms than the one before: at the first
    frame that has them.

    LAMMPS ends every line, so the file ends in the middle of a frame (IncompleteError) if its last line has no end.

    `start`: the first frame to read, as `scan_lammps_dump` has found it.
    """
    start = start or Start(0)
    is_first, told, before = True, set[str](), start.n_atoms_before
    with _open(name) as fd:
        for snapshot in _split(name, Lines(name, fd, start), wanted, start):
            lost, before = before - (snapshot.n_atoms or 0), snapshot.n_atoms or 0
            if snapshot.index not in wanted:
                yield snapshot.index, None
                continue
            try:
                atoms = _atoms(snapshot, types)
            except FileFormatError as error:
                yield snapshot.index, error
                continue
            for doubt in _doubts(snapshot, atoms) if is_first else ():
                warn(f"{name}: frame {snapshot.index}: {doubt}", once="first")
            is_first = False
            for kind, doubt in _doubts_of_atoms(atoms, lost):
                if kind not in told:
                    told.add(kind)
                    warn(f"{name}: frame {snapshot.index}: {doubt}", once=kind)
            yield snapshot.index, atoms


def scan_lammps_dump(name: str) -> Iterator[tuple[Start, int]]:
    """Yield where each whole frame begins, and how many atoms it has; the lines of atoms are not looked at.

    Raises as `read_lammps_dump` where the file is torn or no dump.
    """
    before, style, has_flags = 0, None, None
    with _open(name) as fd:
        for snapshot in _split(name, Lines(name, fd), range(0), Start(0)):
            yield (
                Start(snapshot.index, snapshot.offset, snapshot.at - 1, before, style, has_flags),
                snapshot.n_atoms or 0,
            )
            before, style, has_flags = snapshot.n_atoms or 0, snapshot.style, snapshot.has_flags


def is_lammps_dump(name: str) -> bool:
    """Whether a regular file begins as a LAMMPS text dump does."""
    if not Path(name).is_file():
        return False
    try:
        with _open(name) as fd:
            start = fd.read(64)
    except (EOFError, LZMAError, OSError, zlib.error) as error:
        reraise_system_error(error)
        return False
    return bool(start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"ITEM: "))


def check_types(types: Sequence[str]) -> tuple[str, ...]:
    """Chemical symbols, one for each LAMMPS type, or a ValueError that says what is wrong with them."""
    expected = "expected a chemical symbol for each LAMMPS type, such as ('Cu', 'Zr')"
    if isinstance(types, str) or not isinstance(types, Iterable):
        raise ValueError(f"`types`: {expected}, got {types!r}")
    symbols = tuple(types)
    if not symbols:
        raise ValueError(f"`types`: {expected}, got none")
    for symbol in symbols:
        if not isinstance(symbol, str) or symbol not in SYMBOLS:
            raise ValueError(f"`types`: {expected}, got {symbol!r}")
    return symbols


# Columns of positions in the order in which they are looked for, and whether they are fractions of the box.
_POSITIONS = {("x", "y", "z"): False, ("xu", "yu", "zu"): False, ("xs", "ys", "zs"): True, ("xsu", "ysu", "zsu"): True}
_VELOCITIES = ("vx", "vy", "vz")
_NUMBERS = frozenset(["id", "type", "mass", *_VELOCITIES, *(column for columns in _POSITIONS for column in columns)])


def _open(name: str) -> IO[Any]:
    if get_compression(name)[1] is None and Path(name).is_file():
        with Path(name).open("rb") as fd:
            if fd.read(2) == b"\x1f\x8b":
                return cast(IO[bytes], gzip.open(name, "rb"))
    return open_with_compression(name, "rb")


def _split(name: str, lines: Lines, wanted: Container[int], start: Start) -> Iterator[Snapshot]:
    """Yield frames, with the lines of their atoms only where wanted."""
    style, has_flags = start.style, start.has_flags
    for index in count(start.index):
        header = lines.read_filled()
        if not header:
            break
        offset = lines.offset - len(header[0])
        snapshot = Snapshot(name, index, lines.number, style, has_flags=has_flags, offset=offset)
        _read_header(snapshot, lines, header[0])
        _read_rows(snapshot, lines, keep=index in wanted)
        style, has_flags = snapshot.style, snapshot.has_flags
        yield snapshot
    lines.raise_failure(index)


def _read_header(snapshot: Snapshot, lines: Lines, line: bytes) -> None:
    """Read from this first line to the one that names the columns."""
    seen: set[str] = set()
    while line.endswith(b"\n"):
        at = lines.number
        match = _ITEM.match(line.decode(errors="replace"))
        if match is None:
            what = f"expected the header of a dump of atoms ('ITEM: ...'), got {shown(line)}"
            raise snapshot.error(at, f"{what}; no dump of atoms, or the frame before is too long?")
        item, words = match[1], match[2].split()
        if item in seen:
            raise snapshot.error(at, f"got {item} a second time, as if a new frame began; cut out the torn frame")
        seen.add(item)
        if item == "ATOMS":
            for needed in ("TIMESTEP", "NUMBER OF ATOMS", "BOX BOUNDS"):
                if needed not in seen:
                    raise snapshot.error(at, f"expected 'ITEM: {needed}' before the atoms; {snapshot.way_out}")
            if len(words) > MOST_COLUMNS:
                raise snapshot.error(at, f"expected at most {MOST_COLUMNS} columns, got {len(words)}")
            snapshot.columns, snapshot.rows_at = words, at + 1
            return
        if item == "BOX BOUNDS":
            _read_box(snapshot, lines, words, line)
        elif item == "UNITS":
            snapshot.style = _value(
                snapshot, lines, f"a style of LAMMPS units ({', '.join(filter(None, LAMMPS_UNITS))})", _style
            )
        elif item == "TIMESTEP":
            snapshot.step = _value(snapshot, lines, "the time step", _whole)
        elif item == "TIME":
            snapshot.time = _value(snapshot, lines, "the time", _finite)
        else:
            snapshot.n_atoms = _value(snapshot, lines, "the number of atoms", _natural)
        line = _read_line(snapshot, lines)
    raise _torn(snapshot, lines)


# A line of the header of a frame.
_ITEM = re.compile(r"ITEM: (UNITS|TIMESTEP|TIME|NUMBER OF ATOMS|BOX BOUNDS|ATOMS)(\s.*)", re.DOTALL)


def _read_box(snapshot: Snapshot, lines: Lines, words: list[str], line: bytes) -> None:
    """Read the box; https://docs.lammps.org/Howto_triclinic.html has the formulas."""
    at = lines.number
    if snapshot.has_flags is not True:
        snapshot.has_flags = bool(words) and words != ["xy", "xz", "yz"]
    if not snapshot.has_flags:  # written before 2011, or by other programs
        words = [*words, "pp", "pp", "pp"]
    width = {(): 2, ("xy", "xz", "yz"): 3, ("abc", "origin"): 4}.get(tuple(words[:-3]))
    if width is None or len(words) < 3 or not all(re.fullmatch("pp|[fsm]{2}", flag) for flag in words[-3:]):
        what = "expected boundaries such as 'ITEM: BOX BOUNDS pp pp ff', of a tilted box 'ITEM: BOX BOUNDS xy xz yz pp "
        raise snapshot.error(at, f"{what}pp pp' or '... abc origin pp pp pp', got {shown(line)}; correct this line")

    def numbers(text: bytes) -> list[float]:
        values = [to_float(word) for word in fortran_free(text).split()]
        if len(values) != width:
            raise ValueError
        return values

    box = np.array([_value(snapshot, lines, f"{width} numbers of the box", numbers) for _ in range(3)])
    snapshot.pbc = [flag == "pp" for flag in words[-3:]]
    if width == 4:
        snapshot.cell, snapshot.origin = box[:, :3], box[:, 3]
        return
    low, high = box[:, 0], box[:, 1]
    cell = np.zeros((3, 3))
    if width == 3:
        xy, xz, yz = box[:, 2]
        # the bounds are those of the box around the tilted cell
        low = low - [min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0]
        high = high - [max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0]
        cell[1, 0], cell[2, :2] = xy, (xz, yz)
    if (high < low).any():
        raise snapshot.error(at + 1, f"expected bounds of the box that ascend; {snapshot.way_out}")
    np.fill_diagonal(cell, high - low)
    snapshot.cell, snapshot.origin = cell, low


def _read_rows(snapshot: Snapshot, lines: Lines, *, keep: bool) -> None:
    n_atoms = missing = snapshot.n_atoms or 0
    start = lines.memory
    while missing:
        portion = lines.read(min(missing, PORTION))
        for i, line in enumerate(portion, n_atoms - missing):
            if line.startswith(b"ITEM:"):
                what = f"expected {n_atoms} atoms, got {i} and then {shown(line)}, as if a new frame began"
                raise snapshot.error(snapshot.rows_at + i, f"{what}; cut out the torn frame")
        if not portion or not portion[-1].endswith(b"\n"):
            raise _torn(snapshot, lines)
        missing -= len(portion)
        if keep:
            snapshot.rows += portion
            lines.check_size(snapshot.index, start)


def _read_line(snapshot: Snapshot, lines: Lines) -> bytes:
    taken = lines.read(1)
    if not taken or not taken[0].endswith(b"\n"):
        raise _torn(snapshot, lines)
    return taken[0]


def _torn(snapshot: Snapshot, lines: Lines) -> FileFormatError:
    lines.raise_failure(snapshot.index)
    where = f"{snapshot.name}: frame {snapshot.index} (line {snapshot.at})"
    expected = "a frame" if snapshot.n_atoms is None else f"{snapshot.n_atoms} atoms"
    what = f"expected {expected}, but the file ends in the middle of the frame, at line {lines.number}"
    return IncompleteError(f"{where}: {what}; if it is whole, end it by a line end (echo >> FILE)")


def _value(snapshot: Snapshot, lines: Lines, expected: str, parse: Callable[[bytes], T]) -> T:
    line = _read_line(snapshot, lines)
    try:
        return parse(line)
    except ValueError:
        raise snapshot.error(lines.number, f"expected {expected}, got {shown(line)}; {snapshot.way_out}") from None


def _style(line: bytes) -> str:
    style = line.decode(errors="replace").strip()
    if style not in LAMMPS_UNITS:
        raise ValueError
    return style


def _whole(line: bytes) -> int:
    try:
        return to_int(line)
    except ValueError:  # 1e6
        value = to_float(line)
        if not value.is_integer():
            raise ValueError from None
        return int(value)


def _finite(line: bytes) -> float:
    value = to_float(fortran_free(line))
    if not math.isfinite(value):
        raise ValueError
    return value


def _natural(line: bytes) -> int:
    value = to_int(line)
    if value < 0:
        raise ValueError
    return value


def _atoms(snapshot: Snapshot, types: Sequence[str] | None) -> Atoms:
    unit = LAMMPS_UNITS[snapshot.style]
    used = next((columns for columns in _POSITIONS if set(columns) <= set(snapshot.columns)), None)
    if used is None:
        expected = "expected the columns x y z, xu yu zu, xs ys zs or xsu ysu zsu"
        raise snapshot.error(snapshot.rows_at - 1, f"{expected}, got {' '.join(snapshot.columns) or 'none'}")
    data = _parse_rows(snapshot)
    positions = np.column_stack([data[column] for column in used])
    positions = positions @ snapshot.cell if _POSITIONS[used] else positions - snapshot.origin
    atoms = Atoms(
        numbers=numbers_of(snapshot, data, types),
        positions=positions * unit.length_A,
        cell=snapshot.cell * unit.length_A,
        pbc=snapshot.pbc,
        info={"step": snapshot.step},
    )
    labels = labels_of(data) if types is None else None
    isotopes = {} if labels is None else {label: isotope_mass(label) for label in np.unique(labels).tolist()}
    if labels is not None and any(isotopes.values()):
        atoms.set_masses([isotopes[label] for label in labels.tolist()])
    if unit.time_ps is not None:
        if snapshot.time is not None:
            atoms.info["time_ps"] = snapshot.time * unit.time_ps
        if set(_VELOCITIES) <= data.keys():
            if unit.masses_in_u and "mass" in data:
                atoms.set_masses(data["mass"])
            ps = 1000 * units.fs
            velocities = np.column_stack([data[column] for column in _VELOCITIES])
            atoms.set_velocities(velocities * (unit.length_A / unit.time_ps / ps))
    if "id" not in data:
        return atoms
    ids = integers(snapshot, data, "id")
    order = np.argsort(ids, kind="stable")
    atoms.set_array("id", ids)
    if (twice := np.flatnonzero(np.diff(ids[order]) == 0)).size:
        bad = order[twice[0] + 1]
        raise snapshot.error(snapshot.rows_at + int(bad), f"got id {ids[bad]} a second time; {snapshot.way_out}")
    return atoms[order]


# Rows of which the number of decimals is looked at.
_ROWS = 200


def _doubts(snapshot: Snapshot, atoms: Atoms) -> Iterator[str]:
    """What may be wrong with a frame that can be read, and so with all frames of its file."""
    if snapshot.style == "lj":
        yield (
            "its units are lj: lengths are taken as they are, sigma as 1 Å, so that a cutoff of 5 Å is one of 5 sigma; "
            "the training set must be in the same units"
        )
    if not snapshot.has_flags:
        yield "the box names no boundaries (pp or ff), as old versions wrote it; it is taken as periodic"
    used = next(columns for columns in _POSITIONS if set(columns) <= set(snapshot.columns))
    if _POSITIONS[used]:
        written, unit_A = atoms.cell.scaled_positions(atoms.positions), float(atoms.cell.lengths().max())
    else:
        unit_A = LAMMPS_UNITS[snapshot.style].length_A
        written = atoms.positions / unit_A + snapshot.origin
    # digits that are not written may be zeros: perfect lattices in all their digits
    places = [snapshot.columns.index(column) for column in used]
    words = [row.split() for row in snapshot.rows[:_ROWS]]
    is_fixed = len({len(row[place].partition(b".")[2]) for row in words for place in places}) == 1
    if (doubt := doubt_of_digits(written, unit_A, only_far=not is_fixed)) is not None:
        yield doubt


def _doubts_of_atoms(atoms: Atoms, lost: int) -> Iterator[tuple[str, str]]:
    """What may be wrong with the atoms of a frame that has `lost` atoms fewer than the one before: kind and words."""
    if lost > 0:
        yield "lost", f"{len(atoms)} atoms after {len(atoms) + lost} in the frame before: has the run lost them?"
    if len(atoms) and "id" in atoms.arrays:
        first, last = int(atoms.arrays["id"][0]), int(atoms.arrays["id"][-1])
        if last - first + 1 > len(atoms) or first > 1:
            yield (
                "gaps",
                f"the {len(atoms)} atoms have ids from {first} to {last}: of a dump of a group, or of a run that lost "
                "atoms, neighbours are missing; dump all atoms, since environments without their neighbours are others",
            )


def _is_number(words: list[bytes]) -> bool:
    try:
        return [to_float(word) for word in words] != []
    except ValueError:
        return False


def _parse_rows(snapshot: Snapshot) -> dict[str, NDArray[Any]]:
    """The columns by name; of those that nobody needs the first characters."""
    columns, rows = snapshot.columns, snapshot.rows
    labels = {"element", "typelabel"}
    if "type" in columns and rows and not _is_number(rows[0].split()[columns.index("type") :][:1]):
        labels.add("type")
    kinds = ["U16" if column in labels else "f8" if column in _NUMBERS else "U1" for column in columns]
    dtype = np.dtype([(str(i), kind) for i, kind in enumerate(kinds)])

    def parse(rows: list[bytes]) -> NDArray[Any]:
        if not rows:
            return np.empty(0, dtype)
        if rows[0].isspace():
            raise ValueError("blank line")
        data = np.loadtxt(rows, dtype, comments=None, ndmin=1, encoding="latin1")
        if len(data) != len(rows):
            raise ValueError("blank line")
        return data

    def fails(n: int) -> bool:
        try:
            parse(rows[:n])
        except ValueError:
            return True
        return False

    try:
        try:
            data = parse(rows)
        except ValueError:
            changed = [fortran_free(row) for row in rows]
            if changed == rows:
                raise
            data = parse(changed)
    except ValueError as error:
        bad = bisect_left(range(len(rows)), True, key=lambda i: fails(i + 1))
        expected = f"expected an atom in the {len(columns)} columns {' '.join(columns)}"
        got = f"got {shown(rows[bad])}; {snapshot.way_out}"
        raise snapshot.error(snapshot.rows_at + bad, f"{expected}, {got}") from error
    return {column: data[str(i)] for i, column in enumerate(columns)}
