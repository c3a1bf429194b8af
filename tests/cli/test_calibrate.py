import pytest

from quests_md import Calibration


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


@pytest.mark.slow
def test_calibrate_draws_the_null_distributions_of_all_statistics(quests_md, tmp_path):
    code, out, err = quests_md("calibrate", "train.safetensors", "--statistics", "all", "--plot", tmp_path / "n.png")
    assert (code, err) == (0, f"wrote {tmp_path / 'n.png'}\n")
    assert (tmp_path / "n.png").read_bytes()[:4] == b"\x89PNG"
    for name in ("dh_max", "dh_q99", "dh_mean", "n_tail", "tail_cluster", "frame_entropy"):
        assert f"  {name}" in out
    code, _, err = quests_md("calibrate", "train.safetensors", "--statistics", "dh_max,dh_min")
    assert code == 2
    assert err.startswith("error: statistics: expected names among")


@pytest.mark.slow
def test_calibrate_takes_frames_for_a_reference_and_separate_frames(quests_md):
    code, out, err = quests_md("calibrate", "train.xyz@:12", "--frames", "train.xyz@12:18", "--frames", "train.xyz@18:")
    assert code == 0
    assert "12 separate frames" in out
    assert err.startswith("building a reference from train.xyz@:12;")
