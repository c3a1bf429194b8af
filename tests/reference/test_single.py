"""References of rows in single precision: what they are, how far dH is from that of others, what they mix with."""

import re

import naive
import numpy as np
import pytest
from references import H, naive_delta_entropy, rattled_cells

from quests_md import Descriptor, MismatchError, Monitor, Reference, calibrate


@pytest.fixture(scope="module")
def frames():
    return rattled_cells(150)


@pytest.fixture(scope="module")
def both(frames):
    how = {"bandwidth": H, "groups": "frame"}
    return Reference.from_frames(frames, precision="single", **how), Reference.from_frames(frames, **how)


@pytest.fixture(scope="module")
def path(both, tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "r.safetensors"
    both[0].save(path)
    return path


def test_rows_are_those_of_the_frames_rounded(both):
    single, double = both
    assert single.rows.dtype == np.float32
    np.testing.assert_array_equal(single.rows, double.rows.astype(np.float32))
    assert single.settings == double.settings | {"precision": "single"}
    assert (single.precision, double.precision) == ("single", "double")
    assert "precision" not in double.settings
    assert single.fingerprint != double.fingerprint
    assert single.arrays.frame_group.tolist() == double.arrays.frame_group.tolist()


@pytest.mark.parametrize("amplitude", [0.05, 0.2, 0.5])
def test_every_answer_is_the_float64_one_about_these_rows(both, amplitude):
    """The sum in float64 over the rounded rows, to the bits that are promised, and decisions by it."""
    single, _ = both
    atoms = rattled_cells(1, seed=5, amplitude=amplitude)[0].repeat((2, 2, 1))
    rows = Descriptor()(atoms)
    known = single.rows.astype(np.float64)
    expected = naive.delta_entropy(rows, known, H)
    exact, fast = single.delta_entropy(atoms, float64=True), single.delta_entropy(atoms)
    assert exact == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert fast == pytest.approx(expected, rel=1e-6, abs=1e-4)
    for level in (*exact, np.median(exact) + 1e-7):
        assert single.is_covered(atoms, level).tolist() == (exact <= level).tolist()
    distances = np.linalg.norm(rows[:, None] - known, axis=2)
    assert single.nearest(atoms).distance == pytest.approx(distances.min(axis=1) / H)


@pytest.mark.parametrize("amplitude", [0.05, 0.2, 0.5])
def test_dh_is_near_that_of_unrounded_rows(frames, both, amplitude):
    """Within the largest (r |e| + |e|^2 / 2) / h^2 over rows, with |e| at most 2^-24 of the length of a row."""
    single, double = both
    atoms = rattled_cells(1, seed=6, amplitude=amplitude)[0]
    rows = Descriptor()(atoms)
    e = 2.0**-24 * np.linalg.norm(double.rows, axis=1)
    r = np.linalg.norm(rows[:, None] - double.rows, axis=2)
    bound = ((r * e + e**2 / 2) / H**2).max(axis=1)
    change = np.abs(single.delta_entropy(atoms, float64=True) - naive_delta_entropy(frames, atoms, "any"))
    assert (change <= bound + 1e-9).all()
    assert bound.max() < 1e-3


def test_calibrations_and_checks(both):
    single, double = both
    for statistics in (None, ("dh_max", "dh_mean", "tail_cluster", "frame_entropy")):
        one, other = (calibrate(reference, statistics=statistics, false_alarms=0.05) for reference in both)
        for a, b in zip(one.nulls, other.nulls, strict=True):
            np.testing.assert_allclose(a.scores, b.scores, atol=2e-3)
        atoms = rattled_cells(1, seed=7)[0]
        checks = [Monitor(r, c, log=None).check(atoms) for r, c in ((single, one), (double, other))]
        assert checks[0].alarms == checks[1].alarms
    with pytest.raises(MismatchError):
        one.require(double)


@pytest.mark.parametrize("mmap", [True, False])
def test_files(both, path, tmp_path, mmap):
    single, _ = both
    loaded = Reference.load(path, mmap=mmap)
    Reference.verify(path)
    assert loaded.rows.dtype == np.float32
    assert loaded.fingerprint == single.fingerprint
    atoms = rattled_cells(1, seed=8)[0]
    for float64 in (True, False):
        expected = single.delta_entropy(atoms, float64=float64)
        assert loaded.delta_entropy(atoms, float64=float64).tobytes() == expected.tobytes()
    assert calibrate(loaded).describe() == calibrate(single).describe()
    built = Reference.from_frames(
        rattled_cells(150), bandwidth=H, groups="frame", precision="single", out=tmp_path / "b.safetensors"
    )
    assert built.fingerprint == single.fingerprint
    assert (tmp_path / "b.safetensors").stat().st_size == path.stat().st_size


def test_rows_of_two_precisions_do_not_mix(both):
    single, double = both
    said = "precision: references[0] has 'single', references[1] has 'double'; build both with the same settings"
    with pytest.raises(MismatchError, match=re.escape(said)):
        Reference.merge([single, double])
    assert single.extend(rattled_cells(2, seed=9)).rows.dtype == np.float32
    assert Reference.merge([single, single.extend(rattled_cells(2, seed=9))]).precision == "single"
    with pytest.raises(ValueError, match="precision: expected 'double' or 'single', got 'half'"):
        Reference.from_frames(rattled_cells(2), precision="half")
