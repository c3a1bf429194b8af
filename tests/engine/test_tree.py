"""The layout of the rows: leaves, blocks and panels."""

import numpy as np
import pytest

from quests_md._kernels.tiles import PANEL
from quests_md.engine.tree import BLOCK_ROWS, LEAF_ROWS, SPLIT, build_blocks, build_tree, principal_axes


@pytest.mark.parametrize("n", [1, 31, 32, 33, 64, 65, 97, 1000, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 500])
def test_panels_hold_the_rows_leaf_by_leaf(n):
    rows = np.random.default_rng(n).normal(size=(n, 9)) * np.linspace(3.0, 0.3, 9)
    axes = principal_axes(rows, 1.0)
    tree = build_tree(rows, axes)
    blocks = build_blocks(rows, axes, tree)
    assert sorted(tree.order) == list(range(n))
    sizes = np.diff(tree.leaf_start)
    assert tree.leaf_start[0] == 0
    assert tree.leaf_start[-1] == n
    assert (sizes > 0).all()
    assert (sizes <= LEAF_ROWS).all()
    assert (tree.leaf_start[:-1] % SPLIT == 0).all()
    assert SPLIT % PANEL == 0
    assert (np.diff(blocks.start) <= BLOCK_ROWS).all()
    assert set(blocks.start) <= set(tree.leaf_start)
    flat = blocks.panels.transpose(0, 2, 1).reshape(-1, 9)
    centres = np.repeat(blocks.centres, np.diff(blocks.start), axis=0)
    np.testing.assert_allclose(flat[:n], (rows[tree.order] - centres) @ axes.directions, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(blocks.norms[:n], -0.5 * (flat[:n].astype(float) ** 2).sum(axis=1), rtol=1e-6)
    assert np.isneginf(blocks.norms[n:]).all()
    assert (flat[n:] == 0).all()
