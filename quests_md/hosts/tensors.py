"""Frames of callers whose arrays are on a device of torch, where they stay: tensors in, checked one by one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import units
from ase.data import atomic_masses, chemical_symbols
from numpy.typing import NDArray

from quests_md.engine import are_same_device
from quests_md.environments import TensorBatch, TensorFrame

__all__ = ["SeenNumbers", "frame_of_tensors", "is_tensor_on", "tensor_batch"]

#: Names of tensors per atom that a batch takes.
OF_ATOMS = ("momenta", "forces", "masses")


class SeenNumbers:
    """Atomic numbers on a device and in the memory of the process, fetched again where they have changed."""

    def __init__(self) -> None:
        self._last: tuple[Any, NDArray[np.int64]] | None = None

    def of(self, tensor: Any) -> NDArray[np.int64]:
        """The numbers (n,) of a tensor; ValueError where they are no atomic numbers."""
        last = self._last
        if last is not None and last[0].shape == tensor.shape and bool((last[0] == tensor).all()):
            return last[1]
        if tensor.is_floating_point() or tensor.is_complex():
            raise ValueError(f"numbers: expected atomic numbers, integers, got type {tensor.dtype}")
        numbers: NDArray[np.int64] = tensor.cpu().numpy().astype(np.int64)
        most = len(chemical_symbols) - 1
        wrong = np.flatnonzero((numbers < 1) | (numbers > most))
        if len(wrong):
            at = wrong[0]
            raise ValueError(f"numbers: expected atomic numbers from 1 to {most}, got {numbers[at]} for atom {at}")
        self._last = tensor.clone(), numbers
        return numbers


def is_tensor_on(array: object, device: str | None) -> bool:
    """Whether something is a tensor of torch on a device, by its name; None: no device."""
    if device is None or not (hasattr(array, "detach") and hasattr(array, "is_floating_point")):
        return False
    return are_same_device(str(getattr(array, "device", "")), device)


def frame_of_tensors(
    positions: Any,
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    numbers: Any,
    seen: SeenNumbers,
    further: Mapping[str, Any],
    *,
    ids: NDArray[np.int64] | None = None,
    energy: float | None = None,
) -> TensorFrame:
    """A frame of tensors on one device, of which positions are copied there; errors as in `Monitor.check_arrays`.

    `further`: tensors or arrays "momenta" or "velocities", "masses" and "forces"; `seen`: of the frame before.
    """
    n = len(positions) if positions.ndim else 0
    places = _checked("positions", positions, positions, (n, 3), "Å")
    atomic = _checked("numbers", numbers, positions, (n,), "atomic numbers", is_whole=True)
    found = seen.of(atomic)
    given = {name: array for name, array in further.items() if array is not None}
    if "momenta" in given and "velocities" in given:
        raise ValueError("velocities: expected momenta or velocities, got both; leave one of them out")
    expected = {
        "momenta": ((n, 3), "(amu eV)^(1/2)"),
        "velocities": ((n, 3), "Å/fs"),
        "masses": ((n,), "amu"),
        "forces": ((n, 3), "eV/Å"),
    }
    tensors = {name: _checked(name, array, positions, *expected[name]) for name, array in given.items()}
    masses = tensors.get("masses")
    if masses is not None and not bool(((masses > 0) & masses.isfinite()).all()):
        raise ValueError("masses: expected positive finite numbers in amu, got others")
    if "velocities" in tensors:
        weights = places.new_tensor(atomic_masses[found]) if masses is None else masses
        tensors["momenta"] = tensors.pop("velocities") / units.fs * weights[:, None]
    batch = tensor_batch(
        places, atomic, found, [n], cell[None], pbc[None], tensors, None if energy is None else [energy]
    )
    return batch.frame(0, {} if ids is None else {"id": ids})


def tensor_batch(
    positions: Any,
    numbers: Any,
    atomic_numbers: NDArray[np.int64],
    counts: list[int],
    cells: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    further: Mapping[str, Any],
    energies: list[float] | None,
) -> TensorBatch:
    """A `TensorBatch` of copies of positions and numbers, and of further tensors as they are."""
    kept = {name: tensor.detach() for name, tensor in further.items() if name in OF_ATOMS}
    places = positions.detach().double().clone()
    return TensorBatch(places, numbers.detach().clone(), atomic_numbers, counts, cells, pbc, kept, energies)


def _checked(argument: str, given: Any, like: Any, shape: tuple[int, ...], unit: str, *, is_whole: bool = False) -> Any:
    """A tensor of this shape on the device of another one."""
    import torch  # it is there, and takes a second to import

    tensor = given.detach() if hasattr(given, "detach") else torch.as_tensor(np.asarray(given))
    expected = f"numbers ({', '.join(map(str, shape))}) in {unit}" if not is_whole else f"{unit} ({shape[0]},)"
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{argument}: expected {expected}, got shape {tuple(tensor.shape)}")
    if tensor.is_complex() or str(tensor.dtype) == "torch.bool":
        raise ValueError(f"{argument}: expected {expected}, got type {tensor.dtype}")
    tensor = tensor.to(like.device)
    return tensor if is_whole else tensor.double()
