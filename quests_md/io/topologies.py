"""Trajectories without elements (xtc, trr, dcd, AMBER's NetCDF) with a topology, by MDAnalysis, which is optional.

References
----------
Michaud-Agrawal et al., J. Comput. Chem. 32, 2319 (2011), doi:10.1002/jcc.21787.
"""

import warnings
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.cell import Cell
from ase.data import atomic_masses
from ase.io.formats import open_with_compression

from quests_md.errors import FileFormatError

from .atom_names import elements_of_names, warn_of_names
from .elements import symbol_of
from .torn_ends import last_lines
from .xyz import IncompleteError, shown_error

__all__ = ["read_with_topology"]

# Topologies that have the masses of the atoms; of others MDAnalysis guesses them.
_WITH_MASSES = (".psf", ".prmtop", ".parm7", ".top", ".tpr", ".data")


def read_with_topology(
    name: str, wanted: Container[int], *, topology: str
) -> Iterator[tuple[int, Atoms | FileFormatError | None]]:
    """Yield (index, atoms) for every frame in order; atoms is None where the index is not wanted.

    Lengths are in Å; a frame without a box is not periodic. Elements are those of the topology, else of its masses
    within 0.1 u, else of its names of atoms (`element_of_name`), with a warning. Steps and times are those of the file,
    where it has any that grow; velocities become momenta.
    """
    universe = _opened(name, topology)
    elements = _elements(universe, topology)
    n_frames, torn = _whole_frames(name, universe.trajectory)
    has_steps, has_times = _grow(universe)
    for index in range(n_frames):
        if index not in wanted:
            yield index, None
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                frame = universe.trajectory[index]
            atoms = _atoms(frame, elements)
        except Exception as error:
            kind = IncompleteError if index == n_frames - 1 else FileFormatError
            raise kind(f"{name}: frame {index}: MDAnalysis could not read it ({shown_error(error)})") from error
        if has_steps:
            atoms.info["step"] = int(frame.data["step"])
        if has_times:
            atoms.info["time_ps"] = round(float(frame.time), 6)
        yield index, atoms
    if torn:
        raise IncompleteError(f"{name}: frame {n_frames}: {torn}")


def _whole_frames(name: str, trajectory: Any) -> tuple[int, str]:
    """The number of whole frames, and how the one after them is torn: MDAnalysis leaves it out, or takes it."""
    n_frames = len(trajectory)
    lines = last_lines(name)
    if "TRJ" in np.atleast_1d(trajectory.format) and lines:  # ten coordinates in a line, the box in one of its own
        per_frame = -(-3 * trajectory.n_atoms // 10) + (trajectory.ts.dimensions is not None)
        with open_with_compression(name, "rb") as fd:
            n_lines = sum(1 for _ in fd) - 1
        n_lines -= not lines[-1].endswith(b"\n")  # programs end every line
        if n_lines % per_frame:
            return min(
                n_frames, n_lines // per_frame
            ), f"the file ends in the middle of the frame, at line {n_lines + 1}"
    dcd: Any = getattr(trajectory, "_file", None)
    each = getattr(dcd, "_framesize", 0)
    if each:
        rest = (Path(name).stat().st_size - dcd._header_size - dcd._firstframesize) % each
        if rest:
            return n_frames, f"the file ends in the middle of the frame, after {rest} of its {each} bytes"
    return n_frames, ""


def _opened(name: str, topology: str) -> Any:
    try:
        import MDAnalysis
    except ImportError as error:
        raise FileFormatError(
            f"{name}: trajectories with a topology are read by MDAnalysis, which is not installed: pip install "
            "'quests_md[mdanalysis]'"
        ) from error
    if not Path(topology).is_file():
        raise FileNotFoundError(f"{topology}: no such file (topology)")
    try:
        with warnings.catch_warnings(action="ignore"):
            return MDAnalysis.Universe(topology, name)
    except Exception as error:
        what = f"MDAnalysis could not read it with the topology {topology} ({shown_error(error)})"
        raise FileFormatError(f"{name}: {what}; are both whole, and of the same atoms?") from error


def _grow(universe: Any) -> tuple[bool, bool]:
    """Whether the file has steps, and times, that grow from its first frame to its second."""
    if len(universe.trajectory) < 2:
        return False, False
    try:
        with warnings.catch_warnings(action="ignore"):
            found = [(frame.data.get("step"), frame.data.get("time")) for frame in universe.trajectory[:2]]
    except Exception:  # a torn frame is told where it is read
        return False, False
    (step, time), (next_step, next_time) = found
    return None not in (step, next_step) and next_step > step, None not in (time, next_time) and next_time > time


def _elements(universe: Any, topology: str) -> list[str]:
    atoms = universe.atoms
    given = [symbol_of(str(element)) if element else None for element in getattr(atoms, "elements", [])]
    if given and None not in given:
        return [element for element in given if element is not None]
    if topology.lower().endswith(_WITH_MASSES) and hasattr(atoms, "masses"):
        near = np.abs(atomic_masses[1:] - np.asarray(atoms.masses)[:, None]) <= 0.1
        if (near.sum(axis=1) == 1).all():
            return [str(symbol) for symbol in Atoms(numbers=np.argmax(near, axis=1) + 1).get_chemical_symbols()]
    try:
        elements, words = elements_of_names(zip(atoms.names.tolist(), atoms.resnames.tolist(), strict=True))
    except (ValueError, AttributeError) as error:
        raise FileFormatError(f"{topology}: it does not say of which elements the atoms are: {error}") from error
    warn_of_names(topology, words)
    return elements


def _atoms(frame: Any, elements: list[str]) -> Atoms:
    real = np.array([bool(element) for element in elements], dtype=bool)  # no virtual sites
    atoms = Atoms([element for element in elements if element], np.asarray(frame.positions, np.float64)[real])
    box = frame.dimensions
    if box is not None and np.all(np.asarray(box[:3]) > 0):
        atoms.cell = Cell.fromcellpar(np.asarray(box, np.float64))
        atoms.pbc = True
    if frame.has_velocities:
        atoms.set_velocities(np.asarray(frame.velocities, np.float64)[real] / (1000 * units.fs))
    return atoms
