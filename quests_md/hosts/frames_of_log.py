"""The frames of a trajectory that a monitor has seen live: those of the checks in its log."""

import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from quests_md._arguments import is_integer
from quests_md._words import many
from quests_md.environments import frame_digest
from quests_md.io import Frame
from quests_md.log import Log

__all__ = ["Chosen", "chosen_by", "frames_of_log", "with_step"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Frames that may be those to be checked, as far as one frame alone can tell."""

    steps: frozenset[int]
    """Their steps."""
    digests: frozenset[str] = frozenset()
    """Checksums of those that tell no step."""
    places: frozenset[tuple[str, int]] = frozenset()
    """Their files and numbers, which then decide."""
    by_count: bool = False
    """Whether the count of a frame that tells no step is its step."""

    def wants(self, frame: Frame, count: int | None) -> bool | None:
        """Whether a frame may be one of them; None: its count decides and is not known."""
        if self.places:
            return (frame.source, frame.index) in self.places
        own: Any = frame.atoms.info.get("step")
        if is_integer(own):
            return int(own) in self.steps
        if self.by_count:
            return None if count is None else count in self.steps
        return frame_digest(frame.atoms) in self.digests


def chosen_by(steps: Collection[int] | Log) -> Chosen:
    """The frames that may be checked by these steps, or by this log."""
    if not isinstance(steps, Log):
        return Chosen(frozenset(map(int, steps)), by_count=True)
    return Chosen(frozenset(steps.step.tolist()), frozenset(steps.digest.tolist()), frozenset(_steps_by_place(steps)))


def frames_of_log(frames: Iterator[Frame], log: Log) -> Iterator[Frame]:
    """Yield the frames that the checks of the log are of; a frame that tells no step gets that of its check.

    Where the log names files and frames, these decide. Else frames are found by their step, and frames that tell none
    by their checksum, which needs all digits of the run (.traj has them).

    Raises ValueError where two frames may be that of one check, or where no frame of the log is found. Warns of checks
    without a frame.
    """
    by_place = _steps_by_place(log)
    digests: dict[int, set[str]] = {}
    steps: dict[str, list[int]] = {}
    for step, digest in zip(log.step.tolist(), log.digest.tolist(), strict=True):
        digests.setdefault(step, set()).add(digest)
        steps.setdefault(digest, []).append(step)
    taken: dict[int, tuple[str, bool]] = {}
    n_found = 0
    for frame in frames:
        own: Any = frame.atoms.info.get("step")
        told = int(own) if is_integer(own) else None
        if by_place:
            found = by_place.get((frame.source, frame.index))
            if found is None:
                continue
        else:
            digest = frame_digest(frame.atoms)
            found = told if told is not None else next((s for s in steps.get(digest, ()) if s not in taken), None)
            if found not in digests:
                continue
            is_same, place = digest in digests[found], f"frame {frame.index} of {frame.source}"
            before, was_same = taken.get(found, ("", False))
            if before and was_same:
                continue
            if before:
                raise ValueError(
                    f"steps: expected one frame for each check of the log, got step {found} at {before} and "
                    f"at {place}; give the file of the run that the log is of alone"
                )
            taken[found] = place, is_same
        n_found += 1
        yield frame if told is not None else with_step(frame, found)
    if n_found == 0 and len(log):
        how = (
            f"by file and frame, as the log has them, such as frame {log.source_frame[0]} of {log.sources[0]}"
            if by_place
            else "by their step, and where they tell none by their checksum, which needs all digits of the run (.traj)"
        )
        n = many(len(log), "check")
        raise ValueError(f"steps: expected frames that the log has checked, got none of its {n}; they are found {how}")
    if n_found < len(log):
        n = many(len(log) - n_found, "check")
        warnings.warn(f"{n} of the {len(log)} in the log have no frame in the trajectory", stacklevel=2)


def with_step(frame: Frame, step: int) -> Frame:
    """The frame with this step; its atoms stay as they are."""
    atoms = frame.atoms.copy()
    atoms.calc = frame.atoms.calc
    atoms.info["step"] = step
    return replace(frame, atoms=atoms)


def _steps_by_place(log: Log) -> dict[tuple[str, int], int]:
    """The steps of the checks by file and number of their frames, where the log names these."""
    return {
        (log.sources[source], frame): step
        for source, frame, step in zip(log.source.tolist(), log.source_frame.tolist(), log.step.tolist(), strict=True)
        if source >= 0
    }
