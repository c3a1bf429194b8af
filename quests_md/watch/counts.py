"""What the counts of a run's beginning say of the next counts; knows no atoms."""

import math
import sys
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, ndtri

__all__ = ["OwnCounts", "as_count", "as_root"]


def as_root(count: float) -> float:
    """Twice the root of a count, which is nearly normal where counts are not small (Anscombe, doi:10.2307/2332343)."""
    return 2 * math.sqrt(count + 3 / 8)


def as_count(root: float) -> float:
    """The count, 0 or more, of which `as_root` makes this number."""
    return max(max(root, 0.0) ** 2 / 4 - 3 / 8, 0.0)


class OwnCounts:
    """Counts in control, learned as they come: what later counts may be, however few atoms were counted so far.

    Of two independent Poisson counts of the same mean, over n and e checks, the second is a binomial share of both, of
    e/(n + e), whatever the mean is. So the chance that a later count is as large, or as small, is known exactly, also
    where every count so far is 0. Counts that scatter more than Poisson counts (atoms that come several at a time) are
    divided by their dispersion first.

    Parameters
    ----------
    total
        Atoms counted, over the dispersion.
    n
        Independent checks that counted them.
    per_block
        Independent checks that a block is worth.
    dispersion
        Variance over mean, 1 or more.

    References
    ----------
    Przyborowski, Wilenski, Biometrika 31, 313 (1940), doi:10.1093/biomet/31.3-4.313.
    """

    def __init__(self, total: float, n: float, per_block: float, dispersion: float = 1.0) -> None:
        self.total, self.n, self.per_block, self.dispersion = total, n, per_block, dispersion

    @classmethod
    def of_series(cls, counts: NDArray[np.float64], n: float, per_block: float) -> "OwnCounts":
        """Of counts in a row that are worth n independent ones."""
        mean = float(counts.mean())
        dispersion = max(1.0, float(counts.var()) * n / (n - 1) / mean) if mean > 0 else 1.0
        return cls(mean * n / dispersion, n, per_block, dispersion)

    @property
    def settings(self) -> dict[str, float]:
        """All there is to know, as it would be given to a new one."""
        return {name: getattr(self, name) for name in ("total", "n", "per_block", "dispersion")}

    def limits(self, rate: float) -> tuple[float, float]:
        """Smallest and largest count of one check that is not beyond what chance does at this rate, two-sided."""
        high = _first(lambda count: self._as_large(count + 1, 1.0) <= rate / 2)
        low = _first(lambda count: 1 - self._as_large(count + 1, 1.0) > rate / 2)
        return float(low), float(high)

    def score(self, roots: Sequence[float]) -> float:
        """The mean count of a block, given by the roots of its counts, as a nearly normal number, within +-38."""
        return _as_score(sum(self._beyond(roots)) / 2)  # half of the chance of this very count is put on either side

    def is_usual(self, roots: Sequence[float], limit: float) -> bool:
        """Whether the mean count of a block is as near to the usual one, in scores, as whole numbers come to it."""
        as_many, more = self._beyond(roots)
        return _as_score(as_many) <= limit and _as_score(more) >= -limit

    def learn(self, roots: Sequence[float]) -> None:
        """Count a block among those seen."""
        mean = self._mean(roots)
        if math.isfinite(mean):
            self.total += mean * self.per_block / self.dispersion
            self.n += self.per_block

    def _beyond(self, roots: Sequence[float]) -> tuple[float, float]:
        """Chance that a block counts as many or more, and that it counts more by what comes at a time."""
        count = self._mean(roots) * self.per_block
        return self._as_large(count, self.per_block), self._as_large(count + self.dispersion, self.per_block)

    def _mean(self, roots: Sequence[float]) -> float:
        return float(np.mean([as_count(root) for root in roots]))

    def _as_large(self, count: float, checks: float) -> float:
        """Chance that so many independent checks count as many or more, given the total of all."""
        if count <= 0:
            return 1.0
        return float(betainc(count / self.dispersion, self.total + 1, checks / (self.n + checks)))


def _as_score(chance: float) -> float:
    """The normal number that is exceeded with this chance."""
    if math.isnan(chance):
        return math.nan
    tail = max(min(chance, 1 - chance), sys.float_info.min)
    return math.copysign(float(ndtri(tail)), 0.5 - chance)


def _first(holds: Callable[[int], bool]) -> int:
    """The first number from 0 on for which something holds that holds for all later ones."""
    if holds(0):
        return 0
    before, at = 0, 1
    while not holds(at):
        before, at = at, 2 * at
    while at - before > 1:
        middle = (before + at) // 2
        before, at = (before, middle) if holds(middle) else (middle, at)
    return at
