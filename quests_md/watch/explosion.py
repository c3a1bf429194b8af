"""Runs that have exploded by their temperature or volume."""

import math
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from quests_md._arguments import check_positive

__all__ = ["Explosion"]

#: A temperature or volume of more than so many times its running median has exploded, and a volume of less than one
#: over so many times.
FACTOR = 5.0

#: Most values of a running median, the last ones, an odd number; and the fewest.
WINDOW, FEWEST = 101, 3

#: K. Temperatures below AT_REST are those of structures at rest and are not taken into the median. The median counts
#: as COLD at least, so that heating a cold system is no explosion.
AT_REST, COLD = 50.0, 200.0

#: The kinetic energy of fewer atoms exceeds five times its median by itself: 2 atoms once in a hundred independent
#: frames, 8 atoms once in 1e10 (chi-square with 3N - 6 degrees of freedom).
FEWEST_ATOMS = 8


class Explosion:
    """Tells from temperature and volume whether a run has exploded.

    A run has exploded if its temperature is above `max_temperature_K` or above five times its running median, or if its
    volume per atom is above five times or below a fifth of its running median since the number of atoms last changed. A
    running median is the median of the last 101 values at which the run had not exploded, three at least: it follows a
    heating ramp.

    Temperatures below 50 K are not taken into the running median, and it counts as 200 K at least: structures are
    relaxed, quenched and heated again. In systems of fewer than 8 atoms thermal motion alone exceeds five times the
    median, and only `max_temperature_K` applies. NaN and None are passed over.

    Examples
    --------
    >>> explosion = Explosion()
    >>> [explosion.update(temperature_K, None) for temperature_K in (310.0, 290.0, 300.0, 420.0)]
    ['', '', '', '']
    >>> explosion.update(2000.0, None)
    'the temperature of 2000 K is more than 5 times its running median of 305 K'
    """

    def __init__(self, max_temperature_K: float | None = None) -> None:
        if max_temperature_K is not None:
            check_positive("max_temperature_K", max_temperature_K, "temperature in K, or None")
        self.max_temperature_K = max_temperature_K
        self._n_atoms: int | None = None
        self._temperatures: deque[float] = deque(maxlen=WINDOW)
        self._volumes: deque[float] = deque(maxlen=WINDOW)

    def update(self, temperature_K: float | None, volume_per_atom: float | None, n_atoms: int | None = None) -> str:
        """Take the numbers of the next check, K and Å^3; return why the run has exploded, empty if it has not.

        Without a number of atoms there are enough of them for the running median.
        """
        if n_atoms != self._n_atoms:  # the volume per atom jumps
            self._n_atoms = n_atoms
            self._volumes.clear()
        reasons = (self._judge_temperature(temperature_K, n_atoms), self._judge_volume(volume_per_atom))
        return "; ".join(reason for reason in reasons if reason)

    def state(self) -> dict[str, Any]:
        """What it has seen, in plain types, for `restore`: at most 203 numbers."""
        return {"n_atoms": self._n_atoms, "temperatures": list(self._temperatures), "volumes": list(self._volumes)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self._n_atoms = state["n_atoms"]
        self._temperatures = deque(state["temperatures"], maxlen=WINDOW)
        self._volumes = deque(state["volumes"], maxlen=WINDOW)

    def _judge_temperature(self, value: float | None, n_atoms: int | None) -> str:
        if value is None or math.isnan(value):
            return ""
        value = float(value)
        if self.max_temperature_K is not None and value > self.max_temperature_K:
            return f"the temperature of {value:.4g} K is above max_temperature_K = {self.max_temperature_K:g}"
        middle = _running_median(self._temperatures) if n_atoms is None or n_atoms >= FEWEST_ATOMS else None
        if middle is not None and value > FACTOR * max(middle, COLD):
            return (
                f"the temperature of {value:.4g} K is more than {FACTOR:g} times its running median of {middle:.4g} K"
            )
        if value > sys.float_info.max:
            return "the temperature is infinite"
        if value >= AT_REST:
            self._temperatures.append(value)
        return ""

    def _judge_volume(self, value: float | None) -> str:
        if value is None or math.isnan(value):
            return ""
        value, middle = float(value), _running_median(self._volumes)
        text = f"the volume of {value:.4g} Å^3 per atom is"
        if middle is not None and value > FACTOR * middle:
            return f"{text} more than {FACTOR:g} times its running median of {middle:.4g} Å^3"
        if middle is not None and value < middle / FACTOR:
            return f"{text} less than 1/{FACTOR:g} of its running median of {middle:.4g} Å^3"
        if 0 < value < math.inf:
            self._volumes.append(value)
        return ""


def _running_median(values: Sequence[float]) -> float | None:
    """The median; None of too few values."""
    return median(values) if len(values) >= FEWEST else None
