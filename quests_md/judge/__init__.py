"""One frame to one Check; no state."""

from .judge import Judge, Judged, Values, cached_energy, frame_digest
from .phases import GROWN, GROWTH, Phases

__all__ = ["GROWN", "GROWTH", "Judge", "Judged", "Phases", "Values", "cached_energy", "frame_digest"]
