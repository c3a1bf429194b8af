"""Files that end within a number or a word: a cut number is a number too, and no frame with one is taken as whole."""

import bz2
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io.formats import ioformats

from quests_md import Reference
from quests_md.errors import FileFormatError
from quests_md.io import count_frames, iter_frames

NO_END = "without an end of line"


def images(n=3):
    found = []
    for seed in range(n):
        found.append(bulk("Cu", cubic=True) * (2, 2, 2))
        found[-1].rattle(0.08, seed=seed)
    return found


def rows(atoms, form):
    return "".join(
        f"{symbol} " + " ".join(form.format(x) for x in position) + "\n"
        for symbol, position in zip(atoms.symbols, atoms.positions, strict=True)
    )


def xyz(path, form="{:.8f}", n=3):
    lattice = 'Lattice="7.22 0 0 0 7.22 0 0 0 7.22"'
    path.write_text("".join(f"{len(a)}\n{lattice}\n{rows(a, form)}" for a in images(n)))
    return path


def cut(path, n):
    path.write_bytes(path.read_bytes()[:-n])
    return path


@pytest.mark.parametrize("n", range(2, 12))
@pytest.mark.parametrize("form", ["{:.8f}", "{:16.8f}", "{:.8E}"])
def test_a_frame_of_xyz_that_ends_within_its_last_number(tmp_path, form, n):
    path = cut(xyz(tmp_path / "a.xyz", form), n)
    with pytest.raises(FileFormatError, match=r"frame 2.*in the middle of the frame"):
        list(iter_frames(path))
    with pytest.warns(UserWarning, match="frame 2.*the complete frames before it are used"):
        assert len(list(iter_frames(path, incomplete="warn"))) == 2
    assert count_frames(path) == 2
    with pytest.raises(FileFormatError, match="in the middle of the frame"):
        Reference.from_frames(path)


def test_whole_files_without_their_last_end_of_line(tmp_path):
    path = cut(xyz(tmp_path / "a.xyz"), 1)
    assert len(list(iter_frames(path))) == 3
    path.write_text("2\n\nH 0 0 0.74\nH 0 0 0")
    with pytest.warns(UserWarning, match=rf"a.xyz: line 4: .*{NO_END}, in 'H 0 0 0'"):
        assert len(next(iter_frames(path)).atoms) == 2
    cut(xyz(path, "{}"), 4)
    with pytest.warns(UserWarning, match=NO_END) as caught:
        assert len(list(iter_frames(path))) == 3
    assert len(caught) == 1
    assert len(list(iter_frames(f"{path}@:2"))) == 2


def test_small_frames_are_compared_with_those_before(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("1\n\nAr 0.0000 0.0000 {:.4f}\n".replace("{:.4f}", "1.2500") * 5)
    cut(path, 3)
    with pytest.warns(UserWarning, match="frame 4.*in the middle"):
        assert len(list(iter_frames(path, incomplete="warn"))) == 4


@pytest.mark.parametrize("n", [1, 2, 9, 30])
def test_cell_vectors_after_the_atoms(tmp_path, n):
    path = xyz(tmp_path / "a.xyz", n=1)
    path.write_text(
        path.read_text() + "VEC1 7.2200 0.0000 0.0000\nVEC2 0.0000 7.2200 0.0000\nVEC3 0.0000 0.0000 7.2200\n"
    )
    cut(path, n)
    if n == 1:
        assert len(list(iter_frames(path))) == 1
        return
    with pytest.raises(FileFormatError, match="three cell vectors after the atoms"):
        list(iter_frames(path))


# Formats of one structure that ASE reads, and of several.
FORMATS = {
    "vasp": "POSCAR",
    "lammps-data": "a.data",
    "gen": "a.gen",
    "aims": "geometry.in",
    "dlp4": "CONFIG",
    "turbomole": "coord",
    "gaussian-in": "a.com",
    "dmol-car": "a.car",
    "sys": "a.sys",
    "crystal": "fort.34",
    "cif": "a.cif",
    "v-sim": "a.ascii",
    "mol": "a.mol",
    "gpumd": "xyz.in",
    "gromacs": "a.gro",
    "proteindatabank": "a.pdb",
}
SEVERAL = {"eon": "a.con", "dmol-arc": "a.arc", "runnerdata": "input.data", "xsf": "a.xsf"}
UNCOUNTED = ("aims", "gaussian-in", "sys", "v-sim", "cif")


def same(found, expected):
    return len(found) == len(expected) and all(
        len(one) == len(other)
        and np.allclose(one.positions, other.positions, atol=1e-6)
        and np.allclose(one.cell, other.cell, atol=1e-6)
        for one, other in zip(found, expected, strict=True)
    )


def read(path):
    return [frame.atoms for frame in iter_frames(path, types=("Cu",))]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of ASE's writer of FHI-aims
@pytest.mark.parametrize("kind", [*FORMATS, *SEVERAL])
def test_no_cut_file_is_taken_as_whole(tmp_path, kind):
    path = tmp_path / (FORMATS | SEVERAL)[kind]
    ase.io.write(path, images(3) if kind in SEVERAL else images(1)[0], format=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data, whole = path.read_bytes(), read(path)
        path.write_bytes(data.rstrip(b"\n"))
        assert same(read(path), whole)
    end = len(data.rstrip())
    for at in range(end - 1, end - 200, -1 if kind in UNCOUNTED else -3):
        path.write_bytes(data[:at])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = read(path)
            except FileFormatError:
                continue
        if not same(found, whole) and not any(NO_END in str(w.message) for w in caught):
            # whole lines of a format that states no number of atoms
            assert kind in UNCOUNTED
            assert data[:at].endswith(b"\n")


def test_the_frames_before_a_torn_one_are_read(tmp_path):
    path = tmp_path / "a.con"
    ase.io.write(path, images(), format="eon")
    cut(path, 1)
    with pytest.raises(FileFormatError, match=r"frame 2.*@:2"):
        list(iter_frames(path))
    assert len(list(iter_frames(f"{path}@:2"))) == 2


def test_a_structure_without_atoms_is_said(tmp_path):
    path = tmp_path / "geometry.in"
    path.write_text("lattice_vector 7.2 0 0\nlattice_vector 0 7.2 0\nlattice_vector 0 0 7.2\n")
    assert ioformats["aims"].single
    with pytest.raises(FileFormatError, match="no atoms"), pytest.warns(FutureWarning):
        list(iter_frames(path))


@pytest.mark.filterwarnings("ignore:.*names of atoms")
def test_the_box_of_gromacs(tmp_path):
    path = tmp_path / "a.gro"
    text = "copper\n1\n    1CU     CU    1   0.100   0.200   0.300\n   1.08300   1.08300   1.08300\n"
    for kept, is_whole in ((-1, True), (-2, False), (-6, False), (-12, False)):
        path.write_text(text[:kept])
        if is_whole:
            np.testing.assert_allclose(next(iter_frames(path)).atoms.cell.lengths(), 10.83)
            continue
        with pytest.raises(FileFormatError, match="ends within its box"):
            list(iter_frames(path))
    path.write_text(text.replace("1.08300\n", "1"))
    path.write_text(text.replace("   1.08300   1.08300   1.08300\n", "2.5 2.5 3"))
    with pytest.warns(UserWarning, match=NO_END):
        assert len(list(iter_frames(path))) == 1


def test_an_atom_of_a_pdb_file(tmp_path):
    path = tmp_path / "a.pdb"
    atoms = Atoms("CuCu", [[0, 0, 0], [2.5, 0, 3.125]])
    ase.io.write(path, atoms)
    lines = [line.rstrip() for line in path.read_text().splitlines() if line.startswith("ATOM")]
    path.write_text("\n".join(lines))
    assert len(next(iter_frames(path)).atoms) == 2
    for n in (1, 10, 28, 40, len(lines[1]) - 3):
        path.write_text("\n".join(lines)[:-n])
        with pytest.raises(FileFormatError, match="in the middle"):
            list(iter_frames(path))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("n", [3, 300, 5000])
def test_trajectories_with_a_topology(tmp_path, n):
    files = pytest.importorskip("MDAnalysisTests.datafiles", reason="MDAnalysisTests is not installed")
    path = tmp_path / "a.dcd"
    path.write_bytes(Path(files.DCD).read_bytes()[:-n])
    with pytest.raises(FileFormatError, match="frame 97: the file ends in the middle"):
        list(iter_frames(f"{path}@95:", topology=files.PSF))
    with pytest.warns(UserWarning, match="frame 97"):
        assert len(list(iter_frames(f"{path}@95:", topology=files.PSF, incomplete="warn"))) == 2
    path = tmp_path / "a.mdcrd"
    text = bz2.decompress(Path(files.TRJncdf).read_bytes()) if files.TRJncdf.endswith("bz2") else None
    path.write_bytes((text or Path(files.TRJncdf).read_bytes())[:-n])
    with pytest.raises(FileFormatError, match="frame 29: the file ends in the middle"):
        list(iter_frames(f"{path}@28:", topology=files.PRMncdf))


@pytest.mark.parametrize(
    "rows",
    [
        "C 0.00 1.40 0.00\nH 0.00 2.49 0.00\nC 1.21 0.70 0.00\nO 2.16 1.24 0.5",  # by hand
        "Cu 0.123 1.752 2.861\n" * 5 + "Cu 1.752 3.861 2.86",  # as short as they can be: 2.860
        "H 0.25 0.75 0.25\n" * 8 + "H 0.5 0.5 0.5",
    ],
)
def test_fewer_decimals_may_be_those_of_short_numbers(tmp_path, rows):
    path = tmp_path / "a.xyz"
    path.write_text(f"{len(rows.splitlines())}\n\n{rows}")
    with pytest.warns(UserWarning, match="ends without an end of line"):
        assert len(list(iter_frames(path))) == 1


def test_a_symbol_may_be_the_beginning_of_another(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("4\nProperties=pos:R:3:species:S:1\n0 0 0 Na\n0 0 2.2 Na\n0 2.2 0 Na\n2.2 0 0 N")
    with pytest.warns(UserWarning, match="ends without an end of line"):
        assert len(list(iter_frames(path))) == 1


def test_configurations_of_older_versions_of_dl_poly_state_no_number_of_atoms(tmp_path):
    path = tmp_path / "CONFIG"
    ase.io.write(path, bulk("Cu", cubic=True), format="dlp4")
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = "0 3 2000 0.5E-02\n"
    path.write_text("".join(lines))
    assert len(next(iter(iter_frames(path))).atoms) == 4
