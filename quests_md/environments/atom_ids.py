"""What tells atoms apart, in whatever order a host gives them: their identities, and the symbols of their elements."""

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

__all__ = ["element_symbol", "hashed", "identities"]


def identities(atoms: Atoms) -> NDArray[np.uint64]:
    """(n_atoms,) the numbers that stay with the atoms: `arrays["id"]` where present, else their indices."""
    return np.asarray(atoms.arrays.get("id", np.arange(len(atoms)))).astype(np.uint64)


def hashed(identities: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """(n,) numbers that look random and are always the same for an identity, so that a sample of atoms stays the same.

    References
    ----------
    splitmix64: Steele, Lea, Flood, OOPSLA (2014), doi:10.1145/2714064.2660195.
    """
    # arrays of integers wrap around silently, as wanted here; numpy's integers would warn
    x = identities + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)


def element_symbol(number: int) -> str:
    """Chemical symbol of an atomic number; the number itself as text where there is no such element."""
    return str(chemical_symbols[number]) if 0 <= number < len(chemical_symbols) else str(number)
