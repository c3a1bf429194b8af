"""An ASE calculator around any other, which carries dH of every atom among its results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError, all_changes
from ase.io.trajectory import OldCalculatorWrapper
from numpy.typing import NDArray

from quests_md._arguments import check_choice, check_positive_integer
from quests_md.calibration import GivenCalibration, calibrate, opened_calibration
from quests_md.environments import TimeAveraged, frame_digest
from quests_md.monitor import Monitor
from quests_md.records import AtomValues
from quests_md.reference import (
    GivenReference,
    Reference,
    kept_results,
    opened_reference,
    with_atom_values,
)
from quests_md.watch import OnError

from .atom_scorers import AtomScorer, ByMonitor, ByReference

__all__ = ["MonitoredCalculator"]

#: What the calculator adds to those that it wraps.
DELTA_ENTROPY, GRADE = "delta_entropy", "dh_grade"

#: Attributes of the wrapper itself; all others are those of the calculator within.
_OWN = frozenset(("wrapped", "_scorer", "_interval", "_n_geometries", "_last"))


@dataclass(slots=True)
class _Geometry:
    """A geometry that the calculator was asked about."""

    key: tuple[str, bytes]
    """Checksum of positions, cell and numbers, and the boundaries."""
    values: AtomValues | None = None
    """Those of its atoms; None: there are none, or not yet."""
    is_calculated: bool = False
    """Whether the calculator within was asked about it."""
    passed: dict[str, Any] = field(default_factory=dict)
    """What the calculator within has answered, for those that keep no `results`."""


def _asking(getter: str, name: str) -> Callable[..., Any]:
    """A method that asks the calculator within by its own method of the same name, and takes note of the geometry."""

    def ask(self: "MonitoredCalculator", *args: Any, **kwargs: Any) -> Any:
        atoms = args[0] if args else kwargs.get("atoms")
        self._before(atoms)
        value = getattr(self.wrapped, getter)(*args, **kwargs)
        is_free = name == "energy" and bool(kwargs.get("force_consistent", args[1] if len(args) > 1 else False))
        self._look(atoms, {"free_energy" if is_free else name: value})
        return value

    ask.__name__ = ask.__qualname__ = getter
    ask.__doc__ = f"`{getter}` of the calculator within."
    return ask


class MonitoredCalculator(BaseCalculator):
    """An ASE calculator that carries dH of every atom, around any other calculator.

    Energies, forces and all other results are those of the calculator within, bit for bit, and it is asked exactly as
    often as without the wrapper. To its results are added, for each geometry that is scored,

    - ``delta_entropy``, (n_atoms,) float64: dH in nats with respect to the reference; NaN for atoms that are no
      centers, and for all atoms of a geometry that cannot be described;
    - ``dh_grade``, (n_atoms,) float64: 1 exactly at the level of the atom, larger above, see `Reference.annotate`; inf
      for unknown elements and for all atoms of a geometry that cannot be described, 0 for atoms that are no centers.

    A geometry (positions, cell, elements, boundaries) is scored once, when the calculator within has been asked about
    it, or when its values are asked for: ``atoms.calc.get_property("delta_entropy", atoms)`` calculates nothing else.
    All other attributes, `set(...)`, `parameters` and `reset()` are those of the calculator within (`wrapped`).

    Parameters
    ----------
    calc
        The calculator.
    reference
        The environments that count as known, or the name of their file; or a `Monitor`. Then each geometry that is
        scored is a check of the monitor, with its log, events and actions; steps are counts of geometries. Where the
        monitor is attached to a dynamics (``monitor.attach(dyn, interval)``), the dynamics shows it its steps instead,
        and the results are those of these checks.
    calibration
        Levels, or the name of their file; default `calibrate(reference)`. A monitor has its own. A calibration without
        levels of dH, as of very large references, gives no ``dh_grade``.
    interval
        Only every so many geometries are scored, the first among them. In between the results have neither key, so that
        none is ever of another geometry; tools that read a key at each step need 1. What is asked for by
        `get_property` is always scored, beside the monitor if there is one.
    on_error
        What happens if scoring itself fails: "log", the default, says so once, and there is no key; "raise" raises. A
        monitor has its own.
    threads
        Threads for scoring, as in `Monitor`; a monitor has its own.

    Raises
    ------
    TypeError, ValueError
        If an argument is not usable, is given beside a monitor that has its own, or if the reference is of time
        averages.
    MismatchError
        If the calibration is of another reference.
    StopRun
        From any call about a new geometry, if the trigger or an action of a monitor without a dynamics has asked for
        the end of the run: the step at which that happened is finished, and the next one begins with this exception.
        It is raised once for each stop; a run may go on after it.

    Copies, also by `copy.deepcopy` and pickle, score by the same reference and levels, and are no part of the run of a
    monitor. In a sum of calculators, wrap the sum.

    Examples
    --------
    >>> atoms.calc = MonitoredCalculator(EMT(), "train.safetensors")    # doctest: +SKIP
    >>> atoms.get_potential_energy()                                    # doctest: +SKIP
    >>> atoms.calc.results["dh_grade"].max() > 1                        # doctest: +SKIP
    """

    wrapped: Any
    """The calculator within."""

    def __init__(
        self,
        calc: Any,
        reference: GivenReference | Monitor,
        calibration: GivenCalibration | None = None,
        *,
        interval: int = 1,
        on_error: OnError | None = None,
        threads: int | None = None,
    ) -> None:
        # nothing of BaseCalculator is set up: it would hide what the calculator within has
        self.wrapped = _checked(calc)
        self._interval = check_positive_integer("interval", interval, wrong_type=TypeError)
        own = {"calibration": calibration, "on_error": on_error, "threads": threads}
        self._scorer = _scorer(reference, own)
        self._n_geometries = 0
        self._last: _Geometry | None = None

    @property
    def implemented_properties(self) -> list[str]:  # type: ignore[override]  # nobody writes it
        """Those of the calculator within, and those that are added."""
        return [*getattr(self.wrapped, "implemented_properties", ()), *self._own_properties]

    @property
    def results(self) -> dict[str, Any]:  # type: ignore[override]  # written by __setattr__
        """A new dict with what there is for the geometry that was asked about last."""
        last = self._last
        found = None if last is None else self._results_within(last)
        if last is None or found is None:  # the calculator within was asked about another one, without this wrapper
            return dict(getattr(self.wrapped, "results", None) or {})
        return dict(found) | self._values_of(last)

    @property
    def name(self) -> str:
        """That of the calculator within."""
        return str(getattr(self.wrapped, "name", type(self.wrapped).__name__.lower()))

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """A property: of the calculator within, or ``delta_entropy`` or ``dh_grade``, for which it is not asked."""
        if name in (DELTA_ENTROPY, GRADE):
            return self._own_property(name, atoms, allow_calculation)
        if allow_calculation:
            self._before(atoms)
        asked = self.wrapped if hasattr(self.wrapped, "get_property") else OldCalculatorWrapper(self.wrapped)
        value = asked.get_property(name, atoms, allow_calculation)
        if allow_calculation:
            self._look(atoms, {name: value})
        return value

    get_potential_energy = _asking("get_potential_energy", "energy")
    get_potential_energies = _asking("get_potential_energies", "energies")
    get_forces = _asking("get_forces", "forces")
    get_stress = _asking("get_stress", "stress")
    get_stresses = _asking("get_stresses", "stresses")
    get_dipole_moment = _asking("get_dipole_moment", "dipole")
    get_charges = _asking("get_charges", "charges")
    get_magnetic_moment = _asking("get_magnetic_moment", "magmom")
    get_magnetic_moments = _asking("get_magnetic_moments", "magmoms")

    def annotate(self, atoms: Atoms) -> Atoms:
        """A copy of a frame with its values as arrays, and the other results that there are for it.

        Only the values are calculated, and only if they are not known.
        """
        frame: Atoms = atoms.copy()
        frame.calc = kept_results(atoms, self._results_within(self._geometry(atoms)) or {})
        values = self._own_values(atoms)
        if values is None:
            raise PropertyNotImplementedError(f"{DELTA_ENTROPY}: scoring failed, which was said before")
        return with_atom_values(frame, values)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Let the calculator within calculate, and score the geometry."""
        asked = [name for name in properties if name not in (DELTA_ENTROPY, GRADE)]
        if asked or not properties:
            self._before(atoms)
            self.wrapped.calculate(atoms, asked, system_changes)
            self._look(atoms, {})
        if len(asked) < len(properties) and atoms is not None:
            self._own_values(atoms)

    def calculate_properties(self, atoms: Atoms, properties: Sequence[str]) -> Any:
        """`calculate_properties` of the calculator within."""
        self._before(atoms)
        found = self.wrapped.calculate_properties(atoms, properties)
        self._look(atoms, {})
        return found

    def calculation_required(self, atoms: Atoms, properties: Sequence[str]) -> bool:
        """Whether something would have to be calculated, or scored."""
        own = [name for name in properties if name in (DELTA_ENTROPY, GRADE)]
        if any(self._own_property(name, atoms, allow_calculation=False) is None for name in own):
            return True
        others = [name for name in properties if name not in own]
        return bool(self.wrapped.calculation_required(atoms, others)) if others or not own else False

    def check_state(self, atoms: Atoms, *args: Any, **kwargs: Any) -> Any:
        """`check_state` of the calculator within."""
        return self.wrapped.check_state(atoms, *args, **kwargs)

    def export_properties(self) -> Any:
        """`export_properties` of the calculator within: ASE knows no others."""
        return self.wrapped.export_properties()

    def todict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Parameters of the calculator within."""
        return dict(self.wrapped.todict(*args, **kwargs)) if hasattr(self.wrapped, "todict") else {}

    def reset(self) -> None:
        """Forget all results."""
        self._last = None
        if hasattr(self.wrapped, "reset"):
            self.wrapped.reset()

    def __getattr__(self, name: str) -> Any:
        if name in _OWN or (name.startswith("__") and name.endswith("__")):  # of a copy that is still being made
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        elif name == "results":
            self._last = None
            self.wrapped.results = {key: one for key, one in value.items() if key not in (DELTA_ENTROPY, GRADE)}
        else:
            setattr(self.wrapped, name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.wrapped)})

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_scorer": self._scorer.alone(), "_last": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.wrapped!r})"

    @property
    def _own_properties(self) -> list[str]:
        return [DELTA_ENTROPY, GRADE] if self._scorer.has_levels else [DELTA_ENTROPY]

    def _before(self, atoms: Any) -> None:
        """End the run before a new geometry, if it is to be ended."""
        if self._scorer.is_stopping and isinstance(atoms, Atoms) and self._geometry(atoms) is not self._last:
            self._scorer.raise_stop()

    def _look(self, atoms: Any, passed: dict[str, Any]) -> None:
        """Take note of a geometry that the calculator within was asked about, and score it if it is new and due."""
        if not isinstance(atoms, Atoms):
            return
        last = self._geometry(atoms)
        is_new = last is not self._last
        self._last, last.is_calculated = last, True
        if not isinstance(getattr(self.wrapped, "results", None), Mapping):
            last.passed |= {name: np.array(value) for name, value in passed.items() if value is not None}
        if is_new:
            self._take(last, atoms)

    def _take(self, new: _Geometry, atoms: Atoms) -> None:
        count = self._n_geometries
        self._n_geometries += 1
        if count % self._interval == 0:
            new.values = self._scorer.take(atoms, count)

    def _geometry(self, atoms: Atoms) -> _Geometry:
        """The geometry of these atoms: the last one, or a new one."""
        key = _key(atoms)
        return self._last if self._last is not None and self._last.key == key else _Geometry(key)

    def _results_within(self, geometry: _Geometry) -> Mapping[str, Any] | None:
        """What the calculator within has for a geometry; None: its results are of another one."""
        results = getattr(self.wrapped, "results", None)
        if not geometry.is_calculated:
            return {}
        if not isinstance(results, Mapping):
            return geometry.passed
        atoms = getattr(self.wrapped, "atoms", None)
        return None if isinstance(atoms, Atoms) and _key(atoms) != geometry.key else results

    def _values_of(self, geometry: _Geometry) -> dict[str, NDArray[np.float64]]:
        """The values of a geometry by name, as far as there are any."""
        if geometry.values is None:
            geometry.values = self._scorer.known(geometry.key[0])
        if geometry.values is None:
            return {}
        found = zip((DELTA_ENTROPY, GRADE), geometry.values, strict=True)
        return {name: array.copy() for name, array in found if array is not None}

    def _own_values(self, atoms: Atoms) -> AtomValues | None:
        """The values of a geometry, scored now if they are not known; None: that failed."""
        geometry = self._geometry(atoms)
        if geometry is not self._last:
            self._before(atoms)
            self._last = geometry
            self._take(geometry, atoms)
        if not self._values_of(geometry):
            geometry.values = self._scorer.score(atoms)
        return geometry.values

    def _own_property(self, name: str, atoms: Atoms | None, allow_calculation: bool) -> NDArray[np.float64] | None:
        if name not in self._own_properties:
            raise PropertyNotImplementedError(
                f"{name}: the calibration has no levels of dH, since the reference is large; give one of "
                'calibrate(reference, statistics=["dh_max"])'
            )
        if atoms is None:
            atoms = getattr(self.wrapped, "atoms", None)
            if atoms is None:
                raise PropertyNotImplementedError(f"{name}: no atoms were given yet")
        known = self._values_of(self._geometry(atoms))
        if not known and allow_calculation:
            self._own_values(atoms)
            known = self._values_of(self._geometry(atoms))
        if name not in known and allow_calculation:
            raise PropertyNotImplementedError(f"{name}: scoring failed, which was said before")
        return known.get(name)


def _key(atoms: Atoms) -> tuple[str, bytes]:
    return frame_digest(atoms), atoms.pbc.tobytes()


def _checked(calc: Any) -> Any:
    """The calculator; TypeError or ValueError if it cannot be wrapped."""
    if isinstance(calc, type) or not (hasattr(calc, "get_forces") or hasattr(calc, "get_property")):
        raise TypeError(f"calc: expected an ASE calculator, got {calc!r}")
    taken = [name for name in getattr(calc, "implemented_properties", ()) if name in (DELTA_ENTROPY, GRADE)]
    if taken:
        raise ValueError(f"calc: expected a calculator without {taken[0]}, got one that has it; wrap it once")
    return calc


def _scorer(reference: Any, own: dict[str, Any]) -> AtomScorer:
    """What scores geometries, by a reference or a monitor; `own`: settings that a monitor has of its own."""
    if isinstance(reference, Monitor):
        given = [name for name, value in own.items() if value is not None]
        if given:
            raise ValueError(f"{given[0]}: expected none beside a monitor, which has its own, got {own[given[0]]!r}")
        _require_single_frames(reference.reference)
        return ByMonitor(reference)
    known = opened_reference(reference)
    _require_single_frames(known)
    on_error = check_choice("on_error", own["on_error"] or "log", ("log", "raise"))
    threads = own["threads"]
    given_levels = own["calibration"]
    calibration = calibrate(known, threads=threads) if given_levels is None else opened_calibration(given_levels)
    if calibration.fingerprint in known.ancestors:
        calibration = calibration.carried_to(known, threads=threads)
    calibration.require(known)
    return ByReference(known, calibration, on_error=on_error, threads=threads)  # type: ignore[arg-type]  # checked


def _require_single_frames(reference: Reference) -> None:
    if isinstance(reference.descriptor, TimeAveraged):
        raise ValueError("reference: expected one of single frames, got one of time averages, which no geometry is")
