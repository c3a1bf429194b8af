"""Which atoms are in a small cell: a periodic one of a given lattice, or a cluster with vacuum around it."""

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .lattices import PARTNER, TURNS, Lattice
from .surroundings import Around, Surroundings

__all__ = ["STAYS", "STAYS_AT_LEAST", "Cell", "cluster_cell", "kept_around", "periodic_cell"]

#: Å by which an atom may be nearer to an image of the core and still be tried, where places are left over.
SLACK = 1.0

#: Atoms on both sides of a new boundary may be as near as these shares of their usual closest distance; the largest
#: share that keeps the number of atoms of the frame is used.
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)

#: Share of the buffer within which atoms stay when the boundary is relaxed; and where that was not enough.
STAYS, STAYS_AT_LEAST = 0.65, 0.4

#: Å over which atoms near the boundary of a crystal take after those on the other side.
BLEND = 3.0

#: Share of places near the boundary of a crystal's cell that may lack an atom: vacancies, not the end of the crystal.
MISFIT = 0.05

#: Å outside the buffer in which atoms of elements that are too few are looked for.
BORDER = 5.0

#: Å within which an atom has the place that it has in the frame.
SAME = 1e-6

#: Most atoms of a formula unit: the ratio of elements of a larger one is no compound.
LARGEST_FORMULA = 24


@dataclass(frozen=True)
class Cell:
    """Atoms and images of a frame that make a small cell, those of the core first."""

    positions: NDArray[np.float64]
    """(n, 3), Å."""
    atoms: NDArray[np.int64]
    """(n,) atom of the frame that each is."""
    units: NDArray[np.int64]
    """(n,) molecule or single atom of each."""
    distances: NDArray[np.float64]
    """(n,) to the core, Å."""
    vectors: NDArray[np.float64]
    """(n_periodic, 3) periods, Å."""
    buffer_A: float
    """Å that belong to the core around it: half of what lies between it and its nearest image. In crystals all of it is
    as in the frame."""
    kind: str
    """"crystal", "packed" or "cluster"."""
    blend: NDArray[np.float64]
    """(n, 3) steps in Å that bring atoms near a crystal's new boundary towards their partners on the other side."""


def periodic_cell(around: Surroundings, lattice: Lattice, most_atoms: int) -> tuple[Cell | None, float]:
    """The atoms nearer to the core than to its images in the lattice; one of those that would be on top of each other.

    Units are taken by their distance from the core, molecules as a whole; those nearer than half the gap always are.
    Returns the cell, None if it has more atoms than it may have, and about how many it has.
    """
    n = len(lattice.vectors)
    # no point is farther from a lattice point than this: L. Babai, doi:10.1007/BF02579403
    reach = float(np.linalg.norm(lattice.vectors)) / 2 + SLACK
    near = around.within(max(reach, _thickness(around)))
    steps = TURNS[n] @ lattice.vectors
    steps = steps[np.argsort(np.linalg.norm(steps, axis=1), kind="stable")]
    middles, own, nearest = _of_units(near, around)
    foreign, ties = np.full(len(own), np.inf), np.zeros(len(own))
    here = np.arange(len(own))
    for step in steps:
        here = here[own[here] <= foreign[here] + SLACK]
        other = around.tree.query(middles[here] - step)[0]
        ties[here] += np.abs(other - own[here]) < 1e-3
        foreign[here] = np.minimum(foreign[here], other)
    # how many atoms there are in the part of space that is nearer to the core than to its images
    sizes = np.bincount(near.units)
    expected = float((sizes * np.where(own <= foreign + 1e-3, 1 / (1 + ties), 0.0)).sum())
    if expected > 1.2 * most_atoms:
        return None, expected
    protected = nearest <= lattice.gap / 2 - 1e-6
    tried = np.flatnonzero(protected | (own <= foreign + SLACK))
    order = tried[np.lexsort((tried, np.round(own[tried], 3), ~protected[tried]))]
    conflicts = _conflicts(around, near, order, steps)
    best: list[int] = []
    for share in SHARES:
        kept = _greedy(order, conflicts, share)
        if not best or abs(sizes[kept].sum() - expected) < abs(sizes[best].sum() - expected) - 0.5:
            best = kept
    if lattice.kind == "packed":
        best = _without_surplus(around, near, best, nearest, lattice.gap / 2)
    cell = _cell(near, best, lattice.vectors, lattice.gap / 2, lattice.kind)
    n_atoms = len(cell.atoms)
    if lattice.kind == "crystal":
        blend, misfit = _blend(around, near, cell, steps)
        if misfit > MISFIT:
            return None, n_atoms
        cell = replace(cell, blend=blend, buffer_A=kept_around(around, cell))
    return (cell if n_atoms <= most_atoms else None), n_atoms


def cluster_cell(around: Surroundings, buffer_A: float) -> Cell:
    """The atoms within a distance in Å of the core, molecules as a whole, in the ratio of elements of the frame.

    The ratio is kept where the frame is an ordered compound: atoms of elements that are too few are added, the nearest
    first.
    """
    near = around.within(buffer_A + BORDER)
    _, _, nearest = _of_units(near, around)
    kept = np.flatnonzero(nearest <= buffer_A + 1e-9)
    return _cell(near, _in_ratio(around, near, kept, nearest), np.empty((0, 3)), buffer_A, "cluster")


def kept_around(around: Surroundings, cell: Cell, moved: NDArray[np.float64] | None = None) -> float:
    """Å around the core within which a cell and its images are as in the frame, at most its buffer.

    `moved`: (n, 3) steps of its atoms, Å; None: none has moved.
    """
    places = cell.positions if moved is None else cell.positions + moved
    n = len(cell.vectors)
    steps = np.concatenate([np.zeros((1, 3)), *([TURNS[n] @ cell.vectors] if n else [])])
    images = (places + steps[:, None, :]).reshape(-1, 3)
    here, near = np.asarray(around.tree.query(images)[0], np.float64), around.within(cell.buffer_A)
    numbers = around.frame.numbers
    ours = images, here, numbers[np.tile(cell.atoms, len(steps))]
    theirs = near.positions, near.distances, numbers[near.atoms]
    kept = cell.buffer_A
    for (some, distances, some_numbers), (others, _, other_numbers) in ((ours, theirs), (theirs, ours)):
        inner = distances < kept - SAME
        lengths, found = cKDTree(others).query(some[inner])
        is_other = (lengths > SAME) | (other_numbers[found] != some_numbers[inner])
        kept = min(kept, float(distances[inner][is_other].min(initial=math.inf)))
    return kept


def _cell(near: Around, kept: list[int], vectors: NDArray[np.float64], buffer_A: float, kind: str) -> Cell:
    is_kept = np.zeros(int(near.units.max(initial=-1)) + 1, bool)
    is_kept[kept] = True
    chosen = np.flatnonzero(is_kept[near.units])
    chosen = chosen[np.argsort(near.distances[chosen], kind="stable")]
    return Cell(
        near.positions[chosen],
        near.atoms[chosen],
        near.units[chosen],
        near.distances[chosen],
        vectors,
        buffer_A,
        kind,
        np.zeros((len(chosen), 3)),
    )


def _blend(
    around: Surroundings, near: Around, cell: Cell, steps: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Steps (n, 3) of single atoms towards the atoms that have their places in the images of the cell.

    Half the way where an atom is as near to the image of the core as to the core, none where it is nearer by `BLEND` Å.
    Also the share of places near the boundary that have no such atom.
    """
    numbers = around.frame.numbers
    single = np.bincount(cell.units)[cell.units] == 1
    best, blend = np.full(len(cell.atoms), np.inf), np.zeros((len(cell.atoms), 3))
    tree = cKDTree(near.positions)
    reach = PARTNER * min(around.closest.values(), default=0.0)
    n_places, n_found = 0, 0
    for step in steps[~around.is_period(steps)]:
        places = cell.positions - step
        lengths, partners = tree.query(places, distance_upper_bound=max(reach, 1e-6))
        is_near = around.tree.query(places)[0] < cell.distances + BLEND
        n_places, n_found = n_places + int(is_near.sum()), n_found + int(np.isfinite(lengths[is_near]).sum())
        found = np.flatnonzero(np.isfinite(lengths) & single)
        found = found[numbers[near.atoms[partners[found]]] == numbers[cell.atoms[found]]]
        foreign = near.distances[partners[found]]
        is_nearer = foreign < best[found]
        found, foreign = found[is_nearer], foreign[is_nearer]
        best[found] = foreign
        share = np.clip(0.5 + (cell.distances[found] - foreign) / (2 * BLEND), 0.0, 0.5)
        blend[found] = share[:, None] * (near.positions[partners[found]] + step - cell.positions[found])
    blend[cell.distances <= STAYS * cell.buffer_A] = 0.0
    return blend, 1 - n_found / max(n_places, 1)


def _thickness(around: Surroundings) -> float:
    """Å that the frame reaches from the core in the directions in which it is not periodic and stays so."""
    if len(around.vectors) in (0, 3):
        return 0.0
    steps = around.whole - around.middle
    steps = steps - steps @ around.inverse @ around.vectors
    return float(np.linalg.norm(steps, axis=1).max()) + float(np.linalg.norm(around.core - around.middle, axis=1).max())


def _of_units(
    near: Around, around: Surroundings
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of each unit: its middle (n_units, 3), how far it is from the core, and how far the nearest of its atoms is."""
    sizes = np.bincount(near.units)
    middles = np.stack([np.bincount(near.units, near.positions[:, c]) / sizes for c in range(3)], axis=1)
    nearest = np.full(len(sizes), np.inf)
    np.minimum.at(nearest, near.units, near.distances)
    return middles, np.asarray(around.tree.query(middles)[0], np.float64), nearest


Conflicts = dict[int, dict[int, float]]


def _conflicts(around: Surroundings, near: Around, tried: NDArray[np.int64], steps: NDArray[np.float64]) -> Conflicts:
    """Units that an image of another comes near to: how near, as a share of the usual closest distance; 0: the same."""
    is_tried = np.zeros(int(near.units.max(initial=-1)) + 1, bool)
    is_tried[tried] = True
    here = np.flatnonzero(is_tried[near.units])
    places, units = near.positions[here], near.units[here]
    numbers, atoms = around.frame.numbers[near.atoms[here]], near.atoms[here]
    usual = _usual(around, np.unique(numbers))
    longest = max(usual.values(), default=0.0)
    tree, found = cKDTree(places), Conflicts()
    for step, exact in zip(steps, around.is_period(steps), strict=True):
        moved = cKDTree(places + step)
        pairs = tree.sparse_distance_matrix(moved, 1e-3 if exact else longest, output_type="ndarray")
        for i, j, length in zip(pairs["i"].tolist(), pairs["j"].tolist(), pairs["v"].tolist(), strict=True):
            if exact and atoms[i] != atoms[j]:
                continue
            a, b = sorted((int(numbers[i]), int(numbers[j])))
            share = 0.0 if exact else length / usual[a, b]
            for one, other in ((int(units[i]), int(units[j])), (int(units[j]), int(units[i]))):
                if one != other:
                    its = found.setdefault(one, {})
                    its[other] = min(its.get(other, math.inf), share)
    return found


def _usual(around: Surroundings, elements: NDArray[np.int64]) -> dict[tuple[int, int], float]:
    """Usual closest distance in Å of each pair of elements; of pairs that never meet the sum of covalent radii."""
    usual = {}
    for a in map(int, elements):
        for b in map(int, elements):
            if a <= b:
                radii = [float(covalent_radii[z]) if 0 < z < len(covalent_radii) else 1.0 for z in (a, b)]
                usual[a, b] = around.closest.get((a, b), sum(radii))
    return usual


def _greedy(order: NDArray[np.int64], conflicts: Conflicts, share: float) -> list[int]:
    """Units in an order, without those that come nearer than a share of the usual distance to one taken before."""
    kept, taken = list[int](), set[int]()
    for unit in order.tolist():
        if not any(near < share and other in taken for other, near in conflicts.get(unit, {}).items()):
            kept.append(unit)
            taken.add(unit)
    return kept


def formula_of(numbers: NDArray[np.int64]) -> dict[int, int] | None:
    """Atoms of each element in a formula unit; None: one element, or no ordered compound.

    Up to a hundredth of the atoms may be too many or too few: defects.
    """
    counts = Counter(numbers.tolist())
    if len(counts) < 2:
        return None
    total = sum(counts.values())
    fewest = min(counts.values())
    for units in range(1, LARGEST_FORMULA // len(counts) + 1):
        formula = {z: max(round(n * units / fewest), 1) for z, n in counts.items()}
        size = sum(formula.values())
        if size <= LARGEST_FORMULA and all(
            abs(n - total * formula[z] / size) <= max(0.01 * total / len(counts), 0.0) for z, n in counts.items()
        ):
            divisor = math.gcd(*formula.values())
            return {z: n // divisor for z, n in formula.items()}
    return None


def _in_ratio(around: Surroundings, near: Around, kept: NDArray[np.int64], nearest: NDArray[np.float64]) -> list[int]:
    """Units, and single atoms outside, the nearest first, so that elements have the ratio of the frame."""
    out = list(map(int, kept))
    formula = formula_of(around.frame.numbers)
    if formula is None:
        return out
    numbers, counts = _elements(around, near), _counts(around, near, out)
    n_units = max(math.ceil(counts[z] / n) for z, n in formula.items())
    outside = np.setdiff1d(np.arange(len(numbers)), kept)
    outside = outside[np.argsort(nearest[outside], kind="stable")]
    for z, n in formula.items():
        out += outside[numbers[outside] == z][: n_units * n - counts[z]].tolist()
    return out


def _without_surplus(
    around: Surroundings, near: Around, kept: list[int], nearest: NDArray[np.float64], buffer_A: float
) -> list[int]:
    """Units without single atoms outside the buffer, the farthest first, that are too many for the formula."""
    formula = formula_of(around.frame.numbers)
    if formula is None:
        return kept
    numbers, counts, units = _elements(around, near), _counts(around, near, kept), np.array(kept)
    n_units = min(counts[z] // n for z, n in formula.items())
    border = units[np.argsort(-nearest[units], kind="stable")]
    border = border[nearest[border] > buffer_A]
    gone = [border[numbers[border] == z][: counts[z] - n_units * n] for z, n in formula.items()]
    return list(map(int, np.setdiff1d(units, np.concatenate(gone))))


def _counts(around: Surroundings, near: Around, units: list[int]) -> Counter[int]:
    """Atoms of each element in some units."""
    is_in = np.zeros(int(near.units.max(initial=-1)) + 1, bool)
    is_in[units] = True
    return Counter(around.frame.numbers[near.atoms[is_in[near.units]]].tolist())


def _elements(around: Surroundings, near: Around) -> NDArray[np.int64]:
    """Atomic numbers of units that are single atoms; 0 of others."""
    numbers = np.zeros(int(near.units.max(initial=-1)) + 1, np.int64)
    numbers[near.units] = around.frame.numbers[near.atoms]
    numbers[np.bincount(near.units) > 1] = 0
    return numbers
