"""What the state lines of a log hold: every field with its type, checked before a run goes on with it.

A wrong type would end the run that goes on, or worse, let it judge by nonsense; the error is to name the line instead.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quests_md._json import from_mapping, to_mapping
from quests_md.records import EventKind, FramePlace

from .cusum import CusumState
from .findings import Peak
from .trigger import TriggerState

__all__ = ["checked_findings", "checked_snapshot"]


def checked_findings(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a check has found beyond its numbers, as `LoggedFindings` takes it, of a state line.

    Raises KeyError, TypeError or ValueError, which name the field, if the line does not hold what it should.
    """
    return {name: found for name, found in to_mapping(from_mapping(_Found, content)).items() if found}


def checked_snapshot(content: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a run, as `EventFollower.restore` takes it, of a state line with a snapshot; raises as above."""
    state = to_mapping(from_mapping(_Snapshot, content["snapshot"]))
    if content.get("frame", state["n_checks"] - 1) != state["n_checks"] - 1:
        raise ValueError(f"n_checks: expected one more than frame {content['frame']}, got {state['n_checks']}")
    return state


def _require_counts(**counts: int | None) -> None:
    _require_least(0, **counts)


def _require_least(least: int, **counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < least:
            raise ValueError(f"{name}: expected {least} or more, got {count}")


def _require_finite(name: str, values: Iterable[float | None]) -> None:
    if not all(value is None or math.isfinite(value) for value in values):
        raise ValueError(f"{name}: expected finite numbers")


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}: expected a positive finite number, got {value}")


@dataclass(frozen=True, slots=True)
class _Track:
    id: int
    first_step: int
    size: int
    peak_size: int
    n_checks: int
    first_atom: object
    merged: tuple[int, ...]
    anchors: object
    n_missed: int

    def __post_init__(self) -> None:
        _require_counts(id=self.id, size=self.size, peak_size=self.peak_size, n_missed=self.n_missed)
        atoms = [self.first_atom, *(self.anchors if isinstance(self.anchors, list) else [None])]
        # identities of atoms may need all of 64 bits
        if len(atoms) < 2 or not all(type(atom) is int and 0 <= atom < 2**64 for atom in atoms):
            raise ValueError("anchors, first_atom: expected identities of atoms")


@dataclass(frozen=True, slots=True)
class _Tracker:
    n_tracks: int
    followed: tuple[_Track, ...]

    def __post_init__(self) -> None:
        _require_counts(n_tracks=self.n_tracks)


@dataclass(frozen=True, slots=True)
class _Found:
    trigger: Mapping[EventKind, TriggerState] = field(default_factory=dict)
    reason: Mapping[EventKind, tuple[str, str | None]] = field(default_factory=dict)
    sizes: Mapping[EventKind, tuple[int, int]] = field(default_factory=dict)
    stayed: Mapping[EventKind, tuple[int, int, int, int]] = field(default_factory=dict)
    tracks: Mapping[EventKind, _Tracker] = field(default_factory=dict)
    peaks: Mapping[EventKind, Peak] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for sizes in self.sizes.values():
            _require_counts(size=min(sizes))
        for stayed in self.stayed.values():
            _require_stayed(stayed)


def _require_stayed(stayed: tuple[int, int, int, int]) -> None:
    _require_counts(stayed=min(stayed))
    _require_least(1, stayed=min(stayed[1], stayed[3]))


@dataclass(frozen=True, slots=True)
class _Progress:
    """Of a trigger."""

    state: TriggerState
    n_events: int
    streak: int
    streak_start_ps: float | None
    cooling: int
    visits: tuple[tuple[int, ...], bool, int, int, int] | None = None

    def __post_init__(self) -> None:
        _require_counts(n_events=self.n_events, streak=self.streak, cooling=self.cooling)
        _require_finite("streak_start_ps", [self.streak_start_ps])
        if self.visits is not None:
            ages, _, *counts = self.visits
            _require_counts(visits=min(*ages, *counts))


@dataclass(frozen=True, slots=True)
class _CusumProgress:
    state: CusumState
    rising: float
    falling: float
    n_rising: int
    n_falling: int

    def __post_init__(self) -> None:
        if math.isnan(self.rising) or math.isnan(self.falling):
            raise ValueError("rising, falling: expected numbers, got nan")


@dataclass(frozen=True, slots=True)
class _Judged:
    """What a baseline says of one statistic."""

    low: float
    high: float
    scale: Mapping[str, float]
    per_block: int
    block: tuple[float, ...]
    cusum: Mapping[str, float]
    progress: _CusumProgress

    def __post_init__(self) -> None:
        _require_least(1, per_block=self.per_block)
        _require_finite("low, high, scale", [self.low, self.high, *self.scale.values()])
        if not self.low <= self.high:
            raise ValueError(f"low: expected at most high = {self.high}, got {self.low}")
        may_be_zero = ("mean", "smallest", "total")
        _require_positive(**{name: value for name, value in self.scale.items() if name not in may_be_zero})
        if min(self.scale.get("smallest", 0.0), self.scale.get("total", 0.0)) < 0:
            raise ValueError("scale: expected no negative smallest or total")


@dataclass(frozen=True, slots=True)
class _Baseline:
    start_ps: float | None
    text: str | None
    series: Mapping[str, tuple[float, ...]]
    judged: Mapping[str, _Judged]

    def __post_init__(self) -> None:
        _require_finite("start_ps", [self.start_ps])
        for name, values in self.series.items():
            _require_finite(name, values)
        if self.judged and (self.text is None or self.start_ps is None):
            raise ValueError("judged: expected nothing before the baseline is complete")


@dataclass(frozen=True, slots=True)
class _OwnClusters:
    sizes: Mapping[str, tuple[int, ...]]
    levels: Mapping[str, float]

    def __post_init__(self) -> None:
        _require_counts(sizes=min((size for sizes in self.sizes.values() for size in sizes), default=0))
        _require_finite("levels", self.levels.values())
        if min(self.levels.values(), default=0) < 0:
            raise ValueError("levels: expected no negative number")


@dataclass(frozen=True, slots=True)
class _Explosion:
    n_atoms: int | None
    temperatures: tuple[float, ...]
    volumes: tuple[float, ...]

    def __post_init__(self) -> None:
        _require_finite("temperatures", self.temperatures)
        for volume in self.volumes:
            _require_positive(volumes=volume)


@dataclass(frozen=True, slots=True)
class _Onset:
    frame: int
    step: int
    time_ps: float | None
    temperature_K: float | None
    place: FramePlace | None = None


@dataclass(frozen=True, slots=True)
class _Course:
    channel: EventKind
    kind: EventKind
    event_id: int
    phase: str | None
    reason: str
    onset_step: int
    onset_time_ps: float | None
    onset_temperature_K: float | None
    confirmed_step: int | None
    last_step: int
    n_checks: int
    n_open_checks: int
    history: tuple[tuple[int, ...], ...]
    every: int
    alarms: tuple[str, ...]
    peak: Peak
    tracker: _Tracker
    track: int | None
    cluster: int | None
    first: tuple[int, ...]
    recent: tuple[int, ...]
    is_compact: bool
    stayed: tuple[tuple[int, int, int, int], ...] = ()
    onset_place: FramePlace | None = None
    places: Mapping[str, FramePlace] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_least(0 if self.confirmed_step is None else 1, event_id=self.event_id)
        _require_counts(n_open_checks=self.n_open_checks, cluster=self.cluster)
        _require_least(1, n_checks=self.n_checks, every=self.every)
        if not self.history or not all(len(entry) in (2, 3) for entry in self.history):
            raise ValueError("history: expected steps, sizes and clusters")
        for stayed in self.stayed:
            _require_stayed(stayed)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    n_checks: int
    n_events: int
    n_outliers: int
    triggers: Mapping[EventKind, _Progress]
    baseline: _Baseline | None
    own_clusters: _OwnClusters
    explosion: _Explosion
    courses: Mapping[EventKind, _Course]
    onsets: Mapping[EventKind, tuple[tuple[object, ...], ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_counts(n_checks=self.n_checks, n_events=self.n_events, n_outliers=self.n_outliers)
        names = list(_Onset.__slots__)
        for entries in self.onsets.values():
            for entry in entries:
                from_mapping(_Onset, dict(zip(names, entry, strict=len(entry) > len(names))))
        for channel, course in self.courses.items():
            if course.channel != channel or course.event_id > self.n_events:
                raise ValueError(f"courses: expected {channel} as channel and an event_id up to {self.n_events}")
        for channel, trigger in self.triggers.items():
            if channel in self.courses:
                is_open = self.courses[channel].confirmed_step is not None
                fits = trigger.state in (("open", "stop") if is_open else ("opening",))
            else:
                fits = trigger.state == "in"
            if not fits:
                raise ValueError(f"triggers: the {channel} one is {trigger.state!r}, its course says something else")
