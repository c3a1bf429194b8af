"""Levels for a reference that has grown: the groups of its parent, scored again with all that was added."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quests_md.errors import MismatchError
from quests_md.reference import MAX_HELD_OUT, Reference, copies_of, frames_of_ancestors

from .landmarks import Landmarks, learn_landmarks
from .levels import ANY_ELEMENT, GUESS, NullScores
from .null_scores import held_out_frames, held_out_neighbourhoods, n_held_out
from .plain_scores import groups_of_elements, is_dh_scored
from .statistics import STATISTICS, require_rows

if TYPE_CHECKING:
    from .calibration import Calibration

__all__ = ["Rescored", "carried", "frames_of_parent", "kept_upper", "rescored", "why_not_carried"]


class Rescored(NamedTuple):
    """What is known of the numbers of some frames of a reference, as if their groups were not in it."""

    nulls: list[NullScores]
    """The null distributions of all statistics."""
    atom_levels: dict[int, float]
    """Level of dH above which atoms of each element are counted, nats."""
    landmarks: Landmarks | None
    """Landmarks of the whole reference; None: there are no averaged rows."""
    n_groups: int
    """Groups that were scored."""
    groups_of: dict[int, tuple[int, ...]]
    """Groups whose frames have each atomic number, where dH was not scored; else empty."""


def carried(calibration: "Calibration", reference: Reference, threads: int | None) -> dict[str, Any]:
    """What is another in a calibration that is carried to a reference; raises as `Calibration.carried_to`.

    Everything comes from the frames that set the levels first, so that the way by which levels come to a reference does
    not matter.
    """
    origin = calibration.origin
    frames_of_parent(reference, calibration.fingerprint)
    frames = frames_of_parent(reference, origin.fingerprint)
    require_rows(reference, calibration.statistics)
    changed: dict[str, Any] = {"fingerprint": reference.fingerprint}
    if origin.frame_groups is not None:
        found = rescored(reference, frames, origin.frame_groups, calibration.statistics, threads)
        typical = replace(calibration.typical, groups_of=found.groups_of)
        rest = {name: getattr(found, name) for name in ("atom_levels", "landmarks", "n_groups")}
        return changed | rest | {"nulls": tuple(found.nulls), "typical": typical}
    if (why := why_not_carried(calibration)) is not None:
        raise MismatchError(f"calibration: {why}")
    return changed | {"nulls": tuple(kept_upper(calibration.nulls)), "landmarks": None}


def why_not_carried(calibration: "Calibration") -> str | None:
    """Why a calibration cannot be carried to any other reference, and what to do; None: it can be."""
    origin = calibration.origin
    if origin.frame_groups is not None or not calibration.is_local:
        return None
    what = (
        "of separate frames" if origin.is_separate else "of an older file, which does not say how frames were grouped"
    )
    again = "calibrate again with frames=" if origin.is_separate else "calibrate again"
    return (
        f"{what}, local scores ({calibration.statistics[0]}) cannot be carried to another reference; {again}, or "
        "choose statistics of dH"
    )


def frames_of_parent(reference: Reference, fingerprint: str) -> range:
    """The frames that a reference has from one of those it was made from.

    Raises MismatchError if that is none of them, or if the file does not say which frames it gave.
    """
    if fingerprint not in reference.ancestors:
        raise MismatchError(
            f"calibration: made for reference {fingerprint}, from which reference {reference.fingerprint} was not made "
            "by extend or merge; calibrate again with this reference"
        )
    frames = frames_of_ancestors(reference).get(fingerprint)
    if frames is None:
        raise MismatchError(
            f"calibration: reference {reference.fingerprint} was made by an older version and does not say which "
            f"frames are those of {fingerprint}; extend again, or calibrate with this reference"
        )
    return frames


def rescored(
    reference: Reference,
    frames: range,
    frame_groups: NDArray[np.int64],
    statistics: Iterable[str],
    threads: int | None,
) -> Rescored:
    """Scores of the groups of some frames of the reference, each held out against all the rest.

    `frame_groups`: (n,) the group of each of these frames. DH falls where rows are added, so that no score of dH is
    above what it is without the other frames. These are known and give no scores. `statistics`: those in
    use; of a large reference dH is scored for these alone. MismatchError if there are not as many groups as frames.
    """
    if len(frames) != len(frame_groups):
        raise MismatchError(
            f"calibration: its groups are of {len(frame_groups)} frames, reference {reference.fingerprint} has "
            f"{len(frames)} of them; calibrate again with this reference"
        )
    groups, scored = _groups_left_out(reference, frames, frame_groups), np.zeros(reference.n_frames, bool)
    scored[frames.start : frames.stop] = True
    landmarks, nulls, local = None, list[NullScores](), None
    if reference.has_averaged_rows:
        local, landmarks, few = held_out_neighbourhoods(reference, groups, 0, threads, scored)
        nulls, tail_levels = local.nulls()
        landmarks = replace(landmarks, tail_level=tail_levels.get(ANY_ELEMENT, GUESS))
    else:
        nothing = np.empty(0, np.int64)
        few = learn_landmarks(reference, groups, nothing, threads, averaged=False, setting=frame_groups).apart
    n_rows = min(MAX_HELD_OUT, int(scored[reference.arrays.atom_frame].sum()))
    if local is not None and not is_dh_scored(reference, statistics, n_rows):
        n_groups = n_held_out(nulls, np.intersect1d(few, local.groups))
        return Rescored(nulls, {}, landmarks, n_groups, groups_of_elements(local))
    held_out = held_out_frames(reference, groups, 0, threads, scored)
    of_plain, atom_levels = held_out.nulls(few, np.unique(reference.numbers))
    nulls = of_plain + nulls
    return Rescored(nulls, atom_levels, landmarks, n_held_out(nulls, np.intersect1d(few, held_out.groups)), {})


def kept_upper(nulls: Sequence[NullScores]) -> list[NullScores]:
    """The null distributions that stay valid as they are where rows are added: those of upper levels of dH."""
    return [
        null
        for null in nulls
        if STATISTICS[null.statistic].scale == "plain"
        and (null.side == "above" or not STATISTICS[null.statistic].needs_reference)
    ]


def _groups_left_out(reference: Reference, frames: range, frame_groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n_frames,) what is left out together: the groups of some frames, and those of the frames that were added.

    An added frame that is a copy of one of these frames is left out with it, or the frame would be known by its copy;
    the others that were added with the copy are not.
    """
    _, own = np.unique(reference.arrays.frame_group, return_inverse=True)
    groups: NDArray[np.int64] = own + int(frame_groups.max(initial=-1)) + 1
    groups[frames.start : frames.stop] = frame_groups
    copy_of = copies_of(reference, frames)
    is_added = np.ones(reference.n_frames, bool)
    is_added[frames.start : frames.stop] = False
    copies = np.flatnonzero(is_added & (copy_of >= 0))
    groups[copies] = groups[copy_of[copies]]
    return groups
