"""A million checks of small frames through one Monitor: do memory, open files and time per check stay as they are.

    python benchmarks/soak.py --checks 1000000 --plot soak.png

The run is 8 atoms of rattled copper that leave its reference for some checks now and then, and for good in the last but
one fifth of the run, so that one event is open for a very long time.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase import Atoms
from ase.build import bulk

from quests_md import Calibration, Monitor, Reference, Trigger, calibrate, read_log

#: Checks between two lines of the table.
EVERY = 20_000

#: Of so many checks the last few are outside.
PERIOD, OUTSIDE = 997, 12


def cell(rng: np.random.Generator, rattle: float) -> Atoms:
    """Eight atoms of copper, displaced."""
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.positions += rng.normal(0, rattle, (len(atoms), 3))
    return atoms


def known() -> tuple[Reference, Calibration]:
    """A tiny reference and its levels."""
    rng = np.random.default_rng(0)
    reference = Reference.from_frames([cell(rng, 0.05) for _ in range(25)], bandwidth=0.05, groups="frame")
    return reference, calibrate(reference, false_alarms=0.04)


def frames(n: int, first: int = 0) -> Iterator[tuple[int, Atoms]]:
    """Number and frame of the checks of the run, each frame by itself."""
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    crystal = atoms.positions.copy()
    for i in range(first, n):
        is_outside = i % PERIOD >= PERIOD - OUTSIDE or 3 * n // 5 <= i < 4 * n // 5
        atoms.positions = crystal + np.random.default_rng(i).normal(0, 0.12 if is_outside else 0.04, crystal.shape)
        yield i, atoms


def resident_mb() -> float:
    """Memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    """Number of open file descriptors."""
    return len(list(Path("/proc/self/fd").iterdir())) - 1


def soak(
    log: Path, n: int, reference: Reference, calibration: Calibration
) -> list[tuple[int, float, int, float, float]]:
    """Check n frames; checks so far, memory in MB, open files, us per check and MB of log after every 20 000."""
    table = []
    print(f"{'checks':>9} {'memory / MB':>12} {'files':>6} {'us per check':>13} {'log / MB':>9}", flush=True)
    with Monitor(reference, calibration, trigger=Trigger(patience=3), log=log, on_error="raise", threads=1) as monitor:
        spent = 0.0
        for i, atoms in frames(n):
            begun = time.perf_counter()
            monitor.check(atoms, step=10 * i, time_ps=0.01 * i)
            spent += time.perf_counter() - begun
            if (i + 1) % EVERY == 0 or i + 1 == n:
                count = (i % EVERY) + 1
                row = i + 1, resident_mb(), open_files(), 1e6 * spent / count, log.stat().st_size / 1e6
                table.append(row)
                print(f"{row[0]:9d} {row[1]:12.1f} {row[2]:6d} {row[3]:13.0f} {row[4]:9.1f}", flush=True)
                spent = 0.0
        events = monitor.events
    print(f"{len(events)} events in memory, the last of id {events[-1].id if events else 0}")
    return table


def draw(path: str, table: list[tuple[int, float, int, float, float]]) -> None:
    """Memory and time per check along the run."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    n, memory, _, us, _ = np.array(table).T
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(6, 5), layout="constrained")
    above.plot(n, memory)
    above.set_ylabel("memory / MB")
    above.set_ylim(0, 1.2 * memory.max())
    below.plot(n, us)
    below.set_ylabel("time per check / µs")
    below.set_ylim(0, 1.2 * us.max())
    below.set_xlabel("checks")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Soak, read back, resume."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", type=int, default=1_000_000)
    parser.add_argument("--plot", help="a picture of memory and time per check")
    parser.add_argument("--folder", help="where the log is written; default a temporary folder")
    options = parser.parse_args()
    if options.checks < 1:
        sys.exit(f"--checks: expected a positive number, got {options.checks}")
    reference, calibration = known()
    with TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "soak.jsonl"
        table = soak(path, options.checks, reference, calibration)
        begun = time.perf_counter()
        log = read_log(path)
        took, out = time.perf_counter() - begun, float((log.state != "in").mean())
        print(f"read_log: {took:.2f} s, {len(log)} checks, {len(log.events)} events, {out:.1%} out")
        for what, first in (("the last check", options.checks - 1), ("the middle", options.checks // 2)):
            for how in ("by the frame", "by its step"):
                begun = time.perf_counter()
                with Monitor(
                    reference, calibration, trigger=Trigger(patience=3), log=path, on_error="raise", threads=1,
                    resume=True, start_step=10 * first if how == "by its step" else None,
                ) as monitor:  # fmt: skip
                    _, atoms = next(frames(options.checks, first))
                    with redirect_stderr(open(os.devnull, "w")):  # noqa: PTH123
                        monitor.preflight(atoms)
                    print(
                        f"resume at {what}, {how}: {time.perf_counter() - begun:.2f} s, {monitor.n_checks} checks kept"
                    )
        print(f"memory at the end: {resident_mb():.1f} MB")
    if options.plot:
        draw(options.plot, table)


if __name__ == "__main__":
    main()
