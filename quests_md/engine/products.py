"""Products of matrices that have the same bits whatever number of threads BLAS may use, without a change of it.

OpenBLAS makes small products with one thread. Larger ones are cut into such pieces, at places where no bit changes.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from quests_md._threads import has_openblas_alone, one_blas_thread

__all__ = ["multiply_panels", "product", "steady_blas"]

#: Multiplications of a product of matrices, and of a matrix and a vector, up to which OpenBLAS uses one thread.
MOST, MOST_VECTOR = 2**18, 9216

#: Rows up to this width are cut: those of principal axes do not depend on threads either.
WIDEST = 95

#: Pieces begin at multiples of so many rows or columns, which OpenBLAS multiplies together: float64, float32.
UNIT, UNIT32 = 8, 48

T = TypeVar("T", np.float32, np.float64)


def steady_blas(width: int) -> AbstractContextManager[None]:
    """Where rows of this width are multiplied: holds BLAS to one thread if their products cannot be cut.

    They cannot where rows are wide (some hundred columns, of several elements) or BLAS is another library.
    """
    return nullcontext() if _is_cut(width) else one_blas_thread


def product(left: NDArray[T], right: NDArray[T]) -> NDArray[T]:
    """The product of (m, width) and (width, n)."""
    (m, width), n = left.shape, right.shape[1]
    if not _is_cut(width) or (min(m, n) > 1 and m * width * n <= MOST):
        return left @ right
    out = np.empty((m, n), left.dtype)
    for rows, columns in _pieces(m, width, n, UNIT if left.dtype == np.float64 else UNIT32):
        out[rows, columns] = left[rows] @ right[:, columns]
    return out


def multiply_panels(queries: NDArray[T], panels: NDArray[T], out: NDArray[T]) -> None:
    """Write products of (m, width) and (p, width, n) to (p, m, n)."""
    width = queries.shape[1]
    pieces = [slice(None)]
    if _is_cut(width):
        pieces = [rows for rows, _ in _pieces(len(queries), width, panels.shape[2], UNIT32)]
    for rows in pieces:
        np.matmul(queries[rows], panels, out=out[:, rows])


def _is_cut(width: int) -> bool:
    return width <= WIDEST and has_openblas_alone()


def _pieces(m: int, width: int, n: int, unit: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the pieces of a product (m, width) times (width, n)."""
    everything = slice(None)
    if min(m, n) == 1:
        most = MOST_VECTOR // width
        for piece in _cut(max(m, n), most, UNIT):
            yield (everything, piece) if m == 1 else (piece, everything)
        return
    most_rows = MOST // (width * n)
    if most_rows >= 2 * unit or n <= width:
        yield from ((piece, everything) for piece in _cut(m, most_rows, unit))
    else:
        yield from ((everything, piece) for piece in _cut(n, MOST // (width * m), unit))


def _cut(n: int, most: int, unit: int) -> Iterator[slice]:
    """Pieces of range(n) of at most so many, but for one unit at least; none is of one, which would be a vector."""
    step, start = max(unit, most // unit * unit), 0
    while start < n:
        stop = min(start + step, n)
        if n - stop == 1:
            stop = n if step == unit else stop - unit
        yield slice(start, stop)
        start = stop
