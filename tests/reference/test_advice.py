"""What a reference of several elements is said to miss."""

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from quests_md import Descriptor, Minimised, Reference
from quests_md.reference import chemistry_advice

ALLOY = bulk("CuAu", "cesiumchloride", a=3.0)
SALT = bulk("NaCl", "rocksalt", a=5.64)


class OwnRows:
    """Rows that are of no interest."""

    fingerprint = "rows of one's own"

    def __call__(self, atoms):
        return atoms.positions


@pytest.mark.parametrize(
    ("frames", "descriptor", "blind"),
    [
        ([SALT], Descriptor(), True),
        ([SALT], Descriptor(average=12), True),
        ([SALT], Descriptor(centers=("Na",)), True),
        ([SALT], Descriptor(centers=("Na",), neighbors=("Na", "Cl")), True),
        ([ALLOY], Minimised(EMT, "EMT", steps=1), True),
        ([bulk("Cu"), bulk("Au")], Descriptor(), True),
        ([bulk("Cu")], Descriptor(), False),
        ([SALT], Descriptor(chemistry=True), False),
        ([ALLOY], Minimised(EMT, "EMT", descriptor=Descriptor(chemistry=True), steps=1), False),
        ([SALT], Descriptor(elements=("Na", "Cl")), False),
        ([SALT], Descriptor(centers=("Na",), neighbors=("Na",)), False),
        ([SALT], OwnRows(), False),
    ],
)
def test_who_is_advised(frames, descriptor, blind):
    frames = [atoms.repeat(2) for atoms in frames]
    reference = Reference.from_frames(frames, descriptor=descriptor, bandwidth=0.015, groups="frame")
    advice = chemistry_advice(reference)
    assert (advice is not None) == blind
    if advice is not None:
        assert "blind to which element sits where" in advice
        assert "Descriptor(chemistry=True)" in advice


def test_it_names_the_elements():
    reference = Reference.from_frames([SALT], bandwidth=0.015, groups="frame")
    assert "atoms of Na and Cl" in chemistry_advice(reference)
