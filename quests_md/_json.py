"""The one dialect of JSON that logs, sentinels and ``--json`` speak: strict, with inf and NaN as texts."""

import json
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

__all__ = ["dumps", "from_mapping", "loads", "number", "plain", "to_mapping"]

Record = TypeVar("Record")

_NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def plain(value: Any) -> Any:
    """The value in types that JSON has: numpy's numbers and arrays, records and tuples become plain ones.

    JSON has no inf and no NaN: they become the texts "inf", "-inf" and "nan".
    """
    kind = type(value)
    if kind is float:
        return value if math.isfinite(value) else str(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return plain(float(value))
    return plain(to_mapping(value)) if is_dataclass(value) else value


def dumps(value: Any) -> str:
    """The value as one line of strict JSON.

    What would steer a terminal that shows the line is escaped, and so are lone surrogates (in the name of a file that
    is not UTF-8), which no file of text can hold.
    """
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is none of its numbers")


_decode = json.JSONDecoder(parse_constant=_refuse).decode


def loads(raw: bytes) -> Any:
    """The value that a piece of strict JSON holds; inf and NaN stay texts.

    Raises ValueError if the piece is not JSON (json.JSONDecodeError), not UTF-8 (UnicodeDecodeError), or holds NaN or
    Infinity; RecursionError if it is nested too deeply.
    """
    return _decode(raw.decode())


def number(value: Any) -> Any:
    """A number as it was before `plain`: the texts "inf", "-inf" and "nan" become numbers, all else is unchanged."""
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def to_mapping(record: Any) -> dict[str, Any]:
    """The fields of a dataclass by name; records among them, in tuples and in mappings, are mappings too."""
    return {f.name: _without_records(getattr(record, f.name)) for f in fields(record)}


def from_mapping(record: Callable[..., Record], mapping: Mapping[str, Any]) -> Record:
    """The dataclass whose fields `to_mapping` or a line of JSON holds; fields with a default may be missing.

    Integers must fit into 64 bits, and a float may be an integer. Fields that the record lacks are left alone.
    Raises KeyError if a field without a default is missing, TypeError, which names the field, if a field does not hold
    what its annotation says.
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(f"expected the fields of a {record.__name__}, got {reprlib.repr(mapping)}")
    values = {}
    for name, (hint, is_needed) in _hints(record).items():
        if name in mapping or is_needed:
            value = mapping[name]
            try:
                values[name] = _decoded(value, hint)
            except TypeError as exc:
                raise TypeError(f"{name}: {exc}") from None
    return record(**values)


@cache
def _hints(record: Any) -> dict[str, tuple[Any, bool]]:
    """The annotation of each field, and whether the field has no default."""
    hints = get_type_hints(record)
    return {f.name: (hints[f.name], f.default is MISSING and f.default_factory is MISSING) for f in fields(record)}


def _decoded(value: Any, hint: Any) -> Any:
    """The value as its annotation says, or TypeError."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):  # X | None is the only one
        return None if value is None else _decoded(value, next(arg for arg in args if arg is not NoneType))
    if hint is float:
        value = number(value)
        if isinstance(value, float) or _is_integer(value):
            return value
    elif hint is int:
        if _is_integer(value):
            return value
    elif origin is Literal:
        if isinstance(value, str) and value in args:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            if args[-1] is Ellipsis:
                if args[0] is int and all(type(item) is int for item in value):
                    value = tuple(value)  # long ones come often
                    if not value or (min(value) >= -(2**63) and max(value) < 2**63):
                        return value
                return tuple(_decoded(item, args[0]) for item in value)
            if len(value) == len(args):
                return tuple(map(_decoded, value, args))
    elif origin is Mapping:
        if isinstance(value, Mapping):
            return {_decoded(key, args[0]): _decoded(item, args[1]) for key, item in value.items()}
    elif isinstance(hint, type) and is_dataclass(hint):
        return from_mapping(hint, value)
    elif isinstance(value, hint):
        return value
    raise TypeError(reprlib.repr(value))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _without_records(value: Any) -> Any:
    if is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return [to_mapping(item) for item in value]
    if type(value) is dict:
        return {key: _without_records(item) for key, item in value.items()}
    return value
