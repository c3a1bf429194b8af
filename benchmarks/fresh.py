"""What speed.py times in fresh processes: `score FILE`, or `decision SMALL LARGE`; imports nothing but quests_md."""

import sys
import time
from pathlib import Path

from ase.build import bulk

from quests_md import Reference


def score(path: str) -> None:
    """Load a reference, score a frame, decide about its atoms."""
    reference = Reference.load(path)
    atoms = bulk("Cu", "fcc", a=3.65, cubic=True) * (4, 4, 4)
    atoms.rattle(0.1, seed=0)
    reference.delta_entropy(atoms)
    reference.is_covered(atoms, 5.0)


def decision(warm_up: str, path: str) -> None:
    """Print seconds and growth of the peak memory in bytes from loading a reference to its first 256 decisions."""
    _decide(warm_up)
    before = _peak_memory()
    start = time.perf_counter()
    _decide(path)
    print(time.perf_counter() - start, _peak_memory() - before)


def _decide(path: str) -> None:
    reference = Reference.load(path)
    reference.is_covered(reference.rows[:256], 0.0)


def _peak_memory() -> int:
    """Peak memory of this process since it started, or 0 where /proc is not there to say."""
    # ru_maxrss would not do: it starts from the peak of the parent process
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    {"score": score, "decision": decision}[sys.argv[1]](*sys.argv[2:])
