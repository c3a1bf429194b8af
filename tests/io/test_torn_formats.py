"""Files of formats that ASE reads, cut short: nothing is lost in silence, no reader waits for ever."""

import ase.io
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from quests_md.errors import FileFormatError
from quests_md.io import iter_frames


def images(n=4):
    found = []
    for seed in range(n):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.rattle(0.08, seed=seed)
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=atoms.positions * 0.01, stress=[0.0] * 6)
        found.append(atoms)
    return found


MANY = {"castep-md": "a.md", "castep-geom": "a.geom", "extxyz": "a.xyz", "traj": "a.traj", "proteindatabank": "a.pdb"}
ALONE = {
    "cfg": "a.cfg",
    "gen": "a.gen",
    "vasp": "POSCAR",
    "gromos": "a.g96",
    "res": "a.res",
    "xsd": "a.xsd",
    "castep-cell": "a.cell",
    "abinit-in": "a.in",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kept", [0.98, 0.9, 0.8])
@pytest.mark.parametrize("kind", MANY)
def test_a_torn_last_frame_loses_itself_alone(tmp_path, kind, kept):
    path = tmp_path / MANY[kind]
    ase.io.write(path, images(), format=kind)
    assert len(list(iter_frames(path))) == 4
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    got = []
    with pytest.raises(FileFormatError, match="@:3"):
        got += iter_frames(path)
    assert len(list(iter_frames(path, incomplete="warn"))) == 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kept", [0.9, 0.8])
@pytest.mark.parametrize("kind", ALONE)
def test_a_torn_structure_is_no_structure(tmp_path, kind, kept):
    path = tmp_path / ALONE[kind]
    ase.io.write(path, images(1)[0], format=kind)
    assert len(next(iter_frames(path)).atoms) == 32
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(FileFormatError):
        list(iter_frames(path))


def test_a_file_of_another_program_than_its_name_says(tmp_path):
    path = tmp_path / "run.out"
    path.write_text("a program that nobody knows\n" * 10)
    with pytest.raises(FileFormatError, match=r"read as 'espresso-out' by ASE, it holds no frames.*another program"):
        list(iter_frames(path))


HISTORY = "copper by hand\n{levels:10d}{imcon:10d}{n:10d}\n"


def history(atoms, step):
    head = f"timestep{step:10d}{len(atoms):10d}{0:10d}{1:10d}{0.001:12.6f}{step * 0.001:12.6f}\n"
    cell = "".join("".join(f"{x:20.10f}" for x in vector) + "\n" for vector in atoms.cell)
    rows = "".join(
        f"Cu      {i:10d}{63.546:12.6f}{0.0:12.6f}{0.0:12.6f}\n" + "".join(f"{x:20.10E}" for x in position) + "\n"
        for i, position in enumerate(atoms.positions, 1)
    )
    return head + cell + rows


def test_a_history_of_dl_poly(tmp_path):
    path = tmp_path / "HISTORY"
    text = HISTORY.format(levels=0, imcon=3, n=32) + "".join(history(a, 10 * i) for i, a in enumerate(images()))
    path.write_text(text)
    assert [len(frame.atoms) for frame in iter_frames(path)] == [32] * 4
    path.write_text(text[:-700])
    with pytest.raises(FileFormatError):
        list(iter_frames(path))


def test_letters_of_other_alphabets_in_comments(tmp_path):
    path = tmp_path / "POSCAR"
    ase.io.write(path, images(1)[0], format="vasp")
    lines = path.read_bytes().split(b"\n", 1)
    path.write_bytes("Länge in Å".encode("latin-1") + b"\n" + lines[1])
    assert len(next(iter_frames(path)).atoms) == 32
