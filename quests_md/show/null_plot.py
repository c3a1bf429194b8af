"""The picture of a calibration: null distributions and levels."""

from typing import TYPE_CHECKING

import numpy as np

from quests_md.calibration import STATISTICS, Calibration, GivenCalibration, Level, kind_of, opened_calibration

from .figures import Colour, finished, new_figure, tidy, write_at

if TYPE_CHECKING:  # importing matplotlib takes half a second, which a monitor need not spend
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["null_distributions"]


def null_distributions(calibration: GivenCalibration, atoms: int | None = None) -> "Figure":
    """Draw where the numbers of frames in distribution lie, and the levels that they hardly ever exceed.

    One panel per level in use, for a system of so many atoms: each held-out group of frames counts once, with its most
    extreme frame. `calibration` is one or the name of its file; if its levels rest on no held-out groups, ValueError is
    raised.
    """
    calibration = opened_calibration(calibration)
    numbers = calibration.typical.numbers(atoms)
    levels = [level for level in calibration.alarm_levels(numbers) if np.isfinite(level.value) and level.n_groups]
    if not levels:
        raise ValueError("calibration: expected held-out groups of frames to draw, got none")
    columns = min(len(levels), 2)
    rows = -(-len(levels) // columns)
    figure = new_figure(4.8 * columns, 2.9 * rows + 0.8)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, level in zip(panels, levels, strict=False):
        _draw_null(axis, calibration, level, len(numbers))
    for axis in panels[len(levels) :]:
        axis.set_visible(False)
    rate = (
        f"{calibration.false_alarms:g} false alarms per {'check' if calibration.counts_checks() else calibration.per}"
    )
    promises = {"conformal": f"at most {rate}", "extrapolated": f"about {rate}, extrapolated"}
    promise = promises.get(kind_of(levels), f"the asked {rate} cannot be promised")
    text = f"Frames in distribution and levels for {len(numbers)} atoms: {promise}"
    figure.suptitle(text, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return finished(figure)


def _draw_null(axis: "Axes", calibration: Calibration, level: Level, n_atoms: int) -> None:
    """Draw a level as a vertical line that is named on its inner side, and the null distribution it comes from."""
    statistic = STATISTICS[level.statistic]
    wanted = (level.statistic, level.element, level.side)
    of_level = [null for null in calibration.nulls if (null.statistic, null.element, null.side) == wanted]
    null = next(null for null in of_level if null.values in ("full", "both"))
    scores, value = statistic.in_frame(null.scores, n_atoms), statistic.in_frame(level.value, n_atoms)
    axis.hist(scores, bins=min(max(int(np.sqrt(len(scores)) * 1.5), 5), 40), color=Colour.BLUE, alpha=0.65)
    axis.axvline(value, color=Colour.VERMILLION, ls="--", lw=1.4)
    low, high = axis.get_xlim()
    room = 0.1 * (high - low)
    axis.set_xlim(min(low, value - room), max(high, value + room))
    text, is_left = f"level {value:.2f}\n{level.kind}", value >= sum(axis.get_xlim()) / 2
    write_at(axis, text, value, 0.97, Colour.VERMILLION, is_left=is_left, gap=5, va="top", fontsize=9)
    side = "largest" if level.side == "above" else "smallest"
    element = f" of {level.element}" if level.element else ""
    axis.set_xlabel(f"{level.statistic}{element} ({statistic.unit}), {side} of each group")
    axis.set_ylabel("groups")
    tidy(axis)
