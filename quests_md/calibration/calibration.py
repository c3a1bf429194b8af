"""Calibration: levels with a stated rate of false alarms."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import ArrayLike, NDArray

from quests_md.errors import MismatchError
from quests_md.reference import Reference

from .file import read, write
from .levels import ANY_ELEMENT, GUESS, Kind, Level, Mode, NullScores, kind_of, level_of
from .rate import BlockTimes, Per, check_checks, n_looks
from .sampling import SAMPLE_ATOMS
from .statistics import STATISTICS, check_statistics
from .words import level_line, many_groups, of_elements, promise_line

__all__ = ["Calibration"]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Levels for the numbers of a frame, at a joint rate of false alarms. Made by `calibrate` or `load`."""

    fingerprint: str
    """Fingerprint of the reference that it belongs to."""
    false_alarms: float
    """Asked rate of false alarms, per `per`, of all statistics together."""
    per: Per
    """"check", "ns" or "run"."""
    statistics: tuple[str, ...]
    """Names of the statistics that raise alarms and share the rate evenly."""
    nulls: tuple[NullScores, ...] = field(repr=False)
    """The null distributions of all statistics, in use or not."""
    atom_levels: Mapping[int, float] = field(repr=False)
    """The atom level, dH in nats above which `n_tail` counts an atom, per atomic number: a hundredth of the held-out
    environments exceeds it."""
    composition: Mapping[int, int] = field(repr=False)
    """Held-out environments of each atomic number."""
    n_groups: int
    """Groups of frames that were held out."""
    frame_atoms: int
    """Median number of environments of their frames."""
    how: str
    """How the scores were made, in words."""
    checks: int | None = None
    """Checks in a run, for per="run"."""
    times: BlockTimes = field(default_factory=BlockTimes)
    """Simulated time that a group covers, and that between its frames."""

    @property
    def kind(self) -> Kind:
        """What the levels are worth for one check of a frame as large as the calibration's: see `Level.kind`."""
        return kind_of(self.alarm_levels(self.typical_numbers(self.frame_atoms)))

    @property
    def counts_tail(self) -> bool:
        """Whether a statistic in use is of the environments above the atom level."""
        return any(STATISTICS[name].over == "tail" for name in self.statistics)

    def with_statistics(self, statistics: Sequence[str]) -> Self:
        """The same calibration with other statistics in use, which share the rate."""
        return replace(self, statistics=check_statistics(statistics))

    def levels(self, atoms: Atoms, checks: int | None = None, *, check_ps: float | None = None) -> NDArray[np.float64]:
        """Level of dH of each atom, (n_atoms,) in nats, for a system of this size and composition.

        Parameters
        ----------
        atoms
            The system.
        checks
            With per="ns" or "run": checks in that ns or run; default those of the calibration, else 1.
        check_ps
            Simulated time between checks in ps, of use with per="run".
        """
        return self.dh_levels(self.frame_levels(atoms.numbers, checks, check_ps=check_ps), atoms.numbers)

    def dh_levels(self, levels: Iterable[Level], numbers: ArrayLike) -> NDArray[np.float64]:
        """The level of dH of each atom, (n_atoms,) in nats, out of the levels of a frame."""
        of = {
            ANY_ELEMENT if level.element is None else atomic_numbers[level.element]: level.value
            for level in levels
            if level.statistic == "dh_max"
        }
        default = of.get(ANY_ELEMENT, max(of.values(), default=GUESS))  # of no consequence: unseen elements score inf
        return np.array([of.get(int(z), default) for z in np.asarray(numbers)], dtype=np.float64)

    def atom_level(self, numbers: ArrayLike) -> NDArray[np.float64]:
        """DH in nats above which an atom counts in `n_tail`, for each atomic number."""
        default = self.atom_levels.get(ANY_ELEMENT, GUESS)
        return np.array([self.atom_levels.get(int(z), default) for z in np.asarray(numbers)], dtype=np.float64)

    def frame_levels(
        self,
        numbers: ArrayLike,
        checks: int | None = None,
        *,
        check_ps: float | None = None,
        mode: Mode = "full",
    ) -> tuple[Level, ...]:
        """The levels of all statistics in use for frames of these atoms, and that of dH of each element in any case.

        The rate is shared evenly by the statistics, and within one by its elements or its two sides, so that all of
        them together keep it (union bound). `checks` of them, or as many blocks of correlated frames as that is, share
        it again with per="ns" and "run".

        Parameters
        ----------
        numbers
            (n_atoms,) atomic numbers of the centers of environments.
        checks, check_ps
            As in `levels`.
        mode
            How the frame is evaluated: mean, quantile and frame entropy are those of a sample in "proven".
        """
        check_checks(checks)
        z, counts = np.unique(np.asarray(numbers), return_counts=True)
        n_of = {chemical_symbols[int(a)]: int(n) for a, n in zip(z, counts, strict=True) if 0 <= a < 119}
        n_atoms, count = int(counts.sum()), self.looks(checks, check_ps)
        found: list[Level] = []
        for name in dict.fromkeys((*self.statistics, "dh_max")):
            statistic = STATISTICS[name]
            rate = self.false_alarms / (len(self.statistics) if name in self.statistics else 1)
            nulls = [n for n in self.nulls if n.statistic == name and n.values in (mode, "both")]
            nulls = [n for n in nulls if n.element is None or n.element in n_of]
            for null in nulls:
                n = n_atoms if null.element is None else n_of[null.element]
                if mode == "proven" and statistic.over == "sample":
                    n = min(n, SAMPLE_ATOMS)
                found.append(level_of(null, statistic.size, n, rate / len(nulls), count))
            if name == "dh_max" and not nulls:
                empty = NullScores(name, None, "above", "both", np.empty(0), np.empty(0, np.int64))
                found.append(level_of(empty, statistic.size, n_atoms, rate, count))
        return tuple(found)

    def alarm_levels(self, numbers: ArrayLike, checks: int | None = None, **options: Any) -> tuple[Level, ...]:
        """Those of `frame_levels` that raise alarms."""
        return tuple(
            level for level in self.frame_levels(numbers, checks, **options) if level.statistic in self.statistics
        )

    def typical_numbers(self, n_atoms: int) -> NDArray[np.int64]:
        """Atomic numbers of a system of `n_atoms` with the composition of the held-out environments."""
        if not self.composition:
            return np.zeros(n_atoms, np.int64)
        z = np.array(list(self.composition), dtype=np.int64)
        ends = np.cumsum(list(self.composition.values())) / sum(self.composition.values())
        return z[np.minimum(np.searchsorted(ends, (np.arange(n_atoms) + 0.5) / max(n_atoms, 1)), len(z) - 1)]

    def n_checks(self, checks: int | None = None) -> int:
        """Checks in the ns or run that the rate counts: `checks` if given, else those of the calibration, else 1."""
        return checks or self.checks or 1

    def n_sharing(self, checks: int | None = None) -> int:
        """Checks that share the rate where each is a look of its own: 1 if the rate counts checks, else `n_checks`."""
        return 1 if self.per == "check" else self.n_checks(checks)

    def looks(self, checks: int | None = None, check_ps: float | None = None) -> int:
        """Looks that share the rate: checks, or blocks of correlated checks if the blocks are fewer."""
        return n_looks(self.per, self.n_checks(checks), check_ps, self.times)

    def describe(
        self,
        atoms: int | ArrayLike | None = None,
        checks: int | None = None,
        *,
        check_ps: float | None = None,
        mode: Mode = "full",
    ) -> str:
        """What the levels are, how they were set, and what they promise and do not, in a few lines.

        Parameters
        ----------
        atoms
            Number of atoms of the system, or the atomic numbers of its atoms; default a frame of the calibration.
        checks, check_ps, mode
            As in `frame_levels`.
        """
        if atoms is None or np.ndim(atoms) == 0:
            numbers = self.typical_numbers(self.frame_atoms if atoms is None else int(atoms))  # type: ignore[arg-type]
        else:
            numbers = np.asarray(atoms)
        levels = self.alarm_levels(numbers, checks, check_ps=check_ps, mode=mode)
        unit, looks = {"check": "check", "ns": "nanosecond", "run": "run"}[self.per], self.looks(checks, check_ps)
        of = f"{unit} of {len(numbers)} atoms" + (f" ({looks} looks)" if looks > 1 else "")
        lines = [promise_line(levels, f"{self.false_alarms:.2g} false alarms per {of}")]
        lines += [f"  {level_line(level, len(numbers), self.n_groups)}" for level in levels]
        if self.n_groups < 2:
            lines.append(f"{many_groups(self.n_groups)} could be held out: add frames, or give frames= to calibrate")
        if self.counts_tail:
            values = of_elements(self.atom_levels)
            lines.append(f"atom level, which 1 % of the environments exceed: dH = {values} nats")
        lines.append(f"from {self.how}")
        lines.append("valid for new groups of frames like these, not for another temperature, phase or composition")
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration to a JSON file, whole or not at all."""
        write(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a calibration file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        FileFormatError
            If it is empty, torn, of another schema or not a calibration, or holds what no calibration does.
        """
        return cls(**read(path))

    def require(self, reference: Reference) -> None:
        """Raise MismatchError unless this calibration was made for that reference."""
        if self.fingerprint != reference.fingerprint:
            raise MismatchError(
                f"calibration: made for reference {self.fingerprint}, got reference {reference.fingerprint}; "
                "calibrate again with this reference"
            )
