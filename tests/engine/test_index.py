"""Fast values, proofs and nearest rows against naive sums in float64, on input made to break them."""

import pickle
import threading
import tracemalloc
from functools import partial
from importlib.util import find_spec
from itertools import product

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import Given, carrying
from systems import alloy
from threadpoolctl import threadpool_info, threadpool_limits

from quests_md import Reference
from quests_md._kernels.tiles import HAS_TILES
from quests_md.engine import backend, build_index
from quests_md.engine.backend import JoinedIndex, best_backend
from quests_md.engine.cpu import BlasIndex, TileIndex
from quests_md.engine.torch_index import TorchIndex
from quests_md.engine.tree import BLOCK_ROWS
from quests_md.reference.query import FEW_ROWS

H = 0.015  # 1/Å

#: Rows of references: several blocks, and more than are summed in float64 anyway.
N = 2 * BLOCK_ROWS + 500


def reference_of(rows, *, numbers=29, match="element"):
    """A reference of these rows, each frame of 100 atoms a group."""
    numbers = np.broadcast_to(numbers, len(rows))
    pieces = [slice(start, start + 100) for start in range(0, len(rows), 100)]
    frames = [carrying(rows[piece], numbers[piece]) for piece in pieces]
    return Reference.from_frames(frames, descriptor=Given(), bandwidth=H, match=match, groups="frame")


def gauss(rng, width=63, n=N, spread=3.0):
    """One cloud, some bandwidths wide, narrower in later columns."""
    return rng.normal(size=(n, width)) * np.linspace(spread, 0.1 * spread, width)


def near(rng, rows, m, most=6.0):
    """Queries at distances from none to `most` bandwidths from rows."""
    direction = rng.normal(size=(m, rows.shape[1]))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    return rows[rng.integers(len(rows), size=m)] + direction * rng.uniform(0, most, (m, 1)) * (rng.random((m, 1)) < 0.9)


def clusters(rng):
    centres = rng.normal(size=(4, 63)) * [[1], [10], [100], [1000]]
    return centres[rng.integers(4, size=N)] + gauss(rng, spread=1.0)


def outliers(rng):
    rows = gauss(rng)
    rows[rng.integers(N, size=6)] += rng.normal(size=(6, 63)) * 10.0 ** np.arange(2, 8)[:, None]
    return rows


def rays(rng):
    """Rows with equal columns: rounding errors of a product would add up in one direction."""
    return gauss(rng, spread=0.2) + rng.uniform(-3, 3, (N, 1))


def corners(rng):
    """Equal magnitudes everywhere, so that all terms of a product and its rounding are alike."""
    return np.sign(rng.normal(size=(N, 63))) * 1.2345678


def duplicates(rng):
    rows = gauss(rng, n=40)[rng.integers(40, size=N)]
    rows[: N // 2] = rows[0]
    return rows


def zeros(rng):
    """Rows without neighbours beside others."""
    rows = gauss(rng) + 20.0
    rows[: N // 3] = 0.0
    return rows


#: Rows in bandwidths.
CASES = {
    "cloud": gauss,
    "wide cloud": lambda rng: gauss(rng, spread=8.0),
    "clusters": clusters,
    "outliers": outliers,
    "rays": rays,
    "corners": corners,
    "duplicates": duplicates,
    "all equal": lambda rng: np.tile(gauss(rng, n=1), (N, 1)),
    "zeros": zeros,
    "all zero": lambda rng: np.zeros((N, 63)),
    "width 1": lambda rng: gauss(rng, 1, spread=100.0),
    "width 8": lambda rng: gauss(rng, 8, spread=10.0),
    "width 64": lambda rng: gauss(rng, 64),
    "width 200": lambda rng: gauss(rng, 200),
    "just more than few": lambda rng: gauss(rng, n=FEW_ROWS + 1),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A reference, and rows to judge: near, on the rows, and far."""
    rng = np.random.default_rng(1)
    rows = CASES[request.param](rng)
    queries = np.concatenate([near(rng, rows, 40), rows[:3], near(rng, rows, 6, most=100.0), near(rng, rows, 1, 1e7)])
    return reference_of(H * rows), H * queries


#: All give the same promises, each with its own bits. Without torch there is none of it; see `test_torch.py`.
IMPLEMENTATIONS = [TileIndex, BlasIndex] if HAS_TILES else [BlasIndex]
if find_spec("torch"):
    IMPLEMENTATIONS.append(partial(TorchIndex, device="cpu"))


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request, monkeypatch):
    """What searches, also for references."""
    monkeypatch.setattr(backend, "best_backend", lambda: request.param)
    return request.param


def assert_promised(values, expected):
    assert (np.abs(values - expected) <= 1e-4 + 1e-6 * np.abs(expected)).all()


def levels_around(values, rng):
    """Levels at the values, next to them, within 1e-6 and anywhere; one row of them for each kind."""
    return np.array(
        [
            values,
            np.nextafter(values, -np.inf),
            np.nextafter(values, np.inf),
            values + rng.uniform(-1e-6, 1e-6, len(values)),
            values + rng.normal(0, 1e-3, len(values)),
            values + rng.normal(0, 5, len(values)),
            np.full(len(values), np.median(values)),
            np.full(len(values), -np.inf),
            np.full(len(values), np.inf),
        ]
    )


def test_fast_values_are_those_of_the_naive_sum(case, implementation):
    reference, queries = case
    expected = naive.delta_entropy(queries, reference.rows, H)
    assert_promised(reference.delta_entropy(queries), expected)
    exact = reference.delta_entropy(queries, float64=True)
    assert (np.abs(exact - expected) <= 1e-9 * np.maximum(1, np.abs(expected))).all()
    values, bound, usual = implementation(reference.rows, H).minus_log_sums(queries, 1)
    assert (np.abs(values - expected) <= bound).all()
    assert (np.abs(values - expected) <= np.maximum(usual, 1e-5 + 2e-7 * np.abs(expected))).all()


def test_decisions_are_those_of_the_float64_sum(case, implementation):
    reference, queries = case
    values = reference.delta_entropy(queries, float64=True)
    index = implementation(reference.rows, H)
    for levels in levels_around(values, np.random.default_rng(2)):
        expected = values <= levels
        np.testing.assert_array_equal(reference.is_covered(queries, levels), expected)
        verdict = index.decide(queries, levels, 1)
        assert expected[verdict > 0].all()
        assert not expected[verdict < 0].any()


def test_comparisons_of_values_with_levels_are_those_of_the_float64_sum(case, implementation):
    reference, queries = case
    exact = reference.delta_entropy(queries, float64=True)
    levels = levels_around(exact, np.random.default_rng(3))
    numbers = np.full(len(queries), 29)
    values = reference.evaluate(queries, numbers, levels=list(levels))
    for level in levels:
        np.testing.assert_array_equal(values <= level, exact <= level)
    assert_promised(values, exact)


def assert_nearest(found, queries, rows):
    for i, query in zip(found, queries, strict=True):
        with np.errstate(over="ignore"):
            distance2 = ((rows - query) ** 2).sum(axis=1)
        # mirror images have rows that differ by rounding only
        assert distance2[i] <= distance2.min() * (1 + 1e-13)
        assert i == np.flatnonzero((rows == rows[i]).all(axis=1))[0]


def test_the_nearest_row_is_the_first_of_the_nearest(case, implementation):
    reference, queries = case
    assert_nearest(implementation(reference.rows, H).nearest(queries, 1), queries, reference.rows)


def test_the_nearest_environments_of_many_atoms_are_told_by_frame_and_atom():
    rng = np.random.default_rng(4)
    rows = H * np.concatenate([duplicates(rng), gauss(rng)])
    rows[10], rows[5000], rows[-1] = H * 7.0, H * 7.0, H * 7.0  # in several blocks
    numbers = np.where(np.arange(len(rows)) % 3, 29, 28)
    reference = reference_of(rows, numbers=numbers)
    queries = np.concatenate([rows[::50], near(rng, rows / H, 100) * H, np.full((1, 63), H * 7.0)])
    z = np.concatenate([numbers[::50], np.full(100, 29), [29]])
    quick, slow = np.tile(queries, (12, 1)), Reference.nearest(reference, queries, numbers=z)
    found = reference.nearest(quick, numbers=np.tile(z, 12))
    assert reference.structures
    for i, query in enumerate(queries):
        distances = np.linalg.norm(rows - query, axis=1) / H
        distances[numbers != z[i]] = np.inf
        best = int(distances.argmin())
        for answer, j in ((slow, i), (found, i), (found, i + 11 * len(queries))):
            assert (answer.frame[j], answer.atom[j]) == divmod(best, 100)
            assert answer.distance[j] == pytest.approx(distances[best], rel=1e-12, abs=1e-12)
    assert divmod(10, 100) == (found.frame[len(queries) - 1], found.atom[len(queries) - 1])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.sampled_from([1, 2, 63, 64, 65, 128, 129, 300, BLOCK_ROWS, BLOCK_ROWS + 1]),
    width=st.sampled_from([1, 2, 7, 8, 9, 63, 64, 130]),
    spread=st.floats(-1.5, 2.5),
    shift=st.floats(-1, 6),
    far=st.floats(0, 12) | st.just(30.0) | st.just(200.0),
    bandwidth=st.floats(1e-4, 100),
)
def test_no_error_beyond_its_bound_and_no_wrong_proof(seed, n, width, spread, shift, far, bandwidth):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, width)) * 10.0**spread
    rows = rows[rng.integers(n, size=n)] if seed % 3 == 0 else np.round(rows) if seed % 3 == 1 else rows
    rows[rng.random(n) < 0.003] += rng.normal(size=width) * 10.0**far
    rows += rng.normal(size=width) * 10.0**shift
    queries = near(rng, rows, 12)
    queries[-1] += rng.normal(size=width) * 10.0**far
    queries *= bandwidth
    rows *= bandwidth
    groups = rng.integers(3, size=n)
    own = rng.integers(-1, 3, size=12)
    indices = [build(rows, bandwidth) for build in IMPLEMENTATIONS]
    with np.errstate(over="ignore"):
        expected = naive.delta_entropy(queries, rows, bandwidth)
        without = [
            naive.delta_entropy([y], rows[groups != group], bandwidth)[0] if (groups != group).any() else np.inf
            for y, group in zip(queries, own, strict=True)
        ]
    for index, (wanted, arguments) in product(indices, ((expected, ()), (np.array(without), (own, groups)))):
        values, bound, usual = index.minus_log_sums(queries, 1, *arguments)
        with np.errstate(invalid="ignore"):
            error = np.where(values == wanted, 0, np.abs(values - wanted))
        assert not (error > bound).any()
        # rows of a device are in float32, also those far from the others of their block
        assert far > (3 if isinstance(index, TorchIndex) else 5) or np.isfinite(bound).all()
        promised = usual < 1e-4 + 1e-6 * np.abs(values)
        assert (error <= 1e-4 + 1e-6 * np.abs(wanted))[promised].all()
    finite = np.where(np.isfinite(expected), expected, 0)
    slack = 1e-9 * np.maximum(1, np.abs(finite))  # the naive sum itself is good to 1e-10 or so
    for index, levels in product(indices, levels_around(finite, rng)):
        verdict = index.decide(queries, levels, 1)
        assert (expected <= levels + slack)[verdict > 0].all()
        assert (expected > levels - slack)[verdict < 0].all()


@pytest.mark.parametrize("scale", [1e8, 1e20, 1e40, 1e155])
def test_numbers_beyond_all_reason_are_dealt_with_in_float64(scale, implementation):
    rng = np.random.default_rng(5)
    rows = gauss(rng)
    far = np.arange(0, N, 800)
    rows[far] *= scale
    reference = reference_of(H * rows)
    queries = H * np.concatenate([near(rng, rows[1:700], 30), rows[far] * 1.5, rows[far]])
    with np.errstate(over="ignore"):
        expected = naive.delta_entropy(queries, reference.rows, H)
    values = reference.delta_entropy(queries)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-4)
    np.testing.assert_array_equal(reference.is_covered(queries, 1e9), (expected <= 1e9))
    np.testing.assert_array_equal(reference.is_covered(queries, np.inf), expected < np.inf)
    found = reference.nearest(np.tile(queries, (60, 1)))  # enough for an index
    frames, atoms = found.frame.reshape(60, -1), found.atom.reshape(60, -1)
    assert (frames[:, -len(far) :] * 100 + atoms[:, -len(far) :] == far).all()
    here = frames[0, :30] * 100 + atoms[0, :30]
    assert_nearest(here, queries[:30], reference.rows)


def test_a_nearest_row_is_right_or_none_beyond_the_numbers_there_are(implementation):
    rng = np.random.default_rng(5)
    rows = gauss(rng)
    rows[0] *= 2e307
    queries = near(rng, rows[1:], 200)
    found = implementation(rows, 1.0).nearest(queries, 1)
    assert_nearest(found[found >= 0], queries[found >= 0], rows)


def test_a_few_rows_far_away_cost_no_proof(implementation):
    rng = np.random.default_rng(6)
    rows = gauss(rng)
    queries = near(rng, rows, 300, most=2.0)
    plain = implementation(rows, 1.0)
    rows[:: N // 5] += 1e6 * rng.normal(size=(6, 63))
    index = implementation(rows, 1.0)
    levels = np.full(300, 5.0)
    assert (index.decide(queries, levels, 1) > 0).sum() >= 0.95 * (plain.decide(queries, levels, 1) > 0).sum() > 200
    _, bound, usual = index.minus_log_sums(queries, 1)
    assert bound.max() < 5e-3
    assert usual.max() < 1e-4


def test_most_is_decided_without_the_full_sum(implementation):
    rng = np.random.default_rng(7)
    rows = gauss(rng, spread=2.0)
    index = implementation(rows, 1.0)
    queries = np.concatenate([near(rng, rows, 200, most=1.0), rows[:100] + 30.0, rows[:100] + 3000.0])
    values = naive.delta_entropy(queries, rows, 1.0)
    verdict = index.decide(queries, np.full(400, 4.0), 1)
    assert (verdict == np.where(values <= 4.0, 1, -1)).mean() > 0.95
    assert (index.decide(queries, np.full(400, -np.log(N) - 0.1), 1) == -1).all()
    # what is not looked into beyond 500 nats is left open
    assert set(index.decide(queries[-100:], np.full(100, 1e7), 1)) <= {0, -1}


def test_elements_are_judged_by_their_own_and_any_by_all():
    rng = np.random.default_rng(8)
    rows = H * gauss(rng)
    numbers = rng.choice([13, 28, 29], p=[0.6, 0.35, 0.05], size=N)
    queries, z = H * near(rng, rows / H, 90), rng.choice([13, 28, 29, 79], size=90)
    reference = reference_of(rows, numbers=numbers)
    expected = np.full(90, np.inf)
    for number in (13, 28, 29):
        expected[z == number] = naive.delta_entropy(queries[z == number], rows[numbers == number], H)
    known = z != 79
    values = reference.delta_entropy(queries, numbers=z)
    assert_promised(values[known], expected[known])
    assert (values[~known] == np.inf).all()
    blind = reference_of(rows, numbers=numbers, match="any")
    assert_promised(blind.delta_entropy(queries, numbers=z), naive.delta_entropy(queries, rows, H))
    for judge in (reference, blind):
        exact = judge.delta_entropy(queries, numbers=z, float64=True)
        for levels in levels_around(exact, rng):
            levels = np.where(np.isnan(levels), 0.0, levels)
            covered = judge.is_covered(queries, levels, numbers=z)
            np.testing.assert_array_equal(covered, (exact <= levels) & (exact < np.inf))


@pytest.mark.slow
def test_answers_depend_on_no_companions_order_or_threads():
    rng = np.random.default_rng(9)
    reference = reference_of(H * clusters(rng))
    queries = H * near(rng, reference.rows / H, 700)
    values = reference.delta_entropy(queries, threads=1)
    exact = reference.delta_entropy(queries, float64=True, threads=1)
    levels = levels_around(exact, rng)[3]
    covered = reference.is_covered(queries, levels, threads=1)
    nearest = reference.nearest(queries, threads=1)
    for threads in (2, 5):
        np.testing.assert_array_equal(reference.delta_entropy(queries, threads=threads), values)
        np.testing.assert_array_equal(reference.is_covered(queries, levels, threads=threads), covered)
        np.testing.assert_array_equal(reference.nearest(queries, threads=threads).atom, nearest.atom)
    order = rng.permutation(700)
    np.testing.assert_array_equal(reference.is_covered(queries[order], levels[order]), covered[order])
    np.testing.assert_array_equal(reference.nearest(queries[order]).distance, nearest.distance[order])
    assert np.abs(reference.delta_entropy(queries[order]) - values[order]).max() < 2e-4
    for some in (slice(0, 1), slice(3, 10), slice(100, 400)):
        np.testing.assert_array_equal(reference.is_covered(queries[some], levels[some]), covered[some])
        np.testing.assert_array_equal(reference.nearest(queries[some]).frame, nearest.frame[some])
        assert np.abs(reference.delta_entropy(queries[some]) - values[some]).max() < 2e-4


def test_an_index_has_the_same_bits_whatever_the_threads_of_blas():
    rows = H * gauss(np.random.default_rng(10))
    indices = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            indices.append(build_index(rows, H))
    np.testing.assert_equal(*[(index.axes, index.layout) for index in indices])


@pytest.mark.parametrize("float64", [False, True])
def test_a_group_is_left_out_as_if_it_were_not_there(float64, implementation):
    rng = np.random.default_rng(11)
    rows = clusters(rng)
    rows[100:200] += 300.0  # a group far from all others
    reference = reference_of(H * rows)
    chosen = np.concatenate([rng.choice(N, 40, replace=False), np.arange(100, 110)])
    groups = reference.row_groups
    values = reference.delta_entropy_without(
        reference.rows[chosen], reference.numbers[chosen], groups[chosen], float64=float64
    )
    expected = np.array(
        [naive.delta_entropy([reference.rows[i]], reference.rows[groups != groups[i]], H)[0] for i in chosen]
    )
    assert_promised(values, expected)
    alone = reference.delta_entropy_without(
        reference.rows[chosen], reference.numbers[chosen], np.zeros(50, int), np.zeros(reference.n_frames, int)
    )
    assert (alone == np.inf).all()
    none = reference.delta_entropy_without(reference.rows[chosen], reference.numbers[chosen], np.full(50, -1))
    assert_promised(none, naive.delta_entropy(reference.rows[chosen], reference.rows, H))


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.mark.slow
def test_thread_settings_of_blas_come_back():
    rng = np.random.default_rng(12)
    reference = reference_of(H * gauss(rng))
    queries = H * near(rng, reference.rows / H, 600)
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        values = reference.delta_entropy(queries, threads=2)
        assert blas_threads() == before
        results, errors = [], []

        def run():
            try:
                for _ in range(3):
                    results.append(reference.delta_entropy(queries, threads=2))
                    reference.is_covered(queries, 0.0, threads=2)
            except Exception as exc:  # told below
                errors.append(exc)

        callers = [threading.Thread(target=run) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert not errors
        assert len(results) == 12
        assert all((result == values).all() for result in results)
        assert blas_threads() == before

        index, narrow = build_index(reference.rows, H), queries[:, :5]
        for fail in (
            lambda: index.minus_log_sums(narrow, 2),
            lambda: index.decide(narrow[:9], np.zeros(9), 2),
            lambda: index.nearest(narrow, 2),
            lambda: build_index(reference.rows[0], H),
        ):
            with pytest.raises((ValueError, IndexError)):
                fail()
            assert blas_threads() == before
        np.testing.assert_array_equal(reference.delta_entropy(queries), values)


def test_a_reference_is_pickled_and_saved_without_its_index(tmp_path):
    rng = np.random.default_rng(13)
    reference = reference_of(H * gauss(rng))
    bare = len(pickle.dumps(reference))
    queries = H * near(rng, reference.rows / H, 50)
    values = reference.delta_entropy(queries)
    assert reference.structures
    covered = reference.delta_entropy(queries, float64=True) <= 0.0
    copy = pickle.loads(pickle.dumps(reference))
    assert len(pickle.dumps(reference)) <= bare + 100
    reference.save(tmp_path / "reference")
    for other in (copy, *(Reference.load(tmp_path / "reference", mmap=mmap) for mmap in (False, True))):
        assert not other.structures
        np.testing.assert_array_equal(other.delta_entropy(queries), values)
        np.testing.assert_array_equal(other.is_covered(queries, 0.0), covered)


@pytest.mark.slow
def test_memory_of_an_index():
    rows = H * gauss(np.random.default_rng(14), n=40_000)
    queries = rows[:256].copy()
    build_index(rows[:3000], H).minus_log_sums(queries, 1)
    tracemalloc.start()
    index = build_index(rows, H)
    kept, peak = tracemalloc.get_traced_memory()
    index.decide(queries, np.zeros(256), 1)
    index.minus_log_sums(queries, 1)
    _, later = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 0.7 * rows.nbytes
    assert max(peak, later) < 1.0 * rows.nbytes  # with the rows themselves less than 2.5 times the rows


def test_tiles_are_chosen_where_there_are_registers_for_them():
    assert best_backend() is (TileIndex if HAS_TILES else BlasIndex)


def test_the_structure_of_the_first_rows_is_kept_while_it_has_most_of_them():
    rows = np.random.default_rng(1).normal(size=(500, 5))
    first = build_index(rows[:200].copy(), 1.0)
    joined = build_index(rows[:300], 1.0, first)
    assert isinstance(joined, JoinedIndex)
    assert joined.first.layout is first.layout
    assert np.shares_memory(joined.first.rows, rows)  # the array from before may go
    again = build_index(rows[:400], 1.0, joined)
    assert again.first.layout is first.layout
    assert len(again.rest.rows) == 200
    for n in (200, 401, 500):
        assert type(build_index(rows[:n], 1.0, joined)) is best_backend()


@pytest.mark.parametrize("match", ["element", "any"])
def test_an_extended_reference_answers_as_a_whole_one(match):
    frames = [alloy(3, seed=i) for i in range(14)]
    reference = Reference.from_frames(frames[:10], match=match)
    frame = alloy(3, seed=99, rattle=0.1)
    reference.is_covered(frame, 0.0)
    kept = dict(reference.structures)
    assert kept
    extended = reference.extend(frames[10:12])
    whole = Reference.from_frames(frames[:12], match=match)
    exact = whole.delta_entropy(frame, float64=True)
    np.testing.assert_allclose(extended.delta_entropy(frame), exact, atol=1e-4)
    first = [index.first.layout for index in extended.structures.values()]
    assert all(layout is old.layout for layout, old in zip(first, kept.values(), strict=True))
    for level in (*levels_around(exact, np.random.default_rng(16)), exact + 1e-7, exact - 2.0, exact + 2.0):
        np.testing.assert_array_equal(extended.is_covered(frame, level), exact <= level)
    near, far = extended.nearest(frame), whole.nearest(frame)
    np.testing.assert_allclose(near.distance, far.distance, rtol=1e-12)
    np.testing.assert_array_equal(near.frame, far.frame)
    np.testing.assert_array_equal(near.atom, far.atom)
    np.testing.assert_allclose(extended.held_out_scores()[1], whole.held_out_scores()[1], atol=1e-4)
    twice = extended.extend(frames[12:13])
    np.testing.assert_allclose(
        twice.delta_entropy(frame), Reference.from_frames(frames[:13], match=match).delta_entropy(frame), atol=2e-4
    )
