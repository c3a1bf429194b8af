"""Judge frames that are on a device of torch without fetching their atoms: as long as all is quiet, by a proof.

Rows and local scores of all frames of a batch are made on the device. What comes back are a few numbers of each frame,
and its strange atoms: those whose score is above the level that 1 % exceed, or may be. Where the bounds of errors leave
open what the CPU would find, the CPU makes the rows of these atoms alone. A frame with an alarm, or of which anything
else is not proven, is judged on the CPU as a whole.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md.calibration import STATISTICS, Calibration, FrameNumbers, Landmarks, LocalScorer
from quests_md.engine import are_same_device, undisturbed
from quests_md.environments import (
    Descriptor,
    PairDistances,
    TensorBatch,
    can_be_made_there,
    describe_both,
    fetched,
    largest_cluster,
    place_of,
    rows_of_batch,
    surroundings,
)
from quests_md.reference import Reference

from .frame_kinds import FrameKind

__all__ = ["QuietFrame", "device_of", "is_on", "quiet_frame"]

#: Statistics of local scores: others are judged on the CPU.
LOCAL = {name for name in STATISTICS if name.startswith("local_")}

#: Share of the atoms of a frame whose rows may be left to the CPU before it judges the whole frame.
MOST_OPEN = 0.25

#: 1/Å: rows that may be farther from those of the CPU are not judged by.
MOST_NOISE = 1e-8


class QuietFrame(NamedTuple):
    """What is known of a frame without an alarm."""

    values: dict[str, float]
    """The local statistics in use."""
    excesses: dict[str, float]
    """How far each statistic in use is beyond its level: none above 0."""
    worst: int
    """The atom with the largest local score."""
    excess: float
    """How far it is beyond its level."""
    above: NDArray[np.int64]
    """Atoms above the level of their local score."""
    largest_cluster: int
    """Atoms in the largest cluster of these."""
    tail: NDArray[np.int64]
    """Atoms above the level that 1 % exceed."""
    scores: Any
    """(n,) local scores, on the device."""
    rows: Any
    """(n, width) plain rows, on the device."""


class _Strange(NamedTuple):
    """Atoms of a frame whose score is above the level that 1 % exceed, or may be."""

    atoms: NDArray[np.int64]
    scores: NDArray[np.float64]
    errors: NDArray[np.float64]
    """inf: nothing is known of the score."""


class _System(NamedTuple):
    """What leaves the device of a frame."""

    strange: _Strange
    n_roomy: float
    """1 if surely no two atoms are too near, else 0."""
    noise: float
    """1/Å, see `RowsOnDevice`; inf: nothing was made of this frame."""
    n_open: float
    """Atoms whose plain row depends on a tie."""
    total: float
    """Sum of the scores that are known to some error, and"""
    error: float
    """of their errors."""
    largest: float
    """Largest score of the atoms that are not strange,"""
    lowest: float
    """at least"""
    highest: float
    """and at most."""


def device_of(reference: Reference, calibration: Calibration) -> str | None:
    """The device of the reference, if frames can be judged there; None: they are judged on the CPU."""
    if calibration.landmarks is None or not set(calibration.statistics) <= LOCAL:
        return None
    return reference.device if can_be_made_there(reference.descriptor) else None


def is_on(device: str | None, frame: Atoms) -> bool:
    """Whether a frame with atoms is on this device."""
    found = place_of(frame)
    return found is not None and device is not None and len(frame) > 0 and are_same_device(found[0].device, device)


def quiet_frame(
    frame: Atoms,
    numbers: FrameNumbers,
    kind: FrameKind,
    reference: Reference,
    calibration: Calibration,
    scorer: LocalScorer,
    release: float,
    threads: int | None,
    *,
    needs_rows: bool,
) -> QuietFrame | None:
    """Judge a frame on its device; None: the CPU is to judge it.

    `numbers`: of the frame, without local scores; `release`: see `Judge`; `needs_rows`: dH of all is told.
    """
    found_at, landmarks, descriptor = place_of(frame), calibration.landmarks, reference.descriptor
    assert found_at is not None
    assert landmarks is not None
    assert can_be_made_there(descriptor)
    batch, place = found_at
    pairs = numbers.pair_distances
    looked_at = batch.once(id(scorer), lambda: _tried(batch, descriptor, landmarks, scorer, pairs))
    if looked_at is None:
        return None
    looked, rows, scores = looked_at
    system = looked[place]
    level = next((level.value for level in kind.levels if level.statistic == "local_max"), landmarks.tail_level)
    if not (system.noise < MOST_NOISE and system.n_roomy and level >= landmarks.tail_level):
        return None
    if needs_rows and system.n_open:
        return None
    strange = _decided(frame, system.strange, (landmarks.tail_level, level), descriptor, landmarks, scorer, threads)
    if strange is None:
        return None
    was_open = ~(system.strange.errors < math.inf)
    total = system.total + float((strange.scores - np.where(was_open, 0.0, system.strange.scores)).sum())
    n = len(frame)
    mean, error = total / n, system.error / n + 1e-12
    largest, lowest, highest = (
        max([of_others, *values])
        for of_others, values in (
            (system.largest, strange.scores),
            (system.lowest, strange.scores - strange.errors),
            (system.highest, strange.scores + strange.errors),
        )
    )
    tail, above = strange.atoms[strange.scores > landmarks.tail_level], strange.atoms[strange.scores > level]
    found = {
        "local_mean": (mean - error, mean, mean + error),
        "local_max": (float(lowest), float(largest), float(highest)),
        "local_tail": (len(tail),) * 3,
        "local_cluster": (_cluster(frame, tail, numbers),) * 3,
    }
    excesses = {}
    for name in calibration.statistics:
        low, excess, high = (STATISTICS[name].excess(numbers, value, kind.levels, release) for value in found[name])
        if not (high <= 0 and (low <= -release) == (high <= -release)):
            return None
        excesses[name] = excess
    here = batch.here(place)
    worst = int(strange.atoms[strange.scores.argmax()]) if len(strange.atoms) else int(scores[here].argmax())
    return QuietFrame(
        values={name: found[name][1] for name in calibration.statistics},
        excesses=excesses,
        worst=worst,
        excess=float(largest) - level,
        above=above,
        largest_cluster=_cluster(frame, above, numbers),
        tail=tail,
        scores=scores[here],
        rows=rows.plain[here],
    )


def _tried(
    batch: TensorBatch, descriptor: Descriptor, landmarks: Landmarks, scorer: LocalScorer, pairs: PairDistances
) -> tuple[list[_System], Any, Any] | None:
    """`_look_at`; None, with a warning, where the device fails, as where it has no memory left."""
    try:
        with undisturbed(batch.device):
            return _look_at(batch, descriptor, landmarks, scorer, pairs)
    except RuntimeError as exc:
        text = f"frames are judged on the CPU, since {batch.device} failed: {type(exc).__name__}: {exc}"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
        return None


def _look_at(
    batch: TensorBatch, descriptor: Descriptor, landmarks: Landmarks, scorer: LocalScorer, pairs: PairDistances
) -> tuple[list[_System], Any, Any]:
    """What leaves the device of all frames of a batch, and their rows and scores, which stay there."""
    import torch

    rows = rows_of_batch(descriptor, batch, pairs)
    to_score, is_open = (rows.averaged, rows.is_open_averaged) if landmarks.averaged else (rows.plain, rows.is_open)
    found = scorer.on(batch.device).scores(to_score, batch.numbers, rows.noise[rows.system])
    scores, system, n_systems = found.scores, rows.system, len(batch.ends)
    errors = found.errors.masked_fill(is_open, math.inf)
    is_known = errors < math.inf
    is_strange = ~(scores + errors <= landmarks.tail_level) & ~rows.is_bad[system]
    nothing = scores.new_zeros(n_systems)
    least = nothing - math.inf
    per_system = [
        rows.is_roomy.double(),
        rows.noise.masked_fill(rows.is_bad, math.inf),
        nothing.index_add(0, system, rows.is_open.double()),
        nothing.index_add(0, system, scores.masked_fill(~is_known, 0.0)),
        nothing.index_add(0, system, errors.masked_fill(~is_known, 0.0)),
        *(
            least.scatter_reduce(0, system, some.masked_fill(is_strange, -math.inf), "amax")
            for some in (scores, scores - errors, scores + errors)
        ),
    ]
    strange = is_strange.nonzero()[:, 0]
    of_atoms = torch.stack([strange.double(), scores[strange], errors[strange]]).cpu().numpy()
    sums = torch.stack(per_system).cpu().numpy()
    atoms = of_atoms[0].astype(np.int64)
    starts = batch.ends - np.diff(batch.ends, prepend=0)
    edges = np.searchsorted(atoms, [*starts, batch.ends[-1]])
    systems = []
    for i, start in enumerate(starts):
        part = slice(edges[i], edges[i + 1])
        some = _Strange(atoms[part] - start, of_atoms[1][part], of_atoms[2][part])
        systems.append(_System(some, *sums[:, i].tolist()))
    return systems, rows, scores


def _decided(
    frame: Atoms,
    strange: _Strange,
    levels: Sequence[float],
    descriptor: Descriptor,
    landmarks: Landmarks,
    scorer: LocalScorer,
    threads: int | None,
) -> _Strange | None:
    """The strange atoms with the CPU's scores where the device's leave open whether they are above a level.

    None: there are too many of these.
    """
    is_open = np.zeros(len(strange.atoms), bool)
    for level in levels:
        is_open |= ~(np.abs(strange.scores - level) > strange.errors)
    if not is_open.any():
        return strange
    if is_open.sum() > MOST_OPEN * len(frame):
        return None
    cutoff = descriptor.cutoff
    # an averaged row is made of rows of neighbours, which see their own
    around, places = surroundings(frame, strange.atoms[is_open], (2 if landmarks.averaged else 1) * cutoff)
    plain, averaged = describe_both(descriptor, around, threads)
    rows = averaged if landmarks.averaged else plain
    assert rows is not None
    scores, errors = strange.scores.copy(), strange.errors.copy()
    scores[is_open] = scorer.scores(rows[places], around.numbers[places], threads=threads)
    errors[is_open] = 0.0
    return _Strange(strange.atoms, scores, errors)


def _cluster(frame: Atoms, atoms: NDArray[np.int64], numbers: FrameNumbers) -> int:
    """Size of the largest cluster of some atoms, whose positions are fetched."""
    if len(atoms) < 2:
        return len(atoms)
    return largest_cluster(fetched(frame, atoms), np.ones(len(atoms), bool), numbers.pair_distances)
