"""Groups of frames that may be taken as independent: contiguous blocks of two correlation times."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["blocks_of_frames", "correlation_length", "join_copies"]

#: Fewest frames of a segment that say anything about correlation in time.
SHORTEST = 8

#: Correlation below which frames count as independent.
NEGLIGIBLE = 0.05

#: Most atoms of a frame that are followed, and most frames of a segment: enough for two digits.
FOLLOWED_ATOMS = 64
FOLLOWED_FRAMES = 1000


def blocks_of_frames(
    kinds: Sequence[Any], files: Sequence[int], frame_rows: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.int64], dict[int, int]]:
    """Put frames into contiguous blocks of at least two correlation times.

    Each frame has a kind, equal for consecutive frames that make one segment, the number of its file, and its
    descriptor rows (n_atoms, width) in the order of its atoms. One correlation length is estimated per file.

    Returns the block of each frame, counted from 0, and the frames per block of each file whose correlation could be
    estimated (1: uncorrelated frames). Frames of unknown correlation are blocks of their own.
    """
    starts = [i for i in range(len(kinds)) if i == 0 or kinds[i] != kinds[i - 1]]
    stops = [*starts, len(kinds)][1:]
    lengths: dict[int, int] = {}
    for file in sorted(set(files)):
        series = [
            np.stack(
                [rows[:: max(1, math.ceil(len(rows) / FOLLOWED_ATOMS))] for rows in frame_rows[a:b][:FOLLOWED_FRAMES]]
            )
            for a, b in zip(starts, stops, strict=True)
            if files[a] == file and b - a >= SHORTEST
        ]
        if series and not math.isnan(length := correlation_length(series)):
            # a tenth of a frame is within the error of the estimate
            lengths[file] = max(1, math.ceil(length - 0.1))
    groups = np.empty(len(kinds), np.int64)
    n_groups = 0
    for a, b in zip(starts, stops, strict=True):
        n_blocks = max(1, (b - a) // lengths.get(files[a], 1))
        groups[a:b] = n_groups + np.arange(b - a) * n_blocks // (b - a)
        n_groups += n_blocks
    return groups, lengths


def correlation_length(series: Sequence[NDArray[np.float64]]) -> float:
    """Two correlation times of the environments, in frames: 1 + 2 sum_L C(L); 1: uncorrelated, NaN: cannot be told.

    Each series has the rows (frames, atoms, width) of consecutive frames. C(L) is the correlation of an atom's row with
    the row of the same atom L frames later, after taking away what the atom is at all times (a neighbour of the
    vacancy) and what all atoms are at one time (a hotter frame): neither makes two frames copies of each other. The sum
    ends where C falls below 0.05. Where all atoms always do the same (one atom per cell, a perfect crystal at many
    volumes) nothing is left to correlate.
    """
    longest = max(len(x) for x in series) // 2
    products, variance, common = np.zeros(longest), 0.0, 0.0
    counts, n_frames = np.zeros(longest), 0
    for x in series:
        n = len(x)
        change = x - x.mean(axis=0)
        together = change.mean(axis=1, keepdims=True)
        flat = (change - together).reshape(n, -1)
        common += float((together * together).sum()) * x.shape[1]
        variance += float((flat * flat).sum())
        n_frames += n
        spectrum = np.fft.rfft(flat, n=2 * n, axis=0)
        correlation = np.fft.irfft((spectrum.conj() * spectrum).sum(axis=1).real, n=2 * n)
        lags = n // 2
        products[:lags] += correlation[:lags]
        counts[:lags] += n - np.arange(lags)
    rounding = 1e-20 * n_frames
    if variance <= max(rounding, 1e-10 * common):  # positions in a text file have eight digits
        return math.nan if common > rounding else float(2 * longest)  # frozen frames are copies of each other
    c = (products / counts) / (variance / n_frames)
    length, stretch = 1.0, n_frames / len(series)
    for _ in range(50):
        # the mean over a stretch takes length / stretch of the variance with it, at every lag
        share = min(length / stretch, 0.9)
        whole = c * (1 - share) + share
        below = np.flatnonzero(whole[1:] < NEGLIGIBLE)
        end = int(below[0]) + 1 if len(below) else longest
        before, length = length, float(1 + 2 * whole[1:end].sum())
        if abs(length - before) < 1e-3:
            break
    return length


def join_copies(
    groups: NDArray[np.int64],
    atom_frame: NDArray[np.int64],
    rows: NDArray[np.float64],
    numbers: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.int64], int]:
    """Put frames with the same rows into one group: a copy in another group would be held out against itself.

    Takes the group of each frame (n_frames,), and of each row its frame (n,), its width numbers, and its atomic number
    where only equal elements are compared; rows of a repeated frame are in the same order. Returns the groups, numbered
    from 0 in order of appearance, and the number of frames that repeat an earlier one.
    """
    order = np.argsort(atom_frame, kind="stable")
    ends = np.searchsorted(atom_frame[order], np.arange(len(groups) + 1))
    parent = {int(g): int(g) for g in np.unique(groups)}

    def root(g: int) -> int:
        while parent[g] != g:
            g = parent[g]
        return g

    first_group: dict[bytes, int] = {}
    n_copies = 0
    for frame, group in enumerate(groups.tolist()):
        here = order[ends[frame] : ends[frame + 1]]
        content = (np.round(rows[here], 7) + 0.0).tobytes()  # -0.0 is 0.0
        if numbers is not None:
            content += numbers[here].tobytes()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if digest in first_group:
            n_copies += 1
            parent[root(group)] = root(first_group[digest])
        else:
            first_group[digest] = group
    names: dict[int, int] = {}
    joined = [names.setdefault(root(g), len(names)) for g in groups.tolist()]
    return np.array(joined, dtype=np.int64), n_copies
