"""What a reference cannot see, in words, and which rows would."""

import numpy as np
from ase.data import chemical_symbols

from quests_md.environments import inner_descriptor

from .reference import Reference

__all__ = ["chemistry_advice"]


def chemistry_advice(reference: Reference) -> str | None:
    """Say what rows that are blind to chemistry miss in a reference of several elements; None where nothing is missed.

    Nothing is missed with `chemistry` or `elements`, if only one element is seen as a neighbour, or, as far as is
    known, by a descriptor of one's own.
    """
    descriptor = inner_descriptor(reference.descriptor)
    if descriptor is None or descriptor.chemistry or descriptor.elements:
        return None
    numbers = np.union1d(reference.numbers, reference.arrays.pair_elements)
    seen = [chemical_symbols[z] for z in numbers[descriptor.is_neighbor(numbers)]]
    if len(seen) < 2:
        return None
    return (
        f"the rows are blind to which element sits where: atoms of {seen[0]} and {seen[1]} that change places, or mix "
        "as never before, may pass unseen.\nA reference built with Descriptor(chemistry=True) sees them "
        "(quests-md reference build --chemistry)"
    )
