"""The demo: copper heated until it melts, watched against a reference of its cold crystal."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.nvtberendsen import NVTBerendsen
from numpy.typing import NDArray

from quests_md._progress import track
from quests_md.log import read_log
from quests_md.monitor import Monitor
from quests_md.records import Event
from quests_md.reference import Reference
from quests_md.show import timeline
from quests_md.watch import save_frame

__all__ = ["free_folder", "run_demo"]

#: fs; copper is heavy.
TIME_STEP_FS = 5.0

#: K. The reference holds the crystal from COLD to WARM. Copper melts at 1358 K, but a perfect crystal that is heated
#: this fast loses its order near 1900 K (bond order Q6 of the cell: 0.44 at 1500 K, 0.20 at 1900 K, 0.04 at the end).
COLD, WARM, HOT = 300.0, 700.0, 2100.0

#: Steps at COLD before all else, of the reference run, of the heating of the watched run, and of that run as a whole.
SETTLE_STEPS, REFERENCE_STEPS, HEAT_STEPS, RUN_STEPS = 100, 300, 500, 900

#: Steps between checks; the cell follows the pressure at the same rhythm.
INTERVAL = 10

#: fs, relaxation times of temperature and pressure; bulk modulus of copper.
TAU_T_FS, TAU_P_FS, BULK_MODULUS = 100.0, 200.0, 140 * units.GPa


def run_demo(folder: Path, say: Callable[[str], None] = print, *, size: int = 4, seed: int = 0) -> list[Event]:
    """Run real MD of 4 size^3 copper atoms in about a minute; write reference, log, flagged frames and a timeline.

    Parameters
    ----------
    folder
        Where the files go; made if absent.
    say
        Takes every line for the reader.
    size
        Cubic cells along each edge; 4 gives 256 atoms.
    seed
        Of the velocities.

    Returns
    -------
    events
        What the monitor saw.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    atoms = bulk("Cu", cubic=True) * (size, size, size)
    atoms.calc = EMT()
    _give_velocities(atoms, 2 * COLD, np.random.default_rng(seed))
    say(f"1. Crystal: {len(atoms)} Cu atoms, EMT potential, {COLD:.0f} to {WARM:.0f} K, {REFERENCE_STEPS} steps of MD")
    _drain(_bath(atoms, COLD, COLD, SETTLE_STEPS), SETTLE_STEPS, "settling")
    cold = atoms.copy()
    frames: list[Atoms] = []
    warming = _bath(atoms, COLD, WARM, REFERENCE_STEPS)
    warming.attach(lambda: frames.append(atoms.copy()), 5)
    _drain(warming, REFERENCE_STEPS, "warming")

    reference = Reference.from_frames(frames)
    reference.save(folder / "reference.safetensors")
    say(f"2. Reference: {reference.n_environments} environments in {reference.n_frames} frames of that run")

    say(f"3. The run: the same crystal heated to {HOT:.0f} K in {HEAT_STEPS} steps, {RUN_STEPS} in all, monitored\n")
    cold.calc = EMT()
    dyn = _bath(cold, COLD, HOT, HEAT_STEPS)
    sites = cold.get_scaled_positions(wrap=False)
    melting: list[tuple[int, float, float]] = []
    with Monitor(reference, log=folder / "run.jsonl", actions=[save_frame(folder / "flagged.extxyz")]) as monitor:
        monitor.attach(dyn, INTERVAL)
        dyn.attach(lambda: melting.append((dyn.nsteps, cold.get_temperature(), _off_site(cold, sites))), INTERVAL)
        say(f"\n{'step':>6} {'T (K)':>6} {'dH mean':>8} {'dH max':>7} {'above level':>11} {'off site':>9}  state")
        dyn.attach(lambda: say(_progress(monitor, melting[-1][2])), 50)
        dyn.run(RUN_STEPS)
        events, overhead = monitor.events, monitor.overhead
    say("")
    melted = next(((step, kelvin) for step, kelvin, part in melting if part > 0.5), None)
    for line in _summary(events, melted, melting[-1][2]):
        say(line)
    say(
        f"overhead: {overhead.checks} checks, {overhead.seconds:.1f} s, {overhead.share:.1%} of the run, "
        f"{overhead.us_per_atom:.0f} us per atom and check"
    )
    _draw(folder, melted)
    say(f"\nDone in {time.perf_counter() - start:.0f} s. In {folder}/:")
    say("  timeline.png           look at this first")
    say("  run.jsonl              every check: quests_md.read_log, quests-md events")
    if events:
        say("  flagged.extxyz         flagged frames with delta_entropy per atom: ase gui, OVITO")
    say("  reference.safetensors  what counts as known: quests-md reference info")
    return events


def free_folder(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that does not exist."""
    if not folder.exists():
        return folder
    return next(f for i in itertools.count(2) if not (f := folder.with_name(f"{folder.name}-{i}")).exists())


def _bath(atoms: Atoms, first: float, last: float, steps: int) -> NVTBerendsen:
    """MD near zero pressure; the bath goes linearly from first to last (K) in so many steps and stays there.

    The cell is scaled (Berendsen) every INTERVAL steps only: at every step, EMT would look for neighbours twice.
    """
    dyn = NVTBerendsen(atoms, TIME_STEP_FS * units.fs, temperature_K=first, taut=TAU_T_FS * units.fs)
    relax = INTERVAL * TIME_STEP_FS / TAU_P_FS

    def follow() -> None:
        dyn.set_temperature(temperature_K=first + (last - first) * min(1.0, dyn.nsteps / steps))
        pressure = -float(atoms.get_stress(include_ideal_gas=True)[:3].mean())
        atoms.set_cell(atoms.cell.array * (1 + relax * pressure / BULK_MODULUS) ** (1 / 3), scale_atoms=True)

    dyn.attach(follow, INTERVAL)
    return dyn


def _drain(dyn: NVTBerendsen, steps: int, what: str) -> None:
    for _ in track(dyn.irun(steps), what, steps + 1):
        pass


def _give_velocities(atoms: Atoms, temperature_K: float, rng: np.random.Generator) -> None:
    """Maxwell-Boltzmann momenta without drift."""
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * temperature_K)[:, None]
    atoms.set_momenta(momenta - momenta.mean(axis=0))


def _off_site(atoms: Atoms, sites: NDArray[np.float64]) -> float:
    """Part of the atoms farther from their lattice site than half the distance between neighbours.

    An independent witness of melting: in a hot crystal without defects it is 0, in a liquid it goes to 1.
    """
    shift = atoms.get_scaled_positions(wrap=False) - sites
    distance = np.linalg.norm((shift - shift.mean(axis=0)) @ atoms.cell.array, axis=1)
    neighbours = (np.sqrt(2) * atoms.get_volume() / len(atoms)) ** (1 / 3)
    return float(np.mean(distance > neighbours / 2))


def _progress(monitor: Monitor, off_site: float) -> str:
    check = monitor.last_check
    if check is None or check.dh_max is None or check.dh_mean is None:
        return "(no check yet)"
    above = f"{check.n_above:4d} of {check.n_atoms:3d}"
    return (
        f"{check.step:6d} {check.temperature_K:6.0f} {check.dh_mean:8.2f} {check.dh_max:7.2f} {above} {off_site:9.0%}"
        f"  {check.state}{'  << event' if monitor.events else ''}"
    )


def _summary(events: list[Event], melted: tuple[int, float] | None, off_site: float) -> list[str]:
    lines = [event.describe() for event in events] or ["no event: the run stayed inside the reference"]
    if melted is None:
        return [*lines, f"melting: not seen; at the end {off_site:.0%} of the atoms had left their lattice sites"]
    step, kelvin = melted
    lines += [
        f"melted by step {step} ({step * TIME_STEP_FS / 1000:.2f} ps, {kelvin:.0f} K): half of the atoms had left",
        f"  their lattice sites; at the end {off_site:.0%}",
    ]
    if events and events[0].onset_step < step:
        lines += [
            f"  The event began {step - events[0].onset_step} steps earlier: the reference ends at {WARM:.0f} K,",
            "  and a crystal hotter than that is new to it already.",
        ]
    return lines


def _draw(folder: Path, melted: tuple[int, float] | None) -> None:
    """The timeline with what only the demo knows: what the reference covers, and when the crystal melted."""
    figure = timeline(read_log(folder / "run.jsonl"))
    panel = figure.axes[-1]
    panel.axhspan(COLD, WARM, color="tab:green", alpha=0.2, lw=0)
    covered = f"covered by the reference: {COLD:.0f} to {WARM:.0f} K"
    across = panel.get_yaxis_transform()
    panel.text(0.99, (COLD + WARM) / 2, covered, transform=across, ha="right", va="center", fontsize=9)
    if melted is not None:
        time_ps = melted[0] * TIME_STEP_FS / 1000
        for axis in figure.axes:
            axis.axvline(time_ps, color="0.3", ls=":", lw=1.2)
        panel.text(time_ps, WARM, " melted: half of the atoms\n off their lattice sites", va="bottom", fontsize=9)
    figure.savefig(folder / "timeline.png", dpi=130)
