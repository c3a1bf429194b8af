"""What version 0.1.0 wrote is read by this one, says the same, and its runs can be taken up again."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from safetensors.numpy import load_file

from quests_md import (
    Calibration,
    Descriptor,
    Minimised,
    MismatchError,
    Monitor,
    Phases,
    Reference,
    Trigger,
    calibrate,
    delta_entropy,
    read_log,
    save_frame,
)
from quests_md.watch.baseline import Baseline

DATA = Path(__file__).resolve().parent / "data" / "version-0.1.0"
EXPECTED = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
ALL = ("dh_max", "dh_mean", "dh_q99", "n_tail", "tail_cluster", "frame_entropy")
#: What a baseline of the present version leaves of an event: its level and its test of drift are others.
KEPT = ("id", "kind", "onset_step", "confirmed_step", "last_step", "size_history", "is_open")
LIMIT = re.compile(r"below [\d.]+ Å, 0\.\d times")
CLOSE = {"rel": 1e-6, "abs": 1e-6, "nan_ok": True}


def reference(name):
    inherent = Minimised(EMT, "EMT", descriptor=Descriptor(k=5, cutoff=4.0), steps=20)
    return Reference.load(DATA / f"{name}.safetensors", descriptor=inherent if name == "minimised" else None)


def levels(name):
    return Calibration.load(DATA / f"levels_{name}.json")


def frames(name):
    stored, made = np.load(DATA / "frames.npz"), []
    for i, positions in enumerate(stored[f"{name}_positions"].astype(np.float64)):
        positions[np.isnan(positions)] = np.nan
        atoms = Atoms(stored[f"{name}_numbers"][i], positions, cell=stored[f"{name}_cell"], pbc=True)
        if f"{name}_momenta" in stored:
            atoms.set_momenta(stored[f"{name}_momenta"][i].astype(np.float64))
        atoms.calc = SinglePointCalculator(atoms, energy=-3.5 * len(atoms) + 0.125 * i)
        made.append(atoms)
    return made


def settings(name):
    """With what the run of that name is watched, and its reference and levels."""
    known, options = ("copper", "copper"), {}
    if name == "plain":
        options = {"actions": [save_frame("flagged.extxyz")]}
    elif name == "baseline":
        known, options = ("copper", "all"), {"baseline_ps": 0.52, "statistics": ALL}
    elif name == "phases":
        known, options = ("hot", "hot"), {"phases": Phases({"hot": reference("hot"), "cold": reference("copper")})}
    elif name == "confirm":
        options = {"confirm": (reference("warm"), levels("warm"))}
    elif name == "exploded":
        options = {"max_temperature_K": 5000}
    return reference(known[0]), levels(known[1]), options | {"trigger": Trigger(patience=2, release=0.1)}


def assert_same(found, expected, where=""):
    """Equal, numbers with a point to 1e-6; JSON has inf and nan as texts."""
    if isinstance(expected, dict):
        assert sorted(found) == sorted(expected), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where} {key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_same(found[i], value, f"{where} {i}")
    elif isinstance(found, float):
        assert found == pytest.approx(float(expected), **CLOSE), where
    elif isinstance(found, str):  # near atoms have another limit, which their explosion names
        assert LIMIT.sub("", found) == LIMIT.sub("", expected), where
    else:
        assert found == expected, where


def assert_is_run(log, name, *, same_baseline=True):
    """That a log tells what the old version read from its own; of excesses by another baseline the signs alone."""
    expected = EXPECTED["logs"][name]
    same = ~(log.n_colder > 0)  # elsewhere fewer atoms are above now: they are like colder copies
    for column, values in expected["columns"].items():
        if same_baseline or column not in ("trigger_excess", "alarms"):
            found = [value for value, kept in zip(getattr(log, column).tolist(), same, strict=True) if kept]
            assert_same(found, [value for value, kept in zip(values, same, strict=True) if kept], column)
    if not same_baseline:
        for key, values in expected["excesses"].items():
            if not key.endswith("_drift"):  # a test of means over more checks, which come later
                assert np.array_equal(log.excesses[key] > 0, np.array(values, float) > 0), key
        for event, before in zip(log.events, expected["events"], strict=True):
            assert_same({key: event.to_line()[key] for key in KEPT}, {key: before[key] for key in KEPT}, "event")
            assert {name for name in before["alarms"] if not name.endswith("_drift")} <= set(event.alarms)
        return
    if not same.all():
        for event, before in zip(log.events, expected["events"], strict=True):
            assert_same({key: event.to_line()[key] for key in KEPT}, {key: before[key] for key in KEPT}, "event")
        return
    for part in ("excesses", "phase_clusters"):
        found = {key: column.tolist() for key, column in getattr(log, part).items()}
        assert_same(found, expected[part], part)
    events = [event.to_line() for event in log.events]
    for environment in (environment for event in events for environment in event["environments"]):
        assert environment.pop("local_score") is None  # the old version had none
    assert_same(events, expected["events"], "event")


@pytest.mark.parametrize("name", EXPECTED["references"])
def test_references_answer_as_they_did(name):
    expected = EXPECTED["references"][name]
    Reference.verify(DATA / f"{name}.safetensors")
    known = reference(name)
    assert known.fingerprint == expected["fingerprint"]
    assert known.n_environments == expected["n_environments"]
    assert list(known.elements) == expected["elements"]
    assert known.descriptor.fingerprint == expected["descriptor"]
    asked, numbers = frames("alloy" if name == "alloy" else "plain")[0], None
    if name == "minimised":
        asked, numbers = known.rows[:4], known.numbers[:4]
    dh = known.delta_entropy(asked, numbers=numbers, float64=True)
    assert dh == pytest.approx(expected["dh"], **CLOSE)
    fast = known.delta_entropy(asked, numbers=numbers)
    assert (np.abs(fast - dh) <= 1e-4 + 1e-6 * np.abs(dh)).all()
    assert known.is_covered(asked, -3.0, numbers=numbers).tolist() == expected["covered"]
    near = known.nearest(asked, numbers=numbers)
    assert near.distance == pytest.approx(expected["distance"], **CLOSE)
    assert near.frame.tolist() == expected["frame"]
    assert near.atom.tolist() == expected["atom"]


@pytest.mark.parametrize("name", ["copper", "alloy"])
def test_held_out_scores_of_the_file_are_kept_and_still_right(name):
    stored = load_file(DATA / f"{name}.safetensors")
    rows, scores = reference(name).held_out_scores()
    np.testing.assert_array_equal(rows, stored["score_row"])
    np.testing.assert_array_equal(scores, stored["score"])
    assert scores[:20] == pytest.approx(EXPECTED["references"][name]["held_out"], **CLOSE)
    groups = stored["frame_group"][stored["atom_frame"]]
    for row, score in zip(rows, scores, strict=True):
        others = (groups != groups[row]) & (stored["numbers"] == stored["numbers"][row])
        dh = delta_entropy(stored["rows"][[row]], stored["rows"][others], 0.05)
        assert dh == pytest.approx(score, **CLOSE)


@pytest.mark.parametrize("name", EXPECTED["calibrations"])
def test_calibrations_have_the_levels_that_they_had(name):
    expected, found, frame = EXPECTED["calibrations"][name], levels(name), frames("plain")[0]
    found.require(reference({"hot": "hot", "warm": "warm", "none": "many"}.get(name, "copper")))
    assert found.kind == expected["kind"]
    assert found.levels(frame, 3, check_ps=0.05)[:2] == pytest.approx(expected["levels"], **CLOSE)
    of_frame = [[level.statistic, level.side, level.value] for level in found.frame_levels(frame.numbers)]
    assert_same(of_frame, expected["of_frame"])


def test_references_are_calibrated_as_they_were():
    frame = frames("plain")[0]
    for name, known, options in (
        ("hot", "hot", {"false_alarms": 0.1}),
        ("all", "copper", {"false_alarms": 0.2, "statistics": ALL}),
        ("none", "many", {"groups": [0] * 20 + [1] * 13}),
    ):
        found = calibrate(reference(known), **options).frame_levels(frame.numbers)
        of_frame = [[level.statistic, level.side, level.value] for level in found]
        assert_same(of_frame, EXPECTED["calibrations"][name]["of_frame"], name)


@pytest.mark.parametrize("name", EXPECTED["logs"])
def test_logs_say_what_they_said(name):
    log = read_log(DATA / f"{name}.jsonl")
    with (DATA / f"{name}.jsonl").open(encoding="utf-8") as lines:
        assert log.header == json.loads(next(lines))
    assert log.header["version"] == "0.1.0"
    assert log.rewinds == []
    assert_is_run(log, name)


def test_a_log_that_was_taken_up_says_what_the_whole_one_says():
    log = read_log(DATA / "resumed.jsonl")
    assert log.rewinds == [{"type": "rewind", "step": 40, "frame": 4}]
    assert_is_run(log, "plain")


def test_flagged_frames_are_read():
    log, flagged = read_log(DATA / "plain.jsonl"), read(DATA / "flagged.extxyz", ":")
    run, known = frames("plain"), reference("copper")
    assert len(flagged) == 3
    for atoms in flagged:
        i = log.step.tolist().index(atoms.info["step"])
        assert atoms.positions == pytest.approx(run[i].positions, abs=1e-7)
        assert atoms.arrays["delta_entropy"] == pytest.approx(known.delta_entropy(run[i]), abs=1e-6)
        assert atoms.arrays["above"].sum() == log.n_above[i]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        *(("plain", 1), ("plain", 5), ("plain", 9), ("baseline", 6), ("baseline", 13)),
        *(("phases", 4), ("confirm", 6), ("exploded", 1), ("exploded", 5)),
    ],
)
@pytest.mark.parametrize("how", ["whole", "torn"])
def test_runs_are_taken_up_and_go_on_as_they_went(name, first, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = (DATA / f"{name}.jsonl").read_bytes().splitlines(keepends=True)
    known, calibration, options = settings(name)
    if "phases" in options:  # thresholds must be equal to the bit, and come out of kernels
        header, thresholds = json.loads(lines[0]), options["phases"].thresholds
        assert thresholds == pytest.approx(header["phases"]["thresholds"], **CLOSE)
        header["phases"]["thresholds"] = thresholds
        lines[0] = json.dumps(header).encode() + b"\n"
    if how == "torn":  # killed while the check after the first one that is made again was written
        place = [i for i, line in enumerate(lines) if b'"type": "check"' in line][first + 1]
        lines = [*lines[:place], lines[place][:100]]
    Path("run.jsonl").write_bytes(b"".join(lines))
    if name == "plain":
        shutil.copy(DATA / "flagged.extxyz", tmp_path)
    run = frames(name)
    with Monitor(known, calibration, log="run.jsonl", resume=True, on_error="raise", **options) as monitor:
        own = monitor.watch.settings.baseline
        if own is not None:  # of a version that judged by fewer checks than the present one takes
            few = Baseline(own.statistics, own.duration_ps, own.rate, own.release, fewest=2)
            monitor.watch.settings = replace(monitor.watch.settings, baseline=few)
        for i in range(first, len(run)):
            monitor.check(run[i], step=10 * i, time_ps=0.05 * i)
    log = read_log("run.jsonl")
    assert log.rewinds == [{"type": "rewind", "step": 10 * first, "frame": first}]
    assert_is_run(log, name, same_baseline=name != "baseline")
    if name == "plain":
        flagged, before = read("flagged.extxyz", ":"), read(DATA / "flagged.extxyz", ":")
        assert [atoms.info["step"] for atoms in flagged] == [atoms.info["step"] for atoms in before]
        for atoms, old in zip(flagged, before, strict=True):
            assert atoms.arrays["delta_entropy"] == pytest.approx(old.arrays["delta_entropy"], abs=1e-6)


def test_another_monitor_is_refused(tmp_path):
    shutil.copy(DATA / "plain.jsonl", tmp_path)
    known, _, _ = settings("plain")
    with (
        Monitor(known, levels("all"), log=tmp_path / "plain.jsonl", resume=True) as monitor,
        pytest.raises(MismatchError, match="was written with statistics"),
    ):
        monitor.check(frames("plain")[3])
