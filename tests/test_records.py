import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quests_md import Check, Event, read_log
from quests_md.errors import FileFormatError, LogExistsError
from quests_md.log.logfile import SCHEMA, LogWriter
from quests_md.records import Environment, NearestEnvironment

HEADER = {"type": "header", "schema": SCHEMA, "started": "2026-01-02T03:04:05", "reference": {"fingerprint": "abc123"}}
CHECK = Check(
    step=100,
    frame=1,
    time_ps=0.05,
    n_atoms=64,
    dh_max=1.5,
    dh_mean=-3.25,
    dh_q99=0.125,
    n_above=2,
    largest_cluster=2,
    frame_entropy=4.1,
    excess=0.5,
    worst_atom=17,
    worst_element="Cu",
    n_unknown=0,
    temperature_K=301.7,
    volume_per_atom=11.8,
    energy_per_atom=-3.5,
    interval=10,
    state="out",
    digest="00ff",
    elapsed_us=812.5,
    n_tail=3,
    tail_cluster=2,
    alarms=("dh_max", "dh_mean"),
    trigger_excess=0.5,
)
EVENT = Event(
    id=1,
    kind="novel",
    onset_step=100,
    confirmed_step=120,
    last_step=150,
    onset_time_ps=0.05,
    onset_temperature_K=300.0,
    peak_excess=2.5,
    peak_step=140,
    n_atoms=3,
    atoms=(17, 3, 4),
    size_history=((100, 1), (140, 3)),
    centroid=(1.0, -2.5, 1e-300),
    worst_atom=17,
    worst_element="Cu",
    nearest=NearestEnvironment(distance=7.5, source="train.xyz", frame=3, atom=1),
    n_checks=6,
    is_open=False,
    alarms=("dh_max", "dh_mean"),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


def write(path, *lines):
    writer = LogWriter(path)
    for line in lines:
        writer.write(line)
    writer.close()


def strict_lines(path):
    """Every line as JSON without the NaN and Infinity that Python's parser would let through."""

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [json.loads(line, parse_constant=refuse) for line in data.decode("utf-8").split("\n")[:-1]]


def same(a, b):
    """Equal, NaN being equal to itself, and of one type."""
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, NearestEnvironment | Environment):
        return type(a) is type(b) and same_records(a, b)
    return (type(a) is type(b)) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


def same_records(a, b):
    return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a) if f.compare)


FLOAT = st.floats()
OPTIONAL = st.none() | FLOAT
COUNT = st.integers(0, 2**53)
TEXT = st.text(st.characters(exclude_characters="\x00"), max_size=8)  # numpy strips it
CHECKS = st.builds(
    Check,
    step=st.integers(-(2**62), 2**62),
    frame=COUNT,
    time_ps=OPTIONAL,
    n_atoms=COUNT,
    dh_max=OPTIONAL,
    dh_mean=OPTIONAL,
    dh_q99=OPTIONAL,
    n_above=COUNT,
    largest_cluster=st.none() | COUNT,
    frame_entropy=OPTIONAL,
    excess=FLOAT,
    worst_atom=st.none() | COUNT,
    worst_element=st.sampled_from([None, "Cu", "In"]),
    n_unknown=COUNT,
    temperature_K=OPTIONAL,
    volume_per_atom=OPTIONAL,
    energy_per_atom=OPTIONAL,
    interval=st.none() | COUNT,
    state=st.sampled_from(["in", "out", "invalid"]),
    digest=st.sampled_from(["00ff", "inf", "nan", "1e5"]),
    elapsed_us=FLOAT,
    excesses=st.dictionaries(st.sampled_from(["dh_max", "dh_mean", "dh_mean_drift"]), FLOAT, max_size=3),
    phases=st.none() | st.dictionaries(TEXT, COUNT, max_size=3),
    phase_clusters=st.none() | st.dictionaries(st.sampled_from(["fcc", "liquid"]), COUNT, max_size=3),
    explosion=TEXT,
    delta_entropy=st.none(),
    above=st.none(),
)
NEAREST = st.none() | st.builds(
    NearestEnvironment,
    distance=FLOAT,
    source=TEXT | st.sampled_from(["nan", "inf", "-inf"]),
    frame=COUNT,
    atom=COUNT,
)
ENVIRONMENTS = st.builds(
    Environment, atom=COUNT, element=TEXT, delta_entropy=FLOAT, coordination=COUNT, nearest=NEAREST
)
EVENTS = st.builds(
    Event,
    id=COUNT,
    kind=st.sampled_from(["novel", "transition", "exploded"]),
    onset_step=COUNT,
    confirmed_step=COUNT,
    last_step=COUNT,
    onset_time_ps=OPTIONAL,
    onset_temperature_K=OPTIONAL,
    peak_excess=FLOAT,
    peak_step=COUNT,
    n_atoms=COUNT,
    atoms=st.lists(COUNT, max_size=5).map(tuple),
    size_history=st.lists(st.tuples(COUNT, COUNT), max_size=5).map(tuple),
    centroid=st.none() | st.tuples(FLOAT, FLOAT, FLOAT),
    worst_atom=st.none() | COUNT,
    worst_element=st.sampled_from([None, "Cu"]),
    nearest=NEAREST,
    reason=TEXT,
    phase=st.none() | TEXT,
    cluster=st.none() | COUNT,
    environments=st.lists(ENVIRONMENTS, max_size=2).map(tuple),
    n_checks=COUNT,
    is_open=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(CHECKS, max_size=4), st.lists(EVENTS, max_size=4, unique_by=lambda event: event.id))
def test_records_come_back_as_they_were_from_strict_json(tmp_path_factory, checks, events):
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    write(path, HEADER, *[x.to_line() for x in checks], *[x.to_line() for x in events])
    lines = strict_lines(path)
    read_checks = [Check.from_line(line) for line in lines if line["type"] == "check"]
    assert all(same_records(a, b) for a, b in zip(checks, read_checks, strict=True))
    log = read_log(path)
    assert log.header == HEADER
    ordered = sorted(events, key=lambda event: event.id)
    assert all(same_records(a, b) for a, b in zip(ordered, log.events, strict=True))
    assert len(log) == len(checks)
    for i, check in enumerate(checks):
        for f in fields(Check):
            if not f.compare:
                continue
            value, column = getattr(check, f.name), getattr(log, f.name)
            if f.name == "excesses":
                found = {name: numbers[i] for name, numbers in column.items()}
                np.testing.assert_equal(found, dict.fromkeys(column, math.nan) | value)
            elif isinstance(column, dict):
                assert {phase: int(numbers[i]) for phase, numbers in column.items() if numbers[i] >= 0} == (value or {})
            elif column.dtype.kind == "U":
                assert column[i] == (value or "")
            elif column.dtype.kind == "i":
                assert column[i] == (-1 if value is None else value)
            else:
                np.testing.assert_equal(column[i], math.nan if value is None else float(value))


def test_numbers_that_json_lacks_are_written_as_words(path):
    check = replace(CHECK, dh_max=math.inf, dh_mean=-math.inf, excess=math.nan, temperature_K=None, state="invalid")
    write(path, HEADER, check.to_line())
    line = strict_lines(path)[1]
    assert (line["dh_max"], line["dh_mean"], line["excess"], line["temperature_K"]) == ("inf", "-inf", "nan", None)
    assert set(line) == {"type"} | {f.name for f in fields(Check)} - {"delta_entropy", "above"}
    assert same_records(Check.from_line(line), check)


def test_numpy_numbers_and_arrays_are_written_as_plain_ones(path):
    line = HEADER | {
        "a": np.float32(0.5),
        "b": np.int64(3),
        "c": np.bool_(True),
        "d": np.array([[1.0, np.inf]]),
        "e": (np.nan, {"f": -np.inf}),
        7: "key",
    }
    write(path, line)
    (read,) = strict_lines(path)
    assert [read[k] for k in "abcde"] == [0.5, 3, True, [[1.0, "inf"]], ["nan", {"f": "-inf"}]]
    assert read["7"] == "key"
    assert read["c"] is True


def test_arrays_of_a_check_stay_out_of_the_log_and_of_comparison(path):
    check = replace(CHECK, delta_entropy=np.zeros(64), above=np.zeros(64, bool))
    assert check == CHECK
    write(path, HEADER, check.to_line())
    assert "above" not in strict_lines(path)[1]


def test_records_are_frozen():
    for record in (CHECK, EVENT, EVENT.nearest):
        for f in fields(record):
            with pytest.raises(FrozenInstanceError):
                setattr(record, f.name, 3)


def test_the_latest_state_of_an_event_counts_and_events_come_in_order(path):
    second = replace(EVENT, id=2, kind="exploded", nearest=None, centroid=None)
    opened = replace(EVENT, is_open=True, last_step=120)
    write(path, HEADER, second.to_line(), opened.to_line(), EVENT.to_line())
    assert read_log(path).events == [EVENT, second]


def test_notes_are_kept_and_other_kinds_of_lines_skipped(path):
    write(path, HEADER, {"type": "note", "text": "ä"}, {"type": "state"}, CHECK.to_line())
    log = read_log(path)
    assert log.notes == [{"type": "note", "text": "ä"}]
    assert log.step.tolist() == [100]


def test_file_names_of_any_kind_come_back(path):
    names = ["Übung/水.xyz", "a\nb\u2028c.xyz", os.fsdecode(b"latin-\xe9.xyz"), "\U0001f9ca.xyz"]
    events = [replace(EVENT, id=i, nearest=replace(EVENT.nearest, source=name)) for i, name in enumerate(names)]
    write(path, HEADER, *[event.to_line() for event in events])
    assert len(path.read_bytes().splitlines()) == len(names) + 1
    assert [event.nearest.source for event in read_log(path).events] == names


def test_a_log_of_a_name_that_is_not_ascii(tmp_path):
    path = tmp_path / "läuft-水.jsonl"
    write(path, HEADER, CHECK.to_line())
    assert len(read_log(path)) == 1


def test_a_log_torn_at_any_byte_is_read_up_to_the_last_whole_line(path):
    lines = [HEADER, CHECK.to_line(), EVENT.to_line(), replace(CHECK, step=200).to_line()]
    write(path, *lines)
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for length in range(ends[0], len(data) + 1, 7):
        path.write_bytes(data[:length])
        log = read_log(path)
        assert len(log) == (length >= ends[1]) + (length >= ends[3])
        assert len(log.events) == (length >= ends[2])
    for length in range(1, ends[0], 7):
        path.write_bytes(data[:length])
        with pytest.raises(FileFormatError, match="without a complete line"):
            read_log(path)


#: Fields that the first release did not write.
LATER = (
    "n_tail",
    "tail_cluster",
    "alarms",
    "trigger_excess",
    "excesses",
    "phases",
    "phase_clusters",
    "explosion",
    "confirm_excess",
)


def without(line, names):
    return {name: value for name, value in line.items() if name not in names}


@pytest.mark.parametrize(
    ("state", "excess", "alarms"), [("out", 0.5, ("dh_max",)), ("in", -1.5, ()), ("invalid", math.nan, ())]
)
def test_a_check_line_of_the_first_release_is_read(path, state, excess, alarms):
    """The largest dH was all that raised alarms."""
    check = replace(CHECK, state=state, excess=excess)
    write(path, HEADER, without(check.to_line(), LATER), CHECK.to_line())
    line = strict_lines(path)[1]
    assert not set(LATER) & set(line)
    old = Check.from_line(line)
    assert (old.n_tail, old.tail_cluster, old.alarms) == (None, None, alarms)
    expected = replace(check, n_tail=None, tail_cluster=None, alarms=alarms, trigger_excess=excess)
    np.testing.assert_equal(old.to_line(), expected.to_line())
    log = read_log(path)
    assert log.n_tail.tolist() == [-1, 3]
    np.testing.assert_array_equal(log.tail_cluster, [math.nan, 2])
    assert log.alarms.tolist() == [" ".join(alarms), "dh_max dh_mean"]
    np.testing.assert_array_equal(log.trigger_excess, [excess, 0.5])


def test_an_event_line_of_the_first_release_is_read(path):
    write(path, HEADER, without(EVENT.to_line(), ["alarms"]), replace(EVENT, id=2).to_line())
    log = read_log(path)
    assert Event.from_line(strict_lines(path)[1]) == log.events[0] == replace(EVENT, alarms=("dh_max",))
    assert log.events[1].alarms == ("dh_max", "dh_mean")


def test_only_the_later_fields_may_be_missing(path):
    for name in set(CHECK.to_line()) - {"type", *LATER}:
        with pytest.raises(KeyError, match=name):
            Check.from_line(without(CHECK.to_line(), [name]))
    for name in set(EVENT.to_line()) - {"type", "alarms", "reason", "phase", "cluster", "environments"}:
        with pytest.raises(KeyError, match=name):
            Event.from_line(without(EVENT.to_line(), [name]))


@pytest.mark.parametrize(
    "damage",
    [
        b'{"type": "check", "step"',
        b"\x00\x00\x00",
        b"\xff\xfe{}",
        b"",
        b"[1, 2]",
        b"3",
        b'{"step": 3}',
        json.dumps({"type": "check", "step": 3}).encode(),
        json.dumps(EVENT.to_line() | {"size_history": 3}).encode(),
        json.dumps({k: v for k, v in EVENT.to_line().items() if k != "atoms"}).encode(),
        json.dumps(EVENT.to_line() | {"nearest": "far"}).encode(),
    ],
)
def test_a_damaged_line_in_the_middle_is_named(path, damage):
    write(path, HEADER, CHECK.to_line(), CHECK.to_line())
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = damage + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(FileFormatError, match="line 2") as info:
        read_log(path)
    assert str(path) in str(info.value)


@pytest.mark.parametrize(("name", "bad"), [("dh_max", "large"), ("step", "first"), ("dh_max", [1]), ("n_above", 2**70)])
def test_a_check_of_wrong_types_is_refused(path, name, bad):
    write(path, HEADER, CHECK.to_line() | {name: bad})
    with pytest.raises(FileFormatError, match=r"run\.jsonl"):
        read_log(path)


def test_an_empty_file_is_not_a_log(path):
    path.touch()
    with pytest.raises(FileFormatError, match=r"run\.jsonl"):
        read_log(path)


@pytest.mark.parametrize(
    "content",
    [
        b'2\nProperties="species:S:1:pos:R:3"\nCu 0 0 0\nCu 0 0 2\n',
        b'{"a": 1}\n',
        b"\x89PNG\r\n\x1a\n\x00\x00",
        b'{"type": "check"}\n',
        b"\n\n",
    ],
)
def test_another_file_is_not_a_log(path, content):
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"run\.jsonl"):
        read_log(path)


def test_no_file(path):
    with pytest.raises(FileNotFoundError):
        read_log(path)


@pytest.mark.parametrize("schema", [SCHEMA + 1, "1", None, 1.5])
def test_a_newer_or_unknown_schema_is_refused(path, schema):
    write(path, HEADER | {"schema": schema})
    with pytest.raises(FileFormatError, match=f"schema {schema!r}.*up to {SCHEMA}.*update"):
        read_log(path)


def test_a_log_is_never_written_over_and_the_message_tells_what_is_there(path):
    write(path, HEADER, CHECK.to_line(), replace(CHECK, step=4200).to_line())
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
        (b'{"type": "header", "schema": 1, "reference": "file.st"}\n', "0 checks"),
        (json.dumps(HEADER).encode() + b'\n{"type": "che', "0 checks"),
    ],
)
def test_whatever_a_file_holds_it_is_kept(path, content, said):
    path.write_bytes(content)
    with pytest.raises(LogExistsError, match=said):
        LogWriter(path)
    assert path.read_bytes() == content


def test_an_empty_file_may_become_a_log(path):
    path.touch()
    write(path, HEADER)
    assert read_log(path).header == HEADER


def test_a_log_in_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="create its folder") as info:
        LogWriter(tmp_path / "missing" / "run.jsonl")
    assert info.value.filename == str(tmp_path / "missing" / "run.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_is_a_folder_or_inside_a_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="log"):
        LogWriter(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="log"):
        LogWriter(tmp_path / "file" / "run.jsonl")


def test_a_folder_without_permission(tmp_path, monkeypatch):
    if os.geteuid() == 0:  # permissions do not bind root

        def deny(path, *rest):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr(os, "open", deny)
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"Permission denied.*another name"):
        LogWriter(tmp_path / "run.jsonl")
    monkeypatch.undo()
    tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_whole_lines_and_later_lines_follow(path, monkeypatch):
    writer = LogWriter(path)
    writer.write(HEADER)
    real, room = os.write, [9]

    def short(fd, data):
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(fd, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", short)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            writer.write(CHECK.to_line())
    monkeypatch.undo()
    assert strict_lines(path) == [HEADER]
    writer.write(CHECK.to_line())
    writer.close()
    assert [line["type"] for line in strict_lines(path)] == ["header", "check"]


def test_short_writes_are_completed(path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    write(path, HEADER, CHECK.to_line())
    monkeypatch.undo()
    assert Check.from_line(strict_lines(path)[1]) == CHECK


FILL_A_DISK = textwrap.dedent(
    """
    import errno, pathlib, sys
    from quests_md.log.logfile import LogWriter
    disk = pathlib.Path(sys.argv[1])
    (disk / "other").write_bytes(bytes(30_000))
    writer = LogWriter(disk / "run.jsonl")
    writer.write({"type": "header", "schema": 1})
    refused = written = 0
    while refused < 3:
        try:
            writer.write({"type": "note", "text": "x" * 333})
            written += 1
        except OSError as exc:
            assert exc.errno == errno.ENOSPC
            refused += 1
    (disk / "other").unlink()
    writer.write({"type": "note", "text": "there is room again"})
    writer.close()
    sys.stdout.write(f"{written}\\n{(disk / 'run.jsonl').read_text()}")
    """
)


def test_a_disk_that_is_really_full(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare to mount a small file system of its own")
    mount = 'mount -t tmpfs -o size=64k tmpfs "$1" || exit 77; shift; exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, "-c", FILL_A_DISK]
    run = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, cwd="/")
    if run.returncode == 77 or "unshare" in run.stderr:
        pytest.skip("may not mount here")
    assert run.returncode == 0, run.stderr
    written, *lines = run.stdout.splitlines()
    texts = [json.loads(line).get("text") for line in lines]
    assert int(written) > 50
    assert texts == [None, *["x" * 333] * int(written), "there is room again"]


def test_a_killed_process_loses_no_line_that_it_had_written(path):
    code = textwrap.dedent(
        f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parent)]!r}
        from dataclasses import replace
        from test_records import CHECK, HEADER, LogWriter
        writer = LogWriter({str(path)!r})
        writer.write(HEADER)
        step = 0
        while True:
            writer.write(replace(CHECK, step=step).to_line())
            print(step, flush=True)
            step += 1
        """
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) >= 500:
                break
        process.send_signal(signal.SIGKILL)
        told = [int(line) for line in process.stdout.read().splitlines() if line]
    steps = read_log(path).step
    assert process.returncode == -signal.SIGKILL
    np.testing.assert_array_equal(steps, np.arange(len(steps)))
    assert len(steps) > max(told, default=500)


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


def test_a_second_writer_on_the_same_new_log_is_refused(tmp_path):
    first = LogWriter(tmp_path / "run.jsonl")
    with pytest.raises(LogExistsError, match="being written by another monitor"):
        LogWriter(tmp_path / "run.jsonl")
    first.close()
    LogWriter(tmp_path / "run.jsonl").close()


# describe


def described(**changes):
    """The lines of an event as a mapping: what stands under each name."""
    first, *rest = replace(EVENT, **changes).describe().splitlines()
    found, name = {"": first}, ""
    for line in rest:
        assert line[:11].strip() or line.startswith(" " * 11)
        name = line[:11].strip() or name
        found[name] = f"{found[name]} {line[11:].strip()}" if name in found else line[11:]
    return found


def environment(atom, source="train.xyz", **changes):
    near = NearestEnvironment(distance=5.25, source=source, frame=4, atom=2)
    return replace(Environment(atom, "Cu", 12.5, 11, near), **changes)


def test_a_novel_event_in_words():
    found = described(environments=(environment(17), environment(3, "memory"), environment(4, nearest=None)))
    assert found == {
        "": "event 1: novel, steps 100 to 150",
        "means": "outside the reference; whether the potential fails here is not known",
        "began": "step 100, 0.05 ps, 300 K; confirmed at step 120",
        "alarms": "dh_max, dh_mean",
        "peak": "step 140: 2.5 nats beyond the level; 3 atoms above the level",
        "size": "1 atom above the level at the onset, at most 3, 3 at last",
        "worst": (
            "atom 17 (Cu): dH 12.5, 11 neighbours; 5.2 bandwidths from train.xyz frame 4 atom 2 "
            "atom 3 (Cu): dH 12.5, 11 neighbours; 5.2 bandwidths from known frame 4 atom 2 "
            "atom 4 (Cu): dH 12.5, 11 neighbours; an element that the reference has never seen"
        ),
    }


def test_an_event_of_the_first_release_in_words():
    found = described(onset_time_ps=None, onset_temperature_K=None, size_history=(), is_open=True, last_step=100)
    assert found[""] == "event 1: novel, step 100, still open"
    assert found["began"] == "step 100; confirmed at step 120"
    assert "size" not in found
    assert found["worst"] == "atom 17 (Cu); 7.5 bandwidths from train.xyz frame 3 atom 1"


def test_a_growing_phase_in_words():
    found = described(kind="transition", phase="fcc", cluster=145, n_atoms=150, size_history=((100, 30), (150, 145)))
    assert found["means"] == "a cluster of fcc grew to 145 atoms"
    assert found["peak"] == "step 140: 2.5 beyond the level; 150 atoms in the cluster of fcc"
    assert found["size"] == "30 atoms in the cluster of fcc at the onset, at most 145, 145 at last"


@pytest.mark.parametrize("reason", ["", "a connected cluster unlike the reference grew from 3 to 45 atoms by step 140"])
def test_a_transition_without_a_phase_claims_no_more_than_is_known(reason):
    nothing = {"n_atoms": 0, "worst_atom": None, "size_history": ((100, 0), (150, 0))}
    found = described(kind="transition", reason=reason, **nothing)
    what = reason or "the run differs from its own beginning"
    assert found["means"] == f"{what}; which phase is not known, a change of temperature can look the same"
    assert found["peak"] == "step 140: 2.5 beyond the level; no single atom is above the level"
    assert not {"size", "worst"} & set(found)


@pytest.mark.parametrize(
    ("changes", "means", "atoms"),
    [
        (
            {"reason": "atoms 3 and 4 are 0.31 Å apart", "peak_excess": math.inf, "atoms": (3, 4), "n_atoms": 2},
            "broken: atoms 3 and 4 are 0.31 Å apart",
            "2: 3, 4; the worst is 17 (Cu)",
        ),
        (
            {"reason": "12000 K", "peak_excess": math.inf, "atoms": (), "n_atoms": 0, "worst_atom": None},
            "broken: 12000 K",
            None,
        ),
        (
            {"peak_excess": math.nan, "atoms": tuple(range(50)), "n_atoms": 70, "worst_atom": None},
            "broken: non-finite numbers or no usable cell",
            "70: 0, 1, 2, 3, 4, 5, 6, 7, ...",
        ),
    ],
)
def test_an_explosion_in_words(changes, means, atoms):
    found = described(kind="exploded", alarms=(), **changes)
    assert found["means"] == means
    assert found.get("atoms") == atoms
    assert not {"alarms", "peak", "size", "worst"} & set(found)


@settings(max_examples=200, deadline=None)
@given(EVENTS, st.text(max_size=300), st.text(max_size=200))
def test_no_line_of_words_is_longer_than_100_characters(event, text, source):
    near = NearestEnvironment(distance=1e300, source=source, frame=2**40, atom=2**40)
    worst = replace(environment(2**40), nearest=near, delta_entropy=-1e300)
    for changes in ({}, {"reason": text}, {"nearest": near, "environments": (worst, worst)}):
        for line in replace(event, phase=None, **changes).describe().split("\n"):
            assert len(line) <= 100
            assert line.isprintable()


def test_a_long_name_of_a_file_keeps_its_end():
    source = f"/scratch/{'folder/' * 20}run_0001/vasprun.xml"
    lines = replace(EVENT, environments=(environment(17, source),)).describe().splitlines()
    assert lines[-2] == "  worst    atom 17 (Cu): dH 12.5, 11 neighbours; 5.2 bandwidths from"
    assert lines[-1].endswith("folder/run_0001/vasprun.xml frame 4 atom 2")
    assert lines[-1].strip().startswith("...")
    assert len(lines[-1]) == 100
