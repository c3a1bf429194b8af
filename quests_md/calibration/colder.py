"""Colder than the reference: order is no novelty where the reference holds the same structure in motion."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quests_md.reference import Reference, built_like, colder_copies

from .calibration import Calibration
from .landmarks import LocalScorer, learn_landmarks

__all__ = ["Colder", "usual_dh"]

#: Bandwidths for plain rows of copies in bandwidths of the reference. The wide one knows motion; at rest nothing hides
#: small differences, and by the narrow one a stacking of close-packed layers is known from another one.
WIDTHS = 0.4, 0.2

#: Share of the copies' own environments that do not count as like them.
BEYOND = 0.01


class Colder:
    """Colder copies of the frames of a reference, and how environments look beside them.

    The row of an atom at rest is not the mean of the rows of the same atom in motion: distances are sorted, so that
    motion always spreads them. A crystal at rest is therefore as far from thermal crystals as many defects are. What
    tells it apart is that the reference holds it in motion: its environments are among those of the reference's own
    frames with their displacements scaled down, see `colder_copies`.
    """

    def __init__(self, copies: Reference, *, averaged: bool) -> None:
        self._copies, self._averaged = copies, averaged and copies.has_averaged_rows
        self._local: LocalScorer | None = None
        self._plain: list[tuple[LocalScorer, float]] = []

    @classmethod
    def of(cls, reference: Reference, *, averaged: bool, threads: int | None = None) -> Self | None:
        """Colder copies of the reference's frames; None: it holds no structure in motion, see `colder_copies`.

        `averaged`: whether local scores are of averaged rows, as those of the calibration's landmarks.
        """
        frames = colder_copies(reference)
        return (
            cls(built_like(reference, frames, groups="frame", threads=threads), averaged=averaged) if frames else None
        )

    def local_scores(
        self, rows: NDArray[np.float64], numbers: NDArray[Any], threads: int | None
    ) -> NDArray[np.float64]:
        """(n,) local score of each environment beside the colder copies, as `LocalScorer.scores`."""
        if self._local is None:
            nothing = np.empty(0, np.int64)
            learnt = learn_landmarks(self._copies, None, nothing, threads, averaged=self._averaged)
            self._local = LocalScorer(self._copies, learnt.landmarks)
        return self._local.scores(rows, numbers, threads=threads)

    def has(self, rows: NDArray[np.float64], numbers: NDArray[Any], threads: int | None) -> NDArray[np.bool_]:
        """(n,) whether environments with these plain rows are like those of the copies.

        Their local score is then, with either bandwidth, no larger than those of 99 % of the copies' own.
        """
        if not self._plain:
            everything = np.arange(self._copies.n_environments)
            for width in WIDTHS:
                copies = self._copies.with_bandwidth(self._copies.bandwidth * width)
                learnt = learn_landmarks(copies, None, everything, threads, averaged=False)
                level = float(np.nanquantile(learnt.scores, 1 - BEYOND))
                self._plain.append((LocalScorer(copies, learnt.landmarks), level))
        like = np.ones(len(rows), dtype=bool)
        for scorer, level in self._plain:
            like[like] = scorer.scores(rows[like], numbers[like], threads=threads) <= level
        return like


def usual_dh(calibration: Calibration) -> float:
    """The mean dH of half of the held-out frames, nats; -inf where there are none."""
    for null in calibration.nulls:
        if null.statistic == "dh_mean" and null.side == "above" and len(null.scores):
            return float(np.median(null.scores))
    return -np.inf
