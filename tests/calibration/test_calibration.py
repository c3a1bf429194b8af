import json
import math
from fractions import Fraction
from functools import partial, partialmethod

import ase.io
import naive
import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_numbers
from references import Given, H, carrying
from references import rattled_cells as copper
from systems import NULL_LINE, calibration_of, null_of

from quests_md.calibration import DEFAULT_STATISTICS, Calibration, calibrate, kind_of, rate_of
from quests_md.calibration.file import SCHEMA
from quests_md.calibration.levels import level_of
from quests_md.calibration.rate import BlockTimes
from quests_md.calibration.statistics import STATISTICS
from quests_md.calibration.tails import FARTHEST, pareto_level, pareto_quantile
from quests_md.errors import FileFormatError, MismatchError
from quests_md.judge.judge import Judge
from quests_md.reference import Reference

#: Levels of the largest dH alone, which has the whole rate.
calibrate_largest = partial(calibrate, statistics=("dh_max",))


def sample(rng, n_atoms=4):
    """A frame of an exchangeable sequence: rows spread around a point of the frame, now and then far out."""
    return rng.normal(size=(1, 2)) + 0.5 * rng.standard_t(3, size=(n_atoms, 2))


def naive_maxima(reference, frame_groups, element=None):
    """One score per group: the largest held-out dH of its atoms (of one element), among atoms of their own element."""
    groups = np.asarray(frame_groups)[reference.arrays.atom_frame]
    scores = np.empty(reference.n_environments)
    for z in np.unique(reference.numbers):
        own = reference.numbers == z if reference.match == "element" else slice(None)
        scores[own] = naive.held_out_delta_entropy(reference.rows[own], groups[own], reference.bandwidth)
    chosen = np.isfinite(scores) & ((reference.numbers == element) if element else True)
    maxima = [max(scores[chosen & (groups == g)], default=None) for g in np.unique(groups)]
    return np.sort([m for m in maxima if m is not None])


def made(scores, false_alarms=0.1, per="check", frame_atoms=10):
    null = null_of(scores, frame_atoms)
    return calibration_of(null, false_alarms=false_alarms, per=per, frame_atoms=frame_atoms, how="a test")


def level(calibration, n_atoms, checks=None):
    """The only level of a calibration for so many atoms of copper."""
    (only,) = calibration.alarm_levels(np.full(n_atoms, 29), checks)
    return only


def scores(calibration, statistic="dh_max"):
    """The only scores of a statistic."""
    (only,) = [null.scores for null in calibration.nulls if null.statistic == statistic]
    return only


@pytest.fixture(scope="module")
def cu():
    return Reference.from_frames(copper(24), bandwidth=H, groups="frame")


@pytest.mark.slow
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
    elements = [28, 29] if match == "element" else [None]
    for a in (0.1, 0.25, 0.5, 0.01):
        calibration = calibrate_largest(reference, false_alarms=a, groups=given)
        assert calibration.n_groups == len(set(frame_groups))
        assert calibration.kind == kind_of(calibration.alarm_levels([28, 29, 29, 29]))
        atoms = Atoms([28, 29, 29, 29])
        for z, found in zip(elements, calibration.alarm_levels(atoms.numbers), strict=True):
            expected = naive_maxima(reference, frame_groups, z)
            n = len(expected)
            share = Fraction(str(a)) / len(elements)  # elements share the rate
            rank = math.ceil((1 - share) * (n + 1))
            assert found.value == pytest.approx(expected[min(rank, n) - 1], rel=1e-9)
            assert found.kind == ("conformal" if rank <= n else "none")
            mine = atoms.numbers == z if z else slice(None)
            np.testing.assert_array_equal(calibration.levels(atoms)[mine], found.value)
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
        (edge / FARTHEST, "extrapolated" if n >= 30 else "none"),
        (edge / (FARTHEST + 1), "none"),
        (Fraction(1, 2), "conformal"),
    ):
        found = level(made(scores, float(a)), 10)
        assert (kind == "conformal") == (n >= 1 / a - 1)
        assert found.kind == kind
        if kind == "conformal":
            ranked = scores[math.ceil((1 - a) * (n + 1)) - 1]
            few_above = n >= 30 and a * (n + 1) < 11
            assert found.value == (max(ranked, pareto_quantile(scores, float(a))) if few_above else ranked)
            assert found.rate == float(a)
        elif kind == "extrapolated":
            assert (found.value, *found.interval) == pareto_level(scores, float(a))
            assert found.rate == float(a)
        else:
            assert found.value == (pareto_level(scores, float(a))[0] if n >= 30 else scores[-1])
            assert found.rate == pytest.approx(1 / (n + 1))


def test_a_rate_of_one_in_n_plus_one_is_never_lost_to_rounding():
    for n in range(2, 400):
        assert level(made(np.arange(n), 1 / (n + 1)), 10).kind == "conformal"


@pytest.mark.parametrize("a", [0.9, 0.99, 0.999999])
def test_a_rate_near_one_takes_the_smallest_scores(a):
    assert level(made(range(9), a), 1).value == max(0, math.ceil((1 - a) * 10) - 1)


@pytest.mark.parametrize(
    ("n_atoms", "pieces"), [(0, 1), (1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3), (1000, 100)]
)
def test_a_larger_frame_counts_as_several(n_atoms, pieces):
    scores = np.arange(1999)
    large, equal = level(made(scores, 0.1), n_atoms), level(made(scores, 0.1 / pieces), 10)
    assert large.pieces == pieces
    assert (large.value, large.kind, large.rate) == (equal.value, equal.kind, 0.1)


def test_beyond_the_groups_there_is_an_extrapolation_and_then_an_honest_rate():
    calibration = made(np.arange(99), 0.01)
    assert level(calibration, 10).kind == "conformal"
    for n_atoms in (11, 95, 10 * FARTHEST):
        found = level(calibration, n_atoms)
        assert (found.kind, found.rate) == ("extrapolated", 0.01)
        assert found.value >= 98.0
    before = 0.0
    for pieces in (FARTHEST + 1, 100, 500):
        found = level(calibration, 10 * pieces)
        assert (found.kind, found.pieces) == ("none", pieces)
        assert found.rate == pytest.approx(min(1, pieces / 100))
        assert found.value >= max(before, 98.0)
        before = found.value
    few = level(made(np.arange(9), 0.01), 35)
    assert (few.kind, few.value, few.rate, few.interval) == ("none", 8.0, pytest.approx(0.4), None)


def test_checks_count_by_time_and_run_and_not_by_check():
    scores = np.arange(1999)
    for per in ("ns", "run"):
        calibration = made(scores, 0.1, per)
        for checks, pieces in ((1, 1), (7, 1), (50, 2), (100, 2), (101, 2), (1000, 2)):
            found = level(calibration, 10 * pieces, checks)
            alike = level(made(scores, 0.1 / (checks * pieces)), 10)
            assert (found.value, found.kind) == (alike.value, alike.kind)
            assert found.rate == pytest.approx(0.1 if alike.kind != "none" else checks * pieces / 2000)
        assert level(calibration, 10, 10_000).rate == 1.0
    assert level(made(scores, 0.1), 10, 1000) == level(made(scores, 0.1), 10)


def test_levels_are_one_per_atom():
    calibration = made(np.arange(99), 0.1, "run")
    levels = calibration.levels(Atoms("Cu25"), checks=2)
    np.testing.assert_array_equal(levels, [level(calibration, 25, 2).value] * 25)
    assert calibration.levels(Atoms()).shape == (0,)


@pytest.mark.parametrize("checks", [0, -3, True, math.nan])
def test_a_number_of_checks_that_makes_no_sense(checks):
    with pytest.raises(ValueError, match="checks: expected a positive integer"):
        level(made(range(9), per="run"), 10, checks)


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


@pytest.mark.slow
@pytest.mark.parametrize(("a", "n"), [(0.1, 19), (0.2, 14)])
def test_new_frames_keep_the_promise(a, n):
    def rate(rng):
        reference = reference_of(rng, n)
        found = level(calibrate_largest(reference, false_alarms=a, threads=1), 4)
        assert found.kind == "conformal"
        return share_out(reference, found.value, [sample(rng) for _ in range(40)])

    mean, error = observed(rate, 300)
    assert mean <= a + 3 * error
    assert mean > a / 3  # a level that never fires would keep any promise


@pytest.mark.slow
def test_new_frames_twice_as_large_keep_the_promise():
    def rate(rng):
        reference = reference_of(rng, 29)
        found = level(calibrate_largest(reference, false_alarms=0.1, threads=1), 8)
        assert (found.kind, found.pieces) == ("conformal", 2)
        frames = [np.concatenate([sample(rng), sample(rng)]) for _ in range(30)]
        return share_out(reference, found.value, frames)

    mean, error = observed(rate, 200)
    assert mean <= 0.1 + 3 * error
    assert mean > 0.1 / 4


@pytest.mark.slow
def test_frames_apart_keep_the_promise_closely():
    def rate(rng):
        reference = reference_of(rng, 8)
        apart = [carrying(sample(rng)) for _ in range(19)]
        options = {"frames": apart, "groups": "frame", "threads": 1}
        found = level(calibrate_largest(reference, false_alarms=0.1, **options), 4)
        assert found.kind == "conformal"
        return share_out(reference, found.value, [sample(rng) for _ in range(40)])

    mean, error = observed(rate, 200)
    assert abs(mean - 0.1) <= 4 * error  # exact for a continuous distribution: 2 of 20 ranks


@pytest.mark.slow
def test_the_honest_rate_of_too_few_groups_is_kept():
    def rate(rng):
        reference = reference_of(rng, 9)
        found = level(calibrate_largest(reference, false_alarms=0.01, threads=1), 4)
        assert (found.kind, found.rate) == ("none", pytest.approx(0.1))
        return share_out(reference, found.value, [sample(rng) for _ in range(30)])

    mean, error = observed(rate, 200)
    assert mean <= 0.1 + 3 * error


def test_another_phase_is_caught(cu):
    calibration = calibrate_largest(cu, false_alarms=0.05)
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
        np.testing.assert_allclose(scores(calibration), np.sort(expected), rtol=1e-9)
        assert calibration.fingerprint == cu.fingerprint
        assert calibration.frame_atoms == 4
        assert "12 separate frames" in calibration.how
    paired = calibrate(cu, frames=apart, groups=[i // 3 for i in range(12)])
    np.testing.assert_allclose(scores(paired), np.sort(np.reshape(expected, (4, 3)).max(axis=1)), rtol=1e-9)
    blocks = calibrate(cu, frames=apart * 3)
    assert blocks.n_groups <= 36


def test_one_frame_apart_is_a_guess(cu):
    with pytest.warns(UserWarning, match="1 group of frames could be held out"):
        calibration = calibrate(cu, frames=copper(1, seed=2))
    levels = calibration.with_statistics(("dh_max", "dh_mean")).alarm_levels([29] * 4)
    assert [(found.statistic, found.side) for found in levels] == [
        ("dh_max", "above"),
        ("dh_mean", "above"),
        ("dh_mean", "below"),
    ]
    for found in levels:
        assert (found.kind, found.rate) == ("none", 1.0)
    assert [found.value for found in levels] == [max(scores(calibration)[0], 0.0), 0.0, -np.inf]
    assert "guess" in calibration.describe(4)


def test_one_frame_has_nothing_to_hold_out():
    reference = Reference.from_frames(copper(1), bandwidth=H)
    with pytest.warns(UserWarning, match="no groups of frames could be held out: the level is a guess"):
        calibration = calibrate(reference)
    assert (calibration.n_groups, calibration.kind) == (0, "none")
    (found,) = calibration.alarm_levels([29] * 4)
    assert (found.statistic, found.value, found.rate) == ("dh_max", 0.0, 1.0)  # the published rule of thumb
    text = calibration.describe(4)
    for words in ("kind none", "no groups could be held out", "a guess", "promise: none"):
        assert words in text


def test_an_empty_reference_has_no_level():
    with pytest.warns(UserWarning, match="no environment"):
        reference = Reference.from_frames([], bandwidth=H)
    with pytest.warns(UserWarning, match="a guess"):
        calibration = calibrate(reference)
    assert (calibration.kind, calibration.frame_atoms, calibration.n_groups) == ("none", 0, 0)
    assert (calibration.levels(Atoms("Cu100")) == 0.0).all()
    assert "a guess" in calibration.describe(100)


def test_one_group_of_many_frames_has_nothing_to_hold_out(cu):
    with pytest.warns(UserWarning, match="a guess"):
        calibration = calibrate(cu, groups="file")
    assert (calibration.kind, calibration.n_groups, level(calibration, 4).value) == ("none", 0, 0.0)


@pytest.mark.parametrize("match", ["element", "any"])
def test_an_element_of_one_group_alone_does_not_make_the_level_infinite(match):
    frames = copper(10)
    frames[4].numbers[:2] = 79
    reference = Reference.from_frames(frames, bandwidth=H, match=match, groups="frame")
    calibration = calibrate(reference, false_alarms=0.1)
    assert calibration.n_groups == 10
    for null in calibration.nulls:
        assert np.isfinite(null.scores).all()
        if null.statistic == "dh_max":
            z = None if match == "any" else atomic_numbers[null.element]
            np.testing.assert_allclose(null.scores, naive_maxima(reference, range(10), z), rtol=1e-9)
    n_groups = [calibration.alarm_levels([z] * 2)[0].n_groups for z in (29, 79)]
    assert n_groups == ([10, 0] if match == "element" else [10, 10])
    assert ("2 environments of elements without a counterpart" in calibration.how) == (match == "element")


def test_a_group_of_strange_elements_alone_has_no_score():
    frames = copper(5)
    frames[2].numbers[:] = 79
    calibration = calibrate(Reference.from_frames(frames, bandwidth=H, groups="frame"))
    assert calibration.n_groups == 4


def test_whole_groups_are_chosen_by_the_seed_where_rows_are_many(cu, monkeypatch):
    everything = scores(calibrate(cu))
    capped = partialmethod(Reference.held_out_scores, most_rows=50)
    monkeypatch.setattr(Reference, "held_out_scores", capped)
    fresh = Reference.from_frames(copper(24), bandwidth=H, groups="frame")
    chosen = [scores(calibrate(fresh, rng=seed)) for seed in (0, 1, 2, 1)]
    for these in chosen:
        assert len(these) == 12
        assert set(these) <= set(everything)
    assert not np.array_equal(chosen[0], chosen[1])
    np.testing.assert_array_equal(chosen[1], chosen[3])
    generator = scores(calibrate(fresh, rng=np.random.default_rng(1)))
    np.testing.assert_array_equal(generator, chosen[1])


def test_threads_never_change_the_result(cu):
    one, two = (calibrate(cu, groups="frame", threads=n).nulls for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert (a.statistic, a.side, a.values) == (b.statistic, b.side, b.values)
        np.testing.assert_array_equal(a.scores, b.scores)


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
    value = level(calibration, 25).value
    assert level(calibration, 25).kind == "conformal"
    for words in (
        f"{value:.2f} nats",
        "conformal",
        f"0.04 false alarms per {unit}",
        "199 groups",
        "25 atoms",
        "a test",
    ):
        assert words in text
    assert "counted as 3 frames" in text
    assert "not for another temperature, phase or composition" in text


@pytest.mark.parametrize(("a", "n_atoms", "checks"), [(0.01, 10, 1), (0.01, 35, 1), (0.07, 100, 9), (0.001, 1, 3)])
def test_describe_says_what_too_few_groups_are_worth(a, n_atoms, checks):
    calibration = made(np.arange(9) + 0.375, a, "run")
    found = level(calibration, n_atoms, checks)
    assert found.kind == "none"
    text = calibration.describe(n_atoms, checks)
    for words in ("kind none", f"{a:.2g} false alarms per run", "9 groups", "8.38", "most extreme"):
        assert words in text
    if found.rate < 1:
        assert f"{found.rate:.2g} can be promised" in text
    else:
        assert "promise: none" in text


def test_describe_says_what_an_extrapolation_rests_on():
    calibration = made(np.sort(np.random.default_rng(3).gumbel(size=55)), 0.01)
    found = level(calibration, 10)
    text = calibration.describe(10)
    low, high = found.interval
    assert f"dh_max <= {found.value:.2f} nats: extrapolated from 55 groups to {low:.2f} ... {high:.2f}" in text
    assert "about 0.01 false alarms" in text
    assert "if tails of scores go on as fitted" in text


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
    for name in ("statistics", "atom_levels", "composition", "checks", "times"):
        assert getattr(loaded, name) == getattr(calibration, name)
    assert len(loaded.nulls) == len(calibration.nulls) > 5
    for a, b in zip(loaded.nulls, calibration.nulls, strict=True):
        assert (a.statistic, a.element, a.side, a.values) == (b.statistic, b.element, b.side, b.values)
        assert (a.scores.tobytes(), a.sizes.tobytes()) == (b.scores.tobytes(), b.sizes.tobytes())
    everything = [c.with_statistics(list(STATISTICS)) for c in (loaded, calibration)]
    for mode in ("full", "proven"):
        assert len({c.alarm_levels([29] * 40, 7, mode=mode) for c in everything}) == 1
        assert len({c.describe(40, 7, mode=mode) for c in everything}) == 1
    loaded.require(cu)
    for few in (made([]), made([1.5])):
        few.save(tmp_path / "few.json")
        assert scores(Calibration.load(tmp_path / "few.json")).tolist() == scores(few).tolist()


def test_scores_in_a_file_may_come_in_any_order(saved):
    content = json.loads(saved.read_text())
    before = Calibration.load(saved)
    for null in content["nulls"]:
        null["scores"].reverse()
        null["sizes"].reverse()
    saved.write_text(json.dumps(content))
    for a, b in zip(Calibration.load(saved).nulls, before.nulls, strict=True):
        assert a.scores.tolist() == b.scores.tolist() == sorted(b.scores)


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


def test_the_content_that_is_damaged_below_is_good(saved):
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"nulls": [NULL_LINE]}))
    assert scores(Calibration.load(saved)).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"nulls": [NULL_LINE | change]}
            for change in (
                {"scores": [1.0, "x"]},
                {"scores": [1.0, None]},
                {"scores": 3},
                {"scores": [[1.0]]},
                {"scores": [math.nan, 1.0]},
                {"scores": [1.0, math.inf]},
                {"scores": [1.0]},
                {"sizes": [4, -4]},
                {"sizes": 4},
                {"statistic": "dh_min"},
                {"element": "Xx"},
                {"side": "left"},
                {"values": "some"},
            )
        ),
        {"nulls": [{k: v for k, v in NULL_LINE.items() if k != "element"}]},
        {"nulls": 3},
        {"statistics": []},
        {"statistics": ["dh_min"]},
        {"statistics": "dh_max"},
        {"atom_levels": {"Cu": 1.0}},
        {"atom_levels": {"29": math.nan}},
        {"atom_levels": {"400": 1.0}},
        {"composition": {"29": -1}},
        {"n_groups": 2.5},
        {"checks": True},
        {"block_ps": math.inf},
        {"spacing_ps": "fast"},
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
    "name",
    [
        *("type", "schema", "fingerprint", "false_alarms", "per", "statistics", "nulls", "atom_levels", "composition"),
        *("n_groups", "frame_atoms", "how", "checks", "block_ps", "spacing_ps"),
    ],
)
def test_missing_content_is_refused_by_name(saved, name):
    content = json.loads(saved.read_text())
    del content[name]
    saved.write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=name):
        Calibration.load(saved)


def test_a_newer_schema_is_refused(saved):
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"schema": SCHEMA + 1}))
    with pytest.raises(FileFormatError, match=rf"schema {SCHEMA + 1}.*reads {SCHEMA}; update quests_md"):
        Calibration.load(saved)


def test_a_file_of_the_first_release_asks_for_a_new_calibration(saved):
    content = {"type": "quests_md calibration", "schema": 1, "fingerprint": "abc", "scores": [1.0], "sizes": [4]}
    saved.write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=r"schema 1, .* calibrate again"):
        Calibration.load(saved)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Calibration\.save"):
        Calibration.load(tmp_path / "missing.json")


def test_an_interrupted_save_keeps_the_older_file(tmp_path, saved):
    before = saved.read_bytes()
    unwritable = made([math.nan])
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
    options = {"false_alarms": 0.1, "statistics": ("dh_max", "dh_q99", "dh_mean")}
    once, doubled = calibrate(cu, **options), calibrate(Reference.merge([cu, cu]), **options)
    assert doubled.n_groups == 24
    # twice as many rows lower every score by log 2, no score becomes that of a copy
    for a, b in zip(once.alarm_levels([29] * 4), doubled.alarm_levels([29] * 4), strict=True):
        assert b.value == pytest.approx(a.value - math.log(2), abs=1e-9)


def test_small_frames_do_not_count_as_large_ones():
    scores = np.concatenate([np.full(40, -5.0), np.arange(60)])  # 40 groups of 4 atoms, 60 of 60
    sizes = np.concatenate([np.full(40, 4), np.full(60, 60)])
    calibration = calibration_of(null_of(scores, sizes), false_alarms=0.1)
    found = level(calibration, 60)
    assert (found.pieces, found.n_groups) == (1, 60)
    ranked = 54.0  # the 55th of 60; with five above it the fitted tail may raise it, not by much for even scores
    assert ranked <= found.value <= ranked + 5
    assert level(calibration, 4).n_groups == 100
    assert level(calibration, 120).pieces == 2
    assert "60 groups of 100 with fitting frames" in calibration.describe(60)


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_the_promise_holds_for_large_frames_of_a_mixed_set(share):
    rng = np.random.default_rng(4)
    rates = []
    for _ in range(300):
        sizes = np.where(rng.random(100) < share, 4, 60)
        scores = np.array([rng.normal(size=n).max() for n in sizes])
        calibration = calibration_of(null_of(scores, sizes), false_alarms=0.1)
        rates.append((rng.normal(size=(40, 60)).max(axis=1) > level(calibration, 60).value).mean())
    assert np.mean(rates) < 0.1 + 3 * np.std(rates) / np.sqrt(len(rates))


# levels of each element


def two_elements(rng, n_quiet=1, n_noisy=6, noise=1.0):
    """A frame of a few quiet atoms of one element among noisy ones of another."""
    rows = np.concatenate([0.05 * rng.normal(size=(n_quiet, 2)), noise * rng.normal(size=(n_noisy, 2))])
    return carrying(rows, [79] * n_quiet + [29] * n_noisy)


@pytest.mark.slow
def test_each_element_has_its_own_level_and_the_quiet_minority_is_seen():
    rng = np.random.default_rng(1)
    frames = [two_elements(rng) for _ in range(60)]
    options = {"descriptor": Given(), "bandwidth": 0.1, "groups": "frame"}
    moved = two_elements(rng)
    moved.arrays["row"][0] = [0.6, 0.0]  # far for the quiet one, usual for the noisy ones
    found = {}
    for match in ("element", "any"):
        reference = Reference.from_frames(frames, match=match, **options)
        calibration = calibrate_largest(reference, false_alarms=0.1)
        levels = calibration.levels(moved)
        dh = reference.delta_entropy(moved)
        check = Judge(reference, calibration).judge(moved, step=0, frame=0).check
        assert check.state == ("out" if (dh > levels).any() else "in")
        found[match] = levels, check
    levels, check = found["element"]
    assert len(set(levels)) == 2
    assert levels[0] < levels[1] - 1
    assert (check.state, check.worst_atom, check.worst_element, check.n_above) == ("out", 0, "Au", 1)
    shared, check = found["any"]
    assert len(set(shared)) == 1
    assert check.state == "in"  # hidden by the noise of the others


def test_elements_share_the_rate():
    nulls = [null_of(np.arange(199) + z / 1000, 10, element=symbol) for symbol, z in (("Au", 79), ("Cu", 29))]
    calibration = calibration_of(*nulls, false_alarms=0.1)
    for symbols, shares in (("Cu10", 1), ("Au10", 1), ("Au10Cu10", 2), ("Cu10Ni3", 1)):
        atoms = Atoms(symbols)
        found = {level.element: level for level in calibration.alarm_levels(atoms.numbers)}
        assert set(found) == {"Cu", "Au"} & set(atoms.symbols)
        for null in nulls:
            if null.element in found:
                assert found[null.element] == level_of(null, "extreme", 10, 0.1 / shares, 1)
        assert rate_of(list(found.values())) == pytest.approx(0.1)
        for z, value in zip(atoms.symbols, calibration.levels(atoms), strict=True):
            # an element without a level of its own has the highest
            assert value == (found[z].value if z in found else max(level.value for level in found.values()))
    # an atom more is a frame more, for its element only
    found = {level.element: level for level in calibration.alarm_levels(Atoms("Au11Cu10").numbers)}
    assert (found["Au"].pieces, found["Cu"].pieces) == (2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_the_rate_is_kept_with_elements_of_their_own(noise):
    def rate(rng):
        frames = [two_elements(rng, 2, 3, noise) for _ in range(39)]
        reference = Reference.from_frames(
            frames, descriptor=Given(), bandwidth=0.1, match="element", groups="frame", threads=1
        )
        calibration = calibrate_largest(reference, false_alarms=0.1, threads=1)
        assert calibration.kind == "conformal"
        new = [two_elements(rng, 2, 3, noise) for _ in range(40)]
        levels = calibration.levels(new[0])
        rows = np.concatenate([atoms.arrays["row"] for atoms in new])
        numbers = np.tile(new[0].numbers, 40)
        dh = reference.delta_entropy(rows, numbers=numbers, float64=True, threads=1)
        return (dh.reshape(40, 5) > levels).any(axis=1).mean()

    mean, error = observed(rate, 60)
    assert mean <= 0.1 + 3 * error
    assert mean > 0.02


# statistics


def test_statistics_share_the_rate_and_their_sides_too(cu):
    apart = copper(60, seed=3)
    calibration = calibrate(cu, frames=apart, groups="frame", false_alarms=0.3)
    assert calibration.statistics == DEFAULT_STATISTICS
    for statistics in (("dh_max",), ("dh_mean",), ("dh_max", "dh_mean"), tuple(STATISTICS)):
        chosen = calibration.with_statistics(statistics)
        found = chosen.alarm_levels([29] * 4)
        assert {level.statistic for level in found} == set(statistics)
        assert rate_of(found) == pytest.approx(0.3)
        for found_level in found:
            (null,) = [
                n for n in calibration.nulls if (n.statistic, n.side) == (found_level.statistic, found_level.side)
            ]
            sides = 2 if STATISTICS[null.statistic].sides == ("above", "below") else 1
            size = STATISTICS[null.statistic].size
            assert found_level == level_of(null, size, 4, 0.3 / len(statistics) / sides, 1)
        # the level of dH is there in any case, at the whole rate where it raises no alarm
        largest = [level for level in chosen.frame_levels([29] * 4) if level.statistic == "dh_max"]
        share = len(statistics) if "dh_max" in statistics else 1
        assert largest[0].value == level_of(calibration.nulls[0], "extreme", 4, 0.3 / share, 1).value
        made_so = calibrate(cu, frames=apart, groups="frame", false_alarms=0.3, statistics=statistics)
        assert made_so.alarm_levels([29] * 4) == found
    assert calibration.with_statistics(["dh_max"]).nulls is calibration.nulls


@pytest.mark.parametrize(("bad", "kind"), [((), ValueError), (("dh_min",), ValueError), ("dh_max", TypeError)])
def test_statistics_that_do_not_exist_are_refused(cu, bad, kind):
    for call in (partial(calibrate, cu, statistics=bad), partial(made([1.0]).with_statistics, bad)):
        with pytest.raises(kind, match="statistics: expected"):
            call()


def test_describe_names_every_level_with_its_share():
    nulls = [
        null_of(np.arange(199.0), 10, element="Cu"),
        null_of(np.linspace(-3, -2, 199), 10, "dh_mean"),
        null_of(np.linspace(-3, -2, 199), 10, "dh_mean", side="below"),
        null_of(np.linspace(0, 0.5, 199), 10, "n_tail"),
        null_of(np.linspace(4, 5, 199), 12, "frame_entropy"),
    ]
    calibration = calibration_of(
        *nulls, statistics=("dh_max", "dh_mean", "n_tail", "frame_entropy"), false_alarms=0.2, atom_levels={29: -1.25}
    )
    text = calibration.describe([29] * 10)
    levels = calibration.alarm_levels([29] * 10)
    for words in (
        f"dh_max of Cu <= {levels[0].value:.2f} nats: conformal, 199 groups; at most 0.05",
        f"dh_mean <= {levels[1].value:.2f} nats: conformal, 199 groups; at most 0.025",
        f"dh_mean >= {levels[2].value:.2f} nats: conformal, 199 groups; at most 0.025",
        f"n_tail <= {levels[3].value * 10:.2f} atoms: conformal, 199 groups; at most 0.05",
        "frame_entropy: not judged, no held-out frames of this size",
        "atom level, which 1 % of the environments exceed: dH = -1.25 (Cu) nats",
    ):
        assert words in text


# what checks count as


def assert_looks(expected, calibration, checks, check_ps):
    """The rate is shared by so many."""
    (null,) = calibration.nulls
    (found,) = calibration.alarm_levels([29] * 10, checks, check_ps=check_ps)
    assert found == level_of(null, "extreme", 10, calibration.false_alarms, expected)
    text = calibration.describe(10, checks, check_ps=check_ps)
    assert f"({expected} looks)" in text if expected > 1 else "looks" not in text


@pytest.mark.parametrize(
    ("per", "checks", "check_ps", "block_ps", "spacing_ps", "expected"),
    [
        ("check", 1000, 1.0, 10.0, 1.0, 1),
        # a nanosecond in blocks of 10 ps of a frame every ps: checks at that spacing are 100 looks
        ("ns", 1000, None, 10.0, 1.0, 100),
        ("ns", 500, None, 10.0, 1.0, 100),  # wider spaced ones as well
        ("ns", 2000, None, 10.0, 1.0, 200),  # twice as dense ones are two such series
        ("ns", 2001, None, 10.0, 1.0, 300),  # and one more a third
        ("ns", 50, None, 10.0, 1.0, 50),  # never more looks than checks
        ("ns", 1000, None, 300.0, 1.0, 4),
        ("ns", 1000, None, None, None, 1000),  # frames without times: every check for itself
        ("ns", None, None, 10.0, 1.0, 1),  # how many is not known
        # a run of so many checks, 2 ps apart: 400 ps
        ("run", 200, 2.0, 10.0, 1.0, 40),
        ("run", 200, 2.0, 10.0, 4.0, 80),
        ("run", 200, 0.5, 10.0, 1.0, 20),
        ("run", 200, None, 10.0, 1.0, 200),
        ("run", 3, 2.0, 100.0, 1.0, 1),
    ],
)
def test_correlated_checks_count_once(per, checks, check_ps, block_ps, spacing_ps, expected):
    scores = np.sort(np.random.default_rng(2).normal(size=40_000))
    times = {"times": BlockTimes(block_ps, spacing_ps)}
    calibration = calibration_of(null_of(scores, 10), false_alarms=0.5, per=per, **times)
    assert_looks(expected, calibration, checks, check_ps)
    if per == "run" and checks is not None:
        known = calibration_of(null_of(scores, 10), false_alarms=0.5, per=per, checks=checks, **times)
        assert_looks(expected, known, None, check_ps)
        assert_looks(1, known, 1, check_ps)


def test_times_of_frames_make_the_blocks(tmp_path):
    frames = copper(40)
    for i, atoms in enumerate(frames):
        atoms.info["time_ps"] = 0.25 * i + (100 if i >= 20 else 0)  # a gap is no spacing
    reference = Reference.from_frames(frames, bandwidth=H, groups=[i // 4 for i in range(40)])
    calibration = calibrate(reference, per="ns")
    assert calibration.times == BlockTimes(1.0, 0.25)
    by_frame = calibrate(reference, per="ns", groups="frame")
    assert by_frame.times == BlockTimes(0.25, 0.25)
    # two files that both begin at 0, and separate frames
    others = copper(20, seed=5)
    for i, atoms in enumerate(others):
        atoms.info["time_ps"] = 0.25 * i
    for name, some in (("a", frames[:20]), ("b", others)):
        ase.io.write(tmp_path / f"{name}.extxyz", some)
    files = [tmp_path / "a.extxyz", tmp_path / "b.extxyz"]
    apart = calibrate(reference, frames=files, groups=[i // 2 for i in range(40)])
    assert (apart.times.block_ps, apart.times.spacing_ps) == (pytest.approx(0.5), pytest.approx(0.25))
    for strange in ({7: "late"}, {7: math.nan}, dict.fromkeys(range(40), 3.0)):
        changed = copper(40)
        for i, atoms in enumerate(changed):
            atoms.info["time_ps"] = strange.get(i, 0.25 * i)
        reference = Reference.from_frames(changed, bandwidth=H, groups="frame")
        assert calibrate(reference).times == BlockTimes()


@pytest.mark.slow
def test_a_run_of_correlated_frames_keeps_its_rate():
    """Blocks of five correlated frames; a run of ten blocks checked at every frame is ten looks."""

    def block(rng):
        middle = sample(rng)
        return [middle + 0.1 * rng.normal(size=middle.shape) for _ in range(5)]

    out = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        frames = [carrying(rows) for _ in range(30) for rows in block(rng)]
        for i, atoms in enumerate(frames):
            atoms.info["time_ps"] = float(i)
        labels = [i // 5 for i in range(150)]
        reference = Reference.from_frames(frames, descriptor=Given(), bandwidth=0.5, groups=labels, threads=1)
        calibration = calibrate_largest(reference, false_alarms=0.5, per="run", checks=50, threads=1)
        assert calibration.times == BlockTimes(5.0, 1.0)
        (found,) = calibration.alarm_levels(frames[0].numbers, check_ps=1.0)
        assert (found.kind, found.n_groups) == ("conformal", 30)
        run = np.concatenate([rows for _ in range(10) for rows in block(rng)])
        out.append(reference.delta_entropy(run, float64=True, threads=1).max() > found.value)
    assert np.mean(out) <= 0.5 + 3 * math.sqrt(0.25 / 60)
    assert np.mean(out) > 0.05
