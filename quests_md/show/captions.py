"""A run in words: titles of its pictures."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from quests_md._words import many
from quests_md.log import Log
from quests_md.records import Event

__all__ = ["about", "growth_sentence", "level_of_largest", "run_sentence", "when"]

#: Elements that a title names.
MOST_ELEMENTS = 8

#: Statistics that a title names.
MOST_STATISTICS = 3


def run_sentence(log: Log) -> str:
    """What happened first, and whether it ended badly."""
    if not log.events:
        checks = many(len(log), "check")
        out = int((log.state == "out").sum())
        if out:
            return f"No event in {checks}: {out} out, too few in a row"
        if not math.isfinite(level_of_largest(log.header)):
            return f"Nothing decided in {checks}: there is no level"
        return f"Stayed inside the reference: {checks}, no event"
    first = log.events[0]
    if first.kind == "exploded":
        text = f"Broke down at {when(first)}"
    elif first.kind == "transition":
        what = f"Phase {first.phase} grows" if first.phase else "Unlike its own beginning"
        if first.reason and not first.phase:
            what = "A cluster grows"
        text = f"{what} from {when(first)} on"
    elif first.onset_step == log.step[0] and log.state[0] == "out":
        text = f"Outside the reference from the first check on, {when(first)}"
    else:
        text = f"Left the reference at {when(first)}"
    broken = next((event for event in log.events if event.kind == "exploded"), first)
    if broken is not first:
        text += f", broke down at step {broken.onset_step}"
    return text + (f"; {len(log.events)} events" if len(log.events) > 1 else "")


def growth_sentence(events: Sequence[Event]) -> str:
    """What became of the largest of the events, which have at least one size."""
    event = max(events, key=lambda event: max(size for _, size in event.size_history))
    (first, begin), sizes = event.size_history[0], dict(event.size_history)
    step = max(sizes, key=lambda step: (sizes[step], -step))
    what = f" ({event.phase})" if event.phase else ""
    atoms = many(sizes[step], "atom")
    if step == first:
        return f"Event {event.id}{what} had {atoms} at step {first} and never more"
    return f"Event {event.id}{what} grew from {begin} to {atoms} within {step - first} steps"


def when(event: Event) -> str:
    """The onset of an event."""
    numbers = ((event.onset_time_ps, ".2f", "ps"), (event.onset_temperature_K, ".0f", "K"))
    known = [f"{value:{form}} {unit}" for value, form, unit in numbers if value is not None and math.isfinite(value)]
    return f"step {event.onset_step}" + (f" ({', '.join(known)})" if known else "")


def about(header: dict[str, Any]) -> str:
    """What the run is compared with, and what the level is worth, in two lines."""
    reference, calibration = header.get("reference", {}), header.get("calibration", {})
    elements = reference.get("elements", [])
    named = ", ".join(elements[:MOST_ELEMENTS]) + (", ..." if len(elements) > MOST_ELEMENTS else "")
    known = f"reference: {reference.get('n_environments')} environments of {named or 'no element'}"
    return f"{known}, h = {reference.get('bandwidth')} 1/Å\n{_worth(calibration)}"


def level_of_largest(header: dict[str, Any]) -> float:
    """The level of the largest dH, NaN if the header has none."""
    return float(header.get("calibration", {}).get("level", np.nan))


def _worth(calibration: dict[str, Any]) -> str:
    """The level in words."""
    level, kind = float(calibration.get("level", np.nan)), calibration.get("kind")
    n_groups = calibration.get("n_groups")
    if not np.isfinite(level):
        return "no level: nothing could be held out of the reference, no atom is ever above"
    text = f"level {level:.2f} nats"
    statistics = calibration.get("statistics", ())
    if len(statistics) > 1:
        text = f"alarms by {', '.join(statistics) if len(statistics) <= MOST_STATISTICS else len(statistics)}"
        text += " statistics" if len(statistics) > MOST_STATISTICS else ""
    rate = float(calibration.get("rate", 1.0))
    unit = {"check": "checks", "ns": "ns", "run": "runs"}.get(str(calibration.get("per")), "checks")
    often = f"in {1 / rate:.0f} {unit}" if 0 < rate <= 0.5 else f"in {rate:.0%} of {unit}"
    promise = f"at most 1 false alarm {often}" if rate <= 0.5 else f"false alarms {often}"
    if rate >= 1:
        promise = "it promises nothing"
    if kind == "none" and n_groups == 1:
        return f"{text}: a guess, the reference is one group of frames"
    if kind == "none":
        what = "the extremes" if text.startswith("alarms") else "the largest dH"
        return f"{text}: {what} of {n_groups} held-out groups of frames; {promise}"
    if kind == "extrapolated":
        return f"{text}: about 1 false alarm {often}, extrapolated from {n_groups} held-out groups of frames"
    return f"{text}: {promise}, from {n_groups} held-out groups of frames"
