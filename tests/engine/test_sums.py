"""Entropies against scipy, identities, published values and printed numbers."""

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import naive
import numpy as np
import pytest
from ase.build import bulk
from ase.io import read

from quests_md import Descriptor, delta_entropy, diversity, entropy, overlap

GAP20 = Path(__file__).parents[3] / "shared" / "data" / "gap20"


def close(actual, desired, tolerance=1e-9):
    """Within 1e-9 max(1, |dH|), everywhere finite or everywhere equal."""
    actual, desired = np.asarray(actual), np.asarray(desired)
    assert actual.shape == desired.shape
    assert not np.any(np.isnan(actual))
    finite = np.isfinite(desired)
    assert np.array_equal(actual[~finite], desired[~finite])
    error = np.abs(actual[finite] - desired[finite]) / np.maximum(1, np.abs(desired[finite]))
    assert error.max(initial=0.0) <= tolerance


def gaussian(seed, factor=1.0):
    return np.random.default_rng(seed).multivariate_normal([0, 0], np.eye(2), 100) * factor


def frames(name):
    path = GAP20 / f"{name}.xyz"
    if not path.exists():
        pytest.skip(f"needs {path}: the GAP-20 subsets are not part of the project")
    return read(path, ":")


def described(name):
    return np.concatenate([Descriptor(k=32, cutoff=5.0)(atoms) for atoms in frames(name)])


def described_by_quests(name):
    published = pytest.importorskip("quests.descriptor", reason="the published program is the oracle here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba's remarks on quests' own code
        return published.get_descriptors(frames(name), k=32, cutoff=5.0)


@pytest.fixture(scope="module")
def graphite():
    return described("Graphite")


@pytest.fixture(scope="module")
def layers():
    return described("Graphite_Layer_Sep")


@pytest.fixture(scope="module")
def quests_graphite():
    return described_by_quests("Graphite")


@pytest.fixture(scope="module")
def quests_layers():
    return described_by_quests("Graphite_Layer_Sep")


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


# Three kinds of GAP-20 numbers. "Printed" ones stand in the method notes; they were taken with an arbitrary choice
# at ties (a third of the Layer_Sep rows has one), as the rows of quests are, so those rows must give them nearly.
# "Ruled" ones come from naive.rows and naive.delta_entropy, that is under the rule for ties; positions rounded to
# 1e-8 Å leave ten Layer_Sep rows to the order of the candidates, which moves H by 3e-5 and exp(D) by 0.0015.
# "Published" ones were computed in float32.


def test_gap20_printed_numbers_from_the_rows_of_quests(quests_graphite, quests_layers):
    assert entropy(quests_graphite) == pytest.approx(5.608495, abs=5e-5)
    assert math.exp(diversity(quests_graphite)) == pytest.approx(518.408, abs=5e-3)
    assert entropy(quests_layers) == pytest.approx(1.247480, abs=5e-5)
    assert math.exp(diversity(quests_layers)) == pytest.approx(13.5157, abs=2e-3)
    values = delta_entropy(quests_graphite, reference=quests_layers)
    assert values.min() == pytest.approx(-8.575, abs=1e-3)
    assert values.max() == pytest.approx(147.94, abs=5e-3)
    assert values.mean() == pytest.approx(4.494, abs=1e-3)
    assert overlap(quests_graphite, reference=quests_layers, eps=1.0) == pytest.approx(0.29296, abs=1e-5)
    assert overlap(quests_graphite, reference=quests_layers, eps=1e-5) == pytest.approx(0.2569, abs=5e-5)
    values = delta_entropy(quests_layers, reference=quests_graphite)
    assert values.min() == pytest.approx(-6.258, abs=1e-3)
    assert values.max() == pytest.approx(-4.638, abs=1e-3)


def test_gap20_graphite(graphite):
    assert graphite.shape == (12220, 63)
    h, d = entropy(graphite), diversity(graphite)
    assert h == pytest.approx(5.608083, abs=1e-5)  # ruled
    assert math.exp(d) == pytest.approx(518.3772, abs=1e-3)
    assert h == pytest.approx(5.608495, abs=1e-3)  # printed
    assert math.exp(d) == pytest.approx(518.408, abs=0.1)
    assert h == pytest.approx(5.609408, abs=2e-3)  # published
    assert math.exp(d) == pytest.approx(518.520, abs=0.2)


def test_gap20_graphite_layer_sep(layers):
    assert layers.shape == (7400, 63)
    h, d = entropy(layers), diversity(layers)
    assert h == pytest.approx(1.246761, abs=5e-5)  # ruled
    assert math.exp(d) == pytest.approx(13.4712, abs=3e-3)
    assert h == pytest.approx(1.247480, abs=1e-3)  # printed
    assert math.exp(d) == pytest.approx(13.5157, abs=0.06)
    assert h == pytest.approx(1.251853, abs=6e-3)  # published
    assert math.exp(d) == pytest.approx(13.5692, abs=0.1)


def test_gap20_graphite_given_layer_sep(graphite, layers):
    values = delta_entropy(graphite, reference=layers)
    assert values.min() == pytest.approx(-8.575, abs=1e-3)
    assert values.max() == pytest.approx(147.958, abs=1e-3)  # ruled
    assert values.max() == pytest.approx(147.94, abs=0.03)
    assert values.mean() == pytest.approx(4.49241, abs=1e-4)  # ruled
    assert values.mean() == pytest.approx(4.494, abs=3e-3)
    assert overlap(graphite, reference=layers, eps=1.0) == pytest.approx(0.29288, abs=5e-5)  # ruled
    assert overlap(graphite, reference=layers, eps=1.0) == pytest.approx(0.29296, abs=2e-4)
    assert overlap(graphite, reference=layers, eps=1.0) == pytest.approx(0.29, abs=0.005)  # published
    assert overlap(graphite, reference=layers, eps=1e-5) == pytest.approx(0.2569, abs=1e-4)


def test_gap20_layer_sep_given_graphite(graphite, layers):
    values = delta_entropy(layers, reference=graphite)
    assert values.min() == pytest.approx(-6.258, abs=1e-3)
    assert values.max() == pytest.approx(-4.64265, abs=1e-4)  # ruled
    assert values.max() == pytest.approx(-4.638, abs=0.01)
    assert overlap(layers, reference=graphite) == 1.0


def test_gap20_rows_are_those_of_quests_where_nothing_ties(graphite, quests_graphite):
    start = 0
    for atoms in frames("Graphite")[:4]:
        for i, (d, _, _) in enumerate(naive.neighbours(atoms, 5.0), start):
            if len(d) <= 32 or d[32] - d[31] > naive.TIE:
                assert np.abs(graphite[i] - quests_graphite[i]).max() < 1e-9
        start += len(atoms)
    assert np.abs(graphite - quests_graphite).max() < 0.005


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
    values = delta_entropy(rows, reference=rows)
    assert values.shape == (100,)
    assert values.dtype == np.float64


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


def test_equal_rows_have_no_entropy():
    rows = np.full((50, 63), 0.3)
    assert entropy(rows) == pytest.approx(0, abs=1e-12)
    assert diversity(rows) == pytest.approx(0, abs=1e-12)
    assert delta_entropy(rows, reference=rows) == pytest.approx(-math.log(50), abs=1e-12)


def test_rows_far_apart_have_all_the_entropy():
    rows = np.arange(50.0)[:, None] * np.ones(3)
    assert entropy(rows) == pytest.approx(math.log(50), abs=1e-12)
    assert diversity(rows) == pytest.approx(math.log(50), abs=1e-12)


def test_one_row():
    row = np.full((1, 63), 0.2)
    assert entropy(row) == pytest.approx(0, abs=1e-15)
    assert diversity(row) == pytest.approx(0, abs=1e-15)
    assert delta_entropy(row, reference=row) == pytest.approx(0, abs=1e-15)


def test_more_reference_never_raises_dh():
    rng = np.random.default_rng(6)
    reference, rows = rng.normal(size=(500, 63)) * 0.02, rng.normal(size=(40, 63)) * 0.03
    few, many = delta_entropy(rows, reference=reference[:200]), delta_entropy(rows, reference=reference)
    assert np.all(many <= few + 1e-12 * np.maximum(1, np.abs(few)))


def test_scaling_rows_and_bandwidth_together_changes_nothing():
    rng = np.random.default_rng(7)
    reference, rows = rng.normal(size=(200, 10)), rng.normal(size=(30, 10))
    values = delta_entropy(rows, reference=reference, bandwidth=0.7)
    close(delta_entropy(1000 * rows, reference=1000 * reference, bandwidth=700), values)


def test_overlap_counts_what_lies_below_eps():
    rng = np.random.default_rng(8)
    reference, rows = rng.normal(size=(200, 3)), 2 * rng.normal(size=(150, 3))
    values = delta_entropy(rows, reference=reference, bandwidth=0.4)
    for eps in (-2.0, 0.0, 1e-5, 1.0, 1e9):
        assert overlap(rows, reference=reference, bandwidth=0.4, eps=eps) == pytest.approx(np.mean(values < eps))
        assert overlap(rows, reference=reference, bandwidth=0.4, eps=eps) == naive.overlap(rows, reference, 0.4, eps)


@pytest.mark.parametrize("width", [1, 2, 3, 15, 63, 64, 127])
@pytest.mark.parametrize(("n_rows", "n_reference"), [(1, 1), (1, 7), (37, 1), (40, 301), (300, 2049), (2, 5000)])
def test_equal_to_scipy(width, n_rows, n_reference):
    rng = np.random.default_rng([width, n_rows])
    reference = rng.normal(size=(n_reference, width)) * 0.03
    rows = rng.normal(size=(n_rows, width)) * rng.choice([0.01, 0.03, 0.1, 1.0], (n_rows, 1))
    close(delta_entropy(rows, reference=reference), naive.delta_entropy(rows, reference, 0.015))


@pytest.mark.parametrize("h", [1e-4, 0.015, 0.3, 20.0])
def test_equal_to_scipy_at_other_bandwidths(h):
    rng = np.random.default_rng(9)
    reference, rows = rng.random((800, 63)), rng.random((60, 63))
    rows[:20] = reference[:20] + rng.normal(size=(20, 63)) * h
    close(delta_entropy(rows, reference=reference, bandwidth=h), naive.delta_entropy(rows, reference, h))
    assert entropy(reference, bandwidth=h) == pytest.approx(naive.entropy(reference, h), abs=1e-9)
    assert diversity(reference, bandwidth=h) == pytest.approx(naive.diversity(reference, h), abs=1e-9)


@pytest.mark.parametrize("bandwidths", [0.0, 1.0, 10.0, 38.0, 39.0, 50.0, 100.0, 1e3, 1e4])
def test_equal_to_scipy_at_every_distance(bandwidths):
    # exp underflows in float64 beyond 38.6 bandwidths, in float32 beyond 14
    rng = np.random.default_rng(10)
    h, centre = 0.015, rng.random(63)
    reference = centre + rng.normal(size=(500, 63)) * h * 0.3
    direction = rng.normal(size=(40, 63))
    rows = centre + h * bandwidths * direction / np.linalg.norm(direction, axis=1)[:, None]
    close(delta_entropy(rows, reference=reference, bandwidth=h), naive.delta_entropy(rows, reference, h))


def test_one_far_cluster_does_not_hide_another():
    rng = np.random.default_rng(11)
    near, far = rng.random((300, 63)), 40 + rng.random((300, 63))
    rows = np.concatenate([near[:20], far[:20], 20 + rng.random((20, 63))]) + rng.normal(size=(60, 63)) * 0.002
    for reference in (
        np.concatenate([near, far]),
        np.concatenate([far, near]),
        np.stack([near, far], 1).reshape(-1, 63),
    ):
        close(delta_entropy(rows, reference=reference), naive.delta_entropy(rows, reference, 0.015))


def test_clusters_much_tighter_than_the_bandwidth():
    # differences of nearly equal large numbers: what |x|^2 + |y|^2 - 2xy loses
    rng = np.random.default_rng(12)
    for offset in (0.0, 1.0, 1e3):
        reference = offset + 1e-6 * rng.normal(size=(400, 63))
        rows = offset + 1e-6 * rng.normal(size=(50, 63))
        close(delta_entropy(rows, reference=reference), naive.delta_entropy(rows, reference, 0.015))
        close(delta_entropy(rows, reference=reference, bandwidth=1e-6), naive.delta_entropy(rows, reference, 1e-6))


def test_duplicates():
    rng = np.random.default_rng(13)
    few = rng.random((20, 63)) * 0.1
    reference = few[rng.integers(0, 20, 3000)]
    close(delta_entropy(few, reference=reference), naive.delta_entropy(few, reference, 0.015))
    assert entropy(reference) == pytest.approx(naive.entropy(reference, 0.015), abs=1e-9)


def test_zero_rows():
    rng = np.random.default_rng(14)
    reference = np.concatenate([np.zeros((5, 63)), rng.random((200, 63))])
    rows = np.concatenate([np.zeros((3, 63)), rng.random((10, 63))])
    close(delta_entropy(rows, reference=reference), naive.delta_entropy(rows, reference, 0.015))
    close(delta_entropy(rows, reference=np.zeros((1, 63))), naive.delta_entropy(rows, np.zeros((1, 63)), 0.015))
    close(delta_entropy(np.zeros((2, 63)), reference=np.zeros((4, 63))), np.full(2, -math.log(4)))


@pytest.mark.parametrize("size", [1e3, 1e6, 1e12, 1e25, 1e100])
def test_huge_rows_spoil_nothing(size):
    # coincident atoms give rows like these, in a frame or, worse, in the reference
    rng = np.random.default_rng(15)
    reference, rows = rng.random((300, 63)), rng.random((40, 63))
    rows[:20] = reference[:20] + 0.004 * rng.normal(size=(20, 63))
    monster = size * rng.random((2, 63))
    with_monster = np.concatenate([reference[:100], monster[:1], reference[100:]])
    close(delta_entropy(rows, reference=with_monster), naive.delta_entropy(rows, with_monster, 0.015))
    more = np.concatenate([rows, monster])
    close(delta_entropy(more, reference=reference), naive.delta_entropy(more, reference, 0.015))
    close(delta_entropy(more, reference=with_monster), naive.delta_entropy(more, with_monster, 0.015))
    close(delta_entropy(more, reference=monster[:1]), naive.delta_entropy(more, monster[:1], 0.015))


def test_real_rows():
    rng = np.random.default_rng(16)
    descriptor = Descriptor()
    frames = []
    for size in (0.05, 0.05, 0.1, 0.3):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True) * 3
        atoms.positions += rng.normal(scale=size, size=atoms.positions.shape)
        frames.append(descriptor(atoms))
    reference, rows = np.concatenate(frames[:2]), np.concatenate(frames[1:])
    close(delta_entropy(rows, reference=reference), naive.delta_entropy(rows, reference, 0.015))


def test_other_memory_layouts_and_types():
    rng = np.random.default_rng(17)
    reference, rows = rng.random((300, 63)) * 0.1, rng.random((31, 63)) * 0.1
    expected = delta_entropy(rows, reference=reference)
    assert np.array_equal(delta_entropy(np.asfortranarray(rows), reference=np.asfortranarray(reference)), expected)
    wide = np.zeros((62, 126))
    wide[::2, 1::2] = rows
    assert np.array_equal(delta_entropy(wide[::2, 1::2], reference=reference), expected)
    close(delta_entropy(rows[::-1], reference=reference[::-1])[::-1], expected, 1e-12)
    assert np.array_equal(delta_entropy(rows.tolist(), reference=reference.tolist()), expected)


def test_float32_rows_are_taken_at_their_value():
    rng = np.random.default_rng(18)
    reference, rows = rng.random((300, 63), np.float32), rng.random((31, 63), np.float32)
    values = delta_entropy(rows, reference=reference)
    assert values.dtype == np.float64
    close(values, naive.delta_entropy(rows.astype(float), reference.astype(float), 0.015))
    close(delta_entropy(rows, reference=reference.astype(float)), values)


def test_integer_rows_serve():
    rows = np.arange(12).reshape(6, 2)
    close(delta_entropy(rows, reference=rows, bandwidth=2.0), naive.delta_entropy(rows, rows, 2.0))


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


def test_no_rows_give_no_values():
    values = delta_entropy(np.empty((0, 63)), reference=np.ones((4, 63)))
    assert values.shape == (0,)
    assert values.dtype == np.float64


def test_calls_from_many_threads_agree_to_the_bit():
    rng = np.random.default_rng(20)
    reference, rows = rng.random((3000, 63)) * 0.1, rng.random((300, 63)) * 0.1
    alone = delta_entropy(rows, reference=reference)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(delta_entropy, rows, reference=reference) for _ in range(24)]
        results = [job.result() for job in jobs]
    assert all(np.array_equal(result, alone) for result in results)


@pytest.mark.parametrize("bandwidth", [0, 0.0, -0.015, float("nan"), float("inf")])
def test_wrong_bandwidth_is_named(bandwidth):
    rows = np.ones((3, 5))
    for call in (
        lambda: delta_entropy(rows, reference=rows, bandwidth=bandwidth),
        lambda: overlap(rows, reference=rows, bandwidth=bandwidth),
        lambda: entropy(rows, bandwidth=bandwidth),
        lambda: diversity(rows, bandwidth=bandwidth),
    ):
        with pytest.raises(ValueError, match="bandwidth"):
            call()


@pytest.mark.parametrize("function", [delta_entropy, overlap])
def test_empty_reference_is_named(function):
    with pytest.raises(ValueError, match="reference"):
        function(np.ones((3, 5)), reference=np.empty((0, 5)))


@pytest.mark.parametrize("function", [entropy, diversity])
def test_entropy_of_nothing_is_refused(function):
    with pytest.raises(ValueError, match="rows"):
        function(np.empty((0, 5)))


@pytest.mark.parametrize("function", [delta_entropy, overlap])
def test_unequal_widths_are_named(function):
    with pytest.raises(ValueError, match=r"(?s)rows.*reference|reference.*rows") as caught:
        function(np.ones((3, 5)), reference=np.ones((3, 6)))
    assert "5" in str(caught.value)
    assert "6" in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_rows_are_named(bad):
    good, spoilt = np.ones((6, 5)), np.ones((6, 5))
    spoilt[4, 2] = bad
    for function in (delta_entropy, overlap):
        with pytest.raises(ValueError, match="rows"):
            function(spoilt, reference=good)
        with pytest.raises(ValueError, match="reference"):
            function(good, reference=spoilt)
    for function in (entropy, diversity):
        with pytest.raises(ValueError, match="rows"):
            function(spoilt)


@pytest.mark.parametrize("shape", [(5,), (), (2, 5, 1)])
def test_arrays_that_are_not_two_dimensional_are_named(shape):
    good, flat = np.ones((6, 5)), np.ones(shape)
    for function in (delta_entropy, overlap):
        with pytest.raises(ValueError, match="rows"):
            function(flat, reference=good)
        with pytest.raises(ValueError, match="reference"):
            function(good, reference=flat)
    for function in (entropy, diversity):
        with pytest.raises(ValueError, match="rows"):
            function(flat)
