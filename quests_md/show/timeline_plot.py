"""The picture of a run: dH, atoms, alarms, phases and temperature over its checks, with its events."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from quests_md.log import Log
from quests_md.records import Event

from .event_spans import Span, event_spans
from .figures import EVENT_COLOURS, Abscissa, new_figure, put_title, tidy, write_at
from .panels import (
    LEGEND_COLUMNS,
    alarms_of,
    draw_alarms,
    draw_atoms,
    draw_dh,
    draw_phases,
    draw_statistic,
    draw_temperature,
    other_statistics,
)
from .words import reference_and_level, run_sentence

if TYPE_CHECKING:  # importing matplotlib takes half a second, which a monitor need not spend
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["timeline"]

#: Rows in which the names of events of a kind may be: the graver, the surer there is room.
LANES = {"novel": 1, "transition": 2, "exploded": 3}


class Label(NamedTuple):
    """The name of an event in the first panel."""

    text: str
    x: float
    is_left: bool
    lane: int
    colour: str


def timeline(log: Log, title: str | None = None) -> "Figure":
    """Draw a run: how far from the reference, how many atoms, how hot, with its events shaded.

    The panels, from the top: dH in nats with the levels in use (where it grows large, linear up to at least twice the
    level and logarithmic beyond); the atoms above their level, and their clusters where these raise alarms; what raised
    an alarm, and when; and where the log has it, the frame entropy if it is in use, the share of atoms in each phase,
    and the temperature. Over time if it is known, else over steps, or over checks where steps repeat.

    Parameters
    ----------
    log
        From `read_log`.
    title
        Default: a sentence that says when the run left the reference.

    Returns
    -------
    figure
        A matplotlib figure that belongs to no window: ``figure.savefig("timeline.png")``.

    Raises
    ------
    ValueError
        If the log has no checks.
    """
    if len(log) == 0:
        raise ValueError("log: expected at least one check, got none")
    over, spans = Abscissa.of(log), event_spans(log)
    labels = _labels(log.events, spans, over)
    panels = _panels(log, over, 1 + max((label.lane for label in labels), default=0))
    heights = [height for height, _ in panels]
    figure = new_figure(9, 1.4 + 1.32 * sum(heights))
    axes: Sequence[Axes] = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights)
    for (_, draw), axis in zip(panels, axes, strict=True):
        draw(axis)
        tidy(axis)
    _shade_beginning(axes, over, log.header.get("baseline_ps"))
    _shade_events(axes, over, log.events, spans)
    for text, x, is_left, lane, colour in labels:
        write_at(axes[0], text, x, 0.985 - 0.07 * lane, colour, is_left=is_left, va="top", fontsize=9)
    over.put_on(axes[-1])
    if len(log) == 1:
        axes[-1].set_xticks(over.x)
    put_title(figure, title or run_sentence(log))
    rows = -(-len(axes[0].get_legend_handles_labels()[0]) // LEGEND_COLUMNS)
    axes[0].set_title(reference_and_level(log.header), loc="left", fontsize=9, color="0.35", pad=8 + 16 * rows)
    return figure


def _panels(log: Log, over: Abscissa, lanes: int) -> list[tuple[float, Callable[["Axes"], None]]]:
    """The panels for which the log has numbers, from the top: how high each is, and what draws it."""
    panels: list[tuple[float, Callable[[Axes], None]]] = [
        (3.0, partial(draw_dh, over=over, log=log, lanes=lanes)),
        (1.3, partial(draw_atoms, over=over, log=log)),
    ]
    if alarms := alarms_of(log):
        panels.append((0.25 + 0.2 * len(alarms), partial(draw_alarms, over=over, alarms=alarms)))
    panels += [(1.3, partial(draw_statistic, over=over, log=log, name=name)) for name in other_statistics(log)]
    if log.phases:
        panels.append((1.5, partial(draw_phases, over=over, log=log)))
    if np.isfinite(log.temperature_K).any():
        panels.append((1.3, partial(draw_temperature, over=over, log=log)))
    return panels


def _shade_beginning(axes: Sequence["Axes"], over: Abscissa, duration_ps: float | None) -> None:
    """Shade the stretch by which the run itself is judged."""
    if duration_ps is None or over.label != "time (ps)":
        return
    begin, end = float(over.x[0]), float(min(over.x[0] + duration_ps, over.x[-1]))
    for axis in axes:
        axis.axvspan(begin, end, color="0.5", alpha=0.12, lw=0)
    write_at(axes[-1], "baseline", begin, 0.04, "0.35", fontsize=8)


def _shade_events(
    axes: Sequence["Axes"], over: Abscissa, events: Sequence[Event], spans: Sequence[Span | None]
) -> None:
    for event, span in zip(events, spans, strict=True):
        if span is None:
            continue
        left, right = float(over.edges[span.first]), float(over.edges[span.last + 1])
        for axis in axes:
            axis.axvspan(left, right, color=EVENT_COLOURS[event.kind], alpha=0.10, lw=0)
            axis.axvline(float(over.x[span.first]), color=EVENT_COLOURS[event.kind], lw=1.2)


def _labels(events: Sequence[Event], spans: Sequence[Span | None], over: Abscissa) -> list[Label]:
    """Names of the events, in the first lane that is free there; where none is, an event has no name."""
    width = float(over.edges[-1] - over.edges[0])
    free_from = [-np.inf] * max(LANES.values())
    labels = []
    for event, span in zip(events, spans, strict=True):
        if span is None:
            continue
        left, right = float(over.x[span.first]), float(over.edges[span.last + 1])
        text = f"event {event.id}"
        if right - left > 0.3 * width or event.kind != "novel":
            what = {"novel": "outside the reference", "transition": event.phase or "transition"}
            text += f": {what.get(event.kind, 'exploded')}"
        room = 0.011 * len(text) * width  # of a letter of this size in a panel of this width
        is_left = left + room > over.edges[-1]
        start = left - room if is_left else left
        lane = next((lane for lane in range(LANES[event.kind]) if start >= free_from[lane]), None)
        if lane is None:
            continue
        free_from[lane] = start + room
        labels.append(Label(text, left, is_left, lane, EVENT_COLOURS[event.kind]))
    return labels
