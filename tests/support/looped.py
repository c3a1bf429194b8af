"""A small loop of active learning: copper at 300 K is known, runs are at 1500 K, EMT teaches."""

import warnings
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin

from quests_md import Loop, Reference

STEPS, INTERVAL, N = 60, 5, 4


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


def known_and_start():
    frames, atoms = frames_at(300, 12, 0)
    return Reference.from_frames(frames, groups="frame"), atoms


def loop_in(folder, known, start, **options):
    if isinstance(start, Atoms) and isinstance(start.calc, EMT):
        start = start.copy()
        start.calc = EMT()  # the last bits of its forces depend on the frames before
    options = {"label": Teacher(Path(folder).with_suffix(".paid")), "refit": lambda frames: EMT()} | options
    options = {"n_per_round": N, "steps": STEPS, "interval": INTERVAL, "threads": 1} | options
    return Loop(start, make_dynamics, known, folder=folder, **options)
