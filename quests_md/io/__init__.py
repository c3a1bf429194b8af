"""Frames in: files of frames, read one frame at a time."""

from .frames import Frame, FramesOrPaths, count_frames, expand_sources, frame_time_ps, iter_frames
from .lammps_dump import check_types

__all__ = ["Frame", "FramesOrPaths", "check_types", "count_frames", "expand_sources", "frame_time_ps", "iter_frames"]
