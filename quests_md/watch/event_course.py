"""The course of an event: from its checks to the Event record."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from quests_md._json import from_mapping, number, to_mapping
from quests_md.records import Check, Event, EventKind, FramePlace, has_cluster_alarm

from .cluster_tracker import ClusterTracker
from .findings import Findings, Peak

__all__ = ["EventCourse", "Onset"]

#: Most entries of an event's size history.
MOST_HISTORY = 128

#: A cluster has grown if the smallest of its last GROWTH_CHECKS sizes is GROWTH times the largest of its first
#: GROWTH_CHECKS sizes, and it holds at least GROWN atoms. Whenever it is that large, it must hold the share COMPACT of
#: the atoms that all clusters could have beyond those that thermal motion gives.
GROWTH, GROWTH_CHECKS, GROWN, COMPACT = 2.0, 3, 20, 0.5

#: Atoms of a growing cluster stay in it: of those that chance would take out, more than this share is still above the
#: level one check later. In ten freezing melts it was 0.15 to 0.7, in six heated crystals -0.1 to 0.1.
STAYING = 0.15

#: Largest share of the frame that a grown cluster may be: where all atoms leave the reference, nothing grows in it.
MOST_PART = 0.5


@dataclass(slots=True)
class _History:
    """The sizes of an event by step, thinned by half whenever they are too many, and where it was in files."""

    entries: list[tuple[int, int, int]]
    """(step, size, atoms of the followed cluster)"""
    every: int = 1
    """Checks from one entry to the next."""
    places: dict[str, FramePlace] = field(default_factory=dict)
    """Where the frames of its peak and of its last check out stand, in runs of files."""
    last: tuple[int, int] = (0, 0)
    """Size, and atoms of the followed cluster, at the last check."""

    def add(self, n_before: int, step: int, size: int, cluster: int) -> None:
        """Take the sizes of a check before which the event had `n_before` checks."""
        self.last = size, cluster
        if n_before % self.every:
            return
        self.entries.append((step, size, cluster))
        if len(self.entries) > MOST_HISTORY:
            self.entries = self.entries[::2]
            self.every *= 2

    def note(self, name: str, check: Check) -> None:
        """Remember where the frame of a check stands."""
        if check.place is not None:
            self.places[name] = check.place


class _Growth:
    """The cluster that an event follows, and whether it grows."""

    def __init__(self) -> None:
        self.tracker = ClusterTracker()
        self.track: int | None = None  # id of the followed track
        self.size: int | None = None
        self.first: list[int] = []  # the last sizes before the event was confirmed
        self.recent: deque[int] = deque(maxlen=GROWTH_CHECKS)
        self.stayed: deque[tuple[int, ...]] = deque(maxlen=GROWTH_CHECKS)  # see `Findings.stayed`
        self.is_compact = True

    def follow(self, of_all: int, *, is_confirmed: bool) -> None:
        """Stay with one cluster through merges; take the largest where it is lost."""
        tracks = {track.id: track for track in self.tracker.tracks}
        heir = next((t.id for t in tracks.values() if self.track in t.merged), self.track)
        if heir not in tracks:
            heir = max(tracks, key=lambda i: (tracks[i].size, -i), default=None)
        self.track = heir
        self.size = 0 if heir is None else tracks[heir].size
        if not is_confirmed:
            self.first = [*self.first, self.size][-GROWTH_CHECKS:]
        self.recent.append(self.size)
        self.is_compact = self.is_compact and (self.size < GROWN or self.size >= COMPACT * of_all)

    def has_grown(self) -> bool:
        """Whether the cluster has grown to twice its size and stays.

        Atoms that heat takes out of the reference here and there join in the end, too. Before they do, most of them are
        outside of the largest cluster, which then is not compact.
        """
        if len(self.recent) < GROWTH_CHECKS or not self.is_compact or not self.first:
            return False
        return min(self.recent) >= max(GROWN, GROWTH * max(self.first))

    def stays(self) -> bool:
        """Whether the atoms of the cluster stay above the level from check to check.

        Heat raises all atoms, and which of them are above the level changes all the time: the share of those above it
        that are so at the next check is that of all atoms. Atoms of a new phase stay.
        """
        if not self.stayed:
            return True  # not known
        still, n, n_tail, n_all = np.array(self.stayed, dtype=np.float64).T
        by_chance = n * n_tail / n_all
        return bool((still - by_chance).sum() > STAYING * (n - by_chance).sum())

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where the state of the event was taken."""
        self.tracker.restore(state["tracker"])
        self.track, self.size, self.is_compact = state["track"], state["cluster"], state["is_compact"]
        self.first = list(state["first"])
        self.recent.extend(state["recent"])
        self.stayed.extend(tuple(numbers) for numbers in state.get("stayed", ()))  # versions before did not have it


class Onset(NamedTuple):
    """The first check out."""

    step: int
    time_ps: float | None
    temperature_K: float | None
    place: FramePlace | None = None

    @classmethod
    def of(cls, check: Check) -> "Onset":
        """The onset of an event that begins with this check."""
        return cls(check.step, check.time_ps, check.temperature_K, check.place)


class _Opening(NamedTuple):
    """When the patience of the trigger was spent, or visits were enough."""

    event_id: int
    step: int
    n_before: int
    """Checks of the event before that one."""


class EventCourse:
    """Collects the checks of one event, from the first check out; memory does not grow with its length."""

    def __init__(self, channel: EventKind, onset: Onset) -> None:
        self.channel = channel
        self.kind = channel
        self.phase: str | None = None
        self.reason = ""
        self.last_step = onset.step
        self.n_checks = 0
        self._onset = onset
        self._opening: _Opening | None = None
        self._history = _History([])
        self._growth = _Growth()
        self._alarms: dict[str, None] = {}
        self._peak: Peak | None = None

    @classmethod
    def begun_by(cls, channel: EventKind, check: Check) -> "EventCourse":
        """The course of an event whose first check out is this one, which is yet to be added."""
        return cls(channel, Onset.of(check))

    @property
    def is_confirmed(self) -> bool:
        """Whether the event is open: patience spent, or visits enough."""
        return self._opening is not None

    @property
    def event_id(self) -> int:
        """Count of the event, 0 before it is confirmed."""
        return 0 if self._opening is None else self._opening.event_id

    @property
    def n_open_checks(self) -> int:
        """Checks since it was confirmed, the confirming one included."""
        return 0 if self._opening is None else self.n_checks - self._opening.n_before

    @property
    def size(self) -> int:
        """Atoms of the event at its last check, of those that its `Event.size_history` counts."""
        return self._history.last[self._is_by_cluster]

    @property
    def _is_by_cluster(self) -> bool:
        """Whether the atoms of the followed cluster are its size."""
        return self.channel == "novel" and has_cluster_alarm(self._alarms)

    def add(self, check: Check, excess: float, findings: Findings, alarms: Sequence[str] = ()) -> None:
        """Take the next check of the event, with the alarms that concern the event."""
        size, of_all = findings.size(self.channel)
        if self.channel != "exploded":
            growth = self._growth
            stayed = findings.stayed(self.channel, growth.tracker.anchors(growth.track))
            if stayed is not None:
                growth.stayed.append(stayed)
            findings.track(self.channel, growth.tracker)
            growth.follow(of_all, is_confirmed=self.is_confirmed)
        self._history.add(self.n_checks, check.step, size, self._growth.size or 0)
        self.n_checks += 1
        if check.state != "in":
            self.last_step = check.step
            self._history.note("last", check)
        self._alarms |= dict.fromkeys(alarms)
        if self._peak is None or excess > self._peak.peak_excess:
            self._peak = findings.peak(self.channel, excess)
            self._history.note("peak", check)

    def confirm(self, event_id: int, check: Check, findings: Findings, of_visits: str = "") -> None:
        """Patience is spent, or visits are enough (`of_visits` says how many): the event is open."""
        reason, self.phase = findings.reason(self.channel)
        self.reason = "; ".join(text for text in (reason, of_visits) if text)
        self._opening = _Opening(event_id, check.step, self.n_checks - 1)

    def update_kind(self, check: Check, alarms: Sequence[str]) -> bool:
        """Call the event a transition once its cluster has grown. Returns whether that is new."""
        growth = self._growth
        if self.kind != "novel" or not growth.has_grown() or growth.recent[-1] > MOST_PART * check.n_atoms:
            return False
        if "dh_mean" in alarms:  # the frame as a whole has left the reference
            return False
        # so it has where the mean local score is out, but a new phase raises that as well
        if "local_mean" in alarms and not growth.stays():
            return False
        self.kind = "transition"
        is_local = "local_cluster" in self._alarms and "tail_cluster" not in self._alarms
        self.reason = (
            f"a connected cluster of atoms above the {'local' if is_local else 'atom'} level grew from "
            f"{max(growth.first)} to {growth.size} by step {check.step}"
        )
        return True

    def record(self, *, is_open: bool) -> Event:
        """The event as it stands."""
        peak = self._peak
        assert peak is not None
        by_cluster = self._is_by_cluster
        sizes = ((step, cluster if by_cluster else size) for step, size, cluster in self._history.entries)
        return Event(
            id=self.event_id,
            kind=self.kind,
            onset_step=self._onset.step,
            confirmed_step=self._onset.step if self._opening is None else self._opening.step,
            last_step=self.last_step,
            onset_time_ps=self._onset.time_ps,
            onset_temperature_K=self._onset.temperature_K,
            alarms=tuple(self._alarms),
            size_history=tuple(sizes),  # of one kind all along, whichever alarm came first
            n_checks=self.n_checks,
            is_open=is_open,
            reason=self.reason,
            phase=self.phase,
            cluster=self._growth.size,
            onset_place=self._onset.place,
            peak_place=self._history.places.get("peak"),
            last_place=self._history.places.get("last"),
            **{f.name: getattr(peak, f.name) for f in fields(peak)},
        )

    def state(self) -> dict[str, Any]:
        """All there is to know, in plain types."""
        growth, onset, places = self._growth, self._onset, self._history.places
        return {
            "channel": self.channel,
            "kind": self.kind,
            "event_id": self.event_id,
            "phase": self.phase,
            "reason": self.reason,
            "onset_step": onset.step,
            "onset_time_ps": onset.time_ps,
            "onset_temperature_K": onset.temperature_K,
            "confirmed_step": None if self._opening is None else self._opening.step,
            "last_step": self.last_step,
            "n_checks": self.n_checks,
            "n_open_checks": self.n_open_checks,
            "history": [list(entry) for entry in self._history.entries],
            "every": self._history.every,
            "alarms": list(self._alarms),
            "peak": None if self._peak is None else to_mapping(self._peak),
            "tracker": growth.tracker.state(),
            "track": growth.track,
            "cluster": growth.size,
            "first": list(growth.first),
            "recent": list(growth.recent),
            "stayed": [list(numbers) for numbers in growth.stayed],
            "is_compact": growth.is_compact,
        } | (
            {}
            if onset.place is None
            else {"onset_place": to_mapping(onset.place)} | {"places": {n: to_mapping(p) for n, p in places.items()}}
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "EventCourse":
        """The course of which `state` was taken."""
        time_ps, temperature_K = (number(state[f"onset_{name}"]) for name in ("time_ps", "temperature_K"))
        place = None if state.get("onset_place") is None else from_mapping(FramePlace, state["onset_place"])
        course = cls(state["channel"], Onset(state["onset_step"], time_ps, temperature_K, place))
        for name in ("kind", "phase", "reason", "last_step", "n_checks"):
            setattr(course, name, state[name])
        if state["confirmed_step"] is not None:
            n_before = state["n_checks"] - state["n_open_checks"]
            course._opening = _Opening(state["event_id"], state["confirmed_step"], n_before)
        entries = [(int(step), int(sizes[0]), int(sizes[-1])) for step, *sizes in state["history"]]
        course._history = _History(
            entries,
            state["every"],
            {name: from_mapping(FramePlace, place) for name, place in state.get("places", {}).items()},
            entries[-1][1:] if entries else (0, 0),
        )
        course._growth.restore(state)
        course._alarms = dict.fromkeys(state["alarms"])
        course._peak = None if state["peak"] is None else from_mapping(Peak, state["peak"])
        return course
