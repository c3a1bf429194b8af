"""`quests-md demo`: copper heated until it melts, watched against a reference of its cold crystal."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.nvtberendsen import NVTBerendsen
from numpy.typing import NDArray
from typer import Option

from quests_md._progress import track
from quests_md.log import read_log
from quests_md.monitor import Monitor
from quests_md.records import Event
from quests_md.reference import Reference
from quests_md.show import timeline
from quests_md.watch import save_frame

from .arguments import put

__all__ = ["INTERVAL", "TIME_STEP_FS", "Plan", "copper", "heat_bath", "run_demo", "share_off_site", "show_demo"]

#: fs; copper is heavy.
TIME_STEP_FS = 5.0

#: Steps between checks; the cell follows the pressure at the same rhythm.
INTERVAL = 10

#: fs, relaxation times of temperature and pressure; bulk modulus of copper.
TAU_T_FS, TAU_P_FS, BULK_MODULUS = 100.0, 200.0, 140 * units.GPa


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the crystal of the demo is, and how it is heated: temperatures in K, lengths of runs in steps."""

    size: int = 4
    """Cubic cells along each edge; 4 gives 256 atoms."""
    seed: int = 0
    """Seed of the velocities."""
    cold_K: float = 300.0
    warm_K: float = 700.0
    """The reference holds the crystal from cold_K to warm_K."""
    hot_K: float = 2100.0
    """Copper melts at 1358 K, but a perfect crystal that is heated this fast loses its order near 1900 K (bond order Q6
    of the cell: 0.44 at 1500 K, 0.20 at 1900 K, 0.04 at the end)."""
    settle_steps: int = 100
    """At cold_K, before all else."""
    reference_steps: int = 300
    heat_steps: int = 500
    run_steps: int = 900
    """The watched run, with its heating."""


def show_demo(
    folder: Annotated[Path, Option(help="Where the files go; a number is added if it exists.")] = Path(
        "quests-md-demo"
    ),
) -> None:
    """Melt copper under the monitor. Real MD, about a minute; writes a log, flagged frames and a picture."""
    free, count = folder, 1
    while free.exists():
        count += 1
        free = folder.with_name(f"{folder.name}-{count}")
    run_demo(free, put)


def run_demo(folder: Path, say: Callable[[str], None], plan: Plan | None = None) -> list[Event]:
    """Run real MD of copper; write reference, log, flagged frames and a timeline to the folder; return the events."""
    plan = plan or Plan()
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    atoms = copper(plan.size, 2 * plan.cold_K, np.random.default_rng(plan.seed))
    heating = f"{plan.cold_K:.0f} to {plan.warm_K:.0f} K, {plan.reference_steps} steps of MD"
    say(f"1. Crystal: {len(atoms)} Cu atoms, EMT potential, {heating}")
    _drain(heat_bath(atoms, plan.cold_K, plan.cold_K, plan.settle_steps), plan.settle_steps, "settling")
    cold = atoms.copy()
    frames: list[Atoms] = []
    warming = heat_bath(atoms, plan.cold_K, plan.warm_K, plan.reference_steps)
    warming.attach(lambda: frames.append(atoms.copy()), 5)
    _drain(warming, plan.reference_steps, "warming")
    reference = Reference.from_frames(frames)
    reference.save(folder / "reference.safetensors")
    say(f"2. Reference: {reference.n_environments} environments in {reference.n_frames} frames of that run")
    heating = f"{plan.hot_K:.0f} K in {plan.heat_steps} steps, {plan.run_steps} in all"
    say(f"3. The run: the same crystal heated to {heating}, monitored\n")
    events, melted = _watched_run(cold, reference, folder, say, plan)
    _draw(folder, melted, plan)
    say(f"\nDone in {time.perf_counter() - start:.0f} s. In {folder}/:")
    say("  timeline.png           look at this first")
    say("  run.jsonl              every check: quests_md.read_log, quests-md events")
    if events:
        say("  flagged.extxyz         flagged frames with delta_entropy per atom: ase gui, OVITO")
    say("  reference.safetensors  what counts as known: quests-md reference info")
    return events


def copper(size: int, temperature_K: float, rng: np.random.Generator) -> Atoms:
    """Make a perfect crystal of 4 size^3 atoms with the EMT potential and Maxwell-Boltzmann momenta without drift."""
    atoms: Atoms = bulk("Cu", cubic=True) * (size, size, size)
    atoms.calc = EMT()
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * temperature_K)[:, None]
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    return atoms


def heat_bath(atoms: Atoms, first_K: float, last_K: float, steps: int) -> NVTBerendsen:
    """MD near zero pressure whose bath goes linearly from first_K to last_K in so many steps and stays there.

    The cell is scaled (Berendsen) every INTERVAL steps only: at every step, EMT would look for neighbours twice.
    """
    dyn = NVTBerendsen(atoms, TIME_STEP_FS * units.fs, temperature_K=first_K, taut=TAU_T_FS * units.fs)
    relax = INTERVAL * TIME_STEP_FS / TAU_P_FS

    def follow() -> None:
        dyn.set_temperature(temperature_K=first_K + (last_K - first_K) * min(1.0, dyn.nsteps / steps))
        pressure = -float(atoms.get_stress(include_ideal_gas=True)[:3].mean())
        atoms.set_cell(atoms.cell.array * (1 + relax * pressure / BULK_MODULUS) ** (1 / 3), scale_atoms=True)

    dyn.attach(follow, INTERVAL)
    return dyn


def share_off_site(atoms: Atoms, sites: NDArray[np.float64]) -> float:
    """Share of the atoms farther from their lattice site, in (n_atoms, 3) scaled coordinates, than half a bond length.

    An independent witness of melting: in a hot crystal without defects the share is 0, in a liquid it goes to 1.
    """
    shift = atoms.get_scaled_positions(wrap=False) - sites
    distance = np.linalg.norm((shift - shift.mean(axis=0)) @ atoms.cell.array, axis=1)
    neighbours = (np.sqrt(2) * atoms.get_volume() / len(atoms)) ** (1 / 3)
    return float(np.mean(distance > neighbours / 2))


def _watched_run(
    atoms: Atoms, reference: Reference, folder: Path, say: Callable[[str], None], plan: Plan
) -> tuple[list[Event], tuple[int, float] | None]:
    """Heat the crystal under the monitor and tell what happens; the events, and the step and K at which it melted."""
    atoms.calc = EMT()
    dyn = heat_bath(atoms, plan.cold_K, plan.hot_K, plan.heat_steps)
    sites = atoms.get_scaled_positions(wrap=False)
    course: list[tuple[int, float, float]] = []

    def look() -> None:
        course.append((dyn.nsteps, atoms.get_temperature(), share_off_site(atoms, sites)))

    with Monitor(reference, log=folder / "run.jsonl", actions=[save_frame(folder / "flagged.extxyz")]) as monitor:
        monitor.attach(dyn, INTERVAL)
        dyn.attach(look, INTERVAL)
        say("\nlocal scores, in deviations: how much farther from the reference than is usual;")
        say("cluster: connected atoms above the local level; off site: atoms off their lattice sites")
        say(f"\n{'step':>6} {'T (K)':>6} {'mean score':>10} {'largest':>8} {'cluster':>11} {'off site':>9}  state")
        dyn.attach(lambda: say(_progress(monitor, course[-1][2])), 50)
        dyn.run(plan.run_steps)
        events, overhead = monitor.events, monitor.overhead
    melted = next(((step, kelvin) for step, kelvin, off_site in course if off_site > 0.5), None)
    say("")
    for event in events:
        say(event.describe())
    if not events:
        say("no event: the run stayed inside the reference")
    at_end = f"at the end {course[-1][2]:.0%}"
    if melted is None:
        say(f"melting: not seen; {at_end} of the atoms had left their lattice sites")
    else:
        step, kelvin = melted
        say(f"melted by step {step} ({step * TIME_STEP_FS / 1000:.2f} ps, {kelvin:.0f} K): half of the atoms had left")
        say(f"  their lattice sites; {at_end}")
        if events and (earlier := step - events[0].onset_step) > 0:
            say(f"  The event began {earlier} steps earlier: the reference ends at {plan.warm_K:.0f} K,")
            say("  and a crystal hotter than that is new to it already.")
    say(
        f"overhead: {overhead.checks} checks, {overhead.seconds:.1f} s, {overhead.share:.1%} of the run, "
        f"{overhead.us_per_atom:.0f} us per atom and check"
    )
    return events, melted


def _drain(dyn: NVTBerendsen, steps: int, what: str) -> None:
    for _ in track(dyn.irun(steps), what, steps + 1):
        pass


def _progress(monitor: Monitor, off_site: float) -> str:
    check = monitor.last_check
    if check is None or len(check.further) < 3:
        return "(no check yet)"
    mean, largest, cluster = (check.further[name] for name in ("local_mean", "local_max", "local_cluster"))
    clustered = f"{cluster:4.0f} of {check.n_atoms:3d}"
    return (
        f"{check.step:6d} {check.temperature_K:6.0f} {mean:10.2f} {largest:8.2f} {clustered} {off_site:9.0%}"
        f"  {check.state}{'  << event' if monitor.events else ''}"
    )


def _draw(folder: Path, melted: tuple[int, float] | None, plan: Plan) -> None:
    """Draw the timeline with what only the demo knows: what the reference covers, and when the crystal melted."""
    figure = timeline(read_log(folder / "run.jsonl"))
    panel = figure.axes[-1]
    panel.axhspan(plan.cold_K, plan.warm_K, color="tab:green", alpha=0.2, lw=0)
    covered = f"covered by the reference: {plan.cold_K:.0f} to {plan.warm_K:.0f} K"
    middle, across = (plan.cold_K + plan.warm_K) / 2, panel.get_yaxis_transform()
    panel.text(0.99, middle, covered, transform=across, ha="right", va="center", fontsize=9)
    if melted is not None:
        time_ps, text = melted[0] * TIME_STEP_FS / 1000, " melted: half of the atoms\n off their lattice sites"
        for axis in figure.axes:
            axis.axvline(time_ps, color="0.3", ls=":", lw=1.2)
        panel.text(time_ps, plan.warm_K, text, va="bottom", fontsize=9)
    figure.savefig(folder / "timeline.png", dpi=130)
