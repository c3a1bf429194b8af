"""The file of a run: written line by line, locked, read back."""

from .history import LogHistory
from .lines import SCHEMA, Line
from .opening import GivenLog, opened_log
from .reader import Log, read_log
from .writer import LogWriter, require_new_log

__all__ = [
    "SCHEMA",
    "GivenLog",
    "Line",
    "Log",
    "LogHistory",
    "LogWriter",
    "opened_log",
    "read_log",
    "require_new_log",
]
