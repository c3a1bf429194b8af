"""Checks to events to actions: everything with a state."""

from .actions import Action, GivenAction, action_files, save_frame, sentinel, stop
from .budget import Overhead
from .cusum import Cusum
from .run import Run
from .run_log import OnError, keep_trace
from .settings import RunSettings
from .trigger import Trigger
from .watching import Watch

__all__ = [
    "Action",
    "Cusum",
    "GivenAction",
    "OnError",
    "Overhead",
    "Run",
    "RunSettings",
    "Trigger",
    "Watch",
    "action_files",
    "keep_trace",
    "save_frame",
    "sentinel",
    "stop",
]
