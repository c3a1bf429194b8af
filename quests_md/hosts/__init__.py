"""Where frames come from: a running ASE dynamics, a trajectory, LAMMPS (`quests_md.lammps`)."""

from .arrays import frame_of_arrays
from .ase import AseAttachment
from .trajectory import score_trajectory

__all__ = ["AseAttachment", "frame_of_arrays", "score_trajectory"]
