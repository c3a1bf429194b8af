"""The QUESTS descriptor: one row of numbers per atomic environment, its neighbours resolved by element or not."""

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import ArrayLike, NDArray

from quests_md._arguments import check_positive_integer, is_number
from quests_md._threads import available_threads
from quests_md.engine import BANDWIDTH
from quests_md.errors import UnsuitableFrameError

from .element_vectors import N_CHANNELS, element_vectors
from .facts import element_symbol
from .rows_on_grid import HowRows, RowsOnGrid

__all__ = ["AVERAGED_SHARE", "BothRows", "Descriptor", "RowsOfShare", "Wrapped"]

#: Neighbours over which rows are averaged where both scales are asked for.
AVERAGE = 12

#: Bandwidth of averaged rows over that of plain rows. Thermal noise falls about as much: by less than sqrt(13), since
#: rows of neighbours are correlated.
AVERAGED_SHARE = 0.4

#: Most neighbours and most numbers per row; 32 neighbours of each of 118 elements stay below. With more a file of a
#: hundred bytes could ask for gigabytes of memory at the first frame.
MOST_NEIGHBORS, WIDEST_ROW = 1024, 2**18


class BothRows(NamedTuple):
    """The two scales of a frame: rows, and rows averaged over neighbours."""

    plain: NDArray[np.float64]
    """(n_atoms, width) the rows of the descriptor, 1/Å; NaN for atoms that are no centers."""
    averaged: NDArray[np.float64] | None
    """(n_atoms, width) averaged rows, 1/Å; the very array `plain` where the two are the same; None: there are none."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Rows that describe the surroundings of each atom by its k nearest neighbours.

    A row is ``[X1, X2]`` with 2k - 1 numbers in 1/Å. With w(r) = (1 - (r/r_c)^2)^2 inside the cutoff r_c and 0 beyond,
    X1 holds w(r_ij)/r_ij of the k nearest neighbours in order of distance, X2 the rank-by-rank mean of the sorted rows
    of the matrix sqrt(w_ij w_il)/r_jl between them. Blind to chemistry; invariant to rotation, translation, atom order
    and supercell, on perfect lattices too: ties at the k-th neighbour are broken by distances alone.

    With m `elements` the neighbours are resolved: ``[X1_a, X2_aa, X1_b, X2_bb, ..., X2_ab, X2_ac, ..., X2_bc, ...]``
    with m(2k - 1) + m(m - 1)/2 k numbers, elements in the order of atomic numbers. X1_a and X2_aa are made as above
    from the k nearest neighbours of element a alone. X2_ab (k numbers) is the mean of two halves: the rank-by-rank mean
    of the sorted rows of the matrix sqrt(w_ij w_il)/r_jl with j among the k nearest of a and l among the k nearest of
    b, and the same of the transposed matrix; the divisor is always k. One element gives the plain row. The row does not
    tell the element of the atom itself: match="element" of a reference compares atoms of one element only. Distances
    between rows grow with m: see docs/design.md for the bandwidth.

    With `chemistry` the plain row is followed by 12 ceil(k/3) numbers in 1/Å, for any number of elements: ``[X1, X2,
    C_1+, C_1-, ..., C_6+, C_6-]``. With fixed vectors e of 6 numbers for the elements, C_c+ holds the ceil(k/3) largest
    positive values (e_jc - e_ic) (1 - (r_ij/r_c)^2)/r_c of all neighbours within the cutoff, descending, C_c- the most
    negative ones, ascending; zeros where there are fewer. They see which elements sit at which distance; among equal
    atoms they are 0, so that distances between rows of a frame of one element are those of plain rows. As they
    compare neighbours with the atom itself, match="element" belongs to them. They do not see which neighbours of one
    distance are next to each other (cis or trans): rows of these neighbours do. Ordered compounds keep the bandwidth of
    plain rows; for m elements that mix at random 0.02 sqrt(m) 1/Å is about right: the default does not know of it,
    pre-flight says so.

    With `average` = n the row of an atom is the mean of the row above of itself and of its n nearest neighbours inside
    the cutoff, fewer where there are fewer: thermal noise falls, what neighbours have in common stays. Each periodic
    image counts as a neighbour. Neighbours tied at the n-th distance share the places that are left, so that averaged
    rows are as invariant as plain rows. Averaged are rows of centers that are seen as neighbours, of any element.

    Parameters
    ----------
    k
        Number of neighbours; with `elements` the number of neighbours of each element.
    cutoff
        Radius r_c in Å. Neighbours beyond it contribute nothing.
    elements
        Symbols of the elements by which neighbours are resolved, in any order. A frame with an atom of another element
        is refused, unless `neighbors` says that others are to be ignored.
    centers
        Symbols of the elements whose atoms have a row; rows of all others are NaN. None: all.
    neighbors
        Symbols of the elements whose atoms are seen as neighbours; all others are as if they were not there. None:
        all. Together with `elements` it must name the same ones.
    average
        Number of nearest neighbours over whose rows, and its own, the row of an atom is averaged; 12 is a good number.
        None: plain rows.
    chemistry
        Whether rows tell elements apart in a width that does not depend on their number. Not with `elements`.

    Raises
    ------
    ValueError, TypeError
        If `k` or `average` is not an integer from 1 to 1024, `cutoff` not a positive finite number, `elements`,
        `centers` or `neighbors` not a tuple of different chemical symbols, a row would have more than 2^18 numbers, or
        `average` is set and no center is seen as a neighbour.

    References
    ----------
    D. Schwalbe-Koda et al., Nat. Commun. 16, 4014 (2025), doi:10.1038/s41467-025-59232-0, Methods (without elements).
    W. Lechner, C. Dellago, J. Chem. Phys. 129, 114707 (2008), doi:10.1063/1.2977970 (averaged bond order parameters).

    Examples
    --------
    >>> from ase.build import bulk
    >>> Descriptor()(bulk("Cu", "fcc", a=3.58)).shape
    (1, 63)
    >>> salt = bulk("NaCl", "rocksalt", a=5.64)
    >>> Descriptor(elements=("Na", "Cl"))(salt).shape
    (2, 158)
    >>> Descriptor(k=2, centers=("Cl",), neighbors=("Cl",))(salt).round(3)
    array([[  nan,   nan,   nan],
           [0.033, 0.033, 0.033]])
    """

    k: int = 32
    cutoff: float = 5.0
    elements: tuple[str, ...] | None = field(default=None, kw_only=True)
    centers: tuple[str, ...] | None = field(default=None, kw_only=True)
    neighbors: tuple[str, ...] | None = field(default=None, kw_only=True)
    average: int | None = field(default=None, kw_only=True)
    chemistry: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        wrong_type = ValueError if isinstance(self.k, float) else TypeError
        k = check_positive_integer("k", self.k, most=MOST_NEIGHBORS, wrong_type=wrong_type)
        if not is_number(self.cutoff):
            raise TypeError(f"cutoff: expected a positive number in Å, got {self.cutoff!r}")
        if not 0 < self.cutoff <= sys.float_info.max:
            raise ValueError(f"cutoff: expected a positive finite number in Å, got {self.cutoff!r}")
        if self.average is not None:
            average = check_positive_integer("average", self.average, most=MOST_NEIGHBORS)
            object.__setattr__(self, "average", average)
        object.__setattr__(self, "k", k)
        object.__setattr__(self, "cutoff", float(self.cutoff))
        for argument in ("elements", "centers", "neighbors"):
            object.__setattr__(self, argument, _checked_symbols(argument, getattr(self, argument)))
        if self.elements and self.neighbors and self.elements != self.neighbors:
            what = f"expected the same as elements, {self.elements!r}, got {self.neighbors!r}; neighbours that"
            raise ValueError(f"neighbors: {what} are seen are resolved, so name in `elements` what shall be seen")
        if self.average and not self.sees_centers:
            what = f"that is in centers, {self.centers!r}, and in neighbors, {self.neighbors!r}, got none"
            raise ValueError(f"average: expected an element {what}: only rows of neighbours that are seen are averaged")
        if not isinstance(self.chemistry, bool):
            raise TypeError(f"chemistry: expected True or False, got {self.chemistry!r}")
        if self.chemistry and self.elements:
            raise ValueError("chemistry: expected False with elements, which resolve chemistry already; leave one out")
        if self.width > WIDEST_ROW:
            raise ValueError(f"k: expected at most {WIDEST_ROW} numbers per row, got {self.width} with k = {self.k}")

    @property
    def width(self) -> int:
        """Numbers per row: 2k - 1, with m elements m(2k - 1) + m(m - 1)/2 k, with chemistry 2k - 1 + 12 ceil(k/3)."""
        m = len(self.elements) if self.elements else 1
        chemical = 2 * N_CHANNELS * self._n_kept if self.chemistry else 0
        return m * (2 * self.k - 1) + m * (m - 1) // 2 * self.k + chemical

    @property
    def _n_kept(self) -> int:
        """Values of each sign kept in each channel of chemistry."""
        return -(-self.k // 3)

    @property
    def sees_centers(self) -> bool:
        """Whether atoms that have a row are seen as neighbours, so that rows can be averaged over neighbours."""
        return not (self.centers and self.neighbors) or bool(set(self.centers) & set(self.neighbors))

    @property
    def settings(self) -> dict[str, Any]:
        """`k`, `cutoff` and whatever else is set, as JSON can hold them, for `Descriptor(**settings)`."""
        restrictions = {name: getattr(self, name) for name in ("elements", "centers", "neighbors")}
        chosen = {name: list(symbols) for name, symbols in restrictions.items() if symbols is not None}
        averaged = {} if self.average is None else {"average": self.average}
        chemical = {"chemistry": True} if self.chemistry else {}
        return {"k": self.k, "cutoff": self.cutoff, **chosen, **averaged, **chemical}

    @property
    def bandwidth(self) -> float:
        """Bandwidth h in 1/Å that a reference uses unless told otherwise: 0.015, for averaged rows 0.006."""
        return BANDWIDTH if self.average is None else AVERAGED_SHARE * BANDWIDTH

    @property
    def fingerprint(self) -> str:
        """Short text that is equal exactly for descriptors that give equal rows."""
        values = {name: ",".join(x) if isinstance(x, list) else repr(x) for name, x in self.settings.items()}
        text = "quests " + " ".join(f"{name}={value}" for name, value in values.items())
        return f"quests-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"

    def is_center(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether atoms of each atomic number have a row."""
        return _is_among(numbers, self.centers)

    def is_neighbor(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether atoms of each atomic number are seen as neighbours."""
        return _is_among(numbers, self.neighbors)

    def __call__(self, atoms: Atoms, *, threads: int | None = None) -> NDArray[np.float64]:
        """Rows of all atoms of a frame, which is not changed.

        Parameters
        ----------
        atoms
            The frame: any mix of periodic directions, any cell that is not flat along them.
        threads
            Threads to use; default the cores that the process may use, or QUESTS_MD_THREADS. Never changes the result.

        Returns
        -------
        rows
            (n_atoms, width) float64, in 1/Å; NaN for atoms that are no centers.

        Raises
        ------
        FrameError
            If a position or cell vector is not finite, or the cell is zero or flat along its periodic directions.
        UnsuitableFrameError
            If the frame holds an element that is not in `elements` (and not to be ignored).
        """
        return self._described(atoms, self.average, threads).plain

    def both_scales(self, atoms: Atoms, *, threads: int | None = None) -> BothRows:
        """Rows of a frame as they are, and averaged over 12 neighbours, in one pass.

        Rows that are averaged already, and those of centers none of which is seen as a neighbour, are given as both.
        Parameters and errors as for rows alone.
        """
        return self._described(atoms, AVERAGE if self.average is None and self.sees_centers else self.average, threads)

    def _described(self, atoms: Atoms, n_average: int | None, threads: int | None) -> BothRows:
        """Rows with the `average` of this descriptor, beside them their averages over `n_average` neighbours."""
        n_threads = available_threads(threads)
        rows = np.full((len(atoms), self.width), np.nan)
        how = self._how(atoms)
        if len(atoms) == 0:
            return BothRows(rows, rows)
        on_grid = RowsOnGrid(atoms, how)
        keep, order = n_average is not None, on_grid.order
        kept = on_grid.fill(rows if self.average is None else None, order, n_threads, keep=keep)
        if kept is None or n_average is None:
            return BothRows(rows, rows)
        averaged = np.full_like(rows, np.nan) if self.average is None else rows
        on_grid.average(n_average, kept, averaged, order, n_threads)
        return BothRows(rows, averaged)

    def share(
        self, atoms: Atoms, own: NDArray[np.int64], *, both: bool = True, threads: int | None = None
    ) -> "RowsOfShare":
        """Rows of some atoms of a frame, all of which are centers; see `RowsOfShare`.

        `own`: the atoms, ascending; `both`: whether averaged rows are wanted beside plain ones. Errors as for rows of
        all.
        """
        n_average = AVERAGE if both and self.average is None and self.sees_centers else self.average
        return RowsOfShare(RowsOnGrid(atoms, self._how(atoms), own), own, self.average, n_average, threads)

    def _how(self, atoms: Atoms) -> HowRows:
        """How the rows of a frame are made."""
        numbers = np.asarray(atoms.numbers)
        seen = self.is_neighbor(numbers)
        return HowRows(
            k=self.k,
            cutoff=self.cutoff,
            width=self.width,
            n_species=len(self.elements) if self.elements else 1,
            kinds=self._kinds(numbers, seen),
            seen=seen,
            centers=self.is_center(numbers),
            vectors=element_vectors(np.unique(numbers)) if self.chemistry else None,
            n_kept=self._n_kept,
        )

    def are_apart(self, rows: NDArray[np.float64], distance: float) -> bool:
        """Whether rows (n_atoms, width) of a whole frame show that no two atoms or images are within a distance in Å.

        The first number of a row is w(r)/r of the nearest neighbour (of each element, where these are told apart),
        which falls with r. False as well where rows do not tell: averaged ones, and those that do not see all atoms.
        """
        if self.average is not None or self.centers or self.neighbors or not 0 < distance < self.cutoff:
            return False
        n_lists, length = len(self.elements) if self.elements else 1, 2 * self.k - 1
        limit = (1 - (distance / self.cutoff) ** 2) ** 2 / distance
        return bool(rows[:, : n_lists * length : length].max(initial=0.0) < limit * (1 - 1e-9))

    def require_elements(self, numbers: NDArray[Any]) -> None:
        """Raise UnsuitableFrameError if an atom that is seen is of none of the `elements`."""
        self._kinds(numbers, self.is_neighbor(numbers))

    def _kinds(self, numbers: NDArray[Any], seen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Place of each atom in `elements`, which must hold all that are seen, or among the elements of the frame.

        The latter with `chemistry`; 0 with neither.
        """
        if self.chemistry:
            return np.unique(numbers, return_inverse=True)[1]
        if self.elements is None:
            return np.zeros(len(numbers), np.int64)
        known = np.array([atomic_numbers[symbol] for symbol in self.elements])  # ascending
        kinds = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        strange = np.flatnonzero(seen & (known[kinds] != numbers))
        if len(strange):
            i = int(strange[0])
            symbol = element_symbol(numbers[i])
            raise UnsuitableFrameError(
                f"elements: expected atoms of {', '.join(self.elements)}, got {symbol} for atom {i}"
                f"{f' and {len(strange) - 1} more atoms' if len(strange) > 1 else ''}; add {symbol!r} to the elements "
                f"of the descriptor, or ignore it on purpose by neighbors={self.elements!r}"
            )
        return kinds


class RowsOfShare:
    """Rows of a share of the atoms of a frame, made by one of several processes.

    Averages need the rows of neighbours that others have: `others` says of which atoms, `average` takes them.
    """

    def __init__(
        self,
        on_grid: RowsOnGrid,
        own: NDArray[np.int64],
        plain_average: int | None,
        n_average: int | None,
        threads: int | None,
    ) -> None:
        self._on_grid, self._n_threads = on_grid, available_threads(threads)
        self._plain_average, self._n_average = plain_average, n_average
        self._places = np.searchsorted(own, on_grid.order)
        filled = np.empty((len(own), on_grid.width))
        self._kept = on_grid.fill(filled, self._places, self._n_threads, keep=n_average is not None)
        self.filled = filled
        """(n_own, width) rows that are not averaged, for others to average."""
        self.others = np.empty(0, np.int64) if n_average is None else on_grid.around()
        """Atoms of others whose rows `average` needs, ascending."""

    def both(self, of_others: NDArray[np.float64]) -> BothRows:
        """Rows (n_own, width) at both scales; `of_others`: the rows `filled` of `others`."""
        if self._n_average is None or self._kept is None:
            return BothRows(self.filled, self.filled)
        averaged = np.empty_like(self.filled)
        rows = np.concatenate([self._kept, of_others])
        self._on_grid.average(self._n_average, rows, averaged, self._places, self._n_threads, self.others)
        return BothRows(averaged if self._plain_average is not None else self.filled, averaged)


class Wrapped(ABC):
    """What descriptors share that describe another frame than the given one by a `Descriptor`, which they hold."""

    def __init__(self, descriptor: Descriptor | None) -> None:
        if descriptor is not None and not isinstance(descriptor, Descriptor):
            raise TypeError(f"descriptor: expected a Descriptor, got {descriptor!r}")
        self.descriptor = Descriptor() if descriptor is None else descriptor

    @property
    def width(self) -> int:
        """See `Descriptor`, as for the methods."""
        return self.descriptor.width

    def is_center(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether atoms of each atomic number have a row."""
        return self.descriptor.is_center(numbers)

    def is_neighbor(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether atoms of each atomic number are seen as neighbours."""
        return self.descriptor.is_neighbor(numbers)

    @abstractmethod
    def described(self, atoms: Atoms) -> Atoms:
        """The frame that is described in the place of the given one."""

    def __call__(self, atoms: Atoms) -> NDArray[np.float64]:
        """Rows (n_atoms, width) in 1/Å of the frame that is described; raises as `described` and as `Descriptor`."""
        return self.descriptor(self.described(atoms))

    def both_scales(self, atoms: Atoms, *, threads: int | None = None) -> BothRows:
        """Rows of the frame that is described as they are, and averaged: see `Descriptor`."""
        return self.descriptor.both_scales(self.described(atoms), threads=threads)


def _is_among(numbers: ArrayLike, symbols: tuple[str, ...] | None) -> NDArray[np.bool_]:
    z = np.asarray(numbers)
    if symbols is None:
        return np.ones(z.shape, dtype=bool)
    return np.isin(z, [atomic_numbers[symbol] for symbol in symbols])


def _checked_symbols(argument: str, symbols: Any) -> tuple[str, ...] | None:
    """Different chemical symbols by atomic number, or an error that names the argument."""
    if symbols is None:
        return None
    if isinstance(symbols, str) or not isinstance(symbols, Iterable):
        raise TypeError(f'{argument}: expected a tuple of chemical symbols such as ("Si", "O"), got {symbols!r}')
    given = tuple(symbols)
    if not given:
        raise ValueError(f"{argument}: expected at least one chemical symbol, got none; leave it out to mean all")
    for symbol in given:
        if not isinstance(symbol, str) or atomic_numbers.get(symbol, 0) < 1:
            raise ValueError(f"{argument}: expected chemical symbols, got {symbol!r}")
    if len(set(given)) < len(given):
        raise ValueError(f"{argument}: expected different elements, got {given!r}")
    return tuple(sorted((str(symbol) for symbol in given), key=lambda symbol: atomic_numbers[symbol]))
