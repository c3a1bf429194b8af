"""How rarely chance alone opens an event: by checks out in a row, and by visits."""

import numpy as np

__all__ = ["MOST_VISITING", "RAREST", "WINDOW", "checks_per_false_event", "most_visits", "visits_for"]

#: Checks within which visits are counted by default.
WINDOW = 20

#: Fewest visits of a default: levels are estimates, and a few visits come about by chance more often than they promise.
FEWEST_VISITS = 3

#: Rate of checks out at which visits are most frequent: a promise of more is kept by that rate as well.
MOST_VISITING = 0.5

#: Rate of false events by visits, per check, that a default keeps below: one in 100 000 checks.
RAREST = 1e-5


def checks_per_false_event(
    rate: float,
    *,
    patience: int | None = None,
    visits: int | None = None,
    window: int = WINDOW,
    again: float | None = None,
) -> float:
    """How many checks, at least, chance takes to open one event.

    Checks out come and go as a Markov chain: a check is out with probability p = `rate`, one after a check out with
    probability c = `again`, default p (independent checks). So visits (stretches of checks out) begin with the rate
    v = p (1 - c). A share c^(patience - 1) of them is as long as the patience. The times from the beginning of a visit
    to the beginning of the next are independent, each a stretch out and a stretch in, of geometric lengths; a visit
    completes `visits` of them within `window` checks if visits - 1 such times add up to less than `window`. The sum of
    their distributions is exact; each visit counts by itself, so that the rate of events is no higher. Visits that
    Trigger counts are over only well below the level, and are fewer.

    Parameters
    ----------
    rate
        Probability that a check is out by chance.
    patience
        Checks out in a row that open an event; None: none do.
    visits, window
        Visits that open an event where they begin within `window` checks; None: none do.
    again
        Probability that a check is out after a check that is.

    Returns
    -------
    checks
        Checks for one false event; inf where there is none.

    Examples
    --------
    >>> round(checks_per_false_event(0.01, patience=3))
    1010101
    >>> round(checks_per_false_event(0.01, patience=3, again=0.5))
    800
    >>> round(checks_per_false_event(0.01, visits=4), -3)
    200000.0
    """
    again = rate if again is None else again
    begin = rate * (1 - again)
    chance = 0.0 if patience is None else again ** (patience - 1)
    if visits is not None:
        chance += _within(begin / (1 - rate), again, visits - 1, window)
    return np.inf if begin * chance <= 0 else float(1 / (begin * chance))


def visits_for(rate: float, window: int = WINDOW) -> int | None:
    """Fewest visits within a window that chance alone makes once in 100 000 independent checks, or less often.

    `rate` is the largest share of checks that chance puts out. None: there are none, since chance makes as many as a
    window can hold.
    """
    rate = min(rate, MOST_VISITING)
    for visits in range(FEWEST_VISITS, most_visits(window) + 1):
        if checks_per_false_event(rate, visits=visits, window=window) >= 1 / RAREST:
            return visits
    return None


def most_visits(window: int) -> int:
    """Most visits that begin within so many checks: each is a check out and a check back before the next."""
    return (window + 1) // 2


def _within(leave: float, again: float, n: int, window: int) -> float:
    """Probability that n times from visit to visit add up to less than the window.

    A time is the length of a stretch out, 1 + geometric with `again`, and of a stretch in, left with `leave`.
    """
    at = np.arange(window)
    out = np.where(at > 0, (1 - again) * again ** np.maximum(at - 1, 0), 0.0)
    inside = np.where(at > 0, leave * (1 - leave) ** np.maximum(at - 1, 0), 0.0)
    one = np.convolve(out, inside)[:window]
    total = np.eye(1, window)[0]
    for _ in range(n):
        total = np.convolve(total, one)[:window]
    return float(total.sum())
