import json
import re
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write
from systems import copper

from quests_md import Calibration, Event, Monitor, Reference, calibrate, read_log
from quests_md.show import moved_levels

#: Statistics of plain rows, which frames quieter than those of the reference do not leave.
KNOWN = ("-r", "train.safetensors", "--statistics", "dh_max,tail_cluster,dh_mean")
FIRST, LAST = ["step", "time_ps", "n_atoms", "dh_mean", "dh_max"], ["excess", "state", "alarms", "place"]
COLUMNS = [*FIRST, "tail_cluster", "n_above", "frame_entropy", *LAST]
SUMMARY = "11 checks, last at step 100: 6 in, 5 out, 0 invalid; 1 event: 1 novel, 1 still open\n"


def table(out, columns=COLUMNS):
    header, *rows = [line.split("\t") for line in out.splitlines()]
    assert header == columns
    return [dict(zip(header, row, strict=True)) for row in rows]


# reference build, info, merge


def test_build_writes_a_reference_with_its_scores_and_info_repeats_it(quests_md, tmp_path):
    code, out, err = quests_md("reference", "build", "train.xyz", "-o", tmp_path / "a b.safetensors")
    assert (code, err) == (0, f"wrote {tmp_path / 'a b.safetensors'}\n")
    reference = Reference.load(tmp_path / "a b.safetensors")
    assert reference.n_environments == 24 * 32
    said = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(" "))
    assert said["fingerprint"] == reference.fingerprint
    assert said["content"] == "768 environments in 24 frames"
    assert said["elements"] == "Cu 768"
    assert said["levels"].startswith("promise: ")
    assert "  local_max <= " in out
    code, again, err = quests_md("reference", "info", tmp_path / "a b.safetensors", "--verify")
    assert (code, err) == (0, "")
    assert again.startswith(out)
    likeliest, content = again[len(out) :].splitlines()
    assert likeliest.startswith("likeliest h none between 0.003 and 0.3 1/Å")
    assert content == "content     equals the checksums written at save"


def test_info_says_whether_there_are_averaged_rows(quests_md, tmp_path):
    old = Path(__file__).resolve().parents[1] / "data" / "version-0.1.0" / "copper.safetensors"
    for options, words in (
        ((), "kept beside the rows, h = 0.006 1/Å"),
        (("--average", 12), "the rows themselves"),
    ):
        quests_md("reference", "build", "train.xyz@:3", "-o", tmp_path / "new.safetensors", "--force", *options)
        _, out, _ = quests_md("reference", "info", tmp_path / "new.safetensors")
        assert f"averaged    rows averaged over neighbours: {words}" in out
    code, out, err = quests_md("reference", "info", old)
    assert (code, err) == (0, "")
    said = " ".join(out.split())
    assert "rows averaged over neighbours: none, made by an older version or merged with such" in said
    assert "build it again from its frames" in said


def test_build_passes_its_settings_on(quests_md, tmp_path):
    options = ["--k", 8, "--cutoff", 4.5, "--bandwidth", 0.02, "--match", "any", "--groups", "frame"]
    code, out, _ = quests_md("reference", "build", "train.xyz@:3", "-o", tmp_path / "x.safetensors", *options)
    assert code == 0
    reference = Reference.load(tmp_path / "x.safetensors")
    settings = {key: reference.settings[key] for key in ("k", "cutoff", "bandwidth", "match")}
    assert settings == {"k": 8, "cutoff": 4.5, "bandwidth": 0.02, "match": "any"}
    assert "content     96 environments in 3 frames" in out


def test_build_averages_rows(quests_md, tmp_path):
    code, out, _ = quests_md("reference", "build", "train.xyz@:3", "-o", tmp_path / "x.safetensors", "--average", 12)
    assert code == 0
    reference = Reference.load(tmp_path / "x.safetensors")
    assert (reference.settings["average"], reference.bandwidth) == (12, 0.006)
    assert "average = 12" in out


def test_build_sees_chemistry(quests_md, tmp_path):
    code, out, _ = quests_md("reference", "build", "train.xyz@:3", "-o", tmp_path / "x.safetensors", "--chemistry")
    assert code == 0
    assert Reference.load(tmp_path / "x.safetensors").settings["chemistry"] is True
    assert "chemistry = True" in out


def test_a_reference_of_one_frame_says_that_it_has_no_level(quests_md, tmp_path):
    with pytest.warns(UserWarning, match="the level is a guess"):
        code, out, _ = quests_md("reference", "build", "train.xyz@0", "-o", tmp_path / "one.safetensors")
    assert code == 0
    assert "content     32 environments in 1 frame\n" in out
    assert "promise: none" in out


def test_merge_joins_references(quests_md, tmp_path):
    quests_md("reference", "build", "gold.xyz", "-o", tmp_path / "gold.safetensors")
    files, both = ("train.safetensors", tmp_path / "gold.safetensors"), tmp_path / "both.safetensors"
    code, out, err = quests_md("reference", "merge", *files, "-o", both)
    assert (code, err) == (0, f"wrote {both}\n")
    assert Reference.load(both).elements == ("Cu", "Au")
    assert "elements    Cu 892, Au 4" in out
    assert "moved       adding these frames moved " in out


@pytest.mark.filterwarnings("ignore:.*the step does not grow")
def test_extend_adds_frames_and_says_which_levels_moved(quests_md, tmp_path):
    more = tmp_path / "more.safetensors"
    code, out, err = quests_md("reference", "extend", "train.safetensors", "gold.xyz", "-o", more)
    assert (code, err) == (0, f"wrote {more}\n")
    before, after = Reference.load("train.safetensors"), Reference.load(more)
    assert after.ancestors[0] == before.fingerprint
    assert after.elements == ("Cu", "Au")
    assert all(line in " ".join(out.split()) for line in moved_levels(calibrate(before), calibrate(after)))
    quests_md("calibrate", "train.safetensors", "-o", tmp_path / "old.json")
    code, _, err = quests_md("score", "train.xyz@:3", "-r", more, "-c", tmp_path / "old.json")
    assert (code, "carried from reference" in " ".join(err.split())) == (0, True)


def test_moved_levels_are_said_with_their_units():
    frames = [copper(2, seed=i, rattle=0.05) for i in range(20)]
    before = Reference.from_frames(frames, groups="frame")
    after = before.extend([copper(2, seed=100 + i, rattle=0.2) for i in range(20)], groups="frame")
    lines = moved_levels(calibrate(before), calibrate(after))
    a, b = (calibrate(x).alarm_levels([29] * 32)[0].value for x in (before, after))
    assert f"adding these frames moved local_mean from {a:.2f} to {b:.2f} deviations" in lines
    assert "levels of the reference before stay valid for the new one: give its calibration by --calibration" in lines
    assert moved_levels(calibrate(before), calibrate(before)) == ["adding these frames moved no level"]


# calibrate


def test_calibrate_says_the_level_and_writes_it(quests_md, tmp_path):
    code, out, err = quests_md("calibrate", "train.safetensors", "--false-alarms", 0.1, "-o", tmp_path / "c.json")
    assert (code, err) == (0, f"wrote {tmp_path / 'c.json'}\n")
    calibration = Calibration.load(tmp_path / "c.json")
    assert calibration.false_alarms == 0.1
    text, _, caught = out.partition("\n\n")
    tried, *sight = text.removesuffix(calibration.describe(32)).splitlines()
    assert tried == "24 frames of the reference, disturbed on purpose; the share of them that raises an alarm:"
    assert sight[0].startswith("caught: rattled 0.1 Å (100%)")
    assert sight[-1] == "not seen with these rows at any level: a stacking fault or a twin in a hot crystal"
    title, head, *rows = caught.splitlines()
    assert title == "out of 24 frames of the reference, one of each group, and the same disturbed:"
    assert head.split() == ["alarm", "by", "local_mean", "local_cluster", "local_max", "any"]
    assert [row.split("  ")[0] for row in rows[:4]] == ["level", "kind", "rate", "as they are"]
    assert rows[3].split()[-1] in ("0%", "4%")  # at most one frame of 24
    assert rows[5].startswith("rattled 0.2 Å")
    assert rows[5].split()[-1] == "100%"
    assert all(len(row) <= 80 for row in rows)


def test_calibrate_states_the_level_for_another_size(quests_md):
    code, out, _ = quests_md("calibrate", "train.safetensors", "--atoms", 320)
    assert code == 0
    assert "check of 320 atoms" in out
    assert "counted as 10 frames" in out


@pytest.mark.slow
@pytest.mark.parametrize("per", ["run", "ns"])
def test_calibrate_promises_nothing_per_run_of_unknown_length(quests_md, per):
    code, out, _ = quests_md("calibrate", "train.safetensors", "--per", per, "--false-alarms", "0.2")
    text = " ".join(out.split())
    assert code == 0
    assert "0.2 false alarms per check of" in text
    assert "these are the levels of one check" in text
    assert "--checks" in text
    known = quests_md("calibrate", "train.safetensors", "--per", per, "--false-alarms", "0.2", "--checks", "4")[1]
    assert "(4 looks)" in known
    assert "one check" not in known


def test_calibrate_draws_the_null_distributions_of_all_statistics(quests_md, tmp_path):
    code, out, err = quests_md("calibrate", "train.safetensors", "--statistics", "all", "--plot", tmp_path / "n.png")
    assert (code, err) == (0, f"wrote {tmp_path / 'n.png'}\n")
    assert (tmp_path / "n.png").read_bytes()[:4] == b"\x89PNG"
    for name in ("dh_max", "dh_q99", "dh_mean", "n_tail", "tail_cluster", "frame_entropy"):
        assert f"  {name}" in out


@pytest.mark.slow
def test_calibrate_takes_frames_for_a_reference_and_separate_frames(quests_md):
    code, out, err = quests_md("calibrate", "train.xyz@:12", "--frames", "train.xyz@12:18", "--frames", "train.xyz@18:")
    assert code == 0
    assert "12 separate frames" in out
    assert err.startswith("building a reference from train.xyz@:12;")


# score


def test_score_prints_every_frame_and_finds_the_event(quests_md, tmp_path):
    log, picture, flagged = tmp_path / "r n.jsonl", tmp_path / "r.png", tmp_path / "f.xyz"
    code, out, err = quests_md("score", "run.xyz", *KNOWN, "--log", log, "--plot", picture, "--save", flagged)
    assert code == 0
    rows = table(out)
    written = read_log(log)
    assert [int(row["step"]) for row in rows] == written.step.tolist() == list(range(0, 120, 10))
    assert [row["state"] for row in rows] == written.state.tolist() == ["in"] * 7 + ["out"] * 5
    np.testing.assert_allclose([float(row["dh_max"]) for row in rows], written.dh_max, atol=6e-5)
    np.testing.assert_allclose([float(row["time_ps"]) for row in rows], written.time_ps)
    assert "12 frames: 7 in, 5 out, 0 invalid; 1 event: 1 novel, 1 still open\nevent 1: novel, steps 70 to 110, " in err
    assert f"wrote {picture}\n" in err
    assert "\x1b" not in out + err
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert flagged.read_text(encoding="utf-8").count("delta_entropy") == 2  # the 1st and 2nd check since it opened
    _, again, _ = quests_md("score", "run.xyz", *KNOWN, "--workers", 3, "--threads", 1)
    assert again == out


def test_score_prints_what_is_judged_by_default(quests_md, tmp_path):
    code, out, err = quests_md("score", "run.xyz", *KNOWN[:2], "--log", tmp_path / "log")
    assert code == 0
    local = ["local_mean", "local_cluster", "local_max"]
    rows, written = table(out, [*FIRST, *local, "n_above", *LAST]), read_log(tmp_path / "log")
    for name in local:
        np.testing.assert_allclose([float(row[name]) for row in rows], written.further[name], atol=6e-5)
    assert {row["local_cluster"] for row in rows} <= {str(n) for n in range(33)}  # counts are whole numbers
    assert "deviations: how much farther a neighbourhood is from the reference" in err
    _, out, _ = quests_md("score", "run.xyz", *KNOWN[:2], "--values", "proven")
    table(out, [*FIRST[:3], *local, "n_above", *LAST])  # dH is not known


def test_score_leaves_a_sentinel_of_the_event(quests_md, tmp_path):
    file, log = tmp_path / "event", tmp_path / "log"
    assert quests_md("score", "quiet.xyz", *KNOWN, "--sentinel", file)[0] == 0
    assert not file.exists()
    assert quests_md("score", "run.xyz", *KNOWN, "--sentinel", file, "--log", log)[0] == 0
    event, [last] = Event.from_line(json.loads(file.read_text(encoding="utf-8"))), read_log(log).events
    assert (event.id, event.kind, event.onset_step) == (last.id, last.kind, last.onset_step) == (1, "novel", 70)
    said = f"error: --sentinel: {file} is there from an earlier run; remove it\n"
    assert quests_md("score", "run.xyz", *KNOWN, "--sentinel", file) == (2, "", said)


def test_score_with_a_largest_temperature(quests_md, tmp_path):
    atoms = copper(seed=1, rattle=0.06)
    atoms.set_momenta(np.full((32, 3), 30.0) * np.array([1, -1] * 16)[:, None])
    write(tmp_path / "hot.xyz", atoms)
    assert quests_md("score", tmp_path / "hot.xyz", *KNOWN, "--fail-on-event")[0] == 0
    options = ["--max-temperature", atoms.get_temperature() - 1, "--fail-on-event", "--log", tmp_path / "hot.jsonl"]
    code, _, err = quests_md("score", tmp_path / "hot.xyz", *KNOWN, *options)
    assert code == 4
    assert "event 1: exploded, step 0, still open" in err
    assert read_log(tmp_path / "hot.jsonl").header["max_temperature_K"] == options[1]


def test_score_calls_no_first_frame_an_explosion(quests_md, tmp_path):
    atoms = copper(seed=1, rattle=0.06)
    good = atoms.copy()
    atoms.positions[3] = np.nan
    write(tmp_path / "bad.traj", [atoms, good])
    code, out, err = quests_md("score", tmp_path / "bad.traj", *KNOWN, "--fail-on-event")
    assert (code, out) == (2, "")
    assert re.search(r"bad.traj: frame 0: positions: expected finite .*for atom 3; .* bad input", " ".join(err.split()))
    assert quests_md("score", f"{tmp_path / 'bad.traj'}@1:", *KNOWN, "--fail-on-event")[0] == 0


def test_score_reads_a_lammps_dump_that_does_not_name_elements(quests_md, tmp_path):
    atoms = copper(seed=1, rattle=0.06)
    edges = "".join(f"0.0 {length}\n" for length in atoms.cell.lengths())
    rows = "".join(f"{i + 1} 1 {x} {y} {z}\n" for i, (x, y, z) in enumerate(atoms.positions))
    (tmp_path / "run.lammpstrj").write_text(
        f"ITEM: TIMESTEP\n70\nITEM: NUMBER OF ATOMS\n32\nITEM: BOX BOUNDS pp pp pp\n{edges}"
        f"ITEM: ATOMS id type x y z\n{rows}"
    )
    code, _, err = quests_md("score", tmp_path / "run.lammpstrj", *KNOWN)
    assert code == 2
    assert "types" in err
    code, out, _ = quests_md("score", tmp_path / "run.lammpstrj", *KNOWN, "--types", "Cu")
    assert code == 0
    assert [(row["step"], row["state"]) for row in table(out)] == [("70", "in")]


def test_score_with_labelled_phases(quests_md, tmp_path):
    quests_md("reference", "build", "run.xyz@7:", "-o", tmp_path / "melt.safetensors")
    phases = ["--phase", "solid=train.safetensors", "--phase", f"melt={tmp_path / 'melt.safetensors'}"]
    code, _, err = quests_md("score", "run.xyz", *KNOWN, *phases, "--log", tmp_path / "log")
    assert (code, err.count("error")) == (0, 0)
    found = read_log(tmp_path / "log").phases
    assert list(found) == ["solid", "melt"]
    assert found["solid"][0] == 32
    assert found["melt"][-1] > found["melt"][0]


def test_score_with_a_calibration_file_and_with_a_rate(quests_md):
    with_file = quests_md("score", "quiet.xyz", *KNOWN, "-c", "train.json")
    with_rate = quests_md("score", "quiet.xyz", *KNOWN, "--false-alarms", "0.1")
    assert with_file == with_rate
    assert with_file[0] == 0
    assert "promise: 0.1 false alarms per check of 32 atoms were asked, 0.13 can be promised" in with_file[2]
    assert "6 frames: 6 in, 0 out, 0 invalid; 0 events\n" in with_file[2]


def test_score_at_checks_the_steps_of_a_log_alone(quests_md, tmp_path):
    code, some, _ = quests_md("score", "run.xyz@::3", *KNOWN, "--log", tmp_path / "some.jsonl")
    assert code == 0
    code, again, _ = quests_md("score", "run.xyz", *KNOWN, "--at", tmp_path / "some.jsonl")
    assert (code, again) == (0, some)
    assert [row["step"] for row in table(again)] == ["0", "30", "60", "90"]


def test_score_with_a_baseline_says_so_in_the_log(quests_md, tmp_path):
    assert quests_md("score", "run.xyz", *KNOWN[:2], "--log", tmp_path / "log", "--baseline-ps", 0.03)[0] == 0
    header = read_log(tmp_path / "log").header
    assert header["baseline_ps"] == 0.03
    assert "local_tail" in header["calibration"]["statistics"]


@pytest.mark.filterwarnings("ignore:.*the step goes back", "ignore:.*differ in more than numbers")
def test_score_takes_globs_and_slices(quests_md):
    code, out, _ = quests_md("score", "[rq]u*.xyz@::3", "run.xyz@-1", *KNOWN)
    assert code == 0
    assert [int(row["step"]) for row in table(out)] == [0, 30, 0, 30, 60, 90, 110]


def test_an_unknown_element_is_infinitely_new(quests_md, tmp_path):
    said = re.escape("Au (1 atom) is not in the reference, which has Cu: such atoms are above every level")
    with pytest.warns(UserWarning, match=said) as warned:
        code, out, err = quests_md("score", "gold.xyz", *KNOWN, "--log", tmp_path / "gold.jsonl")
    assert len(warned) == 1
    assert code == 0
    assert {row["dh_max"] for row in table(out)} == {"inf"}
    assert "since no frame that sets levels has Au" in " ".join(err.split())
    assert "too few groups" not in err.partition("event 1: ")[2]
    assert "an element that the reference has never seen" in " ".join(err.split())
    _, out, err = quests_md("events", tmp_path / "gold.jsonl", "--json")
    assert json.loads(out)[0]["peak_excess"] == "inf"  # JSON knows no infinite number
    assert err == ""
    summary, warning = quests_md("events", tmp_path / "gold.jsonl")[2].splitlines()
    assert summary.startswith("4 checks, last at step 30: 0 in, 4 out")
    assert warning.startswith("warning at step 0: 1 atoms of elements that the reference has never seen")


@pytest.mark.parametrize(
    ("trajectory", "options", "code"),
    [
        ("quiet.xyz", ["--fail-on-event"], 0),
        ("run.xyz", [], 0),
        ("run.xyz", ["--fail-on-event"], 3),
        ("run.xyz", ["--fail-on-event", "--patience", "9"], 0),
        ("broken.traj", ["--fail-on-event"], 4),
    ],
)
def test_exit_codes_are_graded_only_if_asked(quests_md, trajectory, options, code):
    assert quests_md("score", trajectory, *KNOWN, *options)[0] == code


@pytest.mark.filterwarnings("ignore:.*the step goes back")
@pytest.mark.parametrize(
    ("n", "options", "code"),
    [(9, [], 3), (8, [], 0), (5, ["--visits", "5"], 3), (9, ["--patience", "3"], 0), (4, ["--visits", "5"], 0)],
)
def test_short_departures_that_come_again_are_an_event(quests_md, folder, tmp_path, n, options, code):
    quiet, strange = read(folder / "run.xyz", "0"), read(folder / "run.xyz", "8")
    write(tmp_path / "again.xyz", [quiet, strange] * n)
    # 24 groups promise 3/25 by three statistics: nine departures in 20 checks, where 400 groups would need four
    command = ("score", tmp_path / "again.xyz", *KNOWN, "--log", tmp_path / "run.jsonl", "--fail-on-event", *options)
    code_of_score, _, err = quests_md(*command)
    assert code_of_score == code
    assert ("out 9 times within 17 checks" in " ".join(err.split())) == (n == 9 and code == 3)
    assert quests_md("events", tmp_path / "run.jsonl", "--fail-on-event")[0] == code


def test_visits_that_could_never_open_an_event_are_refused(quests_md):
    code, _, err = quests_md("score", "run.xyz", *KNOWN, "--visits", "15")
    assert code == 2
    assert "would never open an event" in " ".join(err.split())


def test_invalid_frames_are_counted(quests_md):
    code, out, err = quests_md("score", "broken.traj", *KNOWN)
    assert code == 0
    assert table(out)[-1] | {"time_ps": "", "place": ""} == dict.fromkeys(COLUMNS, "") | {
        "step": "40", "n_atoms": "32", "n_above": "0", "excess": "nan", "state": "invalid"
    }  # fmt: skip
    assert "5 frames: 4 in, 0 out, 1 invalid; 1 event: 1 exploded, 1 still open\nevent 1: exploded, step 40, " in err


# events


def test_events_are_a_table_or_json_on_stdout_and_a_summary_on_stderr(quests_md):
    code, out, err = quests_md("events", "run.jsonl")
    assert (code, err) == (0, SUMMARY)
    [event] = read_log("run.jsonl").events
    header, row = (line.split("\t") for line in out.splitlines())
    found = dict(zip(header, row, strict=True))
    assert header[:3] == ["id", "kind", "phase"]
    assert found["onset_step"] == "60"
    assert float(found["peak_excess"]) == pytest.approx(event.peak_excess, abs=6e-5)
    assert found["alarms"] == " ".join(event.alarms)
    code, described, _ = quests_md("events", "run.jsonl", "--details")
    assert (code, described) == (0, f"{out}\n{event.describe()}\n")
    assert max(map(len, event.describe().splitlines())) <= 80
    code, out, err = quests_md("events", "run.jsonl", "--json")
    assert (code, err) == (0, "")
    [line] = out.splitlines()
    assert Event.from_line(json.loads(line)[0]) == event


@pytest.mark.parametrize(
    ("kind", "ids", "code"),
    [(None, [1, 2, 3], 4), ("novel", [1], 3), ("novel, transition", [1, 2], 3), ("exploded,novel", [1, 3], 4)],
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


def test_events_are_drawn(quests_md, eventful, tmp_path):
    pictures = ("--plot", tmp_path / "p.pdf", "--growth", tmp_path / "g.png")
    code, _, err = quests_md("events", eventful, *pictures, "--fail-on-event")
    assert code == 4
    wrote = f"wrote {tmp_path / 'p.pdf'}\nwrote {tmp_path / 'g.png'}\n"
    assert err.endswith(f"{wrote}exit code 4: event 3 (exploded, 1 atom, since step 180)\n")
    assert (tmp_path / "p.pdf").read_bytes()[:4] == b"%PDF"
    assert (tmp_path / "g.png").read_bytes()[:4] == b"\x89PNG"
    assert quests_md("events", "run.jsonl", "--growth", tmp_path / "h.svg")[0] == 0
    assert (tmp_path / "h.svg").stat().st_size > 5000


def test_a_log_without_events_is_no_misuse(quests_md, tmp_path):
    log = tmp_path / "quiet.jsonl"
    quests_md("score", "quiet.xyz", *KNOWN, "--log", log)
    assert quests_md("events", log, "--json") == (0, "[]\n", "")
    code, out, err = quests_md("events", log, "--fail-on-event", "--growth", tmp_path / "quiet.svg")
    assert (code, len(out.splitlines())) == (0, 1)
    assert err == (
        "6 checks, last at step 50: 6 in, 0 out, 0 invalid; 0 events\n"
        "warning: --growth: log: expected an event with atoms whose number can be drawn, got none\n"
    )
    assert not (tmp_path / "quiet.svg").exists()


def test_a_log_of_a_killed_run_is_read(quests_md, folder, tmp_path):
    (tmp_path / "killed.jsonl").write_bytes((folder / "run.jsonl").read_bytes()[:-30])
    assert quests_md("events", tmp_path / "killed.jsonl")[0] == 0


@pytest.mark.filterwarnings("ignore:.*the step goes back")
def test_score_says_what_was_read_and_where_events_are(quests_md, folder, tmp_path):
    run = read(folder / "run.xyz", ":")
    write(tmp_path / "stage1.xyz", run[:6])
    write(tmp_path / "stage2.xyz", run)
    log = tmp_path / "log"
    code, out, err = quests_md("score", tmp_path / "stage1.xyz", tmp_path / "stage2.xyz", *KNOWN, "--log", log)
    said = " ".join(err.split())
    assert code == 0
    assert f"read: 18 frames of 2 files, {tmp_path}/stage1.xyz to {tmp_path}/stage2.xyz: 32 atoms of Cu" in said
    assert "periodic along a, b, c, steps 0 to 110, 0.05 ps apart" in said
    assert re.search(r"where frames 7 to 11 of \S*/stage2.xyz", said)
    places = [f"frame {i} of {tmp_path}/stage{stage}.xyz" for stage, n in ((1, 6), (2, 12)) for i in range(n)]
    assert [row["place"] for row in table(out)] == places
    found = read_log(log)
    assert [f"frame {i} of {found.sources[s]}" for s, i in zip(found.source, found.source_frame, strict=True)] == places
    _, out, _ = quests_md("events", log)
    header, row = (line.split("\t") for line in out.splitlines())
    event = dict(zip(header, row, strict=True))
    assert (event["onset_place"], event["last_place"]) == (places[13], places[17])
    with pytest.warns(UserWarning, match="12 checks of the 18 in the log have no frame"):  # by file and frame
        code, _, err = quests_md("score", tmp_path / "stage1.xyz", *KNOWN, "--at", log)
    assert (code, "read: 6 frames" in err) == (0, True)


def test_score_at_a_log_of_a_live_run_finds_frames_without_steps(quests_md, folder, tmp_path):
    run = read(folder / "run.xyz", ":")
    with Monitor(Reference.load(folder / "train.safetensors"), log=tmp_path / "live.jsonl") as monitor:
        for i, atoms in enumerate(run):
            if i % 2 == 0:
                monitor.check(atoms, step=10 * i)
    for atoms in run:
        atoms.info = {}
    write(tmp_path / "run.traj", run)
    code, out, _ = quests_md("score", tmp_path / "run.traj", *KNOWN, "--at", tmp_path / "live.jsonl")
    assert code == 0
    assert [row["step"] for row in table(out)] == [str(10 * i) for i in range(0, 12, 2)]
    assert [row["place"].split()[1] for row in table(out)] == [str(i) for i in range(0, 12, 2)]
    with pytest.warns(UserWarning, match="5 checks of the 6 in the log have no frame"):
        quests_md("score", f"{tmp_path}/run.traj@:2", *KNOWN, "--at", tmp_path / "live.jsonl")
    run[0].rattle(0.01)
    write(tmp_path / "strange.traj", run[0])
    code, _, err = quests_md("score", tmp_path / "strange.traj", *KNOWN, "--at", tmp_path / "live.jsonl")
    assert (code, "got none of its 6 checks" in err) == (2, True)


@pytest.mark.filterwarnings("ignore:.*the step goes back")
def test_score_at_a_log_whose_steps_stand_twice_in_the_trajectory(quests_md, folder, tmp_path):
    run = read(folder / "run.xyz", ":")
    with Monitor(Reference.load(folder / "train.safetensors"), log=tmp_path / "live.jsonl") as monitor:
        for atoms in run:
            monitor.check(atoms, step=atoms.info["step"])
    write(tmp_path / "same.xyz", [*run, *read(folder / "train.xyz", ":")])
    code, out, _ = quests_md("score", f"{tmp_path}/same.xyz", *KNOWN, "--at", tmp_path / "live.jsonl")
    assert [int(row["place"].split()[1]) for row in table(out)] == list(range(12))  # the very frames of the run
    for atoms in run:
        atoms.positions += 1e-5
    write(tmp_path / "twice.xyz", [*run, *run])
    code, _, err = quests_md("score", f"{tmp_path}/twice.xyz", *KNOWN, "--at", tmp_path / "live.jsonl")
    assert code == 2
    assert re.search("got step 0 at frame 0 of .* and at frame 12 of", " ".join(err.split()))


def test_boundaries_that_differ_are_told_before_the_first_check(quests_md, folder, tmp_path):
    free = read(folder / "quiet.xyz", ":")
    for atoms in free:
        atoms.pbc = False
    write(tmp_path / "free.xyz", free)
    with pytest.warns(UserWarning, match="the run are not periodic, all frames of the reference periodic"):
        assert quests_md("score", tmp_path / "free.xyz", *KNOWN)[0] == 0


def test_a_periodic_frame_without_cell_is_bad_input(quests_md, folder, tmp_path):
    text = re.sub('Lattice="[^"]*"', "", (folder / "quiet.xyz").read_text(encoding="utf-8"))
    (tmp_path / "bare.xyz").write_text(text, encoding="utf-8")
    code, _, err = quests_md("score", tmp_path / "bare.xyz", *KNOWN, "--fail-on-event")
    assert code == 2
    assert "without a cell vector along a, b, c" in err
