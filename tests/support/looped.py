"""A small loop of active learning: copper at 300 K is known, runs are at 1500 K, EMT teaches."""

import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin

from quests_md import Loop, Reference
from tests.support.systems import reordered

#: So few frames a round that all that are chosen are no structure in motion yet, whose colder copies take seconds.
N = 3

STEPS, INTERVAL = 60, 5


def make_dynamics(atoms, rng):
    with warnings.catch_warnings(action="ignore"):
        return Langevin(atoms, 4 * units.fs, temperature_K=1500, friction=0.05, rng=rng, fixcm=False)


def frames_at(temperature_K, n, seed):
    """Frames of a run, and its atoms."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.calc = EMT()
    atoms.set_momenta(rng.normal(size=(32, 3)) * np.sqrt(atoms.get_masses()[:, None] * units.kB * temperature_K))
    with warnings.catch_warnings(action="ignore"):
        dyn = Langevin(atoms, 4 * units.fs, temperature_K=temperature_K, friction=0.05, rng=rng, fixcm=False)
    frames = []
    for _ in range(n):
        dyn.run(10)
        frames.append(atoms.copy())
    return frames, atoms


class Teacher:
    """EMT, which writes the name of each frame that it has labelled to a file."""

    def __init__(self, paid: Path):
        self.paid = paid

    def __call__(self, atoms):
        atoms.calc = EMT()
        answer = atoms.get_potential_energy(), atoms.get_forces()
        with self.paid.open("a") as out:
            out.write(f"{atoms.positions.tobytes().hex()[:64]}\n")
        return answer


class Student(Calculator):
    """EMT whose forces are off by a share, which falls with the frames that it has learnt; it keeps its neighbours."""

    implemented_properties = ("energy", "forces")

    def __init__(self, n_learnt=0):
        super().__init__()
        self.share, self.teacher = 0.2 / (1 + 0.03 * n_learnt), EMT()

    def reset(self):
        super().reset()
        self.teacher.reset()

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        energy, forces = (self.teacher.get_property(name, atoms) for name in ("energy", "forces"))
        self.results = {"energy": energy, "forces": (1 + self.share) * forces}


def labelled_frames(n, seed):
    """Frames at 300 K with EMT's forces, each of a group of its own."""
    frames = frames_at(300, n, seed)[0]
    for k, frame in enumerate(frames):
        frame.calc = EMT()
        frame.get_forces()
        frame.info["group"] = k
    return frames


def loop_of_errors(folder, known, start, apart, **options):
    """A loop whose levels come from labels, of a student that is refitted."""
    start = start.copy()
    start.calc = Student()
    refit = {"refit": lambda frames: Student(len(frames)), "n_per_round": 4}
    return loop_in(folder, known, start, **{"tolerance": 0.4, "apart": apart} | refit | options)


def known_and_start(in_motion=False):
    """What is known, and a start; a reference of frames `in_motion` makes colder copies, which takes seconds a run."""
    frames, atoms = frames_at(300, 12, 0)
    return Reference.from_frames(frames if in_motion else reordered(frames), groups="frame"), atoms


def loop_in(folder, known, start, **options):
    if isinstance(start, Atoms) and isinstance(start.calc, EMT):
        start = start.copy()
        start.calc = EMT()  # the last bits of its forces depend on the frames before
    options = {"label": Teacher(Path(folder).with_suffix(".paid")), "refit": lambda frames: EMT()} | options
    options = {"n_per_round": N, "steps": STEPS, "interval": INTERVAL, "threads": 1} | options
    return Loop(start, make_dynamics, known, folder=folder, **options)


def kill_until_done(run: Callable[[], object], chance: random.Random, longest: float, growth: float) -> int:
    """Run something in processes that are killed at random moments until one ends by itself; the number of kills.

    The first lives for `longest` seconds at most, the following ones for `growth` times as long as the one before.
    """
    n_kills = 0
    while True:
        child = os.fork()
        if child == 0:  # pragma: no cover
            code = 1
            try:
                run()
                code = 0
            finally:
                os._exit(code)
        time.sleep(chance.uniform(0.02, longest * growth**n_kills))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise RuntimeError(f"what was to be killed ended by itself with an error, after {n_kills} kills")
            return n_kills
        n_kills += 1
