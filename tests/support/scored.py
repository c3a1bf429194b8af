"""Trajectories in files, scored by one process and by several."""

import functools
import gzip
import json
import re
import warnings

from ase.io import write
from ase.io.trajectory import Trajectory
from systems import H, inside, level_at, md_frames, outside, reordered

from quests_md import Reference, Trigger, score_trajectory

#: What no two runs share: of the header, and of each check.
FREE = {"started", "pid", "elapsed_us"}


@functools.cache
def known():
    """A small reference, of which each process makes what it needs in no time."""
    return Reference.from_frames(reordered(md_frames()[:120:6]), bandwidth=H, groups="frame")


@functools.cache
def levels():
    return level_at(known(), -3.0)


def log_lines(path):
    """The lines of a log without what tells when, where and how long."""
    lines = []
    with path.open(encoding="utf-8") as file:
        for text in file:
            line = {name: value for name, value in json.loads(text).items() if name not in FREE}
            line.pop("resumed", None)
            if line["type"] == "note":
                line["message"] = re.sub(
                    r"closed after (\d+) checks: .*? per atom", r"closed after \1", line["message"]
                )
            lines.append(json.dumps(line))
    return lines


def frames_of_run(n, strange=()):
    frames = []
    for i in range(n):
        atoms = (outside if i in strange else inside)(i).copy()
        atoms.info |= {"step": 10 * i, "time_ps": 0.05 * i}
        frames.append(atoms)
    return frames


def write_dump(path, frames):
    """A LAMMPS dump that names its units once, and loses an atom at its 40th frame."""
    lines = ["ITEM: UNITS\nmetal\n"]
    for i, atoms in enumerate(frames):
        n = len(atoms) - (i >= 39)
        lines.append(f"ITEM: TIMESTEP\n{10 * i}\nITEM: NUMBER OF ATOMS\n{n}\nITEM: BOX BOUNDS pp pp pp\n")
        lines += [f"0.0 {length}\n" for length in atoms.cell.lengths()]
        lines.append("ITEM: ATOMS id type x y z\n")
        lines += [f"{j + 1} 1 {x} {y} {z}\n" for j, (x, y, z) in enumerate(atoms.positions[:n])]
    path.write_text("".join(lines), encoding="utf-8")


def write_run(folder):
    """The same run of 60 frames as files of all kinds that are read in parts, and as many small files."""
    frames = frames_of_run(60, strange=(7, 8, 9, 30, 31, 32, 33, 34, 50))
    write(folder / "run.xyz", frames, format="extxyz")
    text = (folder / "run.xyz").read_bytes()
    (folder / "torn.xyz").write_bytes(text[:-150])
    with gzip.open(folder / "long.xyz.gz", "wb", compresslevel=0) as file:  # larger than what is one part
        for _ in range(2):
            file.write(text)
    with Trajectory(folder / "run.traj", "w") as trajectory:
        for atoms in frames:
            trajectory.write(atoms)
    write_dump(folder / "run.dump", frames)
    for i in range(12):
        write(folder / f"part{i}.xyz", frames[5 * i : 5 * i + 5], format="extxyz")
    known().save(folder / "reference.safetensors")
    levels().save(folder / "levels.json")


def scored(source, log, **options):
    """Checks, lines of the log and warnings."""
    options = {"reference": known(), "calibration": levels(), "trigger": Trigger(patience=2)} | options
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        checks = list(score_trajectory(source, log=log, **options))
    return checks, log_lines(log), [str(warning.message) for warning in told]
