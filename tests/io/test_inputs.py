"""What files say of cells, elements, frames, units: each kind of input as programs and people write it."""

import bz2
import gzip
import lzma
import re
import shlex
import subprocess

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.io.formats import ioformats

from quests_md import Monitor, Reference
from quests_md.errors import FileFormatError, FrameError
from quests_md.io import FramesSeen, frame_time_ps, iter_frames

A = 3.61
CELL = np.diag([2 * A] * 3)
LATTICE = " ".join(str(x) for x in CELL.ravel())


def crystal(seed=0, element="Cu"):
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.08, seed=seed)
    atoms.symbols[:] = element
    return atoms


def rows(atoms, label=None, scale=1.0):
    return "".join(
        f"{label or symbol} {x * scale:.10f} {y * scale:.10f} {z * scale:.10f}\n"
        for symbol, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True)
    )


def xyz(path, comment, atoms=None, **how):
    atoms = crystal() if atoms is None else atoms
    path.write_text(f"{len(atoms)}\n{comment}\n{rows(atoms, **how)}")
    return path


def only(path, **how):
    frames = list(iter_frames(path, **how))
    assert len(frames) == 1
    return frames[0].atoms


def assert_crystal(atoms, cell=CELL, pbc=True, atol=1e-7):
    np.testing.assert_allclose(atoms.positions, crystal().positions, atol=atol)
    np.testing.assert_allclose(atoms.cell.array, cell, atol=atol)
    assert atoms.pbc.all() == pbc
    assert set(atoms.symbols) == {"Cu"}


# Cells in comments


@pytest.mark.parametrize(
    "comment",
    [
        f'lattice="{LATTICE}" properties=species:S:1:pos:R:3',
        f'LATTICE="{LATTICE}" PROPERTIES=Species:S:1:Pos:R:3 PBC="T T T"',
        f'energy=-1 lattice="{LATTICE}" pbc="TTT"',
        f'Lattice="{LATTICE.replace("7.22", "0.722D+01")}" Properties=species:S:1:pos:R:3',
        f"pbc=[T, T, T] Lattice={{{LATTICE}}}",
    ],
)
def test_keys_in_any_case(tmp_path, comment):
    assert_crystal(only(xyz(tmp_path / "a.xyz", comment)))


def test_a_tilted_cell_keeps_its_rows(tmp_path):
    cell = np.array([[7.0, 0, 0], [1.0, 7.5, 0], [0.5, 0.25, 8.0]])
    text = " ".join(str(x) for x in cell.ravel())
    assert_crystal(only(xyz(tmp_path / "a.xyz", f'lattice="{text}"')), cell)


@pytest.mark.parametrize(
    ("said", "of_cell", "of_positions"),
    [
        ("positions{angstrom} cell{angstrom}", 1, 1),
        ("positions{angstrom}  cell{atomic_unit}", 1 / units.Bohr, 1),
        ("Traj: positions{atomic_unit} Step: 7 Bead: 2 cell{angstrom}", 1, 1 / units.Bohr),
        ("Traj: positions Step: 7 Bead: 2", 1 / units.Bohr, 1 / units.Bohr),
        ("x_centroid{nanometer} cell{nanometer}", 0.1, 0.1),
        ("positions{angstrom} cell_units{angstrom}", 1, 1),
    ],
)
def test_cells_of_ipi(tmp_path, said, of_cell, of_positions):
    abc = " ".join(f"{2 * A * of_cell:.8f}" for _ in range(3))
    path = xyz(tmp_path / "a.xyz", f"# CELL(abcABC):  {abc} 90.00 90.0 90.0 Step: 7 {said}", scale=of_positions)
    atoms = only(path)
    assert_crystal(atoms, atol=1e-6)
    assert atoms.info["step"] == 7


def test_matrix_cell_of_ipi(tmp_path):
    upper = np.array([[7.0, 1.0, 0.5], [0, 7.5, 0.25], [0, 0, 8.0]])
    words = " ".join(str(x) for x in upper.ravel())
    for kind in ("H", "GENH"):
        path = xyz(tmp_path / "a.xyz", f"# CELL({kind}): {words} positions{{angstrom}} cell{{angstrom}}")
        assert_crystal(only(path), upper.T)


def test_forces_of_ipi_are_no_positions(tmp_path):
    path = xyz(tmp_path / "a.xyz", "# CELL(abcABC): 7 7 7 90 90 90 Step: 0 forces{atomic_unit} cell{atomic_unit}")
    with pytest.raises(FileFormatError, match="forces"):
        list(iter_frames(path))


def test_steps_and_times_of_cp2k(tmp_path):
    atoms = only(xyz(tmp_path / "a.xyz", " i =       40, time =       20.500, E =     -1234.5"))
    assert atoms.info["step"] == 40
    assert frame_time_ps(atoms) == pytest.approx(0.0205)
    assert not atoms.pbc.any()


@pytest.mark.parametrize(
    "comment", ["cell 7.2 7.2 7.2", "%PBC 7.2 7.2 7.2", "box: 7.2 7.2 7.2", "generated, unit cell 7.2", "in bohr"]
)
def test_a_comment_that_says_more_than_is_read(tmp_path, comment):
    with pytest.warns(UserWarning, match="the comment says .*Lattice"):
        only(xyz(tmp_path / "a.xyz", comment))


@pytest.mark.parametrize(
    ("comment", "missing"),
    [
        ('Properties=species:S:1:pos:R:3 pbc="T T T"', "a, b, c"),
        ('pbc="T F F" Lattice="0 0 0 0 7 0 0 0 7"', "a"),
        ('pbc="T T T" Lattice="7 0 0 0 7 0 0 0 0"', "c"),
    ],
)
def test_periodic_without_a_cell_is_bad_input(tmp_path, comment, missing):
    path = xyz(tmp_path / "a.xyz", comment)
    with pytest.raises(FileFormatError, match=f"frame 0: periodic .* without a cell vector along {missing};.*Lattice"):
        list(iter_frames(path))


# Elements


@pytest.mark.parametrize("name", ["type", "element", "symbol", "name"])
def test_columns_that_do_not_name_elements(tmp_path, name):
    path = xyz(tmp_path / "a.xyz", f'Lattice="{LATTICE}" Properties={name}:S:1:pos:R:3')
    with pytest.raises(FileFormatError, match=f"line 2: .*no column names the elements.*{name}.*sed"):
        list(iter_frames(path))


@pytest.mark.parametrize("properties", ["id:I:1:type:S:1:pos:R:3", "type:S:1:pos:R:3", "pos:R:3:type:S:1"])
def test_the_way_to_rename_a_column_works_wherever_it_stands(tmp_path, properties):
    atoms = crystal()
    words = {"id": "7", "type": "Cu"}
    order = properties.split(":")[::3]
    lines = [" ".join(words.get(name) or " ".join(map(str, place)) for name in order) for place in atoms.positions]
    path = tmp_path / "a.xyz"
    text = "\n".join(["32", f'Lattice="{LATTICE}" Properties={properties}', *lines]) + "\n"
    path.write_text(text * 2)
    with pytest.raises(FileFormatError, match="no column names the elements") as error:
        list(iter_frames(path))
    script = shlex.split(re.search(r"sed -E ('.*?')\)", str(error.value))[1])[0]
    done = subprocess.run(["sed", "-E", script, path], capture_output=True, text=True, check=True)
    path.write_text(done.stdout)
    for frame in iter_frames(path):
        assert_crystal(frame.atoms)


@pytest.mark.parametrize("name", ["type", "Type", "types", "atom_type"])
def test_types_in_a_column_of_numbers(tmp_path, name):
    path = xyz(tmp_path / "a.xyz", f'Lattice="{LATTICE}" Properties={name}:I:1:pos:R:3', label="1")
    assert_crystal(only(path, types=("Cu",)))
    with pytest.raises(FileFormatError, match=r"'1' is a number.*--types"):
        only(path)


@pytest.mark.parametrize("name", ["atomic_number", "atomic_numbers", "AtomicNumber"])
def test_atomic_numbers_under_other_names(tmp_path, name):
    assert_crystal(only(xyz(tmp_path / "a.xyz", f'Lattice="{LATTICE}" Properties={name}:I:1:pos:R:3', label="29")))


def test_columns_of_numbers_that_are_none_of_elements(tmp_path):
    path = xyz(tmp_path / "a.xyz", f'Lattice="{LATTICE}" Properties=molecule:I:1:pos:R:3', label="29")
    with pytest.raises(FileFormatError, match=r"no column names the elements.*got molecule, pos"):
        only(path)


def test_labels_in_advice_are_quoted(tmp_path):
    path = xyz(tmp_path / "a.xyz", f'Lattice="{LATTICE}"', label="q+A('/&")
    with pytest.raises(FileFormatError, match="no chemical symbol") as error:
        only(path)
    script = shlex.split(re.search(r"sed -E (.*), say\)", str(error.value))[1])[0]
    done = subprocess.run(["sed", "-E", script, path], capture_output=True, text=True, check=True)
    path.write_text(done.stdout)
    assert_crystal(only(path))


@pytest.mark.parametrize("odd", ["\f", "\v", "\x85", "\u2028", "\x1c"])
def test_what_ends_lines_elsewhere_stands_in_comments(tmp_path, odd):
    atoms = only(xyz(tmp_path / "a.xyz", f'Lattice="{LATTICE}" note="a{odd}b"'))
    assert_crystal(atoms)
    assert atoms.info["note"] == f"a{odd}b"


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        ('Lattice="7.22 7.22 7.22"', 'lengths of the cell, write Lattice="7.22 0 0 0 7.22 0 0 0 7.22"'),
        ('Lattice="7.22 7.22 7.22 90 90 90"', 'lengths and angles of the cell, write Lattice="7.22 0 0 0 7.22 0 0 0'),
        ('Lattice="7,22 0 0 0 7,22 0 0 0 7,22"', "with decimal points"),
        (f'Lattice="{LATTICE}" pbc=xyz', 'write pbc="T T T"'),
        ("# CELL(abcABC): 7.2 7.2 7.2 90 90 90 positions{ell} cell{ell}", "write positions{angstrom} cell{angstrom}"),
    ],
)
def test_comments_that_cannot_be_used_and_what_to_write(tmp_path, comment, said):
    with pytest.raises(FileFormatError, match=re.escape(said)):
        only(xyz(tmp_path / "a.xyz", comment))


def test_cells_of_ipi_in_units_of_ase(tmp_path):
    comment = f"# CELL(abcABC): {2 * A} {2 * A} {2 * A} 90 90 90 positions{{ase}} cell{{ase}}"
    assert_crystal(only(xyz(tmp_path / "a.xyz", comment)))


def test_decimal_commas(tmp_path):
    path = xyz(tmp_path / "a.xyz", "")
    path.write_text(path.read_text().replace(".", ","))
    with pytest.raises(FileFormatError, match=r"line 3: .*decimal points: sed"):
        only(path)


PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("name", ["a.xyz", "a.pdb", "frames", "a.json", "a.traj"])
@pytest.mark.parametrize("packer", PACKERS)
def test_packed_data_under_plain_names(tmp_path, name, packer):
    text = xyz(tmp_path / "b.xyz", "").read_bytes()
    (tmp_path / name).write_bytes(PACKERS[packer](text))
    with pytest.raises(FileFormatError, match=f"{name}: expected plain bytes, got data packed by {packer}; name it"):
        list(iter_frames(tmp_path / name))


def test_other_bytes_that_are_no_text(tmp_path):
    text = xyz(tmp_path / "a.xyz", "").read_text()
    for name in ("a.xyz", "a.pdb", "a.lammpstrj", "dump.0", "a.gro"):
        for content, said in (
            (b"(\xb5/\xfd" + bytes(50), "packed by zstd; unpack it: zstd -dc"),
            (b"PK\x03\x04" + bytes(50), "packed by zip; unpack it: unzip -p"),
            (text.encode("utf-16"), "got UTF-16"),
            (text.encode("utf-16-le"), "got UTF-16"),
            (text.replace("\n", "\r").encode(), "got CR alone"),
        ):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(FileFormatError, match=said):
                list(iter_frames(tmp_path / name))


@pytest.mark.parametrize("name", ["a.json.gz", "frames.gz", "a.traj.gz"])
def test_packed_data_that_end_too_early(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(np.random.default_rng(0).bytes(5000))[:2000])
    with pytest.raises(FileFormatError, match=r"the compressed data end or are damaged|ASE's reader failed"):
        list(iter_frames(tmp_path / name))


def test_a_file_without_positions(tmp_path):
    with pytest.raises(FileFormatError, match="no column holds positions"):
        list(iter_frames(xyz(tmp_path / "a.xyz", "Properties=species:S:1:forces:R:3")))


@pytest.mark.parametrize("label", ["Cu", "CU", "cu", "Cu1", "Cu_a", "Cu2+", "Cu-3"])
def test_labels_of_one_element(tmp_path, label):
    assert_crystal(only(xyz(tmp_path / "a.xyz", f'Lattice="{LATTICE}"', label=label)))


@pytest.mark.parametrize("label", ["D", "T", "d"])
def test_isotopes_are_hydrogen(tmp_path, label):
    atoms = only(xyz(tmp_path / "a.xyz", "water", label=label))
    assert set(atoms.symbols) == {"H"}
    assert atoms.get_masses()[0] == pytest.approx(3.016 if label == "T" else 2.014, abs=1e-3)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("1", "--types"),
        ("29", "Properties=Z:I:1"),
        ("X", "unknown element"),
        ("OW", "sed"),
        ("Q1", "no chemical symbol"),
    ],
)
def test_labels_that_are_not_clear(tmp_path, label, said):
    with pytest.raises(FileFormatError, match=f"frame 0, line 3: .*{re.escape(label)}.*{said}"):
        list(iter_frames(xyz(tmp_path / "a.xyz", "", label=label)))


def test_names_of_atoms_are_no_symbols(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("2\n\nCA 0 0 0\nC1 0 0 1.5\n")
    with pytest.raises(FileFormatError, match="'CA' may be C or Ca"):
        list(iter_frames(path))
    path.write_text("2\n\nCA 0 0 0\nO 0 0 2.4\n")
    assert only(path).get_chemical_symbols() == ["Ca", "O"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("N CA C O", "CA as Ca"),
        ("C H O HO", "HO as Ho"),
        ("C CD H", "CD as Cd"),
        ("N C NB", "NB as Nb"),
        ("Cl CA", "CA as Ca"),
        ("CA O", None),
        ("NA CL", None),
        ("CU ZR", None),
        ("Ca C O Cl", None),
    ],
)
def test_symbols_that_may_be_names_of_atoms(tmp_path, labels, said, recwarn):
    path = tmp_path / "a.xyz"
    names = labels.split()
    frame = f"{len(names)}\n\n" + "".join(f"{name} 0 0 {2 * i}\n" for i, name in enumerate(names))
    path.write_text(frame * 2)
    found = [frame.atoms.get_chemical_symbols() for frame in iter_frames(path)]
    assert found == [[name.capitalize() for name in names]] * 2
    told = [str(warning.message) for warning in recwarn]
    assert [text for text in told if "names of atoms" in text and f"({said})" in text] == told
    assert len(told) == (said is not None)


def test_symbols_and_atomic_numbers_that_contradict(tmp_path):
    path = tmp_path / "a.xyz"
    text = "2\nProperties=species:S:1:Z:I:1:pos:R:3\nCu 29 0 0 0\n{} {} 0 0 2.5\n"
    for label, number in (("Cu", 29), ("CA", 6), ("site1", 8)):
        path.write_text(text.format(label, number))
        assert only(path).numbers.tolist() == [29, number]
    path.write_text(text.format("Ni", 29))
    with pytest.raises(FileFormatError, match=r"frame 0, line 4: .*says Ni, that of atomic numbers 29 \(Cu\)"):
        only(path)


def test_types_in_xyz(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("2\nAtoms. Timestep: 0\n1 0 0 0\n2 0 0 2.5\n")
    assert only(path, types=("Cu", "Zr")).get_chemical_symbols() == ["Cu", "Zr"]
    with pytest.raises(FileFormatError, match="an atom is of type 2"):
        only(path, types=("Cu",))


def test_unknown_elements_of_any_format(tmp_path):
    for name in ("a.xyz", "a.traj", "a.json"):
        ase.io.write(tmp_path / name, Atoms("XCu", positions=[[0, 0, 0], [0, 0, 2]]))
        with pytest.raises(FileFormatError, match="unknown"):
            list(iter_frames(tmp_path / name))


# Text of other editors and languages


def test_byte_order_marks(tmp_path):
    path = xyz(tmp_path / "a.xyz", f'Lattice="{LATTICE}"')
    text = path.read_text()
    path.write_text(text, encoding="utf-8-sig")
    assert_crystal(only(path))
    path.write_text(text, encoding="utf-16")
    with pytest.raises(FileFormatError, match=r"UTF-16.*iconv"):
        list(iter_frames(path))


def test_exponents_of_fortran(tmp_path):
    atoms = crystal()
    body = "".join("Cu " + " ".join(f"{x / 10:.10f}D+01" for x in position) + "\n" for position in atoms.positions)
    path = tmp_path / "a.xyz"
    path.write_text(f'{len(atoms)}\nLattice="{LATTICE}"\n{body}')
    assert_crystal(only(path))


# Units and times


def test_units_that_frames_state(tmp_path):
    said = """units='_JSON {"time": "fs", "positions": "bohr"}' time=250"""
    lattice = " ".join(str(x / units.Bohr) for x in CELL.ravel())
    atoms = only(xyz(tmp_path / "a.xyz", f'Lattice="{lattice}" {said}', scale=1 / units.Bohr))
    assert_crystal(atoms)
    assert frame_time_ps(atoms) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("said", "unit"),
    [
        ("units=bohr", units.Bohr),
        ("unit=Bohr", units.Bohr),
        ('length_unit="bohr"', units.Bohr),
        ("positions_unit=a0", units.Bohr),
        ("units=au", units.Bohr),
        ('units="atomic units"', units.Bohr),
        ("units=nm", 10.0),
        ("units=pm", 0.01),
        ("distance_units=nm", 10.0),
        ("""units='{"positions": "bohr"}'""", units.Bohr),
        ("""Units='_JSON {"Length": "nm", "time": "fs"}'""", 10.0),
        ("units=metal", 1.0),
    ],
)
def test_units_of_length_by_name(tmp_path, said, unit):
    lattice = " ".join(str(x / unit) for x in CELL.ravel())
    atoms = only(xyz(tmp_path / "a.xyz", f'Lattice="{lattice}" {said}', scale=1 / unit))
    assert_crystal(atoms)
    ase.io.write(tmp_path / "b.xyz", atoms)  # in Å: it no longer says that it is in another unit
    assert_crystal(only(tmp_path / "b.xyz"))


@pytest.mark.parametrize("info", [{"units": {"positions": "bohr"}}, {"length_unit": "bohr"}])
def test_units_of_length_in_trajectories_of_ase(tmp_path, info):
    atoms = only(xyz(tmp_path / "a.xyz", f'Lattice="{LATTICE}"'))
    atoms.set_cell(atoms.cell / units.Bohr, scale_atoms=True)
    atoms.info |= info
    ase.io.write(tmp_path / "a.traj", atoms)
    assert_crystal(only(tmp_path / "a.traj"))


def test_units_of_length_of_atoms_in_memory_are_an_error(tmp_path):
    atoms = only(xyz(tmp_path / "a.xyz", f'Lattice="{LATTICE}"'))
    reference = Reference.from_frames([atoms, crystal(1)], bandwidth=0.015)
    atoms.info["units"] = {"positions": "bohr"}
    with pytest.raises(FrameError, match=r"memory, frame 0: expected Å, .* multiply positions and cell by 0.529"):
        Reference.from_frames([atoms], bandwidth=0.015)
    with pytest.raises(FrameError, match="expected Å"):
        Monitor(reference, on_error="raise", log=None).check(atoms)


def test_units_that_are_not_understood(tmp_path):
    with pytest.warns(UserWarning, match="the comment says 'bohr'"):
        only(xyz(tmp_path / "a.xyz", f'Lattice="{LATTICE}" remark="positions in bohr"'))
    with pytest.raises(FileFormatError, match="a unit of length"):
        only(xyz(tmp_path / "a.xyz", f'Lattice="{LATTICE}" length_unit=cubit'))


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"time": 250.0, "time_unit": "fs"}, 0.25),
        ({"time": 250.0, "units": {"time": "fs"}}, 0.25),
        ({"time": 2, "units": {"time": "ns"}}, 2000),
        ({"time_fs": 10.0}, 0.01),
        ({"time": 10.0}, None),
        ({"time": 10.0, "units": "fs"}, None),
        ({"time": "ten", "units": {"time": "fs"}}, None),
        ({"time_ps": 1.0, "time": 5.0, "units": {"time": "fs"}}, 1.0),
    ],
)
def test_times(info, expected):
    assert frame_time_ps(Atoms(info=info)) == (None if expected is None else pytest.approx(expected))


# Order


def test_files_of_a_pattern_come_in_the_order_of_their_numbers(tmp_path):
    names = ["run2/f.10.xyz", "run10/f.9.xyz", "run2/f.9.xyz", "run2/f.100.xyz", "run2/f.xyz"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        xyz(tmp_path / name, "")
    got = [frame.source.removeprefix(f"{tmp_path}/") for frame in iter_frames(f"{tmp_path}/run*/*.xyz")]
    assert got == ["run2/f.xyz", "run2/f.9.xyz", "run2/f.10.xyz", "run2/f.100.xyz", "run10/f.9.xyz"]


# Frames that a reader would add or lose


def pdb_rows(atoms, element="Cu", name="CU"):
    start, end = f"{name:>2}   {name:>2}  A   1    ", f"  1.00  0.00          {element:>2}\n"
    return "".join(
        f"HETATM{i:5d} {start}{x:8.3f}{y:8.3f}{z:8.3f}{end}" for i, (x, y, z) in enumerate(atoms.positions, 1)
    )


CRYST1 = f"CRYST1{2 * A:9.3f}{2 * A:9.3f}{2 * A:9.3f}  90.00  90.00  90.00 P 1           1\n"


def model(i, atoms, **how):
    return f"MODEL     {i:4d}\n{pdb_rows(atoms, **how)}ENDMDL\n"


def test_a_cell_that_stands_once_holds_for_all_models(tmp_path):
    path = tmp_path / "a.pdb"
    path.write_text(CRYST1 + "".join(model(i, crystal(i)) for i in range(4)) + "CONECT    1    2\nEND\n")
    frames = list(iter_frames(path))
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    for i, frame in enumerate(frames):
        assert frame.atoms.pbc.all()
        np.testing.assert_allclose(frame.atoms.positions, crystal(i).positions, atol=6e-4)
        assert set(frame.atoms.symbols) == {"Cu"}


def test_cells_that_change_and_frames_that_end_only(tmp_path):
    path = tmp_path / "a.pdb"
    other = CRYST1.replace("7.220", "7.320")
    path.write_text(CRYST1 + pdb_rows(crystal()) + "END\n" + other + pdb_rows(crystal()) + "END\nEND\n")
    assert [round(frame.atoms.cell[0, 0], 3) for frame in iter_frames(path)] == [7.22, 7.32]
    path.write_text("CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n" + pdb_rows(crystal()))
    assert not only(path).pbc.any()  # the unit cube says that there is no crystal


def test_a_torn_model(tmp_path):
    path = tmp_path / "a.pdb"
    path.write_text(CRYST1 + model(1, crystal()) + model(2, crystal())[:900])
    with pytest.raises(FileFormatError, match=r"in the middle of a model.*@:1"):
        list(iter_frames(path))


def test_elements_of_a_pdb_file_without_elements(tmp_path):
    path = tmp_path / "a.pdb"
    path.write_text(CRYST1 + pdb_rows(crystal(), element=""))
    with pytest.warns(UserWarning, match=r"from the names of atoms \(Cu: CU\)"):
        assert set(only(path).symbols) == {"Cu"}
    path.write_text(CRYST1 + pdb_rows(crystal(), element="", name="CA").replace("CA  A", "UNK A"))
    with pytest.raises(FileFormatError, match=r"'CA' .* does not say of which element"):
        list(iter_frames(path))


def gro(atoms, title="t=  2.50000 step= 1250", name="Cu", residue="CU", digits=3, velocities=None):
    width = digits + 5
    lines = []
    for i, position in enumerate(atoms.positions / 10):
        line = f"{1:5d}{residue:<5}{name:>5}{i + 1:5d}" + "".join(f"{x:{width}.{digits}f}" for x in position)
        lines.append(
            line + ("" if velocities is None else "".join(f"{v:{width}.{digits + 1}f}" for v in velocities[i]))
        )
    return f"Cu, {title}\n{len(atoms):5d}\n" + "\n".join(lines) + f"\n   {0.2 * A:.5f} {0.2 * A:.5f} {0.2 * A:.5f}\n"


FEW_DIGITS = pytest.mark.filterwarnings("ignore:.*positions have 2 decimals")


@FEW_DIGITS
@pytest.mark.parametrize("digits", [3, 6])
def test_gromacs_files_of_several_frames(tmp_path, digits):
    path = tmp_path / "a.gro"
    v = np.random.default_rng(1).normal(size=(32, 3))
    path.write_text("".join(gro(crystal(i), f"t= {i}.5 step= {10 * i}", digits=digits, velocities=v) for i in range(3)))
    frames = [frame.atoms for frame in iter_frames(path)]
    assert [(atoms.info["step"], atoms.info["time_ps"]) for atoms in frames] == [(0, 0.5), (10, 1.5), (20, 2.5)]
    for i, atoms in enumerate(frames):
        np.testing.assert_allclose(atoms.positions, crystal(i).positions, atol=6 * 10**-digits)
        np.testing.assert_allclose(atoms.get_velocities() * 1000 * units.fs, v * 10, atol=1e-2)
        np.testing.assert_allclose(atoms.cell.array, CELL)
        assert set(atoms.symbols) == {"Cu"}
    path.write_text(path.read_text()[:-200])
    with pytest.raises(FileFormatError, match=r"in the middle of the frame.*@:2"):
        list(iter_frames(path))


@FEW_DIGITS
@pytest.mark.parametrize(
    ("name", "residue", "element"),
    [
        ("Cu", "DUM", "Cu"),
        ("CA", "ALA", "C"),
        ("CA", "CA", "Ca"),
        ("HG11", "VAL", "H"),
        ("OW", "SOL", "O"),
        ("HW1", "SOL", "H"),
        ("CL", "CL-", "Cl"),
        ("NA", "NA", "Na"),
        ("CA", "LIG", None),
        ("SOD", "SOD", "Na"),
        ("POT", "POT", "K"),
        ("CLA", "CLA", "Cl"),
        ("CAL", "CAL", "Ca"),
        ("CES", "CES", "Cs"),
        ("RUB", "RUB", "Rb"),
        ("LIT", "LIT", "Li"),
        ("ZN", "ZN2", "Zn"),
        ("SOD", "ION", "Na"),
        ("NA", "ION", "Na"),
        ("SOX", "SOX", None),
        ("SOD", "LIG", None),
    ],
)
def test_elements_of_names(tmp_path, name, residue, element):
    path = tmp_path / "a.gro"
    path.write_text(gro(crystal(), name=name, residue=residue))
    if element is None:
        with pytest.raises(FileFormatError, match=f"'{name}' of an atom in residue '{residue}'"):
            list(iter_frames(path))
    elif element == name:
        assert set(only(path).symbols) == {element}
    else:
        with pytest.warns(UserWarning, match=f"{element}: {name}"):
            assert set(only(path).symbols) == {element}


@FEW_DIGITS
@pytest.mark.parametrize("before", ["", "\n", "\n\n"])
def test_titles_of_gromacs_files(tmp_path, before):
    path = tmp_path / "a.gro"
    frame = gro(crystal(), name="Cu", residue="CU").split("\n", 1)[1]
    path.write_text("".join(f"{before}{title}\n{frame}" for title in ("", "pH t=7..5", "t= 2.5 step= 7", "x t=1.5ps")))
    found = [frame.atoms for frame in iter_frames(path)]
    assert [len(atoms) for atoms in found] == [32] * 4
    assert [atoms.info.get("time_ps") for atoms in found] == [None, None, 2.5, None]
    assert found[2].info["step"] == 7
    path.write_text(f"title\n0\n1.0 1.0 1.0\ntitle\n{frame}\n\n\n")
    assert [len(frame.atoms) for frame in iter_frames(path)] == [0, 32]


def test_damaged_numbers_are_errors_of_the_file(tmp_path):
    path = tmp_path / "vasprun.xml"
    path.write_text(vasprun(["ml", "ml"]).replace("<v> 0.", "<v> 0x.", 1).replace("7.22", "7.2x2"))
    with pytest.raises(FileFormatError, match="expected ionic steps"):
        list(iter_frames(path))
    (tmp_path / "a.gro").write_text("title\n   -1\n1 1 1\n")
    with pytest.raises(FileFormatError, match="expected the number of atoms"):
        list(iter_frames(tmp_path / "a.gro"))


@FEW_DIGITS
def test_virtual_sites_are_no_atoms(tmp_path):
    path = tmp_path / "a.gro"
    path.write_text(gro(crystal(), name="OW", residue="SOL").replace("OW    3", "MW    3"))
    with pytest.warns(UserWarning, match="no atoms, left out: MW; O: OW"):
        assert len(only(path)) == 31


def vasprun(steps, end="</modeling>\n"):
    atoms = crystal()
    kinds = "".join("<rc><c>Cu</c><c>1</c></rc>" for _ in atoms)
    basis = "".join(f"<v> {a} {b} {c} </v>" for a, b, c in CELL)

    def structure(i, name=""):
        scaled = "".join(
            f"<v> {a:.10f} {b:.10f} {c:.10f} </v>" for a, b, c in crystal(i).get_scaled_positions(wrap=False)
        )
        crystal_ = f'<crystal><varray name="basis">{basis}</varray></crystal>'
        return f'<structure{name}>{crystal_}<varray name="positions">{scaled}</varray></structure>\n'

    energy = "".join(f'<i name="{key}"> -7.0 </i>' for key in ("e_fr_energy", "e_wo_entrp", "e_0_energy"))
    forces = "".join("<v> 0 0 0 </v>" for _ in atoms)
    energies = f"<energy>{energy}</energy>"

    def calculation(i):
        found = f'{structure(i)}<varray name="forces">{forces}</varray>{energies}'
        return f"<calculation><scstep>{energies}</scstep>{found}</calculation>\n"

    body = "".join(calculation(i) if kind == "dft" else structure(i) for i, kind in enumerate(steps))
    head = f'<atominfo><array name="atoms"><set>{kinds}</set></array></atominfo>' + structure(0, ' name="initialpos"')
    return f'<?xml version="1.0"?><modeling><kpoints></kpoints><parameters></parameters>{head}{body}{end}'


def test_steps_of_machine_learned_forces(tmp_path):
    path = tmp_path / "vasprun.xml"
    steps = ["dft", "ml", "ml", "dft", "ml"]
    path.write_text(vasprun(steps))
    with pytest.warns(UserWarning, match="3 of 5 ionic steps are of machine-learned forces"):
        frames = list(iter_frames(path))
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    for i, frame in enumerate(frames):
        np.testing.assert_allclose(frame.atoms.positions, crystal(i).positions, atol=1e-6)
        assert (frame.atoms.calc is not None) == (steps[i] == "dft")


@pytest.mark.parametrize("steps", [["ml", "dft", "ml"], ["ml", "ml"]])
def test_runs_that_begin_with_machine_learned_forces(tmp_path, steps):
    path = tmp_path / "vasprun.xml"
    path.write_text(vasprun(steps))
    with pytest.warns(UserWarning, match=f"{steps.count('ml')} of {len(steps)} ionic steps"):
        frames = list(iter_frames(path))
    for i, frame in enumerate(frames):
        np.testing.assert_allclose(frame.atoms.positions, crystal(i).positions, atol=1e-6)
        assert set(frame.atoms.symbols) == {"Cu"}
    assert len(frames) == len(steps)


def test_a_torn_vasprun(tmp_path):
    path = tmp_path / "vasprun.xml"
    text = vasprun(["dft", "dft", "dft"], end="")
    for torn, n in ((text, 3), (text[:-400], 2)):
        path.write_text(torn)
        with pytest.raises(FileFormatError, match=f"in the middle of a step.*@:{n}"):
            list(iter_frames(path))
        with pytest.warns(UserWarning, match="the complete frames before it are used"):
            assert len(list(iter_frames(path, incomplete="warn"))) == n


# LAMMPS dumps


def dump(path, columns, atom_rows, box="pp pp pp", ids=None):
    bounds = f"0 {2 * A}\n" * 3
    path.write_text(
        f"ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n{len(atom_rows)}\nITEM: BOX BOUNDS{' ' * bool(box)}{box}\n{bounds}"
        f"ITEM: ATOMS {columns}\n" + "".join(f"{row}\n" for row in atom_rows)
    )
    return path


def coordinates(atoms):
    return [" ".join(f"{x:.10f}" for x in position) for position in atoms.positions]


def test_boxes_without_flags(tmp_path):
    path = dump(tmp_path / "a.lammpstrj", "element x y z", [f"Cu {c}" for c in coordinates(crystal())], box="")
    with pytest.warns(UserWarning, match="names no boundaries.*periodic"):
        assert_crystal(only(path))


@pytest.mark.parametrize("column", ["typelabel", "type", "element"])
@pytest.mark.parametrize("label", ["Cu", "CU", "Cu1"])
def test_labels_in_dumps(tmp_path, column, label):
    path = dump(tmp_path / "a.lammpstrj", f"{column} x y z", [f"{label} {c}" for c in coordinates(crystal())])
    assert_crystal(only(path))
    path = dump(tmp_path / "a.lammpstrj", f"{column} x y z", [f"OWx {c}" for c in coordinates(crystal())])
    with pytest.raises(FileFormatError, match="no chemical symbol"):
        list(iter_frames(path))


def test_deuterium_in_dumps(tmp_path):
    path = dump(tmp_path / "a.lammpstrj", "element x y z", ["D 0 0 0", "O 0 0 1"])
    assert only(path).get_masses() == pytest.approx([2.014, 15.999], abs=1e-3)


def test_a_dump_of_a_group(tmp_path):
    places = coordinates(crystal())
    part = [f"{i} Cu {c}" for i, c in enumerate(places, 1) if i % 3]
    path = dump(tmp_path / "a.lammpstrj", "id element x y z", part)
    with pytest.warns(UserWarning, match="ids from 1 to 32: of a dump of a group"):
        only(path)
    dump(path, "id element x y z", [f"{i} Cu {c}" for i, c in enumerate(places, 1)])
    only(path)


# Other formats


def test_formats_that_ase_knows_by_their_names(tmp_path):
    left_out = {"json", "traj", "extxyz", "xyz", "gif", "png", "pov", "eps", "mp4", "html", "x3d"}
    atoms = crystal()
    tried = 0
    for name in ("gen", "cfg", "db", "xsf", "cif", "res", "vasp", "gpumd", "xsd", "v-sim", "struct", "json", "dlp4"):
        fmt = ioformats[name]
        if name in left_out or not (fmt.can_read and fmt.can_write):
            continue
        path = tmp_path / f"a.{name}"
        try:
            ase.io.write(path, atoms, format=name)
            expected = ase.io.read(path)
        except Exception:
            continue
        assert_same = np.testing.assert_allclose
        assert_same(only(path).positions, expected.positions)
        tried += 1
    assert tried >= 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.xtc", "--topology"),
        ("a.trr", "--topology"),
        ("a.dcd", "--topology"),
        ("a.nc", "--topology"),
        ("a.h5", "mdtraj"),
        ("a.hdf5", "mdtraj"),
        ("ML_AB", "extended XYZ"),
        ("ML_ABN", "extended XYZ"),
        ("a.gsd", "gsd"),
        ("a.what", "convert it to extended XYZ"),
    ],
)
def test_ways_out(tmp_path, name, said):
    path = tmp_path / name
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(FileFormatError, match=f"{name}: .*{re.escape(said)}"):
        list(iter_frames(path))


def test_lammps_data_without_elements(tmp_path):
    path = tmp_path / "a.data"
    ase.io.write(path, crystal(), format="lammps-data")
    with pytest.raises(FileFormatError, match="--types"):
        list(iter_frames(path))
    assert set(only(path, types=("Cu",)).symbols) == {"Cu"}
    ase.io.write(path, crystal(), format="lammps-data", masses=True)
    assert set(only(path).symbols) == {"Cu"}


# Bad frames left out


def test_bad_frames_are_told_and_left_out(tmp_path):
    path = tmp_path / "a.xyz"
    good = f'32\nLattice="{LATTICE}"\n{rows(crystal())}'
    bad = [good.replace("Cu ", "Q ", 1), f'32\npbc="T T T"\n{rows(crystal())}', good.replace("Lattice", "Properties")]
    path.write_text(good + bad[0] + good + bad[1] + bad[2] + good)
    errors = []
    assert [frame.index for frame in iter_frames(path, bad=errors.append)] == [0, 2, 5]
    assert [re.search(r"frame (\d)", str(error))[1] for error in errors] == ["1", "3", "4"]


# Digits


def big(seed, shift):
    atoms = crystal() * (2, 2, 2)
    atoms.rattle(0.05, seed=seed)
    atoms.positions += shift
    return atoms


def test_few_digits_are_told(tmp_path):
    atoms = big(1, 0)
    atoms.positions = np.round(atoms.positions, 2)
    path = xyz(tmp_path / "a.xyz", f'Lattice="{LATTICE}"', atoms)
    with pytest.warns(UserWarning, match="positions have 2 decimals: each atom is moved by up to 0.005 Å"):
        list(iter_frames(path))
    for good in (big(1, 0), bulk("Cu", a=3.6, cubic=True) * 6, bulk("Cu", a=4.0, cubic=True) * 4):
        list(iter_frames(xyz(path, "", good)))


@pytest.mark.parametrize(("shift", "is_told"), [(0, False), (400, False), (5000, True), (-5000, True)])
def test_positions_far_from_the_origin_in_six_digits(tmp_path, shift, is_told):
    atoms = big(2, shift)
    path = tmp_path / "a.lammpstrj"
    dump(path, "element x y z", [f"Cu {x:g} {y:g} {z:g}" for x, y, z in atoms.positions])
    path.write_text(path.read_text().replace(f"0 {2 * A}", f"{shift} {shift + 4 * A}"))
    if is_told:
        with pytest.warns(UserWarning, match=r"2 decimals, as %g gives far from the origin.*format float %.10g"):
            list(iter_frames(path))
    else:
        list(iter_frames(path))


# What the frames of a run are


def test_frames_seen(tmp_path):
    seen = FramesSeen()
    path = tmp_path / "a.xyz"
    frames = []
    for step, pbc in [(0, True), (10, True), (20, True), (5, True), (6, False), (5, False)]:
        frames.append(crystal())
        frames[-1].info |= {"step": step, "time_ps": 0.001 * step}
        frames[-1].pbc = pbc
    ase.io.write(path, frames)
    doubts = [seen.add(frame, frame.atoms.info["step"]) for frame in iter_frames([f"{path}@:3", f"{path}@3:"])]
    assert [len(found) for found in doubts] == [0, 0, 0, 1, 1, 0]
    assert "frame 3: the step goes back: 5 after 20 of frame 2 of" in doubts[3][0]
    assert "frame 4: not periodic, but the frames before are periodic along a, b, c" in doubts[4][0]
    said = seen.describe()
    assert said.startswith(f"6 frames of {path}: 32 atoms of Cu, periodic along a, b, c or not periodic, steps 0 to 5")
    assert said.endswith(", 0.01 ps apart")
