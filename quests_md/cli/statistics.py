"""What is said on the command line of the numbers that raise alarms, and of their rate."""

from typing import Annotated

from typer import Option

from quests_md.calibration import DEFAULT_STATISTICS, STATISTICS, calibrate

from .arguments import default_of, split_names

__all__ = ["FALSE_ALARMS", "StatisticsOption", "statistic_names"]

StatisticsOption = Annotated[
    str | None,
    Option(
        help=f"Numbers that raise alarms: 'all', or some of {', '.join(STATISTICS)}, with commas "
        f"between; default: {','.join(DEFAULT_STATISTICS)}."
    ),
]


#: Rate of false alarms that is asked for unless another one is given.
FALSE_ALARMS: float = default_of(calibrate, "false_alarms")


def statistic_names(text: str | None) -> tuple[str, ...] | None:
    """The names of statistics in a text, where "all" stands for every statistic; None for None."""
    names = tuple(STATISTICS) if text == "all" else split_names(text, "--statistics")
    if unknown := [name for name in names or () if name not in STATISTICS]:
        raise ValueError(f"--statistics: expected 'all' or some of {', '.join(STATISTICS)}; got {unknown[0]!r}")
    return names
