"""Levels with a stated false-alarm rate, from held-out environments of the reference itself."""

import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import ArrayLike, NDArray

from quests_md._files import replacing
from quests_md._words import many
from quests_md.errors import FileFormatError, MismatchError
from quests_md.reference import Reference, label_list, shortened

from .levels import GUESS, Kind, Level, NullScores, level_of
from .null_scores import ANY_ELEMENT, HeldOut, held_out_frames, separate_frames
from .statistics import SAMPLE_ATOMS, STATISTICS, checked_statistics

__all__ = ["DEFAULT_STATISTICS", "SCHEMA", "Calibration", "Kind", "calibrate", "kind_of", "rate_of"]

#: Version of the calibration file. A newer one is refused.
SCHEMA = 2

#: Statistics that raise alarms unless told otherwise; docs/levels.md says why.
DEFAULT_STATISTICS = ("dh_max", "tail_cluster", "dh_mean")

Per = Literal["check", "ns", "run"]
Mode = Literal["full", "proven"]

PS_PER_NS = 1000.0

#: Most atoms of a typical frame that a file may name: so many numbers are made of it.
MOST_ATOMS = 10_000_000

#: Largest number in a file, and one over the smallest time: no score comes near, and its square is still a number.
LARGEST = 1e100

#: The modes of evaluation that scores are for.
_MODES: dict[str, tuple[Mode, ...]] = {"full": ("full",), "proven": ("proven",), "both": ("full", "proven")}

#: From the best kind of a level to the worst.
KINDS: tuple[Kind, ...] = ("conformal", "extrapolated", "none")


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Levels for the numbers of a frame, at a joint rate of false alarms. Made by `calibrate` or `load`."""

    fingerprint: str
    """Fingerprint of the reference that it belongs to."""
    false_alarms: float
    """Asked rate of false alarms, per `per`, of all statistics together."""
    per: Per
    """"check", "ns" or "run"."""
    statistics: tuple[str, ...]
    """Names of the statistics that raise alarms and share the rate evenly."""
    nulls: tuple[NullScores, ...] = field(repr=False)
    """The null distributions of all statistics, in use or not."""
    atom_levels: Mapping[int, float] = field(repr=False)
    """dH in nats by which `n_tail` counts, per atomic number; a hundredth of the held-out environments exceeds it."""
    composition: Mapping[int, int] = field(repr=False)
    """Held-out environments of each atomic number."""
    n_groups: int
    """Groups of frames that were held out."""
    frame_atoms: int
    """Median number of environments of their frames."""
    how: str
    """How the scores were made, in words."""
    checks: int | None = None
    """Checks in a run, for per="run"."""
    block_ps: float | None = None
    """Simulated time that a group covers, ps, where the frames have times."""
    spacing_ps: float | None = None
    """Time between its frames, ps."""

    @property
    def kind(self) -> Kind:
        """What the levels are worth for one check of a frame as large as the calibration's: see `Level.kind`."""
        return kind_of(self.alarm_levels(self.typical_numbers(self.frame_atoms)))

    def with_statistics(self, statistics: Sequence[str]) -> "Calibration":
        """The same calibration with other statistics in use, which share the rate."""
        return replace(self, statistics=checked_statistics(statistics))

    def levels(self, atoms: Atoms, checks: int | None = None, *, check_ps: float | None = None) -> NDArray[np.float64]:
        """Level of dH of each atom, (n_atoms,) in nats, for a system of this size and composition.

        Parameters
        ----------
        atoms
            The system.
        checks
            With per="ns" or "run": checks in that ns or run; default those of the calibration, else 1.
        check_ps
            Simulated time between checks in ps, of use with per="run".
        """
        return self.dh_levels(self.frame_levels(atoms.numbers, checks, check_ps=check_ps), atoms.numbers)

    def dh_levels(self, levels: Iterable[Level], numbers: ArrayLike) -> NDArray[np.float64]:
        """The level of dH of each atom, (n_atoms,) in nats, out of the levels of a frame."""
        of = {
            ANY_ELEMENT if level.element is None else atomic_numbers[level.element]: level.value
            for level in levels
            if level.statistic == "dh_max"
        }
        default = of.get(ANY_ELEMENT, max(of.values(), default=GUESS))  # of no consequence: unseen elements score inf
        return np.array([of.get(int(z), default) for z in np.asarray(numbers)], dtype=np.float64)

    def atom_level(self, numbers: ArrayLike) -> NDArray[np.float64]:
        """DH in nats above which an atom counts in `n_tail`, for each atomic number."""
        default = self.atom_levels.get(ANY_ELEMENT, GUESS)
        return np.array([self.atom_levels.get(int(z), default) for z in np.asarray(numbers)], dtype=np.float64)

    def frame_levels(
        self,
        numbers: ArrayLike,
        checks: int | None = None,
        *,
        check_ps: float | None = None,
        mode: Mode = "full",
    ) -> tuple[Level, ...]:
        """The levels of all statistics in use for frames of these atoms, and that of dH of each element in any case.

        The rate is shared evenly by the statistics, and within one by its elements or its two sides, so that all of
        them together keep it (union bound). `checks` of them, or as many blocks of correlated frames as that is, share
        it again with per="ns" and "run".

        Parameters
        ----------
        numbers
            (n_atoms,) atomic numbers of the centers of environments.
        checks, check_ps
            As in `levels`.
        mode
            How the frame is evaluated: mean, quantile and frame entropy are those of a sample in "proven".
        """
        if checks is not None and (isinstance(checks, bool) or not checks >= 1):
            raise ValueError(f"checks: expected a positive integer, got {checks!r}")
        z, counts = np.unique(np.asarray(numbers), return_counts=True)
        n_of = {chemical_symbols[int(a)]: int(n) for a, n in zip(z, counts, strict=True) if 0 <= a < 119}
        n_atoms, count = int(counts.sum()), self._n_looks(checks, check_ps)
        found: list[Level] = []
        for name in dict.fromkeys((*self.statistics, "dh_max")):
            statistic = STATISTICS[name]
            rate = self.false_alarms / (len(self.statistics) if name in self.statistics else 1)
            nulls = [n for n in self.nulls if n.statistic == name and n.values in (mode, "both")]
            nulls = [n for n in nulls if n.element is None or n.element in n_of]
            for null in nulls:
                n = n_atoms if null.element is None else n_of[null.element]
                if mode == "proven" and name in ("dh_mean", "dh_q99", "frame_entropy"):
                    n = min(n, SAMPLE_ATOMS)
                found.append(level_of(null, statistic.size, n, rate / len(nulls), count))
            if name == "dh_max" and not nulls:
                empty = NullScores(name, None, "above", "both", np.empty(0), np.empty(0, np.int64))
                found.append(level_of(empty, statistic.size, n_atoms, rate, count))
        return tuple(found)

    def alarm_levels(self, numbers: ArrayLike, checks: int | None = None, **options: Any) -> tuple[Level, ...]:
        """Those of `frame_levels` that raise alarms."""
        return tuple(
            level for level in self.frame_levels(numbers, checks, **options) if level.statistic in self.statistics
        )

    def typical_numbers(self, n_atoms: int) -> NDArray[np.int64]:
        """Atomic numbers of a system of `n_atoms` with the composition of the held-out environments."""
        if not self.composition:
            return np.zeros(n_atoms, np.int64)
        z = np.array(list(self.composition), dtype=np.int64)
        ends = np.cumsum(list(self.composition.values())) / sum(self.composition.values())
        return z[np.minimum(np.searchsorted(ends, (np.arange(n_atoms) + 0.5) / max(n_atoms, 1)), len(z) - 1)]

    def _n_looks(self, checks: int | None, check_ps: float | None) -> int:
        """Looks over which the asked rate is shared: checks, or blocks of correlated ones if those are fewer.

        A block of calibration frames was scored by its most extreme frame, so checks at its spacing within its time
        are one look; denser checks are as many interleaved series of them.
        """
        if self.per == "check":
            return 1
        checks = checks or self.checks or 1
        total_ps = PS_PER_NS if self.per == "ns" else None if check_ps is None else checks * check_ps
        if not total_ps or not self.block_ps or not self.spacing_ps:
            return int(checks)
        interleaved = math.ceil(self.spacing_ps * checks / total_ps - 1e-9)
        return int(min(checks, math.ceil(total_ps / self.block_ps) * max(1, interleaved)))

    def describe(
        self,
        atoms: int | ArrayLike | None = None,
        checks: int | None = None,
        *,
        check_ps: float | None = None,
        mode: Mode = "full",
    ) -> str:
        """What the levels are, how they were set, and what they promise and do not, in a few lines.

        Parameters
        ----------
        atoms
            Number of atoms of the system, or the atomic numbers of its atoms; default a frame of the calibration.
        checks, check_ps, mode
            As in `frame_levels`.
        """
        if atoms is None or np.ndim(atoms) == 0:
            numbers = self.typical_numbers(self.frame_atoms if atoms is None else int(atoms))  # type: ignore[arg-type]
        else:
            numbers = np.asarray(atoms)
        levels = self.alarm_levels(numbers, checks, check_ps=check_ps, mode=mode)
        looks = self._n_looks(checks, check_ps)
        lines = [self._promise(levels, len(numbers), looks)]
        lines += [f"  {_level_text(level, len(numbers), self.n_groups)}" for level in levels]
        if self.n_groups < 2:
            lines.append(f"{_many_groups(self.n_groups)} could be held out: add frames, or give frames= to calibrate")
        if "n_tail" in self.statistics or "tail_cluster" in self.statistics:
            atom_levels = ", ".join(
                f"{value:.2f}" + (f" ({chemical_symbols[z]})" if z != ANY_ELEMENT else "")
                for z, value in self.atom_levels.items()
            )
            lines.append(f"atom level, which 1 % of the environments exceed: dH = {atom_levels} nats")
        lines.append(f"from {self.how}")
        lines.append("valid for new groups of frames like these, not for another temperature, phase or composition")
        return "\n".join(lines)

    def _promise(self, levels: Sequence[Level], n_atoms: int, looks: int) -> str:
        """The joint promise in a line."""
        unit = {"check": "check", "ns": "nanosecond", "run": "run"}[self.per]
        of = f"{unit} of {n_atoms} atoms" + (f" ({looks} looks)" if looks > 1 else "")
        kind, rate = kind_of(levels), rate_of(levels)
        if kind == "conformal":
            return f"promise: at most {self.false_alarms:.2g} false alarms per {of}"
        if kind == "extrapolated":
            return f"promise: about {self.false_alarms:.2g} false alarms per {of}, if tails of scores go on as fitted"
        if rate >= 1:
            return f"promise: none; {self.false_alarms:.2g} false alarms per {of} were asked"
        return f"promise: {self.false_alarms:.2g} false alarms per {of} were asked, {rate:.2g} can be promised"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration to a JSON file, whole or not at all."""
        content = {
            "type": "quests_md calibration",
            "schema": SCHEMA,
            "fingerprint": self.fingerprint,
            "false_alarms": self.false_alarms,
            "per": self.per,
            "statistics": list(self.statistics),
            "n_groups": self.n_groups,
            "frame_atoms": self.frame_atoms,
            "how": self.how,
            "checks": self.checks,
            "block_ps": self.block_ps,
            "spacing_ps": self.spacing_ps,
            "composition": {str(z): n for z, n in self.composition.items()},
            "atom_levels": {str(z): value for z, value in self.atom_levels.items()},
            "nulls": [
                {
                    "statistic": null.statistic,
                    "element": null.element,
                    "side": null.side,
                    "values": null.values,
                    "scores": null.scores.tolist(),
                    "sizes": null.sizes.tolist(),
                }
                for null in self.nulls
            ],
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Calibration":
        """Read a calibration file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        FileFormatError
            If it is empty, torn, of another schema or not a calibration, or holds what no calibration does.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(
                f"{path}: expected a calibration file, there is none; make it with Calibration.save"
            )
        try:
            return cls._from_content(json.loads(file.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            raise FileFormatError(f"{path}: not a calibration file of quests_md: it is binary") from None
        except FileFormatError as exc:
            raise FileFormatError(f"{path}: {exc}") from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
            what = shortened(str(exc) if isinstance(exc, ValueError) else repr(exc))
            raise FileFormatError(f"{path}: not a calibration file of quests_md, or torn: {what}") from exc

    @classmethod
    def _from_content(cls, content: Any) -> "Calibration":
        """The calibration that a JSON text of anyone tells of; raises many kinds of errors for what is none."""
        if content["type"] != "quests_md calibration":
            raise FileFormatError(f"expected a quests_md calibration, got {shortened(repr(content['type']))}")
        if content["schema"] != SCHEMA:
            todo = "update quests_md" if content["schema"] > SCHEMA else "calibrate again"
            raise FileFormatError(
                f"calibration schema {content['schema']}, this version of quests_md reads {SCHEMA}; {todo}"
            )
        nulls = tuple(_read_null(null) for null in content["nulls"])
        names = [(n.statistic, n.element, n.side, mode) for n in nulls for mode in _MODES[n.values]]
        if len(set(names)) < len(names):
            raise ValueError("nulls: expected the scores of each number once, got some twice")
        frame_atoms = _count("frame_atoms", content["frame_atoms"], most=MOST_ATOMS)
        if frame_atoms == 0 and any(len(null.scores) for null in nulls):
            raise ValueError("frame_atoms: expected a positive number, since there are scores, got 0")
        return cls(
            fingerprint=_text("fingerprint", content["fingerprint"]),
            false_alarms=_checked_rate(content["false_alarms"]),
            per=_checked_per(content["per"]),
            statistics=checked_statistics(content["statistics"]),
            nulls=nulls,
            atom_levels={_atomic_number(z): _number(z, value) for z, value in content["atom_levels"].items()},
            composition={_atomic_number(z): _count(z, n, fewest=1) for z, n in content["composition"].items()},
            n_groups=_count("n_groups", content["n_groups"]),
            frame_atoms=frame_atoms,
            how=_text("how", content["how"]),
            checks=None if content["checks"] is None else _count("checks", content["checks"], fewest=1),
            block_ps=None if content["block_ps"] is None else _time_ps("block_ps", content["block_ps"]),
            spacing_ps=None if content["spacing_ps"] is None else _time_ps("spacing_ps", content["spacing_ps"]),
        )

    def require(self, reference: Reference) -> None:
        """Raise MismatchError unless this calibration was made for that reference."""
        if self.fingerprint != reference.fingerprint:
            raise MismatchError(
                f"calibration: made for reference {self.fingerprint}, got reference {reference.fingerprint}; "
                "calibrate again with this reference"
            )


def calibrate(
    reference: Reference,
    *,
    false_alarms: float = 1e-2,
    per: Per = "check",
    statistics: Sequence[str] = DEFAULT_STATISTICS,
    checks: int | None = None,
    groups: str | Sequence[Any] | None = None,
    frames: Any = None,
    rng: int | np.random.Generator = 0,
    threads: int | None = None,
) -> Calibration:
    """Find the levels that the numbers of frames like the reference's exceed at a stated rate.

    Each group of frames is scored once per statistic: the most extreme number of its frames, from dH against the
    reference without the group's own rows. Adding rows lowers dH, so these scores bound from above what the full
    reference gives for a new group, and a rank among them bounds the rate of false alarms if groups are exchangeable.

    Parameters
    ----------
    reference
        The reference.
    false_alarms
        Asked rate of checks (nanoseconds, runs) of an in-distribution run in which any statistic is beyond its level.
    per
        What the rate counts. "ns" and "run" need the number of checks in one: a monitor knows that of a nanosecond.
    statistics
        Which numbers of a frame raise alarms and share the rate: names of fields of `Check` among "dh_max", "dh_q99",
        "dh_mean", "n_tail", "tail_cluster" and "frame_entropy". A low mean counts only with `frames`: leaving a group
        out says nothing of how low dH may be.
    checks
        Checks in a run, for per="run".
    groups
        None: the groups of the reference (with `frames`: blocks of two correlation times). "frame", "file", or one
        label per frame.
    frames
        Frames or files that are in distribution and not in the reference: scored against the whole reference.
    rng
        Seed or generator: chooses whole groups where the reference has more than 30 000 rows.
    threads
        Threads to use; never changes the result.

    Raises
    ------
    ValueError
        If `false_alarms` is outside (0, 1), or `per`, `statistics`, `checks` or `groups` is not usable.
    """
    rate, per, statistics = _checked_rate(false_alarms), _checked_per(per), checked_statistics(statistics)
    if checks is not None and (isinstance(checks, bool) or not checks >= 1):
        raise ValueError(f"checks: expected a positive integer, got {checks!r}")
    if frames is not None:
        source = Reference.from_frames(
            frames,
            descriptor=reference.descriptor,
            bandwidth=reference.bandwidth,
            match=reference.match,  # type: ignore[arg-type]  # checked when the reference was made
            groups=groups,
            threads=threads,
        )
        frame_groups = source.array("frame_group")
        held_out = separate_frames(reference, source, threads=threads)
        how = f"{source.n_frames} separate frames scored against the whole reference; {source.provenance['groups']}"
    else:
        source = reference
        frame_groups, rule = _frame_groups(reference, groups)
        held_out = held_out_frames(reference, frame_groups, rng, is_default=groups is None, threads=threads)
        n = sum(len(dh) for dh in held_out.dh)
        how = f"{n} held-out environments, leaving one group out at a time; groups: {rule}"
    unmatched = sum(int(np.isposinf(dh).sum()) for dh in held_out.dh)  # of an element that only one group has
    if unmatched:
        how += f"; {unmatched} environments of elements without a counterpart left out"
    nulls, atom_levels = held_out.nulls(reference.pair_distances())
    n_groups = max((len(null.scores) for null in nulls if null.statistic in ("dh_max", "dh_mean")), default=0)
    if n_groups < 2:
        warnings.warn(
            f"{_many_groups(n_groups)} of frames could be held out: the level is a guess and promises nothing; "
            "add independent frames to the reference, or give frames= to calibrate",
            stacklevel=2,
        )
    block_ps, spacing_ps = _times(source, frame_groups)
    return Calibration(
        fingerprint=reference.fingerprint,
        false_alarms=rate,
        per=per,
        statistics=statistics,
        nulls=tuple(nulls),
        atom_levels=atom_levels,
        composition=_composition(held_out),
        n_groups=n_groups,
        frame_atoms=int(np.median([len(dh) for dh in held_out.dh])) if held_out.dh else 0,
        how=how,
        checks=None if checks is None else int(checks),
        block_ps=block_ps,
        spacing_ps=spacing_ps,
    )


def kind_of(levels: Sequence[Level]) -> Kind:
    """The worst kind among levels that can raise an alarm."""
    return max((level.kind for level in levels if math.isfinite(level.value)), key=KINDS.index, default="none")


def rate_of(levels: Sequence[Level]) -> float:
    """Bound of the rate of false alarms of all levels together; 1: no bound."""
    return min(1.0, sum(level.rate for level in levels)) if levels else 1.0


def _level_text(level: Level, n_atoms: int, n_groups: int) -> str:
    """One level in a line."""
    name = level.statistic + (f" of {level.element}" if level.element else "")
    unit = STATISTICS[level.statistic].unit
    value = level.value * n_atoms if level.statistic == "n_tail" else level.value
    text = f"{name} {'<=' if level.side == 'above' else '>='} {value:.2f} {unit}: "
    groups = _many_groups(level.n_groups)
    groups += "" if level.n_groups >= n_groups else f" of {n_groups} with fitting frames"
    if level.kind == "conformal":
        text += f"conformal, {groups}"
    elif level.kind == "extrapolated":
        interval = level.interval and sorted(
            v * (n_atoms if level.statistic == "n_tail" else 1) for v in level.interval
        )
        text += f"extrapolated from {groups}" + (f" to {interval[0]:.2f} ... {interval[1]:.2f}" if interval else "")
    elif math.isinf(level.value):
        return f"{name}: not judged, no held-out frames of this size"
    elif level.n_groups < 2:
        text += "kind none, a guess"
    elif level.interval:
        text += f"kind none, extrapolated too far from {groups}"
    else:
        text += f"kind none, the most extreme of {groups}"
    if level.pieces > 1:
        text += f", counted as {level.pieces} frames"
    return text + (
        ""
        if level.rate >= 1
        else f"; at most {level.rate:.2g}"
        if level.kind != "extrapolated"
        else f"; about {level.rate:.2g}"
    )


def _times(source: Reference, frame_groups: NDArray[np.int64]) -> tuple[float | None, float | None]:
    """Time in ps that a typical group covers, and between its frames; None where times are not known."""
    times, files = source.array("frame_time"), source.array("frame_source")
    if len(times) < 2 or not np.isfinite(times).all():
        return None, None
    steps = np.diff(times)[(np.diff(files) == 0) & (np.diff(times) > 0)]
    if len(steps) == 0:
        return None, None
    spacing = float(np.median(steps))
    _, frames_per_group = np.unique(frame_groups, return_counts=True)
    return spacing * float(np.median(frames_per_group)), spacing


def _composition(held_out: HeldOut) -> dict[int, int]:
    if not held_out.frames:
        return {}
    z, counts = np.unique(np.concatenate([frame.numbers for frame in held_out.frames]), return_counts=True)
    return {int(a): int(n) for a, n in zip(z, counts, strict=True)}


def _many_groups(n: int) -> str:
    return many(n, "group") if n else "no groups"


def _frame_groups(reference: Reference, groups: str | Sequence[Any] | None) -> tuple[NDArray[np.int64], str]:
    if groups is None:
        return reference.array("frame_group"), str(reference.provenance.get("groups", "unknown"))
    if isinstance(groups, str):
        if groups == "frame":
            return np.arange(reference.n_frames), "by 'frame'"
        if groups == "file":
            return reference.array("frame_source"), "by 'file'"
        raise ValueError(f"groups: expected 'frame', 'file', or one label per frame, got {groups!r}")
    labels = label_list(groups)
    if len(labels) != reference.n_frames:
        raise ValueError(f"groups: expected one label for each of {reference.n_frames} frames, got {len(labels)}")
    place = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return np.array([place[label] for label in labels], dtype=np.int64), "labels given"


def _read_null(content: Mapping[str, Any]) -> NullScores:
    """A null distribution out of a file."""
    name, element, side, values = (content[key] for key in ("statistic", "element", "side", "values"))
    if name not in STATISTICS or side not in ("above", "below") or values not in _MODES:
        raise ValueError(f"nulls: expected scores of a known statistic, got {name!r}, {side!r}, {values!r}")
    if side == "below" and not STATISTICS[name].two_sided:
        raise ValueError(f"nulls: expected the largest {name} of each group, got the smallest")
    if element is not None and atomic_numbers.get(element, 0) < 1:
        raise ValueError(f"nulls: expected a chemical element, got {element!r}")
    if not isinstance(content["scores"], list) or not isinstance(content["sizes"], list):
        raise ValueError("nulls: expected lists of scores and sizes")
    scores = np.array([_number("scores", score) for score in content["scores"]], dtype=np.float64)
    sizes = np.array([_count("sizes", size) for size in content["sizes"]], dtype=np.int64)
    if sizes.shape != scores.shape:
        raise ValueError(f"sizes: expected a number of atoms for each of {len(scores)} scores, got {len(sizes)}")
    if STATISTICS[name].unit == "atoms" and (scores < 0).any():
        raise ValueError(f"scores: expected no {name} below 0, got {scores.min()}")
    order = np.argsort(scores, kind="stable")
    return NullScores(name, element, side, values, scores[order], sizes[order])


def _atomic_number(text: str) -> int:
    number = int(text)
    if not 0 <= number < len(chemical_symbols) or str(number) != text:
        raise ValueError(f"expected an atomic number, got {text!r}")
    return number


def _count(name: str, value: Any, *, fewest: int = 0, most: int = 2**53) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not fewest <= value <= most:
        raise ValueError(f"{name}: expected an integer from {fewest} to {most}, got {value!r}")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise ValueError(f"{name}: expected a number between {-LARGEST} and {LARGEST}, got {value!r}")
    return float(value)


def _time_ps(name: str, value: Any) -> float:
    number = _number(name, value)
    if not number > 1 / LARGEST:
        raise ValueError(f"{name}: expected a positive time in ps, got {value!r}")
    return number


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text, got {value!r}")
    return value


def _checked_rate(rate: float) -> float:
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.floating) or not 0 < rate < 1:
        raise ValueError(f"false_alarms: expected a rate between 0 and 1, got {rate!r}")
    return float(rate)


def _checked_per(per: str) -> Per:
    if per not in ("check", "ns", "run"):
        raise ValueError(f"per: expected 'check', 'ns' or 'run', got {per!r}")
    return per  # type: ignore[return-value]  # one of the three
