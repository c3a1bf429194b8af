"""Numbers as files have them. Python alone takes 1_83 for 183, which is a label."""

import re

__all__ = ["is_number", "to_float", "to_int"]

_NUMBER = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?)", re.IGNORECASE)


def is_number(word: bytes) -> bool:
    """Whether a word is a number, also with an exponent of Fortran (1.0D-01)."""
    return _NUMBER.fullmatch(word) is not None


def to_float(word: str | bytes) -> float:
    """The number that a word is; ValueError if it is none."""
    _require_no_underscore(word)
    return float(word)


def to_int(word: str | bytes) -> int:
    """The whole number that a word is; ValueError if it is none."""
    _require_no_underscore(word)
    return int(word)


def _require_no_underscore(word: str | bytes) -> None:
    if (b"_" if isinstance(word, bytes) else "_") in word:  # type: ignore[operator]  # both of one kind
        raise ValueError(f"could not convert {word!r:.60} to a number")
