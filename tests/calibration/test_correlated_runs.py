"""Correlated runs beside independent frames in one set: each has groups of its own, and levels stay."""

import functools
import itertools

import numpy as np
import pytest
from systems import copper

from quests_md import Monitor, Reference, calibrate

PLAIN = ("dh_max", "tail_cluster", "dh_mean")
N_SET, N_RUN = 100, 60


def independent(n, seed):
    rng = np.random.default_rng(seed)
    return [copper(2, seed=1000 * seed + i, rattle=rng.uniform(0.05, 0.12)) for i in range(n)]


def run_of(n, seed, rattle=0.09, memory=0.85):
    """Frames of which each keeps a share of the last one's displacements."""
    rng, frames = np.random.default_rng(seed), []
    moved = rng.normal(size=(32, 3))
    for _ in range(n):
        moved = memory * moved + np.sqrt(1 - memory**2) * rng.normal(size=moved.shape)
        frames.append(copper(2))
        frames[-1].positions += rattle * moved
    return frames


@functools.cache
def known(way="all"):
    """A set of independent frames; with two rounds of runs, as one list of frames or one round after the other."""
    first, rounds = independent(N_SET, 1), [run_of(N_RUN, 2), run_of(N_RUN, 3)]
    if way == "set":
        return Reference.from_frames(first)
    if way == "all":
        return Reference.from_frames([*first, *rounds[0], *rounds[1]])
    return Reference.from_frames(first).extend(rounds[0]).extend(rounds[1])


@pytest.mark.parametrize("way", ["all", "extended"])
def test_the_set_keeps_single_frames_and_runs_have_blocks(way):
    """One length for all took 468 groups to 55."""
    groups = known(way).arrays.frame_group
    parts = [set(groups[a:b].tolist()) for a, b in ((0, 100), (100, 160), (160, 220))]
    assert len(parts[0]) == N_SET
    for run in parts[1:]:
        assert N_RUN / 20 <= len(run) <= N_RUN / 3
    assert sum(map(len, parts)) == len(set(groups.tolist()))
    changes = [b for a, b in itertools.pairwise(groups) if b != a]
    assert len(changes) == len(set(changes))  # blocks are contiguous


@pytest.mark.parametrize(
    ("way", "statistics"),
    [
        ("all", None),
        ("extended", PLAIN),
        pytest.param("all", PLAIN, marks=pytest.mark.long),
        pytest.param("extended", None, marks=pytest.mark.long),
    ],
)
def test_levels_do_not_rise_by_runs(way, statistics):
    """The level of the mean went from -0.46 to 4.03 nats, and cavitation was seen late."""
    before, now = (
        {level.statistic: level for level in calibrate(known(w), statistics=statistics).alarm_levels([29] * 32)}
        for w in ("set", way)
    )
    mean, most = ("local_mean", 0.3) if statistics is None else ("dh_mean", 0.1)
    assert now[mean].value <= before[mean].value + most
    assert now[mean].n_groups > before[mean].n_groups
    with Monitor(known(way), calibrate(known(way), statistics=statistics), log=None) as monitor:
        states = [monitor.check(copper(2, seed=800 + i, rattle=0.2)).state for i in range(10)]
        quiet = [monitor.check(atoms).state for atoms in independent(40, 9)]
    assert states == ["out"] * 10
    assert quiet.count("out") <= 3  # of 40 at 0.01: more in one of a thousand
