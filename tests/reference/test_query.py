import ase.io
import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from references import H, assert_close, naive_delta_entropy
from references import rattled_cells as copper
from systems import alloys

from quests_md import Descriptor, Reference
from quests_md.errors import FrameError


@pytest.mark.parametrize("match", ["element", "any"])
@pytest.mark.parametrize("make", [copper, alloys])
@pytest.mark.parametrize("float64", [False, True])
def test_delta_entropy_equals_the_naive_sum(make, match, float64):
    frames = make(6)
    reference = Reference.from_frames(frames, bandwidth=H, match=match)
    for atoms in [frames[3], *make(2, seed=1), *make(2, seed=2, amplitude=0.4)]:
        values = reference.delta_entropy(atoms, float64=float64)
        expected = naive_delta_entropy(frames, atoms, match)
        if float64:
            assert_close(values, expected)
        else:
            assert (np.abs(values - expected) <= 1e-4 + 1e-6 * np.abs(expected)).all()


def test_rows_serve_as_well_as_frames(nial, cu):
    atoms = alloys(1, seed=5)[0]
    rows = nial.descriptor(atoms)
    np.testing.assert_array_equal(nial.delta_entropy(rows, numbers=atoms.numbers), nial.delta_entropy(atoms))
    np.testing.assert_array_equal(nial.delta_entropy(rows.tolist(), numbers=atoms.numbers), nial.delta_entropy(atoms))
    one = copper(1, seed=5)[0]
    np.testing.assert_array_equal(cu.delta_entropy(cu.descriptor(one)), cu.delta_entropy(one))
    blind = Reference.from_frames(alloys(4), bandwidth=H, match="any")
    np.testing.assert_array_equal(blind.delta_entropy(rows), blind.delta_entropy(atoms))


def test_rows_that_cannot_be_compared_are_refused(nial):
    rows = np.zeros((3, 63))
    with pytest.raises(ValueError, match=r"numbers: .*3 elements"):
        nial.delta_entropy(rows)
    with pytest.raises(ValueError, match=r"numbers: .*\(3,\).*\(2,\)"):
        nial.delta_entropy(rows, numbers=[13, 28])
    with pytest.raises(ValueError, match=r"rows: .*63.*62"):
        nial.delta_entropy(rows[:, :62], numbers=[13] * 3)
    with pytest.raises(ValueError, match=r"rows: .*finite"):
        nial.delta_entropy(rows * np.nan, numbers=[13] * 3)
    with pytest.raises(FrameError, match="positions"):
        nial.delta_entropy(Atoms("Al2", [[0, 0, 0], [0, 0, np.inf]]))


def test_no_atoms_no_numbers(cu):
    assert cu.delta_entropy(Atoms()).shape == (0,)
    assert cu.is_covered(Atoms(), 0.0).shape == (0,)
    assert cu.nearest(Atoms()).distance.shape == (0,)


def test_an_unknown_element_scores_infinity(cu, nial):
    atoms = copper(1, seed=4)[0]
    atoms.numbers[1] = 79
    values = cu.delta_entropy(atoms)
    assert np.flatnonzero(np.isinf(values)).tolist() == [1]
    assert values[1] > 0
    assert not cu.is_covered(atoms, 1e300)[1]
    assert cu.is_known(atoms.numbers).tolist() == [True, False, True, True]
    assert nial.is_known([13, 14, 26, 28, 0]).tolist() == [True, False, True, True, False]
    found = cu.nearest(atoms)
    assert (found.distance[1], found.frame[1], found.atom[1]) == (np.inf, -1, -1)
    assert cu.describe_nearest(found, 1) is None


def test_no_element_is_unknown_to_a_reference_that_does_not_look():
    blind = Reference.from_frames(copper(3), bandwidth=H, match="any")
    atoms = copper(1, seed=4)[0]
    gold = atoms.copy()
    gold.numbers[:] = 79
    np.testing.assert_array_equal(blind.delta_entropy(gold), blind.delta_entropy(atoms))
    assert blind.is_known([79, 29]).all()
    assert np.isfinite(blind.nearest(gold).distance).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), amplitude=st.floats(0.02, 0.5), data=st.data())
def test_is_covered_is_the_float64_comparison(cu, seed, amplitude, data):
    atoms = copper(1, seed=seed, amplitude=amplitude)[0]
    values = cu.delta_entropy(atoms, float64=True)
    edges = np.concatenate([values, np.nextafter(values, -np.inf), np.nextafter(values, np.inf), [-np.inf, np.inf, 0]])
    level = data.draw(st.sampled_from(edges.tolist()) | st.floats(-5, 50))
    levels = np.array(data.draw(st.lists(st.sampled_from(edges.tolist()), min_size=4, max_size=4)))
    np.testing.assert_array_equal(cu.is_covered(atoms, level), values <= level)
    np.testing.assert_array_equal(cu.is_covered(atoms, levels), values <= levels)
    np.testing.assert_array_equal(cu.is_covered(cu.descriptor(atoms), levels), values <= levels)


def test_levels_that_make_no_sense_are_refused(cu):
    atoms = copper(1)[0]
    for level in (np.nan, [0.0, np.nan, 0.0, 0.0]):
        with pytest.raises(ValueError, match=r"level: .*NaN"):
            cu.is_covered(atoms, level)
    for level in ([0.0, 0.0], np.zeros((4, 1))):
        with pytest.raises(ValueError, match=r"level: .*\(4,\).*got shape"):
            cu.is_covered(atoms, level)


@pytest.mark.parametrize("match", ["element", "any"])
def test_nearest_is_the_nearest(match):
    frames = alloys(7)
    reference = Reference.from_frames(frames, bandwidth=H, match=match)
    rows = np.concatenate([Descriptor()(frame) for frame in frames])
    numbers = np.concatenate([frame.numbers for frame in frames])
    place = [(i, j) for i, frame in enumerate(frames) for j in range(len(frame))]
    for atoms in (frames[5], *alloys(3, seed=9, amplitude=0.3)):
        found = reference.nearest(atoms)
        for i, row in enumerate(Descriptor()(atoms)):
            distances = np.linalg.norm(rows - row, axis=1)
            if match == "element":
                distances[numbers != atoms.numbers[i]] = np.inf
            best = int(distances.argmin())
            assert (found.frame[i], found.atom[i]) == place[best]
            assert found.distance[i] == pytest.approx(distances[best] / H, abs=1e-9)


def test_the_first_of_equal_environments_is_taken():
    frames = copper(2)
    reference = Reference.from_frames([frames[0], frames[1], frames[1]], bandwidth=H)
    found = reference.nearest(frames[1])
    assert found.frame.tolist() == [1] * 4
    assert found.atom.tolist() == [0, 1, 2, 3]


def test_the_nearest_environment_is_told_by_file_frame_and_atom(tmp_path):
    first, second, third = alloys(4, seed=1), alloys(9, seed=2), alloys(2, seed=3)
    for name, frames in (("one.xyz", first), ("two.xyz", second)):
        ase.io.write(tmp_path / name, frames)
    two = f"{tmp_path}/two.xyz"
    reference = Reference.from_frames([f"{tmp_path}/one.xyz", f"{two}@2::3", *third], bandwidth=H)
    atoms = ase.io.read(two, 5)
    found = reference.nearest(atoms)
    for i in range(len(atoms)):
        told = reference.describe_nearest(found, i)
        assert (told.source, told.frame, told.atom) == (two, 5, i)
        assert told.distance < 1e-6
    told = reference.describe_nearest(reference.nearest(third[1]), 3)
    assert (told.source, told.frame, told.atom) == ("memory", 1, 3)
