"""What the levels would catch: frames of the reference, disturbed on purpose."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from ase import Atoms

from quests_md._progress import track
from quests_md.environments import Descriptor, describe_both
from quests_md.reference import GivenReference, Reference, chemistry_advice, is_of_molecules, opened_reference

from .calibration import Calibration
from .landmarks import LocalScorer
from .levels import Level
from .opening import GivenCalibration, opened_calibration
from .statistics import STATISTICS, FrameNumbers, frame_entropy

__all__ = ["DISTURBANCES", "Power", "power", "sight"]

#: Most frames that are disturbed, one of each group, and the pairs of rows that this may cost (about 9 ns each).
MOST_FRAMES, FEWEST_FRAMES, MOST_PAIRS = 30, 5, 2e9

#: Shares of frames from which a disturbance counts as caught, and as caught now and then.
CAUGHT, NOW_AND_THEN = 0.9, 0.2

Disturb = Callable[[Atoms, np.random.Generator], Atoms]


@dataclass(frozen=True, slots=True)
class Power:
    """How often frames with a disturbance are out."""

    disturbance: str
    """What was done to the frames."""
    n_frames: int
    """Frames that were tried."""
    share: float
    """Part of them that are out by any statistic in use."""
    shares: Mapping[str, float]
    """Part of them that are out by each statistic in use."""


def power(
    reference: GivenReference,
    calibration: GivenCalibration,
    *,
    n_atoms: int | None = None,
    checks: int | None = None,
    rng: int | np.random.Generator = 0,
    most_frames: int = MOST_FRAMES,
    threads: int | None = None,
) -> list[Power]:
    """How often disturbed frames of the reference would be out, each judged as if its group were not in the reference.

    One entry per disturbance, the first for frames as they are; stronger ones are tried only where all before pass.
    There is none where frames cannot be made again: the reference keeps only the centers of environments, and these are
    restricted.

    `n_atoms`: size of the system whose levels are applied, default that of each frame; the frames keep their own size.
    `checks`: as in `Calibration.levels`. `rng` chooses the frames and disturbs them, `most_frames` at most.
    """
    reference, calibration = opened_reference(reference), opened_calibration(calibration)
    generator = np.random.default_rng(rng)
    chosen = _frames(reference, generator)[:most_frames]
    if not chosen:
        return []
    scorer = None
    if calibration.is_local and calibration.landmarks is not None:
        scorer = LocalScorer(reference, calibration.landmarks)
    kept: dict[bytes, tuple[Level, ...]] = {}

    def levels_of(atoms: Atoms) -> tuple[Level, ...]:
        """The levels of a frame, once for each composition."""
        numbers = np.asarray(atoms.numbers)
        numbers = np.sort(numbers if n_atoms is None else np.resize(numbers, n_atoms))
        key = numbers.tobytes()
        if key not in kept:
            kept[key] = calibration.frame_levels(numbers, checks)
        return kept[key]

    found: list[Power] = []
    has_volume = reference.arrays.pbc[chosen].all()
    disturbances = {name: f for name, f in DISTURBANCES.items() if has_volume or not name.startswith("volume")}
    tried = track({**disturbances, **STRONGER}.items(), "disturbing frames", len(disturbances) + len(STRONGER))
    for name, disturb in tried:
        if name in STRONGER and any(entry.share >= CAUGHT for entry in found[1:]):
            continue
        disturbed = [(i, disturb(reference.frame(i), generator)) for i in chosen]
        outs = [
            _out(reference, calibration, atoms, reference.arrays.frame_group[i], levels_of(atoms), threads, scorer)
            for i, atoms in disturbed
            if len(atoms)
        ]
        shares = {s: float(np.mean([out[s] for out in outs] or [False])) for s in calibration.statistics}
        found.append(Power(name, len(outs), float(np.mean([any(out.values()) for out in outs] or [False])), shares))
    return found


def sight(found: Sequence[Power], reference: GivenReference) -> str:
    """What would be caught and what would pass unseen, in a few lines; the first of `found` is undisturbed."""
    reference = opened_reference(reference)
    lines = []
    for text, low, high in (
        ("caught", CAUGHT, np.inf),
        ("caught now and then", NOW_AND_THEN, CAUGHT),
        ("NOT SEEN", -np.inf, NOW_AND_THEN),
    ):
        named = [f"{entry.disturbance} ({entry.share:.0%})" for entry in found[1:] if low <= entry.share < high]
        if named:
            lines.append(f"{text}: {', '.join(named)}")
    if lines:
        n = found[0].n_frames
        lines.insert(0, f"{n} frames of the reference, disturbed on purpose; the share of them that raises an alarm:")
    else:
        lines.append("what these levels would catch is not known: there are no two groups of whole frames to disturb")
    if nothing := _nothing_short_of(found):
        lines.append(nothing)
    unseen = []
    is_crystal = reference.arrays.pbc.any() and not is_of_molecules(reference)
    if isinstance(reference.descriptor, Descriptor) and is_crystal:  # without thermal noise they are seen
        unseen.append("a stacking fault or a twin in a hot crystal")
    if chemistry_advice(reference) is not None:
        unseen.append("which element sits where")
    if unseen:
        lines.append(f"not seen with these rows at any level: {', and '.join(unseen)}")
    return "\n".join(lines)


def _nothing_short_of(found: Sequence[Power]) -> str:
    """One plain sentence where none of the usual disturbances is caught; empty: one is, or nothing was tried."""
    usual = [entry for entry in found[1:] if entry.disturbance in DISTURBANCES]
    if not usual or any(entry.share >= CAUGHT for entry in usual):
        return ""
    caught = [entry.disturbance for entry in found[1:] if entry.share >= CAUGHT]
    least = f"{caught[0]} of every atom" if caught else "an explosion"
    return (
        f"WITH THESE LEVELS NOTHING SHORT OF {least} would be seen for certain: the reference is too broad or too "
        "small for this run; give frames of your own material, as the run will have it: calibrate(reference, "
        "frames=...), or a reference of such frames alone (docs/levels.md, broad references)"
    )


def _frames(reference: Reference, rng: np.random.Generator) -> list[int]:
    """Frames at random, no two of one group."""
    groups = reference.arrays.frame_group
    whole = np.bincount(reference.arrays.atom_frame, minlength=reference.n_frames) == reference.arrays.frame_natoms
    order = rng.permutation(np.flatnonzero(whole))
    _, first = np.unique(groups[order], return_index=True)
    one_each = order[np.sort(first)]
    if len(one_each) < 2:  # nothing else to compare with
        return []
    pairs = reference.n_environments * float(np.median(reference.arrays.frame_natoms[one_each])) * len(DISTURBANCES)
    most = int(np.clip(MOST_PAIRS / max(pairs, 1), FEWEST_FRAMES, MOST_FRAMES))
    return [int(i) for i in one_each[:most]]


def _out(
    reference: Reference,
    calibration: Calibration,
    atoms: Atoms,
    group: int,
    levels: tuple[Level, ...],
    threads: int | None,
    scorer: LocalScorer | None,
) -> dict[str, bool]:
    """Whether each statistic in use is beyond its level in a frame of this group, whose rows are left out."""
    numbers = np.asarray(atoms.numbers)
    rows, averaged = describe_both(reference.descriptor, atoms, threads)
    own = np.full(len(atoms), group)
    dh = np.full(len(atoms), np.nan)
    if calibration.is_plain:
        dh = reference.delta_entropy_without(rows, numbers, own, threads=threads)
    known = np.isfinite(dh)
    frame = FrameNumbers(
        atoms=atoms,
        dh=dh,
        ranked=np.ones(len(dh), dtype=bool),
        averaged=np.where(known, dh, np.nan),
        entropy=frame_entropy(rows, reference.bandwidth, threads)
        if "frame_entropy" in calibration.statistics
        else np.nan,
        pair_distances=reference.pair_distances(),
        excess=dh - calibration.dh_levels(levels, numbers),
        tail=dh > calibration.atom_level(numbers),
    )
    landmarks = calibration.landmarks
    scored = averaged if landmarks is not None and landmarks.averaged else rows
    if scorer is not None and scored is not None and landmarks is not None:
        local = scorer.scores(scored, numbers, own, threads=threads)
        frame = replace(frame, local=local, local_tail=local > landmarks.tail_level)
    values = {name: STATISTICS[name].of(frame) for name in calibration.statistics}
    # None: all atoms are unknown
    return {s: v is None or STATISTICS[s].excess(frame, v, levels, release=0.0) > 0 for s, v in values.items()}


def _rattled(atoms: Atoms, rng: np.random.Generator, *, deviation: float) -> Atoms:
    atoms.positions += rng.normal(scale=deviation, size=atoms.positions.shape)
    return atoms


def _scaled(atoms: Atoms, _: np.random.Generator, *, volume: float) -> Atoms:
    factor = volume ** (1 / 3)
    atoms.positions *= factor
    atoms.set_cell(atoms.cell.array * factor)
    return atoms


def _with_vacancy(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    del atoms[int(rng.integers(len(atoms)))]
    return atoms


def _as_they_are(atoms: Atoms, _: np.random.Generator) -> Atoms:
    return atoms


#: What is done to frames, and its name in the table.
DISTURBANCES: dict[str, Disturb] = {
    "as they are": _as_they_are,
    "rattled 0.1 Å": partial(_rattled, deviation=0.1),
    "rattled 0.2 Å": partial(_rattled, deviation=0.2),
    "volume +5 %": partial(_scaled, volume=1.05),
    "volume -5 %": partial(_scaled, volume=0.95),
    "a vacancy": _with_vacancy,
}

#: What is done to frames where none of the others is caught.
STRONGER: dict[str, Disturb] = {
    "rattled 0.4 Å": partial(_rattled, deviation=0.4),
    "rattled 0.8 Å": partial(_rattled, deviation=0.8),
}
