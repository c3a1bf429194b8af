"""Where the events of a log lie among its checks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quests_md.log import Log

__all__ = ["Span", "event_spans", "short_outliers"]


@dataclass(frozen=True, slots=True)
class Span:
    """The checks of an event, as indices into the columns of the log."""

    first: int
    """The onset."""
    last: int
    """The last check out."""
    end: int
    """One past its last check, which may be back in."""


def event_spans(log: Log) -> list[Span | None]:
    """The checks of every event of `log.events`; None where the log lacks the onset.

    Steps may repeat in a log. Events of one kind follow each other, those of two kinds may overlap.
    """
    order = np.argsort(log.step, kind="stable")
    steps, is_out = log.step[order], log.state != "in"
    found: list[Span | None] = []
    free_from: dict[str, int] = {}
    for event in log.events:
        left, right = np.searchsorted(steps, [event.onset_step, event.onset_step + 1])
        starts = order[left:right]
        starts = starts[is_out[starts] & (starts >= free_from.get(event.kind, 0))]
        if len(starts) == 0:
            found.append(None)
            continue
        first = int(starts[0])
        # the last line on an open event may be older than the last check
        end = len(log) if event.is_open else min(first + max(event.n_checks, 1), len(log))
        free_from[event.kind] = end
        found.append(Span(first, first + int(np.flatnonzero(is_out[first:end])[-1]), end))
    return found


def short_outliers(log: Log) -> tuple[int, int | None]:
    """How often checks were out for too short a time to open an event, and since which step the last one is out.

    Returns
    -------
    count
        Runs of consecutive checks out that belong to no event.
    since
        First step of such a run that reaches the last check and may still open an event, which does not count; else
        None.
    """
    loose: NDArray[np.bool_] = log.state == "out"
    for span in event_spans(log):
        if span is not None:
            loose[span.first : span.end] = False
    starts = np.flatnonzero(loose & ~np.concatenate([[False], loose[:-1]]))
    if len(starts) and loose[-1]:
        return len(starts) - 1, int(log.step[starts[-1]])
    return len(starts), None
