"""Frames of published data sets: read, described, told apart."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from quests_md import Descriptor, Phases, Reference
from quests_md.environments import close_pairs
from quests_md.io import count_frames, iter_frames

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")

SETS = {
    "mlearn/Cu_train": ["mlearn/Cu_test"],
    "mlearn/Ni_train": ["mlearn/Ni_test"],
    "mlearn/Li_train": ["mlearn/Li_test"],
    "mlearn/Mo_train": ["mlearn/Mo_test"],
    "NbMoTaW/train": ["NbMoTaW/test"],
    "acac/train_300K": [f"acac/test_{name}" for name in ("MD_300K", "MD_600K", "dihedral", "H_transfer")],
}


def test_they_are_read_as_ase_reads_them():
    path = DATA / "mlearn" / "Cu_test.xyz"
    frames, expected = list(iter_frames(path)), read(path, ":")
    assert [frame.atoms for frame in frames] == expected
    assert [frame.atoms.info for frame in frames] == [atoms.info for atoms in expected]
    for frame, atoms in zip(frames, expected, strict=True):
        np.testing.assert_equal(frame.atoms.arrays, atoms.arrays)
        np.testing.assert_equal(frame.atoms.calc.results, atoms.calc.results)
    assert count_frames(path) == len(expected)


@pytest.mark.parametrize("train", SETS)
def test_none_of_them_has_exploded(train):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # isolated atoms
        frames = read(DATA / f"{train}.xyz", ":")
        distances = Reference.from_frames(frames).pair_distances()
    for name in SETS[train]:
        for atoms in read(DATA / f"{name}.xyz", ":"):
            assert close_pairs(atoms, distances).reason == ""
    for atoms in frames[:: len(frames) // 10]:
        atoms.positions *= 0.5
        atoms.set_cell(atoms.cell * 0.5)
        assert len(atoms) == 1 or close_pairs(atoms, distances).n_pairs


def test_quaternary_alloys_leave_elements_and_binaries():
    train, test = (read(DATA / "NbMoTaW" / name, which) for name, which in (("train.xyz", "::4"), ("test.xyz", ":")))
    share = []
    for descriptor, h in ((Descriptor(), 0.015), (Descriptor(elements=("Nb", "Mo", "Ta", "W")), 0.03)):
        reference = Reference.from_frames(train, descriptor=descriptor, bandwidth=h, groups="frame")
        dh = {True: [], False: []}
        for atoms in test:
            dh[atoms.info["config_type"] == "Multinary_Test"].extend(reference.delta_entropy(atoms))
        share.append(np.mean(dh[True] > np.quantile(dh[False], 0.95)))
    assert share[0] < 0.3
    assert share[1] > 0.9


def test_copper_that_freezes():
    def largest(phases, atoms):
        return phases.clusters(atoms, phases.assign(atoms))["solid"]

    ramp = read(DATA / "nucleation" / "cu864_liquid_ramp1600_800.extxyz", ":")
    run = read(DATA / "nucleation" / "cu864_T700_s1.extxyz", ":")
    known = {"liquid": Reference.from_frames(ramp[::3]), "solid": Reference.from_frames(run[-8:], groups="frame")}
    both, control = Phases(known), Phases(known, control=run[:16:2])
    assert both.n_rows == 4096
    level = control.cluster_level("solid", 864, 0.01)
    assert math.isfinite(level.value)
    # frames 71 to 76: a third of the atoms are crystal by polyhedral template matching, before frame 64 none is
    assert min(largest(control, atoms) for atoms in run[70:76]) > 3 * level.value
    assert max(largest(both, atoms) for atoms in ramp[1::16]) < 40
