"""Time whole checks of frames whose tensors are on a device of torch beside those of the CPU, and print a table.

    python benchmarks/gpu_checks.py --device cuda
    python benchmarks/gpu_checks.py                     # on torch's CPU device

Soft spheres as a liquid, default statistics, frames that are quiet; references are 24 frames (of 32 atoms 60), levels
come from as many others. Flags of the device are compared with the CPU's. `gpu.py` prints this table after its own.
Needs torch and the extra `dev`.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from frames import trajectory
from torch.utils._python_dispatch import TorchDispatchMode

from quests_md import Reference, calibrate
from quests_md.engine import require_device
from quests_md.environments import TensorBatch
from quests_md.judge import Judge

__all__ = ["print_checks"]

#: Frames of one cell, and how many systems of these make a batch.
CASES = (((2, 2, 2), 1), ((2, 2, 2), 64), ((6, 6, 6), 1), ((6, 6, 6), 16), ((10, 10, 10), 1))

REPEATS = 5


class Counted(TorchDispatchMode):
    """Counts operations."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.n += 1
        return func(*args, **(kwargs or {}))


def batch_of(frames: Sequence[Atoms], device: str) -> TensorBatch:
    """The frames as a batch on a device."""
    numbers = np.concatenate([atoms.numbers for atoms in frames]).astype(np.int64)
    positions = torch.from_numpy(np.concatenate([atoms.positions for atoms in frames])).to(device)
    cells, pbc = np.array([atoms.cell.array for atoms in frames]), np.array([atoms.pbc for atoms in frames])
    counts = [len(atoms) for atoms in frames]
    return TensorBatch(positions, torch.from_numpy(numbers).to(device), numbers, counts, cells, pbc, {})


def print_checks(device: str) -> None:
    """Print the table, one row for each case; times are the least of five, of a batch as a whole."""
    print("\n| systems x atoms | quiet | operations | bytes fetched | positions have | on the device, ms | CPU, ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    fetched, cpu = [], torch.Tensor.cpu

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        fetched.append(tensor.numel() * tensor.element_size())
        return cpu(tensor)

    torch.Tensor.cpu = counted  # type: ignore[method-assign,assignment]
    for cells, n_systems in CASES:
        known = list(trajectory("liquid", cells, 24 if cells[0] > 2 else 60, seed=1))
        reference = Reference.from_frames(known, groups="frame")
        calibration = calibrate(reference, frames=list(trajectory("liquid", cells, len(known), seed=2)))
        here = Judge(reference, calibration, values="proven", threads=1)
        there = Judge(reference.to(device), calibration, values="proven", threads=1)
        frames, quiet = [], []
        for atoms in trajectory("liquid", cells, 4 * n_systems, seed=3):
            check = here.judge(atoms, step=0, frame=0).check
            if check.state == "in" and len(frames) < n_systems:
                frames.append(atoms)
                quiet.append(check)
        times: dict[str, list[float]] = {"there": [], "here": []}
        for _ in range(REPEATS):
            start = time.perf_counter()
            batch = batch_of(frames, device)
            checks = [there.judge(batch.frame(i), step=0, frame=0).check for i in range(len(frames))]
            times["there"].append(time.perf_counter() - start)
            start = time.perf_counter()
            for atoms in frames:
                here.judge(atoms, step=0, frame=0)
            times["here"].append(time.perf_counter() - start)
        same = sum(
            (a.state, a.alarms, a.n_above, a.largest_cluster) == (b.state, b.alarms, b.n_above, b.largest_cluster)
            for a, b in zip(checks, quiet, strict=True)
        )
        fetched.clear()
        with Counted() as mode:
            batch = batch_of(frames, device)
            for i in range(len(frames)):
                there.judge(batch.frame(i), step=0, frame=0)
        n = sum(len(atoms) for atoms in frames)
        cell = f"{len(frames)} x {len(frames[0])} | {same} the same | {mode.n} | {sum(fetched)} | {24 * n}"
        print(f"| {cell} | {min(times['there']) * 1e3:.3g} | {min(times['here']) * 1e3:.3g} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    print_checks(require_device(parser.parse_args().device))
