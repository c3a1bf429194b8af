import json
import math
from fractions import Fraction

import ase.io
import naive
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import quests_md.reference
from quests_md.calibration import SCHEMA, Calibration, calibrate
from quests_md.errors import FileFormatError, MismatchError
from quests_md.reference import Reference
from quests_md.tails import pareto_level

H = 0.05


class Given:
    """Rows that the frames carry."""

    fingerprint = "given"

    def __call__(self, atoms):
        return atoms.arrays["row"]


def carrying(rows, numbers=29):
    rows = np.asarray(rows, float)
    atoms = Atoms(np.broadcast_to(numbers, len(rows)), positions=np.arange(len(rows))[:, None] * [2.0, 0, 0])
    atoms.arrays["row"] = rows
    return atoms


def sample(rng, n_atoms=4):
    """A frame of an exchangeable sequence: rows spread around a point of the frame, now and then far out."""
    return rng.normal(size=(1, 2)) + 0.5 * rng.standard_t(3, size=(n_atoms, 2))


def copper(n, seed=0, amplitude=0.08):
    rng = np.random.default_rng(seed)
    frames = [bulk("Cu", cubic=True) for _ in range(n)]
    for atoms in frames:
        atoms.rattle(amplitude, rng=rng)
    return frames


def naive_maxima(reference, frame_groups):
    """One score per group: the largest held-out dH of its atoms, among atoms of their own element."""
    groups = np.asarray(frame_groups)[reference.array("atom_frame")]
    scores = np.empty(reference.n_environments)
    for z in np.unique(reference.numbers):
        own = reference.numbers == z if reference.match == "element" else slice(None)
        scores[own] = naive.held_out_delta_entropy(reference.rows[own], groups[own], reference.bandwidth)
    maxima = [max((s for s in scores[groups == g] if s < math.inf), default=None) for g in np.unique(groups)]
    return np.sort([m for m in maxima if m is not None])


def made(scores, false_alarms=0.1, per="check", frame_atoms=10):
    scores = np.sort(np.asarray(scores, float))
    return Calibration("abc", false_alarms, per, scores, np.full(len(scores), frame_atoms), frame_atoms, "a test")


@pytest.fixture(scope="module")
def cu():
    return Reference.from_frames(copper(24), bandwidth=H, groups="frame")


@pytest.mark.parametrize("groups", [None, "frame", "file", "labels"])
@pytest.mark.parametrize("match", ["element", "any"])
def test_the_level_is_the_rank_of_naive_group_maxima(tmp_path, groups, match):
    frames = copper(20)
    for atoms in frames[::2]:
        atoms.numbers[0] = 28
    ase.io.write(tmp_path / "a.traj", frames[:7])
    ase.io.write(tmp_path / "b.traj", frames[7:])
    reference = Reference.from_frames(
        [tmp_path / "a.traj", tmp_path / "b.traj"], bandwidth=H, match=match, groups=[i // 2 for i in range(20)]
    )
    frame_groups = {
        None: [i // 2 for i in range(20)],
        "frame": list(range(20)),
        "file": [0] * 7 + [1] * 13,
        "labels": ["abcd"[i % 4] for i in range(20)],
    }[groups]
    given = frame_groups if groups == "labels" else groups
    expected = naive_maxima(reference, frame_groups)
    for a in (0.1, 0.25, 0.5, 0.01):
        calibration = calibrate(reference, false_alarms=a, groups=given)
        n = len(expected)
        assert calibration.n_groups == n == len(set(frame_groups))
        np.testing.assert_allclose(calibration.scores, expected, rtol=1e-9)
        rank = math.ceil((1 - Fraction(str(a))) * (n + 1))
        level = calibration.level(4)
        assert level.value == pytest.approx(expected[min(rank, n) - 1], rel=1e-9)
        assert level.kind == calibration.kind == ("conformal" if rank <= n else "none")
    assert calibration.frame_atoms == 4
    assert calibration.fingerprint == reference.fingerprint


@pytest.mark.parametrize("n", [2, 3, 9, 19, 20, 99, 100, 999])
def test_conformal_exactly_with_enough_groups(n):
    scores = np.arange(n) / 7
    edge = Fraction(1, n + 1)
    for a, kind in (
        (edge, "conformal"),
        (edge * Fraction(1001, 1000), "conformal"),
        (edge * Fraction(999, 1000), "extrapolated" if n >= 30 else "none"),
        (edge / 10, "extrapolated" if n >= 30 else "none"),
        (edge / 11, "none"),
        (Fraction(1, 2), "conformal"),
        (Fraction(1, 20_000), "none"),
    ):
        level = made(scores, float(a)).level(10)
        assert (kind == "conformal") == (n >= 1 / a - 1)
        assert level.kind == kind
        if kind == "conformal":
            assert level.value == scores[math.ceil((1 - a) * (n + 1)) - 1]
            assert level.rate == float(a)
        elif kind == "extrapolated":
            assert (level.value, *level.interval) == pareto_level(scores, float(a))
            assert level.rate == float(a)
        else:
            assert level.value == scores[-1]
            assert level.rate == pytest.approx(1 / (n + 1))


def test_a_rate_of_one_in_n_plus_one_is_never_lost_to_rounding():
    for n in range(2, 400):
        assert made(np.arange(n), 1 / (n + 1)).level(10).kind == "conformal"


@pytest.mark.parametrize("a", [0.9, 0.99, 0.999999])
def test_a_rate_near_one_takes_the_smallest_scores(a):
    assert made(range(9), a).level(1).value == max(0, math.ceil((1 - a) * 10) - 1)


@pytest.mark.parametrize(
    ("n_atoms", "pieces"), [(0, 1), (1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3), (1000, 100)]
)
def test_a_larger_frame_counts_as_several(n_atoms, pieces):
    scores = np.arange(1999)
    large, equal = made(scores, 0.1).level(n_atoms), made(scores, 0.1 / pieces).level(10)
    assert large.pieces == pieces
    assert (large.value, large.kind, large.rate) == (equal.value, equal.kind, 0.1)


def test_beyond_the_groups_there_is_the_largest_score_and_an_honest_rate():
    calibration = made(np.arange(99), 0.01)
    assert calibration.level(10).kind == "conformal"
    for n_atoms in (11, 95):
        assert calibration.level(n_atoms).kind == "extrapolated"
    for n_atoms, pieces in ((101, 11), (999, 100), (5000, 500)):
        level = calibration.level(n_atoms)
        assert (level.kind, level.value, level.pieces) == ("none", 98.0, pieces)
        assert level.rate == pytest.approx(min(1, pieces / 100))


def test_checks_count_by_time_and_run_and_not_by_check():
    scores = np.arange(1999)
    for per in ("ns", "run"):
        calibration = made(scores, 0.1, per)
        for checks, pieces in ((1, 1), (7, 1), (50, 2), (100, 2), (101, 2), (1000, 2)):
            level = calibration.level(10 * pieces, checks)
            alike = made(scores, 0.1 / (checks * pieces)).level(10)
            assert (level.value, level.kind) == (alike.value, alike.kind)
            assert level.rate == pytest.approx(0.1 if alike.kind != "none" else checks * pieces / 2000)
        assert calibration.level(10, 10_000).rate == 1.0
    assert made(scores, 0.1).level(10, 1000) == made(scores, 0.1).level(10)


def test_levels_are_one_per_atom():
    calibration = made(np.arange(99), 0.1, "run")
    levels = calibration.levels(Atoms("Cu25"), checks=2)
    np.testing.assert_array_equal(levels, [calibration.level(25, 2).value] * 25)
    assert calibration.levels(Atoms()).shape == (0,)


@pytest.mark.parametrize("checks", [0, -3, True, math.nan])
def test_a_number_of_checks_that_makes_no_sense(checks):
    with pytest.raises(ValueError, match="checks: expected a positive integer"):
        made(range(9), per="run").level(10, checks)


def observed(rate_of_one, repeats):
    """Mean rate over repeated calibrations, and its standard error."""
    rates = np.array([rate_of_one(np.random.default_rng(seed)) for seed in range(repeats)])
    return rates.mean(), rates.std(ddof=1) / math.sqrt(repeats)


def share_out(reference, level, frames):
    values = reference.delta_entropy(np.concatenate(frames), float64=True, threads=1)
    sizes = np.cumsum([len(rows) for rows in frames])[:-1]
    return np.mean([part.max() > level for part in np.split(values, sizes)])


def reference_of(rng, n):
    frames = [carrying(sample(rng)) for _ in range(n)]
    return Reference.from_frames(frames, descriptor=Given(), bandwidth=0.5, groups="frame", threads=1)


@pytest.mark.parametrize(("a", "n"), [(0.1, 19), (0.2, 14)])
def test_new_frames_keep_the_promise(a, n):
    def rate(rng):
        reference = reference_of(rng, n)
        level = calibrate(reference, false_alarms=a, threads=1).level(4)
        assert level.kind == "conformal"
        return share_out(reference, level.value, [sample(rng) for _ in range(40)])

    mean, error = observed(rate, 300)
    assert mean <= a + 3 * error
    assert mean > a / 3  # a level that never fires would keep any promise


def test_new_frames_twice_as_large_keep_the_promise():
    def rate(rng):
        reference = reference_of(rng, 29)
        level = calibrate(reference, false_alarms=0.1, threads=1).level(8)
        assert (level.kind, level.pieces) == ("conformal", 2)
        frames = [np.concatenate([sample(rng), sample(rng)]) for _ in range(30)]
        return share_out(reference, level.value, frames)

    mean, error = observed(rate, 200)
    assert mean <= 0.1 + 3 * error
    assert mean > 0.1 / 4


def test_frames_apart_keep_the_promise_closely():
    def rate(rng):
        reference = reference_of(rng, 8)
        apart = [carrying(sample(rng)) for _ in range(19)]
        level = calibrate(reference, false_alarms=0.1, frames=apart, groups="frame", threads=1).level(4)
        assert level.kind == "conformal"
        return share_out(reference, level.value, [sample(rng) for _ in range(40)])

    mean, error = observed(rate, 200)
    assert abs(mean - 0.1) <= 4 * error  # exact for a continuous distribution: 2 of 20 ranks


def test_the_honest_rate_of_too_few_groups_is_kept():
    def rate(rng):
        reference = reference_of(rng, 9)
        level = calibrate(reference, false_alarms=0.01, threads=1).level(4)
        assert (level.kind, level.rate) == ("none", pytest.approx(0.1))
        return share_out(reference, level.value, [sample(rng) for _ in range(30)])

    mean, error = observed(rate, 200)
    assert mean <= 0.1 + 3 * error


def test_another_phase_is_caught(cu):
    calibration = calibrate(cu, false_alarms=0.05)
    same, hot = copper(30, seed=5), copper(30, seed=6, amplitude=0.3)
    fired = [np.mean([(cu.delta_entropy(f) > calibration.levels(f)).any() for f in frames]) for frames in (same, hot)]
    assert fired[0] <= 0.3
    assert fired[1] == 1.0


def test_frames_apart_are_scored_against_the_whole_reference(tmp_path, cu):
    apart = copper(12, seed=3)
    ase.io.write(tmp_path / "apart.traj", apart)
    expected = [naive.delta_entropy(cu.descriptor(atoms), cu.rows, H).max() for atoms in apart]
    for frames in (apart, tmp_path / "apart.traj"):
        calibration = calibrate(cu, false_alarms=0.2, frames=frames, groups="frame")
        np.testing.assert_allclose(calibration.scores, np.sort(expected), rtol=1e-9)
        assert calibration.fingerprint == cu.fingerprint
        assert calibration.frame_atoms == 4
        assert "12 separate frames" in calibration.how
    paired = calibrate(cu, frames=apart, groups=[i // 3 for i in range(12)])
    np.testing.assert_allclose(paired.scores, np.sort(np.reshape(expected, (4, 3)).max(axis=1)), rtol=1e-9)
    blocks = calibrate(cu, frames=apart * 3)
    assert blocks.n_groups <= 36


def test_one_frame_apart_is_a_guess(cu):
    with pytest.warns(UserWarning, match="1 group of frames could be held out"):
        calibration = calibrate(cu, frames=copper(1, seed=2))
    level = calibration.level(4)
    assert (level.kind, level.rate) == ("none", 1.0)
    assert level.value == calibration.scores[0]
    assert "guess" in calibration.describe(4)


def test_one_frame_has_nothing_to_hold_out():
    reference = Reference.from_frames(copper(1), bandwidth=H)
    with pytest.warns(UserWarning, match="no groups of frames could be held out: the level is a guess"):
        calibration = calibrate(reference)
    assert (calibration.n_groups, calibration.kind) == (0, "none")
    level = calibration.level(4)
    assert (level.value, level.rate) == (0.0, 1.0)  # the published rule of thumb
    text = calibration.describe(4)
    for words in ("kind none", "no groups could be held out", "a guess", "promise: none"):
        assert words in text


def test_an_empty_reference_has_no_level():
    with pytest.warns(UserWarning, match="no environment"):
        reference = Reference.from_frames([], bandwidth=H)
    with pytest.warns(UserWarning, match="a guess"):
        calibration = calibrate(reference)
    assert (calibration.kind, calibration.frame_atoms, calibration.n_groups) == ("none", 0, 0)
    assert calibration.level(100).value == 0.0
    assert "a guess" in calibration.describe(100)


def test_one_group_of_many_frames_has_nothing_to_hold_out(cu):
    with pytest.warns(UserWarning, match="a guess"):
        calibration = calibrate(cu, groups="file")
    assert (calibration.kind, calibration.n_groups, calibration.level(4).value) == ("none", 0, 0.0)


@pytest.mark.parametrize("match", ["element", "any"])
def test_an_element_of_one_group_alone_does_not_make_the_level_infinite(match):
    frames = copper(10)
    frames[4].numbers[:2] = 79
    reference = Reference.from_frames(frames, bandwidth=H, match=match, groups="frame")
    calibration = calibrate(reference, false_alarms=0.1)
    assert calibration.n_groups == 10
    assert np.isfinite(calibration.scores).all()
    np.testing.assert_allclose(calibration.scores, naive_maxima(reference, range(10)), rtol=1e-9)
    assert ("2 environments of elements without a counterpart" in calibration.how) == (match == "element")


def test_a_group_of_strange_elements_alone_has_no_score():
    frames = copper(5)
    frames[2].numbers[:] = 79
    calibration = calibrate(Reference.from_frames(frames, bandwidth=H, groups="frame"))
    assert calibration.n_groups == 4


def test_whole_groups_are_chosen_by_the_seed_where_rows_are_many(cu, monkeypatch):
    everything = calibrate(cu).scores
    monkeypatch.setattr(quests_md.reference, "MAX_HELD_OUT", 50)
    fresh = Reference.from_frames(copper(24), bandwidth=H, groups="frame")
    chosen = [calibrate(fresh, rng=seed).scores for seed in (0, 1, 2, 1)]
    for scores in chosen:
        assert len(scores) == 12
        assert set(scores) <= set(everything)
    assert not np.array_equal(chosen[0], chosen[1])
    np.testing.assert_array_equal(chosen[1], chosen[3])
    generator = calibrate(fresh, rng=np.random.default_rng(1)).scores
    np.testing.assert_array_equal(generator, chosen[1])


def test_threads_never_change_the_result(cu):
    one, two = (calibrate(cu, groups="frame", threads=n).scores for n in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("bad", [0, 0.0, 1, 1.0, -0.1, 1.5, math.nan, math.inf, True, False, "0.01", None, [0.1]])
def test_a_rate_outside_zero_and_one_is_refused(cu, bad):
    with pytest.raises(ValueError, match="false_alarms: expected a rate between 0 and 1") as info:
        calibrate(cu, false_alarms=bad)
    assert repr(bad) in str(info.value)


def test_rates_of_numpy_are_rates(cu):
    assert calibrate(cu, false_alarms=np.float32(0.25)).false_alarms == 0.25


@pytest.mark.parametrize("bad", ["checks", "", None, 3])
def test_a_unit_of_the_rate_that_does_not_exist_is_refused(cu, bad):
    with pytest.raises(ValueError, match="per: expected 'check', 'ns' or 'run'"):
        calibrate(cu, per=bad)


@pytest.mark.parametrize(
    ("groups", "message"), [("config_type", "'config_type'"), ([0, 1], "24 frames, got 2"), (range(25), "got 25")]
)
def test_groups_that_do_not_fit_are_refused(cu, groups, message):
    with pytest.raises(ValueError, match=f"groups: .*{message}"):
        calibrate(cu, groups=groups)


@pytest.mark.parametrize("per", ["check", "ns", "run"])
def test_describe_says_level_rate_groups_size_and_limits(per):
    calibration = made(np.arange(199) + 0.125, 0.04, per)
    text = calibration.describe(25, 1)
    unit = {"check": "check", "ns": "nanosecond", "run": "run"}[per]
    value = calibration.level(25).value
    assert calibration.level(25).kind == "conformal"
    for words in (
        f"{value:.2f} nats",
        "conformal",
        f"0.04 false alarms per {unit}",
        "199 groups",
        "25 atoms",
        "a test",
    ):
        assert words in text
    assert "count as 3 frames" in text
    assert "not for another temperature, phase or composition" in text


@pytest.mark.parametrize(("a", "n_atoms", "checks"), [(0.01, 10, 1), (0.01, 35, 1), (0.07, 100, 9), (0.001, 1, 3)])
def test_describe_says_what_too_few_groups_are_worth_and_how_many_would_do(a, n_atoms, checks):
    calibration = made(np.arange(9) + 0.375, a, "run")
    level = calibration.level(n_atoms, checks)
    assert level.kind == "none"
    text = calibration.describe(n_atoms, checks)
    for words in ("kind none", f"{a:.2g} false alarms per run", "9 groups", f"{level.rate:.2g}", "8.38", "largest"):
        assert words in text
    need = int(text.split(" groups would do")[0].split()[-1])
    assert made(np.arange(need), a, "run").level(n_atoms, checks).kind == "conformal"
    assert made(np.arange(need - 1), a, "run").level(n_atoms, checks).kind != "conformal"


def test_describe_says_what_an_extrapolation_rests_on():
    calibration = made(np.sort(np.random.default_rng(3).gumbel(size=55)), 0.01)
    level = calibration.level(10)
    text = calibration.describe(10)
    low, high = level.interval
    assert f"dH <= {level.value:.2f} nats (extrapolated from 55 groups to {low:.2f} ... {high:.2f}" in text
    assert "about 0.01 false alarms" in text
    assert "0.018 at most without that" in text


def test_how_the_level_was_made_tells_the_rule_of_groups(cu):
    assert "by 'frame'" in calibrate(cu).how
    assert "96 held-out environments" in calibrate(cu).how
    assert "labels given" in calibrate(cu, groups=range(24)).how


@pytest.fixture
def saved(tmp_path, cu):
    path = tmp_path / "levels.json"
    calibrate(cu, false_alarms=0.05, per="ns").save(path)
    return path


def test_a_calibration_comes_back_as_it_was(tmp_path, saved, cu):
    calibration = calibrate(cu, false_alarms=0.05, per="ns")
    loaded = Calibration.load(saved)
    for name in ("fingerprint", "false_alarms", "per", "frame_atoms", "how", "kind", "n_groups"):
        assert getattr(loaded, name) == getattr(calibration, name)
    assert loaded.scores.tobytes() == calibration.scores.tobytes()
    assert loaded.level(40, 7) == calibration.level(40, 7)
    assert loaded.describe(40, 7) == calibration.describe(40, 7)
    loaded.require(cu)
    for empty in (made([]), made([1.5])):
        empty.save(tmp_path / "few.json")
        assert Calibration.load(tmp_path / "few.json").scores.tolist() == empty.scores.tolist()


def test_a_file_of_strict_json(saved):
    def refuse(token):
        raise AssertionError(token)

    content = json.loads(saved.read_text(), parse_constant=refuse)
    assert (content["schema"], content["type"]) == (SCHEMA, "quests_md calibration")


def test_a_torn_file_is_refused_at_any_length(saved):
    whole = saved.read_bytes()
    for length in [*range(0, len(whole) - 2, 11), len(whole) - 2]:
        saved.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=r"levels\.json"):
            Calibration.load(saved)


@pytest.mark.parametrize(
    "content",
    [b"[]", b"3", b'"text"', b"{}", b'{"type": "other"}', b"\xff\xfe\x00", b"2\ncomment\nCu 0 0 0\n", b"null"],
)
def test_another_file_is_not_a_calibration(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"other\.json"):
        Calibration.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [1.0, "x"]},
        {"scores": [1.0, None]},
        {"scores": 3},
        {"scores": [[1.0]]},
        {"scores": [math.nan]},
        {"scores": [math.inf]},
        {"false_alarms": 0},
        {"false_alarms": "0.1"},
        {"per": "year"},
        {"frame_atoms": "many"},
        {"frame_atoms": math.inf},
        {"schema": None},
    ],
)
def test_damaged_content_is_refused(saved, change):
    saved.write_text(json.dumps(json.loads(saved.read_text()) | change))
    with pytest.raises(FileFormatError, match=r"levels\.json"):
        Calibration.load(saved)


@pytest.mark.parametrize(
    "name", ["type", "schema", "fingerprint", "false_alarms", "per", "frame_atoms", "how", "scores"]
)
def test_missing_content_is_refused_by_name(saved, name):
    content = json.loads(saved.read_text())
    del content[name]
    saved.write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=name):
        Calibration.load(saved)


def test_a_newer_schema_is_refused(saved):
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"schema": SCHEMA + 1}))
    with pytest.raises(FileFormatError, match=rf"schema {SCHEMA + 1}.*up to {SCHEMA}.*update"):
        Calibration.load(saved)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Calibration\.save"):
        Calibration.load(tmp_path / "missing.json")


def test_an_interrupted_save_keeps_the_older_file(tmp_path, saved):
    before = saved.read_bytes()
    unwritable = Calibration("abc", 0.1, "check", np.array([math.nan]), np.array([10]), 10, "")
    with pytest.raises(ValueError, match="JSON"):
        unwritable.save(saved)
    assert saved.read_bytes() == before
    assert list(tmp_path.iterdir()) == [saved]
    with pytest.raises(FileNotFoundError, match="create its folder"):
        made([1.0]).save(tmp_path / "missing" / "levels.json")
    assert list(tmp_path.iterdir()) == [saved]


def test_the_calibration_of_another_reference_is_refused_naming_both(cu):
    other = Reference.from_frames(copper(3), bandwidth=H)
    calibration = calibrate(cu)
    calibration.require(cu)
    with pytest.raises(MismatchError) as info:
        calibration.require(other)
    assert cu.fingerprint in str(info.value)
    assert other.fingerprint in str(info.value)


def test_frames_that_come_again_do_not_make_the_level_false(cu):
    level = calibrate(cu, false_alarms=0.1).level(4)
    doubled = calibrate(Reference.merge([cu, cu]), false_alarms=0.1)
    assert doubled.n_groups == 24
    # twice as many rows lower every score by log 2, no score becomes that of a copy
    assert doubled.level(4).value == pytest.approx(level.value - math.log(2), abs=1e-9)


def test_small_frames_do_not_count_as_large_ones():
    scores = np.concatenate([np.full(40, -5.0), np.arange(60)])  # 40 groups of 4 atoms, 60 of 60
    sizes = np.concatenate([np.full(40, 4), np.full(60, 60)])
    calibration = Calibration("abc", 0.1, "check", scores, sizes, 60, "a test")
    level = calibration.level(60)
    assert (level.pieces, level.n_groups) == (1, 60)
    assert level.value == 54.0  # the 55th of 60
    assert calibration.level(4).n_groups == 100
    assert calibration.level(120).pieces == 2
    assert "60 of 100 groups" in calibration.describe(60)


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_the_promise_holds_for_large_frames_of_a_mixed_set(share):
    rng = np.random.default_rng(4)
    rates = []
    for _ in range(300):
        sizes = np.where(rng.random(100) < share, 4, 60)
        scores = np.array([rng.normal(size=n).max() for n in sizes])
        order = np.argsort(scores)
        calibration = Calibration("abc", 0.1, "check", scores[order], sizes[order], 60, "a test")
        rates.append((rng.normal(size=(40, 60)).max(axis=1) > calibration.level(60).value).mean())
    assert np.mean(rates) < 0.1 + 3 * np.std(rates) / np.sqrt(len(rates))
