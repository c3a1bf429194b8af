"""What descriptors share that describe another frame than the given one by `Descriptor`."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .descriptor import Descriptor

__all__ = ["Wrapped"]


class Wrapped:
    """Answers for the `Descriptor` inside: which atoms have rows, which are seen, how wide rows are.

    Parameters
    ----------
    descriptor
        Descriptor of the frame that is described in the end, default `Descriptor()`.

    Raises
    ------
    TypeError
        If `descriptor` is no `Descriptor`.
    """

    def __init__(self, descriptor: Descriptor | None) -> None:
        if descriptor is not None and not isinstance(descriptor, Descriptor):
            raise TypeError(f"descriptor: expected a Descriptor, got {descriptor!r}")
        self.descriptor = Descriptor() if descriptor is None else descriptor

    @property
    def width(self) -> int:
        """Numbers per row."""
        return self.descriptor.width

    def is_center(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether atoms of each atomic number have a row."""
        return self.descriptor.is_center(numbers)

    def is_neighbor(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """Whether atoms of each atomic number are seen as neighbours."""
        return self.descriptor.is_neighbor(numbers)
