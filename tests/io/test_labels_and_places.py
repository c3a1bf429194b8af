"""Labels that Python would take for numbers, isotopes with a number, alternate locations in PDB files."""

import numpy as np
import pytest

from quests_md.errors import FileFormatError
from quests_md.io import iter_frames


def only(path, **how):
    return next(iter_frames(path, **how)).atoms


def test_an_underscore_makes_no_number(tmp_path):
    path = tmp_path / "a.xyz"
    good = "2\nProperties=species:S:1:pos:R:3:site:S:1 tag=1_83 a_1_2=3 step=1_0\nCu 0 0 0 1_83\nCu 0 0 2.5 2_08\n"
    path.write_text(good)
    atoms = only(path)
    assert atoms.info == {"tag": "1_83", "a_1_2": 3, "step": "1_0"}
    assert atoms.arrays["site"].tolist() == ["1_83", "2_08"]
    for bad in (good.replace("0 2.5", "0 2_5"), good.replace("2\n", "0_2\n", 1), "1\n\nCu 0 1_8 0\n"):
        path.write_text(bad)
        with pytest.raises(FileFormatError, match=r"2_5|0_2|1_8"):
            only(path)
    path.write_text(good.replace("tag=1_83", 'Lattice="1_0 0 0 0 10 0 0 0 10"'))
    with pytest.raises(FileFormatError, match="1_0"):
        only(path)


def test_an_underscore_makes_no_number_in_other_files(tmp_path):
    for name, text in {
        "a.gro": "copper\n1\n    1CU     Cu    1   0.1_1   0.200   0.300\n   2.00000   2.00000   2.00000\n",
        "XDATCAR": "c\n1\n9 0 0\n0 9 0\n0 0 9\nCu\n1\nDirect configuration=     1\n 0.1_1 0.2 0.3\n",
        "a.pdb": "HETATM    1 CU   CU A   1       0.1_0   0.000   0.000  1.00  0.00          CU\nEND\n",
        "a.lammpstrj": "ITEM: TIMESTEP\n1_0\nITEM: NUMBER OF ATOMS\n0\nITEM: BOX BOUNDS pp pp pp\n0 9\n0 9\n0 9\n"
        "ITEM: ATOMS id x y z\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(FileFormatError, match="1_"):
            only(tmp_path / name)


@pytest.mark.parametrize(("label", "mass"), [("D1", 2.01410178), ("D", 2.01410178), ("T2", 3.01604928), ("H1", 1.008)])
def test_isotopes_with_a_number(tmp_path, label, mass):
    path = tmp_path / "a.xyz"
    path.write_text(f"2\n\nO 0 0 0\n{label} 0 0 1\n")
    atoms = only(path)
    assert set(atoms.symbols) == {"O", "H"}
    np.testing.assert_allclose(atoms.get_masses(), [15.999, mass])


def row(i, name, letter, x, occupancy=1.0, residue=1):
    return (
        f"ATOM  {i:5d}  {name:<3}{letter}SER A{residue:4d}    {x:8.3f}   0.000   0.000{occupancy:6.2f}  0.00"
        f"          {name[0]:>2}\n"
    )


def test_alternate_locations(tmp_path):
    path = tmp_path / "a.pdb"
    first = row(1, "N", " ", 0)
    rows = [first, row(2, "CA", "A", 1.5, 0.4), row(3, "CA", "B", 1.6, 0.6), row(4, "O", "A", 3, 0.4)]
    rows += [row(5, "O", "B", 3.1, 0.6), row(6, "O", "A", 5, 0.5, 2), row(7, "O", "B", 5.1, 0.5, 2)]
    path.write_text("".join(rows) + "END\n")
    with pytest.warns(UserWarning, match=r"frame 0: 3 of 7 atoms are alternate locations \(A, B in column 17\)"):
        atoms = only(path)
    assert atoms.positions[:, 0].tolist() == [0, 1.6, 3.1, 5]


def test_letters_that_are_no_alternatives(tmp_path):
    path = tmp_path / "a.pdb"
    path.write_text(row(1, "N", "A", 0) + row(2, "C", "B", 1.5) + row(3, "O", "A", 3, 1, 2) + "END\n")
    assert len(only(path)) == 3
