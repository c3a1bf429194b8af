"""Dynamics of nvalchemi: a hook that gives each system of a batch to a Monitor of its own."""

from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np

from quests_md.monitor import Monitor
from quests_md.torch_sim import BatchReporter

__all__ = ["MonitorHook", "monitor_hook"]


def monitor_hook(
    monitors: Sequence[Monitor], *, stage: Enum | None = None, interval: int = 10, timestep_ps: float | None = None
) -> "MonitorHook":
    """A hook for the dynamics of nvalchemi that watches each system of a batch by a monitor of its own.

    It follows the protocol of hooks that nvalchemi-toolkit 0.3 publishes: an object with `frequency` and `stage` that
    is called with a context, which has `batch` and `step_count`. Nothing of the batch is changed. Where one monitor
    fails, its failure is said once and noted in its log, and the others go on.

    Parameters
    ----------
    monitors
        One for each system of the batch, in its order, each with a log of its own.
    stage
        When it is called: ``DynamicsStage.AFTER_STEP``; None where ``register_hook(hook, stage)`` says it.
    interval
        Steps between checks, by the steps that nvalchemi counts.
    timestep_ps
        The time step in ps; default: checks have no time.

    Raises
    ------
    TypeError, ValueError
        If an argument is not usable, or a trigger or calibration needs a time and `timestep_ps` is not given.

    Examples
    --------
    >>> from quests_md.nvalchemi import monitor_hook                                    # doctest: +SKIP
    >>> hook = monitor_hook(monitors, stage=DynamicsStage.AFTER_STEP, timestep_ps=0.001)  # doctest: +SKIP
    >>> dynamics.register_hook(hook)                                                    # doctest: +SKIP
    """
    return MonitorHook(monitors, stage, interval, timestep_ps)


class MonitorHook:
    """What nvalchemi calls after a step of a batch; made by `monitor_hook`."""

    def __init__(
        self, monitors: Sequence[Monitor], stage: Enum | None, interval: int, timestep_ps: float | None
    ) -> None:
        self._reporter = BatchReporter(monitors, interval, timestep_ps)
        self.frequency = self._reporter.interval
        self.stage = stage
        self._has_begun = False

    @property
    def stopped(self) -> list[int]:
        """Systems whose trigger or action has asked for their end: no hook can end one system of a batch."""
        return self._reporter.stopped

    @property
    def stop_reasons(self) -> dict[int, str]:
        """Why each of these was to be ended."""
        return self._reporter.stop_reasons

    @property
    def exploded(self) -> list[int]:
        """Systems with an event of kind "exploded"."""
        return self._reporter.exploded

    def __call__(self, ctx: Any, stage: Any = None) -> None:
        """Check the systems of a batch; ValueError if its first batch has another number of systems than monitors.

        Later batches of another number count as a failure of the monitors, since nothing tells which systems are left.
        """
        if ctx.batch is None:
            return
        state, step = _State(ctx.batch), int(ctx.step_count)
        n_monitors = len(self._reporter.monitors)
        if state.n_systems != n_monitors:
            fault = ValueError(
                f"monitors: expected one for each of the {state.n_systems} systems of the batch, got {n_monitors}"
            )
            if not self._has_begun:
                raise fault
            for monitor in self._reporter.monitors:
                monitor.watch.log.fail(fault)
            return
        self._has_begun = True
        self._reporter.report(state, step)

    def close(self) -> None:
        """Close all monitors: the run is over."""
        self._reporter.finish()

    def __enter__(self) -> "MonitorHook":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _State:
    """A batch of nvalchemi under the names that torch-sim has for the same: Å, eV, amu, and the time unit of ASE."""

    def __init__(self, batch: Any) -> None:
        self.n_systems = int(batch.num_graphs)
        self.system_idx = batch.batch_idx
        self.positions, self.atomic_numbers = batch.positions, batch.atomic_numbers
        self.forces = getattr(batch, "forces", None)
        self.masses = batch.atomic_masses
        velocities = getattr(batch, "velocities", None)
        self.momenta = None if velocities is None else velocities * self.masses.reshape(-1, 1)
        energy, cell, pbc = (getattr(batch, name, None) for name in ("energy", "cell", "pbc"))
        self.energy = None if energy is None else energy.reshape(-1)
        self.row_vector_cell = np.zeros((self.n_systems, 3, 3)) if cell is None else cell
        self.pbc: Any = False if pbc is None else pbc.reshape(-1, 3)
