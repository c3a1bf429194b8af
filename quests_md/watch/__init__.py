"""Checks to events to actions: everything with a state."""

from .actions import KINDS, event_json, save_frame, sentinel, stop
from .baseline import BASELINE_STATISTICS, Baseline
from .budget import Budget
from .cusum import Cusum
from .explosion import Explosion
from .flagged import labelled_copy
from .preflight import preflight_text, warm_up
from .resume import (
    CHANGING,
    action_files,
    bring_back,
    cut_files,
    find_place,
    header_at,
    require_known_reference,
    require_same_monitor,
)
from .run import Follower
from .run_log import Journal, OnError
from .settings import header_line
from .trigger import Trigger

__all__ = [
    "BASELINE_STATISTICS",
    "CHANGING",
    "KINDS",
    "Baseline",
    "Budget",
    "Cusum",
    "Explosion",
    "Follower",
    "Journal",
    "OnError",
    "Trigger",
    "action_files",
    "bring_back",
    "cut_files",
    "event_json",
    "find_place",
    "header_at",
    "header_line",
    "labelled_copy",
    "preflight_text",
    "require_known_reference",
    "require_same_monitor",
    "save_frame",
    "sentinel",
    "stop",
    "warm_up",
]
