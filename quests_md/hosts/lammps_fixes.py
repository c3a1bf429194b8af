"""What a monitor puts into LAMMPS: a fix that calls it, one that ends runs, and where they are wanted values."""

import ctypes
from collections.abc import Generator
from typing import Any, Literal, TypeAlias

from quests_md._arguments import check_choice

from .lammps_values import Given, Values

__all__ = ["AfterStop", "Fixes"]

#: What happens after a stop: "go on": the next run command runs; "skip runs": all other commands are done, no run is.
AfterStop: TypeAlias = Literal["go on", "skip runs"]

#: Steps between two times at which LAMMPS adds the forces of the fix, which are zero.
NEVER = 2**31 - 1


class Fixes:
    """A ``fix external``, whose forces are zero and are not added, and which calls at every step; and a ``fix halt``.

    The latter ends runs, and has LAMMPS add up the energy where there are checks.

    Parameters
    ----------
    lmp
        The instance of LAMMPS.
    interval
        Steps between checks.
    after_stop
        What becomes of run commands after a stop.
    values
        Whether dH is handed back, see `Values`.
    """

    def __init__(self, lmp: Any, interval: int, after_stop: AfterStop, *, values: bool) -> None:
        self._lmp, self._interval = lmp, interval
        self._error = {"go on": "continue", "skip runs": "soft"}[
            check_choice("after_stop", after_stop, ("go on", "skip runs"))
        ]
        self.values = Values(lmp) if values else None
        self.id = _free_id(lmp)
        self._call: Any = None  # LAMMPS keeps a pointer to it

    @property
    def are_there(self) -> bool:
        """Whether LAMMPS has them: ``clear`` takes them away."""
        return bool(self._lmp.lmp) and bool(self._lmp.has_id("fix", self.id))

    @property
    def energy(self) -> str:
        """Name of a compute of the potential energy, which nobody else reads."""
        return f"{self.id}_pe"

    def define(self, calls: Generator[None, Any, None]) -> None:
        """Make them; LAMMPS resumes `calls` at each step.

        A generator, and no function: an interrupt that has come while LAMMPS was computing is raised where Python goes
        on. In a function that is before its first line, where nothing can take it, and ctypes drops what is raised; in
        a generator it is the `yield`. It gets one argument of those that LAMMPS gives, which is nothing here.
        """
        command, own = self._lmp.command, self.id
        if self.values is not None:
            self.values.require_free()
        if self._call is not None:
            self.withdraw()  # somebody else may have taken away a part
        command(f"fix {own} all external pf/callback 1 {NEVER}")
        next(calls)
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(calls.send)
        given = ctypes.cast(function, self._lmp.FIX_EXTERNAL_CALLBACK_FUNC)
        self._lmp.lib.lammps_set_fix_external_callback(self._lmp.lmp, own.encode(), given, None)
        self._call = function, given
        self._lmp.fix_external_set_energy_global(own, 0.0)  # older LAMMPS adds to thermo output what is there
        self._lmp.fix_external_set_virial_global(own, [0.0] * 6)
        self._lmp.fix_external_set_vector_length(own, 1 + len(Values.NAMES))
        command(f"compute {self.energy} all pe")
        command(f"variable {own}_stop equal f_{own}[1]")
        command(f"fix {own}_halt all halt {self._interval} v_{own}_stop > 0.5 error {self._error} message no")
        if self.values is not None:
            self.values.define(own)

    def adds_forces(self, step: int) -> bool:
        """Whether LAMMPS adds the forces of the fix at a step."""
        return step % NEVER == 0

    def clear_forces(self, n_local: int) -> None:
        """Set the forces of the fix to zero, which LAMMPS does not do itself."""
        if n_local:
            forces = self._lmp.fix_external_get_force(self.id)
            ctypes.memset(forces[0], 0, 3 * n_local * ctypes.sizeof(ctypes.c_double))

    def end_run(self, *, now: bool) -> None:
        """Say whether the run is to end at this step, if it is checked."""
        self._lmp.fix_external_set_vector(self.id, 1, float(now))

    def hand_back(self, given: Given | None, n_local: int) -> None:
        """Write what a check gives back into LAMMPS; None: there was no check."""
        if self.values is not None and given is not None:
            self.values.write(given, self.id, n_local)

    def withdraw(self) -> None:
        """Take them away, where they are there."""
        if not self._lmp.lmp:
            return
        if self.values is not None:
            self.values.withdraw(self.id)
        for kind, name, command in (
            ("fix", f"{self.id}_halt", "unfix {}"),
            ("variable", f"{self.id}_stop", "variable {} delete"),
            ("compute", self.energy, "uncompute {}"),
            ("fix", self.id, "unfix {}"),
        ):
            if self._lmp.has_id(kind, name):
                self._lmp.command(command.format(name))


def _free_id(lmp: Any) -> str:
    """A name that no fix has: several monitors may watch one instance."""
    name, n = "quests_md", 1
    while lmp.has_id("fix", name):
        n += 1
        name = f"quests_md_{n}"
    return name
