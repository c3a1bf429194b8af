"""The panels of a picture of a log: each draws one kind of number over the checks."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quests_md.calibration import BASELINE_STATISTICS, STATISTICS
from quests_md.log import Log

from .captions import level_of_largest

if TYPE_CHECKING:  # importing matplotlib takes half a second, which a monitor need not spend
    from matplotlib.axes import Axes

__all__ = [
    "BLUE",
    "FEW_CHECKS",
    "LEGEND_COLUMNS",
    "PHASE_COLOURS",
    "SKY",
    "VERMILLION",
    "alarms_of",
    "dots",
    "draw_alarms",
    "draw_atoms",
    "draw_entropy",
    "draw_frame_entropy",
    "draw_phases",
    "draw_temperature",
    "levels_of",
    "positive",
    "statistics_in_use",
]

#: Colours that are told apart with any kind of colour vision: Okabe and Ito, https://jfly.uni-koeln.de/color/
VERMILLION = "#D55E00"
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
SKY = "#56B4E9"
PINK = "#CC79A7"

PHASE_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, "0.3")

#: Numbers of a frame in the panel of dH, with their colours: the largest and the mean always, others where in use.
ENTROPIES = {"dh_max": VERMILLION, "dh_q99": ORANGE, "dh_mean": BLUE}
ENTROPY_NAMES = {"dh_max": "most novel atom", "dh_q99": "99 % quantile", "dh_mean": "mean over atoms"}

#: Values from which an axis may be logarithmic: the first that is at least twice the level. It is if the values go
#: MANY_TIMES higher.
LINEAR_TO, MANY_TIMES = (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0), 5.0

#: Checks up to which each is marked with a dot.
FEW_CHECKS = 60

LEGEND_COLUMNS = 4

#: Share of the atoms, in percent, that the cluster of a phase must reach to be drawn.
LEAST_CLUSTER = 1.0


def draw_entropy(axis: "Axes", x: NDArray[np.float64], log: Log, lanes: int) -> None:
    """DH of the frame with the levels in use, with room for so many lanes of labels at the top.

    Frames that have exploded may go beyond the panel, so that the run before them can be seen.
    """
    in_use = statistics_in_use(log.header)
    level = level_of_largest(log.header)
    shown = [np.array([level])]
    is_whole = _is_whole(log)
    is_partial = bool((np.isnan(log.dh_max) & (log.state == "in")).any())
    for name, colour in ENTROPIES.items():
        values = _finite(getattr(log, name))
        if not np.isfinite(values).any() or (name == "dh_q99" and name not in in_use):
            continue
        largest = name == "dh_max"
        text = ENTROPY_NAMES[name] + (", where above its level" if largest and is_partial else "")
        axis.plot(x, values, color=colour, lw=1.4, marker=dots(log, values if largest else None), label=text)
        shown.append(values[is_whole])
    if np.isfinite(level):
        axis.axhline(level, color=VERMILLION, ls="--", lw=1.2, label=f"level {level:.2f}")
    for name, text in (("dh_q99", "quantile"), ("dh_mean", "mean")):
        values = np.array(levels_of(log.header, name))
        values = values[np.isfinite(values)]
        for i, value in enumerate(values):
            label = f"level{'s' * (len(values) > 1)} of the {text} " + ", ".join(f"{v:.2f}" for v in values)
            axis.axhline(value, color=ENTROPIES[name], ls="--", lw=1.2, label=None if i else label)
        shown.append(values)
    _mark(axis, x[log.state == "invalid"], 0.04, "x", "invalid frame")
    _mark(axis, x[(log.explosion != "") & (log.state != "invalid")], 0.04, "X", "explosion")
    infinite = np.isposinf(log.dh_max)
    _mark(axis, x[infinite], 0.86 - 0.07 * (lanes - 1), "^", "element not in the reference: infinite")
    numbers = np.concatenate(shown)
    numbers = numbers[np.isfinite(numbers)]
    axis.set_ylabel("dH (nats)\nknown  ←   →  novel")
    if len(numbers):
        headroom = (0.3 if infinite.any() else 0.12) + 0.07 * (lanes - 1)
        _limit(axis, float(numbers.min()), float(numbers.max()), level, headroom)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=LEGEND_COLUMNS, fontsize=9, frameon=False)


def draw_atoms(axis: "Axes", x: NDArray[np.float64], edges: NDArray[np.float64], log: Log) -> None:
    """Atoms above their level, and the other counts that are in use, with their levels."""
    in_use = statistics_in_use(log.header)
    axis.stairs(log.n_above, edges, fill=True, color=VERMILLION, alpha=0.55, lw=0, label="above their level")
    is_whole = _is_whole(log)
    tops, levels = [float(log.n_above[is_whole].max())], []
    counts = (("tail_cluster", BLUE, "largest cluster in the tail"), ("n_tail", ORANGE, "in the tail"))
    for name, colour, text in counts:
        values = np.asarray(getattr(log, name), dtype=float)
        values[values < 0] = np.nan
        if name not in in_use or not np.isfinite(values).any():
            continue
        axis.plot(x, values, color=colour, lw=1.2, marker=dots(log), label=text)
        tops.append(float(np.nanmax(values[is_whole], initial=0.0)))
        for level in levels_of(log.header, name):
            value = STATISTICS[name].in_frame(level, float(np.median(log.n_atoms)))
            if np.isfinite(value):
                axis.axhline(value, color=colour, ls="--", lw=1.2, label=f"level {value:.3g}")
                levels.append(value)
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


def draw_alarms(axis: "Axes", edges: NDArray[np.float64], alarms: dict[str, NDArray[np.bool_]]) -> None:
    """A bar wherever a statistic was out, a row for each."""
    for row, is_out in enumerate(alarms.values()):
        change = np.flatnonzero(np.diff(np.concatenate([[False], is_out, [False]]).astype(np.int8)))
        bars = [(float(edges[i]), float(edges[j] - edges[i])) for i, j in zip(change[::2], change[1::2], strict=True)]
        axis.broken_barh(bars, (row - 0.25, 0.5), color="0.2", lw=0.8, zorder=4)
    axis.set_yticks(range(len(alarms)), list(alarms), fontsize=8)
    axis.set_ylim(len(alarms) - 0.4, -0.6)
    axis.set_title("alarms by", loc="left", fontsize=8, pad=4)


def draw_frame_entropy(axis: "Axes", x: NDArray[np.float64], log: Log) -> None:
    """The self-entropy of the frame, with its levels."""
    axis.plot(x, _finite(log.frame_entropy), color=GREEN, lw=1.4, marker=dots(log), label="frame entropy")
    values = [value for value in levels_of(log.header, "frame_entropy") if np.isfinite(value)]
    for i, value in enumerate(values):
        label = f"level{'s' * (len(values) > 1)} " + ", ".join(f"{v:.2f}" for v in values)
        axis.axhline(value, color=GREEN, ls="--", lw=1.2, label=None if i else label)
    axis.set_ylabel("frame entropy\n(nats)")
    if values:
        _put_legend(axis)


def draw_phases(axis: "Axes", x: NDArray[np.float64], log: Log) -> None:
    """The share of the atoms in each phase, dotted the largest clusters of those that are not the parent."""
    n_atoms = np.maximum(log.n_atoms, 1)
    shares = {name: np.where(counts >= 0, 100 * counts / n_atoms, np.nan) for name, counts in log.phases.items()}
    parent = (log.header.get("phases") or {}).get("parent")
    for i, (name, percent) in enumerate(shares.items()):
        colour = PHASE_COLOURS[i % len(PHASE_COLOURS)]
        axis.plot(x, percent, color=colour, lw=1.4, marker=dots(log), label=name)
        cluster = 100 * log.phase_clusters.get(name, np.zeros(len(log))) / n_atoms
        if name != parent and cluster.max() >= LEAST_CLUSTER:
            text = f"{name}, largest cluster"
            axis.plot(x, np.where(cluster >= 0, cluster, np.nan), color=colour, lw=1.4, ls=":", label=text)
    axis.set_ylabel("atoms in\nphases (%)")
    axis.set_ylim(0, 105)
    _put_legend(axis)


def draw_temperature(axis: "Axes", x: NDArray[np.float64], log: Log) -> None:
    """The temperature; of frames that have exploded it may go beyond the panel."""
    values = _finite(log.temperature_K)
    axis.plot(x, values, color="0.25", lw=1.2, marker=dots(log))
    axis.set_ylabel("temperature (K)")
    usual = values[_is_whole(log)]
    top = np.nanmax(usual if np.isfinite(usual).any() else values)
    axis.set_ylim(0, 1.1 * top if top > 0 else 1.0)


def alarms_of(log: Log) -> dict[str, NDArray[np.bool_]]:
    """Which checks each statistic was out at; those that never were are left out."""
    names = dict.fromkeys((*statistics_in_use(log.header), *log.excesses))
    if not log.excesses:  # a log of the first release
        names |= dict.fromkeys(name for text in np.unique(log.alarms) for name in str(text).split())
    padded = np.char.add(np.char.add(" ", log.alarms), " ")
    found = {
        name: log.excesses[name] > 0 if name in log.excesses else np.char.find(padded, f" {name} ") >= 0
        for name in names
    }
    return {name: is_out for name, is_out in found.items() if is_out.any()}


def statistics_in_use(header: dict[str, Any]) -> tuple[str, ...]:
    """Statistics that may raise an alarm."""
    return tuple(header.get("calibration", {}).get("statistics", ()))


def levels_of(header: dict[str, Any], statistic: str) -> list[float]:
    """Levels in use of one statistic, as the header of the log has them; none where the run's own beginning judges."""
    if statistic not in statistics_in_use(header) or (header.get("baseline_ps") and statistic in BASELINE_STATISTICS):
        return []
    levels = header.get("calibration", {}).get("levels", ())
    return [float(level["value"]) for level in levels if level["statistic"] == statistic]


def positive(values: NDArray[Any]) -> NDArray[np.float64]:
    """What a logarithmic axis can show, else NaN."""
    return np.where(values > 0, values, np.nan).astype(float)


def dots(log: Log, values: NDArray[np.float64] | None = None) -> str:
    """A dot where there are few checks, or gaps between which a line would not show single ones."""
    return "." if len(log) <= FEW_CHECKS or (values is not None and np.isnan(values).any()) else ""


def _put_legend(axis: "Axes") -> None:
    """A legend in a line above the panel, where it covers nothing."""
    axis.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.97), ncols=6, fontsize=8, frameon=False)


def _mark(axis: "Axes", x: NDArray[np.float64], height: float, marker: str, label: str) -> None:
    """Markers at a height of the panel (0 to 1), for checks that have no dH to show."""
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
    least = 2 * abs(level) if np.isfinite(level) else 0.0
    return next((value for value in LINEAR_TO if value >= least), least)


def _make_logarithmic(axis: "Axes", linear_to: float, low: float, high: float) -> None:
    """A scale that is linear up to a value and logarithmic above, with few ticks."""
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
