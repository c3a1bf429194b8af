"""What a line of a log is: one JSON object with a type, and how a broken one is told.

The first line is of type "header": with what the run is watched, see `watch.settings`. Then come lines of type "check"
(`Check.to_line`), "event" (`Event.to_line`: an event has a line whenever it changes), "note" (a message), "state" (what
the monitor needs to take the run up again), "rewind" (the run was taken up again at an earlier check: checks from its
`frame` on no longer count) and "reference" (from here on another reference and its levels). Other types are skipped.
"""

import json
from pathlib import Path
from typing import Any

from quests_md._json import loads

__all__ = ["MAX_LINE_BYTES", "SCHEMA", "is_torn_header", "is_torn_line", "parse_line"]

#: Version of the lines. A reader refuses a newer one.
SCHEMA = 1

#: Longest line that is written and read. Lines of a run have 1 kB, the longest some 100 kB.
MAX_LINE_BYTES = 10_000_000

_HEADER_START = b'{"type": "header"'


def parse_line(raw: bytes) -> dict[str, Any]:
    """The content of a line.

    Raises
    ------
    ValueError
        If it is too long, not JSON, not UTF-8, nested too deeply, or not an object with a type; says which.
    """
    if len(raw) > MAX_LINE_BYTES:
        raise ValueError(f"is longer than {MAX_LINE_BYTES} bytes")
    try:
        line = loads(raw)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as exc:
        raise ValueError(f"is not JSON: {exc}") from exc
    if not isinstance(line, dict) or not isinstance(line.get("type"), str):
        raise ValueError("has no type")
    return line


def is_torn_line(raw: bytes) -> bool:
    """Whether a line is not JSON, as what a power cut may leave."""
    if len(raw) > MAX_LINE_BYTES:
        return False
    try:
        loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return True
    except (ValueError, RecursionError):
        return False
    return False


def is_torn_header(path: Path) -> bool:
    """Whether the file holds the beginning of a log's first line and nothing more."""
    if path.stat().st_size > MAX_LINE_BYTES:
        return False
    raw = path.read_bytes()
    return b"\n" not in raw and raw[: len(_HEADER_START)] == _HEADER_START[: len(raw)]
