"""Extended XYZ frame by frame: torn, growing, endless and compressed files included.

ASE's own reader scans the whole file before the first frame and loses all if one is torn; here it is handed the lines
of one frame at a time.
"""

import io
import json
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from lzma import LZMAError
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.io.extxyz import key_val_str_to_dict
from ase.io.extxyz import read_xyz as ase_read_xyz
from ase.io.formats import open_with_compression

from quests_md.errors import FileFormatError

__all__ = [
    "MOST_COLUMNS",
    "PORTION",
    "IncompleteError",
    "Lines",
    "read_xyz",
    "reraise_system_error",
    "shown",
    "shown_error",
]


class IncompleteError(FileFormatError):
    """The file ends in the middle of a frame."""


def read_xyz(name: str, wanted: range) -> Iterator[tuple[int, Atoms | None]]:
    """Yield (index, atoms) for every frame in order; atoms is None where the index is not wanted."""
    with open_with_compression(name, "rb") as fd:
        for index, at, block in _split_xyz(name, Lines(name, fd), wanted):
            yield index, _parse_xyz(name, index, at, block) if index in wanted else None


def reraise_system_error(error: Exception) -> None:
    """Let disk and permission errors through: gzip and bz2 use OSError for damaged data too, but without errno."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


# Most bytes of a line of a header, which may hold arrays of its own, and of the line of an atom.
_LONGEST_HEADER, _LONGEST_LINE = 2**24, 2**20

# Lines read before their bytes are counted, and bytes after which a portion ends.
_FEW_LINES, _PORTION_BYTES = 256, 2**26

#: Lines read at once: bounds the memory where a damaged first line announces absurdly many atoms.
PORTION = 65_536

#: Bytes that the lines of one frame of a compressed file may take, some 5 million atoms: it may unpack to any length.
LARGEST_FRAME = 2**29

# Bytes that a line takes beside its text.
_LINE_OVERHEAD = 40


class Lines:
    """Lines of an XYZ file in portions; reading errors wait in `failure` until the lines before them are used up."""

    def __init__(self, name: str, fd: IO[Any]) -> None:
        self.name, self.number, self.fd = name, 0, fd
        self.failure: Exception | None = None
        self.is_compressed = not isinstance(fd, io.BufferedReader)
        self.memory = 0
        """Bytes that all lines so far would take."""

    def read(self, n: int) -> list[bytes]:
        """The next n lines, fewer if they are long, none at the end of the file."""
        lines: list[bytes] = []
        longest = _LONGEST_LINE if n > 1 else _LONGEST_HEADER
        size = 0
        while self.failure is None and len(lines) < n and size < _PORTION_BYTES:
            before = len(lines)
            try:
                # extend keeps what came before an exception
                lines.extend(islice(iter(partial(self.fd.readline, longest), b""), min(n - before, _FEW_LINES)))
            except (EOFError, LZMAError, OSError, zlib.error) as error:
                self.failure = error
            sizes = list(map(len, lines[before:]))
            if not sizes:
                break
            if max(sizes) == longest:
                at = self.number + before + sizes.index(longest) + 1
                raise FileFormatError(f"{self.name}: line {at}: expected at most {longest} bytes, got more; no text?")
            size += sum(sizes)
        self.number += len(lines)
        self.memory += size + len(lines) * _LINE_OVERHEAD
        return lines

    def read_filled(self) -> list[bytes]:
        """The next line that is not blank; none at the end of the file."""
        line = self.read(1)
        while line and line[0].isspace():
            line = self.read(1)
        return line

    def check_size(self, index: int, start: int) -> None:
        """Raise FileFormatError if lines out of a compressed file take too much memory since it was `start`."""
        if self.is_compressed and self.memory - start > LARGEST_FRAME:
            raise FileFormatError(
                f"{self.name}: frame {index}: expected a frame whose lines take at most {LARGEST_FRAME >> 20} MiB of "
                "memory, got more; decompress the file first if it is meant to be that large"
            )

    def raise_failure(self, index: int) -> None:
        """Raise what ended the lines before the true end of the file."""
        if self.failure is None:
            return
        reraise_system_error(self.failure)
        kind = IncompleteError if isinstance(self.failure, EOFError) else FileFormatError
        what = f"the compressed data end or are damaged after line {self.number} ({self.failure})"
        raise kind(f"{self.name}: frame {index}: {what}") from self.failure


def _split_xyz(name: str, lines: Lines, wanted: range) -> Iterator[tuple[int, int, list[bytes]]]:
    """Yield frame index, number of its first line (from 1) and its lines, complete only where wanted."""
    header = lines.read(1)
    for index in count():
        if header and header[0].isspace():
            header = lines.read_filled()
        if not header:
            break
        at, start = lines.number, lines.memory
        n_atoms = _n_atoms(name, index, at, header[0])
        block = header + lines.read(1)
        missing = n_atoms
        torn = len(block) < 2
        while missing and not torn:
            portion = lines.read(min(missing, PORTION))
            for i, line in enumerate(portion, n_atoms - missing):
                if line.strip().isdigit() and line.endswith(b"\n"):
                    raise FileFormatError(
                        f"{name}: frame {index} (line {at}): expected {n_atoms} atoms, got {i} and then {shown(line)} "
                        f"in line {at + 2 + i}, as if a new frame began; cut out this frame or correct its first line"
                    )
            missing -= len(portion)
            torn = not portion or _is_cut(portion)
            if index in wanted:
                block += portion
                lines.check_size(index, start)
        if torn:
            lines.raise_failure(index)
            what = f"expected {n_atoms} atoms, but the file ends in the middle of the frame, at line {lines.number}"
            raise IncompleteError(f"{name}: frame {index} (line {at}): {what}")
        # cell vectors as some programs write them after the atoms; ASE reads them
        vectors: list[bytes] = []
        while (header := lines.read(1)) and len(vectors) < 3 and header[0].lstrip().startswith(b"VEC"):
            vectors += header
        block += vectors
        yield index, at, block
    lines.raise_failure(index)


def _n_atoms(name: str, index: int, at: int, line: bytes) -> int:
    try:
        n_atoms = int(line)
    except ValueError:
        n_atoms = -1
    if n_atoms < 0:
        what = f"expected the number of atoms, got {shown(line)}; no XYZ file, or the frame before is too long?"
        raise FileFormatError(f"{name}: frame {index}, line {at}: {what}")
    return n_atoms


def _is_cut(portion: list[bytes]) -> bool:
    """Whether the last line lacks its end and has fewer columns than the first line."""
    return not portion[-1].endswith(b"\n") and len(portion[-1].split()) < len(portion[0].split())


def _parse_xyz(name: str, index: int, at: int, block: list[bytes]) -> Atoms:
    try:
        text = b"".join(block).decode()
    except UnicodeDecodeError as error:
        line = at + error.object[: error.start].count(b"\n")
        raise FileFormatError(f"{name}: frame {index}, line {line}: expected UTF-8 text, got {error}") from error
    try:
        return _from_text(text)
    except MemoryError:
        raise
    except Exception as error:
        bad = _bad_line(block)
        what = f"{type(error).__name__}: {error}"
        if bad is None:
            where, got = f"lines {at} to {at + len(block) - 1}", "something else"
        else:
            where, got = f"line {at + bad}", shown(block[bad])
        if bad == len(block) - 1 and not block[-1].endswith(b"\n"):
            message = f"{name}: frame {index}, {where}: the file ends within {got} ({what})"
            raise IncompleteError(message) from error
        expected = "an extended XYZ comment" if bad == 1 else "an atom in the columns that the comment names"
        message = f"{name}: frame {index}, {where}: expected {expected}, got {got} ({what})"
        raise FileFormatError(f"{message}; correct or cut out this frame") from error


def _from_text(text: str) -> Atoms:
    atoms: Atoms = next(ase_read_xyz(io.StringIO(text), 0, properties_parser=_parse_comment))
    return atoms


#: Columns that a header may announce: ASE and numpy make a field for each before they look at an atom.
MOST_COLUMNS = 100_000

# What ASE writes before a value in JSON, and what stands for it while ASE splits the comment: white space as well.
_JSON, _HELD_BACK = "_JSON ", "_JSON\x1f"


def _parse_comment(line: str) -> dict[str, Any]:
    """What ASE makes of a comment, without arrays of text, which take the longest text for each of their entries."""
    split = key_val_str_to_dict(line.replace(_JSON, _HELD_BACK))
    info = {key.replace(_HELD_BACK, _JSON): _comment_value(value) for key, value in split.items()}
    columns = str(info.get("Properties", "")).split(":")[2::3]
    if sum(max(int(n), 0) for n in columns) > MOST_COLUMNS:
        raise ValueError(f"Properties: expected at most {MOST_COLUMNS} columns")
    return info


def _comment_value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace(_HELD_BACK, _JSON)
    if not text.startswith(_JSON):
        return text
    content = json.loads(text.removeprefix(_JSON))
    if not _is_numeric(content):
        return content
    array = np.array(content)
    return array if array.dtype.kind in "ifb" else content


def _is_numeric(content: Any) -> bool:
    """Whether lists in lists hold nothing but numbers."""
    if isinstance(content, list):
        return all(map(_is_numeric, content))
    return isinstance(content, int | float)


def _bad_line(block: list[bytes]) -> int | None:
    """Index in the block of the first line that ASE cannot read, found by reading ever shorter frames."""
    n_atoms = int(block[0])
    if len(block) != n_atoms + 2:
        return None

    def fails(k: int) -> bool:
        try:
            _from_text(f"{k}\n" + b"".join(block[1 : 2 + k]).decode())
        except Exception:
            return True
        return False

    first = 0 if fails(0) else bisect_left(range(n_atoms + 1), True, key=fails)
    return first + 1 if first <= n_atoms else None


def shown(line: bytes) -> str:
    """A line for an error message, cut where it is long."""
    text = line.decode(errors="replace").rstrip()
    return repr(text if len(text) <= 60 else text[:57] + "...")


def shown_error(error: Exception) -> str:
    """An error of a reader for an error message, cut where it quotes much of the file."""
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= 200 else f"{text[:197]}..."
