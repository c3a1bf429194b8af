"""The ASE dynamics that a run is attached to, one after the other, and when each of their steps is checked."""

import contextlib
import weakref
from typing import Any

import numpy as np
from ase import Atoms
from ase import units as ase_units

from quests_md._arguments import check_positive_integer
from quests_md.environments import TimeAveraged, Window, frame_digest
from quests_md.watch import Run, Watch

__all__ = ["AseAttachment", "AseHost"]


class AseHost:
    """A dynamics as an observer sees it, by a weak reference; step and time are counted on over earlier dynamics."""

    def __init__(self, dyn: Any, interval: int | None) -> None:
        self._dyn: Any = dyn if isinstance(dyn, weakref.ProxyTypes) else weakref.proxy(dyn)
        self.interval = interval
        self.spacing = 1
        """Steps between two frames that a check averages."""
        self._step_offset, self._time_offset_ps = 0, 0.0
        self.checked_at: int | None = None
        """Its step, by its own count, when it was checked last."""
        self._checked: int | None = None  # a step at which a run was checked that this dynamics continues
        self._own_step, self._own_time_ps = 0, 0.0  # by its own count, when last looked at
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
        if previous.observers is self.observers:  # attached twice, or again
            self._step_offset, self._time_offset_ps = previous._step_offset, previous._time_offset_ps
            self._checked = previous._checked
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
        """Whether a check is due at this step: every interval or `every` steps, from step 0 or from a checked step."""
        start = self._step_offset if self._checked is None else self._checked
        every = every or self.interval
        return not every or (step - start) % every == 0

    @property
    def name(self) -> str:
        """What kind of dynamics it is."""
        return str(self._dyn.__class__.__name__)  # that of the dynamics, not of its proxy

    @property
    def repeats_digits(self) -> bool:
        """Whether a frame that is shown again has the same positions to the last digit."""
        return True

    @property
    def own_step(self) -> int:
        """Its own count of steps, 0 for a new one."""
        self.look()
        return self._own_step

    @property
    def observers(self) -> Any:
        """The list of observers, by which a dynamics is known behind any proxy; None if the dynamics is gone."""
        try:
            return self._dyn.observers
        except ReferenceError:
            return None

    def atoms(self) -> Atoms:
        """The atoms that move, out of a filter where there is one; TypeError if it moves something else."""
        atoms = self._dyn.atoms
        inner = getattr(atoms, "atoms", atoms)
        if not isinstance(inner, Atoms):
            raise TypeError(
                f"dyn: expected a dynamics that moves Atoms, got one of {type(atoms).__name__}; make a Monitor with a "
                "log of its own for each image, call monitor.check(image, step=...) of each in a function of your own, "
                "and attach that"
            )
        return inner

    def step(self) -> int:
        """Its step, counted on over earlier dynamics."""
        self.look()
        return self._own_step + self._step_offset

    def time_ps(self) -> float | None:
        """Simulated time in ps, counted on over earlier dynamics; None for optimizers."""
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

    def pace(self) -> str:
        """Its time step, and how often it is checked, in words."""
        step_ps, often = self.step_length_ps(), "" if not self.interval else f"a check every {self.interval} steps"
        if step_ps is None:
            return often
        apart = f" ({step_ps * self.interval:.6g} ps)" if self.interval else ""
        return f"time step {1000 * step_ps:.6g} fs, {often}{apart}".rstrip(", ")

    def stop(self) -> None:
        """End the run after this step: later observers still run, `run()` returns, a later `run(n)` continues."""
        self._dyn.max_steps = self._dyn.nsteps


class AseAttachment:
    """Observes dynamics for a run: decides at which steps a check is due, and averages the frames before it."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._hosts: list[AseHost] = []
        self._left: list[AseHost] = []  # which it was attached to before
        self._current: AseHost | None = None  # the one that moved the atoms last
        self._averaging = watch.settings.averaging
        self._window = None if self._averaging is None else Window(self._averaging.samples)
        self._is_observing = False
        self._has_said_still = False

    @property
    def is_attached(self) -> bool:
        """Whether it observes a dynamics that still exists."""
        return any(host.observers is not None for host in self._hosts)

    def attach(self, dyn: Any, interval: int) -> None:
        """Become the first observer of a dynamics: see `Monitor.attach`."""
        every = check_positive_integer("interval", interval, wrong_type=TypeError)
        if not hasattr(dyn, "insert_observer") or not hasattr(dyn, "atoms"):
            raise TypeError(f"dyn: expected an ASE dynamics or optimizer, got {type(dyn).__name__}")
        host = self._new_host(dyn, every)
        if self._averaging is not None:
            every = host.spacing = _sampling_interval(self._averaging, host, every)
        self._begin(host)
        self._watch.introduce(host.atoms(), host.pace())
        if not host.is_due(host.step() - host.own_step, every):
            every = 1  # a run taken up between two checks is checked at the same steps as before
        dyn.insert_observer(self.observe, 0, every, host)

    def observe_first(self, dyn: Any, observer: object) -> None:
        """Observe a step of a dynamics to which `observer` was attached in ASE's own way."""
        if self._watch.is_closed:
            return
        host = next((host for host in self._hosts if host.observers is dyn.observers), None)
        if host is None:
            host = self._take_in(dyn, observer)
        self.observe(host)

    def observe(self, host: AseHost) -> None:
        """Check the frame of a dynamics where a check is due; nothing once the run is closed, or it is detached."""
        if self._watch.is_closed or host not in self._hosts:
            return
        run = self._watch.run or self._begin(host)
        run.stop_now = False  # there may be no check
        self._is_observing = True
        try:
            self._watch.log.guarded(lambda: self._check_if_due(host))
        finally:
            self._is_observing = False
        if run.stop_now:
            host.stop()

    def detach(self, *observers: object) -> None:
        """Leave all dynamics: take this attachment, or `observers` attached in ASE's own way, out of their lists.

        Within a check the lists keep their length, since ASE is going through one of them: nothing is done there.
        """
        hosts, self._hosts = self._hosts, []
        self._left = [host for host in (*self._left, *hosts) if host.observers is not None]
        own = (self.observe, *observers)
        for host in hosts:
            attached = host.observers
            if attached is None:
                continue
            if self._is_observing:
                attached[:] = [(_do_nothing, *entry[1:]) if entry[0] in own else entry for entry in attached]
            else:
                attached[:] = [entry for entry in attached if entry[0] not in own]
        if hosts and not self._watch.is_closed:
            self._watch.say_watched(hosts[-1].step(), is_watched=False)

    def _take_in(self, dyn: Any, observer: object) -> AseHost:
        """A new host, the first time that its dynamics calls."""
        place = next((i for i, entry in enumerate(dyn.observers) if entry[0] is observer), None)
        host = self._new_host(dyn, None if place is None else dyn.observers[place][1])
        self._begin(host, has_moved=host.own_step > 0)
        if place is not None and not host.is_due(host.step() - host.own_step):
            dyn.observers[place] = (observer, 1, *dyn.observers[place][2:])  # taken up between two checks
        self._watch.log.guarded(lambda: self._watch.introduce(host.atoms(), host.pace()))
        return host

    def _new_host(self, dyn: Any, interval: int | None) -> AseHost:
        if self._current is not None:
            self._current.look()  # it may be gone when the new one starts
        host = AseHost(dyn, interval)
        host.atoms()
        needs_time = self._watch.settings.needs_time
        if needs_time is not None and not host.knows_time():
            raise ValueError(
                f"{needs_time}: expected a dynamics that knows the time, got {type(dyn).__name__}; leave it out"
            )
        step_ps = host.step_length_ps()
        if step_ps and interval:
            self._watch.set_interval(step_ps * interval)
        before = (known for known in (*self._hosts, *self._left) if known.observers is host.observers)
        if (known := next(before, None)) is not None:
            host.take_over(known)
        self._hosts = [*(known for known in self._hosts if known.observers is not None), host]
        return host

    def _begin(self, host: AseHost, *, has_moved: bool = False) -> Run:
        """The run. Where it is taken up at a frame whose check the log lacks, that frame is checked."""
        is_first = self._watch.run is None
        run = self._watch.begin(host.atoms(), host=host, has_moved=has_moved)
        place = run.resumed_at if is_first else None
        self._watch.say_watched(max(known.step() for known in (host, *self._left)), is_watched=True)
        if place is None or place.watched_from == place.step or self._window is not None:
            return run
        if host.own_step and host.is_due(place.step):
            is_known = place.last is not None and place.last.content["step"] == place.step
            if not is_known:  # the dynamics itself shows only the next frame
                self._watch.check_frame(host.atoms(), place.step, host.time_ps(), host.interval)
        return run

    def _check_if_due(self, host: AseHost) -> None:
        if self._current is not host:
            if self._current is not None:
                host.take_over(self._current)
            self._current = host
        atoms, step, budget = host.atoms(), host.step(), self._watch.budget
        averaged = None
        if self._averaging is None and not host.is_due(step):
            return
        if self._averaging is not None:
            averaged = self._averaged(self._averaging, atoms, host)
            if averaged is None and np.isfinite(atoms.positions).all():
                return
        if not self._watch.is_due():
            return
        last = self._watch.last_check
        # a new dynamics on the same atoms shows its step 0, which was the last step of the one before
        if last is not None and last.step == step and last.digest == frame_digest(atoms):
            return
        self._watch.require_one_system(atoms)
        if host.checked_at == host.own_step:
            self._say_that_steps_stand_still(host)
        host.checked_at = host.own_step
        every = 1 if budget is None else budget.every
        check = self._watch.check_frame(atoms, step, host.time_ps(), host.interval and host.interval * every, averaged)
        self._watch.took(check)
        self._watch.keep_budget("steps", host.interval or 1)
        self._watch.say_toll(host.interval or 1)

    def _say_that_steps_stand_still(self, host: AseHost) -> None:
        if not self._has_said_still:
            self._watch.log.warn(
                f"{host.name} shows other atoms at the same step ({host.own_step}): checks cannot be told apart by "
                "their steps, and no action can end it; watch its optimizer instead, see docs/runs.md"
            )
        self._has_said_still = True

    def _averaged(self, averaging: TimeAveraged, atoms: Atoms, host: AseHost) -> Atoms | None:
        """The mean of the last frames where a check is due, None elsewhere; takes the next frame."""
        window = self._window
        assert window is not None
        if host.is_due(host.step(), host.spacing):
            window.push(atoms)
        if not host.is_due(host.step()) or not window.is_full:
            return None
        averaged = averaging.marked(window.mean(atoms))
        window.clear()  # checks that share frames would not be independent
        return averaged


def _do_nothing(*args: Any) -> None:
    """Stand in a list of observers that must keep its length."""


def _sampling_interval(averaging: TimeAveraged, host: AseHost, interval: int) -> int:
    """Steps between the frames that are averaged."""
    step_ps = host.step_length_ps()
    if step_ps is None:
        raise ValueError("dyn: expected a dynamics with a time step, since the reference is of time averages")
    every = max(1, round(averaging.spacing_ps / step_ps))
    if abs(every * step_ps - averaging.spacing_ps) > 0.1 * averaging.spacing_ps:
        raise ValueError(
            f"dyn: expected a time step of which {averaging.spacing_ps:g} ps is a multiple (the reference is of "
            f"positions averaged over {averaging.mark}), got {step_ps:g} ps"
        )
    if interval % every or interval < every * averaging.samples:
        raise ValueError(
            f"interval: expected a multiple of {every} steps, {every * averaging.samples} at least, since the "
            f"reference is of positions averaged over {averaging.mark}; got {interval}"
        )
    return every
