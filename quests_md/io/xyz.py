"""Extended XYZ frame by frame: torn, growing, endless and compressed files included.

ASE's own reader scans the whole file before the first frame and loses all if one is torn; here it is handed the lines
of one frame at a time.
"""

import codecs
import io
import re
import zlib
from bisect import bisect_left
from collections.abc import Callable, Container, Iterator, Sequence
from functools import lru_cache, partial
from itertools import count, islice
from lzma import LZMAError
from typing import IO, Any, NamedTuple, TypeAlias

from ase import Atoms
from ase.data import atomic_masses, atomic_numbers
from ase.io.extxyz import read_xyz as ase_read_xyz
from ase.io.formats import open_with_compression

from quests_md.errors import FileFormatError

from .elements import SYMBOLS, LabelError, contradiction, doubt_of_labels, isotope_mass, symbols_of_labels
from .start import Start
from .torn_ends import WINDOW, is_cut_short, no_line_end
from .warned import warn
from .written_numbers import to_float, to_int
from .xyz_comment import LENGTH_A, CommentError, hint_of_more, parse_comment

__all__ = [
    "PORTION",
    "IncompleteError",
    "Lines",
    "fortran_free",
    "read_xyz",
    "reraise_system_error",
    "scan_xyz",
    "shown",
    "shown_error",
]


class IncompleteError(FileFormatError):
    """The file ends in the middle of a frame."""


def read_xyz(
    name: str, wanted: Container[int], *, types: Sequence[str] | None = None, start: Start | None = None
) -> Iterator[tuple[int, Atoms | FileFormatError | None]]:
    """Yield (index, atoms) for every frame in order; atoms is None where the index is not wanted.

    In the place of a frame that is whole and cannot be read comes the error that says why. `types` are chemical
    symbols for labels of atoms that are numbers. `start`: the first frame to read, as `scan_xyz` has found it.
    """
    is_told = has_doubted = False
    with open_with_compression(name, "rb") as fd:
        for index, at, block, _, _ in _split_xyz(name, Lines(name, fd, start), wanted):
            if index not in wanted:
                yield index, None
                continue
            try:
                doubts: list[str] = []
                atoms = _parse_xyz(name, index, at, block, types, doubts)
            except IncompleteError:
                raise
            except FileFormatError as error:
                yield index, error
                continue
            if doubts and not has_doubted:
                has_doubted = True
                warn(f"{name}: frame {index}: {doubts[0]}", once="labels")
            comment = block[1].decode(errors="replace")
            if not is_told and (hint := hint_of_more(comment, has_cell=bool(atoms.cell.any()))) is not None:
                is_told = True
                taken = "in Å" if atoms.cell.any() else "not periodic and in Å"
                warn(
                    f"{name}: frame {index}, line {at + 1}: the comment says {hint!r}, which is not understood; the "
                    f"frame is taken as {taken}. Write the cell as "
                    'Lattice="10.8 0 0 0 10.8 0 0 0 10.8" (Å), positions in Å',
                    once="comment",
                )
            yield index, atoms


def scan_xyz(name: str) -> Iterator[tuple[Start, int]]:
    """Yield where each whole frame begins, and how many atoms it has; what is in the lines is not looked at.

    Raises as `read_xyz` where the file is torn or no XYZ file.
    """
    with open_with_compression(name, "rb") as fd:
        for index, at, _, offset, n_atoms in _split_xyz(name, Lines(name, fd), range(0)):
            yield Start(index, offset, at - 1), n_atoms


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

    def __init__(self, name: str, fd: IO[Any], start: Start | None = None) -> None:
        self.name, self.fd = name, fd
        self.number = 0 if start is None else start.line
        """Lines so far."""
        self.offset = 0 if start is None else start.offset
        """Bytes so far."""
        self.first = 0 if start is None else start.index
        """Number of the first frame."""
        if start is not None:
            fd.seek(start.offset)
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
        self.offset += size
        if self.number == 0 and lines:
            lines[0] = self._without_mark(lines[0])
        self.number += len(lines)
        self.memory += size + len(lines) * _LINE_OVERHEAD
        return lines

    def _without_mark(self, line: bytes) -> bytes:
        """The first line of the file without the byte order mark that editors of Windows write."""
        if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise FileFormatError(
                f"{self.name}: expected UTF-8 text, got UTF-16, as the PowerShell of Windows writes; convert it: "
                "iconv -f utf-16 -t utf-8"
            )
        return line.removeprefix(codecs.BOM_UTF8)

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


class _Block(NamedTuple):
    """A frame of the file."""

    number: int
    at: int
    """Number of its first line, from 1."""
    lines: list[bytes]
    """Complete only where wanted."""
    offset: int
    """Bytes before it."""
    n_atoms: int


def _split_xyz(name: str, lines: Lines, wanted: Container[int]) -> Iterator[_Block]:
    header = lines.read(1)
    above: list[bytes] = []
    for index in count(lines.first):
        if header and header[0].isspace():
            header = lines.read_filled()
        if not header:
            break
        at, start, offset = lines.number, lines.memory, lines.offset - len(header[0])
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
            if not torn and not missing:
                torn = _ends_within(lines, portion[-1], [*above, *portion[-WINDOW:-1]], index in wanted)
            above = [*above, *portion[-WINDOW:]][-WINDOW:]
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
        if vectors and not header and _are_cut(vectors):
            what = f"expected three cell vectors after the atoms, but the file ends within, at line {lines.number}"
            raise IncompleteError(f"{name}: frame {index} (line {at}): {what}")
        block += vectors
        yield _Block(index, at, block, offset, n_atoms)
    lines.raise_failure(index)


def _n_atoms(name: str, index: int, at: int, line: bytes) -> int:
    try:
        n_atoms = to_int(line)
    except ValueError:
        n_atoms = -1
    if n_atoms < 0:
        what = f"expected the number of atoms, got {shown(line)}; no XYZ file, or the frame before is too long?"
        raise FileFormatError(f"{name}: frame {index}, line {at}: {what}")
    return n_atoms


def _is_cut(portion: list[bytes]) -> bool:
    """Whether the last line lacks its end and has fewer columns than the first line."""
    return not portion[-1].endswith(b"\n") and len(portion[-1].split()) < len(portion[0].split())


def _ends_within(lines: Lines, last: bytes, above: list[bytes], is_wanted: bool) -> bool:
    """Whether the last line ends the file within a number; warn where nobody can know."""
    is_cut = is_cut_short(last, above)
    if is_cut is None and is_wanted and len(last.split()) >= _FEWEST_WORDS:
        warn(f"{lines.name}: line {lines.number}: {no_line_end(last)}")
    return is_cut is True


# An element and a position.
_FEWEST_WORDS = 4


def _are_cut(vectors: list[bytes]) -> bool:
    """Whether cell vectors at the end of the file are fewer than three, or the last of them is cut."""
    widths = {len(vector.split()) for vector in vectors}
    return len(vectors) < 3 or len(widths) > 1 or is_cut_short(vectors[-1], vectors[:-1]) is True


def _parse_xyz(
    name: str, index: int, at: int, block: list[bytes], types: Sequence[str] | None, doubts: list[str]
) -> Atoms:
    try:
        text = b"".join(block).decode()
    except UnicodeDecodeError as error:
        line = at + error.object[: error.start].count(b"\n")
        raise FileFormatError(f"{name}: frame {index}, line {line}: expected UTF-8 text, got {error}") from error
    try:
        return _from_text(text, types, doubts)
    except MemoryError:
        raise
    except CommentError as error:
        what = f"expected an extended XYZ comment that can be used, got {shown(block[1])}: {error}"
        raise FileFormatError(f"{name}: frame {index}, line {at + 1}: {what}") from error
    except LabelError as error:
        label = error.label.encode()
        bad_row = next((i for i, line in enumerate(block[2:], 2) if label in line.split()), 2)
        what = f"expected an atom of a known element, got {shown(block[bad_row])}: {error}"
        raise FileFormatError(f"{name}: frame {index}, line {at + bad_row}: {what}") from error
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
        advice = "correct or cut out this frame" if index else "correct this frame, and others that are written like it"
        if bad is not None and bad > 1 and re.search(rb"\d,\d", block[bad]):
            advice = "write decimal points: sed -E 's/([0-9]),([0-9])/\\1.\\2/g'"
        raise FileFormatError(f"{message}; {advice}") from error


def _from_text(text: str, types: Sequence[str] | None = None, doubts: list[str] | None = None) -> Atoms:
    """The frame of a text, whose labels of atoms become chemical symbols; `doubts` takes what is not sure of them."""
    lines = io.StringIO(text).readlines()  # as ASE has them: other ends of lines stand in comments
    parsed = lru_cache(1)(parse_comment)  # asked for the columns, and by ASE

    def parse(comment: str) -> dict[str, Any]:
        return dict(parsed(comment))  # ASE takes entries out

    if any("_" in line for line in lines[2:]):
        _require_numbers(lines, parse)
    masses = _replace_labels(lines, types, parse, doubts)
    try:
        atoms = _by_ase("".join(lines), parse)
    except ValueError:
        changed = [fortran_free(line.encode()).decode() for line in lines[2:]]
        if changed == lines[2:]:
            raise
        atoms = _by_ase("".join(lines[:2] + changed), parse)
    scale = atoms.info.pop(LENGTH_A, 1.0)
    if scale != 1.0:
        atoms.positions *= scale
    if masses is not None and not atoms.has("masses"):
        atoms.set_masses(masses)
    return atoms


#: What a comment line says, see `parse_comment`.
_Parse: TypeAlias = Callable[[str], dict[str, Any]]


def _by_ase(text: str, parse: _Parse) -> Atoms:
    atoms: Atoms = next(ase_read_xyz(io.StringIO(text), 0, properties_parser=parse))
    return atoms


# The letter of an exponent of Fortran, 1.0D+00.
_FORTRAN = re.compile(rb"(?<=[\d.])[dD](?=[+-]?\d)")


def fortran_free(line: bytes) -> bytes:
    """A line whose exponents of Fortran are those of other languages."""
    return _FORTRAN.sub(b"e", line)


def _replace_labels(
    lines: list[str], types: Sequence[str] | None, parse: _Parse, doubts: list[str] | None
) -> list[float] | None:
    """Replace labels of atoms that ASE does not know by chemical symbols; masses of the atoms if isotopes are named."""
    n_atoms = int(lines[0])
    if n_atoms == 0 or len(lines) < 2 + n_atoms:
        return None
    comment = lines[1].strip()
    columns = "species:S:1"
    if comment and len(lines) <= 2 + n_atoms:
        columns = str(parse(comment).get("Properties", "species:S:1:pos:R:3"))
    places = _places(columns)
    column = places.get("species", places.get("symbols"))
    of_numbers = places.get("Z", places.get("numbers"))
    words = [line.split() for line in lines[2 : 2 + n_atoms]]
    try:
        labels = [] if column is None else [row[column] for row in words]
        if of_numbers is not None:
            if labels and (found := contradiction(labels, [int(row[of_numbers]) for row in words])) is not None:
                raise LabelError(labels[found[0]], f"{found[1]}; correct one of them, or leave its column out")
            return None
    except (IndexError, OverflowError):
        return None  # ASE says what is wrong with the line
    different = set(labels)
    if doubts is not None and (doubt := doubt_of_labels(different)) is not None:
        doubts.append(doubt)
    strange = {label for label in different if label.capitalize() not in SYMBOLS}
    if not strange or column is None:
        return None
    symbols = symbols_of_labels(labels, types)
    for i, (label, row) in enumerate(zip(labels, words, strict=True), 2):
        row[column] = symbols[label]
        lines[i] = " ".join(row) + "\n"
    isotopes = {label: isotope_mass(label) for label in strange}
    if not any(isotopes.values()):
        return None
    return [isotopes.get(label) or atomic_masses[atomic_numbers[symbols[label]]] for label in labels]


def _require_numbers(lines: list[str], parse: _Parse) -> None:
    """Raise ValueError for a label such as 1_83 in a column of numbers, which Python would take for 183."""
    columns = (
        str(parse(lines[1].strip()).get("Properties", "species:S:1:pos:R:3")) if lines[1].strip() else "s:S:1:p:R:3"
    )
    parts = columns.split(":")
    kinds = [kind for kind, width in zip(parts[1::3], parts[2::3], strict=True) for _ in range(int(width))]
    for line in lines[2 : 2 + int(lines[0])]:
        for kind, word in zip(kinds, line.split(), strict=False):
            if kind in "RI":
                to_float(word.replace("D", "e").replace("d", "e"))


def _places(columns: str) -> dict[str, int]:
    """The first column of each array that a text of Properties names."""
    found, column = {}, 0
    parts = columns.split(":")
    for name, width in zip(parts[::3], parts[2::3], strict=True):
        found[name] = column
        column += int(width)
    return found


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
