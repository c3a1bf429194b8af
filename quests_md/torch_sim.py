"""Batches of torch-sim: a reporter that gives each system of a batch to a Monitor of its own."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
from ase.data import atomic_masses
from numpy.typing import NDArray

from quests_md._arguments import check_positive, check_positive_integer
from quests_md.environments import TensorFrame
from quests_md.errors import FileFormatError, MismatchError
from quests_md.hosts import SeenNumbers, in_memory, is_tensor_on, tensor_batch
from quests_md.monitor import Monitor

__all__ = ["BatchReporter", "monitor_reporter"]


def monitor_reporter(
    monitors: Sequence[Monitor],
    *,
    interval: int = 10,
    timestep_ps: float | None = None,
    trajectory: Any = None,
) -> "BatchReporter":
    """A reporter for `torch_sim.integrate` and `torch_sim.optimize` that watches each system by a monitor of its own.

    System i of those that torch-sim is given has monitor i, and so events and a log of its own, in whichever batch
    torch-sim's autobatchers put it. Where one monitor fails, its failure is said once and noted in its log, and the
    others go on; with on_error="raise" it is raised when all systems of the batch have been checked. The monitors
    are closed as their systems leave for good, and at the end of the run. Torch-sim does not end a run that raises: use
    the reporter in a ``with`` block, or its monitors stay open until the reporter is gone. Torch-sim 0.3 counts the
    steps of each call from 1: give each call logs of its own.

    Systems are judged on the device of the state where `Monitor.device` is that device (`Reference.to`): those of
    monitors that share reference and calibration together.

    Parameters
    ----------
    monitors
        One for each system, each with a log of its own; they may share reference and calibration, loaded once.
    interval
        Steps between checks, by the steps that torch-sim counts.
    timestep_ps
        The time step given to `torch_sim.integrate`, ps; default: checks have no time.
    trajectory
        A `TrajectoryReporter` that writes trajectories of the same run, each step after its check.

    Returns
    -------
    reporter
        Give it as ``trajectory_reporter``; in a loop of your own, call ``reporter.report(state, step)`` after each
        step, and ``reporter.close()`` at the end.

    Raises
    ------
    ImportError
        If torch-sim is not installed.
    TypeError, ValueError
        If an argument is not usable, or a trigger or calibration needs a time and `timestep_ps` is not given.

    Examples
    --------
    >>> from quests_md import Monitor, Reference                         # doctest: +SKIP
    >>> from quests_md.torch_sim import monitor_reporter                 # doctest: +SKIP
    >>> known = Reference.load("train.safetensors")                      # doctest: +SKIP
    >>> monitors = [Monitor(known, "levels.json", log=f"{i}.jsonl") for i in range(len(systems))]  # doctest: +SKIP
    >>> with monitor_reporter(monitors, timestep_ps=0.001) as reporter:  # doctest: +SKIP
    ...     torch_sim.integrate(systems, model, timestep=0.001, trajectory_reporter=reporter, ...)
    """
    try:
        from torch_sim.trajectory import TrajectoryReporter
    except ImportError as exc:
        raise ImportError(
            f"monitor_reporter: expected torch-sim, which cannot be imported ({exc}); install it with "
            '"pip install torch-sim-atomistic"'
        ) from exc
    if trajectory is not None and not isinstance(trajectory, TrajectoryReporter):
        raise TypeError(f"trajectory: expected a TrajectoryReporter or None, got {type(trajectory).__name__}")
    # torch-sim takes nothing else for a reporter
    kind = type("MonitorReporter", (BatchReporter, TrajectoryReporter), {})
    reporter: BatchReporter = kind(monitors, interval, timestep_ps, trajectory)
    return reporter


class BatchReporter:
    """What torch-sim calls after each step of a batch; made by `monitor_reporter`."""

    def __init__(
        self, monitors: Sequence[Monitor], interval: int, timestep_ps: float | None, trajectory: Any = None
    ) -> None:
        self.monitors = _checked(monitors, timestep_ps)
        self.interval = check_positive_integer("interval", interval, wrong_type=TypeError)
        self.timestep_ps = None if timestep_ps is None else check_positive("timestep_ps", timestep_ps, "time in ps")
        self.trajectory = trajectory
        self.here: list[int] = list(range(len(self.monitors)))
        """Which systems are in the present batch, in its order."""
        names = None if trajectory is None else trajectory.filenames
        self._names = [Path(f"system-{i}") if names is None else Path(names[i]) for i in range(len(names or self.here))]
        self._has_batches = False
        self._seen = SeenNumbers()
        self._end = finalize(self, _close, self.monitors)
        if len(self._names) != len(self.monitors):
            raise ValueError(
                f"trajectory: expected a file for each of {len(self.monitors)} monitors, got {len(self._names)}"
            )
        if self.timestep_ps is not None:
            for monitor in self.monitors:
                monitor.watch.set_interval(self.timestep_ps * self.interval)

    @property
    def filenames(self) -> list[Path]:
        """Names of all systems, by which torch-sim says which of them a batch holds: files only of `trajectory`."""
        return self._names

    @property
    def stopped(self) -> list[int]:
        """Systems whose trigger or action has asked for their end, such as the action `stop`: torch-sim runs them on.

        In a loop of your own, take them out of the batch; `integrate` has no way to end one system.
        """
        return [i for i, monitor in enumerate(self.monitors) if monitor.stopped]

    @property
    def stop_reasons(self) -> dict[int, str]:
        """Why each of these was to be ended, see `Monitor.stop_reason`."""
        return {i: self.monitors[i].stop_reason or "" for i in self.stopped}

    @property
    def exploded(self) -> list[int]:
        """Systems with an event of kind "exploded"."""
        kinds = [{event.kind for event in monitor.events} for monitor in self.monitors]
        return [i for i, of_system in enumerate(kinds) if "exploded" in of_system]

    @property
    def trajectories(self) -> list[Any]:
        """Files that `trajectory` writes at present."""
        return [] if self.trajectory is None else self.trajectory.trajectories

    @property
    def mode(self) -> str:
        """How these files were opened."""
        return getattr(self.trajectory, "mode", "w") if self.trajectories else "w"

    @property
    def last_steps(self) -> list[int | None]:
        """Last steps in these files."""
        return [] if self.trajectory is None else list(self.trajectory.last_steps)

    def load_new_trajectories(self, filenames: Any) -> None:
        """Go on with a batch of the systems of these names; those that were in the batch before and left are done."""
        places = {name: i for i, name in enumerate(self._names)}
        before, self.here = self.here, [places[Path(name)] for name in _as_list(filenames)]
        if self._has_batches:  # before the first one all systems count as here
            for i in set(before) - set(self.here):
                self.monitors[i].close()
        self._has_batches = True
        if self.trajectory is not None and self.trajectory.filenames is not None:
            change = getattr(self.trajectory, "reopen_trajectories", self.trajectory.load_new_trajectories)
            change(_as_list(filenames))

    reopen_trajectories = load_new_trajectories  # its name in later versions of torch-sim

    def report(self, state: Any, step: int | Sequence[int], model: Any = None) -> list[dict[str, Any]]:
        """Check the systems of a batch whose checks are due at this step, or at the step of each; write trajectories.

        Returns what `trajectory` returns, for each system a dict.
        """
        n_systems = int(state.n_systems)
        steps = [int(step)] * n_systems if np.ndim(step) == 0 else [int(one) for one in step]  # type: ignore[arg-type, union-attr]
        if not n_systems == len(steps) == len(self.here):
            raise ValueError(
                f"monitors: expected one for each of the {n_systems} systems of the batch, got {len(self.here)}"
            )
        due = [place for place in range(n_systems) if steps[place] % self.interval == 0]
        failures = self._check(state, steps, due) if due else []
        props: list[dict[str, Any]] = [{} for _ in range(n_systems)]
        if self.trajectory is not None:
            props = self.trajectory.report(state, step, model)
        if failures:
            raise failures[0]
        return props

    def finish(self) -> None:
        """Close all monitors, and the trajectories: the run is over."""
        self._end()
        if self.trajectory is not None:
            self.trajectory.finish()

    close = finish

    def __enter__(self) -> "BatchReporter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.finish()

    def _check(self, state: Any, steps: list[int], due: list[int]) -> list[Exception]:
        """Check some systems of a batch; the failures that are to be raised."""
        failures, frames = [], _Frames(state, self._seen)
        frames.let_stay({place: self.monitors[self.here[place]] for place in due})
        for place in due:
            monitor, step = self.monitors[self.here[place]], steps[place]
            time_ps = None if self.timestep_ps is None else step * self.timestep_ps
            try:
                frames.check(monitor, place, step, time_ps)
            except Exception as exc:
                try:
                    if isinstance(exc, MismatchError | FileFormatError):  # a log of another run: wrong use
                        raise
                    monitor.watch.log.fail(exc)
                except Exception as failure:
                    failure.add_note(f"at system {self.here[place]}, step {step}")
                    failures.append(failure)
        return failures


class _Frames:
    """The frames of a batch: on their device for the monitors that judge there, else in the memory of the process."""

    def __init__(self, state: Any, seen: SeenNumbers) -> None:
        self._state, self._seen = state, seen
        self._there: dict[int, TensorFrame] = {}
        self._here: _Batch | None = None

    def let_stay(self, monitors: dict[int, Monitor]) -> None:
        """Let the frames of monitors that judge on the device of the state stay there, by their places.

        Those that are judged by the same levels are judged together.
        """
        together: dict[tuple[int, int], list[int]] = {}
        for place, monitor in monitors.items():
            if is_tensor_on(self._state.positions, monitor.device):
                key = id(monitor.reference), id(monitor.calibration.landmarks)
                together.setdefault(key, []).append(place)
        if not together:
            return
        system = _in_memory(self._state.system_idx)
        order = np.argsort(system, kind="stable")
        ends = np.cumsum(np.bincount(system, minlength=int(self._state.n_systems)))
        for places in together.values():
            self._there |= self._batch(places, [order[ends[i - 1] if i else 0 : ends[i]] for i in places])

    def check(self, monitor: Monitor, place: int, step: int, time_ps: float | None) -> None:
        """Let a monitor check a system."""
        if place in self._there:
            monitor.check(self._there.pop(place), step, time_ps)
            return
        if self._here is None:
            self._here = _Batch.of(self._state)  # one copy for each array of all systems
        monitor.check_arrays(**self._here.system(place), step=step, time_ps=time_ps)

    def _batch(self, places: list[int], atoms: list[NDArray[np.int64]]) -> dict[int, TensorFrame]:
        """The frames of some systems, whose atoms are given, on their device."""
        state = self._state
        chosen = state.atomic_numbers.new_tensor(np.concatenate(atoms), dtype=state.system_idx.dtype)
        masses, numbers = state.masses.reshape(-1), self._seen.of(state.atomic_numbers)
        usual = masses.new_tensor(atomic_masses).to(masses.dtype)[state.atomic_numbers.long()]
        further = {} if bool((usual == masses).all()) else {"masses": masses}  # see `_Batch`
        further |= {name: getattr(state, name, None) for name in ("momenta", "forces")}
        energies = getattr(state, "energy", None)
        batch = tensor_batch(
            state.positions[chosen],
            state.atomic_numbers[chosen],
            numbers[np.concatenate(atoms)],
            [len(some) for some in atoms],
            np.asarray(_in_memory(state.row_vector_cell)[places], np.float64),
            np.broadcast_to(_in_memory(state.pbc).astype(bool), (int(state.n_systems), 3))[places],
            {name: tensor[chosen] for name, tensor in further.items() if tensor is not None},
            None if energies is None else _in_memory(energies)[places].tolist(),
        )
        return {place: batch.frame(i) for i, place in enumerate(places)}


class _Batch(NamedTuple):
    """A batch in the memory of the process: one copy for each array of all systems."""

    atoms: dict[str, NDArray[Any]]
    """Arrays with an entry for each atom."""
    systems: dict[str, NDArray[Any]]
    """Arrays with an entry for each system."""
    pbc: Any
    """Of all systems, or (n_systems, 3)."""
    order: NDArray[np.int64]
    """Atoms, system by system."""
    ends: NDArray[np.int64]
    """Where each system ends in that order."""

    @classmethod
    def of(cls, state: Any) -> "_Batch":
        """The arrays of a state of torch-sim that a check looks at."""
        atoms = {"positions": state.positions, "numbers": state.atomic_numbers, "masses": state.masses}
        atoms |= {name: getattr(state, name, None) for name in ("momenta", "forces")}
        systems = {"cell": state.row_vector_cell, "energy": getattr(state, "energy", None)}
        system = _in_memory(state.system_idx)
        ends = np.cumsum(np.bincount(system, minlength=int(state.n_systems)))
        arrays = {name: _in_memory(tensor) for name, tensor in atoms.items() if tensor is not None}
        usual = atomic_masses.take(arrays["numbers"], mode="clip").astype(arrays["masses"].dtype)
        if np.array_equal(arrays["masses"], usual):  # as of frames of a file, which say nothing of them
            del arrays["masses"]
        return cls(
            arrays,
            {name: _in_memory(tensor) for name, tensor in systems.items() if tensor is not None},
            _in_memory(state.pbc),
            np.argsort(system, kind="stable"),
            ends,
        )

    def system(self, i: int) -> dict[str, Any]:
        """Arguments of `Monitor.check_arrays` for a system."""
        here = self.order[self.ends[i - 1] if i else 0 : self.ends[i]]
        found: dict[str, Any] = {name: array[here] for name, array in self.atoms.items()}
        pbc = self.pbc[i] if np.ndim(self.pbc) == 2 else self.pbc
        return found | {name: array[i] for name, array in self.systems.items()} | {"pbc": pbc}


def _in_memory(tensor: Any) -> NDArray[Any]:
    """A tensor of any device, an array or a number as an array."""
    return np.asarray(in_memory(tensor))


def _close(monitors: list[Monitor]) -> None:
    """Close all monitors, also where one of them fails; the first failure is raised."""
    with ExitStack() as stack:
        for monitor in reversed(monitors):
            stack.callback(monitor.close)


def _as_list(names: Any) -> list[Any]:
    return list(names) if isinstance(names, list | tuple) else [names]


def _checked(monitors: Any, timestep_ps: float | None) -> list[Monitor]:
    if not isinstance(monitors, Monitor | Iterable):
        raise TypeError(f"monitors: expected a Monitor for each system, got {type(monitors).__name__}")
    given = [monitors] if isinstance(monitors, Monitor) else list(monitors)
    for i, monitor in enumerate(given):
        if not isinstance(monitor, Monitor):
            raise TypeError(f"monitors: expected a Monitor for each system, got {type(monitor).__name__} at place {i}")
        needs_time = monitor.watch.settings.needs_time
        if timestep_ps is None and needs_time is not None:
            raise ValueError(f"timestep_ps: expected the time step in ps, since {needs_time} is set, got None")
    if len(set(map(id, given))) < len(given):
        raise ValueError("monitors: expected a Monitor of its own for each system, got one of them twice")
    if not given:
        raise ValueError("monitors: expected a Monitor for each system, got none")
    return given
