"""The levels of a calibration: who shares its rate, and what it says of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from references import H, rattled_cells
from systems import calibration_of, copper, null_of
from systems import only_level as level

from quests_md import MismatchError, Reference, calibrate
from quests_md.calibration import DEFAULT_STATISTICS, STATISTICS, level_of, rate_of
from quests_md.calibration.levels import BlockTimes, sharing_of


def made(scores, false_alarms=0.1, per="check"):
    return calibration_of(null_of(scores, 10), false_alarms=false_alarms, per=per)


def test_a_rate_of_one_in_n_plus_one_is_never_lost_to_rounding():
    for n in range(2, 400):
        assert level(made(np.arange(n), 1 / (n + 1)), 10).kind == "conformal"


def test_levels_are_one_per_atom():
    calibration = made(np.arange(99), 0.1, "run")
    levels = calibration.levels(Atoms("Cu25"), checks=2)
    np.testing.assert_array_equal(levels, [level(calibration, 25, 2).value] * 25)
    assert calibration.levels(Atoms()).shape == (0,)


@pytest.mark.parametrize("checks", [0, -3, True, math.nan])
def test_a_number_of_checks_that_makes_no_sense(checks):
    with pytest.raises(ValueError, match="checks: expected a positive integer"):
        level(made(range(9), per="run"), 10, checks)


def test_the_calibration_of_another_reference_is_refused_naming_both(cu):
    other = Reference.from_frames(rattled_cells(3), bandwidth=H)
    calibration = calibrate(cu)
    calibration.require(cu)
    with pytest.raises(MismatchError) as info:
        calibration.require(other)
    assert cu.fingerprint in str(info.value)
    assert other.fingerprint in str(info.value)


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


def test_statistics_share_the_rate_and_their_sides_too(cu):
    apart = rattled_cells(60, seed=3)
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
            together = [n for s in statistics for n in calibration.nulls if n.statistic == s]
            multiplicity, is_exact = sharing_of(together, 0.3)
            assert is_exact
            level = level_of(null, STATISTICS[null.statistic].size, 4, 0.3 / multiplicity, 1)
            assert found_level == replace(level, weight=multiplicity / len(together))
        # the level of dH is there in any case, at the whole rate where it raises no alarm
        largest = [level for level in chosen.frame_levels([29] * 4) if level.statistic == "dh_max"]
        share = multiplicity if "dh_max" in statistics else 1
        assert largest[0].value == level_of(calibration.nulls[0], "extreme", 4, 0.3 / share, 1).value
        made_so = calibrate(cu, frames=apart, groups="frame", false_alarms=0.3, statistics=statistics)
        assert made_so.alarm_levels([29] * 4) == found
    assert calibration.with_statistics(["dh_max"]).nulls is calibration.nulls


def assert_says(text, *words):
    for word in words:
        assert word in text


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
    levels = calibration.alarm_levels([29] * 10)
    assert_says(
        calibration.describe([29] * 10),
        "0.2 false alarms per check of 10 atoms",
        f"dh_max of Cu <= {levels[0].value:.2f} nats: conformal, 199 groups; at most 0.05",
        f"dh_mean <= {levels[1].value:.2f} nats: conformal, 199 groups; at most 0.025",
        f"dh_mean >= {levels[2].value:.2f} nats: conformal, 199 groups; at most 0.025",
        f"n_tail <= {math.floor(levels[3].value * 10)} atoms: conformal, 199 groups; at most 0.05",
        "frame_entropy: not judged, no held-out frames of this size",
        "-1.25 (Cu) nats",
        "from set by hand",
    )
    assert "counted as 3 frames" in calibration.describe([29] * 25)


def test_describe_says_what_too_few_groups_are_worth():
    few = calibration_of(null_of(np.arange(9) + 0.375, 10), false_alarms=0.01, per="run")
    assert_says(few.describe(35, 1), "8.38 nats: kind none, the most extreme of 9 groups", "0.4 can be promised")
    assert "promise: none; 0.01 false alarms per run" in few.describe(100, 9)
    more = calibration_of(null_of(np.random.default_rng(3).gumbel(size=55), 10), false_alarms=0.01)
    low, high = level(more, 10).interval
    assert_says(more.describe(10), f"from 55 groups to {low:.2f} ... {high:.2f}", "about 0.01 false alarms per check")
    sizes = np.repeat([4, 60], [40, 60])
    mixed = calibration_of(null_of(np.arange(100), sizes), false_alarms=0.1)
    assert "60 groups of 100 with fitting frames" in mixed.describe(60)


@pytest.mark.parametrize(("per", "unit"), [("run", "run"), ("ns", "nanosecond")])
def test_levels_of_one_check_promise_nothing_per_run(per, unit):
    null = null_of(np.arange(199) + 0.375, 10)
    unknown = calibration_of(null, false_alarms=0.1, per=per)
    text = unknown.describe(10)
    assert_says(text, "promise: at most 0.1 false alarms per check of 10 atoms", "these are the levels of one check")
    assert f"the number of checks in a {unit} is not known" in text
    assert "--checks" in text
    assert f"false alarms per {unit}" not in text
    for known in (unknown.describe(10, 9), replace(unknown, checks=9).describe(10)):
        assert_says(known, f"at most 0.1 false alarms per {unit} of 10 atoms (9 looks)")
        assert "not known" not in known


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


@pytest.fixture
def of_whole_frames():
    """A calibration in which now and then all ten atoms of a frame are one cluster."""
    rng = np.random.default_rng(7)
    clusters = np.where(rng.random(400) < 0.03, 10.0, rng.integers(0, 4, 400))
    nulls = [null_of(rng.normal(size=400), 10, "local_mean"), null_of(rng.normal(size=400), 10, "local_max")]
    nulls.append(null_of(clusters, 10, "local_cluster"))
    return replace(calibration_of(*nulls, false_alarms=0.05), statistics=("local_mean", "local_cluster", "local_max"))


def test_a_count_that_no_frame_can_exceed_takes_no_share(of_whole_frames):
    others = of_whole_frames.with_statistics(("local_mean", "local_max"))
    found = {level.statistic: level for level in of_whole_frames.alarm_levels([29] * 10)}
    assert list(found) == ["local_mean", "local_cluster", "local_max"]
    expected = {level.statistic: level for level in others.alarm_levels([29] * 10)}
    assert {name: found[name] for name in expected} == expected
    assert found["local_cluster"].value >= 10
    assert found["local_cluster"].weight == 0
    assert rate_of(tuple(found.values())) == rate_of(tuple(expected.values()))
    said = of_whole_frames.describe(10)
    assert "local_cluster: never out, its level is 10 of 10 atoms; the others have its rate" in said


def test_the_same_count_is_judged_in_a_larger_frame(of_whole_frames):
    found = {level.statistic: level for level in of_whole_frames.alarm_levels([29] * 40)}
    assert found["local_cluster"].value < 40
    assert found["local_cluster"].weight > 0
    assert "never out" not in of_whole_frames.describe(40)


def test_a_count_in_use_alone_says_that_it_is_never_out(of_whole_frames):
    alone = replace(of_whole_frames.with_statistics(("local_cluster",)), false_alarms=0.01)
    assert alone.describe(10).splitlines()[1].endswith("never out, its level is 10 of 10 atoms")


def test_a_count_that_larger_groups_can_exceed_keeps_its_share(of_whole_frames):
    """Else small frames would have levels of their own, and the joint rate would not be kept over all sizes."""
    sizes = np.where(np.arange(400) % 4 == 0, 40, 10)
    mixed = replace(of_whole_frames, nulls=tuple(replace(null, sizes=sizes) for null in of_whole_frames.nulls))
    levels = {level.statistic: level for level in mixed.alarm_levels([29] * 2)}
    assert levels["local_cluster"].value >= 2
    assert all(level.weight > 0 for level in levels.values())
    assert "local_cluster: never out, its level is" in mixed.describe(2)
    assert "have its rate" not in mixed.describe(2)


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (np.zeros(67), "local_cluster <= 1 atom: extrapolated from 67 groups; about 0.01"),
        (np.repeat([0, 1], [66, 1]), "local_cluster <= 1 atom: extrapolated from 67 groups"),
        (np.arange(1999) / 1000, "local_cluster <= 1 atom: conformal, 1999 groups; at most 0.01"),
    ],
)
def test_levels_of_counts_are_said_as_counts(scores, says):
    """It was "<= 0.00 atoms: extrapolated ... to 0.00 ... 0.00": a frame is beyond 9.8 as it is beyond 9."""
    calibration = calibration_of(null_of(scores, 10, "local_cluster"), statistics=("local_cluster",))
    assert says in calibration.describe(10)


def test_levels_of_neighbourhoods_in_larger_frames_promise_less():
    """In a larger cell neighbourhoods vary more than a small one can show: measured in docs/promise.md."""
    rng = np.random.default_rng(8)
    nulls = [null_of(rng.normal(size=2000), 100, name) for name in ("local_mean", "local_max", "dh_max", "dh_mean")]
    calibration = calibration_of(*nulls, false_alarms=0.1)
    for statistics, kinds in (
        (("local_max",), ("conformal", "extrapolated")),
        (("local_mean",), ("conformal", "conformal")),
        (("dh_max", "dh_mean"), ("conformal", "conformal")),
    ):
        for n_atoms, kind in zip((100, 900), kinds, strict=True):
            chosen = calibration.with_statistics(statistics)
            assert {level.kind for level in chosen.alarm_levels([29] * n_atoms)} == {kind}
            is_said = "frames of 900 atoms are larger than those of the reference" in chosen.describe(n_atoms)
            assert is_said == (kind == "extrapolated")


def test_texts_of_a_reference_with_one_group_have_no_holes():
    one = Reference.from_frames([copper(seed=1, rattle=0.05)], bandwidth=H)
    with pytest.warns(UserWarning, match="group"):
        plain = calibrate(one, statistics=("dh_max", "tail_cluster", "dh_mean"))
    with pytest.warns(UserWarning, match="group"):
        local = calibrate(one)
    text = plain.describe(32)
    assert "atom level: dH = 0.00 nats, a guess" in text
    assert "not judged, since there are no held-out frames for a level: tail_cluster, dh_mean" in text
    assert "atoms are counted above 0.00, a guess" in local.describe(32)
    assert "  nats" not in text + local.describe(32)
