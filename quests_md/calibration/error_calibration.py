"""Levels from labels: dH above which the forces of a model err by more than a tolerance."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from quests_md._arguments import check_positive, check_share
from quests_md._words import LONGEST_LINE, many, one_line
from quests_md.errors import MismatchError
from quests_md.io import Frame, iter_frames
from quests_md.reference import (
    GivenReference,
    Reference,
    built_like,
    frames_also_in,
    opened_reference,
    whole_groups,
)

from .calibration import WITH_LABELS, Calibration, TypicalFrame, check_checks
from .labels import FEWEST_GROUPS, ErrorLevel, ErrorLevels, ExpectedErrors, Labels, check_of_errors, percent
from .levels import Level, Mode
from .null_scores import separate_frames
from .origin import Origin
from .statistics import STATISTICS
from .wording import many_groups

__all__ = ["ErrorCalibration", "calibrate_errors"]

#: Most environments whose labels are kept.
MOST_ENVIRONMENTS = 100_000

#: Rate of false alarms of labelled phases, where there are any: that of `calibrate`.
FALSE_ALARMS = 1e-2

#: What ASE's readers call forces; they put them into a calculator and not into an array.
CALCULATED = ("forces", "force")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ErrorCalibration(Calibration):
    """Levels of dH for force errors, made by `calibrate_errors` or `Calibration.load`; it stands where any other does.

    `false_alarms` is the rate of labelled phases alone: levels from labels promise few missed errors, and nothing of
    false alarms.
    """

    tolerance: float
    """Force error that is still good, in the unit of the labels, eV/Å say."""
    share: float
    """Share of environments that may err by more without being above the level."""
    labels: Labels = field(repr=False)
    """The errors that the levels come from."""

    def with_statistics(self, statistics: Sequence[str]) -> Self:
        """The same calibration with other statistics in use, "dh_max" (environments) or "dh_mean" (frames)."""
        return Calibration.with_statistics(self, check_of_errors(statistics))

    def carried_to(self, reference: GivenReference, *, threads: int | None = None) -> Self:
        """The same calibration for its own reference; MismatchError for any other.

        In a reference with more frames dH falls, so that environments that err would fall below the level.
        """
        reference = opened_reference(reference)
        if self.fingerprint != reference.fingerprint:
            raise MismatchError(
                f"calibration: levels from labels are for reference {self.fingerprint} alone and cannot be carried to "
                f"reference {reference.fingerprint}; make them again: calibrate_errors with the new reference"
            )
        return self

    @property
    def error_levels(self) -> ErrorLevels:
        """The levels, with what is known of each."""
        return self.labels.levels(self.tolerance, self.share)

    def frame_levels(
        self, numbers: ArrayLike, checks: int | None = None, *, check_ps: float | None = None, mode: Mode = "full"
    ) -> tuple[Level, ...]:
        """The levels for frames of these atoms, of each element; of their mean dH as well, where that is in use.

        Parameters are those of `Calibration.frame_levels`; neither size nor number of checks changes the levels.
        """
        check_checks(checks)
        found, levels = [], self.error_levels
        for z in np.unique(np.asarray(numbers)).tolist():
            if 0 <= z < len(chemical_symbols):
                found.append(_as_level("dh_max", chemical_symbols[z], levels.elements.get(z)))
        if not found:
            found.append(_as_level("dh_max", None, None))
        if "dh_mean" in self.statistics:
            found.append(_as_level("dh_mean", None, levels.frames[mode]))
        return tuple(found)

    def expected_error(
        self,
        reference: Reference,
        atoms_or_rows: Atoms | ArrayLike,
        *,
        numbers: ArrayLike | None = None,
        coverage: float = 0.8,
        threads: int | None = None,
    ) -> ExpectedErrors:
        """The force error to be expected of each environment, with an interval, from the labels; see `Labels.expected`.

        Parameters
        ----------
        reference
            The reference of this calibration.
        atoms_or_rows, numbers, threads
            As in `Reference.delta_entropy`.
        coverage
            Chance that the error of an environment is inside the interval, at least: of new groups of frames like the
            labelled ones.

        Returns
        -------
        expected
            Errors and ends of intervals, (n,) each, in the unit of the labels. NaN beyond the labels: dH that fewer
            than three groups of labelled frames reach, and elements without labels.

        Raises
        ------
        MismatchError
            If the calibration belongs to another reference.
        ValueError, FrameError
            If `coverage` is outside (0, 1); else as in `Reference.delta_entropy`.
        """
        self.require(reference)
        check_share("coverage", coverage, "share between 0 and 1")
        dh = reference.delta_entropy(atoms_or_rows, numbers=numbers, threads=threads)
        if isinstance(atoms_or_rows, Atoms):
            z = np.asarray(atoms_or_rows.numbers)
        elif numbers is not None:
            z = np.asarray(numbers)
        elif len(present := np.unique(self.labels.numbers)) == 1:
            z = np.full(len(dh), present[0])
        else:
            raise ValueError("numbers: expected the atomic number of each row, since labels are of several elements")
        return self.labels.expected(z, dh, coverage)

    def describe(
        self,
        atoms: int | ArrayLike | None = None,
        checks: int | None = None,
        *,
        check_ps: float | None = None,
        mode: Mode = "full",
    ) -> str:
        """What the levels are, how they were set, and what they promise and do not, in a few lines.

        Parameters are those of `Calibration.describe`; elements that are not in `atoms` are left out.
        """
        elements, frames = self.error_levels
        if atoms is not None and np.ndim(atoms) > 0:
            present = np.unique(np.asarray(atoms)).tolist()
        else:
            present = list(elements)
        lines = [
            f"promise: of the environments of new frames like the labelled ones at most {percent(self.share)} err by "
            f"more than {self.tolerance:g} and are not above the level; on average over groups of frames, each element "
            "for itself"
        ]
        of = [("dh_max", z, elements.get(z)) for z in present] if "dh_max" in self.statistics else []
        if "dh_mean" in self.statistics:
            lines[0] += "; of frames, by their RMS error, likewise"
            of.append(("dh_mean", 0, frames[mode]))
        if not all(level is not None and level.kind == "conformal" for _, _, level in of):
            lines[0] += "; for levels without enough groups there is no promise"
        lines += [f"  {_level_line(name, z, level)}" for name, z, level in of]
        lines += [
            f"from {one_line(self.how, LONGEST_LINE)}",
            "valid for this model, and for new groups of frames like these",
        ]
        return "\n".join(lines)


WITH_LABELS["labels"] = ErrorCalibration


def calibrate_errors(
    reference: GivenReference,
    frames: Any,
    tolerance: float = 0.1,
    *,
    share: float = 0.05,
    true: str = "forces",
    model: str = "model_forces",
    statistics: Sequence[str] = ("dh_max",),
    groups: str | Sequence[Any] | None = None,
    rng: int | np.random.Generator = 0,
    threads: int | None = None,
) -> ErrorCalibration:
    """Find the level of dH above which the forces of a model have to be doubted, from frames with both forces.

    The error of an environment is the size of the difference of the two forces on its atom. The level of an element is
    the largest at which, of the environments of new frames like these, at most a `share` errs by more than the
    tolerance and lies at or below the level (conformal risk control, see `error_level`). It is a promise about missed
    errors, not about false alarms. Where the labels do not tell the level, it is unknown, and only what lies beyond
    the labels is out.

    Parameters
    ----------
    reference
        The reference, usually the training set of the model, or the name of its file.
    frames
        Frames or files that are not in the reference (recognised as in `calibrate`), as `Reference.from_frames` takes
        them; they are read twice.
    tolerance
        Largest error of a force that is still good, in the unit of the forces.
    share
        Share of environments that may be missed, above 0 and below 1; 1 / share - 1 groups are needed.
    true, model
        Names of the arrays of `atoms.arrays` with the two forces; "forces" may be those that a calculator holds.
    statistics
        "dh_max": a frame is out where an environment is above the level of its element. "dh_mean": where its mean dH is
        above the level for the RMS error of frames. Both may be in use.
    groups
        Which frames count as independent: as in `Reference.from_frames`.
    rng
        Seed or generator: chooses whole groups where there are more than 100 000 environments.
    threads
        Threads to use; never changes the result.

    Raises
    ------
    ValueError
        If an argument is not usable, frames lack an array, frames are in the reference, or there are fewer than three
        groups of frames whose elements the reference has.
    FrameError, FileFormatError, FileNotFoundError
        As `Reference.from_frames`.

    References
    ----------
    A. N. Angelopoulos, S. Bates, A. Fisch, L. Lei, T. Schuster, Conformal risk control, arXiv:2208.02814;
    A. N. Angelopoulos, S. Bates, A gentle introduction to conformal prediction, arXiv:2107.07511.
    """
    reference = opened_reference(reference)
    tolerance = check_positive("tolerance", tolerance, "force error, in eV/Å say")
    share = check_share("share", share, "share between 0 and 1")
    statistics = check_of_errors(statistics)
    if true == model:
        raise ValueError(f"true, model: expected the names of two arrays, got {true!r} twice")
    if isinstance(frames, Iterator):
        frames = list(frames)
    errors = {(frame.source, frame.index): _errors_of(frame, true, model) for frame in iter_frames(frames)}
    apart = built_like(reference, frames, groups=groups, threads=threads)
    _require_apart(reference, apart)
    labels, numbers_of_frames = _labels(reference, apart, errors, rng, threads)
    composition = np.unique(np.concatenate(numbers_of_frames), return_counts=True)
    how = (
        f"{many(len(labels.groups), 'labelled frame')}, |{model} - {true}| of {many(len(labels.dh), 'environment')}; "
        f"{apart.provenance['groups']}"
    )
    found = ErrorCalibration(
        fingerprint=reference.fingerprint,
        false_alarms=FALSE_ALARMS,
        per="check",
        statistics=statistics,
        nulls=(),
        atom_levels={},
        typical=TypicalFrame(
            int(np.median([len(z) for z in numbers_of_frames])),
            {int(z): int(n) for z, n in zip(*composition, strict=True)},
        ),
        n_groups=labels.n_groups,
        origin=Origin(how, reference.fingerprint, is_separate=True),
        tolerance=tolerance,
        share=share,
        labels=labels,
    )
    unknown = [(chemical_symbols[z], level) for z, level in found.error_levels.elements.items() if level.value is None]
    if unknown:
        which = "; ".join(f"{symbol}: {level.reason}" for symbol, level in unknown)
        warnings.warn(f"the level is unknown for some elements, {which}", stacklevel=2)
    return found


def _errors_of(frame: Frame, true: str, model: str) -> NDArray[np.float64]:
    """(n_atoms,) size of the difference of the two forces on each atom."""
    forces = [_forces(frame, name, argument) for argument, name in (("true", true), ("model", model))]
    return np.asarray(np.linalg.norm(forces[1] - forces[0], axis=1))


def _forces(frame: Frame, name: str, argument: str) -> NDArray[np.float64]:
    """(n_atoms, 3) an array of a frame; of a calculator only what it holds for exactly this frame."""
    atoms, place = frame.atoms, f"frames: {frame.source}, frame {frame.index}"
    held = _held_by_calculator(atoms)
    values = atoms.arrays.get(name, held if name in CALCULATED else None)
    if values is None:
        names = [*(key for key in atoms.arrays if key not in ("numbers", "positions"))]
        names += ["forces"] if held is not None and "forces" not in names else []
        raise ValueError(
            f"{place}: expected an array {name!r} with forces, got {', '.join(names) or 'no further array'}; name it "
            f"with {argument}="
        )
    array = np.asarray(values)
    if array.shape != (len(atoms), 3) or array.dtype.kind not in "fiu":
        raise ValueError(
            f"{place}: {name}: expected forces ({len(atoms)}, 3), got shape {array.shape} of {array.dtype}"
        )
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(
            f"{place}: {name}: expected finite forces, got {array[bad]} on atom {bad}; leave the frame out"
        )
    return array.astype(np.float64)


def _held_by_calculator(atoms: Atoms) -> Any:
    """Forces that a calculator has computed for exactly this frame; None: it has none. Nothing is computed."""
    results = getattr(atoms.calc, "results", None)
    try:
        if not isinstance(results, dict) or atoms.calc.calculation_required(atoms, ["forces"]):
            return None
    except Exception:  # a foreign calculator may raise anything
        return None
    return results.get("forces")


def _require_apart(reference: Reference, apart: Reference) -> None:
    """ValueError if frames are in the reference: a model knows the frames that it was made from."""
    found = np.flatnonzero(frames_also_in(apart, reference))
    if len(found):
        at = found[0]
        place = f"{apart.sources[apart.arrays.frame_source[at]]}, frame {apart.arrays.frame_index[at]}"
        raise ValueError(
            f"frames: {len(found)} of {apart.n_frames} are in the reference, the first is {place}; the error of a "
            "model on what it was trained on says nothing of new frames: give frames that were kept apart"
        )


def _labels(
    reference: Reference,
    apart: Reference,
    errors: dict[tuple[str, int], NDArray[np.float64]],
    rng: int | np.random.Generator,
    threads: int | None,
) -> tuple[Labels, list[NDArray[np.int64]]]:
    """Errors and dH of frames whose elements the reference has, and the atomic numbers of each of these frames."""
    held_out = separate_frames(reference, apart, threads)
    arrays, of_mean = apart.arrays, STATISTICS["dh_mean"].of
    order = arrays.frame_order
    atoms_of = np.split(arrays.atom_index[order], np.cumsum(np.bincount(arrays.atom_frame[order]))[:-1])
    frames = [i for i, frame in enumerate(held_out.full) if np.isfinite(frame.dh).all()]
    n_groups = len(np.unique(held_out.groups[frames]))
    if n_groups < FEWEST_GROUPS:
        left_out = len(held_out.full) - len(frames)
        raise ValueError(
            f"frames: expected at least {FEWEST_GROUPS} groups of frames, got {n_groups}"
            + (f"; {left_out} have elements that the reference has not" if left_out else "")
            + "; give more independent frames"
        )
    sizes = np.array([len(held_out.full[i].dh) for i in frames])
    chosen = whole_groups(held_out.groups[frames], MOST_ENVIRONMENTS, np.random.default_rng(rng), sizes)
    kept = [frames[k] for k in chosen]
    full = [held_out.full[i] for i in kept]
    numbers = [np.asarray(frame.atoms.numbers, dtype=np.int64) for frame in full]
    names = [apart.sources[i] for i in arrays.frame_source]
    labels = Labels(
        numbers=np.concatenate(numbers),
        dh=np.concatenate([frame.dh for frame in full]),
        errors=np.concatenate([errors[names[i], int(arrays.frame_index[i])][atoms_of[i]] for i in kept]),
        frames=np.repeat(np.arange(len(kept)), [len(z) for z in numbers]),
        groups=np.asarray(held_out.groups[kept], dtype=np.int64),
        means=np.array([of_mean(frame) for frame in full], dtype=np.float64),
        sampled_means=np.array([of_mean(held_out.proven[i]) for i in kept], dtype=np.float64),
    )
    return labels, numbers


def _as_level(statistic: str, element: str | None, level: ErrorLevel | None) -> Level:
    """The level as a check needs it; an element without labels is out wherever it is."""
    if level is None:
        return Level(statistic, element, "above", -math.inf, "none", 1.0, 1, 0, -math.inf)
    return Level(statistic, element, "above", level.limit, level.kind, 1.0, 1, level.n_groups, level.middle)


def _level_line(name: str, z: int, level: ErrorLevel | None) -> str:
    """One level in a line."""
    of = f"{name} of {chemical_symbols[z]}" if z else name
    if level is None:
        return f"{of}: unknown, no labels: always out"
    if level.value is None:
        text = f"{of}: level unknown: {level.reason}; "
        if level.limit == -math.inf:
            return f"{text}always out"
        return f"{text}out is what lies beyond the labels, above {level.end:.2f} nats"
    text = f"{of} <= {level.value:.2f} nats: conformal, {many_groups(level.n_groups)}"
    if level.out_of_sample is not None:
        missed, above, right = level.out_of_sample
        text += f"; in groups that did not set it {percent(missed)} err by more and are not above, {percent(above)} are"
        text += f" above, {percent(right)} of which err by more" if above > 0 else " above"
    return f"{text}; errors are unknown above {level.end:.2f} nats"
