"""What it costs to tell that a frame has collapsed: seconds and peak memory of a check, and of `quests-md score`.

    python benchmarks/collapsed.py

A check: in a fresh process that has checked an ordinary frame of 32 atoms before, so that imports and kernels are paid;
the time of `Monitor.check`, and how far the peak of the memory rises above what the process held. The command: the time
and the peak memory of the whole process, beside those of a file of ordinary frames, which are imports and kernels.
Times are those of the processor, so that other programs on the machine do not count. Linux only, since /proc tells the
peak of a process.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk

from quests_md import Monitor, Reference

#: Runs the command line, and prints the peak of its memory, kB, as the last line on stderr.
COMMAND = """
import atexit, runpy, sys
from pathlib import Path
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(line.split()[1] for line in lines if line.startswith("VmHWM")), file=sys.stderr)
atexit.register(peak)
runpy.run_module("quests_md", run_name="__main__")
"""


def crystal(seed: int) -> Atoms:
    """Copper in motion."""
    atoms: Atoms = bulk("Cu", cubic=True) * 2
    atoms.positions += np.random.default_rng(seed).normal(0, 0.08, (len(atoms), 3))
    return atoms


def frames() -> dict[str, Atoms]:
    """An ordinary frame, and frames that have collapsed."""
    n, rng = 100_000, np.random.default_rng(0)
    directions = rng.normal(size=(n, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    ball = 0.3 * rng.random((n, 1)) ** (1 / 3) * directions
    cell = {"cell": [0.03] * 3, "pbc": True}
    return {
        "ordinary, 32 atoms": crystal(100),
        "1e5 atoms at one point": Atoms(f"Cu{n}", positions=np.ones((n, 3))),
        "1e5 atoms in a ball of 0.3 Å": Atoms(f"Cu{n}", positions=ball),
        "the same ball in a cell of 50 Å": Atoms(f"Cu{n}", positions=ball, cell=[50.0] * 3, pbc=True),
        "1 atom in a cell of 0.03 Å": Atoms("Cu", **cell),
        "1e5 atoms in a cell of 0.03 Å": Atoms(f"Cu{n}", positions=0.03 * rng.random((n, 3)), **cell),
    }


def check(reference: str, path: str) -> None:
    """Print the seconds of a check, its state, and the bytes by which the peak of the memory rises."""
    atoms = ase.io.read(path, -1)
    with Monitor(reference, log=None, threads=1, verbose=False) as monitor:
        monitor.check(crystal(101), step=0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, start = memory("VmRSS"), time.process_time()
        found = monitor.check(atoms, step=1)
        print(time.process_time() - start, memory("VmHWM") - before, found.state, *(e.kind for e in monitor.events))


def memory(field: str) -> int:
    """Bytes of this process that /proc tells of."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def children() -> float:
    """Processor time of the processes that have ended so far, s."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the table."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        reference = folder / "reference.safetensors"
        Reference.from_frames([crystal(seed) for seed in range(20)], groups="frame").save(reference)
        print(f"{'frame':<34}{'check':>9}{'memory':>10}  {'found':<18}{'score':>9}{'memory':>10}")
        for name, atoms in frames().items():
            path = folder / "frame.extxyz"
            ase.io.write(path, [crystal(100), atoms])
            done = subprocess.run(
                [sys.executable, __file__, str(reference), str(path)], capture_output=True, text=True, check=True
            )
            seconds, rise, *found = done.stdout.split()
            start = children()
            score = ["score", str(path), "-r", str(reference)]
            done = subprocess.run([sys.executable, "-c", COMMAND, *score], capture_output=True, text=True, check=False)
            whole, peak = children() - start, int(done.stderr.split()[-1]) * 1024
            text = f"{name:<34}{float(seconds):>7.2f} s{int(rise) / 1e6:>7.0f} MB  {' '.join(found):<18}"
            print(f"{text}{whole:>7.1f} s{peak / 1e6:>7.0f} MB", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        check(*sys.argv[1:])
    else:
        main()
