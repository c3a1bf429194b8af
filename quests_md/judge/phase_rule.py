"""What phase an atom is of: log density ratios of the phases averaged over neighbours, and thresholds for them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.stats import t as student

from quests_md.calibration import NullScores
from quests_md.environments import PairDistances, largest_cluster, linked_pairs, links
from quests_md.reference import Reference, thinned, whole_groups

__all__ = ["compare", "confusion_of", "learn", "null_clusters", "threshold_of", "with_control"]

#: Most rows of a phase that atoms are compared with: a check pays for those of every phase.
MAX_ROWS = 4096

#: Most environments of the parent (or of control frames), and of any other phase, that are held out.
MAX_HELD_OUT = 60_000
MAX_OTHERS = 10_000

#: Share of the held-out environments of a phase above its dH level. Atoms above the levels of all phases are of none.
OUTSIDE_SHARE = 1e-3

#: Seed of the rows that a phase is thinned to, and of the groups that are held out.
SEED = 0

#: One-sided chance for which thresholds allow for scatter between groups; shares are skewed, so that it is reached
#: with some 100 groups only.
DOUBT = 0.1

#: Thresholds lie this share of the way from what the parent has to what nearly all of a crystal has: nuclei are smaller
#: and more strained than the crystal of a reference, and a cold parent looks more like a crystal than a hot one.
GAP_SHARE = 1 / 3

#: Groups from which on thresholds and sizes of clusters come from different ones.
ENOUGH_GROUPS = 8

#: One in so many groups sets thresholds, the others give the sizes of clusters.
THRESHOLD_GROUPS = 2


class Ratios(NamedTuple):
    """What decides the phases of the n atoms of a frame."""

    of_products: NDArray[np.float64]
    """(n, n_products) averaged log density ratio L of each product to the parent, nats."""
    is_outside: NDArray[np.bool_]
    """(n,) whether the atom is unlike all phases."""


class HeldOutFrames(NamedTuple):
    """Frames with what is known of their atoms, as if the group of each were not in the reference of its phase."""

    frames: list[Atoms]
    """The centers of environments of each frame."""
    groups: NDArray[np.int64]
    """(n_frames,) group of each frame."""
    dh: list[NDArray[np.float64]]
    """(n, n_phases) dH of the n atoms of each frame with respect to each phase, nats."""
    places: NDArray[np.int64]
    """(n_frames,) place of each frame in its reference."""
    ratios: Sequence[Ratios] = ()
    """Ratios of each frame, once the dH levels of the phases are known."""


@dataclass(frozen=True, slots=True, eq=False)
class PhaseRatios:
    """Compares environments with the references of all phases."""

    references: Mapping[str, Reference]
    """The reference of each phase by name, thinned: of each element as many rows in all of them."""
    parent: str
    """Name of the parent phase."""
    dh_levels: Mapping[str, Mapping[int, float]]
    """For each phase dH in nats, by atomic number, above which an atom is unlike the phase."""
    pair_distances: PairDistances
    """(smallest, median) nearest-neighbour distance in Å by pair of atomic numbers (a <= b)."""

    def of_frame(self, atoms: Atoms, rows: NDArray[np.float64], threads: int | None) -> Ratios:
        """Ratios of the atoms of a frame, all of them centers, by their descriptor rows."""
        numbers = np.asarray(atoms.numbers)
        dh = [reference.evaluate(rows, numbers, threads=threads) for reference in self.references.values()]
        return self._averaged(atoms, np.stack(dh, axis=1))

    def of_control(self, frames: Reference, threads: int | None) -> HeldOutFrames:
        """The frames of a reference that is of the parent phase, but of which no phase has rows."""
        return self.scored(_held_out(self.references, frames, None, MAX_HELD_OUT, threads))

    def scored(self, held_out: HeldOutFrames) -> HeldOutFrames:
        """The frames with their ratios."""
        return held_out._replace(ratios=list(map(self._averaged, held_out.frames, held_out.dh)))

    def _averaged(self, atoms: Atoms, dh: NDArray[np.float64]) -> Ratios:
        """Ratios from dH of each atom with respect to each phase (n, n_phases)."""
        outside = np.ones(len(atoms), dtype=bool)
        for values, levels in zip(dh.T, self.dh_levels.values(), strict=True):
            outside &= ~(values <= np.array([levels.get(int(z), -math.inf) for z in atoms.numbers]))
        elements, species = np.unique(atoms.numbers, return_inverse=True)
        pairs = linked_pairs(atoms, links(elements, self.pair_distances), species.astype(np.int64))
        here, there = np.concatenate([pairs, pairs[:, ::-1]]).T
        place = list(self.references).index(self.parent)
        with np.errstate(invalid="ignore"):  # NaN where neither phase knows the element
            differences = dh[:, place, None] - np.delete(dh, place, axis=1)
        ratios = np.empty_like(differences)
        for column, own in enumerate(differences.T):
            counts = (np.isfinite(own) & ~outside).astype(np.float64)
            values = np.where(counts > 0, own, 0.0)
            total = values + np.bincount(here, values[there], len(values))
            number = counts + np.bincount(here, counts[there], len(values))
            ratios[:, column] = np.where(np.isfinite(own) & (number > 0), total / np.maximum(number, 1), own)
        return Ratios(ratios, outside)


def compare(
    references: Mapping[str, Reference], parent: str, threads: int | None
) -> tuple[PhaseRatios, dict[str, HeldOutFrames]]:
    """What compares frames with the references, and held-out frames of each of these references."""
    pair_distances: dict[tuple[int, int], tuple[float, float]] = {}
    for reference in [*references.values(), references[parent]]:  # the parent's come first
        pair_distances |= reference.pair_distances()
    small = dict(zip(references, thinned(list(references.values()), MAX_ROWS, SEED), strict=True))
    held_out = {
        name: _held_out(small, source, name, MAX_HELD_OUT if name == parent else MAX_OTHERS, threads)
        for name, source in references.items()
    }
    levels = {
        name: _dh_levels(part.frames, np.concatenate(part.dh)[:, i]) for i, (name, part) in enumerate(held_out.items())
    }
    ratios = PhaseRatios(small, parent, levels, pair_distances)
    return ratios, {name: ratios.scored(part) for name, part in held_out.items()}


def _held_out(
    references: Mapping[str, Reference], source: Reference, own: str | None, most: int, threads: int | None
) -> HeldOutFrames:
    """Frames of whole groups of `source`, at most `most` environments; each group is left out of the phase `own`."""
    sizes = np.bincount(source.arrays.atom_frame, minlength=source.n_frames)
    frames = whole_groups(source.arrays.frame_group, most, np.random.default_rng(SEED), sizes)
    order = source.arrays.frame_order
    order = order[np.isin(source.arrays.atom_frame[order], frames)]
    rows, numbers = source.rows_at(order), source.numbers[order].astype(np.int64)
    dh = np.empty((len(order), len(references)))
    for column, (name, known) in enumerate(references.items()):
        groups = source.row_groups[order] if name == own else np.full(len(order), -1)
        dh[:, column] = known.delta_entropy_without(rows, numbers, groups, threads=threads)
    ends = np.cumsum(sizes[frames])[:-1]
    whole = [source.frame(int(i)) for i in frames]
    return HeldOutFrames(whole, source.arrays.frame_group[frames], np.split(dh, ends), np.asarray(frames))


def _dh_levels(frames: list[Atoms], dh: NDArray[np.float64]) -> dict[int, float]:
    """DH in nats of each element that a thousandth of the held-out environments of a phase exceed."""
    numbers = np.concatenate([atoms.numbers for atoms in frames])
    known = np.isfinite(dh)
    # an element that only one group has: what is like its rows cannot be told, so that nothing is outside
    levels = dict.fromkeys(np.unique(numbers).tolist(), math.inf)
    for z in np.unique(numbers[known]):
        levels[int(z)] = float(np.quantile(dh[known & (numbers == z)], 1 - OUTSIDE_SHARE, method="higher"))
    return levels


@dataclass(frozen=True, slots=True, eq=False)
class PhaseRule:
    """Gives atoms their phases."""

    names: tuple[str, ...]
    """Names of all phases."""
    parent: str
    """Name of the parent phase."""
    margins: NDArray[np.float64]
    """(n_products,) half of the lead of each product in its own environments, nats."""
    thresholds: Mapping[str, float]
    """Averaged L in nats above which an atom may be of each product."""

    def labels(self, ratios: Ratios) -> NDArray[np.int64]:
        """(n,) place in `names` of the phase of each atom; -1: unlike all phases."""
        places = np.array([self.names.index(name) for name in self.thresholds])
        passed = ratios.of_products > np.array(list(self.thresholds.values()))
        best = places[np.argmax(np.where(passed, ratios.of_products - self.margins, -np.inf), axis=1)]
        parent = self.names.index(self.parent)
        return np.where(ratios.is_outside, -1, np.where(passed.any(axis=1), best, parent))


def learn(held_out: Mapping[str, HeldOutFrames], parent: str, rate: float) -> PhaseRule:
    """The rule by which at most `rate` of the parent's held-out environments are of each product by mistake.

    Where nearly all environments of a product lie above its threshold, the threshold is moved a third of the way up.
    """
    products = [name for name in held_out if name != parent]
    thresholds = {}
    for column, name in enumerate(products):
        edge = _threshold(held_out[parent], column, rate)
        thresholds[name] = edge + GAP_SHARE * _gap(held_out[name], column, edge, rate)
    margins = np.array([_margin(held_out[name], column) for column, name in enumerate(products)])
    return PhaseRule(tuple(held_out), parent, margins, thresholds)


def with_control(rule: PhaseRule, control: HeldOutFrames, rate: float) -> PhaseRule:
    """The rule with thresholds that keep the rate for control frames of the parent too: none becomes lower."""
    thresholds = {
        name: max(own, _threshold(control, column, rate)) for column, (name, own) in enumerate(rule.thresholds.items())
    }
    return replace(rule, thresholds=thresholds)


def confusion_of(rule: PhaseRule, held_out: Mapping[str, HeldOutFrames]) -> NDArray[np.float64]:
    """(n_phases, n_phases + 1) share of held-out environments of a phase (row) assigned to each; last: to none."""
    n = len(rule.names)
    table = np.zeros((n, n + 1))
    for row, name in zip(table, rule.names, strict=True):
        for ratios in held_out[name].ratios:
            row += np.bincount(rule.labels(ratios) % (n + 1), minlength=n + 1)
    return np.asarray(table / np.maximum(table.sum(axis=1, keepdims=True), 1))


def null_clusters(rule: PhaseRule, scored: HeldOutFrames, pair_distances: PairDistances) -> dict[str, NullScores]:
    """The largest cluster of each product in each group of frames of the parent that set no threshold."""
    _, chosen = _split(scored.groups)
    groups, where = np.unique(scored.groups[chosen], return_inverse=True)
    scores, sizes = np.zeros((len(groups), len(rule.thresholds))), np.zeros(len(groups), np.int64)
    for i, group in zip(chosen, where, strict=True):
        atoms, labels = scored.frames[i], rule.labels(scored.ratios[i])
        found = [largest_cluster(atoms, labels == rule.names.index(name), pair_distances) for name in rule.thresholds]
        scores[group] = np.maximum(scores[group], found)
        sizes[group] = max(sizes[group], len(atoms))
    nulls = {}
    for column, name in enumerate(rule.thresholds):
        order = np.argsort(scores[:, column], kind="stable")
        nulls[name] = NullScores("phase_cluster", None, "above", "both", scores[order, column], sizes[order])
    return nulls


def threshold_of(values: Sequence[NDArray[np.float64]], groups: NDArray[np.int64], rate: float) -> float:
    """The smallest value that at most `rate` of the environments exceed, with an allowance for the scatter of groups.

    `values`: for each frame those of its environments; `groups`: (n_frames,) group of each frame.
    """
    pooled = np.sort(np.concatenate(values))
    n = len(pooled)
    if n == 0:
        return -math.inf
    ranks = np.unique(np.floor(np.clip(n * (1 - rate * np.geomspace(1, 0.01, 60)), 0, n - 1)).astype(int))
    candidates = np.append(pooled[ranks], pooled[-1])
    names, where = np.unique(groups, return_inverse=True)
    above, counts = np.zeros((len(names), len(candidates))), np.zeros(len(names))
    for part, group in zip(values, where, strict=True):
        above[group] += len(part) - np.searchsorted(np.sort(part), candidates, side="right")
        counts[group] += len(part)
    # a ratio estimator: groups count by their environments
    shares = above.sum(axis=0) / n
    if len(names) > 1:
        scatter = ((above - shares * counts[:, None]) ** 2).sum(axis=0) * len(names) / (len(names) - 1)
        shares = shares + student.isf(DOUBT, len(names) - 1) * np.sqrt(scatter) / n
    return float(candidates[np.argmax(shares <= rate)]) if (shares <= rate).any() else float(pooled[-1])


def _threshold(scored: HeldOutFrames, column: int, rate: float) -> float:
    """The averaged L of a product that at most `rate` of the environments of the parent exceed."""
    chosen, _ = _split(scored.groups)
    parts = [_inside(scored.ratios[i])[:, column] for i in chosen]
    # inf: an element that only one group of the parent has
    return threshold_of([part[part < np.inf] for part in parts], scored.groups[chosen], rate)


def _gap(held_out: HeldOutFrames, column: int, threshold: float, rate: float) -> float:
    """How far above the threshold all but `rate` of a product's own environments lie, in nats; 0 if they do not."""
    ratios = np.concatenate([_inside(part)[:, column] for part in held_out.ratios])
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios) or not math.isfinite(threshold):
        return 0.0
    return max(0.0, float(np.quantile(ratios, rate)) - threshold)


def _margin(held_out: HeldOutFrames, column: int) -> float:
    """Half of what the averaged L of a product is above those of others, in the median of its own environments.

    Phases of different breadth have different densities at their own environments; without this the narrower of two
    similar products takes most atoms of the other.
    """
    ratios = np.concatenate([_inside(part) for part in held_out.ratios])
    others = np.delete(ratios, column, axis=1)
    if not others.shape[1]:
        return 0.0
    above = ratios[:, column] - others.max(axis=1)
    above = above[np.isfinite(above)]
    return float(np.median(above)) / 2 if len(above) else 0.0


def _inside(ratios: Ratios) -> NDArray[np.float64]:
    """(n, n_products) averaged L of the atoms that are like some phase."""
    return ratios.of_products[~ratios.is_outside]


def _split(groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frames whose groups set thresholds, and those of the others; all of them where groups are few."""
    names = np.unique(groups)
    if len(names) < ENOUGH_GROUPS:
        everything = np.arange(len(groups))
        return everything, everything
    first = np.isin(groups, names[::THRESHOLD_GROUPS])
    return np.flatnonzero(first), np.flatnonzero(~first)
