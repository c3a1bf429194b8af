import ase.io
import naive
import numpy as np
import pytest
from references import H
from references import rattled_cells as copper
from systems import alloy, alloys
from systems import copper as crystal

from quests_md import Descriptor, Reference
from quests_md.errors import MismatchError
from quests_md.reference import thinned


@pytest.mark.parametrize("match", ["element", "any"])
def test_extended_and_merged_references_answer_as_if_built_at_once(tmp_path, match):
    frames = [*alloys(3), *copper(2), *alloys(4, seed=1)]
    whole = Reference.from_frames(frames, bandwidth=H, match=match)
    first = Reference.from_frames(frames[:3], bandwidth=H, match=match)
    second, third = (Reference.from_frames(part, bandwidth=H, match=match) for part in (frames[3:5], frames[5:]))
    second.save(tmp_path / "second")
    second = Reference.load(tmp_path / "second", mmap=True)
    rows, prints = first.rows.copy(), [part.fingerprint for part in (first, second, third)]
    for grown in (
        Reference.merge([first, second, third]),
        first.extend(frames[3:]),
        first.extend(frames[3:5]).extend(frames[5:]),
    ):
        assert grown.n_environments == whole.n_environments
        assert grown.n_frames == whole.n_frames
        assert grown.elements == whole.elements
        for atoms in (frames[4], *alloys(2, seed=7, amplitude=0.3), *copper(1, seed=7)):
            np.testing.assert_allclose(grown.delta_entropy(atoms), whole.delta_entropy(atoms), rtol=1e-12, atol=1e-12)
            found, expected = grown.nearest(atoms), whole.nearest(atoms)
            np.testing.assert_array_equal(found.frame, expected.frame)
            np.testing.assert_array_equal(found.atom, expected.atom)
        assert grown.pair_distances() == whole.pair_distances()
        grown.save(tmp_path / "grown")
        Reference.verify(tmp_path / "grown")
    np.testing.assert_array_equal(first.rows, rows)
    assert [part.fingerprint for part in (first, second, third)] == prints
    assert Reference.merge([first, second, third]).provenance["parents"] == prints
    assert first.extend(frames[3:5]).provenance["parents"][0] == prints[0]


def test_groups_and_sources_of_merged_references_stay_what_they_were(tmp_path):
    frames = copper(6)
    ase.io.write(tmp_path / "a.traj", frames[:4])
    ase.io.write(tmp_path / "b.traj", frames[4:])
    a, b = (str(tmp_path / name) for name in ("a.traj", "b.traj"))
    one = Reference.from_frames([a, b], bandwidth=H, groups="file")
    two = Reference.from_frames([b, frames[0]], bandwidth=H, groups="file")
    merged = Reference.merge([one, two])
    assert merged.arrays.frame_group.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0]  # copies share their group
    assert [merged.sources[i] for i in merged.arrays.frame_source] == [a] * 4 + [b] * 4 + ["memory"]
    assert merged.arrays.frame_index.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 0]


def test_scores_of_the_parents_are_not_those_of_the_merged(cu):
    merged = Reference.merge([cu.with_held_out_scores(), cu])
    assert len(merged.held_out_scores()[0]) == merged.n_environments
    rows, scores = merged.held_out_scores()
    np.testing.assert_allclose(scores, naive.held_out_delta_entropy(merged.rows, merged.row_groups, H)[rows], rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"bandwidth": 0.02}, ("bandwidth", "0.05", "0.02")),
        ({"match": "any"}, ("match", "'element'", "'any'")),
        ({"descriptor": Descriptor(k=20)}, ("k:", "32", "20")),
        ({"descriptor": Descriptor(cutoff=6.0)}, ("cutoff:", "5.0", "6.0")),
    ],
)
def test_references_of_different_settings_do_not_merge(cu, arguments, words):
    other = Reference.from_frames(copper(1), **({"bandwidth": H} | arguments))
    with pytest.raises(MismatchError) as info:
        Reference.merge([cu, cu, other])
    for word in (*words, "references[0]", "references[2]"):
        assert word in str(info.value)
    with pytest.raises(ValueError, match=r"references: .*at least one"):
        Reference.merge([])


def test_thinned_references_have_as_many_rows_of_every_element():
    few = Reference.from_frames([alloy(seed=i) for i in range(2)], bandwidth=H, groups="frame")
    many = Reference.from_frames([alloy(3, seed=9 + i) for i in range(3)], bandwidth=H, groups="frame")
    copper_only = Reference.from_frames([crystal(seed=i, rattle=0.05) for i in range(3)], bandwidth=H, groups="frame")

    def counts(references):
        return [[int((reference.numbers == z).sum()) for z in (29, 79)] for reference in references]

    found = thinned([few, many, copper_only], 4096, seed=0)
    assert counts(found) == [[48, 16], [48, 16], [48, 0]]
    again = thinned([few, many, copper_only], 4096, seed=0)
    assert [a.fingerprint for a in found] == [a.fingerprint for a in again]
    assert set(map(bytes, found[1].rows)) <= set(map(bytes, many.rows))
    assert len(np.unique(found[1].row_groups)) == 3
    assert counts(thinned([few, many], 32, seed=0)) == [[24, 8], [24, 8]]
