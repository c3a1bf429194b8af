"""From checks to events: triggers, open events, explosions. The log alone can bring this state back."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ase import Atoms

from quests_md.judge import Judged
from quests_md.records import Check, Event, EventKind
from quests_md.reference import Reference

from .baseline import Baseline, OwnClusters
from .event_course import EventCourse, Onset
from .explosion import Explosion
from .findings import Findings, FrameFindings, LoggedFindings
from .onsets import Onsets
from .run_log import NoteLevel
from .trigger import Trigger

__all__ = ["EventFollower", "Followed"]

#: Closed events kept in memory; all of them are in the log.
RECENT_EVENTS = 1000

#: Checks between two lines of the log that hold the whole state, so that a resumed run reads no more than these.
SNAPSHOT = 1000

#: Kinds of events with a trigger each, for whose patience they wait. The third kind, "exploded", opens at once.
PATIENT: tuple[EventKind, ...] = ("novel", "transition")


@dataclass(frozen=True, slots=True)
class Followed:
    """A check as the run so far makes it, and what is to be done after it."""

    judged: Judged
    """The check, with excesses by the run's own beginning and explosions that only the run so far can tell."""
    lines: Sequence[dict[str, Any]]
    """For the log: the check, what of the state cannot be had from it, events."""
    events: Sequence[tuple[Event, bool]] = ()
    """Events for the actions, and whether each is new."""
    notes: Sequence[tuple[NoteLevel, str]] = ()
    """Level and text of notes."""
    stop: bool = False
    """Whether the trigger asks for the end of the run."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Lines, events and the end of a run that a check brings about; outcomes of several channels add up."""

    lines: tuple[dict[str, Any], ...] = ()
    events: tuple[tuple[Event, bool], ...] = ()
    stop: bool = False

    def __add__(self, other: "_Outcome") -> "_Outcome":
        return _Outcome(self.lines + other.lines, self.events + other.events, self.stop or other.stop)


class EventFollower:
    """Turns checks into events: what is out of the reference, what changes in the run itself, and what has exploded.

    A "novel" event is opened by the statistics that the reference judges, a "transition" by those that the run's own
    beginning or the labelled phases judge; each has a trigger of the same settings. An explosion opens at once. A frame
    without atoms, of a torn or filtered file say, opens, closes and counts nothing.

    `follow` takes a check with its frame, `replay` takes it with the lines that `follow` returned for the log, so that
    the log alone brings a run back. `false_alarms` is the rate of false alarms by the largest cluster of each labelled
    phase, where a baseline judges that.
    """

    def __init__(
        self,
        reference: Reference,
        trigger: Trigger,
        baseline: Baseline | None,
        explosion: Explosion,
        false_alarms: float = 0.01,
        *,
        snapshot_every: int = SNAPSHOT,
        recent_events: int = RECENT_EVENTS,
    ) -> None:
        self.reference = reference
        self.triggers = {channel: trigger.fresh() for channel in PATIENT}
        self.baseline = baseline
        self.explosion = explosion
        self.own_clusters = OwnClusters(false_alarms)
        self.n_checks = 0
        """Checks of the run so far: the count of the next one."""
        self.n_events = 0
        self.n_outliers = 0
        """Times that checks were out, but not for long enough to open an event."""
        self.closed: deque[Event] = deque(maxlen=recent_events)
        self._courses: dict[EventKind, EventCourse] = {}
        self._onsets: dict[EventKind, Onsets] = {channel: Onsets() for channel in PATIENT}
        self._snapshot_every = snapshot_every

    @property
    def courses(self) -> list[EventCourse]:
        """Courses of the events that are open, in order of id."""
        return sorted((course for course in self._courses.values() if course.is_confirmed), key=lambda c: c.event_id)

    @property
    def open_events(self) -> list[Event]:
        """Events that are open, in order of id."""
        return [course.record(is_open=True) for course in self.courses]

    @property
    def settled(self) -> int:
        """Id of the first event that may still change: all before it are closed."""
        return min((course.event_id for course in self.courses), default=self.n_events + 1)

    def events_from(self, event_id: int) -> list[Event]:
        """Events from this id on; of the closed ones the last 1000 at most."""
        events = sorted([*self.closed, *self.open_events], key=lambda event: event.id)
        return [event for event in events if event.id >= event_id]

    def count_visits(self, visits: int | None, window: int) -> None:
        """Go on with another count of visits: that of the log which a run with the default goes on with."""
        for trigger in self.triggers.values():
            trigger.visits, trigger.window = visits, window

    def take_reference(self, reference: Reference) -> None:
        """Judge by another reference from here on; a baseline begins anew, since its averages were by the old one."""
        self.reference = reference
        if self.baseline is not None:
            self.baseline = self.baseline.fresh()

    def follow(self, judged: Judged, atoms: Atoms) -> Followed:
        """Take the next check of the run with its frame."""
        notes: list[tuple[NoteLevel, str]] = []
        if judged.check.state != "invalid":
            was_complete = self.baseline is not None and self.baseline.is_complete
            judged = self._judge_explosion(self._judge_by_baseline(judged))
            if self.baseline is not None and self.baseline.is_complete and not was_complete:
                notes.append(("info", str(self.baseline.text)))
                if self.baseline.warning is not None:
                    notes.append(("warning", self.baseline.warning))
        check = judged.check
        is_outside = max(self._excesses("novel", check).values(), default=-math.inf) > 0
        findings = FrameFindings(judged, atoms, self.reference, is_outside)
        outcome = self._advance(check, findings)
        lines = [check.to_line(), *outcome.lines]
        if findings.used:
            lines.insert(1, {"type": "state", "step": check.step, "frame": check.frame} | findings.used)
        for event, is_new in outcome.events:
            if is_new and event.kind == "exploded":
                what = "invalid frame" if check.state == "invalid" else "exploded"
                notes.append(("error", f"{what} at step {check.step}: {event.reason}"))
        return Followed(judged, lines, outcome.events, notes, outcome.stop)

    def replay(self, check: Check, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Take a check as the log has it, with what its state line holds ({} without one); returns its event lines."""
        if check.state != "invalid":
            if self.baseline is not None and check.time_ps is not None:
                self.baseline.update(_values(self.baseline, check), check.time_ps)
                self.own_clusters.update(check, is_over=self.baseline.is_complete)
            if not check.explosion:
                self.explosion.take(check.temperature_K, check.volume_per_atom, check.n_atoms)
        outcome = self._advance(check, LoggedFindings(found))
        return [line for line in outcome.lines if line["type"] == "event"]

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
            "onsets": {channel: onsets.state() for channel, onsets in self._onsets.items()},
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
        for channel, onsets in self._onsets.items():
            onsets.restore(state.get("onsets", {}).get(channel, ()))  # versions before did not have them
        self._courses = {channel: EventCourse.from_state(course) for channel, course in state["courses"].items()}

    def _judge_by_baseline(self, judged: Judged) -> Judged:
        """The check as the run's own beginning judges it, once that is complete."""
        check, baseline = judged.check, self.baseline
        if baseline is None:
            return judged
        if check.time_ps is None or math.isnan(check.time_ps):
            raise ValueError("baseline_ps: expected a time in ps with every frame, got none")
        excesses: dict[str, float | None] = dict(baseline.update(_values(baseline, check), check.time_ps))
        own = self.own_clusters.update(check, is_over=baseline.is_complete)
        if not baseline.is_complete:
            # the level of the reference for the frame entropy does not hold at another temperature, and no other level
            # is known yet; a high mean is still judged by the reference
            return judged.with_excesses({"frame_entropy": None} | dict.fromkeys(own))
        excesses |= {name: min(excess, check.excesses[name]) for name, excess in own.items()}
        # the reference no longer judges these statistics, even where the baseline was too short to judge them
        return judged.with_excesses(dict.fromkeys(baseline.statistics) | excesses)

    def _judge_explosion(self, judged: Judged) -> Judged:
        check = judged.check
        reason = check.explosion  # of atoms on top of each other: motion and volume no longer say anything
        if not reason:
            reason = self.explosion.update(
                check.temperature_K,
                check.volume_per_atom,
                check.n_atoms,
                near=judged.near,
                fastest_K=judged.fastest_K,
            )
        return replace(judged, check=replace(check, explosion=reason, state="out")) if reason else judged

    def _advance(self, check: Check, findings: Findings) -> _Outcome:
        """Ask the triggers, follow the events."""
        if _is_empty(check) and not (
            isinstance(findings, LoggedFindings) and findings.found
        ):  # logs of before exploded
            outcome = _Outcome()  # it says nothing: patience and events go on as if it were not there
        elif check.state == "invalid" or check.explosion:
            outcome = self._explode(check, findings)
        else:
            outcome, n_before = self._close("exploded"), self.n_outliers
            for channel in PATIENT:
                outcome += self._update(channel, check, findings)
            self.n_outliers = min(self.n_outliers, n_before + 1)  # one check, by however many triggers
        self.n_checks = check.frame + 1
        # a snapshot holds the numbers of a baseline that is still collected, and would be longer each time
        if self.n_checks % self._snapshot_every == 0 and (self.baseline is None or self.baseline.is_complete):
            outcome += _Outcome((self.snapshot(check),))
        return outcome

    def _update(self, channel: EventKind, check: Check, findings: Findings) -> _Outcome:
        """Ask the trigger of this channel, follow its event."""
        excesses, trigger = self._excesses(channel, check), self.triggers[channel]
        excess = max(excesses.values(), default=-math.inf)
        before = trigger.state
        after = trigger.update(excess, check.time_ps)
        if after != before:
            findings.changed(channel, after)
        if after == "in":
            self.n_outliers += before == "opening"
            return self._close(channel)
        if channel not in self._courses:
            self._courses[channel] = EventCourse(channel, self._onset(channel, check))
        course = self._courses[channel]
        alarms = [name for name, value in excesses.items() if value > 0]
        course.add(check, excess, findings, alarms)
        outcome = _Outcome(stop=after == "stop")
        return outcome + self._open_or_follow(course, check, findings, alarms) if after in ("open", "stop") else outcome

    def _onset(self, channel: EventKind, check: Check) -> Onset:
        """The first check out of an event that begins with this check; of the first visit where visits opened it."""
        trigger, onset = self.triggers[channel], Onset.of(check)
        if trigger.visits is None:
            return onset
        return self._onsets[channel].first_of(onset, check.frame, trigger.window, trigger.since)

    def _excesses(self, channel: EventKind, check: Check) -> dict[str, float]:
        """The excesses of the statistics of a channel."""
        own = self.baseline.statistics if self.baseline is not None and self.baseline.is_complete else ()
        of_run = {*own, *(f"{name}_drift" for name in own)}
        return {
            name: excess
            for name, excess in check.excesses.items()
            if (name in of_run or name.startswith("phase:")) == (channel == "transition")
        }

    def _explode(self, check: Check, findings: Findings) -> _Outcome:
        """An event at once; what came before cannot be joined to what comes after."""
        outcome = _Outcome(stop=any(trigger.stop_excess is not None for trigger in self.triggers.values()))
        for channel in PATIENT:
            outcome += self._close(channel)
            self.triggers[channel].interrupt()
        course = self._courses.setdefault("exploded", EventCourse.begun_by("exploded", check))
        course.add(check, math.inf if check.explosion else math.nan, findings)
        return outcome + self._open_or_follow(course, check, findings)

    def _open_or_follow(
        self, course: EventCourse, check: Check, findings: Findings, alarms: Sequence[str] = ()
    ) -> _Outcome:
        is_new = not course.is_confirmed
        if is_new:
            self.n_events += 1
            course.confirm(self.n_events, check, findings, self._of_visits(course.channel))
            if course.channel in self.triggers:  # `max_events` counts the events of all triggers
                for trigger in self.triggers.values():
                    trigger.n_events = self.triggers[course.channel].n_events
        has_changed = course.update_kind(check, alarms)
        # the 1st, 2nd, 4th, ... check of an open event: a killed run has lost at most half of its course
        if not has_changed and not _is_power_of_two(course.n_open_checks):
            return _Outcome()
        event = course.record(is_open=True)
        return _Outcome((event.to_line(),), ((event, is_new),))

    def _of_visits(self, channel: EventKind) -> str:
        """How often the run has left the levels, in words, where that opened the event."""
        trigger = self.triggers.get(channel)
        if trigger is None or not trigger.n_visits:
            return ""
        return f"out {trigger.n_visits} times within {trigger.since + 1} checks"

    def _close(self, channel: EventKind) -> _Outcome:
        course = self._courses.pop(channel, None)
        if course is None or not course.is_confirmed:
            return _Outcome()
        event = course.record(is_open=False)
        self.closed.append(event)
        return _Outcome((event.to_line(),))


def _is_empty(check: Check) -> bool:
    """Whether there was no atom to look at."""
    return check.state == "invalid" and check.n_atoms == 0


def _is_power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def _values(baseline: Baseline, check: Check) -> dict[str, float | None]:
    return {name: check.statistic(name) for name in baseline.statistics}
