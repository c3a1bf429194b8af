"""Checks of arguments that several public functions share."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["check_bandwidth", "check_rows"]


#: 1/Å. Squares of larger ones are no numbers any more.
LARGEST_BANDWIDTH = 1e100


def check_bandwidth(bandwidth: float | str) -> float:
    """The bandwidth as a float, or a ValueError that says what is wrong with it."""
    try:
        value = float(bandwidth)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"bandwidth: expected a positive number in 1/Å, got {bandwidth!r}") from None
    if not 0 < value <= LARGEST_BANDWIDTH:
        raise ValueError(f"bandwidth: expected a positive finite number in 1/Å, got {bandwidth!r}")
    return value


def check_rows(argument: str, rows: ArrayLike) -> NDArray[np.float64]:
    """Rows as a C-contiguous float64 (n, d) array, or a ValueError that names the argument."""
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
