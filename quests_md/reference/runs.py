"""Where one run of a file ends and the next begins, as far as the frames themselves tell."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["change_between_frames", "starts_of_runs"]

#: Fewest frames between two such places: of fewer nothing can be said of how they are correlated.
FEWEST = 16

#: Log of the ratio in which the squared change from frame to frame differs between two runs: 1.5, as between
#: independent frames and frames with a correlation of 1/3.
DIFFERENCE = math.log(1.5)

#: Standard errors that the difference must be worth.
ERRORS = 8.0

#: Log of the ratio of the squared change where a run ends to that within the runs on either side, and standard
#: deviations of the latter that this must be worth.
JUMP = math.log(2.5)
DEVIATIONS = 5.0


def change_between_frames(frame_rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(n - 1,) log of the mean squared change of the rows of n frames from each to the next; -inf: none."""
    squares = np.array([float(np.mean((b - a) ** 2)) for a, b in pairwise(frame_rows)])
    with np.errstate(divide="ignore"):
        logs: NDArray[np.float64] = np.log(squares)
    return logs


def starts_of_runs(change: NDArray[np.float64]) -> list[int]:
    """Frames at which another run begins, the first frame included, from the `change_between_frames` of a stretch.

    A run begins where the change from frame to frame is 2.5 times as large once as on either side, and where its
    level changes for good, by half at least: independent frames are followed by those of a trajectory, say. Runs have
    16 frames at least; what is not so plain is left together.
    """
    n = len(change) + 1
    finite = change[np.isfinite(change)]
    if n < 2 * FEWEST or len(finite) == 0:
        return [0]
    values = np.where(np.isfinite(change), change, finite.min())
    starts, todo = [0], [(0, n)]
    while todo:
        a, b = todo.pop()
        at = _jump(values, a, b)
        if at is None:
            at = _change(values, a, b)
        if at is not None:
            starts.append(at)
            todo += [(a, at), (at, b)]
    return sorted(starts)


def _jump(values: NDArray[np.float64], a: int, b: int) -> int | None:
    """The frame among a ... b - 1 before which the change is largest, if that is a jump."""
    inner = values[a + FEWEST - 1 : b - FEWEST]
    if not len(inner):
        return None
    at = a + FEWEST - 1 + int(np.argmax(inner))
    sides = values[a:at][-FEWEST:], values[at + 1 : b - 1][:FEWEST]
    middle = max(float(np.median(side)) for side in sides)
    scatter = max(float(np.std(side)) for side in sides)
    if values[at] <= max(float(side.max()) for side in sides) + JUMP / 2:
        return None
    return at + 1 if values[at] > middle + max(JUMP, DEVIATIONS * scatter) else None


def _change(values: NDArray[np.float64], a: int, b: int) -> int | None:
    """The frame among a ... b - 1 from which on the change has another level, if there is one."""
    inside = values[a : b - 1]  # between the frames of the part
    n = len(inside)
    before = np.arange(FEWEST - 1, n - FEWEST + 1)  # changes before the place
    if not len(before):
        return None
    sums, squares = np.cumsum(inside), np.cumsum(inside**2)
    n_after = n - before
    first, last = sums[before - 1] / before, (sums[-1] - sums[before - 1]) / n_after
    within = squares[-1] - before * first**2 - n_after * last**2
    # neighbouring changes share a frame: their errors count twice
    error = np.sqrt(2 * np.maximum(within, 1e-12) / n * (1 / before + 1 / n_after))
    difference = np.abs(last - first)
    best = int(np.argmax(difference / error))
    if difference[best] < max(DIFFERENCE, ERRORS * float(error[best])):
        return None
    return a + int(before[best])
