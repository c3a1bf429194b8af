"""The lines of a log as they stand in its file, and which of them count after the run was taken up again."""

import json
import os
import reprlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from quests_md.errors import FileFormatError

__all__ = ["MAX_LINE_BYTES", "SCHEMA", "Line", "LogHistory", "is_torn_header", "parse_line"]

#: Version of the log lines. A reader refuses a newer one.
SCHEMA = 1

#: Longest line that is written and read. Those of a run have 1 kB, the longest some 100 kB.
MAX_LINE_BYTES = 10_000_000

#: Bytes read at a time: at first, where little may be enough, and at most.
PAGE, BLOCK = 1 << 12, 1 << 18

_HEADER_START = b'{"type": "header"'


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log and where it stands."""

    start: int
    """Offset of its first byte in the file."""
    end: int
    """Offset after its newline."""
    content: dict[str, Any]
    """The line itself."""


@dataclass(slots=True)
class _Span:
    """A stretch of whole lines that count."""

    start: int
    end: int


class LogHistory:
    """A log as it stands, without reading all of it: its final history, searched by bytes.

    Whatever follows the last newline, and a last line that is not JSON, is torn and does not belong to the log.
    A line ``{"type": "rewind", "frame": F, ...}`` supersedes the checks before it whose `frame` is F or more, and
    every line of another kind that was written since the first of them, but not the notes and other rewinds. What is
    left is the final history; in it `frame` grows from check to check, perhaps with gaps.

    The file may grow meanwhile; what was appended after the object was made is not seen.

    Parameters
    ----------
    path
        The log.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file is empty, not a log, or of a newer schema; from the methods also if a line they meet is damaged.
    """

    path: Path
    header: dict[str, Any]
    """The header line."""
    begin: int
    """Offset after the header line."""
    end: int
    """Offset after the last whole line."""
    is_torn: bool
    """Whether something torn follows it: of the lines that were written together with the last ones, some are lost."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self._opened() as fd:
            size = os.fstat(fd).st_size
            self.end = self._line_start(fd, size, 0)
            if self.end == 0:
                raise FileFormatError(f"{path}: expected a quests_md log, got a file without a complete line")
            self.begin = self._line_end(fd, 0, self.end)
            self.header = self._checked_header(self._read(fd, 0, self.begin))
            last = self._line_start(fd, self.end - 1, 0)
            if last > 0 and _is_torn(self._read(fd, last, self.end)):
                self.end = last
            self.is_torn = self.end < size

    def lines(self, start: int = 0, end: int | None = None) -> Iterator[Line]:
        """Lines of the final history after the header that begin at offset `start` or later and before `end`."""
        with self._opened() as fd:
            for span in self._spans:
                first, last = max(span.start, start), span.end if end is None else min(span.end, end)
                for offset, raw in self._raw_lines(fd, first, last):
                    yield Line(offset, offset + len(raw) + 1, self._parse(offset, raw))

    def every_line(self) -> Iterator[tuple[int, dict[str, Any], bool]]:
        """Offset and content of every line after the header, and whether it belongs to the final history."""
        spans = iter(self._spans)
        span = next(spans, _Span(self.end, self.end))
        rewinds = {line.start for line in self._rewind_lines}
        with self._opened() as fd:
            for start, raw in self._raw_lines(fd, self.begin, self.end):
                while start >= span.end < self.end:
                    span = next(spans, _Span(self.end, self.end))
                content = self._parse(start, raw)
                if content["type"] == "rewind" and start not in rewinds:
                    raise self.error(start, "is a rewind in an unknown form")
                yield start, content, start >= span.start

    def find(self, name: str, value: str | int) -> Iterator[Line]:
        """Checks of the final history whose field `name` has this value, latest first."""
        needle = f'"{name}": {json.dumps(value, ensure_ascii=False)},'.encode(errors="backslashreplace")
        for line in self._find_in_history(needle):
            if line.content["type"] == "check" and line.content.get(name) == value:
                yield line

    def of_type(self, kind: str, *, before: int | None = None) -> Iterator[Line]:
        """Lines of the final history of one type that begin before an offset, latest first."""
        for line in self._find_in_history(f'"{kind}"'.encode(), before):
            if line.content["type"] == kind:
                yield line

    def end_after(self, check: Line | None) -> int:
        """Offset of the first check of the final history after this one (None: of the first), or of the end."""
        after = self.begin if check is None else check.end
        with self._opened() as fd:
            for span in self._spans:
                if span.end > after:
                    found = self._next_check_in(fd, max(span.start, after), span.end)
                    if found is not None:
                        return found.start
        return self.end

    @property
    def last(self) -> Line | None:
        """The last check of the final history."""
        return next(self.of_type("check"), None)

    @property
    def rewinds(self) -> list[dict[str, Any]]:
        """All rewind lines, also those before another one."""
        return [line.content for line in self._rewind_lines]

    def since_snapshot(self, check: Line) -> tuple[Line | None, Iterator[Line]]:
        """The way to the state of the run after a check.

        Parameters
        ----------
        check
            A check of the final history.

        Returns
        -------
        snapshot
            The last line of type "state" with a "snapshot" that was written before the check after this one; None if
            there is none.
        lines
            The lines of the final history since (without it: since the header), up to the check after this one.
        """
        end = self.end_after(check)
        for line in self._find_in_history(b'"snapshot"', end):
            if line.content["type"] == "state" and "snapshot" in line.content:
                return line, self.lines(line.end, end)
        return None, self.lines(0, end)

    @property
    def owner(self) -> dict[str, Any]:
        """What is said of the process that wrote last: `host`, `pid` and `started`, from the header or a resumption."""
        with self._opened() as fd:
            for line in self._find_backward(fd, b'"pid"', self.begin, self.end):
                resumed = line.content.get("resumed")
                if line.content["type"] == "state" and isinstance(resumed, dict) and "pid" in resumed:
                    return resumed
        return self.header

    def error(self, start: int, fault: str) -> FileFormatError:
        """The error that names the line which begins at an offset."""
        number, position = 1, 0
        with self._opened() as fd:
            while position < start and (block := os.pread(fd, min(BLOCK, start - position), position)):
                number += block.count(b"\n")
                position += len(block)
        return FileFormatError(f"{self.path}: line {number} {fault}")

    @cached_property
    def _rewind_lines(self) -> list[Line]:
        with self._opened() as fd:
            found = self._find_forward(fd, b'"rewind"', self.begin, self.end)
            return [line for line in found if line.content["type"] == "rewind"]

    @cached_property
    def _spans(self) -> list[_Span]:
        """The final history."""
        spans = [_Span(self.begin, self.end)]
        known: list[tuple[_Span, Line]] = []  # the spans that have checks, and their first
        seen = self.begin
        with self._opened() as fd:
            for rewind in self._rewind_lines:
                frame = self._frame(rewind)
                span = spans[-1]
                span.end = rewind.start
                if not known or known[-1][0] is not span:
                    check = self._next_check_in(fd, max(seen, span.start), rewind.start)
                    known += [] if check is None else [(span, check)]
                seen = rewind.start
                cut = None
                while known and self._frame(known[-1][1]) >= frame:
                    cut = known.pop()[1].start
                if known:
                    inside = self._bisect(fd, *known[-1], frame)
                    cut = cut if inside is None else inside
                if cut is None:
                    span.end = self.end
                    continue
                while spans[-1].start > cut:
                    spans.pop()
                spans[-1].end = cut
                spans.append(_Span(rewind.end, self.end))
        return spans

    def _bisect(self, fd: int, span: _Span, first: Line, frame: int) -> int | None:
        """Offset of the first check of a span whose frame is not below `frame`; that of its first check is."""
        low, high = first.end, span.end
        while high - low > PAGE and (middle := self._line_start(fd, (low + high) // 2, low)) > low:
            check = self._next_check_in(fd, middle, high)
            if check is None or self._frame(check) >= frame:
                high = middle
            else:
                low = check.end
        for line in self._find_forward(fd, b'"check"', low, span.end):
            if line.content["type"] == "check" and self._frame(line) >= frame:
                return line.start
        return None

    def _find_in_history(self, needle: bytes, end: int | None = None) -> Iterator[Line]:
        with self._opened() as fd:
            for span in reversed(self._spans):
                yield from self._find_backward(fd, needle, span.start, span.end if end is None else min(span.end, end))

    def _next_check_in(self, fd: int, start: int, end: int) -> Line | None:
        found = self._find_forward(fd, b'"check"', start, end)
        return next((line for line in found if line.content["type"] == "check"), None)

    def _find_forward(self, fd: int, needle: bytes, start: int, end: int) -> Iterator[Line]:
        """Lines between two line ends that hold the needle."""
        begin, size = start, PAGE
        while begin < end:
            stop = min(end, begin + size)
            size = min(2 * size, BLOCK)
            block = self._read(fd, begin, stop)
            following = stop if stop == end else stop - len(needle) + 1
            hit = block.find(needle)
            while hit >= 0:
                line = self._line_around(fd, begin + hit, start, end)
                yield line
                if line.end >= stop:
                    following = line.end
                    break
                hit = block.find(needle, line.end - begin)
            begin = following

    def _find_backward(self, fd: int, needle: bytes, start: int, end: int) -> Iterator[Line]:
        """Lines between two line ends that hold the needle, the last first."""
        stop, size = end, PAGE
        while stop > start:
            begin = max(start, stop - size)
            size = min(2 * size, BLOCK)
            block = self._read(fd, begin, stop)
            preceding = start if begin == start else begin + len(needle) - 1
            hit = block.rfind(needle)
            while hit >= 0:
                line = self._line_around(fd, begin + hit, start, end)
                yield line
                if line.start <= begin:
                    preceding = line.start
                    break
                hit = block.rfind(needle, 0, line.start - begin)
            stop = preceding

    def _raw_lines(self, fd: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Offset and bytes of every line between two line ends, without the newline."""
        rest, position = b"", start
        while position < end:
            block = self._read(fd, position, min(end, position + BLOCK // 4))
            position += len(block)
            *whole, rest = (rest + block).split(b"\n")
            for raw in whole:
                yield start, raw
                start += len(raw) + 1
            if len(rest) > MAX_LINE_BYTES:
                raise self._too_long(start)

    def _line_around(self, fd: int, offset: int, low: int, high: int) -> Line:
        start, end = self._line_start(fd, offset, low), self._line_end(fd, offset, high)
        return Line(start, end, self._parse(start, self._read(fd, start, end)))

    def _line_start(self, fd: int, offset: int, low: int) -> int:
        """Where the line begins that holds the byte before `offset`, or ends there; a line begins at `low`."""
        stop = offset
        while stop > low:
            begin = max(low, stop - PAGE)
            hit = self._read(fd, begin, stop).rfind(b"\n")
            if hit >= 0:
                return begin + hit + 1
            if offset - begin > MAX_LINE_BYTES:
                raise self._too_long(begin)
            stop = begin
        return low

    def _line_end(self, fd: int, offset: int, high: int) -> int:
        """Where the line ends that holds the byte at `offset`; one ends at `high`."""
        begin = offset
        while begin < high:
            stop = min(high, begin + PAGE)
            hit = self._read(fd, begin, stop).find(b"\n")
            if hit >= 0:
                return begin + hit + 1
            if stop - offset > MAX_LINE_BYTES:
                raise self._too_long(offset)
            begin = stop
        return high

    def _read(self, fd: int, start: int, end: int) -> bytes:
        data = os.pread(fd, end - start, start)
        while len(data) < end - start:
            more = os.pread(fd, end - start - len(data), start + len(data))
            if not more:
                raise FileFormatError(f"{self.path}: it was cut short while it was being read")
            data += more
        return data

    def _parse(self, start: int, raw: bytes) -> dict[str, Any]:
        try:
            return parse_line(raw)
        except ValueError as exc:
            raise self.error(start, f"{exc}; is this a quests_md log?") from exc

    def _frame(self, line: Line) -> int:
        frame = line.content.get("frame")
        if type(frame) is not int:
            raise self.error(line.start, f"has no usable frame: {reprlib.repr(frame)}")
        return frame

    def _checked_header(self, raw: bytes) -> dict[str, Any]:
        line = self._parse(0, raw)
        if line["type"] != "header":
            kind = reprlib.repr(line["type"])
            raise FileFormatError(f"{self.path}: expected a header in line 1, got a line of type {kind}")
        schema = line.get("schema")
        if type(schema) is not int or not 1 <= schema <= SCHEMA:
            said = reprlib.repr(schema)
            raise FileFormatError(
                f"{self.path}: log schema {said}, this version reads up to {SCHEMA}; update quests_md"
            )
        return line

    def _too_long(self, start: int) -> FileFormatError:
        return self.error(start, f"is longer than {MAX_LINE_BYTES} bytes; is this a quests_md log?")

    @contextmanager
    def _opened(self) -> Iterator[int]:
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for someone to write
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a folder says what it is
                raise FileFormatError(
                    f"{self.path}: expected a quests_md log, got something that is not a regular file"
                )
            yield fd
        finally:
            os.close(fd)


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
        line = _decode(raw.decode())
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as exc:
        raise ValueError(f"is not JSON: {exc}") from exc
    if not isinstance(line, dict) or not isinstance(line.get("type"), str):
        raise ValueError("has no type")
    return line


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is none of its numbers")


_decode = json.JSONDecoder(parse_constant=_refuse).decode


def _is_torn(raw: bytes) -> bool:
    """Whether a line is not JSON, as what a power cut may leave."""
    if len(raw) > MAX_LINE_BYTES:
        return False
    try:
        _decode(raw.decode())
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
