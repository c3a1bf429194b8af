"""Rows against rows: kernel sums, the search structure over reference rows, the bandwidth."""

from .backend import build_index
from .bandwidth import best_bandwidth
from .compilation import announce_compilation, are_kernels_cached
from .devices import are_same_device, require_device, undisturbed
from .growing import GrowingIndex
from .index import Index
from .nearest import complete_nearest
from .of_parts import part_sums
from .regression import KernelRegression
from .sums import BANDWIDTH, delta_entropy, diversity, entropy, minus_log_sums, overlap

__all__ = [
    "BANDWIDTH",
    "GrowingIndex",
    "Index",
    "KernelRegression",
    "announce_compilation",
    "are_kernels_cached",
    "are_same_device",
    "best_bandwidth",
    "build_index",
    "complete_nearest",
    "delta_entropy",
    "diversity",
    "entropy",
    "minus_log_sums",
    "overlap",
    "part_sums",
    "require_device",
    "undisturbed",
]
