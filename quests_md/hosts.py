"""What the monitor needs to know of the ASE dynamics that it is attached to."""

import contextlib
import weakref
from typing import Any

from ase import Atoms
from ase import units as ase_units

__all__ = ["AseHost"]


class AseHost:
    """A dynamics object seen from an observer: its atoms, step and time; holds only a weak reference to it.

    Step and time continue those of an earlier dynamics on the same monitor.
    """

    def __init__(self, dyn: Any, interval: int | None, previous: "AseHost | None", last_step: int | None) -> None:
        self._dyn: Any = dyn if isinstance(dyn, weakref.ProxyTypes) else weakref.proxy(dyn)
        self.interval = interval
        self.first_step = int(dyn.nsteps)
        self.step_offset, self.time_offset_ps = 0, 0.0
        if previous is not None and last_step is not None:
            self.step_offset = max(previous.step_or(last_step) - self.first_step, 0)
            self.time_offset_ps = previous.time_reached_ps() - (self._own_time_ps() or 0.0)
        self._last_time_ps: float | None = None

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
        return int(self._dyn.nsteps) + self.step_offset

    def step_or(self, fallback: int) -> int:
        """The step, or the fallback where the dynamics is gone."""
        try:
            return self.step()
        except ReferenceError:
            return fallback

    def time_ps(self) -> float | None:
        """Simulated time in ps, continued over earlier dynamics; None for optimizers."""
        own = self._own_time_ps()
        if own is None:
            return None
        self._last_time_ps = own + self.time_offset_ps
        return self._last_time_ps

    def time_reached_ps(self) -> float:
        """Time up to which the run has come, in ps: of a dynamics that is gone, the last that was seen."""
        with contextlib.suppress(ReferenceError):
            self.time_ps()
        return self.time_offset_ps if self._last_time_ps is None else self._last_time_ps

    def step_length_ps(self) -> float | None:
        """Time step in ps; None for optimizers."""
        dt = getattr(self._dyn, "dt", None)
        return None if dt is None else float(dt) / (1000 * ase_units.fs)

    def stop(self) -> None:
        """End the run after this step: later observers still run, `run()` returns, a later `run(n)` continues."""
        self._dyn.max_steps = self._dyn.nsteps

    def _own_time_ps(self) -> float | None:
        get_time = getattr(self._dyn, "get_time", None)
        return None if get_time is None else float(get_time()) / (1000 * ase_units.fs)
