"""Mapped files: loaded without a look at the rows, which are refused when they are used."""

import json
import os
import pickle

import numpy as np
import pytest
from ase.io import write
from references import H, rattled_cells, repeated

from quests_md import Descriptor, FileFormatError, Reference, calibrate
from quests_md.reference.contents import ARRAYS

WIDTH = 63


def place(path, name):
    """The first byte of an array in a file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
    return 8 + length + entry["data_offsets"][0]


def overwrite(path, name, index, value):
    """Another number at one place of an array in a file."""
    number = np.array(value, ARRAYS[name].dtype)
    with path.open("r+b") as file:
        file.seek(place(path, name) + index * number.itemsize)
        file.write(number.tobytes())


@pytest.fixture(scope="module")
def known():
    return Reference.from_frames(rattled_cells(80), bandwidth=H, groups="frame")


@pytest.fixture
def path(known, tmp_path):
    known.save(tmp_path / "r.safetensors")
    return tmp_path / "r.safetensors"


def test_a_mapped_reference_answers_as_the_other(known, path):
    mapped = Reference.load(path, mmap=True)
    for name, array in known.arrays.present().items():
        assert getattr(mapped.arrays, name).tobytes() == array.tobytes()
    frame = rattled_cells(1, seed=9)[0]
    assert mapped.delta_entropy(frame).tobytes() == known.delta_entropy(frame).tobytes()
    assert mapped.nearest(frame).distance.tobytes() == known.nearest(frame).distance.tobytes()
    assert calibrate(mapped).describe() == calibrate(known).describe()
    assert mapped.fingerprint == known.fingerprint


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_no_numbers_are_refused_when_they_are_used(path, value):
    overwrite(path, "rows", 5 * WIDTH + 3, value)
    with pytest.raises(FileFormatError, match=r"rows: expected finite numbers, got .* in entry 5"):
        Reference.load(path)
    frame = rattled_cells(1, seed=9)[0]
    for ask in (
        lambda r: r.is_covered(frame, 0.0),
        lambda r: r.delta_entropy(frame),
        lambda r: calibrate(r, statistics=("dh_max",)),
        lambda r: r.sketch(319, 0),
        lambda r: r.auto_bandwidth(),
    ):
        with pytest.raises(FileFormatError, match=r"rows: expected finite numbers, got .* in entry 5"):
            ask(Reference.load(path, mmap=True))


def test_a_row_that_is_no_number_in_a_float64_sum_is_refused(path):
    overwrite(path, "rows", 0, np.nan)
    frame = rattled_cells(1, seed=9)[0]
    for ask in (lambda r: r.delta_entropy(frame, float64=True), lambda r: r.nearest(frame)):
        with pytest.raises(FileFormatError, match="rows: expected finite numbers"):
            ask(Reference.load(path, mmap=True))


def test_averaged_rows_that_are_no_numbers_are_refused_when_they_are_used(path):
    overwrite(path, "averaged", 7 * WIDTH, np.nan)
    mapped = Reference.load(path, mmap=True)
    assert mapped.averaged_rows_at(np.arange(7)).shape == (7, WIDTH)
    for ask in (lambda: mapped.averaged_rows_at(np.arange(8)), lambda: calibrate(mapped), lambda: mapped.averaged_rows):
        with pytest.raises(FileFormatError, match=r"averaged: expected finite numbers, got .* in entry 7"):
            ask()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    path = tmp_path_factory.mktemp("many") / "r.safetensors"
    few = Reference.from_frames(rattled_cells(500), descriptor=Descriptor(k=1, cutoff=3.0), bandwidth=H, groups="frame")
    repeated(few, 140).save(path)
    return path


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("atom_frame", 270_000, 70_000, "atom_frame: expected numbers below 70000, got 70000 in entry 270000"),
        (
            "atom_frame",
            262_144,
            3,
            "atom_index: expected each atom once, in the order of frames, got 0 in",
        ),
        ("atom_index", 262_143, 0, "atom_index: expected each atom once"),
        ("atom_index", 1, 4, "atom_index: expected atoms of their frame, got 4 in entry 1"),
        ("numbers", 262_143, 30, "numbers: expected rows sorted by element"),
        ("positions", 3 * 270_000, np.nan, "positions: expected finite numbers, got .* in entry 270000"),
    ],
)
def test_other_arrays_are_looked_at_whole_though_they_are_mapped(many, tmp_path, mmap, name, index, value, message):
    """In pieces of 262 144 atoms, whose order goes on from one piece to the next."""
    assert Reference.load(many, mmap=mmap).n_environments == 280_000
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(many.read_bytes())
    overwrite(damaged, name, index, value)
    with pytest.raises(FileFormatError, match=message):
        Reference.load(damaged, mmap=mmap)


def test_a_few_nearest_rows_are_found_without_a_search_structure(many):
    known = Reference.load(many, mmap=True)
    rows = known.rows[[5, 200_000]] + 1e-3
    found = known.nearest(rows)
    assert known.structures == {}
    d2 = ((known.rows[None] - rows[:, None]) ** 2).sum(axis=2)
    assert found.frame.tolist() == known.arrays.atom_frame[d2.argmin(axis=1)].tolist()
    known.nearest(np.repeat(rows, 40, axis=0))
    assert len(known.structures) == 1


@pytest.mark.parametrize("replace_with", ["another", "a smaller one", "nothing"])
def test_a_mapped_reference_is_sent_as_it_was_mapped_whatever_became_of_its_file(path, tmp_path, replace_with):
    """Processes would map the file that has the name now."""
    mapped = Reference.load(path, mmap=True)
    sent_by_place = pickle.dumps(mapped)
    frames = rattled_cells(80 if replace_with == "another" else 3, seed=9, amplitude=0.2)
    other = tmp_path / "other.safetensors"
    Reference.from_frames(frames, bandwidth=H, groups="frame").save(other)
    if replace_with == "nothing":
        path.unlink()
    else:
        os.utime(other, ns=(path.stat().st_mtime_ns + 1,) * 2)
        other.replace(path)
    again = pickle.loads(pickle.dumps(mapped))
    assert again.fingerprint == mapped.fingerprint
    np.testing.assert_array_equal(again.rows, mapped.rows)
    assert len(sent_by_place) < mapped.rows.nbytes / 2
    with pytest.raises((FileFormatError, FileNotFoundError), match=r"r\.safetensors"):
        pickle.loads(sent_by_place)


def test_the_frames_are_not_replaced_by_the_reference_that_is_built_of_them(tmp_path):
    write(tmp_path / "train.xyz", rattled_cells(3))
    before = (tmp_path / "train.xyz").read_bytes()
    for given in (tmp_path / "train.xyz", [str(tmp_path / "train.xyz")]):
        with pytest.raises(ValueError, match="out: expected another file than those of the frames"):
            Reference.from_frames(given, bandwidth=H, out=tmp_path / "train.xyz")
    assert (tmp_path / "train.xyz").read_bytes() == before
