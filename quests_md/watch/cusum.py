"""Find a slow drift in a stream of numbers by two cumulative sums; knows no atoms."""

import math
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, roots_legendre, stdtr

__all__ = ["Cusum", "CusumState", "OwnScale", "alarm_rate"]

CusumState = Literal["in", "rising", "falling"]

#: Range of run lengths. In a run of fewer than ten numbers nothing is in control; above 1e9 the error of the rates
#: (1e-15) shows.
RUN_LENGTHS = 10, 1e9

#: Relative to the mean: the deviation of equal numbers comes out as a few 1e-16 of it, not as 0.
ROUNDING = 1e-14

#: Smallest shift, in deviations: thresholds, and with them the linear system of the rates, grow as 1/shift.
SMALLEST_SHIFT = 0.05


class Cusum:
    """Two-sided cumulative-sum test for a lasting shift of the mean of independent normal numbers.

    With z = (value - mean) / deviation and k = shift / 2, every number makes two sums anew,

        S+ = max(0, S+ + z - k),    S- = max(0, S- - z - k),

    and the first sum above the threshold h is an alarm. An alarm stays, with its excess and onset, until `restart`,
    however the numbers go on. NaN carries no information and changes nothing; an infinite number is an alarm at once.

    The promise is for independent normal numbers of known mean and deviation. Numbers along a trajectory are
    correlated: give means over blocks longer than their correlation time. `average_run_length(error / deviation)` says
    how often alarms come by mistake if the mean is wrong by that error.

    Parameters
    ----------
    mean, deviation
        Of the numbers in control.
    shift
        Smallest shift of the mean worth finding, in deviations, 0.05 or more.
    run_length
        Mean count of numbers in control until a false alarm of either side, 10 to 1e9; sets the threshold.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or if no threshold makes alarms as frequent as run_length asks.

    References
    ----------
    Page, Biometrika 41, 100 (1954), doi:10.1093/biomet/41.1-2.100.

    Examples
    --------
    >>> drift = Cusum(10.0, 2.0, shift=1.0, run_length=465)
    >>> print(f"{drift.threshold:.2f} {drift.average_run_length(1.0):.1f}")
    5.00 10.4
    >>> [drift.update(value) for value in (9.0, 13.5, 14.0, 13.0, 15.5, 10.0)]
    ['in', 'in', 'in', 'in', 'rising', 'rising']
    >>> drift.onset
    4
    """

    def __init__(self, mean: float, deviation: float, *, shift: float = 1.0, run_length: float = 10_000) -> None:
        if not math.isfinite(mean):
            raise ValueError(f"mean: expected a finite number, got {mean!r}; leave out NaN and inf where it is taken")
        if not (math.isfinite(deviation) and deviation > ROUNDING * abs(mean)):
            raise ValueError(
                f"deviation: expected a positive finite number, more than the rounding of the mean, got {deviation!r}; "
                "in a constant series every change is a drift: compare with its value instead"
            )
        if not RUN_LENGTHS[0] <= run_length <= RUN_LENGTHS[1]:
            raise ValueError(
                f"run_length: expected a number from {RUN_LENGTHS[0]} to {RUN_LENGTHS[1]:g}, got {run_length!r}; "
                "give the numbers of the time in which one false alarm is tolerable"
            )
        if not (math.isfinite(shift) and shift >= SMALLEST_SHIFT):
            raise ValueError(
                f"shift: expected a finite number of deviations, {SMALLEST_SHIFT} or more, got {shift!r}; "
                "give means over longer blocks to find smaller shifts"
            )
        if 2 * ndtr(-shift / 2) * run_length <= 1:  # even a threshold of 0 alarms more rarely
            raise ValueError(
                f"shift: expected less than {-2 * ndtri(0.5 / run_length):.4g} deviations for a run_length of "
                f"{run_length:g}, got {shift!r}; give a smaller shift or a larger run_length"
            )
        self.mean = mean
        self.deviation = deviation
        self.shift = shift
        self.run_length = run_length
        #: Level of the sums, in deviations.
        self.threshold = _threshold(shift / 2, run_length)
        self.restart()

    def __repr__(self) -> str:
        return f"Cusum({', '.join(f'{name}={value!r}' for name, value in self.settings.items())})"

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters, as they would be given to a new Cusum."""
        return {name: getattr(self, name) for name in ("mean", "deviation", "shift", "run_length")}

    @property
    def excess(self) -> float:
        """The larger of the two sums minus the threshold, in deviations: 0 or less in control."""
        return max(self._rising, self._falling) - self.threshold

    @property
    def onset(self) -> int:
        """Count of numbers since the larger sum was last zero, the newest included; NaN are not counted.

        After an alarm it is the estimate by Page (1954) of how many numbers have drifted.
        """
        return self._n_rising if self._rising >= self._falling else self._n_falling

    def fresh(self) -> "Cusum":
        """A test of the same settings that has seen nothing."""
        return Cusum(**self.settings)

    def restart(self) -> None:
        """Forget the sums and an alarm."""
        self.state: CusumState = "in"
        self._rising = self._falling = 0.0
        self._n_rising = self._n_falling = 0

    def progress(self) -> dict[str, Any]:
        """What the test has seen, in plain types, for `restore`."""
        return {
            "state": self.state,
            "rising": self._rising,
            "falling": self._falling,
            "n_rising": self._n_rising,
            "n_falling": self._n_falling,
        }

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Continue where `progress` was taken from a test of the same settings."""
        self.state = progress["state"]
        self._rising, self._falling = float(progress["rising"]), float(progress["falling"])
        self._n_rising, self._n_falling = progress["n_rising"], progress["n_falling"]

    def update(self, value: float) -> CusumState:
        """Take one number and return the new state.

        Returns
        -------
        state
            "in": no alarm since the start; "rising", "falling": where the mean has gone.
        """
        value = float(value)  # a float32 would make sums of float32
        if self.state != "in" or math.isnan(value):
            return self.state
        score = (value - self.mean) / self.deviation
        self._rising = max(0.0, self._rising + score - self.shift / 2)
        self._falling = max(0.0, self._falling - score - self.shift / 2)
        self._n_rising = self._n_rising + 1 if self._rising > 0 else 0
        self._n_falling = self._n_falling + 1 if self._falling > 0 else 0
        if self.excess > 0:
            self.state = "rising" if self._rising > self._falling else "falling"
        return self.state

    def average_run_length(self, shift: float) -> float:
        """Mean count of numbers until an alarm of either side if their mean is off by a shift in deviations.

        Both sums start from zero, the slowest start: 1/ARL = 1/ARL+ + 1/ARL-. A shift of 0 gives `run_length`.

        Raises
        ------
        ValueError
            If shift is not finite.
        """
        if not math.isfinite(shift):
            raise ValueError(f"shift: expected a finite number of deviations, got {shift!r}")
        return 1 / sum(alarm_rate(self.threshold, sign * shift - self.shift / 2) for sign in (1, -1))


class OwnScale:
    """Mean and deviation of numbers in control, learned from these numbers as they come: a self-starting test.

    `score` turns a new number into a standard normal one, as far as the numbers before tell: t = (value - mean) / (s
    sqrt(1 + 1/n)) has Student's distribution, whose quantile the normal distribution is asked for. Of independent
    normal numbers the scores are independent and normal exactly, however few numbers were seen; with a mean and a
    deviation measured once and for all, a cumulative sum would add up the error of that mean. `learn` adds a number to
    those seen. A number is the mean of a block of values.

    Parameters
    ----------
    mean, deviation
        Of the numbers seen before.
    n
        How many numbers of this kind have the same error of the mean.
    freedom
        Degrees of freedom of the deviation.
    smallest
        The deviation is never less, so that numbers that scatter by rounding alone have no drift.

    References
    ----------
    Hawkins, The Statistician 36, 299 (1987), doi:10.2307/2348827.
    """

    def __init__(self, mean: float, deviation: float, n: float, freedom: float, smallest: float = 0.0) -> None:
        self.mean, self.deviation, self.n, self.freedom, self.smallest = mean, deviation, n, freedom, smallest

    @property
    def settings(self) -> dict[str, float]:
        """All there is to know, as it would be given to a new one."""
        return {name: getattr(self, name) for name in ("mean", "deviation", "n", "freedom", "smallest")}

    def score(self, values: Sequence[float]) -> float:
        """The mean of new numbers as a standard normal one, within +-38: beyond, probabilities are zero."""
        value = float(np.mean(values))
        t = (value - self.mean) / (self.deviation * math.sqrt(1 + 1 / self.n))
        tail = max(float(stdtr(self.freedom, -abs(t))), sys.float_info.min)
        return math.copysign(float(ndtri(tail)), t) if t == t else math.nan

    def is_usual(self, values: Sequence[float], limit: float) -> bool:
        """Whether the score is so small."""
        return abs(self.score(values)) <= limit

    def learn(self, values: Sequence[float]) -> None:
        """Count the mean of new numbers among those seen, if it is finite."""
        value = float(np.mean(values))
        if not math.isfinite(value):
            return
        change = value - self.mean
        variance = self.freedom * self.deviation**2 + change**2 * self.n / (self.n + 1)
        self.freedom += 1
        self.n += 1
        self.deviation = max(math.sqrt(variance / self.freedom), self.smallest)
        self.mean += change / self.n


@cache  # fresh tests of the same settings
def _threshold(reference: float, run_length: float) -> float:
    """The threshold at which the two sides together alarm once in `run_length` numbers in control."""

    def too_often(threshold: float) -> float:
        return math.log(2 * alarm_rate(threshold, -reference) * run_length)

    # rates fall about as exp(-2 k h), by e^4 a step: far beyond the wanted rate they would be rounding errors
    step = high = 2 / reference
    while too_often(high) > 0:
        high += step
    return float(brentq(too_often, high - step, high))


def alarm_rate(threshold: float, drift: float) -> float:
    """One over the mean count of normal numbers until their sum, kept at 0 or more, exceeds the threshold h.

    A sum that starts from y either comes back to 0 or exceeds h. The mean number N(y) of steps until it does either,
    and the probability P(y) that it exceeds h, solve integral equations with the normal density f and distribution F:

        N(y) = 1 + int_0^h N(x) f(x - y - drift) dx,    P(y) = F(y + drift - h) + int_0^h P(x) f(x - y - drift) dx.

    The rate is P(0) / N(0). Unlike the one equation for the run length itself, these are not nearly singular, however
    rare the alarms; the absolute error is that of rounding.

    Parameters
    ----------
    threshold
        h, 0 or more.
    drift
        Mean step of the sum: the mean of the numbers minus the reference value k. The deviation of a step is 1.

    References
    ----------
    Page, Biometrika 41, 100 (1954), doi:10.1093/biomet/41.1-2.100, for the equations. Gauss-Legendre nodes take the
    place of the states of the Markov chain in Brook, Evans, Biometrika 59, 539 (1972), doi:10.1093/biomet/59.3.539.
    """
    nodes, weights = roots_legendre(32 + 2 * math.ceil(threshold))  # two a deviation: exact to rounding
    nodes, weights = threshold * (1 + nodes) / 2, threshold * weights / 2
    starts = np.concatenate(([0.0], nodes))
    with np.errstate(over="ignore"):  # the square of a huge drift: a density of zero
        kernel = weights * np.exp(-((nodes - starts[:, None] - drift) ** 2) / 2) / math.sqrt(2 * math.pi)
    ends = np.stack([np.ones(len(starts)), ndtr(starts + drift - threshold)], axis=1)
    inside = np.linalg.solve(np.eye(len(nodes)) - kernel[1:], ends[1:])
    steps, alarms = ends[0] + kernel[0] @ inside
    return float(alarms / steps)
