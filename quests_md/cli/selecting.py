"""The command that chooses frames to label."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from typer import Option

from quests_md.io import write_frames
from quests_md.learn import Selected, select
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
    tell,
)

__all__ = ["select_frames"]

#: Columns of the table, and their widths in a terminal.
COLUMNS = {"rank": 4, "gain": 8, "dh_max": 8, "atoms": 6, "strange": 7, "nearest": 7, "frame": 6, "file": 0}

#: How the name of a log ends.
LOG_SUFFIX = ".jsonl"


def select_frames(
    frames: FramesArgument,
    reference: Annotated[
        Path, Option("--reference", "-r", help="Reference file (.safetensors), or frames to build one from.")
    ],
    output: Annotated[Path, Option("--output", "-o", help="Extended XYZ file to write the chosen frames to.")],
    n: Annotated[int | None, Option("--n", "-n", help="How many frames; default: as many as cover everything.")] = None,
    per_element: Annotated[
        int | None, Option(help="So many frames, at least, hold each element; default: 1, where it is uncovered.")
    ] = None,
    max_dh: Annotated[float | None, Option(help="Leave out frames with an atom of larger dH (nats).")] = None,
    budget_atoms: Annotated[int | None, Option(help="Most atoms of all chosen frames together.")] = None,
    level: Annotated[
        float | None,
        Option(help="dH (nats) up to which environments are covered; default: 99 % of the reference, held out."),
    ] = None,
    distorted: Annotated[
        bool, Option("--distorted", help="Take also frames with atoms too near each other, or torn apart.")
    ] = default_of(select, "distorted"),
    types: TypesOption = None,
    topology: TopologyOption = None,
    force: ForceOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Choose few, different frames to label.

    Out of trajectories, flagged frames, or the frames of a log.

    Prints a line per frame, best first. What they cover goes to stderr.
    """
    check_output("--output", output, (".xyz", ".extxyz"), force=force)
    check_apart({"--output": output}, [*frames, reference, topology])
    check_frames([file for file in frames if not file.endswith(LOG_SUFFIX)], "expected frames; give it by --reference")
    elements = split_elements(types, "--types")
    known = open_reference(reference, threads, types=elements, topology=topology)
    selection = select(
        frames,
        known,
        n=n,
        per_element=per_element,
        max_dh=max_dh,
        budget_atoms=budget_atoms,
        level=level,
        distorted=distorted,
        types=elements,
        topology=topology,
        threads=threads,
    )
    for line in _rows(selection.chosen, terminal_width(sys.stdout)):
        put(line)
    for line in selection.lines():
        tell(line)
    if not len(selection):
        tell(f"--output: nothing was chosen, {output} was not written")
        return
    write_frames(output, selection.labelled_copies())
    tell(f"wrote {output}")


def _rows(chosen: tuple[Selected, ...], width: int | None) -> Iterator[str]:
    """The names of the columns and a row for each frame: columns for a terminal, else tab-separated."""
    rows = [list(COLUMNS)]
    for one in chosen:
        near = "" if one.nearest is None else f"{one.nearest.distance:.2f}"
        numbers = [one.rank, f"{one.gain:.1f}", f"{one.dh_max:.2f}", len(one.atoms), len(one.strange), near, one.frame]
        rows.append([*map(str, numbers), one.source])
    for row in rows:
        cells = [cell.rjust(w) for cell, w in zip(row, COLUMNS.values(), strict=True)]
        yield "\t".join(row) if width is None else "  ".join(cells).rstrip()
