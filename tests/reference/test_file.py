import json
import os
import stat

import ase.io
import numpy as np
import pytest
import safetensors.numpy
from references import H
from references import rattled_cells as copper
from safetensors import safe_open
from systems import alloys

import quests_md.reference.file
from quests_md import Descriptor, Reference
from quests_md.errors import FileFormatError, MismatchError
from quests_md.reference.contents import ARRAYS

#: Arrays that a file may lack.
LACKING = ("frame_time", "frame_temperature", "averaged", "score", "score_row")


def raw(path):
    """Header and arrays of a saved reference, read without quests_md."""
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["quests_md"]), safetensors.numpy.load_file(path)


def rewrite(path, change):
    header, arrays = raw(path)
    change(header, arrays)
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    safetensors.numpy.save_file(contiguous, path, metadata={"quests_md": json.dumps(header)})


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
    assert set(arrays) == set(ARRAYS)
    assert header["schema"] == 1
    assert header["fingerprint"] == reference.fingerprint
    assert header["settings"] == reference.settings
    assert header["sources"] == [str(tmp_path / "a.traj"), "memory"]
    n = sum(len(frame) for frame in frames)
    assert all(len(arrays[name]) == n for name, layout in ARRAYS.items() if layout.per == "atoms")
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


@pytest.mark.parametrize("mmap", [False, True])
def test_a_reference_comes_back_bit_for_bit(tmp_path, saved, nial, mmap):
    nial, loaded = nial.with_held_out_scores(), Reference.load(saved, mmap=mmap)
    assert isinstance(loaded.rows, np.memmap) == mmap
    assert isinstance(loaded.averaged_rows, np.memmap) == mmap
    arrays, expected = loaded.arrays.present(), nial.arrays.present()
    assert list(arrays) == list(expected) == list(ARRAYS)
    for name, array in arrays.items():
        assert array.dtype == expected[name].dtype
        assert array.tobytes() == expected[name].tobytes()
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


def test_verify_finds_a_flipped_bit_in_any_array_and_changed_settings(saved):
    Reference.verify(saved)
    whole = saved.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    entries = {name: entry for name, entry in json.loads(whole[8 : 8 + length]).items() if name != "__metadata__"}
    assert len(entries) == 20
    for name, entry in entries.items():
        first, last = (8 + length + offset for offset in entry["data_offsets"])
        for place in {first, (first + last) // 2, last - 1}:
            damaged = bytearray(whole)
            damaged[place] ^= 1
            saved.write_bytes(damaged)
            with pytest.raises(FileFormatError, match=rf"\b{name}\b"):
                Reference.verify(saved)
    saved.write_bytes(whole)
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
    [
        *(b"4\nLattice\nCu 0 0 0\n", b"\x00" * 64, b"\xff" * 64, bytes(range(256)), (2).to_bytes(8, "little") + b"{}"),
        safetensors.numpy.save({"rows": np.zeros((2, 63))}, metadata={"format": "pt"}),
    ],
)
def test_another_file_is_not_a_reference(tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    for read in (Reference.load, Reference.verify):
        with pytest.raises(FileFormatError, match=r"other.*not a"):
            read(path)


def test_no_file_or_a_folder(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"Reference\.save"):
            Reference.load(path)


def test_settings_of_another_descriptor_are_refused(saved):
    rewrite(saved, lambda header, arrays: header["settings"].update(k=20))
    with pytest.raises(MismatchError, match=Descriptor(k=20).fingerprint):
        Reference.load(saved)


def test_a_file_may_lack_times_averaged_rows_and_scores_alone(saved, nial):
    rewrite(saved, lambda header, arrays: [arrays.pop(name) for name in LACKING])
    old = Reference.load(saved)
    np.testing.assert_array_equal(old.held_out_scores().dh, nial.held_out_scores().dh)
    assert np.isnan(old.arrays.frame_time).tolist() == [True] * nial.n_frames
    assert np.isnan(old.arrays.frame_temperature).tolist() == [True] * nial.n_frames
    assert old.fingerprint == nial.fingerprint
    whole = saved.read_bytes()
    for name in set(ARRAYS) - set(LACKING):
        saved.write_bytes(whole)
        rewrite(saved, lambda header, arrays, name=name: arrays.pop(name))
        with pytest.raises(FileFormatError, match=f"lacks {name}"):
            Reference.load(saved)


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

    def interrupted(file, arrays, metadata):
        file.write(before[:1000])
        raise error

    monkeypatch.setattr(quests_md.reference.file, "write_tensors", interrupted)
    with pytest.raises(type(error)):
        cu.save(saved)
    assert saved.read_bytes() == before
    assert list(tmp_path.iterdir()) == [saved]
