"""One frame of a LAMMPS dump as far as it has been read, and what its units mean."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from ase import units
from numpy.typing import NDArray

from quests_md.errors import FileFormatError

__all__ = ["LAMMPS_UNITS", "Snapshot"]


class _Units(NamedTuple):
    """What a style of units means: its length in Å, its time in ps, and whether its masses are in u."""

    length_A: float
    time_ps: float | None
    masses_in_u: bool


# https://docs.lammps.org/units.html; None where the file does not say. Velocities are lengths over times, those of
#: "electron" too, whatever that page says: LAMMPS moves atoms by v dt with dt in fs.
LAMMPS_UNITS = {
    None: _Units(1.0, None, True),
    "lj": _Units(1.0, None, False),
    "metal": _Units(1.0, 1.0, True),
    "real": _Units(1.0, 1e-3, True),
    "electron": _Units(units.Bohr, 1e-3, True),
    "si": _Units(1e10, 1e12, False),
    "cgs": _Units(1e8, 1e12, False),
    "micro": _Units(1e4, 1e6, False),
    "nano": _Units(10.0, 1e3, False),
}


@dataclass(slots=True)
class Snapshot:
    """One frame of the file, as far as it has been read."""

    name: str
    index: int
    at: int
    """Number of its first line, from 1."""
    style: str | None
    step: int = 0
    time: float | None = None
    n_atoms: int | None = None
    cell: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 3)))
    """Rows are the vectors, in the units of the file."""
    origin: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    pbc: list[bool] = field(default_factory=list)
    has_flags: bool | None = None
    """Whether the box says which of its boundaries are periodic; None: no box has been read."""
    columns: list[str] = field(default_factory=list)
    offset: int = 0
    """Bytes before it."""
    rows_at: int = 0
    """Number of the line of the first atom."""
    rows: list[bytes] = field(default_factory=list)
    """Lines of the atoms, if wanted."""

    @property
    def way_out(self) -> str:
        """What to do about a frame that cannot be read: others are likely written as the first is."""
        return "cut out this frame" if self.index else "correct it in all frames that are written like this one"

    def error(self, line: int, what: str) -> FileFormatError:
        """The error that says what is wrong with this line of the file."""
        return FileFormatError(f"{self.name}: frame {self.index}, line {line}: {what}")
