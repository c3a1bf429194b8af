"""The two modes of evaluation: dH of every environment, or only of those where it decides something."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md.calibration import SEED, Calibration, FrameNumbers, Level, LocalScorer, Mode, frame_entropy, sample
from quests_md.environments import PairDistances
from quests_md.records import CHECK_FIELDS
from quests_md.reference import Reference

from .shares import Crew

__all__ = [
    "DEAR",
    "FIELDS",
    "FULL_LIMIT",
    "Environments",
    "evaluate_full",
    "evaluate_proven",
    "evaluate_unknown",
    "excess_of_atoms",
    "mode_of",
    "tail_of",
    "with_local_scores",
]


#: values="auto" evaluates every atom up to this many pairs of an atom and a reference row (or another atom).
FULL_LIMIT = 5e7

#: The same where dH of plain rows is told and decides nothing, and most rows of a reference for that: with more it
#: would be the dearest part of a check.
TOLD_LIMIT, TOLD_ROWS = 2e6, 8000

#: Statistics with a field of their own that are not told where only local scores are in use.
DEAR = ("tail_cluster", "frame_entropy")

#: What has a field of its own.
FIELDS = frozenset(CHECK_FIELDS)


@dataclass(frozen=True, slots=True, eq=False)
class Environments:
    """The n environments of a frame with the levels that apply to them."""

    atoms: Atoms
    """The n atoms that are their centers."""
    identities: NDArray[np.uint64]
    """(n,) identities of these atoms, which choose the sample."""
    rows: NDArray[np.float64]
    """(n, width) descriptor rows, 1/Å."""
    known: NDArray[np.bool_]
    """(n,) whether the reference has the element."""
    levels: NDArray[np.float64]
    """(n,) level of dH, nats."""
    atom_levels: NDArray[np.float64]
    """(n,) dH in nats above which `n_tail` counts; NaN: it is not known."""
    pair_distances: PairDistances
    """Of the reference, see `FrameNumbers`."""
    averaged: NDArray[np.float64] | None = None
    """(n, width) rows of which local scores are made, averaged or not, 1/Å; None: nobody asks for them."""
    crew: Crew | None = None
    """The processes that have the rows; None: they are here."""

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(n,) atomic numbers."""
        return np.asarray(self.atoms.numbers)

    def excess(self, dh: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) dH minus its level; inf for an element without a reference, even where the level itself is inf."""
        excess = np.full(len(dh), np.inf)
        excess[self.known] = dh[self.known] - self.levels[self.known]
        return excess


def mode_of(n_atoms: int, n_rows: int, *, is_plain: bool) -> Mode:
    """The mode of values="auto" for a frame; `is_plain`: whether dH of plain rows decides something."""
    pairs = n_atoms * max(n_rows, n_atoms)
    if is_plain:
        return "full" if pairs <= FULL_LIMIT else "proven"
    return "full" if pairs <= TOLD_LIMIT and n_rows <= TOLD_ROWS else "proven"


def evaluate_full(
    reference: Reference, these: Environments, threads: int | None, *, is_judged: bool = True
) -> FrameNumbers:
    """Evaluate every environment.

    `is_judged`: whether dH decides anything; if not, it need not compare with levels as float64 does, and the
    self-entropy of the frame, which costs most, is left out.
    """
    known = these.known
    levels = (these.levels, these.atom_levels) if is_judged else ()
    if these.crew is not None:
        dh = these.crew.evaluate(levels)
    else:
        dh = reference.evaluate(these.rows, these.numbers, levels=levels, threads=threads)
    return FrameNumbers(
        atoms=these.atoms,
        dh=dh,
        ranked=np.ones(len(dh), dtype=bool),
        averaged=np.where(known, dh, np.nan),
        entropy=frame_entropy(these.rows, reference.bandwidth, threads) if is_judged else math.nan,
        pair_distances=these.pair_distances,
        excess=these.excess(dh),
        tail=None if np.isnan(these.atom_levels).any() else ~(known & (dh <= these.atom_levels)),
    )


def evaluate_proven(
    reference: Reference,
    sketch: Reference,
    these: Environments,
    threads: int | None,
    *,
    margin: float,
    counts_tail: bool,
) -> FrameNumbers:
    """Evaluate the environments that decide something; averages come from a fixed sample against the sketch.

    DH of an environment is given down to `margin` nats below its level. `counts_tail`: whether a statistic in use needs
    the environments above the atom level, which is lower than the level and dearer to prove.
    """
    numbers, known = these.numbers, these.known
    near = these.levels - margin
    lowest = np.minimum(near, these.atom_levels) if counts_tail else near
    of = these.levels, near, these.atom_levels
    if these.crew is not None:
        dh = these.crew.evaluate_above(lowest, of)
    else:
        dh = reference.evaluate_above(these.rows, numbers, lowest, levels=of, threads=threads)
    open_ = ~(known & np.isnan(dh))
    above = open_ & ~(known & (dh <= these.levels))
    tail = open_ & ~(known & (dh <= these.atom_levels))
    # whether dH is known between the atom level and `near` depends on the statistics in use: it is given in no case
    dh[~(open_ & ~(known & (dh <= near)))] = np.nan
    chosen = sample(these.identities, SEED)
    sampled = sketch.delta_entropy(these.rows[chosen], numbers=numbers[chosen], threads=threads)
    sampled -= reference.log_shares(sketch, numbers[chosen])
    averaged, excess = np.full(len(dh), np.nan), these.excess(dh)
    averaged[chosen] = np.where(known[chosen], sampled, np.nan)
    return FrameNumbers(
        atoms=these.atoms,
        dh=dh,
        ranked=above,
        averaged=averaged,
        entropy=frame_entropy(these.rows[chosen], reference.bandwidth, threads),
        pair_distances=these.pair_distances,
        excess=np.where(np.isnan(excess), -margin, excess),
        tail=tail if counts_tail else None,
    )


def evaluate_unknown(these: Environments, margin: float) -> FrameNumbers:
    """Only say which elements are unknown: dH decides nothing, and would cost more than all the rest."""
    nothing = np.full(len(these.known), np.nan)
    return FrameNumbers(
        atoms=these.atoms,
        dh=np.where(these.known, np.nan, np.inf),
        ranked=~these.known,
        averaged=nothing,
        entropy=math.nan,
        pair_distances=these.pair_distances,
        excess=np.where(these.known, -margin, np.inf),
    )


def with_local_scores(
    found: FrameNumbers, these: Environments, scorer: LocalScorer, tail_level: float, threads: int | None
) -> FrameNumbers:
    """The numbers of a frame with the local scores of its environments; unknown elements have none, and are beyond."""
    if these.crew is not None:
        local = these.crew.scores()
    else:
        assert these.averaged is not None
        local = scorer.scores(these.averaged, these.numbers, threads=threads)
    local[~these.known] = np.nan
    return replace(found, local=local, local_tail=~(local <= tail_level))


def excess_of_atoms(found: FrameNumbers, calibration: Calibration, levels: Sequence[Level]) -> NDArray[np.float64]:
    """(n,) how far each environment is beyond its level; inf for unknown elements.

    In nats of dH, or in deviations where only local scores are in use. `levels`: those of the frame.
    """
    landmarks = calibration.landmarks
    if found.local is None or landmarks is None or "dh_max" in calibration.statistics:
        return found.excess
    level = next((level.value for level in levels if level.statistic == "local_max"), landmarks.tail_level)
    return np.where(np.isnan(found.local), np.inf, found.local - level)


def tail_of(found: FrameNumbers, calibration: Calibration) -> NDArray[np.bool_] | None:
    """(n,) environments whose clusters events follow; None: no statistic in use is of these."""
    if calibration.counts_tail:
        return found.tail
    return found.local_tail
