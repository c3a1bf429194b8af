"""A run to be watched, from before its first frame to its end: settings, log, and one frame after the other."""

import os
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._arguments import check_choice, check_step
from quests_md.calibration import GivenCalibration
from quests_md.engine import announce_compilation, are_kernels_cached
from quests_md.errors import UnsuitableFrameError
from quests_md.io import fault_of_frame
from quests_md.judge import Crew, Judged
from quests_md.log import require_new_log
from quests_md.records import Check, Event
from quests_md.reference import GivenReference, differences, fault_of_start

from .budget import Budget, Cost
from .one_system import OneSystem
from .preflight import preflight_text, warm_up
from .resume import Host
from .run import Run
from .run_log import OnError, RunLog
from .settings import RunSettings
from .voice import Voice

__all__ = ["Watch"]


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
        if start_step is not None:
            check_step("start_step", start_step)
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
        self._is_watched = True
        self._one_system = OneSystem()
        self._numbers: NDArray[np.int64] | None = None
        """Atomic numbers of the first frame, of which header lines tell."""
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

    @property
    def is_new(self) -> bool:
        """Whether no frame was checked yet, neither here nor in a log to be resumed."""
        return self.run is None and (self.log.history is None or self.log.history.last is None)

    def begin(self, atoms: Atoms, *, host: Host | None = None, step: int | None = None, has_moved: bool = False) -> Run:
        """The run, which its first frame begins: with the header of a new log, or at its place in a log to be resumed.

        `host` is the dynamics that the frame comes from; without one, `step` is that in a loop of the user's own.
        Atoms that have moved already (`has_moved`) may have exploded before the first check.

        Raises
        ------
        UnsuitableFrameError
            If nothing has happened yet, and the frame is none that a run can begin with.
        MismatchError, FileFormatError
            If the log to be resumed is that of another run, or damaged.
        """
        with self._lock:
            if self.run is None:
                self.settings.judge.require_suitable(atoms)  # before the log holds anything
                if (fault := fault_of_frame(atoms)) is not None:  # nothing has exploded yet
                    raise UnsuitableFrameError(f"atoms: {fault}")
                if self.is_new and not has_moved:
                    announce_compilation()
                    fault = fault_of_start(self.settings.judge.reference, atoms)
                    if fault is not None:
                        raise UnsuitableFrameError(f"atoms: {fault}")
                header = self.settings.header(atoms.numbers)
                run = Run(self.settings, self.log)
                if self.log.history is None:
                    self.log.begin(header)
                else:
                    run.resume(header, atoms, host, step, self._start_step)
                    self._voice.take_up(run.follower, run.resumed_at)
                self.run, self._numbers = run, atoms.numbers.copy()
            return self.run

    def update(self, reference: GivenReference, calibration: GivenCalibration | None = None) -> None:
        """Go on with another reference, arguments and errors as in `Monitor.update`."""
        with self._lock:
            if self.run is not None and self.run.is_judging:  # in a handler of a signal
                raise RuntimeError("update: a check is being made; call update between steps, or in an action")
            settings = self.settings.with_reference(reference, calibration)
            if self.run is not None and self._numbers is not None:
                self.run.take_reference(settings, settings.header(self._numbers))
            self.settings = settings

    def set_interval(self, check_ps: float) -> None:
        """Say how many ps are between checks, for calibrations whose rate counts nanoseconds or runs."""
        self.settings = self.settings.at_interval(check_ps)
        if self.run is not None:
            self.run.change_settings(self.settings)

    def tell_atoms(self) -> None:
        """Let every check from here on carry dH and grade of all its atoms, whatever the mode."""
        self.settings = self.settings.telling_atoms()
        if self.run is not None:
            self.run.change_settings(self.settings)

    def share_frames_out(self, crew: Crew) -> None:
        """Let processes share each frame out among them."""
        self.settings = self.settings.with_crew(crew)
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
            begin = partial(self.begin, atoms, step=step, has_moved=bool(step))
            # a log of another run is the user's mistake, which is raised whatever on_error says
            run = begin() if self.log.history is not None else self.log.guarded(begin)
            check = None if run is None else run.check_next(atoms, step, time_ps, interval, averaged)
            if check is not None and run is not None:
                self.cost.n_atoms += check.n_atoms
                self._voice.follow(check, run.follower)
                return check
            if run is None:
                return Check.invalid(step=step or 0, frame=0, time_ps=time_ps, n_atoms=len(atoms))
            at, frame = run.step_of(step), run.n_checks
            return Check.invalid(step=at, frame=frame, time_ps=time_ps, n_atoms=len(atoms))

    def check_given(self, atoms: Atoms, step: int | None, time_ps: float | None) -> Check:
        """Check a frame of a loop of the user's own, or return the last check where the budget has none due."""
        with self._lock:  # what `took` is told is of the atoms that were looked at last
            if self.log.guarded(lambda: self.require_one_system(atoms, step)) is None:
                n = 0 if self.run is None else self.run.n_checks
                return Check.invalid(step=step or 0, frame=n, time_ps=time_ps, n_atoms=len(atoms))
            if not self.is_due() and self.run is not None and self.run.last_check:
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

    def is_due(self) -> bool:
        """Whether the budget has a check due at this call of the host, or of a loop of the user's own."""
        if self.budget is None or self.budget.is_due():
            return True
        self.cost.pass_over()
        return False

    def keep_budget(self, unit: str, size: int = 1) -> None:
        """Check more or less often from now on, so that checks take no more than their share of the run.

        To be called after each check; a call of the host, or of a loop of the user's own, is `size` of `unit`.
        """
        budget = self.budget
        if budget is not None and budget.take_last(self.cost):
            every = f"{budget.every * size} {unit}"
            self.log.note("info", f"budget {budget.share:g}: a check every {every} from here on")

    def say_toll(self, interval: int) -> None:
        """Say once, after the first checks at every so many steps, if checks take much of a run without a budget."""
        if self.budget is None:
            self._voice.say_toll(self.cost, interval)

    def accept(self, judged: Judged, atoms: Atoms) -> Check:
        """Take a frame judged elsewhere (by `settings.judge`, on another thread) as the next one of the run."""
        with self._lock, self.cost.measured(judged.check.elapsed_us * 1e-6):
            run = self.begin(atoms, step=judged.check.step)
            check = run.accept_next(judged, atoms)
            self.cost.n_atoms += check.n_atoms
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

    def say_watched(self, step: int, *, is_watched: bool) -> None:
        """Note that nothing is checked from a step on, since the monitor was detached, or that it is attached again."""
        with self._lock:
            if self.run is not None and is_watched != self._is_watched:
                self._is_watched = is_watched
                self.log.write({"type": "state", "step": step, "detached": not is_watched})
                what = "attached again" if is_watched else "detached: nothing is checked until it is attached again"
                self.log.note("info", f"at step {step} the monitor was {what}")

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
                    self.run.close(self.cost.overhead(self.run.n_checks))
            finally:
                self.log.close()
