"""Monitor: watches a running simulation, one frame at a time, and never disturbs it."""

import math
import os
import socket
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
from ase import Atoms

from . import __version__
from ._kernels.threads import available_threads
from .baseline import BASELINE_STATISTICS, Baseline
from .budget import Budget
from .calibration import Calibration, calibrate, kind_of, rate_of
from .compilation import announce_compilation, are_kernels_cached
from .errors import StopRun
from .events import EventCourse
from .flagged import labelled_copy
from .frame_statistics import SAMPLE_ATOMS, SKETCH_ROWS
from .heldout import SEED
from .hosts import AseHost
from .journal import Journal, OnError
from .judge import Judge, Judged, Values, frame_digest
from .logfile import SCHEMA, require_new_log
from .preflight import preflight_text, warm_up
from .progress import say
from .records import Check, Event
from .reference import Reference
from .trigger import Trigger

__all__ = ["Action", "Monitor", "Overhead"]

#: Called as action(event, frame) with a copy of the flagged frame.
Action = Callable[[Event, Atoms], Any]

#: Closed events kept in memory; all of them are in the log.
RECENT_EVENTS = 1000


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
    trigger
        Default `Trigger()`: three checks out in a row open an event. It is copied.
    log
        Name of the JSON-lines log; it must not hold a run yet. None: no log.
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

    Raises
    ------
    LogExistsError
        If the log already holds a run.
    MismatchError
        If the calibration belongs to another reference.
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
        trigger: Trigger | None = None,
        log: str | os.PathLike[str] | None = "quests-md.jsonl",
        actions: Sequence[Action] = (),
        values: Values = "auto",
        budget: float | None = None,
        on_error: OnError = "log",
        threads: int | None = None,
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
        if log is not None:
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
        if calibration.per == "run" and calibration.checks is None:
            warnings.warn(
                "calibration: the rate counts runs, but the number of checks in one is not known and taken as 1; "
                "give calibrate(..., checks=...)",
                stacklevel=2,
            )
        self.calibration = calibration
        self.reference = reference
        self.judge = Judge(reference, self.calibration, values=values, release=self.trigger.release, threads=threads)
        self.last_check: Check | None = None
        self._closed_events: deque[Event] = deque(maxlen=RECENT_EVENTS)
        self._course: EventCourse | None = None
        self._n_events = 0
        self._n_checks = 0
        self._n_atoms_checked = 0
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
        self._journal = Journal(log, on_error)

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
        self._preflight_once(host.atoms())
        dyn.insert_observer(self._observe, 0, int(interval), host)

    def __call__(self, dyn: Any = None) -> None:
        """Be an observer attached in ASE's own way: ``dyn.attach(monitor, 10, dyn)``."""
        if dyn is None:
            raise TypeError("dyn: expected the dynamics; attach with dyn.attach(monitor, interval, dyn)")
        host = next((h for h in self._hosts if h.is_for(dyn)), None)
        if host is None:
            interval = next((entry[1] for entry in dyn.observers if entry[0] is self), None)
            host = self._new_host(dyn, interval)
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
        judged = self.judge.judge(atoms, step=0, frame=0)
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
            Step to log; default the monitor's own count of frames.
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
        ValueError
            If the trigger has a `patience_ps` and `time_ps` is not given.
        """
        if not isinstance(atoms, Atoms):
            raise TypeError(f"atoms: expected ase.Atoms, got {type(atoms).__name__}")
        if time_ps is None and self._needs_time is not None:
            raise ValueError(f"time_ps: expected a time in ps since {self._needs_time} is set, got None")
        frame = self._n_checks
        step = frame if step is None else int(step)
        self._check(atoms, step, time_ps, None)
        if self.last_check is None or self.last_check.frame < frame:
            return _failed_check(step, frame, time_ps, len(atoms))
        return self.last_check

    def take(self, judged: Judged, atoms: Atoms) -> Check:
        """Take a frame judged elsewhere (by `monitor.judge`, on another thread) as the next one of the run."""
        with self._lock:
            start = time.perf_counter()
            judging = judged.check.elapsed_us * 1e-6
            if self._started is None:
                self._started = start - judging
            self._begin(atoms)
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
        """Events so far, the open one last; of the closed ones the last 1000, all of them are in the log."""
        events = list(self._closed_events)
        if self._course is not None and self._course.is_confirmed:
            events.append(self._course.record(self.reference, is_open=True))
        return events

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
            if self._course is not None and self._course.is_confirmed:
                self._journal.write(self._course.record(self.reference, is_open=True).to_line())
            cost = self.overhead
            if self._n_checks:
                self._journal.note(
                    "info",
                    f"closed after {cost.checks} checks: {cost.seconds:.2f} s in checks, {cost.share:.1%} of the run, "
                    f"{cost.us_per_atom:.1f} us per atom",
                )
            self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
            self.judge.check_ps = step_ps * interval
            if self.calibration.per == "ns":
                self.judge.checks = max(1, math.ceil(1000 / self.judge.check_ps))
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
            if self._budget is not None and not self._budget.is_due():
                return
            atoms, step = host.atoms(), host.step()
            last = self.last_check
            # a new dynamics on the same atoms shows its step 0, which was the last step of the one before
            if last is not None and last.step == step and last.digest == frame_digest(atoms):
                return
            every = 1 if self._budget is None else self._budget.every
            self._check(atoms, step, host.time_ps(), host.interval and host.interval * every)
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

    def _check(self, atoms: Atoms, step: int, time_ps: float | None, interval: int | None) -> None:
        with self._lock:
            start = time.perf_counter()
            if self._started is None:
                self._started = start

            def check() -> None:
                self._begin(atoms)
                judged = self.judge.judge(atoms, step=step, frame=self._n_checks, time_ps=time_ps, interval=interval)
                self._commit(judged, atoms)

            try:
                self._journal.guarded(check)
            finally:
                self._ended = time.perf_counter()
                self._seconds += self._ended - start
                self._check_span = start, self._ended

    def _commit(self, judged: Judged, atoms: Atoms) -> None:
        """Log the check, ask the trigger, follow the event, act."""
        if self._baseline is not None and judged.check.state != "invalid":
            judged = self._judge_by_baseline(self._baseline, judged)
        check = judged.check
        previous, self.last_check = self.last_check, check
        self._journal.step = check.step
        self._n_checks += 1
        self._n_atoms_checked += check.n_atoms
        self._journal.write(check.to_line())
        self._note_changes(previous, check)
        if check.state == "invalid":
            self._commit_invalid(judged, atoms)
            return
        if self._course is not None and self._course.kind == "exploded":
            self._close_event()
        before = self.trigger.state
        after = self.trigger.update(check.trigger_excess, check.time_ps)
        if after != before:
            self._journal.write({"type": "state", "step": check.step, "frame": check.frame, "trigger": after})
        if after == "in":
            self._close_event()
            return
        if self._course is None:
            self._course = EventCourse(self._n_events + 1, check)
        self._course.add(check, atoms, judged.rows)
        if after in ("open", "stop"):
            self._open_or_follow(judged, atoms)
        if after == "stop":
            self._stop()

    def _judge_by_baseline(self, baseline: Baseline, judged: Judged) -> Judged:
        """The check as the run's own beginning judges it, once that is complete."""
        check = judged.check
        if check.time_ps is None or math.isnan(check.time_ps):
            raise ValueError("baseline_ps: expected a time in ps with every frame, got none")
        if self.calibration.per != "check":
            baseline.n_checks = self.judge.checks or self.calibration.checks or 1
        was_complete = baseline.is_complete
        values = {name: getattr(check, name) for name in baseline.statistics}
        excesses: dict[str, float | None] = dict(baseline.update(values, check.time_ps))
        if not baseline.is_complete:
            # of the frame entropy at another temperature the reference knows nothing; a high mean is worth a word
            return judged.with_excesses({"frame_entropy": None})
        if not was_complete:
            self._journal.note("info", str(baseline.text))
        # the reference no longer has a say in these, even where the baseline was too short to have one
        return judged.with_excesses(dict.fromkeys(baseline.statistics) | excesses)

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

    def _commit_invalid(self, judged: Judged, atoms: Atoms) -> None:
        """A frame without usable numbers is an event at once, and never collected."""
        if self._course is not None and self._course.kind != "exploded":
            self._close_event()
        self.trigger.interrupt()
        if self.trigger.stop_excess is not None:
            self._stop()
        if self._course is None:
            step = judged.check.step
            self._journal.note("error", f"invalid frame at step {step}: {judged.reason}")
            self._course = EventCourse(self._n_events + 1, judged.check)
        self._course.add(judged.check, atoms, None)
        self._open_or_follow(judged, atoms)

    def _open_or_follow(self, judged: Judged, atoms: Atoms) -> None:
        course = self._course
        assert course is not None
        is_new = not course.is_confirmed
        if is_new:
            course.confirm(judged.check)
            self._n_events += 1
        # the 1st, 2nd, 4th, ... check of an open event: a killed run has lost at most half of its course
        if course.n_open_checks & (course.n_open_checks - 1):
            return
        event = course.record(self.reference, is_open=True)
        self._journal.write(event.to_line())
        for action in self.actions:
            if is_new or getattr(action, "repeats", False):
                self._journal.guarded(partial(self._act, action, event, judged, atoms))

    def _act(self, action: Action, event: Event, judged: Judged, atoms: Atoms) -> None:
        try:
            action(event, labelled_copy(self.judge, judged, atoms, event))
        except StopRun:
            self._stop()

    def _stop(self) -> None:
        self._stopped = self._stop_now = True

    def _close_event(self) -> None:
        course, self._course = self._course, None
        if course is not None and course.is_confirmed:
            event = course.record(self.reference, is_open=False)
            self._closed_events.append(event)
            self._journal.write(event.to_line())

    def _begin(self, atoms: Atoms) -> None:
        """Write the header of the log, once."""
        if self._journal.has_begun:
            return
        n_atoms = len(atoms)
        numbers = np.asarray(atoms.numbers)[self.reference.is_center(atoms.numbers)]
        levels = self.judge.frame_levels(numbers)
        in_use = [level for level in levels if level.statistic in self.calibration.statistics]
        header = {
            "type": "header",
            "schema": SCHEMA,
            "version": __version__,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "reference": {
                "fingerprint": self.reference.fingerprint,
                "n_environments": self.reference.n_environments,
                "elements": list(self.reference.elements),
                "bandwidth": self.reference.bandwidth,
                "settings": self.reference.settings,
            },
            "calibration": {
                "level": max(level.value for level in levels if level.statistic == "dh_max"),
                "kind": kind_of(in_use),
                "false_alarms": self.calibration.false_alarms,
                "per": self.calibration.per,
                "rate": rate_of(in_use),
                "n_groups": self.calibration.n_groups,
                "checks": self.judge.checks or self.calibration.checks or 1,
                "statistics": list(self.calibration.statistics),
                "levels": [asdict(level) for level in levels],
                "atom_levels": {str(z): level for z, level in self.calibration.atom_levels.items()},
                "promise": self.judge.promise(numbers),
            },
            "budget": None if self._budget is None else self._budget.share,
            "baseline_ps": None if self._baseline is None else self._baseline.duration_ps,
            "trigger": self.trigger.settings,
            "values": {
                "asked": self.judge.values,
                "used": self.judge.mode(n_atoms),
                "margin": self.judge.margin,
                "sample_atoms": SAMPLE_ATOMS,
                "sketch_rows": SKETCH_ROWS,
                "seed": SEED,
            },
            "n_atoms": n_atoms,
        }
        self._journal.begin(header)


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
