"""What checks cost: their wall time, and its share of the run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Cost", "Overhead"]


@dataclass(frozen=True, slots=True)
class Overhead:
    """What the checks cost."""

    seconds: float
    """Wall time spent in checks and actions, s."""
    share: float
    """Part of the wall time since the first check, 0 to 1."""
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
            self.seconds += before_s + self.last_end - start

    def overhead(self, n_checks: int) -> Overhead:
        """What so many checks have cost."""
        wall = 0.0 if self._started is None else self.last_end - self._started
        return Overhead(
            seconds=self.seconds,
            share=self.seconds / wall if wall > 0 else 0.0,
            us_per_atom=self.seconds * 1e6 / self.n_atoms if self.n_atoms else 0.0,
            checks=n_checks,
        )
