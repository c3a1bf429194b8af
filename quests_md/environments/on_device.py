"""Rows of frames that are on a device of torch, made there for all frames of a batch at once."""

import math
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md.errors import FrameError

from .contacts import limits_of
from .descriptor import AVERAGE, Descriptor
from .neighbours import PairDistances, lattice
from .tensor_frames import TensorBatch, place_of

if TYPE_CHECKING:
    from .torch_rows import RowsOnDevice

__all__ = ["can_be_made_there", "fetched", "rows_of_batch", "surroundings"]

#: Å by which what is cut out of a frame reaches farther than what is asked for.
SLACK = 0.01


def can_be_made_there(descriptor: object) -> TypeGuard[Descriptor]:
    """Whether the rows of a descriptor can be made on a device: those of a `Descriptor` with no more than k and cutoff.

    Others are made on the CPU.
    """
    return isinstance(descriptor, Descriptor) and descriptor == Descriptor(descriptor.k, descriptor.cutoff)


def rows_of_batch(descriptor: Descriptor, batch: TensorBatch, pair_distances: PairDistances) -> "RowsOnDevice":
    """Rows of all frames of a batch, and their averages over 12 neighbours; `pair_distances`: see `close_pairs`."""
    from .torch_facts import system_of_atoms  # torch takes a second to import
    from .torch_rows import rows_on_device

    vectors, inverses = _lattices(batch)

    elements, species = np.unique(batch.atomic_numbers, return_inverse=True)
    sent = (batch.positions.new_tensor(array) for array in (vectors, inverses))
    return rows_on_device(
        batch.positions,
        system_of_atoms(batch),
        *sent,
        k=descriptor.k,
        cutoff=descriptor.cutoff,
        n_average=AVERAGE,
        species=batch.positions.new_tensor(species).long(),
        limits=batch.positions.new_tensor(limits_of(elements, pair_distances)),
    )


def surroundings(frame: Atoms, atoms: NDArray[np.int64], reach: float) -> tuple[Atoms, NDArray[np.int64]]:
    """All that is within `reach` Å of some atoms (m,), or of their images, as a frame, and the places of these in it.

    The frame may hold more, in the order of the frame, with elements, positions and cell alone.
    """
    batch, place = _place(frame)
    positions = batch.positions[batch.here(place)]
    inverse = positions.new_tensor(_lattices(batch)[1][place])
    fractions = positions @ inverse
    within = (reach + SLACK) * inverse.norm(dim=0) + 1e-9
    is_near = positions.new_zeros(len(positions)) > 0.0
    for atom in fractions[positions.new_tensor(atoms).long()]:
        apart = (fractions - atom).abs() % 1.0
        is_near |= (apart.minimum(1.0 - apart) <= within).all(dim=1)
    chosen = is_near.nonzero()[:, 0].cpu().numpy()
    return fetched(frame, chosen), np.searchsorted(chosen, atoms)


def fetched(frame: Atoms, atoms: NDArray[np.int64]) -> Atoms:
    """Some atoms of a frame, with nothing but elements, positions and cell: no others leave the device."""
    batch, place = _place(frame)
    positions = batch.positions[batch.here(place)]
    chosen = positions[positions.new_tensor(atoms).long()].cpu().numpy()
    return Atoms(numbers=frame.numbers[atoms], positions=chosen, cell=frame.cell, pbc=frame.pbc)


def _place(frame: Atoms) -> tuple[TensorBatch, int]:
    found = place_of(frame)
    if found is None:
        raise TypeError("frame: expected one that is on a device")
    return found


def _lattices(batch: TensorBatch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lattice vectors (s, 3, 3) and inverses (s, 3, 3) of all systems, 0 along directions that are not periodic.

    NaN for systems whose cell is of no use.
    """
    return batch.once("lattices", lambda: _made_lattices(batch))  # type: ignore[no-any-return]


def _made_lattices(batch: TensorBatch) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    vectors, inverses = np.zeros_like(batch.cells), np.zeros_like(batch.cells)
    for i, (cell, pbc) in enumerate(zip(batch.cells, batch.pbc, strict=True)):
        try:
            found = lattice(np.asarray(cell, np.float64).tobytes(), tuple(pbc.tolist()))
        except FrameError:
            vectors[i] = inverses[i] = math.nan
        else:
            vectors[i][pbc], inverses[i][:, pbc] = found
    return vectors, inverses
