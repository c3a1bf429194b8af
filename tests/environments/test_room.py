"""Rows that show that no atoms are near each other, beside distances found one by one."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.neighborlist import neighbor_list

from quests_md import Descriptor, Minimised
from quests_md.environments import show_room

DESCRIPTORS = [Descriptor(), Descriptor(k=3, cutoff=4.0), Descriptor(elements=("Cu", "O")), Descriptor(chemistry=True)]


def frames(seed: int) -> list[Atoms]:
    """Random atoms, some on top of each other, in cells of any shape, periodic or not; small cells meet themselves."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(12):
        n = int(rng.integers(1, 12))
        cell = rng.uniform(2.0, 9.0) * (np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3)))
        symbols = rng.choice(["Cu", "O"], n)
        out.append(Atoms(symbols, scaled_positions=rng.random((n, 3)), cell=cell, pbc=rng.random(3) < 0.7))
    doubled = out[0].copy()
    doubled.positions[-1] = doubled.positions[0]
    return [*out, doubled]


@pytest.mark.parametrize("descriptor", DESCRIPTORS, ids=["plain", "few neighbours", "elements", "chemistry"])
@pytest.mark.parametrize("seed", range(3))
def test_rows_show_room_exactly_where_there_is_room(descriptor: Descriptor, seed: int) -> None:
    for atoms in frames(seed):
        nearest = neighbor_list("d", atoms, descriptor.cutoff).min(initial=np.inf)
        rows = descriptor(atoms)
        for distance in (0.3, 0.8, 1.5, 2.5, 3.9, nearest * 0.999, nearest * 1.001):
            if 0 < distance < descriptor.cutoff:
                assert show_room(descriptor, rows, distance) == (nearest > distance), (nearest, distance)


def test_an_atom_and_its_own_image_are_a_pair_too() -> None:
    atoms = Atoms("Cu", cell=[2.0, 9, 9], pbc=True)
    rows = Descriptor()(atoms)
    assert show_room(Descriptor(), rows, 1.9)
    assert not show_room(Descriptor(), rows, 2.1)


@pytest.mark.parametrize(
    "descriptor",
    [
        Descriptor(average=4),
        Descriptor(centers=("Cu",)),
        Descriptor(neighbors=("Cu",)),
        Minimised(EMT, "EMT"),
        lambda atoms: np.zeros((len(atoms), 63)),
    ],
    ids=["averaged", "centers", "neighbors", "of another frame", "of one's own"],
)
def test_rows_that_do_not_tell_show_no_room(descriptor: object) -> None:
    assert not show_room(descriptor, np.full((4, 63), 1e-3), 1.0)


@pytest.mark.parametrize("distance", [0.0, 5.0, 6.0])
def test_no_room_is_shown_beyond_the_cutoff(distance: float) -> None:
    assert not show_room(Descriptor(), np.zeros((4, 63)), distance)
