"""Frames are chosen as a plain greedy search chooses them, few and different, and fit to be labelled."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write

from quests_md import Descriptor, Reference, UnsuitableFrameError, select

H = 0.5


class GivenRows:
    """Rows that the frames carry themselves."""

    fingerprint = "given rows"

    def __call__(self, atoms):
        return atoms.arrays["row"]


def frame(rows, numbers=None):
    """Atoms far from each other, but not too far, with given rows."""
    rows = np.atleast_2d(np.asarray(rows, float))
    positions = np.zeros((len(rows), 3))
    positions[:, 0] = 2.5 * np.arange(len(rows))
    atoms = Atoms(numbers=np.full(len(rows), 29) if numbers is None else numbers, positions=positions)
    atoms.set_array("row", rows)
    return atoms


def reference_of(frames, match="element"):
    return Reference.from_frames(frames, descriptor=GivenRows(), bandwidth=H, match=match, groups="frame")


def log_sums(rows, known):
    d2 = ((rows[:, None, :] - known[None, :, :]) ** 2).sum(axis=2)
    return np.exp(-d2 / (2 * H**2)).sum(axis=1)


def naive_greedy(frames, known, level, n):
    """The greedy search as it is defined, in float64, over every frame at every step; one element."""
    rows = np.concatenate([f.arrays["row"] for f in frames])
    of_known = log_sums(rows, known)
    is_open = -np.log(of_known) > level
    targets, owner = rows[is_open], np.repeat(np.arange(len(frames)), [len(f) for f in frames])[is_open]
    sums = log_sums(targets, known)

    def beyond(sums):
        return np.minimum(np.log(sums * np.exp(level) + np.exp(-20.0)), 0.0).sum()

    def added(i):  # what is in a frame that is chosen is covered
        return log_sums(targets, frames[i].arrays["row"]) + (owner == i) * np.exp(-level)

    order, worth = [], []
    while len(order) < n:
        gains = [beyond(sums + added(i)) - beyond(sums) if i not in order else -1.0 for i in range(len(frames))]
        best = int(np.argmax(gains))
        if gains[best] < 1e-3:
            break
        order.append(best)
        worth.append(gains[best])
        sums = sums + added(best)
    return order, worth, sums


def identity(frames, selection):
    """Numbers of the chosen frames among `frames`, which were given in another order perhaps."""
    return [next(i for i, f in enumerate(frames) if f is one) for one in selection.frames]


@pytest.mark.parametrize("seed", range(6))
def test_frames_are_those_of_the_full_search(seed):
    rng = np.random.default_rng(seed)
    known = rng.normal(size=(40, 3))
    frames = [frame(rng.normal(size=(rng.integers(1, 9), 3)) * rng.uniform(0.5, 3)) for _ in range(40)]
    level = float(rng.uniform(-2, 2))
    order, worth, sums = naive_greedy(frames, known, level, 40)
    selection = select(frames, reference_of([frame(known)]), level=level)
    # of frames of one atom that is strange beyond measure, or of two that cover each other, any may come first
    assert [one.gain for one in selection] == pytest.approx(worth, rel=1e-4, abs=1e-4)
    assert identity(frames, selection)[:15] == order[:15]
    assert selection.n_to_cover == len(order)
    assert selection.n_left == 0
    assert (-np.log(sums) <= level + 1e-3).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_neither_the_order_of_frames_nor_threads_matter(threads):
    rng = np.random.default_rng(7)
    frames = [frame(rng.normal(size=(6, 3)) * 2) for _ in range(30)]
    reference = reference_of([frame(rng.normal(size=(20, 3)))])
    chosen = identity(frames, select(frames, reference, n=12, threads=1))
    for _ in range(3):
        shuffled = [frames[i] for i in rng.permutation(len(frames))]
        assert identity(frames, select(shuffled, reference, n=12, threads=threads)) == chosen
    # from a generator and from a tuple as well
    assert identity(frames, select((f for f in frames), reference, n=12)) == chosen


def test_fewer_frames_than_asked_for_cover_everything_and_this_is_said():
    rng = np.random.default_rng(3)
    places = rng.normal(size=(5, 3)) * 50
    frames = [frame(places[i % 5] + 0.05 * rng.normal(size=(4, 3))) for i in range(40)]
    selection = select(frames, reference_of([frame(rng.normal(size=(30, 3)))]), n=20, level=0.5)
    assert selection.n_to_cover == 5
    assert len(selection) == 20
    assert [one.is_new for one in selection] == [True] * 5 + [False] * 15
    assert "5 frames cover everything; you asked for 20" in str(selection)
    # one frame of each place first
    assert len({i % 5 for i in identity(frames, selection)[:5]}) == 5


def test_how_many_frames_would_cover_is_told_beyond_those_asked_for():
    rng = np.random.default_rng(3)
    places = rng.normal(size=(7, 3)) * 50
    frames = [frame(places[i % 7] + 0.05 * rng.normal(size=(4, 3))) for i in range(21)]
    selection = select(frames, reference_of([frame(rng.normal(size=(30, 3)))]), n=3, level=0.5)
    assert (len(selection), selection.n_to_cover, selection.n_left) == (3, 7, 4 * 12)
    assert "7 frames cover everything; you asked for 3" in str(selection)
    selection = select(frames, reference_of([frame(rng.normal(size=(30, 3)))]), n=1, level=0.5)
    assert selection.n_to_cover is None
    assert "4 frames do not cover everything yet; you asked for 1" in str(selection)


def test_what_frames_say_of_themselves():
    known = reference_of([frame([[0.0, 0.0], [0.1, 0.0]])])
    strange = frame([[0.05, 0.0], [9.0, 0.0], [4.0, 0.0]])
    one = select([frame([[0.0, 0.05]]), strange], known, level=1.0)[0]
    assert (one.rank, one.is_new, one.source, one.frame) == (1, True, "memory", 1)
    assert one.atoms is strange
    assert one.strange.tolist() == [1, 2]
    assert one.dh_max == pytest.approx(known.delta_entropy(strange).max(), rel=1e-4)
    assert (one.nearest.frame, one.nearest.atom) == (0, 1)
    assert one.nearest.distance == pytest.approx(8.9 / H, rel=1e-5)
    assert one.gain == pytest.approx(40.0, abs=0.1)  # two atoms, 20 nats each at most


def test_what_is_uncovered_already_decides_and_not_what_is_strangest():
    """A frame that covers many environments of others is worth more than the frame of the largest dH."""
    known = reference_of([frame([[0.0, 0.0], [0.1, 0.0]])])
    lonely = frame([[100.0, 0.0]])
    shared = [frame([[5.0, 0.01 * i], [0.0, 0.01 * i]]) for i in range(6)]
    selection = select([lonely, *shared], known, level=0.5)
    assert len(selection) == 2
    assert selection[1].atoms is lonely


def test_copies_are_chosen_once():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(5, 3)) * 4
    frames = [frame(rows), frame(rows[::-1]), frame(rows + 30), frame(rows)]
    selection = select(frames, reference_of([frame(rng.normal(size=(30, 3)))]), n=4, level=0.0)
    assert len(selection) == 2
    assert selection.left_out == {"with the environments of another frame": 2}


def test_frames_of_the_reference_are_not_chosen():
    rng = np.random.default_rng(1)
    frames = [frame(rng.normal(size=(5, 3))) for _ in range(6)]
    selection = select(frames, reference_of(frames[:4]), n=6, level=3.0)
    assert sorted(identity(frames, selection)) == [4, 5]


def test_a_covered_run_gives_its_most_informative_frames_first():
    rng = np.random.default_rng(2)
    known = reference_of([frame(rng.normal(size=(400, 2)))])
    usual = [frame(0.3 * rng.normal(size=(5, 2))) for _ in range(8)]
    rare = frame([[2.2, 2.2], [2.3, 2.1], [2.1, 2.3], [2.2, 2.4], [2.0, 2.2]])
    selection = select([*usual, rare], known, n=3, level=6.0)
    assert (selection.n_uncovered, selection[0].is_new) == (0, False)
    assert selection[0].atoms is rare
    assert "the reference covers all 45 environments" in str(selection)
    assert len(select([*usual, rare], known, level=6.0)) == 0


def test_minority_elements_get_their_floor():
    rng = np.random.default_rng(4)
    known = reference_of([frame(rng.normal(size=(30, 2)), np.repeat([29, 79], 15))])
    copper = [frame(rng.normal(size=(20, 2)) * 30 + 50) for _ in range(20)]
    gold = frame([[0.0, 0.0], [8.0, 0.0]], [29, 79])
    frames = [*copper, gold]
    assert gold in select(frames, known, n=3, level=1.0).frames
    of_gold = [frame([[0.0, 0.01 * i], [8.0 + 5 * i, 0.0]], [29, 79]) for i in range(6)]
    selection = select([*copper, *of_gold], known, n=8, per_element=4, level=1.0)
    assert sum(79 in one.numbers for one in selection.frames) >= 4
    assert len(selection) == 8
    selection = select(of_gold[:2], known, n=1, per_element=2, level=1.0)
    assert selection.n_lacking == {"Cu": 1, "Au": 1}
    assert "Cu 1, Au 1" in str(selection)


def test_a_budget_of_atoms_is_kept():
    rng = np.random.default_rng(5)
    frames = [frame(rng.normal(size=(n, 3)) * 20) for n in rng.integers(2, 30, 30)]
    selection = select(frames, reference_of([frame(rng.normal(size=(30, 3)))]), budget_atoms=60, level=0.0)
    assert 40 < sum(len(one) for one in selection.frames) <= 60
    assert selection.n_left > 0
    # a frame that is larger than the budget is never chosen
    nothing = select([frame(rng.normal(size=(9, 3)) * 20)], reference_of(frames[:3]), budget_atoms=8, level=0.0)
    assert len(nothing) == 0
    assert "no frame is small enough for the budget" in str(nothing)


def test_a_budget_is_spent_by_what_is_gained_for_each_atom():
    known = reference_of([frame([[0.0, 0.0], [0.1, 0.0]])])
    small = [frame([[10.0 * i, 5.0]]) for i in range(1, 9)]
    large = frame([[10.0 * i, 5.0] for i in range(1, 7)] + [[0.05, 0.0]] * 20)
    selection = select([large, *small], known, budget_atoms=26, level=0.5)
    assert len(selection) == 8
    assert selection.n_left == 0


def test_a_floor_does_not_change_how_many_cover_everything():
    rng = np.random.default_rng(3)
    places = rng.normal(size=(7, 3)) * 50
    frames = [frame(places[i % 7] + 0.05 * rng.normal(size=(4, 3))) for i in range(21)]
    reference = reference_of([frame(rng.normal(size=(30, 3)))])
    assert [select(frames, reference, n=3, per_element=m, level=0.5).n_to_cover for m in (None, 1, 9)] == [7, 7, 7]


def test_an_upper_bound_leaves_frames_out():
    known = reference_of([frame([[0.0, 0.0], [0.1, 0.0]])])
    near, far = frame([[3.0, 0.0]]), frame([[40.0, 0.0]])
    selection = select([near, far], known, max_dh=100.0, level=0.0)
    assert selection.frames == [near]
    assert selection.left_out == {"dH above max_dh = 100": 1}


def test_an_element_that_the_reference_lacks_is_uncovered():
    known = reference_of([frame([[0.0, 0.0], [0.1, 0.0]])])
    new = frame([[0.0, 0.0]], [79])
    selection = select([frame([[0.05, 0.0]]), new], known, level=1.0, max_dh=50.0)
    assert selection.frames == [new]
    assert (selection[0].dh_max, selection[0].nearest) == (np.inf, None)
    # as one element, the two are alike
    assert len(select([new], reference_of([frame([[0.0, 0.0], [0.1, 0.0]])], match="any"), level=1.0)) == 0


@pytest.fixture(scope="module")
def copper():
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(12):
        atoms = bulk("Cu", cubic=True) * (3, 3, 3)
        atoms.rattle(0.1, rng=rng)
        frames.append(atoms)
    return Reference.from_frames(frames, groups="frame"), frames


def test_frames_that_no_one_should_label_are_left_out(copper):
    reference, frames = copper
    overlapping, nan, torn, strained = (frames[0].copy() for _ in range(4))
    overlapping.positions[1] = overlapping.positions[0] + 0.4
    nan.positions[3, 1] = np.nan
    torn.set_cell(torn.cell * 2.05, scale_atoms=True)
    strained.set_cell(strained.cell * 1.06, scale_atoms=True)
    selection = select([overlapping, nan, torn, strained], reference)
    assert selection.frames == [strained]
    assert selection.left_out == {
        "atoms too near each other": 1,
        "positions or cell that are not finite": 1,
        "with atoms that have no neighbour": 1,
    }
    assert len(select([overlapping, strained], reference, distorted=True, n=2)) == 2
    evaporated = bulk("Cu", cubic=True) * (3, 3, 8)
    evaporated = evaporated[evaporated.positions[:, 2] < 15]
    evaporated.positions[0, 2] = 22.0
    found = select([evaporated, strained], reference)
    assert found.left_out == {"with atoms that have no neighbour": 1}


def test_files_are_read_as_a_stream_and_chosen_frames_come_as_they_are(copper, tmp_path):
    reference, frames = copper
    strained = []
    for i in range(6):
        atoms = frames[i].copy()
        atoms.set_cell(atoms.cell * (1.0 + 0.02 * i), scale_atoms=True)
        atoms.info["label"] = f"frame {i}"
        strained.append(atoms)
    write(tmp_path / "run.extxyz", strained)
    from_file = select(tmp_path / "run.extxyz", reference)
    in_memory = select([str(tmp_path / "run.extxyz@3:"), *strained[:3]], reference)
    assert [one.atoms.info["label"] for one in from_file] == [one.atoms.info["label"] for one in in_memory]
    copies = list(from_file.labelled_copies())
    write(tmp_path / "label.extxyz", copies)
    first = read(tmp_path / "label.extxyz", 0)
    assert first.info["select_rank"] == 1
    assert first.info["from_file"].endswith("run.extxyz")
    assert np.flatnonzero(first.arrays["select_strange"]).tolist() == sorted(from_file[0].strange.tolist())
    assert "select_rank" not in from_file[0].atoms.info
    assert first.calc is None


def test_molecules_without_a_cell_can_be_chosen():
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(20):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.03, rng=rng)
        frames.append(atoms)
    reference = Reference.from_frames(frames[:15], groups="frame")
    stretched = frames[15].copy()
    stretched.set_distance(0, 1, 1.9, fix=0)
    assert select([*frames[15:], stretched], reference, n=1).frames == [stretched]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n: expected"),
        ({"n": 2.5}, "n: expected"),
        ({"per_element": -1}, "per_element: expected"),
        ({"budget_atoms": 0}, "budget_atoms: expected"),
        ({"max_dh": float("nan")}, "max_dh: expected a finite number of nats"),
        ({"level": "high"}, "level: expected a finite number of nats"),
    ],
)
def test_bad_arguments_are_named(copper, options, message):
    reference, frames = copper
    with pytest.raises(ValueError, match=message):
        select(frames, reference, **options)


def test_no_frame_that_is_fit_is_an_error_that_says_why(copper):
    reference, frames = copper
    nan = frames[0].copy()
    nan.positions[:] = np.nan
    with pytest.raises(ValueError, match=r"frames: expected some .* got none of 1 \(1 frame: positions"):
        select(nan, reference)
    far = frames[0].copy()
    far.positions[0] = 1e300
    with pytest.raises(ValueError, match=r"got none of 1 \(1 frame: positions that are too large\)"):
        select(far, reference)
    with pytest.raises(ValueError, match="got none of 0"):
        select([], reference)


def test_levels_of_any_size_are_told_in_few_digits(copper):
    reference, frames = copper
    assert "covered: dH at most Cu 1e+300 nats" in str(select(frames, reference, n=1, level=1e300))


def test_a_descriptor_that_cannot_describe_the_frames_is_wrong_use():
    gold = bulk("Au", cubic=True) * (2, 2, 2)
    reference = Reference.from_frames(bulk("Cu", cubic=True) * (2, 2, 2), descriptor=Descriptor(elements=("Cu",)))
    with pytest.raises(UnsuitableFrameError):
        select(gold, reference)
