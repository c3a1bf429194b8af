"""What `speed.py --against` times of the version of quests_md that PYTHONPATH names: `works.py GROUP FRAMES [options]`.

Prints JSON: for each line its contract, unit, divisor and seconds, and a digest of the answer, which must not depend on
the version. Everything is asked through public names; `structure_builder` finds the one exception.
"""

import argparse
import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read

from quests_md import Descriptor, Monitor, Reference, calibrate, delta_entropy

#: Bandwidth in 1/Å.
BANDWIDTH = 0.015


@dataclass(frozen=True, slots=True)
class Work:
    """One line of the table."""

    what: str
    call: Callable[[], Any]
    """What is timed; its result is the answer."""
    contract: str = ""
    unit: str = "s"
    per: int = 1
    """Of how many (atoms, queries) the unit speaks."""
    once: bool = False
    """Whether the first call is timed as well, since it is the one that users wait for."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A line as measured by one process."""

    contract: str
    unit: str
    per: int
    seconds: list[float]
    answer: str
    """Digest of the bits of the answer."""


def structure_builder() -> Callable[[Any, float], Any]:
    """What builds a search structure over rows, wherever this version has it."""
    for module, name in (("quests_md.engine", "build_index"), ("quests_md.index", "Index")):
        try:
            build: Callable[[Any, float], Any] = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
        return build
    raise SystemExit("works.py: this version of quests_md has no search structure that works.py knows of")


def rows(frames: dict[str, list[Atoms]], threads: int) -> Iterator[Work]:
    """Descriptor rows."""
    descriptor = Descriptor()
    for name, (*_, atoms) in frames.items():
        n = len(atoms)
        contract = "at least 6 times quests, within 1.8 times vesin"
        call = partial(descriptor, atoms, threads=threads)
        yield Work(f"rows, {name}, {n} atoms", call, contract, "us/atom", n)


def answers(frames: dict[str, list[Atoms]], threads: int) -> Iterator[Work]:
    """Building a reference, and what is asked of it."""
    known, held_out = frames["known"], frames["held out"]

    def build() -> Reference:
        return Reference.from_frames(known, bandwidth=BANDWIDTH, threads=threads)

    reference = build()
    n_rows = reference.n_environments
    where = f"{known[0].info['phase']}, {n_rows} rows"
    yield Work(f"build a reference, {where}", lambda: build().rows, once=True)
    structure = partial(structure_builder(), reference.rows, BANDWIDTH)
    yield Work(f"search structure, {where}", lambda: structure() and None, "under 3 s", once=True)
    *level_frames, last = held_out
    calibration = calibrate(reference, frames=level_frames, threads=threads)
    level = float(calibration.levels(last).max())
    queries = np.concatenate([reference.descriptor(atoms) for atoms in held_out])[:2000]
    n = len(queries)
    per_query = "us/query", n
    contract = "at least 10 times quests"
    yield Work(f"dH, {where}", lambda: reference.delta_entropy(queries, threads=threads), contract, *per_query)
    few = queries[:200]
    yield Work(
        f"dH in float64, {where}",
        lambda: delta_entropy(few, reference=reference.rows, bandwidth=BANDWIDTH, threads=threads),
        "",
        "us/query",
        len(few),
    )
    rows_of_last = reference.descriptor(last)
    covered = rows_of_last[reference.is_covered(rows_of_last, level, threads=threads)]
    yield Work(
        f"decision, {where}, covered atoms",
        lambda: reference.is_covered(covered, level, threads=threads),
        "below 20 us",
        "us/atom",
        len(covered),
    )
    yield Work(f"nearest row, {where}", lambda: reference.nearest(queries, threads=threads).atom, "", *per_query)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "reference.safetensors")
        yield Work(f"save, {where}", partial(reference.save, path))
        reference.save(path)
        yield Work(f"load, {where}", lambda: Reference.load(path).rows)


def checks(frames: dict[str, list[Atoms]], threads: int) -> Iterator[Work]:
    """A whole check by a monitor with default statistics and no log."""
    known, held_out, asked = frames["known"], frames["held out"], cycle(frames["asked"])
    reference = Reference.from_frames(known, bandwidth=BANDWIDTH, threads=threads)
    calibration = calibrate(reference, frames=held_out, threads=threads)
    monitor = Monitor(reference, calibration, log=None, threads=threads)
    n = len(known[0])

    def check() -> list[float]:
        record = monitor.check(next(asked))
        return [record.dh_max, record.dh_mean]

    yield Work(f"Monitor.check, {n} atoms of crystal, {reference.n_environments} rows", check, "", "us/check")


GROUPS = {"rows": rows, "answers": answers, "checks": checks}


def measure(work: Work, repeats: int) -> Measured:
    """Call, take the digest of the answer, and time `repeats` stretches of calls of at least 10 ms each."""
    start = time.perf_counter()
    answer = work.call()
    first = time.perf_counter() - start
    digest = hashlib.sha256(b"" if answer is None else np.asarray(answer).tobytes()).hexdigest()[:12]
    seconds = [first] if work.once else []
    n_calls = 1 if work.once else min(100, max(1, int(0.01 / first)))
    for _ in range(repeats - len(seconds)):
        start = time.perf_counter()
        for _ in range(n_calls):
            work.call()
        seconds.append((time.perf_counter() - start) / n_calls)
    return Measured(work.contract, work.unit, work.per, seconds, digest)


def main() -> None:
    """Measure a group; the name of each file of frames is what the group calls them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("frames", type=Path, help="folder of .traj files")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    frames = {path.stem: read(path, ":") for path in sorted(options.frames.glob("*.traj"))}
    warnings.simplefilter("ignore")  # of levels from few frames
    works = GROUPS[options.group](frames, options.threads)
    print(json.dumps({work.what: asdict(measure(work, options.repeats)) for work in works}))


if __name__ == "__main__":
    main()
