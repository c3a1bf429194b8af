"""One frame to one Check; no state."""

from .judge import Judge, Values
from .judged import Judged
from .phases import GROWN, GROWTH, Phases

__all__ = ["GROWN", "GROWTH", "Judge", "Judged", "Phases", "Values"]
