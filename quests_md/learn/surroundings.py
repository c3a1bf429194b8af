"""What lies around some atoms of a frame: atoms and periodic images, in one piece, with their distances."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from quests_md._kernels.neighbors import list_images
from quests_md.environments import wrapped_positions

from .units import nearest_images, whole_units

__all__ = ["Around", "Pieces", "Surroundings"]

#: Å. Pairs of atoms of two units are looked at up to here.
CONTACT = 6.0

#: Share of the atoms whose nearest neighbour of an element is nearer than what counts as usual. In cells of liquid
#: copper, atoms at the boundary above the level were 8 (median) with 0.02, 6 with 0.1, 2 with 0.3, 0.5 with 0.5.
CLOSEST_SHARE = 0.4

#: Most periodic images of one frame that are looked at.
MOST_IMAGES = 5_000_000


@dataclass(frozen=True)
class Around:
    """Atoms and images up to some distance from the core, whole units, the nearest first."""

    positions: NDArray[np.float64]
    """(n, 3), in Å."""
    atoms: NDArray[np.int64]
    """(n,) atom of the frame that each is an image of."""
    units: NDArray[np.int64]
    """(n,) molecule or single atom that each belongs to, numbered from 0 by the distance of the nearest of its atoms;
    images of a molecule are others."""
    distances: NDArray[np.float64]
    """(n,) to the nearest atom of the core, Å; 0: it is of the core."""


@dataclass(frozen=True)
class Pieces:
    """A frame in which molecules are in one piece, see `whole_units`."""

    frame: Atoms
    whole: NDArray[np.float64]
    """(n_atoms, 3) positions, Å."""
    units: NDArray[np.int64]
    """(n_atoms,) unit of each atom."""
    vectors: NDArray[np.float64]
    """(n_periodic, 3) reduced, Å."""
    inverse: NDArray[np.float64]
    """(3, n_periodic), turns places into fractions of the vectors."""

    @classmethod
    def of(cls, atoms: Atoms, most_atoms: int) -> "Pieces":
        """Of a frame, with molecules of at most so many atoms."""
        wrapped, vectors, inverse = wrapped_positions(atoms)
        return cls(atoms, *whole_units(atoms, wrapped, vectors, inverse, most_atoms), vectors, inverse)


class Surroundings:
    """A frame, seen from its core: the atoms within `core_A` of the centers.

    Centers may lie on both sides of a periodic boundary; each is taken at the image that is nearest to the others.
    """

    def __init__(self, pieces: Pieces, centers: Sequence[int], core_A: float) -> None:
        self.frame, self.whole, self.unit_of = pieces.frame, pieces.whole, pieces.units
        self.vectors, self.inverse = pieces.vectors, pieces.inverse
        self.centers = _together(self.whole[list(centers)], self.vectors, self.inverse)
        points, source = self._images(self.centers, core_A + 1e-6)
        is_core = cKDTree(self.centers).query(points)[0] <= core_A + 1e-6
        #: (n_core, 3) and (n_core,): places and atoms of the core, forces on which are to be trusted.
        self.core, self.core_atoms = points[is_core], source[is_core]
        self.tree = cKDTree(self.core)
        self._around: tuple[float, Around] | None = None

    def within(self, distance: float) -> Around:
        """All units with an atom within a distance in Å of the core, whole."""
        if self._around is None or self._around[0] < distance:
            self._around = distance, self._read(distance)
        around = self._around[1]
        if self._around[0] == distance:
            return around
        near = np.zeros(len(around.units), bool)
        near[around.units[around.distances <= distance]] = True
        keep = near[around.units]
        return Around(around.positions[keep], around.atoms[keep], around.units[keep], around.distances[keep])

    @cached_property
    def middle(self) -> NDArray[np.float64]:
        """The middle of the core, Å."""
        middle: NDArray[np.float64] = (self.core.min(axis=0) + self.core.max(axis=0)) / 2
        return middle

    @cached_property
    def differences(self) -> cKDTree:
        """Steps from each atom of the core to each: images of the core, moved by one of these, touch."""
        outer = self.core if len(self.core) <= 400 else self.core[:: len(self.core) // 400]
        return cKDTree((outer[:, None, :] - outer[None, :, :]).reshape(-1, 3))

    def gaps(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Least distance in Å between the core and the core moved by each step (n, 3)."""
        return np.asarray(self.differences.query(steps)[0], np.float64)

    def is_period(self, steps: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether each step (n, 3) is a whole number of periods of the frame."""
        if not len(self.vectors):
            return np.zeros(len(steps), bool)
        turns = np.round(steps @ self.inverse)
        exact: NDArray[np.bool_] = np.abs(turns @ self.vectors - steps).max(axis=1) < 1e-6
        return exact

    @cached_property
    def closest(self) -> dict[tuple[int, int], float]:
        """Usual closest distance in Å of two elements (a <= b) in different units, around here; of those that meet."""
        around = self.within(2 * CONTACT)
        pairs = cKDTree(around.positions).query_pairs(CONTACT, output_type="ndarray")
        pairs = pairs[around.units[pairs[:, 0]] != around.units[pairs[:, 1]]]
        numbers = self.frame.numbers[around.atoms]
        if not len(pairs):
            return {}
        lengths = np.linalg.norm(around.positions[pairs[:, 0]] - around.positions[pairs[:, 1]], axis=1)
        nearest: dict[tuple[int, int], dict[int, float]] = {}
        for i, j, length in zip(pairs[:, 0].tolist(), pairs[:, 1].tolist(), lengths.tolist(), strict=True):
            a, b = sorted((int(numbers[i]), int(numbers[j])))
            here = nearest.setdefault((a, b), {})
            for k in (i, j):
                here[k] = min(here.get(k, math.inf), length)
        return {pair: float(np.quantile(list(found.values()), CLOSEST_SHARE)) for pair, found in nearest.items()}

    def _read(self, distance: float) -> Around:
        reach = distance + self._largest_unit
        points, source = self._images(self.core, reach)
        distances = np.asarray(self.tree.query(points)[0], np.float64)
        turns = np.zeros((len(points), 3), np.int64)
        if len(self.vectors):
            turns[:, : len(self.vectors)] = np.round((points - self.whole[source]) @ self.inverse)
        _, units = np.unique(np.column_stack([self.unit_of[source], turns]), axis=0, return_inverse=True)
        units = units.ravel()
        nearest = np.full(units.max(initial=-1) + 1, np.inf)
        np.minimum.at(nearest, units, distances)
        keep = nearest[units] <= distance
        points, source, units, distances = points[keep], source[keep], units[keep], distances[keep]
        place = points - self.middle
        # distances of symmetric atoms differ in their last digits, which no choice shall hang on
        order = np.lexsort((*np.round(place, 4).T, distances, units, np.round(nearest[units], 6)))
        _, first, numbered = np.unique(units[order], return_index=True, return_inverse=True)
        rank = np.empty(len(first), np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return Around(points[order], source[order], rank[numbered.ravel()], distances[order])

    @cached_property
    def _largest_unit(self) -> float:
        """Å from any atom of a unit to any other, at most."""
        spans = np.linalg.norm(self.whole - self.whole[self.unit_of], axis=1)
        return 2 * float(spans.max(initial=0.0))

    def _images(self, places: NDArray[np.float64], reach: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Atoms and images in a box that holds all within a reach in Å of some places, and which atoms these are."""
        if not len(self.vectors):
            return self.whole, np.arange(len(self.whole))
        inner = places @ self.inverse
        fractions = self.whole @ self.inverse
        widths = reach * np.linalg.norm(self.inverse, axis=0) + 1e-9
        first = np.ceil(inner.min(axis=0) - widths - fractions)
        last = np.floor(inner.max(axis=0) + widths - fractions)
        counts = np.prod(np.maximum(last - first + 1, 0), axis=1)
        some = np.flatnonzero(counts)
        n = int(counts.sum())
        if n > MOST_IMAGES:
            raise ValueError(
                f"buffer_A, max_atoms: {n} atoms and images lie around the core, at most {MOST_IMAGES} are looked at; "
                "give smaller ones"
            )
        # the kernel writes the atoms themselves first, and leaves out their zeroth image
        points, source = np.empty((len(some) + n, 3)), np.empty(len(some) + n, np.int64)
        its_first, its_last = first[some].astype(np.int64), last[some].astype(np.int64)
        list_images(np.ascontiguousarray(self.whole[some]), self.vectors, its_first, its_last, points, source)
        holds_zero = ((its_first <= 0) & (its_last >= 0)).all(axis=1)
        n_images = n - int(holds_zero.sum())
        keep = np.r_[holds_zero, np.ones(n_images, bool)]
        return points[: len(keep)][keep], some[source[: len(keep)][keep]]


def _together(
    places: NDArray[np.float64], vectors: NDArray[np.float64], inverse: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Places (n, 3) at the periodic images at which they lie together: each near one of the others."""
    out = places.copy()
    steps = nearest_images(places - out[0], vectors, inverse)
    found = out[0] + steps
    lengths = np.linalg.norm(steps, axis=1)
    is_open = np.ones(len(places), bool)
    is_open[0] = False
    while is_open.any():
        k = int(np.argmin(np.where(is_open, lengths, np.inf)))
        out[k], is_open[k] = found[k], False
        steps = nearest_images(places - out[k], vectors, inverse)
        new = np.linalg.norm(steps, axis=1)
        nearer = new < lengths
        found[nearer], lengths[nearer] = out[k] + steps[nearer], new[nearer]
    return out
