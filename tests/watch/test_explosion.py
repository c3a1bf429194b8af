import itertools
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from hypothesis import given, settings
from hypothesis import strategies as st
from systems import FS, alloy, copper, level_at, md_frames, md_reference, outside

from quests_md import (
    Descriptor,
    FrameError,
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
from quests_md.environments.contacts import CLOSE, close_pairs
from quests_md.watch.explosion import Explosion, RunningMedian

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")

CU = {(29, 29): (2.2, 2.5)}
WATER = {(1, 1): (1.45, 1.55), (1, 8): (0.9, 0.97), (8, 8): (2.45, 2.8)}
CU3AU = {(29, 29): (2.3, 2.6), (29, 79): (2.35, 2.65), (79, 79): (3.4, 3.75)}


def limit(pair, distances):
    """The distance at which a pair of atoms begins to count, by bisection."""
    low, high = 1e-3, 6.0
    for _ in range(30):
        middle = (low + high) / 2
        found = close_pairs(Atoms(pair, [[0, 0, 0], [0, 0, middle]]), distances)
        low, high = (middle, high) if found.n_pairs else (low, middle)
    return low


def naive_close_pairs(atoms, limits):
    """Distances and limits of the pairs that are too near: all pairs and all images that could matter, one by one."""
    ranges = [range(-7, 8) if periodic else range(1) for periodic in atoms.pbc]
    shifts = np.array(list(itertools.product(*ranges))) @ atoms.cell.array
    scaled = atoms.positions.copy()
    if atoms.pbc.any():
        vectors = atoms.cell.array[atoms.pbc]
        scaled -= np.floor(scaled @ np.linalg.pinv(vectors)) @ vectors
    found = {}
    for i, j in itertools.combinations_with_replacement(range(len(atoms)), 2):
        r = np.linalg.norm(scaled[j] - scaled[i] + shifts, axis=1)
        if i == j:
            r = r[np.abs(shifts).sum(axis=1) > 0]
        if len(r) and r.min() < limits[frozenset(atoms.numbers[[i, j]].tolist())]:
            found[i, j] = r.min()
    return found


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(0, 20),
    edge=st.sampled_from([1.5, 2.5, 4.0, 7.0]),
    skew=st.sampled_from([0.0, 0.8, 2.5]),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_against_all_pairs_and_images(seed, n, edge, skew, pbc):
    rng = np.random.default_rng(seed)
    cell = edge * (np.diag(rng.uniform(0.8, 1.5, 3)) + skew * np.triu(rng.uniform(-1, 1, (3, 3)), 1))
    atoms = Atoms(rng.choice([29, 79], n), positions=rng.uniform(-1, 2, (n, 3)) @ cell, cell=cell, pbc=pbc)
    distances = {(29, 29): (1.0, 2.0), (29, 79): (1.5, 2.0), (79, 79): (2.0, 2.5)}
    limits = {frozenset(pair): CLOSE * smallest for pair, (smallest, _) in distances.items()}
    before = atoms.copy()
    expected = naive_close_pairs(atoms, limits)
    found = close_pairs(atoms, distances)
    assert atoms == before
    assert {tuple(pair) for pair in found.atoms.tolist()} <= set(expected)
    assert len(found.atoms) == min(len(expected), 100)
    assert found.n_pairs >= len(expected)
    assert (found.n_pairs > 0) == bool(expected) == bool(found.reason)
    np.testing.assert_allclose(found.distances, sorted(expected.values())[:100], atol=1e-9)
    for (i, j), r, most in zip(found.atoms.tolist(), found.distances, found.limits, strict=True):
        assert r == pytest.approx(expected[i, j], abs=1e-9)
        assert most == limits[frozenset(atoms.numbers[[i, j]].tolist())]


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_count_is_exact_in_a_large_frame(shuffled):
    atoms = bulk("Cu", cubic=True) * 5
    atoms.rattle(0.5, seed=0)
    if shuffled:
        atoms = atoms[np.random.default_rng(1).permutation(len(atoms))]
    distances = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)]
    near = np.sort(distances[distances < 1.76])
    found = close_pairs(atoms, CU)
    assert found.n_pairs == len(near) > 100
    np.testing.assert_allclose(found.distances, near[:100])
    i, j = found.atoms[0]
    assert atoms.get_distance(i, j, mic=True) == pytest.approx(found.distances[0])


def test_the_closest_pair_is_named_with_its_limit():
    atoms = bulk("Cu", cubic=True) * 3
    atoms.positions[7] = atoms.positions[3] + [0, 0, 1.21]
    found = close_pairs(atoms, {(29, 29): (2.2375, 2.5)})
    assert (found.atoms[0].tolist(), found.limits[0]) == ([3, 7], pytest.approx(1.79))
    text = (
        "atoms 3 and 7 (Cu-Cu) are 1.21 Å apart; below 1.79 Å, 0.8 times the closest pair of the reference, counts as "
        "exploded"
    )
    assert (found.n_pairs, found.reason) == (1, text)
    atoms.positions[50] = atoms.positions[60] + [0, 1.3, 0]
    found = close_pairs(atoms, {(29, 29): (2.2375, 2.5)})
    assert (found.n_pairs, found.reason) == (2, text + "; 1 more pair too near")
    assert found.atoms.tolist() == [[3, 7], [50, 60]]
    atoms.set_array("id", np.arange(len(atoms)) + 1000)
    assert close_pairs(atoms, {(29, 29): (2.2375, 2.5)}).reason.startswith("atoms 1003 and 1007 (Cu-Cu)")


def test_a_collapsed_cell_counts():
    found = close_pairs(bulk("Cu", a=2.4), CU)
    assert (found.n_pairs, found.atoms.tolist()) == (1, [[0, 0]])
    assert found.distances[0] == pytest.approx(2.4 / 2**0.5)
    assert found.reason.startswith("atom 0 and its own image (Cu-Cu) are 1.70 Å apart; below 1.76 Å")
    assert close_pairs(bulk("Cu", a=2.6), CU).n_pairs == 0
    chain = Atoms("Cu", cell=[0, 0, 1.7], pbc=(False, False, True))
    assert close_pairs(chain, CU).n_pairs == 1
    assert close_pairs(Atoms("Cu", cell=[0, 0, 1.7]), CU).n_pairs == 0
    with pytest.raises(FrameError, match="collapsed"):
        close_pairs(bulk("Cu", a=0.01), CU)


def test_short_periods_of_skewed_cells_are_found():
    cell = np.array([[6.0, 0, 0], [5.0, 1.2, 0], [0, 0, 6.0]])  # b - a is shorter than both
    found = close_pairs(Atoms("Cu", cell=cell, pbc=True), CU)
    assert found.distances[0] == pytest.approx(np.linalg.norm(cell[1] - cell[0]))


def test_every_atom_in_one_place():
    atoms = Atoms("Cu300", positions=np.zeros((300, 3)), cell=[9, 9, 9], pbc=True)
    found = close_pairs(atoms, CU)
    assert (found.n_pairs, len(found.atoms), found.distances.max()) == (300 * 299 // 2, 100, 0.0)


def test_frames_that_cannot_be_measured():
    assert close_pairs(Atoms(), CU).n_pairs == 0
    assert close_pairs(Atoms("Cu2", positions=np.zeros((2, 3))), {}).n_pairs == 0
    with pytest.raises(FrameError, match="positions: expected finite numbers"):
        close_pairs(Atoms("Cu2", positions=[[0, 0, 0], [0, 0, math.nan]]), CU)


def test_the_limit_of_what_the_reference_has_seen_bonded():
    assert limit("Cu2", CU) == pytest.approx(0.8 * 2.2)
    assert limit("Ar2", {(18, 18): (3.2, 3.7)}) == pytest.approx(0.8 * 3.2)  # far beyond covalent radii
    assert limit("Ar2", {(18, 18): (0.9, 1.0)}) == pytest.approx(0.8 * 0.9)  # reduced units
    assert limit("HO", WATER) == limit("OH", WATER) == pytest.approx(0.8 * 0.9)
    assert limit("AuCu", CU3AU) == pytest.approx(0.8 * 2.35)
    acac = {(1, 1): (1.58, 1.76), (1, 6): (1.0, 1.09), (1, 8): (0.94, 2.68), (6, 6): (1.29, 1.44), (6, 8): (1.17, 1.34)}
    for symbols, pair in (("CH", (1, 6)), ("OH", (1, 8)), ("CC", (6, 6)), ("CO", (6, 8))):
        assert limit(symbols, acac) == pytest.approx(0.8 * acac[pair][0])


def test_chemistry_that_the_reference_has_not_seen_is_no_explosion():
    """Bonds in Å at equilibrium; 0.9 of them, hot, must be allowed as well."""
    bonds = {"H2": 0.74, "O2": 1.21, "OH": 0.97, "CO": 1.13, "CH": 1.06, "N2": 1.10, "C2": 1.20, "CN": 1.16, "F2": 1.41,
             "UO": 1.75, "TiO": 1.62, "VO": 1.57, "CuH": 1.46, "LiH": 1.59, "NaCl": 2.36, "Cs2": 4.5}  # fmt: skip
    for symbols, bond in bonds.items():
        for known in (CU, WATER, {(6, 7): (1.1, 1.3)}, {(8, 22): (1.7, 1.95), (8, 8): (2.4, 2.7), (22, 22): (2.7, 3)}):
            assert limit(symbols, known) < 0.9 * bond, (symbols, known)
    assert limit("H2", WATER) < 0.66  # seen, but not bonded
    assert limit("O2", WATER) < 1.0
    assert limit("H2", CU) == pytest.approx(0.6 * 2 * covalent_radii[1])
    assert limit("NiO", {(18, 18): (0.9, 1.0)}) <= 0.8 * 0.9  # a reference in reduced units


def test_the_texts_of_pairs_that_the_reference_has_not_seen_bonded():
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.3]])
    text = "atoms 0 and 1 (H-H) are 0.30 Å apart; below 0.37 Å counts as exploded"
    assert close_pairs(atoms, WATER).reason == f"{text} (the reference has them no nearer than 1.45 Å)"
    assert close_pairs(atoms, CU).reason == f"{text} (the reference has no such pair)"


def test_antisites_of_an_ordered_alloy_are_no_explosion():
    reference = Reference.from_frames([alloy(2, seed=seed) for seed in range(6)])
    distances = reference.pair_distances()
    atoms = alloy(3, seed=10)
    gold = np.flatnonzero(atoms.symbols == "Au")
    from_gold = atoms.get_distances(gold[0], range(len(atoms)), mic=True)
    beside = int(np.argmin(np.where(atoms.symbols == "Cu", from_gold, np.inf)))
    atoms.symbols[beside], atoms.symbols[gold[-1]] = "Au", "Cu"
    assert from_gold[beside] < 0.8 * distances[79, 79][0]  # two gold atoms side by side
    atoms.calc = EMT()
    dyn = Langevin(atoms, 5 * FS, temperature_K=900, friction=0.02 / FS, fixcm=False, rng=np.random.default_rng(0))
    for _ in range(6):
        dyn.run(10)
        assert close_pairs(atoms, distances).reason == ""


def test_an_unlike_pair_known_only_cold_takes_the_mean_of_the_like_ones():
    hot = {(41, 41): (2.1, 2.8), (41, 42): (2.75, 2.8), (42, 42): (2.2, 2.7)}
    assert limit("NbMo", hot) == pytest.approx(0.8 * 2.15)
    assert limit("Nb2", hot) == pytest.approx(0.8 * 2.1)


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


def test_a_relaxation_that_is_heated_then_is_none():
    atoms = copper(2, rattle=0.1, calc=EMT())
    explosion, found = Explosion(), []

    def watch():
        temperature = atoms.get_temperature() if atoms.has("momenta") else None
        found.append(explosion.update(temperature, atoms.get_volume() / len(atoms), len(atoms)))

    optimizer = BFGS(atoms, logfile=None)
    optimizer.attach(watch)
    optimizer.run(fmax=0.05, steps=30)
    atoms.set_momenta(copper(2, temperature_K=1600, seed=4).get_momenta())
    dyn = Langevin(atoms, 5 * FS, temperature_K=800, friction=0.02 / FS, fixcm=False, rng=np.random.default_rng(0))
    dyn.attach(watch, 5)
    dyn.run(100)
    assert len(found) > 25
    assert set(found) == {""}


SETS = {
    "Cu": ("mlearn/Cu_train.xyz", ["mlearn/Cu_test.xyz"]),
    "Ni": ("mlearn/Ni_train.xyz", ["mlearn/Ni_test.xyz"]),
    "Li": ("mlearn/Li_train.xyz", ["mlearn/Li_test.xyz"]),
    "Mo": ("mlearn/Mo_train.xyz", ["mlearn/Mo_test.xyz"]),
    "NbMoTaW": ("NbMoTaW/train.xyz", ["NbMoTaW/test.xyz"]),
    "acac": (
        "acac/train_300K.xyz",
        [f"acac/{name}.xyz" for name in ("test_MD_300K", "test_MD_600K", "test_dihedral", "test_H_transfer")],
    ),
}


@needs_data
@pytest.mark.parametrize("name", SETS)
def test_real_frames_are_none(name):
    train, tests = SETS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # isolated atoms
        frames = read(DATA / train, ":")
        distances = Reference.from_frames(frames).pair_distances()
    for path in tests:
        for atoms in read(DATA / path, ":"):
            assert close_pairs(atoms, distances).reason == ""
    for atoms in frames[:: len(frames) // 10]:
        atoms.positions *= 0.5
        atoms.set_cell(atoms.cell * 0.5)
        assert len(atoms) == 1 or close_pairs(atoms, distances).n_pairs


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


def test_running_median():
    rng = np.random.default_rng(0)
    values = rng.normal(size=300).tolist()
    running = RunningMedian()
    for i, value in enumerate(values):
        running.add(value)
        expected = np.median(values[max(0, i - 100) : i + 1])
        assert running.value == (None if i < 2 else pytest.approx(expected, abs=1e-15))


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
