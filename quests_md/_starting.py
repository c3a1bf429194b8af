"""Ctrl-C while a command still loads its libraries, which takes a second or two: it ends with a line, no traceback.

The command line sets handlers of its own once it is loaded (`quests_md.cli`). This module is the first that the package
imports, and does nothing in a process that is not a command of this package.
"""

import os
import signal
import sys
import threading
from pathlib import Path

__all__: list[str] = []

#: Exit code of a command that was interrupted, as in `quests_md.cli`.
INTERRUPTED = 130


def _is_command() -> bool:
    """Whether this process is `quests-md ...` or `python -m quests_md ...`."""
    arguments = getattr(sys, "argv", None) or [""]
    if arguments[0] == "-m":  # a module that is being looked for; its name stands where this does
        return sys.orig_argv[-len(arguments)].removeprefix("-m") == "quests_md"
    return Path(arguments[0]).name in ("quests-md", "quests-md.exe")


def _end(signum: int, frame: object) -> None:
    """End at once: nothing has been begun that must be ended in order."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


if (
    _is_command()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _end)
