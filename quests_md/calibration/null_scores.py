"""The numbers of frames that are in distribution but not in the reference: the null distribution of every statistic."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from quests_md._progress import track
from quests_md.reference import Reference, near_largest

from .levels import ANY_ELEMENT, GUESS, Mode, NullScores, Side
from .statistics import SAMPLE_ATOMS, SEED, SKETCH_ROWS, STATISTICS, FrameNumbers, Statistic, frame_entropy, sample

__all__ = ["TAIL_SHARE", "HeldOut", "held_out_frames", "separate_frames"]

#: Share of the environments in distribution that lie above the atom level, by which `n_tail` counts.
TAIL_SHARE = 0.01

#: One in so many groups sets the atom level; the environments above it are counted in the groups between.
ATOM_LEVEL_GROUPS = 4


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Frames with dH as if their own group were not in the reference, as either mode of evaluation sees them."""

    full: list[FrameNumbers]
    """Numbers of each frame."""
    proven: list[FrameNumbers]
    """The same with averages and entropy of the frame's sample, dH of which is with respect to the sketch."""
    groups: NDArray[np.int64]
    """(n_frames,) group of each frame; groups are exchangeable, frames of one group are not independent."""
    has_low_tails: bool
    """Whether low values are as the full reference would give them: not where rows of it were left out."""
    by_element: bool
    """Whether atoms are compared with those of their element only."""

    def nulls(self) -> tuple[list[NullScores], dict[int, float]]:
        """The null distributions of all statistics, and the atom level in nats of each element.

        The atom levels come from every fourth group and the numbers above them from the groups between, so that no
        group counts above a level of its own making.
        """
        kept = np.flatnonzero([frame.ranked.any() for frame in self.full])
        if not len(kept):
            return [], {}
        groups = self.groups[kept]
        sets_level = np.isin(groups, np.unique(groups)[::ATOM_LEVEL_GROUPS])
        seen = {int(z) for frame in self.full for z in np.unique(frame.atoms.numbers)}
        elements = sorted(seen) if self.by_element else [ANY_ELEMENT]
        atom_levels = _atom_levels([self.full[i] for i in kept[sets_level]], self.full, elements)
        full = [replace(self.full[i], tail=_above(self.full[i], atom_levels)) for i in kept]
        proven = [self.proven[i] for i in kept]
        has_modes = not _have_equal_averages(full, proven)
        found: list[NullScores] = []
        for statistic in STATISTICS.values():
            counts = np.flatnonzero(~sets_level) if statistic.over == "tail" else np.arange(len(kept))
            sides = [s for s in statistic.sides if s == "above" or self.has_low_tails or not statistic.needs_reference]
            modes: tuple[Mode, ...] = ("full", "proven") if statistic.over == "sample" and has_modes else ("full",)
            for mode in modes:
                for z in elements if statistic.by_element else [ANY_ELEMENT]:
                    frames = [(full if mode == "full" else proven)[i] for i in counts]
                    values, sizes = _values_and_sizes(statistic, frames, mode, z)
                    known = np.isfinite(values)
                    for side in sides:
                        scores, largest = _extremes(values[known], groups[counts[known]], sizes[known], side)
                        element = None if z == ANY_ELEMENT else chemical_symbols[z]
                        of = mode if len(modes) > 1 else "both"
                        found.append(NullScores(statistic.name, element, side, of, scores, largest))
        # the order in files, on which checksums rest
        found.sort(key=lambda n: (STATISTICS[n.statistic].over == "tail", n.values == "proven", n.statistic))
        return found, atom_levels


def held_out_frames(
    reference: Reference, frame_groups: NDArray[np.int64] | None, rng: int | np.random.Generator, threads: int | None
) -> HeldOut:
    """Frames of the reference, each as if its group were not in it; whole groups up to 30 000 environments.

    `frame_groups`: (n_frames,) group of each frame; None: the groups of the reference.
    """
    rows, values = reference.held_out_scores(frame_groups, rng, threads=threads)
    dh = np.full(reference.n_environments, np.nan)
    dh[rows] = values
    groups = reference.arrays.frame_group if frame_groups is None else frame_groups
    return _collect(reference, reference, dh, groups, threads)


def separate_frames(reference: Reference, apart: Reference, threads: int | None) -> HeldOut:
    """Frames that are not in the reference, judged against all of it."""
    dh = reference.evaluate(apart.rows, apart.numbers, threads=threads)
    top = near_largest(dh, apart.arrays.frame_elements)
    dh[top] = reference.evaluate(apart.rows[top], apart.numbers[top], float64=True, threads=threads)
    return _collect(reference, apart, dh, apart.arrays.frame_group, threads)


def _collect(
    reference: Reference, source: Reference, dh: NDArray[np.float64], groups: NDArray[np.int64], threads: int | None
) -> HeldOut:
    """Numbers of the frames of `source` whose dH is not NaN.

    DH of the sample of a frame is with respect to the sketch, for frames of the reference without their own group.
    """
    is_separate = source is not reference
    order = source.arrays.frame_order
    order = order[~np.isnan(dh[order])]
    frames, starts = np.unique(source.arrays.atom_frame[order], return_index=True)
    atoms_of = np.split(order, starts[1:]) if len(frames) else []
    chosen = [sample(source.arrays.atom_index[atoms].astype(np.uint64), SEED) for atoms in atoms_of]
    samples = [atoms[places] for atoms, places in zip(atoms_of, chosen, strict=True)]
    sampled_dh, sketch = [dh[rows] for rows in samples], reference.sketch(SKETCH_ROWS, SEED)
    if sketch is not reference and samples:
        rows = np.concatenate(samples)
        numbers, left_out = source.numbers[rows], None if is_separate else groups
        own = np.full(len(rows), -1) if is_separate else groups[source.arrays.atom_frame[rows]]
        values = sketch.delta_entropy_without(source.rows[rows], numbers, own, left_out, threads=threads)
        values -= reference.log_shares(sketch, numbers)
        sampled_dh = np.split(values, np.cumsum([len(part) for part in samples])[:-1])
    pair_distances = reference.pair_distances()
    full, proven = [], []
    both = list(zip(frames, atoms_of, chosen, sampled_dh, strict=True))
    for index, atoms, places, values in track(both, "frames in distribution", len(both)):
        finite = np.isfinite(dh[atoms])
        frame = FrameNumbers(
            atoms=source.frame(int(index)),
            dh=dh[atoms],
            ranked=finite,
            averaged=np.where(finite, dh[atoms], np.nan),
            entropy=frame_entropy(source.rows[atoms], reference.bandwidth, threads),
            pair_distances=pair_distances,
            excess=np.full(len(atoms), np.nan),
        )
        full.append(frame)
        averaged, entropy = np.full(len(atoms), np.nan), frame.entropy
        averaged[places] = np.where(np.isfinite(values), values, np.nan)
        if len(places) < len(atoms):
            entropy = frame_entropy(source.rows[atoms[places]], reference.bandwidth, threads)
        proven.append(replace(frame, averaged=averaged, entropy=entropy))
    return HeldOut(full, proven, groups[frames], is_separate, reference.match == "element")


def _atom_levels(
    frames: Sequence[FrameNumbers], everything: Sequence[FrameNumbers], elements: Sequence[int]
) -> dict[int, float]:
    """DH that a hundredth of the environments of each element exceed; of all frames where these have none of it."""
    levels = {}
    for z in elements:
        levels[z] = GUESS
        for chosen in (frames, everything):
            parts = [f.dh[f.ranked & (f.atoms.numbers == z)] if z != ANY_ELEMENT else f.dh[f.ranked] for f in chosen]
            values = np.concatenate(parts or [np.empty(0)])
            if len(values):
                levels[z] = float(np.quantile(values, 1 - TAIL_SHARE, method="higher"))
                break
    return levels


def _above(frame: FrameNumbers, atom_levels: Mapping[int, float]) -> NDArray[np.bool_]:
    """Environments of finite dH above the atom level."""
    levels = [atom_levels.get(int(z), atom_levels.get(ANY_ELEMENT, GUESS)) for z in frame.atoms.numbers]
    return frame.ranked & (frame.dh > np.array(levels))


def _have_equal_averages(full: Sequence[FrameNumbers], proven: Sequence[FrameNumbers]) -> bool:
    """Whether sample and sketch are the whole, so that one null distribution serves both modes."""
    of_sample = [statistic for statistic in STATISTICS.values() if statistic.over == "sample"]
    return all(statistic.of(a) == statistic.of(b) for statistic in of_sample for a, b in zip(full, proven, strict=True))


def _values_and_sizes(
    statistic: Statistic, frames: Iterable[FrameNumbers], mode: Mode, element: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The statistic of each frame (NaN: it has none), and the number of environments that it was made of."""
    values, sizes = [], []
    for whole in frames:
        frame = whole if element == ANY_ELEMENT else whole.of_element(element)
        value, n = statistic.of(frame), len(frame.dh)
        values.append(np.nan if value is None else value / n if statistic.is_share else value)
        n = int(frame.ranked.sum()) if statistic.by_element else n
        sizes.append(n if mode == "full" else min(n, SAMPLE_ATOMS))
    return np.array(values, dtype=np.float64), np.array(sizes, dtype=np.int64)


def _extremes(
    values: NDArray[np.float64], groups: NDArray[np.int64], sizes: NDArray[np.int64], side: Side
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The most extreme value of each group, ascending, and the size of the group's largest frame."""
    _, where = np.unique(groups, return_inverse=True)
    n = int(where.max(initial=-1)) + 1
    largest, scores = np.zeros(n, np.int64), np.full(n, -np.inf if side == "above" else np.inf)
    np.maximum.at(largest, where, sizes)
    (np.maximum if side == "above" else np.minimum).at(scores, where, values)
    order = np.argsort(scores, kind="stable")
    return scores[order], largest[order]
