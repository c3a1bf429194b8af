"""Frames in: files of frames, read one frame at a time. Frames out: flagged frames, appended to a file."""

from .annotated_frames import cut_annotated_file, fault_of_annotated_file
from .files import Frame
from .flagged_frames import append_frame, fault_of_flagged_file, is_finite, labelled_copy
from .frames import (
    FramesOrPaths,
    count_frames,
    expand_sources,
    frame_temperature_K,
    frame_time_ps,
    is_of_files,
    iter_frames,
)
from .lammps_dump import check_types
from .lammps_snapshot import LAMMPS_UNITS
from .parts import Part, PartedFiles, read_part
from .seen import FramesSeen, periodic_words
from .usable import fault_of_frame
from .xyz_text import write_frames

__all__ = [
    "LAMMPS_UNITS",
    "Frame",
    "FramesOrPaths",
    "FramesSeen",
    "Part",
    "PartedFiles",
    "append_frame",
    "check_types",
    "count_frames",
    "cut_annotated_file",
    "expand_sources",
    "fault_of_annotated_file",
    "fault_of_flagged_file",
    "fault_of_frame",
    "frame_temperature_K",
    "frame_time_ps",
    "is_finite",
    "is_of_files",
    "iter_frames",
    "labelled_copy",
    "periodic_words",
    "read_part",
    "write_frames",
]
