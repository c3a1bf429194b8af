"""A log as it stands: which of its lines count after the run was taken up again."""

import codecs
import json
import os
import reprlib
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from quests_md._file_kinds import LOG, mistaken_for
from quests_md._files import require_regular
from quests_md._json import dumps, loads
from quests_md.errors import FileFormatError

from .line_types import check_line_types
from .lines import BLOCK, MAX_LINE_BYTES, PAGE, SCHEMA, Line, LineSearch

__all__ = ["LogHistory"]


@dataclass(slots=True)
class _Stretch:
    """Whole lines in a row that count: the offset of the first of them, and the offset after the last."""

    start: int
    end: int


class LogHistory:
    """A log as it stands, searched without parsing all of it: the lines of its final history.

    What follows the last newline, and a last line that is not JSON, is torn and does not belong to the log.
    A line ``{"type": "rewind", "frame": F, ...}`` supersedes the checks before it whose `frame` is F or more, and every
    line since the first of these checks, but for notes and other rewinds. The lines that no rewind has superseded are
    the final history: in it `frame` grows from check to check, perhaps with gaps. A rewind counts from the first check
    after it: one that no check follows before the next rewind (the run that was taken up there ended before its first
    check) supersedes nothing, and the lines up to the next rewind are no part of the history, but for notes.

    The file may grow meanwhile; lines that were appended after the object was made are not seen. `page` and `block` are
    the bytes read at a time: at first, where little may be enough, and at most.

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
    """Whether something torn follows the last whole line: lines that were written together with it may be lost."""

    def __init__(self, path: str | os.PathLike[str], *, page: int = PAGE, block: int = BLOCK) -> None:
        self.path = Path(path)
        self._page, self._block = page, block
        require_regular(self.path, "a log is read from its file")
        if fault := mistaken_for(self.path, LOG):
            raise FileFormatError(f"{path}: {fault}")
        with self._opened() as file:
            size = file.size
            if file.read(0, min(2, size)) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise FileFormatError(
                    f"{path}: expected a quests_md log in UTF-8, got text in UTF-16; turn it into UTF-8, as by "
                    "`iconv -f UTF-16 -t UTF-8`"
                )
            self.end = file.line_start(size, 0)
            if self.end == 0:
                raise FileFormatError(f"{path}: expected a quests_md log, got a file without a complete line")
            self.begin = file.line_end(0, self.end)
            self.header = _checked_header(file, file.parse(0, file.read(0, self.begin)))
            last = file.line_start(self.end - 1, 0)
            if last > 0 and _is_torn(file.read(last, self.end)):
                self.end = last
            self.is_torn = self.end < size
            for line in file.forward(b'"header"', self.begin, self.end):
                _require_no_header(file, line)

    def lines(self, start: int = 0, end: int | None = None) -> Iterator[Line]:
        """Lines of the final history after the header that begin at offset `start` or later and before `end`."""
        with self._opened() as file:
            for stretch in self._stretches:
                first, last = max(stretch.start, start), stretch.end if end is None else min(stretch.end, end)
                yield from map(self._checked, file.lines(first, last))

    def every_line(self) -> Iterator[tuple[Line, bool]]:
        """Every line after the header, and whether it is of the final history; fields of checks are not looked at."""
        stretches = iter(self._stretches)
        stretch = next(stretches, _Stretch(self.end, self.end))
        rewinds = {line.start for line in self.rewinds}
        with self._opened() as file:
            for line in file.lines(self.begin, self.end):
                while line.start >= stretch.end < self.end:
                    stretch = next(stretches, _Stretch(self.end, self.end))
                if line.content["type"] == "rewind" and line.start not in rewinds:
                    raise file.error(line.start, "is a rewind in an unknown form")
                _require_no_header(file, line)
                yield line if line.content["type"] == "check" else self._checked(line), line.start >= stretch.start

    def find(self, name: str, value: str | int) -> Iterator[Line]:
        """Checks of the final history whose field `name` has this value, latest first."""
        needle = f'"{name}": {dumps(value)},'.encode()
        for line in self._find_in_history(needle):
            if line.content["type"] == "check" and line.content.get(name) == value:
                yield self._checked(line)

    def of_type(self, kind: str, *, holding: str | None = None, before: int | None = None) -> Iterator[Line]:
        """Lines of the final history of one type that begin before an offset, latest first; only those with a field."""
        for line in self._find_in_history(f'"{holding or kind}"'.encode(), before):
            if line.content["type"] == kind and (holding is None or holding in line.content):
                yield self._checked(line)

    def end_after(self, check: Line | None) -> int:
        """Offset of the next check of the final history (None: of its first check); of the end, if there is none."""
        after = self.begin if check is None else check.end
        with self._opened() as file:
            for stretch in self._stretches:
                if stretch.end > after:
                    found = _next_check(file, max(stretch.start, after), stretch.end)
                    if found is not None:
                        return found.start
        return self.end

    @property
    def last(self) -> Line | None:
        """The last check of the final history."""
        return next(self.of_type("check"), None)

    def since_snapshot(self, check: Line) -> tuple[Line | None, Iterator[Line]]:
        """The way to the state of the run after a check of the final history.

        First the last line of type "state" that has a "snapshot" and was written before the next check, or None; then
        the lines of the final history from this snapshot (or the header) to the next check.
        """
        end = self.end_after(check)
        latest = next(self.of_type("state", holding="snapshot", before=end), None)
        return latest, self.lines(0 if latest is None else latest.end, end)

    @property
    def owner(self) -> dict[str, Any]:
        """The process that wrote last: `host`, `pid` and `started`, as the header or the last resumption has them."""
        with self._opened() as file:
            for line in file.backward(b'"pid"', self.begin, self.end):
                resumed = line.content.get("resumed")
                if line.content["type"] == "state" and isinstance(resumed, dict) and "pid" in resumed:
                    return resumed
        return self.header

    def error(self, start: int, fault: str) -> FileFormatError:
        """The error that names the line which begins at an offset."""
        with self._opened() as file:
            return file.error(start, fault)

    @cached_property
    def rewinds(self) -> list[Line]:
        """All rewind lines, also those before another one."""
        with self._opened() as file:
            found = file.forward(b'"rewind"', self.begin, self.end)
            return [self._checked(line) for line in found if line.content["type"] == "rewind"]

    @cached_property
    def _stretches(self) -> list[_Stretch]:
        """The final history, in order: each rewind cuts away what it supersedes and begins a stretch of its own."""
        if 4 * self._page * len(self.rewinds) > self.end - self.begin:
            return self._stretches_line_by_line()
        stretches = [_Stretch(self.begin, self.end)]
        with self._opened() as file:
            limits = [rewind.start for rewind in self.rewinds] + [self.end]
            first = _next_check(file, self.begin, limits[0])
            known = [] if first is None else [(stretches[0], first)]  # the stretches that have checks, with the first
            for rewind, limit in zip(self.rewinds, limits[1:], strict=True):
                stretches[-1].end = min(stretches[-1].end, rewind.start)
                first = _next_check(file, rewind.end, limit)
                if first is None:
                    continue
                self._cut(file, stretches, known, self._frame(rewind))
                stretches.append(_Stretch(rewind.end, self.end))
                known.append((stretches[-1], first))
        return stretches

    def _stretches_line_by_line(self) -> list[_Stretch]:
        """The same where rewinds are many: every line is looked at once, and a check is cut away once."""
        stretches = [_Stretch(self.begin, self.end)]
        kept: list[tuple[int, int]] = []  # frame and offset of the checks that count so far
        rewind: Line | None = None  # one that no check has followed yet
        with self._opened() as file:
            for line in file.lines(self.begin, self.end):
                if line.content["type"] == "rewind":
                    stretches[-1].end = min(stretches[-1].end, line.start)
                    rewind = line
                if line.content["type"] != "check":
                    continue
                if rewind is not None:
                    cut, frame = None, self._frame(rewind)
                    while kept and kept[-1][0] >= frame:
                        cut = kept.pop()[1]
                    while cut is not None and stretches[-1].start > cut:
                        stretches.pop()
                    stretches[-1].end = stretches[-1].end if cut is None else cut
                    stretches.append(_Stretch(rewind.end, self.end))
                    rewind = None
                kept.append((self._frame(line), line.start))
        return stretches

    def _cut(self, file: LineSearch, stretches: list[_Stretch], known: list[tuple[_Stretch, Line]], frame: int) -> None:
        """Cut away the checks whose `frame` is a frame or more, and what follows the first of them."""
        cut = None
        while known and self._frame(known[-1][1]) >= frame:
            cut = known.pop()[1].start
        if known:
            inside = self._bisect(file, *known[-1], frame)
            cut = cut if inside is None else inside
        if cut is not None:
            while stretches[-1].start > cut:
                stretches.pop()
            stretches[-1].end = cut

    def _bisect(self, file: LineSearch, stretch: _Stretch, first: Line, frame: int) -> int | None:
        """Offset of the first check of a stretch whose `frame` is not below a frame, above that of its first check."""
        low, high = first.end, stretch.end
        while high - low > self._page and (middle := file.line_start((low + high) // 2, low)) > low:
            check = _next_check(file, middle, high)
            if check is None or self._frame(check) >= frame:
                high = middle
            else:
                low = check.end
        for line in file.forward(b'"check"', low, stretch.end):
            if line.content["type"] == "check" and self._frame(line) >= frame:
                return line.start
        return None

    def _find_in_history(self, needle: bytes, end: int | None = None) -> Iterator[Line]:
        with self._opened() as file:
            for stretch in reversed(self._stretches):
                yield from file.backward(needle, stretch.start, stretch.end if end is None else min(stretch.end, end))

    def _checked(self, line: Line) -> Line:
        """The line, whose fields are what they should be."""
        try:
            check_line_types(line.content)
        except ValueError as exc:
            raise self.error(line.start, f"is not a log line of schema {SCHEMA}: {exc}") from exc
        return line

    def _frame(self, line: Line) -> int:
        frame = line.content.get("frame")
        if type(frame) is not int:
            raise self.error(line.start, f"has no usable frame: {reprlib.repr(frame)}")
        return frame

    def _opened(self) -> AbstractContextManager[LineSearch]:
        return LineSearch.opened(self.path, self._page, self._block)


def _next_check(file: LineSearch, start: int, end: int) -> Line | None:
    found = file.forward(b'"check"', start, end)
    return next((line for line in found if line.content["type"] == "check"), None)


def _checked_header(file: LineSearch, line: dict[str, Any]) -> dict[str, Any]:
    path = file.path
    if line["type"] != "header":
        raise FileFormatError(f"{path}: expected a header in line 1, got a line of type {reprlib.repr(line['type'])}")
    schema = line.get("schema")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        said = reprlib.repr(schema)
        raise FileFormatError(f"{path}: log schema {said}, this version reads up to {SCHEMA}; update quests_md")
    try:
        check_line_types(line)
    except ValueError as exc:
        raise file.error(0, f"is not the header of a log of schema {SCHEMA}: {exc}") from exc
    return line


def _require_no_header(file: LineSearch, line: Line) -> None:
    """Refuse a second log in the same file."""
    if line.content["type"] == "header":
        number, name = file.number(line.start), shlex.quote(str(file.path))
        raise FileFormatError(
            f"{file.path}: line {number} begins another log: a file holds one run; part them with "
            f"`head -n {number - 1} {name} > first.jsonl` and `tail -n +{number} {name} > second.jsonl`"
        )


def _is_torn(raw: bytes) -> bool:
    """Whether a line is not JSON, as what a power cut may leave."""
    try:
        if len(raw) <= MAX_LINE_BYTES:
            loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return True
    except (ValueError, RecursionError):  # JSON, but not of a log
        return False
    return False
