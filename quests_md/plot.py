"""Pictures of a log."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .calibration import Calibration, kind_of
from .frame_statistics import STATISTICS
from .levels import Level, NullScores
from .logfile import Log
from .records import Event

if TYPE_CHECKING:  # importing matplotlib takes half a second, which a monitor need not spend
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PICTURE_SUFFIXES", "null_distributions", "timeline"]

#: Names that a picture may end in.
PICTURE_SUFFIXES = (".png", ".pdf", ".svg", ".jpg")

COLOURS = {"novel": "tab:red", "transition": "tab:purple", "exploded": "black"}

#: dH in nats from which the axis may be logarithmic: the first that is at least twice the level. It is if dH goes
#: MANY_TIMES higher.
LINEAR_TO, MANY_TIMES = (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0), 5.0

#: Checks up to which each is marked with a dot.
FEW_CHECKS = 60

#: Elements that a title names.
MOST_ELEMENTS = 8


def timeline(log: Log, title: str | None = None) -> "Figure":
    """Draw a run: how far from the reference, how many atoms, how hot, with its events shaded.

    The panels, from the top, are dH in nats (where it grows large, linear up to at least twice the level and
    logarithmic beyond), the part of the atoms above the level, and the temperature in K if the log has it; over time
    if it is known, else over steps, or over checks where steps repeat.

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
    has_temperature = bool(np.isfinite(log.temperature_K).any())
    ratios = [3, 1.3, 1.3] if has_temperature else [3, 1.3]
    figure = Figure(figsize=(9, 7.5 if has_temperature else 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)

    _draw_entropy(axes[0], x, log)
    axes[1].stairs(_percent_above(log), edges, fill=True, color="tab:red", alpha=0.6, lw=0)
    axes[1].set_ylabel("atoms above\nthe level (%)")
    axes[1].set_ylim(0, max(5.0, 1.08 * float(_percent_above(log).max())))
    if has_temperature:
        axes[2].plot(x, _finite(log.temperature_K), color="0.25", lw=1.2, marker=_marker(log))
        axes[2].set_ylabel("temperature (K)")
        axes[2].set_ylim(bottom=0)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    _shade_events(axes, x, edges, log)
    axes[-1].set_xlabel(label)
    pad = 0.5 * (edges[1] - edges[0]) if len(x) == 1 else 0.005 * (x[-1] - x[0])
    if len(x) == 1:
        axes[-1].set_xticks(x)
    axes[0].set_xlim(float(x[0] - pad), float(x[-1] + pad))
    figure.suptitle(title or _sentence(log), x=0.01, ha="left", fontsize=13, fontweight="bold")
    axes[0].set_title(_subtitle(log.header), loc="left", fontsize=9, color="0.35", pad=24)
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
    is_share = level.statistic == "n_tail"
    scores = null.scores * n_atoms if is_share else null.scores
    value = level.value * n_atoms if is_share else level.value
    axis.hist(scores, bins=min(max(int(np.sqrt(len(scores)) * 1.5), 5), 40), color="tab:blue", alpha=0.65)
    if np.isfinite(value):
        axis.axvline(value, color="tab:red", ls="--", lw=1.4)
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
            color="tab:red",
        )
    side = "largest" if level.side == "above" else "smallest"
    element = f" of {level.element}" if level.element else ""
    axis.set_xlabel(f"{level.statistic}{element} ({STATISTICS[level.statistic].unit}), {side} of each group")
    axis.set_ylabel("groups")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def _draw_entropy(axis: "Axes", x: NDArray[np.float64], log: Log) -> None:
    level = _level(log)
    top, mean = _finite(log.dh_max), _finite(log.dh_mean)
    is_partial = bool((np.isnan(log.dh_max) & (log.state == "in")).any())
    label = "most novel atom, where above its level" if is_partial else "most novel atom"
    if np.isfinite(top).any():
        axis.plot(x, top, color="tab:red", lw=1.4, marker=_marker(log, top), label=label)
    if np.isfinite(mean).any():
        axis.plot(x, mean, color="tab:blue", lw=1.4, marker=_marker(log), label="mean over atoms")
    if np.isfinite(level):
        axis.axhline(level, color="tab:red", ls="--", lw=1.2, label=f"level {level:.2f}")
    means = [level for level in _levels_of(log.header, "dh_mean") if np.isfinite(level)]
    for i, value in enumerate(means):
        label = f"level{'s' * (len(means) > 1)} of the mean " + ", ".join(f"{v:.2f}" for v in means)
        axis.axhline(value, color="tab:blue", ls="--", lw=1.2, label=None if i else label)
    _mark(axis, x[log.state == "invalid"], 0.04, "x", "invalid frame")
    infinite = np.isposinf(log.dh_max)
    _mark(axis, x[infinite], 0.86, "^", "element not in the reference: infinite")
    shown = np.concatenate([top, mean, [level], means])
    shown = shown[np.isfinite(shown)]
    axis.set_ylabel("dH (nats)\nknown  ←   →  novel")
    if len(shown):
        _limit(axis, float(shown.min()), float(shown.max()), level, headroom=0.3 if infinite.any() else 0.12)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=5, fontsize=9, frameon=False)


def _mark(axis: "Axes", x: NDArray[np.float64], height: float, marker: str, label: str) -> None:
    """Markers at a height of the panel (0 to 1), for checks that have no dH to show."""
    if len(x):
        across = axis.get_xaxis_transform()
        axis.plot(x, np.full(len(x), height), marker, ms=5, color="black", transform=across, label=label)


def _limit(axis: "Axes", low: float, high: float, level: float, headroom: float) -> None:
    """Set the range of dH with room for labels at the top; logarithmic above where the level would be squeezed."""
    least = 2 * abs(level) if np.isfinite(level) else 0.0
    linear_to = next((value for value in LINEAR_TO if value >= least), least)
    if high <= MANY_TIMES * linear_to:
        margin = max(0.05 * (high - low), 0.25)
        axis.set_ylim(low - margin, high + headroom / (1 - headroom) * (high - low + margin))
        return
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_ylabel(f"dH (nats, log above {linear_to:g})\nknown  ←   →  novel")
    axis.set_yscale("symlog", linthresh=linear_to, linscale=1.2)
    axis.set_ylim(min(1.2 * low, low - 2), high * (high / linear_to) ** (1.5 * headroom))
    step = linear_to / 2
    ticks = [step * i for i in range(int(np.floor(max(low, -linear_to) / step)), 3)]
    decades = 10.0 ** np.arange(np.ceil(np.log10(linear_to * 1.01)), np.log10(high) + 1)
    ticks += [tick for ten in decades for tick in ((ten, 3 * ten) if len(decades) < 4 else (ten,))]
    axis.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= axis.get_ylim()[1]]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}" if abs(y) < 1e7 else f"{y:.0e}"))


def _shade_events(axes: NDArray[Any], x: NDArray[np.float64], edges: NDArray[np.float64], log: Log) -> None:
    """Shade the events in all panels and number them in the first, where there is room."""
    free_from, width = -np.inf, float(edges[-1] - edges[0])
    after = 0
    for event in log.events:
        inside = _checks_of(event, log, after)
        if inside is None:
            continue
        first, last, after = inside
        colour = COLOURS[event.kind]
        left, right = float(x[first]), float(edges[last + 1])
        for axis in axes:
            axis.axvspan(float(edges[first]), right, color=colour, alpha=0.10, lw=0)
            axis.axvline(left, color=colour, lw=1.2)
        text = f"event {event.id}"
        if right - left > 0.3 * width or event.kind == "exploded":
            text += {"novel": ": outside the reference", "exploded": ": invalid numbers"}.get(event.kind, event.kind)
        room = 0.0095 * len(text) * width  # of a letter of this size in a panel of this width
        at_right_edge = left + room > edges[-1]
        start = left - room if at_right_edge else left
        if start < free_from:
            continue
        free_from = start + room
        axes[0].annotate(
            text,
            (left, 0.985),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if at_right_edge else 4, 0),
            textcoords="offset points",
            ha="right" if at_right_edge else "left",
            va="top",
            fontsize=9,
            color=colour,
        )


def _checks_of(event: Event, log: Log, after: int) -> tuple[int, int, int] | None:
    """First check of an event, last one out, and where the next event may begin; steps may repeat in a log."""
    starts = np.flatnonzero((log.step == event.onset_step) & (log.state != "in"))
    starts = starts[starts >= after]
    if len(starts) == 0:
        return None
    first = int(starts[0])
    # the last line on an open event may be older than the last check
    end = len(log) if event.is_open else min(first + max(event.n_checks, 1), len(log))
    return first, first + int(np.flatnonzero(log.state[first:end] != "in")[-1]), end


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


def _level(log: Log) -> float:
    return float(log.header.get("calibration", {}).get("level", np.nan))


def _levels_of(header: dict[str, Any], statistic: str) -> list[float]:
    """Levels in use of one statistic, as the header of the log has them."""
    calibration = header.get("calibration", {})
    if statistic not in calibration.get("statistics", ()):
        return []
    return [float(level["value"]) for level in calibration.get("levels", ()) if level["statistic"] == statistic]


def _percent_above(log: Log) -> NDArray[np.float64]:
    percent: NDArray[np.float64] = 100 * log.n_above / np.maximum(log.n_atoms, 1)
    return percent


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


def _marker(log: Log, values: NDArray[np.float64] | None = None) -> str:
    """A dot where there are few checks, or gaps between which a line would not show single ones."""
    return "." if len(log) <= FEW_CHECKS or (values is not None and np.isnan(values).any()) else ""


def _sentence(log: Log) -> str:
    if not log.events:
        checks = f"{len(log)} check{'s' * (len(log) != 1)}"
        out = int((log.state == "out").sum())
        if out:
            return f"No event in {checks}: {out} out, too few in a row"
        if not np.isfinite(_level(log)):
            return f"Nothing decided in {checks}: there is no level"
        return f"Stayed inside the reference: {checks}, no event"
    first = log.events[0]
    if first.kind == "exploded":
        text = f"Broke down at {_when(first)}"
    elif first.onset_step == log.step[0] and log.state[0] == "out":
        text = f"Outside the reference from the first check on, {_when(first)}"
    else:
        text = f"Left the reference at {_when(first)}"
    broken = next((event for event in log.events if event.kind == "exploded"), first)
    if broken is not first:
        text += f", broke down at step {broken.onset_step}"
    return text + (f"; {len(log.events)} events" if len(log.events) > 1 else "")


def _when(event: Event) -> str:
    numbers = ((event.onset_time_ps, ".2f", "ps"), (event.onset_temperature_K, ".0f", "K"))
    known = [f"{value:{form}} {unit}" for value, form, unit in numbers if value is not None and np.isfinite(value)]
    return f"step {event.onset_step}" + (f" ({', '.join(known)})" if known else "")


def _subtitle(header: dict[str, Any]) -> str:
    """What the run is compared with, and what the level is worth."""
    reference, calibration = header.get("reference", {}), header.get("calibration", {})
    elements = reference.get("elements", [])
    named = ", ".join(elements[:MOST_ELEMENTS]) + (", ..." if len(elements) > MOST_ELEMENTS else "")
    about = f"reference: {reference.get('n_environments')} environments of {named or 'no element'}"
    return f"{about}, h = {reference.get('bandwidth')} 1/Å\n{_worth(calibration)}"


def _worth(calibration: dict[str, Any]) -> str:
    """The level in words."""
    level, kind = float(calibration.get("level", np.nan)), calibration.get("kind")
    n_groups = calibration.get("n_groups")
    if not np.isfinite(level):
        return "no level: nothing could be held out of the reference, no atom is ever above"
    text = f"level {level:.2f} nats"
    if len(calibration.get("statistics", ())) > 1:
        text = f"alarms by {', '.join(calibration['statistics'])}"
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
