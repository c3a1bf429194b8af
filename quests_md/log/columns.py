"""The checks of a log as arrays, made of its lines piece by piece."""

import math
from collections.abc import Sequence
from operator import itemgetter
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quests_md._json import number
from quests_md.records import CHECK_FIELDS, complete_line

from .line_search import Line

__all__ = ["BadLineError", "CheckColumns"]

#: Most phases or statistics a log may name, and most characters of a text in a column: what a damaged or hostile log
#: costs must stay bounded.
MAX_NAMES, MAX_TEXT = 100, 200

#: Check lines that are held before they become arrays: Python's numbers take five times the memory.
HELD_LINES = 100

#: Bytes of the file that the held lines may span.
HELD_BYTES = 4_000_000

# All fields that are named in neither of these hold a number, NaN where there is none.
_TEXTS = {"state", "digest", "worst_element", "explosion"}
_INTEGERS = {"step", "frame", "n_atoms", "n_above", "n_tail", "worst_atom", "n_unknown", "phases", "phase_clusters"}
_MAPPINGS = {"excesses": math.nan, "phases": -1, "phase_clusters": -1}  # and what stands where there is no number

#: What the conversion of damaged lines raises.
_FAULTS = (TypeError, ValueError, OverflowError, AttributeError)


class BadLineError(Exception):
    """What is wrong with a line; the reader makes a FileFormatError of it that names the line."""

    def __init__(self, line: Line, fault: Exception) -> None:
        super().__init__(f"{type(fault).__name__}: {str(fault)[:200]}")
        self.start = line.start


class _Column:
    """An array that grows."""

    def __init__(self) -> None:
        self._array: NDArray[Any] = np.empty(0, dtype=np.int8)
        self._length = 0

    def extend(self, piece: NDArray[Any]) -> None:
        """Append values; the type of the array follows theirs, and the longest text."""
        length = self._length + len(piece)
        dtype = np.promote_types(self._array.dtype, piece.dtype) if self._length else piece.dtype
        if length > len(self._array) or dtype != self._array.dtype:
            # the memory that is not filled yet is not taken yet
            grown = np.empty(max(2 * length, HELD_LINES), dtype=dtype)
            grown[: self._length] = self.values
            self._array = grown
        self._array[self._length : length] = piece
        self._length = length

    @property
    def values(self) -> NDArray[Any]:
        """The array."""
        return self._array[: self._length]


class CheckColumns:
    """The checks so far as arrays.

    A field has one array for each name in its mappings (`phases`: one for each phase). A field without mappings has one
    array, under the name "".
    """

    def __init__(self) -> None:
        self._held: list[tuple[Line, tuple[Any, ...]]] = []  # with the fields of the line
        self._n_checks = 0
        self._columns: dict[str, dict[str, _Column]] = {field: {} for field in CHECK_FIELDS}

    def add(self, line: Line) -> None:
        """Take a check line.

        Raises
        ------
        BadLineError
            If this or an earlier line holds what no check holds; also from `arrays`.
        """
        try:
            try:
                row = _fields(line.content)
            except KeyError:
                row = _fields(complete_line(line.content))
        except KeyError as exc:
            raise BadLineError(line, exc) from exc
        self._held.append((line, row))
        if len(self._held) == HELD_LINES or line.start - self._held[0][0].start > HELD_BYTES:
            self._convert()

    def arrays(self) -> dict[str, Any]:
        """The columns by field."""
        self._convert()
        arrays = {f: {name: column.values for name, column in known.items()} for f, known in self._columns.items()}
        return {f: known if f in _MAPPINGS else known.get("", _pieces(f, ())[""]) for f, known in arrays.items()}

    def _convert(self) -> None:
        """Put the lines that are held into the columns."""
        rows = [row for _, row in self._held]
        try:
            for field, values in zip(CHECK_FIELDS, zip(*rows, strict=True), strict=False):
                self._extend(field, _pieces(field, values))
        except _FAULTS as fault:
            for line, row in self._held:
                try:
                    for field, value in zip(CHECK_FIELDS, row, strict=True):
                        _pieces(field, (value,))
                except _FAULTS as exc:
                    raise BadLineError(line, exc) from exc
            raise BadLineError(self._held[-1][0], fault) from fault
        self._n_checks += len(rows)
        self._held = []

    def _extend(self, field: str, pieces: dict[str, NDArray[Any]]) -> None:
        known = self._columns[field]
        for name, piece in pieces.items():
            if name not in known:
                _require_few(field, len(known) + 1)
                known[name] = _Column()
                if field in _MAPPINGS:
                    known[name].extend(np.full(self._n_checks, _MAPPINGS[field], dtype=piece.dtype))
            known[name].extend(piece)
        for name in known.keys() - pieces.keys():
            known[name].extend(np.full(len(self._held), _MAPPINGS[field]))


_fields = itemgetter(*CHECK_FIELDS)


def _pieces(field: str, values: Sequence[Any]) -> dict[str, NDArray[Any]]:
    """Values of a field as arrays by name, see `CheckColumns`.

    Raises
    ------
    TypeError, ValueError, OverflowError, AttributeError
        If a value is not what the field holds.
    """
    if field not in _MAPPINGS:
        return {"": _array(field, values)}
    mappings = [{} if value is None and field != "excesses" else value for value in values]
    names = dict.fromkeys(name for mapping in mappings for name in mapping.keys())  # noqa: SIM118  # not of a list
    _require_few(field, len(names))
    return {name: _array(field, [mapping.get(name) for mapping in mappings]) for name in names}


def _array(field: str, values: Sequence[Any]) -> NDArray[Any]:
    if field == "alarms":
        return _texts(field, [" ".join(value) for value in values])
    if field in _TEXTS:
        return _texts(field, ["" if value is None else value for value in values])
    if field in _INTEGERS:
        if not set(map(type, values)) <= {int, NoneType}:
            raise TypeError(f"{field}: expected integers")
        return np.array([-1 if value is None else value for value in values], dtype=np.int64)
    if str in set(map(type, values)):
        values = list(map(number, values))
    if not set(map(type, values)) <= {float, int, NoneType}:
        raise TypeError(f"{field}: expected numbers")
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _require_few(field: str, n_names: int) -> None:
    if n_names > MAX_NAMES:
        raise ValueError(f"{field}: expected at most {MAX_NAMES} names in a log, got more")


def _texts(field: str, values: Sequence[Any]) -> NDArray[np.str_]:
    if not set(map(type, values)) <= {str}:
        raise TypeError(f"{field}: expected a text")
    if max(map(len, values), default=0) > MAX_TEXT:
        values = [value[:MAX_TEXT] for value in values]
    return np.array(values, dtype=np.str_)
