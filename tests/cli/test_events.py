import json

import pytest

from quests_md import read_log

SUMMARY = "11 checks, last at step 100: 6 in, 5 out, 0 invalid; 1 event: 1 novel, 1 still open\n"


def test_events_are_a_table_on_stdout_and_a_summary_on_stderr(quests_md):
    code, out, err = quests_md("events", "run.jsonl")
    assert (code, err) == (0, SUMMARY)
    [event] = read_log("run.jsonl").events
    header, row = (line.split("\t") for line in out.splitlines())
    found = dict(zip(header, row, strict=True))
    assert header[:3] == ["id", "kind", "phase"]
    assert found["onset_step"] == "60"
    assert float(found["peak_excess"]) == pytest.approx(event.peak_excess, abs=6e-5)
    assert found["alarms"] == " ".join(event.alarms)


def test_details_describe_every_event(quests_md):
    _, short, _ = quests_md("events", "run.jsonl")
    code, out, _ = quests_md("events", "run.jsonl", "--details")
    assert code == 0
    [event] = read_log("run.jsonl").events
    assert out == f"{short}\n{event.describe()}\n"
    assert max(map(len, event.describe().splitlines())) <= 100


@pytest.mark.parametrize(
    ("kind", "ids", "code"),
    [
        (None, [1, 2, 3], 4),
        ("novel", [1], 3),
        ("transition", [2], 3),
        ("novel, transition", [1, 2], 3),
        ("exploded,novel", [1, 3], 4),
        ("exploded", [3], 4),
    ],
)
def test_kinds_are_chosen_and_exit_codes_follow(quests_md, eventful, kind, ids, code):
    options = ["--fail-on-event"] + ([] if kind is None else ["--kind", kind])
    found, out, err = quests_md("events", eventful, *options)
    assert found == code
    assert [int(row.split("\t")[0]) for row in out.splitlines()[1:]] == ids
    assert err.startswith(
        "20 checks, last at step 190: 6 in, 13 out, 1 invalid; 3 events: 1 novel, 1 transition, 1 exploded; "
        "1 time out too shortly for an event; out since step 190, not long enough yet for an event\n"
    )
    found, out, _ = quests_md("events", eventful, "--json", *options)
    assert found == code
    assert [event["id"] for event in json.loads(out)] == ids
    assert {"phase", "reason", "cluster", "environments", "size_history"} <= set(json.loads(out)[0])


def test_growth_is_drawn(quests_md, eventful, tmp_path):
    code, _, err = quests_md("events", eventful, "--growth", tmp_path / "g.png")
    assert code == 0
    assert f"wrote {tmp_path / 'g.png'}\n" in err
    assert (tmp_path / "g.png").read_bytes()[:4] == b"\x89PNG"
    assert quests_md("events", "run.jsonl", "--growth", tmp_path / "h.svg")[0] == 0
    quests_md("score", "quiet.xyz", "-r", "train.safetensors", "--log", tmp_path / "quiet")
    code, _, err = quests_md("events", tmp_path / "quiet", "--growth", tmp_path / "quiet.svg")
    assert code == 0
    assert "warning: --growth: log: expected an event with atoms whose number can be drawn, got none\n" in err
    assert not (tmp_path / "quiet.svg").exists()
    assert (tmp_path / "h.svg").stat().st_size > 5000


def test_events_as_json_have_one_line_each(quests_md):
    code, out, err = quests_md("events", "run.jsonl", "--json")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 1
    [line] = json.loads(out)
    assert line["onset_step"] == 60
    assert line["nearest"]["source"].endswith("train.xyz")


def test_infinite_numbers_are_text_in_json(quests_md, tmp_path):
    quests_md("score", "gold.xyz", "-r", "train.safetensors", "--log", tmp_path / "gold.jsonl")
    _, out, err = quests_md("events", tmp_path / "gold.jsonl", "--json")
    assert json.loads(out)[0]["peak_excess"] == "inf"
    assert err == ""
    _, out, err = quests_md("events", tmp_path / "gold.jsonl")
    summary, warning = err.splitlines()
    assert summary.startswith("4 checks, last at step 30: 0 in, 4 out")
    assert warning.startswith("warning at step 0: 1 atoms of elements that the reference has never seen")


def test_a_log_without_events_is_an_empty_list(quests_md, tmp_path):
    quests_md("score", "quiet.xyz", "-r", "train.safetensors", "--log", tmp_path / "quiet.jsonl")
    assert quests_md("events", tmp_path / "quiet.jsonl", "--json") == (0, "[]\n", "")
    code, out, err = quests_md("events", tmp_path / "quiet.jsonl", "--fail-on-event")
    assert (code, err) == (0, "6 checks, last at step 50: 6 in, 0 out, 0 invalid; 0 events\n")
    assert len(out.splitlines()) == 1


def test_events_draws_and_grades(quests_md, tmp_path):
    code, _, err = quests_md("events", "run.jsonl", "--plot", tmp_path / "p.pdf", "--fail-on-event")
    assert (code, err) == (3, f"{SUMMARY}wrote {tmp_path / 'p.pdf'}\n")
    assert (tmp_path / "p.pdf").read_bytes()[:4] == b"%PDF"


def test_a_log_of_a_killed_run_is_read(quests_md, folder, tmp_path):
    (tmp_path / "killed.jsonl").write_bytes((folder / "run.jsonl").read_bytes()[:-30])
    assert quests_md("events", tmp_path / "killed.jsonl")[0] == 0
