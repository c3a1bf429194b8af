"""Every frame of a trajectory with dH and grade of its atoms: written as a stream, equal bytes however it is done."""

import functools

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import iread, read, write
from systems import cold_reference, copper, level_at, outside

from quests_md import (
    FileFormatError,
    Monitor,
    Reference,
    calibrate,
    read_log,
    save_frame,
    score_trajectory,
)
from quests_md.cli.app import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated")
    frames = [copper(seed=n, rattle=0.05 + 0.02 * n) for n in range(9)]
    for n, atoms in enumerate(frames):
        atoms.info |= {"step": 10 * n, "time_ps": 0.5 * n, "state": "old", "own": "kept"}
        atoms.calc = EMT()
        atoms.get_forces()
    frames[5] = outside()
    frames[5].info |= {"step": 50, "time_ps": 2.5}
    frames[3].positions[2, 1] = np.nan
    frames[6].set_constraint(FixAtoms([1]))
    write(folder / "run.extxyz", frames)
    write(folder / "quiet.extxyz", [copper(seed=100 + i, rattle=0.06) for i in range(3)])  # of the reference
    known().save(folder / "r.safetensors")
    levels().save(folder / "c.json")
    return folder


@functools.cache
def known():
    """Few rows, so that the search structure and the landmarks take no time."""
    return Reference.from_frames([copper(seed=100 + i, rattle=0.06) for i in range(12)], groups="frame")


@functools.cache
def levels():
    return calibrate(known(), false_alarms=0.1)


def scored(folder, out, **options):
    settings = {"reference": known(), "calibration": levels()} | options
    return list(score_trajectory(folder / "run.extxyz", annotate=out, **settings))


def test_every_frame_is_there_with_all_that_is_known_of_its_atoms(folder, tmp_path):
    out = tmp_path / "out.extxyz"
    checks = scored(folder, out)
    frames, given = read(out, ":"), read(folder / "run.extxyz", ":")
    assert [(f.info["step"], f.info["time_ps"], f.info["state"]) for f in frames] == [
        (check.step, check.time_ps, check.state) for check in checks
    ]
    assert [f.info["state"] for f in frames].count("invalid") == 1
    reference = known()
    for check, frame, before in zip(checks, frames, given, strict=True):
        assert frame.info["check"] == check.frame
        assert frame.info["from_frame"] == check.frame
        assert frame.info["reference"] == reference.fingerprint
        assert frame.arrays.keys() >= {"delta_entropy", "dh_grade", "above", "local_score"}
        np.testing.assert_array_equal(frame.positions, before.positions)
        if "own" in before.info:
            assert frame.info["own"] == "kept"
        if "own" in before.info and check.state != "invalid":
            np.testing.assert_array_equal(frame.get_forces(apply_constraint=False), before.get_forces(False))
            assert frame.get_potential_energy() == before.get_potential_energy()
        if check.state == "invalid":
            assert np.isnan(frame.arrays["delta_entropy"]).all()
            assert (frame.arrays["dh_grade"] == np.inf).all()
            assert frame.arrays["above"].all()
            assert "n_above" not in frame.info
            continue
        same = reference.annotate(before, levels())
        np.testing.assert_array_equal(frame.arrays["delta_entropy"], same.arrays["delta_entropy"])
        np.testing.assert_array_equal(frame.arrays["dh_grade"], same.arrays["dh_grade"])
        np.testing.assert_array_equal(frame.arrays["above"], check.above)
        np.testing.assert_array_equal(frame.arrays["local_score"], check.local_score)
        assert frame.info["n_above"] == check.n_above
        assert frame.info.get("alarms", "").split() == list(check.alarms)
    assert len(frames[6].constraints) == 1


@pytest.mark.parametrize("values", ["full", "proven"])
def test_all_atoms_have_dh_in_every_mode_and_checks_are_the_same_without_a_file(values, folder, tmp_path):
    plain = level_at(known(), -1.0)
    checks = scored(folder, tmp_path / "out.extxyz", values=values, calibration=plain)
    without = scored(folder, None, values=values, calibration=plain)
    assert [check.to_line() | {"elapsed_us": 0} for check in checks] == [
        check.to_line() | {"elapsed_us": 0} for check in without
    ]
    assert all(check.atom_values is None for check in without)
    for check, frame in zip(checks, iread(tmp_path / "out.extxyz"), strict=True):
        assert np.isnan(frame.arrays["delta_entropy"]).any() == (check.state == "invalid")
        if check.state != "invalid":  # dH alone raises alarms here
            np.testing.assert_array_equal(frame.arrays["dh_grade"] > 1, frame.arrays["above"])


@pytest.mark.slow
def test_processes_and_threads_write_the_same_bytes(folder, tmp_path):
    scored(folder, tmp_path / "1.extxyz")
    scored(folder, tmp_path / "2.extxyz", workers=2)
    frames = read(folder / "run.extxyz", ":")
    settings = {"reference": known(), "calibration": levels()}
    for name, workers in (("a", 1), ("b", 3)):
        list(score_trajectory(frames, annotate=tmp_path / f"{name}.extxyz", workers=workers, **settings))
    assert (tmp_path / "1.extxyz").read_bytes() == (tmp_path / "2.extxyz").read_bytes()
    assert (tmp_path / "a.extxyz").read_bytes() == (tmp_path / "b.extxyz").read_bytes()


def test_frames_are_written_as_they_come(folder, tmp_path):
    out = tmp_path / "out.extxyz"
    checks = score_trajectory(folder / "run.extxyz", known(), levels(), annotate=out)
    for n in range(1, 4):
        next(checks)
        assert len(read(out, ":")) == n
    checks.close()
    assert len(read(out, ":")) == 3


@pytest.mark.parametrize("n_checks", [1, 4, 9])
@pytest.mark.parametrize("damage", ["none", "torn", "ahead"])
def test_a_run_that_is_taken_up_ends_with_the_same_file(n_checks, damage, folder, tmp_path):
    whole, out, log = tmp_path / "whole.extxyz", tmp_path / "out.extxyz", tmp_path / "run.jsonl"
    scored(folder, whole)
    options = {"reference": known(), "calibration": levels(), "on_error": "raise"}
    with Monitor(**options, log=log, verbose=False) as monitor:
        checks = score_trajectory(folder / "run.extxyz", monitor=monitor, annotate=out)
        for _ in range(n_checks):
            next(checks)
        checks.close()
    if damage == "torn":  # the last frame, whose check the log has
        out.write_bytes(out.read_bytes()[:-70])
    if damage == "ahead":
        out.write_bytes(out.read_bytes() + whole.read_bytes()[-500:])
    with Monitor(**options, log=log, resume=True, verbose=False) as monitor:
        list(score_trajectory(folder / "run.extxyz", monitor=monitor, annotate=out))
    assert out.read_bytes() == whole.read_bytes()
    assert read_log(log).frame.tolist() == list(range(9))


def test_a_file_that_lacks_frames_of_the_run_is_refused_and_left_alone(folder, tmp_path):
    out, log = tmp_path / "out.extxyz", tmp_path / "run.jsonl"
    scored(folder, out, log=log)
    lines = out.read_bytes().split(b"\n")
    for damaged in (b"\n".join(lines[:50]), out.read_bytes().replace(b"check=4", b"check=7", 1)):
        out.write_bytes(damaged)
        with Monitor(known(), levels(), log=log, resume=True, verbose=False) as monitor:
            checks = score_trajectory(folder / "run.extxyz", monitor=monitor, annotate=out)
            with pytest.raises(FileFormatError, match="expected the frames of 8 checks"):
                list(checks)
        assert out.read_bytes() == damaged


def test_nothing_that_is_there_is_overwritten(folder, tmp_path):
    out = tmp_path / "out.extxyz"
    scored(folder, out)
    for name, what in ((out, "one of annotated frames"), (folder / "run.extxyz", "holds something else")):
        before = name.read_bytes()
        with pytest.raises(FileFormatError, match=what):
            scored(folder, name)
        assert name.read_bytes() == before
    with pytest.raises(FileFormatError, match="a calibration of quests_md"):
        scored(folder, folder / "c.json")
    with pytest.raises(FileNotFoundError, match="folder"):
        scored(folder, tmp_path / "no" / "out.extxyz")
    with pytest.raises(ValueError, match="to which the run writes too"):
        scored(folder, tmp_path / "flagged.extxyz", actions=[save_frame(tmp_path / "flagged.extxyz")])
    with pytest.raises(ValueError, match="to which the run writes too"):
        scored(folder, tmp_path / "new.jsonl", log=tmp_path / "new.jsonl")


def test_an_annotated_file_can_be_annotated_again(folder, tmp_path):
    scored(folder, tmp_path / "1.extxyz")
    frames = score_trajectory(
        tmp_path / "1.extxyz", cold_reference(), level_at(cold_reference(), 2.0), annotate=tmp_path / "2.extxyz"
    )
    list(frames)
    first, second = read(tmp_path / "1.extxyz", 1), read(tmp_path / "2.extxyz", 1)
    assert second.info["reference"] == cold_reference().fingerprint != first.info["reference"]
    assert second.info["from_file"].endswith("1.extxyz")
    assert "local_score" not in second.arrays  # it is not in use
    np.testing.assert_array_equal(second.arrays["delta_entropy"], cold_reference().delta_entropy(second))


def test_frames_that_the_monitor_fails_at_are_marked(tmp_path):
    class Failing:
        fingerprint = "fails"
        n_calls = 0

        def __call__(self, atoms):
            if "bad" in atoms.info:
                raise ZeroDivisionError("a bug")
            return known().descriptor(atoms)

    frames = [copper(seed=i, rattle=0.05) for i in range(4)]
    reference = Reference.from_frames(frames, descriptor=Failing(), bandwidth=0.05, groups="frame")
    frames[2].info["bad"] = True
    out = tmp_path / "out.extxyz"
    checks = score_trajectory(frames, reference, level_at(reference, 2.0), on_error="log", annotate=out)
    assert [check.state for check in checks] == ["in", "in", "invalid", "in"]
    found = read(out, ":")
    assert [f.info["state"] for f in found] == ["in", "in", "invalid", "in"]
    assert np.isnan(found[2].arrays["delta_entropy"]).all()
    assert (found[2].arrays["dh_grade"] == np.inf).all()


def test_the_command_line(folder, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        command = [
            "score",
            folder / "quiet.extxyz",
            "-r",
            folder / "r.safetensors",
            "-c",
            folder / "c.json",
            *arguments,
        ]
        with pytest.raises(SystemExit) as end:
            app(list(map(str, command)))
        return end.value.code, " ".join(capfd.readouterr().err.split())

    code, err = run("--annotate", "out.extxyz", "--log", "run.jsonl")
    assert code == 0
    assert f"out.extxyz has delta_entropy, dh_grade and above of all atoms, beside {known().fingerprint}" in err
    same = tmp_path / "same.extxyz"
    list(score_trajectory(folder / "quiet.extxyz", known(), levels(), annotate=same))
    assert (tmp_path / "out.extxyz").read_bytes() == same.read_bytes()
    assert run("--annotate", "out.extxyz", "--log", "run.jsonl", "--resume")[0] == 0
    assert (tmp_path / "out.extxyz").read_bytes() == same.read_bytes()
    for arguments, said in (
        (("--annotate", "out.extxyz"), "expected a new file, got one of annotated frames"),
        (("--annotate", folder / "quiet.extxyz"), "is read by this command too"),
        (("--annotate", "a.extxyz", "--save", "a.extxyz"), "give each a name of its own"),
        (("--annotate", "a.traj"), "a name that ends in .extxyz, .xyz"),
    ):
        code, err = run(*arguments)
        assert code == 2
        assert said in err
