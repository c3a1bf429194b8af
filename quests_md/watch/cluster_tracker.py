"""The course of clusters through time, by the atoms that they share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quests_md._json import to_mapping
from quests_md.environments import hashed

__all__ = ["MOST_ANCHORS", "MOST_CLUSTERS", "PATIENCE", "ClusterTracker", "Track"]

#: Most clusters that are followed, the largest ones; and fewest atoms of a cluster that is followed.
MOST_CLUSTERS, FEWEST_ATOMS = 8, 2

#: Most atoms by which a track is recognised from one check to the next.
MOST_ANCHORS = 64

#: Checks for which a track without a cluster is remembered.
PATIENCE = 2

#: Most merged tracks that a track names, the latest ones.
MOST_MERGED = 64


@dataclass(frozen=True, slots=True)
class Track:
    """One cluster through time, as it was when last seen."""

    id: int
    """Number of the track, from 1; never given twice."""
    first_step: int
    """Step at which it was first seen."""
    size: int
    """Its number of atoms."""
    peak_size: int
    """Its largest number of atoms so far."""
    n_checks: int
    """Checks in which it was seen."""
    first_atom: int
    """Smallest identity among its atoms: tells which of the clusters of a check it is."""
    merged: tuple[int, ...] = ()
    """Earlier tracks that ended in it, in the order of time; the latest 64."""


@dataclass(frozen=True, slots=True, eq=False)
class _Followed:
    """A track with the atoms by which it is recognised."""

    track: Track
    anchors: NDArray[np.uint64]
    """(at most 64,) identities of some of its atoms."""
    n_missed: int = 0
    """Checks since it was last seen."""


class ClusterTracker:
    """Follows clusters from check to check by the atoms that they share.

    The track and the cluster that share most atoms belong together (of equals: the older track, the larger cluster),
    then the track and the cluster that share most atoms among the rest, and so on. So where a cluster splits, the part
    with most of its atoms goes on as the same track and the other parts begin as new tracks; where clusters merge, the
    track that gave most atoms goes on, and the others have ended as merged into it. A track without a cluster is
    remembered for two checks, so that a cluster that flickers stays the same track.

    Only the 8 largest clusters of at least 2 atoms are followed. A track is recognised by at most 64 of its atoms, its
    anchors: the atoms whose hashed identities are smallest. They are a random sample, but always the same, and most of
    them stay as a cluster changes. The share of the anchors that is in a cluster, times the size of the track, stands
    for the number of shared atoms. For tracks of up to 64 atoms it is exactly that number; of larger tracks a few
    shared atoms among hundreds may be missed.

    Examples
    --------
    >>> tracker = ClusterTracker()
    >>> [(t.id, t.size) for t in tracker.update(0, [np.array([1, 2, 3]), np.array([8, 9])])]
    [(1, 3), (2, 2)]
    >>> [(t.id, t.size, t.merged) for t in tracker.update(10, [np.array([1, 2, 3, 5, 8, 9])])]
    [(1, 6, (2,))]
    """

    def __init__(self) -> None:
        self._n_tracks = 0
        self._followed: list[_Followed] = []

    @property
    def tracks(self) -> list[Track]:
        """The tracks that the last update saw, the largest first; of equals, that of the smallest identity."""
        seen = [followed.track for followed in self._followed if followed.n_missed == 0]
        return sorted(seen, key=lambda track: (-track.size, track.first_atom))

    def anchors(self, track: int | None) -> NDArray[np.uint64]:
        """Identities of at most 64 atoms of a track, as they were when it was last seen."""
        found = [each.anchors for each in self._followed if each.track.id == track]
        return found[0] if found else np.empty(0, np.uint64)

    def update(self, step: int, clusters: Sequence[NDArray[np.uint64]] | Sequence[NDArray[np.int64]]) -> list[Track]:
        """Take the clusters of the next check and return `tracks`.

        A cluster is given by the identities of its atoms, which must stay the same through time; the order of neither
        atoms nor clusters matters.
        """
        named = (np.asarray(cluster).astype(np.uint64) for cluster in clusters if len(cluster) >= FEWEST_ATOMS)
        new = sorted(named, key=lambda cluster: (-len(cluster), int(cluster.min())))[:MOST_CLUSTERS]
        owner, merged, left = self._matches(new)
        followed = []
        for i, cluster in enumerate(new):
            size, first_atom, anchors = len(cluster), int(cluster.min()), _anchors(cluster)
            if i in owner:
                old = owner[i].track
                track = replace(
                    old,
                    size=size,
                    peak_size=max(size, old.peak_size),
                    n_checks=old.n_checks + 1,
                    first_atom=first_atom,
                    merged=(*old.merged, *merged.get(i, ()))[-MOST_MERGED:],
                )
            else:
                self._n_tracks += 1
                track = Track(self._n_tracks, int(step), size, size, 1, first_atom)
            followed.append(_Followed(track, anchors))
        followed += [replace(old, n_missed=old.n_missed + 1) for old in left if old.n_missed < PATIENCE]
        self._followed = sorted(followed, key=lambda each: each.track.id)
        return self.tracks

    def state(self) -> dict[str, Any]:
        """What the tracker has seen, in plain types, for `restore`: at most 24 tracks."""
        return {
            "n_tracks": self._n_tracks,
            "followed": [
                to_mapping(each.track) | {"anchors": each.anchors.tolist(), "n_missed": each.n_missed}
                for each in self._followed
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self._n_tracks = state["n_tracks"]
        self._followed = [
            _Followed(
                Track(**{f.name: each[f.name] for f in fields(Track)} | {"merged": tuple(each["merged"])}),
                np.array(each["anchors"], dtype=np.uint64),
                each["n_missed"],
            )
            for each in state["followed"]
        ]

    def _matches(
        self, new: Sequence[NDArray[np.uint64]]
    ) -> tuple[dict[int, _Followed], dict[int, list[int]], list[_Followed]]:
        """The track that each cluster continues, the tracks that end in it, and those that share no atom with any."""
        sizes = [len(cluster) for cluster in new]
        atoms = np.concatenate([*new, np.empty(0, np.uint64)])
        order = np.argsort(atoms, kind="stable")
        atoms, labels = atoms[order], np.repeat(np.arange(len(new)), sizes)[order]
        shares: list[tuple[float, int, int]] = []
        left = []
        for place, old in enumerate(self._followed):
            at = np.searchsorted(atoms, old.anchors)
            found = at < len(atoms)
            found[found] = atoms[at[found]] == old.anchors[found]
            counts = np.bincount(labels[at[found]], minlength=len(new))
            hits = [(i, int(n)) for i, n in enumerate(counts) if n]
            # exactly the number of shared atoms where every atom is an anchor
            shares += [(-n * old.track.size / len(old.anchors), place, i) for i, n in hits]
            if not hits:
                left.append(old)
        owner: dict[int, _Followed] = {}
        going_on: set[int] = set()
        for _, place, i in sorted(shares):
            if i not in owner and place not in going_on:
                owner[i] = self._followed[place]
                going_on.add(place)
        merged: dict[int, list[int]] = {}
        for _, place, i in sorted(shares):
            if place not in going_on:
                merged.setdefault(i, []).append(self._followed[place].track.id)
                going_on.add(place)
        return owner, {i: sorted(ids) for i, ids in merged.items()}, left


def _anchors(cluster: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The identities whose hashes are smallest, in ascending order."""
    if len(cluster) <= MOST_ANCHORS:
        return np.sort(cluster)
    return np.sort(cluster[np.argpartition(hashed(cluster, 0), MOST_ANCHORS)[:MOST_ANCHORS]])
