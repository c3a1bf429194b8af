"""Where one run of a file ends and the next begins, as far as the frames themselves, and their times, tell."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["breaks_in_time", "change_between_frames", "starts_of_runs", "told_labels"]

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

#: Times the usual time between frames that is a leap, and ratio of the usual times of two runs: another run begins.
LEAP = 10.0

#: Steps before and after one by which it is told what is usual there, and those by which two runs are told apart. Of
#: frames that were drawn from a run at random three in a thousand then seem to begin another one.
BESIDE, FEW_STEPS = 9, 12


def told_labels(files: Sequence[int], labels: Sequence[str | None]) -> list[str | None]:
    """The label of each frame, (n,), as far as labels tell which frames may follow each other in time.

    A label that a frame lacks, or that is of one frame alone between others, tells nothing: the frame has the label of
    those before it in its file, or of those after it.
    """
    told: list[str | None] = [None] * len(labels)
    known = [i for i, label in enumerate(labels) if label is not None]
    for at, i in enumerate(known):
        beside = [j for j in (*known[max(at - 1, 0) : at], *known[at + 1 : at + 2]) if files[j] == files[i]]
        if any(labels[j] == labels[i] for j in beside):
            told[i] = labels[i]
    for order in (range(1, len(told)), range(len(told) - 2, -1, -1)):
        for i in order:
            before = i - order.step
            if told[i] is None and files[i] == files[before]:
                told[i] = told[before]
    return told


def breaks_in_time(times_ps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) whether another run begins with a frame, by the times of frames that may follow each other, NaN: unknown.

    Where time goes back; where a step is more than ten times as long as is usual for the nine steps before it and for
    the nine after it; and where the usual step of twelve is ten times that of the next twelve, or a tenth of it. The
    frame between a short and a long step goes with the short one.
    """
    steps = np.diff(times_ps, prepend=np.nan)
    breaks: NDArray[np.bool_] = steps < 0
    starts = [0, *np.flatnonzero(breaks).tolist(), len(steps)]
    for a, b in pairwise(starts):
        frames = a + 1 + np.flatnonzero(steps[a + 1 : b] > 0)  # the frame after each step
        logs = np.log(steps[frames])
        breaks[frames[_leaps(logs)]] = True
        for j in _changes_of_step(logs):  # between the steps j and j + 1
            breaks[frames[j + 1] if logs[j + 1] > logs[j] else frames[j]] = True
    return breaks


def _leaps(logs: NDArray[np.float64]) -> list[int]:
    """Which steps, of which these are the logs, are leaps."""
    sides = [_usual(logs, BESIDE, 1, shift) for shift in (0, 1)]
    usual = np.fmax(*sides)  # of a step without any on one side, what is usual on the other
    return np.flatnonzero(logs > usual + math.log(LEAP)).tolist()


def _changes_of_step(logs: NDArray[np.float64]) -> list[int]:
    """Steps, of which these are the logs, after which another step is usual."""
    if len(logs) < FEW_STEPS:
        return []
    before, after = _usual(logs, FEW_STEPS, FEW_STEPS, 0)[1:], _usual(logs, FEW_STEPS, FEW_STEPS, 1)[:-1]
    is_other = np.abs(after - before) > math.log(LEAP)
    ratios = np.where(is_other, np.abs(np.diff(logs)), -1.0)
    ends = np.flatnonzero(np.diff(is_other, prepend=False, append=False)).reshape(-1, 2)
    return [int(a + np.argmax(ratios[a:b])) for a, b in ends]


def _usual(logs: NDArray[np.float64], most: int, fewest: int, shift: int) -> NDArray[np.float64]:
    """(n,) lower median of up to so many values before each (shift 0) or after it (1); NaN of fewer than `fewest`."""
    padded = np.concatenate([np.full(most, np.nan), logs, np.full(most, np.nan)])
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(padded, most), axis=1)  # NaN comes last
    chosen = windows[most + 1 : most + 1 + len(logs)] if shift else windows[: len(logs)]
    counts = np.isfinite(chosen).sum(axis=1)
    medians: NDArray[np.float64] = chosen[np.arange(len(logs)), np.maximum(counts - 1, 0) // 2]
    return np.where(counts >= fewest, medians, np.nan)


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
