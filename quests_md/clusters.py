"""Connected clusters of flagged atoms under periodic boundaries."""

from collections.abc import Mapping

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .geometry import linked_pairs

__all__ = ["LINK", "largest_cluster"]

#: Atoms are linked up to this multiple of the reference's median nearest-neighbour distance of their elements: past
#: the first shell of fcc and both near shells of bcc (1.15), short of the second of fcc (1.41).
LINK = 1.3

#: Å, link where the reference knows no neighbour distance at all: first-shell distance of most metals, times LINK.
UNKNOWN_LINK = 3.5


def largest_cluster(
    atoms: Atoms, flagged: NDArray[np.bool_], pair_distances: Mapping[tuple[int, int], tuple[float, float]]
) -> int:
    """Number of atoms in the largest cluster of flagged atoms.

    Parameters
    ----------
    atoms
        The frame.
    flagged
        (n_atoms,) which atoms count.
    pair_distances
        (smallest, median) nearest-neighbour distance in Å per pair of atomic numbers (a <= b).
    """
    n = int(flagged.sum())
    if n < 2:
        return n
    chosen = Atoms(numbers=atoms.numbers[flagged], positions=atoms.positions[flagged], cell=atoms.cell, pbc=atoms.pbc)
    elements, species = np.unique(chosen.numbers, return_inverse=True)
    longest = max((median for _, median in pair_distances.values()), default=UNKNOWN_LINK / LINK)
    links = np.empty((len(elements), len(elements)))
    for i, a in enumerate(elements):
        for j, b in enumerate(elements):
            pair = (int(min(a, b)), int(max(a, b)))
            links[i, j] = LINK * pair_distances.get(pair, (0.0, longest))[1]
    pairs = linked_pairs(chosen, links, species.astype(np.int64))
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    return int(np.bincount(labels).max())
