"""The panels of the timeline of a run: each draws numbers of one kind over the checks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quests_md.calibration import STATISTICS
from quests_md.log import Log

from .figures import Abscissa, Colour, dots, phase_colours
from .log_levels import level_of_largest, levels_of, statistics_in_use

if TYPE_CHECKING:  # importing matplotlib takes half a second, which a monitor need not spend
    from matplotlib.axes import Axes

__all__ = [
    "LEGEND_COLUMNS",
    "alarms_of",
    "draw_alarms",
    "draw_atoms",
    "draw_dh",
    "draw_phases",
    "draw_statistic",
    "draw_temperature",
    "other_statistics",
]


class Line(NamedTuple):
    """How a statistic is drawn."""

    colour: str
    name: str
    """Its name in the legend."""
    short: str = ""
    """Its name in "level of the ..."."""


#: Statistics are drawn in a panel by what the registry says of them: dH, counts of atoms, or a panel of their own; one
#: that is not named here gets its name in the registry.
LINES = {
    "dh_max": Line(Colour.VERMILLION, "most novel atom"),
    "dh_q99": Line(Colour.ORANGE, "99 % quantile", "quantile"),
    "dh_mean": Line(Colour.BLUE, "mean over atoms", "mean"),
    "tail_cluster": Line(Colour.BLUE, "largest cluster in the tail"),
    "n_tail": Line(Colour.ORANGE, "in the tail"),
    "frame_entropy": Line(Colour.GREEN, "frame entropy"),
}

#: Statistics whose numbers are drawn also where they raise no alarms.
ALWAYS = ("dh_max", "dh_mean")

#: Values from which an axis may be logarithmic: the first that is at least twice the level. It is if the values go
#: MANY_TIMES higher.
LINEAR_TO, MANY_TIMES = (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0), 5.0

LEGEND_COLUMNS = 4

#: Share of the atoms, in percent, that the cluster of a phase must reach to be drawn.
LEAST_CLUSTER = 1.0


def draw_dh(axis: "Axes", over: Abscissa, log: Log, lanes: int) -> None:
    """Draw dH of the frames with the levels in use, with room for so many lanes of labels at the top.

    Frames that have exploded may go beyond the panel, so that the run before them can be seen.
    """
    level = level_of_largest(log.header)
    names = [name for name, s in STATISTICS.items() if s.unit == "nats" and s.needs_reference]
    shown = [np.array([level]), *_draw_dh_lines(axis, over, log, names)]
    if np.isfinite(level):
        axis.axhline(level, color=Colour.VERMILLION, ls="--", lw=1.2, label=f"level {level:.2f}")
    for name in names:
        if name != "dh_max":
            values = levels_of(log.header, name)
            _draw_levels(axis, values, _line(name).colour, f" of the {_line(name).short}")
            shown.append(np.array(values))
    infinite = np.isposinf(log.dh_max)
    _mark(axis, over.x[log.state == "invalid"], 0.04, "x", "invalid frame")
    _mark(axis, over.x[(log.explosion != "") & (log.state != "invalid")], 0.04, "X", "explosion")
    _mark(axis, over.x[infinite], 0.86 - 0.07 * (lanes - 1), "^", "element not in the reference: infinite")
    axis.set_ylabel("dH (nats)\nknown  ←   →  novel")
    numbers = np.concatenate(shown)
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers):
        headroom = (0.3 if infinite.any() else 0.12) + 0.07 * (lanes - 1)
        _limit(axis, float(numbers.min()), float(numbers.max()), level, headroom)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=LEGEND_COLUMNS, fontsize=9, frameon=False)


def draw_atoms(axis: "Axes", over: Abscissa, log: Log) -> None:
    """Draw the atoms above their level, and the other counts of atoms that are in use, with their levels."""
    axis.stairs(
        log.n_above, over.edges, fill=True, color=Colour.VERMILLION, alpha=0.55, lw=0, label="above their level"
    )
    is_whole = _is_whole(log)
    tops, levels = [float(log.n_above[is_whole].max())], []
    for name in reversed([name for name in _known(log) if STATISTICS[name].unit == "atoms"]):
        values = np.asarray(getattr(log, name), dtype=float)
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


def draw_alarms(axis: "Axes", over: Abscissa, alarms: Mapping[str, NDArray[np.bool_]]) -> None:
    """Draw a bar wherever a statistic was out, a row for each."""
    edges = over.edges
    for row, is_out in enumerate(alarms.values()):
        change = np.flatnonzero(np.diff(np.concatenate([[False], is_out, [False]]).astype(np.int8)))
        bars = [(float(edges[i]), float(edges[j] - edges[i])) for i, j in zip(change[::2], change[1::2], strict=True)]
        axis.broken_barh(bars, (row - 0.25, 0.5), color="0.2", lw=0.8, zorder=4)
    axis.set_yticks(range(len(alarms)), list(alarms), fontsize=8)
    axis.set_ylim(len(alarms) - 0.4, -0.6)
    axis.set_title("alarms by", loc="left", fontsize=8, pad=4)


def other_statistics(log: Log) -> list[str]:
    """The statistics in use with numbers to draw that are neither dH nor counts of atoms."""
    return [
        name
        for name in _known(log)
        if STATISTICS[name].unit == "nats"
        and not STATISTICS[name].needs_reference
        and np.isfinite(getattr(log, name)).any()
    ]


def draw_statistic(axis: "Axes", over: Abscissa, log: Log, name: str) -> None:
    """Draw a statistic that is neither dH nor a count of atoms, with its levels."""
    line = _line(name)
    axis.plot(over.x, _finite(getattr(log, name)), color=line.colour, lw=1.4, marker=dots(log), label=line.name)
    levels = levels_of(log.header, name)
    _draw_levels(axis, levels, line.colour)
    axis.set_ylabel(f"{line.name}\n({STATISTICS[name].unit})")
    if levels:
        _put_legend(axis)


def draw_phases(axis: "Axes", over: Abscissa, log: Log) -> None:
    """Draw the share of the atoms in each phase, and dotted the largest clusters of phases other than the parent."""
    n_atoms = np.maximum(log.n_atoms, 1)
    shares = {name: np.where(counts >= 0, 100 * counts / n_atoms, np.nan) for name, counts in log.phases.items()}
    parent = (log.header.get("phases") or {}).get("parent")
    colours = phase_colours(log)
    for name, percent in shares.items():
        axis.plot(over.x, percent, color=colours[name], lw=1.4, marker=dots(log), label=name)
        cluster = 100 * log.phase_clusters.get(name, np.zeros(len(log))) / n_atoms
        if name != parent and cluster.max() >= LEAST_CLUSTER:
            drawn, text = np.where(cluster >= 0, cluster, np.nan), f"{name}, largest cluster"
            axis.plot(over.x, drawn, color=colours[name], lw=1.4, ls=":", label=text)
    axis.set_ylabel("atoms in\nphases (%)")
    axis.set_ylim(0, 105)
    _put_legend(axis)


def draw_temperature(axis: "Axes", over: Abscissa, log: Log) -> None:
    """Draw the temperature; that of frames that have exploded may go beyond the panel."""
    values = _finite(log.temperature_K)
    axis.plot(over.x, values, color="0.25", lw=1.2, marker=dots(log))
    axis.set_ylabel("temperature (K)")
    usual = values[_is_whole(log)]
    top = np.nanmax(usual if np.isfinite(usual).any() else values)
    axis.set_ylim(0, 1.1 * top if top > 0 else 1.0)


def alarms_of(log: Log) -> dict[str, NDArray[np.bool_]]:
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
    """The statistics in use that this version knows, in the order of the registry."""
    in_use = statistics_in_use(log.header)
    return [name for name in STATISTICS if name in in_use]


def _line(name: str) -> Line:
    return LINES.get(name) or Line(Colour.PINK, STATISTICS[name].text, STATISTICS[name].text)


def _draw_dh_lines(axis: "Axes", over: Abscissa, log: Log, names: Sequence[str]) -> list[NDArray[np.float64]]:
    """Draw the numbers of dH that the log has; those of frames that have not exploded, for the range of the panel."""
    drawn = []
    is_partial = bool((np.isnan(log.dh_max) & (log.state == "in")).any())
    for name in names:
        values = _finite(getattr(log, name))
        if not np.isfinite(values).any() or name not in (*ALWAYS, *statistics_in_use(log.header)):
            continue
        line, is_largest = _line(name), name == "dh_max"
        text = line.name + (", where above its level" if is_largest and is_partial else "")
        axis.plot(
            over.x, values, color=line.colour, lw=1.4, marker=dots(log, values if is_largest else None), label=text
        )
        drawn.append(values[_is_whole(log)])
    return drawn


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


def _limit(axis: "Axes", low: float, high: float, level: float, headroom: float) -> None:
    """Set the range of dH with room for labels at the top; logarithmic above where the level would be squeezed."""
    linear_to = _linear_to(level)
    if high <= MANY_TIMES * linear_to:
        margin = max(0.05 * (high - low), 0.25)
        axis.set_ylim(low - margin, high + headroom / (1 - headroom) * (high - low + margin))
        return
    axis.set_ylabel(f"dH (nats, log above {linear_to:g})\nknown  ←   →  novel")
    _make_logarithmic(axis, linear_to, min(1.2 * low, low - 2), high)
    axis.set_ylim(min(1.2 * low, low - 2), high * (high / linear_to) ** (1.5 * headroom))


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
    """Which frames have not exploded; all where every one has."""
    whole: NDArray[np.bool_] = (log.explosion == "") & (log.state != "invalid")
    return whole if whole.any() else np.ones(len(log), dtype=bool)


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)
