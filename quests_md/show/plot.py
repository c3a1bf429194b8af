"""Pictures of a log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quests_md._words import many
from quests_md.calibration import STATISTICS, Calibration, Level, NullScores, kind_of
from quests_md.log import Log
from quests_md.records import Event

from .captions import about, growth_sentence, run_sentence
from .event_spans import Span, spans
from .panels import (
    BLUE,
    FEW_CHECKS,
    LEGEND_COLUMNS,
    PHASE_COLOURS,
    SKY,
    VERMILLION,
    alarms_of,
    dots,
    draw_alarms,
    draw_atoms,
    draw_entropy,
    draw_frame_entropy,
    draw_phases,
    draw_temperature,
    levels_of,
    positive,
    statistics_in_use,
)

if TYPE_CHECKING:  # importing matplotlib takes half a second, which a monitor need not spend
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PICTURE_SUFFIXES", "cluster_growth", "null_distributions", "timeline"]

#: Names that a picture may end in.
PICTURE_SUFFIXES = (".png", ".pdf", ".svg", ".jpg")

#: Of kinds of events.
COLOURS = {"novel": VERMILLION, "transition": "#6A3D9A", "exploded": "black"}

#: Rows in which the names of events of a kind may be: the graver, the surer there is room.
LANES = {"novel": 1, "transition": 2, "exploded": 3}

#: Events that a picture of growth names, the largest.
MOST_NAMED = 6

#: Letters of the largest title in a line.
LINE = 72


@dataclass(frozen=True, slots=True)
class _Label:
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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x, label = _abscissa(log)
    edges = _edges(x)
    alarms = alarms_of(log)
    panels = {"entropy": 3.0, "atoms": 1.3}
    if alarms:
        panels["alarms"] = 0.25 + 0.2 * len(alarms)
    if "frame_entropy" in statistics_in_use(log.header) and np.isfinite(log.frame_entropy).any():
        panels["self-entropy"] = 1.3
    if log.phases:
        panels["phases"] = 1.5
    if np.isfinite(log.temperature_K).any():
        panels["temperature"] = 1.3
    figure = Figure(figsize=(9, 1.4 + 1.32 * sum(panels.values())), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=list(panels.values()))
    panel = dict(zip(panels, axes, strict=True))

    found = spans(log)
    labels = _labels(log.events, found, x, edges)
    draw_entropy(panel["entropy"], x, log, 1 + max((label.lane for label in labels), default=0))
    draw_atoms(panel["atoms"], x, edges, log)
    if "alarms" in panel:
        draw_alarms(panel["alarms"], edges, alarms)
    if "self-entropy" in panel:
        draw_frame_entropy(panel["self-entropy"], x, log)
    if "phases" in panel:
        draw_phases(panel["phases"], x, log)
    if "temperature" in panel:
        draw_temperature(panel["temperature"], x, log)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    _shade_beginning(axes, x, label, log.header)
    _shade_events(axes, x, edges, log.events, found)
    for text in labels:
        _write(panel["entropy"], text)
    axes[-1].set_xlabel(label)
    pad = 0.5 * (edges[1] - edges[0]) if len(x) == 1 else 0.005 * (x[-1] - x[0])
    if len(x) == 1:
        axes[-1].set_xticks(x)
    axes[0].set_xlim(float(x[0] - pad), float(x[-1] + pad))
    _put_title(figure, title or run_sentence(log))
    rows = -(-len(axes[0].get_legend_handles_labels()[0]) // LEGEND_COLUMNS)
    axes[0].set_title(about(log.header), loc="left", fontsize=9, color="0.35", pad=8 + 16 * rows)
    return figure


def cluster_growth(log: Log, title: str | None = None) -> "Figure":
    """Draw how many atoms the events of a run have, on a logarithmic axis over time.

    Behind them are the numbers of every check: the largest cluster of atoms in the tail with its level, where that is
    in use, and the largest clusters of the phases that grow.

    Parameters
    ----------
    log
        From `read_log`.
    title
        Default: a sentence on the largest event.

    Returns
    -------
    figure
        A matplotlib figure that belongs to no window.

    Raises
    ------
    ValueError
        If the log has no event with a size.
    """
    found = [
        (event, span)
        for event, span in zip(log.events, spans(log), strict=True)
        if span is not None and event.kind != "exploded" and any(size > 0 for _, size in event.size_history)
    ]
    if not found:
        raise ValueError("log: expected an event with atoms whose number can be drawn, got none")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    x, label = _abscissa(log)
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    thin: dict[str, Any] = {"lw": 0.9, "marker": dots(log), "ms": 3, "zorder": 1}
    if "tail_cluster" in statistics_in_use(log.header) and np.isfinite(log.tail_cluster).any():
        axis.plot(x, positive(log.tail_cluster), color=SKY, label="largest cluster in the tail", **thin)
        for level in levels_of(log.header, "tail_cluster"):
            if np.isfinite(level) and level > 0:
                axis.axhline(level, color=SKY, ls="--", lw=1.2, label=f"its level, {level:g} atoms")
    phase_levels = (log.header.get("phases") or {}).get("levels", {})
    grown = {event.phase for event, _ in found if event.phase}
    for name, sizes in log.phase_clusters.items():
        if name in grown:
            colour = PHASE_COLOURS[list(log.phases).index(name) % len(PHASE_COLOURS)]
            axis.plot(x, positive(sizes), color=colour, label=f"largest cluster of {name}", **thin)
            level = float(phase_levels.get(name, {}).get("value", np.nan))
            if np.isfinite(level) and level > 0:
                axis.axhline(level, color=colour, ls="--", lw=1.2, label=f"its level, {level:g} atoms")
    tops: list[tuple[float, float, Event]] = []
    names: set[str] = set()
    for event, span in found:
        steps, sizes = np.array(event.size_history, dtype=float).T
        where = np.interp(steps, log.step[span.first : span.end], x[span.first : span.end])
        name = f"{event.kind}, atoms {'in the cluster' if event.is_cluster else 'above their level'}"
        few = "o" if len(where) <= FEW_CHECKS else ""
        line: dict[str, Any] = {"color": COLOURS[event.kind], "lw": 2.0, "marker": few, "ms": 3.5, "zorder": 3}
        axis.plot(where, positive(sizes), label=None if name in names else name, **line)
        names.add(name)
        tops.append((float(sizes.max()), float(where[np.argmax(sizes)]), event))
    axis.set_yscale("log")
    most = max(float(np.nanmax(line.get_ydata())) for line in axis.lines if np.isfinite(line.get_ydata()).any())
    axis.set_ylim(0.8, most**1.12 * 1.3)
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if most > 1000 else (1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_ylabel("atoms")
    pad = 0.005 * (x[-1] - x[0]) or 0.5
    axis.set_xlim(float(x[0] - pad), float(x[-1] + pad))
    axis.set_xlabel(label)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, fontsize=9, frameon=False)
    _name_tops(axis, tops)
    _put_title(figure, title or growth_sentence([event for event, _ in found]))
    return figure


def null_distributions(calibration: Calibration, atoms: int | None = None, checks: int | None = None) -> "Figure":
    """Draw where the numbers of frames in distribution lie, and the levels that they hardly ever exceed.

    One panel per level in use: each held-out group of frames counts once, with its most extreme frame.

    Parameters
    ----------
    calibration
        From `calibrate`.
    atoms, checks
        Size of the system and checks per ns or run, as in `Calibration.describe`.

    Returns
    -------
    figure
        A matplotlib figure that belongs to no window.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    numbers = calibration.typical_numbers(calibration.frame_atoms if atoms is None else atoms)
    levels = [level for level in calibration.alarm_levels(numbers, checks) if np.isfinite(level.value)]
    levels = [level for level in levels if level.n_groups]
    if not levels:
        raise ValueError("calibration: expected held-out groups of frames to draw, got none")
    columns = min(len(levels), 2)
    rows = -(-len(levels) // columns)
    figure = Figure(figsize=(4.8 * columns, 2.9 * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axis, level in zip(panels, levels, strict=False):
        null = next(
            n
            for n in calibration.nulls
            if (n.statistic, n.element, n.side) == (level.statistic, level.element, level.side)
            and n.values in ("full", "both")
        )
        _draw_null(axis, null, level, len(numbers))
    for axis in panels[len(levels) :]:
        axis.set_visible(False)
    kind = kind_of(levels)
    promise = {
        "conformal": f"at most {calibration.false_alarms:g} false alarms per {calibration.per}",
        "extrapolated": f"about {calibration.false_alarms:g} false alarms per {calibration.per}, extrapolated",
        "none": f"the asked {calibration.false_alarms:g} false alarms per {calibration.per} cannot be promised",
    }[kind]
    figure.suptitle(
        f"Frames in distribution and levels for {len(numbers)} atoms: {promise}",
        x=0.01,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    return figure


def _draw_null(axis: "Axes", null: NullScores, level: Level, n_atoms: int) -> None:
    statistic = STATISTICS[level.statistic]
    scores, value = statistic.in_frame(null.scores, n_atoms), statistic.in_frame(level.value, n_atoms)
    axis.hist(scores, bins=min(max(int(np.sqrt(len(scores)) * 1.5), 5), 40), color=BLUE, alpha=0.65)
    if np.isfinite(value):
        axis.axvline(value, color=VERMILLION, ls="--", lw=1.4)
        low, high = axis.get_xlim()
        span = high - low
        axis.set_xlim(min(low, value - 0.1 * span), max(high, value + 0.1 * span))
        right = value < sum(axis.get_xlim()) / 2
        axis.annotate(
            f"level {value:.2f}\n{level.kind}",
            (value, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(5 if right else -5, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="top",
            fontsize=9,
            color=VERMILLION,
        )
    side = "largest" if level.side == "above" else "smallest"
    element = f" of {level.element}" if level.element else ""
    axis.set_xlabel(f"{level.statistic}{element} ({statistic.unit}), {side} of each group")
    axis.set_ylabel("groups")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def _name_tops(axis: "Axes", tops: Sequence[tuple[float, float, Event]]) -> None:
    """Name events where they are largest (size, place, event), the largest first, where there is room."""
    to_panel = (axis.transScale + axis.transLimits).transform
    taken: list[tuple[float, float]] = []
    for size, place, event in sorted(tops, key=lambda top: -top[0])[:MOST_NAMED]:
        text = f"event {event.id}{f': {event.phase}' if event.phase else ''}, {many(round(size), 'atom')}"
        left, height = (float(v) for v in to_panel((place, size)))
        is_left = left > 0.8
        left -= 0.19 if is_left else 0.0
        if any(abs(left - x) < 0.19 and abs(height - y) < 0.06 for x, y in taken):  # a name of usual length, a line
            continue
        taken.append((left, height))
        axis.annotate(
            text,
            (place, size),
            xytext=(0, 5),
            textcoords="offset points",
            ha="right" if is_left else "left",
            va="bottom",
            fontsize=9,
            color=COLOURS[event.kind],
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0},
            zorder=4,
        )


def _put_title(figure: "Figure", text: str) -> None:
    """A title in one line, smaller where it is long."""
    size = min(13.0, 13.0 * LINE / max(len(text), 1))
    figure.suptitle(text, x=0.01, ha="left", fontsize=size, fontweight="bold")


def _shade_beginning(axes: NDArray[Any], x: NDArray[np.float64], label: str, header: dict[str, Any]) -> None:
    """The stretch by which the run itself is judged."""
    duration = header.get("baseline_ps")
    if duration is None or label != "time (ps)":
        return
    for axis in axes:
        axis.axvspan(float(x[0]), float(min(x[0] + duration, x[-1])), color="0.5", alpha=0.12, lw=0)
    axes[-1].annotate(
        "baseline",
        (float(x[0]), 0.04),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        fontsize=8,
        color="0.35",
    )


def _shade_events(
    axes: NDArray[Any],
    x: NDArray[np.float64],
    edges: NDArray[np.float64],
    events: Sequence[Event],
    found: Sequence[Span | None],
) -> None:
    for event, span in zip(events, found, strict=True):
        if span is None:
            continue
        for axis in axes:
            left, right = float(edges[span.first]), float(edges[span.last + 1])
            axis.axvspan(left, right, color=COLOURS[event.kind], alpha=0.10, lw=0)
            axis.axvline(float(x[span.first]), color=COLOURS[event.kind], lw=1.2)


def _labels(
    events: Sequence[Event], found: Sequence[Span | None], x: NDArray[np.float64], edges: NDArray[np.float64]
) -> list[_Label]:
    """Names of the events, in the first lane that is free there; where none is, an event has no name."""
    width = float(edges[-1] - edges[0])
    free_from = [-np.inf] * max(LANES.values())
    labels = []
    for event, span in zip(events, found, strict=True):
        if span is None:
            continue
        left, right = float(x[span.first]), float(edges[span.last + 1])
        text = f"event {event.id}"
        if right - left > 0.3 * width or event.kind != "novel":
            what = {"novel": "outside the reference", "transition": event.phase or "transition"}
            text += f": {what.get(event.kind, 'exploded')}"
        room = 0.011 * len(text) * width  # of a letter of this size in a panel of this width
        is_left = left + room > edges[-1]
        start = left - room if is_left else left
        lane = next((lane for lane in range(LANES[event.kind]) if start >= free_from[lane]), None)
        if lane is None:
            continue
        free_from[lane] = start + room
        labels.append(_Label(text, left, is_left, lane, COLOURS[event.kind]))
    return labels


def _write(axis: "Axes", label: _Label) -> None:
    axis.annotate(
        label.text,
        (label.x, 0.985 - 0.07 * label.lane),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if label.is_left else 4, 0),
        textcoords="offset points",
        ha="right" if label.is_left else "left",
        va="top",
        fontsize=9,
        color=label.colour,
    )


def _abscissa(log: Log) -> tuple[NDArray[np.float64], str]:
    """What the checks are drawn over: the first of time, step and count that only grows."""
    for values, label in ((log.time_ps, "time (ps)"), (log.step.astype(float), "step")):
        if np.isfinite(values).all() and (np.diff(values) > 0).all():
            return values, label
    return np.arange(len(log), dtype=float), "check"


def _edges(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Borders halfway between the checks, (n + 1,)."""
    if len(x) == 1:
        return np.array([x[0] - 0.5, x[0] + 0.5])
    middle = (x[1:] + x[:-1]) / 2
    return np.concatenate([[2 * x[0] - middle[0]], middle, [2 * x[-1] - middle[-1]]])
