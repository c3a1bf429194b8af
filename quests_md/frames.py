"""Frames from memory, files, globs and slices, one at a time."""

import glob
import os
import re
import sys
import warnings
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import StringIO
from itertools import count, islice
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypeAlias

from ase import Atoms
from ase.io import iread
from ase.io.extxyz import read_xyz
from ase.io.formats import UnknownFileTypeError, filetype, get_compression, open_with_compression
from ase.io.trajectory import TrajectoryReader

from quests_md.errors import FileFormatError

__all__ = ["Frame", "count_frames", "expand_sources", "iter_frames"]

PathSpec: TypeAlias = str | os.PathLike[str]
FramesOrPaths: TypeAlias = Atoms | PathSpec | Iterable[Atoms | PathSpec]


@dataclass(frozen=True, slots=True)
class Frame:
    """One configuration and where it came from."""

    atoms: Atoms
    """The configuration, with info, arrays and calculator as ASE reads them; in memory the very object that was given."""
    source: str
    """Name of the file as given (or as the glob found it, without slice), or "memory"."""
    index: int
    """Number of the frame in its source, from 0 over all frames of the file, not over the slice."""


def iter_frames(frames_or_paths: FramesOrPaths, *, incomplete: Literal["raise", "warn"] = "raise") -> Iterator[Frame]:
    """Yield frames one at a time, never holding a whole XYZ or ASE trajectory file in memory.

    A path may be a glob pattern and may end in an ASE slice: ``"runs/**/*.xyz@::10"``, ``"run.traj@-1"``. The same file
    with the same slice is read once. Paths given in a list are looked up before the first frame is read.

    Parameters
    ----------
    frames_or_paths
        Atoms, a path, or an iterable (also a generator) that may mix both.
    incomplete
        What to do at a file that ends in the middle of a frame, as a killed or growing run leaves it, once its complete
        frames have been yielded. With a negative index in the slice it is found before the first frame.

    Raises
    ------
    FileFormatError
        A file is empty, torn (unless ``incomplete="warn"``) or cannot be parsed; names file, frame and line.
    FileNotFoundError, IsADirectoryError
        A path does not exist, a glob matches no file, a path is a folder.
    ValueError
        A slice selects no frame of its file, or its step is 0.
    TypeError
        Something is neither Atoms nor a path.

    Examples
    --------
    >>> from ase.build import bulk
    >>> [(frame.source, frame.index, len(frame.atoms)) for frame in iter_frames([bulk("Cu"), bulk("Si")])]
    [('memory', 0, 1), ('memory', 1, 2)]
    """
    if incomplete not in ("raise", "warn"):
        raise ValueError(f"`incomplete`: expected 'raise' or 'warn', got {incomplete!r}")
    items = _expand(frames_or_paths)
    if isinstance(frames_or_paths, (Atoms, str, os.PathLike, list, tuple)):
        items = iter(list(items))
    return _iter_items(items, incomplete)


def expand_sources(paths: PathSpec | Iterable[PathSpec]) -> list[str]:
    """List the files (each with its slice, if it has one) that `iter_frames` would read, in its order, each once.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        A path does not exist, a glob matches no file, a path is a folder.
    TypeError
        Something is not a path.
    """
    items = list(_expand(paths))
    if any(isinstance(item, Atoms) for item in items):
        raise TypeError("`paths`: expected a path or several, got Atoms; give them to iter_frames")
    return [item.name + item.suffix for item in items if isinstance(item, _Source)]


def count_frames(frames_or_paths: FramesOrPaths) -> int | None:
    """Count the frames that `iter_frames` would yield, or give None where that is not cheap to know.

    Known for lists and tuples of Atoms, uncompressed XYZ (a scan without parsing) and ASE trajectories. Of a torn file
    the complete frames are counted; a file that cannot be read gives None. Generators are not touched.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, TypeError
        As `iter_frames`.
    """
    if not isinstance(frames_or_paths, (Atoms, str, os.PathLike, list, tuple)):
        return None
    total = 0
    for item in list(_expand(frames_or_paths, quiet=True)):
        if isinstance(item, Atoms):
            total += 1
            continue
        # a pipe can be read only once
        if not Path(item.name).is_file() or get_compression(item.name)[1] is not None:
            return None
        try:
            read = _reader(item.name)
            if read is _read_other:
                return None
            n_frames, _ = _count(read, item.name)
        except FileFormatError:
            return None
        total += len(range(n_frames)[item.selection])
    return total


class _Source(NamedTuple):
    """A file, the slice as written ("@::10" or nothing) and as understood."""

    name: str
    suffix: str
    selection: slice


class _IncompleteError(FileFormatError):
    """The file ends in the middle of a frame."""


#: Yields (index, atoms) for every frame of a file in order; atoms is None where the index is not in the range.
_Reader: TypeAlias = Callable[[str, range], Iterator[tuple[int, Atoms | None]]]


def _expand(items: FramesOrPaths, *, quiet: bool = False) -> Iterator[Atoms | _Source]:
    if isinstance(items, (Atoms, str, os.PathLike)):
        items = [items]
    try:
        iterator = iter(items)
    except TypeError:
        raise TypeError(
            f"`frames_or_paths`: expected Atoms, a path or an iterable of these, got {type(items).__name__}"
        ) from None
    seen = set()
    duplicates = []
    for item in iterator:
        if isinstance(item, Atoms):
            yield item
            continue
        if not isinstance(item, (str, os.PathLike)):
            raise TypeError(
                f"`frames_or_paths`: expected Atoms or a path as item, got {type(item).__name__}: {item!r:.60}"
            )
        for source in _find(os.fsdecode(item)):
            s = source.selection
            step = s.step or 1
            key = Path(source.name).resolve(), s.start or 0 if step > 0 else s.start, s.stop, step
            if key in seen:
                duplicates.append(source.name + source.suffix)
            else:
                seen.add(key)
                yield source
    if duplicates and not quiet:
        _warn(f"reached more than once and read once: {', '.join(dict.fromkeys(duplicates))}")


_SLICED = re.compile(r"(.+)@(-?\d+|-?\d*:-?\d*(?::-?\d*)?)", re.DOTALL)


def _find(path: str) -> list[_Source]:
    name, suffix, selection = path, "", slice(None)
    # a file may really be called "a@5"
    if not Path(path).exists() and (match := _SLICED.fullmatch(path)):
        name, suffix = match[1], "@" + match[2]
        parts = [int(part) if part else None for part in match[2].split(":")]
        if len(parts) == 3 and parts[2] == 0:
            raise ValueError(f"{path}: the step of a slice cannot be 0")
        i = parts[0]
        selection = slice(i, i + 1 or None) if len(parts) == 1 and i is not None else slice(*parts)
    if Path(name).is_dir():
        raise IsADirectoryError(f"{name}: expected a file, got a folder; name its files, for example {name}/*.xyz")
    if Path(name).exists():
        return [_Source(name, suffix, selection)]
    if not glob.has_magic(name):
        raise FileNotFoundError(f"{name}: no such file")
    found = sorted(file for file in glob.glob(name, recursive=True) if not Path(file).is_dir())
    if not found:
        raise FileNotFoundError(f"{name}: no file matches this pattern")
    return [_Source(file, suffix, selection) for file in found]


def _iter_items(items: Iterator[Atoms | _Source], incomplete: str) -> Iterator[Frame]:
    in_memory = count()
    for item in items:
        if isinstance(item, Atoms):
            yield Frame(item, "memory", next(in_memory))
        else:
            yield from _iter_file(item, incomplete)


def _iter_file(source: _Source, incomplete: str) -> Iterator[Frame]:
    name, suffix, selection = source
    read = _reader(name)
    first, last, step = selection.start or 0, selection.stop, selection.step or 1
    if first < 0 or step < 0 or (last is not None and last < 0):
        n_frames, torn = _count(read, name)
        _report(torn, incomplete)
        wanted = range(n_frames)[selection]
    else:
        wanted = range(first, sys.maxsize if last is None else last, step)
    if step < 0:
        # files are read forwards only, so these frames are kept
        kept = list(_iter_wanted(read, name, wanted[::-1], incomplete))
        found = len(kept)
        yield from reversed(kept)
    else:
        found = 0
        for frame in _iter_wanted(read, name, wanted, incomplete):
            found += 1
            yield frame
    if not found:
        n_frames, torn = _count(read, name)
        if n_frames == 0 and torn is None:
            raise _empty(name)
        if suffix:
            raise ValueError(f"{name}: the slice {suffix!r} selects none of the {n_frames} frames of the file")


def _iter_wanted(read: _Reader, name: str, wanted: range, incomplete: str) -> Iterator[Frame]:
    end = wanted[-1] + 1 if wanted else 0
    try:
        for index, atoms in read(name, wanted):
            if atoms is not None:
                yield Frame(atoms, name, index)
            if index + 1 >= end:
                return
    except _IncompleteError as error:
        _report(error, incomplete)


def _count(read: _Reader, name: str) -> tuple[int, _IncompleteError | None]:
    """Count the complete frames; the error tells how the file ends if it is torn."""
    n_frames = 0
    try:
        for index, _ in read(name, range(0)):
            n_frames = index + 1
    except _IncompleteError as error:
        return n_frames, error
    return n_frames, None


def _report(torn: _IncompleteError | None, incomplete: str) -> None:
    if torn is None:
        return
    if incomplete == "raise":
        raise FileFormatError(f"{torn}; give incomplete='warn' to use the complete frames only") from torn.__cause__
    _warn(f"{torn}; the complete frames before it are used")


def _warn(message: str) -> None:
    """Warn at the first caller outside this module: generators run at any depth."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"] == __name__:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _empty(name: str) -> FileFormatError:
    return FileFormatError(f"{name}: the file holds no frames; did the run that writes it start?")


def _reader(name: str) -> _Reader:
    root, compression = get_compression(name)
    if Path(name).is_file() and Path(name).stat().st_size == 0:
        raise _empty(name)
    suffix = Path(root).suffix.lower()
    if suffix in (".xyz", ".extxyz"):
        return _read_xyz
    kind = "traj" if suffix == ".traj" else _filetype(name)
    if kind in ("xyz", "extxyz"):
        return _read_xyz
    return _read_traj if kind == "traj" and compression is None else _read_other


def _filetype(name: str) -> str:
    try:
        # guess=False: an unknown extension is not taken for a format, the content is looked at
        return filetype(name, guess=False)
    except (UnknownFileTypeError, EOFError, LZMAError, OSError, zlib.error) as error:
        _reraise_system_error(error)
        raise FileFormatError(
            f"{name}: expected a format that ASE reads, got {error}; see `ase info --formats`"
        ) from error


def _reraise_system_error(error: Exception) -> None:
    """Let disk and permission errors through: gzip and bz2 use OSError for damaged data too, but without errno."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _read_other(name: str, wanted: range) -> Iterator[tuple[int, Atoms | None]]:
    kind = _filetype(name)
    # parallel=False: under MPI each rank reads for itself instead of waiting for the others
    frames = iread(name, ":", format=kind, parallel=False, do_not_split_by_at_sign=True)
    for index in count():
        try:
            atoms = next(frames)
        except StopIteration:
            return
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            _reraise_system_error(error)
            raise FileFormatError(
                f"{name}: frame {index}: expected format {kind!r}, but ASE's reader failed with "
                f"{type(error).__name__}: {error}; is the file whole and of this format?"
            ) from error
        yield index, atoms if index in wanted else None


def _read_traj(name: str, wanted: range) -> Iterator[tuple[int, Atoms | None]]:
    with Path(name).open("rb") as fd:
        try:
            trajectory = TrajectoryReader(fd)
        except Exception as error:
            raise FileFormatError(
                f"{name}: expected an ASE trajectory, got {type(error).__name__}: {error}; "
                f"the file is something else or its head is damaged"
            ) from error
        for index in range(len(trajectory)):
            try:
                atoms = trajectory[index] if index in wanted else None
            except Exception as error:
                kind = _IncompleteError if _fails(lambda: trajectory[-1]) else FileFormatError
                raise kind(f"{name}: frame {index}: the data are torn ({type(error).__name__}: {error})") from error
            yield index, atoms


def _read_xyz(name: str, wanted: range) -> Iterator[tuple[int, Atoms | None]]:
    with open_with_compression(name, "rb") as fd:
        for index, at, block in _split_xyz(name, _Lines(name, fd), wanted):
            yield index, _parse_xyz(name, index, at, block) if index in wanted else None


class _Lines:
    """Lines of an XYZ file in portions; reading errors wait in `failure` until the lines before them are used up."""

    def __init__(self, name: str, fd: IO[Any]) -> None:
        self.name, self.number = name, 0
        self.fd = fd
        self.failure: Exception | None = None

    def take(self, n: int) -> list[bytes]:
        """Return the next n lines, fewer at the end of the file."""
        lines: list[bytes] = []
        if self.failure is None:
            try:
                # extend keeps what came before an exception
                lines.extend(islice(self.fd, n))
            except (EOFError, LZMAError, OSError, zlib.error) as error:
                self.failure = error
        self.number += len(lines)
        return lines

    def check(self, index: int) -> None:
        """Raise what ended the lines before the true end of the file."""
        if self.failure is None:
            return
        _reraise_system_error(self.failure)
        kind = _IncompleteError if isinstance(self.failure, EOFError) else FileFormatError
        what = f"the compressed data end or are damaged after line {self.number} ({self.failure})"
        raise kind(f"{self.name}: frame {index}: {what}") from self.failure


#: Lines read at once: bounds the memory where a damaged first line announces absurdly many atoms.
_PORTION = 65_536


def _split_xyz(name: str, lines: _Lines, wanted: range) -> Iterator[tuple[int, int, list[bytes]]]:
    """Yield frame index, number of its first line (from 1) and its lines, complete only where wanted."""
    header = lines.take(1)
    for index in count():
        while header and header[0].isspace():
            header = lines.take(1)
        if not header:
            break
        at = lines.number
        n_atoms = _n_atoms(name, index, at, header[0])
        block = header + lines.take(1)
        missing = n_atoms
        torn = len(block) < 2
        while missing and not torn:
            portion = lines.take(min(missing, _PORTION))
            for i, line in enumerate(portion):
                if line.strip().isdigit():
                    raise FileFormatError(
                        f"{name}: frame {index} (line {at}): expected {n_atoms} atoms, got {n_atoms - missing + i} before "
                        f"line {at + 2 + n_atoms - missing + i}, which looks like the start of the next frame; cut out the "
                        f"damaged frame or correct its first line"
                    )
            missing -= len(portion)
            torn = not portion or _is_cut(portion)
            if index in wanted:
                block += portion
        if torn:
            lines.check(index)
            raise _IncompleteError(
                f"{name}: frame {index} (line {at}): expected {n_atoms} atoms, but the file ends in the middle of the "
                f"frame, at line {lines.number}"
            )
        # cell vectors as some programs write them after the atoms; ASE reads them
        while (header := lines.take(1)) and header[0].lstrip().startswith(b"VEC"):
            block += header
        yield index, at, block
    lines.check(index)


def _n_atoms(name: str, index: int, at: int, line: bytes) -> int:
    try:
        n_atoms = int(line)
    except ValueError:
        n_atoms = -1
    if n_atoms < 0:
        raise FileFormatError(
            f"{name}: frame {index}, line {at}: expected the number of atoms, got {_shown(line)}; "
            f"is this an XYZ file, and has the frame before as many atoms as it says?"
        ) from None
    return n_atoms


def _is_cut(portion: list[bytes]) -> bool:
    """Tell whether the last line lacks its end and has fewer columns than another of the frame."""
    return not portion[-1].endswith(b"\n") and len(portion[-1].split()) < len(portion[0].split())


def _parse_xyz(name: str, index: int, at: int, block: list[bytes]) -> Atoms:
    try:
        text = b"".join(block).decode()
    except UnicodeDecodeError as error:
        line = at + error.object[: error.start].count(b"\n")
        raise FileFormatError(
            f"{name}: frame {index}, line {line}: expected UTF-8 text, got {error}; is the file binary?"
        ) from error
    try:
        return _from_text(text)
    except Exception as error:
        where = _bad_line(block)
        what = f"{type(error).__name__}: {error}"
        if where == len(block) - 1 and not block[-1].endswith(b"\n"):
            raise _IncompleteError(
                f"{name}: frame {index}, line {at + where}: the file ends within this line ({what})"
            ) from error
        line_of = f", line {at + where}" if where is not None else f" (lines {at}-{at + len(block) - 1})"
        got = f" {_shown(block[where])}" if where is not None else ""
        expected = (
            "a comment line of extended XYZ" if where == 1 else "an atom as the comment line of the frame announces"
        )
        raise FileFormatError(
            f"{name}: frame {index}{line_of}: expected {expected}, got{got} ({what}); correct or cut out this frame"
        ) from error


def _from_text(text: str) -> Atoms:
    atoms: Atoms = next(read_xyz(StringIO(text), 0))
    return atoms


def _bad_line(block: list[bytes]) -> int | None:
    """Index in the block of the first line that ASE cannot read, found by reading ever shorter frames."""
    n_atoms = int(block[0])
    if len(block) != n_atoms + 2:
        return None

    def fails(k: int) -> bool:
        return _fails(lambda: _from_text(f"{k}\n" + b"".join(block[1 : 2 + k]).decode()))

    first = bisect_left(range(n_atoms + 1), True, key=fails)
    return first + 1 if first <= n_atoms else None


def _fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except Exception:
        return True
    return False


def _shown(line: bytes) -> str:
    text = line.decode(errors="replace").rstrip()
    return repr(text if len(text) <= 60 else text[:57] + "...")
