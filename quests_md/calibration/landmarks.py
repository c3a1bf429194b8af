"""Levels that know where they are: landmarks of a reference, and what dH is usual near each of them.

A reference of many kinds of environments has no one level: dH of a held-out crystal is far below dH of a held-out
liquid, and a level that covers both sees nothing in the crystal. So dH is compared with what is usual in its place.
"""

import copy
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from quests_md._kernels.coverage import farthest_rows
from quests_md._threads import available_threads
from quests_md.engine import KernelRegression
from quests_md.errors import MismatchError
from quests_md.reference import Reference, is_of_molecules

from .levels import GUESS
from .rare_kinds import ALONE, MOST_RARE, excluded_groups, groups_of_own_kind, most_excluded

if TYPE_CHECKING:
    from .torch_scores import DeviceScorer

__all__ = ["Landmarks", "LearntLandmarks", "LocalScorer", "learn_landmarks", "rows_to_score"]

#: Most landmarks of an element, most of all elements together, and fewest that an element of many gets.
MOST, MOST_TOGETHER, FEWEST_OF_MANY = 4096, 16_384, 512

#: Rows among which those that cover the reference are looked for, as many of each frame.
POOL = 16_384

#: Seed of the choice.
SEED = 0

#: Fewest environments of a frame by which its group is told to be of a kind with few groups: of fewer, a frame may be
#: as strange by chance.
FEWEST_ENVIRONMENTS = 16

#: Share of held-out values that is beyond the largest that a landmark may carry.
BEYOND = 0.01

#: Nats: the least scatter. Numbers that scatter by less are not told apart by less.
LEAST_SCATTER = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """Environments of a reference at which it is known what dH is usual."""

    rows: NDArray[np.int64] = field(repr=False)
    """(M,) rows of the reference, ascending."""
    usual: NDArray[np.float64] = field(repr=False)
    """(M,) dH in nats that is usual there: the landmark's own with respect to the landmarks of other groups."""
    scatter: NDArray[np.float64] = field(repr=False)
    """(M,) squared deviation in nats^2 from what is usual around it."""
    tail_level: float = math.nan
    """Local score that a hundredth of the held-out environments exceeds."""
    n_alone: int = 0
    """Groups of kinds with too few groups, of which levels know nothing."""
    averaged: bool = True
    """Whether averaged rows are scored; else the rows of single environments, see `learn_landmarks`."""


def rows_to_score(reference: Reference, at: NDArray[np.int64], *, averaged: bool) -> NDArray[np.floating[Any]]:
    """Rows of the reference, (m, width), of which there are local scores; MismatchError if it has none."""
    return reference.averaged_rows_at(at) if averaged else reference.rows_at(at)


class LearntLandmarks(NamedTuple):
    """Landmarks, and what was learnt with them."""

    landmarks: Landmarks
    scores: NDArray[np.float64]
    """(m,) local scores of the held-out rows as if their group were not in the reference; NaN: no other group has the
    element, or the group is of a kind with too few groups."""
    apart: NDArray[np.int64]
    """Groups of kinds with too few groups that are apart from all others: they set no level of any statistic."""
    small: NDArray[np.int64]
    """Groups of kinds with too few groups."""


class _Found(NamedTuple):
    dh: NDArray[np.float64]
    """(n,) nats, with respect to the landmarks; inf: none of that element; NaN: no center."""
    means: NDArray[np.float64]
    """(n, 2) kernel means of the values of the landmarks, usual dH and scatter; NaN where there are none."""

    def scores(self) -> NDArray[np.float64]:
        """(n,) local scores: dH beyond what is usual over the scatter; dH itself where that is not finite."""
        out, known = self.dh.copy(), np.isfinite(self.dh)
        usual, scatter = self.means[known].T
        out[known] = (out[known] - usual) / np.sqrt(scatter + LEAST_SCATTER**2)
        return out


class LocalScorer:
    """Local scores of environments: how far dH is beyond what is usual in its place, in units of its scatter there.

    The score of a row y, averaged if the landmarks are, is (dH(y) - u(y)) / sqrt(v(y) + 1 nat^2). DH is taken with
    respect to the landmarks of its element. u(y) and v(y) are the means of the landmarks' usual dH and squared
    deviations, weighted by the kernel between y and each landmark (kernel regression; E. A. Nadaraya, Theory Probab.
    Appl. 9, 141 (1964), doi:10.1137/1109020). The idea is that of the local outlier factor (M. M. Breunig et al.,
    SIGMOD 2000, doi:10.1145/342009.335388), in nats.

    `frame_groups`: (n_frames,) group of each frame, of use where own groups are left out; default the reference's.
    """

    def __init__(
        self, reference: Reference, landmarks: Landmarks, frame_groups: NDArray[np.int64] | None = None
    ) -> None:
        bandwidth = reference.averaged_bandwidth if landmarks.averaged else reference.bandwidth
        if len(landmarks.rows) and landmarks.rows[-1] >= reference.n_environments:
            raise MismatchError(
                f"calibration: its landmarks are rows up to {landmarks.rows[-1]}, the reference has "
                f"{reference.n_environments}; calibrate again with this reference"
            )
        self._reference = reference
        self._bandwidth = bandwidth
        self._on_devices: dict[str, DeviceScorer] = {}
        groups = reference.arrays.groups_of_rows(frame_groups)[landmarks.rows]
        rows = rows_to_score(reference, landmarks.rows, averaged=landmarks.averaged).astype(np.float64)
        values = np.column_stack([landmarks.usual, landmarks.scatter])
        self._places: dict[int, slice] = {}  # of the landmarks of each element among all
        self._regressions: dict[int, KernelRegression] = {}
        for z, block in reference.blocks.items():
            here = slice(*np.searchsorted(landmarks.rows, (block.start, block.stop)))
            if here.start < here.stop:
                self._places[z] = here
                self._regressions[z] = KernelRegression(rows[here], bandwidth, values[here], groups[here])

    def with_values(self, usual: NDArray[np.float64], scatter: NDArray[np.float64]) -> Self:
        """The same landmarks with other values: (M,) usual dH, nats, and (M,) squared deviations, nats^2."""
        other, values = copy.copy(self), np.column_stack([usual, scatter])
        other._on_devices = {}
        other._regressions = {z: kept.with_values(values[self._places[z]]) for z, kept in self._regressions.items()}
        return other

    def on(self, device: str) -> "DeviceScorer":
        """The same landmarks on a device of torch, as `require_device` names it; groups are left behind."""
        if device not in self._on_devices:
            from .torch_scores import DeviceScorer  # torch takes a second to import

            self._on_devices[device] = DeviceScorer(
                self._regressions,
                device,
                bandwidth=self._bandwidth,
                least=LEAST_SCATTER,
                is_of_any=self._reference.match == "any",
            )
        return self._on_devices[device]

    def scores(
        self,
        queries: NDArray[np.floating[Any]],
        numbers: NDArray[Any],
        own_groups: NDArray[np.int64] | None = None,
        *,
        threads: int | None = None,
    ) -> NDArray[np.float64]:
        """Local score of each environment, (n,); inf where nothing is known of the element, NaN for no centers.

        `queries`: (n, width) rows, averaged if the landmarks are; `numbers`: (n,) atomic numbers; `own_groups`: (n,)
        group of each, whose landmarks are left out.
        """
        return self.found(queries, numbers, own_groups, threads=threads).scores()

    def found(
        self,
        queries: NDArray[np.floating[Any]],
        numbers: NDArray[Any],
        own_groups: NDArray[np.int64] | None = None,
        *,
        threads: int | None = None,
    ) -> _Found:
        """DH with respect to the landmarks and means of their values; parameters as in `scores`."""
        is_center = self._reference.is_center(numbers)
        dh, means = np.where(is_center, np.inf, np.nan), np.full((len(numbers), 2), np.nan)
        n_threads = available_threads(threads)
        for z, regression in self._regressions.items():
            where = np.flatnonzero(is_center if self._reference.match == "any" else numbers == z)
            if len(where):
                own = None if own_groups is None else own_groups[where]
                found = regression.at(np.asarray(queries[where], dtype=np.float64), n_threads, own)
                dh[where], means[where] = found.delta_entropy, found.means
        return _Found(dh, means)


def learn_landmarks(
    reference: Reference,
    frame_groups: NDArray[np.int64] | None,
    held_out: NDArray[np.int64],
    threads: int | None = None,
    *,
    averaged: bool | None = None,
    setting: NDArray[np.int64] | None = None,
) -> LearntLandmarks:
    """Choose landmarks, learn what is usual near each, and score the held-out rows (m,) of whole groups.

    A group whose held-out environments lie, on average, where the rest of the reference is a hundred times less dense
    than usual is unlike all others: nothing in the reference says how far new frames of its kind would be from it. Of a
    kind with two to five groups (`groups_of_own_kind`) the reference says little. Such groups give no scores, so that
    they set no levels. One group in twenty may be alone, and one in ten of a kind with few; where there are more, as in
    a set of one frame for each of many compounds, all count. Where such a kind is apart from all others, its landmarks
    carry a dH between what the place has with all groups (of a kind of one group) and what it has without the own one
    (of a kind of six), so that the reference's own frames are known, and new ones by and by, as more groups of their
    kind are added.

    Landmarks are averaged rows. In a reference of free molecules they are rows of single environments: an average over
    twelve neighbours is one over most of a small molecule, in which a stretched bond drowns. `averaged` decides where
    it is given.
    """
    if averaged is None:
        averaged = reference.is_averaged or not is_of_molecules(reference)
    rows = _chosen(reference, averaged=averaged)
    groups = reference.arrays.groups_of_rows(frame_groups)
    everything = np.union1d(rows, held_out)
    of_landmarks, of_held_out = np.searchsorted(everything, rows), np.searchsorted(everything, held_out)
    queries, numbers = rows_to_score(reference, everything, averaged=averaged), reference.numbers[everything]
    own = groups[everything]
    nothing = np.zeros(len(rows))
    scorer = LocalScorer(reference, Landmarks(rows, nothing, nothing, averaged=averaged), frame_groups)

    def found(usual: NDArray[np.float64], scatter: NDArray[np.float64]) -> _Found:
        return scorer.with_values(usual, scatter).found(queries, numbers, own, threads=threads)

    dh = found(nothing, nothing).dh
    known = np.isfinite(dh)
    if not known.any():  # nothing can be held out
        no_groups = np.empty(0, np.int64)
        unknown = np.full(len(held_out), np.nan)
        return LearntLandmarks(Landmarks(rows, nothing, nothing, averaged=averaged), unknown, no_groups, no_groups)
    of_others = np.where(known, dh, 0.0)[of_landmarks]
    excess = dh - found(of_others, nothing).means[:, 0]
    elements = [slice(*np.searchsorted(rows, (b.start, b.stop)).tolist()) for b in reference.blocks.values()]
    bandwidth = reference.averaged_bandwidth if averaged else reference.bandwidth
    described = np.asarray(queries[of_landmarks], np.float64)
    sizes = np.bincount(reference.arrays.atom_frame)[reference.arrays.atom_frame[everything]]
    kinds = _small_kinds(
        excess, own, sizes, groups_of_own_kind(described, own[of_landmarks], elements, bandwidth), setting
    )
    n_of_kind = kinds.of_rows(own)
    counted = known & (n_of_kind == 0)
    most = _largest_usual(dh, counted, numbers, reference)
    usual = np.where(known, np.minimum(dh, most), most)
    few, trust = known & kinds.is_apart(own), (n_of_kind - 1) / MOST_RARE
    if few.any():  # between what the place has with all of its groups, and what it has without its own
        whole = scorer.scores(queries[few], numbers[few], threads=threads)
        usual[few] = whole + trust[few] * (usual[few] - whole)
    usual = usual[of_landmarks]
    deviation2 = (dh - found(usual, nothing).means[:, 0]) ** 2
    largest = float(np.quantile(deviation2[counted], 1 - BEYOND))
    scatter = np.where(counted | few, np.minimum(deviation2, largest), largest)
    scatter[few] *= trust[few]
    scatter = scatter[of_landmarks]
    scores = np.where(counted, found(usual, scatter).scores(), np.nan)
    small = kinds.names[kinds.n_of_kind > 0]
    landmarks = Landmarks(rows, usual, scatter, n_alone=len(small), averaged=averaged)
    return LearntLandmarks(landmarks, scores[of_held_out], kinds.names[kinds.apart], small)


def _chosen(reference: Reference, *, averaged: bool) -> NDArray[np.int64]:
    """Rows of landmarks, ascending: of each element one half covers its rows, the other is as dense as they are."""
    most = int(np.clip(MOST_TOGETHER // max(len(reference.blocks), 1), FEWEST_OF_MANY, MOST))
    rng, found = np.random.default_rng(SEED), []
    for of_element in reference.blocks.values():
        block = np.arange(of_element.start, of_element.stop)
        n = len(block)
        if n <= most:
            found.append(block)
            continue
        pool = _of_every_frame(reference.arrays.atom_frame[block], rng)
        rows = rows_to_score(reference, block[pool], averaged=averaged).astype(np.float64)
        rows -= rows.mean(axis=0)
        chosen = np.empty(most // 2, np.int64)
        first = int(np.einsum("ij,ij->i", rows, rows).argmin())
        n_chosen = farthest_rows(rows.astype(np.float32), first, chosen)
        covering = pool[chosen[:n_chosen]]
        is_left = np.ones(n, bool)
        is_left[covering] = False
        rest = np.flatnonzero(is_left)
        found.append(block[np.sort(np.concatenate([covering, rng.choice(rest, most - n_chosen, replace=False)]))])
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _of_every_frame(frames: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Places of up to POOL rows, ascending: as many as can be of each frame, so that rare kinds are among them."""
    if len(frames) <= POOL:
        return np.arange(len(frames))
    order = rng.permutation(len(frames))
    _, frame = np.unique(frames[order], return_inverse=True)
    by_frame = np.argsort(frame, kind="stable")
    starts = np.searchsorted(frame[by_frame], np.arange(frame.max() + 1))
    turn = np.empty(len(frames), np.int64)  # the how many-th of its frame
    turn[by_frame] = np.arange(len(frames)) - starts[frame[by_frame]]
    return np.sort(order[np.argsort(turn, kind="stable")[:POOL]])


class _SmallKinds(NamedTuple):
    names: NDArray[np.int64]
    """(n_groups,) the groups, ascending."""
    n_of_kind: NDArray[np.int64]
    """(n_groups,) groups of the kind of each; 0: many."""
    apart: NDArray[np.bool_]
    """(n_groups,) whether the kind is so far from all others that what is known of it can be told from what is not."""

    def of_rows(self, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number for the group of each row, (n,)."""
        return self.n_of_kind[np.searchsorted(self.names, groups)]

    def is_apart(self, groups: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the group of each row, (n,), is of a kind with few groups that is apart from all others."""
        return self.apart[np.searchsorted(self.names, groups)]


def _small_kinds(
    excess: NDArray[np.float64],
    groups: NDArray[np.int64],
    sizes: NDArray[np.int64],
    of_landmarks: tuple[NDArray[np.int64], NDArray[np.int64]],
    setting: NDArray[np.int64] | None,
) -> _SmallKinds:
    """Groups of kinds with too few groups to count.

    `excess`: (n,) nats, NaN or inf where nothing is known, of rows of the `groups` (n,) in frames of `sizes` rows;
    `of_landmarks`: groups, and how many groups the kind of each has by its landmarks.
    """
    names, where = np.unique(groups, return_inverse=True)
    known = np.isfinite(excess)
    counts = np.bincount(where[known], minlength=len(names))
    sums = np.bincount(where[known], excess[known], minlength=len(names))
    mean = np.divide(sums, counts, out=np.full(len(names), np.inf), where=counts > 0)
    alone = mean > np.median(mean[counts > 0]) + ALONE
    n_of_kind = np.zeros(len(names), np.int64)
    n_of_kind[np.searchsorted(names, of_landmarks[0])] = of_landmarks[1]
    n_of_kind[np.bincount(where, sizes < FEWEST_ENVIRONMENTS) > 0] = 0
    excluded = excluded_groups(alone, n_of_kind > 0)
    if setting is not None:
        own = np.isin(names, setting)
        if (excluded & own).sum() > most_excluded(int(own.sum())):
            excluded &= ~own
    apart = excluded & (n_of_kind > 0)
    return _SmallKinds(names, np.where(excluded, np.where(apart, n_of_kind, 1), 0), apart)


def _largest_usual(
    dh: NDArray[np.float64], counted: NDArray[np.bool_], numbers: NDArray[Any], reference: Reference
) -> NDArray[np.float64]:
    """(n,) the largest dH in nats that counts as usual for the element of each row.

    Not less than 0, what a single row at the place itself gives: however dense the reference is elsewhere, what the
    reference holds is not strange.
    """
    out = np.full(len(dh), np.quantile(dh[counted], 1 - BEYOND))
    if reference.match == "element":
        for z in np.unique(numbers):
            here = numbers == z
            if (counted & here).any():
                out[here] = np.quantile(dh[counted & here], 1 - BEYOND)
    return np.maximum(out, GUESS)
