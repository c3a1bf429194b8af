"""Does it help to take thermal noise out of frames before they are judged? Freezing copper, 864 atoms.

python benchmarks/smoothing.py FOLDER > smoothing.md

FOLDER holds, for each run of FREEZING, LIQUID and SOLID, NAME.extxyz (one frame per ps), NAME_dense.extxyz (for each of
these frames ten snapshots, 0.02 ps apart, before it) and what polyhedral template matching (PTM, of OVITO) says of each
atom, 0 for no crystal, of the frames (NAME.ptm.npz) and of the averages of snapshots (NAME.ptm_avg.npz): arrays `types`
(n_frames, n_atoms) and `ps` (n_frames,).
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray
from scipy.stats import rankdata

from quests_md import Calibration, Descriptor, Minimised, Monitor, Reference, TimeAveraged, calibrate, entropy
from quests_md.environments import Window
from quests_md.lammps import lammps_calculator, potential

FREEZING = "cu864_T700_s3", "cu864_T700_s7"
LIQUID, SOLID = "cu864_liquid_T900_s8", "cu864_solid_T700_s9"
#: ps: runs have settled; the undercooled liquid before it freezes; the end; blocks of the liquid that are in turn
#: reference and held out.
SETTLED, EARLY, LATE, BLOCK = 8, 18, 90, 10
#: Frames in a row, and deviations of the early ones below their mean, from which on the frame entropy has fallen.
IN_A_ROW, DEVIATIONS = 3, 5
#: Shares of crystalline atoms (PTM of averages) of frames that hold both phases.
BOTH = 0.05, 0.95
RATE = 0.01
STEPS = 20, 50
BANDWIDTHS = 0.0075, 0.009, 0.0106, 0.0126, 0.015, 0.018
#: Å, neighbours over which L is averaged: as `Phases` does, 1.3 of the nearest-neighbour distance.
LINK = 1.3 * 2.5
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """Frames of a run, and which atoms PTM calls crystalline in the frames and in their averages."""

    ps: Numbers
    frames: dict[str, list[Atoms]]
    """By the way of smoothing."""
    crystal: dict[str, NDArray[np.bool_]]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Print what smoothing is worth.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    timings: dict[str, list[float]] = {}
    calls = {}
    smoothers: dict[str, Callable[[Atoms], Atoms]] = {}
    for steps in STEPS:
        counter = Counting(steps)
        smoothers[f"minimised, {steps} steps"] = timed(counter.minimised, timings, counter.name)
        calls[counter.name] = counter
    runs = {name: load(folder, name, smoothers) for name in (*FREEZING, LIQUID, SOLID)}
    plain(runs)
    alarms(runs)
    for name in FREEZING:
        ratios(runs, name)
    costs(folder, runs, timings, calls)


class Counting:
    """A minimiser that counts its force calls."""

    def __init__(self, steps: int) -> None:
        self.name = f"minimised, {steps} steps"
        self.calls: list[int] = []
        self._n = 0
        self._minimised = Minimised(self._calculator, "Cu_u3", steps=steps)

    def _calculator(self) -> object:
        calculator = lammps_calculator(
            ["pair_style eam", f'pair_coeff 1 1 "{potential("Cu_u3.eam")}"'], ("Cu",), keep_alive=True
        )
        calculate = calculator.calculate

        def counted(*args: object, **kwargs: object) -> None:
            self._n += 1
            calculate(*args, **kwargs)

        calculator.calculate = counted
        return calculator

    def minimised(self, atoms: Atoms) -> Atoms:
        """As `Minimised.minimised`."""
        before = self._n
        copy = self._minimised.minimised(atoms)
        self.calls.append(self._n - before)
        return copy


def timed(function: Callable[[Atoms], Atoms], timings: dict[str, list[float]], name: str) -> Callable[[Atoms], Atoms]:
    """The same function; its time in us per atom goes into the list of that name."""

    def wrapped(atoms: Atoms) -> Atoms:
        start = time.perf_counter()
        result = function(atoms)
        timings.setdefault(name, []).append((time.perf_counter() - start) * 1e6 / len(atoms))
        return result

    return wrapped


def load(folder: Path, name: str, smoothers: dict[str, Callable[[Atoms], Atoms]]) -> Run:
    """Settled frames of a run, as they are and smoothed in all ways."""
    start = time.perf_counter()
    ptm = {key: np.load(folder / f"{name}.{file}.npz") for key, file in (("frames", "ptm"), ("averages", "ptm_avg"))}
    raw = read(folder / f"{name}.extxyz", ":")
    averaged = list(TimeAveraged().frames(folder / f"{name}_dense.extxyz"))
    ps = np.array([atoms.info["ps"] for atoms in raw])
    lags = ps - np.array([atoms.info["ps"] for atoms in averaged])
    if not (np.allclose(lags, 0.02) and all(np.allclose(found["ps"], ps) for found in ptm.values())):
        sys.exit(f"{name}: frames, averages and PTM are not of the same times")
    settled = np.flatnonzero(ps > (0 if name == SOLID else SETTLED))
    frames = {"raw": [raw[i] for i in settled], "averaged": [averaged[i] for i in settled]}
    for way, smooth in smoothers.items():
        frames[way] = [smooth(atoms) for atoms in frames["raw"]]
    print(f"{name}: {len(settled)} frames in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return Run(ps[settled], frames, {key: found["types"][settled] > 0 for key, found in ptm.items()})


def held_out(liquid: Run) -> NDArray[np.bool_]:
    """Frames of the liquid that are not in its reference: every other block."""
    return (liquid.ps - 1e-6) // BLOCK % 2 == 0


def liquid_parts(liquid: Run, way: str) -> tuple[list[Atoms], list[Atoms]]:
    """Frames of the reference, and held-out frames."""
    out = held_out(liquid)
    frames = liquid.frames[way]
    return [f for f, o in zip(frames, out, strict=True) if not o], [f for f, o in zip(frames, out, strict=True) if o]


def reference_of(frames: list[Atoms], way: str) -> Reference:
    """A reference of frames that are smoothed already."""
    return Reference.from_frames(frames, descriptor=descriptor_of(way), bandwidth=0.015, threads=1)


def descriptor_of(way: str) -> Descriptor | TimeAveraged:
    """What makes rows of frames that are smoothed already."""
    return TimeAveraged() if way == "averaged" else Descriptor()


def delta_entropies(reference: Reference, frames: Iterable[Atoms]) -> Numbers:
    """(n_frames, n_atoms) dH in nats."""
    return np.array([reference.delta_entropy(atoms) for atoms in frames])


def both_phases(run: Run) -> NDArray[np.bool_]:
    """Frames that hold both phases."""
    share = run.crystal["averages"].mean(axis=1)
    return (share > BOTH[0]) & (share < BOTH[1])


def plain(runs: dict[str, Run]) -> None:
    """Atoms above the 99 % level of the liquid."""
    print(
        f"Share of atoms above the dH that {RATE:.0%} of held-out atoms of the liquid (900 K) exceed, h = 0.015; the "
        f"liquid's reference has {(~held_out(runs[LIQUID])).sum()} frames. Freezing runs at 700 K, before and after; a "
        "perfect crystal at 700 K. AUC: of dH for crystalline atoms (PTM of averages) in frames that hold both phases."
    )
    columns = [column for name in FREEZING for column in (f"{name} early", "late", "late, crystalline", "AUC")]
    print(f"\n| frames | level | {' | '.join(columns)} | crystal |\n|{'--|' * (len(columns) + 3)}")
    for way in runs[SOLID].frames:
        known, others = liquid_parts(runs[LIQUID], way)
        reference = reference_of(known, way)
        level = np.quantile(delta_entropies(reference, others), 1 - RATE)
        cells = [f"{level:.2f}"]
        for name in FREEZING:
            run = runs[name]
            dh = delta_entropies(reference, run.frames[way])
            both, late, truth = both_phases(run), run.ps > LATE, run.crystal["averages"]
            cells += [f"{(dh[part] > level).mean():.1%}" for part in (run.ps <= EARLY, late)]
            cells += [f"{(dh[late] > level)[truth[late]].mean():.1%}", f"{auc(dh[both], truth[both]):.3f}"]
        cells.append(f"{(delta_entropies(reference, runs[SOLID].frames[way]) > level).mean():.1%}")
        print("|", " | ".join([way, *cells]), "|", flush=True)


def alarms(runs: dict[str, Run]) -> None:
    """When events open."""
    print(
        "\nTimes in ps. Default: the first event by the default alarms, levels by the liquid of 900 K, one check per "
        f"ps, three in a row. Entropy: the {IN_A_ROW}rd frame in a row whose frame entropy is {DEVIATIONS} deviations "
        f"below the mean of {SETTLED + 1}-{EARLY} ps; in brackets mean, deviation, and the mean after {LATE} ps, nats. "
        f"PTM: when {BOTH[0]:.0%} of atoms are crystalline to the end. Last columns: held-out frames of the "
        "liquid, and all of it, where nothing happens.\n"
    )
    columns = [f"{name}: {what}" for name in (*FREEZING, "liquid") for what in ("default", "entropy")]
    print(f"| frames | {' | '.join(columns)} |\n|{'--|' * (len(columns) + 1)}")
    for way in runs[SOLID].frames:
        known, others = liquid_parts(runs[LIQUID], way)
        calibration = calibrate(reference_of(known, way), frames=others, threads=1)
        cells = []
        for name in (*FREEZING, LIQUID):
            run = runs[name]
            chosen = held_out(run) if name == LIQUID else np.ones(len(run.ps), dtype=bool)
            cells += [first_event(reference_of(known, way), calibration, run, way, chosen), fall(run, way)]
        print("|", " | ".join([way, *cells]), "|", flush=True)
    for key in ("averages", "frames"):
        cells = [cell for name in FREEZING for cell in (lasting(runs[name], key), "")]
        print("|", " | ".join([f"PTM of {key}", *cells, "", ""]), "|", flush=True)


def first_event(reference: Reference, calibration: Calibration, run: Run, way: str, chosen: NDArray[np.bool_]) -> str:
    """Time and alarms of the first event of a run by the default alarms."""
    with Monitor(reference, calibration, log=None, on_error="raise", threads=1) as monitor:
        for i in np.flatnonzero(chosen):
            check = monitor.check(run.frames[way][i], time_ps=run.ps[i])
            if monitor.events:
                return f"{run.ps[i]:.0f} ({', '.join(check.alarms)})"
    return "none"


def fall(run: Run, way: str) -> str:
    """When the frame entropy has fallen."""
    values = np.array([entropy(descriptor_of(way)(atoms), 0.015) for atoms in run.frames[way]])
    early, late = values[run.ps <= EARLY], values[run.ps > LATE]
    low = (values < early.mean() - DEVIATIONS * early.std(ddof=1)) & (run.ps > EARLY)
    third = np.flatnonzero(np.convolve(low, np.ones(IN_A_ROW))[: len(low)] == IN_A_ROW)
    found = f"{run.ps[third[0]]:.0f}" if len(third) else "none"
    return f"{found} ({early.mean():.3f}, {early.std(ddof=1):.3f}, {late.mean():.3f})"


def lasting(run: Run, key: str) -> str:
    """When PTM first sees crystal that lasts."""
    below = np.flatnonzero(run.crystal[key].mean(axis=1) < BOTH[0])
    return f"{run.ps[below[-1] + 1]:.0f}" if len(below) and below[-1] + 1 < len(run.ps) else "none"


def ratios(runs: dict[str, Run], name: str) -> None:
    """How well the density ratio tells crystal from liquid."""
    run, solid = runs[name], runs[SOLID]
    both, early = both_phases(run), run.ps <= EARLY
    truths = {key: run.crystal[key][both] for key in ("averages", "frames")}
    n = len(solid.ps)
    print(
        f"\n{name}: L = dH(liquid) - dH(solid) per atom against PTM in the {both.sum()} frames that hold both phases "
        f"({truths['averages'].mean():.0%} of their atoms crystalline by PTM of averages, "
        f"{truths['frames'].mean():.0%} by PTM of frames); references of {n} frames each (solid 700 K, liquid 900 K); "
        f"thresholds that {RATE:.0%} of held-out atoms of the liquid exceed. The other h is "
        f"the one of {', '.join(map(str, BANDWIDTHS))} with which held-out solid and liquid have the mean dH that raw "
        "rows have with 0.015. Mean over neighbours: of L, over the atom and those within "
        f"{LINK:.2f} Å.\n"
    )
    print(
        f"| frames | h | L | threshold | above it, {SETTLED + 1}-{EARLY} ps | precision | recall | AUC | precision, "
        "PTM of frames | recall | AUC |\n|--|--|--|--|--|--|--|--|--|--|--|"
    )
    usual: float | None = None
    for way in run.frames:
        known, others = liquid_parts(runs[LIQUID], way)
        of_liquid = reference_of(known[:: max(1, len(known) // n)][:n], way)
        of_solid = reference_of(solid.frames[way], way)
        means = {
            h: solid_mean(solid.frames[way], way, h) + delta_entropies(of_liquid.with_bandwidth(h), others[::5]).mean()
            for h in BANDWIDTHS
        }
        usual = means[0.015] if usual is None else usual
        suited = min(BANDWIDTHS, key=lambda h: abs(means[h] - usual))
        for h in sorted({0.015, suited}):
            pair = of_liquid.with_bandwidth(h), of_solid.with_bandwidth(h)
            null, quiet, mixed = (
                [delta_entropies(pair[0], part) - delta_entropies(pair[1], part), part]
                for part in (
                    others,
                    [f for f, e in zip(run.frames[way], early, strict=True) if e],
                    [f for f, b in zip(run.frames[way], both, strict=True) if b],
                )
            )
            for of, average in (("of the atom", False), ("mean over neighbours", True)):
                l_null, l_quiet, l_mixed = (
                    over_neighbours(values, frames) if average else values for values, frames in (null, quiet, mixed)
                )
                threshold = np.quantile(l_null, 1 - RATE)
                cells = [f"{threshold:.2f}", f"{(l_quiet > threshold).mean():.1%}"]
                for truth in truths.values():
                    flagged = l_mixed > threshold
                    hits = (flagged & truth).sum()
                    cells += [f"{hits / max(flagged.sum(), 1):.3f}", f"{hits / truth.sum():.3f}"]
                    cells.append(f"{auc(l_mixed, truth):.3f}")
                print("|", " | ".join([way, f"{h:g}", of, *cells]), "|", flush=True)


def solid_mean(frames: list[Atoms], way: str, h: float) -> float:
    """Mean dH of the second half of the solid against the first."""
    half = len(frames) // 2
    return float(delta_entropies(reference_of(frames[:half], way).with_bandwidth(h), frames[half::5]).mean())


def over_neighbours(values: Numbers, frames: list[Atoms]) -> Numbers:
    """Mean over each atom and its neighbours, frame by frame."""
    means = np.empty_like(values)
    for i, atoms in enumerate(frames):
        here, there = neighbor_list("ij", atoms, LINK)
        total = values[i] + np.bincount(here, values[i][there], len(atoms))
        means[i] = total / (1 + np.bincount(here, minlength=len(atoms)))
    return means


def auc(values: Numbers, truth: NDArray[np.bool_]) -> float:
    """Chance that a true one has a larger value than a false one."""
    ranks, yes = rankdata(values.ravel()), truth.ravel()
    n_yes, n_no = int(yes.sum()), int((~yes).sum())
    return float((ranks[yes].sum() - n_yes * (n_yes + 1) / 2) / (n_yes * n_no))


def costs(folder: Path, runs: dict[str, Run], timings: dict[str, list[float]], calls: dict[str, Counting]) -> None:
    """What a check takes."""
    known, others = liquid_parts(runs[LIQUID], "raw")
    reference = reference_of(known, "raw")
    reference.delta_entropy(others[0])
    check: list[float] = []
    for atoms in others:
        start = time.perf_counter()
        reference.delta_entropy(atoms)
        check.append((time.perf_counter() - start) * 1e6 / len(atoms))
    snapshots = read(folder / f"{SOLID}_dense.extxyz", ":200")
    window, push, mean = Window(10), [], []
    for atoms in snapshots:
        start = time.perf_counter()
        window.push(atoms)
        push.append((time.perf_counter() - start) * 1e6 / len(atoms))
        if window.is_full:
            start = time.perf_counter()
            window.mean(atoms)
            mean.append((time.perf_counter() - start) * 1e6 / len(atoms))
            window.clear()
    print("\n| what | us per atom, min / median | force calls, median |\n|--|--|--|")
    print(f"| rows and dH against {reference.n_environments} rows | {min_median(check)} | 0 |")
    print(f"| averaged: one of ten snapshots | {min_median(push)} | 0 |")
    print(f"| averaged: the mean | {min_median(mean)} | 0 |")
    for name, times in timings.items():
        print(f"| {name} (LAMMPS in this process, EAM) | {min_median(times)} | {np.median(calls[name].calls):.0f} |")


def min_median(values: list[float]) -> str:
    """Two numbers of a list of times."""
    return f"{min(values):.3g} / {np.median(values):.3g}"


if __name__ == "__main__":
    main()
