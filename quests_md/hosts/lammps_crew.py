"""Frames of LAMMPS shared out among its processes: each of them judges the atoms that it moves."""

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md.judge import Judge, share_of

from .lammps_ranks import Answers, Ranks

__all__ = ["RanksAsCrew", "answers_of_share"]


class RanksAsCrew:
    """What the first process asks the others for; see `quests_md.judge.Crew`. Atoms carry their ids."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._own: list[NDArray[np.int64]] = []
        self._n_atoms = 0

    def describe(self, atoms: Atoms, *, both: bool, nearest: float) -> bool:
        """See `quests_md.judge.Crew`."""
        self._own, self._n_atoms = [], len(atoms)
        frame = atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc, atoms.arrays["id"]
        own = self._ranks.asked("describe", *frame, both)
        owner = np.full(len(atoms), -1, np.int32)
        for rank, of_rank in enumerate(own):
            owner[of_rank] = rank
        is_roomy = all(self._ranks.asked("average", owner, nearest))
        self._own = own
        return is_roomy

    def rows(self, chosen: NDArray[np.int64] | None, *, averaged: bool) -> NDArray[np.float64]:
        """See `quests_md.judge.Crew`."""
        if chosen is None:
            return self._in_order(self._ranks.asked("rows", None, averaged))
        atoms, places = np.unique(chosen, return_inverse=True)
        parts = self._ranks.asked("rows", atoms, averaged)
        found = np.empty((len(atoms), parts[0].shape[1]))
        for own, part in zip(self._own, parts, strict=True):
            found[np.isin(atoms, own, assume_unique=True)] = part
        return found[places]

    def evaluate(self, levels: tuple[NDArray[np.float64], ...]) -> NDArray[np.float64]:
        """See `quests_md.judge.Crew`."""
        return self._in_order(self._ranks.asked("evaluate", levels))

    def evaluate_above(
        self, lowest: NDArray[np.float64], levels: tuple[NDArray[np.float64], ...]
    ) -> NDArray[np.float64]:
        """See `quests_md.judge.Crew`."""
        return self._in_order(self._ranks.asked("evaluate_above", lowest, levels))

    def scores(self) -> NDArray[np.float64]:
        """See `quests_md.judge.Crew`."""
        return self._in_order(self._ranks.asked("scores"))

    def _in_order(self, parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """What the processes have found for their atoms, in the order of all atoms."""
        found = np.empty((self._n_atoms, *parts[0].shape[1:]))
        for own, part in zip(self._own, parts, strict=True):
            found[own] = part
        return found


def answers_of_share(ranks: Ranks, judge: Judge, tags: NDArray[np.int64]) -> Answers:
    """What a process answers a `RanksAsCrew` about its own atoms, which have these ids."""
    share = share_of(judge.reference, judge.calibration, judge.threads)

    def describe(
        positions: NDArray[np.float64],
        numbers: NDArray[np.int64],
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        ids: NDArray[np.int64],
        both: bool,
    ) -> NDArray[np.int64]:
        own = np.sort(np.searchsorted(ids, tags))
        share.describe(Atoms(numbers=numbers, positions=positions, cell=cell, pbc=pbc), own, both=both)
        return own

    def average(owner: NDArray[np.int32], nearest: float) -> bool:
        others = share.others
        owner_of_others = owner[others]
        wanted = ranks.exchanged([others[owner_of_others == rank] for rank in range(ranks.size)])
        given = ranks.exchanged([share.filled(atoms) for atoms in wanted])
        rows = np.empty((len(others), share.width))
        for rank, part in enumerate(given):
            rows[owner_of_others == rank] = part
        return share.average(rows, nearest)

    return {
        "describe": describe,
        "average": average,
        "rows": lambda chosen, averaged: share.rows(chosen, averaged=averaged),
        "evaluate": share.evaluate,
        "evaluate_above": share.evaluate_above,
        "scores": share.scores,
    }
