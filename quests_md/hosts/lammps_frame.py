"""A frame out of the arrays of LAMMPS: units, box, elements, and atoms in the order of their ids."""

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase import units as ase_units
from ase.calculators.lammps import convert
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_masses, chemical_symbols
from numpy.typing import NDArray

from quests_md._arguments import check_positive
from quests_md.errors import FrameError
from quests_md.io import LAMMPS_UNITS, check_types

__all__ = ["Lammps", "LocalAtoms", "joined"]

#: u, by which the mass of a type may differ from that of its element.
MASS_TOLERANCE = 0.5

#: What LAMMPS says of itself within a minimization, as `lammps_is_running` does.
MINIMIZING = 2

#: How `lammps.extract_compute` is asked for the scalar of a compute that is global.
GLOBAL, SCALAR = 0, 0


class LocalAtoms(NamedTuple):
    """What one process of LAMMPS knows of its own atoms, in LAMMPS's units and order."""

    tags: NDArray[np.int64]
    types: NDArray[np.int64]
    x: NDArray[np.float64]
    v: NDArray[np.float64]
    f: NDArray[np.float64]
    masses: NDArray[np.float64]


class Lammps:
    """An instance of LAMMPS (`lammps.lammps`) as frames see it.

    Parameters
    ----------
    lmp
        The instance.
    types
        A chemical symbol for each type, from type 1; None: the labels of the types (``labelmap``).
    length_A
        The length unit in Å where units are lj; None elsewhere.
    """

    def __init__(self, lmp: Any, types: Sequence[str] | None, length_A: float | None) -> None:
        for name in ("extract_global", "extract_setting", "command", "set_fix_external_callback"):
            if not hasattr(lmp, name):
                raise TypeError(f"lmp: expected an instance of LAMMPS (lammps.lammps()), got {type(lmp).__name__}")
        if not lmp.lmp:
            raise ValueError("lmp: expected an open LAMMPS, got a closed one; make another: lammps.lammps()")
        self.lmp = lmp
        self._types = None if types is None else check_types(types)
        self._length_A = None if length_A is None else check_positive("length_A", length_A, "length in Å")
        self._labelled: tuple[str, ...] | None = None  # the same by labels, which no command may ask for during a run
        self._has_checked_masses = False
        self._clock: tuple[float | None, list[Any]]
        self._counter: Any
        self._energy_of: int | None = None  # the step of which it was asked for last

    @property
    def has_box(self) -> bool:
        """Whether there is a box, and so atoms may be there."""
        return bool(self.lmp.lmp) and self.lmp.extract_setting("box_exist") == 1

    @property
    def style(self) -> str:
        """The style of units."""
        return str(self.lmp.extract_global("units"))

    @property
    def length_A(self) -> float:
        """Length unit in Å; ValueError where nobody has said it."""
        if self.style == "lj":
            if self._length_A is None:
                raise ValueError(
                    "length_A: expected the length in Å that sigma stands for, since the units of LAMMPS are lj, got "
                    "none (--length-A 3.4); it must be that of the training set"
                )
            return self._length_A
        if self._length_A is not None:
            raise ValueError(f"length_A: expected none, since LAMMPS has units {self.style}; it is for units lj alone")
        return LAMMPS_UNITS[self.style].length_A

    @property
    def step(self) -> int:
        """LAMMPS's own count of steps."""
        return int(self.lmp.extract_global("ntimestep"))

    def step_length_ps(self) -> float | None:
        """The time step in ps; None in units without a time."""
        unit = LAMMPS_UNITS[self.style].time_ps
        return None if unit is None else float(self.lmp.extract_global("dt")) * unit

    def find_clock(self) -> None:
        """Find where LAMMPS keeps its time, for `time_ps` and `shown_step`; with a box, and anew after ``clear``.

        Asking for each number by its name takes 20 us, at every step.
        """
        integer = ctypes.c_int64 if self.lmp.extract_setting("bigint") == 8 else ctypes.c_int32
        kinds = {"atime": ctypes.c_double, "atimestep": integer, "dt": ctypes.c_double}
        self._clock = LAMMPS_UNITS[self.style].time_ps, [self._place(name, kind) for name, kind in kinds.items()]
        self._counter = self._place("ntimestep", integer)

    @property
    def shown_step(self) -> int:
        """LAMMPS's own count of steps, within a run."""
        return int(self._counter[0])

    @property
    def n_local(self) -> int:
        """Atoms that LAMMPS moves on this process."""
        return int(self.lmp.extract_setting("nlocal"))

    def _place(self, name: str, kind: Any) -> Any:
        find = self.lmp.lib.lammps_extract_global
        find.restype = ctypes.POINTER(kind)  # which the module lammps sets before each call of its own
        return find(self.lmp.lmp, name.encode())

    def time_ps(self, step: int) -> float | None:
        """Simulated time of a step in ps; None in units without a time.

        It is that of `dump_modify time yes`, but stands still in a minimization, as LAMMPS has it in the run after one.
        """
        unit, (time, time_step, length) = self._clock
        if unit is None:
            return None
        since = 0 if self.is_minimizing else step - time_step[0]
        return float(time[0] + since * length[0]) * unit

    def symbols(self) -> tuple[str, ...]:
        """The chemical symbol of each type; ValueError where they are not known."""
        n_types = int(self.lmp.extract_setting("ntypes"))
        if self._types is None:
            if self._labelled is None or len(self._labelled) != n_types:
                self._labelled = self._labels(n_types)
            return self._labelled
        if len(self._types) < n_types:
            raise ValueError(
                f"types: expected a chemical symbol for each of the {n_types} types of LAMMPS, got "
                f"{', '.join(self._types)}"
            )
        return self._types

    @property
    def has_types(self) -> bool:
        """Whether the elements were given; else the labels of types tell them."""
        return self._types is not None

    def require_known(self) -> None:
        """Raise ValueError where elements or lengths are not known, or atoms cannot be told apart."""
        self._labelled = None
        self.symbols()
        self.length_A  # noqa: B018  # it raises
        if (self.tags(self.n_local) == 0).any():
            raise ValueError("lmp: expected atoms with ids, got none; leave `atom_modify id no` out of the input")

    @property
    def is_tilted(self) -> bool:
        """Whether the box may be no cuboid."""
        return int(self.lmp.extract_setting("triclinic")) == 1

    @property
    def is_minimizing(self) -> bool:
        """Whether the present run is a minimization."""
        return int(self.lmp.lib.lammps_is_running(self.lmp.lmp)) == MINIMIZING

    @property
    def n_atoms(self) -> int:
        """How many atoms there are to be."""
        return int(self.lmp.extract_global("natoms"))

    @property
    def keeps_atoms(self) -> bool:
        """Whether no atom can leave: with a boundary that is not periodic LAMMPS may be told to let them go."""
        return all(bool(flag) for flag in self.lmp.extract_box()[5])

    def what_is_lost(self, n_lost: int) -> str:
        """What it means that LAMMPS has lost atoms, in words."""
        lost = f"LAMMPS has lost {n_lost} of its {self.n_atoms} atoms at step {self.step}"
        if self.keeps_atoms:
            return f"{lost}: the run has exploded, and LAMMPS ends it at its next thermo output; said once"
        return f"{lost}: they have left the box (boundary f), or the run has exploded; said once"

    def with_lost(self, found: "LocalAtoms", n_lost: int, before: Atoms | None) -> "LocalAtoms":
        """The atoms with those that were lost, which are nowhere (NaN); `before`: a frame that may have them."""
        ids, numbers = np.arange(0), np.arange(0)
        if before is not None:
            ids, numbers = before.arrays["id"], before.numbers
        is_gone = ~np.isin(ids, found.tags)
        if is_gone.sum() != n_lost:  # which ones they were is not known
            first = 1 + max(found.tags.max(initial=0), ids.max(initial=0))
            tags, types = first + np.arange(n_lost), np.ones(n_lost, np.int64)
        else:
            symbols = self.symbols()
            of_number = {chemical_symbols.index(symbol): i for i, symbol in reversed(list(enumerate(symbols, 1)))}
            tags, types = ids[is_gone], np.array([of_number[int(number)] for number in numbers[is_gone]])
        nowhere, still = np.full((n_lost, 3), np.nan), np.zeros((n_lost, 3))
        return joined([found, LocalAtoms(tags, types, nowhere, still, still, np.ones(n_lost))])

    def what_is_not_shown(self) -> str | None:
        """Why LAMMPS does not show the steps of a run, and what to do; None: it does."""
        if not self.lmp.extract_global("respa_levels"):
            return None
        return (
            "run_style respa: LAMMPS shows only the first step of each run, so that nothing is checked after it; use "
            "run_style verlet, or `run N every 100 NULL`, of which the first step of each part is checked, or write a "
            "dump for quests-md score; said once"
        )

    def doubts(self) -> list[str]:
        """What may be wrong with the elements of the types, said once: masses that are those of others."""
        if self._has_checked_masses or not LAMMPS_UNITS[self.style].masses_in_u or self._rmass():
            return []
        self._has_checked_masses = True
        masses, found = self.lmp.numpy.extract_atom("mass"), []
        for i, symbol in enumerate(self.symbols()[: len(masses) - 1], 1):
            mass, own = float(masses[i]), float(atomic_masses[chemical_symbols.index(symbol)])
            other = chemical_symbols[1 + int(np.argmin(np.abs(atomic_masses[1:] - mass)))]
            if mass > 0 and abs(mass - own) > MASS_TOLERANCE and other != symbol:
                found.append(
                    f"types: type {i} is {symbol} ({own:.4g} u), but LAMMPS gives it {mass:.4g} u, as {other} has; are "
                    "they in the order of LAMMPS's types?"
                )
        return found

    def tags(self, n_local: int) -> NDArray[np.int64]:
        """The ids of the atoms of this process."""
        tags: NDArray[np.int64] = self.lmp.numpy.extract_atom("id", nelem=n_local).astype(np.int64)
        return tags

    def local_atoms(self, n_local: int) -> LocalAtoms:
        """Copies of what this process knows of its own atoms."""
        get = self.lmp.numpy.extract_atom
        rmass = self._rmass()
        types = get("type", nelem=n_local).astype(np.int64)
        masses = get("rmass", nelem=n_local).copy() if rmass else get("mass")[types]
        x, v, f = (np.array(get(name, nelem=n_local, dim=3)).reshape(n_local, 3) for name in ("x", "v", "f"))
        return LocalAtoms(self.tags(n_local), types, x, v, f, np.asarray(masses, np.float64))

    def energy_eV(self, compute: str, step: int) -> float | None:
        """The potential energy, if LAMMPS has added it up at this step; all processes have to ask at once.

        LAMMPS keeps the first one of a step. A minimization tries several positions: for later ones there is none.
        """
        is_old, self._energy_of = self.is_minimizing and step == self._energy_of, step
        if is_old or self.lmp.extract_global("eflag_global") != step or not self.lmp.has_id("compute", compute):
            return None
        energy = float(self.lmp.extract_compute(compute, GLOBAL, SCALAR))
        return None if self.style == "lj" else float(convert(energy, "energy", self.style, "ASE"))

    def frame(self, found: LocalAtoms, energy_eV: float | None, *, half_step: bool) -> Atoms:
        """The frame of all atoms, sorted by their ids, positions from the origin of the box, wrapped as LAMMPS does.

        It does so itself now and then, at the start of each run for one.

        `half_step`: velocities are those of half a step before; the forces bring them to the step.
        """
        low, high, xy, yz, xz, periodicity, _ = self.lmp.extract_box()
        cell = np.diag(np.subtract(high, low))
        cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
        length, style = self.length_A, self.style
        symbols = self.symbols()
        numbers = np.array([0, *(chemical_symbols.index(symbol) for symbol in symbols)])
        order = np.argsort(found.tags, kind="stable")
        tags, types = found.tags[order], found.types[order]
        if len(tags) > 1 and (tags[1:] == tags[:-1]).any():
            raise FrameError("atoms: expected ids of LAMMPS that differ (atom_modify id yes), got one for many atoms")
        x = _wrapped(found.x[order], np.array(low), np.array(high), cell, np.array(periodicity, bool))
        atoms = Atoms(
            numbers=numbers[types],
            positions=(x - low) * length,
            cell=cell * length,
            pbc=[bool(flag) for flag in periodicity],
        )
        atoms.set_array("id", tags)
        unit_ps = LAMMPS_UNITS[style].time_ps
        if unit_ps is None:
            return atoms
        ps = 1000 * ase_units.fs
        masses = found.masses[order] if LAMMPS_UNITS[style].masses_in_u else self._masses_u(found.masses[order])
        forces = convert(found.f[order], "force", style, "ASE")
        with np.errstate(over="ignore", invalid="ignore"):
            momenta = found.v[order] * (length / unit_ps / ps) * masses[:, None]
            if half_step:
                momenta = momenta + forces * (0.5 * (self.step_length_ps() or 0.0) * ps)
        atoms.set_masses(masses)
        atoms.arrays["momenta"] = momenta
        results = {"forces": forces} | ({} if energy_eV is None else {"energy": energy_eV})
        atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    def _masses_u(self, masses: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(convert(masses, "mass", self.style, "ASE"))

    def _rmass(self) -> bool:
        return int(self.lmp.extract_setting("rmass_flag")) == 1

    def _labels(self, n_types: int) -> tuple[str, ...]:
        """The labels of all types, if they are chemical symbols."""
        named = dict[int, str]()
        name = "quests_md_label"
        with suppress(Exception):  # there is no labelmap
            for symbol in chemical_symbols[1:]:
                self.lmp.command(f'variable {name} equal "is_typelabel(atom,{symbol})"')
                if self.lmp.extract_variable(name):
                    self.lmp.command(f'variable {name} equal "label2type(atom,{symbol})"')
                    named[round(float(self.lmp.extract_variable(name)))] = symbol
        self.lmp.command(f"variable {name} delete")
        if len(named) < n_types:
            missing = next(i for i in range(1, n_types + 1) if i not in named)
            raise ValueError(
                f"types: expected a chemical symbol for each type of LAMMPS, such as types=('Cu', 'Zr') (--types "
                f"Cu,Zr), or labels (labelmap) that are symbols; type {missing} of {n_types} has none"
            )
        return tuple(named[i] for i in range(1, n_types + 1))


def joined(parts: Sequence[LocalAtoms]) -> LocalAtoms:
    """The atoms of all processes."""
    return LocalAtoms(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _wrapped(
    x: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    cell: NDArray[np.float64],
    periodic: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Positions put back into the box along its periodic directions, with LAMMPS's own arithmetic if it is straight."""
    if np.count_nonzero(cell - np.diag(np.diagonal(cell))):
        fractions = (x - low) @ np.linalg.inv(cell)
        return x - np.where(periodic, np.floor(fractions), 0.0) @ cell
    for k in np.flatnonzero(periodic):
        column = x[:, k]
        column = np.where(column < low[k], np.maximum(column + (high[k] - low[k]), low[k]), column)
        x[:, k] = np.where(column >= high[k], np.maximum(column - (high[k] - low[k]), low[k]), column)
    return x
