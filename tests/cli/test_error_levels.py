"""The command `calibrate-errors`: a file of labelled frames becomes a level that `score` takes."""

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from quests_md import Calibration, ErrorCalibration, Reference


@pytest.fixture(scope="session")
def labelled(folder):
    """Frames with forces in arrays named as one likes, larger errors where dH is larger."""
    reference, rng, frames = Reference.load(folder / "train.safetensors"), np.random.default_rng(1), []
    for amplitude in np.linspace(0.03, 0.12, 30):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.positions += rng.normal(0, amplitude, atoms.positions.shape)
        size = 0.1 * np.exp(0.2 * np.clip(reference.delta_entropy(atoms), -10, 10))[:, None]
        atoms.arrays["dft"] = rng.normal(size=(len(atoms), 3))
        atoms.arrays["mlip"] = atoms.arrays["dft"] + size * rng.normal(size=(len(atoms), 3))
        frames.append(atoms)
    write(folder / "labelled.xyz", frames)
    return "labelled.xyz"


OPTIONS = ("--true", "dft", "--model", "mlip", "--groups", "frame", "--share", "0.1", "--tolerance", "0.05")


def test_calibrate_errors_says_the_level_and_score_takes_its_file(quests_md, labelled, tmp_path):
    file = tmp_path / "errors.json"
    code, out, err = quests_md("calibrate-errors", "train.safetensors", labelled, *OPTIONS, "-o", file)
    assert code == 0, err
    assert "at most 10 % err by more than 0.05 and are not above the level" in " ".join(out.split())
    assert f"wrote {file}" in err
    calibration = Calibration.load(file)
    assert isinstance(calibration, ErrorCalibration)
    (level,) = calibration.frame_levels([29])
    assert f"dh_max of Cu <= {level.value:.2f} nats" in out
    code, out, err = quests_md("score", "run.xyz", "-r", "train.safetensors", "-c", file)
    assert code == 0
    assert "err by more than 0.05" in " ".join(err.split())
    states = [line.split("\t") for line in out.splitlines()]
    assert sum("out" in line for line in states) >= 5


def test_frames_by_their_mean(quests_md, labelled):
    code, out, _ = quests_md("calibrate-errors", "train.safetensors", labelled, *OPTIONS, "--statistics", "dh_mean")
    assert code == 0
    assert "dh_mean" in out
    assert "of frames, by their RMS error, likewise" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.xyz"], "expected an array 'dft'"),
        (["missing.xyz"], "no such file"),
        (["train.safetensors"], "the reference is the first argument"),
        (["labelled.xyz", "--share", "2"], "share: expected"),
        (["labelled.xyz", "--tolerance", "-1"], "tolerance: expected"),
        (["labelled.xyz", "--statistics", "local_mean"], "levels from labels are of dh_max and dh_mean"),
        (["labelled.xyz", "--model", "dft"], "'dft' twice"),
        (["labelled.xyz", "-o", "nowhere/x.json"], "the folder of nowhere/x.json does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(quests_md, labelled, arguments, words):
    options = [*OPTIONS[:4], *arguments[1:]]
    code, out, err = quests_md("calibrate-errors", "train.safetensors", arguments[0], *options)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
