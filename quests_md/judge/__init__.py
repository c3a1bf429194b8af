"""One frame to one Check; no state."""

from .judge import Judge, Values
from .judged import Judged, LateRows
from .phases import GROWN, GROWTH, Phases

__all__ = ["GROWN", "GROWTH", "Judge", "Judged", "LateRows", "Phases", "Values"]
