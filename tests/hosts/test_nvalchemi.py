"""A hook by the protocol that nvalchemi publishes; a batch made by hand, as the real one is."""

from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest
from systems import cold_reference, copper, inside, level_at, outside

from quests_md import Monitor, Trigger, read_log, stop
from quests_md.nvalchemi import monitor_hook


class Stage(Enum):
    AFTER_COMPUTE = 5
    AFTER_STEP = 7


def batch_of(frames):
    """A batch as nvalchemi has it: atoms one after the other, cells (B, 3, 3), energies (B, 1)."""
    atoms = {
        "positions": [frame.positions for frame in frames],
        "atomic_numbers": [frame.numbers for frame in frames],
        "atomic_masses": [frame.get_masses() for frame in frames],
        "velocities": [frame.get_velocities() for frame in frames],
        "batch_idx": [np.full(len(frame), i) for i, frame in enumerate(frames)],
    }
    return SimpleNamespace(
        num_graphs=len(frames),
        cell=np.array([frame.cell.array for frame in frames]),
        pbc=np.array([frame.pbc for frame in frames]),
        energy=np.array([[float(i)] for i in range(len(frames))]),
        **{name: np.concatenate(arrays) for name, arrays in atoms.items()},
    )


def monitors_in(folder, n, **options):
    settings = {"trigger": Trigger(patience=1), "verbose": False} | options
    reference = cold_reference()
    levels = level_at(reference, 2.0)
    return [Monitor(reference, levels, log=folder / f"{i}.jsonl", **settings) for i in range(n)]


def run(hook, batches):
    """Call a hook as a registry does."""
    for step, batch in enumerate(batches):
        for stage in Stage:
            if stage == hook.stage and step % hook.frequency == 0:
                hook(SimpleNamespace(batch=batch, step_count=step), stage)


def test_each_system_has_its_monitor_and_checks_are_those_of_atoms(tmp_path):
    slab = copper(seed=2, rattle=0.01, temperature_K=300)
    slab.pbc = (True, True, False)
    frames = [copper(seed=1, rattle=0.01, temperature_K=300), slab, outside()]
    before = batch_of(frames)
    batches = [batch_of(frames) for _ in range(5)]
    monitors = monitors_in(tmp_path, 3, actions=[stop])
    with monitor_hook(monitors, stage=Stage.AFTER_STEP, interval=2, timestep_ps=0.001) as hook:
        run(hook, batches)
        assert hook.stopped == [1, 2]  # the faces of the slab are novel
        assert "the action stop stopped the run at step 0" in hook.stop_reasons[2]
        assert hook.exploded == []
    for batch in batches:
        for name, array in vars(before).items():
            np.testing.assert_array_equal(vars(batch)[name], array)
    for i, frame in enumerate(frames):
        log = read_log(tmp_path / f"{i}.jsonl")
        assert log.step.tolist() == [0, 2, 4]
        assert log.time_ps.tolist() == [0, 0.002, 0.004]
        assert log.energy_per_atom[0] == i / len(frame)
        with Monitor(cold_reference(), level_at(cold_reference(), 2.0), log=None, verbose=False) as monitor:
            check = monitor.check(frame)
        assert log.digest[0] == check.digest
        assert log.dh_max[0] == check.dh_max
        if check.temperature_K is not None:
            assert log.temperature_K[0] == pytest.approx(check.temperature_K, rel=1e-12)
    assert [len(read_log(tmp_path / f"{i}.jsonl").events) for i in range(3)] == [0, 1, 1]


def test_a_stage_may_come_at_registration_and_there_may_be_no_batch(tmp_path):
    hook = monitor_hook(monitors_in(tmp_path, 1))
    assert (hook.stage, hook.frequency) == (None, 10)
    hook.stage = Stage.AFTER_STEP
    hook(SimpleNamespace(batch=None, step_count=0), Stage.AFTER_STEP)
    assert hook.stopped == []
    hook.close()


def test_other_numbers_of_systems(tmp_path, caplog):
    batch, fewer = batch_of([inside(), inside(1)]), batch_of([inside()])
    hook = monitor_hook(monitors_in(tmp_path, 2), stage=Stage.AFTER_STEP, interval=1)
    with pytest.raises(ValueError, match="1 systems of the batch, got 2"):
        run(hook, [fewer])
    run(hook, [batch, fewer, batch])  # the run goes on
    assert "monitors: expected one for each of the 1 systems" in caplog.text
    hook.close()
    assert [read_log(tmp_path / f"{i}.jsonl").step.tolist() for i in range(2)] == [[0, 2], [0, 2]]


def test_misuse_is_refused(tmp_path):
    with pytest.raises(ValueError, match="monitors"):
        monitor_hook([])
    with pytest.raises(TypeError, match="interval"):
        monitor_hook(monitors_in(tmp_path, 1), interval=1.5)
