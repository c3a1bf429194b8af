"""The course of an event: from its checks to the Event record."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from quests_md._json import from_mapping, number, to_mapping
from quests_md.records import Check, Event, EventKind

from .cluster_tracker import ClusterTracker
from .findings import CLUSTER_ALARM, Findings, Peak

__all__ = ["EventCourse"]

#: Most entries of an event's size history.
MOST_HISTORY = 128

#: A cluster has grown if the smallest of its last GROWTH_CHECKS sizes is GROWTH times the largest of its first
#: GROWTH_CHECKS sizes, and it holds at least GROWN atoms. Whenever it is that large, it must hold the share COMPACT of
#: the atoms that all clusters could have beyond those that thermal motion gives.
GROWTH, GROWTH_CHECKS, GROWN, COMPACT = 2.0, 3, 20, 0.5

#: Largest share of the frame that a grown cluster may be: where all atoms leave the reference, nothing grows in it.
MOST_PART = 0.5


class EventCourse:
    """Collects the checks of one event, from the first check out; memory does not grow with its length."""

    def __init__(self, channel: EventKind, first: Check | None = None) -> None:
        self.channel = channel
        self.kind = channel
        self.event_id = 0
        self.phase: str | None = None
        self.reason = ""
        self.onset_step = 0 if first is None else first.step
        self.onset_time_ps = None if first is None else first.time_ps
        self.onset_temperature_K = None if first is None else first.temperature_K
        self.confirmed_step: int | None = None
        self.last_step = self.onset_step
        self.n_checks = 0
        self.n_open_checks = 0
        self._history: list[tuple[int, int, int]] = []  # step, size, atoms of the followed cluster
        self._every = 1
        self._alarms: dict[str, None] = {}
        self._alarms_now: tuple[str, ...] = ()
        self._peak: Peak | None = None
        self._tracker = ClusterTracker()
        self._track: int | None = None
        self._cluster: int | None = None
        self._first: list[int] = []
        self._recent: deque[int] = deque(maxlen=GROWTH_CHECKS)
        self._is_compact = True

    @property
    def is_confirmed(self) -> bool:
        """Whether patience has been spent."""
        return self.confirmed_step is not None

    def add(self, check: Check, excess: float, findings: Findings, alarms: Sequence[str] = ()) -> None:
        """Take the next check of the event, with the alarms that concern the event."""
        size, of_all = findings.size(self.channel)
        if self.channel != "exploded":
            findings.track(self.channel, self._tracker)
            self._follow(of_all)
        if self.n_checks % self._every == 0:
            self._history.append((check.step, size, self._cluster or 0))
            if len(self._history) > MOST_HISTORY:
                self._history = self._history[::2]
                self._every *= 2
        self.n_checks += 1
        if self.is_confirmed:
            self.n_open_checks += 1
        if check.state != "in":
            self.last_step = check.step
        self._alarms |= dict.fromkeys(alarms)
        self._alarms_now = tuple(alarms)
        if self._peak is None or excess > self._peak.peak_excess:
            self._peak = findings.peak(self.channel, excess)

    def confirm(self, event_id: int, check: Check, findings: Findings) -> None:
        """Patience is spent: the event is open."""
        if self.channel != "novel":
            self.reason, self.phase = findings.reason(self.channel)
        self.event_id = event_id
        self.confirmed_step = check.step
        self.n_open_checks = 1

    def has_grown(self) -> bool:
        """Whether one cluster has grown to twice its size and stays.

        Atoms that heat takes out of the reference here and there join in the end too, but most of them are elsewhere
        before that.
        """
        if len(self._recent) < GROWTH_CHECKS or not self._is_compact or not self._first:
            return False
        return min(self._recent) >= max(GROWN, GROWTH * max(self._first))

    def update_kind(self, check: Check) -> bool:
        """Call the event a transition once its cluster has grown. Returns whether that is new."""
        if self.kind != "novel" or not self.has_grown() or self._recent[-1] > MOST_PART * check.n_atoms:
            return False
        if "dh_mean" in self._alarms_now:  # the frame as a whole has left the reference
            return False
        self.kind = "transition"
        self.reason = (
            f"a connected cluster of atoms above the atom level grew from {max(self._first)} to {self._cluster} by "
            f"step {check.step}"
        )
        return True

    def record(self, *, is_open: bool) -> Event:
        """The event as it stands."""
        peak = self._peak
        assert peak is not None
        by_cluster = self.channel == "novel" and CLUSTER_ALARM in self._alarms
        return Event(
            id=self.event_id,
            kind=self.kind,
            onset_step=self.onset_step,
            confirmed_step=self.onset_step if self.confirmed_step is None else self.confirmed_step,
            last_step=self.last_step,
            onset_time_ps=self.onset_time_ps,
            onset_temperature_K=self.onset_temperature_K,
            alarms=tuple(self._alarms),
            # of one kind all along, whichever alarm came first
            size_history=tuple((step, cluster if by_cluster else size) for step, size, cluster in self._history),
            n_checks=self.n_checks,
            is_open=is_open,
            reason=self.reason,
            phase=self.phase,
            cluster=self._cluster,
            **{f.name: getattr(peak, f.name) for f in fields(peak)},
        )

    def state(self) -> dict[str, Any]:
        """All there is to know, in plain types."""
        names = (
            "channel", "kind", "event_id", "phase", "reason", "onset_step", "onset_time_ps", "onset_temperature_K",
            "confirmed_step", "last_step", "n_checks", "n_open_checks",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names} | {
            "history": [list(entry) for entry in self._history],
            "every": self._every,
            "alarms": list(self._alarms),
            "peak": None if self._peak is None else to_mapping(self._peak),
            "tracker": self._tracker.state(),
            "track": self._track,
            "cluster": self._cluster,
            "first": list(self._first),
            "recent": list(self._recent),
            "is_compact": self._is_compact,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "EventCourse":
        """The course of which `state` was taken."""
        course = cls(state["channel"])
        for name in ("kind", "event_id", "phase", "reason", "onset_step", "confirmed_step", "last_step"):
            setattr(course, name, state[name])
        course.onset_time_ps = number(state["onset_time_ps"])
        course.onset_temperature_K = number(state["onset_temperature_K"])
        course.n_checks, course.n_open_checks = state["n_checks"], state["n_open_checks"]
        for step, *sizes in state["history"]:
            course._history.append((int(step), int(sizes[0]), int(sizes[-1])))
        course._every = state["every"]
        course._alarms = dict.fromkeys(state["alarms"])
        course._peak = None if state["peak"] is None else from_mapping(Peak, state["peak"])
        course._tracker.restore(state["tracker"])
        course._track, course._cluster = state["track"], state["cluster"]
        course._first, course._is_compact = list(state["first"]), state["is_compact"]
        course._recent.extend(state["recent"])
        return course

    def _follow(self, of_all: int) -> None:
        """Stay with one cluster through merges; take the largest where it is lost."""
        tracks = {track.id: track for track in self._tracker.tracks}
        heir = next((t.id for t in tracks.values() if self._track in t.merged), self._track)
        if heir not in tracks:
            heir = max(tracks, key=lambda i: (tracks[i].size, -i), default=None)
        self._track = heir
        self._cluster = 0 if heir is None else tracks[heir].size
        if not self.is_confirmed:
            self._first = [*self._first, self._cluster][-GROWTH_CHECKS:]
        self._recent.append(self._cluster)
        self._is_compact = self._is_compact and (self._cluster < GROWN or self._cluster >= COMPACT * of_all)
