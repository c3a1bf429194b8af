"""The search structure on any other processor: products are those of BLAS."""

import numpy as np
from numpy.typing import NDArray

from quests_md._kernels.tiles import PANEL

from .cpu_index import CpuIndex

__all__ = ["BlasIndex"]


class BlasIndex(CpuIndex):
    """An `Index` whose products are made by the BLAS library of numpy."""

    def multiply(
        self, queries: NDArray[np.float32], panels: NDArray[np.float32], products: NDArray[np.float32]
    ) -> None:
        """See `CpuIndex.multiply`."""
        out = products.reshape(len(queries), -1, PANEL).transpose(1, 0, 2)
        np.matmul(queries, panels, out=out)
