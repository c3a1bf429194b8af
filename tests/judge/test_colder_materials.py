"""Order is not novelty, in eight materials: at rest they are in; strained, with a defect or as another phase, out."""

import functools

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule

from quests_md import Reference, calibrate
from quests_md.judge import Judge

#: Structure at rest, and what is strange to it beside strain and vacancy.
MATERIALS = {
    "fcc": (lambda: bulk("Cu", a=3.61, cubic=True) * 3, lambda: bulk("Cu", "bcc", a=2.865, cubic=True) * 4),
    "bcc": (lambda: bulk("Fe", a=2.86, cubic=True) * 4, lambda: bulk("Fe", "fcc", a=3.603, cubic=True) * 3),
    "hcp": (lambda: bulk("Ti", "hcp", a=2.95, c=4.68) * (4, 4, 3), lambda: bulk("Ti", "bcc", a=3.26, cubic=True) * 4),
    "diamond": (lambda: bulk("Si", a=5.43, cubic=True) * 2, lambda: bulk("Si", "sc", a=2.714) * 4),
    "rocksalt": (
        lambda: bulk("NaCl", "rocksalt", a=5.64, cubic=True) * 2,
        lambda: bulk("NaCl", "cesiumchloride", a=3.55) * 4,
    ),
    "oxide": (
        lambda: bulk("MgO", "rocksalt", a=4.21, cubic=True) * 2,
        lambda: bulk("MgO", "zincblende", a=4.6, cubic=True) * 2,
    ),
    "slab": (lambda: fcc111("Ni", (4, 4, 5), a=3.52, vacuum=8.0), None),
    "molecule": (lambda: molecule("C6H6"), None),
}

#: A crystal of one element, one of two, and what has no cell.
SOME = ("fcc", "rocksalt", "molecule")


@functools.cache
def judge(name):
    rng, ideal = np.random.default_rng(0), MATERIALS[name][0]()
    frames = []
    for _ in range(60):
        frame = ideal.copy()
        frame.positions += rng.normal(0, 0.04 if name == "molecule" else 0.07, frame.positions.shape)
        frames.append(frame)
    reference = Reference.from_frames(frames, groups="frame")
    return Judge(reference, calibrate(reference))


def state(name, atoms):
    return judge(name).judge(atoms, step=0, frame=0).check.state


def strained(atoms, strain):
    atoms = atoms.copy()
    if not atoms.pbc.any():
        atoms.positions *= 1 + strain
        return atoms
    cell = atoms.cell.array
    cell[atoms.pbc] *= 1 + strain
    atoms.set_cell(cell, scale_atoms=True)
    return atoms


@pytest.mark.parametrize(
    "name", [name if name in SOME else pytest.param(name, marks=pytest.mark.long) for name in MATERIALS]
)
def test_at_rest_it_is_in_and_other_structures_are_out(name):
    ideal, other = MATERIALS[name][0](), MATERIALS[name][1]
    vacancy = ideal.copy()
    del vacancy[len(vacancy) // 2]
    assert state(name, ideal) == "in"
    assert state(name, vacancy) == "out"
    if name != "molecule":  # of which all angles and distances change by less than they do in motion
        assert [state(name, strained(ideal, strain)) for strain in (-0.03, 0.03)] == ["out", "out"]
    if other is not None:
        assert state(name, other()) == "out"
