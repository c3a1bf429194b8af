"""Which reference environments are nearest."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Nearest"]


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """Reference environments nearest to the atoms of a frame."""

    distance: NDArray[np.float64]
    """(n,) distance of the rows in bandwidths; inf for an unknown element or an atom that is no center."""
    frame: NDArray[np.int64]
    """(n,) frame of the reference, counted over all its frames; -1 where the distance is inf."""
    atom: NDArray[np.int64]
    """(n,) index of the atom in that frame; -1 where the distance is inf."""
