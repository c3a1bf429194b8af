"""The second scale of a reference: rows averaged over neighbours, kept beside the rows."""

import json
import pickle
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from references import Given, H, carrying
from references import rattled_cells as copper
from systems import alloys, md_frames

from quests_md import Descriptor, Minimised, Reference
from quests_md.errors import FileFormatError, MismatchError
from quests_md.reference import thinned

OLD = Path(__file__).resolve().parents[1] / "data" / "version-0.1.0"


def same(a, b):
    return np.array_equal(a, b) and a.dtype == b.dtype


def expected_averages(reference, frames, descriptor):
    """Averaged rows of the atoms that the rows of a reference belong to, one by one."""
    of_frames = [descriptor(atoms) for atoms in frames]
    places = zip(reference.arrays.atom_frame, reference.arrays.atom_index, strict=True)
    return np.array([of_frames[frame][atom] for frame, atom in places], np.float32)


@pytest.mark.parametrize("match", ["element", "any"])
@pytest.mark.parametrize(
    "descriptor",
    [
        Descriptor(),
        Descriptor(k=8, cutoff=4.0),
        Descriptor(k=4, elements=("Al", "Ni", "Fe")),
        Descriptor(chemistry=True),
        Descriptor(centers=("Ni", "Al")),
        Descriptor(centers=("Ni", "Al"), neighbors=("Ni", "Fe")),
    ],
    ids=["plain", "few", "elements", "chemistry", "centers", "some neighbours"],
)
def test_every_row_has_its_average(descriptor, match):
    frames = alloys(5)
    reference = Reference.from_frames(frames, descriptor=descriptor, bandwidth=H, match=match)
    expected = expected_averages(reference, frames, replace(descriptor, average=12))
    assert same(reference.averaged_rows, expected)
    assert reference.averaged_rows is reference.arrays.averaged
    assert reference.averaged_bandwidth == 0.4 * H
    assert not reference.is_averaged
    with pytest.raises(ValueError, match="read-only"):
        reference.averaged_rows[0, 0] = 1.0
    assert same(reference.rows, expected_rows(reference, frames, descriptor))


def expected_rows(reference, frames, descriptor):
    of_frames = [descriptor(atoms) for atoms in frames]
    places = zip(reference.arrays.atom_frame, reference.arrays.atom_index, strict=True)
    return np.array([of_frames[frame][atom] for frame, atom in places])


@pytest.mark.parametrize("descriptor", [Descriptor(average=12), Descriptor(centers=("Al",), neighbors=("Ni",))])
def test_nothing_is_stored_twice(descriptor, tmp_path):
    reference = Reference.from_frames(alloys(4), descriptor=descriptor)
    assert reference.arrays.averaged is None
    assert reference.averaged_rows is reference.rows
    assert reference.averaged_bandwidth == reference.bandwidth
    reference.save(tmp_path / "r")
    loaded = Reference.load(tmp_path / "r")
    assert loaded.averaged_rows is loaded.rows
    grown = loaded.extend(alloys(2, seed=3))
    assert grown.averaged_rows is grown.rows
    assert loaded.averaged_words == "the rows themselves"
    assert "with averaged rows" in repr(loaded)


def test_the_default_bandwidths():
    reference = Reference.from_frames(copper(2))
    assert (reference.bandwidth, reference.averaged_bandwidth) == (0.015, Descriptor(average=12).bandwidth)
    assert Reference.from_frames(copper(2), descriptor=Descriptor(average=12)).averaged_bandwidth == 0.006
    wider = reference.with_bandwidth(0.02)
    assert wider.averaged_bandwidth == 0.4 * 0.02
    assert same(wider.averaged_rows, reference.averaged_rows)


def test_a_descriptor_of_ones_own_has_none():
    reference = Reference.from_frames([carrying(np.eye(3))], descriptor=Given(), bandwidth=0.7)
    assert reference.averaged_rows is None
    assert reference.averaged_words == "none, by a descriptor of one's own"
    assert "without averaged rows" in repr(reference)


def test_minimised_copies_are_minimised_once_and_averaged():
    made = []

    class Counted(Minimised):
        def minimised(self, atoms):
            made.append(atoms)
            return super().minimised(atoms)

    frames = [atoms.copy() for atoms in md_frames()[:3]]
    inherent = Counted(EMT, "EMT", steps=5)
    reference = Reference.from_frames(frames, descriptor=inherent, bandwidth=H)
    assert len(made) == 3
    averaged = Minimised(EMT, "EMT", descriptor=Descriptor(average=12), steps=5)
    assert same(reference.averaged_rows, expected_averages(reference, frames, averaged))


def test_an_empty_reference_has_a_width():
    with pytest.warns(UserWarning, match="no environment"):
        empty = Reference.from_frames([])
    assert empty.averaged_rows.shape == (0, 63)
    grown = empty.extend(copper(2))
    assert same(grown.averaged_rows, Reference.from_frames(copper(2)).averaged_rows)
    with pytest.warns(UserWarning, match="no environment"):
        empty = Reference.from_frames([], descriptor=Given(), bandwidth=0.7)
    assert empty.averaged_rows is None


def test_the_fingerprint_does_not_cover_them(cu, tmp_path):
    without = Reference.load(OLD / "copper.safetensors")
    cu.save(tmp_path / "cu")
    loaded = Reference.load(tmp_path / "cu")
    assert loaded.fingerprint == cu.fingerprint
    assert without.averaged_rows is None
    rebuilt = Reference.from_frames(copper(6), bandwidth=H)
    assert rebuilt.fingerprint == cu.fingerprint


@pytest.mark.parametrize("match", ["element", "any"])
def test_parts_carry_them(match):
    frames = alloys(6)
    whole = Reference.from_frames(frames, bandwidth=H, match=match)
    first = Reference.from_frames(frames[:3], bandwidth=H, match=match)
    second = Reference.from_frames(frames[3:], bandwidth=H, match=match)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for grown in (Reference.merge([first, second]), first.extend(frames[3:])):
            assert same(grown.averaged_rows, whole.averaged_rows)
    assert_parts_carry_them(whole, first)


def assert_parts_carry_them(whole, other):
    """That whatever is made of a reference has the average that belongs to each row."""
    average_of = {bytes(row): bytes(average) for row, average in zip(whole.rows, whole.averaged_rows, strict=True)}
    sketch, (thin, _) = whole.sketch(10, 0), thinned([whole, other], 12, seed=0)
    for part in (sketch, thin, pickle.loads(pickle.dumps(whole)), whole.with_held_out_scores()):
        assert len(part.averaged_rows) == part.n_environments
        assert all(
            average_of[bytes(row)] == bytes(average) for row, average in zip(part.rows, part.averaged_rows, strict=True)
        )
    assert not pickle.loads(pickle.dumps(whole)).averaged_rows.flags.writeable


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("match", ["element", "any"])
def test_a_file_keeps_them(tmp_path, match, mmap):
    path = tmp_path / "r.safetensors"
    whole = Reference.from_frames(alloys(6), bandwidth=H, match=match)
    whole.save(path)
    Reference.verify(path)
    loaded = Reference.load(path, mmap=mmap)
    assert loaded.has_averaged_rows
    assert same(loaded.averaged_rows, whole.averaged_rows)
    assert isinstance(loaded.averaged_rows, np.memmap) == mmap
    assert loaded.averaged_rows is loaded.averaged_rows or mmap  # read once
    assert loaded.averaged_words == whole.averaged_words == "kept beside the rows, h = 0.02 1/Å"
    assert "with averaged rows" in repr(loaded)
    with pytest.raises(ValueError, match="read-only"):
        loaded.averaged_rows[0, 0] = 1.0
    for fresh in (Reference.load(path, mmap=mmap) for _ in range(2)):
        assert_parts_carry_them(fresh, whole)
    sketch = Reference.load(path, mmap=mmap).sketch(10, 0)  # before anything was asked for
    assert same(sketch.averaged_rows, whole.sketch(10, 0).averaged_rows)
    grown = Reference.load(path, mmap=mmap).extend(alloys(2, seed=4))
    assert same(grown.averaged_rows, whole.extend(alloys(2, seed=4)).averaged_rows)
    Reference.load(path, mmap=mmap).save(path)  # over the file in which they still are
    assert same(Reference.load(path).averaged_rows, whole.averaged_rows)


def saved(tmp_path):
    path = tmp_path / "r.safetensors"
    reference = Reference.from_frames(alloys(4), bandwidth=H)
    reference.save(path)
    return path, reference


def test_they_stay_in_the_file_until_they_are_asked_for(tmp_path, monkeypatch):
    path, reference = saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    loaded, asked = Reference.load(path.name), Reference.load(path.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert same(asked.averaged_rows, reference.averaged_rows)
    path.unlink()
    assert same(asked.averaged_rows, reference.averaged_rows)
    atoms = alloys(1, seed=7)[0]
    for known in (loaded, loaded.sketch(10, 0), loaded.with_bandwidth(0.1)):
        assert known.has_averaged_rows
        known.delta_entropy(atoms)
        for ask in (lambda known=known: known.averaged_rows, lambda known=known: pickle.dumps(known)):
            with pytest.raises(FileNotFoundError, match=r"r\.safetensors: averaged: .*load the reference again"):
                ask()
    with pytest.raises(FileNotFoundError, match="averaged"):
        loaded.save(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def averages_in(path):
    """Where the averaged rows of a file begin and end."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    return [8 + length + n for n in json.loads(whole[8 : 8 + length])["averaged"]["data_offsets"]]


def test_a_file_that_has_changed_since_is_refused(tmp_path):
    path, reference = saved(tmp_path)
    whole = path.read_bytes()
    first, last = averages_in(path)
    before = {name: Reference.load(path) for name in ("flipped", "short", "other")}
    damaged = bytearray(whole)
    damaged[(first + last) // 2 // 4 * 4] ^= 1  # the last digits of a number
    Reference.from_frames(alloys(4, seed=3), bandwidth=H).save(tmp_path / "other")
    for name, content in {
        "flipped": bytes(damaged),
        "short": whole[: last - 4],
        "other": (tmp_path / "other").read_bytes(),
    }.items():
        path.write_bytes(content)
        with pytest.raises(
            FileFormatError, match=r"r\.safetensors: averaged: content differs .*load the reference again"
        ):
            _ = before[name].averaged_rows
    path.write_bytes(damaged)
    loaded = Reference.load(path)
    with pytest.raises(FileFormatError, match="averaged: content differs"):
        _ = loaded.averaged_rows
    with pytest.raises(FileFormatError, match="averaged"):
        Reference.verify(path)
    assert same(Reference.load(path).rows, reference.rows)


def test_they_may_lie_anywhere_in_the_file(tmp_path):
    """Arrays that are not aligned are no error, mapped or not."""
    path, reference = saved(tmp_path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    for pad in range(1, 8):
        path.write_bytes(
            (length + pad).to_bytes(8, "little") + whole[8 : 8 + length] + b" " * pad + whole[8 + length :]
        )
        for mmap in (False, True):
            loaded = Reference.load(path, mmap=mmap)
            assert loaded.averaged_rows.flags.aligned
            assert same(loaded.averaged_rows, reference.averaged_rows)


@pytest.mark.parametrize("name", ["copper", "alloy", "many", "warm"])
def test_an_old_file_lacks_them_and_says_what_to_do(name):
    old = Reference.load(OLD / f"{name}.safetensors")
    assert old.averaged_rows is None
    assert not old.has_averaged_rows
    assert "build it again from its frames" in old.averaged_words
    assert "without averaged rows" in repr(old)
    for part in (old.sketch(3, 0), pickle.loads(pickle.dumps(old)), old.with_bandwidth(0.1)):
        assert part.averaged_rows is None


def test_merged_with_an_old_file_they_are_lost_with_a_warning(tmp_path):
    old = Reference.load(OLD / "copper.safetensors")
    of_old = rf"no averaged rows, since 1 of the 2 references, {old.fingerprint}, .* build these again"
    with pytest.warns(UserWarning, match=of_old) as record:
        grown = old.extend(copper(2))
    assert [warning.filename for warning in record] == [__file__]
    new = Reference.from_frames(copper(2), descriptor=old.descriptor, bandwidth=old.bandwidth, match=old.match)
    assert new.averaged_rows is not None
    with pytest.warns(UserWarning, match=of_old) as record:
        merged = Reference.merge([new, old])
    assert [warning.filename for warning in record] == [__file__]
    for known in (grown, merged):
        assert known.averaged_rows is None
        assert "build it again" in known.averaged_words
        known.save(tmp_path / "r")
        assert Reference.load(tmp_path / "r").averaged_rows is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Reference.merge([old, old]).averaged_rows is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            empty = Reference.from_frames([], descriptor=old.descriptor, bandwidth=old.bandwidth, match=old.match)
        assert Reference.merge([empty, new]).averaged_rows is not None
        assert Reference.merge([old, empty]).averaged_rows is None


@pytest.fixture(scope="module")
def large():
    """Rows enough for thirteen portions."""
    return Reference.from_frames((copper_of_500(i) for i in range(100)), bandwidth=H, groups="frame")


def copper_of_500(seed):
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True) * 5
    atoms.rattle(0.08, seed=seed)
    return atoms


@pytest.mark.parametrize("mmap", [False, True])
def test_some_of_them_are_those_of_all_and_the_others_are_not_kept(large, tmp_path, mmap):
    path, n = tmp_path / "r.safetensors", large.n_environments
    large.save(path)
    loaded = Reference.load(path, mmap=mmap)
    part = np.sort(np.random.default_rng(0).choice(n, n // 2, replace=False))
    halved, of_half = loaded.sketch(n // 2, 0), large.sketch(n // 2, 0)
    rng = np.random.default_rng(1)
    for rows in (np.arange(0), np.array([n - 1, 0, 0]), np.arange(n)[::-97], rng.integers(n, size=3000), np.arange(n)):
        assert same(loaded.averaged_rows_at(rows), large.averaged_rows[rows])
        assert same(large.averaged_rows_at(rows), large.averaged_rows[rows])
        few = rows[rows < halved.n_environments]
        assert same(halved.averaged_rows_at(few), of_half.averaged_rows[few])
    assert same(loaded.averaged_rows, large.averaged_rows)
    assert same(loaded.averaged_rows_at(part), large.averaged_rows[part])


def test_what_is_not_asked_for_takes_no_memory_and_changes_are_noticed_later_too(large, tmp_path):
    path, n = tmp_path / "r.safetensors", large.n_environments
    large.save(path)
    loaded = Reference.load(path)
    tracemalloc.start()
    try:
        some = loaded.averaged_rows_at(np.arange(0, n, 10))
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = n * 63 * 4
    assert kept < 0.12 * size
    assert peak < 0.35 * size  # two portions besides
    damaged = bytearray(path.read_bytes())
    damaged[averages_in(path)[1] - 4] ^= 1
    path.write_bytes(damaged)
    assert same(loaded.averaged_rows_at(np.arange(0, 40, 10)), some[:4])  # from a portion that is as it was
    with pytest.raises(FileFormatError, match="averaged: content differs"):
        loaded.averaged_rows_at(np.array([n - 1]))
    with pytest.raises(FileFormatError, match="averaged: content differs"):
        Reference.load(path).averaged_rows_at(np.array([0]))  # the first time all are looked at
    path.unlink()
    with pytest.raises(FileNotFoundError, match="averaged"):
        loaded.averaged_rows_at(np.array([0]))


def test_some_of_none_are_refused():
    with pytest.raises(MismatchError, match="expected averaged rows, got none, made by an older version"):
        Reference.load(OLD / "copper.safetensors").averaged_rows_at(np.array([0]))
