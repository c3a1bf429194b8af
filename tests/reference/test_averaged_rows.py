"""The second scale of a reference: rows averaged over neighbours, kept beside the rows."""

import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.emt import EMT
from references import Given, H, carrying
from references import rattled_cells as copper
from systems import alloys, md_frames

from quests_md import Descriptor, Minimised, Reference
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
    assert "the rows themselves" in repr(loaded)


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
    assert "averaged rows: none, by a descriptor of one's own" in repr(reference)


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
    average_of = {bytes(row): bytes(average) for row, average in zip(whole.rows, whole.averaged_rows, strict=True)}
    sketch, (thin, _) = whole.sketch(10, 0), thinned([whole, first], 12, seed=0)
    for part in (sketch, thin, pickle.loads(pickle.dumps(whole)), whole.with_held_out_scores()):
        assert len(part.averaged_rows) == part.n_environments
        assert all(
            average_of[bytes(row)] == bytes(average) for row, average in zip(part.rows, part.averaged_rows, strict=True)
        )
    assert not pickle.loads(pickle.dumps(whole)).averaged_rows.flags.writeable
