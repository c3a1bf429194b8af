"""Which of the files of quests_md a file is, by how it begins."""

import codecs
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CALIBRATION", "LOG", "REFERENCE", "FileKind", "fault_of_sentinel", "kind_of_file", "mistaken_for"]


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file that quests_md writes."""

    name: str
    """What it is called."""
    use: str
    """Which argument, option or command takes it."""


REFERENCE = FileKind("a reference of quests_md", "reference= and --reference take it")
CALIBRATION = FileKind("a calibration of quests_md", "calibration= and --calibration take it")
LOG = FileKind("the log of a run", "read_log, `quests-md events` and `score --at` take it")
EVENT = FileKind("the record of an event that a sentinel left", "one line of JSON, read it with `cat`")

#: Bytes that tell the kind.
BEGINNING = 4096

_HEADER = re.compile(rb'\s*\{\s*"type"\s*:\s*"(?:(header")|quests_md calibration)')
_EVENT = re.compile(rb'\s*\{\s*"id"\s*:.*"onset_step"\s*:', re.DOTALL)


def kind_of_file(path: str | os.PathLike[str]) -> FileKind | None:
    """The kind of a file of quests_md, whole or torn; None: it is of another kind, or cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for someone to write
    except (OSError, ValueError):
        return None
    try:
        beginning = os.read(fd, BEGINNING) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return None
    finally:
        os.close(fd)
    beginning = beginning.removeprefix(codecs.BOM_UTF8)
    if beginning[8:9] == b"{" and b'"quests_md"' in beginning:
        return REFERENCE
    if found := _HEADER.match(beginning):
        return LOG if found[1] else CALIBRATION
    return EVENT if _EVENT.match(beginning) else None


def mistaken_for(path: str | os.PathLike[str], expected: FileKind | None, what: str = "") -> str | None:
    """What is wrong with a file of quests_md that is of another kind than expected; None: nothing is.

    `expected` None: no file of quests_md is, but `what`.
    """
    kind = kind_of_file(path)
    if kind is None or kind == expected:
        return None
    return f"expected {what or (expected and expected.name)}, got {kind.name} ({kind.use})"


def fault_of_sentinel(path: Path) -> str | None:
    """Why the record of an event must not replace a file: it holds something else; None if it is new, empty or one."""
    kind = kind_of_file(path)
    if not path.is_file() or kind == EVENT or not path.stat().st_size:
        return None
    got = f"{kind.name} ({kind.use})" if kind else "something else"
    return f"expected a new file or {EVENT.name}, got {got}"
