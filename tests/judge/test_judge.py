"""The fields of a Check against independent computations, and the two ways to evaluate a frame against each other."""

import hashlib
import math
import re

import naive
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from systems import (
    CountingEMT,
    H,
    alloy,
    alloy_reference,
    cold_reference,
    copper,
    inside,
    level_at,
    md_reference,
    outside,
)

from quests_md import Descriptor, MismatchError, Reference, calibrate
from quests_md.environments import frame_digest
from quests_md.errors import UnsuitableFrameError
from quests_md.judge import Judge
from quests_md.records import CHECK_FIELDS

#: Fields that may differ between equal checks.
FREE = {"elapsed_us"}


def judge_of(reference, level, **options):
    return Judge(reference, level_at(reference, level), **options)


def check_of(reference, level, atoms, **options):
    return judge_of(reference, level, **options).judge(atoms, step=0, frame=0).check


def fields(check):
    return {name: getattr(check, name) for name in CHECK_FIELDS if name not in FREE}


def assert_equal_checks(a, b):
    # dict equality would call two NaN different
    np.testing.assert_equal(fields(a), fields(b))
    np.testing.assert_array_equal(a.delta_entropy, b.delta_entropy)
    np.testing.assert_array_equal(a.above, b.above)


def partly_outside(n_out=3, seed=0, size=2):
    """A crystal with a few atoms far off their sites."""
    atoms = copper(size, seed=seed, rattle=0.01, temperature_K=500)
    rng = np.random.default_rng(seed)
    atoms.positions[:n_out] += rng.normal(0, 0.4, (n_out, 3))
    return atoms


@pytest.mark.parametrize("atoms", [partly_outside(), outside(), copper(rattle=0.01)], ids=["partly", "out", "in"])
def test_numbers_equal_the_naive_ones(atoms):
    reference, level = cold_reference(), -1.0
    check = check_of(reference, level, atoms, values="full")
    rows = naive.rows(atoms)
    dh = naive.delta_entropy(rows, reference.rows, H)
    np.testing.assert_allclose(check.delta_entropy, dh, rtol=0, atol=1e-4 + 1e-6 * np.abs(dh).max())
    np.testing.assert_array_equal(check.above, dh > level)
    tolerance = 1e-4 + 1e-6 * np.abs(dh).max()
    assert check.dh_max == pytest.approx(dh.max(), abs=tolerance)
    assert check.dh_mean == pytest.approx(dh.mean(), abs=tolerance)
    assert check.dh_q99 == pytest.approx(np.quantile(dh, 0.99), abs=tolerance)
    assert check.n_above == (dh > level).sum()
    assert check.excess == pytest.approx(dh.max() - level, abs=tolerance)
    assert check.worst_atom == dh.argmax()
    assert check.worst_element == "Cu"
    assert check.frame_entropy == pytest.approx(naive.entropy(rows, H), abs=1e-6)
    assert check.state == ("out" if (dh > level).any() else "in")
    assert check.n_atoms == len(atoms)
    assert check.n_unknown == 0
    assert check.volume_per_atom == pytest.approx(3.61**3 / 4)


def test_each_atom_is_compared_with_its_own_element():
    reference, atoms = alloy_reference(), alloy(seed=40, rattle=0.07)
    check = check_of(reference, -4.0, atoms, values="full")
    rows = naive.rows(atoms)
    for z in (29, 79):
        mine = atoms.numbers == z
        expected = naive.delta_entropy(rows[mine], reference.rows[reference.numbers == z], H)
        np.testing.assert_allclose(check.delta_entropy[mine], expected, atol=1e-4)
    assert check.worst_element == "Au"  # an eighth of the reference's environments: dH lies higher
    assert check.worst_atom == check.delta_entropy.argmax()


@pytest.mark.parametrize(("displaced", "largest"), [((0, 1), 2), ((0, 63), 1), ((), 0), ((0, 1, 63), 2)])
def test_largest_cluster_counts_neighbours_that_are_out(displaced, largest, monkeypatch):
    """Atoms 0 and 1 of the cell are neighbours, atom 63 is not one of atom 0."""
    atoms = bulk("Cu", cubic=True) * (4, 4, 4)
    distances = atoms.get_all_distances(mic=True)
    far = int(distances[0].argmax())
    chosen = [far if i == 63 else i for i in displaced]
    assert distances[0, 1] < 2.6
    assert distances[0, far] > 6
    judge = judge_of(cold_reference(), 0.0, values="full")
    dh = np.full(len(atoms), -1.0)
    dh[chosen] = 1.0
    monkeypatch.setattr(judge.reference, "evaluate", lambda rows, numbers, **_: dh)
    check = judge.judge(atoms, step=0, frame=0).check
    assert check.largest_cluster == largest
    assert check.n_above == len(chosen)


def test_temperature_is_the_kinetic_one():
    atoms = copper(temperature_K=500)
    check = check_of(cold_reference(), 0.0, atoms)
    p, m = atoms.get_momenta(), atoms.get_masses()
    assert check.temperature_K == pytest.approx((p**2 / m[:, None]).sum() / (3 * len(atoms) * units.kB))
    assert check_of(cold_reference(), 0.0, copper()).temperature_K is None


def test_volume_is_positive_and_needs_three_periodic_directions():
    atoms = copper()
    atoms.set_cell(atoms.cell[[1, 0, 2]])  # left-handed
    assert check_of(cold_reference(), 0.0, atoms).volume_per_atom == pytest.approx(3.61**3 / 4)
    for atoms.pbc in ((True, True, False), False):
        assert check_of(cold_reference(), 0.0, atoms).volume_per_atom is None


def test_energy_only_when_it_is_cached_for_this_very_frame():
    atoms = copper(rattle=0.05, calc=CountingEMT())

    def energy():
        return check_of(cold_reference(), 0.0, atoms).energy_per_atom

    assert energy() is None
    expected = atoms.get_potential_energy() / len(atoms)
    assert energy() == expected
    atoms.rattle(0.01, rng=np.random.default_rng(0))
    assert energy() is None
    assert atoms.calc.calls == 1


def test_a_calculator_that_cannot_answer_does_not_matter():
    class Foreign:
        results = {"energy": 1.0}  # noqa: RUF012

        def calculation_required(self, atoms, properties):
            raise RuntimeError("no")

    class WithoutResults:
        pass

    for calc in (Foreign(), WithoutResults()):
        atoms = copper()
        atoms.calc = calc
        assert check_of(cold_reference(), 0.0, atoms).energy_per_atom is None


def test_digest_is_of_positions_cell_and_numbers():
    atoms = copper(rattle=0.1, temperature_K=300)
    digest = frame_digest(atoms)
    data = atoms.positions.tobytes() + atoms.cell.array.tobytes() + atoms.numbers.tobytes()
    assert digest == hashlib.blake2b(data, digest_size=8).hexdigest()
    same = atoms.copy()
    same.info["x"] = 1
    same.set_momenta(np.zeros((len(atoms), 3)))
    assert frame_digest(same) == digest == check_of(cold_reference(), 0.0, same).digest
    for name, place in (("positions", (-1, -1)), ("cell", (2, 2)), ("numbers", 0)):
        other = atoms.copy()
        values = getattr(other, name)
        values[place] = 28 if name == "numbers" else np.nextafter(values[place], 1e3)
        assert frame_digest(other) != digest
    other = atoms.copy()
    other.arrays["positions"] = np.asfortranarray(atoms.positions)
    assert frame_digest(other) == digest


# proven against full


@pytest.mark.parametrize("level", [-7.95, -7.0, -4.0, -1.0, 3.0, 100.0])
@pytest.mark.parametrize("frame", ["in", "out", "partly"])
def test_proven_decisions_equal_the_full_ones(level, frame):
    atoms = {"in": inside(3), "out": outside(), "partly": partly_outside()}[frame]
    full = check_of(md_reference(), level, atoms, values="full")
    proven = check_of(md_reference(), level, atoms, values="proven")
    np.testing.assert_array_equal(proven.above, full.above)
    np.testing.assert_allclose(proven.delta_entropy[full.above], full.delta_entropy[full.above], atol=1e-4)
    for name in ("n_above", "largest_cluster", "state", "digest", "n_unknown", "n_atoms"):
        assert getattr(proven, name) == getattr(full, name), name
    if full.state == "out":
        assert proven.dh_max == pytest.approx(full.dh_max, abs=1e-4)
        assert proven.excess == pytest.approx(full.excess, abs=1e-4)
        assert proven.worst_atom == full.worst_atom
    else:
        assert proven.dh_max is None
        assert proven.excess == pytest.approx(max(full.excess, -0.5), abs=1e-4)
    # few atoms and few rows: the sample is the frame and the sketch the reference
    for name in ("dh_mean", "dh_q99", "frame_entropy"):
        assert getattr(proven, name) == pytest.approx(getattr(full, name), abs=1e-4), name


def test_proven_leaves_open_what_it_has_not_evaluated():
    atoms = partly_outside()
    check = check_of(md_reference(), 0.0, atoms, values="proven")
    assert 0 < check.n_above < len(atoms)
    open_ = np.isnan(check.delta_entropy)
    assert open_.any()
    assert not check.above[open_].any()
    full = check_of(md_reference(), 0.0, atoms, values="full")
    np.testing.assert_array_equal(open_, full.delta_entropy <= -0.5)


@pytest.mark.parametrize("values", ["full", "proven"])
def test_nothing_depends_on_history_threads_or_the_object(values):
    frames = [inside(1), outside(1), partly_outside(), inside(7), outside(2)]
    lone = [check_of(md_reference(), -4.0, atoms, values=values, threads=1) for atoms in frames]
    judge = judge_of(md_reference(), -4.0, values=values, threads=3)
    for i in (4, 2, 0, 1, 3, 0, 2, 4):
        assert_equal_checks(judge.judge(frames[i], step=0, frame=0).check, lone[i])


@pytest.mark.parametrize("values", ["full", "proven"])
def test_the_sample_follows_the_ids(values):
    atoms = copper(6, rattle=0.2)  # more atoms than the sample has
    atoms.set_array("id", np.random.default_rng(3).permutation(10_000)[: len(atoms)])
    order = np.random.default_rng(4).permutation(len(atoms))
    permuted = atoms[order]
    a, b = (check_of(md_reference(), 2.0, frame, values=values) for frame in (atoms, permuted))
    for name in ("dh_mean", "dh_q99", "frame_entropy", "dh_max", "excess"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-6), name
    for name in ("n_above", "largest_cluster", "state"):
        assert getattr(a, name) == getattr(b, name), name
    assert a.worst_atom == order[b.worst_atom]
    np.testing.assert_array_equal(a.above[order], b.above)
    if values == "proven":
        other = atoms.copy()
        del other.arrays["id"]
        assert check_of(md_reference(), 2.0, other, values=values).dh_mean != a.dh_mean


def test_auto_is_full_for_few_pairs_and_proven_for_many():
    judge = judge_of(md_reference(), 0.0)
    assert judge.mode(32) == "full"
    assert judge.mode(7071) == "full"  # 5e7 pairs of atoms, for the entropy of the frame
    assert judge.mode(7072) == "proven"
    assert judge_of(md_reference(), 0.0, values="proven").mode(1) == "proven"
    assert judge_of(md_reference(), 0.0, values="full").mode(10**6) == "full"
    assert check_of(md_reference(), 100.0, copper(13, rattle=0.05)).dh_max is None


# elements that the reference has never seen


@pytest.mark.parametrize("values", ["full", "proven"])
@pytest.mark.parametrize("size", [2, 6])
def test_an_unknown_element_scores_inf_and_stays_out_of_the_means(values, size):
    atoms = alloy(size, seed=50, gold=False)
    with_gold = alloy(size, seed=50)
    silver = atoms.numbers == 47
    check = check_of(alloy_reference(), 3.0, atoms, values=values)
    known = check_of(alloy_reference(), 3.0, with_gold, values=values)
    assert check.n_unknown == silver.sum() == size**3
    assert np.isposinf(check.delta_entropy[silver]).all()
    assert check.above[silver].all()
    assert check.dh_max == check.excess == math.inf
    assert check.state == "out"
    assert check.worst_element == "Ag"
    assert math.isfinite(check.dh_mean)
    assert math.isfinite(check.dh_q99)
    np.testing.assert_array_equal(check.above[~silver], known.above[~silver])
    if values == "full":
        assert check.dh_mean == pytest.approx(known.delta_entropy[~silver].mean(), abs=1e-9)


@pytest.mark.parametrize("values", ["full", "proven"])
def test_nothing_but_unknown_elements(values):
    check = check_of(md_reference(), 0.0, bulk("Ag", cubic=True), values=values)
    assert check.n_unknown == check.n_above == 4
    assert check.dh_mean is None
    assert check.dh_q99 is None
    assert check.dh_max == math.inf


@pytest.mark.parametrize("values", ["full", "proven"])
@pytest.mark.parametrize("element", ["Cu", "Ag"])
def test_without_a_finite_level_known_elements_are_in_and_unknown_ones_out(values, element):
    reference = Reference.from_frames([copper(rattle=0.05)], bandwidth=H)
    calibration = level_at(reference, 1e300)
    atoms = copper(rattle=0.1)
    atoms.symbols = element
    check = Judge(reference, calibration, values=values).judge(atoms, step=0, frame=0).check
    assert check.state == ("in" if element == "Cu" else "out")
    assert not check.excess > 0 if element == "Cu" else check.excess == math.inf


@pytest.mark.parametrize("values", ["full", "proven"])
def test_an_empty_reference_knows_nothing(values):
    with pytest.warns(UserWarning, match="no environment"):
        reference = Reference.from_frames([])
    with pytest.warns(UserWarning, match="a guess"):
        calibration = calibrate(reference)
    check = Judge(reference, calibration, values=values).judge(copper(), step=0, frame=0).check
    assert check.n_unknown == check.n_above == 32
    assert check.state == "out"


@pytest.mark.parametrize("values", ["full", "proven"])
def test_without_chemistry_every_element_is_known(values):
    reference = Reference.from_frames([copper(seed=i, rattle=0.05) for i in range(4)], bandwidth=H, match="any")
    silver = copper(rattle=0.05)
    silver.symbols = "Ag"
    a, b = (check_of(reference, 0.0, atoms, values=values) for atoms in (silver, copper(rattle=0.05)))
    assert a.n_unknown == 0
    np.testing.assert_array_equal(a.above, b.above)
    assert a.dh_mean == b.dh_mean
    assert a.worst_element in ("Ag", None)


# frames that cannot be judged, and strange ones that can


def broken(*, position=None, cell=None):
    """Copper with another coordinate of atom 5, or with another cell."""
    atoms = copper(temperature_K=300)
    if position is not None:
        atoms.positions[5, 1] = position
    if cell is not None:
        atoms.cell[:] = cell
    return atoms


@pytest.mark.parametrize("values", ["full", "proven"])
@pytest.mark.parametrize(
    ("atoms", "reason"),
    [
        (broken(position=math.nan), "positions: expected finite numbers.* atom 5"),
        (broken(position=math.inf), "positions: expected finite numbers.* atom 5"),
        (broken(cell=np.diag([7.2, math.nan, 7.2])), "cell: expected finite numbers"),
        (broken(cell=0), "cell: expected a nonzero vector.* zero for a, b, c"),
        (broken(cell=[[7.2, 0, 0], [0, 7.2, 0], [7.2, 7.2, 0]]), "cell: .*linearly dependent"),
        (Atoms(cell=[5, 5, 5], pbc=True), "no atoms"),
        (Atoms(), "no atoms"),
    ],
    ids=["nan", "inf", "nan cell", "zero cell", "flat cell", "empty", "empty open"],
)
def test_an_invalid_frame_says_why(values, atoms, reason):
    judged = judge_of(md_reference(), 0.0, values=values).judge(atoms, step=3, frame=2, time_ps=0.5, interval=10)
    check = judged.check
    assert check.state == "invalid"
    assert (check.step, check.frame, check.time_ps, check.interval) == (3, 2, 0.5, 10)
    assert math.isnan(check.excess)
    assert check.n_atoms == len(atoms)
    assert check.dh_max is check.dh_mean is check.frame_entropy is check.worst_atom is check.delta_entropy is None
    assert judged.rows is None
    assert re.search(reason, judged.reason), judged.reason


def test_nan_momenta_are_an_explosion_and_no_alarm():
    atoms = inside(0)
    atoms.arrays["momenta"][:] = math.nan
    check = check_of(md_reference(), 0.0, atoms)
    assert (check.state, check.alarms) == ("out", ())
    assert check.explosion.startswith("the momenta of 32 atoms are not finite")
    assert math.isnan(check.temperature_K)


@pytest.mark.parametrize("values", ["full", "proven"])
def test_an_atom_that_has_flown_away_is_the_worst(values):
    atoms = copper(rattle=0.01)
    atoms.pbc = False
    atoms.positions[7] += 1e5
    check = check_of(md_reference(), 0.0, atoms, values=values)
    assert check.state == "out"
    assert check.above[7]
    assert math.isfinite(check.dh_max)


def test_an_isolated_atom():
    check = check_of(md_reference(), 0.0, Atoms("Cu", positions=[(0, 0, 0)]))
    assert check.state == "out"
    assert check.n_above == check.largest_cluster == 1
    assert check.frame_entropy == pytest.approx(0.0)


def test_a_descriptor_of_ones_own_serves():
    class Volume:
        fingerprint = "volume"

        def __call__(self, atoms):
            return np.full((len(atoms), 1), atoms.get_volume() / len(atoms))

    frames = [copper() for _ in range(3)]
    reference = Reference.from_frames(frames, descriptor=Volume(), bandwidth=0.1)
    wide = copper()
    wide.set_cell(wide.cell * 1.05, scale_atoms=True)
    assert check_of(reference, 0.0, copper()).state == "in"
    assert check_of(reference, 0.0, wide).state == "out"


def test_another_interval_and_other_threads_make_another_judge():
    reference = md_reference()
    second = judge_of(reference, 0.0, threads=1)
    judge = Judge(reference, level_at(reference, 0.0, per="ns"), confirm=second, threads=1)
    other = judge.for_interval(0.5).with_threads(2)
    assert (judge.checks, judge.check_ps, judge.threads) == (None, None, 1)
    assert (other.checks, other.check_ps, other.threads) == (2000, 0.5, 2)
    assert (other.confirm.check_ps, other.confirm.threads, other.confirm.checks) == (0.5, 2, None)
    assert (second.check_ps, second.threads) == (None, 1)


def test_wrong_arguments():
    reference = md_reference()
    with pytest.raises(ValueError, match=r"values: .*'some'"):
        judge_of(reference, 0.0, values="some")
    with pytest.raises(MismatchError):
        Judge(cold_reference(), level_at(reference, 0.0))


def test_a_frame_is_not_changed():
    atoms = outside()
    atoms.calc = EMT()
    atoms.positions.flags.writeable = False
    atoms.numbers.flags.writeable = False
    atoms.cell.array.flags.writeable = False
    before = atoms.copy()
    for values in ("full", "proven"):
        check_of(md_reference(), -4.0, atoms, values=values)
    assert atoms == before
    assert sorted(atoms.arrays) == sorted(before.arrays)
    assert atoms.info == before.info


def water_like(seed):
    """Rock salt with the anions as O and the cations as H: two sublattices."""
    atoms = bulk("NaCl", "rocksalt", a=4.2, cubic=True) * 2
    atoms.symbols[atoms.symbols == "Cl"] = "O"
    atoms.symbols[atoms.symbols == "Na"] = "H"
    atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=atoms.positions.shape)
    return atoms


@pytest.mark.parametrize("values", ["full", "proven"])
def test_atoms_that_are_no_centers_count_in_nothing(values):
    restricted = Descriptor(centers=("O",), neighbors=("O",))
    reference = Reference.from_frames([water_like(seed) for seed in range(12)], descriptor=restricted)
    atoms = water_like(99)
    oxygen = atoms.numbers == 8
    alone = atoms[oxygen]
    plain = Reference.from_frames([water_like(seed)[oxygen] for seed in range(12)])
    check = Judge(reference, calibrate(reference), values=values).judge(atoms, step=0, frame=0).check
    expected = Judge(plain, calibrate(plain), values=values).judge(alone, step=0, frame=0).check
    for name in ("dh_max", "dh_mean", "dh_q99", "n_above", "frame_entropy", "excess", "state", "largest_cluster"):
        assert getattr(check, name) == pytest.approx(getattr(expected, name), abs=1e-9)
    assert check.n_atoms == 64
    assert check.n_unknown == 0
    assert np.isnan(check.delta_entropy[~oxygen]).all()
    assert not check.above[~oxygen].any()
    np.testing.assert_allclose(check.delta_entropy[oxygen], expected.delta_entropy, atol=1e-9)


def test_only_centers_count_in_the_size_of_a_frame():
    restricted = Descriptor(centers=("O",), neighbors=("O",))
    reference = Reference.from_frames([water_like(seed) for seed in range(24)], descriptor=restricted)
    calibration = calibrate(reference, false_alarms=0.1, statistics=("dh_max",))
    assert calibration.typical.n_atoms == 32
    atoms = water_like(99)
    check = Judge(reference, calibration).judge(atoms, step=0, frame=0).check
    worst = check.delta_entropy[check.worst_atom]
    oxygen, both = (calibration.levels(Atoms(f"O{n}")) for n in (32, 64))
    assert check.excess == pytest.approx(worst - oxygen[0], abs=1e-9)
    assert both[0] > oxygen[0]


def test_a_frame_without_a_center_is_not_for_this_reference():
    restricted = Descriptor(centers=("O",), neighbors=("O",))
    reference = Reference.from_frames([water_like(seed) for seed in range(3)], descriptor=restricted)
    atoms = water_like(99)
    with pytest.raises(UnsuitableFrameError, match="no atom of the elements that are centers"):
        Judge(reference, calibrate(reference)).judge(atoms[atoms.numbers == 1], step=0, frame=0)
