"""Levels for a reference that has grown: the groups of its parent, scored again with all that was added."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quests_md.errors import MismatchError
from quests_md.reference import Reference, frames_of_ancestors

from .landmarks import Landmarks
from .levels import ANY_ELEMENT, GUESS, NullScores
from .null_scores import held_out_frames, held_out_neighbourhoods
from .statistics import STATISTICS

__all__ = ["Rescored", "frames_of_parent", "kept_upper", "rescored"]


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


def rescored(reference: Reference, fingerprint: str, threads: int | None) -> Rescored:
    """Scores of the groups that an ancestor of the reference had, each held out against all the rest.

    DH falls where rows are added, so that no score of dH is above that of the ancestor. Groups that came later are
    known and give no scores. Raises as `frames_of_parent`.
    """
    frames, groups = frames_of_parent(reference, fingerprint), reference.arrays.frame_group
    later = np.setdiff1d(groups, groups[frames.start : frames.stop])
    landmarks, few, of_local = None, np.empty(0, np.int64), list[NullScores]()
    if reference.has_averaged_rows:
        local, landmarks, few = held_out_neighbourhoods(reference, None, 0, threads)
        of_local, tail_levels = local.nulls(later)
        landmarks = replace(landmarks, tail_level=tail_levels.get(ANY_ELEMENT, GUESS))
    nulls, atom_levels = held_out_frames(reference, None, 0, threads).nulls(_union(later, few))
    nulls += of_local
    n_groups = max((len(null.scores) for null in nulls if STATISTICS[null.statistic].over != "tail"), default=0)
    return Rescored(nulls, atom_levels, landmarks, n_groups)


def kept_upper(nulls: Sequence[NullScores]) -> list[NullScores]:
    """The null distributions that stay valid as they are where rows are added: those of upper levels of dH."""
    return [
        null
        for null in nulls
        if STATISTICS[null.statistic].scale == "plain"
        and (null.side == "above" or not STATISTICS[null.statistic].needs_reference)
    ]


def _union(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    both: NDArray[np.int64] = np.union1d(first, second)
    return both
