"""Damaged files for all readers: small files of many formats, changed at random, read as run and as training set.

    python benchmarks/fuzz_readers.py FOLDER --minutes 20 [--seed 1] [--kinds extxyz,dump]

A finding is: an exception other than QuestsMDError, ValueError, TypeError, OSError and ImportError; ten seconds without
an answer; more than 3 GB of memory; and frames of extended XYZ, .traj or XDATCAR that differ from ASE's without a
warning. Files of findings stay in FOLDER, named by kind and number; the numbers are printed as JSON. Equal seeds make
equal files.
"""

import argparse
import gzip
import json
import random
import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from quests_md.errors import QuestsMDError
from quests_md.io import iter_frames

EXPECTED = (QuestsMDError, ValueError, TypeError, OSError, ImportError)
SECONDS, BYTES = 10, 3 * 2**30

#: Formats of ASE and the name of their sample.
BY_ASE = {
    "extxyz": "a.extxyz",
    "xyz": "a.xyz",
    "traj": "a.traj",
    "proteindatabank": "a.pdb",
    "gromacs": "a.gro",
    "vasp-xdatcar": "XDATCAR",
    "vasp": "POSCAR",
    "castep-md": "a.md",
    "cfg": "a.cfg",
    "cif": "a.cif",
    "json": "a.json",
    "db": "a.db",
    "gen": "a.gen",
    "xsf": "a.xsf",
    "dlp4": "a.config",
    "lammps-data": "a.data",
}

#: Formats whose frames must be those of ASE.
COMPARED = ("extxyz", "traj", "vasp-xdatcar")

WORDS = [
    b"0",
    b"-1",
    b"1e400",
    b"nan",
    b"inf",
    b"99999999999",
    b"1.0D+00",
    b"X",
    b"D",
    b"\xc3\xa5",
    b"\xff",
    b"\x00",
    b'"',
    b"{",
]


class HangError(BaseException):
    """Too long without an answer."""


def crystal(seed: int) -> Atoms:
    """A small rattled crystal with energy, forces and momenta."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.rattle(0.05, seed=seed)
    rng = np.random.default_rng(seed)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=rng.normal(size=(8, 3)), stress=np.zeros(6))
    atoms.info |= {"step": 10 * seed, "time_ps": 0.01 * seed, "note": "a b"}
    return atoms


def dump(images: list[Atoms], flags: str = "pp pp pp") -> bytes:
    """A LAMMPS dump with units, times and elements."""
    text = "ITEM: UNITS\nmetal\n"
    for i, atoms in enumerate(images):
        bounds = "".join(f"0.0 {length:.8f}\n" for length in atoms.cell.lengths())
        text += f"ITEM: TIMESTEP\n{10 * i}\nITEM: TIME\n{0.01 * i}\nITEM: NUMBER OF ATOMS\n{len(atoms)}\n"
        text += f"ITEM: BOX BOUNDS {flags}\n{bounds}ITEM: ATOMS id type element x y z vx vy vz\n"
        for j, (symbol, (x, y, z)) in enumerate(zip(atoms.symbols, atoms.positions, strict=True), 1):
            text += f"{j} {1 + (symbol == 'Cl')} {symbol} {x:.8f} {y:.8f} {z:.8f} 0.1 0.2 0.3\n"
    return text.encode()


def vasprun(images: list[Atoms]) -> bytes:
    """The part of a vasprun.xml that holds steps."""

    def structure(atoms: Atoms) -> str:
        cell = "".join(f"<v>{x} {y} {z}</v>" for x, y, z in atoms.cell)
        rows = "".join(f"<v>{x} {y} {z}</v>" for x, y, z in atoms.get_scaled_positions())
        basis = f'<crystal><varray name="basis">{cell}</varray></crystal>'
        return f'<structure>{basis}<varray name="positions">{rows}</varray></structure>'

    names = "".join(f"<rc><c>{symbol}</c><c>1</c></rc>" for symbol in images[0].symbols)
    steps = "\n".join(map(structure, images))
    return f'<modeling><atominfo><array name="atoms"><set>{names}</set></array></atominfo>{steps}\n</modeling>'.encode()


def samples(folder: Path) -> dict[str, tuple[str, bytes]]:
    """By kind: the name of a file and its content."""
    images = [crystal(i) for i in range(3)]
    found = {}
    for kind, name in BY_ASE.items():
        path = folder / name
        many = kind not in ("gromacs", "vasp", "cfg", "gen", "dlp4", "lammps-data")
        options = {"masses": True} if kind == "lammps-data" else {}
        ase.io.write(path, images if many else images[0], format=kind, **options)
        found[kind] = name, path.read_bytes()
        path.unlink()
    found["gromacs"] = "a.gro", found["gromacs"][1] * 3
    body = found["xyz"][1].decode().split("\n")
    ipi = f"# CELL(abcABC): {5.64 / units.Bohr:.6f} 10.65 10.65 90 90 90 Step: 0 Bead: 0 positions{{angstrom}}"
    found["i-pi"] = "b.xyz", "\n".join([body[0], ipi, *body[2:]]).encode()
    found["cp2k"] = "c.xyz", "\n".join([body[0], " i = 1, time = 0.500, E = -1.0", *body[2:]]).encode()
    found["dump"] = "a.lammpstrj", dump(images)
    found["old dump"] = "dump.0", dump(images, flags="")
    found["packed"] = "d.xyz.gz", gzip.compress(found["extxyz"][1], mtime=0)
    found["vasprun"] = "vasprun.xml", vasprun(images)
    return found


def changed(data: bytes, rng: random.Random) -> bytes:
    """The content after a few changes of the kinds that disks, editors and kills make."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        j = min(j, i + rng.choice([1, 8, 100, 10_000]))
        lines = data.splitlines(keepends=True)
        k = rng.randrange(len(lines)) if lines else 0
        what = rng.randrange(9)
        if what == 0:
            data = data[:i]
        elif what == 1:
            data = data[:i] + data[j:]
        elif what == 2:
            data = data[:i] + data[i:j] * rng.choice([2, 50]) + data[j:]
        elif what == 3:
            data = data[:i] + rng.choice(WORDS) + data[i:]
        elif what == 4 and lines:
            words = lines[k].split(b" ")
            words[rng.randrange(len(words))] = rng.choice(WORDS)
            data = b"".join([*lines[:k], b" ".join(words), *lines[k + 1 :]])
        elif what == 5 and lines:
            data = b"".join([*lines[:k], *lines[k + 1 :]])
        elif what == 6 and lines:
            data = b"".join([*lines[:k], lines[rng.randrange(len(lines))], *lines[k:]])
        elif what == 7:
            data = data.replace(b"\n", rng.choice([b"\r\n", b"\n\n", b" \n", b"\r"]))
        elif i < len(data):
            data = data[:i] + bytes([data[i] ^ (1 << rng.randrange(8))]) + data[i + 1 :]
        data = data[:1_000_000]
    return data


def difference(kind: str, path: Path, got: list[Atoms]) -> str:
    """How frames that were read without a warning differ from ASE's; empty: not at all, or ASE cannot read the file."""
    try:
        expected = ase.io.read(path, ":", format=kind)
    except Exception:
        return ""
    if len(got) != len(expected):
        return f"{len(got)} frames, ASE has {len(expected)}"
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        for name in ("numbers", "positions"):
            if not np.allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-9, equal_nan=True):
                return f"frame {i}: other {name}"
        if not np.allclose(a.cell.array, b.cell.array, equal_nan=True) or (a.pbc != b.pbc).any():
            return f"frame {i}: another cell"
    return ""


def tried(kind: str, path: Path) -> tuple[str, str]:
    """How reading ended ("read", "refused" or a finding), and what is to be known of it."""
    got: list[Atoms] = []
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for how in ("warn", "raise"):
                got = [frame.atoms for frame in iter_frames(path, incomplete=how, types=("Na", "Cl"))]
        if not said and kind in COMPARED and (text := difference(kind, path, got)):
            return "differs", text
        return "read", ""
    except EXPECTED as error:
        return "refused", str(error)
    except HangError:
        return "hangs", "".join(traceback.format_exc()[-2000:])
    except MemoryError:
        return "memory", "".join(traceback.format_exc()[-2000:])
    except Exception:
        return "crash", "".join(traceback.format_exc()[-2000:])
    finally:
        signal.alarm(0)


def main() -> None:
    """Change and read files until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))

    def hangs(*_: object) -> None:
        raise HangError

    signal.signal(signal.SIGALRM, hangs)
    with warnings.catch_warnings(action="ignore"):
        kinds = samples(asked.folder)
    kinds = {kind: sample for kind, sample in kinds.items() if not asked.kinds or kind in asked.kinds.split(",")}
    for kind, (name, data) in kinds.items():
        (asked.folder / name).write_bytes(data)
        ended, text = tried(kind, asked.folder / name)
        if ended != "read":
            print(f"the sample of {kind} is not read: {ended}, {text}")
    rng = random.Random(asked.seed)
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    end = time.monotonic() + 60 * asked.minutes
    number = 0
    while time.monotonic() < end:
        kind = rng.choice(list(kinds))
        name, data = kinds[kind]
        path = asked.folder / name
        path.write_bytes(changed(data, rng))
        ended, text = tried(kind, path)
        counts[kind][ended] += 1
        if ended not in ("read", "refused") and counts[kind][ended] <= 20:
            kept = asked.folder / f"{ended}-{kind.replace(' ', '-')}-{number}"
            kept.mkdir(exist_ok=True)
            path.rename(kept / name)
            (kept / "said.txt").write_text(text)
        number += 1
    print(json.dumps({"files": number, "seed": asked.seed} | counts, indent=1))


if __name__ == "__main__":
    main()
