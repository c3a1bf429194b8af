"""Fixed vectors that stand for the elements in rows that see chemistry."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["N_CHANNELS", "element_vectors"]

#: Degrees per unit of the atomic number. Of all triples of whole numbers, eight keep the two nearest of the elements 1
#: to 118 farthest apart, 0.765; with this one of the eight elements up to ten places apart in the periodic table, as in
#: many alloys, are at least 1.11 apart.
ANGLES = (27, 117, 165)

#: Numbers per element.
N_CHANNELS = 2 * len(ANGLES)


def element_vectors(numbers: ArrayLike) -> NDArray[np.float64]:
    """Vectors of length 1 for atomic numbers (n,), shape (n, 6): the same for an element in every frame.

    The cosines and sines of 27, 117 and 165 degrees times the atomic number, divided by sqrt(3). The distance between
    two elements depends on the difference of their atomic numbers alone: at least 0.765, at most 2, half of the pairs
    above 1.4. The vectors say which elements differ, not how alike they are: to a model with parameters of its own for
    each element, niobium in place of tantalum is as new as oxygen would be.

    References
    ----------
    Fixed vectors in place of one channel per element: M. J. Willatt, F. Musil, M. Ceriotti, Phys. Chem. Chem. Phys. 20,
    29661 (2018), doi:10.1039/C8CP05921G; J. P. Darby, J. R. Kermode, G. Csányi, npj Comput. Mater. 8, 166 (2022),
    doi:10.1038/s41524-022-00847-y.
    """
    # whole degrees first: the vectors of the same element are then equal to the last bit for any Z
    degrees = np.asarray(numbers, dtype=np.int64)[..., None] * np.array(ANGLES) % 360
    radians = np.deg2rad(degrees)
    return np.asarray(np.concatenate((np.cos(radians), np.sin(radians)), axis=-1) / np.sqrt(len(ANGLES)))
