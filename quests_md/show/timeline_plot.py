"""The picture of a run: dH, atoms, alarms, phases and temperature over its checks, with its events."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quests_md.calibration import STATISTICS
from quests_md.log import GivenLog, Log, opened_log
from quests_md.records import Event

from .figures import (
    EVENT_COLOURS,
    Abscissa,
    Colour,
    dots,
    finished,
    new_figure,
    phase_colours,
    put_title,
    short_name,
    tidy,
    write_at,
)
from .log_facts import Span, event_spans, level_of_largest, levels_of, statistics_in_use
from .words import reference_and_level, run_sentence

if TYPE_CHECKING:  # importing matplotlib takes half a second, which a monitor need not spend
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["timeline"]


class Line(NamedTuple):
    """How a statistic is drawn."""

    colour: str
    name: str
    """Its name in the legend."""
    short: str = ""
    """Its name in "level of the ..."."""


#: The registry of statistics says in which panel each is drawn: dH, counts of atoms, or a panel of its own: levels of
#: local scores differ too much for one panel. A statistic that is not named here is called as in the registry.
LINES = {
    "dh_max": Line(Colour.VERMILLION, "most novel atom"),
    "dh_q99": Line(Colour.ORANGE, "99 % quantile", "quantile"),
    "dh_mean": Line(Colour.BLUE, "mean over atoms", "mean"),
    "tail_cluster": Line(Colour.BLUE, "largest cluster in the tail"),
    "n_tail": Line(Colour.ORANGE, "in the tail"),
    "frame_entropy": Line(Colour.GREEN, "frame entropy"),
    "local_max": Line(Colour.VERMILLION, "worst neighbourhood"),
    "local_mean": Line(Colour.BLUE, "mean over neighbourhoods"),
    "local_cluster": Line(Colour.BLUE, "largest cluster above the local level"),
    "local_tail": Line(Colour.ORANGE, "above the local level"),
}

#: Statistics in the panel of dH.
DH = tuple(name for name, s in STATISTICS.items() if s.unit == "nats" and s.needs_reference)

#: Statistics whose numbers are drawn also where they raise no alarms.
ALWAYS = ("dh_max", "dh_mean")

#: Values from which an axis may be logarithmic: the first that is at least twice the level. The axis is logarithmic if
#: the numbers go MANY_TIMES higher than this value.
LINEAR_TO, MANY_TIMES = (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0), 5.0

LEGEND_COLUMNS = 4

#: Letters of a line above the first panel in the usual size.
LINE = 118

#: Share of the atoms, in percent, that the cluster of a phase must reach to be drawn.
LEAST_CLUSTER = 1.0

#: Rows in which the names of events of a kind may be: the graver the event, the surer there is room for its name.
LANES = {"novel": 1, "transition": 2, "exploded": 3}


class Label(NamedTuple):
    """The name of an event in the first panel."""

    text: str
    x: float
    is_left: bool
    lane: int
    colour: str


def timeline(log: GivenLog, title: str | None = None) -> "Figure":
    """Draw a run: how far from the reference, how many atoms, how hot, with its events shaded.

    The panels, from the top: local scores in deviations, where they are in use, and dH in nats, where the log has it,
    with the levels in use (where numbers grow large, linear up to at least twice the level and logarithmic beyond); the
    atoms above their level, and their clusters where these raise alarms; what raised an alarm, and when; and where the
    log has it, the frame entropy if it is in use, the share of atoms in each phase, and the temperature. DH comes first
    where it raises alarms. Over time if it is known, else over steps, or over checks where steps repeat.

    The title, unless one is given, says when the run left the reference. The figure belongs to no window:
    ``figure.savefig("timeline.png")``. `log` is a log or the name of its file; one without checks raises ValueError.
    """
    log = opened_log(log)
    if len(log) == 0:
        raise ValueError("log: expected at least one check, got none")
    over, events = Abscissa.of(log), event_spans(log)
    labels = _labels(events, over)
    panels = _panels(log, 1 + max((label.lane for label in labels), default=0))
    heights = [height for height, _ in panels]
    figure = new_figure(9, 1.4 + 1.32 * sum(heights))
    axes: Sequence[Axes] = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights)
    for (_, draw), axis in zip(panels, axes, strict=True):
        draw(axis, over, log)
        tidy(axis)
    _shade_beginning(axes, over, log.header.get("baseline_ps"))
    _shade_events(axes, over, events)
    for text, x, is_left, lane, colour in labels:
        write_at(axes[0], text, x, 0.985 - 0.07 * lane, colour, is_left=is_left, va="top", fontsize=9)
    over.put_on(axes[-1])
    if len(log) == 1:
        axes[-1].set_xticks(over.x)
    put_title(figure, title or run_sentence(log))
    rows = -(-len(axes[0].get_legend_handles_labels()[0]) // LEGEND_COLUMNS)
    known = reference_and_level(log.header)
    size = min(9.0, 9.0 * LINE / max(map(len, known.split("\n"))))
    axes[0].set_title(known, loc="left", fontsize=size, color="0.35", pad=8 + 16 * rows)
    return finished(figure)


def _panels(log: Log, lanes: int) -> list[tuple[float, Callable[["Axes", Abscissa, Log], None]]]:
    """The panels for which the log has numbers, from the top: how high each is, and what draws it."""
    in_use = statistics_in_use(log.header)
    scores: list[tuple[float, Callable[..., None]]] = [
        (1.3, partial(_draw_local, name=name))
        for name in sorted(_known(log), key=lambda name: STATISTICS[name].size != "extreme")
        if STATISTICS[name].unit == "deviations"
    ]
    if not scores or any(not np.isnan(log.statistic(name)).all() for name in DH):
        is_judged = not in_use or not scores or bool(set(DH) & set(in_use))
        scores.insert(0 if is_judged else len(scores), (1.5, _draw_dh))
    panels: list[tuple[float, Callable[[Axes, Abscissa, Log], None]]] = [
        (3.0 if len(scores) == 1 else 2.3, partial(scores[0][1], lanes=lanes)),
        *scores[1:],
        (1.3, _draw_atoms),
    ]
    if alarms := _alarms_of(log):
        panels.append((0.25 + 0.2 * len(alarms), partial(_draw_alarms, alarms=alarms)))
    for name in _known(log):  # neither dH nor a local score nor a count of atoms
        statistic = STATISTICS[name]
        if statistic.unit == "nats" and not statistic.needs_reference and np.isfinite(log.statistic(name)).any():
            panels.append((1.3, partial(_draw_statistic, name=name)))
    if log.phases:
        panels.append((1.5, _draw_phases))
    if np.isfinite(log.temperature_K).any():
        panels.append((1.3, _draw_temperature))
    return panels


def _shade_beginning(axes: Sequence["Axes"], over: Abscissa, duration_ps: float | None) -> None:
    """Shade the beginning of the run by which the run itself is judged."""
    if duration_ps is None or over.label != "time (ps)":
        return
    begin, end = float(over.x[0]), float(min(over.x[0] + duration_ps, over.x[-1]))
    for axis in axes:
        axis.axvspan(begin, end, color="0.5", alpha=0.12, lw=0)
    write_at(axes[-1], "baseline", begin, 0.04, "0.35", fontsize=8)


def _shade_events(axes: Sequence["Axes"], over: Abscissa, events: Sequence[tuple[Event, Span]]) -> None:
    for event, span in events:
        left, right = float(over.edges[span.first]), float(over.edges[span.last + 1])
        for axis in axes:
            axis.axvspan(left, right, color=EVENT_COLOURS[event.kind], alpha=0.10, lw=0)
            axis.axvline(float(over.x[span.first]), color=EVENT_COLOURS[event.kind], lw=1.2)


def _labels(events: Sequence[tuple[Event, Span]], over: Abscissa) -> list[Label]:
    """Names of the events, each in the first lane that is free there; an event for which none is free has no name."""
    width = float(over.edges[-1] - over.edges[0])
    free_from = [-np.inf] * max(LANES.values())
    labels = []
    for event, span in events:
        left, right = float(over.x[span.first]), float(over.edges[span.last + 1])
        text = f"event {event.id}"
        if right - left > 0.3 * width or event.kind != "novel":
            what = {"novel": "outside the reference", "transition": short_name(event.phase or "transition")}
            text += f": {what.get(event.kind, 'exploded')}"
        room = 0.011 * len(text) * width  # a letter of this size in a panel of this width takes 0.011 of it
        is_left = left + room > over.edges[-1]
        start = left - room if is_left else left
        lane = next((lane for lane in range(LANES[event.kind]) if start >= free_from[lane]), None)
        if lane is None:
            continue
        free_from[lane] = start + room
        labels.append(Label(text, left, is_left, lane, EVENT_COLOURS[event.kind]))
    return labels


def _draw_dh(axis: "Axes", over: Abscissa, log: Log, lanes: int | None = None) -> None:
    """Draw dH of the frames with the levels in use; `lanes` as in `_finish_scores`."""
    in_use = statistics_in_use(log.header)
    level = level_of_largest(log.header) if not in_use or "dh_max" in in_use else np.nan
    shown = [np.array([level])]  # what sets the range of the panel
    is_partial = bool((np.isnan(log.dh_max) & (log.state == "in")).any())
    for name in DH:
        values, is_largest = _finite(log.statistic(name)), name == "dh_max"
        if np.isfinite(values).any() and name in (*ALWAYS, *in_use):
            text = _line(name).name + (", where above its level" if is_largest and is_partial else "")
            marker = dots(log, values if is_largest else None)
            axis.plot(over.x, values, color=_line(name).colour, lw=1.4, marker=marker, label=text)
            shown.append(values[_is_whole(log)])
    if np.isfinite(level):
        axis.axhline(level, color=Colour.VERMILLION, ls="--", lw=1.2, label=f"level {level:.2f}")
    for name in DH:
        if name != "dh_max":
            levels = levels_of(log.header, name)
            _draw_levels(axis, levels, _line(name).colour, f" of the {_line(name).short}")
            shown.append(np.array(levels))
    _finish_scores(axis, over, log, np.concatenate(shown), level, "dH", "nats", lanes)


def _draw_local(axis: "Axes", over: Abscissa, log: Log, name: str, lanes: int | None = None) -> None:
    """Draw a number of the frames in deviations with its levels; `lanes` as in `_finish_scores`."""
    line, values, levels = _line(name), _finite(log.statistic(name)), levels_of(log.header, name)
    if np.isfinite(values).any():
        axis.plot(over.x, values, color=line.colour, lw=1.4, marker=dots(log), label=line.name)
    _draw_levels(axis, levels, line.colour)
    shown = np.concatenate([values[_is_whole(log)], levels])
    _finish_scores(axis, over, log, shown, max(levels, default=np.nan), "local score", STATISTICS[name].unit, lanes)


def _finish_scores(
    axis: "Axes",
    over: Abscissa,
    log: Log,
    shown: NDArray[np.float64],
    level: float,
    text: str,
    unit: str,
    lanes: int | None,
) -> None:
    """Give a panel of scores its range, its names and a legend.

    With `lanes` it is the first panel: it has marks of frames without scores, and room for so many lanes of labels at
    the top. Frames that have exploded may go beyond the panel, so that the run before them can be seen: `shown` are
    numbers that should be seen.
    """
    infinite, headroom = np.isposinf(log.dh_max), 0.06
    if lanes is not None:
        _mark(axis, over.x[log.state == "invalid"], 0.04, "x", "invalid frame")
        _mark(axis, over.x[(log.explosion != "") & (log.state != "invalid")], 0.04, "X", "explosion")
        _mark(axis, over.x[infinite], 0.86 - 0.07 * (lanes - 1), "^", "element not in the reference: infinite")
        headroom = (0.3 if infinite.any() else 0.12) + 0.07 * (lanes - 1)
    numbers = shown[np.isfinite(shown)]
    log_from = None
    if len(numbers):
        log_from = _limit(axis, float(numbers.min()), float(numbers.max()), level, headroom)
    parts = [unit] if log_from is None else [unit, f"log above {log_from:g}"]
    if lanes is None:
        axis.set_ylabel(text + "\n(" + ",\n".join(parts) + ")")
        _put_legend(axis)
        return
    axis.set_ylabel(f"{text} ({', '.join(parts)})\nknown  ←   →  novel")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=LEGEND_COLUMNS, fontsize=9, frameon=False)


def _draw_atoms(axis: "Axes", over: Abscissa, log: Log) -> None:
    """Draw the atoms above their level, and the other counts of atoms that are in use, with their levels."""
    text = "above their level"
    axis.stairs(log.n_above, over.edges, fill=True, color=Colour.VERMILLION, alpha=0.55, lw=0, label=text)
    is_whole = _is_whole(log)
    tops, levels = [float(log.n_above[is_whole].max())], []
    for name in reversed([name for name in _known(log) if STATISTICS[name].unit == "atoms"]):
        values = np.asarray(log.statistic(name), dtype=float)
        values[values < 0] = np.nan
        if not np.isfinite(values).any():
            continue
        line = _line(name)
        axis.plot(over.x, values, color=line.colour, lw=1.2, marker=dots(log), label=line.name)
        tops.append(float(np.nanmax(values[is_whole], initial=0.0)))
        for level in levels_of(log.header, name, float(np.median(log.n_atoms))):
            axis.axhline(level, color=line.colour, ls="--", lw=1.2, label=f"level {level:.3g}")
            levels.append(level)
    n_atoms = np.unique(log.n_atoms)
    axis.set_ylabel(f"atoms (of {n_atoms[0]})" if len(n_atoms) == 1 else "atoms")
    top = max([5.0, *tops, *levels])
    linear_to = _linear_to(max(levels, default=0.0))
    if levels and top > MANY_TIMES * linear_to:
        _make_logarithmic(axis, linear_to, 0.0, top)
        axis.set_ylim(0, top * 1.3)
    else:
        axis.set_ylim(0, 1.08 * top)
    if len(tops) > 1:
        _put_legend(axis)


def _draw_alarms(axis: "Axes", over: Abscissa, _log: Log, alarms: Mapping[str, NDArray[np.bool_]]) -> None:
    """Draw a bar wherever a statistic was out, a row for each statistic."""
    edges = over.edges
    for row, is_out in enumerate(alarms.values()):
        change = np.flatnonzero(np.diff(np.concatenate([[False], is_out, [False]]).astype(np.int8)))
        bars = [(float(edges[i]), float(edges[j] - edges[i])) for i, j in zip(change[::2], change[1::2], strict=True)]
        axis.broken_barh(bars, (row - 0.25, 0.5), color="0.2", lw=0.8, zorder=4)
    axis.set_yticks(range(len(alarms)), list(map(short_name, alarms)), fontsize=8)
    axis.set_ylim(len(alarms) - 0.4, -0.6)
    axis.set_title("alarms by", loc="left", fontsize=8, pad=4)


def _draw_statistic(axis: "Axes", over: Abscissa, log: Log, name: str) -> None:
    """Draw a statistic that is neither dH nor a count of atoms, with its levels."""
    line = _line(name)
    axis.plot(over.x, _finite(log.statistic(name)), color=line.colour, lw=1.4, marker=dots(log), label=line.name)
    levels = levels_of(log.header, name)
    _draw_levels(axis, levels, line.colour)
    axis.set_ylabel(f"{line.name}\n({STATISTICS[name].unit})")
    if levels:
        _put_legend(axis)


def _draw_phases(axis: "Axes", over: Abscissa, log: Log) -> None:
    """Draw the share of the atoms in each phase, and dotted the largest clusters of phases other than the parent."""
    n_atoms = np.maximum(log.n_atoms, 1)
    shares = {name: np.where(counts >= 0, 100 * counts / n_atoms, np.nan) for name, counts in log.phases.items()}
    parent = (log.header.get("phases") or {}).get("parent")
    for name, colour in phase_colours(log).items():
        axis.plot(over.x, shares[name], color=colour, lw=1.4, marker=dots(log), label=short_name(name))
        cluster = 100 * log.phase_clusters.get(name, np.zeros(len(log))) / n_atoms
        if name != parent and cluster.max() >= LEAST_CLUSTER:
            drawn, text = np.where(cluster >= 0, cluster, np.nan), f"{short_name(name)}, largest cluster"
            axis.plot(over.x, drawn, color=colour, lw=1.4, ls=":", label=text)
    axis.set_ylabel("atoms in\nphases (%)")
    axis.set_ylim(0, 105)
    _put_legend(axis)


def _draw_temperature(axis: "Axes", over: Abscissa, log: Log) -> None:
    """Draw the temperature; the temperature of frames that have exploded may go beyond the panel."""
    values = _finite(log.temperature_K)
    axis.plot(over.x, values, color="0.25", lw=1.2, marker=dots(log))
    axis.set_ylabel("temperature (K)")
    usual = values[_is_whole(log)]
    top = np.nanmax(usual if np.isfinite(usual).any() else values)
    axis.set_ylim(0, 1.1 * top if top > 0 else 1.0)


def _alarms_of(log: Log) -> dict[str, NDArray[np.bool_]]:
    """At which checks each statistic was out; statistics that never were are left out."""
    names = dict.fromkeys((*statistics_in_use(log.header), *log.excesses))
    if not log.excesses:  # a log of the first release
        names |= dict.fromkeys(name for text in np.unique(log.alarms) for name in str(text).split())
    padded = np.char.add(np.char.add(" ", log.alarms), " ")
    found = {
        name: log.excesses[name] > 0 if name in log.excesses else np.char.find(padded, f" {name} ") >= 0
        for name in names
    }
    return {name: is_out for name, is_out in found.items() if is_out.any()}


def _known(log: Log) -> list[str]:
    """The statistics in use that the registry of this version has, in the order of the registry."""
    in_use = statistics_in_use(log.header)
    return [name for name in STATISTICS if name in in_use]


def _line(name: str) -> Line:
    return LINES.get(name) or Line(Colour.PINK, STATISTICS[name].text, STATISTICS[name].text)


def _draw_levels(axis: "Axes", values: Sequence[float], colour: str, of: str = "") -> None:
    """Draw levels as dashed lines; the legend names all of them once."""
    label = f"level{'s' * (len(values) > 1)}{of} " + ", ".join(f"{value:.2f}" for value in values)
    for i, value in enumerate(values):
        axis.axhline(value, color=colour, ls="--", lw=1.2, label=None if i else label)


def _put_legend(axis: "Axes") -> None:
    """Put a legend in a line above the panel, where it covers nothing."""
    axis.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.97), ncols=6, fontsize=8, frameon=False)


def _mark(axis: "Axes", x: NDArray[np.float64], height: float, marker: str, label: str) -> None:
    """Put markers at a height of the panel (0 to 1), for checks that have no dH to show."""
    if len(x):
        across = axis.get_xaxis_transform()
        axis.plot(x, np.full(len(x), height), marker, ms=5, color="black", transform=across, label=label)


def _limit(axis: "Axes", low: float, high: float, level: float, headroom: float) -> float | None:
    """Set the range of scores with room for labels at the top; logarithmic above if the level would be squeezed.

    Returns the value from which the axis is logarithmic, None if it is not.
    """
    linear_to = _linear_to(level)
    if high <= MANY_TIMES * linear_to:
        margin = max(0.05 * (high - low), 0.25)
        axis.set_ylim(low - margin, high + headroom / (1 - headroom) * (high - low + margin))
        return None
    _make_logarithmic(axis, linear_to, min(1.2 * low, low - 2), high)
    axis.set_ylim(min(1.2 * low, low - 2), high * (high / linear_to) ** (1.5 * headroom))
    return linear_to


def _linear_to(level: float) -> float:
    """The value above which a logarithmic axis would be logarithmic."""
    least = 2 * abs(level) if np.isfinite(level) else 0.0
    return next((value for value in LINEAR_TO if value >= least), least)


def _make_logarithmic(axis: "Axes", linear_to: float, low: float, high: float) -> None:
    """Give the axis a scale that is linear up to a value and logarithmic above, with few ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_yscale("symlog", linthresh=linear_to, linscale=1.2)
    step = linear_to / 2
    ticks = [step * i for i in range(int(np.ceil(max(low, -linear_to) / step)), 3)]
    decades = 10.0 ** np.arange(np.ceil(np.log10(linear_to * 1.01)), np.log10(high) + 1)
    ticks += [tick for ten in decades for tick in ((ten, 3 * ten) if len(decades) < 4 else (ten,))]
    axis.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= 1.5 * high]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}" if abs(y) < 1e7 else f"{y:.0e}"))


def _is_whole(log: Log) -> NDArray[np.bool_]:
    """Which frames have not exploded; all frames if every one has."""
    whole: NDArray[np.bool_] = (log.explosion == "") & (log.state != "invalid")
    return whole if whole.any() else np.ones(len(log), dtype=bool)


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)
