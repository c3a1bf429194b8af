import itertools
import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.data import covalent_radii
from ase.md.langevin import Langevin
from hypothesis import given, settings
from hypothesis import strategies as st
from systems import FS, alloy

from quests_md import FrameError, Reference
from quests_md.environments import close_pairs
from quests_md.environments.contacts import CLOSE

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
