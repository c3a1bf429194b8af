"""Loops of active learning that are killed at random moments, beside one that never is.

    python benchmarks/loop_kills.py --kills 300 --seed 1

Each loop is killed (SIGKILL) until it has ended, and loops are begun anew until there were so many kills. What is
compared with the loop that was never killed: the frames of the training set, to the bit, the reference, why it ended,
and the labels that were paid for: no frame is labelled twice, but for the one that a kill met.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin

from quests_md import Loop, Reference, calibrate


def main() -> None:
    """Kill loops, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp())
    known = known_frames()
    reference = Reference.from_frames(known, groups="frame")
    calibration = calibrate(reference)
    start = time.perf_counter()
    loop = loop_in(folder / "whole", known[-1], reference, calibration)
    reason = loop.run()
    seconds = time.perf_counter() - start
    print(f"never killed: {reason}, {seconds:.1f} s", file=sys.stderr)
    chance, n_kills, n_loops, twice, faults = random.Random(options.seed), 0, 0, 0, []
    while n_kills < options.kills:
        killed = folder / f"loop-{n_loops}"
        n = kill_until_done(killed, (known[-1], reference, calibration), chance, seconds)
        n_kills, n_loops = n_kills + n, n_loops + 1
        again = loop_in(killed, known[-1], reference, calibration)
        if again.run() != reason:
            faults.append(f"loop {n_loops}: {again.run()}")
        if [f.positions.tobytes() for f in again.labelled] != [f.positions.tobytes() for f in loop.labelled]:
            faults.append(f"loop {n_loops}: other frames")
        if again.reference.fingerprint != loop.reference.fingerprint:
            faults.append(f"loop {n_loops}: another reference")
        paid = Counter(killed.with_suffix(".paid").read_text().split())
        twice += sum(paid.values()) - len(paid)
        if len(paid) != len(loop.labelled) or sum(paid.values()) - len(paid) > n:
            faults.append(f"loop {n_loops}: {sum(paid.values())} labels paid for, {len(loop.labelled)} wanted")
        print(f"{n_kills} kills, {len(faults)} faults", file=sys.stderr, flush=True)
        shutil.rmtree(killed)
    print(f"{n_loops} loops ({len(loop.rounds)} rounds, {len(loop.labelled)} labels), {n_kills} kills:")
    print(f"{len(faults)} differences; {twice} labels were being kept when the kill came, and were made again")
    print("\n".join(faults))
    shutil.rmtree(folder)
    sys.exit(bool(faults))


def kill_until_done(folder: Path, given: tuple, chance: random.Random, seconds: float) -> int:
    """Run a loop in a process that is killed at a random moment, again and again; how many kills it took."""
    n_kills = 0
    while True:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                loop_in(folder, *given).run()
                code = 0
            finally:
                os._exit(code)
        time.sleep(chance.uniform(0.0, 0.15 * seconds * 1.1**n_kills))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise SystemExit(f"a loop ended with an error in {folder}")
            return n_kills
        n_kills += 1


def loop_in(folder: Path, start: Atoms, reference: Reference, calibration: object) -> Loop:
    """The loop, with a teacher that writes the frames that it has labelled to a file."""
    start = start.copy()
    start.calc = EMT()

    def teach(atoms: Atoms) -> tuple[float, np.ndarray]:
        atoms.calc = EMT()
        answer = atoms.get_potential_energy(), atoms.get_forces()
        with folder.with_suffix(".paid").open("a") as out:
            out.write(atoms.positions.tobytes().hex()[:96] + "\n")
        return answer

    options = {"n_per_round": 4, "steps": 60, "interval": 5, "threads": 1, "calibration": calibration}
    return Loop(start, dynamics, reference, label=teach, refit=lambda frames: EMT(), folder=folder, **options)


def dynamics(atoms: Atoms, rng: np.random.Generator, temperature_K: float = 1500) -> Langevin:
    """Langevin dynamics."""
    return Langevin(atoms, 4 * units.fs, temperature_K=temperature_K, friction=0.05, rng=rng, fixcm=False)


def known_frames() -> list[Atoms]:
    """Frames of 32 copper atoms at 300 K, with momenta."""
    rng = np.random.default_rng(0)
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.calc = EMT()
    atoms.set_momenta(rng.normal(size=(32, 3)) * np.sqrt(atoms.get_masses()[:, None] * units.kB * 300))
    dyn, frames = dynamics(atoms, rng, 300), []
    for _ in range(12):
        dyn.run(10)
        frames.append(atoms.copy())
    return frames


if __name__ == "__main__":
    main()
