"""A log as a user gives it: read back already, or the name of its file."""

import os
from typing import TypeAlias

from quests_md._arguments import opened

from .reader import Log, read_log

__all__ = ["GivenLog", "opened_log"]

GivenLog: TypeAlias = Log | str | os.PathLike[str]


def opened_log(given: GivenLog, argument: str = "log") -> Log:
    """The log, read if the name of its file is given.

    Raises TypeError, which names the argument, for anything else, and what `read_log` raises.
    """
    return opened(argument, given, Log, read_log, "")
