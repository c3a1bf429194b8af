"""Kernel regression against sums in float64, on input made to break it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import naive
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quests_md._kernels.tiles import HAS_TILES
from quests_md.engine.regression import LEAF_ROWS, QUERIES_TOGETHER, KernelRegression

#: As plain Python the kernels are for small input.
N = 1500 if not numba.config.DISABLE_JIT else 90
M = 60 if not numba.config.DISABLE_JIT else 12


def cloud(rng, n=N, width=63):
    """One cloud, some bandwidths wide, narrower in later columns."""
    return rng.normal(size=(n, width)) * np.geomspace(3.0, 0.01, width)


def kinds(rng, n=N):
    """Many clouds of unequal size and width, far apart."""
    which = np.minimum(rng.geometric(0.15, size=n), 30)
    return 30 * rng.normal(size=(31, 63))[which] / np.sqrt(63) * 4 + cloud(rng, n) * (0.1 + (which % 5) / 4)[:, None]


def outliers(rng):
    rows = cloud(rng)
    rows[rng.integers(N, size=7)] += rng.normal(size=(7, 63)) * 10.0 ** np.arange(1, 8)[:, None]
    return rows


def scattered(rng):
    """Half of the rows far from each other, as rows chosen by coverage are."""
    rows = cloud(rng)
    rows[::2] *= 15
    return rows


def duplicates(rng):
    rows = cloud(rng, 20)[rng.integers(20, size=N)]
    rows[: N // 2] = rows[0]
    return rows


def corners(rng):
    """Equal magnitudes everywhere, so that all terms of a product and its rounding are alike."""
    return np.sign(rng.normal(size=(N, 63))) * 1.2345678


#: Rows in bandwidths.
CASES = {
    "cloud": cloud,
    "kinds": kinds,
    "outliers": outliers,
    "scattered": scattered,
    "duplicates": duplicates,
    "corners": corners,
    "all equal": lambda rng: np.tile(cloud(rng, 1), (N, 1)),
    "zeros": lambda rng: np.zeros((N, 63)),
    "far from 0": lambda rng: cloud(rng) + 1e4,
    "width 1": lambda rng: cloud(rng, width=1) * 30,
    "width 9": lambda rng: cloud(rng, width=9) * 3,
    "width 130": lambda rng: cloud(rng, width=130),
    "one row": lambda rng: cloud(rng, 1),
    "33 rows": lambda rng: cloud(rng, 33),
    "a leaf and a row": lambda rng: cloud(rng, LEAF_ROWS + 1),
}


def queries_near(rng, rows, m=M):
    """Queries on rows, near them, and at up to a thousand bandwidths."""
    direction = rng.normal(size=(m, rows.shape[1]))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    length = 10.0 ** rng.uniform(-1, 3, m)
    length[::4], length[1::4] = 0, rng.uniform(0, 6, len(length[1::4]))
    return rows[rng.integers(len(rows), size=m)] + direction * length[:, None]


def assert_promised(result, queries, rows, bandwidth, values, own=None, groups=None, more=0.0):
    expected, means = naive.kernel_regression(queries, rows, bandwidth, values, own, groups)
    is_any = np.isfinite(expected)
    assert np.isposinf(result.delta_entropy[~is_any]).all()
    assert np.isnan(result.means[~is_any]).all()
    expected, means = expected[is_any], means[is_any]
    assert (np.abs(result.delta_entropy[is_any] - expected) <= more + 1e-3 + 1e-4 * np.abs(expected)).all()
    spread = np.ptp(values, axis=0)
    assert (np.abs(result.means[is_any] - means) <= (more + 1e-3) * spread + 1e-3 * np.abs(means)).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bandwidth", [0.006, 1.0])
def test_values_and_means_are_those_of_the_naive_sums(case, bandwidth):
    rng = np.random.default_rng(1)
    rows = CASES[case](rng)
    queries = bandwidth * queries_near(rng, rows)
    rows = bandwidth * rows
    values = rng.normal(size=(len(rows), 2)) * [1.0, 30.0] + [0.0, 1e3]
    groups = rng.integers(4, size=len(rows))
    own = rng.integers(-1, 4, size=len(queries))
    regression = KernelRegression(rows, bandwidth, values, groups)
    assert_promised(regression.at(queries, 1), queries, rows, bandwidth, values)
    assert_promised(regression.at(queries, 1, own), queries, rows, bandwidth, values, own, groups)


def flat(rng, width, n_main, rest):
    """Rows that vary in some directions, and little in all others: by `rest` in all, in one of two opposite ways."""
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0]
    rows = np.zeros((N, width))
    rows[:, :n_main] = rng.normal(size=(N, n_main)) * 3
    side = rng.choice([-1.0, 1.0], N)
    rows[:, n_main:] = rest * side[:, None] / np.sqrt(width - n_main)
    return rows @ turn, side


@pytest.mark.parametrize(("width", "n_main"), [(63, 8), (63, 24), (63, 60), (130, 30), (9, 8)])
@pytest.mark.parametrize("rest", [0.0, 0.05, 0.14, 0.2, 0.4])
def test_products_that_are_left_out_are_as_small_as_is_said(width, n_main, rest):
    rng = np.random.default_rng(8)
    rows, side = flat(rng, width, n_main, rest)
    groups = np.where(side > 0, 1, 2)
    queries = np.concatenate([rows[:M], queries_near(rng, rows)])
    own = np.concatenate([groups[:M], rng.integers(-1, 3, M)])
    values = np.column_stack([side, rng.normal(size=N)])
    regression = KernelRegression(rows, 1.0, values, groups)
    assert_promised(regression.at(queries, 1), queries, rows, 1.0, values, more=0.02)
    # the own way is left out, so that the products that are left have one sign
    assert_promised(regression.at(queries, 1, own), queries, rows, 1.0, values, own, groups, more=0.02)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.sampled_from([1, 2, 31, 32, 33, 64, 128, 129, 300, 700]),
    width=st.sampled_from([1, 2, 7, 8, 9, 16, 17, 63, 64, 130]),
    n_values=st.integers(0, 4),
    spread=st.floats(-2, 2.5),
    narrowing=st.floats(-3, 0),
    shift=st.floats(-1, 4),
    far=st.floats(0, 4),
    bandwidth=st.floats(1e-4, 100),
)
def test_no_error_beyond_the_promise(seed, n, width, n_values, spread, narrowing, shift, far, bandwidth):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, width)) * 10.0 ** np.linspace(spread, spread + narrowing, width)
    rows = rows[rng.integers(n, size=n)] if seed % 3 == 0 else np.round(rows) if seed % 3 == 1 else rows
    rows[rng.random(n) < 0.01] += rng.normal(size=width) * 10.0**far
    rows += rng.normal(size=width) * 10.0**shift
    queries = bandwidth * queries_near(rng, rows, 20)
    rows *= bandwidth
    values = rng.normal(size=(n, n_values)) ** 3 * 10.0 ** rng.uniform(-5, 5, n_values) + rng.normal(size=n_values)
    groups = rng.integers(3, size=n)
    own = rng.integers(-1, 3, size=20)
    regression = KernelRegression(rows, bandwidth, values, groups)
    assert_promised(regression.at(queries, 1), queries, rows, bandwidth, values)
    assert_promised(regression.at(queries, 1, own), queries, rows, bandwidth, values, own, groups)


@pytest.mark.parametrize("case", ["cloud", "kinds", "outliers", "scattered"])
def test_bits_depend_on_the_query_and_the_rows_alone(case):
    rng = np.random.default_rng(2)
    rows = CASES[case](rng)
    values, groups = rng.normal(size=(len(rows), 2)), rng.integers(5, size=len(rows))
    regression = KernelRegression(rows, 1.0, values, groups)
    queries = queries_near(rng, rows, 4 * QUERIES_TOGETHER + 5 if M > 20 else M)
    own = rng.integers(-1, 5, size=len(queries))
    for arguments in ((), (own,)):
        together = regression.at(queries, 1, *arguments)
        some = [np.arange(len(queries)), rng.permutation(len(queries))]
        some += [rng.permutation(len(queries))[:m] for m in (1, 2, 7, 9, 11)]
        for threads, these in [(1, these) for these in some] + [(3, these) for these in some[:2]]:
            result = regression.at(queries[these], threads, *(own[these] for own in arguments))
            np.testing.assert_array_equal(result.delta_entropy, together.delta_entropy[these])
            np.testing.assert_array_equal(result.means, together.means[these])
    again = KernelRegression(rows, 1.0, values, groups).at(queries, 2, own)
    np.testing.assert_array_equal(again.delta_entropy, together.delta_entropy)
    one = KernelRegression(rows, 1.0, values).at(queries, 1)
    np.testing.assert_array_equal(one.means, regression.at(queries, 1).means)


def test_rows_of_the_own_group_are_left_out():
    rng = np.random.default_rng(3)
    rows = np.concatenate([cloud(rng, 50), cloud(rng, 50) + 40.0])
    groups = np.repeat([7, 2**40], 50)
    values = np.repeat([[1.0], [2.0]], 50, axis=0)
    regression = KernelRegression(rows, 1.0, values, groups)
    result = regression.at(rows, 1, groups)
    assert (result.delta_entropy > 100).all()
    np.testing.assert_array_equal(result.means, values[::-1])
    np.testing.assert_array_equal(regression.at(rows, 1, np.full(100, -1)).means, values)
    alone = KernelRegression(rows[:50], 1.0, values[:50], groups[:50])
    result = alone.at(rows, 1, groups)
    assert np.isposinf(result.delta_entropy[:50]).all()
    assert np.isnan(result.means[:50]).all()
    assert (result.means[50:] == 1).all()


def test_without_groups_of_the_rows_none_is_left_out():
    rows = cloud(np.random.default_rng(4), 40)
    regression = KernelRegression(rows, 1.0, rows[:, :1])
    np.testing.assert_array_equal(regression.at(rows, 1, np.zeros(40, np.int64)).means, regression.at(rows, 1).means)


@pytest.mark.parametrize("scale", [1e5, 1e10, 1e30, 1e150, 1e300])
def test_numbers_beyond_all_reason_give_numbers(scale):
    rng = np.random.default_rng(5)
    rows = cloud(rng, 70)
    rows[::30] *= scale
    values = rng.normal(size=(70, 1))
    queries = np.concatenate([rows, rng.normal(size=(20, 63)) * scale])
    result = KernelRegression(rows, 1.0, values).at(queries, 1)
    assert np.isfinite(result.delta_entropy).all()
    assert (result.delta_entropy[:70] < 20).all()
    assert ((result.means >= values.min()) & (result.means <= values.max())).all()


def test_values_that_are_equal_are_their_mean_and_large_ones_do_not_overflow():
    rng = np.random.default_rng(6)
    rows = cloud(rng, 40)
    values = np.column_stack([np.full(40, 0.1), np.full(40, -1e300), rng.choice([-1.7e308, 1.7e308], 40)])
    means = KernelRegression(rows, 1.0, values).at(rows + 0.01, 1).means
    assert (means[:, 0] == 0.1).all()
    assert (means[:, 1] == -1e300).all()
    assert np.isfinite(means).all()


def test_other_values_on_the_same_rows_give_the_bits_of_a_regression_with_them():
    rng = np.random.default_rng(6)
    rows, groups, values = kinds(rng), rng.integers(9, size=N), rng.normal(size=(N, 2)) * [3.0, 1e5]
    queries, own = queries_near(rng, rows), rng.integers(9, size=M)
    first = KernelRegression(rows, 1.0, np.zeros((N, 1)), groups)
    for other in (values, values[:, :1], values[:, :0]):
        got, expected = (
            r.at(queries, 1, own) for r in (first.with_values(other), KernelRegression(rows, 1.0, other, groups))
        )
        np.testing.assert_array_equal(got.delta_entropy, expected.delta_entropy)
        np.testing.assert_array_equal(got.means, expected.means)
    assert (first.at(queries, 1).means == 0).all()  # it keeps its own


def test_no_values_and_no_queries():
    rows = cloud(np.random.default_rng(7), 20)
    regression = KernelRegression(rows, 1.0, np.empty((20, 0)))
    result = regression.at(rows, 1)
    assert result.means.shape == (20, 0)
    assert (result.delta_entropy <= 1e-3).all()
    result = regression.at(rows[:0], 1)
    assert (result.delta_entropy.shape, result.means.shape) == ((0,), (0, 0))


@pytest.mark.long
@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64") or not HAS_TILES, reason="needs AVX2")
@pytest.mark.parametrize(("cpu", "features"), [("haswell", "+avx,+avx2,+fma"), ("generic", "")])
def test_other_processors(cpu, features, tmp_path):
    path = Path(__file__)
    env = os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    env["PYTHONPATH"] = str(path.parents[2])
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path), "-k", "not processors"]
    done = subprocess.run(run, env=env, cwd=path.parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
