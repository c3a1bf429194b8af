"""A frame, atom by atom: descriptor rows, neighbours, connected clusters, atoms that are too near."""

from .contacts import bare, close_pairs, clusters, coordination, largest_cluster, links
from .descriptor import Descriptor, DescriptorLike, Wrapped, check_center_rows, describe, is_center, is_neighbor
from .facts import element_symbol, frame_digest, frame_facts, hashed, identities
from .minimised import Minimised
from .neighbours import MAX_COORDINATE, PairDistances, linked_pairs, nearest_by_element, wrapped_positions
from .time_averaged import TimeAveraged, Window

__all__ = [
    "MAX_COORDINATE",
    "Descriptor",
    "DescriptorLike",
    "Minimised",
    "PairDistances",
    "TimeAveraged",
    "Window",
    "Wrapped",
    "bare",
    "check_center_rows",
    "close_pairs",
    "clusters",
    "coordination",
    "describe",
    "element_symbol",
    "frame_digest",
    "frame_facts",
    "hashed",
    "identities",
    "is_center",
    "is_neighbor",
    "largest_cluster",
    "linked_pairs",
    "links",
    "nearest_by_element",
    "wrapped_positions",
]
