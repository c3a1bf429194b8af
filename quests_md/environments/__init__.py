"""A frame, atom by atom: descriptor rows, neighbours, connected clusters, atoms that are too near."""

from .atom_ids import hashed, identities
from .connectivity import clusters, coordination, largest_cluster, links
from .contacts import close_pairs
from .descriptor import Descriptor, DescriptorLike, check_center_rows, describe, is_center, is_neighbor
from .minimised import Minimised
from .neighbours import MAX_COORDINATE, frame_grid, linked_pairs, nearest_by_element, wrapped_positions
from .time_averaged import TimeAveraged
from .window import Window

__all__ = [
    "MAX_COORDINATE",
    "Descriptor",
    "DescriptorLike",
    "Minimised",
    "TimeAveraged",
    "Window",
    "check_center_rows",
    "close_pairs",
    "clusters",
    "coordination",
    "describe",
    "frame_grid",
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
