"""What a monitor puts into LAMMPS: a fix that calls it, one that ends runs, and where they are wanted values."""

import ctypes
from collections.abc import Callable
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

    def define(self, call: Callable[..., None]) -> None:
        """Make them; `call` is called as the callbacks of fix external are, but with bare pointers."""
        command, own = self._lmp.command, self.id
        if self.values is not None:
            self.values.require_free()
        if self._call is not None:
            self.withdraw()  # somebody else may have taken away a part
        command(f"fix {own} all external pf/callback 1 {NEVER}")

        def called(caller: Any, step: int, n_local: int, tags: Any, x: Any, forces: Any) -> None:
            if step % NEVER == 0 and n_local:  # now LAMMPS adds them, and has not set them to anything itself
                ctypes.memset(forces[0], 0, 3 * n_local * ctypes.sizeof(ctypes.c_double))
            call(caller, step, n_local, tags, x, forces)

        function = self._lmp.FIX_EXTERNAL_CALLBACK_FUNC(called)
        self._lmp.lib.lammps_set_fix_external_callback(self._lmp.lmp, own.encode(), function, None)
        self._call = function
        self._lmp.fix_external_set_energy_global(own, 0.0)  # older LAMMPS adds to thermo output what is there
        self._lmp.fix_external_set_virial_global(own, [0.0] * 6)
        self._lmp.fix_external_set_vector_length(own, 1 + len(Values.NAMES))
        command(f"compute {self.energy} all pe")
        command(f"variable {own}_stop equal f_{own}[1]")
        command(f"fix {own}_halt all halt {self._interval} v_{own}_stop > 0.5 error {self._error} message no")
        if self.values is not None:
            self.values.define(own)

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
