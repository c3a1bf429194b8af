"""`quests-md reference`: build, describe and merge reference files."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from quests_md._arguments import check_bandwidth
from quests_md.calibration import calibrate
from quests_md.engine import BANDWIDTH
from quests_md.environments import Descriptor
from quests_md.reference import Reference
from quests_md.show import fold, reference_lines

from .options import (
    REFERENCE_SUFFIX,
    FramesArgument,
    ThreadsOption,
    check_frames,
    check_output,
    default_of,
    split_names,
)
from .output import tell

__all__ = ["build", "info", "merge"]


def build(
    frames: FramesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Reference file to write.")] = Path(
        "reference.safetensors"
    ),
    k: Annotated[int, typer.Option(help="Neighbours per environment.")] = Descriptor().k,
    cutoff: Annotated[float, typer.Option(help="Cutoff radius in Å.")] = Descriptor().cutoff,
    elements: Annotated[str | None, typer.Option(help="Resolve neighbours by these elements: Nb,Mo.")] = None,
    centers: Annotated[str | None, typer.Option(help="Only environments of these elements: O.")] = None,
    neighbors: Annotated[str | None, typer.Option(help="Only neighbours of these elements: O.")] = None,
    bandwidth: Annotated[str, typer.Option(help="Bandwidth h in 1/Å, or 'auto'.")] = str(BANDWIDTH),
    match: Annotated[str, typer.Option(help="'element': compare like with like; 'any': geometry alone.")] = default_of(
        Reference.from_frames, "match"
    ),
    groups: Annotated[
        str | None, typer.Option(help="Independent groups: 'frame', 'file' or a key of info; default: blocks.")
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Build a reference from frames. Environments are held out to set levels; both go to one file."""
    check_output("--output", output, (REFERENCE_SUFFIX,))
    check_frames(frames, "expected frames; references are merged by `quests-md reference merge`")
    reference = Reference.from_frames(
        frames,
        descriptor=Descriptor(
            k=k,
            cutoff=cutoff,
            elements=split_names(elements),
            centers=split_names(centers),
            neighbors=split_names(neighbors),
        ),
        bandwidth="auto" if bandwidth == "auto" else check_bandwidth(bandwidth),
        match=match,  # type: ignore[arg-type]  # checked there
        groups=groups,
        threads=threads,
    )
    _save_with_scores(reference, output, threads)


def info(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Reference file.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare the content with its checksums.")] = False,
) -> None:
    """Say what a reference file holds and what level it supports."""
    if verify:
        Reference.verify(file)
    reference = Reference.load(file)
    _print_lines(reference)
    auto = reference.auto_bandwidth()
    found = f"{auto} 1/Å" if auto else "none between 0.003 and 0.3 1/Å: copies among the groups, or too few of them"
    typer.echo(fold(f"likeliest h {found} (--bandwidth auto)", sys.stdout, indent=12))
    if verify:
        typer.echo("content     equals the checksums written at save")


def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="Reference files with equal settings.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Reference file to write.")],
) -> None:
    """Merge reference files into a new one."""
    check_output("--output", output, (REFERENCE_SUFFIX,))
    _save_with_scores(Reference.merge([Reference.load(file) for file in files]), output)


def _save_with_scores(reference: Reference, output: Path, threads: int | None = None) -> None:
    """Write the reference with its held-out scores, from which levels come."""
    reference = reference.with_held_out_scores(threads=threads)
    reference.save(output)
    _print_lines(reference)
    tell(f"wrote {output}")


def _print_lines(reference: Reference) -> None:
    for line in reference_lines(reference, calibrate(reference)):
        typer.echo(fold(line, sys.stdout, indent=12))
