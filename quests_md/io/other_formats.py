"""Files of other formats by ASE's readers, and what to do with those that no reader here takes."""

import io
import re
import zlib
from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from lzma import LZMAError
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers
from ase.io import iread
from ase.io.formats import UnknownFileTypeError, filetype, get_compression, ioformats, open_with_compression

from quests_md.errors import FileFormatError

from .torn_structures import fault_of_count, holds_several, how_torn
from .warned import warn
from .xyz import IncompleteError, reraise_system_error, shown, shown_error

__all__ = ["file_kind", "read_other", "way_out"]

_BY_TOPOLOGY = (
    "its atoms have no elements here: give a file that has them: score {name} --topology run.pdb (also .gro, .prmtop, "
    ".tpr, .psf; score_trajectory(..., topology=)), with pip install 'quests_md[mdanalysis]'"
)
_BY_MDTRAJ = (
    "convert it to extended XYZ: mdtraj.load('{name}') gives topology, xyz (nm) and unitcell_vectors (nm); or to .xtc "
    "by mdconvert, and score that with --topology"
)

#: What to do with files of formats that are not read, by the end of their name.
_WAYS_OUT = {
    **dict.fromkeys((".xtc", ".trr", ".dcd", ".nc", ".ncdf", ".mdcrd", ".crd", ".tng", ".h5md"), _BY_TOPOLOGY),
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), _BY_MDTRAJ),
    ".gsd": "convert it to extended XYZ: gsd.hoomd.open gives positions, box and the names of types",
    ".npz": "build Atoms of its arrays and give these, or write them by ase.io.write(..., format='extxyz')",
    ".npy": "build Atoms of its arrays and give these, or write them by ase.io.write(..., format='extxyz')",
    ".lmdb": "convert it to extended XYZ by the program that wrote it",
    ".aselmdb": "convert it to extended XYZ: fairchem's AseDBDataset gives Atoms",
    ".tpr": "it is a topology: give the trajectory, and this file by --topology",
}
_ML_AB = (
    "convert it to extended XYZ (docs/inputs.md has the lines that do it); each configuration has its elements, "
    "lattice vectors and positions in Å in plain text"
)

# Formats whose atoms ASE numbers by their type or leaves without elements.
_BLIND = {
    "cp2k-dcd": _BY_TOPOLOGY,
    "netcdftrajectory": _BY_TOPOLOGY,
    "nwchem-in": "it is an input of NWChem; convert it to extended XYZ (ase convert)",
    "lammps-dump-binary": "dump text: dump 1 all custom 100 run.lammpstrj id type element x y z",
}

# Lines of which each step of a run has so many, by format: ASE leaves steps out where it does not understand them.
_STEPS = {
    "vasp-out": (rb" *POSITION +TOTAL-FORCE", 1),
    "castep-md": (rb".*<-- +h\s*$", 3),
    "castep-geom": (rb".*<-- +h\s*$", 3),
    "dlp-history": (rb"\s*timestep\s", 1),
}


#: Times that a reader may ask for a line at the end of a file.
MOST_ENDS = 10_000


def file_kind(name: str) -> str:
    """ASE's name of the format of a file, by content and name; FileFormatError with a way out where there is none."""
    path = Path(get_compression(name)[0])
    suffix = path.suffix.lower()
    if (text := way_out(name)) is not None:
        raise FileFormatError(f"{name}: {text}")
    if _is_lammps_data(name):
        return "lammps-data"
    try:
        try:
            kind = str(filetype(name, guess=False))  # by content, not by an unknown extension
        except UnknownFileTypeError:
            kind = suffix.removeprefix(".")
            if kind not in ioformats:
                raise
    except UnknownFileTypeError as error:
        raise _unknown(name, str(error)) from error
    except (EOFError, LZMAError, OSError, zlib.error) as error:
        reraise_system_error(error)
        what = f"the compressed data end or are damaged ({error}); copy the file again, or unpack what is whole"
        raise FileFormatError(f"{name}: {what}") from error
    if kind in _BLIND:
        raise _not_read(name, _BLIND[kind])
    if kind not in ioformats or not ioformats[kind].can_read:
        raise _unknown(name, f"nothing that reads {suffix or path.name!r}")
    return kind


def _is_lammps_data(name: str) -> bool:
    """Whether a regular file begins as a LAMMPS data file does, which ASE does not know by itself."""
    if not Path(name).is_file():
        return False
    with open_with_compression(name, "rb") as fd:
        try:
            start = fd.read(4000)
        except (EOFError, LZMAError, OSError, zlib.error):
            return False
    return re.search(rb"^\s*\d+\s+atoms\s*$", start, re.MULTILINE) is not None and b"xlo xhi" in start


def way_out(name: str) -> str | None:
    """What to do with a file whose name says that no reader here takes it; None: the name does not say so."""
    path = Path(get_compression(name)[0])
    suffix = path.suffix.lower()
    if suffix in _WAYS_OUT or path.name.startswith(("ML_AB", "ML_ABN", "ML_ABCAR")):
        return f"files of this format are not read; {_WAYS_OUT.get(suffix, _ML_AB).format(name=name)}"
    return None


def _not_read(name: str, text: str) -> FileFormatError:
    return FileFormatError(f"{name}: files of this format are not read; {text.format(name=name)}")


def _unknown(name: str, got: str) -> FileFormatError:
    return FileFormatError(
        f"{name}: expected a format known to ASE (`ase info --formats`), got: {got}; convert it to extended XYZ, "
        "or name it as files of its format are named"
    )


def read_other(
    name: str, wanted: Container[int], *, types: Sequence[str] | None = None
) -> Iterator[tuple[int, Atoms | FileFormatError | None]]:
    """Yield (index, atoms) for every frame in order; atoms is None where the index is not wanted."""
    kind = file_kind(name)
    options: dict[str, Any] = {}
    if kind == "lammps-data" and types is not None:
        options["Z_of_type"] = {i: atomic_numbers[symbol] for i, symbol in enumerate(types, 1)}
    n_steps = _count_steps(name, *_STEPS[kind]) if kind in _STEPS else None
    torn = how_torn(name, kind)
    if torn is not None and not holds_several(kind):
        raise IncompleteError(f"{name}: frame 0: {torn}")
    if kind == "vasp":
        _require_possible_counts(name)
    # parallel=False: under MPI each rank reads for itself instead of waiting for the others
    with _opened(name, kind) as source:
        frames = iread(source, ":", format=kind, parallel=False, do_not_split_by_at_sign=True, **options)
        n_read = yield from _read_frames(name, kind, frames, wanted, types, is_torn=torn is not None)
    if torn is not None:
        raise IncompleteError(f"{name}: frame {n_read}: {torn}")
    if n_read == 0 and not n_steps:
        raise FileFormatError(
            f"{name}: read as {kind!r} by ASE, it holds no frames; has the first step of the run ended? If it is "
            "of another program, convert it to extended XYZ"
        )
    if n_steps is not None and n_steps > n_read:
        if n_steps == n_read + 1:
            raise IncompleteError(f"{name}: frame {n_read}: the file ends in the middle of step {n_steps}")
        warn(f"{name}: {n_read} of {n_steps} ionic steps were read; ASE's reader of {kind!r} left the others out")


def _require_possible_counts(name: str) -> None:
    """Raise FileFormatError for a POSCAR that announces more atoms than its bytes can hold: ASE makes room for them."""
    with open_with_compression(name, "rb") as fd:
        start = fd.read(2**20)
        size = len(start)
        for line in start.splitlines()[5:7]:
            n_atoms = sum(int(word) for word in line.split() if word.isdigit() and len(word) < 100)
            while n_atoms > size and (portion := fd.read(2**20)):
                size += len(portion)
            if n_atoms > size:
                raise FileFormatError(f"{name}: expected at most {size} atoms in so many bytes, got {shown(line)}")


def _read_frames(
    name: str, kind: str, frames: Iterator[Atoms], wanted: Container[int], types: Sequence[str] | None, *, is_torn: bool
) -> Generator[tuple[int, Atoms | FileFormatError | None], None, int]:
    """Yield what ASE reads, but for the last frame of a torn file; return the number of frames."""
    index, held = 0, None
    while True:
        try:
            atoms = next(frames) if held is None else held
            held = next(frames, None) if is_torn else None
            if is_torn and held is None:
                return index
        except StopIteration:
            return index
        except ImportError:
            raise
        except MemoryError as error:
            what = "ASE's reader asks for more memory than there is; is it damaged? A line may announce too many atoms"
            raise FileFormatError(f"{name}: frame {index}: {what}") from error
        except Exception as error:
            reraise_system_error(error)
            if is_torn:
                return index
            what = f"expected format {kind!r}, but ASE's reader failed: {shown_error(error)}"
            raise FileFormatError(f"{name}: frame {index}: {what}; is the file whole and of this format?") from error
        if kind == "lammps-data" and types is None:
            _require_clear_masses(name, atoms)
        fault = fault_of_count(name, kind, atoms)
        if fault is not None:
            raise IncompleteError(f"{name}: frame {index}: {fault}")
        yield index, atoms if index in wanted else None
        index += 1


class _Text(io.TextIOWrapper):
    """A text that ends with an error for readers that wait for a line which a torn file does not have."""

    n_ends = 0

    def readline(self, *size: int) -> str:  # type: ignore[override]  # positional in the base class
        line = super().readline(*size)
        self.n_ends = 0 if line else self.n_ends + 1
        if self.n_ends > MOST_ENDS:
            raise EOFError("the file ends too early")
        return line

    def __next__(self) -> str:  # type: ignore[override]  # of bytes in the base class of all streams
        line = self.readline()  # unlike that of the base class it leaves `tell` usable, which some readers ask
        if not line:
            raise StopIteration
        return line


def _opened(name: str, kind: str) -> AbstractContextManager[Any]:
    """What ASE's reader of a format takes: an open text, whatever letters it holds, or the name."""
    form = ioformats[kind]
    if not form.acceptsfd or form.isbinary or form.encoding:
        return nullcontext(name)
    return _Text(open_with_compression(name, "rb"), encoding="utf-8-sig", errors="replace")


def _count_steps(name: str, text: bytes, n_lines: int) -> int:
    """Steps in the file, a last one that has begun included."""
    pattern = re.compile(text)
    with open_with_compression(name, "rb") as fd:
        return -(-sum(pattern.match(line) is not None for line in fd) // n_lines)


def _require_clear_masses(name: str, atoms: Atoms) -> None:
    """Raise FileFormatError where ASE has guessed elements of types."""
    masses = atoms.arrays.get("masses")
    if masses is None or np.any(np.abs(masses - atomic_masses[atoms.numbers]) > 0.1):
        raise FileFormatError(
            f"{name}: LAMMPS types do not say of which element the atoms are, and masses do not either; give a "
            "chemical symbol for each LAMMPS type: --types Cu,Zr (types=('Cu', 'Zr'))"
        )
