"""The search structure where processors have registers for tiles: products are summed without being stored."""

import numpy as np
from numpy.typing import NDArray

from quests_md._kernels.dense import RunningSums, absorb_panels
from quests_md._kernels.tiles import multiply

from .cpu_index import Batch, CpuIndex, NearQueries

__all__ = ["TileIndex"]


class TileIndex(CpuIndex):
    """An `Index` whose products are made in vector registers, and summed there; needs AVX2 or AVX-512."""

    def multiply(
        self, queries: NDArray[np.float32], panels: NDArray[np.float32], products: NDArray[np.float32]
    ) -> None:
        """See `CpuIndex.multiply`."""
        multiply(queries, panels, products)

    def add_block(self, batch: Batch, b: int, near: NearQueries, sums: RunningSums, refused: NDArray[np.bool_]) -> None:
        """See `CpuIndex.add_block`."""
        panels, places = self.blocks.places(b)
        own = groups = None
        if batch.own is not None and batch.groups is not None:
            own, groups = batch.own[near.here], batch.groups[places]
        absorb_panels(
            near.rounded,
            self.blocks.panels[panels],
            self.blocks.norms[places],
            own,
            groups,
            batch.asked(b, near),
            sums,
            refused,
            batch.scratch,
        )
