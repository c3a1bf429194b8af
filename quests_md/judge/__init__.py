"""One frame to one Check; no state."""

from .judge import Judge, Values
from .judged import Judged, LateRows
from .phases import GROWN, GROWTH, Phases
from .shares import Crew, share_of

__all__ = ["GROWN", "GROWTH", "Crew", "Judge", "Judged", "LateRows", "Phases", "Values", "share_of"]
