"""Trajectories without elements, read by MDAnalysis with a topology, on the files of its test package."""

import sys
from pathlib import Path

import numpy as np
import pytest
from ase import units

from quests_md import Descriptor, Reference
from quests_md.errors import FileFormatError
from quests_md.io import frame_time_ps, iter_frames

XTC_NAMES = "ignore:.*names of atoms"


@pytest.fixture
def files():
    pytest.importorskip("MDAnalysis", reason="MDAnalysis is not installed")
    return pytest.importorskip("MDAnalysisTests.datafiles", reason="MDAnalysisTests is not installed")


@pytest.mark.slow
@pytest.mark.filterwarnings(XTC_NAMES, "ignore:.*decimals", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["XTC", "TRR"])
def test_gromacs(files, kind):
    frames = list(iter_frames(f"{getattr(files, kind)}@::4", topology=files.GRO))
    assert [frame.index for frame in frames] == [0, 4, 8]
    for frame in frames:
        atoms = frame.atoms
        n_water = sum(atoms.symbols == "O")  # four sites each, one of them virtual
        assert 36000 < len(atoms) < 47681
        assert n_water > 11000
        assert atoms.pbc.all()
        np.testing.assert_allclose(atoms.cell.cellpar(), [80.1, 80.1, 80.1, 60, 60, 90], atol=0.2)
        assert frame_time_ps(atoms) == pytest.approx(100.0 * frame.index, abs=1e-2)
        assert set(atoms.symbols) == {"C", "H", "N", "Na", "O", "S"}
        assert sum(atoms.symbols == "Na") == 4
    if kind == "TRR":
        speed = np.abs(frames[0].atoms.get_velocities()).max() * 1000 * units.fs
        assert 10 < speed < 100  # Å/ps, at 300 K


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_charmm(files):
    frames = list(iter_frames(f"{files.DCD}@:3", topology=files.PSF))
    assert [len(frame.atoms) for frame in frames] == [3341] * 3
    assert not frames[0].atoms.pbc.any()
    assert set(frames[0].atoms.symbols) == {"C", "H", "N", "O", "S"}
    assert frame_time_ps(frames[1].atoms) == pytest.approx(2.0, abs=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_amber(files):
    frames = list(iter_frames(f"{files.NCDF}@:2", topology=files.PRMncdf))
    np.testing.assert_allclose(frames[0].atoms.cell.lengths(), [31.979, 35.845, 36.197], atol=1e-2)
    assert frame_time_ps(frames[0].atoms) is None  # all its times are 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_that_do_not_belong_together(files):
    with pytest.raises(FileFormatError, match="of the same atoms"):
        next(iter_frames(files.XTC, topology=files.PSF))
    with pytest.raises(FileNotFoundError, match="topology"):
        next(iter_frames(files.XTC, topology="nowhere.gro"))


@pytest.mark.slow
@pytest.mark.filterwarnings(XTC_NAMES, "ignore:.*decimals", "ignore::DeprecationWarning")
def test_a_torn_trajectory(files, tmp_path):
    path = tmp_path / "torn.xtc"
    path.write_bytes(Path(files.XTC).read_bytes()[:-1000])
    got = []
    with pytest.raises(FileFormatError):  # noqa: PT012  # what comes before the error is part of it
        for frame in iter_frames(path, topology=files.GRO):
            got.append(frame)
    assert len(got) in (0, 9)


def test_without_mdanalysis(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "MDAnalysis", None)
    (tmp_path / "a.xtc").write_bytes(bytes(10))
    with pytest.raises(FileFormatError, match=r"pip install 'quests_md\[mdanalysis\]'"):
        next(iter_frames(tmp_path / "a.xtc", topology="a.gro"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_reference_of_a_trajectory_with_a_topology(files):
    reference = Reference.from_frames(
        f"{files.XTC}@:1", topology=files.GRO, descriptor=Descriptor(k=8, centers=("Na",)), threads=1
    )
    assert reference.elements == ("Na",)
