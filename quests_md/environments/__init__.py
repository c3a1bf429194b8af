"""A frame, atom by atom: descriptor rows, neighbours, connected clusters, atoms that are too near."""

from .contacts import (
    NOT_CROWDED,
    bare,
    close_pairs,
    clusters,
    coordination,
    largest_cluster,
    links,
    nearest_allowed,
)
from .describing import (
    DescriptorLike,
    averaged_over,
    check_center_rows,
    describe,
    describe_both,
    inner_descriptor,
    is_center,
    is_neighbor,
    show_room,
)
from .descriptor import AVERAGED_SHARE, Descriptor
from .facts import (
    FrameFacts,
    element_symbol,
    frame_digest,
    frame_facts,
    hashed,
    identities,
    results_at_hand,
    without_bias,
)
from .minimised import Minimised
from .neighbours import MAX_COORDINATE, PairDistances, linked_pairs, nearest_by_element, wrapped_positions
from .on_device import can_be_made_there, fetched, rows_of_batch, surroundings
from .smooth_rows import smooth_frame
from .tensor_frames import TensorBatch, TensorFrame, place_of
from .time_averaged import TimeAveraged, Window

__all__ = [
    "AVERAGED_SHARE",
    "MAX_COORDINATE",
    "NOT_CROWDED",
    "Descriptor",
    "DescriptorLike",
    "FrameFacts",
    "Minimised",
    "PairDistances",
    "TensorBatch",
    "TensorFrame",
    "TimeAveraged",
    "Window",
    "averaged_over",
    "bare",
    "can_be_made_there",
    "check_center_rows",
    "close_pairs",
    "clusters",
    "coordination",
    "describe",
    "describe_both",
    "element_symbol",
    "fetched",
    "frame_digest",
    "frame_facts",
    "hashed",
    "identities",
    "inner_descriptor",
    "is_center",
    "is_neighbor",
    "largest_cluster",
    "linked_pairs",
    "links",
    "nearest_allowed",
    "nearest_by_element",
    "place_of",
    "results_at_hand",
    "rows_of_batch",
    "show_room",
    "smooth_frame",
    "surroundings",
    "without_bias",
    "wrapped_positions",
]
