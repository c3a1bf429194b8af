"""References of labelled phases that do not fit: another temperature than the run's, atoms of another phase in them."""

import functools

import numpy as np
import pytest
from ase.build import bulk
from systems import H, copper

from quests_md import Monitor, Phases, Reference, calibrate, read_log


def rattled(seed, rattle, temperature_K=None):
    atoms = copper(3, seed=seed, rattle=rattle)
    if temperature_K is not None:
        atoms.info["temperature_K"] = temperature_K
    return atoms


def mixed(seed, share, rattle=0.25):
    """A crystal rattled by 0.1 Å, of which a share is rattled by more."""
    atoms = bulk("Cu", cubic=True) * (6, 3, 3)
    is_warm = atoms.positions[:, 0] < share * atoms.cell[0, 0]
    noise = np.random.default_rng(seed).normal(0, 1, (len(atoms), 3))
    atoms.positions += noise * np.where(is_warm, rattle, 0.1)[:, None]
    return atoms


def of(frames):
    return Reference.from_frames(frames, bandwidth=H, groups="frame")


@functools.cache
def warm(low=800.0, high=1200.0):
    return of([rattled(i, 0.25, t) for i, t in enumerate(np.linspace(low, high, 10))])


@functools.cache
def cold():
    return of([rattled(100 + i, 0.1, 300.0) for i in range(10)])


@functools.cache
def phases():
    return Phases({"warm": warm(), "cold": cold()})


def test_pure_references_are_pure():
    assert phases().impurities == ()
    assert "WARNING" not in phases().describe()


def test_a_product_with_atoms_of_the_parent_is_named_with_its_share():
    both = Phases({"warm": warm(), "cold": of([mixed(200 + i, 0.5 if i % 2 else 0.0) for i in range(10)])})
    (text,) = both.impurities
    assert text.startswith("the reference of cold is not pure: at least ")
    assert 0.02 < float(text.split("at least ")[1].split("%")[0]) / 100 < 0.3
    assert "look like warm (5 frames of 10 looked at: frames 1, 3, 5, 7, 9 of " in text
    assert "WARNING: the reference of cold is not pure" in both.describe()


def test_a_parent_with_atoms_of_the_product_is_named():
    frozen = of([rattled(i, 0.25) for i in range(10)] + [mixed(300 + i, 0.15) for i in range(4)])
    both = Phases({"warm": frozen, "cold": cold()})
    (text,) = both.impurities
    assert text.startswith("the reference of warm is not pure: at least ")
    assert "frames 10, 11, 12, 13 of " in text


@pytest.mark.parametrize(
    ("run_K", "parent", "words"),
    [
        (900.0, "warm", None),
        (700.0, "warm", "the reference of warm is hotter than the run: the run is at 700 K"),
        (2000.0, "warm", None),  # away from the product
        (310.0, "cold", None),
        (500.0, "cold", "the reference of cold is colder than the run"),
        (100.0, "cold", None),
        (0.0, "warm", None),
    ],
)
def test_a_run_at_another_temperature_than_the_parent(run_K, parent, words):
    both = phases() if parent == "warm" else Phases({"cold": cold(), "warm": warm()})
    doubt = both.temperature_doubt(run_K, 10_000)
    assert (doubt is None) == (words is None)
    if words is not None:
        assert words in doubt
        other = both.products[0]
        assert f"looks more like {other}, which may be seen where there is none: give frames of {parent} at " in doubt


def test_small_frames_may_scatter_more_and_control_frames_count():
    assert phases().temperature_doubt(700.0, 32) is None
    assert phases().temperature_doubt(700.0, 32, n_checks=10) is not None
    both = Phases({"warm": warm(), "cold": cold()}, control=[rattled(50, 0.25, 690.0)])
    assert both.temperature_doubt(700.0, 10_000) is None


def test_nothing_is_said_where_frames_carry_no_temperatures():
    both = Phases({"warm": of([rattled(i, 0.25) for i in range(4)]), "cold": cold()})
    assert both.temperature_doubt(1.0, 100) is None


def watched(tmp_path, both, frames):
    """Warnings by check, and the check at which the first event of a phase opened."""
    calibration = calibrate(warm())
    path = tmp_path / "run.jsonl"
    opened = None
    with Monitor(warm(), calibration, phases=both, log=path, on_error="raise") as monitor:
        for i, atoms in enumerate(frames):
            monitor.check(atoms, step=i)
            if opened is None and any(event.phase for event in monitor.events):
                opened = i
    return [(note["step"], note["message"]) for note in read_log(path).notes if note["level"] == "warning"], opened


def test_a_run_colder_than_the_liquid_is_warned_of_before_any_event(tmp_path, caplog):
    frames = [rattled(500 + i, 0.15, 500.0) for i in range(8)]
    warnings, opened = watched(tmp_path, phases(), frames)
    step, text = warnings[0]
    assert step == 0
    assert "phases: the reference of warm is hotter than the run: the run is at 500 K" in text
    assert text in caplog.text
    assert opened is not None
    assert sum("hotter than the run" in text for _, text in warnings) == 1  # said once


def test_a_run_that_begins_like_the_product_is_warned_of_without_temperatures(tmp_path):
    warnings, opened = watched(tmp_path, phases(), [rattled(600 + i, 0.13) for i in range(6)])
    step, text = warnings[0]
    assert (step, len(warnings)) == (1, 1)
    assert "phases: the run's beginning already looks like cold: " in text
    assert "where at most 0.01 of warm are mistaken for it" in text
    assert opened is None or opened > step


def test_a_run_of_the_parent_is_not_warned_of(tmp_path):
    warnings, opened = watched(tmp_path, phases(), [rattled(700 + i, 0.25, 900.0) for i in range(14)])
    assert (warnings, opened) == ([], None)


def test_preflight_says_that_the_start_is_colder_than_the_liquid(tmp_path):
    with Monitor(warm(), phases=phases(), log=None) as monitor:
        text = " ".join(monitor.preflight(rattled(1, 0.25, 500.0)).split())
    assert "WARNING: the reference of warm is hotter than the run: the run is at 500 K" in text


def test_impure_references_are_named_in_the_log(tmp_path):
    both = Phases({"warm": warm(), "cold": of([mixed(200 + i, 0.5 if i % 2 else 0.0) for i in range(10)])})
    warnings, _ = watched(tmp_path, both, [rattled(700, 0.25)])
    assert warnings == [(0, f"phases: {both.impurities[0]}")]
