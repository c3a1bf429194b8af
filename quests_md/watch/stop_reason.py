"""Why a run was stopped, in a sentence that a person understands."""

from collections.abc import Sequence
from typing import NamedTuple

from quests_md._words import told
from quests_md.records import KINDS, Check, Event

__all__ = ["StopReason", "stopped_by_action", "stopped_by_trigger"]


class StopReason(NamedTuple):
    """Why a run was stopped."""

    text: str
    """A sentence."""
    event: int | None
    """The event that stopped it."""


def stopped_by_action(name: str, check: Check, event: Event) -> StopReason:
    """An action has asked for the end of the run."""
    return StopReason(f"{name} stopped the run at {_moment(check)}: {told(event)}", event.id)


def stopped_by_trigger(check: Check, events: Sequence[Event]) -> StopReason:
    """The trigger has, by its `stop_excess`; `events`: those that are open."""
    gravest = max(events, key=lambda event: (KINDS.index(event.kind), event.id), default=None)
    if check.state == "invalid" or check.explosion:
        what = "the simulation has exploded"
    else:
        what = f"the check is {check.trigger_excess:.3g} beyond its level, more than stop_excess of the trigger allows"
    which = "" if gravest is None else f"; {told(gravest)}"
    return StopReason(
        f"the trigger stopped the run at {_moment(check)}: {what}{which}", None if gravest is None else gravest.id
    )


def _moment(check: Check) -> str:
    return f"step {check.step}" + ("" if check.time_ps is None else f" ({check.time_ps:.6g} ps)")
