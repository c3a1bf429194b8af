"""Pictures of a log."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .records import Event, Log

if TYPE_CHECKING:  # importing matplotlib takes half a second, which a monitor need not spend
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["timeline"]

COLOURS = {"novel": "tab:red", "transition": "tab:purple", "exploded": "black"}


def timeline(log: Log, title: str | None = None) -> "Figure":
    """Draw a run: how far from the reference, how many atoms, how hot, with its events shaded.

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

    in_time = bool(np.isfinite(log.time_ps).all())
    x = log.time_ps if in_time else log.step.astype(float)
    has_temperature = bool(np.isfinite(log.temperature_K).any())
    figure = Figure(figsize=(9, 7.5 if has_temperature else 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [3, 1.4, 1.4] if has_temperature else [3, 1.4]
    axes = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)

    level = float(log.header.get("calibration", {}).get("level", np.nan))
    _draw_entropy(axes[0], x, log, level)
    axes[1].fill_between(
        x, 100 * log.n_above / np.maximum(log.n_atoms, 1), step="mid", color="tab:red", alpha=0.6, lw=0
    )
    axes[1].set_ylabel("atoms above\nthe level (%)")
    axes[1].set_ylim(0, max(5.0, float(100 * (log.n_above / np.maximum(log.n_atoms, 1)).max()) * 1.08))
    if has_temperature:
        axes[2].plot(x, log.temperature_K, color="0.25", lw=1.2)
        axes[2].set_ylabel("temperature (K)")
        axes[2].set_ylim(bottom=0)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        for event in log.events:
            _shade(axis, event, x, log)
    axes[-1].set_xlabel("time (ps)" if in_time else "step")
    axes[0].set_xlim(float(x.min()), float(x.max()) if x.max() > x.min() else float(x.min()) + 1)
    reference = log.header.get("reference", {})
    figure.suptitle(title or _sentence(log), fontsize=13, fontweight="bold")
    axes[0].set_title(
        f"reference: {reference.get('n_environments')} environments of {', '.join(reference.get('elements', []))}, "
        f"h = {reference.get('bandwidth')} 1/Å; level {log.header.get('calibration', {}).get('kind')}",
        fontsize=9,
        color="0.35",
    )
    return figure


def _draw_entropy(axis: "Axes", x: NDArray[np.float64], log: Log, level: float) -> None:
    top = np.where(np.isfinite(log.dh_max), log.dh_max, np.nan)
    axis.plot(x, top, color="tab:red", lw=1.4, label="most novel atom (maximum)")
    axis.plot(x, log.dh_mean, color="tab:blue", lw=1.4, label="mean over atoms")
    if np.isfinite(level):
        axis.axhline(level, color="0.2", ls="--", lw=1.2)
        axis.annotate(
            f"level {level:.2f}",
            (1.0, level),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color="0.2",
        )
    for state, marker in (("invalid", "x"),):
        hit = log.state == state
        if hit.any():
            axis.plot(x[hit], np.full(int(hit.sum()), level), marker, color="black", label="invalid frame")
    axis.set_ylabel("dH (nats)\nknown  ←   →  novel")
    axis.legend(loc="upper left", fontsize=9, framealpha=0.9)


def _shade(axis: "Axes", event: Event, x: NDArray[np.float64], log: Log) -> None:
    inside = (log.step >= event.onset_step) & (log.step <= event.last_step)
    if inside.any():
        colour = COLOURS[event.kind]
        axis.axvspan(float(x[inside][0]), float(x[inside][-1]), color=colour, alpha=0.10, lw=0)
        axis.axvline(float(x[inside][0]), color=colour, lw=1.2)


def _sentence(log: Log) -> str:
    if not log.events:
        return f"{len(log)} checks, no event: the run stayed inside the reference"
    first = log.events[0]
    at = f"step {first.onset_step}"
    if first.onset_time_ps is not None:
        at += f" ({first.onset_time_ps:.2f} ps)"
    if first.onset_temperature_K is not None and np.isfinite(first.onset_temperature_K):
        at += f", at {first.onset_temperature_K:.0f} K"
    more = f", first of {len(log.events)} events" if len(log.events) > 1 else ""
    if first.kind == "exploded":
        return f"The run exploded at {at}{more}"
    return f"The run left the reference at {at}{more}"
