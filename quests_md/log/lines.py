"""What a line of a log is, and how lines are found by the bytes they hold: only the lines that are found are parsed.

The first line is of type "header": with what the run is watched, see `watch.settings`. Then come lines of type "check"
(`Check.to_line`), "event" (`Event.to_line`: an event has a line whenever it changes), "note" (a message), "state" (what
the monitor needs to take the run up again), "rewind" (the run was taken up again at an earlier check: checks from its
`frame` on no longer count) and "reference" (from here on another reference and its levels). Other types are skipped.
"""

import codecs
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quests_md._files import naming
from quests_md._json import loads
from quests_md.errors import FileFormatError

__all__ = ["BLOCK", "MAX_LINE_BYTES", "PAGE", "SCHEMA", "Line", "LineSearch", "parse_line"]

#: Version of the lines. A reader refuses a newer one.
SCHEMA = 1

#: Longest line that is written and read. Lines of a run have 1 kB, the longest some 100 kB.
MAX_LINE_BYTES = 10_000_000

#: Bytes read at first, where little may be enough, and bytes read at a time at most.
PAGE, BLOCK = 1 << 12, 1 << 18


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log and where it stands."""

    start: int
    """Offset of its first byte in the file."""
    end: int
    """Offset after its newline."""
    content: dict[str, Any]
    """The line itself."""


def parse_line(raw: bytes) -> dict[str, Any]:
    """The content of a line; a ValueError says if it is too long, nested too deeply, not JSON or without a type."""
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


class LineSearch:
    """Searches an open file between two offsets at which lines begin or end; see `opened`.

    The methods raise FileFormatError if the file gets shorter meanwhile, or a line they meet is damaged or too long.
    """

    def __init__(self, fd: int, path: Path, page: int, block: int) -> None:
        self.path = path
        self._fd, self._page, self._block = fd, page, block

    @classmethod
    @contextmanager
    def opened(cls, path: Path, page: int = PAGE, block: int = BLOCK) -> Iterator["LineSearch"]:
        """Open a file to search it; `page`, `block`: bytes read at a time, at first and at most."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for someone to write
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise FileFormatError(f"{path}: expected a quests_md log, got something that is not a regular file")
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
            yield cls(fd, path, page, block)
        finally:
            os.close(fd)

    @property
    def size(self) -> int:
        """Length of the file, bytes."""
        return os.fstat(self._fd).st_size

    def forward(self, needle: bytes, start: int, end: int) -> Iterator[Line]:
        """Lines that hold the needle."""
        begin, size = start, self._page
        while begin < end:
            stop = min(end, begin + size)
            size = min(2 * size, self._block)
            block = self.read(begin, stop)
            following = stop if stop == end else stop - len(needle) + 1
            hit = block.find(needle)
            while hit >= 0:
                line = self._line_around(begin + hit, start, end)
                yield line
                if line.end >= stop:
                    following = line.end
                    break
                hit = block.find(needle, line.end - begin)
            begin = following

    def backward(self, needle: bytes, start: int, end: int) -> Iterator[Line]:
        """Lines that hold the needle, the last first."""
        stop, size = end, self._page
        while stop > start:
            begin = max(start, stop - size)
            size = min(2 * size, self._block)
            block = self.read(begin, stop)
            preceding = start if begin == start else begin + len(needle) - 1
            hit = block.rfind(needle)
            while hit >= 0:
                line = self._line_around(begin + hit, start, end)
                yield line
                if line.start <= begin:
                    preceding = line.start
                    break
                hit = block.rfind(needle, 0, line.start - begin)
            stop = preceding

    def lines(self, start: int, end: int) -> Iterator[Line]:
        """Every line."""
        rest, position = b"", start
        while position < end:
            block = self.read(position, min(end, position + self._block // 4))
            position += len(block)
            *whole, rest = (rest + block).split(b"\n")
            for raw in whole:
                end_of_line = start + len(raw) + 1
                yield Line(start, end_of_line, self.parse(start, raw))
                start = end_of_line
            if len(rest) > MAX_LINE_BYTES:
                raise self._too_long(start)

    def line_start(self, offset: int, low: int) -> int:
        """Where the line begins that holds the byte before `offset`, or ends there; a line begins at `low`."""
        stop = offset
        while stop > low:
            begin = max(low, stop - self._page)
            hit = self.read(begin, stop).rfind(b"\n")
            if hit >= 0:
                return begin + hit + 1
            if offset - begin > MAX_LINE_BYTES:
                raise self._too_long(begin)
            stop = begin
        return low

    def line_end(self, offset: int, high: int) -> int:
        """Where the line ends that holds the byte at `offset`; one ends at `high`."""
        begin = offset
        while begin < high:
            stop = min(high, begin + self._page)
            hit = self.read(begin, stop).find(b"\n")
            if hit >= 0:
                return begin + hit + 1
            if stop - offset > MAX_LINE_BYTES:
                raise self._too_long(offset)
            begin = stop
        return high

    def read(self, start: int, end: int) -> bytes:
        """The bytes between two offsets, all of them."""
        data = b""
        while len(data) < end - start:
            try:
                more = os.pread(self._fd, end - start - len(data), start + len(data))
            except OSError as exc:
                raise naming(exc, self.path) from None
            if not more:
                raise FileFormatError(f"{self.path}: it was cut short while it was being read")
            data = data + more if data else more
        return data

    def parse(self, start: int, raw: bytes) -> dict[str, Any]:
        """The content of the line that begins at an offset."""
        if start == 0:
            raw = raw.removeprefix(codecs.BOM_UTF8)  # which some editors write
        try:
            return parse_line(raw)
        except ValueError as exc:
            glued = b'{"type": "header"' in raw[1:]
            what = "does another log begin in it? A file holds one run" if glued else "is this a quests_md log?"
            raise self.error(start, f"{exc}; {what}") from exc

    def error(self, start: int, fault: str) -> FileFormatError:
        """The error that names the line which begins at an offset."""
        return FileFormatError(f"{self.path}: line {self.number(start)} {fault}")

    def number(self, start: int) -> int:
        """The number of the line that begins at an offset, from 1."""
        number, position = 1, 0
        while position < start and (block := os.pread(self._fd, min(self._block, start - position), position)):
            number += block.count(b"\n")
            position += len(block)
        return number

    def _line_around(self, offset: int, low: int, high: int) -> Line:
        start, end = self.line_start(offset, low), self.line_end(offset, high)
        return Line(start, end, self.parse(start, self.read(start, end)))

    def _too_long(self, start: int) -> FileFormatError:
        return self.error(start, f"is longer than {MAX_LINE_BYTES} bytes; is this a quests_md log?")
