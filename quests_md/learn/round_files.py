"""The files of one round of a loop, each written whole or not at all: what is there has been done."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import Trajectory

from quests_md._files import replacing
from quests_md._json import dumps, loads
from quests_md.io import iter_frames

from .running import RunEnd

__all__ = ["RoundFiles", "read_frames", "read_json", "write_json"]

#: Arrays that a trajectory keeps, and the key under which the others are put.
KEPT = ("numbers", "positions", "momenta", "tags", "masses", "initial_magmoms", "initial_charges")
OWN_ARRAYS = "quests_md_arrays"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(dumps(content) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None if it is not there."""
    return dict(loads(path.read_bytes())) if path.is_file() else None


def write_atoms(path: Path, frames: Sequence[Atoms]) -> None:
    """Write frames to an ASE trajectory, to the bit with momenta and forces, whole or not at all."""
    with replacing(path) as temporary, Trajectory(os.fspath(temporary), "w") as out:
        for frame in frames:
            out.write(_packed(frame))


def read_atoms(path: Path) -> list[Atoms] | None:
    """The frames of an ASE trajectory; None if it is not there."""
    if not path.is_file():
        return None
    if not path.stat().st_size:  # of no frames
        return []
    with Trajectory(os.fspath(path)) as frames:
        return [_unpacked(frames[i]) for i in range(len(frames))]


def _packed(frame: Atoms) -> Atoms:
    """The frame with its own arrays in info: a trajectory drops them where they are."""
    own = {name: array for name, array in frame.arrays.items() if name not in KEPT}
    if not own:
        return frame
    packed: Atoms = frame.copy()
    packed.calc = frame.calc
    packed.info[OWN_ARRAYS] = own
    return packed


def _unpacked(frame: Atoms) -> Atoms:
    for name, array in frame.info.pop(OWN_ARRAYS, {}).items():
        frame.set_array(name, array)
    return frame


def read_frames(path: Path) -> list[Atoms] | None:
    """The frames of a file of extended XYZ, which keeps arrays that a trajectory drops; None if it is not there."""
    if not path.is_file():
        return None
    return [frame.atoms for frame in iter_frames(path)] if path.stat().st_size else []


class RoundFiles:
    """Names of the files of a round, and what they hold."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder / f"round-{number:03d}", number

    def path(self, name: str) -> Path:
        """A file of the round."""
        return self.folder / name

    def begin(self, starts: Sequence[Atoms]) -> None:
        """Write the frames that the runs of the round begin with, unless they are there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.path("starts.traj").is_file():
            write_atoms(self.path("starts.traj"), [_bare(frame) for frame in starts])

    def starts(self) -> list[Atoms] | None:
        """The frames that the runs of the round begin with; None if the round has not begun."""
        return read_atoms(self.path("starts.traj"))

    def run(self, k: int) -> RunEnd | None:
        """How run k has ended; None if it has not."""
        content = read_json(self.path(f"run-{k}.json"))
        if content is None:
            return None
        frames = read_atoms(self.path(f"run-{k}.traj")) or []
        n = content["n_beyond"]
        return RunEnd(content["end"], content["why"], content["steps"], frames[0], frames[1 : n + 1], frames[n + 1 :])

    def write_run(self, k: int, end: RunEnd) -> None:
        """Keep how run k has ended: the frame to go on from, the frames beyond, then those before an explosion."""
        write_atoms(self.path(f"run-{k}.traj"), [end.restart, *end.beyond, *end.before])
        content = {"end": end.end, "why": end.why, "steps": end.steps, "n_beyond": len(end.beyond)}
        write_json(self.path(f"run-{k}.json"), content)


def _bare(frame: Atoms) -> Atoms:
    copy: Atoms = frame.copy()
    copy.calc = None
    return copy


def forces_of(frame: Atoms) -> Any:
    """Forces that a kept frame has, or None."""
    return frame.calc.results.get("forces") if isinstance(frame.calc, SinglePointCalculator) else None


def generator(seed: int, round_number: int, k: int) -> np.random.Generator:
    """The random numbers of run k of a round: the same whenever the run is made again."""
    return np.random.default_rng([seed, round_number, k])
