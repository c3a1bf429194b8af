"""From held-out frames of all phases to the rule that gives an atom its phase, and what that rule does by mistake."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from quests_md.calibration import NullScores
from quests_md.environments import PairDistances, largest_cluster

from .phase_ratios import HeldOutFrames, Ratios

__all__ = ["PhaseRule", "confusion_of", "learn", "null_clusters", "threshold_of", "with_control"]

#: One-sided chance for which thresholds allow for scatter between groups; shares are skewed, so that it is reached
#: with some 100 groups only.
DOUBT = 0.1

#: Thresholds lie this share of the way from what the parent has to what nearly all of a crystal has: nuclei are smaller
#: and more strained than the crystal of a reference, and a colder parent looks more like it than a hot one.
GAP_SHARE = 1 / 3

#: Groups from which on thresholds and sizes of clusters come from different ones.
ENOUGH_GROUPS = 8

#: One in so many groups sets thresholds, the others give the sizes of clusters.
THRESHOLD_GROUPS = 2


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

    Where nearly all environments of a product lie above the threshold of that rate, it is moved a third of the way up.
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

    Parameters
    ----------
    values
        For each frame the values of its environments.
    groups
        (n_frames,) group of each.
    rate
        The share.
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
