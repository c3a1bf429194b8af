"""LAMMPS as a calculator of ASE; it lives in `quests_md.hosts.lammps_ase`."""

from quests_md.hosts.lammps_ase import lammps_calculator, load_library, potential

__all__ = ["lammps_calculator", "load_library", "potential"]
