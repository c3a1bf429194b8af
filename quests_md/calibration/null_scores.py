"""The numbers of frames that are in distribution but not in the reference: the null distribution of every statistic."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from quests_md._progress import track
from quests_md.reference import Reference, near_largest, whole_groups

from .landmarks import Landmarks, LocalScorer, learn_landmarks, rows_to_score
from .levels import ANY_ELEMENT, FEWEST_OF_ELEMENT, GUESS, Mode, NullScores, Side
from .statistics import (
    SAMPLE_ATOMS,
    SEED,
    SKETCH_ROWS,
    STATISTICS,
    FrameNumbers,
    Scale,
    Statistic,
    frame_entropy,
    sample,
)

__all__ = [
    "TAIL_SHARE",
    "HeldOut",
    "Nulls",
    "held_out_frames",
    "held_out_neighbourhoods",
    "n_held_out",
    "separate_frames",
    "separate_neighbourhoods",
]

#: Share of the environments in distribution that lie above the atom level, by which `n_tail` counts.
TAIL_SHARE = 0.01

#: Most environments whose local scores are held out.
MOST_NEIGHBOURHOODS = 100_000

#: One in so many groups sets the atom level; the environments above it are counted in the groups between.
ATOM_LEVEL_GROUPS = 4


class Nulls(NamedTuple):
    """What is known of numbers of frames in distribution."""

    nulls: list[NullScores]
    """The null distributions of all statistics of one scale."""
    tail_levels: dict[int, float]
    """Level above which environments of each element count: the atom level, nats, or that of local scores."""


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
    """Whether atoms are compared with those of their element only; local scores have one level for all."""
    scale: Scale = "plain"
    """Rows that were judged: those of single environments, or averaged ones, which have local scores."""

    def nulls(self, without: NDArray[np.int64] | None = None, elements_known: NDArray[Any] | None = None) -> Nulls:
        """The null distributions of the statistics of this scale, and the levels above which environments are counted.

        The latter come from every fourth group and the numbers above them from the groups between, so that no group
        counts above a level of its own making. `without`: groups that give no scores, unless an element has no others.
        `elements_known`: atomic numbers that get levels too, though no frame may have them.
        """
        kept = np.flatnonzero([frame.ranked.any() for frame in self.full])
        if not len(kept):
            return Nulls([], {})
        groups = self.groups[kept]
        counted = np.ones(len(groups), bool) if without is None else ~np.isin(groups, without)
        sets_level = np.isin(groups, np.unique(groups[counted])[::ATOM_LEVEL_GROUPS])
        seen = {int(z) for frame in self.full for z in np.unique(frame.atoms.numbers)}
        seen.update([] if elements_known is None else elements_known.tolist())
        elements = sorted(seen) if self.by_element and self.scale == "plain" else [ANY_ELEMENT]
        tail_levels = _tail_levels([self.full[i] for i in kept[sets_level]], self.full, elements)
        full = [_with_tail(self.full[i], tail_levels) for i in kept]
        proven = [self.proven[i] for i in kept]
        has_modes = self.scale == "plain" and not _have_equal_averages(full, proven)
        found: list[NullScores] = []
        for statistic in (s for s in STATISTICS.values() if s.scale == self.scale):
            counts = np.flatnonzero(counted & ~sets_level) if statistic.over == "tail" else np.arange(len(kept))
            sides = [s for s in statistic.sides if s == "above" or self.has_low_tails or not statistic.needs_reference]
            modes: tuple[Mode, ...] = ("full", "proven") if statistic.over == "sample" and has_modes else ("full",)
            for mode in modes:
                for z in elements if statistic.by_element else [ANY_ELEMENT]:
                    frames = [(full if mode == "full" else proven)[i] for i in counts]
                    values, sizes = _values_and_sizes(statistic, frames, mode, z)
                    known = np.isfinite(values)
                    if len(np.unique(groups[counts[known & counted[counts]]])) >= FEWEST_OF_ELEMENT:
                        known &= counted[counts]
                    for side in sides:
                        scores = _extremes(values[known], groups[counts[known]], sizes[known], side)
                        element = None if z == ANY_ELEMENT else chemical_symbols[z]
                        of = mode if len(modes) > 1 else "both"
                        found.append(NullScores(statistic.name, element, side, of, *scores))
        # the order in files, on which checksums rest
        found.sort(key=lambda n: (STATISTICS[n.statistic].over == "tail", n.values == "proven", n.statistic))
        return Nulls(found, tail_levels)


def n_held_out(nulls: Sequence[NullScores], few: NDArray[np.int64]) -> int:
    """Groups that have a score, and those of kinds with few groups, (n,), that were held out but set no level."""
    of_frames = [null for null in nulls if STATISTICS[null.statistic].over != "tail" and null.groups is not None]
    return max((len(np.union1d(null.groups, few)) for null in of_frames), default=0)  # type: ignore[arg-type]  # see above


def held_out_frames(
    reference: Reference,
    frame_groups: NDArray[np.int64] | None,
    rng: int | np.random.Generator,
    threads: int | None,
    scored: NDArray[np.bool_] | None = None,
) -> HeldOut:
    """Frames of the reference, each as if its group were not in it; whole groups up to 30 000 environments.

    `frame_groups`: (n_frames,) group of each frame; None: the groups of the reference. `scored`: (n_frames,) which
    frames are meant; None: all.
    """
    rows, values = reference.held_out_scores(frame_groups, rng, frames=scored, threads=threads)
    dh = np.full(reference.n_environments, np.nan)
    dh[rows] = values
    groups = reference.arrays.frame_group if frame_groups is None else frame_groups
    return _collect(reference, reference, dh, groups, threads)


def held_out_neighbourhoods(
    reference: Reference,
    frame_groups: NDArray[np.int64] | None,
    rng: int | np.random.Generator,
    threads: int | None,
    scored: NDArray[np.bool_] | None = None,
) -> tuple[HeldOut, Landmarks, NDArray[np.int64]]:
    """Local scores of frames of the reference, each as if its group were not in it; landmarks, groups of rare kinds.

    Whole groups up to 100 000 environments: landmarks make scores cheap. The reference has averaged rows. Parameters
    are those of `held_out_frames`.
    """
    groups, among, setting = reference.arrays.groups_of_rows(frame_groups), np.arange(reference.n_environments), None
    if scored is not None:
        among = np.flatnonzero(scored[reference.arrays.atom_frame])
        setting = np.unique(groups[among])
    rows = among[whole_groups(groups[among], MOST_NEIGHBOURHOODS, np.random.default_rng(rng))]
    learnt = learn_landmarks(reference, frame_groups, rows, threads, setting=setting)
    landmarks = learnt.landmarks
    if setting is not None:
        landmarks = replace(landmarks, n_alone=len(np.intersect1d(learnt.small, setting)))
    scores = np.full(reference.n_environments, np.nan)
    scores[rows] = learnt.scores
    of_frames = reference.arrays.frame_group if frame_groups is None else frame_groups
    return _collect_local(reference, reference, scores, of_frames), landmarks, learnt.apart


def separate_neighbourhoods(
    reference: Reference, apart: Reference, left_out: NDArray[np.bool_], threads: int | None
) -> tuple[HeldOut, Landmarks]:
    """Local scores of frames that are not in the reference, judged by all of its landmarks; but for frames left out."""
    landmarks = learn_landmarks(reference, None, np.empty(0, np.int64), threads).landmarks
    rows = rows_to_score(apart, np.arange(apart.n_environments), averaged=landmarks.averaged)
    scores = LocalScorer(reference, landmarks).scores(rows, apart.numbers, threads=threads)
    scores[~np.isfinite(scores) | left_out[apart.arrays.atom_frame]] = np.nan
    return _collect_local(reference, apart, scores, apart.arrays.frame_group), replace(landmarks, n_alone=0)


def separate_frames(
    reference: Reference, apart: Reference, threads: int | None, left_out: NDArray[np.bool_] | None = None
) -> HeldOut:
    """Frames that are not in the reference, judged against all of it; but for frames `left_out`, (n_frames,)."""
    rows = apart.rows.astype(np.float64, copy=False)
    dh = reference.evaluate(rows, apart.numbers, threads=threads)
    top = near_largest(dh, apart.arrays.frame_elements)
    dh[top] = reference.evaluate(rows[top], apart.numbers[top], float64=True, threads=threads)
    if left_out is not None:
        dh[left_out[apart.arrays.atom_frame]] = np.nan
    return _collect(reference, apart, dh, apart.arrays.frame_group, threads)


def _collect_local(
    reference: Reference, source: Reference, scores: NDArray[np.float64], groups: NDArray[np.int64]
) -> HeldOut:
    """Numbers of the frames of `source` some of whose rows have a local score that is not NaN."""
    frames, pair_distances = [], reference.pair_distances()
    by_frame = zip(*_rows_by_frame(source, source.arrays.frame_order), strict=True)
    chosen = [(int(index), atoms) for index, atoms in by_frame if not np.isnan(scores[atoms]).all()]
    for index, atoms in chosen:
        nothing = np.full(len(atoms), np.nan)
        known = np.isfinite(scores[atoms])
        frame = FrameNumbers(source.frame(index), nothing, known, nothing, np.nan, pair_distances, nothing)
        frames.append(replace(frame, local=scores[atoms]))
    is_by_element = reference.match == "element"
    return HeldOut(frames, frames, groups[[index for index, _ in chosen]], True, is_by_element, "averaged")


def _collect(
    reference: Reference,
    source: Reference,
    dh: NDArray[np.float64],
    groups: NDArray[np.int64],
    threads: int | None,
) -> HeldOut:
    """Numbers of the frames of `source` whose dH is not NaN.

    DH of the sample of a frame is with respect to the sketch, for frames of the reference without their own group.
    """
    is_separate = source is not reference
    order = source.arrays.frame_order
    frames, atoms_of = _rows_by_frame(source, order[~np.isnan(dh[order])])
    chosen = [sample(source.arrays.atom_index[atoms].astype(np.uint64), SEED) for atoms in atoms_of]
    samples = [atoms[places] for atoms, places in zip(atoms_of, chosen, strict=True)]
    sampled_dh, sketch = [dh[rows] for rows in samples], reference.sketch(SKETCH_ROWS, SEED)
    if sketch is not reference and samples:
        rows = np.concatenate(samples)
        numbers, left_out = source.numbers[rows], None if is_separate else groups
        own = np.full(len(rows), -1) if is_separate else groups[source.arrays.atom_frame[rows]]
        values = sketch.delta_entropy_without(source.rows_at(rows), numbers, own, left_out, threads=threads)
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
            entropy=frame_entropy(source.rows_at(atoms), reference.bandwidth, threads),
            pair_distances=pair_distances,
            excess=np.full(len(atoms), np.nan),
        )
        full.append(frame)
        averaged, entropy = np.full(len(atoms), np.nan), frame.entropy
        averaged[places] = np.where(np.isfinite(values), values, np.nan)
        if len(places) < len(atoms):
            entropy = frame_entropy(source.rows_at(atoms[places]), reference.bandwidth, threads)
        proven.append(replace(frame, averaged=averaged, entropy=entropy))
    return HeldOut(full, proven, groups[frames], is_separate, reference.match == "element")


def _rows_by_frame(source: Reference, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """The frames that some rows, in the order of frames, belong to, and the rows of each."""
    frames, starts = np.unique(source.arrays.atom_frame[rows], return_index=True)
    return frames, np.split(rows, starts[1:]) if len(frames) else []


def _tail_levels(
    frames: Sequence[FrameNumbers], everything: Sequence[FrameNumbers], elements: Sequence[int]
) -> dict[int, float]:
    """What a hundredth of the environments of each element exceed; of all frames where these have none of it.

    Of an element with no environment, what is largest among the others, and not less than the guess.
    """
    levels: dict[int, float | None] = {}
    for z in elements:
        levels[z] = None
        for chosen in (frames, everything):
            parts = [_scored(f)[f.ranked & ((f.atoms.numbers == z) | (z == ANY_ELEMENT))] for f in chosen]
            values = np.concatenate(parts or [np.empty(0)])
            if len(values):
                levels[z] = float(np.quantile(values, 1 - TAIL_SHARE, method="higher"))
                break
    of_others = max([GUESS, *(level for level in levels.values() if level is not None)])
    return {z: of_others if level is None else level for z, level in levels.items()}


def _scored(frame: FrameNumbers) -> NDArray[np.float64]:
    """(n,) dH of a frame, or its local scores if it has them."""
    return frame.dh if frame.local is None else frame.local


def _with_tail(frame: FrameNumbers, levels: Mapping[int, float]) -> FrameNumbers:
    """The frame with its environments above the level of their element."""
    of_atoms = np.array([levels.get(int(z), levels.get(ANY_ELEMENT, GUESS)) for z in frame.atoms.numbers])
    above = frame.ranked & (_scored(frame) > of_atoms)
    return replace(frame, tail=above) if frame.local is None else replace(frame, local_tail=above)


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
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The most extreme value of each group, ascending, the size of the group's largest frame, and the group."""
    names, where = np.unique(groups, return_inverse=True)
    n = int(where.max(initial=-1)) + 1
    largest, scores = np.zeros(n, np.int64), np.full(n, -np.inf if side == "above" else np.inf)
    np.maximum.at(largest, where, sizes)
    (np.maximum if side == "above" else np.minimum).at(scores, where, values)
    order = np.argsort(scores, kind="stable")
    return scores[order], largest[order], names[order]
