"""A descriptor of a minimised copy of the frame."""

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms

from quests_md._arguments import check_integer, check_positive
from quests_md.errors import FrameError

from .descriptor import Descriptor, Wrapped

__all__ = ["Minimised"]

#: Å, longest displacement of an atom in a step of the minimiser, as in LAMMPS.
LONGEST_STEP = 0.1

#: FIRE as Bitzek et al. recommend it: steps downhill before it speeds up; factors of the time step, faster and slower;
#: first mixing of velocity and force, and its factor.
STEPS_DOWNHILL, FASTER, SLOWER, MIXING, LESS_MIXING = 5, 1.1, 0.5, 0.1, 0.99

#: For unit masses in Å, eV, as in ASE.
FIRST_TIME_STEP, LONGEST_TIME_STEP = 0.1, 1.0


class Minimised(Wrapped):
    """A descriptor of a minimised copy of the frame: its inherent structure, as far as a few steps reach it.

    The frame and its calculator are never touched: the copy gets a calculator of its own. A check costs up to `steps`
    force calls. The cell stays as it is. Constraints are left out, so that frames give the same rows wherever they come
    from. The minimiser is FIRE with steps limited atom by atom, so that a large frame comes as far in as many steps as
    a small one.

    Rows depend on the frame alone as long as the forces do. A calculator that starts from what it found last (the
    wavefunction of a DFT code, iterative charges) gives forces that depend on earlier frames, within its convergence,
    and then dH depends on them too. A calculator with a method `reset` is reset before each frame.

    Frames are minimised one at a time, also when several threads ask for rows.

    Parameters
    ----------
    make_calculator
        Returns a calculator for the copies, never that of the run. Called when one is first needed, and again after a
        failure.
    name
        Name of the calculator, a part of the fingerprint: references made with another name are refused. Change it
        whenever the potential changes.
    descriptor
        Descriptor of the minimised frame, default `Descriptor()`.
    steps
        Most steps of the minimiser.
    fmax
        Largest force in eV/Å at which the minimiser ends before.

    Raises
    ------
    ValueError, TypeError
        If an argument is not usable.

    References
    ----------
    Stillinger, Weber, Phys. Rev. A 25, 978 (1982), doi:10.1103/PhysRevA.25.978 (inherent structures). Bitzek et al.,
    Phys. Rev. Lett. 97, 170201 (2006), doi:10.1103/PhysRevLett.97.170201 (FIRE).

    Examples
    --------
    >>> from ase.calculators.emt import EMT
    >>> inherent = Minimised(EMT, "EMT of ASE", steps=20)
    >>> Reference.from_frames("run.extxyz", descriptor=inherent, bandwidth=0.015)  # doctest: +SKIP
    """

    def __init__(
        self,
        make_calculator: Callable[[], Any],
        name: str,
        *,
        descriptor: Descriptor | None = None,
        steps: int = 50,
        fmax: float = 0.05,
    ) -> None:
        if not callable(make_calculator):
            raise TypeError(f"make_calculator: expected a function that returns a calculator, got {make_calculator!r}")
        if not isinstance(name, str) or not name:
            raise ValueError(f"name: expected the name of the calculator, got {name!r}")
        super().__init__(descriptor)
        self.name = name
        self.steps = check_integer("steps", steps, 1)
        self.fmax = check_positive("fmax", fmax, "force in eV/Å")
        self._make_calculator = make_calculator
        self._calculator: Any = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """The state without the calculator, which is made again where it is needed."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_calculator", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _calculator=None, _lock=threading.Lock())

    @property
    def fingerprint(self) -> str:
        """Equal exactly for equal settings."""
        how = f"{self.name}, {self.steps} steps, {self.fmax!r} eV/Å"
        return f"{self.descriptor.fingerprint} of frames minimised with {how}"

    def described(self, atoms: Atoms) -> Atoms:
        """The minimised copy, which is the frame that is described; raises as `minimised`."""
        return self.minimised(atoms)

    def minimised(self, atoms: Atoms) -> Atoms:
        """A minimised copy, without calculator and constraints.

        Raises
        ------
        FrameError
            If positions or cell are not finite.
        RuntimeError
            If the calculator fails or gives forces that are not finite; the next frame gets a new calculator.
        Exception
            Whatever `make_calculator` raises.
        """
        copy: Atoms = atoms.copy()
        copy.set_constraint()
        if len(copy) == 0:
            return copy
        if not (np.isfinite(copy.positions).all() and np.isfinite(copy.cell.array).all()):
            raise FrameError("positions and cell: expected finite numbers in a frame that is to be minimised")
        with self._lock:
            if self._calculator is None:
                self._calculator = self._make_calculator()
            copy.calc = self._calculator
            try:
                if hasattr(copy.calc, "reset"):
                    copy.calc.reset()
                _minimise(copy, self.steps, self.fmax)
            except Exception as exc:
                self._calculator = None
                raise RuntimeError(
                    f"the minimisation with {self.name} failed: {type(exc).__name__}: {exc}; did the run explode, and "
                    "is the calculator meant for these atoms?"
                ) from exc
            finally:
                copy.calc = None
        return copy


def _minimise(atoms: Atoms, steps: int, fmax: float) -> None:
    """Minimise with FIRE; that of ASE limits the norm of a step over all atoms: a large frame would hardly move."""
    velocities = np.zeros((len(atoms), 3))
    time_step, mixing, n_downhill = FIRST_TIME_STEP, MIXING, 0
    for step in range(steps):
        forces = atoms.get_forces()
        if not np.isfinite(forces).all():
            raise ValueError("expected finite forces")
        if (forces**2).sum(axis=1).max() < fmax**2:
            return
        if np.vdot(forces, velocities) > 0:
            along = math.sqrt(np.vdot(velocities, velocities) / np.vdot(forces, forces))
            velocities = (1 - mixing) * velocities + mixing * along * forces
            if n_downhill > STEPS_DOWNHILL:
                time_step = min(time_step * FASTER, LONGEST_TIME_STEP)
                mixing *= LESS_MIXING
            n_downhill += 1
        elif step:
            velocities[:] = 0
            time_step, mixing, n_downhill = time_step * SLOWER, MIXING, 0
        velocities += time_step * forces
        moves = time_step * velocities
        lengths = np.linalg.norm(moves, axis=1, keepdims=True)
        # limited atom by atom: one factor for all would be set by the strangest atom
        atoms.positions += moves * np.minimum(1, LONGEST_STEP / np.maximum(lengths, LONGEST_STEP))
