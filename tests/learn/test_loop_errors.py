"""A loop whose levels come from labels: frames kept apart, its ends, and what it refuses."""

import random
import sys

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.io import write

from quests_md import ErrorCalibration, MismatchError, Round, calibrate, calibrate_errors
from quests_md.learn import loop_of_file
from quests_md.learn.ending import Limits, reason_to_end
from quests_md.learn.kept_apart import divided, unknown_to
from tests.support.looped import (
    Student,
    kill_until_done,
    known_and_start,
    labelled_frames,
    loop_in,
    loop_of_errors,
)


@pytest.fixture(scope="module")
def system():
    return known_and_start()


@pytest.fixture(scope="module")
def apart():
    return labelled_frames(21, seed=5)


def loop_of(folder, system, apart, **options):
    return loop_of_errors(folder, *system, apart, **{"max_rounds": 12} | options)


#: eV/Å, above what the first model errs by in new frames, which it could not know yet.
TARGET = 0.25


@pytest.fixture(scope="module")
def finished(system, apart, tmp_path_factory):
    """A loop that ends by its target, and why it ended."""
    loop = loop_of(tmp_path_factory.mktemp("errors") / "whole", system, apart, target_error=TARGET)
    return loop, loop.run()


def places(frames):
    return [frame.positions.tobytes() for frame in frames]


def test_the_target_is_met_where_labels_tell_it_and_not_before(finished):
    loop, reason = finished
    assert reason.startswith("error: forces are expected to be"), reason
    *before, last = loop.rounds
    assert len(before) > 1
    # the measured error alone would have ended the loop after its first labels, with runs beyond what labels tell
    assert before[0].force_error < TARGET
    assert before[0].expected_error is None
    assert last.expected_error < TARGET
    # a mean beside a root mean square, of frames of one run
    assert 0.5 < last.expected_error / last.force_error < 1.2


def test_every_fifth_label_is_kept_apart(finished, system, apart):
    loop, _ = finished
    n = sum(done.n_labelled for done in loop.rounds)
    assert [done.n_apart for done in loop.rounds][:2] == [0, 1]  # of four labels each
    assert sum(done.n_apart for done in loop.rounds) == n // 5
    assert len(loop.labelled) == n - n // 5
    assert loop.reference.n_frames == system[0].n_frames + n - n // 5
    assert len(loop.apart) == len(apart) + n // 5
    assert not set(places(loop.apart)) & set(places(loop.labelled))


def test_levels_are_those_of_the_refitted_model_in_the_frames_kept_apart(finished):
    loop, _ = finished
    model, frames = Student(len(loop.labelled)), []
    for kept in loop.apart:
        true, frame = kept.copy(), kept.copy()
        true.calc = EMT()
        frame.arrays["true"], frame.arrays["model"] = true.get_forces(), model.get_forces(frame)
        assert np.abs(frame.arrays["model"] - kept.arrays["model_forces"]).max() < 1e-8
        frames.append(frame)
    with pytest.warns(UserWarning, match="none of .* errs by more"):
        expected = calibrate_errors(loop.reference, frames, 0.4, true="true", model="model", groups="group")
    start = frames[0]
    assert loop.calibration.levels(start) == pytest.approx(expected.levels(start), abs=1e-6)
    square = [((frame.arrays["true"] - frame.arrays["model"]) ** 2).sum(axis=1) for frame in frames]
    assert loop.rounds[-1].apart_error == pytest.approx(np.sqrt(np.mean(square)), rel=1e-6)
    assert loop.rounds[-1].error_ratio < 1
    assert len({frame.info["group"] for frame in loop.apart}) > 21


def test_a_loop_that_is_done_asks_no_model_again(finished, system, apart):
    loop, reason = finished
    again = loop_of(loop.folder, system, apart, target_error=TARGET, refit=fail)
    assert again.run() == reason
    assert again.rounds == loop.rounds


def fail(frames):
    raise RuntimeError("no fit is needed")


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_kills_at_any_moment_change_nothing(finished, system, apart, tmp_path):
    whole, _ = finished
    folder, chance = tmp_path / "killed", random.Random(2)
    n_kills = kill_until_done(lambda: loop_of(folder, system, apart, max_rounds=2).run(), chance, 0.4, 1.3)
    assert n_kills > 2
    loop = loop_of(folder, system, apart, max_rounds=2)
    assert loop.rounds == whole.rounds[:2]
    assert places(loop.labelled) == places(whole.labelled)[: len(loop.labelled)]
    frames = [np.array([frame.arrays["model_forces"] for frame in one.apart[:22]]) for one in (loop, whole)]
    assert len(loop.apart) == 22
    assert frames[0].shape == frames[1].shape
    paid = folder.with_suffix(".paid").read_text().splitlines()
    assert len(set(paid)) == 8
    assert len(paid) - 8 <= n_kills


def test_a_model_that_does_not_come_to_the_tolerance_ends_the_loop(system, apart, tmp_path):
    with pytest.warns(UserWarning, match="Cu is always out, since every labelled environment errs"):
        loop = loop_of(tmp_path / "loop", system, apart, tolerance=1e-6, refit=None)
    reason = loop.run()
    assert reason.startswith("stalled: in 3 rounds all frames that were labelled stayed beyond the levels")
    assert "the model does not come to the tolerance of 1e-06 eV/Å" in reason
    assert [done.ends for done in loop.rounds] == [("event",)] * 3


def round_of(**changes):
    usual = {"number": 0, "ends": ("event",), "n_beyond": 4, "n_chosen": 4, "n_labelled": 5}
    return Round(**usual | {"n_still_out": 4, "n_apart": 1, "force_error": 0.3} | changes)


def reason_of(rounds, target=None, tolerance=0.1):
    return reason_to_end(rounds, Limits(None, None, target), 60, tolerance)


def test_a_model_that_still_learns_does_not_stall():
    assert reason_of([round_of(error_ratio=0.9)] * 3) is None
    assert reason_of([round_of(error_ratio=1.0)] * 3).startswith("stalled")
    assert reason_of([round_of(error_ratio=1.0)] * 2) is None
    assert reason_of([round_of(error_ratio=1.0, n_still_out=3)] * 3) is None
    assert reason_of([round_of(error_ratio=0.9)] * 3, tolerance=None).startswith("stalled")


@pytest.mark.parametrize(
    ("expected", "measured", "ends"), [(0.1, 0.1, True), (0.3, 0.1, False), (0.1, 0.3, False), (None, 0.1, False)]
)
def test_both_errors_have_to_be_small(expected, measured, ends):
    one = round_of(expected_error=expected, force_error=measured)
    assert (reason_of([one], target=0.2) is not None) == ends


def test_small_rounds_keep_frames_apart_too(apart):
    n_apart = [len(divided(apart[:2], n_before, "a group")[1]) for n_before in range(0, 20, 2)]
    assert n_apart == [0, 0, 1, 0, 1] * 2


def test_a_frame_that_is_learnt_after_all_is_not_apart(system, apart):
    assert places(unknown_to(system[0].extend(apart[:2]), apart[:4], 1)) == places(apart[2:4])


def test_too_few_groups_are_told_with_what_to_do(system, apart, tmp_path):
    with pytest.warns(
        UserWarning, match=r"level of Cu is unknown \(5 groups of labelled frames, 19 are needed .* give more"
    ):
        loop = loop_of(tmp_path / "loop", system, apart[:5])
    assert isinstance(loop.calibration, ErrorCalibration)
    with pytest.raises(ValueError, match="apart: frames: expected at least 3 groups of frames, got 2"):
        loop_of(tmp_path / "fewer", system, apart[:2])


def test_levels_that_cannot_be_carried_are_refused_at_once(system, apart, tmp_path):
    known, start = system
    frames = [frame.copy() for frame in apart]
    for frame in frames:
        frame.arrays["forces"], frame.arrays["model_forces"] = np.zeros((32, 3)), np.ones((32, 3))
    with pytest.warns(UserWarning, match="every labelled environment errs"):
        errors = calibrate_errors(known, frames, 1.0, groups="frame")
    with pytest.raises(
        MismatchError, match=r"calibration: levels from labels are for one reference .* give tolerance="
    ):
        loop_in(tmp_path / "loop", known, start, calibration=errors)
    with pytest.raises(MismatchError, match=r"of separate frames, local scores .* cannot be carried"):
        loop_in(tmp_path / "loop", known, start, calibration=calibrate(known, frames=apart))
    assert not (tmp_path / "loop").exists()


def test_what_does_not_go_together_is_named(system, apart, tmp_path):
    bare, known = [frame.copy() for frame in apart], system[0].frame(3)
    known.calc, known.info["group"] = EMT(), "known"
    known.get_forces()
    for options, message in (
        ({"apart": None}, "tolerance, apart: expected both or neither"),
        ({"tolerance": None}, "tolerance, apart: expected both or neither"),
        ({"tolerance": -1}, "tolerance: expected a positive force error"),
        ({"calibration": calibrate(system[0])}, "calibration: expected none beside tolerance"),
        ({"apart": bare}, "apart: .*frame 0: expected forces, its labels, got none"),
        ({"apart": [*apart, known]}, "apart: frames: 1 of 22 are in the reference"),
    ):
        with pytest.raises(ValueError, match=message):
            loop_of(tmp_path / "loop", system, **{"apart": apart} | options)
    assert not (tmp_path / "loop" / "loop.json").exists()


def test_other_labels_need_another_folder(finished, system, apart):
    with pytest.raises(MismatchError, match="apart was 21 frames"):
        loop_of(finished[0].folder, system, apart[:20])
    with pytest.raises(MismatchError, match=r"tolerance was 0\.4 when the loop began, and is None now"):
        loop_in(finished[0].folder, *system, n_per_round=4)


TOML = """
starts = "start.xyz"
reference = "train.safetensors"
label = "files"
calculator = "student_of_the_loop:Student"
tolerance = 0.4
apart = "apart.xyz"

[dynamics]
temperature_K = 300
"""


def test_a_file_can_ask_for_levels_from_labels(system, apart, tmp_path):
    system[0].save(tmp_path / "train.safetensors")
    write(tmp_path / "start.xyz", system[1])
    write(tmp_path / "apart.xyz", apart)
    (tmp_path / "student_of_the_loop.py").write_text("from tests.support.looped import Student\n")
    (tmp_path / "run.toml").write_text(TOML)
    loop = loop_of_file(tmp_path / "run.toml", threads=1)
    assert isinstance(loop.calibration, ErrorCalibration)
    assert loop.calibration.tolerance == 0.4
    assert len(loop.apart) == 21
