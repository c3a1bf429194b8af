"""Rows on a device of torch, here its CPU: decisions of the CPU, whatever torch is told elsewhere in the process.

`test_index.py` puts the same structure to all the tests of the others, on input made to break them.
"""

import pickle
import subprocess
import sys
import threading

import naive
import numpy as np
import pytest
from references import Given, carrying, rattled_cells
from systems import alloy_reference, alloys, inside, md_frames, md_reference, outside

from quests_md import Monitor, Reference, calibrate
from quests_md.engine import torch_blocks, torch_index

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

H = 0.015


def cloud(rng, n=5000, width=63):
    """Rows so near to each other that float32 is good enough for most products."""
    return H * rng.normal(size=(n, width)) * np.linspace(1.5, 0.2, width)


def reference_of(rows):
    return Reference.from_frames(
        [carrying(rows[start : start + 100]) for start in range(0, len(rows), 100)],
        descriptor=Given(),
        bandwidth=H,
        groups="frame",
    )


@pytest.fixture(scope="module")
def case():
    """A reference on the CPU, the same on torch's device, and queries with dH from -5 to 60."""
    rng = np.random.default_rng(1)
    rows = cloud(rng)
    queries = rows[::50] + H * rng.normal(size=(100, 63)) * rng.uniform(0, 1.2, (100, 1))
    reference = reference_of(rows)
    return reference, reference.to("cpu"), queries


def answers(reference, queries):
    """Everything that is decided."""
    exact = naive.delta_entropy(queries, reference.rows, H)
    nearest = reference.nearest(np.tile(queries, (21, 1)))
    return (
        np.stack([reference.is_covered(queries, exact + shift) for shift in (-5.0, -1e-7, 0.0, 1e-7, 5.0)]),
        nearest.frame[: len(queries)],
        nearest.atom[: len(queries)],
    )


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_decisions_and_nearest_rows_are_those_of_the_cpu_and_values_as_good(case):
    plain, moved, queries = case
    assert_same(answers(plain, queries), answers(moved, queries))
    assert isinstance(moved.structures[0], torch_index.TorchIndex)
    exact = plain.delta_entropy(queries, float64=True)
    assert (np.abs(moved.delta_entropy(queries) - exact) <= 1e-4 + 1e-6 * np.abs(exact)).all()
    np.testing.assert_array_equal(moved.delta_entropy(queries, float64=True), exact)
    assert moved.fingerprint == plain.fingerprint


def test_rows_of_the_own_group_are_left_out(case):
    plain, moved, _ = case
    numbers, own = np.full(len(plain.rows), 29)[::7], plain.row_groups[::7]
    expected = plain.delta_entropy_without(plain.rows[::7], numbers, own, float64=True)
    found = moved.delta_entropy_without(moved.rows[::7], numbers, own)
    assert (np.abs(found - expected) <= 1e-4 + 1e-6 * np.abs(expected)).all()
    # a group that is all there is: no row is left
    alone = np.zeros(len(plain.rows), np.int64)
    sums = torch_index.TorchIndex(plain.rows, H, "cpu").minus_log_sums(plain.rows[:3], 1, alone[:3], alone)
    assert (sums.values == np.inf).all()
    assert (sums.bounds == 0).all()


def test_pieces_of_any_size_give_the_same(case, monkeypatch):
    plain, _, queries = case
    expected = answers(plain, queries)
    monkeypatch.setattr(torch_index, "MOST_BOUNDS", 40)
    monkeypatch.setattr(torch_blocks, "MOST_DIFFERENCES", 1)
    monkeypatch.setattr(torch_blocks, "TOGETHER_CPU", 1)
    assert_same(answers(plain.to("cpu"), queries), expected)


def test_several_threads_may_ask_at_the_same_time(case):
    plain, _, queries = case
    moved, found = plain.to("cpu"), []
    threads = [threading.Thread(target=lambda: found.append(answers(moved, queries))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        assert_same(one, answers(plain, queries))
    assert len(found) == 3


def rounded_to_tf32(tensor):
    """Float32 numbers with ten binary places, as tensor cores take them where TF32 is allowed."""
    bits = tensor.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def test_products_in_tf32_are_noticed_and_made_in_float64(case, monkeypatch):
    """No device with TF32 is at hand: its rounding is put in the place of torch's product."""
    plain, _, queries = case
    product, kinds = torch.bmm, []

    def bmm(a, b):
        kinds.append(a.dtype)
        return product(rounded_to_tf32(a), rounded_to_tf32(b)) if a.dtype == torch.float32 else product(a, b)

    monkeypatch.setattr(torch, "bmm", bmm)
    assert_same(answers(plain.to("cpu"), queries), answers(plain, queries))
    assert torch.float32 in kinds
    index = torch_index.TorchIndex(plain.rows, H, "cpu")
    exact = naive.delta_entropy(queries, plain.rows, H)
    values, bounds, _ = index.minus_log_sums(queries, 1)
    assert (np.abs(values - exact) <= bounds).all()
    monkeypatch.setattr(torch, "bmm", product)
    faster, wider, _ = index.minus_log_sums(queries, 1)  # in float32, as the wider bounds say
    assert (np.abs(faster - exact) <= wider).all()
    assert np.median(wider) > 2 * np.median(bounds)


def settings():
    return (
        torch.get_float32_matmul_precision(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_rng_state().tolist(),
    )


def test_settings_of_torch_are_neither_changed_nor_obeyed(case):
    plain, _, queries = case
    expected = answers(plain, queries)
    before = settings()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.set_default_dtype(torch.float16)
        torch.set_default_device("meta")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            within = settings()
            assert_same(answers(plain.to("cpu"), queries), expected)
            assert settings() == within
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.set_default_dtype(before[1])
        torch.set_default_device(None)
    assert settings() == before


@pytest.mark.parametrize("statistics", [None, ("dh_max", "dh_mean", "n_tail")])
def test_a_run_has_the_same_alarms_and_events(statistics):
    frames = [outside(i) if i in (3, 4, 5, 6) else inside(i) for i in range(10)]
    reference = Reference.from_frames(md_frames()[::4])
    calibration = calibrate(reference, false_alarms=0.05, statistics=statistics)
    runs = []
    for known in (reference, reference.to("cpu")):
        with Monitor(known, calibration, log=None, on_error="raise", values="proven") as monitor:
            checks = [monitor.check(atoms, step=i) for i, atoms in enumerate(frames)]
            runs.append((checks, [(event.kind, event.onset_step, event.atoms) for event in monitor.events]))
    assert runs[0][1] == runs[1][1] != []
    for one, other in zip(runs[0][0], runs[1][0], strict=True):
        assert (one.alarms, one.state, one.n_above) == (other.alarms, other.state, other.n_above)
        assert other.trigger_excess == pytest.approx(one.trigger_excess, abs=1e-3)
        if statistics is None:  # local scores are made on the CPU
            assert one.excesses == other.excesses


def test_levels_are_within_the_tolerance_of_values():
    reference = Reference.from_frames(md_frames()[::8])
    one, other = (calibrate(known, statistics=("dh_max",)) for known in (reference, reference.to("cpu")))
    numbers = np.full(32, 29)
    level, same = (c.frame_levels(numbers, None)[0].value for c in (one, other))
    assert same == pytest.approx(level, abs=2e-4)


def test_elements_are_judged_by_their_own(case):
    reference = alloy_reference()
    atoms = alloys(1, seed=9)[0]
    np.testing.assert_allclose(reference.to("cpu").delta_entropy(atoms), reference.delta_entropy(atoms), atol=1e-4)
    assert (md_reference().to("cpu").is_covered(atoms, 1e6) == (atoms.numbers == 29)).all()


def test_references_made_of_it_are_on_its_device():
    reference = Reference.from_frames(rattled_cells(150)).to("cpu")
    reference.delta_entropy(rattled_cells(1, seed=3)[0])
    more = reference.extend(rattled_cells(20, seed=4))
    atoms = rattled_cells(1, seed=5)[0]
    np.testing.assert_allclose(more.delta_entropy(atoms), more.to(None).delta_entropy(atoms), atol=1e-4)
    for made in (more, reference.with_bandwidth(0.02), reference.with_held_out_scores(), reference.sketch(100, 0)):
        assert made.device == "cpu"
    assert reference.to(None).device is None
    assert pickle.loads(pickle.dumps(reference)).device is None


def test_a_device_that_is_none_says_what_to_do():
    for wrong in ("cuda:99", "abacus", "meta"):
        with pytest.raises(
            ValueError, match=f"device: expected one .* got '{wrong}' .* or give device=None for the CPU"
        ):
            md_reference().to(wrong)
    with pytest.raises(TypeError, match="device: expected a name such as 'cuda', or None for the CPU, got 0"):
        md_reference().to(0)


def test_torch_is_imported_only_where_it_is_asked_for():
    code = "import quests_md, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
