"""What checks cost, and how often a run may be checked if they are to take no more than a share of its time."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from quests_md._arguments import check_share

__all__ = ["Budget", "Cost", "Overhead", "Toll", "toll_text"]

#: Weight of the newest measurement in the running averages of times.
NEWEST = 0.2

#: The interval grows when more than GROW times the present one is needed, and shrinks when less than SHRINK times is.
GROW, SHRINK = 1.05, 0.7

#: Share of a run above which checks are said to take much of it, the share that is then advised, and checks after the
#: first that are looked at before.
LOUD_SHARE, LOW_SHARE, LOOKED_AT = 0.2, 0.05, 19


@dataclass(frozen=True, slots=True)
class Overhead:
    """What the checks cost."""

    seconds: float
    """Wall time spent in checks and actions, s."""
    share: float
    """Part of the wall time from the first check to the last one, or to a later call without one, 0 to 1."""
    us_per_atom: float
    """Mean time per checked atom, microseconds."""
    checks: int
    """Number of checks."""


class Cost:
    """Adds up the wall time of the checks of a run."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Wall time in checks so far, s."""
        self.n_atoms = 0
        """Atoms checked so far."""
        self.last_start = self.last_end = 0.0
        """Start and end of the last check, s of `time.perf_counter`."""
        self._started: float | None = None
        self._seen = 0.0

    def pass_over(self) -> None:
        """Count the time up to now as that of the run: it goes on without a check."""
        self._seen = time.perf_counter()

    @contextmanager
    def measured(self, before_s: float = 0.0) -> Iterator[None]:
        """Measure the work inside as one check; `before_s`: seconds of it that were spent earlier, elsewhere."""
        start = time.perf_counter()
        if self._started is None:
            self._started = start - before_s
        try:
            yield
        finally:
            self.last_start, self.last_end = start, time.perf_counter()
            self._seen = self.last_end
            self.seconds += before_s + self.last_end - start

    def overhead(self, n_checks: int) -> Overhead:
        """What so many checks have cost."""
        wall = 0.0 if self._started is None else self._seen - self._started
        return Overhead(
            seconds=self.seconds,
            share=self.seconds / wall if wall > 0 else 0.0,
            us_per_atom=self.seconds * 1e6 / self.n_atoms if self.n_atoms else 0.0,
            checks=n_checks,
        )


class Budget:
    """Chooses at every how many calls of an observer a check is made.

    With c the time of a check and s the time between two calls without one, checks at every m-th call take the share
    c / (c + m s) of the run: m is the smallest number that keeps this share below the budget. c and s are running
    averages. The first check does not count, since it may load libraries. A budget has no clock: it is told the times.
    """

    def __init__(self, share: float) -> None:
        self.share = check_share("budget", share, "share of the run between 0 and 1 such as 0.02")
        self.every = 1
        """Calls per check."""
        self._skipped = 0
        self._n_taken = 0
        self._check_s = self._call_s = math.nan
        self._last_end: float | None = None

    def is_due(self) -> bool:
        """Whether this call is to check; every call must ask."""
        if self._n_taken == 0 or self._skipped + 1 >= self.every:
            return True
        self._skipped += 1
        return False

    def take(self, check_s: float, since_last_s: float) -> bool:
        """Take the wall time of a check, s, and that since the end of the check before; True if `every` has changed."""
        calls, self._skipped = self._skipped + 1, 0
        self._n_taken += 1
        if self._n_taken == 1:
            return False
        self._check_s = _average(self._check_s, check_s)
        self._call_s = _average(self._call_s, since_last_s / calls)
        wanted = self._check_s * (1 - self.share) / (self.share * max(self._call_s, 1e-9))
        every = max(1, math.ceil(wanted))
        if wanted <= GROW * self.every and every >= SHRINK * self.every:
            return False
        changed, self.every = every != self.every, every
        return changed

    def take_last(self, cost: Cost) -> bool:
        """Take the last check that was measured; True if `every` has changed."""
        since_last = 0.0 if self._last_end is None else cost.last_start - self._last_end
        self._last_end = cost.last_end
        return self.take(cost.last_end - cost.last_start, since_last)


class Toll:
    """Looks at the first checks of a run that has no budget, and says once if they take much of it.

    Medians count: one check takes seconds, that with the first alarm, and a run may pause.
    """

    def __init__(self) -> None:
        self._checks_s: list[float] = []
        self._between_s: list[float] = []
        self._last_end: float | None = None

    def said(self, cost: Cost, interval: int) -> str:
        """What to say after a check, which is due every `interval` steps; mostly nothing."""
        if len(self._checks_s) == LOOKED_AT:
            return ""
        before, self._last_end = self._last_end, cost.last_end
        if before is None:  # the first check may load libraries
            return ""
        self._checks_s.append(cost.last_end - cost.last_start)
        self._between_s.append(cost.last_start - before)
        if len(self._checks_s) < LOOKED_AT:
            return ""
        return toll_text(median(self._checks_s), median(self._between_s), interval)


def toll_text(check_s: float, between_s: float, interval: int) -> str:
    """What checks of so many seconds take of a run with so many seconds between them; empty up to a fifth of it."""
    share = check_s / (check_s + between_s)
    if not share > LOUD_SHARE:
        return ""
    times = check_s * (1 - LOW_SHARE) / (LOW_SHARE * max(between_s, 1e-9))
    scale = 10 ** max(0, math.ceil(math.log10(times * interval)) - 1)
    longer = next(m * scale for m in (1, 2, 5, 10) if m * scale >= times * interval)
    less = check_s / (check_s + between_s * longer / interval)
    return (
        f"quests_md: checks take {share:.0%} of the run, {1e3 * check_s:.3g} ms each {_every(interval)};\n"
        f"quests_md: interval={longer} would take {less:.1%}, and see events later (docs/runs.md)"
    )


def _every(interval: int) -> str:
    return "at every step" if interval == 1 else f"every {interval} steps"


def _average(before: float, newest: float) -> float:
    return newest if math.isnan(before) else (1 - NEWEST) * before + NEWEST * newest
