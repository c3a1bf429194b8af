"""Groups of frames that may be taken as independent: contiguous blocks of two correlation times, run by run."""

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .runs import breaks_in_time, change_between_frames, starts_of_runs

__all__ = ["Measured", "blocks_of_frames", "correlation_length", "frame_digests", "join_copies"]

#: Fewest frames of a segment that say anything about correlation in time.
SHORTEST = 8

#: Correlation below which frames count as independent.
NEGLIGIBLE = 0.05

#: Frames less than this apart, ps, are correlated where nothing else is known: half a vibration of a heavy atom.
CLOSE_PS = 0.1

#: Shortest time of a stretch, ps, by which its frames can be told to be independent sooner.
TELLING_PS = 1.0

#: Share of a cell vector that is a jump: another run begins.
CELL_JUMP = 0.05

#: Most atoms of a frame that are followed, and most frames of a segment: enough for two digits.
FOLLOWED_ATOMS = 64
FOLLOWED_FRAMES = 1000


class Measured(NamedTuple):
    """How long the blocks of some frames are."""

    file: int
    """Number of the file."""
    n_frames: int
    """Frames that these blocks are made of."""
    length: int
    """Frames per block; 1: uncorrelated frames."""


def blocks_of_frames(
    kinds: Sequence[Any],
    files: Sequence[int],
    frame_rows: Sequence[NDArray[np.float64]],
    times_ps: Sequence[float] | None = None,
    cells: Sequence[NDArray[np.floating[Any]]] | None = None,
) -> tuple[NDArray[np.int64], list[Measured]]:
    """Put frames into contiguous blocks of at least two correlation times.

    Each frame has a kind, equal for consecutive frames that may follow each other in time, the number of its file, its
    descriptor rows (n_atoms, width) in the order of its atoms, and its time in ps, if it is known (else NaN), and cell
    (3, 3), Å.

    A stretch of frames of one kind ends where time goes back, leaps or begins to go in other steps (`breaks_in_time`),
    or the cell changes by a twentieth. It is cut into runs where the rows tell that another run begins
    (`starts_of_runs`), and each of these runs has its own correlation length. Where nothing is cut, the stretches of a
    kind in a file, of steps of one power of ten, have one length together; a kind without a stretch long enough has
    that of its file. Frames of unknown correlation are blocks of their own, unless they are less than 0.1 ps apart, of
    whatever kind they are; a stretch shorter than 1 ps is too short to tell that its frames are independent sooner.

    Returns the block of each frame, counted from 0, and what was measured, in the order of the frames.
    """
    times = np.full(len(kinds), np.nan) if times_ps is None else np.asarray(times_ps, dtype=np.float64)
    jumps = np.zeros(len(kinds), bool)
    if cells is not None:
        jumps = _cell_jumps(np.asarray(cells, dtype=np.float64).reshape(-1, 3, 3))
    breaks = jumps | np.array([i == 0 or kinds[i] != kinds[i - 1] for i in range(len(kinds))], dtype=bool)
    for a, b in pairwise([*np.flatnonzero(breaks).tolist(), len(kinds)]):
        breaks[a:b] |= breaks_in_time(times[a:b])
    starts = np.flatnonzero(breaks).tolist()
    stops = [*starts, len(kinds)][1:]
    some = (rows[:: max(1, math.ceil(len(rows) / FOLLOWED_ATOMS))] for rows in frame_rows)
    followed = [rows.astype(np.float64, copy=False) for rows in some]
    runs: list[tuple[int, int, Any]] = []  # first frame, the next after the last, what has one length
    for a, b in zip(starts, stops, strict=True):
        inner = starts_of_runs(change_between_frames(followed[a:b]))
        ends = [*inner, b - a][1:]
        shared = (files[a], kinds[a], _order_of_step(times[a:b]))
        runs += [(a + i, a + j, shared if len(inner) == 1 else a + i) for i, j in zip(inner, ends, strict=True)]
    of_kind = _lengths(runs, followed)
    of_file = _lengths([(a, b, files[a]) for a, b, _ in runs], followed)
    groups = np.empty(len(kinds), np.int64)
    n_groups, measured = 0, list[Measured]()
    lengths = [of_kind.get(key, of_file.get(files[a])) for a, _, key in runs]
    for a, b, length in _with_close_ones([(a, b) for a, b, _ in runs], lengths, times, jumps, files):
        blocks = _blocks(b - a, length, times[a:b])
        groups[a:b] = n_groups + blocks
        n_groups += int(blocks[-1]) + 1
        if length is not None:
            measured.append(Measured(files[a], b - a, length))
    return groups, measured


def _order_of_step(times_ps: NDArray[np.float64]) -> int | None:
    """Power of ten of the time between frames; None: unknown. Lengths in frames of other steps say nothing."""
    steps = np.diff(times_ps)
    steps = steps[steps > 0]
    return round(math.log10(float(np.median(steps)))) if len(steps) else None


def _with_close_ones(
    runs: Sequence[tuple[int, int]],
    lengths: Sequence[int | None],
    times_ps: NDArray[np.float64],
    jumps: NDArray[np.bool_],
    files: Sequence[int],
) -> list[tuple[int, int, int | None]]:
    """Runs with their lengths, those of unknown length in one where they follow each other by less than 0.1 ps."""
    found: list[tuple[int, int, int | None]] = []
    for (a, b), length in zip(runs, lengths, strict=True):
        is_close = a > 0 and files[a] == files[a - 1] and not jumps[a] and 0 < times_ps[a] - times_ps[a - 1] < CLOSE_PS
        if found and length is None and found[-1][2] is None and is_close:
            found[-1] = found[-1][0], b, None
        else:
            found.append((a, b, length))
    return found


def _cell_jumps(cells: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) whether a vector of the cell of a frame differs by more than a twentieth from that of the last one."""
    change = np.linalg.norm(np.diff(cells, axis=0, prepend=cells[:1]), axis=2)
    jumps: NDArray[np.bool_] = (change > CELL_JUMP * np.linalg.norm(cells, axis=2)).any(axis=1)
    return jumps


def _lengths(runs: Sequence[tuple[int, int, Any]], rows: Sequence[NDArray[np.float64]]) -> dict[Any, int]:
    """Frames per block of the runs that have each key, where it can be told."""
    series: dict[Any, list[NDArray[np.float64]]] = {}
    for a, b, key in runs:
        if b - a >= SHORTEST:
            series.setdefault(key, []).append(np.stack(rows[a:b][:FOLLOWED_FRAMES]))
    lengths = {key: correlation_length(these) for key, these in series.items()}
    # a tenth of a frame is within the error of the estimate
    return {key: max(1, math.ceil(length - 0.1)) for key, length in lengths.items() if not math.isnan(length)}


def _blocks(n: int, length: int | None, times_ps: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) block of each frame of a run, from the frames per block, None: unknown, and the times, NaN: unknown."""
    spacing = float(np.median(np.diff(times_ps))) if n > 1 and np.isfinite(times_ps).all() else math.nan
    if length is not None and not (spacing > 0 and (n - 1) * spacing < TELLING_PS):
        close = 1
    else:  # frames in too short a time to know
        close = math.ceil(CLOSE_PS / spacing - 1e-9) if spacing > 0 else 1
    n_blocks = max(1, n // max(length or 1, close))
    return np.arange(n) * n_blocks // n


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
    same: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], int]:
    """Put frames with the same rows into one group: a copy in another group would be held out against itself.

    Takes the group of each frame (n_frames,), and of each row its frame (n,), its width numbers, and its atomic number
    where only equal elements are compared; rows of a repeated frame are in the same order. `same` (n_frames,) is the
    first frame that is the same as each in another way (`first_same`). Returns the groups, numbered from 0 in order of
    appearance, and the number of frames that repeat an earlier one.
    """
    parent = {int(g): int(g) for g in np.unique(groups)}

    def root(g: int) -> int:
        while parent[g] != g:
            g = parent[g]
        return g

    first_group: dict[bytes, int] = {}
    n_copies = 0
    digests = frame_digests(len(groups), atom_frame, rows, numbers)
    of = groups.tolist()
    for frame, (digest, group) in enumerate(zip(digests, of, strict=True)):
        earlier = [first_group[digest]] if digest in first_group else []
        if same is not None and same[frame] != frame:
            earlier.append(of[same[frame]])
        n_copies += bool(earlier)
        for other in earlier:
            parent[root(group)] = root(other)
        first_group.setdefault(digest, group)
    names: dict[int, int] = {}
    joined = [names.setdefault(root(g), len(names)) for g in groups.tolist()]
    return np.array(joined, dtype=np.int64), n_copies


def frame_digests(
    n_frames: int, atom_frame: NDArray[np.int64], rows: NDArray[np.floating[Any]], numbers: NDArray[np.uint8] | None
) -> list[bytes]:
    """What frames with the same rows have in common, for each of so many frames; parameters as in `join_copies`."""
    order = np.argsort(atom_frame, kind="stable")
    ends = np.searchsorted(atom_frame[order], np.arange(n_frames + 1))
    digests = []
    for frame in range(n_frames):
        here = order[ends[frame] : ends[frame + 1]]
        content = (np.round(rows[here].astype(np.float64, copy=False), 7) + 0.0).tobytes()  # -0.0 is 0.0
        if numbers is not None:
            content += numbers[here].tobytes()
        digests.append(hashlib.blake2b(content, digest_size=16).digest())
    return digests
