import bz2
import gzip
import lzma
import re
import tracemalloc
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory

from quests_md.errors import FileFormatError
from quests_md.io.frames import Frame, count_frames, expand_sources, iter_frames


def make_frames(n, natoms=4):
    rng = np.random.default_rng(0)
    frames = []
    for i in range(n):
        atoms = bulk("Cu", cubic=True)[:natoms]
        atoms.rattle(0.1, rng=rng)
        atoms.info["step"] = 10 * i
        atoms.arrays["mark"] = rng.integers(0, 5, len(atoms))
        atoms.calc = SinglePointCalculator(atoms, energy=float(i), forces=rng.normal(size=(len(atoms), 3)))
        frames.append(atoms)
    return frames


def assert_same(got, expected):
    assert len(got) == len(expected)
    for frame, atoms in zip(got, expected, strict=True):
        assert frame.atoms == atoms
        assert frame.atoms.info.keys() == atoms.info.keys()
        assert frame.atoms.arrays.keys() == atoms.arrays.keys()
        for key, value in atoms.info.items():
            np.testing.assert_array_equal(frame.atoms.info[key], value)
        for key, value in atoms.arrays.items():
            np.testing.assert_array_equal(frame.atoms.arrays[key], value)
        assert (frame.atoms.calc is None) == (atoms.calc is None)
        if atoms.calc is not None:
            assert isinstance(frame.atoms.calc, SinglePointCalculator)
            assert frame.atoms.calc.results.keys() == atoms.calc.results.keys()
            for key, value in atoms.calc.results.items():
                np.testing.assert_array_equal(frame.atoms.calc.results[key], value)


def indices(frames):
    return [frame.index for frame in frames]


@pytest.fixture
def ten(tmp_path):
    path = tmp_path / "ten.xyz"
    ase.io.write(path, make_frames(10), format="extxyz")
    return path


@pytest.fixture
def torn(ten):
    """Six complete frames and the middle of a seventh."""
    lines = ten.read_text().splitlines(keepends=True)
    path = ten.with_name("torn.xyz")
    path.write_text("".join(lines[: 6 * 6 + 4]))
    return path


def take_until_error(frames, error):
    got = []
    with pytest.raises(error) as info:  # noqa: PT012 - what comes before the error is part of the contract
        for frame in frames:
            got.append(frame)
    return got, str(info.value)


@pytest.mark.parametrize(
    "name", ["a.extxyz", "a.xyz", "a.XYZ", "a.xyz.gz", "a.xyz.bz2", "a.extxyz.xz", "a.traj", "a.json", "a.cif"]
)
def test_equals_ase_read(tmp_path, name):
    path = tmp_path / name
    fmt = "extxyz" if "xyz" in name.lower() else None
    ase.io.write(path, make_frames(5), format=fmt)
    got = list(iter_frames(path))
    assert_same(got, ase.io.read(path, ":", format=fmt))
    assert indices(got) == [0, 1, 2, 3, 4]
    assert {frame.source for frame in got} == {str(path)}


def test_plain_xyz_with_any_comment(tmp_path):
    path = tmp_path / "plain.xyz"
    path.write_text(
        "2\ni = 0, E = -1.5 what-ever: (a,b) 3%\nH 0 0 0\nH 0 0 0.7\n"
        "2\n\nH 0 0 0\nH 0 0 0.8\n2\n42\nO 0 0 0 9 9\nH 0 0 1 9 9\n"
    )
    assert_same(list(iter_frames(path)), ase.io.read(path, ":"))


def test_xyz_by_content(ten, tmp_path):
    for name in ("movie", "movie.out1"):
        path = tmp_path / name
        path.write_bytes(ten.read_bytes())
        assert len(list(iter_frames(path))) == 10
        assert count_frames(path) == 10


def test_cell_vectors_after_the_atoms(tmp_path):
    path = tmp_path / "adf.xyz"
    frame = "1\nlattice\nH 0 0 0\nVEC1 3.0 0 0\nVEC2 0 4.0 0\nVEC3 0 0 5.0\n"
    path.write_text(2 * frame)
    assert_same(list(iter_frames(path)), ase.io.read(path, ":"))
    path.write_text(frame + frame.replace("VEC2", "VEC7"))
    got, message = take_until_error(iter_frames(path), FileFormatError)
    assert len(got) == 1
    assert "frame 1, lines 7 to 12" in message


def test_line_ends_and_blank_lines(ten):
    text = ten.read_text()
    expected = ase.io.read(ten, ":")
    for written in (text.replace("\n", "\r\n") + "\r\n  \r\n", text.rstrip()):
        ten.write_bytes(written.encode())
        assert_same(list(iter_frames(ten)), expected)
    ten.write_text("1\n\nH 0 0 0\n\n1\n\nHe 0 0 0\n")
    assert [str(frame.atoms.symbols) for frame in iter_frames(ten)] == ["H", "He"]


def test_memory_frames_are_the_same_objects():
    frames = make_frames(3)
    got = list(iter_frames(frames))
    assert all(frame.atoms is atoms for frame, atoms in zip(got, frames, strict=True))
    assert got[2] == Frame(frames[2], "memory", 2)
    assert next(iter_frames(frames[0])).atoms is frames[0]
    assert indices(iter_frames(atoms for atoms in frames)) == [0, 1, 2]


def test_generators_are_not_read_ahead():
    def forever():
        yield molecule("H2O")
        yield molecule("CH4")
        raise RuntimeError("read too far")

    frames = iter_frames(forever())
    assert len(next(frames).atoms) == 3
    assert len(next(frames).atoms) == 5


def test_mixture(ten):
    atoms = molecule("H2O")
    got = list(iter_frames([atoms, f"{ten}@:2", ten, atoms]))
    assert indices(got) == [0, 0, 1, *range(10), 1]
    assert [frame.source for frame in got[:3]] == ["memory", str(ten), str(ten)]


def test_ase_trajectory_objects(tmp_path):
    ase.io.write(tmp_path / "a.traj", make_frames(4))
    with Trajectory(tmp_path / "a.traj") as trajectory:
        assert len(list(iter_frames(trajectory))) == 4
        assert len(list(iter_frames(trajectory[::2]))) == 2


@pytest.mark.parametrize("name", ["b.xyz", "b.xyz.gz", "b.traj", "b.json"])
@pytest.mark.parametrize(
    "text", [":", "::3", "-1", "5", ":4", "2:", "2:9:3", "-3:", ":-8", "-4:-1:2", "::-1", "8:2:-3", "-2", "9:", "0"]
)
def test_slices(tmp_path, name, text):
    path = tmp_path / name
    ase.io.write(path, make_frames(10))
    got = list(iter_frames(f"{path}@{text}"))
    expected = (
        range(10)[slice(*(int(part) if part else None for part in text.split(":")))]
        if ":" in text
        else [range(10)[int(text)]]
    )
    assert indices(got) == list(expected)
    assert [frame.atoms.info.get("step", 10 * frame.index) // 10 for frame in got] == list(expected)
    assert count_frames(f"{path}@{text}") == (len(expected) if name in ("b.xyz", "b.traj") else None)


@pytest.mark.parametrize("text", ["10", "-11", "20:", "5:2", ":0", "2:8:-1", "-20:-15"])
def test_slice_that_selects_nothing(ten, text):
    with pytest.raises(ValueError, match=f"ten.xyz.*'@{text}'.* 10 frames"):
        list(iter_frames(f"{ten}@{text}"))


def test_step_zero(ten):
    with pytest.raises(ValueError, match="step"):
        iter_frames(f"{ten}@::0")


def test_name_with_at_sign_is_literal(ten, monkeypatch):
    monkeypatch.chdir(ten.parent)
    ten.rename("a@5")
    ase.io.write("a", make_frames(1), format="extxyz")
    assert len(list(iter_frames("a@5"))) == 10
    assert indices(iter_frames("a@5@-1")) == [9]
    Path("a@5").rename("x@300K.xyz")
    assert indices(iter_frames(Path("x@300K.xyz@::5"))) == [0, 5]
    assert len(list(iter_frames("x@300K.xyz"))) == 10


def test_glob(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "deep" / "folder.xyz").mkdir(parents=True)
    for name in ("runs/b.xyz", "runs/a.xyz", "runs/deep/c.xyz", "runs/d[1].xyz"):
        ase.io.write(name, make_frames(3), format="extxyz")
    assert expand_sources("runs/*.xyz") == ["runs/a.xyz", "runs/b.xyz", "runs/d[1].xyz"]
    assert expand_sources("runs/**/**/c.xyz") == ["runs/deep/c.xyz"]
    assert expand_sources("runs/**/[ac].xyz@::2") == ["runs/a.xyz@::2", "runs/deep/c.xyz@::2"]
    assert expand_sources(tmp_path / "runs" / "d[1].xyz") == [str(tmp_path / "runs" / "d[1].xyz")]
    got = [(frame.source, frame.index) for frame in iter_frames("runs/**/*.xyz@::2")]
    assert got[:3] == [("runs/a.xyz", 0), ("runs/a.xyz", 2), ("runs/b.xyz", 0)]
    assert len(got) == 8
    assert count_frames(["runs/**/*.xyz@::2", make_frames(1)[0]]) == 9


def test_same_file_twice_is_read_once(ten, monkeypatch):
    monkeypatch.chdir(ten.parent)
    with pytest.warns(UserWarning, match="read once: ten.xyz@:") as caught:
        frames = iter_frames(["*.xyz", "ten.xyz@:", "ten.xyz@0::1", "ten.xyz@:3"])
    assert caught[0].filename == __file__
    assert str(ten) not in str(caught[0].message)
    assert len(list(frames)) == 13
    with pytest.warns(UserWarning, match="read once") as caught:
        assert len(list(iter_frames(name for name in ("ten.xyz", ten)))) == 10
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="read once"):
        assert expand_sources(["ten.xyz", ten]) == ["ten.xyz"]
    assert count_frames(["ten.xyz", ten]) == 10


def test_missing_things(tmp_path):
    for name in ("no.xyz", "no.dump"):
        with pytest.raises(FileNotFoundError, match=f"{name}: "):
            iter_frames([make_frames(1)[0], tmp_path / f"{name}@3"])
    with pytest.raises(FileNotFoundError, match=r"\*\.extxyz: no file matches"):
        iter_frames(str(tmp_path / "*.extxyz@3"))
    with pytest.raises(IsADirectoryError, match="folder"):
        iter_frames(tmp_path)


@pytest.mark.parametrize("wrong", [3, None, 2.5])
def test_wrong_types(wrong):
    name = type(wrong).__name__
    with pytest.raises(TypeError, match=f"expected Atoms, .* got {name}"):
        iter_frames(wrong)
    with pytest.raises(TypeError, match=f"expected Atoms or a path .*got {name}"):
        iter_frames([molecule("H2"), wrong])
    with pytest.raises(TypeError, match="got Atoms"):
        expand_sources([molecule("H2")])
    with pytest.raises(ValueError, match="incomplete"):
        iter_frames([], incomplete="ignore")


@pytest.mark.parametrize("name", ["a.xyz", "a.xyz.gz", "a.traj", "a.cif", "a", "a.lammpstrj"])
@pytest.mark.parametrize("text", ["", "@:0", "@-1", "@3"])
def test_empty_file(tmp_path, name, text):
    path = tmp_path / name
    for content in (b"", b"\n\n  \n") if name == "a.xyz" else (b"",):
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        with pytest.raises(FileFormatError, match=f"{name}: the file holds no frames"):
            list(iter_frames(f"{path}{text}"))


GOOD = "2\nProperties=species:S:1:pos:R:3\nH 0 0 0\nH 0 0 1\n"


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ("hello\n", "frame 1, line 5: expected the number of atoms, got 'hello'"),
        ("-3\n\n", "frame 1, line 5: expected the number of atoms, got '-3'"),
        ("9" * 5000 + "\n", "frame 1, line 5: expected the number of atoms"),
        (GOOD.replace("Prop", "= Prop"), "frame 1, line 6: expected an extended XYZ comment"),
        (GOOD.replace("Prop", "unit=Å Prop"), "frame 1, line 6: expected UTF-8"),
        (GOOD.replace("pos:R:3", "pos:Q:3"), "frame 1, line 6: expected an extended XYZ comment"),
        (GOOD.replace("Prop", 'Lattice="1 2" Prop'), "frame 1, line 6: expected an extended XYZ comment"),
        (GOOD.replace("H 0 0 1", "H 0 1") + GOOD, "frame 1, line 8: expected an atom .* got 'H 0 1'"),
        (GOOD.replace("H 0 0 0", "H 0 zero 0"), "frame 1, line 7: expected an atom .* got 'H 0 zero 0'"),
        (GOOD.replace("H 0 0 0", "Qq 0 0 0"), "frame 1, line 7: expected an atom .* got 'Qq 0 0 0'"),
        (GOOD.replace("H 0 0 0\n", "") + GOOD, r"frame 1 \(line 5\): expected 2 atoms, got 1 and then '2' in line 8"),
        (GOOD.replace("2\n", f"{10**15}\n", 1) + GOOD, f"expected {10**15} atoms, got 2 and then '2' in line 9"),
    ],
)
def test_malformed_frame(tmp_path, bad, where):
    path = tmp_path / "bad.xyz"
    path.write_bytes((GOOD + bad).encode("latin1"))
    for incomplete in ("raise", "warn"):
        got, message = take_until_error(iter_frames(path, incomplete=incomplete), FileFormatError)
        assert re.search("bad.xyz: .*" + where, message)
        assert len(got) == 1
    assert count_frames(path) in (None, 2, 3)


def test_torn_last_frame(torn):
    got, message = take_until_error(iter_frames(torn), FileFormatError)
    assert_same(got, ase.io.read(torn.with_name("ten.xyz"), ":6"))
    assert "torn.xyz: frame 6 (line 37): expected 4 atoms, but the file ends" in message
    assert "line 40" in message
    assert "@:" in message
    with pytest.warns(UserWarning, match="frame 6") as caught:
        got = list(iter_frames(torn, incomplete="warn"))
    assert len(got) == 6
    assert [warning.filename for warning in caught] == [__file__]
    assert count_frames(torn) == 6


def test_every_cut_gives_the_complete_frames(tmp_path):
    text = "1\n\nH 0.0 0.0 0.0\n" + "3\nProperties=species:S:1:pos:R:3\nH 0.0 0.0 0.0\nH 0.0 0.0 1.0\nH 0.0 0.0 2.0\n"
    path = tmp_path / "cut.xyz"
    start = text.index("3\nProp")
    # from two columns too few to the end of the last number
    whole = text.rindex("2.0") + 3
    for end in range(start + 1, len(text) + 1):
        path.write_text(text[:end])
        if end >= whole:
            assert len(list(iter_frames(path))) == 2
            continue
        got, _ = take_until_error(iter_frames(path), FileFormatError)
        assert len(got) == 1
        with pytest.warns(UserWarning, match="frame 1"):
            assert len(list(iter_frames(path, incomplete="warn"))) == 1


@pytest.mark.parametrize(
    ("text", "complete", "message"),
    [
        *(
            ("1\n\nH 0 0 0\n1\n\n" + last, 1, "the file ends (within|in the middle)")
            for last in ("H 0 0", "H 0 0 -", "H 0 0 1e")
        ),
        ("2\n\nH 0 0 0 9 9\nH 0 0 1 9", 0, "the file ends in the middle"),  # in a column that ASE ignores
        ("2\nProperties=Z:I:1:pos:R:3\n1 0 0 0\n1", 0, "the file ends in the middle"),  # 1 is not the next frame
    ],
)
def test_cut_within_the_last_line(tmp_path, text, complete, message):
    path = tmp_path / "cut.xyz"
    path.write_text(text)
    with pytest.warns(UserWarning, match=f"frame {complete}.*{message}"):
        assert len(list(iter_frames(path, incomplete="warn"))) == complete
    with pytest.raises(FileFormatError, match=f"frame {complete}"):
        list(iter_frames(path))


def test_torn_file_and_negative_index(torn):
    with pytest.raises(FileFormatError, match="frame 6"):
        next(iter_frames(f"{torn}@-1"))
    for text, expected in (("@-1", [5]), ("@::-2", [5, 3, 1])):
        with pytest.warns(UserWarning, match="frame 6") as caught:
            assert indices(iter_frames(f"{torn}{text}", incomplete="warn")) == expected
        assert len(caught) == 1


def test_early_stop_does_not_see_the_torn_frame(torn):
    assert indices(iter_frames(f"{torn}@:2")) == [0, 1]
    assert indices(iter_frames(f"{torn}@5")) == [5]
    text = torn.read_text().replace("\n4\n", "\nfour\n", 4).replace("\nfour\n", "\n4\n", 3)
    torn.write_text(text)
    assert indices(iter_frames(f"{torn}@:2")) == [0, 1]
    assert indices(iter_frames(f"{torn}@:5:3")) == [0, 3]
    with pytest.raises(FileFormatError, match="frame 4"):
        list(iter_frames(torn))
    assert count_frames(torn) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compress", "suffix"), [(gzip.compress, "gz"), (lambda data: bz2.compress(data, 1), "bz2"), (lzma.compress, "xz")]
)
def test_truncated_compressed_file(tmp_path, compress, suffix):
    path = tmp_path / f"a.xyz.{suffix}"
    plain = tmp_path / "a.xyz"
    ase.io.write(plain, make_frames(1000), format="extxyz")
    path.write_bytes(compress(plain.read_bytes())[:-1000])
    with pytest.warns(UserWarning, match="ends in the middle|compressed") as caught:
        got = indices(iter_frames(f"{path}@::50", incomplete="warn"))
    assert len(caught) == 1
    assert len(got) >= 2
    assert got == list(range(0, got[-1] + 1, 50))
    with pytest.raises(FileFormatError, match=f"{suffix}: frame"):
        list(iter_frames(f"{path}@::50"))
    assert count_frames(path) is None


def test_gzip_cut_at_the_end_of_a_frame(tmp_path):
    path = tmp_path / "a.xyz.gz"
    path.write_bytes(gzip.compress(GOOD.encode() * 3)[:-4])
    got, message = take_until_error(iter_frames(path), FileFormatError)
    assert len(got) == 3
    assert "compressed data" in message


def test_damaged_compressed_file(tmp_path):
    path = tmp_path / "a.xyz.gz"
    data = bytearray(gzip.compress(GOOD.encode() * 3))
    data[-6] ^= 255
    for content in (bytes(data), GOOD.encode()):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"a\.xyz\.gz: frame \d: .*compressed"):
            list(iter_frames(path, incomplete="warn"))


def test_no_atoms(tmp_path):
    path = tmp_path / "none.xyz"
    ase.io.write(path, [Atoms(), molecule("H2O"), Atoms()], format="extxyz")
    assert [len(frame.atoms) for frame in iter_frames(path)] == [0, 3, 0]
    path.write_text("0\n\n0\n")
    got, _ = take_until_error(iter_frames(path), FileFormatError)
    assert len(got) == 1


def test_absurd_number_of_atoms_costs_no_memory(tmp_path):
    path = tmp_path / "absurd.xyz"
    path.write_text(GOOD + f"{10**15}\n\nH 0 0 0\n")
    tracemalloc.start()
    with pytest.warns(UserWarning, match=f"expected {10**15} atoms"):
        assert len(list(iter_frames(path, incomplete="warn"))) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "long.xyz"
    frame = "100\n\n" + "Cu 0.000000000000 1.000000000000 2.000000000000\n" * 100
    path.write_text(frame * 2000)  # 10 MB
    tracemalloc.start()
    assert indices(iter_frames(f"{path}@::500")) == [0, 500, 1000, 1500]
    assert indices(iter_frames(f"{path}@-1")) == [1999]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


@pytest.mark.parametrize("text", ["", "@::2"])
def test_torn_trajectory(tmp_path, text):
    path = tmp_path / "a.traj"
    ase.io.write(path, make_frames(6))
    data = path.read_bytes()
    path.write_bytes(data[: 3 * len(data) // 4])
    got, message = take_until_error(iter_frames(f"{path}{text}"), FileFormatError)
    assert indices(got) == list(range(0, 6, 2 if text else 1))[: len(got)]
    assert len(got) >= 2
    assert "a.traj: frame" in message
    with pytest.warns(UserWarning, match="torn"):
        assert len(list(iter_frames(f"{path}{text}", incomplete="warn"))) == len(got)
    assert count_frames(path) in (6, None)


def test_not_a_trajectory(tmp_path):
    path = tmp_path / "a.traj"
    path.write_text("something else")
    with pytest.raises(FileFormatError, match=r"a\.traj: expected a whole ASE trajectory"):
        list(iter_frames(path))
    assert count_frames(path) is None


def test_unknown_format_and_failing_parser(tmp_path):
    path = tmp_path / "a.what"
    path.write_text("no idea")
    with pytest.raises(FileFormatError, match=r"a\.what: expected a format known to ASE"):
        list(iter_frames(path))
    path = tmp_path / "a.json"
    path.write_text("{broken")
    with pytest.raises(FileFormatError, match=r"a\.json: frame 0: .*'json'"):
        list(iter_frames(path))


def test_count_frames(ten, tmp_path):
    def generator():
        raise AssertionError("consumed")
        yield

    assert count_frames(ten) == 10
    assert count_frames(make_frames(1)[0]) == 1
    assert count_frames(make_frames(3)) == 3
    assert count_frames(generator()) is None
    path = tmp_path / "a.json"
    ase.io.write(path, make_frames(2))
    assert count_frames(path) is None
    assert count_frames([ten, path]) is None


def test_frames_that_are_not_wanted_are_not_parsed(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text(GOOD + GOOD.replace("0 0 1", "0 0 one") + GOOD)
    assert indices(iter_frames(f"{path}@::2")) == [0, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nor does counting warn of a file that comes twice
        assert count_frames([path, path, f"{path}@:-1"]) == 5
