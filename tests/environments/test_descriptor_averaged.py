"""Rows averaged over neighbours: naive code, averages by hand, invariances, references by averaged rows."""

import naive
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, make_supercell, molecule
from ase.calculators.emt import EMT
from cells import (
    COMPOUNDS,
    PBC,
    close,
    mirrored,
    random_cell,
    random_frame,
    rotated,
    same_however_described,
    small_cell,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from systems import md_frames, outside, reordered

from quests_md import Descriptor, Minimised, Monitor, Reference, TimeAveraged, calibrate, score_trajectory
from quests_md.errors import MismatchError

LATTICES = {
    "fcc": lambda: bulk("Cu", "fcc", a=3.58),
    "bcc": lambda: bulk("Fe", "bcc", a=2.85),
    "hcp ideal": lambda: bulk("Mg", "hcp", a=3.2, c=3.2 * (8 / 3) ** 0.5),
    "hcp": lambda: bulk("Mg", "hcp", a=3.2, c=5.12),
    "diamond": lambda: bulk("Si", "diamond", a=5.43),
    "simple cubic": lambda: bulk("Po", "sc", a=2.3),
    # neighbours at the cutoff itself, on either side of it by rounding
    "simple cubic, cutoff at a shell": lambda: bulk("Po", "sc", a=2.5),
    "simple cubic, one shell at the cutoff": lambda: bulk("Po", "sc", a=5.0),
    "slab": lambda: fcc111("Cu", (1, 1, 4), a=3.58, vacuum=8),
    **COMPOUNDS,
}


def averaged_of_plain(atoms, n, **settings):
    """The naive average of the plain rows of a Descriptor, which have tests of their own."""
    plain = Descriptor(**settings)
    centers, seen = plain.is_center(atoms.numbers), plain.is_neighbor(atoms.numbers)
    return naive.averaged(atoms, plain(atoms), n, plain.cutoff, has_row=centers, is_seen=seen)


@pytest.mark.parametrize("pbc", PBC)
@pytest.mark.parametrize("n", [1, 4, 12, 40])
def test_equal_to_naive_for_every_periodicity(pbc, n):
    rng = np.random.default_rng([n, *pbc])
    for n_atoms, volume in ((14, 15.0), (30, 9.0), (5, 60.0), (1, 10.0)):
        atoms = random_frame(rng, n_atoms, volume, pbc=pbc)
        expected = naive.averaged(atoms, naive.rows(atoms), n)
        close(Descriptor(average=n)(atoms), expected)
        close(Descriptor(average=n)(mirrored(atoms)), expected)


@pytest.mark.parametrize(("k", "cutoff", "n"), [(1, 5.0, 12), (7, 3.0, 12), (32, 8.0, 12), (8, 6.0, 200), (64, 4.0, 2)])
def test_equal_to_naive_for_other_settings(k, cutoff, n):
    atoms = random_frame(np.random.default_rng(k), 12, 12.0)
    rows = Descriptor(k=k, cutoff=cutoff, average=n)(atoms)
    close(rows, naive.averaged(atoms, naive.rows(atoms, k, cutoff), n, cutoff))
    assert rows.shape == (12, Descriptor(k=k).width)


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: random_frame(rng, 16, 1.3),
        lambda rng: Atoms("Cu120", positions=rng.uniform(0, 6, (120, 3))),
        lambda rng: Atoms("Cu50", positions=rng.uniform(0, 30, (50, 3))),
        lambda rng: Atoms("Cu90", positions=rng.normal(0, 1, (90, 3)) * [2, 2, 30]),
        lambda rng: Atoms("Cu20", scaled_positions=rng.random((20, 3)), cell=[2.2, 2.4, 200.0], pbc=True),
        lambda rng: Atoms(
            "Cu4", scaled_positions=rng.random((4, 3)), cell=[[4, 0, 0], [80, 4, 0], [1, 2, 5]], pbc=True
        ),
        lambda rng: Atoms("Cu4", scaled_positions=rng.random((4, 3)), cell=random_cell(rng, 2.4), pbc=True),
    ],
    ids=["hundreds of candidates", "dense cluster", "gas", "wire of gas", "long thin cell", "skewed cell", "tiny cell"],
)
@pytest.mark.parametrize("n", [3, 12])
def test_equal_to_naive_where_density_changes(make, n):
    atoms = make(np.random.default_rng(3))
    close(Descriptor(average=n)(atoms), averaged_of_plain(atoms, n))


def test_density_that_falls_from_atom_to_atom():
    """Whatever was found around the atom before, the n-th neighbour is found wherever it lies."""
    rng = np.random.default_rng(0)
    spheres = [rng.normal([i % 2, i, 0], radius, (14, 3)) for i, radius in enumerate((0.4, 1.9, 0.6, 2.4, 0.3))]
    positions = np.concatenate(spheres)[rng.permutation(70)]
    atoms = Atoms("Cu70", positions=positions)
    for n in (2, 12, 13, 30):
        close(Descriptor(k=4, average=n)(atoms), averaged_of_plain(atoms, n, k=4))


@pytest.mark.parametrize("name", LATTICES)
@pytest.mark.parametrize("n", [1, 3, 12, 14, 17])
def test_lattices_look_the_same_however_described(name, n):
    rng = np.random.default_rng(n)
    atoms = LATTICES[name]()
    descriptor = Descriptor(average=n)
    expected = descriptor(atoms)
    close(expected, averaged_of_plain(atoms, n))
    for repeat in ((1, 1, 1), (2, 1, 1), (2, 3, 1)):
        same_however_described(descriptor, atoms.repeat(repeat), expected, rng)


def test_atoms_of_a_perfect_crystal_keep_their_row():
    for name in ("fcc", "bcc", "hcp ideal", "hcp", "diamond", "simple cubic"):
        atoms = LATTICES[name]()
        close(Descriptor(average=12)(atoms), Descriptor()(atoms))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("n", [1, 5, 12])
def test_small_cells_look_the_same_however_described(seed, n):
    rng = np.random.default_rng(seed)
    atoms = small_cell(seed)
    descriptor = Descriptor(k=9, average=n)
    expected = descriptor(atoms)
    close(expected, averaged_of_plain(atoms, n, k=9))
    for matrix in (np.eye(3), [[1, 0, 0], [3, 1, 0], [-2, 1, 1]], [[2, 0, 0], [0, 1, 0], [1, 0, 3]]):
        same_however_described(descriptor, make_supercell(atoms, matrix), expected, rng)


def test_a_vacancy_by_hand():
    """In simple cubic with one atom away each of its six neighbours has five neighbours, fewer than n = 6 in reach."""
    atoms = bulk("Po", "sc", a=3.0) * 4
    del atoms[0]
    cutoff = 3.2  # the first shell alone
    plain = Descriptor(k=6, cutoff=cutoff)(atoms)
    rows = Descriptor(k=6, cutoff=cutoff, average=6)(atoms)
    here = int(np.flatnonzero((atoms.positions == [3, 0, 0]).all(axis=1))[0])
    near = np.linalg.norm((atoms.positions - atoms.positions[here] + 6) % 12 - 6, axis=1)
    close(rows[here : here + 1], plain[near < 3.1].mean(axis=0, keepdims=True))
    assert (near < 3.1).sum() == 6  # itself and five


def test_ties_share_the_places_that_are_left():
    """Four neighbours at one distance and two places: each has the weight of half a neighbour."""
    arms = [(2, 0, 0), (-2, 0, 0), (0, 2, 0), (0, -2, 0)]
    atoms = Atoms("Cu6", positions=[(0, 0, 0), *arms, (3.2, 0, 1)])
    plain = Descriptor(k=5, cutoff=4.0)(atoms)
    rows = Descriptor(k=5, cutoff=4.0, average=2)(atoms)
    close(rows[:1], ((plain[0] + plain[1:5].sum(axis=0) / 2) / 3)[None])
    inside_a_tie = Atoms("Cu3", positions=[(0, 0, 0), (2, 0, 0), (0, 0, 2 + 5e-9)])
    beyond_a_tie = Atoms("Cu3", positions=[(0, 0, 0), (2, 0, 0), (0, 0, 2 + 5e-8)])
    for frame, weights in ((inside_a_tie, (1, 0.5, 0.5)), (beyond_a_tie, (1, 1, 0))):
        plain = Descriptor(k=5)(frame)
        close(Descriptor(k=5, average=1)(frame)[:1], (np.array(weights) @ plain / 2)[None], 1e-12)


def test_a_dimer_at_the_cutoff_on_either_side_of_it():
    for distance in (5.0 - 1e-12, 5.0, 5.0 + 1e-12):
        trimer = Atoms("Cu3", positions=[(0, 0, 0), (2.5, 0, 0), (0, 0, distance)])
        plain, rows = Descriptor()(trimer), Descriptor(average=12)(trimer)
        close(rows[0], plain[:2].mean(axis=0))
        assert np.array_equal(rows[2], plain[2])


def test_alone_and_with_few():
    assert np.array_equal(Descriptor(average=12)(Atoms("Cu")), np.zeros((1, 63)))
    assert Descriptor(average=12)(Atoms()).shape == (0, 63)
    far = Atoms("Cu3", positions=[[0, 0, 0], [2.5, 0, 0], [9, 0, 0]])
    assert np.array_equal(Descriptor(average=12)(far), Descriptor()(far))
    ethanol = molecule("CH3CH2OH")
    close(Descriptor(average=12)(ethanol), np.tile(Descriptor()(ethanol).mean(axis=0), (9, 1)))  # 8 neighbours
    piled = Atoms("Cu40", positions=np.ones((40, 3)))
    close(Descriptor(average=12)(piled), Descriptor()(piled))


def water(seed=0, n=12, pbc=True):
    rng = np.random.default_rng(seed)
    atoms = random_frame(rng, 3 * n, 10.0, pbc=pbc)
    atoms.symbols[:] = rng.permutation(["O"] * n + ["H"] * 2 * n)
    return atoms


KINDS = [
    {"elements": ("H", "O")},
    {"centers": ("O",)},
    {"centers": ("H",)},
    {"neighbors": ("O",)},
    {"neighbors": ("H",)},
    {"centers": ("O",), "neighbors": ("O",)},
    {"elements": ("H", "O"), "centers": ("O",)},
    {"elements": ("O",), "neighbors": ("O",)},
]


@pytest.mark.parametrize("pbc", [True, False, (True, False, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_elements_centers_and_neighbours(kind, pbc):
    rng = np.random.default_rng(1)
    atoms = water(pbc=pbc)
    for n in (1, 4, 12):
        rows = Descriptor(k=8, average=n, **kind)(atoms)
        close(rows, averaged_of_plain(atoms, n, k=8, **kind))
        order = rng.permutation(len(atoms))
        close(Descriptor(k=8, average=n, **kind)(rotated(atoms, rng)[order]), rows[order])


def test_the_oxygen_sublattice():
    atoms = water()
    oxygen = atoms.symbols == "O"
    rows = Descriptor(centers=("O",), neighbors=("O",), average=12)(atoms)
    close(rows[oxygen], Descriptor(average=12)(atoms[oxygen]))
    assert np.isnan(rows[~oxygen]).all()


def test_one_element_resolved_is_the_plain_average_to_the_bit():
    atoms = random_frame(np.random.default_rng(3), 30, 12.0)
    assert np.array_equal(Descriptor(elements=("Cu",), average=12)(atoms), Descriptor(average=12)(atoms))


def test_bits_depend_neither_on_threads_nor_on_the_order_of_atoms():
    rng = np.random.default_rng(6)
    atoms = bulk("Cu", cubic=True) * 9
    atoms.rattle(0.1, rng=rng)
    descriptor = Descriptor(average=12)
    rows = descriptor(atoms, threads=1)
    for threads in (2, 3):
        assert np.array_equal(descriptor(atoms, threads=threads), rows)
    part = np.sort(rng.permutation(len(atoms))[:2700])
    order = rng.permutation(len(part))
    hole = atoms[part]
    hole.pbc = False
    assert np.array_equal(Descriptor()(hole)[order], Descriptor()(hole[order]))
    assert np.array_equal(descriptor(hole)[order], descriptor(hole[order]))


@st.composite
def frames(draw):
    n = draw(st.integers(1, 7))
    number = st.floats(-1, 1, allow_subnormal=False)
    cell = np.diag(draw(st.tuples(*[st.floats(1.5, 7)] * 3))) + 2.5 * np.array(
        draw(st.lists(st.tuples(number, number, number), min_size=3, max_size=3))
    )
    # coordinates that are multiples of a quarter make ties
    coordinate = st.one_of(number, st.integers(-4, 4).map(lambda i: i / 4))
    positions = 6 * np.array(draw(st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=n, max_size=n)))
    pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    numbers = draw(st.lists(st.sampled_from([1, 8]), min_size=n, max_size=n))
    return Atoms(numbers, positions=positions, cell=cell * draw(st.sampled_from([1, -1])), pbc=pbc)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(frames(), st.integers(1, 30), st.floats(1.5, 5.5), st.sampled_from([{}, *KINDS]))
def test_any_small_frame_equals_naive(atoms, n, cutoff, kind):
    vectors = atoms.cell.array[atoms.pbc]
    assume(len(vectors) == 0 or np.linalg.svd(vectors, compute_uv=False).min() > 0.8)
    # a distance at the edge of a tie may fall on either side of it
    for d, _, _ in naive.neighbours(atoms, cutoff + 1e-6):
        steps = np.abs(np.subtract.outer(d, np.append(d, cutoff)))
        assume(not ((steps > 1e-10) & (steps < 1e-7)).any())
    close(
        Descriptor(k=5, cutoff=cutoff, average=n, **kind)(atoms),
        averaged_of_plain(atoms, n, k=5, cutoff=cutoff, **kind),
    )


@pytest.mark.parametrize("value", [0, -1, 1025, 2.5, 12.0, np.nan, True, "12", (12,)])
def test_a_wrong_number_is_named(value):
    with pytest.raises(ValueError, match="average: expected a positive integer"):
        Descriptor(average=value)


def test_without_a_center_that_is_seen_nothing_can_be_averaged():
    with pytest.raises(ValueError, match=r"average: .*'H'.*'O'"):
        Descriptor(average=12, centers=("H",), neighbors=("O",))
    Descriptor(average=12, centers=("H", "O"), neighbors=("O",))


def test_settings_and_fingerprints():
    assert Descriptor().fingerprint == "quests-7ee83d46d81b"  # as in every file written so far
    assert Descriptor().settings == Descriptor(average=None).settings == {"k": 32, "cutoff": 5.0}
    assert Descriptor(average=np.int64(12)).settings == {"k": 32, "cutoff": 5.0, "average": 12}
    assert len({Descriptor(average=n).fingerprint for n in (None, 1, 4, 12)}) == 4
    assert Descriptor(**Descriptor(k=8, average=12).settings) == Descriptor(k=8, average=12)
    assert Descriptor(average=12).width == Descriptor().width


def test_the_bandwidth_of_the_rows():
    assert Descriptor().bandwidth == 0.015
    assert Descriptor(average=12).bandwidth == 0.006
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(0.05, seed=0)
    assert Reference.from_frames([atoms]).bandwidth == 0.015
    assert Reference.from_frames([atoms], descriptor=Descriptor(average=12)).bandwidth == 0.006
    assert Reference.from_frames([atoms], descriptor=Descriptor(average=12), bandwidth=0.01).bandwidth == 0.01


@pytest.mark.parametrize("match", ["element", "any"])
@pytest.mark.parametrize("kind", [{}, {"elements": ("O", "H")}, {"centers": ("O",), "neighbors": ("O",)}])
def test_reference_round_trip(tmp_path, kind, match):
    descriptor = Descriptor(average=12, **kind)
    frames = [water(seed) for seed in range(4)]
    reference = Reference.from_frames(frames[:2], descriptor=descriptor, match=match, groups="frame")
    reference.save(tmp_path / "r.safetensors")
    loaded = Reference.load(tmp_path / "r.safetensors")
    assert loaded.descriptor == descriptor
    assert loaded.settings == reference.settings
    assert loaded.fingerprint == reference.fingerprint
    Reference.verify(tmp_path / "r.safetensors")
    grown = loaded.extend(frames[2:], groups="frame")
    whole = Reference.from_frames(frames, descriptor=descriptor, match=match, groups="frame")
    assert np.array_equal(grown.rows, whole.rows)
    merged = Reference.merge(
        [reference, Reference.from_frames(frames[2:], descriptor=descriptor, match=match, groups="frame")]
    )
    assert np.array_equal(merged.rows, whole.rows)
    assert np.array_equal(grown.delta_entropy(frames[3]), whole.delta_entropy(frames[3]), equal_nan=True)
    plain = Reference.from_frames(
        frames[2:], descriptor=Descriptor(**kind), match=match, groups="frame", bandwidth=0.006
    )
    with pytest.raises(MismatchError, match="average"):
        Reference.merge([reference, plain])


def test_the_whole_chain():
    descriptor = Descriptor(average=12)
    frames = [atoms.copy() for atoms in md_frames()]
    reference = Reference.from_frames(reordered(frames[::2]), descriptor=descriptor, groups="frame")
    calibration = calibrate(reference, false_alarms=0.05)
    with Monitor(reference, calibration, log=None, on_error="raise") as monitor:
        checks = [monitor.check(atoms) for atoms in frames[1:80:2]]
        assert sum(check.state == "out" for check in checks) <= 4
        assert monitor.check(outside()).state == "out"
        assert "rows averaged over 12 neighbours" in monitor.preflight(frames[1])
    offline = score_trajectory(frames[1:80:2], reference, calibration)
    assert [check.dh_mean for check in offline] == [check.dh_mean for check in checks]


def test_averaged_rows_of_averaged_and_of_minimised_frames():
    descriptor = Descriptor(average=12)
    frames = [atoms.copy() for atoms in md_frames()[:6]]
    for i, atoms in enumerate(frames):
        atoms.info["time_ps"] = 0.02 * i
    in_time = TimeAveraged(descriptor, samples=3)
    for atoms in in_time.frames(frames):
        assert np.array_equal(in_time(atoms), descriptor(atoms))
    inherent = Minimised(EMT, "EMT", descriptor=descriptor, steps=5)
    plain = Minimised(EMT, "EMT", steps=5)
    assert inherent.width == 63
    assert inherent.fingerprint != plain.fingerprint
    spread = [np.ptp(rows(frames[0]), axis=0).max() for rows in (inherent, plain)]
    assert spread[0] < spread[1]
