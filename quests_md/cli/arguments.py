"""What several commands share: options, checks of them, references opened, messages, and pictures."""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ase.data import atomic_numbers
from typer import Argument, Option, echo

from quests_md._arguments import check_folder
from quests_md._file_kinds import REFERENCE, kind_of_file, mistaken_for
from quests_md._files import NO_PIPES, check_output_file, naming, require_regular
from quests_md._words import LONGEST_LINE, printable
from quests_md.errors import FileFormatError
from quests_md.io import count_frames, expand_sources
from quests_md.reference import Reference
from quests_md.show import fold

if TYPE_CHECKING:  # importing matplotlib takes half a second
    from matplotlib.figure import Figure

__all__ = [
    "REFERENCE_SUFFIX",
    "ForceOption",
    "FramesArgument",
    "GroupsOption",
    "ThreadsOption",
    "TopologyOption",
    "TypesOption",
    "check_apart",
    "check_frames",
    "check_output",
    "count_there",
    "default_of",
    "open_reference",
    "put",
    "save_picture",
    "split_elements",
    "split_names",
    "tell",
]

#: Bytes of a reference file above which it is mapped: processes then share its rows, and few of them are read.
LARGE_FILE = 2**30


#: How the name of a reference file ends.
REFERENCE_SUFFIX = ".safetensors"

ForceOption = Annotated[bool, Option("--force", help="Replace an output file that is there already.")]
GroupsOption = Annotated[
    str | None, Option(help="Independent groups: 'frame', 'file' or a key of info; default: blocks.")
]
ThreadsOption = Annotated[int | None, Option(help="Threads; default: the cores there are.")]
TypesOption = Annotated[
    str | None, Option(help="Elements of the types of a LAMMPS dump that does not name them: Cu,Zr.")
]
TopologyOption = Annotated[
    Path | None, Option(help="File with the elements, for xtc, trr, dcd and NetCDF; needs MDAnalysis.")
]
FramesArgument = Annotated[
    list[str], Argument(metavar="FRAMES", help="Files ASE can read, globs, slices: train.xyz 'run*.traj@::10'.")
]


def default_of(function: Callable[..., Any], argument: str) -> Any:
    """The default that a function of the library has for an argument, so that the command line does not repeat it."""
    return inspect.signature(function).parameters[argument].default


def tell(text: str) -> None:
    """Print a message on stderr; stdout is for data. A terminal obeys none of the texts of files that are in it."""
    print(fold(text, sys.stderr), file=sys.stderr, flush=True)


def put(text: str, most: int = LONGEST_LINE) -> None:
    """Print data on stdout, lines up to `most` letters; as in `tell`, a terminal obeys none of it."""
    try:
        echo(printable(text, most))
    except OSError as exc:
        raise naming(exc, "standard output") from None


def check_output(option: str, path: Path | None, suffixes: Sequence[str] = (), *, force: bool = True) -> None:
    """Refuse a name at the start of the work if no file of that name could be written at its end.

    Without `force` a file that is there is refused too.
    """
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{option}: expected a name that ends in {', '.join(suffixes)}, got {path}")
    if path.is_dir():
        raise IsADirectoryError(f"{option}: {path} is a folder; name a file in it")
    check_output_file(option, path)
    if not force and path.exists():
        kind = kind_of_file(path)
        what = f"is there already{f', {kind.name}' if kind else ''}"
        raise FileExistsError(f"{option}: {path} {what}; give --force to replace it, or another name")
    check_folder(option, path)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{option}: {path} cannot be written (no permission); choose another name")


def check_frames(files: list[str], advice: str) -> None:
    """Refuse other files of quests_md in the place of frames, and files that do not exist.

    References, also such that do not exist, are refused with the advice, in which {} stands for the first.
    """
    if missing := [file for file in files if file.endswith(REFERENCE_SUFFIX) and not os.path.lexists(file)]:
        raise ValueError(f"{', '.join(missing)}: {advice.format(missing[0])}")
    with warnings.catch_warnings(action="ignore"):  # the same warnings come when the frames are read
        found = [file if Path(file).exists() else file.rpartition("@")[0] for file in expand_sources(files)]
    kinds = {file: kind_of_file(file) for file in found}
    references = [file for file, kind in kinds.items() if kind == REFERENCE or file.endswith(REFERENCE_SUFFIX)]
    if references:
        raise ValueError(f"{', '.join(references)}: {advice.format(references[0])}")
    for file in found:
        if fault := mistaken_for(file, None, "frames"):
            raise FileFormatError(f"{file}: {fault}")


def check_apart(outputs: Mapping[str, Path | None], inputs: Sequence[str | Path | None]) -> None:
    """Refuse an output that the same command reads, or writes as another output; `outputs` by option."""
    read = list(_files([given for given in inputs if given is not None]))
    others: dict[str, Path] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        if any(_is_same(path, file) for file in read):
            raise ValueError(f"{option}: {path} is read by this command too; choose another name")
        if other := next((name for name, file in others.items() if _is_same(path, file)), None):
            raise ValueError(f"{option}: {path} is the file of {other} too; give each a name of its own")
        others[option] = path


def _files(given: Sequence[str | Path]) -> Iterator[Path]:
    """The files that are there of names, globs and slices."""
    for text in map(str, given):
        with suppress(OSError, ValueError, FileFormatError), warnings.catch_warnings(action="ignore"):
            for name in [text] if Path(text).exists() else expand_sources([text]):
                yield Path(name if Path(name).exists() else name.rpartition("@")[0])


def _is_same(one: Path, other: Path) -> bool:
    with suppress(OSError, RuntimeError):  # of links that lead to themselves
        return one.resolve() == other.resolve() or one.samefile(other)
    return False


def count_there(files: list[str]) -> int | None:
    """The number of frames of all files, where slices take a part of them; None if all are taken or it is not known."""
    names = [file.rpartition("@")[0] if "@" in file and not Path(file).exists() else file for file in files]
    return None if names == files else count_frames(names)


def open_reference(path: Path, threads: int | None, *, mmap: bool = False, **reading: Any) -> Reference:
    """Load or map a reference file, or build one from a file of frames, for which `reading` is as in `from_frames`."""
    if path.suffix == REFERENCE_SUFFIX or kind_of_file(path) is not None:  # a file of another kind is named there
        return Reference.load(path, mmap=path.is_file() and (mmap or path.stat().st_size > LARGE_FILE))
    require_regular(path, NO_PIPES)
    tell(f"building a reference from {path}; `quests-md reference build` keeps it")
    return Reference.from_frames(str(path), threads=threads, **reading)


def split_names(text: str | None, option: str) -> tuple[str, ...] | None:
    """The names in a text such as "Nb,Mo"; None for None. ValueError, which names the option, if one is empty."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ValueError(f"{option}: expected names with a comma between them, such as Nb,Mo; got {text!r}")
    return names


def split_elements(text: str | None, option: str) -> tuple[str, ...] | None:
    """The same of elements; ValueError if one is none."""
    names = split_names(text, option)
    if unknown := [name for name in names or () if name not in atomic_numbers and name not in ("D", "T")]:
        raise ValueError(f"{option}: expected symbols of elements such as Nb,Mo; got {unknown[0]!r}")
    return names


def save_picture(figure: "Figure", path: Path) -> None:
    """Write a picture and say so; it is drawn again from what is kept, so that an older one may be replaced."""
    again = " again" if path.exists() else ""
    figure.savefig(path, dpi=130)
    tell(f"wrote {path}{again}")
