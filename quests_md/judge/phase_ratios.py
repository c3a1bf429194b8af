"""How much more an atom looks like each product than like the parent phase: density ratios averaged over neighbours."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md.environments import PairDistances, linked_pairs, links
from quests_md.reference import Reference, thinned, whole_groups

__all__ = ["HeldOutFrames", "PhaseRatios", "Ratios", "compare"]

#: Most rows of a phase that atoms are compared with: a check pays for those of every phase.
MAX_ROWS = 4096

#: Most environments of the parent (or of control frames), and of any other phase, that are held out.
MAX_HELD_OUT = 60_000
MAX_OTHERS = 10_000

#: Share of the held-out environments of a phase above its dH level. Atoms above the levels of all phases are of none.
OUTSIDE_SHARE = 1e-3

#: Seed of the rows that a phase is thinned to, and of the groups that are held out.
SEED = 0


class Ratios(NamedTuple):
    """What decides the phases of the n atoms of a frame."""

    of_products: NDArray[np.float64]
    """(n, n_products) averaged log density ratio L of each product to the parent, nats."""
    is_outside: NDArray[np.bool_]
    """(n,) whether the atom is unlike all phases."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutFrames:
    """Frames with the ratios of their atoms, as if the group of each frame were not in the reference of its phase."""

    frames: list[Atoms]
    """The centers of environments of each frame."""
    groups: NDArray[np.int64]
    """(n_frames,) group of each frame."""
    ratios: list[Ratios]
    """Ratios of each frame."""


class _HeldOut(NamedTuple):
    """The same before dH levels are known."""

    frames: list[Atoms]
    groups: NDArray[np.int64]
    dh: NDArray[np.float64]
    """(n, n_phases) dH of the atoms of all frames, one frame after the other, with respect to each phase."""


@dataclass(frozen=True, slots=True, eq=False)
class PhaseRatios:
    """Compares environments with the references of all phases."""

    references: Mapping[str, Reference]
    """The reference of each phase by name, thinned: of each element as many rows in all of them."""
    parent: str
    """Name of the parent phase."""
    dh_levels: Mapping[str, Mapping[int, float]]
    """For each phase dH in nats, by atomic number, above which an atom is unlike the phase."""
    pair_distances: PairDistances
    """(smallest, median) nearest-neighbour distance in Å by pair of atomic numbers (a <= b)."""

    def of_frame(self, atoms: Atoms, rows: NDArray[np.float64], threads: int | None) -> Ratios:
        """Ratios of the atoms of a frame, all of them centers, by their descriptor rows."""
        numbers = np.asarray(atoms.numbers)
        dh = [reference.known.evaluate(rows, numbers, threads=threads) for reference in self.references.values()]
        return self._averaged(atoms, np.stack(dh, axis=1))

    def of_control(self, frames: Reference, threads: int | None) -> HeldOutFrames:
        """The frames of a reference that is of the parent phase, but of which no phase has rows."""
        return self._scored(_held_out(self.references, frames, None, MAX_HELD_OUT, threads))

    def _scored(self, held_out: _HeldOut) -> HeldOutFrames:
        ends = np.cumsum([0, *(len(atoms) for atoms in held_out.frames)])
        parts = zip(held_out.frames, pairwise(ends), strict=True)
        ratios = [self._averaged(atoms, held_out.dh[start:stop]) for atoms, (start, stop) in parts]
        return HeldOutFrames(held_out.frames, held_out.groups, ratios)

    def _averaged(self, atoms: Atoms, dh: NDArray[np.float64]) -> Ratios:
        """Ratios from dH of each atom with respect to each phase (n, n_phases)."""
        outside = np.ones(len(atoms), dtype=bool)
        for values, levels in zip(dh.T, self.dh_levels.values(), strict=True):
            outside &= ~(values <= np.array([levels.get(int(z), -math.inf) for z in atoms.numbers]))
        elements, species = np.unique(atoms.numbers, return_inverse=True)
        pairs = linked_pairs(atoms, links(elements, self.pair_distances), species.astype(np.int64))
        here, there = np.concatenate([pairs, pairs[:, ::-1]]).T
        place = list(self.references).index(self.parent)
        with np.errstate(invalid="ignore"):  # NaN where neither phase knows the element
            differences = dh[:, place, None] - np.delete(dh, place, axis=1)
        ratios = np.empty_like(differences)
        for column, own in enumerate(differences.T):
            counts = (np.isfinite(own) & ~outside).astype(np.float64)
            values = np.where(counts > 0, own, 0.0)
            total = values + np.bincount(here, values[there], len(values))
            number = counts + np.bincount(here, counts[there], len(values))
            ratios[:, column] = np.where(np.isfinite(own) & (number > 0), total / np.maximum(number, 1), own)
        return Ratios(ratios, outside)


def compare(
    references: Mapping[str, Reference], parent: str, threads: int | None
) -> tuple[PhaseRatios, dict[str, HeldOutFrames]]:
    """What compares frames with the references, and held-out frames of each of these references."""
    pair_distances: dict[tuple[int, int], tuple[float, float]] = {}
    for reference in [*references.values(), references[parent]]:  # the parent's come first
        pair_distances |= reference.pair_distances()
    small = dict(zip(references, thinned(list(references.values()), MAX_ROWS, SEED), strict=True))
    held_out = {
        name: _held_out(small, source, name, MAX_HELD_OUT if name == parent else MAX_OTHERS, threads)
        for name, source in references.items()
    }
    levels = {name: _dh_levels(part.frames, part.dh[:, i]) for i, (name, part) in enumerate(held_out.items())}
    ratios = PhaseRatios(small, parent, levels, pair_distances)
    return ratios, {name: ratios._scored(part) for name, part in held_out.items()}


def _held_out(
    references: Mapping[str, Reference], source: Reference, own: str | None, most: int, threads: int | None
) -> _HeldOut:
    """Frames of whole groups of `source`, at most `most` environments; each group is left out of the phase `own`."""
    sizes = np.bincount(source.arrays.atom_frame, minlength=source.n_frames)
    frames = whole_groups(source.arrays.frame_group, most, np.random.default_rng(SEED), sizes)
    order = source.arrays.frame_order
    order = order[np.isin(source.arrays.atom_frame[order], frames)]
    rows, numbers = source.rows[order], source.numbers[order].astype(np.int64)
    dh = np.empty((len(order), len(references)))
    for column, (name, known) in enumerate(references.items()):
        groups = source.row_groups[order] if name == own else np.full(len(order), -1)
        dh[:, column] = known.delta_entropy_without(rows, numbers, groups, threads=threads)
    return _HeldOut([source.frame(int(i)) for i in frames], source.arrays.frame_group[frames], dh)


def _dh_levels(frames: list[Atoms], dh: NDArray[np.float64]) -> dict[int, float]:
    """DH in nats of each element that a thousandth of the held-out environments of a phase exceed."""
    numbers = np.concatenate([atoms.numbers for atoms in frames])
    known = np.isfinite(dh)
    # an element that only one group has: what is like its rows cannot be told, so that nothing is outside
    levels = dict.fromkeys(np.unique(numbers).tolist(), math.inf)
    for z in np.unique(numbers[known]):
        levels[int(z)] = float(np.quantile(dh[known & (numbers == z)], 1 - OUTSIDE_SHARE, method="higher"))
    return levels
