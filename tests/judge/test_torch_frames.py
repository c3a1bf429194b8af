"""Frames whose arrays are on the device of the reference: judged there, with the flags of the CPU."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from systems import alloy, copper, md_frames, on_both, outside

from quests_md import Monitor, Trigger, read_log, save_frame

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

#: Of values of statistics, and of scores of single atoms, in deviations: docs/gpu.md.
BOUND = 0.01


def monitor(where, calibration=None, **options):
    """On the "cpu" by the package's kernels, or on the "device"."""
    levels, references = on_both()
    quiet = {"verbose": False, "on_error": "raise", "log": None}
    return Monitor(references[where], levels if calibration is None else calibration, **(quiet | options))


def monitors(calibration=None, **options):
    return [monitor(where, calibration, **options) for where in ("cpu", "device")]


def arrays_of(atoms):
    forces = atoms.calc.results["forces"] if atoms.calc else None
    energy = atoms.calc.results["energy"] if atoms.calc else None
    momenta = atoms.get_momenta() if atoms.has("momenta") else None
    return (atoms.positions, atoms.cell.array, atoms.pbc, atoms.numbers), {
        name: array
        for name, array in (("momenta", momenta), ("forces", forces), ("energy", energy))
        if array is not None
    }


def tensors_of(atoms, kind=torch.float64):
    (positions, cell, pbc, numbers), further = arrays_of(atoms)
    sent = {name: torch.tensor(array, dtype=kind) for name, array in further.items() if np.ndim(array)}
    fixed = torch.tensor(positions, dtype=kind), torch.tensor(cell), torch.tensor(pbc), torch.tensor(numbers)
    return fixed, further | sent


@pytest.fixture
def left(monkeypatch):
    """Bytes that were fetched from the device, one number for each time."""
    sizes, cpu = [], torch.Tensor.cpu

    def counted(tensor, *args, **options):
        sizes.append(tensor.numel() * tensor.element_size())
        return cpu(tensor, *args, **options)

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    return sizes


SAME = ("state", "alarms", "n_above", "largest_cluster", "n_colder", "n_unknown", "explosion", "n_atoms", "n_tail")


def near(one, other, **tolerance):
    """Whether numbers are about the same, or both are None."""
    return one is other if one is None or other is None else one == pytest.approx(other, nan_ok=True, **tolerance)


def require_same(mine, its):
    for name in SAME:
        assert getattr(mine, name) == getattr(its, name), name
    for name in ("temperature_K", "volume_per_atom", "energy_per_atom"):
        assert near(getattr(its, name), getattr(mine, name), rel=1e-12), name
    if mine.state == "invalid":
        return
    assert np.array_equal(mine.above, its.above)
    assert dict(mine.further) == pytest.approx(dict(its.further), abs=BOUND)
    assert mine.excess == pytest.approx(its.excess, abs=BOUND)
    np.testing.assert_allclose(np.asarray(mine.local_score), np.asarray(its.local_score), atol=BOUND)
    for name in ("dh_max", "dh_mean", "dh_q99"):
        # rel: dH of 1e15 nats, of frames far from all that is known, has steps of 0.25
        assert near(getattr(its, name), getattr(mine, name), abs=1e-3, rel=1e-12), name


def held_out():
    return [atoms.copy() for atoms in md_frames()[120:]]


@pytest.mark.parametrize("values", ["proven", "full"])
def test_checks_are_those_of_the_cpu_and_quiet_frames_stay_where_they_are(left, values):
    cpu, device = monitors(values=values)
    assert (cpu.device, device.device) == (None, "cpu")
    n_stayed = 0
    for step, atoms in enumerate(held_out()[::4]):
        fixed, further = tensors_of(atoms)
        left.clear()
        its = device.check_arrays(*fixed, step=step, **further)
        stayed = max(left) < atoms.positions.nbytes
        mine = cpu.check(atoms, step=step)
        require_same(mine, its)
        n_stayed += stayed
        assert stayed or step == 0 or mine.state == "out" or values == "full"
    if values == "proven":
        assert n_stayed > 20


def strange():
    """Frames of all sorts of trouble, each of copper."""
    rng = np.random.default_rng(7)
    quiet = held_out()[3]
    lost, close, doubled, collapsed, zero, far, gas = (quiet.copy() for _ in range(7))
    lost.positions[5, 2] = math.nan
    close.positions[1] = close.positions[0] + [0.0, 0.0, 1.2]
    doubled.positions[1] = doubled.positions[0]
    collapsed.set_cell(collapsed.cell.array * 1e-4, scale_atoms=True)
    zero.set_cell(np.zeros((3, 3)))
    far.positions[0] += 1e12
    gas.set_cell(gas.cell.array * 6, scale_atoms=True)
    no_cell = quiet.copy()
    no_cell.pbc = (True, False, True)
    wrapped = quiet.copy()
    wrapped.positions += rng.integers(-3, 4, (len(quiet), 3)) @ quiet.cell.array
    hot = quiet.copy()
    hot.set_momenta(rng.normal(0, 30.0, (len(hot), 3)))
    burst = hot.copy()
    burst.arrays["momenta"][4, 1] = math.inf
    torn = quiet.copy()
    lost.calc = SinglePointCalculator(lost, energy=-1.0, forces=np.zeros((len(lost), 3)))
    torn.calc = SinglePointCalculator(torn, energy=-1.0, forces=np.where(np.eye(len(torn), 3) > 0, math.nan, 0.0))
    small = [Atoms("Cu"), Atoms("Cu2", positions=[[0, 0, 0], [2.5, 0, 0]]), copper(1, rattle=0.05), copper(2)]
    return [
        lost, close, doubled, collapsed, zero, far, gas, no_cell, wrapped, hot, burst, torn, *small,
        copper(3, rattle=0.06, seed=4), outside(1), outside(2, size=3), alloy(), quiet,
    ]  # fmt: skip


def test_strange_frames_of_any_kind_are_judged_as_on_the_cpu():
    for atoms in strange():
        cpu, device = monitors()
        for step, frame in enumerate((held_out()[4], atoms, atoms)):
            fixed, further = tensors_of(frame)
            require_same(cpu.check(frame, step=step), device.check_arrays(*fixed, step=step, **further))
        assert [(event.kind, event.reason) for event in cpu.events] == [(e.kind, e.reason) for e in device.events]


def test_atoms_at_a_level_are_decided_by_the_cpu(left):
    """The level that 1 % exceed is put onto scores of atoms, and a hair beside them, nearer than any bound."""
    levels, _ = on_both()
    atoms = held_out()[10] * (9, 1, 1)
    atoms.rattle(0.01, seed=1)
    scores = np.sort(np.asarray(monitor("cpu").check(atoms).local_score))
    n_cut_out = 0
    for level in scores[[-1, -9]]:
        for by in (0.0, -1e-12, 1e-12, 1e-5):
            calibration = copy.copy(levels)
            object.__setattr__(calibration, "landmarks", replace(levels.landmarks, tail_level=float(level + by)))
            object.__setattr__(calibration, "statistics", ("local_tail", "local_cluster"))
            cpu, device = monitors(calibration, values="proven")
            device.check(atoms)  # begins the run
            fixed, further = tensors_of(atoms)
            left.clear()
            mine, its = cpu.check(atoms), device.check_arrays(*fixed, **further)
            sizes = list(left)
            require_same(mine, its)
            assert mine.further == its.further
            n_cut_out += 24 * 32 < max(sizes) < atoms.positions.nbytes
    assert n_cut_out > 1


def test_events_and_logs_are_those_of_the_cpu_and_are_taken_up_again(tmp_path):
    good, bad = held_out()[:12], [outside(i) for i in range(5)]
    run = [*good[:5], *bad, *good[5:]]
    for atoms in run:
        atoms.set_momenta(np.random.default_rng(1).normal(0, 0.5, (len(atoms), 3)))
    logs = [tmp_path / "cpu.jsonl", tmp_path / "device.jsonl", tmp_path / "again.jsonl"]
    for log, steps in ((logs[0], [range(17)]), (logs[1], [range(17)]), (logs[2], [range(9), range(6, 17)])):
        for i, part in enumerate(steps):
            where, action = "cpu" if log is logs[0] else "device", save_frame(log.with_suffix(".extxyz"))
            with monitor(where, log=log, resume=i > 0, actions=[action], trigger=Trigger(patience=2)) as watched:
                for step in part:
                    fixed, further = arrays_of(run[step]) if where == "cpu" else tensors_of(run[step])
                    watched.check_arrays(*fixed, step=step, time_ps=0.01 * step, **further)
    found = [read_log(log) for log in logs]
    for other in found[1:]:
        assert other.step.tolist() == found[0].step.tolist()
        assert other.state.tolist() == found[0].state.tolist()
        assert len(other.events) == len(found[0].events) > 0
        for mine, its in zip(found[0].events, other.events, strict=True):
            assert (mine.kind, mine.onset_step, mine.last_step) == (its.kind, its.onset_step, its.last_step)
            assert mine.atoms == its.atoms
    saved = [read(log.with_suffix(".extxyz"), ":") for log in logs]
    for mine, *others in zip(*saved, strict=True):
        for its in others:
            assert np.array_equal(mine.positions, its.positions)
            assert np.array_equal(mine.arrays["above"], its.arrays["above"])
    digests = [read_log(log).digest.tolist() for log in logs[1:]]
    assert len({*digests[0]}) == len(run)
    assert {*digests[1]} == {*digests[0]}


def test_nothing_of_the_tensors_is_kept_or_changed():
    _, device = monitors()
    atoms = held_out()[2]
    fixed, further = tensors_of(atoms, torch.float32)
    before = fixed[0].clone()
    checks = [device.check_arrays(*fixed, step=step, **further) for step in range(2)]
    assert torch.equal(fixed[0], before)
    scores = np.array(checks[0].local_score)
    fixed[0].mul_(0.5)
    assert np.array_equal(np.asarray(checks[1].local_score), scores)
    assert checks[1].local_score.max() == scores.max()
    assert (checks[1].local_score > 0).sum() == (scores > 0).sum()
    assert len(checks[1].local_score) == len(atoms)


def test_what_is_given_is_checked_on_the_device_too():
    _, device = monitors()
    (positions, cell, pbc, numbers), _ = tensors_of(held_out()[0])
    for wrong, message in [
        ({"positions": positions[:, :2]}, "positions: expected numbers"),
        ({"positions": positions > 0}, "positions: expected numbers"),
        ({"numbers": numbers[1:]}, "numbers: expected atomic numbers"),
        ({"numbers": numbers.double()}, "numbers: expected atomic numbers"),
        ({"numbers": torch.zeros_like(numbers)}, "numbers: expected atomic numbers from 1 to 118, got 0 for atom 0"),
        ({"momenta": positions, "velocities": positions}, "velocities: expected momenta or velocities, got both"),
        ({"masses": -(positions[:, 0] ** 2)}, "masses: expected positive"),
        ({"forces": positions[1:]}, "forces: expected numbers"),
        ({"ids": numbers}, "ids: expected a number of its own"),
        ({"cell": cell[:2]}, "cell: expected numbers"),
        ({"pbc": torch.tensor([2, 0, 1])}, "pbc: expected True or False"),
        ({"energy": positions}, "energy: expected a number"),
        ({"velocity": positions}, "check_arrays: expected arguments named momenta"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            device.check_arrays(**{"positions": positions, "cell": cell, "pbc": pbc, "numbers": numbers} | wrong)


def test_arrays_beside_tensors_and_velocities():
    cpu, device = monitors()
    atoms = held_out()[1]
    (positions, cell, *_), _ = tensors_of(atoms)
    speeds = np.random.default_rng(2).normal(0, 0.01, (len(atoms), 3))
    further = {"velocities": speeds, "ids": np.arange(len(atoms))[::-1], "energy": -3.0}
    mine = cpu.check_arrays(*arrays_of(atoms)[0], **further)
    require_same(mine, device.check_arrays(positions, cell.numpy(), True, atoms.numbers, **further))
    assert mine.temperature_K > 0


def test_what_needs_the_cpu_is_judged_there():
    _, of_dh = monitors(statistics=("dh_max",))
    _, of_run = monitors(baseline_ps=1.0)
    assert of_dh.device is None
    assert of_run.device is None
    atoms = held_out()[0]
    assert of_dh.check_arrays(*tensors_of(atoms)[0]).digest == of_dh.check(atoms).digest
