"""How many digits the positions of a file have: few digits move atoms, and so rows and dH."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["doubt_of_digits"]

# Å; numbers of six digits have two decimals from here on.
_FAR = 1000.0

# Different coordinates of a small lattice.
_FEW = 20

# Å; beyond, single digits are not looked at.
_WILD = 1e7

#: Coordinates among which few decimals are no chance.
_ENOUGH = 60


def doubt_of_digits(positions: NDArray[np.float64], *, only_far: bool = False) -> str | None:
    """Say that positions (n, 3), in Å as written, have at most two decimals, and what to do; None if they have more.

    With `only_far` only coordinates beyond 1000 count: nearer ones of a perfect lattice may have few decimals.
    """
    values = positions[np.abs(positions) < _WILD]
    far = values[np.abs(values) >= _FAR]
    for part in (far,) if only_far else (values, far):
        for decimals in (1, 2):
            if len(part) < _ENOUGH:
                continue
            scaled = part * 10**decimals
            whole = np.round(scaled)
            # near is enough for single precision; thermal positions take many of the values, perfect lattices few
            most = min(len(part), np.ptp(whole))
            if np.abs(scaled - whole).max() < 1e-2 and len(np.unique(whole)) > max(0.25 * most, _FEW):
                why = ", as %g gives far from the origin" if part is far else ""
                return (
                    f"positions have {decimals} decimal{'s' * (decimals > 1)}{why}: each atom is moved by up to "
                    f"{0.5 * 10.0**-decimals:g} Å, which raises dH (0.005 Å: by up to 0.5 nats); write more digits "
                    "(LAMMPS: dump_modify ID format float %.10g; Gromacs: trjconv -ndec 6)"
                )
    return None
