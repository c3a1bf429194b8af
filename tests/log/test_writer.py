"""A log begun and taken up again: nothing is written over, only a torn last line is cut away."""

import errno
import json
import os
import threading
from dataclasses import replace
from functools import partial

import pytest
from logs import CHECK, HEADER, check_line, event_line, note, strict_lines, write

from quests_md import read_log
from quests_md.errors import FileFormatError, LogExistsError
from quests_md.log import LogWriter, require_new_log


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
    with path.open("a") as file:
        file.write(json.dumps(note("later")) + "\n")
    with pytest.raises(FileFormatError, match="line 3 is not JSON"):
        read_log(path)


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
        b"\n\n",
    ],
)
def test_what_is_not_a_log_is_neither_read_nor_taken_up_and_left_as_it_was(path, content):
    path.write_bytes(content)
    for attempt in (read_log, partial(LogWriter, resume=True)):
        with pytest.raises(FileFormatError, match=r"run\.jsonl"):
            attempt(path)
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


def test_a_log_is_never_written_over_and_the_message_tells_what_is_there(path):
    write(path, HEADER, CHECK.to_line(), replace(CHECK, step=4200, frame=1).to_line())
    before = path.read_bytes()
    with pytest.raises(LogExistsError) as info:
        LogWriter(path)
    for word in (str(path), "2 checks", "4200", "abc123", "2026-01-02T03:04:05", "move it away"):
        assert word in str(info.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"3\ncomment\n", "not a quests_md log"),
        (b"x", "not a quests_md log"),
        (json.dumps(HEADER).encode() + b"\n", "0 checks"),
        (b'{"type": "header", "schema": 1}\n', "0 checks"),
        (b'{"type": "header", "schema": 1, "reference": "file.st"}\n', "not a quests_md log"),
        (json.dumps(HEADER).encode() + b'\n{"type": "che', "0 checks"),
    ],
)
def test_whatever_a_file_holds_it_is_kept(path, content, said):
    path.write_bytes(content)
    with pytest.raises(LogExistsError, match=said):
        LogWriter(path)
    assert path.read_bytes() == content


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
    write(path, HEADER | {"host": "\x1b[31m" + "x" * 10_000, "pid": 2**62, "started": "\x1b" * 9})
    writer = LogWriter(path, resume=True)
    with pytest.raises(LogExistsError) as info:
        LogWriter(path, resume=True)
    assert len(str(info.value)) < 1000
    assert "\x1b" not in str(info.value)
    writer.close()


def test_threads_may_share_a_writer(path):
    writer = LogWriter(path)
    writer.write(HEADER)

    def work(i):
        for j in range(50):
            writer.write(replace(CHECK, step=i, frame=j).to_line())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    log = read_log(path)
    assert sorted(zip(log.step.tolist(), log.frame.tolist(), strict=True)) == [
        (i, j) for i in range(4) for j in range(50)
    ]


def test_a_line_is_in_the_file_before_write_returns_and_close_may_be_called_twice(path):
    writer = LogWriter(path)
    writer.write(HEADER)
    assert strict_lines(path) == [HEADER]
    writer.close()
    writer.close()
    with pytest.raises(OSError, match="it is closed"):
        writer.write(CHECK.to_line())
    assert strict_lines(path) == [HEADER]


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
    def fail(fd):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    writer = LogWriter(path)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="quota"):
            writer.write(HEADER)
    assert path.read_bytes() == b""
    writer.write(HEADER)
    writer.close()
    assert strict_lines(path) == [HEADER]


@pytest.mark.slow
def test_a_line_too_long_to_be_read_is_not_written(path):
    writer = LogWriter(path)
    writer.write(HEADER)
    with pytest.raises(ValueError, match="lines of at most 10000000 bytes, got one of 100000"):
        writer.write(note("short"), note("x" * 10_000_000))
    writer.write(note("x" * 9_000_000))
    writer.close()
    assert [len(line["message"]) for line in read_log(path).notes] == [9_000_000]
