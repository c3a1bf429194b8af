"""Frames chosen by `select` beside other ways: what they cover of a test set, and what choosing takes.

    python benchmarks/selection.py [--data ../shared/data] [--into docs/learning.md]

Data sets of DFT frames (mlearn, Zuo et al. 2020, doi:10.1021/acs.jpca.9b08723; GAP-20 graphite, Rowe et al. 2020,
doi:10.1063/5.0005084). A tenth of the training frames is the reference, the others are to choose from, the test frames
are looked at once, at the end.
"""

import argparse
import contextlib
import io
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from quests.compression.compress import DatasetCompressor
from quests.descriptor import get_descriptors
from scipy.spatial.distance import cdist
from timing import header

from quests_md import Reference, delta_entropy, select

NUMBERS = (5, 10, 20, 40)
SEEDS = range(5)
MARKS = "<!-- selection: begin -->", "<!-- selection: end -->"


def main() -> None:
    """Choose, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--into", type=Path, help="Write the table between the marks of this page.")
    options = parser.parse_args()
    lines = [*(f"- {line}" for line in header(1)), ""]
    lines.append("| data | way | " + " | ".join(f"n = {n}" for n in NUMBERS) + " | seconds for 40 |")
    lines.append("| --- | --- | " + " | ".join("---" for _ in NUMBERS) + " | --- |")
    for name, train, test in sets(options.data):
        lines += rows_of(name, train, test)
        print("\n".join(lines[-6:]), file=sys.stderr, flush=True)
    text = "\n".join(lines)
    if options.into is None:
        print(text)
        return
    page = options.into.read_text()
    before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
    options.into.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


def sets(data: Path) -> Sequence[tuple[str, list[Atoms], list[Atoms]]]:
    """Names, training frames and test frames."""
    found = [
        (element, read(data / f"mlearn/{element}_train.xyz", ":"), read(data / f"mlearn/{element}_test.xyz", ":"))
        for element in ("Cu", "Mo")
    ]
    graphite = read(data / "gap20/Graphite.xyz", ":")
    order = np.random.default_rng(0).permutation(len(graphite))
    apart = [graphite[i] for i in order]
    return [*found, ("graphite", apart[:120], apart[120:])]


def rows_of(name: str, train: list[Atoms], test: list[Atoms]) -> list[str]:
    """A line for each way: share of the test environments that are not covered, in percent, against n."""
    order = np.random.default_rng(1).permutation(len(train))
    n_known = len(train) // 10
    known, pool = [train[i] for i in order[:n_known]], [train[i] for i in order[n_known:]]
    reference = Reference.from_frames(known, groups="frame")
    of = {"known": [reference.descriptor(a) for a in known], "pool": [reference.descriptor(a) for a in pool]}
    asked = np.concatenate([reference.descriptor(a) for a in test])
    level = max(0.0, float(np.quantile(reference.held_out_scores().dh, 0.99)))
    ways: dict[str, Callable[[int, int], list[int]]] = {
        "select": lambda n, seed: by_select(pool, reference, n),
        "quests compress -r": lambda n, seed: by_quests(pool, known, n),
        "farthest frames (mean row)": lambda n, seed: farthest(of["pool"], of["known"], n),
        "random (mean of 5)": lambda n, seed: random.Random(seed).sample(range(len(pool)), n),
        "evenly in the file": lambda n, seed: np.linspace(0, len(pool) - 1, n).round().astype(int).tolist(),
    }
    nothing = uncovered(asked, of["known"], [], level)
    lines = [f"| {name} (level {level:.1f}) | nothing chosen | " + " | ".join([nothing] * len(NUMBERS)) + " | |"]
    for way, choose in ways.items():
        seeds = SEEDS if way.startswith("random") else SEEDS[:1]
        start = time.perf_counter()
        chosen = [choose(max(NUMBERS), seed) for seed in seeds]
        seconds = (time.perf_counter() - start) / len(seeds)
        if way.startswith("evenly"):
            cells = [uncovered(asked, of["known"], [of["pool"][i] for i in choose(n, 0)], level) for n in NUMBERS]
        else:
            cells = [
                uncovered(asked, of["known"], *([of["pool"][i] for i in one[:n]] for one in chosen), level)
                for n in NUMBERS
            ]
        lines.append(f"| {name} | {way} | {' | '.join(cells)} | {seconds:.2f} |")
    return lines


def uncovered(asked: np.ndarray, known: list[np.ndarray], *chosen_and_level: object) -> str:
    """Share of environments above the level, in percent, and mean dH; means over several choices."""
    *chosen, level = chosen_and_level
    shares, means = [], []
    for one in chosen:
        dh = delta_entropy(asked, np.concatenate([*known, *one]))
        shares.append(100 * float((dh > level).mean()))
        means.append(float(dh.mean()))
    spread = f" ± {np.std(shares):.1f}" if len(shares) > 1 else ""
    return f"{np.mean(shares):.1f} %{spread} ({np.mean(means):.1f})"


def by_select(pool: list[Atoms], reference: Reference, n: int) -> list[int]:
    """Numbers of the frames that `select` takes."""
    return [one.frame for one in select(pool, reference, n=n, threads=1)]


def by_quests(pool: list[Atoms], known: list[Atoms], n: int) -> list[int]:
    """Numbers of the frames that the conditional compression of `quests` takes."""
    with contextlib.redirect_stdout(io.StringIO()):
        compressor = DatasetCompressor(pool, lambda atoms: get_descriptors([atoms]))
        return list(compressor.get_indices("msc_conditional", n, reference=[get_descriptors([a]) for a in known]))


def farthest(pool: list[np.ndarray], known: list[np.ndarray], n: int) -> list[int]:
    """Each frame as far as can be, by the mean of its rows, from those known and chosen before."""
    means, chosen = np.array([rows.mean(axis=0) for rows in pool]), []
    nearest = cdist(means, np.array([rows.mean(axis=0) for rows in known])).min(axis=1)
    for _ in range(n):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(means - means[chosen[-1]], axis=1))
    return chosen


if __name__ == "__main__":
    main()
