"""For eyes: pictures, tables and words."""

from .plot import PICTURE_SUFFIXES, cluster_growth, null_distributions, timeline
from .tables import (
    check_rows,
    event_rows,
    fold,
    latest,
    log_summary,
    power_rows,
    reference_lines,
    run_summary,
    terminal_width,
)

__all__ = [
    "PICTURE_SUFFIXES",
    "check_rows",
    "cluster_growth",
    "event_rows",
    "fold",
    "latest",
    "log_summary",
    "null_distributions",
    "power_rows",
    "reference_lines",
    "run_summary",
    "terminal_width",
    "timeline",
]
