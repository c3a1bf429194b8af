"""What a round of a loop has done, and whether the loop is at its end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from quests_md._words import many

from .labelling import Labelled

__all__ = ["Limits", "Round", "reason_to_end", "reason_to_wait"]

#: Rounds in a row after which a loop ends whose frames stay beyond the levels although they were added.
STALLED = 3

#: A model is better if over these rounds its errors fall to this part at least.
BETTER = 0.95


@dataclass(frozen=True, slots=True)
class Round:
    """What a round of a loop has done."""

    number: int
    """From 0."""
    ends: tuple[str, ...]
    """How its runs have ended: "covered", "event", "exploded" or "failed"."""
    n_beyond: int
    """Frames beyond the levels."""
    n_chosen: int
    """Frames that were chosen to be labelled."""
    n_labelled: int
    """Frames that got labels."""
    n_still_out: int
    """Frames that are beyond the new levels although they are in the new reference."""
    force_error: float | None
    """Root mean square of the force errors that the model had in the labelled frames, eV/Å; None: not known."""
    n_apart: int = 0
    """Of the frames that got labels, those that were kept apart; the others are in the new reference."""
    expected_error: float | None = None
    """Mean force error that the levels expected of the atoms in the frames that the runs visited, eV/Å; None: levels
    are not from labels, or more of these atoms than may be missed are beyond what labels tell."""
    apart_error: float | None = None
    """Root mean square of the force errors of the refitted model in all frames kept apart, eV/Å; None: there are none.
    """
    error_ratio: float | None = None
    """The same over that of the model before, both in the frames that were apart before this round."""
    n_before: int = 0
    """Of the frames that were chosen, those from before a run exploded; then all are, since none beyond was fit."""

    @property
    def n_failed(self) -> int:
        """Frames that were chosen and could not be labelled."""
        return self.n_chosen - self.n_labelled


class Limits(NamedTuple):
    """What ends a loop, None: no limit."""

    rounds: int | None
    labels: int | None
    error: float | None


def reason_to_end(rounds: Sequence[Round], limits: Limits, steps: int, tolerance: float | None) -> str | None:
    """Why a loop is at its end after these rounds, in words; None: it is not.

    `steps`: of a run. `tolerance`: force error that is good, eV/Å, where levels are from labels; else None.
    """
    if not rounds:
        return None
    last = rounds[-1]
    n_labels = sum(done.n_labelled for done in rounds)
    so_far = f"({many(len(rounds), 'round')}, {many(n_labels, 'label')})"
    if set(last.ends) == {"covered"}:
        return f"covered: no run of {steps} steps left what is known {so_far}"
    if not last.n_labelled:
        ends = " and ".join(sorted(set(last.ends)))
        what = f"its runs ended {ends}: {many(last.n_beyond, 'frame')} beyond, {last.n_chosen} chosen"
        return f"nothing new: the last round added no labels ({what}) {so_far}"
    if (good := _good_enough(last, limits.error, tolerance)) is not None:
        return f"error: {good} {so_far}"
    if limits.labels is not None and n_labels >= limits.labels:
        return f"labels: all {limits.labels} are spent {so_far}"
    if limits.rounds is not None and len(rounds) >= limits.rounds:
        return f"rounds: all {limits.rounds} are done {so_far}"
    return _why_stalled(rounds[-STALLED:], tolerance, so_far)


def reason_to_wait(labelled: Labelled, folder: Path) -> str | None:
    """Why a loop cannot go on with what has become of the frames of a round, in words; None: it can."""
    if labelled.waiting:
        n, there = many(len(labelled.waiting), "frame"), folder / "labels"
        return (
            f"waiting: {n} in {folder / 'to-label'} to be labelled; put each with energy and forces under its name "
            f"into {there} and run the loop again"
        )
    if labelled.failed and not labelled.frames:  # as where a program is missing: the round is not done
        why = next(iter(labelled.failed.values()))
        return (
            f"nothing new: all {many(len(labelled.failed), 'frame')} chosen failed to be labelled, the first by {why}; "
            f"remove the files in {folder / 'failed'} and run the loop again to try once more"
        )
    return None


def _good_enough(last: Round, target: float | None, tolerance: float | None) -> str | None:
    """That forces are as good as they are to be, in words; None: they are not, or there is no target."""
    if target is None or last.force_error is None or last.force_error > target:
        return None
    if last.n_before:  # small errors there say nothing of what follows
        return None
    measured = f"forces were {last.force_error:.3g} eV/Å off in the frames of the last round"
    if tolerance is None:
        return measured
    if last.expected_error is None or last.expected_error > target:
        return None
    return f"forces are expected to be {last.expected_error:.3g} eV/Å off in what the last runs visited; {measured}"


def _why_stalled(recent: Sequence[Round], tolerance: float | None, so_far: str) -> str | None:
    if len(recent) < STALLED:
        return None
    if all(done.n_before for done in recent):
        first, last = recent[0].force_error, recent[-1].force_error
        if first is not None and last is not None and last < BETTER * first:
            return None
        return (
            f"stalled: in {STALLED} rounds runs exploded before a frame beyond was fit to be labelled, and errors of "
            f"forces in the frames before did not fall; take a shorter time step or a better model {so_far}"
        )
    if not all(done.n_still_out == done.n_labelled - done.n_apart for done in recent):
        return None
    stays = f"stalled: in {STALLED} rounds all frames that were labelled stayed beyond the levels"
    if tolerance is None:
        return f"{stays} {so_far}"
    # a model that still learns has its levels before it
    if math.prod(1.0 if done.error_ratio is None else done.error_ratio for done in recent) < BETTER:
        return None
    error = "" if recent[-1].apart_error is None else f" ({recent[-1].apart_error:.3g} eV/Å in the frames kept apart)"
    return (
        f"{stays}, and errors did not fall{error}: the model does not come to the tolerance of {tolerance:g} eV/Å; "
        f"take a larger tolerance or a better model {so_far}"
    )
