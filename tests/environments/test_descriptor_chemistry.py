"""Rows that see chemistry: naive code, invariances, what they must see and what not, references by them."""

import itertools

import naive
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, make_supercell
from cells import COMPOUNDS, PBC, close, cubic, random_frame, same_however_described, small_cell
from systems import reordered

from quests_md import Descriptor, Monitor, Reference, calibrate, score_trajectory
from quests_md.errors import MismatchError

METALS = ("Nb", "Mo", "Ta", "W")
H = 0.015

CRYSTALS = {
    "B2": lambda: bulk("NbMo", "cesiumchloride", a=3.22),
    "L1_2": lambda: cubic(("Au", "Cu"), [(0, 0, 0), (0.5, 0.5, 0)], 221, 3.75),
    "rocksalt": lambda: bulk("NaCl", "rocksalt", a=4.2),
    "zincblende": lambda: bulk("ZnS", "zincblende", a=5.41),
    # neighbours at the cutoff itself, on either side of it by rounding
    "rocksalt, cutoff at a shell": lambda: bulk("NaCl", "rocksalt", a=5.0),
    **COMPOUNDS,
}


def colored(atoms, symbols, rng):
    """The same positions, elements at random."""
    mixed = atoms.copy()
    mixed.symbols[:] = rng.choice(symbols, len(atoms))
    return mixed


def split(rows, k=32):
    """The plain columns and those of chemistry."""
    return rows[:, : 2 * k - 1], rows[:, 2 * k - 1 :]


@pytest.mark.parametrize(("k", "width"), [(32, 195), (1, 13), (3, 17), (4, 31)])
def test_the_width_depends_on_k_alone(k, width):
    descriptor = Descriptor(k=k, chemistry=True)
    assert descriptor.width == width == 2 * k - 1 + 12 * -(-k // 3)
    atoms = random_frame(np.random.default_rng(0), 110, 12.0)
    atoms.numbers[:] = np.arange(110) + 1
    assert descriptor(atoms).shape == (110, width)
    assert descriptor(Atoms()).shape == (0, width)


@pytest.mark.parametrize("pbc", PBC)
@pytest.mark.parametrize(("n", "m", "k"), [(3, 2, 32), (12, 3, 4), (24, 4, 9), (40, 2, 11), (30, 3, 32), (9, 4, 1)])
def test_equal_to_naive(pbc, n, m, k):
    rng = np.random.default_rng([n, m, *pbc])
    atoms = colored(random_frame(rng, n, 11.0, pbc=pbc), METALS[:m], rng)
    for cutoff in (5.0, 3.7):
        plain, chemistry = split(Descriptor(k=k, cutoff=cutoff, chemistry=True)(atoms), k)
        assert np.array_equal(plain, Descriptor(k=k, cutoff=cutoff)(atoms))
        close(chemistry, naive.chemistry(atoms, k, cutoff), 1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: random_frame(rng, 16, 1.3),
        lambda rng: Atoms("Cu120", positions=rng.uniform(0, 6, (120, 3))),
        lambda rng: Atoms("Cu90", positions=rng.normal(0, 1, (90, 3)) * [2, 2, 30]),
        lambda rng: Atoms("Cu20", scaled_positions=rng.random((20, 3)), cell=[2.2, 2.4, 200.0], pbc=True),
        lambda rng: Atoms("Cu4", scaled_positions=rng.random((4, 3)), cell=[[4, 0, 0], [80, 4, 0], [1, 2, 5]], pbc=1),
        lambda rng: Atoms("Cu6", positions=np.zeros((6, 3))),
        lambda rng: Atoms("Cu", positions=[(0, 0, 0)]),
    ],
)
def test_equal_to_naive_where_it_is_dense_long_flat_or_piled_up(make):
    rng = np.random.default_rng(5)
    atoms = make(rng)
    atoms.numbers[:] = rng.choice([1, 8, 26, 57, 92, 118, 119], len(atoms))
    for k in (3, 32):
        close(split(Descriptor(k=k, chemistry=True)(atoms), k)[1], naive.chemistry(atoms, k), 1e-12)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("k", [3, 9, 32])
def test_tiny_cells_look_the_same_however_described(seed, k):
    rng = np.random.default_rng(seed)
    atoms = colored(small_cell(seed), METALS[:3], rng)
    descriptor = Descriptor(k=k, chemistry=True)
    expected = descriptor(atoms)
    for matrix in (np.eye(3), [[1, 0, 0], [3, 1, 0], [-2, 1, 1]], [[2, 0, 0], [0, 1, 0], [1, 0, 3]]):
        same_however_described(descriptor, make_supercell(atoms, matrix), expected, rng)


@pytest.mark.parametrize("name", CRYSTALS)
@pytest.mark.parametrize("k", [3, 5, 8, 16, 32])
def test_compounds_look_the_same_however_described(name, k):
    rng = np.random.default_rng(k)
    atoms = CRYSTALS[name]()
    descriptor = Descriptor(k=k, chemistry=True)
    expected = descriptor(atoms)
    close(split(expected, k)[1], naive.chemistry(atoms, k), 1e-12)
    for repeat in ((1, 1, 1), (2, 1, 3)):
        for _ in range(3):
            same_however_described(descriptor, atoms.repeat(repeat), expected, rng)


@pytest.mark.parametrize("make", [lambda: bulk("Cu", cubic=True) * 2, lambda: bulk("Fe") * 3])
@pytest.mark.parametrize("k", [1, 4, 10, 13, 32])
def test_ties_between_atoms_of_different_elements_do_not_depend_on_their_order(make, k):
    rng = np.random.default_rng(k)
    atoms = colored(make(), METALS, rng)
    descriptor = Descriptor(k=k, chemistry=True)
    same_however_described(descriptor, atoms, descriptor(atoms), rng)


def test_slabs_and_wires():
    rng = np.random.default_rng(1)
    slab = colored(fcc111("Cu", (3, 2, 4), a=3.58, vacuum=8), ("Cu", "Au"), rng)
    for pbc in ((True, True, False), (True, False, False), False):
        slab.pbc = pbc
        close(split(Descriptor(chemistry=True)(slab))[1], naive.chemistry(slab), 1e-12)


def test_columns_move_little_when_atoms_do():
    # unlike the plain row, which jumps where neighbours k and k + 1 change places
    rng = np.random.default_rng(2)
    atoms = colored(bulk("Nb", cubic=True) * 3, METALS, rng)
    descriptor = Descriptor(k=8, chemistry=True)
    before = split(descriptor(atoms), 8)[1]
    for size in (1e-9, 1e-6, 1e-3):
        moved = atoms.copy()
        moved.rattle(size, rng=rng)
        change = np.abs(split(descriptor(moved), 8)[1] - before).max()
        assert 0 < change < 2 * size  # two atoms, each by a few sizes; |e_j - e_i| <= 2, slope 2 r / r_c^3 <= 2 / 25


def test_among_equal_atoms_it_is_the_plain_row():
    rng = np.random.default_rng(3)
    for atoms in (random_frame(rng, 30, 12.0), bulk("Cu"), bulk("Cu", cubic=True) * 2, random_frame(rng, 5, 20.0)):
        plain, chemistry = split(Descriptor(chemistry=True)(atoms))
        assert np.array_equal(plain, Descriptor()(atoms))
        assert not chemistry.any()


def test_any_two_elements_are_far_apart():
    pairs = Atoms("H2", positions=[(0, 0, 0), (2.5, 0, 0)])
    far = []
    for a, b in itertools.combinations(range(1, 119), 2):
        pairs.numbers[:] = a, b
        far.append(np.linalg.norm(split(Descriptor(k=1, chemistry=True)(pairs), 1)[1][0]))
    weight = (1 - 0.25) / 5
    assert 0.765 * weight < min(far) < max(far) <= 2.0 * weight + 1e-12
    assert np.median(far) > 1.4 * weight


def test_hidden_neighbours_are_not_seen_and_centers_may_be_hidden():
    rng = np.random.default_rng(4)
    atoms = colored(random_frame(rng, 30, 12.0), METALS, rng)
    rows = Descriptor(k=9, chemistry=True, neighbors=("Mo", "Nb"))(atoms)
    close(split(rows, 9)[1], naive.chemistry(atoms, 9, seen=(41, 42)), 1e-12)
    some = Descriptor(k=9, chemistry=True, neighbors=("Mo", "Nb"), centers=("W", "Nb"))(atoms)
    is_center = np.isin(atoms.symbols, ("W", "Nb"))
    assert np.array_equal(some[is_center], rows[is_center])
    assert np.isnan(some[~is_center]).all()


def test_rows_do_not_depend_on_threads():
    atoms = colored(bulk("Nb", cubic=True) * 8, METALS, np.random.default_rng(6))
    atoms.rattle(0.1, seed=1)
    descriptor = Descriptor(chemistry=True)
    assert np.array_equal(descriptor(atoms, threads=1), descriptor(atoms, threads=2))


def test_averages_are_those_of_the_rows_that_see_chemistry():
    atoms = colored(bulk("Nb", cubic=True) * 3, METALS, np.random.default_rng(7))
    atoms.rattle(0.1, seed=1)
    averaged = Descriptor(chemistry=True, average=12)(atoms)
    close(averaged, naive.averaged(atoms, Descriptor(chemistry=True)(atoms), 12))


def rattled(atoms, seeds):
    frames = [atoms.copy() for _ in seeds]
    for seed, frame in zip(seeds, frames, strict=True):
        frame.rattle(0.08, seed=seed)
    return frames


def exchanged(atoms, a, b):
    """A copy in which the first atom of element a and the last of element b have changed places."""
    copy = atoms.copy()
    i, j = np.flatnonzero(atoms.symbols == a)[0], np.flatnonzero(atoms.symbols == b)[-1]
    copy.symbols[[i, j]] = atoms.symbols[[j, i]]
    return copy, (i, j)


@pytest.mark.parametrize(
    ("name", "repeat", "a", "b"), [("B2", 4, "Nb", "Mo"), ("L1_2", 3, "Au", "Cu"), ("rocksalt", 4, "Na", "Cl")]
)
def test_an_antisite_pair_is_seen(name, repeat, a, b):
    atoms = CRYSTALS[name]() * repeat
    swapped, _ = exchanged(atoms, a, b)
    close(Descriptor()(swapped), Descriptor()(atoms))
    rows = [Descriptor(chemistry=True)(frame) for frame in (swapped, atoms)]
    assert (np.linalg.norm(rows[0] - rows[1], axis=1) > 5 * H).sum() > 10
    # rattled, against frames of the perfect crystal
    known, held_out = rattled(atoms, range(6)), rattled(atoms, range(20, 26))
    wrong = rattled(swapped, [99])[0]
    for descriptor, seen in ((Descriptor(), False), (Descriptor(chemistry=True), True)):
        reference = Reference.from_frames(known, descriptor=descriptor, groups="frame")
        level = max(reference.delta_entropy(frame).max() for frame in held_out)
        assert (reference.delta_entropy(wrong).max() > level + 10) == seen


def test_an_ordered_alloy_is_told_from_a_disordered_one():
    rng = np.random.default_rng(8)
    atoms = bulk("Cu", "fcc", a=3.87, cubic=True) * 3
    layers = atoms.copy()
    layers.symbols[:] = np.where(np.round(atoms.positions[:, 2] / 1.935) % 2 == 0, "Cu", "Au")
    reference = Reference.from_frames(rattled(layers, range(6)), descriptor=Descriptor(chemistry=True), groups="frame")
    level = max(reference.delta_entropy(frame).max() for frame in rattled(layers, range(20, 26)))
    mixed = rattled(colored(atoms, ("Cu", "Au"), rng), [30])[0]
    assert (reference.delta_entropy(mixed) > level).mean() > 0.9


def test_cis_and_trans_are_told_apart_by_the_rows_of_the_neighbours_alone():
    corners = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    trans = Atoms("SCl2F4", positions=[(0, 0, 0), *(1.6 * np.array(corners))])
    cis = trans.copy()
    cis.symbols[1:] = ["Cl", "F", "Cl", "F", "F", "F"]
    rows = [Descriptor(chemistry=True)(frame) for frame in (cis, trans)]
    close(rows[0][0], rows[1][0])
    assert np.linalg.norm(rows[0][1] - rows[1][1]) > 2 * H


def test_bad_settings_are_named():
    with pytest.raises(TypeError, match="chemistry: expected True or False"):
        Descriptor(chemistry=1)
    with pytest.raises(ValueError, match="chemistry: expected False with elements"):
        Descriptor(chemistry=True, elements=("Na", "Cl"))


def test_settings_and_fingerprint():
    assert Descriptor(chemistry=False).fingerprint == Descriptor().fingerprint == "quests-7ee83d46d81b"
    assert "chemistry" not in Descriptor().settings
    descriptor = Descriptor(chemistry=True, k=8)
    assert Descriptor(**descriptor.settings) == descriptor
    assert len({d.fingerprint for d in (descriptor, Descriptor(k=8), Descriptor(k=8, chemistry=True, average=4))}) == 3


@pytest.mark.parametrize("match", ["element", "any"])
def test_reference_round_trip(tmp_path, match):
    rng = np.random.default_rng(9)
    frames = [colored(random_frame(rng, 12, 12.0), METALS, rng) for _ in range(4)]
    descriptor = Descriptor(chemistry=True)
    reference = Reference.from_frames(frames[:2], descriptor=descriptor, match=match, groups="frame")
    reference.save(tmp_path / "r.safetensors")
    loaded = Reference.load(tmp_path / "r.safetensors")
    assert loaded.descriptor == descriptor
    assert loaded.settings == reference.settings
    assert loaded.settings["chemistry"] is True
    assert loaded.fingerprint == reference.fingerprint
    assert loaded.bandwidth == H
    whole = Reference.from_frames(frames, descriptor=descriptor, match=match, groups="frame")
    assert np.array_equal(loaded.extend(frames[2:], groups="frame").rows, whole.rows)
    plain = Reference.from_frames(frames[2:], match=match, groups="frame")
    with pytest.raises(MismatchError, match="chemistry"):
        Reference.merge([reference, plain])


def test_a_frame_of_one_element_scores_as_by_plain_rows():
    atoms = bulk("Cu", cubic=True) * 2
    known, test = rattled(atoms, range(4)), rattled(atoms, [9])[0]
    plain, chemical = (
        Reference.from_frames(known, descriptor=d, groups="frame").delta_entropy(test)
        for d in (Descriptor(), Descriptor(chemistry=True))
    )
    np.testing.assert_allclose(chemical, plain, atol=1e-10)


def test_a_monitor_sees_an_exchange_that_plain_rows_do_not():
    atoms = bulk("Cu", cubic=True) * 2
    atoms.symbols[::2] = "Au"
    known, held_out = rattled(atoms, range(12)), rattled(atoms, range(20, 24))
    wrong, known = exchanged(held_out[0], "Cu", "Au")[0], reordered(known)
    for descriptor, state in ((Descriptor(), "in"), (Descriptor(chemistry=True), "out")):
        reference = Reference.from_frames(known, descriptor=descriptor, groups="frame")
        calibration = calibrate(reference, false_alarms=0.05)
        with Monitor(reference, calibration, log=None, on_error="raise") as monitor:
            assert [monitor.check(frame).state for frame in held_out] == ["in"] * 4
            assert monitor.check(wrong).state == state
            assert ("rows see chemistry" in monitor.preflight(wrong)) == (state == "out")
        offline = score_trajectory([*held_out, wrong], reference, calibration)
        assert [check.state for check in offline] == ["in"] * 4 + [state]
