"""Collapsed frames explode before neighbours are looked for: else time and memory would grow as the square."""

import functools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from references import rattled_cells

from quests_md import FrameError, Monitor, Reference, UnsuitableFrameError, calibrate


@functools.cache
def known():
    reference = Reference.from_frames(rattled_cells(12, amplitude=0.08), groups="frame")
    return reference, calibrate(reference)


def ball(n, radius=0.3, **options):
    return Atoms(f"Cu{n}", positions=np.random.default_rng(0).normal(0, radius, (n, 3)), **options)


def crystal(scale):
    atoms = bulk("Cu", cubic=True) * 8
    atoms.set_cell(atoms.cell * scale, scale_atoms=True)
    return atoms


def clumps():
    """Each hundred atoms are one clump: few within 5 Å, but all of them within 1 Å."""
    atoms = bulk("Cu", cubic=True) * 5
    places = np.repeat(atoms.positions, 100, axis=0)
    places += np.random.default_rng(0).normal(0, 0.2, places.shape)
    return Atoms(f"Cu{len(places)}", places, cell=atoms.cell, pbc=True)


def flat():
    """Some hundred images of each of many atoms."""
    atoms = bulk("Cu", cubic=True) * 12
    atoms.cell[2] = (0, 0, 0.05)
    return atoms


COLLAPSED = {
    "a point": Atoms("Cu100000", positions=np.ones((100_000, 3))),
    "a ball": ball(40_000),
    "a ball in a cell": ball(40_000, cell=[50] * 3, pbc=True),
    "a ball and an atom far away": ball(40_000) + Atoms("Cu", positions=[(1e8, 0, 0)]),
    "a small cell": Atoms("Cu", cell=[0.03] * 3, pbc=True),
    "lengths in units of 10 Å": crystal(0.1),
    "clumps": clumps(),
    "a flat cell": flat(),
}


@pytest.mark.parametrize("name", COLLAPSED)
def test_a_collapsed_frame_is_an_explosion(name):
    with Monitor(*known(), log=None, on_error="raise") as monitor:
        monitor.check(rattled_cells(1, amplitude=0.08)[0], step=0)
        check = monitor.check(COLLAPSED[name], step=1)
        (event,) = monitor.events
    assert check.state == "invalid"
    assert event.kind == "exploded"
    assert "collapsed, or its lengths are not in Å" in event.reason


@pytest.mark.parametrize("name", COLLAPSED)
def test_at_the_start_it_is_bad_input(name):
    with Monitor(*known(), log=None, on_error="raise") as monitor:
        with pytest.raises(UnsuitableFrameError, match=r"collapsed, or its lengths are not in Å.*no explosion"):
            monitor.check(COLLAPSED[name])
        assert not monitor.events


@pytest.mark.parametrize("name", COLLAPSED)
def test_a_reference_refuses_it(name):
    with pytest.raises(FrameError, match="collapsed"):
        Reference.from_frames([*rattled_cells(3, amplitude=0.08), COLLAPSED[name]])


@pytest.mark.parametrize("atoms", [crystal(0.6), Atoms("Cu", cell=[0.1, 10, 10], pbc=(1, 0, 0)), ball(500)])
def test_less_dense_frames_say_which_atoms_meet(atoms):
    with Monitor(*known(), log=None, on_error="raise") as monitor:
        monitor.check(rattled_cells(1, amplitude=0.08)[0], step=0)
        check = monitor.check(atoms, step=1)
    assert check.state == "out"
    assert "Å apart" in check.explosion


def test_crowds_far_from_each_other_are_no_collapse():
    """Bins grow with the frame, so that both crystals have one bin each."""
    atoms = crystal(1.0)
    atoms.pbc = False
    other = atoms.copy()
    other.positions += [2e8, 0, 0]
    with Monitor(*known(), log=None, on_error="raise") as monitor:
        check = monitor.check(atoms + other, step=0)
    assert check.state == "out"
    assert check.explosion == ""
