import os
from dataclasses import replace

import logs
import pytest
from logs import INF

from quests_md.records import FramePlace
from quests_md.show.tables import EVENT_COLUMNS, check_rows, event_rows, fold, latest

STEPS = {"onset_step": 100, "onset_time_ps": 0.05, "confirmed_step": 120, "last_step": 150}
EVENT = replace(logs.EVENT, **STEPS, peak_excess=2.5, n_atoms=3, alarms=("dh_max", "dh_mean"))
LONG = replace(
    EVENT,
    id=312,
    kind="transition",
    phase="a phase of a long name",
    onset_step=1_234_567,
    onset_time_ps=617.28,
    confirmed_step=1_234_697,
    last_step=12_345_678,
    peak_excess=123.456,
    n_atoms=54_321,
    cluster=54_300,
    is_open=True,
    alarms=("dh_max", "dh_mean", "tail_cluster", "frame_entropy_drift", "phase_cluster"),
)


def test_in_a_pipe_every_column_is_there_with_all_it_holds():
    placed = replace(EVENT, onset_place=FramePlace("a.xyz", 3), last_place=FramePlace("b.xyz", 0))
    header, first, second, third = (
        row.split("\t") for row in event_rows([placed, LONG, replace(EVENT, phase="a\tb\nc")], None)
    )
    assert header == [*EVENT_COLUMNS, "onset_place", "peak_place", "last_place"]
    assert first[-3:] == ["frame 3 of a.xyz", "", "frame 0 of b.xyz"]
    assert first[:-3] == ["1", "novel", "", "100", "0.05", "120", "150", "2.5", "3", "", "closed", "dh_max dh_mean"]
    found = dict(zip(header, second, strict=True))
    assert found["phase"] == "a phase of a long name"
    assert found["alarms"] == " ".join(LONG.alarms)
    assert found["state"] == "open"
    assert third[2] == "a b c"  # a phase cannot break a row
    assert event_rows([], None) == ["\t".join(header)]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize(
    "events",
    [
        [EVENT],
        [EVENT, LONG],
        [LONG] * 3,
        [replace(EVENT, kind="exploded", alarms=(), peak_excess=INF, onset_time_ps=None)],
        [replace(EVENT, peak_excess=1e300), replace(LONG, peak_excess=float("nan"))],
    ],
)
def test_a_table_fits_its_terminal_and_is_aligned(events, width):
    header, *rows = event_rows(events, width)
    assert len(rows) == len(events)
    assert max(map(len, [header, *rows])) <= width
    for name, is_word in (("kind", True), ("id", False), ("peak", False), ("began", False)):
        at = header.index(name) if is_word else header.index(name) + len(name) - 1
        edge = at - 1 if is_word else at + 1
        assert {row[edge] for row in rows} == {" "}, name
        assert " " not in {row[at] for row in rows}, name
    for row, one in zip(rows, events, strict=True):
        assert row.split()[0] == str(one.id)
        assert one.kind in row
        assert str(one.onset_step) in row


def test_a_wide_terminal_has_all_a_narrow_one_the_most_important():
    wide, row = event_rows([LONG], 200)
    for name in EVENT_COLUMNS.values():
        assert name in wide
    assert row.endswith("open   dh_max dh_mean tail_cluster frame_entropy_drift phase_cluster")
    assert "a phase o..." in row
    header, row = event_rows([LONG], 100)
    assert "dh_max +4" in row
    assert "last out" in header
    header, row = event_rows([LONG], 80)
    missing = [name for name in EVENT_COLUMNS.values() if name not in header]
    assert missing == ["at ps", "confirmed", "last out", "cluster"]


def test_columns_without_content_are_left_out():
    header, _ = event_rows([replace(EVENT, onset_time_ps=None, alarms=())], 100)
    assert not {"phase", "cluster", "at ps", "alarms"} & {name.strip() for name in header.split("  ")}


def test_open_and_latest_events_matter_first():
    events = [replace(EVENT, id=i, is_open=i == 2) for i in range(1, 8)]
    assert [one.id for one in latest(events)] == [2, 6, 7]
    assert latest([]) == []


@pytest.mark.parametrize("width", [80, 100, 120, 250])
@pytest.mark.parametrize(
    "statistics",
    [
        (),
        ("dh_max",),
        ("local_mean", "local_cluster", "local_max"),
        ("dh_max", "tail_cluster", "dh_mean"),
        ("dh_max", "dh_mean", "local_max", "local_cluster"),
    ],
)
def test_checks_fit_a_terminal_with_a_column_for_all_that_is_judged(statistics, width):
    further = {"local_mean": 0.5, "local_cluster": 12.0, "local_max": 1234567.0, "local_tail": 3.0}
    check = replace(logs.CHECK, step=1_000_000, time_ps=1234.5, further=further, tail_cluster=7, alarms=("dh_max",))
    (header, nothing), (row, found) = check_rows([check], width, statistics)
    assert (nothing, found) == (None, check)
    assert max(len(header), len(row)) <= width
    names = header.replace("out by", "alarms").split()
    assert {"step", "state", "alarms", *statistics} <= set(names)
    assert ("frame_entropy" in names) <= (not statistics or not statistics[0].startswith("local"))
    if width == 250:
        cells = dict(zip(names, row.split(), strict=True))
        assert cells["alarms"] == "dh_max"
        assert cells.get("local_cluster", "12") == "12"
        assert cells.get("local_max", "1.2e+06") == "1.2e+06"


def test_what_follows_an_item_is_indented_deeper_than_the_item(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = "promise: " + "words " * 12 + "\n  local_mean <= 0.75 deviations: " + "words " * 12
    ends = os.openpty()
    with os.fdopen(ends[0], "rb"), os.fdopen(ends[1], "w", encoding="utf-8") as terminal:
        lines = fold(text, terminal).split("\n")
        named = fold(
            f"{'levels':<12}{'words ' * 12}\n{'':<12}{'words ' * 12}\n{'':<14}{text[-80:]}", terminal, indent=12
        )
    depths = [len(line) - len(line.lstrip()) for line in lines]
    assert depths[:2] == [0, 2]
    assert (depths[-2:], lines[-2].split()[0]) == ([2, 4], "local_mean")
    assert max(map(len, lines)) <= 60
    depths = [len(line) - len(line.lstrip()) for line in named.split("\n")]
    assert depths == [0, 12, 12, 14, 14, 16]
