"""Labelled phases: which of several references an atom looks like, at a stated error rate."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.stats import t as student

from quests_md._arguments import check_share
from quests_md.calibration import Level, NullScores, level_of
from quests_md.environments import describe, largest_cluster, linked_pairs, links
from quests_md.errors import MismatchError
from quests_md.reference import Reference, require_equal_settings, thinned, whole_groups

__all__ = ["Phases"]

#: Most rows of a phase that atoms are compared with: a check pays for those of every phase.
MAX_ROWS = 4096

#: Most environments of the parent (or of control frames), and of any other phase, that are held out.
MAX_HELD_OUT = 60_000
MAX_OTHERS = 10_000

#: One-sided chance for which thresholds allow for scatter between groups; shares are skewed, so that it is reached
#: with some 100 groups only.
DOUBT = 0.1

#: Share of the held-out environments of a phase above its dH level. Atoms above the levels of all phases are of none.
OUTSIDE_SHARE = 1e-3

#: Thresholds lie this share of the way from what the parent has to what nearly all of a crystal has: nuclei are smaller
#: and more strained than the crystal of a reference, and a colder parent looks more like it than a hot one.
GAP_SHARE = 1 / 3

#: A cluster has grown if it is this many times what the parent has by itself, and larger than so many atoms.
GROWTH, GROWN = 2.0, 20.0

#: Groups from which on thresholds and sizes of clusters come from different ones.
ENOUGH_GROUPS = 8

#: One in so many groups sets thresholds, the others give the sizes of clusters.
THRESHOLD_GROUPS = 2

SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """Frames with what decides the phase of their atoms."""

    frames: list[Atoms]
    groups: NDArray[np.int64]
    """(n_frames,) group of each frame."""
    ratios: list[NDArray[np.float64]]
    """For each frame (n_atoms, n_products): averaged log density ratio of each product to the parent."""
    outside: list[NDArray[np.bool_]]
    """For each frame (n_atoms,): unlike all phases."""


@dataclass(slots=True, eq=False)
class _Control:
    """What control frames say: all that is kept of them."""

    nulls: dict[str, NullScores] = field(default_factory=dict)
    n_frames: int = 0


class Phases:
    """Assigns a phase to every atom of a frame, by the density ratio of references of known phases.

    For each product (a phase that is not the parent) the log density ratio of an environment is L = dH(parent) -
    dH(product), with as many rows of each phase. L of one atom scatters by more than the phases are apart, so it is
    averaged over the atom and its neighbours (those within 1.3 of the median nearest-neighbour distance, the link of
    clusters). An atom is of a product if its average is above a threshold; of the product of the largest average, less
    half of the lead that the product's own environments have in the median, if there are several. Others are of the
    parent. Atoms whose dH is above the levels of all phases are of none, and do not count in the averages of others.

    At most `rate` of the parent's held-out environments are above a threshold, with an allowance for the scatter of
    groups. New environments keep that on average, but not for certain: with 100 groups one threshold in ten lets more
    pass, with 12 one in five, with 3 one in three (then up to 2.5 times as many; rattled copper).

    It holds for a parent like its reference only: an undercooled liquid looks more like the crystal than a hot one. So
    where nearly all of a product's environments lie higher still, the threshold is a third of the way up to them; but
    above all the parent's reference should hold frames as cold (or hot) as the run will be, such as the first
    picoseconds of another run. Frames of the parent given as `control`, such as the run's own beginning
    (`with_control`), can only raise thresholds and levels, never lower them.

    Parameters
    ----------
    references
        Name of each phase and its reference, at least two, made with the same settings. Each is thinned to as many
        rows per element as the smallest has, and to 4096 at most.
    parent
        The phase that runs start in; default the first.
    rate
        Share of the parent's environments that may be assigned to a product by mistake, for each product.
    control
        Frames or files of the parent phase that are not in its reference.
    threads
        Threads to use; never changes the result.

    Raises
    ------
    ValueError
        If there are fewer than two phases, one is empty, or `parent` or `rate` is not usable.
    MismatchError
        If the settings of two references differ; names both values.

    References
    ----------
    Lechner, Dellago, J. Chem. Phys. 129, 114707 (2008), doi:10.1063/1.2977970, for averages over neighbours.
    """

    def __init__(
        self,
        references: Mapping[str, Reference],
        *,
        parent: str | None = None,
        rate: float = 0.01,
        control: Any = None,
        threads: int | None = None,
    ) -> None:
        self.names = _checked(references)
        self.parent = self.names[0] if parent is None else parent
        if self.parent not in self.names:
            raise ValueError(f"parent: expected one of {', '.join(self.names)}, got {parent!r}")
        self.products = tuple(name for name in self.names if name != self.parent)
        self.rate = check_share("rate", rate)
        self._fingerprints = {name: reference.fingerprint for name, reference in references.items()}
        known = references[self.parent]
        self._descriptor = known.descriptor
        self.row_settings = known.settings
        """Settings of the rows of all references."""
        self.pair_distances: dict[tuple[int, int], tuple[float, float]] = {}
        """(smallest, median) nearest-neighbour distance in Å by pair of atomic numbers; the parent's comes first."""
        for reference in [*references.values(), known]:
            self.pair_distances |= reference.pair_distances()
        self._thinned = dict(zip(self.names, thinned(list(references.values()), MAX_ROWS, SEED), strict=True))
        raw = {name: self._held_out(references[name], name, threads) for name in self.names}
        self._levels = {
            name: _dh_levels(z, dh[:, column]) for column, (name, (_, _, z, dh, _)) in enumerate(raw.items())
        }
        self._held = {name: self._scored(*raw[name]) for name in self.names}
        self._control = _Control()
        self._margins = np.array([self._margin(column) for column in range(len(self.products))])
        self._own_thresholds = {
            name: edge + GAP_SHARE * self._gap(column, edge)
            for column, (name, edge) in enumerate(self._thresholds_of(self._held[self.parent]).items())
        }
        self.thresholds = dict(self._own_thresholds)
        """Averaged L in nats above which an atom may be of each product."""
        self._nulls = self._null_clusters(self._held[self.parent])
        if control is not None:
            self._take(control, None, threads)

    def __repr__(self) -> str:
        return f"<Phases: {self.parent} -> {', '.join(self.products)}, {self.fingerprint}>"

    @property
    def n_rows(self) -> int:
        """Rows of each phase that atoms are compared with (of the parent, where elements differ)."""
        return self._thinned[self.parent].n_environments

    @property
    def settings(self) -> dict[str, Any]:
        """Plain data for the header of a log: what decides the phase of an atom, and the errors of that."""
        return {
            "parent": self.parent,
            "references": dict(self._fingerprints),
            "rate": self.rate,
            "rows": self.n_rows,
            "thresholds": dict(self.thresholds),
            "confusion": {
                name: np.round(row, 4).tolist() for name, row in zip(self.names, self.confusion, strict=True)
            },
            "control_frames": self._control.n_frames,
        }

    @property
    def fingerprint(self) -> str:
        """Checksum of references, parent and thresholds: equal exactly for phases that answer alike."""
        parts = [self._fingerprints, self.parent, self.rate, self.thresholds]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()

    @property
    def confusion(self) -> NDArray[np.float64]:
        """(n_phases, n_phases + 1) share of held-out environments of a phase (row) assigned to each; last: to none."""
        table = np.zeros((len(self.names), len(self.names) + 1))
        for i, name in enumerate(self.names):
            held = self._held[name]
            for ratios, outside in zip(held.ratios, held.outside, strict=True):
                table[i] += np.bincount(self._labels(ratios, outside) % (len(self.names) + 1), minlength=len(table[i]))
        return np.asarray(table / np.maximum(table.sum(axis=1, keepdims=True), 1))

    def describe(self) -> str:
        """Thresholds, how they were set and the confusion table, in a few lines."""
        lines = [
            f"phases: parent {self.parent}, products {', '.join(self.products)}; {self.n_rows} rows each; an atom is "
            "of a product where the mean log density ratio of its neighbourhood is above "
            + ", ".join(f"{value:.2f} ({name})" for name, value in self.thresholds.items())
            + f" nats: at most {self.rate:.2g} of the parent's held-out environments"
        ]
        table = self.confusion
        for i, name in enumerate(self.names):
            shares = ", ".join(f"{table[i, j]:.2%} {other}" for j, other in enumerate((*self.names, "none")))
            lines.append(f"  held-out {name}: {shares}")
        if self._control.n_frames:
            lines.append(f"thresholds allow for {self._control.n_frames} control frames of the parent")
        else:
            lines.append(f"valid for {self.parent} like its reference; add frames of it at the run's temperature")
        return "\n".join(lines)

    def log_ratio(
        self, rows: NDArray[np.float64], numbers: NDArray[Any], product: str, *, threads: int | None = None
    ) -> NDArray[np.float64]:
        """Log of the ratio of the densities of a product and the parent at each environment, before any averaging.

        Returns
        -------
        log_ratio
            (n,) L in nats; above 0 the environment is more common in the product. inf and -inf for elements that only
            the product, or only the parent, has; NaN for those of neither, and for atoms that are no centers.
        """
        if product not in self.products:
            raise ValueError(f"product: expected one of {', '.join(self.products)}, got {product!r}")
        dh = [
            self._thinned[name].delta_entropy(rows, numbers=numbers, threads=threads) for name in (self.parent, product)
        ]
        return _difference(*dh)

    def assign(
        self, atoms: Atoms, rows: NDArray[np.float64] | None = None, *, threads: int | None = None
    ) -> NDArray[np.int64]:
        """Phase of each atom, (n_atoms,): its place in `names`; -1 for atoms unlike all phases and atoms without rows.

        Parameters
        ----------
        atoms
            The frame, which is not changed.
        rows
            (n_atoms, width) its descriptor rows, if they are at hand.
        threads
            Threads to use; never changes the result.

        Raises
        ------
        FrameError
            If the frame cannot be described.
        """
        if rows is None:
            rows = describe(self._descriptor, atoms, threads)
        z = np.asarray(atoms.numbers)
        out = np.full(len(atoms), -1)
        centers = np.flatnonzero(self._thinned[self.parent].is_center(z))
        if len(centers):
            dh = self._delta_entropies(rows[centers], z[centers], threads)
            out[centers] = self._labels(*self._averaged(atoms[centers], z[centers], dh))
        return out

    def clusters(self, atoms: Atoms, labels: NDArray[np.int64]) -> dict[str, int]:
        """Atoms in the largest connected cluster of each product, by the labels of `assign`."""
        return {
            name: largest_cluster(atoms, labels == self.names.index(name), self.pair_distances)
            for name in self.products
        }

    def cluster_sizes(self, frames: Sequence[Atoms], *, threads: int | None = None) -> dict[str, NDArray[np.int64]]:
        """Atoms in the largest cluster of each product in each frame, (n_frames,)."""
        found = [self.clusters(atoms, self.assign(atoms, threads=threads)) for atoms in frames]
        return {name: np.array([sizes[name] for sizes in found], dtype=np.int64) for name in self.products}

    def cluster_level(self, product: str, n_atoms: int, false_alarms: float, count: int = 1) -> Level:
        """The size beyond which the largest cluster of a product has grown, in a frame of the parent phase.

        The size that the parent has by itself at the stated rate comes from held-out frames of it and, apart, from
        control frames; the larger counts. The level is twice that, and 20 atoms at least: nuclei of such sizes come
        and go, while those past the critical size double within picoseconds, so that to wait for it costs little. The
        rate bounds the mistakes of the size without this factor.

        Parameters
        ----------
        product
            Name of the phase.
        n_atoms
            Atoms of the frame.
        false_alarms
            Rate at which `count` checks together may be out by mistake.
        count
            Checks that share the rate.
        """
        if product not in self.products:
            raise ValueError(f"product: expected one of {', '.join(self.products)}, got {product!r}")
        nulls = [part[product] for part in (self._nulls, self._control.nulls) if product in part]
        levels = [level_of(null, "extreme", n_atoms, false_alarms, count) for null in nulls]
        level = max(levels, key=lambda level: level.value)
        return replace(level, value=max(GROWTH * level.value, GROWN), interval=None)

    def with_control(self, frames: Any, *, groups: Any = None, threads: int | None = None) -> Self:
        """The same phases with thresholds and levels that allow for frames of the parent not in its reference.

        Parameters
        ----------
        frames
            Frames or files: the liquid at the temperature of a run, or the beginning of the run itself. They take
            the place of earlier control frames.
        groups
            Which of them are independent, as in `Reference.from_frames`.
        threads
            Threads to use; never changes the result.
        """
        other = copy(self)
        other._take(frames, groups, threads)
        return other

    def state(self) -> dict[str, Any]:
        """What control frames changed, as plain data; `restore` takes it."""
        nulls = {
            name: {"scores": null.scores.tolist(), "sizes": null.sizes.tolist()}
            for name, null in self._control.nulls.items()
        }
        return {"thresholds": dict(self.thresholds), "n_frames": self._control.n_frames, "nulls": nulls}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the control of phases made from the same references.

        Raises
        ------
        MismatchError
            If the state is of other products.
        """
        if set(state["thresholds"]) != set(self.products):
            raise MismatchError(
                f"phases: the state is of products {', '.join(state['thresholds'])}, these are "
                f"{', '.join(self.products)}; give the phases that the run began with"
            )
        nulls = {
            name: _null(np.array(null["scores"], dtype=np.float64), np.array(null["sizes"], dtype=np.int64))
            for name, null in state["nulls"].items()
        }
        self.thresholds = {name: float(state["thresholds"][name]) for name in self.products}
        self._control = _Control(nulls, int(state["n_frames"]))
        self._nulls = self._null_clusters(self._held[self.parent])

    def _take(self, frames: Any, groups: Any, threads: int | None) -> None:
        source = Reference.from_frames(
            frames,
            descriptor=self._descriptor,
            bandwidth=self.row_settings["bandwidth"],
            match=self.row_settings["match"],
            groups=groups,
            threads=threads,
        )
        scored = self._scored(*self._held_out(source, None, threads))
        own = self._thresholds_of(scored)
        self.thresholds = {name: max(threshold, own[name]) for name, threshold in self._own_thresholds.items()}
        self._nulls = self._null_clusters(self._held[self.parent])
        self._control = _Control(self._null_clusters(scored), source.n_frames)

    def _delta_entropies(
        self, rows: NDArray[np.float64], numbers: NDArray[Any], threads: int | None
    ) -> NDArray[np.float64]:
        """DH (n, n_phases) with respect to the thinned references."""
        return np.stack([self._thinned[name].evaluate(rows, numbers, threads=threads) for name in self.names], axis=1)

    def _held_out(
        self, source: Reference, own: str | None, threads: int | None
    ) -> tuple[list[Atoms], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Frames, their groups, and for their atoms one after the other number, dH (n, n_phases) and frame.

        Rows of an atom's own group are left out of the phase `own`.
        """
        most = MAX_HELD_OUT if own in (None, self.parent) else MAX_OTHERS
        sizes = np.bincount(source.arrays.atom_frame, minlength=source.n_frames)
        frames = whole_groups(source.arrays.frame_group, most, np.random.default_rng(SEED), sizes)
        order = source.arrays.frame_order
        atom_frame = source.arrays.atom_frame[order]
        order, atom_frame = order[np.isin(atom_frame, frames)], atom_frame[np.isin(atom_frame, frames)]
        rows, numbers = source.rows[order], source.numbers[order].astype(np.int64)
        dh = np.empty((len(order), len(self.names)))
        for column, name in enumerate(self.names):
            groups = source.row_groups[order] if name == own else np.full(len(order), -1)
            dh[:, column] = self._thinned[name].delta_entropy_without(rows, numbers, groups, threads=threads)
        groups = source.arrays.frame_group[frames]
        return [source.frame(int(i)) for i in frames], groups, numbers, dh, np.searchsorted(frames, atom_frame)

    def _scored(
        self,
        frames: list[Atoms],
        groups: NDArray[np.int64],
        numbers: NDArray[np.int64],
        dh: NDArray[np.float64],
        atom_frame: NDArray[np.int64],
    ) -> _Scored:
        ends = np.searchsorted(atom_frame, np.arange(len(frames) + 1))
        parts = [slice(a, b) for a, b in pairwise(ends)]
        found = [self._averaged(f, numbers[part], dh[part]) for f, part in zip(frames, parts, strict=True)]
        return _Scored(frames, groups, [ratios for ratios, _ in found], [outside for _, outside in found])

    def _averaged(
        self, atoms: Atoms, numbers: NDArray[np.int64], dh: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Averaged L (n_atoms, n_products), and which atoms are unlike all phases."""
        outside = np.ones(len(numbers), dtype=bool)
        for column, name in enumerate(self.names):
            levels = self._levels[name]
            outside &= ~(dh[:, column] <= np.array([levels.get(int(z), -np.inf) for z in numbers]))
        elements, species = np.unique(numbers, return_inverse=True)
        pairs = linked_pairs(atoms, links(elements, self.pair_distances), species.astype(np.int64))
        here, there = np.concatenate([pairs, pairs[:, ::-1]]).T
        parent = dh[:, self.names.index(self.parent)]
        ratios = np.empty((len(numbers), len(self.products)))
        for column, name in enumerate(self.products):
            own = _difference(parent, dh[:, self.names.index(name)])
            counts = (np.isfinite(own) & ~outside).astype(np.float64)
            values = np.where(counts > 0, own, 0.0)
            total = values + np.bincount(here, values[there], len(values))
            number = counts + np.bincount(here, counts[there], len(values))
            ratios[:, column] = np.where(np.isfinite(own) & (number > 0), total / np.maximum(number, 1), own)
        return ratios, outside

    def _labels(self, ratios: NDArray[np.float64], outside: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Phase of each atom from averaged L (n_atoms, n_products)."""
        places = np.array([self.names.index(name) for name in self.products])
        passed = ratios > np.array([self.thresholds[name] for name in self.products])
        best = places[np.argmax(np.where(passed, ratios - self._margins, -np.inf), axis=1)]
        return np.where(outside, -1, np.where(passed.any(axis=1), best, self.names.index(self.parent)))

    def _margin(self, column: int) -> float:
        """Half of what the averaged L of a product is above those of others, in the median of its own environments.

        Phases of different breadth have different densities at their own environments; without this the narrower of
        two similar products takes most atoms of the other.
        """
        held = self._held[self.products[column]]
        ratios = np.concatenate(held.ratios)[~np.concatenate(held.outside)]
        others = np.delete(ratios, column, axis=1)
        if not others.shape[1]:
            return 0.0
        above = ratios[:, column] - others.max(axis=1)
        above = above[np.isfinite(above)]
        return float(np.median(above)) / 2 if len(above) else 0.0

    def _gap(self, column: int, threshold: float) -> float:
        """How far above the threshold all but `rate` of a product's own environments lie, in nats; 0 if they do not."""
        held = self._held[self.products[column]]
        ratios = np.concatenate(held.ratios)[~np.concatenate(held.outside), column]
        ratios = ratios[np.isfinite(ratios)]
        if not len(ratios) or not math.isfinite(threshold):
            return 0.0
        return max(0.0, float(np.quantile(ratios, self.rate)) - threshold)

    def _thresholds_of(self, scored: _Scored) -> dict[str, float]:
        """The averaged L of each product that at most `rate` of the environments of the parent exceed."""
        chosen, _ = _split(scored.groups)
        found = {}
        for column, name in enumerate(self.products):
            ratios = [scored.ratios[i][~scored.outside[i], column] for i in chosen]
            # inf: an element that only one group of the parent has
            found[name] = _threshold([part[part < np.inf] for part in ratios], scored.groups[chosen], self.rate)
        return found

    def _null_clusters(self, scored: _Scored) -> dict[str, NullScores]:
        """The largest cluster of each product in each group of frames that set no threshold."""
        _, chosen = _split(scored.groups)
        groups, where = np.unique(scored.groups[chosen], return_inverse=True)
        scores, sizes = np.zeros((len(groups), len(self.products))), np.zeros(len(groups), np.int64)
        for i, group in zip(chosen, where, strict=True):
            atoms = scored.frames[i]
            found = self.clusters(atoms, self._labels(scored.ratios[i], scored.outside[i]))
            scores[group] = np.maximum(scores[group], [found[name] for name in self.products])
            sizes[group] = max(sizes[group], len(atoms))
        return {name: _null(scores[:, column], sizes) for column, name in enumerate(self.products)}


def _checked(references: Mapping[str, Reference]) -> tuple[str, ...]:
    """Names of the phases, after a look at what was given."""
    if not isinstance(references, Mapping) or len(references) < 2:
        raise ValueError(
            "phases: expected the references of at least two phases by name, such as {'liquid': a, 'fcc': b}, got "
            f"{references!r}"
        )
    first = next(iter(references))
    for name, reference in references.items():
        if not isinstance(name, str) or not name or name.split() != [name] or name == "none":
            raise ValueError(f"phases: expected names without spaces other than 'none', got {name!r}")
        if not isinstance(reference, Reference):
            raise ValueError(f"phases: expected a Reference for {name!r}, got {type(reference).__name__}")
        if not reference.n_environments:
            raise ValueError(f"phases: the reference of {name!r} is empty; build it from frames of that phase")
        require_equal_settings(references[first].settings, reference.settings, first, name)
        if len(np.unique(reference.arrays.frame_group)) < 2:
            raise ValueError(
                f"phases: the reference of {name!r} has one group of frames, so that none can be held out; add "
                "independent frames, or say with groups= which of them are independent"
            )
    return tuple(references)


def _dh_levels(numbers: NDArray[np.int64], dh: NDArray[np.float64]) -> dict[int, float]:
    """DH in nats of each element that a thousandth of the held-out environments of a phase exceed."""
    known = np.isfinite(dh)
    # an element that only one group has: what is like its rows cannot be told, so that nothing is outside
    levels = dict.fromkeys(np.unique(numbers).tolist(), math.inf)
    for z in np.unique(numbers[known]):
        levels[int(z)] = float(np.quantile(dh[known & (numbers == z)], 1 - OUTSIDE_SHARE, method="higher"))
    return levels


def _threshold(values: list[NDArray[np.float64]], groups: NDArray[np.int64], rate: float) -> float:
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


def _split(groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frames whose groups set thresholds, and those of the others; all of them where groups are few."""
    names = np.unique(groups)
    if len(names) < ENOUGH_GROUPS:
        everything = np.arange(len(groups))
        return everything, everything
    first = np.isin(groups, names[::THRESHOLD_GROUPS])
    return np.flatnonzero(first), np.flatnonzero(~first)


def _difference(parent: NDArray[np.float64], product: NDArray[np.float64]) -> NDArray[np.float64]:
    """L: NaN where neither phase knows the element."""
    with np.errstate(invalid="ignore"):
        return parent - product


def _null(scores: NDArray[np.float64], sizes: NDArray[np.int64]) -> NullScores:
    order = np.argsort(scores, kind="stable")
    return NullScores("phase_cluster", None, "above", "both", scores[order], sizes[order])
