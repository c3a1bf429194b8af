"""Entropies against scipy, identities and published values."""

import math
from concurrent.futures import ThreadPoolExecutor

import naive
import numpy as np
import pytest
from ase.build import bulk
from references import assert_close

from quests_md import Descriptor, delta_entropy, diversity, entropy, overlap


def assert_naive(rows, reference, h=0.015):
    assert_close(delta_entropy(rows, reference=reference, bandwidth=h), naive.delta_entropy(rows, reference, h))


def gaussian(seed, factor=1.0):
    return np.random.default_rng(seed).multivariate_normal([0, 0], np.eye(2), 100) * factor


@pytest.mark.parametrize(
    ("factor", "h_value", "d_value", "published"),
    [(0.8, 3.663844, 3.837049, 3.66), (1.0, 3.911807, 4.036866, 3.91), (1.2, 4.080892, 4.173071, 4.08)],
)
def test_two_dimensional_example(factor, h_value, d_value, published):
    rows = gaussian(1, factor)
    assert entropy(rows, bandwidth=0.15) == pytest.approx(h_value, abs=1e-6)
    assert diversity(rows, bandwidth=0.15) == pytest.approx(d_value, abs=1e-6)
    assert entropy(rows, bandwidth=0.15) == pytest.approx(published, abs=0.005)


@pytest.mark.parametrize(("h", "value"), [(0.1, 4.261905), (0.15, 3.968042), (0.25, 3.374915), (0.5, 2.274155)])
def test_two_dimensional_example_at_other_bandwidths(h, value):
    assert entropy(gaussian(0), bandwidth=h) == pytest.approx(value, abs=1e-6)


def test_bcc_is_far_outside_an_fcc_reference():
    descriptor = Descriptor()
    fcc, bcc = descriptor(bulk("Cu", "fcc", a=3.58)), descriptor(bulk("Cu", "bcc", a=3.58 / 2 ** (1 / 3)))
    assert delta_entropy(bcc, reference=fcc)[0] == pytest.approx(93, abs=0.5)


def test_the_default_bandwidth_is_0015():
    rows = 0.02 * gaussian(3)
    assert entropy(rows) == entropy(rows, bandwidth=0.015)
    assert diversity(rows) == diversity(rows, bandwidth=0.015)
    assert np.array_equal(delta_entropy(rows, reference=rows), delta_entropy(rows, reference=rows, bandwidth=0.015))
    assert overlap(rows, reference=rows) == overlap(rows, reference=rows, bandwidth=0.015, eps=0.0)


def test_types_of_the_results():
    rows = gaussian(3)
    assert isinstance(entropy(rows), float)
    assert isinstance(diversity(rows), float)
    assert isinstance(overlap(rows, reference=rows), float)
    for some in (rows, rows[:0]):
        values = delta_entropy(some, reference=rows)
        assert (values.shape, values.dtype) == ((len(some),), np.float64)


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_of_the_reference_lower_dh_by_the_log_of_their_number(copies):
    rng = np.random.default_rng(4)
    reference = rng.normal(size=(300, 63)) * 0.02
    rows = np.concatenate([reference[:50], rng.normal(size=(50, 63)) * 0.04])
    once = delta_entropy(rows, reference=reference)
    more = delta_entropy(rows, reference=np.tile(reference, (copies, 1)))
    assert np.all(np.abs(once - more - math.log(copies)) <= 1e-12 * np.maximum(1, np.abs(once)))


@pytest.mark.parametrize("spread", [1e-4, 0.015, 0.1, 10.0])
def test_range_and_order_of_the_entropies(spread):
    rows = np.random.default_rng(5).normal(size=(400, 63)) * spread
    values = delta_entropy(rows, reference=rows)
    log_n = math.log(400)
    assert np.all(values <= 0)
    assert np.all(values >= -log_n - 1e-12)
    h, d = entropy(rows), diversity(rows)
    assert -1e-12 <= h <= log_n + 1e-12
    assert h - 1e-12 <= d <= log_n + 1e-12


@pytest.mark.parametrize("n", [1, 50])
def test_equal_rows_have_no_entropy_and_rows_far_apart_have_all(n):
    rows = np.full((n, 63), 0.3)
    assert entropy(rows) == pytest.approx(0, abs=1e-12)
    assert diversity(rows) == pytest.approx(0, abs=1e-12)
    assert delta_entropy(rows, reference=rows) == pytest.approx(-math.log(n), abs=1e-12)
    rows = np.arange(n)[:, None] * np.ones(3)
    assert entropy(rows) == pytest.approx(math.log(n), abs=1e-12)
    assert diversity(rows) == pytest.approx(math.log(n), abs=1e-12)


def test_more_reference_never_raises_dh():
    rng = np.random.default_rng(6)
    reference, rows = rng.normal(size=(500, 63)) * 0.02, rng.normal(size=(40, 63)) * 0.03
    few, many = delta_entropy(rows, reference=reference[:200]), delta_entropy(rows, reference=reference)
    assert np.all(many <= few + 1e-12 * np.maximum(1, np.abs(few)))


def test_scaling_rows_and_bandwidth_together_changes_nothing():
    rng = np.random.default_rng(7)
    reference, rows = rng.normal(size=(200, 10)), rng.normal(size=(30, 10))
    values = delta_entropy(rows, reference=reference, bandwidth=0.7)
    assert_close(delta_entropy(1000 * rows, reference=1000 * reference, bandwidth=700), values)


def test_overlap_counts_what_lies_below_eps():
    rng = np.random.default_rng(8)
    reference, rows = rng.normal(size=(200, 3)), 2 * rng.normal(size=(150, 3))
    values = delta_entropy(rows, reference=reference, bandwidth=0.4)
    for eps in (-2.0, 0.0, 1e-5, 1.0, 1e9):
        assert overlap(rows, reference=reference, bandwidth=0.4, eps=eps) == pytest.approx(np.mean(values < eps))
        assert overlap(rows, reference=reference, bandwidth=0.4, eps=eps) == naive.overlap(rows, reference, 0.4, eps)


def clouds(rng, width=63, n_rows=40, n_reference=301, h=0.015):
    """Rows at several distances from a cloud of two bandwidths, some of them next to its points."""
    reference = 2 * h * rng.normal(size=(n_reference, width))
    rows = h * rng.normal(size=(n_rows, width)) * rng.choice([0.7, 2.0, 7.0, 70.0], (n_rows, 1))
    rows[: n_rows // 3] = reference[rng.integers(n_reference, size=n_rows // 3)] + h * rng.normal(size=width)
    return rows, reference


@pytest.mark.parametrize("width", [1, 2, 3, 15, 63, 64, 127])
@pytest.mark.parametrize(("n_rows", "n_reference"), [(1, 1), (1, 7), (37, 1), (40, 301), (300, 2049), (2, 5000)])
def test_equal_to_scipy(width, n_rows, n_reference):
    assert_naive(*clouds(np.random.default_rng([width, n_rows]), width, n_rows, n_reference))


@pytest.mark.parametrize("h", [1e-4, 0.015, 0.3, 20.0])
def test_equal_to_scipy_at_other_bandwidths(h):
    rows, reference = clouds(np.random.default_rng(9), h=h)
    assert_naive(rows, reference, h)
    assert entropy(reference, bandwidth=h) == pytest.approx(naive.entropy(reference, h), abs=1e-9)
    assert diversity(reference, bandwidth=h) == pytest.approx(naive.diversity(reference, h), abs=1e-9)


@pytest.mark.parametrize("bandwidths", [0.0, 1.0, 10.0, 38.0, 39.0, 50.0, 100.0, 1e3, 1e4])
def test_equal_to_scipy_at_every_distance(bandwidths):
    # exp underflows in float64 beyond 38.6 bandwidths, in float32 beyond 14
    rng = np.random.default_rng(10)
    h, centre = 0.015, rng.random(63)
    direction = rng.normal(size=(40, 63))
    rows = centre + h * bandwidths * direction / np.linalg.norm(direction, axis=1)[:, None]
    assert_naive(rows, centre + rng.normal(size=(500, 63)) * h * 0.3, h)


def test_one_far_cluster_does_not_hide_another():
    rng = np.random.default_rng(11)
    near, far = rng.random((300, 63)), 40 + rng.random((300, 63))
    rows = np.concatenate([near[:20], far[:20], 20 + rng.random((20, 63))]) + rng.normal(size=(60, 63)) * 0.002
    for parts in ([near, far], [far, near], [*np.stack([near, far], 1)]):
        assert_naive(rows, np.concatenate(parts))


def test_clusters_much_tighter_than_the_bandwidth():
    # differences of nearly equal large numbers: what |x|^2 + |y|^2 - 2xy loses
    rng = np.random.default_rng(12)
    for offset in (0.0, 1.0, 1e3):
        rows, reference = offset + 1e-6 * rng.normal(size=(50, 63)), offset + 1e-6 * rng.normal(size=(400, 63))
        assert_naive(rows, reference)
        assert_naive(rows, reference, 1e-6)


def test_duplicates_and_zero_rows():
    rng = np.random.default_rng(13)
    few, zeros = rng.random((20, 63)) * 0.1, np.zeros((5, 63))
    copies = few[rng.integers(0, 20, 3000)]
    assert_naive(few, copies)
    assert entropy(copies) == pytest.approx(naive.entropy(copies, 0.015), abs=1e-9)
    some, more = (np.concatenate([zeros, rng.random((n, 63))]) for n in (10, 200))
    assert_naive(some, more)
    assert_naive(some, zeros[:1])
    assert_close(delta_entropy(zeros, reference=zeros), np.full(5, -math.log(5)))


@pytest.mark.parametrize("size", [1e3, 1e6, 1e12, 1e25, 1e100])
def test_huge_rows_spoil_nothing(size):
    # coincident atoms give rows like these, in a frame or, worse, in the reference
    rng = np.random.default_rng(15)
    reference, rows = rng.random((300, 63)), rng.random((40, 63))
    rows[:20] = reference[:20] + 0.004 * rng.normal(size=(20, 63))
    monster = size * rng.random((2, 63))
    with_monster = np.concatenate([reference[:100], monster[:1], reference[100:]])
    assert_naive(rows, with_monster)
    for known in (reference, with_monster, monster[:1]):
        assert_naive(np.concatenate([rows, monster]), known)


def test_other_memory_layouts_and_types():
    rng = np.random.default_rng(17)
    reference, rows = rng.random((300, 63)) * 0.1, rng.random((31, 63)) * 0.1
    expected = delta_entropy(rows, reference=reference)
    assert np.array_equal(delta_entropy(np.asfortranarray(rows), reference=np.asfortranarray(reference)), expected)
    wide = np.zeros((62, 126))
    wide[::2, 1::2] = rows
    assert np.array_equal(delta_entropy(wide[::2, 1::2], reference=reference), expected)
    backwards = delta_entropy(rows[::-1], reference=reference[::-1])[::-1]
    np.testing.assert_allclose(backwards, expected, rtol=1e-12, atol=1e-12)
    assert np.array_equal(delta_entropy(rows.tolist(), reference=reference.tolist()), expected)


def test_float32_and_integer_rows_are_taken_at_their_value():
    rng = np.random.default_rng(18)
    reference, rows = rng.random((300, 63), np.float32), rng.random((31, 63), np.float32)
    values = delta_entropy(rows, reference=reference)
    assert values.dtype == np.float64
    assert_close(values, naive.delta_entropy(rows.astype(float), reference.astype(float), 0.015))
    assert_close(delta_entropy(rows, reference=reference.astype(float)), values)
    rows = np.arange(12).reshape(6, 2)
    assert_naive(rows, rows, 2.0)


@pytest.mark.slow
def test_arguments_are_left_as_they_were():
    rng = np.random.default_rng(19)
    rows, reference = rng.random((30, 63)), rng.random((40, 63))
    before = rows.tobytes(), reference.tobytes()
    rows.flags.writeable = reference.flags.writeable = False
    delta_entropy(rows, reference=reference)
    entropy(rows)
    diversity(rows)
    overlap(rows, reference=reference)
    assert (rows.tobytes(), reference.tobytes()) == before


def test_calls_from_many_threads_agree_to_the_bit():
    rng = np.random.default_rng(20)
    reference, rows = rng.random((3000, 63)) * 0.1, rng.random((300, 63)) * 0.1
    alone = delta_entropy(rows, reference=reference)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(delta_entropy, rows, reference=reference) for _ in range(24)]
        results = [job.result() for job in jobs]
    assert all(np.array_equal(result, alone) for result in results)


GOOD = np.ones((6, 5))


def spoilt(value):
    rows = GOOD.copy()
    rows[4, 2] = value
    return rows


@pytest.mark.parametrize("bandwidth", [0, 0.0, -0.015, float("nan"), float("inf")])
def test_wrong_bandwidth_is_named(bandwidth):
    for call in (delta_entropy, overlap, entropy, diversity):
        known = {"reference": GOOD} if call in (delta_entropy, overlap) else {}
        with pytest.raises(ValueError, match="bandwidth"):
            call(GOOD, **known, bandwidth=bandwidth)


@pytest.mark.parametrize("bad", [spoilt(np.nan), spoilt(np.inf), np.ones(5), np.ones(()), np.ones((2, 5, 1))])
def test_rows_that_are_not_finite_or_not_two_dimensional_are_named(bad):
    for function in (delta_entropy, overlap):
        with pytest.raises(ValueError, match="rows"):
            function(bad, reference=GOOD)
        with pytest.raises(ValueError, match="reference"):
            function(GOOD, reference=bad)
    for function in (entropy, diversity):
        with pytest.raises(ValueError, match="rows"):
            function(bad)


def test_empty_arrays_and_unequal_widths_are_named():
    for function in (delta_entropy, overlap):
        with pytest.raises(ValueError, match="reference"):
            function(GOOD, reference=GOOD[:0])
        with pytest.raises(ValueError, match=r"rows: expected 6 columns as in the reference, got 5"):
            function(GOOD, reference=np.ones((3, 6)))
    for function in (entropy, diversity):
        with pytest.raises(ValueError, match="rows"):
            function(GOOD[:0])


def _rows_of(kind):
    rng = np.random.default_rng(3)
    rows = rng.normal(0, 0.02, (10_300, 6))
    if kind == "clusters":
        rows += 40.0 * (np.arange(10_300)[:, None] % 13)
    elif kind == "outliers":
        rows[::700] *= 1e6
    elif kind == "equal":
        rows[:] = rows[0]
    elif kind == "huge":
        rows[5] = 1e200
    return rows


@pytest.mark.parametrize("kind", ["one cloud", "clusters", "outliers", "equal", "huge"])
def test_entropy_and_diversity_of_many_rows_are_those_of_the_float64_sum(kind):
    """Of more than 10 000 rows they come from a search structure."""
    rows = _rows_of(kind)
    dh = delta_entropy(rows, rows)
    found = entropy(rows)
    assert found == pytest.approx(math.log(len(rows)) + dh.mean(), abs=2e-6)
    assert 0 <= found <= math.log(len(rows))
    assert diversity(rows) == pytest.approx(math.log(np.exp(dh).sum()), abs=2e-6)
    assert entropy(rows, threads=2) == entropy(rows, threads=1) == found
