import json

import numpy as np
import pytest
from ase.io import write
from systems import copper

from quests_md import Event, read_log

COLUMNS = ["step", "time_ps", "n_atoms", "dh_mean", "dh_max", "n_above", "frame_entropy", "excess", "state", "alarms"]


def table(out):
    header, *rows = [line.split("\t") for line in out.splitlines()]
    assert header == COLUMNS
    return [dict(zip(header, row, strict=True)) for row in rows]


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
    atoms = copper(seed=1, rattle=0.06)
    atoms.set_momenta(np.full((32, 3), 30.0) * np.array([1, -1] * 16)[:, None])
    write(tmp_path / "hot.xyz", atoms)
    assert quests_md("score", tmp_path / "hot.xyz", "-r", "train.safetensors", "--fail-on-event")[0] == 0
    options = ["--max-temperature", atoms.get_temperature() - 1, "--fail-on-event", "--log", tmp_path / "hot.jsonl"]
    code, _, err = quests_md("score", tmp_path / "hot.xyz", "-r", "train.safetensors", *options)
    assert code == 4
    assert "event 1: exploded, step 0, still open" in err
    assert read_log(tmp_path / "hot.jsonl").header["max_temperature_K"] == options[1]


def test_score_reads_a_lammps_dump_that_does_not_name_elements(quests_md, tmp_path):
    atoms = copper(seed=1, rattle=0.06)
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
