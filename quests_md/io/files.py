"""The frames of one file, read by the reader of its format."""

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ase import Atoms
from ase.io.formats import get_compression

from quests_md._file_kinds import mistaken_for
from quests_md.errors import FileFormatError

from .ase_trajectory import read_ase_trajectory, scan_ase_trajectory
from .digits import doubt_of_digits
from .first_bytes import fault_of_bytes
from .gro import read_gro
from .lammps_dump import is_lammps_dump, read_lammps_dump, scan_lammps_dump
from .other_formats import file_kind, read_other, way_out
from .pdb import read_pdb
from .start import Start
from .topologies import read_with_topology
from .usable import require_usable
from .vasprun import read_vasprun
from .warned import warn
from .xdatcar import read_xdatcar
from .xyz import IncompleteError, read_xyz, scan_xyz

__all__ = [
    "Frame",
    "How",
    "Item",
    "Reader",
    "Source",
    "frames_of",
    "is_dump",
    "iter_file",
    "reader_of",
    "require_found",
    "scanner_of",
    "wanted_of",
    "whole_frames",
]


@dataclass(frozen=True, slots=True)
class Frame:
    """One configuration and where it came from."""

    atoms: Atoms
    """The configuration as ASE reads it, with info, arrays and calculator; in memory the very object given."""
    source: str
    """Name of the file as given (or as the glob found it, without slice), or "memory"."""
    index: int
    """Number of the frame in its source, from 0 over all frames of the file, not over the slice."""


class How(NamedTuple):
    """How files are read, see `iter_frames`."""

    incomplete: str = "raise"
    types: Sequence[str] | None = None
    bad: Callable[[FileFormatError], None] | None = None
    topology: str | None = None


class Source(NamedTuple):
    """A file, the slice as written ("@::10" or nothing) and as understood."""

    name: str
    suffix: str
    selection: slice


#: The number of a frame and its atoms; None where it is not wanted, an error where it is whole and cannot be read.
Item: TypeAlias = tuple[int, Atoms | FileFormatError | None]

#: Yields every frame of a file in order, given its name and the numbers that are wanted; some take `start` as well.
Reader: TypeAlias = Callable[..., Iterator[Item]]


def iter_file(source: Source, how: How) -> Iterator[Frame]:
    """Yield the frames of a file that its slice selects, see `iter_frames`."""
    read = reader_of(source.name, how.types, how.topology)
    wanted = wanted_of(read, source, how)
    if wanted.step < 0:
        # files are read forwards only, so these frames are kept
        kept = list(frames_of(read(source.name, wanted[::-1]), source.name, wanted[::-1], how, is_dump=is_dump(read)))
        found = len(kept)
        yield from reversed(kept)
    else:
        found = 0
        for frame in frames_of(read(source.name, wanted), source.name, wanted, how, is_dump=is_dump(read)):
            found += 1
            yield frame
    if not found:
        require_found(read, source)


def wanted_of(read: Reader, source: Source, how: How) -> range:
    """The numbers of the frames that the slice of a file selects; for negative numbers they are counted first."""
    name, _, selection = source
    first, last, step = selection.start or 0, selection.stop, selection.step or 1
    if first < 0 or step < 0 or (last is not None and last < 0):
        n_frames, torn = whole_frames(read, name)
        if torn is not None:
            _report(torn, how.incomplete, name, n_frames)
        return range(n_frames)[selection]
    return range(first, sys.maxsize if last is None else last, step)


def require_found(read: Reader, source: Source) -> None:
    """Raise for a file of which no frame was found: FileFormatError if it has none, ValueError if its slice is why."""
    n_frames, torn = whole_frames(read, source.name)
    if n_frames == 0 and torn is None:
        raise _empty(source.name)
    if source.suffix:
        raise ValueError(
            f"{source.name}: the slice {source.suffix!r} selects none of the {n_frames} frames of the file"
        )


def frames_of(
    items: Iterator[Item], name: str, wanted: range, how: How, *, is_dump: bool, is_first: bool = True
) -> Generator[Frame, None, bool]:
    """Yield the wanted frames among the items of a reader, checked; return whether the file has no more of them.

    `is_first`: whether no wanted frame of the file came before.
    """
    end = wanted[-1] + 1 if wanted else 0
    index = -1
    try:
        for index, atoms in items:
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
                    warn(f"{name}: frame {index}: {doubt}", once="first")
                is_first = False
                yield Frame(atoms, name, index)
            if index + 1 >= end:
                return False
    except IncompleteError as error:
        _report(error, how.incomplete, name, index + 1)
    return True


def is_dump(read: Reader) -> bool:
    """Whether a reader is that of LAMMPS dumps, which has its own doubts of digits."""
    return getattr(read, "func", read) is read_lammps_dump


def scanner_of(read: Reader) -> Callable[[str], Iterator[tuple[Start, int]]] | None:
    """What finds the frames of a file without parsing them; None: all of the file must be read."""
    return _SCANNERS.get(getattr(read, "func", read))


def whole_frames(read: Reader, name: str) -> tuple[int, IncompleteError | None]:
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


def reader_of(name: str, types: Sequence[str] | None = None, topology: str | None = None) -> Reader:
    """The reader of a file by its name and first bytes; FileFormatError where these tell that none can read it."""
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


_BY_KIND: dict[str, Reader] = {
    "proteindatabank": read_pdb,
    "gromacs": read_gro,
    "vasp-xml": read_vasprun,
    "vasp-xdatcar": read_xdatcar,
}

#: What finds frames without parsing them, by reader.
_SCANNERS: dict[Any, Callable[[str], Iterator[tuple[Start, int]]]] = {
    read_xyz: scan_xyz,
    read_lammps_dump: scan_lammps_dump,
    read_ase_trajectory: scan_ase_trajectory,
}
