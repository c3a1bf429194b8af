"""ASE trajectories whose frames are damaged: each is named, and a file of which nothing can be read is an error."""

import pytest
from ase.io.trajectory import Trajectory
from ase.io.ulm import read_header
from references import rattled_cells

from quests_md import FileFormatError, Reference, calibrate, score_trajectory
from quests_md.io import iter_frames


@pytest.fixture
def damaged(tmp_path):
    """A trajectory of five frames, some of which are overwritten with zeros."""

    def make(*frames):
        file = tmp_path / "run.traj"
        with Trajectory(file, "w") as trajectory:
            for atoms in rattled_cells(5):
                trajectory.write(atoms)
        with file.open("rb+") as out:
            offsets = [int(offset) for offset in read_header(out)[-1]]
            for frame in frames:
                out.seek(offsets[frame] + 8)
                out.write(bytes(100))
        return file

    return make


def test_a_damaged_frame_before_whole_ones_is_an_error_that_names_it(damaged):
    for frame in (0, 2, 3):
        with pytest.raises(FileFormatError, match=f"frame {frame}|expected a whole ASE trajectory"):
            list(iter_frames(damaged(frame), incomplete="warn"))
    with pytest.raises(FileFormatError, match="frame 1: the data are torn"):  # the last one is damaged too
        list(iter_frames(damaged(1, 4), incomplete="warn"))


def test_damaged_frames_at_the_end_are_warned_of(damaged):
    with pytest.warns(UserWarning, match="frame 3: the data are torn"):
        assert [frame.index for frame in iter_frames(damaged(3, 4), incomplete="warn")] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:.*complete frames before it")
def test_a_file_of_which_no_frame_can_be_read_is_an_error(damaged, tmp_path):
    reference = Reference.from_frames(rattled_cells(12), groups="frame")
    with pytest.raises(FileFormatError, match=r"run\.traj: "):
        list(score_trajectory(damaged(*range(5)), reference, calibrate(reference)))
    (tmp_path / "torn.xyz").write_text("4\ncomment\nCu 0 0 0\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"torn\.xyz: no frame can be read"):
        list(score_trajectory(tmp_path / "torn.xyz", reference, calibrate(reference)))
