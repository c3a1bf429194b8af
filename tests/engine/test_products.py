"""Products whose bits do not depend on the threads of BLAS."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from quests_md._threads import has_openblas_alone
from quests_md.engine.products import multiply_panels, product

pytestmark = pytest.mark.skipif(not has_openblas_alone(), reason="numpy is not built with OpenBLAS")

ROWS = [1, 2, 3, 64, 65, 129, 255, 256]


@pytest.mark.parametrize("width", [9, 63, 95])
@pytest.mark.parametrize("threads", [2, 3])
def test_a_product_in_pieces_is_right_and_has_the_same_bits_with_any_number_of_threads(width, threads):
    rng = np.random.default_rng(width)
    axes = np.linalg.qr(rng.normal(size=(width, width)))[0]
    others = rng.normal(size=(2048, width))
    panels = rng.normal(size=(3, width, 32)).astype(np.float32)
    for m in ROWS:
        left = rng.normal(size=(m, width))
        low = left.astype(np.float32)
        for right in (axes, others[:1].T, others[:700].T, others.T):
            found = []
            for n in (1, threads):
                with threadpool_limits(n, user_api="blas"):
                    found.append(product(left, right))
            np.testing.assert_array_equal(*found)
            np.testing.assert_allclose(found[0], left @ right, rtol=0, atol=1e-12)
        found = [np.empty((m, 3, 32), np.float32).transpose(1, 0, 2) for _ in range(2)]
        for n, out in zip((1, threads), found, strict=True):
            with threadpool_limits(n, user_api="blas"):
                multiply_panels(low, panels, out)
        np.testing.assert_array_equal(*found)
        np.testing.assert_allclose(found[0], low @ panels, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_rows", [70, 1000, 8192])
@pytest.mark.parametrize("width", [63, 95])
def test_principal_axes_of_rows_that_are_cut_do_not_depend_on_threads(width, n_rows):
    rng = np.random.default_rng(n_rows)
    rows = rng.normal(size=(n_rows, width)) * np.exp(-np.arange(width) / 10)
    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads, user_api="blas"):
            covariance = rows.T @ rows
            found.append((covariance, np.linalg.eigh(covariance)[1]))
    for covariance, axes in found[1:]:
        np.testing.assert_array_equal(covariance, found[0][0])
        np.testing.assert_array_equal(axes, found[0][1])
