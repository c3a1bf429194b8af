"""The layout of the rows: leaves, blocks and panels."""

import numpy as np
import pytest

from quests_md._kernels.tiles import PANEL
from quests_md.engine.tree import BLOCK_ROWS, LEAF_ROWS, SPLIT, lay_out, principal_axes


@pytest.mark.parametrize("n", [1, 31, 32, 33, 64, 65, 97, 1000, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 500])
def test_panels_hold_the_rows_leaf_by_leaf(n):
    rows = np.random.default_rng(n).normal(size=(n, 9)) * np.linspace(3.0, 0.3, 9)
    axes = principal_axes(rows, 1.0)
    layout = lay_out(rows, axes)
    leaf_start = layout.leaves.leaf_start
    sizes = np.diff(leaf_start)
    assert sorted(layout.order) == list(range(n))
    assert (leaf_start[0], leaf_start[-1]) == (0, n)
    assert ((sizes > 0) & (sizes <= LEAF_ROWS)).all()
    assert (leaf_start[:-1] % SPLIT == 0).all()
    assert SPLIT % PANEL == 0
    assert np.concatenate([block.rows for block in layout.blocks]).tolist() == layout.order.tolist()
    for block in layout.blocks:
        size = len(block.rows)
        assert size <= BLOCK_ROWS
        assert {block.places.start, block.places.start + size} <= set(leaf_start)
        flat = block.panels.transpose(0, 2, 1).reshape(-1, 9)
        expected = (rows[block.rows] - block.centre) @ axes.directions
        np.testing.assert_allclose(flat[:size], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(block.norms[:size], -0.5 * (flat[:size].astype(float) ** 2).sum(axis=1), rtol=1e-6)
        assert np.isneginf(block.norms[size:]).all()
        assert (flat[size:] == 0).all()
