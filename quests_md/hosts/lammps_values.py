"""DH handed back to LAMMPS: for dumps by atom, for thermo and fix halt as numbers."""

import math
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md.environments import clusters
from quests_md.records import Check
from quests_md.watch import Watch

__all__ = ["Given", "Values"]


class Given(NamedTuple):
    """What a check gives back to LAMMPS."""

    numbers: tuple[float, ...]
    """Values of `Values.NAMES`."""
    tags: NDArray[np.int64]
    """(n_atoms,) ids, ascending; none where nothing is known of atoms."""
    of_atoms: tuple[NDArray[Any], ...]
    """(n_atoms,) values of `Values.OF_ATOMS`."""


class Values:
    """Variables that thermo and fix halt can read, and properties of atoms that dumps can write, of the last check.

    ``v_dh_max`` and ``v_dh_mean``: dH in nats; ``v_dh_excess``: how far the statistic that is farthest out is beyond
    its level, out above 0; ``v_dh_state``: 0 in, 1 out, 2 out while an event is open, 3 exploded, or it could not be
    judged; ``v_dh_step``: LAMMPS's step of the check, -1 before the first one, when all others are 0. ``d_dh``: dH of
    an atom; ``i_dh_above``: 1 above its level; ``i_dh_cluster``: its cluster of atoms above, from 1, the largest first,
    0 for all others.

    All are finite, since LAMMPS ends with an error where a variable is not: `LARGE` is what is infinite, and what is
    not known of a frame that has exploded; 0 is what is not known of others. A check that has failed leaves all but the
    state as they were.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("dh_max", "dh_mean", "dh_excess", "dh_state", "dh_step")
    OF_ATOMS: ClassVar[tuple[str, ...]] = ("d_dh", "i_dh_above", "i_dh_cluster")

    LARGE: ClassVar[float] = 1e30

    def __init__(self, lmp: Any) -> None:
        self._lmp = lmp
        self._is_defined = False
        self._last = Given((*[0.0] * 4, -1.0), np.arange(0), tuple(np.arange(0) for _ in self.OF_ATOMS))

    def require_free(self) -> None:
        """Raise ValueError if LAMMPS has a variable of such a name: of its user, or of another monitor."""
        taken = [name for name in self.NAMES if not self._is_defined and self._lmp.has_id("variable", name)]
        if taken:
            raise ValueError(
                f"values: expected no variable {taken[0]!r} in LAMMPS, since that is to be the monitor's, but there is "
                "one; rename it, or let one monitor alone hand values back"
            )

    def define(self, fix: str) -> None:
        """Make the properties and variables, which read this fix external."""
        self._is_defined = True
        self._lmp.command(f"fix {fix}_atoms all property/atom {' '.join(self.OF_ATOMS)} writedata no")
        for i, name in enumerate(self.NAMES, 2):
            self._lmp.command(f"variable {name} equal f_{fix}[{i}]")
        self._write_numbers(self._last, fix)  # LAMMPS has anything there

    def withdraw(self, fix: str) -> None:
        """Take them away, where they were made."""
        if not self._is_defined:
            return
        for name in self.NAMES:
            if self._lmp.has_id("variable", name):
                self._lmp.command(f"variable {name} delete")
        if self._lmp.has_id("fix", f"{fix}_atoms"):
            self._lmp.command(f"unfix {fix}_atoms")

    def of(self, check: Check, atoms: Atoms, step: int, watch: Watch) -> Given:
        """What a check of these atoms at LAMMPS's step gives back."""
        if check is not watch.last_check:  # it has failed
            *others, _, last_step = self._last.numbers
            return self._last._replace(numbers=(*others, 3.0, last_step))
        is_lost, has_event = check.state == "invalid" or bool(check.explosion), any(e.is_open for e in watch.events)
        state = 3 if is_lost else 0 if check.state == "in" else 2 if has_event else 1
        dh = np.full(len(atoms), np.nan) if check.atom_values is None else check.atom_values.dh
        above = np.zeros(len(atoms), bool) if check.above is None else check.above
        cluster = np.zeros(len(atoms), np.int32)
        if above.any():
            pairs = watch.settings.judge.reference.pair_distances()
            for number, found in enumerate(clusters(atoms, above, pairs), 1):
                cluster[found] = number
        known = dh[~np.isnan(dh)]
        most, mean = (float(known.max()), float(known.mean())) if len(known) else (math.nan, math.nan)
        excess = math.inf if is_lost else float(check.trigger_excess)
        finite = partial(np.nan_to_num, nan=self.LARGE if is_lost else 0.0, posinf=self.LARGE, neginf=-self.LARGE)
        numbers = (*(float(finite(value)) for value in (most, mean, excess)), float(state), float(step))
        self._last = Given(numbers, atoms.arrays["id"], (finite(dh), above.astype(np.int32), cluster))
        return self._last

    def write(self, given: Given, fix: str, n_local: int) -> None:
        """Write them into LAMMPS, in each process for its own atoms."""
        self._last = given
        self._write_numbers(given, fix)
        if not len(given.tags):
            return
        get = self._lmp.numpy.extract_atom
        places = np.searchsorted(given.tags, get("id", nelem=n_local))
        for name, values in zip(self.OF_ATOMS, given.of_atoms, strict=True):
            get(name, nelem=n_local)[:] = values[places]

    def _write_numbers(self, given: Given, fix: str) -> None:
        for i, value in enumerate(given.numbers, 2):
            self._lmp.fix_external_set_vector(fix, i, value)
