"""The file of a run: written line by line, locked, read back."""

from .history import LogHistory
from .lines import SCHEMA, Line
from .reader import Log, read_log
from .writer import LogWriter, require_new_log

__all__ = ["SCHEMA", "Line", "Log", "LogHistory", "LogWriter", "read_log", "require_new_log"]
