"""Thinned references: every row left out is covered by those that are kept, and what is lost is told."""

import naive
import numpy as np
import pytest
from references import Given, H, carrying, rattled_cells

from quests_md import Reference, calibrate
from quests_md.reference import thinning_loss


def clouds(n, seed=0):
    """Rows of two elements around a few places, dense and sparse, with copies and outliers."""
    rng = np.random.default_rng(seed)
    frames = []
    for i in range(n):
        rows = rng.normal(0, [[0.01], [0.03], [0.2]][i % 3], (50, 5)) + (i % 4)
        rows[3] = rows[2]
        rows[7] *= 1e4 if i % 50 == 0 else 1
        frames.append(carrying(rows, np.where(np.arange(50) % 5, 29, 30)))
    return frames


def left_out(whole, thin):
    """For each element: the rows that were left out, and those that were kept."""
    for z, block in whole.blocks.items():
        known = thin.rows[thin.blocks[z]]
        kept = {row.tobytes() for row in known}
        rows = np.array([row for row in whole.rows[block] if row.tobytes() not in kept])
        yield rows, known


@pytest.mark.parametrize("bound", [-2.0, 0.0, 0.5, 8.0])
@pytest.mark.parametrize("match", ["element", "any"])
def test_rows_left_out_are_covered(bound, match):
    """By the float64 sum over rows of their element; kept rows are in their order, with their frames and groups."""
    whole = Reference.from_frames(clouds(60), descriptor=Given(), bandwidth=H, match=match, groups="frame")
    thin = whole.thin(bound)
    n = 0
    for rows, known in left_out(whole, thin):
        n += len(rows)
        assert len(rows) == 0 or naive.delta_entropy(rows, known, H).max() <= bound
    assert 0 < thin.n_environments < whole.n_environments
    assert n > 0
    assert thin.arrays.frame_group.tolist() == whole.arrays.frame_group.tolist()
    assert thin.settings == whole.settings
    assert thin.fingerprint != whole.fingerprint
    assert thin.provenance["thinned"] == {"bound": bound, "rows": thin.n_environments}
    assert thin.provenance["parents"] == [whole.fingerprint]


def test_many_rows_in_several_search_structures():
    """Kept rows fill some structures, and what is covered is as in the plain greedy cover, up to margins of proofs."""
    rng = np.random.default_rng(1)
    frames = [carrying(rng.normal(0, 1.0, (500, 2))) for _ in range(60)]
    whole = Reference.from_frames(frames, descriptor=Given(), bandwidth=0.01, groups="frame")
    thin = whole.thin(0.5, threads=1)
    assert 10_000 < thin.n_environments < 29_000
    for rows, known in left_out(whole, thin):
        assert naive.delta_entropy(rows[::20], known, 0.01).max() <= 0.5
        assert whole.is_covered(rows, 0.5).all()
        assert thin.is_covered(rows, 0.5).all()
    again = whole.thin(0.5, threads=2)
    assert again.fingerprint == thin.fingerprint
    kept, n_kept = np.empty((0, 2)), 0
    for row in whole.rows[:3000]:
        if n_kept == 0 or naive.delta_entropy(row[None], kept, 0.01)[0] > 0.5:
            kept, n_kept = np.concatenate([kept, row[None]]), n_kept + 1
    assert n_kept == pytest.approx((thin.arrays.atom_frame < 6).sum(), rel=0.002)


def test_the_loss_is_told(tmp_path):
    frames = rattled_cells(300, amplitude=0.03)
    whole = Reference.from_frames(frames, bandwidth=H, groups="frame")
    whole.save(tmp_path / "r.safetensors")
    losses = [thinning_loss(whole, whole.thin(bound)) for bound in (-2.0, 0.5, 2.0)]
    assert [loss.kept for loss in losses] == sorted((loss.kept for loss in losses), reverse=True)
    assert all(loss.shift[0] <= loss.shift[1] <= loss.shift[2] for loss in losses)
    assert losses[0].completeness == 1 > losses[2].completeness
    assert losses[0].shift[0] < losses[2].shift[0]
    mapped = Reference.load(tmp_path / "r.safetensors", mmap=True)
    thin = mapped.thin(0.5)
    assert thin.fingerprint == whole.thin(0.5).fingerprint
    assert thinning_loss(mapped, thin) == losses[1]
    thin.save(tmp_path / "thin.safetensors")
    loaded = Reference.load(tmp_path / "thin.safetensors")
    assert calibrate(loaded, frames=rattled_cells(20, seed=5, amplitude=0.03)).n_groups > 1
    with pytest.warns(UserWarning, match="thinned|no groups") as told:
        calibrate(loaded)
    assert any(
        "was thinned" in str(one.message) and "give frames that are not in it" in str(one.message) for one in told
    )


@pytest.mark.parametrize("bound", [np.nan, np.inf, "1", None, True])
def test_a_bound_is_a_number(bound):
    known = Reference.from_frames(rattled_cells(3), bandwidth=H, groups="frame")
    with pytest.raises(ValueError, match="bound: expected a number of nats"):
        known.thin(bound)
