"""Which lines of a log count, and how they are found without parsing all of it."""

import json
import os
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import HEADER, check_line, event_line, note, rewind, write

from quests_md import Event, read_log
from quests_md.errors import FileFormatError
from quests_md.log import LogHistory, LogWriter
from quests_md.log import lines as log_lines
from quests_md.log.lines import parse_line


def snapshot(frame):
    return {"type": "state", "frame": frame, "snapshot": {"checks": frame + 1}}


def naive_history(lines):
    """The lines that count, after the header: the rule as it is stated, on a list."""
    starts = [i for i, line in enumerate(lines) if line["type"] == "rewind"]
    kept = lines[: starts[0]] if starts else lines
    for start, end in pairwise([*starts, len(lines)]):
        after = lines[start + 1 : end]
        if all(line["type"] != "check" for line in after):
            continue
        frame = lines[start]["frame"]
        first = next((i for i, x in enumerate(kept) if x["type"] == "check" and x["frame"] >= frame), len(kept))
        kept = kept[:first] + after
    return [line for line in kept if line["type"] != "note"]


@st.composite
def runs(draw):
    """Lines of a run that is killed and taken up again at any of its frames, or before all of them."""
    lines, frame, event = [], 0, 0
    for _ in range(draw(st.integers(0, 40))):
        what = draw(st.sampled_from(["check"] * 6 + ["event", "event", "state", "note", "reference", "rewind", "gap"]))
        if what == "check":
            values = {"elapsed_us": draw(st.sampled_from([1.0, 1e300])), "step": draw(st.integers(0, 30))}
            lines.append(check_line(frame, **values))
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


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(runs(), st.sampled_from([(200, 200), (100, 1000), (1 << 12, 1 << 18)]))
def test_the_final_history_is_what_rewinds_leave(tmp_path_factory, lines, sizes):
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    write(path, HEADER, *lines)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()[1:]]
    kept = naive_history(lines)
    checks = [line for line in kept if line["type"] == "check"]
    events = {line["id"]: line for line in kept if line["type"] == "event"}
    history, log = LogHistory(path, page=sizes[0], block=sizes[1]), read_log(path)
    final = list(history.lines())
    assert [line for line, counts in history.every_line() if counts] == final
    assert [x.content for x in final if x.content["type"] not in ("note", "rewind")] == kept
    assert log.frame.tolist() == [line["frame"] for line in checks]
    assert log.digest.tolist() == [line["digest"] for line in checks]
    assert [event.to_line() for event in log.events] == [
        Event.from_line(events[number]).to_line() for number in sorted(events)
    ]
    assert log.notes == [line for line in lines if line["type"] == "note"]
    assert (
        log.rewinds
        == [line.content for line in history.rewinds]
        == [line for line in lines if line["type"] == "rewind"]
    )
    assert log.references == [line for line in kept if line["type"] == "reference"]
    assert (history.last.content if checks else history.last) == (checks[-1] if checks else None)
    for step in {line["step"] for line in checks} | {1, 3, 1000}:
        found = [line.content["frame"] for line in history.find("step", step)]
        assert found == [line["frame"] for line in reversed(checks) if line["step"] == step]
    assert [line.content for line in history.of_type("event")] == [x for x in kept[::-1] if x["type"] == "event"]
    assert history.end_after(None) == (next(history.find("frame", checks[0]["frame"])).start if checks else history.end)
    for check in checks:
        (found,) = history.find("digest", check["digest"])
        assert found.content == check
        assert json.loads(path.read_bytes()[found.start : found.end]) == check
        end = block_end(kept, check)
        start = max((i + 1 for i in range(end) if "snapshot" in kept[i]), default=0)
        snap, rest = history.since_snapshot(found)
        assert (snap and snap.content) == (kept[start - 1] if start else None)
        rest = [line.content for line in rest if line.content["type"] not in ("note", "rewind")]
        assert rest == kept[start:end]
        earlier = [line.content for line in history.of_type("check", before=found.start)]
        assert earlier == checks[: checks.index(check)][::-1]


def block_end(kept, check):
    """Index of the first check after this one, or the end."""
    later = [i for i, line in enumerate(kept) if line["type"] == "check" and line["frame"] > check["frame"]]
    return later[0] if later else len(kept)


def test_an_event_that_closed_after_the_point_of_return_is_open_again(path):
    opened, closed = event_line(1, last_step=10), event_line(1, last_step=20, is_open=False)
    write(
        path,
        HEADER,
        check_line(0),
        check_line(1),
        opened,
        check_line(2),
        closed,
        event_line(2),
        rewind(2),
        check_line(2),
    )
    (event,) = read_log(path).events
    assert event.is_open
    assert event.last_step == 10
    assert read_log(path).frame.tolist() == [0, 1, 2]


def test_a_rewind_that_no_check_follows_supersedes_nothing(path):
    begun = [rewind(1), {"type": "reference", "fingerprint": "other"}, note("resumed"), event_line(1, last_step=3)]
    write(path, HEADER, check_line(0), check_line(1), check_line(2), *begun)
    log = read_log(path)
    assert log.frame.tolist() == [0, 1, 2]
    assert (log.events, log.references) == ([], [])
    assert [line["message"] for line in log.notes] == ["resumed"]
    assert [line["frame"] for line in log.rewinds] == [1]
    path.unlink()
    write(path, HEADER, check_line(0), check_line(1), check_line(2), *begun, rewind(2), check_line(2, step=7))
    assert read_log(path).step.tolist() == [0, 10, 7]


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


def test_a_long_log_is_searched_without_being_parsed(path, monkeypatch):
    n = 4000
    writer = LogWriter(path)
    writer.write(HEADER)
    for start in range(0, n, 500):
        writer.write(*[check_line(frame) for frame in range(start, start + 500)], snapshot(start + 499))
    writer.write(rewind(n - 700), check_line(n - 700))
    writer.close()
    parsed = []
    monkeypatch.setattr(log_lines, "parse_line", lambda raw: parsed.append(1) or parse_line(raw))
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
