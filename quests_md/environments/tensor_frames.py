"""Frames whose arrays are on a device of torch: they come to the CPU one by one, where somebody asks for them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

__all__ = ["TensorBatch", "TensorFrame", "place_of"]


class LateArrays(dict[str, Any]):
    """Arrays by name; those that are `late` are fetched when they are first asked for."""

    def __init__(self, known: dict[str, Any], late: dict[str, Callable[[], Any]]) -> None:
        super().__init__(known)
        self._late = late

    def __missing__(self, name: str) -> Any:
        self[name] = self._late[name]()
        return self[name]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._late

    def get(self, name: str, default: Any = None) -> Any:
        """The array of this name, if there is one."""
        return self[name] if name in self else default  # noqa: SIM401 - this is what it would call

    def __iter__(self) -> Iterator[str]:
        here = list(super().keys())
        return iter([*here, *(name for name in self._late if name not in here)])

    def keys(self) -> Any:
        """All names; their arrays are fetched, as by the methods after this one."""
        return self._fetched().keys()

    def values(self) -> Any:
        """All arrays."""
        return self._fetched().values()

    def items(self) -> Any:
        """All names with their arrays."""
        return self._fetched().items()

    def __len__(self) -> int:
        return len(self._fetched())

    def __reduce__(self) -> Any:
        return dict, (self._fetched(),)

    def _fetched(self) -> dict[str, Any]:
        return {name: self[name] for name in {**dict.fromkeys(super().keys()), **self._late}}


class KnownResults:
    """A calculator that has nothing but results for one frame, and calculates nothing."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results

    def calculation_required(self, atoms: Atoms, properties: Sequence[str]) -> bool:
        """Whether one of the properties is not at hand."""
        return not all(name in self.results for name in properties)


class TensorFrame(Atoms):
    """A frame of a `TensorBatch`: Atoms whose positions, momenta and forces are fetched from the device when needed."""

    batch: "TensorBatch | None" = None
    """The batch; None of frames that were made of this one by choosing atoms."""
    place: int = 0
    """Place in the batch."""

    def __len__(self) -> int:
        return len(self.arrays["numbers"])

    def copy(self) -> Atoms:
        """A copy in the memory of the process, without the calculator."""
        plain = Atoms(cell=self.cell, pbc=self.pbc, info=self.info)
        plain.arrays = {name: np.array(array) for name, array in self.arrays.items()}
        return plain


class TensorBatch:
    """Frames of several systems on one device: what is asked of one of them is made for all of them at once.

    Parameters
    ----------
    positions, numbers
        Tensors (n, 3) in Å, float64, and (n,), system by system. The batch keeps them: they must not change.
    atomic_numbers
        (n,) the same numbers in the memory of the process.
    counts
        Atoms of each system.
    cells, pbc
        (s, 3, 3) in Å and (s, 3), in the memory of the process.
    further
        Tensors (n, ...) of "momenta", "forces" and "masses", where there are any.
    energies
        (s,) in eV; None: not known.
    """

    def __init__(
        self,
        positions: Any,
        numbers: Any,
        atomic_numbers: NDArray[np.int64],
        counts: Sequence[int],
        cells: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        further: dict[str, Any],
        energies: Sequence[float] | None = None,
    ) -> None:
        self.positions, self.numbers, self.further = positions, numbers, further
        self.atomic_numbers = atomic_numbers
        self.ends = np.cumsum(counts)
        self.cells, self.pbc, self.energies = cells, pbc, energies
        self.made: dict[Any, Any] = {}
        """What was asked of a system, for all of them, by who asked for it."""

    @property
    def device(self) -> str:
        """The device, as `require_device` names it."""
        return str(self.positions.device)

    def here(self, place: int) -> slice:
        """The atoms of a system."""
        return slice(int(self.ends[place - 1]) if place else 0, int(self.ends[place]))

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made when it is first asked for."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def frame(self, place: int, known: dict[str, Any] | None = None) -> TensorFrame:
        """The frame of a system; `known`: further arrays per atom, in the memory of the process."""
        here = self.here(place)

        def fetched(tensor: Any) -> Callable[[], NDArray[np.float64]]:
            return lambda: np.array(tensor[here].detach().cpu().numpy(), np.float64)

        late = {name: fetched(tensor) for name, tensor in self.further.items()}
        results: dict[str, Any] = {} if self.energies is None else {"energy": float(self.energies[place])}
        forces = {"forces": late.pop("forces")} if "forces" in late else {}
        frame = TensorFrame(cell=self.cells[place], pbc=self.pbc[place])
        numbers = {"numbers": self.atomic_numbers[here], **(known or {})}
        frame.arrays = LateArrays(numbers, {"positions": fetched(self.positions), **late})
        frame.batch, frame.place = self, place
        if results or forces:
            frame.calc = KnownResults(LateArrays(results, forces))
        return frame


def place_of(atoms: Atoms) -> tuple[TensorBatch, int] | None:
    """The batch of a frame, and its place there; None: the frame is in the memory of the process."""
    if not isinstance(atoms, TensorFrame) or atoms.batch is None:
        return None
    return atoms.batch, atoms.place
