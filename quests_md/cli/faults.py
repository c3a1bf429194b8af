"""What is said of an error, and the exit code that it gives."""

import errno
import os

from quests_md.errors import LammpsError, QuestsMDError

from .exit_codes import ExitCode

__all__ = ["code_of", "error_line"]

#: Characters of an error line; a parser may quote the whole file.
LONGEST_MESSAGE = 1000

#: What to do about a file with which something failed.
ADVICE = {
    errno.ENOENT: "check the name and its folder",
    errno.ENOTDIR: "a file stands where the name has a folder; check the name",
    errno.EISDIR: "it is a folder; give the name of a file",
    errno.ELOOP: "it is a link that leads to itself; remove it, or give another name",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EACCES: "ask for permission (ls -l shows who has it), or give another name",
    errno.EPERM: "ask for permission (ls -l shows who has it), or give another name",
    errno.EROFS: "give a name on another disk",
    errno.ENOSPC: "make room on the disk, or give a name on another one",
    errno.EDQUOT: "make room within the quota, or give a name on another disk",
    errno.EFBIG: "files may not grow so large here (ulimit -f); raise the limit",
    errno.EMFILE: "too many files are open (ulimit -n); raise the limit",
}


def error_line(exc: BaseException) -> str:
    """What is said of an error in one line: what, where, and what to do."""
    if isinstance(exc, OSError) and exc.strerror:
        place = "" if exc.filename is None else f"{os.fsdecode(exc.filename) if exc.filename else repr('')}: "
        own = exc.strerror == os.strerror(exc.errno or 0)  # what is raised by quests_md says what to do
        advice = ADVICE.get(exc.errno or 0, "is the disk in order? Give a file on another one") if own else ""
        return f"{place}{exc.strerror}{'; ' if advice else ''}{advice}"
    text = " ".join(str(exc).split()) or type(exc).__name__
    if isinstance(exc, MemoryError):
        return f"out of memory ({text}); give fewer frames, or a smaller k"
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ..."


def code_of(exc: BaseException) -> ExitCode | None:
    """How a command ends after an error or an interrupt; None: it is a fault of quests_md, and not told in a line."""
    if isinstance(exc, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(exc, LammpsError):
        return ExitCode.FAILED
    if isinstance(exc, (QuestsMDError, ValueError, TypeError, OSError, MemoryError)):
        return ExitCode.BAD_INPUT
    return None
