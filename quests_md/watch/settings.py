"""The settings of a run: resolved once from the arguments of a Monitor, written as the header of its log."""

import hashlib
import os
import socket
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from quests_md._files import file_size
from quests_md._threads import available_threads
from quests_md._version import __version__
from quests_md.calibration import (
    BASELINE_STATISTICS,
    SAMPLE_ATOMS,
    SEED,
    SKETCH_ROWS,
    Calibration,
    ErrorCalibration,
    GivenCalibration,
    calibrate,
    kind_of,
    opened_calibration,
    rate_of,
    rate_of_checks,
)
from quests_md.environments import Minimised, TimeAveraged
from quests_md.errors import MismatchError
from quests_md.judge import Crew, Judge, Phases, Values
from quests_md.log import SCHEMA
from quests_md.reference import GivenReference, Reference, opened_reference, require_equal_settings

from .actions import Action, GivenAction, action_files, checked_actions
from .baseline import Baseline
from .budget import Budget
from .event_follower import RECENT_EVENTS, SNAPSHOT
from .explosion import Explosion
from .false_events import WINDOW, visits_for
from .trigger import Trigger

__all__ = ["CHANGING", "NO_VISITS", "RunSettings"]

#: What must be the same for the checks of one log, and where the header has it.
SAME = {
    "false_alarms": ("calibration", "false_alarms"),
    "per": ("calibration", "per"),
    "levels": ("calibration", "digest"),
    "statistics": ("calibration", "statistics"),
    "baseline_ps": ("baseline_ps",),
    "phases": ("phases", "references"),
    "parent phase": ("phases", "parent"),
    "thresholds of phases": ("phases", "thresholds"),
    "max_temperature_K": ("max_temperature_K",),
    "trigger": ("trigger",),
    "values": ("values", "asked"),
    "confirm": ("confirm",),
}

#: Parts of the header that a line of type "reference" replaces: a resumed run may have an extended reference.
CHANGING = ("reference", "calibration", "phases")


#: What older logs do not say of their trigger.
NO_VISITS = {"visits": None, "window": WINDOW}


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a run is watched with. Made by `resolve`; the objects in it hold settings only and are never updated."""

    judge: Judge
    """Reference, calibration, labelled phases and the second reference: all that turns a frame into a check."""
    trigger: Trigger
    """Settings of the triggers."""
    is_default_trigger: bool
    """Whether they were not given: a run that comes back then goes on with the visits of its log."""
    baseline: Baseline | None
    """Settings of the baseline; None: the run's own beginning judges nothing."""
    max_temperature_K: float | None
    """A hotter frame counts as exploded; None: jumps beyond the running median count."""
    budget: float | None
    """Share of the wall time that checks may take; None: no limit."""
    actions: tuple[Action, ...]
    """What is done when an event opens."""
    snapshot_every: int = SNAPSHOT
    """Checks between two lines of the log that hold the whole state."""
    recent_events: int = RECENT_EVENTS
    """Closed events that are kept in memory."""

    @classmethod
    def resolve(
        cls,
        reference: GivenReference,
        calibration: GivenCalibration | None = None,
        *,
        statistics: Sequence[str] | None = None,
        baseline_ps: float | None = None,
        phases: Phases | Mapping[str, GivenReference] | None = None,
        max_temperature_K: float | None = None,
        trigger: Trigger | None = None,
        confirm: GivenReference | tuple[GivenReference, GivenCalibration] | None = None,
        actions: Sequence[GivenAction] | Action = (),
        values: Values = "auto",
        budget: float | None = None,
        threads: int | None = None,
        stacklevel: int = 2,
    ) -> Self:
        """Settings from the arguments of a Monitor, which says what each is and what errors there are.

        Calibrates where no calibration is given. `stacklevel` is that of warnings, 2 for the caller.
        """
        reference = opened_reference(reference)
        if calibration is not None:
            calibration = opened_calibration(calibration)
        if trigger is not None and not isinstance(trigger, Trigger):
            raise TypeError(f"trigger: expected a Trigger, got {type(trigger).__name__}")
        available_threads(threads)
        share = None if budget is None else Budget(budget).share
        chosen_actions = checked_actions(actions)
        if calibration is None:
            calibration = calibrate(reference, threads=threads)
        else:
            calibration = _of_ancestor(calibration, reference, threads)
        if statistics is not None:
            calibration = calibration.with_statistics(statistics)
        is_default, trigger = trigger is None, (trigger or _default_trigger(calibration)).fresh()
        baseline = None
        if baseline_ps is not None:
            calibration, baseline = _with_baseline(calibration, baseline_ps, statistics is not None, trigger.release)
        _warn_of_runs("calibration", calibration, stacklevel + 1)
        if phases is not None and not isinstance(phases, Phases):
            phases = Phases(phases, threads=threads)
        second = None
        if confirm is not None:
            second = _second_judge(confirm, reference, values, trigger.release, threads, stacklevel + 1)
        judge = Judge(
            reference,
            calibration,
            values=values,
            release=trigger.release,
            phases=phases,
            threads=threads,
            confirm=second,
            not_confirmed=() if baseline is None else baseline.statistics,
        )
        limit = Explosion(max_temperature_K).max_temperature_K
        return cls(judge, trigger, is_default, baseline, limit, share, chosen_actions)

    @property
    def averaging(self) -> TimeAveraged | None:
        """How frames are averaged before they are judged; None: they are judged as they are."""
        descriptor = self.judge.reference.descriptor
        return descriptor if isinstance(descriptor, TimeAveraged) else None

    @property
    def calculates(self) -> bool:
        """Whether a judgement takes calculations of a calculator that the user has given."""
        judges = [self.judge] if self.judge.confirm is None else [self.judge, self.judge.confirm]
        return any(isinstance(judge.reference.descriptor, Minimised) for judge in judges)

    @property
    def needs_time(self) -> str | None:
        """The argument for which every check must have a time; None: there is none."""
        return "patience_ps" if self.trigger.patience_ps is not None else "baseline_ps" if self.baseline else None

    def at_interval(self, check_ps: float) -> Self:
        """The same settings where checks are so many ps apart."""
        return replace(self, judge=self.judge.for_interval(check_ps))

    def telling_atoms(self) -> Self:
        """The same settings for a judge that tells dH and grade of every atom."""
        return replace(self, judge=self.judge.asked_for(atoms=True))

    def with_crew(self, crew: Crew | None) -> Self:
        """The same settings for a judge that shares frames out among processes."""
        return replace(self, judge=self.judge.asked_for(crew=crew))

    def with_reference(self, reference: GivenReference, calibration: GivenCalibration | None = None) -> Self:
        """The same settings with another reference, arguments and errors as in `Monitor.update`."""
        before, own = self.judge, self.judge.calibration
        reference = opened_reference(reference)
        require_equal_settings(before.reference.settings, reference.settings, "the reference of the run", "the new one")
        if calibration is not None:
            calibration = _of_ancestor(opened_calibration(calibration), reference, before.threads)
        elif own.fingerprint in (reference.fingerprint, *reference.ancestors):
            calibration = own.carried_to(reference, threads=before.threads)
        elif isinstance(own, ErrorCalibration):
            raise ValueError("calibration: expected one for the new reference, since the levels so far are of labels")
        else:
            calibration = calibrate(
                reference,
                false_alarms=own.false_alarms,
                per=own.per,
                checks=own.checks,
                threads=before.threads,
            )
        for name in ("false_alarms", "per"):
            if getattr(calibration, name) != getattr(own, name):
                raise ValueError(
                    f"calibration: expected {name} = {getattr(own, name)}, as in the run so far, got "
                    f"{getattr(calibration, name)}; another rate needs a monitor and a log of its own"
                )
        judge = Judge(
            reference,
            calibration.with_statistics(own.statistics),
            values=before.values,
            release=before.release,
            phases=before.phases,
            checks=before.checks,
            check_ps=before.check_ps,
            threads=before.threads,
            confirm=before.confirm,
            not_confirmed=before.not_confirmed,
        )
        return replace(self, judge=judge.asked_for(atoms=before.asked.atoms))

    def header(self, numbers: NDArray[np.int64]) -> dict[str, Any]:
        """The header of the log of a run that begins with atoms of these atomic numbers, (N,)."""
        judge, n_atoms = self.judge, len(numbers)
        centers = np.asarray(numbers)[judge.reference.is_center(numbers)]
        return {
            "type": "header",
            "schema": SCHEMA,
            "version": __version__,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "reference": {
                "fingerprint": judge.reference.fingerprint,
                "n_environments": judge.reference.n_environments,
                "elements": list(judge.reference.elements),
                "bandwidth": judge.reference.bandwidth,
                "settings": judge.reference.settings,
            },
            "calibration": _calibration_line(judge, centers),
            "budget": self.budget,
            "baseline_ps": None if self.baseline is None else self.baseline.duration_ps,
            "phases": _phases_line(judge, len(centers)),
            "max_temperature_K": self.max_temperature_K,
            "trigger": self.trigger.settings,
            "confirm": None if judge.confirm is None else _confirm_line(judge.confirm),
            "values": {
                "asked": judge.values,
                "used": judge.mode(n_atoms),
                "margin": judge.margin,
                "sample_atoms": SAMPLE_ATOMS,
                "sketch_rows": SKETCH_ROWS,
                "seed": SEED,
            },
            "files": {name: file_size(name) for name in action_files(self.actions)},
            "n_atoms": n_atoms,
        }

    def require_same(self, before: Mapping[str, Any], now: Mapping[str, Any], log: str) -> list[str]:
        """Make sure that checks with these settings may follow those of a log.

        `before` is the header of the log, `now` that of these settings, both as a log has them. Returns the
        fingerprints on the way from the reference of the log to this one, which `extend` or `merge` made from it; none
        if the reference is the same.

        Raises
        ------
        MismatchError
            If a setting differs (the error names both values), or the reference was not made from that of the log.
        """
        chain = self._chain_from(before, log)
        for what, path in SAME.items():
            old, new = (_at(header, path) for header in (before, now))
            if what == "trigger" and isinstance(old, Mapping) and isinstance(new, Mapping):
                old = NO_VISITS | dict(old)  # older logs have no count of visits
                new = dict(new) | ({name: old[name] for name in NO_VISITS} if self.is_default_trigger else {})
            if what == "levels" and (old is None or chain):
                continue  # older logs have no digest of levels, and an extended reference has levels of its own
            if old != new:
                advice = "give the same settings or choose another log"
                if what == "levels":
                    advice = (
                        "give the calibration of that run: after `update` this is monitor.calibration, saved then; or "
                        "the calibration of the reference before, which is carried to this one; or choose another log"
                    )
                raise MismatchError(f"resume: {log} was written with {what} = {old}, this monitor has {new}; {advice}")
        return chain

    def _chain_from(self, before: Mapping[str, Any], log: str) -> list[str]:
        known, reference = _at(before, ("reference", "fingerprint")), self.judge.reference
        if known == reference.fingerprint:
            return []
        if known not in reference.ancestors:
            raise MismatchError(
                f"resume: {log} was written with reference {known}, this monitor has {reference.fingerprint}, "
                "which was not made from it by extend or merge; give the same reference or choose another log"
            )
        return [str(known), reference.fingerprint]


def _default_trigger(calibration: Calibration) -> Trigger:
    """Three checks out in a row, or as many visits in 20 checks as chance makes once in 100 000 checks.

    The rate of checks out by chance is what the levels for a frame of the calibration promise together; where nothing
    is promised, visits open nothing.
    """
    rate = rate_of_checks(calibration.alarm_levels(calibration.typical.numbers()), calibration.looks())
    return Trigger(visits=None if rate is None else visits_for(rate))


def _with_baseline(
    calibration: Calibration, duration_ps: float, is_chosen: bool, release: float
) -> tuple[Calibration, Baseline]:
    """The calibration with statistics that a baseline can judge in use, and the baseline with its share of the rate."""
    if not is_chosen:
        further = "local_tail" if calibration.is_local else "frame_entropy"
        calibration = calibration.with_statistics((*calibration.statistics, further))
    judged = tuple(name for name in calibration.statistics if name in BASELINE_STATISTICS)
    if not judged:
        raise ValueError(
            f"baseline_ps: expected statistics with one of {', '.join(BASELINE_STATISTICS)}, got "
            f"{', '.join(calibration.statistics)}"
        )
    rate = calibration.false_alarms * len(judged) / len(calibration.statistics)
    return calibration, Baseline(judged, duration_ps, rate, release)


def _second_judge(
    confirm: GivenReference | tuple[GivenReference, GivenCalibration],
    first: Reference,
    values: Values,
    release: float,
    threads: int | None,
    stacklevel: int,
) -> Judge:
    """The judge that is asked about alarms."""
    given, of_given = confirm if isinstance(confirm, tuple) and len(confirm) == 2 else (confirm, None)
    if isinstance(given, tuple):
        raise TypeError(f"confirm: expected a Reference, or it and its Calibration, got {confirm!r}")
    reference = opened_reference(given, "confirm")
    calibration = None if of_given is None else opened_calibration(of_given, "confirm")
    for which, known in (("a reference", reference), ("a first reference", first)):
        if isinstance(known.descriptor, TimeAveraged):
            raise ValueError(f"confirm: expected {which} for single frames, got one of time averages")
    unseen = [symbol for symbol in first.elements if not reference.is_center([atomic_numbers[symbol]]).all()]
    if unseen:
        raise ValueError(
            f"confirm: expected a reference with environments of all elements of the first, got none of "
            f"{', '.join(unseen)} by its descriptor's `centers`"
        )
    if calibration is None:
        calibration = calibrate(reference, threads=threads)
    calibration = _of_ancestor(calibration, reference, threads)
    _warn_of_runs("confirm", calibration, stacklevel + 1)
    return Judge(reference, calibration, values=values, release=release, threads=threads)


def _of_ancestor(calibration: Calibration, reference: Reference, threads: int | None) -> Calibration:
    """The calibration, carried to the reference if it is one of a reference from which this one was made."""
    is_carried = calibration.fingerprint in reference.ancestors
    return calibration.carried_to(reference, threads=threads) if is_carried else calibration


def _warn_of_runs(argument: str, calibration: Calibration, stacklevel: int) -> None:
    if calibration.per == "run" and calibration.checks is None:
        warnings.warn(
            f"{argument}: the rate counts runs, but the number of checks in one is not known and taken as 1; "
            "give calibrate(..., checks=...)",
            stacklevel=stacklevel,
        )


def _calibration_line(judge: Judge, numbers: NDArray[np.int64]) -> dict[str, Any]:
    calibration, levels = judge.calibration, judge.frame_levels(numbers)
    in_use = [level for level in levels if level.statistic in calibration.statistics]
    of_errors = {}
    if isinstance(calibration, ErrorCalibration):
        of_errors = {"tolerance": calibration.tolerance, "share": calibration.share}
    return of_errors | {
        "level": max(level.value for level in levels if level.statistic == "dh_max"),
        "kind": kind_of(in_use),
        "false_alarms": calibration.false_alarms,
        "per": calibration.per,
        "rate": rate_of(in_use),
        "n_groups": calibration.n_groups,
        "fingerprint": calibration.fingerprint,
        "digest": _levels_digest(calibration),
        "checks": calibration.n_checks(judge.checks),
        "statistics": list(calibration.statistics),
        "levels": [asdict(level) for level in levels],
        "atom_levels": {str(z): level for z, level in calibration.atom_levels.items()},
        "promise": judge.promise(numbers),
    }


def _confirm_line(second: Judge) -> dict[str, Any]:
    return {
        "reference": second.reference.fingerprint,
        "calibration": _levels_digest(second.calibration),
        "false_alarms": second.calibration.false_alarms,
        "per": second.calibration.per,
        "statistics": list(second.calibration.statistics),
    }


def _phases_line(judge: Judge, n_atoms: int) -> dict[str, Any] | None:
    if judge.phases is None:
        return None
    levels = {name: asdict(level) for name, level in judge.phase_levels(n_atoms).items()}
    return judge.phases.settings | {"levels": levels}


def _levels_digest(calibration: Calibration) -> str:
    """Checksum of all that levels are made of, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    settings = [
        calibration.checks,
        calibration.times.block_ps,
        calibration.times.spacing_ps,
        sorted(calibration.atom_levels.items()),
    ]
    digest.update(repr(settings).encode())
    if calibration.is_local and calibration.landmarks is not None:
        landmarks = calibration.landmarks
        if not landmarks.averaged:
            digest.update(b"single environments")
        for array in (landmarks.rows, landmarks.usual, landmarks.scatter, np.array(landmarks.tail_level)):
            digest.update(np.ascontiguousarray(array).data)
    if isinstance(calibration, ErrorCalibration):
        digest.update(repr((calibration.tolerance, calibration.share)).encode())
        for name, values in calibration.labels.content().items():
            digest.update(f"{name} {values!r}".encode())
    for null in calibration.nulls:
        digest.update(repr((null.statistic, null.element, null.side, null.values)).encode())
        digest.update(np.ascontiguousarray(null.scores, dtype=np.float64).data)
        digest.update(np.ascontiguousarray(null.sizes, dtype=np.int64).data)
        if null.groups is not None:
            digest.update(np.ascontiguousarray(null.groups, dtype=np.int64).data)
    return digest.hexdigest()


def _at(header: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = header
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
