"""Where frames come from: a running ASE dynamics, a trajectory, LAMMPS (`quests_md.lammps`)."""

from .ase import AseAttachment
from .trajectory import score_trajectory

__all__ = ["AseAttachment", "score_trajectory"]
