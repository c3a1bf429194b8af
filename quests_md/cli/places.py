"""Which frames of which files an event is of: two frames of a run may have the same step."""

from collections.abc import Iterator

from quests_md.io import FramesSeen
from quests_md.monitor import Monitor
from quests_md.records import Check, Event

__all__ = ["EventPlaces"]


class EventPlaces:
    """Follows the checks of a run, and remembers at which of its frames each event was."""

    def __init__(self, monitor: Monitor, seen: FramesSeen) -> None:
        self.monitor, self.seen = monitor, seen
        self._frames: dict[int, tuple[int, int]] = {}
        """By the id of the event: counts of the frames at which it began and was last."""

    def follow(self, checks: Iterator[Check]) -> Iterator[Check]:
        """The checks as they come; those of a run are numbered from 0."""
        for count, check in enumerate(checks):
            if check.state != "in":
                for event in self.monitor.events[-2:]:
                    if event.id not in self._frames:
                        self._frames[event.id] = self._onset(event, count), count
                    elif event.is_open and event.last_step == check.step:
                        self._frames[event.id] = self._frames[event.id][0], count
            yield check

    def _onset(self, event: Event, count: int) -> int:
        steps = self.seen.steps
        at = min(count, len(steps) - 1)
        while at > 0 and steps[at] != event.onset_step:
            at -= 1
        return at

    def words(self, event: Event) -> str | None:
        """Words such as "frames 3 to 9 of run.xyz"; None for an event that was not followed."""
        if event.id not in self._frames:
            return None
        return self.seen.place(*self._frames[event.id])
