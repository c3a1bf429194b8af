"""Frames of a training set whose atoms are far nearer to each other than in the others: have they exploded?"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

__all__ = ["NearestDistances", "frames_too_near"]

#: A frame is too near if its nearest pair of two elements is nearer than this share of the median of the frames with
#: such a pair, and of the sum of their covalent radii. The bonds of Cr2, the shortest, have 0.60 of the radii, and hot
#: melts come nearer.
SHARE = 0.45

#: Fewest frames with a pair, and the part of these that may have exploded: more of them are there on purpose.
FEWEST, FEW = 3, 0.1


class NearestDistances(NamedTuple):
    """Nearest distances of a pair of elements in a frame."""

    smallest: float
    """Å."""
    bins: NDArray[np.unsignedinteger[Any]]
    """(n,) the bin of `PAIR_BIN` that each is in."""


def frames_too_near(frames: Sequence[Mapping[tuple[int, int], NearestDistances]]) -> dict[int, str]:
    """The frames that are too near, and why, in words; `frames` are nearest distances by pair of elements."""
    found: dict[int, str] = {}
    for pair in sorted({pair for frame in frames for pair in frame}):
        having = np.array([i for i, frame in enumerate(frames) if pair in frame and not _is_dimer(frame)], np.int64)
        if len(having) < FEWEST:
            continue
        nearest = np.array([frames[i][pair].smallest for i in having])
        usual, bond = float(np.median(nearest)), float(covalent_radii[list(pair)].sum())
        if usual < SHARE * bond:  # reduced units, or no matter at all: nothing is known of what is too near
            continue
        near = np.flatnonzero(nearest < SHARE * min(usual, bond))
        if len(near) > max(2, FEW * len(having)):
            continue
        for at in near.tolist():
            names = "-".join(chemical_symbols[z] for z in pair)
            what = f"atoms are {nearest[at]:.2g} Å apart ({names}), where the nearest of most frames are {usual:.2f} Å"
            found.setdefault(int(having[at]), what)
    return found


def _is_dimer(frame: Mapping[tuple[int, int], NearestDistances]) -> bool:
    """Whether a frame has two atoms: scans of their distance are a part of many training sets."""
    return sum(len(distances.bins) for distances in frame.values()) <= 2
