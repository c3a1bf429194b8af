"""Both scales of a frame in one pass: to the bit what two descriptors give one after the other."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from ase.calculators.emt import EMT
from cells import PBC, close, random_frame, small_cell
from references import Given, carrying
from systems import alloys, md_frames

from quests_md import Descriptor, FrameError, Minimised, TimeAveraged
from quests_md.environments import averaged_over, describe, describe_both
from quests_md.errors import UnsuitableFrameError

DESCRIPTORS = {
    "plain": Descriptor(),
    "few neighbours": Descriptor(k=4, cutoff=3.5),
    "chemistry": Descriptor(chemistry=True),
    "elements": Descriptor(k=8, elements=("H", "O")),
    "centers": Descriptor(k=8, centers=("O",)),
    "neighbors": Descriptor(k=8, neighbors=("H",)),
    "sublattice": Descriptor(k=8, centers=("O",), neighbors=("O",)),
    "chemistry of the sublattice": Descriptor(k=8, centers=("O",), neighbors=("H", "O"), chemistry=True),
    "elements of some centers": Descriptor(k=8, elements=("H", "O"), centers=("H",)),
}


def same(a, b):
    return np.array_equal(a, b, equal_nan=True)


def frame(seed, n=36, pbc=True):
    rng = np.random.default_rng(seed)
    atoms = random_frame(rng, n, 10.0, pbc=pbc)
    atoms.symbols[:] = rng.permutation(["O"] * (n // 3) + ["H"] * (n - n // 3))
    return atoms


@pytest.mark.parametrize("name", DESCRIPTORS)
@pytest.mark.parametrize("pbc", PBC)
def test_both_are_what_two_descriptors_give(name, pbc):
    descriptor = DESCRIPTORS[name]
    large = frame(2, pbc=pbc) * (2, 3, 4)  # in several pieces
    large.rattle(0.1, seed=1)
    for atoms in (frame(0, pbc=pbc), frame(1, 3, pbc), large):
        before = atoms.copy()
        plain, averaged = describe_both(descriptor, atoms, 1)
        assert same(plain, descriptor(atoms))
        assert same(averaged, replace(descriptor, average=12)(atoms))
        assert atoms == before
        for threads in (2, None):
            again = describe_both(descriptor, atoms, threads)
            assert same(again.plain, plain)
            assert same(again.averaged, averaged)


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms(),
        Atoms("O"),
        Atoms("O40", positions=np.ones((40, 3))),
        molecule("CH3CH2OH"),
        fcc111("Cu", (3, 3, 4), a=3.58, vacuum=8),
        *(small_cell(seed) for seed in range(4)),
    ],
    ids=lambda atoms: str(atoms.symbols),
)
def test_small_and_odd_frames(atoms):
    for descriptor in (Descriptor(), Descriptor(chemistry=True), Descriptor(centers=("Cu", "O"))):
        plain, averaged = describe_both(descriptor, atoms, None)
        assert same(plain, descriptor(atoms))
        assert same(averaged, replace(descriptor, average=12)(atoms))


@pytest.mark.parametrize(
    "descriptor",
    [Descriptor(average=12), Descriptor(average=3), Descriptor(centers=("O",), neighbors=("H",))],
    ids=["averaged", "averaged over few", "no center is a neighbour"],
)
def test_one_scale_is_one_array(descriptor):
    atoms = frame(3)
    plain, averaged = describe_both(descriptor, atoms, None)
    assert averaged is plain
    assert same(plain, descriptor(atoms))
    assert averaged_over(descriptor) == averaged_over(Minimised(EMT, "EMT", descriptor=descriptor)) == 0


def test_a_frame_is_minimised_once():
    made = []

    class Counted(Minimised):
        def minimised(self, atoms):
            made.append(atoms)
            return super().minimised(atoms)

    atoms = md_frames()[0].copy()
    for descriptor in (Descriptor(), Descriptor(average=12)):
        inherent = Counted(EMT, "EMT", descriptor=descriptor, steps=5)
        made.clear()
        plain, averaged = describe_both(inherent, atoms, None)
        assert len(made) == 1
        assert same(plain, inherent(atoms))
        assert same(averaged, Minimised(EMT, "EMT", descriptor=Descriptor(average=12), steps=5)(atoms))
        assert (averaged is plain) == (descriptor.average is not None)


def test_frames_averaged_in_time():
    frames = [atoms.copy() for atoms in md_frames()[:6]]
    for i, atoms in enumerate(frames):
        atoms.info["time_ps"] = 0.02 * i
    in_time = TimeAveraged(samples=3)
    for atoms in in_time.frames(frames):
        plain, averaged = describe_both(in_time, atoms, None)
        assert same(plain, in_time(atoms))
        assert same(averaged, TimeAveraged(Descriptor(average=12), samples=3)(atoms))
    with pytest.raises(UnsuitableFrameError, match="expected a frame averaged over"):
        describe_both(in_time, frames[0], None)


def test_a_descriptor_of_ones_own_has_one_scale():
    atoms = carrying(np.arange(6.0).reshape(3, 2))
    plain, averaged = describe_both(Given(), atoms, None)
    assert same(plain, describe(Given(), atoms, None))
    assert averaged is None
    assert averaged_over(Given()) is averaged_over(None) is None
    assert averaged_over(Descriptor()) == averaged_over(TimeAveraged()) == 12
    with pytest.raises(ValueError, match="descriptor: expected one row for each of 2 atoms, got 3"):
        describe_both(type("Odd", (Given,), {"__call__": lambda self, atoms: np.zeros((3, 2))})(), atoms[:2], None)


def test_errors_are_those_of_the_descriptor():
    atoms = frame(0)
    atoms.positions[3] = np.nan
    with pytest.raises(FrameError, match=r"positions: .*atom 3"):
        describe_both(Descriptor(), atoms, None)
    with pytest.raises(UnsuitableFrameError, match="elements: expected atoms of Na"):
        describe_both(Descriptor(elements=("Na",)), frame(0), None)
    with pytest.raises(ValueError, match="threads"):
        describe_both(Descriptor(), frame(0), 0)


def test_rows_of_alloys_are_close_to_the_naive_average():
    for atoms in alloys(3):
        plain, averaged = describe_both(Descriptor(), atoms, None)
        close(averaged, Descriptor(average=12)(atoms))
        assert not np.allclose(plain, averaged)
