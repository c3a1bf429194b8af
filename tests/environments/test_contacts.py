import itertools
import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.data import covalent_radii
from ase.md.langevin import Langevin
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from systems import FS, alloy

from quests_md import FrameError, Reference
from quests_md.environments.contacts import (
    CLOSE,
    LINK,
    UNKNOWN_LINK,
    close_pairs,
    clusters,
    coordination,
    largest_cluster,
)

CU = {(29, 29): (2.2, 2.5)}
SHORT = {(29, 29): (2.2, 2.0)}
WATER = {(1, 1): (1.45, 1.55), (1, 8): (0.9, 0.97), (8, 8): (2.45, 2.8)}
CU3AU = {(29, 29): (2.3, 2.6), (29, 79): (2.35, 2.65), (79, 79): (3.4, 3.75)}
MIXED = {(13, 13): (1.0, 1.4), (13, 28): (1.0, 2.0), (28, 28): (1.0, 2.9)}


def frame(seed, n, edge, skew, pbc, share, outside, elements):
    """Atoms at random in a random cell, and which of them are flagged."""
    rng = np.random.default_rng(seed)
    cell = edge * (np.diag(rng.uniform(0.8, 1.5, 3)) + skew * np.triu(rng.uniform(-1, 1, (3, 3)), 1))
    positions = rng.uniform(-1 if outside else 0, 2 if outside else 1, (n, 3)) @ cell
    atoms = Atoms(rng.choice(elements, n), positions=positions, cell=cell, pbc=pbc)
    return atoms, rng.uniform(size=n) < share


PBC = st.tuples(st.booleans(), st.booleans(), st.booleans())
FRAMES = st.tuples(
    st.integers(0, 2**31),
    st.integers(0, 24),
    st.sampled_from([1.8, 3.0, 6.0, 10.0, 14.0]),
    st.sampled_from([0.0, 0.3, 0.8]),
    PBC,
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.booleans(),
)


def image_distances(atoms):
    """A function: distances from atom i to all images of atom j that could matter, but not to itself."""
    ranges = [range(-7, 8) if periodic else range(1) for periodic in atoms.pbc]
    shifts = np.array(list(itertools.product(*ranges))) @ atoms.cell.array
    wrapped = atoms.positions.copy()
    if atoms.pbc.any():
        vectors = atoms.cell.array[atoms.pbc]
        wrapped -= np.floor(wrapped @ np.linalg.pinv(vectors)) @ vectors

    def distances(i, j):
        r = np.linalg.norm(wrapped[j] - wrapped[i] + shifts, axis=1)
        return r[np.abs(shifts).sum(axis=1) > 0] if i == j else r

    return distances


def naive_links(pair_distances):
    """The link in Å of every pair of Al, Ni and Cu."""
    medians = {pair: median for pair, (_, median) in pair_distances.items()}
    longest = max(medians.values(), default=UNKNOWN_LINK / LINK)
    return {(a, b): LINK * medians.get((min(a, b), max(a, b)), longest) for a in (13, 28, 29) for b in (13, 28, 29)}


def naive_clusters(atoms, flagged, pair_distances):
    """Flood fill over all pairs and all images that could matter, one pair at a time."""
    distances, links, z = image_distances(atoms), naive_links(pair_distances), atoms.numbers.tolist()
    left, found = set(np.flatnonzero(flagged).tolist()), []
    while left:
        frontier, members = [left.pop()], []
        while frontier:
            i = frontier.pop()
            members.append(i)
            reached = {j for j in left if distances(i, j).min() < links[z[i], z[j]]}
            left -= reached
            frontier += reached
        found.append(sorted(members))
    return sorted(found, key=lambda members: (-len(members), members[0]))


def check_clusters(atoms, flagged, pair_distances):
    before, mask = atoms.copy(), flagged.copy()
    found = clusters(atoms, flagged, pair_distances)
    expected = naive_clusters(atoms, flagged, pair_distances)
    assert [cluster.tolist() for cluster in found] == expected
    assert all(cluster.dtype == np.int64 for cluster in found)
    assert largest_cluster(atoms, flagged, pair_distances) == max(map(len, expected), default=0)
    assert atoms == before
    np.testing.assert_array_equal(flagged, mask)


@settings(max_examples=120, deadline=None)
@given(FRAMES)
def test_clusters_of_one_element_against_flood_fill(drawn):
    check_clusters(*frame(*drawn, elements=[29]), SHORT)


@settings(max_examples=120, deadline=None)
@given(FRAMES, st.sampled_from([MIXED, {(13, 28): (1.0, 1.7)}, {}]))
def test_clusters_of_two_elements_of_different_links_against_flood_fill(drawn, pair_distances):
    check_clusters(*frame(*drawn, elements=[13, 28]), pair_distances)


@pytest.mark.parametrize(
    ("pbc", "expected"), [(True, 4), (False, 2), ((True, False, False), 4), ((False, True, True), 2)]
)
def test_clusters_reach_across_periodic_boundaries(pbc, expected):
    atoms = Atoms("Cu4", [[x, 1, 1] for x in (0.5, 2.5, 17.5, 19.5)], cell=[20, 20, 20], pbc=pbc)
    assert largest_cluster(atoms, np.ones(4, bool), SHORT) == expected


def test_the_link_is_that_of_the_pair_or_else_the_longest_known_or_a_usual_one():
    seen = {(13, 13): (2.0, 2.0), (13, 28): (2.0, 3.0), (28, 28): (2.0, 4.0)}
    cases = [(symbols, seen, LINK * median) for symbols, median in (("Al2", 2), ("AlNi", 3), ("NiAl", 3), ("Ni2", 4))]
    cases += [("AlNi", {(13, 13): (2.0, 2.0), (28, 28): (2.0, 4.0)}, LINK * 4.0), ("AlNi", {}, UNKNOWN_LINK)]
    for symbols, distances, link in cases:
        for r, expected in ((link - 1e-6, 2), (link + 1e-6, 1)):
            atoms = Atoms(symbols, [[0, 0, 0], [0, 0, r]])
            assert largest_cluster(atoms, np.ones(2, bool), distances) == expected


def test_first_shells_of_metals_are_linked_and_second_shells_are_not():
    for symbol, structure in (("Cu", "fcc"), ("Ta", "bcc"), ("Mg", "hcp")):
        atoms = bulk(symbol, structure) * 6
        nearest = np.sort(atoms.get_distances(0, range(1, len(atoms)), mic=True))[0]
        z = int(atoms.numbers[0])
        everything = largest_cluster(atoms, np.ones(len(atoms), bool), {(z, z): (nearest, nearest)})
        assert everything == len(atoms)
    fcc = bulk("Cu", cubic=True) * 4
    distances = fcc.get_distances(0, range(len(fcc)), mic=True)
    for r, expected in ((3.61 / 2**0.5, 2), (3.61, 1)):
        flagged = np.zeros(len(fcc), bool)
        flagged[[0, int(np.argmin(np.abs(distances - r)))]] = True
        assert largest_cluster(fcc, flagged, {(29, 29): (2.55, 2.5527)}) == expected


def test_many_linked_atoms_in_a_small_cell():
    rng = np.random.default_rng(0)
    atoms = Atoms("Cu300", positions=rng.uniform(0, 5, (300, 3)), cell=[5, 5, 5], pbc=True)
    assert largest_cluster(atoms, np.ones(300, bool), SHORT) == 300


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (bulk("Cu"), 12),
        (bulk("Cu", cubic=True) * 3, 12),
        (bulk("Ta"), 14),  # both near shells
        (bulk("Mg") * 2, 12),
        (Atoms("Cu"), 0),
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]]), 1),
        (Atoms("Cu", cell=[0, 0, 2.5], pbc=(False, False, True)), 2),
    ],
)
def test_coordination_of_known_structures(atoms, expected):
    z = int(atoms.numbers[0])
    nearest = {29: 2.5527, 73: 2.8579, 12: 3.2}[z]
    assert coordination(atoms, len(atoms) - 1, {(z, z): (nearest, nearest)}) == expected


def test_coordination_at_a_surface():
    slab = fcc111("Cu", (3, 3, 4), vacuum=8.0)
    assert [coordination(slab, i, {(29, 29): (2.55, 2.5527)}) for i in (0, 10, 20, 30)] == [9, 12, 12, 9]


@settings(max_examples=60, deadline=None)
@given(FRAMES, st.sampled_from([MIXED, {(13, 28): (1.0, 1.7)}, {}]))
def test_coordination_against_ase(drawn, pair_distances):
    atoms, _ = frame(*drawn, elements=[13, 28])
    links, z = naive_links(pair_distances), atoms.numbers.tolist()
    i, j, r = neighbor_list("ijd", atoms, max(links.values()))
    for atom in range(0, len(atoms), 5):
        near = [r[k] < links[z[atom], z[j[k]]] for k in np.flatnonzero(i == atom)]
        assert coordination(atoms, atom, pair_distances) == sum(near)


@pytest.mark.parametrize("index", [-1, 4])
def test_coordination_of_an_atom_that_is_not_there(index):
    with pytest.raises(IndexError, match=f"index: expected an atom from 0 to 3, got {index}"):
        coordination(bulk("Cu", cubic=True), index, CU)


def limit(pair, distances):
    """The distance at which a pair of atoms begins to count, by bisection."""
    low, high = 1e-3, 6.0
    for _ in range(30):
        middle = (low + high) / 2
        found = close_pairs(Atoms(pair, [[0, 0, 0], [0, 0, middle]]), distances)
        low, high = (middle, high) if found.n_pairs else (low, middle)
    return low


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(0, 20),
    st.sampled_from([1.5, 2.5, 4.0, 7.0]),
    st.sampled_from([0, 0.8, 2.5]),
    PBC,
)
def test_close_pairs_against_all_pairs_and_images(seed, n, edge, skew, pbc):
    atoms, _ = frame(seed, n, edge, skew, pbc, share=0.0, outside=True, elements=[29, 79])
    distances = {(29, 29): (1.0, 2.0), (29, 79): (1.5, 2.0), (79, 79): (2.0, 2.5)}
    before, of_images = atoms.copy(), image_distances(atoms)
    pairs = itertools.combinations_with_replacement(range(n), 2)
    nearest = {(i, j): of_images(i, j).min(initial=math.inf) for i, j in pairs}
    limits = {pair: CLOSE * distances[tuple(sorted(atoms.numbers[list(pair)].tolist()))][0] for pair in nearest}
    expected = {pair: r for pair, r in nearest.items() if r < limits[pair]}
    found = close_pairs(atoms, distances)
    assert atoms == before
    assert {tuple(pair) for pair in found.atoms.tolist()} <= set(expected)
    assert len(found.atoms) == min(len(expected), 100)
    assert found.n_pairs >= len(expected)
    assert (found.n_pairs > 0) == bool(expected) == bool(found.reason)
    np.testing.assert_allclose(found.distances, sorted(expected.values())[:100], atol=1e-9)
    for (i, j), r in zip(found.atoms.tolist(), found.distances, strict=True):
        assert r == pytest.approx(expected[i, j], abs=1e-9)


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
    assert found.atoms[0].tolist() == [3, 7]
    text = (
        "atoms 3 and 7 (Cu-Cu) are 1.21 Å apart; below 1.79 Å, 0.8 times the closest pair of the reference, is too near"
    )
    assert (found.n_pairs, found.reason) == (1, text)
    assert found.impossible == text.replace("1.79 Å, 0.8", "1.34 Å, 0.6").replace("is too near", "counts as exploded")
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
    text = "atoms 0 and 1 (H-H) are 0.30 Å apart; below 0.37 Å is too near"
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


@pytest.mark.parametrize("seed", range(6))
def test_clusters_are_the_connected_components_of_linked_atoms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 120))
    atoms = Atoms(f"Cu{n}", scaled_positions=rng.random((n, 3)), cell=[rng.uniform(4, 25)] * 3, pbc=rng.random(3) < 0.5)
    flagged = rng.random(n) < 0.6
    chosen = np.flatnonzero(flagged)
    i, j = neighbor_list("ij", atoms[chosen], 1.3 * 2.5)
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(len(chosen),) * 2)
    labels = connected_components(graph, directed=False)[1]
    expected = [chosen[labels == label].tolist() for label in np.unique(labels)]
    expected.sort(key=lambda part: (-len(part), part[0]))
    assert [part.tolist() for part in clusters(atoms, flagged, {(29, 29): (2.0, 2.5)})] == expected
