import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from quests_md.environments.contacts import LINK, UNKNOWN_LINK, clusters, coordination, largest_cluster

CU = {(29, 29): (2.2, 2.0)}
MIXED = {(13, 13): (1.0, 1.4), (13, 28): (1.0, 2.0), (28, 28): (1.0, 2.9)}


def naive_clusters(atoms, flagged, medians):
    """Flood fill over all pairs and all images that could matter, one pair at a time."""
    chosen = np.flatnonzero(flagged)
    longest = max(medians.values(), default=None)

    def link(i, j):
        pair = tuple(sorted((int(atoms.numbers[i]), int(atoms.numbers[j]))))
        return UNKNOWN_LINK if longest is None else LINK * medians.get(pair, longest)

    cell = atoms.cell.array
    ranges = [range(-6, 7) if periodic else range(1) for periodic in atoms.pbc]
    shifts = np.array(list(itertools.product(*ranges))) @ cell
    scaled = atoms.positions.copy()
    if atoms.pbc.any():
        vectors = cell[atoms.pbc]
        scaled -= np.floor(scaled @ np.linalg.pinv(vectors)) @ vectors

    def linked(i, j):
        return np.linalg.norm(scaled[j] - scaled[i] + shifts, axis=1).min() < link(i, j)

    left, found = set(chosen.tolist()), []
    while left:
        frontier, members = [left.pop()], []
        while frontier:
            i = frontier.pop()
            members.append(i)
            reached = {j for j in left if linked(i, j)}
            left -= reached
            frontier += reached
        found.append(sorted(members))
    return sorted(found, key=lambda members: (-len(members), members[0]))


def check(atoms, flagged, pair_distances):
    expected = naive_clusters(atoms, flagged, medians(pair_distances))
    found = clusters(atoms, flagged, pair_distances)
    assert [cluster.tolist() for cluster in found] == expected
    assert all(cluster.dtype == np.int64 for cluster in found)
    assert largest_cluster(atoms, flagged, pair_distances) == max(map(len, expected), default=0)


def medians(pair_distances):
    return {pair: median for pair, (_, median) in pair_distances.items()}


FRAMES = st.builds(
    lambda seed, n, edge, skew, pbc, share, outside: (seed, n, edge, skew, pbc, share, outside),
    seed=st.integers(0, 2**31),
    n=st.integers(0, 24),
    edge=st.sampled_from([1.8, 3.0, 6.0, 10.0, 14.0]),
    skew=st.sampled_from([0.0, 0.3, 0.8]),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    share=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    outside=st.booleans(),
)


def frame(seed, n, edge, skew, pbc, share, outside, elements):
    rng = np.random.default_rng(seed)
    cell = edge * (np.diag(rng.uniform(0.8, 1.5, 3)) + skew * np.triu(rng.uniform(-1, 1, (3, 3)), 1))
    positions = rng.uniform(-1 if outside else 0, 2 if outside else 1, (n, 3)) @ cell
    atoms = Atoms(rng.choice(elements, n), positions=positions, cell=cell, pbc=pbc)
    return atoms, rng.uniform(size=n) < share


@settings(max_examples=120, deadline=None)
@given(FRAMES)
def test_one_element_against_flood_fill(drawn):
    atoms, flagged = frame(*drawn, elements=[29])
    check(atoms, flagged, CU)


@settings(max_examples=120, deadline=None)
@given(FRAMES, st.sampled_from([MIXED, {(13, 28): (1.0, 1.7)}, {}]))
def test_two_elements_of_different_links_against_flood_fill(drawn, pair_distances):
    atoms, flagged = frame(*drawn, elements=[13, 28])
    check(atoms, flagged, pair_distances)


def test_none_one_and_all():
    atoms = bulk("Cu", cubic=True) * 3
    distances = {(29, 29): (2.55, 2.55)}
    flagged = np.zeros(len(atoms), bool)
    assert largest_cluster(atoms, flagged, distances) == 0
    flagged[17] = True
    assert largest_cluster(atoms, flagged, distances) == 1
    assert largest_cluster(atoms, np.ones(len(atoms), bool), distances) == len(atoms)
    assert largest_cluster(Atoms(), np.zeros(0, bool), distances) == 0


def test_an_atom_and_its_image_are_one():
    atoms = bulk("Cu", a=2.0)
    assert largest_cluster(atoms, np.array([True]), CU) == 1


@pytest.mark.parametrize(
    ("pbc", "expected"), [(True, 4), (False, 2), ((True, False, False), 4), ((False, True, True), 2)]
)
def test_clusters_reach_across_periodic_boundaries(pbc, expected):
    atoms = Atoms("Cu4", [[x, 1, 1] for x in (0.5, 2.5, 17.5, 19.5)], cell=[20, 20, 20], pbc=pbc)
    assert largest_cluster(atoms, np.ones(4, bool), CU) == expected


def test_atoms_that_are_not_flagged_link_nothing():
    atoms = Atoms("Cu5", [[2.0 * i, 0, 0] for i in range(5)])
    assert largest_cluster(atoms, np.array([1, 1, 0, 1, 1], bool), CU) == 2
    assert largest_cluster(atoms, np.array([1, 1, 1, 0, 1], bool), CU) == 3


def test_the_link_is_that_of_the_pair():
    distances = {(13, 13): (2.0, 2.0), (13, 28): (2.0, 3.0), (28, 28): (2.0, 4.0)}
    for symbols, median in (("Al2", 2.0), ("AlNi", 3.0), ("NiAl", 3.0), ("Ni2", 4.0)):
        for r, expected in ((LINK * median - 1e-6, 2), (LINK * median + 1e-6, 1)):
            atoms = Atoms(symbols, [[0, 0, 0], [0, 0, r]])
            assert largest_cluster(atoms, np.ones(2, bool), distances) == expected


def test_a_pair_never_seen_gets_the_longest_link_and_without_any_a_usual_one():
    for distances, link in (({(13, 13): (2.0, 2.0), (28, 28): (2.0, 4.0)}, LINK * 4.0), ({}, UNKNOWN_LINK)):
        for r, expected in ((link - 1e-6, 2), (link + 1e-6, 1)):
            atoms = Atoms("AlNi", [[0, 0, 0], [0, 0, r]])
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


def test_the_frame_is_not_changed():
    atoms, flagged = frame(3, 20, 6.0, 0.3, (True, True, False), 0.7, True, [29])
    before, mask = atoms.copy(), flagged.copy()
    largest_cluster(atoms, flagged, CU)
    assert atoms == before
    np.testing.assert_array_equal(flagged, mask)


def test_many_linked_atoms_in_a_small_cell():
    rng = np.random.default_rng(0)
    atoms = Atoms("Cu300", positions=rng.uniform(0, 5, (300, 3)), cell=[5, 5, 5], pbc=True)
    assert largest_cluster(atoms, np.ones(300, bool), CU) == 300


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
    longest = max(medians(pair_distances).values(), default=UNKNOWN_LINK / LINK)
    links = {
        pair: LINK * medians(pair_distances).get(tuple(sorted(pair)), longest)
        for pair in itertools.product((13, 28), repeat=2)
    }
    i, j, r = neighbor_list("ijd", atoms, LINK * longest)
    for atom in range(0, len(atoms), 5):
        near = [r[k] < links[int(atoms.numbers[atom]), int(atoms.numbers[j[k]])] for k in np.flatnonzero(i == atom)]
        assert coordination(atoms, atom, pair_distances) == sum(near)


@pytest.mark.parametrize("index", [-1, 4])
def test_coordination_of_an_atom_that_is_not_there(index):
    with pytest.raises(IndexError, match=f"index: expected an atom from 0 to 3, got {index}"):
        coordination(bulk("Cu", cubic=True), index, CU)
