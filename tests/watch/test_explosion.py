import copy
import json
import math

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from hypothesis import given, settings
from hypothesis import strategies as st
from systems import FS, H, copper, level_at, md_frames, md_reference, outside, verlet

from quests_md import (
    Descriptor,
    Minimised,
    Monitor,
    Reference,
    TimeAveraged,
    Trigger,
    UnsuitableFrameError,
    read_log,
    save_frame,
    score_trajectory,
)
from quests_md.environments import close_pairs
from quests_md.watch.explosion import Explosion


@pytest.fixture(scope="module")
def distances():
    return Reference.from_frames(md_frames()[::4]).pair_distances()


def exploding(dt, temperature_K, distances, n_steps=60):
    """First step at which each criterion fires in EMT copper at a time step that is too long."""
    atoms = copper(2, seed=3, temperature_K=2 * temperature_K, calc=EMT())
    dyn = VelocityVerlet(atoms, dt * FS)
    explosion, first = Explosion(), {}
    for step in range(n_steps):
        if step:
            dyn.run(1)
        assert np.isfinite(atoms.positions).all()
        if explosion.update(atoms.get_temperature(), None, len(atoms)):
            first.setdefault("temperature", step)
        if close_pairs(atoms, distances).n_pairs:
            first.setdefault("close", step)
        if len(first) == 2:
            break
    return first


@pytest.mark.parametrize(
    ("dt", "temperature_K", "by_step"), [(30, 300, 12), (50, 300, 4), (100, 300, 4), (50, 1000, 4)]
)
def test_too_long_a_time_step_is_found_while_numbers_are_still_finite(dt, temperature_K, by_step, distances):
    with np.errstate(all="ignore"):
        first = exploding(dt, temperature_K, distances)
    assert first["close"] <= first["temperature"] <= by_step


@pytest.mark.parametrize("dt", [5, 15])
def test_a_usable_time_step_is_none(dt, distances):
    assert exploding(dt, 300, distances) == {}


@pytest.mark.slow
def test_a_heating_ramp_is_none(distances):
    atoms = copper(2, seed=3, temperature_K=300, calc=EMT())
    dyn = Langevin(atoms, 5 * FS, temperature_K=300, friction=0.05 / FS, fixcm=False, rng=np.random.default_rng(0))
    explosion, reached, closest = Explosion(), [], 9.0
    for i in range(40):
        dyn.set_temperature(temperature_K=300 + 1700 * i / 30)
        dyn.run(8)
        atoms.set_cell(atoms.cell * 1.001, scale_atoms=True)
        reached.append(atoms.get_temperature())
        assert explosion.update(reached[-1], atoms.get_volume() / len(atoms), len(atoms)) == ""
        assert close_pairs(atoms, distances).reason == ""
        closest = min(closest, atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)].min())
    assert max(reached) > 1700 > 350 > min(reached)
    assert closest < 0.95 * distances[29, 29][0]  # hotter than the reference, and still none


def run_of(explosion, values, **kwargs):
    return [bool(explosion.update(value, None, **kwargs)) for value in values]


def test_five_times_the_running_median():
    explosion = Explosion()
    assert run_of(explosion, [300, 310, 290, 1499]) == [False] * 4
    assert explosion.update(1600, 11.0) == "the temperature of 1600 K is more than 5 times its running median of 305 K"
    assert run_of(explosion, [1e5] * 300) == [True] * 300  # does not become the norm
    assert run_of(explosion, [300, 1e300, math.inf]) == [False, True, True]


def test_a_few_values_first():
    assert run_of(Explosion(), [300, 5000, 300, 9000]) == [False, False, False, True]
    assert Explosion().update(math.inf, None) == "the temperature is infinite"


def test_growth_by_steps_does_not_take_the_median_along():
    found = run_of(Explosion(), [300.0] * 20 + [300 * 1.1**i for i in range(60)])
    assert found.index(True) == 20 + math.ceil(math.log(5) / math.log(1.1))
    assert all(found[found.index(True) :])


def test_max_temperature():
    explosion = Explosion(max_temperature_K=1000)
    assert explosion.update(1000.5, None) == "the temperature of 1000 K is above max_temperature_K = 1000"
    assert run_of(explosion, [1000, 0, 999], n_atoms=2) == [False] * 3
    assert explosion.update(2000, None, 2)
    for wrong in (0, -1.0, math.nan, math.inf, "hot"):
        with pytest.raises(ValueError, match="max_temperature_K: expected a positive temperature"):
            Explosion(max_temperature_K=wrong)


@pytest.mark.parametrize(
    "values",
    [
        [0.0] * 200 + [10, 60, 300, 600, 900],
        [0.0, 0.0, 0.0, 2400, 1300, 1100, 1200],
        [5.0] * 20 + [2000.0] * 5,
        [50, 60, 55, 400, 300, 300],
        [None, None, None, 300, None],
        [math.nan, 300, math.nan, 310, 290, math.nan, 320],
        np.linspace(1, 3000, 40),
        np.geomspace(300, 3000, 15),
        2000 * 0.8 ** np.arange(60),
    ],
)
def test_heating_and_cooling_are_none(values):
    assert not any(run_of(Explosion(), values))


@pytest.mark.slow
def test_few_atoms_are_not_judged_by_the_median():
    rng = np.random.default_rng(0)
    for n_atoms in (2, 3, 8):
        values = 300 * rng.chisquare(3 * n_atoms - 3, 20_000) / (3 * n_atoms - 3)
        assert not any(run_of(Explosion(), values, n_atoms=n_atoms))
        assert any(run_of(Explosion(), values)) == (n_atoms < 8)


def test_volume():
    explosion = Explosion()
    for volume in (None, math.nan, 11.0, 12.0, 11.5, 40.0, None, 3.0):
        assert explosion.update(None, volume) == ""
    assert explosion.update(None, 60.0).startswith("the volume of 60 Å^3 per atom is more than 5 times its running")
    assert explosion.update(None, 2.0).startswith("the volume of 2 Å^3 per atom is less than 1/5 of its running")
    assert explosion.update(None, 0.0)
    assert explosion.update(None, math.inf)
    both = explosion.update(math.inf, 1e9)
    assert "temperature" in both
    assert "; the volume" in both


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(), st.floats(0, 3000)), max_size=260), st.integers(0, 260))
def test_restored_it_goes_on_the_same(values, at):
    one, other = Explosion(2500.0), Explosion(2500.0)
    for i, value in enumerate(values):
        if i == at:
            state = json.loads(json.dumps(one.state(), allow_nan=False))
            assert len(state["temperatures"]) <= 101
            assert len(state["volumes"]) <= 101
            other.restore(state)
        found = one.update(value, value)
        if i >= at:
            assert other.update(value, value) == found
    assert at >= len(values) or other.state() == one.state()


def test_the_running_median_is_that_of_the_last_101_values():
    volumes = np.random.default_rng(0).uniform(8, 30, size=300).tolist()
    explosion = Explosion()
    for i, volume in enumerate(volumes):
        explosion.update(None, volume)
        middle = np.median(volumes[max(0, i - 100) : i + 1])
        for factor, explodes in ((4.999, False), (5.001, i > 1)):
            probe = copy.deepcopy(explosion)
            assert bool(probe.update(None, factor * middle)) == explodes


@pytest.mark.parametrize("broken", ["momenta", "forces", "energy"])
def test_numbers_that_are_not_finite_explode_and_are_never_saved(tmp_path, broken):
    frames = []
    for step in range(6):
        atoms = outside(step)
        results = {"energy": -1.0, "forces": np.zeros((len(atoms), 3))}
        momenta = np.ones((len(atoms), 3))
        if step >= 3:
            for name, array in {"momenta": momenta, "forces": results["forces"]}.items():
                if name == broken:
                    array[7, 1] = math.nan
            if broken == "energy":
                results["energy"] = math.nan
        atoms.set_momenta(momenta)
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    with Monitor(
        md_reference(),
        level_at(md_reference(), -6.0),
        trigger=Trigger(patience=2),
        log=tmp_path / "run.jsonl",
        actions=[save_frame(tmp_path / "flagged.extxyz")],
        on_error="raise",
    ) as monitor:
        checks = [monitor.check(atoms) for atoms in frames]
        novel, exploded = monitor.events
    assert [bool(check.explosion) for check in checks] == [False] * 3 + [True] * 3
    assert (novel.kind, exploded.kind, exploded.onset_step) == ("novel", "exploded", 3)
    assert "finite" in exploded.reason
    assert exploded.atoms == (() if broken == "energy" else (7,))
    assert "nan" not in (tmp_path / "flagged.extxyz").read_text().lower()


def by_element():
    return Reference.from_frames(
        [copper(seed=seed, rattle=0.05) for seed in range(6)],
        descriptor=Descriptor(k=8, elements=("Cu",)),
        bandwidth=0.05,
        groups="frame",
    )


def gilded(n_frames, *which):
    frames = [copper(seed=seed, rattle=0.05) for seed in range(n_frames)]
    for i in which:
        frames[i].symbols[0] = "Au"
    return frames


def test_a_frame_that_the_descriptor_does_not_take_is_no_explosion_of_a_live_run(tmp_path):
    def run(**settings):
        dyn = VelocityVerlet(copper(temperature_K=300, calc=EMT()), 2 * FS)
        with Monitor(by_element(), **settings) as monitor:
            monitor.attach(dyn, 5)
            for symbol in ("Cu", "Au", "Cu"):
                dyn.atoms.symbols[0] = symbol
                dyn.run(10)
        return dyn, monitor

    with pytest.raises(UnsuitableFrameError, match="expected atoms of Cu, got Au for atom 0"):
        run(log=None, on_error="raise")
    dyn, monitor = run(log=tmp_path / "run.jsonl")
    assert dyn.nsteps == 30
    log = read_log(tmp_path / "run.jsonl")
    assert not [event for event in (*monitor.events, *log.events) if event.kind == "exploded"]
    assert log.step.tolist() == [0, 5, 10, 25, 30]
    notes = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    failures = [note["message"] for note in notes if note.get("level") == "error"]
    assert len(failures) == 1
    assert "the monitor failed: UnsuitableFrameError: elements: expected atoms of Cu, got Au" in failures[0]


def test_a_frame_that_the_descriptor_does_not_take_is_no_explosion_of_a_trajectory(tmp_path):
    averaged = TimeAveraged(Descriptor(k=8), samples=2)
    of_averages = Reference.from_frames(
        [averaged.marked(atoms) for atoms in gilded(6)], descriptor=averaged, bandwidth=0.05, groups="frame"
    )
    for reference, text in ((by_element(), "got Au"), (of_averages, "not averaged")):
        frames = gilded(3, 1)
        with pytest.raises(UnsuitableFrameError, match=text):
            list(score_trajectory(frames, reference, level_at(reference, 1e3)))
        if reference is not of_averages:  # the pre-flight has but one frame and takes it for an average
            with pytest.raises(UnsuitableFrameError, match=text):
                Monitor(reference, level_at(reference, 1e3), log=None).preflight(frames[1])
        log = tmp_path / f"{text}.jsonl"
        checks = score_trajectory(frames, reference, level_at(reference, 1e3), log=log, on_error="log")
        assert "invalid" in [check.state for check in checks]
        assert not read_log(log).events


def test_a_frame_that_cannot_be_described_is_an_explosion_for_every_descriptor():
    averaged = TimeAveraged(Descriptor(k=8), samples=2)
    for descriptor in (Descriptor(k=8, elements=("Cu",)), averaged, Minimised(EMT, "EMT", steps=1)):
        frames = [averaged.marked(atoms) for atoms in gilded(6)]
        reference = Reference.from_frames(frames, descriptor=descriptor, bandwidth=0.05, groups="frame")
        broken = frames[0].copy()
        broken.positions[3, 1] = math.nan
        with Monitor(reference, level_at(reference, 1e3), log=None, on_error="raise") as monitor:
            assert [monitor.check(atoms).state for atoms in (frames[0], broken)] == ["in", "invalid"]
            assert [event.kind for event in monitor.events] == ["exploded"]


def test_a_start_that_the_reference_is_not_for_leaves_the_log_free(tmp_path):
    resolved = Descriptor(elements=("Cu", "Au"))
    reference = Reference.from_frames([copper(seed=i, rattle=0.05) for i in range(4)], descriptor=resolved, bandwidth=H)
    nickel = copper(temperature_K=300, calc=EMT())
    nickel.numbers[:] = 28
    with Monitor(reference, level_at(reference, 1e3), log=tmp_path / "run.jsonl") as monitor:
        with pytest.raises(UnsuitableFrameError, match="got Ni"):
            monitor.attach(verlet(nickel), 1)
        assert monitor.check(nickel).state == "invalid"
    with Monitor(reference, level_at(reference, 1e3), log=tmp_path / "run.jsonl") as monitor:
        assert monitor.check(copper()).state == "in"
    with pytest.raises(TypeError, match=r"atoms: expected ase\.Atoms, got int"):
        Monitor(reference, level_at(reference, 1e3), log=None).preflight(3)
