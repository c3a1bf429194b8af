"""Kill a monitored MD again and again, resume it, and compare log and flagged frames with the uninterrupted run.

    python benchmarks/kills.py --kills 1000

The kills are spread over the orders of killed_runs.py: the monitor before and after the writer of checkpoints, another
reference in the middle, a monitor that is detached for a while, ... Half of the kills come from outside at a random
moment; the others from inside, in the middle of a random write to the log, within an action, or between `attach` and
the first check. At the end of a run its checks, events, references and flagged frames must equal those of the run of
the same order that was never killed. With --full-disk the log and the flagged frames lie on a small tmpfs that is full
until it is enlarged.

A dynamics whose `nsteps` is set does not show the frame of the checkpoint again. Where the writer comes first, that
frame may lack its check, or its flagged frame: in the order "writer first, nsteps" the log must say so, and the run is
compared without what the log says is missing; in "..., shown" the monitor is called once before the dynamics goes on,
when the energy is not known yet, and such checks are compared without energy and forces. Both are counted.
"""

import argparse
import errno
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from contextlib import redirect_stderr
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import ase.io
import numpy as np
from killed_runs import ORDERS, Death, Known, Order, checkpoint_step, references, run

from quests_md import read_log
from quests_md.records import CHECK_FIELDS, Event

#: Where processes kill themselves.
INSIDE = ("write", "action", "attach")

#: What is counted of an order: where jobs were killed, lines torn by that, checks compared without energies, warnings
#: of what is missing, runs that differ.
COLUMNS = ("runs", "kills", "outside", *INSIDE, "torn", "no energy", "missing", "differ")

#: How a log says what is missing: checks between two steps, and flagged frames of a check.
GAP = re.compile(r"no checks between step (\d+), its last one, and step (\d+)")
UNFINISHED = re.compile(r"before the actions of the check at step (\d+) were done")


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


def job(folder: Path, order: Order, known: tuple[Known, Known], where: str = "", seed: int = 0) -> None:
    """Run, and be killed where it is said."""
    run(folder, order, known, Death(where, random.Random(seed)))


def differences(a: Path, b: Path, begins: set[int]) -> tuple[list[str], int]:
    """What differs between two runs, and in how many checks energies are not compared.

    Jobs of the second run that began at one of the steps `begins` could not know the energy there.
    """
    found = []
    left, right = read_log(a / "run.jsonl"), read_log(b / "run.jsonl")
    blind: set[int] = set()
    for name in CHECK_FIELDS:
        if name == "elapsed_us":
            continue
        expected, got = (getattr(log, name) for log in (left, right))
        if name == "energy_per_atom" and expected.shape == got.shape:
            hidden = np.isnan(got) & np.isin(right.step, list(begins))
            blind = set(right.step[hidden].tolist())
            expected = np.where(hidden, np.nan, expected)
        try:
            np.testing.assert_equal(expected, got)
        except AssertionError as exc:
            found.append(f"{name}: {str(exc)[:200]}")
    found += event_differences(left.events, right.events)
    learned = [[(line["step"], line["chain"]) for line in log.references] for log in (left, right)]
    if learned[0] != learned[1]:
        found.append(f"references: {learned[0]} and {learned[1]}")
    found += flagged_differences(a / "flagged.extxyz", b / "flagged.extxyz", blind)
    found += sentinel_differences(a / "event.json", b / "event.json")
    return found, len(blind)


def differences_but_said(a: Path, b: Path) -> tuple[list[str], int]:
    """What differs between two runs, but for what the log of the second says is missing; and how much it says."""
    left, right = read_log(a / "run.jsonl"), read_log(b / "run.jsonl")
    warnings = " ".join(note["message"] for note in right.notes if note["level"] == "warning")
    gaps = [(int(after), int(before)) for after, before in GAP.findall(warnings)]
    unfinished = set(map(int, UNFINISHED.findall(warnings)))
    lost = sorted(set(left.step.tolist()) - set(right.step.tolist()))
    unsaid = [step for step in lost if not any(after < step < before for after, before in gaps)]
    found = [f"checks at steps {unsaid} are missing, and the log does not say so"] if unsaid else []
    kept = np.isin(left.step, right.step)
    for name in CHECK_FIELDS:
        expected, got = getattr(left, name), getattr(right, name)
        if name in ("elapsed_us", "frame") or isinstance(expected, dict):
            continue
        if not np.array_equal(expected[kept], got, equal_nan=expected.dtype.kind == "f"):
            found.append(name)
    if not lost:
        found += event_differences(left.events, right.events)
    steps = [frame.info["step"] for frame in ase.io.iread(b / "flagged.extxyz")]
    unflagged = [event.id for event in right.events if event.confirmed_step not in {*steps, *unfinished}]
    if unflagged:
        found.append(f"events {unflagged} have no flagged frame, and the log does not say so")
    return found, len(gaps) + len(unfinished)


def event_differences(left: list[Event], right: list[Event]) -> list[str]:
    """What differs between the events of two runs."""
    found = [] if len(left) == len(right) else [f"{len(left)} and {len(right)} events"]
    names = [f.name for f in fields(Event)]
    for x, y in zip(left, right, strict=False):
        found += [f"event {x.id}: {name}" for name in names if str(getattr(x, name)) != str(getattr(y, name))]
    return found


def flagged_differences(a: Path, b: Path, blind: set[int]) -> list[str]:
    """What differs between two files of flagged frames, but for energies and forces at some steps."""
    if not blind:
        texts = [path.read_bytes() for path in (a, b)]
        return [] if texts[0] == texts[1] else [f"flagged frames: {len(texts[0])} and {len(texts[1])} bytes"]
    found, frames = [], [ase.io.read(path, ":") for path in (a, b)]
    if len(frames[0]) != len(frames[1]):
        return [f"flagged frames: {len(frames[0])} and {len(frames[1])}"]
    for x, y in zip(*frames, strict=True):
        step = x.info["step"]
        results = [dict(frame.calc.results) if frame.calc is not None else {} for frame in (x, y)]
        if step in blind and not results[1]:
            results[0] = {}
        pairs = [(x.arrays, y.arrays), (x.info, y.info), (x.cell.array, y.cell.array), tuple(results)]
        try:
            for expected, got in pairs:
                np.testing.assert_equal(expected, got)
        except AssertionError as exc:
            found.append(f"flagged frame of step {step}: {str(exc)[:200]}")
    return found


def sentinel_differences(a: Path, b: Path) -> list[str]:
    """Whether two sentinels tell of other events; how far these had come is that of the last restart."""
    told = [[event.id, event.kind] for event in map(read_event, (a, b))]
    return [] if told[0] == told[1] else [f"sentinels: {told[0]} and {told[1]}"]


def read_event(path: Path) -> Event:
    """The event of a sentinel."""
    return Event.from_line(json.loads(path.read_text()))


def killed(
    folder: Path, order: Order, known: tuple[Known, Known], duration: float, rng: random.Random, most: int
) -> tuple[Counter[str], int, set[int]]:
    """Start a run again and again until it has ended, killed `most` times at most.

    Returns the kills, how many of them have left a torn line, and the steps at which jobs began.
    """
    kills: Counter[str] = Counter()
    torn, begins = 0, set()
    while not (folder / "done").exists():
        begins.add(checkpoint_step(folder))
        where = "outside" if rng.random() < 0.5 else rng.choice(INSIDE)
        if kills.total() >= most or rng.random() < 0.03:
            where = ""
        pid = child(job, folder, order, known, where, rng.randrange(2**30))
        if where == "outside":
            time.sleep(rng.uniform(0, 0.7 * duration))
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        if os.WIFSIGNALED(status):
            kills[where] += 1
            text = (folder / "run.jsonl").read_bytes() if (folder / "run.jsonl").exists() else b""
            torn += bool(text) and not text.endswith(b"\n")
        elif status:
            sys.exit("a run failed")
    return kills, torn, begins


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS), metavar="ORDER")
    parser.add_argument("--keep", type=Path, help="folder for the first run that differs")
    parser.add_argument("--full-disk", action="store_true", help="fill a small tmpfs instead of killing (needs root)")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    known = references()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "rehearsal").mkdir()
        with redirect_stderr(io.StringIO()):
            job(folder / "rehearsal", Order(), known)  # whatever a first run loads is there before the forks
        if options.full_disk:
            full_disk(folder, known, options.kills, rng)
            return
        print(f"{'order':<28}" + "".join(f"{column:>10}" for column in COLUMNS), flush=True)
        total: Counter[str] = Counter()
        for place, name in enumerate(options.orders):
            share = options.kills * (place + 1) // len(options.orders) - options.kills * place // len(options.orders)
            total += kill_order(folder / f"order{place}", name, share, known, rng, options.keep)
        print(row("all", total))
        sys.exit(1 if total["differ"] else 0)


def kill_order(
    folder: Path, name: str, n_kills: int, known: tuple[Known, Known], rng: random.Random, keep: Path | None
) -> Counter[str]:
    """Kill runs of one order so many times; what came of it."""
    order, counts = ORDERS[name], Counter[str]()
    whole = folder / "whole"
    whole.mkdir(parents=True)
    begun = time.perf_counter()
    if os.waitpid(child(job, whole, order, known), 0)[1]:
        sys.exit(f"{name}: the whole run failed")
    duration = time.perf_counter() - begun
    log = read_log(whole / "run.jsonl")
    said = f"{duration:.1f} s, {len(log)} checks, {len(log.events)} events, {len(log.references)} updates"
    print(f"{name}: uninterrupted {said}", file=sys.stderr, flush=True)
    while counts["kills"] < n_kills:
        path = folder / f"run{counts['runs']}"
        path.mkdir()
        kills, torn, begins = killed(path, order, known, duration, rng, n_kills - counts["kills"])
        found, blind = differences(whole, path, begins if order.hides_energies else set())
        missing = 0
        if order.may_miss and found:
            found, missing = differences_but_said(whole, path)
        counts += kills + Counter({"runs": 1, "kills": kills.total(), "torn": torn})
        counts += Counter({"no energy": blind, "missing": missing})
        if found:
            counts["differ"] += 1
            print(f"{name}, run {counts['runs']} differs: {found}", flush=True)
            if keep is not None and not keep.exists():
                shutil.copytree(folder, keep)
        shutil.rmtree(path)
    print(row(name, counts), flush=True)
    return counts


def row(name: str, counts: Counter[str]) -> str:
    """A line of the table."""
    return f"{name:<28}" + "".join(f"{counts[column]:>10}" for column in COLUMNS)


def full_disk(temporary: Path, known: tuple[Known, Known], n: int, rng: random.Random) -> None:
    """The same with a disk that is full until the next start."""
    order, whole = Order(), temporary / "whole"
    whole.mkdir()
    if os.waitpid(child(job, whole, order, known), 0)[1]:
        sys.exit("the whole run failed")
    full = runs = 0
    while full < n:
        folder = temporary / f"disk{runs}"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
        runs += 1
        try:
            size = 64
            while not (folder / "done").exists():
                status = os.waitpid(child(job, folder, order, known), 0)[1]
                if status:
                    if os.waitstatus_to_exitcode(status) != errno.ENOSPC:
                        sys.exit("a run failed, but not for want of space")
                    full += 1
                    size += rng.randrange(4, 64, 4)
                    subprocess.run(["mount", "-o", f"remount,size={size}k", str(folder)], check=True)
            found, _ = differences(whole, folder, set())
            if found:
                sys.exit(f"run {runs} on a full disk differs: {found}")
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    print(f"{full} times a full disk in {runs} runs: all equal the whole run")


if __name__ == "__main__":
    main()
