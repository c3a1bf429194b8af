"""From checks to events: the state of a run, which its log alone can bring back."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from numpy.typing import NDArray

from quests_md.calibration import TAIL_SHARE, NullScores, level_of
from quests_md.environments import clusters, coordination, identities
from quests_md.judge import GROWN, GROWTH, Judged
from quests_md.records import Check, Environment, Event, NearestEnvironment, number
from quests_md.reference import Reference

from .baseline import Baseline
from .cluster_tracker import ClusterTracker
from .event_course import CLUSTER_ALARM, MOST_ATOMS, Channel, EventCourse, Peak
from .explosion import Explosion
from .run_log import NoteLevel
from .trigger import Trigger

__all__ = ["Followed", "Follower", "OwnClusters"]

#: Closed events kept in memory; all of them are in the log.
RECENT_EVENTS = 1000

#: Checks between two lines of the log that hold the whole state, so that a resumed run reads no more than these.
SNAPSHOT = 1000

#: Atoms of an event that are explained.
EXPLAINED = 3

#: What has patience, with a trigger of its own: what the reference judges, and what the run's own past or phases judge.
PATIENT: tuple[Channel, ...] = ("novel", "transition")


@dataclass(frozen=True, slots=True)
class Followed:
    """A check as the run so far makes it, and what is to be done after it."""

    judged: Judged
    lines: Sequence[dict[str, Any]]
    """For the log: the check, what of the state cannot be had from it, events."""
    events: Sequence[tuple[Event, bool]] = ()
    """Events for the actions, and whether each is new."""
    notes: Sequence[tuple[NoteLevel, str]] = ()
    """Level and text of notes."""
    stop: bool = False
    """Whether the trigger asks for the end of the run."""


class Follower:
    """Turns checks into events: what is out of the reference, what changes in the run itself, and what has exploded.

    A "novel" event is opened by the statistics that the reference judges, a "transition" by those that the run's own
    beginning or the labelled phases judge; each has a trigger of the same settings. An explosion opens at once.

    `take` and `replay` do the same with a check, from its frame and from the lines that `take` returned for it, so that
    the log alone brings a run back.

    Parameters
    ----------
    reference
        What is known.
    trigger
        Settings of the triggers.
    baseline
        The run's own beginning as judge of some statistics; None: it judges nothing.
    explosion
        Watches temperature and volume.
    false_alarms
        Rate of false alarms by the largest cluster of each labelled phase, where a baseline judges that.
    """

    def __init__(
        self,
        reference: Reference,
        trigger: Trigger,
        baseline: Baseline | None,
        explosion: Explosion,
        false_alarms: float = 0.01,
    ) -> None:
        self.reference = reference
        self.triggers = {channel: trigger.fresh() for channel in PATIENT}
        self.baseline = baseline
        self.explosion = explosion
        self.own_clusters = OwnClusters(false_alarms)
        self.n_checks = 0
        self.n_events = 0
        self.n_outliers = 0
        """Times that checks were out, but not for long enough to open an event."""
        self.closed: deque[Event] = deque(maxlen=RECENT_EVENTS)
        self._courses: dict[Channel, EventCourse] = {}

    @property
    def open_events(self) -> list[Event]:
        """Events that are open, in order of id."""
        courses = [course for course in self._courses.values() if course.is_confirmed]
        return sorted((course.record(is_open=True) for course in courses), key=lambda event: event.id)

    @property
    def settled(self) -> int:
        """Id of the first event that may still change: all before it are closed."""
        courses = (course.event_id for course in self._courses.values() if course.is_confirmed)
        return min(courses, default=self.n_events + 1)

    def events_from(self, event_id: int) -> list[Event]:
        """Events from this id on; of the closed ones the last 1000 at most."""
        events = sorted([*self.closed, *self.open_events], key=lambda event: event.id)
        return [event for event in events if event.id >= event_id]

    def take(self, judged: Judged, atoms: Atoms) -> Followed:
        """Take the next check of the run with its frame."""
        notes: list[tuple[NoteLevel, str]] = []
        by_frame = bool(judged.check.explosion)  # then temperature and volume are not asked
        if judged.check.state != "invalid":
            judged = self._judge_explosion(self._judge_by_baseline(judged, notes))
        is_out = max(self._excesses("novel", judged.check).values(), default=-math.inf) > 0
        findings = _FromFrame(judged, atoms, self.reference, is_out)
        if by_frame:
            findings.used["exploded_by_frame"] = True
        lines, events, stop = self._advance(judged.check, findings)
        if findings.used:
            state = {"type": "state", "step": judged.check.step, "frame": judged.check.frame}
            lines.insert(0, state | findings.used)
        check = judged.check
        for event, is_new in events:
            if is_new and event.kind == "exploded":
                what = "invalid frame" if check.state == "invalid" else "exploded"
                notes.append(("error", f"{what} at step {check.step}: {event.reason}"))
        return Followed(judged, [judged.check.to_line(), *lines], events, notes, stop)

    def replay(self, check: Check, found: Mapping[str, Any]) -> None:
        """Take a check as the log has it, with what its state line holds ({} without one)."""
        if check.state != "invalid":
            if self.baseline is not None and check.time_ps is not None:
                self.baseline.update(_values(self.baseline, check), check.time_ps)
                self.own_clusters.update(check, is_over=self.baseline.is_complete)
            if not found.get("exploded_by_frame"):
                self.explosion.update(check.temperature_K, check.volume_per_atom, check.n_atoms)
        self._advance(check, _FromLog(found))

    def state(self) -> dict[str, Any]:
        """All there is to know of the run so far, in plain types; closed events are in the log."""
        return {
            "n_checks": self.n_checks,
            "n_events": self.n_events,
            "n_outliers": self.n_outliers,
            "triggers": {channel: trigger.progress() for channel, trigger in self.triggers.items()},
            "baseline": None if self.baseline is None else self.baseline.state(),
            "own_clusters": self.own_clusters.state(),
            "explosion": self.explosion.state(),
            "courses": {channel: course.state() for channel, course in self._courses.items()},
        }

    def snapshot(self, check: Check) -> dict[str, Any]:
        """The line of the log that holds the whole state after a check."""
        return {"type": "state", "step": check.step, "frame": check.frame, "snapshot": self.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken, also where a log has turned inf and NaN into texts."""
        self.n_checks, self.n_events, self.n_outliers = state["n_checks"], state["n_events"], state["n_outliers"]
        for channel, trigger in self.triggers.items():
            trigger.restore(state["triggers"][channel])
        if self.baseline is not None:
            self.baseline.restore(state["baseline"])
        self.own_clusters.restore(state["own_clusters"])
        self.explosion.restore(state["explosion"])
        self._courses = {
            channel: EventCourse.from_state({name: number(name, value) for name, value in course.items()})
            for channel, course in state["courses"].items()
        }

    def _judge_by_baseline(self, judged: Judged, notes: list[tuple[NoteLevel, str]]) -> Judged:
        """The check as the run's own beginning judges it, once that is complete."""
        check, baseline = judged.check, self.baseline
        if baseline is None:
            return judged
        if check.time_ps is None or math.isnan(check.time_ps):
            raise ValueError("baseline_ps: expected a time in ps with every frame, got none")
        was_complete = baseline.is_complete
        excesses: dict[str, float | None] = dict(baseline.update(_values(baseline, check), check.time_ps))
        own = self.own_clusters.update(check, is_over=baseline.is_complete)
        if not baseline.is_complete:
            # of the frame entropy at another temperature the reference knows nothing; a high mean is worth a word
            return judged.with_excesses({"frame_entropy": None} | dict.fromkeys(own))
        excesses |= {name: min(excess, check.excesses[name]) for name, excess in own.items()}
        if not was_complete:
            notes.append(("info", str(baseline.text)))
        # the reference no longer has a say in these, even where the baseline was too short to have one
        return judged.with_excesses(dict.fromkeys(baseline.statistics) | excesses)

    def _judge_explosion(self, judged: Judged) -> Judged:
        check = judged.check
        reason = check.explosion  # of atoms on top of each other: temperature and volume no longer say anything
        if not reason:
            reason = self.explosion.update(check.temperature_K, check.volume_per_atom, check.n_atoms)
        return replace(judged, check=replace(check, explosion=reason, state="out")) if reason else judged

    def _advance(
        self, check: Check, findings: "_FromFrame | _FromLog"
    ) -> tuple[list[dict[str, Any]], list[tuple[Event, bool]], bool]:
        """Lines of events for the log, events for the actions, and whether to stop."""
        self.n_checks += 1
        lines: list[dict[str, Any]] = []
        events: list[tuple[Event, bool]] = []
        if check.state == "invalid" or check.explosion:
            stop = self._explode(check, findings, lines, events)
        else:
            self._close("exploded", lines)
            stop = False
            for channel in PATIENT:
                stop |= self._update(channel, check, findings, lines, events)
        # a baseline is as long as its checks are many: in one that is still collected every snapshot would be longer
        if self.n_checks % SNAPSHOT == 0 and (self.baseline is None or self.baseline.is_complete):
            lines.append(self.snapshot(check))
        return lines, events, stop

    def _update(
        self,
        channel: Channel,
        check: Check,
        findings: "_FromFrame | _FromLog",
        lines: list[dict[str, Any]],
        events: list[tuple[Event, bool]],
    ) -> bool:
        """Ask the trigger of this channel, follow its event. Returns whether it asks for the end of the run."""
        excesses, trigger = self._excesses(channel, check), self.triggers[channel]
        excess = max(excesses.values(), default=-math.inf)
        before = trigger.state
        after = trigger.update(excess, check.time_ps)
        if after != before:
            findings.changed(channel, after)
        if after == "in":
            self.n_outliers += before == "opening"
            self._close(channel, lines)
            return False
        course = self._courses.setdefault(channel, EventCourse(channel, check))
        course.add(check, excess, findings, [name for name, value in excesses.items() if value > 0])
        if after in ("open", "stop"):
            self._open_or_follow(course, check, findings, lines, events)
        return after == "stop"

    def _excesses(self, channel: Channel, check: Check) -> dict[str, float]:
        """The excesses of the statistics of a channel."""
        own = self.baseline.statistics if self.baseline is not None and self.baseline.is_complete else ()
        of_run = {*own, *(f"{name}_drift" for name in own)}
        return {
            name: excess
            for name, excess in check.excesses.items()
            if (name in of_run or name.startswith("phase:")) == (channel == "transition")
        }

    def _explode(
        self,
        check: Check,
        findings: "_FromFrame | _FromLog",
        lines: list[dict[str, Any]],
        events: list[tuple[Event, bool]],
    ) -> bool:
        """An event at once; what came before cannot be joined to what comes after."""
        for channel in PATIENT:
            self._close(channel, lines)
            self.triggers[channel].interrupt()
        course = self._courses.setdefault("exploded", EventCourse("exploded", check))
        course.add(check, math.inf if check.explosion else math.nan, findings)
        self._open_or_follow(course, check, findings, lines, events)
        return any(trigger.stop_excess is not None for trigger in self.triggers.values())

    def _open_or_follow(
        self,
        course: EventCourse,
        check: Check,
        findings: "_FromFrame | _FromLog",
        lines: list[dict[str, Any]],
        events: list[tuple[Event, bool]],
    ) -> None:
        is_new = not course.is_confirmed
        if is_new:
            self.n_events += 1
            course.confirm(self.n_events, check, findings)
            if course.channel in self.triggers:  # one budget for all
                for trigger in self.triggers.values():
                    trigger.n_events = self.triggers[course.channel].n_events
        has_changed = course.update_kind(check)
        # the 1st, 2nd, 4th, ... check of an open event: a killed run has lost at most half of its course
        if not has_changed and course.n_open_checks & (course.n_open_checks - 1):
            return
        event = course.record(is_open=True)
        lines.append(event.to_line())
        events.append((event, is_new))

    def _close(self, channel: Channel, lines: list[dict[str, Any]]) -> None:
        course = self._courses.pop(channel, None)
        if course is not None and course.is_confirmed:
            event = course.record(is_open=False)
            self.closed.append(event)
            lines.append(event.to_line())


class OwnClusters:
    """Levels for the largest cluster of each labelled phase from the first stretch of the run itself."""

    def __init__(self, false_alarms: float) -> None:
        self.false_alarms = false_alarms
        self._sizes: dict[str, list[int]] = {}
        self._levels: dict[str, float] = {}

    def update(self, check: Check, *, is_over: bool) -> dict[str, float]:
        """How far each cluster is above its level, log of the ratio; NaN during the first stretch."""
        clusters = check.phase_clusters or {}
        if not is_over:
            for name, size in clusters.items():
                self._sizes.setdefault(name, []).append(size)
            return {f"phase:{name}": math.nan for name in clusters}
        if self._sizes:
            rate = self.false_alarms / len(self._sizes)
            self._levels = {name: _own_level(sizes, check.n_atoms, rate) for name, sizes in self._sizes.items()}
            self._sizes = {}
        levels = {name: self._levels.get(name, 0.0) for name in clusters}
        return {f"phase:{name}": math.log((clusters[name] + 1) / (level + 1)) for name, level in levels.items()}

    def state(self) -> dict[str, Any]:
        """All there is to know, in plain types."""
        return {"sizes": {name: list(sizes) for name, sizes in self._sizes.items()}, "levels": dict(self._levels)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self._sizes = {name: list(sizes) for name, sizes in state["sizes"].items()}
        self._levels = dict(state["levels"])


def _own_level(sizes: Sequence[int], n_atoms: int, rate: float) -> float:
    scores = np.sort(np.array(sizes, dtype=np.float64))
    null = NullScores("phase_cluster", None, "above", "both", scores, np.full(len(scores), n_atoms))
    return max(GROWTH * level_of(null, "extreme", n_atoms, rate, 1).value, GROWN)


@dataclass(slots=True)
class _FromFrame:
    """What events take from a frame; what was taken is kept for the log."""

    judged: Judged
    atoms: Atoms
    reference: Reference
    is_out: bool
    """Whether the frame has left the reference, as the reference judges it."""
    used: dict[str, Any] = field(default_factory=dict)

    def changed(self, channel: Channel, state: str) -> None:
        self.used.setdefault("trigger", {})[channel] = state

    def reason(self, channel: Channel) -> tuple[str, str | None]:
        judged, check = self.judged, self.judged.check
        reason, phase = judged.reason or check.explosion if channel == "exploded" else "", None
        if channel == "transition":
            phase = judged.product_phase
            if phase is not None and check.excesses.get(f"phase:{phase}", -math.inf) > 0:
                reason = f"a connected cluster of {phase} is larger than any that the parent phase has by itself"
                if self.is_out:
                    reason += "; the frame leaves the reference too, so this may be the nearest name for something else"
            else:
                phase = None
                changed = [name for name in check.alarms if not name.startswith("phase:")]
                reason = f"unlike the run's own beginning: {', '.join(changed)}; which phase is not known"
        self.used.setdefault("reason", {})[channel] = [reason, phase]
        return reason, phase

    def size(self, channel: Channel) -> tuple[int, int]:
        judged = self.judged
        if self._is_of_phase(channel):
            size = of_all = (judged.check.phase_clusters or {}).get(judged.product_phase or "", 0)
        else:
            n_tail = 0 if judged.tail is None else int(judged.tail.sum())
            size = int(self._flagged(channel).sum())
            of_all = max(0, n_tail - math.ceil(2 * TAIL_SHARE * len(self.atoms)))
        self.used.setdefault("sizes", {})[channel] = [size, of_all]
        return size, of_all

    def track(self, channel: Channel, tracker: ClusterTracker) -> None:
        tail = self.judged.tail
        chosen = self._chosen(channel) if self._is_of_phase(channel) or tail is None else tail
        names = identities(self.atoms)
        found = clusters(self.atoms, chosen, self.reference.pair_distances())
        tracker.update(self.judged.check.step, [names[cluster] for cluster in found])
        self.used.setdefault("tracks", {})[channel] = tracker.state()

    def peak(self, channel: Channel, excess: float) -> Peak:
        check, frame = self.judged.check, self.atoms
        chosen = np.flatnonzero(self._chosen(channel))
        if self._is_of_phase(channel):
            found = clusters(frame, self._chosen(channel), self.reference.pair_distances())
            chosen = found[0] if found else chosen
        elif check.delta_entropy is not None:
            chosen = chosen[np.argsort(-self._delta_entropy(chosen), kind="stable")]
        n_atoms, chosen = len(chosen), chosen[:MOST_ATOMS]
        names = identities(frame).astype(np.int64)
        worst = check.worst_atom if channel != "exploded" else int(chosen[0]) if n_atoms else None
        environments = self._explained(chosen[:EXPLAINED] if channel == "novel" else chosen[:0])
        nearest = None
        if worst is not None and self.judged.rows is not None:
            nearest = self._nearest(np.array([worst]))[0]
        peak = Peak(
            peak_excess=excess,
            peak_step=check.step,
            n_atoms=n_atoms,
            atoms=tuple(int(i) for i in np.sort(names[chosen])),
            centroid=_centroid(frame, chosen),
            worst_atom=None if worst is None else int(names[worst]),
            worst_element=None if worst is None else str(frame.symbols[worst]),
            nearest=nearest,
            environments=environments,
        )
        self.used.setdefault("peaks", {})[channel] = peak.to_line()
        return peak

    def _flagged(self, channel: Channel) -> NDArray[np.bool_]:
        """(n_atoms,) atoms that by themselves are of an event of this channel."""
        judged, chosen = self.judged, np.zeros(len(self.atoms), dtype=bool)
        if channel == "exploded":
            chosen[list(judged.offenders)] = True
        elif channel == "transition" and judged.product is not None:
            chosen |= judged.product
        elif judged.check.above is not None:
            chosen |= judged.check.above
        return chosen

    def _chosen(self, channel: Channel) -> NDArray[np.bool_]:
        """(n_atoms,) atoms of an event of this channel: where none is flagged by itself those of its cluster."""
        chosen, tail = self._flagged(channel), self.judged.tail
        if chosen.any() or tail is None or channel == "exploded" or self._is_of_phase(channel):
            return chosen
        if CLUSTER_ALARM in self.judged.check.alarms:
            chosen[clusters(self.atoms, tail, self.reference.pair_distances())[0]] = True
        return chosen

    def _is_of_phase(self, channel: Channel) -> bool:
        return channel == "transition" and self.judged.product is not None

    def _nearest(self, these: NDArray[np.int64]) -> list[NearestEnvironment | None]:
        rows = self.judged.rows
        assert rows is not None
        found = self.reference.nearest(rows[these], numbers=self.atoms.numbers[these], threads=1)
        return [self.reference.describe_nearest(found, i) for i in range(len(these))]

    def _delta_entropy(self, these: NDArray[np.int64]) -> NDArray[np.float64]:
        """DH of some atoms, whatever the mode of evaluation."""
        known, rows = self.judged.check.delta_entropy, self.judged.rows
        dh = np.full(len(these), math.nan) if known is None else known[these].copy()
        unknown = np.isnan(dh)
        if unknown.any() and rows is not None:
            at = these[unknown]
            dh[unknown] = self.reference.delta_entropy(rows[at], numbers=self.atoms.numbers[at], threads=1)
        return dh

    def _explained(self, worst: NDArray[np.int64]) -> tuple[Environment, ...]:
        if self.judged.rows is None or not len(worst) or self.judged.check.delta_entropy is None:
            return ()
        dh = self._delta_entropy(worst)
        names, pairs = identities(self.atoms), self.reference.pair_distances()
        return tuple(
            Environment(
                atom=int(names[i]),
                element=str(self.atoms.symbols[i]),
                delta_entropy=float(dh[n]),
                coordination=coordination(self.atoms, int(i), pairs),
                nearest=nearest,
            )
            for n, (i, nearest) in enumerate(zip(worst, self._nearest(worst), strict=True))
        )


@dataclass(frozen=True, slots=True)
class _FromLog:
    """What events took from a frame, as the log has it."""

    found: Mapping[str, Any]

    def changed(self, channel: Channel, state: str) -> None:
        pass

    def reason(self, channel: Channel) -> tuple[str, str | None]:
        reason, phase = self.found["reason"][channel]
        return reason, phase

    def size(self, channel: Channel) -> tuple[int, int]:
        size, of_all = self.found["sizes"][channel]
        return int(size), int(of_all)

    def track(self, channel: Channel, tracker: ClusterTracker) -> None:
        tracker.restore(self.found["tracks"][channel])

    def peak(self, channel: Channel, excess: float) -> Peak:
        return Peak.from_line(self.found["peaks"][channel])


def _values(baseline: Baseline, check: Check) -> dict[str, float | None]:
    return {name: getattr(check, name) for name in baseline.statistics}


def _centroid(frame: Atoms, chosen: NDArray[np.int64]) -> tuple[float, float, float] | None:
    """Mean position of the chosen atoms, each at its image nearest to the first."""
    if len(chosen) == 0 or not np.isfinite(frame.positions[chosen]).all():
        return None
    origin = frame.positions[chosen[0]]
    shifts, _ = find_mic(frame.positions[chosen] - origin, frame.cell, frame.pbc)
    x, y, z = (float(v) for v in origin + np.asarray(shifts).mean(axis=0))
    return (x, y, z) if all(map(math.isfinite, (x, y, z))) else None
