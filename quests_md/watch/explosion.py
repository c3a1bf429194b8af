"""Runs that have exploded by how their atoms move, or by their volume."""

import math
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import median
from typing import Any

from scipy.stats import chi2

from quests_md._arguments import check_positive

__all__ = ["Explosion", "fastest_of"]

#: A temperature or volume of more than so many times its running median is out of bounds if it jumped there, and a
#: volume of less than one over so many times.
FACTOR = 5.0

#: A temperature has jumped if it is FACTOR times the largest of the last RECENT ones, a volume if it is VOLUME_JUMP
#: times larger than each of them, or smaller. A liquid that boils at zero pressure swells slower.
VOLUME_JUMP, RECENT = 2.5, 10

#: Chance that an atom of a frame in thermal motion is faster than `fastest_of` says. Sane runs at up to three times
#: melting came to 10 times their temperature (43 000 atoms, for which it says 13 to 14), explosions to 17 at least when
#: atoms were first too near, most of them to hundreds.
TOO_FAST = 1e-6

#: K. A thermostat may be told to jump to another temperature up to this one. Most explosions by a time step of ten
#: times the usual one jump further; those that do not have few fast atoms.
COMMANDED = 20_000.0

#: Most values of a running median, the last ones, an odd number; and the fewest.
WINDOW, FEWEST = 101, 3

#: K. Temperatures below AT_REST are those of structures at rest and are not taken into the median. The median counts
#: as COLD at least, so that heating a cold system is no explosion.
AT_REST, COLD = 50.0, 200.0

#: The kinetic energy of fewer atoms exceeds five times its median by itself: 2 atoms once in a hundred independent
#: frames, 8 atoms once in 1e10 (chi-square with 3N - 6 degrees of freedom).
FEWEST_ATOMS = 8


class Explosion:
    """Tells from temperature, volume and the fastest atom whether a run has exploded.

    A run has exploded if

    - its temperature is above `max_temperature_K`. Where that is not given: if it jumped above five times its running
      median and above five times the largest of the last ten temperatures, and an atom is too fast for that: a ramp
      is no explosion, and neither is a thermostat that is told another temperature;
    - atoms are too near to each other (`close_pairs`) and an atom is too fast: atoms that meet in a hot run are near
      but slow, atoms that a time step too long has pushed into each other are thrown apart;
    - its volume per atom is above five times or below a fifth of its running median since the number of atoms last
      changed, and has jumped there: 2.5 times beyond each of the last ten.

    An atom is too fast if its kinetic energy is beyond what thermal motion at the largest of the last ten temperatures
    gives one atom of the frame in a million frames (`fastest_of`). Where the temperature has jumped, but to no more
    than 20 000 K, thermal motion at the temperature of the frame counts.

    A running median is the median of the last 101 values at which the run had not exploded, three at least, or one
    where the temperature is above 20 000 K.

    Temperatures below 50 K are not taken into the running median; it and the largest of the last ten count as 200 K at
    least: structures are relaxed, quenched and heated again. In systems of fewer than 8 atoms thermal motion alone
    exceeds five times the median, and of the temperature only `max_temperature_K` applies. NaN and None are passed
    over.

    Examples
    --------
    >>> explosion = Explosion()
    >>> [explosion.update(temperature_K, None) for temperature_K in (310.0, 290.0, 300.0, 420.0)]
    ['', '', '', '']
    >>> explosion.update(3000.0, None)
    'the temperature jumped to 3000 K, more than 5 times its running median of 305 K'
    """

    def __init__(self, max_temperature_K: float | None = None) -> None:
        if max_temperature_K is not None:
            check_positive("max_temperature_K", max_temperature_K, "temperature in K, or None")
        self.max_temperature_K = max_temperature_K
        self._n_atoms: int | None = None
        self._temperatures: deque[float] = deque(maxlen=WINDOW)
        self._volumes: deque[float] = deque(maxlen=WINDOW)

    def update(
        self,
        temperature_K: float | None,
        volume_per_atom: float | None,
        n_atoms: int | None = None,
        *,
        near: str = "",
        fastest_K: float | None = None,
    ) -> str:
        """Take the numbers of the next check, K and Å^3; return why the run has exploded, empty if it has not.

        Without a number of atoms there are enough of them for the running median. `near` says which atoms are too near
        to each other, in words; empty: none are. `fastest_K` is the kinetic energy of the fastest atom as a
        temperature, 2/3 of it over k_B; without it a temperature that jumps is an explosion whatever its atoms do.
        """
        too_fast = self._too_fast(temperature_K, fastest_K, n_atoms)
        reasons = (
            f"{near}; {too_fast}" if near and too_fast else "",
            self._judge_temperature(temperature_K, n_atoms, too_fast if fastest_K is not None else "not known"),
            self._judge_volume(volume_per_atom, n_atoms),
        )
        found = "; ".join(reason for reason in reasons if reason)
        if not found:
            self.take(temperature_K, volume_per_atom, n_atoms)
        return found

    def take(self, temperature_K: float | None, volume_per_atom: float | None, n_atoms: int | None = None) -> None:
        """Take the numbers of a check at which the run had not exploded."""
        if n_atoms != self._n_atoms:  # the volume per atom jumps
            self._n_atoms = n_atoms
            self._volumes.clear()
        if temperature_K is not None and temperature_K >= AT_REST:
            self._temperatures.append(float(temperature_K))
        if volume_per_atom is not None and 0 < volume_per_atom < math.inf:
            self._volumes.append(float(volume_per_atom))

    def state(self) -> dict[str, Any]:
        """What it has seen, in plain types, for `restore`: at most 203 numbers."""
        return {"n_atoms": self._n_atoms, "temperatures": list(self._temperatures), "volumes": list(self._volumes)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self._n_atoms = state["n_atoms"]
        self._temperatures = deque(state["temperatures"], maxlen=WINDOW)
        self._volumes = deque(state["volumes"], maxlen=WINDOW)

    def _too_fast(self, temperature_K: float | None, fastest_K: float | None, n_atoms: int | None) -> str:
        """What thermal motion does not give, in words; empty: the fastest atom is no faster than that."""
        if fastest_K is None:
            return ""
        now = -math.inf if temperature_K is None or math.isnan(temperature_K) else float(temperature_K)
        scale = max([COLD, *(list(self._temperatures)[-RECENT:] or [now])])
        if FACTOR * scale < now <= COMMANDED:
            scale = now
        if not fastest_K > scale * fastest_of(n_atoms):
            return ""
        return f"the fastest atom has {fastest_K:.4g} K, more than thermal motion gives at {scale:.4g} K"

    def _judge_temperature(self, value: float | None, n_atoms: int | None, too_fast: str) -> str:
        if value is None or math.isnan(value):
            return ""
        value = float(value)
        if value > sys.float_info.max:
            return "the temperature is infinite"
        if self.max_temperature_K is not None:
            if value > self.max_temperature_K:
                return f"the temperature of {value:.4g} K is above max_temperature_K = {self.max_temperature_K:g}"
            return ""
        if not too_fast or not (n_atoms is None or n_atoms >= FEWEST_ATOMS):
            return ""
        middle = _running_median(self._temperatures, 1 if value > COMMANDED else FEWEST)
        if middle is None:
            return ""
        if not value > FACTOR * max([COLD, middle, *list(self._temperatures)[-RECENT:]]):
            return ""
        return (
            f"the temperature jumped to {value:.4g} K, more than {FACTOR:g} times its running median of {middle:.4g} K"
        )

    def _judge_volume(self, value: float | None, n_atoms: int | None) -> str:
        if value is None or math.isnan(value):
            return ""
        value = float(value)
        if value == math.inf:
            return "the volume is infinite"
        middle = _running_median(self._volumes) if n_atoms == self._n_atoms else None
        if middle is None:
            return ""
        recent = list(self._volumes)[-RECENT:]
        text = f"the volume jumped to {value:.4g} Å^3 per atom,"
        if value > max(FACTOR * middle, VOLUME_JUMP * max(recent)):
            return f"{text} more than {FACTOR:g} times its running median of {middle:.4g} Å^3"
        if value < min(middle / FACTOR, min(recent) / VOLUME_JUMP):
            return f"{text} less than 1/{FACTOR:g} of its running median of {middle:.4g} Å^3"
        return ""


@lru_cache(maxsize=64)
def fastest_of(n_atoms: int | None) -> float:
    """Largest kinetic energy of n atoms in thermal motion, in units of its mean, but for one frame in a million.

    Kinetic energies have a chi-square distribution with 3 degrees of freedom: 13 for 100 atoms, 20 for a million.
    """
    return float(chi2.isf(TOO_FAST / (10**6 if n_atoms is None else max(n_atoms, 1)), 3)) / 3


def _running_median(values: Sequence[float], fewest: int = FEWEST) -> float | None:
    """The median; None of too few values."""
    return median(values) if len(values) >= fewest else None
