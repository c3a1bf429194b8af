"""Frames of callers that have no Atoms: arrays in, checked one by one."""

from typing import Any, TypedDict

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from quests_md._arguments import is_number

from .tensors import SeenNumbers, frame_of_tensors, is_tensor_on

__all__ = ["ArrayFrames", "FurtherArrays", "in_memory"]

#: Largest number that an atom may have as its identity.
LARGEST_ID = 2**63 - 1


class FurtherArrays(TypedDict, total=False):
    """What a frame of arrays may have besides; see `Monitor.check_arrays`."""

    momenta: ArrayLike | None
    velocities: ArrayLike | None
    masses: ArrayLike | None
    ids: ArrayLike | None
    energy: float | None
    forces: ArrayLike | None


class ArrayFrames:
    """Makes frames of arrays, which are copied; arguments and errors are those of `Monitor.check_arrays`."""

    def __init__(self) -> None:
        self._seen = SeenNumbers()

    def frame(
        self,
        positions: ArrayLike,
        cell: ArrayLike | None,
        pbc: ArrayLike,
        numbers: ArrayLike,
        further: FurtherArrays,
        *,
        device: str | None = None,
    ) -> Atoms:
        """The frame; where positions are a tensor on this device of torch, its arrays stay there.

        Numbers that are not finite are left to the judge: the simulation may have exploded.
        """
        wrong = sorted(set(further) - set(FurtherArrays.__annotations__))
        if wrong:
            names = ", ".join(FurtherArrays.__annotations__)
            raise TypeError(f"check_arrays: expected arguments named {names}, got {wrong[0]!r}")
        box = np.zeros((3, 3)) if cell is None else _numbers("cell", in_memory(cell), (3, 3), "Å, a vector in each row")
        if not is_tensor_on(positions, device):
            return _frame_of_arrays(positions, box, pbc, numbers, further)
        n = len(positions) if np.ndim(positions) else 0  # type: ignore[arg-type]
        ids, energy = further.get("ids"), further.get("energy")
        return frame_of_tensors(
            positions,
            box,
            _periodic(in_memory(pbc)),
            numbers,
            self._seen,
            {name: array for name, array in further.items() if name not in ("ids", "energy")},
            ids=None if ids is None else _identities(in_memory(ids), n),
            energy=None if energy is None else _energy(in_memory(energy)),
        )


def in_memory(given: Any) -> Any:
    """A tensor of any device as an array; anything else as it is."""
    return given.detach().cpu().numpy() if hasattr(given, "detach") else given


def _frame_of_arrays(
    positions: ArrayLike,
    box: NDArray[np.float64],
    pbc: ArrayLike,
    numbers: ArrayLike,
    further: FurtherArrays,
) -> Atoms:
    """A frame in the memory of the process."""
    momenta, velocities, masses, ids, energy, forces = (
        further.get(name) for name in ("momenta", "velocities", "masses", "ids", "energy", "forces")
    )
    places = _numbers("positions", positions, (None, 3), "Å")
    n = len(places)
    atoms = Atoms(numbers=_atomic_numbers(numbers, n), positions=places, cell=box, pbc=_periodic(pbc))
    if masses is not None:
        atoms.set_masses(_masses(masses, n))
    if momenta is not None and velocities is not None:
        raise ValueError("velocities: expected momenta or velocities, got both; leave one of them out")
    if momenta is not None:
        atoms.arrays["momenta"] = _numbers("momenta", momenta, (n, 3), "(amu eV)^(1/2)")
    elif velocities is not None:
        speeds = _numbers("velocities", velocities, (n, 3), "Å/fs")
        with np.errstate(over="ignore"):  # then it has exploded
            atoms.arrays["momenta"] = speeds / units.fs * atoms.get_masses()[:, None]
    if ids is not None:
        atoms.arrays["id"] = _identities(ids, n)
    results: dict[str, Any] = {}
    if energy is not None:
        results["energy"] = _energy(energy)
    if forces is not None:
        results["forces"] = _numbers("forces", forces, (n, 3), "eV/Å")
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _array(argument: str, given: Any, expected: str) -> NDArray[Any]:
    """Whatever numpy makes of it; ValueError where that is nothing, as of a tensor on another device."""
    try:
        return np.asarray(given)
    except Exception as exc:  # foreign arrays raise what they like
        raise ValueError(
            f"{argument}: expected {expected}, got {type(given).__name__} that numpy does not take ({exc}); give an "
            "array in the memory of the process, of a tensor tensor.detach().cpu().numpy(), or put the reference on "
            "the device by reference.to(...)"
        ) from exc


def _numbers(argument: str, given: Any, shape: tuple[int | None, ...], unit: str) -> NDArray[np.float64]:
    """A copy in float64 of an array of this shape; None: any length."""
    asked = ", ".join("n" if length is None else str(length) for length in shape)
    expected = f"numbers ({asked}) in {unit}"
    array = _array(argument, given, expected)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{argument}: expected {expected}, got {_said(array)}")
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{argument}: expected {expected}, got shape {array.shape}")
    with np.errstate(over="ignore"):  # of longer floats
        return array.astype(np.float64)


def _integers(argument: str, given: Any, n: int, what: str) -> NDArray[Any]:
    expected = f"{what} ({n},), one for each atom"
    array = _array(argument, given, expected)
    if array.shape != (n,):
        raise ValueError(f"{argument}: expected {expected}, got shape {array.shape}")
    if array.dtype.kind not in "iu" and n > 0:
        raise ValueError(f"{argument}: expected {expected}, got {_said(array)}")
    return array


def _atomic_numbers(given: Any, n: int) -> NDArray[np.int64]:
    array = _integers("numbers", given, n, "atomic numbers")
    most = len(chemical_symbols) - 1
    wrong = np.flatnonzero((array < 1) | (array > most))
    if len(wrong):
        raise ValueError(
            f"numbers: expected atomic numbers from 1 to {most}, got {array[wrong[0]]} for atom {wrong[0]}"
        )
    return array.astype(np.int64)


def _identities(given: Any, n: int) -> NDArray[np.int64]:
    array = _integers("ids", given, n, "integers")
    wrong = np.flatnonzero((array < 0) | (array > LARGEST_ID))
    if len(wrong):
        raise ValueError(f"ids: expected integers of 0 or more, got {array[wrong[0]]} for atom {wrong[0]}")
    values, first, counts = np.unique(array, return_index=True, return_counts=True)
    if len(values) < n:
        twice = int(counts.argmax())
        raise ValueError(
            f"ids: expected a number of its own for each atom, got {values[twice]} for {counts[twice]} atoms, for atom "
            f"{first[twice]} first"
        )
    return array.astype(np.int64)


def _masses(given: Any, n: int) -> NDArray[np.float64]:
    array = _numbers("masses", given, (n,), "amu")
    wrong = np.flatnonzero(~((array > 0) & (array < np.inf)))
    if len(wrong):
        raise ValueError(f"masses: expected positive finite numbers in amu, got {array[wrong[0]]} for atom {wrong[0]}")
    return array


def _periodic(given: Any) -> NDArray[np.bool_]:
    """Three of True and False; 1 and 0 serve too."""
    expected = "True or False, or three of them"
    array = _array("pbc", given, expected)
    if array.shape not in ((), (3,)):
        raise ValueError(f"pbc: expected {expected}, got shape {array.shape}")
    if array.dtype.kind not in "biu" or not np.isin(array, (0, 1)).all():
        raise ValueError(f"pbc: expected {expected}, got {given!r}")
    return np.broadcast_to(array.astype(bool), 3).copy()


def _energy(given: Any) -> float:
    array = _array("energy", given, "a number in eV")
    value = array.item() if array.size == 1 else given
    if not is_number(value):
        raise ValueError(f"energy: expected a number in eV, got {given!r}")
    return float(value)


def _said(array: NDArray[Any]) -> str:
    return "numbers of different lengths, or no numbers" if array.dtype == object else f"type {array.dtype}"
