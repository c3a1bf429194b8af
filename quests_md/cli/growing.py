"""The commands that make a reference of more frames, and what that does to its levels."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from quests_md._words import many
from quests_md.calibration import calibrate, default_statistics, is_dh_scored
from quests_md.reference import Reference
from quests_md.show import fold, moved_levels, reference_lines

from .arguments import (
    REFERENCE_SUFFIX,
    ForceOption,
    FramesArgument,
    GroupsOption,
    ThreadsOption,
    check_apart,
    check_frames,
    check_output,
    put,
    tell,
)

__all__ = ["extend", "is_quick", "merge", "print_reference", "save_with_scores"]


def extend(
    file: Annotated[Path, Argument(metavar="REFERENCE", help="Reference file.")],
    frames: FramesArgument,
    output: Annotated[Path, Option("--output", "-o", help="Reference file to write.")],
    groups: GroupsOption = None,
    force: ForceOption = False,
    threads: ThreadsOption = None,
) -> None:
    """Add frames to a reference, in a new file. Says which levels that moved."""
    check_output("--output", output, (REFERENCE_SUFFIX,), force=force)
    check_apart({"--output": output}, frames)
    check_frames(frames, "expected frames; references are merged by `quests-md reference merge`")
    known = Reference.load(file)
    _save_grown(known, known.extend(frames, groups=groups), output, threads)


def merge(
    files: Annotated[list[Path], Argument(metavar="FILES", help="Reference files with equal settings.")],
    output: Annotated[Path, Option("--output", "-o", help="Reference file to write.")],
    force: ForceOption = False,
) -> None:
    """Merge reference files into a new one. Says which levels of the first that moved."""
    check_output("--output", output, (REFERENCE_SUFFIX,), force=force)
    references = [Reference.load(file) for file in files]
    _save_grown(references[0], Reference.merge(references), output)


def save_with_scores(reference: Reference, output: Path, threads: int | None = None) -> Reference:
    """Write the reference with its held-out scores, from which levels come, and print what it holds."""
    if not reference.n_environments:
        left_out = {why: n for why, n in reference.provenance.get("left_out", {}).items() if n}
        why = ", ".join(f"{many(n, 'frame')} left out ({why})" for why, n in left_out.items()) or "no frames"
        raise ValueError(f"{output}: expected environments to write, got none: {why}; check the frames and --centers")
    if is_quick(reference):
        reference = reference.with_held_out_scores(threads=threads)
    reference.save(output)
    print_reference(reference)
    tell(f"wrote {output}")
    return reference


def is_quick(reference: Reference) -> bool:
    """Whether the rows are so few that levels, and what they come from, are set beside: not of a large reference."""
    return is_dh_scored(reference, default_statistics(reference))


def print_reference(reference: Reference) -> None:
    """Print what a reference holds and, unless it is large, what level it supports."""
    for line in reference_lines(reference, calibrate(reference) if is_quick(reference) else None):
        put(fold(line, sys.stdout, indent=12))


def _save_grown(before: Reference, after: Reference, output: Path, threads: int | None = None) -> None:
    after = save_with_scores(after, output, threads)
    if not is_quick(after):
        return
    lines = moved_levels(calibrate(before, threads=threads), calibrate(after, threads=threads))
    for i, line in enumerate(lines):
        put(fold(f"{'' if i else 'moved':<12}{line}", sys.stdout, indent=12))
