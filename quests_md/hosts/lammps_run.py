"""Runs of LAMMPS itself: a fix that calls the monitor at each step, in the order of the run and on all processes."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from ase import Atoms

from quests_md._arguments import check_choice, check_positive_integer
from quests_md.environments import frame_digest
from quests_md.watch import Watch

from .lammps_frame import Lammps
from .lammps_ranks import Alone, Ranks, ranks_of
from .lammps_values import Given, Values

__all__ = ["AfterStop", "LammpsAttachment"]

#: What happens after a stop: "go on": the next run command runs; "skip runs": all other commands are done, no run is.
AfterStop: TypeAlias = Literal["go on", "skip runs"]

#: What becomes of a run after a step.
GO_ON, STOP, FAILED = 0, 1, 2

#: Steps between two times at which LAMMPS adds the forces of the fix, which are zero.
NEVER = 2**31 - 1


class LammpsHost:
    """LAMMPS as a run that is watched sees it: its step and time, counted on where LAMMPS counts anew."""

    def __init__(self, lammps: Lammps) -> None:
        self._lammps = lammps
        self._seen: int | None = None  # LAMMPS's own step that was seen last
        self._step_offset, self._time_offset_ps = 0, 0.0
        self._last_time_ps: float | None = None
        self.is_setup = True
        """Whether the step is shown by the setup of a run: velocities are those of the step itself."""

    @property
    def own_step(self) -> int:
        """LAMMPS's own count of steps."""
        return self._lammps.step

    def follow(self, step: int) -> None:
        """Take a step that LAMMPS shows: of a run the next one, or the one seen last again, in a setup."""
        seen = self._seen
        self.is_setup = seen is None or step != seen + 1
        if seen is not None and step < seen:  # reset_timestep, clear, rerun: it counts anew
            self._step_offset += seen - step
            if self._last_time_ps is not None:
                self._time_offset_ps = self._last_time_ps - (self._lammps.time_ps(step) or 0.0)
        self._seen = step
        own = self._lammps.time_ps(step)
        self._last_time_ps = None if own is None else own + self._time_offset_ps

    @property
    def step(self) -> int:
        """The step in the log of the step that was seen last."""
        return (self._seen or 0) + self._step_offset

    @property
    def time_ps(self) -> float | None:
        """Its time; None in units that have none."""
        return self._last_time_ps

    def step_length_ps(self) -> float | None:
        """The time step; None in units that have none."""
        return self._lammps.step_length_ps()

    def continue_at(self, step: int, time_ps: float | None, *, checked: int) -> None:
        """Count from here on as if the present step were `step` of the run in the log."""
        self._step_offset = step - self.own_step
        own = self._lammps.time_ps(self.own_step)
        if time_ps is not None and own is not None:
            self._time_offset_ps = time_ps - own
            self._last_time_ps = time_ps


class LammpsAttachment:
    """The fix of a monitor in an instance of LAMMPS.

    The fix is a ``fix external`` whose forces are zero and are not added. It calls at every step; at multiples of the
    interval the frame is gathered and checked, by the first process of LAMMPS alone. A second fix, ``fix halt``, ends
    runs, and has LAMMPS add up the energy where there are checks.

    Parameters
    ----------
    watch
        The run.
    lmp, types, length_A
        See `Lammps`.
    interval
        Steps between checks: at LAMMPS's own steps that are multiples of it, as thermo and dumps.
    values
        Whether to hand dH back to LAMMPS, see `Values`.
    after_stop
        What becomes of later run commands once an action has stopped a run.
    """

    def __init__(
        self,
        watch: Watch,
        lmp: Any,
        interval: int,
        types: Sequence[str] | None,
        *,
        length_A: float | None = None,
        values: bool = False,
        after_stop: AfterStop = "go on",
    ) -> None:
        self.interval = check_positive_integer("interval", interval, wrong_type=TypeError)
        self._watch, self._lmp = watch, lmp
        self._lammps = Lammps(lmp, types, length_A)
        if watch.settings.averaging is not None:
            raise ValueError(
                "reference: expected one of single frames, since LAMMPS shows no frames between checks, got one of "
                "time averages; write a dump of the frames between, and use quests-md score"
            )
        self._after_stop = check_choice("after_stop", after_stop, ("go on", "skip runs"))
        self._host = LammpsHost(self._lammps)
        self._values = Values(lmp) if values else None
        self._ranks: Alone | Ranks = ranks_of(lmp)
        self._id = _free_id(lmp)
        self._call: Any = None  # LAMMPS keeps a pointer to it
        self._is_active, self._is_calling, self._is_first = True, False, True
        self._given: Given | None = None
        self.failure: BaseException | None = None
        """What has ended a run: an error of the monitor with on_error="raise", or an interrupt."""
        if values and self._ranks.leads:
            watch.tell_atoms()
        self.ensure()

    def ensure(self) -> None:
        """See that the fixes are there, if there is a box; raise what has ended the last run, once.

        Call it after each command that may make a box, or throw it away. It costs microseconds where nothing changed.
        """
        self.raise_failure()
        if not self._is_active or not self._lmp.lmp or not self._lammps.has_box:
            return
        if self._lmp.has_id("fix", self._id):
            return
        self._lammps.symbols(), self._lammps.length_A  # what is missing is said before a step is made
        command, own = self._lmp.command, self._id
        command(f"fix {own} all external pf/callback 1 {NEVER}")
        function = self._lmp.FIX_EXTERNAL_CALLBACK_FUNC(self._called)
        self._lmp.lib.lammps_set_fix_external_callback(self._lmp.lmp, own.encode(), function, None)
        self._call = function
        self._lmp.fix_external_set_vector_length(own, 1 + len(Values.NAMES))
        command(f"compute {own}_pe all pe")
        command(f"variable {own}_stop equal f_{own}[1]")
        error = "soft" if self._after_stop == "skip runs" else "continue"
        command(f"fix {own}_halt all halt {self.interval} v_{own}_stop > 0.5 error {error} message no")
        if self._values is not None:
            self._values.define(own)

    def raise_failure(self) -> None:
        """Raise what has ended the last run, once: an error of the monitor, or an interrupt."""
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    def detach(self) -> None:
        """Take the fixes out of LAMMPS, or, within a call, see that nothing is done any more."""
        was_active, self._is_active = self._is_active, False
        if not was_active or self._is_calling or not self._lmp.lmp:
            return
        if self._values is not None:
            self._values.withdraw(self._id)
        if self._lmp.has_id("fix", self._id):
            for command in ("unfix {0}_halt", "variable {0}_stop delete", "uncompute {0}_pe", "unfix {0}"):
                self._lmp.command(command.format(self._id))
        if self._ranks.leads and not self._watch.is_closed:
            self._watch.say_watched(self._host.step, is_watched=False)

    @property
    def is_attached(self) -> bool:
        """Whether LAMMPS shows it its steps."""
        return self._is_active and bool(self._lmp.lmp) and bool(self._lmp.has_id("fix", self._id))

    def _called(self, _caller: Any, step: int, n_local: int, _tags: Any, _x: Any, _forces: Any) -> None:
        """Be called by LAMMPS at every step, on every process; LAMMPS swallows what is raised here."""
        try:
            self._host.follow(step)
            is_first, self._is_first = self._is_first, False
            if self._is_active and (is_first or step % self.interval == 0):
                self._is_calling = True
                self._look(step, n_local)
        except BaseException as exc:  # an interrupt too: it is raised when the run has ended
            self.failure = exc
            if self._ranks.size == 1:  # else when all agree, at the next check
                self._lmp.fix_external_set_vector(self._id, 1, 1.0)
        finally:
            self._is_calling = False

    def _look(self, step: int, n_local: int) -> None:
        """Check a frame with all processes; all of them end the run, or none."""
        ranks, verdict = self._ranks, GO_ON
        try:
            if ranks.leads:
                with ranks.led():
                    verdict = self._lead(step, n_local)
            else:
                ranks.serve(lambda: self._lammps.local_atoms(n_local), lambda: self._energy(step))
        except BaseException as exc:
            self.failure = exc
        verdict = ranks.agreed(FAILED if self.failure is not None else verdict)
        if verdict == FAILED and self.failure is None:
            self.failure = RuntimeError("the monitor has failed in another process of LAMMPS, which says why")
        self._lmp.fix_external_set_vector(self._id, 1, float(verdict != GO_ON))
        if self._values is not None:
            given, self._given = ranks.handed_out(self._given), None
            if given is not None:
                self._values.write(given, self._id, n_local)

    def _lead(self, step: int, n_local: int) -> int:
        """Check the frame of a step, in the first process; whether the run goes on."""
        watch, is_due = self._watch, step % self.interval == 0
        if watch.is_closed or (watch.run is not None and not (is_due and watch.is_due())):
            return GO_ON
        found = self._ranks.gathered(lambda: self._lammps.local_atoms(n_local))
        energy = self._ranks.energy(lambda: self._energy(step))
        atoms = watch.log.guarded(lambda: self._lammps.frame(found, energy, half_step=not self._host.is_setup))
        if atoms is None:
            return GO_ON
        run = watch.run
        if run is None:  # a log of another run is the user's mistake, whatever on_error says
            run = watch.begin(atoms, host=self._host, has_moved=step > 0)
            watch.log.guarded(lambda: self._introduce(atoms))
        watch.say_watched(self._host.step, is_watched=True)
        run.stop_now = False
        if is_due:
            watch.log.guarded(lambda: self._check(atoms))
        return STOP if run.stop_now else GO_ON

    def _introduce(self, atoms: Atoms) -> None:
        length = self._host.step_length_ps()
        pace = f"a check every {self.interval} steps"
        if length is not None:
            pace = f"time step {1000 * length:.6g} fs, {pace} ({length * self.interval:.6g} ps)"
            self._watch.set_interval(length * self.interval)
        for doubt in self._lammps.doubts():
            self._watch.log.warn(doubt)
        self._watch.introduce(atoms, pace)

    def _check(self, atoms: Atoms) -> None:
        watch, host = self._watch, self._host
        last = watch.last_check
        # the setup of the next run shows the last step of the one before
        if last is not None and last.step == host.step and last.digest == frame_digest(atoms):
            return
        every = 1 if watch.budget is None else watch.budget.every
        check = watch.check_frame(atoms, host.step, host.time_ps, self.interval * every)
        if self._values is not None:
            self._given = self._values.of(check, atoms, self._lammps.step, watch)
        watch.keep_budget("steps", self.interval)
        watch.say_toll(self.interval)

    def _energy(self, step: int) -> float | None:
        return self._lammps.energy_eV(f"{self._id}_pe", step)


def _free_id(lmp: Any) -> str:
    """A name that no fix has: several monitors may watch one instance."""
    name, n = "quests_md", 1
    while lmp.has_id("fix", name):
        n += 1
        name = f"quests_md_{n}"
    return name
