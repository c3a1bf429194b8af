"""Runs of LAMMPS itself: the monitor is called at each step, in all processes, and checks at some."""

from collections.abc import Generator, Sequence
from typing import Any

from quests_md._arguments import check_positive_integer
from quests_md.watch import Watch

from .lammps_checks import GO_ON, STOP, LammpsChecks
from .lammps_crew import RanksAsCrew, answers_of_share
from .lammps_fixes import AfterStop, Fixes
from .lammps_frame import Lammps
from .lammps_host import LammpsHost
from .lammps_ranks import Alone, Answers, Ranks, ranks_of

__all__ = ["LammpsAttachment"]

#: What becomes of a run where the monitor has failed.
FAILED = STOP + 1

#: Commands that LAMMPS refuses beside fixes that store numbers of atoms.
REFUSED_BESIDE = ("replicate",)

#: Commands that make steps, and commands after which types may have labels.
RUNNING, LABELLING = ("run", "minimize", "rerun", "hyper"), ("labelmap", "read_data", "read_restart")


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
    after
        The attachment of this monitor before it, which has been detached; steps are counted on.
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
        after: "LammpsAttachment | None" = None,
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
        if after is not None:
            self._host.take_over(after._host)
        self._checks = LammpsChecks(watch, self._lammps, self._host, self._fixes, self.interval)
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
        self._check_held()
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
        self._fixes.define(self._calls())

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
            self._check_held()
            self._fixes.withdraw()
            if self._ranks.leads:
                self._checks.say_detached()

    def finish(self) -> None:
        """Check what LAMMPS has shown and was not checked; say so if it has shown nothing, for want of a box."""
        if not self._is_active or self._is_calling:
            return
        self._check_held()
        if self._is_first and self._lammps.has_box and self._lammps.has_types and not self._fixes.are_there:
            self._checks.say_unseen()

    @property
    def is_attached(self) -> bool:
        """Whether LAMMPS shows it its steps."""
        return self._is_active and self._fixes.are_there

    def _calls(self) -> Generator[None, Any, None]:
        """Be called by LAMMPS at every step, in every process; see `Fixes.define`."""
        while True:
            try:
                yield
            except GeneratorExit:
                raise
            except BaseException as exc:  # an interrupt, of the time since the last step: it ends the run
                self._fail(exc)
            try:
                self._called(self._lammps.shown_step)
            except BaseException as exc:
                self._fail(exc)
            finally:
                self._is_calling = False

    def _called(self, step: int) -> None:
        if self._fixes.adds_forces(step):
            self._fixes.clear_forces(self._lammps.n_local)
        self._host.follow(step)
        is_first, self._is_first = self._is_first, False
        if self._is_active and (is_first or step % self.interval == 0 or self._checks.is_waiting):
            self._is_calling = True
            self._look(step, self._lammps.n_local)

    def _fail(self, failure: BaseException) -> None:
        """Keep what has been raised, until the run has ended."""
        self.failure = self.failure or failure
        if self._ranks.size == 1:  # else when all agree, at the next check
            self._fixes.end_run(now=True)

    def _check_held(self) -> None:
        if self._ranks.size == 1:  # else within a run alone, where all processes are at hand
            self._checks.check_held()

    def _look(self, step: int, n_local: int) -> None:
        """Check a frame with all processes; all of them end the run, or none."""
        ranks, verdict, is_due = self._ranks, GO_ON, step % self.interval == 0
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
                    verdict = self._checks.look(ranks, is_due=is_due)
            else:
                ranks.serve(answers)
        except BaseException as exc:
            self.failure = self.failure or exc  # the first one says what is wrong
        self._checks.is_waiting = is_due and lammps.is_minimizing
        verdict = ranks.agreed(FAILED if self.failure is not None else verdict)
        if verdict == FAILED and self.failure is None:
            self.failure = RuntimeError("the monitor has failed in another process of LAMMPS, which says why")
        self._fixes.end_run(now=verdict != GO_ON)
        if self._fixes.values is not None:
            self._fixes.hand_back(ranks.handed_out(self._checks.take_given()), n_local)
