"""Whether the first frame of a run can be one at all, and whether its lengths are in Å: nearest distances tell."""

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from quests_md.environments import nearest_by_element, wrapped_positions
from quests_md.errors import FrameError

from .reference import Reference

__all__ = ["doubt_of_lengths", "fault_of_start"]

#: Atoms nearer than this share of the reference's usual distance of their elements, and of the sum of their covalent
#: radii, are too near for any start. In nm it is 0.1, in fractions of a small cell 0.3, in reduced units some 0.4.
NEAR = 0.5

#: Part of the atoms that counts as all, and fewest atoms: of two, one distance tells nothing.
ALL, FEWEST = 0.9, 3

#: Times of the reference's usual nearest distances by which those of a run differ if one of the two is in another unit:
#: of the run, of the reference. They may be off by the share SAME.
UNITS, SAME = {1.8897: "bohr", 100.0: "pm"}, 0.12

#: Times of the sum of covalent radii up to which a distance is that of a bond in Å, whatever the reference has.
BOND = 1.35

WHAT_TO_DO = (
    "in the first frame of a run this is bad input, no explosion: nothing has happened yet. Correct the frame, or "
    "begin with a later, good one"
)


def fault_of_start(reference: Reference, atoms: Atoms) -> str | None:
    """Why atoms cannot be the first frame of a run, and what to do; None: they can.

    They cannot where numbers of positions or cell are not finite, the cell or a crowd of atoms has collapsed, or nearly
    all atoms are nearer to each other than half of what they are in the reference, and than half of what bonds are.
    """
    if len(atoms) == 0:  # said by the check, which finds nothing to judge
        return None
    try:
        wrapped_positions(atoms)
        elements, species, usual = _usual(reference, atoms)
        bonds = _bonds(elements)
        if _in_bonds(reference) < NEAR:  # in reduced units bonds say nothing
            bonds = usual
        bounds = NEAR * np.fmin(usual, bonds)
        cutoff = float(getattr(reference.descriptor, "cutoff", 5.0))  # what is refused later is refused now
        distances = nearest_by_element(atoms, elements, cutoff)
    except FrameError as error:
        return f"{error}; {WHAT_TO_DO}"
    near = (distances < bounds[species]).any(axis=1)
    if len(atoms) < FEWEST or near.mean() < ALL:
        return None
    closest = distances.min(axis=1)
    # of pairs that the reference does not know, bonds are the measure
    ratio = float(np.median((distances / np.where(np.isnan(usual), bonds, usual)[species]).min(axis=1)))
    return (
        f"positions: expected Å, got nearest distances of {float(np.median(closest)):.3g} Å, {ratio:.2g} times those "
        f"of the reference, for {near.sum()} of {len(atoms)} atoms; {_unit_below(atoms, ratio)}; {WHAT_TO_DO}"
    )


def doubt_of_lengths(reference: Reference, atoms: Atoms) -> str | None:
    """Say that a run, or the reference, seems to be in another unit of length; None: it does not.

    It seems so if nearly all nearest distances have the same ratio to those of the reference, that of a unit, and those
    of the one in question are longer than bonds. Distances to periodic images are not looked at.
    """
    elements, species, usual = _usual(reference, atoms)
    if len(atoms) < FEWEST or np.isnan(usual).all() or not np.isfinite(atoms.positions).all():
        return None
    if _n_at_one_place(atoms.positions) > (1 - ALL) * len(atoms):  # all in one leaf of the tree take minutes
        return None
    bonds = _bonds(elements)
    distances, nearest = cKDTree(atoms.positions).query(atoms.positions, k=2)
    pair = species, species[nearest[:, 1]]
    ratios = distances[:, 1] / usual[pair]
    longer = {
        "the frames of the run": float(np.median(distances[:, 1] / bonds[pair])) > BOND,
        "the reference": _in_bonds(reference) > BOND,
    }
    for times, unit in UNITS.items():
        for of, ratio in zip(longer, (times, 1 / times), strict=True):
            if longer[of] and np.mean(np.abs(ratios / ratio - 1) < SAME) >= ALL:
                return (
                    f"the nearest distances of the run are {float(np.nanmedian(ratios)):.3g} times those of the "
                    f"reference; lengths of {of} may be in {unit}; expected Å (docs/inputs.md says how a frame states "
                    "its unit)"
                )
    return None


def _n_at_one_place(positions: NDArray[np.float64]) -> int:
    """How many atoms are exactly where another one is."""
    same = (np.diff(positions[np.lexsort(positions.T)], axis=0) == 0).all(axis=1)
    return int((np.append(same, False) | np.append(False, same)).sum())


def _usual(reference: Reference, atoms: Atoms) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Elements of atoms, the place of that of each atom among them, and the reference's median nearest distances.

    The distances (n_elements, n_elements) are in Å, NaN for pairs that the reference does not know.
    """
    elements, species = np.unique(atoms.numbers, return_inverse=True)
    known = reference.pair_distances()
    usual = np.array(
        [[known.get((min(a, b), max(a, b)), (0, np.nan))[1] for b in elements.tolist()] for a in elements.tolist()]
    )
    return elements, species, usual


def _in_bonds(reference: Reference) -> float:
    """The shortest usual distance of the reference, in sums of covalent radii; inf where it knows none."""
    usual = reference.pair_distances().items()
    return min((float(middle / covalent_radii[[a, b]].sum()) for (a, b), (_, middle) in usual), default=np.inf)


def _bonds(elements: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of covalent radii in Å (n_elements, n_elements)."""
    radii = covalent_radii[np.clip(elements, 0, len(covalent_radii) - 1)]
    bonds: NDArray[np.float64] = radii[:, None] + radii
    return bonds


def _unit_below(atoms: Atoms, ratio: float) -> str:
    """What lengths of such a ratio may be, and how they become Å."""
    low, high = atoms.positions.min(), atoms.positions.max()
    if low > -0.1 and high < 1.1 and np.linalg.norm(atoms.cell.array, axis=1).max() > 2 * high:
        return "they look like fractions of the cell: multiply them by it (ASE: atoms.set_scaled_positions)"
    if 0.07 < ratio < 0.15:
        return "they look like nm: multiply positions and cell by 10"
    return "multiply positions and cell by the number of Å in their unit (10 for nm, 1e10 for m)"
