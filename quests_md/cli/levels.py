"""The command that sets levels for a rate of false alarms."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from quests_md._arguments import check_integer, check_share
from quests_md.calibration import calibrate, power, sight
from quests_md.show import PICTURE_SUFFIXES, fold, null_distributions, power_rows, terminal_width

from .arguments import (
    ForceOption,
    ThreadsOption,
    check_apart,
    check_output,
    default_of,
    open_reference,
    put,
    save_picture,
    tell,
)
from .statistics import FALSE_ALARMS, StatisticsOption, statistic_names

__all__ = ["set_levels"]


def set_levels(
    reference: Annotated[
        Path, Argument(metavar="REFERENCE", help="Reference file (.safetensors), or frames to build one from.")
    ],
    output: Annotated[Path | None, Option("--output", "-o", help="Calibration file to write (JSON).")] = None,
    false_alarms: Annotated[float, Option(help="Asked rate of false alarms, above 0 and below 1.")] = FALSE_ALARMS,
    per: Annotated[str, Option(help="What the rate counts: check, ns or run.")] = default_of(calibrate, "per"),
    statistics: StatisticsOption = None,
    checks: Annotated[int | None, Option(help="Checks in a run (or ns), with --per run (or ns).")] = None,
    groups: Annotated[str | None, Option(help="'frame' or 'file'; default: the groups of the reference.")] = None,
    frames: Annotated[
        list[str] | None,
        Option(metavar="FRAMES", help="In-distribution frames that are not in the reference; may be repeated."),
    ] = None,
    atoms: Annotated[int | None, Option(help="Size of the system to state the level for.")] = None,
    plot: Annotated[Path | None, Option(help="Draw the null distributions and levels to this file.")] = None,
    force: ForceOption = False,
    seed: Annotated[int, Option(help="Chooses groups where there are very many.")] = 0,
    threads: ThreadsOption = None,
) -> None:
    """Set the levels for a rate of false alarms. Says what they promise, what not, and what they would catch."""
    check_apart({"--output": output, "--plot": plot}, [reference, *(frames or ())])
    check_output("--output", output, force=force)
    check_output("--plot", plot, PICTURE_SUFFIXES)
    check_integer("--seed", seed, 0)
    for option, value in {"--checks": checks, "--atoms": atoms, "--threads": threads}.items():
        if value is not None:
            check_integer(option, value, 1)
    check_share("--false-alarms", false_alarms, "rate between 0 and 1")
    names = statistic_names(statistics)
    known = open_reference(reference, threads)
    calibration = calibrate(
        known,
        false_alarms=false_alarms,
        per=per,  # type: ignore[arg-type]  # checked there
        statistics=names,
        checks=checks,
        groups=groups,
        frames=frames,
        rng=seed,
        threads=threads,
    )
    found = power(known, calibration, n_atoms=atoms, rng=seed, threads=threads)
    put(fold(f"{sight(found, known)}\n{calibration.describe(atoms)}", sys.stdout))
    put("\n" + "\n".join(power_rows(calibration, found, atoms, terminal_width(sys.stdout))))
    if output is not None:
        calibration.save(output)
        tell(f"wrote {output}")
    if plot is not None:
        save_picture(null_distributions(calibration, atoms), plot)
