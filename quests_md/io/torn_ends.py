"""Whether the last line of a text was cut: files of killed and growing runs end within a number or a word.

A cut number is a number too, of another value: only the lines above can tell. A text that was written by hand or joined
from lines may lack the end of its last line and be whole.
"""

import io
import re
from collections.abc import Sequence
from itertools import pairwise

from ase.data import atomic_numbers
from ase.io.formats import get_compression, open_with_compression

from .written_numbers import is_number

__all__ = ["WINDOW", "is_cut_short", "last_lines", "no_line_end"]

#: Lines above the last one that are compared with it.
WINDOW = 200

#: Lines alike from which on a rule that they follow is no chance.
_ENOUGH = 3

#: Numbers with the same number of decimals from which on this is no chance: of numbers without their last zeros one in
#: ten has fewer.
_MANY = 40

# Decimals that nobody writes by hand with their zeros.
_BY_PROGRAM = 3

# Most lines after which lines of the same kinds of words come again: DL_POLY writes four for an atom.
_LONGEST_PERIOD = 4

# Bytes in which the last lines are looked for.
_TAIL = 2**16


def is_cut_short(last: bytes, above: Sequence[bytes]) -> bool | None:
    """Whether a line that ends a text is cut; None where nobody can know.

    A line with an end is whole. One without is cut if it has fewer words than lines that go on as they did, or if its
    last word is shorter than those above: a number with fewer decimals where all above have the same number of them,
    a number that ends before the right edge of its column, a part of a word that stands above.
    """
    if last.endswith((b"\n", b"\r")) or not last.strip():
        return False
    words = last.split()
    rows = [(line, line.split()) for line in above[-WINDOW:] if line.strip()]
    if len(words) == 1 and words[0].lower().lstrip(b"$&%") == b"end":
        return False
    if _has_fewer(words, [row for _, row in rows]):
        return True
    alike = [(line, row) for line, row in rows if _is_like(words, row)]
    if not alike:
        return None
    if last[-1:].isspace():
        return False
    column = [row[-1] for _, row in alike]
    if not all(map(is_number, column)):
        return _is_part(words[-1], column)
    if not is_number(words[-1]):
        return True
    return _has_lost_digits(last, words, alike)


def no_line_end(last: bytes) -> str:
    """What to say of a last line of which nobody knows whether it is cut."""
    text = last.decode(errors="replace").strip()
    return (
        f"the file ends without an end of line, in {text[-60:]!r}: if it is torn there, the last number is another; if "
        "it is whole, end it by a line end (echo >> FILE)"
    )


def last_lines(name: str) -> list[bytes]:
    """The last lines of a file, at most `WINDOW` and one; none if these are no text."""
    if get_compression(name)[1] is None:
        with open_with_compression(name, "rb") as fd:
            fd.seek(0, io.SEEK_END)
            at = max(0, fd.tell() - _TAIL)
            fd.seek(at)
            tail = fd.read()
    else:
        tail, at = b"", 0
        with open_with_compression(name, "rb") as fd:
            while portion := fd.read(_TAIL):
                at += max(0, len(tail) - _TAIL)
                tail = tail[-_TAIL:] + portion
    if b"\0" in tail:
        return []
    lines: list[bytes] = tail.splitlines(keepends=True)[1 if at else 0 :]
    return lines[-WINDOW - 1 :]


def _kinds(words: Sequence[bytes]) -> str:
    return "".join("tn"[is_number(word)] for word in words)


def _is_like(words: list[bytes], row: list[bytes]) -> bool:
    """Whether two lines have the same number of words, and of the same kinds up to the last, which may be cut."""
    if len(row) != len(words) or _kinds(row[:-1]) != _kinds(words[:-1]):
        return False
    # numbers that count are of another kind than those with decimals
    return all(
        (b"." in one) == (b"." in other) for one, other in zip(words[:-1], row[:-1], strict=True) if is_number(one)
    )


def _has_fewer(words: list[bytes], rows: list[list[bytes]]) -> bool:
    """Whether a line is the beginning of the one that is due, where lines of the same kinds came again and again."""
    kinds = [_kinds(row) for row in rows[-_ENOUGH * _LONGEST_PERIOD :]]
    for period in range(1, _LONGEST_PERIOD + 1):
        if len(kinds) < _ENOUGH * period:
            return False
        recent = kinds[-_ENOUGH * period :]
        if all(recent[i] == recent[i + period] for i in range(len(recent) - period)):
            return _begins(words, rows[-period::-period])
    return False


def _begins(words: list[bytes], due: list[list[bytes]]) -> bool:
    """Whether words are fewer than those of the lines alike, the last of which may be cut."""
    n = len(words)
    if n >= len(due[0]) or not _kinds(due[0]).startswith(_kinds(words[:-1])):
        return False
    if is_number(due[0][n - 1]):
        return _BEGUN.fullmatch(words[-1]) is not None
    # a line of one word may be one of its own, such as END
    beginning = words[-1] if n == 1 else words[-1][:1]
    return any(len(row) >= n and row[n - 1].startswith(beginning) for row in due)


# A number, or what there is of one.
_BEGUN = re.compile(rb"[-+]?[\d.]*(?:[eEdD][-+]?\d*)?")


def _is_part(word: bytes, column: list[bytes]) -> bool | None:
    longer = any(other != word and other.startswith(word) for other in column)
    if word in column:
        return None if longer else False
    return True if longer and word.decode(errors="replace") not in atomic_numbers else None


def _has_lost_digits(last: bytes, words: list[bytes], alike: list[tuple[bytes, list[bytes]]]) -> bool | None:
    word = words[-1]
    column = [row[-1] for _, row in alike]
    decimals = {_n_decimals(other) for other in column}
    if len(decimals) == 1 and (usual := decimals.pop()) > 0:
        found = _n_decimals(word)
        if found == usual:
            return False
        # of one or two lines alike decimals may be equal by chance
        several = len(alike) >= _ENOUGH or (len(words) > 1 and _n_decimals(words[-2]) == usual)
        if found < usual and several and _has_fixed_decimals(alike, usual):
            return True
    ends = {len(line.rstrip()) for line, _ in alike}
    if len(alike) < _ENOUGH or len(ends) > 1:
        return None
    end, here = ends.pop(), len(last.rstrip())
    if here == end:
        return False
    # right-justified: numbers of several widths end at the same place
    several = any(len(one) != len(other) for one, other in pairwise(column))
    return True if several and here < end else None


def _has_fixed_decimals(alike: list[tuple[bytes, list[bytes]]], usual: int) -> bool:
    """Whether numbers of lines alike were written with a fixed number of decimals, rather than as short as they can be.

    Programs that write numbers as short as they can write one decimal at least.
    """
    columns = zip(*(row for _, row in alike), strict=True)
    same = [number for column in columns if {_n_decimals(number) for number in column} == {usual} for number in column]
    keeps_zeros = usual >= _BY_PROGRAM and any(number.endswith(b"0") for number in same)
    return usual == 1 or keeps_zeros or len(same) >= _MANY


def _n_decimals(number: bytes) -> int:
    """Characters after the decimal point, those of an exponent too."""
    return len(number.partition(b".")[2])
