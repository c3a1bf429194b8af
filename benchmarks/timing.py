"""What all timings share: works that are done in turns, their times as text, and on what machine that was."""

import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

__all__ = ["Times", "header", "in_turns", "text"]

Times = list[float]


def in_turns(repeats: int, *works: Callable[[], object]) -> list[Times]:
    """Seconds of each work, taken in turns; the caller has run each once."""
    times: list[Times] = [[] for _ in works]
    for _ in range(repeats):
        for work, seconds in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
    return times


def text(times: Times, unit: str, per: int = 1) -> str:
    """Minimum and median in seconds, or in microseconds for each of `per`."""
    scale = 1 if unit == "s" else 1e6 / per
    return (
        " / ".join(f"{t:.0f}" if t >= 100 else f"{t:.3g}" for t in (scale * min(times), scale * median(times)))
        + f" {unit}"
    )


def header(threads: int) -> list[str]:
    """Machine, versions, threads, load and date."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    names = [name for name in ("quests_md", "numpy", "numba", "quests", "vesin") if find_spec(name)]
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return [
        f"{model}, {os.cpu_count()} cores, {threads} thread(s) on both sides{load}; {datetime.now(UTC):%Y-%m-%d}",
        f"python {platform.python_version()}, {versions}",
    ]
