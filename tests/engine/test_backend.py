import numpy as np

from quests_md._kernels.tiles import HAS_TILES
from quests_md.engine import build_index
from quests_md.engine.backend import JoinedIndex, best_backend
from quests_md.engine.cpu import BlasIndex, TileIndex


def test_tiles_are_chosen_where_there_are_registers_for_them():
    assert best_backend() is (TileIndex if HAS_TILES else BlasIndex)


def test_the_structure_of_the_first_rows_is_kept_while_it_has_most_of_them():
    rows = np.random.default_rng(1).normal(size=(500, 5))
    first = build_index(rows[:200].copy(), 1.0)
    joined = build_index(rows[:300], 1.0, first)
    assert isinstance(joined, JoinedIndex)
    assert joined.first.layout is first.layout
    assert np.shares_memory(joined.first.rows, rows)  # the array from before may go
    again = build_index(rows[:400], 1.0, joined)
    assert again.first.layout is first.layout
    assert len(again.rest.rows) == 200
    for n in (200, 401, 500):
        assert type(build_index(rows[:n], 1.0, joined)) is best_backend()
