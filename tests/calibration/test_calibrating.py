"""Levels from references against naive held-out scores, and the rates that they keep for new frames."""

import math
from fractions import Fraction
from functools import partial, partialmethod

import ase.io
import naive
import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_numbers
from references import Given, H, carrying, rattled_cells
from systems import only_level as level

from quests_md import Reference, calibrate
from quests_md.calibration import DEFAULT_STATISTICS, STATISTICS, kind_of
from quests_md.calibration.levels import BlockTimes
from quests_md.judge import Judge

#: Levels of the largest dH alone, which has the whole rate.
calibrate_largest = partial(calibrate, statistics=("dh_max",))


def sample(rng, n_atoms=4, n_parts=1):
    """A frame of an exchangeable sequence, of parts: rows spread around a point of the part, now and then far out."""
    parts = [rng.normal(size=(1, 2)) + 0.5 * rng.standard_t(3, size=(n_atoms, 2)) for _ in range(n_parts)]
    return np.concatenate(parts)


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


def scores(calibration, statistic="dh_max"):
    """The only scores of a statistic."""
    (only,) = [null.scores for null in calibration.nulls if null.statistic == statistic]
    return only


@pytest.mark.slow
@pytest.mark.parametrize("groups", [None, "frame", "file", "labels"])
@pytest.mark.parametrize("match", ["element", "any"])
def test_the_level_is_the_rank_of_naive_group_maxima(tmp_path, groups, match):
    frames = rattled_cells(20)
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
    assert calibration.typical.n_atoms == 4
    assert calibration.fingerprint == reference.fingerprint


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
@pytest.mark.parametrize(
    ("asked", "n", "size", "kept"),
    [(0.1, 19, 1, 0.1), (0.2, 14, 1, 0.2), (0.1, 29, 2, 0.1), (0.01, 9, 1, 0.1)],
    ids=["one in ten", "one in five", "frames twice as large", "too few groups: the rate that they can promise"],
)
def test_new_frames_keep_the_promise(asked, n, size, kept):
    def rate(rng):
        reference = reference_of(rng, n)
        found = level(calibrate_largest(reference, false_alarms=asked, threads=1), 4 * size)
        assert (found.kind, found.pieces) == ("conformal" if asked == kept else "none", size)
        assert found.rate == pytest.approx(kept)
        return share_out(reference, found.value, [sample(rng, 4, size) for _ in range(30)])

    mean, error = observed(rate, 200)
    assert mean <= kept + 3 * error
    assert mean > kept / 4  # a level that never fires would keep any promise


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


def test_frames_apart_are_scored_against_the_whole_reference(tmp_path, cu):
    apart = rattled_cells(12, seed=3)
    ase.io.write(tmp_path / "apart.traj", apart)
    expected = [naive.delta_entropy(cu.descriptor(atoms), cu.rows, H).max() for atoms in apart]
    for frames in (apart, tmp_path / "apart.traj"):
        calibration = calibrate(cu, false_alarms=0.2, frames=frames, groups="frame")
        np.testing.assert_allclose(scores(calibration), np.sort(expected), rtol=1e-9)
        assert calibration.fingerprint == cu.fingerprint
        assert calibration.typical.n_atoms == 4
        assert "12 separate frames" in calibration.how
    paired = calibrate(cu, frames=apart, groups=[i // 3 for i in range(12)])
    np.testing.assert_allclose(scores(paired), np.sort(np.reshape(expected, (4, 3)).max(axis=1)), rtol=1e-9)
    blocks = calibrate(cu, frames=apart * 3)
    assert blocks.n_groups <= 36


def test_frames_of_the_reference_are_no_frames_apart(cu):
    """All of them were taken without a word, and new frames were out."""
    apart, known = rattled_cells(12, seed=3), rattled_cells(24)
    with pytest.raises(ValueError, match="frames: expected frames that are not in the reference, got 24 that are all"):
        calibrate(cu, frames=known)
    with pytest.warns(UserWarning, match="frames: left out 5 of 17, which are in the reference"):
        mixed = calibrate(cu, frames=[*known[:5], *apart], groups="frame")
    alone = calibrate(cu, frames=apart, groups="frame")
    np.testing.assert_array_equal(scores(mixed), scores(alone))
    assert "12 separate frames" in mixed.how
    assert mixed.typical == alone.typical


def test_with_one_group_the_words_have_no_holes():
    for statistics in (None, ("dh_max", "tail_cluster", "dh_mean")):
        with pytest.warns(UserWarning, match="no groups of frames could be held out"):
            words = calibrate(Reference.from_frames([rattled_cells(1)[0]]), statistics=statistics).describe()
        assert "dH =  nats" not in words
        assert "a guess" in words
        assert "nan" not in words


def test_399_groups_promise_one_in_a_hundred():
    """Three statistics, each a third of the rate; every fourth group sets the level of the tail."""
    frames = rattled_cells(399)
    kinds = []
    for n in (398, 399):
        reference = Reference.from_frames(frames[:n], bandwidth=H, groups="frame")
        for statistics in (None, ("dh_max", "tail_cluster", "dh_mean")):
            levels = calibrate(reference, statistics=statistics).alarm_levels([29] * 400)
            kinds.append({level.kind for level in levels if level.pieces == 1})
    assert kinds == [{"extrapolated"}] * 2 + [{"conformal"}] * 2


def test_one_frame_apart_is_a_guess(cu):
    with pytest.warns(UserWarning, match="1 group of frames could be held out"):
        calibration = calibrate(cu, frames=rattled_cells(1, seed=2))
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
    reference = Reference.from_frames(rattled_cells(1), bandwidth=H)
    with pytest.warns(UserWarning, match="no groups of frames could be held out: the level is a guess"):
        calibration = calibrate(reference)
    assert (calibration.n_groups, calibration.kind) == (0, "none")
    levels = calibration.frame_levels([29] * 4)
    assert [level.statistic for level in levels] == [*DEFAULT_STATISTICS, "dh_max"]
    assert {(level.value, level.rate) for level in levels} == {(0.0, 1.0)}  # the published rule of thumb
    text = calibration.describe(4)
    for words in ("kind none", "no groups could be held out", "a guess", "promise: none"):
        assert words in text


def test_an_empty_reference_has_no_level():
    with pytest.warns(UserWarning, match="no environment"):
        reference = Reference.from_frames([], bandwidth=H)
    with pytest.warns(UserWarning, match="a guess"):
        calibration = calibrate(reference)
    assert (calibration.kind, calibration.typical.n_atoms, calibration.n_groups) == ("none", 0, 0)
    assert (calibration.levels(Atoms("Cu100")) == 0.0).all()
    assert "a guess" in calibration.describe(100)


def test_one_group_of_many_frames_has_nothing_to_hold_out(cu):
    with pytest.warns(UserWarning, match="a guess"):
        calibration = calibrate(cu, groups="file")
    assert (calibration.kind, calibration.n_groups) == ("none", 0)
    assert level(calibration.with_statistics(["dh_max"]), 4).value == 0.0


@pytest.mark.parametrize("match", ["element", "any"])
def test_an_element_of_one_group_alone_does_not_make_the_level_infinite(match):
    frames = rattled_cells(10)
    frames[4].numbers[:2] = 79
    reference = Reference.from_frames(frames, bandwidth=H, match=match, groups="frame")
    calibration = calibrate(reference, false_alarms=0.1)
    assert calibration.n_groups == 10
    for null in calibration.nulls:
        assert np.isfinite(null.scores).all()
        if null.statistic == "dh_max":
            z = None if match == "any" else atomic_numbers[null.element]
            np.testing.assert_allclose(null.scores, naive_maxima(reference, range(10), z), rtol=1e-9)
        else:
            assert len(null.scores) == (7 if STATISTICS[null.statistic].over == "tail" else 10)
    by_element = match == "element"
    of_largest = calibration.with_statistics(["dh_max"])
    n_groups = [of_largest.alarm_levels([z] * 2)[0].n_groups for z in (29, 79)]
    assert n_groups == ([10, 0] if by_element else [10, 10])
    assert ("2 environments of elements without a counterpart" in calibration.how) == by_element
    # what is known of copper is known of frames with gold, too; of gold itself there is nothing
    gold = [level for level in calibration.frame_levels([29, 29, 79]) if level.element == "Au"]
    assert [(level.kind, level.rate) for level in gold] == ([("none", 1.0)] if by_element else [])
    assert np.isfinite(list(calibration.atom_levels.values())).all()


def test_whole_groups_are_chosen_by_the_seed_where_rows_are_many(cu, monkeypatch):
    everything = scores(calibrate(cu))
    capped = partialmethod(Reference.held_out_scores, most_rows=50)
    monkeypatch.setattr(Reference, "held_out_scores", capped)
    fresh = Reference.from_frames(rattled_cells(24), bandwidth=H, groups="frame")
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


@pytest.mark.parametrize("bad", [0, 1.0, -0.1, 1.5, math.nan, math.inf, True, "0.01", None, [0.1]])
def test_a_rate_outside_zero_and_one_is_refused(cu, bad):
    with pytest.raises(ValueError, match="false_alarms: expected a rate between 0 and 1") as info:
        calibrate(cu, false_alarms=bad)
    assert repr(bad) in str(info.value)
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


def test_frames_that_come_again_do_not_make_the_level_false(cu):
    options = {"false_alarms": 0.1, "statistics": ("dh_max", "dh_q99", "dh_mean")}
    once, doubled = calibrate(cu, **options), calibrate(Reference.merge([cu, cu]), **options)
    assert doubled.n_groups == 24
    # twice as many rows lower every score by log 2, no score becomes that of a copy
    for a, b in zip(once.alarm_levels([29] * 4), doubled.alarm_levels([29] * 4), strict=True):
        assert b.value == pytest.approx(a.value - math.log(2), abs=1e-9)


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


def test_times_of_frames_make_the_blocks(tmp_path):
    frames = rattled_cells(40)
    for i, atoms in enumerate(frames):
        atoms.info["time_ps"] = 0.25 * i + (100 if i >= 20 else 0)  # a gap is no spacing
    reference = Reference.from_frames(frames, bandwidth=H, groups=[i // 4 for i in range(40)])
    calibration = calibrate(reference, per="ns")
    assert calibration.times == BlockTimes(1.0, 0.25)
    by_frame = calibrate(reference, per="ns", groups="frame")
    assert by_frame.times == BlockTimes(0.25, 0.25)
    # two files that both begin at 0, and separate frames
    for name, seed in (("a", 4), ("b", 5)):
        others = rattled_cells(20, seed=seed)
        for i, atoms in enumerate(others):
            atoms.info["time_ps"] = 0.25 * i
        ase.io.write(tmp_path / f"{name}.extxyz", others)
    files = [tmp_path / "a.extxyz", tmp_path / "b.extxyz"]
    apart = calibrate(reference, frames=files, groups=[i // 2 for i in range(40)])
    assert (apart.times.block_ps, apart.times.spacing_ps) == (pytest.approx(0.5), pytest.approx(0.25))
    for strange in ({7: "late"}, {7: math.nan}, dict.fromkeys(range(40), 3.0)):
        changed = rattled_cells(40)
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
