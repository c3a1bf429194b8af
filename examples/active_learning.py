"""Active learning: EMT teaches a fitted potential, which is fitted anew whenever its runs leave what it knows.

Copper at 300 K is known; the runs heat it to 900 K. Takes a minute or two, writes to the folder "learning", and goes on
there if it is killed and started again.
"""

import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.neighborlist import neighbor_list

from quests_md import Loop, Reference

CENTERS = np.linspace(2.0, 5.0, 10)  # of Gaussians of the distance, Å
WIDTH, CUTOFF = 0.4, 5.5


def features(atoms):
    """Energies (20,) and forces (n_atoms, 3, 20): sums of Gaussians over pairs, and square roots of these sums."""
    i, j, d, vector = neighbor_list("ijdD", atoms, CUTOFF)  # sorted by i
    first = np.searchsorted(i, np.arange(len(atoms)))
    pair = np.exp(-(((d[:, None] - CENTERS) / WIDTH) ** 2) / 2)
    density = np.add.reduceat(pair, first) + 1e-8
    slope = pair * (CENTERS - d[:, None]) / WIDTH**2
    weights = np.hstack([slope, slope * (density[i] ** -0.5 + density[j] ** -0.5) / 2])
    forces = np.stack([np.add.reduceat(weights * v[:, None], first) for v in (vector / d[:, None]).T], axis=1)
    return np.concatenate([density.sum(axis=0) / 2, np.sqrt(density).sum(axis=0)]), forces


class Student(Calculator):
    """A potential that is linear in its coefficients."""

    implemented_properties = ("energy", "forces")

    def __init__(self, coefficients):
        super().__init__()
        self.coefficients = coefficients

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Energy and forces."""
        super().calculate(atoms, properties, system_changes)
        energy, forces = features(atoms)
        self.results = {"energy": energy @ self.coefficients, "forces": forces @ self.coefficients}


def fit(labelled):
    """The potential with the least squares of force errors in the training set and in the frames labelled since."""
    frames = [*train, *labelled]
    a = np.concatenate([features(frame)[1].reshape(-1, 2 * len(CENTERS)) for frame in frames])
    b = np.concatenate([frame.get_forces().ravel() for frame in frames])
    return Student(np.linalg.solve(a.T @ a + 1e-6 * np.eye(a.shape[1]), a.T @ b))


def run_of(atoms, rng=None, temperature_K=900):
    """A dynamics of the atoms."""
    return Langevin(atoms, 4 * units.fs, temperature_K=temperature_K, friction=0.02, rng=rng, fixcm=False)


start = bulk("Cu", cubic=True) * (3, 3, 3)
start.calc = EMT()
warm = run_of(start, np.random.default_rng(0), temperature_K=300)
train = []
for _ in range(30):
    warm.run(10)
    frame = start.copy()
    frame.calc = EMT()
    train.append(frame)
reference = Reference.from_frames(train[6:])
start.calc = fit([])

loop = Loop(start, run_of, reference, label=EMT(), refit=fit, n_per_round=8, steps=500, folder="learning")
print(loop.run())
for done in loop.rounds:
    print(done)
