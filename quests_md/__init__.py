"""Watch atomistic MD by the differential entropy of atomic environments."""

from .descriptor import Descriptor
from .entropy import delta_entropy, diversity, entropy, overlap

__all__ = ["Descriptor", "delta_entropy", "diversity", "entropy", "overlap"]

__version__ = "0.1.0"
