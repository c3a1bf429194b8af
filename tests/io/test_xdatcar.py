"""VASP's XDATCAR: every whole step is read, whatever the end of the file and the cells are."""

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.io.vasp import write_vasp_xdatcar

from quests_md.errors import FileFormatError
from quests_md.io import iter_frames


def frames(n=4, swell=0.0):
    found = []
    for seed in range(n):
        atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.set_cell(atoms.cell * (1 + swell * seed), scale_atoms=True)
        atoms = atoms[np.argsort(atoms.numbers, kind="stable")]
        found.append(atoms)
    return found


def text(images):
    """As VASP writes it where the cell changes: the head before each step."""
    parts = []
    for i, atoms in enumerate(images, 1):
        cell = "".join("".join(f"{x:13.6f}" for x in vector) + "\n" for vector in atoms.cell)
        rows = "".join("".join(f"{x:12.8f}" for x in row) + "\n" for row in atoms.get_scaled_positions())
        parts.append(f"salt\n           1\n{cell}   Na_pv  Cl\n    4     4\nDirect configuration= {10 * i:5d}\n{rows}")
    return "".join(parts)


def test_steps_as_ase_reads_them(tmp_path):
    images = frames()
    with (tmp_path / "XDATCAR").open("w") as fd:
        write_vasp_xdatcar(fd, images)
    expected = ase.io.read(tmp_path / "XDATCAR", ":")
    got = [frame.atoms for frame in iter_frames(tmp_path / "XDATCAR")]
    assert [atoms.info["step"] for atoms in got] == [1, 2, 3, 4]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, atol=1e-12)
        np.testing.assert_array_equal(a.cell.array, b.cell.array)
        assert (a.symbols == b.symbols).all()
        assert a.pbc.all()


def test_cells_that_change(tmp_path):
    images = frames(swell=0.01)
    (tmp_path / "XDATCAR").write_text(text(images))
    got = [frame.atoms for frame in iter_frames(tmp_path / "XDATCAR")]
    assert [atoms.info["step"] for atoms in got] == [10, 20, 30, 40]
    for a, b in zip(got, images, strict=True):
        np.testing.assert_allclose(a.cell.array, b.cell.array, atol=1e-6)
        np.testing.assert_allclose(a.positions, b.get_scaled_positions() @ b.cell.array, atol=1e-5)
        assert str(a.symbols) == "Na4Cl4"


@pytest.mark.parametrize("kept", [0.99, 0.9, 0.8, 0.77])
def test_a_torn_last_step_loses_itself_alone(tmp_path, kept):
    whole = text(frames(swell=0.01))
    (tmp_path / "XDATCAR").write_text(whole[: int(len(whole) * kept)])
    with pytest.warns(UserWarning, match="frame 3: the file ends in the middle of the step"):
        got = list(iter_frames(tmp_path / "XDATCAR", incomplete="warn"))
    assert len(got) == 3
    with pytest.raises(FileFormatError, match="XDATCAR@:3"):
        list(iter_frames(tmp_path / "XDATCAR"))


def test_a_file_without_its_last_newline_is_whole(tmp_path):
    (tmp_path / "XDATCAR").write_text(text(frames()).rstrip("\n"))
    assert len(list(iter_frames(tmp_path / "XDATCAR"))) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("Na_pv  Cl", "4 4"), "as VASP 5 and later write"),
        (("Na_pv  Cl", "Q1  Cl"), "'Q1' is no chemical symbol"),
        (("Direct configuration", "Konfig"), "VASP 5 or later, got 'Konfig"),
        (("    4     4", "    4    x"), "elements and their numbers"),
    ],
)
def test_what_is_none(tmp_path, change, said):
    (tmp_path / "XDATCAR").write_text(text(frames()).replace(*change))
    with pytest.raises(FileFormatError, match=f"frame 0, line 1: .*{said}"):
        list(iter_frames(tmp_path / "XDATCAR"))


def test_a_damaged_step_can_be_left_out(tmp_path):
    images = frames()
    (tmp_path / "XDATCAR").write_text(
        text(images).replace("Direct configuration=    20\n", "Direct configuration=    20\n*", 1)
    )
    bad = []
    assert [frame.index for frame in iter_frames(tmp_path / "XDATCAR", bad=bad.append)] == [0, 2, 3]
    assert "frame 1, lines 25 to 32" in str(bad[0])
