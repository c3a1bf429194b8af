"""Misuse of the command line: said before any work, with the name and what to do."""

import codecs
import shutil

import pytest

SCORE = ("score", "run.xyz", "-r", "train.safetensors")


@pytest.mark.parametrize("name", ["folder", "", "nothing.jsonl", "loop", "run.jsonl/x", "x" * 300])
def test_a_log_that_cannot_be_read_is_named_with_what_to_do(quests_md, tmp_path, monkeypatch, folder, name):
    shutil.copy(folder / "run.jsonl", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    code, out, err = quests_md("events", name)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {name or '.'}: ")
    assert "Errno" not in err
    assert "; " in err


@pytest.mark.parametrize("option", ["--log", "--save", "--sentinel", "--plot"])
def test_a_link_to_itself_is_no_output(quests_md, tmp_path, option):
    suffix = ".png" if option == "--plot" else ""
    loop = tmp_path / f"loop{suffix}"
    loop.symlink_to(loop)
    more = ("--log", tmp_path / "run.jsonl") if option == "--plot" else ()
    code, out, err = quests_md(*SCORE, option, loop, *more)
    assert (code, out) == (2, "")
    assert "a link that leads to itself" in err
    assert loop.is_symlink()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--types", ","), "--types: expected names"),
        (("--types", "Cu,Qq"), "--types: expected symbols of elements such as Nb,Mo; got 'Qq'"),
        (("--statistics", "dh_max,"), "--statistics: expected names"),
        (("--statistics", "dh_most"), "--statistics: expected 'all' or some of"),
        (("--patience", "99999999999999999999"), "which would never open an event"),
        (("--visits", "11"), "which would never open an event"),
        (("--baseline-ps", "-1"), "--baseline-ps: expected a positive time"),
        (("--max-temperature", "nan"), "--max-temperature: expected a positive temperature"),
        (("--values", "some"), "--values: expected 'full'"),
        (("--workers", "0"), "--workers: expected an integer of at least 1"),
        (("--false-alarms", "2"), "--false-alarms: expected a rate"),
    ],
)
def test_options_are_checked_before_any_work(quests_md, folder, options, said):
    code, out, err = quests_md("score", "run.xyz", "-r", "train.xyz", *options)
    assert (code, out) == (2, "")
    assert said in err
    assert "building a reference" not in err  # which comes before levels


def test_a_log_with_a_byte_order_mark_is_read(quests_md, folder, tmp_path):
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(codecs.BOM_UTF8 + (folder / "run.jsonl").read_bytes())
    assert quests_md("events", marked)[:2] == quests_md("events", folder / "run.jsonl")[:2]
    code, _, err = quests_md("score", marked, "-r", "train.safetensors")
    assert code == 2
    assert "got the log of a run" in err
    wide = tmp_path / "wide.jsonl"
    wide.write_text((folder / "run.jsonl").read_text(encoding="utf-8"), encoding="utf-16")
    code, _, err = quests_md("events", wide)
    assert code == 2
    assert "UTF-16" in err
    assert "iconv" in err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("score", "self.xyz", "-r", "train.safetensors", "--save", "self.xyz"), "--save"),
        (("score", "./s*.xyz@1:", "-r", "train.safetensors", "--save", "self.xyz"), "--save"),
        (("score", "run.xyz", "-r", "self.xyz", "--save", "hard.xyz"), "--save"),
        (("score", "run.xyz", "-r", "self.xyz@:9", "--sentinel", "soft.xyz"), "--sentinel"),
        (("score", "self.xyz", "-r", "train.safetensors", "--log", "soft.xyz"), "--log"),
        (("score", "self.xyz", "-r", "train.safetensors", "--log", "soft.xyz", "--resume"), "--log"),
        (("score", "run.xyz", "-r", "train.safetensors", "--at", "log.jsonl", "--save", "log.jsonl"), "--save"),
        (("score", "run.xyz", "-r", "train.safetensors", "--log", "new", "--save", "./new"), "--save"),
        (("score", "run.xyz", "-r", "train.safetensors", "--save", "new", "--sentinel", "new"), "--sentinel"),
        (("calibrate", "self.safetensors", "-o", "self.safetensors", "--force"), "--output"),
        (("calibrate", "self.safetensors", "-o", "self.safetensors"), "--output"),
        (("calibrate", "train.safetensors", "--frames", "self.xyz", "-o", "soft.xyz", "--force"), "--output"),
        (("calibrate-errors", "train.safetensors", "self.xyz", "-o", "self.xyz", "--force"), "--output"),
        (("events", "log.jsonl", "--plot", "log.png"), "--plot"),
        (("events", "log.jsonl", "--plot", "new.png", "--growth", "new.png"), "--growth"),
    ],
)
def test_no_output_is_read_by_the_same_command(quests_md, folder, tmp_path, monkeypatch, command, option):
    for name in ("train.safetensors", "run.xyz"):
        shutil.copy(folder / name, tmp_path)
    for name, source in (
        ("self.xyz", "quiet.xyz"),
        ("self.safetensors", "train.safetensors"),
        ("log.jsonl", "run.jsonl"),
    ):
        shutil.copy(folder / source, tmp_path / name)
    (tmp_path / "hard.xyz").hardlink_to(tmp_path / "self.xyz")
    (tmp_path / "soft.xyz").symlink_to("self.xyz")
    (tmp_path / "log.png").symlink_to("log.jsonl")
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, out, err = quests_md(*command)
    assert (code, out) == (2, "")
    assert err.startswith(
        f"error: {option}: {command[command.index(option if option in command else '-o') + 1].removeprefix('./')} is "
    )
    assert "too; " in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["train.xyz", "broken.traj", "text.xyz"])
@pytest.mark.parametrize("option", ["--save", "--sentinel"])
def test_flagged_frames_and_events_go_to_no_other_file(quests_md, folder, name, option):
    before = (folder / name).read_bytes()
    code, out, err = quests_md("score", "run.xyz", "-r", "train.safetensors", option, name)
    assert (code, out) == (2, "")
    kind = "one of flagged frames" if option == "--save" else "the record of an event"
    assert f"error: {option}: {name}: expected a new file or {kind}" in err
    assert "choose another name" in err
    assert "remove" not in err
    assert (folder / name).read_bytes() == before


def test_flagged_frames_go_to_files_that_are_empty_or_of_them(quests_md, tmp_path):
    flagged = tmp_path / "flagged.xyz"
    flagged.touch()
    sizes = []
    for _ in range(2):
        assert quests_md(*SCORE, "--save", flagged)[0] == 0
        sizes.append(flagged.stat().st_size)
    assert sizes[1] == 2 * sizes[0] > 0


@pytest.mark.parametrize("there", [False, True])
def test_a_forgotten_option_of_the_output_is_told(quests_md, folder, tmp_path, monkeypatch, there):
    shutil.copy(folder / "train.xyz", tmp_path)
    (tmp_path / "reference.safetensors").touch()  # the output where none is given
    if there:
        shutil.copy(folder / "train.safetensors", tmp_path / "out.safetensors")
    monkeypatch.chdir(tmp_path)
    code, _, err = quests_md("reference", "build", "train.xyz", "out.safetensors")
    assert code == 2
    assert err.startswith("error: out.safetensors: expected frames; did you mean -o out.safetensors? ")


@pytest.mark.filterwarnings("ignore:left out 24 frame:UserWarning", "ignore:the reference holds no env:UserWarning")
def test_a_reference_without_environments_is_not_written(quests_md, folder, tmp_path):
    out = tmp_path / "o.safetensors"
    code, _, err = quests_md("reference", "build", "train.xyz", "--centers", "O", "-o", out)
    assert code == 2
    assert "expected environments to write, got none: 24 frames left out (no centers)" in " ".join(err.split())
    assert not out.exists()


def test_resuming_is_advised_for_logs_alone(quests_md, folder):
    code, _, err = quests_md(*SCORE, "--log", "train.xyz")
    assert code == 2
    assert "not a quests_md log; choose another name" in err
    assert "resume" not in err


def test_a_missing_reference_is_made_by_a_command(quests_md):
    code, _, err = quests_md("score", "run.xyz", "-r", "missing.safetensors")
    assert code == 2
    assert "quests-md reference build" in err


@pytest.mark.parametrize("name", ["train.xyz", "broken.traj"])
def test_frames_in_the_place_of_a_reference_are_named(quests_md, name):
    code, _, err = quests_md("reference", "info", name)
    assert code == 2
    assert f"{name}: expected a reference file, got a file of frames; `quests-md reference build`" in err
