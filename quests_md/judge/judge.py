"""One frame to one Check. Pure: the same frame, reference and levels give the same numbers, whatever came before."""

import copy
import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from quests_md._arguments import check_choice
from quests_md.calibration import (
    SEED,
    SKETCH_ROWS,
    STATISTICS,
    Calibration,
    FrameNumbers,
    Level,
    LocalScorer,
    Mode,
    shared_scorer,
)
from quests_md.environments import (
    MAX_COORDINATE,
    NOT_CROWDED,
    Descriptor,
    FrameFacts,
    PairDistances,
    bare,
    close_pairs,
    describe,
    describe_both,
    element_symbol,
    frame_facts,
    inner_descriptor,
    largest_cluster,
    nearest_allowed,
    show_room,
    wrapped_positions,
)
from quests_md.errors import FrameError, UnsuitableFrameError
from quests_md.records import AtomValues, Check
from quests_md.reference import AtomLevels, Reference, require_equal_settings

from .colder import ColderCopies
from .frame_kinds import FrameKind, KindsSeen
from .frame_phases import NO_PHASES, phases_of_frame
from .judged import Judged, Opinion, called_off, fields_of_excesses, opinion_of
from .modes import (
    DEAR,
    FIELDS,
    Environments,
    evaluate_full,
    evaluate_proven,
    evaluate_unknown,
    excess_of_atoms,
    mode_of,
    tail_of,
    with_local_scores,
)
from .on_device import device_of, is_on
from .phases import Phases
from .quiet import judged_there
from .shares import Crew, can_be_shared, shared_rows

__all__ = ["Judge", "Values"]

#: How frames are to be evaluated; "auto": in the mode that suits their size.
Values = Mode | Literal["auto"]

PS_PER_NS = 1000.0

NO_CENTERS = "the frame has no atom of the elements that are centers of environments"


@dataclass(slots=True, eq=False)
class _Cache:
    """What is made once of a reference, and what is known of the last kind of frame."""

    pair_distances: PairDistances
    colder: ColderCopies
    atom_levels: AtomLevels
    sketch: Reference | None = None
    scorer: LocalScorer | None = None
    kinds: KindsSeen = field(default_factory=KindsSeen)
    phase_levels: tuple[tuple[Any, ...], dict[str, Level]] | None = None

    def scorer_of(self, reference: Reference, calibration: Calibration) -> LocalScorer:
        """The scorer of a calibration with landmarks, made when it is first asked for."""
        if self.scorer is None:
            assert calibration.landmarks is not None
            self.scorer = shared_scorer(reference, calibration.landmarks)
        return self.scorer


class Asked(NamedTuple):
    """What a judge is asked for beside checks."""

    atoms: bool = False
    """Whether to tell dH and grade of every atom, whatever the mode."""
    crew: Crew | None = None
    """Processes that share frames out; None: all is found here."""


class Judge:
    """Judges single frames against a reference at the levels of a calibration.

    Parameters
    ----------
    reference, calibration
        What is known, and the levels. The calibration must belong to the reference.
    values
        "full": every dH exact. "proven": dH only where an atom is within `margin` of its level or above; mean, 99 %
        quantile and frame entropy then come from a fixed sample of atoms against a fixed sketch of the reference.
        "auto": full up to 5e7 pairs (2e6 and 8000 rows where only local scores are in use), else proven.
    release
        Nats below its level at which dH counts as back, see `Trigger`. "proven" gives the excess exactly down to minus
        this number (0.5 at least); a lower excess reads as minus this number.
    phases
        Labelled phases; the clusters of each product are a statistic of their own, ``phase:NAME``, at the rate of the
        calibration.
    checks, check_ps
        Checks per nanosecond or run, and the time between them in ps, for calibrations that count those.
    threads
        Threads to use; never changes the result.
    confirm
        Judge of another reference that is asked about frames with alarms by this judge: the alarms stand only if the
        other judge has alarms too.
    not_confirmed
        Statistics about whose alarms the other judge is not asked: a run with a baseline judges these by itself.
    """

    def __init__(
        self,
        reference: Reference,
        calibration: Calibration,
        *,
        values: Values = "auto",
        release: float = 0.5,
        phases: Phases | None = None,
        checks: int | None = None,
        check_ps: float | None = None,
        threads: int | None = None,
        confirm: "Judge | None" = None,
        not_confirmed: Collection[str] = (),
    ) -> None:
        check_choice("values", values, ("auto", "full", "proven"))
        calibration.require(reference)
        if phases is not None:
            require_equal_settings(reference.settings, phases.row_settings, "the reference", "the phases")
        self.reference = reference
        self.calibration = calibration
        self.phases = phases
        self.values = values
        self.release = release
        self.checks = checks
        self.check_ps = check_ps
        self.threads = threads
        self.confirm = confirm
        self.not_confirmed = frozenset(not_confirmed)
        self.asked = Asked()
        self._cache = _Cache(
            reference.pair_distances(), ColderCopies(reference, calibration), AtomLevels(reference, calibration)
        )

    @property
    def device(self) -> str | None:
        """Device on which frames are judged whose arrays are there; None: all are judged on the CPU."""
        return None if self.phases or self.asked.atoms else device_of(self.reference, self.calibration)

    @property
    def margin(self) -> float:
        """Nats below its level down to which dH of an atom is given in "proven" mode."""
        return max(self.release, 0.5)

    def for_interval(self, check_ps: float) -> Self:
        """The same judge for checks that are so many ps apart; a rate per ns is shared by as many as a ns then has."""
        other = copy.copy(self)
        other.check_ps, other.confirm = check_ps, self.confirm and self.confirm.for_interval(check_ps)
        if self.calibration.per == "ns":
            other.checks = max(1, math.ceil(PS_PER_NS / check_ps))
        return other

    def with_threads(self, threads: int) -> Self:
        """The same judge with so many threads."""
        other = copy.copy(self)
        other.threads, other.confirm = threads, self.confirm and self.confirm.with_threads(threads)
        return other

    def asked_for(self, **more: Any) -> Self:
        """The same judge, which is asked for more, see `Asked`."""
        other = copy.copy(self)
        other.asked = other.asked._replace(**more)
        return other

    def mode(self, n_atoms: int) -> Mode:
        """How a frame of this size is evaluated."""
        if self.values != "auto":
            return self.values
        return mode_of(n_atoms, self.reference.n_environments, is_plain=self.calibration.is_plain)

    def judge(
        self,
        atoms: Atoms,
        *,
        step: int,
        frame: int,
        time_ps: float | None = None,
        interval: int | None = None,
        averaged: Atoms | None = None,
    ) -> Judged:
        """Check one frame, which is not changed.

        Parameters
        ----------
        atoms
            The frame.
        step, frame
            Step of the host, and count of checks.
        time_ps, interval
            Simulated time in ps, and steps between checks, where these are known.
        averaged
            The same atoms without thermal noise; their environments are looked at in the place of the frame's.

        Raises
        ------
        UnsuitableFrameError
            If the reference's descriptor does not take such frames. Any other FrameError makes the check "invalid".
        """
        start = time.perf_counter()
        seen = atoms if averaged is None else averaged
        facts = frame_facts(atoms)
        mode = self.mode(len(atoms))
        kind = self._kind(atoms.numbers, mode)
        centers, numbers, is_all = kind.centers, kind.numbers, kind.is_all
        before = _before_judging(facts, kind, len(atoms)) | {"step": step, "frame": frame, "interval": interval}
        # to 1e-9 ps, so that it does not depend on how it was added up
        before["time_ps"] = None if time_ps is None else round(time_ps, 9)
        if averaged is None and (quiet := _judged_there(self, atoms, facts, kind, mode, before, start)) is not None:
            return quiet
        try:
            if len(atoms) == 0:
                raise FrameError("empty frame: it has no atoms")
            if len(centers) == 0:
                raise UnsuitableFrameError(NO_CENTERS)
            descriptor = self.reference.descriptor
            if not isinstance(descriptor, Descriptor):
                wrapped_positions(atoms)  # a descriptor of one's own may not look
            rows, of_neighbourhoods, is_roomy, crew = _described(self, atoms, seen, kind)
            moving, distances = bool(facts.fastest_K), self._cache.pair_distances
            crowded = NOT_CROWDED if is_roomy else close_pairs(atoms, distances, moving=moving)
        except UnsuitableFrameError:  # the reference is not for such frames: nothing has exploded
            raise
        except FrameError as exc:
            lost = np.flatnonzero(~(np.abs(atoms.positions) <= MAX_COORDINATE).all(axis=1))
            nothing = self._cache.atom_levels.values_of_lost(len(atoms)) if self.asked.atoms else None
            check = Check.invalid(**before, elapsed_us=(time.perf_counter() - start) * 1e6, atom_values=nothing)
            return Judged(check, None, str(exc), offenders=tuple(lost.tolist()))
        # atoms that are no centers have no dH and count in nothing, not in the size of the frame either
        levels = kind.levels
        environments = Environments(
            atoms=seen if is_all else bare(seen, centers),
            identities=facts.identities[centers],
            rows=rows if is_all else rows[centers],
            known=kind.known,
            levels=kind.dh_levels,
            atom_levels=kind.atom_levels,
            pair_distances=self._cache.pair_distances,
            averaged=of_neighbourhoods if is_all or of_neighbourhoods is None else of_neighbourhoods[centers],
            crew=crew,
        )
        found = self._evaluate(environments, mode)
        dh, local = found.dh, found.local
        # those with a field of their own are told as well: all of them where one is in use, else those that cost little
        in_use = self.calibration.statistics
        dear = () if self.calibration.is_plain else DEAR
        told = (name for name in STATISTICS if name in in_use or (name in FIELDS and name not in dear))
        values = {name: STATISTICS[name].of(found) for name in told}
        own: dict[str, Any] = {name: values.get(name) for name in STATISTICS if name in FIELDS}
        further = {name: values[name] for name in in_use if name not in own}
        # an element without a reference is out whatever the statistics
        judged = dict.fromkeys((*in_use, *(["dh_max"] if kind.n_unknown else [])))
        excesses = {name: STATISTICS[name].excess(found, values[name], levels, self.release) for name in judged}
        explosion = crowded.impossible or facts.not_finite
        # what the reference holds in motion is not strange at rest; values stay as they are
        asked = {} if explosion else excesses
        beside = self._cache.colder.judge(found, environments, asked, levels, self.release, self.threads)
        found, excesses = beside.found, excesses | beside.excesses
        excess = excess_of_atoms(found, self.calibration, levels)
        above = ~(excess <= 0)
        # a second judge may call alarms off, but not those of explosions and unknown elements
        opinion = Opinion()
        doubted = {name: value for name, value in excesses.items() if name not in self.not_confirmed}
        has_alarms = any(value > 0 for value in doubted.values())
        if self.confirm is not None and has_alarms and not explosion and not kind.n_unknown:
            opinion = opinion_of(partial(self.confirm.judge, atoms, step=step, frame=frame))
            excesses |= called_off(doubted, opinion)
        # labelled phases: the cluster of each product is a statistic of its own
        new = NO_PHASES
        if self.phases is not None:
            new = phases_of_frame(self.phases, self.phase_levels(len(centers)), seen, rows, self.release, self.threads)
            excesses |= new.excesses
        worst, tail = _worst(found, excess), tail_of(found, self.calibration)
        alarms = fields_of_excesses(excesses) | ({"state": "out"} if explosion else {})
        check = Check(
            **before,
            **own,
            **alarms,
            n_above=int(above.sum()),
            largest_cluster=largest_cluster(environments.atoms, above, self._cache.pair_distances),
            excess=float(excess.max()),
            worst_atom=None if worst is None else int(centers[worst]),
            worst_element=None if worst is None else element_symbol(int(numbers[worst])),
            phases=new.counts,
            phase_clusters=new.clusters,
            explosion=explosion,
            confirm_excess=opinion.excess,
            n_colder=beside.n_colder,
            further={name: value for name, value in further.items() if value is not None},
            elapsed_us=(time.perf_counter() - start) * 1e6,
            delta_entropy=_of_all(centers, dh, len(atoms), math.nan),
            above=_of_all(centers, above, len(atoms), False),
            local_score=None if local is None else _of_all(centers, local, len(atoms), math.nan),
            atom_values=_values_of_atoms(self._cache.atom_levels, self, crew, rows, atoms),
        )
        return Judged(
            check,
            rows,
            tail=None if tail is None else _of_all(centers, tail, len(atoms), False),
            offenders=facts.not_finite_atoms
            if facts.not_finite and not crowded.impossible
            else tuple(dict.fromkeys(crowded.atoms.ravel().tolist())),
            near=crowded.reason,
            fastest_K=facts.fastest_K,
            product=new.atoms,
            product_phase=new.name,
            unanswered=opinion.unanswered,
            unpromised=kind.unpromised,
            averaged=self.calibration.landmarks is None or self.calibration.landmarks.averaged,
        )

    def require_suitable(self, atoms: Atoms) -> None:
        """Raise UnsuitableFrameError if the reference is not for frames of these elements."""
        if len(atoms) and not self.reference.is_center(atoms.numbers).any():
            raise UnsuitableFrameError(NO_CENTERS)
        descriptor = inner_descriptor(self.reference.descriptor)
        if descriptor is not None:
            descriptor.require_elements(atoms.numbers)

    def frame_levels(self, numbers: NDArray[np.int64], mode: Mode | None = None) -> tuple[Level, ...]:
        """The levels for a frame of these centers."""
        mode = self.mode(len(numbers)) if mode is None else mode
        return self.calibration.frame_levels(numbers, self.checks, check_ps=self.check_ps, mode=mode)

    def phase_levels(self, n_atoms: int) -> dict[str, Level]:
        """The level of the largest cluster of each product in a frame of the parent phase."""
        phases = self.phases
        assert phases is not None
        key = (n_atoms, self.checks)
        known = self._cache.phase_levels
        if known is None or known[0] != key:
            count = self.calibration.n_sharing(self.checks)
            rate = self.calibration.false_alarms / len(phases.products)
            levels = {name: phases.cluster_level(name, n_atoms, rate, count) for name in phases.products}
            known = self._cache.phase_levels = key, levels
        return known[1]

    def promise(self, numbers: NDArray[np.int64]) -> str:
        """What the levels for a frame of these centers promise, in a few lines."""
        return self.calibration.describe(numbers, self.checks, check_ps=self.check_ps, mode=self.mode(len(numbers)))

    def _values_of_atoms(self, crew: Crew | None, rows: NDArray[np.float64], numbers: NDArray[np.int64]) -> AtomValues:
        levels = self._cache.atom_levels
        return levels.values(rows, numbers, self.threads) if crew is None else levels.values_by(crew.evaluate, numbers)

    def _kind(self, numbers: NDArray[np.int64], mode: Mode) -> FrameKind:
        distances = self._cache.pair_distances
        return self._cache.kinds.of(
            numbers,
            (mode, self.checks, self.check_ps),
            self.reference,
            self.calibration,
            partial(self.frame_levels, mode=mode),
            partial(nearest_allowed, pair_distances=distances),
        )

    def _evaluate(self, these: Environments, mode: Mode) -> FrameNumbers:
        calibration, cache = self.calibration, self._cache
        if mode == "full":
            found = evaluate_full(self.reference, these, self.threads, is_judged=calibration.is_plain)
        elif calibration.is_plain:
            if cache.sketch is None:
                cache.sketch = self.reference.sketch(SKETCH_ROWS, SEED)
            options: dict[str, Any] = {"margin": self.margin, "counts_tail": calibration.counts_tail}
            found = evaluate_proven(self.reference, cache.sketch, these, self.threads, **options)
        else:
            found = evaluate_unknown(these, self.margin)
        if not calibration.is_local or calibration.landmarks is None:
            return found
        scorer = cache.scorer_of(self.reference, calibration)
        return with_local_scores(found, these, scorer, calibration.landmarks.tail_level, self.threads)


def _judged_there(
    judge: Judge, frame: Atoms, facts: FrameFacts, kind: FrameKind, mode: Mode, before: dict[str, Any], start: float
) -> Judged | None:
    """A frame on a device judged there; None: it is to be judged on the CPU."""
    if not (kind.is_all and not kind.n_unknown and is_on(judge.device, frame)):
        return None
    cache, known = judge._cache, (judge.reference, judge.calibration)
    of = *known, cache.scorer_of(*known), cache.pair_distances
    how = judge.release, judge.margin, judge.threads
    return judged_there(frame, facts, kind, mode, before, start, of, how)


def _before_judging(facts: FrameFacts, kind: FrameKind, n_atoms: int) -> dict[str, Any]:
    """What is known of a frame before it is judged: fields of a check."""
    return {
        "n_atoms": n_atoms,
        "n_unknown": kind.n_unknown,
        "temperature_K": facts.temperature_K,
        "volume_per_atom": facts.volume_per_atom,
        "energy_per_atom": facts.energy_per_atom,
        "digest": facts.digest,
    }


def _described(
    judge: Judge, atoms: Atoms, seen: Atoms, kind: FrameKind
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, bool, Crew | None]:
    """Rows of a frame, those of which local scores are made, where a statistic in use needs them, whether all atoms
    have room, and who has the rows.
    """
    reference, calibration, crew = judge.reference, judge.calibration, judge.asked.crew
    descriptor, landmarks = reference.descriptor, calibration.landmarks
    if crew is not None and seen is atoms and can_be_shared(reference, atoms.numbers):
        known = crew, reference, calibration
        return *shared_rows(*known, atoms, kind.nearest_allowed, judge.threads), crew
    if calibration.is_local and landmarks is not None and landmarks.averaged:
        rows, averaged = describe_both(descriptor, seen, judge.threads)
    else:
        rows = describe(descriptor, seen, judge.threads)
        averaged = rows if calibration.is_local else None
    # most frames show by their rows that no atoms are too near; then nothing is searched for
    return rows, averaged, seen is atoms and show_room(descriptor, rows, kind.nearest_allowed), None


def _values_of_atoms(
    levels: AtomLevels, judge: Judge, crew: Crew | None, rows: NDArray[np.float64], atoms: Atoms
) -> AtomValues | None:
    if not judge.asked.atoms:
        return None
    if crew is not None:
        return levels.values_by(crew.evaluate, atoms.numbers)
    return levels.values(rows, atoms.numbers, judge.threads)


def _worst(found: FrameNumbers, excess: NDArray[np.float64]) -> int | None:
    """Place of the environment that is farthest beyond its level; None: all are below by a proof."""
    known = np.flatnonzero(~np.isnan(found.dh)) if excess is found.excess else np.arange(len(excess))
    return int(known[np.argmax(excess[known])]) if len(known) else None


def _of_all(where: NDArray[np.int64], values: NDArray[Any], n_atoms: int, other: Any) -> NDArray[Any]:
    """(n_atoms,) values of the atoms at `where`, and `other` for all others."""
    if len(where) == n_atoms:
        return values
    out = np.full(n_atoms, other, dtype=values.dtype)
    out[where] = values
    return out
