"""MD of copper for the demo: velocities, a heat bath near zero pressure, and how many atoms have left their sites."""

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.nvtberendsen import NVTBerendsen
from numpy.typing import NDArray

__all__ = ["INTERVAL", "TIME_STEP_FS", "copper", "heat_bath", "share_off_site"]

#: fs; copper is heavy.
TIME_STEP_FS = 5.0

#: Steps between checks; the cell follows the pressure at the same rhythm.
INTERVAL = 10

#: fs, relaxation times of temperature and pressure; bulk modulus of copper.
TAU_T_FS, TAU_P_FS, BULK_MODULUS = 100.0, 200.0, 140 * units.GPa


def copper(size: int, temperature_K: float, rng: np.random.Generator) -> Atoms:
    """Make a perfect crystal of 4 size^3 atoms with the EMT potential and Maxwell-Boltzmann momenta without drift."""
    atoms: Atoms = bulk("Cu", cubic=True) * (size, size, size)
    atoms.calc = EMT()
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * temperature_K)[:, None]
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    return atoms


def heat_bath(atoms: Atoms, first_K: float, last_K: float, steps: int) -> NVTBerendsen:
    """MD near zero pressure whose bath goes linearly from first_K to last_K in so many steps and stays there.

    The cell is scaled (Berendsen) every INTERVAL steps only: at every step, EMT would look for neighbours twice.
    """
    dyn = NVTBerendsen(atoms, TIME_STEP_FS * units.fs, temperature_K=first_K, taut=TAU_T_FS * units.fs)
    relax = INTERVAL * TIME_STEP_FS / TAU_P_FS

    def follow() -> None:
        dyn.set_temperature(temperature_K=first_K + (last_K - first_K) * min(1.0, dyn.nsteps / steps))
        pressure = -float(atoms.get_stress(include_ideal_gas=True)[:3].mean())
        atoms.set_cell(atoms.cell.array * (1 + relax * pressure / BULK_MODULUS) ** (1 / 3), scale_atoms=True)

    dyn.attach(follow, INTERVAL)
    return dyn


def share_off_site(atoms: Atoms, sites: NDArray[np.float64]) -> float:
    """Share of the atoms farther from their lattice site than half the distance between neighbours.

    An independent witness of melting: in a hot crystal without defects the share is 0, in a liquid it goes to 1.

    Parameters
    ----------
    atoms
        The atoms.
    sites
        (n_atoms, 3) scaled coordinates of their lattice sites.
    """
    shift = atoms.get_scaled_positions(wrap=False) - sites
    distance = np.linalg.norm((shift - shift.mean(axis=0)) @ atoms.cell.array, axis=1)
    neighbours = (np.sqrt(2) * atoms.get_volume() / len(atoms)) ** (1 / 3)
    return float(np.mean(distance > neighbours / 2))
