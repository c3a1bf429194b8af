"""Kill a monitored MD again and again, resume it, and compare log and flagged frames with the uninterrupted run.

    python benchmarks/kills.py --kills 300

The run is NVE copper that goes out of its reference now and then (a pair potential without memory, so that a restart
gives the same bits), with checkpoints every 20 steps, checks every 3 and flagged frames. Half of the kills come from
outside at a random moment; the other half from inside, in the middle of a random write, after a part of its bytes. With
--full-disk the files lie on a small tmpfs that is full until it is enlarged.
"""

import argparse
import errno
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet

from quests_md import Calibration, Monitor, Reference, Trigger, calibrate, read_log, save_frame
from quests_md.records import CHECK_FIELDS, Event

STEPS, CHECKPOINT, INTERVAL = 240, 20, 3


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
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    rng = np.random.default_rng(5)
    widths = np.sqrt(atoms.get_masses() * units.kB * 2400)[:, None]
    momenta = rng.standard_normal((len(atoms), 3)) * widths
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    return atoms


def known() -> tuple[Reference, Calibration]:
    """A reference of the crystal."""
    frames = []
    for seed in range(40):
        atoms = bulk("Cu", cubic=True) * (2, 2, 2)
        atoms.positions += np.random.default_rng(seed).normal(0, 0.08, (len(atoms), 3))
        frames.append(atoms)
    reference = Reference.from_frames(frames, bandwidth=0.05, groups="frame")
    return reference, calibrate(reference, false_alarms=0.1).with_statistics(["dh_max"])


def save_checkpoint(folder: Path, atoms: Atoms, step: int) -> None:
    """Positions, momenta and step, whole or not at all."""
    temporary = folder / "checkpoint.tmp.npz"
    np.savez(temporary, positions=atoms.positions, momenta=atoms.get_momenta(), step=step)
    temporary.replace(folder / "checkpoint.npz")


def run(folder: Path, reference: Reference, calibration: Calibration, *, on_error: str = "raise") -> None:
    """Run to the end from the last checkpoint, as a job script would do at every start."""
    atoms, step = start(), 0
    if (folder / "checkpoint.npz").exists():
        saved = np.load(folder / "checkpoint.npz")
        atoms.positions[:] = saved["positions"]
        atoms.set_momenta(saved["momenta"])
        step = int(saved["step"])
    atoms.calc = Morse()
    dyn = VelocityVerlet(atoms, 2 * units.fs)  # begins again at step 0
    with Monitor(
        reference,
        calibration,
        trigger=Trigger(patience=2, release=0.2),
        log=folder / "run.jsonl",
        actions=[save_frame(folder / "flagged.extxyz")],
        on_error=on_error,  # type: ignore[arg-type]  # "log" or "raise"
        threads=1,
        resume=True,
        start_step=step,
    ) as monitor:
        monitor.attach(dyn, INTERVAL)
        dyn.attach(lambda: save_checkpoint(folder, atoms, step + dyn.nsteps), CHECKPOINT)
        dyn.run(STEPS - step)
    (folder / "done").touch()


def kill_inside(rng: random.Random) -> None:
    """Let the process kill itself in the middle of one of its next writes."""
    left, write = rng.randrange(1, 60), os.write

    def dying_write(fd: int, data: bytes) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            write(fd, data[: rng.randrange(len(data))])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(fd, data)

    os.write = dying_write  # type: ignore[assignment]  # for this forked process alone


def run_and_die(folder: Path, reference: Reference, calibration: Calibration, dying: random.Random | None) -> None:
    """Run, and be killed in a write where a source of randomness says so."""
    if dying is not None:
        kill_inside(dying)
    run(folder, reference, calibration)


def child(work: object, *args: object) -> int:
    """Run a function in a forked process, which ends with the code ENOSPC if the disk is full; its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # the pre-flight block of every start
        work(*args)  # type: ignore[operator]  # any function
        code = 0
    except BaseException as exc:
        if isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
            code = errno.ENOSPC
        else:
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
    finally:
        os._exit(code)


def differences(a: Path, b: Path) -> list[str]:
    """What differs between two runs: checks, events, flagged frames."""
    found = []
    left, right = read_log(a / "run.jsonl"), read_log(b / "run.jsonl")
    for name in CHECK_FIELDS:
        if name == "elapsed_us":
            continue
        try:
            np.testing.assert_equal(getattr(left, name), getattr(right, name))
        except AssertionError as exc:
            found.append(f"{name}: {str(exc)[:200]}")
    if len(left.events) != len(right.events):
        found.append(f"{len(left.events)} and {len(right.events)} events")
    for x, y in zip(left.events, right.events, strict=False):
        names = [f.name for f in fields(Event)]
        found += [f"event {x.id}: {name}" for name in names if str(getattr(x, name)) != str(getattr(y, name))]
    texts = [(folder / "flagged.extxyz").read_bytes() for folder in (a, b)]
    if texts[0] != texts[1]:
        found.append(f"flagged frames: {len(texts[0])} and {len(texts[1])} bytes")
    return found


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full-disk", action="store_true", help="fill a small tmpfs instead of killing (needs root)")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    reference, calibration = known()
    with TemporaryDirectory() as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()
        rehearsal = Path(temporary) / "rehearsal"
        rehearsal.mkdir()
        with redirect_stderr(io.StringIO()):
            run(rehearsal, reference, calibration)  # whatever a first run loads is there before the forks
        begun = time.perf_counter()
        assert os.waitpid(child(run, whole, reference, calibration), 0)[1] == 0
        duration = time.perf_counter() - begun
        log = read_log(whole / "run.jsonl")
        print(f"uninterrupted: {duration:.1f} s, {len(log)} checks, {len(log.events)} events", flush=True)
        if options.full_disk:
            full_disk(Path(temporary), whole, reference, calibration, options.kills, rng)
            return
        kills = runs = inside = torn = 0
        while kills < options.kills:
            folder = Path(temporary) / f"run{runs}"
            folder.mkdir()
            runs += 1
            while not (folder / "done").exists():
                from_inside = rng.random() < 0.5
                spare = kills >= options.kills or rng.random() < 0.03
                dying = random.Random(rng.randrange(2**30)) if from_inside and not spare else None
                pid = child(run_and_die, folder, reference, calibration, dying)
                if not from_inside and not spare:
                    time.sleep(rng.uniform(0, 0.7 * duration))
                    os.kill(pid, signal.SIGKILL)
                status = os.waitpid(pid, 0)[1]
                if os.WIFSIGNALED(status):
                    kills += 1
                    inside += from_inside
                    text = (folder / "run.jsonl").read_bytes() if (folder / "run.jsonl").exists() else b""
                    torn += bool(text) and not text.endswith(b"\n")
                elif status:
                    sys.exit("a run failed")
            found = differences(whole, folder)
            if found:
                sys.exit(f"run {runs} differs: {found}")
            shutil.rmtree(folder)
        print(f"{kills} kills ({inside} inside a write, {torn} left a torn line), {runs} runs: all equal the whole one")


def full_disk(
    temporary: Path, whole: Path, reference: Reference, calibration: Calibration, n: int, rng: random.Random
) -> None:
    """The same with a disk that is full until the next start."""
    full = runs = 0
    while full < n:
        folder = temporary / f"disk{runs}"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
        runs += 1
        try:
            size = 64
            while not (folder / "done").exists():
                status = os.waitpid(child(run, folder, reference, calibration), 0)[1]
                if status:
                    if os.waitstatus_to_exitcode(status) != errno.ENOSPC:
                        sys.exit("a run failed, but not for want of space")
                    full += 1
                    size += rng.randrange(4, 64, 4)
                    subprocess.run(["mount", "-o", f"remount,size={size}k", str(folder)], check=True)
            found = differences(whole, folder)
            if found:
                sys.exit(f"run {runs} on a full disk differs: {found}")
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    print(f"{full} times a full disk in {runs} runs: all equal the whole run")


if __name__ == "__main__":
    main()
