"""What the systems of a batch say before their environments are looked at, on a device of torch: a few numbers each."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
from ase.data import atomic_masses

from .tensor_frames import TensorBatch

try:
    import torch
except ImportError:  # said by `devices`, before anything here is used
    torch = None

__all__ = ["SystemFacts", "facts_of_batch", "system_of_atoms"]

#: splitmix64, see `hashed`, with its constants as signed numbers.
STEP, FACTORS, SHIFTS = -7046029254386353131, (-4658895280553007687, -7723592293110705685), (30, 27, 31)


class SystemFacts(NamedTuple):
    """Of one system."""

    digest: str
    """Checksum of positions, cell and numbers, 16 digits and letters; another one than that of arrays on the CPU."""
    kinetic: float | None
    """Kinetic energy, eV; None without momenta."""
    fastest: float | None
    """Kinetic energy of the fastest atom, eV."""
    is_finite: bool
    """Whether momenta and forces are, where there are any."""
    is_placed: bool
    """Whether positions and cell are finite."""


def facts_of_batch(batch: TensorBatch) -> list[SystemFacts]:
    """The facts of all systems: their numbers leave the device together."""
    device, n_systems = batch.positions.device, len(batch.ends)
    system = system_of_atoms(batch)
    numbers = [_checksums(batch, system, n_systems)]
    momenta, forces = batch.further.get("momenta"), batch.further.get("forces")
    if momenta is not None:
        momenta = momenta.detach().double()
        masses = batch.further.get("masses")
        if masses is None:
            masses = torch.from_numpy(np.array(atomic_masses)).to(device)[batch.numbers]
        kinetic = momenta.square().sum(dim=1) / (2.0 * masses.detach().double())
        nothing = torch.zeros(n_systems, dtype=torch.float64, device=device)
        numbers += [
            found.view(torch.int64)
            for found in (nothing.index_add(0, system, kinetic), nothing.scatter_reduce(0, system, kinetic, "amax"))
        ]
    nobody = torch.zeros(n_systems, dtype=torch.int64, device=device)
    n_lost = nobody.index_add(0, system, _not_finite(batch.positions))
    n_strange = nobody
    for vectors in (momenta, forces):
        if vectors is not None:
            n_strange = n_strange.index_add(0, system, _not_finite(vectors))
    sums = torch.stack([*numbers, n_strange, n_lost]).cpu().numpy()
    energies = None if momenta is None else sums[1:3].view(np.float64)
    return [
        SystemFacts(
            _digest(sums[0, i], batch, i),
            None if energies is None else float(energies[0, i]),
            None if energies is None else float(energies[1, i]),
            is_finite=bool(sums[-2, i] == 0),
            is_placed=bool(sums[-1, i] == 0 and np.isfinite(batch.cells[i]).all()),
        )
        for i in range(n_systems)
    ]


def system_of_atoms(batch: TensorBatch) -> Any:
    """(n,) the system of each atom of a batch."""
    counts = np.diff(batch.ends, prepend=0)
    return torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(batch.positions.device)


def _not_finite(vectors: Any) -> Any:
    """(n,) 1 where a vector (n, 3) is not finite, else 0."""
    return (~vectors.isfinite().all(dim=1)).to(torch.int64)


def _checksums(batch: TensorBatch, system: Any, n_systems: int) -> Any:
    """(s,) sums of splitmix64 of all coordinates and atomic numbers, each with its place in its system."""
    device = batch.positions.device
    bits = torch.cat([batch.positions.contiguous().view(torch.int64), batch.numbers[:, None].long()], dim=1)
    first = torch.from_numpy(batch.ends - np.diff(batch.ends, prepend=0)).to(device)
    atom = torch.arange(len(system), device=device) - first[system]
    x = bits ^ _mixed(4 * atom[:, None] + torch.arange(4, device=device))
    return torch.zeros(n_systems, dtype=torch.int64, device=device).index_add(0, system, _mixed(x).sum(dim=1))


def _mixed(x: Any) -> Any:
    """splitmix64 of integers."""
    x = x + STEP
    for shift, factor in zip(SHIFTS, (*FACTORS, 1), strict=True):
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * factor
    return x


def _digest(checksum: np.int64, batch: TensorBatch, place: int) -> str:
    digest = hashlib.blake2b(checksum.tobytes(), digest_size=8)
    digest.update(np.ascontiguousarray(batch.cells[place]).data)
    return f"t{digest.hexdigest()[:15]}"
