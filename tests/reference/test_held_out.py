import naive
import numpy as np
import pytest
from references import H, assert_close
from references import rattled_cells as copper
from systems import alloys

import quests_md.reference.query
from quests_md import Reference
from quests_md.reference import whole_groups


@pytest.mark.parametrize("match", ["element", "any"])
def test_held_out_scores_leave_the_own_group_out(match):
    frames = alloys(9)
    labels = [0, 0, 1, 2, 2, 2, 1, 3, 0]
    reference = Reference.from_frames(frames, bandwidth=H, match=match, groups=labels)
    rows, scores = reference.held_out_scores()
    np.testing.assert_array_equal(rows, np.arange(reference.n_environments))
    groups = np.array(labels)[reference.arrays.atom_frame]
    expected = np.empty(len(rows))
    for z in np.unique(reference.numbers):
        own = slice(None) if match == "any" else reference.numbers == z
        expected[own] = naive.held_out_delta_entropy(reference.rows[own], groups[own], H)
    assert_close(scores, expected)
    others = Reference.from_frames(frames, bandwidth=H, match=match, groups="frame")
    np.testing.assert_array_equal(others.held_out_scores(np.array(labels))[1], scores)
    assert not np.allclose(others.held_out_scores()[1], scores)


def test_an_element_of_one_group_alone_has_no_held_out_score():
    frames = copper(3)
    frames[1].numbers[2] = 79
    reference = Reference.from_frames(frames, bandwidth=H, groups="frame")
    rows, scores = reference.held_out_scores()
    np.testing.assert_array_equal(np.isinf(scores), reference.numbers[rows] == 79)


def test_held_out_scores_take_whole_groups_up_to_a_cap():
    frames = copper(12)
    labels = [0, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8, 8]
    reference = Reference.from_frames(frames, bandwidth=H, groups=labels)
    seen = set()
    for seed in range(8):
        rows, scores = reference.held_out_scores(rng=seed, most_rows=22)
        assert 12 < len(rows) <= 22
        assert (np.diff(rows) > 0).all()
        for group in np.unique(reference.row_groups[rows]):
            assert set(np.flatnonzero(reference.row_groups == group)) <= set(rows)
        expected = naive.held_out_delta_entropy(reference.rows, reference.row_groups, H)
        assert_close(scores, expected[rows])  # against all rows, not only those taken
        np.testing.assert_array_equal(reference.held_out_scores(rng=seed, most_rows=22)[0], rows)
        seen.add(tuple(rows))
    assert len(seen) > 4


def test_scores_are_kept_in_the_file_and_used_again(tmp_path, monkeypatch):
    reference = Reference.from_frames(copper(5), bandwidth=H)
    reference.save(tmp_path / "before")
    rows, scores = reference.held_out_scores()
    reference.with_held_out_scores().save(tmp_path / "after")
    reference.save(tmp_path / "before")  # computed scores do not change the reference
    before, loaded = (Reference.load(tmp_path / name) for name in ("before", "after"))
    assert before.fingerprint == loaded.fingerprint
    assert before.arrays.score is None
    np.testing.assert_array_equal(loaded.arrays.score, scores)

    def computed(*arguments, **keywords):
        raise AssertionError("the scores are computed again")

    monkeypatch.setattr(quests_md.reference.query, "minus_log_sums", computed)
    np.testing.assert_array_equal(loaded.held_out_scores()[0], rows)
    np.testing.assert_array_equal(loaded.held_out_scores()[1], scores)
    for arguments in ({"rng": 1}, {"frame_groups": np.arange(5) % 2}):
        with pytest.raises(AssertionError, match="again"):
            loaded.held_out_scores(**arguments)


def test_whole_groups_are_taken_by_their_size():
    groups, sizes = np.array([4, 4, 7, 9, 9, 2]), np.array([5, 1, 8, 3, 3, 20])
    seen = set()
    for seed in range(20):
        taken = whole_groups(groups, 15, np.random.default_rng(seed), sizes)
        assert all(set(np.flatnonzero(groups == group)) <= set(taken) for group in groups[taken])
        assert sizes[taken].sum() <= 15 or taken.tolist() == [5]
        seen.add(tuple(taken))
    assert {(5,), (2,), (0, 1, 3, 4)} <= seen
    assert whole_groups(groups, 40, np.random.default_rng(0), sizes).tolist() == list(range(6))
