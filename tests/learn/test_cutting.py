"""Small cells cut from large frames: what is around the core, what stays whole, and what is refused."""

import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, make_supercell, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.neighborlist import neighbor_list

from quests_md import FrameError, Reference, cut, cut_all


def crystal(n=6, seed=0, symbol="Cu", amplitude=0.06, **how):
    atoms = bulk(symbol, cubic=True, **how) * (n, n, n)
    atoms.rattle(amplitude, seed=seed)
    return atoms


def triclinic(seed=0):
    atoms = make_supercell(bulk("Cu"), [[9, 0, 0], [2, 9, 1], [-3, 1, 9]])
    atoms.rattle(0.06, seed=seed)
    atoms.positions += [0.3, -40.0, 17.0]
    return atoms


def left_handed(seed=0):
    atoms = crystal(6, seed)
    atoms.set_cell(atoms.cell[[1, 0, 2]])
    return atoms


def slab(seed=0, n=9, z_periodic=False):
    atoms = fcc111("Cu", (n, n, 4), vacuum=7.5)
    atoms.rattle(0.05, seed=seed)
    atoms.pbc = (True, True, z_periodic)
    return atoms


def wire(seed=0):
    atoms = bulk("Cu", cubic=True) * (2, 2, 20)
    atoms.center(vacuum=6.0, axis=(0, 1))
    atoms.pbc = (False, False, True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def salt(seed=0):
    return crystal(4, seed, "NaCl", crystalstructure="rocksalt", a=5.64)


def disordered(seed=0, symbols=("Cu",), n=500, pbc=True):
    """Atoms at random, none nearer than 2 Å to another, by dropping them one by one."""
    rng = np.random.default_rng(seed)
    side = (n / 0.06) ** (1 / 3)
    places = np.empty((0, 3))
    while len(places) < n:
        new = rng.uniform(0, side, 3)
        steps = places - new
        steps -= side * np.round(steps / side)
        if not len(places) or np.linalg.norm(steps, axis=1).min() > 2.0:
            places = np.vstack([places, new])
    return Atoms([symbols[i % len(symbols)] for i in range(n)], places, cell=[side] * 3, pbc=pbc)


def water(n=5, seed=0, pbc=True):
    rng = np.random.default_rng(seed)
    box = Atoms(cell=[3.1 * n] * 3, pbc=pbc)
    for place in np.ndindex(n, n, n):
        one = molecule("H2O")
        one.rotate(rng.uniform(0, 360), rng.normal(size=3))
        one.translate(3.1 * np.array(place) + rng.normal(scale=0.15, size=3) - one.get_center_of_mass())
        box += one
    if pbc:
        box.wrap()
    return box


FRAMES = {
    "crystal": crystal,
    "triclinic": triclinic,
    "left-handed": left_handed,
    "slab": slab,
    "slab in a periodic box": lambda seed: slab(seed, z_periodic=True),
    "wire": wire,
    "salt": salt,
    "disordered": disordered,
    "two elements": lambda seed: disordered(seed, ("Cu", "Zr")),
    "water": water,
    "cluster": lambda seed: disordered(seed, pbc=False),
}


def surroundings(atoms, index, distance):
    """Elements and places of all that is within a distance of an atom, sorted."""
    first, second, steps = neighbor_list("ijD", atoms, distance)
    its = first == index
    return sorted(
        (int(z), *map(float, step))
        for z, step in zip(atoms.numbers[second[its]], np.round(steps[its], 6) + 0.0, strict=True)
    )


def check_core(frame, found, buffer_A):
    """Each atom of the core has around it what it has in the frame."""
    cell = found.atoms
    core = np.flatnonzero(cell.arrays["core"])
    assert len(core)
    for i in core[:: max(len(core) // 3, 1)]:
        k = cell.arrays["original_index"][i]
        there, here = surroundings(frame, k, buffer_A), surroundings(cell, i, buffer_A)
        assert len(here) == len(there)
        np.testing.assert_allclose(here, there, atol=2e-6)


@pytest.mark.parametrize("boundary", ["periodic", "vacuum"])
@pytest.mark.parametrize("name", FRAMES)
def test_the_core_sees_what_it_sees_in_the_frame(name, boundary):
    frame = FRAMES[name](3)
    before = frame.copy()
    rng = np.random.default_rng(5)
    for center in (int(rng.integers(len(frame))), 0)[boundary == "periodic" and len(frame) > 550 :]:
        found = cut(frame, center, core_A=2.7, buffer_A=3.5, max_atoms=300, boundary=boundary)
        assert len(found.atoms) <= 300
        assert np.isfinite(found.atoms.positions).all()
        assert found.chosen.buffer_A >= 3.5 - 1e-6
        assert (found.atoms.numbers == frame.numbers[found.atoms.arrays["original_index"]]).all()
        assert center in found.atoms.arrays["original_index"][found.atoms.arrays["core"]]
        assert found.atoms.cell.volume > 10
        # of packed cells the outer part of the buffer makes room
        check_core(frame, found, 3.5 if found.chosen.relaxed == "" else 0.6 * 3.5)
        check_core(frame, found, min(found.chosen.kept_A, 6.0) - 1e-5)
        distances = found.atoms.get_all_distances(mic=True) + 9 * np.eye(len(found.atoms))
        assert distances.min() > 0.75 * min(2.0, frame.get_distances(0, range(1, len(frame)), mic=True).min())
    assert frame == before


def test_a_crystal_is_cut_along_its_own_periods():
    frame = crystal(7, seed=1, amplitude=0.05)
    del frame[600]
    near = np.argsort(frame.get_distances(600, range(len(frame)), mic=True))[:5]
    found = cut(frame, near, core_A=2.7, buffer_A=3.5, max_atoms=250)
    assert found.chosen.kind == "crystal"
    # the volume of an atom is that of the crystal
    per_atom = found.atoms.cell.volume / (len(found.atoms) + 1)
    assert per_atom == pytest.approx(3.61**3 / 4, rel=0.02)
    nearest = found.atoms.get_all_distances(mic=True) + 9 * np.eye(len(found.atoms))
    assert nearest.min() > 2.2


@pytest.mark.parametrize("center", [0, 256])
def test_no_atom_of_an_image_comes_into_the_buffer_of_a_crystal(center):
    frame = crystal(4, 0, "NaCl", 0.08, crystalstructure="rocksalt", a=5.64)
    found = cut(frame, center, buffer_A=4.0, max_atoms=300)
    assert (found.chosen.kind, found.chosen.relaxed) == ("crystal", "")
    core = np.flatnonzero(found.atoms.arrays["core"])
    for i in core:
        k = found.atoms.arrays["original_index"][i]
        there, here = surroundings(frame, k, 4.0), surroundings(found.atoms, i, 4.0)
        assert len(here) == len(there)
        np.testing.assert_allclose(here, there, atol=2e-6)
    assert found.chosen.kept_A == found.chosen.buffer_A >= 4.0 - 1e-6
    assert "Å as in the frame" in str(found)


@pytest.mark.parametrize("make", [disordered, water, crystal])
def test_how_much_of_the_buffer_is_as_in_the_frame_is_said(make):
    """By all distances from the core to what is in one of both, frame and cell, and not in the other."""
    frame = make()
    found = cut(frame, 7, core_A=2.7, buffer_A=3.5, max_atoms=300)
    least = found.chosen.buffer_A
    for i in np.flatnonzero(found.atoms.arrays["core"]):
        k = found.atoms.arrays["original_index"][i]
        there, here = (np.array(surroundings(*one, found.chosen.buffer_A)) for one in ((frame, k), (found.atoms, i)))
        for some, others in ((there, here), (here, there)):
            apart = np.linalg.norm(some[:, None, :] - others[None, :, :], axis=2).min(axis=1)
            least = min(least, *np.linalg.norm(some[apart > 1e-5][:, 1:], axis=1), 99.0)
    assert found.chosen.kept_A == pytest.approx(least, abs=2e-6)
    assert (found.chosen.relaxed == "") == (found.chosen.kept_A == found.chosen.buffer_A)
    inner = "" if found.chosen.relaxed == "" else f", the inner {math.floor(10 * found.chosen.kept_A) / 10:.1f} Å"
    assert f"{found.chosen.buffer_A:.1f} Å{inner} as in the frame" in str(found)


def test_steps_out_of_a_slab_are_no_periods():
    frame = fcc111("Cu", (14, 14, 6), vacuum=8.0)
    frame.pbc = True
    frame += Atoms("Cu", [frame.positions[-100] + [0.0, 1.5, 1.9]])
    frame.rattle(0.05, seed=1)
    found = cut(frame, len(frame) - 1, buffer_A=3.5, max_atoms=250)
    assert found.chosen.kind == "crystal"
    # all layers, and the vacuum of the frame
    assert np.ptp(found.atoms.positions[:, 2]) == pytest.approx(np.ptp(frame.positions[:, 2]), abs=0.5)
    heights = np.abs(found.atoms.cell.array[:, 2])
    assert np.isclose(heights, frame.cell.array[2, 2]).sum() == 1
    assert heights.min() < 0.5


def test_centers_alone_are_a_core():
    for frame in (salt(1), disordered(3, pbc=False)):
        found = cut(frame, [3, 40, 57], core_A=0.0, buffer_A=3.0, max_atoms=490)
        assert set(found.atoms.arrays["original_index"][found.atoms.arrays["core"]]) == {3, 40, 57}


def test_forces_of_the_core_are_those_of_the_large_frame():
    frame = crystal(6, seed=2, amplitude=0.1)
    frame.calc = EMT()
    forces = frame.get_forces()
    errors = []
    for buffer_A in (3.0, 5.0):
        found = cut(frame, 0, core_A=2.7, buffer_A=buffer_A, max_atoms=600)
        cell = found.atoms
        cell.calc = EMT()
        core = cell.arrays["core"]
        errors.append(np.abs(cell.get_forces()[core] - forces[cell.arrays["original_index"][core]]).max())
    assert errors[0] < 0.2
    assert errors[1] < 0.01


@pytest.mark.parametrize("boundary", ["periodic", "vacuum"])
@pytest.mark.parametrize("pbc", [True, False])
def test_molecules_are_whole(boundary, pbc):
    frame = water(5, 1, pbc)
    for center in (0, 200):
        found = cut(frame, center, core_A=2.5, max_atoms=250, boundary=boundary)
        assert len(found.atoms) < len(frame)
        atoms = found.atoms
        counts = atoms.symbols.formula.count()
        assert counts["H"] == 2 * counts["O"]
        molecules = np.unique(atoms.arrays["original_index"] // 3, return_counts=True)[1]
        assert (molecules % 3 == 0).all()
        bonds = neighbor_list("i", atoms, {("O", "H"): 1.2})
        assert len(bonds) == 4 * counts["O"]


def test_ratio_of_elements_of_a_salt_is_kept():
    frame = salt(4)
    for center in range(0, 500, 100):
        for buffer_A in (3.0, 4.3, 5.6):
            counts = cut(
                frame, center, buffer_A=buffer_A, max_atoms=400, boundary="vacuum"
            ).atoms.symbols.formula.count()
            assert counts["Na"] == counts["Cl"]
    melt = disordered(2, ("Na", "Cl"))
    counts = cut(melt, 7, max_atoms=200).atoms.symbols.formula.count()
    assert counts["Na"] == counts["Cl"]
    # a vacancy is none of the border's business
    del frame[100]
    near = np.argsort(frame.get_distances(100, range(len(frame)), mic=True))[:6]
    counts = cut(frame, near, core_A=2.0, buffer_A=3.0, max_atoms=200).atoms.symbols.formula.count()
    assert abs(counts["Na"] - counts["Cl"]) == 1


@pytest.mark.parametrize("n", [1, 2])
def test_a_small_frame_is_its_own_cell(n):
    frame = bulk("Cu", cubic=n > 1) * (n, n, n)
    found = cut(frame, 0)
    assert found.chosen.kind == "frame"
    assert (found.atoms.positions == frame.positions).all()
    assert (found.atoms.cell == frame.cell).all()
    assert found.atoms.arrays["core"][0]
    one = cut(Atoms("Ar", [[1.0, 2.0, 3.0]]), 0)
    assert len(one.atoms) == 1
    # with vacuum a periodic frame is cut, images and all
    cluster = cut(frame, 0, boundary="vacuum").atoms
    assert not cluster.pbc.any()
    assert len(cluster) > len(frame)
    assert set(cluster.arrays["original_index"]) == set(range(len(frame)))


@pytest.mark.parametrize("boundary", ["periodic", "vacuum"])
def test_what_is_needed_is_said_and_enough(boundary):
    frame = crystal(7, seed=3)
    with pytest.raises(ValueError, match=r"max_atoms: a core of .* needs a .* atoms, got max_atoms=20") as error:
        cut(frame, 5, max_atoms=20, boundary=boundary)
    words = str(error.value).split(" atoms, got")[0].split()
    found = cut(frame, 5, max_atoms=int(words[-1]), boundary=boundary)
    assert len(found.atoms) <= int(words[-1])
    check_core(frame, found, 2.9)


def test_old_labels_are_left_behind_and_identities_are_kept():
    frame = crystal(6)
    frame.calc = SinglePointCalculator(frame, energy=-1.0, forces=np.ones((len(frame), 3)))
    frame.info |= {"energy": -1.0, "step": 3}
    frame.set_array("forces", np.ones((len(frame), 3)))
    frame.set_tags(np.arange(len(frame)))
    frame.set_initial_magnetic_moments(np.linspace(0, 1, len(frame)))
    atoms = cut(frame, 11, max_atoms=150).atoms
    assert atoms.calc is None
    assert "energy" not in atoms.info
    assert "forces" not in atoms.arrays
    assert (atoms.get_tags() == atoms.arrays["original_index"]).all()
    assert (atoms.get_initial_magnetic_moments() == frame.get_initial_magnetic_moments()[atoms.get_tags()]).all()


def test_atoms_on_top_of_each_other_are_kept_as_they_are():
    frame = crystal(6)
    frame.positions[8] = frame.positions[7] + [0.02, 0, 0]
    frame.positions[9] = frame.positions[7]
    for boundary in ("periodic", "vacuum"):
        atoms = cut(frame, [7, 8], max_atoms=300, boundary=boundary).atoms
        assert {7, 8, 9} <= set(atoms.arrays["original_index"][atoms.arrays["core"]])


def test_a_chain_that_is_too_long_for_a_cell_is_cut():
    chain = Atoms("C400", [[1.3 * i, 0.4 * (i % 2), 0] for i in range(400)])
    found = cut(chain, 200, core_A=3.0, buffer_A=4.0, max_atoms=40, boundary="vacuum")
    assert 8 <= len(found.atoms) <= 16
    check_core(chain, found, 3.9)


@pytest.mark.parametrize(
    ("change", "how", "error", "words"),
    [
        ("nan", {}, FrameError, "positions: expected finite"),
        ("flat", {}, ValueError, "its cell has no volume"),
        ("", {"center": 9999}, ValueError, "center: expected atoms from 0 to 863, got 9999"),
        ("", {"center": -1}, ValueError, "center"),
        ("", {"center": "3"}, TypeError, "center: expected the index"),
        (
            "",
            {"center": "train.xyz"},
            TypeError,
            r"got 'train.xyz'; give a reference by its name: cut\(",
        ),
        ("", {"center": Path("train.xyz")}, TypeError, "give a reference by its name"),
        ("", {"center": [1.5]}, TypeError, "center: expected indices"),
        ("", {"center": []}, ValueError, "got none"),
        ("", {"center": None}, ValueError, "or a reference"),
        ("", {"center": 1, "core_A": -1}, ValueError, "core_A"),
        ("", {"center": 1, "buffer_A": math.nan}, ValueError, "buffer_A"),
        ("", {"center": 1, "core_A": 1e300}, ValueError, r"core_A: expected a distance of at most 1000 Å, got 1e\+300"),
        ("", {"center": 1, "buffer_A": 1e300}, ValueError, "buffer_A: expected a distance of at most"),
        ("", {"center": 1, "max_atoms": 0}, ValueError, "max_atoms"),
        ("", {"center": 1, "boundary": "open"}, ValueError, "boundary: expected 'periodic' or 'vacuum'"),
        ("", {"center": 1, "level": math.inf}, ValueError, "level"),
        ("", {"center": range(300)}, ValueError, "max_atoms: expected at least 300"),
        ("none", {}, ValueError, "got none"),
    ],
)
def test_misuse_is_named(change, how, error, words):
    frame = crystal(6)
    if change == "nan":
        frame.positions[3, 1] = math.nan
    if change == "flat":
        frame.cell[2] = frame.cell[1]
    if change == "none":
        frame = Atoms()
    with pytest.raises(error, match=words):
        cut(frame, **{"center": 0, **how})


@pytest.fixture(scope="module")
def reference():
    return Reference.from_frames([crystal(3, seed, amplitude=0.08) for seed in range(20)], groups="frame")


@pytest.fixture(scope="module")
def with_vacancies():
    frame = crystal(7, 99, amplitude=0.08)
    del frame[[400, 1200]]
    return frame


def test_a_cell_for_each_cluster_and_no_new_strangeness(reference, with_vacancies):
    found = list(cut_all(with_vacancies, reference))
    strange = with_vacancies.copy()
    dh = reference.delta_entropy(strange)
    assert found[0].core_dh_before == pytest.approx(dh.max())
    fine = [one for one in found if not one.refused]
    assert len(fine) >= 2
    for one in fine:
        assert one.n_boundary_above == 0
        assert one.core_dh_after == pytest.approx(one.core_dh_before, abs=max(1.0, 0.1 * abs(one.core_dh_before)))
        # what is said of the cell is so
        after = reference.delta_entropy(one.atoms)
        np.testing.assert_allclose(after, one.atoms.arrays["delta_entropy"])
        above = (after > one.levels["Cu"]) & ~one.atoms.arrays["core"]
        was = dh[one.atoms.arrays["original_index"]]
        assert (after[above] <= was[above] + np.maximum(1.0, 0.1 * np.abs(was[above]))).all()
        assert "boundary atoms above the level: 0" in str(one)
    # the same frame gives the same first cell by `cut`
    first = cut(with_vacancies, reference=reference)
    assert first.atoms == found[0].atoms


def test_rows_of_the_core_are_those_of_the_frame_where_the_buffer_is_as_thick_as_they_see(reference, with_vacancies):
    dh = reference.delta_entropy(with_vacancies)
    for boundary in ("periodic", "vacuum"):
        found = cut(with_vacancies, 5, reference=reference, core_A=2.8, buffer_A=5.0, max_atoms=500, boundary=boundary)
        atoms = found.atoms
        core = atoms.arrays["core"]
        after = reference.delta_entropy(atoms, float64=True)[core]
        np.testing.assert_allclose(after, dh[atoms.arrays["original_index"][core]], atol=1e-3)
        assert not found.refused


def test_marks_of_a_frame_say_what_is_strange(reference, with_vacancies):
    frame = with_vacancies.copy()
    marked = np.zeros(len(frame), bool)
    marked[77] = True
    frame.set_array("above", marked)
    assert [one.center for one in cut_all(frame, reference)] == [(77,)]
    assert len(list(islice(cut_all(frame, reference, level=5.0), 2))) == 2
    frame.set_array("above", np.zeros(len(frame), bool))
    assert cut(frame, reference=reference).core_dh_before > 5.0


def test_a_reference_in_the_place_of_the_center_is_told(reference):
    with pytest.raises(TypeError, match=r"center: .*got a Reference; give a reference by its name"):
        cut(crystal(6), reference)


def test_no_strange_atom_is_said(reference):
    with pytest.raises(ValueError, match=r"no atom is above the level \(Cu 1e\+300 nats\)"):
        cut(crystal(6), reference=reference, level=1e300)
    with pytest.raises(ValueError, match="no atom is above the level"):
        cut(crystal(6, 5, amplitude=0.02), reference=reference)
    assert list(cut_all(crystal(6, 5, amplitude=0.02), reference)) == []


def test_a_boundary_that_is_new_is_refused_with_the_reason(reference):
    frame = disordered(4, n=600)
    found = cut(frame, 5, reference=reference, level=0.0, max_atoms=150, core_A=2.5)
    if found.refused:
        assert found.n_boundary_above or found.chosen.core_change > 1.0
        assert "refused: " in str(found)
        assert found.atoms.info["cut_refused"] == found.refused
    # a thin cluster does not keep the core
    thin = cut(crystal(6, 1), 3, reference=reference, core_A=2.7, buffer_A=1.0, max_atoms=200, boundary="vacuum")
    assert "dH of the core changes" in thin.refused
    assert thin.refused.endswith("give a larger buffer_A")
    # one that is thin since no more atoms are allowed does not get thicker by asking
    few = cut(crystal(6, 1), 3, reference=reference, core_A=2.7, max_atoms=60, boundary="vacuum")
    assert few.chosen.buffer_A < 5.0
    assert few.refused.endswith("give a larger max_atoms")


def test_a_calculator_relaxes_the_boundary_and_not_the_core():
    frame = disordered(6, n=600)
    how = {"core_A": 2.7, "buffer_A": 3.5, "max_atoms": 250}
    found, plain = cut(frame, 9, relax_with=EMT(), **how), cut(frame, 9, **how)
    assert found.chosen.relaxed == "calculator"
    core = found.atoms.arrays["core"]
    assert (found.atoms.positions[core] == plain.atoms.positions[plain.atoms.arrays["core"]]).all()
    assert found.atoms.calc is None
    check_core(frame, found, 0.39 * 3.5)


def test_averaged_rows_and_descriptors_with_few_centers_serve(with_vacancies):
    from quests_md import Descriptor

    frames = [crystal(3, seed, amplitude=0.08) for seed in range(6)]
    averaged = Reference.from_frames(frames, groups="frame", descriptor=Descriptor(average=12))
    assert cut(with_vacancies, 3, reference=averaged, max_atoms=150).core_dh_before is not None
    salts = [crystal(2, seed, "NaCl", crystalstructure="rocksalt", a=5.64) for seed in range(6)]
    sodium = Reference.from_frames(salts, groups="frame", descriptor=Descriptor(centers=("Na",)))
    found = cut(salt(3), 1, reference=sodium, max_atoms=200)
    assert found.core_dh_before is not None
    assert np.isfinite(found.core_dh_after)


def test_an_unknown_element_is_what_a_cell_is_cut_around(reference):
    frame = crystal(6, 8, amplitude=0.02)
    frame.symbols[123] = "Au"
    found = cut(frame, reference=reference)
    assert found.center == (123,)
    assert found.core_dh_before == math.inf
    assert not found.refused
