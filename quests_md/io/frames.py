"""Frames from memory, files, globs and slices, one at a time."""

import glob
import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ase import Atoms
from ase.io.formats import get_compression

from quests_md._arguments import check_choice
from quests_md._files import NO_PIPES, require_regular
from quests_md.errors import FileFormatError

from .file_order import doubt_of_order, in_order
from .files import Frame, How, Source, iter_file, reader_of, scanner_of, whole_frames
from .lammps_dump import check_types
from .warned import warn

__all__ = ["count_frames", "expand_sources", "frame_time_ps", "is_of_files", "iter_frames", "sources_of"]

PathSpec: TypeAlias = str | os.PathLike[str]
FramesOrPaths: TypeAlias = Atoms | PathSpec | Iterable[Atoms | PathSpec]


def iter_frames(
    frames_or_paths: FramesOrPaths,
    *,
    incomplete: Literal["raise", "warn"] = "raise",
    types: Sequence[str] | None = None,
    bad: Callable[[FileFormatError], None] | None = None,
    bad_file: Callable[[Exception], None] | None = None,
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
        raises it. A file that cannot be read beyond a place is none of its concern.
    bad_file
        Called with the error of a file that cannot be read, or not beyond a place; the next file is then read. None
        raises it.

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
    items, how = _items_and_how(frames_or_paths, incomplete, types, bad, topology)
    return _iter_items(items, how, bad_file)


def sources_of(
    paths: FramesOrPaths, incomplete: str, types: Sequence[str] | None, topology: PathSpec | None
) -> tuple[list[Source], How]:
    """The files that `iter_frames` would read of these paths, and how; arguments and errors are its own."""
    items, how = _items_and_how(paths, incomplete, types, None, topology)
    return [item for item in items if isinstance(item, Source)], how


def is_of_files(frames_or_paths: Any) -> bool:
    """Whether all frames are those of files that are named now: a path, or a list of paths."""
    if isinstance(frames_or_paths, list | tuple):
        return bool(frames_or_paths) and all(isinstance(item, str | os.PathLike) for item in frames_or_paths)
    return isinstance(frames_or_paths, str | os.PathLike)


def expand_sources(paths: PathSpec | Iterable[PathSpec]) -> list[str]:
    """The files (each with its slice, if it has one) that `iter_frames` would read, in its order, each once.

    Raises as `iter_frames` does, and TypeError if something is not a path.
    """
    items = list(_expand(_items(paths)))
    if any(isinstance(item, Atoms) for item in items):
        raise TypeError("`paths`: expected a path or several, got Atoms; give them to iter_frames")
    return [item.name + item.suffix for item in items if isinstance(item, Source)]


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
            read = reader_of(item.name)
            if scanner_of(read) is None:
                return None
            n_frames, _ = whole_frames(read, item.name)
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


def _items_and_how(
    frames_or_paths: FramesOrPaths,
    incomplete: str,
    types: Sequence[str] | None,
    bad: Callable[[FileFormatError], None] | None,
    topology: PathSpec | None,
) -> tuple[Iterator[Atoms | Source], How]:
    """What is to be read, and how; see `iter_frames`."""
    check_choice("`incomplete`", incomplete, ("raise", "warn"))
    if types is not None:
        types = check_types(types)
    if topology is not None:
        require_regular(topology, NO_PIPES)
    items = _expand(_items(frames_or_paths), of_run=incomplete == "warn")
    if isinstance(frames_or_paths, (Atoms, str, os.PathLike, list, tuple)):
        items = iter(list(items))
    return items, How(incomplete, types, bad, None if topology is None else os.fsdecode(topology))


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
) -> Iterator[Atoms | Source]:
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


def _find(path: str, *, of_run: bool = False) -> list[Source]:
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
        return [Source(name, suffix, selection)]
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
    return [Source(file, suffix, selection) for file in found]


def _iter_items(
    items: Iterator[Atoms | Source], how: How, bad_file: Callable[[Exception], None] | None
) -> Iterator[Frame]:
    in_memory = count()
    for item in items:
        if isinstance(item, Atoms):
            yield Frame(item, "memory", next(in_memory))
            continue
        try:
            yield from iter_file(item, how)
        except (FileFormatError, OSError) as error:
            if bad_file is None:
                raise
            bad_file(error)
