"""The log as a durable file: taken up again, one writer at a time, whole under faults, harmless when it lies."""

import copy
import errno
import fcntl
import json
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quests_md
from quests_md import read_log
from quests_md.errors import FileFormatError, LogExistsError
from quests_md.log import history as loglines
from quests_md.log import locked_file as appender
from quests_md.log.history import LogHistory
from quests_md.log.logfile import LogWriter, require_new_log
from quests_md.log.typed import require_types
from quests_md.records import Check, Event

HEADER = {
    "type": "header",
    "schema": 1,
    "started": "2026-01-02T03:04:05+00:00",
    "host": "node7",
    "pid": 4321,
    "reference": {"fingerprint": "abc123"},
}


def check_line(frame, **values):
    check = Check(
        step=10 * frame,
        frame=frame,
        time_ps=0.01 * frame,
        n_atoms=64,
        dh_max=1.5,
        dh_mean=-3.25,
        dh_q99=0.125,
        n_above=2,
        largest_cluster=2,
        frame_entropy=4.1,
        excess=-0.5,
        worst_atom=17,
        worst_element="Cu",
        n_unknown=0,
        temperature_K=301.7,
        volume_per_atom=11.8,
        energy_per_atom=-3.5,
        interval=10,
        state="in",
        digest=f"{frame:032x}",
        elapsed_us=812.5,
        trigger_excess=-0.5,
    )
    return check.to_line() | values


def event_line(number, last_step=0, is_open=True):
    return Event(
        id=number,
        kind="novel",
        onset_step=0,
        confirmed_step=0,
        last_step=last_step,
        onset_time_ps=0.05,
        onset_temperature_K=300.0,
        peak_excess=2.5,
        peak_step=0,
        n_atoms=3,
        atoms=(17, 3, 4),
        size_history=((100, 1), (140, 3)),
        centroid=(1.0, -2.5, 1e-300),
        worst_atom=17,
        worst_element="Cu",
        nearest=None,
        n_checks=6,
        is_open=is_open,
    ).to_line()


def note(text):
    return {"type": "note", "level": "info", "step": None, "message": text}


def rewind(frame):
    return {"type": "rewind", "step": 10 * frame, "frame": frame}


def snapshot(frame):
    return {"type": "state", "frame": frame, "snapshot": {"checks": frame + 1}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


@pytest.fixture
def looks_always(monkeypatch):
    monkeypatch.setattr(appender, "LOOK_SECONDS", 0.0)


def write(path, *lines):
    writer = LogWriter(path)
    for line in lines:
        writer.write(line)
    writer.close()


def types_of(path):
    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [json.loads(line)["type"] for line in data.splitlines()]


#: A process that imports the log and what it needs alone, and quickly.
BARE = f"""
    import os, sys, types
    package = types.ModuleType("quests_md")
    package.__path__ = [{str(Path(quests_md.__file__).parent)!r}]
    sys.modules["quests_md"] = package
    from quests_md.log.logfile import LogWriter
    HEADER = {HEADER!r}
"""


def process(*codes):
    return [sys.executable, "-c", "".join(map(textwrap.dedent, codes))]


def run(code, path):
    done = subprocess.run([*process(BARE, code), path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


# taken up again


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"type": "header", "sch'])
def test_what_holds_no_log_yet_becomes_a_new_one(path, content):
    if content is not None:
        path.write_bytes(content)
    writer = LogWriter(path, resume=True)
    assert writer.history is None
    writer.write(HEADER)
    writer.close()
    assert read_log(path).header == HEADER


def test_a_log_is_taken_up_at_its_end(path):
    write(path, HEADER, check_line(0))
    before = path.read_bytes()
    writer = LogWriter(path, resume=True)
    assert writer.is_mine
    assert writer.history.header == HEADER
    assert writer.history.last.content["frame"] == 0
    writer.write(check_line(1))
    writer.close()
    assert path.read_bytes().startswith(before)
    assert read_log(path).frame.tolist() == [0, 1]


def test_a_torn_last_line_is_cut_away_and_nothing_else(path):
    write(path, HEADER, check_line(0), note("Å水"))
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for length in [*range(ends[0], len(data) + 1, 13), ends[1], ends[2] - 1]:
        path.write_bytes(data[:length])
        LogWriter(path, resume=True).close()
        assert path.read_bytes() == data[: max(end for end in ends if end <= length)]
    path.write_bytes(data)
    assert not LogWriter(path, resume=True).history.is_torn
    path.write_bytes(data[:-1])
    assert LogWriter(path, resume=True).history.is_torn


@pytest.mark.parametrize(
    "torn",
    [b"\0" * 5000, b"\0\0\0\n", b'{"type": "check", "st\0\0\0\0, "elapsed_us": 3.0}\n', b'{"a": "\xc3"}\n', b"\n"],
)
def test_what_a_power_cut_leaves_in_the_last_line_is_ignored_and_cut_away(path, torn):
    write(path, HEADER, check_line(0))
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert read_log(path).frame.tolist() == [0]
    LogWriter(path, resume=True).close()
    assert path.read_bytes() == whole


def test_only_one_line_is_ever_cut_away(path):
    write(path, HEADER, check_line(0))
    whole = path.read_bytes()
    path.write_bytes(whole + b"one\ntwo\n")
    LogWriter(path, resume=True).close()
    assert path.read_bytes() == whole + b"one\n"[:4]
    with pytest.raises(FileFormatError, match="line 3 is not JSON"):
        read_log(_grown(path, note("later")))


def _grown(path, *lines):
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"my notes",
        b"my notes\n",
        b' {"type": "head',
        b'{"a": 1}\n{"type',
        b"\x89PNG\r\n\x1a\n",
        b'{"type": "check"}\n',
        b'{"type": "header", "schema": 2}\n',
        b'{"type": "header", "schema": true}\n',
        b'{"type": "header", "schema": 0}\n',
        b'{"type": "header", "schema": 1\n',
        b"\0\0\0\0",
    ],
)
def test_what_is_not_a_log_is_not_taken_up_and_left_as_it_was(path, content):
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"run\.jsonl"):
        LogWriter(path, resume=True)
    assert path.read_bytes() == content
    LogWriter(path.with_name("other.jsonl")).close()


def test_a_refused_log_is_not_kept_open(path):
    path.write_bytes(b"my notes\n")
    for _ in range(2):
        with pytest.raises(FileFormatError):
            LogWriter(path, resume=True)
    write(path.with_name("log"), HEADER)
    for _ in range(2):
        with pytest.raises(LogExistsError, match="already holds a run"):
            LogWriter(path.with_name("log"))


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_only_a_regular_file_can_be_a_log(tmp_path, kind):
    place = tmp_path / "place"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "device":
        place = Path(os.devnull)
    else:
        place.mkdir()
    with pytest.raises(OSError, match=r"regular file|directory"):
        LogWriter(place)
    with pytest.raises((OSError, FileFormatError), match=r"regular file|directory"):
        read_log(place)


# one writer at a time


def test_a_second_writer_is_refused_with_the_name_of_the_first(path):
    first = LogWriter(path)
    for resume in (False, True):
        with pytest.raises(LogExistsError, match=r"run\.jsonl is being written by another monitor; wait"):
            LogWriter(path, resume=resume)
    first.write(HEADER)
    for attempt in (LogWriter, require_new_log, partial(LogWriter, resume=True)):
        with pytest.raises(LogExistsError) as info:
            attempt(path)
        said = r"another monitor (process 4321 on node7, since 2026-01-02T03:04:05+00:00); wait until it ends, end it"
        assert f"log: {path} is being written by {said}" in str(info.value)
    first.close()
    again = LogWriter(path, resume=True)
    again.write({"type": "state", "resumed": {"host": "node8", "pid": 55, "started": "2026-02-03T00:00:00+00:00"}})
    again.write(note('about "pid"'), check_line(0))
    with pytest.raises(LogExistsError, match=r"process 55 on node8, since 2026-02-03"):
        LogWriter(path, resume=True)
    again.close()
    with pytest.raises(LogExistsError, match=r"holds a run of 1 checks, last at step 0 against reference abc123"):
        require_new_log(path)
    LogWriter(path, resume=True).close()


def test_a_lying_owner_does_no_harm(path):
    write(path, HEADER | {"host": "\x1b[31m" + "x" * 10_000, "pid": {"a": 1}, "started": None})
    writer = LogWriter(path, resume=True)
    with pytest.raises(LogExistsError) as info:
        LogWriter(path, resume=True)
    assert len(str(info.value)) < 1000
    assert "\x1b" not in str(info.value)
    writer.close()


HOLD = """
    writer = LogWriter(sys.argv[1], resume=True)
    writer.write(HEADER)
    print("held", flush=True)
    sys.stdin.read()
"""


NO_LOCKS = """
    import errno, fcntl
    def refuse(fd, kind):
        raise OSError(errno.ENOSYS, "Function not implemented")
    fcntl.flock = refuse
"""


@pytest.mark.parametrize("locks", ["flock", "none"])
def test_a_writer_of_another_process_is_refused_until_that_is_gone(path, locks, monkeypatch):
    preface = ""
    if locks == "none":
        if not sys.platform.startswith("linux"):
            pytest.skip("only Linux has sockets without a file")
        without_locks(monkeypatch)
        preface = NO_LOCKS
    with subprocess.Popen(
        [*process(BARE, preface, HOLD), path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        for attempt in (LogWriter, require_new_log, partial(LogWriter, resume=True)):
            with pytest.raises(LogExistsError, match=r"being written by another monitor \(process 4321 on node7"):
                attempt(path)
        holder.kill()
    LogWriter(path, resume=True).close()
    with pytest.raises(LogExistsError, match="already holds"):
        LogWriter(path)


def without_locks(monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return refuse


def blind(monkeypatch):
    """A file system without locks, and another host."""
    monkeypatch.setattr(socket, "socket", without_locks(monkeypatch))


def test_where_nothing_locks_the_newer_writer_goes_on_and_the_older_stops(path, monkeypatch, looks_always):
    blind(monkeypatch)
    old = LogWriter(path)
    old.write(HEADER, check_line(0))
    new = LogWriter(path, resume=True)
    new.write(rewind(1), check_line(1))
    for _ in range(2):
        with pytest.raises(LogExistsError, match=r"run\.jsonl is written by another process too"):
            old.write(check_line(1, step=-1))
    new.write(check_line(2))
    old.close()
    new.close()
    assert read_log(path).step.tolist() == [0, 10, 20]


def test_of_two_new_logs_where_nothing_locks_one_stops_at_its_first_line(path, monkeypatch):
    blind(monkeypatch)
    first, second = LogWriter(path), LogWriter(path)
    second.write(HEADER)
    with pytest.raises(LogExistsError, match="another process"):
        first.write(HEADER)
    second.close()
    assert types_of(path) == ["header"]


# processes that come out of the one that writes


FORK = """
    import gc
    writer = LogWriter(sys.argv[1])
    writer.write(HEADER)
    child = os.fork()
    if child == 0:
        try:
            writer.write({"type": "note", "by": "child"})
        except OSError as exc:
            print(exc, writer.is_mine, flush=True)
        writer.close()
        del writer
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    try:
        LogWriter(sys.argv[1], resume=True)
    except OSError:
        print("still locked")
    writer.write({"type": "note", "by": "parent"})
    writer.close()
"""


def test_a_forked_child_neither_writes_nor_closes_the_log(path):
    said = run(FORK, path).splitlines()
    assert "belongs to process" in said[0]
    assert said[0].endswith("False")
    assert said[1:] == ["still locked"]
    assert [line["by"] for line in read_log(path).notes] == ["parent"]


ORPHAN = """
    import signal, time
    writer = LogWriter(sys.argv[1])
    writer.write(HEADER)
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_that_outlives_a_killed_run_does_not_hold_the_log(path):
    with subprocess.Popen([*process(BARE, ORPHAN), path], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        parent.wait()
        try:
            os.kill(child, 0)
            LogWriter(path, resume=True).close()
        finally:
            os.kill(child, 9)


POOL = """
    import multiprocessing
    writer = LogWriter(sys.argv[1])

    def work(i):
        return i * i

    if __name__ == "__main__":
        writer.write(HEADER)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            for value in pool.map(work, range(5)):
                writer.write({"type": "note", "value": value})
        writer.close()
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_workers_that_inherit_a_log_leave_it_alone(path):
    run(POOL, path)
    assert [line["value"] for line in read_log(path).notes] == [0, 1, 4, 9, 16]


def test_a_log_cannot_be_pickled_or_copied(path):
    writer = LogWriter(path)
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="give each process a log of its own"):
            attempt(writer._file if attempt is copy.copy else writer)
    writer.close()


# faults


def failing(monkeypatch, name, *, after=0, code=errno.EIO):
    """Let a function of os fail, but for the first calls; returns the list of calls."""
    real, calls = getattr(os, name), []

    def fail(*args):
        calls.append(args)
        if len(calls) > after:
            raise OSError(code, os.strerror(code))
        return real(*args)

    monkeypatch.setattr(os, name, fail)
    return calls


def half_written(monkeypatch, room):
    real, space = os.write, [room]

    def short(fd, data):
        if space[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(fd, data[: space[0]])
        space[0] -= written
        return written

    monkeypatch.setattr(os, "write", short)


def test_half_a_line_that_cannot_be_cut_back_is_cut_back_before_the_next(path, monkeypatch):
    writer = LogWriter(path)
    writer.write(HEADER)
    whole = path.read_bytes()
    with monkeypatch.context() as broken:
        half_written(broken, 9)
        failing(broken, "ftruncate")
        with pytest.raises(OSError, match="No space left"):
            writer.write(check_line(0))
        assert path.read_bytes() == whole + b'{"type": '
        assert len(read_log(path)) == 0
        with pytest.raises(OSError, match="Input/output"):
            writer.write(check_line(1))
    assert path.read_bytes() == whole + b'{"type": '
    writer.write(check_line(2))
    writer.close()
    assert read_log(path).frame.tolist() == [2]


def test_half_a_line_is_cut_away_at_the_end_where_that_is_possible(path, monkeypatch):
    for can_truncate in (False, True):
        path.unlink(missing_ok=True)
        writer = LogWriter(path)
        writer.write(HEADER)
        whole = path.read_bytes()
        with monkeypatch.context() as broken:
            half_written(broken, 9)
            failing(broken, "ftruncate")
            with pytest.raises(OSError, match="No space left"):
                writer.write(check_line(0))
            if not can_truncate:
                writer.close()
        writer.close()
        assert path.read_bytes() == whole + (b"" if can_truncate else b'{"type": ')
        LogWriter(path, resume=True).close()
        assert path.read_bytes() == whole


def test_what_another_process_wrote_after_half_a_line_is_never_cut_away(path, monkeypatch):
    writer = LogWriter(path)
    writer.write(HEADER)
    with monkeypatch.context() as broken:
        half_written(broken, 9)
        failing(broken, "ftruncate")
        with pytest.raises(OSError, match="No space left"):
            writer.write(check_line(0))
    with path.open("a") as file:
        file.write("precious\n")
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(LogExistsError, match="another process"):
            writer.write(check_line(1))
    writer.close()
    assert path.read_bytes() == before


def test_an_interrupt_in_the_middle_of_a_line_leaves_whole_lines(path, monkeypatch):
    writer = LogWriter(path)
    writer.write(HEADER)
    real = os.write

    def interrupted(fd, data, part):
        real(fd, data[: len(data) // part])
        raise KeyboardInterrupt

    for part in (2, 1):  # in the middle, and when all is there
        with monkeypatch.context() as broken:
            broken.setattr(os, "write", partial(interrupted, part=part))
            with pytest.raises(KeyboardInterrupt):
                writer.write(check_line(0))
        assert types_of(path) == ["header"]
    writer.write(check_line(1))
    writer.close()
    assert read_log(path).frame.tolist() == [1]


@pytest.mark.parametrize("how", ["unlink", "replace"])
def test_a_log_that_was_deleted_is_said_and_not_made_again(path, how, looks_always):
    writer = LogWriter(path)
    writer.write(HEADER)
    if how == "unlink":
        path.unlink()
    else:
        other = path.with_name("other")
        other.write_text("other\n")
        other.replace(path)
    for _ in range(2):
        with pytest.raises(OSError, match=r"deleted or overwritten while being written.*run\.jsonl") as info:
            writer.write(check_line(0))
        assert info.value.errno == errno.ESTALE
    writer.close()
    assert (path.read_text() if path.exists() else None) == (None if how == "unlink" else "other\n")


def test_a_log_that_was_moved_is_followed(path, looks_always, monkeypatch):
    monkeypatch.chdir(path.parent)
    writer = LogWriter("run.jsonl")
    writer.write(HEADER)
    moved = path.with_name("moved.jsonl")
    path.rename(moved)
    monkeypatch.chdir("/")
    write(path, HEADER)  # another run in its place
    writer.write(check_line(0))
    writer.close()
    assert types_of(moved) == ["header", "check"]
    assert types_of(path) == ["header"]


@pytest.mark.parametrize("length", [0, 40, -1])
def test_a_log_that_was_cut_short_is_said_and_left_as_it_is(path, length, looks_always):
    writer = LogWriter(path)
    writer.write(HEADER, check_line(0))
    size = path.stat().st_size
    os.truncate(path, length if length >= 0 else size - 1)
    left = path.read_bytes()
    for _ in range(2):
        with pytest.raises(OSError, match="cut short while being written"):
            writer.write(check_line(1))
    writer.close()
    assert path.read_bytes() == left


def test_lines_are_not_looked_after_one_by_one(path, monkeypatch):
    """On NFS a look waits for the server."""
    writer = LogWriter(path)
    real, calls = os.fstat, []
    monkeypatch.setattr(os, "fstat", lambda fd: calls.append(fd) or real(fd))
    writer.write(HEADER)
    for frame in range(200):
        writer.write(check_line(frame))
    monkeypatch.undo()
    assert len(calls) <= 3
    path.unlink()
    writer._file._next_look = 0.0
    for _ in range(2):  # and what was lost once stays lost
        with pytest.raises(OSError, match="deleted"):
            writer.write(check_line(201))
    writer.close()


def test_the_first_lines_and_the_end_are_forced_to_the_disk_and_no_others(path, monkeypatch):
    real, sizes = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda fd: sizes.append(os.fstat(fd).st_size) or real(fd))
    for resume in (False, True):
        sizes.clear()
        writer = LogWriter(path, resume=resume)
        writer.write(HEADER if not resume else note("again"), note("and"))
        begun = path.stat().st_size
        for frame in range(5):
            writer.write(check_line(frame), event_line(1))
        assert sizes == [begun]
        writer.close()
        assert sizes == [begun, path.stat().st_size]


def test_a_header_that_does_not_reach_the_disk_is_not_in_the_file(path, monkeypatch):
    writer = LogWriter(path)
    with monkeypatch.context() as broken:
        failing(broken, "fsync", code=errno.EDQUOT)
        with pytest.raises(OSError, match="quota"):
            writer.write(HEADER)
    assert path.read_bytes() == b""
    writer.write(HEADER)
    writer.close()
    assert types_of(path) == ["header"]


def test_a_line_too_long_to_be_read_is_not_written(path):
    writer = LogWriter(path)
    writer.write(HEADER)
    with pytest.raises(ValueError, match="lines of at most 10000000 bytes, got one of 100000"):
        writer.write(note("short"), note("x" * 10_000_000))
    writer.write(note("x" * 9_000_000))
    writer.close()
    assert [len(line["message"]) for line in read_log(path).notes] == [9_000_000]


# the final history


def naive_history(lines):
    """The lines that count, after the header: the rule as it is stated, on a list."""
    kept = []
    for line in lines:
        if line["type"] == "rewind":
            first = next((i for i, x in enumerate(kept) if x["type"] == "check" and x["frame"] >= line["frame"]), None)
            if first is not None:
                kept[first:] = [x for x in kept[first:] if x["type"] in ("note", "rewind")]
        kept.append(line)
    return [line for line in kept if line["type"] not in ("note", "rewind")]


@st.composite
def runs(draw):
    """Lines of a run that is killed and taken up again at any of its frames, or before all of them."""
    lines, frame, event = [], 0, 0
    for _ in range(draw(st.integers(0, 40))):
        what = draw(st.sampled_from(["check"] * 6 + ["event", "event", "state", "note", "reference", "rewind", "gap"]))
        if what == "check":
            lines.append(
                check_line(frame, elapsed_us=draw(st.sampled_from([1.0, 1e300])), step=draw(st.integers(0, 30)))
            )
            frame += 1
        elif what == "event":
            event += draw(st.integers(0, 1))
            lines.append(event_line(event + 1, last_step=len(lines), is_open=draw(st.booleans())))
        elif what == "state":
            lines.append(snapshot(frame - 1) if draw(st.booleans()) else {"type": "state", "trigger": "open"})
        elif what == "note":
            lines.append(note(draw(st.sampled_from(['a "rewind"', "check", "x" * 400]))))
        elif what == "reference":
            lines.append({"type": "reference", "fingerprint": str(len(lines))})
        elif what == "gap":
            frame += draw(st.integers(0, 3))
        else:
            frame = draw(st.integers(0, frame + 1))
            event = draw(st.integers(0, event))
            lines.append(rewind(frame))
    return lines


@settings(max_examples=150, deadline=None)
@given(runs(), st.sampled_from([(200, 200), (100, 1000), (1 << 12, 1 << 18)]))
def test_the_final_history_is_what_rewinds_leave(tmp_path_factory, lines, sizes):
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    write(path, HEADER)
    _grown(path, *lines)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()[1:]]
    kept = naive_history(lines)
    checks = [line for line in kept if line["type"] == "check"]
    events = {line["id"]: line for line in kept if line["type"] == "event"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loglines, "PAGE", sizes[0])
        patch.setattr(loglines, "BLOCK", sizes[1])
        history, log = LogHistory(path), read_log(path)
        final = list(history.lines())
        assert [x.content for x in final if x.content["type"] not in ("note", "rewind")] == kept
        assert log.frame.tolist() == [line["frame"] for line in checks]
        assert log.digest.tolist() == [line["digest"] for line in checks]
        assert [event.to_line() for event in log.events] == [
            Event.from_line(events[number]).to_line() for number in sorted(events)
        ]
        assert log.notes == [line for line in lines if line["type"] == "note"]
        assert log.rewinds == history.rewinds == [line for line in lines if line["type"] == "rewind"]
        assert log.references == [line for line in kept if line["type"] == "reference"]
        assert (history.last.content if checks else history.last) == (checks[-1] if checks else None)
        for step in {line["step"] for line in checks} | {1, 3, 1000}:
            found = [line.content["frame"] for line in history.find("step", step)]
            assert found == [line["frame"] for line in reversed(checks) if line["step"] == step]
        assert [line.content for line in history.of_type("event")] == [x for x in kept[::-1] if x["type"] == "event"]
        assert history.end_after(None) == (
            next(history.find("frame", checks[0]["frame"])).start if checks else history.end
        )
        for check in checks:
            (found,) = history.find("digest", check["digest"])
            assert found.content == check
            assert json.loads(path.read_bytes()[found.start : found.end]) == check
            block_end = _block_end(kept, check)
            start = max((i + 1 for i in range(block_end) if "snapshot" in kept[i]), default=0)
            snap, rest = history.since_snapshot(found)
            assert (snap and snap.content) == (kept[start - 1] if start else None)
            rest = [line.content for line in rest if line.content["type"] not in ("note", "rewind")]
            assert rest == kept[start:block_end]
            earlier = [line.content for line in history.of_type("check", before=found.start)]
            assert earlier == checks[: checks.index(check)][::-1]


def _block_end(kept, check):
    """Index of the first check after this one, or the end."""
    later = [i for i, line in enumerate(kept) if line["type"] == "check" and line["frame"] > check["frame"]]
    return later[0] if later else len(kept)


def test_an_event_that_closed_after_the_point_of_return_is_open_again(path):
    opened, closed = event_line(1, last_step=10), event_line(1, last_step=20, is_open=False)
    write(path, HEADER, check_line(0), check_line(1), opened, check_line(2), closed, event_line(2), rewind(2))
    (event,) = read_log(path).events
    assert event.is_open
    assert event.last_step == 10
    assert read_log(path).frame.tolist() == [0, 1]


def test_a_rewind_to_before_everything_and_to_after_everything(path):
    write(path, HEADER, check_line(0), event_line(1), rewind(0), check_line(0, step=7), rewind(5), check_line(5))
    log = read_log(path)
    assert log.step.tolist() == [7, 50]
    assert log.events == []
    assert [line["frame"] for line in log.rewinds] == [0, 5]


def test_checks_that_were_superseded_may_be_damaged_but_must_be_json(path):
    write(path, HEADER, check_line(0), check_line(1, dh_max="large"), rewind(1), check_line(1))
    assert read_log(path).frame.tolist() == [0, 1]
    data = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*data[:2], b"{\n", *data[3:]]))
    with pytest.raises(FileFormatError, match="line 3 is not JSON"):
        read_log(path)


def test_thinned_checks_are_read(path):
    write(path, HEADER, *[check_line(frame) for frame in (0, 10, 20, 27, 30)])
    assert read_log(path).frame.tolist() == [0, 10, 20, 27, 30]
    (found,) = LogHistory(path).find("step", 270)
    assert found.content["frame"] == 27


def test_a_long_log_is_searched_without_being_read(path, monkeypatch):
    n = 4000
    writer = LogWriter(path)
    writer.write(HEADER)
    for start in range(0, n, 500):
        writer.write(*[check_line(frame) for frame in range(start, start + 500)], snapshot(start + 499))
    writer.write(rewind(n - 700), check_line(n - 700))
    writer.close()
    parsed = []
    real = loglines.parse_line
    monkeypatch.setattr(loglines, "parse_line", lambda raw: parsed.append(1) or real(raw))
    history = LogHistory(path)
    (found,) = history.find("digest", f"{n - 900:032x}")
    snap, lines = history.since_snapshot(found)
    assert snap.content["frame"] == n - 1001
    assert sum(line.content["type"] == "check" for line in lines) == 101
    assert history.last.content["frame"] == n - 700
    assert len(parsed) < 150


def test_a_log_that_grows_is_read_as_it_was(path):
    writer = LogWriter(path)
    writer.write(HEADER, check_line(0))
    history = LogHistory(path)
    writer.write(check_line(1), rewind(0))
    assert history.last.content["frame"] == 0
    assert len(list(history.lines())) == 1
    writer.close()


def test_a_log_that_is_cut_short_while_it_is_read(path):
    write(path, HEADER, *[check_line(frame) for frame in range(300)])
    history = LogHistory(path)
    os.truncate(path, 2000)
    with pytest.raises(FileFormatError, match="cut short while it was being read"):
        list(history.lines())


# logs that lie

DEEP = b'{"type": "note", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
MANY = {f"phase {i}": 1 for i in range(100_000)}


def as_bytes(line):
    return json.dumps(line).encode(errors="backslashreplace")


@pytest.mark.parametrize(
    "line",
    [
        DEEP,
        DEEP.replace(b"[", b'{"a":').replace(b"]", b"}"),
        b'{"type": "note", "a": ' + b"9" * 5000 + b"}",
        b'{"type": "note", "a": NaN}',
        b'{"type": "note", "a": -Infinity}',
        b'{"type": "note", "a": "\x00"}',
        b'{"type": "note", "a": "\xed\xa0\x80"}',
        b'{"type": "note"} {"type": "note"}',
        b'\xef\xbb\xbf{"type": "note"}',
        '{"type": "note"}'.encode("utf-16"),
        b"\0" * 4096,
        b'{"type": ["check"]}',
        b'{"type": null}',
        b'{"\\u0074ype": "\\u0072ewind", "frame": 0}',
        b'{"type": "rewind"}',
        b'{"type": "rewind", "frame": "0"}',
        b'{"type": "rewind", "frame": true}',
        b'{"type": "rewind", "frame": 1e400}',
        b'{"type": "note", "message": "' + b"x" * loglines.MAX_LINE_BYTES + b'"}',
        as_bytes({"type": "event"}),
        *(as_bytes(check_line(0, **{name: 10**400})) for name in ("dh_max", "n_above", "time_ps")),
        *(as_bytes(check_line(0, **{name: True})) for name in ("dh_max", "n_above", "state", "digest")),
        *(
            as_bytes(check_line(0, **{name: [1]}))
            for name in ("dh_max", "n_above", "worst_element", "phases", "alarms")
        ),
        *(as_bytes(check_line(0, **{name: "1"})) for name in ("dh_max", "n_above", "phases", "excesses")),
        as_bytes(check_line(0, step=1.5)),
        as_bytes(check_line(0, alarms=None)),
        as_bytes(check_line(0, excesses=None)),
        as_bytes(check_line(0, excesses={"dh_max": "huge"})),
        as_bytes(check_line(0, phases={"fcc": 0.5})),
        as_bytes(check_line(0, phases={"fcc": None, "bcc": [2]})),
        as_bytes(check_line(0, phases=MANY)),
        as_bytes(check_line(0, phase_clusters=MANY)),
        as_bytes(check_line(0, excesses=MANY)),
        *(as_bytes(event_line(1) | {name: 10**30}) for name in ("id", "peak_excess", "n_atoms", "onset_step")),
        *(as_bytes(event_line(1) | {name: "x"}) for name in ("id", "peak_excess", "centroid", "environments")),
        *(as_bytes(event_line(1) | {name: None}) for name in ("id", "kind", "atoms", "alarms", "size_history")),
        *(as_bytes(event_line(1) | {name: [[1]]}) for name in ("id", "atoms", "size_history", "nearest", "is_open")),
        as_bytes(event_line(1) | {"size_history": [[1e400, 2]]}),
        as_bytes(event_line(1) | {"atoms": "abc"}),
        as_bytes(event_line(1) | {"environments": [{"atom": 1}]}),
        as_bytes(event_line(1) | {"nearest": {"distance": "far", "source": "a", "frame": 0, "atom": 0}}),
    ],
    ids=lambda line: f"{line[:40]!r}{len(line)}",
)
def test_a_line_that_lies_is_named_and_does_no_harm(path, line):
    last = as_bytes(check_line(1))
    path.write_bytes(b"\n".join([as_bytes(HEADER), as_bytes(note("a")), line, last, b""]))
    before = path.read_bytes()
    with pytest.raises(FileFormatError, match=r"run\.jsonl: line 3 ") as info:
        read_log(path)
    assert len(str(info.value)) < 1000
    writer = LogWriter(path, resume=True)  # whose lines are looked at when they are needed
    assert writer.history.end == len(before)
    writer.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "line",
    [
        as_bytes(note("\ud800")),
        b'{"type": "note", "a": "\\u0000", "a": 3}',
        b'{"type": "check", "type": "note"}',
        b'{"type": "a kind of later versions", "frame": "x"}',
        b' {"type":"note"}\t\r',
        as_bytes(check_line(0, phases={"\ud800\x1b[31m": 2**62})),
        as_bytes(check_line(0, state="\ud800" * 100_000, digest="\x1b[31m" * 1000, alarms=["x" * 1000] * 1000)),
        b'{"type": "rewind", "frame": -' + b"9" * 4000 + b"}",
        as_bytes(event_line(1) | {"onset_time_ps": "inf", "centroid": ["nan", 1, 2.5], "kind": "of later versions"}),
    ],
    ids=lambda line: f"{line[:40]!r}{len(line)}",
)
def test_a_strange_line_that_is_one_is_read(path, line):
    path.write_bytes(b"\n".join([as_bytes(HEADER), as_bytes(check_line(0)), line, as_bytes(check_line(1)), b""]))
    log = read_log(path)
    assert log.frame[-1] == 1
    assert sum(column.nbytes for column in (log.state, log.digest, log.alarms, log.explosion)) < 20_000


def test_names_of_phases_are_bounded_over_the_whole_log(path):
    write(path, HEADER, *[check_line(frame, phases={f"phase {frame}": 1}) for frame in range(100)])
    log = read_log(path)
    assert len(log.phases) == 100
    assert log.phases["phase 7"].tolist() == [-1] * 7 + [1] + [-1] * 92
    _grown(path, check_line(100), check_line(101, phases={"phase 101": 1}))
    with pytest.raises(FileFormatError, match="at most 100 names"):
        read_log(path)


def test_a_phase_that_appears_late_and_one_that_goes(path, monkeypatch):
    monkeypatch.setattr(quests_md.log.logfile, "HELD_LINES", 2)
    phases = [None, None, None, {"a": 1}, {"b": 2}, {}, {"a": 3, "b": 4}]
    write(path, HEADER, *[check_line(frame, phases=found) for frame, found in enumerate(phases)])
    log = read_log(path)
    assert {name: numbers.tolist() for name, numbers in log.phases.items()} == {
        "a": [-1, -1, -1, 1, -1, -1, 3],
        "b": [-1, -1, -1, -1, 2, -1, 4],
    }
    assert log.phase_clusters == {}


def test_a_record_of_wrong_types_is_named():
    require_types(Check.from_line(check_line(0, phases={"fcc": 1}, excesses={"dh_max": "inf"})))
    require_types(Event.from_line(event_line(1)))
    for name, value in [("step", 1.5), ("n_above", True), ("dh_max", "1"), ("phases", {"fcc": 1.5}), ("digest", None)]:
        with pytest.raises(TypeError, match=name):
            require_types(Check.from_line(check_line(0, **{name: value})))
