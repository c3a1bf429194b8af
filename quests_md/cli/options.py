"""Options and arguments that several commands share: their names, and what is made of their text."""

import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from quests_md._arguments import check_folder
from quests_md.calibration import DEFAULT_STATISTICS, STATISTICS, calibrate
from quests_md.io import expand_sources
from quests_md.records import KINDS
from quests_md.reference import Reference

from .output import tell

__all__ = [
    "FALSE_ALARMS",
    "REFERENCE_SUFFIX",
    "FailOption",
    "FramesArgument",
    "StatisticsOption",
    "ThreadsOption",
    "check_frames",
    "check_output",
    "default_of",
    "event_kinds",
    "files_by_name",
    "open_reference",
    "split_names",
    "statistic_names",
]

#: How the name of a reference file ends.
REFERENCE_SUFFIX = ".safetensors"

FailOption = Annotated[
    bool,
    typer.Option("--fail-on-event", help="Exit with 3 after an event (novel or transition), 4 after an explosion."),
]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads; default: the cores there are.")]
StatisticsOption = Annotated[
    str | None,
    typer.Option(
        help=f"Numbers that raise alarms: 'all', or some of {','.join(STATISTICS)}; "
        f"default: {','.join(DEFAULT_STATISTICS)}."
    ),
]
FramesArgument = Annotated[
    list[str],
    typer.Argument(metavar="FRAMES", help="Files ASE can read, globs, slices: train.xyz 'run*.traj@::10'."),
]


def default_of(function: Callable[..., Any], argument: str) -> Any:
    """The default that a function of the library has for an argument, so that the command line does not repeat it."""
    return inspect.signature(function).parameters[argument].default


#: Rate of false alarms that is asked for unless another one is given.
FALSE_ALARMS: float = default_of(calibrate, "false_alarms")


def check_output(option: str, path: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Refuse a name at the start of the work if no file of that name could be written at its end."""
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{option}: expected a name that ends in {', '.join(suffixes)}, got {path}")
    if path.is_dir():
        raise IsADirectoryError(f"{option}: {path} is a folder; name a file in it")
    check_folder(option, path)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{option}: {path} cannot be written (no permission); choose another name")


def check_frames(files: list[str], advice: str) -> None:
    """Refuse reference files in the place of frames, with advice, and files that do not exist."""
    with warnings.catch_warnings(action="ignore"):  # the same warnings come when the frames are read
        found = expand_sources(files)
    references = [file for file in found if file.endswith(REFERENCE_SUFFIX)]
    if references:
        raise ValueError(f"{', '.join(references)}: {advice}")


def open_reference(path: Path, threads: int | None) -> Reference:
    """Load a reference file, or build a reference from a file of frames."""
    if path.suffix == REFERENCE_SUFFIX:
        return Reference.load(path)
    tell(f"building a reference from {path}; `quests-md reference build` keeps it")
    return Reference.from_frames(str(path), threads=threads)


def split_names(text: str | None) -> tuple[str, ...] | None:
    """The names in a text such as "Nb,Mo"; None for None."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def statistic_names(text: str | None) -> tuple[str, ...] | None:
    """The names of statistics in a text, where "all" stands for every statistic; None for None."""
    return tuple(STATISTICS) if text == "all" else split_names(text)


def event_kinds(text: str | None) -> tuple[str, ...]:
    """The kinds of events in the text of --kind; None: all kinds."""
    kinds = split_names(text) or KINDS
    if unknown := [name for name in kinds if name not in KINDS]:
        raise ValueError(f"--kind: expected some of {','.join(KINDS)}, got {unknown[0]!r}")
    return kinds


def files_by_name(option: str, texts: Sequence[str]) -> dict[str, Path]:
    """The files of an option that is given as NAME=FILE, once or more often."""
    files: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise ValueError(f"{option}: expected NAME=FILE such as fcc=fcc.safetensors, got {text!r}")
        if name in files:
            raise ValueError(f"{option}: {name!r} is given twice; give each phase another name")
        files[name] = Path(file)
    return files
