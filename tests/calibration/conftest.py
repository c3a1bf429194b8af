"""A reference of small copper cells, every frame a group of its own."""

import pytest
from references import H, rattled_cells

from quests_md import Reference


@pytest.fixture(scope="session")
def cu():
    return Reference.from_frames(rattled_cells(24), bandwidth=H, groups="frame")
