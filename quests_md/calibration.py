"""Levels of dH with a stated false-alarm rate, from held-out environments of the reference itself."""

import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from .errors import FileFormatError, MismatchError
from .files import replacing
from .reference import Reference
from .reference_build import label_list
from .tails import FARTHEST, FEWEST, pareto_level

__all__ = ["SCHEMA", "Calibration", "Level", "calibrate"]

#: Version of the calibration file. A newer one is refused.
SCHEMA = 1

#: Level in nats where nothing could be held out: the rule of thumb of the published method, dH > 0.
GUESS = 0.0

Per = Literal["check", "ns", "run"]
Kind = Literal["conformal", "extrapolated", "none"]


@dataclass(frozen=True, slots=True)
class Level:
    """A level for frames of one size, and what it promises."""

    value: float
    """dH in nats above which an atom is out."""
    kind: Kind
    """"conformal": the asked rate is kept, whatever the distribution, if groups are exchangeable. "extrapolated": it is
    kept if the tail of the scores goes on like a generalised Pareto distribution. "none": it is not kept."""
    rate: float
    """Bound of the chance that one check (per="check") or one whole ns or run is out by mistake; 1: no bound."""
    pieces: int
    """Calibration frames that one check counts as: ceil(its atoms / their atoms)."""
    n_groups: int
    """Groups that the level rests on: those with frames large enough."""
    interval: tuple[float, float] | None = None
    """80 % interval of an extrapolated level, nats."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A conformal level for the maximum of dH over atoms. Made by `calibrate` or `load`."""

    fingerprint: str
    """Fingerprint of the reference that it belongs to."""
    false_alarms: float
    """Asked rate of false alarms, per `per`."""
    per: Per
    """"check", "ns" or "run"."""
    scores: NDArray[np.float64] = field(repr=False)
    """(n_groups,) largest held-out dH of each group, ascending, nats."""
    sizes: NDArray[np.int64] = field(repr=False)
    """(n_groups,) environments in the largest frame of each group, in the order of `scores`."""
    frame_atoms: int
    """Median number of environments of the frames behind the scores."""
    how: str
    """How the scores were made, in words."""

    @property
    def n_groups(self) -> int:
        """Groups with a score."""
        return len(self.scores)

    @property
    def kind(self) -> Kind:
        """What the level is worth for one check of a frame as large as the calibration's: see `Level.kind`."""
        return self.level(self.frame_atoms).kind

    def level(self, n_atoms: int, checks: int = 1) -> Level:
        """The level for a frame of this size.

        With n scores, one per exchangeable group, the ceil((1-a)(n+1))-th smallest is exceeded by a new group's score
        with a chance of at most a, without any assumption on the distribution. A frame of N atoms counts as
        ceil(N/n_a) calibration frames of n_a atoms, and `checks` of them are added up (union bound). Only groups with
        frames of at least n_a atoms count then; n_a is chosen, by sizes alone, where they can promise most. Where a is
        too small for n groups, the tail of the scores is extrapolated, up to tenfold and from 30 groups on; else the
        level is the largest score and the rate says what that is worth.

        Parameters
        ----------
        n_atoms
            Atoms of the frame.
        checks
            With per="ns" or "run": checks in that ns or run.

        References
        ----------
        Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World (2005), doi:10.1007/b106715.
        """
        if isinstance(checks, bool) or not checks >= 1:
            raise ValueError(f"checks: expected a positive integer, got {checks!r}")
        if self.n_groups < 2:
            return Level(GUESS if self.n_groups == 0 else float(self.scores[-1]), "none", 1.0, 1, self.n_groups)
        sizes = np.unique(self.sizes)
        all_pieces = np.maximum(1, -(-n_atoms // np.maximum(sizes, 1)))
        n_as_large = len(self.sizes) - np.searchsorted(np.sort(self.sizes), sizes)
        best = int(np.argmax((n_as_large + 1) / all_pieces))
        pieces, n = int(all_pieces[best]), int(n_as_large[best])
        scores = self.scores[self.sizes >= sizes[best]]
        count = self._count(pieces, checks)
        # a hair less than (1-a)(n+1), so that a = 1/(n+1) is not lost to rounding
        rank = math.ceil((1 - self.false_alarms / count) * (n + 1) - 1e-9)
        if rank <= n:
            return Level(float(scores[max(rank, 1) - 1]), "conformal", self.false_alarms, pieces, n)
        probability = self.false_alarms / count
        if n >= FEWEST and probability * (n + 1) * FARTHEST >= 1:
            value, low, high = pareto_level(scores, probability)
            return Level(value, "extrapolated", self.false_alarms, pieces, n, (low, high))
        return Level(float(scores[-1]), "none", min(1.0, count / (n + 1)), pieces, n)

    def levels(self, atoms: Atoms, checks: int = 1) -> NDArray[np.float64]:
        """Level of each atom, (n_atoms,) in nats, for a system of this size; see `level`."""
        return np.full(len(atoms), self.level(len(atoms), checks).value)

    def _count(self, pieces: int, checks: int) -> int:
        """Calibration frames over which the asked rate is shared."""
        return pieces * (1 if self.per == "check" else checks)

    def describe(self, n_atoms: int, checks: int = 1) -> str:
        """What the level is, how it was set, and what it promises and does not, in a few lines."""
        level = self.level(n_atoms, checks)
        unit = {"check": "check", "ns": "nanosecond", "run": "run"}[self.per]
        count = self._count(level.pieces, checks)
        size = f"{n_atoms} atoms"
        if level.pieces > 1:
            size += f", which count as {level.pieces} frames"
        groups = (
            f"{level.n_groups} groups"
            if level.n_groups == self.n_groups
            else (f"{level.n_groups} of {self.n_groups} groups, with frames large enough")
        )
        if level.kind == "conformal":
            lines = [
                f"dH <= {level.value:.2f} nats (conformal, {groups}, {size})",
                f"promise: at most {level.rate:.2g} false alarms per {unit}",
            ]
        elif self.n_groups < 2:
            lines = [
                f"dH <= {level.value:.2f} nats (kind none: a guess, {_many_groups(self.n_groups)} could be held out)",
                "promise: none; add frames to the reference, or give frames= to calibrate",
            ]
        elif level.kind == "extrapolated":
            low, high = level.interval or (level.value, level.value)
            sure = min(1.0, count / (level.n_groups + 1))
            lines = [
                f"dH <= {level.value:.2f} nats (extrapolated from {groups} to {low:.2f} ... {high:.2f}, {size})",
                f"promise: about {level.rate:.2g} false alarms per {unit} if the tail of the scores goes on as fitted; "
                f"{sure:.2g} at most without that",
            ]
        else:
            need = math.ceil(count / self.false_alarms) - 1
            lines = [
                f"dH <= {level.value:.2f} nats (kind none: the largest score of {groups}, {size})",
                f"promise: {self.false_alarms:.2g} false alarms per {unit} were asked, {level.rate:.2g} can be "
                f"promised; {need} groups would do",
            ]
        lines.append(f"from {self.how}")
        lines.append("valid for new groups of frames like these, not for another temperature, phase or composition")
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration to a JSON file, whole or not at all."""
        content = {
            "type": "quests_md calibration",
            "schema": SCHEMA,
            "fingerprint": self.fingerprint,
            "false_alarms": self.false_alarms,
            "per": self.per,
            "frame_atoms": self.frame_atoms,
            "how": self.how,
            "scores": self.scores.tolist(),
            "sizes": self.sizes.tolist(),
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
            If it is empty, torn, of a newer schema or not a calibration.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(
                f"{path}: expected a calibration file, there is none; make it with Calibration.save"
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["type"] != "quests_md calibration":
                raise FileFormatError(f"{path}: expected a quests_md calibration, got {content['type']!r}")
            if content["schema"] > SCHEMA:
                raise FileFormatError(
                    f"{path}: calibration schema {content['schema']}, this version of quests_md reads up to {SCHEMA}; "
                    "update quests_md"
                )
            scores = np.array(content["scores"], dtype=np.float64)
            sizes = np.array(content["sizes"], dtype=np.int64)
            if scores.ndim != 1 or not np.isfinite(scores).all():
                raise FileFormatError(f"{path}: scores: expected a list of finite numbers")
            if sizes.shape != scores.shape or (sizes < 0).any():
                raise FileFormatError(f"{path}: sizes: expected a number of atoms for each of {len(scores)} scores")
            order = np.argsort(scores, kind="stable")
            return cls(
                fingerprint=str(content["fingerprint"]),
                false_alarms=_checked_rate(content["false_alarms"]),
                per=_checked_per(content["per"]),
                scores=scores[order],
                sizes=sizes[order],
                frame_atoms=int(content["frame_atoms"]),
                how=str(content["how"]),
            )
        except FileFormatError:
            raise
        except UnicodeDecodeError:
            raise FileFormatError(f"{path}: not a calibration file of quests_md: it is binary") from None
        except (ValueError, KeyError, TypeError, OverflowError) as exc:
            raise FileFormatError(f"{path}: not a calibration file of quests_md, or torn: {exc!r}") from exc

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
    groups: str | Sequence[Any] | None = None,
    frames: Any = None,
    rng: int | np.random.Generator = 0,
    threads: int | None = None,
) -> Calibration:
    """Find the level of dH that frames like the reference's exceed at a stated rate.

    Each group of frames is scored once: the largest dH of its atoms against the reference without the group's own
    rows. Adding rows lowers dH, so these scores bound from above what the full reference gives for a new group, and
    a rank among them bounds the rate of false alarms if groups are exchangeable.

    Parameters
    ----------
    reference
        The reference.
    false_alarms
        Asked rate of checks (nanoseconds, runs) of an in-distribution run with any atom above its level.
    per
        What the rate counts. "ns" and "run" need the number of checks in one, see `Calibration.levels`.
    groups
        None: the groups of the reference (with `frames`: blocks of two correlation times). "frame", "file", or one
        label per frame.
    frames
        Frames or files that are in distribution and not in the reference: scored against the whole reference.
    rng
        Seed or generator: chooses whole groups where the reference has more than 20 000 rows.
    threads
        Threads to use; never changes the result.

    Raises
    ------
    ValueError
        If `false_alarms` is outside (0, 1), or `per` or `groups` is not usable.
    """
    rate = _checked_rate(false_alarms)
    per = _checked_per(per)
    if frames is not None:
        apart = Reference.from_frames(
            frames,
            descriptor=reference.descriptor,
            bandwidth=reference.bandwidth,
            match=reference.match,  # type: ignore[arg-type]  # checked when the reference was made
            groups=groups,
            threads=threads,
        )
        values = reference.delta_entropy(apart.rows, numbers=apart.numbers, float64=True, threads=threads)
        row_groups, row_frames, natoms = apart.row_groups, apart.array("atom_frame"), _environments_per_frame(apart)
        how = f"{apart.n_frames} separate frames scored against the whole reference; {apart.provenance['groups']}"
    else:
        frame_groups, rule = _frame_groups(reference, groups)
        rows, values = reference.held_out_scores(None if groups is None else frame_groups, rng, threads=threads)
        row_frames, natoms = reference.array("atom_frame")[rows], _environments_per_frame(reference)
        row_groups = frame_groups[row_frames]
        how = f"{len(rows)} held-out environments, leaving one group out at a time; groups: {rule}"
    finite = np.isfinite(values)  # an element that only one group has cannot be held out
    if not finite.all():
        how += f"; {int((~finite).sum())} environments of elements without a counterpart left out"
    scores = _group_maxima(values[finite], row_groups[finite])
    sizes = _group_maxima(natoms[row_frames[finite]], row_groups[finite])
    if len(scores) < 2:
        warnings.warn(
            f"{_many_groups(len(scores))} of frames could be held out: the level is a guess and promises nothing; "
            "add independent frames to the reference, or give frames= to calibrate",
            stacklevel=2,
        )
    order = np.argsort(scores, kind="stable")
    used = natoms[np.unique(row_frames)]
    return Calibration(
        fingerprint=reference.fingerprint,
        false_alarms=rate,
        per=per,
        scores=scores[order],
        sizes=sizes[order].astype(np.int64),
        frame_atoms=int(np.median(used)) if len(used) else 0,
        how=how,
    )


def _many_groups(n: int) -> str:
    return f"{n or 'no'} group{'' if n == 1 else 's'}"


def _environments_per_frame(reference: Reference) -> NDArray[np.int64]:
    """Atoms with a row in each frame: all of them, unless the descriptor restricts the centers."""
    return np.bincount(reference.array("atom_frame"), minlength=reference.n_frames)


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


def _group_maxima(values: NDArray[np.float64] | NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    _, where = np.unique(groups, return_inverse=True)
    maxima = np.full(int(where.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(maxima, where, values)
    return maxima


def _checked_rate(rate: float) -> float:
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.floating) or not 0 < rate < 1:
        raise ValueError(f"false_alarms: expected a rate between 0 and 1, got {rate!r}")
    return float(rate)


def _checked_per(per: str) -> Per:
    if per not in ("check", "ns", "run"):
        raise ValueError(f"per: expected 'check', 'ns' or 'run', got {per!r}")
    return per  # type: ignore[return-value]  # one of the three
