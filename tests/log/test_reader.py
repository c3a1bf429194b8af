"""A log read back: torn, damaged, strange, of the first release."""

import json
import math
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import CHECK, EVENT, HEADER, check_line, event_line, note, records, strict_lines, write

from quests_md import Check, Event, read_log
from quests_md.errors import FileFormatError
from quests_md.log import SCHEMA, LogHistory, LogWriter
from quests_md.log.lines import MAX_LINE_BYTES
from quests_md.records import CHECK_FIELDS


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(records(Check), max_size=4), st.lists(records(Event), max_size=4, unique_by=lambda event: event.id))
def test_records_come_back_as_they_were_from_strict_json(tmp_path_factory, checks, events):
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    write(path, HEADER, *[x.to_line() for x in checks], *[x.to_line() for x in events])
    lines = strict_lines(path)
    assert_same(checks, [Check.from_line(line) for line in lines if line["type"] == "check"])
    log = read_log(path)
    assert log.header == HEADER
    assert_same(sorted(events, key=lambda event: event.id), log.events)
    assert len(log) == len(checks)
    for name in CHECK_FIELDS:
        column = getattr(log, name)
        for i, value in enumerate(getattr(check, name) for check in checks):
            if name == "excesses":
                found = {statistic: numbers[i] for statistic, numbers in column.items()}
                np.testing.assert_equal(found, dict.fromkeys(column, math.nan) | value)
            elif isinstance(column, dict):
                assert {phase: int(numbers[i]) for phase, numbers in column.items() if numbers[i] >= 0} == (value or {})
            elif column.dtype.kind == "U":
                assert column[i] == (" ".join(value) if name == "alarms" else value or "")
            elif column.dtype.kind == "i":
                assert column[i] == (-1 if value is None else value)
            else:
                np.testing.assert_equal(column[i], math.nan if value is None else float(value))


def assert_same(ours, theirs):
    """Records with the same fields of the same types, NaN being equal to itself."""
    assert str(ours) == str(theirs)


def test_the_latest_state_of_an_event_counts_and_events_come_in_order(path):
    second = replace(EVENT, id=2, kind="exploded", nearest=None, centroid=None)
    opened = replace(EVENT, is_open=True, last_step=120)
    write(path, HEADER, second.to_line(), opened.to_line(), EVENT.to_line())
    assert read_log(path).events == [EVENT, second]


def test_file_names_of_any_kind_come_back(path):
    path = path.with_name("läuft-水.jsonl")
    names = ["Übung/水.xyz", "a\nb\u2028c.xyz", os.fsdecode(b"latin-\xe9.xyz"), "\U0001f9ca.xyz"]
    events = [replace(EVENT, id=i, nearest=replace(EVENT.nearest, source=name)) for i, name in enumerate(names)]
    write(path, HEADER, *[event.to_line() for event in events])
    assert len(path.read_bytes().splitlines()) == len(names) + 1
    assert [event.nearest.source for event in read_log(path).events] == names


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
    for length in range(0, ends[0], 7):
        path.write_bytes(data[:length])
        with pytest.raises(FileFormatError, match="without a complete line"):
            read_log(path)


def test_no_file(path):
    with pytest.raises(FileNotFoundError):
        read_log(path)


@pytest.mark.parametrize("schema", [SCHEMA + 1, "1", None, 1.5])
def test_a_newer_or_unknown_schema_is_refused(path, schema):
    write(path, HEADER | {"schema": schema})
    with pytest.raises(FileFormatError, match=f"schema {schema!r}.*up to {SCHEMA}.*update"):
        read_log(path)


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
        b'{"type": "note", "message": "' + b"x" * MAX_LINE_BYTES + b'"}',
        *(b'{"type": "check", "step"', b"\xff\xfe{}", b"", b"[1, 2]", b"3", b'{"step": 3}'),
        as_bytes({"type": "check", "step": 3}),
        as_bytes({"type": "event"}),
        as_bytes({name: value for name, value in event_line(1).items() if name != "atoms"}),
        *(as_bytes(check_line(0, **{name: 10**400})) for name in ("dh_max", "n_above", "time_ps")),
        *(as_bytes(check_line(0, **{name: True})) for name in ("dh_max", "n_above", "state", "digest")),
        *(as_bytes(check_line(0, **{name: [1]})) for name in ("dh_max", "worst_element", "phases", "alarms")),
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
        *(as_bytes(event_line(1) | {name: "x"}) for name in ("id", "peak_excess", "nearest", "environments")),
        *(as_bytes(event_line(1) | {name: None}) for name in ("id", "kind", "atoms", "alarms", "size_history")),
        *(as_bytes(event_line(1) | {name: [[1]]}) for name in ("id", "atoms", "size_history", "nearest", "is_open")),
        as_bytes(event_line(1) | {"size_history": [[1e400, 2]]}),
        *(as_bytes(event_line(1) | {name: "dh_max"}) for name in ("alarms", "kind", "is_open", "centroid")),
        *(as_bytes(check_line(0) | {name: "dh_max"}) for name in ("alarms", "state", "further", "interval")),
        *(
            as_bytes(check_line(0) | {name: 1.5})
            for name in ("largest_cluster", "n_colder", "tail_cluster", "interval")
        ),
        *(
            as_bytes(check_line(0) | {name: None})
            for name in ("frame", "n_atoms", "n_above", "excess", "state", "digest")
        ),
        *(as_bytes(note("a") | {name: [3]}) for name in ("level", "step", "message")),
        *(as_bytes({"type": "state"} | {name: "x"}) for name in ("files", "snapshot", "resumed", "frame", "step")),
        as_bytes({"type": "state", "files": {"a.xyz": "much"}}),
        as_bytes({"type": "state", "resumed": {"pid": "x"}}),
        *(as_bytes({"type": "reference"} | {name: "x"}) for name in ("chain", "reference", "calibration", "phases")),
        *(as_bytes({"type": "rewind", "frame": frame}) for frame in (None, "3", 1.0, True, 10**30)),
        as_bytes({"type": "rewind", "step": 3}),
        b'{"type": "rewind", "frame": -' + b"9" * 4000 + b"}",
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
        as_bytes(check_line(0, explosion="\ud800" * 100_000, digest="\x1b[31m" * 1000, alarms=["x" * 1000] * 1000)),
        as_bytes(event_line(1) | {"onset_time_ps": "inf", "centroid": ["nan", 1, 2.5], "of later versions": [3]}),
        as_bytes(check_line(0, of_later_versions=[3])),
        as_bytes(note("b") | {"level": "of later versions", "of later versions": {}}),
        b'{"type": "rewind", "frame": -99999, "of later versions": 3}',
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
    write(path, check_line(100), check_line(101, phases={"phase 101": 1}), resume=True)
    with pytest.raises(FileFormatError, match="at most 100 names"):
        read_log(path)


def test_a_phase_that_appears_late_and_one_that_goes(path):
    """Checks become arrays a hundred at a time."""
    phases = [*[None] * 150, {"a": 1}, *[{"b": 2}] * 100, {}, {"a": 3, "b": 4}]
    write(path, HEADER, *[check_line(frame, phases=found) for frame, found in enumerate(phases)])
    log = read_log(path)
    assert {name: numbers.tolist() for name, numbers in log.phases.items()} == {
        "a": [*[-1] * 150, 1, *[-1] * 101, 3],
        "b": [*[-1] * 151, *[2] * 100, -1, 4],
    }
    assert log.phase_clusters == {}


@pytest.mark.parametrize(
    "field",
    [
        {"version": 3},
        {"host": None},
        {"pid": "x"},
        {"reference": "abc123"},
        {"reference": {"elements": "Cu"}},
        {"reference": {"elements": [1]}},
        {"reference": {"n_environments": "many"}},
        {"reference": {"bandwidth": "wide"}},
        {"reference": {"fingerprint": 7}},
        {"calibration": []},
        {"calibration": {"level": "high"}},
        {"calibration": {"statistics": "dh_max"}},
        {"calibration": {"statistics": 3}},
        {"calibration": {"levels": {"dh_max": 3}}},
        {"calibration": {"levels": [{"statistic": "dh_max", "value": "x"}]}},
        {"calibration": {"rate": "often"}},
        {"calibration": {"per": 3}},
        {"calibration": {"tolerance": "large"}},
        {"calibration": {"n_groups": 1.5}},
        {"phases": "fcc"},
        {"phases": {"parent": 3}},
        {"phases": {"levels": {"fcc": 3}}},
        {"phases": {"levels": {"fcc": {"value": "x"}}}},
        {"baseline_ps": "long"},
        {"trigger": "never"},
        {"files": {"a.xyz": None}},
        {"values": 3},
    ],
    ids=str,
)
def test_a_header_of_wrong_types_is_refused_by_all_readers(path, field):
    path.write_bytes(as_bytes(HEADER | field) + b"\n" + as_bytes(check_line(0)) + b"\n")
    for read in (read_log, LogHistory, partial(LogWriter, resume=True)):
        with pytest.raises(FileFormatError, match=r"line 1 is not the header of a log of schema 1: \w+") as error:
            read(path)
        assert next(iter(field)) in str(error.value)


def test_two_logs_in_one_file_are_refused_with_what_to_do(path):
    write(path, HEADER, check_line(0), check_line(1))
    two = path.with_name("two logs.jsonl")
    two.write_bytes(2 * path.read_bytes())
    for read in (read_log, LogHistory, partial(LogWriter, resume=True)):
        with pytest.raises(FileFormatError, match="line 4 begins another log") as error:
            read(two)
        assert f"`tail -n +4 '{two}' > second.jsonl`" in str(error.value)
    two.write_bytes(path.read_bytes()[:-20] + path.read_bytes())
    with pytest.raises(FileFormatError, match=r"line 3 .* does another log begin in it\? A file holds one run"):
        read_log(two)
    first, second = path.with_name("first.jsonl"), path.with_name("second.jsonl")
    lines = (2 * path.read_bytes()).splitlines(keepends=True)
    first.write_bytes(b"".join(lines[:3]))
    second.write_bytes(b"".join(lines[3:]))
    assert len(read_log(first)) == len(read_log(second)) == 2
