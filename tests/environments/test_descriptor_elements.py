"""Rows resolved by element, and restricted centers and neighbours: naive code, invariances, what they must see."""

import itertools
import re

import naive
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.data import atomic_numbers
from cells import COMPOUNDS, PBC, close, cubic, random_frame, same_however_described, small_cell

from quests_md import Descriptor, Reference
from quests_md.errors import FrameError, MismatchError

ELEMENTS = ("Nb", "Mo", "Ta", "W")
H = 0.015


def colored(atoms, symbols, rng):
    """The same positions, elements at random, each at least once where there are atoms enough."""
    mixed = atoms.copy()
    drawn = rng.choice(symbols, len(atoms))
    drawn[: len(symbols)] = symbols[: len(atoms)]
    mixed.symbols[:] = drawn
    return mixed


def numbers_of(symbols):
    return [atomic_numbers[symbol] for symbol in symbols]


CRYSTALS = {
    "B2 NbMo": lambda: bulk("NbMo", "cesiumchloride", a=3.22),
    "L1_2 Cu3Au": lambda: cubic(("Au", "Cu"), [(0, 0, 0), (0.5, 0.5, 0)], 221, 3.75),
    "rocksalt": lambda: bulk("NaCl", "rocksalt", a=4.2),
    "zincblende": lambda: bulk("ZnS", "zincblende", a=5.41),
    **COMPOUNDS,
}


def resolved(atoms, **settings):
    return Descriptor(elements=tuple(sorted(set(atoms.get_chemical_symbols()))), **settings)


@pytest.mark.parametrize(("m", "k", "width"), [(1, 32, 63), (2, 32, 158), (3, 32, 285), (4, 32, 444), (2, 1, 3)])
def test_width(m, k, width):
    descriptor = Descriptor(k=k, elements=ELEMENTS[:m])
    assert descriptor.width == width == m * (2 * k - 1) + m * (m - 1) // 2 * k
    assert descriptor(bulk("Nb")).shape == (1, width)


def test_a_molecule_by_hand():
    # H at 1 and 2 Å, O at 2 Å, on the axes; w = (1 - r²/16)² at a cutoff of 4 Å, so sqrt(w) = 15/16, 3/4, 3/4
    atoms = Atoms("HeH2O", positions=[(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 2)])
    row = Descriptor(k=3, cutoff=4.0, elements=("O", "H"), neighbors=("O", "H"))(atoms)[0]
    a, b = 15 / 16, 3 / 4
    hh = a * b / 5**0.5
    ho = sorted((a * b / 5**0.5, b * b / 8**0.5), reverse=True)
    cross = [(sum(ho) + ho[0]) / 6, ho[1] / 6, 0]  # by rows (two of one entry) and by columns (one of two)
    expected = [a * a, b * b / 2, 0, 2 * hh / 3, 0, b * b / 2, 0, 0, 0, 0, *cross]
    np.testing.assert_allclose(row, expected, atol=1e-14)


@pytest.mark.parametrize("pbc", PBC)
@pytest.mark.parametrize(("n", "m", "k"), [(3, 2, 32), (12, 3, 4), (24, 4, 9), (40, 2, 11), (30, 3, 32)])
def test_equal_to_naive(pbc, n, m, k):
    rng = np.random.default_rng([n, m, *pbc])
    atoms = colored(random_frame(rng, n, 11.0, pbc=pbc), ELEMENTS[:m], rng)
    close(Descriptor(k=k, elements=ELEMENTS[:m])(atoms), naive.rows_by_element(atoms, numbers_of(ELEMENTS[:m]), k))
    short = Descriptor(k=k, cutoff=3.7, elements=ELEMENTS[:m])
    close(short(atoms), naive.rows_by_element(atoms, numbers_of(ELEMENTS[:m]), k, 3.7))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("k", [3, 9, 32])
def test_tiny_cells_equal_naive_and_look_the_same_however_described(seed, k):
    rng = np.random.default_rng(seed)
    atoms = colored(small_cell(seed), ELEMENTS[:3], rng)
    descriptor = Descriptor(k=k, elements=ELEMENTS[:3])
    expected = descriptor(atoms)
    close(expected, naive.rows_by_element(atoms, numbers_of(ELEMENTS[:3]), k))
    for matrix in (np.eye(3), [[1, 0, 0], [3, 1, 0], [-2, 1, 1]], [[2, 0, 0], [0, 1, 0], [1, 0, 3]]):
        same_however_described(descriptor, make_supercell(atoms, matrix), expected, rng)


@pytest.mark.parametrize("name", CRYSTALS)
@pytest.mark.parametrize("k", [3, 5, 8, 16, 32])
def test_compounds_look_the_same_however_described(name, k):
    rng = np.random.default_rng(k)
    atoms = CRYSTALS[name]()
    descriptor = resolved(atoms, k=k)
    expected = descriptor(atoms)
    close(expected, naive.rows_by_element(atoms, set(atoms.numbers), k))
    for repeat in ((1, 1, 1), (2, 1, 3)):
        for _ in range(3):
            same_however_described(descriptor, atoms.repeat(repeat), expected, rng)


def test_one_element_is_the_plain_descriptor_to_the_bit():
    rng = np.random.default_rng(3)
    for atoms in (random_frame(rng, 30, 12.0), bulk("Cu"), bulk("Cu", cubic=True) * 2, random_frame(rng, 5, 20.0)):
        only = Descriptor(elements=("Cu",))
        assert np.array_equal(only(atoms), Descriptor()(atoms))
        assert only.width == Descriptor().width


def test_the_order_of_the_elements_is_irrelevant():
    rng = np.random.default_rng(4)
    atoms = colored(random_frame(rng, 20, 12.0), ELEMENTS[:3], rng)
    first = Descriptor(k=6, elements=ELEMENTS[:3])
    for order in itertools.permutations(ELEMENTS[:3]):
        other = Descriptor(k=6, elements=list(order))
        assert other == first
        assert other.elements == ("Nb", "Mo", "Ta")
        assert other.fingerprint == first.fingerprint
        assert np.array_equal(other(atoms), first(atoms))


def test_exchange_of_two_elements_exchanges_their_columns():
    rng = np.random.default_rng(5)
    atoms = colored(random_frame(rng, 20, 12.0), ELEMENTS[:2], rng)
    k = 6
    descriptor = Descriptor(k=k, elements=ELEMENTS[:2])
    exchanged = atoms.copy()
    exchanged.symbols[:] = np.where(atoms.symbols == "Nb", "Mo", "Nb")
    w = 2 * k - 1
    rows = descriptor(atoms)
    close(descriptor(exchanged), np.hstack((rows[:, w : 2 * w], rows[:, :w], rows[:, 2 * w :])))


def test_rows_do_not_depend_on_threads_or_call():
    rng = np.random.default_rng(6)
    atoms = colored(bulk("Nb", cubic=True) * 8, ELEMENTS, rng)
    atoms.rattle(0.1, seed=1)
    descriptor = Descriptor(elements=ELEMENTS, centers=("Nb", "W"))
    assert np.array_equal(descriptor(atoms, threads=1), descriptor(atoms, threads=2), equal_nan=True)


@pytest.mark.slow
def test_an_antisite_pair_is_seen():
    atoms = bulk("NbMo", "cesiumchloride", a=3.22) * 4
    swapped = atoms.copy()
    i = 0
    j = int(np.flatnonzero(atoms.symbols == "Mo")[-1])
    swapped.symbols[[i, j]] = atoms.symbols[[j, i]]
    close(Descriptor()(swapped), Descriptor()(atoms))
    distance = np.linalg.norm(resolved(atoms)(swapped) - resolved(atoms)(atoms), axis=1) / H
    near = sum(len(set(index) & {i, j}) > 0 for _, _, index in naive.neighbours(atoms, 4.0))
    assert (distance > 5).sum() >= near > 20
    # and by the reference: atoms of the perfect crystal alone, compared with their own element
    perfect = [atoms.copy() for _ in range(3)]
    for seed, frame in enumerate(perfect):
        frame.rattle(0.01, seed=seed)
    plain, chemical = (
        Reference.from_frames(perfect, descriptor=d, groups="frame").delta_entropy(swapped).max()
        for d in (Descriptor(), resolved(atoms))
    )
    assert plain < 0
    assert chemical > 10


def water(seed=0, n=12, pbc=True):
    rng = np.random.default_rng(seed)
    atoms = random_frame(rng, 3 * n, 10.0, pbc=pbc)
    atoms.symbols[:] = rng.permutation(["O"] * n + ["H"] * 2 * n)
    return atoms


@pytest.mark.parametrize("pbc", [True, False, (True, False, True)])
@pytest.mark.parametrize("cutoff", [3.0, 5.0])
def test_the_oxygen_sublattice(pbc, cutoff):
    atoms = water(pbc=pbc)
    oxygen = atoms.symbols == "O"
    rows = Descriptor(cutoff=cutoff, centers=("O",), neighbors=("O",))(atoms)
    assert rows.shape == (len(atoms), 63)
    close(rows[oxygen], Descriptor(cutoff=cutoff)(atoms[oxygen]))
    assert np.isnan(rows[~oxygen]).all()


def test_centers_alone_and_neighbours_alone():
    atoms = water(1)
    oxygen = atoms.symbols == "O"
    everything = Descriptor()(atoms)
    rows = Descriptor(centers=("H",))(atoms)
    assert np.array_equal(rows[~oxygen], everything[~oxygen])
    assert np.isnan(rows[oxygen]).all()
    rows = Descriptor(k=12, neighbors=("O",))(atoms)
    close(rows, naive.rows_by_element(atoms, [8], 12))
    only_seen = Descriptor(k=12, centers=("H",), neighbors=("O",))(atoms)
    close(only_seen[~oxygen], rows[~oxygen])
    by_element = Descriptor(k=12, elements=("H", "O"), centers=("O",))(atoms)
    close(by_element[oxygen], naive.rows_by_element(atoms, [1, 8], 12)[oxygen])


def test_others_are_ignored_on_purpose_only():
    rng = np.random.default_rng(7)
    atoms = colored(random_frame(rng, 20, 12.0), ELEMENTS, rng)
    with pytest.raises(FrameError, match=r"Ta for atom \d+.*neighbors="):
        Descriptor(elements=("Nb", "Mo", "W"))(atoms)
    rows = Descriptor(k=9, elements=("Nb", "Mo"), neighbors=("Mo", "Nb"))(atoms)
    close(rows, naive.rows_by_element(atoms, numbers_of(("Nb", "Mo")), 9))
    # an element that is not resolved may be a center
    assert np.isfinite(rows[atoms.symbols == "W"]).all()


def test_is_center_and_is_neighbor():
    numbers = [1, 8, 11]
    assert Descriptor().is_center(numbers).tolist() == [True] * 3
    assert Descriptor(elements=("O",)).is_center(numbers).tolist() == [True] * 3
    assert Descriptor(centers=("Na", "O")).is_center(numbers).tolist() == [False, True, True]
    assert Descriptor(neighbors=("O",)).is_neighbor(numbers).tolist() == [False, True, False]


def test_frames_without_centers_or_neighbours():
    salt = bulk("NaCl", "rocksalt", a=5.64)
    assert np.isnan(Descriptor(centers=("O",))(salt)).all()
    assert np.array_equal(Descriptor(neighbors=("O",))(salt), np.zeros((2, 63)))
    assert Descriptor(elements=("Na", "Cl"))(Atoms()).shape == (0, 158)


@pytest.mark.parametrize("argument", ["elements", "centers", "neighbors"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("Na", TypeError),
        (8, TypeError),
        ((), ValueError),
        (("Na", "Na"), ValueError),
        (("Na", "Xx"), ValueError),
        (("X",), ValueError),
        (("na",), ValueError),
        ((11,), ValueError),
    ],
)
def test_wrong_symbols_are_named(argument, value, error):
    with pytest.raises(error, match=argument):
        Descriptor(**{argument: value})


def test_seen_neighbours_must_be_resolved():
    with pytest.raises(ValueError, match="neighbors"):
        Descriptor(elements=("Na", "Cl"), neighbors=("Na",))


def test_fingerprints():
    assert Descriptor().fingerprint == "quests-7ee83d46d81b"  # as in every file written so far
    kinds = [
        {},
        *({name: symbols} for name in ("elements", "centers", "neighbors") for symbols in (("O",), ("H", "O"))),
        {"centers": ("O",), "neighbors": ("O",)},
    ]
    assert len({Descriptor(**kind).fingerprint for kind in kinds}) == len(kinds)


SETTINGS = [
    {"elements": ("O", "H")},
    {"centers": ("O",), "neighbors": ("O",)},
    {"centers": ("H",), "neighbors": ("O",), "k": 8},
    {"elements": ("O", "H"), "centers": ("O",), "cutoff": 4.0},
]


@pytest.mark.parametrize("match", ["element", "any"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_reference_round_trip(tmp_path, settings, match):
    descriptor = Descriptor(**settings)
    frames = [water(seed) for seed in range(4)]
    reference = Reference.from_frames(frames[:2], descriptor=descriptor, match=match, groups="frame", bandwidth=0.1)
    reference.save(tmp_path / "r.safetensors")
    loaded = Reference.load(tmp_path / "r.safetensors")
    assert loaded.descriptor == descriptor
    assert loaded.settings == reference.settings
    assert loaded.fingerprint == reference.fingerprint
    Reference.verify(tmp_path / "r.safetensors")
    grown = loaded.extend(frames[2:], groups="frame")
    whole = Reference.from_frames(frames, descriptor=descriptor, match=match, groups="frame", bandwidth=0.1)
    assert np.array_equal(grown.rows, whole.rows)
    assert grown.settings == whole.settings
    assert np.array_equal(grown.delta_entropy(frames[3]), whole.delta_entropy(frames[3]), equal_nan=True)
    plain = Reference.from_frames(frames[2:], match=match, groups="frame", bandwidth=0.1)
    differing = re.escape(next(key for key in ("k", "cutoff", "elements", "centers") if key in settings))
    with pytest.raises(MismatchError, match=differing if "k" not in settings else "k|centers"):
        Reference.merge([reference, plain])


@pytest.mark.parametrize("match", ["element", "any"])
def test_atoms_that_are_no_centers_have_no_answer(match):
    descriptor = Descriptor(k=8, centers=("O",), neighbors=("O",))
    frames = [water(seed) for seed in range(3)]
    reference = Reference.from_frames(frames, descriptor=descriptor, match=match, bandwidth=0.1, groups="frame")
    bare = Reference.from_frames(
        [frame[frame.symbols == "O"] for frame in frames],
        descriptor=Descriptor(k=8),
        match=match,
        bandwidth=0.1,
        groups="frame",
    )
    assert reference.elements == ("O",)
    assert np.array_equal(reference.rows, bare.rows)
    assert reference.arrays.frame_natoms.tolist() == [36] * 3
    for name in ("atom_frame", "positions"):
        assert np.array_equal(getattr(reference.arrays, name), getattr(bare.arrays, name))
    index = reference.arrays.atom_index.reshape(3, 12)
    for frame, atoms in zip(frames, index, strict=True):
        assert np.array_equal(atoms, np.flatnonzero(frame.symbols == "O"))
    test = water(9)
    oxygen = test.symbols == "O"
    expected = bare.delta_entropy(test[oxygen])
    rows = descriptor(test)
    for given, numbers in ((test, None), (rows, test.numbers)):
        dh = reference.delta_entropy(given, numbers=numbers)
        assert np.array_equal(dh[oxygen], expected)
        assert np.isnan(dh[~oxygen]).all()
        covered = reference.is_covered(given, expected.mean(), numbers=numbers)
        assert np.array_equal(covered[oxygen], expected <= expected.mean())
        assert covered[~oxygen].all()
        nearest = reference.nearest(given, numbers=numbers)
        assert np.array_equal(nearest.distance[oxygen], bare.nearest(test[oxygen]).distance)
        assert np.isposinf(nearest.distance[~oxygen]).all()
        assert (nearest.frame[~oxygen] == -1).all()
        assert (nearest.atom[~oxygen] == -1).all()
        found = zip(nearest.frame[oxygen], nearest.atom[oxygen], strict=True)
        assert {frames[frame].symbols[atom] for frame, atom in found} == {"O"}
    assert reference.is_known(test.numbers).tolist() == oxygen.tolist()
    assert reference.is_center(test.numbers).tolist() == oxygen.tolist()
    assert np.array_equal(reference.held_out_scores()[1], bare.held_out_scores()[1])
    with pytest.raises(ValueError, match="finite"):
        reference.delta_entropy(np.where(oxygen[:, None], np.nan, rows), numbers=test.numbers)
    with pytest.raises(ValueError, match="no center"):
        reference.delta_entropy(np.zeros_like(rows), numbers=test.numbers)


def test_frames_with_nothing_to_see_are_left_out():
    alone = Atoms("OH2", positions=[(0, 0, 0), (0.7, 0.7, 0), (-0.7, 0.7, 0)])  # no other O in sight
    no_center = bulk("NaCl", "rocksalt", a=5.64)
    descriptor = Descriptor(centers=("O",), neighbors=("O",))
    with pytest.warns(UserWarning, match="isolated"), pytest.warns(UserWarning, match=r"1 frame.*centers"):
        reference = Reference.from_frames([alone, no_center, water()], descriptor=descriptor)
    assert reference.provenance["left_out"] == {"isolated atoms": 1, "no centers": 1}
    assert reference.n_environments == 12
    with pytest.warns(UserWarning, match="no environment"), pytest.warns(UserWarning, match=r"2 frame.*centers"):
        empty = Reference.from_frames([no_center] * 2, descriptor=descriptor)
    assert empty.rows.shape == (0, 63)


def test_an_unknown_element_in_a_file_is_named(tmp_path):
    water().write(tmp_path / "w.xyz")
    with pytest.raises(FrameError, match=r"w\.xyz.*elements"):
        Reference.from_frames(tmp_path / "w.xyz", descriptor=Descriptor(elements=("O",)))


class Rows:
    """A descriptor of one's own with centers."""

    fingerprint = "rows of one's own"

    def __init__(self, wrong=None):
        self.wrong = wrong

    def is_center(self, numbers):
        return np.asarray(numbers) == 8

    def __call__(self, atoms):
        rows = np.where(self.is_center(atoms.numbers)[:, None], atoms.positions, np.nan)
        if self.wrong is not None:
            rows[np.flatnonzero(self.is_center(atoms.numbers) == self.wrong)[0]] = np.nan if self.wrong else 0.0
        return rows


def test_descriptors_of_ones_own_may_have_centers():
    reference = Reference.from_frames([water()], descriptor=Rows(), bandwidth=1.0)
    assert reference.n_environments == 12
    with pytest.raises(ValueError, match="finite"):
        Reference.from_frames([water()], descriptor=Rows(wrong=True), bandwidth=1.0)
    with pytest.raises(ValueError, match="no center"):
        Reference.from_frames([water()], descriptor=Rows(wrong=False), bandwidth=1.0)
