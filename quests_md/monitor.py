"""Monitor: watches a running simulation, one frame at a time, and never disturbs it."""

import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from ._files import file_size
from ._progress import say
from ._threads import available_threads
from .calibration import Calibration, calibrate
from .engine import announce_compilation, are_kernels_cached
from .environments import TimeAveraged, Window
from .errors import StopRun
from .hosts import AseHost
from .judge import Judge, Judged, Phases, Values, frame_digest
from .log import LogHistory, plain_line, require_new_log
from .records import Check, Event
from .reference import Reference
from .watch import (
    BASELINE_STATISTICS,
    CHANGING,
    Baseline,
    Budget,
    Explosion,
    Follower,
    Journal,
    OnError,
    Trigger,
    action_files,
    bring_back,
    cut_files,
    find_place,
    header_at,
    header_line,
    labelled_copy,
    preflight_text,
    require_known_reference,
    require_same_monitor,
    warm_up,
)

__all__ = ["Action", "Monitor", "Overhead"]

#: Called as action(event, frame) with a copy of the flagged frame.
Action = Callable[[Event, Atoms], Any]


@dataclass(frozen=True, slots=True)
class Overhead:
    """What the checks cost."""

    seconds: float
    """Wall time spent in checks and actions, s."""
    share: float
    """Part of the wall time since the first check, 0 to 1."""
    us_per_atom: float
    """Mean time per checked atom, microseconds."""
    checks: int
    """Number of checks."""


class Monitor:
    """Watch a simulation: check frames against a reference, log every check, follow events, act on them.

    Attach it to any ASE dynamics or optimizer, or call `check` in a loop of your own. Nothing is written into the
    atoms, no force call is caused, no global state is changed: the run is the same with and without the monitor.

    Parameters
    ----------
    reference
        The environments that count as known.
    calibration
        Levels; default `calibrate(reference)`, and the log says what that is worth.
    statistics
        Numbers of a frame that raise alarms and share the rate of false alarms, see `calibrate`; default those of the
        calibration.
    baseline_ps
        Judge mean dH, its 99 % quantile and the frame entropy by the first so many ps of the run itself, two-sided and
        for slow drift, instead of by the reference: their levels do not transfer between temperatures. Those in use
        are; without `statistics` the frame entropy joins them. During that time the reference judges the first two.
    phases
        References of phases by name, the first that of the phase in which the run starts, or `Phases`: atoms are
        told apart, and a cluster of another phase that grows beyond what the first has by itself is a "transition".
    max_temperature_K
        A hotter frame counts as exploded; five times the running median of the temperature always does.
    trigger
        Default `Trigger()`: three checks out in a row open an event. It is copied.
    log
        Name of the JSON-lines log; it must not hold a run yet. None: no log.
    confirm
        A second reference, or it and its calibration, that is asked only about checks with alarms by the first, which
        stand only if this one has alarms too: of minimised frames say (`Minimised`), whose force calls are then made
        at suspicious checks alone. Rates of both can only fall, so that the first may be calibrated for a high one, as
        a sieve. Default calibration: `calibrate(confirm)`. If it fails, the alarms stand, whatever
        `on_error` says. It has no say in explosions, phases, elements that the first has never seen, and what a
        baseline judges; nor is it asked how an event goes on while the first wavers around its level.
    actions
        Called as ``action(event, frame)`` when an event opens, with a copy of the frame that carries
        ``arrays["delta_entropy"]`` of all atoms; with an attribute ``repeats = True`` also at the 2nd, 4th, 8th,
        ... check while it is open. An action that raises `StopRun` ends the run cleanly.
    values
        "full", "proven" or "auto", see `Judge`.
    budget
        Share of the wall time that checks may take, 0.02 say: where they would take more, an attached monitor checks
        less often than its interval, and notes each change in the log. Default: no limit. The steps checked then
        depend on timing; ``quests-md score --at LOG`` checks exactly those of a log.
    on_error
        What happens if the monitor itself fails: "log" says so once, marks the log and lets the simulation go on;
        "raise" raises.
    threads
        Threads to use; default the cores that the process may use, or QUESTS_MD_THREADS. Never changes the result.
    resume
        Go on with the run that the log holds, if it exists: the run stands where the log has its first frame, found by
        its digest, and what the log has of later checks is superseded and made again. Flagged frames written by
        `save_frame` after that are removed.
    start_step
        Step of the first frame, where its digest cannot tell: a checkpoint between two checks or with fewer digits.

    Raises
    ------
    LogExistsError
        If the log already holds a run, or another monitor has it open.
    MismatchError
        If the calibration belongs to another reference, or the log to be resumed to another run; the latter is
        raised when the first frame is seen.
    ValueError, TypeError, OSError
        If an argument is not usable or the log cannot be written.

    Examples
    --------
    >>> reference = Reference.from_frames("train.xyz")       # doctest: +SKIP
    >>> with Monitor(reference) as monitor:                  # doctest: +SKIP
    ...     monitor.attach(dyn, interval=10)
    ...     dyn.run(100_000)
    """

    def __init__(
        self,
        reference: Reference,
        calibration: Calibration | None = None,
        *,
        statistics: Sequence[str] | None = None,
        baseline_ps: float | None = None,
        phases: Phases | Mapping[str, Reference] | None = None,
        max_temperature_K: float | None = None,
        trigger: Trigger | None = None,
        confirm: Reference | tuple[Reference, Calibration] | None = None,
        log: str | os.PathLike[str] | None = "quests-md.jsonl",
        actions: Sequence[Action] = (),
        values: Values = "auto",
        budget: float | None = None,
        on_error: OnError = "log",
        threads: int | None = None,
        resume: bool = False,
        start_step: int | None = None,
    ) -> None:
        if not isinstance(reference, Reference):
            raise TypeError(
                f"reference: expected a Reference, got {type(reference).__name__}; "
                "make one with Reference.from_frames or Reference.load"
            )
        if on_error not in ("log", "raise"):
            raise ValueError(f"on_error: expected 'log' or 'raise', got {on_error!r}")
        if calibration is not None and not isinstance(calibration, Calibration):
            raise TypeError(
                f"calibration: expected a Calibration, got {type(calibration).__name__}; "
                "make one with calibrate or Calibration.load"
            )
        if trigger is not None and not isinstance(trigger, Trigger):
            raise TypeError(f"trigger: expected a Trigger, got {type(trigger).__name__}")
        if log is not None and not isinstance(log, str | os.PathLike):
            raise TypeError(f"log: expected a file name or None, got {type(log).__name__}")
        available_threads(threads)
        self._budget = None if budget is None else Budget(budget)
        self.trigger = (trigger or Trigger()).fresh()
        self.actions = _checked_actions(actions)
        if resume and log is None:
            raise ValueError("resume: expected a log to resume, got log=None")
        if start_step is not None and (isinstance(start_step, bool) or not isinstance(start_step, int | np.integer)):
            raise TypeError(f"start_step: expected an integer, got {start_step!r}")
        self._start_step = None if start_step is None else int(start_step)
        if log is not None and not resume:
            require_new_log(log)  # before the calibration, which may take a while
        if calibration is None:
            calibration = calibrate(reference, threads=threads)
        if statistics is not None:
            calibration = calibration.with_statistics(statistics)
        self._baseline = None
        if baseline_ps is not None:
            calibration, self._baseline = _with_baseline(
                calibration, baseline_ps, statistics is not None, self.trigger.release
            )
        _warn_of_runs("calibration", calibration)
        self.calibration = calibration
        self.reference = reference
        if phases is not None and not isinstance(phases, Phases):
            phases = Phases(phases, threads=threads)
        second = None if confirm is None else _second_judge(confirm, reference, values, self.trigger.release, threads)
        self.judge = Judge(
            reference,
            self.calibration,
            values=values,
            release=self.trigger.release,
            phases=phases,
            threads=threads,
            confirm=second,
            not_confirmed=() if self._baseline is None else self._baseline.statistics,
        )
        self.last_check: Check | None = None
        explosion = Explosion(max_temperature_K)
        self._follower = Follower(reference, self.trigger, self._baseline, explosion, calibration.false_alarms)
        self.trigger = self._follower.triggers["novel"]
        self._n_checks = 0
        self._n_atoms_checked = 0
        self._is_behind = False  # whether the log lacks something that the run so far has brought
        self._settled = 1  # id of the first event that may change after what the log has
        self._own_offset = self._given_offset = 0  # of steps that `check` counts, and of those it is given
        self._seconds = 0.0
        self._started: float | None = None
        self._ended: float | None = None
        self._check_span = 0.0, 0.0  # start and end of the last check
        self._last_ended: float | None = None  # end of the one that the budget knows
        self._stopped = False
        self._stop_now = False
        self._host: AseHost | None = None
        self._hosts: list[AseHost] = []
        self._noted: set[str] = set()
        self._preflown: bytes | None = None
        self._lock = threading.RLock()
        self._journal = Journal(log, on_error, resume=resume)
        descriptor = reference.descriptor
        self._window = Window(descriptor.samples) if isinstance(descriptor, TimeAveraged) else None

    def attach(self, dyn: Any, interval: int = 10) -> None:
        """Attach to an ASE dynamics or optimizer and print the pre-flight block for its atoms on stderr.

        The monitor becomes the first observer, so that it sees a step before any writer does.

        Parameters
        ----------
        dyn
            Any ASE dynamics or optimizer.
        interval
            Check every so many steps, from step 0.

        Raises
        ------
        ValueError, TypeError
            If the interval is not a positive integer, or `dyn` moves no Atoms.
        """
        if isinstance(interval, bool) or not isinstance(interval, int | np.integer):
            raise TypeError(f"interval: expected a positive integer, got {interval!r}")
        if interval < 1:
            raise ValueError(f"interval: expected a positive integer, got {interval!r}")
        if not hasattr(dyn, "insert_observer") or not hasattr(dyn, "atoms"):
            raise TypeError(f"dyn: expected an ASE dynamics or optimizer, got {type(dyn).__name__}")
        host = self._new_host(dyn, int(interval))
        every = int(interval)
        if self._window is not None:
            every = host.spacing = self._sampling_interval(host, int(interval))
        self._begin(host.atoms(), host=host)
        self._preflight_once(host.atoms())
        if not host.is_due(host.step() - host.own_step, every):
            every = 1  # a run taken up between two checks is checked at the same steps as before
        dyn.insert_observer(self._observe, 0, every, host)

    def __call__(self, dyn: Any = None) -> None:
        """Be an observer attached in ASE's own way: ``dyn.attach(monitor, 10, dyn)``."""
        if dyn is None:
            raise TypeError("dyn: expected the dynamics; attach with dyn.attach(monitor, interval, dyn)")
        host = next((h for h in self._hosts if h.is_for(dyn)), None)
        if host is None:
            place = next((i for i, entry in enumerate(dyn.observers) if entry[0] is self), None)
            host = self._new_host(dyn, None if place is None else dyn.observers[place][1])
            self._begin(host.atoms(), host=host)
            if place is not None and not host.is_due(host.step() - host.own_step):
                dyn.observers[place] = (self, 1, *dyn.observers[place][2:])  # taken up between two checks
            self._journal.guarded(lambda: self._preflight_once(host.atoms()))
        self._observe(host)

    def preflight(self, atoms: Atoms) -> str:
        """Compile what is needed, judge a start structure, and print what to know before step 1 on stderr.

        Called by `attach`; call it yourself before a loop of your own. Also writes the header of the log.

        Returns
        -------
        text
            The block that was printed.
        """
        self._begin(atoms)
        start = time.perf_counter()
        cached = are_kernels_cached()
        announce_compilation()
        warm_up(self.judge)
        descriptor = self.reference.descriptor
        # one frame is all there is: what thermal noise makes of it is said by the first check
        averaged = descriptor.marked(atoms.copy()) if isinstance(descriptor, TimeAveraged) else None
        judged = self.judge.judge(atoms, step=0, frame=0, averaged=averaged)
        second = self.judge.confirm
        if second is not None and judged.check.confirm_excess is None:
            second.judge(atoms, step=0, frame=0)  # what is wrong with its calculator is to be known now
        text = preflight_text(self.judge, judged, atoms)
        text += f"\n  {'kernels':<10} {'loaded' if cached else 'compiled'} in {time.perf_counter() - start:.1f} s"
        say(text)
        self._journal.note("info", text)
        return text

    def check(self, atoms: Atoms, step: int | None = None, time_ps: float | None = None) -> Check:
        """Check one frame in a loop of your own.

        Parameters
        ----------
        atoms
            The frame; not changed.
        step
            Step to log; default the monitor's own count of frames. Where `start_step` says at which step the first
            frame stands, both are counted from there.
        time_ps
            Simulated time to log, ps.

        Returns
        -------
        check
            What was found. If the monitor itself failed and on_error="log": a check of state "invalid".

        Raises
        ------
        TypeError
            If `atoms` is not Atoms.
        MismatchError, FileFormatError
            If it is the first frame of a run whose log cannot be resumed with it.
        ValueError
            If the trigger has a `patience_ps` and `time_ps` is not given.
        """
        if not isinstance(atoms, Atoms):
            raise TypeError(f"atoms: expected ase.Atoms, got {type(atoms).__name__}")
        if time_ps is None and self._needs_time is not None:
            raise ValueError(f"time_ps: expected a time in ps since {self._needs_time} is set, got None")
        with self._lock:
            check = self._check(atoms, None if step is None else int(step), time_ps, None)
            if check is None:
                check = _failed_check(self._step_of(step), self._n_checks, time_ps, len(atoms))
        return check

    def take(self, judged: Judged, atoms: Atoms) -> Check:
        """Take a frame judged elsewhere (by `monitor.judge`, on another thread) as the next one of the run."""
        with self._lock:
            start = time.perf_counter()
            judging = judged.check.elapsed_us * 1e-6
            if self._started is None:
                self._started = start - judging
            self._begin(atoms, step=judged.check.step)
            if judged.check.frame != self._n_checks:  # the log counts on
                judged = replace(judged, check=replace(judged.check, frame=self._n_checks))
            self._journal.guarded(lambda: self._commit(judged, atoms))
            self._ended = time.perf_counter()
            self._seconds += judging + self._ended - start
            last = self.last_check
        return last if last is not None and last.frame == judged.check.frame else judged.check

    def take_failure(self, failure: Exception, atoms: Atoms, *, step: int, frame: int, time_ps: float | None) -> Check:
        """Take a frame that could not be judged elsewhere: said once and noted, or raised, as `on_error` asks."""
        with self._lock:
            self._begin(atoms)
            self._journal.fail(failure)
        return _failed_check(step, frame, time_ps, len(atoms))

    @property
    def events(self) -> list[Event]:
        """Events so far, in order of id; of the closed ones the last 1000, all of them are in the log."""
        return self._follower.events_from(0)

    @property
    def n_outliers(self) -> int:
        """Times that checks were out, but not for long enough to open an event."""
        return self._follower.n_outliers

    @property
    def _needs_time(self) -> str | None:
        """The setting for which every check must have a time."""
        return "patience_ps" if self.trigger.patience_ps is not None else "baseline_ps" if self._baseline else None

    @property
    def stopped(self) -> bool:
        """Whether the trigger or an action has asked for the end of the run; for loops of your own."""
        return self._stopped

    @property
    def overhead(self) -> Overhead:
        """What the checks have cost so far."""
        wall = 0.0 if self._started is None or self._ended is None else self._ended - self._started
        return Overhead(
            seconds=self._seconds,
            share=self._seconds / wall if wall > 0 else 0.0,
            us_per_atom=self._seconds * 1e6 / self._n_atoms_checked if self._n_atoms_checked else 0.0,
            checks=self._n_checks,
        )

    @property
    def n_checks(self) -> int:
        """Checks so far."""
        return self._n_checks

    def close(self) -> None:
        """Write the state of an open event and close the log."""
        with self._lock:
            if not self._journal.is_open:
                return
            try:
                events = self._follower.events_from(self._settled if self._is_behind else self._follower.settled)
                self._journal.write(*(event.to_line() for event in events if event.is_open or self._is_behind))
                cost = self.overhead
                if self._n_checks:
                    self._journal.note(
                        "info",
                        f"closed after {cost.checks} checks: {cost.seconds:.2f} s in checks, {cost.share:.1%} of the "
                        f"run, {cost.us_per_atom:.1f} us per atom; {self.n_outliers} times out too shortly for an "
                        "event",
                    )
            finally:
                self._journal.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Monitor cannot be pickled or copied: it belongs to one run and one log; make one in each process from "
            "saved files (Reference.save, Calibration.save) with a log of its own"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _sampling_interval(self, host: AseHost, interval: int) -> int:
        """Steps between the frames that are averaged."""
        descriptor, step_ps = self.reference.descriptor, host.step_length_ps()
        assert isinstance(descriptor, TimeAveraged)
        if step_ps is None:
            raise ValueError("dyn: expected a dynamics with a time step, since the reference is of time averages")
        every = max(1, round(descriptor.spacing_ps / step_ps))
        if abs(every * step_ps - descriptor.spacing_ps) > 0.1 * descriptor.spacing_ps:
            raise ValueError(
                f"dyn: expected a time step of which {descriptor.spacing_ps:g} ps is a multiple (the reference is of "
                f"positions averaged over {descriptor.mark}), got {step_ps:g} ps"
            )
        if interval % every or interval < every * descriptor.samples:
            raise ValueError(
                f"interval: expected a multiple of {every} steps, {every * descriptor.samples} at least, since the "
                f"reference is of positions averaged over {descriptor.mark}; got {interval}"
            )
        return every

    def _averaged(self, atoms: Atoms, host: AseHost) -> Atoms | None:
        """The mean of the last frames where a check is due, None elsewhere; takes the next frame."""
        descriptor, window = self.reference.descriptor, self._window
        assert isinstance(descriptor, TimeAveraged)
        assert window is not None
        if host.is_due(host.step(), host.spacing):
            window.push(atoms)
        if not host.is_due(host.step()) or not window.is_full:
            return None
        averaged = descriptor.marked(window.mean(atoms))
        window.clear()  # checks that share frames would not be independent
        return averaged

    def _new_host(self, dyn: Any, interval: int | None) -> AseHost:
        if self._host is not None:
            self._host.look()  # it may be gone when the new one starts
        host = AseHost(dyn, interval)
        host.atoms()
        if self._needs_time is not None and not host.knows_time():
            raise ValueError(
                f"{self._needs_time}: expected a dynamics that knows the time, got {type(dyn).__name__}; leave it out"
            )
        step_ps = host.step_length_ps()
        if step_ps and interval:
            self.judge.set_interval(step_ps * interval)
        self._hosts = [h for h in self._hosts if h.is_alive()] + [host]
        return host

    def _preflight_once(self, atoms: Atoms) -> None:
        """Pre-flight, unless this system has had it: loops that make a new dynamics each time shall stay quiet."""
        system = atoms.numbers.tobytes()
        if system != self._preflown:
            self.preflight(atoms)
            self._preflown = system

    def _observe(self, host: AseHost) -> None:
        def observe() -> None:
            if self._host is not host:
                if self._host is not None:
                    host.take_over(self._host)
                self._host = host
            atoms, step = host.atoms(), host.step()
            averaged = None
            if self._window is None and not host.is_due(step):
                return
            if self._window is not None:
                averaged = self._averaged(atoms, host)
                if averaged is None and np.isfinite(atoms.positions).all():
                    return
            if self._budget is not None and not self._budget.is_due():
                return
            last = self.last_check
            # a new dynamics on the same atoms shows its step 0, which was the last step of the one before
            if last is not None and last.step == step and last.digest == frame_digest(atoms):
                return
            every = 1 if self._budget is None else self._budget.every
            self._check(atoms, step, host.time_ps(), host.interval and host.interval * every, averaged)
            if self._budget is not None:
                self._keep_budget(self._budget, host)

        self._stop_now = False
        self._journal.guarded(observe)
        if self._stop_now:  # asked for by this check: a run taken up again goes on
            host.stop()

    def _keep_budget(self, budget: Budget, host: AseHost) -> None:
        """Check more or less often from now on, so that checks take no more than their share of the run."""
        started, ended = self._check_span
        since_last = 0.0 if self._last_ended is None else started - self._last_ended
        self._last_ended = ended
        if budget.take(ended - started, since_last):
            steps = budget.every * (host.interval or 1)
            self._journal.note("info", f"budget {budget.share:g}: a check every {steps} steps from here on")

    def _check(
        self, atoms: Atoms, step: int | None, time_ps: float | None, interval: int | None, averaged: Atoms | None = None
    ) -> Check | None:
        """Check a frame; None: that has failed."""
        with self._lock:
            start = time.perf_counter()
            if self._started is None:
                self._started = start
            frame: int | None = None

            if self._journal.history is not None:
                self._begin(atoms, step=step)  # that the log is of another run is for the user, whatever on_error says

            def check() -> None:
                nonlocal frame
                self._begin(atoms, step=step)
                frame, at = self._n_checks, self._step_of(step)
                judged = self.judge.judge(
                    atoms, step=at, frame=frame, time_ps=time_ps, interval=interval, averaged=averaged
                )
                self._commit(judged, atoms)

            try:
                self._journal.guarded(check)
            finally:
                self._ended = time.perf_counter()
                self._seconds += self._ended - start
                self._check_span = start, self._ended
            last = self.last_check
            return last if last is not None and last.frame == frame else None

    def _step_of(self, step: int | None) -> int:
        """The step of a frame: None where nobody counts but the monitor; a loop may have begun anew at 0."""
        return self._n_checks + self._own_offset if step is None else int(step) + self._given_offset

    def _commit(self, judged: Judged, atoms: Atoms) -> None:
        """Ask the triggers, follow events, log, act."""
        if self._baseline is not None and self.calibration.per != "check":
            self._baseline.n_checks = self.judge.checks or self.calibration.checks or 1
        # until all of this check is in the log: a failure, an interrupt, a full disk may come in between
        was_behind, self._is_behind = self._is_behind, True
        taken = self._follower.take(judged, atoms)
        check = taken.judged.check
        previous, self.last_check = self.last_check, check
        self._journal.step = check.step
        self._n_checks += 1
        self._n_atoms_checked += check.n_atoms
        lines = list(taken.lines)
        if was_behind:
            lines += [event.to_line() for event in self._follower.events_from(self._settled)]
            lines.append(self._follower.snapshot(check))
        is_written = self._journal.write(*lines)
        for level, text in taken.notes:
            self._journal.note(level, text)
        self._note_changes(previous, check)
        if taken.judged.unanswered:
            message = f"the second reference (confirm) could not answer: {taken.judged.unanswered}"
            self._journal.alert(message, "alarms stand where this happens")
        for event, is_new in taken.events:
            for action in self.actions:
                if is_new or getattr(action, "repeats", False):
                    self._journal.guarded(partial(self._act, action, event, taken.judged, atoms))
        if (taken.events or was_behind) and (files := action_files(self.actions)):
            sizes = {name: file_size(name) for name in files}
            line = {"type": "state", "step": check.step, "frame": check.frame, "files": sizes}
            is_written = self._journal.write(line) and is_written
        self._is_behind = not is_written
        if is_written:
            self._settled = self._follower.settled
        if taken.stop:
            self._stop()

    def _note_changes(self, previous: Check | None, check: Check) -> None:
        """Say once that the number of atoms changes, and once that there are elements without a reference."""
        if previous is not None and previous.n_atoms != check.n_atoms and "atoms" not in self._noted:
            self._noted.add("atoms")
            text = f"the number of atoms changed from {previous.n_atoms} to {check.n_atoms}"
            self._journal.note("warning", f"{text}; the levels follow the size; said once")
        if check.n_unknown and "unknown" not in self._noted:
            self._noted.add("unknown")
            text = f"{check.n_unknown} atoms of elements that the reference has never seen score +inf"
            elements = ", ".join(self.reference.elements) or "none"
            self._journal.note("warning", f"{text}; it has {elements}; said once")

    def _act(self, action: Action, event: Event, judged: Judged, atoms: Atoms) -> None:
        try:
            action(event, labelled_copy(self.judge, judged, atoms, event))
        except StopRun:
            self._stop()

    def _stop(self) -> None:
        self._stopped = self._stop_now = True

    def _begin(self, atoms: Atoms, *, host: AseHost | None = None, step: int | None = None) -> None:
        """Write the header of the log, or find the place of the run in a log to be resumed, once."""
        if self._journal.has_begun:
            return
        header = header_line(
            atoms,
            self.judge,
            trigger=self.trigger.settings,
            baseline_ps=None if self._baseline is None else self._baseline.duration_ps,
            max_temperature_K=self._follower.explosion.max_temperature_K,
            budget=None if self._budget is None else self._budget.share,
            files=action_files(self.actions),
        )
        if self._journal.history is None:
            self._journal.begin(header)
            return
        self._resume(self._journal.history, header, atoms, host, step)

    def _resume(
        self, history: LogHistory, header: dict[str, Any], atoms: Atoms, host: AseHost | None, step: int | None
    ) -> None:
        """Bring the run back to where it stands with these atoms; supersede what the log has after that."""
        own_step = step if host is None else host.own_step or None
        place = find_place(
            history,
            frame_digest(atoms),
            len(atoms),
            own_step=own_step,
            start_step=self._start_step,
            is_kept=self._window is not None or (host is not None and host.own_step > 0),
        )
        before = header_at(history, place)
        chain = require_known_reference(before, self.reference, str(history.path))
        require_same_monitor(before, plain_line(header), str(history.path), same_reference=not chain)
        if self._baseline is not None and self.calibration.per != "check":
            self._baseline.n_checks = self.judge.checks or self.calibration.checks or 1
        self.last_check, place = bring_back(self._follower, history, place)
        self._settled = self._follower.settled
        self._n_checks = place.frame
        if host is None:
            self._own_offset = place.step - place.frame
            self._given_offset = 0 if step is None else place.step - step
        lines: list[dict[str, Any]] = []
        if history.last is not None and history.last.content["frame"] >= place.frame:
            lines.append({"type": "rewind", "step": place.step, "frame": place.frame})
        who = {name: header[name] for name in ("version", "started", "host", "pid")}
        lines.append({"type": "state", "step": place.step, "resumed": who})
        if chain:
            lines.append(
                {"type": "reference", "step": place.step, "chain": chain} | {name: header[name] for name in CHANGING}
            )
        self._journal.go_on(*lines)
        self._journal.note("info", f"resumed at step {place.step}: {place.frame} checks before it are kept")
        if place.note:
            self._journal.note("warning", place.note)
        for text in cut_files(history, place, self.actions):
            self._journal.note("warning", text)
        if host is not None:
            time_ps = place.time_ps
            if time_ps is None and self.last_check is not None and self.last_check.time_ps is not None:
                time_ps = self.last_check.time_ps + (place.step - self.last_check.step) * (host.step_length_ps() or 0.0)
            from_start = place.step * (host.step_length_ps() or 0.0)
            if time_ps is not None and abs(from_start - time_ps) < 2e-9:  # the log has it rounded
                time_ps = from_start
            last_step = place.step if place.is_checked or self.last_check is None else self.last_check.step
            host.continue_at(place.step, time_ps, checked=last_step)
            if place.is_checked and host.own_step and self._window is None:  # it shows only the next frame
                self._check(atoms, place.step, host.time_ps(), host.interval)


def _warn_of_runs(argument: str, calibration: Calibration) -> None:
    if calibration.per == "run" and calibration.checks is None:
        warnings.warn(
            f"{argument}: the rate counts runs, but the number of checks in one is not known and taken as 1; "
            "give calibrate(..., checks=...)",
            stacklevel=3,
        )


def _second_judge(
    confirm: Reference | tuple[Reference, Calibration],
    first: Reference,
    values: Values,
    release: float,
    threads: int | None,
) -> Judge:
    """The judge that is asked about alarms."""
    reference, calibration = confirm if isinstance(confirm, tuple) and len(confirm) == 2 else (confirm, None)
    if not isinstance(reference, Reference) or not isinstance(calibration, Calibration | None):
        raise TypeError(f"confirm: expected a Reference, or it and its Calibration, got {confirm!r}")
    for which, known in (("a reference", reference), ("a first reference", first)):
        if isinstance(known.descriptor, TimeAveraged):
            raise ValueError(f"confirm: expected {which} for single frames, got one of time averages")
    unseen = [symbol for symbol in first.elements if not reference.is_center([atomic_numbers[symbol]]).all()]
    if unseen:
        raise ValueError(
            f"confirm: expected a reference with environments of all elements of the first, got none of "
            f"{', '.join(unseen)} by its descriptor's `centers`"
        )
    if calibration is None:
        calibration = calibrate(reference, threads=threads)
    _warn_of_runs("confirm", calibration)
    return Judge(reference, calibration, values=values, release=release, threads=threads)


def _checked_actions(actions: Sequence[Action] | Action) -> tuple[Action, ...]:
    try:
        chosen = (actions,) if callable(actions) else tuple(actions)
    except TypeError:
        raise TypeError(f"actions: expected callables action(event, atoms), got {actions!r}") from None
    for action in chosen:
        if not callable(action):
            raise TypeError(f"actions: expected callables action(event, atoms), got {action!r}")
    return chosen


def _with_baseline(
    calibration: Calibration, duration_ps: float, is_chosen: bool, release: float
) -> tuple[Calibration, Baseline]:
    """The calibration with statistics that a baseline can judge in use, and the baseline with its share of the rate."""
    if not is_chosen:
        calibration = calibration.with_statistics((*calibration.statistics, "frame_entropy"))
    judged = tuple(name for name in calibration.statistics if name in BASELINE_STATISTICS)
    if not judged:
        raise ValueError(
            f"baseline_ps: expected statistics with one of {', '.join(BASELINE_STATISTICS)}, got "
            f"{', '.join(calibration.statistics)}"
        )
    rate = calibration.false_alarms * len(judged) / len(calibration.statistics)
    return calibration, Baseline(judged, duration_ps, rate, release)


def _failed_check(step: int, frame: int, time_ps: float | None, n_atoms: int) -> Check:
    """Stands for a check that the monitor could not make."""
    nothing: dict[str, Any] = dict.fromkeys(
        (
            "dh_max",
            "dh_mean",
            "dh_q99",
            "largest_cluster",
            "tail_cluster",
            "frame_entropy",
            "worst_atom",
            "worst_element",
            "temperature_K",
            "volume_per_atom",
            "energy_per_atom",
            "interval",
        )
    )
    return Check(
        step=step,
        frame=frame,
        time_ps=time_ps,
        n_atoms=n_atoms,
        n_above=0,
        n_tail=None,
        excess=math.nan,
        alarms=(),
        trigger_excess=math.nan,
        n_unknown=0,
        state="invalid",
        digest="",
        elapsed_us=0.0,
        **nothing,
    )
