"""The runs that kills.py kills: hot copper, watched in the orders in which a job script may use a monitor.

The run is NVE copper that goes out of its reference now and then (a pair potential without memory, so that a restart
gives the same bits). A job begins from the last checkpoint, as a job script would do at every start.
"""

import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet

from quests_md import Calibration, Monitor, Reference, Trigger, calibrate, read_log, save_frame, sentinel
from quests_md.records import Event

#: Steps of the run, and steps between checks.
STEPS, INTERVAL = 240, 3

TIME_STEP_FS = 2.0

#: A reference and its levels.
Known = tuple[Reference, Calibration]


@dataclass(frozen=True, slots=True)
class Order:
    """What a job script does, in which order."""

    is_loop: bool = False
    """Whether it calls `monitor.check` in a loop of its own; else the monitor is attached."""
    writer_first: bool = False
    """Whether the checkpoint of a step is written before the check of the step; then the monitor is attached by
    `dyn.attach(monitor, ...)`, else by `monitor.attach`."""
    counts_on: bool = False
    """Whether `dyn.nsteps` is set to the step of the checkpoint; else each job's dynamics begins at step 0."""
    says_step: bool = True
    """Whether the step of the checkpoint is given as `start_step=`; else dynamics or checksum of the frame tell it."""
    checkpoint: int = 20
    """Steps between checkpoints."""
    update_at: int | None = None
    """Step after which the monitor takes over another reference."""
    learns: bool = False
    """Whether an action lets the monitor take over a reference with the first flagged frame."""
    away: tuple[int, int] | None = None
    """Steps at which the monitor is detached, and attached again."""
    shows_first: bool = False
    """Whether the monitor, attached by `dyn.attach(monitor, ...)`, is called once before the dynamics goes on."""

    @property
    def hides_energies(self) -> bool:
        """Whether a resumed job may check the frame that it begins with before its energy is known."""
        return self.shows_first

    @property
    def may_miss(self) -> bool:
        """Whether a frame may be lost, which the log then says: its checkpoint is older than its check."""
        return self.writer_first and self.counts_on and not self.shows_first


ORDERS = {
    "monitor first, start_step": Order(),
    "monitor first, by checksum": Order(says_step=False, checkpoint=21),
    "monitor first, nsteps": Order(counts_on=True, says_step=False),
    "writer first, start_step": Order(writer_first=True, checkpoint=15),
    "writer first, nsteps": Order(writer_first=True, counts_on=True, says_step=False, checkpoint=15),
    "writer first, nsteps, shown": Order(
        writer_first=True, counts_on=True, says_step=False, checkpoint=15, shows_first=True
    ),
    "loop, check first": Order(is_loop=True),
    "loop, writer first": Order(is_loop=True, writer_first=True, checkpoint=15),
    "update, start_step": Order(update_at=120),
    "update, nsteps": Order(update_at=120, counts_on=True, says_step=False),
    "update by an action": Order(learns=True),
    "detach, start_step": Order(away=(91, 150)),
    "detach, nsteps": Order(away=(91, 150), counts_on=True, says_step=False),
}


class Morse(Calculator):
    """Copper after Girifalco and Weizer (doi:10.1103/PhysRev.114.687), neighbours only, nothing kept between calls."""

    implemented_properties = ("energy", "forces")

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Sum over all pairs nearer than 3.6 Å."""
        super().calculate(atoms, properties, system_changes)
        lengths = self.atoms.cell.lengths()
        steps = self.atoms.positions - self.atoms.positions[:, None]
        steps -= np.round(steps / lengths) * lengths
        r = np.linalg.norm(steps, axis=2)
        np.fill_diagonal(r, np.inf)
        rise = np.where(r < 3.6, np.exp(-1.36 * (np.minimum(r, 9.0) - 2.87)), 0.0)
        slope = 2 * 1.36 * 0.34 * (rise - rise**2)
        forces = ((slope / r)[:, :, None] * steps).sum(axis=1)
        self.results = {"energy": float(0.17 * (rise**2 - 2 * rise).sum()), "forces": forces}


def start() -> Atoms:
    """Hot copper."""
    atoms: Atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    rng = np.random.default_rng(5)
    widths = np.sqrt(atoms.get_masses() * units.kB * 2400)[:, None]
    momenta = rng.standard_normal((len(atoms), 3)) * widths
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    return atoms


def rattled(seed: int) -> Atoms:
    """The crystal, shaken."""
    atoms: Atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.positions += np.random.default_rng(seed).normal(0, 0.08, (len(atoms), 3))
    return atoms


def references() -> tuple[Known, Known]:
    """A reference of the crystal, and the same with a frame more; too few frames for colder copies, which take time."""
    first = Reference.from_frames([rattled(seed) for seed in range(8)], bandwidth=0.05, groups="frame")
    levels = calibrate(first, false_alarms=0.1).with_statistics(["dh_max"])
    second = first.extend([rattled(8)])
    return (first, levels), (second, levels.carried_to(second))


class Death:
    """Where a process kills itself: after it has attached its monitor, within an action, in a write, or nowhere."""

    repeats = True

    def __init__(self, where: str, rng: random.Random) -> None:
        self._where, self._left, self._rng = where, rng.randrange(1, 6), rng
        if where == "write":
            self._left = rng.randrange(1, 60)
            self._write = os.write
            os.write = self._dying_write  # type: ignore[assignment]  # for this forked process alone

    def attached(self) -> None:
        """The monitor is attached, and has checked nothing yet."""
        if self._where == "attach":
            self._die()

    def __call__(self, event: Event, frame: Atoms) -> None:
        """Stand among the actions."""
        self._left -= self._where == "action"
        if self._where == "action" and self._left == 0:
            self._die()

    def _dying_write(self, fd: int, data: bytes) -> int:
        self._left -= 1
        if self._left == 0:
            self._write(fd, data[: self._rng.randrange(len(data))])
            self._die()
        return self._write(fd, data)

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def checkpoint_step(folder: Path) -> int:
    """Step of the last checkpoint, 0 if there is none."""
    path = folder / "checkpoint.npz"
    return int(np.load(path)["step"]) if path.exists() else 0


def run(folder: Path, order: Order, known: tuple[Known, Known], death: Death, on_error: str = "raise") -> None:
    """Be a job: run from the last checkpoint to the end."""
    atoms, begin = start(), checkpoint_step(folder)
    if begin:
        saved = np.load(folder / "checkpoint.npz")
        atoms.positions[:] = saved["positions"]
        atoms.set_momenta(saved["momenta"])
    atoms.calc = Morse()
    dyn = VelocityVerlet(atoms, TIME_STEP_FS * units.fs)
    dyn.nsteps = begin if order.counts_on else 0
    missed = begin - dyn.nsteps
    start_step = begin if order.away is None or begin <= order.away[0] else max(begin, order.away[1])
    reference, calibration = _known_at(begin, folder, order, known)
    path = folder / "flagged.extxyz"
    actions = [death, save_frame(path), death, sentinel(folder / "event.json")]
    if order.learns:
        actions.append(lambda event, frame: _learn(monitor, folder, event, frame))
    with Monitor(
        reference,
        calibration,
        trigger=Trigger(patience=2, release=0.2),
        log=folder / "run.jsonl",
        actions=actions,
        on_error=on_error,  # type: ignore[arg-type]  # "log" or "raise"
        threads=1,
        resume=True,
        start_step=start_step if order.says_step else None,
    ) as monitor:
        job = _Job(folder, order, known[1], monitor, dyn, missed)
        if order.is_loop:
            job.loop(death)
        else:
            job.attached(death)
    (folder / "done").touch()


class _Job:
    """The steps of a job, with its monitor and its dynamics; `missed`: steps that the dynamics does not count."""

    def __init__(
        self, folder: Path, order: Order, later: Known, monitor: Monitor, dyn: VelocityVerlet, missed: int
    ) -> None:
        self.folder, self.order, self.later = folder, order, later
        self.monitor, self.dyn, self.missed = monitor, dyn, missed

    def attached(self, death: Death) -> None:
        """Run with the monitor attached, or away for a while."""
        order, monitor, dyn = self.order, self.monitor, self.dyn
        if order.writer_first:
            dyn.attach(self._save, order.checkpoint)
            dyn.attach(monitor, INTERVAL, dyn)
            if order.shows_first and self._step() > 0:
                monitor(dyn)
        elif order.away is None or self._step() <= order.away[0]:
            monitor.attach(dyn, INTERVAL)
        death.attached()
        if not order.writer_first:
            dyn.attach(self._save, order.checkpoint)
        if order.away is not None and self._step() < order.away[1]:
            self._run_to(order.away[0])
            monitor.detach()
            self._run_to(order.away[1])
        if order.away is not None:
            monitor.attach(dyn, INTERVAL)
        if order.update_at is not None and self._step() <= order.update_at:
            self._run_to(order.update_at)
            if monitor.reference is not self.later[0]:
                monitor.update(*self.later)
        self._run_to(STEPS)

    def loop(self, death: Death) -> None:
        """Check in a loop of its own."""
        order, monitor, atoms = self.order, self.monitor, self.dyn.atoms
        monitor.preflight(atoms)
        death.attached()
        atoms.get_potential_energy()  # a loop that moves its atoms by itself has the energy
        while True:
            step = self._step()
            check = partial(monitor.check, atoms, step=step, time_ps=step * TIME_STEP_FS / 1000)
            if step % INTERVAL == 0 and not order.writer_first:
                check()
            if step % order.checkpoint == 0:
                self._save()
            if step % INTERVAL == 0 and order.writer_first:
                check()
            if step == STEPS:
                return
            self.dyn.run(1)

    def _step(self) -> int:
        return self.missed + int(self.dyn.nsteps)

    def _run_to(self, step: int) -> None:
        if self._step() <= step:
            self.dyn.run(step - self._step())

    def _save(self) -> None:
        """Write positions, momenta and step, whole or not at all."""
        temporary, atoms = self.folder / "checkpoint.tmp.npz", self.dyn.atoms
        np.savez(temporary, positions=atoms.positions, momenta=atoms.get_momenta(), step=self._step())
        temporary.replace(self.folder / "checkpoint.npz")


def _known_at(begin: int, folder: Path, order: Order, known: tuple[Known, Known]) -> Known:
    """What a job gives to its monitor: what was known when the step of its checkpoint was checked."""
    if order.update_at is not None:
        # a frame that is shown again is judged again by the reference before the update
        is_later = begin >= order.update_at if order.counts_on else begin > order.update_at
        return known[is_later]
    path = folder / "run.jsonl"
    if order.learns and begin > 0 and path.exists():
        learned = [line["chain"][-1] for line in read_log(path).references if line["step"] < begin]
        if learned:
            reference = Reference.load(folder / f"{learned[-1]}.safetensors")
            return reference, known[0][1].carried_to(reference)
    return known[0]


def _learn(monitor: Monitor, folder: Path, event: Event, frame: Atoms) -> None:
    """Take the first flagged frame into the reference."""
    if event.id == 1:
        reference = monitor.reference.extend([frame])
        temporary = folder / "new.safetensors"
        reference.save(temporary)
        temporary.replace(folder / f"{reference.fingerprint}.safetensors")
        monitor.update(reference)
