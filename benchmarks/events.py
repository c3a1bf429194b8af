"""What events open, when, and with which atoms: melting, defects, explosions, and runs where nothing happens.

python benchmarks/events.py --cache FOLDER [PART ...]    prints tables; with --into docs/events.md it renews the page
"""

import argparse
import json
import re
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.io import iread, read, write
from ase.md.langevin import Langevin
from ase.md.nptberendsen import NPTBerendsen
from ase.md.verlet import VelocityVerlet
from defects import crystal, slab, with_dumbbell, with_fault, with_vacancy
from md import CONDITIONS, POTENTIALS, SETTLE_PS, SPACING_PS, Simulation
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from quests_md import Calibration, Event, Minimised, Monitor, Phases, Reference, calibrate, read_log, save_frame
from quests_md.environments import clusters
from quests_md.lammps import lammps_calculator, potential

CELLS = (4, 4, 4)
N_REFERENCE, N_FRAMES, N_QUIET = 200, 40, 200
TEMPERATURES_K = (300, 900)
#: Shells of fcc in units of the nearest-neighbour distance: the first, and the third, up to which 32 neighbours reach.
FIRST_SHELL, SEES = 1.2, 1.87
#: (111) layers of the faulted crystal and (100) cells of the slab: enough for atoms that see no defect.
FAULT_SIZE, SLAB_CELLS = (4, 6, 11), (4, 4, 6)

#: K, of the runs at zero pressure of which a reference of the heated crystal is made, and frames of each.
COLD_K, WARM_K = (300, 500, 700, 900), (300, 500, 700, 900, 1100, 1300)
LIQUID_K = (1300, 1500, 1700)
N_PER_TEMPERATURE = 50
#: The crystal that is heated, its time step, and steps between checks.
HEATED_CELLS, STEP_FS, INTERVAL, SETTLE_STEPS = (5, 5, 5), 5.0, 50, 400
HEATED_PS, MELTING_K, UNMELTED_K = 30.0, 2000.0, 1200.0
#: The crystal with a void melts from there at this temperature, which the perfect one survives.
VOID_K, VOID_ATOMS = 1450.0, 24
MELTING_RUNS = (
    ("heated", MELTING_K, 1),
    ("heated", MELTING_K, 2),
    ("heated", UNMELTED_K, 1),
    ("void", VOID_K, 1),
    ("void", VOID_K, 2),
)

#: The default before there were averaged rows, and how it is called in tables.
PLAIN, BEFORE = ("dh_max", "tail_cluster", "dh_mean"), "before"

#: Rates of false alarms of checks that are worth a minimised copy.
SIEVES = (0.01, 0.3)

#: Å of vacuum above a slab, and eV given to an atom of its surface.
FLIGHT_GAP, KICK_EV = 40.0, 8.0

#: fs, steps of an exploding run, and seeds.
BROKEN_STEPS_FS, BROKEN_STEPS, SEEDS = (20, 30, 50, 100), 150, (1, 2, 3)
#: What numbers are impossible, as docs/events.md says: share of the closest pair, times the median temperature.
CLOSE, HOT = 0.8, 5.0

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


def main() -> None:
    """Run the parts that are named, default all."""
    parser = argparse.ArgumentParser(description="Print what events open, or renew the tables of a page.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the frames of references")
    parser.add_argument("--into", type=Path, help="page with markers <!-- begin NAME --> and <!-- end NAME -->")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    arguments.cache.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts or PARTS:
        for name, text in PARTS[part](arguments.cache):
            if arguments.into is None:
                print(f"## {name}\n\n{text}\n", flush=True)
            else:
                renew(arguments.into, name, text)


def renew(page: Path, name: str, text: str) -> None:
    """Put a text between its markers in a page."""
    old = page.read_text()
    pattern = re.compile(rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
    if not pattern.search(old):
        raise ValueError(f"{page}: no markers of {name!r}")
    page.write_text(pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", old))


# --- melting


def melting(cache: Path) -> Iterator[tuple[str, str]]:
    """Crystals heated through melting, heated but not molten, and molten from a void, under four monitors each."""
    warm, liquid = zero_pressure(cache, "solid", WARM_K), zero_pressure(cache, "liquid", LIQUID_K)
    cold = [atoms for atoms in warm if atoms.info["bath_K"] <= max(COLD_K)]
    narrow, wide = Reference.from_frames(cold), Reference.from_frames(warm)
    phases = Phases({"fcc": wide, "liquid": Reference.from_frames(liquid)}, parent="fcc")
    levels = {id(reference): calibrate(reference) for reference in (narrow, wide)}
    before = {key: calibration.with_statistics(PLAIN) for key, calibration in levels.items()}
    monitors: list[tuple[str, Reference, Calibration, dict[str, Any]]] = [
        ("300 to 900 K", narrow, levels[id(narrow)], {}),
        (f"300 to 900 K, {BEFORE}", narrow, before[id(narrow)], {}),
        ("300 to 1300 K", wide, levels[id(wide)], {}),
        (f"300 to 1300 K, {BEFORE}", wide, before[id(wide)], {}),
        ("300 to 1300 K, `baseline_ps=5`", wide, levels[id(wide)], {"baseline_ps": 5.0}),
        ("300 to 1300 K, `phases=`", wide, levels[id(wide)], {"phases": phases}),
    ]
    lines, histories = [], []
    examples: dict[str, str] = {}
    for run, last_K, seed in MELTING_RUNS:
        label = f"{run} to {last_K:.0f} K, seed {seed}"
        frames = cached(cache / f"{label}.traj", partial(heat, run, last_K, seed))
        molten = next((atoms for atoms in frames if atoms.info["off_site"] >= 0.5), None)
        end = "stays solid" if molten is None else moment(molten)
        for name, reference, calibration, options in monitors:
            monitor = Monitor(reference, calibration, log=None, on_error="raise", **options)
            opened: dict[tuple[int, str], Atoms] = {}
            for step, atoms in enumerate(frames):
                monitor.check(atoms, step, atoms.info["ps"])
                for event in monitor.events:
                    opened.setdefault((event.id, event.kind), atoms)
            for event in monitor.events:
                kind = event.kind if event.phase is None else f"{event.kind}: {event.phase}"
                when = moment(frames[event.onset_step]), moment(opened[event.id, event.kind])
                end_of = "open" if event.is_open else moment(frames[event.last_step])
                lines.append([label, end, name, kind, *when, end_of])
                if BEFORE not in name:
                    examples.setdefault(kind_of_example(event), event.describe())
                if seed == 1 and "baseline" not in name and max(size for _, size in event.size_history) > 0:
                    sizes = [f"{frames[i].info['ps']:.1f}: {size}" for i, size in some(event.size_history)]
                    histories.append([label, name, kind, ", ".join(sizes), event.cluster])
            if not monitor.events:
                lines.append([label, end, name, "none", "", "", ""])
        print(label, file=sys.stderr, flush=True)
    header = ["run", "half off their sites", "reference", "event", "onset", "opened as this kind", "last check out"]
    yield "melting", table(header, lines)
    yield "histories", table(["run", "reference", "event", "`size_history`, ps: atoms", "`cluster`"], histories)
    yield "phases", f"```\n{phases.describe()}\n```"
    for key, text in examples.items():
        yield f"example {key}", f"```\n{text}\n```"


def moment(atoms: Atoms) -> str:
    """When and how hot it was, the share of atoms off their sites, and the order of the lattice."""
    return (
        f"{atoms.info['ps']:.1f} ps, {atoms.get_temperature():.0f} K, {atoms.info['off_site']:.0%}, {order(atoms):.2f}"
    )


def order(atoms: Atoms) -> float:
    """Strength of the (111) reflections of the lattice that the run began with: 1 at rest, 0 in a liquid."""
    scaled = atoms.get_scaled_positions(wrap=False)
    planes = np.array([(1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1)]) * np.array(HEATED_CELLS)
    return float(np.mean(np.abs(np.exp(2j * np.pi * scaled @ planes.T).mean(axis=0)) ** 2))


def kind_of_example(event: Event) -> str:
    """What tells the examples of the page apart."""
    if event.kind != "transition":
        return "heat"
    return "phase" if event.phase else "growth" if event.reason.startswith("a connected cluster") else "baseline"


def heat(run: str, last_K: float, seed: int) -> Iterator[Atoms]:
    """Heat a crystal at zero pressure: frames with `info["ps"]` and the share of atoms off their sites."""
    atoms = crystal(CONDITIONS["Cu-solid-300K"].volume, HEATED_CELLS)
    start, rise_ps = 300.0, HEATED_PS
    if run == "void":  # hot from the start, so that it is the void and not the heat that melts it
        start, rise_ps = 0.85 * last_K, 0.1 * HEATED_PS
        centre = atoms.cell.lengths() / 2
        del atoms[np.argsort(np.linalg.norm(atoms.positions - centre, axis=1), kind="stable")[:VOID_ATOMS]]
    thermal(atoms, 2 * start, np.random.default_rng(seed))
    atoms.calc = eam()
    dyn = NPTBerendsen(
        atoms,
        STEP_FS * units.fs,
        temperature_K=start,
        pressure_au=0.0,
        taut=100 * units.fs,
        taup=500 * units.fs,
        compressibility_au=1 / (140 * units.GPa),
    )
    dyn.run(SETTLE_STEPS)
    sites = atoms.get_scaled_positions(wrap=False)
    for step in range(0, round(HEATED_PS * 1e3 / STEP_FS) + 1, INTERVAL):
        ps = step * STEP_FS * 1e-3
        frame = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True, momenta=atoms.get_momenta())
        frame.info |= {"ps": ps, "off_site": off_site(atoms, sites)}
        yield frame
        dyn.set_temperature(temperature_K=start + (last_K - start) * min(1.0, ps / rise_ps))
        dyn.run(INTERVAL)


def off_site(atoms: Atoms, sites: Numbers) -> float:
    """Share of atoms farther from their site than half the distance between neighbours."""
    shift = atoms.get_scaled_positions(wrap=False) - sites
    distance = np.linalg.norm((shift - np.median(shift, axis=0)) @ atoms.cell.array, axis=1)
    return float(np.mean(distance > (np.sqrt(2) * atoms.get_volume() / len(atoms)) ** (1 / 3) / 2))


def some(pairs: Sequence[tuple[int, int]], most: int = 10) -> list[tuple[int, int]]:
    """Pairs of a size history, evenly."""
    return [pairs[int(i)] for i in np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round())]


# --- defects


@dataclass
class Score:
    """Flagged atoms against known ones, over the frames of a run."""

    flagged: int = 0
    known: int = 0
    both: int = 0
    seeing: int = 0

    def add(self, flagged: Flags, known: Flags, seeing: Flags) -> None:
        """Take a frame: what was flagged, the atoms of the defect, and all that have it among their neighbours."""
        self.flagged += int(flagged.sum())
        self.known += int(known.sum())
        self.both += int((flagged & known).sum())
        self.seeing += int((flagged & seeing).sum())

    def __str__(self) -> str:
        """Precision, precision for atoms that see the defect, and recall, in %."""
        if not self.flagged:
            return "none flagged"
        shares = (self.both, self.flagged), (self.seeing, self.flagged), (self.both, self.known)
        return ", ".join(share(*pair) for pair in shares)


def defects(cache: Path) -> Iterator[tuple[str, str]]:
    """Defects in hot crystals."""
    lines, examples = [], {}
    for kelvin in TEMPERATURES_K:
        reference, levels = fixed_volume(cache, kelvin)
        for name, (start, truth) in defective(kelvin).items():
            run = partial(defective_run, kelvin, name, start, free=truth is Sites)
            frames = cached(cache / f"{name}-{kelvin}K.traj", run)
            known = truth(start, crystal_sites(start, name))
            of_frames = [known(atoms) for atoms in frames]
            for default, calibration in {"default": levels, BEFORE: levels.with_statistics(PLAIN)}.items():
                monitor = Monitor(reference, calibration, log=None, on_error="raise")
                score, of_clusters, of_events = Score(), Score(), Score()
                alarms, n_out, worst = dict[str, None](), 0, 0
                for i, (atoms, (near, seeing)) in enumerate(zip(frames, of_frames, strict=True)):
                    judged = monitor.judge.judge(atoms, step=i * 200, frame=i, time_ps=i * SPACING_PS)
                    check = monitor.watch.accept(judged, atoms)
                    score.add(np.asarray(check.above), near, seeing)
                    if {"local_cluster", "tail_cluster"} & {*check.alarms} and judged.tail is not None:
                        cluster = np.zeros(len(atoms), dtype=bool)
                        cluster[clusters(atoms, judged.tail, reference.pair_distances())[0]] = True
                        of_clusters.add(cluster, near, seeing)
                    n_out += check.state == "out"
                    worst += check.state == "out" and bool(near[check.worst_atom or 0])
                    alarms |= dict.fromkeys(check.alarms)
                for event in monitor.events:
                    flags = np.zeros(len(frames[0]), dtype=bool)
                    flags[list(event.atoms)] = True
                    of_events.add(flags, *of_frames[event.peak_step // 200])
                lines.append(
                    [
                        f"{name}, {kelvin} K",
                        default,
                        share(n_out, N_FRAMES),
                        ", ".join(alarms),
                        share(worst, n_out),
                        score,
                        of_clusters,
                        len(monitor.events),
                        of_events,
                    ]
                )
                if name == "vacancy" and monitor.events and default != BEFORE:
                    examples[kelvin] = monitor.events[0].describe()
    header = [
        "defect",
        "statistics",
        "checks out, %",
        "alarms",
        "worst atom is of the defect, %",
        "atoms above their level",
        "largest cluster",
        "events",
        "atoms of the event",
    ]
    yield "defects", table(header, lines)
    for kelvin, text in examples.items():
        yield f"example vacancy {kelvin} K", f"```\n{text}\n```"


def defective_run(kelvin: float, name: str, start: Atoms, *, free: bool) -> Iterator[Atoms]:
    """Frames of a crystal with a defect, half a picosecond apart; `free`: at the volume of zero pressure."""
    simulation = Simulation("Cu", start, temperature_K=kelvin, seed=seed_of(name, kelvin))
    if free:
        simulation.equilibrate(20.0)
    simulation.run(SETTLE_PS)
    yield from simulation.frames(N_FRAMES)
    simulation.close()


def defective(kelvin: float) -> dict[str, tuple[Atoms, Any]]:
    """Starting structures, and what says which of their atoms are of the defect."""
    volume = CONDITIONS[f"Cu-solid-{kelvin:g}K"].volume
    perfect = crystal(volume, CELLS)
    return {
        "none": (perfect, Nothing),
        "vacancy": (with_vacancy(perfect), Sites),
        "interstitial": (with_dumbbell(perfect), Sites),
        "stacking fault": (with_fault(volume, FAULT_SIZE), Layers),
        "surface (100)": (slab(volume, SLAB_CELLS), Layers),
    }


def crystal_sites(start: Atoms, name: str) -> Numbers:
    """Scaled positions of the sites of the perfect crystal."""
    if name in ("vacancy", "interstitial"):
        return np.asarray(crystal(1.0, CELLS).get_scaled_positions())
    return np.asarray(start.get_scaled_positions())


class Nothing:
    """No defect."""

    def __init__(self, start: Atoms, sites: Numbers) -> None:
        self.flags = np.zeros(len(start), dtype=bool)

    def __call__(self, atoms: Atoms) -> tuple[Flags, Flags]:
        """Atoms of the defect, and those that see it."""
        return self.flags, self.flags


class Layers:
    """Outermost layers along z: of a slab the surfaces, of the faulted crystal those that are stacked as in hcp.

    Atoms stay in their layer. With 32 neighbours those of the next two layers see the defect too.
    """

    def __init__(self, start: Atoms, sites: Numbers) -> None:
        layer = np.unique(np.round(start.positions[:, 2], 3), return_inverse=True)[1]
        depth = np.minimum(layer, layer.max() - layer)
        self.near, self.seeing = depth == 0, depth <= 2

    def __call__(self, atoms: Atoms) -> tuple[Flags, Flags]:
        """Atoms of the defect, and those that see it."""
        return self.near, self.seeing


class Sites:
    """Atoms around sites that hold no atom or two, each atom being at the site nearest to it (Wigner-Seitz).

    Known are the atoms of such a site and of its twelve neighbours; those up to the third shell see it.
    """

    def __init__(self, start: Atoms, sites: Numbers) -> None:
        self.sites, self.shift = sites, np.zeros(3)

    def __call__(self, atoms: Atoms) -> tuple[Flags, Flags]:
        """Atoms of the defect, and those that see it."""
        lengths = atoms.cell.lengths()
        sites = (self.sites * lengths) % lengths
        tree = cKDTree(sites, boxsize=lengths)
        for _ in range(3):  # the crystal drifts
            where = (atoms.positions - self.shift) % lengths
            _, owner = tree.query(where)
            step = where - sites[owner]
            step -= np.round(step / lengths) * lengths
            self.shift += np.median(step, axis=0)
        count = np.bincount(owner, minlength=len(sites))
        neighbours = (np.sqrt(2) * lengths.prod() / len(sites)) ** (1 / 3)
        flags = []
        for shell in (FIRST_SHELL, SEES):
            around = tree.query_ball_point(sites[count != 1], shell * neighbours)
            flags.append(np.isin(owner, [site for found in around for site in found]))
        return flags[0], flags[1]


def flying(cache: Path) -> Iterator[tuple[str, str]]:
    """An atom shot out of the surface of a slab, against a reference of slabs."""
    lines, example = [], ""
    for kelvin in TEMPERATURES_K:
        volume = CONDITIONS[f"Cu-solid-{kelvin:g}K"].volume

        def run(seed: int, n: int, kelvin: float = kelvin, volume: float = volume) -> Iterable[Atoms]:
            simulation = Simulation("Cu", slab(volume, CELLS), temperature_K=kelvin, seed=seed_of("slab", kelvin, seed))
            simulation.run(SETTLE_PS)
            yield from simulation.frames(n)
            simulation.close()

        reference = Reference.from_frames(cached(cache / f"slab-{kelvin}K.traj", partial(run, 0, N_REFERENCE)))
        levels = calibrate(reference)
        for seed in SEEDS:
            (atoms,) = run(seed, 1)
            bottom = float(np.sort(atoms.positions[:, 2])[:16].mean())
            atoms.positions[:, 2] += 6.0 - bottom
            x, y, z = atoms.cell.lengths()
            atoms.set_cell(np.diag([x, y, z - 12.0 + FLIGHT_GAP]))
            rng = np.random.default_rng(seed)
            thermal(atoms, kelvin, rng)
            top = np.argsort(-atoms.positions[:, 2])[:32]
            surface = float(atoms.positions[top, 2].mean())
            flyer = int(rng.choice(top))
            momenta = atoms.get_momenta()
            momenta[flyer] = [0.0, 0.0, np.sqrt(2 * KICK_EV * atoms.get_masses()[flyer])]
            atoms.set_momenta(momenta)
            hole = np.linalg.norm(atoms.positions - atoms.positions[flyer], axis=1) < SEES * 2.56
            atoms.calc = eam()
            dyn = VelocityVerlet(atoms, 2.5 * units.fs)
            monitor = Monitor(reference, levels, log=None, on_error="raise")
            monitor.attach(dyn, 10)
            rows: list[tuple[float, str, bool, bool, int, int]] = []

            def look(
                atoms: Atoms = atoms,
                monitor: Monitor = monitor,
                flyer: int = flyer,
                hole: Flags = hole,
                surface: float = surface,
                rows: list[tuple[float, str, bool, bool, int, int]] = rows,
            ) -> None:
                check = monitor.last_check
                assert check is not None
                assert check.above is not None
                others = check.above & ~(np.arange(len(atoms)) == flyer)
                n_near, n_else = int((others & hole).sum()), int((others & ~hole).sum())
                height, is_worst = float(atoms.positions[flyer, 2]) - surface, check.worst_atom == flyer
                rows.append((height, check.state, bool(check.above[flyer]), is_worst, n_near, n_else))

            dyn.attach(look, 10)
            dyn.run(400)
            gone = [row for row in rows if row[0] > 2.6]
            event = monitor.events[0] if monitor.events else None
            first = next((row[0] for row in rows if row[1] == "out"), None)
            confirmed = None if event is None else rows[event.confirmed_step // 10][0]
            lines.append(
                [
                    kelvin,
                    seed,
                    f"{rows[-1][0]:.0f}",
                    "-" if first is None else f"{first:.1f}",
                    "-" if confirmed is None else f"{confirmed:.1f}",
                    len(gone),
                    sum(row[2] for row in gone),
                    sum(row[3] for row in gone),
                    f"{np.mean([row[4] for row in gone]):.1f}",
                    f"{np.mean([row[5] for row in gone]):.1f}",
                    len(monitor.events),
                    "yes" if event and flyer in event.atoms else "no",
                ]
            )
            if event is not None and not example:
                example = event.describe()
    header = [
        "K",
        "seed",
        "height at the end, Å",
        "height at the first check out, Å",
        "height when the event opens, Å",
        "checks above 2.6 Å",
        "atom flagged",
        "atom the worst",
        "others flagged that see the hole",
        "others flagged elsewhere",
        "events",
        "atom in the event",
    ]
    yield "flying", table(header, lines)
    yield "example flying", f"```\n{example}\n```"


# --- minimised copies


class CountedEAM(Minimised):
    """Copies minimised with the embedded-atom potential; counts frames and seconds."""

    def __init__(self) -> None:
        super().__init__(eam, "Cu_u3.eam", steps=50)
        self.frames, self.seconds = 0, 0.0
        self._n_atoms = 0

    def minimised(self, atoms: Atoms) -> Atoms:
        """As it is there."""
        if len(atoms) != self._n_atoms:  # a LAMMPS that is kept alive does not survive that
            self._calculator, self._n_atoms = None, len(atoms)
        start = time.perf_counter()
        copy = super().minimised(atoms)
        self.frames, self.seconds = self.frames + 1, self.seconds + time.perf_counter() - start
        return copy


def confirmed(cache: Path) -> Iterator[tuple[str, str]]:
    """Defects judged as they are, as minimised copies, and as minimised copies where a sieve asks for them."""
    lines = []
    for kelvin in TEMPERATURES_K:
        reference, levels = fixed_volume(cache, kelvin)
        smooth = CountedEAM()
        of_copies = Reference.from_frames(
            cached(cache / f"crystal-{kelvin}K.traj", lambda: ()), descriptor=smooth, bandwidth=reference.bandwidth
        )
        levels_of_copies = calibrate(of_copies)
        monitors: dict[str, tuple[Reference, Calibration, dict[str, Any]]] = {
            "frames as they are": (reference, levels, {}),
            f"frames as they are, {BEFORE}": (reference, levels.with_statistics(PLAIN), {}),
            "minimised copies": (of_copies, levels_of_copies, {}),
        }
        for rate in SIEVES:
            sieve = calibrate(reference, false_alarms=rate)
            monitors[f"sieve of {rate:g}, `confirm=` copies"] = (
                reference,
                sieve,
                {"confirm": (of_copies, levels_of_copies)},
            )
        runs = {
            f"none, seed {seed}": cached(
                cache / f"quiet-{kelvin}K-{seed}.traj", partial(fixed_run, kelvin, seed, N_QUIET)
            )
            for seed in (11, 12)
        }
        for name, (start, truth) in defective(kelvin).items():
            if truth is not Nothing:
                run = partial(defective_run, kelvin, name, start, free=truth is Sites)
                runs[name] = cached(cache / f"{name}-{kelvin}K.traj", run)
        for name, frames in runs.items():
            for how, (known, calibration, options) in monitors.items():
                monitor = Monitor(known, calibration, log=None, on_error="raise", **options)
                smooth.frames, smooth.seconds = 0, 0.0
                checks = [monitor.check(atoms, i * 200, i * SPACING_PS) for i, atoms in enumerate(frames)]
                n_out = sum(check.state == "out" for check in checks)
                events = ", ".join(f"{event.kind} at {event.confirmed_step // 200}" for event in monitor.events)
                shares = share(n_out, len(checks)), share(smooth.frames, len(checks))
                milliseconds = 1000 * smooth.seconds / max(smooth.frames, 1)
                lines.append(
                    [f"{name}, {kelvin} K", len(checks), how, *shares, events or "none", f"{milliseconds:.0f}"]
                )
    header = ["defect", "checks", "judged", "checks out, %", "minimised, %", "events, at check", "ms per copy"]
    yield "confirmed", table(header, lines)


# --- explosions


@dataclass
class Witness:
    """Tells by itself at which checks numbers are impossible: naive code, nothing of quests_md."""

    closest: float
    """Å, closest pair of the reference."""
    bad: dict[int, str] = field(default_factory=dict)
    """Why, by step."""
    steps: list[int] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)

    def look(self, atoms: Atoms, step: int) -> None:
        """Take the frame of a check."""
        self.steps.append(step)
        reasons = []
        momenta = atoms.get_momenta() if atoms.has("momenta") else None
        if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
            reasons.append("positions not finite")
        elif nearest_pair(atoms) < CLOSE * self.closest:
            reasons.append("close pair")
        if momenta is not None:
            kelvin = float(atoms.get_temperature())
            if not np.isfinite(momenta).all():
                reasons.append("momenta not finite")
            elif len(self.temperatures) >= 3 and kelvin > HOT * max(median(self.temperatures[-101:]), 200.0):
                reasons.append("hot")
            elif not np.isfinite(kelvin):
                reasons.append("temperature infinite")
            elif not reasons:
                self.temperatures.append(kelvin)
        if reasons:
            self.bad[step] = ", ".join(reasons)


def explosions(cache: Path) -> Iterator[tuple[str, str]]:
    """Time steps that are too long."""
    lines, lost, example = [], [], ""
    for name, make in CALCULATORS.items():
        reference, levels, closest = known_crystal(cache, name)
        for step_fs in BROKEN_STEPS_FS:
            rows: dict[int, list[list[Any]]] = {1: [], 10: []}
            for seed in SEEDS:
                found = explode(make, reference, levels, closest, step_fs, seed)
                for interval, (cells, event, _) in found.items():
                    rows[interval].append(cells)
                    example = example or (event.describe() if event is not None else "")
                if found[1][2]:
                    lost.append([name, step_fs, seed, *found[1][2]])
            for interval, cells in rows.items():
                what, after = ("; ".join(dict.fromkeys(str(row[i]) for row in cells)) for i in range(2))
                at = ", ".join(f"{row[2]}/{row[3]}" for row in cells)
                in_time = [row[3] == row[2] for row in cells if row[2] != "-"]
                found_in_time = f"{sum(in_time)} of {len(in_time)}" if in_time else "none to find"
                needless = sum(row[3] != "-" and row[2] == "-" for row in cells)
                sums = [sum(row[i] for row in cells) for i in (4, 5, 6, 7)]
                lines.append([name, step_fs, interval, what, after, at, found_in_time, needless, *sums])
    header = [
        "potential",
        "step, fs",
        "interval",
        "what is impossible first",
        "the run",
        "step of that / onset of the event, each seed",
        "opened at that check",
        "exploded without cause",
        "other events",
        "frames saved",
        "of these impossible",
        "faults in files",
    ]
    yield "explosions", table(header, lines)
    if lost:
        yield "raised", table(["potential", "step, fs", "seed", "steps done", "error", "events of the monitor"], lost)
    yield "native", native(cache)
    yield "example exploded", f"```\n{example}\n```"


def explode(
    make: Callable[[], Any], reference: Reference, levels: Calibration, closest: float, step_fs: float, seed: int
) -> dict[int, tuple[list[Any], Event | None, list[str]]]:
    """A run with a time step too long, watched at interval 1 and 10 at once."""
    atoms = crystal(CONDITIONS["Cu-solid-300K"].volume)
    thermal(atoms, 2 * 300.0, np.random.default_rng(seed))
    atoms.calc = make()
    dyn = VelocityVerlet(atoms, step_fs * units.fs)
    found = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        watched = {}
        for interval in (1, 10):
            place = Path(folder) / str(interval)
            place.mkdir()
            monitor = Monitor(
                reference,
                levels,
                log=place / "run.jsonl",
                actions=[save_frame(place / "flagged.extxyz")],
                on_error="raise",
            )
            monitor.attach(dyn, interval)
            witness = Witness(closest)
            dyn.attach(lambda witness=witness: witness.look(atoms, dyn.nsteps), interval)
            watched[interval] = place, monitor, witness
        error = ""
        try:
            dyn.run(BROKEN_STEPS)
        except Exception as raised:
            error = first_sentence(raised)
        for interval, (place, monitor, witness) in watched.items():
            monitor.close()
            exploded = [event for event in monitor.events if event.kind == "exploded"]
            saved, impossible, faults = files(place, witness)
            first = next(iter(witness.bad), None)
            cells = [
                "nothing" if first is None else witness.bad[first],
                "raises" if error else "goes on",
                "-" if first is None else first,
                exploded[0].onset_step if exploded else "-",
                len(monitor.events) - len(exploded),
                saved,
                impossible,
                faults,
            ]
            kinds = ", ".join(event.kind for event in monitor.events) or "none"
            found[interval] = cells, exploded[0] if exploded else None, [str(dyn.nsteps), error, kinds] if error else []
    return found


def files(place: Path, witness: Witness) -> tuple[int, int, int]:
    """Frames saved, how many of them are impossible, and faults: frames or lines that do not read or are not finite."""
    faults = 0
    for line in (place / "run.jsonl").read_text().splitlines():
        try:
            json.loads(line, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
        except ValueError:
            faults += 1
    content = read_log(place / "run.jsonl")
    faults += len(content.step) != len(witness.steps)
    flagged = place / "flagged.extxyz"
    frames = list(iread(flagged, ":")) if flagged.exists() else []
    for frame in frames:
        arrays = [frame.positions, frame.cell.array, *(a for a in frame.arrays.values() if a.dtype.kind == "f")]
        faults += not all(np.isfinite(array).all() for array in arrays)
    return len(frames), sum(frame.info["step"] in witness.bad for frame in frames), faults


def first_sentence(error: Exception) -> str:
    """What LAMMPS says, without where to read more."""
    return " ".join(str(error).partition("For more information")[0].rpartition("ERROR")[2].split()).strip(" :")


def native(cache: Path) -> str:
    """LAMMPS that moves the atoms itself and ends the run."""
    lines = []
    for name, condition in (("EAM", "Cu-solid-300K"), ("LJ", "LJ-solid-300K")):
        reference, levels, _ = known_crystal(cache, f"{name}, LAMMPS")
        for step_fs in (50.0, 100.0):
            for seed in SEEDS:
                start = crystal(CONDITIONS[condition].volume)
                simulation = Simulation(
                    "Cu" if name == "EAM" else "LJ", start, temperature_K=300.0, seed=seed, timestep_fs=step_fs
                )
                monitor = Monitor(reference, levels, log=None, on_error="raise")
                error, n = "none", 0
                try:
                    for n in range(BROKEN_STEPS):
                        simulation.run(step_fs * 1e-3, ensemble="nve")
                        monitor.check(simulation.frame(), n + 1, simulation.time_ps)
                except RuntimeError as raised:
                    error = first_sentence(raised)
                simulation.close()
                kinds = ", ".join(f"{event.kind} at {event.onset_step}" for event in monitor.events) or "none"
                lines.append([name, f"{step_fs:g}", seed, n, error, kinds])
    return table(["potential", "step, fs", "seed", "last step checked", "error", "events"], lines)


# --- nothing


def quiet(cache: Path) -> Iterator[tuple[str, str]]:
    """Equal runs where nothing happens."""
    warm, liquid = zero_pressure(cache, "solid", WARM_K), zero_pressure(cache, "liquid", LIQUID_K)
    narrow = Reference.from_frames([atoms for atoms in warm if atoms.info["bath_K"] <= max(COLD_K)])
    wide = Reference.from_frames(warm)
    phases = Phases({"fcc": wide, "liquid": Reference.from_frames(liquid)}, parent="fcc")
    monitors: list[tuple[str, Reference, Calibration, dict[str, Any], list[tuple[str, list[Atoms]]]]] = []
    for kelvin in TEMPERATURES_K:
        runs = [
            (
                f"{kelvin} K, seed {seed}",
                cached(cache / f"quiet-{kelvin}K-{seed}.traj", partial(fixed_run, kelvin, seed, N_QUIET)),
            )
            for seed in (11, 12)
        ]
        known = fixed_volume(cache, kelvin)
        monitors.append((f"{kelvin} K", *known, {}, runs))
        monitors.append((f"{kelvin} K, `baseline_ps=25`", *known, {"baseline_ps": 25.0}, runs))
    at_zero = {
        kelvin: cached(
            cache / f"quiet-zero-{kelvin}K.traj", partial(zero_pressure_run, "solid", kelvin, 21, N_QUIET // 4)
        )
        for kelvin in WARM_K
    }
    levels = calibrate(wide)
    every = [(f"{kelvin} K", frames) for kelvin, frames in at_zero.items()]
    some_runs = [run for run in every if int(run[0].split()[0]) in COLD_K]
    monitors.append(("300 to 900 K", narrow, calibrate(narrow), {}, some_runs))
    monitors.append(("300 to 1300 K", wide, levels, {}, every))
    monitors.append(("300 to 1300 K, `phases=`", wide, levels, {"phases": phases}, every))
    lines = []
    for name, reference, calibration, options, runs in monitors:
        for run, frames in runs:
            cells: list[Any] = [name, run, len(frames)]
            for statistics in (calibration.statistics, PLAIN):
                levels = calibration.with_statistics(statistics)
                cells += counted(Monitor(reference, levels, log=None, on_error="raise", **options), frames)
            lines.append(cells)
    heads = ["out", "alarms", "events"]
    yield "quiet", table(["reference", "run", "checks", *heads, *(f"{head}, {BEFORE}" for head in heads)], lines)


def counted(monitor: Monitor, frames: Sequence[Atoms]) -> list[Any]:
    """Checks that are out, by what, and events."""
    checks = [monitor.check(atoms, i * 200, i * SPACING_PS) for i, atoms in enumerate(frames)]
    alarms = Counter(name for check in checks for name in check.alarms)
    kinds = Counter(str(event.kind) for event in monitor.events)
    counts = [", ".join(f"{n} {name}" for name, n in found.items()) for found in (alarms, kinds)]
    return [sum(check.state != "in" for check in checks), counts[0], counts[1] or "none"]


# --- runs and references


def fixed_volume(cache: Path, kelvin: float) -> tuple[Reference, Calibration]:
    """Of the crystal without defects at a temperature and its volume."""
    frames = cached(cache / f"crystal-{kelvin}K.traj", lambda: fixed_run(kelvin, 0, N_REFERENCE))
    reference = Reference.from_frames(frames)
    return reference, calibrate(reference)


def fixed_run(kelvin: float, seed: int, n: int) -> Iterator[Atoms]:
    """Frames of the crystal, half a picosecond apart."""
    start = crystal(CONDITIONS[f"Cu-solid-{kelvin:g}K"].volume, CELLS)
    simulation = Simulation("Cu", start, temperature_K=kelvin, seed=seed_of("crystal", kelvin, seed))
    simulation.run(SETTLE_PS)
    yield from simulation.frames(n)
    simulation.close()


def zero_pressure(cache: Path, phase: str, kelvins: Sequence[float]) -> list[Atoms]:
    """Frames of runs at these temperatures and zero pressure, with `info["bath_K"]`."""
    frames = []
    for kelvin in kelvins:
        made = cached(
            cache / f"{phase}-{kelvin:g}K.traj",
            partial(zero_pressure_run, phase, kelvin, 0, N_PER_TEMPERATURE),
        )
        for atoms in made:
            atoms.info["bath_K"] = kelvin
        frames += made
    return frames


def zero_pressure_run(phase: str, kelvin: float, seed: int, n: int) -> Iterator[Atoms]:
    """Frames of a run under a barostat."""
    volume = CONDITIONS["Cu-solid-900K" if phase == "solid" else "Cu-liquid-1500K"].volume
    simulation = Simulation(
        "Cu", crystal(volume, CELLS), temperature_K=kelvin, seed=seed_of(f"zero pressure {phase}", kelvin, seed)
    )
    if phase == "liquid":
        simulation.melt()
    simulation.run(SETTLE_PS, ensemble="npt")
    yield from simulation.frames(n, ensemble="npt")
    simulation.close()


def known_crystal(cache: Path, name: str) -> tuple[Reference, Calibration, float]:
    """Of 108 atoms at 300 K in the potential of an exploding run, with the closest pair (Å)."""
    potential_name = "EMT" if name == "EMT" else name.partition(",")[0]

    def emt() -> Iterator[Atoms]:
        atoms = crystal(CONDITIONS["Cu-solid-300K"].volume)
        rng = np.random.default_rng(0)
        thermal(atoms, 600.0, rng)
        atoms.calc = EMT()
        dyn = Langevin(atoms, 5 * units.fs, temperature_K=300, friction=0.02 / units.fs, rng=rng, fixcm=False)
        dyn.run(100)
        for _ in range(100):
            dyn.run(8)
            frame = atoms.copy()
            frame.calc = None
            yield frame

    def native_run() -> Iterator[Atoms]:
        kind = "Cu" if potential_name == "EAM" else "LJ"
        start = crystal(CONDITIONS[f"{kind}-solid-300K"].volume)
        simulation = Simulation(kind, start, temperature_K=300.0, seed=1)
        simulation.run(SETTLE_PS)
        yield from simulation.frames(100)
        simulation.close()

    make = emt if potential_name == "EMT" else native_run
    frames = cached(cache / f"known-{potential_name}.traj", make)
    reference = Reference.from_frames(frames)
    return reference, calibrate(reference), min(nearest_pair(atoms) for atoms in frames)


def eam() -> Any:
    """The embedded-atom potential of copper through LAMMPS."""
    return lammps_calculator(["pair_style eam", f'pair_coeff 1 1 "{potential("Cu_u3.eam")}"'], ("Cu",))


def lennard_jones() -> Any:
    """The Lennard-Jones potential of `md` through LAMMPS."""
    return lammps_calculator(POTENTIALS["LJ"].splitlines(), ("Cu",))


CALCULATORS: dict[str, Callable[[], Any]] = {
    "EMT": EMT,
    "LJ, ASE": lambda: LennardJones(sigma=2.3, epsilon=0.167, rc=5.75),
    "LJ, LAMMPS": lennard_jones,
    "EAM, LAMMPS": eam,
}


def thermal(atoms: Atoms, kelvin: float, rng: np.random.Generator) -> None:
    """Maxwell-Boltzmann momenta without drift."""
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * kelvin)[:, None]
    atoms.set_momenta(momenta - momenta.mean(axis=0))


def nearest_pair(atoms: Atoms) -> float:
    """Smallest distance in Å of two atoms, images included, in an orthorhombic periodic cell."""
    lengths = atoms.cell.lengths()
    steps = atoms.positions[:, None] - atoms.positions[None]
    steps -= np.round(steps / lengths) * lengths
    squares = (steps**2).sum(axis=2)
    np.fill_diagonal(squares, np.inf)
    return float(np.sqrt(squares.min()))


def cached(file: Path, make: Callable[[], Iterable[Atoms]]) -> list[Atoms]:
    """The frames of a file, which is made first if it does not exist."""
    if not file.exists():
        part = file.with_suffix(".part.traj")
        write(part, list(make()))
        part.rename(file)
    frames = read(file, ":")
    for atoms in frames:
        atoms.calc = None
    return list(frames)


def seed_of(*names: Any) -> int:
    """A seed of its own for every run."""
    return zlib.crc32(" ".join(map(str, names)).encode())


def share(part: int, whole: int) -> str:
    """Per cent."""
    return f"{100 * part / whole:.0f}" if whole else "-"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; what a row repeats of the one before is left out of its first two cells."""
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for before, row in pairwise([[None] * len(header), *map(list, rows)]):
        cells = ["" if i < 2 and row[: i + 1] == before[: i + 1] else str(cell) for i, cell in enumerate(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


PARTS: dict[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
    "melting": melting,
    "defects": defects,
    "flying": flying,
    "confirmed": confirmed,
    "explosions": explosions,
    "quiet": quiet,
}


if __name__ == "__main__":
    main()
