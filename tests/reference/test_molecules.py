"""Which references are of free molecules: by the frames alone, however these are boxed."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule
from ase.cluster import Icosahedron
from systems import copper

from quests_md import Descriptor, Reference
from quests_md.reference import MOST_ATOMS, is_of_molecules


def of(frames, **options):
    return Reference.from_frames(frames, groups="frame", **options)


def boxed(atoms, length=20.0, at=(0.0, 0.0, 0.0)):
    """In a periodic box, around a corner of it unless told otherwise."""
    atoms = atoms.copy()
    atoms.set_cell(3 * [length])
    atoms.pbc = True
    atoms.positions += np.array(at) - atoms.positions.mean(axis=0)
    atoms.wrap()
    return atoms


def wire():
    return Atoms("CO", positions=[[0, 0, 0], [1.3, 0.4, 0]], cell=[2.6, 20, 20], pbc=[True, False, False])


def slab():
    atoms = fcc111("Cu", (1, 1, 4), vacuum=10.0)
    atoms.symbols[:2] = "Au"
    return atoms


def chain():
    """No atom is within the cutoff of its own image, but each is of the next atom."""
    return Atoms("CN", positions=[[0, 0, 0], [3.0, 0, 0]], cell=[6.0, 20, 20], pbc=True)


def long_molecule(n):
    return Atoms("CH" * n, positions=[[1.5 * i, 0.9 * (i % 2), 0] for i in range(2 * n)])


@pytest.mark.parametrize(
    "frame",
    [
        molecule("CH3CH2OH"),
        boxed(molecule("CH3CH2OH")),
        boxed(molecule("CH3CH2OH"), at=(10.0, 0.0, 20.0)),
        boxed(molecule("C6H6"), length=12.0, at=(6.0, 6.0, 6.0)),
        long_molecule(MOST_ATOMS // 2),
    ],
    ids=["free", "over a corner", "over edges", "in the middle of a small box", "as large as may be"],
)
def test_free_molecules(frame):
    assert is_of_molecules(of([frame, frame]))


@pytest.mark.parametrize(
    "frame",
    [
        bulk("NaCl", "rocksalt", a=5.64),
        bulk("CsCl", "cesiumchloride", a=5.5),
        slab(),
        graphene("BN", a=2.5, vacuum=15.0),
        wire(),
        chain(),
        boxed(molecule("C6H6"), length=8.0),
        Icosahedron("Cu", 2),
        long_molecule(MOST_ATOMS // 2 + 1),
        copper(),
    ],
    ids=["salt", "sparse salt", "slab", "sheet", "wire", "chain", "near its images", "cluster", "large", "metal"],
)
def test_all_else(frame):
    assert not is_of_molecules(of([frame, frame]))


def test_the_larger_part_of_the_environments_decides():
    ethane, crystal = molecule("C2H6"), bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    assert not is_of_molecules(of([ethane, crystal]))  # eight each
    assert is_of_molecules(of([ethane, boxed(ethane), crystal]))
    assert not is_of_molecules(of([ethane, boxed(ethane), crystal, crystal, copper()]))


def test_nothing_is_no_molecule():
    with pytest.warns(UserWarning, match="no environment"):
        assert not is_of_molecules(of([]))


def test_it_does_not_depend_on_how_a_reference_was_made(tmp_path):
    frames = [boxed(molecule("C2H6"), at=(x, 0, 0)) for x in (0.0, 3.0, 7.0)]
    reference = of(frames[:2]).extend(frames[2:])
    reference.save(tmp_path / "ethane.safetensors")
    assert is_of_molecules(Reference.load(tmp_path / "ethane.safetensors"))
    assert is_of_molecules(of(frames, descriptor=Descriptor(k=8, cutoff=4.0)))


@pytest.mark.parametrize("named", [{"centers": ("O", "C")}, {"neighbors": ("O", "C")}], ids=["centers", "neighbors"])
def test_of_frames_that_are_not_kept_whole_nothing_is_said(named):
    """Where atoms are missing a percolating cell looks like a molecule, and a large molecule like a small one."""
    frames = [boxed(molecule("CH3CH2OH"))] * 2
    assert not is_of_molecules(of(frames, descriptor=Descriptor(k=4, cutoff=5.0, **named)))
