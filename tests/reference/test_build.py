import copy
import math

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.neighborlist import neighbor_list
from references import Given, H, carrying
from references import rattled_cells as copper
from systems import alloys

from quests_md import Reference, calibrate
from quests_md.errors import FileFormatError, FrameError


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


def test_temperatures_of_frames_are_kept(tmp_path):
    frames = copper(6)
    frames[0].info["temperature_K"] = 300
    frames[1].info["T"] = np.float32(450.5)
    frames[2].info |= {"temperature": "hot", "temp": 600.0}
    frames[3].set_momenta(np.ones((len(frames[3]), 3)))
    frames[4].info["T"] = -1.0
    reference = Reference.from_frames(frames, bandwidth=H)
    expected = [300, 450.5, 600, frames[3].get_temperature(), np.nan, np.nan]
    np.testing.assert_array_equal(reference.arrays.frame_temperature, expected)
    reference.save(tmp_path / "hot.safetensors")
    np.testing.assert_array_equal(Reference.load(tmp_path / "hot.safetensors").arrays.frame_temperature, expected)
    merged = Reference.merge([reference, Reference.from_frames(copper(1, seed=3), bandwidth=H)])
    np.testing.assert_array_equal(merged.arrays.frame_temperature, [*expected, np.nan])


def exploded(scale):
    frames = copper(8)
    for i in (2, 5):
        frames[i].positions *= scale
    return frames


def test_frames_that_may_have_exploded_are_told_or_left_out(tmp_path):
    frames = exploded(0.1)
    ase.io.write(tmp_path / "a.traj", frames[2])
    ase.io.write(tmp_path / "b.traj", [*frames[:2], *frames[3:]])
    files = [tmp_path / "a.traj", tmp_path / "b.traj"]
    said = r"2 frames may have exploded, .*skip-bad.*\n  \S*a.traj, frame 0: .*\(Cu-Cu\).*\n  \S*b.traj, frame 4: atoms"
    with pytest.warns(UserWarning, match=said):
        assert Reference.from_frames(files, bandwidth=H).n_frames == 8
    with pytest.warns(UserWarning, match=r"left out 2 bad frames:\n  \S*a.traj, frame 0: .*\n  \S*b.traj, frame 4"):
        without = Reference.from_frames(files, bandwidth=H, skip_bad=True)
    good = Reference.from_frames([f"{files[1]}@:4", f"{files[1]}@5:"], bandwidth=H)
    assert without.fingerprint == good.fingerprint
    assert without.pair_distances() == good.pair_distances()
    assert without.sources == (str(files[1]),)
    assert without.arrays.frame_index.tolist() == good.arrays.frame_index.tolist()
    without.save(tmp_path / "r.safetensors")
    assert Reference.load(tmp_path / "r.safetensors").fingerprint == good.fingerprint


def test_near_pairs_that_are_bonds_are_no_explosions():
    hydride = Atoms("PdH", [[0, 0, 0], [2.02, 0, 0]], cell=np.full((3, 3), 2.02) - 2.02 * np.eye(3), pbc=True)
    molecule = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], cell=[8] * 3, pbc=True)
    dimers = [Atoms("Cu2", [[0, 0, 0], [0, 0, r]], cell=[20] * 3, pbc=True) for r in (1.7, 2.2, 2.5, 3.0, 4.5)]
    assert Reference.from_frames([*copper(4), *[hydride] * 4, molecule, *dimers], bandwidth=H).n_frames == 14
    with pytest.warns(UserWarning, match="1 frame may have exploded"):
        Reference.from_frames([*copper(4), *exploded(0.4)[2:3]], bandwidth=H)


def test_errors_of_one_bad_frame_say_how_to_leave_it_out(tmp_path):
    frames = copper(4)
    frames[2].positions[1] = math.nan
    frames[3].cell[:] = 0
    ase.io.write(tmp_path / "a.traj", frames)
    for wrong in (2, 3):
        with pytest.raises((FrameError, FileFormatError), match=rf"frame {wrong}.*--skip-bad \(skip_bad=True\) leaves"):
            Reference.from_frames(f"{tmp_path}/a.traj@{wrong}:", bandwidth=H)
    (tmp_path / "b.xyz").write_text("1\n\nCu 0 0 0\n1\n\nQ1 0 0 0\n")
    with pytest.raises(FileFormatError, match=r"frame 1, line 6.*--skip-bad"):
        Reference.from_frames(tmp_path / "b.xyz", bandwidth=H)


def test_isolated_and_missing_atoms_are_left_out_with_a_warning():
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
    beside_others = Atoms("Cu3", [[0, 0, 0], [0, 0, 2.5], [0, 0, 30]])
    with pytest.warns(UserWarning, match=r"left out 1 frame\(s\) without atoms"):
        reference = Reference.from_frames([Atoms(), beside_others], bandwidth=H)
    assert reference.n_environments == 3
    assert reference.provenance["left_out"] == {"no atoms": 1}


def test_frames_that_cannot_be_described_are_named(tmp_path):
    nan, flat, doubled, image = (copper(1)[0] for _ in range(4))
    nan.positions[2, 1] = np.nan
    flat.cell[:] = 0
    doubled.positions[3] = doubled.positions[1]
    image.positions[1] = image.positions[0] + image.cell[2]
    for bad, message in (
        (nan, "positions: .*atom 2"),
        (flat, "periodic .* without a cell vector along a, b, c"),
        (doubled, "atom [13] lies .* remove the doubled atom"),
        (image, "atom [01] lies .* remove the doubled atom"),
    ):
        path = tmp_path / "bad.traj"
        ase.io.write(path, [*copper(2), bad])
        in_file = f"{':' if bad is flat else ','} frame 2: {message}"
        with pytest.raises((FrameError, FileFormatError), match=rf"bad\.traj{in_file}"):
            Reference.from_frames(path, bandwidth=H)
        with pytest.raises(FrameError, match=f"memory, frame 1: {message}"):
            Reference.from_frames([copper(1)[0], bad], bandwidth=H)


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


def test_groups_unasked_are_single_frames_where_correlation_is_unknown():
    groups, rule = groups_of(copper(5), None)
    assert groups == [0, 1, 2, 3, 4]
    assert "correlation in time is unknown" in rule


def test_groups_unasked_are_of_each_run_and_not_of_all_frames_together():
    """Independent frames and two trajectories in one set: with one length for all, blocks were those of the runs."""

    def cell(displacement):
        atoms = bulk("Cu", cubic=True) * (2, 2, 1)
        atoms.positions += displacement
        return atoms

    rng = np.random.default_rng(0)
    frames = [cell(rng.normal(0, 0.08, (16, 3))) for _ in range(100)]
    for _ in range(2):
        displacement = rng.normal(0, 0.08, (16, 3))
        for _ in range(60):
            displacement = 0.9 * displacement + math.sqrt(1 - 0.81) * rng.normal(0, 0.08, (16, 3))
            frames.append(cell(displacement))
    for added in (False, True):
        if added:  # in one list, and run by run
            first = Reference.from_frames(frames[:100], bandwidth=H)
            groups = first.extend(frames[100:160]).extend(frames[160:]).arrays.frame_group.tolist()
        else:
            groups, rule = groups_of(frames, None)
            assert "1 frame(s) for 100 of them" in rule
        assert groups[:100] == list(range(100))
        assert len(set(groups[100:160])) in range(3, 13)
        assert len(set(groups[160:])) in range(3, 13)
        assert not set(groups[100:160]) & set(groups[160:])


def test_frames_10_fs_apart_are_one_group():
    frames = copper(6)
    for i, atoms in enumerate(frames):
        atoms.info["time_ps"] = 3.0 * (i // 2) + 0.01 * (i % 2)
    groups, rule = groups_of(frames, None)
    assert groups == [0, 0, 1, 1, 2, 2]
    assert "blocks of frames less than 0.1 ps apart" in rule


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


@pytest.mark.parametrize("label", [lambda i: None if i % 2 else "md", lambda i: f"md_{i}"])
def test_labels_that_tell_nothing_do_not_make_frames_independent(label):
    """A label in every other frame, or another in each, made 160 groups of 160 frames 0.02 ps apart."""
    rng = np.random.default_rng(0)
    displacement, frames = 0.08 * rng.normal(size=(16, 3)), []
    for i in range(80):
        displacement = 0.8 * displacement + 0.6 * 0.08 * rng.normal(size=(16, 3))
        atoms = bulk("Cu", cubic=True) * (2, 2, 1)
        atoms.positions += displacement
        atoms.info["time_ps"] = 0.02 * i
        frames.append(atoms)
    without = groups_of(frames, None)[0]
    assert len(set(without)) < 20
    for i, atoms in enumerate(frames):
        atoms.info |= {} if label(i) is None else {"config_type": label(i)}
    assert groups_of(frames, None)[0] == without


def test_a_label_splits_segments_of_any_type():
    frames = copper(20)
    for i, atoms in enumerate(frames):
        atoms.info["config_type"] = np.array([1, 2]) if i < 10 else "liquid"
    groups, _ = groups_of(frames, None)
    assert not set(groups[:10]) & set(groups[10:])


def test_labels_that_read_alike_are_one_in_any_form():
    labels = [1, "1", 1.0, np.int64(1), np.float32(1), True, "True", np.bool_(True), 1.5, "1.5", (1, "a"), [1.0, "a"]]
    expected = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    frames = copper(12)
    assert groups_of(frames, labels)[0] == expected
    for atoms, label in zip(frames, labels, strict=True):
        atoms.info["g"] = label
    assert groups_of(frames, "g")[0] == expected
    reference = Reference.from_frames(frames, bandwidth=H, groups="frame")
    assert calibrate(reference, groups=labels).origin.frame_groups.tolist() == expected
    assert groups_of(frames[:4], [[1]] * 2 + [[2]] * 2)[0] == [0, 0, 1, 1]
    assert groups_of(frames[:4], np.array([[1, 2], [1, 2], [1, 3], [1, 2]]))[0] == [0, 0, 1, 0]


@pytest.mark.parametrize(
    "label", [None, math.nan, np.nan, {"a": 1}, {1}, b"x", object(), [1, None], np.array([np.nan])]
)
def test_labels_that_are_missing_or_none_are_refused(label):
    frames = copper(3)
    with pytest.raises(ValueError, match="groups: frame 1: expected a label, a text or a number, got"):
        Reference.from_frames(frames, bandwidth=H, groups=["a", label, "b"])
    with pytest.raises(ValueError, match="groups: frame 1: expected a label"):
        calibrate(Reference.from_frames(frames, bandwidth=H, groups="frame"), groups=["a", label, "b"])
    for atoms in frames:
        atoms.info["g"] = "a"
    frames[2].info["g"] = label
    with pytest.raises(ValueError, match=r"groups: memory, frame 2: info\['g'\]: expected a label"):
        Reference.from_frames(frames, bandwidth=H, groups="g")


@pytest.mark.parametrize("groups", [{"a": 1}, {1, 2, 3}, b"abc", 3])
def test_what_has_no_order_is_no_list_of_labels(groups):
    with pytest.raises(ValueError, match="groups: expected a text or one label per frame"):
        Reference.from_frames(copper(3), bandwidth=H, groups=groups)


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
