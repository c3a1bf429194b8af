"""Frames whose atoms are shared out among processes: each of them finds what takes time for its own atoms."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md.calibration import Calibration, LocalScorer, shared_scorer
from quests_md.environments import Descriptor, describe, describe_both, show_room
from quests_md.reference import Reference

from .judged import LateRows

__all__ = ["Crew", "Share", "can_be_shared", "share_of", "shared_rows"]


class Crew(Protocol):
    """Processes that share a frame out. What each finds is put together here, in the order of the atoms.

    All but the first method are of the frame that was described last.
    """

    def describe(self, atoms: Atoms, *, both: bool, nearest: float) -> bool:
        """Make the rows of a frame, averaged ones as well if `both`; whether they show that no atoms are nearer than
        `nearest` to each other.
        """

    def rows(self, chosen: NDArray[np.int64] | None, *, averaged: bool) -> NDArray[np.float64]:
        """Rows of chosen atoms, or of all; LookupError once the frame is gone."""

    def evaluate(self, levels: tuple[NDArray[np.float64], ...]) -> NDArray[np.float64]:
        """(n_atoms,) see `Reference.evaluate`."""

    def evaluate_above(
        self, lowest: NDArray[np.float64], levels: tuple[NDArray[np.float64], ...]
    ) -> NDArray[np.float64]:
        """(n_atoms,) see `Reference.evaluate_above`."""

    def scores(self) -> NDArray[np.float64]:
        """(n_atoms,) local scores."""


class SharedRows(LateRows):
    """Rows that stay where they were made until somebody asks for them; `make` makes all of them where that is over."""

    def __init__(self, crew: Crew, make: Callable[[], NDArray[np.float64]], *, n_atoms: int, averaged: bool) -> None:
        super().__init__(self._all)
        self._crew, self._make, self._n_atoms, self._averaged = crew, make, n_atoms, averaged

    def __len__(self) -> int:
        return self._n_atoms

    def __getitem__(self, chosen: Any) -> Any:
        if self._rows is None:
            places = np.arange(self._n_atoms)[chosen]
            if 4 * places.size <= self._n_atoms:
                with suppress(LookupError):
                    return self._crew.rows(np.atleast_1d(places), averaged=self._averaged).reshape(*places.shape, -1)
        return np.asarray(self)[chosen]

    def _all(self) -> NDArray[np.float64]:
        try:
            return self._crew.rows(None, averaged=self._averaged)
        except LookupError:
            return self._make()


class Share:
    """The share of one process in a frame: what it finds for its `own` atoms (n_own,), ascending.

    First `describe`, then `average` with the rows of others that `others` asks for, then all else.
    """

    def __init__(
        self, reference: Reference, calibration: Calibration, scorer: LocalScorer | None, threads: int | None
    ) -> None:
        self._reference, self._calibration, self._scorer, self._threads = reference, calibration, scorer, threads

    def describe(self, atoms: Atoms, own: NDArray[np.int64], *, both: bool) -> None:
        """Make the rows of the own atoms."""
        descriptor = self._reference.descriptor
        assert isinstance(descriptor, Descriptor)
        self.own, self._numbers = own, np.asarray(atoms.numbers)[own]
        self._rows = descriptor.share(atoms, own, both=both, threads=self._threads)

    @property
    def width(self) -> int:
        """Numbers per row."""
        return self._rows.filled.shape[1]

    @property
    def others(self) -> NDArray[np.int64]:
        """Atoms of others whose rows `average` needs, ascending."""
        return self._rows.others

    def filled(self, atoms: NDArray[np.int64]) -> NDArray[np.float64]:
        """What others need of own atoms."""
        return self._rows.filled[np.searchsorted(self.own, atoms)]

    def average(self, of_others: NDArray[np.float64], nearest: float) -> bool:
        """Average the rows; whether they show that no atoms are nearer than `nearest` to an own one."""
        self.both = self._rows.both(of_others)
        return show_room(self._reference.descriptor, self.both.plain, nearest)

    def evaluate(self, levels: tuple[NDArray[np.float64], ...]) -> NDArray[np.float64]:
        """(n_own,); `levels`: of all atoms."""
        of = tuple(level[self.own] for level in levels)
        return self._reference.evaluate(self.both.plain, self._numbers, levels=of, threads=self._threads)

    def evaluate_above(
        self, lowest: NDArray[np.float64], levels: tuple[NDArray[np.float64], ...]
    ) -> NDArray[np.float64]:
        """(n_own,); `lowest` and `levels`: of all atoms."""
        of, own = tuple(level[self.own] for level in levels), self.own
        rows, numbers = self.both.plain, self._numbers
        return self._reference.evaluate_above(rows, numbers, lowest[own], levels=of, threads=self._threads)

    def scores(self) -> NDArray[np.float64]:
        """(n_own,) local scores."""
        assert self._scorer is not None
        assert self.both.averaged is not None
        landmarks = self._calibration.landmarks
        rows = self.both.averaged if landmarks is None or landmarks.averaged else self.both.plain
        return self._scorer.scores(rows, self._numbers, threads=self._threads)

    def rows(self, chosen: NDArray[np.int64] | None, *, averaged: bool) -> NDArray[np.float64]:
        """Rows of those of the chosen atoms (ascending, each once) that are own ones; None: of all own ones."""
        rows = self.both.averaged if averaged else self.both.plain
        assert rows is not None
        return rows if chosen is None else rows[np.isin(self.own, chosen, assume_unique=True)]


def share_of(reference: Reference, calibration: Calibration, threads: int | None) -> Share:
    """What finds the share of one process in the frames of a judge with this reference and these levels."""
    landmarks = calibration.landmarks if calibration.is_local else None
    scorer = None if landmarks is None else shared_scorer(reference, landmarks)
    return Share(reference, calibration, scorer, threads)


def shared_rows(
    crew: Crew, reference: Reference, calibration: Calibration, atoms: Atoms, nearest: float, threads: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, bool]:
    """Rows of a frame that is shared out, those of which local scores are made, and whether all atoms have room."""
    is_local, landmarks = calibration.is_local, calibration.landmarks
    both = is_local and landmarks is not None and landmarks.averaged
    is_roomy = crew.describe(atoms, both=both, nearest=nearest)

    def plain() -> NDArray[np.float64]:
        return describe(reference.descriptor, atoms, threads)

    def averaged() -> NDArray[np.float64]:
        found = describe_both(reference.descriptor, atoms, threads).averaged
        assert found is not None
        return found

    late = partial(SharedRows, crew, n_atoms=len(atoms))
    rows = cast("NDArray[np.float64]", late(plain, averaged=False))
    if not both:
        return rows, rows if is_local else None, is_roomy
    return rows, cast("NDArray[np.float64]", late(averaged, averaged=True)), is_roomy


def can_be_shared(reference: Reference, numbers: NDArray[np.int64]) -> bool:
    """Whether frames of these elements can be shared out: by a descriptor of ours, all atoms being centers."""
    return isinstance(reference.descriptor, Descriptor) and bool(reference.is_center(numbers).all())
