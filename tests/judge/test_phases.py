"""Phases against naive ones on rattled copper."""

import functools
import json
from dataclasses import replace

import naive
import numpy as np
import pytest
from ase.build import bulk
from systems import H, alloy, copper, null_of

from quests_md import MismatchError, Phases, Reference
from quests_md.calibration.levels import level_of
from quests_md.environments import largest_cluster
from quests_md.environments.contacts import LINK
from quests_md.judge.phase_rule import compare, learn, threshold_of


def cold(seed):
    return copper(3, seed=seed, rattle=0.1)


def warm(seed):
    return copper(3, seed=seed, rattle=0.25)


@functools.cache
def references():
    return {
        "warm": Reference.from_frames([warm(i) for i in range(10)], bandwidth=H, groups="frame"),
        "cold": Reference.from_frames([cold(100 + i) for i in range(10)], bandwidth=H, groups="frame"),
    }


@functools.cache
def phases():
    return Phases(references())


def naive_ratios(atoms, without=None, groups=None):
    """Averaged L of each atom; rows of the group `without` are left out of the parent."""
    parent, product = references().values()
    rows = naive.rows(atoms)
    kept = parent.rows if without is None else parent.rows[groups != without]
    ratios = naive.delta_entropy(rows, kept, H) - naive.delta_entropy(rows, product.rows, H)
    link = LINK * parent.pair_distances()[29, 29][1]
    found = naive.neighbours(atoms, link)
    return np.array([np.mean(ratios[[i, *near]]) for i, (_, _, near) in enumerate(found)])


@pytest.mark.slow
def test_labels_are_those_of_averaged_ratios_above_the_threshold():
    both = phases()
    threshold = both.thresholds["cold"]
    atoms = bulk("Cu", cubic=True) * (4, 3, 3)
    rng = np.random.default_rng(60)
    is_cold = atoms.positions[:, 0] < 7
    atoms.positions += rng.normal(0, 1, (len(atoms), 3)) * np.where(is_cold, 0.1, 0.25)[:, None]
    expected = naive_ratios(atoms)
    labels = both.assign(atoms)
    unlike = labels == -1
    clear = (np.abs(expected - threshold) > 1e-2) & ~unlike
    # atoms that are unlike all phases change the mean around them
    near = [near[1:] for near in ([i, *j] for i, (_, _, j) in enumerate(naive.neighbours(atoms, 3.6)))]
    clear &= np.array([not unlike[j].any() for j in near])
    assert clear.sum() > 100
    np.testing.assert_array_equal(labels[clear], (expected > threshold)[clear])
    assert (labels[is_cold] == 1).mean() > (labels[~is_cold] == 1).mean() + 0.4


@pytest.mark.slow
def test_held_out_parents_are_rarely_assigned_to_the_product():
    both = phases()
    shares = []
    parent = references()["warm"]
    for i in range(2):
        ratios = naive_ratios(parent.frame(i), without=i, groups=parent.row_groups)
        shares.append(np.mean(ratios > both.thresholds["cold"]))
    assert max(shares) <= 0.01
    assert both.confusion[0, 1] <= 0.01
    assert both.confusion[1, 1] > 0.9
    np.testing.assert_allclose(both.confusion.sum(axis=1), 1)
    text = both.describe()
    assert "parent warm" in text
    assert f"{both.confusion[1, 1]:.2%} cold" in text


def test_the_other_direction():
    both = Phases(references(), parent="cold")
    assert both.products == ("warm",)
    assert (both.assign(warm(50)) == 0).mean() > 0.9
    assert (both.assign(cold(50)) == 1).mean() > 0.98


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_thresholds_keep_their_rate_by_groups(rate):
    rng = np.random.default_rng(3)
    beyond = []
    for _ in range(100):
        shifts = rng.normal(0, 0.3, 12)
        values = [rng.normal(shift, 1, 300) for shift in shifts]
        threshold = threshold_of(values, np.arange(12), rate)
        new = rng.normal(rng.normal(0, 0.3, 20000), 1)
        beyond.append(np.mean(new > threshold) > rate)
        pooled = np.concatenate(values)
        assert np.mean(pooled > threshold) <= rate
        assert threshold >= np.quantile(pooled, 1 - rate, method="inverted_cdf")
    assert np.mean(beyond) < 0.25  # 0.1 but for skew and few groups


def test_atoms_unlike_all_phases_have_none_and_no_say():
    both = phases()
    atoms = cold(61)
    atoms.positions[0] += 0.9
    labels = both.assign(atoms)
    assert labels[0] == -1
    assert (labels[both.assign(cold(61)) == 1] == 1).mean() > 0.8
    squeezed = cold(62)
    squeezed.set_cell(squeezed.cell * 0.7, scale_atoms=True)
    assert set(both.assign(squeezed)) == {-1}


def test_elements_that_not_all_phases_have():
    metal = Reference.from_frames([copper(seed=i, rattle=0.05) for i in range(4)], bandwidth=H, groups="frame")
    compound = Reference.from_frames([alloy(seed=i) for i in range(4)], bandwidth=H, groups="frame")
    both = Phases({"metal": metal, "alloy": compound})
    labels = both.assign(alloy(seed=20))
    assert (labels[alloy(seed=20).numbers == 79] == 1).all()
    assert (both.assign(copper(seed=21, rattle=0.05)) == 0).mean() > 0.9
    strange = alloy(seed=22, gold=False)
    assert (both.assign(strange)[strange.numbers == 47] == -1).all()


def test_control_frames_only_raise_thresholds():
    between = [copper(3, seed=200 + i, rattle=0.19) for i in range(24)]
    control = Phases(references(), control=between)
    assert np.mean([control.assign(atoms) == 1 for atoms in between]) <= 0.01
    assert control.thresholds["cold"] > phases().thresholds["cold"]
    hotter = [copper(3, seed=200 + i, rattle=0.3) for i in range(4)]
    assert Phases(references(), control=hotter).thresholds == phases().thresholds
    assert control.fingerprint != phases().fingerprint
    assert "24 control frames" in control.describe()
    assert control.settings["control_frames"] == 24


@pytest.mark.slow
def test_thresholds_of_control_frames_keep_their_rate_on_average():
    # single thresholds do not always: shares scatter from frame to frame
    new = [copper(3, seed=3000 + i, rattle=0.19) for i in range(40)]
    shares = []
    for first in range(0, 96, 12):
        control = Phases(references(), control=[copper(3, seed=1000 + first + i, rattle=0.19) for i in range(12)])
        shares.append(np.mean([control.assign(atoms) == 1 for atoms in new]))
    assert 0.001 < np.mean(shares) < 0.015


def test_the_threshold_is_a_third_of_the_way_to_the_products_own_environments():
    _, held_out = compare(references(), "warm", None)
    inside = {
        name: [ratios.of_products[~ratios.is_outside, 0] for ratios in frames.ratios]
        for name, frames in held_out.items()
    }
    # the other groups give the sizes of clusters
    edge = threshold_of(inside["warm"][::2], np.arange(5), 0.01)
    gap = np.quantile(np.concatenate(inside["cold"]), 0.01) - edge
    assert gap > 0.1
    assert phases().thresholds["cold"] == pytest.approx(edge + gap / 3)


@pytest.mark.slow
def test_levels_of_clusters_come_from_frames_that_set_no_threshold():
    both = Phases(references(), rate=0.2, control=[warm(500 + i) for i in range(2)])
    ratios, held_out = compare(references(), "warm", None)
    rule = replace(learn(held_out, "warm", 0.2), thresholds=both.thresholds)
    frames, pairs = held_out["warm"], ratios.pair_distances
    expected = [largest_cluster(frames.frames[i], rule.labels(frames.ratios[i]) == 1, pairs) for i in range(1, 10, 2)]
    assert max(expected) > 2
    own = level_of(null_of(expected, 108, "phase_cluster"), "extreme", 108, 0.2, 1)
    level = both.cluster_level("cold", 108, 0.2)
    assert own.value > 10
    assert level == replace(own, value=2 * own.value)
    assert phases().cluster_level("cold", 108, 0.2).value == 20
    assert both.cluster_level("cold", 1080, 0.2).pieces == 10
    assert largest_of(both, cold(80), "cold") > level.value >= largest_of(both, warm(80), "cold")
    with pytest.raises(ValueError, match=r"product: expected one of cold, got 'fcc'"):
        both.cluster_level("fcc", 108, 0.01)


def largest_of(phases, atoms, product):
    """Atoms in the largest cluster of a product."""
    return phases.clusters(atoms, phases.assign(atoms))[product]


def test_three_phases_are_told_apart():
    frames = [copper(3, seed=400 + i, rattle=0.1) for i in range(10)]
    for atoms in frames:
        atoms.set_cell(atoms.cell * 1.04, scale_atoms=True)
    wide = Reference.from_frames(frames, bandwidth=H, groups="frame")
    three = Phases(references() | {"wide": wide})
    assert three.confusion[1, 1] > 0.9
    assert three.confusion[2, 2] > 0.9
    assert three.confusion[0, 0] > 0.95
    found = three.clusters(frames[0], three.assign(frames[0]))
    assert found["cold"] == 0
    assert found["wide"] > 50
    assert set(three.settings["thresholds"]) == {"cold", "wide"}
    json.dumps(three.settings, allow_nan=False)


def test_what_cannot_be_used_is_refused():
    warm_, cold_ = references().values()
    single = Reference.from_frames([cold(1), cold(2)], bandwidth=H, groups=[0, 0])
    with pytest.warns(UserWarning, match="no environment"):
        empty = Reference.from_frames([], bandwidth=H)
    for others, error, text in (
        ({}, ValueError, "phases: expected the references of at least two phases by name"),
        ({"none": cold_}, ValueError, "phases: expected names without spaces other than 'none', got 'none'"),
        ({"cold": []}, TypeError, r"phases\['cold'\]: expected a Reference or the name of its file, got list"),
        ({"cold": empty}, ValueError, "phases: the reference of 'cold' is empty"),
        ({"cold": cold_.with_bandwidth(0.02)}, MismatchError, "bandwidth: warm has 0.05, cold has 0.02"),
        ({"cold": single}, ValueError, "the reference of 'cold' has one group of frames"),
    ):
        with pytest.raises(error, match=text):
            Phases({"warm": warm_} | others)
    with pytest.raises(ValueError, match="parent: expected one of warm, cold, got 'liquid'"):
        Phases(references(), parent="liquid")
    for rate in (0, 1, True, "much"):
        with pytest.raises(ValueError, match="rate: expected a number between 0 and 1"):
            Phases(references(), rate=rate)
