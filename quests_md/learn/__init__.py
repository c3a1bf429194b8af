"""What comes after an event: frames to label, small cells, the loop of active learning; calculators that carry dH."""

from .bias import EntropyBias
from .calculator import MonitoredCalculator
from .cut_out import CutOut
from .cutting import cut, cut_all
from .described_loop import loop_of_file
from .ending import Round
from .labelling import Labeller
from .loop import Loop
from .running import RunEnd, run_to_event
from .selection import Selected, Selection, select

__all__ = [
    "CutOut",
    "EntropyBias",
    "Labeller",
    "Loop",
    "MonitoredCalculator",
    "Round",
    "RunEnd",
    "Selected",
    "Selection",
    "cut",
    "cut_all",
    "loop_of_file",
    "run_to_event",
    "select",
]
