import json
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from quests_md.environments import clusters
from quests_md.watch.cluster_tracker import MOST_ANCHORS, MOST_CLUSTERS, PATIENCE, ClusterTracker, Track


class NaiveTracker:
    """The rules of the tracker with whole sets of atoms, pair by pair."""

    def __init__(self):
        self.n_tracks = 0
        self.known = []  # [track, atoms, checks missed]

    def update(self, step, clusters):
        new = sorted((set(map(int, c)) for c in clusters if len(c) >= 2), key=lambda c: (-len(c), min(c)))
        new = new[:MOST_CLUSTERS]
        shared = {(k, i): len(self.known[k][1] & c) for k in range(len(self.known)) for i, c in enumerate(new)}
        shared = {pair: n for pair, n in shared.items() if n}
        heir = {}
        open_pairs = dict(shared)
        while open_pairs:
            k, i = min(open_pairs, key=lambda pair: (-open_pairs[pair], self.known[pair[0]][0].id, pair[1]))
            heir[i] = k
            open_pairs = {pair: n for pair, n in open_pairs.items() if pair[0] != k and pair[1] != i}
        ended = {}
        for k in {k for k, _ in shared} - set(heir.values()):
            best = max((i for j, i in shared if j == k), key=lambda i: (shared[k, i], -i))
            ended.setdefault(best, []).append(self.known[k][0].id)
        known = []
        for k, (track, members, missed) in enumerate(self.known):
            if k not in {k for k, _ in shared} and missed < PATIENCE:
                known.append([track, members, missed + 1])
        tracks = []
        for i, c in enumerate(new):
            if i in heir:
                old = self.known[heir[i]][0]
                track = replace(
                    old, size=len(c), peak_size=max(old.peak_size, len(c)), n_checks=old.n_checks + 1,
                    first_atom=min(c), merged=(*old.merged, *sorted(ended.get(i, ())))[-64:],
                )  # fmt: skip
            else:
                self.n_tracks += 1
                track = Track(self.n_tracks, step, len(c), len(c), 1, min(c))
            tracks.append(track)
            known.append([track, c, 0])
        self.known = sorted(known, key=lambda entry: entry[0].id)
        return tracks


class Droplets:
    """Sets of atoms that grow, shrink, wander, flicker, split and merge at random."""

    def __init__(self, rng, n_atoms, most):
        self.rng, self.n_atoms, self.most = rng, n_atoms, most
        self.names = rng.permutation(10 * n_atoms)[:n_atoms].astype(np.uint64)
        self.droplets = []
        self.hidden = 0

    def free(self):
        taken = set().union(*self.droplets) if self.droplets else set()
        return self.rng.permutation(list(set(range(self.n_atoms)) - taken)).tolist()

    def step(self):
        rng, free = self.rng, self.free()
        kind = rng.choice(["born", "grow", "shrink", "wander", "split", "merge", "die", "calm"])
        order = rng.permutation(len(self.droplets)).tolist()
        if kind == "born" or not order:
            self.droplets.append({free.pop() for _ in range(min(len(free), int(rng.integers(1, self.most // 3 + 2))))})
        elif kind == "die" and rng.uniform() < 0.3:
            self.droplets.pop(order[0])
        elif kind == "merge" and len(order) > 1:
            a, b = sorted(order[:2])
            if len(self.droplets[a]) + len(self.droplets[b]) <= self.most:
                self.droplets[a] |= self.droplets.pop(b)
        elif kind == "split" and len(self.droplets[order[0]]) > 3:
            members = sorted(self.droplets[order[0]])
            part = {x for x in members if rng.uniform() < 0.35}
            self.droplets[order[0]] -= part
            self.droplets.append(part)
        for droplet in self.droplets:
            share = rng.uniform(0, 0.3)
            if kind in ("shrink", "wander"):
                droplet -= {x for x in sorted(droplet) if rng.uniform() < share}
            if kind in ("grow", "wander"):
                while free and len(droplet) < self.most and rng.uniform() < 0.97:
                    droplet.add(free.pop())
        self.droplets = [droplet for droplet in self.droplets if droplet]
        self.hidden = self.hidden - 1 if self.hidden > 0 else int(rng.integers(1, 4)) if rng.uniform() < 0.05 else 0
        shown = self.droplets[1:] if self.hidden else self.droplets
        return [self.names[rng.permutation(sorted(droplet))] for droplet in shown]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_tracks_of_small_clusters_are_those_of_whole_sets(seed):
    droplets = Droplets(np.random.default_rng(seed), 300, MOST_ANCHORS)
    tracker, naive, n_merged, n_gone, n_back = ClusterTracker(), NaiveTracker(), 0, 0, 0
    for step in range(1500):
        before = {track.id for track in tracker.tracks}
        shown = droplets.step()
        found = tracker.update(10 * step, shown)
        assert found == tracker.tracks == naive.update(10 * step, shown)
        n_gone += len(before - {track.id for track in found})
        n_back += sum(track.id not in before and track.n_checks > 1 for track in found)
        n_merged += sum(len(track.merged) for track in found if track.id in before)
    assert min(n_merged, n_gone, n_back) > 20
    assert naive.n_tracks > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_tracks_of_large_clusters_are_nearly_always_those_of_whole_sets(seed):
    """At each check both start from the same past: one different choice would otherwise be counted for ever."""
    droplets = Droplets(np.random.default_rng(seed), 8000, 1500)
    tracker, members, agree, total = ClusterTracker(), {}, 0, 0
    for step in range(250):
        shown = droplets.step()
        state = tracker.state()
        naive = NaiveTracker()
        naive.n_tracks = state["n_tracks"]
        names = [name for name in Track.__slots__ if name != "merged"]
        for entry in state["followed"]:
            track = Track(**{name: entry[name] for name in names}, merged=tuple(entry["merged"]))
            naive.known.append([track, members[track.id], entry["n_missed"]])
        found, expected = tracker.update(step, shown), naive.update(step, shown)
        assert [(t.size, t.first_atom) for t in found] == [(t.size, t.first_atom) for t in expected]
        agree += sum(a == b for a, b in zip(found, expected, strict=True))
        total += len(found)
        of_atom = {min(cluster): cluster for cluster in ({int(x) for x in c} for c in shown)}
        members |= {track.id: of_atom[track.first_atom] for track in found}
    assert total > 1000
    assert agree >= 0.98 * total  # what differs are a few atoms shared by chance with a track that has vanished


LISTS = st.lists(
    st.lists(st.sets(st.integers(0, 60), max_size=30), max_size=12).map(
        lambda sets: [sorted(s - set().union(*sets[:i])) for i, s in enumerate(sets)]
    ),
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(LISTS, st.randoms(use_true_random=False), st.integers(0, 12))
def test_what_holds_of_any_course(course, random, at):
    tracker, shuffled, restored = ClusterTracker(), ClusterTracker(), ClusterTracker()
    ever, ended = set(), set()
    for step, lists in enumerate(course):
        if step == at:
            restored.restore(json.loads(json.dumps(tracker.state())))
            assert restored.tracks == tracker.tracks
        given = [np.array(c, dtype=np.int64) for c in lists]
        tracks = tracker.update(step, given)
        assert tracks == tracker.tracks
        followed = sorted((c for c in lists if len(c) > 1), key=lambda c: (-len(c), c[0]))[:MOST_CLUSTERS]
        assert [(t.size, t.first_atom) for t in tracks] == [(len(c), c[0]) for c in followed]
        ids = [t.id for t in tracks]
        assert len(set(ids)) == len(ids)
        assert not ended & set(ids)
        new = {t.id for t in tracks} - ever
        assert all(t.first_step == step and t.n_checks == 1 and t.merged == () for t in tracks if t.id in new)
        assert sorted(new) == list(range(len(ever) + 1, len(ever) + 1 + len(new)))
        ever |= new
        ended |= {i for t in tracks for i in t.merged}
        assert all(t.peak_size >= t.size and t.n_checks <= step - t.first_step + 1 for t in tracks)
        random.shuffle(given)
        again = [np.array(random.sample(c.tolist(), len(c)), dtype=np.uint64) for c in given]
        assert shuffled.update(step, again) == tracks
        assert shuffled.state() == tracker.state()
        if step >= at:
            assert restored.update(step, given) == tracks
            assert restored.state() == tracker.state()
        assert len(tracker.state()["followed"]) <= MOST_CLUSTERS * (PATIENCE + 1)


def ids(tracks):
    return [track.id for track in tracks]


def sets(*ranges):
    return [np.arange(*r) for r in ranges]


def test_a_merge_keeps_the_track_that_gave_most_atoms_and_names_the_others():
    tracker = ClusterTracker()
    first = tracker.update(0, sets((0, 5), (10, 18), (20, 23)))
    assert [(track.id, track.size) for track in first] == [(1, 8), (2, 5), (3, 3)]
    (track,) = tracker.update(1, sets((0, 23)))
    assert (track.id, track.merged, track.size, track.peak_size, track.n_checks) == (1, (2, 3), 23, 23, 2)
    (track,) = tracker.update(2, sets((2, 9)))
    assert (track.id, track.merged, track.size, track.peak_size, track.first_step) == (1, (2, 3), 7, 23, 0)


def test_of_equals_the_older_track_and_the_larger_part_go_on():
    tracker = ClusterTracker()
    tracker.update(0, sets((0, 4)))
    tracker.update(1, sets((0, 4), (10, 14)))
    (track,) = tracker.update(2, sets((0, 14)))
    assert (track.id, track.merged) == (1, (2,))
    parts = tracker.update(3, [np.arange(0, 7), np.append(np.arange(7, 14), 99)])
    assert [(t.id, t.size) for t in parts] == [(1, 8), (3, 7)]


def test_a_flickering_cluster_keeps_its_id_and_a_lost_one_does_not():
    tracker, cluster = ClusterTracker(), sets((0, 9))
    tracker.update(0, cluster)
    for gap in range(PATIENCE):
        for _ in range(gap + 1):
            assert tracker.update(1, []) == []
        (track,) = tracker.update(2, cluster)
        assert (track.id, track.n_checks) == (1, gap + 2)
    for _ in range(PATIENCE + 1):
        tracker.update(3, sets((50, 52)))
    assert ids(tracker.update(4, cluster)) == [3]


def test_single_atoms_and_small_clusters_in_a_crowd_are_not_followed():
    tracker = ClusterTracker()
    assert tracker.update(0, sets((0, 1), (5, 6))) == []
    crowd = sets(*((100 * i, 100 * i + 20 - i) for i in range(12)))
    assert [t.size for t in tracker.update(1, crowd)] == list(range(20, 20 - MOST_CLUSTERS, -1))


def test_a_long_course_of_merges_has_a_bounded_state():
    tracker = ClusterTracker()
    rng = np.random.default_rng(0)
    for step in range(400):
        crumbs = [1_000_000 * (i + 1) + 50 * step + np.arange(40) for i in range(7)]
        big = np.arange(5000 + step)
        tracker.update(2 * step, [big, *crumbs])
        (track,) = tracker.update(2 * step + 1, [rng.permutation(np.concatenate([big, *crumbs]))])
    assert (track.id, len(track.merged), track.n_checks) == (1, 64, 800)
    assert len(json.dumps(tracker.state())) < 2000


def test_anchors_stand_for_the_whole_of_a_large_cluster():
    tracker = ClusterTracker()
    assert ids(tracker.update(0, sets((0, 1000), (5000, 5060)))) == [1, 2]
    (track,) = tracker.update(1, [np.r_[0:500, 5000:5060]])  # half of the anchors of 1, fewer than the 60 of 2
    assert (track.id, track.merged) == (1, (2,))
    parts = tracker.update(2, sets((0, 200), (200, 500)))
    assert [(t.id, t.size) for t in parts] == [(1, 300), (3, 200)]


def test_anchors_are_the_same_in_any_order_and_most_of_them_stay():
    rng, tracker, shuffled = np.random.default_rng(0), ClusterTracker(), ClusterTracker()
    cluster = rng.permutation(100_000)[:2000]
    tracker.update(0, [cluster])
    shuffled.update(0, [rng.permutation(cluster).astype(np.uint64)])
    assert shuffled.state() == tracker.state()
    before = set(tracker.state()["followed"][0]["anchors"])
    tracker.update(1, [np.append(cluster[100:], 200_000 + np.arange(100))])
    after = set(tracker.state()["followed"][0]["anchors"])
    assert len(before) == len(after) == MOST_ANCHORS
    assert len(before & after) > 0.8 * MOST_ANCHORS


def test_identities_may_be_any_64_bits():
    names = np.array([2**64 - 1, 2**63, 0, 7], dtype=np.uint64)
    tracker, same = ClusterTracker(), ClusterTracker()
    tracker.update(0, [names])
    same.restore(json.loads(json.dumps(tracker.state())))
    assert ids(same.update(1, [names[:2]])) == [1]
    assert ids(tracker.update(1, [names[:2].astype(np.int64)])) == [1]


def test_a_cluster_that_moves_through_the_boundary_is_one_track():
    lattice = bulk("Cu", cubic=True) * 7
    distances, tracker, crossed = {(29, 29): (2.3, 2.5527)}, ClusterTracker(), False
    centre = lattice.cell.sum(axis=0) / 2
    inside = Atoms("X", [centre], cell=lattice.cell, pbc=True)
    for step in range(60):
        inside.positions += [0.9, 0.5, 0.0]
        inside.wrap()
        seen = lattice + inside
        away = seen.get_distances(len(lattice), range(len(lattice)), mic=True)
        found = clusters(lattice, away < 5.5, distances)
        (track,) = tracker.update(step, found)
        assert (track.id, track.size, track.n_checks) == (1, int((away < 5.5).sum()), step + 1)
        crossed |= bool(np.ptp(lattice.positions[found[0], 0]) > 20)
    assert crossed
