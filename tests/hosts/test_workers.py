"""Processes that read files and judge their frames give what one process gives, and leave nothing behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.io import write
from deadly import Deadly
from processes import ROOT
from scored import frames_of_run, known, levels, log_lines, scored, write_run
from systems import level_at, md_frames

from quests_md import (
    Descriptor,
    FileFormatError,
    Minimised,
    Monitor,
    Reference,
    TimeAveraged,
    read_log,
    score_trajectory,
)
from quests_md.cli.app import app
from quests_md.records import CHECK_FIELDS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder


def workers():
    """Processes of this one that judge."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "popen_loky" in line]


def test_files_of_all_kinds_and_a_worker_that_is_killed(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    files = ["run.xyz", "run.dump", "run.traj", "long.xyz.gz", "part*.xyz", "run.xyz@50:2:-3", "run.traj@-9::2"]
    files.append("torn.xyz")
    pids = []

    def kill(event, frame):
        """At the first event, of the first file, all workers are at work."""
        if not pids and workers():
            pids.extend(workers())
            os.kill(pids[0], signal.SIGKILL)

    options = {"types": ["Cu"], "threads": 1, "actions": [kill]}
    checks, one, told_by_one = scored(files, tmp_path / "one.jsonl", **options)
    n_frames = [60, 60, 60, 120, 60, 16, 5, 59]
    assert len(checks) == sum(n_frames)
    _, two, told = scored(files, tmp_path / "two.jsonl", workers=2, **options)
    assert len(pids) == 2
    deaths = [text for text in told if text.startswith("a worker has died (SIGKILL")]
    assert len(deaths) == 1
    assert [text for text in told if text not in deaths] == told_by_one
    assert sum("31 atoms after 32" in text for text in told) == 1
    assert sum("the complete frames before it are used" in text for text in told) == 1
    assert two == one
    assert len(read_log(tmp_path / "two.jsonl").events) > 3
    assert workers() == []


def test_leaving_early_ends_the_workers(folder):
    checks = score_trajectory(folder / "run.xyz", known(), levels(), workers=2)
    next(checks)
    assert len(workers()) == 2
    checks.close()
    assert workers() == []


def test_a_part_that_kills_its_workers_is_named(tmp_path):
    frames = frames_of_run(40)
    frames[25].set_initial_charges([2] + [0] * 31)
    write(tmp_path / "run.xyz", frames, format="extxyz")
    reference = Reference.from_frames(list(md_frames()[:20]), descriptor=Deadly(tmp_path / "once"), bandwidth=0.05)
    checks, named = [], r"run\.xyz, frames \d+ to .*: 3 workers died of it, one after the other \(SIGKILL"
    with pytest.warns(UserWarning, match="a worker has died"), pytest.raises(ChildProcessError, match=named):  # noqa: PT012, PT031
        for check in score_trajectory(tmp_path / "run.xyz", reference, level_at(reference, -3.0), workers=2):
            checks.append(check)
    assert 0 < len(checks) <= 25
    assert workers() == []


def test_what_cannot_be_sent_is_judged_by_threads(folder):
    class Bound(Descriptor):
        def __reduce__(self):
            raise TypeError("it holds a library")

    reference = Reference.from_frames(list(md_frames()[:20]), descriptor=Bound(), bandwidth=0.05)
    with pytest.warns(
        UserWarning, match=r"workers: threads judge .* processes cannot be sent Bound: TypeError: it holds"
    ):
        checks = list(score_trajectory(folder / "part0.xyz", reference, level_at(reference, -3.0), workers=2))
    assert len(checks) == 5


def test_frames_that_are_averages_over_time_or_minimised_and_a_budget(tmp_path):
    averaged = TimeAveraged(samples=3, spacing_ps=0.05)
    frames = frames_of_run(90, strange=range(60, 66))
    write(tmp_path / "raw.xyz", frames, format="extxyz")
    write(tmp_path / "averaged.xyz", list(averaged.frames(tmp_path / "raw.xyz")), format="extxyz")
    known_averages = list(averaged.frames([atoms.copy() for atoms in frames[:60]]))
    for file, descriptor, seen in (
        ("averaged.xyz", averaged, known_averages),
        ("raw.xyz@:20", Minimised(EMT, "EMT", steps=2), frames[:6]),
    ):
        reference = Reference.from_frames(seen, descriptor=descriptor, bandwidth=0.05)
        logs = []
        for n in (1, 2):
            log = tmp_path / f"{file}-{n}.jsonl"
            options = {"log": log, "on_error": "log", "verbose": False, "threads": 1, "budget": 0.01}
            given = reference, level_at(reference, -3.0)
            with warnings.catch_warnings(action="ignore"), Monitor(*given, **options) as monitor:
                list(score_trajectory(f"{tmp_path}/{file}", monitor=monitor, workers=n))
            logs.append(log_lines(log))
        assert logs[0] == logs[1]
        assert len(logs[0]) > 20


def test_a_script_needs_no_guard(folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from quests_md import score_trajectory\n"
        "print('once')\n"
        f"known = {str(folder / 'reference.safetensors')!r}, {str(folder / 'levels.json')!r}\n"
        f"print(len(list(score_trajectory({str(folder / 'run.xyz')!r}, *known, workers=2))))\n",
        encoding="utf-8",
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n60\n", "")


def test_a_command_that_is_interrupted_and_killed_leaves_nothing_and_goes_on(folder, tmp_path, monkeypatch):
    files = ["long.xyz.gz", "long.xyz.gz@1:", "run.xyz"]
    options = ["-r", "reference.safetensors", "-c", "levels.json", "--patience", "2"]
    command = [sys.executable, "-m", "quests_md", "score", *files, *options, "--workers", "2", "--resume"]
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    n_checks = 0
    for kill, number in ((os.killpg, signal.SIGINT), (os.kill, signal.SIGKILL), (os.killpg, signal.SIGKILL)):
        written = ["--log", tmp_path / "two.jsonl", "--save", tmp_path / "two.xyz"]
        written += ["--annotate", tmp_path / "two-all.xyz"]
        running = subprocess.Popen([*command, *written], cwd=folder, env=environment, start_new_session=True, **pipes)
        for _ in range(30):
            running.stdout.readline()
        kill(running.pid, number)  # a terminal interrupts all processes of the group
        _, err = running.communicate(timeout=60)
        assert running.returncode == (130 if number == signal.SIGINT else -number), err
        assert "Traceback" not in err
        for _ in range(100):
            found = subprocess.run(["pgrep", "-g", str(running.pid)], capture_output=True, text=True, check=False)
            if not found.stdout:
                break
            time.sleep(0.1)
        assert found.stdout == ""
        assert list((tmp_path / "temporary").iterdir()) == []
        assert n_checks < (n_checks := len(log_lines(tmp_path / "two.jsonl"))) < 250
    monkeypatch.chdir(folder)
    for name, further in (("one", []), ("two", ["--resume", "--workers", "2"])):
        written = ["--log", str(tmp_path / f"{name}.jsonl"), "--save", str(tmp_path / f"{name}.xyz")]
        written += ["--annotate", str(tmp_path / f"{name}-all.xyz")]
        with warnings.catch_warnings(action="ignore"), pytest.raises(SystemExit) as end:  # steps go back
            app(["score", *files, *options, *written, *further])
        assert end.value.code == 0
    one, two = (read_log(tmp_path / f"{name}.jsonl") for name in ("one", "two"))
    assert len(one) == len(two) == 120 + 119 + 60
    for field in set(CHECK_FIELDS) - {"elapsed_us"}:
        np.testing.assert_equal(getattr(one, field), getattr(two, field), field)
    assert one.events == two.events
    for of in ("", "-all"):
        assert (tmp_path / f"one{of}.xyz").read_bytes() == (tmp_path / f"two{of}.xyz").read_bytes()


def test_a_worker_that_is_killed_while_it_sends_a_long_answer(tmp_path):
    frames = [atoms.repeat((3, 3, 2)) for atoms in frames_of_run(40)]
    write(tmp_path / "run.xyz", frames, format="extxyz")
    checks = score_trajectory(tmp_path / "run.xyz", known(), levels(), workers=2)
    found = [next(checks)]
    pids = workers()
    kill = f"sleep 1.5; for p in {pids[0]} {pids[1]}; do grep -q pipe_write /proc/$p/wchan && kill -9 $p && exit; done"
    with subprocess.Popen(["sh", "-c", f"{kill}; kill -9 {pids[0]}"]):
        ctypes.PyDLL(None).usleep(2_000_000)  # no thread of this process takes what workers send
    with pytest.warns(UserWarning, match=r"a worker has died \(SIGKILL"):
        found += checks
    assert [check.frame for check in found] == list(range(40))


def test_small_files_of_which_one_kills_a_worker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = [atoms.copy() for atoms in frames_of_run(50) * 2]
    for atoms in frames:
        atoms.info.clear()
    frames[80].set_initial_charges([1] + [0] * 31)
    for i, atoms in enumerate(frames):
        write(f"f{i}.xyz", atoms, format="extxyz")
    (tmp_path / "f90.xyz").write_text("no frames\n", encoding="utf-8")
    (tmp_path / "once").touch()
    reference = Reference.from_frames(list(md_frames()[:20]), descriptor=Deadly(tmp_path / "once"), bandwidth=0.05)
    checks = score_trajectory("f*.xyz", reference, level_at(reference, -3.0), workers=2)
    places = []
    warned = pytest.warns(UserWarning, match="worker has died|; the files after")
    with warned, pytest.raises(FileFormatError, match=r"^f90\.xyz: frame 0"):
        places.extend(check.place.source for check in checks)
    assert not (tmp_path / "once").exists()
    assert places == [f"f{i}.xyz" for i in range(100) if i != 90]
