"""Time searches on a device of torch beside those of the CPU and the torch code of `quests`, and print a table.

    python benchmarks/gpu.py --device cuda --minutes 10     # 1e5 to 5e7 rows, 1e2 to 1e6 queries, as far as time allows
    python benchmarks/gpu.py                                # some small sizes, on torch's CPU device

Rows are drawn from a normal distribution with the mean and covariance of rows of crystalline soft spheres; queries too,
and are within the reference. Every answer of the device is compared with the CPU's for some queries. Sizes come in
ascending order, and those for which too little time is left are skipped and listed; whole checks (`gpu_checks.py`)
come last. Needs torch and the extra `dev`.
"""

import argparse
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from frames import trajectory
from gpu_checks import print_checks
from quests.gpu.entropy import delta_entropy as quests_delta_entropy

from quests_md import Descriptor
from quests_md.engine import build_index, minus_log_sums, require_device

#: 1/Å.
BANDWIDTH = 0.015

#: Rows, and queries, of the whole benchmark and of the quick one.
SIZES = {"whole": (100_000, 1_000_000, 10_000_000, 50_000_000), "quick": (10_000, 100_000)}
QUERIES = {"whole": (100, 10_000, 1_000_000), "quick": (100, 2000)}

#: Queries for which all answers are compared, and most that the CPU is timed with.
COMPARED, CPU_QUERIES = 50, 1000

#: Nats: how far above the median dH the levels are that decisions are asked about. Those of `calibrate` are some 10.
ABOVE = 8.0

#: Rows up to which the CPU builds a structure of its own to be timed beside the device.
CPU_ROWS = 1_000_000

#: Longest run of one kind that is started, s.
LONGEST = 60.0


def distribution() -> tuple[np.ndarray, np.ndarray]:
    """Mean (width,) and a root (width, width) of the covariance of rows of a crystal, 1/Å."""
    rows = np.concatenate([Descriptor()(atoms) for atoms in trajectory("solid", (5, 5, 10), 10)])
    values, axes = np.linalg.eigh(np.cov(rows.T))
    return rows.mean(axis=0), axes * np.sqrt(np.maximum(values, 0.0))


def drawn(n: int, seed: int, mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Rows (n, width) of that distribution."""
    rng, rows = np.random.default_rng(seed), np.empty((n, len(mean)))
    for start in range(0, n, 1_000_000):
        part = rows[start : start + 1_000_000]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32) @ root.T + mean
    return rows


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Least time of some runs, after one that is not counted; of one run where that takes long."""
    start = time.perf_counter()
    work()
    first = time.perf_counter() - start
    if first > 5.0:
        return first
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def asynchronous(device: str) -> None:
    """Wait for the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


class Clock:
    """Tells whether something that is expected to take so long may still be started."""

    def __init__(self, minutes: float) -> None:
        self.end = time.perf_counter() + 60.0 * minutes

    def has(self, expected: float) -> bool:
        """Whether so many seconds are left."""
        return time.perf_counter() + 1.3 * expected < self.end


def compared(index: Any, rows: np.ndarray, queries: np.ndarray, threads: int) -> tuple[float, int]:
    """The largest difference of dH from the float64 sum, and how many answers of the device are wrong."""
    exact = minus_log_sums(queries, rows, BANDWIDTH, threads=threads)
    sums = index.minus_log_sums(queries, 1)
    wrong = int((np.abs(sums.values - exact) > sums.bounds).sum())
    for shift in (-3.0, -1e-6, 0.0, 1e-6, 3.0):
        verdict = index.decide(queries, exact + shift, 1)
        wrong += int((verdict == (-1 if shift >= 0 else 1)).sum())
    for query, row in zip(queries[:10], index.nearest(queries[:10], 1), strict=True):
        distance2 = np.concatenate(
            [((rows[s : s + 1_000_000] - query) ** 2).sum(axis=1) for s in range(0, len(rows), 1_000_000)]
        )
        wrong += int(distance2[row] > distance2.min() * (1 + 1e-13))
    return float(np.abs(sums.values - exact).max()), wrong


Works = dict[str, tuple[int, Callable[[int], Any]]]


def works_of(
    index: Any, own: Any, rows: np.ndarray, queries: np.ndarray, levels: np.ndarray, device: str, threads: int
) -> Works:
    """What is timed, each with its number of queries; `own`: the CPU's structure, None for none."""
    m, few = len(queries), min(len(queries), CPU_QUERIES)
    works: Works = {
        "dH": (m, lambda k: index.minus_log_sums(queries[:k], 1)),
        "decisions": (m, lambda k: index.decide(queries[:k], levels[:k], 1)),
        "nearest": (m, lambda k: index.nearest(queries[:k], 1)),
        "quests": (m, lambda k: on_device(queries[:k], rows, device)),
    }
    if own is not None:
        works["CPU dH"] = (few, lambda k: own.minus_log_sums(queries[:k], threads))
        works["CPU decisions"] = (few, lambda k: own.decide(queries[:k], levels[:k], threads))
    return works


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=10.0, help="time after which nothing more is started")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU's own searches")
    parser.add_argument("--quick", action="store_true", help="small sizes; always on torch's CPU device")
    options = parser.parse_args()
    device, clock = require_device(options.device), Clock(options.minutes)
    kind = "quick" if options.quick or device == "cpu" else "whole"
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else platform.processor() or "CPU"
    print(f"- device {device} ({name}), {options.threads} thread(s) of the CPU; {datetime.now(UTC):%Y-%m-%d}")
    print(f"- python {platform.python_version()}, torch {torch.__version__}, quests {version('quests')}\n", flush=True)
    print("| N_ref | structure, s | queries | dH | decisions | nearest | CPU: dH | CPU: decisions | `quests`: dH |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    mean, root = distribution()
    skipped, notes, build_rate, rate = [], [], 5e-6, {}
    for n in SIZES[kind]:
        if not clock.has(n * build_rate * (2 if n <= CPU_ROWS else 1)):
            skipped.append(f"{n} rows")
            continue
        rows = drawn(n, 1, mean, root)
        start = time.perf_counter()
        index = build_index(rows, BANDWIDTH, device=device)
        asynchronous(device)
        built = time.perf_counter() - start
        build_rate = built / n
        own = build_index(rows, BANDWIDTH) if n <= CPU_ROWS else None
        worst, wrong = compared(index, rows, drawn(COMPARED, 2, mean, root), options.threads)
        notes.append(f"- {n} rows: dH within {worst:.1e} nats of float64, {wrong} wrong answers")
        for m in QUERIES[kind]:
            queries = drawn(m, 3, mean, root)
            levels = np.full(m, float(np.median(index.minus_log_sums(queries[:COMPARED], 1).values)) + ABOVE)
            works = works_of(index, own, rows, queries, levels, device, options.threads)
            cells = {}
            for what, (k, work) in works.items():
                expected = rate.get(what, 0.0) * k * (n if what != "decisions" else 1)
                if expected > LONGEST or not clock.has(expected):
                    skipped.append(f"{what}, {n} rows, {m} queries")
                    continue
                taken = seconds(partial(work, k))
                rate[what] = taken / k / (n if what != "decisions" else 1)
                cells[what] = f"{taken / k * 1e6:.3g}"
            order = ("dH", "decisions", "nearest", "CPU dH", "CPU decisions", "quests")
            print(
                f"| {n} | {built:.3g} | {m} | " + " | ".join(cells.get(what, "-") for what in order) + " |", flush=True
            )
        del rows, index, own, works
    print("\nTimes in us per query.", *notes, sep="\n")
    if skipped:
        print("- skipped for want of time: " + "; ".join(skipped))
    if clock.has(60.0):
        print_checks(device)  # whole checks of frames on the device


def on_device(queries: np.ndarray, rows: np.ndarray, device: str) -> Any:
    """DH by the torch code of `quests`, in single precision."""
    given = (torch.from_numpy(part.astype(np.float32)) for part in (queries, rows))
    return quests_delta_entropy(*given, h=BANDWIDTH, device=device)


if __name__ == "__main__":
    main()
