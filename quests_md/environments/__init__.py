"""A frame, atom by atom: descriptor rows, neighbours, connected clusters, atoms that are too near."""

from .atom_ids import element_symbol, hashed, identities
from .connectivity import bare, clusters, coordination, largest_cluster, links
from .contacts import close_pairs
from .descriptor import Descriptor, DescriptorLike, check_center_rows, describe, is_center, is_neighbor
from .host_numbers import (
    cached_energy,
    cached_results,
    frame_digest,
    non_finite_atoms,
    temperature_K,
    volume_per_atom,
)
from .minimised import Minimised
from .neighbours import MAX_COORDINATE, PairDistances, frame_grid, linked_pairs, nearest_by_element, wrapped_positions
from .time_averaged import TimeAveraged
from .window import Window

__all__ = [
    "MAX_COORDINATE",
    "Descriptor",
    "DescriptorLike",
    "Minimised",
    "PairDistances",
    "TimeAveraged",
    "Window",
    "bare",
    "cached_energy",
    "cached_results",
    "check_center_rows",
    "close_pairs",
    "clusters",
    "coordination",
    "describe",
    "element_symbol",
    "frame_digest",
    "frame_grid",
    "hashed",
    "identities",
    "is_center",
    "is_neighbor",
    "largest_cluster",
    "linked_pairs",
    "links",
    "nearest_by_element",
    "non_finite_atoms",
    "temperature_K",
    "volume_per_atom",
    "wrapped_positions",
]
