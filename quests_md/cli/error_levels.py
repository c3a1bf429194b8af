"""The command that sets levels from labels."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from quests_md._arguments import check_integer
from quests_md.calibration import calibrate_errors
from quests_md.show import fold

from .arguments import (
    ForceOption,
    FramesArgument,
    GroupsOption,
    ThreadsOption,
    check_apart,
    check_frames,
    check_output,
    default_of,
    open_reference,
    put,
    split_names,
    tell,
)

__all__ = ["set_error_levels"]


def set_error_levels(
    reference: Annotated[
        Path, Argument(metavar="REFERENCE", help="Reference file (.safetensors), or frames to build one from.")
    ],
    frames: FramesArgument,
    output: Annotated[Path | None, Option("--output", "-o", help="Calibration file to write (JSON).")] = None,
    tolerance: Annotated[float, Option(help="Largest force error that is still good, eV/Å.")] = default_of(
        calibrate_errors, "tolerance"
    ),
    share: Annotated[float, Option(help="Share of environments that may err by more and not be above.")] = default_of(
        calibrate_errors, "share"
    ),
    true: Annotated[str, Option(help="Name of the array with the true forces.")] = default_of(calibrate_errors, "true"),
    model: Annotated[str, Option(help="Name of the array with the forces of the model.")] = default_of(
        calibrate_errors, "model"
    ),
    statistics: Annotated[
        str, Option(help="'dh_max': environments; 'dh_mean': frames, by their RMS error; or both.")
    ] = ",".join(default_of(calibrate_errors, "statistics")),
    groups: GroupsOption = None,
    force: ForceOption = False,
    seed: Annotated[int, Option(help="Chooses groups where there are very many.")] = 0,
    threads: ThreadsOption = None,
) -> None:
    """Set levels from labelled frames.

    Finds the dH above which forces err, from frames with the forces of the model and the true ones that are not in the
    reference. Says what the level promises, and what it gave out of sample.
    """
    check_apart({"--output": output}, [reference, *frames])
    check_output("--output", output, force=force)
    check_integer("--seed", seed, 0)
    if threads is not None:
        check_integer("--threads", threads, 1)
    names = split_names(statistics, "--statistics") or ()
    check_frames(frames, "expected labelled frames; the reference is the first argument")
    calibration = calibrate_errors(
        open_reference(reference, threads),
        frames,
        tolerance,
        share=share,
        true=true,
        model=model,
        statistics=names,
        groups=groups,
        rng=seed,
        threads=threads,
    )
    put(fold(calibration.describe(), sys.stdout))
    if output is not None:
        calibration.save(output)
        tell(f"wrote {output}")
