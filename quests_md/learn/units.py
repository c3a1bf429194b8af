"""What stays whole where a cell is cut: molecules, found by their covalent bonds."""

import itertools
import math

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from quests_md._kernels.neighbors import label_components
from quests_md.environments import bare, linked_pairs

__all__ = ["nearest_images", "whole_units"]

#: Å that a bond may be longer than the sum of the covalent radii (Cordero et al. 2008, doi:10.1039/b801115j): bonds of
#: hot molecules are still bonds, hydrogen bonds (H-O from 1.5 Å) are none.
STRETCH = 0.3

#: Elements whose bonds to others do not make a molecule where they would link everything: all but these.
NO_METALS = frozenset((1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 51, 52, 53, 54, 85, 86))


def whole_units(
    atoms: Atoms,
    positions: NDArray[np.float64],
    vectors: NDArray[np.float64],
    inverse: NDArray[np.float64],
    most_atoms: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Positions (n_atoms, 3) in which molecules are in one piece, and the unit (n_atoms,) of each atom.

    A unit is a molecule or a single atom. Molecules are connected pieces of at most `most_atoms` atoms that do not link
    to their own periodic images; first by all bonds, then, of atoms that these link to larger pieces, by bonds that
    involve no metal: ions of a salt, and molecules that touch a metal, are pieces of their own. `positions`, `vectors`
    and `inverse` are those of `wrapped_positions`.
    """
    units = np.arange(len(atoms))
    whole = positions.copy()
    pairs, steps = _bonds(atoms, positions, vectors, inverse)
    has_no_metal = np.isin(atoms.numbers, list(NO_METALS))
    is_open = np.ones(len(atoms), bool)
    for counts in (np.ones(len(pairs), bool), has_no_metal[pairs].all(axis=1)):
        chosen = counts & is_open[pairs].all(axis=1)
        labels = np.arange(len(atoms))
        if chosen.any():
            label_components(np.ascontiguousarray(pairs[chosen]), labels)
        for molecule, inner in _pieces(labels, pairs[chosen], steps[chosen], most_atoms):
            places = _in_one_piece(molecule, *inner)
            if places is not None:
                whole[molecule] = positions[molecule[0]] + places
                units[molecule] = molecule[0]
                is_open[molecule] = False
    return whole, units


def nearest_images(
    steps: NDArray[np.float64], vectors: NDArray[np.float64], inverse: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The shortest of each step (n, 3) and its periodic images, for vectors that are not too skewed."""
    if not len(vectors):
        return steps
    steps = steps - np.round(steps @ inverse) @ vectors
    best, shortest = steps.copy(), np.einsum("ij,ij->i", steps, steps)
    for turns in itertools.product((-1, 0, 1), repeat=len(vectors)):
        others = steps + np.array(turns) @ vectors
        squares = np.einsum("ij,ij->i", others, others)
        nearer = squares < shortest - 1e-12
        best[nearer], shortest[nearer] = others[nearer], squares[nearer]
    return best


def _bonds(
    atoms: Atoms, positions: NDArray[np.float64], vectors: NDArray[np.float64], inverse: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Bonded pairs (n, 2), and the step (n, 3) from the first atom to the second."""
    if len(atoms) < 2 and not len(vectors):
        return np.empty((0, 2), np.int64), np.empty((0, 3))
    elements, species = np.unique(atoms.numbers, return_inverse=True)
    radii = np.array([covalent_radii[z] if 0 < z < len(covalent_radii) else 1.5 for z in elements])
    links = radii[:, None] + radii[None, :] + STRETCH
    frame = bare(atoms, np.arange(len(atoms)))
    height = 1 / np.linalg.norm(inverse, axis=0).max() if len(vectors) else math.inf
    if height > 2 * links.max():  # then a pair is bonded by one image at most
        pairs = linked_pairs(frame, links, species.astype(np.int64))
        pairs = np.unique(np.sort(pairs, axis=1), axis=0)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        return pairs, nearest_images(positions[pairs[:, 1]] - positions[pairs[:, 0]], vectors, inverse)
    cutoffs = {
        (int(a), int(b)): float(links[i, j]) for i, a in enumerate(elements) for j, b in enumerate(elements) if a <= b
    }
    frame.positions = positions
    first, second, steps = neighbor_list("ijD", frame, cutoffs)
    half = first <= second
    return np.stack([first, second], axis=1)[half].astype(np.int64), steps[half]


Inner = tuple[NDArray[np.int64], NDArray[np.float64]]


def _pieces(
    labels: NDArray[np.int64], pairs: NDArray[np.int64], steps: NDArray[np.float64], most_atoms: int
) -> list[tuple[NDArray[np.int64], Inner]]:
    """Connected pieces of 2 to `most_atoms` atoms, each with its bonds and their steps."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0])
    pieces = {int(labels[part[0]]): part for part in np.split(order, starts[1:]) if 1 < len(part) <= most_atoms}
    if not len(pairs):
        return []
    of_pair = labels[pairs[:, 0]]
    by = np.argsort(of_pair, kind="stable")
    cuts = np.flatnonzero(np.r_[True, np.diff(of_pair[by]) != 0])
    bonds = {int(of_pair[part[0]]): part for part in np.split(by, cuts[1:])}
    return [(piece, (pairs[bonds[label]], steps[bonds[label]])) for label, piece in pieces.items()]


def _in_one_piece(
    molecule: NDArray[np.int64], pairs: NDArray[np.int64], steps: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Places (n, 3) of the atoms relative to the first; None: the piece is linked to its own images."""
    links: dict[int, list[tuple[int, NDArray[np.float64]]]] = {int(i): [] for i in molecule}
    for (i, j), step in zip(pairs.tolist(), steps, strict=True):
        links[i].append((j, step))
        links[j].append((i, -step))
    start = int(molecule[0])
    places, todo = {start: np.zeros(3)}, [start]
    while todo:
        here = todo.pop()
        for other, step in links[here]:
            there = places[here] + step
            if other not in places:
                places[other] = there
                todo.append(other)
            elif np.abs(places[other] - there).max() > 1e-3:
                return None
    return np.array([places[int(i)] for i in molecule])
