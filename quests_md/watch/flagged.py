"""A copy of a flagged frame that carries what was found."""

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from quests_md.judge import Judge, Judged, cached_energy
from quests_md.records import Event

__all__ = ["labelled_copy"]


def labelled_copy(judge: Judge, judged: Judged, atoms: Atoms, event: Event) -> Atoms:
    """A copy of the frame with dH of all atoms, the check's numbers, and cached energy and forces."""
    check = judged.check
    frame: Atoms = atoms.copy()
    frame.info = {key: value for key, value in frame.info.items() if _is_writable(key, value)}
    frame.info |= {
        "step": check.step,
        "event": event.id,
        "kind": event.kind,
        "reference": judge.reference.fingerprint,
    }
    if check.alarms:
        frame.info["alarms"] = " ".join(check.alarms)
    numbers = {"time_ps": check.time_ps, "dh_mean": check.dh_mean, "excess": check.excess, "n_above": check.n_above}
    frame.info |= {key: value for key, value in numbers.items() if value is not None}
    if judged.rows is not None:
        dh = check.delta_entropy
        if dh is None or np.isnan(dh).any():
            dh = judge.delta_entropy(judged.rows, atoms)
        frame.info["dh_max"] = float(dh.max())
        frame.set_array("delta_entropy", np.asarray(dh))
        frame.set_array("above", np.asarray(check.above))
    frame.calc = _cached_results(atoms, frame)
    return frame


def _is_writable(key: Any, value: Any) -> bool:
    """Whether an entry of `atoms.info` survives extended XYZ: empty texts and line breaks spoil the whole file."""
    if not isinstance(key, str) or not key or not key.isprintable():
        return False
    if isinstance(value, str):
        return bool(value) and value.isprintable()
    return isinstance(value, bool | int | float | np.number | np.bool_)


def _cached_results(atoms: Atoms, frame: Atoms) -> SinglePointCalculator | None:
    """Energy and forces on the copy, if the calculator has them for exactly this frame."""
    energy = cached_energy(atoms)
    if energy is None:
        return None
    found: dict[str, float | NDArray[np.float64]] = {"energy": energy * len(atoms)}
    forces = atoms.calc.results.get("forces")
    if forces is not None and np.shape(forces) == (len(atoms), 3):
        found["forces"] = np.array(forces)
    return SinglePointCalculator(frame, **found)
