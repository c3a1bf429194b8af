"""For eyes: pictures, tables and words."""

from .figures import PICTURE_SUFFIXES
from .growth_plot import cluster_growth
from .level_changes import moved_levels
from .null_plot import null_distributions
from .tables import check_rows, event_rows, fold, latest, power_rows, reference_lines, terminal_width
from .timeline_plot import timeline
from .words import log_summary, run_summary

__all__ = [
    "PICTURE_SUFFIXES",
    "check_rows",
    "cluster_growth",
    "event_rows",
    "fold",
    "latest",
    "log_summary",
    "moved_levels",
    "null_distributions",
    "power_rows",
    "reference_lines",
    "run_summary",
    "terminal_width",
    "timeline",
]
