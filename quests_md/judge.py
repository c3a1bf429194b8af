"""One frame to one Check. Pure: the same frame, reference and levels give the same numbers, whatever came before."""

import hashlib
import math
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from .calibration import Calibration
from .clusters import largest_cluster
from .descriptor import describe
from .entropy import entropy
from .errors import FrameError
from .records import Check
from .reference import Reference

__all__ = ["FULL_LIMIT", "Judge", "Judged", "Values", "cached_energy", "frame_digest"]

Values = Literal["auto", "full", "proven"]

#: values="auto" evaluates every atom up to this many pairs of an atom and a reference row (or another atom).
FULL_LIMIT = 5e7

#: In "proven" mode: atoms whose dH makes the mean, the quantile and the frame's entropy, and reference rows they see.
SAMPLE_ATOMS = 512
SKETCH_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class Judged:
    """A check with what went into it."""

    check: Check
    rows: NDArray[np.float64] | None
    """(n_atoms, width) descriptor rows; None for an invalid frame."""
    reason: str = ""
    """Why the frame is invalid."""


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
    margin
        Nats below the level down to which "proven" gives the excess exactly; lower ones read as -margin.
    checks
        Checks per nanosecond or run, for calibrations that count those.
    seed
        Chooses the sample and the sketch.
    threads
        Threads to use; never changes the result.
    """

    def __init__(
        self,
        reference: Reference,
        calibration: Calibration,
        *,
        values: Values = "auto",
        margin: float = 0.5,
        checks: int = 1,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        if values not in ("auto", "full", "proven"):
            raise ValueError(f"values: expected 'auto', 'full' or 'proven', got {values!r}")
        calibration.require(reference)
        self.reference = reference
        self.calibration = calibration
        self.values = values
        self.margin = margin
        self.checks = checks
        self.seed = seed
        self.threads = threads
        self._pair_distances = reference.pair_distances()
        self._sketch: Reference | None = None

    def mode(self, n_atoms: int) -> Literal["full", "proven"]:
        """How a frame of this size is evaluated."""
        if self.values != "auto":
            return self.values
        return "full" if n_atoms * max(self.reference.n_environments, n_atoms) <= FULL_LIMIT else "proven"

    def judge(
        self, atoms: Atoms, *, step: int, frame: int, time_ps: float | None = None, interval: int | None = None
    ) -> Judged:
        """Check one frame, which is not changed."""
        start = time.perf_counter()
        n_atoms = len(atoms)
        numbers = np.asarray(atoms.numbers)
        centers = self.reference.is_center(numbers)
        known = self.reference.is_known(numbers)
        host: dict[str, Any] = {
            "step": step,
            "frame": frame,
            "time_ps": time_ps,
            "n_atoms": n_atoms,
            "n_unknown": int((centers & ~known).sum()),
            "temperature_K": _temperature(atoms),
            "volume_per_atom": _volume_per_atom(atoms),
            "energy_per_atom": cached_energy(atoms),
            "interval": interval,
            "digest": frame_digest(atoms),
        }
        try:
            if n_atoms == 0:
                raise FrameError("the frame has no atoms")
            if not centers.any():
                raise FrameError("the frame has no atom of the elements that are centers of environments")
            rows = describe(self.reference.descriptor, atoms, self.threads)
        except FrameError as exc:
            return Judged(_invalid(host, start), None, str(exc))
        # atoms that are no centers have no dH and count in nothing, not in the size of the frame either
        levels = np.full(n_atoms, math.nan)
        levels[centers] = self.calibration.levels(atoms if centers.all() else atoms[centers], self.checks)
        dh, above = np.full(n_atoms, math.nan), np.zeros(n_atoms, dtype=bool)
        judged = rows[centers], numbers[centers], levels[centers], known[centers]
        if self.mode(n_atoms) == "full":
            dh[centers], above[centers], numbers_found = self._full(*judged)
        else:
            dh[centers], above[centers], numbers_found = self._proven(*judged, _identities(atoms)[centers])
        excess = np.where(centers, np.inf, math.nan)  # inf for an unknown element where the level itself is inf
        excess[known] = dh[known] - levels[known]
        worst = int(np.nanargmax(excess)) if not np.isnan(excess).all() else None
        check = Check(
            **host,
            **numbers_found,
            n_above=int(above.sum()),
            largest_cluster=largest_cluster(atoms, above, self._pair_distances),
            excess=float(excess[worst]) if worst is not None else -self.margin,
            worst_atom=worst,
            worst_element=None if worst is None else _symbol(int(numbers[worst])),
            state="out" if above.any() else "in",
            elapsed_us=(time.perf_counter() - start) * 1e6,
            delta_entropy=dh,
            above=above,
        )
        return Judged(check, rows)

    def delta_entropy(self, rows: NDArray[np.float64], atoms: Atoms) -> NDArray[np.float64]:
        """DH of every atom, whatever the mode; NaN for atoms that are no centers."""
        return self.reference.delta_entropy(rows, numbers=atoms.numbers, threads=self.threads)

    def _full(
        self,
        rows: NDArray[np.float64],
        numbers: NDArray[np.int64],
        levels: NDArray[np.float64],
        known: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], dict[str, Any]]:
        dh = self.reference.delta_entropy(rows, numbers=numbers, threads=self.threads)
        found = _summary(dh[known])
        found["dh_max"] = float(dh.max())
        found["frame_entropy"] = entropy(rows, bandwidth=self.reference.bandwidth, threads=self.threads)
        return dh, ~(known & (dh <= levels)), found

    def _proven(
        self,
        rows: NDArray[np.float64],
        numbers: NDArray[np.int64],
        levels: NDArray[np.float64],
        known: NDArray[np.bool_],
        identities: NDArray[np.uint64],
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], dict[str, Any]]:
        covered = self.reference.is_covered(rows, levels - self.margin, numbers=numbers, threads=self.threads) & known
        dh = np.full(len(rows), math.nan)
        near = np.flatnonzero(~covered)
        dh[near] = self.reference.delta_entropy(rows[near], numbers=numbers[near], float64=True, threads=self.threads)
        above = ~covered & ~(known & (dh <= levels))
        sample = _sample(identities, self.seed)
        sketch = self._sketch_of_reference()
        sampled = sketch.delta_entropy(rows[sample], numbers=numbers[sample], threads=self.threads)
        # each row of the sketch stands for as many rows of the reference
        for z in np.unique(numbers[sample][known[sample]]):
            share = self.reference.n_comparable(int(z)) / sketch.n_comparable(int(z))
            sampled[numbers[sample] == z] -= math.log(share)
        found = _summary(sampled[known[sample]])
        found["dh_max"] = float(dh[above].max()) if above.any() else None
        found["frame_entropy"] = entropy(rows[sample], bandwidth=self.reference.bandwidth, threads=self.threads)
        return dh, above, found

    def _sketch_of_reference(self) -> Reference:
        if self._sketch is None:
            self._sketch = self.reference.sketch(SKETCH_ROWS, self.seed)
        return self._sketch


def frame_digest(atoms: Atoms) -> str:
    """Checksum of positions, cell and numbers, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    for array in (atoms.positions, atoms.cell.array, atoms.numbers):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def cached_energy(atoms: Atoms) -> float | None:
    """Energy per atom in eV if the calculator has it for exactly this frame; never starts a calculation."""
    results = getattr(atoms.calc, "results", None)
    if not isinstance(results, dict) or len(atoms) == 0:
        return None
    energy = results.get("energy")
    try:
        if energy is None or atoms.calc.calculation_required(atoms, ["energy"]):
            return None
        return float(energy) / len(atoms)
    except Exception:  # a foreign calculator that cannot answer must not stop a run
        return None


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


def _invalid(host: dict[str, Any], start: float) -> Check:
    return Check(
        **host,
        dh_max=None,
        dh_mean=None,
        dh_q99=None,
        n_above=0,
        largest_cluster=None,
        frame_entropy=None,
        excess=math.nan,
        worst_atom=None,
        worst_element=None,
        state="invalid",
        elapsed_us=(time.perf_counter() - start) * 1e6,
    )


def _summary(dh: NDArray[np.float64]) -> dict[str, Any]:
    if len(dh) == 0:
        return {"dh_mean": None, "dh_q99": None}
    return {"dh_mean": float(dh.mean()), "dh_q99": float(np.quantile(dh, 0.99))}


def _identities(atoms: Atoms) -> NDArray[np.uint64]:
    """Numbers by which atoms are known in whatever order a host gives them: `arrays["id"]`, else indices."""
    return np.asarray(atoms.arrays.get("id", np.arange(len(atoms)))).astype(np.uint64)


def _sample(identities: NDArray[np.uint64], seed: int) -> NDArray[np.int64]:
    """Places of the atoms whose hashed identities are smallest."""
    if len(identities) <= SAMPLE_ATOMS:
        return np.arange(len(identities))
    # splitmix64, Steele et al. 2014, doi:10.1145/2714064.2660195; arrays wrap around silently
    x = identities + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    chosen = np.argsort(x ^ (x >> np.uint64(31)), kind="stable")[:SAMPLE_ATOMS]
    return np.sort(chosen)
