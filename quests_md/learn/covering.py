"""Which frame of a pool most reduces what is uncovered, one after the other: the lazy greedy algorithm.

The sum of dH beyond a level over some environments falls with every frame that is chosen, and what a frame is worth
falls with every other one: a monotone submodular set function (Nemhauser, Wolsey and Fisher, doi:10.1007/BF01588971;
Wolsey, doi:10.1007/BF02579435). So what a frame was once worth is an upper bound, and only frames whose bound is the
highest are looked at again (M. Minoux, doi:10.1007/BFb0006528). The frame that is chosen is the one of the full search.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

__all__ = ["Gains"]

#: Nats beyond a level from which on environments count as equally strange.
MOST_BEYOND = 20.0

#: A gain of less than so many nats is none: sums are float32.
NO_GAIN = 1e-3

#: Frames whose gains are computed together.
TOGETHER = 64


class Gains:
    """What frames are worth, with respect to what has been chosen.

    Parameters
    ----------
    sums
        (n_frames, m) kernel sums of each frame for each target, in units of the sum at the level of the target.
    known
        (m,) sums of what is known, in these units.
    is_bounded
        Whether dH below the level counts no more: a target is then covered.
    elements
        (m,) atomic numbers of the targets.
    costs
        (n_frames,) by which gains are divided; None for frames of equal cost.
    """

    def __init__(
        self,
        sums: NDArray[np.float32],
        known: NDArray[np.float64],
        is_bounded: bool,
        elements: NDArray[np.int64],
        costs: NDArray[np.int64] | None,
    ) -> None:
        self._sums, self._known, self._is_bounded, self._elements = sums, known, is_bounded, elements
        self._costs = np.ones(len(sums)) if costs is None else costs.astype(np.float64)
        self._least = np.exp(-MOST_BEYOND)
        everything = np.arange(len(sums))
        self._bounds = list(zip((-self._of(everything) / self._costs).tolist(), everything.tolist(), strict=True))
        heapq.heapify(self._bounds)

    @property
    def is_done(self) -> bool:
        """Whether all targets are covered."""
        return bool((self._known >= 1.0 - NO_GAIN).all())

    def best(self, allowed: NDArray[np.bool_]) -> tuple[int, float] | None:
        """The frame of highest gain for its cost among those allowed (n_frames,), and its gain in nats.

        Of equals the first. Frames that are not allowed once never are again. None: no gain is left.
        """
        while self._bounds:
            frame = heapq.heappop(self._bounds)[1]
            if not allowed[frame]:
                continue
            gain = float(self._of(np.array([frame]))[0])
            fresh = (-gain / self._costs[frame], frame)
            is_best = not self._bounds or fresh <= self._bounds[0]
            heapq.heappush(self._bounds, fresh)
            if is_best:
                return (frame, gain) if gain > NO_GAIN else None
        return None

    def best_of_element(self, allowed: NDArray[np.bool_], element: int) -> tuple[int, float] | None:
        """The frame whose gain for targets of one element is highest among those allowed, and its whole gain."""
        frames, targets = np.flatnonzero(allowed), np.flatnonzero(self._elements == element)
        if not len(frames):
            return None
        frame = frames[np.argmax(self._of(frames, targets) / self._costs[frames])]
        return int(frame), float(self._of(frames[frames == frame])[0])

    def choose(self, frame: int) -> None:
        """Count a frame as known from now on."""
        self._known = self._known + self._sums[frame]

    def _of(self, frames: NDArray[np.int64], targets: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Nats by which frames (k,) reduce the sum over targets, default all of them."""
        where = np.arange(len(self._known)) if targets is None else targets
        known, gains = self._known[where], np.empty(len(frames))
        now = self._logs(known)
        for start in range(0, len(frames), TOGETHER):
            piece = frames[start : start + TOGETHER]
            added = self._sums[piece] if targets is None else self._sums[np.ix_(piece, where)]
            gains[start : start + len(piece)] = (self._logs(known + added) - now).sum(axis=1)
        return gains

    def _logs(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        logs: NDArray[np.float64] = np.log(sums + self._least)
        return np.minimum(logs, 0.0) if self._is_bounded else logs
