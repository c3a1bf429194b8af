"""Atoms at a new boundary make room for each other; those of the core stay."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.neighborlist import neighbor_list
from ase.optimize import FIRE
from numpy.typing import NDArray
from scipy.optimize import minimize

__all__ = ["relaxed", "spread"]

#: Times that neighbours are looked for, and Å by which pairs may be longer than what repels, so that none is missed.
ROUNDS, SKIN = 4, 1.0

#: Stiffness that holds atoms in their places, as a share of that by which they repel: ties are broken, little moves.
TETHER = 0.01

#: Å by which an atom may move along each axis.
FARTHEST = 1.5

#: Steps and eV/Å at which a relaxation by a calculator ends.
STEPS, FMAX = 100, 0.1


def spread(
    atoms: Atoms, units: NDArray[np.int64], moves: NDArray[np.bool_], closest: dict[tuple[int, int], float]
) -> Atoms:
    """A copy in which units are moved apart until no two atoms of different units are closer than usual.

    `units` (n,) are kept as they are inside; those of which all atoms may move (`moves`, (n,)) do. `closest` has the
    usual closest distance in Å of two elements (a <= b).
    """
    out: Atoms = atoms.copy()
    names, unit_of = np.unique(units, return_inverse=True)
    can_move = np.ones(len(names), bool)
    can_move[unit_of[~moves]] = False
    if not closest or not can_move.any():
        return out
    column = np.full(len(names), -1)
    column[can_move] = np.arange(int(can_move.sum()))
    atom_column = column[unit_of]
    numbers = atoms.numbers
    cutoffs = {pair: length + SKIN for pair, length in closest.items()}
    start = atoms.positions
    offsets = np.zeros((int(can_move.sum()), 3))
    for _ in range(ROUNDS):
        first, second, steps = neighbor_list("ijD", out, cutoffs)
        keep = (
            (unit_of[first] != unit_of[second])
            & (first < second)
            & ((atom_column[first] >= 0) | (atom_column[second] >= 0))
        )
        first, second, steps = first[keep], second[keep], steps[keep]
        limits = np.array(
            [
                closest[min(a, b), max(a, b)]
                for a, b in zip(numbers[first].tolist(), numbers[second].tolist(), strict=True)
            ]
        )
        if not len(limits):
            break
        before = offsets.copy()
        pairs = _Pairs(steps, limits, atom_column[first], atom_column[second], before)
        found = minimize(
            pairs.energy, offsets.ravel(), jac=True, method="L-BFGS-B", bounds=[(-FARTHEST, FARTHEST)] * offsets.size
        )
        offsets = found.x.reshape(-1, 3)
        shifts = np.concatenate([offsets, np.zeros((1, 3))])[atom_column]
        out.positions = np.where((atom_column >= 0)[:, None], start + shifts, start)
        if np.abs(offsets - before).max() < SKIN / 10:
            break
    return out


@dataclass(frozen=True)
class _Pairs:
    """Pairs of atoms that repel each other, where they were."""

    steps: NDArray[np.float64]
    limits: NDArray[np.float64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    before: NDArray[np.float64]

    def energy(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Energy and gradient where units are moved by (n, 3) Å; the last column is for those that stay."""
        moved = flat.reshape(-1, 3)
        change = np.concatenate([moved - self.before, np.zeros((1, 3))])
        vectors = self.steps + change[self.second] - change[self.first]
        lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-9)
        overlap = np.maximum(1 - lengths / self.limits, 0.0)
        pull = (2 * overlap / self.limits / lengths)[:, None] * vectors
        gradient = np.zeros((len(change), 3))
        np.add.at(gradient, self.first, pull)
        np.add.at(gradient, self.second, -pull)
        gradient[:-1] += 2 * TETHER * moved
        return float((overlap**2).sum() + TETHER * (moved**2).sum()), gradient[:-1].ravel()


def relaxed(atoms: Atoms, moves: NDArray[np.bool_], calculator: Any) -> Atoms:
    """A copy in which the atoms that may move are relaxed by a calculator, up to 100 steps."""
    out: Atoms = atoms.copy()
    out.set_constraint(FixAtoms(mask=~moves))
    out.calc = calculator
    FIRE(out, logfile=None).run(fmax=FMAX, steps=STEPS)
    out.calc = None
    out.set_constraint()
    # what is fixed is so to the bit
    out.positions[~moves] = atoms.positions[~moves]
    return out
