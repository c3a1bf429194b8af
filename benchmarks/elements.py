"""Rows by element and rows that see chemistry: how h scales with the number of elements, and what they separate.

Tables of docs/design.md.

python benchmarks/elements.py [--data FOLDER]     (without ../shared/data only the ordered compounds)
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read
from ase.spacegroup import crystal

from quests_md import Descriptor, Reference, delta_entropy

H = 0.015
ELEMENTS = ("Nb", "Mo", "Ta", "W")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    data = parser.parse_args().data
    print("| frames | m | N_ref | mean dH plain | by element, h = 0.015 | h of equal mean dH | ratio |", end="")
    print(" chemistry, h = 0.015 | h of equal mean dH | ratio |")
    print("|--|--|--|--|--|--|--|--|--|--|")
    cube = [90] * 3
    scaling("B2 NbMo", rattled(bulk("NbMo", "cesiumchloride", a=3.22), 4))
    scaling("L1_2 Cu3Au", rattled(compound("AuCu", [(0, 0, 0), (0.5, 0.5, 0)], 221, [3.75] * 3 + cube), 3))
    scaling("rocksalt MgO", rattled(bulk("MgO", "rocksalt", a=4.21, cubic=True), 3))
    scaling("fluorite CaF2", rattled(compound("CaF", [(0, 0, 0), (0.25, 0.25, 0.25)], 225, [5.46] * 3 + cube), 2))
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    scaling("perovskite BaTiO3", rattled(compound("BaTiO", sites, 221, [4.0] * 3 + cube), 3))
    if not data.is_dir():
        return
    for element in ("Mo", "Cu"):
        for m in (2, 3, 4):
            scaling(f"mlearn {element} AIMD, each frame coloured at random", coloured(data, element, m))
    print("\n| rows | h | mean dH elements | binaries | quaternary | level | above: elements | binaries | quaternary |")
    print("|--|--|--|--|--|--|--|--|--|")
    rows = {
        "plain": Descriptor(),
        "by element": Descriptor(elements=ELEMENTS),
        "chemistry": Descriptor(chemistry=True),
    }
    for name, descriptor in rows.items():
        separation(name, descriptor, data / "NbMoTaW")


def scaling(name: str, frames: list[Atoms]) -> None:
    """The h at which rows have the held-out mean dH of plain rows at 0.015: even against odd frames."""
    symbols = tuple(sorted({s for atoms in frames for s in atoms.get_chemical_symbols()}))
    target = held_out(Descriptor(), frames, H)
    n_ref = sum(len(atoms) for atoms in frames[::2])
    cells = [name, len(symbols), n_ref, f"{target:.2f}"]
    for descriptor in (Descriptor(elements=symbols), Descriptor(chemistry=True)):
        low, high = 0.2 * H, 20 * H
        for _ in range(12):
            h = (low * high) ** 0.5
            low, high = (h, high) if held_out(descriptor, frames, h) > target else (low, h)
        cells += [f"{held_out(descriptor, frames, H):.2f}", f"{h:.4f}", f"{h / H:.2f}"]
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def held_out(descriptor: Descriptor, frames: list[Atoms], h: float) -> float:
    """Mean dH of odd frames against even ones, each atom among its own element."""
    rows = [np.vstack([descriptor(atoms) for atoms in half]) for half in (frames[::2], frames[1::2])]
    numbers = [np.concatenate([atoms.numbers for atoms in half]) for half in (frames[::2], frames[1::2])]
    values = [delta_entropy(rows[1][numbers[1] == z], rows[0][numbers[0] == z], h) for z in np.unique(numbers[1])]
    return float(np.concatenate(values).mean())


def separation(name: str, descriptor: Descriptor, folder: Path) -> None:
    """NbMoTaW: elements and binaries known, the quaternary not; level: 99 % quantile over elements and binaries."""
    test = read(folder / "test.xyz", ":")
    kinds = np.concatenate([[kind_of(atoms)] * len(atoms) for atoms in test])
    rows, numbers = np.vstack([descriptor(atoms) for atoms in test]), np.concatenate([atoms.numbers for atoms in test])
    reference = Reference.from_frames(folder / "train.xyz", descriptor=descriptor)
    for h in (H,) if name == "plain" else (H, 0.021, 0.03, 0.06):
        values = reference.with_bandwidth(h).delta_entropy(rows, numbers=numbers)
        level = np.quantile(values[kinds != "quaternary"], 0.99)
        parts = [values[kinds == kind] for kind in ("element", "binary", "quaternary")]
        means = " | ".join(f"{part.mean():.2f}" for part in parts)
        above = " | ".join(f"{(part > level).mean():.1%}" for part in parts)
        print(f"| {name} | {h} | {means} | {level:.2f} | {above} |", flush=True)


def kind_of(atoms: Atoms) -> str:
    """element, binary or quaternary."""
    if atoms.info["config_type"] == "Multinary_Test":
        return "quaternary"
    return "element" if len(set(atoms.numbers)) == 1 else "binary"


def compound(symbols: str, basis: list[tuple[float, float, float]], spacegroup: int, cell: list[float]) -> Atoms:
    """An ordered compound."""
    return crystal(symbols, basis, spacegroup=spacegroup, cellpar=cell)


def rattled(unit: Atoms, repeat: int, n: int = 24) -> list[Atoms]:
    """Supercells with thermal noise of 0.08 Å."""
    frames = [unit.repeat(repeat) for _ in range(n)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.08, seed=seed)
    return frames


def coloured(data: Path, element: str, m: int) -> list[Atoms]:
    """AIMD frames of one size with m elements put on their atoms at random."""
    frames = [a for part in ("train", "test") for a in read(data / f"mlearn/{element}_{part}.xyz", ":")]
    frames = [a for a in frames if "AIMD" in str(a.info.get("config_type")) and len(a) > 40]
    sizes = [len(a) for a in frames]
    rng = np.random.default_rng(m)
    chosen = [Atoms(positions=a.positions, cell=a.cell, pbc=a.pbc, numbers=a.numbers) for a in frames]
    chosen = [a for a in chosen if len(a) == max(set(sizes), key=sizes.count)]
    for atoms in chosen:
        atoms.symbols[:] = rng.choice(ELEMENTS[:m], len(atoms))
    return chosen


if __name__ == "__main__":
    main()
