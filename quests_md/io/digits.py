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

# Å by which rounding may move an atom.
_SMALL = 0.004

# Decimals that are looked at.
_MOST_DECIMALS = 6

#: Coordinates among which few decimals are no chance.
_ENOUGH = 60


def doubt_of_digits(written: NDArray[np.float64], unit_A: float = 1.0, *, only_far: bool = False) -> str | None:
    """Say that positions (n, 3) as written have so few decimals that atoms are moved by 0.005 Å, and what to do.

    `unit_A` is the length in Å that 1 stands for, of scaled positions that of the cell. None: there are more decimals,
    or few different coordinates, as in perfect lattices. With `only_far` only coordinates beyond 1000 count.
    """
    values = written[np.abs(written) < _WILD]
    far = values[np.abs(values) >= _FAR]
    for part in (far,) if only_far else (far, values):
        for decimals in range(1, _MOST_DECIMALS):
            moved = 0.5 * 10.0**-decimals * unit_A
            if len(part) < _ENOUGH or moved < _SMALL:
                break
            scaled = part * 10**decimals
            whole = np.round(scaled)
            # near is enough for single precision; thermal positions take many of the values, perfect lattices few
            most = min(len(part), np.ptp(whole))
            if np.abs(scaled - whole).max() < 1e-2 and len(np.unique(whole)) > max(0.25 * most, _FEW):
                why = ", as %g gives far from the origin" if part is far else ""
                return (
                    f"positions have {decimals} decimal{'s' * (decimals > 1)}{why}: each atom is moved by up to "
                    f"{moved:.2g} Å, which raises dH (0.005 Å: by up to 0.5 nats); write more digits "
                    "(LAMMPS: dump_modify ID format float %.10g; Gromacs: trjconv -ndec 6)"
                )
    return None
