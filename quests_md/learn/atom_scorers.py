"""Who gives the values of the atoms of a geometry: a reference with its levels, or the checks of a monitor."""

import logging
from functools import partial
from typing import Any, Protocol

from ase import Atoms

from quests_md._interrupts import interrupt_behind, uninterrupted
from quests_md._words import printable
from quests_md.calibration import Calibration
from quests_md.environments import Descriptor, describe, frame_digest
from quests_md.errors import FrameError, StopRun, UnsuitableFrameError
from quests_md.monitor import Monitor
from quests_md.records import AtomValues
from quests_md.reference import AtomLevels, Reference
from quests_md.watch import OnError

__all__ = ["AtomScorer", "ByMonitor", "ByReference"]

_logger = logging.getLogger("quests_md")


class AtomScorer(Protocol):
    """What a calculator asks for the values of atoms."""

    @property
    def has_levels(self) -> bool:
        """Whether atoms have a grade."""

    @property
    def is_stopping(self) -> bool:
        """Whether the geometry taken last has ended the run, which was not said yet."""

    def take(self, atoms: Atoms, step: int) -> AtomValues | None:
        """Values of a geometry that is due; None: there are none, or not yet."""

    def known(self, digest: str) -> AtomValues | None:
        """Values of a geometry that were found since it was taken."""

    def score(self, atoms: Atoms) -> AtomValues | None:
        """Values of a geometry that somebody asks for, due or not; None: that failed."""

    def raise_stop(self) -> None:
        """Raise StopRun, which ends the run, once."""

    def alone(self) -> "ByReference":
        """What scores alike, and belongs to no run."""


class ByReference:
    """Values by a reference, with a grade where the calibration has levels of dH.

    If scoring fails, that is said once, and there are no values; or it is raised, as `on_error` asks.
    """

    def __init__(
        self, reference: Reference, calibration: Calibration, *, on_error: OnError = "log", threads: int | None = None
    ) -> None:
        self._reference = reference
        self._levels = AtomLevels(reference, calibration)
        self._on_error = on_error
        self._threads = threads
        self._said: set[str] = set()

    is_stopping = False

    @property
    def has_levels(self) -> bool:
        """Whether atoms have a grade."""
        return self._levels.has_levels

    def take(self, atoms: Atoms, step: int) -> AtomValues | None:
        """Values of a geometry."""
        return self.score(atoms)

    def known(self, digest: str) -> AtomValues | None:
        """Nothing is found later."""
        return None

    def score(self, atoms: Atoms) -> AtomValues | None:
        """Values of a geometry; None: that failed."""
        work = partial(self._values, atoms)
        try:
            # a descriptor of another kind may call a calculator, which belongs to this thread
            return uninterrupted(work) if isinstance(self._reference.descriptor, Descriptor) else work()
        except Exception as exc:
            if (interrupt := interrupt_behind(exc)) is not None:
                raise interrupt from None
            if isinstance(exc, FrameError) and not isinstance(exc, UnsuitableFrameError):
                return self._levels.values_of_lost(len(atoms))
            if self._on_error == "raise":
                raise
            self._say_once(f"{type(exc).__name__}: {exc}")
            return None

    def raise_stop(self) -> None:
        """Nothing ends a run here."""

    def alone(self) -> "ByReference":
        """It belongs to no run."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "ByReference":
        return self  # a reference is never changed, and may be large

    def _values(self, atoms: Atoms) -> AtomValues:
        rows = describe(self._reference.descriptor, atoms, self._threads)
        return self._levels.values(rows, atoms.numbers, self._threads)

    def _say_once(self, message: str) -> None:
        if message not in self._said and len(self._said) < 100:
            self._said.add(message)
            _logger.error("quests_md: %s; there is no dH where this happens, said once", printable(message))


class ByMonitor:
    """Values by the checks of a monitor: its own where it observes a dynamics, else one of each geometry that is due.

    Once the monitor is closed, they are those of its reference and levels.
    """

    def __init__(self, monitor: Monitor) -> None:
        monitor.watch.tell_atoms()
        self._monitor = monitor
        self.is_stopping = False
        self._alone: tuple[str, ByReference] | None = None

    @property
    def has_levels(self) -> bool:
        """Whether atoms have a grade."""
        return not self._monitor.calibration.lacks_dh

    def take(self, atoms: Atoms, step: int) -> AtomValues | None:
        """Check a geometry, unless a dynamics shows the monitor its steps, and return its values."""
        monitor = self._monitor
        if monitor.watch.is_closed:
            return self.score(atoms)
        if monitor.is_attached:
            return None
        if (needs_time := monitor.watch.settings.needs_time) is not None:
            raise ValueError(
                f"{needs_time}: expected a dynamics that knows the time, which a calculator does not; attach the "
                "monitor to it: monitor.attach(dyn)"
            )
        monitor.check(atoms, step)
        self.is_stopping = monitor.watch.run is not None and monitor.watch.run.stop_now
        return self.known(frame_digest(atoms))

    def known(self, digest: str) -> AtomValues | None:
        """Values of the last check, if it is of this geometry."""
        check = self._monitor.last_check
        return None if check is None or check.digest != digest else check.atom_values

    def score(self, atoms: Atoms) -> AtomValues | None:
        """Values of a geometry by reference and levels of the monitor, without a check."""
        return self.alone().score(atoms)

    def raise_stop(self) -> None:
        """Raise StopRun, once, unless a dynamics shows the monitor its steps by now, which the monitor can end."""
        self.is_stopping = False
        if not self._monitor.is_attached:
            raise StopRun(self._monitor.stop_reason)

    def alone(self) -> ByReference:
        """What scores alike, and belongs to no run: copies of the calculator have it."""
        judge, watch = self._monitor.judge, self._monitor.watch
        if self._alone is None or self._alone[0] != judge.reference.fingerprint:  # the reference may be another by now
            scorer = ByReference(judge.reference, judge.calibration, on_error=watch.log.on_error, threads=judge.threads)
            self._alone = judge.reference.fingerprint, scorer
        return self._alone[1]
