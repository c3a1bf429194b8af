"""The tiles of vector registers against products and sums in float64."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.codegen import get_host_cpu_features

from quests_md._kernels import dense
from quests_md._kernels.tiles import FLOAT32_PANELS, HAS_TILES, PANEL, TILE, half_squares, multiply, tile_sums

UNIT = 2.0**-24

compiled = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="intrinsics have no Python")


def panels_of(rows):
    """Rows, as many as fill panels, in panels."""
    return np.ascontiguousarray(rows.reshape(-1, PANEL, rows.shape[1]).transpose(0, 2, 1))


def gauss(rng, n, width):
    return rng.normal(size=(n, width)) * np.linspace(0.1, 1.5, width)


def corners(rng, n, width):
    """Products whose terms are all of one magnitude, so that their roundings are alike."""
    return np.sign(rng.normal(size=(n, width))) * 1.2345678


def rays(rng, n, width):
    """Partial sums that only grow."""
    return rng.uniform(0.5, 2, (n, 1)) * np.full(width, 1.1) + 1e-3 * rng.normal(size=(n, width))


def mixed(rng, n, width):
    return rng.normal(size=(n, width)) * 10.0 ** rng.uniform(-12, 12, (n, width))


@compiled
@pytest.mark.parametrize("make", [gauss, corners, rays, mixed])
@pytest.mark.parametrize("width", [1, 2, 7, 63, 64, 200])
@pytest.mark.parametrize("n_queries", [1, TILE - 1, TILE, TILE + 1, 3 * TILE + 2])
def test_products(make, width, n_queries):
    rng = np.random.default_rng(width + n_queries)
    queries, rows = (make(rng, n, width).astype(np.float32) for n in (n_queries, 3 * PANEL))
    products = np.full((n_queries, 3 * PANEL), np.nan, np.float32)
    multiply(queries, panels_of(rows), products)
    y, x = queries.astype(np.float64), rows.astype(np.float64)
    error = np.abs(products - y @ x.T) / (UNIT * np.outer(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1)))
    assert error.max() <= width
    if width in (63, 64) and make is not mixed:
        assert error.max() < dense.TYPICAL


def sums_of(queries, panels, norms, offsets, own=None, groups=None):
    out = np.empty(len(queries))
    sums = np.empty(TILE)
    for i in range(0, len(queries), TILE):
        tile_sums(queries, i, panels, norms, offsets, own, groups, sums)
        out[i : i + TILE] = sums[: len(queries) - i]
    return out


def cloud(rng, n_queries, n_panels, width=63, spread=1.0):
    """Queries, panels, norms, offsets, and the terms of the sums in float64."""
    queries, rows = (spread * gauss(rng, n, width).astype(np.float32) for n in (n_queries, n_panels * PANEL))
    norms = (-0.5 * (rows.astype(np.float64) ** 2).sum(axis=1)).astype(np.float32)
    offsets = (1 + 0.5 * (queries.astype(np.float64) ** 2).sum(axis=1)).astype(np.float32)
    products = queries.astype(np.float64) @ rows.T.astype(np.float64)
    terms = np.exp(np.minimum(products + norms.astype(np.float64) - offsets[:, None].astype(np.float64), 0))
    return queries, panels_of(rows), norms, offsets, terms


@compiled
@pytest.mark.parametrize("n_queries", [1, TILE, 2 * TILE + 1])
@pytest.mark.parametrize("n_panels", [1, 2, FLOAT32_PANELS, 3 * FLOAT32_PANELS + 1])
def test_sums_of_exponentials(n_queries, n_panels):
    queries, panels, norms, offsets, terms = cloud(np.random.default_rng(n_panels), n_queries, n_panels, spread=0.3)
    sums = sums_of(queries, panels, norms, offsets)
    np.testing.assert_allclose(sums, terms.sum(axis=1), rtol=1e-5)
    # equal terms: nothing of the roundings cancels
    panels[:], norms[:] = 0, np.float32(-1.2345)
    sums = sums_of(queries, panels, norms, np.full_like(offsets, 0.4321))
    np.testing.assert_allclose(sums, norms.size * np.exp(-1.2345 - 0.4321), rtol=1e-5)


@compiled
def test_terms_of_all_sizes():
    """One term is left of each sum: from e^-87 up, 0 below, 1 from the offset on and above."""
    x = np.concatenate([np.linspace(-87, 0, 4001), -(2.0 ** np.arange(-30, 6))]).astype(np.float32)
    x = np.concatenate([x, np.linspace(-0.4, -0.3, 999).astype(np.float32)])
    panels, norms = np.zeros((1, 1, PANEL), np.float32), np.full(PANEL, -np.inf, np.float32)
    norms[PANEL - 3] = 0
    sums = sums_of(np.zeros((len(x), 1), np.float32), panels, norms, -x)
    np.testing.assert_allclose(sums, np.exp(x.astype(np.float64)), rtol=1e-5)
    np.testing.assert_allclose(sums[x > -16], np.exp(x[x > -16].astype(np.float64)), rtol=3e-6)
    some = np.array([1e-3, 5, 1e30, np.inf, -89, -1e3, -1e30, -np.inf, np.nan], np.float32)
    sums = sums_of(np.zeros((len(some), 1), np.float32), panels, norms, -some)
    assert sums.tolist() == [1] * 4 + [0] * 5


@compiled
def test_places_left_over_and_numbers_beyond_add_nothing():
    queries, panels, norms, offsets, terms = cloud(np.random.default_rng(1), 5, 4)
    norms[7:] = -np.inf
    np.testing.assert_allclose(sums_of(queries, panels, norms, offsets), terms[:, :7].sum(axis=1), rtol=1e-5)
    norms[3] = np.nan
    np.testing.assert_allclose(
        sums_of(queries, panels, norms, offsets), np.delete(terms[:, :7], 3, axis=1).sum(axis=1), rtol=1e-5
    )


@compiled
def test_rows_of_the_own_group_are_left_out():
    rng = np.random.default_rng(2)
    queries, panels, norms, offsets, terms = cloud(rng, 2 * TILE + 3, 5, spread=0.4)
    # numbers that differ in their upper half only
    groups = rng.choice([0, 1, 2, 2**32, 2**32 + 1, 2**62], size=norms.size)
    own = rng.choice([-1, 0, 1, 2, 2**32, 2**32 + 1, 2**62], size=len(queries))
    own[0], own[1] = -1, 2**32
    expected = (terms * (groups != own[:, None])).sum(axis=1)
    np.testing.assert_allclose(sums_of(queries, panels, norms, offsets, own, groups), expected, rtol=1e-5)
    assert sums_of(queries[:1], panels, norms, offsets[:1], own[:1], groups) == sums_of(
        queries[:1], panels, norms, offsets[:1]
    )
    alone = sums_of(queries, panels, norms, offsets, np.zeros(len(queries), np.int64), np.zeros_like(groups))
    assert (alone == 0).all()


@compiled
def test_bits_do_not_depend_on_the_other_queries():
    rng = np.random.default_rng(3)
    queries, panels, norms, offsets, _ = cloud(rng, 5 * TILE, 7, spread=0.5)
    sums = sums_of(queries, panels, norms, offsets)
    products = np.empty((len(queries), norms.size), np.float32)
    multiply(queries, panels, products)
    for n in range(1, 3 * TILE):
        some = rng.permutation(len(queries))[:n]
        np.testing.assert_array_equal(sums_of(queries[some], panels, norms, offsets[some]), sums[some])
        fewer = np.empty((n, norms.size), np.float32)
        multiply(queries[some], panels, fewer)
        np.testing.assert_array_equal(fewer, products[some])


@pytest.mark.parametrize("width", [1, 2, 63, 64, 130])
def test_half_squares(width):
    rng = np.random.default_rng(width)
    query, rows = gauss(rng, 1, width)[0].astype(np.float32), 10 + gauss(rng, 4 * PANEL, width).astype(np.float32)
    out = np.full(3 * PANEL, np.nan, np.float32)
    half_squares(query, panels_of(rows), 1, 2, out)
    expected = -0.5 * ((query.astype(np.float64) - rows.astype(np.float64)) ** 2).sum(axis=1)[PANEL : 3 * PANEL]
    np.testing.assert_allclose(out[: 2 * PANEL], expected, rtol=(width + 2) * UNIT)
    assert np.isnan(out[2 * PANEL :]).all()


RUN_ALL = """
import sys
import pytest
from quests_md._kernels.tiles import HAS_TILES, PANEL, TILE
print(HAS_TILES, PANEL, TILE)
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[1], "-k", "not processors"]))
"""


@pytest.mark.slow
@compiled
@pytest.mark.skipif(numba.config.CPU_FEATURES is not None, reason="is itself the run for another processor")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64") or not HAS_TILES, reason="needs AVX2")
@pytest.mark.parametrize(
    ("cpu", "features", "found"),
    [
        pytest.param("haswell", "+avx,+avx2,+fma", "True 16 6", marks=pytest.mark.long),
        ("generic", "", "False 16 6"),
    ],
)
def test_other_processors(cpu, features, found, tmp_path):
    path = Path(__file__)
    env = os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    env["PYTHONPATH"] = str(path.parents[2])
    run = [sys.executable, "-c", RUN_ALL, str(path)]
    done = subprocess.run(run, env=env, cwd=path.parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == found


@compiled
def test_this_processor():
    features = get_host_cpu_features().split(",") if numba.config.CPU_FEATURES is None else []
    if "+avx512f" in features:
        assert (HAS_TILES, PANEL, TILE) == (True, 32, 8)
