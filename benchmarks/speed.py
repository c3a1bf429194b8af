"""Time quests_md beside its peers, `quests` and vesin, in one process, and print the table of the speed contract.

Every time is taken in turns (ours, peer, ours, peer, ...), so that noise of the machine hits both, after one call that
is not counted and whose results are compared. Frames come from a small molecular dynamics of soft spheres at the
density of copper, solid and liquid; no files are needed. Needs the extra `dev`.

With --against FOLDER, a checkout of another version of quests_md, the two versions are timed in turns instead, each in
fresh processes, and their answers are compared to the bit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np
import quests.descriptor
import quests.entropy
import vesin
from ase import Atoms
from ase.io import write
from checks import all_check_times, growth
from frames import PHASES, trajectory
from numba.core.errors import NumbaTypeSafetyWarning
from threadpoolctl import threadpool_limits
from timing import Times, header, in_turns, text

from quests_md import Descriptor, Reference, calibrate, delta_entropy

#: Bandwidth in 1/Å and cutoff in Å, the defaults of both packages.
BANDWIDTH, CUTOFF = 0.015, 5.0

#: Cells of the frames of references: 1000 atoms, the size that the contract names for levels.
FRAME = (5, 5, 10)

#: What is run in fresh processes.
FRESH, WORKS = (str(Path(__file__).with_name(name)) for name in ("fresh.py", "works.py"))


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table; what was not measured is an empty text."""

    what: str
    contract: str
    ours: str
    peer: str = ""
    ratio: str = ""
    met: bool | None = None

    def cells(self) -> tuple[str, ...]:
        """The texts of the line."""
        verdict = {None: "", True: "met", False: "not yet"}[self.met]
        return self.what, self.contract, self.ours, self.peer, self.ratio, verdict


HEADINGS = ("what", "contract", "quests_md: min / median", "peer: min / median", "ratio of min", "today")
VERSION_HEADINGS = ("what", "contract", "other: min / median", "this: min / median", "this / other", "answers")


@contextmanager
def same_threads(threads: int) -> Iterator[None]:
    """Hold numba's loops and the matrix products of BLAS to the threads that ours get; silence quests' warnings."""
    numba.set_num_threads(threads)
    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", NumbaTypeSafetyWarning)
        yield


def time_rows(cells: tuple[int, int, int], repeats: int, threads: int) -> Iterator[Line]:
    """Rows beside quests and the bare neighbour list of vesin."""
    descriptor = Descriptor()
    neighbours = vesin.NeighborList(cutoff=CUTOFF, full_list=True, n_threads=threads)
    for phase in PHASES:
        atoms = list(trajectory(phase, cells, 5))[-1]
        n = len(atoms)

        def ours(atoms: Atoms = atoms) -> np.ndarray:
            return descriptor(atoms, threads=threads)

        def peer(atoms: Atoms = atoms) -> np.ndarray:
            return quests.descriptor.get_descriptors([atoms], k=32, cutoff=CUTOFF)

        def bare(atoms: Atoms = atoms) -> list[np.ndarray]:
            return neighbours.compute(atoms.positions, atoms.cell.array, True, "ijd")

        rows = ours()
        np.testing.assert_allclose(rows, peer(), rtol=0, atol=1e-8)
        i, _, d = bare()
        nearest = np.full(n, np.inf)
        np.minimum.at(nearest, i, d)
        np.testing.assert_allclose(rows[:, 0], (1 - (nearest / CUTOFF) ** 2) ** 2 / nearest, rtol=1e-9)
        np.testing.assert_array_equal((rows[:, :32] > 0).sum(axis=1), np.minimum(np.bincount(i, minlength=n), 32))

        rounds = repeats * max(1, 4000 // n)
        t_ours, t_quests, t_vesin = in_turns(rounds, ours, peer, bare)
        speedup, slowdown = min(t_quests) / min(t_ours), min(t_ours) / min(t_vesin)
        what, mine, unit = f"rows, {phase}, {n} atoms, beside", text(t_ours, "us/atom", n), "us/atom"
        contract = "at least 6 times quests (aim: 8)"
        yield Line(f"{what} quests", contract, mine, text(t_quests, unit, n), f"{speedup:.1f} x faster", speedup >= 6)
        contract = "within 1.8 times vesin (aim: 1.3)"
        yield Line(f"{what} vesin", contract, mine, text(t_vesin, unit, n), f"{slowdown:.2f} x", slowdown <= 1.8)


def time_delta_entropy(
    phase: str, reference: Reference, held_out: list[Atoms], n: int, repeats: int, threads: int
) -> Iterator[Line]:
    """Exact dH beside quests, at the accuracy of `Reference.delta_entropy` and in float64."""
    queries = np.concatenate([reference.descriptor(atoms) for atoms in held_out])[:n]

    def ours() -> np.ndarray:
        return reference.delta_entropy(queries, threads=threads)

    def ours64() -> np.ndarray:
        return delta_entropy(queries, reference=reference.rows, bandwidth=BANDWIDTH, threads=threads)

    def peer() -> np.ndarray:
        return quests.entropy.delta_entropy(queries, reference.rows, h=BANDWIDTH)

    fast, exact, theirs = ours(), ours64(), peer()
    reachable = np.isfinite(theirs)  # quests underflows to inf far away
    deviation, deviation64 = (np.abs(own - theirs)[reachable].max() for own in (fast, exact))
    np.testing.assert_allclose(exact[reachable], theirs[reachable], rtol=0, atol=1e-6)
    np.testing.assert_allclose(fast, exact, rtol=1e-6, atol=1e-4)
    t_ours, t_ours64, t_quests = in_turns(repeats, ours, ours64, peer)
    where = f"{phase}, {n} queries, {reference.n_environments} rows"
    theirs_text, unit = text(t_quests, "us/query", n), "us/query"
    ratio, ratio64 = min(t_quests) / min(t_ours), min(t_quests) / min(t_ours64)
    what = f"exact dH, {where}, beside quests (differ by {deviation:.0e})"
    contract = "at least 10 times quests"
    yield Line(what, contract, text(t_ours, unit, n), theirs_text, f"{ratio:.1f} x faster", ratio >= 10)
    what = f"dH in float64, {where}, beside quests (differ by {deviation64:.0e})"
    yield Line(what, "", text(t_ours64, unit, n), theirs_text, f"{ratio64:.1f} x faster")


def time_decisions(
    phase: str, references: list[Reference], held_out: list[Atoms], repeats: int, threads: int
) -> Iterator[Line]:
    """Proven decisions for covered atoms at the calibrated level, and how they grow with the reference."""
    best: list[float] = []
    *frames, last = held_out
    for reference in references:
        level = float(calibrate(reference, frames=frames, threads=threads).levels(frames[0]).max())
        rows = reference.descriptor(last)
        values = reference.delta_entropy(rows, float64=True, threads=threads)
        np.testing.assert_array_equal(reference.is_covered(rows, level, threads=threads), values <= level)
        covered = rows[values <= level]
        n = len(covered)
        (times,) = in_turns(repeats, lambda r=reference, c=covered, x=level: r.is_covered(c, x, threads=threads))
        best.append(min(times) / n * 1e6)
        what = (
            f"decision, {phase}, {reference.n_environments} rows, level {level:.2f}, {n} of {len(rows)} atoms covered"
        )
        yield Line(what, "below 20 us", text(times, "us/atom", n), met=best[-1] < 20)
    growth = best[-1] / best[0]
    what = f"decision, {phase}, growth from {references[0].n_environments} to {references[-1].n_environments} rows"
    yield Line(what, "less than 2 times", "", "", f"{growth:.2f} x", growth < 2)


def build(frames: list[Atoms], n_frames: int, threads: int) -> tuple[Reference, float]:
    """A reference of frames spread evenly over the given ones, and the seconds it took."""
    chosen = [frames[i * len(frames) // n_frames] for i in range(n_frames)]
    start = time.perf_counter()
    reference = Reference.from_frames(chosen, bandwidth=BANDWIDTH, threads=threads)
    return reference, time.perf_counter() - start


def time_files(small: Reference, large: Reference, folder: Path, repeats: int, threads: int) -> Iterator[Line]:
    """Saving, loading, the search structure, and the first score of fresh processes."""
    paths = str(folder / "small.safetensors"), str(folder / "large.safetensors")
    small.save(paths[0])
    large.save(paths[1])
    size = f"{large.n_environments} rows"
    t_save, t_load = in_turns(repeats, lambda: large.save(paths[1]), lambda: Reference.load(paths[1]))
    yield Line(f"save, {size}", "", text(t_save, "s"))
    yield Line(f"load, {size}", "", text(t_load, "s"))

    def fresh(*arguments: str, cache: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"QUESTS_MD_THREADS": str(threads)} | ({"NUMBA_CACHE_DIR": cache} if cache else {})
        return subprocess.run(
            [sys.executable, FRESH, *arguments], env=environment, check=True, capture_output=True, text=True
        )

    found = [fresh("decision", *paths).stdout.split() for _ in range(repeats + 1)][1:]
    seconds = [float(s) for s, _ in found]
    share = max(int(growth) for _, growth in found) / large.rows.nbytes
    what = f"search structure: load and 256 decisions, {size}"
    yield Line(what, "under 3 s", text(seconds, "s"), met=min(seconds) < 3)
    if share:
        what = f"peak memory of load and 256 decisions, {size}"
        yield Line(what, "under 2.5 times the rows", f"{share:.2f} times", met=share < 2.5)

    fresh("score", paths[0])
    (cached,) = in_turns(repeats, lambda: fresh("score", paths[0]))
    yield Line("first score in a fresh process, kernels cached", "under 3 s", text(cached, "s"), met=min(cached) < 3)
    with tempfile.TemporaryDirectory() as empty:
        start = time.perf_counter()
        messages = fresh("score", paths[0], cache=empty).stderr.strip()
        compiled = time.perf_counter() - start
    ours = f"{compiled:.1f} s (once), {'announced' if messages else 'nothing on stderr'}"
    what = "first score in a fresh process, compiled from nothing"
    yield Line(what, "under 25 s, announced", ours, met=compiled < 25 and bool(messages))


def time_checks(large: bool, folder: Path, repeats: int) -> Iterator[Line]:
    """Whole checks: what a user pays."""
    found = []
    for times in all_check_times(large, folder, repeats):
        found.append(times)
        ours, rows = text(times.quiet, "us/atom", times.n_atoms), text(times.rows, "us/atom", times.n_atoms)
        for what, contract, value, is_met in times.contract():
            yield Line(f"whole check, {what}", contract, ours, f"its rows {rows}", value, is_met)
    for what, contract, value, is_met in growth(found):
        yield Line(f"whole check, {what}", contract, "", "", value, is_met)


def lines(quick: bool, large: bool, threads: int) -> Iterator[Line]:
    """All lines of the table."""
    repeats = 2 if quick else 5
    if not quick:
        with tempfile.TemporaryDirectory() as folder:
            yield from time_checks(large, Path(folder), 3 * repeats)
    yield from time_rows((4, 4, 4), repeats, threads)
    yield from time_rows((5, 5, 5) if quick else (10, 10, 10), repeats, threads)
    sizes = [2, 10] if quick else [10, 100, 1000] if large else [10, 100]
    n_calibration = 3 if quick else 10
    for phase in PHASES:
        frames = list(trajectory(phase, FRAME, sizes[-1], seed=1))
        held_out = list(trajectory(phase, FRAME, n_calibration + 1, seed=2))
        built = [build(frames, n, threads) for n in sizes]
        references = [reference for reference, _ in built]
        reference, seconds = built[1]  # the size of the other lines
        yield Line(f"build a reference, {phase}, {reference.n_environments} rows", "", f"{seconds:.3g} s (once)")
        n_queries = 500 if quick else 2000
        yield from time_delta_entropy(phase, references[1], held_out, n_queries, 2 if quick else 3, threads)
        yield from time_decisions(phase, references, held_out, 2 if quick else 3, threads)
    with tempfile.TemporaryDirectory() as folder:
        yield from time_files(references[0], references[1], Path(folder), 2 if quick else 3, threads)


def write_frames(folder: Path, quick: bool) -> Iterator[tuple[str, Path]]:
    """Frames for each process of `works.py`: the group that it measures, and the folder with what it reads."""

    def at(name: str, **files: list[Atoms]) -> Path:
        here = folder / name
        here.mkdir()
        for file, frames in files.items():
            write(here / f"{file.replace('_', ' ')}.traj", frames)
        return here

    sizes = [(4, 4, 4), (5, 5, 5) if quick else (10, 10, 10)]
    for cells in sizes:
        phases = {phase: list(trajectory(phase, cells, 5))[-1:] for phase in PHASES}
        yield "rows", at(f"rows {cells}", **phases)
    for phase in PHASES:
        held_out = list(trajectory(phase, FRAME, 4 if quick else 11, seed=2))
        for n_frames in (2, 10) if quick else (10, 100):
            known = list(trajectory(phase, FRAME, n_frames, seed=1))
            known[0].info["phase"] = phase
            yield "answers", at(f"answers {phase} {n_frames}", known=known, held_out=held_out)
    for cells, n_frames in (((2, 2, 2), 281), ((6, 6, 6), 11)):  # 9e3 rows
        n_held_out, n_asked = (4, 2) if quick else (20, 10)
        later = list(trajectory("solid", cells, n_held_out + n_asked, seed=2))
        known = list(trajectory("solid", cells, 1 + n_frames // 10 if quick else n_frames, seed=1))
        yield "checks", at(f"checks {cells}", known=known, held_out=later[:n_held_out], asked=later[n_held_out:])


def compare_versions(other: Path, quick: bool, threads: int) -> Iterator[tuple[str, ...]]:
    """Lines of both versions: each group of lines in fresh processes, the versions in turns."""
    folders = [other.resolve(), Path(__file__).resolve().parents[1]]
    rounds, repeats = (2, 2) if quick else (5, 5)

    def run(version: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(version), "QUESTS_MD_THREADS": str(threads)}
        environment.pop(
            "PYTHONDONTWRITEBYTECODE", None
        )  # a version without bytecode would compile its sources each time
        return subprocess.run(
            [sys.executable, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )

    def cells(what: str, contract: str, times: list[Times], unit: str, per: int, note: str = "") -> tuple[str, ...]:
        ratio = f"{min(times[1]) / min(times[0]):.3f} / {median(times[1]) / median(times[0]):.3f}"
        return what, contract, *(text(t, unit, per) for t in times), ratio, note

    with tempfile.TemporaryDirectory() as scratch:
        for group, frames in write_frames(Path(scratch), quick):
            arguments = [WORKS, group, str(frames), "--threads", str(threads), "--repeats", str(repeats)]
            for version in folders:  # compiles
                run(version, *arguments[:-1], "1")
            found: list[list[dict[str, Any]]] = [[], []]
            for _ in range(rounds):
                for version, lines_of_version in zip(folders, found, strict=True):
                    lines_of_version.append(json.loads(run(version, *arguments).stdout))
            for what, line in found[1][0].items():
                times = [[s for lines in version for s in lines[what]["seconds"]] for version in found]
                is_same = len({lines[what]["answer"] for version in found for lines in version}) == 1
                note = "same bits" if is_same else "OTHER BITS"
                yield cells(what, line["contract"], times, line["unit"], line["per"], note)
        path = str(Path(scratch) / "reference.safetensors")
        n_frames = 2 if quick else 10
        Reference.from_frames(list(trajectory("solid", FRAME, n_frames)), bandwidth=BANDWIDTH).save(path)
        for version in folders:
            run(version, FRESH, "score", path)
        times = in_turns(rounds, *(lambda version=version: run(version, FRESH, "score", path) for version in folders))
        yield cells("first score in a fresh process, kernels cached", "under 3 s", times, "s", 1)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads on both sides (default 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes, below those of the contract; under a minute")
    parser.add_argument("--large", action="store_true", help="decisions against 1e6 rows too")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="compare with the version of this checkout")
    options = parser.parse_args()
    about = header(options.threads)
    print("\n\n".join(about) + "\n" if options.markdown else "\n".join(about))
    if options.quick:
        print("--quick: sizes below those of the contract; a smoke test, not a verdict\n")
    table: list[tuple[str, ...]] = [HEADINGS if options.against is None else VERSION_HEADINGS]
    with same_threads(options.threads):
        if options.against is None:
            found = (line.cells() for line in lines(options.quick, options.large, options.threads))
        else:
            found = compare_versions(options.against, options.quick, options.threads)
        for cells in found:
            table.append(cells)
            print("measured:", *filter(None, cells), sep="  ", file=sys.stderr)
    if options.markdown:
        table.insert(1, ("---",) * len(table[0]))
    widths = [0 if options.markdown else max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("| " + " | ".join(padded) + " |" if options.markdown else "  ".join(padded).rstrip())


if __name__ == "__main__":
    main()
