import pytest
from references import H, rattled_cells
from systems import alloys

from quests_md import Reference


@pytest.fixture(scope="session")
def cu():
    return Reference.from_frames(rattled_cells(6), bandwidth=H)


@pytest.fixture(scope="session")
def nial():
    return Reference.from_frames(alloys(6), bandwidth=H)


@pytest.fixture
def saved(tmp_path, nial):
    """A file with held-out scores."""
    path = tmp_path / "ref.safetensors"
    nial.with_held_out_scores().save(path)
    return path
