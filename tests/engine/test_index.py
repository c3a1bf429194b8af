"""Fast values, proofs and nearest rows against naive sums in float64, on input made to break them."""

import pickle
import threading
import tracemalloc
from itertools import product
from pathlib import Path

import ase.io
import naive
import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from systems import alloy
from threadpoolctl import threadpool_info, threadpool_limits

import quests_md.engine.index
from quests_md import Descriptor, Reference
from quests_md._kernels.tiles import HAS_TILES, PANEL
from quests_md.engine.index import BLOCK, LEAF, STEP, Index, JoinedIndex
from quests_md.reference.query import FEW_ROWS

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

H = 0.015  # 1/Å

#: Rows of references: several blocks, and more than are summed in float64 anyway.
N = 2 * BLOCK + 500


class Given:
    """Rows that the atoms carry."""

    fingerprint = "given"

    def __call__(self, atoms):
        return atoms.arrays["row"]


def reference_of(rows, *, numbers=29, per_frame=100, bandwidth=H, match="element"):
    """A reference of these rows, each frame a group."""
    numbers = np.broadcast_to(numbers, len(rows))
    frames = []
    for start in range(0, len(rows), per_frame):
        here = slice(start, start + per_frame)
        n = len(rows[here])
        atoms = Atoms(numbers[here], positions=2.0 * np.eye(1, 3) * np.arange(n)[:, None])
        atoms.arrays["row"] = rows[here]
        frames.append(atoms)
    return Reference.from_frames(frames, descriptor=Given(), bandwidth=bandwidth, match=match, groups="frame")


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


@pytest.fixture(params=["tiles", "BLAS"])
def way(request, monkeypatch):
    """What multiplies: both give the same promises, each with its own bits."""
    if request.param == "BLAS":
        monkeypatch.setattr(quests_md.engine.index, "HAS_TILES", False)
    elif not HAS_TILES:
        pytest.skip("no registers for tiles, or no compiler")
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


def test_fast_values_are_those_of_the_naive_sum(case, way):
    reference, queries = case
    expected = naive.delta_entropy(queries, reference.rows, H)
    assert_promised(reference.delta_entropy(queries), expected)
    exact = reference.delta_entropy(queries, float64=True)
    assert (np.abs(exact - expected) <= 1e-9 * np.maximum(1, np.abs(expected))).all()
    values, bound, usual = Index(reference.rows, H).minus_log_sums(queries, 1)
    assert (np.abs(values - expected) <= bound).all()
    assert (np.abs(values - expected) <= np.maximum(usual, 1e-5 + 2e-7 * np.abs(expected))).all()


def test_decisions_are_those_of_the_float64_sum(case):
    reference, queries = case
    values = reference.delta_entropy(queries, float64=True)
    index = Index(reference.rows, H)
    for levels in levels_around(values, np.random.default_rng(2)):
        expected = values <= levels
        np.testing.assert_array_equal(reference.is_covered(queries, levels), expected)
        verdict = index.decide(queries, levels, 1)
        assert expected[verdict > 0].all()
        assert not expected[verdict < 0].any()


def test_comparisons_of_values_with_levels_are_those_of_the_float64_sum(case, way):
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


def test_the_nearest_row_is_the_first_of_the_nearest(case, way):
    reference, queries = case
    assert_nearest(Index(reference.rows, H).nearest(queries, 1), queries, reference.rows)


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
    assert reference.known.structures
    for i, query in enumerate(queries):
        distances = np.linalg.norm(rows - query, axis=1) / H
        distances[numbers != z[i]] = np.inf
        best = int(distances.argmin())
        for answer, j in ((slow, i), (found, i), (found, i + 11 * len(queries))):
            assert (answer.frame[j], answer.atom[j]) == divmod(best, 100)
            assert answer.distance[j] == pytest.approx(distances[best], rel=1e-12, abs=1e-12)
    assert divmod(10, 100) == (found.frame[len(queries) - 1], found.atom[len(queries) - 1])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.sampled_from([1, 2, 63, 64, 65, 128, 129, 300, BLOCK, BLOCK + 1]),
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
    index = Index(rows, bandwidth)
    ways = {False, HAS_TILES}
    with np.errstate(over="ignore"):
        expected = naive.delta_entropy(queries, rows, bandwidth)
        without = [
            naive.delta_entropy([y], rows[groups != group], bandwidth)[0] if (groups != group).any() else np.inf
            for y, group in zip(queries, own, strict=True)
        ]
    for has_tiles, (wanted, arguments) in product(ways, ((expected, ()), (np.array(without), (own, groups)))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quests_md.engine.index, "HAS_TILES", has_tiles)
            values, bound, usual = index.minus_log_sums(queries, 1, *arguments)
        with np.errstate(invalid="ignore"):
            error = np.where(values == wanted, 0, np.abs(values - wanted))
        assert not (error > bound).any()
        assert far > 5 or np.isfinite(bound).all()
        promised = usual < 1e-4 + 1e-6 * np.abs(values)
        assert (error <= 1e-4 + 1e-6 * np.abs(wanted))[promised].all()
    finite = np.where(np.isfinite(expected), expected, 0)
    slack = 1e-9 * np.maximum(1, np.abs(finite))  # the naive sum itself is good to 1e-10 or so
    for levels in levels_around(finite, rng):
        verdict = index.decide(queries, levels, 1)
        assert (expected <= levels + slack)[verdict > 0].all()
        assert (expected > levels - slack)[verdict < 0].all()


@pytest.mark.parametrize("scale", [1e8, 1e20, 1e40, 1e155])
def test_numbers_beyond_all_reason_are_dealt_with_in_float64(scale, way):
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
    found = reference.nearest(np.tile(queries, (60, 1)))  # enough for the fast way
    frames, atoms = found.frame.reshape(60, -1), found.atom.reshape(60, -1)
    assert (frames[:, -len(far) :] * 100 + atoms[:, -len(far) :] == far).all()
    here = frames[0, :30] * 100 + atoms[0, :30]
    assert_nearest(here, queries[:30], reference.rows)


def test_a_nearest_row_is_right_or_none_beyond_the_numbers_there_are():
    rng = np.random.default_rng(5)
    rows = gauss(rng)
    rows[0] *= 2e307
    queries = near(rng, rows[1:], 200)
    found = Index(rows, 1.0).nearest(queries, 1)
    assert_nearest(found[found >= 0], queries[found >= 0], rows)


def test_a_few_rows_far_away_cost_no_proof():
    rng = np.random.default_rng(6)
    rows = gauss(rng)
    queries = near(rng, rows, 300, most=2.0)
    plain = Index(rows, 1.0)
    rows[:: N // 5] += 1e6 * rng.normal(size=(6, 63))
    index = Index(rows, 1.0)
    levels = np.full(300, 5.0)
    assert (index.decide(queries, levels, 1) > 0).sum() >= 0.95 * (plain.decide(queries, levels, 1) > 0).sum() > 200
    _, bound, usual = index.minus_log_sums(queries, 1)
    assert bound.max() < 5e-3
    assert usual.max() < 1e-4


def test_most_is_decided_without_the_full_sum():
    rng = np.random.default_rng(7)
    rows = gauss(rng, spread=2.0)
    index = Index(rows, 1.0)
    queries = np.concatenate([near(rng, rows, 200, most=1.0), rows[:100] + 30.0, rows[:100] + 3000.0])
    values = naive.delta_entropy(queries, rows, 1.0)
    verdict = index.decide(queries, np.full(400, 4.0), 1)
    assert (verdict == np.where(values <= 4.0, 1, -1)).mean() > 0.95
    assert (index.decide(queries, np.full(400, -np.log(N) - 0.1), 1) == -1).all()
    # what is not looked into beyond 500 nats is left open
    assert set(index.decide(queries[-100:], np.full(100, 1e7), 1)) <= {0, 1}


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
            indices.append(Index(rows, H))
    for name, value in vars(indices[0]).items():
        np.testing.assert_array_equal(getattr(indices[1], name), value, err_msg=name)


@pytest.mark.parametrize("float64", [False, True])
def test_a_group_is_left_out_as_if_it_were_not_there(float64, way):
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


def test_thread_settings_of_blas_come_back(monkeypatch):
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

        def broken(*arguments):
            raise RuntimeError("broken")

        for name, use in (
            ("absorb_panels" if HAS_TILES else "absorb_products", lambda: reference.delta_entropy(queries, threads=2)),
            ("decide", lambda: reference.is_covered(queries, 0.0, threads=2)),
            ("take_nearest", lambda: Index(reference.rows, H).nearest(queries, 2)),
            ("_tree", lambda: Index(reference.rows, H)),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(quests_md.engine.index, name, broken)
                with pytest.raises(RuntimeError, match="broken"):
                    use()
            assert blas_threads() == before
        np.testing.assert_array_equal(reference.delta_entropy(queries), values)


def test_a_reference_is_pickled_and_saved_without_its_index(tmp_path):
    rng = np.random.default_rng(13)
    reference = reference_of(H * gauss(rng))
    bare = len(pickle.dumps(reference))
    queries = H * near(rng, reference.rows / H, 50)
    values = reference.delta_entropy(queries)
    assert reference.known.structures
    covered = reference.delta_entropy(queries, float64=True) <= 0.0
    copy = pickle.loads(pickle.dumps(reference))
    assert len(pickle.dumps(reference)) <= bare + 100
    reference.save(tmp_path / "reference")
    for other in (copy, *(Reference.load(tmp_path / "reference", mmap=mmap) for mmap in (False, True))):
        assert not other.known.structures
        np.testing.assert_array_equal(other.delta_entropy(queries), values)
        np.testing.assert_array_equal(other.is_covered(queries, 0.0), covered)
        assert other.known.structures


@pytest.mark.parametrize("n", [1, 31, 32, 33, 64, 65, 97, 1000, BLOCK, BLOCK + 1, N])
def test_panels_hold_the_rows_leaf_by_leaf(n):
    rows = gauss(np.random.default_rng(n), n=n, width=9)
    index = Index(rows, 1.0)
    assert sorted(index.order) == list(range(n))
    sizes = np.diff(index.leaf_start)
    assert index.leaf_start[0] == 0
    assert index.leaf_start[-1] == n
    assert (sizes > 0).all()
    assert (sizes <= LEAF).all()
    assert (index.leaf_start[:-1] % STEP == 0).all()
    assert STEP % PANEL == 0
    assert (np.diff(index.block_start) <= BLOCK).all()
    assert set(index.block_start) <= set(index.leaf_start)
    flat = index.panels.transpose(0, 2, 1).reshape(-1, 9)
    centres = np.repeat(index.centres, np.diff(index.block_start), axis=0)
    np.testing.assert_allclose(flat[:n], (rows[index.order] - centres) @ index.axes, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(index.norms[:n], -0.5 * (flat[:n].astype(float) ** 2).sum(axis=1), rtol=1e-6)
    assert np.isneginf(index.norms[n:]).all()
    assert (flat[n:] == 0).all()


def test_memory_of_an_index():
    rows = H * gauss(np.random.default_rng(14), n=40_000)
    queries = rows[:256].copy()
    Index(rows[:3000], H).minus_log_sums(queries, 1)
    tracemalloc.start()
    index = Index(rows, H)
    kept, peak = tracemalloc.get_traced_memory()
    index.decide(queries, np.zeros(256), 1)
    index.minus_log_sums(queries, 1)
    _, later = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 0.7 * rows.nbytes
    assert max(peak, later) < 1.0 * rows.nbytes  # with the rows themselves less than 2.5 times the rows


def read_rows(path, every=1):
    descriptor = Descriptor()
    return np.concatenate([descriptor(atoms) for atoms in ase.io.read(path, f"::{every}")])


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize(
    ("known", "new"),
    [
        ("mlearn/Mo_train.xyz", "mlearn/Mo_test.xyz"),
        ("gap20/Graphite_Layer_Sep.xyz", "gap20/Graphite.xyz"),
        ("gap20/Graphite.xyz", "gap20/Graphite_Layer_Sep.xyz"),
    ],
)
def test_real_data(known, new):
    rows, queries = read_rows(DATA / known, 2), read_rows(DATA / new, 4)[::5]
    reference = reference_of(rows)
    expected = naive.delta_entropy(queries, rows, H)
    assert_promised(reference.delta_entropy(queries), expected)
    values, bound, _ = Index(rows, H).minus_log_sums(queries, 1)
    error = np.abs(values - expected)
    assert (error <= bound).all()
    assert error.max() < 1e-5 + 1e-6 * np.abs(expected).max()
    exact = reference.delta_entropy(queries, float64=True)
    for levels in levels_around(exact, np.random.default_rng(15)):
        np.testing.assert_array_equal(reference.is_covered(queries, levels), exact <= levels)
    assert_nearest(Index(rows, H).nearest(queries, 1), queries, rows)


@pytest.mark.parametrize("match", ["element", "any"])
def test_an_extended_reference_keeps_the_structure_of_its_first_rows(match):
    frames = [alloy(3, seed=i) for i in range(14)]
    reference = Reference.from_frames(frames[:10], match=match)
    frame = alloy(3, seed=99, rattle=0.1)
    reference.is_covered(frame, 0.0)
    kept = dict(reference.known.structures)
    assert kept
    extended = reference.extend(frames[10:12])
    whole = Reference.from_frames(frames[:12], match=match)
    exact = whole.delta_entropy(frame, float64=True)
    np.testing.assert_allclose(extended.delta_entropy(frame), exact, atol=1e-4)
    assert {type(index) for index in extended.known.structures.values()} == {JoinedIndex}
    assert all(
        index.first.panels is old.panels
        for index, old in zip(extended.known.structures.values(), kept.values(), strict=True)
    )
    for level in (
        exact,
        np.nextafter(exact, -np.inf),
        np.nextafter(exact, np.inf),
        exact + 1e-7,
        exact - 2.0,
        exact + 2.0,
    ):
        np.testing.assert_array_equal(extended.is_covered(frame, level), exact <= level)
    near, far = extended.nearest(frame), whole.nearest(frame)
    np.testing.assert_allclose(near.distance, far.distance, rtol=1e-12)
    np.testing.assert_array_equal(near.frame, far.frame)
    np.testing.assert_array_equal(near.atom, far.atom)
    np.testing.assert_allclose(extended.held_out_scores()[1], whole.held_out_scores()[1], atol=1e-4)
    # once more: still two parts, and the first one as long as it is most of the rows
    twice = extended.extend(frames[12:13])
    np.testing.assert_allclose(
        twice.delta_entropy(frame), Reference.from_frames(frames[:13], match=match).delta_entropy(frame), atol=2e-4
    )
    assert all(
        new.first.panels is old.panels for new, old in zip(twice.known.structures.values(), kept.values(), strict=True)
    )
    small = Reference.from_frames(frames[:5], match=match)
    small.is_covered(frame, 0.0)
    large = small.extend(frames[5:])
    large.is_covered(frame, 0.0)
    assert not any(isinstance(index, JoinedIndex) for index in large.known.structures.values())
