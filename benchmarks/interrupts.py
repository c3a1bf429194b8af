"""Interrupt a monitored run at random moments, again and again, and count the interrupts that end it.

    python benchmarks/interrupts.py --signals 10000

A process checks frames of copper, 32 atoms, in a loop; some leave the reference, so that events open and flagged frames
are written. Another process sends it SIGINT at a random moment after the run has begun. Every signal must end the loop
with KeyboardInterrupt (with --handler: with the exception of a handler of the user's own) before the next one is sent;
the run then goes on with the check after the last one, every 25th time with another monitor that resumes the log. At
the end the log must hold every check once, and every event its flagged frames.
"""

import argparse
import os
import random
import select
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ase import Atoms
from ase.build import bulk
from numpy.typing import NDArray

from quests_md import Calibration, Monitor, Reference, Trigger, calibrate, read_log, save_frame
from quests_md.io import iter_frames

#: Seconds without an answer after which a signal counts as swallowed.
PATIENCE_S = 20.0


#: Interrupts after which the monitor is closed, and another one resumes the run.
RESUME_EVERY = 25


class HandlerError(Exception):
    """What the handler of a user may raise: a time limit, say."""


def crystal() -> Atoms:
    """Copper at rest."""
    atoms: Atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    return atoms


def move(atoms: Atoms, sites: NDArray[np.float64], step: int) -> None:
    """Move the atoms to where they are at a step: about the sites (n_atoms, 3), Å, hotter every hundred steps.

    This is numpy alone: `for vector in atoms.cell`, which ASE does where atoms are repeated, swallows interrupts.
    """
    width = 0.12 if step % 100 >= 90 else 0.06
    atoms.positions[:] = sites + np.random.default_rng(step).normal(0, width, sites.shape)


def frame_of(step: int) -> Atoms:
    """The frame of a step."""
    atoms = crystal()
    move(atoms, atoms.positions.copy(), step)
    return atoms


def known() -> tuple[Reference, Calibration]:
    """A reference of the crystal; too few frames for colder copies, which take time."""
    reference = Reference.from_frames([frame_of(step) for step in range(8)], bandwidth=0.05, groups="frame")
    return reference, calibrate(reference, false_alarms=0.1).with_statistics(["dh_max"])


def run(folder: Path, reference: Reference, calibration: Calibration, n_signals: int, acknowledge: int) -> None:
    """Run and resume until so many interrupts have come; one byte for each, and one when the run has begun."""
    caught, step, atoms = 0, 0, crystal()
    sites = atoms.positions.copy()
    while caught < n_signals:
        with Monitor(
            reference,
            calibration,
            trigger=Trigger(patience=2, release=0.2),
            log=folder / "run.jsonl",
            actions=[save_frame(folder / "flagged.extxyz")],
            resume=True,
            threads=1,
            verbose=False,
        ) as monitor:
            move(atoms, sites, step)
            monitor.check(atoms, step=step)
            for _ in range(min(RESUME_EVERY, n_signals - caught)):
                try:
                    os.write(acknowledge, b"r")
                    while True:
                        move(atoms, sites, step + 1)
                        monitor.check(atoms, step=step + 1)
                        step += 1
                except (KeyboardInterrupt, HandlerError):
                    caught += 1
                    assert monitor.last_check is not None
                    step = monitor.last_check.step
                    os.write(acknowledge, b"i")


def main() -> None:
    """Send signals, count answers, read the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--handler", action="store_true", help="a handler that raises an exception of its own")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    reference, calibration = known()
    with Monitor(reference, calibration, log=None, threads=1, verbose=False) as monitor:
        monitor.check(frame_of(0))  # kernels are compiled before the fork
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        answers, acknowledge = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                # a shell may have let it be ignored
                signal.signal(signal.SIGINT, raise_own if options.handler else signal.default_int_handler)
                run(folder, reference, calibration, options.signals, acknowledge)
                code = 0
            finally:
                os._exit(code)
        os.close(acknowledge)
        begun = time.perf_counter()
        for count in range(options.signals):
            wait_for(answers, b"r", f"the run after {count} signals")
            time.sleep(rng.uniform(0, 0.01))
            os.kill(child, signal.SIGINT)
            wait_for(answers, b"i", f"signal {count + 1}")
            if (count + 1) % 1000 == 0:
                print(f"{count + 1} signals in {time.perf_counter() - begun:.0f} s", flush=True)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit("the run failed")
        log = read_log(folder / "run.jsonl")
        if not np.array_equal(log.frame, np.arange(len(log))) or not np.array_equal(log.step, log.frame):
            sys.exit("the log lacks checks, or holds some twice")
        flagged = [frame.atoms.info["event"] for frame in iter_frames(folder / "flagged.extxyz")]
        missing = {event.id for event in log.events if event.kind != "exploded"} - set(flagged)
        if missing:
            sys.exit(f"events {sorted(missing)} have no flagged frame")
        print(
            f"{options.signals} signals, each ended the run; {len(log)} checks, each once in the log; "
            f"{len(log.events)} events, each with its flagged frames ({len(flagged)})"
        )


def raise_own(signum: int, frame: object) -> None:
    """The handler of a user."""
    raise HandlerError


def wait_for(answers: int, wanted: bytes, what: str) -> None:
    """Wait for a byte of the run."""
    ready, _, _ = select.select([answers], [], [], PATIENCE_S)
    if not ready:
        sys.exit(f"{what}: swallowed")
    got = os.read(answers, 1)
    if got != wanted:
        sys.exit(f"{what}: expected {wanted!r}, got {got!r}")


if __name__ == "__main__":
    main()
