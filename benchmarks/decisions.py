"""Ten million decisions dH <= level beside the float64 sum, most of them hard; prints docs/decisions.md.

python benchmarks/decisions.py [--data FOLDER] [--levels N] > docs/decisions.md

For each environment dH is taken once as the float64 sum; then `Reference.is_covered` is asked at many levels: at this
very number, at the next larger and smaller one, within 1e-6 of it, and farther away. Real input is read from
../../shared/data.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from numpy.typing import NDArray

from quests_md import Descriptor, Reference
from quests_md.engine import minus_log_sums
from quests_md.engine.cpu import CpuIndex

#: Bandwidth in 1/Å.
BANDWIDTH = 0.015

#: Rows of made-up references, and environments per source.
N_ROWS, N_QUERIES = 10_000, 4000

#: Levels asked per environment: as many for twelve sources as ten million decisions take.
N_LEVELS = 230

#: Real references and what is judged by them; files of `--data`.
REAL = {
    "copper, DFT (mlearn): train, test": ("mlearn/Cu_train.xyz@::3", "mlearn/Cu_test.xyz"),
    "molybdenum, DFT (mlearn): train, test": ("mlearn/Mo_train.xyz", "mlearn/Mo_test.xyz"),
    "copper, liquid and freezing (nucleation)": (
        "nucleation/cu864_liquid_ramp1600_800.extxyz@::7",
        "nucleation/cu_T700_s1.extxyz@::35",
    ),
    "carbon (gap20): layers apart, graphite": ("gap20/Graphite_Layer_Sep.xyz", "gap20/Graphite.xyz@::2"),
    "carbon (gap20): graphite, layers apart": ("gap20/Graphite.xyz", "gap20/Graphite_Layer_Sep.xyz"),
    "alloys (NbMoTaW), four elements: train, test": ("NbMoTaW/train.xyz@::3", "NbMoTaW/test.xyz"),
}


class Given:
    """Rows that the atoms carry."""

    fingerprint = "given"

    def __call__(self, atoms: Atoms) -> NDArray[np.float64]:
        """The rows."""
        rows: NDArray[np.float64] = atoms.arrays["row"]
        return rows


def cloud(rng: np.random.Generator) -> NDArray[np.float64]:
    """A cloud with a few wide directions and many narrow ones, as rows of a liquid have them; in bandwidths."""
    return rng.normal(size=(N_ROWS, 63)) * 4.0 * 0.93 ** np.arange(63)


def clusters(rng: np.random.Generator) -> NDArray[np.float64]:
    """Five clouds at distances from 1 to 1e4 bandwidths."""
    return cloud(rng) / 3 + (rng.normal(size=(5, 63)) * 10.0 ** np.arange(5)[:, None])[rng.integers(5, size=N_ROWS)]


def outliers(rng: np.random.Generator) -> NDArray[np.float64]:
    """A cloud with a few rows up to 1e8 bandwidths away."""
    rows = cloud(rng)
    rows[rng.integers(N_ROWS, size=30)] += rng.normal(size=(30, 63)) * 10.0 ** rng.uniform(2, 7, (30, 1))
    return rows


def corners(rng: np.random.Generator) -> NDArray[np.float64]:
    """Equal magnitudes in all columns, so that rounding errors of a product are alike."""
    return np.sign(rng.normal(size=(N_ROWS, 63))) * 1.2345678


def rays(rng: np.random.Generator) -> NDArray[np.float64]:
    """Rows with nearly equal columns."""
    return rng.uniform(-4, 4, (N_ROWS, 1)) + 0.2 * rng.normal(size=(N_ROWS, 63))


def copies(rng: np.random.Generator) -> NDArray[np.float64]:
    """Forty rows, one of them 5000 times, and zero rows."""
    rows = cloud(rng)[rng.integers(40, size=N_ROWS)]
    rows[: N_ROWS // 2] = rows[0]
    rows[-100:] = 0.0
    return rows


MADE_UP = {
    "random": cloud,
    "adversarial: clusters": clusters,
    "adversarial: outliers": outliers,
    "adversarial: corners": corners,
    "adversarial: rays": rays,
    "adversarial: copies": copies,
}


@dataclass
class Ways:
    """How many environments were decided in which way."""

    fast: int = 0
    """By a sum from products of matrices, where part of the sum had proved nothing."""
    exact: int = 0
    """By the float64 sum."""


def count(ways: Ways) -> None:
    """From now on count what is not decided by proof."""
    fast, exact = CpuIndex.minus_log_sums, minus_log_sums

    def counted_fast(index: CpuIndex, queries: NDArray[np.float64], *arguments: Any) -> Any:
        ways.fast += len(queries)
        return fast(index, queries, *arguments)

    def counted_exact(queries: NDArray[np.float64], *arguments: Any, **options: Any) -> Any:
        ways.exact += len(queries)
        return exact(queries, *arguments, **options)

    CpuIndex.minus_log_sums = counted_fast  # type: ignore[method-assign]  # to count
    for name, module in sys.modules.items():
        if name.startswith("quests_md.reference.") and hasattr(module, "minus_log_sums"):
            module.minus_log_sums = counted_exact  # type: ignore[attr-defined]  # to count


def made_up(make: Callable[[np.random.Generator], NDArray[np.float64]], seed: int) -> tuple[Reference, Any, Any]:
    """A reference of rows out of nothing, and rows at all distances from them, numbers with it."""
    rng = np.random.default_rng(seed)
    rows = make(rng)
    away = rng.normal(size=(N_QUERIES, 63))
    away *= rng.uniform(0, 8, (N_QUERIES, 1)) / np.linalg.norm(away, axis=1)[:, None]
    away[rng.random(N_QUERIES) < 0.05] *= 100.0
    away[rng.random(N_QUERIES) < 0.1] = 0.0
    queries = BANDWIDTH * (rows[rng.integers(N_ROWS, size=N_QUERIES)] + away)
    frames = []
    for piece in np.split(BANDWIDTH * rows, N_ROWS // 100):
        atoms = Atoms("H100", positions=2.0 * np.eye(1, 3) * np.arange(100)[:, None])
        atoms.arrays["row"] = piece
        frames.append(atoms)
    return Reference.from_frames(frames, descriptor=Given(), bandwidth=BANDWIDTH), queries, np.ones(N_QUERIES, np.int64)


def real(data: Path, known: str, new: str, seed: int) -> tuple[Reference, Any, Any]:
    """A reference of a file, and the rows and numbers of atoms of another."""
    path, _, part = known.partition("@")
    reference = Reference.from_frames(read(data / path, part or ":"), bandwidth=BANDWIDTH)
    path, _, part = new.partition("@")
    frames = read(data / path, part or ":")
    rows = np.concatenate([Descriptor()(atoms) for atoms in frames])
    numbers = np.concatenate([atoms.numbers for atoms in frames])
    chosen = np.random.default_rng(seed).permutation(len(rows))[:N_QUERIES]
    return reference, rows[chosen], numbers[chosen]


def levels(values: NDArray[np.float64], n: int, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Levels of all environments, n times: near, not so near, and the same for all."""
    yield values
    yield np.nextafter(values, -np.inf)
    yield np.nextafter(values, np.inf)
    for _ in range(5):
        yield values + rng.uniform(-1e-6, 1e-6, len(values))
    for i in range(n - 8):
        if i % 2:
            yield np.full(len(values), np.quantile(values, rng.uniform(0.3, 1)) + rng.normal())
        else:
            yield values + rng.normal(0, 10.0 ** rng.uniform(-5, 1.5), len(values))


def main() -> None:
    """Ask, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--levels", type=int, default=N_LEVELS, help="levels per environment (default %(default)s)")
    options = parser.parse_args()
    ways = Ways()
    count(ways)
    sources: dict[str, Callable[[int], tuple[Reference, Any, Any]]] = {}
    for name, make in MADE_UP.items():
        sources[name] = lambda seed, make=make: made_up(make, seed)
    if options.data.is_dir():
        for name, (known, new) in REAL.items():
            sources[name] = lambda seed, known=known, new=new: real(options.data, known, new, seed)
    else:
        print(f"no data at {options.data}: nothing real; give --data FOLDER", file=sys.stderr)
    table = []
    for seed, (name, source) in enumerate(sources.items()):
        reference, rows, numbers = source(seed)
        values = reference.delta_entropy(rows, numbers=numbers, float64=True, threads=1)
        reference.is_covered(rows, 0.0, numbers=numbers, threads=1)  # builds the search structure
        ways.fast = ways.exact = 0
        n = n_near = n_wrong = 0
        seconds = 0.0
        for level in levels(values, options.levels, np.random.default_rng(seed)):
            start = time.perf_counter()
            covered = reference.is_covered(rows, level, numbers=numbers, threads=1)
            seconds += time.perf_counter() - start
            n += len(rows)
            n_near += int((np.abs(values - level) <= 1e-6 + 1e-15 * np.abs(values)).sum())
            n_wrong += int((covered != (values <= level)).sum())
        cells = (name, reference.n_environments, len(rows), n, n_near, n_wrong, n - ways.fast, n - ways.exact, seconds)
        table.append(cells)
        print(*cells, file=sys.stderr)
    versions = ", ".join(f"{package} {version(package)}" for package in ("quests_md", "numpy", "numba"))
    print("# Decisions beside the float64 sum\n")
    print(
        "`Reference.is_covered` against `Reference.delta_entropy(float64=True) <= level`: the flags of both must be\n"
        "equal, whatever the level. `python benchmarks/decisions.py` prints this page. A level within 1e-6 of dH is\n"
        "dH itself, the next larger or smaller float64 number, or a number drawn at random within 1e-6 of dH.\n\n"
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread; python "
        f"{platform.python_version()}, {versions}; {datetime.now(UTC):%Y-%m-%d}\n"
    )
    print(
        "| source | N_ref | environments | decisions | level within 1e-6 of dH | disagreements | "
        "proven by part of the sum | without float64 sum | us per decision |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    total = ["all", "", *(sum(cells[i] for cells in table) for i in range(2, 9))]
    for name, n_ref, n_queries, n, n_near, n_wrong, proven, inexact, seconds in [*table, total]:
        print(
            f"| {name} | {n_ref} | {n_queries} | {n} | {n_near} | {n_wrong} | {proven / n:.1%} | {inexact / n:.1%} "
            f"| {1e6 * seconds / n:.1f} |"
        )


if __name__ == "__main__":
    main()
