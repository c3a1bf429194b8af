"""A run until it leaves what is known: the frames beyond, and the last one before, from which a run can go on."""

from collections import deque
from collections.abc import Callable
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from quests_md.environments import results_at_hand
from quests_md.monitor import Monitor

__all__ = ["MakeDynamics", "RunEnd", "made_dynamics", "run_to_event"]

#: Kinds of arguments that are given by their places.
PLACES = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)

#: Makes an ASE dynamics that moves the given atoms; it may take a random generator as well.
MakeDynamics = Callable[..., Any]


class RunEnd(NamedTuple):
    """How a run has ended."""

    end: str
    """"covered": the run has ended without an event. "event": it left what is known. "exploded", or
    "failed": the dynamics raised an error."""
    why: str
    """The same in words."""
    steps: int
    """Steps that were made."""
    restart: Atoms
    """The last frame that was within the levels before any event, with its momenta; the first frame if none was."""
    beyond: list[Atoms]
    """The frames that were out while an event was open or began, with the forces that the run had."""
    before: list[Atoms]
    """Of a run that has exploded or failed: the last frames before, at checks and at steps after the last check, with
    the forces that the run had; else none."""


def made_dynamics(make_dynamics: MakeDynamics, atoms: Atoms, rng: np.random.Generator) -> Any:
    """The dynamics of a run, made with a random generator if it takes one, as `rng` or as its second argument."""
    try:
        taken = signature(make_dynamics).parameters
    except (TypeError, ValueError):  # a builtin says nothing
        taken = MappingProxyType({})
    needed = [p for p in taken.values() if p.kind in PLACES and p.default is Parameter.empty]
    if "rng" in taken and taken["rng"].kind is not Parameter.POSITIONAL_ONLY:
        dyn = make_dynamics(atoms, rng=rng)
    else:
        dyn = make_dynamics(atoms, rng) if len(needed) > 1 else make_dynamics(atoms)
    if not hasattr(dyn, "irun"):
        raise TypeError(f"make_dynamics: expected an ASE dynamics, got {type(dyn).__name__}")
    if getattr(dyn, "atoms", atoms) is not atoms:
        raise ValueError("make_dynamics: expected a dynamics of the atoms that it was given, got one of other atoms")
    return dyn


def run_to_event(
    dyn: Any, atoms: Atoms, monitor: Monitor, *, steps: int, interval: int = 10, n_beyond: int = 20
) -> RunEnd:
    """Run a dynamics until an event is open and `n_beyond` frames were checked beyond, or for all steps.

    Checks that are out by chance, and open no event, are forgotten; those of an event count, also when the run has come
    back. The run ends as well when it explodes, when an action or the trigger stops it, and when the dynamics raises an
    error, which is raised again if no frame was out. A run that explodes between two checks may leave no frame beyond
    that is fit to be labelled, so that the last `n_beyond` frames that were checked before are kept as well, and up to
    twice as many of the steps after the last check.

    Parameters
    ----------
    dyn
        An ASE dynamics that moves `atoms`.
    atoms
        The atoms of the run.
    monitor
        What judges; it is attached here.
    steps, interval
        Steps of the run at most, and between two checks.
    n_beyond
        Frames beyond after which it is enough, and checked frames that are kept from before an explosion.
    """
    monitor.attach(dyn, interval)
    restart, beyond, since, seen, n_steps = _kept(atoms), list[Atoms](), list[Atoms](), None, 0
    checked, between, stride = deque[Atoms](maxlen=n_beyond), list[Atoms](), max(1, interval // n_beyond)
    try:
        for _ in dyn.irun(steps=steps):
            check, n_steps = monitor.last_check, dyn.nsteps
            if check is None or check is seen:
                if n_steps % stride == 0:
                    between.append(_kept(atoms))
                continue
            seen = check
            open_ = [event for event in monitor.events if event.is_open]
            if check.state == "out":
                since.append(_kept(atoms))
            if any(event.kind == "exploded" for event in monitor.events):
                why = monitor.events[-1].describe()
                return RunEnd("exploded", why, n_steps, restart, beyond + since, [*checked, *between])
            checked.append(_kept(atoms))
            between.clear()
            if open_:
                beyond += since
            if open_ or check.state == "in":
                since.clear()
            if check.state == "in" and not monitor.events:
                restart = _kept(atoms)
            if len(beyond) >= n_beyond or monitor.stopped:
                break
    except Exception as exc:  # of the dynamics or its calculator, beyond what it knows
        if not beyond + since:
            raise
        why = f"{type(exc).__name__}: {exc}"
        return RunEnd("failed", why, n_steps, restart, beyond + since, [*checked, *between])
    if monitor.events:
        return RunEnd("event", monitor.events[-1].describe(), n_steps, restart, beyond, [])
    return RunEnd("covered", f"{n_steps} steps without an event", n_steps, restart, [], [])


def _kept(atoms: Atoms) -> Atoms:
    """A copy of a frame with the energy and forces that it has already."""
    copy: Atoms = atoms.copy()
    results = results_at_hand(atoms)
    known = {key: np.array(results[key]) for key in ("energy", "forces") if key in results}
    if known:
        copy.calc = SinglePointCalculator(copy, **known)
    return copy
