"""Which atoms are near each other: linked ones in connected clusters, and atoms on top of each other."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from quests_md._kernels.neighbors import label_components, link_pairs
from quests_md._words import many

from .facts import element_symbol
from .neighbours import PairDistances, frame_grid, linked_pairs

__all__ = [
    "LINK",
    "NOT_CROWDED",
    "ClosePairs",
    "bare",
    "close_pairs",
    "clusters",
    "coordination",
    "largest_cluster",
    "limits_of",
    "links",
    "nearest_allowed",
]

#: Atoms are linked up to this multiple of the reference's median nearest-neighbour distance of their elements: past
#: the first shell of fcc and both near shells of bcc (1.15), short of the second of fcc (1.41).
LINK = 1.3

#: Å, link where the reference knows no distance of any pair: first-shell distance of most metals, times LINK.
UNKNOWN_LINK = 3.5

#: Atoms nearer than this share of the distance of the reference's closest pair of their elements are too near. Frames
#: in distribution come to 0.95 of that distance, sane runs at up to three times melting to 0.70 of that of a reference
#: of 300 K. So atoms that are too near have exploded if their motion is out of bounds as well.
CLOSE = 0.8

#: Atoms nearer than this share have exploded, however they move. DFT frames of melts come to 0.68 of the closest pair
#: of strained crystals at rest, aluminium at three times melting to 0.62 of that of the crystal at rest.
IMPOSSIBLE = 0.6

#: The same where it is not known how atoms move: no sane run at up to three times melting came below it.
UNMOVED = 0.7

#: For pairs that the reference has never seen at bonding distance: the same share, of the sum of their covalent radii
#: (Cordero et al. 2008, doi:10.1039/b801115j). The shortest bonds have N2 0.77, UO2(2+) 0.67, Cr2 0.60.
CLOSE_UNSEEN = 0.6

#: Most pairs that are listed, and most pairs whose distance is computed.
MOST_LISTED, MOST_MEASURED = 100, 10_000


@dataclass(frozen=True, slots=True, eq=False)
class ClosePairs:
    """Pairs of atoms that are too near to each other."""

    n_pairs: int
    """How many there are. Every image of an atom near another atom counts; an atom near its own images counts once."""
    atoms: NDArray[np.int64]
    """(n, 2) indices of the nearest 100 pairs, nearest first; twice the same index: an atom and its own image."""
    distances: NDArray[np.float64]
    """(n,) distances of the listed pairs, Å."""
    reason: str
    """The nearest pair in words; empty if there is none."""
    impossible: str = ""
    """The same of a pair that no motion brings about, see `close_pairs`; empty if there is none."""


#: What `close_pairs` says of a frame in which no atoms are too near.
NOT_CROWDED = ClosePairs(0, np.empty((0, 2), np.int64), np.empty(0), "")


def nearest_allowed(numbers: NDArray[np.int64], pair_distances: PairDistances) -> float:
    """Distance in Å from which on no pair of atoms of these atomic numbers is too near; see `close_pairs`."""
    return float(limits_of(np.unique(numbers), pair_distances).max(initial=0.0))


def close_pairs(atoms: Atoms, pair_distances: PairDistances, *, moving: bool = True) -> ClosePairs:
    """Pairs of atoms nearer than 0.8 times the closest pair of their elements in the reference.

    An atom and its own periodic image are a pair too. The limit of 0.8 is for elements that the reference has seen
    bonded: no farther apart than the sum of their covalent radii, or nearer to each other than one of them is to any
    third element. Of other elements the reference knows no closest pair: two antisite atoms of an ordered alloy, two
    atoms of a solute or H2 from a hydride are new but no explosion. The limit of such pairs is 0.6 times the sum of the
    covalent radii, and at most 0.8 times the closest pair of either element. The limit of two different elements is
    never above 0.8 times the mean of the closest pairs of each with itself: the reference may know like pairs from hot
    frames and the unlike pair from cold frames only.

    Atoms of a hot run meet within these limits. A pair nearer than three quarters of its limit (0.6 times the closest
    pair) is impossible, and where it is not known how atoms move (`moving` is False) a pair nearer than seven eighths
    (0.7 times): in runs at up to three times melting no pair came nearer than 0.70 times the closest pair of a
    reference of 300 K.

    Of more than 10 000 pairs, the nearest of any 10 000 are listed. A reference without pairs sets no limit. Raises
    FrameError as `frame_grid` does.
    """
    elements, species = np.unique(atoms.numbers, return_inverse=True)
    species = species.astype(np.int64)
    limits = limits_of(elements, pair_distances)
    longest = float(limits.max(initial=0.0))
    n_pairs, pairs = _linked(atoms, limits, species) if longest > 0 else (0, np.empty((0, 2), np.int64))
    if n_pairs == 0 and _shortest_period_at_least(atoms) >= longest:
        return NOT_CROWDED
    periods = _reduced_periods(atoms)
    shortest = np.linalg.norm(periods, axis=1).min(initial=math.inf)
    own = np.flatnonzero(shortest < np.diag(limits)[species])
    n_pairs += len(own)
    own = own[:MOST_LISTED]
    distances = _distances(atoms.positions[pairs[:, 1]] - atoms.positions[pairs[:, 0]], periods)
    distances = np.concatenate([distances, np.full(len(own), shortest)])
    pairs = np.concatenate([pairs, np.stack([own, own], axis=1)])
    impossible = ""
    if len(pairs):
        share = distances / limits[species[pairs[:, 0]], species[pairs[:, 1]]]
        worst = int(np.argmin(share))
        least = IMPOSSIBLE if moving else UNMOVED
        if share[worst] < least / CLOSE:
            impossible = _reason(atoms, pairs[worst], distances[worst], limits, least, pair_distances)
    first = np.lexsort((pairs[:, 1], pairs[:, 0], distances))[:MOST_LISTED]
    pairs, distances = pairs[first], distances[first]
    reason = ""
    if n_pairs:
        reason = _reason(atoms, pairs[0], distances[0], limits, CLOSE, pair_distances)
    if n_pairs > 1:
        more = f"; {many(n_pairs - 1, 'more pair')} too near"
        reason, impossible = reason + more, impossible and impossible + more
    return ClosePairs(n_pairs, pairs, distances, reason, impossible)


def clusters(atoms: Atoms, flagged: NDArray[np.bool_], pair_distances: PairDistances) -> list[NDArray[np.int64]]:
    """All connected clusters of flagged atoms: indices in ascending order, the largest cluster first.

    Of clusters of one size, the one with the smallest index comes first. `flagged` (n_atoms,) says which atoms are.
    """
    chosen = np.flatnonzero(flagged)
    if len(chosen) < 2:
        return [chosen] if len(chosen) else []
    frame = bare(atoms, chosen)
    elements, species = np.unique(frame.numbers, return_inverse=True)
    pairs = linked_pairs(frame, links(elements, pair_distances), species.astype(np.int64))
    labels = np.empty(len(chosen), np.int64)
    label_components(pairs, labels)
    order = np.argsort(labels, kind="stable")
    parts = np.split(chosen[order], np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted(parts, key=lambda part: (-len(part), part[0]))


def bare(atoms: Atoms, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Atoms:
    """The chosen atoms, by indices or a mask, with nothing but elements, positions and cell."""
    return Atoms(numbers=atoms.numbers[chosen], positions=atoms.positions[chosen], cell=atoms.cell, pbc=atoms.pbc)


def largest_cluster(atoms: Atoms, flagged: NDArray[np.bool_], pair_distances: PairDistances) -> int:
    """Number of atoms in the largest cluster of flagged atoms, see `clusters`."""
    found = clusters(atoms, flagged, pair_distances)
    return len(found[0]) if found else 0


def coordination(atoms: Atoms, index: int, pair_distances: PairDistances) -> int:
    """Number of neighbours of one atom: atoms that would be linked to it in a cluster; IndexError without the atom.

    Every periodic image counts as a neighbour, images of the atom itself too: 12 in the primitive cell of fcc.
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


def limits_of(elements: NDArray[np.int64], pair_distances: PairDistances) -> NDArray[np.float64]:
    """Distance in Å below which atoms are too near, (n_elements, n_elements); 0 where the reference has no pairs."""
    limits = np.zeros((len(elements), len(elements)))
    smallest = {pair: low for pair, (low, _) in pair_distances.items()}
    if not smallest:
        return limits
    names = [int(z) for z in elements]
    of_any = min(smallest.values())
    contacts = {z: min((low for pair, low in smallest.items() if z in pair), default=of_any) for z in names}
    for i, a in enumerate(names):
        for j, b in enumerate(names[: i + 1]):
            low, contact, bond = smallest.get((b, a), math.inf), max(contacts[a], contacts[b]), _radius(a) + _radius(b)
            if low <= max(contact, bond):
                like = (smallest.get((a, a), math.inf) + smallest.get((b, b), math.inf)) / 2
                limit = CLOSE * min(low, like)
            else:
                limit = min(CLOSE * contact, CLOSE_UNSEEN * bond)
            limits[i, j] = limits[j, i] = limit
    return limits


def _radius(number: int) -> float:
    """Covalent radius in Å; 0 for a number that is no element's."""
    return float(covalent_radii[number]) if 0 <= number < len(covalent_radii) else 0.0


def _linked(atoms: Atoms, limits: NDArray[np.float64], species: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """Number of pairs of atoms below their limits, images included, and up to 10 000 of them (n, 2)."""
    grid = frame_grid(atoms, 2 * float(limits.max()))  # with smaller bins finding the bins takes longer
    order = np.argsort(grid.slots)  # neighbours one after the other: twice as fast if a host has shuffled atoms
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    pairs = np.empty((MOST_MEASURED, 2), np.int64)
    n = int(link_pairs(*grid.arrays, grid.slots[order], rank[grid.source], species[order], limits, pairs))
    return n, np.unique(np.sort(order[pairs[:n]], axis=1), axis=0)


def _shortest_period_at_least(atoms: Atoms) -> float:
    """A lower bound in Å of the distance of an atom to its own images.

    No sum of whole multiples of the cell vectors is shorter than their smallest singular value.
    """
    vectors = atoms.cell.array[atoms.pbc]
    return float(np.linalg.svd(vectors, compute_uv=False)[-1]) if len(vectors) else math.inf


def _reduced_periods(atoms: Atoms) -> NDArray[np.float64]:
    """The shortest vectors (n_periodic, 3) in Å that span the lattice of periodic images."""
    if not atoms.pbc.any():
        return np.empty((0, 3))
    reduced, _ = minkowski_reduce(atoms.cell.array, atoms.pbc)
    periods: NDArray[np.float64] = np.asarray(reduced)[atoms.pbc]
    return periods


def _distances(steps: NDArray[np.float64], periods: NDArray[np.float64]) -> NDArray[np.float64]:
    """Length in Å of each step (n, 3) to the nearest image; `periods` are the reduced cell vectors.

    ASE's `find_mic` misses nearer images along one periodic direction of a skewed cell.
    """
    steps = steps - np.round(steps @ np.linalg.pinv(periods)) @ periods
    shortest = np.full(len(steps), math.inf)
    for turns in itertools.product((-1, 0, 1), repeat=len(periods)):
        np.minimum(shortest, np.linalg.norm(steps + np.array(turns) @ periods, axis=1), out=shortest)
    return shortest


def _reason(
    atoms: Atoms,
    pair: NDArray[np.int64],
    distance: float,
    limits: NDArray[np.float64],
    share: float,
    pair_distances: PairDistances,
) -> str:
    """The pair in words; `share` is CLOSE, IMPOSSIBLE or UNMOVED."""
    elements = np.unique(atoms.numbers)
    limit = limits[tuple(np.searchsorted(elements, atoms.numbers[pair]))] * share / CLOSE
    means = "is too near" if share == CLOSE else "counts as exploded"
    names = np.asarray(atoms.arrays.get("id", np.arange(len(atoms))))
    i, j = pair
    a, b = sorted((int(atoms.numbers[i]), int(atoms.numbers[j])))
    who = f"atom {names[i]} and its own image" if i == j else f"atoms {names[i]} and {names[j]}"
    smallest = pair_distances.get((a, b), (math.nan,))[0]
    if math.isclose(limit, share * smallest):
        verdict = f"below {limit:.2f} Å, {share:g} times the closest pair of the reference, {means}"
    elif smallest > 0:
        verdict = f"below {limit:.2f} Å {means} (the reference has them no nearer than {smallest:.2f} Å)"
    else:
        verdict = f"below {limit:.2f} Å {means} (the reference has no such pair)"
    symbols = f"{element_symbol(atoms.numbers[i])}-{element_symbol(atoms.numbers[j])}"
    return f"{who} ({symbols}) are {distance:.2f} Å apart; {verdict}"
