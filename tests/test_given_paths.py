"""References, calibrations and logs may be given by the names of their files; other files are recognised."""

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from systems import outside

from quests_md import (
    Calibration,
    FileFormatError,
    Monitor,
    Phases,
    Reference,
    calibrate,
    calibrate_errors,
    read_log,
    score_trajectory,
    sentinel,
)
from quests_md.calibration import power, sight
from quests_md.io import iter_frames
from quests_md.show import cluster_growth, null_distributions, timeline


def frames(n, seed, spread):
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.positions += rng.normal(0, spread, atoms.positions.shape)
        atoms.info["step"] = i
        found.append(atoms)
    return found


def labelled(n):
    found = frames(n, 5, 0.1)
    for atoms in found:
        atoms.arrays["forces"] = np.zeros((len(atoms), 3))
        atoms.arrays["model_forces"] = np.linspace(0, 0.3, 3 * len(atoms)).reshape(-1, 3)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    write(folder / "train.extxyz", frames(24, 0, 0.08))
    reference = Reference.from_frames(folder / "train.extxyz", groups="frame")
    reference.save(folder / "train.safetensors")
    Reference.from_frames(frames(24, 1, 0.3), groups="frame").save(folder / "wide.safetensors")
    levels = calibrate(reference, false_alarms=0.1, statistics=("dh_max",))
    levels.save(folder / "levels.json")
    run = frames(8, 2, 0.08)
    for atoms in run[2:]:
        atoms.positions = outside(atoms.info["step"]).positions
    write(folder / "run.extxyz", run)
    with Monitor(reference, levels, log=folder / "run.jsonl", actions=[sentinel(folder / "run.event")]) as monitor:
        for atoms in iter_frames(folder / "run.extxyz"):
            monitor.check(atoms.atoms)
    return folder


#: What takes a reference, a calibration or a log: a text of the result of each.
TAKEN = {
    "calibrate": (calibrate, "train.safetensors", lambda found: found.describe()),
    "calibrate_errors": (
        lambda reference: calibrate_errors(reference, labelled(6), share=0.3),
        "train.safetensors",
        lambda found: found.describe(),
    ),
    "power": (lambda reference: power(reference, calibrate(reference)), "train.safetensors", str),
    "power, calibration": (
        lambda levels: power(Reference.from_frames(frames(24, 0, 0.08), groups="frame"), levels),
        "levels.json",
        str,
    ),
    "sight": (lambda reference: sight([], reference), "train.safetensors", str),
    "score_trajectory": (
        lambda reference: list(score_trajectory(frames(3, 4, 0.08), reference)),
        "train.safetensors",
        lambda checks: [check.dh_max for check in checks],
    ),
    "Monitor": (
        lambda reference: Monitor(reference, log=None).check(frames(1, 4, 0.08)[0]),
        "train.safetensors",
        lambda check: check.to_line() | {"elapsed_us": 0},
    ),
    "Phases": (
        lambda reference: Phases({"a": reference, "b": Reference.from_frames(frames(24, 1, 0.3), groups="frame")}),
        "train.safetensors",
        repr,
    ),
    "merge": (lambda reference: Reference.merge([reference]), "train.safetensors", repr),
    "null_distributions": (null_distributions, "levels.json", lambda figure: figure.get_suptitle()),
    "timeline": (timeline, "run.jsonl", lambda figure: figure.get_suptitle()),
    "cluster_growth": (cluster_growth, "run.jsonl", lambda figure: figure.get_suptitle()),
}
LOAD = {".safetensors": Reference.load, ".json": Calibration.load, ".jsonl": read_log}


@pytest.mark.filterwarnings("ignore:.*could be held out")
@pytest.mark.parametrize("name", TAKEN)
def test_a_path_stands_for_what_the_file_holds(folder, name):
    function, file, text = TAKEN[name]
    expected = text(function(LOAD[(folder / file).suffix](folder / file)))
    assert text(function(folder / file)) == expected
    assert text(function(str(folder / file))) == expected


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_neither_is_refused_by_the_name_of_the_argument(name):
    function, _, _ = TAKEN[name]
    with pytest.raises(
        TypeError, match=r"^(references?|calibration|log|phases)[\[\]'a0]*: expected a \w+ or the name of its file"
    ):
        function(3.0)


def test_a_monitor_takes_names_of_files_in_all_its_arguments(folder):
    given = {"calibration": folder / "levels.json", "confirm": (folder / "wide.safetensors", None)}
    given["phases"] = {"cold": str(folder / "train.safetensors"), "hot": folder / "wide.safetensors"}
    with Monitor(folder / "train.safetensors", log=None, **given) as monitor:
        assert monitor.calibration.statistics == ("dh_max",)
        assert monitor.check(frames(1, 4, 0.08)[0]).phases is not None
        checks = score_trajectory(frames(2, 4, 0.08), folder / "train.safetensors", monitor=monitor)
        assert [check.state for check in checks] == ["in", "in"]
    reference = Reference.load(folder / "train.safetensors")
    grown = reference.extend(frames(3, 9, 0.1))
    grown.save(folder / "grown.safetensors")
    levels = Calibration.load(folder / "levels.json")
    assert levels.carried_to(folder / "grown.safetensors").fingerprint == grown.fingerprint
    levels.require(folder / "train.safetensors")


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (Reference.load, "a reference of quests_md"),
        (Reference.verify, "a reference of quests_md"),
        (Calibration.load, "a calibration of quests_md"),
        (read_log, "the log of a run"),
        (lambda path: list(iter_frames(path)), "frames"),
    ],
)
def test_other_files_of_quests_md_are_recognised_by_what_they_hold(folder, tmp_path, load, expected):
    for name, words in (
        ("train.safetensors", "a reference of quests_md (reference="),
        ("levels.json", "a calibration of quests_md (calibration="),
        ("run.jsonl", "the log of a run (read_log,"),
        ("run.event", "the record of an event"),
    ):
        if words.startswith(expected):
            continue
        file = tmp_path / "named anything.xyz"
        file.write_bytes((folder / name).read_bytes())
        with pytest.raises(FileFormatError) as error:
            load(file)
        assert str(error.value).startswith(f"{file}: expected {expected}, got {words}")
