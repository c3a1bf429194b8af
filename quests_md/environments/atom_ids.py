"""Numbers by which atoms are known, in whatever order a host gives them."""

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

__all__ = ["hashed", "identities"]


def identities(atoms: Atoms) -> NDArray[np.uint64]:
    """(n_atoms,) `arrays["id"]` where present, else indices."""
    return np.asarray(atoms.arrays.get("id", np.arange(len(atoms)))).astype(np.uint64)


def hashed(identities: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """(n,) numbers that look random, by which a sample of atoms is drawn that stays the same.

    References
    ----------
    splitmix64: Steele, Lea, Flood, OOPSLA (2014), doi:10.1145/2714064.2660195.
    """
    # arrays wrap around silently
    x = identities + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)
