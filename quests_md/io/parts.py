"""Files of frames in parts, which several processes read at the same time, none of them more than it must.

Of XYZ files, LAMMPS dumps and ASE trajectories a part says at which byte it begins: frames are found by a scan that
parses nothing. All else, compressed files above all, is read through: each process keeps the stream open from one of
its parts to the next, and parses the frames of its parts alone.
"""

import os
import sys
import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ase.io.formats import get_compression

from quests_md.errors import FileFormatError

from .ase_trajectory import read_ase_trajectory
from .files import (
    Frame,
    How,
    Item,
    Reader,
    Source,
    frames_of,
    is_dump,
    iter_file,
    reader_of,
    require_found,
    scanner_of,
    wanted_of,
    whole_frames,
)
from .frames import FramesOrPaths, sources_of
from .start import Start
from .torn_ends import WINDOW
from .warned import taking_warnings, warn

__all__ = ["Part", "PartedFiles", "read_part"]

#: Bytes up to which a file that must be read through is one part.
SMALL_FILE = 2**18


@dataclass(frozen=True, slots=True)
class Part:
    """Some frames of a file. It can be pickled, and read on any machine that has the file under the same name."""

    source: Source
    """The file by the name that was given, with its slice."""
    path: str
    """Its absolute name."""
    how: How
    """How it is read; the topology by its absolute name."""
    given_topology: str | None
    number: int
    """Number of the file among all of them."""
    run: str
    """Tells parts of one reading from those of another, between which the file may have changed."""
    wanted: range | None = None
    """Numbers of its frames; None: all that the slice selects, also from the last one to the first."""
    start: Start | None = None
    """Where its first frame begins; None: it is not known."""
    is_first: bool = True
    """Whether no part of the file comes before."""
    is_last: bool = True
    """Whether no part of the file comes after."""

    @property
    def n_frames(self) -> int | None:
        """How many frames it has; None: that is known when it has been read."""
        return None if self.is_last or self.wanted is None else len(self.wanted)

    def named(self, text: str) -> str:
        """A text with the names that were given in the place of absolute ones."""
        text = text.replace(self.path, self.source.name)
        if self.how.topology is None or self.given_topology is None:
            return text
        return text.replace(self.how.topology, self.given_topology)

    def described(self) -> str:
        """In words: which frames of which file."""
        wanted = self.wanted
        if wanted is None or (self.is_first and self.is_last):
            return f"{self.source.name}{self.source.suffix}"
        last = "the last" if self.is_last else str(wanted[-1])
        return f"{self.source.name}, frames {wanted.start} to {last}"


@dataclass(slots=True)
class _File:
    """What is known of a file that is being read in parts."""

    source: Source
    has_ended: bool = False
    n_found: int = 0
    told: set[str] = field(default_factory=set)


class PartedFiles:
    """Files to be read in parts. Arguments and errors are those of `iter_frames`, of paths alone.

    Whoever reads the parts takes them in their order: `took` is to be called after each of them.
    """

    def __init__(
        self,
        paths: FramesOrPaths,
        *,
        types: Sequence[str] | None = None,
        topology: str | os.PathLike[str] | None = None,
    ) -> None:
        sources, how = sources_of(paths, "warn", types, topology)
        self._how = how
        self._files = [_File(source) for source in sources]
        self._run = uuid.uuid4().hex

    def parts(self, size: Callable[[int], int]) -> Iterator[Part]:
        """Yield the parts in order; `size` says how many frames one should have, given how many atoms these have.

        Of a file that is read through parts come until `took` has told that it has ended, some beyond its end.
        """
        for number, file in enumerate(self._files):
            path, how, given = str(Path(file.source.name).absolute()), self._how, self._how.topology
            if given is not None:
                how = how._replace(topology=str(Path(given).absolute()))
            whole = Part(file.source, path, how, given, number, self._run)
            try:
                yield from self._parts_of(whole, file, size)
            except (FileFormatError, OSError):  # whoever reads it finds the same, in its turn
                yield whole

    def is_void(self, part: Part) -> bool:
        """Whether a part lies beyond the end of its file."""
        return self._files[part.number].has_ended

    def took(self, part: Part, n_read: int, *, has_ended: bool) -> None:
        """Take note of how many frames were read, and whether the file has no more of them.

        Raises as `iter_frames` if it has none at all.
        """
        file = self._files[part.number]
        file.n_found += n_read
        if part.is_last or has_ended:
            file.has_ended = True
            if part.wanted is not None and not file.n_found:
                require_found(reader_of(file.source.name, self._how.types, self._how.topology), file.source)

    def leave(self, part: Part) -> None:
        """Take note that the rest of a file cannot be read."""
        self._files[part.number].has_ended = True

    def warn(self, part: Part, message: str, once: str) -> None:
        """Warn as the reader of a part has, unless the whole file read at once would not have given this warning."""
        told = self._files[part.number].told
        if (once == "first" and not part.is_first) or (key := once if once not in ("", "first") else message) in told:
            return
        told.add(key)
        warn(message)

    def _parts_of(self, whole: Part, file: _File, size: Callable[[int], int]) -> Iterator[Part]:
        read = reader_of(whole.path, whole.how.types, whole.how.topology)
        selection = whole.source.selection
        if (selection.step or 1) < 0:
            yield whole
            return
        with _silent():
            if min(selection.start or 0, selection.stop or 0) < 0 and whole_frames(read, whole.path)[1] is not None:
                wanted = None  # counted from an end that is torn
            else:
                wanted = wanted_of(read, whole.source._replace(name=whole.path), whole.how)
        if not wanted:
            yield whole
            return
        scan = scanner_of(read)
        if scan is not None and Path(whole.path).is_file() and not _is_compressed(whole.path):
            # the reader of a text compares its last line with those above, to tell whether it is torn
            window = -1 if read is read_ase_trajectory else WINDOW
            yield from _scanned(whole, wanted, scan(whole.path), size, window)
            return
        if _size(whole.path) <= SMALL_FILE:
            yield replace(whole, wanted=wanted)
            return
        at = 0
        while at < len(wanted) and not file.has_ended:
            n = size(0)
            numbers = wanted[at : at + n]
            yield replace(whole, wanted=numbers, is_first=at == 0, is_last=at + n >= len(wanted))
            at += n


def read_part(part: Part, told: Callable[[str, str], None]) -> Generator[Frame, None, bool]:
    """Yield the frames of a part; return whether the file has no more of those that are wanted.

    Warnings go to `told`, with their kinds. Raises as `iter_frames`, with the names that were given.
    """
    frames = _frames_of_part(part)
    while True:
        try:
            with taking_warnings(lambda message, once: told(part.named(message), once)):
                frame = next(frames)
        except StopIteration as end:
            return bool(end.value)
        except Exception as error:
            _open.stream = None
            raise _named(part, error) from error.__cause__
        yield replace(frame, source=part.source.name)


def _frames_of_part(part: Part) -> Generator[Frame, None, bool]:
    if part.wanted is None:
        yield from iter_file(part.source._replace(name=part.path), part.how)
        return True
    how = part.how
    if part.start is not None or part.is_last:
        read = reader_of(part.path, how.types, how.topology)
        items = read(part.path, part.wanted) if part.start is None else read(part.path, part.wanted, start=part.start)
        is_of_dump = is_dump(read)
    else:
        stream = _stream_at(part)
        items, is_of_dump = stream.upto(part.wanted), is_dump(stream.read)
    options: dict[str, Any] = {"is_dump": is_of_dump, "is_first": part.is_first}
    return (yield from frames_of(items, part.path, part.wanted, how, **options))


class _Stream:
    """A file that is read through, kept open between its parts."""

    def __init__(self, part: Part) -> None:
        how = part.how
        self.key = part.run, part.path
        self.read: Reader = reader_of(part.path, how.types, how.topology)
        self.position = 0
        """Number of the frame that comes next."""
        self._wanted = range(0)
        self._items = self.read(part.path, self)

    def __contains__(self, index: object) -> bool:
        return index in self._wanted

    def upto(self, wanted: range) -> Iterator[Item]:
        """The items from where the stream is; those that are wanted are parsed."""
        self._wanted = wanted
        for item in self._items:
            self.position = item[0] + 1
            yield item


#: The stream that a thread has open.
_open = threading.local()


def _stream_at(part: Part) -> _Stream:
    """The stream of a file, at the first frame of the part or before."""
    assert part.wanted is not None
    stream: _Stream | None = getattr(_open, "stream", None)
    if stream is None or stream.key != (part.run, part.path) or stream.position > part.wanted.start:
        stream = _Stream(part)
        _open.stream = stream
    return stream


def _scanned(
    whole: Part, wanted: range, found: Iterator[tuple[Start, int]], size: Callable[[int], int], window: int
) -> Iterator[Part]:
    """Parts of a file by where they begin; after each part but the last the file has more than `window` atoms."""
    first, at = 0, None  # place in `wanted` at which the next part begins, and where that is in the file
    end, rows = None, 0  # where it may end, and how many atoms come after that
    with suppress(FileFormatError):  # whoever reads the last part finds the same
        for start, n_atoms in found:
            if start.index > wanted[-1]:
                break
            if start.index in wanted:
                place = wanted.index(start.index)
                if place == 0:
                    at = start
                elif end is None and place - first >= size(n_atoms):
                    end, rows = start, 0
            rows += n_atoms
            if end is not None and rows > window:
                stop = wanted.index(end.index)
                yield replace(whole, wanted=wanted[first:stop], start=at, is_first=first == 0, is_last=False)
                first, at, end = stop, end, None
    yield replace(whole, wanted=wanted[first:], start=at, is_first=first == 0)


def _named(part: Part, error: Exception) -> Exception:
    """The error with the names that were given in the place of absolute ones."""
    if isinstance(error, OSError) and error.filename == part.path:
        error.filename = part.source.name
    elif len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (part.named(error.args[0]),)
    return error


def _is_compressed(path: str) -> bool:
    if get_compression(path)[1] is not None:
        return True
    with Path(path).open("rb") as fd:
        return fd.read(2) == b"\x1f\x8b"  # a dump may be compressed under any name


def _size(path: str) -> int:
    return Path(path).stat().st_size if Path(path).is_file() else sys.maxsize


@contextmanager
def _silent() -> Iterator[None]:
    with taking_warnings(lambda message, once: None):
        yield
