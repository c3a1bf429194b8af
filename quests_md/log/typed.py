"""Whether a record that was read from a file holds what its annotations say."""

import reprlib
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["require_types"]


def require_types(record: Any) -> None:
    """Raise TypeError if a field of a dataclass does not hold what its annotation says.

    Integers must fit into 64 bits, a float may be an integer, and a Literal any text: later versions may know more.
    """
    for name, hint in _hints(record.__class__).items():
        value = getattr(record, name)
        if not _is_a(value, hint):
            raise TypeError(f"{name}: {reprlib.repr(value)}")


@cache
def _hints(record: Any) -> dict[str, Any]:
    return get_type_hints(record)


def _is_a(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if hint is int:
        return type(value) is int and -(2**63) <= value < 2**63
    if hint is float:
        return type(value) is float or _is_a(value, int)
    if origin in (Union, UnionType):
        return any(_is_a(value, arg) for arg in args)
    if origin is Literal:
        return isinstance(value, str)
    if origin is tuple and args[-1] is not Ellipsis:
        return isinstance(value, tuple) and len(value) == len(args) and all(map(_is_a, value, args))
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_a(item, args[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_is_a(k, args[0]) and _is_a(v, args[1]) for k, v in value.items())
    if hasattr(hint, "__dataclass_fields__"):
        return type(value) is hint and all(
            _is_a(getattr(value, name), of) for name, of in _hints(value.__class__).items()
        )
    return isinstance(value, origin or hint)
