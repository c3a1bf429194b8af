"""What a frame itself says before any environment is looked at: numbers of the simulation that it comes from."""

import hashlib
import math
from typing import Any

import numpy as np
from ase import Atoms

__all__ = ["cached_energy", "cached_results", "frame_digest", "non_finite_atoms", "temperature_K", "volume_per_atom"]


def frame_digest(atoms: Atoms) -> str:
    """Checksum of positions, cell and atomic numbers, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (atoms.positions, atoms.cell.array, atoms.numbers):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def cached_results(atoms: Atoms) -> dict[str, Any]:
    """What the calculator has computed for exactly this frame; never starts a calculation."""
    results = getattr(atoms.calc, "results", None)
    try:
        if not isinstance(results, dict) or atoms.calc.calculation_required(atoms, ["energy"]):
            return {}
    except Exception:  # a foreign calculator that cannot answer must not stop a run
        return {}
    return results


def cached_energy(atoms: Atoms) -> float | None:
    """Energy per atom in eV if the calculator has computed it for exactly this frame; never starts a calculation."""
    energy = cached_results(atoms).get("energy")
    try:
        return None if energy is None or len(atoms) == 0 else float(energy) / len(atoms)
    except Exception:  # a foreign calculator may hold anything
        return None


def non_finite_atoms(atoms: Atoms) -> tuple[tuple[int, ...], str]:
    """Atoms whose momenta or forces are not finite numbers, and in words what is not finite; empty: nothing is.

    Of forces and energy only those that the calculator has computed already are looked at.
    """
    results = cached_results(atoms)
    arrays = {"momenta": atoms.arrays.get("momenta"), "forces": results.get("forces")}
    for name, array in arrays.items():
        if array is not None and np.shape(array) == (len(atoms), 3) and not np.isfinite(array).all():
            found = np.flatnonzero(~np.isfinite(array).all(axis=1))
            return tuple(found.tolist()), f"the {name} of {len(found)} atoms are not finite, of atom {found[0]} first"
    energy = results.get("energy")
    if isinstance(energy, float | np.floating) and not math.isfinite(energy):
        return (), "the energy is not finite"
    return (), ""


def temperature_K(atoms: Atoms) -> float | None:
    """Kinetic temperature in K; None for frames without momenta."""
    if not atoms.has("momenta") or atoms.get_number_of_degrees_of_freedom() <= 0:
        return None
    return float(atoms.get_temperature())


def volume_per_atom(atoms: Atoms) -> float | None:
    """Å^3 per atom; None unless the cell is finite and periodic in three directions."""
    if len(atoms) == 0 or not atoms.pbc.all() or not np.isfinite(atoms.cell.array).all():
        return None
    return abs(float(atoms.cell.volume)) / len(atoms)
