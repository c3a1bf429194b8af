"""Frames to measure with: soft spheres at the density of copper, solid and liquid, from a small molecular dynamics."""

from collections.abc import Iterator

import numpy as np
import vesin
from ase import Atoms
from ase.build import bulk

__all__ = ["PHASES", "trajectory"]

#: Å^3 per atom and temperature (in units of the repulsion) of the two phases.
PHASES = {"solid": (12.0, 0.3), "liquid": (13.2, 2.0)}


def trajectory(phase: str, cells: tuple[int, int, int], n_frames: int, seed: int = 0) -> Iterator[Atoms]:
    """Frames of repulsive Lennard-Jones (WCA) spheres from Langevin dynamics, started from an fcc crystal."""
    volume, temperature = PHASES[phase]
    sigma, step, equilibration, interval = 2.3, 0.005, 200, 20
    atoms = bulk("Cu", "fcc", a=(4 * volume) ** (1 / 3), cubic=True) * cells
    rng = np.random.default_rng(seed)
    n = len(atoms)
    box = atoms.cell.array / sigma
    x = atoms.positions / sigma + 0.02 * rng.normal(size=(n, 3))
    v = np.sqrt(temperature) * rng.normal(size=(n, 3))
    pairs = vesin.NeighborList(cutoff=2 ** (1 / 6), full_list=False)

    def forces() -> np.ndarray:
        i, j, d, vector = pairs.compute(x, box, True, "ijdD")
        s6 = d**-6
        pair_force = (24 * (2 * s6 * s6 - s6) / d**2)[:, None] * vector
        columns = [np.bincount(j, f, n) - np.bincount(i, f, n) for f in pair_force.T]
        return np.stack(columns, axis=1)

    keep = np.exp(-step)
    force = forces()
    for time_step in range(1, equilibration + n_frames * interval + 1):
        v += 0.5 * step * force
        x += 0.5 * step * v
        v = keep * v + np.sqrt(temperature * (1 - keep**2)) * rng.normal(size=(n, 3))
        x += 0.5 * step * v
        force = forces()
        v += 0.5 * step * force
        if time_step > equilibration and time_step % interval == 0:
            atoms.positions = x * sigma
            atoms.wrap()
            yield atoms.copy()
