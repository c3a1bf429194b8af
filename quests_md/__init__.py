"""Watch atomistic MD by the differential entropy of atomic environments."""

from .descriptor import Descriptor
from .entropy import delta_entropy, diversity, entropy, overlap
from .records import Check, Event, read_log
from .reference import Reference
from .trigger import Trigger

__all__ = [
    "Check",
    "Descriptor",
    "Event",
    "Reference",
    "Trigger",
    "delta_entropy",
    "diversity",
    "entropy",
    "overlap",
    "read_log",
]

__version__ = "0.1.0"
