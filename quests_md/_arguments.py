"""Checks of arguments, each in one place: every check returns the value, or raises an error that names the argument."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "check_bandwidth",
    "check_choice",
    "check_folder",
    "check_integer",
    "check_not_negative",
    "check_positive",
    "check_positive_integer",
    "check_rows",
    "check_share",
    "check_step",
    "is_integer",
    "is_number",
    "opened",
]

T = TypeVar("T")

#: 1/Å. The square of a larger bandwidth is no float64 any more.
LARGEST_BANDWIDTH = 1e100


def is_integer(value: object) -> bool:
    """Whether this is an integer of Python or numpy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether this is an integer or a float of Python or numpy; True, False and what no float can hold are none."""
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return False
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def check_step(argument: str, value: Any) -> int:
    """A step of a run, of 64 bits as hosts and logs count; else a TypeError or a ValueError that names the argument."""
    if not is_integer(value):
        raise TypeError(f"{argument}: expected an integer, got {value!r}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{argument}: expected an integer of 64 bits, got {value!r}")
    return int(value)


def check_integer(argument: str, value: Any, least: int) -> int:
    """An integer of at least `least`; ValueError for all else."""
    if not is_integer(value) or value < least:
        raise ValueError(f"{argument}: expected an integer of at least {least}, got {value!r}")
    return int(value)


def check_positive_integer(
    argument: str, value: Any, *, most: float = math.inf, wrong_type: type[Exception] = ValueError
) -> int:
    """An integer from 1 to `most`; ValueError for other integers, `wrong_type` for what is no integer."""
    if not is_integer(value):
        raise wrong_type(f"{argument}: expected a positive integer, got {value!r}")
    if not 1 <= value <= most:
        bound = "" if most == math.inf else f" of at most {most}"
        raise ValueError(f"{argument}: expected a positive integer{bound}, got {value!r}")
    return int(value)


def check_positive(argument: str, value: Any, what: str) -> float:
    """A finite number above 0; `what` says of what, with the unit: "time in ps". ValueError for all else."""
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{argument}: expected a positive {what}, got {value!r}")
    return float(value)


def check_not_negative(argument: str, value: Any, what: str) -> float:
    """A finite number of 0 or more; `what` says of what, with the unit: "time in ps". ValueError for all else."""
    if not is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"{argument}: expected a {what}, 0 or more, got {value!r}")
    return float(value)


def check_share(argument: str, value: Any, what: str = "number between 0 and 1") -> float:
    """A number above 0 and below 1; ValueError for all else."""
    if not is_number(value) or not 0 < value < 1:
        raise ValueError(f"{argument}: expected a {what}, got {value!r}")
    return float(value)


def check_choice(argument: str, value: object, choices: Sequence[T]) -> T:
    """One of the choices; ValueError for all else."""
    for choice in choices:
        if choice == value:
            return choice
    *first, last = map(repr, choices)
    raise ValueError(f"{argument}: expected {', '.join(first)} or {last}, got {value!r}")


def check_folder(argument: str, path: str | os.PathLike[str]) -> Path:
    """The path of a file that will be written; FileNotFoundError already now, if its folder does not exist."""
    file = Path(path)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{argument}: the folder of {path} does not exist; create it")
    return file


def check_bandwidth(bandwidth: float | str) -> float:
    """A positive finite number in 1/Å, which may be given as text; ValueError for all else."""
    try:
        value = float(bandwidth)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"bandwidth: expected a positive number in 1/Å, got {bandwidth!r}") from None
    if not 0 < value <= LARGEST_BANDWIDTH:
        raise ValueError(f"bandwidth: expected a positive finite number in 1/Å, got {bandwidth!r}")
    return value


def check_rows(argument: str, rows: ArrayLike) -> NDArray[np.float64]:
    """Rows of finite numbers as a C-contiguous float64 (n, d) array; ValueError for all else."""
    try:
        array = np.ascontiguousarray(rows, dtype=np.float64)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"{argument}: expected an array of numbers (n, d), got {type(rows).__name__}") from exc
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{argument}: expected an array (n, d), got shape {array.shape}")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise ValueError(f"{argument}: expected finite numbers, got {array[bad]} in row {bad}")
    return array


def opened(argument: str, given: object, kind: type[T], load: Callable[[str | os.PathLike[str]], T], hint: str) -> T:
    """An object of this kind, or what `load` makes of the name of its file; TypeError, with the hint, for all else."""
    if isinstance(given, kind):
        return given
    if isinstance(given, str | os.PathLike):
        return load(given)
    raise TypeError(f"{argument}: expected a {kind.__name__} or the name of its file, got {type(given).__name__}{hint}")
