"""What several commands share: options, checks of them, references opened, and messages."""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from quests_md._arguments import check_folder
from quests_md.io import count_frames, expand_sources
from quests_md.reference import Reference

__all__ = [
    "REFERENCE_SUFFIX",
    "FramesArgument",
    "GroupsOption",
    "ThreadsOption",
    "check_frames",
    "check_output",
    "count_there",
    "default_of",
    "open_reference",
    "split_names",
    "tell",
]

#: How the name of a reference file ends.
REFERENCE_SUFFIX = ".safetensors"

GroupsOption = Annotated[
    str | None, Option(help="Independent groups: 'frame', 'file' or a key of info; default: blocks.")
]
ThreadsOption = Annotated[int | None, Option(help="Threads; default: the cores there are.")]
FramesArgument = Annotated[
    list[str], Argument(metavar="FRAMES", help="Files ASE can read, globs, slices: train.xyz 'run*.traj@::10'.")
]


def default_of(function: Callable[..., Any], argument: str) -> Any:
    """The default that a function of the library has for an argument, so that the command line does not repeat it."""
    return inspect.signature(function).parameters[argument].default


def tell(text: str) -> None:
    """Print a message on stderr; stdout is for data."""
    print(text, file=sys.stderr, flush=True)


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


def count_there(files: list[str]) -> int | None:
    """The number of frames of all files, where slices take a part of them; None if all are taken or it is not known."""
    names = [file.rpartition("@")[0] if "@" in file and not Path(file).exists() else file for file in files]
    return None if names == files else count_frames(names)


def open_reference(path: Path, threads: int | None) -> Reference:
    """Load a reference file, or build a reference from a file of frames."""
    if path.suffix == REFERENCE_SUFFIX:
        return Reference.load(path)
    tell(f"building a reference from {path}; `quests-md reference build` keeps it")
    return Reference.from_frames(str(path), threads=threads)


def split_names(text: str | None) -> tuple[str, ...] | None:
    """The names in a text such as "Nb,Mo"; None for None."""
    return None if text is None else tuple(name.strip() for name in text.split(","))
