"""Whether the first frame of a run can be one at all, and whether its lengths are in Å: nearest distances tell."""

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray

from quests_md.environments import nearest_by_element, wrapped_positions
from quests_md.errors import FrameError

from .reference import Reference

__all__ = ["doubt_of_lengths", "fault_of_start"]

#: Atoms nearer than this share of the reference's usual distance of their elements, and of the sum of their covalent
#: radii, are too near for any start. In nm it is 0.1, in fractions of a small cell 0.3, in reduced units some 0.4.
NEAR = 0.5

#: Part of the atoms that counts as all, and fewest atoms: of two, one distance tells nothing.
ALL, FEWEST = 0.9, 3

#: Times of the reference's usual nearest distance beyond which lengths are doubted; bohr gives 1.89, or 0.53 where the
#: reference is in bohr.
TIMES_MORE, TIMES_LESS = 1.6, 0.62

#: Units by the number of which an Å has, and how far a ratio may be from it.
UNITS, SAME = {1.8897: "bohr", 100.0: "pm"}, 0.15

#: Largest ratio that is measured.
LARGEST = 1e4

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
    """Say that nearest distances are other than those of the reference, as in another unit; None: they are alike.

    Raises FrameError where atoms are none that `fault_of_start` lets pass.
    """
    elements, species, usual = _usual(reference, atoms)
    if len(atoms) < FEWEST or np.isnan(usual).all():
        return None
    reach = TIMES_MORE * float(np.nanmax(usual))
    ratios = _ratios(atoms, elements, species, usual, reach)
    if np.mean(ratios > TIMES_MORE) >= ALL:
        sparse = atoms[ratios > TIMES_MORE]  # so that no reach holds many atoms
        while np.isinf(np.median(ratios)) and reach < LARGEST:
            reach *= 2
            ratios = _ratios(sparse, *_usual(reference, sparse), reach)
        if np.isinf(np.median(ratios)):
            return None  # isolated atoms
    elif np.mean(ratios < TIMES_LESS) < ALL:
        return None
    ratio = float(np.median(ratios))
    of = "the frames of the run"
    unit = next((name for times, name in UNITS.items() if abs(ratio / times - 1) < SAME), None)
    if unit is None and ratio < 1:
        of, unit = "the reference", next((name for t, name in UNITS.items() if abs(ratio * t - 1) < SAME), None)
    asked = f"lengths of {of} may be in {unit}" if unit else "are the lengths of both in Å?"
    return (
        f"the nearest distances of the run are {ratio:.3g} times those of the reference; {asked}; expected Å "
        "(docs/inputs.md says how a frame states its unit)"
    )


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


def _ratios(
    atoms: Atoms,
    elements: NDArray[np.int64],
    species: NDArray[np.int64],
    usual: NDArray[np.float64],
    reach: float,
) -> NDArray[np.float64]:
    """(n,) smallest ratio of each atom's nearest distances to those of the reference; inf beyond the reach."""
    ratios = nearest_by_element(atoms, elements, reach) / usual[species]
    smallest: NDArray[np.float64] = np.where(np.isnan(ratios), np.inf, ratios).min(axis=1)
    return smallest


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
