"""Levels from labels of real frames: what is read, what is refused, and that they stand where other levels stand."""

import json
import math
import warnings

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from systems import alloy, copper

from quests_md import (
    Calibration,
    ErrorCalibration,
    FileFormatError,
    MismatchError,
    Monitor,
    Reference,
    calibrate_errors,
    read_log,
)
from quests_md.show import timeline
from quests_md.show.words import reference_and_level

TOLERANCE = 0.02


def with_forces(atoms, reference, seed, model="model_forces"):
    """The frame with forces, and those of a model that errs more where dH is larger."""
    rng = np.random.default_rng(seed)
    dh = reference.delta_entropy(atoms)
    forces = rng.normal(size=(len(atoms), 3))
    errors = rng.normal(size=(len(atoms), 3)) * 0.03 * np.exp(0.4 * np.clip(dh, -20, 5))[:, None]
    atoms.arrays["forces"], atoms.arrays[model] = forces, forces + errors
    return atoms


def labelled(reference, n, seed=1000, most=0.12, make=copper):
    amplitudes = np.random.default_rng(seed).uniform(0.02, most, n)
    return [with_forces(make(seed=seed + i, rattle=amplitude), reference, i) for i, amplitude in enumerate(amplitudes)]


def errors_of(frame):
    return np.linalg.norm(frame.arrays["model_forces"] - frame.arrays["forces"], axis=1)


@pytest.fixture(scope="module")
def reference():
    return Reference.from_frames([copper(seed=i, rattle=0.03 + 0.002 * (i % 30)) for i in range(60)], groups="frame")


@pytest.fixture(scope="module")
def frames(reference):
    return labelled(reference, 60)


@pytest.fixture(scope="module")
def errors(reference, frames):
    return calibrate_errors(reference, frames, TOLERANCE, share=0.1, groups="frame")


def test_the_level_is_that_of_the_errors_and_the_dh_of_the_frames(errors, reference, frames):
    dh = [reference.delta_entropy(frame, float64=True) for frame in frames]
    misses = [errors_of(frame) > TOLERANCE for frame in frames]
    (level,) = errors.frame_levels([29] * 40)
    assert (level.statistic, level.element, level.kind, level.n_groups) == ("dh_max", "Cu", "conformal", 60)
    loss = np.mean([(miss & (x <= level.value + 1e-3)).mean() for miss, x in zip(misses, dh, strict=True)])
    more = np.mean([(miss & (x <= level.value + 0.1)).mean() for miss, x in zip(misses, dh, strict=True)])
    assert (60 * loss + 1) / 61 <= 0.1 < (60 * more + 1) / 61
    assert errors.kind == "conformal"
    np.testing.assert_array_equal(errors.levels(frames[0]), level.value)


def test_the_promise_holds_in_new_frames_and_the_text_tells_it(errors, reference):
    (level,) = errors.frame_levels([29])
    new = labelled(reference, 60, seed=5000)
    dh = [reference.delta_entropy(frame) for frame in new]
    missed = np.mean([((errors_of(a) > TOLERANCE) & (x <= level.value)).mean() for a, x in zip(new, dh, strict=True)])
    assert missed <= 0.1 + 0.04
    text = errors.describe()
    assert "at most 10 % err by more than 0.02 and are not above the level" in text
    assert f"dh_max of Cu <= {level.value:.2f} nats: conformal, 60 groups; in groups that did not set it" in text
    assert "60 labelled frames, |model_forces - forces| of 1920 environments; by 'frame'" in text


def test_expected_errors_of_frames(errors, reference):
    new = labelled(reference, 60, seed=7000)
    found = [errors.expected_error(reference, frame) for frame in new]
    true = [errors_of(frame) for frame in new]
    inside = np.mean([((t >= f.low) & (t <= f.high)).mean() for f, t in zip(found, true, strict=True)])
    assert 0.72 < inside < 0.95
    assert np.nanmean(np.concatenate([f.error for f in found])) == pytest.approx(np.concatenate(true).mean(), rel=0.3)
    rows = reference.descriptor(new[0])
    for kwargs in ({}, {"numbers": new[0].numbers}):
        again = errors.expected_error(reference, rows, **kwargs)
        np.testing.assert_array_equal(again.error, found[0].error)
    far = copper(rattle=0.5, seed=3)
    strange = reference.delta_entropy(far) > errors.error_levels.elements[29].end
    assert strange.sum() > 5
    for values in errors.expected_error(reference, far):
        np.testing.assert_array_equal(np.isnan(values), strange)
    gold = alloy()
    assert np.isnan(errors.expected_error(reference, gold).error[gold.numbers == 79]).all()
    wider = errors.expected_error(reference, new[0], coverage=0.9)
    assert (wider.high >= found[0].high).all()
    with pytest.raises(ValueError, match="coverage: expected a share"):
        errors.expected_error(reference, new[0], coverage=1.0)
    with pytest.raises(MismatchError):
        errors.expected_error(reference.with_bandwidth(0.02), new[0])


@pytest.mark.parametrize("values", ["full", "proven"])
def test_it_stands_where_a_calibration_stands(errors, reference, tmp_path, values):
    """Quiet frames are in, atoms above their level make a frame out, and the log tells the tolerance."""
    (level,) = errors.frame_levels([29])
    run = [copper(seed=9000 + i, rattle=0.02 if i < 4 else 0.2) for i in range(8)]
    with Monitor(reference, errors, log=tmp_path / "run.jsonl", values=values, on_error="raise") as monitor:
        checks = [monitor.check(atoms, step=i) for i, atoms in enumerate(run)]
    assert [check.state for check in checks] == ["in"] * 4 + ["out"] * 4
    for check, atoms in zip(checks, run, strict=True):
        assert check.n_above == (reference.delta_entropy(atoms) > level.value).sum()
    assert checks[-1].alarms == ("dh_max",)
    log = read_log(tmp_path / "run.jsonl")
    header = log.header["calibration"]
    assert (header["tolerance"], header["share"], header["kind"]) == (TOLERANCE, 0.1, "conformal")
    assert header["promise"] == errors.describe([29])
    assert "at most 10 % err by more than 0.02 and are not above, from 60" in reference_and_level(log.header)
    assert len(log.events) == 1
    assert timeline(log).axes
    other = calibrate_errors(reference, labelled(reference, 60), TOLERANCE / 2, share=0.1, groups="frame")
    with (
        Monitor(reference, other, log=tmp_path / "run.jsonl", resume=True, on_error="raise") as monitor,
        pytest.raises(MismatchError),
    ):
        monitor.check(run[0], step=0)


def test_frames_by_their_mean(errors, reference, frames):
    of_frames = errors.with_statistics(("dh_mean",))
    levels = of_frames.frame_levels([29] * 32)
    assert [level.statistic for level in levels] == ["dh_max", "dh_mean"]
    assert [level.statistic for level in of_frames.alarm_levels([29] * 32)] == ["dh_mean"]
    with Monitor(reference, errors, statistics=("dh_mean",), log=None) as monitor:
        for i, frame in enumerate(frames):
            check = monitor.check(frame, step=i)
            assert (check.state == "out") == (check.dh_mean > levels[1].value)
    assert "of frames, by their RMS error, likewise" in of_frames.describe()
    with pytest.raises(ValueError, match="statistics: levels from labels are of dh_max and dh_mean, got local_mean"):
        errors.with_statistics(("local_mean",))


def test_levels_from_labels_are_for_one_reference_alone(errors, reference, frames):
    """More rows lower dH: environments that err would sink below the level."""
    grown = reference.extend([copper(seed=70, rattle=0.1)])
    level = errors.frame_levels([29])[0].value
    old, new = (np.concatenate([x.delta_entropy(a) for a in frames]) for x in (reference, grown))
    assert (new <= level).sum() > (old <= level).sum()
    assert errors.carried_to(reference) is errors
    for use in (errors.carried_to, errors.require, lambda known: Monitor(known, errors, log=None)):
        with pytest.raises(MismatchError, match=errors.fingerprint):
            use(grown)


def test_a_second_opinion_by_errors(errors, reference):
    with Monitor(reference, confirm=(reference, errors), log=None, on_error="raise") as monitor:
        check = monitor.check(copper(seed=1, rattle=0.0), step=0)
        assert check.confirm_excess is None or check.confirm_excess < 0
        assert check.state == "in"
        assert monitor.check(copper(seed=2, rattle=0.2), step=1).state == "out"


def test_a_file_comes_back_as_it_was(errors, reference, tmp_path):
    errors.save(tmp_path / "errors.json")
    loaded = Calibration.load(tmp_path / "errors.json")
    assert isinstance(loaded, ErrorCalibration)
    assert loaded.describe() == errors.describe()
    assert loaded.frame_levels([29]) == errors.frame_levels([29])
    for name in ("tolerance", "share", "typical", "statistics", "how"):
        assert getattr(loaded, name) == getattr(errors, name)
    atoms = copper(seed=5, rattle=0.1)
    for a, b in zip(*(x.expected_error(reference, atoms) for x in (loaded, errors)), strict=True):
        np.testing.assert_array_equal(a, b)
    loaded.require(reference)


@pytest.mark.parametrize(
    "change",
    [
        {"tolerance": 0},
        {"tolerance": "x"},
        {"share": 1.5},
        {"labels": []},
        {"labels": {"dh": [1e999]}},
        {"labels": {"errors": "abc"}},
        {"labels": {"frames": [1.5]}},
        {"labels": {"numbers": [True]}},
        {"labels": {"groups": []}},
        {"labels": {"errors": -1}},
        {"labels": {"frames": 10**6}},
        {"labels": {"numbers": 300}},
        {"type": "quests_md calibration of something"},
        {"statistics": ["dh_q99"]},
    ],
)
def test_damaged_content_is_refused(errors, tmp_path, change):
    path = tmp_path / "errors.json"
    errors.save(path)
    content = json.loads(path.read_text())
    for name, value in change.items():
        if isinstance(value, dict):
            for part, new in value.items():
                first = [new, *content[name][part][1:]] if isinstance(new, int) else new
                content[name][part] = first
        else:
            content[name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=r"errors\.json"):
        Calibration.load(path)


def test_content_of_anyone_is_refused_or_usable(errors, tmp_path):
    """Numbers of a file changed at random: a FileFormatError, or a calibration that answers."""
    path, rng = tmp_path / "errors.json", np.random.default_rng(0)
    errors.save(path)
    content, refused = json.loads(path.read_text()), 0
    odd = [-1, 0, 1, 2**70, 1e300, -1e99, math.nan, math.inf, None, "1", [], True, 0.5]
    for _ in range(200):
        changed = json.loads(json.dumps(content))
        values = changed["labels"][str(rng.choice(list(content["labels"])))]
        for _ in range(rng.integers(1, 4)):
            values[int(rng.integers(len(values)))] = odd[int(rng.integers(len(odd)))]
        path.write_text(json.dumps(changed))
        try:
            loaded = Calibration.load(path)
        except FileFormatError:
            refused += 1
            continue
        loaded.frame_levels([29, 79])
        assert loaded.describe()
        assert not np.isnan(loaded.labels.expected(np.array([29]), np.array([-5.0]), 0.8).high).any()
    assert 100 < refused < 200


def test_missing_content_is_refused_by_name(errors, tmp_path):
    path = tmp_path / "errors.json"
    errors.save(path)
    content = json.loads(path.read_text())
    for name in ("tolerance", "share", "labels"):
        path.write_text(json.dumps({key: value for key, value in content.items() if key != name}))
        with pytest.raises(FileFormatError, match=name):
            Calibration.load(path)
    for name in content["labels"]:
        fewer = {key: value for key, value in content["labels"].items() if key != name}
        path.write_text(json.dumps(content | {"labels": fewer}))
        with pytest.raises(FileFormatError, match=name):
            Calibration.load(path)


def test_forces_come_from_arrays_files_and_calculators(errors, reference, frames, tmp_path):
    """Files of ASE give "forces" to a calculator; frames may also be a generator."""
    write(tmp_path / "labelled.xyz", frames)
    from_file = calibrate_errors(reference, tmp_path / "labelled.xyz", TOLERANCE, share=0.1, groups="frame")
    assert from_file.frame_levels([29])[0].value == pytest.approx(errors.frame_levels([29])[0].value, abs=1e-3)
    held = []
    for frame in frames:
        atoms = frame.copy()
        atoms.arrays["dft"] = atoms.arrays.pop("forces")
        atoms.calc = SinglePointCalculator(atoms, forces=atoms.arrays.pop("model_forces"))
        held.append(atoms)
    options = {"share": 0.1, "true": "dft", "model": "forces", "groups": "frame"}
    again = calibrate_errors(reference, (atoms for atoms in held), TOLERANCE, **options)
    assert again.frame_levels([29]) == errors.frame_levels([29])
    moved = [atoms.copy() for atoms in held]
    for atoms, before in zip(moved, held, strict=True):
        atoms.calc = before.calc
        atoms.positions[0] += 0.01
    with pytest.raises(ValueError, match=r"memory, frame 0: expected an array 'forces' with forces, got dft"):
        calibrate_errors(reference, moved, TOLERANCE, **options)


def test_nothing_is_calculated_and_nothing_changed(reference, frames):
    class Never(EMT):
        def calculate(self, *args, **kwargs):
            raise AssertionError

    given = [frame.copy() for frame in frames]
    for atoms in given:
        atoms.calc = Never()
    before = [{k: v.copy() for k, v in atoms.arrays.items()} for atoms in given]
    calibrate_errors(reference, given, TOLERANCE, share=0.1, groups="frame")
    for atoms, arrays in zip(given, before, strict=True):
        assert set(atoms.arrays) == set(arrays)
        assert all((atoms.arrays[k] == v).all() for k, v in arrays.items())


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (
            lambda a: a.arrays.pop("model_forces"),
            {},
            "frame 7: expected an array 'model_forces' with forces, got forces",
        ),
        (
            lambda a: a.arrays.pop("forces"),
            {},
            "expected an array 'forces' with forces, got model_forces; name it with t",
        ),
        (lambda a: a.set_array("x", np.zeros(32)), {"model": "x"}, "expected an array 'x' with forces"),
        (lambda a: a.arrays.update(forces=np.zeros(32)), {}, r"frame 7: forces: expected forces \(32, 3\), got shape"),
        (lambda a: a.arrays.update(forces=np.full((32, 3), np.nan)), {}, r"frame 7: forces: expected finite .*atom 0"),
        (None, {"true": "model_forces"}, "true, model: expected the names of two arrays, got 'model_forces' twice"),
        (None, {"tolerance": 0}, "tolerance: expected a positive force error"),
        (None, {"share": 0}, "share: expected a share between 0 and 1"),
        (None, {"statistics": ("n_tail",)}, "levels from labels are of dh_max and dh_mean, got n_tail"),
        (None, {"groups": ["a", "b"]}, "groups: expected one label per frame"),
        (None, {"groups": ["a", "b"] * 10}, "frames: expected at least 3 groups of frames, got 2; give more"),
    ],
)
def test_bad_input_is_named(reference, frames, change, options, words):
    given = [frame.copy() for frame in frames[:20]]
    if change:
        change(given[7])
    with pytest.raises(ValueError, match=words):
        calibrate_errors(reference, given, **options)


@pytest.mark.parametrize("change", ["none", "order", "wrapped", "moved", "six decimals"])
def test_frames_of_the_reference_are_refused(reference, frames, tmp_path, change):
    """Rounded, permuted, wrapped and moved copies were accepted."""
    known = with_forces(copper(seed=3, rattle=0.036), reference, 0)
    if change == "order":
        known = known[np.random.default_rng(0).permutation(len(known))]
    elif change == "wrapped":
        known.positions += known.cell[0]
        known.wrap()
    elif change == "moved":
        known.positions += (1.0, 0.3, 0.2)
    elif change == "six decimals":
        known.positions = np.round(known.positions, 6)
    write(tmp_path / "some.xyz", [*frames[:9], known])
    with pytest.raises(ValueError, match=r"1 of 10 are in the reference, the first is .*some\.xyz, frame 9"):
        calibrate_errors(reference, tmp_path / "some.xyz")


def test_frames_with_strange_elements_are_left_out(reference, frames):
    mixed = [*frames, with_forces(alloy(), reference, 0)]
    found = calibrate_errors(reference, mixed, TOLERANCE, share=0.1, groups="frame")
    assert len(found.labels.groups) == 60
    assert found.expected_error(reference, frames[0]).error.shape == (32,)
    with pytest.raises(ValueError, match="got 0; 5 have elements that the reference has not"):
        calibrate_errors(reference, [with_forces(alloy(seed=i), reference, i) for i in range(5)])


def test_elements_without_labels_are_unknown_and_out():
    """The reference knows gold, the labels do not."""
    both = Reference.from_frames([alloy(seed=i) for i in range(8)], groups="frame", bandwidth=0.05)
    found = calibrate_errors(both, labelled(both, 30, make=copper, most=0.05), 3e-3, share=0.1, groups="frame")
    copper_level, gold_level = found.frame_levels([29, 79])
    assert gold_level.value == -math.inf
    assert gold_level.kind == found.kind if copper_level.kind == "none" else gold_level.kind == "none"
    assert "dh_max of Au: unknown, no labels: always out" in found.describe([29, 79])
    with Monitor(both, found, log=None, on_error="raise") as monitor:
        check = monitor.check(alloy(seed=100), step=0)
    assert check.state == "out"
    assert check.n_above >= 8


@pytest.mark.parametrize(("tolerance", "words", "limit"), [(1e3, "none of 1920", "end"), (1e-9, "every", "lowest")])
def test_a_tolerance_that_no_or_every_environment_exceeds(reference, frames, tolerance, words, limit):
    with pytest.warns(UserWarning, match=f"the level is unknown for some elements, Cu: {words}"):
        found = calibrate_errors(reference, frames, tolerance, share=0.1, groups="frame")
    level = found.error_levels.elements[29]
    assert level.value is None
    assert level.limit == (level.end if limit == "end" else -math.inf)
    assert f"dh_max of Cu: level unknown: {words}" in found.describe()
    with Monitor(reference, found, log=None, on_error="raise") as monitor:
        states = [monitor.check(copper(seed=i, rattle=r), step=i).state for i, r in enumerate((0.03, 0.5))]
    assert states == ["in" if limit == "end" else "out", "out"]


def test_too_few_groups_promise_nothing(reference, frames):
    with pytest.warns(UserWarning, match="8 groups of labelled frames, 19 are needed for a share of 5 %"):
        found = calibrate_errors(reference, frames[:8], TOLERANCE, groups="frame")
    assert found.kind == "none"
    assert "for levels without enough groups there is no promise" in found.describe()
    with warnings.catch_warnings(action="error"):
        few = calibrate_errors(reference, frames[:8], TOLERANCE / 2, share=0.2, groups="frame")
    assert few.kind == "conformal"


def test_very_many_environments_are_drawn_by_groups(reference, frames, monkeypatch):
    monkeypatch.setattr("quests_md.calibration.error_calibration.MOST_ENVIRONMENTS", 1000)
    found = [calibrate_errors(reference, frames, TOLERANCE, share=0.1, groups="frame", rng=rng) for rng in (0, 0, 1)]
    assert [len(f.labels.dh) for f in found] == [31 * 32] * 3
    assert found[0].labels.dh.tolist() == found[1].labels.dh.tolist() != found[2].labels.dh.tolist()
