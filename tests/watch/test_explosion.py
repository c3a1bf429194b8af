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
from scipy.stats import chi2
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
from quests_md.environments import close_pairs, frame_facts
from quests_md.watch.explosion import Explosion, fastest_of


@pytest.fixture(scope="module")
def distances():
    return Reference.from_frames(md_frames()[::4]).pair_distances()


def exploding(dt, temperature_K, distances, n_steps=60):
    """First step at which each criterion fires in EMT copper at a time step that is too long."""
    atoms = copper(2, seed=3, temperature_K=2 * temperature_K, calc=EMT())
    dyn = VelocityVerlet(atoms, dt * FS)
    explosion, together, first = Explosion(), Explosion(), {}
    for step in range(n_steps):
        if step:
            dyn.run(1)
        assert np.isfinite(atoms.positions).all()
        if explosion.update(atoms.get_temperature(), None, len(atoms)):
            first.setdefault("temperature", step)
        near, facts = close_pairs(atoms, distances), frame_facts(atoms)
        if near.impossible or together.update(facts.temperature_K, None, near=near.reason, fastest_K=facts.fastest_K):
            first.setdefault("close", step)
            assert near.n_pairs
        else:
            assert not near.n_pairs  # at this temperature no atoms meet
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
    assert run_of(explosion, [300, 310, 290, 310, 700, 1499]) == [False] * 6
    text = "the temperature jumped to 8000 K, more than 5 times its running median of 310 K"
    assert explosion.update(8000, 11.0) == text
    assert run_of(explosion, [1e5] * 300) == [True] * 300  # does not become the norm
    assert run_of(explosion, [300, 1e300, math.inf]) == [False, True, True]


def test_a_few_values_first():
    assert run_of(Explosion(), [300, 3000, 300, 14_900, 75_000]) == [False] * 4 + [True]
    assert Explosion().update(math.inf, None) == "the temperature is infinite"


def test_a_commanded_ramp_is_none_and_a_jump_is():
    assert not any(run_of(Explosion(), [300.0] * 200 + [300 * 1.1**i for i in range(60)]))
    rng = np.random.default_rng(0)
    for _ in range(20):  # 8 atoms: 24 degrees of freedom, heated at once by a thermostat that needs five checks
        bath = np.concatenate([np.full(100, 300.0), 4000 - 3700 * np.exp(-np.arange(100) / 5)])
        assert not any(run_of(Explosion(), bath * rng.chisquare(24, len(bath)) / 24, n_atoms=8))
    told = [300.0] * 20 + [3800.0] * 3  # within one check
    for fastest, explodes in ((10, False), (14, True), (None, True)):
        explosion, found = Explosion(), []
        for kelvin in told:
            fastest_K = None if fastest is None else fastest * kelvin
            found.append(bool(explosion.update(kelvin, None, 100, fastest_K=fastest_K if kelvin > 300 else 3000)))
        assert found == [False] * 20 + [explodes] * 3
    explosion = Explosion()
    assert not any(run_of(explosion, [300.0] * 20, fastest_K=3000))
    assert explosion.update(20_001, None, 100, fastest_K=9 * 20_001)  # nobody tells a thermostat that


def test_fastest_of_atoms_in_thermal_motion():
    rng = np.random.default_rng(0)
    for n_atoms in (1, 8, 100):
        largest = rng.chisquare(3, size=(20_000, n_atoms)).max(axis=1) / 3
        assert (largest > fastest_of(n_atoms)).sum() <= 1
        assert fastest_of(n_atoms) == pytest.approx(chi2.isf(1e-6 / n_atoms, 3) / 3)
    assert fastest_of(100) < fastest_of(None) == fastest_of(10**6) < 20


def test_max_temperature():
    explosion = Explosion(max_temperature_K=1000)
    assert explosion.update(1000.5, None) == "the temperature of 1000 K is above max_temperature_K = 1000"
    assert run_of(explosion, [1000, 0, 999], n_atoms=2) == [False] * 3
    assert explosion.update(2000, None, 2)
    assert not any(run_of(Explosion(max_temperature_K=9000), [300.0] * 50 + [8000.0, 300.0, 8999.0]))  # no median
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
        assert any(run_of(Explosion(), values)) == (n_atoms < 3)


def test_volume():
    explosion = Explosion()
    for volume in (None, math.nan, 11.0, 12.0, 11.5, 27.0, None, 5.0):
        assert explosion.update(None, volume) == ""
    text = "the volume jumped to 70 Å^3 per atom, more than 5 times its running median of 11.5 Å^3"
    assert explosion.update(None, 70.0) == text
    assert explosion.update(None, 1.9).startswith("the volume jumped to 1.9 Å^3 per atom, less than 1/5 of its running")
    assert explosion.update(None, 0.0)
    assert explosion.update(None, math.inf)
    both = explosion.update(math.inf, 1e9)
    assert "temperature" in both
    assert "; the volume" in both
    boiling = Explosion()  # at zero pressure far above boiling: it swells from check to check
    assert not any(boiling.update(None, 12 * 1.15**i) for i in range(60))


def test_atoms_too_near_are_an_explosion_if_one_is_faster_than_heat():
    explosion, near = Explosion(), "atoms 3 and 7 are near"
    assert explosion.update(300, None, 100, near=near, fastest_K=3000) == ""
    for _ in range(20):
        assert explosion.update(3800, None, 100, near=near, fastest_K=36_000) == ""
    text = "atoms 3 and 7 are near; the fastest atom has 8e+04 K, more than thermal motion gives at 3800 K"
    assert explosion.update(4000, None, 100, near=near, fastest_K=80_000) == text
    assert explosion.update(4000, None, 100, fastest_K=80_000) == ""  # an ion of a cascade that is near to none
    assert explosion.update(None, None, 100, near=near) == ""  # frames without momenta
    assert Explosion().update(300, None, 100, near=near, fastest_K=6001)  # the first check
    assert not Explosion().update(10, None, 100, near=near, fastest_K=2000)
    assert Explosion().update(math.inf, None, 100, near=near, fastest_K=math.inf)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(), st.floats(0, 3000)), max_size=260),
    st.integers(0, 260),
    st.sampled_from(["", "atoms 3 and 7 are near"]),
)
def test_restored_it_goes_on_the_same(values, at, near):
    one, other = Explosion(2500.0), Explosion(2500.0)
    for i, value in enumerate(values):
        if i == at:
            state = json.loads(json.dumps(one.state(), allow_nan=False))
            assert len(state["temperatures"]) <= 101
            assert len(state["volumes"]) <= 101
            other.restore(state)
        found = one.update(value, value, near=near, fastest_K=value)
        if i >= at:
            assert other.update(value, value, near=near, fastest_K=value) == found
    assert at >= len(values) or other.state() == one.state()


def naive_judgement(taken, value, n_atoms, near, fastest):
    """The docstring of Explosion restated: whether a check explodes after these checks that did not."""
    temperatures = [t for t, _, _ in taken if t is not None and t >= 50]
    volumes = []
    for _, v, n in reversed(taken):
        if n != n_atoms:
            break
        volumes.insert(0, v)
    volumes = [v for v in volumes if v is not None and 0 < v < math.inf]
    t, v = value
    recent = max([200, *(temperatures[-10:] or [t or 0.0])])
    jumped = t is not None and t > 5 * recent
    scale = t if jumped and t <= 20_000 else recent
    too_fast = fastest is not None and fastest > scale * chi2.isf(1e-6 / n_atoms, 3) / 3
    hot = (
        jumped
        and n_atoms >= 8
        and len(temperatures) >= (1 if t > 20_000 else 3)
        and t > 5 * np.median(temperatures[-101:])
    )
    large = False
    if v is not None and len(volumes) >= 3:
        middle = np.median(volumes[-101:])
        large |= v > 5 * middle and v > 2.5 * max(volumes[-10:])
        large |= v < middle / 5 and v < min(volumes[-10:]) / 2.5
    return bool(large or (near and too_fast) or (hot and (too_fast or fastest is None)))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6))
def test_judgements_equal_the_docstring_restated(seed):
    rng = np.random.default_rng(seed)
    explosion, taken, n_atoms = Explosion(), [], 20
    for _ in range(rng.integers(1, 300)):
        n_atoms = n_atoms if rng.random() < 0.98 else int(rng.choice([4, 20, 30]))
        scale = rng.choice([0.0, 0.1, 1.0, 1.0, 1.0, 1.0, 3.0, 8.0, 30.0, 90.0], size=3) * rng.lognormal(0, 0.3, 3)
        value = [None if rng.random() < 0.05 else x for x in (300 * scale[0], 12 * scale[1])]
        near, fastest = rng.choice(["", "near"]), None if rng.random() < 0.1 else 3000 * scale[2]
        expected = naive_judgement(taken, value, n_atoms, near, fastest)
        assert bool(explosion.update(*value, n_atoms, near=near, fastest_K=fastest)) == expected
        if not expected:
            taken.append((*value, n_atoms))


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


@pytest.mark.slow
def test_atoms_that_meet_in_a_hot_run_are_novel_and_collected(tmp_path, distances):
    reference = Reference.from_frames(md_frames()[::4])
    atoms = copper(2, seed=3, temperature_K=8000, calc=EMT())
    dyn = Langevin(atoms, FS, temperature_K=4500, friction=0.02 / FS, fixcm=False, rng=np.random.default_rng(0))
    meeting = []
    dyn.attach(lambda: meeting.append(close_pairs(atoms, distances).n_pairs), 10)
    with Monitor(
        reference, level_at(reference, 2.0), log=None, actions=[save_frame(tmp_path / "f.extxyz")], on_error="raise"
    ) as monitor:
        monitor.attach(dyn, 10)
        dyn.run(2500)
    assert sum(meeting) > 0  # what counted as exploded when only the distance was asked
    assert [event.kind for event in monitor.events] == ["novel"]
    assert monitor.last_check.explosion == ""
    assert (tmp_path / "f.extxyz").stat().st_size > 0


def test_atoms_on_top_of_each_other_are_an_explosion_without_momenta(distances):
    reference = Reference.from_frames(md_frames()[::4])
    with Monitor(reference, level_at(reference, 1e3), log=None, on_error="raise") as monitor:
        for share, explodes in ((0.72, False), (0.68, True)):
            atoms = copper(2, seed=3)
            atoms.positions[7] = atoms.positions[3] + [0, 0, share * distances[29, 29][0]]
            assert bool(monitor.check(atoms).explosion) == explodes
        assert monitor.events[-1].kind == "exploded"
        assert set(monitor.events[-1].atoms) == {3, 7}


def test_a_cell_that_was_never_set_is_bad_input_and_one_that_collapses_an_explosion(tmp_path):
    reference = md_reference()
    bare = copper(seed=1)
    bare.cell[:] = 0
    with Monitor(reference, log=tmp_path / "a.jsonl", on_error="raise") as monitor:
        with pytest.raises(UnsuitableFrameError, match=r"pbc = T T T.*atoms.set_cell"):
            monitor.check(bare)
        assert not monitor.events
        monitor.check(copper(seed=1))
        assert monitor.check(bare).state == "invalid"
        assert [event.kind for event in monitor.events] == ["exploded"]
    bare.calc = EMT()
    dyn = VelocityVerlet(bare, FS)
    with Monitor(reference, log=tmp_path / "b.jsonl") as monitor, pytest.raises(UnsuitableFrameError):
        monitor.attach(dyn)
    lost = copper(seed=1)
    lost.cell[0, 0] = np.nan
    with Monitor(reference, log=tmp_path / "c.jsonl") as monitor:
        monitor.check(copper(seed=1))
        monitor.check(lost)
        assert [event.kind for event in monitor.events] == ["exploded"]
