"""Who is told that a bandwidth is small: references of elements that mix at random, by rows that tell them apart."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk

from quests_md import Descriptor, Monitor, Reference, calibrate
from quests_md.calibration import bandwidth_advice
from quests_md.show import reference_lines

pytestmark = pytest.mark.filterwarnings("ignore")  # of references as small as these


def mixed(seed, symbols=("Cu", "Au")):
    atoms = bulk("Cu", "fcc", a=3.87, cubic=True) * (2, 2, 3)
    rng = np.random.default_rng(seed)
    atoms.symbols[:] = rng.choice(symbols, len(atoms))
    atoms.positions += rng.normal(scale=0.08, size=(len(atoms), 3))
    return atoms


def ordered(seed):
    atoms = bulk("CuAu", "cesiumchloride", a=3.0) * (3, 3, 3)
    atoms.rattle(0.08, seed=seed)
    return atoms


def advice_of(frames, descriptor, bandwidth=None):
    reference = Reference.from_frames(frames, descriptor=descriptor, bandwidth=bandwidth, groups="frame")
    return bandwidth_advice(reference, calibrate(reference))


@pytest.mark.parametrize(
    ("descriptor", "wanted"),
    [
        (Descriptor(chemistry=True), "0.028"),
        (Descriptor(chemistry=True, average=12), "0.011"),
        (Descriptor(elements=("Cu", "Au")), "0.03"),
    ],
)
def test_who_mixes_elements_at_random_is_told_a_bandwidth_that_ends_it(descriptor, wanted):
    frames = [mixed(seed) for seed in range(8)]
    advice = advice_of(frames, descriptor)
    assert f"reference.with_bandwidth({wanted})" in advice
    assert f"h = {descriptor.bandwidth} 1/Å is small here" in advice
    assert "For 2 elements" in advice
    assert advice_of(frames, descriptor, float(wanted)) is None


@pytest.mark.parametrize(
    ("frames", "descriptor"),
    [
        ([mixed(seed) for seed in range(8)], Descriptor()),  # blind to chemistry
        ([ordered(seed) for seed in range(8)], Descriptor(chemistry=True)),
        ([ordered(seed) for seed in range(8)], Descriptor(elements=("Cu", "Au"))),
        ([mixed(seed, ("Cu",)) for seed in range(8)], Descriptor(chemistry=True)),
        ([mixed(0)], Descriptor(chemistry=True)),  # nothing can be held out
    ],
)
def test_who_is_not(frames, descriptor):
    assert advice_of(frames, descriptor) is None


def test_it_is_said_at_build_and_at_preflight():
    frames = [mixed(seed) for seed in range(8)]
    reference = Reference.from_frames(frames, descriptor=Descriptor(chemistry=True), groups="frame")
    calibration = calibrate(reference)
    assert bandwidth_advice(reference, replace(calibration, landmarks=None)) is None
    lines = reference_lines(reference, calibration)
    assert any(line.startswith("bandwidth   h = 0.015") for line in lines)
    with Monitor(reference, calibration, log=None) as monitor:
        said = " ".join(monitor.preflight(mixed(99)).split())
    assert "bandwidth h = 0.015 1/Å is small here" in said
    assert "--bandwidth 0.028" in said
