"""A run that is being watched: its state, and the way of a frame from the host to the log and the actions."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ase import Atoms

from quests_md._arguments import check_choice, is_integer
from quests_md._files import file_size
from quests_md._interrupts import uninterrupted
from quests_md._json import plain
from quests_md.engine import announce_compilation, are_kernels_cached
from quests_md.environments import Minimised, frame_digest
from quests_md.errors import StopRun
from quests_md.io import frame_temperature_K
from quests_md.judge import Judge, Judged
from quests_md.log import require_new_log
from quests_md.records import Check, Event
from quests_md.reference import differences

from .actions import Action, action_files, flagged_frame
from .budget import Budget, Cost
from .event_follower import EventFollower, Followed
from .explosion import Explosion
from .frame_notes import FrameNotes
from .one_system import OneSystem
from .phase_watch import PhaseWatch
from .preflight import preflight_text, warm_up
from .resume import Host, Place, bring_back, continue_host, find_place, header_at, let_files_follow, missing
from .run_log import OnError, RunLog
from .settings import CHANGING, NO_VISITS, RunSettings
from .voice import Voice

__all__ = ["Run", "Watch"]


@dataclass(frozen=True, slots=True)
class Taken:
    """A check that the log has, and what is still to be done about it."""

    followed: Followed
    atoms: Atoms
    is_due: bool
    """Whether the log says that actions are due."""
    is_written: bool
    """Whether the log has all lines of the check."""


class Run:
    """The state of a run that is being watched, once its first frame has been seen and its log has begun."""

    def __init__(self, settings: RunSettings, log: RunLog, cost: Cost) -> None:
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
        self.cost = cost
        self.last_check: Check | None = None
        self.stopped = False
        """Whether the trigger or an action has asked for the end of the run."""
        self.stop_now = False
        """Whether the last check has: a run may go on after a stop."""
        self.resumed_at: Place | None = None
        """Where the run stood in its log when it was taken up; None for a new run."""
        self._owed_files: Callable[[], list[str]] | None = None  # lets the files of actions follow the log
        self._offsets = (0, 0)  # of steps that the monitor counts, and of steps it is given
        self._frame_notes = FrameNotes()
        self._phase_watch = None if judge.phases is None else PhaseWatch(judge.phases)
        self.change_settings(settings)

    @property
    def n_checks(self) -> int:
        """Checks so far."""
        return self.follower.n_checks

    def change_settings(self, settings: RunSettings) -> None:
        """Go on with another interval between checks."""
        self._settings = settings
        judge, baseline = settings.judge, self.follower.baseline
        if baseline is not None:
            baseline.n_checks = judge.calibration.n_sharing(judge.checks)

    def check_next(
        self,
        atoms: Atoms,
        step: int | None,
        time_ps: float | None,
        interval: int | None = None,
        averaged: Atoms | None = None,
    ) -> Check | None:
        """Check a frame, arguments as in `Judge.judge`, but `step` as the host counts; None if the check has failed."""
        frame, self.stop_now = self.n_checks, False
        judge = self._settings.judge

        def judged_and_taken() -> Taken:
            judged = judge.judge(
                atoms, step=self.step_of(step), frame=frame, time_ps=time_ps, interval=interval, averaged=averaged
            )
            return self._take(judged, atoms)

        def work() -> Taken | None:
            return self.log.guarded(judged_and_taken)

        if _calculates(judge):  # a calculation of the user's own may take long, and belongs to this thread
            self._finish(work())
        else:
            uninterrupted(work, self._finish)
        return self.last_check if self.last_check is not None and self.last_check.frame == frame else None

    def accept_next(self, judged: Judged, atoms: Atoms) -> Check:
        """Take a frame that was judged elsewhere as the next one of the run."""
        self.stop_now = False
        if judged.check.frame != self.n_checks:  # the log counts on
            judged = replace(judged, check=replace(judged.check, frame=self.n_checks))
        uninterrupted(lambda: self.log.guarded(lambda: self._take(judged, atoms)), self._finish)
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
        place = find_place(
            history,
            frame_digest(atoms),
            len(atoms),
            own_step=step if host is None else host.own_step or None,
            start_step=start,
            is_kept=settings.averaging is not None or (host is not None and host.own_step > 0),
            is_repeatable=settings.averaging is None,
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
        if history.last is not None and history.last.content["frame"] >= place.frame:
            lines.append({"type": "rewind", "step": place.step, "frame": place.frame})
        who = {name: header[name] for name in ("version", "started", "host", "pid")}
        lines.append({"type": "state", "step": place.step, "resumed": who})
        if chain:
            changed = {name: header[name] for name in CHANGING}
            lines.append({"type": "reference", "step": place.step, "chain": chain} | changed)
        self.log.begin(*lines)
        self.log.note("info", f"resumed at step {place.step}: {place.frame} checks before it are kept")
        if place.note:
            self.log.note("warning", place.note)
        for text in missing(history, place):
            self.log.warn(text)
        kept = self.follower.events_from(0)
        self._owed_files = partial(let_files_follow, history, place, settings.actions, kept)
        if host is not None:
            continue_host(host, place, self.last_check)
        self.resumed_at = place

    def say_unfinished(self) -> None:
        """Say at once that the run ends before its baseline is over, where it does."""
        baseline, last = self.follower.baseline, self.last_check
        unfinished = None if baseline is None or last is None else baseline.unfinished(last.time_ps)
        if unfinished is not None:
            self.log.warn(unfinished)

    def close(self) -> None:
        """Write the state of an open event, and what the checks have cost."""
        log = self.log
        events = self.follower.events_from(log.settled if log.is_behind else self.follower.settled)
        log.write(*(event.to_line() for event in events if event.is_open or log.is_behind))
        if self.n_checks:
            cost = self.cost.overhead(self.n_checks)
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
        self.cost.n_atoms += check.n_atoms
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
        return Taken(followed, atoms, is_due, is_written)

    def _finish(self, taken: Taken | None) -> None:
        """Act on the events of a check, where there are any, and note that it is done; None: the check has failed."""
        if taken is None:
            return
        log, followed = self.log, taken.followed
        check, is_written = followed.judged.check, taken.is_written
        if self._owed_files is not None:
            follow, self._owed_files = self._owed_files, None
            for text in follow():
                log.warn(text)
        for event, is_new in followed.events:
            for action in self._settings.actions:
                if is_new or getattr(action, "repeats", False):
                    self._act(action, event, followed.judged, taken.atoms)
        if taken.is_due:
            files = {name: file_size(name) for name in action_files(self._settings.actions)}
            line = {"type": "state", "step": check.step, "frame": check.frame, "files": files}
            is_written = log.write(line) and is_written
        log.is_behind = not is_written
        if is_written:
            log.settled = self.follower.settled
        if followed.stop:
            self._stop()

    def _act(self, action: Action, event: Event, judged: Judged, atoms: Atoms) -> None:
        """Call an action; whether it failed is said once, and noted each time."""
        judge = self._settings.judge
        try:
            frame = uninterrupted(lambda: flagged_frame(judge, judged, atoms, event))
            action(event, frame)
        except StopRun:
            self._stop()
        except Exception as failure:
            name = getattr(action, "__name__", type(action).__name__)
            self.log.fail_action(failure, f"the action {name} failed for event {event.id}")

    def _stop(self) -> None:
        self.stopped = self.stop_now = True


def _calculates(judge: Judge) -> bool:
    """Whether a judgement takes calculations of a calculator that the user has given."""
    judges = [judge] if judge.confirm is None else [judge, judge.confirm]
    return any(isinstance(each.reference.descriptor, Minimised) for each in judges)


class Watch:
    """A run to be watched, from before its first frame to its end: what Monitor and the hosts drive.

    Arguments and errors are those of `Monitor`. `resolve` returns the settings; it is called once the log is known to
    be free, since a calibration may take a while.
    """

    def __init__(
        self,
        resolve: Callable[[], RunSettings],
        *,
        log: str | os.PathLike[str] | None = None,
        on_error: OnError = "log",
        resume: bool = False,
        start_step: int | None = None,
        verbose: bool = False,
    ) -> None:
        check_choice("on_error", on_error, ("log", "raise"))
        if log is not None and not isinstance(log, str | os.PathLike):
            raise TypeError(f"log: expected a file name or None, got {type(log).__name__}")
        if resume and log is None:
            raise ValueError("resume: expected a log to resume, got log=None")
        if start_step is not None and not is_integer(start_step):
            raise TypeError(f"start_step: expected an integer, got {start_step!r}")
        if log is not None and not resume:
            require_new_log(log)
        self.settings = resolve()
        self.log = RunLog(log, on_error, resume=resume)
        self.run: Run | None = None
        """The run, once its first frame has been seen."""
        self.cost = Cost()
        """Wall time of the checks so far."""
        self.budget = None if self.settings.budget is None else Budget(self.settings.budget)
        """How often the run may be checked; None: as often as is asked."""
        self._one_system = OneSystem()
        self._voice = Voice(log, is_quiet=not verbose)
        self._start_step = None if start_step is None else int(start_step)
        self._lock = threading.RLock()  # an action may close the monitor
        self.is_closed = False
        """Whether the run has ended: then nothing is judged, logged or acted upon any more."""

    @property
    def events(self) -> list[Event]:
        """Events so far, in order of id; of the closed ones the last 1000."""
        return [] if self.run is None else self.run.follower.events_from(0)

    @property
    def last_check(self) -> Check | None:
        """The last check; None before the first."""
        return None if self.run is None else self.run.last_check

    def begin(self, atoms: Atoms, *, host: Host | None = None, step: int | None = None) -> Run:
        """The run, which its first frame begins: with the header of a new log, or at its place in a log to be resumed.

        `host` is the dynamics that the frame comes from; without one, `step` is that in a loop of the user's own.

        Raises
        ------
        MismatchError, FileFormatError
            If the log to be resumed is that of another run, or damaged.
        """
        with self._lock:
            if self.run is None:
                self.settings.judge.require_suitable(atoms)  # before the log holds anything
                header = self.settings.header(atoms)
                run = Run(self.settings, self.log, self.cost)
                if self.log.history is None:
                    self.log.begin(header)
                else:
                    run.resume(header, atoms, host, step, self._start_step)
                    self._voice.know(run.follower)
                self.run = run
            return self.run

    def set_interval(self, check_ps: float) -> None:
        """Say how many ps are between checks, for calibrations whose rate counts nanoseconds or runs."""
        self.settings = self.settings.at_interval(check_ps)
        if self.run is not None:
            self.run.change_settings(self.settings)

    def check_frame(
        self,
        atoms: Atoms,
        step: int | None,
        time_ps: float | None,
        interval: int | None = None,
        averaged: Atoms | None = None,
    ) -> Check:
        """Check a frame, arguments as in `Run.check_next`; if that fails and on_error="log": an "invalid" check."""
        with self._lock, self.cost.measured():
            begin = partial(self.begin, atoms, step=step)
            # a log of another run is the user's mistake, which is raised whatever on_error says
            run = begin() if self.log.history is not None else self.log.guarded(begin)
            check = None if run is None else run.check_next(atoms, step, time_ps, interval, averaged)
            if check is not None and run is not None:
                self._voice.follow(check, run.follower)
                return check
            if run is None:
                return Check.invalid(step=step or 0, frame=0, time_ps=time_ps, n_atoms=len(atoms))
            at, frame = run.step_of(step), run.n_checks
            return Check.invalid(step=at, frame=frame, time_ps=time_ps, n_atoms=len(atoms))

    def check_given(self, atoms: Atoms, step: int | None, time_ps: float | None) -> Check:
        """Check a frame of a loop of the user's own, or return the last check where the budget has none due."""
        if self.log.guarded(lambda: self.require_one_system(atoms, step)) is None:
            n = 0 if self.run is None else self.run.n_checks
            return Check.invalid(step=step or 0, frame=n, time_ps=time_ps, n_atoms=len(atoms))
        if self.budget is not None and not self.budget.is_due() and self.run is not None and self.run.last_check:
            self.run.skip_step()
            return self.run.last_check
        if self.last_check is None and self._voice.is_new(atoms):
            for doubt in differences(self.settings.judge.reference, atoms):
                self.log.warn(doubt)
        check = self.check_frame(atoms, step, time_ps)
        self.took(check)
        self.keep_budget("calls of check")
        return check

    def require_one_system(self, atoms: Atoms, step: int | None = None) -> bool:
        """Make sure that these atoms are no image or replica beside others. `step`: what was given for them, if so.

        Raises
        ------
        ValueError
            If they are.
        """
        doubt = self._one_system.doubt(atoms, step)
        if doubt:
            raise ValueError(
                f"atoms: expected those of one system, but {doubt}; images (NEB) and replicas need a Monitor each, "
                "with a log of its own, since checks of one system in a row make an event"
            )
        return True

    def took(self, check: Check) -> None:
        """Remember what the atoms, of which `require_one_system` made sure, were like."""
        self._one_system.took(check.digest)

    def keep_budget(self, unit: str, size: int = 1) -> None:
        """Check more or less often from now on, so that checks take no more than their share of the run.

        To be called after each check; a call of the host, or of a loop of the user's own, is `size` of `unit`.
        """
        budget = self.budget
        if budget is not None and budget.take_last(self.cost):
            every = f"{budget.every * size} {unit}"
            self.log.note("info", f"budget {budget.share:g}: a check every {every} from here on")

    def accept(self, judged: Judged, atoms: Atoms) -> Check:
        """Take a frame judged elsewhere (by `settings.judge`, on another thread) as the next one of the run."""
        with self._lock, self.cost.measured(judged.check.elapsed_us * 1e-6):
            run = self.begin(atoms, step=judged.check.step)
            check = run.accept_next(judged, atoms)
            self._voice.follow(check, run.follower)
            return check

    def accept_failure(
        self, failure: Exception, atoms: Atoms, *, step: int, frame: int, time_ps: float | None
    ) -> Check:
        """Take a frame that could not be judged elsewhere: said once and noted, or raised, as `on_error` asks."""
        with self._lock:
            self.begin(atoms)
            self.log.fail(failure)
        return Check.invalid(step=step, frame=frame, time_ps=time_ps, n_atoms=len(atoms))

    def introduce(self, atoms: Atoms, pace: str) -> None:
        """Print the pre-flight block on stderr, unless it was printed for this system already.

        `pace`: the time step of the dynamics, and how often it is checked, in words.
        """
        if self._voice.is_new(atoms):
            self._voice.say(self.preflight(atoms, pace))

    def preflight(self, atoms: Atoms, pace: str = "") -> str:
        """Compile what is needed, judge a start structure, and return what to know before step 1, which is noted."""
        if not isinstance(atoms, Atoms):
            raise TypeError(f"atoms: expected ase.Atoms, got {type(atoms).__name__}")
        self.begin(atoms)
        start = time.perf_counter()
        cached = are_kernels_cached()
        announce_compilation()
        judge, averaging = self.settings.judge, self.settings.averaging
        warm_up(judge)
        # one frame is all there is: what thermal noise makes of it is said by the first check
        averaged = None if averaging is None else averaging.marked(atoms.copy())
        judged = judge.judge(atoms, step=0, frame=0, averaged=averaged)
        if judge.confirm is not None and judged.check.confirm_excess is None:
            judge.confirm.judge(atoms, step=0, frame=0)  # what is wrong with its calculator is to be known now
        text = preflight_text(judge, judged, atoms, self.settings.trigger, self.settings.baseline, pace)
        text += f"\n  {'kernels':<10} {'loaded' if cached else 'compiled'} in {time.perf_counter() - start:.1f} s"
        self.log.note("info", text)
        return text

    def close(self) -> None:
        """Write the state of an open event and close the log; say what was not judged, without a log too."""
        with self._lock:
            if self.run is not None and not self.is_closed:
                self.run.say_unfinished()
            self.is_closed = True
            if not self.log.is_open:
                return
            try:
                if self.run is not None:
                    self.run.close()
            finally:
                self.log.close()
