"""`quests-md loop`: a loop described in a file, with labels of files."""

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.io import read, write
from typer.testing import CliRunner

from quests_md.cli.app import app
from tests.support.looped import known_and_start

TOML = """
starts = "start.xyz"
reference = "train.safetensors"
label = "files"
calculator = "my_models:first"
refit = "my_models:fit"
n_per_round = 3
steps = 60
interval = 5
max_rounds = 1

[dynamics]
temperature_K = 1500
timestep_fs = 4
friction_per_fs = 0.05
"""

MODELS = """
from ase.calculators.emt import EMT
first = EMT
def fit(frames):
    return EMT()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("toml")
    known, start = known_and_start()
    known.save(path / "train.safetensors")
    write(path / "start.xyz", start)
    (path / "run.toml").write_text(TOML)
    (path / "my_models.py").write_text(MODELS)
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["loop", *map(str, arguments)])


def test_a_loop_waits_for_labels_and_goes_on(folder):
    result = run(folder / "run.toml")
    assert result.exit_code == 5, result.output
    assert "waiting: 3 frames in" in result.stderr
    for path in (folder / "loop" / "to-label").glob("*.extxyz"):
        atoms = read(path)
        atoms.calc = EMT()
        atoms.get_forces()
        write(folder / "loop" / "labels" / path.name, atoms)
    result = run(folder / "run.toml")
    assert result.exit_code == 0, result.output
    assert "rounds: all 1 are done" in result.stderr
    header, row = result.stdout.splitlines()
    found = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    assert (found["labelled"], found["runs"]) == ("3", "event")
    assert np.isclose(float(found["force_error"]), 0.0, atol=1e-6)


def test_another_temperature_needs_another_folder(folder):
    (folder / "other.toml").write_text(TOML.replace("1500", "300"))
    result = run(folder / "other.toml")
    assert result.exit_code == 2
    assert "dynamics was {'temperature_K': 1500" in result.stderr.replace("\n  ", " ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('label = "files"', "", "expected starts, reference, label, dynamics, got no label"),
        ("steps = 60", "step = 60", "step: expected one of"),
        ('"my_models:fit"', '"my_models:fitt"', "refit: there is no fitt in my_models"),
        ('"my_models:fit"', '"nowhere:fit"', "refit: No module named 'nowhere'"),
        ('"my_models:fit"', '"fit"', "refit: expected 'module:name'"),
        ("temperature_K = 1500", "temperature_K = -1", "dynamics: temperature_K: expected a positive"),
        ("temperature_K = 1500", "kelvin = 1500", "dynamics: expected some of"),
        ("steps = 60", "steps = [", "expected a TOML file"),
        ("start.xyz", "none.xyz", "none.xyz"),
    ],
)
def test_faults_of_the_file_are_named(folder, old, new, message):
    (folder / "bad.toml").write_text(TOML.replace(old, new))
    result = run(folder / "bad.toml")
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n  ", " ")
