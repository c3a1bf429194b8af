"""Where the stretches of checks out of late began: an event that visits opened began with the first of them."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from quests_md._json import from_mapping, number, to_mapping
from quests_md.records import FramePlace

from .event_course import Onset

__all__ = ["Onsets"]


class Onsets:
    """The first checks of stretches of checks out within a window, with the counts of these checks."""

    def __init__(self) -> None:
        self._known: deque[tuple[int, Onset]] = deque()

    def first_of(self, onset: Onset, frame: int, window: int, since: int) -> Onset:
        """Take the onset of the stretch that begins with check `frame`; return that of `since` checks before, if known.

        `since` is 0 where no visits have opened an event.
        """
        self._known.append((frame, onset))
        while self._known[0][0] <= frame - window:
            self._known.popleft()
        return next(known for at, known in self._known if at >= frame - since)

    def state(self) -> list[list[Any]]:
        """All of it, in plain types."""
        return [
            [frame, *onset[:3], *([] if onset.place is None else [to_mapping(onset.place)])]
            for frame, onset in self._known
        ]

    def restore(self, state: Sequence[Sequence[Any]]) -> None:
        """Continue where `state` was taken, also where a log has turned NaN into a text."""
        self._known = deque(
            (frame, Onset(step, number(ps), number(kelvin), *(from_mapping(FramePlace, one) for one in place)))
            for frame, step, ps, kelvin, *place in state
        )
