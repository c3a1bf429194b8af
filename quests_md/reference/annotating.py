"""What tools read of each atom: dH, and its grade, which is 1 exactly at the level of the atom."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from quests_md.environments import describe, results_at_hand, without_bias
from quests_md.records import AtomValues

from .query import KnownRows

__all__ = ["AnnotatingRows", "AtomLevels", "kept_results", "levels_are_opened_by", "with_atom_values"]

#: Names of the arrays, here and in every file.
DELTA_ENTROPY, GRADE = "delta_entropy", "dh_grade"


class GivesLevels(Protocol):
    """A `Calibration`, as far as it is asked here."""

    @property
    def lacks_dh(self) -> bool:
        """Whether it has no levels of dH."""

    def require(self, reference: Any, /) -> None:
        """Raise MismatchError unless it belongs to the reference."""

    def levels(self, atoms: Atoms, /) -> NDArray[np.float64]:
        """The level of dH of each atom, nats."""


#: How levels are read from a file. The room of calibrations, which stands on this one, puts its way here.
_openers: list[Callable[[str | os.PathLike[str]], GivesLevels]] = []


def levels_are_opened_by(open_levels: Callable[[str | os.PathLike[str]], GivesLevels]) -> None:
    """Say how levels are read where `annotate` is given the name of their file."""
    _openers.append(open_levels)


class AnnotatingRows(KnownRows):
    """Rows that say of each atom of a frame what other tools can read."""

    def annotate(
        self,
        atoms: Atoms,
        calibration: GivesLevels | str | os.PathLike[str] | None = None,
        *,
        threads: int | None = None,
    ) -> Atoms:
        """A copy of a frame with ``arrays["delta_entropy"]``, and ``arrays["dh_grade"]`` where there are levels.

        The grade is 1 exactly at the level of the atom, so that tools that compare an array with a number need no
        level. With d = dH - level in nats it is 1 + d above the level, and exp(d) below: the density of the reference
        at the level over that around the atom. The level is that of ``calibration.levels(atoms)``, for one check of
        this system. Atoms of elements that the reference has never seen have inf. Atoms that are no centers have dH
        NaN, as everywhere, and grade 0: nobody looks at them, and the largest grade is that of the others.

        Parameters
        ----------
        atoms
            The frame; not changed. Its energy, forces and other results go with the copy where its calculator has them
            already; nothing is calculated.
        calibration
            The levels, of this reference: ``calibrate(reference)``, or the name of their file. None: no grade.
        threads
            As in `delta_entropy`.

        Raises
        ------
        FileFormatError, OSError
            If the file of the levels cannot be read.
        FrameError
            If the frame cannot be described.
        MismatchError
            If the calibration is of another reference, or has no levels of dH.
        TypeError
            If `atoms` is not Atoms, or `calibration` no calibration.
        """
        if not isinstance(atoms, Atoms):
            raise TypeError(f"atoms: expected ase.Atoms, got {type(atoms).__name__}")
        if isinstance(calibration, str | os.PathLike):
            calibration = _openers[-1](calibration)
        if calibration is not None:
            if not hasattr(calibration, "levels") or not hasattr(calibration, "require"):
                raise TypeError(
                    f"calibration: expected a Calibration, got {type(calibration).__name__}; make one with "
                    "calibrate(reference) or Calibration.load(name)"
                )
            calibration.require(self)
        levels = None if calibration is None else levels_of(self, calibration, atoms.numbers)
        rows = describe(self.descriptor, atoms, threads)
        frame: Atoms = atoms.copy()
        frame.calc = kept_results(atoms, results_at_hand(atoms))
        return with_atom_values(frame, self.atom_values(rows, atoms.numbers, levels, threads=threads))

    def atom_values(
        self,
        rows: NDArray[np.float64],
        numbers: NDArray[Any],
        levels: NDArray[np.float64] | None = None,
        *,
        threads: int | None = None,
    ) -> AtomValues:
        """Values of the atoms whose descriptor rows (n, width) and atomic numbers (n,) these are.

        `levels`: (n,) nats, of atoms that are centers. A grade is above 1 exactly where dH is above in float64.
        """
        if levels is None:
            return AtomValues(self.evaluate(rows, numbers, threads=threads), None)
        dh = self.evaluate(rows, numbers, levels=[levels], threads=threads)
        return AtomValues(dh, _grades(dh, levels, self.is_center(numbers)))


class AtomLevels:
    """The levels of the atoms of frames, found once for all frames in a row that have the same elements.

    `calibration` None, or one without levels of dH: there are none.
    """

    def __init__(self, known: AnnotatingRows, calibration: GivesLevels | None) -> None:
        self._known = known
        self._calibration = None if calibration is None or calibration.lacks_dh else calibration
        self._last: tuple[NDArray[Any], NDArray[np.float64]] | None = None

    @property
    def has_levels(self) -> bool:
        """Whether there are levels of dH."""
        return self._calibration is not None

    def of(self, numbers: NDArray[Any]) -> NDArray[np.float64] | None:
        """(n_atoms,) levels of atoms of these atomic numbers, nats."""
        if self._calibration is None:
            return None
        last = self._last  # another thread may put another one in its place
        if last is None or not np.array_equal(last[0], numbers):
            last = self._last = np.array(numbers), levels_of(self._known, self._calibration, numbers)
        return last[1]

    def values(self, rows: NDArray[np.float64], numbers: NDArray[Any], threads: int | None) -> AtomValues:
        """Values of atoms by their descriptor rows (n_atoms, width)."""
        return self._known.atom_values(rows, numbers, self.of(numbers), threads=threads)

    def values_by(
        self, evaluate: Callable[[tuple[NDArray[np.float64], ...]], NDArray[np.float64]], numbers: NDArray[Any]
    ) -> AtomValues:
        """The same of atoms whose rows are elsewhere, all of which are centers: `evaluate` finds dH beside levels."""
        levels = self.of(numbers)
        dh = evaluate(() if levels is None else (levels,))
        return AtomValues(dh, None if levels is None else _grades(dh, levels, self._known.is_center(numbers)))

    def values_of_lost(self, n_atoms: int) -> AtomValues:
        """Values of the atoms of a frame that cannot be described."""
        return AtomValues.lost(n_atoms, has_levels=self.has_levels)


def with_atom_values(frame: Atoms, values: AtomValues) -> Atoms:
    """The same frame with its values as arrays; a grade of the frame that is not one of these is gone."""
    frame.arrays.pop(GRADE, None)
    for name, array in ((DELTA_ENTROPY, values.dh), (GRADE, values.grade)):
        if array is not None:
            frame.arrays[name] = array.copy()  # whatever an array of that name was before
    return frame


def levels_of(known: KnownRows, calibration: GivesLevels, numbers: NDArray[Any]) -> NDArray[np.float64]:
    """(n_atoms,) levels of dH; NaN for atoms that are no centers, which count in nothing, nor in the size."""
    is_center = known.is_center(numbers)
    levels = np.full(len(numbers), np.nan)
    if is_center.any():
        levels[is_center] = calibration.levels(Atoms(numbers=np.asarray(numbers)[is_center]))
    return levels


def _grades(dh: NDArray[np.float64], levels: NDArray[np.float64], is_center: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n_atoms,) grades, which compare with 1 as dH with the level, and are 0 for atoms that are no centers alone."""
    beyond = np.full(len(dh), np.inf)
    finite = np.isfinite(dh)
    beyond[finite] = dh[finite] - levels[finite]
    below = np.clip(np.exp(np.minimum(beyond, 0)), np.finfo(float).tiny, np.nextafter(1, 0))
    above = np.maximum(1 + np.maximum(beyond, 0), np.nextafter(1, 2))  # the least bit beyond is not lost
    grades = np.where(beyond > 0, above, np.where(beyond < 0, below, 1.0))
    return np.where(is_center, grades, 0.0)


def kept_results(atoms: Atoms, results: Mapping[str, Any]) -> SinglePointCalculator | None:
    """A calculator that has the results of a frame, without a bias; None: there is none that a frame can keep."""
    known = {name: value for name, value in without_bias(results).items() if name in all_properties}
    try:
        return SinglePointCalculator(atoms, **known) if known else None
    except (TypeError, ValueError):  # a foreign calculator may hold anything
        return None
