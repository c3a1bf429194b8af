"""How often a baseline that judges a steady but correlated run is wrong: levels, drift and events against their rates.

python benchmarks/baselines.py > table.md
python benchmarks/baselines.py --counts > counts.md

Numbers are Ornstein-Uhlenbeck series of one statistic, seen at every check; with --counts independent Poisson counts of
atoms. "judged": runs whose baseline could judge, of which the next columns are: percent of checks out (by their level,
by drift); events in 1000 checks.
"""

import argparse
import math

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from quests_md.watch.baseline import Baseline

#: Asked rates of checks out.
RATES = 0.005, 0.01, 0.05, 0.1

#: Correlation times, in checks.
TAUS = 1, 2, 5, 10, 20

#: Lengths of the baseline, in checks.
LENGTHS = 20, 50, 100, 200, 500, 1000

#: Asked rates, mean counts and lengths of the baseline for counts of atoms.
COUNT_RATES = 0.0025, 0.005, 0.01
MEANS = 0.02, 0.05, 0.1, 0.3, 1, 3, 10, 30
COUNT_LENGTHS = 6, 12, 20, 50, 100, 500

#: Checks out in a row that open an event.
PATIENCE = 3


def series(n: int, tau: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A stationary Ornstein-Uhlenbeck process of deviation 1, seen at n checks."""
    phi = math.exp(-1 / tau)
    noise = rng.normal(size=n)
    noise[1:] *= math.sqrt(1 - phi * phi)
    return np.asarray(lfilter([1.0], [1.0, -phi], noise))


def watch(x: NDArray[np.float64], length: int, rate: float, name: str) -> NDArray[np.bool_] | None:
    """Whether each check after the baseline is out by its level and by drift, (n, 2); None if it cannot judge."""
    baseline = Baseline((name,), length - 0.5, rate, 0.5)
    out = []
    for i, value in enumerate(x):
        found = baseline.update({name: value}, float(i))
        if i >= length:
            if not found:
                return None
            out.append((found[name] > 0, found[f"{name}_drift"] > 0))
    return np.array(out)


def events(out: NDArray[np.bool_]) -> int:
    """How often the run of checks out reaches the patience."""
    streak = count = 0
    for is_out in out:
        streak = streak + 1 if is_out else 0
        count += streak == PATIENCE
    return count


def cell(length: int, scale: float, rate: float, repetitions: int, after: int, *, is_count: bool) -> tuple[float, str]:
    """Share of runs that can be judged, and the cell of the table; `scale` is the correlation time or mean count."""
    rng = np.random.default_rng(0)
    n, name = length + after, "local_tail" if is_count else "dh_mean"
    made = (rng.poisson(scale, n).astype(float) if is_count else series(n, scale, rng) for _ in range(repetitions))
    found = [watch(x, length, rate, name) for x in made]
    judged = [out for out in found if out is not None]
    if not judged:
        return 0.0, "none"
    level, drift = 100 * np.mean([out.mean(axis=0) for out in judged], axis=0)
    both = 100 * np.mean([out.any(axis=1).mean() for out in judged])
    opened = np.mean([events(out.any(axis=1)) for out in judged]) / after * 1000
    return len(judged) / repetitions, f"{both:.2f} ({level:.2f}, {drift:.2f}); {opened:.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--after", type=int, default=1000, help="checks after the baseline")
    parser.add_argument("--counts", action="store_true", help="Poisson counts in the place of correlated numbers")
    parser.add_argument("--lengths", type=int, nargs="*")
    parser.add_argument("--taus", type=float, nargs="*", default=TAUS)
    parser.add_argument("--means", type=float, nargs="*", default=MEANS)
    parser.add_argument("--rates", type=float, nargs="*")
    options = parser.parse_args()
    is_count = options.counts
    rates = options.rates or (COUNT_RATES if is_count else RATES)
    print(f"| checks | {'mean' if is_count else 'tau'} | judged |", *(f"asked {100 * rate:g} % |" for rate in rates))
    print("| --- | --- | --- |", *("--- |" for _ in rates))
    for length in options.lengths or (COUNT_LENGTHS if is_count else LENGTHS):
        for scale in options.means if is_count else options.taus:
            found = [cell(length, scale, rate, options.repetitions, options.after, is_count=is_count) for rate in rates]
            print(
                f"| {length} | {scale:g} | {100 * found[0][0]:.0f} % |",
                *(f"{text} |" for _, text in found),
                flush=True,
            )


if __name__ == "__main__":
    main()
