"""Turn a stream of excesses over a level into the states of an alarm; knows no atoms."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from quests_md._arguments import check_integer, check_not_negative

__all__ = ["Trigger", "TriggerState"]

TriggerState = Literal["in", "opening", "open", "stop"]


class Trigger:
    """A debounced alarm with hysteresis: an event opens after patience and closes well below the level.

    Feed it the excess of every check in nats (`trigger_excess`, how far the worst statistic is beyond its level): a
    check is out when its excess is above 0 or NaN. Checks during the cool-down do not count for patience. An excess
    above `stop_excess` (or NaN, where `stop_excess` is set) makes the state "stop" whatever `cooldown` and `max_events`
    say.

    Parameters
    ----------
    patience
        Consecutive checks out before an event opens.
    patience_ps
        Time in ps for which checks are out before an event opens, instead of `patience`.
    release
        An open event closes at the first excess of -release or less, in nats.
    cooldown
        Checks after the end of an event during which no event opens.
    max_events
        Number of events after which no event opens.
    stop_excess
        Excess above which the state is "stop" at once, whatever the patience.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> trigger = Trigger(patience=2, release=0.5)
    >>> [trigger.update(excess) for excess in (-1.0, 0.3, 0.4, -0.2, -0.6)]
    ['in', 'opening', 'open', 'open', 'in']
    """

    def __init__(
        self,
        patience: int = 3,
        patience_ps: float | None = None,
        release: float = 0.5,
        cooldown: int = 0,
        max_events: int | None = None,
        stop_excess: float | None = None,
    ) -> None:
        if stop_excess is not None and not stop_excess > 0:
            raise ValueError(f"stop_excess: expected a positive number of nats, got {stop_excess!r}")
        if patience_ps is not None:
            check_not_negative("patience_ps", patience_ps, "time in ps")
        check_not_negative("release", release, "number of nats")
        self.patience = check_integer("patience", patience, 1)
        self.patience_ps = patience_ps
        self.release = release
        self.cooldown = check_integer("cooldown", cooldown, 0)
        self.max_events = None if max_events is None else check_integer("max_events", max_events, 0)
        self.stop_excess = stop_excess
        self.state: TriggerState = "in"
        self.n_events = 0
        self._streak = 0
        self._streak_start_ps: float | None = None
        self._cooling = 0

    def __repr__(self) -> str:
        return f"Trigger({', '.join(f'{name}={value!r}' for name, value in self.settings.items())})"

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters, as they would be given to a new Trigger."""
        names = ("patience", "patience_ps", "release", "cooldown", "max_events", "stop_excess")
        return {name: getattr(self, name) for name in names}

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
        if self.state in ("open", "stop"):
            if excess <= -self.release:
                self._streak, self._cooling = 0, self.cooldown
                self.state = "in"
            else:
                self.state = "stop" if stop else "open"
            return self.state
        if self._cooling > 0 and not stop:
            self._cooling -= 1
            out = False
        if self.max_events is not None and self.n_events >= self.max_events and not stop:
            out = False
        if not out:
            self._streak = 0
            self.state = "in"
            return self.state
        self._streak += 1
        if self._streak == 1:
            self._streak_start_ps = time_ps
        if stop or self._patience_spent(time_ps):
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
            "streak": self._streak,
            "streak_start_ps": self._streak_start_ps,
            "cooling": self._cooling,
        }

    def restore(self, progress: Mapping[str, Any]) -> None:
        """Continue where `progress` was taken from a trigger of the same settings."""
        self.state, self.n_events = progress["state"], progress["n_events"]
        self._streak, self._streak_start_ps = progress["streak"], progress["streak_start_ps"]
        self._cooling = progress["cooling"]

    def interrupt(self) -> None:
        """Forget a streak or an open event: the next checks cannot be joined to it."""
        self.state = "in"
        self._streak = 0

    def _patience_spent(self, time_ps: float | None) -> bool:
        if self.patience_ps is None:
            return self._streak >= self.patience
        assert time_ps is not None
        assert self._streak_start_ps is not None
        return time_ps - self._streak_start_ps >= self.patience_ps
