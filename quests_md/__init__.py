"""Watch atomistic MD by the differential entropy of atomic environments."""

from . import _starting as _starting  # before all that takes long to load
from ._version import __version__ as __version__
from .calibration import Calibration, ErrorCalibration, ExpectedErrors, calibrate, calibrate_errors
from .engine import delta_entropy, diversity, entropy, overlap
from .environments import Descriptor, Minimised, TimeAveraged
from .errors import (
    FileFormatError,
    FrameError,
    LogExistsError,
    MismatchError,
    QuestsMDError,
    StopRun,
    UnsuitableFrameError,
)
from .hosts import score_trajectory
from .judge import Phases
from .learn import (
    CutOut,
    EntropyBias,
    Labeller,
    Loop,
    MonitoredCalculator,
    Round,
    RunEnd,
    Selected,
    Selection,
    cut,
    cut_all,
    run_to_event,
    select,
)
from .log import Log, read_log
from .monitor import Monitor
from .records import Check, Event
from .reference import Reference
from .watch import Cusum, Trigger, save_frame, sentinel, stop

__all__ = [
    "Calibration",
    "Check",
    "Cusum",
    "CutOut",
    "Descriptor",
    "EntropyBias",
    "ErrorCalibration",
    "Event",
    "ExpectedErrors",
    "FileFormatError",
    "FrameError",
    "Labeller",
    "Log",
    "LogExistsError",
    "Loop",
    "Minimised",
    "MismatchError",
    "Monitor",
    "MonitoredCalculator",
    "Phases",
    "QuestsMDError",
    "Reference",
    "Round",
    "RunEnd",
    "Selected",
    "Selection",
    "StopRun",
    "TimeAveraged",
    "Trigger",
    "UnsuitableFrameError",
    "calibrate",
    "calibrate_errors",
    "cut",
    "cut_all",
    "delta_entropy",
    "diversity",
    "entropy",
    "overlap",
    "read_log",
    "run_to_event",
    "save_frame",
    "score_trajectory",
    "select",
    "sentinel",
    "stop",
]
