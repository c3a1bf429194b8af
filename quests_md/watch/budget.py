"""How often a run may be checked if checks are to take no more than a share of its time; knows no clock."""

import math

from quests_md._arguments import check_share

__all__ = ["Budget"]

#: Weight of the newest measurement in the running averages of times.
NEWEST = 0.2

#: The interval grows when more than GROW times the present one is needed, and shrinks when less than SHRINK times is.
GROW, SHRINK = 1.05, 0.7


class Budget:
    """Chooses at every how many calls of an observer a check is made.

    With c the time of a check and s the time between two calls without one, checks at every m-th call take the share
    c / (c + m s) of the run: m is the smallest number that keeps this share below the budget. c and s are running
    averages. The first check does not count, since it may load libraries.

    Parameters
    ----------
    share
        Largest part of the wall time of the run that checks may take, between 0 and 1.

    Raises
    ------
    ValueError
        If `share` is not between 0 and 1.
    """

    def __init__(self, share: float) -> None:
        self.share = check_share("budget", share, "share of the run between 0 and 1 such as 0.02")
        self.every = 1
        """Calls per check."""
        self._skipped = 0
        self._n_taken = 0
        self._check_s = math.nan
        self._call_s = math.nan

    def is_due(self) -> bool:
        """Whether this call is to check; every call must ask."""
        if self._n_taken == 0 or self._skipped + 1 >= self.every:
            return True
        self._skipped += 1
        return False

    def take(self, check_s: float, since_last_s: float) -> bool:
        """Take the time of a check and the time since the end of the check before; return whether `every` has changed.

        Parameters
        ----------
        check_s
            Wall time of this check, s.
        since_last_s
            Wall time from the end of the check before to the start of this one, s; any number at the first check.
        """
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


def _average(before: float, newest: float) -> float:
    return newest if math.isnan(before) else (1 - NEWEST) * before + NEWEST * newest
