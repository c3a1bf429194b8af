"""From a reference to levels with a stated rate of false alarms: its frames are held out, group by group."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quests_md._arguments import check_choice, check_share
from quests_md.reference import GivenReference, Reference, built_like, frames_also_in, label_list, opened_reference

from .calibration import Calibration, TypicalFrame, check_checks
from .landmarks import learn_landmarks
from .levels import ANY_ELEMENT, GUESS, PERS, BlockTimes, NullScores, Per
from .null_scores import (
    held_out_frames,
    held_out_neighbourhoods,
    n_held_out,
    separate_frames,
    separate_neighbourhoods,
)
from .origin import Origin
from .plain_scores import groups_of_elements, is_dh_scored
from .statistics import check_statistics, require_rows
from .wording import many_groups

__all__ = ["DEFAULT_STATISTICS", "PLAIN_STATISTICS", "calibrate", "default_statistics"]

#: Statistics that raise alarms unless told otherwise; docs/levels.md says why.
DEFAULT_STATISTICS = ("local_mean", "local_cluster", "local_max")

#: The same for references without averaged rows.
PLAIN_STATISTICS = ("dh_max", "tail_cluster", "dh_mean")


def default_statistics(reference: Reference) -> tuple[str, ...]:
    """Names of the statistics that raise alarms unless told otherwise."""
    return DEFAULT_STATISTICS if reference.has_averaged_rows else PLAIN_STATISTICS


def calibrate(
    reference: GivenReference,
    *,
    false_alarms: float = 1e-2,
    per: Per = "check",
    statistics: Sequence[str] | None = None,
    checks: int | None = None,
    groups: str | Sequence[Any] | None = None,
    frames: Any = None,
    rng: int | np.random.Generator = 0,
    threads: int | None = None,
) -> Calibration:
    """Find the levels that the numbers of frames like the reference's exceed at a stated rate.

    Each group of frames is scored once per statistic: the most extreme number of its frames, from dH against the
    reference without the group's own rows. Adding rows lowers dH, so these scores bound from above what the full
    reference gives for a new group, and a rank among them bounds the rate of false alarms if groups are exchangeable.

    Parameters
    ----------
    reference
        The reference, or the name of its file.
    false_alarms
        Asked rate of checks (nanoseconds, runs) of an in-distribution run in which any statistic is beyond its level.
    per
        What the rate counts. "ns" and "run" need the number of checks in one: a monitor knows that of a nanosecond.
    statistics
        Which numbers of a frame raise alarms and share the rate. Of averaged rows (in a reference of free molecules of
        those of single environments), compared with what is usual in their place (see `LocalScorer`): "local_mean",
        "local_max", "local_cluster", "local_tail". Of plain rows: "dh_max", "dh_q99", "dh_mean", "n_tail",
        "tail_cluster", "frame_entropy". Default the first three, or "dh_max", "tail_cluster" and "dh_mean" where the
        reference has no averaged rows. A low dh_mean counts only with `frames`: leaving a group out says nothing of how
        low dH may be. Of plain rows that raise no alarm nothing is scored where it would take more than 1e10 pairs of
        an environment and a row of the reference (`Calibration.lacks_dh`): from 333 000 rows on by its own groups.
    checks
        Checks in a run, for per="run".
    groups
        None: the groups of the reference (with `frames`: blocks of two correlation times). "frame", "file", or one
        label per frame.
    frames
        Frames or files that are in distribution and not in the reference: scored against the whole reference. Frames of
        the reference are recognised whatever the order of atoms, wrapping, a shift, or the digits of a text file.
    rng
        Seed or generator: chooses whole groups where the reference has more than 30 000 rows.
    threads
        Threads to use; never changes the result.

    Raises
    ------
    ValueError
        If `false_alarms` is outside (0, 1), if `per`, `statistics`, `checks` or `groups` is not usable, or if all
        `frames` are in the reference; some of them are left out with a warning.
    MismatchError
        If statistics of averaged rows are named, and the reference has none.
    """
    reference = opened_reference(reference)
    rate = check_share("false_alarms", false_alarms, "rate between 0 and 1")
    per = check_choice("per", per, PERS)
    statistics = check_statistics(default_statistics(reference) if statistics is None else statistics)
    require_rows(reference, statistics)
    check_checks(checks)
    if frames is None:
        if "thinned" in reference.provenance:
            warnings.warn(
                "calibrate: the reference was thinned, and its rows are those that are unlike each other: levels from "
                "its own groups promise nothing; give frames that are not in it (frames=, --frames)",
                stacklevel=2,
            )
        source, (frame_groups, rule) = reference, _frame_groups(reference, groups)
        own = None if groups is None else frame_groups
        is_plain = is_dh_scored(reference, statistics)
        plain = held_out_frames(reference, own, rng, threads) if is_plain else None
    else:
        source = built_like(reference, frames, groups=groups, threads=threads)
        frame_groups, rule = source.arrays.frame_group, source.provenance["groups"]
        repeated = _repeated(source, reference)
        is_plain = is_dh_scored(reference, statistics, source.n_environments) or not source.has_averaged_rows
        plain = separate_frames(reference, source, threads, repeated) if is_plain else None
    landmarks, few, local = None, np.empty(0, np.int64), None
    nulls: list[NullScores] = []
    if source.has_averaged_rows and reference.has_averaged_rows:
        if frames is None:
            local, landmarks, few = held_out_neighbourhoods(reference, own, rng, threads)
        else:
            local, landmarks = separate_neighbourhoods(reference, source, repeated, threads)
        nulls, tail_levels = local.nulls()
        landmarks = replace(landmarks, tail_level=tail_levels.get(ANY_ELEMENT, GUESS))
    elif frames is None:
        few = learn_landmarks(reference, own, np.empty(0, np.int64), threads, averaged=False).apart
    held_out = plain or local
    assert held_out is not None  # one or the other is there
    if frames is None:
        n = sum(len(frame.dh) for frame in held_out.full)
        how = f"{n} held-out environments, leaving one group out at a time; groups: {rule}"
    else:
        n_apart = source.n_frames - int(repeated.sum())
        how = f"{n_apart} separate frames scored against the whole reference; {rule}"
    unmatched = sum(int(np.isposinf(frame.dh).sum()) for frame in held_out.full)  # of an element that one group has
    if unmatched:
        how += f"; {unmatched} environments of elements without a counterpart left out"
    if len(few):
        how += f"; {many_groups(len(few))}, far from all others and of kinds that few have, set no level"
    atom_levels: dict[int, float] = {}
    if plain is None:
        how += "; dH, which raises no alarm, was not scored: the reference is large"
    else:
        of_plain, atom_levels = plain.nulls(few)
        nulls = of_plain + nulls
    numbers = [frame.atoms.numbers for frame in held_out.full]
    composition = np.unique(np.concatenate([np.empty(0, int), *numbers]), return_counts=True)
    n_groups = n_held_out(nulls, np.empty(0, np.int64))
    if n_groups < 2:
        warnings.warn(
            f"{many_groups(n_groups)} of frames could be held out: the level is a guess and promises nothing; "
            "add independent frames to the reference, or give frames= to calibrate",
            stacklevel=2,
        )
    return Calibration(
        fingerprint=reference.fingerprint,
        false_alarms=rate,
        per=per,
        statistics=statistics,
        nulls=tuple(nulls),
        atom_levels=atom_levels,
        typical=TypicalFrame(
            int(np.median([len(z) for z in numbers])) if numbers else 0,
            {int(z): int(n) for z, n in zip(*composition, strict=True)},
            groups_of_elements(held_out) if plain is None else {},
        ),
        landmarks=landmarks,
        n_groups=n_held_out(nulls, np.intersect1d(few, held_out.groups)),
        origin=Origin(how, reference.fingerprint, None if frames is not None else frame_groups, frames is not None),
        checks=None if checks is None else int(checks),
        times=_times(source, frame_groups),
    )


def _repeated(source: Reference, reference: Reference) -> NDArray[np.bool_]:
    """(n_frames,) which separate frames are in the reference: they say nothing of new ones, and are left out."""
    repeated = frames_also_in(source, reference)
    n = int(repeated.sum())
    if n and n == len(repeated):
        raise ValueError(
            f"frames: expected frames that are not in the reference, got {n} that are all in it; "
            "give others, or none: then the groups of the reference are held out"
        )
    if n:
        warnings.warn(f"frames: left out {n} of {len(repeated)}, which are in the reference", stacklevel=3)
    return repeated


def _times(source: Reference, frame_groups: NDArray[np.int64]) -> BlockTimes:
    """The times of a typical group of frames."""
    times, files = source.arrays.frame_time, source.arrays.frame_source
    if len(times) < 2 or not np.isfinite(times).all():
        return BlockTimes()
    steps = np.diff(times)[(np.diff(files) == 0) & (np.diff(times) > 0)]
    if len(steps) == 0:
        return BlockTimes()
    spacing = float(np.median(steps))
    _, frames_per_group = np.unique(frame_groups, return_counts=True)
    return BlockTimes(spacing * float(np.median(frames_per_group)), spacing)


def _frame_groups(reference: Reference, groups: str | Sequence[Any] | None) -> tuple[NDArray[np.int64], str]:
    """(n_frames,) group of each frame of the reference, and by which rule."""
    if groups is None:
        return reference.arrays.frame_group, str(reference.provenance.get("groups", "unknown"))
    if isinstance(groups, str):
        own = {"frame": np.arange(reference.n_frames), "file": reference.arrays.frame_source}
        if groups in own:
            return own[groups], f"by '{groups}'"
        raise ValueError(f"groups: expected 'frame', 'file', or one label per frame, got {groups!r}")
    labels = label_list(groups)
    if len(labels) != reference.n_frames:
        raise ValueError(f"groups: expected one label for each of {reference.n_frames} frames, got {len(labels)}")
    place = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return np.array([place[label] for label in labels], dtype=np.int64), "labels given"
