"""Check and Event: frozen records, and the log lines they become."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CHECK_FIELDS",
    "TEXT_FIELDS",
    "Check",
    "Environment",
    "Event",
    "NearestEnvironment",
    "complete_line",
    "environment_of",
    "nearest_of",
    "number",
    "plain",
]


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
    """Largest dH over atoms, nats; inf with an unknown element; None in "proven" mode when no atom is above."""
    dh_mean: float | None
    """Mean dH over atoms of known elements (in "proven" mode: of the fixed sample), nats."""
    dh_q99: float | None
    """99 % quantile of dH over the same atoms, nats."""
    n_above: int
    """Atoms above their level."""
    largest_cluster: int | None
    """Atoms in the largest connected cluster of atoms above their level."""
    frame_entropy: float | None
    """Self-entropy H of the frame's rows (in "proven" mode: of the fixed sample), nats."""
    excess: float
    """Largest dH - level over atoms, nats. NaN in an invalid frame."""
    worst_atom: int | None
    """Index of the atom of that excess."""
    worst_element: str | None
    """Its element."""
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
    """"out": a statistic in use is beyond its level. "invalid": non-finite numbers or no usable cell; not judged."""
    digest: str
    """Checksum of positions, cell and numbers."""
    elapsed_us: float
    """Wall time of the check, microseconds. The only field that may differ between equal runs."""
    n_tail: int | None = None
    """Atoms above the atom level, which a hundredth of the environments in distribution exceeds; None in "proven" mode
    unless a statistic in use needs it."""
    tail_cluster: int | None = None
    """Atoms in the largest connected cluster of those."""
    alarms: tuple[str, ...] = ()
    """Statistics in use that are beyond their level: names of the fields above."""
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
    """Atoms in the largest connected cluster of each of them."""
    explosion: str = ""
    """Why the frame counts as exploded, in a few words; empty: it does not."""
    confirm_excess: float | None = None
    """The trigger excess that a second reference gives, see `confirm` of `Monitor`; up to 0 it has called the alarms of
    the first off: `alarms` and `excesses` are after that. None: it was not asked, or could not answer."""
    delta_entropy: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    """(n_atoms,) dH per atom, nats; in "proven" mode NaN where only "not above" was proven. Not in the log."""
    above: NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)
    """(n_atoms,) whether the atom is above its level. Not in the log."""

    def to_line(self) -> dict[str, Any]:
        """The record as a log line."""
        return {"type": "check"} | {name: getattr(self, name) for name in CHECK_FIELDS}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> "Check":
        """The record of a log line, without the per-atom arrays."""
        line = complete_line(line)
        values = {name: number(name, line[name]) for name in CHECK_FIELDS} | {"alarms": tuple(line["alarms"])}
        return cls(**values | {"excesses": {name: number("excess", x) for name, x in line["excesses"].items()}})

    @classmethod
    def invalid(
        cls,
        *,
        step: int,
        frame: int,
        time_ps: float | None,
        n_atoms: int,
        n_unknown: int = 0,
        temperature_K: float | None = None,
        volume_per_atom: float | None = None,
        energy_per_atom: float | None = None,
        interval: int | None = None,
        digest: str = "",
        elapsed_us: float = 0.0,
    ) -> "Check":
        """The check of a frame that could not be judged: what is known without a judgement, nothing else."""
        return cls(
            step=step,
            frame=frame,
            time_ps=time_ps,
            n_atoms=n_atoms,
            dh_max=None,
            dh_mean=None,
            dh_q99=None,
            n_above=0,
            largest_cluster=None,
            frame_entropy=None,
            excess=math.nan,
            worst_atom=None,
            worst_element=None,
            n_unknown=n_unknown,
            temperature_K=temperature_K,
            volume_per_atom=volume_per_atom,
            energy_per_atom=energy_per_atom,
            interval=interval,
            state="invalid",
            digest=digest,
            elapsed_us=elapsed_us,
        )


#: The fields of a check that go to the log.
CHECK_FIELDS = tuple(f.name for f in fields(Check) if f.name not in ("delta_entropy", "above"))

TEXT_FIELDS = {
    "alarms", "state", "digest", "worst_element", "kind", "source", "explosion", "phase", "reason", "element",
    "phases", "phase_clusters", "excesses",
}  # fmt: skip


#: Atoms of an explosion that are named in words.
MOST_NAMED = 8


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
    """Its identity."""
    element: str
    """Its element."""
    delta_entropy: float
    """Its dH, nats."""
    coordination: int
    """Atoms within 1.3 times the reference's median nearest-neighbour distance of their elements."""
    nearest: NearestEnvironment | None
    """The reference environment nearest to its own."""


@dataclass(frozen=True, slots=True)
class Event:
    """A stretch of the run that is unlike the reference, or unlike how the run began: onset, course and place."""

    id: int
    """Count of events in the log, from 1."""
    kind: Literal["novel", "transition", "exploded"]
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
    """Step at which it was reached."""
    n_atoms: int
    """Atoms of the event at the peak: above their level; with labelled phases, in the cluster of the new phase;
    exploded: the offending ones."""
    atoms: tuple[int, ...]
    """Their identities: `atoms.arrays["id"]` where present, else indices; the worst 1000 of them."""
    size_history: tuple[tuple[int, int], ...]
    """(step, atoms) along the event, thinned to at most 128 pairs: those of the followed cluster, if `tail_cluster` is
    among the alarms or a phase grows; else those above their level."""
    centroid: tuple[float, float, float] | None
    """Mean position of these atoms at the peak, Å, unwrapped around the first of them."""
    worst_atom: int | None
    """Identity of the atom of largest excess at the peak."""
    worst_element: str | None
    """Its element."""
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
    """Up to three of its worst atoms at the peak, with what the reference knows that is nearest to them."""

    def to_line(self) -> dict[str, Any]:
        """The record as a log line."""
        return {"type": "event"} | plain({f.name: getattr(self, f.name) for f in fields(self)})

    @property
    def is_cluster(self) -> bool:
        """Whether its sizes are those of a cluster."""
        return self.phase is not None or (self.kind != "exploded" and "tail_cluster" in self.alarms)

    def describe(self) -> str:
        """What happened, in lines of at most 100 characters: long names of files are cut, the record has them whole."""
        lines = [f"event {self.id}: {self.kind}, {_steps(self.onset_step, self.last_step)}"]
        lines[0] += ", still open" if self.is_open else ""

        def add(name: str, text: str) -> None:
            first, rest = f"  {name:<9}", " " * 11
            lines.extend(textwrap.wrap(" ".join(text.split()), 100, initial_indent=first, subsequent_indent=rest))

        add("means", self._meaning())
        began = [f"step {self.onset_step}"]
        if self.onset_time_ps is not None:
            began.append(f"{self.onset_time_ps:.2f} ps")
        if self.onset_temperature_K is not None:
            began.append(f"{self.onset_temperature_K:.0f} K")
        add("began", f"{', '.join(began)}; confirmed at step {self.confirmed_step}")
        if self.kind == "exploded":
            if self.atoms:
                named = ", ".join(map(str, self.atoms[:MOST_NAMED])) + (", ..." if self.n_atoms > MOST_NAMED else "")
                which = "" if self.worst_atom is None else f"; the worst is {self.worst_atom} ({self.worst_element})"
                add("atoms", f"{self.n_atoms}: {named}{which}")
            return "\n".join(map(_printable, lines))
        if self.alarms:
            add("alarms", ", ".join(self.alarms))
        unit = " nats" if self.kind == "novel" and "dh_max" in self.alarms else ""
        beyond = f"{_short(self.peak_excess)}{unit} beyond the level"
        which = "above the level" if self.phase is None else f"in the cluster of {self.phase}"
        if self.phase is None and self.is_cluster:
            by_itself = {"dh_max", "dh_q99"} & set(self.alarms)
            which = "flagged" if by_itself else "in the cluster above the atom level"
        n_atoms = f"{_atoms(self.n_atoms)} {which}" if self.n_atoms else "no single atom is above the level"
        add("peak", f"step {self.peak_step}: {beyond}; {n_atoms}")
        sizes = [size for _, size in self.size_history]
        if len(sizes) > 1 and any(sizes):
            if self.phase is None and self.is_cluster:
                which = "in the cluster above the atom level"
            add("size", f"{_atoms(sizes[0])} {which} at the onset, at most {max(sizes)}, {sizes[-1]} at last")
        worst = [
            (f"atom {e.atom} ({e.element}): dH {_short(e.delta_entropy)}, {e.coordination} neighbours", e.nearest)
            for e in self.environments
        ]
        if not worst and self.worst_atom is not None:
            worst = [(f"atom {self.worst_atom} ({self.worst_element})", self.nearest)]
        for i, (atom, near) in enumerate(worst):
            lines += _with_nearest(f"{'' if i else '  worst':<11}{atom}; ", near)
        return "\n".join(map(_printable, lines))

    def _meaning(self) -> str:
        """What the kind says and what it does not, in a sentence."""
        if self.kind == "exploded":
            invalid = "non-finite numbers or no usable cell" if math.isnan(self.peak_excess) else ""
            return f"broken: {self.reason or invalid or 'numbers that no simulation should have'}"
        if self.kind == "novel":
            return self.reason or "outside the reference; whether the potential fails here is not known"
        if self.phase is not None:
            size = "" if self.cluster is None else f" to {_atoms(self.cluster)}"
            return self.reason or f"a cluster of {self.phase} grew{size}"
        what = self.reason or "the run differs from its own beginning"
        return f"{what}; which phase is not known, a change of temperature can look the same"

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> "Event":
        """The record of a log line."""
        # the first release did not write these
        line = {"alarms": ["dh_max"], "reason": "", "phase": None, "cluster": None, "environments": []} | dict(line)
        values = {f.name: number(f.name, line[f.name]) for f in fields(cls)}
        values["alarms"] = tuple(line["alarms"])
        values["atoms"] = tuple(line["atoms"])
        values["size_history"] = tuple((int(step), int(size)) for step, size in line["size_history"])
        if line["centroid"] is not None:
            values["centroid"] = tuple(number("centroid", x) for x in line["centroid"])
        values["nearest"] = nearest_of(line["nearest"])
        values["environments"] = tuple(environment_of(e) for e in line["environments"])
        return cls(**values)


def _steps(first: int, last: int) -> str:
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _atoms(count: int) -> str:
    return f"{count} atom{'s' * (count != 1)}"


def _short(value: float) -> str:
    return f"{value:.1f}" if not 1e6 <= abs(value) < math.inf else f"{value:.1e}"


def _printable(line: str) -> str:
    """A line of at most 100 characters that a terminal can show, whatever a file or phase is called."""
    return "".join(c if c.isprintable() else "?" for c in line[:100])


def _with_nearest(start: str, near: NearestEnvironment | None) -> list[str]:
    """The beginning of a line with the nearest known environment, which has its own line where that is too long."""
    if near is None:
        return [f"{start}an element that the reference has never seen"]
    start += f"{_short(near.distance)} bandwidths from"
    source = "known" if near.source == "memory" else near.source
    place = f" frame {near.frame} atom {near.atom}"
    if len(start) + 1 + len(source) + len(place) <= 100:
        return [f"{start} {source}{place}"]
    room = 100 - 13 - len(place)
    return [start, f"{'':<13}{source if len(source) <= room else '...' + source[3 - room :]}{place}"]


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the environments among them as mappings."""
    line = dict(values)
    for name, value in values.items():
        if isinstance(value, NearestEnvironment):
            line[name] = {f.name: getattr(value, f.name) for f in fields(value)}
    if "environments" in values:
        line["environments"] = [plain({f.name: getattr(e, f.name) for f in fields(e)}) for e in values["environments"]]
    return line


def environment_of(line: Mapping[str, Any]) -> Environment:
    """The record of a mapping."""
    values = {f.name: number(f.name, line[f.name]) for f in fields(Environment)}
    return Environment(**values | {"nearest": nearest_of(line["nearest"])})


def nearest_of(line: Mapping[str, Any] | None) -> NearestEnvironment | None:
    """The record of a mapping, None for None."""
    if line is None:
        return None
    return NearestEnvironment(**{f.name: number(f.name, line[f.name]) for f in fields(NearestEnvironment)})


def number(name: str, value: Any) -> Any:
    """The value of a field as it was before `_plain`."""
    if isinstance(value, str) and name not in TEXT_FIELDS and value in ("inf", "-inf", "nan"):
        return float(value)
    return value


def complete_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """A check line with the fields that the first release did not write: the largest dH was all that raised alarms."""
    alarms = ["dh_max"] if line["state"] == "out" else []
    return {
        "n_tail": None,
        "tail_cluster": None,
        "alarms": alarms,
        "trigger_excess": line["excess"],
        "excesses": {},
        "phases": None,
        "phase_clusters": None,
        "explosion": "",
        "confirm_excess": None,
    } | dict(line)
