"""Batches of torch-sim, run by torch-sim itself: one stream of events and one log for each system."""

import contextlib
import gc
import json
import math

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from systems import copper, inside, level_at, md_frames, md_reference, on_both, outside

from quests_md import MismatchError, Monitor, StopRun, Trigger, read_log, score_trajectory
from quests_md.torch_sim import monitor_reporter

ts = pytest.importorskip("torch_sim", reason='torch-sim is not installed: pip install "torch-sim-atomistic"')
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch_sim")

FREE = {"elapsed_us", "interval"}

#: Above the crystals, below what is displaced.
LEVEL = -3.0


def model():
    from torch_sim.models.lennard_jones import LennardJonesModel

    options = {"sigma": 2.3, "epsilon": 0.05, "cutoff": 5.0, "use_neighbor_list": False, "compute_forces": True}
    return LennardJonesModel(**options, compute_stress=False, dtype=torch.float64, device=torch.device("cpu"))


def systems():
    """A crystal, one that is none any more, and a crystal of another size."""
    return [inside(1), outside(2), copper(1, rattle=0.04, seed=3) * (2, 2, 3)]


def monitors(logs, **options):
    calibration = level_at(md_reference(), LEVEL)
    return [Monitor(md_reference(), calibration, log=log, verbose=False, **options) for log in logs]


def integrate(reporter, given, n_steps=20, **options):
    torch.manual_seed(0)
    how = {"integrator": ts.nvt_langevin, "n_steps": n_steps, "temperature": 50.0, "timestep": 0.001}
    return ts.integrate(given, model(), **how, trajectory_reporter=reporter, **options)


class Recorded:
    """Keeps the frames that a reporter checks, system by system, as files of frames would."""

    def __init__(self, reporter):
        self.frames = [[] for _ in reporter.monitors]
        self._reporter, self._report = reporter, reporter.report
        reporter.report = self.report

    def report(self, state, step, model=None):
        for place, atoms in enumerate(state.to_atoms()):
            one = state[place]
            atoms.set_momenta(one.momenta.numpy())
            atoms.calc = SinglePointCalculator(atoms, energy=float(one.energy), forces=one.forces.numpy())
            atoms.info |= {"step": step, "time_ps": 0.001 * step}
            if step % self._reporter.interval == 0:
                self.frames[self._reporter.here[place]].append(atoms)
        return self._report(state, step, model)


def checks_of(log):
    """The checks that a log holds, but for what differs between two runs of the same."""
    found = [json.loads(line) for line in log.read_text().splitlines()]
    return [{name: line[name] for name in line if name not in FREE} for line in found if line["type"] == "check"]


def fitting(kind, n_atoms=81):
    """An autobatcher of batches of at most so many atoms."""
    return kind(model(), memory_scales_with="n_atoms", max_memory_scaler=float(n_atoms), return_indices=True)


@pytest.mark.parametrize("is_batched", [False, True])
def test_checks_are_those_of_the_written_trajectory_whatever_the_batches(tmp_path, is_batched):
    logs = [tmp_path / f"{i}.jsonl" for i in range(3)]
    reporter = monitor_reporter(monitors(logs), interval=5, timestep_ps=0.001)
    recorded = Recorded(reporter)
    integrate(reporter, systems(), autobatcher=fitting(ts.BinningAutoBatcher) if is_batched else False)
    for i, log in enumerate(logs):
        offline = tmp_path / f"offline-{i}.jsonl"
        list(score_trajectory(recorded.frames[i], md_reference(), level_at(md_reference(), LEVEL), log=offline))
        online = checks_of(log)
        assert online == checks_of(offline)
        assert [check["step"] for check in online] == [5, 10, 15, 20]
        assert {check["n_atoms"] for check in online} == {len(systems()[i])}
        assert online[0]["temperature_K"] > 0
        assert online[0]["energy_per_atom"] is not None
    assert [len(read_log(log).events) for log in logs] == [0, 1, 0]


def test_a_batch_is_judged_on_its_device_as_on_the_cpu(tmp_path, monkeypatch):
    """Four systems, one of which is no crystal, and one whose atoms vanish at step 12; quiet ones are never fetched."""
    calibration, references = on_both()
    given = [md_frames()[200].copy(), outside(2), md_frames()[220].copy() * (2, 2, 1), md_frames()[180].copy()]
    left, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: left.append(tensor.numel()) or cpu(tensor))
    logs = {where: [tmp_path / f"{where}-{i}.jsonl" for i in range(4)] for where in references}
    for where, reference in references.items():
        of_all = [Monitor(reference, calibration, log=log, verbose=False, values="proven") for log in logs[where]]
        assert {monitor.device for monitor in of_all} == {None if where == "cpu" else "cpu"}
        with monitor_reporter(of_all, interval=3, timestep_ps=0.001) as reporter:
            report = reporter.report

            def watched(state, step, model=None, report=report, where=where):
                if step == 12:
                    state.positions[-1] = math.nan
                left.clear()
                report(state, step, model)
                if where == "device" and step == 9:  # numbers and places of all, and atoms of the strange system
                    assert max(left) < 3 * 128

            reporter.report = watched
            integrate(reporter, given, n_steps=15, autobatcher=False)
            assert reporter.exploded == [3]
    for mine, its in zip(*logs.values(), strict=True):
        one, other = checks_of(mine), checks_of(its)
        assert len(one) == len(other) == 5
        for check, same in zip(one, other, strict=True):
            for name in ("step", "state", "alarms", "n_above", "largest_cluster", "worst_element", "explosion"):
                assert check[name] == same[name]
            assert check.get("further", {}) == pytest.approx(same.get("further", {}), abs=0.01)
            for name in ("temperature_K", "energy_per_atom", "volume_per_atom"):
                assert (check[name] is None) == (same[name] is None)
                assert check[name] is None or check[name] == pytest.approx(same[name], rel=1e-9, nan_ok=True)
        assert [event.kind for event in read_log(mine).events] == [event.kind for event in read_log(its).events]
    assert {check["state"] for check in checks_of(logs["device"][0])} == {"in"}
    assert {check["state"] for check in checks_of(logs["device"][1])} == {"out"}
    assert [check["state"] for check in checks_of(logs["device"][3])][-2:] == ["invalid"] * 2


def test_monitors_of_several_references_share_a_batch():
    calibration, references = on_both()
    of_all = [Monitor(references[where], calibration, log=None, verbose=False) for where in ("device", "cpu", "device")]
    of_all += monitors([None])
    given = [md_frames()[i].copy() for i in (150, 160, 170, 180)]
    state = ts.initialize_state(given, torch.device("cpu"), torch.float32)
    reporter = monitor_reporter(of_all, interval=1)
    for step in range(2):
        reporter.report(state, step)
    assert [monitor.last_check.digest[0] == "t" for monitor in of_all] == [True, False, True, False]
    assert [monitor.last_check.state for monitor in of_all[:3]] == ["in"] * 3
    reporter.close()


class Broken(Exception):
    """What a model raises."""


@pytest.mark.parametrize("is_closed_by", ["with", "the end of the reporter"])
def test_monitors_are_closed_where_a_run_raises(tmp_path, is_closed_by):
    logs = [tmp_path / f"{i}.jsonl" for i in range(3)]
    of_all = monitors(logs)

    def run(reporter):
        report = reporter.report

        def broken(state, step, model=None):
            report(state, step, model)
            if step == 6:
                raise Broken

        reporter.report = broken
        with contextlib.suppress(Broken):
            integrate(reporter, systems())

    if is_closed_by == "with":
        with monitor_reporter(of_all, interval=2) as reporter:
            run(reporter)
    else:
        run(monitor_reporter(of_all, interval=2))
        gc.collect()
    for log in logs:
        assert read_log(log).step.tolist() == [2, 4, 6]
        assert "closed after 3 checks" in log.read_text()
    assert read_log(logs[1]).events[0].is_open


def test_systems_that_are_swapped_keep_their_streams(tmp_path):
    """Optimised one after the other: each leaves when its energy has converged, and its monitor is closed."""
    logs = [tmp_path / f"{i}.jsonl" for i in range(4)]
    given = [systems()[i] for i in (2, 1, 0, 2)]
    reporter = monitor_reporter(monitors(logs), interval=1)
    batches = []
    load = reporter.load_new_trajectories

    def loaded(filenames):
        load(filenames)
        batches.append(list(reporter.here))

    reporter.load_new_trajectories = loaded
    energy = ts.generate_energy_convergence_fn(0.5)
    options = {"convergence_fn": energy, "max_steps": 40, "steps_between_swaps": 5}
    ts.optimize(
        given, model(), optimizer=ts.gradient_descent, trajectory_reporter=reporter,
        autobatcher=fitting(ts.InFlightAutoBatcher), **options,
    )  # fmt: skip
    assert len(batches) > 1
    assert set().union(*batches) == set(range(4))
    for i, log in enumerate(logs):
        found = read_log(log)
        assert set(found.n_atoms.tolist()) == {len(given[i])}
        steps = found.step.tolist()
        assert steps == list(range(steps[0], steps[0] + len(steps)))  # all steps at which it was there
        assert "closed after" in log.read_text()


def test_trajectories_are_written_beside(tmp_path):
    logs = [tmp_path / f"{i}.jsonl" for i in range(3)]
    files = [tmp_path / f"{i}.h5" for i in range(3)]
    with monitor_reporter(
        monitors(logs), interval=4, trajectory=ts.TrajectoryReporter(files, state_frequency=2)
    ) as reporter:
        integrate(reporter, systems(), n_steps=8, autobatcher=fitting(ts.BinningAutoBatcher))
    for file, log, atoms in zip(files, logs, systems(), strict=True):
        assert read_log(log).step.tolist() == [4, 8]
        with ts.TorchSimTrajectory(file, mode="r") as trajectory:
            assert len(trajectory) == 4
            assert len(trajectory.get_atoms(0)) == len(atoms)


class Failing:
    """An action that fails."""

    def __call__(self, event, frame):
        raise OSError("disk full")


@pytest.mark.parametrize("on_error", ["log", "raise"])
def test_one_bad_system_does_not_stop_the_others(tmp_path, on_error, caplog):
    logs = [tmp_path / f"{i}.jsonl" for i in range(3)]
    reporter = monitor_reporter(monitors(logs, on_error=on_error, actions=[Failing()]), interval=2)
    if on_error == "raise":
        with pytest.raises(OSError, match="disk full") as caught:
            integrate(reporter, systems(), n_steps=12)
        assert "at system 1, step 6" in caught.value.__notes__
        assert [len(read_log(log)) for log in logs] == [3, 3, 3]  # the system after it was checked as well
        reporter.close()
        return
    integrate(reporter, systems(), n_steps=12)
    assert [len(read_log(log)) for log in logs] == [6, 6, 6]
    assert [log.read_text().count("the monitor failed: OSError: disk full") for log in logs] == [0, 1, 0]
    assert sum("disk full" in record.getMessage() for record in caplog.records) == 1


def test_a_system_that_explodes_or_is_stopped_is_told_and_the_others_go_on(tmp_path):
    def stop(event, frame):
        raise StopRun

    given = systems()
    state = ts.initialize_state(given, torch.device("cpu"), torch.float64)
    reporter = monitor_reporter(monitors([tmp_path / f"{i}.jsonl" for i in range(3)], actions=[stop]), interval=1)
    for step in range(4):
        if step == 2:
            state.positions[0, 1] = math.nan
        reporter.report(state, step)
        assert reporter.stopped == [[], [], [0, 1], [0, 1]][step]
        assert reporter.exploded == [[], [], [0], [0]][step]
    reporter.close()
    assert [len(read_log(tmp_path / f"{i}.jsonl")) for i in range(3)] == [4, 4, 4]


def test_nothing_of_the_state_is_changed_or_kept():
    state = ts.initialize_state(systems(), torch.device("cpu"), torch.float64)
    before = state.clone()
    kept = []
    reporter = monitor_reporter(monitors([None] * 3, actions=[lambda event, frame: kept.append(frame)]), interval=1)
    for step in range(4):
        reporter.report(state, step)
    for name, value in vars(before).items():
        assert torch.equal(getattr(state, name), value) if isinstance(value, torch.Tensor) else True
    assert len(kept) == 1
    assert not kept[0].has("masses")  # they are those of the elements
    kept[0].positions[:] = 0
    assert torch.equal(state.positions, before.positions)


def test_masses_of_ones_own_count():
    given = systems()
    for atoms in given[:2]:
        atoms.set_momenta(np.ones((len(atoms), 3)))
    given[1].set_masses(np.full(len(given[1]), 200.0))
    state = ts.initialize_state(given, torch.device("cpu"), torch.float64)
    state.momenta = torch.ones_like(state.positions)
    reporter = monitor_reporter(monitors([None] * 3), interval=1)
    reporter.report(state, 0)
    for monitor, atoms in zip(reporter.monitors[:2], given[:2], strict=True):
        assert monitor.last_check.temperature_K == pytest.approx(atoms.get_temperature(), rel=1e-12)


def test_steps_of_each_system_are_counted_for_it():
    """As later versions of torch-sim give them while systems are swapped."""
    state = ts.initialize_state(systems(), torch.device("cpu"), torch.float64)
    reporter = monitor_reporter(monitors([None] * 3), interval=5)
    reporter.report(state, [5, 6, 20])
    assert [monitor.last_check and monitor.last_check.step for monitor in reporter.monitors] == [5, None, 20]


def test_a_batch_is_taken_up_again_where_its_checkpoint_stands(tmp_path):
    def states():
        state = ts.initialize_state(systems(), torch.device("cpu"), torch.float64)
        for step in range(8):
            state.positions += 0.01 * torch.sin(state.positions + step)
            yield step, state.clone()

    def run(name, steps, **options):
        logs = [tmp_path / f"{name}-{i}.jsonl" for i in range(3)]
        with monitor_reporter(monitors(logs, **options), interval=2) as reporter:
            for step, state in states():
                if step in steps:
                    reporter.report(state, step)
        return logs

    whole = run("whole", range(8))
    run("killed", range(6))
    again = run("killed", range(4, 8), resume=True)
    for one, other in zip(whole, again, strict=True):
        assert read_log(one).step.tolist() == read_log(other).step.tolist() == [0, 2, 4, 6]
        np.testing.assert_array_equal(read_log(one).dh_max, read_log(other).dh_max)
        assert [event.onset_step for event in read_log(one).events] == [
            event.onset_step for event in read_log(other).events
        ]


def test_a_log_of_another_run_is_raised_when_the_others_were_checked(tmp_path):
    logs = [tmp_path / f"{i}.jsonl" for i in range(3)]
    state = ts.initialize_state(systems(), torch.device("cpu"), torch.float64)
    for shift in (0.0, 1.0):
        state.positions[0, 0] += shift  # of the first system
        reporter = monitor_reporter(monitors(logs, resume=True), interval=1)
        if shift:
            with pytest.raises(MismatchError) as caught:
                reporter.report(state, 0)
            assert "at system 0, step 0" in caught.value.__notes__
            assert [monitor.n_checks for monitor in reporter.monitors] == [0, 1, 1]
        else:
            reporter.report(state, 0)
        reporter.close()


def test_wrong_arguments_say_what_is_expected(tmp_path):
    two, one_file = monitors([None] * 2), ts.TrajectoryReporter([tmp_path / "1.h5"])
    for wrong, message in [
        ({"monitors": []}, "monitors: expected a Monitor for each system, got none"),
        ({"monitors": 5}, "monitors: expected a Monitor for each system, got int"),
        ({"monitors": [two[0]] * 2}, "monitors: expected a Monitor of its own"),
        ({"monitors": [md_reference()]}, "monitors: expected a Monitor for each system, got Reference at place 0"),
        ({"interval": 0}, "interval: expected a positive integer"),
        ({"timestep_ps": -1.0}, "timestep_ps: expected a positive time in ps"),
        ({"trajectory": "run.h5"}, "trajectory: expected a TrajectoryReporter or None, got str"),
        ({"trajectory": one_file}, "trajectory: expected a file for each of 2 monitors, got 1"),
        ({"monitors": monitors([None], trigger=Trigger(patience_ps=1.0))}, "timestep_ps: expected the time step in ps"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            monitor_reporter(**{"monitors": two} | wrong)
    one_file.close()
    state = ts.initialize_state(systems(), torch.device("cpu"), torch.float64)
    with pytest.raises(ValueError, match="monitors: expected one for each of the 3 systems of the batch, got 2"):
        monitor_reporter(two).report(state, 10)
