"""Monitor: watches a running simulation, one frame at a time, and never disturbs it."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self

from ase import Atoms

from quests_md.calibration import Calibration
from quests_md.hosts import AseAttachment
from quests_md.judge import Judge, Phases, Values
from quests_md.records import Check, Event
from quests_md.reference import Reference
from quests_md.watch import Action, OnError, Overhead, RunSettings, Trigger, Watch

__all__ = ["Action", "Monitor", "Overhead"]


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
        resolve = partial(
            RunSettings.resolve,
            reference,
            calibration,
            statistics=statistics,
            baseline_ps=baseline_ps,
            phases=phases,
            max_temperature_K=max_temperature_K,
            trigger=trigger,
            confirm=confirm,
            actions=actions,
            values=values,
            budget=budget,
            threads=threads,
            stacklevel=4,
        )
        self.watch = Watch(resolve, log=log, on_error=on_error, resume=resume, start_step=start_step)
        self._attachment = AseAttachment(self.watch)

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
        self._attachment.attach(dyn, interval)

    def __call__(self, dyn: Any = None) -> None:
        """Be an observer attached in ASE's own way: ``dyn.attach(monitor, 10, dyn)``."""
        if dyn is None:
            raise TypeError("dyn: expected the dynamics; attach with dyn.attach(monitor, interval, dyn)")
        self._attachment.observe_first(dyn, self)

    def preflight(self, atoms: Atoms) -> str:
        """Compile what is needed, judge a start structure, and print what to know before step 1 on stderr.

        Called by `attach`; call it yourself before a loop of your own. Also writes the header of the log.

        Returns
        -------
        text
            The block that was printed.
        """
        return self.watch.preflight(atoms)

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
        if time_ps is None and (needs_time := self.watch.settings.needs_time) is not None:
            raise ValueError(f"time_ps: expected a time in ps since {needs_time} is set, got None")
        return self.watch.check_frame(atoms, None if step is None else int(step), time_ps)

    @property
    def reference(self) -> Reference:
        """The environments that count as known."""
        return self.judge.reference

    @property
    def calibration(self) -> Calibration:
        """The levels."""
        return self.judge.calibration

    @property
    def judge(self) -> Judge:
        """What turns a frame into a check."""
        return self.watch.settings.judge

    @property
    def last_check(self) -> Check | None:
        """The last check; None before the first."""
        return self.watch.last_check

    @property
    def events(self) -> list[Event]:
        """Events so far, in order of id; of the closed ones the last 1000, all of them are in the log."""
        return self.watch.events

    @property
    def n_checks(self) -> int:
        """Checks so far."""
        return 0 if self.watch.run is None else self.watch.run.n_checks

    @property
    def n_outliers(self) -> int:
        """Times that checks were out, but not for long enough to open an event."""
        return 0 if self.watch.run is None else self.watch.run.follower.n_outliers

    @property
    def stopped(self) -> bool:
        """Whether the trigger or an action has asked for the end of the run; for loops of your own."""
        return self.watch.run is not None and self.watch.run.stopped

    @property
    def overhead(self) -> Overhead:
        """What the checks have cost so far."""
        return self.watch.cost.overhead(self.n_checks)

    def close(self) -> None:
        """Write the state of an open event and close the log."""
        self.watch.close()

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
