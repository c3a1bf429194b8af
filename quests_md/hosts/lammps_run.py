"""Runs of LAMMPS itself: the monitor is called at each step, in all processes, and checks at some."""

from collections.abc import Sequence
from typing import Any

from ase import Atoms

from quests_md._arguments import check_positive_integer
from quests_md.environments import frame_digest
from quests_md.watch import Watch

from .lammps_crew import RanksAsCrew, answers_of_share
from .lammps_fixes import AfterStop, Fixes
from .lammps_frame import Lammps, joined
from .lammps_ranks import Alone, Answers, Ranks, ranks_of
from .lammps_values import Given

__all__ = ["LammpsAttachment", "LammpsHost"]

#: What becomes of a run after a step.
GO_ON, STOP, FAILED = 0, 1, 2

#: Commands that LAMMPS refuses beside fixes that store numbers of atoms.
REFUSED_BESIDE = ("replicate",)

#: Commands that make steps, and commands after which types may have labels.
RUNNING, LABELLING = ("run", "minimize", "rerun", "hyper"), ("labelmap", "read_data", "read_restart")


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
    """The monitor in an instance of LAMMPS.

    It is called at every step, by all processes of LAMMPS. At multiples of the interval the first of them gathers the
    frame and checks it.

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
        self._lammps = Lammps(lmp, types, length_A)
        if watch.settings.averaging is not None:
            raise ValueError(
                "reference: expected one of single frames, since LAMMPS shows no frames between checks, got one of "
                "time averages; write a dump of the frames between, and use quests-md score"
            )
        self._fixes = Fixes(lmp, self.interval, after_stop, values=values)
        self._ranks: Alone | Ranks = ranks_of(lmp)
        self._judge = watch.settings.judge
        if isinstance(self._ranks, Ranks):
            self._ranks.require_same(self._judge.reference.fingerprint, self._judge.calibration.describe())
            if self._ranks.leads:
                watch.share_frames_out(RanksAsCrew(self._ranks))
        self._host = LammpsHost(self._lammps)
        self._checks = _Checks(watch, self._lammps, self._host, self._fixes, self.interval)
        self._is_active, self._is_calling, self._is_first = True, False, True
        self._command = ""  # which LAMMPS was given last, if that was said
        self.failure: BaseException | None = None
        """What has ended a run: an error of the monitor with on_error="raise", or an interrupt."""
        if values and self._ranks.leads:
            watch.tell_atoms()
        self.ensure()

    def ensure(self, *, may_wait: bool = False) -> None:
        """See that all is there, if there is a box; raise what has ended the last run, once.

        Call it after each command that may make a box, or throw it away. It costs microseconds where nothing changed.
        With `may_wait`, elements that the labels of types are to tell may be missing still; `make_way` asks for them.
        """
        self.raise_failure()
        if not self._is_active or not self._lammps.has_box or self._fixes.are_there:
            return
        if may_wait and not self._lammps.has_types and self._command not in LABELLING:
            return
        try:
            self._lammps.require_known()  # what is missing is said before a step is made
        except ValueError:
            if may_wait and not self._lammps.has_types:
                return
            raise
        self._lammps.find_clock()
        self._fixes.define(self._called)

    def make_way(self, command: str) -> None:
        """Be told of a command that is to come: runs need the fixes, and beside some commands LAMMPS refuses them."""
        self._command = command
        if command in REFUSED_BESIDE:
            self._fixes.withdraw()
        elif command in RUNNING:
            self.ensure()

    def raise_failure(self) -> None:
        """Raise what has ended the last run, once: an error of the monitor, or an interrupt."""
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure

    def detach(self) -> None:
        """Take all out of LAMMPS, or, within a call, see that nothing is done any more."""
        was_active, self._is_active = self._is_active, False
        if was_active and not self._is_calling:
            self._fixes.withdraw()
            if self._ranks.leads:
                self._checks.say_detached()

    @property
    def is_attached(self) -> bool:
        """Whether LAMMPS shows it its steps."""
        return self._is_active and self._fixes.are_there

    def _called(self, _caller: Any, step: int, n_local: int, _tags: Any, _x: Any, _forces: Any) -> None:
        """Be called by LAMMPS at every step, in every process; LAMMPS swallows what is raised here."""
        try:
            self._host.follow(step)
            is_first, self._is_first = self._is_first, False
            if self._is_active and (is_first or step % self.interval == 0):
                self._is_calling = True
                self._look(step, n_local)
        except BaseException as exc:  # an interrupt too: it is raised when the run has ended
            self.failure = exc
            if self._ranks.size == 1:  # else when all agree, at the next check
                self._fixes.end_run(now=True)
        finally:
            self._is_calling = False

    def _look(self, step: int, n_local: int) -> None:
        """Check a frame with all processes; all of them end the run, or none."""
        ranks, verdict = self._ranks, GO_ON
        energy, lammps = self._fixes.energy, self._lammps
        answers: Answers = {
            "atoms": lambda: lammps.local_atoms(n_local),
            "energy": lambda: lammps.energy_eV(energy, step),
        }
        if isinstance(ranks, Ranks):
            answers |= answers_of_share(ranks, self._judge, lammps.tags(n_local))
        try:
            if ranks.leads:
                with ranks.led(answers):
                    verdict = self._checks.look(ranks, is_due=step % self.interval == 0)
            else:
                ranks.serve(answers)
        except BaseException as exc:
            self.failure = exc
        verdict = ranks.agreed(FAILED if self.failure is not None else verdict)
        if verdict == FAILED and self.failure is None:
            self.failure = RuntimeError("the monitor has failed in another process of LAMMPS, which says why")
        self._fixes.end_run(now=verdict != GO_ON)
        if self._fixes.values is not None:
            self._fixes.hand_back(ranks.handed_out(self._checks.take_given()), n_local)


class _Checks:
    """The checks of a run of LAMMPS, made by its first process."""

    def __init__(self, watch: Watch, lammps: Lammps, host: LammpsHost, fixes: Fixes, interval: int) -> None:
        self._watch, self._lammps, self._host, self._fixes, self._interval = watch, lammps, host, fixes, interval
        self._given: Given | None = None

    def take_given(self) -> Given | None:
        """What the last check gives back to LAMMPS, once."""
        given, self._given = self._given, None
        return given

    def look(self, ranks: Alone | Ranks, *, is_due: bool) -> int:
        """Look at a frame, which is checked where a check is due; whether the run goes on."""
        watch = self._watch
        if watch.is_closed or (watch.run is not None and not (is_due and watch.is_due())):
            return GO_ON
        found, energy = joined(ranks.asked("atoms")), ranks.asked("energy")[0]
        atoms = watch.log.guarded(lambda: self._lammps.frame(found, energy, half_step=not self._host.is_setup))
        if atoms is None:
            return GO_ON
        run = watch.run
        if run is None:  # a log of another run is the user's mistake, whatever on_error says
            run = watch.begin(atoms, host=self._host, has_moved=self._host.step > 0)
            watch.log.guarded(lambda: self._introduce(atoms))
        watch.say_watched(self._host.step, is_watched=True)
        run.stop_now = False
        if is_due:
            watch.log.guarded(lambda: self._check(atoms))
        return STOP if run.stop_now else GO_ON

    def say_detached(self) -> None:
        """Note that nothing is checked from here on."""
        if not self._watch.is_closed:
            self._watch.say_watched(self._host.step, is_watched=False)

    def _introduce(self, atoms: Atoms) -> None:
        length = self._host.step_length_ps()
        pace = f"a check every {self._interval} steps"
        if length is not None:
            pace = f"time step {1000 * length:.6g} fs, {pace} ({length * self._interval:.6g} ps)"
            self._watch.set_interval(length * self._interval)
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
        check = watch.check_frame(atoms, host.step, host.time_ps, self._interval * every)
        if self._fixes.values is not None:
            self._given = self._fixes.values.of(check, atoms, self._lammps.step, watch)
        watch.keep_budget("steps", self._interval)
        watch.say_toll(self._interval)
