"""Files of annotated frames: every frame of a trajectory, with what its check found; recognised, and cut back."""

import os
import re
from pathlib import Path
from typing import BinaryIO

from quests_md.errors import FileFormatError

__all__ = ["cut_annotated_file", "fault_of_annotated_file"]

#: What the comment of an annotated frame holds.
_CHECK, _STATE = re.compile(rb"(?:^|\s)check=(\d+)(?:\s|$)"), re.compile(rb"(?:^|\s)state=(?:in|out|invalid)(?:\s|$)")

#: Bytes of a line that are looked at.
_MOST_BYTES = 1_000_000


def fault_of_annotated_file(path: Path, *, goes_on: bool) -> str | None:
    """Why annotated frames must not be written to a file; None: it is new or empty, or of them if a run `goes_on`."""
    if not path.is_file() or path.stat().st_size == 0:
        return None
    with path.open("rb") as file:
        first, comment = file.readline(_MOST_BYTES), file.readline(_MOST_BYTES)
    if not first.strip().isdigit() or not _CHECK.search(comment) or not _STATE.search(comment):
        return "expected a new file, got one that holds something else"
    return None if goes_on else "expected a new file, got one of annotated frames"


def cut_annotated_file(path: Path, n_frames: int) -> None:
    """Keep the first frames of a file, which are those of the first checks of a run.

    Raises FileFormatError if the file has not got them.
    """
    kept = 0
    if path.is_file():
        with path.open("rb+", buffering=1 << 20) as file:
            end = 0
            while kept < n_frames and (end_of_next := _end_of_frame(file, kept)) is not None:
                kept, end = kept + 1, end_of_next
            if kept == n_frames:
                file.truncate(end)
                return
    if kept < n_frames:
        raise FileFormatError(
            f"{os.fspath(path)}: expected the frames of {n_frames} checks, as in the log of the run, got {kept}; give "
            "another name and begin with another log"
        )


def _end_of_frame(file: BinaryIO, number: int) -> int | None:
    """Where the frame ends that begins here, if it is whole and that of the check of this number."""
    first, comment = file.readline(_MOST_BYTES), file.readline(_MOST_BYTES)
    found = _CHECK.search(comment)
    if not first.strip().isdigit() or found is None or int(found[1]) != number or not comment.endswith(b"\n"):
        return None
    for _ in range(int(first)):
        if not file.readline(_MOST_BYTES).endswith(b"\n"):
            return None
    return file.tell()
