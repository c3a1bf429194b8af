"""A run in words: titles of its pictures, and summaries of its checks and events."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from quests_md._words import many
from quests_md.log import Log
from quests_md.records import KINDS, Event

from .log_facts import level_of_largest, short_outliers

__all__ = ["growth_sentence", "log_summary", "reference_and_level", "run_sentence", "run_summary"]

#: Elements that a title names.
MOST_ELEMENTS = 8

#: Statistics that a title names.
MOST_STATISTICS = 3


def run_sentence(log: Log) -> str:
    """What happened first in a run, and whether the run broke down."""
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
        text = f"Broke down at {_onset(first)}"
    elif first.kind == "transition":
        what = f"Phase {first.phase} grows" if first.phase else "Unlike its own beginning"
        if first.reason.startswith("a connected cluster") and not first.phase:
            what = "A cluster grows"
        text = f"{what} from {_onset(first)} on"
    elif first.onset_step == log.step[0] and log.state[0] == "out":
        text = f"Outside the reference from the first check on, {_onset(first)}"
    else:
        text = f"Left the reference at {_onset(first)}"
    broken = next((event for event in log.events if event.kind == "exploded"), first)
    if broken is not first:
        text += f", broke down at step {broken.onset_step}"
    return text + (f"; {len(log.events)} events" if len(log.events) > 1 else "")


def growth_sentence(events: Sequence[Event]) -> str:
    """How far the largest of the events grew; each event has at least one size."""
    event = max(events, key=lambda event: max(size for _, size in event.size_history))
    (first, begin), sizes = event.size_history[0], dict(event.size_history)
    step = max(sizes, key=lambda step: (sizes[step], -step))
    what = f" ({event.phase})" if event.phase else ""
    atoms = many(sizes[step], "atom")
    if step == first:
        return f"Event {event.id}{what} had {atoms} at step {first} and never more"
    return f"Event {event.id}{what} grew from {begin} to {atoms} within {step - first} steps"


def log_summary(log: Log) -> str:
    """What a log holds, in a line: checks, events, and checks out that are no events."""
    last = f", last at step {log.step[-1]}" if len(log) else ""
    counts = {state: int((log.state == state).sum()) for state in ("in", "out", "invalid")}
    text = f"{many(len(log), 'check')}{last}: {run_summary(counts, log.events)}"
    short, since = short_outliers(log)
    if short:
        text += f"; {many(short, 'time')} out too shortly for an event"
    return text if since is None else f"{text}; out since step {since}, not long enough yet for an event"


def run_summary(counts: Mapping[str, int], events: Sequence[Event]) -> str:
    """Checks by state and events by kind."""
    text = f"{', '.join(f'{count} {state}' for state, count in counts.items())}; {many(len(events), 'event')}"
    kinds = [event.kind for event in events]
    named = [f"{kinds.count(kind)} {kind}" for kind in KINDS if kind in kinds]
    if n_open := sum(event.is_open for event in events):
        named.append(f"{n_open} still open")
    return f"{text}: {', '.join(named)}" if named else text


def reference_and_level(header: dict[str, Any]) -> str:
    """What the reference of a run holds, and what its level promises, from the header of the log: two lines."""
    reference, calibration = header.get("reference", {}), header.get("calibration", {})
    elements = reference.get("elements", [])
    named = ", ".join(elements[:MOST_ELEMENTS]) + (", ..." if len(elements) > MOST_ELEMENTS else "")
    known = f"reference: {reference.get('n_environments')} environments of {named or 'no element'}"
    return f"{known}, h = {reference.get('bandwidth')} 1/Å\n{_promise(calibration)}"


def _onset(event: Event) -> str:
    """When an event began."""
    numbers = ((event.onset_time_ps, ".2f", "ps"), (event.onset_temperature_K, ".0f", "K"))
    known = [f"{value:{form}} {unit}" for value, form, unit in numbers if value is not None and math.isfinite(value)]
    return f"step {event.onset_step}" + (f" ({', '.join(known)})" if known else "")


def _promise(calibration: dict[str, Any]) -> str:
    """The level of the largest dH, or what raises alarms, and at what rate of false alarms."""
    level, kind = float(calibration.get("level", math.nan)), calibration.get("kind")
    n_groups = calibration.get("n_groups")
    if "tolerance" in calibration:  # levels from labels promise few missed errors
        errs = (
            f"{100 * calibration.get('share', 1):.2g} % err by more than {calibration['tolerance']:g} and are not above"
        )
        promise = f"at most {errs}" if kind == "conformal" else "no promise"
        value = f"level {level:.2f} nats" if math.isfinite(level) else "every atom is above the level"
        return f"{value}: {promise}, from {n_groups} labelled groups of frames"
    if not math.isfinite(level):
        return "no level: nothing could be held out of the reference, no atom is ever above"
    text = f"level {level:.2f} nats"
    statistics = calibration.get("statistics", ())
    if tuple(statistics) not in ((), ("dh_max",)):
        text = f"alarms by {', '.join(statistics) if len(statistics) <= MOST_STATISTICS else len(statistics)}"
        text += " statistics" if len(statistics) > MOST_STATISTICS else ""
    rate = float(calibration.get("rate", 1.0))
    per = (
        "check" if calibration.get("checks") == 1 else str(calibration.get("per"))
    )  # of a run, 1 where it is not known
    unit = {"ns": "ns", "run": "runs"}.get(per, "checks")
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
