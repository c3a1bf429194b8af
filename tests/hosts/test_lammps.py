"""LAMMPS through ASE's LAMMPSlib: found, silent, and not disturbed by a monitor."""

import ctypes
import os
import re
import subprocess
import sys
import textwrap
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lammpslib import LAMMPSlib
from systems import STEPS, cold_reference, course, level_at

import quests_md
from quests_md import Monitor, Trigger, read_log, save_frame
from quests_md.hosts import lammps_ase as module
from quests_md.hosts.lammps_ase import lammps_calculator, load_library, potential

pytestmark = pytest.mark.slow
needs_lammps = pytest.mark.skipif(find_spec("lammps") is None, reason="LAMMPS is not installed")

ROOT = Path(quests_md.__file__).parent.parent


def eam():
    return lammps_calculator(["pair_style eam", f'pair_coeff 1 1 "{potential("Cu_u3.eam")}"'], ["Cu"])


def course_of_lammps(name, attach=None):
    with eam() as calc:
        calc.calls, calculate = 0, calc.calculate

        def counted(*args):
            calc.calls += 1
            return calculate(*args)

        calc.calculate = counted
        return course(name, calc, attach=attach)


@needs_lammps
@pytest.mark.parametrize("name", ["verlet", "langevin", "berendsen", "fire"])
def test_a_monitored_run_equals_the_unmonitored_one_bit_for_bit(name, tmp_path):
    free = course_of_lammps(name)
    seen = free[0]
    assert len(seen) == STEPS + 1
    assert {"energy", "energies", "forces", "stress"} <= seen[0]["results"].keys()
    assert len({step["positions"] for step in seen}) == STEPS + 1
    for interval in (1, 5):
        monitor = Monitor(
            cold_reference(),
            level_at(cold_reference(), -5.0),  # below any dH: every frame is out
            trigger=Trigger(patience=1),
            log=tmp_path / f"{interval}.jsonl",
            actions=[save_frame(tmp_path / f"{interval}.extxyz")],
            on_error="raise",
        )
        with monitor:
            assert course_of_lammps(name, lambda dyn: monitor.attach(dyn, interval)) == free  # noqa: B023  # called at once
        assert monitor.n_checks == STEPS // interval + 1
        assert monitor.events
    assert read_log(tmp_path / "1.jsonl").step.tolist() == list(range(STEPS + 1))


@needs_lammps
def test_forces_are_the_slope_of_the_energy():
    """Also in a tilted cell, which LAMMPSlib rotates."""
    atoms = bulk("Cu", cubic=False) * 3
    atoms.rattle(0.1, seed=1)
    with eam() as calc:
        atoms.calc = calc
        force = atoms.get_forces()[5]
        for axis in range(3):
            energies = []
            for step in (1e-4, -1e-4):
                moved = atoms.copy()
                moved.calc = calc
                moved.positions[5, axis] += step
                energies.append(moved.get_potential_energy())
            assert (energies[1] - energies[0]) / 2e-4 == pytest.approx(force[axis], abs=1e-5)


@needs_lammps
def test_types_are_the_order_of_the_potential():
    path = potential("CuZr_mm.eam.fs")
    atoms = bulk("Cu", "fcc", a=3.9, cubic=True) * 2
    atoms.rattle(0.05, seed=1)
    atoms.symbols[::3] = "Zr"
    found = {}
    for order in (("Cu", "Zr"), ("Zr", "Cu")):
        with lammps_calculator(["pair_style eam/fs", f'pair_coeff * * "{path}" {" ".join(order)}'], order) as calc:
            atoms.calc = calc
            found[order] = atoms.get_potential_energy(), atoms.get_forces()
    (energy, forces), (swapped, others) = found.values()
    assert energy == pytest.approx(swapped, rel=1e-12)
    np.testing.assert_allclose(forces, others, atol=1e-10)
    with lammps_calculator(["pair_style eam/fs", f'pair_coeff * * "{path}" Zr Cu'], ("Cu", "Zr")) as calc:
        atoms.calc = calc
        assert abs(atoms.get_potential_energy() - energy) > 1


FRESH = """
    import os, signal, sys, threading
    from ase.build import bulk
    from quests_md.lammps import lammps_calculator, load_library, potential

    def state():
        return dict(os.environ), [signal.getsignal(s) for s in range(1, 32)], threading.active_count(), list(sys.path)

    before = state()
    load_library()
    load_library()
    commands = ["pair_style eam", f'pair_coeff 1 1 "{potential("Cu_u3.eam")}"']
    calc = lammps_calculator(commands, ("Cu",), **OPTIONS)
    assert state() == before
    assert "lammps" not in sys.modules
    atoms = bulk("Cu", cubic=True)
    atoms.calc = calc
    assert -14.2 < atoms.get_potential_energy() < -14.1
"""


def fresh(code, folder):
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@needs_lammps
@pytest.mark.parametrize(("options", "files"), [("{}", []), ("{'log_file': 'log.txt'}", ["log.txt"])])
def test_a_fresh_process_finds_lammps_and_nothing_appears_on_the_screen(options, files, tmp_path):
    done = fresh(FRESH.replace("OPTIONS", options), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [file.name for file in tmp_path.iterdir()] == files
    if files:
        assert "pair_style eam" in (tmp_path / files[0]).read_text()


@needs_lammps
def test_lammps_of_the_users_own_loads_after_load_library(tmp_path):
    code = """
        from quests_md.lammps import load_library
        load_library()
        from lammps import lammps
        print(lammps(cmdargs=["-screen", "none", "-log", "none"]).version())
    """
    assert int(fresh(code, tmp_path).stdout) >= 20250722


@needs_lammps
def test_an_error_of_lammps_is_an_exception_that_says_what_it_is():
    atoms = bulk("Cu")
    # with pair_style eam LAMMPS says so too, but crashes when it is closed
    with lammps_calculator(["pair_style eam/alloy", "pair_coeff * * nowhere.eam Cu"], ["Cu"]) as calc:
        atoms.calc = calc
        with pytest.raises(Exception, match=r"cannot open .* nowhere\.eam"):
            atoms.get_potential_energy()


@needs_lammps
def test_options_reach_lammpslib():
    calc = lammps_calculator(["pair_style lj/cut 5", "pair_coeff * * 0.01 3.4"], ("Ar",), amendments=["mass 1 40"])
    assert type(calc) is LAMMPSlib
    assert calc.parameters.amendments == ["mass 1 40"]
    assert calc.parameters.atom_types == {"Ar": 1}
    assert calc.parameters.log_file is None


@pytest.mark.parametrize(
    ("commands", "types", "message"),
    [
        ("pair_style eam\npair_coeff * * a", ["Cu"], "`lmpcmds`: expected a list of LAMMPS commands, got the text"),
        (["pair_style eam"], "Cu", "`types`: expected a chemical symbol for each LAMMPS type, .* got 'Cu'"),
        (["pair_style eam"], ["Cu", "Qq"], "`types`: .* got 'Qq'"),
        (["pair_style eam"], ["Cu", "Cu"], r"`types`: expected each chemical symbol once, got \('Cu', 'Cu'\)"),
    ],
)
def test_wrong_arguments(commands, types, message):
    with pytest.raises(ValueError, match=message):
        lammps_calculator(commands, types)


def test_lammps_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    for call in (
        load_library,
        eam,
        lambda: potential("Cu_u3.eam"),
        lambda: lammps_calculator(["pair_style eam"], ["Cu"]),
    ):
        with pytest.raises(ImportError, match=re.escape('pip install "quests_md[lammps]"')):
            call()
    monkeypatch.undo()
    # a folder of this name beside the script is not LAMMPS
    (tmp_path / "lammps").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "lammps", raising=False)
    assert find_spec("lammps") is not None
    with pytest.raises(ImportError, match="not installed"):
        load_library()


@needs_lammps
def test_mpi_that_is_not_installed(monkeypatch):
    def missing(*args):
        raise OSError("libmpi.so.12: cannot open shared object file")

    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setattr(metadata, "files", unknown)
    with pytest.raises(ImportError, match=r"libmpi\.so\.12") as info:
        load_library()
    assert 'pip install "quests_md[lammps]"' in str(info.value)
    monkeypatch.setattr(metadata, "files", lambda name: None)
    with pytest.raises(ImportError, match="MPI"):
        load_library()


@needs_lammps
def test_potentials_of_the_wheel():
    assert "UNITS: metal" in potential("Cu_u3.eam").read_text()
    with pytest.raises(FileNotFoundError, match=r"'Cu_u4\.eam' .* Cu_u3\.eam"):
        potential("Cu_u4.eam")
    with pytest.raises(FileNotFoundError, match="potentials"):
        potential("zzzz")


@needs_lammps
def test_the_example(tmp_path):
    done = fresh(f"import runpy; runpy.run_path({str(ROOT / 'examples' / 'watch_lammps.py')!r})", tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"66 checks took \d+\.\d% of the run", done.stdout)
    left = re.search(r"(\d+)% of the atoms have left their sites", done.stdout)
    assert int(left[1]) > 60
    log = read_log(tmp_path / "watch.jsonl")
    # inside while the crystal is no hotter than those of the reference, and out for good once it has melted
    assert set(log.state[:15].tolist()) == {"in"}
    assert set(log.state[-20:].tolist()) == {"out"}
    assert log.events[-1].is_open
    assert 900 < log.events[0].onset_temperature_K < 2000
    assert (tmp_path / "watch.extxyz").stat().st_size > 0
