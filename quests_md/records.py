"""Check, Event and the environments of an event: frozen records, and the log lines they become."""

import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ._json import from_mapping, to_mapping
from ._words import describe_event

__all__ = [
    "CHECK_FIELDS",
    "KINDS",
    "AtomValues",
    "Check",
    "Environment",
    "Event",
    "EventKind",
    "FramePlace",
    "NearestEnvironment",
    "complete_line",
    "has_cluster_alarm",
]

#: Kinds of events, see `Event.kind`.
EventKind = Literal["novel", "transition", "exploded"]

#: The kinds of events, the gravest last.
KINDS: tuple[EventKind, ...] = get_args(EventKind)


@dataclass(frozen=True, slots=True)
class FramePlace:
    """Where a frame stands in the files of a run."""

    source: str
    """File of the frame."""
    frame: int
    """Number of the frame in that file, from 0."""

    def __str__(self) -> str:
        return f"frame {self.frame} of {self.source}"


class AtomValues(NamedTuple):
    """What tools read of the atoms of a frame."""

    dh: NDArray[np.float64]
    """(n_atoms,) nats; inf for elements that the reference has never seen, NaN for atoms that are no centers, and for
    all atoms of a frame that cannot be described."""
    grade: NDArray[np.float64] | None
    """(n_atoms,) see `Reference.annotate`; inf for all atoms of a frame that cannot be described. None: there are
    no levels."""

    @classmethod
    def lost(cls, n_atoms: int, *, has_levels: bool) -> "AtomValues":
        """Those of a frame that cannot be described: nothing is known, and no comparison takes it for covered."""
        return cls(np.full(n_atoms, np.nan), np.full(n_atoms, np.inf) if has_levels else None)


@dataclass(frozen=True, slots=True)
class Check:
    """What one check of one frame found. None stands for a number that does not exist here."""

    step: int
    """The host's step, plus an offset where a later dynamics on the same monitor began again at 0."""
    frame: int
    """The monitor's own count of checks, from 0."""
    time_ps: float | None
    """Simulated time, ps."""
    n_atoms: int
    """Atoms in the frame."""
    dh_max: float | None
    """Largest dH over atoms, nats; inf with an unknown element; None in "proven" mode when no atom is above, or where
    only local scores are in use."""
    dh_mean: float | None
    """Mean dH over atoms of known elements (in "proven" mode: of the fixed sample), nats."""
    dh_q99: float | None
    """99 % quantile of dH over the same atoms, nats."""
    n_above: int
    """Atoms above their level."""
    largest_cluster: int | None
    """Atoms in the largest connected cluster of atoms above their level."""
    frame_entropy: float | None
    """Self-entropy H of the frame's rows (in "proven" mode: of the fixed sample), nats; None where only local
    scores are in use."""
    excess: float
    """Largest dH - level over atoms, nats; where local scores are in use and dh_max is not, of those, in deviations.
    NaN in an invalid frame."""
    worst_atom: int | None
    """Index of the atom with the largest excess."""
    worst_element: str | None
    """Element of the worst atom."""
    n_unknown: int
    """Atoms of an element that the reference has never seen; each scores +inf."""
    temperature_K: float | None
    """Kinetic temperature, K, where the frame has momenta."""
    volume_per_atom: float | None
    """Å^3 per atom, for cells periodic in three directions."""
    energy_per_atom: float | None
    """eV per atom, only if already computed."""
    interval: int | None
    """Steps between checks."""
    state: Literal["in", "out", "invalid"]
    """"out": a statistic in use is beyond its level. "invalid": non-finite numbers, no usable cell, or no
    atoms; not judged."""
    digest: str
    """Checksum of positions, cell and numbers."""
    elapsed_us: float
    """Wall time of the check, microseconds. The only field that may differ between equal runs."""
    n_tail: int | None = None
    """Atoms above the atom level, which a hundredth of the environments in distribution exceeds; None in "proven" mode
    unless a statistic in use needs it."""
    tail_cluster: int | None = None
    """Atoms in the largest connected cluster of atoms above the atom level."""
    alarms: tuple[str, ...] = ()
    """Statistics in use that are beyond their level; "dh_max" in any case where an element is unknown."""
    trigger_excess: float = math.nan
    """What the trigger gets: how far the worst statistic in use is beyond its level, nats (counts: log of the ratio).

    The largest dH counts as it is; below its level any other statistic counts as released half of the way to its
    median, where that is nearer than the trigger's release."""
    excesses: Mapping[str, float] = field(default_factory=dict)
    """How far each statistic in use is beyond its level, by name: nats (counts: log of the ratio), see
    `trigger_excess`; "dh_mean_drift" and the like: the drift against the run's own beginning, in deviations."""
    phases: Mapping[str, int] | None = None
    """Atoms that look like each of the labelled phases, see `Phases`."""
    phase_clusters: Mapping[str, int] | None = None
    """Atoms in the largest connected cluster of each labelled phase."""
    explosion: str = ""
    """Why the frame counts as exploded, in a few words; empty if it does not."""
    confirm_excess: float | None = None
    """The trigger excess that a second reference gives, see `confirm` of `Monitor`; None if the second reference was
    not asked or could not answer. If it is 0 or less, the alarms of the first reference are called off; `alarms` and
    `excesses` then show what is left."""
    n_colder: int | None = None
    """Atoms that count as strange beside the reference and not beside colder copies of its frames, such as those of a
    crystal at rest: `alarms`, `excesses`, `n_above` and `largest_cluster` are without these, other values of the frame
    as they are. A number, 0 too, says that alarms were looked at once more; none that are left were called off. None:
    not asked, since nothing is beyond its level, or since the reference holds no structure in motion."""
    delta_entropy: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    """(n_atoms,) dH per atom, nats; in "proven" mode NaN where only "not above" was proven. Not in the log."""
    above: NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)
    """(n_atoms,) whether the atom is above its level. Not in the log."""
    local_score: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    """(n_atoms,) how far dH of the averaged row is beyond what is usual in its place, deviations; None: no statistic in
    use is of local scores. Not in the log."""
    further: Mapping[str, float] = field(default_factory=dict)
    """Statistics in use that have no field of their own, by name."""
    atom_values: AtomValues | None = field(default=None, repr=False, compare=False)
    """DH and grade of every atom, whatever the mode; None unless a door asks for them, such as `MonitoredCalculator`.
    Not in the log."""
    place: FramePlace | None = field(default=None, compare=False)
    """The file and frame that was checked; None in live runs and for frames in memory, whose log lines do not have
    it."""

    def to_line(self) -> dict[str, Any]:
        """The record as a log line."""
        line = {"type": "check"} | {name: getattr(self, name) for name in CHECK_FIELDS}
        line |= {"further": dict(self.further)} if self.further else {}
        return line | ({} if self.place is None else {"place": to_mapping(self.place)})

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> "Check":
        """The record of a log line, without the arrays per atom.

        Raises KeyError if a field is missing that the first release wrote already, TypeError if a field does not hold
        what its annotation says.
        """
        line = complete_line(line)
        rest = {name: line[name] for name in _RARE if name in line}
        return from_mapping(cls, {name: line[name] for name in CHECK_FIELDS} | rest)

    def statistic(self, name: str) -> float | None:
        """The value of a statistic; None where the frame has none."""
        value: float | None = getattr(self, name) if name in CHECK_FIELDS else self.further.get(name)
        return value

    @classmethod
    def invalid(cls, *, step: int, frame: int, time_ps: float | None, n_atoms: int, **known: Any) -> "Check":
        """The check of a frame that could not be judged: `known` are fields that need no judgement."""
        nothing: dict[str, Any] = dict.fromkeys(name for name in CHECK_FIELDS if name not in _DEFAULTS)
        nothing |= {
            "n_above": 0,
            "n_unknown": 0,
            "excess": math.nan,
            "state": "invalid",
            "digest": "",
            "elapsed_us": 0.0,
        }
        return cls(**(nothing | {"step": step, "frame": frame, "time_ps": time_ps, "n_atoms": n_atoms} | known))


#: Fields per atom, which no log has.
_NOT_LOGGED = ("delta_entropy", "above", "local_score", "atom_values")

#: Fields that a check line of a log has only if they hold something.
_RARE = ("further", "place")

#: The fields that every check line of a log has.
CHECK_FIELDS = tuple(f.name for f in fields(Check) if f.name not in (*_NOT_LOGGED, *_RARE))

#: The fields that earlier versions did not write, with what stands for them in a log that lacks them.
_DEFAULTS = {f.name: f.default for f in fields(Check) if f.default is not MISSING} | {"excesses": {}}


@dataclass(frozen=True, slots=True)
class NearestEnvironment:
    """The reference environment nearest to an atom."""

    distance: float
    """Distance of the rows in bandwidths h."""
    source: str
    """File of the reference frame, or "memory"."""
    frame: int
    """Index of the frame in that file."""
    atom: int
    """Index of the atom in that frame."""


@dataclass(frozen=True, slots=True)
class Environment:
    """An atom of an event, to see why it is there."""

    atom: int
    """Identity of the atom."""
    element: str
    delta_entropy: float
    """dH of the atom, nats."""
    coordination: int
    """Atoms within 1.3 times the reference's median nearest-neighbour distance of their elements."""
    nearest: NearestEnvironment | None
    """The reference environment nearest to that of the atom."""
    local_score: float | None = None
    """How far dH of its averaged row is beyond what is usual in its place, deviations, as in `Check.local_score`; None:
    no statistic in use is of local scores, or the log is of a version that did not write it."""


@dataclass(frozen=True, slots=True)
class Event:
    """A stretch of the run that is unlike the reference, or unlike how the run began: onset, course and place."""

    id: int
    """Count of events in the log, from 1."""
    kind: EventKind
    """"novel": outside the reference, nothing more is known. "transition": a cluster grows and stays, or the run
    differs lastingly from its own beginning. "exploded": numbers that no simulation should have, see `reason`."""
    onset_step: int
    """Step of the first check out of the run of checks that opened the event."""
    confirmed_step: int
    """Step at which patience was spent and the event opened."""
    last_step: int
    """Step of the last check out so far."""
    onset_time_ps: float | None
    """Time of the onset, ps."""
    onset_temperature_K: float | None
    """Kinetic temperature at the onset, K."""
    peak_excess: float
    """Largest `Check.trigger_excess`, nats."""
    peak_step: int
    """Step of the largest excess."""
    n_atoms: int
    """Atoms of the event at the peak: above their level; with labelled phases, in the cluster of the new phase;
    exploded: the offending ones."""
    atoms: tuple[int, ...]
    """Identities of the worst 1000 of these atoms: `atoms.arrays["id"]` where present, else indices."""
    size_history: tuple[tuple[int, int], ...]
    """(step, number of atoms) along the event, thinned to at most 128 pairs: atoms of the followed cluster, if
    `local_cluster` or `tail_cluster` is among the alarms or a phase grows; else atoms above their level."""
    centroid: tuple[float, float, float] | None
    """Mean position of the atoms of the event at the peak, Å, unwrapped around the first of them."""
    worst_atom: int | None
    """Identity of the atom of largest excess at the peak."""
    worst_element: str | None
    """Element of the worst atom."""
    nearest: NearestEnvironment | None
    """Reference environment nearest to the worst atom at the peak."""
    n_checks: int
    """Checks since the onset."""
    is_open: bool
    """Whether the event was still open when this was written."""
    alarms: tuple[str, ...] = ()
    """Statistics that were beyond their level so far: names of the fields of `Check`."""
    reason: str = ""
    """What makes it an event of this kind, in one line."""
    phase: str | None = None
    """The phase that grows, where phases are labelled."""
    cluster: int | None = None
    """Atoms of the followed cluster at the last check out."""
    environments: tuple[Environment, ...] = ()
    """Up to three of the worst atoms at the peak, each with the nearest environment that the reference knows."""
    onset_place: FramePlace | None = field(default=None, compare=False)
    """File and frame of the onset, where frames came from files; two frames of a run may have the same step. Log lines
    of live runs have none of the three places."""
    peak_place: FramePlace | None = field(default=None, compare=False)
    """File and frame of the peak."""
    last_place: FramePlace | None = field(default=None, compare=False)
    """File and frame of the last check out so far."""

    @property
    def is_cluster(self) -> bool:
        """Whether the sizes of the event are those of a cluster."""
        return self.phase is not None or (self.kind != "exploded" and has_cluster_alarm(self.alarms))

    def describe(self) -> str:
        """What happened, in lines of at most 80 characters: long names of files are cut, the record has them whole."""
        return describe_event(self)

    def to_line(self) -> dict[str, Any]:
        """The record as a log line."""
        line = {"type": "event"} | to_mapping(self)
        return {name: value for name, value in line.items() if value is not None or not name.endswith("_place")}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> "Event":
        """The record of a log line; raises as `Check.from_line` does."""
        return from_mapping(cls, {"alarms": ["dh_max"]} | dict(line))  # the first release did not write the alarms


def has_cluster_alarm(alarms: Collection[str]) -> bool:
    """Whether an alarm makes an event a cluster, and not atoms each of which is above its level."""
    return "local_cluster" in alarms or "tail_cluster" in alarms


def complete_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """A check line with the fields that the first release did not write: the largest dH was all that raised alarms."""
    alarms = ["dh_max"] if line["state"] == "out" else []
    return _DEFAULTS | {"alarms": alarms, "trigger_excess": line["excess"]} | dict(line)
