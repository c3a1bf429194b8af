"""`quests-md calibrate`: set the levels for a rate of false alarms."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from quests_md._arguments import check_integer
from quests_md.calibration import DEFAULT_STATISTICS, calibrate, power
from quests_md.show import PICTURE_SUFFIXES, fold, null_distributions, power_rows

from .options import (
    FALSE_ALARMS,
    StatisticsOption,
    ThreadsOption,
    check_output,
    default_of,
    open_reference,
    statistic_names,
)
from .output import save_picture, tell

__all__ = ["set_levels"]


def set_levels(
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="Reference file (.safetensors), or frames to build one from.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Calibration file to write (JSON).")] = None,
    false_alarms: Annotated[
        float, typer.Option(help="Asked rate of false alarms, above 0 and below 1.")
    ] = FALSE_ALARMS,
    per: Annotated[str, typer.Option(help="What the rate counts: check, ns or run.")] = default_of(calibrate, "per"),
    statistics: StatisticsOption = None,
    checks: Annotated[int | None, typer.Option(help="Checks in a run (or ns), with --per run (or ns).")] = None,
    groups: Annotated[str | None, typer.Option(help="'frame' or 'file'; default: the groups of the reference.")] = None,
    frames: Annotated[
        list[str] | None,
        typer.Option(metavar="FRAMES", help="In-distribution frames that are not in the reference; may be repeated."),
    ] = None,
    atoms: Annotated[int | None, typer.Option(help="Size of the system to state the level for.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the null distributions and levels to this file.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses groups where there are very many.")] = 0,
    threads: ThreadsOption = None,
) -> None:
    """Set the levels for a rate of false alarms. Says what they promise, what not, and what they would catch."""
    check_output("--output", output)
    check_output("--plot", plot, PICTURE_SUFFIXES)
    check_integer("--seed", seed, 0)
    for option, value in {"--checks": checks, "--atoms": atoms, "--threads": threads}.items():
        if value is not None:
            check_integer(option, value, 1)
    known = open_reference(reference, threads)
    calibration = calibrate(
        known,
        false_alarms=false_alarms,
        per=per,  # type: ignore[arg-type]  # checked there
        statistics=statistic_names(statistics) or DEFAULT_STATISTICS,
        checks=checks,
        groups=groups,
        frames=frames,
        rng=seed,
        threads=threads,
    )
    typer.echo(fold(calibration.describe(atoms), sys.stdout))
    typer.echo()
    for row in power_rows(calibration, power(known, calibration, n_atoms=atoms, rng=seed, threads=threads), atoms):
        typer.echo(row)
    if output is not None:
        calibration.save(output)
        tell(f"wrote {output}")
    if plot is not None:
        save_picture(null_distributions(calibration, atoms), plot)
