"""A frame as points on a grid: atoms and their periodic images, for any cell and any mix of periodic directions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from quests_md._kernels.jit import Floats, Integers
from quests_md._kernels.neighbors import bin_points, extent, link_pairs, list_images, nearest_of_species
from quests_md.errors import FrameError

__all__ = [
    "FrameGrid",
    "PairDistances",
    "frame_grid",
    "lattice",
    "linked_pairs",
    "nearest_by_element",
    "wrapped_positions",
]

#: (smallest, median) distance in Å of nearest neighbours in a reference, by pair of atomic numbers (a <= b).
PairDistances: TypeAlias = Mapping[tuple[int, int], tuple[float, float]]

#: Most periodic images of one frame, about 2 GB of coordinates: with more the cell has collapsed.
MAX_IMAGES = 50_000_000

#: Atoms per Å^3 above which a crowd has collapsed, and fewest atoms of a crowd: diamond has 0.18, liquids that LAMMPS
#: counts in units of their atoms' diameter 1. Neighbours of so many atoms would take time and memory as their square.
DENSEST, CROWD = 8.0, 1000

#: Atoms in a cube of 1 Å above which they are part of a crowd, and atoms per Å^3 below which no cubes are looked at.
MOST_IN_CUBE, DENSE = 30, 0.5

#: Atoms and images whose places take little time and memory, whatever their density is.
FEW_POINTS = 1_000_000

#: Å. A larger coordinate has fewer than seven decimals left, and wrapping it into a cell gives noise.
MAX_COORDINATE = 1e9


@dataclass(frozen=True, slots=True)
class FrameGrid:
    """Points sorted into bins at least as wide as the cutoff."""

    x: NDArray[np.float64]  #: coordinates of the sorted points, Å
    y: NDArray[np.float64]
    z: NDArray[np.float64]
    bins: NDArray[np.int64]  #: bin of each sorted point, ascending
    shape: NDArray[np.int64]  #: bins per axis (3,)
    source: NDArray[np.int64]  #: atom of which each point is an image
    slots: NDArray[np.int64]  #: place of each atom itself among the sorted points

    @property
    def arrays(self) -> tuple[Floats, Floats, Floats, Integers, Integers]:
        """x, y, z, bins, shape: the arrays in which kernels find neighbours."""
        return self.x, self.y, self.z, self.bins, self.shape


def frame_grid(atoms: Atoms, cutoff: float) -> FrameGrid:
    """Sort a frame into bins so that all neighbours within the cutoff of an atom are in the 27 bins around the atom.

    Raises FrameError if a position or a periodic cell vector is not finite, the periodic vectors are zero or dependent,
    or a crowd of atoms has collapsed: then neighbours are not looked for.
    """
    positions, vectors, inverse = wrapped_positions(atoms)
    points, source = _with_images(positions, vectors, inverse, cutoff)
    grid = FrameGrid(*bin_points(points, source, len(positions), cutoff))
    _refuse_crowds(grid, cutoff)
    return grid


def nearest_by_element(atoms: Atoms, elements: NDArray[np.int64], cutoff: float) -> NDArray[np.float64]:
    """Distance in Å (n_atoms, n_elements) to the nearest neighbour of each element, inf beyond the cutoff."""
    out = np.full((len(atoms), len(elements)), np.inf)
    if len(atoms):
        grid = frame_grid(atoms, cutoff)
        species = np.searchsorted(elements, atoms.numbers)[grid.source]
        nearest_of_species(*grid.arrays, grid.slots, species, cutoff, out)
    return out


def linked_pairs(atoms: Atoms, links: NDArray[np.float64], species: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of atoms (n_pairs, 2) nearer to each other, images included, than the link in Å of their two species."""
    longest = float(links.max())
    grid = frame_grid(atoms, longest)
    capacity = 16 * len(atoms) + 16
    while True:
        pairs = np.empty((capacity, 2), np.int64)
        n_pairs = link_pairs(*grid.arrays, grid.slots, grid.source, species, links, pairs)
        if n_pairs <= capacity:
            return pairs[:n_pairs]
        capacity = n_pairs


def wrapped_positions(atoms: Atoms) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Positions wrapped along the periodic directions, and the lattice vectors (n_periodic, 3), reduced if skewed.

    Also the (3, n_periodic) matrix that turns coordinates into fractions of the vectors. Raises as `frame_grid` does.
    """
    positions = np.array(atoms.positions, dtype=np.float64)
    if not np.isfinite(positions).all():
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise FrameError(f"positions: expected finite numbers, got {positions[bad[0]]} for atom {bad[0]}{more}")
    vectors, inverse = lattice(np.asarray(atoms.cell.array, np.float64).tobytes(), tuple(map(bool, atoms.pbc)))
    if len(vectors) == 0:
        return positions, vectors, inverse
    if len(positions) and np.abs(positions).max() > MAX_COORDINATE:
        far = np.flatnonzero((np.abs(positions) > MAX_COORDINATE).any(axis=1))
        got = f"got {positions[far[0]]} for atom {far[0]}"
        raise FrameError(f"positions: expected coordinates up to {MAX_COORDINATE:.0e} Å, {got}")
    positions -= np.floor(positions @ inverse) @ vectors
    return positions, vectors.copy(), inverse.copy()


@lru_cache(maxsize=16)
def lattice(cell_bytes: bytes, pbc: tuple[bool, bool, bool]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lattice vectors and their inverse, see `wrapped_positions`; most runs keep a cell for many checks.

    `cell_bytes`: the cell (3, 3), float64. Raises FrameError if a periodic vector is not usable.
    """
    cell = np.frombuffer(cell_bytes).reshape(3, 3)
    vectors = cell[list(pbc)]
    if len(vectors) == 0:
        return vectors, np.empty((3, 0))
    if not np.isfinite(vectors).all():
        raise FrameError(f"cell: expected finite numbers, got {cell.tolist()}")
    lengths = np.linalg.norm(vectors, axis=1)
    if not (lengths > 0).all():
        axes = ", ".join("abc"[i] for i in np.flatnonzero(pbc) if not np.any(cell[i]))
        expected = "expected a nonzero vector along every periodic direction"
        raise FrameError(f"cell: {expected}, got zero for {axes}; set the cell, or pbc=False along it")
    unit = vectors / lengths[:, None]
    flatness = math.sqrt(max(np.linalg.det(unit @ unit.T), 0.0))  # relative volume: 1 orthogonal, 0 dependent vectors
    if flatness < 1e-10:
        raise FrameError(f"cell: its periodic vectors are linearly dependent: {vectors.tolist()}")
    if flatness < 0.3 and len(vectors) > 1:
        reduced, _ = minkowski_reduce(cell, pbc)
        vectors = np.asarray(reduced)[list(pbc)]
    inverse = np.asarray(np.linalg.inv(vectors) if len(vectors) == 3 else np.linalg.pinv(vectors), dtype=np.float64)
    return vectors, inverse


def _refuse_crowds(grid: FrameGrid, cutoff: float) -> None:
    """Raise FrameError if a bin, or many cubes of 1 Å, hold a crowd that has collapsed."""
    bins = grid.bins
    if len(bins) <= CROWD:
        return
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    counts = np.diff(starts, append=len(bins))
    if float(counts @ counts) < DENSE * cutoff**3 * len(bins):  # so many others are in the bin of an atom
        return
    what = "the frame has collapsed, or its lengths are not in Å"
    for i in np.flatnonzero(counts > CROWD):
        here = slice(starts[i], starts[i] + counts[i])
        sides = np.maximum([np.ptp(axis[here]) for axis in (grid.x, grid.y, grid.z)], cutoff)
        if counts[i] > DENSEST * float(np.prod(sides)):
            about = "x".join(f"{side:.3g}" for side in sides)
            atoms = grid.source[here]
            raise FrameError(
                f"positions: {counts[i]} atoms and images, atom {atoms.min()} one of them, lie within {about} Å, more "
                f"than {DENSEST:g} in 1 Å^3; {what}"
            )
    if len(grid.slots) <= CROWD:
        return
    places = np.floor(np.array([grid.x, grid.y, grid.z]))
    order = np.lexsort(places)
    starts = np.flatnonzero(np.r_[True, (np.diff(places[:, order]) != 0).any(axis=0)])
    counts = np.diff(starts, append=len(order))
    crowded = counts > MOST_IN_CUBE
    if counts[crowded].sum() > CROWD:
        atom = grid.source[order[starts[crowded][0]]]
        raise FrameError(
            f"positions: {counts[crowded].sum()} atoms and images, atom {atom} one of them, lie in cubes of 1 Å^3 that "
            f"hold more than {MOST_IN_CUBE} each; {what}"
        )


def _with_images(
    positions: NDArray[np.float64], vectors: NDArray[np.float64], inverse: NDArray[np.float64], cutoff: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The atoms, then every periodic image that may lie within the cutoff of one of them."""
    n_atoms = len(positions)
    if len(vectors) == 0:
        return positions, np.arange(n_atoms)
    fractions = positions @ inverse
    # a sphere of the cutoff spans cutoff * |column| in the fraction along that column
    reach = cutoff * np.linalg.norm(inverse, axis=0) + 1e-9
    low, high = extent(fractions)
    first = np.ceil(low - reach - fractions)
    last = np.floor(high + reach - fractions)
    n_points = float(math.prod((last - first + 1).T).sum())
    if n_points > min(CROWD * n_atoms, FEW_POINTS) and n_points > DENSEST * _room(positions, vectors, cutoff):
        raise FrameError(
            f"cell: {n_points:.3g} atoms and images lie within the cutoff of {cutoff} Å of an atom, more than "
            f"{DENSEST:g} in 1 Å^3; the cell has collapsed, or its lengths are not in Å: {vectors.tolist()}"
        )
    if n_points > MAX_IMAGES:
        raise FrameError(
            f"cell: {n_points:.3g} periodic images lie within the cutoff of {cutoff} Å, at most {MAX_IMAGES:.3g} are "
            f"followed; the cell has collapsed: {vectors.tolist()}"
        )
    points = np.empty((int(n_points), 3))
    source = np.empty(int(n_points), np.int64)
    list_images(positions, vectors, first.astype(np.int64), last.astype(np.int64), points, source)
    return points, source


def _room(positions: NDArray[np.float64], vectors: NDArray[np.float64], cutoff: float) -> float:
    """Å^3 of the box that holds the atoms and the images that may be within the cutoff of one of them."""
    return float(np.prod(np.ptp(positions, axis=0) + 2 * cutoff + np.abs(vectors).max(axis=0)))
