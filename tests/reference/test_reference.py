import copy
import pickle

import ase.io
import naive
import numpy as np
import pytest
from references import Given, H, assert_close, carrying
from systems import alloys

from quests_md import Descriptor, Reference
from quests_md.errors import MismatchError


def test_properties(nial):
    n = sum(len(frame) for frame in alloys(6))
    assert nial.n_environments == n
    assert nial.elements == ("Al", "Fe", "Ni")
    assert (nial.bandwidth, nial.match, nial.descriptor) == (H, "element", Descriptor())
    row_settings = {"descriptor": Descriptor().fingerprint, "k": 32, "cutoff": 5.0}
    assert nial.settings == row_settings | {"bandwidth": H, "match": "element"}
    for word in (str(n), "Al, Fe, Ni", "6 frames", str(H), nial.fingerprint):
        assert word in repr(nial)
    assert nial.provenance["versions"]["numpy"] == np.__version__


def test_a_reference_cannot_be_changed_through_what_it_gives_out(cu):
    for array in (cu.rows, cu.numbers, cu.arrays.positions):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    for mapping in (cu.settings, cu.provenance):
        mapping["bandwidth"] = 7
    assert cu.bandwidth == H
    assert "bandwidth" not in cu.provenance


def test_threads_never_change_the_result():
    frames = alloys(5)
    one, two = (Reference.from_frames(frames, bandwidth=H, threads=n) for n in (1, 2))
    assert one.fingerprint == two.fingerprint
    query = alloys(1, seed=8)[0] * (3, 3, 2)
    np.testing.assert_array_equal(one.delta_entropy(query, threads=1), one.delta_entropy(query, threads=2))


def test_the_fingerprint_forgets_where_things_came_from(tmp_path):
    frames = alloys(4)
    (tmp_path / "folder").mkdir()
    names = (tmp_path / "a.traj", tmp_path / "folder" / "b.traj")
    prints = [Reference.from_frames(frames, bandwidth=H).fingerprint]
    for name in names:
        ase.io.write(name, frames)
        reference = Reference.from_frames(name, bandwidth=H)
        prints.append(reference.fingerprint)
        reference.save(name.with_suffix(".ref"))
        prints.append(Reference.load(name.with_suffix(".ref")).fingerprint)
    assert len(set(prints)) == 1


def test_the_fingerprint_tells_different_references_apart():
    frames = alloys(4)
    moved = copy.deepcopy(frames)
    moved[2].positions[1, 0] += 1e-9
    other = copy.deepcopy(frames)
    other[2].numbers[1] = 27
    prints = [
        Reference.from_frames(
            frames_, bandwidth=h, match=match, descriptor=Descriptor(k=k, cutoff=cutoff), **rest
        ).fingerprint
        for frames_, h, match, k, cutoff, rest in [
            (frames, H, "element", 32, 5.0, {}),
            (moved, H, "element", 32, 5.0, {}),
            (other, H, "element", 32, 5.0, {}),
            (frames[:3], H, "element", 32, 5.0, {}),
            (frames, np.nextafter(H, 1), "element", 32, 5.0, {}),
            (frames, H, "any", 32, 5.0, {}),
            (frames, H, "element", 31, 5.0, {}),
            (frames, H, "element", 32, 5.1, {}),
            (frames, H, "element", 32, 5.0, {"groups": [0, 0, 1, 1]}),
        ]
    ]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("match", ["element", "any"])
def test_an_empty_reference_warns_and_knows_nothing(tmp_path, match):
    with pytest.warns(UserWarning, match="holds no environment: every atom will score"):
        empty = Reference.from_frames([], bandwidth=H, match=match)
    assert (empty.n_environments, empty.n_frames, empty.elements) == (0, 0, ())
    empty.save(tmp_path / "empty")
    Reference.verify(tmp_path / "empty")
    atoms = alloys(1)[0]
    for reference in (empty, Reference.load(tmp_path / "empty"), Reference.load(tmp_path / "empty", mmap=True)):
        assert (reference.delta_entropy(atoms) == np.inf).all()
        assert (reference.delta_entropy(Descriptor()(atoms)) == np.inf).all()
        assert not reference.is_covered(atoms, 1e9).any()
        assert not reference.is_known(atoms.numbers).any()
        assert (reference.nearest(atoms).frame == -1).all()
        assert [len(x) for x in reference.held_out_scores()] == [0, 0]
        assert reference.pair_distances() == {}
        assert "no element" in repr(reference)
        grown = reference.extend(alloys(3))
        np.testing.assert_array_equal(grown.rows, Reference.from_frames(alloys(3), bandwidth=H, match=match).rows)


def test_a_descriptor_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    frames = [carrying(rng.normal(size=(3, 5))) for _ in range(4)]
    reference = Reference.from_frames(frames, descriptor=Given(), bandwidth=0.7)
    rows = np.concatenate([atoms.arrays["row"] for atoms in frames])
    new = carrying(rng.normal(size=(2, 5)))
    expected = naive.delta_entropy(new.arrays["row"], rows, 0.7)
    assert_close(reference.delta_entropy(new, float64=True), expected)
    assert reference.settings == {"descriptor": "given-1", "bandwidth": 0.7, "match": "element"}
    path = tmp_path / "given"
    reference.save(path)
    loaded = Reference.load(path, descriptor=Given())
    np.testing.assert_array_equal(loaded.delta_entropy(new), reference.delta_entropy(new))
    assert loaded.extend([new]).n_environments == 14
    with pytest.raises(MismatchError, match=r"descriptor: .*given-1.*given-2"):
        Reference.load(path, descriptor=Given("given-2"))
    with pytest.raises(MismatchError, match=r"descriptor: .*given-1"):
        Reference.load(path, descriptor=Descriptor())
    without = Reference.load(path)
    assert_close(without.delta_entropy(new.arrays["row"], float64=True), expected)
    for use in (without.delta_entropy, without.nearest, without.extend):
        with pytest.raises(ValueError, match=r"given-1.*load\(path, descriptor="):
            use(new)
    assert Reference.merge([without, loaded]).descriptor is loaded.descriptor


def test_an_empty_reference_of_a_descriptor_of_ones_own_can_grow():
    with pytest.warns(UserWarning, match="no environment"):
        empty = Reference.from_frames([], descriptor=Given(), bandwidth=0.7)
    assert empty.extend([carrying(np.zeros((3, 5)))]).rows.shape == (3, 5)


def test_a_pickled_reference_is_the_same_and_read_only(cu):
    scored = cu.with_held_out_scores()
    loaded = pickle.loads(pickle.dumps(scored))
    assert loaded.fingerprint == scored.fingerprint
    for name, array in scored.arrays.present().items():
        copied = getattr(loaded.arrays, name)
        np.testing.assert_array_equal(copied, array)
        assert not copied.flags.writeable
