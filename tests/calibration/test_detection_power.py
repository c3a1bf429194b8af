"""What levels would catch, against frames judged one by one with a reference that lacks them."""

import numpy as np
import pytest
from systems import H, alloy, alloy_reference, calibration_of, copper, null_of

from quests_md import Descriptor, Reference, calibrate, delta_entropy
from quests_md.calibration.detection_power import DISTURBANCES, power, sight
from quests_md.calibration.statistics import STATISTICS

FRAMES = [copper(seed=i, rattle=0.06) for i in range(12)]


@pytest.fixture(scope="module")
def reference():
    return Reference.from_frames(FRAMES, groups="frame")


def naive_mean(reference, i, scale):
    """Mean dH of frame i, larger by a factor, against all other frames."""
    frame = reference.frame(i)
    frame.set_cell(frame.cell.array * scale, scale_atoms=True)
    others = reference.rows[reference.arrays.atom_frame != i]
    return delta_entropy(reference.descriptor(frame), reference=others, bandwidth=reference.bandwidth).mean()


@pytest.mark.parametrize(("name", "volume"), [("as they are", 1.0), ("volume +5 %", 1.05), ("volume -5 %", 0.95)])
def test_shares_are_those_of_frames_judged_without_their_group(reference, name, volume):
    means = [naive_mean(reference, i, volume ** (1 / 3)) for i in range(len(FRAMES))]
    level = float(np.median(means))
    calibration = calibration_of(
        null_of([level] * 200, 1, "dh_mean"), null_of([1e9] * 200), reference=reference, statistics=("dh_mean",)
    )
    found = {entry.disturbance: entry for entry in power(reference, calibration)}[name]
    assert found.n_frames == len(FRAMES)
    assert found.share == found.shares["dh_mean"] == pytest.approx(np.mean(np.array(means) > level), abs=1 / 12 + 1e-9)


def test_every_statistic_has_its_share_and_any_is_at_least_the_largest(reference):
    calibration = calibrate(reference, false_alarms=0.3, statistics=tuple(STATISTICS))
    found = power(reference, calibration)
    assert [entry.disturbance for entry in found] == list(DISTURBANCES)
    for entry in found:
        assert set(entry.shares) == set(STATISTICS)
        assert max(entry.shares.values()) <= entry.share <= 1
    shares = {entry.disturbance: entry.share for entry in found}
    assert shares["as they are"] <= 0.5
    assert shares["rattled 0.2 Å"] == 1


def test_frames_and_disturbances_follow_the_seed_not_the_threads(reference):
    calibration = calibrate(reference, false_alarms=0.2)
    assert power(reference, calibration, rng=3) == power(reference, calibration, rng=3, threads=2)


def test_the_reference_is_left_as_it_was(reference):
    before = reference.frame(0).positions.copy()
    power(reference, calibrate(reference, false_alarms=0.2))
    assert (reference.frame(0).positions == before).all()


def test_nothing_is_said_where_frames_cannot_be_made_again():
    frames = [alloy(seed=i) for i in range(4)]
    symbol = frames[0].get_chemical_symbols()[0]
    reference = Reference.from_frames(frames, descriptor=Descriptor(centers=(symbol,)), groups="frame")
    assert power(reference, calibrate(reference, false_alarms=0.3)) == []


def test_levels_may_be_those_of_a_larger_system(reference):
    calibration = calibrate(reference, false_alarms=0.3, statistics=("dh_max",))
    own, large = power(reference, calibration), power(reference, calibration, n_atoms=10_000)
    assert all(a.share >= b.share for a, b in zip(own, large, strict=True))


def test_sight_says_what_is_caught_and_what_is_never_seen():
    reference = alloy_reference()
    lines = sight(power(reference, calibrate(reference, false_alarms=0.2)), reference).splitlines()
    assert lines[0] == "8 frames of the reference, disturbed on purpose; the share of them that raises an alarm:"
    assert lines[1].startswith("caught: ")
    blind = "a stacking fault or a twin in a hot crystal, and which element sits where"
    assert lines[-1] == f"not seen with these rows at any level: {blind}"
    one = Reference.from_frames([copper()], bandwidth=H, groups="frame")
    first, last = sight([], one).splitlines()
    assert "what these levels would catch is not known" in first
    assert last == "not seen with these rows at any level: a stacking fault or a twin in a hot crystal"
    seeing = Reference.from_frames([alloy()], descriptor=Descriptor(chemistry=True), groups="frame")
    assert "which element" not in sight([], seeing)


@pytest.mark.parametrize(
    ("level", "words"),
    [
        (1e6, "WITH THESE LEVELS NOTHING SHORT OF an explosion would be seen for certain"),
        (40.0, "WITH THESE LEVELS NOTHING SHORT OF rattled 0.4 Å of every atom would be seen for certain"),
        (-1.0, None),
    ],
)
def test_one_plain_sentence_where_nothing_usual_is_seen(reference, level, words):
    """A broad reference has levels of 100 nats and more, and nobody reads numbers."""
    calibration = calibration_of(
        null_of([level] * 200, 1, "dh_mean"), null_of([1e9] * 200), reference=reference, statistics=("dh_mean",)
    )
    found = power(reference, calibration)
    text = sight(found, reference)
    assert ("WITH THESE LEVELS" in text) == (words is not None)
    assert any(entry.disturbance == "rattled 0.4 Å" for entry in found) == (words is not None)
    if words is not None:
        assert words in text
        assert "give frames of your own material, as the run will have it: calibrate(reference, frames=...)" in text
