"""Order is not novelty: what the reference holds in motion raises no alarm at rest, and what it does not hold does."""

import functools

import numpy as np
import pytest
from ase.build import bulk, fcc111
from references import rattled_cells

from quests_md import Reference, calibrate
from quests_md.calibration import DEFAULT_STATISTICS
from quests_md.judge import Judge
from quests_md.judge.colder import BesideColder, ColderCopies

PLAIN = ("dh_max", "tail_cluster", "dh_mean")
A = 3.61


def crystal(strain=0.0):
    return bulk("Cu", a=A * (1 + strain), cubic=True) * 3


def moved(atoms, noise, seed):
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(seed).normal(0, noise, atoms.positions.shape)
    return atoms


@functools.cache
def reference(noise=0.08):
    frames = [moved(crystal(), noise, seed) for seed in range(60)]
    return Reference.from_frames(frames, groups="frame")


@functools.cache
def judge(statistics=DEFAULT_STATISTICS, values="full"):
    return Judge(reference(), calibrate(reference(), statistics=statistics), values=values)


def check(atoms, *how):
    return judge(*how).judge(atoms, step=0, frame=0).check


WAYS = [(DEFAULT_STATISTICS, "full"), (DEFAULT_STATISTICS, "proven"), (PLAIN, "full"), (PLAIN, "proven")]


def vacancy():
    atoms = crystal()
    del atoms[50]
    return atoms


def interstitial():
    atoms = crystal()
    atoms.append("Cu")
    atoms.positions[-1] = atoms.positions[50] + [A / 2, 0, 0]
    return atoms


def twin():
    """Twelve close-packed layers, mirrored in the middle: two layers of atoms see an hcp stacking."""
    d = A / 2**0.5
    layers = fcc111("Cu", (3, 3, 12), a=A, orthogonal=False)
    atoms, shift = layers.copy(), np.array([d / 2, d / (2 * 3**0.5), 0])
    heights = np.unique(layers.positions[:, 2].round(6))
    order = [0, 1, 2, 0, 1, 2, 0, 2, 1, 0, 2, 1]
    for height, at in zip(heights, order, strict=True):
        here = np.abs(layers.positions[:, 2] - height) < 1e-3
        sheet = layers.positions[np.abs(layers.positions[:, 2] - heights[0]) < 1e-3]
        atoms.positions[here] = sheet + at * shift + [0, 0, height - heights[0]]
    atoms.set_cell([*layers.cell[:2], [0, 0, 12 * A / 3**0.5]])
    atoms.pbc = True
    return atoms


STRANGE = {
    "bcc": bulk("Cu", "bcc", a=A / 2 ** (1 / 3), cubic=True) * 4,
    "hcp": bulk("Cu", "hcp", a=A / 2**0.5, c=A / 2**0.5 * (8 / 3) ** 0.5) * (4, 4, 3),
    "stretched": crystal(0.03),
    "compressed": crystal(-0.03),
    "twin": twin(),
    "vacancy": vacancy(),
    "interstitial": interstitial(),
}


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("strain", [0.0, -0.005])
def test_the_crystal_at_rest_is_in(how, strain):
    found = check(crystal(strain), *how)
    assert (found.state, found.alarms, found.n_above) == ("in", (), 0)
    assert found.n_colder is not None
    assert max(found.excesses.values()) <= 0


@pytest.mark.parametrize("how", WAYS[::2])
@pytest.mark.parametrize("noise", [0.01, 0.03, 0.05, 0.07])
def test_colder_crystals_are_in(how, noise):
    assert [check(moved(crystal(), noise, 1000 + seed), *how).state for seed in range(3)] == ["in"] * 3


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_colder_crystals_are_in_in_their_own_smaller_cells(noise):
    assert [check(moved(crystal(-0.004), noise, 1000 + seed)).state for seed in range(3)] == ["in"] * 3


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("what", STRANGE)
def test_other_structures_at_rest_are_out(how, what):
    assert check(STRANGE[what], *how).state == "out"


@pytest.mark.parametrize("how", WAYS[::2])
def test_a_defect_is_where_it_is(how):
    atoms = vacancy()
    found = check(atoms, *how)
    distance = np.linalg.norm((atoms.positions - crystal().positions[50] + 1.5 * A) % (3 * A) - 1.5 * A, axis=1)
    assert found.above[distance < 0.8 * A].any()
    assert not found.above[distance > 1.6 * A].any()
    assert found.n_colder > 0


def test_numbers_of_the_frame_stay_as_they_are(monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(ColderCopies, "judge", lambda self, found, these, excesses, *_: BesideColder(found, excesses))
        before = check(crystal())
    after = check(crystal())
    assert before.state == "out"
    np.testing.assert_array_equal(before.local_score, after.local_score)
    np.testing.assert_array_equal(before.delta_entropy, after.delta_entropy)
    assert before.further == after.further
    assert (before.dh_max, before.dh_mean, before.dh_q99) == (after.dh_max, after.dh_mean, after.dh_q99)


def test_a_frame_in_distribution_is_not_asked_about():
    found = check(moved(crystal(), 0.08, 5000))
    assert (found.state, found.n_colder) == ("in", None)


def test_a_reference_of_nothing_that_stays_in_place_has_no_colder_copies():
    frames = rattled_cells(12, amplitude=0.08)  # of three cells, too few each
    known = Reference.from_frames(frames, groups="frame")
    found = Judge(known, calibrate(known)).judge(frames[0] * 2, step=0, frame=0).check
    assert found.n_colder is None


def test_a_loaded_reference_gives_the_same_check(tmp_path):
    reference().save(tmp_path / "reference")
    calibrate(reference()).save(tmp_path / "calibration.json")
    loaded = Reference.load(tmp_path / "reference")
    calibration = type(calibrate(reference())).load(tmp_path / "calibration.json")
    other = Judge(loaded, calibration).judge(vacancy(), step=0, frame=0).check
    mine = check(vacancy())
    assert dict(other.excesses) == dict(mine.excesses)
    assert other.n_colder == mine.n_colder
