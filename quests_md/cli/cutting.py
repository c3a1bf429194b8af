"""The command that cuts small cells out of large frames."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from ase import Atoms
from typer import Option

from quests_md.errors import UnsuitableFrameError
from quests_md.io import Frame, iter_frames, write_frames
from quests_md.learn import CutOut, cut, cut_all
from quests_md.reference import Reference
from quests_md.show import terminal_width

from .arguments import (
    ForceOption,
    FramesArgument,
    ThreadsOption,
    TopologyOption,
    TypesOption,
    check_apart,
    check_frames,
    check_output,
    default_of,
    open_reference,
    put,
    split_elements,
    split_names,
    tell,
)

__all__ = ["cut_frames"]

#: Columns of the table, and their widths in a terminal.
COLUMNS = {
    "atoms": 6,
    "core": 5,
    "buffer": 6,
    "kind": 8,
    "core_dh": 8,
    "in_cell": 8,
    "boundary": 8,
    "tried": 5,
    "verdict": 8,
    "center": 7,
    "frame": 6,
    "file": 0,
}


def cut_frames(
    frames: FramesArgument,
    output: Annotated[Path, Option("--output", "-o", help="Extended XYZ file to write the cells to.")],
    reference: Annotated[
        Path | None, Option("--reference", "-r", help="Reference file (.safetensors), or frames to build one from.")
    ] = None,
    center: Annotated[
        str | None, Option(help="Atoms to cut around: 17,18; default: each cluster above the level.")
    ] = None,
    core: Annotated[float, Option(help="Å around the centers whose forces are to be trusted.")] = default_of(
        cut, "core_A"
    ),
    buffer: Annotated[
        float | None, Option(help="Å around the core as in the frame; default: the cutoff, or what --max-atoms allows.")
    ] = None,
    max_atoms: Annotated[int, Option(help="Most atoms of a cell.")] = default_of(cut, "max_atoms"),
    boundary: Annotated[
        Literal["periodic", "vacuum"], Option(help="What is around the cell: its images, or vacuum.")
    ] = default_of(cut, "boundary"),
    level: Annotated[
        float | None,
        Option(help="dH (nats) above which atoms are strange; default: 99.9 % of the reference, held out."),
    ] = None,
    refused: Annotated[
        bool, Option("--refused", help="Write also cells that are refused; cut_refused in them says why.")
    ] = False,
    types: TypesOption = None,
    topology: TopologyOption = None,
    force: ForceOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Cut small cells around strange atoms.

    They are cut out of large frames, for a code of first principles, and scored again.

    A cell for each cluster of atoms above the level, or of those that `select` or a monitor have marked in the frame,
    by --reference; or one around --center.
    Arrays `core` (forces to trust) and `original_index`. Prints a line per cell; what is refused goes to stderr.
    """
    check_output("--output", output, (".xyz", ".extxyz"), force=force)
    check_apart({"--output": output}, [*frames, reference, topology])
    check_frames(frames, "expected frames; give it by --reference")
    elements = split_elements(types, "--types")
    atoms = _indices(center)
    if reference is None and atoms is None:
        raise ValueError(
            "--reference: expected a reference that says which atoms are strange, or --center; got neither"
        )
    known = None if reference is None else open_reference(reference, threads, types=elements, topology=topology)
    how = {"core_A": core, "buffer_A": buffer, "max_atoms": max_atoms, "boundary": boundary, "level": level}
    kept, n_cells = list[Atoms](), 0
    width = terminal_width(sys.stdout)
    _print(list(COLUMNS), width)
    for frame in iter_frames(frames, types=elements, topology=topology):
        for found in _cells(frame, known, atoms, how, threads):
            n_cells += 1
            _print(_row(found, frame), width)
            for note in found.notes:
                tell(f"{frame.source} frame {frame.index}: {note}")
            if found.refused:
                tell(f"{frame.source} frame {frame.index}, atom {found.center[0]}: refused: {found.refused}")
            if not found.refused or refused:
                found.atoms.info |= {"from_file": frame.source, "from_frame": frame.index}
                kept.append(found.atoms)
    if not kept:
        what = "no atom is strange" if n_cells == 0 else f"{n_cells} refused, --refused writes them too"
        tell(f"--output: no cell to write ({what}), {output} was not written")
        return
    write_frames(output, kept)
    tell(f"wrote {output}")


def _cells(
    frame: Frame, known: Reference | None, center: list[int] | None, how: Mapping[str, object], threads: int | None
) -> Iterator[CutOut]:
    """The cells of a frame; errors name it."""
    try:
        if center is not None:
            yield cut(frame.atoms, center, reference=known, threads=threads, **how)  # type: ignore[arg-type]
        elif known is not None:
            yield from cut_all(frame.atoms, known, threads=threads, **how)  # type: ignore[arg-type]
    except UnsuitableFrameError:
        raise
    except ValueError as error:
        raise ValueError(f"{frame.source} frame {frame.index}: {error}") from None


def _indices(text: str | None) -> list[int] | None:
    """Indices of atoms in a text such as "17,18"."""
    names = split_names(text, "--center")
    if names is None:
        return None
    if wrong := [name for name in names if not name.isdecimal()]:
        raise ValueError(f"--center: expected indices of atoms, from 0, such as 17,18; got {wrong[0]!r}")
    return [int(name) for name in names]


def _row(found: CutOut, frame: Frame) -> list[str]:
    dh = [found.core_dh_before, found.core_dh_after]
    return [
        str(len(found.atoms)),
        str(int(found.atoms.arrays["core"].sum())),
        f"{found.chosen.buffer_A:.1f}",
        found.chosen.kind,
        *("" if value is None else f"{value:.2f}" for value in dh),
        "" if found.n_boundary_above is None else str(found.n_boundary_above),
        str(len(found.attempts)),
        "refused" if found.refused else "fine",
        str(found.center[0]),
        str(frame.index),
        frame.source,
    ]


def _print(row: list[str], width: int | None) -> None:
    """A row of the table: columns for a terminal, else tab-separated."""
    cells = [cell.rjust(w) for cell, w in zip(row, COLUMNS.values(), strict=True)]
    put("\t".join(row) if width is None else "  ".join(cells).rstrip())
