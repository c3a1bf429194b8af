"""The numbers of frames that are in distribution but not in the reference: the null distribution of every alarm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from quests_md._progress import track
from quests_md.environments import largest_cluster
from quests_md.reference import Reference, near_largest

from .levels import GUESS, NullScores, Side
from .statistics import SAMPLE_ATOMS, SKETCH_ROWS, STATISTICS, TAIL_SHARE, frame_entropy, mean_and_quantile, sample

__all__ = ["ANY_ELEMENT", "HeldOut", "held_out_frames", "separate_frames"]

#: Seed of the sample of atoms and the sketch of the reference: the judge's.
SEED = 0

#: Key of what is for atoms of all elements together, where elements have their atomic number.
ANY_ELEMENT = 0


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Environments with dH as if their own group were not in the reference, and the frames they make up."""

    frames: list[Atoms]
    """Their frames (the centers of environments)."""
    groups: NDArray[np.int64]
    """(n_frames,) group of each frame; groups are exchangeable, frames of one group are not independent."""
    dh: list[NDArray[np.float64]]
    """For each frame dH of its atoms, nats; +inf for atoms without a counterpart in any other group."""
    sampled: list[NDArray[np.float64]]
    """For each frame dH of its sample of atoms with respect to the sketch of the reference."""
    entropies: NDArray[np.float64]
    """(n_frames,) self-entropy of each frame, nats."""
    sampled_entropies: NDArray[np.float64]
    """(n_frames,) self-entropy of the sample of each frame, nats."""
    has_low_tails: bool
    """Whether low values are as the full reference would give them: not where rows of it were left out."""
    by_element: bool
    """Whether atoms are compared with those of their element only."""

    def nulls(
        self, pair_distances: dict[tuple[int, int], tuple[float, float]]
    ) -> tuple[list[NullScores], dict[int, float]]:
        """The null distributions of all statistics, and the atom level in nats of each element that counts need.

        The atom levels come from every fourth group and the counts above them from the groups between, so that no
        group counts above a level of its own making.
        """
        finite = [np.isfinite(dh) for dh in self.dh]
        frames = [i for i, known in enumerate(finite) if known.any()]
        if not frames:
            return [], {}
        groups = self.groups[frames]
        sizes = np.array([len(self.frames[i]) for i in frames])
        sampled_sizes = np.minimum(sizes, SAMPLE_ATOMS)
        found: list[NullScores] = []

        def add(
            name: str,
            values: Sequence[float] | NDArray[Any],
            *,
            side: Side = "above",
            mode: Literal["full", "proven", "both"] = "both",
            element: str | None = None,
            of: NDArray[np.bool_] | None = None,
            n_atoms: NDArray[np.int64] = sizes,
        ) -> None:
            chosen = slice(None) if of is None else of
            scores, largest = _extremes(np.asarray(values)[chosen], groups[chosen], n_atoms[chosen], side)
            found.append(NullScores(name, element, side, mode, scores, largest))

        elements = [np.asarray(self.frames[i].numbers) if self.by_element else None for i in frames]
        for z in self._elements():
            here = [finite[i] if e is None else finite[i] & (e == z) for i, e in zip(frames, elements, strict=True)]
            add(
                "dh_max",
                [float(self.dh[i][h].max(initial=-np.inf)) for i, h in zip(frames, here, strict=True)],
                element=None if z == ANY_ELEMENT else chemical_symbols[z],
                of=np.array([h.any() for h in here]),
                n_atoms=np.array([h.sum() for h in here]),
            )
        self._add_averages(add, frames, finite, sampled_sizes)
        sets_level = np.isin(groups, np.unique(groups)[::4])
        tails = self._atom_levels([i for i, first in zip(frames, sets_level, strict=True) if first], finite)
        high = [
            finite[i] & (self.dh[i] > (tails[ANY_ELEMENT] if e is None else np.array([tails[int(z)] for z in e])))
            for i, e in zip(frames, elements, strict=True)
        ]
        add("n_tail", np.array([h.sum() for h in high]) / sizes, of=~sets_level)
        clusters = [largest_cluster(self.frames[i], h, pair_distances) for i, h in zip(frames, high, strict=True)]
        add("tail_cluster", clusters, of=~sets_level)
        return found, tails

    def _elements(self) -> list[int]:
        if not self.by_element:
            return [ANY_ELEMENT]
        return sorted({int(z) for frame in self.frames for z in np.unique(frame.numbers)})

    def _add_averages(
        self, add: Any, frames: list[int], finite: list[NDArray[np.bool_]], sampled_sizes: NDArray[np.int64]
    ) -> None:
        """Mean, quantile and frame entropy: for both modes at once where sample and sketch are the whole."""
        full = np.array([(*mean_and_quantile(self.dh[i][finite[i]]), self.entropies[i]) for i in frames])
        part = np.array(
            [(*_finite_mean_and_quantile(self.sampled[i]), self.sampled_entropies[i]) for i in frames], dtype=float
        )
        variants: list[tuple[str, NDArray[np.float64], dict[str, Any]]] = [("full", full, {})]
        variants.append(("proven", part, {"n_atoms": sampled_sizes}))
        if np.array_equal(full, part):
            variants = [("both", full, {})]
        for mode, values, size in variants:
            for column, name in enumerate(("dh_mean", "dh_q99", "frame_entropy")):
                known = np.isfinite(values[:, column])
                add(name, values[:, column], mode=mode, of=known, **size)
                if STATISTICS[name].two_sided and (name == "frame_entropy" or self.has_low_tails):
                    add(name, values[:, column], side="below", mode=mode, of=known, **size)

    def _atom_levels(self, frames: list[int], finite: list[NDArray[np.bool_]]) -> dict[int, float]:
        """DH that a hundredth of the environments of each element exceed; of all frames where these have none of it."""
        levels = {}
        for z in self._elements():
            for chosen in (frames, range(len(self.frames))):
                values = np.concatenate(
                    [
                        self.dh[i][finite[i] & (self.frames[i].numbers == z) if z != ANY_ELEMENT else finite[i]]
                        for i in chosen
                    ]
                    or [np.empty(0)]
                )
                if len(values):
                    levels[z] = float(np.quantile(values, 1 - TAIL_SHARE, method="higher"))
                    break
            else:
                levels[z] = GUESS
        return levels


def held_out_frames(
    reference: Reference,
    frame_groups: NDArray[np.int64],
    rng: int | np.random.Generator,
    *,
    is_default: bool,
    threads: int | None = None,
) -> HeldOut:
    """Frames of the reference, each as if its group were not in it; whole groups up to 30 000 environments."""
    rows, values = reference.held_out_scores(None if is_default else frame_groups, rng, threads=threads)
    dh = np.full(reference.n_environments, np.nan)
    dh[rows] = values
    return _collect(reference, reference, dh, frame_groups, is_separate=False, threads=threads)


def separate_frames(reference: Reference, apart: Reference, *, threads: int | None = None) -> HeldOut:
    """Frames that are not in the reference, judged against all of it."""
    dh = reference.evaluate(apart.rows, apart.numbers, threads=threads)
    top = near_largest(dh, apart.array("atom_frame") * 256 + apart.numbers)
    dh[top] = reference.evaluate(apart.rows[top], apart.numbers[top], float64=True, threads=threads)
    return _collect(reference, apart, dh, apart.array("frame_group"), is_separate=True, threads=threads)


def _collect(
    reference: Reference,
    source: Reference,
    dh: NDArray[np.float64],
    frame_groups: NDArray[np.int64],
    *,
    is_separate: bool,
    threads: int | None,
) -> HeldOut:
    """Numbers of the frames of `source` whose dH is not NaN."""
    order = np.lexsort((source.array("atom_index"), source.array("atom_frame")))
    order = order[~np.isnan(dh[order])]
    frames, starts = np.unique(source.array("atom_frame")[order], return_index=True)
    atoms_of = np.split(order, starts[1:]) if len(frames) else []
    chosen = [atoms[sample(source.array("atom_index")[atoms].astype(np.uint64), SEED)] for atoms in atoms_of]
    sketch = reference.sketch(SKETCH_ROWS, SEED)
    if sketch is reference:
        sampled = [dh[atoms] for atoms in chosen]
    else:
        rows = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
        own = np.full(len(rows), -1) if is_separate else frame_groups[source.array("atom_frame")[rows]]
        groups = None if is_separate else frame_groups
        values = sketch.delta_entropy_without(source.rows[rows], source.numbers[rows], own, groups, threads=threads)
        values -= reference.log_shares(sketch, source.numbers[rows])
        sampled = np.split(values, np.cumsum([len(atoms) for atoms in chosen])[:-1]) if chosen else []
    entropies, sampled_entropies = np.empty(len(frames)), np.empty(len(frames))
    for i, (atoms, part) in enumerate(
        track(zip(atoms_of, chosen, strict=True), "frames in distribution", len(atoms_of))
    ):
        entropies[i] = frame_entropy(source.rows[atoms], reference.bandwidth, threads)
        whole = len(part) == len(atoms)
        sampled_entropies[i] = entropies[i] if whole else frame_entropy(source.rows[part], reference.bandwidth, threads)
    return HeldOut(
        frames=[source.frame(int(i)) for i in frames],
        groups=frame_groups[frames],
        dh=[dh[atoms] for atoms in atoms_of],
        sampled=sampled,
        entropies=entropies,
        sampled_entropies=sampled_entropies,
        has_low_tails=is_separate,
        by_element=reference.match == "element",
    )


def _finite_mean_and_quantile(dh: NDArray[np.float64]) -> tuple[float | None, float | None]:
    return mean_and_quantile(dh[np.isfinite(dh)])


def _extremes(
    values: NDArray[np.float64], groups: NDArray[np.int64], sizes: NDArray[np.int64], side: Side
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The most extreme value of each group, ascending, and the size of the group's largest frame."""
    _, where = np.unique(groups, return_inverse=True)
    n = int(where.max(initial=-1)) + 1
    largest = np.zeros(n, np.int64)
    np.maximum.at(largest, where, sizes)
    if side == "above":
        scores = np.full(n, -np.inf)
        np.maximum.at(scores, where, values)
    else:
        scores = np.full(n, np.inf)
        np.minimum.at(scores, where, values)
    order = np.argsort(scores, kind="stable")
    return scores[order], largest[order]
