"""The numbers of frames in distribution against naive ones, and against what a check of the same frames reports."""

import math

import naive
import numpy as np
import pytest
from ase import Atoms
from ase.data import chemical_symbols
from systems import H, alloy, reordered

from quests_md import Monitor, Reference, calibrate, entropy
from quests_md.calibration import SAMPLE_ATOMS, SEED, SKETCH_ROWS, STATISTICS, frame_entropy, sample
from quests_md.environments import largest_cluster
from quests_md.judge import Judge

#: Frames that are alike but for two of other sizes, three to a group of the reference.
FRAMES = reordered([*(alloy(seed=i) for i in range(22)), alloy(1, seed=50), alloy(3, seed=51)])
GROUPS = np.repeat(range(8), 3)

PLAIN = [name for name, statistic in STATISTICS.items() if statistic.scale == "plain"]


@pytest.fixture(scope="module")
def references():
    return {m: Reference.from_frames(FRAMES, bandwidth=H, match=m, groups=GROUPS) for m in ("element", "any")}


def frame_rows(reference, i):
    """Rows and numbers of a frame of the reference in the order of its atoms."""
    here = np.flatnonzero(reference.arrays.atom_frame == i)
    here = here[np.argsort(reference.arrays.atom_index[here])]
    return reference.rows[here], reference.numbers[here]


def naive_dh(rows, numbers, reference, without=None, of=None):
    """DH of rows against those of `of` (default the reference) that belong to other groups than `without`."""
    known = reference if of is None else of
    groups = reference.arrays.frame_group[known.arrays.atom_frame]
    out = np.empty(len(rows))
    for i, z in enumerate(numbers):
        like = (known.numbers == z) | (reference.match == "any")
        everything = (reference.numbers == z) | (reference.match == "any")
        out[i] = naive.delta_entropy(rows[i : i + 1], known.rows[like & (groups != without)], H)[0]
        if of is not None:
            out[i] -= math.log(everything.sum() / like.sum())
    return out


def extremes(values, groups, sizes, choose=max):
    """The most extreme value of each group with the size of its largest frame, ascending by value."""
    pairs = []
    for g in dict.fromkeys(groups):
        own = [(v, n) for v, n, group in zip(values, sizes, groups, strict=True) if group == g]
        pairs.append((choose(v for v, _ in own), max(n for _, n in own)))
    return sorted(pairs)


def naive_nulls(dh, entropies, frames, groups, match, pair_distances):
    """What every group contributes, by statistic, element and side; leaving rows out says nothing of low dH."""
    found = {}
    sizes = [len(atoms) for atoms in frames]
    elements = [29, 79] if match == "element" else [None]
    own = [[(atoms.numbers == z) | (z is None) for atoms in frames] for z in elements]
    for z, masks in zip(elements, own, strict=True):
        largest = [d[m].max() for d, m in zip(dh, masks, strict=True)]
        key = "dh_max", None if z is None else chemical_symbols[z], "above"
        found[key] = extremes(largest, groups, [m.sum() for m in masks])
    averages = {"dh_mean": [d.mean() for d in dh], "dh_q99": [np.percentile(d, 99) for d in dh]}
    for name, values in (averages | {"frame_entropy": entropies}).items():
        found[name, None, "above"] = extremes(values, groups, sizes)
    found["frame_entropy", None, "below"] = extremes(entropies, groups, sizes, min)
    setting = sorted(set(groups))[::4]
    sets = np.array([g in setting for g in groups])
    levels = {}
    for z, masks in zip(elements, own, strict=True):
        values = sorted(np.concatenate([d[m] for d, m, s in zip(dh, masks, sets, strict=True) if s]))
        levels[z or 0] = values[math.ceil(0.99 * (len(values) - 1))]
    high = [
        d > np.array([levels[int(z) if match == "element" else 0] for z in atoms.numbers])
        for d, atoms in zip(dh, frames, strict=True)
    ]
    clusters = [largest_cluster(atoms, h, pair_distances) for atoms, h in zip(frames, high, strict=True)]
    counted = [i for i in range(len(frames)) if not sets[i]]
    for name, values in (("n_tail", [h.mean() for h in high]), ("tail_cluster", clusters)):
        chosen = ([x[i] for i in counted] for x in (values, groups, sizes))
        found[name, None, "above"] = extremes(*chosen)
    return found, levels


def assert_alike(calibration, expected, mode, names=PLAIN):
    nulls = [n for n in calibration.nulls if n.values in (mode, "both") and n.statistic in names]
    assert {(n.statistic, n.element, n.side) for n in nulls} == {key for key in expected if key[0] in names}
    for null in nulls:
        wanted = expected[null.statistic, null.element, null.side]
        np.testing.assert_allclose(null.scores, [v for v, _ in wanted], atol=1e-8, err_msg=str(null))
        if len(set(null.scores)) == len(null.scores):
            np.testing.assert_array_equal(null.sizes, [n for _, n in wanted], err_msg=str(null))
        assert sorted(null.sizes) == sorted(n for _, n in wanted)


@pytest.mark.parametrize("match", ["element", "any"])
@pytest.mark.parametrize("given", [None, "frame"])
def test_held_out_frames_have_the_naive_numbers(references, match, given):
    reference = references[match]
    groups = GROUPS.tolist() if given is None else list(range(len(FRAMES)))
    own = [frame_rows(reference, i) for i in range(len(FRAMES))]
    held = Reference.from_frames(FRAMES, bandwidth=H, match=match, groups=groups)
    dh = [naive_dh(*rows, held, without=held.arrays.frame_group[i]) for i, rows in enumerate(own)]
    entropies = [naive.entropy(rows, H) for rows, _ in own]
    expected, levels = naive_nulls(dh, entropies, FRAMES, groups, match, reference.pair_distances())
    calibration = calibrate(reference, groups=given)
    assert_alike(calibration, expected, "full")
    assert_alike(calibration, expected, "proven")  # few atoms and rows: the sample is the whole
    assert calibration.atom_levels == pytest.approx(levels)
    assert calibration.n_groups == len(set(groups))
    assert calibration.typical.n_atoms == 32
    assert calibration.typical.composition == {29: 24 * 22 + 3 + 81, 79: 8 * 22 + 1 + 27}
    assert any(v > 0 for v, _ in expected["n_tail", None, "above"])


@pytest.fixture(scope="module")
def large():
    """More rows than the sketch has, in frames of more atoms than the sample has."""
    return Reference.from_frames([alloy(8, seed=i) for i in range(9)], bandwidth=H, groups="frame")


def naive_sample(reference, rows, numbers, without=None):
    """Mean and quantile of dH of the sample with respect to the sketch, and its entropy."""
    chosen = sample(np.arange(len(rows), dtype=np.uint64), SEED)
    assert len(chosen) == SAMPLE_ATOMS < len(rows)
    sketch = reference.sketch(SKETCH_ROWS, SEED)
    dh = naive_dh(rows[chosen], numbers[chosen], reference, without, of=sketch)
    return {"dh_mean": dh.mean(), "dh_q99": np.percentile(dh, 99), "frame_entropy": naive.entropy(rows[chosen], H)}


def scores_of(calibration, values):
    return {n.statistic: n for n in calibration.nulls if n.values == values and n.side == "above"}


@pytest.mark.slow
def test_the_sample_and_the_sketch_have_the_naive_numbers(large):
    """In both ways of scoring and in a check, for one frame each."""
    assert large.n_environments > SKETCH_ROWS
    held_out = scores_of(calibrate(large), "proven")
    for name, value in naive_sample(large, *frame_rows(large, 4), without=4).items():
        assert np.abs(held_out[name].scores - value).min() < 1e-4, name
        assert set(held_out[name].sizes) == {SAMPLE_ATOMS}
    atoms = alloy(6, seed=50, rattle=0.06)
    apart = calibrate(large, frames=[atoms, alloy(6, seed=51)], groups="frame", statistics=tuple(STATISTICS))
    proven, full = (scores_of(apart, values) for values in ("proven", "full"))
    judge = Judge(large, apart, values="proven")
    check = judge.judge(atoms, step=0, frame=0).check
    for name, value in naive_sample(large, large.descriptor(atoms), atoms.numbers).items():
        assert getattr(check, name) == pytest.approx(value, abs=1e-4)
        assert np.abs(proven[name].scores - getattr(check, name)).min() < 1e-4
        assert np.abs(full[name].scores - getattr(check, name)).min() > 1e-4


@pytest.mark.parametrize("match", ["element", "any"])
@pytest.mark.parametrize("mode", ["full", "proven"])
def test_separate_frames_have_the_numbers_that_a_check_of_them_reports(references, match, mode):
    reference = references[match]
    apart = [alloy(seed=i, rattle=0.06) for i in range(100, 120)]
    calibration = calibrate(reference, frames=apart, groups="frame", statistics=tuple(STATISTICS))
    judge = Judge(reference, calibration, values=mode, release=1e3)  # dH of every atom is near its level, then
    checks = [judge.judge(atoms, step=0, frame=0).check for atoms in apart]
    by_statistic = {}
    for null in calibration.nulls:
        if null.values in (mode, "both"):
            by_statistic.setdefault(null.statistic, []).append(null)
    assert set(by_statistic) == set(STATISTICS)
    for name in ("dh_mean", "dh_q99", "frame_entropy"):
        reported = np.sort([getattr(check, name) for check in checks])
        sides = {null.side for null in by_statistic[name]}
        assert sides == {"above", "below"} if STATISTICS[name].sides == ("above", "below") else sides == {"above"}
        for null in by_statistic[name]:
            np.testing.assert_allclose(null.scores, reported, atol=1e-4, err_msg=name)
            assert set(null.sizes) == {32}
    for name in ("n_tail", "tail_cluster"):
        (null,) = by_statistic[name]
        reported = [getattr(check, name) for i, check in enumerate(checks) if i % 4]  # the others set the atom level
        share = 32 if name == "n_tail" else 1
        np.testing.assert_allclose(null.scores * share, np.sort(reported), atol=1e-9)
        assert sum(reported) > 0
    for null in by_statistic["dh_max"]:
        of = [(atoms.symbols == null.element) | (null.element is None) for atoms in apart]
        largest = [check.delta_entropy[mask].max() for check, mask in zip(checks, of, strict=True)]
        np.testing.assert_allclose(null.scores, np.sort(largest), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("values", ["full", "proven"])
def test_the_monitor_reports_the_numbers_of_the_calibration(references, values):
    """Levels at the edge of the scores: of the frames of the calibration exactly those with the largest are out."""
    reference = references["element"]
    apart = [alloy(seed=i, rattle=0.06) for i in range(200, 220)]
    for name in STATISTICS:
        calibration = calibrate(reference, frames=apart, groups="frame", statistics=(name,), false_alarms=0.3)
        with Monitor(reference, calibration, values=values, log=None, on_error="raise") as monitor:
            checks = [monitor.check(atoms) for atoms in apart]
        levels = calibration.alarm_levels(apart[0].numbers, mode=values)
        # a frame that was asked about beside colder copies was out
        out = [i for i, check in enumerate(checks) if check.alarms == (name,) or check.n_colder is not None]
        assert all(check.alarms in ((), (name,)) for check in checks)
        if STATISTICS[name].unit == "atoms":
            limit = round(STATISTICS[name].in_frame(levels[0].value, 32), 6)
            expected = [i for i, c in enumerate(checks) if c.statistic(name) > limit]
            assert out == expected
            continue
        ranks = {level.side: math.ceil((1 - 0.3 / len(levels)) * 21) for level in levels}
        if name == "dh_max":  # one level for each element
            assert 0 < len(out) <= 2 * (20 - ranks["above"])
        else:
            # 20 - rank scores are beyond each; the score at the level itself may come out either way by rounding
            beyond = sum(20 - ranks[level.side] for level in levels)
            assert beyond <= len(out) <= beyond + len(levels)


def naive_order(identity, seed):
    """SplitMix64 with Python's integers."""
    x = (identity + (seed + 1) * 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


@pytest.mark.parametrize("seed", [0, 5])
def test_the_sample_is_the_smallest_hashes(seed):
    identities = np.random.default_rng(seed).permutation(5000)[:2000].astype(np.uint64)
    expected = sorted(range(2000), key=lambda i: naive_order(int(identities[i]), seed))[:SAMPLE_ATOMS]
    np.testing.assert_array_equal(sample(identities, seed), sorted(expected))
    np.testing.assert_array_equal(sample(identities[:SAMPLE_ATOMS], seed), np.arange(SAMPLE_ATOMS))


def test_frames_of_an_empty_file_have_no_numbers(references):
    with pytest.warns(UserWarning, match="a guess"), pytest.warns(UserWarning, match="no environment"):
        calibration = calibrate(references["element"], frames=[])
    assert (calibration.nulls, calibration.n_groups, calibration.kind) == ((), 0, "none")
    assert (calibration.levels(Atoms("CuAu")) == 0.0).all()


def test_the_entropy_of_a_large_frame_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2100, 63)) * 0.01 + 0.1 * rng.integers(0, 2, size=(2100, 1))
    for these in (rows[:300], rows, np.zeros((2100, 63)), np.concatenate([rows[:1050], rows[:1050] + 1e6])):
        assert frame_entropy(these, H, 1) == pytest.approx(entropy(these, bandwidth=H), abs=1e-5)
