"""Where frames come from: a running ASE dynamics, a trajectory, LAMMPS (`quests_md.lammps`)."""

from .arrays import ArrayFrames, FurtherArrays, in_memory
from .ase import AseAttachment
from .lammps_fixes import AfterStop
from .lammps_input import run_input
from .lammps_run import LammpsAttachment
from .tensors import SeenNumbers, is_tensor_on, tensor_batch
from .trajectory import score_trajectory

__all__ = [
    "AfterStop",
    "ArrayFrames",
    "AseAttachment",
    "FurtherArrays",
    "LammpsAttachment",
    "SeenNumbers",
    "in_memory",
    "is_tensor_on",
    "run_input",
    "score_trajectory",
    "tensor_batch",
]
