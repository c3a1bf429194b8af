"""Rows that see chemistry: what they see beside rows by element, on systems that they were not chosen on.

python benchmarks/chemistry.py [--data FOLDER]     (without ../shared/data all but the molecule; a minute)

Each reference holds twelve frames or more, other frames alike are held out, and each kind of rows has the bandwidth at
which the held-out frames have the mean dH of plain rows at 0.015 1/Å. A frame is out if its largest (or mean) dH is
above that of every held-out frame.
"""

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read
from elements import H, compound
from numpy.typing import NDArray

from quests_md import Descriptor, delta_entropy

CUBE = [90.0] * 3
ALLOY = ("Ti", "V", "Cr", "Zr", "Nb", "Mo", "Hf", "Ta", "W", "Re")


class Case(NamedTuple):
    """Frames that are known, frames like them, and frames that must be told from them."""

    name: str
    known: list[Atoms]
    held_out: list[Atoms]
    strange: list[Atoms]


def main() -> None:
    """Print a line for each case and kind of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    data = parser.parse_args().data
    print(
        "| case | rows | numbers | h | above in a frame, median | excess of the largest, median | out: largest | mean |"
    )
    print("|--|--|--|--|--|--|--|--|")
    for case in cases(data):
        judge(case)


def judge(case: Case) -> None:
    """Compare plain rows, rows by element and rows that see chemistry."""
    symbols = tuple(sorted({s for a in case.known + case.strange for s in a.get_chemical_symbols()}))
    kinds = {
        "plain": Descriptor(),
        "by element": Descriptor(elements=symbols),
        "chemistry": Descriptor(chemistry=True),
    }
    target = np.nan
    for name, descriptor in kinds.items():
        known, held_out, strange = (described(descriptor, frames) for frames in case[1:])
        h = H
        if name == "plain":
            target = np.mean(np.concatenate(values(known, held_out, H)))
        else:
            low, high = 0.5 * H, 20 * H
            for _ in range(10):
                h = (low * high) ** 0.5
                mean = np.mean(np.concatenate(values(known, held_out, h)))
                low, high = (h, high) if mean > target else (low, h)
        normal, found = values(known, held_out, h), values(known, strange, h)
        level, mean = max(v.max() for v in normal), max(v.mean() for v in normal)
        above = np.median([(v > level).sum() for v in found])
        excess = np.median([v.max() - level for v in found])
        out = [
            np.mean([statistic(v) > limit for v in found]) for statistic, limit in ((np.max, level), (np.mean, mean))
        ]
        cells = (case.name, name, descriptor.width, f"{h:.4f}", f"{above:.0f} of {len(found[0])}", f"{excess:.1f}")
        print("| " + " | ".join(map(str, cells)) + f" | {out[0]:.2f} | {out[1]:.2f} |", flush=True)


def described(descriptor: Descriptor, frames: list[Atoms]) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Rows and atomic numbers of frames."""
    return [(descriptor(atoms), atoms.numbers) for atoms in frames]


def values(known: list, frames: list, h: float) -> list[NDArray[np.float64]]:
    """Entropies dH of the atoms of each frame, each atom among its own element."""
    rows, numbers = np.vstack([x for x, _ in known]), np.concatenate([z for _, z in known])
    y, of = np.vstack([x for x, _ in frames]), np.concatenate([z for _, z in frames])
    dh = np.empty(len(y))
    for z in np.unique(of):
        dh[of == z] = delta_entropy(y[of == z], rows[numbers == z], h)
    return np.split(dh, np.cumsum([len(z) for _, z in frames])[:-1])


def cases(data: Path) -> Iterator[Case]:
    """All cases; frames of crystals are rattled by 0.08 Å."""
    crystals = {
        "Cu3Au": compound("AuCu", [(0, 0, 0), (0.5, 0.5, 0)], 221, [3.75] * 3 + CUBE).repeat(3),
        "NaCl": bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(2),
        "CaF2": compound("CaF", [(0, 0, 0), (0.25, 0.25, 0.25)], 225, [5.46] * 3 + CUBE).repeat(2),
        "BaTiO3": compound("BaTiO", [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], 221, [4.0] * 3 + CUBE).repeat(3),
        "GaAs": bulk("GaAs", "zincblende", a=5.65, cubic=True).repeat(2),
    }
    pairs = {
        "Cu3Au": ("Cu", "Au"),
        "NaCl": ("Na", "Cl"),
        "CaF2": ("Ca", "F"),
        "BaTiO3": ("Ba", "Ti"),
        "GaAs": ("Ga", "As"),
    }
    for name, crystal in crystals.items():
        a, b = pairs[name]
        yield made(
            f"{name}, antisite pair {a}/{b}",
            lambda rng, c=crystal: c,
            lambda rng, c=crystal, p=pairs[name]: exchanged(c, *p, rng),
        )
    slab = crystals["BaTiO3"]
    yield made("BaTiO3, one O exchanged with a Ti", lambda rng: slab, lambda rng: exchanged(slab, "O", "Ti", rng))
    fcc = bulk("Cu", "fcc", a=3.87, cubic=True).repeat(4)
    layered = fcc.copy()
    layered.symbols[:] = np.where(np.round(fcc.positions[:, 2] / 3.87 * 2) % 2 == 0, "Cu", "Au")
    yield made("CuAu at random, ordered L1_0", lambda rng: drawn(fcc, ("Cu", "Au"), rng), lambda rng: layered)
    yield made("CuAu L1_0, at random", lambda rng: layered, lambda rng: drawn(fcc, ("Cu", "Au"), rng))
    apart = fcc.copy()
    apart.symbols[:] = np.where(fcc.positions[:, 2] < 2 * 3.87 - 0.1, "Cu", "Au")
    yield made("CuAu at random, unmixed", lambda rng: drawn(fcc, ("Cu", "Au"), rng), lambda rng: apart)
    bcc = bulk("Nb", "bcc", a=3.2, cubic=True).repeat(4)
    two = list(combinations(ALLOY, 2))
    yield Case(
        "45 binaries of ten metals, four metals mixed",
        [noisy(drawn(bcc, pair, np.random.default_rng(i)), i) for i, pair in enumerate(two)],
        [noisy(drawn(bcc, pair, np.random.default_rng(100 + i)), 100 + i) for i, pair in enumerate(two)],
        [noisy(drawn(bcc, draw(i, 4), np.random.default_rng(200 + i)), 200 + i) for i in range(12)],
    )
    yield made(
        "ten metals mixed, two of them mixed",
        lambda rng: drawn(bcc, ALLOY, rng),
        lambda rng: drawn(bcc, rng.choice(ALLOY, 2, replace=False), rng),
    )
    for folder in (data / "acac",) if data.is_dir() else ():
        train = read(folder / "train_300K.xyz", ":")
        yield Case(
            "acetylacetone 300 K, 600 K",
            train,
            read(folder / "test_MD_300K.xyz", "::4"),
            read(folder / "test_MD_600K.xyz", "::16"),
        )
        yield Case(
            "acetylacetone 300 K, H transfer",
            train,
            read(folder / "test_MD_300K.xyz", "::4"),
            read(folder / "test_H_transfer.xyz", ":"),
        )
        swaps = read(folder / "test_MD_300K.xyz", "::16")
        yield Case(
            "acetylacetone 300 K, one C and one O exchanged",
            train,
            read(folder / "test_MD_300K.xyz", "2::4"),
            [exchanged(a, "C", "O", np.random.default_rng(i)) for i, a in enumerate(swaps)],
        )


def made(name: str, normal, strange) -> Case:
    """A case of twelve frames each, made from random numbers of their own."""
    parts = [
        [noisy(make(np.random.default_rng(seed)), seed) for seed in range(first, first + 12)]
        for first, make in ((0, normal), (100, normal), (200, strange))
    ]
    return Case(name, *parts)


def noisy(atoms: Atoms, seed: int) -> Atoms:
    """A copy with thermal noise of 0.08 Å."""
    copy = atoms.copy()
    copy.rattle(0.08, seed=seed)
    return copy


def exchanged(atoms: Atoms, a: str, b: str, rng: np.random.Generator) -> Atoms:
    """A copy in which one atom of element a and one of b have changed places."""
    copy = atoms.copy()
    i, j = rng.choice(np.flatnonzero(atoms.symbols == a)), rng.choice(np.flatnonzero(atoms.symbols == b))
    copy.symbols[[i, j]] = [b, a]
    return copy


def drawn(atoms: Atoms, symbols, rng: np.random.Generator) -> Atoms:
    """A copy with elements at random."""
    copy = atoms.copy()
    copy.symbols[:] = rng.choice(symbols, len(atoms))
    return copy


def draw(seed: int, n: int) -> list[str]:
    """Different metals of the ten."""
    return [str(s) for s in np.random.default_rng(300 + seed).choice(ALLOY, n, replace=False)]


if __name__ == "__main__":
    main()
