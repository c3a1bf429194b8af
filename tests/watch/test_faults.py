"""What the world may do to a monitored run: full disks, lost logs, forks, threads, clocks, interrupts."""

import contextlib
import copy
import errno
import functools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import systems
from ase.calculators.emt import EMT
from systems import H, copper, level_at, outside, verlet

import quests_md.watch.settings
from quests_md import LogExistsError, Monitor, Reference, Trigger, read_log, save_frame
from quests_md.judge import Judge
from quests_md.log import LogWriter
from quests_md.watch import RunSettings

SAID = "the run is watched on, lines of the log are lost, said once"


@functools.cache
def reference():
    return Reference.from_frames([copper(seed=i, rattle=0.02) for i in range(4)], bandwidth=H, groups="frame")


@functools.cache
def frames():
    """Frames of a run that leaves the reference now and then."""
    return [outside(i) if i % 10 in (3, 4, 5, 6) else copper(seed=100 + i, rattle=0.02) for i in range(60)]


def monitor_of(log, **options):
    given = {"trigger": Trigger(patience=2), "threads": 1, "on_error": "log"} | options
    return Monitor(reference(), level_at(reference(), 2.0), log=log, **given)


def check_all(monitor, steps):
    return [monitor.check(frames()[step], step=step) for step in steps]


@functools.cache
def expected():
    """Events of the whole run."""
    with monitor_of(None) as monitor:
        checks = check_all(monitor, range(60))
        return [check.state for check in checks], [event.to_line() for event in monitor.events]


def assert_whole(path):
    log = read_log(path)
    states, events = expected()
    assert log.frame.tolist() == list(range(60))
    assert log.step.tolist() == list(range(60))
    assert log.state.tolist() == states
    np.testing.assert_equal([event.to_line() for event in log.events], events)


# the disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB, and a function that takes all that is free until it is called again."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")
    ballast = disk / "ballast"

    def fill():
        if ballast.exists():
            ballast.unlink()
            return
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))

    yield disk, fill
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_on_a_full_disk_the_run_goes_on_and_says_so_once(small_disk, caplog):
    disk, fill = small_disk
    with monitor_of(disk / "run.jsonl") as monitor:
        check_all(monitor, range(5))
        fill()
        checks = check_all(monitor, range(5, 28))
        assert [check.state for check in checks] == expected()[0][5:28]
        fill()
        check_all(monitor, range(28, 60))
        ours = [event.to_line() for event in monitor.events]
    np.testing.assert_equal(ours, expected()[1])
    assert [record.getMessage().count("No space left on device") for record in caplog.records] == [1]
    assert SAID in caplog.text
    log = read_log(disk / "run.jsonl")
    (note,) = [note for note in log.notes if note["level"] == "error"]
    assert "lines before this one could not be written" in note["message"]
    n_lost = 60 - len(log)
    assert 15 < n_lost <= 23
    assert int(note["message"].split()[0]) >= n_lost
    # of the lost lines those of events are made up for
    np.testing.assert_equal([event.to_line() for event in log.events], expected()[1])


@pytest.mark.parametrize("died", [40, 60])
@pytest.mark.parametrize("begin", [2, 4, 30, 39])
def test_after_a_full_disk_a_run_can_be_taken_up_before_and_behind_the_gap(small_disk, tmp_path, begin, died):
    disk, fill = small_disk
    actions = [save_frame(disk / "flagged.extxyz")]
    with monitor_of(disk / "run.jsonl", actions=actions) as monitor:
        check_all(monitor, range(5))
        fill()
        check_all(monitor, range(5, 28))
        fill()
        check_all(monitor, range(28, died))
        left = shutil.copy(disk / "run.jsonl", disk / "left.jsonl")
    with monitor_of(left, actions=actions, on_error="raise", resume=True) as monitor:
        check_all(monitor, range(begin, 60))
    if begin < 5:
        assert_whole(left)
        with monitor_of(None, actions=[save_frame(tmp_path / "all.extxyz")]) as monitor:
            check_all(monitor, range(60))
        assert (disk / "flagged.extxyz").read_bytes() == (tmp_path / "all.extxyz").read_bytes()
    else:
        log = read_log(left)
        np.testing.assert_equal([event.to_line() for event in log.events], expected()[1])
        assert log.frame[-1] == 59


def test_frames_flagged_while_the_log_could_not_be_written_are_kept(tmp_path, monkeypatch):
    path, actions = tmp_path / "run.jsonl", [save_frame(tmp_path / "flagged.extxyz")]

    def full(writer, *lines):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monitor_of(path, actions=actions) as monitor:
        check_all(monitor, range(5))
        with monkeypatch.context() as patch:  # another disk than that of the frames
            patch.setattr(LogWriter, "write", full)
            check_all(monitor, range(5, 28))
        check_all(monitor, range(28, 40))
        left = shutil.copy(path, tmp_path / "left.jsonl")
    with monitor_of(left, actions=actions, on_error="raise", resume=True) as monitor:
        check_all(monitor, range(30, 60))
    with monitor_of(None, actions=[save_frame(tmp_path / "all.extxyz")]) as monitor:
        check_all(monitor, range(60))
    assert (tmp_path / "flagged.extxyz").read_bytes() == (tmp_path / "all.extxyz").read_bytes()


def test_a_disk_that_is_full_when_a_run_is_taken_up(small_disk):
    disk, fill = small_disk
    with monitor_of(disk / "run.jsonl") as monitor:
        check_all(monitor, range(30))
    with monitor_of(disk / "run.jsonl", resume=True) as monitor:
        fill()
        check_all(monitor, range(20, 40))
        fill()
        check_all(monitor, range(40, 60))
    log = read_log(disk / "run.jsonl")  # what was said of the place came first
    assert [(line["step"], line["frame"]) for line in log.rewinds] == [(20, 20)]
    assert len(np.unique(log.frame)) == len(log)
    np.testing.assert_equal([event.to_line() for event in log.events], expected()[1])


# the log


def tamper(path, what):
    """Do something to a log; returns what is left of it."""
    if what == "deleted":
        path.unlink()
    elif what == "cut short":
        os.truncate(path, 500)
    elif what == "replaced":
        path.with_name("new").write_text("mine\n")
        path.with_name("new").replace(path)
    elif what == "overwritten":
        path.write_bytes(bytes(path.stat().st_size))
    else:
        with path.open("a") as file:
            file.write("mine\n")
    return path.read_bytes() if path.exists() else None


TAMPERINGS = pytest.mark.parametrize("what", ["deleted", "cut short", "replaced", "overwritten", "written by another"])


@TAMPERINGS
def test_a_log_that_was_tampered_with_is_left_alone(tmp_path, caplog, what):
    path = tmp_path / "run.jsonl"
    with monitor_of(path) as monitor:
        check_all(monitor, range(8))
        left = tamper(path, what)
        checks = check_all(monitor, range(8, 60))
        assert [check.state for check in checks] == expected()[0][8:]
        np.testing.assert_equal([event.to_line() for event in monitor.events], expected()[1])
    assert (path.read_bytes() if path.exists() else None) == left
    assert len(caplog.records) == 1
    assert SAID in caplog.text


@TAMPERINGS
@pytest.mark.parametrize("on_error", ["log", "raise"])
def test_a_log_that_is_lost_just_before_the_end_is_said(tmp_path, caplog, what, on_error):
    path = tmp_path / "run.jsonl"
    monitor = monitor_of(path, on_error=on_error)
    check_all(monitor, range(5))
    left = tamper(path, what)
    is_raised = pytest.raises(OSError, match=r"while being written|another process")
    with is_raised if on_error == "raise" else contextlib.nullcontext():
        monitor.close()
    monitor.close()
    assert (path.read_bytes() if path.exists() else None) == left
    assert [SAID in record.getMessage() for record in caplog.records] == [True] * (on_error == "log")


def test_a_log_that_was_cut_short_is_read_and_taken_up_again(tmp_path, caplog):
    path = tmp_path / "run.jsonl"
    with monitor_of(path) as monitor:
        check_all(monitor, range(30))
        os.truncate(path, path.stat().st_size // 2)
        check_all(monitor, range(30, 60))
    assert SAID in caplog.text
    kept = len(read_log(path))
    assert 5 < kept < 30
    with monitor_of(path, on_error="raise", resume=True) as monitor:
        check_all(monitor, range(kept, 60))
    assert_whole(path)


def test_without_permission_the_run_does_not_start(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="log: cannot be written"):
        monitor_of(tmp_path / "run.jsonl")


@pytest.mark.slow
def test_a_second_process_is_refused_while_the_first_lives(tmp_path):
    path = tmp_path / "run.jsonl"
    script = (
        "import sys, time\nsys.path[:0] = sys.argv[2].split(':')\nimport test_faults as t\n"
        "m = t.monitor_of(sys.argv[1])\nt.check_all(m, range(12))\nprint('ready', flush=True)\ntime.sleep(100)"
    )
    here = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(systems.__file__)])  # noqa: PTH120
    first = subprocess.Popen([sys.executable, "-c", script, str(path), here], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "ready\n"
        assert read_log(path).frame.tolist() == list(range(12)), "lines are not handed over at once"
        for resume in (False, True):
            with pytest.raises(LogExistsError, match=rf"\(process {first.pid} on {os.uname().nodename}, since 20"):
                monitor_of(path, resume=resume)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
        first.stdout.close()
    with pytest.raises(LogExistsError, match="already holds a run of 12 checks"):
        monitor_of(path)
    with monitor_of(path, resume=True, on_error="raise") as monitor:
        check_all(monitor, range(7, 60))
    assert_whole(path)


@pytest.mark.slow
def test_monitors_of_one_process_do_not_mix(tmp_path):
    paths = [tmp_path / f"{i}.jsonl" for i in range(3)]
    with contextlib.ExitStack() as stack:
        monitors = [stack.enter_context(monitor_of(path)) for path in paths]
        for step in range(60):
            for monitor in monitors:
                monitor.check(frames()[step], step=step)
        with pytest.raises(LogExistsError, match=f"process {os.getpid()} on"):
            monitor_of(paths[1], resume=True)
    for path in paths:
        assert_whole(path)


# processes and threads


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_neither_writes_nor_closes_the_log(tmp_path):
    path = tmp_path / "run.jsonl"
    with monitor_of(path) as monitor:
        check_all(monitor, range(10))
        before = path.read_bytes()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
                state = monitor.check(frames()[10], step=10).state
                monitor.close()
                code = 0 if state == expected()[0][10] else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert path.read_bytes() == before
        with pytest.raises(LogExistsError):
            monitor_of(path, resume=True)
        check_all(monitor, range(10, 60))
    assert_whole(path)


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_monitor_cannot_be_sent_to_another_process(tmp_path, duplicate):
    with monitor_of(tmp_path / "run.jsonl") as monitor:
        check_all(monitor, range(3))
        with pytest.raises(TypeError, match=r"a Monitor cannot be pickled or copied.*a log of its own"):
            duplicate(monitor)
        with pytest.raises(TypeError, match="a Monitor cannot be pickled or copied"):
            pickle.dumps(monitor.check)


@pytest.mark.slow
def test_threads_that_check_together_lose_and_double_nothing(tmp_path):
    path = tmp_path / "run.jsonl"
    found, failures = [], []
    with monitor_of(path, on_error="raise") as monitor:
        barrier = threading.Barrier(4)

        def work(first):
            try:
                barrier.wait()
                for i in range(first, 200, 4):
                    atoms = frames()[i % 60]
                    check = monitor.check(atoms)
                    found.append((check.frame, check.step, check.digest, i % 60))
            except Exception as exc:
                failures.append(exc)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    log = read_log(path)
    assert log.frame.tolist() == log.step.tolist() == list(range(200))
    digests = dict(zip(log.frame.tolist(), log.digest.tolist(), strict=True))
    assert {frame: digest for frame, _, digest, _ in found} == digests  # each got its own check
    assert all(frame == step for frame, step, _, _ in found)
    of_frames = {i: quests_md.environments.frame_digest(atoms) for i, atoms in enumerate(frames())}
    assert all(digest == of_frames[i] for _, _, digest, i in found)


# time and interrupts


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    now = time.time()
    clock = iter(now - 86400.0 * i for i in range(10**6))

    class Backwards(quests_md.watch.settings.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(next(clock), tz)

    monkeypatch.setattr(time, "time", lambda: next(clock))
    monkeypatch.setattr(quests_md.watch.settings, "datetime", Backwards)
    for begin, end in ((0, 30), (25, 45), (12, 60)):
        with monitor_of(path, resume=True, on_error="raise") as monitor:
            check_all(monitor, range(begin, end))
    assert 0 <= monitor.overhead.share <= 1
    assert_whole(path)


def test_an_interrupt_ends_the_run_with_a_whole_log(tmp_path):
    path = tmp_path / "run.jsonl"
    dyn = verlet(copper(temperature_K=3000, calc=EMT()))
    killer = threading.Timer(0.0, lambda: os.kill(os.getpid(), signal.SIGINT))

    def interrupt():
        if dyn.nsteps == 12:
            killer.start()

    def run():
        with monitor_of(path) as monitor:
            monitor.attach(dyn, 1)
            dyn.attach(interrupt)
            dyn.run(100_000)

    with pytest.raises(KeyboardInterrupt):
        run()
    killer.join()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[-1]["type"] == "note"
    assert lines[-1]["message"].startswith("closed after")
    log = read_log(path)
    assert log.frame.tolist() == list(range(len(log)))
    assert len(log) > 12
    (event,) = log.events
    assert event.is_open
    with monitor_of(path, resume=True):
        pass  # nobody holds it


@pytest.mark.parametrize("inside", ["follow", "write"])
@pytest.mark.parametrize("step", [14, 15, 17, 21])
def test_a_check_that_an_interrupt_tore_is_made_up_for(tmp_path, monkeypatch, inside, step):
    """In a notebook one interrupts a run and goes on with it."""
    path = tmp_path / "run.jsonl"
    with monitor_of(path) as monitor:
        check_all(monitor, range(step))
        torn = monitor.watch.run.follower if inside == "follow" else monitor.watch.log
        whole = getattr(torn, inside)

        def interrupted(*args):
            if inside == "follow":
                whole(*args)
            raise KeyboardInterrupt

        monkeypatch.setattr(torn, inside, interrupted)
        with pytest.raises(KeyboardInterrupt):
            monitor.check(frames()[step], step=step)
        monkeypatch.undo()
        check_all(monitor, range(step + 1, 40))
        left = shutil.copy(path, tmp_path / "left.jsonl")
        check_all(monitor, range(40, 60))
        events = [event.to_line() for event in monitor.events]
    with monitor_of(left, resume=True, on_error="raise") as again:
        check_all(again, range(36, 60))
        np.testing.assert_equal([event.to_line() for event in again.events], events)


def test_a_monitor_that_cannot_even_begin_leaves_no_half_log(tmp_path, monkeypatch, caplog):
    path = tmp_path / "run.jsonl"

    def broken(*args, **options):
        raise OSError(errno.EIO, "a fault")

    with monkeypatch.context() as patch, monitor_of(path) as monitor:
        patch.setattr(RunSettings, "header", broken)
        assert monitor.check(frames()[0], step=0).state == "invalid"
        assert path.read_bytes() == b""
        patch.undo()
        check_all(monitor, range(60))
    assert_whole(path)
    assert "a fault" in caplog.text


def test_a_first_check_that_fails_after_a_resume_is_not_an_old_one(tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    with monitor_of(path) as monitor:
        check_all(monitor, range(20))
    with monitor_of(path, resume=True) as monitor:
        with monkeypatch.context() as patch:
            patch.setattr(Judge, "judge", lambda *args, **options: 1 / 0)
            check = monitor.check(frames()[10], step=10)
        assert (check.state, check.step, check.digest) == ("invalid", 10, "")
        check_all(monitor, range(10, 60))
    assert_whole(path)


def test_a_handler_of_a_signal_that_checks_in_the_middle_of_a_check(tmp_path, caplog):
    """It runs in the thread that waits for the check, and so passes every lock of this thread."""

    class Signalling:
        fingerprint = "signalling"
        asks = False

        def __call__(self, atoms):
            if self.asks:
                type(self).asks = False
                for _ in range(600):  # a signal right before a thread begins to wait is heard after the wait
                    os.kill(os.getpid(), signal.SIGUSR1)
                    if has_run.wait(0.1):
                        break
            return np.full((len(atoms), 2), 1.0)

    descriptor, has_run, found = Signalling(), threading.Event(), []
    reference = quests_md.Reference.from_frames([copper()] * 3, descriptor=descriptor, bandwidth=0.1)
    levels = level_at(reference, 0.0)

    def handle(signum, frame):
        try:
            found.append(monitor.check(copper(), step=7))
            with pytest.raises(RuntimeError, match="update: a check is being made"):
                monitor.update(reference, levels)
        finally:
            has_run.set()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with Monitor(reference, levels, log=tmp_path / "run.jsonl", verbose=False) as monitor:
            for step in range(3):
                Signalling.asks = step == 1
                has_run.clear()
                assert monitor.check(copper(), step=step).step == step
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert {check.state for check in found} == {"invalid"}
    assert "a check was asked for in the middle of another one; it was not made" in caplog.text
    log = read_log(tmp_path / "run.jsonl")
    assert (log.step.tolist(), log.frame.tolist()) == ([0, 1, 2], [0, 1, 2])
