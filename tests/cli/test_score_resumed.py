"""A `score` that was killed goes on with its log, and ends as one that was never killed."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from processes import ROOT
from systems import outside, reordered

from quests_md import MismatchError, Monitor, Reference, calibrate, read_log, score_trajectory
from quests_md.records import CHECK_FIELDS


def crystal(seed):
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.06, seed=seed)
    return atoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trajectory with events, a frame that has exploded, and steps that begin again."""
    folder = tmp_path_factory.mktemp("resumed")
    reference = Reference.from_frames(reordered([crystal(i) for i in range(24)]), groups="frame")
    reference.save(folder / "train.safetensors")
    calibrate(reference, false_alarms=0.1, statistics=("dh_max",)).save(folder / "levels.json")
    frames = [crystal(100 + i) for i in range(60)]
    for i in (*range(8, 15), *range(30, 44), *range(55, 60)):
        frames[i].positions = outside(i).positions
    frames[20].positions[3, 1] = np.nan
    for i, frame in enumerate(frames):
        frame.info["step"] = 10 * (i % 40)
    write(folder / "run.extxyz", frames)
    return folder


def score(folder, name, *options):
    files = ("--log", f"{name}.jsonl", "--save", f"{name}.extxyz")
    known = ("-r", "train.safetensors", "-c", "levels.json")
    command = [sys.executable, "-m", "quests_md", "score", "run.extxyz", *known, *files, *options]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_same_run(folder, name, other):
    one, two = (read_log(folder / f"{name}.jsonl") for name in (name, other))
    assert len(one) == len(two) > 0
    for field in CHECK_FIELDS:
        if field != "elapsed_us":
            np.testing.assert_equal(getattr(one, field), getattr(two, field), field)
    assert one.events == two.events
    assert [e.onset_place for e in one.events] == [e.onset_place for e in two.events]
    assert (folder / f"{name}.extxyz").read_bytes() == (folder / f"{other}.extxyz").read_bytes()


def test_killed_and_resumed_it_writes_the_same_log_and_the_same_flagged_frames(folder):
    whole = score(folder, "whole")
    out, err = whole.communicate(timeout=200)
    assert whole.returncode == 0, err
    rows = out.splitlines()
    assert len(rows) == 61
    for stop in (5, 21, 36, 58):
        running = score(folder, "killed", *(("--resume",) if stop > 5 else ()))
        for _ in range(20_000):
            if (folder / "killed.jsonl").exists() and (folder / "killed.jsonl").read_bytes().count(b'"check"') >= stop:
                break
            time.sleep(0.001)
        running.kill()
        running.communicate()
    refused = score(folder, "killed")
    _, err = refused.communicate(timeout=200)
    assert refused.returncode == 2
    assert "score --resume" in err
    again = score(folder, "killed", "--resume")
    out, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert out.splitlines()[-1] == rows[-1]
    assert "killed.jsonl: 60 checks, last at step 190" in err
    assert_same_run(folder, "killed", "whole")
    n_checks = read_log(folder / "killed.jsonl").frame[-1]
    finished = score(folder, "killed", "--resume")
    out, err = finished.communicate(timeout=200)
    assert (finished.returncode, len(out.splitlines())) == (0, 2)
    assert "1 frame checked now" in err
    assert_same_run(folder, "killed", "whole")
    assert n_checks == 59


def test_a_monitor_that_goes_on_skips_what_its_log_has(folder, tmp_path):
    reference, log = folder / "train.safetensors", tmp_path / "run.jsonl"
    frames = [crystal(i) for i in range(12)]
    with Monitor(reference, log=log) as monitor:
        list(score_trajectory(frames[:7], monitor=monitor))
    for workers in (1, 3):
        with Monitor(reference, log=log, resume=True) as monitor:
            checks = list(score_trajectory(frames, monitor=monitor, workers=workers))
            assert [check.frame for check in checks] == list(range(6 if workers == 1 else 11, 12))
    assert read_log(log).step.tolist() == list(range(12))


def test_other_frames_than_those_of_the_log_are_refused(folder, tmp_path):
    reference, log = folder / "train.safetensors", tmp_path / "run.jsonl"
    frames = [crystal(i) for i in range(12)]
    with Monitor(reference, log=log) as monitor:
        list(score_trajectory(frames[:7], monitor=monitor))
    before = log.read_bytes()
    for others, said in (
        (frames[1:], "number 7, is of another frame"),
        (frames[:5], "7 checks, but there are 5 frames"),
    ):
        with Monitor(reference, log=log, resume=True) as monitor, pytest.raises(MismatchError, match=said):
            list(score_trajectory(others, monitor=monitor))
    assert log.read_bytes() == before
    done = score(folder, "none", "--resume", "--log", str(log))
    _, err = done.communicate(timeout=100)
    assert done.returncode == 2
    assert "give the frames of that run, or another log" in err
