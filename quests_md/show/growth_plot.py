"""The picture of how many atoms the events of a run have."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quests_md._words import many
from quests_md.log import GivenLog, Log, opened_log
from quests_md.records import Event

from .figures import (
    EVENT_COLOURS,
    FEW_CHECKS,
    Abscissa,
    Colour,
    dots,
    finished,
    new_figure,
    phase_colours,
    put_title,
    short_name,
    tidy,
)
from .log_facts import Span, event_spans, levels_of, statistics_in_use
from .words import growth_sentence

if TYPE_CHECKING:  # importing matplotlib takes half a second, which a monitor need not spend
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cluster_growth"]

#: Events that the picture names, the largest.
MOST_NAMED = 6

#: Largest clusters of atoms that are not of a phase: the statistic, where the atoms are, and the colour.
OF_THE_TAIL = (
    ("local_cluster", "above the local level", Colour.GREEN),
    ("tail_cluster", "in the tail", Colour.SKY),
)


def cluster_growth(log: GivenLog, title: str | None = None) -> "Figure":
    """Draw how many atoms the events of a run have, on a logarithmic axis over time.

    Behind the events are the numbers of every check: the largest cluster of atoms in the tail, or above the local
    level, with its level where this is in use, and the largest clusters of the phases that grow. The title, unless one
    is given, is a sentence on the largest event. `log` is a log or the name of its file; a log in which no event has a
    size raises ValueError.
    """
    log = opened_log(log)
    found = [
        (event, span)
        for event, span in event_spans(log)
        if event.kind != "exploded" and any(size > 0 for _, size in event.size_history)
    ]
    if not found:
        raise ValueError("log: expected an event with atoms whose number can be drawn, got none")
    events = [event for event, _ in found]
    over = Abscissa.of(log)
    figure = new_figure(9, 5)
    axis = figure.subplots()
    _draw_clusters(axis, over, log, {event.phase for event in events})
    tops = _draw_events(axis, over, log, found)
    _make_logarithmic(axis)
    over.put_on(axis)
    tidy(axis)
    axis.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, fontsize=9, frameon=False)
    _name(axis, tops)
    put_title(figure, title or growth_sentence(events))
    return finished(figure)


def _draw_clusters(axis: "Axes", over: Abscissa, log: Log, phases: set[str | None]) -> None:
    """Draw the largest clusters at every check, of atoms in the tail and of the phases that grow, with their levels."""
    phase_levels = (log.header.get("phases") or {}).get("levels", {})
    clusters: list[tuple[str, NDArray[Any], str, list[float]]] = [
        (
            f"of {short_name(name)}",
            log.phase_clusters[name],
            colour,
            [float(phase_levels.get(name, {}).get("value", np.nan))],
        )
        for name, colour in phase_colours(log).items()
        if name in phases and name in log.phase_clusters
    ]
    for name, at, own_colour in OF_THE_TAIL:
        counts = log.statistic(name)
        if name in statistics_in_use(log.header) and np.isfinite(counts).any():
            clusters.insert(0, (at, counts, own_colour, levels_of(log.header, name)))
    for where, sizes, colour, levels in clusters:
        label = f"largest cluster {where}"
        axis.plot(over.x, _positive(sizes), color=colour, label=label, lw=0.9, marker=dots(log), ms=3, zorder=1)
        for level in levels:
            if np.isfinite(level) and level > 0:
                axis.axhline(level, color=colour, ls="--", lw=1.2, label=f"its level, {level:.3g} atoms")


def _draw_events(
    axis: "Axes", over: Abscissa, log: Log, found: Sequence[tuple[Event, Span]]
) -> list[tuple[float, float, Event]]:
    """Draw a line for each event, each kind of line once in the legend; return size and place of the tops of lines."""
    tops = []
    named: set[str] = set()
    for event, span in found:
        steps, sizes = np.array(event.size_history, dtype=float).T
        x = np.interp(steps, log.step[span.first : span.end], over.x[span.first : span.end])
        name = f"{event.kind}, atoms {'in the cluster' if event.is_cluster else 'above their level'}"
        label, marker = None if name in named else name, "o" if len(x) <= FEW_CHECKS else ""
        colour = EVENT_COLOURS[event.kind]
        axis.plot(x, _positive(sizes), label=label, color=colour, lw=2.0, marker=marker, ms=3.5, zorder=3)
        named.add(name)
        tops.append((float(sizes.max()), float(x[np.argmax(sizes)]), event))
    return tops


def _make_logarithmic(axis: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_yscale("log")
    most = max(float(np.nanmax(line.get_ydata())) for line in axis.lines if np.isfinite(line.get_ydata()).any())
    axis.set_ylim(0.8, most**1.12 * 1.3)
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if most > 1000 else (1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_ylabel("atoms")


def _name(axis: "Axes", tops: Sequence[tuple[float, float, Event]]) -> None:
    """Name events where they are largest, the largest first, where there is room."""
    to_panel = (axis.transScale + axis.transLimits).transform
    taken: list[tuple[float, float]] = []
    for size, x, event in sorted(tops, key=lambda top: -top[0])[:MOST_NAMED]:
        text = f"event {event.id}{f': {short_name(event.phase)}' if event.phase else ''}, {many(round(size), 'atom')}"
        left, height = (float(v) for v in to_panel((x, size)))
        is_left = left > 0.8
        left -= 0.19 if is_left else 0.0
        if any(abs(left - a) < 0.19 and abs(height - b) < 0.06 for a, b in taken):  # width and height of a usual name
            continue
        taken.append((left, height))
        axis.annotate(
            text,
            (x, size),
            xytext=(0, 5),
            textcoords="offset points",
            ha="right" if is_left else "left",
            va="bottom",
            fontsize=9,
            color=EVENT_COLOURS[event.kind],
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0},
            zorder=4,
        )


def _positive(values: NDArray[Any]) -> NDArray[np.float64]:
    """The values that a logarithmic axis can show, NaN in the place of others."""
    return np.where(values > 0, values, np.nan).astype(float)
