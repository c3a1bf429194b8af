"""Calibration: levels with a stated rate of false alarms."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import ArrayLike, NDArray

from quests_md.errors import MismatchError
from quests_md.reference import GivenReference, opened_reference

from .carrying import carried
from .file import read, write
from .frame_levels import is_never_out, sharing_levels
from .landmarks import Landmarks
from .levels import (
    ANY_ELEMENT,
    FEWEST_OF_ELEMENT,
    GUESS,
    BlockTimes,
    Kind,
    Level,
    Mode,
    NullScores,
    Per,
    kind_of,
    pooled,
    without_groups,
)
from .origin import Origin
from .plain_scores import require_scores
from .statistics import STATISTICS, check_statistics, require_rows
from .wording import lines_of

__all__ = ["WITH_LABELS", "Calibration", "TypicalFrame", "check_checks"]

PS_PER_NS = 1000.0

#: The class of calibrations whose file holds labels, by that word: entered by its module, which the room imports.
WITH_LABELS: "dict[str, type[Calibration]]" = {}


@dataclass(frozen=True, slots=True)
class TypicalFrame:
    """What held-out frames are made of."""

    n_atoms: int
    """Median number of environments of a frame."""
    composition: Mapping[int, int] = field(repr=False)
    """Environments of each atomic number in all frames."""
    groups_of: Mapping[int, tuple[int, ...]] = field(default_factory=dict, repr=False)
    """Groups whose frames have each atomic number, 0: any; empty where scores of dH tell it, see `lacks_dh`."""

    def numbers(self, n_atoms: int | None = None) -> NDArray[np.int64]:
        """Atomic numbers of a frame of `n_atoms`, default the median, with the composition of all."""
        n_atoms = self.n_atoms if n_atoms is None else n_atoms
        if not self.composition:
            return np.zeros(n_atoms, np.int64)
        z = np.array(list(self.composition), dtype=np.int64)
        ends = np.cumsum(list(self.composition.values())) / sum(self.composition.values())
        return z[np.minimum(np.searchsorted(ends, (np.arange(n_atoms) + 0.5) / max(n_atoms, 1)), len(z) - 1)]


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
    typical: TypicalFrame
    """What the held-out frames are made of."""
    n_groups: int
    """Groups of frames that were held out."""
    origin: Origin = field(repr=False)
    """Where the scores come from."""
    checks: int | None = None
    """Checks in a run, for per="run"."""
    times: BlockTimes = field(default_factory=BlockTimes)
    """Simulated time that a group covers, and between its frames."""
    landmarks: Landmarks | None = field(default=None, repr=False)
    """The landmarks of local scores; None: there are no averaged rows."""

    @property
    def how(self) -> str:
        """How the levels were made, in words."""
        return self.origin.in_words(self.fingerprint)

    @property
    def kind(self) -> Kind:
        """What the levels are worth for one check of a frame as large as the calibration's: see `Level.kind`."""
        return kind_of(self.alarm_levels(self.typical.numbers()))

    @property
    def lacks_dh(self) -> bool:
        """Whether dH of plain rows was not scored: it raises no alarm, and the reference is large."""
        return bool(self.typical.groups_of)

    @property
    def counts_tail(self) -> bool:
        """Whether a statistic in use is of the environments above the atom level."""
        return any(STATISTICS[name].over == "tail" and STATISTICS[name].scale == "plain" for name in self.statistics)

    @property
    def is_plain(self) -> bool:
        """Whether a statistic in use is of dH of plain rows."""
        return any(STATISTICS[name].scale == "plain" for name in self.statistics)

    @property
    def is_local(self) -> bool:
        """Whether a statistic in use is of local scores."""
        return any(STATISTICS[name].scale == "averaged" for name in self.statistics)

    def with_statistics(self, statistics: Sequence[str]) -> Self:
        """The same calibration with other statistics in use, which share the rate.

        Raises ValueError for names that are none, and MismatchError for statistics of dH where `lacks_dh` is true.
        """
        chosen = check_statistics(statistics)
        require_scores(chosen, self.lacks_dh)
        return replace(self, statistics=chosen)

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

        Raises MismatchError if `lacks_dh` is true.
        """
        require_scores(["dh_max"], self.lacks_dh)
        return self.dh_levels(self.frame_levels(atoms.numbers, checks, check_ps=check_ps), atoms.numbers)

    def dh_levels(self, levels: Iterable[Level], numbers: ArrayLike) -> NDArray[np.float64]:
        """The level of dH of each atom, (n_atoms,) in nats, out of the levels of a frame."""
        own = [level for level in levels if level.statistic == "dh_max"]
        of = {ANY_ELEMENT if level.element is None else atomic_numbers[level.element]: level.value for level in own}
        default = of.get(ANY_ELEMENT, max(of.values(), default=GUESS))  # of no consequence: unseen elements score inf
        return np.array([of.get(int(z), default) for z in np.asarray(numbers)], dtype=np.float64)

    def atom_level(self, numbers: ArrayLike) -> NDArray[np.float64]:
        """DH in nats above which an atom counts in `n_tail`, (n,) for as many atomic numbers; NaN: not scored."""
        default = math.nan if self.lacks_dh else self.atom_levels.get(ANY_ELEMENT, GUESS)
        return np.array([self.atom_levels.get(int(z), default) for z in np.asarray(numbers)], dtype=np.float64)

    def frame_levels(
        self, numbers: ArrayLike, checks: int | None = None, *, check_ps: float | None = None, mode: Mode = "full"
    ) -> tuple[Level, ...]:
        """The levels of all statistics in use for frames of these atoms, and that of dH of each element in any case.

        The statistics, with their elements and sides, share the rate so that all of them together keep it: by how often
        held-out groups are out by several of them (see `sharing_of`). A count whose level no held-out frame and no
        frame of so many atoms can exceed takes no part of the rate from the others. `checks`, or as many blocks of
        correlated frames as that is, share it again with per="ns" and "run".

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
        foreign = self._groups_of_others(n_of)
        of = {name: self._nulls_of(name, n_of, foreign, mode) for name in dict.fromkeys((*self.statistics, "dh_max"))}

        def levels_where(sharing_names: Sequence[str]) -> list[Level]:
            return sharing_levels(of, sharing_names, self.false_alarms, n_of, n_atoms, count, mode)

        found = levels_where(self.statistics)
        # for one size only, groups of another size would have other levels, and the joint rate would not be kept
        largest = {
            name: max((int(null.sizes.max(initial=0)) for null in nulls), default=0) for name, nulls in of.items()
        }
        idle = {
            level.statistic
            for level in found
            if level.statistic in self.statistics and is_never_out(level, max(n_atoms, largest[level.statistic]))
        }
        if idle and (others := [name for name in self.statistics if name not in idle]):
            again = [level for level in levels_where(others) if level.statistic not in idle]
            kept = [replace(level, weight=0.0) for level in found if level.statistic in idle]
            found = sorted([*again, *kept], key=lambda level: list(of).index(level.statistic))
        if self.why_unpromised(numbers) is not None:
            found = [replace(level, kind="none", rate=1.0) for level in found]
        return tuple(found)

    def why_unpromised(self, numbers: ArrayLike) -> str | None:
        """Why nothing is promised for frames with these atoms, whatever the number of groups; None: it may be."""
        unscored = []
        is_by_element = any(null.element is not None for null in self.nulls) or any(self.typical.groups_of)
        if is_by_element and self.typical.composition:
            unscored = [int(z) for z in np.unique(np.asarray(numbers)) if int(z) not in self.typical.composition]
        if unscored:
            names = ", ".join(chemical_symbols[z] if 0 <= z < len(chemical_symbols) else str(z) for z in unscored)
            return f"since no frame that sets levels has {names}"
        return self.origin.why_unpromised(self.fingerprint)

    def _nulls_of(self, name: str, n_of: Mapping[str, int], foreign: NDArray[np.int64], mode: Mode) -> list[NullScores]:
        """The null distributions of a statistic for a frame with so many atoms of each element.

        `foreign`: groups with an element that the frame does not have.
        """
        nulls = [null for null in self.nulls if null.statistic == name and null.values in (mode, "both")]
        nulls = [
            pooled(null, nulls) if null.element is not None and len(null.scores) < FEWEST_OF_ELEMENT else null
            for null in nulls
            if null.element is None or null.element in n_of
        ]
        nulls = [without_groups(null, foreign) for null in nulls]
        if not nulls and (name == "dh_max" or STATISTICS[name].scale == "averaged"):  # then the level is a guess
            nulls = [NullScores(name, None, "above", "both", np.empty(0), np.empty(0, np.int64))]
        return nulls

    def _groups_of_others(self, n_of: Mapping[str, int]) -> NDArray[np.int64]:
        """Groups with an element that the frame does not have, as far as groups of elements are known."""
        others = [null.groups for null in self.nulls if null.element not in (None, *n_of) and null.groups is not None]
        others += [
            np.array(of, np.int64) for z, of in self.typical.groups_of.items() if z and chemical_symbols[z] not in n_of
        ]
        return np.unique(np.concatenate(others)) if others else np.empty(0, np.int64)

    def alarm_levels(self, numbers: ArrayLike, checks: int | None = None, **options: Any) -> tuple[Level, ...]:
        """The levels of `frame_levels` that raise alarms."""
        levels = self.frame_levels(numbers, checks, **options)
        return tuple(level for level in levels if level.statistic in self.statistics)

    def n_checks(self, checks: int | None = None) -> int:
        """Checks in the ns or run that the rate counts: `checks` if given, else those of the calibration, else 1."""
        return checks or self.checks or 1

    def n_sharing(self, checks: int | None = None) -> int:
        """Checks that share the rate where each is a look of its own: 1 if the rate counts checks, else `n_checks`."""
        return 1 if self.per == "check" else self.n_checks(checks)

    def counts_checks(self, checks: int | None = None) -> bool:
        """Whether levels are of single checks: the rate counts them, or how many a ns or run has is not known."""
        return self.per == "check" or (checks or self.checks) is None

    def looks(self, checks: int | None = None, check_ps: float | None = None) -> int:
        """Looks that share the rate: checks, or blocks of correlated checks if the blocks are fewer.

        A block of calibration frames was scored by its most extreme frame, so checks at its spacing within its time are
        one look; denser checks are as many interleaved series of them.
        """
        n, times = self.n_sharing(checks), self.times
        if self.per == "check":
            return int(n)
        total_ps = PS_PER_NS if self.per == "ns" else None if check_ps is None else n * check_ps
        if not total_ps or not times.block_ps or not times.spacing_ps:
            return int(n)
        interleaved = math.ceil(times.spacing_ps * n / total_ps - 1e-9)
        return int(min(n, math.ceil(total_ps / times.block_ps) * max(1, interleaved)))

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
            numbers = self.typical.numbers(None if atoms is None else int(atoms))  # type: ignore[arg-type]  # a number: it has no dimension
        else:
            numbers = np.asarray(atoms)
        levels = self.alarm_levels(numbers, checks, check_ps=check_ps, mode=mode)
        return "\n".join(lines_of(self, levels, numbers, self.looks(checks, check_ps), self.counts_checks(checks)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration to a JSON file, whole or not at all."""
        write(path, {f.name: getattr(self, f.name) for f in fields(self)} | asdict(self.typical))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Calibration":
        """Read a calibration file; of one that `calibrate_errors` made, an `ErrorCalibration`.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        FileFormatError
            If it is empty, torn, of another schema or not a calibration, or holds what no calibration does.
        """
        content = read(path)
        typical = TypicalFrame(**{f.name: content.pop(f.name) for f in fields(TypicalFrame)})
        return WITH_LABELS.get("labels" if "labels" in content else "", Calibration)(**content, typical=typical)

    def carried_to(self, reference: GivenReference, *, threads: int | None = None) -> Self:
        """Levels for a reference that `extend` and `merge` made from the one that this calibration is for.

        The groups of the old reference, as they were given to `calibrate`, are scored again, each as if it were not in
        the new one: scores of dH fall, or stay, and frames like those of the old reference are out no more often than
        was promised. What was added is known, but sets no level: nothing is promised for frames of kinds, or with
        elements, that only the added frames have. Of separate frames (`calibrate(frames=...)`) the scores are kept as
        they are: dH falls where rows are added, so that upper levels of dH stay valid. Low levels and local scores do
        not, and are left out. The same is done with a file of an older version, which does not say how frames were
        grouped; then nothing is promised. Carrying on to a further reference gives what carrying there at once gives.

        Parameters
        ----------
        reference
            The new reference, or the name of its file.
        threads
            Threads to use; never changes the result.

        Raises
        ------
        MismatchError
            If the new reference was not made from the old one by `extend` and `merge`, if its bandwidth is another, or
            if statistics in use would be left without levels.
        """
        reference = opened_reference(reference)
        if self.fingerprint == reference.fingerprint:
            return self
        return replace(self, **carried(self, reference, threads))

    def require(self, reference: GivenReference) -> None:
        """Raise MismatchError unless this calibration was made for that reference."""
        reference = opened_reference(reference)
        if self.fingerprint != reference.fingerprint:
            raise MismatchError(
                f"calibration: made for reference {self.fingerprint}, got reference {reference.fingerprint}; "
                "calibrate again with this reference"
            )
        require_rows(reference, self.statistics)
        if self.is_local and self.landmarks is None:
            raise MismatchError(
                f"calibration: expected landmarks, which {self.statistics[0]} needs, got none; it is of an older file: "
                "calibrate again with this reference"
            )


def check_checks(checks: int | None) -> None:
    """ValueError unless it is a positive number or None."""
    if checks is not None and (isinstance(checks, bool) or not checks >= 1):
        raise ValueError(f"checks: expected a positive integer, got {checks!r}")
