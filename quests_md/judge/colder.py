"""Judge a frame once more, beside colder copies of the frames of the reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quests_md.calibration import STATISTICS, Calibration, Colder, FrameNumbers, Level, usual_dh
from quests_md.reference import Reference

from .modes import Environments

__all__ = ["BesideColder", "ColderCopies"]


@dataclass(frozen=True, slots=True, eq=False)
class BesideColder:
    """What is left of the alarms of a frame."""

    found: FrameNumbers
    """The numbers of the frame, none larger than before."""
    excesses: Mapping[str, float]
    """How far each statistic is beyond its level, no farther than before."""
    n_colder: int | None = None
    """Atoms that count no longer: they were above the level of local scores, or of dH, that 1 % exceed. None: not
    asked, since there is no alarm, or since the reference holds no structure in motion."""


class ColderCopies:
    """Colder copies of the frames of a reference, made when a frame is first beyond a level."""

    def __init__(self, reference: Reference, calibration: Calibration) -> None:
        self._reference, self._calibration = reference, calibration
        self._made: list[Colder | None] = []

    def judge(
        self,
        found: FrameNumbers,
        these: Environments,
        excesses: Mapping[str, float],
        levels: Sequence[Level],
        release: float,
        threads: int | None,
    ) -> BesideColder:
        """The numbers of a frame where each environment counts as what it is beside the reference or beside the copies.

        The lower of the two local scores counts, but not as less than usual, 0. DH of environments that are like those
        of the copies counts as usual, where it is larger.
        """
        if not any(value > 0 for value in excesses.values()) or (colder := self._copies(threads)) is None:
            return BesideColder(found, excesses)
        calibration, before, after = self._calibration, np.zeros(len(found.dh), bool), np.zeros(len(found.dh), bool)
        if calibration.is_plain:
            before |= _strange(found)
            found = _with_lower_dh(found, these, colder, usual_dh(calibration), threads)
            after |= _strange(found)
        if found.local is not None and calibration.landmarks is not None:
            level = calibration.landmarks.tail_level
            before |= ~(found.local <= level)
            local = _lower_scores(found.local, these, colder, threads)
            found = replace(found, local=local, local_tail=~(local <= level))
            after |= ~(local <= level)
        lower = {}
        for name, excess in excesses.items():
            statistic = STATISTICS[name]
            lower[name] = min(excess, statistic.excess(found, statistic.of(found), levels, release))
        return BesideColder(found, lower, int((before & ~after).sum()))

    def _copies(self, threads: int | None) -> Colder | None:
        if not self._made:
            landmarks = self._calibration.landmarks
            averaged = landmarks is not None and landmarks.averaged
            self._made.append(Colder.of(self._reference, averaged=averaged, threads=threads))
        return self._made[0]


def _strange(found: FrameNumbers) -> NDArray[np.bool_]:
    """(n,) environments above the atom level, where it is looked at, or their level."""
    above = ~(found.excess <= 0)
    return above if found.tail is None else above | found.tail


def _lower_scores(
    scores: NDArray[np.float64], these: Environments, colder: Colder, threads: int | None
) -> NDArray[np.float64]:
    """(n,) local scores, lower where they are so beside the copies; 0 is usual."""
    assert these.averaged is not None
    asked, lower = np.flatnonzero(scores > 0), scores.copy()
    beside = colder.local_scores(these.averaged[asked], these.numbers[asked], threads)
    lower[asked] = np.fmin(scores[asked], np.maximum(beside, 0.0))
    return lower


def _with_lower_dh(
    found: FrameNumbers, these: Environments, colder: Colder, usual: float, threads: int | None
) -> FrameNumbers:
    asked = np.flatnonzero(these.known & (_strange(found) | (found.dh > usual) | (found.averaged > usual)))
    like = np.zeros(len(found.dh), dtype=bool)
    like[asked] = colder.has(these.rows[asked], these.numbers[asked], threads)
    lower = np.where(like, usual, np.inf)
    return replace(
        found,
        dh=np.minimum(found.dh, lower),
        averaged=np.minimum(found.averaged, lower),
        excess=np.minimum(found.excess, lower - these.levels),
        tail=None if found.tail is None else found.tail & ~like,
    )
