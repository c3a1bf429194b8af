import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import logs
import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from ase.io.trajectory import Trajectory
from systems import outside

import quests_md.cli.app as cli
from quests_md import Calibration, Event, Reference, __version__, calibrate, read_log
from quests_md.log.logfile import LogWriter
from quests_md.monitor import Monitor
from quests_md.watch.actions import save_frame

QUESTS_MD = [sys.executable, "-c", "from quests_md.cli import main; main()"]
COLUMNS = ["step", "time_ps", "n_atoms", "dh_mean", "dh_max", "n_above", "frame_entropy", "excess", "state", "alarms"]


def crystal(rng, spread, n=0, element="Cu"):
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.positions += rng.normal(0, spread, atoms.positions.shape)
    atoms.symbols[:1] = element
    atoms.info |= {"step": 10 * n, "time_ps": 0.05 * n}
    return atoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small inputs of all kinds, under a name with a space and letters that are not ASCII."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("my dätä")
    train = [crystal(rng, 0.08) for _ in range(24)]
    write(folder / "train.xyz", train)
    write(folder / "quiet.xyz", [crystal(rng, 0.06, n) for n in range(6)])
    run = [crystal(rng, 0.06, n) for n in range(12)]
    for n in range(7, 12):
        run[n].positions = outside(n).positions
    write(folder / "run.xyz", run)
    with Trajectory(folder / "broken.traj", "w") as trajectory:
        for frame in run[:4]:
            trajectory.write(frame)
        run[4].positions[3, 1] = np.nan
        trajectory.write(run[4])
    write(folder / "gold.xyz", [crystal(rng, 0.06, n, "Au") for n in range(4)])
    (folder / "torn.xyz").write_text((folder / "run.xyz").read_text(encoding="utf-8")[:-200], encoding="utf-8")
    (folder / "empty.xyz").touch()
    (folder / "empty.safetensors").touch()
    (folder / "text.xyz").write_text("no atoms here\n", encoding="utf-8")
    reference = Reference.from_frames(folder / "train.xyz", groups="frame")
    reference.held_out_scores()
    reference.save(folder / "train.safetensors")
    (folder / "torn.safetensors").write_bytes((folder / "train.safetensors").read_bytes()[:5000])
    calibrate(reference, false_alarms=0.1).save(folder / "train.json")
    with Monitor(reference, log=folder / "run.jsonl", actions=[save_frame(folder / "flagged.xyz")]) as monitor:
        for check, atoms in enumerate(run[:4] + run[5:]):
            monitor.check(atoms, step=10 * check, time_ps=0.05 * check)
    return folder


@pytest.fixture
def quests_md(folder, monkeypatch, capfd):
    """Run the command line in this process, in the folder: exit code, stdout, stderr."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        capfd.readouterr()
        try:
            cli.app([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
        out, err = capfd.readouterr()
        return code, out, err

    return run


def table(out):
    header, *rows = [line.split("\t") for line in out.splitlines()]
    assert header == COLUMNS
    return [dict(zip(header, row, strict=True)) for row in rows]


# help and version


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), ("demo", "reference", "calibrate", "score", "events", "Exit codes", "[ -e quests-md.event ]")),
        (("demo",), ("--folder",)),
        (("reference",), ("build", "info", "merge")),
        (("reference", "build"), ("--output", "--k", "--cutoff", "--bandwidth", "--match", "--groups", "Å")),
        (("reference", "info"), ("--verify",)),
        (("reference", "merge"), ("--output",)),
        (("calibrate",), ("--false-alarms", "--per", "--atoms")),
        (("score",), ("--reference", "--log", "--plot", "--save", "--fail-on-event", "nats", "--sentinel")),
        (("score",), ("--phase", "NAME=FILE", "--types", "--max-temperature")),
        (("events",), ("--json", "--plot", "--fail-on-event", "--growth", "--kind", "--details")),
    ],
)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_commands_and_options(quests_md, monkeypatch, command, words, flag):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = quests_md(*command, flag)
    assert (code, err) == (0, "")
    for word in words:
        assert word in out
    assert max(map(len, out.splitlines())) <= 80
    assert "..." not in out.partition("Commands:")[2]  # no command's summary is cut


def test_the_version(quests_md):
    assert quests_md("--version") == (0, f"quests_md {__version__}\n", "")


# reference


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
    assert "  dh_max of Cu <= " in out
    code, again, err = quests_md("reference", "info", tmp_path / "a b.safetensors", "--verify")
    assert (code, err) == (0, "")
    assert again.startswith(out)
    likeliest, content = again[len(out) :].splitlines()
    assert likeliest.startswith("likeliest h none between 0.003 and 0.3 1/Å")
    assert content == "content     equals the checksums written at save"


def test_build_passes_its_settings_on(quests_md, tmp_path):
    options = ["--k", 8, "--cutoff", 4.5, "--bandwidth", 0.02, "--match", "any", "--groups", "frame"]
    code, out, _ = quests_md("reference", "build", "train.xyz@:3", "-o", tmp_path / "x.safetensors", *options)
    assert code == 0
    reference = Reference.load(tmp_path / "x.safetensors")
    settings = {key: reference.settings[key] for key in ("k", "cutoff", "bandwidth", "match")}
    assert settings == {"k": 8, "cutoff": 4.5, "bandwidth": 0.02, "match": "any"}
    assert "content     96 environments in 3 frames" in out


def test_a_reference_of_one_frame_says_that_it_has_no_level(quests_md, tmp_path):
    with pytest.warns(UserWarning, match="the level is a guess"):
        code, out, _ = quests_md("reference", "build", "train.xyz@0", "-o", tmp_path / "one.safetensors")
    assert code == 0
    assert "content     32 environments in 1 frame\n" in out
    assert "promise: none" in out


def test_merge_joins_references(quests_md, tmp_path):
    quests_md("reference", "build", "gold.xyz", "-o", tmp_path / "gold.safetensors")
    code, out, err = quests_md(
        "reference", "merge", "train.safetensors", tmp_path / "gold.safetensors", "-o", tmp_path / "both.safetensors"
    )
    assert (code, err) == (0, f"wrote {tmp_path / 'both.safetensors'}\n")
    assert Reference.load(tmp_path / "both.safetensors").elements == ("Cu", "Au")
    assert "elements    Cu 892, Au 4" in out


# calibrate


def test_calibrate_says_the_level_and_writes_it(quests_md, tmp_path):
    code, out, err = quests_md("calibrate", "train.safetensors", "--false-alarms", 0.1, "-o", tmp_path / "c.json")
    assert (code, err) == (0, f"wrote {tmp_path / 'c.json'}\n")
    calibration = Calibration.load(tmp_path / "c.json")
    assert calibration.false_alarms == 0.1
    promise, _, caught = out.partition("\n\n")
    assert promise == calibration.describe(32)
    title, head, *rows = caught.splitlines()
    assert title == "out of 24 frames of the reference, one of each group, and the same disturbed:"
    assert head.split() == ["alarm", "by", "dh_max", "Cu", "tail_cluster", "dh_mean", "any"]
    assert [row.split("  ")[0] for row in rows[:4]] == ["level", "kind", "rate", "as they are"]
    assert rows[3].split()[-1] == "0%"
    assert rows[5].startswith("rattled 0.2 Å")
    assert rows[5].split()[-1] == "100%"
    assert all(len(row) <= 80 for row in rows)


def test_calibrate_states_the_level_for_another_size(quests_md):
    code, out, _ = quests_md("calibrate", "train.safetensors", "--atoms", 320)
    assert code == 0
    assert "check of 320 atoms" in out
    assert "counted as 10 frames" in out


def test_calibrate_draws_the_null_distributions_of_all_statistics(quests_md, tmp_path):
    code, out, err = quests_md("calibrate", "train.safetensors", "--statistics", "all", "--plot", tmp_path / "n.png")
    assert (code, err) == (0, f"wrote {tmp_path / 'n.png'}\n")
    assert (tmp_path / "n.png").read_bytes()[:4] == b"\x89PNG"
    for name in ("dh_max", "dh_q99", "dh_mean", "n_tail", "tail_cluster", "frame_entropy"):
        assert f"  {name}" in out
    code, _, err = quests_md("calibrate", "train.safetensors", "--statistics", "dh_max,dh_min")
    assert code == 2
    assert err.startswith("error: statistics: expected names among")


def test_calibrate_takes_frames_for_a_reference_and_separate_frames(quests_md):
    code, out, err = quests_md("calibrate", "train.xyz@:12", "--frames", "train.xyz@12:18", "--frames", "train.xyz@18:")
    assert code == 0
    assert "12 separate frames" in out
    assert err.startswith("building a reference from train.xyz@:12;")


# score


def test_score_prints_every_frame_and_finds_the_event(quests_md, tmp_path):
    log, picture, flagged = tmp_path / "r n.jsonl", tmp_path / "r.png", tmp_path / "f.xyz"
    code, out, err = quests_md(
        "score", "run.xyz", "-r", "train.safetensors", "--log", log, "--plot", picture, "--save", flagged
    )
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


def test_score_leaves_a_sentinel_of_the_event(quests_md, tmp_path):
    file = tmp_path / "event"
    code, _, _ = quests_md("score", "quiet.xyz", "-r", "train.safetensors", "--sentinel", file)
    assert code == 0
    assert not file.exists()
    log = tmp_path / "log"
    assert quests_md("score", "run.xyz", "-r", "train.safetensors", "--sentinel", file, "--log", log)[0] == 0
    event, [last] = Event.from_line(json.loads(file.read_text(encoding="utf-8"))), read_log(log).events
    assert (event.id, event.kind, event.onset_step) == (last.id, last.kind, last.onset_step) == (1, "novel", 70)
    code, out, err = quests_md("score", "run.xyz", "-r", "train.safetensors", "--sentinel", file)
    assert (code, out) == (2, "")
    assert err == f"error: --sentinel: {file} is there from an earlier run; remove it\n"


def test_score_with_a_largest_temperature(quests_md, tmp_path):
    atoms = crystal(np.random.default_rng(1), 0.06)
    atoms.set_momenta(np.full((32, 3), 30.0) * np.array([1, -1] * 16)[:, None])
    write(tmp_path / "hot.xyz", atoms)
    assert quests_md("score", tmp_path / "hot.xyz", "-r", "train.safetensors", "--fail-on-event")[0] == 0
    options = ["--max-temperature", atoms.get_temperature() - 1, "--fail-on-event", "--log", tmp_path / "hot.jsonl"]
    code, _, err = quests_md("score", tmp_path / "hot.xyz", "-r", "train.safetensors", *options)
    assert code == 4
    assert "event 1: exploded, step 0, still open" in err
    assert read_log(tmp_path / "hot.jsonl").header["max_temperature_K"] == options[1]


def test_score_reads_a_lammps_dump_that_does_not_name_elements(quests_md, tmp_path):
    atoms = crystal(np.random.default_rng(1), 0.06)
    edges = "".join(f"0.0 {length}\n" for length in atoms.cell.lengths())
    rows = "".join(f"{i + 1} 1 {x} {y} {z}\n" for i, (x, y, z) in enumerate(atoms.positions))
    (tmp_path / "run.lammpstrj").write_text(
        f"ITEM: TIMESTEP\n70\nITEM: NUMBER OF ATOMS\n32\nITEM: BOX BOUNDS pp pp pp\n{edges}"
        f"ITEM: ATOMS id type x y z\n{rows}"
    )
    code, _, err = quests_md("score", tmp_path / "run.lammpstrj", "-r", "train.safetensors")
    assert code == 2
    assert "types" in err
    code, out, _ = quests_md("score", tmp_path / "run.lammpstrj", "-r", "train.safetensors", "--types", "Cu")
    assert code == 0
    assert [(row["step"], row["state"]) for row in table(out)] == [("70", "in")]


def test_score_with_labelled_phases(quests_md, tmp_path):
    quests_md("reference", "build", "run.xyz@7:", "-o", tmp_path / "melt.safetensors")
    log = tmp_path / "log"
    phases = ["--phase", "solid=train.safetensors", "--phase", f"melt={tmp_path / 'melt.safetensors'}"]
    code, _, err = quests_md("score", "run.xyz", "-r", "train.safetensors", *phases, "--log", log)
    assert (code, err.count("error")) == (0, 0)
    found = read_log(log).phases
    assert list(found) == ["solid", "melt"]
    assert found["solid"][0] == 32
    assert found["melt"][-1] > found["melt"][0]


def test_score_with_a_calibration_file_and_with_a_rate(quests_md):
    with_file = quests_md("score", "quiet.xyz", "-r", "train.safetensors", "-c", "train.json")
    with_rate = quests_md("score", "quiet.xyz", "-r", "train.safetensors", "--false-alarms", "0.1")
    assert with_file == with_rate
    assert with_file[0] == 0
    assert "promise: 0.1 false alarms per check of 32 atoms were asked, 0.13 can be promised" in with_file[2]
    assert "6 frames: 6 in, 0 out, 0 invalid; 0 events\n" in with_file[2]


def test_score_is_the_same_for_any_number_of_workers(quests_md):
    one = quests_md("score", "run.xyz", "-r", "train.safetensors", "--threads", 1)
    assert one[0] == 0
    assert quests_md("score", "run.xyz", "-r", "train.safetensors", "--workers", 3) == one


def test_score_at_checks_the_steps_of_a_log_alone(quests_md, tmp_path):
    log = tmp_path / "some.jsonl"
    code, some, _ = quests_md("score", "run.xyz@::3", "-r", "train.safetensors", "--log", log)
    assert code == 0
    code, again, _ = quests_md("score", "run.xyz", "-r", "train.safetensors", "--at", log)
    assert (code, again) == (0, some)
    assert [row["step"] for row in table(again)] == ["0", "30", "60", "90"]


def test_score_with_a_baseline_says_so_in_the_log(quests_md, tmp_path):
    log = tmp_path / "run.jsonl"
    code, _, _ = quests_md("score", "run.xyz", "-r", "train.safetensors", "--log", log, "--baseline-ps", 0.03)
    assert code == 0
    assert read_log(log).header["baseline_ps"] == 0.03
    assert "frame_entropy" in read_log(log).header["calibration"]["statistics"]


def test_score_takes_globs_and_slices(quests_md):
    code, out, _ = quests_md("score", "[rq]u*.xyz@::3", "run.xyz@-1", "-r", "train.safetensors")
    assert code == 0
    assert [int(row["step"]) for row in table(out)] == [0, 30, 0, 30, 60, 90, 110]


def test_an_unknown_element_is_infinitely_new(quests_md):
    code, out, err = quests_md("score", "gold.xyz", "-r", "train.safetensors")
    assert code == 0
    assert {row["dh_max"] for row in table(out)} == {"inf"}
    assert "an element that the reference has never seen" in err


@pytest.mark.parametrize(
    ("trajectory", "options", "code"),
    [
        ("quiet.xyz", ["--fail-on-event"], 0),
        ("run.xyz", [], 0),
        ("run.xyz", ["--fail-on-event"], 3),
        ("run.xyz", ["--fail-on-event", "--patience", "9"], 0),
        ("broken.traj", [], 0),
        ("broken.traj", ["--fail-on-event"], 4),
    ],
)
def test_exit_codes_are_graded_only_if_asked(quests_md, trajectory, options, code):
    assert quests_md("score", trajectory, "-r", "train.safetensors", *options)[0] == code


def test_invalid_frames_are_counted(quests_md):
    code, out, err = quests_md("score", "broken.traj", "-r", "train.safetensors")
    assert code == 0
    assert table(out)[-1] | {"time_ps": ""} == dict.fromkeys(COLUMNS, "") | {
        "step": "40", "n_atoms": "32", "n_above": "0", "excess": "nan", "state": "invalid"
    }  # fmt: skip
    assert "5 frames: 4 in, 0 out, 1 invalid; 1 event: 1 exploded, 1 still open\nevent 1: exploded, step 40, " in err


# events


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


@pytest.fixture
def eventful(folder, tmp_path):
    """A log with an event of each kind, and two times out too shortly."""
    log, checks = tmp_path / "eventful.jsonl", []
    for i, letter in enumerate("ioiooooiiooootttiixo"):
        state = {"i": "in", "x": "invalid"}.get(letter, "out")
        checks.append(logs.invalid(i) if letter == "x" else logs.check(i, 5.0 if state == "out" else 0.0))
    events = [
        logs.event(checks, 3, 6, size_history=((30, 2), (60, 20))),
        logs.event(checks, 9, 15, id=2, kind="transition", phase="fcc", size_history=((90, 20), (150, 90))),
        logs.event(checks, 18, 18, id=3, kind="exploded", peak_excess=float("nan")),
    ]
    header = json.loads((folder / "run.jsonl").read_text(encoding="utf-8").splitlines()[0])
    writer = LogWriter(log)
    writer.write(header, *(record.to_line() for record in [*checks, *events]))
    writer.close()
    return log


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


# misuse: one line that says what and where, exit code 2, nothing written

REFERENCE = ("-r", "train.safetensors")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        # what is not there
        (("score", "nothing*.xyz", *REFERENCE), "nothing*.xyz: no file matches this pattern"),
        (("score", "missing.xyz", *REFERENCE), "missing.xyz: no such file"),
        (("score", ".", *REFERENCE), "expected a file, got a folder"),
        (("score", "run.xyz@90:", *REFERENCE), "'@90:' selects none of the 12 frames"),
        (("score", "run.xyz", "-r", "missing.safetensors"), "missing.safetensors: expected a reference file"),
        (("score", "run.xyz", "-r", "missing.xyz"), "missing.xyz: no such file"),
        (("score", "run.xyz", *REFERENCE, "-c", "missing.json"), "missing.json: expected a calibration file"),
        (("events", "missing.jsonl"), "missing.jsonl: No such file"),
        (("reference", "info", "missing.safetensors"), "missing.safetensors: expected a reference file"),
        # one kind of file for another
        (
            ("score", "train.safetensors", "-r", "run.xyz"),
            "train.safetensors: expected frames; a reference is given by",
        ),
        (("score", "run.jsonl", *REFERENCE), "run.jsonl: expected a format known to ASE"),
        (("score", "train.json", *REFERENCE), "train.json: frame 0: expected format"),
        (("score", "run.xyz", "-r", "run.jsonl"), "run.jsonl: expected a format known to ASE"),
        (("score", "run.xyz", *REFERENCE, "-c", "train.safetensors"), "train.safetensors: not a calibration file"),
        (("score", "run.xyz", *REFERENCE, "-c", "run.jsonl"), "run.jsonl: not a calibration file"),
        (("reference", "build", "train.safetensors"), "references are merged by `quests-md reference merge`"),
        (("reference", "info", "run.xyz"), "run.xyz: expected a reference file"),
        (("reference", "merge", "train.safetensors", "run.jsonl", "-o", "x.safetensors"), "run.jsonl: expected a ref"),
        (("events", "train.json"), "train.json: line 1 is not JSON"),
        (("events", "train.safetensors"), "train.safetensors: line 1 is not JSON"),
        (("events", "run.xyz"), "run.xyz: line 1"),
        (("calibrate", "run.jsonl"), "run.jsonl: expected a format known to ASE"),
        # empty and torn
        (("score", "empty.xyz", *REFERENCE), "empty.xyz: the file holds no frames"),
        (("score", "text.xyz", *REFERENCE), "text.xyz: frame 0, line 1: expected the number of atoms"),
        (("score", "run.xyz", "-r", "empty.safetensors"), "empty.safetensors: expected a reference file of 0 bytes"),
        (("score", "run.xyz", "-r", "torn.safetensors"), "torn.safetensors: expected a reference file"),
        (("reference", "build", "torn.xyz"), "torn.xyz: frame 11"),
        (("events", "empty.xyz"), "empty.xyz: expected a quests_md log"),
        # numbers
        (("score", "run.xyz", *REFERENCE, "--false-alarms", "0"), "false_alarms: expected a rate between 0 and 1"),
        (("score", "run.xyz", *REFERENCE, "--false-alarms", "nan"), "false_alarms: expected a rate between 0 and 1"),
        (("calibrate", "train.safetensors", "--false-alarms", "1e9"), "false_alarms: expected a rate between 0 and 1"),
        (("calibrate", "train.safetensors", "--per", "hour"), "per: expected 'check', 'ns' or 'run', got 'hour'"),
        (("calibrate", "train.safetensors", "--atoms", "-5"), "--atoms: expected an integer of at least 1, got -5"),
        (("calibrate", "train.safetensors", "--seed", "-1"), "--seed: expected an integer of at least 0, got -1"),
        (("calibrate", "train.safetensors", "--threads", "0"), "--threads: expected an integer of at least 1, got 0"),
        (("score", "run.xyz", *REFERENCE, "--threads", "0"), "--threads: expected an integer of at least 1, got 0"),
        (("score", "run.xyz", *REFERENCE, "--workers", "0"), "workers: expected a positive integer, got 0"),
        (("score", "run.xyz", *REFERENCE, "--patience", "0"), "patience: expected an integer of at least 1, got 0"),
        (("score", "run.xyz", *REFERENCE, "--values", "exact"), "values: expected 'auto', 'full' or 'proven'"),
        (("reference", "build", "train.xyz", "--k", "0"), "k: expected a positive integer of at most 1024, got 0"),
        (("reference", "build", "train.xyz", "--cutoff", "-1"), "cutoff: expected a positive finite number in Å"),
        (("reference", "build", "train.xyz", "--bandwidth", "nan"), "bandwidth: expected a positive finite number"),
        (("reference", "build", "train.xyz", "--match", "x"), "match: expected 'element' or 'any', got 'x'"),
        # outputs, refused before the work
        (("reference", "build", "train.xyz", "-o", "a/x.safetensors"), "--output: the folder of a/x.safetensors does"),
        (("reference", "build", "train.xyz", "-o", "x.txt"), "--output: expected a name that ends in .safetensors"),
        (("calibrate", "train.safetensors", "-o", "a/x.json"), "--output: the folder of a/x.json does not exist"),
        (("score", "run.xyz", *REFERENCE, "--log", "a/x.jsonl"), "--log: the folder of a/x.jsonl does not exist"),
        (("score", "run.xyz", *REFERENCE, "--log", "."), "--log: . is a folder; name a file in it"),
        (("score", "run.xyz", *REFERENCE, "--save", "a/x.xyz"), "--save: the folder of a/x.xyz does not exist"),
        (("score", "run.xyz", *REFERENCE, "--plot", "x.png"), "--plot: needs the log; give --log run.jsonl too"),
        (("score", "run.xyz", *REFERENCE, "--log", "x.jsonl", "--plot", "x.foo"), "--plot: expected a name that ends"),
        (("events", "run.jsonl", "--plot", "a/x.png"), "--plot: the folder of a/x.png does not exist"),
        (("score", "run.xyz", *REFERENCE, "--log", "run.jsonl"), "log: run.jsonl already holds a run of 11 checks"),
        (("events", "run.jsonl", "--growth", "x.foo"), "--growth: expected a name that ends in"),
        (
            ("events", "run.jsonl", "--kind", "novel,new"),
            "--kind: expected some of novel,transition,exploded, got 'new'",
        ),
        (("score", "run.xyz", *REFERENCE, "--sentinel", "a/x"), "--sentinel: the folder of a/x does not exist"),
        (("score", "run.xyz", *REFERENCE, "--phase", "fcc"), "--phase: expected NAME=FILE such as fcc=fcc.safetensors"),
        (("score", "run.xyz", *REFERENCE, "--phase", "a=b", "--phase", "a=c"), "--phase: 'a' is given twice"),
        (("score", "run.xyz", *REFERENCE, "--max-temperature", "-1"), "max_temperature_K: expected"),
        # what does not go together
        (("score", "run.xyz", *REFERENCE, "-c", "train.json", "--false-alarms", "0.1"), "give one of the two"),
    ],
)
def test_misuse_gives_one_line_and_exit_code_2(quests_md, folder, arguments, said):
    before = {file: file.stat().st_size for file in folder.iterdir()}
    code, out, err = quests_md(*arguments)
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert len(last) < 1100
    assert "Traceback" not in err
    assert {file: file.stat().st_size for file in folder.iterdir()} == before


def test_settings_that_differ_are_refused_with_both_values(quests_md, tmp_path):
    quests_md("reference", "build", "train.xyz@:3", "-o", tmp_path / "x.safetensors", "--bandwidth", "0.02")
    code, _, err = quests_md(
        "reference", "merge", "train.safetensors", tmp_path / "x.safetensors", "-o", tmp_path / "y.safetensors"
    )
    assert code == 2
    assert "0.015" in err
    assert "0.02" in err
    code, _, err = quests_md("score", "run.xyz", "-r", tmp_path / "x.safetensors", "-c", "train.json")
    assert code == 2
    assert err.startswith("error: calibration: made for reference ")


def test_an_output_without_permission_is_refused_before_the_work(quests_md, monkeypatch):
    monkeypatch.setattr(cli.os, "access", lambda path, mode: False)  # root may write everywhere
    code, _, err = quests_md("reference", "build", "train.xyz", "-o", "x.safetensors")
    assert code == 2
    assert err == "error: --output: x.safetensors cannot be written (no permission); choose another name\n"


def test_too_little_memory_is_one_line(quests_md, monkeypatch):
    def fail(*_args, **_kwargs):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(cli.Reference, "load", fail)
    code, _, err = quests_md("reference", "info", "train.safetensors")
    assert code == 2
    assert err == "error: out of memory (Unable to allocate 9 TiB); give fewer frames, or a smaller k\n"


def test_an_unknown_command_or_option_is_exit_code_2(quests_md):
    for arguments in (("bogus",), ("score",), ("score", "run.xyz", "-r", "train.safetensors", "--bogus")):
        code, out, err = quests_md(*arguments)
        assert (code, out) == (2, "")
        assert "Error: " in err


def test_the_demo_is_given_a_free_folder(quests_md, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "run_demo", lambda folder, say: asked.append(folder))
    (tmp_path / "d").mkdir()
    assert quests_md("demo", "--folder", tmp_path / "d")[0] == 0
    assert asked == [tmp_path / "d-2"]


# real processes: pipes, signals, terminals


def start(*arguments, cwd, **options):
    environment = os.environ | {"TERM": "xterm-256color", "PYTHONUNBUFFERED": ""}
    environment.pop("COLUMNS", None)
    return subprocess.Popen([*QUESTS_MD, *map(str, arguments)], cwd=cwd, env=environment | options.pop("env", {}),
                            stdin=subprocess.DEVNULL, **options)  # fmt: skip


@pytest.fixture
def fed(folder, tmp_path):
    """A pipe that stands for a trajectory which goes on: write frames to it when you like."""
    path = tmp_path / "live.xyz"
    os.mkfifo(path)
    text = (folder / "run.xyz").read_text(encoding="utf-8")
    n = len(text.splitlines()) // 12
    frames = ["\n".join(text.splitlines()[i * n : (i + 1) * n]) + "\n" for i in range(12)]
    return path, frames


def pseudo_terminal(columns):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return ours, theirs


class Screen(threading.Thread):
    """Takes what a process writes to a pseudo-terminal, as it comes, until the process ends."""

    def __init__(self, ours):
        super().__init__(daemon=True)
        self.ours, self.pieces = ours, []
        self.start()

    def run(self):
        try:
            while piece := os.read(self.ours, 65536):
                self.pieces.append(piece)
        except OSError:  # Linux says so when the other side is closed
            pass
        os.close(self.ours)

    def text(self):
        self.join(60)
        return b"".join(self.pieces).decode()


def test_a_torn_trajectory_is_scored_up_to_the_tear_with_one_line_of_warning(folder):
    process = start("score", "torn.xyz", *REFERENCE, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = (text.decode() for text in process.communicate(timeout=60))
    assert process.returncode == 0
    assert len(table(out)) == 11
    [warning] = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "torn.xyz: frame 11" in warning
    assert "11 frames: " in err


def test_a_reader_that_leaves_is_not_an_error(folder):
    ours, theirs = os.pipe()
    os.close(ours)
    process = start("score", "run.xyz", *REFERENCE, cwd=folder, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"Traceback" not in err
    assert b"rror" not in err


def test_an_interrupt_is_exit_code_130_and_keeps_the_log(folder, fed, tmp_path):
    path, frames = fed
    log = tmp_path / "log.jsonl"
    process = start("score", path, *REFERENCE, "--log", log, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with path.open("w", encoding="utf-8") as feed:
        feed.write("".join(frames[:5]))
        feed.flush()
        lines = [process.stdout.readline() for _ in range(5)]  # the header and four frames at least
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith(b"interrupted\n")
    assert b"Traceback" not in err
    assert len(read_log(log)) >= len(lines) - 1


def feed_slowly(path, frames):
    with path.open("w", encoding="utf-8") as feed:
        for i, frame in enumerate(frames):
            feed.write(frame)
            feed.flush()
            if i == 4:
                time.sleep(1.2)


def test_the_bar_is_on_a_terminal_and_the_data_in_the_pipe(folder, fed):
    path, frames = fed
    ours, theirs = pseudo_terminal(80)
    process = start("score", path, *REFERENCE, cwd=folder, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    screen = Screen(ours)
    feed_slowly(path, frames)
    out = process.communicate(timeout=60)[0].decode()
    shown = screen.text()
    assert process.wait(timeout=60) == 0
    assert len(table(out)) == 12
    assert "\x1b" not in out
    assert "scoring frames" in shown
    assert shown.replace("\r", "").rpartition("\x1b")[2].count("event 1: novel") == 1  # the bar has gone before


def test_there_is_no_bar_without_a_terminal(folder, fed):
    path, frames = fed
    process = start("score", path, *REFERENCE, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    feed_slowly(path, frames)
    out, err = (text.decode() for text in process.communicate(timeout=60))
    assert len(table(out)) == 12
    assert "scoring frames" not in err
    assert "\x1b" not in err


@pytest.mark.parametrize("terminal", ["xterm-256color", "dumb"])
def test_a_terminal_gets_columns_and_folded_lines(folder, terminal):
    ours, theirs = pseudo_terminal(80)
    process = start(
        "score", folder / "run.xyz", *REFERENCE, cwd=folder, stdout=theirs, stderr=theirs, env={"TERM": terminal}
    )
    os.close(theirs)
    shown = Screen(ours).text().replace("\r\n", "\n")
    assert process.wait(timeout=60) == 0
    assert "scoring frames" not in shown  # the lines show how far it is
    lines = shown.splitlines()
    [first] = [i for i, line in enumerate(lines) if line.split() == COLUMNS[:-1]]
    rows = lines[first : first + 13]
    assert {len(line) for line in rows} == {len(lines[first])}
    assert len(lines[first]) <= 80
    assert "\t" not in shown
    assert [line.split()[-1] for line in rows[1:]] == ["in"] * 7 + ["out"] * 5
    # a path may be longer than the terminal: it is not broken
    assert all(len(line) <= 80 or len(line.split()) == 1 for line in lines)


@pytest.mark.parametrize("columns", [80, 100])
def test_events_in_a_terminal_are_a_table_with_the_open_and_latest_described(eventful, tmp_path, columns):
    ours, theirs = pseudo_terminal(columns)
    process = start("events", eventful, cwd=tmp_path, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = Screen(ours).text().replace("\r\n", "\n")
    assert process.wait(timeout=60) == 0
    lines = shown.splitlines()
    [first] = [i for i, line in enumerate(lines) if line.split()[:2] == ["id", "kind"]]
    assert [line.split()[:2] for line in lines[first + 1 : first + 4]] == [
        ["1", "novel"],
        ["2", "transition"],
        ["3", "exploded"],
    ]
    assert "\t" not in shown
    assert "\nevent 2: transition" in shown
    assert "\nevent 3: exploded" in shown
    assert "\nevent 1:" not in shown
    assert all(len(line) <= columns for line in lines)
