"""`quests-md select`: what it prints, what it writes, and what it refuses."""

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from typer.testing import CliRunner

from quests_md import Reference, score_trajectory
from quests_md.cli.app import app

#: Strains of the frames of the run; the reference has the first three.
STRAINS = [0.0, 0.002, 0.004, 0.05, 0.05, 0.08]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("select")
    rng = np.random.default_rng(0)

    def strained(strain):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
        atoms.rattle(0.03, rng=rng)
        return atoms

    known = [strained(strain) for strain in STRAINS[:3] for _ in range(8)]
    Reference.from_frames(known, groups="frame").save(path / "ref.safetensors")
    write(path / "run.extxyz", [strained(strain) for strain in STRAINS])
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["select", *map(str, arguments)])


def test_frames_are_chosen_printed_and_written(folder, tmp_path):
    out = tmp_path / "label.extxyz"
    result = run(folder / "run.extxyz", "-r", folder / "ref.safetensors", "-n", "2", "-o", out)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split("\t") == ["rank", "gain", "dh_max", "atoms", "strange", "nearest", "frame", "file"]
    assert {int(line.split("\t")[6]) for line in lines[1:3]} <= {3, 4, 5}
    assert "you asked for 2" in result.stderr
    written = read(out, ":")
    assert [frame.info["select_rank"] for frame in written] == [1, 2]
    assert written[0].info["from_frame"] == int(lines[1].split("\t")[6])


def test_a_log_of_a_scored_trajectory_stands_for_its_frames(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("run.extxyz", read(folder / "run.extxyz", ":"))
    list(score_trajectory("run.extxyz", folder / "ref.safetensors", log="run.jsonl"))
    result = run("run.jsonl", "-r", folder / "ref.safetensors", "-o", "label.extxyz")
    assert result.exit_code == 0, result.output
    assert {frame.info["from_frame"] for frame in read("label.extxyz", ":")} <= {3, 4, 5}
    result = run("run.jsonl", "run.extxyz", "-r", folder / "ref.safetensors", "-o", "other.extxyz")
    assert result.exit_code == 2
    assert "expected logs alone or frames alone" in result.stderr


def test_the_frames_of_a_log_are_found_from_any_folder_and_are_those_that_were_checked(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = read(folder / "run.extxyz", ":")
    write("run.extxyz", frames)
    list(score_trajectory("run.extxyz", folder / "ref.safetensors", log="run.jsonl"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    choose = ["../run.jsonl", "-r", folder / "ref.safetensors", "-o", "label.extxyz", "--force"]
    result = run(*choose)
    assert result.exit_code == 0, result.output
    assert {frame.info["from_frame"] for frame in read("label.extxyz", ":")} <= {3, 4, 5}

    write("../run.extxyz", frames[::-1])
    result = run(*choose)
    assert result.exit_code == 2
    assert "frame 3 is not the one that the log has checked" in result.stderr.replace("\n  ", " ")
    write("../run.extxyz", frames[:4])
    result = run(*choose)
    assert result.exit_code == 2
    assert "which the log has checked, is not there" in result.stderr.replace("\n  ", " ")
    (tmp_path / "run.extxyz").rename(tmp_path / "other.extxyz")
    result = run(*choose)
    assert result.exit_code == 2
    assert "none of these places" in result.stderr.replace("\n  ", " ")
    assert str(tmp_path / "elsewhere" / "run.extxyz") in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-n", "0"], "n: expected"),
        (["--max-dh", "nan"], "max_dh: expected"),
        (["-o", "run.traj"], "--output: expected a name that ends in .xyz, .extxyz"),
    ],
)
def test_misuse_is_named_before_anything_is_written(folder, tmp_path, arguments, message):
    out = tmp_path / "label.extxyz"
    result = run(folder / "run.extxyz", "-r", folder / "ref.safetensors", "-o", out, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not out.exists()


def test_inputs_are_never_written_over(folder):
    result = run(folder / "run.extxyz", "-r", folder / "ref.safetensors", "-o", folder / "run.extxyz", "--force")
    assert result.exit_code == 2
    assert "is read by this command too" in result.stderr


def test_nothing_to_choose_writes_nothing(folder, tmp_path):
    out = tmp_path / "label.extxyz"
    result = run(folder / "run.extxyz@:1", "-r", folder / "ref.safetensors", "-o", out, "--level", "1000")
    assert result.exit_code == 0, result.output
    assert "was not written" in result.stderr
    assert not out.exists()
