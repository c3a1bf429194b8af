"""What a frame says before its environments are looked at: who its atoms are, and numbers of its simulation."""

import hashlib
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase import Atoms, units
from ase.data import chemical_symbols
from numpy.typing import NDArray

from quests_md.engine import undisturbed

from .tensor_frames import place_of

if TYPE_CHECKING:
    from .torch_facts import SystemFacts

__all__ = [
    "FrameFacts",
    "element_symbol",
    "frame_digest",
    "frame_facts",
    "hashed",
    "identities",
    "results_at_hand",
    "without_bias",
]


class FrameFacts(NamedTuple):
    """What a frame says; of a calculator only results that it has for exactly this frame are read."""

    identities: NDArray[np.uint64]  # (n_atoms,)
    digest: str
    temperature_K: float | None
    """Kinetic temperature in K; None for frames without momenta."""
    fastest_K: float | None
    """Kinetic energy of the fastest atom as a temperature, 2/3 of it over k_B, K; None for frames without momenta."""
    volume_per_atom: float | None
    """Å^3 per atom; None unless the cell is finite and periodic in three directions."""
    energy_per_atom: float | None
    """eV per atom; None where the calculator has no energy."""
    not_finite: str
    """Which of momenta, forces and energy are not finite, in words; empty: all are."""
    not_finite_atoms: tuple[int, ...]
    """The atoms whose momenta or forces are not finite."""


def frame_facts(atoms: Atoms) -> FrameFacts:
    """The facts of a frame, which is not changed; no calculation is started."""
    results = results_at_hand(atoms)
    system = _on_device(atoms)
    # arrays on a device stay there, unless it is to be told which of their numbers are not finite
    at, what = _not_finite(atoms, {name: results[name] for name in ("energy",) if name in results}, {})
    if system is None or not system.is_finite:
        at, what = _not_finite(atoms, results, atoms.arrays)
    is_warm = atoms.has("momenta") and atoms.get_number_of_degrees_of_freedom() > 0
    temperature_K = fastest_K = None
    if is_warm and system is not None and system.kinetic is not None and system.fastest is not None:
        temperature_K = 2 * system.kinetic / (atoms.get_number_of_degrees_of_freedom() * units.kB)
        fastest_K = system.fastest / (1.5 * units.kB)
    elif is_warm:
        temperature_K, fastest_K = float(atoms.get_temperature()), _fastest_K(atoms)
    is_bulk = len(atoms) > 0 and atoms.pbc.all() and np.isfinite(atoms.cell.array).all()
    return FrameFacts(
        identities=identities(atoms),
        digest=frame_digest(atoms),
        temperature_K=temperature_K,
        fastest_K=fastest_K,
        volume_per_atom=abs(float(atoms.cell.volume)) / len(atoms) if is_bulk else None,
        energy_per_atom=_energy_per_atom(results.get("energy"), len(atoms)),
        not_finite=what,
        not_finite_atoms=at,
    )


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


def frame_digest(atoms: Atoms) -> str:
    """Checksum of positions, cell and atomic numbers, 16 hexadecimal digits; on a device "t" and 15 others."""
    system = _on_device(atoms)
    if system is not None:
        return system.digest
    digest = hashlib.blake2b(digest_size=8)
    for array in (atoms.positions, atoms.cell.array, atoms.numbers):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _on_device(atoms: Atoms) -> "SystemFacts | None":
    """What was found of a frame on its device; None: its arrays are in the memory of the process."""
    found = place_of(atoms)
    if found is None:
        return None
    from .torch_facts import facts_of_batch  # torch takes a second to import

    batch, place = found
    with undisturbed(batch.device):
        facts: list[SystemFacts] = batch.once("facts", lambda: facts_of_batch(batch))
    return facts[place]


def _fastest_K(atoms: Atoms) -> float:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        kinetic = (atoms.get_momenta() ** 2).sum(axis=1) / (2 * atoms.get_masses())
        return float(kinetic.max()) / (1.5 * units.kB)


def results_at_hand(atoms: Atoms) -> Mapping[str, Any]:
    """What the calculator has computed for exactly this frame; starts no calculation.

    A calculator without `results` (such as those of asap3) is asked for energy and forces, where it says that it has
    them. Of a biased calculator (`EntropyBias`) energy, forces and stress are those without the bias.
    """
    system = None if atoms.calc is None else _on_device(atoms)
    if system is not None and not system.is_placed:  # as a calculator says of a frame that is not equal to itself
        return {}
    results = getattr(atoms.calc, "results", None)
    names = () if atoms.calc is None else _GETTERS
    found = {}
    for name in names:
        with suppress(Exception):  # a foreign calculator that cannot answer must not stop a run
            if not atoms.calc.calculation_required(atoms, [name]):
                if isinstance(results, dict):
                    return without_bias(results)
                found[name] = getattr(atoms.calc, _GETTERS[name])(atoms)
    return found


def without_bias(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """Results of a calculator, those of a biased one (`EntropyBias`) as they are without the bias."""
    if not (names := [name for name in results if str(name).startswith(UNBIASED)]):
        return results  # as they are: values may be on a device still
    unbiased = {name.removeprefix(UNBIASED): results[name] for name in names}
    return {name: value for name, value in results.items() if name != "free_energy"} | unbiased


#: What the names of results begin with that are those of a potential without the bias that a calculator adds.
UNBIASED = "unbiased_"

#: How calculators without `results` are asked.
_GETTERS = {"energy": "get_potential_energy", "forces": "get_forces"}


def _energy_per_atom(energy: Any, n_atoms: int) -> float | None:
    try:
        return None if energy is None or n_atoms == 0 else float(energy) / n_atoms
    except Exception:  # a foreign calculator may hold anything
        return None


def _not_finite(atoms: Atoms, results: Mapping[str, Any], of_atoms: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    arrays = {"momenta": of_atoms.get("momenta"), "forces": results.get("forces")}
    for name, array in arrays.items():
        if array is not None and np.shape(array) == (len(atoms), 3) and not np.isfinite(array).all():
            found = np.flatnonzero(~np.isfinite(array).all(axis=1))
            return tuple(found.tolist()), f"the {name} of {len(found)} atoms are not finite, of atom {found[0]} first"
    energy = results.get("energy")
    if isinstance(energy, float | np.floating) and not math.isfinite(energy):
        return (), "the energy is not finite"
    return (), ""
