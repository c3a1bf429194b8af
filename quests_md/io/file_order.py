"""The order of the files of a pattern: that in which people count."""

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

__all__ = ["doubt_of_order", "in_order"]

# A decimal number begins where no digit and no dot stands before it, or with "0.", and ends before letters: t0.25.xyz
# and x_1.5K, but run.1.2.xyz holds two whole numbers. Minus signs are separators.
_NUMBER = re.compile(r"((?:(?<![\d.])\d+|(?<!\d)0)\.\d+(?=\.?[^\d.]|\.?$)|\d+)")

# Names that a warning lists, of the first files.
_FEW = 4


def in_order(names: Sequence[str]) -> list[str]:
    """Sort names of files by the numbers in them: dump.50 before dump.100, t0.25 before t0.5, run before run.1."""
    return sorted(names, key=_key)


def doubt_of_order(pattern: str, names: Sequence[str]) -> str | None:
    """What to say of names in order that do not tell their order: they differ in more than numbers; None: they do."""
    if len({_NUMBER.sub("#", name) for name in names}) < 2:
        return None
    rest = f", ... {names[-1]}" if len(names) > _FEW else ""
    listed = ", ".join(names[:_FEW]) + rest
    return (
        f"{pattern}: the names of its {len(names)} files differ in more than numbers, so that they do not tell their "
        f"order; the files are taken in this one: {listed}. To change it, name the files one by one"
    )


def _key(name: str) -> list[tuple[bool, list[tuple[Decimal, str]]]]:
    return [_of_part(part) for part in Path(name).parts]


def _of_part(part: str) -> tuple[bool, list[tuple[Decimal, str]]]:
    """Names without a number come first; else texts and numbers are compared in turn."""
    words = _NUMBER.split(part.removesuffix(".bz2"))
    numbered = [(Decimal(word), "") if i % 2 else (Decimal(-1), word) for i, word in enumerate(words)]
    return len(words) > 1, [*numbered, (Decimal(-1), part)]
