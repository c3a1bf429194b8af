"""Which value of a frame is strange, at a stated rate of false alarms."""

from .calibration import DEFAULT_STATISTICS, SCHEMA, Calibration, calibrate, kind_of, rate_of
from .detection_power import Power, power
from .levels import Kind, Level, NullScores, as_released, level_of
from .null_scores import SEED
from .statistics import SAMPLE_ATOMS, SKETCH_ROWS, STATISTICS, TAIL_SHARE, frame_entropy, mean_and_quantile, sample

__all__ = [
    "DEFAULT_STATISTICS",
    "SAMPLE_ATOMS",
    "SCHEMA",
    "SEED",
    "SKETCH_ROWS",
    "STATISTICS",
    "TAIL_SHARE",
    "Calibration",
    "Kind",
    "Level",
    "NullScores",
    "Power",
    "as_released",
    "calibrate",
    "frame_entropy",
    "kind_of",
    "level_of",
    "mean_and_quantile",
    "power",
    "rate_of",
    "sample",
]
