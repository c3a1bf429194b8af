"""What pictures and summaries ask of a log: where its events lie, which statistics raise alarms, at which levels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quests_md.calibration import STATISTICS
from quests_md.log import Log
from quests_md.records import Event

__all__ = ["Span", "event_spans", "level_of_largest", "levels_of", "short_outliers", "statistics_in_use"]


@dataclass(frozen=True, slots=True)
class Span:
    """The checks of an event, as indices into the columns of the log."""

    first: int
    """The onset."""
    last: int
    """The last check out."""
    end: int
    """One past its last check, which may be back in."""


def event_spans(log: Log) -> list[tuple[Event, Span]]:
    """The events of a log with their checks; an event whose onset is not among the checks is left out.

    Steps may repeat in a log. Events of one kind follow each other; events of two kinds may overlap.
    """
    order = np.argsort(log.step, kind="stable")
    steps, is_out = log.step[order], log.state != "in"
    found: list[tuple[Event, Span]] = []
    free_from: dict[str, int] = {}
    for event in log.events:
        left, right = np.searchsorted(steps, [event.onset_step, event.onset_step + 1])
        starts = order[left:right]
        starts = starts[is_out[starts] & (starts >= free_from.get(event.kind, 0))]
        if len(starts) == 0:
            continue
        first = int(starts[0])
        # the last line on an open event may be older than the last check
        end = len(log) if event.is_open else min(first + max(event.n_checks, 1), len(log))
        free_from[event.kind] = end
        found.append((event, Span(first, first + int(np.flatnonzero(is_out[first:end])[-1]), end)))
    return found


def short_outliers(log: Log) -> tuple[int, int | None]:
    """How many runs of consecutive checks out belong to no event, and since which step the last check is out.

    A run that reaches the last check may still open an event: it is not counted, and its first step is returned.
    """
    loose: NDArray[np.bool_] = log.state == "out"
    for _, span in event_spans(log):
        loose[span.first : span.end] = False
    starts = np.flatnonzero(loose & ~np.concatenate([[False], loose[:-1]]))
    if len(starts) and loose[-1]:
        return len(starts) - 1, int(log.step[starts[-1]])
    return len(starts), None


def statistics_in_use(header: dict[str, Any]) -> tuple[str, ...]:
    """Names of the statistics that may raise an alarm."""
    return tuple(header.get("calibration", {}).get("statistics", ()))


def level_of_largest(header: dict[str, Any]) -> float:
    """The level of the largest dH in nats, NaN if the header has none."""
    return float(header.get("calibration", {}).get("level", np.nan))


def levels_of(header: dict[str, Any], statistic: str, n_atoms: float = 1.0) -> list[float]:
    """The finite levels in use of one statistic for frames of so many atoms.

    A statistic that is judged by the beginning of the run itself has none.
    """
    of_run_itself = header.get("baseline_ps") and STATISTICS[statistic].has_baseline
    if of_run_itself or statistic not in statistics_in_use(header):
        return []
    levels = header.get("calibration", {}).get("levels", ())
    values = [float(level["value"]) for level in levels if level["statistic"] == statistic]
    return [STATISTICS[statistic].in_frame(value, n_atoms) for value in values if np.isfinite(value)]
