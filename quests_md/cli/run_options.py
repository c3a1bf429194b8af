"""What commands that watch a run share: options, and checks of them before any work."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from typer import Option

from quests_md._arguments import check_choice, check_integer, check_positive, check_share
from quests_md._file_kinds import fault_of_sentinel, mistaken_for
from quests_md.errors import FileFormatError
from quests_md.io import fault_of_flagged_file
from quests_md.monitor import Monitor
from quests_md.watch import Trigger

from .arguments import check_output, default_of
from .statistics import FALSE_ALARMS

__all__ = [
    "VALUES",
    "BaselineOption",
    "CalibrationOption",
    "FalseAlarmsOption",
    "PatienceOption",
    "PhaseOption",
    "ReferenceOption",
    "SaveOption",
    "SentinelOption",
    "TemperatureOption",
    "ValuesOption",
    "VisitsOption",
    "check_event_files",
    "check_settings",
    "files_by_name",
    "trigger_of",
]

ReferenceOption = Annotated[
    Path, Option("--reference", "-r", help="Reference file (.safetensors), or frames to build one from.")
]
CalibrationOption = Annotated[
    Path | None, Option("--calibration", "-c", help="Calibration file; default: calibrate the reference.")
]
FalseAlarmsOption = Annotated[
    float | None,
    Option(help=f"Asked rate of false alarms per check, without --calibration; default: {FALSE_ALARMS:g}."),
]
BaselineOption = Annotated[
    float | None,
    Option(help="Judge averages over a frame (local_mean, local_tail) by the first so many ps of the run itself."),
]
TemperatureOption = Annotated[
    float | None,
    Option(metavar="K", help="A hotter frame counts as exploded; else one that jumped to five times the median."),
]
PhaseOption = Annotated[
    list[str] | None,
    Option(metavar="NAME=FILE", help="Labelled phases, first that of the start: liquid=l.safetensors; repeat it."),
]
SaveOption = Annotated[Path | None, Option(help="Append flagged frames to this extended XYZ file.")]
SentinelOption = Annotated[
    Path | None,
    Option("--sentinel", metavar="FILE", help="Write the gravest event to this file, once there is one."),
]
PatienceOption = Annotated[
    int | None, Option(help="Checks out in a row that open an event; given alone, visits open none. Default: 3.")
]
VisitsOption = Annotated[
    int | None,
    Option(help="Short departures in 20 checks that open an event; default: by the rate, 4 for 0.01."),
]
ValuesOption = Annotated[str, Option(help="'full': dH of every atom; 'proven': who is above, faster; 'auto': by size.")]

#: What --values is unless another one is given.
VALUES: str = default_of(Monitor, "values")


def check_event_files(save: Path | None, sentinel: Path | None, *, goes_on: bool) -> None:
    """Refuse names to which what is done about events could not be written."""
    check_output("--save", save)
    if save is not None and (fault := mistaken_for(save, None, "flagged frames") or fault_of_flagged_file(save)):
        raise FileFormatError(f"--save: {save}: {fault}; choose another name")
    check_output("--sentinel", sentinel)
    if sentinel is not None and (fault := fault_of_sentinel(sentinel)):
        raise FileFormatError(f"--sentinel: {sentinel}: {fault}; choose another name")
    if sentinel is not None and sentinel.exists() and not goes_on:
        raise FileExistsError(f"--sentinel: {sentinel} is there from an earlier run; remove it")


def check_settings(
    calibration: Path | None,
    false_alarms: float | None,
    baseline_ps: float | None,
    max_temperature: float | None,
    values: str,
    threads: int | None,
) -> float:
    """Refuse what is no setting of a monitor; return the rate of false alarms."""
    if calibration is not None and false_alarms is not None:
        raise ValueError("--false-alarms: the calibration file states its own rate; give one of the two")
    if threads is not None:
        check_integer("--threads", threads, 1)
    check_choice("--values", values, ("full", "proven", "auto"))
    for option, value, what in (
        ("--baseline-ps", baseline_ps, "time in ps"),
        ("--max-temperature", max_temperature, "temperature in K"),
    ):
        if value is not None:
            check_positive(option, value, what)
    return FALSE_ALARMS if false_alarms is None else check_share("--false-alarms", false_alarms, "rate between 0 and 1")


def trigger_of(patience: int | None, visits: int | None) -> Trigger | None:
    """The trigger; None for the default one."""
    if patience is None and visits is None:
        return None
    return Trigger(3 if patience is None else patience, visits=visits)


def files_by_name(option: str, texts: Sequence[str]) -> dict[str, Path]:
    """The files of an option that is given as NAME=FILE, once or more often."""
    files: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise ValueError(f"{option}: expected NAME=FILE such as fcc=fcc.safetensors, got {text!r}")
        if name in files:
            raise ValueError(f"{option}: {name!r} is given twice; give each phase another name")
        files[name] = Path(file)
    return files
