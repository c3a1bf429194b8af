"""Judge a frame once more, beside colder copies of the frames of the reference."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from quests_md.calibration import STATISTICS, Calibration, Colder, ErrorCalibration, FrameNumbers, Level, usual_dh
from quests_md.reference import Reference

from .modes import Environments

__all__ = ["BesideColder", "ColderCopies"]

#: Single environments that may be unlike those of the copies, and share of a frame's: more keep their local scores.
FEW_UNLIKE, UNLIKE = 3, 0.05

#: Copies of references in use, by whether rows are averaged: they take a second or more, and runs share a reference.
_MADE: WeakKeyDictionary[Reference, dict[bool, Colder | None]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True, eq=False)
class BesideColder:
    """What is left of the alarms of a frame."""

    found: FrameNumbers
    """The numbers of the frame, none larger than before."""
    excesses: dict[str, float]
    """How far each statistic is beyond its level, no farther than before."""
    n_colder: int | None = None
    """Atoms that count no longer: they were above the level of local scores, or of dH, that 1 % exceed. None: not
    asked, since there is no alarm, or since the reference holds no structure in motion."""


class ColderCopies:
    """Colder copies of the frames of a reference, made when a frame is first beyond a level."""

    def __init__(self, reference: Reference, calibration: Calibration) -> None:
        self._reference, self._calibration = reference, calibration

    def judge(
        self,
        found: FrameNumbers,
        these: Environments,
        excesses: dict[str, float],
        levels: Sequence[Level],
        release: float,
        threads: int | None,
    ) -> BesideColder:
        """The frame judged once more, with the colder copies in the place of the reference.

        An alarm stands if the frame has it beside both. Local scores are then those beside the copies; dH counts as
        usual for environments that are like those of the copies, whether larger or smaller. All environments are
        judged so: to take the lower of two scores of each would lower the mean of a frame that is in the reference.
        """
        if isinstance(self._calibration, ErrorCalibration):  # labels tell of errors at this dH, whatever it comes from
            return BesideColder(found, excesses)
        if not any(value > 0 for value in excesses.values()) or (colder := self._copies(threads)) is None:
            return BesideColder(found, excesses)
        like = these.known.copy()
        like[like] = colder.has(these.rows[like], these.numbers[like], threads)
        beside, before, after = found, np.zeros(len(like), bool), np.zeros(len(like), bool)
        if self._calibration.is_plain:
            beside = _with_usual_dh(beside, these, like, usual_dh(self._calibration))
            before, after = _strange(found), _strange(beside)
        if found.local is not None and self._calibration.landmarks is not None:
            level = self._calibration.landmarks.tail_level
            assert these.averaged is not None
            local = colder.local_scores(these.averaged, these.numbers, threads)
            # neighbourhoods that are averaged look alike where single environments do not, as in twins at rest
            unlike = these.known & ~like
            if unlike.sum() > FEW_UNLIKE + UNLIKE * these.known.sum():
                local[unlike] = np.fmax(local[unlike], found.local[unlike])
            local[~these.known] = np.nan
            beside = replace(beside, local=local, local_tail=~(local <= level))
            before, after = before | ~(found.local <= level), after | ~(local <= level)
        above = [level for level in levels if level.side == "above"]
        below = [level for level in levels if level.side == "below"]  # too near the reference, copies or not
        lower = {}
        for name, excess in excesses.items():
            statistic = STATISTICS[name]
            again = statistic.excess(beside, statistic.of(beside), above, release)
            if any(level.statistic == name for level in below):
                again = max(again, statistic.excess(found, statistic.of(found), below, release))
            lower[name] = min(excess, again)
        return BesideColder(_strange_beside_both(found, beside), lower, int((before & ~after).sum()))

    def _copies(self, threads: int | None) -> Colder | None:
        landmarks = self._calibration.landmarks
        averaged = landmarks is not None and landmarks.averaged
        made = _MADE.setdefault(self._reference, {})
        if averaged not in made:
            made[averaged] = Colder.of(self._reference, averaged=averaged, threads=threads)
        return made[averaged]


def _strange(found: FrameNumbers) -> NDArray[np.bool_]:
    """(n,) environments above the atom level, where it is looked at, or their level."""
    above = ~(found.excess <= 0)
    return above if found.tail is None else above | found.tail


def _with_usual_dh(found: FrameNumbers, these: Environments, like: NDArray[np.bool_], usual: float) -> FrameNumbers:
    return replace(
        found,
        dh=np.where(like & ~np.isnan(found.dh), usual, found.dh),
        averaged=np.where(like & ~np.isnan(found.averaged), usual, found.averaged),
        excess=np.where(like, np.minimum(found.excess, usual - these.levels), found.excess),
        tail=None if found.tail is None else found.tail & ~like,
    )


def _strange_beside_both(found: FrameNumbers, beside: FrameNumbers) -> FrameNumbers:
    """The lower number of each environment, which tells where the frame is strange."""
    both = replace(found, dh=np.fmin(found.dh, beside.dh), excess=np.fmin(found.excess, beside.excess))
    if found.tail is not None and beside.tail is not None:
        both = replace(both, tail=found.tail & beside.tail)
    if found.local is None or beside.local is None or found.local_tail is None or beside.local_tail is None:
        return both
    return replace(both, local=np.fmin(found.local, beside.local), local_tail=found.local_tail & beside.local_tail)
