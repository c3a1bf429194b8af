"""Frames of a pool chosen one after the other, until they are enough."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quests_md._progress import track
from quests_md.engine import part_sums
from quests_md.records import NearestEnvironment

from .coverage import Coverage
from .covering import Gains
from .pool import Pool

__all__ = ["Choice", "Pick", "Wanted"]

#: Environments for which gains are computed at most, and numbers of the table of their sums, four bytes each.
TARGETS, MOST_SUMS, FEWEST_TARGETS = 4096, 2**27, 64

#: Nats that exponents are raised by at most where no level bounds them, so that sums stay within single precision.
MOST_RAISED = 60.0

#: Frames are looked for, beyond those asked for, up to so many times their number, to say how many cover everything.
FURTHER = 4

#: Pairs of environments and rows that were taken up to which all environments that are left are counted.
MOST_PAIRS = 2e9


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many frames are to be chosen, see `select`."""

    n: int | None
    per_element: int | None
    budget_atoms: int | None


class Pick(NamedTuple):
    """A frame that was chosen."""

    frame: int
    """Its number in the pool."""
    gain: float
    is_new: bool
    dh_max: float
    strange: NDArray[np.int64]
    """Atoms that justify it, the largest dH first."""
    nearest: NearestEnvironment | None


class Choice:
    """What has been chosen from a pool, and what is left uncovered."""

    def __init__(self, coverage: Coverage) -> None:
        self._coverage, self._pool = coverage, coverage.pool
        self._allowed = np.ones(len(self._pool.places), bool)
        self._open = coverage.open_to_reference()
        #: How many environments are above the level with respect to the reference, and to the picks as well.
        self.n_uncovered = self.n_left = len(self._open)
        #: Whether the second of these numbers comes from a sample.
        self.is_estimated = False
        #: Frames that were not taken since all their environments were known or chosen.
        self.n_copies = 0
        self.picks: list[Pick] = []
        #: Whether frames are chosen by what they gain for each atom.
        self._is_of_atoms = False
        #: Frames that were chosen, those included that were looked for to know how many cover everything.
        self.n_taken = 0

    @property
    def covers(self) -> bool:
        """Whether all frames that were taken cover everything."""
        return not len(self._open)

    def run(self, wanted: Wanted) -> None:
        """Choose frames, and take further ones to find out how many would cover everything."""
        self._is_of_atoms = wanted.budget_atoms is not None
        n_frames = len(self._pool.places)
        n = n_frames if wanted.n is None else min(wanted.n, n_frames)
        is_counted = wanted.n is not None and wanted.budget_atoms is None
        most = min(FURTHER * n, n_frames) if is_counted else n
        floors, budget = _Floors(self._pool, wanted, self._open), _Budget(wanted.budget_atoms, self._pool.sizes)
        budget.rule_out(self._allowed)
        while len(self._open) and self.n_taken < most:
            n_open, gains = len(self._open), self._gains(self._open, is_bounded=True)
            while self.n_taken < most and (found := floors.next(gains, self._allowed, self.n_taken)) is not None:
                self._take(*found, gains, n, is_new=True)
                floors.fill(found[0])
                budget.spend(found[0], self._allowed)
            if self.n_taken >= most and not gains.is_done:
                break
            self._open = self._coverage.still_open(self._open)
            if len(self._open) == n_open:
                break  # what is left is in frames that are too large for the budget
        if self.n_taken < n:
            self._count_left()
        if len(self.picks) == n or (wanted.n is None and wanted.budget_atoms is None) or len(self._open):
            return
        gains = self._gains(np.arange(len(self._pool.rows)), is_bounded=False)
        while len(self.picks) < n and (found := floors.next(gains, self._allowed, len(self.picks))) is not None:
            if self._coverage.is_copy(found[0]):
                self._allowed[found[0]] = False
                self.n_copies += 1
                continue
            self._take(*found, gains, n, is_new=False)
            floors.fill(found[0])
            budget.spend(found[0], self._allowed)

    def _take(self, frame: int, gain: float, gains: Gains, n: int, *, is_new: bool) -> None:
        if len(self.picks) < n:
            self.picks.append(self._pick(frame, gain, is_new))
        self._allowed[frame] = False
        gains.choose(frame)
        self._coverage.take(frame)
        if is_new:
            self.n_taken += 1
            if self.n_taken == n:
                self._count_left()

    def _count_left(self) -> None:
        """Count the environments that are above the level, or those of a sample."""
        sample = self._open
        if len(sample) * self._coverage.n_taken_rows > MOST_PAIRS:
            sample = self._pool.sample(sample, TARGETS, evenly=False)
        share = len(self._coverage.still_open(sample)) / max(len(sample), 1)
        self.n_left, self.is_estimated = round(share * len(self._open)), len(sample) < len(self._open)

    def _pick(self, frame: int, gain: float, is_new: bool) -> Pick:
        here = self._pool.rows_of(frame)
        asked = self._open[slice(*np.searchsorted(self._open, [here.start, here.stop]))]
        asked = asked if len(asked) else np.arange(here.start, here.stop)
        dh = self._coverage.dh(asked)
        order = np.argsort(-dh, kind="stable")
        n_above = int((dh > self._coverage.upper(asked)).sum())
        strange = asked[order[: max(n_above, 1)]]
        worst, reference = strange[:1], self._coverage.reference
        numbers, threads = self._pool.numbers[worst], self._coverage.threads
        nearest = reference.nearest(self._coverage.rows(worst), numbers=numbers, threads=threads)
        found = reference.describe_nearest(nearest, 0)
        return Pick(frame, gain, is_new, float(dh.max()), self._pool.atoms[strange], found)

    def _gains(self, among: NDArray[np.int64], *, is_bounded: bool) -> Gains:
        """What frames are worth for some environments, or for a sample of them."""
        pool, coverage, n_frames = self._pool, self._coverage, len(self._pool.places)
        targets = pool.sample(among, min(TARGETS, max(FEWEST_TARGETS, MOST_SUMS // n_frames)))
        dh, kinds = coverage.dh(targets), coverage.kinds
        raised = coverage.levels[targets] if is_bounded else np.minimum(dh, MOST_RAISED)
        sums = np.zeros((n_frames, len(targets)), np.float32)
        for z in track(np.unique(kinds[targets]), "comparing frames"):
            where, own = np.flatnonzero(kinds == z), kinds[targets] == z
            sums[:, own] = part_sums(
                coverage.rows(targets[own]),
                raised[own],
                pool.rows[where],
                np.searchsorted(where, pool.ends),
                coverage.reference.bandwidth,
                coverage.threads,
            )
        if is_bounded:  # what is in a frame that is chosen is covered, however low the level
            sums[pool.frame_of[targets], np.arange(len(targets))] += 1.0
        costs = pool.sizes if self._is_of_atoms else None
        return Gains(sums, np.exp(raised - dh), is_bounded, pool.numbers[targets], costs)


class _Floors:
    """Which frame comes next: the one of highest gain, or one with an element that too few of the chosen ones have.

    The last places are for the elements that are missing by then; with a budget, which any frame may end, the first.
    """

    def __init__(self, pool: Pool, wanted: Wanted, uncovered: NDArray[np.int64]) -> None:
        self._n, self._is_budgeted = wanted.n, wanted.budget_atoms is not None
        of_uncovered = np.unique(pool.numbers[uncovered])
        if wanted.n is None:
            of_uncovered = of_uncovered[:0]
        elements = np.unique(pool.numbers) if wanted.per_element else of_uncovered
        self._holders = {int(z): np.unique(pool.frame_of[pool.numbers == z]) for z in elements}
        # of those that the fewest frames hold first
        by_number = sorted(self._holders, key=lambda z: (len(self._holders[z]), z))
        self._missing = {z: min(wanted.per_element or 1, len(self._holders[z])) for z in by_number}

    def next(self, gains: Gains, allowed: NDArray[np.bool_], n_taken: int) -> tuple[int, float] | None:
        """The next frame and its gain; None: no frame that is allowed has a gain or a missing element."""
        for z in self._due(n_taken):
            here = np.zeros_like(allowed)
            here[self._holders[z]] = True
            best = gains.best_of_element(allowed & here, z)
            if best is not None:
                return best
        return gains.best(allowed)

    def _due(self, n_taken: int) -> list[int]:
        """The elements that are missing, if it is time for one of them."""
        missing = [z for z, n in self._missing.items() if n > 0]
        if self._n is None:
            return missing if self._is_budgeted else []
        if n_taken >= self._n:
            return []  # further frames only tell how many cover everything
        are_last = n_taken >= self._n - sum(self._missing.values())
        return missing if are_last or self._is_budgeted else []

    def fill(self, frame: int) -> None:
        """Count a frame that was taken."""
        for z, holders in self._holders.items():
            if frame in holders:
                self._missing[z] = max(0, self._missing[z] - 1)


class _Budget:
    """Atoms that chosen frames may have; None: any number."""

    def __init__(self, atoms: int | None, sizes: NDArray[np.int64]) -> None:
        self._left, self._sizes = atoms, sizes

    def rule_out(self, allowed: NDArray[np.bool_]) -> None:
        """Allow frames no more that are larger than what is left."""
        if self._left is not None:
            allowed &= self._sizes <= self._left

    def spend(self, frame: int, allowed: NDArray[np.bool_]) -> None:
        """Count a frame that was taken, and rule out those that do not fit any more."""
        if self._left is not None:
            self._left -= int(self._sizes[frame])
        self.rule_out(allowed)
