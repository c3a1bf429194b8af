import copy
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import ase.io
import naive
import numpy as np
import pytest
import safetensors.numpy
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.calculators.singlepoint import SinglePointCalculator
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from systems import alloys

import quests_md.reference.file
import quests_md.reference.held_out
from quests_md import Descriptor, Reference
from quests_md.errors import FileFormatError, FrameError, MismatchError

H = 0.05
ATOM_ARRAYS = ("rows", "numbers", "atom_frame", "atom_index", "positions")
FRAME_ARRAYS = ("frame_source", "frame_index", "frame_natoms", "frame_volume", "frame_group", "cells", "pbc")
FRAME_ARRAYS += ("frame_time",)
PAIR_ARRAYS = ("pair_elements", "pair_smallest", "pair_histogram")


def copper(n, seed=0, amplitude=0.08):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(amplitude, rng=rng)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def cu():
    return Reference.from_frames(copper(6), bandwidth=H)


@pytest.fixture(scope="module")
def nial():
    return Reference.from_frames(alloys(6), bandwidth=H)


@pytest.fixture
def saved(tmp_path, nial):
    path = tmp_path / "ref.safetensors"
    nial.with_held_out_scores().save(path)
    return path


def raw(path):
    """Header and arrays of a saved reference, read without quests_md."""
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["quests_md"]), safetensors.numpy.load_file(path)


def rewrite(path, change):
    header, arrays = raw(path)
    change(header, arrays)
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    safetensors.numpy.save_file(contiguous, path, metadata={"quests_md": json.dumps(header)})


def naive_delta_entropy(frames, atoms, match, bandwidth=H):
    describe = Descriptor()
    rows = np.concatenate([describe(frame) for frame in frames])
    numbers = np.concatenate([frame.numbers for frame in frames])
    out = []
    for row, z in zip(describe(atoms), atoms.numbers, strict=True):
        known = rows if match == "any" else rows[numbers == z]
        out.append(naive.delta_entropy([row], known, bandwidth)[0] if len(known) else np.inf)
    return np.array(out)


def assert_close(values, expected):
    np.testing.assert_array_equal(np.isinf(values), np.isinf(expected))
    finite = np.isfinite(expected)
    error = np.abs(np.asarray(values)[finite] - expected[finite])
    assert (error <= 1e-9 * np.maximum(1, np.abs(expected[finite]))).all()


class Given:
    """A descriptor of one's own: rows that the frames carry."""

    def __init__(self, fingerprint="given-1"):
        self.fingerprint = fingerprint

    def __call__(self, atoms):
        return atoms.arrays["row"]


def carrying(rows, numbers=29):
    rows = np.asarray(rows, float)
    atoms = Atoms(np.full(len(rows), numbers), positions=np.arange(len(rows))[:, None] * [2.0, 0, 0])
    atoms.arrays["row"] = rows
    return atoms


def test_frames_come_from_memory_files_globs_and_slices(tmp_path):
    frames = copper(10)
    ase.io.write(tmp_path / "a1.xyz", frames[:4])
    ase.io.write(tmp_path / "a2.xyz", frames[4:8])
    ase.io.write(tmp_path / "b.traj", frames[8:])
    expected = Reference.from_frames(frames, bandwidth=H)
    listed = Reference.from_frames([tmp_path / "a*.xyz", str(tmp_path / "b.traj")], bandwidth=H)
    mixed = Reference.from_frames([frames[0], tmp_path / "a1.xyz@1:", *frames[4:]], bandwidth=H)
    lazy = Reference.from_frames((frame for frame in frames), bandwidth=H)
    for reference in (listed, mixed, lazy):
        assert (reference.n_frames, reference.n_environments) == (10, 40)
        np.testing.assert_allclose(reference.rows, expected.rows, rtol=0, atol=1e-6)  # XYZ has eight digits
    np.testing.assert_array_equal(lazy.rows, expected.rows)
    sliced = Reference.from_frames(f"{tmp_path}/a1.xyz@::2", bandwidth=H)
    assert sliced.arrays.frame_index.tolist() == [0, 2]
    assert sliced.sources == (f"{tmp_path}/a1.xyz",)
    assert listed.sources == tuple(str(tmp_path / name) for name in ("a1.xyz", "a2.xyz", "b.traj"))
    assert listed.arrays.frame_source.tolist() == [0] * 4 + [1] * 4 + [2] * 2
    single = Reference.from_frames(frames[0], bandwidth=H)
    assert single.n_frames == 1


def test_properties(nial):
    n = sum(len(frame) for frame in alloys(6))
    assert nial.n_environments == n
    assert nial.elements == ("Al", "Fe", "Ni")
    assert (nial.bandwidth, nial.match, nial.descriptor) == (H, "element", Descriptor())
    assert nial.settings == {
        "descriptor": Descriptor().fingerprint,
        "k": 32,
        "cutoff": 5.0,
        "bandwidth": H,
        "match": "element",
    }
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


def test_input_frames_stay_as_they_were():
    frames = alloys(3)
    frames[0].positions += 100.0
    frames[1].info["config_type"] = np.array([1, 2])
    frames[2].calc = SinglePointCalculator(frames[2], energy=1.0)
    before = copy.deepcopy(frames)
    reference = Reference.from_frames(frames, bandwidth=H)
    reference.delta_entropy(frames[0])
    reference.nearest(frames[0])
    reference.is_covered(frames[0], 0.0)
    for atoms, old in zip(frames, before, strict=True):
        np.testing.assert_array_equal(atoms.positions, old.positions)
        assert atoms.info.keys() == old.info.keys()
        assert atoms.arrays.keys() == old.arrays.keys()
    assert frames[2].calc.results == {"energy": 1.0}
    frames[0].positions += 1.0
    frames[0].numbers[:] = 1
    again = Reference.from_frames(before, bandwidth=H)
    assert reference.fingerprint == again.fingerprint


def test_threads_never_change_the_result():
    frames = alloys(5)
    one, two = (Reference.from_frames(frames, bandwidth=H, threads=n) for n in (1, 2))
    assert one.fingerprint == two.fingerprint
    query = alloys(1, seed=8)[0] * (3, 3, 2)
    np.testing.assert_array_equal(one.delta_entropy(query, threads=1), one.delta_entropy(query, threads=2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bandwidth": 0.0}, "bandwidth: .*0.0"),
        ({"bandwidth": np.nan}, "bandwidth: .*nan"),
        ({"bandwidth": "wide"}, "bandwidth: .*'wide'"),
        ({"match": "both"}, "match: .*'both'"),
        ({"descriptor": lambda atoms: atoms.positions, "bandwidth": 1.0}, "descriptor: .*fingerprint"),
        ({"descriptor": lambda atoms: atoms.positions}, "bandwidth: expected a number or 'auto'"),
        ({"descriptor": 3, "bandwidth": 1.0}, "descriptor: .*callable"),
    ],
)
def test_bad_arguments_are_refused_before_any_frame_is_read(arguments, message):
    def frames():
        raise AssertionError("a frame was read")
        yield

    with pytest.raises(ValueError, match=message):
        Reference.from_frames(frames(), **arguments)


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


def test_match_matters():
    frames = alloys(4)
    query = alloys(1, seed=3)[0]
    by_element, any_element = (
        Reference.from_frames(frames, bandwidth=H, match=match).delta_entropy(query) for match in ("element", "any")
    )
    assert (any_element <= by_element).all()
    assert np.abs(any_element - by_element).max() > 1e-3


def test_members_have_no_more_than_zero(nial):
    for atoms in alloys(6):
        assert (nial.delta_entropy(atoms, float64=True) <= 1e-9).all()


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


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: shifted(atoms, atoms.cell[0] * 3 - atoms.cell[2]),
        lambda atoms: shifted(atoms, np.array([[1, 0, 0], [0, -2, 0], [0, 0, 0], [5, 5, 5]]) @ atoms.cell.array),
        lambda atoms: shifted(atoms, [0.3, -0.7, 11.0]),
        lambda atoms: rotated(atoms),
        lambda atoms: atoms * (2, 1, 1),
        lambda atoms: make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [0, 0, 1]], order="cell-major"),
        lambda atoms: make_supercell(atoms, [[1, 1, 0], [-1, 1, 0], [0, 0, 2]], order="cell-major"),
    ],
)
def test_wrapping_rotation_and_supercells_change_nothing(cu, change):
    atoms = copper(1, seed=11, amplitude=0.15)[0]
    values, changed = cu.delta_entropy(atoms, float64=True), cu.delta_entropy(change(atoms), float64=True)
    np.testing.assert_allclose(changed, np.tile(values, len(changed) // 4), rtol=1e-9, atol=1e-7)


def test_the_order_of_atoms_changes_nothing(cu):
    atoms = copper(1, seed=11, amplitude=0.15)[0]
    order = [2, 0, 3, 1]
    values = cu.delta_entropy(atoms, float64=True)
    assert len(set(values)) == 4
    np.testing.assert_allclose(cu.delta_entropy(atoms[order], float64=True), values[order], rtol=1e-9, atol=1e-7)


def shifted(atoms, by):
    moved = atoms.copy()
    moved.positions += by
    return moved


def rotated(atoms):
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    return turned


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


@pytest.mark.parametrize("match", ["element", "any"])
def test_the_file_holds_all_arrays_with_the_content_of_the_frames(tmp_path, match):
    first, second = alloys(5), copper(2)
    second[0].pbc = (True, True, False)
    second[1].set_cell(second[1].cell[[1, 0, 2]])  # left-handed
    ase.io.write(tmp_path / "a.traj", first)
    frames = [*first, *second]
    labels = ["x", "y", "x", "x", "z", "y", "z"]
    reference = Reference.from_frames([tmp_path / "a.traj", *second], bandwidth=H, match=match, groups=labels)
    reference = reference.with_held_out_scores()
    reference.save(tmp_path / "ref.safetensors")
    header, arrays = raw(tmp_path / "ref.safetensors")
    assert set(arrays) == {*ATOM_ARRAYS, *FRAME_ARRAYS, *PAIR_ARRAYS, "score", "score_row"}
    assert header["schema"] == 1
    assert header["fingerprint"] == reference.fingerprint
    assert header["settings"] == reference.settings
    assert header["sources"] == [str(tmp_path / "a.traj"), "memory"]
    n = sum(len(frame) for frame in frames)
    assert all(len(arrays[name]) == n for name in ATOM_ARRAYS)
    assert sorted(zip(arrays["atom_frame"].tolist(), arrays["atom_index"].tolist(), strict=True)) == [
        (i, j) for i, frame in enumerate(frames) for j in range(len(frame))
    ]
    describe = Descriptor()
    for i, frame in enumerate(frames):
        here = arrays["atom_frame"] == i
        index = arrays["atom_index"][here]
        np.testing.assert_array_equal(arrays["rows"][here], describe(frame)[index])
        np.testing.assert_array_equal(arrays["numbers"][here], frame.numbers[index])
        np.testing.assert_array_equal(arrays["positions"][here], frame.positions[index].astype(np.float32))
        np.testing.assert_array_equal(arrays["cells"][i], frame.cell.array.astype(np.float32))
        np.testing.assert_array_equal(arrays["pbc"][i], frame.pbc)
        volume = np.linalg.det(frame.cell.array) if frame.pbc.all() else np.nan
        np.testing.assert_allclose(arrays["frame_volume"][i], abs(volume))
    assert arrays["frame_natoms"].tolist() == [len(frame) for frame in frames]
    assert arrays["frame_source"].tolist() == [0] * 5 + [1] * 2
    assert arrays["frame_index"].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert arrays["frame_group"].tolist() == ["xyz".index(label) for label in labels]
    rows, scores = reference.held_out_scores()
    np.testing.assert_array_equal(arrays["score_row"], rows)
    np.testing.assert_array_equal(arrays["score"], scores)


def test_pair_distances_are_those_of_ase():
    frames = [
        *alloys(8, amplitude=0.15),
        *copper(2),
        Atoms("CuH", [[0, 0, 0], [0, 0, 1.5]]),
        Atoms("AuH", [[0] * 3, [6, 0, 0]]),
    ]
    frames[-1] += Atoms("H", [[6, 0, 0.8]])
    reference = Reference.from_frames(frames, bandwidth=H)
    nearest = {}
    for atoms in frames:
        i, j, d = neighbor_list("ijd", atoms, 5.0)
        for a in range(len(atoms)):
            for z in np.unique(atoms.numbers):
                there = d[(i == a) & (atoms.numbers[j] == z)]
                if len(there):
                    pair = tuple(sorted((int(atoms.numbers[a]), int(z))))
                    nearest.setdefault(pair, []).append(there.min())
    found = reference.pair_distances()
    assert set(found) == set(nearest)
    assert (1, 79) not in found
    for pair, distances in nearest.items():
        smallest, median = found[pair]
        assert smallest == pytest.approx(min(distances), abs=1e-9)
        lower_median = np.sort(distances)[(len(distances) - 1) // 2]
        assert abs(median - lower_median) <= 0.005 + 1e-9
    assert len(nearest) >= 8


@pytest.mark.parametrize("mmap", [False, True])
def test_a_reference_comes_back_bit_for_bit(tmp_path, saved, nial, mmap):
    nial, loaded = nial.with_held_out_scores(), Reference.load(saved, mmap=mmap)
    assert isinstance(loaded.rows, np.memmap) == mmap
    for name in (*ATOM_ARRAYS, *FRAME_ARRAYS, *PAIR_ARRAYS, "score", "score_row"):
        assert getattr(loaded.arrays, name).dtype == getattr(nial.arrays, name).dtype
        assert getattr(loaded.arrays, name).tobytes() == getattr(nial.arrays, name).tobytes()
    assert (loaded.settings, loaded.provenance, loaded.sources) == (nial.settings, nial.provenance, nial.sources)
    assert (loaded.fingerprint, loaded.descriptor) == (nial.fingerprint, nial.descriptor)
    assert loaded.pair_distances() == nial.pair_distances()
    atoms = alloys(1, seed=6)[0]
    np.testing.assert_array_equal(loaded.delta_entropy(atoms), nial.delta_entropy(atoms))
    found, expected = loaded.nearest(atoms), nial.nearest(atoms)
    np.testing.assert_array_equal(found.distance, expected.distance)
    assert loaded.describe_nearest(found, 0) == nial.describe_nearest(expected, 0)
    with pytest.raises(ValueError, match="read-only"):
        loaded.rows[0, 0] = 1.0
    loaded.save(tmp_path / "again.safetensors")
    assert raw(tmp_path / "again.safetensors")[0] == raw(saved)[0]
    loaded.save(saved)
    Reference.verify(saved)
    assert Reference.load(saved).fingerprint == nial.fingerprint


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
        prints.append(raw(name.with_suffix(".ref"))[0]["fingerprint"])
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


def test_verify_finds_a_flipped_bit_in_any_array(saved):
    Reference.verify(saved)
    whole = saved.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    entries = {name: entry for name, entry in json.loads(whole[8 : 8 + length]).items() if name != "__metadata__"}
    assert len(entries) == 18
    for name, entry in entries.items():
        first, last = (8 + length + offset for offset in entry["data_offsets"])
        for place in {first, (first + last) // 2, last - 1}:
            damaged = bytearray(whole)
            damaged[place] ^= 1
            saved.write_bytes(damaged)
            with pytest.raises(FileFormatError, match=rf"\b{name}\b"):
                Reference.verify(saved)
    saved.write_bytes(whole)
    Reference.verify(saved)


def test_verify_finds_changed_settings(saved):
    rewrite(saved, lambda header, arrays: header["settings"].update(bandwidth=2 * H))
    with pytest.raises(FileFormatError, match="fingerprint"):
        Reference.verify(saved)


@pytest.mark.parametrize("mmap", [False, True])
def test_a_torn_file_is_refused_at_any_length(saved, mmap):
    whole = saved.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    lengths = {0, 1, 7, 8, 9, 100, header - 1, header, header + 1, len(whole) - 1}
    for length in sorted(lengths | {int(n) for n in np.linspace(0, len(whole) - 1, 40)}):
        saved.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=f"{length} bytes"):
            Reference.load(saved, mmap=mmap)
    saved.write_bytes(whole + b"more")
    with pytest.raises(FileFormatError, match=r"ref\.safetensors"):
        Reference.load(saved, mmap=mmap)


@pytest.mark.parametrize(
    "content",
    [b"4\nLattice\nCu 0 0 0\n", b"\x00" * 64, b"\xff" * 64, bytes(range(256)), (2).to_bytes(8, "little") + b"{}"],
)
def test_another_file_is_not_a_reference(tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    for read in (Reference.load, Reference.verify):
        with pytest.raises(FileFormatError, match=r"other.*not a"):
            read(path)


def test_another_safetensors_file_is_not_a_reference(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"rows": np.zeros((2, 63))}, path, metadata={"format": "pt"})
    with pytest.raises(FileFormatError, match="not a quests_md reference"):
        Reference.load(path)


def test_no_file_or_a_folder(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"Reference\.save"):
            Reference.load(path)


def test_a_newer_schema_is_refused(saved):
    rewrite(saved, lambda header, arrays: header.update(schema=2))
    with pytest.raises(FileFormatError, match=r"schema 2.*up to 1.*update"):
        Reference.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("schema"),
        lambda header: header.update(schema="new"),
        lambda header: header.pop("settings"),
        lambda header: header.pop("fingerprint"),
        lambda header: header.pop("checksums"),
        lambda header: header.update(settings=3),
        lambda header: header.update(sources=3),
        lambda header: header["settings"].pop("bandwidth"),
        lambda header: header["settings"].pop("descriptor"),
        lambda header: header["settings"].update(bandwidth=-1),
        lambda header: header["settings"].update(match="some"),
    ],
)
def test_a_damaged_header_is_refused(saved, change):
    rewrite(saved, lambda header, arrays: change(header))
    with pytest.raises(FileFormatError, match=r"ref\.safetensors"):
        Reference.load(saved)


def test_settings_of_another_descriptor_are_refused(saved):
    rewrite(saved, lambda header, arrays: header["settings"].update(k=20))
    with pytest.raises(MismatchError, match=Descriptor(k=20).fingerprint):
        Reference.load(saved)


@pytest.mark.parametrize("name", sorted({*ATOM_ARRAYS, *FRAME_ARRAYS, *PAIR_ARRAYS} - {"frame_time"}))
def test_a_missing_array_is_named(saved, name):
    rewrite(saved, lambda header, arrays: arrays.pop(name))
    with pytest.raises(FileFormatError, match=f"lacks {name}"):
        Reference.load(saved)


def test_a_file_of_the_first_release_has_no_times(saved, nial):
    rewrite(saved, lambda header, arrays: arrays.pop("frame_time"))
    old = Reference.load(saved)
    assert np.isnan(old.arrays.frame_time).tolist() == [True] * nial.n_frames
    assert old.fingerprint == nial.fingerprint
    np.testing.assert_array_equal(old.delta_entropy(alloys(1)[0]), nial.delta_entropy(alloys(1)[0]))


def test_times_of_frames_are_kept(tmp_path):
    frames = copper(5)
    frames[0].info["time_ps"] = 0.5
    frames[1].info["ps"] = np.float32(1.5)
    frames[2].info |= {"time_ps": "late", "ps": 2}
    frames[3].info["time_ps"] = True
    reference = Reference.from_frames(frames, bandwidth=H)
    expected = [0.5, 1.5, 2.0, np.nan, np.nan]
    np.testing.assert_array_equal(reference.arrays.frame_time, expected)
    reference.save(tmp_path / "times.safetensors")
    np.testing.assert_array_equal(Reference.load(tmp_path / "times.safetensors").arrays.frame_time, expected)
    merged = Reference.merge([reference, Reference.from_frames(copper(1, seed=3), bandwidth=H)])
    np.testing.assert_array_equal(merged.arrays.frame_time, [*expected, np.nan])
    ase.io.write(tmp_path / "times.extxyz", frames[:2])
    read = Reference.from_frames(tmp_path / "times.extxyz", bandwidth=H)
    np.testing.assert_array_equal(read.arrays.frame_time, expected[:2])


@pytest.mark.parametrize("name", ["score", "score_row"])
def test_half_of_the_scores_is_not_enough(saved, name):
    rewrite(saved, lambda header, arrays: arrays.pop(name))
    with pytest.raises(FileFormatError, match="score"):
        Reference.load(saved)


def test_a_reference_without_scores_is_whole(saved, nial):
    rewrite(saved, lambda header, arrays: (arrays.pop("score"), arrays.pop("score_row")))
    np.testing.assert_array_equal(Reference.load(saved).held_out_scores()[1], nial.held_out_scores()[1])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("atom_frame", lambda a: a + 1),
        ("atom_frame", lambda a: a - 1),
        ("atom_index", lambda a: a + 1),
        ("atom_index", lambda a: a - 1),
        ("frame_source", lambda a: a + 1),
        ("frame_source", lambda a: a - 1),
        ("frame_group", lambda a: a - 1),
        ("score_row", lambda a: a + 1),
        ("score_row", lambda a: a - 1),
        ("numbers", lambda a: a[::-1]),
        ("rows", lambda a: a[:-1]),
        ("rows", lambda a: a[:, 0]),
        ("rows", lambda a: a.astype(np.float32)),
        ("numbers", lambda a: a.astype(np.int64)),
        ("positions", lambda a: a[:, :2]),
        ("cells", lambda a: a[:, :2]),
        ("pbc", lambda a: a[:, 0]),
        ("pair_elements", lambda a: a[:, 0]),
        ("pair_histogram", lambda a: a[:, 0]),
        ("frame_natoms", lambda a: a[:-1]),
        ("score", lambda a: a[:-1]),
        ("frame_volume", lambda a: a[:, None]),
    ],
)
@pytest.mark.parametrize("mmap", [False, True])
def test_arrays_that_do_not_fit_are_refused_by_name(saved, name, change, mmap):
    rewrite(saved, lambda header, arrays: arrays.update({name: change(arrays[name])}))
    with pytest.raises(FileFormatError) as info:
        Reference.load(saved, mmap=mmap)
    assert "ref.safetensors" in str(info.value)
    assert name in str(info.value) or name in ("numbers", "frame_natoms", "score")  # their lengths rule the others


def test_saving_into_a_missing_folder_leaves_nothing_behind(tmp_path, cu):
    with pytest.raises(FileNotFoundError, match="create its folder") as info:
        cu.save(tmp_path / "missing" / "ref.safetensors")
    assert info.value.filename == str(tmp_path / "missing" / "ref.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_saved_file_has_the_permissions_that_the_umask_leaves(tmp_path, cu):
    old = os.umask(0o027)
    try:
        cu.save(tmp_path / "ref.safetensors")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "ref.safetensors").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_save_keeps_the_older_file(tmp_path, saved, cu, monkeypatch, error):
    before = saved.read_bytes()

    def interrupted(arrays, path, metadata):
        Path(path).write_bytes(before[:1000])
        raise error

    monkeypatch.setattr(quests_md.reference.file, "save_file", interrupted)
    with pytest.raises(type(error)):
        cu.save(saved)
    assert saved.read_bytes() == before
    assert list(tmp_path.iterdir()) == [saved]


def test_a_process_killed_while_saving_leaves_the_older_file(saved, nial):
    code = textwrap.dedent(
        f"""
        import os, pathlib, signal
        import quests_md.reference.file
        from quests_md import Reference

        def killed(arrays, path, metadata):
            pathlib.Path(path).write_bytes(b"half of it")
            os.kill(os.getpid(), signal.SIGKILL)

        reference = Reference.load({str(saved)!r})
        quests_md.reference.file.save_file = killed
        reference.save({str(saved)!r})
        """
    )
    run = subprocess.run([sys.executable, "-c", code])
    assert run.returncode == -signal.SIGKILL
    Reference.verify(saved)
    assert Reference.load(saved).fingerprint == nial.fingerprint


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


def test_a_copy_added_lowers_every_value_by_log_two(nial):
    doubled = Reference.merge([nial, nial])
    atoms = alloys(1, seed=4, amplitude=0.2)[0]
    expected = nial.delta_entropy(atoms, float64=True) - np.log(2)
    np.testing.assert_allclose(doubled.delta_entropy(atoms, float64=True), expected, rtol=1e-12, atol=1e-12)


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


def test_merging_nothing_is_refused():
    with pytest.raises(ValueError, match=r"references: .*at least one"):
        Reference.merge([])


def test_isolated_atoms_are_left_out_with_a_warning():
    frames = copper(3)
    lonely = [Atoms("Cu"), Atoms("Cu", cell=[20] * 3, pbc=True), Atoms("Cu2", [[0, 0, 0], [0, 0, 5.1]])]
    with pytest.warns(UserWarning, match=r"left out 3 frame\(s\) of isolated atoms") as record:
        reference = Reference.from_frames([lonely[0], frames[0], *lonely[1:], *frames[1:]], bandwidth=H)
    assert [warning.filename for warning in record] == [__file__]
    expected = Reference.from_frames(frames, bandwidth=H)
    np.testing.assert_array_equal(reference.rows, expected.rows)
    assert reference.arrays.frame_index.tolist() == [1, 4, 5]
    assert reference.provenance["left_out"] == {"isolated atoms": 3}
    evaporated = copper(1)[0] + Atoms("Cu", [[0, 0, 100]])
    evaporated.pbc = False
    assert reference.delta_entropy(evaporated)[-1] > 100


def test_an_isolated_atom_beside_others_is_kept():
    atoms = Atoms("Cu3", [[0, 0, 0], [0, 0, 2.5], [0, 0, 30]])
    assert Reference.from_frames(atoms, bandwidth=H).n_environments == 3


def test_frames_without_atoms_are_left_out_with_a_warning():
    with pytest.warns(UserWarning, match=r"left out 1 frame\(s\) without atoms"):
        reference = Reference.from_frames([Atoms(), *copper(2)], bandwidth=H)
    assert reference.n_frames == 2
    assert reference.provenance["left_out"] == {"no atoms": 1}


def test_frames_that_cannot_be_described_are_named(tmp_path):
    nan, flat, doubled = copper(1)[0], copper(1)[0], copper(1)[0]
    nan.positions[2, 1] = np.nan
    flat.cell[:] = 0
    doubled.positions[3] = doubled.positions[1]
    for bad, message in (
        (nan, "positions: .*atom 2"),
        (flat, "cell: .*zero for a, b, c"),
        (doubled, "atom [13] lies .* remove the doubled atom"),
    ):
        path = tmp_path / "bad.traj"
        ase.io.write(path, [*copper(2), bad])
        with pytest.raises(FrameError, match=rf"bad\.traj, frame 2: {message}"):
            Reference.from_frames(path, bandwidth=H)
        with pytest.raises(FrameError, match=f"memory, frame 1: {message}"):
            Reference.from_frames([copper(1)[0], bad], bandwidth=H)


def test_an_atom_on_the_periodic_image_of_another_is_doubled():
    atoms = bulk("Cu", cubic=True)
    atoms.positions[1] = atoms.positions[0] + atoms.cell[2]
    with pytest.raises(FrameError, match="doubled"):
        Reference.from_frames(atoms, bandwidth=H)


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


def test_one_frame_is_a_reference():
    atoms = copper(1)[0]
    reference = Reference.from_frames(atoms, bandwidth=H)
    assert_close(reference.delta_entropy(atoms, float64=True), naive_delta_entropy([atoms], atoms, "element"))
    rows, scores = reference.held_out_scores()
    assert rows.tolist() == [0, 1, 2, 3]
    assert (scores == np.inf).all()


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


def test_a_reference_of_quests_md_refuses_another_descriptor(saved):
    with pytest.raises(MismatchError, match="descriptor"):
        Reference.load(saved, descriptor=Given())
    assert Reference.load(saved, descriptor=Descriptor()).descriptor == Descriptor()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 5)), "one row for each of 3 atoms, got 2"),
        (np.full((3, 5), np.nan), "finite"),
        (np.zeros(3), r"\(n, d\)"),
        (np.zeros((3, 4)), "expected 5 columns.*got 4"),
    ],
)
def test_bad_rows_of_a_descriptor_of_ones_own_name_the_frame(rows, message):
    bad = carrying(np.zeros((3, 5)))
    descriptor = Given()
    frames = [carrying(np.zeros((3, 5))), bad]
    descriptor.__class__ = type(
        "Odd", (Given,), {"__call__": lambda self, atoms: rows if atoms is bad else atoms.arrays["row"]}
    )
    with pytest.raises(ValueError, match=f"memory, frame 1: descriptor: .*{message}"):
        Reference.from_frames(frames, descriptor=descriptor, bandwidth=0.7)


def test_an_empty_reference_of_a_descriptor_of_ones_own_can_grow():
    with pytest.warns(UserWarning, match="no environment"):
        empty = Reference.from_frames([], descriptor=Given(), bandwidth=0.7)
    assert empty.extend([carrying(np.zeros((3, 5)))]).rows.shape == (3, 5)


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


def test_an_element_of_one_group_alone_has_no_held_out_score():
    frames = copper(3)
    frames[1].numbers[2] = 79
    reference = Reference.from_frames(frames, bandwidth=H, groups="frame")
    rows, scores = reference.held_out_scores()
    np.testing.assert_array_equal(np.isinf(scores), reference.numbers[rows] == 79)


def test_held_out_scores_with_groups_of_ones_own():
    reference = Reference.from_frames(copper(6), bandwidth=H)
    groups = np.array([5, 5, 0, 0, 9, 9])
    rows, scores = reference.held_out_scores(groups)
    expected = naive.held_out_delta_entropy(reference.rows, groups[reference.arrays.atom_frame], H)
    assert_close(scores, expected[rows])
    assert not np.allclose(scores, reference.held_out_scores()[1])


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


def test_one_group_larger_than_the_cap_is_taken_whole():
    rows, _ = Reference.from_frames(copper(4), bandwidth=H, groups="frame").held_out_scores(most_rows=3)
    assert len(rows) == 4


def test_scores_are_kept_in_the_file_and_used_again(tmp_path, monkeypatch):
    reference = Reference.from_frames(copper(5), bandwidth=H)
    reference.save(tmp_path / "before")
    rows, scores = reference.held_out_scores()
    reference.with_held_out_scores().save(tmp_path / "after")
    reference.save(tmp_path / "before")  # computed scores do not change the reference
    assert "score" not in raw(tmp_path / "before")[1]
    assert raw(tmp_path / "before")[0]["fingerprint"] == raw(tmp_path / "after")[0]["fingerprint"]
    np.testing.assert_array_equal(raw(tmp_path / "after")[1]["score"], scores)

    def computed(*arguments, **keywords):
        raise AssertionError("the scores are computed again")

    loaded = Reference.load(tmp_path / "after")
    monkeypatch.setattr(quests_md.reference.held_out, "minus_log_sums", computed)
    np.testing.assert_array_equal(loaded.held_out_scores()[0], rows)
    np.testing.assert_array_equal(loaded.held_out_scores()[1], scores)
    for arguments in ({"rng": 1}, {"frame_groups": np.arange(5) % 2}):
        with pytest.raises(AssertionError, match="again"):
            loaded.held_out_scores(**arguments)


def groups_of(frames, groups):
    reference = Reference.from_frames(frames, bandwidth=H, groups=groups)
    return reference.arrays.frame_group.tolist(), reference.provenance["groups"]


def test_groups_by_frame_file_and_label(tmp_path):
    frames = copper(6)
    for i, atoms in enumerate(frames):
        atoms.info["config_type"] = "abacbb"[i]
        atoms.info["temperature"] = [300, 300, 600, 300, 600, 900][i]
    ase.io.write(tmp_path / "a.xyz", frames[:2])
    ase.io.write(tmp_path / "b.xyz", frames[2:])
    files = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    assert groups_of(files, "frame")[0] == [0, 1, 2, 3, 4, 5]
    assert groups_of(files, "file")[0] == [0, 0, 1, 1, 1, 1]
    assert groups_of(files, "config_type") == ([0, 1, 0, 2, 1, 1], "by 'config_type'")
    assert groups_of(files, "temperature")[0] == [0, 0, 1, 0, 1, 2]
    assert groups_of(files, ["u", 3, "u", (1, 2), 3, 3])[0] == [0, 1, 0, 2, 1, 1]
    assert groups_of(files, np.array([7, 7, 7, 1, 1, 1])) == ([0, 0, 0, 1, 1, 1], "labels given")
    for by in (None, "frame", "file", "config_type"):
        assert all(len(set(part)) == len(part) for part in [list(dict.fromkeys(groups_of(files, by)[0]))])


def test_groups_unasked_are_single_frames_where_correlation_is_unknown():
    groups, rule = groups_of(copper(5), None)
    assert groups == [0, 1, 2, 3, 4]
    assert "correlation in time is unknown" in rule


def test_groups_unasked_are_blocks_where_frames_follow_each_other_slowly():
    rng = np.random.default_rng(0)
    atoms = bulk("Cu", cubic=True) * (2, 2, 1)
    displacement = rng.normal(size=(16, 3)) * 0.08
    frames = []
    for _ in range(120):
        displacement = 0.8 * displacement + 0.6 * 0.08 * rng.normal(size=(16, 3))
        moved = atoms.copy()
        moved.positions += displacement
        frames.append(moved)
    groups, rule = groups_of(frames, None)
    sizes = np.bincount(groups)
    assert (np.diff(groups) >= 0).all()
    # correlation of displacements 0.8^L gives 9 frames; rows are near linear in them
    assert 5 <= sizes.min() <= sizes.max() <= 18
    assert "blocks two correlation times long" in rule
    assert "memory" in rule
    parted = groups_of([*frames[:60], *copper(3), *frames[60:]], None)[0]
    assert not set(parted[:60]) & set(parted[63:])
    assert parted[59] < parted[60] == parted[62] < parted[63]  # one piece of the file, shorter than a block


def test_a_label_splits_segments_of_any_type():
    frames = copper(20)
    for i, atoms in enumerate(frames):
        atoms.info["config_type"] = np.array([1, 2]) if i < 10 else "liquid"
    groups, _ = groups_of(frames, None)
    assert not set(groups[:10]) & set(groups[10:])


def test_labels_stay_with_their_frames_when_others_are_left_out():
    frames = copper(3)
    with pytest.warns(UserWarning, match="left out"):
        groups, _ = groups_of([Atoms("Cu"), frames[0], Atoms(), *frames[1:]], ["x", "a", "y", "a", "b"])
    assert groups == [0, 0, 1]


@pytest.mark.parametrize("n", [0, 1, 4, 6, 50])
def test_the_number_of_labels_must_be_that_of_the_frames(n):
    with pytest.raises(ValueError, match=rf"groups: expected one label .*got {n}\b"):
        Reference.from_frames(copper(5), bandwidth=H, groups=list(range(n)))
    with pytest.raises(ValueError, match=r"groups: expected one label"):
        Reference.from_frames([*copper(4), Atoms("Cu")], bandwidth=H, groups=list(range(n)))


def test_a_key_that_a_frame_lacks_is_named():
    frames = copper(3)
    for atoms in frames[:2]:
        atoms.info["phase"] = "solid"
    with pytest.raises(ValueError, match=r"groups: memory, frame 2 has no 'phase'"):
        Reference.from_frames(frames, bandwidth=H, groups="phase")
