"""Inputs as people have them, through the command line; and bad frames of a training set left out."""

import os
import re
from pathlib import Path

import pytest
from ase.io import read, write

from quests_md import Reference

CASES = Path(os.environ.get("QUESTS_MD_CASES", Path(__file__).parents[3] / "shared" / "cases"))
KNOWN = ("-r", "cu.safetensors")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    if not (CASES / "cu_train.xyz").exists():
        pytest.skip(f"the inputs are not in {CASES}")
    folder = tmp_path_factory.mktemp("cases")
    Reference.from_frames(CASES / "cu_train.xyz").save(folder / "cu.safetensors")
    return folder / "cu.safetensors"


def rows(out):
    names, *lines = (line.split("\t") for line in out.splitlines())
    return [dict(zip(names, line, strict=True)) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "n", "warning"),
    [
        ("02-openmm-pdb-models/openmm.pdb", 10, None),
        ("04-gpumd-lowercase-lattice/lower.xyz", 10, None),
        ("04-gpumd-lowercase-lattice/lower2.xyz", 10, None),
        ("06-vasprun-mlff-frames-lost/vasprun.xml", 10, "7 of 10 ionic steps"),
        ("11-ase-db-gen-cfg-refused/a.db", 10, None),
        ("11-ase-db-gen-cfg-refused/a.gen", 1, None),
        ("11-ase-db-gen-cfg-refused/dump.0.cfg", 1, None),
        ("14-bom/bom.lammpstrj", 10, None),
        ("14-bom/bom.xyz", 10, None),
        ("15-old-box-bounds/noflag.lammpstrj", 10, "taken as periodic"),
        ("15-old-box-bounds/noflag3.lammpstrj", 10, "taken as periodic"),
        ("16-typelabel/tl.lammpstrj", 10, None),
        ("16-typelabel/tl2.lammpstrj", 10, None),
        ("17-labels-isotopes/CU.lammpstrj", 10, None),
        ("17-labels-isotopes/label.xyz", 10, None),
        ("21-multi-gro-dcd-xtc-h5/multi.gro", 3, "2 decimals"),
    ],
)
def test_frames_that_are_all_in(quests_md, known, files, n, warning):
    command = ("score", CASES / files, "-r", known)
    if warning is None:
        code, out, err = quests_md(*command)
    else:
        with pytest.warns(UserWarning, match=warning):
            code, out, err = quests_md(*command)
    assert code == 0
    found = rows(out)
    assert [row["state"] for row in found] == ["in"] * n
    assert float(found[0]["dh_mean"]) == pytest.approx(-5.80, abs=0.01)
    few_digits = 0.5 if "gro" in files else 0.3 if "pdb" in files else 2e-3
    assert float(found[0]["dh_max"]) == pytest.approx(-3.2416, abs=few_digits)
    assert re.search(rf"read: {n} frames? of .*108 atoms of Cu, periodic along a, b, c", " ".join(err.split()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("08-species-column-named-otherwise/elem.xyz", "no column names the elements.*element"),
        ("08-species-column-named-otherwise/binary.xyz", "no column names the elements.*type"),
        ("12-pbc-without-cell-is-exploded/nolat.xyz", "pbc = T T T.*without a cell vector.*Lattice"),
        ("12-pbc-without-cell-is-exploded/mix.xyz", "frame 2: periodic.*without a cell vector"),
        ("17-labels-isotopes/types.xyz", "--types"),
        ("17-labels-isotopes/zs.xyz", "Properties=Z:I:1"),
        ("21-multi-gro-dcd-xtc-h5/a.xtc", "not read.*--topology"),
        ("21-multi-gro-dcd-xtc-h5/a.dcd", "not read.*--topology"),
        ("21-multi-gro-dcd-xtc-h5/a.h5", "not read.*mdtraj"),
        ("21-multi-gro-dcd-xtc-h5/ML_AB", "not read.*extended XYZ"),
    ],
)
def test_bad_input_says_what_to_do(quests_md, known, file, said):
    code, _, err = quests_md("score", CASES / file, "-r", known, "--fail-on-event")
    assert code == 2
    assert re.search(said, err)


@pytest.mark.slow
def test_files_of_a_pattern_and_their_event(quests_md, known):
    code, out, err = quests_md("score", f"{CASES}/01-numbered-dumps-glob/dump.*", "-r", known)
    assert code == 0
    assert [int(row["step"]) for row in rows(out)] == list(range(0, 800, 50))
    assert "event 1: novel, steps 450 to 550" in err
    assert re.search(r"where\s+frame 0 of \S*dump.450 to frame 0 of \S*dump.550", " ".join(err.split()))


@pytest.mark.slow
def test_stages_that_begin_again(quests_md, known):
    with pytest.warns(UserWarning, match="frame 10: the step goes back: 0 after 900 of frame 9"):
        code, _, err = quests_md("score", CASES / "20-reset-timestep/stages.lammpstrj", "-r", known)
    assert code == 0
    assert re.search(r"where\s+frames \d+ to \d+ of \S*stages.lammpstrj", " ".join(err.split()))


@pytest.mark.slow
def test_a_run_without_cell(quests_md, known):
    with pytest.warns(
        UserWarning, match="the run are not periodic, all frames of the reference periodic.*give its cell"
    ):
        code, _, _ = quests_md("score", CASES / "03-cp2k-pos-xyz-no-cell/cp2k-pos-1.xyz", "-r", known)
    assert code == 0


@pytest.mark.slow
def test_deuterium_is_hydrogen(quests_md, known):
    with pytest.warns(UserWarning, match=r"H \(108 atoms\) is not in the reference, which has Cu"):
        _, out, _ = quests_md("score", CASES / "17-labels-isotopes/deut.xyz", "-r", known)
    assert {row["worst_element"] for row in rows(out) if "worst_element" in row} <= {"H"}


def test_bad_frames_are_left_out_of_a_reference(quests_md, folder, tmp_path):
    frames = read(folder / "quiet.xyz", ":")
    frames[4].positions[0] = frames[4].positions[1]
    write(tmp_path / "mixed.xyz", frames)
    text = (tmp_path / "mixed.xyz").read_text()
    first = text.index("Lattice", text.index("Lattice") + 1)
    (tmp_path / "mixed.xyz").write_text(text[:first] + re.sub('Lattice="[^"]*"', "", text[first:], count=1))
    out = tmp_path / "kept.safetensors"
    code, _, err = quests_md("reference", "build", tmp_path / "mixed.xyz", "-o", out)
    assert (code, out.exists()) == (2, False)
    assert "frame 1: periodic" in err
    with pytest.warns(UserWarning, match="left out 2 bad frames:\n.*frame 1: periodic.*\n.*frame 4: atom"):
        code, said, _ = quests_md("reference", "build", tmp_path / "mixed.xyz", "-o", out, "--skip-bad")
    assert code == 0
    assert Reference.load(out).n_frames == 4
    assert "2 frames: bad, named when built" in " ".join(said.split())
    assert re.search("frames +4 frames of 1 file: 32 atoms each, periodic along a, b, c", " ".join(said.split()))


def test_types_of_a_training_set(quests_md, folder, tmp_path):
    text = (folder / "train.xyz").read_text().replace("Cu  ", "1   ")
    (tmp_path / "types.xyz").write_text(text)
    out = tmp_path / "typed.safetensors"
    assert quests_md("reference", "build", tmp_path / "types.xyz", "-o", out)[0] == 2
    assert quests_md("reference", "build", tmp_path / "types.xyz", "-o", out, "--types", "Cu")[0] == 0
    assert Reference.load(out).elements == ("Cu",)


def test_a_slice_is_told_of_how_many(quests_md, folder):
    _, _, err = quests_md("score", "run.xyz@::3", "-r", "train.safetensors", "-c", "train.json")
    assert "read: 4 of 12 frames of run.xyz: 32 atoms of Cu" in " ".join(err.split())


def test_a_training_set_whose_boundaries_change(quests_md, folder, tmp_path):
    frames = read(folder / "quiet.xyz", ":")
    frames[2].pbc = False
    write(tmp_path / "mixed.xyz", frames)
    with pytest.warns(UserWarning, match="boundaries of frames differ: 5 periodic along a, b, c, 1 not periodic"):
        code, said, _ = quests_md("reference", "build", tmp_path / "mixed.xyz", "-o", tmp_path / "mixed.safetensors")
    assert code == 0
    assert "32 atoms each, periodic along a, b, c (5); not periodic (1)" in " ".join(said.split())
