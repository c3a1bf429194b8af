"""Local scores against naive ones, and what they are for: sets of many kinds, groups unlike all others."""

import json
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import naive
import numpy as np
import pytest
from ase.build import bulk, molecule
from systems import alloy, copper, reordered

from quests_md import Calibration, Descriptor, FileFormatError, MismatchError, Monitor, Reference, Trigger, calibrate
from quests_md.calibration import LocalScorer
from quests_md.calibration.landmarks import learn_landmarks

H = 0.03  # 1/Å; of averaged rows 0.012

#: Written by a version that kept no averaged rows.
OLD = Path(__file__).parents[1] / "data" / "version-0.1.0" / "copper.safetensors"


def like(reference, numbers, z):
    return np.ones(len(numbers), bool) if reference.match == "any" else numbers == z


def naive_scores(rows, numbers, groups, reference, landmarks):
    """DH against the landmarks of other groups minus what is usual, over the scatter there: from the formulas alone."""
    at, h = landmarks.rows, reference.averaged_bandwidth if landmarks.averaged else reference.bandwidth
    everything = reference.averaged_rows if landmarks.averaged else reference.rows
    known, of_known = everything[at].astype(float), reference.arrays.groups_of_rows()[at]
    out = np.empty(len(rows))
    for i, (y, z, group) in enumerate(zip(rows, numbers, groups, strict=True)):
        use = like(reference, reference.numbers[at], z) & (of_known != group)
        exponents = -((known[use] - y) ** 2).sum(axis=1) / (2 * h * h)
        weights = np.exp(exponents - exponents.max())
        dh = -exponents.max() - math.log(weights.sum())
        usual, scatter = (weights @ v[use] / weights.sum() for v in (landmarks.usual, landmarks.scatter))
        out[i] = (dh - usual) / math.sqrt(scatter + 1)
    return out


@pytest.fixture(scope="module", params=["element", "any"])
def mixed(request):
    frames = [alloy(seed=i, rattle=0.04 + 0.02 * (i % 2)) for i in range(16)]
    return Reference.from_frames(frames, bandwidth=H, match=request.param, groups="frame")


def test_scores_are_the_naive_ones(mixed):
    everything = np.arange(mixed.n_environments)
    landmarks, scores = learn_landmarks(mixed, None, everything)[:2]
    assert landmarks.rows.tolist() == everything.tolist()  # so few that all of them are
    assert landmarks.n_alone == 0
    groups = mixed.arrays.groups_of_rows()
    expected = naive_scores(mixed.averaged_rows, mixed.numbers, groups, mixed, landmarks)
    np.testing.assert_allclose(scores, expected, atol=0.02)
    atoms = alloy(seed=99, rattle=0.08)
    rows = naive.averaged(atoms, naive.rows(atoms), 12)
    found = LocalScorer(mixed, landmarks).scores(rows, atoms.numbers)
    nobody = np.full(len(atoms), -1)
    np.testing.assert_allclose(found, naive_scores(rows, atoms.numbers, nobody, mixed, landmarks), atol=0.02)


def ethane(seed, rattle=0.04):
    atoms = molecule("C2H6")
    atoms.rattle(rattle, seed=seed)
    return atoms


@pytest.fixture(scope="module")
def molecules():
    return Reference.from_frames([ethane(i) for i in range(60)], groups="frame")


def test_of_molecules_single_environments_are_scored(molecules):
    everything = np.arange(molecules.n_environments)
    landmarks, scores = learn_landmarks(molecules, None, everything)[:2]
    assert not landmarks.averaged
    groups = molecules.arrays.groups_of_rows()
    expected = naive_scores(molecules.rows, molecules.numbers, groups, molecules, landmarks)
    np.testing.assert_allclose(scores, expected, atol=0.02)
    calibration = calibrate(molecules, false_alarms=0.1)
    assert "local scores are of single environments, not averaged" in calibration.describe()
    atoms = ethane(99, 0.06)
    with Monitor(molecules, calibration, log=None) as monitor:
        check = monitor.check(atoms)
    found = naive_scores(naive.rows(atoms), atoms.numbers, np.full(8, -1), molecules, calibration.landmarks)
    np.testing.assert_allclose(check.local_score, found, atol=0.02)
    separate = calibrate(molecules, frames=[ethane(i) for i in range(200, 240)], false_alarms=0.1)
    assert not separate.landmarks.averaged


def test_rows_that_the_user_averages_stay_averaged():
    frames = [ethane(i) for i in range(40)]
    reference = Reference.from_frames(frames, groups="frame", descriptor=Descriptor(average=3))
    calibration = calibrate(reference, false_alarms=0.1)
    assert calibration.landmarks.averaged
    assert "single environments" not in calibration.describe()


def test_a_stretched_bond_is_seen_in_a_molecule(molecules):
    def stretched(seed):
        atoms = ethane(seed)
        atoms.positions[2] += 0.35 * (atoms.positions[2] - atoms.positions[0])
        return atoms

    calibration = calibrate(molecules, false_alarms=0.05)
    with Monitor(molecules, calibration, log=None, trigger=Trigger(patience=1)) as monitor:
        assert sum(monitor.check(ethane(i)).state == "out" for i in range(400, 440)) <= 6
        assert sum(monitor.check(stretched(i)).state == "out" for i in range(300, 320)) >= 18
        assert monitor.events[-1].reason.startswith("environments unlike those known: ")


def test_calibrations_of_molecules_by_older_versions_stay_as_they_were(molecules, tmp_path):
    calibration = calibrate(molecules, false_alarms=0.1)
    calibration.save(tmp_path / "new.json")
    again = Calibration.load(tmp_path / "new.json")
    assert not again.landmarks.averaged
    text = json.loads((tmp_path / "new.json").read_text())
    assert text["landmarks"].pop("averaged") is False
    (tmp_path / "old.json").write_text(json.dumps(text))
    old = Calibration.load(tmp_path / "old.json")
    assert old.landmarks.averaged
    atoms = ethane(99)
    with Monitor(molecules, old, log=None) as monitor:
        check = monitor.check(atoms)
    rows = naive.averaged(atoms, naive.rows(atoms), 12)
    expected = naive_scores(rows, atoms.numbers, np.full(8, -1), molecules, old.landmarks)
    np.testing.assert_allclose(check.local_score, expected, atol=0.02)
    text["landmarks"]["averaged"] = "no"
    (tmp_path / "torn.json").write_text(json.dumps(text))
    with pytest.raises(FileFormatError, match="averaged: expected true or false, got 'no'"):
        Calibration.load(tmp_path / "torn.json")


def test_what_is_usual_is_the_held_out_dh_of_a_landmark_up_to_a_limit(mixed):
    landmarks, _ = learn_landmarks(mixed, None, np.arange(mixed.n_environments))[:2]
    groups, rows = mixed.arrays.groups_of_rows(), mixed.averaged_rows.astype(float)
    held_out = np.empty(len(rows))
    for z in (29, 79):
        here = like(mixed, mixed.numbers, z)
        held_out[here] = naive.held_out_delta_entropy(rows[here], groups[here], mixed.averaged_bandwidth)
        limit = max(np.quantile(held_out[here], 0.99), 0.0)
        np.testing.assert_allclose(landmarks.usual[here], np.minimum(held_out[here], limit), atol=0.02)
    assert (landmarks.scatter >= 0).all()


def test_a_check_has_the_scores_of_its_atoms(mixed):
    calibration = calibrate(mixed, false_alarms=0.1)
    with Monitor(mixed, calibration, log=None) as monitor:
        check = monitor.check(alloy(seed=70, rattle=0.06))
    rows = naive.averaged(alloy(seed=70, rattle=0.06), naive.rows(alloy(seed=70, rattle=0.06)), 12)
    scores = LocalScorer(mixed, calibration.landmarks).scores(rows, alloy(seed=70).numbers)
    np.testing.assert_allclose(check.local_score, scores, atol=1e-3)
    assert check.further["local_mean"] == pytest.approx(scores.mean(), abs=1e-3)
    assert check.further["local_max"] == pytest.approx(scores.max(), abs=1e-3)
    assert check.excess == pytest.approx(scores.max() - calibration.alarm_levels(alloy().numbers)[2].value, abs=1e-3)
    assert check.frame_entropy is check.tail_cluster is None


@pytest.fixture(scope="module")
def kinds():
    """Crystals, and melts whose environments are far apart: a level for both sees nothing in the crystals."""
    crystals = [copper(3, seed=i, rattle=0.05) for i in range(60)]
    melts = [copper(3, seed=i, rattle=0.5) for i in range(60)]
    return crystals, melts


def sheared(seed):
    atoms = copper(3, seed=seed, rattle=0.05)
    cell = atoms.cell.array.copy()
    cell[1, 0] += 0.08 * cell[1, 1]
    atoms.set_cell(cell, scale_atoms=True)
    return atoms


def test_a_crystal_is_judged_as_a_crystal_though_melts_are_known(kinds):
    crystals, melts = kinds
    reference = Reference.from_frames([*crystals, *melts], groups="frame")
    strange = [sheared(900 + i) for i in range(5)]
    quiet = [copper(3, seed=500 + i, rattle=0.05) for i in range(20)] + [copper(3, seed=700, rattle=0.5)]
    with Monitor(reference, log=None) as new, Monitor(reference, log=None, statistics=("dh_max", "dh_mean")) as plain:
        assert [new.check(atoms).state for atoms in strange] == ["out"] * 5
        assert [plain.check(atoms).state for atoms in strange] == ["in"] * 5
        assert sum(new.check(atoms).state == "out" for atoms in quiet) <= 1


def test_a_group_unlike_all_others_does_not_make_the_others_blind(kinds):
    crystals, _ = kinds
    stranger = bulk("Cu", "bcc", a=2.9, cubic=True) * (3, 3, 3)
    reference = Reference.from_frames([*crystals, stranger], groups="frame")
    calibration = calibrate(reference)
    assert calibration.landmarks.n_alone == 1
    assert "1 of 61 groups are unlike all others" in calibration.describe()
    alone = calibrate(Reference.from_frames(crystals, groups="frame"))
    for with_it, without in zip(*(c.alarm_levels([29] * 108) for c in (calibration, alone)), strict=True):
        assert with_it.value == pytest.approx(without.value, rel=0.15)
    scorer = LocalScorer(reference, calibration.landmarks)
    rows = reference.averaged_rows[reference.arrays.atom_frame == 60]
    assert (scorer.scores(rows, np.full(len(rows), 29)) < 1e-6).all()  # it is known itself: 0, but for rounding


def test_groups_unlike_each_other_count_where_they_are_many(kinds):
    crystals, _ = kinds
    strangers = [bulk("Cu", "bcc", a=2.6 + 0.1 * i, cubic=True) * (3, 3, 3) for i in range(6)]
    calibration = calibrate(Reference.from_frames([*crystals, *strangers], groups="frame"))
    assert calibration.landmarks.n_alone == 0
    assert "unlike" not in calibration.describe()
    few = calibrate(Reference.from_frames([*crystals, *strangers[:2]], groups="frame"))
    levels = [c.alarm_levels([29] * 54)[0].value for c in (calibration, few)]
    assert levels[0] > levels[1] + 5


def test_landmarks_are_few_and_cover_rare_kinds():
    """A reference of more rows than landmarks: one frame among many is there, and dH costs as much as of 4096 rows."""
    frames = [copper(4, seed=i, rattle=0.05) for i in range(40)]
    rare = bulk("Cu", "bcc", a=2.9, cubic=True) * (3, 3, 3)
    reference = Reference.from_frames([*frames, rare], groups="frame")
    landmarks, scores = learn_landmarks(reference, None, np.arange(reference.n_environments))[:2]
    assert len(landmarks.rows) == 4096 < reference.n_environments == len(scores)
    assert (np.diff(landmarks.rows) > 0).all()
    assert 40 in reference.arrays.atom_frame[landmarks.rows]
    again, _ = learn_landmarks(reference, None, np.arange(reference.n_environments), threads=1)[:2]
    for name in ("rows", "usual", "scatter"):
        assert getattr(again, name).tobytes() == getattr(landmarks, name).tobytes()


def test_nothing_held_out_is_no_error():
    reference = Reference.from_frames([copper(rattle=0.05)], groups="frame")
    landmarks, scores = learn_landmarks(reference, None, np.arange(32))[:2]
    assert np.isnan(scores).all()
    assert (landmarks.usual == 0).all()
    assert (landmarks.scatter == 0).all()


def test_a_loaded_reference_keeps_the_rows_of_landmarks_alone(tmp_path):
    """Of 10 240 averaged rows 4096 are landmarks: answers have the same bits, and the others stay in the file."""
    path = tmp_path / "r.safetensors"
    reference = Reference.from_frames(reordered(copper(4, seed=i, rattle=0.08) for i in range(40)), groups="frame")
    reference.with_held_out_scores().save(path)
    calibration, atoms = calibrate(reference), copper(4, seed=100, rattle=0.11)
    expected = Monitor(reference, calibration, log=None).check(atoms)
    again = calibrate(Reference.load(path))
    assert again.describe() == calibration.describe()
    np.testing.assert_array_equal(again.landmarks.usual, calibration.landmarks.usual)

    loaded = Reference.load(path)
    check = Monitor(loaded, calibration, log=None).check(atoms)
    np.testing.assert_array_equal(check.local_score, expected.local_score)
    assert replace(check, elapsed_us=0) == replace(expected, elapsed_us=0)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="averaged"):
        _ = loaded.averaged_rows


@pytest.mark.filterwarnings("ignore:no groups of frames")
def test_a_reference_without_averaged_rows_is_judged_by_its_plain_rows():
    built = Reference.from_frames([copper(seed=i, rattle=0.05) for i in range(40)], groups="frame")
    old, calibration = Reference.load(OLD), calibrate(built)
    assert calibrate(old).statistics == ("dh_max", "tail_cluster", "dh_mean")
    with pytest.raises(MismatchError, match="local_mean needs averaged rows, which the reference lacks"):
        calibrate(old, statistics=("local_mean",))
    with pytest.raises(MismatchError, match="averaged rows"):
        Monitor(old, replace(calibration, fingerprint=old.fingerprint), log=None)
    with pytest.raises(MismatchError, match="expected landmarks"):
        Monitor(built, replace(calibration, landmarks=None), log=None)


def test_landmarks_of_another_reference_are_refused():
    frames = [copper(seed=i, rattle=0.05) for i in range(6)]
    reference = Reference.from_frames(frames, groups="frame")
    landmarks, _ = learn_landmarks(reference, None, np.arange(6 * 32))[:2]
    with pytest.raises(MismatchError, match="landmarks are rows up to 191, the reference has 32"):
        LocalScorer(Reference.from_frames(frames[:1]), landmarks)


def test_separate_frames_are_linked_as_checks_link_them():
    """By the distances of the reference: those of frames that are wider would find larger clusters."""
    reference = Reference.from_frames([copper(seed=i, rattle=0.1) for i in range(40)], bandwidth=H, groups="frame")
    wide = []
    for i in range(40):
        atoms = copper(seed=100 + i, rattle=0.1)
        atoms.set_cell(atoms.cell * 1.25, scale_atoms=True)
        wide.append(atoms)
    calibration = calibrate(reference, frames=wide, groups="frame", statistics=("local_cluster",))
    (null,) = [null for null in calibration.nulls if null.statistic == "local_cluster"]
    with Monitor(reference, calibration, log=None, on_error="raise") as monitor:
        sizes = [monitor.check(atoms).statistic("local_cluster") for atoms in wide]
    assert sorted(null.scores) == sorted(sizes[int(group)] for group in null.groups)
    assert null.scores.max() > 0


def test_monitors_of_one_reference_and_calibration_share_their_landmarks():
    """A batch has hundreds of monitors: laid out for each, landmarks would take 30 ms and some MB a system."""
    frames = [copper(3, seed=seed, rattle=0.08) for seed in range(20)]
    reference = Reference.from_frames(frames)
    calibration = calibrate(reference)
    monitors = [Monitor(reference, calibration, log=None, on_error="raise") for _ in range(30)]
    monitors[0].check(frames[0])
    tracemalloc.start()
    checks = [monitor.check(frames[1]) for monitor in monitors[1:]]
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    rows = reference.rows.nbytes
    assert grown < 3 * rows  # of 29 monitors; with landmarks of its own each takes more than once the rows
    assert len({check.trigger_excess for check in checks}) == 1
