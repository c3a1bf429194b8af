"""The commands that build a reference, and tell what it holds."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from quests_md._arguments import check_bandwidth
from quests_md.environments import Descriptor
from quests_md.reference import Reference, thinning_loss
from quests_md.show import fold

from .arguments import (
    REFERENCE_SUFFIX,
    ForceOption,
    FramesArgument,
    GroupsOption,
    ThreadsOption,
    TopologyOption,
    check_apart,
    check_frames,
    check_output,
    default_of,
    put,
    split_elements,
    tell,
)
from .growing import is_quick, print_reference, save_with_scores

__all__ = ["build", "info", "thin"]

#: Bandwidth in 1/Å unless one is given, in words.
DEFAULT_BANDWIDTHS = f"{Descriptor().bandwidth}, of averaged rows {Descriptor(average=12).bandwidth}"


def build(
    frames: FramesArgument,
    output: Annotated[Path, Option("--output", "-o", help="Reference file to write.")] = Path("reference.safetensors"),
    k: Annotated[int, Option(help="Neighbours per environment.")] = Descriptor().k,
    cutoff: Annotated[float, Option(help="Cutoff radius in Å.")] = Descriptor().cutoff,
    elements: Annotated[str | None, Option(help="Resolve neighbours by these elements: Nb,Mo.")] = None,
    centers: Annotated[str | None, Option(help="Only environments of these elements: O.")] = None,
    neighbors: Annotated[str | None, Option(help="Only neighbours of these elements: O.")] = None,
    average: Annotated[int | None, Option(help="Average rows over so many nearest neighbours: 12.")] = None,
    chemistry: Annotated[bool, Option("--chemistry", help="See which element sits where, any number of them.")] = False,
    bandwidth: Annotated[
        str | None, Option(help=f"Bandwidth h in 1/Å, or 'auto'; default: {DEFAULT_BANDWIDTHS}.")
    ] = None,
    match: Annotated[str, Option(help="'element': compare like with like; 'any': geometry alone.")] = default_of(
        Reference.from_frames, "match"
    ),
    groups: GroupsOption = None,
    single: Annotated[bool, Option("--single", help="Round rows to single precision: half their bytes.")] = False,
    types: Annotated[
        str | None, Option(help="Elements of atom types, for LAMMPS files that do not name them: Cu,Zr.")
    ] = None,
    skip_bad: Annotated[
        bool, Option("--skip-bad", help="Leave out frames that cannot be used, and list them.")
    ] = False,
    topology: TopologyOption = None,
    force: ForceOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Build a reference from frames. Environments are held out to set levels; both go to one file."""
    check_frames(frames, "expected frames; did you mean -o {}? (references are merged by `quests-md reference merge`)")
    check_apart({"--output": output}, [*frames, topology])
    check_output("--output", output, (REFERENCE_SUFFIX,), force=force)
    names = {
        "elements": split_elements(elements, "--elements"),
        "centers": split_elements(centers, "--centers"),
        "neighbors": split_elements(neighbors, "--neighbors"),
    }
    of_types = split_elements(types, "--types")
    reference = Reference.from_frames(
        frames,
        descriptor=Descriptor(k=k, cutoff=cutoff, average=average, chemistry=chemistry, **names),
        bandwidth=_bandwidth(bandwidth),
        match=match,  # type: ignore[arg-type]  # checked there
        groups=groups,
        precision="single" if single else "double",
        types=of_types,
        skip_bad=skip_bad,
        topology=topology,
        threads=threads,
        out=output,
    )
    if is_quick(reference):
        save_with_scores(reference, output, threads)
    else:
        print_reference(reference)
        tell(f"wrote {output}")


def thin(
    file: Annotated[Path, Argument(metavar="REFERENCE", help="Reference file.")],
    output: Annotated[Path, Option("--output", "-o", help="Reference file to write.")],
    bound: Annotated[float, Option(help="Nats: dH of each row left out is at most that.")] = 0.5,
    force: ForceOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Keep rows that cover the others, in a new file. Says what is lost."""
    check_output("--output", output, (REFERENCE_SUFFIX,), force=force)
    check_apart({"--output": output}, [file])
    whole = Reference.load(file, mmap=True)
    small = whole.thin(bound, threads=threads)
    small.save(output)
    loss = thinning_loss(whole, small, threads=threads)
    n, m = small.n_environments, whole.n_environments
    put(f"kept        {n} of {m} environments ({loss.kept:.1%}); dH of the others is at most {bound:g} nats")
    put(f"lost        {1 - loss.completeness:.2%} of the environments have dH > 0 now")
    median, high, most = loss.shift
    put(f"dH rises    of held-out environments by {median:.2f} nats (median), {high:.2f} (99 %), {most:.2f} (largest)")
    put("levels      need a new calibration, with frames that are not in it: quests-md calibrate --frames")
    tell(f"wrote {output}")


def info(
    file: Annotated[Path, Argument(metavar="FILE", help="Reference file.")],
    verify: Annotated[bool, Option("--verify", help="Compare the content with its checksums.")] = False,
) -> None:
    """Say what a reference file holds and what level it supports."""
    if verify:
        Reference.verify(file)
    reference = Reference.load(file, mmap=True)
    print_reference(reference)
    if is_quick(reference):
        auto = reference.auto_bandwidth()
        found = f"{auto} 1/Å" if auto else "none between 0.003 and 0.3 1/Å, as is usual for crystals"
        put(fold(f"likeliest h {found} (--bandwidth auto)", sys.stdout, indent=12))
    if verify:
        put("content     equals the checksums written at save")


def _bandwidth(text: str | None) -> float | Literal["auto"] | None:
    """The option --bandwidth as `Reference.from_frames` takes it."""
    return "auto" if text == "auto" else None if text is None else check_bandwidth(text)
