"""Structures of one element to start molecular dynamics from: a crystal, its defects, surfaces, boundaries, and others.

Each function takes the lattice ("fcc" or "bcc") and the volume per atom of the crystal (Å^3), and returns periodic
Atoms labelled with the element; vacuum is a gap of `GAP` in the periodic cell.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bcc100, bcc110, bcc111, bulk, fcc100, fcc110, fcc111
from ase.cluster import Icosahedron
from ase.lattice.cubic import BodyCenteredCubic, FaceCenteredCubic
from ase.neighborlist import neighbor_list

__all__ = ["Crystal", "sheared"]

#: Å of vacuum; environments see 5 Å, the potentials up to 5.1 Å.
GAP = 14.0
#: Two atoms nearer than this share of the crystal's nearest distance are one, where two grains are put together.
OVERLAP = 0.7


@dataclass(frozen=True, slots=True)
class Crystal:
    """A crystal, and what can be made of it."""

    symbol: str
    """Chemical symbol."""
    lattice: str
    """ "fcc" or "bcc"."""
    volume: float
    """Å^3 per atom."""

    @property
    def is_fcc(self) -> bool:
        """Whether the lattice is fcc."""
        return self.lattice == "fcc"

    @property
    def a(self) -> float:
        """Lattice constant in Å."""
        return float(((4 if self.is_fcc else 2) * self.volume) ** (1 / 3))

    @property
    def nearest(self) -> float:
        """Distance of nearest neighbours in Å."""
        return float(self.a * (np.sqrt(2) if self.is_fcc else np.sqrt(3)) / 2)

    def perfect(self, *, large: bool = False, scale: float = 1.0) -> Atoms:
        """108 (fcc) or 128 (bcc) atoms, or 256 and 250; `scale` multiplies the lattice constant."""
        cells = (4 if large else 3) if self.is_fcc else (5 if large else 4)
        return bulk(self.symbol, self.lattice, a=scale * self.a, cubic=True) * (cells, cells, cells)

    def sheared(self, share: float) -> Atoms:
        """The perfect crystal, `sheared` by this share."""
        return sheared(self.perfect(), share)

    def stretched(self, share: float) -> Atoms:
        """Longer by this share along [100] alone."""
        atoms = self.perfect()
        atoms.set_cell(atoms.cell.array * [[1 + share], [1], [1]], scale_atoms=True)
        return atoms

    def other(self, lattice: str) -> Atoms:
        """Another crystal structure, hcp, fcc or bcc, at the same volume per atom; 96 to 128 atoms."""
        if lattice == "hcp":
            a = (self.volume * np.sqrt(2)) ** (1 / 3)
            cell = bulk(self.symbol, "hcp", a=a, c=a * np.sqrt(8 / 3), orthorhombic=True)
            return cell * (4, 3, 3)
        return Crystal(self.symbol, lattice, self.volume).perfect()

    def hole(self, n: int) -> Atoms:
        """The large crystal without an atom and the `n - 1` nearest to it; one or two atoms: from the small one."""
        atoms = self.perfect(large=n > 2)
        distances = atoms.get_distances(0, range(len(atoms)), mic=True)
        return atoms[np.sort(np.argsort(distances, kind="stable")[n:])]

    def interstitial(self) -> Atoms:
        """One atom split in two, along [100] (fcc) or [110] (bcc), 0.6 lattice constants apart."""
        atoms = self.perfect()
        half = 0.3 * self.a * (np.array([1.0, 0, 0]) if self.is_fcc else np.array([1.0, 1, 0]) / np.sqrt(2))
        atoms += atoms[:1]
        atoms.positions[0] += half
        atoms.positions[-1] -= half
        atoms.wrap()
        return atoms

    def slab(self, face: str) -> Atoms:
        """A slab with two surfaces (100), (110) or (111), 120 to 160 atoms."""
        make: dict[str, Callable[[], Atoms]] = {
            "fcc100": lambda: fcc100(self.symbol, (4, 4, 8), a=self.a),
            "fcc110": lambda: fcc110(self.symbol, (3, 4, 10), a=self.a),
            "fcc111": lambda: fcc111(self.symbol, (4, 4, 8), a=self.a, orthogonal=True),
            "bcc100": lambda: bcc100(self.symbol, (4, 4, 9), a=self.a),
            "bcc110": lambda: bcc110(self.symbol, (4, 4, 8), a=self.a, orthogonal=True),
            "bcc111": lambda: bcc111(self.symbol, (3, 4, 12), a=self.a, orthogonal=True),
        }
        atoms = make[self.lattice + face]()
        atoms.center(vacuum=GAP / 2, axis=2)
        return _plain(atoms)

    def adatoms(self) -> Atoms:
        """The slab (100) with four atoms in hollows of one surface, two of them neighbours."""
        if self.is_fcc:
            atoms = fcc100(self.symbol, (4, 4, 8), a=self.a)
        else:
            atoms = bcc100(self.symbol, (4, 4, 9), a=self.a)
        for place in ((0, 0), (1, 0), (2, 2), (0, 2)):
            add_adsorbate(atoms, self.symbol, self.a / 2, "hollow", offset=place)
        atoms.center(vacuum=GAP / 2, axis=2)
        return _plain(atoms)

    def stacking_fault(self) -> Atoms:
        """Layers (111) of fcc, ABCABCAB: the period of 8 layers closes with one intrinsic fault; 128 atoms."""
        return _plain(fcc111(self.symbol, (4, 4, 8), a=self.a, orthogonal=True, periodic=True))

    def twin(self) -> Atoms:
        """Two mirrored halves: (111) of fcc, (112) of bcc."""
        if self.is_fcc:
            return self._mirrored(((1, -1, 0), (1, 1, 1), (-1, -1, 2)), (4, 2, 2))
        return self._mirrored(((1, 1, -1), (1, 1, 2), (1, -1, 0)), (4, 1, 3))

    def tilt_boundary(self) -> Atoms:
        """Symmetric tilt boundaries, Sigma 5 about [001]: (310) of fcc, (210) of bcc; some 230 atoms."""
        y = (3, 1, 0) if self.is_fcc else (2, 1, 0)
        return self._mirrored(((y[1], -y[0], 0), y, (0, 0, 1)), (2, 2, 3))

    def twist_boundary(self) -> Atoms:
        """Twist boundaries (001), Sigma 5: two halves turned by 36.9 degrees, 5 layers each, 200 atoms."""
        y = (3, 1, 0) if self.is_fcc else (2, 1, 0)
        lower = self._oriented(((y[1], -y[0], 0), y, (0, 0, 1)), (2, 2, 3))
        lower = lower[lower.positions[:, 2] < 2.25 * self.a]
        upper = lower.copy()
        upper.positions[:, 0] *= -1
        thickness = 2.5 * self.a + 0.1 * self.nearest
        upper.positions[:, 2] += thickness
        both = lower + upper
        both.set_cell([*lower.cell.lengths()[:2], 2 * thickness])
        both.wrap()
        return both

    def dislocations(self) -> Atoms:
        """A dipole of edge dislocations: a block of n planes along the Burgers vector between blocks of n + 1."""
        axes = ((1, -1, 0), (1, 1, 1), (-1, -1, 2)) if self.is_fcc else ((1, 1, 1), (1, -1, 0), (1, 1, -2))
        many, few, heights = (14, 13, (2, 1)) if self.is_fcc else (13, 12, (2, 1))
        lower, upper = (self._oriented(axes, (n, h, 1)) for n, h in zip((many, few), heights, strict=True))
        x, height, z = lower.cell.lengths()
        length = x * (many + few) / (2 * many)
        for part in (lower, upper):
            part.set_cell([length, *part.cell.lengths()[1:]], scale_atoms=True)
        upper.positions[:, 1] += height
        both = lower + upper
        both.set_cell([length, height + upper.cell.lengths()[1], z])
        return both

    def icosahedron(self) -> Atoms:
        """147 atoms in vacuum, as near as in fcc of the same volume."""
        atoms = Icosahedron(self.symbol, 4, latticeconstant=(4 * self.volume) ** (1 / 3))
        atoms.center(vacuum=GAP / 2)
        return _plain(atoms)

    def ball(self) -> Atoms:
        """A sphere of some 150 atoms cut from the crystal, in vacuum."""
        atoms = bulk(self.symbol, self.lattice, a=self.a, cubic=True) * (6, 6, 6)
        radius = (150 * self.volume * 3 / (4 * np.pi)) ** (1 / 3)
        middle = atoms.positions[np.argmin(np.linalg.norm(atoms.positions - atoms.cell.sum(axis=0) / 2, axis=1))]
        atoms = atoms[np.linalg.norm(atoms.positions - middle, axis=1) < radius]
        atoms.center(vacuum=GAP / 2)
        return _plain(atoms)

    def _oriented(self, axes: tuple[tuple[int, ...], ...], size: tuple[int, int, int]) -> Atoms:
        """The crystal with these lattice directions along x, y and z."""
        make = FaceCenteredCubic if self.is_fcc else BodyCenteredCubic
        atoms = make(self.symbol, directions=[list(x) for x in axes], size=size, latticeconstant=self.a)
        atoms.positions += 1e-3
        atoms.wrap()
        return _plain(atoms)

    def _mirrored(self, axes: tuple[tuple[int, ...], ...], size: tuple[int, int, int]) -> Atoms:
        """A grain of `size` and its mirror image, stacked along y; the mirror planes hold atoms of both."""
        height = self._oriented(axes, size).cell.lengths()[1]
        grain = self._oriented(axes, (size[0], size[1] + 1, size[2]))
        grain.positions[:, 1] -= 1e-3
        grain = grain[grain.positions[:, 1] < height + 0.01]
        image = grain.copy()
        image.positions[:, 1] = 2 * height - image.positions[:, 1]
        both = grain + image
        x, _, z = grain.cell.lengths()
        both.set_cell([x, 2 * height, z])
        both.wrap()
        return _merged(both, OVERLAP * self.nearest)


def sheared(atoms: Atoms, share: float) -> Atoms:
    """The same atoms, the cell's second edge leaning by this share of its length along the first."""
    turned, cell = atoms.copy(), atoms.cell.array.copy()
    cell[1, 0] += share * cell[1, 1]
    turned.set_cell(cell, scale_atoms=True)
    return turned


def _plain(atoms: Atoms) -> Atoms:
    """The same in a periodic cell with edges along the axes, without notes of the builder."""
    return Atoms(atoms.symbols, positions=atoms.positions, cell=np.diag(atoms.cell.lengths()), pbc=True)


def _merged(atoms: Atoms, nearest: float) -> Atoms:
    """Without the second atom of each pair that is nearer than `nearest`."""
    gone: set[int] = set()
    for i, j in zip(*neighbor_list("ij", atoms, nearest), strict=True):
        if i < j and i not in gone:
            gone.add(int(j))
    return atoms[[i for i in range(len(atoms)) if i not in gone]]
