"""What a run says on stderr while it goes on: the pre-flight block of each system, and a line about each event."""

import os
from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._progress import say
from quests_md._words import many
from quests_md.records import Check

from .budget import Cost, Toll
from .event_follower import EventFollower
from .resume import Place

__all__ = ["Voice"]

#: Letters of a line.
WIDTH = 80

#: An event has grown if it holds so many times the atoms that were said last.
GROWN = 2

#: Two cells whose vectors differ by no larger a part of the longest one are of one system: a barostat moves them.
SAME_CELL = 0.1


#: Letters that at least show of the name of a log; with less room it is left out.
LEAST_ROOM = 12

#: Systems that are remembered at most, the last ones.
MOST_SYSTEMS = 100


class _System(NamedTuple):
    """What tells systems apart."""

    numbers: bytes
    pbc: bytes
    cell: NDArray[np.float64]


class Voice:
    """Says each thing once; `is_quiet`: it keeps what it would say to itself."""

    def __init__(self, log: str | os.PathLike[str] | None, *, is_quiet: bool) -> None:
        self.is_quiet = is_quiet
        self._place = "no log" if log is None else os.fspath(log)
        self._sizes: dict[int, int] = {}  # of open events, as they were said last
        self._systems: list[_System] = []
        self._toll = Toll()

    def is_new(self, atoms: Atoms) -> bool:
        """Whether nothing has been said of this system yet: other elements, boundaries or cell. From now on it has."""
        cell = np.array(atoms.cell.array)
        system = _System(atoms.numbers.tobytes(), atoms.pbc.tobytes(), cell)
        for known in self._systems:
            same_cell = np.abs(known.cell - cell).max() <= SAME_CELL * np.abs(known.cell).max()
            if known[:2] == system[:2] and same_cell:
                return False
        self._systems = [*self._systems, system][-MOST_SYSTEMS:]
        return True

    def say(self, text: str) -> None:
        """Print on stderr."""
        if not self.is_quiet:
            say(text)

    def take_up(self, follower: EventFollower, place: Place | None) -> None:
        """Say that a run is taken up again at a place of its log, and take the events that are open as said."""
        if place is not None:
            self.say(f"quests_md: {place.describe()}")
        self._sizes = {course.event_id: course.size for course in follower.courses}

    def say_toll(self, cost: Cost, interval: int) -> None:
        """Say if the checks so far take much of the run, see `Toll`."""
        if text := self._toll.said(cost, interval):
            self.say(text)

    def follow(self, check: Check, follower: EventFollower) -> None:
        """Say that an event opens, has grown or closes with this check."""
        is_open = {course.event_id for course in follower.courses}
        for event_id in self._sizes.keys() - is_open:
            del self._sizes[event_id]
            event = next((event for event in reversed(follower.closed) if event.id == event_id), None)
            if event is not None:
                most = max((size for _, size in event.size_history), default=event.n_atoms)
                self._say_of(event_id, "closes", event.kind, check, f"up to {many(most, 'atom')}")
        for course in follower.courses:
            size, before = course.size, self._sizes.get(course.event_id)
            if before is None or size >= GROWN * max(before, 1):
                self._sizes[course.event_id] = size
                verb = "opens" if before is None else "grows"
                self._say_of(course.event_id, verb, course.kind, check, many(size, "atom"))

    def _say_of(self, event_id: int, verb: str, kind: str, check: Check, size: str) -> None:
        time = "" if check.time_ps is None else f", {check.time_ps:.6g} ps"
        text = f"quests_md: event {event_id} {verb}: {kind}, step {check.step}{time}, {size}"
        room, place = WIDTH - len(text) - 2, "".join(c if c.isprintable() else "?" for c in self._place)
        if len(place) > room:
            place = "" if room < LEAST_ROOM else "..." + place[3 - room :]
        self.say(text + (place and f"; {place}"))
