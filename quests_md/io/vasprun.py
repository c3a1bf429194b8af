"""VASP's vasprun.xml: every ionic step, those of machine-learned forces too, which stand outside the calculations.

ASE reads the calculations alone, and of a torn file what there is.
"""

import xml.etree.ElementTree as ET
from collections.abc import Container, Iterator
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.io import iread
from ase.io.formats import open_with_compression
from numpy.typing import NDArray

from quests_md.errors import FileFormatError

from .warned import warn
from .written_numbers import to_float
from .xyz import IncompleteError, shown_error

__all__ = ["read_vasprun"]

# Structures that are no steps of the run.
_NO_STEPS = ("initialpos", "finalpos", "primitive_cell", "primitive_index")


class _Structure(NamedTuple):
    cell: NDArray[np.float64]
    scaled: NDArray[np.float64]


def read_vasprun(name: str, wanted: Container[int]) -> Iterator[tuple[int, Atoms | FileFormatError | None]]:
    """Yield (index, atoms) for every ionic step in order; atoms is None where the index is not wanted.

    Steps of calculations are read by ASE, with energy and forces; steps between them, of machine-learned forces, have
    positions and cell.
    """
    try:
        steps, species, torn = _steps(name)
    except (ValueError, LookupError) as error:
        what = f"expected ionic steps of VASP, got {shown_error(error)}; is the file whole?"
        raise FileFormatError(f"{name}: {what}") from error
    by_ase = iread(name, ":", format="vasp-xml", parallel=False, do_not_split_by_at_sign=True)
    n_learned = sum(step is not None for step in steps)
    if n_learned:
        warn(
            f"{name}: {n_learned} of {len(steps)} ionic steps are of machine-learned forces: without energy and forces"
        )
    for index, step in enumerate(steps):
        try:
            if step is None:
                atoms = next(by_ase)
            else:
                atoms = Atoms(species, cell=step.cell, scaled_positions=step.scaled, pbc=True)
        except Exception as error:
            what = f"expected an ionic step, but ASE's reader failed: {shown_error(error)}"
            raise FileFormatError(f"{name}: frame {index}: {what}") from error
        yield index, atoms if index in wanted else None
    if torn is not None:
        raise IncompleteError(f"{name}: frame {len(steps)}: the file ends in the middle of a step ({torn})")


def _steps(name: str) -> tuple[list[_Structure | None], list[str], ET.ParseError | None]:
    """The complete ionic steps (None: a calculation), the elements, and why the file ends before its end."""
    steps: list[_Structure | None] = []
    species: list[str] = []
    depth = 0
    with open_with_compression(name, "rb") as fd:
        try:
            for event, element in ET.iterparse(fd, events=["start", "end"]):
                depth += 1 if event == "start" else -1
                if event == "start" or depth != 1:
                    continue
                if element.tag == "atominfo":
                    rows = element.findall("array[@name='atoms']/set/rc/c[1]")
                    species = [(row.text or "").strip() for row in rows]
                elif element.tag == "calculation":
                    steps.append(None)
                elif element.tag == "structure" and element.get("name") not in _NO_STEPS:
                    cell, scaled = (
                        np.array([[to_float(word) for word in (v.text or "").split()] for v in element.findall(path)])
                        for path in ("crystal/varray[@name='basis']/v", "varray[@name='positions']/v")
                    )
                    steps.append(_Structure(cell, scaled))
                element.clear()
        except ET.ParseError as error:
            return steps, species, error
    return steps, species, None
