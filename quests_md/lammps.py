"""LAMMPS: as a calculator of ASE, and its inputs run command by command; the parts live in `quests_md.hosts`."""

from quests_md.hosts import run_input
from quests_md.hosts.lammps_ase import lammps_calculator, load_library, potential

__all__ = ["lammps_calculator", "load_library", "potential", "run_input"]
