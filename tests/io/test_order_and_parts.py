"""Steps and times that do not grow, the order of files, atoms that get lost, boundaries that change."""

import re

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from quests_md.io import FramesSeen, frame_time_ps, iter_frames


def crystal(seed=0):
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.08, seed=seed)
    return atoms


def doubts_of(path):
    seen = FramesSeen()
    return [seen.add(frame, frame.atoms.info.get("step", i)) for i, frame in enumerate(iter_frames(path))]


def run(path, **info):
    frames = [crystal(i) for i in range(len(next(iter(info.values()))))]
    for key, values in info.items():
        for atoms, value in zip(frames, values, strict=True):
            if value is not None:
                atoms.info[key] = value
    ase.io.write(path, frames)
    return path


@pytest.mark.parametrize(
    ("info", "at", "said"),
    [
        ({"time_ps": [0.0, 5.0, 2.0, 1.0]}, 2, "the time goes back: 2 ps after 5 ps, by frame 1 of"),
        ({"time_fs": [0.0, 5.0, None, 2.0]}, 3, "the time goes back: 0.002 ps after 0.005 ps"),
        ({"time_ps": [0.0, 5.0, 5.0, 6.0]}, 2, "the time does not grow: 5 ps"),
        ({"step": [0, 5, 5, 6]}, 2, "the step does not grow: 5, as that of frame 1 of"),
        ({"step": [0, 5, 6, 7], "time_ps": [0.0, 5.0, 6.0, 4.0]}, 3, "the time goes back"),
        ({"step": [0, 5, 4, 7], "time_ps": [0.0, 5.0, 4.0, 4.5]}, 2, "the step goes back: 4 after 5"),
        ({"step": [0, 5, 6, 7], "time_ps": [0.0, 1.0, 2.0, 3.0]}, None, ""),
        ({"time_ps": [0.0, np.nan, 2.0, 3.0]}, None, ""),
    ],
)
def test_steps_and_times_that_do_not_grow(tmp_path, info, at, said):
    path = run(tmp_path / "a.xyz", **info)
    doubts = doubts_of(path)
    assert [i for i, found in enumerate(doubts) if found] == ([] if at is None else [at])
    if at is not None:
        assert doubts[at][0].startswith(f"{path}, frame {at}: {said}")


def test_order_is_doubted_once_for_a_file(tmp_path):
    for i in range(8):
        run(tmp_path / f"a{i}.xyz", time_ps=[3.0, 2.0, 1.0])
    doubts = doubts_of(f"{tmp_path}/a*.xyz")
    assert [i for i, found in enumerate(doubts) if found] == [1, 4, 7, 10, 13]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308])
def test_a_time_that_is_no_number_is_none(value):
    assert frame_time_ps(Atoms(info={"time_ps": value if value != 1e308 else np.nan, "time_fs": 2.0})) == 0.002
    assert frame_time_ps(Atoms(info={"time_ns": value})) is None


def test_every_change_of_the_boundaries_is_told_once(tmp_path):
    path = tmp_path / "a.xyz"
    frames = [crystal(i) for i in range(6)]
    for atoms, pbc in zip(frames, ["TTT", "FFF", "TTF", "TTT", "FFF", "TTF"], strict=True):
        atoms.pbc = [letter == "T" for letter in pbc]
    ase.io.write(path, frames)
    doubts = doubts_of(path)
    assert [len(found) for found in doubts] == [0, 1, 1, 1, 0, 0]
    assert "frame 1: not periodic, but the frames before are periodic along a, b, c" in doubts[1][0]
    assert "frame 2: periodic along a, b, but the frames before are not periodic" in doubts[2][0]


def test_a_file_of_another_system_is_told_once(tmp_path):
    alloy = crystal()
    alloy.numbers[:4] = 13
    for i, atoms in enumerate([crystal(), crystal(1), alloy, crystal(2), crystal() * (2, 1, 1)]):
        ase.io.write(tmp_path / f"{i}.xyz", atoms)
    doubts = doubts_of(f"{tmp_path}/*.xyz")
    assert [len(found) for found in doubts] == [0, 0, 1, 0, 0]
    assert "2.xyz, frame 0: other atoms (4 Al, 28 Cu) than in frame 0 of" in doubts[2][0]
    ase.io.write(tmp_path / "set.xyz", [crystal(), alloy])  # one file of several systems is a set of frames
    assert not any(doubts_of(tmp_path / "set.xyz"))


@pytest.mark.parametrize(
    ("names", "is_told"),
    [
        (["t0.25.xyz", "t0.5.xyz", "t1.xyz", "t1.5.xyz", "t10.xyz"], False),
        (["x_300.25K.xyz", "x_300.5K.xyz", "x_1000K.xyz"], False),
        (["run.1.xyz", "run.2.xyz", "run.10.xyz"], False),
        (["run.1.2.xyz", "run.1.10.xyz", "run.2.1.xyz"], False),
        (["T-50.xyz", "T-100.xyz"], False),
        (["2024.01.09.xyz", "2024.01.10.xyz", "2024.2.1.xyz"], False),
        (["traj.xyz", "traj.part0002.xyz", "traj.part0003.xyz"], True),
        (["run.xyz", "run.1.xyz", "run.2.xyz"], True),
        (["cold.xyz", "hot.xyz"], True),
        (["a/x1.xyz", "a/x2.xyz", "b/x1.xyz"], True),
    ],
)
def test_the_order_of_the_files_of_a_pattern(tmp_path, names, is_told):
    atoms = crystal()
    for name in reversed(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        ase.io.write(tmp_path / name, atoms)
    pattern = f"{tmp_path}/**/*.xyz"
    order = [frame.source.removeprefix(f"{tmp_path}/") for frame in iter_frames(pattern)]
    assert order == names
    if not is_told:
        list(iter_frames(pattern, incomplete="warn"))
        return
    with pytest.warns(UserWarning, match=f"{re.escape(names[0])}, .*To change it, name the files one by one") as caught:
        list(iter_frames(pattern, incomplete="warn"))
    assert len(caught) == 1


def dump(path, frames, *, form="{:.8f}", units="metal", scaled=False):
    text = f"ITEM: UNITS\n{units}\n"
    names = "xs ys zs" if scaled else "x y z"
    for step, (ids, atoms) in enumerate(frames):
        text += f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{len(ids)}\nITEM: BOX BOUNDS pp pp pp\n"
        text += "".join(f"0 {length}\n" for length in atoms.cell.lengths())
        text += f"ITEM: ATOMS id element {names}\n"
        places = atoms.get_scaled_positions(wrap=False) if scaled else atoms.positions
        for i in ids:
            text += f"{i + 1} Cu " + " ".join(form.format(x) for x in places[i]) + "\n"
    path.write_text(text)
    return path


def test_atoms_that_get_lost_are_told_at_their_frame(tmp_path):
    whole = range(32)
    gaps = [i for i in whole if i not in (3, 7)]
    path = dump(tmp_path / "a.lammpstrj", [(ids, crystal()) for ids in (whole, gaps, gaps[:20], gaps[:20])])
    with pytest.warns(UserWarning, match=r".") as caught:
        list(iter_frames(path))
    said = [str(warning.message) for warning in caught]
    assert len(said) == 2
    assert f"{path}: frame 1: 30 atoms after 32 in the frame before" in said[0]
    assert f"{path}: frame 1: the 30 atoms have ids from 1 to 32" in said[1]
    dump(path, [(whole, crystal()), (whole, crystal()), (whole[:30], crystal())])
    with pytest.warns(UserWarning, match="frame 2: 30 atoms after 32"):
        assert len(list(iter_frames(path))) == 3


def test_reduced_units_are_told(tmp_path):
    path = dump(tmp_path / "a.lammpstrj", [(range(32), crystal())], units="lj")
    with pytest.warns(UserWarning, match="units are lj: lengths are taken as they are, sigma as 1 Å"):
        list(iter_frames(path))


@pytest.mark.parametrize(
    ("form", "scaled", "moved"),
    [("{:.1f}", False, "0.05"), ("{:.2f}", False, "0.005"), ("{:.3f}", True, "0.0072"), ("{:.4f}", False, None)],
)
def test_few_digits_in_dumps(tmp_path, form, scaled, moved):
    atoms = crystal() * (2, 2, 2)
    atoms.rattle(0.05, seed=3)
    path = dump(tmp_path / "a.lammpstrj", [(range(len(atoms)), atoms)], form=form, scaled=scaled)
    if moved is None:
        list(iter_frames(path))
        return
    with pytest.warns(UserWarning, match=f"decimals?: each atom is moved by up to {moved} Å"):
        list(iter_frames(path))
