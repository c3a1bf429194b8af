"""What several workers gain: a trajectory of 864 copper atoms scored by 1 and 2 processes and on a Dask cluster.

    python benchmarks/workers.py [frames]

Prints, for one long extxyz file, one compressed file and many files: seconds to the check number 200, by which all
processes have started and made what each makes once, frames per second after it, and processor time per frame of all
processes, without that of a run of 200 frames.
"""

import gzip
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import write
from distributed import Client, LocalCluster

from quests_md import Reference, calibrate, score_trajectory

#: Frames of the reference, 256 atoms each; cubic cells along an edge of the frames that are scored.
N_TRAIN, EDGE = 40, 6

#: Frames after which the throughput is measured.
N_FIRST = 200

#: Files into which the trajectory is cut.
N_FILES = 40


def crystal(edge: int, rng: np.random.Generator) -> Atoms:
    """Copper, rattled by 0.1 Å."""
    atoms = bulk("Cu", cubic=True) * (edge, edge, edge)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    return atoms


def write_frames(folder: Path, n_frames: int, rng: np.random.Generator) -> dict[str, str]:
    """The same frames in three ways, by name."""
    frames = [crystal(EDGE, rng) for _ in range(N_FILES)]
    (folder / "many").mkdir()
    texts = []
    for i, atoms in enumerate(frames):
        write(folder / "one.xyz", atoms, format="extxyz")
        texts.append((folder / "one.xyz").read_bytes())
        (folder / "many" / f"run{i}.xyz").write_bytes(texts[-1] * (n_frames // N_FILES))
    whole = b"".join(texts[i % N_FILES] for i in range(n_frames // N_FILES * N_FILES))
    (folder / "long.xyz").write_bytes(whole)
    with gzip.open(folder / "long.xyz.gz", "wb", compresslevel=6) as file:
        file.write(whole)
    files = {"one extxyz": "long.xyz", "one .xyz.gz": "long.xyz.gz", f"{N_FILES} extxyz": "many/*.xyz"}
    return {name: str(folder / file) for name, file in files.items()}


def processor_s(client: Client | None) -> float:
    """Processor time so far of this process, of those that it has waited for, and of the workers of the cluster."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(u.ru_utime + u.ru_stime for u in used)
    if client is None:
        return own
    return own + float(sum(sum(times[:2]) for times in client.run(os.times).values()))


def measured(source: str, client: Client | None, **options: Any) -> tuple[float, float, float, int]:
    """Seconds to the check number `N_FIRST`, seconds after it, processor time, and frames."""
    before, start = processor_s(client), time.perf_counter()
    checks = score_trajectory(source, **options, **({} if client is None else {"client": client}))
    n = sum(1 for _ in islice(checks, N_FIRST))
    first = time.perf_counter()
    n += sum(1 for _ in checks)
    end = time.perf_counter()
    return first - start, end - first, processor_s(client) - before, n


@contextmanager
def cluster() -> Iterator[Client]:
    """Two Dask workers of one thread."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local, Client(local) as client:
        yield client


def main() -> None:
    """Measure and print."""
    n_frames = int(sys.argv[1]) if sys.argv[1:] else 1000
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name, cluster() as client:
        folder = Path(name)
        known = Reference.from_frames([crystal(4, rng) for _ in range(N_TRAIN)], groups="frame", threads=1)
        given: dict[str, Any] = {"reference": known, "calibration": calibrate(known, threads=1)}
        files = write_frames(folder, n_frames, rng)
        print(f"{n_frames} frames of {4 * EDGE**3} atoms, {known.n_environments} environments")
        print(f"frames\tworkers\tfirst {N_FIRST}, s\tframes/s\tagainst 1\tprocessor ms/frame")
        ways: dict[str, Callable[[str], tuple[float, float, float, int]]] = {
            "1": lambda source: measured(source, None, threads=1, **given),
            "2": lambda source: measured(source, None, workers=2, **given),
            "Dask, 2": lambda source: measured(source, client, **given),
        }
        for kind, source in files.items():
            one = 0.0
            for way, score in ways.items():
                few = score(f"{source}@:{N_FIRST // N_FILES if '*' in source else N_FIRST}")
                first, rest, used, n = score(source)
                rate = (n - N_FIRST) / rest
                one = one or rate
                per_frame = 1000 * (used - few[2]) / (n - few[3])
                print(f"{kind}\t{way}\t{first:.1f}\t{rate:.1f}\t{rate / one:.2f}\t{per_frame:.1f}", flush=True)


if __name__ == "__main__":
    main()
