"""One frame to one Check. Pure: the same frame, reference and levels give the same numbers, whatever came before."""

import hashlib
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from quests_md.calibration import (
    SEED,
    SKETCH_ROWS,
    Calibration,
    Level,
    as_released,
    frame_entropy,
    mean_and_quantile,
    sample,
)
from quests_md.environments import (
    MAX_COORDINATE,
    Descriptor,
    close_pairs,
    describe,
    identities,
    largest_cluster,
    wrapped_positions,
)
from quests_md.errors import FrameError, UnsuitableFrameError
from quests_md.records import Check
from quests_md.reference import Reference, require_equal_settings

from .phases import Phases

__all__ = ["FULL_LIMIT", "Judge", "Judged", "Values", "cached_energy", "frame_digest"]

Values = Literal["auto", "full", "proven"]

#: values="auto" evaluates every atom up to this many pairs of an atom and a reference row (or another atom).
FULL_LIMIT = 5e7


@dataclass(frozen=True, slots=True, eq=False)
class _Environments:
    """The environments of a frame with the levels that apply to them."""

    rows: NDArray[np.float64]
    numbers: NDArray[np.int64]
    levels: NDArray[np.float64]
    atom_levels: NDArray[np.float64]
    known: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judged:
    """A check with what went into it."""

    check: Check
    rows: NDArray[np.float64] | None
    """(n_atoms, width) descriptor rows; None for an invalid frame."""
    reason: str = ""
    """Why the frame is invalid."""
    tail: NDArray[np.bool_] | None = None
    """(n_atoms,) atoms above the atom level; None where no statistic in use counts them."""
    offenders: tuple[int, ...] = ()
    """Atoms that make the frame an explosion, the worst first."""
    product: NDArray[np.bool_] | None = None
    """(n_atoms,) atoms that look like the new phase with the largest cluster; None without labelled phases."""
    product_phase: str | None = None
    """That phase."""
    unanswered: str = ""
    """Why the second reference could not answer; the alarms of the first then stand."""

    def with_excesses(self, changed: Mapping[str, float | None]) -> "Judged":
        """The same check with other excesses of some statistics; None: not in use."""
        merged = {name: value for name, value in {**self.check.excesses, **changed}.items() if value is not None}
        return replace(self, check=replace(self.check, **_verdict(merged)))


class Judge:
    """Judges single frames against a reference at the levels of a calibration.

    Parameters
    ----------
    reference, calibration
        What is known, and the levels. The calibration must belong to the reference.
    values
        "full": every dH exact. "proven": dH only where an atom is within `margin` of its level or above; mean, 99 %
        quantile and frame entropy then come from a fixed sample of atoms against a fixed sketch of the reference.
        "auto": full up to 5e7 pairs, else proven.
    release
        Nats below its level at which dH counts as back, see `Trigger`; "proven" gives the excess exactly down to there
        (0.5 at least), lower ones read as minus that.
    phases
        Labelled phases; the clusters of each product are a statistic of their own, ``phase:NAME``, at the rate of the
        calibration.
    checks, check_ps
        Checks per nanosecond or run, and the time between them in ps, for calibrations that count those.
    threads
        Threads to use; never changes the result.
    confirm
        Judge of another reference that is asked about frames with alarms by this one: they stand only if that one has
        any too.
    not_confirmed
        Statistics about whose alarms it is not asked: a run with a baseline judges these by itself.
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
        if values not in ("auto", "full", "proven"):
            raise ValueError(f"values: expected 'auto', 'full' or 'proven', got {values!r}")
        calibration.require(reference)
        if phases is not None:
            require_equal_settings(reference.settings, phases.row_settings, "the reference", "the phases")
        self.reference = reference
        self.calibration = calibration
        self.phases = phases
        self.values = values
        self.release = release
        self.margin = max(release, 0.5)
        self.checks = checks
        self.check_ps = check_ps
        self.threads = threads
        self.confirm = confirm
        self.not_confirmed = frozenset(not_confirmed)
        self._pair_distances = reference.pair_distances()
        self._sketch: Reference | None = None
        self._levels: tuple[tuple[Any, ...], tuple[Level, ...]] | None = None
        self._phase_levels: tuple[tuple[Any, ...], dict[str, Level]] | None = None

    def for_interval(self, check_ps: float) -> "Judge":
        """TEMPORARY."""
        self.set_interval(check_ps)
        return self

    def with_threads(self, threads: int) -> "Judge":
        """TEMPORARY."""
        self.set_threads(threads)
        return self

    def set_interval(self, check_ps: float) -> None:
        """Say how many ps are between checks; those in a nanosecond follow where the rate counts them."""
        self.check_ps = check_ps
        if self.calibration.per == "ns":
            self.checks = max(1, math.ceil(1000 / check_ps))
        if self.confirm is not None:
            self.confirm.set_interval(check_ps)

    def set_threads(self, threads: int) -> None:
        """Set the threads to use."""
        self.threads = threads
        if self.confirm is not None:
            self.confirm.set_threads(threads)

    def mode(self, n_atoms: int) -> Literal["full", "proven"]:
        """How a frame of this size is evaluated."""
        if self.values != "auto":
            return self.values
        return "full" if n_atoms * max(self.reference.n_environments, n_atoms) <= FULL_LIMIT else "proven"

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
        """Check one frame, which is not changed; `averaged`: the same atoms without thermal noise, to be looked at.

        Raises
        ------
        UnsuitableFrameError
            If the reference's descriptor does not take such frames. Any other FrameError makes the check "invalid".
        """
        start = time.perf_counter()
        n_atoms = len(atoms)
        numbers = np.asarray(atoms.numbers)
        centers = self.reference.is_center(numbers)
        known = self.reference.is_known(numbers)
        host: dict[str, Any] = {
            "step": step,
            "frame": frame,
            # to 1e-9 ps, so that it does not depend on how it was added up
            "time_ps": None if time_ps is None else round(time_ps, 9),
            "n_atoms": n_atoms,
            "n_unknown": int((centers & ~known).sum()),
            "temperature_K": _temperature(atoms),
            "volume_per_atom": _volume_per_atom(atoms),
            "energy_per_atom": cached_energy(atoms),
            "interval": interval,
            "digest": frame_digest(atoms),
        }
        seen = atoms if averaged is None else averaged
        try:
            if n_atoms == 0:
                raise FrameError("the frame has no atoms")
            if not centers.any():
                raise FrameError("the frame has no atom of the elements that are centers of environments")
            if not isinstance(self.reference.descriptor, Descriptor):
                wrapped_positions(atoms)  # a descriptor of one's own may not look
            rows = describe(self.reference.descriptor, seen, self.threads)
            crowded = close_pairs(atoms, self._pair_distances)
        except UnsuitableFrameError:  # the reference is not for such frames: nothing has exploded
            raise
        except FrameError as exc:
            lost = np.flatnonzero(~(np.abs(atoms.positions) <= MAX_COORDINATE).all(axis=1))
            invalid = Check.invalid(**host, elapsed_us=(time.perf_counter() - start) * 1e6)
            return Judged(invalid, None, str(exc), offenders=tuple(lost.tolist()))
        # atoms that are no centers have no dH and count in nothing, not in the size of the frame either
        mode = self.mode(n_atoms)
        frame_levels = self.frame_levels(numbers[centers], mode)
        levels = np.full(n_atoms, math.nan)
        levels[centers] = self.calibration.dh_levels(frame_levels, numbers[centers])
        dh, above, tail = np.full(n_atoms, math.nan), np.zeros(n_atoms, dtype=bool), np.zeros(n_atoms, dtype=bool)
        judged = _Environments(
            rows[centers],
            numbers[centers],
            levels[centers],
            self.calibration.atom_level(numbers[centers]),
            known[centers],
        )
        evaluate = self._full if mode == "full" else partial(self._proven, identities(atoms)[centers])
        dh[centers], above[centers], tail[centers], found = evaluate(judged)
        excess = np.where(centers, np.inf, math.nan)  # inf for an unknown element where the level itself is inf
        excess[known] = dh[known] - levels[known]
        worst = int(np.nanargmax(excess)) if not np.isnan(excess).all() else None
        found["excess"] = float(excess[worst]) if worst is not None else -self.margin
        counts_tail = mode == "full" or self._counts_tail()
        if counts_tail:
            found["n_tail"] = int(tail.sum())
            found["tail_cluster"] = largest_cluster(seen, tail, self._pair_distances)
        else:
            found["n_tail"] = found["tail_cluster"] = None
        # an element without a reference is out whatever the statistics
        in_use = dict.fromkeys((*self.calibration.statistics, *(["dh_max"] if host["n_unknown"] else [])))
        excesses = {name: self._excess(name, frame_levels, found, int(centers.sum())) for name in in_use}
        broken, reason = _not_finite(atoms)
        explosion = crowded.reason or reason
        unanswered = ""
        doubted = {name: value for name, value in excesses.items() if name not in self.not_confirmed}
        has_alarms = max(doubted.values(), default=-math.inf) > 0
        if self.confirm is not None and has_alarms and not explosion and not host["n_unknown"]:
            host["confirm_excess"], unanswered = self.confirm.answer(atoms, step=step, frame=frame)
            if not unanswered:
                excesses |= _called_off(doubted, host["confirm_excess"])
        product, of_product, phases = None, None, self.phases
        if phases is not None:
            labels = phases.assign(seen, rows, threads=self.threads)
            host["phases"] = {name: int((labels == i).sum()) for i, name in enumerate(phases.names)}
            host["phase_clusters"] = phases.clusters(seen, labels)
            own = {
                name: _count_excess(host["phase_clusters"][name], level, self.release)
                for name, level in self.phase_levels(int(centers.sum())).items()
            }
            product = max(own, key=lambda name: own[name])
            of_product = labels == phases.names.index(product)
            excesses |= {f"phase:{name}": excess for name, excess in own.items()}
        check = Check(
            **host,
            **found,
            n_above=int(above.sum()),
            largest_cluster=largest_cluster(seen, above, self._pair_distances),
            worst_atom=worst,
            worst_element=None if worst is None else _symbol(int(numbers[worst])),
            **_verdict(excesses) | ({"state": "out"} if explosion else {}),
            explosion=explosion,
            elapsed_us=(time.perf_counter() - start) * 1e6,
            delta_entropy=dh,
            above=above,
        )
        return Judged(
            check,
            rows,
            tail=tail if self._counts_tail() else None,
            offenders=tuple(dict.fromkeys(crowded.atoms.ravel().tolist())) or broken,
            product=of_product,
            product_phase=product,
            unanswered=unanswered,
        )

    def answer(self, atoms: Atoms, *, step: int, frame: int) -> tuple[float | None, str]:
        """The trigger excess of a frame for another judge (inf: it has exploded), or why there is none."""
        try:
            judged = self.judge(atoms, step=step, frame=frame)
        except Exception as exc:  # a calculator may raise anything, and the frame is worth an alarm as it is
            return None, f"{type(exc).__name__}: {exc}"
        check = judged.check
        if check.state == "invalid":
            return None, judged.reason
        if check.explosion:
            return math.inf, ""
        if check.trigger_excess == -math.inf:
            return None, f"none of its statistics has a level for a frame of {check.n_atoms} atoms"
        return check.trigger_excess, ""

    def frame_levels(
        self, numbers: NDArray[np.int64], mode: Literal["full", "proven"] | None = None
    ) -> tuple[Level, ...]:
        """The levels for a frame of these centers."""
        mode = self.mode(len(numbers)) if mode is None else mode
        key = (mode, self.checks, self.check_ps, np.sort(numbers).tobytes())
        if self._levels is None or self._levels[0] != key:
            levels = self.calibration.frame_levels(numbers, self.checks, check_ps=self.check_ps, mode=mode)
            self._levels = key, levels
        return self._levels[1]

    def phase_levels(self, n_atoms: int) -> dict[str, Level]:
        """The level of the largest cluster of each product in a frame of the parent phase."""
        assert self.phases is not None
        key = (n_atoms, self.checks)
        if self._phase_levels is None or self._phase_levels[0] != key:
            count = 1 if self.calibration.per == "check" else self.checks or self.calibration.checks or 1
            rate = self.calibration.false_alarms / len(self.phases.products)
            names = self.phases.products
            levels = {name: self.phases.cluster_level(name, n_atoms, rate, count) for name in names}
            self._phase_levels = key, levels
        return self._phase_levels[1]

    def promise(self, numbers: NDArray[np.int64]) -> str:
        """What the levels for a frame of these centers promise, in a few lines."""
        return self.calibration.describe(numbers, self.checks, check_ps=self.check_ps, mode=self.mode(len(numbers)))

    def delta_entropy(self, rows: NDArray[np.float64], atoms: Atoms) -> NDArray[np.float64]:
        """DH of every atom, whatever the mode; NaN for atoms that are no centers."""
        return self.reference.delta_entropy(rows, numbers=atoms.numbers, threads=self.threads)

    def _excess(self, name: str, levels: tuple[Level, ...], found: dict[str, Any], n_atoms: int) -> float:
        """How far a statistic is beyond its level: above 0 exactly if it is, in nats (counts: log of the ratio).

        Other statistics than the largest dH may lie less than `release` nats below their level in distribution, so that
        an event by them would never end: below the level they count from half of the way to their median as released.
        """
        if name == "dh_max":
            return float(found["excess"])
        worst = -math.inf
        for level in levels:
            value = found[name]
            if level.statistic != name or value is None:
                continue
            if name in ("n_tail", "tail_cluster"):
                excess = _count_excess(value, level, self.release, n_atoms if name == "n_tail" else 1)
            else:
                sign = 1.0 if level.side == "above" else -1.0
                beyond, gap = sign * (value - level.value), sign * (level.value - level.middle)
                excess = as_released(beyond, gap, self.release)  # entropies may all be log N: no way to the median
            worst = max(worst, excess)
        return worst

    def _full(
        self, these: "_Environments"
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """DH of each environment, whether it is above its level and above the atom level, and the averages."""
        known = these.known
        levels = these.levels, these.atom_levels
        dh = self.reference.evaluate(these.rows, these.numbers, levels=levels, threads=self.threads)
        mean, q99 = mean_and_quantile(dh[known])
        h = frame_entropy(these.rows, self.reference.bandwidth, self.threads)
        found = {"dh_max": float(dh.max()), "dh_mean": mean, "dh_q99": q99, "frame_entropy": h}
        return dh, ~(known & (dh <= these.levels)), ~(known & (dh <= these.atom_levels)), found

    def _proven(
        self, identities: NDArray[np.uint64], these: "_Environments"
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """The same, with dH of only those environments whose dH decides something."""
        rows, numbers, known = these.rows, these.numbers, these.known
        counts_tail = self._counts_tail()
        lowest = these.levels - self.margin
        if counts_tail:
            lowest = np.minimum(lowest, these.atom_levels)
        margin = these.levels - self.margin
        of = these.levels, margin, these.atom_levels
        dh = self.reference.evaluate_above(rows, numbers, lowest, levels=of, threads=self.threads)
        open_ = ~(known & np.isnan(dh))
        above = open_ & ~(known & (dh <= these.levels))
        tail = open_ & ~(known & (dh <= these.atom_levels))
        near_level = open_ & ~(known & (dh <= margin))
        dh[~near_level] = math.nan  # which of the others are known depends on the atom level, a matter of its own
        chosen = sample(identities, SEED)
        sketch = self._sketch_of_reference()
        sampled = sketch.delta_entropy(rows[chosen], numbers=numbers[chosen], threads=self.threads)
        sampled -= self.reference.log_shares(sketch, numbers[chosen])
        mean, q99 = mean_and_quantile(sampled[known[chosen]])
        h = frame_entropy(rows[chosen], self.reference.bandwidth, self.threads)
        dh_max = float(dh[above].max()) if above.any() else None
        return dh, above, tail, {"dh_max": dh_max, "dh_mean": mean, "dh_q99": q99, "frame_entropy": h}

    def _counts_tail(self) -> bool:
        """Whether an alarm needs the atoms above the atom level, a lower one than that of dH and dearer to prove."""
        return bool({"n_tail", "tail_cluster"} & set(self.calibration.statistics))

    def _sketch_of_reference(self) -> Reference:
        if self._sketch is None:
            self._sketch = self.reference.sketch(SKETCH_ROWS, SEED)
        return self._sketch


def _count_excess(value: int, level: Level, release: float, share: int = 1) -> float:
    """Log of the ratio of a count to its level, for levels that are a share of so many atoms.

    Counts may have no way from the level to the median.
    """
    # a share of the atoms back to their number, which k / n * n may miss by a hair
    limit, middle = (max(round(x * share, 9), 0.0) for x in (level.value, level.middle))
    beyond, gap = math.log((value + 1) / (limit + 1)), math.log((limit + 1) / (middle + 1))
    return as_released(beyond, gap, release)


def frame_digest(atoms: Atoms) -> str:
    """Checksum of positions, cell and numbers, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (atoms.positions, atoms.cell.array, atoms.numbers):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def cached_energy(atoms: Atoms) -> float | None:
    """Energy per atom in eV if the calculator has it for exactly this frame; never starts a calculation."""
    energy = _cached_results(atoms).get("energy")
    try:
        return None if energy is None or len(atoms) == 0 else float(energy) / len(atoms)
    except Exception:  # a foreign calculator may hold anything
        return None


def _cached_results(atoms: Atoms) -> dict[str, Any]:
    """What the calculator holds of exactly this frame; never starts a calculation."""
    results = getattr(atoms.calc, "results", None)
    try:
        if not isinstance(results, dict) or atoms.calc.calculation_required(atoms, ["energy"]):
            return {}
    except Exception:  # a foreign calculator that cannot answer must not stop a run
        return {}
    return results


def _not_finite(atoms: Atoms) -> tuple[tuple[int, ...], str]:
    """Atoms whose momenta or forces are not finite numbers, and what is wrong; cached results only."""
    results = _cached_results(atoms)
    arrays = {"momenta": atoms.arrays.get("momenta"), "forces": results.get("forces")}
    for name, array in arrays.items():
        if array is not None and np.shape(array) == (len(atoms), 3) and not np.isfinite(array).all():
            found = np.flatnonzero(~np.isfinite(array).all(axis=1))
            return tuple(found.tolist()), f"the {name} of {len(found)} atoms are not finite, of atom {found[0]} first"
    energy = results.get("energy")
    if isinstance(energy, float | np.floating) and not math.isfinite(energy):
        return (), "the energy is not finite"
    return (), ""


def _symbol(number: int) -> str:
    return str(chemical_symbols[number]) if 0 <= number < len(chemical_symbols) else str(number)


def _temperature(atoms: Atoms) -> float | None:
    if not atoms.has("momenta") or atoms.get_number_of_degrees_of_freedom() <= 0:
        return None
    return float(atoms.get_temperature())


def _volume_per_atom(atoms: Atoms) -> float | None:
    if len(atoms) == 0 or not atoms.pbc.all() or not np.isfinite(atoms.cell.array).all():
        return None
    return abs(float(atoms.cell.volume)) / len(atoms)


def _verdict(excesses: Mapping[str, float]) -> dict[str, Any]:
    alarms = tuple(name for name, value in excesses.items() if value > 0)
    return {
        "alarms": alarms,
        "excesses": dict(excesses),
        "trigger_excess": max(excesses.values(), default=-math.inf),
        "state": "out" if alarms else "in",
    }


def _called_off(excesses: Mapping[str, float], confirmed: float) -> dict[str, float]:
    """Excesses of which none is above that of the second reference, where that one has no alarm."""
    return dict(excesses) if confirmed > 0 else {name: min(value, confirmed) for name, value in excesses.items()}
