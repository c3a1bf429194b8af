"""What the header of a log says of statistics and their levels."""

from typing import Any

import numpy as np

from quests_md.calibration import STATISTICS

__all__ = ["level_of_largest", "levels_of", "statistics_in_use"]


def statistics_in_use(header: dict[str, Any]) -> tuple[str, ...]:
    """Names of the statistics that may raise an alarm."""
    return tuple(header.get("calibration", {}).get("statistics", ()))


def level_of_largest(header: dict[str, Any]) -> float:
    """The level of the largest dH in nats, NaN if the header has none."""
    return float(header.get("calibration", {}).get("level", np.nan))


def levels_of(header: dict[str, Any], statistic: str, n_atoms: float = 1.0) -> list[float]:
    """The finite levels in use of one statistic for frames of so many atoms.

    There are none where the run's own beginning judges the statistic.
    """
    of_run_itself = header.get("baseline_ps") and STATISTICS[statistic].has_baseline
    if of_run_itself or statistic not in statistics_in_use(header):
        return []
    levels = header.get("calibration", {}).get("levels", ())
    values = [float(level["value"]) for level in levels if level["statistic"] == statistic]
    return [STATISTICS[statistic].in_frame(value, n_atoms) for value in values if np.isfinite(value)]
