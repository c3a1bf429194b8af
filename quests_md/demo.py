"""The demo: copper heated until it melts, watched against a reference of its cold crystal."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.nptberendsen import NPTBerendsen

from .actions import save_frame
from .monitor import Monitor
from .plot import timeline
from .records import Event, read_log
from .reference import Reference

__all__ = ["free_folder", "run_demo"]

#: fs; copper is heavy.
TIME_STEP_FS = 5.0

#: K. The reference holds the crystal up to WARM; the run goes far beyond melting (EMT copper: about 1350 K).
COLD, WARM, HOT = 300.0, 700.0, 2600.0

REFERENCE_STEPS, RUN_STEPS, INTERVAL = 300, 900, 10


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
    _heat(atoms, COLD, COLD, 100)
    cold = atoms.copy()
    frames: list[Atoms] = []
    _heat(atoms, COLD, WARM, REFERENCE_STEPS, lambda dyn: dyn.attach(lambda: frames.append(atoms.copy()), 5))

    reference = Reference.from_frames(frames)
    reference.save(folder / "reference.safetensors")
    say(f"2. Reference: {reference.n_environments} environments in {reference.n_frames} frames of that run")

    say(f"3. The run: the same crystal heated from {COLD:.0f} to {HOT:.0f} K in {RUN_STEPS} steps, with the monitor\n")
    cold.calc = EMT()
    with Monitor(reference, log=folder / "run.jsonl", actions=[save_frame(folder / "flagged.extxyz")]) as monitor:

        def attach(dyn: NPTBerendsen) -> None:
            monitor.attach(dyn, INTERVAL)
            say(f"\n{'step':>6} {'T (K)':>7} {'dH mean':>8} {'dH max':>7} {'atoms above':>12}  state")
            dyn.attach(lambda: say(_progress(monitor)), 50)

        _heat(cold, COLD, HOT, RUN_STEPS, attach)
        events, overhead = monitor.events, monitor.overhead
    say("")
    for event in events:
        say(_describe(event, len(cold)))
    if not events:
        say("No event: the run stayed inside the reference.")
    say(
        f"Overhead: {overhead.checks} checks, {overhead.seconds:.1f} s, {overhead.share:.1%} of the run, "
        f"{overhead.us_per_atom:.0f} us per atom and check"
    )
    timeline(read_log(folder / "run.jsonl")).savefig(folder / "timeline.png", dpi=130)
    say(f"Done in {time.perf_counter() - start:.0f} s. In {folder}/:")
    say("  timeline.png           look at this first")
    say("  run.jsonl              every check: quests_md.read_log, quests-md events")
    say("  flagged.extxyz         flagged frames with delta_entropy per atom: ase gui, OVITO")
    say("  reference.safetensors  quests-md reference info")
    return events


def free_folder(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that does not exist."""
    if not folder.exists():
        return folder
    return next(f for i in itertools.count(2) if not (f := folder.with_name(f"{folder.name}-{i}")).exists())


def _heat(
    atoms: Atoms, first: float, last: float, steps: int, attach: Callable[[NPTBerendsen], object] | None = None
) -> None:
    """MD at zero pressure with the temperature of the bath going linearly from first to last."""
    dyn = NPTBerendsen(
        atoms,
        TIME_STEP_FS * units.fs,
        temperature_K=first,
        pressure_au=0.0,
        taut=100 * units.fs,
        taup=500 * units.fs,
        compressibility_au=1 / (140 * units.GPa),
    )
    if attach is not None:
        attach(dyn)
    dyn.attach(lambda: dyn.set_temperature(temperature_K=first + (last - first) * dyn.nsteps / steps), 10)
    dyn.run(steps)


def _give_velocities(atoms: Atoms, temperature_K: float, rng: np.random.Generator) -> None:
    """Maxwell-Boltzmann momenta without drift."""
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * temperature_K)[:, None]
    atoms.set_momenta(momenta - momenta.mean(axis=0))


def _progress(monitor: Monitor) -> str:
    check = monitor.last_check
    if check is None or check.dh_max is None or check.dh_mean is None:
        return "(no check yet)"
    return (
        f"{check.step:6d} {check.temperature_K:7.0f} {check.dh_mean:8.2f} {check.dh_max:7.2f} "
        f"{check.n_above:5d} of {check.n_atoms:3d}  {check.state}{'  << event' if monitor.events else ''}"
    )


def _describe(event: Event, n_atoms: int) -> str:
    lines = [
        f"Event {event.id} ({event.kind}): left the reference at step {event.onset_step}, "
        f"{event.onset_time_ps:.2f} ps, {event.onset_temperature_K:.0f} K; confirmed at step {event.confirmed_step}",
        f"  at its peak (step {event.peak_step}) {event.n_atoms} of {n_atoms} atoms are above the level, "
        f"by up to {event.peak_excess:.1f} nats",
    ]
    if event.nearest is not None:
        lines.append(
            f"  worst atom {event.worst_atom}: the nearest reference environment is {event.nearest.distance:.1f} "
            f"bandwidths away (frame {event.nearest.frame}, atom {event.nearest.atom})"
        )
    return "\n".join(lines)
