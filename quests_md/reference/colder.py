"""Colder copies of what a reference holds: its frames with their displacements from the mean structure scaled down."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from quests_md.environments import Descriptor

from .reference import Reference

__all__ = ["colder_copies"]

#: Share of the nearest-neighbour distance that two frames of one structure may differ by: root mean square over atoms,
#: and any atom; and the root mean square displacement from the mean structure (Lindemann, Phys. Z. 11, 609 (1910)).
APART, ANY_APART, LINDEMANN = 0.25, 0.7, 0.15

#: Shares of the median displacement of frames, and of the distance of nearest neighbours, below which a frame rests.
AT_REST, LEAST_LINDEMANN = 0.3, 0.01

#: Strain by which cells of frames of one structure may differ.
STRAINED = 0.03

#: Fewest frames whose mean is a structure: what is left of their displacements is a third or less.
FEWEST_FRAMES = 10

#: Least share of the frames with the same atoms and cell: what diffuses is one structure for a short time only.
LEAST_SHARE = 1 / 8

#: Most frames that are looked at, taken evenly; most structures that are kept of them, and most atoms of these.
MOST_FRAMES, MOST_STRUCTURES, MOST_ATOMS = 1000, 24, 20_000

#: Most frames that are like no other yet, and so many atoms that are looked at first: what flows has a new structure
#: every few frames.
MOST_ALONE, SOME_ATOMS = 50, 8

#: Environments that all copies together should have; fewest and most copies; fewest of each structure.
ENVIRONMENTS, FEWEST_COPIES, MOST_COPIES, FEWEST_OF_EACH = 12_000, 40, 400, 12

#: Linear strains of the mean structure that count as colder: crystals shrink when they cool, few grow.
STRAINS = (-0.01, -0.0075, -0.005, -0.0025, 0.0, 0.0025, 0.005)

#: Share of these strains that copies in motion have: with all of it compressed crystals were lost beside hot ones.
MOVING = 0.5

#: Largest share of the thermal displacement that displacements without any correlation have: with neighbours that move
#: against each other a frame has more energy than with phonons of the same amplitude.
LARGEST_RANDOM = 0.5

#: A translation maps a structure upon itself if both differ by no more than so many times what is left of the motion.
AS_LARGE = 2.0

#: Most translations that are tried.
MOST_TRANSLATIONS = 128

#: Seed of these displacements.
SEED = 0

Floats = NDArray[np.float64]


@dataclass(eq=False)
class _Structure:
    """Frames that are one structure in motion, as displacements from the first of them."""

    first: Atoms
    places: Floats
    """(n, 3) of the first frame: fractional, or Å where nothing is periodic."""
    limit: float
    """Å, the distance of nearest neighbours."""
    moved: list[Floats] = field(default_factory=list)
    """(n, 3) of each frame, from the places of the first."""
    cells: list[Floats] = field(default_factory=list)

    def takes(self, places: Floats, cell: Floats) -> bool:
        """Whether a frame is of this structure; then it is kept. `places` as those of the first frame."""
        if self.is_free:
            moved, cell = _aligned(places, self.places) - self.places, self.first.cell.array
        else:
            some = slice(None, None, max(1, len(places) // SOME_ATOMS))  # tells most other structures
            if (_squares(self._moved(places[some], some) @ self._vectors) > (2 * ANY_APART * self.limit) ** 2).any():
                return False
            if not self.has_cell(cell):
                return False
            moved = self._moved(places, slice(None))
            moved -= moved.mean(axis=0)
        distance2 = _squares(moved @ self._vectors)
        if distance2.mean() > (APART * self.limit) ** 2 or distance2.max() > (ANY_APART * self.limit) ** 2:
            return False
        self.moved.append(moved)
        self.cells.append(cell)
        return True

    def _moved(self, places: Floats, these: slice) -> Floats:
        """Displacements from the first frame, without drift of the first of these atoms."""
        moved = places - self.places[these]
        moved -= np.round(moved) * self.first.pbc
        moved -= moved[0]  # an atom that does not jump
        moved -= np.round(moved) * self.first.pbc
        return np.asarray(moved)

    def has_cell(self, cell: Floats) -> bool:
        """Whether frames with that cell may be of this structure."""
        strain = np.linalg.solve(_full(self.first), _completed(cell)) - np.eye(3)
        return bool((np.abs(strain) < STRAINED).all())

    @property
    def is_free(self) -> bool:
        return not self.first.pbc.any()

    @cached_property
    def _vectors(self) -> Floats:
        return np.eye(3) if self.is_free else _full(self.first)

    def is_solid(self, cells: list[Floats]) -> bool:
        """Whether the frames suffice for a mean, stay near it, and are many of those with these atoms, of `cells`."""
        self.drop_frames_at_rest()
        n_like = len(cells) if self.is_free else sum(self.has_cell(cell) for cell in cells)
        if len(self.moved) < max(FEWEST_FRAMES, LEAST_SHARE * n_like):
            return False
        return self.amplitude() < LINDEMANN * self.limit

    def drop_frames_at_rest(self) -> None:
        """Leave out frames whose displacements are small beside those of most: they are no motion of the structure."""
        amplitudes = self._amplitudes()
        moving = amplitudes > max(AT_REST * float(np.median(amplitudes)), LEAST_LINDEMANN * self.limit)
        self.moved = [moved for moved, kept in zip(self.moved, moving, strict=True) if kept]
        self.cells = [cell for cell, kept in zip(self.cells, moving, strict=True) if kept]

    def amplitude(self) -> float:
        """Root mean square displacement of an atom from the mean structure, Å."""
        return float(np.sqrt((self._amplitudes() ** 2).mean()))

    def _amplitudes(self) -> Floats:
        moved = np.array(self.moved)
        return np.asarray(np.sqrt((((moved - moved.mean(axis=0)) @ self._vectors) ** 2).sum(axis=2).mean(axis=1)))

    def copies(self, n: int, rng: np.random.Generator) -> Iterator[Atoms]:
        """So many colder copies: half with the displacements of frames, the rest at rest or moved at random."""
        mean_moved, mean_cell = np.mean(self.moved, axis=0), np.mean(self.cells, axis=0)
        ideal_moved = self._with_translations(mean_moved)
        frames = np.linspace(0, len(self.moved) - 1, n).round().astype(int)
        noise = self.amplitude() / np.sqrt(3)
        for i, frame in enumerate(frames):
            share, strain = (i + 0.5) / n, STRAINS[i // 2 % len(STRAINS)]
            if i % 4 == 0:
                yield self._copy(ideal_moved, mean_cell * (1 + STRAINS[i // 4 % len(STRAINS)]))
            elif i % 4 == 2:
                copy = self._copy(ideal_moved, mean_cell * (1 + MOVING * STRAINS[i // 4 % len(STRAINS)]))
                copy.positions += rng.normal(0.0, LARGEST_RANDOM * share * noise, (len(copy), 3))
                yield copy
            else:
                moved = ideal_moved + share * (self.moved[frame] - mean_moved)
                # crystals shrink about linearly with temperature, which goes as the square of displacements
                cell = mean_cell * (1 + MOVING * strain * (1 - share**2))
                yield self._copy(moved, cell + share * (self.cells[frame] - mean_cell))

    def _with_translations(self, mean_moved: Floats) -> Floats:
        """The mean displacements, averaged over all translations that map the mean structure upon itself.

        What is left of the motion in a mean of n frames is a part 1/sqrt(n) of it, and would set atoms at rest apart.
        How much is left is seen from the means of both halves of the frames.
        """
        half = len(self.moved) // 2
        early, late = np.mean(self.moved[:half], axis=0), np.mean(self.moved[half:], axis=0)
        left = float(np.sqrt((((early - late) @ self._vectors / 2) ** 2).sum(axis=1).mean()))
        numbers, pbc = self.first.numbers, self.first.pbc
        places = self.places + mean_moved
        box = np.where(pbc, 1.0, 0.0)  # of fractional coordinates; 0: not periodic
        inside = np.where(pbc, places % 1.0 % 1.0, places)
        tree = cKDTree(inside, boxsize=box)
        rarest = min(np.unique(numbers), key=lambda z: int((numbers == z).sum()))
        others = np.flatnonzero(numbers == rarest)
        others = others[np.unique(np.linspace(0, len(others) - 1, min(MOST_TRANSLATIONS, len(others))).astype(int))]
        total, count = np.zeros_like(places), 0
        for other in [] if self.is_free else others:
            shifted = inside + inside[other] - inside[others[0]]
            match = tree.query(np.where(pbc, shifted % 1.0 % 1.0, shifted))[1]
            if len(np.unique(match)) < len(match) or (numbers[match] != numbers).any():
                continue
            off = inside[match] - shifted
            off -= np.round(off) * pbc
            off = off - off.mean(axis=0)
            if np.sqrt(((off @ self._vectors) ** 2).sum(axis=1).mean()) > AS_LARGE * np.sqrt(2) * left:
                continue
            total[match] -= off
            count += 1
        return mean_moved + total / max(count, 1)

    def _copy(self, moved: Floats, cell: Floats) -> Atoms:
        copy: Atoms = self.first.copy()
        if self.is_free:
            copy.positions = self.places + moved
            return copy
        copy.set_cell(cell)
        copy.positions = (self.places + moved) @ _full(copy)
        return copy


def colder_copies(reference: Reference) -> list[Atoms]:
    """Frames of the reference with less thermal motion, down to none; empty where the reference has no such.

    Frames of the same atoms that differ by less than a quarter of the distance of nearest neighbours are one structure
    in motion. Their mean is the structure at rest; scaling their displacements from it down makes frames at a lower
    temperature, as in a harmonic crystal. Liquids have no such mean: their frames soon differ by more. The structure
    may be a crystal, a slab, a crystal with a vacancy, or a molecule, which is turned upon the first frame.
    """
    descriptor = reference.descriptor
    if not isinstance(descriptor, Descriptor) or descriptor.centers is not None or descriptor.neighbors is not None:
        return []
    distances = {pair: middle for pair, (_, middle) in reference.pair_distances().items()}
    if not distances:
        return []
    structures: dict[tuple[bytes, bytes], list[_Structure]] = {}
    cells: dict[tuple[bytes, bytes], list[Floats]] = {}
    chosen = np.unique(np.linspace(0, reference.n_frames - 1, min(MOST_FRAMES, reference.n_frames)).astype(int))
    for index in chosen:
        atoms = reference.frame(int(index))
        if not 2 <= len(atoms) <= MOST_ATOMS:
            continue
        kind = atoms.numbers.tobytes(), atoms.pbc.tobytes()
        known = structures.setdefault(kind, [])
        cells.setdefault(kind, []).append(atoms.cell.array)
        places = _fractional(atoms) if atoms.pbc.any() else atoms.positions
        if any(structure.takes(places, atoms.cell.array) for structure in known):
            continue
        seen = set(atoms.numbers.tolist())
        limit = min((d for (a, b), d in distances.items() if a in seen and b in seen), default=0.0)
        new = _Structure(atoms, places, limit)
        if new.takes(places, atoms.cell.array):
            known.append(new)
        alone = [structure for structure in known if len(structure.moved) == 1]
        if len(alone) > MOST_ALONE:
            known.remove(alone[0])
    solid = [one for kind, of_atoms in structures.items() for one in of_atoms if one.is_solid(cells[kind])]
    solid = sorted(solid, key=lambda structure: -len(structure.moved))[:MOST_STRUCTURES]
    if not solid:
        return []
    n_atoms = float(np.mean([len(structure.first) for structure in solid]))
    n_copies = int(np.clip(ENVIRONMENTS / n_atoms, FEWEST_COPIES, MOST_COPIES))
    rng = np.random.default_rng(SEED)
    solid = solid[: max(n_copies // FEWEST_OF_EACH, 1)]
    each = n_copies // len(solid)
    return [copy for structure in solid for copy in structure.copies(each, rng)]


def _squares(vectors: Floats) -> Floats:
    return np.asarray(np.einsum("ij,ij->i", vectors, vectors))


def _full(atoms: Atoms) -> Floats:
    """(3, 3) cell vectors, with unit vectors where there are none."""
    return _completed(atoms.cell.array)


def _completed(cell: Floats) -> Floats:
    return np.asarray(complete_cell(cell))


def _fractional(atoms: Atoms) -> Floats:
    return np.linalg.solve(_full(atoms).T, atoms.positions.T).T


def _aligned(positions: Floats, onto: Floats) -> Floats:
    """Positions turned and moved onto others.

    Source: W. Kabsch, Acta Cryst. A 32, 922 (1976), doi:10.1107/S0567739476001873.
    """
    middle, target = positions.mean(axis=0), onto.mean(axis=0)
    u, _, vt = np.linalg.svd((positions - middle).T @ (onto - target))
    turn = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    turned: Floats = (positions - middle) @ u @ turn @ vt + target
    return turned
