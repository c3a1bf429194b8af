"""Turn a stream of excesses over a level into the states of an alarm; knows no atoms."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from quests_md._arguments import check_integer, check_not_negative

from .false_events import WINDOW, most_visits

__all__ = ["Trigger", "TriggerState"]

#: Most checks, or ps, of patience: no run is as long.
MOST_PATIENCE = 10**9

TriggerState = Literal["in", "opening", "open", "stop"]


class Trigger:
    """A debounced alarm with hysteresis: an event opens after patience, or visits, and closes well below the level.

    Feed it the excess of every check in nats (`trigger_excess`, how far the worst statistic is beyond its level): a
    check is out when its excess is above 0 or NaN. Checks during the cool-down do not count for patience. An excess
    above `stop_excess` (or NaN, where `stop_excess` is set) makes the state "stop" whatever `cooldown` and `max_events`
    say.

    Short departures that come again and again open an event by their count (`visits`). A visit begins with a check out
    and is over at the first excess of -release or less: checks of a slow series are out together, and a series that
    wavers around its level makes one visit. Such an event closes after `window` checks of which none is out. Where 1 %
    of the checks are out by chance, 4 visits in 20 checks come about once in 200 000 independent checks, and in no
    correlated series that was tried more often than once in 100 000. Three checks out in a row come about once in a
    million independent checks, but once in 800 where half of the checks out are followed by another.

    Parameters
    ----------
    patience
        Consecutive checks out before an event opens.
    patience_ps
        Time in ps for which checks are out before an event opens, instead of `patience`.
    visits
        Visits that open an event where the last begins fewer than `window` checks after the first, at most half as many
        as these checks. None: the count of visits opens none.
    window
        Checks within which visits are counted, and checks without one out that close an event that they opened.
    release
        An open event closes at the first excess of -release or less, in nats, unless visits opened it.
    cooldown
        Checks after the end of an event during which no event opens.
    max_events
        Number of events after which no event opens.
    stop_excess
        Excess above which the state is "stop" at once, whatever the patience.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or a window cannot hold as many visits.

    Examples
    --------
    >>> trigger = Trigger(patience=2, release=0.5)
    >>> [trigger.update(excess) for excess in (-1.0, 0.3, 0.4, -0.2, -0.6)]
    ['in', 'opening', 'open', 'open', 'in']
    >>> trigger = Trigger(visits=2, window=4)
    >>> [trigger.update(excess) for excess in (0.3, -0.6, 0.3, -0.6, -0.6, -0.6, -0.6)]
    ['opening', 'in', 'open', 'open', 'open', 'open', 'in']
    """

    def __init__(
        self,
        patience: int = 3,
        patience_ps: float | None = None,
        release: float = 0.5,
        cooldown: int = 0,
        max_events: int | None = None,
        stop_excess: float | None = None,
        *,
        visits: int | None = None,
        window: int = WINDOW,
    ) -> None:
        if stop_excess is not None and not stop_excess > 0:
            raise ValueError(f"stop_excess: expected a positive number of nats, got {stop_excess!r}")
        if patience_ps is not None:
            check_not_negative("patience_ps", patience_ps, "time in ps")
        check_not_negative("release", release, "number of nats")
        for name, value in {"patience": check_integer("patience", patience, 1), "patience_ps": patience_ps}.items():
            if value is not None and value > MOST_PATIENCE:
                raise ValueError(
                    f"{name}: expected at most {MOST_PATIENCE}, got {value}, which would never open an event; give less"
                )
        self.patience = int(patience)
        self.patience_ps = patience_ps
        self.release = release
        self.cooldown = check_integer("cooldown", cooldown, 0)
        self.max_events = None if max_events is None else check_integer("max_events", max_events, 0)
        self.stop_excess = stop_excess
        self.visits = None if visits is None else check_integer("visits", visits, 2)
        self.window = check_integer("window", window, 2)
        if self.visits is not None and self.visits > most_visits(self.window):
            raise ValueError(
                f"visits: expected at most {most_visits(self.window)} in a window of {self.window} checks, since a "
                f"visit takes a check out and a check back, got {self.visits}, which would never open an event; give "
                f"fewer visits or window={2 * self.visits - 1} or more"
            )
        self.state: TriggerState = "in"
        self.n_events = 0
        self._waiting = _Waiting()
        self._visits = _Visits()

    def __repr__(self) -> str:
        return f"Trigger({', '.join(f'{name}={value!r}' for name, value in self.settings.items())})"

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters, as they would be given to a new Trigger."""
        names = ("patience", "patience_ps", "release", "cooldown", "max_events", "stop_excess", "visits", "window")
        return {name: getattr(self, name) for name in names}

    @property
    def n_visits(self) -> int:
        """Visits that opened the open event by their count; 0 where none is open or something else opened it."""
        return self._visits.n_opening

    @property
    def since(self) -> int:
        """Checks from the beginning of the first of these visits to the last check; 0 where `n_visits` is."""
        return self._visits.now - self._visits.first if self.n_visits else 0

    def fresh(self) -> "Trigger":
        """A trigger of the same settings that has seen nothing."""
        return Trigger(**self.settings)

    def update(self, excess: float, time_ps: float | None = None) -> TriggerState:
        """Take the excess of one check in nats (and its time in ps, for `patience_ps`) and return the new state.

        Returns
        -------
        state
            "in": no event; "opening": out, patience not yet spent; "open": an event is open; "stop": an event is
            open and the excess is above `stop_excess`.

        Raises
        ------
        ValueError
            If `patience_ps` is set and `time_ps` is not given.
        """
        if self.patience_ps is not None and (time_ps is None or math.isnan(time_ps)):
            raise ValueError(f"time_ps: expected a time in ps for patience_ps, got {time_ps!r}; use patience instead")
        out = not excess <= 0
        stop = self.stop_excess is not None and not excess <= self.stop_excess
        self._visits.now += 1
        if self.state in ("open", "stop"):
            if self._visits.closes(out, self.window) if self.n_visits else excess <= -self.release:
                self._waiting.streak, self._waiting.cooling = 0, self.cooldown
                self._visits.clear()
                self.state = "in"
            else:
                self.state = "stop" if stop else "open"
            return self.state
        if self._waiting.cooling > 0 and not stop:
            self._waiting.cooling -= 1
            out = False
        if self.max_events is not None and self.n_events >= self.max_events and not stop:
            out = False
        if self.visits is not None:
            self._visits.take(out, excess <= -self.release, self.window)
        if not out:
            self._waiting.streak = 0
            self.state = "in"
            return self.state
        self._waiting.streak += 1
        if self._waiting.streak == 1:
            self._waiting.start_ps = time_ps
        by_length = stop or self._patience_spent(time_ps)
        if by_length or self._visits.open_at(self.visits):
            if by_length:
                self._visits.clear()
            self.n_events += 1
            self.state = "stop" if stop else "open"
        else:
            self.state = "opening"
        return self.state

    def progress(self) -> dict[str, Any]:
        """What the trigger has seen, in plain types, for `restore`."""
        return {
            "state": self.state,
            "n_events": self.n_events,
            "streak": self._waiting.streak,
            "streak_start_ps": self._waiting.start_ps,
            "cooling": self._waiting.cooling,
        } | ({} if self.visits is None else {"visits": self._visits.state()})

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Continue where `progress` was taken from a trigger of the same settings."""
        self.state, self.n_events = progress["state"], progress["n_events"]
        self._waiting.streak, self._waiting.start_ps = progress["streak"], progress["streak_start_ps"]
        self._waiting.cooling = progress["cooling"]
        self._visits.restore(progress.get("visits"))

    def interrupt(self) -> None:
        """Forget a streak or an open event: the next checks cannot be joined to it."""
        self.state = "in"
        self._waiting.streak = 0
        self._visits.clear()

    def _patience_spent(self, time_ps: float | None) -> bool:
        if self.patience_ps is None:
            return self._waiting.streak >= self.patience
        assert time_ps is not None
        assert self._waiting.start_ps is not None
        return time_ps - self._waiting.start_ps >= self.patience_ps


@dataclass(slots=True)
class _Waiting:
    """What an event waits for."""

    streak: int = 0
    """Checks out in a row."""
    start_ps: float | None = None
    """Time of the first of them."""
    cooling: int = 0
    """Checks of the cool-down that are left."""


class _Visits:
    """The visits of late, and the event that they opened."""

    def __init__(self) -> None:
        self.now = 0
        """Checks so far."""
        self.begun: deque[int] = deque()
        """When the visits in the window began."""
        self.is_inside = False
        """Whether the last visit is not over yet."""
        self.n_opening = 0
        """Visits that opened the open event; 0 without one."""
        self.first = self.last_out = 0
        """When the first of these began, and the last check out of the event."""

    def take(self, out: bool, is_back: bool, window: int) -> None:
        """Take a check while no event is open."""
        if out and not self.is_inside:
            self.begun.append(self.now)
        self.is_inside = (self.is_inside or out) and not is_back
        while self.begun and self.now - self.begun[0] >= window:
            self.begun.popleft()

    def open_at(self, most: int | None) -> bool:
        """Open an event if there are enough visits; return whether there are."""
        if most is None or len(self.begun) < most:
            return False
        self.n_opening, self.first, self.last_out = len(self.begun), self.begun[0], self.now
        return True

    def closes(self, out: bool, window: int) -> bool:
        """Take a check of the event; return whether it is the last of so many of which none is out."""
        if out:
            self.last_out = self.now
        return self.now - self.last_out >= window

    def clear(self) -> None:
        """Forget visits and event."""
        self.begun.clear()
        self.is_inside = False
        self.n_opening = 0

    def state(self) -> list[Any]:
        """All of it, in plain types."""
        ages = [self.now - then for then in self.begun]
        of_event = [self.now - self.first, self.now - self.last_out] if self.n_opening else [0, 0]
        return [ages, self.is_inside, self.n_opening, *of_event]

    def restore(self, state: Sequence[Any] | None) -> None:
        """Continue where `state` was taken; None: nothing has been seen."""
        self.clear()
        if state is not None:
            ages, self.is_inside, self.n_opening, first, last_out = state
            self.begun.extend(self.now - age for age in ages)
            self.first, self.last_out = self.now - first, self.now - last_out
