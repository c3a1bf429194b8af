"""Checks of a run of LAMMPS: which frames are checked, and that each step is checked once."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from quests_md.environments import frame_digest
from quests_md.watch import Watch

from .lammps_fixes import Fixes
from .lammps_frame import Lammps, LocalAtoms, joined
from .lammps_host import LammpsHost
from .lammps_ranks import Alone, Ranks
from .lammps_values import Given

__all__ = ["GO_ON", "STOP", "LammpsChecks"]

#: What becomes of a run after a step.
GO_ON, STOP = 0, 1

#: Å. Positions of a frame that LAMMPS shows again differ by less, in tilted boxes in the last digits.
SAME_A = 1e-8


class Held(NamedTuple):
    """A frame of a minimization, which is checked when the next step has begun: LAMMPS may show others of its step."""

    atoms: Atoms
    step: int
    """Its step in the log."""
    own_step: int
    """LAMMPS's own."""
    time_ps: float | None


class LammpsChecks:
    """The checks of a run of LAMMPS, made by its first process.

    At each step of a minimization LAMMPS tries several positions. The last ones that it shows are those of the step;
    they are checked at the next step.
    """

    def __init__(self, watch: Watch, lammps: Lammps, host: LammpsHost, fixes: Fixes, interval: int) -> None:
        self._watch, self._lammps, self._host, self._fixes, self._interval = watch, lammps, host, fixes, interval
        self._given: Given | None = None
        self._shown: Atoms | None = None  # the last frame that was to be checked
        self._held: Held | None = None
        self._said = set[str]()
        self._to_do = GO_ON  # what a check has asked for at a step at which no run can be ended
        self.is_waiting = False
        """Whether a frame of a minimization may wait for its check: all processes know it."""

    def take_given(self) -> Given | None:
        """What the last check gives back to LAMMPS, once."""
        given, self._given = self._given, None
        return given

    def look(self, ranks: Alone | Ranks, *, is_due: bool) -> int:
        """Look at a frame, which is checked where a check is due; whether the run goes on."""
        verdict = self._verdict_on_held(ranks, is_due=is_due)
        watch = self._watch
        if watch.is_closed or (watch.run is not None and not (is_due and watch.is_due())):
            return verdict
        host, is_minimizing = self._host, self._lammps.is_minimizing
        found, energy = joined(ranks.asked("atoms")), ranks.asked("energy")[0]
        atoms = watch.log.guarded(lambda: self._frame(found, energy, half_step=not (host.is_setup or is_minimizing)))
        if atoms is None:
            return verdict
        run = watch.run
        if run is None:  # a log of another run is the user's mistake, whatever on_error says
            run = watch.begin(atoms, host=host, has_moved=host.step > 0)
            watch.log.guarded(lambda: self._introduce(atoms))
        watch.say_watched(host.step, is_watched=True)
        if hidden := self._lammps.what_is_not_shown():
            self._say_once("hidden", hidden)
        if not is_due:
            return verdict
        shown = Held(atoms, host.step, self._lammps.step, host.time_ps)
        if is_minimizing:
            self._held = shown
            return verdict
        return max(verdict, self._checked(shown))

    def check_held(self) -> None:
        """Check the last frame of a minimization, if it has not been checked; for one process alone."""
        held, self._held = self._held, None
        if held is not None and not self._watch.is_closed:
            self._checked(held)

    def say_unseen(self) -> None:
        """Say that LAMMPS was never watched."""
        self._say_once(
            "unseen",
            "LAMMPS was not watched: it had no box when the monitor was attached; call `ensure` of what attach_lammps "
            "returns once the box is there",
        )

    def say_detached(self) -> None:
        """Note that nothing is checked from here on."""
        if not self._watch.is_closed:
            self._watch.say_watched(self._host.step, is_watched=False)

    def _verdict_on_held(self, ranks: Alone | Ranks, *, is_due: bool) -> int:
        """Check the frame that is held, if LAMMPS has left its step; it can end runs at steps that are due alone."""
        held, is_minimizing = self._held, self._lammps.is_minimizing
        verdict, self._to_do = self._to_do if is_minimizing else GO_ON, GO_ON
        if held is not None and not (is_minimizing and held.own_step == self._lammps.step):
            self._held = None
            # another run has begun: processes may have other atoms, and its first frame is most often the one held
            if not self._watch.is_closed and (is_minimizing or ranks.size == 1):
                verdict = max(verdict, self._checked(held))
        if not is_due:
            self._to_do = verdict
        return verdict

    def _frame(self, found: LocalAtoms, energy_eV: float | None, *, half_step: bool) -> Atoms:
        """The frame, with the atoms that LAMMPS has lost, wherever they are."""
        n_lost = self._lammps.n_atoms - len(found.tags)
        if n_lost > 0:
            self._say_once("lost", self._lammps.what_is_lost(n_lost))
            if self._lammps.keeps_atoms:
                found = self._lammps.with_lost(found, n_lost, self._shown)
        return self._lammps.frame(found, energy_eV, half_step=half_step)

    def _say_once(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._watch.log.warn(text)

    def _introduce(self, atoms: Atoms) -> None:
        length = self._host.step_length_ps()
        pace = f"a check every {self._interval} steps"
        if length is not None:
            pace = f"time step {1000 * length:.6g} fs, {pace} ({length * self._interval:.6g} ps)"
            self._watch.set_interval(length * self._interval)
        for doubt in self._lammps.doubts():
            self._watch.log.warn(doubt)
        self._watch.introduce(atoms, pace)

    def _checked(self, shown: Held) -> int:
        """Check a frame, if it was not; whether the run goes on."""
        watch = self._watch
        run = watch.run
        assert run is not None
        run.stop_now = False
        if not self._is_known(shown):
            watch.log.guarded(lambda: self._check(shown))
        self._shown = shown.atoms
        return STOP if run.stop_now else GO_ON

    def _is_known(self, shown: Held) -> bool:
        """Whether the frame has been checked: the setup of a run shows the last step of the one before."""
        last = self._watch.last_check
        if last is None or last.step != shown.step:
            return False
        if last.digest == frame_digest(shown.atoms):
            return True
        run = self._watch.run
        if run is not None and run.resumed_at is not None and run.n_checks == run.resumed_at.frame:
            return True  # the log has it, if with other digits
        return not self._host.repeats_digits and self._shown is not None and _is_same(self._shown, shown.atoms)

    def _check(self, shown: Held) -> None:
        watch = self._watch
        every = 1 if watch.budget is None else watch.budget.every
        check = watch.check_frame(shown.atoms, shown.step, shown.time_ps, self._interval * every)
        if self._fixes.values is not None:
            self._given = self._fixes.values.of(check, shown.atoms, shown.own_step, watch)
        watch.keep_budget("steps", self._interval)
        watch.say_toll(self._interval)


def _is_same(one: Atoms, other: Atoms) -> bool:
    """Whether two frames differ in the last digits of positions alone, or by whole cells."""
    if len(one) != len(other) or not np.array_equal(one.numbers, other.numbers):
        return False
    if not np.allclose(one.cell.array, other.cell.array, rtol=0, atol=SAME_A):
        return False
    moved = other.positions - one.positions
    return bool(np.isfinite(moved).all()) and bool((find_mic(moved, other.cell, other.pbc)[1] < SAME_A).all())
