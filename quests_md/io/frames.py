"""Frames from memory, files, globs and slices, one at a time."""

import glob
import math
import numbers
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from ase import Atoms
from ase.io.formats import get_compression

from quests_md._arguments import check_choice
from quests_md._file_kinds import mistaken_for
from quests_md._files import NO_PIPES, require_regular
from quests_md.errors import FileFormatError

from .ase_trajectory import read_ase_trajectory
from .digits import doubt_of_digits
from .file_order import doubt_of_order, in_order
from .first_bytes import fault_of_bytes
from .gro import read_gro
from .lammps_dump import check_types, is_lammps_dump, read_lammps_dump
from .other_formats import file_kind, read_other, way_out
from .pdb import read_pdb
from .topologies import read_with_topology
from .usable import require_usable
from .vasprun import read_vasprun
from .warned import warn
from .xdatcar import read_xdatcar
from .xyz import IncompleteError, read_xyz

__all__ = ["Frame", "count_frames", "expand_sources", "frame_time_ps", "iter_frames"]

PathSpec: TypeAlias = str | os.PathLike[str]
FramesOrPaths: TypeAlias = Atoms | PathSpec | Iterable[Atoms | PathSpec]


@dataclass(frozen=True, slots=True)
class Frame:
    """One configuration and where it came from."""

    atoms: Atoms
    """The configuration as ASE reads it, with info, arrays and calculator; in memory the very object given."""
    source: str
    """Name of the file as given (or as the glob found it, without slice), or "memory"."""
    index: int
    """Number of the frame in its source, from 0 over all frames of the file, not over the slice."""


def iter_frames(
    frames_or_paths: FramesOrPaths,
    *,
    incomplete: Literal["raise", "warn"] = "raise",
    types: Sequence[str] | None = None,
    bad: Callable[[FileFormatError], None] | None = None,
    topology: PathSpec | None = None,
) -> Iterator[Frame]:
    """Yield frames one at a time, never holding a whole XYZ file, LAMMPS dump or ASE trajectory in memory.

    A path may be a glob pattern and may end in an ASE slice: ``"runs/**/*.xyz@::10"``, ``"run.traj@-1"``. Files of a
    pattern come in the order of the numbers in their names (dump.50 before dump.100, t0.25 before t0.5), those without
    a number first; of a run (``incomplete="warn"``) a warning says where names do not tell their order. The same file
    with the same slice is read once. Paths given in a list are looked up before the first frame is read.

    Parameters
    ----------
    frames_or_paths
        Atoms, a path, or an iterable (also a generator) that may mix both.
    incomplete
        What to do at a file that ends in the middle of a frame, as a killed or growing run leaves it, once its complete
        frames have been yielded. With a negative index in the slice it is found before the first frame.
    types
        A chemical symbol for each LAMMPS type, ``("Cu", "Zr")``, for LAMMPS dumps that do not name elements
        (`read_lammps_dump`), LAMMPS data files, and XYZ files whose labels are numbers; other files do not need them.
    topology
        A file that says of which elements the atoms are, for trajectories that do not (xtc, trr, dcd, AMBER's NetCDF),
        which MDAnalysis then reads (``pip install 'quests_md[mdanalysis]'``). XYZ files, dumps and ASE trajectories do
        not need it.
    bad
        Called with the error of a frame that is whole and cannot be read or is none, which is then left out; None
        raises it. A file that cannot be read beyond a place raises in any case.

    Raises
    ------
    FileFormatError
        A file is empty, torn (unless ``incomplete="warn"``) or cannot be parsed; names file, frame and line.
    FileNotFoundError, IsADirectoryError
        A path does not exist, a glob matches no file, a path is a folder.
    ValueError
        A slice selects no frame of its file, or its step is 0; `types` are no chemical symbols.
    TypeError
        Something is neither Atoms nor a path.

    Examples
    --------
    >>> from ase.build import bulk
    >>> [(frame.source, frame.index, len(frame.atoms)) for frame in iter_frames([bulk("Cu"), bulk("Si")])]
    [('memory', 0, 1), ('memory', 1, 2)]
    """
    check_choice("`incomplete`", incomplete, ("raise", "warn"))
    if types is not None:
        types = check_types(types)
    if topology is not None:
        require_regular(topology, NO_PIPES)
    items = _expand(_items(frames_or_paths), of_run=incomplete == "warn")
    if isinstance(frames_or_paths, (Atoms, str, os.PathLike, list, tuple)):
        items = iter(list(items))
    return _iter_items(items, _How(incomplete, types, bad, None if topology is None else os.fsdecode(topology)))


def expand_sources(paths: PathSpec | Iterable[PathSpec]) -> list[str]:
    """The files (each with its slice, if it has one) that `iter_frames` would read, in its order, each once.

    Raises as `iter_frames` does, and TypeError if something is not a path.
    """
    items = list(_expand(_items(paths)))
    if any(isinstance(item, Atoms) for item in items):
        raise TypeError("`paths`: expected a path or several, got Atoms; give them to iter_frames")
    return [item.name + item.suffix for item in items if isinstance(item, _Source)]


def count_frames(frames_or_paths: FramesOrPaths) -> int | None:
    """The number of frames that `iter_frames` would yield, or None where the number is not cheap to know.

    Known for lists and tuples of Atoms, ASE trajectories, and uncompressed XYZ files and LAMMPS dumps (a scan without
    parsing). Of a torn file the complete frames are counted; a file that cannot be read gives None. Generators are not
    touched. Raises as `iter_frames` does for paths; a slice that selects nothing counts 0.
    """
    if not isinstance(frames_or_paths, (Atoms, str, os.PathLike, list, tuple)):
        return None
    total = 0
    for item in list(_expand(_items(frames_or_paths), quiet=True)):
        if isinstance(item, Atoms):
            total += 1
            continue
        # a pipe can be read only once
        if not Path(item.name).is_file() or get_compression(item.name)[1] is not None:
            return None
        try:
            read = _reader(item.name)
            if getattr(read, "func", read) not in _QUICK:
                return None
            n_frames, _ = _count(read, item.name)
        except FileFormatError:
            return None
        total += len(range(n_frames)[item.selection])
    return total


def frame_time_ps(atoms: Atoms) -> float | None:
    """Simulated time of a frame in ps; None where there is none, or one that is not finite.

    It is ``info["time_ps"]`` or ``info["ps"]``, else ``info["time_fs"]`` or ``info["time_ns"]``, else
    ``info["time"]`` in the unit that ``info["units"]["time"]`` or ``info["time_unit"]`` names.
    """
    said = atoms.info.get("units")
    unit = said.get("time") if isinstance(said, dict) else atoms.info.get("time_unit", atoms.info.get("time_units"))
    of_time = _TIMES_PS.get(unit.lower()) if isinstance(unit, str) else None
    for key, scale in (("time_ps", 1.0), ("ps", 1.0), ("time_fs", 1e-3), ("time_ns", 1e3), ("time", of_time)):
        value = atoms.info.get(key)
        if scale is not None and isinstance(value, numbers.Real) and not isinstance(value, bool):
            with suppress(OverflowError):  # integers have any number of digits
                time = float(value) * scale
                if math.isfinite(time):
                    return time
    return None


# ps
_TIMES_PS = {"as": 1e-6, "fs": 1e-3, "femtosecond": 1e-3, "ps": 1.0, "picosecond": 1.0, "ns": 1e3, "us": 1e6, "s": 1e12}


def frame_temperature_K(atoms: Atoms) -> float | None:
    """Temperature of a frame in K, of its momenta or by its info; None where there is none above 0.

    The keys are "temperature_K", "temperature", "T" and "temp". In reduced units it is in these.
    """
    values: list[Any] = [atoms.info.get(key) for key in ("temperature_K", "temperature", "T", "temp")]
    if atoms.has("momenta") and atoms.get_number_of_degrees_of_freedom() > 0:
        values.insert(0, float(atoms.get_temperature()))
    for value in values:
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            with suppress(OverflowError):
                if 0 < float(value) < math.inf:
                    return float(value)
    return None


class _How(NamedTuple):
    """How files are read, see `iter_frames`."""

    incomplete: str = "raise"
    types: Sequence[str] | None = None
    bad: Callable[[FileFormatError], None] | None = None
    topology: str | None = None


class _Source(NamedTuple):
    """A file, the slice as written ("@::10" or nothing) and as understood."""

    name: str
    suffix: str
    selection: slice


#: Yields (index, atoms) for every frame of a file in order; atoms is None where the index is not in the range, and an
#: error where a frame is whole and cannot be read.
_Reader: TypeAlias = Callable[[str, range], Iterator[tuple[int, Atoms | FileFormatError | None]]]


def _items(frames_or_paths: FramesOrPaths) -> Iterator[Atoms | PathSpec]:
    if isinstance(frames_or_paths, (Atoms, str, os.PathLike)):
        return iter([frames_or_paths])
    try:
        return iter(frames_or_paths)
    except TypeError:
        got = type(frames_or_paths).__name__
        raise TypeError(f"`frames_or_paths`: expected Atoms, a path or an iterable of these, got {got}") from None


def _expand(
    items: Iterator[Atoms | PathSpec], *, quiet: bool = False, of_run: bool = False
) -> Iterator[Atoms | _Source]:
    """Look up the paths among the items, and warn of the files left out because they came before.

    Of files of a run a warning tells too where their names do not tell their order.
    """
    seen = set()
    duplicates = []
    for item in items:
        if isinstance(item, Atoms):
            yield item
            continue
        if not isinstance(item, (str, os.PathLike)):
            got = f"{type(item).__name__}: {item!r:.60}"
            raise TypeError(f"`frames_or_paths`: expected Atoms or a path as item, got {got}")
        for source in _find(os.fsdecode(item), of_run=of_run):
            s = source.selection
            step = s.step or 1
            key = Path(source.name).resolve(), (s.start or 0) if step > 0 else s.start, s.stop, step
            if key in seen:
                duplicates.append(source.name + source.suffix)
            else:
                seen.add(key)
                yield source
    if duplicates and not quiet:
        warn(f"reached more than once and read once: {', '.join(dict.fromkeys(duplicates))}")


_SLICED = re.compile(r"(.+)@(-?\d+|-?\d*:-?\d*(?::-?\d*)?)", re.DOTALL)


def _find(path: str, *, of_run: bool = False) -> list[_Source]:
    name, suffix, selection = path, "", slice(None)
    # a file may really be called "a@5"
    if not Path(path).exists() and (match := _SLICED.fullmatch(path)):
        name, suffix = match[1], "@" + match[2]
        parts = [int(part) if part else None for part in match[2].split(":")]
        if len(parts) == 3 and parts[2] == 0:
            raise ValueError(f"{path}: the step of a slice cannot be 0")
        i = parts[0]
        selection = slice(i, i + 1 or None) if len(parts) == 1 and i is not None else slice(*parts)
    if Path(name).is_dir():
        raise IsADirectoryError(f"{name}: expected a file, got a folder; name its files, for example {name}/*.xyz")
    if Path(name).exists():
        require_regular(name, NO_PIPES)
        return [_Source(name, suffix, selection)]
    if name == "-":
        raise FileNotFoundError("-: standard input is not read; write it to a file first, and name the file")
    if not glob.has_magic(name):
        raise FileNotFoundError(f"{name}: no such file")
    # Path.glob takes neither absolute patterns nor patterns with a leading folder
    found = in_order([*{file for file in glob.glob(name, recursive=True) if not Path(file).is_dir()}])  # noqa: PTH207  # Path.glob refuses absolute patterns
    if not found:
        raise FileNotFoundError(f"{name}: no file matches this pattern")
    for file in found:
        require_regular(file, NO_PIPES)
    if of_run and (doubt := doubt_of_order(name, found)) is not None:
        warn(doubt)
    return [_Source(file, suffix, selection) for file in found]


def _iter_items(items: Iterator[Atoms | _Source], how: _How) -> Iterator[Frame]:
    in_memory = count()
    for item in items:
        if isinstance(item, Atoms):
            yield Frame(item, "memory", next(in_memory))
        else:
            yield from _iter_file(item, how)


def _iter_file(source: _Source, how: _How) -> Iterator[Frame]:
    name, suffix, selection = source
    read = _reader(name, how.types, how.topology)
    first, last, step = selection.start or 0, selection.stop, selection.step or 1
    if first < 0 or step < 0 or (last is not None and last < 0):
        n_frames, torn = _count(read, name)
        if torn is not None:
            _report(torn, how.incomplete, name, n_frames)
        wanted = range(n_frames)[selection]
    else:
        wanted = range(first, sys.maxsize if last is None else last, step)
    if step < 0:
        # files are read forwards only, so these frames are kept
        kept = list(_iter_wanted(read, name, wanted[::-1], how))
        found = len(kept)
        yield from reversed(kept)
    else:
        found = 0
        for frame in _iter_wanted(read, name, wanted, how):
            found += 1
            yield frame
    if not found:
        n_frames, torn = _count(read, name)
        if n_frames == 0 and torn is None:
            raise _empty(name)
        if suffix:
            raise ValueError(f"{name}: the slice {suffix!r} selects none of the {n_frames} frames of the file")


def _iter_wanted(read: _Reader, name: str, wanted: range, how: _How) -> Iterator[Frame]:
    end = wanted[-1] + 1 if wanted else 0
    index, is_first, is_dump = -1, True, getattr(read, "func", read) is read_lammps_dump
    try:
        for index, atoms in read(name, wanted):
            try:
                if isinstance(atoms, FileFormatError):
                    raise atoms
                if atoms is not None:
                    require_usable(name, index, atoms, is_first=is_first)
            except FileFormatError as error:
                if how.bad is None:
                    raise
                how.bad(error)
                atoms = None
            if isinstance(atoms, Atoms):
                if is_first and not is_dump and (doubt := doubt_of_digits(atoms.positions)) is not None:
                    warn(f"{name}: frame {index}: {doubt}")
                is_first = False
                yield Frame(atoms, name, index)
            if index + 1 >= end:
                break
    except IncompleteError as error:
        _report(error, how.incomplete, name, index + 1)


def _count(read: _Reader, name: str) -> tuple[int, IncompleteError | None]:
    """Count the complete frames; the error tells how the file ends if it is torn."""
    n_frames = 0
    try:
        for index, _ in read(name, range(0)):
            n_frames = index + 1
    except IncompleteError as error:
        return n_frames, error
    return n_frames, None


def _report(torn: IncompleteError, incomplete: str, name: str, n_complete: int) -> None:
    if incomplete == "raise":
        hint = f"; to use the complete frames only, give {name}@:{n_complete}" if n_complete else ""
        raise FileFormatError(f"{torn}{hint}") from torn.__cause__
    warn(f"{torn}; the complete frames before it are used")


def _empty(name: str) -> FileFormatError:
    return FileFormatError(f"{name}: the file holds no frames; did the run that writes it start?")


def _reader(name: str, types: Sequence[str] | None = None, topology: str | None = None) -> _Reader:
    root, compression = get_compression(name)
    if Path(name).is_file() and Path(name).stat().st_size == 0:
        raise _empty(name)
    if fault := mistaken_for(name, None, "frames"):
        raise FileFormatError(f"{name}: {fault}")
    suffix = Path(root).suffix.lower()
    if (fault := fault_of_bytes(name, unpacks_gzip=is_lammps_dump(name))) is not None:
        raise FileFormatError(f"{name}: {way_out(name) or fault}")
    if suffix in (".xyz", ".extxyz"):
        return partial(read_xyz, types=types)
    if suffix == ".lammpstrj" or is_lammps_dump(name):
        return partial(read_lammps_dump, types=types)
    if topology is not None and suffix != ".traj":
        return partial(read_with_topology, topology=topology)
    if suffix in (".pdb", ".ent"):
        return read_pdb
    kind = "traj" if suffix == ".traj" else file_kind(name)
    if kind in ("xyz", "extxyz"):
        return partial(read_xyz, types=types)
    if kind == "lammps-dump-text":
        return partial(read_lammps_dump, types=types)
    if kind == "traj" and compression is None:
        return read_ase_trajectory
    return _BY_KIND.get(kind) or partial(read_other, types=types)


_BY_KIND: dict[str, _Reader] = {
    "proteindatabank": read_pdb,
    "gromacs": read_gro,
    "vasp-xml": read_vasprun,
    "vasp-xdatcar": read_xdatcar,
}

#: Readers of files that are scanned without parsing.
_QUICK = (read_xyz, read_lammps_dump, read_ase_trajectory)
