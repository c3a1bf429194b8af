"""Which bandwidth a reference of mixed elements wants, in words."""

import math

import numpy as np

from quests_md.engine import BANDWIDTH
from quests_md.environments import AVERAGED_SHARE, inner_descriptor
from quests_md.reference import Reference

from .calibration import Calibration
from .levels import GUESS

__all__ = ["bandwidth_advice"]

#: 1/Å, times the root of the number of elements that mix at random: a bandwidth for rows that see chemistry.
MIXED = 0.02


def bandwidth_advice(reference: Reference, calibration: Calibration) -> str | None:
    """Say that the bandwidth is small for a reference of mixed elements, and which would do; None where it is not.

    Rows that tell elements apart are farther from each other where elements mix at random, by chance, than thermal
    motion takes them. Advised is who has such rows of several elements, a bandwidth below that of the rule (0.02
    sqrt(m) 1/Å with `chemistry`, 0.015 m with `elements`, 0.4 times that for averaged rows), and landmarks of which
    more than half have dH > 0 with respect to other groups: less near them than one row at the place itself.
    """
    descriptor, landmarks = inner_descriptor(reference.descriptor), calibration.landmarks
    if descriptor is None or not (descriptor.chemistry or descriptor.elements) or landmarks is None:
        return None
    numbers = np.union1d(reference.numbers, reference.arrays.pair_elements)
    m = int(descriptor.is_neighbor(numbers).sum())
    wanted = MIXED * math.sqrt(m) if descriptor.chemistry else BANDWIDTH * m
    wanted = float(f"{wanted if descriptor.average is None else AVERAGED_SHARE * wanted:.2g}")
    is_sparse = len(landmarks.usual) > 0 and float(np.median(landmarks.usual)) > GUESS
    if m < 2 or reference.bandwidth >= wanted or not is_sparse:
        return None
    return (
        f"h = {reference.bandwidth} 1/Å is small here: more than half of the landmarks have nothing near them in other "
        f"groups, as where elements mix at random, and levels are wide.\nFor {m} elements that mix h = {wanted} is "
        f"about right: reference.with_bandwidth({wanted}), or --bandwidth {wanted} of quests-md reference build"
    )
