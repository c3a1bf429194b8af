"""What a reference of many rows costs: building, file, mapping, memory that processes share, levels, checks, thinning.

Frames of 4000 atoms come from a small molecular dynamics of a crystal; after 250 of them they are taken again with
atoms moved by 0.02 Å. Every step runs in a process of its own with one thread; its memory is looked at from outside:
"own" is what is not mapped from files (RssAnon), "PSS" its share of all memory that it touches. Linux only.

    python benchmarks/large.py --rows 1e6 --folder /scratch
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms
from frames import trajectory

from quests_md import Calibration, Monitor, Reference, Trigger, calibrate

#: Atoms of a frame, frames of the dynamics, and how far atoms are moved when frames are taken again, Å.
CELLS, MOST_FRAMES, MOVED = (10, 10, 10), 250, 0.02


def frames_of(folder: Path, n_rows: int) -> Iterator[Atoms]:
    """Frames with so many atoms together."""
    kept: list[Atoms] = pickle.loads((folder / "frames.pkl").read_bytes())
    rng = np.random.default_rng(0)
    for i in range(n_rows // len(kept[0])):
        atoms = kept[i % MOST_FRAMES].copy()
        if i >= MOST_FRAMES:
            atoms.positions += rng.normal(0, MOVED, atoms.positions.shape)
        yield atoms


def new_frames(folder: Path) -> list[Atoms]:
    """Frames that are in no reference."""
    kept: list[Atoms] = pickle.loads((folder / "frames.pkl").read_bytes())
    return kept[MOST_FRAMES:]


def build(folder: Path, n_rows: int, precision: str) -> None:
    """Build out of core."""
    Reference.from_frames(
        frames_of(folder, n_rows), precision=precision, threads=1, out=folder / f"{precision}.safetensors"
    )


def mapped(folder: Path, *_: Any) -> None:
    """Map the file."""
    start = time.perf_counter()
    Reference.load(folder / "double.safetensors", mmap=True)
    print(time.perf_counter() - start)


def levels(folder: Path, _: int, which: str) -> None:
    """Set levels."""
    reference = Reference.load(folder / "double.safetensors", mmap=True)
    start = time.perf_counter()
    found = calibrate(reference, frames=new_frames(folder)[:20] if which == "frames" else None, threads=1)
    print(time.perf_counter() - start)
    found.save(folder / "levels.json")


def checks(folder: Path, *_: Any) -> None:
    """Pre-flight, quiet checks, and the check that opens an event."""
    reference = Reference.load(folder / "double.safetensors", mmap=True)
    calibration = Calibration.load(folder / "levels.json")
    monitor = Monitor(reference, calibration, log=None, trigger=Trigger(patience=1), threads=1)
    quiet, strange = new_frames(folder)[25:30], new_frames(folder)[30]
    rng = np.random.default_rng(0)
    out = rng.choice(len(strange), len(strange) // 10, replace=False)
    strange.positions[out] += rng.normal(0, 0.12, (len(out), 3))
    times = []
    for ask in (
        lambda: monitor.preflight(quiet[0]),
        *(lambda f=frame: monitor.check(f) for frame in (*quiet, strange, strange)),
    ):
        start = time.perf_counter()
        ask()
        times.append(time.perf_counter() - start)
    print(json.dumps({"pre-flight": times[0], "quiet": min(times[1:6]), "event": times[6], "after": times[7]}))
    sys.stdout.flush()
    time.sleep(3)  # until both processes have done it, so that what they share is seen


def thin(folder: Path, *_: Any) -> None:
    """Rows that cover the others."""
    small = Reference.load(folder / "double.safetensors", mmap=True).thin(0.5, threads=1)
    print(small.n_environments)


STEPS: dict[str, Callable[..., None]] = {f.__name__: f for f in (build, mapped, levels, checks, thin)}


class Run:
    """A step in a process of its own."""

    def __init__(self, name: str, folder: Path, n_rows: int, *arguments: str) -> None:
        command = [sys.executable, __file__, "--rows", str(n_rows), "--folder", str(folder), "--step", name, *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._start = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
        )
        self.own = self.pss = 0.0
        self._watch = threading.Thread(target=self._look)
        self._watch.start()

    def _look(self) -> None:
        """Look at its memory until it ends, GB."""
        at = Path("/proc", str(self._process.pid))
        while self._process.poll() is None:
            try:
                own = (at / "status").read_text().partition("RssAnon:")[2].split()[0]
                pss = (at / "smaps_rollup").read_text().partition("Pss:")[2].split()[0]
            except (OSError, IndexError):
                continue
            self.own, self.pss = max(self.own, int(own) / 1e6), int(pss) / 1e6
            time.sleep(0.05)

    def finish(self) -> tuple[float, str]:
        """Seconds that it took, and what it printed."""
        out, _ = self._process.communicate()
        self._watch.join()
        if self._process.returncode:
            raise RuntimeError(f"a step failed: {self._process.args}")
        return time.perf_counter() - self._start, out.strip()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=1e6, help="rows of the reference")
    parser.add_argument("--folder", type=Path, help="where files are written; default a temporary folder")
    parser.add_argument("--thin", action="store_true", help="thin the reference as well")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    n_rows = int(given.rows)
    if given.step:
        STEPS[given.step[0]](given.folder, n_rows, *given.step[1:])
        return
    with TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        (folder / "frames.pkl").write_bytes(pickle.dumps(list(trajectory("solid", CELLS, MOST_FRAMES + 31))))
        print(f"| {n_rows:.0e} rows | time, s | own memory, GB |\n| --- | --- | --- |")
        for precision in ("single", "double"):
            run = Run("build", folder, n_rows, precision)
            seconds, _ = run.finish()
            file = folder / f"{precision}.safetensors"
            size = file.stat().st_size
            what = f"build, {precision}: {size / 1e9:.2f} GB, {size / n_rows:.0f} bytes a row"
            print(f"| {what} | {seconds:.0f} | {run.own:.2f} |")
            if precision == "single":
                file.unlink()
        run = Run("mapped", folder, n_rows)
        print(f"| map | {float(run.finish()[1]):.2f} | {run.own:.2f} |")
        for which, what in (("own", "levels from its own groups"), ("frames", "levels from 20 frames of 4000 atoms")):
            run = Run("levels", folder, n_rows, which)
            print(f"| {what} | {float(run.finish()[1]):.1f} | {run.own:.2f} |")
        both = [Run("checks", folder, n_rows) for _ in range(2)]
        found = [json.loads(run.finish()[1]) for run in both]
        shared = ", ".join(f"{run.pss:.2f}" for run in both)
        print(f"| two processes at once: PSS at the end {shared} GB | | {both[0].own:.2f} |")
        for key, what in (
            ("pre-flight", "pre-flight"),
            ("quiet", "check of 4000 atoms"),
            ("event", "first alarm and event"),
            ("after", "next check of the event"),
        ):
            print(f"| {what}, one of the two | {found[0][key]:.3f} | |")
        if given.thin:
            run = Run("thin", folder, n_rows)
            seconds, left = run.finish()
            print(f"| thin to 0.5 nats: {left} rows | {seconds:.0f} | {run.own:.2f} |")


if __name__ == "__main__":
    main()
