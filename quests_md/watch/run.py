"""A run that is being watched: its state, and the way of a frame from the host to the log and the actions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ase import Atoms

from quests_md._files import file_size
from quests_md._interrupts import uninterrupted
from quests_md._json import plain
from quests_md.environments import frame_digest
from quests_md.io import frame_temperature_K
from quests_md.judge import Judged
from quests_md.records import Check

from .actions import action_files, flagged_frame
from .budget import Overhead
from .due_actions import DueActions
from .event_follower import EventFollower, Followed
from .explosion import Explosion
from .frame_notes import FrameNotes
from .phase_watch import PhaseWatch
from .resume import FirstFrame, Host, Place, bring_back, continue_host, find_place, header_at, let_files_follow, missing
from .run_log import RunLog
from .settings import CHANGING, NO_VISITS, RunSettings
from .stop_reason import StopReason, stopped_by_trigger

__all__ = ["Run"]


@dataclass(frozen=True, slots=True)
class Taken:
    """A check that the log has, and what is still to be done about it."""

    followed: Followed
    is_written: bool
    """Whether the log has all lines of the check."""


class Run:
    """The state of a run that is being watched, once its first frame has been seen and its log has begun."""

    def __init__(self, settings: RunSettings, log: RunLog) -> None:
        baseline, judge = settings.baseline, settings.judge
        self.follower = EventFollower(
            judge.reference,
            settings.trigger,
            None if baseline is None else baseline.fresh(),
            Explosion(settings.max_temperature_K),
            judge.calibration.false_alarms,
            snapshot_every=settings.snapshot_every,
            recent_events=settings.recent_events,
        )
        self.log = log
        self.last_check: Check | None = None
        self.is_judging = False
        """Whether a frame is being judged, or what was found is being written; not while actions are done."""
        self.stop_reason: str | None = None
        """Why the trigger or an action has asked for the end of the run, the last time that one has; None: none has."""
        self.stop_now = False
        """Whether the last check has: a run may go on after a stop."""
        self.resumed_at: Place | None = None
        """Where the run stood in its log when it was taken up; None for a new run."""
        self._due = DueActions(log)
        self._offsets = (0, 0)  # of steps that the monitor counts, and of steps it is given
        self._frame_notes = FrameNotes()
        self._phase_watch = None if judge.phases is None else PhaseWatch(judge.phases)
        self.change_settings(settings)

    @property
    def n_checks(self) -> int:
        """Checks so far."""
        return self.follower.n_checks

    @property
    def stopped(self) -> bool:
        """Whether the trigger or an action has asked for the end of the run."""
        return self.stop_reason is not None

    def change_settings(self, settings: RunSettings) -> None:
        """Go on with another interval between checks."""
        self._settings = settings
        judge, baseline = settings.judge, self.follower.baseline
        if baseline is not None:
            baseline.n_checks = judge.calibration.n_sharing(judge.checks)

    def take_reference(self, settings: RunSettings, header: dict[str, Any]) -> None:
        """Go on with another reference, which settings hold; `header`: that of a log with these settings."""
        before, after = self._settings.judge.reference, settings.judge.reference
        baseline = settings.baseline
        anew = "" if baseline is None else f"; the baseline of {baseline.duration_ps:g} ps begins anew"
        self.follower.take_reference(after)
        self.change_settings(settings)
        self.log.announce(_reference_line(self.log.step, [before.fingerprint, after.fingerprint], header))
        self.log.note(
            "info",
            f"from here on the reference is {after.fingerprint} with {after.n_environments} environments, before "
            f"{before.fingerprint} with {before.n_environments}{anew}",
        )

    def check_next(
        self,
        atoms: Atoms,
        step: int | None,
        time_ps: float | None,
        interval: int | None = None,
        averaged: Atoms | None = None,
    ) -> Check | None:
        """Check a frame, arguments as in `Judge.judge`, but `step` as the host counts; None if the check has failed."""
        if self.is_judging:  # what calls is a handler of a signal, in the thread that waits for the check
            self.log.alert("a check was asked for in the middle of another one", "it was not made")
            return None
        self._make_up()
        frame, self.stop_now = self.n_checks, False
        judge = self._settings.judge

        def judged_and_taken() -> Taken:
            judged = judge.judge(
                atoms, step=self.step_of(step), frame=frame, time_ps=time_ps, interval=interval, averaged=averaged
            )
            return self._take(judged, atoms)

        def work() -> Taken | None:
            return self.log.guarded(judged_and_taken)

        self._finish_after(work, is_here=self._settings.calculates)
        return self.last_check if self.last_check is not None and self.last_check.frame == frame else None

    def accept_next(self, judged: Judged, atoms: Atoms) -> Check:
        """Take a frame that was judged elsewhere as the next one of the run."""
        self._make_up()
        self.stop_now = False
        if judged.check.frame != self.n_checks:  # the log counts on
            judged = replace(judged, check=replace(judged.check, frame=self.n_checks))
        self._finish_after(lambda: self.log.guarded(lambda: self._take(judged, atoms)))
        last = self.last_check
        return last if last is not None and last.frame == judged.check.frame else judged.check

    def step_of(self, step: int | None) -> int:
        """The step of a frame in the log; None: the monitor counts."""
        own, given = self._offsets
        return self.n_checks + own if step is None else int(step) + given

    def skip_step(self) -> None:
        """Count a step at which there is no check, where the monitor counts."""
        own, given = self._offsets
        self._offsets = (own + 1, given)

    def resume(
        self, header: dict[str, Any], atoms: Atoms, host: Host | None, step: int | None, start: int | None
    ) -> None:
        """Bring the run back to where it stands in its log with these atoms; supersede what the log has after that.

        `header` is what the log would begin with if the run began here. `step` is that of the frame in a loop of the
        user's own, which has no host; None: the monitor counts. `start` is the step that the user says; None: the log
        is asked.

        Raises
        ------
        MismatchError
            If the log is of another run, or does not say where this frame stands.
        FileFormatError
            If the log lacks lines.
        """
        history, settings = self.log.history, self._settings
        assert history is not None
        first = FirstFrame.IS_CHECKED_AGAIN
        if settings.averaging is not None:
            first = FirstFrame.IS_KEPT
        elif host is not None and host.own_step > 0:
            first = FirstFrame.MAY_BE_CHECKED_AGAIN
        place = find_place(
            history,
            frame_digest(atoms),
            len(atoms),
            own_step=step if host is None else host.own_step or None,
            start_step=start,
            first=first,
            repeats_digits=host is None or host.repeats_digits,
        )
        before = header_at(history, place)
        chain = settings.require_same(before, plain(header), str(history.path))
        if settings.is_default_trigger:
            self.follower.count_visits(**{name: (NO_VISITS | before["trigger"])[name] for name in NO_VISITS})
        self.last_check, place = bring_back(self.follower, history, place)
        self._frame_notes.n_atoms = 0 if self.last_check is None else self.last_check.n_atoms
        self.follower.n_checks = place.frame
        self.log.settled = self.follower.settled
        if host is None:
            self._offsets = (place.step - place.frame, 0 if step is None else place.step - step)
        lines: list[dict[str, Any]] = []
        if chain or (history.last is not None and history.last.content["frame"] >= place.frame):
            lines.append({"type": "rewind", "step": place.step, "frame": place.frame})
        lines += place.lost
        who = {name: header[name] for name in ("version", "started", "host", "pid")}
        lines.append({"type": "state", "step": place.step, "resumed": who})
        if chain:
            self.follower.take_reference(settings.judge.reference)
            lines.append(_reference_line(place.step, chain, header))
        self.log.begin(*lines)
        self.log.note("info", place.describe())
        if place.note:
            self.log.note("warning", place.note)
        for text in missing(history, place, has_actions=bool(settings.actions)):
            self.log.warn(text)
        kept = self.follower.events_from(0)
        self._due.follow = partial(let_files_follow, history, place, settings.actions, kept)
        if host is not None:
            continue_host(host, place, self.last_check)
        self.resumed_at = place

    def say_unfinished(self) -> None:
        """Say at once that the run ends before its baseline is over, where it does."""
        baseline, last = self.follower.baseline, self.last_check
        unfinished = None if baseline is None or last is None else baseline.unfinished(last.time_ps)
        if unfinished is not None:
            self.log.warn(unfinished)

    def close(self, cost: Overhead) -> None:
        """Write the state of an open event, and what the checks have cost; make up for what an interrupt has left."""
        log = self.log
        self._due.make_up()
        self._note_done()
        events = self.follower.events_from(log.settled if log.is_behind else self.follower.settled)
        log.write(*(event.to_line() for event in events if event.is_open or log.is_behind))
        if self.n_checks:
            log.note(
                "info",
                f"closed after {cost.checks} checks: {cost.seconds:.2f} s in checks, {cost.share:.1%} of the "
                f"run, {cost.us_per_atom:.1f} us per atom; {self.follower.n_outliers} times out too shortly for an "
                "event",
            )

    def _take(self, judged: Judged, atoms: Atoms) -> Taken:
        """Ask the triggers, follow events, log."""
        log = self.log
        # until all of this check is in the log: a failure, a full disk may come in between
        was_behind, log.is_behind = log.is_behind, True
        followed = self.follower.follow(judged, atoms)
        check = followed.judged.check
        self.last_check = check
        log.step = check.step
        lines = list(followed.lines)
        if self._phase_watch is not None:
            for text in self._phase_watch.update(check, frame_temperature_K(atoms)):
                log.warn(text)
        if was_behind:
            lines += [event.to_line() for event in self.follower.events_from(log.settled)]
            lines.append(self.follower.snapshot(check))
        is_due = bool(self._settings.actions and (followed.events or was_behind))
        if is_due:
            lines.append({"type": "state", "step": check.step, "frame": check.frame, "actions": "due"})
        is_written = log.write(*lines)
        for level, text in followed.notes:
            if level == "warning":
                log.warn(text)
            else:
                log.note(level, text)
        for text, is_loud in self._frame_notes.of(check, atoms.calc, self.follower.reference.elements):
            if is_loud:
                log.warn(text)
            else:
                log.note("warning", text)
        if followed.judged.unanswered:
            message = f"the second reference (confirm) could not answer: {followed.judged.unanswered}"
            log.alert(message, "alarms stand where this happens")
        if is_due:
            flagged = partial(flagged_frame, self._settings.judge, followed.judged, atoms)
            self._due.prepare(check, self._settings.actions, followed.events, flagged)
        return Taken(followed, is_written)

    def _finish_after(self, work: Callable[[], Taken | None], *, is_here: bool = False) -> None:
        """Do the work, on this thread if a calculation of the user's own belongs to it, then act on what it found."""
        self.is_judging = True
        try:
            if is_here:
                self._finish(work())
            else:
                uninterrupted(work, self._finish)
        finally:
            self.is_judging = False

    def _finish(self, taken: Taken | None) -> None:
        """Act on the events of a check, where there are any, and note that it is done; None: the check has failed."""
        self.is_judging = False
        if taken is None:
            return
        log = self.log
        if reason := self._due.do():
            self._stop(reason)
        is_written = (self._due.check is None or uninterrupted(self._note_done)) and taken.is_written
        log.is_behind = not is_written
        if is_written:
            log.settled = self.follower.settled
        if taken.followed.stop and reason is None:
            is_open = [event for event in self.follower.events_from(0) if event.is_open]
            self._stop(stopped_by_trigger(taken.followed.judged.check, is_open))

    def _make_up(self) -> None:
        """Do what an interrupt has left of the actions of the last check, before the log has another one."""
        if self._due.is_left:
            if reason := self._due.do():
                self._stop(reason)
            uninterrupted(self._note_done)

    def _note_done(self) -> bool:
        """Note that the actions of a check were done, if they were due, and how long their files are by now."""
        check, self._due.check = self._due.check, None
        if check is None:
            return True
        files = {name: file_size(name) for name in action_files(self._settings.actions)}
        return self.log.write({"type": "state", "step": check.step, "frame": check.frame, "files": files})

    def _stop(self, reason: StopReason) -> None:
        self.stop_reason, self.stop_now = reason.text, True
        self.log.write({"type": "state", "step": self.log.step, "stopped": reason.text, "event": reason.event})


def _reference_line(step: int | None, chain: list[str], header: dict[str, Any]) -> dict[str, Any]:
    return {"type": "reference", "step": step, "chain": chain} | {name: header[name] for name in CHANGING}
