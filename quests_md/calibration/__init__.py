"""Which value of a frame is strange, at a stated rate of false alarms."""

from .advice import bandwidth_advice
from .calibrating import DEFAULT_STATISTICS, calibrate, default_statistics
from .calibration import Calibration
from .carrying import why_not_carried
from .colder import Colder, usual_dh
from .detection_power import Power, power, sight
from .error_calibration import ErrorCalibration, calibrate_errors
from .file import SCHEMA
from .labels import ExpectedErrors
from .landmarks import Landmarks, LocalScorer
from .levels import Kind, Level, Mode, NullScores, as_released, count_excess, kind_of, level_of, rate_of, rate_of_checks
from .null_scores import TAIL_SHARE
from .opening import GivenCalibration, opened_calibration
from .plain_scores import is_dh_scored
from .sharing_scorers import shared_scorer
from .statistics import (
    BASELINE_STATISTICS,
    SAMPLE_ATOMS,
    SEED,
    SKETCH_ROWS,
    STATISTICS,
    FrameNumbers,
    frame_entropy,
    sample,
)

__all__ = [
    "BASELINE_STATISTICS",
    "DEFAULT_STATISTICS",
    "SAMPLE_ATOMS",
    "SCHEMA",
    "SEED",
    "SKETCH_ROWS",
    "STATISTICS",
    "TAIL_SHARE",
    "Calibration",
    "Colder",
    "ErrorCalibration",
    "ExpectedErrors",
    "FrameNumbers",
    "GivenCalibration",
    "Kind",
    "Landmarks",
    "Level",
    "LocalScorer",
    "Mode",
    "NullScores",
    "Power",
    "as_released",
    "bandwidth_advice",
    "calibrate",
    "calibrate_errors",
    "count_excess",
    "default_statistics",
    "frame_entropy",
    "is_dh_scored",
    "kind_of",
    "level_of",
    "opened_calibration",
    "power",
    "rate_of",
    "rate_of_checks",
    "sample",
    "shared_scorer",
    "sight",
    "usual_dh",
    "why_not_carried",
]
