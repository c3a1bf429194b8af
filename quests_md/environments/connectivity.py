"""Connected clusters of flagged atoms under periodic boundaries."""

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .neighbours import PairDistances, frame_grid, linked_pairs

__all__ = ["LINK", "bare", "clusters", "coordination", "largest_cluster", "links"]

#: Atoms are linked up to this multiple of the reference's median nearest-neighbour distance of their elements: past
#: the first shell of fcc and both near shells of bcc (1.15), short of the second of fcc (1.41).
LINK = 1.3

#: Å, link where the reference knows no distance of any pair: first-shell distance of most metals, times LINK.
UNKNOWN_LINK = 3.5


def clusters(atoms: Atoms, flagged: NDArray[np.bool_], pair_distances: PairDistances) -> list[NDArray[np.int64]]:
    """All connected clusters of flagged atoms: indices in ascending order, the largest cluster first.

    Of clusters of one size, the one with the smallest index comes first.

    Parameters
    ----------
    atoms
        The frame.
    flagged
        (n_atoms,) whether an atom is flagged.
    pair_distances
        (smallest, median) nearest-neighbour distance in Å by pair of atomic numbers (a <= b).
    """
    chosen = np.flatnonzero(flagged)
    if len(chosen) < 2:
        return [chosen] if len(chosen) else []
    frame = bare(atoms, chosen)
    elements, species = np.unique(frame.numbers, return_inverse=True)
    pairs = linked_pairs(frame, links(elements, pair_distances), species.astype(np.int64))
    shape = len(chosen), len(chosen)
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=shape)
    _, labels = connected_components(graph, directed=False)
    parts = np.split(chosen[np.argsort(labels, kind="stable")], np.cumsum(np.bincount(labels))[:-1])
    return sorted(parts, key=lambda part: (-len(part), part[0]))


def bare(atoms: Atoms, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Atoms:
    """The chosen atoms, by indices or a mask, with nothing but elements, positions and cell."""
    return Atoms(numbers=atoms.numbers[chosen], positions=atoms.positions[chosen], cell=atoms.cell, pbc=atoms.pbc)


def largest_cluster(atoms: Atoms, flagged: NDArray[np.bool_], pair_distances: PairDistances) -> int:
    """Number of atoms in the largest cluster of flagged atoms, see `clusters`."""
    found = clusters(atoms, flagged, pair_distances)
    return len(found[0]) if found else 0


def coordination(atoms: Atoms, index: int, pair_distances: PairDistances) -> int:
    """Number of neighbours of one atom: atoms that would be linked to it in a cluster.

    Every periodic image counts as a neighbour, images of the atom itself too: 12 in the primitive cell of fcc.

    Parameters
    ----------
    atoms
        The frame.
    index
        Index of the atom.
    pair_distances
        As for `clusters`.

    Raises
    ------
    IndexError
        If the frame has no such atom.
    """
    if not 0 <= index < len(atoms):
        raise IndexError(f"index: expected an atom from 0 to {len(atoms) - 1}, got {index}")
    elements, species = np.unique(atoms.numbers, return_inverse=True)
    reach = links(elements, pair_distances)[species[index]]
    grid = frame_grid(atoms, float(reach.max()))
    here = grid.slots[index]
    squares = (grid.x - grid.x[here]) ** 2 + (grid.y - grid.y[here]) ** 2 + (grid.z - grid.z[here]) ** 2
    return int((squares < reach[species[grid.source]] ** 2).sum()) - 1


def links(elements: NDArray[np.int64], pair_distances: PairDistances) -> NDArray[np.float64]:
    """Distance in Å up to which atoms are linked, (n_elements, n_elements); unknown pairs get the longest known one."""
    longest = max((median for _, median in pair_distances.values()), default=UNKNOWN_LINK / LINK)
    out = np.empty((len(elements), len(elements)))
    for i, a in enumerate(elements):
        for j, b in enumerate(elements):
            pair = (int(min(a, b)), int(max(a, b)))
            out[i, j] = LINK * pair_distances.get(pair, (0.0, longest))[1]
    return out
