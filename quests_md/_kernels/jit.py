"""The one way kernels are compiled.

Kernels copy arrays number by number: where one is assigned to a slice, numba compiles the text of an error that names
the shapes, which takes 4 s of the first use.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Floats32", "Integers", "kernel"]

Floats: TypeAlias = NDArray[np.float64]
Floats32: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]

#: What LLVM may do to floating point: everything of `fastmath` but "no NaN" and "no infinity", because a
#: monitor that optimises isfinite() away is worse than none (numba #2919, #6217).
FASTMATH = {"nsz", "arcp", "contract", "reassoc"}

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function, fastmath: Any = FASTMATH) -> Function:
    """Compile a function of arrays to machine code that releases the GIL, cached on disk where one can write.

    Arguments that belong together come in a NamedTuple. Threads are the caller's business (`quests_md._threads`):
    numba's own parallel loops would share, and change, the thread settings of the whole process.
    """
    options: dict[str, Any] = {"nopython": True, "nogil": True, "fastmath": fastmath, "error_model": "numpy"}
    try:
        compiled: Function = numba.jit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to write a cache: read-only installation without a home directory
        compiled = numba.jit(**options)(function)
    return compiled
