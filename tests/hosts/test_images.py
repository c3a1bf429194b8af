"""Runs of more than one system, and hosts that are no single dynamics: NEB, replicas, hopping."""

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from ase.optimize.basin import BasinHopping
from ase.optimize.minimahopping import MinimaHopping
from systems import copper, inside, level_at, md_reference, verlet

from quests_md import Monitor, Trigger, read_log, stop

NEVER, ALWAYS = 5.0, -50.0  # levels


def monitor_at(level, **options):
    return Monitor(md_reference(), level_at(md_reference(), level), **({"log": None} | options))


def band(n=4):
    """A path along which an atom leaves its place."""
    first, last = (copper(1, rattle=0.02, seed=seed) for seed in (0, 1))
    last.positions[0] += 0.3
    images = [first, *(first.copy() for _ in range(n - 2)), last]
    path = NEB(images, method="improvedtangent")
    path.interpolate()
    for image in images:
        image.calc = EMT()
    return path, images


def test_images_of_a_band_make_no_event_within_a_step(tmp_path, caplog):
    path, images = band()
    dyn = BFGS(path, logfile=None)
    with monitor_at(ALWAYS, trigger=Trigger(patience=3), log=tmp_path / "run.jsonl") as monitor:
        states = []
        dyn.attach(lambda: states.append([monitor.check(image, step=dyn.nsteps).state for image in images]), 1)
        dyn.run(fmax=1e-9, steps=1)
        assert [of_others for _, *of_others in states] == [["invalid"] * 3] * 2
        assert monitor.events == []
        assert monitor.n_checks == 2
    (note,) = [note for note in read_log(tmp_path / "run.jsonl").notes if note["level"] == "error"]
    assert "need a Monitor each, with a log of its own" in note["message"]
    assert caplog.text.count("need a Monitor each") == 1


def test_a_monitor_for_each_image_and_a_stop(tmp_path):
    path, images = band()
    dyn = BFGS(path, logfile=None)
    levels = [NEVER, ALWAYS, NEVER, NEVER]
    monitors = [
        monitor_at(level, log=tmp_path / f"{i}.jsonl", on_error="raise", actions=[stop])
        for i, level in enumerate(levels)
    ]

    def check_images():
        for monitor, image in zip(monitors, images, strict=True):
            monitor.check(image, step=dyn.nsteps)
        if any(monitor.stopped for monitor in monitors):
            dyn.max_steps = dyn.nsteps

    dyn.attach(check_images, 1)
    dyn.run(fmax=1e-9, steps=20)
    for monitor in monitors:
        monitor.close()
    assert dyn.nsteps == 2  # three checks out in a row
    assert [len(read_log(tmp_path / f"{i}.jsonl").events) for i in range(4)] == [0, 1, 0, 0]


@pytest.mark.parametrize("given", [True, False], ids=["step", "no step"])
def test_replicas_by_turns_are_refused(given):
    replicas = [copper(rattle=0.05, seed=seed, temperature_K=300, calc=EMT()) for seed in range(2)]
    runs = [verlet(atoms) for atoms in replicas]
    monitor = monitor_at(NEVER, on_error="raise")

    def sweep(step):
        for dyn, atoms in zip(runs, replicas, strict=True):
            dyn.run(1)
            monitor.check(atoms, step=step if given else None)

    def sweeps():
        for step in range(2):
            sweep(step)

    with pytest.raises(ValueError, match=r"atoms: expected those of one system.*a Monitor each"):
        sweeps()
    assert monitor.n_checks == (1 if given else 3)


def test_replicas_that_are_attached_are_refused_once_and_the_runs_go_on(caplog):
    replicas = [copper(rattle=0.05, seed=seed, temperature_K=300, calc=EMT()) for seed in range(2)]
    runs = [verlet(atoms) for atoms in replicas]
    monitor = monitor_at(NEVER)
    for dyn in runs:
        monitor.attach(dyn, 1)
    for _ in range(3):
        for dyn in runs:
            dyn.run(2)
    assert caplog.text.count("need a Monitor each") == 1
    assert [dyn.nsteps for dyn in runs] == [6, 6]


def test_what_is_one_system_is_checked():
    monitor = monitor_at(NEVER, on_error="raise")
    atoms = copper(rattle=0.05)
    for step in (0, 0, 1, 1):  # a line search, or a step that is tried again
        atoms.rattle(0.01, seed=monitor.n_checks)
        monitor.check(atoms, step=step)
    again = atoms.copy()  # from a checkpoint
    again.rattle(0.01)
    holds_itself = [atoms]
    holds_itself.append(holds_itself)  # as a dynamics that was dropped may
    del atoms, holds_itself
    monitor.check(again, step=1)
    frames = [inside(i) for i in range(4)]
    for _ in range(2):  # stored frames, twice
        for frame in frames:
            monitor.check(frame)
    for step, frame in enumerate(frames):
        monitor.check(frame, step=step)
    for _ in range(3):  # copies of the atoms that go on are looked at too
        frames.append(again.copy())
        frames[-1].rattle(0.02)
        monitor.check(again)
        monitor.check(frames[-1])
        again.rattle(0.01)
    assert monitor.n_checks == 4 + 1 + 8 + 4 + 6


@pytest.mark.parametrize("level", [NEVER, ALWAYS])
@pytest.mark.parametrize("search", ["basin", "minima"])
def test_searches_are_watched_by_their_optimizer_and_can_be_stopped(search, level, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    class Stopped(Exception):
        pass

    def watched(*args, **options):
        if monitor.stopped:
            raise Stopped
        optimizer = FIRE(*args, **options)
        monitor.attach(optimizer, interval=1)
        return optimizer

    atoms = copper(rattle=0.1, calc=EMT())
    monitor = monitor_at(level, on_error="raise", actions=[stop])

    def hop():
        if search == "basin":
            files = {"trajectory": None, "local_minima_trajectory": None, "logfile": None, "optimizer_logfile": None}
            BasinHopping(atoms, optimizer=watched, fmax=0.5, **files).run(3)
        else:
            rng = np.random.RandomState(0)
            MinimaHopping(atoms, optimizer=watched, fmax=0.5, T0=300.0, rng=rng)(totalsteps=3)

    if level == NEVER:
        hop()
        assert monitor.last_check.step >= 3  # counted on from relaxation to relaxation
        assert not monitor.events
    else:
        with pytest.raises(Stopped):
            hop()
        assert len(monitor.events) == 1
    assert capsys.readouterr().err.count("pre-flight") == 1


def test_a_host_that_counts_no_steps_is_named_once(caplog):
    files = {"trajectory": None, "local_minima_trajectory": None, "logfile": None, "optimizer_logfile": None}
    atoms = copper(1, rattle=0.5, calc=EMT())
    hopping = BasinHopping(atoms, fmax=1.0, **files)
    monitor = monitor_at(NEVER, on_error="raise")
    monitor.attach(hopping, interval=1)
    for _ in range(3):  # new lowest minima, in the way in which it shows them
        atoms.rattle(0.01, seed=monitor.n_checks)
        hopping.call_observers()
    assert [monitor.n_checks, monitor.last_check.step] == [3, 0]
    assert caplog.text.count("BasinHopping shows other atoms at the same step") == 1
