"""Kernel regression on a device of torch: the CPU's answers lie within its bounds, and its bounds are of use."""

import numpy as np
import pytest

from quests_md.engine import KernelRegression

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

WIDTH = 63


def spectrum(kind):
    """How far rows vary along each axis, in bandwidths: evenly, along few axes, and nearly along few."""
    x = np.linspace(0.0, 1.0, WIDTH)
    return {
        "even": 1.0 + 0.0 * x,
        "few": 6.0 * (1.0 - x) ** 8,
        "nearly": 4.0 * np.exp(-9.0 * x),
        "wide": 30.0 - 29.0 * x,
    }[kind]


def case(kind, n, h, seed=0):
    rng = np.random.default_rng(seed)
    scale = h * spectrum(kind)
    rows = rng.normal(size=(n, WIDTH)) * scale
    values = np.column_stack([rng.normal(-3.0, 2.0, n), rng.gamma(1.0, size=n)])
    near = rows[:100] + 0.3 * rng.normal(size=(min(n, 100), WIDTH)) * scale
    others = [rows[:5], rng.normal(size=(60, WIDTH)) * scale, 4.0 * rng.normal(size=(40, WIDTH)) * scale]
    far = [np.full((1, WIDTH), far) for far in (0.5, 30.0, 1e6, -1e200)]
    return KernelRegression(rows, h, values), near, np.concatenate([near, *others, *far])


def asked(regression, queries, noise=0.0):
    return regression.on("cpu").at(torch.from_numpy(queries), torch.full((len(queries),), noise, dtype=torch.float64))


def require_within(found, there):
    for mine, its, bound in [
        (found.delta_entropy, there.delta_entropy, there.entropy_error),
        (found.means, there.means, there.mean_errors),
    ]:
        its, bound = its.numpy(), bound.numpy()
        is_known = bound < np.inf
        assert (np.abs(mine - its)[is_known] <= bound[is_known]).all()
    assert (np.isfinite(there.mean_errors.numpy()).all(axis=1) == np.isfinite(there.entropy_error.numpy())).all()


@pytest.mark.parametrize("n", [4000, 1, 70])
@pytest.mark.parametrize("kind", ["even", "few", "nearly", "wide"])
def test_the_cpus_answers_lie_within_the_bounds(kind, n):
    for h in (0.006, 0.015):
        regression, near, queries = case(kind, n, h)
        there = asked(regression, queries)
        require_within(regression.at(queries, 1), there)
        assert there.entropy_error[: len(near)].max() < 0.05
        if kind != "wide":
            assert there.entropy_error[: len(near)].median() < 2e-3
            assert there.mean_errors[: len(near)].median() < 1e-2


@pytest.mark.parametrize("kind", ["even", "nearly"])
def test_rows_that_are_not_those_of_the_cpu_by_some_noise_lie_within_the_bounds(kind):
    regression, _, queries = case(kind, 2000, 0.006)
    rng, noise = np.random.default_rng(2), 1e-3
    moves = rng.normal(size=queries.shape)
    moves *= 0.006 * noise / np.linalg.norm(moves, axis=1)[:, None]
    require_within(regression.at(queries, 1), asked(regression, queries + moves, noise))


def test_equal_rows_and_equal_values():
    rows = np.repeat(np.random.default_rng(3).normal(size=(3, WIDTH)), 40, axis=0) * 0.01
    regression = KernelRegression(rows, 0.006, np.ones((120, 2)))
    there = asked(regression, rows)
    require_within(regression.at(rows, 1), there)
    assert torch.equal(there.means, torch.ones_like(there.means))


def test_values_may_be_changed_and_nothing_of_torch_counts():
    regression, _, queries = case("few", 300, 0.006)
    other = regression.with_values(np.random.default_rng(4).normal(size=(300, 2)))
    before = asked(other, queries).means
    torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        assert torch.equal(asked(other, queries).means, before)
    require_within(other.at(queries, 1), asked(other, queries))
