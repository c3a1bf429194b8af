"""What a check found beyond its numbers: what events are made of.

Live, the findings are computed from the frame, and each answer is kept in the `state` line of the log. When a run is
taken up again, the same answers are read back from that line, and the code that follows events cannot tell them apart::

    frame  --FrameFindings-->   answers --EventFollower--> events
                                   | `used`
                                   v
                            state line of the log
                                   |
    replay --LoggedFindings-->  answers --EventFollower--> the same events
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from numpy.typing import NDArray

from quests_md._json import from_mapping, to_mapping
from quests_md._words import many
from quests_md.calibration import BASELINE_STATISTICS, STATISTICS, TAIL_SHARE
from quests_md.environments import clusters, coordination, identities
from quests_md.judge import Judged
from quests_md.records import Environment, EventKind, NearestEnvironment, has_cluster_alarm
from quests_md.reference import Reference, unknown_elements

from .cluster_tracker import ClusterTracker

__all__ = ["Findings", "FrameFindings", "LoggedFindings", "Peak"]

#: Most atoms an event names.
MOST_ATOMS = 1000

#: Atoms of an event whose environments are described.
EXPLAINED = 3


@dataclass(frozen=True, slots=True)
class Peak:
    """The worst check of an event so far and the atoms that made it: fields as in `Event`."""

    peak_excess: float
    peak_step: int
    n_atoms: int
    atoms: tuple[int, ...]
    centroid: tuple[float, float, float] | None
    worst_atom: int | None
    worst_element: str | None
    nearest: NearestEnvironment | None
    environments: tuple[Environment, ...]


@dataclass(slots=True)
class FrameFindings:
    """Findings computed from a frame when first asked for; `used` keeps each answer for the log."""

    judged: Judged
    atoms: Atoms
    reference: Reference
    is_outside: bool
    """Whether the frame has left the reference, as the reference judges it."""
    used: dict[str, Any] = field(default_factory=dict)
    """The answers given so far, in plain types: the state line of the log."""

    def changed(self, channel: EventKind, state: str) -> None:
        """Keep that the trigger of a channel has changed its state."""
        self.used.setdefault("trigger", {})[channel] = state

    def reason(self, channel: EventKind) -> tuple[str, str | None]:
        """Why an event is open, where the check's numbers do not say it, and the phase that grows."""
        judged, check = self.judged, self.judged.check
        reason, phase = judged.reason or check.explosion if channel == "exploded" else "", None
        if channel == "novel":
            said = [self._unknown(), self._of_neighbourhoods()]
            said.append(judged.unpromised and f"no rate of false alarms was promised: {judged.unpromised}")
            reason = "; ".join(filter(None, said))
            if not reason:  # the log holds reasons alone
                return reason, phase
        if channel == "transition":
            phase = judged.product_phase
            if phase is not None and check.excesses.get(f"phase:{phase}", -math.inf) > 0:
                reason = f"a connected cluster of {phase} is larger than any that the parent phase has by itself"
                if self.is_outside:
                    reason += "; the frame leaves the reference too, so this may be the nearest name for something else"
            else:
                phase = None
                changed = [name for name in check.alarms if name.removesuffix("_drift") in BASELINE_STATISTICS]
                reason = f"unlike the run's own beginning: {', '.join(changed)}{self._where(changed)}"
                reason += "; which phase is not known"
        self.used.setdefault("reason", {})[channel] = [reason, phase]
        return reason, phase

    def size(self, channel: EventKind) -> tuple[int, int]:
        """Atoms of an event, and how many its clusters could have, less those that thermal motion gives."""
        judged = self.judged
        if self._is_of_phase(channel):
            size = of_all = (judged.check.phase_clusters or {}).get(judged.product_phase or "", 0)
        else:
            n_tail = 0 if judged.tail is None else int(judged.tail.sum())
            size = int(self._flagged(channel).sum())
            of_all = max(0, n_tail - math.ceil(2 * TAIL_SHARE * len(self.atoms)))
        self.used.setdefault("sizes", {})[channel] = [size, of_all]
        return size, of_all

    def stayed(self, channel: EventKind, atoms: NDArray[np.uint64]) -> tuple[int, int, int, int] | None:
        """How many of these atoms are above the local level, of how many; the same of all atoms. None: not known."""
        judged, n = self.judged, len(atoms)
        if judged.tail is None or judged.check.local_score is None or not n:
            return None
        here = judged.tail[np.isin(identities(self.atoms), atoms)]
        n_centers = int(self.reference.is_center(self.atoms.numbers).sum())
        stayed = int(here.sum()), n, int(judged.tail.sum()), n_centers
        self.used.setdefault("stayed", {})[channel] = list(stayed)
        return stayed

    def track(self, channel: EventKind, tracker: ClusterTracker) -> None:
        """Let the tracker see the clusters of the frame that concern an event."""
        tail = self.judged.tail
        chosen = self._chosen(channel) if self._is_of_phase(channel) or tail is None else tail
        names = identities(self.atoms)
        found = clusters(self.atoms, chosen, self.reference.pair_distances())
        tracker.update(self.judged.check.step, [names[cluster] for cluster in found])
        self.used.setdefault("tracks", {})[channel] = tracker.state()

    def peak(self, channel: EventKind, excess: float) -> Peak:
        """The frame as the peak of an event."""
        check, frame = self.judged.check, self.atoms
        chosen = np.flatnonzero(self._chosen(channel))
        if self._is_of_phase(channel):
            found = clusters(frame, self._chosen(channel), self.reference.pair_distances())
            chosen = found[0] if found else chosen
        elif check.delta_entropy is not None:
            chosen = chosen[np.argsort(-self._novelty(chosen), kind="stable")]
        n_atoms, chosen = len(chosen), chosen[:MOST_ATOMS]
        names = identities(frame).astype(np.int64)
        worst = check.worst_atom if channel != "exploded" else int(chosen[0]) if n_atoms else None
        explained = chosen[:EXPLAINED] if channel == "novel" else chosen[:0]
        # together: of a large reference each question is a pass over all rows
        nearest = self._nearest(np.union1d(explained, [] if worst is None else [worst]).astype(np.int64))
        environments = self._explained(explained, nearest)
        peak = Peak(
            peak_excess=excess,
            peak_step=check.step,
            n_atoms=n_atoms,
            atoms=tuple(int(i) for i in np.sort(names[chosen])),
            centroid=_centroid(frame, chosen),
            worst_atom=None if worst is None else int(names[worst]),
            worst_element=None if worst is None else str(frame.symbols[worst]),
            nearest=None if worst is None else nearest.get(worst),
            environments=environments,
        )
        self.used.setdefault("peaks", {})[channel] = to_mapping(peak)
        return peak

    def _flagged(self, channel: EventKind) -> NDArray[np.bool_]:
        """(n_atoms,) atoms that by themselves are of an event of this channel."""
        judged, chosen = self.judged, np.zeros(len(self.atoms), dtype=bool)
        if channel == "exploded":
            chosen[list(judged.offenders)] = True
        elif channel == "transition" and judged.product is not None:
            chosen |= judged.product
        elif judged.check.above is not None:
            chosen |= judged.check.above
        return chosen

    def _chosen(self, channel: EventKind) -> NDArray[np.bool_]:
        """(n_atoms,) atoms of an event of this channel: where none is flagged by itself those of its cluster."""
        chosen, tail = self._flagged(channel), self.judged.tail
        if chosen.any() or tail is None or channel == "exploded" or self._is_of_phase(channel):
            return chosen
        if has_cluster_alarm(self.judged.check.alarms) and tail.any():  # statistics of both scales: it may be empty
            chosen[clusters(self.atoms, tail, self.reference.pair_distances())[0]] = True
        return chosen

    def _where(self, alarms: Sequence[str]) -> str:
        """On which scale local scores have changed, and where most; empty: none has, or no atom is above its level."""
        tail = self.judged.tail
        is_local = any(STATISTICS[name.removesuffix("_drift")].scale == "averaged" for name in alarms)
        if not is_local or tail is None or not tail.any():
            return ""
        cluster = clusters(self.atoms, tail, self.reference.pair_distances())[0]
        atoms = f"{many(len(cluster), 'connected atom')} above the local level"
        return f"; {self._scale()}, most strange{self._around(cluster)}: {atoms}"

    def _around(self, cluster: NDArray[np.int64]) -> str:
        """Where the middle of a cluster is, in words; empty where it cannot be told."""
        place = _centroid(self.atoms, cluster)
        return "" if place is None else f" around ({', '.join(f'{x:.1f}' for x in place)}) Å"

    def _scale(self) -> str:
        """What local scores are of."""
        if not self.judged.averaged:
            return "environments"
        return f"neighbourhoods (each atom averaged with its {self.reference.settings.get('average', 12)} nearest)"

    def _unknown(self) -> str:
        """Which elements the reference has never seen, in words; empty: none that is judged."""
        if not self.judged.check.n_unknown:
            return ""
        unknown = unknown_elements(self.reference, self.atoms)
        named = ", ".join(f"{symbol} ({many(n, 'atom')})" for symbol, n in unknown.items())
        return f"{named}: not in the reference, so above every level"

    def _of_neighbourhoods(self) -> str:
        """Which local scores make the check an alarm, and where, in words; empty: none does."""
        check, tail, names = self.judged.check, self.judged.tail, identities(self.atoms)
        values = {name: check.statistic(name) for name in check.alarms}
        known = {name: value for name, value in values.items() if value is not None}
        said = []
        if "local_cluster" in known and tail is not None and tail.any():
            around = self._around(clusters(self.atoms, tail, self.reference.pair_distances())[0])
            said.append(f"{many(round(known['local_cluster']), 'connected atom')} above the local level{around}")
        if "local_tail" in known:
            said.append(f"{many(round(known['local_tail']), 'atom')} above the local level")
        if "local_max" in known and check.worst_atom is not None:
            which = f"atom {names[check.worst_atom]} ({check.worst_element})"
            said.append(f"{which} is {known['local_max']:.1f} deviations beyond what is usual there")
        if "local_mean" in known:
            said.append(f"the mean over all atoms is {known['local_mean']:.2f} deviations")
        if not said:
            return ""
        return f"{self._scale()} unlike those known: {'; '.join(said)}"

    def _is_of_phase(self, channel: EventKind) -> bool:
        return channel == "transition" and self.judged.product is not None

    def _nearest(self, these: NDArray[np.int64]) -> dict[int, NearestEnvironment | None]:
        """The nearest environments of some atoms, by atom; empty where there are no rows."""
        rows = self.judged.rows
        if rows is None or not len(these):
            return {}
        found = self.reference.nearest(rows[these], numbers=self.atoms.numbers[these], threads=1)
        return {int(atom): self.reference.describe_nearest(found, i) for i, atom in enumerate(these)}

    def _delta_entropy(self, these: NDArray[np.int64], *, float64: bool = False) -> NDArray[np.float64]:
        """DH of some atoms, whatever the mode of evaluation; with `float64` no search structure is built for it."""
        known, rows = self.judged.check.delta_entropy, self.judged.rows
        dh = np.full(len(these), math.nan) if known is None else known[these].copy()
        unknown = np.isnan(dh)
        if unknown.any() and rows is not None:
            at = these[unknown]
            numbers = self.atoms.numbers[at]
            dh[unknown] = self.reference.delta_entropy(rows[at], numbers=numbers, float64=float64, threads=1)
        return dh

    def _novelty(self, these: NDArray[np.int64]) -> NDArray[np.float64]:
        """What ranks the atoms of an event: local scores where levels of these flag atoms, else dH."""
        check = self.judged.check
        if check.local_score is None or "dh_max" in check.excesses:
            return self._delta_entropy(these)
        return np.nan_to_num(check.local_score[these], nan=np.inf)

    def _explained(
        self, worst: NDArray[np.int64], nearest: Mapping[int, NearestEnvironment | None]
    ) -> tuple[Environment, ...]:
        if self.judged.rows is None or not len(worst) or self.judged.check.delta_entropy is None:
            return ()
        dh, scores = self._delta_entropy(worst, float64=True), self.judged.check.local_score
        names, pairs = identities(self.atoms), self.reference.pair_distances()
        return tuple(
            Environment(
                atom=int(names[i]),
                element=str(self.atoms.symbols[i]),
                delta_entropy=float(dh[n]),
                coordination=coordination(self.atoms, int(i), pairs),
                nearest=nearest[int(i)],
                local_score=None if scores is None or np.isnan(scores[i]) else float(scores[i]),
            )
            for n, i in enumerate(worst)
        )


@dataclass(frozen=True, slots=True)
class LoggedFindings:
    """Findings read back from the state line of a log."""

    found: Mapping[str, Any]

    def changed(self, channel: EventKind, state: str) -> None:
        """As in `FrameFindings`."""

    def reason(self, channel: EventKind) -> tuple[str, str | None]:
        """As in `FrameFindings`."""
        reason, phase = self.found.get("reason", {}).get(channel, ("", None))
        return reason, phase

    def size(self, channel: EventKind) -> tuple[int, int]:
        """As in `FrameFindings`."""
        size, of_all = self.found["sizes"][channel]
        return int(size), int(of_all)

    def stayed(self, channel: EventKind, atoms: NDArray[np.uint64]) -> tuple[int, int, int, int] | None:
        """As in `FrameFindings`; logs of versions before this was asked do not have it."""
        found = self.found.get("stayed", {}).get(channel)
        return None if found is None else tuple(found)

    def track(self, channel: EventKind, tracker: ClusterTracker) -> None:
        """As in `FrameFindings`."""
        tracker.restore(self.found["tracks"][channel])

    def peak(self, channel: EventKind, excess: float) -> Peak:
        """As in `FrameFindings`."""
        return from_mapping(Peak, self.found["peaks"][channel])


#: What a check found beyond its numbers, from either source.
Findings = FrameFindings | LoggedFindings


def _centroid(frame: Atoms, chosen: NDArray[np.int64]) -> tuple[float, float, float] | None:
    """Mean position of the chosen atoms, each at its image nearest to the first."""
    if len(chosen) == 0 or not np.isfinite(frame.positions[chosen]).all():
        return None
    origin = frame.positions[chosen[0]]
    shifts, _ = find_mic(frame.positions[chosen] - origin, frame.cell, frame.pbc)
    x, y, z = (float(v) for v in origin + np.asarray(shifts).mean(axis=0))
    return (x, y, z) if all(map(math.isfinite, (x, y, z))) else None
