"""Frames that no one should label: exploded, with atoms on top of each other, or torn apart."""

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._words import many
from quests_md.environments import (
    DescriptorLike,
    PairDistances,
    close_pairs,
    inner_descriptor,
    nearest_allowed,
    nearest_by_element,
    show_room,
)
from quests_md.reference import Reference

__all__ = ["n_alone", "why_unfit"]

#: An atom is torn off if its nearest neighbour is farther than so many times the reference's median nearest-neighbour
#: distance, the longest that its element has.
TORN = 2.0

#: Share of the atoms of a frame that may be torn off: gases, vapour over a melt and desorbed atoms are no explosion.
MOST_TORN = 0.1


def why_unfit(
    atoms: Atoms, reference: Reference, rows: NDArray[np.float64], pair_distances: PairDistances, alone: int
) -> str | None:
    """Why a frame is not fit for a calculation, in words; None if it is.

    A frame is not if atoms are nearer than 0.7 times the closest pair of their elements in the reference
    (`close_pairs`), if an atom has no neighbour within the cutoff of the descriptor (such an environment in a training
    set makes evaporated atoms look known), and if more than a tenth of the atoms has no neighbour within twice the
    usual distance. `rows` (n, width) are those of the atoms, `pair_distances` the reference's, `alone` is what
    `n_alone` says of the frame.
    """
    if not show_room(reference.descriptor, rows, nearest_allowed(atoms.numbers, pair_distances)):
        near = close_pairs(atoms, pair_distances, moving=False).impossible
        if near:
            return near
    if alone:
        return f"{many(alone, 'atom')} without any neighbour"
    return _torn(atoms, pair_distances)


def n_alone(atoms: Atoms, descriptor: DescriptorLike) -> int:
    """How many atoms have no neighbour within the cutoff; 0 where a descriptor of one's own has none."""
    inner = inner_descriptor(descriptor)
    if inner is None:
        return 0
    nearest = nearest_by_element(atoms, np.unique(atoms.numbers), inner.cutoff)
    return int(np.isinf(nearest).all(axis=1).sum())


def _torn(atoms: Atoms, pair_distances: PairDistances) -> str | None:
    longest: dict[int, float] = {}
    for pair, (_, median) in pair_distances.items():
        for z in pair:
            longest[z] = max(longest.get(z, 0.0), median)
    if not longest or len(atoms) < 2:
        return None
    elements, species = np.unique(atoms.numbers, return_inverse=True)
    reach = np.array([TORN * longest.get(int(z), max(longest.values())) for z in elements])
    nearest = nearest_by_element(atoms, elements, float(reach.max())).min(axis=1)
    n_torn = int((nearest > reach[species]).sum())
    if n_torn <= max(MOST_TORN * len(atoms), 1):
        return None
    return f"{many(n_torn, 'atom')} of {len(atoms)} without a neighbour within {TORN:g} times the usual distance"
