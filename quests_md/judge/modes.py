"""The two modes of evaluation: dH of every environment, or only of those where it decides something."""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md.calibration import SEED, FrameNumbers, frame_entropy, sample
from quests_md.environments import PairDistances
from quests_md.reference import Reference

__all__ = ["Environments", "evaluate_full", "evaluate_proven"]


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
    """(n,) dH in nats above which `n_tail` counts."""
    pair_distances: PairDistances
    """Of the reference, see `FrameNumbers`."""

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(n,) atomic numbers."""
        return np.asarray(self.atoms.numbers)

    def excess(self, dh: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) dH minus its level; inf for an element without a reference, even where the level itself is inf."""
        excess = np.full(len(dh), np.inf)
        excess[self.known] = dh[self.known] - self.levels[self.known]
        return excess


def evaluate_full(reference: Reference, these: Environments, threads: int | None) -> FrameNumbers:
    """Evaluate every environment."""
    known = these.known
    levels = these.levels, these.atom_levels
    dh = reference.evaluate(these.rows, these.numbers, levels=levels, threads=threads)
    return FrameNumbers(
        atoms=these.atoms,
        dh=dh,
        ranked=np.ones(len(dh), dtype=bool),
        averaged=np.where(known, dh, np.nan),
        entropy=frame_entropy(these.rows, reference.bandwidth, threads),
        pair_distances=these.pair_distances,
        excess=these.excess(dh),
        tail=~(known & (dh <= these.atom_levels)),
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
