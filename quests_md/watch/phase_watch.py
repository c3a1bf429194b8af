"""Whether the references of labelled phases fit the run: said before an event, once."""

from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np

from quests_md._words import many
from quests_md.judge import Phases
from quests_md.records import Check

__all__ = ["PhaseWatch"]

#: Checks at the beginning of a run that should be of the parent phase.
FIRST = 10

#: Checks in a row whose cluster is too large, and checks whose mean share of a product is, before it is said.
CLUSTERS, SHARES = 2, 3

#: Checks over which temperatures are averaged.
MEAN_OVER = 10

#: The parent looks like a product in more atoms than it should: so many times the share in its own held-out frames, in
#: so many atoms of a frame, on average.
TIMES, ATOMS = 3.0, 3.0


class PhaseWatch:
    """Compares the first checks, and the temperature of all, with what the references of labelled phases are for."""

    def __init__(self, phases: Phases) -> None:
        self.phases = phases
        self._temperatures: deque[float] = deque(maxlen=MEAN_OVER)
        self._counts: list[Mapping[str, int]] = []
        self._n_too_large: dict[str, int] = {}
        self._said: set[str] = set()

    def update(self, check: Check, temperature_K: float | None) -> list[str]:
        """What is to be said now, after a check at this temperature (None: it is not known)."""
        found: list[str] = []
        if "impure" not in self._said:
            self._said.add("impure")
            found.extend(f"phases: {text}" for text in self.phases.impurities)
        if check.phases is None:
            return found
        for what, text in (*self._of_temperature(check, temperature_K), *self._of_first_checks(check)):
            if what not in self._said:
                self._said.add(what)
                found.append(f"phases: {text}")
        return found

    def _of_temperature(self, check: Check, temperature_K: float | None) -> Iterator[tuple[str, str]]:
        if temperature_K is None or not temperature_K > 0:
            return
        self._temperatures.append(temperature_K)
        mean, n = float(np.mean(self._temperatures)), len(self._temperatures)
        doubt = self.phases.temperature_doubt(mean, check.n_atoms, n)
        if doubt is not None:
            yield "temperature", doubt

    def _of_first_checks(self, check: Check) -> Iterator[tuple[str, str]]:
        if check.frame >= FIRST or check.phases is None:
            return
        phases, parent = self.phases, self.phases.names.index(self.phases.parent)
        self._counts.append(check.phases)
        n = len(self._counts)
        for name in phases.products:
            atoms = float(np.mean([counts[name] for counts in self._counts]))
            share = atoms / max(sum(check.phases.values()), 1)
            usual = max(phases.rate, float(phases.confusion[parent, phases.names.index(name)]))
            is_much = n >= SHARES and share > TIMES * usual and atoms > ATOMS
            is_too_large = check.excesses.get(f"phase:{name}", -1.0) > 0
            self._n_too_large[name] = self._n_too_large.get(name, 0) + 1 if is_too_large else 0
            if is_much or self._n_too_large[name] >= CLUSTERS:
                size = (check.phase_clusters or {}).get(name, 0)
                yield (
                    name,
                    f"the run's beginning already looks like {name}: {share:.1%} of its atoms in the first "
                    f"{many(n, 'check')} ({many(size, 'atom')} in the largest cluster of the last), where at most "
                    f"{usual:.2g} of {phases.parent} are mistaken for it; either there is {name} in it, or the "
                    f"reference of {phases.parent} has no frames like this run: give some, of its temperature and "
                    "pressure, in that reference or as Phases(..., control=frames), such as the first picoseconds of "
                    "another run",
                )
