"""What the monitor needs to know of the ASE dynamics that it is attached to."""

import contextlib
import weakref
from typing import Any

from ase import Atoms
from ase import units as ase_units

__all__ = ["AseHost"]


class AseHost:
    """A dynamics object seen from an observer: its atoms, step and time; holds only a weak reference to it.

    Step and time continue those of the dynamics that moved the atoms before, see `take_over`.
    """

    def __init__(self, dyn: Any, interval: int | None) -> None:
        self._dyn: Any = dyn if isinstance(dyn, weakref.ProxyTypes) else weakref.proxy(dyn)
        self.interval = interval
        self.spacing = 1
        """Steps between two frames of those that a check averages."""
        self._step_offset, self._time_offset_ps = 0, 0.0
        self._checked: int | None = None  # a step at which a run was checked that this one continues
        # where it stood when last looked at, by its own count
        self._own_step, self._own_time_ps = 0, 0.0
        self.look()

    def look(self) -> None:
        """Remember how far it has come, if it still exists."""
        with contextlib.suppress(ReferenceError):
            self._own_step = int(self._dyn.nsteps)
            if hasattr(self._dyn, "get_time"):
                self._own_time_ps = float(self._dyn.get_time()) / (1000 * ase_units.fs)

    def take_over(self, previous: "AseHost") -> None:
        """Continue from where `previous` has come to. Call it before this one is looked at again.

        A dynamics whose own count is ahead, since its user has set it, keeps it.
        """
        previous.look()
        if previous.is_for(self._dyn):  # attached twice
            self._step_offset, self._time_offset_ps = previous._step_offset, previous._time_offset_ps
            return
        step = previous._own_step + previous._step_offset
        if step >= self._own_step:
            self._step_offset = step - self._own_step
            self._time_offset_ps = previous._own_time_ps + previous._time_offset_ps - self._own_time_ps

    def continue_at(self, step: int, time_ps: float | None, *, checked: int) -> None:
        """Count from here on as if the present step were `step` of a run that was checked at the step `checked`."""
        self.look()
        self._checked = checked
        self._step_offset = step - self._own_step
        self._time_offset_ps = 0.0 if time_ps is None else time_ps - self._own_time_ps

    def is_due(self, step: int, every: int | None = None) -> bool:
        """Whether a check is due at this step: every interval from step 0, or from a step checked before a restart.

        `every` is another number of steps in the place of the interval.
        """
        start = self._step_offset if self._checked is None else self._checked
        every = every or self.interval
        return not every or (step - start) % every == 0

    @property
    def own_step(self) -> int:
        """Its own count of steps, 0 for a new one."""
        self.look()
        return self._own_step

    def is_for(self, dyn: Any) -> bool:
        """Whether this is the host made for `dyn`, which may be a weak proxy."""
        try:
            return dyn.observers is self._dyn.observers
        except ReferenceError:
            return False

    def is_alive(self) -> bool:
        """Whether the dynamics still exists."""
        try:
            self._dyn.observers  # noqa: B018  # a dead proxy raises
        except ReferenceError:
            return False
        return True

    def atoms(self) -> Atoms:
        """The atoms that move, out of a filter where there is one.

        Raises
        ------
        TypeError
            If the dynamics moves something else, a band of images say.
        """
        atoms = self._dyn.atoms
        inner = getattr(atoms, "atoms", atoms)
        if not isinstance(inner, Atoms):
            raise TypeError(
                f"dyn: expected a dynamics that moves Atoms, got one of {type(atoms).__name__}; "
                "call monitor.check(atoms) for each frame in a function of your own and attach that"
            )
        return inner

    def step(self) -> int:
        """Step of the host, continued over earlier ones."""
        self.look()
        return self._own_step + self._step_offset

    def time_ps(self) -> float | None:
        """Simulated time in ps, continued over earlier dynamics; None for optimizers."""
        if not self.knows_time():
            return None
        self.look()
        return self._own_time_ps + self._time_offset_ps

    def knows_time(self) -> bool:
        """Whether it has a time: optimizers have none."""
        return hasattr(self._dyn, "get_time")

    def step_length_ps(self) -> float | None:
        """Time step in ps; None for optimizers."""
        dt = getattr(self._dyn, "dt", None)
        return None if dt is None or not self.knows_time() else float(dt) / (1000 * ase_units.fs)

    def stop(self) -> None:
        """End the run after this step: later observers still run, `run()` returns, a later `run(n)` continues."""
        self._dyn.max_steps = self._dyn.nsteps
