"""What a reference says of a frame, and of small cells that are cut from it."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._words import many, nats
from quests_md.environments import clusters, element_symbol
from quests_md.reference import Reference

from .cut_out import Attempt
from .selection import covered_levels

__all__ = ["Verdicts", "badness", "why_refused"]

#: Share of the environments of the reference, each with its group left out, that are above the level by default: none
#: of the some hundred atoms of a cell shall be by chance.
SHARE_ABOVE = 0.001

#: dH of atoms may differ by so many nats, or by this share of its size, between frame and cell.
KEPT_NATS, KEPT_SHARE = 1.0, 0.1

#: Arrays of frames that `select` and monitors write, which say which atoms are strange.
MARKS = ("select_strange", "above")


@dataclass(frozen=True)
class Verdicts:
    """The frame and its dH."""

    atoms: Atoms
    reference: Reference
    dh: NDArray[np.float64]
    level_of: dict[int, float]
    threads: int | None

    @classmethod
    def of(cls, atoms: Atoms, known: Reference, level: float | None, threads: int | None) -> Self:
        """Score a frame; `level` as in `cut`."""
        if not known.n_environments:
            raise ValueError("reference: expected environments, got none")
        levels = covered_levels(known, threads, SHARE_ABOVE) if level is None else {0: float(level)}
        return cls(atoms, known, known.delta_entropy(atoms, threads=threads), levels, threads)

    def levels(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """The level of each atom, nats."""
        return np.array([self.level_of.get(int(z), self.level_of[0]) for z in numbers], float)

    def by_element(self) -> dict[str, float]:
        """The level of each element of the frame, nats."""
        elements = np.unique(self.atoms.numbers)
        return {element_symbol(int(z)): float(value) for z, value in zip(elements, self.levels(elements), strict=True)}

    def level_words(self) -> str:
        """The same in words."""
        return ", ".join(f"{element} {nats(value)}" for element, value in self.by_element().items()) + " nats"

    def clusters(self, *, marks: bool) -> list[NDArray[np.int64]]:
        """Clusters of strange atoms, that with the largest dH first."""
        strange = self.dh > self.levels(self.atoms.numbers)
        for name in MARKS if marks else ():
            marked = self.atoms.arrays.get(name)
            if marked is not None and marked.dtype == bool and marked.shape == strange.shape and marked.any():
                strange = marked
                break
        found = clusters(self.atoms, strange, self.reference.pair_distances())
        dh = np.where(np.isnan(self.dh), -np.inf, self.dh)
        return sorted(found, key=lambda part: (-float(dh[part].max()), int(part[0])))

    def core_dh(self, core: NDArray[np.int64]) -> float:
        """Largest dH of atoms of the core in the frame."""
        return float(np.nanmax(self.dh[core], initial=-np.inf))

    def look(self, cell: Atoms, kind: str, buffer_A: float, kept_A: float, how: str) -> Attempt:
        """Score a cell, and write dH into it."""
        after = self.reference.delta_entropy(cell, threads=self.threads)
        before = self.dh[cell.arrays["original_index"]]
        core = cell.arrays["core"]
        cell.set_array("delta_entropy", after)
        with np.errstate(invalid="ignore"):
            level = self.levels(cell.numbers)
            was_above = (before - level)[~core & (before > level)]
            # where most of what is around was strange in the frame, the cell is a part of it
            ceiling = was_above.max() if 2 * len(was_above) > (~core).sum() else 0.0
            kept = np.maximum(KEPT_NATS, KEPT_SHARE * np.abs(before))
            new = ~core & (after - level > ceiling) & (after - before > kept)
            change = np.where(after[core] == before[core], 0.0, np.abs(after[core] - before[core]))
        return Attempt(
            kind,
            len(cell),
            buffer_A,
            kept_A,
            how,
            float(np.nanmax(after[core], initial=-np.inf)),
            float(np.nanmax(change, initial=0.0)),
            int(new.sum()),
        )


def why_refused(attempt: Attempt, verdicts: Verdicts | None, core: NDArray[np.int64], wanted: float) -> str:
    """Why a cell is not accepted; empty if it is. `wanted` is the buffer that was asked for, Å."""
    if verdicts is None or attempt.core_change is None:
        return ""
    before = verdicts.core_dh(core)
    allowed = max(KEPT_NATS, KEPT_SHARE * abs(before)) if math.isfinite(before) else math.inf
    if attempt.core_change > allowed:
        return (
            f"dH of the core changes by up to {attempt.core_change:.1f} nats; its surroundings in the cell are not "
            f"those of the frame: give a larger {'buffer_A' if attempt.buffer_A >= wanted - 1e-9 else 'max_atoms'}"
        )
    if attempt.n_boundary_above and attempt.kind != "cluster":
        return (
            f"{many(attempt.n_boundary_above, 'atom')} at the boundary would be strange and new, in the best of the "
            'cells tried; give a larger max_atoms or core_A, relax_with=calculator, or boundary="vacuum", or train on '
            "the core alone"
        )
    return ""


def badness(attempt: Attempt, wanted: float) -> tuple[float, ...]:
    """What is least for the best attempt."""
    return (
        float(attempt.n_boundary_above or 0) + 3.0 * max((attempt.core_change or 0.0) - KEPT_NATS, 0.0),
        -min(attempt.buffer_A, wanted),
        float(attempt.n_atoms),
    )
