"""A loop described in a TOML file, for those who do not write Python."""

import importlib
import os
import sys
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from quests_md._arguments import check_choice, check_positive
from quests_md.calibration import Calibration
from quests_md.errors import FileFormatError, MismatchError
from quests_md.io import iter_frames
from quests_md.reference import Reference

from .loop import Loop
from .round_files import read_json, write_json

__all__ = ["loop_of_file"]

#: Names that must stand in the file, and those that may.
NEEDED = ("starts", "reference", "label", "dynamics")
NUMBERS = (
    "n_per_round",
    "steps",
    "interval",
    "max_rounds",
    "max_labels",
    "target_error",
    "tolerance",
    "max_atoms",
    "seed",
)
LIMITS = ("max_rounds", "max_labels", "target_error")
OPTIONAL = ("calculator", "refit", "calibration", "apart", "folder", *NUMBERS)
OF_DYNAMICS = ("ensemble", "temperature_K", "timestep_fs", "friction_per_fs")


def loop_of_file(path: str | os.PathLike[str], *, threads: int | None = None) -> Loop:
    """The loop that a TOML file describes; names of files in it, and modules of one's own, are beside it.

    ::

        starts = "start.xyz"              # a run from each frame, with its momenta or thermal ones
        reference = "train.safetensors"   # or frames
        label = "files"                   # or "my_code:dft", a calculator or a function of Atoms in my_code.py
        refit = "my_code:fit"             # function of the labelled frames that returns a calculator
        calculator = "my_code:first"      # calculator of the first runs, or function without arguments; else fit([])
        tolerance = 0.1                   # with apart: levels from labels
        apart = "test.xyz"                # labelled frames that neither the reference nor the fit knows
        steps = 10000                     # and other arguments of Loop

        [dynamics]                        # or dynamics = "my_code:make_dynamics"
        ensemble = "nvt"                  # Langevin; or "nve"
        temperature_K = 900
        timestep_fs = 2

    Raises
    ------
    FileFormatError
        If it is no TOML, or says what it cannot say; names the entry.
    FileNotFoundError, ValueError, TypeError, MismatchError
        As `Loop` does, or if something that is named is not there.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise FileFormatError(f"{path}: expected a TOML file that describes a loop: {exc}") from None
    if missing := [name for name in NEEDED if name not in content]:
        raise FileFormatError(f"{path}: expected {', '.join(NEEDED)}, got no {' and no '.join(missing)}")
    if unknown := [name for name in content if name not in NEEDED + OPTIONAL]:
        raise FileFormatError(f"{path}: {unknown[0]}: expected one of {', '.join(NEEDED + OPTIONAL)}")
    beside = partial(_beside, path.resolve().parent)
    named = partial(_named, path)
    refit = named("refit", content["refit"]) if "refit" in content else None
    calculator = _first_calculator(path, content, named, refit)
    seed = int(content.get("seed", 0))
    dynamics = content["dynamics"]
    make = named("dynamics", dynamics) if isinstance(dynamics, str) else _dynamics(path, dynamics)
    starts = [frame.atoms for frame in iter_frames(beside(content["starts"]))]
    for k, atoms in enumerate(starts):
        if not isinstance(dynamics, str) and not atoms.get_momenta().any():
            thermalize_momenta(atoms, dynamics["temperature_K"], rng=np.random.default_rng([seed, k]))
        atoms.calc = calculator
    reference = beside(content["reference"])
    is_file = reference.endswith(".safetensors")
    levels = Calibration.load(beside(content["calibration"])) if "calibration" in content else None
    folder = Path(beside(content.get("folder", "loop")))
    _compare(path, folder / "described.json", {name: content[name] for name in content if name not in LIMITS})
    return Loop(
        starts,
        make,
        Reference.load(reference) if is_file else Reference.from_frames(reference, threads=threads),
        label=_made(named("label", content["label"])) if content["label"] != "files" else "files",
        refit=refit,
        calibration=levels,
        apart=beside(content["apart"]) if "apart" in content else None,
        folder=folder,
        threads=threads,
        **{name: content[name] for name in NUMBERS if name in content},
    )


def _compare(path: Path, kept: Path, content: dict[str, Any]) -> None:
    """Keep what the file says beside what the loop keeps, or compare it with what it said when the loop began."""
    before = read_json(kept)
    if before is None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, content)
        return
    for name in {*before, *content}:
        if before.get(name) != content.get(name):
            raise MismatchError(
                f"{path}: {name} was {before.get(name)} when the loop began, and is {content.get(name)} now; give what "
                "it was, or another folder"
            )


def _beside(folder: Path, name: Any) -> str:
    return os.fspath(folder / str(name))


def _named(path: Path, entry: str, text: Any) -> Any:
    """The object that "module:name" means; modules beside the file come first."""
    module, colon, name = str(text).partition(":")
    if not (module and colon and name):
        raise FileFormatError(f"{path}: {entry}: expected 'module:name' of something in module.py, got {text!r}")
    folder = os.fspath(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as exc:
        raise FileFormatError(f"{path}: {entry}: {exc}; {module}.py is looked for in {folder}") from None
    except AttributeError:
        raise FileFormatError(f"{path}: {entry}: there is no {name} in {module}") from None


def _made(label: Any) -> Any:
    """A calculator of a class; all else as it is."""
    return label() if isinstance(label, type) else label


def _first_calculator(path: Path, content: Mapping[str, Any], named: Any, refit: Any) -> Any:
    """The calculator of the first runs."""
    if "calculator" not in content:
        if refit is None:
            raise FileFormatError(f"{path}: expected calculator or refit, got neither: with what are the runs made?")
        return refit([])
    given = named("calculator", content["calculator"])
    return given() if isinstance(given, type) or not hasattr(given, "get_potential_energy") else given


def _dynamics(path: Path, table: Any) -> Any:
    """What makes the dynamics that a table describes."""
    if not isinstance(table, dict):
        raise FileFormatError(f"{path}: dynamics: expected a table, or 'module:name', got {table!r}")
    if unknown := [name for name in table if name not in OF_DYNAMICS]:
        raise FileFormatError(f"{path}: dynamics: expected some of {', '.join(OF_DYNAMICS)}, got {unknown[0]}")
    try:
        ensemble = check_choice("ensemble", table.get("ensemble", "nvt"), ("nvt", "nve"))
        temperature_K = check_positive("temperature_K", table.get("temperature_K"), "temperature in K")
        timestep = check_positive("timestep_fs", table.get("timestep_fs", 1.0), "time step in fs") * units.fs
        friction = check_positive("friction_per_fs", table.get("friction_per_fs", 0.01), "friction in 1/fs") / units.fs
    except ValueError as exc:
        raise FileFormatError(f"{path}: dynamics: {exc}") from None

    def make(atoms: Atoms, rng: np.random.Generator) -> Any:
        if ensemble == "nve":
            return VelocityVerlet(atoms, timestep)
        return Langevin(atoms, timestep, temperature_K=temperature_K, friction=friction, rng=rng, fixcm=False)

    return make
