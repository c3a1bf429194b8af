"""Monitor: watches a running simulation, one frame at a time, and never disturbs it."""

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, Self, Unpack

from ase import Atoms
from numpy.typing import ArrayLike

from quests_md._arguments import check_step, is_number
from quests_md.calibration import Calibration, GivenCalibration
from quests_md.hosts import AfterStop, ArrayFrames, AseAttachment, FurtherArrays, LammpsAttachment
from quests_md.judge import Judge, Phases, Values
from quests_md.records import Check, Event
from quests_md.reference import GivenReference, Reference
from quests_md.watch import Action, GivenAction, OnError, Overhead, RunSettings, Trigger, Watch

__all__ = ["Action", "Monitor", "Overhead"]


class _Watched:
    """What a monitor says of the run that it watches."""

    watch: Watch

    def preflight(self, atoms: Atoms) -> str:
        """Compile what is needed, judge a start structure, and return what to know before step 1: the pre-flight block.

        `attach` prints it; before a loop of your own, use ``print(monitor.preflight(atoms))``. It also begins the log,
        where the text is noted.
        """
        return self.watch.preflight(atoms)

    def update(self, reference: GivenReference, calibration: GivenCalibration | None = None) -> None:
        """Go on with another reference, as after frames of an event were added to the training set.

        Events that are open stay open and are judged by the new levels. A baseline begins anew, since its averages were
        by the old reference. A line of type "reference" in the log says what holds from here on: to resume the run at a
        later step, give the new reference and the levels from here on, which are to be saved for that:
        ``monitor.calibration.save("levels.json")``. May be called by an action.

        Parameters
        ----------
        reference
            A reference with the same settings, or its file: made by `Reference.extend`, `Reference.merge`, or anew.
        calibration
            Its levels or their file, for the same rate of false alarms. Default: those so far, carried to the new
            reference where it was made by `extend` or `merge`; else `calibrate` at the same rate.

        Raises
        ------
        MismatchError
            If the reference has other settings, or the calibration is of another reference.
        ValueError
            If the calibration has another rate, or the monitor is closed.
        """
        if self.watch.is_closed:
            raise _closed()
        self.watch.update(reference, calibration)

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
    def device(self) -> str | None:
        """Device of torch on which frames are judged whose tensors are there; None: all are judged on the CPU.

        It is that of the reference (`Reference.to`), if only local scores are in use, without phases and baseline, and
        the descriptor has no settings but `k` and `cutoff`.
        """
        return None if self.watch.settings.baseline is not None else self.judge.device

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
    def stop_reason(self) -> str | None:
        """Why the trigger or an action has asked for the end of the run, the last time; None: none has.

        A sentence that names the step, the event and what made it one. The log has it too, with the id of the event:
        ``read_log(...).stops``.
        """
        return None if self.watch.run is None else self.watch.run.stop_reason

    @property
    def overhead(self) -> Overhead:
        """What the checks have cost so far."""
        return self.watch.cost.overhead(self.n_checks)


class _Attached(_Watched):
    """What a monitor is attached to."""

    _attachment: AseAttachment
    _lammps: LammpsAttachment | None

    def attach(self, dyn: Any, interval: int = 10) -> None:
        """Attach to an ASE dynamics or optimizer and print the pre-flight block for its atoms on stderr.

        The monitor becomes the first observer, so that it sees a step before any writer does. It checks every
        `interval` steps, from step 0. The block is printed once for each system: atoms of other elements, boundaries or
        cell.

        Raises
        ------
        ValueError, TypeError
            If the interval is not a positive integer, `dyn` moves no Atoms, or the monitor is closed.
        """
        if self.watch.is_closed:
            raise _closed()
        self._attachment.attach(dyn, interval)

    def attach_lammps(
        self,
        lmp: Any,
        interval: int = 100,
        types: Sequence[str] | None = None,
        *,
        length_A: float | None = None,
        values: bool = False,
        after_stop: AfterStop = "go on",
    ) -> LammpsAttachment:
        """Attach to LAMMPS itself, without ASE: to an instance of ``lammps.lammps``, whatever commands it is given.

        The run and thermo output are the same as without the monitor. It checks at LAMMPS's own steps that are
        multiples of the interval. On several processes of MPI each of them makes its own monitor and calls this; the
        first one alone judges, logs and acts. A log that is resumed goes on at the step of the restart file.

        An error that is to be raised, and an interrupt, end the run at the next check; they are raised by `close`, or
        by `LammpsAttachment.ensure`.

        Parameters
        ----------
        lmp
            An instance of LAMMPS. Its box may come later: then call `LammpsAttachment.ensure` once it is there, and
            after ``clear``.
        interval
            Steps between checks.
        types
            A chemical symbol for each type of LAMMPS, from type 1: ``("Cu", "Zr")``. Default: the labels of the types
            (``labelmap``), where they are chemical symbols.
        length_A
            In units lj: the length in Å of sigma, as the reference has it.
        values
            Whether LAMMPS is told what was found, for its dumps (``d_dh``, ``i_dh_above``, ``i_dh_cluster``) and thermo
            (``v_dh_max``, ``v_dh_mean``, ``v_dh_excess``, ``v_dh_state``, ``v_dh_step``). Then restart files hold these
            numbers of atoms as well.
        after_stop
            What becomes of later run commands after a stop: "go on", or "skip runs", which does all commands but those.

        Returns
        -------
        attachment
            See `LammpsAttachment`; most callers do not need it.

        Raises
        ------
        ValueError, TypeError
            If an argument is not usable, elements or lengths are not known, or the monitor is closed or attached to
            LAMMPS already.
        ImportError
            LAMMPS runs on several processes, and mpi4py is not installed.
        """
        if self.watch.is_closed:
            raise _closed()
        if self._lammps is not None and self._lammps.is_attached:
            raise ValueError("lmp: expected a monitor that is not attached to LAMMPS, but it is; detach it first")
        before = self._lammps
        if before is not None:
            before.detach()  # it may wait for a box
        options: dict[str, Any] = {"length_A": length_A, "values": values, "after_stop": after_stop, "after": before}
        self._lammps = LammpsAttachment(self.watch, lmp, interval, types, **options)
        return self._lammps

    @property
    def is_attached(self) -> bool:
        """Whether a dynamics that still exists, or LAMMPS, shows it its steps."""
        return self._attachment.is_attached or (self._lammps is not None and self._lammps.is_attached)

    def detach(self) -> None:
        """Leave all dynamics, and LAMMPS; the log stays open, and it can be attached again."""
        self._attachment.detach(self)
        if self._lammps is not None:
            self._lammps.detach()


class Monitor(_Attached):
    """Watch a simulation: check frames against a reference, log every check, follow events, act on them.

    Attach it to any ASE dynamics or optimizer, or call `check` in a loop of your own. Nothing is written into the
    atoms, no force call is caused, no global state is changed: the run is the same with and without the monitor.

    Parameters
    ----------
    reference
        The environments that count as known, or the name of their file.
    calibration
        Levels, or the name of their file; default `calibrate(reference)`, and the log says what that is worth.
    statistics
        Names of the statistics that raise alarms and share the rate of false alarms; default those of the calibration.
    baseline_ps
        Length in ps of the run's own beginning (the baseline). It replaces the reference as judge of those statistics
        in use whose levels do not hold at another temperature: the mean local score, the number of atoms above the
        local level (put in use where `statistics` is not given), mean dH, the 99 % quantile of dH, the frame entropy.
        Each may then be too high, too low, or drift.
    phases
        References of phases by name, the first that of the phase in which the run starts, or `Phases`. Each atom is
        assigned a phase; a cluster of another phase that outgrows those of the first phase alone is a "transition".
    max_temperature_K
        A hotter frame counts as exploded. Where it is not given, a jump of the temperature to five times its running
        median does.
    trigger
        What opens an event; it is copied. Default: three checks out in a row, or so many visits (short departures) in
        20 checks as chance alone makes less than once in 100 000 checks, `Trigger(visits=4)` where the levels promise
        a joint rate of 0.01; none where they promise nothing.
    log
        Name of the JSON-lines log; it must not hold a run yet. None: no log.
    confirm
        A second reference, or a pair of a second reference and its calibration; default `calibrate(confirm)`. It is
        asked about checks with alarms by the first reference, and these alarms stand only if the second has alarms too.
        So dear descriptors (`Minimised`) are used at suspicious checks alone, and the first may be calibrated for a
        high rate, as a sieve. If the second reference fails, the alarms stand. It is not asked about explosions,
        phases, elements that the first reference has never seen, and what a baseline judges.
    actions
        Called as ``action(event, frame)`` when an event opens, with a copy of the frame that carries
        ``arrays["delta_entropy"]`` of all atoms; with an attribute ``repeats = True`` also at the 2nd, 4th, 8th,
        ... check while it is open. An action that raises `StopRun` ends the run cleanly.
    values
        "full", "proven" or "auto", see `Judge`.
    budget
        Largest share of the wall time for checks, such as 0.02; default no limit. Where checks would take more, the
        monitor checks less often than its interval, or than `check` is called, and notes each change in the log. Which
        steps are checked then depends on timing; ``quests-md score --at LOG`` checks exactly the frames of a log.
        `score_trajectory` checks every frame.
    on_error
        What happens if the monitor itself fails: "log" says so once, marks the log and lets the simulation go on;
        "raise" raises.
    threads
        Threads to use; default the cores that the process may use, or QUESTS_MD_THREADS. Never changes the result.
    resume
        Go on with the run in the log, if there is one, from the check of the log that shows the first frame. Later
        checks of the log are superseded and made again; frames that `save_frame` wrote after that check are removed.
    start_step
        Step of the first frame, where its digest cannot tell: a checkpoint between two checks or with fewer digits.
    verbose
        Whether to print on stderr: the pre-flight block of each system that it is attached to, and a line when an event
        opens, when it has grown twofold, and when it closes. Warnings come in any case.

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
        reference: GivenReference,
        calibration: GivenCalibration | None = None,
        *,
        statistics: Sequence[str] | None = None,
        baseline_ps: float | None = None,
        phases: Phases | Mapping[str, GivenReference] | None = None,
        max_temperature_K: float | None = None,
        trigger: Trigger | None = None,
        confirm: GivenReference | tuple[GivenReference, GivenCalibration] | None = None,
        log: str | os.PathLike[str] | None = "quests-md.jsonl",
        actions: Sequence[GivenAction] = (),
        values: Values = "auto",
        budget: float | None = None,
        on_error: OnError = "log",
        threads: int | None = None,
        resume: bool = False,
        start_step: int | None = None,
        verbose: bool = True,
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
        self.watch = Watch(resolve, log=log, on_error=on_error, resume=resume, start_step=start_step, verbose=verbose)
        self._attachment = AseAttachment(self.watch)
        self._frames = ArrayFrames()
        self._lammps: LammpsAttachment | None = None

    def __call__(self, dyn: Any = None) -> None:
        """Be an observer attached in ASE's own way: ``dyn.attach(monitor, 10, dyn)``."""
        if dyn is None:
            raise TypeError("dyn: expected the dynamics; attach with dyn.attach(monitor, interval, dyn)")
        self._attachment.observe_first(dyn, self)

    def check(self, atoms: Atoms, step: int | None = None, time_ps: float | None = None) -> Check:
        """Check one frame in a loop of your own.

        A monitor watches one system. Images of a path (NEB) and replicas need a monitor each, with a log of its own:
        the frames of others, at the same step or by turns, are not checked but count as a failure of the monitor.

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
            What was found; a check of state "invalid" if the monitor itself failed, or is closed, and on_error="log".
            With a `budget`, a call at which no check is due returns the last check again, at once: its `step` tells.

        Raises
        ------
        TypeError
            If `atoms` is not Atoms, or `step` is no integer.
        MismatchError, FileFormatError
            If it is the first frame of a run whose log cannot be resumed with it.
        ValueError
            If the trigger has a `patience_ps` and `time_ps` is not given, if `step` takes more than 64
            bits, or, with on_error="raise", if the monitor is closed.
        """
        if not isinstance(atoms, Atoms):
            raise TypeError(f"atoms: expected ase.Atoms, got {type(atoms).__name__}")
        step = None if step is None else check_step("step", step)
        if self.watch.is_closed:
            self.watch.log.fail(_closed())
            return Check.invalid(step=step or 0, frame=self.n_checks, time_ps=time_ps, n_atoms=len(atoms))
        if time_ps is None and (needs_time := self.watch.settings.needs_time) is not None:
            raise ValueError(f"time_ps: expected a time in ps since {needs_time} is set, got None")
        return self.watch.check_given(atoms, step, time_ps)

    def check_arrays(
        self,
        positions: ArrayLike,
        cell: ArrayLike | None,
        pbc: ArrayLike,
        numbers: ArrayLike,
        *,
        step: int | None = None,
        time_ps: float | None = None,
        **further: Unpack[FurtherArrays],
    ) -> Check:
        """Check one frame in a loop of your own that has arrays and no Atoms: all else is as in `check`.

        Checks, events and log are those of `check` with Atoms of these arrays. The arrays are not changed and not kept.
        Tensors of torch that are on the device of the reference (`Reference.to`) stay there as long as the frame is
        quiet: flags are the same, values within the bounds of docs/gpu.md, and the digest is another one.

        Parameters
        ----------
        positions
            (n, 3) in Å. Numbers that are not finite are no wrong use: the simulation has exploded.
        cell
            (3, 3) in Å, a vector in each row; None: no cell.
        pbc
            Whether the cell is periodic along its vectors: one True or False, or three.
        numbers
            (n,) atomic numbers, 1 to 118.
        step, time_ps
            As in `check`.
        momenta, velocities
            (n, 3) in the unit of ASE, (amu eV)^(1/2), or in Å/fs: at most one of them, for temperatures.
        masses
            (n,) in amu; default those of the elements.
        ids
            (n,) distinct integers of 0 or more that stay with the atoms where their order changes.
        energy, forces
            In eV, and (n, 3) in eV/Å; flagged frames are saved with them.

        Raises
        ------
        TypeError, ValueError
            If an argument is not what it should be, which the message names, whatever `on_error` says.
        """
        if step is not None:
            check_step("step", step)
        if time_ps is not None and not (is_number(time_ps) and math.isfinite(time_ps)):
            raise ValueError(f"time_ps: expected a finite number of ps, got {time_ps!r}")
        atoms = self._frames.frame(positions, cell, pbc, numbers, further, device=self.device)
        return self.check(atoms, step, time_ps)

    def close(self) -> None:
        """Leave all dynamics, write the state of an open event and close the log; then nothing is judged any more."""
        try:
            if self._lammps is not None:
                self._lammps.finish()
            self.watch.close()
        finally:
            self.detach()
            if self._lammps is not None:
                self._lammps.raise_failure()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Monitor cannot be pickled or copied: it belongs to one run and one log; make one in each process from "
            "saved files (Reference.save, Calibration.save) with a log of its own"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _closed() -> ValueError:
    return ValueError("monitor: expected an open one, but it is closed; make another, with resume=True to go on")
