"""Watch atomistic MD by the differential entropy of atomic environments."""

# isort: off  # the version comes first: modules below write it into files
__version__ = "0.1.0"
# isort: on

from .actions import save_frame, sentinel, stop
from .calibration import Calibration, calibrate
from .cusum import Cusum
from .descriptor import Descriptor
from .entropy import delta_entropy, diversity, entropy, overlap
from .errors import FileFormatError, FrameError, LogExistsError, MismatchError, QuestsMDError, StopRun
from .logfile import Log, read_log
from .monitor import Monitor
from .phases import Phases
from .records import Check, Event
from .reference import Reference
from .smoothing import Minimised, TimeAveraged
from .trajectory import score_trajectory
from .trigger import Trigger

__all__ = [
    "Calibration",
    "Check",
    "Cusum",
    "Descriptor",
    "Event",
    "FileFormatError",
    "FrameError",
    "Log",
    "LogExistsError",
    "Minimised",
    "MismatchError",
    "Monitor",
    "Phases",
    "QuestsMDError",
    "Reference",
    "StopRun",
    "TimeAveraged",
    "Trigger",
    "calibrate",
    "delta_entropy",
    "diversity",
    "entropy",
    "overlap",
    "read_log",
    "save_frame",
    "score_trajectory",
    "sentinel",
    "stop",
]
