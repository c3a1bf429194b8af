"""`quests-md cut`: what it prints, what it writes, and what it refuses."""

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from typer.testing import CliRunner

from quests_md import Reference
from quests_md.cli.app import app


def crystal(n, seed):
    atoms = bulk("Cu", cubic=True) * (n, n, n)
    atoms.rattle(0.08, seed=seed)
    return atoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cut")
    Reference.from_frames([crystal(3, seed) for seed in range(12)], groups="frame").save(path / "ref.safetensors")
    frames = [crystal(6, 50), crystal(6, 51)]
    del frames[1][300]
    write(path / "run.extxyz", frames)
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["cut", *map(str, arguments)])


def test_a_cell_for_each_cluster_is_printed_and_written(folder, tmp_path):
    out = tmp_path / "cells.extxyz"
    result = run(folder / "run.extxyz@1:", "-r", folder / "ref.safetensors", "-o", out, "--level", 5, "--core", 3)
    assert result.exit_code == 0, result.output
    header, *rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert header[:5] == ["atoms", "core", "buffer", "kind", "core_dh"]
    written = read(out, ":")
    fine = [row for row in rows if "fine" in row]
    assert [len(cell) for cell in written] == [int(row[0]) for row in fine]
    assert fine
    cell = written[0]
    assert cell.arrays["core"].sum() == int(fine[0][1])
    assert (cell.info["from_file"], cell.info["from_frame"]) == (str(folder / "run.extxyz"), 1)
    frame = read(folder / "run.extxyz", 1)
    core = cell.arrays["core"]
    steps = cell.positions[core] - frame.positions[cell.arrays["original_index"][core]]
    steps = (steps - steps[0]) @ np.linalg.inv(frame.cell.array)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)


def test_centers_need_no_reference(folder, tmp_path):
    out = tmp_path / "cells.extxyz"
    how = ("--center", "17,18", "--buffer", 3, "--max-atoms", 150, "--boundary", "vacuum")
    result = run(folder / "run.extxyz", "-o", out, *how)
    assert result.exit_code == 0, result.output
    cells = read(out, ":")
    assert len(cells) == 2
    for cell in cells:
        assert cell.info["cut_center"] == "17 18"
        assert not cell.pbc.any()


def test_marks_of_a_flagged_frame_are_cut_around(folder, tmp_path):
    frame = read(folder / "run.extxyz", 0)
    frame.set_array("select_strange", np.arange(len(frame)) == 40)
    write(tmp_path / "label.extxyz", frame)
    out = tmp_path / "cells.extxyz"
    result = run(tmp_path / "label.extxyz", "-r", folder / "ref.safetensors", "-o", out)
    assert result.exit_code == 0, result.output
    assert read(out, ":")[0].info["cut_center"] == "40"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--center", "1,x"], "--center: expected indices"),
        (["--center", "5000"], "run.extxyz frame 0: center: expected atoms from 0 to 863"),
        (["--center", "5", "--max-atoms", "20"], "needs a periodic cell of about"),
        ([], "--reference: expected"),
        (["--center", "5", "-o", "run.traj"], "--output: expected a name that ends in .xyz, .extxyz"),
    ],
)
def test_misuse_is_named_and_nothing_is_written(folder, tmp_path, arguments, message):
    out = tmp_path / "cells.extxyz"
    result = run(folder / "run.extxyz", "-o", out, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not out.exists()


def test_what_is_refused_is_told_and_written_on_demand(folder, tmp_path):
    out = tmp_path / "cells.extxyz"
    how = ("-r", folder / "ref.safetensors", "--center", 5, "--buffer", 1, "--boundary", "vacuum", "-o", out)
    result = run(folder / "run.extxyz@0", *how)
    assert result.exit_code == 0, result.output
    assert "refused: dH of the core changes" in result.stderr
    assert not out.exists()
    assert run(folder / "run.extxyz@0", *how, "--refused").exit_code == 0
    assert "dH of the core changes" in read(out).info["cut_refused"]
