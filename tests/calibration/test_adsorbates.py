"""Frames of a slab with an adsorbate among frames of the slab: groups, levels, and what is seen of either."""

import functools

import numpy as np
import pytest
from ase.build import add_adsorbate, fcc100
from ase.calculators.emt import EMT
from ase.optimize import BFGS
from scipy.stats import binom

from quests_md import Descriptor, Monitor, Reference, calibrate

PLAIN = ("dh_max", "tail_cluster", "dh_mean")
N_SLAB, N_OXYGEN, N_NEW = 90, 120, 40

#: Frames out by mistake of N_NEW that come about in one of a thousand sets, at the asked rate.
BY_CHANCE = int(binom.isf(1e-3, N_NEW, 0.01))


@functools.cache
def relaxed(adsorbate=None, height=0.0):
    """A Cu(100) slab of 12 atoms, with an adsorbate in the hollow, at rest by EMT."""
    atoms = fcc100("Cu", (2, 2, 3), vacuum=6)
    if adsorbate is not None:
        add_adsorbate(atoms, adsorbate, height, "hollow")
    atoms.calc = EMT()
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=200)
    atoms.calc = None
    return atoms


def in_motion(atoms, n, seed, memory=0.0):
    """So many frames around a structure, 0.1 Å, of which each keeps a share of the last one's displacements."""
    rng = np.random.default_rng(seed)
    moved, frames = rng.normal(size=(len(atoms), 3)), []
    for _ in range(n):
        moved = memory * moved + np.sqrt(1 - memory**2) * rng.normal(size=moved.shape)
        frames.append(atoms.copy())
        frames[-1].positions += 0.1 * moved
    return frames


@functools.cache
def references(elements=None):
    """The slab alone, and with frames of one O on it, which are correlated over three frames."""
    slab, oxygen = in_motion(relaxed(), N_SLAB, 31), in_motion(relaxed("O", 1.2), N_OXYGEN, 32, memory=0.7)
    descriptor = None if elements is None else Descriptor(elements=elements)
    return tuple(Reference.from_frames(frames, descriptor=descriptor) for frames in (slab, slab + oxygen))


@functools.cache
def calibrations(elements=None, statistics=None):
    return tuple(calibrate(reference, statistics=statistics) for reference in references(elements))


def watched(frames, which, *how):
    """Checks, and events, of frames by the reference of the slab alone (0) or with O (1)."""
    with Monitor(references(*how[:1])[which], calibrations(*how)[which], log=None) as monitor:
        return [monitor.check(atoms) for atoms in frames], monitor.events


def test_frames_with_an_adsorbate_take_no_groups_from_the_slab():
    """One length of blocks for all: 90 groups became 3."""
    groups = references()[1].arrays.frame_group
    assert len(set(groups[:N_SLAB])) == N_SLAB
    assert 10 <= len(set(groups[N_SLAB:])) <= N_OXYGEN / 2
    assert not set(groups[:N_SLAB]) & set(groups[N_SLAB:])
    alone, both = calibrations()
    assert alone.n_groups == N_SLAB
    assert both.n_groups == len(set(groups))


@pytest.mark.parametrize("statistics", [None, pytest.param(PLAIN, marks=pytest.mark.long)])
def test_quiet_frames_are_in_with_and_without_the_adsorbate(statistics):
    """The level of O was a guess, 0.00, and 23 of 40 quiet frames were out."""
    for atoms, seed in ((relaxed(), 3), (relaxed("O", 1.2), 4)):
        checks, events = watched(in_motion(atoms, N_NEW, seed), 1, None, statistics)
        assert sum(check.state == "out" for check in checks) <= BY_CHANCE
        assert not events
    assert watched(in_motion(relaxed("O", 1.2), 5, 4), 0, None, statistics)[1]  # before it was known


def test_the_level_of_the_adsorbate_is_no_guess():
    both, groups = calibrations(None, PLAIN)[1], references()[1].arrays.frame_group
    levels = {level.element: level for level in both.alarm_levels(relaxed("O", 1.2).numbers)}
    assert levels["O"].n_groups == len(set(groups[N_SLAB:]))
    assert not levels["O"].is_pooled
    assert levels["O"].rate < 1
    assert levels["O"].value > 1
    assert levels["O"].interval is not None or "most extreme" in both.describe(relaxed("O", 1.2).numbers)


@pytest.mark.parametrize("statistics", [None, PLAIN])
def test_levels_of_the_bare_slab_come_from_frames_without_the_adsorbate(statistics):
    bare, covered = relaxed().numbers, relaxed("O", 1.2).numbers
    alone, both = (c.alarm_levels(bare) for c in calibrations(None, statistics))
    of_covered = {(x.statistic, x.element): x.value for x in calibrations(None, statistics)[1].alarm_levels(covered)}
    for before, now in zip(alone, both, strict=True):
        assert (now.statistic, now.element) == (before.statistic, before.element)
        assert now.n_groups == before.n_groups
        assert now.value <= 1.25 * before.value  # more rows, and other groups set the level of counts
        assert now.value < of_covered[now.statistic, now.element]


@pytest.mark.parametrize(
    ("statistic", "how"),
    [("dh_max", (None, PLAIN)), pytest.param("local_max", (("Cu", "O"), None), marks=pytest.mark.long)],
    ids=["plain", "elements"],
)
def test_an_adatom_is_as_far_above_its_level_as_before(statistic, how):
    """By averaged rows that see no elements an adatom is known where an adsorbed O is: it is told by what does."""
    adatom = in_motion(relaxed("Cu", 1.8), 20, 5)
    (alone, _), (both, events) = (watched(adatom, which, *how) for which in (0, 1))
    before, now = (np.median([check.excesses[statistic] for check in checks]) for checks in (alone, both))
    assert now >= 0.9 * before > 10
    assert all(check.state == "out" for check in both)
    assert [event.kind for event in events] == ["novel"]
