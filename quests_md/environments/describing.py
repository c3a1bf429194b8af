"""Rows of a frame by any descriptor, checked, at one scale or at both."""

from typing import Protocol

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from quests_md._arguments import check_rows

from .descriptor import AVERAGE, BothRows, Descriptor, Wrapped

__all__ = [
    "DescriptorLike",
    "averaged_over",
    "check_center_rows",
    "describe",
    "describe_both",
    "inner_descriptor",
    "is_center",
    "is_neighbor",
    "show_room",
]


class DescriptorLike(Protocol):
    """Any callable from a frame to rows (n_atoms, width), with a fingerprint.

    If not all atoms have a row, or not all are seen as neighbours, it must have the methods `is_center(numbers)` and
    `is_neighbor(numbers)` of `Descriptor`; rows of atoms that are no centers must then be NaN.
    """

    @property
    def fingerprint(self) -> str:
        """Text equal exactly for descriptors that give equal rows."""

    def __call__(self, atoms: Atoms, /) -> NDArray[np.float64]:
        """Rows (n_atoms, width)."""


def describe(descriptor: DescriptorLike, atoms: Atoms, threads: int | None) -> NDArray[np.float64]:
    """Rows of a frame by any descriptor, checked to be one finite row per center and NaN for all other atoms."""
    if isinstance(descriptor, Descriptor):
        return descriptor(atoms, threads=threads)
    return _checked(descriptor, atoms, descriptor(atoms))


def describe_both(descriptor: DescriptorLike, atoms: Atoms, threads: int | None) -> BothRows:
    """Rows of a frame by any descriptor, and their averages over 12 neighbours; one grid, one fill, one minimisation.

    `plain` is what `describe` gives, to the bit. `averaged` is what the descriptor gives with average=12, to the bit;
    `plain` itself where rows are averaged already, or where no center is seen as a neighbour; None by a descriptor of
    one's own. Both are checked as by `describe`.
    """
    if isinstance(descriptor, Descriptor):
        return descriptor.both_scales(atoms, threads=threads)
    if not isinstance(descriptor, Wrapped):
        return BothRows(describe(descriptor, atoms, threads), None)
    plain, averaged = descriptor.both_scales(atoms, threads=threads)
    rows = _checked(descriptor, atoms, plain)
    return BothRows(rows, rows if averaged is plain else _checked(descriptor, atoms, averaged))


def inner_descriptor(descriptor: object) -> Descriptor | None:
    """The `Descriptor` that makes the rows, itself or within another; None: a descriptor of one's own."""
    inner = descriptor.descriptor if isinstance(descriptor, Wrapped) else descriptor
    return inner if isinstance(inner, Descriptor) else None


def averaged_over(descriptor: object) -> int | None:
    """Neighbours over which `describe_both` averages the rows of a descriptor.

    0: it gives the rows themselves as the averaged ones; None: a descriptor of one's own, it gives none.
    """
    inner = inner_descriptor(descriptor)
    if inner is None:
        return None
    return AVERAGE if inner.average is None and inner.sees_centers else 0


def show_room(descriptor: object, rows: NDArray[np.float64], distance: float) -> bool:
    """Whether rows (n_atoms, width) of a frame show that no two atoms or images are within a distance in Å.

    False as well where rows do not tell, as those of a descriptor that describes another frame.
    """
    return isinstance(descriptor, Descriptor) and descriptor.are_apart(rows, distance)


def check_center_rows(argument: str, rows: ArrayLike, centers: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`check_rows`, with rows of NaN expected exactly where an atom is no center."""
    if centers.all():
        return check_rows(argument, rows)
    array = np.array(rows, dtype=np.float64)
    if array.ndim != 2:
        return check_rows(argument, rows)
    strange = np.flatnonzero(~centers & ~np.isnan(array).all(axis=1))
    if len(strange):
        raise ValueError(f"{argument}: expected NaN in row {strange[0]}, of an atom that is no center")
    array[~centers] = 0.0
    checked = check_rows(argument, array)
    checked[~centers] = np.nan
    return checked


def is_center(descriptor: object, numbers: ArrayLike) -> NDArray[np.bool_]:
    """Whether atoms of each atomic number have a row; all do unless the descriptor has a method `is_center`."""
    return _asked(descriptor, "is_center", numbers)


def is_neighbor(descriptor: object, numbers: ArrayLike) -> NDArray[np.bool_]:
    """Whether atoms of each atomic number are seen; all are unless the descriptor has a method `is_neighbor`."""
    return _asked(descriptor, "is_neighbor", numbers)


def _asked(descriptor: object, method: str, numbers: ArrayLike) -> NDArray[np.bool_]:
    z = np.asarray(numbers)
    answer = getattr(descriptor, method, None)
    return np.ones(z.shape, dtype=bool) if answer is None else np.asarray(answer(z), dtype=bool)


def _checked(descriptor: DescriptorLike, atoms: Atoms, given: ArrayLike | None) -> NDArray[np.float64]:
    rows = np.asarray(given)
    if rows.ndim and len(rows) != len(atoms):
        raise ValueError(f"descriptor: expected one row for each of {len(atoms)} atoms, got {len(rows)}")
    return check_center_rows("descriptor", rows, is_center(descriptor, atoms.numbers))
