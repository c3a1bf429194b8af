"""The course of an event: from its checks to the Event record."""

import math

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from numpy.typing import NDArray

from .records import Check, Event, NearestEnvironment
from .reference import Reference

__all__ = ["EventCourse"]

#: Most atoms an event names, and most entries of its size history.
MOST_ATOMS = 1000
MOST_HISTORY = 128


class EventCourse:
    """Collects the checks of one event, from the first check out; memory does not grow with its length."""

    def __init__(self, event_id: int, first: Check) -> None:
        self.id = event_id
        self.kind: str = "exploded" if first.state == "invalid" else "novel"
        self.onset = first
        self.confirmed_step: int | None = None
        self.last_step = first.step
        self.n_checks = 0
        self.n_open_checks = 0
        self._history: list[tuple[int, int]] = []
        self._every = 1
        self._alarms: dict[str, None] = {}
        self._peak: Check | None = None
        self._frame: Atoms | None = None
        self._row: NDArray[np.float64] | None = None
        self._nearest: NearestEnvironment | None = None

    @property
    def is_confirmed(self) -> bool:
        """Whether patience has been spent."""
        return self.confirmed_step is not None

    def add(self, check: Check, atoms: Atoms, rows: NDArray[np.float64] | None) -> None:
        """Take the next check of the event with its frame; the frame is copied only at a new peak."""
        if self.n_checks % self._every == 0:
            self._history.append((check.step, check.n_above))
            if len(self._history) > MOST_HISTORY:
                self._history = self._history[::2]
                self._every *= 2
        self.n_checks += 1
        if self.is_confirmed:
            self.n_open_checks += 1
        if check.state != "in":
            self.last_step = check.step
        self._alarms |= dict.fromkeys(check.alarms)
        if self._peak is None or check.trigger_excess > self._peak.trigger_excess:
            self._peak, self._nearest = check, None
            self._frame = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            if "id" in atoms.arrays:
                self._frame.set_array("id", np.asarray(atoms.arrays["id"]))
            self._row = None if rows is None or check.worst_atom is None else rows[check.worst_atom].copy()

    def confirm(self, check: Check) -> None:
        """Patience is spent: the event is open."""
        self.confirmed_step = check.step
        self.n_open_checks = 1

    def record(self, reference: Reference, *, is_open: bool) -> Event:
        """The event as it stands."""
        peak, frame = self._peak, self._frame
        assert peak is not None
        assert frame is not None
        above = np.empty(0, np.int64) if peak.above is None else np.flatnonzero(peak.above)
        if peak.delta_entropy is not None:
            above = above[np.argsort(-peak.delta_entropy[above], kind="stable")][:MOST_ATOMS]
        identity = frame.arrays.get("id", np.arange(len(frame)))
        return Event(
            id=self.id,
            kind=self.kind,  # type: ignore[arg-type]  # one of the kinds
            onset_step=self.onset.step,
            confirmed_step=self.onset.step if self.confirmed_step is None else self.confirmed_step,
            last_step=self.last_step,
            onset_time_ps=self.onset.time_ps,
            onset_temperature_K=self.onset.temperature_K,
            alarms=tuple(self._alarms),
            peak_excess=peak.trigger_excess,
            peak_step=peak.step,
            n_atoms=peak.n_above,
            atoms=tuple(int(i) for i in np.sort(identity[above])),
            size_history=tuple(self._history),
            centroid=_centroid(frame, above),
            worst_atom=None if peak.worst_atom is None else int(identity[peak.worst_atom]),
            worst_element=peak.worst_element,
            nearest=self._nearest_environment(reference, frame, peak),
            n_checks=self.n_checks,
            is_open=is_open,
        )

    def _nearest_environment(self, reference: Reference, frame: Atoms, peak: Check) -> NearestEnvironment | None:
        if self._nearest is None and self._row is not None:
            found = reference.nearest(self._row[None], numbers=frame.numbers[[peak.worst_atom]], threads=1)
            self._nearest = reference.describe_nearest(found, 0)
        return self._nearest


def _centroid(frame: Atoms, chosen: NDArray[np.int64]) -> tuple[float, float, float] | None:
    """Mean position of the chosen atoms, each at its image nearest to the first."""
    if len(chosen) == 0:
        return None
    origin = frame.positions[chosen[0]]
    shifts, _ = find_mic(frame.positions[chosen] - origin, frame.cell, frame.pbc)
    x, y, z = (float(v) for v in origin + np.asarray(shifts).mean(axis=0))
    return (x, y, z) if all(map(math.isfinite, (x, y, z))) else None
