"""The file of a run: written line by line, locked, read back."""

from .history import SCHEMA, Line, LogHistory
from .logfile import Log, LogWriter, plain_line, read_log, require_new_log

__all__ = ["SCHEMA", "Line", "Log", "LogHistory", "LogWriter", "plain_line", "read_log", "require_new_log"]
