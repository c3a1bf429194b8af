"""Periods that a small cell may have: those of a crystal around it, those of the frame, or a dense packing."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .surroundings import Surroundings

__all__ = ["PARTNER", "TURNS", "Lattice", "Translations", "crystals", "packings", "reduced"]

#: Most translations of a crystal that cells are made of; there are C(36, 3) cells.
MOST_TRANSLATIONS = 36

#: Steps that are looked at together, the shortest first, until there are enough translations.
CHUNK = 150

#: Atoms around the place of a future boundary that are compared with those a translation away: some at first, more of
#: those that pass, so that the surface of a slab is among them.
PROBES = (12, 32, 32)

#: Share of these that must have a partner, and how near it must be, in shares of the usual distance of neighbours:
#: atoms of crystals near their melting point move by 0.15 of it, in a liquid one in three has a partner by chance.
PARTNERED, PARTNER = 0.8, 0.4

#: The fewer of the numbers of atoms around both places, within so many usual distances of neighbours, as a share of the
#: other, at least: a step out of a slab carries inner layers onto each other, but its surface into vacuum.
ALIKE, BALL = 0.75, 2.0

#: Sizes of packings, of which the smallest whose cores are apart, and so many more, are tried.
SCALES, MOST_SIZES = 0.5 * 1.015 ** np.arange(120), 20

#: Sums of up to one of each vector, without none: what is nearest to a core in a reduced lattice.
TURNS = {n: np.array([t for t in itertools.product((-1, 0, 1), repeat=n) if any(t)]) for n in (1, 2, 3)}


@dataclass(frozen=True, eq=False)
class Lattice:
    """Periods of a cell."""

    vectors: NDArray[np.float64]
    """(n_periodic, 3), Å."""
    gap: float
    """Least distance between the core and its images that are none in the frame, Å; inf: there are none. Before the
    vectors are reduced it may be less than this."""
    kind: str
    """"crystal" or "packed"."""
    size: float
    """Volume in Å^3, or area or length where fewer directions are periodic."""


def crystals(translations: "Translations", gap: float) -> list[Lattice]:
    """Lattices of translations that carry the surroundings onto themselves, and of periods of the frame, by size.

    Their cores are at least `gap` Å apart; they are to be reduced. As many directions are periodic as in the frame; all
    three where the frame has none.
    """
    around = translations.around
    return _wide(_lattices(around, _bases(around, translations.at(gap)), "crystal"), gap)


def packings(around: Surroundings, gap: float) -> list[Lattice]:
    """Lattices in which cores are packed densely, along some periods of the frame or none, by size.

    Their cores are at least `gap` Å apart; they are to be reduced.
    """
    return _wide(list(_packings(around, gap)), gap)


def _wide(found: list[Lattice], gap: float) -> list[Lattice]:
    return sorted((one for one in found if one.gap >= gap - 1e-6), key=_by_size)


def _by_size(lattice: Lattice) -> tuple[float, float]:
    return round(lattice.size, 2), -lattice.gap


def _lattices(around: Surroundings, bases: NDArray[np.float64], kind: str) -> list[Lattice]:
    """The lattices of some bases (n, rank, 3)."""
    gaps, sizes = gaps_of(around, bases), _sizes(bases)
    return [Lattice(*one[:2], kind, one[2]) for one in zip(bases, gaps.tolist(), sizes.tolist(), strict=True)]


def _sizes(bases: NDArray[np.float64]) -> NDArray[np.float64]:
    sizes: NDArray[np.float64] = np.sqrt(np.maximum(np.linalg.det(bases @ bases.transpose(0, 2, 1)), 0.0))
    return sizes


def gaps_of(around: Surroundings, bases: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least distance (n,) between the core and its nearest images in each lattice (n, rank, 3), but those of the frame.

    Of lattices that are not reduced it is an upper bound.
    """
    if not len(bases):
        return np.empty(0)
    turns = TURNS[bases.shape[1]]
    steps = np.einsum("tr,nrc->ntc", turns[: len(turns) // 2], bases)  # the others are their opposites
    gaps = around.gaps(steps.reshape(-1, 3))
    gaps[around.is_period(steps.reshape(-1, 3))] = np.inf
    least: NDArray[np.float64] = gaps.reshape(steps.shape[:2]).min(axis=1)
    return least


def reduced(around: Surroundings, lattice: Lattice) -> Lattice | None:
    """The lattice with the shortest vectors it can have; None if they are dependent."""
    basis = lattice.vectors
    n = len(basis)
    cell = np.zeros((3, 3))
    cell[:n] = basis
    lengths = np.linalg.norm(basis, axis=1)
    if not (lengths > 0).all() or np.linalg.det(basis @ basis.T) < 1e-6 * np.prod(lengths) ** 2:
        return None
    vectors = np.asarray(minkowski_reduce(cell, pbc=np.arange(3) < n)[0])[:n]
    if n == 3 and np.linalg.det(vectors) < 0:
        vectors = -vectors
    return _lattices(around, vectors[None], lattice.kind)[0]


def _bases(around: Surroundings, found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bases (n, rank, 3) of translations and of periods of the frame."""
    rank = len(around.vectors) or 3
    steps = np.concatenate([around.vectors, found])[: MOST_TRANSLATIONS + len(around.vectors)]
    if len(steps) < rank:
        return np.empty((0, rank, 3))
    bases = steps[np.array(list(itertools.combinations(range(len(steps)), rank)))]
    is_wide = _sizes(bases) > 0.2 * np.prod(np.linalg.norm(bases, axis=2), axis=1)  # neither flat nor needles
    wide: NDArray[np.float64] = bases[is_wide]
    return wide


class Translations:
    """Steps of up to `longest` Å that carry atoms on one side of the core onto like atoms on the other side."""

    def __init__(self, around: Surroundings, longest: float) -> None:
        self.around = around
        near = around.within(longest / 2 + 8.0)
        self.world, self.steps, self.gaps = None, np.empty((0, 3)), np.empty(0)
        if len(near.positions) > max(PROBES):
            self.world = _World(near.positions, around.frame.numbers[near.atoms])
            steps = _candidates(near.positions, self.world.numbers, near.distances, longest)
            self.steps = _within_periodic_directions(around, steps, PARTNER * self.world.scale)
            self.gaps = around.gaps(self.steps) if len(self.steps) else self.gaps

    def at(self, gap: float) -> NDArray[np.float64]:
        """The shortest steps (n, 3) by which cores are at least `gap` Å apart; of a step and its opposite one.

        Each is the mean over its pairs of atoms.
        """
        if self.world is None:
            return self.steps
        steps, found, scatter = self.steps[self.gaps >= gap], np.empty((0, 3)), np.empty(0)
        for start in range(0, len(steps), CHUNK):
            here, its = steps[start : start + CHUNK], np.empty(0)
            for n_probes in PROBES:
                here, its = self.world.refined(self.around.middle, here, n_probes)
                here = _within_periodic_directions(self.around, here, math.inf)
            found, scatter = np.concatenate([found, here]), np.concatenate([scatter, its])
            if len(found) >= MOST_TRANSLATIONS:
                break
        if len(found):
            found = found[scatter <= 1.5 * scatter.min() + 0.1 * self.world.scale]
        return _distinct(found, 0.3 * self.world.scale)


class _World:
    """Atoms and images around the core, which are looked up by place and element."""

    def __init__(self, positions: NDArray[np.float64], numbers: NDArray[np.int64]) -> None:
        self.positions, self.numbers = positions, numbers
        self.tree = cKDTree(positions)
        self.trees = {int(z): cKDTree(positions[numbers == z]) for z in np.unique(numbers)}
        #: Å, usual distance of nearest neighbours.
        self.scale = float(np.median(self.tree.query(positions, k=2)[0][:, 1]))

    def refined(
        self, middle: NDArray[np.float64], steps: NDArray[np.float64], n_probes: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Steps that carry most of the atoms half a step back onto others, as the mean over them, and their scatter."""
        if not len(steps):
            return steps, np.empty(0)
        counts = [
            self.tree.query_ball_point(middle + side * steps, BALL * self.scale, return_length=True)
            for side in (-0.5, 0.5)
        ]
        steps = steps[np.minimum(*counts) >= ALIKE * np.maximum(*counts)]
        if not len(steps):
            return steps, np.empty(0)
        probes = self.tree.query(middle - steps / 2, k=n_probes)[1]
        targets = self.positions[probes] + steps[:, None, :]
        offsets = np.full(targets.shape, np.inf)
        for z, tree in self.trees.items():
            of_z = self.numbers[probes] == z
            if of_z.any():
                offsets[of_z] = tree.data[tree.query(targets[of_z])[1]] - targets[of_z]
        lengths = np.linalg.norm(offsets, axis=2)
        is_partner = lengths < PARTNER * self.scale
        keep = is_partner.mean(axis=1) >= PARTNERED
        steps, offsets, is_partner, lengths = steps[keep], offsets[keep], is_partner[keep], lengths[keep]
        weights = is_partner / np.maximum(is_partner.sum(axis=1, keepdims=True), 1)
        scatter = np.sqrt(np.einsum("ik,ik->i", weights, np.where(is_partner, lengths, 0.0) ** 2))
        return steps + np.einsum("ik,ikc->ic", weights, np.where(is_partner[..., None], offsets, 0.0)), scatter


def _candidates(
    positions: NDArray[np.float64],
    numbers: NDArray[np.int64],
    distances: NDArray[np.float64],
    longest: float,
) -> NDArray[np.float64]:
    """Steps from a few atoms next to the core to all others of their element, of a step and its opposite one."""
    out = [np.empty((0, 3))]
    for z in np.unique(numbers):
        own = np.flatnonzero(numbers == z)
        starts = own[np.argsort(distances[own] + 100.0 * (distances[own] == 0.0), kind="stable")[:3]]
        out += [positions[own] - positions[start] for start in starts]
    steps = np.concatenate(out)
    lengths = np.linalg.norm(steps, axis=1)
    steps = steps[(lengths <= longest) & (lengths > 1.0)]
    return _distinct(steps[np.argsort(np.linalg.norm(steps, axis=1), kind="stable")], 0.2)


def _distinct(steps: NDArray[np.float64], apart: float) -> NDArray[np.float64]:
    """Steps, shortest first, without those within `apart` Å of an earlier step or of its opposite."""
    if not len(steps):
        return steps
    sign = np.where((np.round(steps, 3) @ np.array([1.0, 1e-3, 1e-6])) < 0, -1.0, 1.0)
    both = np.concatenate([steps * sign[:, None], -steps * sign[:, None]])
    tree, n = cKDTree(both), len(steps)
    is_open, kept = np.ones(n, bool), list[int]()
    for i, near in enumerate(tree.query_ball_point(both[:n], apart)):
        if is_open[i]:
            kept.append(i)
            is_open[np.array(near) % n] = False
    chosen = both[:n][kept]
    return chosen[np.argsort(np.round(np.linalg.norm(chosen, axis=1), 2), kind="stable")]


def _within_periodic_directions(around: Surroundings, steps: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """Steps along the periodic directions of the frame; those that leave them by more than `most` Å are dropped."""
    if len(around.vectors) in (0, 3) or not len(steps):
        return steps
    inside = steps @ around.inverse @ around.vectors
    near: NDArray[np.float64] = inside[np.linalg.norm(steps - inside, axis=1) <= most]
    return near


def _packings(around: Surroundings, gap: float) -> Iterator[Lattice]:
    """Periods of the frame along some directions, and along the others the densest packing of cores."""
    for n_kept in range(len(around.vectors) + 1):
        for kept in itertools.combinations(range(len(around.vectors)), n_kept):
            own = around.vectors[list(kept)]
            others = _others(around, own, gap)
            scales = SCALES if len(others) else np.ones(1)
            if not len(own) + len(others):
                continue
            bases = np.stack([np.concatenate([own, scale * others]) for scale in scales])
            found = [one for one in _lattices(around, bases, "packed") if one.gap >= gap - 1e-6]
            yield from found[:MOST_SIZES]


def _others(around: Surroundings, own: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Vectors of a dense packing in the periodic directions that are perpendicular to some periods."""
    allowed = around.vectors if len(around.vectors) else np.eye(3)
    if len(own):
        allowed = allowed - allowed @ np.linalg.pinv(own) @ own
    _, widths, directions = np.linalg.svd(allowed)
    directions = directions[: int((widths > 1e-6).sum())]
    if not len(directions):
        return np.empty((0, 3))
    # along and across the core, so that a long core has a long cell
    _, _, turned = np.linalg.svd((around.core - around.core.mean(axis=0)) @ directions.T, full_matrices=True)
    directions = turned @ directions
    extents = np.ptp(around.core @ directions.T, axis=0) + gap
    dense = {
        1: np.eye(1),
        2: np.array([[1.0, 0.0], [0.5, math.sqrt(0.75)]]),
        3: np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]) / math.sqrt(2),
    }[len(directions)]
    others: NDArray[np.float64] = (dense * extents) @ directions
    return others
